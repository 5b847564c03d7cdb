"""
Elsewhere, not nowhere: a second sink for the time in which the breaker lets no call to the first one.

There is one breaker, the delivery's, and it knows the first sink only. While it lets nothing through, the delivery diverts batches to the
second sink. The call that finds out whether the first one works again is a batch as ever, and from then on all of them go there. A batch
goes to one of the two. The exception is the one that retries have too: a call that failed may have arrived all the same, or in part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retainwise_metrics.datum import Batch, Datum

    from .base import Sink


class FailoverSink:
    """
    Two sinks; who sends decides which. Any sink that has `divert` is treated the same way.

    Args:
        primary: Where batches go.
        secondary: Where they go while the breaker is open.
    """

    def __init__(self, primary: Sink, secondary: Sink) -> None:
        self._primary = primary
        self._secondary = secondary

    def send(self, batch: Batch) -> None:
        """
        Send one batch to the first sink; see `base.Sink.send`.
        """
        self._primary.send(batch)

    def divert(self, batch: Batch) -> None:
        """
        Send one batch to the second sink; it fails in the same ways as `send`.
        """
        self._secondary.send(batch)

    def datum_bytes(self, datum: Datum) -> int:
        """
        The size for the first sink.
        """
        return self._primary.datum_bytes(datum)

    def envelope_bytes(self, namespace: str) -> int:
        """
        The size for the first sink.
        """
        return self._primary.envelope_bytes(namespace)

    def after_fork(self) -> None:
        """
        Forget the connections of both.
        """
        try:
            self._primary.after_fork()
        finally:
            self._secondary.after_fork()

    def close(self) -> None:
        """
        Let go of the connections of both.
        """
        try:
            self._primary.close()
        finally:
            self._secondary.close()
