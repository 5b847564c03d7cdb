"""The process-wide client: one for everybody, made at first use, replaceable."""

from __future__ import annotations

import inspect
import threading
from typing import TYPE_CHECKING, Any

import pytest

import retainwise_metrics
from retainwise_metrics import (
    CloudWatchMetrics,
    ConfigurationError,
    DropReason,
    MetricNamespace,
    MetricUnit,
    get_metrics_client,
    increment_counter,
    put_metric,
    record_time,
    reset_metrics_client,
    set_metrics_client,
)
from tests.helpers import NAMESPACE, assert_balanced

if TYPE_CHECKING:
    from collections.abc import Callable

    from retainwise_metrics.testing import InMemorySink, ManualRuntime

SHORTHANDS = ("put_metric", "increment_counter", "record_time")


@pytest.fixture
def installed(client: CloudWatchMetrics) -> CloudWatchMetrics:
    """A client on the manual runtime in the place of the process-wide one."""
    set_metrics_client(client)
    return client


def test_everybody_gets_the_same_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads ask for it first."""
    monkeypatch.setenv("ENVIRONMENT", "production")
    for _ in range(20):
        reset_metrics_client()
        together = threading.Barrier(8)
        got: list[CloudWatchMetrics] = []

        def ask(together: threading.Barrier = together, got: list[CloudWatchMetrics] = got) -> None:
            together.wait(10)
            got.append(get_metrics_client())

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(got) == 8
        assert len(set(map(id, got))) == 1
        assert get_metrics_client() is got[0]


def test_it_is_made_from_the_environment_and_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for it costs no thread; in a test environment it is disabled."""
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("RETAINWISE_METRICS_BATCH_SIZE", "33")
    client = get_metrics_client()
    assert client.config.batch_size == 33
    assert client.config.enabled
    assert not client.stats().running
    reset_metrics_client()
    monkeypatch.setenv("ENVIRONMENT", "test")
    assert not get_metrics_client().config.enabled
    assert put_metric("M", 1) is False


def test_a_wrong_setting_is_named_at_the_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """And when it is corrected, the next use works."""
    monkeypatch.setenv("RETAINWISE_METRICS_BATCH_SIZE", "many")
    with pytest.raises(ConfigurationError, match="RETAINWISE_METRICS_BATCH_SIZE is 'many'"):
        get_metrics_client()
    monkeypatch.setenv("RETAINWISE_METRICS_BATCH_SIZE", "20")
    assert isinstance(get_metrics_client(), CloudWatchMetrics)


def test_another_client_can_be_put_in_its_place(make_client: Callable[..., CloudWatchMetrics]) -> None:
    """The previous one is returned and goes on working."""
    first, second = make_client(), make_client()
    set_metrics_client(first)
    first.put_metric("M", 1)
    assert set_metrics_client(second) is first
    assert get_metrics_client() is second
    assert not first.stopped
    assert set_metrics_client(None) is second
    assert first.flush().delivered == 1


def test_a_reset_delivers_and_stops_it(installed: CloudWatchMetrics, sink: InMemorySink) -> None:
    """The next use makes a new one; a second reset does nothing."""
    put_metric("M", 1)
    reset_metrics_client()
    assert sink.values(NAMESPACE, "M") == {1: 1}
    assert installed.stopped
    assert installed.put_metric("M", 1) is False
    assert installed.stats().dropped == {DropReason.STOPPED: 1}
    assert get_metrics_client() is not installed
    reset_metrics_client()
    reset_metrics_client()


def test_the_shorthands_record_on_it(installed: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime) -> None:
    """With every option that the client's methods have."""
    options: dict[str, Any] = {
        "namespace": MetricNamespace.API,
        "dimensions": {"A": "x"},
        "timestamp": runtime.wall() - 120,
        "storage_resolution": 1,
    }
    assert put_metric("P", 2.5, MetricUnit.BYTES, **options)
    assert increment_counter("I", value=3, **options)
    assert record_time("T", 0.5, **options)
    assert put_metric("Plain", 1)
    assert increment_counter("Plain")
    assert record_time("Plain", 1)
    assert installed.flush()
    assert sink.values("RetainWise/API", "P", {"A": "x"}) == {2.5: 1}
    assert sink.values("RetainWise/API", "I", {"A": "x"}) == {3: 1}
    assert sink.values("RetainWise/API", "T", {"A": "x"}) == {0.5: 1}
    assert sink.values(NAMESPACE, "Plain") == {1: 3}
    found = {datum.series.name: (datum.series.unit, datum.series.resolution) for datum in sink.datums}
    assert found["P"] == ("Bytes", 1)
    assert found["I"] == ("Count", 1)
    assert found["T"] == ("Seconds", 1)
    assert {datum.timestamp for datum in sink.datums if datum.series.resolution == 1} == {int(runtime.wall()) - 120}
    assert_balanced(installed)


@pytest.mark.parametrize("name", SHORTHANDS)
def test_a_shorthand_refuses_what_the_client_refuses(installed: CloudWatchMetrics, name: str) -> None:
    """It returns False and the client has counted it."""
    shorthand = getattr(retainwise_metrics, name)
    arguments = {"increment_counter": ("M",)}.get(name, ("M", 1))
    assert shorthand(*arguments, namespace="AWS/EC2") is False
    assert shorthand(*arguments, dimensions={"A": ""}) is False
    assert installed.stats().dropped == {DropReason.INVALID_NAMESPACE: 1, DropReason.INVALID_DIMENSIONS: 1}


@pytest.mark.parametrize("name", SHORTHANDS)
def test_a_shorthand_has_the_signature_of_the_method(name: str) -> None:
    """Names, kinds, defaults and annotations."""
    method = inspect.signature(getattr(CloudWatchMetrics, name))
    without_self = list(method.parameters.values())[1:]
    shorthand = inspect.signature(getattr(retainwise_metrics, name))
    assert list(shorthand.parameters.values()) == without_self
    assert shorthand.return_annotation == method.return_annotation


def test_a_shorthand_never_raises_even_when_a_setting_is_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A malformed variable makes the shorthands record nothing and is explained once; asking for the client says what is wrong."""
    set_metrics_client(None)
    monkeypatch.setenv("RETAINWISE_METRICS_BATCH_SIZE", "many")
    assert [retainwise_metrics.put_metric("M", 1) for _ in range(3)] == [False] * 3
    assert [line.message for line in caplog.records if "BATCH_SIZE" in line.message] == [caplog.records[0].message]
    with pytest.raises(ConfigurationError, match="BATCH_SIZE"):
        get_metrics_client()
