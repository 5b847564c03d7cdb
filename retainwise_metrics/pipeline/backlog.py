"""
What waits to be sent: bounded, compressed, oldest first.

Rules
1. A series and window occupy one entry however often they are sealed: entries merge until their first datum is taken.
2. Full means the oldest goes, and is counted by whoever asked: recent data is what alarms look at.
3. Timestamps are never touched: what was recorded at 12:03 is delivered as 12:03, however late.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from retainwise_metrics import limits
from retainwise_metrics.datum import Datum, Series

from .aggregation import datums_of, items_of, measurements_of, merged

if TYPE_CHECKING:
    from collections.abc import Callable

    from .aggregation import Distribution

SPARES = 2
"""
Emptied windows that are used again: a flush usually holds two. The garbage collector goes through a new container several times until it
counts as old; with 10,000 entries that takes a millisecond each time.
"""


class _Lane:
    """
    One namespace: datums already cut, then windows still whole, the oldest first.

    What is raised in the flusher's thread from outside may come after any call. No window without entries is ever in `whole`, so that it
    leaves nothing behind on which delivery would fail from then on.
    """

    __slots__ = ("_in_order", "_spare", "cut", "whole")

    def __init__(self, spare: list[OrderedDict[Series, Distribution]]) -> None:
        self._spare = spare
        self._in_order = True
        self.cut: deque[Datum] = deque()
        self.whole: OrderedDict[int, OrderedDict[Series, Distribution]] = OrderedDict()
        """By window. With one key for both there would be a tuple for each entry, and the garbage collector would look at every one."""

    def __bool__(self) -> bool:
        """Whether anything waits here."""
        return bool(self.cut or self.whole)

    def held(self, window: int, series: Series) -> Distribution | None:
        """
        What waits of one series and window, still whole.
        """
        entries = self.whole.get(window)
        return None if entries is None else entries.get(series)

    def hold(self, window: int, series: Series, distribution: Distribution) -> None:
        """
        Hold this instead of what `held` showed.
        """
        entries = self.whole.get(window)
        if entries is not None:
            entries[series] = distribution
            return
        entries = self._spare.pop() if self._spare else OrderedDict()
        entries[series] = distribution
        if self.whole and window < next(reversed(self.whole)):
            self._in_order = False
        self.whole[window] = entries

    def oldest(self) -> int:
        """
        Start of the oldest window that waits here.
        """
        return self.cut[0].timestamp if self.cut else self._oldest_whole()

    def first(self) -> tuple[int, Series, Distribution]:
        """
        The first entry still whole, of the oldest window.
        """
        window = self._oldest_whole()
        series, distribution = next(iter(self.whole[window].items()))
        return window, series, distribution

    def remove_first(self) -> None:
        """
        Remove what `first` showed.
        """
        window = self._oldest_whole()
        entries = self.whole[window]
        if len(entries) > 1:
            entries.popitem(last=False)
            return
        del self.whole[window]
        entries.clear()
        if len(self._spare) < SPARES:
            self._spare.append(entries)

    def _oldest_whole(self) -> int:
        if not self._in_order:
            for window in sorted(self.whole):
                self.whole.move_to_end(window)
            self._in_order = True
        return next(iter(self.whole))


class Backlog:
    """
    Sealed windows in order of age, cut into datums only when they are about to be sent.

    Args:
        max_datums: How many datums are held before the oldest are dropped.
        max_distinct: How many distinct values a series and window keeps exactly when parts of it merge.
    """

    def __init__(self, max_datums: int, max_distinct: int) -> None:
        self._max_datums = max_datums
        self._max_distinct = max_distinct
        self._lanes: dict[str, _Lane] = {}
        self._spare: list[OrderedDict[Series, Distribution]] = []
        self.datums = 0
        """Datums held (entries still whole are counted as the datums they will become)."""
        self.measurements = 0
        """Measurements held."""

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return any(self._lanes.values())

    def add(self, window: int, series: Series, distribution: Distribution) -> int:
        """
        Hold one sealed window of one series.

        Returns:
            How many measurements that are.
        """
        lane = self._lanes.get(series.namespace) or _Lane(self._spare)
        held = lane.held(window, series)
        before = 0 if held is None else datums_of(held)
        measurements = measurements_of(distribution)
        together = distribution if held is None else merged(held, distribution, self._max_distinct)
        lane.hold(window, series, together)
        self._lanes[series.namespace] = lane
        self.measurements += measurements
        self.datums += datums_of(together) - before
        return measurements

    def overflow(self) -> int:
        """
        Drop the oldest until the bound is kept.

        Returns:
            How many measurements were dropped.
        """
        dropped = 0
        while self.datums > self._max_datums and self:
            dropped += self._drop(self.next_namespace())
        return dropped

    def drop_all(self) -> int:
        """
        Drop everything; returns how many measurements that were.
        """
        dropped, self.measurements, self.datums = self.measurements, 0, 0
        self._lanes.clear()
        return dropped

    def next_namespace(self) -> str:
        """
        The namespace whose oldest window is the oldest of all. Only valid when something waits.
        """
        waiting = [namespace for namespace, lane in self._lanes.items() if lane]
        return min(waiting, key=lambda namespace: self._lanes[namespace].oldest())

    def oldest(self) -> int:
        """
        Start of the oldest window that waits, epoch seconds. Only valid when something waits.
        """
        return min(lane.oldest() for lane in self._lanes.values() if lane)

    def peek(self, namespace: str, pause: Callable[[], None] = lambda: None) -> Datum | None:
        """
        The next datum of a namespace, or None when it has no more.

        Args:
            namespace: Which one.
            pause: Lets other threads run; called while a large distribution is cut into datums. They must not change the backlog.
        """
        lane = self._lanes.get(namespace)
        if not lane:
            return None
        if not lane.cut:
            self._cut(lane, pause)
        return lane.cut[0]

    def take(self, namespace: str) -> Datum:
        """
        Remove and return what `peek` showed.
        """
        lane = self._lanes[namespace]
        datum = lane.cut.popleft()
        self.datums -= 1
        self.measurements -= datum.measurements
        self._forget_if_empty(namespace)
        return datum

    def _cut(self, lane: _Lane, pause: Callable[[], None]) -> None:
        window, series, distribution = lane.first()
        items = items_of(distribution, pause)
        datums = []
        for start in range(0, len(items), limits.VALUES_PER_DATUM):
            values, counts = zip(*items[start : start + limits.VALUES_PER_DATUM], strict=True)
            datums.append(Datum(series, window, values, counts, sum(counts)))
        lane.remove_first()
        lane.cut.extend(datums)
        self.datums += len(datums) - datums_of(distribution)

    def _drop(self, namespace: str) -> int:
        lane = self._lanes[namespace]
        if lane.cut:
            return self.take(namespace).measurements
        _, _, distribution = lane.first()
        lane.remove_first()
        measurements = measurements_of(distribution)
        self.datums -= datums_of(distribution)
        self.measurements -= measurements
        self._forget_if_empty(namespace)
        return measurements

    def _forget_if_empty(self, namespace: str) -> None:
        if not self._lanes[namespace]:
            del self._lanes[namespace]
