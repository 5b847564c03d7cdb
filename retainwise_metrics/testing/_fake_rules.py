"""
What CloudWatch refuses in a `PutMetricData` request: one function per rule, in AWS's own words where they are known.

The limits are written out again rather than taken from `retainwise_metrics.limits`: a wrong limit there must not be
forgiven here. "Recorded" marks a wording seen in answers of the real service; the others are worded alike.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from retainwise_metrics.testing._fake_request import Datum, PutRequest, StatisticSet

INVALID: Final = "InvalidParameterValue"
COMBINATION: Final = "InvalidParameterCombination"
MISSING: Final = "MissingParameter"

_MAX_DATUMS: Final = 1000
_MAX_VALUES: Final = 150
_MAX_DIMENSIONS: Final = 30
_MAX_NAME: Final = 255
_MAX_DIMENSION_VALUE: Final = 1024
_MAX_MAGNITUDE: Final = 2.0**360
_PAST_SECONDS: Final = 1_209_600
_FUTURE_SECONDS: Final = 7_200
_SUM_TOLERANCE: Final = 1e-9
_SCALES: Final = ("", "Kilo", "Mega", "Giga", "Tera")
UNITS: Final = (
    *("Seconds", "Microseconds", "Milliseconds"),
    *((prefix + kind).capitalize() for kind in ("bytes", "bits") for prefix in _SCALES),
    *("Percent", "Count"),
    *((prefix + kind).capitalize() + "/Second" for kind in ("bytes", "bits") for prefix in _SCALES),
    *("Count/Second", "None"),
)


class Problem(NamedTuple):
    """
    One reason to refuse a request.

    Attributes:
        code: The error code in the spelling of the query protocol, which boto3 shows.
        message: One line that names the offending parameter.
    """

    code: str
    message: str


def check_put(request: PutRequest, *, now: float) -> list[Problem]:
    """
    Everything that is wrong with a request, in the order of its members; one problem refuses the whole request.

    Args:
        request: What was sent.
        now: Seconds since the epoch, for the window of accepted timestamps.
    """
    problems = list(_check_namespace(request.namespace))
    if request.has_entities:
        problems.append(Problem(INVALID, "The parameter EntityMetricData is not supported by FakeCloudWatch."))
    if not request.datums:
        problems.append(Problem(MISSING, "The parameter MetricData is required."))
    if len(request.datums) > _MAX_DATUMS:
        return [*problems, _too_many("MetricData", _MAX_DATUMS)]
    for number, datum in enumerate(request.datums, start=1):
        problems.extend(_check_datum(datum, f"MetricData.member.{number}", now))
    return problems


def _check_datum(datum: Datum, where: str, now: float) -> Iterator[Problem]:
    yield from _check_text(datum.name, f"{where}.MetricName", _MAX_NAME)
    yield from _check_dimensions(datum.dimensions, f"{where}.Dimensions")
    yield from _check_timestamp(datum.timestamp, f"{where}.Timestamp", now)
    yield from _check_choice(datum.unit, f"{where}.Unit", UNITS)
    yield from _check_choice(datum.storage_resolution, f"{where}.StorageResolution", (1, 60))
    yield from _check_forms(datum, where)
    yield from _check_value_lists(datum, where)
    yield from _check_numbers(datum, where)
    if datum.statistics is not None:
        yield from _check_statistics(datum.statistics, f"{where}.StatisticValues")


def _check_namespace(namespace: str | None) -> Iterator[Problem]:
    yield from _check_text(namespace, "Namespace", _MAX_NAME, no_colon=True)
    if namespace is not None and namespace.startswith("AWS/"):
        yield Problem(INVALID, "The value AWS/ for parameter Namespace is invalid.")


def _check_text(text: str | None, where: str, longest: int, *, no_colon: bool = False) -> Iterator[Problem]:
    """
    Names: present, ASCII (recorded), short enough (recorded), printable, not blank, some without a leading colon.
    """
    if not text:
        yield Problem(MISSING, f"The parameter {where} is required.")
        return
    if not text.isascii():
        yield Problem(INVALID, f"The value for parameter {where} contains non-ASCII characters.")
    if len(text) > longest:
        yield Problem(INVALID, f"The parameter {where} must be shorter than {longest + 1} characters.")
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        yield Problem(INVALID, f"The value for parameter {where} contains control characters.")
    if not text.strip():
        yield Problem(INVALID, f"The parameter {where} must contain at least one non-whitespace character.")
    if no_colon and text.startswith(":"):
        yield Problem(INVALID, f"The parameter {where} must not start with a colon (:).")


def _check_dimensions(dimensions: tuple[tuple[str | None, str | None], ...], where: str) -> Iterator[Problem]:
    if len(dimensions) > _MAX_DIMENSIONS:
        yield _too_many(where, _MAX_DIMENSIONS)
    for number, (name, value) in enumerate(dimensions, start=1):
        yield from _check_text(name, f"{where}.member.{number}.Name", _MAX_NAME, no_colon=True)
        yield from _check_text(value, f"{where}.member.{number}.Value", _MAX_DIMENSION_VALUE)
    if len({name for name, _ in dimensions}) < len(dimensions):
        yield Problem(INVALID, f"The collection {where} must not contain a dimension name more than once.")


def _check_timestamp(timestamp: float | None, where: str, now: float) -> Iterator[Problem]:
    """
    Two weeks back to two hours ahead; the wording is recorded for the past and used for the future too.
    """
    if timestamp is not None and not now - _PAST_SECONDS <= timestamp <= now + _FUTURE_SECONDS:
        yield Problem(INVALID, f"The parameter {where} must specify a time within the past two weeks.")


def _check_choice(value: object, where: str, choices: Iterable[object]) -> Iterator[Problem]:
    if value not in choices:
        listed = ", ".join(str(choice) for choice in choices)
        yield Problem(INVALID, f"The parameter {where} must be a value in the set [ {listed} ].")


def _check_forms(datum: Datum, where: str) -> Iterator[Problem]:
    """
    `Value` excludes the other two; `Values` beside `StatisticValues` is accepted, as the real service does (recorded).
    """
    others = [("Values", bool(datum.values)), ("StatisticValues", datum.statistics is not None)]
    for other, given in others:
        if datum.value is not None and given:
            both = f"The parameters {where}.Value and {where}.{other} are mutually exclusive"
            yield Problem(COMBINATION, f"{both} and you have specified both.")
    if datum.value is None and not any(given for _, given in others):
        either = f"At least one of the parameters {where}.Value and {where}.StatisticValues"
        yield Problem(COMBINATION, f"{either} must be specified.")


def _check_value_lists(datum: Datum, where: str) -> Iterator[Problem]:
    if len(datum.values) > _MAX_VALUES:
        yield _too_many(f"{where}.Values", _MAX_VALUES)
    if datum.counts and len(datum.counts) != len(datum.values):
        yield Problem(INVALID, f"The parameters {where}.Values and {where}.Counts must be of the same size.")
    if len(set(datum.values)) < len(datum.values):
        yield Problem(INVALID, f"The collection {where}.Values must not contain a value more than once.")


def _check_numbers(datum: Datum, where: str) -> Iterator[Problem]:
    if datum.value is not None:
        yield from _check_range(datum.value, f"{where}.Value")
    for number, value in enumerate(datum.values, start=1):
        yield from _check_range(value, f"{where}.Values.member.{number}")
    for number, count in enumerate(datum.counts, start=1):
        if not 0 < count <= _MAX_MAGNITUDE:
            yield _invalid_number(count, f"{where}.Counts.member.{number}")


def _check_statistics(statistics: StatisticSet, where: str) -> Iterator[Problem]:
    count, total, minimum, maximum = statistics
    members = {"SampleCount": count, "Sum": total, "Minimum": minimum, "Maximum": maximum}
    for name, number in members.items():
        if number is None:
            yield Problem(MISSING, f"The parameter {where}.{name} is required.")
        else:
            yield from _check_range(number, f"{where}.{name}")
    if count is not None and total is not None and minimum is not None and maximum is not None:
        yield from _check_consistency(count, total, minimum, maximum, where)


def _check_consistency(count: float, total: float, minimum: float, maximum: float, where: str) -> Iterator[Problem]:
    if count == 0:
        yield Problem(INVALID, f"The parameter {where}.SampleCount must not equal 0.")
    elif count < 0:
        yield Problem(INVALID, f"The parameter {where}.SampleCount must be greater than 0.")
    elif minimum > maximum:
        yield Problem(INVALID, f"The parameter {where}.Maximum must be greater than {where}.Minimum.")
    elif not _sum_is_possible(count, total, minimum, maximum):
        message = f"The parameter {where}.Sum must lie between SampleCount x Minimum and SampleCount x Maximum."
        yield Problem(INVALID, message)


def _sum_is_possible(count: float, total: float, minimum: float, maximum: float) -> bool:
    low, high = count * minimum, count * maximum
    slack = _SUM_TOLERANCE * max(abs(low), abs(high))
    return not (total < low - slack or total > high + slack)


def _check_range(number: float, where: str) -> Iterator[Problem]:
    if not abs(number) <= _MAX_MAGNITUDE:
        yield _invalid_number(number, where)


def _invalid_number(number: float, where: str) -> Problem:
    """
    The wording for NaN is recorded; other numbers follow it.
    """
    spelled = "NaN" if math.isnan(number) else f"{number:g}".replace("inf", "Infinity")
    return Problem(INVALID, f"The value {spelled} for parameter {where} is invalid.")


def _too_many(collection: str, most: int) -> Problem:
    """
    Recorded for `MetricData` and for `Values`.
    """
    return Problem(INVALID, f"The collection {collection} must not have a size greater than {most}.")
