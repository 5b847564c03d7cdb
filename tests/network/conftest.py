"""
A fake CloudWatch behind a network that can be broken, and clients that reach it only through that network.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from retainwise_metrics import CloudWatchMetrics, MetricsConfig
from retainwise_metrics.testing import FakeCloudWatch, ManualRuntime
from tests.network.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials that sign and mean nothing, and none of whoever runs the tests."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def runtime() -> ManualRuntime:
    """A clock that is moved by hand, starting now: the signatures are made with the system's."""
    return ManualRuntime(wall=time.time() // 60 * 60)


@pytest.fixture
def cloudwatch(runtime: ManualRuntime) -> Iterator[FakeCloudWatch]:
    """A CloudWatch on the same clock."""
    with FakeCloudWatch(now=runtime.wall) as server:
        yield server


@pytest.fixture
def proxy(cloudwatch: FakeCloudWatch) -> Iterator[Proxy]:
    """The network in front of it."""
    with Proxy(int(cloudwatch.endpoint_url.rpartition(":")[2])) as between:
        yield between


@pytest.fixture
def connect(proxy: Proxy, runtime: ManualRuntime) -> Iterator[Callable[..., CloudWatchMetrics]]:
    """Make clients on the manual clock, or on real threads if they are given None for a runtime."""
    clients: list[CloudWatchMetrics] = []

    def make(runtime: ManualRuntime | None = runtime, **settings: Any) -> CloudWatchMetrics:
        usual = {"endpoint_url": proxy.url, "region": "us-east-1", "catalogue": (), "failure_threshold": 3}
        clients.append(CloudWatchMetrics(MetricsConfig(**{**usual, **settings}), runtime=runtime))
        return clients[-1]

    yield make
    for client in clients:
        client.force_open()
        client.stop(5.0)
