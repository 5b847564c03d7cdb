"""
What was captured, what is asked about it, and what is said when the answer is no. Pure: no clock, no client of its own, no lock.
"""

from __future__ import annotations

from collections import Counter as Tally
from math import isclose
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from retainwise_metrics import checks
from retainwise_metrics.pipeline.intake import Schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from retainwise_metrics.client import CloudWatchMetrics
    from retainwise_metrics.datum import Dimensions, Series
    from retainwise_metrics.namespaces import MetricNamespace
    from retainwise_metrics.stats import DropReason
    from retainwise_metrics.units import MetricUnit

SHOWN = 10
"""Most lines of one kind in a failure's text, and most values in a line."""

SIMILARITY = 0.6
"""How alike two names are that may have been taken for each other, from 0 to 1; `difflib`'s own choice."""


class Captured(NamedTuple):
    """
    One record.

    Attributes:
        series: Where it is published: one series per dimension set, dimensions sanitised.
        value: What was recorded.
        timestamp: Epoch seconds.
        recorder: The client it was recorded with.
    """

    series: tuple[Series, ...]
    value: float
    timestamp: float
    recorder: CloudWatchMetrics

    @property
    def name(self) -> str:
        """
        Name of the metric.
        """
        return self.series[0].name

    @property
    def namespace(self) -> str:
        """
        The namespace.
        """
        return self.series[0].namespace

    @property
    def unit(self) -> str:
        """
        The unit, as CloudWatch spells it.
        """
        return self.series[0].unit

    @property
    def dimensions(self) -> Dimensions:
        """
        The largest set of dimensions it is published with.
        """
        return max((series.dimensions for series in self.series), key=len)


class Refused(NamedTuple):
    """
    One record that was not taken.

    Attributes:
        reason: Why.
        note: The same in words, with the metric's name; empty when there is no more to say.
    """

    reason: DropReason
    note: str


class Filters(TypedDict, total=False):
    """
    Which records of a metric are meant. What is left out, or None, is not looked at.

    Attributes:
        dimensions: All of its dimensions, as the code gave them or as CloudWatch sees them; `{}` is the series without any.
        value: The value; `pytest.approx` is understood, and a float may differ in its ninth digit.
        unit: The unit.
        namespace: The namespace.
    """

    dimensions: Mapping[str, object] | None
    value: float | None
    unit: MetricUnit | str | None
    namespace: MetricNamespace | str | None


class Question:
    """
    A metric, and which of its records are meant.

    Raises:
        InvalidMetricError: Nothing could ever have been recorded by that name, unit, namespace or dimensions.
    """

    def __init__(
        self,
        name: str,
        *,
        dimensions: Mapping[str, object] | None = None,
        value: float | None = None,
        unit: MetricUnit | str | None = None,
        namespace: MetricNamespace | str | None = None,
    ) -> None:
        self.name = checks.checked_name(name)
        self._dimensions = None if dimensions is None else checks.checked_dimensions(dimensions)
        self._value = value
        self._unit = None if unit is None else checks.checked_unit(unit)
        self._namespace = None if namespace is None else checks.checked_namespace(namespace)
        self._literal = tuple(sorted((key, str(given)) for key, given in (self._dimensions or {}).items()))
        self._resolved: dict[tuple[int, Series], frozenset[Dimensions]] = {}

    def __str__(self) -> str:
        """The question as it was asked, on one line."""
        dimensions = "" if self._dimensions is None else f"{{{_pairs(self._literal)}}}"
        told = [f"of {self._value!r}"] if self._value is not None else []
        told += [f"in {self._unit}"] if self._unit is not None else []
        told += [f"in the namespace {self._namespace}"] if self._namespace is not None else []
        return " ".join([f"{self.name}{dimensions}", *told])

    def matches(self, record: Captured) -> bool:
        """
        Whether this record is meant.
        """
        return record.name == self.name and not self.differences(record)

    def differences(self, record: Captured) -> tuple[str, ...]:
        """
        In what a record differs from those that are meant, its name aside.
        """
        found = {
            "namespace": self._namespace is None or record.namespace == self._namespace,
            "dimensions": self._dimensions is None or self._has_dimensions(record),
            "unit": self._unit is None or record.unit == self._unit,
            "value": self._value is None or _is_same(record.value, self._value),
        }
        return tuple(what for what, same in found.items() if not same)

    def _has_dimensions(self, record: Captured) -> bool:
        published = {series.dimensions for series in record.series}
        return self._literal in published or published == self._published_by(record)

    def _published_by(self, record: Captured) -> frozenset[Dimensions]:
        """
        Where the record's client publishes what is recorded with the dimensions asked for.
        """
        metric = record.series[0].with_dimensions(())
        key = (id(record.recorder), metric)
        if key not in self._resolved:
            given = self._dimensions or {}
            schema = Schema(metric, (), tuple(given), private=False)
            destination = record.recorder._destination(schema, given)  # noqa: SLF001 - the client alone knows its rules
            self._resolved[key] = frozenset(series.dimensions for series in destination.series)
        return self._resolved[key]


def explain(question: Question, expected: str, records: Sequence[Captured], refused: Sequence[Refused]) -> str:
    """
    The text of a failure: what was expected, what was recorded, and what looks like it.

    Args:
        question: What was asked.
        expected: How often it was expected, in words.
        records: Everything recorded.
        refused: Everything refused.
    """
    matching = [record for record in records if question.matches(record)]
    lines = [f"{question} was recorded {_times(len(matching))}, expected {expected}"]
    near_misses = _near_misses(question, records)
    lines += _section("recorded", _told(matching))
    lines += _section("near misses", near_misses)
    if not matching and not near_misses:
        lines += _section("recorded instead", _told(records) or ["nothing"])
    lines += _section("refused", [f"{each} {_times(n)}" for each, n in Tally(map(_refusal, refused)).items()])
    return "\n".join(lines)


def _near_misses(question: Question, records: Sequence[Captured]) -> list[str]:
    """
    Records of the same name first, those that differ least before the others; then records of similar names.
    """
    by_difference: dict[tuple[str, ...], list[Captured]] = {}
    for record in records:
        if record.name == question.name and (differences := question.differences(record)):
            by_difference.setdefault(differences, []).append(record)
    lines = [
        f"other {' and '.join(differences)}: {line}"
        for differences, group in sorted(by_difference.items(), key=lambda each: len(each[0]))
        for line in _told(group)
    ]
    for name in _similar(question.name, {record.name for record in records}):
        lines += [f"similar name: {line}" for line in _told([record for record in records if record.name == name])]
    return lines


def _similar(name: str, names: set[str]) -> list[str]:
    from difflib import get_close_matches

    spelled: dict[str, list[str]] = {}
    for each in sorted(names - {name}):
        spelled.setdefault(each.lower(), []).append(each)
    close = get_close_matches(name.lower(), spelled, n=SHOWN, cutoff=SIMILARITY)
    return [each for lowered in close for each in spelled[lowered]]


def _told(records: Iterable[Captured]) -> list[str]:
    """
    A line per series: its name, where, in what unit, how often, and the values.
    """
    groups: dict[tuple[str, str, str, Dimensions], list[float]] = {}
    for each in records:
        groups.setdefault((each.name, each.namespace, each.unit, each.dimensions), []).append(each.value)
    return [
        f"{name}{{{_pairs(dimensions)}}} in {namespace}, {'no unit' if unit == 'None' else unit}, {_times(len(values))}: {_listed(values)}"
        for (name, namespace, unit, dimensions), values in groups.items()
    ]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    more = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [f"{title}:", *(f"  {line}" for line in lines[:SHOWN]), *more]


def _refusal(refused: Refused) -> str:
    return f"{refused.reason}: {refused.note}," if refused.note else f"{refused.reason},"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _pairs(dimensions: Dimensions) -> str:
    return ", ".join(f"{name}={value}" for name, value in dimensions)


def _listed(values: Sequence[float]) -> str:
    more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
    return ", ".join(f"{value:.10g}" for value in values[:SHOWN]) + more


def _is_same(value: float, expected: float) -> bool:
    # The comparison comes from `expected` where that is more than a number: pytest.approx is asked, not converted.
    return bool(expected == value) or (isinstance(expected, (int, float)) and isclose(value, expected))
