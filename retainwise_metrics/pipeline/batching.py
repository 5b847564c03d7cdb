"""
Cutting the next call from the backlog: one namespace, bounded in datums, values and bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from retainwise_metrics import limits
from retainwise_metrics.datum import Batch, Datum

if TYPE_CHECKING:
    from collections.abc import Callable

    from retainwise_metrics.sinks.base import Sink

    from .backlog import Backlog

VALUES_PER_CALL = 3_000
"""
Most values in one call: serialising is pure Python under the interpreter lock, and 45,000 values (300 datums of 150) cost a third of a
second of it. Twenty full datums fit.
"""

VALUES_PER_TURN = 600
"""Values sorted, cut and measured before other threads get a turn: about 0.3 ms."""

CATCH_UP_FROM = 2_000
"""
Waiting datums that are a backlog to be caught up with: at 20 a call and 10 ms a call more than a second's work. A service with 2,000 series
has as many after each interval, and any service after an outage.
"""

CATCH_UP_DATUMS = 50
"""
Datums in a call while catching up. boto3 serialises in Python, and with 250 an event loop in the same process wakes up 4.4 ms late (p99,
measured); with 50 it is 2 ms, as with 20.
"""


class BatchLimits(NamedTuple):
    """
    What one call may carry.

    Attributes:
        datums: Most datums, 1 to `limits.DATUMS_PER_CALL`; `CATCH_UP_DATUMS` if that is more, while there is much to catch up with.
        values: Most distinct values over all datums.
        bytes: Most bytes of the uncompressed body.
    """

    datums: int
    values: int = VALUES_PER_CALL
    bytes: int = limits.REQUEST_BYTES


def next_batch(backlog: Backlog, sink: Sink, bounds: BatchLimits, pause: Callable[[], None] = lambda: None) -> Batch:
    """
    Take the oldest datums of one namespace, as many as one call may carry and always at least one.

    Only valid when the backlog holds something.

    Args:
        backlog: What waits.
        sink: Knows how large a datum is.
        bounds: What one call may carry.
        pause: Lets other threads run; called after every `VALUES_PER_TURN` values.
    """
    most = max(bounds.datums, CATCH_UP_DATUMS) if backlog.datums >= CATCH_UP_FROM else bounds.datums
    namespace = backlog.next_namespace()
    size = sink.envelope_bytes(namespace)
    values = values_before = 0
    datums: list[Datum] = []
    while len(datums) < most and (datum := backlog.peek(namespace, pause)) is not None:
        values += len(datum.values)
        if datums and values > bounds.values:
            break
        larger = size + sink.datum_bytes(datum)
        if datums and larger > bounds.bytes:
            break
        size = larger
        datums.append(backlog.take(namespace))
        if values - values_before >= VALUES_PER_TURN:
            values_before = values
            pause()
    return Batch(namespace, tuple(datums), size)


def rebatch(sink: Sink, datums: tuple[Datum, ...]) -> Batch:
    """
    A batch of exactly these datums, which must be of one namespace.
    """
    namespace = datums[0].series.namespace
    return Batch(namespace, datums, sink.envelope_bytes(namespace) + sum(map(sink.datum_bytes, datums)))
