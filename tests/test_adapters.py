"""The services behind `MetricsService`: over the client, over EMF, and the recording fake."""

from __future__ import annotations

import asyncio
import inspect
import io
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from retainwise_metrics import emf
from retainwise_metrics.adapters import ClientMetrics, EmfMetrics
from retainwise_metrics.exceptions import InvalidMetricError
from retainwise_metrics.service import MetricsService, NullMetrics
from retainwise_metrics.testing import RecordingMetrics
from retainwise_metrics.testing.emf_reader import EmfReader
from retainwise_metrics.use_cases import track_use_case

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from retainwise_metrics import CloudWatchMetrics
    from retainwise_metrics.testing import InMemorySink, ManualRuntime

NAMESPACE = "Ticketing"
TAKEN = {"error_type": "SeatTaken"}


def drive(coroutine: Coroutine[object, None, None]) -> None:
    """Run a coroutine that never waits, without an event loop."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


def record_everything(metrics: MetricsService) -> None:
    """Use every method, every argument and every default once."""
    drive(metrics.increment("booking.attempts"))
    drive(metrics.increment("booking.failure", value=2, dimensions=TAKEN))
    drive(metrics.record_timing("booking.duration", value_ms=12.5))
    drive(metrics.record_timing("booking.duration", value_ms=0.25, dimensions={"status": "success"}))
    metrics.set_property("seat_id", "A1")


class Broken:
    """A recorder and a logger whose every method fails."""

    def __init__(self, failure: Exception) -> None:
        self.failure = failure

    def put_metric(self, *_: Any, **__: Any) -> bool:
        """Fail."""
        raise self.failure

    increment_counter = record_time = set_property = put_metric


@pytest.mark.parametrize("service", [ClientMetrics, EmfMetrics, RecordingMetrics, NullMetrics])
def test_every_service_has_the_methods_of_the_protocol(service):
    """Code written against the protocol runs with each, keyword for keyword."""
    for name in ("increment", "record_timing", "set_property"):
        assert inspect.signature(getattr(service, name)) == inspect.signature(getattr(MetricsService, name))


# ---- over the client ----


def test_over_the_client(client: CloudWatchMetrics, sink: InMemorySink):
    """Counts and milliseconds arrive in the adapter's namespace; the property goes nowhere."""
    record_everything(ClientMetrics(client, NAMESPACE))
    assert client.flush()
    assert sink.values(NAMESPACE, "booking.attempts") == {1.0: 1}
    assert sink.values(NAMESPACE, "booking.failure", TAKEN) == {2.0: 1}
    assert sink.values(NAMESPACE, "booking.duration") == {12.5: 1}
    assert sink.values(NAMESPACE, "booking.duration", {"status": "success"}) == {0.25: 1}
    assert {datum.series.unit for datum in sink.datums} == {"Count", "Milliseconds"}
    assert len(sink.datums) == 4
    assert client.stats().dropped == {}


def test_over_a_scope_in_the_clients_namespace(client: CloudWatchMetrics, sink: InMemorySink):
    """Any recorder will do; without a namespace, the recorder's own is used."""
    drive(ClientMetrics(client.scoped({"Service": "box-office"})).increment("booking.attempts"))
    assert client.flush()
    assert sink.values("RetainWise/MLPipeline", "booking.attempts", {"Service": "box-office"}) == {1.0: 1}


def test_a_bad_record_is_refused_by_the_client_and_counted(client: CloudWatchMetrics):
    """What CloudWatch would refuse does not raise; the client's ledger knows."""
    metrics = ClientMetrics(client, NAMESPACE)
    drive(metrics.increment(""))
    drive(metrics.record_timing("booking.duration", value_ms=float("nan")))
    drive(metrics.increment("booking.attempts", dimensions={"": "x"}))
    assert sum(client.stats().dropped.values()) == 3


def test_a_strict_client_raises(make_client: Callable[..., CloudWatchMetrics]):
    """`strict` is for tests, which want to see a bad record where it is made."""
    with pytest.raises(InvalidMetricError):
        ClientMetrics(make_client(strict=True)).increment("").send(None)


# ---- over EMF ----


def test_over_emf():
    """Counts and milliseconds arrive with their dimensions, and the property beside what follows it."""
    stream = io.StringIO()
    logger = emf.MetricsLogger(NAMESPACE, stream=stream)
    metrics = EmfMetrics(logger)
    record_everything(metrics)
    drive(metrics.increment("booking.success"))
    assert logger.flush()
    read = EmfReader().read(stream.getvalue())
    assert read.values(NAMESPACE, "booking.attempts") == {1.0: 1}
    assert read.values(NAMESPACE, "booking.failure", TAKEN) == {2.0: 1}
    assert read.values(NAMESPACE, "booking.duration") == {12.5: 1}
    assert read.values(NAMESPACE, "booking.duration", {"status": "success"}) == {0.25: 1}
    assert read.statistics(NAMESPACE, "booking.attempts", unit="Count").count == 1
    assert read.statistics(NAMESPACE, "booking.duration", unit="Milliseconds").count == 1
    assert read.total_count() == 5
    assert {name for document in read.documents if "seat_id" in document for name in document if "." in name} == {
        "booking.success"
    }


def test_properties_of_tasks_do_not_mix():
    """Each task's records stand beside its own seat, however the tasks interleave."""
    stream = io.StringIO()
    logger = emf.MetricsLogger(NAMESPACE, stream=stream)
    metrics = EmfMetrics(logger)

    async def book(number: int) -> None:
        metrics.set_property("seat", number)
        async with track_use_case("booking", metrics):
            await asyncio.sleep(0)
            await metrics.increment("price", value=number)

    async def main() -> None:
        await asyncio.gather(*map(book, range(100)))

    asyncio.run(main())
    logger.flush()
    read = EmfReader().read(stream.getvalue())
    priced = [document for document in read.documents if "price" in document]
    assert sorted(document["seat"] for document in priced) == list(range(100))
    assert all(document["seat"] == document["price"] for document in priced)
    for name in ("booking.attempts", "booking.success"):
        assert read.sum(NAMESPACE, name) == 100
    assert read.count(NAMESPACE, "booking.duration", {"status": "success"}) == 100


# ---- both ----


@pytest.mark.parametrize("adapter", [ClientMetrics, EmfMetrics])
def test_what_is_behind_may_fail(adapter, caplog):
    """Nothing raises; one line a service says so, without the message, which may hold a dimension value."""
    metrics = adapter(Broken(RuntimeError("user 17")))
    record_everything(metrics)
    record_everything(metrics)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert adapter.__name__ in caplog.text
    assert "user 17" not in caplog.text


def test_both_publish_the_same(
    make_client: Callable[..., CloudWatchMetrics], runtime: ManualRuntime, sink: InMemorySink
):
    """One program, run over the client and over EMF from several threads: the same series, with the same values."""
    stream = io.StringIO()
    client, logger = make_client(), emf.MetricsLogger(NAMESPACE, stream=stream, clock=runtime.wall)
    services: list[MetricsService] = [ClientMetrics(client, NAMESPACE), EmfMetrics(logger)]

    def work(number: int) -> None:
        for metrics in services:
            for value in range(20):
                drive(metrics.increment("booking.attempts"))
                drive(metrics.record_timing("booking.duration", value_ms=value / 8, dimensions={"thread": str(number)}))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.flush()
    assert logger.flush()
    read = EmfReader(now=runtime.wall).read(stream.getvalue())
    assert len(read.series()) == len({datum.series for datum in sink.datums}) == 9
    for _, name, pairs in read.series():
        assert read.values(NAMESPACE, name, dict(pairs)) == sink.values(NAMESPACE, name, dict(pairs))
    assert read.sum(NAMESPACE, "booking.attempts") == 160


# ---- the recording fake ----


def test_the_fake_remembers():
    """Counts add up, durations are listed, properties are kept; a series is a name and exactly its dimensions."""
    metrics = RecordingMetrics()
    record_everything(metrics)
    record_everything(metrics)
    assert metrics.count("booking.attempts") == 2
    assert metrics.count("booking.failure", TAKEN) == 4
    assert metrics.count("booking.failure") == 0
    assert metrics.timings("booking.duration") == [12.5, 12.5]
    assert metrics.timings("booking.attempts") == []
    assert metrics.properties == {"seat_id": "A1"}
    assert metrics.series() == {
        ("booking.attempts", ()),
        ("booking.failure", (("error_type", "SeatTaken"),)),
        ("booking.duration", ()),
        ("booking.duration", (("status", "success"),)),
    }
    metrics.clear()
    metrics.assert_nothing_recorded()
    assert metrics.properties == {}


def test_the_fakes_assertions_hold():
    """Each assertion passes when it is true."""
    metrics = RecordingMetrics()
    metrics.assert_nothing_recorded()
    record_everything(metrics)
    metrics.assert_counted("booking.attempts")
    metrics.assert_counted("booking.failure", TAKEN, value=2)
    metrics.assert_not_counted("booking.success")
    metrics.assert_timed("booking.duration", value_ms=12.5)
    metrics.assert_timed("booking.duration", {"status": "cancelled"}, times=0)
    metrics.assert_property("seat_id", "A1")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda it: it.assert_counted("booking.attempts", value=3), "booking.attempts counted 1, not 3; recorded:"),
        (lambda it: it.assert_counted("booking.failure"), r"booking.failure counted 0, not 1; recorded:"),
        (lambda it: it.assert_not_counted("booking.failure", TAKEN), "failure{error_type=SeatTaken} counted 2, not 0"),
        (lambda it: it.assert_timed("booking.duration", times=2), "booking.duration was timed 1 times, not 2"),
        (lambda it: it.assert_timed("booking.duration", value_ms=12.6), "booking.duration took 12.5 ms, not 12.6 ms"),
        (lambda it: it.assert_property("seat_id", "A2"), "property 'seat_id' is 'A1', not 'A2'"),
        (lambda it: it.assert_property("row", 1), "property 'row' was not set, not 1"),
        (lambda it: it.assert_nothing_recorded(), "something was recorded; recorded:"),
    ],
)
def test_the_fakes_assertions_say_what_was_recorded_instead(wrong, message):
    """A failing assertion names what was expected, and lists every series that there is."""
    metrics = RecordingMetrics()
    record_everything(metrics)
    with pytest.raises(AssertionError) as failed:
        wrong(metrics)
    assert message in str(failed.value)
    for line in (
        "\n  booking.attempts counted 1",
        "\n  booking.failure{error_type=SeatTaken} counted 2",
        "\n  booking.duration{status=success} took 0.25 ms",
    ):
        assert line in str(failed.value)
        assert line in repr(metrics)


@pytest.mark.parametrize(
    "bad",
    [
        {"name": ""},
        {"name": "größe"},
        {"name": "x", "value": float("nan")},
        {"name": "x", "dimensions": {"seat": None}},
        {"name": "x", "dimensions": {f"d{number}": "x" for number in range(31)}},
        {"name": "x", "dimensions": {"city": "Zürich"}},
    ],
)
def test_the_fake_refuses_what_cloudwatch_refuses(bad):
    """A bad name, value or dimension fails the test that records it."""
    with pytest.raises(InvalidMetricError):
        RecordingMetrics().increment(**bad).send(None)
