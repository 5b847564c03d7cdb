"""
How names and values are spelled: the one place where an arbitrary object becomes text.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

_PUNCTUATION: Final = str.maketrans("", "", " !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_BOOLEANS: Final = {"True": "true", "False": "false"}


def spelling(name: str) -> str:
    """
    Spell a dimension name the way rules compare it, so that `UserId`, `user_id`, `user-id` and `USERID` are one name.

    Args:
        name: A dimension name.

    Returns:
        The name in lower case, without punctuation and spaces.
    """
    return name.translate(_PUNCTUATION).lower()


def text_of(value: object) -> str | None:
    """
    Turn a dimension value into text, whatever it is.

    A `str` stays as given, an `Enum` member stands for its value, `True` is `true`, and 4, 4.0 and Decimal("4.00") are
    all `4`. Anything else is asked for its `str()`.

    Args:
        value: Any object.

    Returns:
        Plain `str`, or None when the value has no usable text: None, NaN, an object without a `__str__` of its own
        (its text would be a memory address, new for each object), or one whose methods raise.
    """
    if type(value) is str:
        return value
    try:
        return _convert(value)
    except Exception:  # noqa: BLE001 - user code: nothing it raises may reach whoever records, nor show the value
        return None


def compact(number: str) -> str:
    """
    Drop the zeros that say nothing from the text of a number: `4.0` is `4`, `0.50` is `0.5`.

    Args:
        number: Text of a number, as `str` writes it.

    Returns:
        The same number.
    """
    if "." not in number or "e" in number.lower():
        return number
    short = number.rstrip("0").rstrip(".")
    return "0" if short == "-0" else short


def _convert(value: object) -> str | None:
    if isinstance(value, Enum):
        return _convert(value.value)
    if isinstance(value, str):
        return str.__str__(value)
    if value is None or _is_only_an_address(value):
        return None
    text = str.__str__(str(value))
    if not hasattr(type(value), "__float__"):
        return _BOOLEANS.get(text, text)
    if value != value:  # noqa: PLR0124 - NaN, of whatever type, is the number that differs from itself
        return None
    return _BOOLEANS.get(text) or compact(text)


def _is_only_an_address(value: object) -> bool:
    kind = type(value)
    return kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__
