"""
Rules: what becomes of the values of a dimension, chosen by its name.

1. A rule is data: the names it covers, and what their values become.
2. What they become is `HASHED`, `UNCHANGED`, or any function from text to text; the classes below are such functions.
3. A function's result has few possible values whatever it is given, and says whether the value it was given may be
   kept in memory.
"""

from __future__ import annotations

from bisect import bisect_right
from enum import Enum
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from retainwise_metrics.dimensions.text import compact, spelling
from retainwise_metrics.exceptions import ConfigurationError

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable
    from typing import TypeAlias

UNKNOWN: Final = "unknown"
"""Label of a value that is not what the name of its dimension promises, such as a size that is not a number."""

MAX_SEGMENTS: Final = 12
"""Most segments kept of a path; the rest becomes one `*`. Deeper routes than this are rare, deeper scans are not."""

MAX_SEGMENT_LENGTH: Final = 64
"""Longest segment, in characters, that is taken for a word of a route."""


KNOWN_WORDS: Final = ("2fa", "b2b", "b2c", "base64", "ec2", "i18n", "k8s", "mp3", "mp4", "oauth2", "p2p", "s3")
"""Words with a digit that are found in many routes."""

_CLASS_ENDINGS: Final = frozenset(f"{number:02}" for number in range(100)) | {"xx"}


class Resolved(NamedTuple):
    """
    What a dimension value looks like on the wire.

    Attributes:
        value: The text to publish.
        private: The raw value may be personal: it must not be kept, for example as the key of a cache.
    """

    value: str
    private: bool


class Special(Enum):
    """
    What becomes of a value when it is not a function's result.
    """

    HASHED = "one of 256 buckets, such as `bucket-a7`"
    UNCHANGED = "as given, not searched for personal data"

    def __str__(self) -> str:
        """What happens, in words."""
        return self.value


HASHED: Final = Special.HASHED
"""Every value is personal: publish a bucket of it."""

UNCHANGED: Final = Special.UNCHANGED
"""Values are harmless whatever they look like: publish them as given. Also how to lift a default rule."""

if TYPE_CHECKING:
    Treatment: TypeAlias = Special | Callable[[str], str | Resolved]


class Rule:
    """
    What becomes of the values of some dimensions: `Rule("PlanId", "*Coupon", becomes=HASHED)`.
    """

    __slots__ = ("becomes", "names")

    def __init__(self, *names: str, becomes: Treatment) -> None:
        """
        Make a rule.

        Args:
            names: Dimension names. Case and punctuation do not matter: `UserId` covers `user_id` too. A leading `*`
                stands for any beginning, also none: `*Email` covers `Email` and `customer_email`.
            becomes: `HASHED`, `UNCHANGED`, or a function from the raw text to the text to publish, which may return a
                `Resolved` to say more. What a function returns is still searched for personal data.

        Raises:
            ConfigurationError: There is no name, a name has no letter or digit, or `becomes` cannot be called.
        """
        _check_rule(names, becomes)
        self.names = names
        self.becomes = becomes

    def __repr__(self) -> str:
        return f"Rule({', '.join(map(repr, self.names))}, becomes={self.becomes!r})"


def _check_rule(names: tuple[object, ...], becomes: object) -> None:
    if not names or not all(isinstance(name, str) and spelling(name) for name in names):
        message = f"a rule needs dimension names that contain a letter or a digit, not {names!r}"
        raise ConfigurationError(message, setting="rules")
    if not isinstance(becomes, Special) and not callable(becomes):
        message = f"the rule for {names[0]!r} must become HASHED, UNCHANGED or a function, not {becomes!r}"
        raise ConfigurationError(message, setting="rules")


class NumberBuckets:
    """
    Numbers become ranges: `NumberBuckets(edges=(1, 5), unit="MB")` makes `< 1MB`, `1-5MB` and `> 5MB`.

    A number on an edge belongs to the range above it: 1 is `1-5MB`, and 5 is `> 5MB`.
    """

    __slots__ = ("edges", "labels", "unit")

    def __init__(self, *, edges: Iterable[float], unit: str = "") -> None:
        """
        Make the labels.

        Args:
            edges: At least one finite number, ascending.
            unit: What follows the numbers in a label. Without one, thousands are written `K` and millions `M`.

        Raises:
            ConfigurationError: The edges are not ascending finite numbers.
        """
        self.edges = tuple(edges)
        self.unit = unit
        _check_edges(self.edges)
        self.labels = self._labels()

    def __call__(self, text: str) -> Resolved:
        """
        Put a number into its range.

        Args:
            text: A number, with or without the unit; or one of the labels, which stays as it is.

        Returns:
            The label; `unknown` for anything else, NaN included.
        """
        if text in self.labels:
            return Resolved(text, private=False)
        try:
            number = float(text.removesuffix(self.unit))
        except ValueError:
            return Resolved(UNKNOWN, private=True)
        if number != number:  # noqa: PLR0124 - NaN is the number that differs from itself
            return Resolved(UNKNOWN, private=True)
        return Resolved(self.labels[bisect_right(self.edges, number)], private=False)

    def __str__(self) -> str:
        """The labels, as the documentation lists them."""
        return ", ".join(f"`{label}`" for label in self.labels)

    def __repr__(self) -> str:
        return f"NumberBuckets(edges={self.edges!r}, unit={self.unit!r})"

    def _labels(self) -> tuple[str, ...]:
        low, high = self.edges[0], self.edges[-1]
        ranges = (self._range(*pair) for pair in pairwise(self.edges))
        return (f"< {self._range(low)}", *ranges, f"> {self._range(high)}")

    def _range(self, *numbers: float) -> str:
        """Write a label's numbers in the magnitude of the smallest: `100-1000`, then `1K-10K`."""
        scale, letter = _magnitude(numbers[0]) if not self.unit else (1, "")
        return "-".join(f"{compact(repr(number / scale))}{letter}" for number in numbers) + self.unit


def _check_edges(edges: tuple[float, ...]) -> None:
    infinity = float("inf")
    finite = all(isinstance(edge, (int, float)) and -infinity < edge < infinity for edge in edges)
    if not edges or not finite or any(low >= high for low, high in pairwise(edges)):
        message = f"edges must be ascending finite numbers, at least one, not {edges!r}"
        raise ConfigurationError(message, setting="edges")


def _magnitude(number: float) -> tuple[int, str]:
    for scale, letter in ((1_000_000, "M"), (1_000, "K")):
        if number >= scale:
            return scale, letter
    return 1, ""


class StatusClass:
    """
    HTTP status codes become classes: 204 is `2xx`.
    """

    __slots__ = ("otherwise",)

    def __init__(self, *, otherwise: str | None = UNKNOWN) -> None:
        """
        Choose what becomes of the rest.

        Args:
            otherwise: Label of a value that is not 100 to 599. None: it stays as it is.
        """
        self.otherwise = otherwise

    def __call__(self, text: str) -> Resolved:
        """
        Find the class of a status code.

        Args:
            text: A status code, or a class such as `2xx`, which stays as it is.

        Returns:
            The class, or what this was told to do otherwise.
        """
        if len(text) == 3 and text[0] in "12345" and text[1:] in _CLASS_ENDINGS:
            return Resolved(f"{text[0]}xx", private=False)
        if self.otherwise is None:
            return Resolved(text, private=False)
        return Resolved(self.otherwise, private=True)

    def __str__(self) -> str:
        """The labels, as the documentation lists them."""
        rest = f"`{self.otherwise}`" if self.otherwise else "the value itself"
        return f"`1xx` to `5xx` for 100 to 599, otherwise {rest}"

    def __repr__(self) -> str:
        return f"StatusClass(otherwise={self.otherwise!r})"


class PathTemplate:
    """
    URLs and paths become route templates: `https://host/users/42?page=2` is `/users/{id}`.

    A segment stays when it is a word of a route: letters with `. _ ~ : * -` and spaces, a version such as `v1`, a
    placeholder such as `{id}`, `<int:id>` or `:id`, or one of `keep`. Everything else may identify somebody and becomes
    `{id}`: numbers, UUIDs, hashes, tokens, e-mail addresses, whatever contains a digit. A name made of letters
    alone (`/users/jane`) cannot be told from a word: publish the route's template, not the path.
    """

    __slots__ = ("keep",)

    def __init__(self, *, keep: Iterable[str] = ()) -> None:
        """
        Choose words that stay although they contain a digit.

        Args:
            keep: Segments, in addition to `KNOWN_WORDS`.
        """
        self.keep = frozenset(KNOWN_WORDS).union(keep)

    def __call__(self, text: str) -> Resolved:
        """
        Make the template.

        Args:
            text: A path or a URL.

        Returns:
            At most `MAX_SEGMENTS` segments, without scheme, host, query and fragment.
        """
        plain, _, _ = _patterns()
        if plain.fullmatch(text):
            return Resolved(text, private=False)
        segments = _path_of(text).split("/", MAX_SEGMENTS + 1)
        template = "/".join(map(self._segment, segments[: MAX_SEGMENTS + 1]))
        if len(segments) > MAX_SEGMENTS + 1:
            template += "/*"
        return Resolved(template, private=template != text)

    def __str__(self) -> str:
        """What it does, as the documentation says it."""
        return "the route's template: `/users/42?page=2` is `/users/{id}`"

    def __repr__(self) -> str:
        return f"PathTemplate(keep={sorted(self.keep - frozenset(KNOWN_WORDS))!r})"

    def _segment(self, segment: str) -> str:
        return segment if segment in self.keep or _is_route_word(segment) else "{id}"


def _path_of(url: str) -> str:
    path = url
    for query in "?#;":
        path = path.partition(query)[0]
    _, has_host, rest = path.partition("://")
    if has_host:
        path = "/" + rest.partition("/")[2]
    return path or "/"


def _is_route_word(segment: str) -> bool:
    _, word, case_change = _patterns()
    if len(segment) > MAX_SEGMENT_LENGTH or not word.fullmatch(segment):
        return False
    # Random letters change case every other time, words written together (`getPredictions`) once in four or more.
    return len(segment) < 16 or len(case_change.findall(segment)) <= 0.3 * len(segment)


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """A short path of plain words, a segment that is a word, and a change of case."""
    import re

    version = r"[vV][0-9]{1,3}(?:(?:\.[0-9]{1,3}){0,2}|(?:alpha|beta)[0-9]{0,2})"
    placeholder = r"\{[A-Za-z_][^{}@]*\}|<[A-Za-z_][^<>@]*>"
    return (
        re.compile(r"[A-Za-z/_.-]{1,15}"),
        re.compile(rf"{version}|(?:[A-Za-z ._~:*-]|{placeholder})*"),
        re.compile(r"[a-z](?=[A-Z])|[A-Z](?=[a-z])"),
    )
