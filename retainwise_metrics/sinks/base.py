"""
What a sink is, and how it says what went wrong.

A sink sends one batch and returns when it was accepted, or raises exactly one of these. The class decides what happens next:

    SinkError
    +-- SinkThrottled      same batch again, later: slow down
    +-- SinkUnavailable    same batch again, later: nothing is known to have arrived, though it may have
    +-- SinkForbidden      same batch again, much later: credentials or permissions are wrong
    +-- SinkTooLarge       split
    +-- SinkRejected       the content is refused: take the named datums out, or look for them
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from retainwise_metrics.datum import Batch, Datum


class SinkError(Exception):
    """
    A batch was not accepted; the message says why, without dimension values.
    """


class SinkThrottled(SinkError):
    """
    The destination asked for fewer calls; send the same batch again later.

    Attributes:
        retry_after_seconds: What the destination asked for, or None.
    """

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class SinkUnavailable(SinkError):
    """
    Nothing is known to have arrived; send the same batch again later, unless it must not arrive twice.

    Attributes:
        retry_after_seconds: What the destination asked for, or None.
        maybe_delivered: Whether the batch may have been accepted all the same: it was on its way when something went wrong.
    """

    def __init__(
        self, message: str, *, retry_after_seconds: float | None = None, maybe_delivered: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.maybe_delivered = maybe_delivered


class SinkForbidden(SinkError):
    """
    Credentials, permissions or region are wrong; nothing gets through until somebody changes them.
    """


class SinkTooLarge(SinkError):
    """
    The request was larger than the destination accepts; split it.
    """


class SinkRejected(SinkError):
    """
    The destination refused the content of the batch as a whole because of some of its datums.

    Attributes:
        members: Indexes (from 0) of the datums the destination named; empty when it named none.
    """

    def __init__(self, message: str, *, members: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.members = members


class Sink(Protocol):
    """
    A destination for batches.

    `send` is called by the flusher thread, and by callers of `put_metric_sync` at the same time: it must be thread-safe.
    """

    def send(self, batch: Batch) -> None:
        """
        Put one batch on the wire and return when the destination has accepted it.

        Args:
            batch: At most `limits.DATUMS_PER_CALL` datums of one namespace, at most `limits.REQUEST_BYTES` once encoded.

        Raises:
            SinkError: One of its subclasses; see the top of this module.
        """
        ...

    def datum_bytes(self, datum: Datum) -> int:
        """
        Exact size of one datum in a request, with its share of separators.
        """
        ...

    def envelope_bytes(self, namespace: str) -> int:
        """
        Exact size of a request without datums.
        """
        ...

    def after_fork(self) -> None:
        """
        Forget connections made by the parent process, without using or closing them.
        """
        ...

    def close(self) -> None:
        """
        Let go of connections; `send` may still be called afterwards and then opens new ones.
        """
        ...
