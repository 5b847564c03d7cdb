"""
What a client can say about itself: the ledger, the state of the breaker, the answer to a flush.

Every number here counts *measurements* (calls that recorded a value, once per dimension set), never datums.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .dimensions.cardinality import Offender


class DropReason(str, Enum):
    """
    Why a measurement was not delivered.

    `INVALID_*` and `STOPPED` are decided while recording (the call returned False), the others afterwards.
    """

    INVALID_NAME = "invalid-name"
    INVALID_VALUE = "invalid-value"
    INVALID_UNIT = "invalid-unit"
    INVALID_NAMESPACE = "invalid-namespace"
    INVALID_DIMENSIONS = "invalid-dimensions"
    INVALID_TIMESTAMP = "invalid-timestamp"
    INVALID_STORAGE_RESOLUTION = "invalid-storage-resolution"
    STOPPED = "stopped"
    """Recorded after `stop()`."""
    WITHHELD = "withheld"
    """`before_send` said so, or raised."""
    BREAKER_OPEN = "breaker-open"
    """Recorded, or sent with `put_metric_sync`, while the breaker was open."""
    INTAKE_FULL = "intake-full"
    """Recorded faster than anything could be folded: the bound on unfolded values was reached."""
    TOO_MANY_SERIES = "too-many-series"
    """A new metric name or series when the client already had several times `max_series` of them."""
    BACKLOG_FULL = "backlog-full"
    """The oldest of the backlog, pushed out because `max_pending_datums` was reached."""
    SPOOL_FULL = "spool-full"
    """The oldest of the spool on disk, pushed out because `spool_max_bytes` was reached."""
    SPOOL_DAMAGED = "spool-damaged"
    """On disk, but somebody has changed or removed the file."""
    REJECTED = "rejected"
    """CloudWatch refused the datum; sending it again cannot help."""
    TOO_LARGE = "too-large"
    """One datum alone was refused as too large."""
    TOO_OLD = "too-old"
    """Older than the two weeks CloudWatch accepts, or than `spool_max_age_seconds` on disk."""
    IN_DOUBT = "in-doubt"
    """At-most-once only: the call failed when the values were on their way, so they may have been counted all the same."""
    NOT_SENT = "not-sent"
    """`put_metric_sync` could not deliver and does not retry."""
    SHUTDOWN = "shutdown"
    """Still undelivered when `stop()` ran out of time."""
    INTERNAL_ERROR = "internal-error"
    """A fault in this library or in a sink; the log has the traceback."""

    def __str__(self) -> str:
        """The plain word, in f-strings and logs too."""
        return self.value


class BreakerState(str, Enum):
    """
    Where the circuit breaker stands.

    `FORCED_OPEN` and `DISABLED` are set by an operator and stay until `AUTO` behaviour is asked for again.
    """

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    FORCED_OPEN = "forced-open"
    DISABLED = "disabled"

    def __str__(self) -> str:
        """The plain word, in f-strings and logs too."""
        return self.value


class FlushResult(NamedTuple):
    """
    What a flush achieved; truthy when nothing is pending any more.

    Attributes:
        delivered: Measurements CloudWatch accepted during this flush.
        dropped: Measurements given up during this flush; `stats().dropped` has the reasons.
        pending: Measurements still held when it returned.
    """

    delivered: int
    dropped: int
    pending: int

    def __bool__(self) -> bool:
        """True when nothing is pending."""
        return self.pending == 0


class Health(NamedTuple):
    """
    What a readiness probe or a status page wants to know; truthy when all is well.

    A process that cannot deliver its metrics still does its work: a load balancer that takes it out for that makes matters worse.

    Attributes:
        problems: What is wrong, each in words for a person; empty when nothing is.
        breaker_state: Where the circuit breaker stands.
        running: Whether the background thread is alive; False, and no problem, before the first record.
        pending: Measurements held.
        spooled: Of those, the ones on disk.
        backlog_age_seconds: How long the oldest of them has been waiting since the end of its minute; 0 when none is.
        dropped: Measurements given up so far, for whatever reason.
    """

    problems: tuple[str, ...]
    breaker_state: BreakerState
    running: bool
    pending: int
    spooled: int
    backlog_age_seconds: float
    dropped: int

    def __bool__(self) -> bool:
        """True when nothing is wrong."""
        return not self.problems


class ClientStats(NamedTuple):
    """
    One consistent look at a client: `recorded == delivered + sum(dropped.values()) + pending`, at every moment.

    Attributes:
        recorded: Measurements offered so far, refused ones included, once per dimension set.
        delivered: Measurements CloudWatch has accepted.
        pending: Measurements held: unfolded, folded, waiting or on the wire.
        dropped: Measurements given up, by reason; reasons that never happened are absent.
        breaker_state: Where the circuit breaker stands.
        calls: PutMetricData calls made, successful or not.
        failed_calls: Calls that did not deliver.
        series: Distinct series with a place of their own.
        offenders: Metrics whose dimensions exploded: name and dimension name, never a value.
        last_error: The last delivery error, in words, or None.
        running: Whether the background thread is alive.
        diverted: Of those delivered, the measurements that went to the second sink while the breaker was open (`failover`).
        spooled: Of those pending, the measurements that are on disk (`spool_dir`); they outlive the process.
        adopted: Of those recorded, the measurements that were found on disk, left behind by a process that has ended.
        spool_errors: Times that the disk failed, and damaged stretches that were found on it.
    """

    recorded: int
    delivered: int
    pending: int
    dropped: Mapping[DropReason, int]
    breaker_state: BreakerState
    calls: int
    failed_calls: int
    series: int
    offenders: tuple[Offender, ...]
    last_error: str | None
    running: bool
    diverted: int = 0
    spooled: int = 0
    adopted: int = 0
    spool_errors: int = 0
