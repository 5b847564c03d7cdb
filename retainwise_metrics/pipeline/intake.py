"""
Where callers put values, and where the flusher takes them.

Rules
1. A caller never waits. It appends to a list or a deque (atomic), and folds only if it gets the lock at the first try.
2. The flusher is the only one that waits for the lock, and it holds it for one small fold or one swap at a time.
3. Nothing that could re-enter runs under the lock: no I/O, no logging, no user code. A finaliser or a signal handler that records
   while its own thread is folding finds the lock taken and appends.
4. Lists are bounded. At `FOLD_AT` values a caller folds, unless somebody else does: then it appends, and who comes next folds more the
   longer the list has become. At `FULL_AT`, with somebody else still folding, the value is dropped and counted.
5. The fast path (in `client.put_metric` and in the bound handles) only appends to a list that is *not empty*. Whatever must be decided
   per value - is it a new minute? is the client stopped? is the flusher asleep? - is decided by the slow path here, for the first value
   after each fold. Emptying the lists is therefore how the flusher makes every caller look again.
6. All values of a list belong to one minute. Whoever takes the slow path in a new minute turns the list over: it folds what is there, and
   what is appended afterwards belongs to the new minute. So does the flusher at each full minute. The error is the lateness of that
   wake-up, or the time that somebody else's fold takes. Explicit timestamps and one-second series carry their own window through the inbox.
"""

from __future__ import annotations

import threading
from collections import deque
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from retainwise_metrics.datum import Counted
from retainwise_metrics.runtime import AT_ONCE
from retainwise_metrics.stats import DropReason

from .aggregation import Windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from retainwise_metrics.datum import Series
    from retainwise_metrics.dimensions.cardinality import CardinalityGuard, Offender

FOLD_AT = 4096
"""Unfolded values of one series at which a caller folds them: about 0.3 ms of work."""

FOLD_AT_THE_LATEST = 524_288
"""
Unfolded values of all series together, about, up to which the fast path goes on appending while somebody folds. The rest is left to the
slow path, which counts what does not fit.
"""

SHARE = 8
"""A caller that finds a list longer than `FOLD_AT` folds an eighth of it, so that many threads cannot outrun those who fold."""

FULL_AT = 1_048_576
"""
Unfolded values of one series beyond which values are dropped: 8 MB of references.

A thread that holds the lock may lose the interpreter in the middle of a fold, and with eight threads in a tight loop gets it back 40 ms
later; 65,536 was not enough for that (measured), a million is more than can be recorded in a quarter of a second.
"""

INBOX_FULL_AT = 65_536
"""Entries of the inbox beyond which values are dropped."""

COUNTED_FULL_AT = 1024
"""Entries of the inbox beyond which no more are taken that hold many values each."""

COUNTED_PER_STEP = 16
"""Values of such an entry that cost as much as an entry with one value: finding its place is most of the work there."""

CROWDED_AT = 4096
"""Entries of the inbox from which on values of this minute stay out of it, if there is any other way."""

LOOKUP_SIZE = 4096
"""Most metrics remembered; a full table starts over."""

COMBINATIONS = 32_768
"""
Most combinations of dimension values remembered, over all metrics; or two for each series with a place, if that is more. Beyond, the metric
with the most of them starts over.

Each is 100 to 300 bytes. A service with 10,000 users in a dimension finds every one of them, at two dict lookups; 4,096 were not enough for
that: then every record hashes the user again, at twenty times the price (measured).
"""

DRAIN = 64
"""Most inbox entries a caller folds on the way: it pays for its own and helps out, but does not work off a backlog."""

INBOX_STEP = 128
"""Inbox entries the flusher folds at a time; each may cost a look at the cardinality guard."""

READERS_WAIT_SECONDS = 0.05
"""How long `stats()` waits for a fold under way."""

RETIRED_ROTATIONS = 3
"""Rotations for which a channel whose series lost their place is still looked after."""


class Destination(NamedTuple):
    """
    Where one kind of record goes: the same metric under each of its dimension sets.

    Attributes:
        series: One per dimension set, dimensions sanitised.
        private: Whether any raw dimension value was personal.
    """

    series: tuple[Series, ...]
    private: bool


class Channel:
    """
    The unfolded values of one destination, after the cardinality guard has had its say.
    """

    __slots__ = ("minute", "pending", "retired", "series")

    def __init__(self, series: tuple[Series, ...]) -> None:
        self.series = series
        self.pending: list[float] = []
        self.minute = 0
        """Start of the minute that all of `pending` belongs to; it changes under the lock, when all that was there has been folded."""
        self.retired = False
        """Its series lost their place: whoever still holds on to it has to ask for a new one."""


class Schema:
    """
    How one metric is used: with which dimension names, and where each known combination of values goes.

    The caller's dict becomes a key without sorting: `key_of` picks the values in a fixed order. When the dimensions are personal, the key
    is only the hash of the values, so that no raw identifier is kept.
    """

    __slots__ = ("channels", "key_of", "names", "namespace", "private", "resolution", "series", "size", "unit", "use")

    def __init__(self, series: Series, use: tuple[object, ...], names: tuple[str, ...], *, private: bool) -> None:
        self.series = series
        """What is measured, checked, without dimensions."""
        self.use = use
        """By what it is found again: everything the caller gave but the values, as plain objects."""
        self.unit: object = None
        self.namespace: object = None
        self.resolution: object = None
        """The very objects that a caller gave last: the fast path compares by identity."""
        self.names = names
        self.size = len(names)
        self.channels: dict[object, Channel] = {}
        self.private = False
        self.key_of: Callable[[Any], object] = itemgetter(*names) if names else _nothing
        if private:
            self.make_private()

    def make_private(self) -> None:
        """
        From now on remember hashes instead of values, and forget the values remembered so far.
        """
        if self.private or not self.names:
            return
        values_of = itemgetter(*self.names)
        # In this order, without a lock: whoever sees the new table sees the new key too, so no raw value can get into it. Whoever sees
        # only the new key misses, and takes the slow path.
        self.key_of = lambda dimensions: hash(values_of(dimensions))
        self.channels = {}
        self.private = True

    def known(self, dimensions: dict[str, object]) -> Channel | None:
        """
        The channel of a combination that is remembered and still has its place.
        """
        try:
            channel = self.channels[self.key_of(dimensions)]
        except Exception:  # noqa: BLE001 - besides KeyError: dimension values are any objects, and may not have a hash
            return None
        return None if channel.retired else channel

    def remember(self, dimensions: dict[str, object], channel: Channel) -> int:
        """
        Let the fast path find this combination, if its values are all plain strings (1, 1.0 and True would share a place).

        Returns:
            How many combinations more than before are remembered.
        """
        if not all(type(value) is str for value in dimensions.values()):
            return 0
        before = len(self.channels)
        self.channels[self.key_of(dimensions)] = channel
        return len(self.channels) - before


class _Load(NamedTuple):
    """
    Values on their way into windows.

    Attributes:
        series: Where each of them goes.
        window: Start of their window, epoch seconds.
        values: At least one.
    """

    series: tuple[Series, ...]
    window: int
    values: list[float] | Counted

    def measurements(self) -> int:
        """
        How many measurements they are, per series.
        """
        return self.values.total if isinstance(self.values, Counted) else len(self.values)


_Entry = tuple[Channel | Destination, int, float | Counted]
"""Of the inbox: where to, start of the window, and what."""


_NONE: Mapping[DropReason, int] = {}


def _nothing(_: object) -> object:
    """The key of no dimensions."""
    return None


def _weight(value: float | Counted) -> int:
    """How many measurements one entry is, per series."""
    return value.total if isinstance(value, Counted) else 1


def _cost(value: float | Counted) -> int:
    """What folding an entry costs, in entries with one value."""
    return 1 + len(value.counts) // COUNTED_PER_STEP if isinstance(value, Counted) else 1


def _sums(counts: Iterable[tuple[DropReason, int]]) -> dict[DropReason, int]:
    totals: dict[DropReason, int] = {}
    for reason, count in counts:
        totals[reason] = totals.get(reason, 0) + count
    return totals


class IntakeCounts(NamedTuple):
    """
    Cumulative counts, published together.

    Attributes:
        folded: Measurements folded into windows.
        taken: Measurements handed to the flusher.
        refused: Measurements refused, by reason.
    """

    folded: int
    taken: int
    refused: dict[DropReason, int]


class Intake:
    """
    The front of the pipeline.

    Args:
        wall: Reads the wall clock, epoch seconds.
        make_guard: Makes what decides which series get a place of their own.
        max_distinct: How many distinct values a window keeps exactly.
        max_channels: Bound on what the guard cannot bound: it folds dimension values, but a made-up metric name stays a name.
        max_windows: Bound on the series and minutes held when nobody takes them: a call hangs for hours, a host without threads never asks.
        wake: Called (from any thread, any number of times) when the flusher sleeps and there is something to do.
        latecomers: Called when a value was taken after the flusher had looked here for the last time.
    """

    def __init__(
        self,
        wall: Callable[[], float],
        make_guard: Callable[[], CardinalityGuard],
        max_distinct: int,
        max_channels: int,
        max_windows: int,
        wake: Callable[[], None],
        latecomers: Callable[[], None],
    ) -> None:
        self._max_windows = max_windows
        self._max_channels = max_channels
        self._wall = wall
        self._make_guard = make_guard
        self._max_distinct = max_distinct
        self._wake = wake
        self._latecomers = latecomers
        self._refused_by: Callable[[], DropReason | None] = lambda: None
        self._start_empty()

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self.fold_at = FOLD_AT
        """
        How long a list may be for the fast path: `FOLD_AT`, or its share of `FOLD_AT_THE_LATEST` while somebody has the lock to fold,
        because nobody else can fold then. Changes under the lock.
        """
        self._guard = self._make_guard()
        self._inbox: deque[_Entry] = deque()
        # Lists whose length alone counts: appending is atomic, and counting costs nothing however many are refused.
        self._refused: dict[DropReason, list[None]] = {reason: [] for reason in DropReason}
        self._refused_many: list[tuple[DropReason, int]] = []
        """Refusals of many at once: as a list of that length they could fill the memory."""
        self._windows = Windows(self._max_distinct)
        self._channels: dict[tuple[Series, ...], Channel] = {}
        self._retired: dict[Channel, int] = {}
        self._series: dict[Series, Series] = {}
        self.published = IntakeCounts(0, 0, {})
        """The intake's books, replaced as a whole."""
        self.asleep = True
        self.closed = False
        """The client was stopped, and its flusher has looked here for the last time."""
        self.unattended = False
        """Nobody folds in the background: every value brings its own window."""
        self.notes: dict[DropReason, str] = {}
        """The last refusal's explanation, per reason, for the log line that the flusher writes."""

    def after_fork(self) -> None:
        """
        Start empty in a child process: what was recorded before belongs to the parent.

        Lists are emptied in place, because bound handles and schemas hold on to them. The lock may have been held by a thread that
        does not exist here, and what it protects may have been half changed, so all of it is made anew.
        """
        inherited = [*self._channels.values(), *self._retired]
        self._start_empty()
        for channel in inherited:
            channel.pending.clear()
            channel.retired = True

    # ---- recording: any thread, never waits ----

    def refuse_when(self, reason: Callable[[], DropReason | None]) -> None:
        """
        Ask this before each first value: a reason refuses it.
        """
        self._refused_by = reason

    def refuse(self, reason: DropReason, measurements: int = 1, note: str = "") -> None:
        """
        Count measurements that were not taken.

        Args:
            reason: Why.
            measurements: How many: one per dimension set.
            note: What was wrong in words, without any dimension value.
        """
        if note:
            self.notes[reason] = note
        self._note_refused(reason, measurements)
        # Normally the flusher counts them, but after `stop` there is none.
        if len(self._refused[reason]) + len(self._refused_many) >= FOLD_AT:
            (mine,) = map(self._lock.acquire, AT_ONCE)
            if mine:
                try:
                    self._count_refused()
                finally:
                    self._lock.release()
        self.rouse()

    def _note_refused(self, reason: DropReason, measurements: int) -> None:
        if measurements < FOLD_AT:
            self._refused[reason].extend([None] * measurements)
        else:
            self._refused_many.append((reason, measurements))

    def channel_of(self, destination: Destination) -> Channel | None:
        """
        The channel of a destination whose series all have a place of their own, or None.
        """
        return self._channels.get(destination.series)

    def record(self, target: Channel | Destination, value: float | Counted, timestamp: float | None) -> bool:
        """
        Take one value, or many that come with their counts.

        Args:
            target: Where it goes: a channel, or a destination, which may or may not have one.
            value: A finite number within the API's range, or several, each with its count.
            timestamp: Epoch seconds, or None for now.

        Returns:
            Whether it was taken; if not, it has been counted.
        """
        measurements = len(target.series) * _weight(value)
        reason = self._refused_by()
        if reason is not None:
            self.refuse(reason, measurements)
            return False
        if isinstance(target, Destination) or target.retired:
            target = self._channels.get(target.series) or Destination(target.series, private=False)
        first = target.series[0]
        window = first.window_of(self._wall() if timestamp is None else timestamp)
        if isinstance(value, Counted):
            taken = self._post(target, window, value, COUNTED_FULL_AT)
        elif (
            isinstance(target, Channel)
            and timestamp is None
            and (self._is_open(target, window) or self._is_late(target, window))
        ):
            taken = self._append(target, value)
        else:
            taken = self._post(target, window, value, INBOX_FULL_AT)
        if self.closed:
            self._latecomers()
        else:
            self.rouse()
        return taken

    def _is_open(self, channel: Channel, window: int) -> bool:
        """
        Whether the channel's list takes values of this window. The first one who asks in a new minute turns it over to that.
        """
        if self.unattended or channel.series[0].resolution == 1:
            return False
        if channel.minute >= window:
            # Not turned back: this thread may have read the clock a while ago, and others record in the new minute already.
            return channel.minute == window
        self._if_nobody_else(self._turn_forward, channel, window)
        return channel.minute == window

    def _is_late(self, channel: Channel, window: int) -> bool:
        """
        Whether a channel could not be turned over to this minute for so long that the inbox is filling up.

        Whoever folds has lost the interpreter to threads that record in a tight loop. Values then still go to the minute before: a fraction
        of a second of error instead of a loss.
        """
        return (
            len(self._inbox) >= CROWDED_AT
            and not self.unattended
            and channel.series[0].resolution != 1
            and 0 <= window - channel.minute <= channel.series[0].resolution
        )

    def rouse(self) -> None:
        """
        See to it that the flusher runs and is awake, unless the client is stopped.
        """
        if self.asleep:
            self.asleep = False
            self._wake()

    def _append(self, channel: Channel, value: float) -> bool:
        pending = channel.pending
        if len(pending) >= FOLD_AT:
            self._if_nobody_else(self._fold_share, channel)
        if len(pending) >= FULL_AT:
            self.refuse(DropReason.INTAKE_FULL, len(channel.series))
            return False
        pending.append(value)
        return True

    def _post(self, target: Channel | Destination, window: int, value: float | Counted, full_at: int) -> bool:
        if len(self._inbox) >= full_at:
            self.refuse(DropReason.INTAKE_FULL, len(target.series) * _weight(value))
            return False
        self._inbox.append((target, window, value))
        try:  # noqa: SIM105 - cheaper than `suppress`
            self._if_nobody_else(self._drain, DRAIN)
        except Exception:  # noqa: BLE001, S110 - too deep a recursion; the value is in the inbox and must not be refused as well
            pass
        return True

    def _if_nobody_else(self, fold: Callable[..., object], *given: object) -> None:
        """
        Fold unless somebody else has the lock; nobody is waited for.
        """
        (mine,) = map(self._lock.acquire, AT_ONCE)
        if mine:
            try:
                self.fold_at = self._fold_at_meanwhile()
                fold(*given)
            finally:
                self.fold_at = FOLD_AT
                self._lock.release()

    # ---- under the lock ----

    def _turn_forward(self, channel: Channel, window: int) -> None:
        if channel.minute < window:
            self._turn_over(channel, window)

    def _turn_over(self, channel: Channel, window: int) -> int:
        """
        Fold all that is there; what is appended from now on belongs to another window.
        """
        folded = self._work_off(channel, 0, len(channel.pending))
        channel.minute = window
        return folded

    def _fold_share(self, channel: Channel) -> None:
        """
        Fold a portion; an eighth of the list if that is more.
        """
        length = len(channel.pending)
        self._work_off(channel, max(length - max(FOLD_AT, length // SHARE), 0), length)

    def _work_off(self, channel: Channel, start: int, end: int) -> int:
        """
        Fold a range of a list, the last portion first: what is behind a portion moves up, and that may be half a million values.
        """
        for place in range(end, start, -FOLD_AT):
            self._fold(channel, max(place - FOLD_AT, start), place)
        return max(end - start, 0)

    def _fold(self, channel: Channel, start: int, end: int) -> int:
        # len, slice and del are each atomic, and appends only touch the end: nothing is lost without a lock on the callers' side.
        values = channel.pending[start:end]
        if not values:
            return 0
        folded = len(values)
        loads = [_Load(channel.series, channel.minute, values)]
        before, removed = self._settled(), False
        try:
            # The interpreter looks for signals after calls and at the end of loops: not between these two.
            del channel.pending[start : start + folded]
            removed = True
            self._settle(loads[0])
            self._touch(channel, folded)
        except BaseException:  # a Ctrl-C, or what is raised in this thread from outside
            if removed:
                self._finish(loads, before)
            raise
        return folded

    def _settle(self, load: _Load, skip: int = 0) -> None:
        """
        Fold values into the windows of their series, or refuse them; `skip` series already have theirs.
        """
        measurements = load.measurements()
        for series in load.series[skip:]:
            if self._windows.datums >= self._max_windows and not self._windows.holds(load.window, series):
                self._count(refused={DropReason.BACKLOG_FULL: measurements})
            else:
                if isinstance(load.values, Counted):
                    self._windows.fold_counts(load.window, series, load.values)
                else:
                    self._windows.fold(load.window, series, load.values)
                self._count(folded=measurements)

    def _settled(self) -> int:
        """
        A number that grows by each measurement folded or refused here; nothing else changes it as long as the lock is held.
        """
        return self._windows.measurements + sum(self.published.refused.values())

    def _finish(self, loads: list[_Load], before: int) -> None:
        """
        Find out how much of this was settled before an interruption, and do the rest: it is in no list and no inbox any more.

        Args:
            loads: What was to be settled, in order.
            before: `_settled()` before the first of it.
        """
        held = self._windows.recount()
        counts = self.published
        self.published = IntakeCounts(counts.taken + held, counts.taken, counts.refused)
        done = self._settled() - before
        for load in loads:
            skip = min(done // load.measurements(), len(load.series))
            done -= skip * load.measurements()
            self._settle(load, skip)

    def _touch(self, channel: Channel, values: int) -> None:
        for series in channel.series:
            if series.dimensions:
                self._guard.touch(series.namespace, series.name, series.dimensions, values)

    def _drain(self, most: int) -> int:
        """
        Fold the oldest entries of the inbox, those of one channel and window together: one by one, a few callers could outrun this.
        """
        entries, drained = self._oldest_entries(most)
        loads, refused = self._loads(entries)
        books = self._books(0, 0, {DropReason.TOO_MANY_SERIES: refused} if refused else _NONE)
        before = self._settled() + refused
        removed, booked = 0, False
        try:
            while removed < len(entries):
                # As in `_fold`. Others only append, so what was read first is still first.
                del self._inbox[0]
                removed += 1
            self.published = books
            booked = True
            for load in loads:
                self._settle(load)
        except BaseException:
            if removed:
                while removed < len(entries):
                    del self._inbox[0]
                    removed += 1
                if not booked:
                    self.published = books
                self._finish(loads, before)
            raise
        return drained

    def _oldest_entries(self, most: int) -> tuple[list[_Entry], int]:
        """
        The first entries of the inbox, which stay there, and what it costs to fold them.
        """
        entries: list[_Entry] = []
        cost = 0
        while cost < most and len(entries) < len(self._inbox):
            entry = self._inbox[len(entries)]
            entries.append(entry)
            cost += _cost(entry[2])
        return entries, cost

    def _loads(self, entries: list[_Entry]) -> tuple[list[_Load], int]:
        """
        Entries with their places in the windows found, and how many measurements have none; nothing is booked yet.
        """
        loads: list[_Load] = []
        together: dict[tuple[Channel, int], list[float]] = {}
        refused = 0
        for target, window, value in entries:
            channel = target if isinstance(target, Channel) else self._channels.get(target.series)
            if channel is not None:
                self._touch(channel, _weight(value))
            else:
                channel = self._place(target)
            if channel is None:
                refused += len(target.series) * _weight(value)
            elif isinstance(value, Counted):
                loads.append(_Load(channel.series, window, value))
            elif (channel, window) in together:
                together[channel, window].append(value)
            else:
                together[channel, window] = values = [value]
                loads.append(_Load(channel.series, window, values))
        return loads, refused

    def _place(self, destination: Channel | Destination) -> Channel | None:
        placed = tuple(self._place_series(series) for series in destination.series)
        channel = self._channels.get(placed)
        if channel is None and len(self._channels) < self._max_channels:
            # One object per series: finding its window is then a comparison by identity.
            channel = Channel(tuple(self._series.setdefault(series, series) for series in placed))
            self._channels[channel.series] = channel
        return channel

    def _place_series(self, series: Series) -> Series:
        dimensions = self._guard.place(series.namespace, series.name, series.dimensions, 1)
        if dimensions != series.dimensions:
            series = series.with_dimensions(dimensions)
        return series

    def _count(self, folded: int = 0, refused: Mapping[DropReason, int] = _NONE) -> None:
        self.published = self._books(folded, 0, refused)

    def _books(self, folded: int, taken: int, refused: Mapping[DropReason, int]) -> IntakeCounts:
        counts = self.published
        total = _sums((*counts.refused.items(), *refused.items())) if refused else counts.refused
        return IntakeCounts(counts.folded + folded, counts.taken + taken, total)

    def _count_refused(self) -> None:
        # No call comes between publishing and removing: a Ctrl-C finds both done, or neither.
        for reason, uncounted in self._refused.items():
            count = len(uncounted)
            if count:
                books = self._books(0, 0, {reason: count})
                self.published = books
                del uncounted[:count]
        many = len(self._refused_many)
        if many:
            books = self._books(0, 0, _sums(self._refused_many[:many]))
            self.published = books
            del self._refused_many[:many]

    def _uncounted(self) -> dict[DropReason, int]:
        ones = [(reason, len(uncounted)) for reason, uncounted in self._refused.items() if uncounted]
        return _sums((*ones, *self._refused_many.copy()))

    # ---- the flusher: waits for the lock, a little at a time ----

    def fold_step(self, channels: Iterable[Channel]) -> int:
        """
        Fold some of what these channels hold: about half a millisecond of work.

        Returns:
            How many values were folded; less than `FOLD_AT` when nothing that was there before is left.
        """
        folded = 0
        with self._lock:
            try:
                self._let_lists_grow()
                now = self._wall()
                for channel in channels:
                    if channel.pending:
                        window = channel.series[0].window_of(now)
                        same, length = channel.minute == window, len(channel.pending)
                        folded += (
                            self._fold(channel, max(length - FOLD_AT, 0), length)
                            if same
                            else self._turn_over(channel, window)
                        )
                    if folded >= FOLD_AT:
                        break
                self._count_refused()
            finally:
                self.fold_at = FOLD_AT
        return folded

    def drain_step(self) -> int:
        """
        Fold some of what the inbox holds.

        Returns:
            How many entries were folded; less than `INBOX_STEP` when none is left.
        """
        with self._lock:
            try:
                self._let_lists_grow()
                drained = self._drain(INBOX_STEP)
                self._count_refused()
            finally:
                self.fold_at = FOLD_AT
        return drained

    def _let_lists_grow(self) -> None:
        """Not in a client that refuses records: the fast path would go on taking values."""
        if self._refused_by() is None:
            self.fold_at = self._fold_at_meanwhile()

    def _fold_at_meanwhile(self) -> int:
        return max(FOLD_AT, FOLD_AT_THE_LATEST // max(len(self._channels), 1))

    def channels(self) -> list[Channel]:
        """
        Every channel, retired ones included.
        """
        return [*self._channels.values(), *self._retired]

    def holds_values(self) -> bool:
        """
        Whether any value waits to be folded.
        """
        return bool(self._inbox) or any(channel.pending for channel in self.channels())

    def has_news(self) -> bool:
        """
        Whether anything waits to be folded, or to be counted as refused.
        """
        return bool(self._uncounted()) or self.holds_values()

    def open_windows(self) -> int:
        """
        Series and windows that hold something: a lower bound on the datums a flush would make now.
        """
        return self._windows.datums

    def take(self) -> Windows:
        """
        Swap out everything folded so far.
        """
        with self._lock:
            fresh = Windows(self._max_distinct)
            books = self._books(0, self._windows.measurements, _NONE)
            taken, self._windows, self.published = self._windows, fresh, books
        return taken

    def rotate(self) -> None:
        """
        Let the guard move places to heavier series, and retire the channels of those that lost theirs.

        A retired channel is folded for a few more rotations, for callers that were just about to append to it; and as long as somebody
        keeps its list filled.
        """
        with self._lock:
            lost = set(self._guard.rotate())
            self._retired = {c: age + 1 for c, age in self._retired.items() if age < RETIRED_ROTATIONS or c.pending}
            for key, channel in list(self._channels.items()):
                if any((s.namespace, s.name, s.dimensions) in lost for s in channel.series):
                    del self._channels[key]
                    channel.retired = True
                    self._retired[channel] = 0
            self._series = {series: series for channel in self._channels.values() for series in channel.series}

    # ---- reading ----

    def while_unchanging(self, look: Callable[[], object]) -> bool:
        """
        Look while nothing is folded, so that values never seem to be nowhere between their list and the books.

        Returns:
            Whether there was a look. Not when somebody does not stop folding: the reader may be a signal handler that interrupted the very
            thread that folds.
        """
        (mine,) = map(self._lock.acquire, (True,), (READERS_WAIT_SECONDS,))
        if mine:
            try:
                look()
            finally:
                self._lock.release()
        return mine

    def counts(self) -> tuple[IntakeCounts, int, dict[DropReason, int]]:
        """
        The published counts, the measurements not folded yet, and the refusals not counted yet; to be read in `while_unchanging`.
        """
        unfolded = sum(len(target.series) * _weight(value) for target, _, value in list(self._inbox))
        for channel in self.channels():
            unfolded += len(channel.pending) * len(channel.series)
        return self.published, unfolded, self._uncounted()

    def series(self) -> int:
        """
        How many series have a place of their own.
        """
        return len(self._series)

    def offenders(self) -> tuple[Offender, ...]:
        """
        Metrics whose dimensions exploded.
        """
        return self._guard.offenders()
