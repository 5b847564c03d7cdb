"""One worker at a time, whoever starts and stops it from wherever, and nobody waits for one that has gone."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics import BreakerState, CloudWatchMetrics, DropReason, MetricsConfig
from retainwise_metrics.runtime import SystemRuntime, ThreadWorker
from retainwise_metrics.testing import InMemorySink, ManualRuntime
from tests.concurrency.threads import (
    FOREVER_SECONDS,
    PATIENCE_SECONDS,
    Gate,
    begin,
    begin_together,
    together,
    wait_until,
)
from tests.helpers import NAMESPACE, assert_balanced
from tests.interrupts import interrupted, signals_as_in_311

if TYPE_CHECKING:
    from collections.abc import Callable

    from retainwise_metrics.datum import Batch
    from retainwise_metrics.runtime import Job, Worker


def make(sink: InMemorySink, runtime: SystemRuntime | None = None, **settings: object) -> CloudWatchMetrics:
    """A client that flushes when it is told to."""
    config = MetricsConfig(**{"catalogue": (), "flush_interval_seconds": 3600.0, **settings})
    return CloudWatchMetrics(config, sink=sink, runtime=runtime)


class CountingRuntime(SystemRuntime):
    """Counts the workers it starts, and may hold up each start."""

    def __init__(self, before_start: Callable[[], None] = lambda: None) -> None:
        self.started = 0
        self._before_start = before_start

    def start(self, job: Job, name: str) -> Worker:
        self.started += 1
        self._before_start()
        return super().start(job, name)


@pytest.mark.usefixtures("restless")
def test_the_first_records_of_many_threads_start_one_worker() -> None:
    """Two workers on one pipeline would send the same things at once."""
    for _ in range(50):
        runtime = CountingRuntime()
        client = make(InMemorySink(), runtime)
        together(*(partial(client.put_metric, f"M{thread}", 1) for thread in range(16)))
        assert client.stop(FOREVER_SECONDS)
        assert runtime.started == 1
        assert client.stats().delivered == 16


def test_only_one_of_two_who_find_the_worker_dead_starts_another() -> None:
    """Whoever looked before the other one had finished looks again before starting."""
    slow, fast = Gate(), threading.Event()

    class DeadWorker(ThreadWorker):
        def __init__(self) -> None:
            pass

        def is_alive(self) -> bool:
            if not fast.is_set():
                slow()
            return False

    class FirstWorkerIsDead(CountingRuntime):
        def start(self, job: Job, name: str) -> Worker:
            return super().start(job, name) if self.started else self._dead()

        def _dead(self) -> Worker:
            self.started += 1
            return DeadWorker()

    runtime = FirstWorkerIsDead()
    client = make(InMemorySink(), runtime)
    client.put_metric("M", 1)
    looking = begin(client.start)
    slow.wait_until_reached()
    fast.set()
    client.start()
    slow.open()
    looking.result(PATIENCE_SECONDS)
    assert runtime.started == 2
    assert client.stop(FOREVER_SECONDS)


@pytest.mark.parametrize("ask", [CloudWatchMetrics.flush, CloudWatchMetrics.stop])
def test_a_question_waits_for_the_worker_that_somebody_else_is_starting(
    ask: Callable[[CloudWatchMetrics, float], object],
) -> None:
    """`flush` and `stop` deliver although the first record, on another thread, has not finished starting the worker."""
    gate = Gate()
    client = make(sink := InMemorySink(), CountingRuntime(gate))
    recording = begin(partial(client.put_metric, "M", 1))
    gate.wait_until_reached()
    asking = begin(partial(ask, client, FOREVER_SECONDS))
    opening = begin(gate.open)
    assert asking.result(PATIENCE_SECONDS)
    assert recording.result(PATIENCE_SECONDS)
    opening.result(PATIENCE_SECONDS)
    assert sink.values(NAMESPACE, "M") == {1.0: 1}
    client.stop(PATIENCE_SECONDS)


class StopMeanwhile(SystemRuntime):
    """Calls a function once, when this thread looks at the clock: it has been let in, and has not put its value down yet."""

    def __init__(self) -> None:
        super().__init__()
        self.recorder = threading.get_ident()
        self.meanwhile: Callable[[], object] | None = None

    def wall(self) -> float:
        if self.meanwhile and threading.get_ident() == self.recorder:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return super().wall()


@pytest.mark.parametrize("known", [True, False])
def test_a_record_that_was_let_in_before_the_stop_is_delivered_after_it(known: bool) -> None:
    """A thread that is held up between being let in and putting its value down finds nobody left to send it, and calls somebody."""
    runtime = StopMeanwhile()
    client = make(sink := InMemorySink(), runtime)
    if known:
        client.put_metric("M", 0)
        client.flush(FOREVER_SECONDS)
    runtime.meanwhile = partial(client.stop, FOREVER_SECONDS)
    assert client.put_metric("M", 1)
    wait_until(lambda: client.stats().pending == 0 and not client.stats().running)
    assert not client.put_metric("M", 2)
    assert sink.values(NAMESPACE, "M") == ({0.0: 1, 1.0: 1} if known else {1.0: 1})
    assert client.start() is None
    assert client.put_metric("M", 3)
    assert client.stop(FOREVER_SECONDS).delivered == 1


@pytest.mark.usefixtures("restless")
def test_nobody_waits_for_an_answer_of_a_worker_that_has_ended() -> None:
    """Of several who stop and flush at the same moment, the first ends the worker, and the others are told."""
    for _ in range(20):
        gate = Gate()
        client = make(InMemorySink(gate))
        client.put_metric("M", 1)
        flushing = begin(partial(client.flush, FOREVER_SECONDS))
        gate.wait_until_reached()
        asking = begin_together(
            partial(client.stop, FOREVER_SECONDS),
            partial(client.flush, FOREVER_SECONDS),
            partial(client.stop, FOREVER_SECONDS),
            gate.open,
        )
        for future in [flushing, *asking]:
            future.result(PATIENCE_SECONDS)
        assert client.stats()[:4] == (1, 1, 0, {})
        assert not client.stats().running


def test_a_client_that_was_started_again_outlives_the_stop_before() -> None:
    """A stop that ran out of time is taken back by `start`: nothing is dropped, and records are delivered by themselves again."""
    gate, delivered = Gate(), threading.Semaphore(0)

    def receive(batch: Batch) -> None:
        gate()
        delivered.release()

    client = make(sink := InMemorySink(receive), flush_interval_seconds=0.1)
    client.put_metric("M", 1)
    gate.wait_until_reached()
    assert not client.stop(0.0)
    client.start()
    gate.open()
    assert delivered.acquire(timeout=PATIENCE_SECONDS)
    for value in range(2, 5):
        assert client.put_metric("M", value)
        assert delivered.acquire(timeout=PATIENCE_SECONDS)
    assert sink.values(NAMESPACE, "M") == {1.0: 1, 2.0: 1, 3.0: 1, 4.0: 1}
    assert client.stop(FOREVER_SECONDS)
    assert client.stats()[:4] == (4, 4, 0, {})


@pytest.mark.usefixtures("restless")
def test_stopping_and_starting_from_many_threads_loses_nothing() -> None:
    """After the last start there is one worker, and every record was delivered or refused for having come after a stop."""
    client = make(sink := InMemorySink())
    taken: list[bool] = []

    def record() -> None:
        taken.extend(client.put_metric("M", 1) for _ in range(300))

    def stop() -> None:
        client.stop(FOREVER_SECONDS)

    for _ in range(30):
        together(record, stop, client.start, record, stop, client.start, record)
    client.start()
    assert client.put_metric("M", 1)
    assert client.stop(FOREVER_SECONDS)
    stats = client.stats()
    assert stats.pending == 0
    assert set(stats.dropped) <= {DropReason.STOPPED, DropReason.SHUTDOWN}
    assert stats.delivered == sum(sink.values(NAMESPACE, "M").values())
    assert stats.delivered + stats.dropped.get(DropReason.SHUTDOWN, 0) == sum(taken) + 1
    assert_balanced(client)


@pytest.mark.usefixtures("restless")
def test_a_stop_with_time_left_delivers_what_was_recorded_until_the_last_moment() -> None:
    """What was taken while the client was being stopped is delivered, not given up."""
    for _ in range(10):
        client = make(sink := InMemorySink())
        client.put_metric("M", 0)

        def record(client: CloudWatchMetrics = client) -> int:
            taken = 0
            while client.put_metric("M", 1):
                taken += 1
            return taken

        *taken, stopped = together(record, record, record, partial(client.stop, FOREVER_SECONDS))
        assert stopped
        assert sink.values(NAMESPACE, "M").get(1.0, 0) == sum(taken)
        assert client.stats().dropped == {DropReason.STOPPED: 3}


def test_a_sink_that_cannot_be_closed_does_not_keep_the_worker() -> None:
    """Whatever `close` raises, the worker ends, and the next start has the pipeline to itself."""

    class Sticky(InMemorySink):
        def close(self) -> None:
            raise OSError

    runtime = CountingRuntime()
    client = make(Sticky(), runtime)
    others = set(threading.enumerate())
    client.put_metric("M", 1)
    (worker,) = set(threading.enumerate()) - others
    assert client.stop(FOREVER_SECONDS)
    worker.join(PATIENCE_SECONDS)
    assert not worker.is_alive()
    client.start()
    client.put_metric("M", 1)
    assert client.stop(FOREVER_SECONDS)
    assert (runtime.started, client.stats().delivered) == (2, 2)


@pytest.mark.parametrize("failure", [SystemExit, GeneratorExit, ZeroDivisionError])
def test_the_worker_survives_whatever_a_gauge_raises(
    failure: type[BaseException],
    runtime: ManualRuntime,
    make_client: Callable[..., CloudWatchMetrics],
    sink: InMemorySink,
) -> None:
    """A callback that wants to end its thread costs its own reading, not the others and not the flush it is read for."""

    def read() -> float:
        raise failure

    client = make_client()
    client.gauge("Broken", read)
    client.gauge("Level", lambda: 5)
    for minute in range(3):
        client.put_metric("M", minute)
        assert client.flush()
        assert sink.values(NAMESPACE, "M") == dict.fromkeys(map(float, range(minute + 1)), 1)
        assert sink.values(NAMESPACE, "Level") == {5.0: minute + 1}
        runtime.advance(60.0)


class Interruption(BaseException):
    """What a signal handler may raise anywhere: Ctrl-C, a time limit."""


def test_an_interrupted_probe_does_not_keep_the_breaker_half_open() -> None:
    """Interrupting `put_metric_sync` reaches the caller, counts as a failure, and the next probe may come."""

    def receive(batch: Batch) -> None:
        failing = failures.pop() if failures else None
        if failing is not None:
            raise failing

    failures: list[BaseException] = []
    client = make(sink := InMemorySink(receive), failure_threshold=1, open_seconds=0.1)
    failures.append(ConnectionError())
    assert not client.put_metric_sync("M", 1)
    assert client.stats().breaker_state is BreakerState.OPEN
    failures.append(Interruption())
    probing = begin(partial(_probe_until_raised, client))
    with pytest.raises(Interruption):
        probing.result(PATIENCE_SECONDS)
    assert client.stats().breaker_state is BreakerState.OPEN
    assert_balanced(client)
    assert client.stats().pending == 0
    client.put_metric("M", 2)
    assert client.stop(FOREVER_SECONDS)
    assert sink.values(NAMESPACE, "M") == {2.0: 1}


def _probe_until_raised(client: CloudWatchMetrics) -> None:
    while client.stats().breaker_state is BreakerState.OPEN:
        client.put_metric_sync("M", 1)


class BrokenHandler(logging.Handler):
    """Raises instead of writing, as a handler whose disk is full may."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError(record.levelname)


def test_a_log_handler_that_raises_is_nobody_elses_problem() -> None:
    """Neither a caller nor the worker notices that nothing can be logged."""
    handler = BrokenHandler()
    logging.getLogger("retainwise_metrics").addHandler(handler)
    try:
        disabled = make(InMemorySink(), enabled=False)
        assert not disabled.put_metric("M", 1)
        client = make(sink := InMemorySink())
        client.gauge("Level", lambda: 1 / 0)
        assert not client.put_metric("M", float("nan"))
        for value in range(3):
            client.put_metric("M", value)
            assert client.flush(FOREVER_SECONDS)
        assert client.stop(FOREVER_SECONDS)
    finally:
        logging.getLogger("retainwise_metrics").removeHandler(handler)
    assert sink.values(NAMESPACE, "M") == {0.0: 1, 1.0: 1, 2.0: 1}


@pytest.mark.parametrize("ask", [CloudWatchMetrics.flush, CloudWatchMetrics.stop])
@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 0.0, -1.0])
def test_any_timeout_is_a_timeout(ask: Callable[[CloudWatchMetrics, float], object], timeout: float) -> None:
    """For ever is as long as it takes; none at all returns at once."""
    client = make(InMemorySink())
    client.put_metric("M", 1)
    ask(client, timeout)
    assert client.stop(FOREVER_SECONDS)
    assert client.stats()[:3] == (1, 1, 0)


@signals_as_in_311
def test_a_first_record_that_is_interrupted_anywhere_leaves_a_client_that_works() -> None:
    """A Ctrl-C while the background work starts: the next record starts it, and everything that was taken is delivered."""
    for at in range(1, 10_000):
        sink = InMemorySink()
        client = CloudWatchMetrics(MetricsConfig(catalogue=()), sink=sink, runtime=ManualRuntime())
        struck = interrupted(at, partial(client.put_metric, "M", 1, dimensions={"Kind": "a"}), times=1)
        assert client.put_metric("M", 1, dimensions={"Kind": "a"})
        assert client.flush(5.0)
        arrived = sum(datum.measurements for datum in sink.datums)
        assert arrived == client.stats().recorded
        assert arrived == 2 or (struck and arrived == 1), at
        assert_balanced(client)
        if not struck:
            break


class NoThreads(ManualRuntime):
    """A host where no thread can be started."""

    def start(self, job: Job, name: str) -> Worker:
        message = "can't start new thread"
        raise RuntimeError(message)


@signals_as_in_311
@pytest.mark.parametrize("operation", ["flush", "stats"])
def test_a_ctrl_c_leaves_nothing_behind_that_stands_in_the_way_of_later_values(operation: str) -> None:
    """No lock, even while its traceback is looked at: an uncaught one is until the exit hook has delivered; and nothing half done."""
    for at in range(1, 10_000):
        sink = InMemorySink()
        client = CloudWatchMetrics(MetricsConfig(catalogue=()), sink=sink, runtime=NoThreads())
        for name in ("A", "B"):
            client.put_metric(name, 1)
            client.put_metric(name, 1, timestamp=client._runtime.wall() - 600)
        caught: list[BaseException] = []
        struck = interrupted(at, getattr(client, operation), times=1, caught=caught)
        assert len(caught) == struck
        assert not client._intake._lock.locked(), at
        assert client.put_metric("Later", 1)
        client.flush(5.0)
        assert sink.values(NAMESPACE, "Later") == {1.0: 1}, at
        if not struck:
            break
