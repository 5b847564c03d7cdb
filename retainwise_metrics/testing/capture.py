"""
A client that remembers every record, in place of the process-wide one: what the pytest fixture `metrics` is.

    with captured_metrics() as metrics:
        upload(b"customer,churn")
        metrics.assert_recorded("UploadSuccess", count=1, dimensions={"Endpoint": "/upload"})

Rules
1. What is left out of a question is not looked at: `assert_recorded("UploadSuccess")` is about all namespaces and all dimensions.
2. One call of the code under test is one record, also where the catalogue publishes it in several dimension sets.
3. No thread, no network, no waiting: a record is seen at once, whether anybody flushes or not.
4. It is a real client on a real pipeline with a sink in memory behind it: `flush`, `stop` and `stats` do what they always do.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

from retainwise_metrics import client as clients
from retainwise_metrics import default_client
from retainwise_metrics.config import SETTINGS, MetricsConfig
from retainwise_metrics.instruments import Level
from retainwise_metrics.pipeline.intake import FOLD_AT
from retainwise_metrics.runtime import AT_ONCE, bounded
from retainwise_metrics.sinks.in_memory import InMemorySink
from retainwise_metrics.stats import DropReason

from ._captured import Captured, Filters, Question, Refused, explain
from .manual_runtime import ManualRuntime, ManualWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Unpack

    from retainwise_metrics.datum import Datum, Series
    from retainwise_metrics.pipeline.intake import Channel, Destination, Intake
    from retainwise_metrics.pipeline.pipeline import Pipeline
    from retainwise_metrics.runtime import Job
    from retainwise_metrics.runtime import Question as Asked

READING_SECONDS = 60.0
"""Of a gauge that is read, the last reading in it counts."""

STOP_SECONDS = 5.0
"""Longest wait for somebody who is working in the capture at its end."""


class CaptureRuntime(ManualRuntime):
    """
    A manual runtime for tests that know nothing about it: several threads may use it, and its calendar is that of the code under test.

    Background work happens only in `advance` and in whoever records, flushes or stops. The wall clock is the system's, or the one that a
    tool has frozen, plus whatever `advance` has added; `set_wall` puts an end to that.
    """

    def __init__(self) -> None:
        super().__init__(wall=0.0)
        self._follows = True
        self._working = threading.RLock()

    def wall(self) -> float:
        """
        Epoch seconds.
        """
        return self._wall + (time.time() if self._follows else 0.0)

    def set_wall(self, wall: float) -> None:
        """
        Stop the wall clock at `wall`, epoch seconds; from now on only `advance` moves it.
        """
        self._follows = False
        super().set_wall(wall)

    def start(self, job: Job, name: str) -> ManualWorker:
        """
        Begin working on a job; its first step is done by whoever comes first.
        """
        del name
        worker = _SharedWorker(job, self, self._working)
        self._workers.append(worker)
        worker.work()
        return worker

    def advance(self, seconds: float) -> None:
        """
        Let time pass, stopping at each moment at which background work is due.
        """
        with self._working:
            super().advance(seconds)

    def after_fork(self) -> None:
        """
        Forget every job, and the lock: whatever thread held it is gone.
        """
        super().after_fork()
        self._working = threading.RLock()


class _SharedWorker(ManualWorker):
    """
    Worked on by one thread at a time. Who only leaves a message never waits for another; who asks does.
    """

    def __init__(self, job: Job, runtime: CaptureRuntime, working: threading.RLock) -> None:
        super().__init__(job, runtime)
        self._working = working

    def post(self, message: object) -> None:
        """
        Work on a message now, unless somebody is at work: then it is found by the next who works.
        """
        self._messages.append(message)
        self.work()

    def work(self) -> None:
        """
        Do every step that is due, unless somebody else is doing just that.
        """
        (mine,) = map(self._working.acquire, AT_ONCE)
        if mine:
            try:
                self.run()
            finally:
                self._working.release()

    def ask(self, question: Asked, timeout: float) -> object | None:
        """
        Work until the question is answered; None when another thread works for longer than `timeout`, or when a step asks itself.
        """
        (mine,) = map(self._working.acquire, (True,), (bounded(timeout),))
        if not mine:
            return None
        try:
            return None if self._busy else super().ask(question, timeout)
        finally:
            self._working.release()


class _Book:
    """
    What was captured. Lists and dicts are only added to, in single steps: any number of threads may.
    """

    def __init__(self) -> None:
        self.records: list[Captured] = []
        self.readings: dict[tuple[int, tuple[Series, ...]], Captured] = {}
        self.refused: list[Refused] = []
        self.here = threading.local()

    def clear(self) -> None:
        """
        Forget everything.
        """
        self.records, self.readings, self.refused = [], {}, []

    @contextmanager
    def reading(self) -> Iterator[None]:
        """
        What this thread records inside is read rather than recorded.
        """
        before, self.here.reading = self.is_reading(), True
        try:
            yield
        finally:
            self.here.reading = before

    def is_reading(self) -> bool:
        """
        Whether this thread is reading gauges.
        """
        return getattr(self.here, "reading", False)


class _Tap:
    """
    In front of the intake of a capture: it writes down what one client records, and hands it on.

    It knows no channels, so neither the client nor its handles ever find the fast way past it.

    Args:
        recorder: The client.
        capture: Whose book is written, and whose intake takes the values.
        former: The pipeline that the recorder has when it is not captured.
    """

    def __init__(
        self, recorder: clients.CloudWatchMetrics, capture: CapturingMetrics, former: Pipeline | None = None
    ) -> None:
        self._recorder = recorder
        self._book = capture.book
        self._pipeline = capture._pipeline  # noqa: SLF001 - part of the capture
        self._runtime = capture._runtime  # noqa: SLF001
        self._former = former

    fold_at = 0
    """No list is short enough for the fast way, should a handle still know one that holds something."""

    def channel_of(self, destination: Destination) -> Channel | None:
        """
        None, whatever the destination.
        """
        del destination
        return None

    def record(self, target: Channel | Destination, value: float, timestamp: float | None) -> bool:
        """
        Take one value; see `Intake.record`.
        """
        if self._former is not None and self._former._flusher.collecting:  # noqa: SLF001 - its own thread, once a minute
            return self._former.intake.record(target, value, timestamp)
        moment = self._runtime.wall() if timestamp is None else timestamp
        record = Captured(target.series, float(value), moment, self._recorder)
        if self._book.is_reading():
            self._read(record)
            return True
        if not self._pipeline.intake.record(target, value, timestamp):
            self._refuse_as_stopped(record)
            return False
        self._book.records.append(record)
        return True

    def refuse(self, reason: DropReason, measurements: int = 1, note: str = "") -> None:
        """
        Count what was not taken; see `Intake.refuse`.
        """
        self._book.refused.append(Refused(reason, note))
        self._pipeline.intake.refuse(reason, measurements, note)

    def rouse(self) -> None:
        """
        Wake the flusher; see `Intake.rouse`.
        """
        self._pipeline.intake.rouse()

    def _read(self, record: Captured) -> None:
        collector = self._recorder._collectors.get(record.series)  # noqa: SLF001
        if collector is None or not _is_idle(collector.read):
            period = int(self._runtime.monotonic() // READING_SECONDS)
            self._book.readings[period, record.series] = record

    def _refuse_as_stopped(self, record: Captured) -> None:
        stopped = self._pipeline.stopped
        reason = DropReason.STOPPED if stopped else DropReason.BREAKER_OPEN
        note = "the client was stopped" if stopped else "the breaker is open, or the intake is full"
        self._book.refused.append(Refused(reason, f"{note} (metric {record.name!r})"))


class CapturingMetrics(clients.CloudWatchMetrics):
    """
    A client whose records can be asked for.

    Strict by default: a bad record raises `InvalidMetricError` where it is made. Made by `captured_metrics`, which also puts it in the
    place of the process-wide client; one made directly captures only what it is handed to.

    Args:
        config: Settings; None is `MetricsConfig(strict=True)`. It is always enabled, and never sends anything.
        runtime: Clocks; None makes a `CaptureRuntime`.

    Attributes:
        clock: The runtime: `metrics.clock.advance(60)` lets a minute pass.
    """

    def __init__(self, config: MetricsConfig | None = None, *, runtime: ManualRuntime | None = None) -> None:
        self.book = _Book()
        self.clock = CaptureRuntime() if runtime is None else runtime
        settings = _changed(MetricsConfig(strict=True) if config is None else config, enabled=True, sink="memory")
        super().__init__(settings, sink=InMemorySink(max_batches=1), runtime=self.clock)
        self._send_now = self._pipeline.send_now
        self._pipeline.send_now = self._captured_now  # type: ignore[method-assign]  # what is sent at once takes no intake
        self._intake = cast("Intake", _Tap(self, self))
        self._adopted: list[tuple[clients.CloudWatchMetrics, dict[str, Any]]] = []
        self._is_default = False

    # ---- what was recorded ----

    @property
    def records(self) -> list[Captured]:
        """
        Every record in order, then the readings of gauges: of each the last per minute of the clock.
        """
        self._read_all()
        return [*self.book.records, *self.book.readings.copy().values()]

    @property
    def refused(self) -> list[Refused]:
        """
        Every record that was not taken.
        """
        return list(self.book.refused)

    def values(self, name: str, **filters: Unpack[Filters]) -> list[float]:
        """
        The values of a metric, in the order of recording.

        Args:
            name: Its name.
            filters: Which of its records are meant; see `Filters`.
        """
        question = Question(name, **filters)
        return [record.value for record in self.records if question.matches(record)]

    def assert_recorded(self, name: str, *, count: int | None = None, **filters: Unpack[Filters]) -> None:
        """
        Assert that something was recorded.

        Args:
            name: The metric.
            count: How many records (calls, whatever their values); None: at least one.
            filters: Which records of the metric are meant; see `Filters`.

        Raises:
            AssertionError: It was not; the text shows what comes close.
        """
        __tracebackhide__ = True
        found = len(self.values(name, **filters))
        if found != count if count is not None else not found:
            times = "at least once" if count is None else "once" if count == 1 else f"{count} times"
            raise AssertionError(self._explained(Question(name, **filters), times))

    def assert_not_recorded(self, name: str, **filters: Unpack[Filters]) -> None:
        """
        Assert that nothing was recorded; arguments as for `assert_recorded`.

        Raises:
            AssertionError: Something was.
        """
        __tracebackhide__ = True
        if self.values(name, **filters):
            raise AssertionError(self._explained(Question(name, **filters), "never"))

    def clear(self) -> None:
        """
        Forget what was recorded and refused so far.
        """
        self.book.clear()

    def adopt(self, client: clients.CloudWatchMetrics) -> None:
        """
        From now to the end of the capture take what another client records, too, handles and scopes made from it before included.

        The client that was the process-wide one so far is adopted by `captured_metrics`. It keeps its own dimension rules, default
        namespace and catalogue; whether records are taken, and how strictly, is the capture's to say.
        """
        if client is self or any(client is adopted for adopted, _ in self._adopted):
            return
        former = client._pipeline  # noqa: SLF001 - clients of one class
        state = vars(client)
        tap = cast("Intake", _Tap(client, self, former))
        config = client.config
        if not config.enabled or config.strict != self.config.strict:
            config = _changed(config, enabled=True, strict=self.config.strict)
        inside: dict[str, Any] = {
            "config": config,
            "_runtime": self._runtime,
            "_schemas": {},
            "_uses": {},
            "_combinations": 0,
            "_pipeline": self._pipeline,
            "_intake": tap,
        }
        self._adopted.append((client, {name: state[name] for name in inside}))
        state.update(inside)
        # A handle appends to its list as long as that is not empty, and looks for its client's intake when it is.
        while former.intake.fold_step(former.intake.channels()) >= FOLD_AT:
            pass
        for level in client._levels.values():  # noqa: SLF001
            level.after_fork()

    def release(self) -> None:
        """
        Give every adopted client back to itself.
        """
        while self._adopted:
            client, state = self._adopted.pop()
            vars(client).update(state)

    def after_fork(self) -> None:
        """
        Start empty in a child process.
        """
        self.clock.after_fork()
        self.book.clear()
        super().after_fork()

    # ---- behind it ----

    def _collect(self, minute: float) -> bool:
        with self.book.reading():
            collected = super()._collect(minute)
            for client, _ in list(self._adopted):
                collected |= clients.CloudWatchMetrics._collect(client, minute)  # noqa: SLF001
        return collected

    def _read_all(self) -> None:
        with self.book.reading():
            for client in (self, *(adopted for adopted, _ in self._adopted)):
                client._read(list(client._collectors.values()))  # noqa: SLF001

    def _forget_callbacks(self) -> None:
        """
        A function that was given to a gauge during a test is not called in the next; levels that are moved stay known.
        """
        self._collectors = {key: each for key, each in self._collectors.items() if _level_of(each.read) is not None}

    def _captured_now(self, datums: tuple[Datum, ...]) -> bool:
        sent = self._send_now(datums)
        series = tuple(datum.series for datum in datums)
        if sent:
            self.book.records.append(Captured(series, datums[0].values[0], datums[0].timestamp, self))
        else:
            reason = DropReason.STOPPED if self.stopped else DropReason.NOT_SENT
            self.book.refused.append(Refused(reason, f"put_metric_sync returned False (metric {series[0].name!r})"))
        return sent

    def _explained(self, question: Question, expected: str) -> str:
        text = explain(question, expected, self.records, self.refused)
        current = default_client._DEFAULT.client  # noqa: SLF001 - asking for it would make one
        if self._is_default and current is not self:
            text += (
                "\nthe process-wide client is not this one any more: set_metrics_client or reset_metrics_client was called, "
                "and what was recorded with it since is not seen here"
            )
        return text


_OVER: WeakSet[CapturingMetrics] = WeakSet()
"""
Captures that have ended and that somebody still holds: a module that is imported during one test keeps the client of that test.

The next capture takes what is recorded with them. This is the only state here that outlives a capture.
"""


@contextmanager
def captured_metrics(
    config: MetricsConfig | None = None, *, runtime: ManualRuntime | None = None
) -> Iterator[CapturingMetrics]:
    """
    Capture what is recorded with the process-wide client inside the `with` block.

    Seen are the module's shorthands, `get_metrics_client()`, decorators without a client of their own, and whatever was made from the
    process-wide client before the block, for example when a module was imported. Other clients: `adopt` them.

    Args:
        config: Settings; None is `MetricsConfig(strict=True)`.
        runtime: Clocks; None makes a `CaptureRuntime`.
    """
    capture = CapturingMetrics(config, runtime=runtime)
    previous = default_client.set_metrics_client(capture)
    capture._is_default = True  # noqa: SLF001
    try:
        for client in [*_OVER, *([] if previous is None else [previous])]:
            capture.adopt(client)
        yield capture
    finally:
        _put_back(capture, previous)


def _put_back(capture: CapturingMetrics, previous: clients.CloudWatchMetrics | None) -> None:
    current = default_client.set_metrics_client(previous)
    if current is not None and current is not capture and current is not previous:
        # Made during the capture, by whoever reset the process-wide client; no thread of it may survive.
        current.stop(STOP_SECONDS)
    capture.stop(STOP_SECONDS)
    capture.release()
    capture._forget_callbacks()  # noqa: SLF001
    _OVER.add(capture)


def _is_idle(read: Callable[[], float]) -> bool:
    """
    Whether a reading says nothing about the code under test.

    That is a counter's zero, which the library publishes on its own account, and the level of a gauge that was not moved in this capture.
    """
    level = _level_of(read)
    return read is clients._zero or (level is not None and level._terms == [0])  # noqa: SLF001


def _level_of(read: Callable[[], float]) -> Level | None:
    """
    The level that a gauge's reading reads, if it is one that is moved.
    """
    level = getattr(read, "__self__", None)
    return level if isinstance(level, Level) else None


def _changed(config: MetricsConfig, **changes: object) -> MetricsConfig:
    """
    The same settings but for some.
    """
    settings = {name: getattr(config, name) for name in SETTINGS}
    return MetricsConfig(
        default_dimensions=config.default_dimensions,
        dimension_policy=config.dimension_policy,
        catalogue=config.catalogue,
        **{**settings, **changes},
    )
