"""
The background job: fold, seal, send, wait - in small steps, so that nobody notices it.

Rules
1. One step folds what is due, seals what is due and makes at most one call. Then it returns, so that a message (flush, stop) is never
   more than one call away.
2. It owns the delivery; nobody else changes it except under `deciding`, which is held to decide or to book, never during a call.
3. It never dies: whatever a step raises is logged and counted, and the next step comes a second later.
4. Waiting is the runtime's business: a step says when it wants to be called again.
"""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from retainwise_metrics.checks import type_of
from retainwise_metrics.runtime import Question
from retainwise_metrics.sinks.base import SinkError, SinkUnavailable
from retainwise_metrics.stats import BreakerState, DropReason, FlushResult

from .intake import FOLD_AT, FULL_AT, INBOX_FULL_AT, INBOX_STEP
from .spooling import Spooling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from retainwise_metrics.datum import Batch
    from retainwise_metrics.runtime import Runtime
    from retainwise_metrics.sinks.base import Sink
    from retainwise_metrics.sinks.spool import Spool

    from .delivery import Delivery, DeliveryCounts
    from .hooks import Hooks
    from .intake import Intake
    from .reporting import Reporter

Item = TypeVar("Item")

TICK_SECONDS = 1.0
"""How often values are folded while any arrive: it bounds what callers hold, and how wrong a value's minute can be."""

MINUTE_SECONDS = 60.0
"""What is read rather than counted is read once in it."""

SHORTEST_WAIT_SECONDS = 0.001
"""Less than this is not worth a wake-up."""

LATENESS_SECONDS = 0.01
"""How late a full minute may be noticed; time that is frozen just before one must not keep the flusher busy."""

ITEMS_PER_STEP = 50
"""Channels folded, and windows sealed, before other threads get a turn."""

FOLDS_PER_CHUNK = ITEMS_PER_STEP * FULL_AT // FOLD_AT + 1
"""Folds that empty as many full lists."""

DRAINS = INBOX_FULL_AT // INBOX_STEP + 1
"""Steps that empty a full inbox."""

EARLY_FLUSH_DATUMS = 5_000
"""Folded series and windows that are not held until the interval is over."""

REMEMBERED_CALLS = 1_000
"""Calls whose duration is remembered until somebody asks."""

ROTATE_SECONDS = 300.0
"""How often series compete anew for a place under the cardinality cap."""


class Flush(Question):
    """
    Somebody waits until everything recorded so far is delivered.
    """

    __slots__ = ("before",)

    def __init__(self, deadline: float) -> None:
        super().__init__(deadline)
        self.before: DeliveryCounts | None = None


class Stop(Flush):
    """
    Deliver what can be delivered by the deadline, then end.
    """

    __slots__ = ()


class Flusher:
    """
    The job that runs a pipeline.

    Args:
        runtime: Clocks.
        intake: Where values come from.
        delivery: What decides and keeps the books.
        sink: Where batches go.
        reporter: Says what went wrong.
        interval_seconds: Between two flushes.
        collect: Called before each flush with the minute: records what is read rather than counted, once a minute, and says whether it
            recorded anything.
        leave: Called when a `Stop` has been carried out: does what it is given and says whether the job is over, unless the client was
            started again meanwhile.
        pause: Lets other threads run.
        divert: Sends a batch to the second sink, if there is one.
        spool: Keeps on disk what cannot be delivered, if there is one.
        hooks: What the application wants to be asked and told.
    """

    def __init__(
        self,
        runtime: Runtime,
        intake: Intake,
        delivery: Delivery,
        sink: Sink,
        reporter: Reporter,
        interval_seconds: float,
        collect: Callable[[float], bool],
        leave: Callable[[Callable[[], None], Callable[[], None]], bool],
        pause: Callable[[], None],
        divert: Callable[[Batch], None] | None = None,
        spool: Spool | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        self._runtime = runtime
        self._intake = intake
        self._delivery = delivery
        self._sink = sink
        self._reporter = reporter
        self._interval = interval_seconds
        self._collect = collect
        self._leave = leave
        self._pause = pause
        self._divert = divert
        self._hooks = hooks
        self.latencies: deque[float] = deque(maxlen=REMEMBERED_CALLS)
        """How long the last calls took, in seconds."""
        self._minute = -1.0
        """The minute of the last fold, counted from the epoch."""
        self._collected_minute = -1.0
        self.collecting = False
        """Whether the collectors record just now: at the end they still may, when nobody else may any more."""
        self._flushes: list[Flush] = []
        self._logged_refusals: dict[DropReason, int] = {}
        self._logged_drops: dict[DropReason, int] = {}
        self._logged_state = BreakerState.CLOSED
        self.deciding = threading.Lock()
        self.counts = delivery.counts()
        """The delivery's books, replaced as a whole after each change."""
        self._spooling = (
            Spooling(spool, delivery, self.deciding, self._publish, runtime, pause) if spool is not None else None
        )
        now = runtime.monotonic()
        # Each process has its own phase: a fleet that was started together does not flush in the same second.
        self._flush_at = now + interval_seconds * runtime.random()
        self._fold_at = now
        self._rotate_at = now + ROTATE_SECONDS

    # ---- the step ----

    def step(self, message: object | None) -> float | None:
        """
        Fold, seal and send a little; see `runtime.Job`.
        """
        try:
            return self._step(message)
        except KeyboardInterrupt:  # only where the caller does the work
            raise
        except BaseException:  # noqa: BLE001 - a flusher that dies is a blackout; this is the last line of defence
            self._reporter.failure("flusher", "internal error in the metrics flusher; it goes on in a second")
            return TICK_SECONDS

    def _step(self, message: object | None) -> float | None:
        if isinstance(message, Flush):
            self._begin(message)
        elif isinstance(message, BaseException):
            kind = type(message).__name__
            self._reporter.warn("struck", f"{kind} was raised in the metrics thread from outside; it goes on")
        self._intake.asleep = False
        if self._spooling is not None:
            self._spooling.tend()
        self._fold_if_due()
        if self._interval > MINUTE_SECONDS and self._minute != self._collected_minute:
            self._collect_what_is_due()
        now = self._runtime.monotonic()
        if now >= self._flush_at or self._intake.open_windows() >= EARLY_FLUSH_DATUMS:
            self._next_flush(now)
            self._seal()
        if now >= self._rotate_at:
            self._rotate_at = now + ROTATE_SECONDS
            self._intake.rotate()
        self._send_one()
        self._report()
        return None if self._answer() else self._delay()

    def _next_flush(self, now: float) -> None:
        if now >= self._flush_at:
            missed = int((now - self._flush_at) // self._interval)
            self._flush_at += self._interval * (missed + 1)

    def _delay(self) -> float:
        now = self._runtime.monotonic()
        # With a longer interval gauges and zeros are still due once a minute: alarms look at minutes.
        delay = min(max(self._flush_at - now, 0.0), MINUTE_SECONDS)
        due = self._delivery.seconds_until_due(now)
        if due is not None:
            delay = min(delay, due)
        if self._flushes:
            delay = min(delay, max(min(flush.deadline for flush in self._flushes) - now, 0.0))
        if delay == 0.0:
            return 0.0
        # A difference of two clock readings may be too small to move either clock.
        delay = max(delay, SHORTEST_WAIT_SECONDS)
        to_full_minute = max(60.0 - self._runtime.wall() % 60.0, LATENESS_SECONDS)
        if self._intake.open_windows() or self._intake.has_news():
            return min(delay, to_full_minute, TICK_SECONDS)
        # Set before looking once more: a caller that recorded in between either sees the flag and wakes us, or is seen here.
        self._intake.asleep = True
        # Even in sleep a wait ends with the minute: a caller that was about to append to a list when it was emptied wakes nobody.
        return 0.0 if self._intake.has_news() else min(delay, max(to_full_minute, TICK_SECONDS))

    # ---- fold and seal ----

    def _fold_if_due(self) -> None:
        if self._runtime.wall() // 60 != self._minute or self._runtime.monotonic() >= self._fold_at:
            self.fold()

    def fold(self) -> None:
        """
        Fold everything recorded so far.
        """
        self._fold_at = self._runtime.monotonic() + TICK_SECONDS
        self._minute = self._runtime.wall() // 60
        for channels in _chunks(self._intake.channels()):
            self._repeat(partial(self._intake.fold_step, channels), FOLD_AT, FOLDS_PER_CHUNK)
        self._repeat(self._intake.drain_step, INBOX_STEP, DRAINS)

    def _repeat(self, step: Callable[[], int], full: int, most: int) -> None:
        """
        Repeat a step until it finds less than it may take at once: what callers add meanwhile is for the next time.
        """
        for _ in range(most):
            done = step()
            if done:
                self._pause()
            if done < full:
                return

    def _seal(self) -> None:
        self._collect_what_is_due()
        self._hand_over()

    def _hand_over(self) -> None:
        for chunk in _chunks(self._intake.take().sealed()):
            sealed, withheld = (chunk, 0) if self._hooks is None else self._hooks.ask_about(chunk)
            with self.deciding:
                self._delivery.receive(sealed)
                self._delivery.book(received=withheld, dropped=DropReason.WITHHELD)
                self.counts = self._delivery.counts()
            self._pause()

    def _collect_what_is_due(self) -> None:
        self._collected_minute = self._minute
        self.collecting = True
        try:
            collected = self._collect(self._minute)
        finally:
            self.collecting = False
        if collected:
            self.fold()

    # ---- send ----

    def _publish(self, counts: DeliveryCounts) -> None:
        self.counts = counts

    def _send_one(self) -> None:
        if self._spooling is None:
            self._call_with_next()
            return
        self._spooling.settle()  # what was raised in this thread may have come between a call and its note
        self._spooling.refill()
        self._call_with_next()
        self._spooling.settle()
        self._spooling.relieve()

    def _call_with_next(self) -> None:
        with self.deciding:
            batch = self._delivery.next(self._runtime.monotonic(), self._runtime.wall())
            divert = self._delivery.diverting
            self.counts = self._delivery.counts()
        if batch is None:
            return
        error: SinkError | None = SinkUnavailable("the call was interrupted", maybe_delivered=True)
        try:
            error = self.call(lambda: batch, divert=divert)
        finally:
            with self.deciding:
                self._delivery.settle(error, self._runtime.monotonic())
                self.counts = self._delivery.counts()
        self._pause()

    def call(self, make: Callable[[], Batch], *, divert: bool = False) -> SinkError | None:
        """
        Send one batch; any thread.

        Args:
            make: Makes what to send; it may ask the sink how large it will be, which is somebody's code as well.
            divert: To the second sink.

        Returns:
            What went wrong, or None.
        """
        began = self._runtime.monotonic()
        try:
            batch = make()
            if divert and self._divert is not None:
                self._divert(batch)
            else:
                self._sink.send(batch)
        except SinkError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a sink is somebody's code; whatever it raises, the batch did not arrive for sure
            self._reporter.failure("sink", "the metrics sink raised an unexpected error; the batch is kept")
            message = f"unexpected {type_of(error)} in {type_of(self._sink)}"
            return SinkUnavailable(message, maybe_delivered=True)
        finally:
            self.latencies.append(self._runtime.monotonic() - began)
        return None

    # ---- questions ----

    def _begin(self, flush: Flush) -> None:
        flush.before = self.counts
        self._flushes.append(flush)
        self.fold()
        self._seal()
        with self.deciding:
            self._delivery.hurry()
            if isinstance(flush, Stop):
                self._delivery.breaker.last_chance()

    def _answer(self) -> bool:
        """
        Answer whoever waits for something that is now certain; True when the job is over.
        """
        if not self._flushes:
            return False
        stopping = any(isinstance(flush, Stop) for flush in self._flushes)
        now = self._runtime.monotonic()
        due = self._delivery.seconds_until_due(now)
        if stopping and due is None:
            # Somebody may have been about to append when the client was stopped.
            self._gather()
            due = self._delivery.seconds_until_due(now)
        certain = [flush for flush in self._flushes if due is None or now + due >= flush.deadline]
        if any(isinstance(flush, Stop) for flush in certain) and self._leave(self._give_up, self._answer_all):
            return True
        for flush in certain:
            self._flushes.remove(flush)
            flush.replies.put(self._result(flush))
        return False

    def _answer_all(self) -> None:
        self._report()
        while self._flushes:
            flush = self._flushes.pop()
            flush.replies.put(self._result(flush))

    def _gather(self) -> None:
        self.fold()
        self._hand_over()

    def rescue(self, patience_seconds: float) -> None:
        """
        While this job is stuck in a call, and the process is about to end: bring to disk what would be lost, on the caller's thread.
        """
        if self._spooling is not None:
            self._gather()
            self._spooling.rescue(patience_seconds)

    def _give_up(self) -> None:
        self._gather()
        if self._spooling is not None:
            self._spooling.relieve(at_once=True)
        with self.deciding:
            self._delivery.drop_everything(DropReason.SHUTDOWN)
            self.counts = self._delivery.counts()
        try:
            self._sink.close()
        except Exception:  # noqa: BLE001 - a sink is somebody's code
            self._reporter.failure("close", "closing the metrics sink failed")

    def _result(self, flush: Flush) -> FlushResult:
        before, after = flush.before or self.counts, self.counts
        dropped = sum(after.dropped.values()) - sum(before.dropped.values())
        return FlushResult(after.delivered - before.delivered, dropped, after.held)

    # ---- what is said ----

    def _report(self) -> None:
        self._report_losses("refused", self._intake.published.refused, self._logged_refusals, self._intake.notes)
        self._report_losses("dropped", self.counts.dropped, self._logged_drops, self._delivery.notes)
        state = self._delivery.breaker.state
        if state is not self._logged_state:
            self._logged_state = state
            self._reporter.warn(
                f"breaker-{state}",
                f"metrics delivery: the circuit breaker is now {state}; last error: {self.counts.last_error}",
            )

    def _report_losses(
        self,
        verb: str,
        totals: Mapping[DropReason, int],
        logged: dict[DropReason, int],
        notes: Mapping[DropReason, str],
    ) -> None:
        for reason, total in totals.items():
            new = total - logged.get(reason, 0)
            if new > 0:
                logged[reason] = total
                note = notes.get(reason)
                because = f": {note}" if note else ""
                self._reporter.warn(f"{verb}-{reason}", f"metrics {verb} ({reason}), {total} so far{because}", new)
                if self._hooks is not None:
                    self._hooks.tell_dropped(reason, new)


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """
    Cut the work into steps; one empty step when there is nothing, so that the inbox is looked at and the books are published.
    """
    remaining = iter(items)
    yield list(islice(remaining, ITEMS_PER_STEP))
    while chunk := list(islice(remaining, ITEMS_PER_STEP)):
        yield chunk
