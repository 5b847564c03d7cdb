"""
A metrics service that remembers: what an application's tests hand to the code under test.

    metrics = RecordingMetrics()
    await BookSeat(metrics)("A1")
    metrics.assert_counted("booking.success")
    metrics.assert_not_counted("booking.failure", {"error_type": "SeatTaken"})

As on CloudWatch, a series is a name and exactly one set of dimensions: what was counted under `error_type` is not found
without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from retainwise_metrics import checks
from retainwise_metrics.dimensions.policy import DimensionPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

COUNT, MILLISECONDS = "Count", "Milliseconds"


class Recorded(NamedTuple):
    """
    One record.

    Attributes:
        name: Name of the metric.
        value: What was counted, or milliseconds.
        unit: `Count` or `Milliseconds`.
        dimensions: Name and value of each dimension, sorted by name, as text.
    """

    name: str
    value: float
    unit: str
    dimensions: tuple[tuple[str, str], ...]


class RecordingMetrics:
    """
    A `MetricsService` that keeps every record, and refuses what CloudWatch would refuse.

    It may be shared by threads and tasks.

    Attributes:
        records: Every record, in order.
        properties: The properties that were set; of one that was set twice, the last value.
    """

    def __init__(self) -> None:
        self.records: list[Recorded] = []
        self.properties: dict[str, object] = {}
        # Without rules: a test sees the dimensions that its code gave.
        self._resolve = DimensionPolicy(rules=(), detectors=()).resolve_all

    async def increment(self, name: str, *, value: float = 1.0, dimensions: Mapping[str, object] | None = None) -> None:
        """
        Keep a count.

        Raises:
            InvalidMetricError: CloudWatch would refuse it.
        """
        self._keep(name, value, COUNT, dimensions)

    async def record_timing(
        self, name: str, *, value_ms: float, dimensions: Mapping[str, object] | None = None
    ) -> None:
        """
        Keep a duration, in milliseconds.

        Raises:
            InvalidMetricError: CloudWatch would refuse it.
        """
        self._keep(name, value_ms, MILLISECONDS, dimensions)

    def set_property(self, key: str, value: object) -> None:
        """
        Keep a property.
        """
        self.properties[key] = value

    # What was recorded

    def count(self, name: str, dimensions: Mapping[str, object] | None = None) -> float:
        """
        What was counted in all; 0 when nothing was.

        Args:
            name: Name of the metric.
            dimensions: Exactly its dimensions; None is the series without any.
        """
        return sum(self._values(name, COUNT, dimensions))

    def timings(self, name: str, dimensions: Mapping[str, object] | None = None) -> list[float]:
        """
        Every duration in milliseconds, in the order of recording. Arguments as for `count`.
        """
        return self._values(name, MILLISECONDS, dimensions)

    def series(self) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        """
        Names and dimensions of everything recorded.
        """
        return {(record.name, record.dimensions) for record in self.records}

    def clear(self) -> None:
        """
        Forget everything.
        """
        self.records.clear()
        self.properties.clear()

    # Assertions, which say what was recorded instead

    def assert_counted(self, name: str, dimensions: Mapping[str, object] | None = None, *, value: float = 1) -> None:
        """
        Assert that `value` was counted in all. Other arguments as for `count`.

        Raises:
            AssertionError: It was not.
        """
        found = self.count(name, dimensions)
        if found != value:
            self._fail(f"{_spelled(name, dimensions)} counted {found:g}, not {value:g}")

    def assert_not_counted(self, name: str, dimensions: Mapping[str, object] | None = None) -> None:
        """
        Assert that nothing was counted. Arguments as for `count`.

        Raises:
            AssertionError: Something was.
        """
        self.assert_counted(name, dimensions, value=0)

    def assert_timed(
        self,
        name: str,
        dimensions: Mapping[str, object] | None = None,
        *,
        times: int = 1,
        value_ms: float | None = None,
    ) -> None:
        """
        Assert how often a duration was recorded.

        Args:
            name: Name of the metric.
            dimensions: Exactly its dimensions; None is the series without any.
            times: How often.
            value_ms: What each of them was, to a millionth of it; None: anything.

        Raises:
            AssertionError: It was recorded more or less often, or was something else.
        """
        found = self.timings(name, dimensions)
        if len(found) != times:
            self._fail(f"{_spelled(name, dimensions)} was timed {len(found)} times, not {times}")
        if value_ms is not None and not all(abs(each - value_ms) <= 1e-6 * abs(value_ms) for each in found):
            self._fail(f"{_spelled(name, dimensions)} took {_list_of(found)} ms, not {value_ms:g} ms")

    def assert_property(self, key: str, value: object) -> None:
        """
        Assert that a property has a value.

        Raises:
            AssertionError: It has another, or was not set.
        """
        if key not in self.properties or self.properties[key] != value:
            found = f"is {self.properties[key]!r}" if key in self.properties else "was not set"
            self._fail(f"property {key!r} {found}, not {value!r}")

    def assert_nothing_recorded(self) -> None:
        """
        Assert that there is no record; properties may have been set.

        Raises:
            AssertionError: There is one.
        """
        if self.records:
            self._fail("something was recorded")

    def __repr__(self) -> str:
        """Every series with its numbers."""
        return f"<RecordingMetrics: {len(self.records)} records{self._told()}>"

    def _keep(self, name: str, value: float, unit: str, dimensions: Mapping[str, object] | None) -> None:
        pairs, _ = self._resolve(checks.checked_dimensions(dimensions))
        self.records.append(Recorded(checks.checked_name(name), float(checks.checked_value(value)), unit, pairs))

    def _values(self, name: str, unit: str, dimensions: Mapping[str, object] | None) -> list[float]:
        wanted, _ = self._resolve(dimensions or {})
        return [each.value for each in self.records if (each.name, each.unit, each.dimensions) == (name, unit, wanted)]

    def _fail(self, message: str) -> None:
        told = f"{message}; recorded:{self._told() or ' nothing'}"
        raise AssertionError(told)

    def _told(self) -> str:
        series: dict[tuple[str, str, tuple[tuple[str, str], ...]], list[float]] = {}
        for each in self.records:
            series.setdefault((each.name, each.unit, each.dimensions), []).append(each.value)
        return "".join(
            f"\n  {_spelled(name, dict(pairs))} "
            + (f"counted {sum(values):g}" if unit == COUNT else f"took {_list_of(values)} ms")
            for (name, unit, pairs), values in series.items()
        )


def _spelled(name: str, dimensions: Mapping[str, object] | None) -> str:
    pairs = ", ".join(f"{key}={value}" for key, value in (dimensions or {}).items())
    return f"{name}{{{pairs}}}" if pairs else name


def _list_of(values: Iterable[float]) -> str:
    shown = [f"{value:g}" for value in values]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
