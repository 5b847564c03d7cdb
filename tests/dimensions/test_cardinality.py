"""
The cardinality guard: a limited number of series, no measurement lost, and the heavy ones keep (or get) a series of their own.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import tracemalloc
from collections import Counter, defaultdict
from itertools import count, islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retainwise_metrics.dimensions import cardinality
from retainwise_metrics.dimensions.cardinality import CardinalityGuard, Offender

NAMESPACE = "RetainWise/Test"
METRIC = "Requests"
OTHER = cardinality.OTHER


def dims(**values):
    """
    Dimensions as the client makes them: pairs sorted by name.
    """
    return tuple(sorted(values.items()))


class Flood:
    """
    Identifiers that never repeat.
    """

    def __init__(self, guard, metric=METRIC, **fixed):
        self.guard = guard
        self.metric = metric
        self.fixed = fixed
        self.numbers = count()

    def __call__(self, size):
        """
        Place that many new series and return how often each answer was given.
        """
        new = (dims(user_id=f"user-{number}", **self.fixed) for number in islice(self.numbers, size))
        return Counter(self.guard.place(NAMESPACE, self.metric, series) for series in new)


class Traffic:
    """
    Series that come again and again.
    """

    def __init__(self, guard, metric=METRIC, *, series=5, prefix="real"):
        self.guard = guard
        self.metric = metric
        self.series = [dims(user_id=f"{prefix}-{number}") for number in range(series)]

    def __call__(self, times=20):
        """
        Record each series that often.
        """
        for series in self.series:
            for _ in range(times):
                self.guard.place(NAMESPACE, self.metric, series)

    def have_places(self):
        """
        Whether every series is published under its own dimensions.
        """
        return all(self.guard.place(NAMESPACE, self.metric, series) is series for series in self.series)


def guard_of(max_series=1000, per_metric=100):
    """
    A guard with small caps.
    """
    return CardinalityGuard(max_series=max_series, max_series_per_metric=per_metric)


# ---- places and caps ----


def test_a_series_within_the_cap_is_published_under_the_very_object_it_came_with():
    """While there is room, the answer is the argument itself, the first time and every later time."""
    guard = guard_of()
    series = dims(endpoint="/upload")
    assert guard.place(NAMESPACE, METRIC, series) is series
    assert guard.place(NAMESPACE, METRIC, series) is series
    assert guard.series == 1


def test_a_metric_gets_no_more_series_than_its_cap():
    """Beyond the cap of a metric everything lands in one overflow series, and other metrics are not affected."""
    guard = guard_of(per_metric=10)
    answers = Flood(guard)(500)
    assert guard.series == 10
    assert answers[dims(user_id=OTHER)] == 490
    assert guard.place(NAMESPACE, "Other", dims(user_id="a")) == dims(user_id="a")


def test_the_client_gets_no_more_series_than_its_cap():
    """The sum over all metrics is capped, too, and a metric without any place still has its overflow series."""
    guard = guard_of(max_series=25, per_metric=10)
    answers = [Flood(guard, f"Metric{number}")(20) for number in range(5)]
    assert guard.series == 25
    assert [len(answer) for answer in answers] == [11, 11, 6, 1, 1]
    assert answers[4] == {dims(user_id=OTHER): 20}


@pytest.mark.parametrize(("max_series", "per_metric"), [(0, 0), (0, 5), (5, 0)])
def test_the_overflow_series_needs_no_place(max_series, per_metric):
    """With no places at all, measurements are still published, under `other`."""
    guard = guard_of(max_series, per_metric)
    assert Flood(guard)(3) == {dims(user_id=OTHER): 3}
    assert guard.series == 0
    guard.rotate()
    assert Flood(guard)(3) == {dims(user_id=OTHER): 3}


def test_a_series_without_dimensions_is_always_its_own():
    """The total of a metric needs no place: not behind a flood, and not beyond the bound on metrics."""
    guard = guard_of(max_series=1, per_metric=1)
    Flood(guard)(10)
    assert guard.place(NAMESPACE, METRIC, ()) == ()
    assert all(guard.place(NAMESPACE, f"Name{number}", ()) == () for number in range(1000))
    assert guard.series == 1


def test_the_same_metric_name_in_two_namespaces_is_two_metrics():
    """Caps are per namespace and name."""
    guard = guard_of(per_metric=1)
    assert guard.place("A", METRIC, dims(x="1")) == dims(x="1")
    assert guard.place("B", METRIC, dims(x="2")) == dims(x="2")


# ---- what an overflow series looks like ----


def test_low_cardinality_dimensions_keep_their_value_in_the_overflow_series():
    """Only the identifier becomes `other`; endpoint and region are still told apart."""
    guard = guard_of(per_metric=10)
    floods = [Flood(guard, endpoint=endpoint, region=region) for endpoint in "abc" for region in ("eu", "us")]
    answers = sum((flood(100) for flood in floods), Counter())
    folded = {series for series in answers if dict(series)["user_id"] == OTHER}
    assert folded == {dims(endpoint=e, region=r, user_id=OTHER) for e in "abc" for r in ("eu", "us")}
    assert answers.total() == 600


def test_every_exploding_dimension_is_folded_when_there_are_several():
    """Two identifiers in one series are both folded, the plain dimension beside them is kept."""
    guard = guard_of(per_metric=200)
    answers = Counter(
        guard.place(NAMESPACE, METRIC, dims(request=f"r{n}", user=f"u{n // 2}", plan="pro" if n % 3 else "free"))
        for n in range(2000)
    )
    assert {series for series, times in answers.items() if times > 1} == {
        dims(request=OTHER, user=OTHER, plan="pro"),
        dims(request=OTHER, user=OTHER, plan="free"),
    }


def test_many_harmless_dimensions_that_only_explode_together_are_folded_until_they_fit():
    """Ten values each in four dimensions are 10,000 series: the overflow series stay within their bound all the same."""
    guard = guard_of(per_metric=20)
    rng = random.Random(1)
    for _ in range(2000):
        guard.place(NAMESPACE, METRIC, dims(**{name: str(rng.randrange(10)) for name in "abcd"}))
    guard.rotate()
    late = {guard.place(NAMESPACE, METRIC, dims(a=str(n % 10), b=str(n % 7), c="y", d=str(n))) for n in range(1000)}
    assert len(late) <= cardinality.OVERFLOW_SERIES + 1


def test_a_dimension_that_explodes_later_is_folded_from_then_on():
    """Values that looked harmless at first stop being kept when they turn out to be many, and the rotation names the series left."""
    guard = guard_of(per_metric=5)
    for number in range(50):
        guard.place(NAMESPACE, METRIC, dims(user=f"u{number}", build="1", region="eu"))
    answers = [
        guard.place(NAMESPACE, METRIC, dims(user=f"v{number}", build=f"b{number // 2}", region="eu"))
        for number in range(999)
    ]
    assert answers[0] == dims(user=OTHER, build="b0", region="eu")
    assert answers[-1] == dims(user=OTHER, build=OTHER, region="eu")
    assert len(set(answers)) <= cardinality.OVERFLOW_SERIES + 1
    assert (NAMESPACE, METRIC, answers[0]) in guard.rotate()


def test_overflow_series_that_keep_values_are_bounded_for_the_whole_client():
    """Many overflowing metrics share a bound; beyond it they fold every dimension."""
    guard = guard_of(max_series=500, per_metric=2)
    folded = set()
    for metric in range(50):
        for number in range(400):
            series = dims(user=f"u{number}", endpoint=f"e{number % 20}")
            answer = guard.place(NAMESPACE, f"Metric{metric}", series)
            if answer is not series and dict(answer)["endpoint"] != OTHER:
                folded.add((metric, answer))
    assert 20 <= len(folded) <= 2 * cardinality.OVERFLOW_SERIES


def test_made_up_dimension_names_end_in_one_series():
    """Not even dimension names can be used to grow the number of overflow series."""
    guard = guard_of(per_metric=1)
    answers = Counter(guard.place(NAMESPACE, METRIC, ((f"name-{number}", "x"),)) for number in range(1000))
    assert len(answers) <= cardinality.SHAPES + 2
    assert answers[cardinality.SHAPELESS] > 900


def test_a_caller_who_says_other_himself_is_not_an_offender():
    """A measurement that already carries the overflow dimensions is where it belongs."""
    guard = guard_of(per_metric=1)
    guard.place(NAMESPACE, METRIC, dims(user_id="a"))
    series = dims(user_id=OTHER)
    assert guard.place(NAMESPACE, METRIC, series) is series
    assert guard.offenders() == ()


# ---- heavy hitters ----


def test_real_traffic_keeps_its_series_through_a_flood():
    """Random identifiers cannot push out series that carry weight, over any number of rotations."""
    guard = guard_of(per_metric=10)
    real, flood = Traffic(guard, series=10), Flood(guard)
    real()
    for _ in range(6):
        real()
        flood(3000)
        real()
        assert guard.rotate() == []
    assert real.have_places()


def test_quiet_traffic_keeps_its_series_through_a_long_flood():
    """However long the flood, one identifier weighs no more than it was seen; and once it is over, nothing is left of it."""
    guard = guard_of(per_metric=10)
    real, flood = Traffic(guard, series=10), Flood(guard)
    real(2)
    flood(10 * cardinality.CANDIDATES)
    assert guard.rotate() == []
    assert real.have_places()
    guard.rotate()
    assert guard.entries < 20


@pytest.mark.parametrize("newcomers", [0, 2 * cardinality.CANDIDATES])
def test_real_traffic_that_comes_after_a_flood_has_its_own_series_within_two_rotations(newcomers):
    """A flood that took every place loses them to the traffic that counts, whether it goes on or not."""
    guard = guard_of(per_metric=10)
    real, flood = Traffic(guard, series=10), Flood(guard)
    flood(5000)
    for _ in range(2):
        real()
        flood(newcomers)
        guard.rotate()
    assert real.have_places()
    assert guard.series == 10


def test_real_traffic_of_another_metric_recovers_from_a_full_client():
    """Floods that took every place of the client lose some to a metric that comes later."""
    guard = guard_of(max_series=30, per_metric=10)
    for number in range(4):
        Flood(guard, f"Flooded{number}")(1000)
    real = Traffic(guard, "Late", series=10)
    for _ in range(2):
        real()
        guard.rotate()
    assert real.have_places()
    assert guard.series <= 30


def test_identifiers_in_one_metric_do_not_cost_another_one_its_quiet_series():
    """When the client is full, candidates first take over places of their own metric."""
    guard = guard_of(max_series=10, per_metric=10)
    Flood(guard, "Noisy")(7)
    quiet = Traffic(guard, "Quiet", series=3)
    quiet(1)
    Traffic(guard, "Noisy", series=7)()
    assert {metric for _, metric, _ in guard.rotate()} == {"Noisy"}
    assert quiet.have_places()


def test_a_flood_does_not_take_the_places_that_become_free():
    """Places taken from idle series wait for those invited, and free ones for proven ones: passing identifiers would only be billed."""
    guard = guard_of(per_metric=10)
    real, flood = Traffic(guard, series=5), Flood(guard)
    flood(100)
    real()
    Traffic(guard, series=5, prefix="burst")()
    assert len(guard.rotate()) == 10
    for _ in range(3):
        assert flood(1000) == {dims(user_id=OTHER): 1000}
        assert real.have_places()
        assert guard.rotate() == []
    assert guard.series == 5


def test_an_invitation_that_nobody_takes_lapses():
    """Identifiers that were busy for a moment and never came back do not block the places offered to them."""
    guard = guard_of(per_metric=10)
    Flood(guard)(100)
    Traffic(guard, series=10, prefix="burst")()
    guard.rotate()
    real = Traffic(guard, series=10)
    real(3)
    guard.rotate()
    assert real.have_places()


@pytest.mark.parametrize("taken", [0, 5])
def test_an_invitation_reserves_a_place_once(taken):
    """Whether it is taken or lapses, the rest of the client's places are there for other metrics."""
    guard = guard_of(max_series=10, per_metric=5)
    Flood(guard)(100)
    invited = Traffic(guard, series=5)
    invited()
    guard.rotate()
    if taken:
        assert invited.have_places()
    else:
        guard.rotate()
    answers = Flood(guard, "Second")(5) + Flood(guard, "Third")(5)
    assert guard.series == 10
    assert answers[dims(user_id=OTHER)] == taken


def test_the_heaviest_candidates_are_invited_first():
    """When more wait than there are places, weight decides, not who came first."""
    guard = guard_of(per_metric=5)
    Flood(guard)(100)
    light, heavy = Traffic(guard, prefix="light"), Traffic(guard, prefix="heavy")
    light(10)
    heavy(50)
    light(10)
    guard.rotate()
    assert heavy.have_places()
    assert not light.have_places()


def test_traffic_that_is_not_clearly_heavier_waits():
    """Equals do not swap places at every rotation."""
    guard = guard_of(per_metric=5)
    first, second = Traffic(guard, prefix="first"), Traffic(guard, prefix="second")
    for _ in range(5):
        first()
        second()
        assert guard.rotate() == []
    assert first.have_places()


def test_an_idle_series_keeps_its_place_while_nobody_waits():
    """A job that runs once an hour finds its series again."""
    guard = guard_of(per_metric=5)
    hourly = Traffic(guard)
    hourly()
    assert [guard.rotate() for _ in range(12)] == [[]] * 12
    assert hourly.have_places()


def test_an_idle_series_loses_its_place_when_somebody_waits():
    """However heavy it once was: after two idle rotations a candidate that is seen a few times takes over."""
    guard = guard_of(per_metric=5)
    old, new = Traffic(guard, prefix="old"), Traffic(guard, prefix="new")
    old(1000)
    for _ in range(cardinality.IDLE_ROTATIONS + 1):
        new(3)
        lost = guard.rotate()
    assert sorted(lost) == sorted((NAMESPACE, METRIC, series) for series in old.series)
    assert new.have_places()


def test_a_series_without_values_for_a_day_is_forgotten():
    """Even if nobody waits, the past is not kept for ever; metrics without series leave no trace."""
    guard = guard_of()
    series = dims(user_id="a")
    guard.place(NAMESPACE, METRIC, series)
    rotations = [guard.rotate() for _ in range(cardinality.FORGET_ROTATIONS + 1)]
    # The first rotation closes the period in which the series was seen.
    assert rotations == [[]] * cardinality.FORGET_ROTATIONS + [[(NAMESPACE, METRIC, series)]]
    assert guard.series == guard.entries == 0


def test_weights_fade():
    """A series that was loud yesterday and whispers today gives way to one that talks."""
    guard = guard_of(per_metric=5)
    old, new = Traffic(guard, prefix="old"), Traffic(guard, prefix="new")
    old(500)
    for _ in range(6):
        old(1)
        new(40)
        guard.rotate()
    assert new.have_places()


def test_a_series_that_is_outweighed_keeps_what_it_weighed():
    """If the heavier one does not come back, the former holder is the first in line."""
    guard = guard_of(per_metric=1)
    former, heavier, third = (Traffic(guard, series=1, prefix=name) for name in ("former", "heavier", "third"))
    former(400)
    heavier(1000)
    assert guard.rotate() == [(NAMESPACE, METRIC, former.series[0])]
    former(1)
    third(100)
    guard.rotate()
    assert former.have_places()


@pytest.mark.parametrize("record", [CardinalityGuard.touch, CardinalityGuard.place])
def test_a_series_stays_heavy_however_it_is_recorded(record):
    """Values told by touch() and values placed again both keep a candidate of half the weight away."""
    guard = guard_of(per_metric=1)
    holder, late = dims(user_id="holder"), Traffic(guard, series=1)
    guard.place(NAMESPACE, METRIC, holder)
    for _ in range(4):
        record(guard, NAMESPACE, METRIC, holder, 100)
        late(50)
        assert guard.rotate() == []


def test_touching_what_the_guard_does_not_know_changes_nothing():
    """Overflow series, unknown series and unknown metrics may be touched, and leave no trace."""
    guard = guard_of(per_metric=1)
    Flood(guard)(10)
    before = guard.entries, guard.series, guard.offenders()
    for series in ((), dims(user_id=OTHER), dims(user_id="never-seen")):
        guard.touch(NAMESPACE, METRIC, series, 5)
        guard.touch(NAMESPACE, "Unknown", series, 5)
    assert (guard.entries, guard.series, guard.offenders()) == before


def test_after_the_flood_newcomers_get_places_at_once_again():
    """Invitations are only asked for while somebody is being refused; then all places are given out again."""
    guard = guard_of(max_series=5, per_metric=5)
    Flood(guard)(50)
    Traffic(guard, series=5)()
    assert len(guard.rotate()) == 5
    guard.rotate()
    guard.rotate()
    newcomers = Traffic(guard, series=5, prefix="newcomer")
    assert newcomers.have_places()
    assert guard.series == 5


# ---- floods of metric names ----


def flood_of_names(guard, names, size, times=1):
    """
    Place one series under each of that many new metric names.
    """
    new = [f"Name{number}" for number in islice(names, size) for _ in range(times)]
    return Counter(guard.place(NAMESPACE, name, dims(user_id="a")) for name in new)


def test_a_flood_of_metric_names_is_folded_and_bounded():
    """Beyond the bound on metrics each further name has its all-`other` series and costs no memory."""
    guard = guard_of(max_series=300, per_metric=100)
    answers = flood_of_names(guard, count(), 50_000)
    assert guard.series == 300
    assert answers == {dims(user_id="a"): 300, dims(user_id=OTHER): 49_700}
    assert guard.entries <= 600 + cardinality.CANDIDATES


@pytest.mark.parametrize("max_series", [50, 300])
def test_a_real_metric_recovers_from_a_flood_of_names(max_series):
    """A metric that comes after the names gets its series within two or three rotations, although the names keep coming."""
    guard = guard_of(max_series, per_metric=20)
    names = count()
    real = Traffic(guard, "Late", series=10)
    # The third rotation is needed when the client has fewer places than metrics: the metric and then its series are invited.
    for _ in range(2 if max_series >= cardinality.MIN_METRICS else 3):
        flood_of_names(guard, names, 2000)
        real()
        guard.rotate()
    assert real.have_places()
    assert guard.series <= max_series


def test_a_heavy_metric_survives_a_flood_of_names():
    """Made-up names cannot push out the bookkeeping of a metric that carries weight, with places of its own or without."""
    guard = guard_of(max_series=50, per_metric=25)
    names = count()
    flood_of_names(guard, names, 25)
    real = Traffic(guard, "Real", series=5)
    real()
    flood_of_names(guard, names, cardinality.MIN_METRICS - 27)
    folded = Flood(guard, "Folded", endpoint="/a")
    for _ in range(4):
        real()
        # The very first one tells nothing about which of its dimensions is harmless.
        assert folded(50)[dims(endpoint="/a", user_id=OTHER)] >= 49
        flood_of_names(guard, names, 500, times=3)
        assert "Real" not in {metric for _, metric, _ in guard.rotate()}
    assert real.have_places()


def test_names_do_not_take_the_bookkeeping_that_becomes_free():
    """While metrics are turned away, new names are only let in after they have shown some weight."""
    guard = guard_of(max_series=300, per_metric=5)
    names = count()
    flood_of_names(guard, names, 400)
    flood_of_names(guard, names, 20, times=20)
    assert len(guard.rotate()) >= 20
    for _ in range(3):
        assert flood_of_names(guard, names, 1000) == {dims(user_id=OTHER): 1000}
        guard.rotate()


def test_a_metric_that_is_dropped_takes_all_its_series_along():
    """What rotate() reports adds up: every series that was given out is either still held or was named as lost."""
    guard = guard_of(max_series=300, per_metric=5)
    held = set()
    names = count()

    def place(metric, series):
        if guard.place(NAMESPACE, metric, series) is series:
            held.add((NAMESPACE, metric, series))

    for _ in range(5):
        for _ in range(600):
            place(f"Name{next(names)}", dims(user_id="a"))
        for metric in range(20):
            for number in range(40):
                place(f"Real{metric}", dims(user_id=f"{number % 10}"))
        held -= set(guard.rotate())
        assert len(held) == guard.series


# ---- offenders ----


def test_offenders_are_named_by_dimension_and_sorted_by_what_they_overflowed():
    """The operator reads which metric and which dimension to look at, worst first, and never a value."""
    guard = guard_of(per_metric=10)
    Flood(guard, "Small", endpoint="/a")(30)
    Flood(guard, "Big", endpoint="/a")(110)
    Traffic(guard, "Fine")()
    assert guard.offenders() == (
        Offender(NAMESPACE, "Big", "user_id", 100),
        Offender(NAMESPACE, "Small", "user_id", 20),
    )


def test_the_offending_dimension_is_the_one_with_the_most_distinct_values():
    """Among several that explode it is the fastest growing one."""
    guard = guard_of(per_metric=300)
    for n in range(3000):
        guard.place(NAMESPACE, METRIC, dims(a_tenant=f"t{n // 10}", request=f"r{n}", z_user=f"u{n // 3}"))
    assert guard.offenders()[0].dimension == "request"


def test_the_number_of_offenders_is_bounded():
    """However many metrics overflow, only the worst are named."""
    guard = guard_of(per_metric=1)
    for number in range(40):
        Flood(guard, f"Metric{number}")(number + 2)
    named = guard.offenders()
    assert [offender.overflowed for offender in named] == list(range(40, 40 - cardinality.OFFENDERS, -1))


def test_a_metric_that_has_recovered_is_no_offender_any_more():
    """An hour after the last overflow the bookkeeping is gone, and the overflow series is reported as unused."""
    guard = guard_of(per_metric=1)
    Flood(guard)(100)
    lost = [series for _ in range(cardinality.RECOVERY_ROTATIONS + 1) for _, _, series in guard.rotate()]
    assert guard.offenders() == ()
    assert dims(user_id=OTHER) in lost
    assert guard.entries == 2


# ---- memory ----


def test_memory_is_bounded_whatever_is_thrown_at_one_metric():
    """200,000 random identifiers leave no more behind than the bounds allow: a few MB."""
    guard = CardinalityGuard(max_series=1000, max_series_per_metric=100)
    flood = Flood(guard, endpoint="/a")
    flood(10_000)
    before = guard.entries
    tracemalloc.start()
    try:
        flood(10_000)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    flood(180_000)
    assert guard.entries == before <= 100 + cardinality.CANDIDATES + 10
    assert grown < 1_000_000


def test_memory_is_bounded_when_every_metric_is_flooded():
    """Candidates and observed values have bounds for the client as a whole, over rotations too."""
    guard = guard_of(max_series=500, per_metric=50)
    floods = [Flood(guard, f"Metric{number}", endpoint="/a", region="eu") for number in range(400)]
    most = cardinality.ALL_CANDIDATES + 400 * cardinality.FEW_CANDIDATES
    for _ in range(3):
        for flood in floods:
            flood(60)
        bookkeeping = (
            guard.series + 2 * len(floods) + cardinality.OBSERVED_VALUES + 65 + 2 * cardinality.OVERFLOW_SERIES
        )
        assert guard.entries <= bookkeeping + most
        guard.rotate()


def test_a_metric_flooded_later_gets_its_share_of_candidates():
    """The first floods do not use up for good the bookkeeping that another metric needs to find its real traffic."""
    guard = guard_of(per_metric=5)
    floods = [Flood(guard, f"Metric{number}") for number in range(4)]
    for flood in floods:
        flood(2 * cardinality.CANDIDATES)
    guard.rotate()
    late = Flood(guard, "Late")
    late(10)
    real = Traffic(guard, "Late")
    for _ in range(40):
        for flood in (*floods, late):
            flood(50)
        real(1)
    guard.rotate()
    assert real.have_places()


def test_what_a_past_flood_used_is_free_for_the_next():
    """After recovery another metric can again find out which of its dimensions are harmless."""
    guard = guard_of(max_series=500, per_metric=5)
    for number in range(300):
        Flood(guard, f"Metric{number}", endpoint="/a")(60)
    for _ in range(cardinality.RECOVERY_ROTATIONS + 1):
        guard.rotate()
    assert Flood(guard, "Next", endpoint="/a")(60)[dims(endpoint="/a", user_id=OTHER)] >= 55


# ---- properties ----

SERIES = st.builds(
    lambda user, plan, region: dims(user=f"u{user}", plan=f"p{plan}", **({"region": region} if region else {})),
    st.integers(0, 30),
    st.integers(0, 2),
    st.sampled_from(["", "eu", "us"]),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("place"), st.sampled_from("ABC"), SERIES, st.integers(1, 5)),
        st.tuples(st.just("touch"), st.sampled_from("ABCD"), SERIES, st.integers(1, 5)),
        st.just(("rotate",)),
    ),
    max_size=120,
)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers(0, 12), st.integers(0, 6))
def test_whatever_happens_totals_and_caps_hold(steps, max_series, per_metric):
    """Every measurement is published once, under its own dimensions or under some that differ by `other` only; the caps hold."""
    guard = CardinalityGuard(max_series=max_series, max_series_per_metric=per_metric)
    held, folded = set(), Counter()
    for step, *arguments in steps:
        if step == "place":
            metric, series, weight = arguments
            answer = guard.place(NAMESPACE, metric, series, weight)
            assert [name for name, _ in answer] == [name for name, _ in series]
            assert all(pair in (own, (own[0], OTHER)) for pair, own in zip(answer, series, strict=True))
            held |= {(NAMESPACE, metric, series)} if answer is series else set()
            folded[metric] += 0 if answer is series else weight
            assert answer is series or answer != series
        elif step == "touch":
            guard.touch(NAMESPACE, *arguments)
        else:
            held -= set(guard.rotate())
        per = Counter(metric for _, metric, _ in held)
        assert guard.series == len(held) <= max_series
        assert max(per.values(), default=0) <= per_metric
    overflowed = {offender.metric: offender.overflowed for offender in guard.offenders()}
    if sum(step == ("rotate",) for step in steps) < cardinality.RECOVERY_ROTATIONS:
        assert overflowed == +folded


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 20))
def test_the_heaviest_of_a_skewed_stream_end_up_with_the_places(seed, places):
    """Whatever the order of arrival, series far above the rest have a place after three rotations."""
    rng = random.Random(seed)
    guard = guard_of(per_metric=places)
    heavy = Traffic(guard, series=places // 2)
    for period in range(3):
        stream = [*heavy.series * 30, *(dims(user_id=f"{period}-{number}") for number in range(300))]
        rng.shuffle(stream)
        for series in stream:
            guard.place(NAMESPACE, METRIC, series)
        guard.rotate()
    assert heavy.have_places()


# ---- determinism ----


def transcript():
    """
    Digest of every answer to a long, fixed history.
    """
    rng = random.Random(7)
    guard = CardinalityGuard(max_series=60, max_series_per_metric=20)
    answers = defaultdict(list)
    for _ in range(6):
        for _ in range(1500):
            metric = f"M{rng.randrange(5)}"
            series = dims(user=f"u{int(rng.expovariate(0.01))}", plan=f"p{rng.randrange(3)}")
            answers[metric].append(guard.place(NAMESPACE, metric, series))
        answers["lost"].append(guard.rotate())
    answers["offenders"].append(guard.offenders())
    return hashlib.sha256(repr(sorted(answers.items())).encode()).hexdigest()


def test_the_same_history_gives_the_same_answers():
    """Nothing depends on chance, on time, or on the per-process seed of string hashes."""
    program = f"import runpy; print(runpy.run_path({__file__!r}, run_name='transcript')['transcript']())"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == transcript()
