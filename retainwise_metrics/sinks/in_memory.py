"""
A sink that keeps what it is sent: for tests, and for trying the library out without an account.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import SinkRejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from retainwise_metrics.datum import Batch, Datum


class InMemorySink:
    """
    Keeps every accepted batch in `batches`; it can be told to fail.

    Args:
        fail: Called with each batch before it is accepted; whatever `SinkError` it raises is what the pipeline sees.
        max_batches: The oldest batches are forgotten beyond this.
    """

    def __init__(self, fail: Callable[[Batch], None] | None = None, *, max_batches: int = 10_000) -> None:
        self.fail = fail
        self.batches: list[Batch] = []
        self.attempts = 0
        """Calls of `send`, accepted or not."""
        self._max_batches = max_batches

    def send(self, batch: Batch) -> None:
        """
        Keep a batch, or fail as told.
        """
        self.attempts += 1
        if self.fail is not None:
            self.fail(batch)
        self.batches.append(batch)
        del self.batches[: -self._max_batches]

    @property
    def datums(self) -> list[Datum]:
        """
        Every datum accepted, in order.
        """
        return [datum for batch in self.batches for datum in batch.datums]

    def values(self, namespace: str, name: str, dimensions: dict[str, str] | None = None) -> dict[float, int]:
        """
        Accepted values of one series, with how often each occurred.

        Args:
            namespace: The CloudWatch namespace.
            name: The metric.
            dimensions: Exactly the dimensions it was published with, as on CloudWatch; None is the series without any.
        """
        wanted = tuple(sorted((dimensions or {}).items()))
        counts: dict[float, int] = {}
        for datum in self.datums:
            series = datum.series
            if (series.namespace, series.name, series.dimensions) == (namespace, name, wanted):
                for value, count in zip(datum.values, datum.counts, strict=True):
                    counts[value] = counts.get(value, 0) + count
        return counts

    def datum_bytes(self, datum: Datum) -> int:
        """
        A rough size: nothing is encoded here.
        """
        return 200 + 25 * len(datum.values)

    def envelope_bytes(self, namespace: str) -> int:
        """
        A rough size: nothing is encoded here.
        """
        return 50 + len(namespace)

    def after_fork(self) -> None:
        """
        Start empty: what was kept belongs to the parent.
        """
        self.batches = []

    def close(self) -> None:
        """
        Nothing to let go of.
        """


def rejecting(matches: Callable[[Datum], bool], *, name_members: bool) -> Callable[[Batch], None]:
    """
    A `fail` function that rejects every batch with a datum that matches, as CloudWatch does with invalid content.

    Args:
        matches: Which datums are refused.
        name_members: Whether the refusal names them.
    """

    def fail(batch: Batch) -> None:
        members = tuple(index for index, datum in enumerate(batch.datums) if matches(datum))
        if members:
            message = "refused by the test"
            raise SinkRejected(message, members=members if name_members else ())

    return fail
