"""
Log lines about trouble: at most one a minute per subject, with what happened in between counted.

Only the flusher's thread (or whoever does its work) writes them: a caller that records never logs.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

INTERVAL_SECONDS = 60.0
"""Least time between two lines about one subject."""

LOGGER_NAME = "retainwise_metrics"


def logger() -> logging.Logger:
    """
    The library's one logger. `logging` is imported at the first line written, not with the package: it costs as much as the rest.
    """
    import logging

    return logging.getLogger(LOGGER_NAME)


def say(message: str, *, with_traceback: bool = False) -> None:
    """
    Write one line at WARNING; with the traceback of the exception being handled, at ERROR.

    Log handlers and filters are the application's: what they raise must reach neither a caller nor the flusher.
    """
    with suppress(Exception):
        if with_traceback:
            logger().exception("%s", message)
        else:
            logger().warning("%s", message)


class Reporter:
    """
    A bounded voice.

    Args:
        monotonic: Reads the monotonic clock, seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._next: dict[str, float] = {}
        self._silenced: dict[str, int] = {}

    def warn(self, subject: str, message: str, count: int = 1) -> None:
        """
        Say something about a subject, unless something was said about it within the last minute.

        Args:
            subject: What the line is about; each has its own minute.
            message: The whole line; never contains a raw dimension value.
            count: How many events the line stands for; added up while it is silenced.
        """
        now = self._monotonic()
        total = self._silenced.pop(subject, 0) + count
        if now < self._next.get(subject, float("-inf")):
            self._silenced[subject] = total
            return
        self._next[subject] = now + INTERVAL_SECONDS
        repeated = f" ({total} times since the last such line)" if total > 1 else ""
        say(f"{message}{repeated}")

    def failure(self, subject: str, message: str) -> None:
        """
        Like `warn`, with the traceback of the exception being handled.
        """
        now = self._monotonic()
        if now >= self._next.get(subject, float("-inf")):
            self._next[subject] = now + INTERVAL_SECONDS
            say(message, with_traceback=True)
