"""While the breaker is open, batches go elsewhere: each through exactly one sink, and back after recovery."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics import BreakerState, CloudWatchMetrics, DropReason, MetricsConfig
from retainwise_metrics.sinks.base import SinkError, SinkForbidden, SinkRejected, SinkUnavailable
from retainwise_metrics.sinks.failover import FailoverSink
from retainwise_metrics.testing import EmfReader, InMemorySink, ManualRuntime, rejecting
from tests.concurrency.threads import FOREVER_SECONDS, PATIENCE_SECONDS, Gate, begin
from tests.helpers import NAMESPACE, assert_balanced

if TYPE_CHECKING:
    from collections.abc import Callable

    from retainwise_metrics.datum import Batch, Datum


def failing(error: type[SinkError] = SinkUnavailable) -> Callable[[Batch], None]:
    """A destination that is down."""

    def fail(_: Batch) -> None:
        message = "503"
        raise error(message)

    return fail


@pytest.fixture
def second() -> InMemorySink:
    """The second sink."""
    return InMemorySink()


@pytest.fixture
def both(runtime: ManualRuntime, sink: InMemorySink, second: InMemorySink) -> Callable[..., CloudWatchMetrics]:
    """Make a client with a second sink."""

    def make(**settings: object) -> CloudWatchMetrics:
        config = MetricsConfig(catalogue=(), **settings)
        return CloudWatchMetrics(config, sink=FailoverSink(sink, second), runtime=runtime)

    return make


def values(*sinks: InMemorySink) -> Counter[float]:
    """What the sinks have of the metric M, together."""
    total: Counter[float] = Counter()
    for sink in sinks:
        total.update(sink.values(NAMESPACE, "M"))
    return total


def open_breaker(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """One refused call, after which the breaker lets nothing through. What it carried is diverted at once."""
    sink.fail = failing(SinkForbidden)
    client.put_metric("Opens", 1)
    client.flush()
    assert client.stats().breaker_state is BreakerState.OPEN


# ---- which sink ----


def test_nothing_is_diverted_while_the_first_sink_works(
    both: Callable[..., CloudWatchMetrics], sink: InMemorySink, second: InMemorySink
) -> None:
    """The second sink is not asked."""
    client = both()
    client.put_metric("M", 1)
    assert client.flush()
    assert (len(sink.datums), second.attempts, client.stats().diverted) == (1, 0, 0)


def test_a_failure_alone_diverts_nothing(
    both: Callable[..., CloudWatchMetrics], sink: InMemorySink, second: InMemorySink, runtime: ManualRuntime
) -> None:
    """Below the breaker's threshold a batch is tried again where it failed: one breaker decides."""
    client = both(failure_threshold=5)
    failures = iter([True] * 4)
    sink.fail = lambda batch: failing()(batch) if next(failures, False) else None
    client.put_metric("M", 1)
    client.flush(timeout=100.0)
    runtime.advance(60.0)
    assert (len(sink.datums), second.attempts) == (1, 0)


def test_an_outage_from_beginning_to_end(
    both: Callable[..., CloudWatchMetrics], sink: InMemorySink, second: InMemorySink, runtime: ManualRuntime
) -> None:
    """Forty minutes, of which twenty are an outage: each value arrives once, the outage's at the second sink, the rest at the first."""
    client = both(open_seconds=300.0, max_open_seconds=300.0)
    start = runtime.wall()
    probes = 0

    def fail(batch: Batch) -> None:
        nonlocal probes
        if 600 <= runtime.wall() - start < 1800:
            probes += 1
            failing()(batch)

    sink.fail = fail
    for minute in range(40):
        assert client.put_metric("M", minute)
        runtime.advance(60.0)
        assert_balanced(client)
    assert client.flush()
    stats = client.stats()
    assert values(sink, second) == dict.fromkeys(range(40), 1)
    assert (stats.delivered, stats.dropped, stats.breaker_state) == (40, {}, BreakerState.CLOSED)
    assert stats.diverted == len(second.datums) >= 10
    assert probes <= 5 + 1200 // 300, "five failures open it, then there is one probe per open period"
    assert set(range(10)) <= set(values(sink)), "before the outage"
    assert 39.0 in values(sink), "after recovery"


def test_the_probe_goes_to_the_first_sink_and_decides(
    both: Callable[..., CloudWatchMetrics], sink: InMemorySink, second: InMemorySink, runtime: ManualRuntime
) -> None:
    """After the open time one batch asks the first sink; if it is still down, that batch is diverted after all."""
    client = both(open_seconds=100.0)
    open_breaker(client, sink)
    before = sink.attempts
    runtime.advance(130.0)
    client.put_metric("M", 1)
    assert client.flush()
    assert sink.attempts == before + 1
    assert values(second) == {1.0: 1}
    sink.fail = None
    runtime.advance(300.0)
    client.put_metric("M", 2)
    assert client.flush()
    assert values(sink) == {2.0: 1}
    assert client.stats().breaker_state is BreakerState.CLOSED


def test_an_operators_open_breaker_diverts_too(
    both: Callable[..., CloudWatchMetrics], sink: InMemorySink, second: InMemorySink, runtime: ManualRuntime
) -> None:
    """`force_open` means: no calls there."""
    client = both()
    client.force_open()
    client.put_metric("M", 1)
    runtime.advance(60.0)
    assert (sink.attempts, values(second)) == (0, {1.0: 1})
    client.reset_breaker()
    client.put_metric("M", 2)
    client.flush()
    assert values(sink) == {2.0: 1}


def test_a_disabled_breaker_never_diverts(
    both: Callable[..., CloudWatchMetrics], sink: InMemorySink, second: InMemorySink, runtime: ManualRuntime
) -> None:
    """`disable_breaker` means: calls there, whatever happens."""
    client = both()
    client.disable_breaker()
    sink.fail = failing()
    client.put_metric("M", 1)
    runtime.advance(600.0)
    assert sink.attempts > 10
    assert second.attempts == 0


# ---- what goes wrong there ----


def test_a_diversion_that_fails_keeps_the_batch(
    both: Callable[..., CloudWatchMetrics], sink: InMemorySink, second: InMemorySink, runtime: ManualRuntime
) -> None:
    """It is tried again with growing waits, and whichever sink works first gets it, once."""
    client = both(open_seconds=86_400.0)
    second.fail = failing()
    open_breaker(client, sink)
    client.put_metric("M", 1)
    runtime.advance(600.0)
    assert_balanced(client)
    assert client.stats().pending == 2
    assert 5 < second.attempts < 100, "it waits between two attempts"
    assert "while diverting: SinkUnavailable" in str(client.stats().last_error)
    assert sink.attempts == 1, "failed diversions are none of the breaker's business"
    second.fail = None
    runtime.advance(120.0)
    assert (values(sink, second), client.stats().pending, client.stats().diverted) == ({1.0: 1}, 0, 2)


def test_the_first_sink_does_not_wait_for_the_second(
    both: Callable[..., CloudWatchMetrics], sink: InMemorySink, second: InMemorySink, runtime: ManualRuntime
) -> None:
    """The second one asks for a quarter of an hour; the first one is asked as soon as its open time is over."""
    client = both(open_seconds=100.0)

    def fail(_: Batch) -> None:
        message = "503"
        raise SinkUnavailable(message, retry_after_seconds=900.0)

    second.fail = fail
    open_breaker(client, sink)
    sink.fail = None
    runtime.advance(115.0)  # open for 100 s and half of the jitter; nothing else is due before the full minute
    assert len(sink.datums) == 1
    assert second.attempts == 1


def test_what_the_second_sink_refuses_is_dropped_and_the_rest_goes_through(
    both: Callable[..., CloudWatchMetrics], second: InMemorySink
) -> None:
    """Named or searched for, as at the first sink, and the breaker does not learn of it."""
    for named in (True, False):
        client = both(batch_size=50)
        client.force_open()
        second.fail = rejecting(lambda datum: datum.series.name == "Bad", name_members=named)
        for index in range(20):
            client.put_metric(f"Good{index}", 1)
        client.put_metric("Bad", 1)
        assert client.flush()
        assert client.stats().dropped == {DropReason.REJECTED: 1}
        assert client.stats().diverted == 20
        assert client.stats().breaker_state is BreakerState.FORCED_OPEN


def test_a_search_for_poison_ends_where_the_sink_changes(
    both: Callable[..., CloudWatchMetrics], sink: InMemorySink, second: InMemorySink, runtime: ManualRuntime
) -> None:
    """The outage begins in the middle of a search: the second sink takes the poison too, and nothing innocent is convicted."""
    client = both(batch_size=100, open_seconds=300.0)
    calls = 0

    def fail(batch: Batch) -> None:
        nonlocal calls
        calls += 1
        if calls > 2:
            failing(SinkForbidden)(batch)
        rejecting(lambda datum: datum.series.name == "M07", name_members=False)(batch)

    sink.fail = fail
    for index in range(20):
        client.put_metric(f"M{index:02}", index)
    client.flush()
    assert client.stats().dropped == {}
    assert {datum.series.name for datum in second.datums} == {f"M{index:02}" for index in range(20)}
    assert_balanced(client)


def test_a_search_at_the_second_sink_does_not_go_on_at_the_first(
    both: Callable[..., CloudWatchMetrics], sink: InMemorySink, second: InMemorySink, runtime: ManualRuntime
) -> None:
    """What the second sink refuses may be fine for the first."""
    client = both(batch_size=100)
    client.force_open()

    def fail(batch: Batch) -> None:
        if second.attempts == 2:
            client._pipeline.breaker.automatic()
            failing()(batch)
        message = "no reason given"
        raise SinkRejected(message)

    second.fail = fail
    for index in range(20):
        client.put_metric(f"M{index:02}", index)
    client.flush()
    runtime.advance(120.0)
    assert client.stats().dropped == {}
    assert len(sink.datums) == 20


# ---- recording, put_metric_sync, stop, fork ----


def test_nothing_is_refused_although_records_would_be_rejected(
    both: Callable[..., CloudWatchMetrics], sink: InMemorySink, second: InMemorySink
) -> None:
    """With `on_open="reject"` there is still a place for every record."""
    client = both(on_open="reject")
    open_breaker(client, sink)
    assert client.put_metric("M", 1)
    assert client.counter("M").inc()
    assert client.flush()
    assert values(second) == {1.0: 2}
    assert client.stats().dropped == {}


def test_put_metric_sync_goes_to_the_second_sink_while_the_breaker_is_open(
    both: Callable[..., CloudWatchMetrics], sink: InMemorySink, second: InMemorySink
) -> None:
    """On the caller's thread, and the breaker stays as it is: the first sink has not been asked."""
    client = both()
    open_breaker(client, sink)
    before = client.stats()
    assert client.put_metric_sync("M", 5)
    assert values(second) == {5.0: 1}
    after = client.stats()
    assert (after.breaker_state, after.calls, after.diverted) == (
        BreakerState.OPEN,
        before.calls,
        before.diverted + 1,
    )
    second.fail = failing()
    assert not client.put_metric_sync("M", 6)
    assert client.stats().dropped == {DropReason.NOT_SENT: 1}
    assert_balanced(client)


def test_stop_asks_the_first_sink_once_and_then_the_second(
    both: Callable[..., CloudWatchMetrics], sink: InMemorySink, second: InMemorySink
) -> None:
    """At the end nothing is left: elsewhere, not nowhere."""
    client = both()
    open_breaker(client, sink)
    asked = sink.attempts
    client.put_metric("M", 1)
    assert client.stop()
    assert sink.attempts == asked + 1
    assert values(second) == {1.0: 1}
    assert client.stats().dropped == {}


def test_what_neither_sink_took_is_counted_when_the_client_stops(
    both: Callable[..., CloudWatchMetrics], sink: InMemorySink, second: InMemorySink
) -> None:
    """As `shutdown`, within the time that stop has."""
    client = both()
    second.fail = failing()
    open_breaker(client, sink)
    client.put_metric("M", 1)
    client.stop(timeout=5.0)
    assert client.stats().dropped == {DropReason.SHUTDOWN: 2}
    assert_balanced(client)


def test_a_forked_child_has_both_sinks_and_nothing_of_the_parents(
    both: Callable[..., CloudWatchMetrics], sink: InMemorySink, second: InMemorySink, runtime: ManualRuntime
) -> None:
    """The books start at zero, the breaker closed."""
    client = both()
    open_breaker(client, sink)
    runtime.after_fork()
    client.after_fork()
    assert client.stats().diverted == client.stats().recorded == 0
    open_breaker(client, sink)
    client.put_metric("M", 1)
    assert client.flush()
    assert values(second) == {1.0: 1}
    assert_balanced(client)


def test_batches_are_diverted_while_somebody_elses_probe_is_under_way() -> None:
    """A hanging probe of put_metric_sync does not hold up what the second sink can take; then everything goes to the first again."""
    gate, second = Gate(), InMemorySink()
    first = InMemorySink(failing(SinkForbidden))
    client = CloudWatchMetrics(
        MetricsConfig(catalogue=(), open_seconds=0.1, flush_interval_seconds=3600.0), sink=FailoverSink(first, second)
    )
    assert not client.put_metric_sync("Opens", 1)
    first.fail = gate
    probe = begin(lambda: _until_sent(client, gate))
    gate.wait_until_reached()
    assert client.stats().breaker_state is BreakerState.HALF_OPEN
    client.put_metric("M", 1)
    assert client.flush(FOREVER_SECONDS)
    assert values(second) == {1.0: 1}
    gate.open()
    assert probe.result(PATIENCE_SECONDS)
    client.put_metric("M", 2)
    assert client.stop(FOREVER_SECONDS)
    assert values(first) == {2.0: 1}
    assert_balanced(client)


def _until_sent(client: CloudWatchMetrics, gate: Gate) -> bool:
    while not gate.reached.is_set():
        client.put_metric_sync("Probe", 1)  # to the second sink until the open time is over
    return True


# ---- the sink itself ----


def test_both_sinks_are_forked_and_closed_even_if_one_of_them_fails() -> None:
    """What one raises does not keep the other from letting go."""
    done: list[str] = []

    class Loud(InMemorySink):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def after_fork(self) -> None:
            done.append(f"{self.name} forked")
            raise ZeroDivisionError

        def close(self) -> None:
            done.append(f"{self.name} closed")
            raise ZeroDivisionError

    sink = FailoverSink(Loud("first"), Loud("second"))
    for act in (sink.after_fork, sink.close):
        with pytest.raises(ZeroDivisionError):
            act()
    assert done == ["first forked", "second forked", "first closed", "second closed"]


def test_sizes_are_those_of_the_first_sink() -> None:
    """It is the one whose requests have a limit."""

    class Sized(InMemorySink):
        def datum_bytes(self, datum: Datum) -> int:
            return 7

        def envelope_bytes(self, namespace: str) -> int:
            return 8

    sink = FailoverSink(Sized(), InMemorySink())
    assert (sink.datum_bytes(None), sink.envelope_bytes("N")) == (7, 8)  # type: ignore[arg-type]


def test_the_setting_makes_standard_output_the_second_sink(capfd: pytest.CaptureFixture[str]) -> None:
    """`failover="emf"`: nothing of the outage is lost to whoever reads the output."""
    client = CloudWatchMetrics(MetricsConfig(catalogue=(), failover="emf", region="us-east-1"))
    client.force_open()
    client.put_metric("M", 5)
    assert client.stop(FOREVER_SECONDS)
    assert (client.stats().diverted, client.stats().calls) == (1, 0)
    assert EmfReader().read(capfd.readouterr().out).values(NAMESPACE, "M") == {5.0: 1}


@pytest.mark.parametrize("sink", ["emf", "memory"])
def test_sinks_that_need_no_second_one_have_none(sink: str) -> None:
    """The setting may come from an environment that is shared."""
    client = CloudWatchMetrics(MetricsConfig(catalogue=(), failover="emf", sink=sink))
    client.force_open()
    client.put_metric("M", 5)
    client.stop(FOREVER_SECONDS)
    assert client.stats().diverted == 0
    assert client.stats().dropped == {DropReason.SHUTDOWN: 1}
