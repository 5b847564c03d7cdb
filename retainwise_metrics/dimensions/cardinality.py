"""
Which series get a place of their own, and where the values of all the others go.

Every combination of dimension values is a series that CloudWatch bills and that this process keeps in memory, so one identifier used
as a dimension can cost more than everything else together. The guard gives out a limited number of places and folds the rest into
series whose exploding dimensions say `other`: detail is lost, no measurement is.

Rules
1. While there is room a new series gets a place at once. From the first refusal until a whole period (the time between two rotations)
   passes without one, places go by invitation only: otherwise a flood would take every place that becomes free, and each of those
   series would be billed.
2. Series without a place are candidates, counted per metric with Space-Saving (Metwally, Agrawal and El Abbadi, 2005): the heaviest
   are found in a table of bounded size, however many there are. Candidates are remembered by hash only.
3. A rotation halves all weights, so the last few minutes count most, and invites the heaviest candidates. One that outweighs a series
   with a place takes it over; it has to be clearly heavier, so that equals do not swap places for ever. The invited series gets its
   place when it shows up again; an identifier that never comes back has cost nothing but the offer.
4. A series that was idle for `IDLE_ROTATIONS` weighs nothing, whatever it weighed before, but loses its place only to a candidate:
   taking it earlier would gain nothing and break the series of a job that runs once an hour. After `FORGET_ROTATIONS` without a value
   it is forgotten in any case, so that a process that runs for months does not collect the past.
5. The all-`other` series of a metric needs no place. Neither does the series without dimensions, which is its own all-`other` series.
6. Metrics compete for bookkeeping as series compete for places. A metric beyond `max_metrics` is published under its all-`other`
   series and nothing about it is kept but its weight, until it outweighs another one. The guard cannot rename a metric: whoever
   makes up metric *names* gets one series for each of them.
"""

from __future__ import annotations

from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from retainwise_metrics.datum import Dimensions

    _Lost = tuple[str, str, Dimensions]

OTHER = "other"
"""The value of a folded dimension."""

OVERFLOW_SERIES = 64
"""Most overflow series per metric that keep some of their values; a dimension with more distinct values than this is always folded."""

OVERFLOW_SHARE = 10
"""Overflow series that keep some of their values are at most a tenth of the client's places (at least `OVERFLOW_SERIES`)."""

OBSERVED_VALUES = 16_384
"""
Distinct values remembered of all overflowing metrics together, to find out which dimensions explode: about 2 MB. Metrics that overflow
beyond that fold every dimension.
"""

SAMPLE = 256
"""Series with a place that are looked at when their metric starts to overflow: enough for an exploding dimension to show itself."""

SHAPES = 16
"""Most combinations of dimension *names* told apart per overflowing metric; what comes in yet another one is folded into `SHAPELESS`."""

SHAPELESS: Dimensions = ((OTHER, OTHER),)
"""Where a metric goes that makes up dimension names."""

CANDIDATES = 4096
"""Most candidates per metric, about 1.2 MB: in a flood, a series is noticed if it comes back within about as many newcomers."""

ALL_CANDIDATES = 16_384
"""Most candidates of all metrics together; a metric may have as many as it leaves to the others ..."""

FEW_CANDIDATES = 4
"""... and always this many."""

INDEXED_FROM = 64
"""Candidates from which on a metric pays for an index of them; it is never built for many at once while somebody records."""

MIN_METRICS = 256
"""Metrics with bookkeeping, even if the client has fewer places than that."""

NOTEWORTHY = 1.5
"""Least weight of a candidate: seen twice lately, or once in each of two periods."""

HEAVIER = 2.0
"""How many times as heavy as the holder of a place a candidate has to be."""

IDLE_ROTATIONS = 2
"""Rotations without a value after which a place may go to any candidate."""

FORGET_ROTATIONS = 288
"""Rotations without a value after which a series is forgotten: a day, at one every five minutes."""

RECOVERY_ROTATIONS = 12
"""Rotations without overflow after which a metric is taken for cured: an hour."""

OFFENDERS = 10
"""Most offenders named."""

NEGLIGIBLE = 0.5
"""Weight below which a candidate is forgotten: one measurement is remembered for one more period."""

_NEVER = -2
"""A period so long ago that it has no effect."""


class Offender(NamedTuple):
    """
    A metric that has more series than places.

    Attributes:
        namespace: Its namespace.
        metric: Its name.
        dimension: Name of the dimension with the most distinct values; never a value.
        overflowed: Measurements folded into `other` so far.
    """

    namespace: str
    metric: str
    dimension: str
    overflowed: int


class _Candidates:
    """
    Space-Saving: the heaviest keys of an endless stream.

    A newcomer to a full table replaces the lightest key and inherits its count, as it might have been there before. What is certain is
    the count without the inherited part, and only that is ever compared.
    """

    __slots__ = ("_by_count", "_cells", "_least")

    def __init__(self) -> None:
        self._cells: dict[int, list[float]] = {}
        """Per key: count, inherited part of it, period in which it was last seen."""
        self._by_count: dict[float, dict[int, None]] | None = None
        """Keys by count, to find the lightest at once; only for tables of some size."""
        self._least = 0.0

    def __len__(self) -> int:
        return len(self._cells)

    def add(self, key: int, weight: float, period: int, *, may_grow: bool) -> None:
        """
        Count a key, in place of the lightest one if it is new and the table may not grow.
        """
        cell = self._cells.get(key)
        if cell is not None:
            self._unfile(key, cell[0])
            cell[0] += weight
            cell[2] = period
        else:
            inherited = 0.0 if may_grow else self._replace_lightest()
            cell = self._cells[key] = [inherited + weight, inherited, period]
        self._file(key, cell[0])

    def forget(self, key: int) -> None:
        """
        A candidate got its place.
        """
        cell = self._cells.pop(key, None)
        if cell is not None:
            self._unfile(key, cell[0])

    def noteworthy(self, period: int) -> list[tuple[float, int]]:
        """
        Weight and key of those that were seen in this period and are heavy enough to be invited.
        """
        certain = [(count - inherited, key) for key, (count, inherited, seen) in self._cells.items() if seen == period]
        return [candidate for candidate in certain if candidate[0] >= NOTEWORTHY]

    def age(self, least: float) -> None:
        """
        Halve all weights, and drop those that are below `least` then.
        """
        halved = {key: [(count - inherited) / 2, 0.0, seen] for key, (count, inherited, seen) in self._cells.items()}
        self._cells = {key: cell for key, cell in halved.items() if cell[0] >= least}
        self._by_count = None
        if len(self._cells) >= INDEXED_FROM:
            self._index()

    def _file(self, key: int, count: float) -> None:
        if self._by_count is not None:
            keys = self._by_count.get(count)
            if keys is None:
                keys = self._by_count[count] = {}
            keys[key] = None
            self._least = min(self._least, count)
        elif len(self._cells) >= INDEXED_FROM:
            self._index()

    def _index(self) -> dict[float, dict[int, None]]:
        by_count: dict[float, dict[int, None]] = {}
        for key, cell in self._cells.items():
            by_count.setdefault(cell[0], {})[key] = None
        self._by_count, self._least = by_count, min(by_count)
        return by_count

    def _unfile(self, key: int, count: float) -> None:
        if self._by_count is not None:
            keys = self._by_count[count]
            del keys[key]
            if not keys:
                del self._by_count[count]

    def _replace_lightest(self) -> float:
        by_count = self._by_count or self._index()
        if self._least not in by_count:
            self._least = min(by_count)
        # The newest of the lightest, because the front of a dict is slow to find once much has been taken from it.
        lightest = next(reversed(by_count[self._least]))
        del self._cells[lightest]
        self._unfile(lightest, self._least)
        return self._least


class _Shape:
    """
    How a metric is folded when it comes with certain dimension names.
    """

    __slots__ = ("all_other", "kept", "series", "version")

    def __init__(self, names: tuple[str, ...]) -> None:
        self.all_other: Dimensions = tuple([(name, OTHER) for name in names])
        self.kept: tuple[int, ...] = ()
        """Positions of the dimensions that keep their value."""
        self.series: dict[tuple[str, ...], Dimensions] = {}
        """Overflow series by the values they keep."""
        self.version = 0
        """What was known about the distinct values when `kept` was decided."""


class _Overflow:
    """
    The bookkeeping of a metric that has more series than places.
    """

    __slots__ = (
        "_distinct",
        "_most",
        "_shapes",
        "_version",
        "candidates",
        "dimension",
        "fresh",
        "idle",
        "invited",
        "measurements",
        "observed",
        "refused_in",
        "series",
        "stale",
    )

    def __init__(self, places: Iterable[Dimensions], *, may_observe: bool) -> None:
        self.candidates = _Candidates()
        self.invited: set[int] = set()
        """Hashes of the candidates for which a place is reserved."""
        self.measurements = 0
        """Folded so far."""
        self.fresh = 0
        """Folded in this period."""
        self.idle = 0
        """Rotations since anything was folded."""
        self.dimension = ""
        """The dimension with the most distinct values."""
        self.observed = 0
        """Distinct values remembered."""
        self.refused_in = _NEVER
        self.series = 0
        """Overflow series that keep some of their values."""
        self.stale: list[Dimensions] = []
        """Overflow series that are not used any more."""
        self._shapes: dict[tuple[str, ...], _Shape] = {}
        self._distinct: dict[str, set[int]] = {}
        """Hashes of the values seen per dimension; one with more than `OVERFLOW_SERIES` is not looked at any longer."""
        self._most = 0
        self._version = 1
        if may_observe:
            for dimensions in islice(places, SAMPLE):
                self._observe(dimensions, may_observe=True)

    def fold(self, dimensions: Dimensions, *, may_add: bool, may_observe: bool) -> Dimensions:
        """
        The overflow series of a series without a place.

        Args:
            dimensions: Its own dimensions.
            may_add: Whether the client may have another overflow series that keeps some of its values.
            may_observe: Whether another distinct value may be remembered.
        """
        shape = self._observe(dimensions, may_observe=may_observe)
        if shape is None:
            return SHAPELESS
        if shape.version != self._version:
            self._decide(shape, dimensions)
        if not shape.kept:
            return shape.all_other
        values = tuple([dimensions[position][1] for position in shape.kept])
        folded = shape.series.get(values)
        if folded is None:
            if not may_add or self.series >= OVERFLOW_SERIES:
                return shape.all_other
            self.series += 1
            folded = shape.series[values] = _fold_all_but(shape.kept, dimensions)
        return folded

    def age(self) -> None:
        """
        Close a period.
        """
        self.idle = 0 if self.fresh else self.idle + 1
        self.fresh = 0

    def every_series(self) -> list[Dimensions]:
        """
        Every overflow series that may have been used.
        """
        used = [*self.stale, SHAPELESS]
        for shape in self._shapes.values():
            used += [shape.all_other, *shape.series.values()]
        return used

    def entries(self) -> int:
        """
        How many things are remembered.
        """
        return (
            len(self.candidates) + len(self.invited) + len(self.stale) + len(self._shapes) + self.series + self.observed
        )

    def _observe(self, dimensions: Dimensions, *, may_observe: bool) -> _Shape | None:
        names = tuple([name for name, _ in dimensions])
        shape = self._shapes.get(names)
        if shape is None:
            if len(self._shapes) >= SHAPES:
                return None
            shape = self._shapes[names] = self._new_shape(names)
        if not may_observe:
            return shape
        for name, value in dimensions:
            seen = self._distinct.get(name)
            if seen is not None:
                before = len(seen)
                seen.add(hash(value))
                if len(seen) > before:
                    self._grown(name, len(seen))
        return shape

    def _new_shape(self, names: tuple[str, ...]) -> _Shape:
        known = {name for shape in self._shapes for name in shape}
        for name in names:
            if name not in known:
                self._distinct[name] = set()
        return _Shape(names)

    def _grown(self, name: str, distinct: int) -> None:
        self._version += 1
        self.observed += 1
        # The first to arrive at the limit grows fastest, and keeps the title.
        if distinct > self._most:
            self._most, self.dimension = distinct, name
        if distinct > OVERFLOW_SERIES:
            del self._distinct[name]
            self.observed -= distinct

    def _decide(self, shape: _Shape, dimensions: Dimensions) -> None:
        """
        Keep the dimensions with the fewest values, as long as all their combinations fit; never the one with the most.
        """
        known = [len(self._distinct.get(name, ())) or OVERFLOW_SERIES + 1 for name, _ in dimensions]
        kept, combinations = [], 1
        for distinct, position in sorted(zip(known, range(len(known)))):  # noqa: B905 - strict= costs time and cannot fail here
            combinations *= distinct
            if distinct == max(known) or combinations > OVERFLOW_SERIES:
                break
            kept.append(position)
        shape.version = self._version
        if sorted(kept) != list(shape.kept):
            self.series -= len(shape.series)
            self.stale += shape.series.values()
            shape.kept, shape.series = tuple(sorted(kept)), {}


def _fold_all_but(kept: tuple[int, ...], dimensions: Dimensions) -> Dimensions:
    return tuple(
        [pair if position in kept else (pair[0], OTHER) for position, pair in enumerate(dimensions)],
    )


class _Place:
    """
    A series with a place of its own.
    """

    __slots__ = ("fresh", "idle", "weight")

    def __init__(self, fresh: int) -> None:
        self.fresh = fresh
        """Measurements of this period."""
        self.weight = 0.0
        """Measurements of earlier periods, halved at each rotation."""
        self.idle = 0
        """Rotations since the last measurement."""

    def age(self) -> None:
        """
        Close a period.
        """
        self.idle = 0 if self.fresh else self.idle + 1
        self.weight = 0.0 if self.idle >= IDLE_ROTATIONS else self.weight / 2 + self.fresh
        self.fresh = 0


class _Metric:
    """
    What is known about one metric: little, until it overflows.
    """

    __slots__ = ("key", "overflow", "places", "weight")

    def __init__(self, key: tuple[str, str]) -> None:
        self.key = key
        self.places: dict[Dimensions, _Place] = {}
        self.overflow: _Overflow | None = None
        self.weight = 0.0
        """Measurements, halved at each rotation; only up to date during a rotation."""

    @property
    def taken(self) -> int:
        """
        Places in use or reserved.
        """
        return len(self.places) + (len(self.overflow.invited) if self.overflow else 0)


class _Holders:
    """
    Series with a place, lightest first, of one metric or of all; sorted once per rotation, and only if somebody waits.
    """

    __slots__ = ("_all", "_rankings")

    def __init__(self, metrics: Iterable[_Metric]) -> None:
        self._all = metrics
        self._rankings: dict[_Metric | None, list[tuple[float, _Metric, Dimensions]]] = {}

    def lightest(self, metric: _Metric | None) -> tuple[float, _Metric, Dimensions] | None:
        """
        Weight, metric and dimensions of the lightest holder in this metric, or in all of them (None); None if there is no holder.
        """
        ranking = self._rankings.get(metric)
        if ranking is None:
            ranking = self._rankings[metric] = self._rank([metric] if metric else self._all)
        while ranking and ranking[-1][2] not in ranking[-1][1].places:
            ranking.pop()
        return ranking[-1] if ranking else None

    @staticmethod
    def _rank(metrics: Iterable[_Metric]) -> list[tuple[float, _Metric, Dimensions]]:
        holders = [(place.weight, metric, dims) for metric in metrics for dims, place in metric.places.items()]
        return sorted(holders, key=itemgetter(0), reverse=True)


class CardinalityGuard:
    """
    Gives out places. Not thread-safe: its owner holds a lock. It has no clock: its owner says when a period is over.

    Args:
        max_series: Series with a place of their own, all metrics together.
        max_series_per_metric: The same for one metric.

    Attributes:
        max_metrics: Metrics with bookkeeping: as many as places, and at least `MIN_METRICS`.
    """

    def __init__(self, *, max_series: int, max_series_per_metric: int) -> None:
        self._max_series = max_series
        self._max_per_metric = max_series_per_metric
        self._max_overflow_series = max(OVERFLOW_SERIES, max_series // OVERFLOW_SHARE)
        self.max_metrics = max(max_series, MIN_METRICS)
        self._metrics: dict[tuple[str, str], _Metric] = {}
        self._series = 0
        self._reserved = 0
        """Places kept for invited series."""
        self._overflow_series = 0
        """Overflow series that keep some of their values."""
        self._observed = 0
        self._candidates = 0
        self._refused_in = _NEVER
        """Last period in which the client, not a metric, had no place left."""
        self._strangers = _Candidates()
        """Metrics without bookkeeping."""
        self._invited: set[int] = set()
        """Hashes of the metrics that get bookkeeping when they show up again."""
        self._metric_refused_in = _NEVER
        self._period = 0

    @property
    def series(self) -> int:
        """
        Series that have a place of their own; those without dimensions need none.
        """
        return self._series

    @property
    def entries(self) -> int:
        """
        How many things the guard remembers, for diagnostics: proportional to its memory.
        """
        overflowing = [metric.overflow for metric in self._metrics.values() if metric.overflow]
        own = self._series + len(self._metrics) + len(self._strangers) + len(self._invited)
        return own + sum(overflow.entries() for overflow in overflowing)

    def place(self, namespace: str, name: str, dimensions: Dimensions, weight: int = 1) -> Dimensions:
        """
        Decide where measurements go.

        Args:
            namespace: Namespace of the metric.
            name: Name of the metric.
            dimensions: Sanitised dimensions.
            weight: How many measurements, at least 1.

        Returns:
            The dimensions to publish them under: the same object, or those of an overflow series.
        """
        if not dimensions:
            return dimensions
        metric = self._metrics.get((namespace, name)) or self._admit_metric((namespace, name), weight)
        if metric is None:
            return tuple([(dimension, OTHER) for dimension, _ in dimensions])
        place = metric.places.get(dimensions)
        if place is not None:
            place.fresh += weight
            return dimensions
        if self._may_enter(metric, dimensions):
            metric.places[dimensions] = _Place(weight)
            self._series += 1
            return dimensions
        return self._fold(metric, dimensions, weight)

    def touch(self, namespace: str, name: str, dimensions: Dimensions, weight: int) -> None:
        """
        Tell that a series received more measurements; without effect if it has no place.

        Args:
            namespace: Namespace of the metric.
            name: Name of the metric.
            dimensions: The dimensions it is published under.
            weight: How many measurements.
        """
        metric = self._metrics.get((namespace, name))
        if metric is not None:
            place = metric.places.get(dimensions)
            if place is not None:
                place.fresh += weight

    def rotate(self) -> list[tuple[str, str, Dimensions]]:
        """
        Close a period: let the heaviest candidates take over the places of clearly lighter series, at their next `place()`.

        Returns:
            Namespace, name and dimensions of series that lost their place, and of overflow series that are not used any more.
        """
        lost: list[_Lost] = []
        self._withdraw_invitations()
        for metric in self._metrics.values():
            self._age(metric, lost)
        self._invite_metrics(lost)
        self._invite_series(lost)
        self._clean_up(lost)
        self._period += 1
        return lost

    def offenders(self) -> tuple[Offender, ...]:
        """
        The metrics with the most measurements in overflow series, at most `OFFENDERS`; safe to call without the lock.
        """
        # One atomic copy: the owner's other threads may be adding metrics.
        metrics = list(self._metrics.values())
        overflowing = [
            (metric.key, overflow) for metric in metrics if (overflow := metric.overflow) and overflow.measurements
        ]
        named = [Offender(*key, overflow.dimension, overflow.measurements) for key, overflow in overflowing]
        return tuple(sorted(named, key=lambda offender: -offender.overflowed)[:OFFENDERS])

    # ---- between two rotations ----

    def _admit_metric(self, key: tuple[str, str], weight: int) -> _Metric | None:
        hashed = hash(key)
        room = len(self._metrics) + len(self._invited) < self.max_metrics
        if hashed in self._invited:
            self._invited.discard(hashed)
            self._strangers.forget(hashed)
        elif not room or self._period - self._metric_refused_in < 2:
            self._metric_refused_in = self._period
            self._strangers.add(hashed, weight, self._period, may_grow=len(self._strangers) < CANDIDATES)
            return None
        metric = self._metrics[key] = _Metric(key)
        return metric

    def _may_enter(self, metric: _Metric, dimensions: Dimensions) -> bool:
        overflow = metric.overflow
        if overflow is not None and overflow.invited:
            hashed = hash(dimensions)
            if hashed in overflow.invited:
                overflow.invited.discard(hashed)
                self._reserved -= 1
                self._forget_candidate(overflow, hashed)
                return True
        return not self._is_crowded(metric) and self._has_room(metric)

    def _has_room(self, metric: _Metric) -> bool:
        return metric.taken < self._max_per_metric and self._series + self._reserved < self._max_series

    def _is_crowded(self, metric: _Metric) -> bool:
        recently = self._period - 1
        overflow = metric.overflow
        return self._refused_in >= recently or (overflow is not None and overflow.refused_in >= recently)

    def _fold(self, metric: _Metric, dimensions: Dimensions, weight: int) -> Dimensions:
        overflow = self._overflow_of(metric)
        series, observed = overflow.series, overflow.observed
        folded = overflow.fold(
            dimensions,
            may_add=self._overflow_series < self._max_overflow_series,
            may_observe=self._observed < OBSERVED_VALUES,
        )
        self._overflow_series += overflow.series - series
        self._observed += overflow.observed - observed
        if folded == dimensions:
            return dimensions
        if metric.taken < self._max_per_metric and self._series + self._reserved >= self._max_series:
            self._refused_in = self._period
        else:
            overflow.refused_in = self._period
        overflow.fresh += weight
        overflow.measurements += weight
        self._add_candidate(overflow, hash(dimensions), weight)
        return folded

    def _overflow_of(self, metric: _Metric) -> _Overflow:
        overflow = metric.overflow
        if overflow is None:
            overflow = metric.overflow = _Overflow(metric.places, may_observe=self._observed < OBSERVED_VALUES)
            self._observed += overflow.observed
        return overflow

    def _add_candidate(self, overflow: _Overflow, hashed: int, weight: float) -> None:
        candidates = overflow.candidates
        before = len(candidates)
        may_grow = before < FEW_CANDIDATES or (before < CANDIDATES and before + self._candidates < ALL_CANDIDATES)
        candidates.add(hashed, weight, self._period, may_grow=may_grow)
        self._candidates += len(candidates) - before

    def _forget_candidate(self, overflow: _Overflow, hashed: int) -> None:
        before = len(overflow.candidates)
        overflow.candidates.forget(hashed)
        self._candidates += len(overflow.candidates) - before

    # ---- a rotation ----

    def _withdraw_invitations(self) -> None:
        self._invited.clear()
        self._reserved = 0
        for metric in self._metrics.values():
            if metric.overflow:
                metric.overflow.invited.clear()

    def _age(self, metric: _Metric, lost: list[_Lost]) -> None:
        fresh = 0
        forgotten = []
        for dimensions, place in metric.places.items():
            fresh += place.fresh
            place.age()
            if place.idle >= FORGET_ROTATIONS:
                forgotten.append(dimensions)
        for dimensions in forgotten:
            self._take_place(metric, dimensions, lost)
        if metric.overflow:
            fresh += metric.overflow.fresh
            metric.overflow.age()
        metric.weight = metric.weight / 2 + fresh

    def _take_place(self, metric: _Metric, dimensions: Dimensions, lost: list[_Lost]) -> None:
        weight = metric.places.pop(dimensions).weight
        self._series -= 1
        lost.append((*metric.key, dimensions))
        if weight >= NEGLIGIBLE:
            self._add_candidate(self._overflow_of(metric), hash(dimensions), weight)

    def _invite_metrics(self, lost: list[_Lost]) -> None:
        waiting = sorted(self._strangers.noteworthy(self._period), key=itemgetter(0), reverse=True)
        if not waiting:
            return
        known = sorted(self._metrics.values(), key=lambda metric: metric.weight, reverse=True)
        for weight, hashed in waiting:
            if len(self._metrics) + len(self._invited) >= self.max_metrics:
                if not known or not _outweighs(weight, known[-1].weight):
                    break
                self._drop_metric(known.pop(), lost)
            self._invited.add(hashed)

    def _drop_metric(self, metric: _Metric, lost: list[_Lost]) -> None:
        lost += [(*metric.key, dimensions) for dimensions in metric.places]
        self._series -= len(metric.places)
        self._drop_overflow(metric, lost)
        del self._metrics[metric.key]

    def _drop_overflow(self, metric: _Metric, lost: list[_Lost]) -> None:
        overflow = metric.overflow
        if overflow is not None:
            lost += [(*metric.key, dimensions) for dimensions in overflow.every_series()]
            self._overflow_series -= overflow.series
            self._observed -= overflow.observed
            self._candidates -= len(overflow.candidates)
            metric.overflow = None

    def _invite_series(self, lost: list[_Lost]) -> None:
        waiting = [
            (weight, metric, metric.overflow, hashed)
            for metric in self._metrics.values()
            if metric.overflow
            for weight, hashed in metric.overflow.candidates.noteworthy(self._period)
        ]
        waiting.sort(key=itemgetter(0), reverse=True)
        holders = _Holders(self._metrics.values())
        for weight, metric, overflow, hashed in waiting:
            if self._has_room(metric) or self._make_room(metric, weight, holders, lost):
                overflow.invited.add(hashed)
                self._reserved += 1

    def _make_room(self, metric: _Metric, weight: float, holders: _Holders, lost: list[_Lost]) -> bool:
        # Its own metric first: identifiers in one metric should not cost another one its quiet series.
        for scope in (metric,) if metric.taken >= self._max_per_metric else (metric, None):
            lightest = holders.lightest(scope)
            if lightest is not None and _outweighs(weight, lightest[0]):
                self._take_place(lightest[1], lightest[2], lost)
                return True
        return False

    def _clean_up(self, lost: list[_Lost]) -> None:
        self._strangers.age(NEGLIGIBLE)
        # When candidates are many, those seen once make way, so that metrics which overflowed later get their share.
        least = NEGLIGIBLE if self._candidates <= ALL_CANDIDATES // 2 else 1.0
        for metric in list(self._metrics.values()):
            overflow = metric.overflow
            if overflow is not None:
                before = len(overflow.candidates)
                overflow.candidates.age(least)
                self._candidates += len(overflow.candidates) - before
                lost += [(*metric.key, dimensions) for dimensions in overflow.stale]
                overflow.stale = []
                if overflow.idle >= RECOVERY_ROTATIONS:
                    self._drop_overflow(metric, lost)
            if not metric.places and metric.overflow is None:
                del self._metrics[metric.key]


def _outweighs(candidate: float, holder: float) -> bool:
    return candidate >= HEAVIER * holder + NOTEWORTHY
