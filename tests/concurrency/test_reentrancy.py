"""Recording interrupts recording: finalisers, signal handlers, gauges and sinks come in at any moment, on any thread."""

from __future__ import annotations

import gc
import signal
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics import CloudWatchMetrics, DropReason, MetricsConfig
from retainwise_metrics.testing import InMemorySink
from tests.concurrency.threads import FOREVER_SECONDS, PATIENCE_SECONDS, begin, together
from tests.helpers import NAMESPACE, assert_balanced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from retainwise_metrics.datum import Batch
    from retainwise_metrics.testing import FakeCloudWatch

SIGNAL_SECONDS = 0.0002
"""Between two signals: a few thousand bytecodes."""

DEEPEST = 3
"""Handlers within handlers."""


needs_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")


def make(sink: InMemorySink, **settings: object) -> CloudWatchMetrics:
    """A client that flushes when it is told to."""
    return CloudWatchMetrics(
        MetricsConfig(**{"catalogue": (), "flush_interval_seconds": 3600.0, **settings}), sink=sink
    )


class Mourned:
    """Part of a cycle, so that only the collector finds it, whenever and on whichever thread it runs."""

    def __init__(self, farewell: Callable[[], object]) -> None:
        self.farewell = farewell
        self.myself = self

    def __del__(self) -> None:
        self.farewell()


@pytest.fixture
def greedy_collector() -> Iterator[None]:
    """A garbage collector that runs after every other allocation."""
    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    yield
    gc.set_threshold(*before)


def collect_until(over: Callable[[], bool]) -> None:
    """Collect all garbage; another thread may be in the middle of it, which makes `gc.collect()` return at once, having done nothing."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while gc.collect() or not over():
        assert time.monotonic() < give_up
        time.sleep(0)


@pytest.mark.usefixtures("greedy_collector")
def test_finalisers_record_in_the_middle_of_recording_and_folding() -> None:
    """A finaliser that records, registers series and reads the ledger may interrupt any step of any thread."""
    client = make(sink := InMemorySink())
    farewells = client.counter("Farewell")

    def mourn(number: int) -> None:
        farewells.inc()
        client.put_metric("Mourned", 1, dimensions={"Number": f"n{number % 50}"})
        if number % 100 == 0:
            assert_balanced(client)

    def record() -> None:
        for number in range(1_500):
            Mourned(partial(mourn, number))
            client.put_metric("M", number, dimensions={"Kind": f"k{number % 70}"})
            client.put_metric("Fast", number, storage_resolution=1)

    def keep_flushing() -> None:
        for _ in range(40):
            client.flush(FOREVER_SECONDS)

    together(record, record, keep_flushing)
    collect_until(lambda: client.stats().recorded == 12_000)
    assert client.flush(FOREVER_SECONDS)
    assert sink.values(NAMESPACE, "Farewell") == {1.0: 3_000}
    assert sum(datum.measurements for datum in sink.datums if datum.series.name == "Mourned") == 3_000
    assert client.stats()[:4] == (12_000, 12_000, 0, {})
    assert client.stop(FOREVER_SECONDS)


def test_the_ledger_is_not_read_in_the_middle_of_a_change(client: CloudWatchMetrics) -> None:
    """A handler that interrupted a fold of its own thread cannot wait for its end; it gets the last look instead of half of one."""
    client.put_metric("M", 1)
    before = client.stats()
    with client._intake._lock:  # what the interrupted thread holds
        client.put_metric("M", 1)
        client.put_metric("M", float("nan"))
        assert client.stats() == before
    assert client.stats()[:4] == (3, 0, 2, {DropReason.INVALID_VALUE: 1})


@pytest.mark.usefixtures("greedy_collector")
def test_a_finaliser_may_flush_and_stop() -> None:
    """It asks in vain when its own thread is what the worker waits for, but it does not hang."""
    client = make(sink := InMemorySink())
    leftovers: list[bool] = []

    def tidy_up() -> None:
        client.flush(0.001)
        leftovers.append(bool(client.stop(0.001)))
        client.start()

    def record() -> int:
        taken = 0
        for number in range(200):
            Mourned(tidy_up)
            taken += client.put_metric("M", 1, dimensions={"Kind": f"k{number % 7}"})
        return taken

    taken = begin(record).result(PATIENCE_SECONDS)
    collect_until(lambda: len(leftovers) == 200)
    client.start()
    assert client.stop(FOREVER_SECONDS)
    assert client.stats().delivered == sum(datum.measurements for datum in sink.datums) <= taken
    assert_balanced(client)


@contextmanager
def storm(handler: Callable[[], object]) -> Iterator[Callable[[], int]]:
    """Call something on the main thread from a signal handler, thousands of times a second; tells how often it was called."""
    calls = depth = 0

    def handle(*_: object) -> None:
        nonlocal calls, depth
        # While another thread has the interpreter, to import boto3 for one, each handler is interrupted by the next.
        if depth < DEEPEST:
            calls += 1
            depth += 1
            handler()
            depth -= 1

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, SIGNAL_SECONDS, SIGNAL_SECONDS)
    try:
        yield lambda: calls
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        # The last one may still be on its way: the default would end us, and Python complains about one that nobody handles.
        signal.signal(signal.SIGALRM, lambda *_: None)


@needs_timer
def test_a_storm_of_signals_while_recording_and_flushing(
    connect: Callable[..., CloudWatchMetrics], cloudwatch: FakeCloudWatch
) -> None:
    """Handlers record through every kind of handle while the code they interrupt does the same; every count is exact."""
    client = connect()
    ticks = client.counter("Ticks")

    def on_tick() -> None:
        ticks.inc()
        client.put_metric("Ticked", 2)
        client.put_metric("TickedFast", 1, storage_resolution=1)

    with storm(on_tick) as ticked:
        for lap in range(20):
            for value in range(5_000):
                client.put_metric("M", value % 5, dimensions={"Lap": f"lap{lap}"})
                ticks.inc(0)
            client.flush(FOREVER_SECONDS)
            assert_balanced(client)
    assert client.flush(FOREVER_SECONDS)
    assert ticked() >= 100
    assert cloudwatch.sum(NAMESPACE, "Ticks") == ticked()
    assert cloudwatch.values(NAMESPACE, "Ticked") == {2.0: ticked()}
    assert cloudwatch.values(NAMESPACE, "TickedFast") == {1.0: ticked()}
    assert sum(cloudwatch.count(NAMESPACE, "M", {"Lap": f"lap{lap}"}) for lap in range(20)) == 100_000
    assert client.stats().dropped == {}


@needs_timer
def test_the_first_record_of_a_client_may_come_from_a_signal_handler() -> None:
    """Handlers start workers while the code they interrupt starts some, too."""
    sinks = [InMemorySink() for _ in range(60)]
    clients = [make(sink) for sink in sinks]
    waiting = list(clients)
    with storm(lambda: waiting and waiting.pop().put_metric("M", 1)):
        while waiting:
            mine = make(InMemorySink())
            mine.put_metric("M", 1)
            assert mine.stop(FOREVER_SECONDS)
    for client, sink in zip(clients, sinks, strict=True):
        assert client.stop(FOREVER_SECONDS)
        assert sink.values(NAMESPACE, "M") == {1.0: 1}


def test_a_gauge_that_uses_the_client_it_is_read_by() -> None:
    """A callback may record, flush and read the ledger; only it cannot wait for itself."""
    client = make(sink := InMemorySink())
    answers: list[object] = []

    def read() -> float:
        client.put_metric("Read", 1)
        client.put_metric("ReadWhere", 1, dimensions={"Place": "callback"})
        client.put_metric_sync("ReadNow", 1)
        answers.append(client.flush(FOREVER_SECONDS))
        assert_balanced(client)
        return 7

    client.gauge("Level", read)
    assert begin(partial(client.flush, FOREVER_SECONDS)).result(PATIENCE_SECONDS)
    assert client.stop(FOREVER_SECONDS)
    assert len(answers) >= 1
    assert all(not answer for answer in answers), "what it has recorded itself is not delivered yet"
    for name in ("Read", "ReadNow"):
        assert sink.values(NAMESPACE, name) == {1.0: len(answers)}
    assert sink.values(NAMESPACE, "Level") == {7.0: len(answers)}
    assert client.stats().pending == 0


def test_a_sink_that_uses_the_client_it_sends_for() -> None:
    """A sink may record and flush: what it records goes with a later batch, and nobody hangs."""

    def receive(batch: Batch) -> None:
        client.put_metric("Sent", batch.measurements)
        client.put_metric("Sent", 1, dimensions={"Place": "sink"}, storage_resolution=1)
        client.flush(FOREVER_SECONDS)
        assert_balanced(client)

    client = make(sink := InMemorySink(receive))
    for value in range(5):
        client.put_metric("M", value)
        begin(partial(client.flush, FOREVER_SECONDS)).result(PATIENCE_SECONDS)
    begin(partial(client.stop, FOREVER_SECONDS)).result(PATIENCE_SECONDS)
    assert sink.values(NAMESPACE, "M") == {0.0: 1, 1.0: 1, 2.0: 1, 3.0: 1, 4.0: 1}
    assert_balanced(client)
    assert client.stats().pending == 0


def test_a_gauge_that_stops_its_client() -> None:
    """The worker carries out what its own callback asked for, and ends."""
    client = make(sink := InMemorySink())
    client.put_metric("M", 1)
    client.gauge("Level", lambda: client.stop(FOREVER_SECONDS) and 0)
    begin(partial(client.flush, FOREVER_SECONDS)).result(PATIENCE_SECONDS)
    begin(partial(client.stop, FOREVER_SECONDS)).result(PATIENCE_SECONDS)
    assert sink.values(NAMESPACE, "M") == {1.0: 1}
    assert not client.put_metric("M", 1)
    assert client.stats().pending == 0
