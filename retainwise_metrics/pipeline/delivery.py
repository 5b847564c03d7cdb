"""
What happens to a batch: which one is next, when, and what its outcome means.

Rules
1. Pure: it is told the time and the outcome, it never looks and never sends.
2. Every measurement received is, at any moment, in exactly one place: the backlog, a batch already formed, an isolation, on the wire,
   delivered, or dropped for a reason.
3. *Throttled* and *unavailable* put the batch back in front, as it was. *Too large* halves it. *Rejected* takes out the datums that were
   named, or looks for them: the first half of the suspects is sent; whichever half must hold the poison is halved again; what was never
   cleared is sent at the end. One poison among n costs at most ceil(log2 n) + 1 extra calls, and the poison itself is never sent alone.
   What may have arrived is sent again as well, unless delivery is at most once: then it is given up.
4. Only failures to get through count against the breaker, and throttling only when it repeats: it is AWS working as designed.
5. While the breaker lets nothing through, batches are diverted to a second sink, if there is one. What becomes of them is booked as ever
   but is none of the breaker's business, and a search for poison never goes on at another sink than the one that refused.
6. What waits for long may be unloaded to a disk and loaded again. What is on disk is still held here; the rest of a batch is sent, unloaded
   or given up as a whole, so that a batch is either from the disk or not.
"""

from __future__ import annotations

from collections import Counter, deque
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from retainwise_metrics import limits
from retainwise_metrics.sinks.base import (
    SinkError,
    SinkForbidden,
    SinkRejected,
    SinkThrottled,
    SinkTooLarge,
)
from retainwise_metrics.stats import BreakerState, DropReason

from .batching import CATCH_UP_DATUMS, BatchLimits, next_batch, rebatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from retainwise_metrics.datum import Batch, Datum, Series
    from retainwise_metrics.sinks.base import Sink

    from .aggregation import Distribution
    from .backlog import Backlog
    from .circuit_breaker import CircuitBreaker
    from .retry import RetryPolicy

TOLERATED_THROTTLES = 2
"""Throttled calls in a row that do not count against the breaker; the third does."""

SMALLEST_REQUEST_BYTES = 50_000
"""The byte limit learned from a 413 never falls below this: one datum can be 47 kB (measured, the largest legal datum)."""


UNLOAD_AFTER_SECONDS = 1.0
"""
A longer wait for the next call than this makes what is held go to disk, and so does any wait while the breaker is not closed.

The wait after a first failure is shorter.
"""


class DeliveryCounts(NamedTuple):
    """
    The delivery's side of the ledger, in measurements.

    Attributes:
        received: Everything ever handed over.
        delivered: Accepted by the sink.
        dropped: Given up, by reason.
        held: Still here, counted by looking.
        calls: Calls made.
        failed_calls: Calls that did not deliver.
        last_error: The last error in words, or None.
        diverted: What was delivered by the second sink.
        adopted: What was received from the disk of others.
        spooled: What is held on disk and not loaded.
        oldest: Start of the oldest window held, epoch seconds; None when there is none.
    """

    received: int = 0
    delivered: int = 0
    dropped: Mapping[DropReason, int] = MappingProxyType({})
    held: int = 0
    calls: int = 0
    failed_calls: int = 0
    last_error: str | None = None
    diverted: int = 0
    adopted: int = 0
    spooled: int = 0
    oldest: int | None = None


class _Isolation:
    """
    The search for a datum that poisons its batch.
    """

    __slots__ = ("diverted", "suspects", "unknown")

    def __init__(self, suspects: tuple[Datum, ...], *, diverted: bool) -> None:
        self.diverted = diverted
        """Whether it was the second sink that refused them."""
        self.suspects = suspects
        """At least one of these is poison."""
        self.unknown: tuple[Datum, ...] = ()
        """Neither cleared nor suspected."""

    def trial(self) -> tuple[Datum, ...]:
        """
        The half to send next.
        """
        return self.suspects[: len(self.suspects) // 2]

    def rest(self) -> tuple[Datum, ...]:
        """
        The other half.
        """
        return self.suspects[len(self.suspects) // 2 :]


class Delivery:
    """
    Decides what is sent next, and books what became of it.

    Args:
        backlog: What waits.
        breaker: Whether calls make sense.
        retry: How long to wait after a failure.
        bounds: What one call may carry.
        sink: Sizes datums; it is never asked to send.
        random: A number in [0, 1) per call.
        can_divert: Whether there is a second sink.
        at_most_once: Give up what may have arrived, instead of sending it again.
        pause: Lets other threads run; called while a large batch is made.
    """

    def __init__(
        self,
        backlog: Backlog,
        breaker: CircuitBreaker,
        retry: RetryPolicy,
        bounds: BatchLimits,
        sink: Sink,
        random: Callable[[], float],
        *,
        can_divert: bool = False,
        at_most_once: bool = False,
        pause: Callable[[], None],
    ) -> None:
        self.backlog = backlog
        self.breaker = breaker
        self._retry = retry
        self._bounds = bounds
        self._sink = sink
        self._random = random
        self.can_divert = can_divert
        self._at_most_once = at_most_once
        self._pause = pause
        self._formed: deque[tuple[Datum, ...]] = deque()
        self._isolation: _Isolation | None = None
        self.on_the_wire: Batch | None = None
        self._unloading: tuple[Datum, ...] = ()
        self.diverting = False
        """Whether what is on the wire goes to the second sink."""
        self._retry_at = self._divert_at = float("-inf")
        self._failures = self._failed_diversions = 0
        self._throttles = 0
        self._load_at = float("-inf")
        self._received = self._delivered = self._diverted = self._adopted = self._calls = self._failed_calls = 0
        self._dropped: Counter[DropReason] = Counter()
        self._last_error: str | None = None
        self.spooled = 0
        """Measurements on disk that are not loaded."""
        self._spooled_oldest: int | None = None
        self.finished: list[Datum] | None = None
        """Datums delivered or dropped since somebody has looked last, if anybody wants to know."""
        self.notes: dict[DropReason, str] = {}
        """What was dropped last and why, per reason, for the log line that the flusher writes."""

    # ---- what comes in ----

    def receive(self, sealed: Iterable[tuple[int, Series, Distribution]]) -> None:
        """
        Take over sealed windows: window start, series, what was folded.
        """
        for window, series, distribution in sealed:
            self._received += self.backlog.add(window, series, distribution)
        self._drop(self.backlog.overflow(), DropReason.BACKLOG_FULL)

    def book(
        self, *, received: int = 0, delivered: int = 0, dropped: DropReason | None = None, diverted: bool = False
    ) -> None:
        """
        Book measurements that did not go through the backlog: all delivered, or all dropped for a reason.
        """
        self._received += received
        self._delivered += delivered
        self._diverted += delivered if diverted else 0
        if dropped is not None:
            self._drop(received - delivered, dropped)

    # ---- what goes out ----

    def waiting(self) -> bool:
        """
        Whether anything is left to send, on disk or in memory.
        """
        return self.spooled > 0 or self._in_memory()

    def _in_memory(self) -> bool:
        return bool(self._formed or self._isolation or self.backlog)

    def seconds_until_due(self, now: float) -> float | None:
        """
        Seconds until a call is worth trying; None when nothing waits or only an operator can change the answer.
        """
        if not self.waiting():
            return None
        ready = 0.0 if self._in_memory() else max(self._load_at - now, 0.0)
        until_permit = self.breaker.seconds_until_permit(now)
        until_call = None if until_permit is None else max(until_permit, self._retry_at - now, ready)
        if not self.diverts(now):
            return until_call
        until_diversion = max(self._divert_at - now, ready)
        return until_diversion if until_call is None else min(until_diversion, until_call)

    def diverts(self, now: float) -> bool:
        """
        Whether a batch would go to the second sink.
        """
        return self.can_divert and self.breaker.seconds_until_permit(now) != 0.0

    def hurry(self) -> None:
        """
        End a wait between attempts: somebody asked for a flush.
        """
        self._retry_at = self._divert_at = float("-inf")

    def next(self, now: float, wall: float) -> Batch | None:
        """
        The batch to send now, or None; `diverting` says to which sink. Its outcome must be told to `settle`.

        Args:
            now: Monotonic seconds.
            wall: Epoch seconds; what is older than CloudWatch accepts is dropped here.
        """
        while self._in_memory() and self.seconds_until_due(now) == 0:
            self.diverting = self.diverts(now)
            batch = self._choose(wall)
            # Only ask the breaker with a batch in hand: a yes while it is open makes this call the probe.
            if batch is not None and (self.diverting or self.breaker.permit(now)):
                self.on_the_wire = batch
                return batch
        return None

    def _choose(self, wall: float) -> Batch | None:
        if self._isolation and self._isolation.diverted is not self.diverting:
            self._end_isolation()
        if self._isolation:
            return rebatch(self._sink, self._isolation.trial())
        if self._formed:
            return self._without_too_old(rebatch(self._sink, self._formed.popleft()), wall)
        return self._without_too_old(next_batch(self.backlog, self._sink, self._bounds, self._pause), wall)

    def _end_isolation(self) -> None:
        if self._isolation is not None:
            self._formed.appendleft(self._isolation.suspects + self._isolation.unknown)
            self._isolation = None

    def _without_too_old(self, batch: Batch, wall: float) -> Batch | None:
        oldest = wall - limits.PAST_SECONDS
        if batch.datums[0].timestamp > oldest and all(datum.timestamp > oldest for datum in batch.datums):
            return batch
        fresh = tuple(datum for datum in batch.datums if datum.timestamp > oldest)
        self._finish(datum for datum in batch.datums if datum.timestamp <= oldest)
        self._drop(batch.measurements - sum(datum.measurements for datum in fresh), DropReason.TOO_OLD)
        return rebatch(self._sink, fresh) if fresh else None

    # ---- what became of it ----

    def settle(self, error: SinkError | None, now: float) -> None:
        """
        Learn the outcome of the batch that `next` returned.

        Args:
            error: What the sink raised, or None when it accepted the batch.
            now: Monotonic seconds, after the call.
        """
        batch, self.on_the_wire = self.on_the_wire, None
        if batch is None:
            return
        if self.diverting:
            self._observe_diversion(error)
        else:
            self.observe(error, now)
        if error is None:
            self._accepted(batch)
        elif isinstance(error, SinkTooLarge):
            self._halve(batch)
        elif isinstance(error, SinkRejected):
            self._rejected(batch, error.members)
        else:
            if self._at_most_once and getattr(error, "maybe_delivered", False):
                self._give_up_in_doubt(batch)
            elif self._isolation is None:
                self._formed.appendleft(batch.datums)
            # Otherwise what was on the wire is a view of the isolation's suspects, which are still held.
            self._wait(error, now)

    def _wait(self, error: SinkError, now: float) -> None:
        asked = getattr(error, "retry_after_seconds", None)
        if self.diverting:
            self._divert_at = now + self._retry.delay(self._failed_diversions, self._random(), asked)
        else:
            self._retry_at = now + self._retry.delay(self._failures, self._random(), asked)

    def _observe_diversion(self, error: SinkError | None) -> None:
        if error is None:
            self._failed_diversions = 0
        else:
            self._failed_diversions += 1
            self._last_error = f"while diverting: {type(error).__name__}: {error}"

    def observe(self, error: SinkError | None, now: float) -> None:
        """
        Count a call and tell the breaker what it means.
        """
        self._calls += 1
        if error is not None:
            self._failed_calls += 1
            self._last_error = f"{type(error).__name__}: {error}"
        if error is None or isinstance(error, (SinkTooLarge, SinkRejected)):
            self._failures = self._throttles = 0
            self.breaker.succeeded()
            return
        self._failures += 1
        if isinstance(error, SinkThrottled):
            self._throttles += 1
            if self._throttles > TOLERATED_THROTTLES or self.breaker.state is BreakerState.HALF_OPEN:
                self.breaker.failed(now)
            return
        self._throttles = 0
        self.breaker.failed(now, at_once=isinstance(error, SinkForbidden))

    def _accepted(self, batch: Batch) -> None:
        self._delivered += batch.measurements
        self._diverted += batch.measurements if self.diverting else 0
        self._finish(batch.datums)
        if self._isolation is not None:
            self._isolation.suspects = self._isolation.rest()
            self._convict_if_alone()

    def _halve(self, batch: Batch) -> None:
        datums = batch.datums
        smaller = max(batch.encoded_bytes // 2, SMALLEST_REQUEST_BYTES)
        self._bounds = self._bounds._replace(bytes=min(self._bounds.bytes, smaller))
        rest: tuple[Datum, ...] = ()
        if self._isolation is not None:
            rest = self._isolation.rest() + self._isolation.unknown
            self._isolation = None
        if len(datums) == 1:
            self.notes[DropReason.TOO_LARGE] = f"{datums[0].series.namespace} {datums[0].series.name}"
            self._drop(batch.measurements, DropReason.TOO_LARGE)
            self._finish(datums)
            parts = [rest]
        else:
            middle = len(datums) // 2
            parts = [datums[:middle], datums[middle:], rest]
        self._formed.extendleft(part for part in reversed(parts) if part)

    def _rejected(self, batch: Batch, members: tuple[int, ...]) -> None:
        datums = batch.datums
        isolation = self._isolation
        named = {index for index in members if 0 <= index < len(datums)}
        if named:
            self._convict(tuple(datums[index] for index in sorted(named)))
            left = tuple(datum for index, datum in enumerate(datums) if index not in named)
            if isolation is not None:
                left += isolation.rest() + isolation.unknown
                self._isolation = None
            if left:
                self._formed.appendleft(left)
        elif isolation is not None:
            isolation.unknown = isolation.rest() + isolation.unknown
            isolation.suspects = isolation.trial()
            self._convict_if_alone()
        else:
            self._isolation = _Isolation(datums, diverted=self.diverting)
            self._convict_if_alone()

    def _give_up_in_doubt(self, batch: Batch) -> None:
        self._drop(batch.measurements, DropReason.IN_DOUBT)
        self._finish(batch.datums)
        self.notes[DropReason.IN_DOUBT] = f"{self._last_error}"
        isolation, self._isolation = self._isolation, None
        left = isolation.rest() + isolation.unknown if isolation is not None else ()
        if left:
            self._formed.appendleft(left)

    def _convict_if_alone(self) -> None:
        isolation = self._isolation
        if isolation is None or len(isolation.suspects) > 1:
            return
        self._convict(isolation.suspects)
        if isolation.unknown:
            self._formed.appendleft(isolation.unknown)
        self._isolation = None

    def _convict(self, datums: tuple[Datum, ...]) -> None:
        first = datums[0].series
        self.notes[DropReason.REJECTED] = f"{first.namespace} {first.name}, among others: {self._last_error}"
        self._drop(sum(datum.measurements for datum in datums), DropReason.REJECTED)
        self._finish(datums)

    # ---- to the disk and back ----

    def unload(self, now: float, *, at_once: bool = False) -> tuple[Datum, ...]:
        """
        The next batch that should go to disk, or nothing; `unloaded` has to follow.

        Args:
            now: Monotonic seconds.
            at_once: However short the wait for the next call is.
        """
        if not self._in_memory() or (not at_once and not self._waits_for_long(now)):
            return ()
        if self.on_the_wire is None:
            self._end_isolation()
        if self._formed:
            self._unloading = self._formed.popleft()
        elif self.backlog:
            larger = self._bounds._replace(datums=max(self._bounds.datums, CATCH_UP_DATUMS))
            self._unloading = next_batch(self.backlog, self._sink, larger, self._pause).datums
        return self._unloading

    def _waits_for_long(self, now: float) -> bool:
        due = self.seconds_until_due(now)
        is_open = self.breaker.state is not BreakerState.CLOSED
        return due is None or due > (0.0 if is_open else UNLOAD_AFTER_SECONDS)

    def being_sent(self) -> tuple[Datum, ...]:
        """
        What `unload` leaves alone because a call is under way with it, or with a part of it.
        """
        if self.on_the_wire is None:
            return ()
        isolation = self._isolation
        return self.on_the_wire.datums if isolation is None else isolation.suspects + isolation.unknown

    def unloaded(self, *, kept: bool) -> None:
        """
        Learn whether the batch that `unload` returned is on disk now; if not, it stays in memory. `spool_holds` has to follow.
        """
        datums, self._unloading = self._unloading, ()
        if datums and not kept:
            self._formed.appendleft(datums)

    def wants_more(self, now: float) -> bool:
        """
        Whether a batch from the disk should be loaded: nothing else is to be sent, and a call may be made.
        """
        return self.spooled > 0 and not self._in_memory() and self.seconds_until_due(now) == 0

    def load(self, datums: tuple[Datum, ...], load_at: float) -> None:
        """
        Take a batch from the disk, or none. `spool_holds` has to follow.

        Args:
            datums: The batch; empty when there was none to be had.
            load_at: When the disk is worth asking again if it was empty, monotonic seconds.
        """
        if datums:
            self._formed.append(datums)
        else:
            self._load_at = load_at

    def spool_holds(self, measurements: int, lost: Mapping[DropReason, int], adopted: int, oldest: int | None) -> None:
        """
        Book what the disk says.

        Args:
            measurements: What is on disk and not loaded.
            lost: What has been given up there since the last time, by reason.
            adopted: What has been taken over from others since the last time.
            oldest: Start of the earliest window there, epoch seconds; None when there is none.
        """
        self.spooled = measurements
        self._spooled_oldest = oldest
        self._received += adopted
        self._adopted += adopted
        for reason, count in lost.items():
            self._drop(count, reason)

    def _finish(self, datums: Iterable[Datum]) -> None:
        if self.finished is not None:
            self.finished.extend(datums)

    # ---- the books ----

    def drop_everything(self, reason: DropReason) -> None:
        """
        Give up all that is held in memory.
        """
        self._drop(self._held() - self.spooled, reason)
        self.backlog.drop_all()
        self._formed.clear()
        self._isolation = None
        self.on_the_wire = None
        self._unloading = ()

    def _drop(self, measurements: int, reason: DropReason) -> None:
        if measurements:
            self._dropped[reason] += measurements

    def _groups(self) -> list[tuple[Datum, ...]]:
        """
        All that is in memory besides the backlog.
        """
        groups = [*self._formed, self._unloading]
        if self._isolation is not None:
            groups += [self._isolation.suspects, self._isolation.unknown]
        elif self.on_the_wire is not None:
            groups.append(self.on_the_wire.datums)
        return groups

    def _held(self) -> int:
        formed = sum(datum.measurements for group in self._groups() for datum in group)
        return self.spooled + self.backlog.measurements + formed

    def counts(self) -> DeliveryCounts:
        """
        The books as they stand, as one immutable value.
        """
        return DeliveryCounts(
            self._received,
            self._delivered,
            dict(self._dropped),
            self._held(),
            self._calls,
            self._failed_calls,
            self._last_error,
            self._diverted,
            self._adopted,
            self.spooled,
            self._oldest(),
        )

    def _oldest(self) -> int | None:
        starts = [min(datum.timestamp for datum in group) for group in self._groups() if group]
        if self.backlog:
            starts.append(self.backlog.oldest())
        if self._spooled_oldest is not None:
            starts.append(self._spooled_oldest)
        return min(starts, default=None)
