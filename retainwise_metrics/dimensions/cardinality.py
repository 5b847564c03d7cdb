"""
Which series get a place of their own, and where the values of all others go.

Every combination of dimension values is a series that CloudWatch bills and this process keeps in memory, so one identifier used as a
dimension can cost more than everything else together. The guard gives out a limited number of places and folds the rest into series
whose exploding dimensions say `other`: detail is lost, no measurement is.

Rules
1. While there is room, a new series gets a place at once. A metric that was refused a place *overflows*: from then on its places go by
   invitation, or a flood would take every place that becomes free.
2. Series without a place are candidates. The heaviest are found in a table of bounded size, however many there are (Misra and Gries,
   1982), and are remembered by hash only.
3. A rotation halves all weights, so that the last minutes count most, and invites the heaviest candidates: into free places, or into the
   place of a series that weighs less than half as much. The invited one gets its place when it shows up again.
4. A series loses its place only to a candidate, or when it was idle for a day: a job that runs once an hour keeps its series.
5. The series of a metric without dimensions needs no place.
"""

from __future__ import annotations

from heapq import nlargest, nsmallest
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from retainwise_metrics.datum import Dimensions

    Metric = tuple[str, str]
    Key = tuple[str, str, Dimensions]
    _Holder = tuple[float, Metric, Dimensions]

OTHER = "other"
"""The value of a folded dimension."""

CANDIDATES = 2048
"""Candidates per metric: one that makes up more than one in 2,048 of what is folded is found for certain."""

NOTEWORTHY = 2
"""Least weight of a candidate: an identifier that is seen once is never invited."""

INVITATIONS = 128
"""Most invitations per metric and rotation."""

HEAVIER = 2.0
"""How many times as heavy as the holder of a place a candidate has to be, so that equals do not swap places for ever."""

KEPT_VALUES = 32
"""Most distinct values of a dimension that keeps them in the overflow series."""

OVERFLOW_SERIES = 64
"""Most overflow series per metric that keep some values; after that every dimension says `other`."""

OVERFLOWING_METRICS = 64
"""Metrics for which candidates are kept; what overflows beyond that is folded without being counted."""

FORGET_ROTATIONS = 288
"""Rotations without a value after which a series is forgotten: a day, at one every five minutes."""

OFFENDERS = 10
"""Most offenders named."""


class Offender(NamedTuple):
    """
    A metric that has more series than places.

    Attributes:
        namespace: Its namespace.
        metric: Its name.
        dimension: Name of the dimension with the most distinct values; never a value.
        overflowed: Measurements folded into `other` since it began to overflow.
    """

    namespace: str
    metric: str
    dimension: str
    overflowed: int


class _Place:
    """
    The weight of a series with a place: measurements of this period, and of earlier ones halved at each rotation.
    """

    __slots__ = ("fresh", "idle", "weight")

    def __init__(self, fresh: int) -> None:
        self.fresh = fresh
        self.weight = 0.0
        self.idle = 0

    def age(self) -> None:
        """
        Close a period.
        """
        self.idle = 0 if self.fresh else self.idle + 1
        self.weight = self.weight / 2 + self.fresh
        self.fresh = 0


class _Overflow:
    """
    A metric that has more series than places.

    Args:
        places: Its series that do have one: they show which dimensions explode.
    """

    __slots__ = ("candidates", "dimension", "fresh", "invited", "measurements", "series", "steady")

    def __init__(self, places: Iterable[Dimensions]) -> None:
        values: dict[str, set[str]] = {}
        for dimensions in places:
            for name, value in dimensions:
                values.setdefault(name, set()).add(value)
        self.dimension = max(values, key=lambda name: len(values[name]), default="")
        """The dimension with the most distinct values."""
        self.steady = {name for name in values if len(values[name]) <= KEPT_VALUES} - {self.dimension}
        """The dimensions that keep their values."""
        self.candidates: dict[int, float] = {}
        self.invited: set[int] = set()
        self.series: set[Dimensions] = set()
        self.measurements = 0
        self.fresh = 0

    def count(self, candidate: int, weight: int) -> None:
        """
        Count a candidate. When the table is full, all lose what the newcomer weighs: whoever comes often survives that.
        """
        self.measurements += weight
        self.fresh += weight
        candidates = self.candidates
        if candidate in candidates:
            candidates[candidate] += weight
        elif len(candidates) < CANDIDATES:
            candidates[candidate] = weight
        else:
            self.candidates = {key: held - weight for key, held in candidates.items() if held > weight}

    def fold(self, dimensions: Dimensions) -> Dimensions:
        """
        The series that stands for one without a place.
        """
        folded = tuple((name, value if name in self.steady else OTHER) for name, value in dimensions)
        if folded not in self.series:
            if len(self.series) >= OVERFLOW_SERIES:
                return all_other(dimensions)
            self.series.add(folded)
        return folded

    def age(self) -> None:
        """
        Close a period: invitations end, weights halve.
        """
        self.fresh = 0
        self.invited = set()
        self.candidates = {key: held / 2 for key, held in self.candidates.items() if held >= NOTEWORTHY}


def all_other(dimensions: Dimensions) -> Dimensions:
    """
    The same dimension names, every value `other`.
    """
    return tuple((name, OTHER) for name, _ in dimensions)


class CardinalityGuard:
    """
    Hands out places. Not thread-safe: whoever owns it holds a lock. It reads no clock: it is told when a period is over.

    Args:
        max_series: Places of the whole client.
        max_series_per_metric: Places of one metric.
    """

    def __init__(self, *, max_series: int, max_series_per_metric: int) -> None:
        self._max_series = max_series
        self._max_per_metric = max_series_per_metric
        self._places: dict[Metric, dict[Dimensions, _Place]] = {}
        self._taken = 0
        self._overflows: dict[Metric, _Overflow] = {}

    @property
    def series(self) -> int:
        """
        Places taken.
        """
        return self._taken

    def place(self, namespace: str, name: str, dimensions: Dimensions, weight: int = 1) -> Dimensions:
        """
        Decide under which dimensions a series is published.

        Args:
            namespace: CloudWatch namespace.
            name: Metric name.
            dimensions: Sanitised dimensions.
            weight: Measurements it brings.

        Returns:
            The same dimensions, or those of the series it is folded into.
        """
        if not dimensions:
            return dimensions
        metric = (namespace, name)
        place = self._places.get(metric, {}).get(dimensions)
        if place is not None:
            place.fresh += weight
            return dimensions
        overflow = self._overflows.get(metric)
        if overflow is None:
            if self._has_room(metric):
                return self._admit(metric, dimensions, weight)
            if len(self._overflows) >= OVERFLOWING_METRICS:
                return all_other(dimensions)
            overflow = self._overflows[metric] = _Overflow(self._places.get(metric, ()))
        candidate = hash(dimensions)
        if candidate in overflow.invited and self._has_room(metric):
            overflow.invited.discard(candidate)
            overflow.candidates.pop(candidate, None)
            return self._admit(metric, dimensions, weight)
        overflow.count(candidate, weight)
        return overflow.fold(dimensions)

    def touch(self, namespace: str, name: str, dimensions: Dimensions, weight: int) -> None:
        """
        Count further measurements of a series that has a place; nothing happens for one that has none.
        """
        places = self._places.get((namespace, name))
        place = places.get(dimensions) if places else None
        if place is not None:
            place.fresh += weight

    def rotate(self) -> list[Key]:
        """
        Close a period: weigh anew, free places for heavy candidates and invite them.

        Returns:
            Namespace, name and dimensions of each series that lost its place.
        """
        lost = list(self._age_places())
        lightest_of_all = self._lightest(*self._places) if self._overflows else []
        for metric, overflow in list(self._overflows.items()):
            if overflow.fresh or overflow.candidates:
                lost += self._invite(metric, overflow, lightest_of_all)
            else:
                del self._overflows[metric]
        return lost

    def offenders(self) -> tuple[Offender, ...]:
        """
        Metrics that overflow, the worst first, at most `OFFENDERS` of them.
        """
        worst = sorted(self._overflows.items(), key=lambda item: item[1].measurements, reverse=True)[:OFFENDERS]
        return tuple(Offender(*metric, overflow.dimension, overflow.measurements) for metric, overflow in worst)

    def _has_room(self, metric: Metric) -> bool:
        return self._taken < self._max_series and len(self._places.get(metric, ())) < self._max_per_metric

    def _admit(self, metric: Metric, dimensions: Dimensions, weight: int) -> Dimensions:
        self._places.setdefault(metric, {})[dimensions] = _Place(weight)
        self._taken += 1
        return dimensions

    def _evict(self, metric: Metric, dimensions: Dimensions) -> Key:
        places = self._places[metric]
        del places[dimensions]
        if not places:
            del self._places[metric]
        self._taken -= 1
        return (*metric, dimensions)

    def _age_places(self) -> Iterator[Key]:
        for metric, places in list(self._places.items()):
            for dimensions, place in list(places.items()):
                place.age()
                if place.idle >= FORGET_ROTATIONS:
                    yield self._evict(metric, dimensions)

    def _invite(self, metric: Metric, overflow: _Overflow, lightest_of_all: list[_Holder]) -> Iterator[Key]:
        """
        Invite the heaviest candidates of one metric, and evict whom they outweigh.
        """
        heaviest = nlargest(INVITATIONS, overflow.candidates.items(), key=itemgetter(1))
        overflow.age()
        own: list[_Holder] | None = None
        for candidate, weight in heaviest:
            if weight < NOTEWORTHY:
                return
            free = min(
                self._max_series - self._taken,
                self._max_per_metric - len(self._places.get(metric, ())),
            )
            if free <= len(overflow.invited):
                if own is None:
                    own = self._lightest(metric)
                full = len(self._places.get(metric, ())) >= self._max_per_metric
                evicted = self._outweighed(own if full else lightest_of_all, weight)
                if evicted is None:
                    return
                yield evicted
            overflow.invited.add(candidate)

    def _lightest(self, *metrics: Metric) -> list[_Holder]:
        """
        The lightest holders of a place among these metrics, the lightest last.
        """
        holders = (
            (place.weight, metric, dims) for metric in metrics for dims, place in self._places.get(metric, {}).items()
        )
        return nsmallest(INVITATIONS, holders)[::-1]

    def _outweighed(self, lightest: list[_Holder], weight: float) -> Key | None:
        """
        Evict the lightest holder if it is outweighed clearly.
        """
        while lightest:
            held, metric, dimensions = lightest[-1]
            if dimensions not in self._places.get(metric, ()):
                lightest.pop()  # it was evicted for another metric
                continue
            if held * HEAVIER > weight:
                return None
            lightest.pop()
            return self._evict(metric, dimensions)
        return None
