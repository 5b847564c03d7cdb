"""
What a record must look like to be taken; one function per field, each says what is wrong without repeating a dimension value.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import limits
from .exceptions import InvalidMetricError
from .units import MetricUnit

if TYPE_CHECKING:
    from datetime import datetime

NAMESPACE_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_/#: ")
"""Characters of a namespace (CloudWatch user guide, "Namespaces")."""

UNITS: dict[object, str] = {spelling: unit.value for unit in MetricUnit for spelling in (unit, unit.value)}
"""Each unit by member and by spelling: they are equal, but their hashes differ."""

MILLISECONDS_FROM = 1e11
"""A timestamp above this is the year 5138 in seconds; it is meant in milliseconds."""


def shown(value: object) -> str:
    """
    A value for an error message: its type if it is not simple, cut if it is long, and never an exception.
    """
    if type(value) in (int, float, bool, type(None)):
        text = repr(value)
    elif type(value) is str:
        text = ascii(value)
    else:
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}... ({len(text)} characters)"


def checked_name(name: object) -> str:
    """
    A metric name: 1 to 255 printable ASCII characters, not only blanks.
    """
    return _checked_text(name, "metric name", "name")


def checked_namespace(namespace: object) -> str:
    """
    A namespace: 1 to 255 characters, not starting with ":" or the reserved "AWS/".
    """
    text = _checked_text(namespace, "namespace", "namespace")
    wrong = sorted(set(text) - NAMESPACE_CHARACTERS)
    if wrong:
        message = f"namespace {shown(text)} contains {wrong[0]!r}; allowed are letters, digits, blank and . - _ / # :"
        raise InvalidMetricError(message, field="namespace")
    if text.startswith((":", "AWS/")):
        message = f'namespace {shown(text)} starts with ":" or the reserved "AWS/"; choose another beginning'
        raise InvalidMetricError(message, field="namespace")
    return text


def _checked_text(value: object, what: str, field: str) -> str:
    if not isinstance(value, str):
        message = f"{what} must be a string, not {shown(value)}"
        raise InvalidMetricError(message, field=field)
    text = str.__str__(value)
    if not text.strip():
        message = f"{what} is empty or blank; give it 1 to {limits.NAME_LENGTH} characters"
        raise InvalidMetricError(message, field=field)
    if len(text) > limits.NAME_LENGTH:
        message = f"{what} {shown(text)} is longer than {limits.NAME_LENGTH} characters; shorten it"
        raise InvalidMetricError(message, field=field)
    if not (text.isascii() and text.isprintable()):
        message = f"{what} {shown(text)} has a character outside printable ASCII; CloudWatch refuses it"
        raise InvalidMetricError(message, field=field)
    return text


def checked_unit(unit: object) -> str:
    """
    One of the 27 units, as a `MetricUnit` or its spelling.
    """
    try:
        return UNITS[unit]
    except (KeyError, TypeError):
        message = f"unit {shown(unit)} is not one of CloudWatch's; use a member of MetricUnit, such as MetricUnit.COUNT"
        raise InvalidMetricError(message, field="unit") from None


def checked_value(value: object) -> float:
    """
    A finite number in the API's range; numpy numbers, `Decimal`, `Fraction` and bool are taken, text is not.
    """
    if type(value) is not float and type(value) is not int:
        value = _as_float(value)
    if not -limits.MAX_VALUE <= value <= limits.MAX_VALUE:
        message = f"value {shown(value)} is not a finite number between -2**360 and 2**360"
        raise InvalidMetricError(message, field="value")
    return value


def _as_float(value: object) -> float:
    if not isinstance(value, (str, bytes, bytearray)) and hasattr(type(value), "__float__"):
        try:
            return float(value)  # type: ignore[arg-type]  # __float__ was seen
        except Exception:  # noqa: BLE001, S110 - somebody's __float__ may raise anything; the refusal below says what is needed
            pass
    message = f"value must be a number, not {shown(value)}"
    raise InvalidMetricError(message, field="value")


def checked_resolution(resolution: object) -> int:
    """
    1 or 60, as a number or a `StorageResolution`.
    """
    if isinstance(resolution, int) and not isinstance(resolution, bool) and int(resolution) in (1, 60):
        return int(resolution)
    message = f"storage_resolution must be 1 or 60 seconds, not {shown(resolution)}"
    raise InvalidMetricError(message, field="storage_resolution")


def checked_timestamp(timestamp: datetime | float | object, now: float) -> float:
    """
    Epoch seconds of an aware datetime, a naive one (taken as UTC, as boto3 does) or a number of seconds.

    CloudWatch takes two weeks back to two hours ahead.
    """
    seconds = _as_epoch(timestamp)
    if seconds > MILLISECONDS_FROM:
        message = "timestamp looks like milliseconds; give seconds since the epoch or a datetime"
        raise InvalidMetricError(message, field="timestamp")
    if not now - limits.PAST_SECONDS <= seconds <= now + limits.FUTURE_SECONDS:
        days = (seconds - now) / 86_400
        message = f"timestamp is {days:+.2f} days from now; CloudWatch takes two weeks back to two hours ahead"
        raise InvalidMetricError(message, field="timestamp")
    return seconds


def _as_epoch(timestamp: object) -> float:
    from datetime import datetime, timezone

    if isinstance(timestamp, datetime):
        try:
            aware = timestamp if timestamp.tzinfo is not None else timestamp.replace(tzinfo=timezone.utc)
            return aware.timestamp()
        except Exception:  # noqa: BLE001 - somebody's tzinfo may raise anything
            message = "timestamp is a datetime whose time zone gives no offset"
            raise InvalidMetricError(message, field="timestamp") from None
    if isinstance(timestamp, (int, float)) and not isinstance(timestamp, bool) and math.isfinite(timestamp):
        return float(timestamp)
    message = f"timestamp must be a datetime or epoch seconds, not {shown(timestamp)}"
    raise InvalidMetricError(message, field="timestamp")
