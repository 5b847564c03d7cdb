"""
What a dimension looks like on the wire: a rule for its name, then a search for personal data, then the API's limits.

1. The search looks at what a rule made of a value, so no rule lets personal data through by accident.
2. Whatever is given, the answer is a `Resolved` or an `InvalidMetricError`.
3. No message contains a value, nor a name that looks like personal data.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar, cast

from retainwise_metrics import limits
from retainwise_metrics.dimensions.bucketing import HASHED, UNCHANGED, Resolved, Rule
from retainwise_metrics.dimensions.defaults import DETECTORS, RULES
from retainwise_metrics.dimensions.pii import Detector, Pseudonyms, Scanner
from retainwise_metrics.dimensions.text import spelling, text_of
from retainwise_metrics.exceptions import ConfigurationError, InvalidMetricError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from retainwise_metrics.dimensions.bucketing import Treatment

__all__ = ["DimensionPolicy", "Resolved"]

_Part = TypeVar("_Part", Rule, Detector)

REMEMBERED_NAMES: Final = 512
"""Dimension names whose rule is remembered: many times what services use, little memory."""


class DimensionPolicy:
    """
    Decides how dimensions are published: bucketed, hashed, or as given. Immutable.
    """

    __slots__ = ("_detectors", "_finds", "_label", "_pii_key", "_rules", "_treatment")

    def __init__(
        self,
        *,
        rules: Iterable[Rule] | None = None,
        detectors: Iterable[Detector] | None = None,
        pii_key: str | None = None,
    ) -> None:
        """
        Make a policy.

        Args:
            rules: What becomes of values, by dimension name; the last rule that covers a name wins. None: the defaults.
            detectors: What is personal data by its looks. None: the defaults.
            pii_key: Secret that the buckets of personal values depend on, as `id:secret`. None: a public key.

        Raises:
            ConfigurationError: The key or a pattern is malformed.
        """
        self._rules = RULES if rules is None else _all_of(rules, Rule, "rules")
        self._detectors = DETECTORS if detectors is None else _all_of(detectors, Detector, "detectors")
        self._pii_key = pii_key
        if self._detectors is not DETECTORS:
            _compile_all(self._detectors)
        self._finds = Scanner(self._detectors).finds
        self._label = Pseudonyms(pii_key).label
        self._treatment = _treatment_by_name(self._rules, self._finds)

    def extend(self, *rules: Rule, detectors: Iterable[Detector] = ()) -> DimensionPolicy:
        """
        Add rules and detectors.

        Args:
            rules: They win over the rules so far, and later ones over earlier ones.
            detectors: They search in addition to the detectors so far.

        Returns:
            A new policy.

        Raises:
            ConfigurationError: A pattern is malformed.
        """
        added = _all_of(detectors, Detector, "detectors")
        return DimensionPolicy(
            rules=(*self._rules, *rules),
            detectors=(*self._detectors, *added) if added else self._detectors,
            pii_key=self._pii_key,
        )

    def with_key(self, pii_key: str) -> DimensionPolicy:
        """
        Change the secret.

        Args:
            pii_key: As in the constructor.

        Returns:
            A new policy.

        Raises:
            ConfigurationError: The key is malformed.
        """
        return DimensionPolicy(rules=self._rules, detectors=self._detectors, pii_key=pii_key)

    def is_private(self, name: str) -> bool:
        """
        Tell whether a name alone says that every value under it is personal.

        Args:
            name: A dimension name.

        Returns:
            True when a rule hashes whatever is given under this name.
        """
        try:
            return self._treatment(_plain_name(name)) is HASHED
        except InvalidMetricError:
            return False

    def resolve(self, name: str, value: object) -> Resolved:
        """
        Decide how one dimension is published.

        Args:
            name: Dimension name, at most 255 characters.
            value: Dimension value; its text has at most 1024 characters.

        Returns:
            The value to publish, and whether the raw value was personal.

        Raises:
            InvalidMetricError: CloudWatch would refuse the name or what became of the value, the value has no text, or
                the name looks like personal data.
        """
        return self._resolve(_plain_name(name), value)

    def resolve_all(self, dimensions: Mapping[str, object]) -> tuple[tuple[tuple[str, str], ...], bool]:
        """
        Decide how the dimensions of a record are published.

        Args:
            dimensions: Values by name, at most 30.

        Returns:
            Names and values to publish, sorted by name; and whether any raw value was personal.

        Raises:
            InvalidMetricError: As for `resolve`; there are more than 30 dimensions, or this is not a mapping.
        """
        wire: dict[str, str] = {}
        private = False
        for name, value in _items(dimensions):
            plain = _plain_name(name)
            if plain in wire:
                _refuse(f"dimension {plain!r} is given twice; give it once")
            resolved = self._resolve(plain, value)
            wire[plain] = resolved.value
            private = private or resolved.private
        return tuple(sorted(wire.items())), private

    def __repr__(self) -> str:
        """How many rules, never the key."""
        return f"DimensionPolicy({len(self._rules)} rules, {len(self._detectors)} detectors)"

    def _resolve(self, name: str, value: object) -> Resolved:
        treatment = self._treatment(name)
        text = _checked_text(name, value)
        if treatment is UNCHANGED:
            _check_published(name, text)
            return Resolved(text, private=False)
        if treatment is HASHED:
            return Resolved(self._label(text), private=True)
        resolved = Resolved(text, private=False) if treatment is None else _applied(treatment, name, text)
        if self._finds(resolved.value):
            return Resolved(self._label(text), private=True)
        _check_published(name, resolved.value)
        return resolved


def _treatment_by_name(rules: tuple[Rule, ...], finds: Callable[[str], bool]) -> Callable[[str], Treatment | None]:
    """
    Index rules by name.

    Args:
        rules: What becomes of values; the last rule that covers a name wins.
        finds: The search for personal data.

    Returns:
        A function from a name to what becomes of the values under it, None for a name no rule covers. It raises
        `InvalidMetricError` for a name that cannot be published. It remembers names, which are few and not personal.
    """
    exact, endings = _index(rules)

    @lru_cache(maxsize=REMEMBERED_NAMES)
    def treatment(name: str) -> Treatment | None:
        _check_name(name, finds)
        spelled = spelling(name)
        if spelled in exact:
            return exact[spelled]
        return next((becomes for ending, becomes in endings.items() if spelled.endswith(ending)), None)

    return treatment


def _index(rules: tuple[Rule, ...]) -> tuple[dict[str, Treatment], dict[str, Treatment]]:
    """What becomes of whole names, and of names by their ending, the ending of the last rule first."""
    exact: dict[str, Treatment] = {}
    endings: dict[str, Treatment] = {}
    for rule in reversed(rules):
        for name in rule.names:
            spelled = spelling(name)
            if spelled.endswith(tuple(endings)):
                continue  # a later rule has said it
            exact.setdefault(spelled, rule.becomes)
            if name.startswith("*"):
                endings[spelled] = rule.becomes
    return exact, endings


def _all_of(given: object, kind: type[_Part], setting: str) -> tuple[_Part, ...]:
    """
    A tuple of what is given, if all of it is of one kind; it may be endless, so it is read up to the first that is not.
    """
    made: list[_Part] = []
    try:
        for each in cast("Iterable[_Part]", given):
            if not issubclass(type(each), kind):
                break
            made.append(each)
        else:
            return tuple(made)
    except Exception:  # noqa: BLE001, S110 - user code
        pass
    message = f"{setting} must be a list of {kind.__name__} objects; see docs/dimensions.md"
    raise ConfigurationError(message, setting=setting)


def _compile_all(detectors: Iterable[Detector]) -> None:
    for detector in detectors:
        detector.compile()


def _plain_name(name: object) -> str:
    if type(name) is str:
        return name
    # Not isinstance: that asks the object, which may raise.
    if not issubclass(type(name), str):
        _refuse("a dimension name is not a str; give one, such as 'Endpoint'")
    return str.__str__(cast("str", name))


def _check_name(name: str, finds: Callable[[str], bool]) -> None:
    if not name or name.isspace() or len(name) > limits.NAME_LENGTH:
        _refuse(f"a dimension name has {len(name)} characters; give 1 to {limits.NAME_LENGTH}, not all blank")
    if finds(name):
        _refuse("a dimension name looks like personal data; names are published as they are, give a fixed one")
    if not _is_printable_ascii(name) or name[0] == ":":
        _refuse(f"dimension name {name!a} must be printable ASCII and not start with ':'; rename it")


def _items(dimensions: object) -> tuple[tuple[object, object], ...]:
    """Read a mapping whose methods may be user code; one item more than allowed is enough to know."""
    items: tuple[tuple[object, object], ...] | None = None
    try:
        if isinstance(dimensions, Mapping):
            items = tuple((name, value) for name, value in islice(dimensions.items(), limits.DIMENSIONS + 1))
    except Exception:  # noqa: BLE001 - user code: what it raises may show a value
        items = None
    if items is None:
        _refuse("dimensions cannot be read as a mapping; give a dict of names and values")
    if len(items) > limits.DIMENSIONS:
        _refuse(f"more than {limits.DIMENSIONS} dimensions are given; CloudWatch takes no more, leave some out")
    return items


def _checked_text(name: str, value: object) -> str:
    text = text_of(value)
    if text is None:
        _refuse(f"the value of dimension {name!r} has no usable text; give a str or a number that is not NaN")
    if len(text) > limits.DIMENSION_VALUE_LENGTH:
        most = limits.DIMENSION_VALUE_LENGTH
        _refuse(f"the value of dimension {name!r} has {len(text)} characters; shorten it to {most}")
    if not text or text.isspace():
        _refuse(f"the value of dimension {name!r} is blank; leave the dimension out, or give a word such as 'none'")
    return text


def _applied(treatment: Callable[[str], str | Resolved], name: str, text: str) -> Resolved:
    try:
        made = treatment(text)
        if not isinstance(made, Resolved):
            return Resolved(str.__str__(made), private=made != text)
        if isinstance(made.value, str):
            return Resolved(str.__str__(made.value), private=made.private is not False)
    except Exception:  # noqa: BLE001, S110 - user code: what it raises may show the value
        pass
    message = f"the rule for dimension {name!r} failed or did not return text; correct the rule"
    raise InvalidMetricError(message, field="dimensions")


def _check_published(name: str, text: str) -> None:
    if len(text) > limits.DIMENSION_VALUE_LENGTH or text.isspace() or not text or not _is_printable_ascii(text):
        most = limits.DIMENSION_VALUE_LENGTH
        _refuse(f"the value of dimension {name!r} must be 1 to {most} printable ASCII characters; replace the others")


def _is_printable_ascii(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _refuse(message: str) -> NoReturn:
    raise InvalidMetricError(message, field="dimensions")
