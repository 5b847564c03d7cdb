"""
Reads the JSON body of a `PutMetricData` request into plain tuples, and refuses what has the wrong shape.

Only types are looked at here, the rules of the API are in `_fake_rules`. boto3 writes NaN and infinities as the
strings `"NaN"`, `"Infinity"` and `"-Infinity"`: they are numbers here, so that a rule can refuse them.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, NamedTuple, NoReturn

_SPECIAL: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_DATUM_MEMBERS: Final = frozenset(
    {
        "MetricName",
        "Dimensions",
        "Timestamp",
        "Value",
        "StatisticValues",
        "Values",
        "Counts",
        "Unit",
        "StorageResolution",
    }
)
_REQUEST_MEMBERS: Final = frozenset({"Namespace", "MetricData", "EntityMetricData", "StrictEntityValidation"})
_STATISTIC_MEMBERS: Final = frozenset({"SampleCount", "Sum", "Minimum", "Maximum"})
_DIMENSION_MEMBERS: Final = frozenset({"Name", "Value"})


class MalformedError(Exception):
    """
    The body has not the shape of the operation: AWS answers `SerializationException`.
    """


class StatisticSet(NamedTuple):
    """
    `StatisticValues` of one datum; None is a member that was not sent.
    """

    sample_count: float | None
    total: float | None
    minimum: float | None
    maximum: float | None


class Datum(NamedTuple):
    """
    One member of `MetricData`, with its types checked and nothing else.
    """

    name: str | None
    dimensions: tuple[tuple[str | None, str | None], ...]
    timestamp: float | None
    value: float | None
    values: tuple[float, ...]
    counts: tuple[float, ...]
    statistics: StatisticSet | None
    unit: str
    storage_resolution: float
    raw: dict[str, Any]

    def pairs(self) -> list[tuple[float, float]]:
        """
        Every value of the datum with its count; a value without a count happened once.
        """
        if self.value is not None:
            return [(self.value, 1.0)]
        return list(zip(self.values, self.counts or (1.0,) * len(self.values), strict=True))


class PutRequest(NamedTuple):
    """
    A `PutMetricData` request as it was sent.
    """

    namespace: str | None
    datums: tuple[Datum, ...]
    has_entities: bool


def parse_json(body: bytes) -> dict[str, Any]:
    """
    Decode the body of any operation.

    Raises:
        MalformedError: It is not one JSON object in UTF-8.
    """
    try:
        payload = json.loads(body or b"{}", parse_constant=_refuse_constant)
    except ValueError as error:
        message = f"The request body is not JSON: {error}"
        raise MalformedError(message) from error
    return _structure(payload, "The request body")


def parse_put(body: bytes) -> PutRequest:
    """
    Decode the body of a `PutMetricData` request.

    Raises:
        MalformedError: A member is unknown or has the wrong type.
    """
    payload = parse_json(body)
    _known(payload, _REQUEST_MEMBERS, "PutMetricData")
    data = _list(payload.get("MetricData"), "MetricData")
    return PutRequest(
        namespace=_text(payload.get("Namespace"), "Namespace"),
        datums=tuple(_datum(item, f"MetricData.member.{number}") for number, item in enumerate(data, start=1)),
        has_entities=bool(payload.get("EntityMetricData")),
    )


def _datum(item: object, where: str) -> Datum:
    raw = _structure(item, where)
    _known(raw, _DATUM_MEMBERS, where)
    return Datum(
        name=_text(raw.get("MetricName"), f"{where}.MetricName"),
        dimensions=_dimensions(raw.get("Dimensions"), f"{where}.Dimensions"),
        timestamp=_number(raw.get("Timestamp"), f"{where}.Timestamp"),
        value=_number(raw.get("Value"), f"{where}.Value"),
        values=_numbers(raw.get("Values"), f"{where}.Values"),
        counts=_numbers(raw.get("Counts"), f"{where}.Counts"),
        statistics=_statistics(raw.get("StatisticValues"), f"{where}.StatisticValues"),
        unit=_text(raw.get("Unit"), f"{where}.Unit") or "None",
        storage_resolution=_resolution(raw.get("StorageResolution"), f"{where}.StorageResolution"),
        raw=raw,
    )


def _resolution(value: object, where: str) -> float:
    number = _number(value, where)
    return 60 if number is None else number


def _dimensions(value: object, where: str) -> tuple[tuple[str | None, str | None], ...]:
    pairs = []
    for number, item in enumerate(_list(value, where), start=1):
        member = f"{where}.member.{number}"
        dimension = _structure(item, member)
        _known(dimension, _DIMENSION_MEMBERS, member)
        pairs.append((_text(dimension.get("Name"), member), _text(dimension.get("Value"), member)))
    return tuple(pairs)


def _statistics(value: object, where: str) -> StatisticSet | None:
    if value is None:
        return None
    raw = _structure(value, where)
    _known(raw, _STATISTIC_MEMBERS, where)
    return StatisticSet(
        sample_count=_number(raw.get("SampleCount"), f"{where}.SampleCount"),
        total=_number(raw.get("Sum"), f"{where}.Sum"),
        minimum=_number(raw.get("Minimum"), f"{where}.Minimum"),
        maximum=_number(raw.get("Maximum"), f"{where}.Maximum"),
    )


def _numbers(value: object, where: str) -> tuple[float, ...]:
    items = _list(value, where)
    return tuple(_required_number(item, f"{where}.member.{number}") for number, item in enumerate(items, start=1))


def _required_number(value: object, where: str) -> float:
    number = _number(value, where)
    if number is None:
        _malformed(where, value, "a number")
    return number


def _number(value: object, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, str) and value in _SPECIAL:
        return _SPECIAL[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        _malformed(where, value, "a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _text(value: object, where: str) -> str | None:
    if value is not None and not isinstance(value, str):
        _malformed(where, value, "a string")
    return value


def _list(value: object, where: str) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list):
        _malformed(where, value, "a list")
    return value


def _structure(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _malformed(where, value, "a structure")
    return value


def _known(structure: dict[str, Any], members: frozenset[str], where: str) -> None:
    unknown = sorted(structure.keys() - members)
    if unknown:
        message = f"{where} has no member {', '.join(unknown)}."
        raise MalformedError(message)


def _malformed(where: str, value: object, expected: str) -> NoReturn:
    message = f"{where} must be {expected}, not {type(value).__name__}."
    raise MalformedError(message)


def _refuse_constant(name: str) -> NoReturn:
    message = f"{name} is not a JSON number"
    raise ValueError(message)
