"""
Clients that deliver to a fake CloudWatch over real sockets, on real threads that take turns as often as they can.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics import CloudWatchMetrics, MetricsConfig
from retainwise_metrics.testing import FakeCloudWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SWITCH_SECONDS = 1e-5
"""How long a thread may keep the interpreter: 500 times less than usual."""


@pytest.fixture
def cloudwatch() -> Iterator[FakeCloudWatch]:
    """A fake CloudWatch on a port of its own."""
    with FakeCloudWatch() as server:
        yield server


@pytest.fixture
def connect(cloudwatch: FakeCloudWatch, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., CloudWatchMetrics]]:
    """Make clients of the fake that flush when they are told to; each is stopped at the end."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    clients: list[CloudWatchMetrics] = []

    def make(**settings: object) -> CloudWatchMetrics:
        defaults = {"region": "us-east-1", "catalogue": (), "flush_interval_seconds": 3600.0}
        config = MetricsConfig(endpoint_url=cloudwatch.endpoint_url, **{**defaults, **settings})
        clients.append(CloudWatchMetrics(config))
        return clients[-1]

    yield make
    for client in clients:
        client.stop(5.0)


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads that are interrupted all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    yield
    sys.setswitchinterval(before)
