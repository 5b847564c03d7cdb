"""The front of the pipeline keeps its memory bounded, whatever comes in."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics import DropReason
from retainwise_metrics.datum import Counted, Series
from retainwise_metrics.dimensions.cardinality import CardinalityGuard
from retainwise_metrics.pipeline.aggregation import items_of, measurements_of
from retainwise_metrics.pipeline.intake import (
    CROWDED_AT,
    FOLD_AT,
    FOLD_AT_THE_LATEST,
    FULL_AT,
    INBOX_FULL_AT,
    SHARE,
    Destination,
    Intake,
)
from retainwise_metrics.sinks.base import SinkUnavailable
from tests.helpers import NAMESPACE, assert_balanced
from tests.interrupts import interrupted, signals_as_in_311

if TYPE_CHECKING:
    from collections.abc import Callable

    from retainwise_metrics import CloudWatchMetrics
    from retainwise_metrics.pipeline.intake import Channel
    from retainwise_metrics.testing import InMemorySink, ManualRuntime


def test_a_flood_of_metric_names_is_bounded_and_counted(
    make_client: Callable[..., CloudWatchMetrics], sink: InMemorySink
) -> None:
    """A name cannot be folded into another: beyond the bound new names are dropped with a reason, known ones go on."""
    client = make_client(max_series=10)
    assert client.put_metric("Real", 1)
    for index in range(5_000):
        client.put_metric(f"name-{index}", 1)
    client.put_metric("Real", 1)
    client.flush()
    stats = client.stats()
    assert stats.series <= 2 * 10 + 1_000 + 10
    assert stats.dropped[DropReason.TOO_MANY_SERIES] == 5_000 + 2 - stats.delivered
    assert sink.values(NAMESPACE, "Real") == {1.0: 2}
    assert_balanced(client)


def test_a_flood_of_ids_folds_into_other_and_keeps_the_total(
    make_client: Callable[..., CloudWatchMetrics], sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """Series are bounded, nothing is lost, and the offender is named by its dimension."""
    client = make_client(max_series_per_metric=10)
    for index in range(1_000):
        client.put_metric("M", 1, dimensions={"Session": f"random-{index}x", "Plan": "pro"})
    client.flush()
    assert sum(datum.measurements for datum in sink.datums) == 1_000
    assert sink.values(NAMESPACE, "M", {"Session": "other", "Plan": "pro"})[1.0] >= 980
    assert client.stats().offenders[0].dimension == "Session"


def test_a_series_that_lost_its_place_is_folded_from_then_on_and_loses_nothing(
    make_client: Callable[..., CloudWatchMetrics], sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """Evicted series, bound handles included, go on recording into `other`; heavy late traffic gets its own series."""
    client = make_client(max_series_per_metric=2)
    handles = [client.counter("M", dimensions={"Kind": f"k{index}"}) for index in range(2)]
    offered = 0
    for _ in range(12):
        for handle in handles:
            offered += handle.inc()
        for _ in range(50):
            offered += client.increment_counter("M", dimensions={"Kind": "late"})
        runtime.advance(100.0)
    client.flush()
    assert sum(datum.measurements for datum in sink.datums) == offered == 12 * 52
    assert sink.values(NAMESPACE, "M", {"Kind": "late"})[1.0] >= 300
    assert_balanced(client)


def test_more_values_than_one_fold_takes_are_all_in_one_flush(client: CloudWatchMetrics) -> None:
    """While somebody else holds the lock lists grow far beyond a fold; a flush still means everything recorded so far."""
    client.put_metric("M", 1)
    client.flush()
    client.put_metric("M", 1)
    with client._intake._lock:  # what a thread that is folding looks like to everybody else
        for _ in range(30_000):
            assert client.put_metric("M", 1)
        for _ in range(5_000):
            assert client.put_metric("N", 1)
    result = client.flush()
    assert (result.delivered, result.pending) == (35_001, 0)


MINUTE = 1_767_225_600


class Interrupted(CardinalityGuard):
    """It is asked in the middle of each fold: what other threads do then is done here."""

    def __init__(self) -> None:
        super().__init__(max_series=100, max_series_per_metric=100)
        self.meanwhile: Callable[[], object] = lambda: None

    def touch(self, *series: object) -> None:
        self.meanwhile()


class Folding:
    """An intake with one series, its list, and what happens in the middle of each fold."""

    def __init__(self, sets: int = 1, *, max_channels: int = 10, max_windows: int = 10) -> None:
        self.now = float(MINUTE)
        self.guard = Interrupted()
        self.intake = Intake(
            lambda: self.now,
            lambda: self.guard,
            max_distinct=20,
            max_channels=max_channels,
            max_windows=max_windows,
            wake=lambda: None,
            latecomers=lambda: None,
        )
        series = (Series(NAMESPACE, "M", (("Kind", f"k{number}"),), "None", 60) for number in range(sets))
        destination = Destination(tuple(series), private=False)
        self.intake.record(destination, 1, None)
        channel = self.intake.channel_of(destination)
        assert channel is not None
        self.channel: Channel = channel
        self.intake.record(channel, 1, None)
        self.intake.fold_step([channel])
        self.intake.take()

    def by_minute(self) -> dict[int, int]:
        """How many values each minute holds."""
        self.intake.fold_step([self.channel])
        found: dict[int, int] = {}
        for window, _, distribution in self.intake.take().sealed():
            found[window - MINUTE] = found.get(window - MINUTE, 0) + measurements_of(distribution)
        return found


def test_lists_may_grow_only_while_somebody_folds() -> None:
    """Who loses the interpreter in the middle of that does not make all others take the slow path; otherwise 4,096 is the limit."""
    one = Folding()
    seen: list[int] = []
    one.guard.meanwhile = lambda: seen.append(one.intake.fold_at)

    def by_flusher() -> None:
        one.intake.fold_step([one.channel])

    def by_caller() -> None:
        one.intake.record(one.channel, 1, None)

    def by_turning_over() -> None:
        one.now += 60
        one.intake.record(one.channel, 1, None)

    def by_draining() -> None:
        one.intake.record(one.channel, 1, MINUTE - 600.0)

    for fold in (by_flusher, by_caller, by_turning_over, by_draining):
        one.channel.pending.extend([1] * FOLD_AT)
        fold()
        assert one.intake.fold_at == FOLD_AT
    assert set(seen) == {FOLD_AT_THE_LATEST}
    assert len(seen) >= 4
    one.intake.refuse_when(lambda: DropReason.STOPPED)
    seen.clear()
    by_flusher()
    assert seen == [FOLD_AT]


def test_what_lists_may_grow_to_is_shared_among_all_series() -> None:
    """Else many handles in tight loops would fill the memory; and never is it less than what a caller folds."""
    one = Folding(max_channels=1_000)
    seen: list[int] = []
    one.guard.meanwhile = lambda: seen.append(one.intake.fold_at)
    for known in (1, 4, 1_000):
        while len(one.intake.channels()) < known:
            series = Series(NAMESPACE, f"M{len(one.intake.channels())}", (), "None", 60)
            one.intake.record(Destination((series,), private=False), 1, None)
        seen.clear()
        one.channel.pending.extend([1] * FOLD_AT)
        one.intake.fold_step([one.channel])
        assert seen == [max(FOLD_AT, FOLD_AT_THE_LATEST // known)]


def test_a_fold_that_is_struck_leaves_no_list_growing() -> None:
    """A signal handler may raise in the middle of it."""
    one = Folding()

    def strike() -> None:
        raise KeyboardInterrupt

    one.guard.meanwhile = strike
    one.channel.pending.extend([1] * FOLD_AT)
    with pytest.raises(KeyboardInterrupt):
        one.intake.record(one.channel, 1, None)
    assert one.intake.fold_at == FOLD_AT
    one.guard.meanwhile = lambda: None
    assert one.intake.record(one.channel, 1, None)


@signals_as_in_311
@pytest.mark.parametrize("distinct", [1, 10, 64], ids=["counter", "exact", "sketch"])
@pytest.mark.parametrize("sets", [1, 3])
def test_a_fold_that_is_interrupted_anywhere_loses_nothing_and_counts_nothing_twice(distinct: int, sets: int) -> None:
    """Wherever a Ctrl-C comes, every value is in the list or in the window of each of its series, and the books say so."""
    values = [place % distinct + 0.5 for place in range(64)]

    def fold() -> None:  # the second time the series is known, and a sketch
        one.channel.pending.extend(values)
        one.intake.fold_step([one.channel])

    for at in range(1, 10_000):
        one = Folding(sets)
        struck = interrupted(at, fold)
        assert not one.intake._lock.locked()
        counts, unfolded, _ = one.intake.counts()
        waiting = len(one.channel.pending)
        one.intake.fold_step([one.channel])
        one.intake.fold_step([one.channel])
        held = {series: distribution for _, series, distribution in one.intake.take().sealed()}
        for distribution in held.values():
            items = items_of(distribution)
            assert sum(count for _, count in items) == 2 * 64, at
            assert sum(value * count for value, count in items) == pytest.approx(2 * sum(values))
        assert len(held) == sets
        assert unfolded == waiting * sets
        assert counts.folded - counts.taken + unfolded == 2 * 64 * sets, at
        if not struck:
            break


@signals_as_in_311
@pytest.mark.parametrize("sets", [1, 3])
@pytest.mark.parametrize("places", [100, 4], ids=["room", "full"])
def test_an_inbox_that_is_interrupted_anywhere_loses_nothing_and_counts_nothing_twice(sets: int, places: int) -> None:
    """Its entries are of all kinds: known series and unknown ones, of other minutes, many values at once, without a place."""

    def destination(name: str) -> Destination:
        series = (Series(NAMESPACE, name, (("Kind", f"k{number}"),), "None", 60) for number in range(sets))
        return Destination(tuple(series), private=False)

    def fill() -> int:
        one.intake.record(one.channel, 1.5, MINUTE - 600.0)
        one.intake.record(destination("New"), 2.5, None)
        one.intake.record(destination("New"), 3.5, MINUTE - 600.0)
        one.intake.record(one.channel, Counted({1.0: 2, 2.0: 3}, 5), None)
        one.intake.record(one.channel, 4.5, MINUTE - 600.0)
        for name in ("A", "B", "C"):
            one.intake.record(destination(name), 5.5, None)
        return 12 * sets

    dropped: dict[DropReason, int] = {}
    for at in range(1, 10_000):
        one = Folding(sets, max_channels=3, max_windows=places)
        recorded = 0
        with one.intake._lock:
            for _ in range(2):
                recorded += fill()
        struck = interrupted(at, one.intake.drain_step)
        assert not one.intake._lock.locked()
        counts, unfolded, uncounted = one.intake.counts()
        refused = sum(counts.refused.values()) + sum(uncounted.values())
        assert counts.folded - counts.taken + refused + unfolded == recorded, at
        one.intake.drain_step()
        counts, unfolded, _ = one.intake.counts()
        assert unfolded == 0
        assert not dropped or counts.refused == dropped, at
        dropped = counts.refused
        held = [measurements_of(distribution) for _, _, distribution in one.intake.take().sealed()]
        assert sum(held) + sum(counts.refused.values()) == recorded, at
        if not struck:
            break
    assert set(dropped) == {DropReason.TOO_MANY_SERIES} | ({DropReason.BACKLOG_FULL} if places == 4 else set())


@signals_as_in_311
def test_refusals_that_are_counted_while_a_ctrl_c_comes_are_counted_once() -> None:
    """One by one and many at once, for two reasons."""
    for at in range(1, 10_000):
        one = Folding()
        for reason in (DropReason.STOPPED, DropReason.INTAKE_FULL):
            one.intake.refuse(reason, 3)
            one.intake.refuse(reason, 2 * FOLD_AT)
        struck = interrupted(at, partial(one.intake.fold_step, []))
        counts, _, uncounted = one.intake.counts()
        seen = Counter(counts.refused) + Counter(uncounted)
        assert seen == {DropReason.STOPPED: 3 + 2 * FOLD_AT, DropReason.INTAKE_FULL: 3 + 2 * FOLD_AT}, at
        if not struck:
            break


@signals_as_in_311
@pytest.mark.parametrize("way", ["full list", "new minute", "inbox", "refused", "read"])
def test_a_caller_that_is_interrupted_anywhere_leaves_no_lock_behind(way: str) -> None:
    """Else the flusher would wait for ever for somebody who has long gone."""

    def one_more() -> None:
        if way == "refused":
            one.intake.refuse(DropReason.STOPPED)
        elif way == "read":
            assert one.intake.while_unchanging(one.intake.counts)
        else:
            one.intake.record(one.channel, 1, MINUTE - 600.0 if way == "inbox" else None)

    for at in range(1, 10_000):
        one = Folding()
        one.intake.record(one.channel, 1, None)
        one.channel.pending.extend([1] * 2 * FOLD_AT)
        one.intake.refuse(DropReason.STOPPED, FOLD_AT - 1)
        one.now += 60 if way == "new minute" else 0
        struck = interrupted(at, one_more, times=1)
        assert not one.intake._lock.locked(), at
        assert one.intake.fold_at == FOLD_AT
        for _ in range(3):
            one.intake.fold_step([one.channel])
            one.intake.drain_step()
        counts, unfolded, _ = one.intake.counts()
        assert unfolded == 0
        taken = one.intake.take().measurements - 1 - 2 * FOLD_AT
        recorded = way in ("full list", "new minute", "inbox")
        assert taken == recorded or (struck and taken == 0), at
        assert counts.refused[DropReason.STOPPED] - (FOLD_AT - 1) in ({0, 1} if way == "refused" else {0})
        if not struck:
            break


def test_a_list_is_not_turned_back_by_who_has_looked_at_the_clock_a_while_ago() -> None:
    """A thread reads the clock just before a full minute and goes on after it: its value is of its minute, and all others of theirs."""
    one = Folding()
    one.intake.record(one.channel, 1, None)
    one.now += 60
    late = False

    def clock() -> float:
        nonlocal late
        if late:
            late = False
            one.intake.record(one.channel, 1, None)  # somebody else, in the meantime
            return one.now - 60
        return one.now

    one.intake._wall = clock
    late = True
    assert one.intake.record(one.channel, 1, None)
    one.channel.pending.extend([1] * 10)  # the fast path
    one.intake.drain_step()
    assert one.by_minute() == {0: 2, 60: 11}


def test_what_is_in_the_inbox_is_not_refused_as_well_when_looking_at_it_fails() -> None:
    """Such as at the limit of recursion: the value was taken, and is folded the next time."""
    one = Folding()

    def fail() -> None:
        raise RecursionError

    one.guard.meanwhile = fail
    assert one.intake.record(one.channel, 1, MINUTE - 600.0)
    one.guard.meanwhile = lambda: None
    one.intake.drain_step()
    assert one.by_minute() == {-600: 1}


@pytest.mark.parametrize("by", ["flusher", "caller"])
def test_a_list_that_is_never_empty_is_turned_over_all_the_same(by: str) -> None:
    """Other threads append in the middle of every fold: what comes after the look at the clock belongs to the new minute."""
    one = Folding()
    one.intake.record(one.channel, 1, None)
    one.channel.pending.extend([1] * 3 * FOLD_AT)
    one.guard.meanwhile = lambda: one.channel.pending.append(1)
    one.now += 60
    if by == "flusher":
        one.intake.fold_step([one.channel])
    else:
        one.intake.record(one.channel, 1, None)
    one.channel.pending.extend([1] * 10)  # the fast path asks for no minute
    one.guard.meanwhile = lambda: None
    assert one.by_minute() == {0: 1 + 3 * FOLD_AT, 60: 4 + 10 + (by == "caller")}


def test_a_list_that_has_grown_is_worked_off_by_its_callers(client: CloudWatchMetrics) -> None:
    """Each folds an eighth of it, at least one portion, without waiting for the flusher."""
    handle = client.counter("M")
    handle.inc()
    client.flush()
    handle.inc()
    (channel,) = client._intake.channels()
    channel.pending.extend([1] * 16 * FOLD_AT)
    before = len(channel.pending)
    handle.inc()
    assert len(channel.pending) == before - before // SHARE + 1
    for _ in range(20):
        handle.inc()
    assert len(channel.pending) < FOLD_AT
    assert client.flush().delivered == 1 + 16 * FOLD_AT + 21


def test_a_full_list_drops_and_counts(client: CloudWatchMetrics) -> None:
    """Nobody folds for a very long time: the bound holds, and what it costs is in the ledger."""
    client.put_metric("M", 1)
    client.flush()
    client.put_metric("M", 1)
    (channel,) = client._intake.channels()
    channel.pending.extend([1.0] * (FULL_AT - 100))  # a million calls take a while
    with client._intake._lock:
        taken = sum(client.put_metric("M", 1) for _ in range(5_000))
    assert 90 <= taken <= 100
    assert client.stats().dropped == {DropReason.INTAKE_FULL: 5_000 - taken}
    client.flush()
    assert client.stats().pending == 0
    assert_balanced(client)


def test_a_minute_that_cannot_be_turned_over_takes_values_all_the_same(
    client: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """Somebody does not stop folding at the turn of a minute: the inbox fills up to a point, then values go to the minute before."""
    client.put_metric("M", 1)
    client.put_metric("M", 1)
    runtime.advance(1.0)  # the list is empty now, and the flusher is awake: it need not be woken
    with client._intake._lock:
        runtime.set_wall(runtime.wall() + 60.0)
        assert all(client.put_metric("M", 1) for _ in range(INBOX_FULL_AT + 5_000))
        assert len(client._intake._inbox) == CROWDED_AT
    client.flush()
    assert sink.values(NAMESPACE, "M") == {1.0: INBOX_FULL_AT + 5_002}
    assert client.stats().dropped == {}
    assert_balanced(client)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="3.14 tracks every dict")
def test_what_is_held_for_series_and_minutes_is_none_of_the_garbage_collectors_business(
    make_client: Callable[..., CloudWatchMetrics], sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """Else it would go through it, and make everybody wait: folded or in the backlog, 600 series and minutes add no 100 objects."""
    client = make_client(catalogue=(), failure_threshold=1)

    def record() -> None:
        for kind in range(200):
            for value in (1.5, 2.5):
                assert client.put_metric("M", value, dimensions={"Kind": f"k{kind}"})

    for _ in range(3):
        record()
        client.flush()
    gc.collect()
    before = len(gc.get_objects())

    def refuse(_: object) -> None:
        message = "nobody there"
        raise SinkUnavailable(message)

    sink.fail = refuse
    for _ in range(3):
        record()
        runtime.advance(60.0)
    gc.collect()
    assert client.stats().pending >= 3 * 400
    assert len(gc.get_objects()) - before < 100
