"""What every test may use: a client on a clock that stands still, and a guard against leaking the process-wide one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from retainwise_metrics import CloudWatchMetrics, MetricsConfig, reset_metrics_client
from retainwise_metrics.testing import InMemorySink, ManualRuntime

# No deadlines: how long an example takes says more about the machine than about the code. Continuous integration tries the same examples
# every time, so that a change fails for what it changed; everybody else's runs go on looking for new ones.
settings.register_profile("exploring", deadline=None)
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable" if os.environ.get("CI") else "exploring")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def _no_leftover_default_client() -> Iterator[None]:
    """Whatever a test did with the process-wide client ends with the test."""
    yield
    reset_metrics_client(timeout=1.0)


@pytest.fixture
def runtime() -> ManualRuntime:
    """A runtime that moves only when told to."""
    return ManualRuntime()


@pytest.fixture
def sink() -> InMemorySink:
    """A sink that keeps what it is sent."""
    return InMemorySink()


@pytest.fixture
def make_client(runtime: ManualRuntime, sink: InMemorySink) -> Callable[..., CloudWatchMetrics]:
    """Make a client on the manual runtime and the in-memory sink, with any settings."""

    def make(**settings: object) -> CloudWatchMetrics:
        return CloudWatchMetrics(MetricsConfig(**settings), sink=sink, runtime=runtime)

    return make


@pytest.fixture
def client(make_client: Callable[..., CloudWatchMetrics]) -> CloudWatchMetrics:
    """A client with default settings on the manual runtime and the in-memory sink."""
    return make_client()
