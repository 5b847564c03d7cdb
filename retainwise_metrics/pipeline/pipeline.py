"""
The machine put together: an intake in front, a flusher behind, a worker that is started by the first record.

Rules
1. Building one starts nothing and touches nothing.
2. `recorded == delivered + dropped + pending` is computed from two books that are kept independently: what the intake folded, and what the
   delivery received and settled.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from retainwise_metrics.dimensions.cardinality import CardinalityGuard
from retainwise_metrics.runtime import bounded, patience
from retainwise_metrics.sinks.base import SinkUnavailable
from retainwise_metrics.stats import BreakerState, ClientStats, DropReason, FlushResult, Health

from .backlog import Backlog
from .batching import BatchLimits, rebatch
from .circuit_breaker import BreakerPolicy, CircuitBreaker
from .delivery import Delivery
from .flusher import MINUTE_SECONDS, Flush, Flusher, Stop
from .hooks import Hooks
from .intake import Intake
from .reporting import Reporter
from .retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from retainwise_metrics.datum import Batch, Datum
    from retainwise_metrics.runtime import Job, Question, Runtime, Worker
    from retainwise_metrics.sinks.base import Sink, SinkError
    from retainwise_metrics.sinks.spool import Spool, SpoolSettings

    from .hooks import BeforeSend, OnDrop

WAKE = object()
"""A message that only ends a wait."""

CHANNELS_PER_SERIES = 2
"""Channels per place under the cap: dimensioned series have a place each, undimensioned and overflow series come on top."""

FEW_CHANNELS = 1_000
"""Channels that every client may have, however small its cap."""

THREAD_NAME = "retainwise-metrics"

LATE_INTERVALS = 3
"""Flushes that may fail before a client calls itself unwell."""

START_SECONDS = 5.0
"""Longest wait for another thread that is just starting or ending the worker."""

RESCUE_SECONDS = 1.0
"""How long a stop that has run out of time waits for a disk that somebody else is using."""

LATECOMERS_SECONDS = 5.0
"""How long delivery may take of what was recorded in the very moment of a stop."""


class PipelineSettings(NamedTuple):
    """
    The numbers a pipeline runs on; `MetricsConfig` documents each.

    Attributes:
        batch_size: Most datums per call.
        flush_interval_seconds: Between two flushes.
        max_pending_datums: Bound of the backlog.
        max_series: Series with a place of their own, per client.
        max_series_per_metric: The same per metric.
        max_distinct_values: Distinct values kept exactly per series and window.
        reject_while_open: Whether records are refused while the breaker is open.
        at_most_once: Whether what may have arrived is given up instead of sent again.
        breaker: When to open.
        retry: How long to wait.
        spool: What is kept on disk, and where; None: nothing.
    """

    batch_size: int = 20
    flush_interval_seconds: float = 60.0
    max_pending_datums: int = 50_000
    max_series: int = 10_000
    max_series_per_metric: int = 1_000
    max_distinct_values: int = 1_000
    reject_while_open: bool = False
    at_most_once: bool = False
    breaker: BreakerPolicy = BreakerPolicy()
    retry: RetryPolicy = RetryPolicy()
    spool: SpoolSettings | None = None


class Pipeline:
    """
    Everything between a checked value and the sink.

    Args:
        settings: The numbers.
        sink: Where batches go.
        runtime: Clocks, randomness, threads.
        collect: Called before a flush with the minute: records what is read rather than counted, and says whether there was anything.
        starts: Called before a thread or a connection comes into being.
        before_send: See `hooks`.
        on_drop: Likewise.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        sink: Sink,
        runtime: Runtime,
        collect: Callable[[float], bool],
        starts: Callable[[], None],
        *,
        before_send: BeforeSend | None = None,
        on_drop: OnDrop | None = None,
    ) -> None:
        self._settings = settings
        self._sink = sink
        self._divert: Callable[[Batch], None] | None = getattr(sink, "divert", None)
        self._runtime = runtime
        self._collect = collect
        self._starts = starts
        self.reporter = Reporter(runtime.monotonic)
        hooked = before_send is not None or on_drop is not None
        self._hooks = Hooks(before_send, on_drop, self.reporter) if hooked else None
        self._spool = self._make_spool()
        self.intake = Intake(
            runtime.wall,
            partial(
                CardinalityGuard, max_series=settings.max_series, max_series_per_metric=settings.max_series_per_metric
            ),
            settings.max_distinct_values,
            CHANNELS_PER_SERIES * settings.max_series + FEW_CHANNELS,
            settings.max_pending_datums,
            self._wake,
            self._deliver_latecomers,
        )
        self.intake.refuse_when(self._refusal)
        self._begin()

    def _make_spool(self) -> Spool | None:
        if self._settings.spool is None:
            return None
        # Imports zlib, json and pathlib: only who asks for it needs them.
        from retainwise_metrics.sinks.spool import Spool

        return Spool(self._settings.spool, self._runtime.wall, self._runtime.monotonic, self.reporter.warn)

    def _begin(self) -> None:
        settings = self._settings
        self.breaker = CircuitBreaker(settings.breaker, self._runtime.random)
        self._delivery = Delivery(
            Backlog(settings.max_pending_datums, settings.max_distinct_values),
            self.breaker,
            settings.retry,
            BatchLimits(settings.batch_size),
            self._sink,
            self._runtime.random,
            can_divert=self._divert is not None,
            at_most_once=settings.at_most_once,
            pause=self.pause,
        )
        self._flusher = Flusher(
            self._runtime,
            self.intake,
            self._delivery,
            self._sink,
            self.reporter,
            settings.flush_interval_seconds,
            self._collect,
            self._leave,
            self.pause,
            self._divert,
            self._spool,
            self._hooks,
        )
        self._worker: Worker | None = None
        self.stopped = False
        """Whether records are refused because the application asked for the end."""
        self._starting = threading.Lock()
        self._sync_received = 0
        self._last_stats = self._look()

    def pause(self) -> None:
        """
        Let other threads run before the next step.

        Not any more when the application has asked for the end: beside threads in tight loops each pause takes 5 ms of each.
        """
        if not self.stopped:
            self._runtime.pause()

    # ---- lifecycle ----

    def start(self) -> None:
        """
        Start the background work unless it runs; after `stop`, start again.
        """
        self.stopped = self.intake.closed = False
        self._ensure_worker(START_SECONDS)

    def _wake(self) -> None:
        worker = self._worker
        if worker is not None and worker.is_alive():
            worker.post(WAKE)
        elif not self.stopped:
            self._ensure_worker()

    def _deliver_latecomers(self) -> None:
        """
        Deliver what was on its way to its list when the client stopped: it had been promised a place.
        """
        if self.intake.holds_values() or self.intake.open_windows():
            worker = self._ensure_worker()
            if worker is not None:
                worker.post(Stop(self._runtime.monotonic() + LATECOMERS_SECONDS))

    def _ensure_worker(self, patience_seconds: float = 0.0) -> Worker | None:
        """
        The worker, started if need be. Whoever records does not wait while somebody else starts it.
        """
        worker = self._worker
        if worker is not None and worker.is_alive():
            return worker
        (mine,) = map(self._starting.acquire, (True,), (min(bounded(patience_seconds), START_SECONDS),))  # see AT_ONCE
        if not mine:
            return None
        try:
            worker = self._worker
            if worker is not None and worker.is_alive():
                return worker
            self._starts()
            self._worker = self._new_worker()
        finally:
            self._starting.release()
        if worker is not None:
            self.reporter.warn("revived", "the metrics thread had ended; it has been started again")
        return self._worker

    def _leave(self, give_up: Callable[[], None], answer: Callable[[], None]) -> bool:
        """
        Let go of the worker that asks, unless the client was started again: then it goes on.

        Everything it still has to do is done in here, because another worker may begin as soon as the lock is free.
        """
        with self._starting:
            over = self.stopped
            if over:
                # Set before looking for the last time: who appends after that sees it.
                self.intake.closed = True
                give_up()
                self._worker = None
                self.intake.asleep = True
                answer()
        if over:
            # Somebody may have tried in vain while the lock was held.
            self._deliver_latecomers()
        return over

    def _new_worker(self) -> Worker:
        try:
            worker = self._runtime.start(self._flusher, THREAD_NAME)
        except RuntimeError as error:
            self.intake.unattended = True
            self.reporter.warn(
                "no-thread",
                f"no thread can be started here ({error}): metrics are delivered only when flush() or stop() is called;"
                " under uWSGI start it with --enable-threads",
            )
            return InlineWorker(self._flusher, self._runtime.monotonic)
        self.intake.unattended = False
        return worker

    def flush(self, timeout: float) -> FlushResult:
        """
        Deliver everything recorded so far, waiting at most `timeout` seconds.
        """
        timeout = patience(timeout)
        worker = self._worker
        if worker is None or not worker.is_alive():
            if self.stopped or not (self._holds_in_memory() or self._flusher.counts.spooled):
                return FlushResult(0, 0, self.stats().pending)
            worker = self._ensure_worker(timeout)
        return self._ask(worker, Flush(self._runtime.monotonic() + timeout), timeout)

    def stop(self, timeout: float) -> FlushResult:
        """
        Refuse new records, deliver what can be delivered in `timeout` seconds, and end the background work.
        """
        timeout = patience(timeout)
        worker, self.stopped = self._worker, True
        if worker is None or not worker.is_alive():
            self.intake.closed = True
            if not self._holds_in_memory():
                return FlushResult(0, 0, self.stats().pending)
            worker = self._ensure_worker(timeout)
        result = self._ask(worker, Stop(self._runtime.monotonic() + timeout), timeout)
        if result.pending and worker is not None and worker.is_alive():
            self._rescue()
        return result

    def _rescue(self) -> None:
        """
        On a thread of its own: the disk may hang, a sink may raise, and whoever stops may be a signal handler whose thread has a lock.
        """

        def rescue() -> None:
            try:
                self._flusher.rescue(RESCUE_SECONDS)
            except BaseException:  # noqa: BLE001 - nobody is there to catch it
                self.reporter.failure("rescue", "bringing values to disk failed while the client was being stopped")

        thread = threading.Thread(target=rescue, name=f"{THREAD_NAME}-rescue", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending, or has no threads
            rescue()
            return
        thread.join(RESCUE_SECONDS)

    def _holds_in_memory(self) -> bool:
        counts = self._flusher.counts
        return self.intake.holds_values() or self.intake.open_windows() > 0 or counts.held > counts.spooled

    def begin_flush(self, timeout: float) -> None:
        """
        Let a flush begin without waiting for it; for signal handlers.
        """
        worker = self._worker
        if worker is not None and worker.is_alive():
            worker.post(Flush(self._runtime.monotonic() + timeout))

    def begin_stop(self, timeout: float) -> None:
        """
        Let `stop` begin without waiting for it; whoever wants its result calls `stop` afterwards.
        """
        worker, self.stopped = self._worker, True
        if worker is not None and worker.is_alive():
            worker.post(Stop(self._runtime.monotonic() + timeout))

    def _ask(self, worker: Worker | None, question: Flush, timeout: float) -> FlushResult:
        before = self._flusher.counts
        answer = worker.ask(question, timeout) if worker is not None else None
        if isinstance(answer, FlushResult):
            return answer
        after = self._flusher.counts
        dropped = sum(after.dropped.values()) - sum(before.dropped.values())
        return FlushResult(after.delivered - before.delivered, dropped, self.stats().pending)

    def operate(self, action: Callable[[], None]) -> None:
        """
        Change the breaker's state on an operator's behalf.
        """
        with self._flusher.deciding:
            action()
        self._wake()

    def after_fork(self) -> None:
        """
        Start empty in a child process; the parent keeps, and delivers, what was pending.
        """
        self.intake.after_fork()
        if self._spool is not None:
            self._spool.after_fork()
        self._begin()
        self._sink.after_fork()

    # ---- one datum now ----

    def send_now(self, datums: tuple[Datum, ...]) -> bool:
        """
        Send datums of one namespace in one call on the caller's thread, through the breaker and past the backlog.

        While the breaker is open they go to the second sink, if there is one.

        Returns:
            Whether they were accepted.
        """
        self._starts()
        flusher = self._flusher
        chosen = self._after_hooks(datums)
        withheld = sum(datum.measurements for datum in datums) - sum(datum.measurements for datum in chosen)
        if withheld:
            with flusher.deciding:
                self._sync_received += withheld
                self._book(withheld, dropped=DropReason.WITHHELD)
        if not chosen:
            return False
        measurements = sum(datum.measurements for datum in chosen)
        with flusher.deciding:
            self._sync_received += measurements
            divert = self._delivery.diverts(self._runtime.monotonic())
            if self.stopped or not (divert or self.breaker.permit(self._runtime.monotonic())):
                reason = DropReason.STOPPED if self.stopped else DropReason.BREAKER_OPEN
                self._book(measurements, dropped=reason)
                return False
        error: SinkError | None = SinkUnavailable("the call was interrupted")
        try:
            error = flusher.call(partial(rebatch, self._sink, chosen), divert=divert)
        finally:
            # Whatever happens, the breaker has to learn what became of a call that it permitted.
            with flusher.deciding:
                if not divert:
                    self._delivery.observe(error, self._runtime.monotonic())
                self._book(measurements, dropped=None if error is None else DropReason.NOT_SENT, diverted=divert)
        return error is None

    def _after_hooks(self, datums: tuple[Datum, ...]) -> tuple[Datum, ...]:
        if self._hooks is None:
            return datums
        asked = [(self._hooks.ask(datum.series), datum) for datum in datums]
        return tuple(datum._replace(series=series) for series, datum in asked if series is not None)

    def _book(self, measurements: int, dropped: DropReason | None, *, diverted: bool = False) -> None:
        delivered = 0 if dropped else measurements
        self._delivery.book(received=measurements, delivered=delivered, dropped=dropped, diverted=diverted)
        self._flusher.counts = self._delivery.counts()

    # ---- what it says ----

    def _refusal(self) -> DropReason | None:
        if self.stopped and not self._flusher.collecting:
            return DropReason.STOPPED
        if not self._settings.reject_while_open or self._divert is not None:
            return None
        is_open = self.breaker.state in (BreakerState.OPEN, BreakerState.FORCED_OPEN)
        # Once the open time is over somebody has to bring the batch that becomes the probe.
        if is_open and self.breaker.seconds_until_permit(self._runtime.monotonic()) != 0.0:
            return DropReason.BREAKER_OPEN
        return None

    def stats(self) -> ClientStats:
        """
        The ledger and the state, as one consistent value: that of the last look when a fold stands in the way of a new one.
        """
        self.intake.while_unchanging(self._look_anew)
        return self._last_stats

    def _look_anew(self) -> None:
        self._last_stats = self._look()

    def _look(self) -> ClientStats:
        # The delivery's books first: what is taken from the intake meanwhile then shows as pending, never as missing.
        sent = self._flusher.counts
        sync_in_flight = self._sync_received
        folded, unfolded, refused_now = self.intake.counts()
        refused = dict(folded.refused)
        for reason, count in refused_now.items():
            refused[reason] = refused.get(reason, 0) + count
        dropped = dict(sent.dropped)
        for reason, count in refused.items():
            dropped[reason] = dropped.get(reason, 0) + count
        entered = unfolded + folded.folded + sync_in_flight + sent.adopted
        worker = self._worker
        return ClientStats(
            recorded=entered + sum(refused.values()),
            delivered=sent.delivered,
            pending=entered - sent.received + sent.held,
            dropped=dropped,
            breaker_state=self.breaker.state,
            calls=sent.calls,
            failed_calls=sent.failed_calls,
            series=self.intake.series(),
            offenders=self.intake.offenders(),
            last_error=sent.last_error,
            running=worker is not None and worker.is_alive(),
            diverted=sent.diverted,
            spooled=sent.spooled,
            adopted=sent.adopted,
            spool_errors=0 if self._spool is None else self._spool.errors,
        )

    def backlog_age(self) -> float:
        """
        How long the oldest value that waits has been waiting since the end of its window, seconds; 0 when none does.
        """
        oldest = self._flusher.counts.oldest
        return 0.0 if oldest is None else max(self._runtime.wall() - oldest - MINUTE_SECONDS, 0.0)

    def take_latencies(self) -> list[float]:
        """
        How long the calls took since somebody has asked last, seconds.
        """
        latencies = self._flusher.latencies
        return [latencies.popleft() for _ in range(len(latencies))]

    def health(self) -> Health:
        """
        What is wrong, in words, with the numbers that say so.
        """
        stats, age = self.stats(), self.backlog_age()
        return Health(
            tuple(self._problems(stats, age)),
            stats.breaker_state,
            stats.running,
            stats.pending,
            stats.spooled,
            age,
            sum(stats.dropped.values()),
        )

    def _problems(self, stats: ClientStats, age: float) -> Iterator[str]:
        if self.stopped:
            yield "the client was stopped: records are refused"
        if stats.breaker_state not in {BreakerState.CLOSED, BreakerState.DISABLED}:
            yield f"the circuit breaker is {stats.breaker_state}; last error: {stats.last_error}"
        if age > LATE_INTERVALS * max(self._settings.flush_interval_seconds, MINUTE_SECONDS):
            yield f"the oldest value has been waiting for {age:.0f} s; last error: {stats.last_error}"
        if stats.pending > stats.spooled and not stats.running and not self.stopped:
            yield "values wait and no metrics thread runs: call flush(), or allow threads"
        if self._spool is not None and self._spool.is_failing():
            yield f"the spool in {self._spool.directory} fails; the log says why"


class InlineWorker:
    """
    For hosts without threads: the asker does the work itself.
    """

    def __init__(self, job: Job, monotonic: Callable[[], float]) -> None:
        self._job = job
        self._monotonic = monotonic
        self._never = threading.Event()
        self._working = threading.Lock()
        self._worked_by = 0
        self._alive = True

    def post(self, message: object) -> None:
        """
        Nothing: there is nobody to wake.
        """

    def ask(self, question: Question, timeout: float) -> object | None:
        """
        Work on the question until it is answered or its deadline has come, which is `timeout` from now.
        """
        # One thread at a time, and none waits for itself: a sink or callback that calls flush() gets no answer instead of a hang.
        me = threading.get_ident()
        if self._worked_by == me:
            return None
        (mine,) = map(self._working.acquire, (True,), (bounded(timeout),))  # see AT_ONCE
        if not mine:
            return None
        try:
            self._worked_by = me
            delay = self._job.step(question)
            while delay is not None and question.replies.empty() and self._monotonic() + delay < question.deadline:
                if delay:
                    self._never.wait(delay)
                delay = self._job.step(None)
            self._alive = delay is not None
        finally:
            self._worked_by = 0
            self._working.release()
        return None if question.replies.empty() else question.replies.get_nowait()

    def is_alive(self) -> bool:
        """
        Whether the job is not finished.
        """
        return self._alive
