"""OTLP over real HTTP, to a receiver that parses what arrives, checks who signed it, and answers as told."""

from __future__ import annotations

import gzip
import logging
import math
from typing import TYPE_CHECKING, Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from botocore.httpsession import URLLib3Session
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("opentelemetry.proto", reason="the encoding is OpenTelemetry's")

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_DELTA

from retainwise_metrics import CloudWatchMetrics, DropReason, MetricsConfig, MetricUnit
from retainwise_metrics.datum import Batch, Datum, Series
from retainwise_metrics.sinks import otlp
from retainwise_metrics.sinks._aws_calls import watch
from retainwise_metrics.sinks.base import (
    SinkError,
    SinkForbidden,
    SinkRejected,
    SinkThrottled,
    SinkTooLarge,
    SinkUnavailable,
)
from retainwise_metrics.sinks.otlp import OtlpSink
from retainwise_metrics.sinks.put_metric_data import Connection
from retainwise_metrics.testing import ManualRuntime
from tests.helpers import assert_balanced
from tests.sinks.otlp_receiver import Answer, Receiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NS = "RetainWise/Test"
REGION = "eu-west-1"
WINDOW = 1_767_225_600


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that the test knows, and no others."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver on this machine."""
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def make_sink(receiver: Receiver) -> Iterator[Callable[..., OtlpSink]]:
    """Make sinks that talk to it."""
    made: list[OtlpSink] = []

    def make(read_timeout: float = 10.0, **options: Any) -> OtlpSink:
        made.append(OtlpSink(Connection(REGION, receiver.url, 5.0, read_timeout), **options))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


@pytest.fixture
def sink(make_sink: Callable[..., OtlpSink]) -> OtlpSink:
    """A signing sink."""
    return make_sink()


def datum_of(
    counts: dict[float, int], name: str = "M", unit: str = "Seconds", window: int = WINDOW, **dimensions: str
) -> Datum:
    """Values and counts of one series."""
    series = Series(NS, name, tuple(sorted(dimensions.items())), unit, 60)
    values = tuple(sorted(counts))
    return Datum(series, window, values, tuple(counts[value] for value in values), sum(counts.values()))


def batch_of(*datums: Datum) -> Batch:
    """These datums in one call."""
    return Batch(NS, datums, 0)


def outcome(sink: OtlpSink, batch: Batch | None = None) -> SinkError | None:
    """What a send raised, or None."""
    try:
        sink.send(batch or batch_of(datum_of({1.0: 1})))
    except SinkError as error:
        return error
    return None


def pairs(attributes: Any) -> dict[str, str]:
    """Attributes as a dict."""
    return {each.key: each.value.string_value for each in attributes}


def held(point: Any) -> list[tuple[float, float, int]]:
    """The buckets of an exponential point that hold something: bounds and count, ascending."""

    def bound(index: int) -> float:
        return 2.0 ** math.ldexp(index, -point.scale)

    below = [
        (-bound(index + 1), -bound(index), count)
        for index, count in enumerate(point.negative.bucket_counts, point.negative.offset)
    ]
    above = [
        (bound(index), bound(index + 1), count)
        for index, count in enumerate(point.positive.bucket_counts, point.positive.offset)
    ]
    return [bucket for bucket in [*reversed(below), (0.0, 0.0, point.zero_count), *above] if bucket[2]]


# ---- what arrives ----


def test_a_batch_arrives_as_histograms_with_exact_numbers(sink: OtlpSink, receiver: Receiver) -> None:
    """Count, sum, minimum, maximum, attributes, unit, window, namespace: everything the datum said is in the point."""
    sink.send(batch_of(datum_of({0.0: 2, 0.5: 10, 3.0: 1}, "UploadDuration", Endpoint="/upload")))
    (request,) = receiver.requests
    assert request.path == "/v1/metrics"
    assert request.headers["content-type"] == "application/x-protobuf"
    (resource,) = request.message.resource_metrics
    assert resource.scope_metrics[0].scope.name == NS
    metric = request.metrics["UploadDuration"]
    assert metric.unit == "s"
    assert metric.exponential_histogram.aggregation_temporality == AGGREGATION_TEMPORALITY_DELTA
    (point,) = metric.exponential_histogram.data_points
    assert (point.count, point.sum, point.min, point.max, point.zero_count) == (13, 8.0, 0.0, 3.0, 2)
    assert pairs(point.attributes) == {"Endpoint": "/upload"}
    assert point.start_time_unix_nano == WINDOW * 1_000_000_000
    assert WINDOW * 1_000_000_000 < point.time_unix_nano < (WINDOW + 60) * 1_000_000_000
    assert [count for _, _, count in held(point)] == [2, 10, 1]


def test_the_setting_makes_the_sink(receiver: Receiver) -> None:
    """`sink="otlp"` delivers there, and the catalogue says which metrics are sums."""
    client = CloudWatchMetrics(MetricsConfig(sink="otlp", region=REGION, endpoint_url=receiver.url))
    client.increment_counter("UploadRejected", namespace="RetainWise/API")
    client.put_metric("UploadFileSizeMB", 2.5, namespace="RetainWise/API")
    assert client.stop(60.0)
    assert client.stats()[:4] == (2, 2, 0, {})
    metrics = {name: metric for request in receiver.requests for name, metric in request.metrics.items()}
    assert metrics["UploadRejected"].sum.data_points[0].as_double == 1.0
    assert metrics["UploadFileSizeMB"].exponential_histogram.data_points[0].sum == 2.5


MAGNITUDES = st.floats(min_value=1e-60, max_value=2.0**360) | st.floats(min_value=0.001, max_value=1000.0)


@given(
    st.dictionaries(
        st.just(0.0) | MAGNITUDES | MAGNITUDES.map(lambda m: -m), st.integers(1, 10**9), min_size=1, max_size=60
    )
)
def test_every_value_is_counted_in_a_bucket_around_it(counts: dict[float, int]) -> None:
    """Whatever the values, buckets are few, hold the right counts, and are as narrow as the documentation says."""
    sink = OtlpSink(Connection(REGION))
    request = sink._request(NS, otlp.points_of([datum_of(counts)]))
    (point,) = request.resource_metrics[0].scope_metrics[0].metrics[0].exponential_histogram.data_points
    assert otlp.MIN_SCALE <= point.scale <= otlp.MAX_SCALE
    assert max(len(point.positive.bucket_counts), len(point.negative.bucket_counts)) <= otlp.BUCKETS
    buckets = held(point)
    assert sum(count for _, _, count in buckets) == point.count == sum(counts.values())
    expected: dict[int, int] = {}
    for value, count in counts.items():
        (index,) = [
            index
            for index, (low, high, _) in enumerate(buckets)
            if low - abs(low) * 1e-9 <= value <= high + abs(high) * 1e-9
            and (value in (low, high) or low < value <= high or value < 0)
        ][:1] or [-1]
        expected[index] = expected.get(index, 0) + count
    assert -1 not in expected, "a value lies in no bucket"


@pytest.mark.parametrize(
    ("smallest", "largest", "width"),
    [(1.0, 1.0, 0.0028), (1.0, 1.5, 0.0028), (1.0, 900.0, 0.045), (1e-3, 900.0, 0.091)],
)
def test_the_stated_error_is_the_width_of_a_bucket(smallest: float, largest: float, width: float) -> None:
    """The widths in the documentation are those of the scale that is chosen."""
    scale = otlp.scale_of(smallest, largest)
    assert 2.0 ** (2.0**-scale) - 1.0 <= width


def test_buckets_are_widened_when_they_would_be_too_many() -> None:
    """A hundred and sixty fit; one more does not."""
    assert otlp.scale_of(1.0, 2.0 ** (158.5 / 256)) == otlp.MAX_SCALE
    assert otlp.scale_of(1.0, 2.0 ** (159.5 / 256)) == otlp.MAX_SCALE - 1


def test_counters_are_sums(make_sink: Callable[..., OtlpSink], receiver: Receiver) -> None:
    """A metric named as a counter is a monotonic delta sum, and one that went down is not called monotonic."""
    sink = make_sink(counters={"UploadSuccess", "Moves"})
    sink.send(
        batch_of(
            datum_of({1.0: 4000, 3.0: 2}, "UploadSuccess", "Count"),
            datum_of({1.0: 1}, "Moves", "Count"),
            datum_of({-2.0: 1}, "Moves", "Count", A="b"),
        )
    )
    metrics = receiver.requests[0].metrics
    assert metrics["UploadSuccess"].unit == "{Count}"
    assert metrics["UploadSuccess"].sum.is_monotonic
    assert metrics["UploadSuccess"].sum.aggregation_temporality == AGGREGATION_TEMPORALITY_DELTA
    assert [point.as_double for point in metrics["UploadSuccess"].sum.data_points] == [4006.0]
    assert [point.as_double for point in metrics["Moves"].sum.data_points] == [1.0, -2.0]
    assert not metrics["Moves"].sum.is_monotonic


def test_a_sum_is_left_out_where_values_are_negative(sink: OtlpSink, receiver: Receiver) -> None:
    """The protocol asks for that; count and extremes are there."""
    sink.send(batch_of(datum_of({-1.0: 2, 5.0: 1})))
    (point,) = receiver.requests[0].metrics["M"].exponential_histogram.data_points
    assert (point.HasField("sum"), point.count, point.min, point.max) == (False, 3, -1.0, 5.0)


def test_datums_of_one_series_and_window_are_one_point(sink: OtlpSink, receiver: Receiver) -> None:
    """What had too many values for one datum is put together again: two points of one time would be one too many."""
    sink.send(batch_of(datum_of({1.0: 1, 2.0: 1}), datum_of({2.0: 3, 9.0: 1}), datum_of({7.0: 1}, window=WINDOW + 60)))
    first, second = receiver.requests[0].metrics["M"].exponential_histogram.data_points
    assert (first.count, first.sum, second.count) == (6, 18.0, 1)


def test_points_of_one_series_never_share_a_time(sink: OtlpSink, receiver: Receiver) -> None:
    """A minute sealed in two parts is two requests, and a store that keeps one point per time must keep both."""
    for _ in range(5):
        sink.send(batch_of(datum_of({1.0: 30})))
    times = {
        request.metrics["M"].exponential_histogram.data_points[0].time_unix_nano // 1_000_000
        for request in receiver.requests
    }
    assert len(times) == 5


def test_every_unit_of_cloudwatch_has_a_spelling(sink: OtlpSink, receiver: Receiver) -> None:
    """All 27 units arrive, each as another UCUM text."""
    sink.send(batch_of(*(datum_of({1.0: 1}, unit.name, unit.value) for unit in MetricUnit)))
    units = {name: metric.unit for name, metric in receiver.requests[0].metrics.items()}
    assert len(set(units.values())) == len(MetricUnit)
    assert (units["BYTES_PER_SECOND"], units["COUNT"], units["NONE"]) == ("By/s", "{Count}", "1")


def test_both_directions_spell_units_the_same() -> None:
    """The exporter reads what the sink writes."""
    integration = pytest.importorskip("retainwise_metrics.integrations.opentelemetry")
    for unit in MetricUnit:
        base, slash, _ = unit.value.partition("/")
        assert integration.UCUM[unit] == otlp.UNITS[base] + ("/s" if slash else "")


# ---- who sends it, and where to ----


def test_the_signature_is_that_of_the_known_key(sink: OtlpSink, receiver: Receiver) -> None:
    """Computed again from what arrived, with the service name `monitoring`, the signature is the same."""
    sink.send(batch_of(datum_of({1.0: 1})))
    (request,) = receiver.requests
    authorization = request.headers["authorization"]
    scope = f"{request.headers['x-amz-date'][:8]}/{REGION}/monitoring/aws4_request"
    assert f"Credential=AKIDEXAMPLE/{scope}" in authorization
    signed = authorization.split("SignedHeaders=")[1].split(",")[0].split(";")
    assert {"host", "x-amz-date", "content-encoding"} <= set(signed)
    again = AWSRequest("POST", receiver.url + request.path, data=request.body)
    for name in signed:
        again.headers[name] = request.headers[name]
    again.context["timestamp"] = request.headers["x-amz-date"]
    auth = SigV4Auth(Credentials("AKIDEXAMPLE", "a-secret"), "monitoring", REGION)
    signature = auth.signature(auth.string_to_sign(again, auth.canonical_request(again)), again)
    assert authorization.endswith(f"Signature={signature}")


def test_a_collector_needs_no_credentials(
    make_sink: Callable[..., OtlpSink], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without signatures nothing is asked of AWS."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    sink = make_sink(signed=False, resource={"service.name": "uploads"})
    sink.send(batch_of(datum_of({1.0: 1})))
    (request,) = receiver.requests
    assert "authorization" not in request.headers
    assert pairs(request.message.resource_metrics[0].resource.attributes)["service.name"] == "uploads"


@pytest.mark.parametrize(
    ("region", "host"),
    [("us-east-1", "monitoring.us-east-1.amazonaws.com"), ("cn-north-1", "monitoring.cn-north-1.amazonaws.com.cn")],
)
def test_without_an_endpoint_it_is_that_of_the_region(region: str, host: str) -> None:
    """The address follows the region and its partition."""
    sent: list[Any] = []

    class Session:
        def send(self, request: Any) -> Any:
            sent.append(request)
            raise OSError

        def close(self) -> None:
            """Nothing to close."""

    sink = OtlpSink(Connection(region), make_session=lambda _: Session())
    assert type(outcome(sink)) is SinkUnavailable
    assert sent[0].url == f"https://{host}/v1/metrics"


def test_what_nobody_configured_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """No region, no credentials, no address: each is an error that opens the breaker, and names the remedy."""
    assert "AWS_REGION" in str(outcome(OtlpSink(Connection())))
    assert "endpoint_url" in str(outcome(OtlpSink(Connection(REGION), signed=False)))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    error = outcome(OtlpSink(Connection(REGION)))
    assert type(error) is SinkForbidden
    assert "credentials" in str(error)


# ---- what goes wrong ----


def aws_error(code: str, status: int = 400) -> Answer:
    """An error as AWS words it."""
    return Answer(status, b"{}", {"Content-Type": "application/json", "x-amzn-ErrorType": f"{code}:http://x/"})


TOO_MANY = Answer(400, b"Maximum number of datapoints per request exceeded: 1000.", {"x-amzn-RequestId": "1"})

FAULTS: list[tuple[str, Answer | str, type[SinkError]]] = [
    ("429", Answer(429), SinkThrottled),
    ("503 with a time", Answer(503, headers={"Retry-After": "7"}), SinkThrottled),
    ("503", Answer(503), SinkUnavailable),
    ("throttled, AWS's way", aws_error("ThrottlingException"), SinkThrottled),
    ("throttled, in the body", Answer(400, b'{"__type":"com.amazon#ThrottlingException"}'), SinkThrottled),
    ("500", Answer(500), SinkUnavailable),
    ("502", Answer(502, b"<html>"), SinkUnavailable),
    ("408", Answer(408), SinkUnavailable),
    ("401", Answer(401), SinkForbidden),
    ("403", Answer(403), SinkForbidden),
    ("an unknown key", aws_error("UnrecognizedClientException", 400), SinkForbidden),
    ("an expired token", aws_error("ExpiredTokenException", 403), SinkUnavailable),
    ("a wrong address", Answer(404), SinkForbidden),
    ("400", Answer(400, b"\x08\x03"), SinkRejected),
    ("400, in JSON", Answer(400, b'{"code": 3, "message": "x"}', {"Content-Type": "application/json"}), SinkRejected),
    ("400, by AWS", aws_error("ValidationException"), SinkRejected),
    ("422, with AWS's request id", Answer(422, b"no", {"x-amzn-RequestId": "1"}), SinkRejected),
    ("a body that is no error", Answer(400, b"{nonsense"), SinkUnavailable),
    ("a stranger's 400", Answer(400, b"no", {"Content-Type": "text/plain"}), SinkUnavailable),
    ("a stranger's 413", Answer(413, b"no", {"Content-Type": "text/plain"}), SinkUnavailable),
    ("a redirect", Answer(301, headers={"Location": "http://127.0.0.1:9/"}), SinkUnavailable),
    ("an expired token, newly found", aws_error("TokenRefreshRequired", 403), SinkUnavailable),
    ("413", Answer(413), SinkTooLarge),
    ("too many points", TOO_MANY, SinkTooLarge),
    ("a captive portal", Answer(200, b"<html>hello</html>", {"Content-Type": "text/html"}), SinkUnavailable),
    ("a body that is no answer", Answer(200, b"\xff\xff\xff"), SinkUnavailable),
    ("a cut connection", "cut", SinkUnavailable),
]


@pytest.mark.parametrize(("answer", "expected"), [pytest.param(a, e, id=name) for name, a, e in FAULTS])
def test_each_answer_becomes_exactly_one_kind_of_error(
    sink: OtlpSink, receiver: Receiver, answer: Answer | str, expected: type[SinkError]
) -> None:
    """What the pipeline does follows from the class; and when the fault has passed, so does the batch."""
    receiver.answers = [answer]
    error = outcome(sink)
    assert type(error) is expected, error
    assert outcome(sink) is None


@pytest.mark.parametrize(
    ("answer", "maybe"),
    [
        (Answer(500), True),
        (Answer(502), True),
        (Answer(504), True),
        (Answer(202), True),
        (Answer(200, b"<html>", {"Content-Type": "text/html"}), True),
        ("cut", True),
        (Answer(503), False),
        (Answer(408), False),
        (Answer(301), False),
        (Answer(400, b"no", {"Content-Type": "text/plain"}), False),
        (aws_error("ExpiredTokenException", 403), False),
        (aws_error("RequestExpired"), False),
    ],
)
def test_what_may_have_arrived_says_so(
    sink: OtlpSink, receiver: Receiver, answer: Answer | str, *, maybe: bool
) -> None:
    """A refusal is certain; whatever else comes after the request has left is not."""
    receiver.answers = [answer]
    error = outcome(sink)
    assert isinstance(error, SinkUnavailable)
    assert error.maybe_delivered is maybe


def test_what_never_left_has_not_arrived(receiver: Receiver) -> None:
    """Nobody listens, or a proxy on the way does not let it through: its answer is not one to the request."""
    receiver.close()
    error = outcome(OtlpSink(Connection(REGION, receiver.url)))
    assert isinstance(error, SinkUnavailable)
    assert error.maybe_delivered is False


def test_a_request_that_the_way_does_not_let_through_has_not_arrived(receiver: Receiver) -> None:
    """A proxy was told something on the connection, but it was not the request."""

    def make_session(connection: Connection) -> URLLib3Session:
        session = URLLib3Session(timeout=(10.0, 10.0), proxies={"https": receiver.url})
        watch(session)
        return session

    sink = OtlpSink(Connection(REGION, "https://collector.test:4318"), make_session=make_session)
    error = outcome(sink)
    assert isinstance(error, SinkUnavailable)
    assert error.maybe_delivered is False
    assert "Proxy" in str(error)
    sink.close()


@pytest.mark.parametrize(
    ("signed", "headers", "expected"),
    [
        (False, {}, None),
        (True, {"x-amzn-RequestId": "1"}, None),
        (True, {}, SinkUnavailable),
        (False, {"Content-Type": "text/plain"}, SinkUnavailable),
    ],
)
def test_an_empty_200_that_does_not_say_what_it_is(
    make_sink: Callable[..., OtlpSink],
    receiver: Receiver,
    headers: dict[str, str],
    expected: type[SinkError] | None,
    *,
    signed: bool,
) -> None:
    """Prometheus answers like that; AWS does not, so it was not AWS."""
    receiver.answers = [Answer(200, b"", headers)]
    error = outcome(make_sink(signed=signed))
    assert (type(error) if error else None) is expected


def test_a_batch_is_split_for_a_proxy_that_allows_less(sink: OtlpSink, receiver: Receiver) -> None:
    """Whoever says that it is too large, two halves may not be."""
    receiver.answers = [Answer(413, b"<html>", {"Content-Type": "text/html"})]
    assert type(outcome(sink, batch_of(datum_of({1.0: 1}), datum_of({1.0: 1}, "N")))) is SinkTooLarge


def test_who_is_asked_for_credentials_does_not_speak_of_the_batch(sink: OtlpSink, receiver: Receiver) -> None:
    """STS refuses a role with the same codes as CloudWatch a datum; its words, which name the account, are not repeated."""
    sink.send(batch_of(datum_of({1.0: 1})))
    wire = sink._wire
    assert wire is not None

    def sign(_: object) -> None:
        raise ClientError({"Error": {"Code": "ValidationError", "Message": "arn:aws:iam::123:role/x"}}, "AssumeRole")

    sink._wire = wire._replace(sign=sign)
    error = outcome(sink)
    assert type(error) is SinkForbidden
    assert "ValidationError" in str(error)
    assert "arn" not in str(error)
    assert sink._wire is None
    assert outcome(sink) is None


def test_an_endpoint_that_hangs_is_given_up(make_sink: Callable[..., OtlpSink], receiver: Receiver) -> None:
    """The read timeout ends a call."""
    receiver.answers = ["hang"]
    assert type(outcome(make_sink(read_timeout=0.2))) is SinkUnavailable


def test_nobody_listening_is_unavailable(sink: OtlpSink, receiver: Receiver) -> None:
    """A refused connection is worth trying again."""
    receiver.close()
    assert type(outcome(sink)) is SinkUnavailable


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("7", 7.0, 7.0),
        ("-1", 0.0, 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0, 0.0),
        ("Mon, 01 Jan 2990 00:00:00 GMT", 1e9, 1e12),
    ],
)
def test_the_time_to_wait_is_read(sink: OtlpSink, receiver: Receiver, text: str, least: float, most: float) -> None:
    """`Retry-After` is a number of seconds or a date."""
    receiver.answers = [Answer(429, headers={"Retry-After": text})]
    error = outcome(sink)
    assert isinstance(error, SinkThrottled)
    assert error.retry_after_seconds is not None
    assert least <= error.retry_after_seconds <= most


@pytest.mark.parametrize("text", ["soon", "nan", "inf", "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"])
def test_a_time_that_is_none_is_none(sink: OtlpSink, receiver: Receiver, text: str) -> None:
    """Nonsense in the header is as good as nothing."""
    receiver.answers = [Answer(429, headers={"Retry-After": text})]
    error = outcome(sink)
    assert isinstance(error, SinkThrottled)
    assert error.retry_after_seconds is None


def test_too_many_points_are_not_even_sent(sink: OtlpSink, receiver: Receiver) -> None:
    """A batch of more than a thousand points is split by the pipeline, at no call."""
    assert type(outcome(sink, batch_of(*(datum_of({1.0: 1}, f"M{index}") for index in range(1001))))) is SinkTooLarge
    assert outcome(sink, batch_of(*(datum_of({1.0: 1}, f"M{index}") for index in range(1000)))) is None
    assert len(receiver.requests) == 1


def partial(rejected: int, text: str = "") -> Answer:
    """Accepted, but for some."""
    message = ExportMetricsServiceResponse()
    message.partial_success.rejected_data_points = rejected
    message.partial_success.error_message = text
    return Answer(200, message.SerializeToString())


def test_points_rejected_one_by_one_are_counted(
    make_sink: Callable[..., OtlpSink], receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """The batch is not sent again, since the others arrived; the number is kept, and said once a minute, without the server's words."""
    runtime = ManualRuntime()
    sink = make_sink(monotonic=runtime.monotonic)
    receiver.answers = [partial(1, "user@example.org is bad"), partial(1)]
    batch = batch_of(datum_of({1.0: 1}), datum_of({1.0: 1}, "N"))
    with caplog.at_level(logging.WARNING):
        assert outcome(sink, batch) is None
        assert outcome(sink, batch) is None
    assert sink.rejected_data_points == 2
    assert [record.getMessage() for record in caplog.records] == [
        "the OTLP endpoint rejected 1 of 2 data points of a request, 1 so far; they count as delivered"
    ]


def test_when_all_points_are_rejected_all_are_dropped(sink: OtlpSink, receiver: Receiver) -> None:
    """Then it is certain which ones: the ledger counts them as rejected."""
    receiver.answers = [partial(2)]
    error = outcome(sink, batch_of(datum_of({1.0: 1}), datum_of({1.0: 1}, "N")))
    assert isinstance(error, SinkRejected)
    assert error.members == (0, 1)
    assert sink.rejected_data_points == 0


def test_a_warning_is_passed_on(sink: OtlpSink, receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """A partial success that rejects nothing is a success."""
    receiver.answers = [partial(0, "deprecated")]
    with caplog.at_level(logging.WARNING):
        assert outcome(sink) is None
    assert "warning" in caplog.text


def test_an_answer_in_json_is_read(sink: OtlpSink, receiver: Receiver) -> None:
    """Some gateways answer in the other encoding."""
    headers = {"Content-Type": "application/json"}
    receiver.answers = [
        Answer(200, b"", headers),
        Answer(200, b'{"partialSuccess":{"rejectedDataPoints":"1"}}', headers),
    ]
    assert outcome(sink) is None
    assert type(outcome(sink)) is SinkRejected


# ---- sizes, forks, the whole way ----


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["A", "UploadDuration"]),
            st.dictionaries(
                MAGNITUDES | MAGNITUDES.map(lambda m: -m) | st.just(0.0), st.integers(1, 2**40), min_size=1, max_size=20
            ),
            st.dictionaries(st.sampled_from(["Endpoint", "Kind"]), st.text("abc/", min_size=1, max_size=200)),
        ),
        min_size=1,
        max_size=10,
    )
)
def test_a_request_is_never_larger_than_was_said(given: list[tuple[str, dict[float, int], dict[str, str]]]) -> None:
    """The limit of 1 MB is kept by adding up sizes, so they must not be too small."""
    sink = OtlpSink(Connection(REGION), counters={"A"}, resource={"service.name": "uploads"})
    datums = [datum_of(counts, name, **dimensions) for name, counts, dimensions in given]
    size = sink._request(NS, otlp.points_of(datums)).ByteSize()
    assert size <= sink.envelope_bytes(NS) + sum(map(sink.datum_bytes, datums))


def test_a_full_request_is_never_larger_than_was_said() -> None:
    """The same for a thousand points, where lengths take more bytes."""
    sink = OtlpSink(Connection(REGION))
    datums = [datum_of({1.1**power: 3 for power in range(100)}, f"M{index}", A="x" * 50) for index in range(1000)]
    size = sink._request(NS, otlp.points_of(datums)).ByteSize()
    said = sink.envelope_bytes(NS) + sum(map(sink.datum_bytes, datums))
    assert size <= said <= size * 1.1


def test_a_child_is_somebody_else(make_sink: Callable[..., OtlpSink], receiver: Receiver) -> None:
    """After a fork there is another instance id, on a connection of its own; the parent's is not closed."""
    closed: list[object] = []
    sessions: list[Any] = []

    def make_session(connection: Connection) -> Any:
        session = otlp._http_session(connection)
        original = session.close
        session.close = lambda: (closed.append(session), original())
        sessions.append(session)
        return session

    sink = make_sink(make_session=make_session)
    sink.send(batch_of(datum_of({1.0: 1})))
    sink.after_fork()
    sink.send(batch_of(datum_of({1.0: 1})))
    ids = {
        pairs(request.message.resource_metrics[0].resource.attributes)["service.instance.id"]
        for request in receiver.requests
    }
    assert len(ids) == len(sessions) == 2
    assert closed == []
    sink.close()
    assert closed == [sessions[1]]
    sink.send(batch_of(datum_of({1.0: 1})))
    sessions[0].close()


def test_a_child_does_not_wait_for_a_lock_of_its_parent(make_sink: Callable[..., OtlpSink], receiver: Receiver) -> None:
    """Another thread was making a session at the moment of the fork; in the child it does not exist."""
    sink = make_sink()
    with sink._making:
        sink.after_fork()
        assert outcome(sink) is None
    assert len(receiver.requests) == 1


def test_the_whole_way(make_sink: Callable[..., OtlpSink], receiver: Receiver) -> None:
    """A client on this sink delivers what it recorded, through a throttling, and its ledger adds up."""
    runtime = ManualRuntime()
    client = CloudWatchMetrics(MetricsConfig(default_namespace=NS), sink=make_sink(), runtime=runtime)
    receiver.answers = [Answer(429)]
    for index in range(100):
        client.record_time("Duration", index / 10, dimensions={"UserId": f"user-{index}@example.org"})
    assert client.flush() or client.flush()
    assert client.stats().delivered == 100
    assert_balanced(client)
    points = [
        point
        for request in receiver.requests
        for point in request.metrics["Duration"].exponential_histogram.data_points
    ]
    assert sum(point.count for point in points) == 100
    assert sum(point.sum for point in points) == pytest.approx(495.0)
    assert b"example.org" not in b"".join(gzip.decompress(request.body) for request in receiver.requests)


def test_what_is_refused_is_in_the_ledger(make_sink: Callable[..., OtlpSink], receiver: Receiver) -> None:
    """A batch the endpoint calls invalid is searched, and what stays invalid is dropped with its reason."""
    client = CloudWatchMetrics(MetricsConfig(default_namespace=NS), sink=make_sink(), runtime=ManualRuntime())
    receiver.answers = [Answer(400)]
    client.put_metric("X", 1.0)
    client.flush()
    assert client.stats().dropped == {DropReason.REJECTED: 1}
    assert_balanced(client)
