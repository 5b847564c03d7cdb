"""
Folding: many values become few, without losing what CloudWatch can compute from them.

A `Distribution` is exact as long as it holds few distinct values: equal values are counted, so sums, extremes and every percentile
survive. Past `max_distinct` values it becomes a sketch:

- two values in one bucket differ by less than 1 % (`RELATIVE_ERROR`), so every percentile is right to 1 %;
- each bucket is represented by a value between its edges, at the same height in all of them, and that height is chosen so that the sum
  comes out exactly (up to the rounding of floats);
- the smallest and the largest value are carried as they are, so minimum and maximum stay exact.

That keeps all four numbers exact with plain Values/Counts, which every sink understands; nothing depends on CloudWatch accepting
`StatisticValues` beside them (docs/decisions/0003).
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from math import ceil
from operator import mul
from typing import TYPE_CHECKING

from retainwise_metrics import limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from retainwise_metrics.datum import Counted, Series

RELATIVE_ERROR = 0.01
"""Largest relative distance between two values that share a bucket."""

MAX_BUCKETS = 4096
"""
Most buckets of one sketch. They span 49 powers of two, a factor of 5e14; data wider than that doubles the width of all buckets (and with it
the error) until it fits.
"""

PARTS = 256
"""Equal parts, 0.2 to 0.4 % wide, of the numbers from one power of two to the next; the mantissa's first 8 bits say which part."""

OTHER_BITS = 44
"""The rest of the mantissa: what is before it (sign, exponent, part) is the same for all doubles in a part."""


def _edges() -> list[int]:
    """The parts at which buckets begin, and the end: as many parts to a bucket as its 1 % allows, two to five."""
    edges = [0]
    while edges[-1] < PARTS:
        end = edges[-1]
        while end < PARTS and PARTS + end + 1 <= (PARTS + edges[-1]) * (1 + RELATIVE_ERROR):
            end += 1
        edges.append(end)
    return edges


EDGES = _edges()

BUCKETS = len(EDGES) - 1
"""Buckets from one power of two to the next: 83. Logarithms would need 70 (and five times as long); 7 bits, and so 128 parts, 100."""

BUCKET_OF_PART = [bucket for bucket in range(BUCKETS) for _ in range(EDGES[bucket], EDGES[bucket + 1])]


class Sketch:
    """
    Buckets of at most 1 %, counted, with the exact sum, minimum and maximum of everything.

    A bucket is what the doubles with the same leading bits hold: a whole list of values is sorted into buckets without a logarithm, and
    nearly without the interpreter. Numbers that are closer to zero than 2e-308 count as zero.

    Whatever is taken is prepared first and then put in place by assignments alone: a Ctrl-C comes before them or after, never in between.
    """

    __slots__ = ("_counts", "_total", "_widened", "maximum", "minimum")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        """By bucket, counted away from zero; those of negative numbers start at a large negative number."""
        self._widened = 0
        """How often all buckets have become twice as wide."""
        self._total = 0.0
        self.minimum = float("inf")
        self.maximum = float("-inf")

    def extend(self, values: list[float]) -> None:
        """
        Take a list of values, at least one.
        """
        parts = Counter(_leading_bits(values))
        self._add(self._buckets(parts), parts.values(), sum(values), min(values), max(values))

    def extend_counts(self, counts: Mapping[float, int]) -> None:
        """
        Take values that come with how often they occurred, at least one.
        """
        total = sum(value * count for value, count in counts.items())
        self._add(self._buckets(_leading_bits(counts)), counts.values(), total, min(counts), max(counts))

    def merge(self, other: Sketch) -> None:
        """
        Take everything another sketch holds.
        """
        while self._widened < other._widened:
            self._widen()
        narrower = self._widened - other._widened
        buckets = [bucket >> narrower for bucket in other._counts]
        self._add(buckets, other._counts.values(), other._total, other.minimum, other.maximum)

    def _buckets(self, parts: Iterable[int]) -> list[int]:
        widened = self._widened
        return [(part // PARTS * BUCKETS + BUCKET_OF_PART[part % PARTS]) >> widened for part in parts]

    def _add(self, buckets: list[int], counts: Iterable[int], total: float, minimum: float, maximum: float) -> None:
        held = self._counts.copy()
        for bucket, count in zip(buckets, counts, strict=True):
            held[bucket] = held.get(bucket, 0) + count
        minimum, maximum = min(self.minimum, float(minimum)), max(self.maximum, float(maximum))
        self._counts = held
        self._total += total
        self.minimum = minimum
        self.maximum = maximum
        while len(self._counts) > MAX_BUCKETS:
            self._widen()

    def _widen(self) -> None:
        wide: dict[int, int] = {}
        for bucket, count in self._counts.items():
            wide[bucket >> 1] = wide.get(bucket >> 1, 0) + count
        self._counts = wide
        self._widened += 1

    def count(self) -> int:
        """
        How many values it holds.
        """
        return sum(self._counts.values())

    def bins(self) -> int:
        """
        How many distinct values `items` yields, at most.
        """
        return len(self._counts) + 2

    def items(self) -> dict[float, int]:
        """
        The sketch as value -> count: one value for each bucket, with the exact extremes singled out.
        """
        items = dict.fromkeys((self.minimum, self.maximum), 1)
        rest = self._counts.copy()
        outermost = self._buckets(_leading_bits(items))
        for bucket in outermost:
            rest[bucket] -= 1
        edges = self._edges(rest, outermost)
        # Whatever the values were, their sum lies between that of the lower and that of the upper edges.
        lowest, highest = (sum(map(mul, each, rest.values())) for each in edges)
        height = (self._total - sum(items) - lowest) / (highest - lowest) if highest > lowest else 0.0
        height = min(max(height, 0.0), 1.0)
        for low, high, count in zip(*edges, rest.values(), strict=True):
            if count:
                value = low + height * (high - low)
                items[value] = items.get(value, 0) + count
        return items

    def _edges(self, buckets: Iterable[int], outermost: Iterable[int]) -> tuple[list[float], list[float]]:
        """The smallest and the largest value that each bucket may hold; the outermost do not reach beyond the extremes."""
        places = list(buckets)
        nearer = _edges_of([bucket << self._widened for bucket in places])
        farther = _edges_of([(bucket + 1) << self._widened for bucket in places])
        lows = [near if bucket >= 0 else far for bucket, near, far in zip(places, nearer, farther, strict=True)]
        highs = [far if bucket >= 0 else near for bucket, near, far in zip(places, nearer, farther, strict=True)]
        for bucket in outermost:
            place = places.index(bucket)
            lows[place] = max(lows[place], self.minimum)
            highs[place] = min(highs[place], self.maximum)
        return lows, highs


def _leading_bits(values: Iterable[float]) -> list[int]:
    """
    The first 20 bits of each value: the higher, the farther from zero; those of negative numbers are negative.
    """
    return [bits >> OTHER_BITS for bits in memoryview(array("d", values)).cast("B").cast("q").tolist()]


def _edges_of(buckets: Iterable[int]) -> list[float]:
    """
    Where buckets that have never become wider begin, seen from zero.
    """
    bits = [(bucket // BUCKETS * PARTS + EDGES[bucket % BUCKETS]) << OTHER_BITS for bucket in buckets]
    edges = memoryview(array("q", bits)).cast("B").cast("d").tolist()
    return [edge if abs(edge) >= sys.float_info.min else 0.0 for edge in edges]


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
            self._sketch.extend(values)
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
        elif counts:
            self._sketch.extend_counts(counts)

    def _overflow(self) -> None:
        sketch, empty = self._sketch or Sketch(), Counter[float]()
        if self._exact:
            sketch.extend_counts(self._exact)
        self._sketch = sketch
        self._exact = empty

    def recount(self) -> int:
        """
        Put `measurements` right after a fold that did not come to its end, and tell it.
        """
        self.measurements = sum(self._exact.values()) + (self._sketch.count() if self._sketch is not None else 0)
        return self.measurements

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
        if self._sketch is not None:
            return sorted(self._sketch.items().items())
        counts: dict[float, int] = {}
        for value, count in self._exact.items():
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

    def recount(self) -> int:
        """
        Put the books right after a fold that did not come to its end, and tell how many measurements are held.
        """
        held = [distribution for distributions in self._open.values() for distribution in distributions.values()]
        self.datums = len(held)
        self.measurements = sum(distribution.recount() for distribution in held)
        return self.measurements

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
