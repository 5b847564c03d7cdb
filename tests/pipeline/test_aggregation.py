"""Folding loses nothing that CloudWatch can compute."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retainwise_metrics.datum import Series
from retainwise_metrics.pipeline.aggregation import (
    MAX_BUCKETS,
    RELATIVE_ERROR,
    Distribution,
    Sketch,
    Windows,
    items_of,
    measurements_of,
    merged,
)

finite = st.floats(min_value=-(2.0**360), max_value=2.0**360, allow_nan=False)


def folded(values: list[float], max_distinct: int = 1000) -> Distribution:
    """A distribution of these values."""
    windows = Windows(max_distinct)
    windows.fold(0, Series("N", "M", (), "None", 60), values)
    ((_, _, distribution),) = windows.sealed()
    return distribution


def percentile(items: list[tuple[float, int]], share: float) -> float:
    """The value at or below which `share` of the measurements lie."""
    rank = max(1, math.ceil(share * sum(count for _, count in items)))
    for value, count in items:
        rank -= count
        if rank <= 0:
            return value
    raise AssertionError


@given(st.lists(st.sampled_from([0.0, 1.0, 2.5, -3.0, 7.0]), min_size=1))
def test_few_distinct_values_are_kept_exactly(values: list[float]) -> None:
    """Below the cap a distribution is the multiset of what went in."""
    assert dict(items_of(folded(values))) == dict(Counter(values))


@given(st.lists(finite, min_size=1, max_size=300), st.integers(min_value=1, max_value=20))
def test_a_sketch_keeps_the_extremes_the_count_and_the_sum(values: list[float], cap: int) -> None:
    """Past the cap minimum, maximum and count stay exact, and the sum up to the rounding of floats."""
    items = items_of(folded(values, cap))
    assert items[0][0] == min(values)
    assert items[-1][0] == max(values)
    assert sum(count for _, count in items) == len(values)
    scale = math.fsum(map(abs, values))
    assert math.isclose(math.fsum(v * c for v, c in items), math.fsum(values), rel_tol=1e-12, abs_tol=1e-12 * scale)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("shape", ["uniform", "lognormal", "two-sided"])
def test_percentiles_of_a_sketch_are_within_the_stated_error(share: float, shape: str) -> None:
    """Every percentile of 50,000 distinct values is right to the relative error the module states."""
    draw = random.Random(7)
    make = {
        "uniform": lambda: draw.uniform(0.001, 10),
        "lognormal": lambda: draw.lognormvariate(0, 2),
        "two-sided": lambda: draw.choice([-1, 1]) * draw.lognormvariate(0, 1),
    }[shape]
    values = [make() for _ in range(50_000)]
    exact = percentile([(value, 1) for value in sorted(values)], share)
    sketched = percentile(items_of(folded(values)), share)
    assert abs(sketched - exact) <= RELATIVE_ERROR * abs(exact) * (1 + 1e-9)


def test_a_sketch_is_bounded_whatever_the_range() -> None:
    """Values over 200 decades make the buckets wider, never more than the bound; what CloudWatch computes stays right."""
    sketch = Sketch()
    draw = random.Random(1)
    values = [10 ** draw.uniform(-100, 100) * draw.choice([-1, 1]) for _ in range(50_000)]
    for start in range(0, len(values), 1000):
        sketch.extend(values[start : start + 1000])
        assert sketch.bins() <= MAX_BUCKETS + 2
    items = sketch.items()
    assert sum(items.values()) == 50_000
    assert (min(items), max(items)) == (min(values), max(values))
    for share in (0.1, 0.5, 0.9):
        exact = sorted(values)[math.ceil(share * len(values)) - 1]
        assert percentile(sorted(items.items()), share) == pytest.approx(exact, rel=1.01 ** (2**5) - 1)


def test_widths_of_buckets_are_used_up() -> None:
    """From one power of two to the next there are 83 buckets, none of them wider than the error; logarithms would need 70."""
    values = [1 + place / 100_000 for place in range(100_000)]
    items = sorted(items_of(folded(values)))
    assert len(items) == 83 + 2
    ranks = iter(values)
    for value, count in items:
        for exact in islice(ranks, count):
            assert abs(value - exact) <= RELATIVE_ERROR * exact


@pytest.mark.parametrize("values", [[0.0, -0.0, 0.0], [0.0, 5.0], [-1.0, 0.0], [0.1, 0.1, 0.1]])
def test_a_sketch_of_zeros_or_of_one_value(values: list[float]) -> None:
    """What falls into a bucket together with nothing else is not moved."""
    sketch = Sketch()
    sketch.extend([*values, values[0]])
    assert Counter(sketch.items()) == Counter([*values, values[0]])


def test_numbers_too_small_to_be_told_apart_stay_between_the_extremes() -> None:
    """Subnormal numbers count as zero, but no value is sent that is smaller than the smallest."""
    sketch = Sketch()
    sketch.extend([1e-310, 1e-315, 1e-320])
    assert Counter(sketch.items()) == {1e-310: 1, 1e-320: 2}


@given(st.lists(finite, min_size=1, max_size=60), st.lists(finite, min_size=1, max_size=60), st.integers(1, 30))
def test_merging_equals_folding_together(left: list[float], right: list[float], cap: int) -> None:
    """Two parts of one window merge into what one distribution of all values would be, in count, extremes and sum."""
    both = merged(folded(left, cap), folded(right, cap), cap)
    items = items_of(both)
    together = left + right
    assert measurements_of(both) == sum(count for _, count in items) == len(together)
    assert (items[0][0], items[-1][0]) == (min(together), max(together))


def test_equal_integers_and_floats_fold_together() -> None:
    """1 and 1.0 are one value on the wire, and one value here."""
    assert items_of(folded([1, 1.0, 2])) == [(1, 2), (2, 1)]


def test_integers_that_are_one_float_are_one_value() -> None:
    """Beyond 2**53 neighbouring integers cannot be told apart on the wire, and CloudWatch takes each value once."""
    assert items_of(folded([2**60, 2**60 + 1, -(2**360), 1 - 2**360])) == [(-(2.0**360), 2), (2.0**60, 2)]
