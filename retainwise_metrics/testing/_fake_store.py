"""
What the fake CloudWatch keeps: for every series one cell per period of its resolution, with exact statistics.

A series is a namespace, a name and exactly one set of dimensions; data of different units are kept apart in it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from retainwise_metrics.testing._fake_request import Datum, PutRequest, StatisticSet

_RANK_TOLERANCE: Final = 1e-9


class Series(NamedTuple):
    """
    Identity of a series; the dimensions are sorted by name, since their order does not matter.
    """

    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, namespace: str, name: str, dimensions: Mapping[str, str] | None) -> Series:
        """
        The series with exactly these dimensions; None and an empty mapping mean the one without any.
        """
        pairs = sorted((str(key), str(value)) for key, value in (dimensions or {}).items())
        return cls(str(namespace), str(name), tuple(pairs))


class Cell(NamedTuple):
    """
    Where data of one series end up: the start of the period in epoch seconds, the unit, and the resolution in seconds.
    """

    start: int
    unit: str
    resolution: int


class Statistics:
    """
    Count, sum, extremes and the values behind them.

    Attributes:
        count: How many measurements; a float, since counts may be fractions.
        total: Their sum.
        minimum: The smallest, infinity when there is none.
        maximum: The largest, minus infinity when there is none.
        values: How often each value occurred.
    """

    __slots__ = ("_blind", "count", "maximum", "minimum", "total", "values")

    def __init__(self) -> None:
        self.count = 0.0
        self.total = 0.0
        self.minimum = math.inf
        self.maximum = -math.inf
        self.values: dict[float, float] = {}
        self._blind = False

    def record(self, datum: Datum) -> None:
        """
        Add one accepted datum; a statistic set beside values gives the statistics, and the values the percentiles.
        """
        pairs = datum.pairs()
        for value, count in pairs:
            self.values[value] = self.values.get(value, 0.0) + count
        if datum.statistics is not None:
            self._record_set(datum.statistics, known_values=bool(pairs))
        else:
            for value, count in pairs:
                self._fold(count, value * count, value, value)

    def merge(self, other: Statistics) -> None:
        """
        Add all of another.
        """
        self._fold(other.count, other.total, other.minimum, other.maximum)
        self._blind = self._blind or other._blind
        for value, count in other.values.items():
            self.values[value] = self.values.get(value, 0.0) + count

    def percentile(self, percent: float) -> float | None:
        """
        The smallest value that at least this share of the measurements does not exceed (nearest rank).

        Returns:
            None when there is no data, when a value is negative, or when a statistic set hides the values:
            CloudWatch has no percentile then.
        """
        if not self.values or self._blind or self.minimum < 0:
            return None
        rank = sum(self.values.values()) * percent / 100.0
        seen = 0.0
        for value in sorted(self.values):
            seen += self.values[value]
            if seen >= rank * (1.0 - _RANK_TOLERANCE):
                return value
        return max(self.values)

    def statistic(self, name: str) -> float | None:
        """
        One statistic by the name it has in the API: `Sum`, `Average`, ..., or a percentile such as `p99.9`.

        Returns:
            None when there is no data or the percentile is not available.

        Raises:
            ValueError: The statistic is not known here.
        """
        simple = {"SampleCount": self.count, "Sum": self.total, "Minimum": self.minimum, "Maximum": self.maximum}
        if name in simple:
            return simple[name] if self.count else None
        if name == "Average":
            return self.total / self.count if self.count else None
        return self.percentile(_percent(name))

    def _record_set(self, statistics: StatisticSet, *, known_values: bool) -> None:
        count, total, minimum, maximum = (number or 0.0 for number in statistics)
        self._fold(count, total, minimum, maximum)
        if known_values:
            return
        if minimum == maximum:
            self.values[minimum] = self.values.get(minimum, 0.0) + count
        else:
            self._blind = True

    def _fold(self, count: float, total: float, minimum: float, maximum: float) -> None:
        self.count += count
        self.total += total
        self.minimum = min(self.minimum, minimum)
        self.maximum = max(self.maximum, maximum)


class Store:
    """
    Every series that ever received data. It has no lock: whoever owns it has one.
    """

    def __init__(self) -> None:
        self._series: dict[Series, dict[Cell, Statistics]] = defaultdict(lambda: defaultdict(Statistics))

    def add(self, request: PutRequest, *, received: float) -> None:
        """
        Keep the datums of an accepted request.

        Args:
            request: A request in which no rule found a problem.
            received: Seconds since the epoch; the time of a datum without a timestamp.
        """
        for datum in request.datums:
            at = received if datum.timestamp is None else datum.timestamp
            resolution = int(datum.storage_resolution)
            cell = Cell(_floor(at, resolution), datum.unit, resolution)
            pairs = sorted((str(name), str(value)) for name, value in datum.dimensions)
            series = Series(str(request.namespace), str(datum.name), tuple(pairs))
            self._series[series][cell].record(datum)

    def series(self) -> list[Series]:
        """
        All series, sorted.
        """
        return sorted(self._series)

    def cells(self, series: Series) -> Iterator[tuple[Cell, Statistics]]:
        """
        The cells of one series, none when it is unknown.
        """
        return iter(self._series.get(series, {}).items())

    def statistics(
        self, series: Series, *, start: float = -math.inf, end: float = math.inf, unit: str | None = None
    ) -> Statistics:
        """
        Statistics of one series over the cells that start in `[start, end)`; None means every unit.
        """
        merged = Statistics()
        for cell, statistics in self.cells(series):
            if start <= cell.start < end and unit in {None, cell.unit}:
                merged.merge(statistics)
        return merged

    def periods(
        self, series: Series, *, start: float, end: float, period: int, unit: str | None = None
    ) -> dict[tuple[int, str], Statistics]:
        """
        Statistics per period and unit. A period below a minute sees high-resolution data only, as in CloudWatch.
        """
        merged: dict[tuple[int, str], Statistics] = defaultdict(Statistics)
        for cell, statistics in self.cells(series):
            fine_enough = period >= 60 or cell.resolution == 1
            if start <= cell.start < end and fine_enough and unit in {None, cell.unit}:
                merged[_floor(cell.start, period), cell.unit].merge(statistics)
        return dict(merged)

    def total_count(self) -> float:
        """
        All measurements of all series.
        """
        return math.fsum(cell.count for cells in self._series.values() for cell in cells.values())


def _floor(at: float, step: int) -> int:
    return int(at // step) * step


def _percent(name: str) -> float:
    try:
        percent = float(name.removeprefix("p")) if name.startswith("p") else math.nan
    except ValueError:
        percent = math.nan
    if not 0 <= percent <= 100:
        message = f"The statistic {name} is not one of SampleCount, Sum, Average, Minimum, Maximum and p0 to p100."
        raise ValueError(message)
    return percent
