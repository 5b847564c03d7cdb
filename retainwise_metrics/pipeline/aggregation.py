"""
Folding: many values become few, without losing what CloudWatch can compute from them.

A `Distribution` is exact as long as it holds few distinct values: equal values are counted, so sums, extremes and every percentile
survive. Past `max_distinct` values it becomes a sketch of geometric buckets:

- two values in one bucket differ by less than 1 % (`RELATIVE_ERROR`), so every percentile is right to 1 %;
- each bucket is represented by the *mean* of what fell into it, so count and sum stay exact (up to the rounding of floats);
- the smallest and the largest value are carried as they are, so minimum and maximum stay exact.

That keeps all four numbers exact with plain Values/Counts, which every sink understands; nothing depends on CloudWatch accepting
`StatisticValues` beside them (docs/decisions/0003).
"""

from __future__ import annotations

from collections import Counter
from math import ceil, floor, log
from typing import TYPE_CHECKING

from retainwise_metrics import limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from retainwise_metrics.datum import Counted, Series

RELATIVE_ERROR = 0.01
"""Largest relative distance between two values that share a bucket."""

MAX_BUCKETS = 4096
"""
Most buckets of one sketch. They span a factor of 1.01 ** 4096, about 5e17; data wider than that doubles the width of all buckets
(and with it the error) until it fits.
"""


class Sketch:
    """
    Geometric buckets with the exact sum and count of each.

    Bucket k > 0 of `positive` holds values in [base**k, base**(k+1)); `negative` mirrors it; zeros have a bucket of their own.
    """

    __slots__ = ("_scale", "maximum", "minimum", "negative", "positive", "zeros")

    def __init__(self) -> None:
        self._scale = 1.0 / log(1.0 + RELATIVE_ERROR)
        self.positive: dict[int, list[float]] = {}
        self.negative: dict[int, list[float]] = {}
        self.zeros = 0
        self.minimum = float("inf")
        self.maximum = float("-inf")

    def add(self, value: float, count: int) -> None:
        """
        Take `count` occurrences of one value.
        """
        if value > 0:
            self._into(self.positive, floor(log(value) * self._scale), value * count, count)
        elif value < 0:
            self._into(self.negative, floor(log(-value) * self._scale), value * count, count)
        else:
            self.zeros += count
        self.minimum = min(self.minimum, value)
        self.maximum = max(self.maximum, value)

    def _into(self, buckets: dict[int, list[float]], key: int, total: float, count: float) -> None:
        bucket = buckets.get(key)
        if bucket is not None:
            bucket[0] += count
            bucket[1] += total
            return
        buckets[key] = [count, total]
        if len(self.positive) + len(self.negative) > MAX_BUCKETS:
            self._widen()

    def _widen(self) -> None:
        self._scale /= 2
        for name in ("positive", "negative"):
            wide: dict[int, list[float]] = {}
            for key, (count, total) in getattr(self, name).items():
                bucket = wide.setdefault(key // 2, [0, 0.0])
                bucket[0] += count
                bucket[1] += total
            setattr(self, name, wide)

    def merge(self, other: Sketch) -> None:
        """
        Take everything another sketch holds.
        """
        while other._scale > self._scale:
            other._widen()
        while self._scale > other._scale:
            self._widen()
        for mine, theirs in ((self.positive, other.positive), (self.negative, other.negative)):
            for key, (count, total) in theirs.items():
                self._into(mine, key, total, count)
        self.zeros += other.zeros
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)

    def bins(self) -> int:
        """
        How many distinct values `items` yields, at most.
        """
        return len(self.positive) + len(self.negative) + 3

    def items(self) -> dict[float, int]:
        """
        The sketch as value -> count: a mean per bucket, with the exact extremes singled out.
        """
        means: dict[float, int] = {0.0: self.zeros} if self.zeros else {}
        extremes = [self.minimum] if self.minimum == self.maximum else [self.minimum, self.maximum]
        spare = {value: 1 for value in extremes if value != 0}
        for value in spare:
            means[value] = means.get(value, 0) + 1
        for buckets, sign in ((self.negative, -1), (self.positive, 1)):
            for key, (count, total) in buckets.items():
                left, rest = int(count), total
                for value in spare:
                    if value * sign > 0 and floor(log(abs(value)) * self._scale) == key:
                        left, rest = left - 1, rest - value
                if left > 0:
                    mean = min(max(rest / left, self.minimum), self.maximum)
                    means[mean] = means.get(mean, 0) + left
        return means


class Distribution:
    """
    Everything recorded for one series in one window.

    Args:
        max_distinct: How many distinct values are kept exactly before a sketch takes over.
    """

    __slots__ = ("_exact", "_max_distinct", "_sketch", "measurements")

    def __init__(self, max_distinct: int) -> None:
        self._max_distinct = max_distinct
        self._exact: Counter[float] = Counter()
        self._sketch: Sketch | None = None
        self.measurements = 0
        """How many values were folded in."""

    def fold(self, values: list[float]) -> None:
        """
        Count a list of values, at least one.
        """
        first, count = values[0], len(values)
        self.measurements += count
        if self._sketch is not None:
            self._count(Counter(values))
        elif first == values[-1] and values.count(first) == count:
            self._exact[first] += count  # counters: all ones, eighty times cheaper to count than to look up one by one
        else:
            self._exact.update(values)
        if len(self._exact) > self._max_distinct:
            self._overflow()

    def fold_counts(self, counts: Mapping[float, int], total: int) -> None:
        """
        Count values that come with how often they occurred.
        """
        self.measurements += total
        self._count(counts)
        if len(self._exact) > self._max_distinct:
            self._overflow()

    def merge(self, other: Distribution) -> None:
        """
        Take everything another distribution of the same series and window holds.
        """
        self.measurements += other.measurements
        self._count(other._exact)
        if len(self._exact) > self._max_distinct:
            self._overflow()
        if other._sketch is not None:
            if self._sketch is None:
                self._overflow()
            self._sketch.merge(other._sketch)  # type: ignore[union-attr]  # _overflow made it

    def _count(self, counts: Mapping[float, int]) -> None:
        if self._sketch is None:
            self._exact.update(counts)
            return
        for value, count in counts.items():
            self._sketch.add(value, count)

    def _overflow(self) -> None:
        exact, self._exact = self._exact, Counter()
        self._sketch = self._sketch or Sketch()
        self._count(exact)

    @property
    def exact(self) -> bool:
        """
        Whether every value is still kept as it was.
        """
        return self._sketch is None

    def datums(self) -> int:
        """
        How many datums this will become, at most.
        """
        distinct = self._sketch.bins() if self._sketch is not None else len(self._exact)
        return ceil(distinct / limits.VALUES_PER_DATUM)

    def items(self) -> list[tuple[float, int]]:
        """
        Distinct values, ascending, with their counts.
        """
        counts: dict[float, int] = {}
        for value, count in (self._exact if self._sketch is None else self._sketch.items()).items():
            # Integers beyond 2**53 may be different and still the same float, and a value may be sent only once per datum.
            number = float(value)
            counts[number] = counts.get(number, 0) + count
        return sorted(counts.items())


class Windows:
    """
    The open windows: for each window start, a distribution per series.
    """

    __slots__ = ("_max_distinct", "_open", "datums", "measurements")

    def __init__(self, max_distinct: int) -> None:
        self._max_distinct = max_distinct
        self._open: dict[int, dict[Series, Distribution]] = {}
        self.measurements = 0
        """Measurements in all open windows."""
        self.datums = 0
        """Series and windows that hold something: a lower bound on the datums they will become."""

    def fold(self, window: int, series: Series, values: list[float]) -> None:
        """
        Fold values of one series into the window that starts at `window` (epoch seconds).
        """
        self._distribution(window, series).fold(values)
        self.measurements += len(values)

    def fold_counts(self, window: int, series: Series, counted: Counted) -> None:
        """
        Likewise, for values that come with how often they occurred.
        """
        self._distribution(window, series).fold_counts(counted.counts, counted.total)
        self.measurements += counted.total

    def _distribution(self, window: int, series: Series) -> Distribution:
        distributions = self._open.setdefault(window, {})
        distribution = distributions.get(series)
        if distribution is None:
            distribution = distributions[series] = Distribution(self._max_distinct)
            self.datums += 1
        return distribution

    def holds(self, window: int, series: Series) -> bool:
        """
        Whether anything was folded for one series and window.
        """
        return series in self._open.get(window, ())

    def sealed(self) -> Iterable[tuple[int, Series, Distribution]]:
        """
        Everything held, oldest window first.
        """
        for window in sorted(self._open):
            for series, distribution in self._open[window].items():
                yield window, series, distribution
