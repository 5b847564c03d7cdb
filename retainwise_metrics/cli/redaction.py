"""
Bodies of messages, fit to be shown: what the rules for dimensions hide from CloudWatch is hidden from the terminal too.

1. Every field of a JSON body is treated as a dimension of that name, fields of fields and JSON within text included.
2. Whatever the rules cannot judge, such as a long text or one with letters outside ASCII, is not shown.
3. A first name in a field whose name says nothing looks like any word; no rule can find it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from retainwise_metrics.exceptions import InvalidMetricError

if TYPE_CHECKING:
    from retainwise_metrics.dimensions.policy import DimensionPolicy

DEEPEST: Final = 12
"""Levels of a body that are looked at; what is deeper is not shown."""

BODY: Final = "Body"
"""The name under which a text that is not JSON is judged."""


def redacted(body: str, policy: DimensionPolicy) -> str:
    """
    Make a body fit to be shown.

    Args:
        body: As received.
        policy: The rules.

    Returns:
        JSON with two spaces of indent for a JSON object or list, one line for anything else.
    """
    parsed = _parsed(body)
    if parsed is None:
        return str(_shown(BODY, body, policy))
    return json.dumps(_clean(BODY, parsed, policy, depth=0), indent=2)


def redacted_fields(values: dict[str, str], policy: DimensionPolicy) -> dict[str, str]:
    """
    Make message attributes fit to be shown.

    Args:
        values: By name.
        policy: The rules.

    Returns:
        The same, with names and values hidden where the rules say so.
    """
    return {_name(name, policy): str(_shown(name, value, policy)) for name, value in values.items()}


def _parsed(text: str) -> dict[str, Any] | list[Any] | None:
    if text.lstrip()[:1] not in {"{", "["}:
        return None
    try:
        parsed: dict[str, Any] | list[Any] = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed


def _clean(name: str, value: object, policy: DimensionPolicy, *, depth: int) -> object:
    if depth > DEEPEST:
        return _hidden(value)
    if isinstance(value, str):
        inner = _parsed(value)
        return _shown(name, value, policy) if inner is None else _clean(name, inner, policy, depth=depth + 1)
    if isinstance(value, dict):
        # Under a private name everything is private, whatever the fields below it are called.
        private = policy.is_private(name)
        return {
            _name(key, policy): _clean(name if private else key, each, policy, depth=depth + 1)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [_clean(name, each, policy, depth=depth + 1) for each in value]
    return value if value is None else _shown(name, value, policy)


def _shown(name: str, value: object, policy: DimensionPolicy) -> object:
    try:
        shown = policy.resolve(name, value)
    except InvalidMetricError:
        return _hidden(value) if value != "" else ""
    # A number the rules leave alone stays a number.
    return shown.value if isinstance(value, str) or shown.private else _number(value, shown.value)


def _number(value: object, shown: str) -> object:
    return value if shown in {str(value), str(value).lower()} else shown


def _name(name: str, policy: DimensionPolicy) -> str:
    try:
        policy.resolve(name, "x")
    except InvalidMetricError:
        return _hidden(name)
    return name


def _hidden(value: object) -> str:
    return f"[hidden: {len(str(value))} characters]"
