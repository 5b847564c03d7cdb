"""
Personal data: how it is found in a dimension value, and what is published in its place.

1. What is published is one of 256 labels. Many people share a label, so a label says nothing about one of them.
2. The same value and key give the same label, in every process and on every machine.
3. A search takes time proportional to the length of the text: no pattern can match the same piece of text in two ways.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from retainwise_metrics.exceptions import ConfigurationError

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable

PUBLIC_KEY: Final = "retainwise-metrics"
"""The key used when none is given: known to everybody, so anybody can compute which label a value gets."""

KEY_ID_LENGTH: Final = 8
"""Longest key id, in characters: short enough that a piece of a secret is not taken for one."""

_LONGEST_BLAKE2_KEY: Final = 64


class Pseudonyms:
    """
    Turns personal values into one of 256 labels, with a secret key.

    The label is `bucket-a7`, or `k2-a7` when the key is given as `k2:secret`.
    """

    __slots__ = ("_prefix", "_secret")

    def __init__(self, key: str | None = None) -> None:
        """
        Take the key.

        Args:
            key: A secret, or a key id and a secret as `id:secret`. The id is a letter and up to 7 lower-case letters or
                digits. It is published, so that series made with another key are never taken for the same.
                None: `PUBLIC_KEY`.

        Raises:
            ConfigurationError: The key is empty or its id malformed. The message does not contain the key.
        """
        self._prefix, secret = _parse_key(PUBLIC_KEY if key is None else key)
        self._secret = _shortened(secret.encode("utf-8", "surrogatepass"))

    def label(self, text: str) -> str:
        """
        Find the label of a personal value.

        Args:
            text: The raw value. An e-mail address is the same in upper and lower case and between spaces; everything
                else is taken as it is, because identifiers may differ in case alone.

        Returns:
            The key id or `bucket`, a dash and two hexadecimal digits.
        """
        from hashlib import blake2b

        same = text.strip().casefold() if "@" in text else text
        return (
            self._prefix + blake2b(same.encode("utf-8", "surrogatepass"), key=self._secret, digest_size=1).hexdigest()
        )

    def __repr__(self) -> str:
        """Which key, never the key."""
        return f"Pseudonyms({self._prefix}00 to {self._prefix}ff)"


def _parse_key(key: object) -> tuple[str, str]:
    """Split a key into the prefix of its labels and the secret."""
    if not issubclass(type(key), str):
        message = "pii_key must be a str, such as 'k2:' and a long random secret"
        raise ConfigurationError(message, setting="pii_key")
    key = str.__str__(cast("str", key))
    key_id, has_id, secret = key.partition(":")
    if not has_id:
        key_id, secret = "bucket", key
    if not secret.strip():
        message = "pii_key has no secret: give a long random one, such as the output of `openssl rand -hex 32`"
        raise ConfigurationError(message, setting="pii_key")
    if has_id and (not _is_key_id(key_id) or key_id == "bucket"):
        message = (
            f"pii_key contains a colon, but not after a key id of 1 to {KEY_ID_LENGTH} lower-case letters and digits that "
            "starts with a letter and is not `bucket`; write `k1:` before the secret"
        )
        raise ConfigurationError(message, setting="pii_key")
    return f"{key_id}-", secret


def _is_key_id(text: str) -> bool:
    plain = text.isascii() and text.isalnum() and text == text.lower()
    return plain and len(text) <= KEY_ID_LENGTH and text[0].isalpha()


def _shortened(secret: bytes) -> bytes:
    """BLAKE2b takes keys of at most 64 bytes; a longer one is hashed first, as HMAC does."""
    if len(secret) <= _LONGEST_BLAKE2_KEY:
        return secret
    from hashlib import blake2b

    return blake2b(secret).digest()


class Detector:
    """
    One kind of personal data and the pattern it is found by, anywhere in a text.
    """

    __slots__ = ("_compiled", "at_least", "confirm", "name", "needs", "pattern")

    def __init__(
        self,
        name: str,
        pattern: str,
        *,
        needs: str = "",
        at_least: int = 1,
        confirm: Callable[[str], bool] | None = None,
    ) -> None:
        """
        Describe a kind of personal data.

        Args:
            name: What it is called, for the documentation.
            pattern: A regular expression, searched for. Texts have up to 1024 characters and come from outside: write
                it so that it cannot match the same piece of text in two ways, or a search may take for ever.
            needs: A substring without which the pattern cannot match; it spares most searches.
            at_least: Length of the shortest match, in characters; it spares most searches too.
            confirm: Has the last word on a match, for what a pattern cannot say, such as a checksum.
        """
        self.name = name
        self.pattern = pattern
        self.needs = needs
        self.at_least = at_least
        self.confirm = confirm
        self._compiled: re.Pattern[str] | None = None

    def compile(self) -> re.Pattern[str]:
        """
        Compile the pattern, at first use: the default patterns would take milliseconds of the import otherwise.

        Returns:
            The compiled pattern.

        Raises:
            ConfigurationError: It is not a regular expression.
        """
        if self._compiled is None:
            import re

            try:
                self._compiled = re.compile(self.pattern)
            except (re.error, TypeError) as error:
                message = f"the pattern of detector {self.name!r} is not a regular expression: {error}"
                raise ConfigurationError(message, setting="detectors") from error
        return self._compiled

    def matches(self, text: str) -> bool:
        """
        Search one text.

        Args:
            text: Any text.

        Returns:
            True when it contains this kind of personal data.
        """
        pattern = self._compiled or self.compile()
        if self.confirm is None:
            return pattern.search(text) is not None
        return any(self.confirm(match.group()) for match in pattern.finditer(text))

    def __repr__(self) -> str:
        return f"Detector({self.name!r})"


class Scanner:
    """
    Searches texts with several detectors; a plain word costs a fraction of a microsecond.
    """

    __slots__ = ("_rows",)

    def __init__(self, detectors: Iterable[Detector]) -> None:
        """
        Take the detectors.

        Args:
            detectors: In any order.
        """
        # The shortest first, so that a search ends at the first detector the text is too short for.
        by_length = sorted(detectors, key=lambda detector: detector.at_least)
        self._rows = tuple((detector.at_least, detector.needs, detector.matches) for detector in by_length)

    def finds(self, text: str) -> bool:
        """
        Search one text, and once more without percent-encoding if it has some.

        Args:
            text: Any text.

        Returns:
            True when it contains personal data of any kind. A detector that fails has found some: what could not be
            searched must not be published.
        """
        try:
            return self._search(text) or ("%" in text and self._search(_decoded(text)))
        except Exception:  # noqa: BLE001 - `confirm` may be user code
            return True

    def _search(self, text: str) -> bool:
        length = len(text)
        for at_least, needs, matches in self._rows:
            if length < at_least:
                break
            if needs in text and matches(text):
                return True
        return False


def _decoded(text: str) -> str:
    from urllib.parse import unquote

    return unquote(text)


def is_card_number(digits: str) -> bool:
    """
    Tell whether digits can be the number of a payment card.

    Args:
        digits: Digits only.

    Returns:
        True for 13 to 19 digits with a valid check digit (Luhn, ISO/IEC 7812-1) that start with 2 to 6, where the card
        networks are. Time stamps start with 1.
    """
    if not 13 <= len(digits) <= 19 or digits[0] not in "23456":
        return False
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def contains_card_number(run: str) -> bool:
    """
    Tell whether neighbouring groups of digits are a card number; the first or the last groups may be something else.

    Args:
        run: Groups of digits, separated by single spaces or dashes.

    Returns:
        True when some of the groups, joined, are a card number.
    """
    groups = run.replace("-", " ").split(" ")
    return any(
        is_card_number("".join(groups[first:last]))
        for first in range(len(groups))
        for last in range(first + 1, min(first + 7, len(groups) + 1))
    )
