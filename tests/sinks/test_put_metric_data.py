"""Every way a call can end, over real HTTP with real boto3, and what it means for the batch and the breaker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import boto3.session
import pytest
from botocore import exceptions as boto

from retainwise_metrics import BreakerState, CloudWatchMetrics, DropReason, MetricsConfig
from retainwise_metrics.datum import Batch, Datum, Series
from retainwise_metrics.sinks.base import (
    SinkError,
    SinkForbidden,
    SinkRejected,
    SinkThrottled,
    SinkTooLarge,
    SinkUnavailable,
)
from retainwise_metrics.sinks.put_metric_data import Connection, PutMetricDataSink, boto3_client, translate
from retainwise_metrics.testing import FakeCloudWatch, ManualRuntime
from tests.helpers import assert_balanced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NS = "RetainWise/Test"


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that sign and mean nothing."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def cloudwatch() -> Iterator[FakeCloudWatch]:
    """A CloudWatch that refuses what AWS refuses."""
    with FakeCloudWatch() as server:
        yield server


@pytest.fixture
def sink(cloudwatch: FakeCloudWatch) -> Iterator[PutMetricDataSink]:
    """A sink that talks to it and gives up early."""
    made = PutMetricDataSink(Connection("us-east-1", cloudwatch.endpoint_url, 2.0, 0.5))
    yield made
    made.close()


def batch_of(*values: float, name: str = "M") -> Batch:
    """One datum per value, a minute old."""
    now = int(time.time()) // 60 * 60 - 60
    datums = tuple(
        Datum(Series(NS, f"{name}{index}", (("Kind", "a"),), "Count", 60), now, (value,), (1,), 1)
        for index, value in enumerate(values)
    )
    return Batch(NS, datums, 0)


def outcome(sink: PutMetricDataSink, batch: Batch) -> SinkError | None:
    """What a send raised, or None."""
    try:
        sink.send(batch)
    except SinkError as error:
        return error
    return None


def test_an_accepted_batch_is_there_as_numbers(sink: PutMetricDataSink, cloudwatch: FakeCloudWatch) -> None:
    """What was sent can be read back, series by series."""
    sink.send(batch_of(1.0, 2.5))
    assert cloudwatch.sum(NS, "M1", {"Kind": "a"}) == 2.5
    (call,) = cloudwatch.calls
    assert "retainwise-metrics" in call.headers["user-agent"]


FAULTS: list[tuple[str, Callable[[FakeCloudWatch], Any], type[SinkError]]] = [
    ("throttled", lambda c: c.faults.throttle(), SinkThrottled),
    ("throttled, other spelling", lambda c: c.faults.throttle(code="ThrottlingException"), SinkThrottled),
    ("429", lambda c: c.faults.fail(429), SinkThrottled),
    ("500", lambda c: c.faults.fail(500), SinkUnavailable),
    ("502", lambda c: c.faults.fail(502), SinkUnavailable),
    ("503", lambda c: c.faults.fail(503), SinkUnavailable),
    ("408", lambda c: c.faults.fail(408), SinkUnavailable),
    ("413", lambda c: c.faults.fail(413), SinkTooLarge),
    ("a captive portal's 200", lambda c: c.faults.html(200), SinkUnavailable),
    ("an HTML 403", lambda c: c.faults.html(403), SinkUnavailable),
    ("a hanging endpoint", lambda c: c.faults.hang(), SinkUnavailable),
    ("a cut connection", lambda c: c.faults.cut(), SinkUnavailable),
    ("refused connections", lambda c: c.faults.refuse_connections(), SinkUnavailable),
    ("denied", lambda c: c.faults.deny(), SinkForbidden),
    ("an unknown key id", lambda c: c.faults.deny("InvalidClientTokenId"), SinkForbidden),
    ("a wrong signature", lambda c: c.faults.deny("SignatureDoesNotMatch"), SinkForbidden),
    ("an expired token", lambda c: c.faults.deny("ExpiredToken"), SinkUnavailable),
    ("a wrong clock", lambda c: c.faults.deny("RequestExpired"), SinkUnavailable),
    ("poison, named", lambda c: c.faults.poison(lambda _: True), SinkRejected),
    ("poison, not named", lambda c: c.faults.poison(lambda _: True, name_member=False), SinkRejected),
]


@pytest.mark.parametrize(("fault", "expected"), [pytest.param(f, e, id=name) for name, f, e in FAULTS])
def test_each_fault_becomes_exactly_one_kind_of_error(
    sink: PutMetricDataSink,
    cloudwatch: FakeCloudWatch,
    fault: Callable[[FakeCloudWatch], Any],
    expected: type[SinkError],
) -> None:
    """What the pipeline does follows from the class, so each fault must have the right one; and it passes when the fault does."""
    fault(cloudwatch)
    assert type(outcome(sink, batch_of(1.0, 2.0))) is expected
    cloudwatch.faults.clear()
    cloudwatch.faults.accept_connections()
    cloudwatch.faults.release()
    assert outcome(sink, batch_of(1.0)) is None


def test_rejected_members_are_the_ones_aws_names(sink: PutMetricDataSink, cloudwatch: FakeCloudWatch) -> None:
    """All of them, counted from zero, and no value in the message."""
    error = outcome(sink, batch_of(1.0, float("inf"), 3.0, 2.0**361))
    assert isinstance(error, SinkRejected)
    assert error.members == (1, 3)
    assert cloudwatch.total_count() == 0


@pytest.mark.parametrize("seconds", [3.0, 120.0])
def test_the_time_the_server_asks_for_is_read(
    sink: PutMetricDataSink, cloudwatch: FakeCloudWatch, seconds: float
) -> None:
    """From the header, in seconds."""
    cloudwatch.faults.throttle(retry_after_seconds=seconds)
    error = outcome(sink, batch_of(1.0))
    assert isinstance(error, SinkThrottled)
    assert error.retry_after_seconds == pytest.approx(seconds)


def test_one_send_is_one_attempt(sink: PutMetricDataSink, cloudwatch: FakeCloudWatch) -> None:
    """There are no retries by botocore behind the breaker's back."""
    cloudwatch.faults.fail(503)
    outcome(sink, batch_of(1.0))
    assert len(cloudwatch.calls) == 1


class NotingRuntime(ManualRuntime):
    """Counts how often other threads are let run."""

    pauses = 0

    def pause(self) -> None:
        self.pauses += 1


def test_other_threads_get_a_turn_while_many_values_are_batched_and_serialised(cloudwatch: FakeCloudWatch) -> None:
    """Every call pauses before it is compressed, is signed and leaves; one of 20 times 150 values also after every few hundred, twice."""
    runtime = NotingRuntime(wall=time.time())
    client = _client_of(cloudwatch, runtime)
    pauses = []
    for distinct in (1, 1, 150):
        for series in range(20):
            for value in range(distinct):
                client.put_metric("M", value / 7, dimensions={"Series": f"s{series}"})
        before = runtime.pauses
        assert client.flush(60).delivered == 20 * distinct
        pauses.append(runtime.pauses - before)
    assert len(cloudwatch.accepted_calls) == 3
    assert pauses[2] - pauses[1] >= 3000 // 600 + 3000 // 300 - 2
    assert_balanced(client)
    before = runtime.pauses
    assert client.put_metric_sync("M", 1)
    assert runtime.pauses - before == 3


def test_nobody_gets_a_turn_any_more_when_the_client_is_being_stopped(cloudwatch: FakeCloudWatch) -> None:
    """Beside threads in tight loops each pause takes 5 ms of each of them, and `stop` has a deadline."""
    runtime = NotingRuntime(wall=time.time())
    client = _client_of(cloudwatch, runtime)
    for series in range(40):
        for value in range(150):
            client.put_metric("M", value / 7, dimensions={"Series": f"s{series}"})
    before = runtime.pauses
    assert client.stop(60).delivered == 40 * 150
    assert len(cloudwatch.accepted_calls) == 2
    assert runtime.pauses == before


def _client_of(cloudwatch: FakeCloudWatch, runtime: ManualRuntime) -> CloudWatchMetrics:
    config = MetricsConfig(
        region="us-east-1", endpoint_url=cloudwatch.endpoint_url, catalogue=(), flush_interval_seconds=3600
    )
    return CloudWatchMetrics(config, runtime=runtime)


def test_a_large_request_is_compressed_and_arrives(sink: PutMetricDataSink, cloudwatch: FakeCloudWatch) -> None:
    """Above ten kilobytes boto3 sends gzip; the fake, like AWS, takes it."""
    sink.send(batch_of(*[float(index) for index in range(500)]))
    assert cloudwatch.calls[0].compressed
    assert cloudwatch.total_count() == 500


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (boto.NoCredentialsError(), SinkForbidden),
        (boto.PartialCredentialsError(provider="env", cred_var="x"), SinkForbidden),
        (boto.CredentialRetrievalError(provider="iam", error_msg="x"), SinkForbidden),
        (boto.EndpointConnectionError(endpoint_url="http://x"), SinkUnavailable),
        (boto.ConnectTimeoutError(endpoint_url="http://x"), SinkUnavailable),
        (boto.ReadTimeoutError(endpoint_url="http://x"), SinkUnavailable),
        (boto.SSLError(endpoint_url="http://x", error="x"), SinkUnavailable),
        (boto.ProxyConnectionError(proxy_url="http://x"), SinkUnavailable),
        (boto.ConnectionClosedError(endpoint_url="http://x"), SinkUnavailable),
        (boto.ResponseStreamingError(error="x"), SinkUnavailable),
        (OSError("no route to host"), SinkUnavailable),
        (OverflowError("int too large"), SinkRejected),
        (RuntimeError("can't start new thread"), SinkUnavailable),
        (boto.ClientError({"Error": {"Code": "ValidationError", "Message": "role"}}, "AssumeRole"), SinkForbidden),
        (boto.ClientError({"Error": {"Code": "Throttling", "Message": "role"}}, "AssumeRole"), SinkUnavailable),
    ],
)
def test_every_exception_of_boto3_has_a_meaning(error: Exception, expected: type[SinkError]) -> None:
    """Connections, credentials and content are kept apart, whatever raises."""
    assert type(translate(error)) is expected


def test_no_credentials_is_a_matter_for_a_person_and_not_for_retries(
    cloudwatch: FakeCloudWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The breaker opens at once and the log and stats say why; what is recorded is held."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    config = MetricsConfig(region="us-east-1", endpoint_url=cloudwatch.endpoint_url)
    client = CloudWatchMetrics(config, runtime=ManualRuntime(wall=time.time()))
    client.put_metric("M", 1)
    client.flush()
    stats = client.stats()
    assert (stats.breaker_state, stats.pending) == (BreakerState.OPEN, 1)
    assert "NoCredentials" in (stats.last_error or "")


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"region": "us-east-1", "endpoint_url": "not a url"}, "Invalid endpoint"), ({}, "NoRegion")],
)
def test_a_wrong_setting_holds_what_is_recorded_and_says_what_is_wrong(
    settings: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that cannot be made is a matter for a person: nothing is dropped, nothing raised, the reason is in stats."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    client = CloudWatchMetrics(MetricsConfig(**settings), runtime=ManualRuntime())
    client.put_metric("M", 1)
    client.flush()
    stats = client.stats()
    assert (stats.breaker_state, stats.pending) == (BreakerState.OPEN, 1)
    assert says in (stats.last_error or "")
    assert_balanced(client)


def test_half_an_hour_of_outage_over_http(cloudwatch: FakeCloudWatch) -> None:
    """The same with a real server that answers 503 and then refuses connections, the minutes passing on the manual clock."""
    start = int(time.time()) // 60 * 60 - 3600
    runtime = ManualRuntime(wall=float(start))
    config = MetricsConfig(region="us-east-1", endpoint_url=cloudwatch.endpoint_url, catalogue=())
    client = CloudWatchMetrics(config, runtime=runtime)
    cloudwatch.faults.fail(503)
    for minute in range(40):
        if minute == 15:
            cloudwatch.faults.refuse_connections()
        if minute == 30:
            cloudwatch.faults.clear()
            cloudwatch.faults.accept_connections()
        for _ in range(5):
            client.put_metric("M", minute, namespace=NS)
        runtime.advance(60.0)
        assert_balanced(client)
    runtime.advance(1500.0)
    assert client.flush(timeout=60.0), client.stats()
    assert client.stats().dropped == {}
    assert cloudwatch.minutes(NS, "M", {}) == [start + 60 * minute for minute in range(40)]
    assert all(cloudwatch.count(NS, "M", {}, minute=start + 60 * minute) == 5 for minute in range(40))
    refused_before_opening, probes_in_thirty_minutes = 5, 4
    assert len(cloudwatch.rejected_calls) <= refused_before_opening + probes_in_thirty_minutes
    client.stop()


def test_what_the_fake_refuses_never_leaves_a_client(cloudwatch: FakeCloudWatch) -> None:
    """End to end against the strict server: everything the client takes is accepted."""
    config = MetricsConfig(region="us-east-1", endpoint_url=cloudwatch.endpoint_url, batch_size=1000)
    client = CloudWatchMetrics(config, runtime=ManualRuntime(wall=time.time()))
    for index in range(3_000):
        client.put_metric("Size", index / 7, "Bytes", dimensions={"Kind": f"k{index % 3}"})
        client.put_metric("Level", -index, storage_resolution=1)
        client.increment_counter("Done", namespace="Other/App")
        client.put_metric("Bad", float("nan"))
    assert client.flush(timeout=60.0), client.stats()
    stats = client.stats()
    assert stats.dropped == {DropReason.INVALID_VALUE: 3_000}
    assert stats.failed_calls == 0
    assert cloudwatch.total_count() == stats.delivered == 9_000
    assert cloudwatch.sum("RetainWise/MLPipeline", "Size", {"Kind": "k1"}) == pytest.approx(
        sum(i / 7 for i in range(1, 3_000, 3))
    )
    assert cloudwatch.percentile("RetainWise/MLPipeline", "Level", {}, 50.0) is None  # as on AWS: negative values
    assert cloudwatch.count("Other/App", "Done", {}) == 3_000


def test_the_client_is_made_once_and_from_its_own_session(cloudwatch: FakeCloudWatch) -> None:
    """boto3's shared default session is not touched: it is not thread-safe and belongs to the application."""
    made: list[object] = []

    def make(connection: Connection) -> object:
        made.append(boto3_client(connection))
        return made[-1]

    sink = PutMetricDataSink(Connection("us-east-1", cloudwatch.endpoint_url), make)
    for _ in range(3):
        sink.send(batch_of(1.0))
    assert len(made) == 1
    assert boto3.DEFAULT_SESSION is None or made[0] not in vars(boto3.DEFAULT_SESSION).values()
    sink.close()
