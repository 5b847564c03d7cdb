"""
Measure the tasks of Celery workers through Celery's signals.

    app = Celery("orders", broker=...)
    instrument_celery()          # beside the app, so that the worker and each of its processes run it

What is recorded, under the dimension `TaskName` (the heartbeat without it) and the names of `CeleryMetricNames`:

==========================  ============  ================================================================================
`WorkerHeartbeat`           Count         the main process's event loop is turning (Celery's own heartbeat, at most every 10 s)
`CeleryTaskStarted`         Count         a run of a task began
`CeleryTasksInFlight`       Count         tasks being run, per process
`WorkerSuccess`             Count         it returned
`WorkerFailure`             Count         it failed for good, its process was lost, or it took too long; also by `ErrorType`
`WorkerEndToEndDuration`    Seconds       of a run that succeeded
`CeleryTaskRetried`         Count         it will be run again; also by `ErrorType`
`CeleryTaskIgnored`         Count         it raised `Ignore` or `Reject`
`CeleryTaskRevoked`         Count         it was revoked; also by `ErrorType`: `Revoked`, `Expired` or `Terminated`
==========================  ============  ================================================================================

Rules
1. It reports. Nothing it does changes a task, its result, or whether it is acknowledged.
2. Each run that begins is counted once more when it ends: as success, failure, retry or ignored; or, if its process was
   killed, by the main process as failure or revoked.
3. A recorder that fails is never noticed by the worker: one warning goes to the log.
4. Each process of a prefork pool delivers what it recorded before it ends. Celery ends them without `atexit`, so this
   happens when Celery says that it is about to, and what could not be delivered is said; a process that is killed takes what it recorded
   since its last flush with it.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeVar

from celery import signals  # type: ignore[import-not-found,import-untyped,unused-ignore]
from celery.exceptions import Reject  # type: ignore[import-not-found,import-untyped,unused-ignore]

from retainwise_metrics.catalogue import ROLLUP, MetricSpec
from retainwise_metrics.client import CloudWatchMetrics
from retainwise_metrics.integrations._handles import Complaint, Handles, default_recorder_getter, spelled
from retainwise_metrics.lifecycle import LIFECYCLE
from retainwise_metrics.namespaces import MetricNamespace
from retainwise_metrics.service import merge_dimensions
from retainwise_metrics.units import MetricUnit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from retainwise_metrics.service import Recorder

HEARTBEAT_SECONDS: Final = 10.0
"""Least time between two beats; Celery beats every two seconds."""

FLUSH_SECONDS: Final = 5.0
"""
Longest time the end waits for a recorder's `flush`; a client of its own ends within its `shutdown_timeout_seconds`.
"""

_STARTED_AT = "_retainwise_metrics_started"
_SET_ASIDE = frozenset({"IGNORED", "REJECTED"})

_Listener = TypeVar("_Listener", bound="Callable[..., None]")


def _guarded(listen: _Listener) -> _Listener:
    """
    A listener whose failures are said once; Celery would log each of them with its traceback.
    """

    @functools.wraps(listen)
    def call(self: CeleryMetrics, **signal: object) -> None:
        try:
            listen(self, **signal)
        except Exception as failure:  # noqa: BLE001  # rule 3
            self._complaint.say(failure)

    return call  # type: ignore[return-value]


class CeleryMetricNames(NamedTuple):
    """
    Under which name each measurement is published; an empty name switches it off, for each costs a metric.

    The defaults are the names of RetainWise's catalogue, where it has them.
    """

    heartbeat: str = "WorkerHeartbeat"
    started: str = "CeleryTaskStarted"
    in_flight: str = "CeleryTasksInFlight"
    succeeded: str = "WorkerSuccess"
    failed: str = "WorkerFailure"
    duration: str = "WorkerEndToEndDuration"
    retried: str = "CeleryTaskRetried"
    ignored: str = "CeleryTaskIgnored"
    revoked: str = "CeleryTaskRevoked"


DEFAULT_NAMES: Final = CeleryMetricNames()


def catalogue(
    namespace: MetricNamespace | str = MetricNamespace.WORKER, names: CeleryMetricNames = DEFAULT_NAMES
) -> tuple[MetricSpec, ...]:
    """
    The declarations of these metrics, for `MetricsConfig(catalogue=...)`.

    CloudWatch adds nothing up across dimensions. Declared, each metric is published for all tasks together, which is
    what alarms read, and by task; failures also by error type; and what alarms count is published as 0 while nothing
    happens. Not declared, a metric is published by task, and failures by task and error type, and nothing else.
    """
    by_task = (*ROLLUP, ("TaskName",))
    by_type = (*by_task, ("ErrorType",))
    count, seconds = MetricUnit.COUNT, MetricUnit.SECONDS
    declared = (
        (names.heartbeat, count, ROLLUP, "The loop is turning. Never published as 0: its absence is the alarm.", False),
        (names.started, count, by_task, "A run of a task began.", True),
        (names.in_flight, count, by_task, "Tasks being run, per process, once a minute.", False),
        (names.succeeded, count, by_task, "A task that returned.", True),
        (names.failed, count, by_type, "A task that failed for good.", True),
        (names.duration, seconds, by_task, "A run of a task that succeeded.", False),
        (names.retried, count, by_type, "A task that will be run again.", True),
        (names.ignored, count, by_task, "A task that raised Ignore or Reject.", False),
        (names.revoked, count, by_type, "A task that was revoked, expired or terminated.", False),
    )
    return tuple(
        MetricSpec(name, str(namespace), unit, sets, meaning, zero)
        for name, unit, sets, meaning, zero in declared
        if name
    )


def instrument_celery(
    metrics: Recorder | None = None,
    *,
    namespace: MetricNamespace | str | None = MetricNamespace.WORKER,
    dimensions: Mapping[str, object] | None = None,
    names: CeleryMetricNames = DEFAULT_NAMES,
    error_type: Callable[[BaseException], str] | None = None,
    flush: Callable[[float], object] | None = None,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> CeleryMetrics:
    """
    Report every task that this process runs from now on; it starts nothing. A second call replaces the first.

    Call it where the app is made. Celery's signals are those of all apps in the process.

    Args:
        metrics: Takes the records. None: the process-wide client of each moment.
        namespace: Namespace of every record. None: the recorder's default.
        dimensions: Further dimensions of every record; copied.
        names: Names of the metrics.
        error_type: From an exception to its error type, a short text of few values. None: the name of its class.
        flush: Delivers what was recorded, given seconds it may take; called at the end of each process. None: the
            recorder's own `flush`, if it has one.
        heartbeat_seconds: Least time between two heartbeats.
        clock: Seconds on a clock that never steps back.

    Returns:
        What listens, to `disconnect` it.
    """
    listener = CeleryMetrics(
        metrics,
        namespace=namespace,
        dimensions=dimensions,
        names=names,
        error_type=error_type,
        flush=flush,
        heartbeat_seconds=heartbeat_seconds,
        clock=clock,
    )
    listener.connect()
    return listener


class CeleryMetrics:
    """
    Listens to Celery's signals; made by `instrument_celery`, whose arguments it takes.
    """

    _listening: ClassVar[CeleryMetrics | None] = None
    """The one that listens: two would count everything twice."""

    def __init__(
        self,
        metrics: Recorder | None = None,
        *,
        namespace: MetricNamespace | str | None = MetricNamespace.WORKER,
        dimensions: Mapping[str, object] | None = None,
        names: CeleryMetricNames = DEFAULT_NAMES,
        error_type: Callable[[BaseException], str] | None = None,
        flush: Callable[[float], object] | None = None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._metrics = metrics
        self._namespace = namespace
        self._dimensions = merge_dimensions({}, dimensions)
        self._names = names
        self._error_type = error_type
        self._flush = flush
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock
        self._complaint = Complaint("Celery tasks")
        self._recorder: Recorder | None = None
        self._by_task: dict[str, _Instruments] = {}
        self._next_beat = float("-inf")

    def connect(self) -> None:
        """
        Listen, instead of whatever listened before.
        """
        if CeleryMetrics._listening is not None:
            CeleryMetrics._listening.disconnect()
        CeleryMetrics._listening = self
        for signal, listen in self._listeners():
            signal.connect(listen, weak=False)

    def disconnect(self) -> None:
        """
        Listen no more.
        """
        for signal, listen in self._listeners():
            signal.disconnect(listen)
        if CeleryMetrics._listening is self:
            CeleryMetrics._listening = None

    def _listeners(self) -> tuple[tuple[Any, Callable[..., None]], ...]:
        return (
            (signals.worker_ready, self._on_ready),
            (signals.heartbeat_sent, self._on_heartbeat),
            (signals.task_prerun, self._on_start),
            (signals.task_postrun, self._on_end),
            (signals.task_failure, self._on_failure),
            (signals.task_retry, self._on_retry),
            (signals.task_revoked, self._on_revoked),
            (signals.worker_process_shutdown, self._on_pool_process_end),
            (signals.worker_shutdown, self._on_worker_end),
        )

    # ---- what the signals call ----

    @_guarded
    def _on_ready(self, **_signal: object) -> None:
        # While nothing happens the main process alone publishes the zeros that alarms need.
        self._instruments("")

    @_guarded
    def _on_heartbeat(self, **_signal: object) -> None:
        now = self._clock()
        if now >= self._next_beat:
            self._next_beat = now + self._heartbeat_seconds
            self._instruments("").heartbeat.inc()

    @_guarded
    def _on_start(self, sender: Any = None, **_signal: object) -> None:
        instruments = self._instruments(sender.name)
        instruments.in_flight.inc()
        instruments.started.inc()
        # The request is the task's own until the end of this run, also among threads and green threads.
        setattr(sender.request, _STARTED_AT, self._clock())

    @_guarded
    def _on_end(self, sender: Any = None, state: str | None = None, **_signal: object) -> None:
        now = self._clock()
        instruments = self._instruments(sender.name)
        started = sender.request.__dict__.pop(_STARTED_AT, None)
        if started is None:
            return  # it began before this listened
        instruments.in_flight.dec()
        if state == "SUCCESS":
            instruments.duration.observe(now - started)
            instruments.succeeded.inc()
        elif state in _SET_ASIDE:
            instruments.ignored.inc()

    @_guarded
    def _on_failure(self, sender: Any = None, exception: object = None, **_signal: object) -> None:
        if isinstance(exception, Reject):
            return  # counted as ignored; only some versions of Celery call it a failure, too
        self._instruments(sender.name).failed.inc(self._type_of(exception))

    @_guarded
    def _on_retry(self, sender: Any = None, reason: object = None, **_signal: object) -> None:
        cause = getattr(reason, "exc", None)
        self._instruments(sender.name).retried.inc(self._type_of(reason if cause is None else cause))

    @_guarded
    def _on_revoked(
        self, sender: Any = None, *, terminated: bool = False, expired: bool = False, **_signal: object
    ) -> None:
        why = "Terminated" if terminated else "Expired" if expired else "Revoked"
        self._instruments(sender.name).revoked.inc(why)

    @_guarded
    def _on_pool_process_end(self, **_signal: object) -> None:
        recorder = self._current()
        if self._flush is None and isinstance(recorder, CloudWatchMetrics):
            # After this comes `os._exit`: what cannot be delivered now has to go to disk, or to be said.
            LIFECYCLE.stop(recorder, recorder.config.shutdown_timeout_seconds)
        else:
            self._deliver()

    @_guarded
    def _on_worker_end(self, **_signal: object) -> None:
        self._deliver()

    def _deliver(self) -> None:
        flush: Any = getattr(self._current(), "flush", None) if self._flush is None else self._flush
        if flush is not None:
            flush(FLUSH_SECONDS)

    # ---- what they share ----

    def _current(self) -> Recorder:
        return default_recorder_getter()() if self._metrics is None else self._metrics

    def _instruments(self, task: str) -> _Instruments:
        """
        The instruments of one task, or of none; tasks are as many as the code declares.
        """
        recorder = self._current()
        if recorder is not self._recorder:
            self._recorder, self._by_task = recorder, {}
        found = self._by_task.get(task)
        if found is None:
            handles = Handles(recorder, self._namespace, self._dimensions)
            found = _Instruments(handles.within(TaskName=task) if task else handles, self._names)
            self._by_task[task] = found
        return found

    def _type_of(self, error: object) -> str:
        if self._error_type is not None and isinstance(error, BaseException):
            try:
                return spelled(self._error_type(error))
            except Exception as failure:  # noqa: BLE001  # the application's function; the failure must be counted
                self._complaint.say(failure)
        return spelled(error if isinstance(error, BaseException) else type(error).__name__)


class _Instruments:
    """
    The handles of one task on one recorder.
    """

    __slots__ = CeleryMetricNames._fields

    def __init__(self, handles: Handles, names: CeleryMetricNames) -> None:
        self.heartbeat = handles.counter(names.heartbeat)
        self.started = handles.counter(names.started)
        self.in_flight = handles.level(names.in_flight)
        self.succeeded = handles.counter(names.succeeded)
        self.failed = handles.errors(names.failed)
        self.duration = handles.histogram(names.duration, MetricUnit.SECONDS)
        self.retried = handles.errors(names.retried)
        self.ignored = handles.counter(names.ignored)
        self.revoked = handles.errors(names.revoked)
