"""
Records from where nobody expects them: between any two lines of this library, from the collector, at exit, and from inside its own calls.

A deadlock ends the test run with a dump of all threads instead of hanging it.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import retainwise_metrics
from retainwise_metrics import (
    CloudWatchMetrics,
    DropReason,
    MetricsConfig,
    get_metrics_client,
    reset_metrics_client,
    set_metrics_client,
)
from retainwise_metrics.testing import FakeCloudWatch, InMemorySink, ManualRuntime
from tests.concurrency.test_reentrancy import Mourned, needs_timer, storm
from tests.concurrency.threads import FOREVER_SECONDS, PATIENCE_SECONDS, begin, together
from tests.helpers import NAMESPACE, assert_balanced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from typing_extensions import Self

    from retainwise_metrics.datum import Batch

PACKAGE = str(Path(retainwise_metrics.__file__).parent) + os.sep
ROOT = Path(__file__).parents[2]
MOST_MOMENTS = 150
"""Interruptions tried per operation; an operation with more lines is interrupted at every second one, or third."""


@pytest.fixture(autouse=True)
def _watchdog() -> Iterator[None]:
    """What holds a lock that it waits for shows itself, and ends the run."""
    faulthandler.dump_traceback_later(5 * PATIENCE_SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


# ---- between any two lines ----


class Interruption:
    """
    Calls something before one line of this library, as a signal handler or a finaliser may.

    Args:
        at: Before which line, counted from the beginning; -1 only counts.
        handler: What is called; nothing interrupts it in turn.
    """

    def __init__(self, at: int, handler: Callable[[], object]) -> None:
        self.at, self.handler, self.lines, self.happened = at, handler, 0, False

    def __enter__(self) -> Self:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.at + 1:
                sys.settrace(None)  # the frames that are traced already go on, this method sees to that
                self.happened = True
                self.handler()
        return self._trace if not self.happened else None


class Taken:
    """What was taken, by name; adding to it may be interrupted by adding to it."""

    def __init__(self) -> None:
        self.all: list[tuple[str, int]] = []

    def add(self, name: str, count: int) -> None:
        self.all.append((name, count))

    def totals(self) -> Counter[str]:
        totals = Counter[str]()
        for name, count in self.all:
            totals[name] += count
        return +totals


class Subject:
    """A client on a clock that stands still, with some of everything, and a count of what it has taken."""

    def __init__(self) -> None:
        self.runtime, self.sink = ManualRuntime(), InMemorySink()
        settings = MetricsConfig(catalogue=(), strict=False)
        self.client = CloudWatchMetrics(settings, sink=self.sink, runtime=self.runtime)
        self.counter = self.client.counter("Bound")
        self.fresh = self.client.counter("Fresh", dimensions={"Kind": "fresh"})
        self.gauge = self.client.gauge("Level")
        self.taken = Taken()
        self.levels = 0
        for kind in range(3):
            self.put("M", {"Kind": f"k{kind}"})
            self.put("M", {"Kind": f"k{kind}"})
        self.put("Handler", {"Kind": "known"})
        self.put("Handler", {"Kind": "known"})
        self.inc()

    def put(self, name: str, dimensions: dict[str, Any] | None = None, **options: Any) -> None:
        self.taken.add(name, self.client.put_metric(name, 1, dimensions=dimensions, **options))

    def inc(self) -> None:
        self.taken.add("Bound", self.counter.inc())

    def sync(self) -> None:
        self.taken.add("Sync", self.client.put_metric_sync("Sync", 1))

    def record_in_every_way(self) -> None:
        """What handlers do, each of them once; none of it waits."""
        self.put("Handler", {"Kind": "known"})
        self.put("Handler", {"Kind": "new"})
        self.put("Handler", storage_resolution=1)
        self.put("M", {"Kind": "k1"})
        self.put("Bad\n")
        self.taken.add("Many", 5 * self.client.put_values("Many", {1.5: 5}))
        self.inc()
        self.taken.add("Fresh", self.fresh.inc())
        self.levels += self.gauge.inc()

    def settle(self) -> None:
        """All that was taken has arrived, once; what was not is counted; nothing is left."""
        client = self.client
        client.start()
        client.reset_breaker()
        self.put("Last")
        self.inc()
        assert client.flush(FOREVER_SECONDS)
        arrived = Counter[str]()
        for datum in self.sink.datums:
            arrived[datum.series.name] += datum.measurements
        level = arrived.pop("Level", 0)
        assert arrived == self.taken.totals()
        assert client.stats().pending == 0
        assert set(client.stats().dropped) <= {DropReason.INVALID_NAME, DropReason.STOPPED, DropReason.BREAKER_OPEN}
        assert_balanced(client)
        assert self.gauge._level.read() in (self.levels, 0)
        assert level <= 6
        assert client.stop(FOREVER_SECONDS)
        assert client.stats().pending == 0


def reads_the_gauge(subject: Subject) -> None:
    """Move it, and let a minute pass."""
    subject.gauge.inc(0)
    subject.runtime.advance(61.0)


OPERATIONS: dict[str, Callable[[Subject], object]] = {
    "put_metric": lambda subject: subject.put("M", {"Kind": "k1"}),
    "put_metric, new": lambda subject: subject.put("New", {"Kind": "new", "Place": "p"}),
    "put_metric, by the second": lambda subject: subject.put("M", storage_resolution=1),
    "put_metric, bad": lambda subject: subject.put("\x00"),
    "inc": lambda subject: subject.inc(),
    "gauge": reads_the_gauge,
    "flush": lambda subject: subject.client.flush(),
    "stop": lambda subject: subject.client.stop(),
    "start": lambda subject: subject.client.start(),
    "stop and start": lambda subject: (subject.client.stop(), subject.client.start()),
    "stats": lambda subject: (subject.client.stats(), repr(subject.client)),
    "put_metric_sync": lambda subject: subject.sync(),
    "breaker": lambda subject: (subject.client.force_open(), subject.client.reset_breaker()),
    "rotation": lambda subject: subject.runtime.advance(301.0),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_between_any_two_lines(operation: str) -> None:
    """Whatever the library is doing on this very thread: a record in the middle of it neither hangs nor gets lost, nor breaks it."""
    work = OPERATIONS[operation]
    work(Subject())  # imports what is imported once
    subject = Subject()
    with Interruption(-1, list) as counting:
        work(subject)
    subject.settle()
    step = counting.lines // MOST_MOMENTS + 1
    assert counting.lines > 5
    for at in range(0, counting.lines, step):
        subject = Subject()
        with Interruption(at, subject.record_in_every_way) as interruption:
            work(subject)
        assert interruption.happened
        subject.settle()


@pytest.mark.parametrize("operation", ["put_metric", "flush", "stop", "stats", "put_metric_sync"])
def test_the_ledger_is_read_between_any_two_lines(operation: str) -> None:
    """It balances at each of these moments: never half a change is seen."""
    OPERATIONS[operation](Subject())  # imports what is imported once
    subject = Subject()
    with Interruption(-1, list) as counting:
        OPERATIONS[operation](subject)
    for at in range(0, counting.lines, counting.lines // 25 + 1):
        subject = Subject()
        with Interruption(at, partial(assert_balanced, subject.client)):
            OPERATIONS[operation](subject)
        subject.settle()


@pytest.mark.usefixtures("_memory_in_the_environment")
def test_the_process_wide_client_is_one_whoever_interrupts_its_making() -> None:
    """A handler that records while the first record of the process makes the client must not be left with a client of its own."""
    retainwise_metrics.put_metric("M", 1)  # imports what is imported once
    reset_metrics_client()
    with Interruption(-1, list) as counting:
        assert retainwise_metrics.put_metric("M", 1)
    reset_metrics_client()
    for at in range(0, counting.lines, counting.lines // 100 + 1):
        seen: list[CloudWatchMetrics] = []

        def handle(seen: list[CloudWatchMetrics] = seen) -> None:
            assert retainwise_metrics.put_metric("M", 1)
            seen.append(get_metrics_client())

        with Interruption(at, handle) as interruption:
            assert retainwise_metrics.put_metric("M", 1)
        assert interruption.happened
        client = get_metrics_client()
        assert seen == [client]
        assert client.stats().recorded == 2
        reset_metrics_client()


@pytest.fixture
def _memory_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process-wide client keeps what it is given."""
    monkeypatch.setenv("RETAINWISE_METRICS_SINK", "memory")
    before = set_metrics_client(None)
    yield
    reset_metrics_client()
    set_metrics_client(before)


# ---- the collector ----


@pytest.fixture
def on_collection() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Call something at the beginning and at the end of every collection, which are many."""
    threshold, added = gc.get_threshold(), []

    def add(handler: Callable[[], object]) -> None:
        def call(_phase: str, _info: dict[str, int]) -> None:
            handler()

        added.append(call)
        gc.callbacks.append(call)
        gc.set_threshold(5, 2, 2)

    yield add
    gc.set_threshold(*threshold)
    for each in added:
        gc.callbacks.remove(each)


def test_callbacks_of_the_collector_record(on_collection: Callable[[Callable[[], object]], None]) -> None:
    """On any thread, in the middle of anything: each of thousands of records arrives."""
    client = CloudWatchMetrics(MetricsConfig(catalogue=(), flush_interval_seconds=3600), sink=(sink := InMemorySink()))
    counter, lock, called = client.counter("Collected"), threading.Lock(), [0, 0]

    def record() -> None:
        for number in range(1_000):
            client.put_metric("M", number, dimensions={"Kind": f"k{number % 40}", "Junk": str([[], {}])})

    def collected() -> None:
        if lock.acquire(blocking=False):  # an exact count of its own needs this; the library does not
            try:
                called[0] += counter.inc()
                called[1] += client.put_metric("CollectedWhere", 1, dimensions={"Place": f"p{called[0] % 7}"})
            finally:
                lock.release()

    on_collection(collected)
    together(record, record, lambda: [client.flush(FOREVER_SECONDS) for _ in range(20)])
    gc.set_threshold(100_000, 100, 100)
    assert client.flush(FOREVER_SECONDS)
    while lock.locked():
        pass
    assert client.stop(FOREVER_SECONDS)
    assert called[0] >= 100
    assert sink.values(NAMESPACE, "Collected") == {1.0: called[0]}
    assert sum(datum.measurements for datum in sink.datums if datum.series.name == "CollectedWhere") == called[1]
    assert client.stats()[:4] == (2_000 + sum(called), 2_000 + sum(called), 0, {})


def test_finalisers_that_run_inside_of_send() -> None:
    """What they record goes with the next flush; the one that is under way ends, and does not go on with its own echo."""
    runtime = ManualRuntime()

    def receive(_: Batch) -> None:
        for number in range(10):
            Mourned(partial(client.put_metric, "Mourned", 1, dimensions={"Kind": f"k{number}"}))
        gc.collect()

    client = CloudWatchMetrics(MetricsConfig(catalogue=()), sink=(sink := InMemorySink(receive)), runtime=runtime)
    client.put_metric("M", 1)
    client.flush()
    assert sink.attempts == 1, "its echo waits for the next one"
    assert client.stats().pending == 10
    runtime.advance(600.0)
    assert sink.attempts <= 12, "one call a minute, however often it echoes"
    assert_balanced(client)
    sink.fail = None
    assert client.flush()
    assert client.stats()[2:4] == (0, {})
    assert sum(datum.measurements for datum in sink.datums) == client.stats().recorded


# ---- from inside of its own calls ----


class Talkative:
    """A dimension value that records whenever it is asked for anything."""

    def __init__(self, record: Callable[[], object], text: str) -> None:
        self.record, self.text = record, text

    def __str__(self) -> str:
        self.record()
        return self.text

    def __hash__(self) -> int:
        self.record()
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        self.record()
        return self is other

    def __float__(self) -> float:
        self.record()
        return 2.5


@pytest.mark.parametrize("threads", [False, True])
def test_a_dimension_value_that_records_when_it_is_looked_at(*, threads: bool) -> None:
    """Through the same client, the same metric and the same dimension, and it flushes, too."""
    runtime = None if threads else ManualRuntime()
    client = CloudWatchMetrics(MetricsConfig(catalogue=()), sink=(sink := InMemorySink()), runtime=runtime)
    inner = 0

    def record() -> None:
        nonlocal inner
        inner += client.put_metric("M", 1, dimensions={"Kind": "inner"})
        inner += client.put_metric("M", 1, dimensions={"Kind": f"inner{inner % 3}"})
        if inner % 16 == 0:
            client.flush(FOREVER_SECONDS)
            assert_balanced(client)

    outer = 0
    for number in range(50):
        outer += client.put_metric("M", 3, dimensions={"Kind": Talkative(record, f"outer{number % 5}")})
        outer += client.put_metric("M", Talkative(record, ""), dimensions={"Kind": "outer"})
        outer += client.scoped({"Kind": Talkative(record, "outer")}).put_metric("M", 3)
        outer += client.counter("C", dimensions={"Kind": Talkative(record, "outer")}).inc()
        outer += client.put_metric_sync("M", 3, dimensions={"Kind": Talkative(record, "outer")})
    assert outer == 250
    assert client.stop(FOREVER_SECONDS)
    assert inner > 250
    assert sum(datum.measurements for datum in sink.datums) == inner + outer == client.stats().delivered
    assert client.stats().dropped == {}


@pytest.mark.parametrize("threads", [False, True])
def test_a_callback_that_does_everything(*, threads: bool) -> None:
    """A gauge's callback makes gauges, sends, opens the breaker and reads the ledger; a reading leads to no second one."""
    runtime = None if threads else ManualRuntime()
    client = CloudWatchMetrics(
        MetricsConfig(catalogue=(), flush_interval_seconds=3600), sink=(sink := InMemorySink()), runtime=runtime
    )
    read = 0

    def level() -> float:
        nonlocal read
        read += 1
        client.gauge(f"Made{read}", lambda: 5)
        client.counter(f"Zero{read}", emits_zero=True).inc()
        client.put_metric_sync("Now", 1)
        client.force_open()
        client.reset_breaker()
        client.put_values("Many", {1.5: 3})
        client.flush(0.0)
        assert_balanced(client)
        return 7

    client.gauge("Level", level)
    begin(partial(client.flush, FOREVER_SECONDS)).result(PATIENCE_SECONDS)
    begin(partial(client.stop, FOREVER_SECONDS)).result(PATIENCE_SECONDS)
    assert 1 <= read <= 4
    assert sink.values(NAMESPACE, "Level") == {7.0: read}
    assert sink.values(NAMESPACE, "Many") == {1.5: 3 * read}
    assert sink.values(NAMESPACE, "Now") == {1.0: read}
    assert client.stats()[2:4] == (0, {})


@pytest.mark.parametrize("threads", [False, True])
def test_a_sink_that_does_everything(*, threads: bool) -> None:
    """Inside of `send`: it records, sends at once, reads the ledger, and opens and closes the breaker."""
    runtime = None if threads else ManualRuntime()
    depth = most = 0

    def receive(_: Batch) -> None:
        nonlocal depth, most
        if depth < 3:
            depth += 1
            most = max(most, depth)
            assert client.put_metric_sync("Now", 1) or depth
            client.put_metric("Sent", 1)
            client.force_open()
            client.reset_breaker()
            client.flush(0.0)
            assert_balanced(client)
            depth -= 1

    client = CloudWatchMetrics(
        MetricsConfig(catalogue=(), flush_interval_seconds=3600), sink=(sink := InMemorySink(receive)), runtime=runtime
    )
    for value in range(3):
        client.put_metric("M", value)
        begin(partial(client.flush, FOREVER_SECONDS)).result(PATIENCE_SECONDS)
    sink.fail = None
    begin(partial(client.stop, FOREVER_SECONDS)).result(PATIENCE_SECONDS)
    assert most == 3
    assert sink.values(NAMESPACE, "M") == {0.0: 1, 1.0: 1, 2.0: 1}
    assert client.stats().pending == 0
    assert sum(datum.measurements for datum in sink.datums) == client.stats().delivered
    assert_balanced(client)


def test_a_sink_that_stops_its_client() -> None:
    """Inside of `send`; the batch that it is sending is delivered, and the client ends."""
    client = CloudWatchMetrics(
        MetricsConfig(catalogue=()), sink=(sink := InMemorySink(lambda _: client.stop(FOREVER_SECONDS) and None))
    )
    client.put_metric("M", 1)
    begin(partial(client.flush, FOREVER_SECONDS)).result(PATIENCE_SECONDS)
    begin(partial(client.stop, FOREVER_SECONDS)).result(PATIENCE_SECONDS)
    assert sink.values(NAMESPACE, "M") == {1.0: 1}
    assert client.stats()[:4] == (1, 1, 0, {})


# ---- signals, on threads and over sockets ----


@needs_timer
@pytest.mark.parametrize("operation", ["flush", "stop", "stats", "put_metric_sync", "gauge"])
def test_signals_while_the_main_thread_is_inside_of(
    operation: str, connect: Callable[..., CloudWatchMetrics], cloudwatch: FakeCloudWatch
) -> None:
    """Handlers record, read the ledger and ask for a flush without waiting for it; every count is exact."""
    client = connect()
    ticks, gauge = client.counter("Ticks"), client.gauge("Level")
    taken = Taken()

    def on_tick() -> None:
        number = len(taken.all)
        taken.add("Ticks", ticks.inc())
        taken.add("Ticked", client.put_metric("Ticked", 1, dimensions={"Kind": f"k{number % 5}"}))
        if number % 50 == 0:
            client.flush(0.0)
            client.stats()

    def work() -> None:
        taken.add("M", client.put_metric("M", 1))
        if operation == "stop":
            client.stop(FOREVER_SECONDS)
            client.start()
        elif operation == "put_metric_sync":
            taken.add("Now", client.put_metric_sync("Now", 1))
        elif operation == "gauge":
            assert gauge.inc()
            client.flush(FOREVER_SECONDS)
        else:
            getattr(client, operation)()

    with storm(on_tick) as ticked:
        for _ in range(10 if operation == "stop" else 50):  # each stop closes the connection
            work()
        while ticked() < 200:
            work()
    assert client.flush(FOREVER_SECONDS)
    arrived = Counter({name: cloudwatch.count(NAMESPACE, name) for name in ("M", "Ticks", "Now")})
    arrived["Ticked"] = sum(cloudwatch.count(NAMESPACE, "Ticked", {"Kind": f"k{number}"}) for number in range(5))
    assert +arrived == taken.totals()
    assert set(client.stats().dropped) <= {DropReason.STOPPED}
    assert client.stats().pending == 0
    assert_balanced(client)


# ---- at exit ----

AT_EXIT = """
import atexit, json, sys
from retainwise_metrics import get_metrics_client

said = {}

def record(when):
    client = get_metrics_client()
    taken = client.put_metric("Exit", 1, dimensions={"When": when})
    client.stats()
    said[when] = [taken, client.stopped, bool(client.flush(5.0))]

atexit.register(lambda: print(json.dumps(said)))
atexit.register(record, "registered before the first record")

if "record" in sys.argv:
    assert get_metrics_client().put_metric("M", 1)
atexit.register(record, "registered after it")
atexit.register(lambda: [record("inside of another one"), sys.exit(3)])
"""


@pytest.mark.parametrize("way", ["record", "nothing"])
def test_records_at_exit(way: str, cloudwatch: FakeCloudWatch) -> None:
    """
    What a callback records that was registered after the first record is delivered; one that runs when the client has ended is told so.

    The very first record of a process comes too late there, because boto3 cannot be imported any more: `flush` and the log say so.
    """
    environment = {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": cloudwatch.endpoint_url,
        "ENVIRONMENT": "process-test",
        "RETAINWISE_METRICS_CATALOGUE": "",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT, way],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    said = json.loads(done.stdout)
    delivered = {when for when, (taken, _, flushed) in said.items() if taken and flushed}
    if way == "record":
        assert delivered == {"registered after it", "inside of another one"}, done.stderr
    else:
        assert delivered or "boto3 client could not be made" in done.stderr
    for when, (taken, stopped, _) in said.items():
        assert taken is not stopped
        if when in delivered:
            assert cloudwatch.count(NAMESPACE, "Exit", {"When": when}) == 1
    assert cloudwatch.total_count() == len(delivered) + (way == "record")


def test_nothing_of_all_this_is_left_behind() -> None:
    """No tracing and no callback: what interrupts here would interrupt every test that follows."""
    assert sys.gettrace() is None or "coverage" in sys.modules
    assert not [each for each in gc.callbacks if each.__module__ == __name__]
