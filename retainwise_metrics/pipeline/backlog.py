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

if TYPE_CHECKING:
    from .aggregation import Distribution

Key = tuple[int, Series]


class _Lane:
    """
    One namespace: datums already cut, then entries still whole.
    """

    __slots__ = ("cut", "whole")

    def __init__(self) -> None:
        self.cut: deque[Datum] = deque()
        self.whole: OrderedDict[Key, Distribution] = OrderedDict()

    def oldest(self) -> int:
        """
        Start of the oldest window that waits here.
        """
        if self.cut:
            return self.cut[0].timestamp
        return next(iter(self.whole))[0]


class Backlog:
    """
    Sealed windows in order of age, cut into datums only when they are about to be sent.

    Args:
        max_datums: How many datums are held before the oldest are dropped.
    """

    def __init__(self, max_datums: int) -> None:
        self._max_datums = max_datums
        self._lanes: dict[str, _Lane] = {}
        self.datums = 0
        """Datums held (entries still whole are counted as the datums they will become)."""
        self.measurements = 0
        """Measurements held."""

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._lanes)

    def add(self, window: int, series: Series, distribution: Distribution) -> None:
        """
        Hold one sealed window of one series.
        """
        lane = self._lanes.setdefault(series.namespace, _Lane())
        held = lane.whole.get((window, series))
        self.measurements += distribution.measurements
        if held is None:
            lane.whole[window, series] = distribution
            self.datums += distribution.datums()
        else:
            before = held.datums()
            held.merge(distribution)
            self.datums += held.datums() - before

    def overflow(self) -> int:
        """
        Drop the oldest until the bound is kept.

        Returns:
            How many measurements were dropped.
        """
        dropped = 0
        while self.datums > self._max_datums:
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
        return min(self._lanes, key=lambda namespace: self._lanes[namespace].oldest())

    def oldest(self) -> int:
        """
        Start of the oldest window that waits, epoch seconds. Only valid when something waits.
        """
        return min(lane.oldest() for lane in self._lanes.values())

    def peek(self, namespace: str) -> Datum | None:
        """
        The next datum of a namespace, or None when it has no more.
        """
        lane = self._lanes.get(namespace)
        if lane is None:
            return None
        if not lane.cut:
            self._cut(lane)
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

    def _cut(self, lane: _Lane) -> None:
        (window, series), distribution = lane.whole.popitem(last=False)
        self.datums -= distribution.datums()
        items = distribution.items()
        for start in range(0, len(items), limits.VALUES_PER_DATUM):
            values, counts = zip(*items[start : start + limits.VALUES_PER_DATUM], strict=True)
            lane.cut.append(Datum(series, window, values, counts, sum(counts)))
            self.datums += 1

    def _drop(self, namespace: str) -> int:
        lane = self._lanes[namespace]
        if lane.cut:
            return self.take(namespace).measurements
        _, distribution = lane.whole.popitem(last=False)
        self.datums -= distribution.datums()
        self.measurements -= distribution.measurements
        self._forget_if_empty(namespace)
        return distribution.measurements

    def _forget_if_empty(self, namespace: str) -> None:
        lane = self._lanes[namespace]
        if not lane.cut and not lane.whole:
            del self._lanes[namespace]
