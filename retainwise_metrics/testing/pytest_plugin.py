"""
Fixtures for the tests of code that records metrics.

    def test_an_upload_is_counted(metrics):
        upload(b"customer,churn")
        metrics.assert_recorded("UploadSuccess", count=1, dimensions={"Endpoint": "/upload"})

Loading the plugin loads nothing else: each run of pytest pays for it, whether it tests metrics or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retainwise_metrics import MetricsConfig
    from retainwise_metrics.testing.capture import CapturingMetrics
    from retainwise_metrics.testing.fake_cloudwatch import FakeCloudWatch
    from retainwise_metrics.testing.manual_runtime import ManualRuntime

STOP_SECONDS = 5.0
"""Longest time that delivery to the fake may take when a test ends."""


@pytest.fixture
def metrics(metrics_config: MetricsConfig, metrics_runtime: ManualRuntime) -> Iterator[CapturingMetrics]:
    """
    What the code under test records: an isolated client in the place of the process-wide one, strict, without thread and network.

    Ask it with `assert_recorded`, `assert_not_recorded` and `values`.
    """
    from retainwise_metrics.testing.capture import captured_metrics

    with captured_metrics(metrics_config, runtime=metrics_runtime) as client:
        yield client


@pytest.fixture
def metrics_config() -> MetricsConfig:
    """
    Settings of `metrics`: override this fixture to change them, for example for dimension rules or a catalogue of your own.
    """
    from retainwise_metrics import MetricsConfig

    return MetricsConfig(strict=True)


@pytest.fixture
def metrics_runtime() -> ManualRuntime:
    """
    The clock of `metrics`: `metrics_runtime.advance(60)` lets a minute pass, with all that is due in it.
    """
    from retainwise_metrics.testing.capture import CaptureRuntime

    return CaptureRuntime()


@pytest.fixture
def fake_cloudwatch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCloudWatch]:
    """
    A CloudWatch on this machine that refuses what AWS refuses; the environment points at it, and so does a new process-wide client.

    In a test that also has `metrics`, the process-wide client is that.
    """
    from retainwise_metrics import set_metrics_client
    from retainwise_metrics.testing.fake_cloudwatch import FakeCloudWatch

    with FakeCloudWatch() as server:
        _point_at(server.endpoint_url, monkeypatch)
        if "metrics" in request.fixturenames:
            yield server
            return
        previous = set_metrics_client(None)
        yield server
        made = set_metrics_client(previous)
        if made is not None and made is not previous:
            made.stop(STOP_SECONDS)


def _point_at(endpoint_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Make the environment lead every client of this library, and boto3's for CloudWatch, to the fake.
    """
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "RETAINWISE_METRICS_ENABLED": "true",
        "RETAINWISE_METRICS_FORCE": "true",
        "RETAINWISE_METRICS_SINK": "cloudwatch",
        "RETAINWISE_METRICS_REGION": "us-east-1",
        "RETAINWISE_METRICS_ENDPOINT_URL": endpoint_url,
        "AWS_ENDPOINT_URL_CLOUDWATCH": endpoint_url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1", prepend=",")
