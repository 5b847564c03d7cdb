"""The cardinality guard: bounded series, preserved totals, and places for what matters."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retainwise_metrics.dimensions.cardinality import (
    FORGET_ROTATIONS,
    OTHER,
    OVERFLOW_SERIES,
    CardinalityGuard,
    all_other,
)

if TYPE_CHECKING:
    from retainwise_metrics.datum import Dimensions

NS = "App"


def dims(**values: object) -> Dimensions:
    """Dimensions as the policy leaves them: text, sorted by name."""
    return tuple(sorted((name, str(value)) for name, value in values.items()))


def guard(max_series: int = 100, per_metric: int = 20) -> CardinalityGuard:
    """A guard with small caps."""
    return CardinalityGuard(max_series=max_series, max_series_per_metric=per_metric)


def flood(made: CardinalityGuard, count: int, start: int = 0, name: str = "M") -> Counter[Dimensions]:
    """Measurements per published series after `count` random-looking ids, one measurement each."""
    return Counter(made.place(NS, name, dims(Id=f"id-{start + index}", Plan=index % 3)) for index in range(count))


def has_place(made: CardinalityGuard, dimensions: Dimensions, name: str = "M") -> bool:
    """Whether a series is published as it is."""
    return made.place(NS, name, dimensions, 0) == dimensions


def test_below_the_cap_every_series_has_its_own_place() -> None:
    """Nothing is folded while there is room."""
    made = guard()
    assert len(flood(made, 20)) == 20
    assert made.offenders() == ()


def test_beyond_the_cap_the_total_is_preserved_and_series_are_bounded() -> None:
    """Ten thousand ids become the twenty of the cap and a few `other` series; no measurement is lost."""
    published = flood(guard(), 10_000)
    assert sum(published.values()) == 10_000
    assert len(published) <= 20 + 3 + 1


def test_only_exploding_dimensions_say_other() -> None:
    """The plan, with three values, is kept; the id is folded."""
    made = guard()
    flood(made, 100)
    assert made.place(NS, "M", dims(Id="new", Plan=1)) == dims(Id=OTHER, Plan=1)


def test_a_kept_dimension_that_explodes_later_is_bounded() -> None:
    """Overflow series that keep values are limited; after that everything says `other`."""
    made = guard()
    flood(made, 100)
    published = {made.place(NS, "M", dims(Id="x", Plan=index)) for index in range(1_000)}
    assert len(published) <= OVERFLOW_SERIES + 1
    assert all_other(dims(Id="", Plan="")) in published


def test_the_client_has_a_cap_of_its_own() -> None:
    """Many metrics below their own cap share the client's."""
    made = guard(max_series=50, per_metric=20)
    for metric in range(10):
        flood(made, 20, name=f"M{metric}")
    assert made.series == 50


def test_a_series_without_dimensions_needs_no_place() -> None:
    """The roll-up is always published as it is."""
    made = guard(max_series=1, per_metric=1)
    flood(made, 10)
    assert made.place(NS, "M", ()) == ()


def test_heavy_series_survive_a_flood() -> None:
    """Random ids never push out traffic that was there before."""
    made = guard()
    real = [dims(Id=f"real-{index}", Plan=0) for index in range(10)]
    for series in real:
        made.place(NS, "M", series)
    for rotation in range(10):
        for series in real:
            made.touch(NS, "M", series, 50)
        flood(made, 5_000, start=rotation * 5_000)
        made.rotate()
    assert all(has_place(made, series) for series in real)


def test_real_traffic_that_comes_after_the_flood_gets_its_place_within_two_rotations() -> None:
    """First come is not first served for ever."""
    made = guard()
    flood(made, 50_000)
    real = dims(Id="real", Plan=0)
    for _ in range(2):
        flood(made, 5_000, start=100_000)
        for _ in range(100):
            made.place(NS, "M", real)
        made.rotate()
    assert made.place(NS, "M", real) == real


def test_what_rotate_returns_is_exactly_what_lost_its_place() -> None:
    """The owner retires these series and no others."""
    made = guard(per_metric=5)
    first = [dims(Id=index) for index in range(5)]
    for series in first:
        made.place(NS, "M", series)
    for _ in range(50):
        made.place(NS, "M", dims(Id="heavy"))
    lost = made.rotate()
    assert [(namespace, name) for namespace, name, _ in lost] == [(NS, "M")]
    assert [series for series in first if not has_place(made, series)] == [lost[0][2]]
    assert has_place(made, dims(Id="heavy"))
    assert made.series == 5


def test_equals_do_not_swap_places() -> None:
    """A candidate has to be clearly heavier, so that the bill does not count both."""
    made = guard(per_metric=2)
    for rotation in range(6):
        for series in ("a", "b", "c"):
            for _ in range(10):
                made.place(NS, "M", dims(Id=series))
        assert (made.rotate() == []) or rotation == 0
    assert has_place(made, dims(Id="a"))


def test_a_free_place_goes_to_a_candidate_seen_twice_never_to_one_seen_once() -> None:
    """A random id that comes once costs no series even when places are free."""
    made = guard(per_metric=3)
    for index in range(4):
        made.place(NS, "M", dims(Id=index))
    for _ in range(FORGET_ROTATIONS + 1):
        made.place(NS, "M", dims(Id="once"), 0)
        made.rotate()
    published = flood(made, 1_000)
    assert sum(published.values()) == 1_000


def test_an_idle_series_is_forgotten_after_a_day_and_not_before() -> None:
    """A job that runs once an hour keeps its series."""
    made = guard()
    made.place(NS, "M", dims(Id="hourly"))
    for _ in range(FORGET_ROTATIONS):
        assert made.rotate() == []
    assert made.rotate() == [(NS, "M", dims(Id="hourly"))]
    assert made.series == 0


def test_offenders_are_named_by_dimension_and_never_by_value() -> None:
    """The on-call engineer learns which dimension explodes."""
    made = guard()
    flood(made, 1_000)
    (offender,) = made.offenders()
    assert (offender.metric, offender.dimension, offender.overflowed) == ("M", "Id", 980)
    assert "id-" not in repr(made.offenders())


def test_a_metric_that_calmed_down_is_no_offender_any_more() -> None:
    """After quiet periods its series get places at once again, as far as there is room."""
    made = guard()
    flood(made, 1_000)
    for _ in range(FORGET_ROTATIONS + 20):
        made.rotate()
    assert made.offenders() == ()
    assert has_place(made, dims(Id="new", Plan=9))


def test_memory_is_bounded_under_a_flood() -> None:
    """Two hundred thousand random ids over many metrics leave a few megabytes at most."""
    made = guard(max_series=1_000, per_metric=100)
    tracemalloc.start()
    for metric in range(100):
        flood(made, 2_000, name=f"M{metric}")
    made.rotate()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 15 * 2**20


@pytest.mark.parametrize("touched", [("App", "Unknown"), ("App", "M")])
def test_touching_what_has_no_place_changes_nothing(touched: tuple[str, str]) -> None:
    """Overflow series and unknown ones may be touched."""
    made = guard()
    flood(made, 100)
    before = made.series
    made.touch(*touched, dims(Id=OTHER, Plan=1), 5)
    assert made.series == before


steps = st.one_of(
    st.tuples(st.just("place"), st.sampled_from("AB"), st.integers(0, 9), st.integers(0, 2), st.integers(0, 5)),
    st.tuples(st.just("rotate")),
)


@given(st.lists(steps, max_size=80), st.integers(0, 6), st.integers(0, 4))
@settings(max_examples=150, deadline=None)
def test_whatever_happens_caps_hold_and_the_answer_has_the_same_names(
    script: list[tuple[object, ...]], max_series: int, per_metric: int
) -> None:
    """Places never exceed either cap, what lost its place had one, and only values are changed."""
    made = guard(max_series, per_metric)
    held: set[tuple[str, str, Dimensions]] = set()
    for step in script:
        if step[0] == "rotate":
            lost = set(made.rotate())
            assert lost <= held
            held -= lost
        else:
            _, name, user, plan, weight = step
            given_dims = dims(User=user, Plan=plan)
            published = made.place(NS, str(name), given_dims, int(str(weight)))
            assert [key for key, _ in published] == [key for key, _ in given_dims]
            if published == given_dims:
                held.add((NS, str(name), given_dims))
        assert made.series == len(held) <= max_series
        for name in "AB":
            assert sum(key[1] == name for key in held) <= per_metric
