"""
Whether the metrics say what happened: from books and published numbers to a table of facts.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

from examples.booking.wiring import NAMESPACE
from examples.booking.witness import CANCELLED, DONE

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping, Sequence

    from examples.booking.load import Outcome
    from examples.booking.witness import Books

ROUNDING = 1e-9
"""How far two sums of the same floats, added in another order, may be apart: 1e-16 per addition, with much room."""

PERCENTILES = (50, 95, 99)


class Published(Protocol):
    """
    What was published: the fake CloudWatch, or the reader of EMF documents.
    """

    def sum(self, namespace: str, name: str, dimensions: Mapping[str, str] | None = None) -> float:
        """
        Sum of one series; 0 when it has no data.
        """
        ...

    def count(self, namespace: str, name: str, dimensions: Mapping[str, str] | None = None) -> float:
        """
        Number of values of one series.
        """
        ...

    def percentile(
        self, namespace: str, name: str, dimensions: Mapping[str, str] | None, percent: float
    ) -> float | None:
        """
        Percentile of one series, by nearest rank.
        """
        ...

    def series(self) -> Sequence[tuple[str, str, tuple[tuple[str, str], ...]]]:
        """
        Every series that has data: namespace, name and pairs of dimensions.
        """
        ...


class Fact(NamedTuple):
    """
    One thing that happened, and what the metrics say of it.

    Attributes:
        about: What it is about, and who says what happened.
        metric: Where the metrics say so.
        happened: How often, or for how many milliseconds.
        published: What the metrics say.
        is_count: Whether both are whole numbers.
    """

    about: str
    metric: str
    happened: float
    published: float
    is_count: bool = True

    @property
    def equal(self) -> bool:
        """
        Whether the metrics say what happened: counts exactly, milliseconds up to the rounding of a sum.
        """
        if self.is_count:
            return self.happened == self.published
        return math.isclose(self.happened, self.published, rel_tol=ROUNDING)


class Prover:
    """
    Makes facts about one subject after the other, and keeps track of which series have been looked at.

    Args:
        published: What was published.
    """

    def __init__(self, published: Published) -> None:
        self._published = published
        self._looked_at: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
        self._about = ""
        self.facts: list[Fact] = []

    def about(self, what: str) -> None:
        """
        Begin a new subject.
        """
        self._about = what

    def fact(self, metric: str, happened: float, published: float, *, is_count: bool = True) -> None:
        """
        Compare two numbers.
        """
        self.facts.append(Fact(self._about, metric, happened, published, is_count))

    def counted(self, happened: float, name: str, **dimensions: str) -> None:
        """
        Compare with the sum of a counter.
        """
        series = self._series(name, dimensions)
        self.fact(spelled(name, dimensions), happened, self._published.sum(*series))

    def failed(self, ends: Counter[str], name: str) -> None:
        """
        Compare each way to fail with its series of a counter.
        """
        for end in sorted(ends.keys() - {DONE}):
            self.counted(ends[end], name, error_type=end)

    def measured(self, happened: float, name: str, **dimensions: str) -> None:
        """
        Compare with the number of durations.
        """
        series = self._series(name, dimensions)
        self.fact(f"{spelled(name, dimensions)} count", happened, self._published.count(*series))

    def timed(self, happened: Sequence[float], name: str, **dimensions: str) -> None:
        """
        Compare count, sum and percentiles of durations.
        """
        self.measured(len(happened), name, **dimensions)
        if not happened:
            return
        series = self._series(name, dimensions)
        self.fact("  sum", math.fsum(happened), self._published.sum(*series), is_count=False)
        for percent in PERCENTILES:
            found = self._published.percentile(*series, percent)
            there = math.nan if found is None else found
            self.fact(f"  p{percent}", nearest_rank(happened, percent), there, is_count=False)

    def unexpected(self) -> list[str]:
        """
        Series that were published and not looked at.
        """
        found = {(name, dimensions) for _, name, dimensions in self._published.series()}
        return [spelled(name, dict(dimensions)) for name, dimensions in sorted(found - self._looked_at)]

    def total(self, *names: str) -> float:
        """
        The sum of some counters under all their dimensions.
        """
        series = [each for each in self._published.series() if each[1] in names]
        return math.fsum(self._published.sum(namespace, name, dict(pairs)) for namespace, name, pairs in series)

    def _series(self, name: str, dimensions: Mapping[str, str]) -> tuple[str, str, dict[str, str]]:
        self._looked_at.add((name, tuple(sorted(dimensions.items()))))
        return NAMESPACE, name, dict(dimensions)


def prove(outcome: Outcome) -> list[Fact]:
    """
    Hold what happened against what was published.
    """
    books, prover = outcome.books, Prover(outcome.published)
    _requests(books, prover)
    _durations(books, prover)
    _payments(books, prover)
    _locks(books, prover)
    _messages(books, prover)
    prover.about("And")
    prover.fact("series of nothing that happened", 0, len(prover.unexpected()))
    prover.fact("not delivered at the end", 0, int(not outcome.delivered))
    if outcome.named is not None:
        prover.fact("requests named by a property", len(set(books.requests)), len(outcome.named))
    return prover.facts


def _requests(books: Books, prover: Prover) -> None:
    prover.about("Requests, by those who made them")
    made = len(books.requests)
    prover.counted(made, "booking.attempts")
    ended = prover.total("booking.success", "booking.failure")
    prover.fact("booking.success + booking.failure", made, ended)
    prover.counted(books.ends[DONE], "booking.success")
    prover.failed(books.ends, "booking.failure")


def _durations(books: Books, prover: Prover) -> None:
    prover.about("Durations in ms, by the first and last look at the service's clock")
    for status in ("success", "failure", "cancelled"):
        prover.timed(books.durations[status], "booking.duration", status=status)
    prover.fact("longer than the caller waited", 0, books.odd_durations)


def _payments(books: Books, prover: Prover) -> None:
    prover.about("Payments, by the provider's answers")
    asked = sum(books.charges.values())
    prover.counted(asked, "payment.attempts")
    prover.counted(books.charges[DONE], "payment.success")
    prover.failed(books.charges, "payment.failure")
    by_status = {"success": books.charges[DONE], "cancelled": books.charges[CANCELLED]}
    by_status["failure"] = asked - sum(by_status.values())
    for status, number in by_status.items():
        prover.measured(number, "payment.duration", status=status)


def _locks(books: Books, prover: Prover) -> None:
    prover.about("Locks of seats, by the locks themselves; waits in ms")
    prover.counted(books.locks_granted, "reservation.lock_acquired")
    prover.counted(books.locks_contended, "reservation.lock_contended")
    prover.timed(books.lock_waits, "reservation.lock_wait")


def _messages(books: Books, prover: Prover) -> None:
    prover.about("Messages, by the queue and the printer; lag in ms")
    prover.counted(books.tickets[DONE], "consumer.processed")
    prover.failed(books.tickets, "consumer.failed")
    prover.timed(books.lags, "consumer.lag")


def nearest_rank(values: Sequence[float], percent: float) -> float:
    """
    The smallest value that at least this share of all values does not exceed.
    """
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]


def spelled(name: str, dimensions: Mapping[str, str]) -> str:
    """
    A series in words: its name and the values of its dimensions.
    """
    return ", ".join([name, *dimensions.values()])
