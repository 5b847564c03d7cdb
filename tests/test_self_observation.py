"""What a client says about itself: to a probe, to CloudWatch, and to the application's hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from retainwise_metrics import CloudWatchMetrics, DropReason, Health, MetricNamespace, MetricsConfig
from retainwise_metrics.catalogue import SELF_METRICS
from retainwise_metrics.datum import Series
from retainwise_metrics.sinks.base import SinkUnavailable
from tests.helpers import NAMESPACE, assert_balanced

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from retainwise_metrics.datum import Batch
    from retainwise_metrics.testing import InMemorySink, ManualRuntime

    Make = Callable[..., CloudWatchMetrics]

OWN = MetricNamespace.METRICS.value


def unavailable(_: Batch) -> None:
    """Nothing gets through."""
    message = "503"
    raise SinkUnavailable(message)


# ---- health ----


def test_a_client_is_well_before_its_first_record_and_after_each_delivery(client: CloudWatchMetrics) -> None:
    """Nothing to do is no problem."""
    assert client.health() == Health((), client.stats().breaker_state, False, 0, 0, 0.0, 0)
    assert client.health()
    client.put_metric("M", 1)
    client.flush()
    assert client.health()
    assert client.health().running


def test_a_disabled_client_is_well(make_client: Make) -> None:
    """Somebody wanted it so."""
    assert make_client(enabled=False).health()


def test_an_outage_is_a_problem_until_it_is_over(
    client: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """First the breaker, then the age of what waits; each in words, with the last error."""
    sink.fail = unavailable
    client.put_metric("M", 1)
    runtime.advance(120.0)
    health = client.health()
    assert not health
    assert health.problems == ("the circuit breaker is open; last error: SinkUnavailable: 503",)
    assert (health.pending, health.dropped) == (1, 0)
    runtime.advance(300.0)
    health = client.health()
    assert health.backlog_age_seconds == pytest.approx(360.0, abs=61.0)
    assert any("has been waiting for" in problem for problem in health.problems)
    sink.fail = None
    runtime.advance(1800.0)
    assert client.health()
    assert client.health().backlog_age_seconds == 0.0


def test_the_age_of_what_is_on_disk_counts(
    make_client: Make, sink: InMemorySink, runtime: ManualRuntime, tmp_path: Path
) -> None:
    """It waits all the same."""
    client = make_client(spool_dir=str(tmp_path))
    sink.fail = unavailable
    client.put_metric("M", 1)
    runtime.advance(3600.0)
    assert client.health().spooled == client.health().pending == 1
    assert client.health().backlog_age_seconds == pytest.approx(3540.0, abs=61.0)


def test_a_disk_that_fails_is_a_problem(
    make_client: Make, sink: InMemorySink, runtime: ManualRuntime, tmp_path: Path
) -> None:
    """The probe names the folder."""
    (tmp_path / "spool").write_text("a file")
    client = make_client(spool_dir=str(tmp_path / "spool"))
    sink.fail = unavailable
    client.put_metric("M", 1)
    runtime.advance(90.0)
    assert f"the spool in {tmp_path / 'spool'} fails; the log says why" in client.health().problems


def test_a_stopped_client_and_a_thread_that_is_gone_are_problems(
    client: CloudWatchMetrics, make_client: Make, sink: InMemorySink
) -> None:
    """Values wait, and nobody works on them."""
    client.stop()
    assert client.health().problems == ("the client was stopped: records are refused",)
    other = make_client()
    sink.fail = unavailable
    other.put_metric("M", 1)
    other._pipeline._worker.due = None  # type: ignore[union-attr]  # whatever ended it
    assert other.health().problems == ("values wait and no metrics thread runs: call flush(), or allow threads",)


# ---- self-metrics ----


def test_nothing_is_published_about_itself_unless_asked_for(
    make_client: Make, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """Every series is on the bill."""
    client = make_client()
    client.put_metric("M", float("nan"))
    client.put_metric("M", 1)
    runtime.advance(600.0)
    client.stop()
    assert {datum.series.namespace for datum in sink.datums} == {NAMESPACE}


@pytest.mark.parametrize("catalogue", [None, ()])
def test_drops_are_published_by_reason_and_as_a_roll_up_that_always_has_data(
    make_client: Make, sink: InMemorySink, runtime: ManualRuntime, catalogue: tuple[()] | None
) -> None:
    """The alarm reads the roll-up: each drop once, and 0 while there are none; a catalogue of one's own changes nothing."""
    client = make_client(self_metrics=True, catalogue=catalogue, default_dimensions={"Service": "api"})
    client.start()
    runtime.advance(60.0)
    for _ in range(3):
        client.put_metric("M", float("nan"))
    client.put_metric("", 1)
    runtime.advance(60.0)
    client.put_metric("M", float("nan"))
    runtime.advance(180.0)
    client.stop()
    published = sink.values(OWN, "MetricsDropped")
    assert sum(value * count for value, count in published.items()) == 5
    assert sum(published.values()) >= 6
    by_reason = {
        reason: sum(v * n for v, n in sink.values(OWN, "MetricsDropped", {"Reason": reason}).items())
        for reason in ("invalid-value", "invalid-name")
    }
    assert by_reason == {"invalid-value": 4, "invalid-name": 1}
    assert_balanced(client)


def test_an_outage_is_seen_afterwards(make_client: Make, sink: InMemorySink, runtime: ManualRuntime) -> None:
    """When the breaker was open, how old the backlog became, how long the calls took, each in its own minute."""
    client = make_client(self_metrics=True, catalogue=())
    client.put_metric("M", 1)
    runtime.advance(120.0)
    sink.fail = unavailable
    client.put_metric("M", 1)
    runtime.advance(240.0)
    sink.fail = None
    runtime.advance(1200.0)
    client.stop()
    circuit = {datum.timestamp: set(datum.values) for datum in sink.datums if datum.series.name == "CircuitOpen"}
    minutes = sorted(circuit)
    assert minutes == list(range(minutes[0], minutes[-1] + 60, 60)), "there is a value for every minute"
    assert [1.0 in circuit[minute] for minute in minutes].count(True) >= 3
    assert circuit[minutes[0]] == circuit[minutes[-1]] == {0.0}
    assert max(sink.values(OWN, "BacklogAge")) > 60.0
    assert sum(sink.values(OWN, "PublishLatency").values()) > 5
    assert client.stats().dropped == {}
    assert {datum.series.unit for datum in sink.datums if datum.series.name == "BacklogAge"} == {"Seconds"}


def test_its_own_calls_make_no_work_that_grows(make_client: Make, sink: InMemorySink, runtime: ManualRuntime) -> None:
    """An idle client publishes the same few values each minute, and makes one call for them."""
    client = make_client(self_metrics=True)
    client.start()
    runtime.advance(3600.0)
    assert 58 <= client.stats().calls <= 62
    assert client.stats().recorded <= 62 * len(SELF_METRICS)
    assert client.stats().series == len(SELF_METRICS)


def test_a_forked_child_does_not_repeat_what_its_parent_dropped(
    make_client: Make, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """Its books are empty, and so is what it publishes."""
    client = make_client(self_metrics=True)
    client.put_metric("M", float("nan"))
    runtime.advance(120.0)
    runtime.after_fork()
    client.after_fork()
    sink.batches.clear()
    client.start()
    client.put_metric("M", float("nan"))
    runtime.advance(120.0)
    assert sum(value * count for value, count in sink.values(OWN, "MetricsDropped").items()) == 1


# ---- hooks ----


def make_hooked(runtime: ManualRuntime, sink: InMemorySink, **hooks: object) -> CloudWatchMetrics:
    """A client with hooks and nothing else."""
    return CloudWatchMetrics(MetricsConfig(catalogue=()), sink=sink, runtime=runtime, **hooks)  # type: ignore[arg-type]


def test_drops_are_told_with_their_reasons(runtime: ManualRuntime, sink: InMemorySink) -> None:
    """What is told adds up to what the ledger says, those at the end included."""
    told: list[tuple[DropReason, int]] = []
    client = make_hooked(runtime, sink, on_drop=lambda reason, count: told.append((reason, count)))
    for _ in range(5):
        client.put_metric("M", float("nan"))
    runtime.advance(60.0)
    client.put_metric("", 1)
    sink.fail = unavailable
    client.put_metric("M", 1)
    client.stop(1.0)
    sums: dict[DropReason, int] = {}
    for reason, count in told:
        sums[reason] = sums.get(reason, 0) + count
    assert sums == client.stats().dropped
    assert sums == {DropReason.INVALID_VALUE: 5, DropReason.INVALID_NAME: 1, DropReason.SHUTDOWN: 1}


def test_a_hook_that_raises_costs_only_what_it_was_asked_about(
    runtime: ManualRuntime, sink: InMemorySink, caplog: pytest.LogCaptureFixture
) -> None:
    """Values that could not be asked about are withheld; nothing else happens, but a line in the log."""

    def before_send(series: Series) -> Series:
        if series.name == "Bad":
            raise SystemExit
        return series

    def on_drop(*_: object) -> None:
        raise KeyboardInterrupt

    client = make_hooked(runtime, sink, before_send=before_send, on_drop=on_drop)
    for name in ("Good", "Bad", "Fine"):
        client.put_metric(name, 1)
    assert client.flush()
    assert sorted(datum.series.name for datum in sink.datums) == ["Fine", "Good"]
    assert client.stats().dropped == {DropReason.WITHHELD: 1}
    assert_balanced(client)
    assert "before_send raised" in caplog.text
    assert "on_drop raised" in caplog.text


def test_series_can_be_changed_or_withheld_before_they_are_sent(runtime: ManualRuntime, sink: InMemorySink) -> None:
    """Values of two series that become one are added up."""

    def before_send(series: Series) -> Series | None:
        if series.name == "Secret":
            return None
        return series.with_dimensions(tuple(pair for pair in series.dimensions if pair[0] != "Pod"))

    client = make_hooked(runtime, sink, before_send=before_send)
    for pod in ("a", "b"):
        client.put_metric("M", 1, dimensions={"Pod": pod, "Zone": "z"})
    client.put_metric("Secret", 1)
    assert not client.put_metric_sync("Secret", 1)
    assert client.put_metric_sync("M", 5, dimensions={"Pod": "a"})
    assert client.flush()
    assert sink.values(NAMESPACE, "M", {"Zone": "z"}) == {1: 2}
    assert sink.values(NAMESPACE, "M") == {5: 1}
    assert client.stats().dropped == {DropReason.WITHHELD: 2}
    assert_balanced(client)


@pytest.mark.parametrize(
    "wrong",
    [
        "M",
        True,
        Series("AWS/Own", "M", (), "None", 60),
        Series("N", "", (), "None", 60),
        Series("N", "M", (), "Parsecs", 60),
        Series("N", "M", (), "None", 5),
        Series("N", "M", (("a", ""),), "None", 60),
        Series("N", "M", (("a", "ä"),), "None", 60),
        Series("N", "M", tuple((f"d{i}", "x") for i in range(31)), "None", 60),
    ],
)
def test_what_is_no_series_that_cloudwatch_takes_is_withheld(
    runtime: ManualRuntime, sink: InMemorySink, wrong: object
) -> None:
    """It would poison the batch."""
    client = make_hooked(runtime, sink, before_send=lambda series: wrong if series.name == "Bad" else series)
    client.put_metric("Bad", 1)
    client.put_metric("M", 1)
    assert client.flush()
    assert [datum.series.name for datum in sink.datums] == ["M"]
    assert client.stats().dropped == {DropReason.WITHHELD: 1}
