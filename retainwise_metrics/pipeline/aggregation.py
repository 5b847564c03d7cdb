"""
Folding: many values become few, without losing what CloudWatch can compute from them.

A distribution is exact as long as it holds few distinct values: equal values are counted, so sums, extremes and every percentile
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
    from collections.abc import Callable, Iterable, Mapping

    from retainwise_metrics.datum import Counted, Series

RELATIVE_ERROR = 0.01
"""Largest relative distance between two values that share a bucket."""

MAX_BUCKETS = 4096
"""
Most buckets of one sketch. They span 49 powers of two, a factor of 5e14; data wider than that doubles the width of all buckets (and with it
the error) until it fits.
"""

BUCKETS_PER_TURN = 256
"""Buckets whose values are computed before other threads get a turn: about 0.2 ms."""

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

    def items(self, pause: Callable[[], None] = lambda: None) -> dict[float, int]:
        """
        The sketch as value -> count: one value for each bucket, with the exact extremes singled out.

        Args:
            pause: Lets other threads run; called after every `BUCKETS_PER_TURN` buckets.
        """
        items = dict.fromkeys((self.minimum, self.maximum), 1)
        rest = self._counts.copy()
        outermost = self._buckets(_leading_bits(items))
        for bucket in outermost:
            rest[bucket] -= 1
        # Whatever the values were, their sum lies between that of the lower and that of the upper edges.
        lowest = highest = 0.0
        turns = []
        buckets = sorted(rest)
        for start in range(0, len(buckets), BUCKETS_PER_TURN):
            turn = buckets[start : start + BUCKETS_PER_TURN]
            counts = [rest[bucket] for bucket in turn]
            lows, highs = self._edges(turn, outermost)
            lowest += sum(map(mul, lows, counts))
            highest += sum(map(mul, highs, counts))
            turns.append((lows, highs, counts))
            pause()
        height = (self._total - sum(items) - lowest) / (highest - lowest) if highest > lowest else 0.0
        height = min(max(height, 0.0), 1.0)
        for lows, highs, counts in turns:
            for low, high, count in zip(lows, highs, counts, strict=True):
                if count:
                    value = low + height * (high - low)
                    items[value] = items.get(value, 0) + count
            pause()
        return items

    def _edges(self, buckets: list[int], outermost: Iterable[int]) -> tuple[list[float], list[float]]:
        """The smallest and the largest value that each bucket may hold; the outermost do not reach beyond the extremes."""
        nearer = _edges_of([bucket << self._widened for bucket in buckets])
        farther = _edges_of([(bucket + 1) << self._widened for bucket in buckets])
        lows = [near if bucket >= 0 else far for bucket, near, far in zip(buckets, nearer, farther, strict=True)]
        highs = [far if bucket >= 0 else near for bucket, near, far in zip(buckets, nearer, farther, strict=True)]
        for bucket in outermost:
            if bucket in buckets:
                place = buckets.index(bucket)
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


Distribution = dict[float, int] | Sketch
"""
Everything recorded for one series in one window: how often each value occurred, or a sketch.

It is a plain dict for the sake of the garbage collector, which up to Python 3.13 does not look into dicts of numbers. An object around it
would be one more for each series and minute that the collector goes through, and makes everybody wait for (docs/decisions/0004).
"""


def measurements_of(distribution: Distribution) -> int:
    """
    How many values were folded in.
    """
    return distribution.count() if isinstance(distribution, Sketch) else sum(distribution.values())


def datums_of(distribution: Distribution) -> int:
    """
    How many datums it will become, at most.
    """
    distinct = distribution.bins() if isinstance(distribution, Sketch) else len(distribution)
    return ceil(distinct / limits.VALUES_PER_DATUM)


def items_of(distribution: Distribution, pause: Callable[[], None] = lambda: None) -> list[tuple[float, int]]:
    """
    Distinct values, ascending, with their counts.

    Args:
        distribution: Exact, or a sketch.
        pause: Lets other threads run; called while the values of a large sketch are computed.
    """
    if isinstance(distribution, Sketch):
        return sorted(distribution.items(pause).items())
    counts: dict[float, int] = {}
    for value, count in distribution.items():
        # Integers beyond 2**53 may be different and still the same float, and a value may be sent only once per datum.
        number = float(value)
        counts[number] = counts.get(number, 0) + count
    return sorted(counts.items())


def merged(held: Distribution, other: Distribution, max_distinct: int) -> Distribution:
    """
    Everything that two distributions of one series and window hold. A sketch among them is used for that; neither may be used again.
    """
    if not isinstance(other, Sketch):
        return _with_counts(held, other, max_distinct)
    if not isinstance(held, Sketch):
        return _with_counts(other, held, max_distinct)
    held.merge(other)
    return held


def _with_counts(held: Distribution, counts: Mapping[float, int], max_distinct: int) -> Distribution:
    """Also takes values that come with how often they occurred. A dict is not changed but replaced: all of them are counted, or none."""
    if isinstance(held, Sketch):
        if counts:
            held.extend_counts(counts)
        return held
    together = held.copy()
    for value, count in counts.items():
        together[value] = together.get(value, 0) + count
    return _bounded(together, max_distinct)


def _bounded(exact: dict[float, int], max_distinct: int) -> Distribution:
    if len(exact) <= max_distinct:
        return exact
    sketch = Sketch()
    sketch.extend_counts(exact)
    return sketch


class Windows:
    """
    The open windows: for each window start, a distribution per series.

    Args:
        max_distinct: How many distinct values a distribution keeps exactly before a sketch takes over.
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
        Fold values of one series, at least one, into the window that starts at `window` (epoch seconds).
        """
        distributions, held = self._held(window, series)
        first, count = values[0], len(values)
        if isinstance(held, Sketch):
            held.extend(values)
        else:
            if first == values[-1] and values.count(first) == count:
                held[first] = held.get(first, 0) + count  # counters: eighty times cheaper than to look each one up
            else:
                Counter.update(held, values)  # type: ignore[call-overload]  # counts in C, into any dict
            if len(held) > self._max_distinct:
                distributions[series] = _bounded(held, self._max_distinct)
        self.measurements += count

    def fold_counts(self, window: int, series: Series, counted: Counted) -> None:
        """
        Likewise, for values that come with how often they occurred.
        """
        distributions, held = self._held(window, series)
        distributions[series] = _with_counts(held, counted.counts, self._max_distinct)
        self.measurements += counted.total

    def _held(self, window: int, series: Series) -> tuple[dict[Series, Distribution], Distribution]:
        distributions = self._open.setdefault(window, {})
        held = distributions.get(series)
        if held is None:
            held = distributions[series] = {}
            self.datums += 1
        return distributions, held

    def recount(self) -> int:
        """
        Put the books right after a fold that did not come to its end, and tell how many measurements are held.
        """
        held = [distribution for distributions in self._open.values() for distribution in distributions.values()]
        self.datums = len(held)
        self.measurements = sum(map(measurements_of, held))
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
