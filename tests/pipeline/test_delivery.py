"""From the first record to the sink: batches, retries, poison, outages."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics import BreakerState, CloudWatchMetrics, DropReason
from retainwise_metrics.sinks.base import (
    SinkForbidden,
    SinkRejected,
    SinkThrottled,
    SinkTooLarge,
    SinkUnavailable,
)
from retainwise_metrics.testing import InMemorySink, ManualRuntime, rejecting
from tests.helpers import NAMESPACE, assert_balanced

if TYPE_CHECKING:
    from retainwise_metrics.datum import Batch, Datum

Make = "Callable[..., CloudWatchMetrics]"


def record_series(client: CloudWatchMetrics, count: int, name: str = "M") -> None:
    """One value each in `count` series."""
    for index in range(count):
        assert client.put_metric(f"{name}{index:04}", index)


def is_poison(datum: Datum) -> bool:
    """The one datum that the sink refuses."""
    return datum.series.name == "M0617"


# ---- batches ----


@pytest.mark.parametrize("series", [0, 1, 19, 20, 21, 40, 41, 60, 61])
def test_every_buffer_length_is_delivered_in_batches_of_twenty(
    client: CloudWatchMetrics, sink: InMemorySink, series: int
) -> None:
    """No length around a page boundary loses a datum or sends a needless call."""
    record_series(client, series)
    client.flush()
    assert len(sink.datums) == series
    assert [len(batch.datums) for batch in sink.batches] == [20] * (series // 20) + (
        [series % 20] if series % 20 else []
    )


def test_a_long_backlog_is_caught_up_with_in_larger_calls(make_client: Make, sink: InMemorySink) -> None:
    """Below 2,000 datums it is 20 a call as ever; above, 50, until that is worked off; everything arrives once."""
    client = make_client(catalogue=(), max_series_per_metric=10_000)
    for number in range(1_999):
        client.put_metric("M", 1, dimensions={"Number": f"n{number}"})
    assert client.flush().delivered == 1_999
    assert {len(batch.datums) for batch in sink.batches} == {20, 19}
    sink.batches.clear()
    for number in range(4_000):
        client.put_metric("M", 1, dimensions={"Number": f"n{number % 2_000}", "Half": f"h{number // 2_000}"})
    assert client.flush().delivered == 4_000
    sizes = [len(batch.datums) for batch in sink.batches]
    assert sizes == [50] * 41 + [20] * 97 + [10]


def test_a_call_holds_one_namespace(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """Namespaces are never mixed in one call."""
    for index in range(50):
        client.put_metric("M", index, namespace=f"App/{index % 3}")
    client.flush()
    assert {batch.namespace for batch in sink.batches} == {"App/0", "App/1", "App/2"}
    assert all(datum.series.namespace == batch.namespace for batch in sink.batches for datum in batch.datums)


def test_many_equal_values_cost_one_datum(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """Equal values fold into one value with a count."""
    for index in range(1000):
        client.put_metric("M", index % 5)
    client.flush()
    (datum,) = sink.datums
    assert (datum.values, datum.counts) == ((0.0, 1.0, 2.0, 3.0, 4.0), (200,) * 5)


def test_more_than_150_distinct_values_become_several_datums(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """301 distinct values of one series and minute are three datums with one timestamp."""
    for index in range(301):
        client.put_metric("M", index)
    client.flush()
    assert [len(datum.values) for datum in sink.datums] == [150, 150, 1]
    assert len({datum.timestamp for datum in sink.datums}) == 1


def test_values_keep_the_minute_they_were_recorded_in(
    client: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """Three minutes, three timestamps, whatever the flush phase."""
    start = int(runtime.wall())
    for minute in range(3):
        for second in (0.5, 59.0):
            runtime.advance(start + minute * 60 + second - runtime.wall())
            client.put_metric("M", minute)
    client.flush()
    seen: dict[int, set[float]] = {}
    for datum in sink.datums:
        seen.setdefault(datum.timestamp, set()).update(datum.values)
    assert seen == {start: {0.0}, start + 60: {1.0}, start + 120: {2.0}}


def test_a_second_is_the_window_at_high_resolution(
    client: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """With storage_resolution=1 each value keeps its second."""
    start = int(runtime.wall())
    for _ in range(3):
        client.put_metric("M", 1, storage_resolution=1)
        client.put_metric("M", 1, storage_resolution=1)
        runtime.advance(1.0)
    client.flush()
    assert [(d.timestamp - start, d.counts) for d in sink.datums] == [(0, (2,)), (1, (2,)), (2, (2,))]


def test_the_interval_delivers_without_being_asked(
    make_client: Make, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """What is recorded is sent within one interval."""
    client = make_client(flush_interval_seconds=30)
    client.put_metric("M", 1)
    runtime.advance(30.0)
    assert len(sink.datums) == 1


@pytest.mark.parametrize(("random", "due"), [(0.0, 0.0), (0.25, 15.0), (0.999, 59.94)])
def test_each_process_has_its_own_phase(sink: InMemorySink, random: float, due: float) -> None:
    """The first flush comes at a random point of the interval, so that a fleet does not flush in one second."""
    runtime = ManualRuntime(random=random)
    from retainwise_metrics import MetricsConfig

    client = CloudWatchMetrics(MetricsConfig(), sink=sink, runtime=runtime)
    client.put_metric("M", 1)
    runtime.advance(max(due - 0.01, 0.0))
    early = len(sink.batches)
    runtime.advance(1.02)
    assert early == 0 or due == 0.0
    assert len(sink.batches) == 1


def test_much_pending_is_not_held_until_the_interval_is_over(
    make_client: Make, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """Five thousand folded series are sent at the next tick."""
    client = make_client(flush_interval_seconds=3600, max_series=20_000)
    record_series(client, 5_000)
    runtime.advance(2.0)
    assert len(sink.datums) == 5_000


# ---- poison ----


@pytest.mark.parametrize(("named", "extra_calls"), [(True, 1), (False, math.ceil(math.log2(1000)) + 2)])
def test_one_poison_datum_among_a_thousand_is_isolated(
    make_client: Make, sink: InMemorySink, named: bool, extra_calls: int
) -> None:
    """999 are delivered and one is dropped with its reason, for at most log2(n) + 2 extra calls, one when the error names it."""
    client = make_client(batch_size=1000)
    record_series(client, 1000)
    sink.fail = rejecting(is_poison, name_members=named)
    assert client.flush(), client.stats()
    assert len(sink.datums) == 999
    assert not any(map(is_poison, sink.datums))
    assert client.stats().dropped == {DropReason.REJECTED: 1}
    assert sink.attempts <= 1 + extra_calls
    assert client.stats().breaker_state is BreakerState.CLOSED
    assert_balanced(client)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("poisons", [{0}, {999}, {0, 999}, {3, 4, 5}, set(range(0, 1000, 100)), set(range(1000))])
def test_any_poisons_are_dropped_and_nothing_else(
    make_client: Make, sink: InMemorySink, poisons: set[int], named: bool
) -> None:
    """Wherever and however many they are."""
    client = make_client(batch_size=1000)
    record_series(client, 1000)
    sink.fail = rejecting(lambda datum: int(datum.series.name[1:]) in poisons, name_members=named)
    client.flush(timeout=100)
    assert len(sink.datums) == 1000 - len(poisons)
    assert client.stats().dropped[DropReason.REJECTED] == len(poisons)
    assert_balanced(client)


def test_a_refusal_that_names_members_that_do_not_exist_is_searched(make_client: Make, sink: InMemorySink) -> None:
    """A proxy's nonsense index does not drop an innocent datum."""
    client = make_client(batch_size=50)
    record_series(client, 50)

    def fail(batch: Batch) -> None:
        if any(datum.series.name == "M0007" for datum in batch.datums):
            message = "no such member"
            raise SinkRejected(message, members=(4711,))

    sink.fail = fail
    client.flush()
    assert {datum.series.name for datum in sink.datums} == {f"M{i:04}" for i in range(50)} - {"M0007"}


def test_an_outage_in_the_middle_of_an_isolation_loses_nothing(
    make_client: Make, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """The search goes on where it was when the endpoint comes back."""
    client = make_client(batch_size=1000)
    record_series(client, 1000)
    refuse = rejecting(is_poison, name_members=False)

    def flaky(batch: Batch) -> None:
        if sink.attempts % 3 == 0:
            message = "503"
            raise SinkUnavailable(message)
        refuse(batch)

    sink.fail = flaky
    client.flush(timeout=1.0)
    for _ in range(20):
        assert_balanced(client)
        runtime.advance(60.0)
    assert len(sink.datums) == 999
    assert client.stats().dropped == {DropReason.REJECTED: 1}


# ---- too large ----


def test_a_request_that_is_too_large_is_halved_until_it_fits(make_client: Make, sink: InMemorySink) -> None:
    """A 413 splits the batch, is no failure of the destination, and is learned from."""
    client = make_client(batch_size=100)

    def fail(batch: Batch) -> None:
        if len(batch.datums) > 30:
            message = "413"
            raise SinkTooLarge(message)

    sink.fail = fail
    record_series(client, 100)
    assert client.flush()
    assert len(sink.datums) == 100
    assert client.stats().breaker_state is BreakerState.CLOSED


def test_a_single_datum_that_is_too_large_is_dropped_with_its_reason(
    client: CloudWatchMetrics, sink: InMemorySink
) -> None:
    """Nothing else can be done with it; its neighbours are delivered."""

    def fail(batch: Batch) -> None:
        if any(datum.series.name == "M0003" for datum in batch.datums):
            message = "413"
            raise SinkTooLarge(message)

    sink.fail = fail
    record_series(client, 10)
    client.flush()
    assert len(sink.datums) == 9
    assert client.stats().dropped == {DropReason.TOO_LARGE: 1}


# ---- outages ----


def test_half_an_hour_of_outage_loses_nothing(make_client: Make, sink: InMemorySink, runtime: ManualRuntime) -> None:
    """5xx for a quarter of an hour, then refused connections: nothing is lost, minutes are kept, one probe per open period."""
    client = make_client(open_seconds=300.0)
    start = int(runtime.wall())
    attempts_while_open: list[float] = []

    def fail(_: Batch) -> None:
        if runtime.wall() - start < 1800:
            if client.stats().breaker_state is not BreakerState.CLOSED:
                attempts_while_open.append(runtime.monotonic())
            raise SinkUnavailable("503") if runtime.wall() - start < 900 else OSError("connection refused")

    sink.fail = fail
    for minute in range(45):
        for _ in range(10):
            client.put_metric("M", minute, dimensions={"Kind": "a"})
            client.increment_counter("N")
            runtime.advance(6.0)
        assert_balanced(client)
    client.flush()
    assert client.stats().dropped == {}
    assert client.stats().pending == 0
    by_minute: dict[int, int] = {}
    for datum in sink.datums:
        if datum.series.name == "M":
            assert set(datum.values) == {float((datum.timestamp - start) // 60)}
            by_minute[datum.timestamp] = by_minute.get(datum.timestamp, 0) + datum.measurements
    assert by_minute == {start + 60 * minute: 10 for minute in range(45)}
    gaps = [later - earlier for earlier, later in pairwise(attempts_while_open)]
    assert attempts_while_open
    assert all(gap >= 300.0 for gap in gaps), gaps


def test_an_outage_longer_than_the_backlog_drops_the_oldest_and_counts_it(
    make_client: Make, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """What is kept is the newest; what went is in the ledger."""
    client = make_client(max_pending_datums=100)

    def fail(_: Batch) -> None:
        message = "503"
        raise SinkUnavailable(message)

    sink.fail = fail
    start = int(runtime.wall())
    for _ in range(300):
        client.put_metric("M", 1)
        runtime.advance(60.0)
        assert_balanced(client)
    sink.fail = None
    runtime.advance(3600.0)
    assert client.stats().dropped[DropReason.BACKLOG_FULL] == 300 - len(sink.datums)
    assert 100 <= len(sink.datums) <= 121
    newest = {start + 60 * minute for minute in range(201, 300)}
    assert newest <= {datum.timestamp for datum in sink.datums}


def test_throttling_is_retried_and_opens_the_breaker_only_when_it_persists(
    make_client: Make, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """Two throttled calls in a row are ordinary; a hundred are an outage."""
    client = make_client(failure_threshold=5)
    throttled = iter([True, True] + [False] * 10)

    def fail(_: Batch) -> None:
        if next(throttled, True):
            message = "Throttling"
            raise SinkThrottled(message)

    sink.fail = fail
    client.put_metric("M", 1)
    assert client.flush(timeout=60.0)
    throttled = iter([])
    client.put_metric("M", 1)
    runtime.advance(600.0)
    assert client.stats().breaker_state in (BreakerState.OPEN, BreakerState.HALF_OPEN)
    assert client.stats().pending == 1


def test_the_servers_own_waiting_time_is_honoured(
    client: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """A Retry-After of 40 seconds means no call for 40 seconds."""
    calls: list[float] = []

    def fail(_: Batch) -> None:
        calls.append(runtime.monotonic())
        if len(calls) == 1:
            message = "Throttling"
            raise SinkThrottled(message, retry_after_seconds=40.0)

    sink.fail = fail
    client.put_metric("M", 1)
    client.flush(timeout=1.0)
    runtime.advance(100.0)
    assert len(calls) == 2
    assert calls[1] - calls[0] >= 40.0


def test_wrong_credentials_open_the_breaker_at_once(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """The next call is known to fail as well."""

    def fail(_: Batch) -> None:
        message = "AccessDenied"
        raise SinkForbidden(message)

    sink.fail = fail
    client.put_metric("M", 1)
    result = client.flush(timeout=5.0)
    assert (sink.attempts, result.pending) == (1, 1)
    assert client.stats().breaker_state is BreakerState.OPEN
    assert "AccessDenied" in (client.stats().last_error or "")


def test_what_is_older_than_two_weeks_is_dropped_instead_of_poisoning_a_batch(
    client: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """An outage of 15 days: what CloudWatch would refuse is dropped with its reason, the rest arrives."""

    def fail(_: Batch) -> None:
        message = "503"
        raise SinkUnavailable(message)

    sink.fail = fail
    client.put_metric("Old", 1)
    runtime.advance(120.0)
    runtime.freeze(15 * 86_400)
    sink.fail = None
    client.put_metric("New", 1)
    runtime.advance(2000.0)
    assert {datum.series.name for datum in sink.datums} == {"New"}
    assert client.stats().dropped == {DropReason.TOO_OLD: 1}


# ---- while the breaker is open ----


def test_hold_is_the_default(client: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime) -> None:
    """Records are taken while the breaker is open, and delivered after recovery."""
    client.force_open()
    assert client.put_metric("M", 1)
    runtime.advance(600.0)
    assert (sink.attempts, client.stats().pending) == (0, 1)
    client.reset_breaker()
    runtime.advance(60.0)
    assert len(sink.datums) == 1


def test_reject_refuses_while_open_and_lets_a_record_be_the_probe_afterwards(
    make_client: Make, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """on_open="reject": False while open, then one record may find out."""
    client = make_client(on_open="reject", open_seconds=100.0)

    def fail(_: Batch) -> None:
        message = "AccessDenied"
        raise SinkForbidden(message)

    handle = client.counter("C")
    sink.fail = fail
    handle.inc()
    client.flush()
    assert client.stats().breaker_state is BreakerState.OPEN
    assert not client.put_metric("M", 1)
    assert not handle.inc()
    assert client.stats().dropped == {DropReason.BREAKER_OPEN: 2}
    sink.fail = None
    runtime.advance(130.0)
    assert client.put_metric("M", 1)
    client.flush()
    assert client.stats().breaker_state is BreakerState.CLOSED
    assert_balanced(client)


def test_a_disabled_breaker_lets_every_call_pass(
    client: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """Operators can insist."""
    client.disable_breaker()

    def fail(_: Batch) -> None:
        message = "503"
        raise SinkUnavailable(message)

    sink.fail = fail
    client.put_metric("M", 1)
    runtime.advance(3600.0)
    assert sink.attempts > 30
    assert client.stats().breaker_state is BreakerState.DISABLED


# ---- put_metric_sync ----


def test_put_metric_sync_sends_one_datum_on_the_callers_thread(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """It is accepted when the call returns, without a flush."""
    assert client.put_metric_sync("Deployment", 1, dimensions={"Version": "v7"})
    assert sink.values(NAMESPACE, "Deployment", {"Version": "v7"}) == {1.0: 1}
    assert client.stats().delivered == 1
    assert_balanced(client)


def test_put_metric_sync_goes_through_the_breaker(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """Its failures count, and an open breaker refuses it, with a reason in the ledger."""

    def fail(_: Batch) -> None:
        message = "503"
        raise SinkUnavailable(message)

    sink.fail = fail
    results = [client.put_metric_sync("M", 1) for _ in range(7)]
    assert results == [False] * 7
    assert sink.attempts == 5
    assert client.stats().dropped == {DropReason.NOT_SENT: 5, DropReason.BREAKER_OPEN: 2}
    assert_balanced(client)


# ---- flush and stop ----


def test_flush_retries_within_its_timeout(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """One failed call does not fail a flush that has time left."""
    failures = iter([True, True])

    def fail(_: Batch) -> None:
        if next(failures, False):
            message = "503"
            raise SinkUnavailable(message)

    sink.fail = fail
    client.put_metric("M", 1)
    result = client.flush(timeout=30.0)
    assert result
    assert (result.delivered, result.dropped, result.pending) == (1, 0, 0)


def test_stop_gives_an_open_breaker_one_last_chance(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """At the end of the process there is nothing to lose by asking once."""

    def fail(_: Batch) -> None:
        message = "AccessDenied"
        raise SinkForbidden(message)

    sink.fail = fail
    client.put_metric("M", 1)
    client.flush()
    sink.fail = None
    assert client.stop()
    assert len(sink.datums) == 1


def test_what_stop_cannot_deliver_is_counted_as_shutdown(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """Nothing vanishes: the ledger says how much was left."""

    def fail(_: Batch) -> None:
        message = "503"
        raise SinkUnavailable(message)

    sink.fail = fail
    for _ in range(3):
        client.put_metric("M", 1)
    result = client.stop(timeout=5.0)
    assert (result.delivered, result.dropped, result.pending) == (0, 3, 0)
    assert client.stats().dropped == {DropReason.SHUTDOWN: 3}
    assert_balanced(client)


def test_what_is_read_rather_than_counted_is_read_a_last_time_at_stop(
    client: CloudWatchMetrics, sink: InMemorySink
) -> None:
    """A process that lives shorter than one interval still publishes its zeros and its gauges."""
    client.counter("Failures", emits_zero=True)
    client.gauge("QueueLength", lambda: 7.0)
    client.stop()
    assert sink.values(NAMESPACE, "Failures") == {0.0: 1}
    assert sink.values(NAMESPACE, "QueueLength") == {7.0: 1}
    assert client.stats().dropped == {}


def test_a_stopped_client_refuses_and_can_be_started_again(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """After stop records return False with a reason; start makes it take them again."""
    handle = client.counter("C")
    handle.inc()
    client.stop()
    assert not client.put_metric("M", 1)
    assert not handle.inc()
    assert client.stats().dropped == {DropReason.STOPPED: 2}
    client.start()
    assert handle.inc()
    client.flush()
    assert sink.values(NAMESPACE, "C") == {1.0: 2}
    assert_balanced(client)


def test_an_error_inside_the_sink_does_not_end_the_flusher(
    client: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """A sink that raises anything at all is unavailable, and the batch is kept."""
    failures = iter([ZeroDivisionError(), MemoryError(), KeyError("x")])

    def fail(_: Batch) -> None:
        error = next(failures, None)
        if error is not None:
            raise error

    sink.fail = fail
    client.put_metric("M", 1)
    runtime.advance(600.0)
    assert len(sink.datums) == 1
    assert client.stats().running
