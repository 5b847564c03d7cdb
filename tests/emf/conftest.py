"""A logger on a clock and a timer that move only when told to, and what CloudWatch would make of its output."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from retainwise_metrics.emf import MetricsLogger
from retainwise_metrics.testing.emf_reader import EmfReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NOON = 1_800_000_000.0
"""When tests begin; a full minute."""

SCHEMA = jsonschema.Draft202012Validator(json.loads((Path(__file__).parent / "emf_schema.json").read_text("utf-8")))


class Time:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.seconds = NOON

    def __call__(self) -> float:
        """Now."""
        return self.seconds


class Timer:
    """What `threading.Timer` makes, without a thread."""

    def __init__(self, seconds: float, function: Callable[[], None]) -> None:
        self.seconds = seconds
        self.fire = function
        self.daemon = False
        self.started = False
        self.cancelled = False

    def start(self) -> None:
        """Note it."""
        self.started = True

    def cancel(self) -> None:
        """Note it."""
        self.cancelled = True


class Context:
    """A Lambda context with the members the logger looks at."""

    function_name = "billing"
    aws_request_id = "8f0e"

    def __init__(self, remaining_ms: float = 3000) -> None:
        self.remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self) -> float:
        """What is left of the time limit."""
        return self.remaining_ms


@pytest.fixture
def clock() -> Time:
    """A clock that stands still."""
    return Time()


@pytest.fixture
def timers() -> list[Timer]:
    """The timers that were made."""
    return []


@pytest.fixture
def stream() -> io.StringIO:
    """Where the logger writes."""
    return io.StringIO()


@pytest.fixture
def make_logger(clock: Time, timers: list[Timer], stream: io.StringIO) -> Callable[..., MetricsLogger]:
    """Make a logger of the namespace "Tests", with any options."""

    def timer(seconds: float, function: Callable[[], None]) -> Timer:
        timers.append(Timer(seconds, function))
        return timers[-1]

    def make(default_dimensions: dict[str, Any] | None = None, **options: Any) -> MetricsLogger:
        settings = {"stream": stream, "clock": clock, "monotonic": clock, "timer": timer, **options}
        return MetricsLogger("Tests", default_dimensions, **settings)

    return make


@pytest.fixture
def logger(make_logger: Callable[..., MetricsLogger]) -> MetricsLogger:
    """A logger without default dimensions."""
    return make_logger()


@pytest.fixture
def read() -> Callable[..., EmfReader]:
    """Read output as CloudWatch does, strictly, after comparing each document with the published schema."""

    def read_output(output: str | bytes | Iterable[bytes], *, max_bytes: int = 256 * 1024) -> EmfReader:
        reader = EmfReader(now=lambda: NOON, max_bytes=max_bytes).read(output)
        for document in reader.documents:
            SCHEMA.validate(document)
        return reader

    return read_output
