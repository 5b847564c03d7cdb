"""
What a record must look like to be taken; one function per field, each says what is wrong without repeating a dimension value.

Arguments are any objects, and what their methods do is user code. Types are therefore read with `type`, which nobody can override, not
with `isinstance`, which asks the object; and whatever an object raises while it is looked at becomes an `InvalidMetricError`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, NoReturn, SupportsFloat, cast

from . import limits
from .datum import Counted
from .dimensions.defaults import DETECTORS
from .dimensions.pii import Scanner
from .exceptions import InvalidMetricError
from .units import MetricUnit

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

NAMESPACE_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_/#: ")
"""Characters of a namespace (CloudWatch user guide, "Namespaces")."""

UNITS: dict[object, str] = {unit.value: unit.value for unit in MetricUnit}
"""Each unit's spelling; a member is found by it too, because it is equal and has the same hash."""

MAX_SEARCHED = 1024
"""Characters of a text that are searched for personal data before it is shown; more are never shown."""

_SCANNER = Scanner(DETECTORS)

MILLISECONDS_FROM = 1e11
"""A timestamp above this is the year 5138 in seconds; it is meant in milliseconds."""

SHOWN_LENGTH = 60
"""Most characters of a value that a message repeats."""

_type_name: Callable[[type], str] = type.__dict__["__name__"].__get__  # `cls.__name__` would ask the metaclass

NO_REAL_NUMBERS = ("c", "S", "U", "m", "M")
"""Kinds of numpy's types that `float()` takes all the same: complex (without its imaginary part), text, and times of any unit."""


def shown(value: object) -> str:
    """
    A value for an error message: its type if it is not simple, cut if it is long, and never an exception.
    """
    kind = type(value)
    if kind is str:
        text = cast("str", value)
        return ascii(text) if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]!a}... ({len(text)} characters)"
    if kind is int and abs(cast("int", value)) >= 10**SHOWN_LENGTH:
        return f"an int of {cast('int', value).bit_length()} bits"
    if kind is int or kind is float or kind is bool or value is None:
        return repr(value)
    return _kind(value)


def _kind(value: object) -> str:
    return f"a {type_of(value)[:SHOWN_LENGTH]}"


def type_of(value: object) -> str:
    """
    The name of its type, whatever its metaclass says.
    """
    return _type_name(type(value))


def looks_personal(text: str) -> bool:
    """
    Whether a text holds what the default detectors take for personal data.
    """
    return _SCANNER.finds(text)


def discreet(value: object) -> str:
    """
    Like `shown`, for what came with a record: text that looks like personal data is not repeated.
    """
    if issubclass(type(value), str) and looks_personal(str.__str__(cast("str", value))[:MAX_SEARCHED]):
        return "a text that looks like personal data"
    return shown(value)


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
        _refuse(
            "namespace", f"{discreet(text)} contains {wrong[0]!r}; allowed are letters, digits, blank and . - _ / # :"
        )
    if text.startswith((":", "AWS/")):
        _refuse("namespace", f'{discreet(text)} starts with ":" or the reserved "AWS/"; choose another beginning')
    return text


def _checked_text(value: object, what: str, field: str) -> str:
    if not issubclass(type(value), str):
        _refuse(field, f"must be a string, not {discreet(value)}", what)
    text = str.__str__(cast("str", value))
    if not text.strip():
        _refuse(field, f"is empty or blank; give it 1 to {limits.NAME_LENGTH} characters", what)
    if len(text) > limits.NAME_LENGTH:
        _refuse(field, f"{discreet(text)} is longer than {limits.NAME_LENGTH} characters; shorten it", what)
    if not (text.isascii() and text.isprintable()):
        _refuse(field, f"{discreet(text)} has a character outside printable ASCII; replace it", what)
    if looks_personal(text):
        _refuse(
            field,
            "looks like personal data and would be published as it is; put it into a dimension, where it is hashed",
            what,
        )
    return text


def checked_unit(unit: object) -> str:
    """
    One of the 27 units, as a `MetricUnit` or its spelling.
    """
    try:
        known = UNITS[unit]
    except Exception:  # noqa: BLE001 - besides KeyError: its hash and its idea of equality are user code
        known = None
    if known is None:
        _refuse(
            "unit", f"{discreet(unit)} is not one of CloudWatch's; use a member of MetricUnit, such as MetricUnit.COUNT"
        )
    return known


def checked_value(value: object) -> float:
    """
    A finite number in the API's range; numpy numbers, `Decimal`, `Fraction` and bool are taken, text is not.
    """
    number = value if type(value) is float or type(value) is int else _as_float(value)
    if number is None:
        _refuse("value", f"must be a number, not {discreet(value)}; convert it with float() first")
    if not -limits.MAX_VALUE <= number <= limits.MAX_VALUE:
        _refuse("value", f"{discreet(number)} is not a finite number between -2**360 and 2**360; leave the record out")
    return number


def checked_counts(counts: object) -> Counted:
    """
    A dict of 1 to 1,000 values, each with how often it occurred: a whole number from 1.
    """
    most = limits.VALUES_PER_RECORD
    if type(counts) is not dict:
        _refuse("value", f"must be a dict of 1 to {most} values and their counts, not {discreet(counts)}", "counts")
    if not 0 < len(counts) <= most:
        _refuse("value", f"are for {len(counts)} values; record 1 to {most} at once, and more in parts", "counts")
    checked: dict[float, int] = {}
    total = 0
    for value, count in counts.copy().items():
        if type(count) is not int or count < 1:
            _refuse("value", f"must be whole numbers from 1, not {discreet(count)}; leave the value out", "counts")
        number = checked_value(value)
        checked[number] = checked.get(number, 0) + count
        total += count
    if total > limits.RECORDED_AT_ONCE:
        _refuse("value", f"add up to {discreet(total)}, which is more than 2**53; record them in parts", "counts")
    return Counted(checked, total)


def _as_float(value: object) -> float | None:
    kind = type(value)
    try:
        if issubclass(kind, (str, bytes, bytearray)) or not hasattr(kind, "__float__"):
            return None
        if getattr(getattr(value, "dtype", None), "kind", "f") in NO_REAL_NUMBERS:
            return None
        return float(cast("SupportsFloat", value))
    except OverflowError:
        return math.inf
    except Exception:  # noqa: BLE001 - somebody's __float__ may raise anything
        return None


def checked_resolution(resolution: object) -> int:
    """
    1 or 60, as a number or a `StorageResolution`.
    """
    is_int = issubclass(type(resolution), int) and type(resolution) is not bool
    seconds = int.__index__(cast("int", resolution)) if is_int else 0
    if seconds not in (1, 60):
        _refuse("storage_resolution", f"must be 1 or 60 seconds, not {discreet(resolution)}; use a StorageResolution")
    return seconds


def checked_timestamp(timestamp: datetime | float | object, now: float) -> float:
    """
    Epoch seconds of an aware datetime, a naive one (taken as UTC, as boto3 does) or a number of seconds.

    CloudWatch takes two weeks back to two hours ahead.
    """
    seconds = _as_epoch(timestamp)
    if not now - limits.PAST_SECONDS <= seconds <= now + limits.FUTURE_SECONDS:
        days = (seconds - now) / 86_400
        _refuse("timestamp", f"is {days:+.2f} days from now; CloudWatch takes two weeks back to two hours ahead")
    return seconds


def _as_epoch(timestamp: object) -> float:
    from datetime import datetime, timezone

    if not issubclass(type(timestamp), datetime):
        seconds = None if type(timestamp) is bool else _as_float(timestamp)
        if seconds is None or math.isnan(seconds):
            _refuse("timestamp", f"must be a datetime or epoch seconds, not {discreet(timestamp)}")
        if seconds > MILLISECONDS_FROM:
            _refuse("timestamp", "looks like milliseconds; give seconds since the epoch or a datetime")
        return seconds
    moment = cast("datetime", timestamp)
    try:
        return float((moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)).timestamp())
    except Exception:  # noqa: BLE001 - somebody's tzinfo may raise anything
        message = "timestamp is a datetime whose time zone gives no offset; give one in UTC"
        raise InvalidMetricError(message, field="timestamp") from None


def checked_dimensions(dimensions: object) -> dict[str, object]:
    """
    A dict of its own with plain names, at most one dimension longer than allowed; the rest is for the dimension policy to check.

    The caller's mapping is read once, here: it may be endless, answer differently each time, or change meanwhile.
    """
    if dimensions is None:
        return {}
    read = _read(dimensions)
    if read is None:
        _refuse("dimensions", f"must be a mapping, not {_kind(dimensions)}; give a dict of names and values")
    return read if all(type(name) is str for name in read) else _with_plain_names(read)


def _read(dimensions: object) -> dict[str, object] | None:
    if type(dimensions) is dict and len(dimensions) <= limits.DIMENSIONS:
        return dimensions.copy()
    try:
        if issubclass(type(dimensions), Mapping):
            return dict(islice(cast("Mapping[str, object]", dimensions).items(), limits.DIMENSIONS + 1))
    except Exception:  # noqa: BLE001, S110 - user code: what it raises may show a value
        pass
    return None


def _with_plain_names(dimensions: dict[str, object]) -> dict[str, object]:
    plain: dict[str, object] = {}
    for name, value in dimensions.items():
        if not issubclass(type(name), str):
            _refuse("dimensions", "have a name that is not a str; give one, such as 'Endpoint'")
        text = str.__str__(name)
        if text in plain:
            _refuse("dimensions", "have one name twice, in two types of text; give it once")
        plain[text] = value
    return plain


def _refuse(field: str, message: str, what: str = "") -> NoReturn:
    message = f"{what or field} {message}"
    raise InvalidMetricError(message, field=field)
