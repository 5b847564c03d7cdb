"""
OTLP metrics over HTTP, to CloudWatch's own endpoint (signed with SigV4) or to any collector.

Rules
1. A datum becomes one data point of an exponential histogram: count, sum, minimum and maximum are exact, and a percentile is at most
   0.27 % off while the values span less than a factor of 1.5, and more the further they spread (`scale_of`). The metrics named as
   counters become sums instead.
2. Everything is a delta. Points of one series never share a time: a store keeps one point per series and time, and would lose the other.
   A minute is usually sealed in two parts, and each request puts its points on a millisecond of its own within the window.
3. For the same reason each process says who it is: `service.instance.id` is random, and new after a fork.
4. Retries are the pipeline's: one attempt per call, and every way it can fail is one of the errors of `base`.
5. Whoever answers may be anybody. Only an answer of this protocol is a delivery or a reason to give a batch up, and no text of one gets
   into a message (`_aws_calls` has the rest of it: time, size, secrets, and what botocore says).
6. Credentials are found once per session. A session whose credentials were refused is forgotten, so that others are found.

Sources: the OTLP specification 1.x ("OTLP/HTTP", "Metrics data model"), and the CloudWatch user guide ("OTLP Endpoints", "Send metrics
using OpenTelemetry"): protobuf or JSON over HTTP/1.1, SigV4 with the service name `monitoring`, 1,000 data points and 1 MB a request.
"""

from __future__ import annotations

import gzip
import itertools
import math
import os
import threading
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as proto

from retainwise_metrics.runtime import IMPORTS, SystemRuntime

from ._aws_calls import (
    CALL,
    CODE,
    EXPIRED,
    FORBIDDEN,
    REJECTED,
    THROTTLED,
    calling,
    hush,
    retry_after,
    translate_failure,
    watch,
    words,
)
from .base import SinkError, SinkForbidden, SinkRejected, SinkThrottled, SinkTooLarge, SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from retainwise_metrics.datum import Batch, Datum, Series

    from .put_metric_data import Connection

SERVICE = "monitoring"
"""The name that requests are signed for."""

PATH = "/v1/metrics"

POINTS_PER_REQUEST = 1000
"""Most data points in one request (answer of the service: 400 "Maximum number of datapoints per request exceeded: 1000.")."""

BUCKETS = 160
"""Most buckets on each side of zero: what OpenTelemetry's SDKs keep."""

MAX_SCALE = 8
"""Finest buckets, 0.27 % wide: Prometheus' native histograms, which PromQL reads, know none finer (schemas -4 to 8)."""

MIN_SCALE = -4
"""Coarsest buckets: 160 of them hold every float there is."""

FRAMING_BYTES = 8
"""What surrounds one metric in a request: a tag, its length, and its share of the lengths around it."""

ENVELOPE_BYTES = 64
"""Tags and lengths around the resource, the scope and the metrics."""

TEMPORARY = frozenset({"RequestExpired", "RequestTimeTooSkewed", "InternalFailure", "InternalServiceFault"})
"""Error codes that come right by themselves, whatever their status: clocks are set. Credentials refresh, too; see `EXPIRED`."""

WARNING_SECONDS = 60.0
"""Least time between two lines in the log."""

BINARY = frozenset({"application/x-protobuf", "application/octet-stream", ""})
"""What the answers are called that are read as protobuf: by the protocol it is the first, some servers call them nothing."""

PARTIAL_SUCCESS = frozenset({"partialSuccess", "partial_success"})
"""The only member of an answer in JSON."""

DELTA = proto.AGGREGATION_TEMPORALITY_DELTA
NANOSECONDS = 1_000_000_000
UNITS = {
    "Seconds": "s",
    "Milliseconds": "ms",
    "Microseconds": "us",
    "Bytes": "By",
    "Kilobytes": "kBy",
    "Megabytes": "MBy",
    "Gigabytes": "GBy",
    "Terabytes": "TBy",
    "Bits": "bit",
    "Kilobits": "kbit",
    "Megabits": "Mbit",
    "Gigabits": "Gbit",
    "Terabits": "Tbit",
    "Count": "{Count}",
    "Percent": "%",
    "None": "1",
}
"""CloudWatch's units in UCUM, as CloudWatch's own metric streams write them; per second is `/s`."""


class Wire(NamedTuple):
    """
    What a request needs; made at the first send.

    Attributes:
        url: Where requests go.
        session: Sends them: has `send(prepared_request)` and `close()`, as `botocore.httpsession.URLLib3Session`.
        sign: Signs a request in place; does nothing where nobody asks for a signature.
    """

    url: str
    session: Any
    sign: Callable[[Any], None]


class Answer(NamedTuple):
    """
    What came back.

    Attributes:
        status: Of HTTP.
        headers: In any case, one value each.
        content: All of the body that arrived.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def kind(self) -> str:
        """
        The media type, without parameters; "" if there is none.
        """
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def is_complete(self) -> bool:
        """
        Whether the body is as long as was said.
        """
        said = self.headers.get("content-length", "")
        return not said.isdecimal() or said.lstrip("0") == str(len(self.content)).lstrip("0")

    @property
    def is_of_aws(self) -> bool:
        """
        Whether it carries a request id, as each answer of AWS does.
        """
        return "x-amzn-requestid" in self.headers

    @property
    def code(self) -> str:
        """
        AWS's name for an error, from the header or the JSON body; "" when there is none that looks like one.
        """
        named: object = self.headers.get("x-amzn-errortype", "")
        if not named and (said := _json_object(self.content)):
            named = said.get("__type") or said.get("Code") or said.get("code")
        name = named.partition(":")[0].rpartition("#")[2] if isinstance(named, str) else ""
        return name if CODE.fullmatch(name) else ""


class OtlpSink:
    """
    Sends batches as OTLP metrics.

    Args:
        connection: How to reach it. An endpoint without a path gets `/v1/metrics`; None is CloudWatch in the region.
        counters: Names of metrics that are sent as sums.
        resource: Attributes of the process, such as `service.name`; `service.instance.id` is added.
        signed: Whether requests carry an AWS signature; a collector beside the application asks for none.
        make_session: Makes what sends the requests; the default is botocore's.
        monotonic: Seconds on a clock that never steps back, for the rate of log lines.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        counters: Collection[str] = (),
        resource: Mapping[str, str] | None = None,
        signed: bool = True,
        make_session: Callable[[Connection], Any] | None = None,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._connection = connection
        self._counters = frozenset(counters)
        self._resource = dict(resource or {})
        self._signed = signed
        self._make_session = make_session or _http_session
        self._monotonic = monotonic or SystemRuntime().monotonic
        self._next_warning = float("-inf")
        self._abandoned: list[object] = []
        self._begin()
        self.rejected_data_points = 0
        """Data points left out of requests that were otherwise accepted. Which ones is not said, so they count as delivered."""

    def _begin(self) -> None:
        self._instance = str(uuid.uuid4())
        self._sends = itertools.count(1)
        self._wire: Wire | None = None
        self._making = threading.Lock()

    def send(self, batch: Batch) -> None:
        """
        Put one batch on the wire; see `base.Sink.send`.
        """
        points = points_of(batch.datums)
        if len(points) > POINTS_PER_REQUEST:
            message = f"{len(points)} data points in one request; {POINTS_PER_REQUEST} are allowed"
            raise SinkTooLarge(message)
        wire = self._connected()
        with calling():
            try:
                answer = self._exchange(wire, batch, points)
                accepted = _accepted(answer, signed=self._signed) if answer.status == 200 else None
            except Exception as error:
                failure = translate_failure(error, encoded=CALL.encoded, written=CALL.written)
                raise self._learned(wire, failure) from error
        if answer.status != 200:
            raise self._learned(wire, _refusal(answer, alone=len(batch.datums) == 1), answer.code)
        if accepted is None:
            message = "the answer was 200 but is not one of OTLP: something other than the endpoint answered"
            raise SinkUnavailable(message, maybe_delivered=True)
        self._check(accepted, batch, len(points))

    def _exchange(self, wire: Wire, batch: Batch, points: Mapping[tuple[Series, int], dict[float, int]]) -> Answer:
        body = self._request(batch.namespace, points).SerializeToString()
        CALL.encoded = True
        answer = _post(wire, body)
        return Answer(answer.status_code, answer.headers, answer.content)

    def _learned(self, wire: Wire, error: SinkError, code: str = "") -> SinkError:
        """
        The same error; if it is about credentials, the next call makes a session of its own, with those that are found then.
        """
        if isinstance(error, SinkForbidden) or code in EXPIRED:
            self._forget(wire)
        return error

    def _forget(self, wire: Wire) -> None:
        with self._making:
            if self._wire is not wire:
                return
            self._wire = None
        wire.session.close()

    def _check(self, answer: ExportMetricsServiceResponse, batch: Batch, sent: int) -> None:
        """
        Look for what was not accepted. Which points is not said, so unless it was all of them nothing can be sent again or dropped.
        """
        partial = answer.partial_success
        rejected = int(partial.rejected_data_points)
        if rejected >= sent:
            # Somebody's text may repeat an attribute's value, so it is not repeated here.
            message = f"all {sent} data points were rejected"
            raise SinkRejected(message, members=tuple(range(len(batch.datums))))
        if rejected > 0:
            self.rejected_data_points += rejected
            so_far = self.rejected_data_points
            self._warn(
                f"rejected {rejected} of {sent} data points of a request, {so_far} so far; they count as delivered"
            )
        elif partial.error_message:
            self._warn("accepted a request with a warning")

    def _warn(self, what: str) -> None:
        """
        Say it, unless something was said within the last minute.
        """
        now = self._monotonic()
        if now >= self._next_warning:
            self._next_warning = now + WARNING_SECONDS
            import logging

            logging.getLogger("retainwise_metrics").warning("the OTLP endpoint %s", what)

    def _request(self, namespace: str, points: Mapping[tuple[Series, int], dict[float, int]]) -> Any:
        offset = next(self._sends)
        request = ExportMetricsServiceRequest()
        resource = request.resource_metrics.add()
        resource.resource.attributes.extend(
            _attributes((self._resource | {"service.instance.id": self._instance}).items())
        )
        scope = resource.scope_metrics.add()
        scope.scope.name = namespace
        metrics: dict[tuple[str, str], Any] = {}
        for (series, window), counts in points.items():
            metric = metrics.get((series.name, series.unit))
            if metric is None:
                metric = metrics[series.name, series.unit] = _metric(scope.metrics.add(), series)
            self._add_point(metric, series, window, counts, offset)
        return request

    def _add_point(self, metric: Any, series: Series, window: int, counts: dict[float, int], offset: int) -> None:
        point = _sum_point(metric.sum, counts) if series.name in self._counters else _histogram_point(metric, counts)
        point.attributes.extend(_attributes(series.dimensions))
        point.start_time_unix_nano = window * NANOSECONDS
        point.time_unix_nano = window * NANOSECONDS + (offset % (1000 * series.resolution)) * 1_000_000

    def _connected(self) -> Wire:
        with self._making:
            if self._wire is None:
                try:
                    with IMPORTS.lock, calling():
                        self._wire = self._made()
                except SinkError:
                    raise
                except Exception as error:
                    # No region, no credentials, a malformed endpoint: somebody has to change a setting.
                    message = f"the OTLP endpoint could not be set up: {words(error)}"
                    raise SinkForbidden(message) from error
            return self._wire

    def _made(self) -> Wire:
        connection = self._connection
        if not self._signed:
            if connection.endpoint_url is None:
                message = "an OTLP endpoint without signatures needs an address; set endpoint_url"
                raise SinkForbidden(message)
            return Wire(_with_path(connection.endpoint_url), self._make_session(connection), _unsigned)
        import botocore.session

        hush()
        aws = botocore.session.Session()
        region = connection.region or aws.get_config_variable("region")
        if not region:
            message = "no AWS region is set; set AWS_REGION"
            raise SinkForbidden(message)
        credentials = aws.get_credentials()
        if credentials is None:
            message = "no AWS credentials were found; CloudWatch's OTLP endpoint asks for a signature"
            raise SinkForbidden(message)
        url = connection.endpoint_url or _endpoint(aws, region)
        session = self._make_session(connection._replace(endpoint_url=url))
        return Wire(_with_path(url), session, _signer(credentials, region))

    def datum_bytes(self, datum: Datum) -> int:
        """
        Size of one datum in a request, when it shares nothing with another: it is never larger.
        """
        series = datum.series
        metric = _metric(proto.Metric(), series)
        self._add_point(metric, series, datum.timestamp, dict(zip(datum.values, datum.counts, strict=True)), 1)
        return int(metric.ByteSize()) + FRAMING_BYTES

    def envelope_bytes(self, namespace: str) -> int:
        """
        Size of a request without datums; it is never larger.
        """
        return int(self._request(namespace, {}).ByteSize()) + ENVELOPE_BYTES

    def after_fork(self) -> None:
        """
        Forget the parent's connections, kept unused, and be somebody else.
        """
        self._abandoned.append(self._wire)
        self._begin()

    def close(self) -> None:
        """
        Close the connections.
        """
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.session.close()


# ---- what a batch becomes ----


def points_of(datums: Iterable[Datum]) -> dict[tuple[Series, int], dict[float, int]]:
    """
    One point per series and window: what had too many values for one datum is put together again.
    """
    points: dict[tuple[Series, int], dict[float, int]] = {}
    for datum in datums:
        counts = points.setdefault((datum.series, datum.timestamp), {})
        for value, count in zip(datum.values, datum.counts, strict=True):
            counts[value] = counts.get(value, 0) + count
    return points


def scale_of(smallest: float, largest: float) -> int:
    """
    The finest scale at which all magnitudes from `smallest` to `largest` (both above 0) fit into `BUCKETS` buckets.

    A bucket of scale s is 2 ** (2 ** -s) - 1 wide, relative to its lower bound: 0.27 % at 8, 4.4 % at 4 (values up to a factor of 900
    apart), 9.1 % at 3 (a factor of 900,000).
    """
    scale = MAX_SCALE
    low, high = index_of(smallest, scale), index_of(largest, scale)
    while high - low >= BUCKETS and scale > MIN_SCALE:
        scale, low, high = scale - 1, low >> 1, high >> 1
    return scale


def index_of(magnitude: float, scale: int) -> int:
    """
    The bucket that holds a magnitude above 0: bucket i covers what is above base**i, up to base**(i+1).
    """
    return math.ceil(math.ldexp(math.log2(magnitude), scale)) - 1


def _histogram_point(metric: Any, counts: dict[float, int]) -> Any:
    metric.exponential_histogram.aggregation_temporality = DELTA
    point = metric.exponential_histogram.data_points.add()
    magnitudes = [abs(value) for value in counts if value]
    point.scale = scale_of(min(magnitudes), max(magnitudes)) if magnitudes else MAX_SCALE
    point.count = sum(counts.values())
    point.zero_count = counts.get(0.0, 0)
    point.min, point.max = min(counts), max(counts)
    if point.min >= 0:  # the protocol leaves the sum out when values are negative
        point.sum = _total(counts)
    _fill(point.positive, {value: count for value, count in counts.items() if value > 0}, point.scale)
    _fill(point.negative, {-value: count for value, count in counts.items() if value < 0}, point.scale)
    return point


def _fill(buckets: Any, counts: dict[float, int], scale: int) -> None:
    if not counts:
        return
    indexed = [(index_of(value, scale), count) for value, count in counts.items()]
    first, last = min(indexed)[0], max(indexed)[0]
    held = [0] * (last - first + 1)
    for index, count in indexed:
        held[index - first] += count
    buckets.offset = first
    buckets.bucket_counts.extend(held)


def _sum_point(total: Any, counts: dict[float, int]) -> Any:
    total.aggregation_temporality = DELTA
    total.is_monotonic = min(counts) >= 0 and (total.is_monotonic or not total.data_points)
    point = total.data_points.add()
    point.as_double = _total(counts)
    return point


def _total(counts: dict[float, int]) -> float:
    return math.fsum(value * count for value, count in counts.items())


def _metric(metric: Any, series: Series) -> Any:
    metric.name = series.name
    base, slash, _ = series.unit.partition("/")
    metric.unit = UNITS[base] + ("/s" if slash else "")
    return metric


def _attributes(pairs: Iterable[tuple[str, str]]) -> list[KeyValue]:
    return [KeyValue(key=name, value=AnyValue(string_value=value)) for name, value in pairs]


# ---- the wire ----


def _http_session(connection: Connection) -> Any:
    """
    What sends the requests; proxies and certificates as boto3 finds them, in the environment and the profile.
    """
    import encodings.idna  # noqa: F401 - as in put_metric_data

    from botocore.httpsession import URLLib3Session
    from botocore.session import Session
    from botocore.utils import get_environ_proxies

    hush()
    bundle = Session().get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE") or True
    session = URLLib3Session(
        verify=bundle,
        proxies=get_environ_proxies(connection.endpoint_url),
        timeout=(connection.connect_timeout_seconds, connection.read_timeout_seconds),
    )
    watch(session)
    return session


def _endpoint(aws: Any, region: str) -> str:
    """
    CloudWatch's address in a region: that of its API, which botocore knows for every partition.
    """
    client = aws.create_client("cloudwatch", region_name=region)
    try:
        return str(client.meta.endpoint_url)
    finally:
        client.close()


def _with_path(url: str) -> str:
    from urllib.parse import urlsplit

    return url.rstrip("/") + PATH if urlsplit(url).path in {"", "/"} else url


def _signer(credentials: Any, region: str) -> Callable[[Any], None]:
    from botocore.auth import SigV4Auth

    hush()

    def sign(request: Any) -> None:
        # Frozen anew for each request: credentials of a role are refreshed here when they are about to expire.
        SigV4Auth(credentials.get_frozen_credentials(), SERVICE, region).add_auth(request)

    return sign


def _unsigned(_: Any) -> None:
    """Nothing: a collector asks for no signature."""


def _post(wire: Wire, body: bytes) -> Any:
    from botocore.awsrequest import AWSRequest

    headers = {
        "Content-Type": "application/x-protobuf",
        "Content-Encoding": "gzip",
        "User-Agent": "retainwise-metrics",
    }
    # Level 1: half the size of the best, at a tenth of its time; and without a time of its own, so that a body is the same twice.
    request = AWSRequest("POST", wire.url, headers=headers, data=gzip.compress(body, compresslevel=1, mtime=0))
    wire.sign(request)
    prepared = request.prepare()
    CALL.written = True  # for sessions that do not say so themselves
    return wire.session.send(prepared)


def _accepted(answer: Answer, *, signed: bool) -> ExportMetricsServiceResponse | None:
    """
    What stands in an answer of 200; None if it is not one of this protocol, or not all of one.

    What a message says that has other members only is read without an error, so it is none of this protocol either: an answer is empty, or
    says how much was rejected. An empty one that does not say what it is, as Prometheus gives, is taken from whoever asks for no signature.
    """
    accepted = ExportMetricsServiceResponse()
    if not answer.is_complete:
        return None
    if answer.kind == "application/json":
        from google.protobuf import json_format

        said = _json_object(answer.content or b"{}")
        if said is None or (said and not PARTIAL_SUCCESS & said.keys()):
            return None
        try:
            json_format.ParseDict(said, accepted, ignore_unknown_fields=True)
        except json_format.ParseError:
            return None
        return accepted
    if answer.kind not in BINARY:
        return None
    try:
        accepted.ParseFromString(answer.content)
    except DecodeError:
        return None
    if answer.content:
        return accepted if accepted.HasField("partial_success") else None
    says_empty = answer.is_of_aws or (not signed and "content-length" in answer.headers)
    return accepted if answer.kind or says_empty else None


def _refusal(answer: Answer, *, alone: bool) -> SinkError:
    """
    What any other answer means for the batch.

    Args:
        answer: What came back.
        alone: Whether the batch is of one datum, which cannot be split.
    """
    status, code, after = answer.status, answer.code, retry_after(answer.headers)
    said = f"{status} {code}".strip() + " from the OTLP endpoint"
    is_too_large = status == 413 or (status == 400 and b"Maximum number of datapoints" in answer.content)
    # A proxy may allow less than the endpoint, so a batch is split for it; but no datum is given up because of it.
    if is_too_large and (not alone or _is_ours(answer)):
        return SinkTooLarge(said)
    if status == 429 or _is(code, THROTTLED) or (status == 503 and after is not None):
        return SinkThrottled(said, retry_after_seconds=after)
    if _is(code, EXPIRED) or _is(code, TEMPORARY) or is_too_large or status < 400 or status == 408 or status >= 500:
        # A 503 says that it was not done; after any other 5xx, of the endpoint or of something between, nobody knows.
        maybe = status < 300 or (status >= 500 and status != 503)
        return SinkUnavailable(said, retry_after_seconds=after, maybe_delivered=maybe)
    if status in {400, 422} and not _is(code, FORBIDDEN):
        return SinkRejected(said) if _is_ours(answer) else SinkUnavailable(f"{status} from something else than OTLP")
    # Wrong credentials, address, region or method: nothing gets through until somebody changes them.
    return SinkForbidden(said)


def _is(code: str, known: Collection[str]) -> bool:
    """
    Whether it is one of those, which come in two spellings.
    """
    name = code.removesuffix("Exception")
    return name in known or f"{name}Exception" in known


def _is_ours(answer: Answer) -> bool:
    """
    Whether a refusal was written by AWS or by an OTLP endpoint, which answers with a `google.rpc.Status`, and arrived as a whole.
    """
    if not answer.is_complete:
        return False
    if answer.is_of_aws or _is(answer.code, REJECTED):
        return True
    if answer.kind == "application/json":
        return isinstance((_json_object(answer.content) or {}).get("code"), int)
    if answer.kind != "application/x-protobuf":
        return False
    # It has the members of a Status, a number and a text, under the same numbers.
    status = ExportMetricsPartialSuccess()
    try:
        status.ParseFromString(answer.content)
    except DecodeError:
        return False
    return not answer.content or bool(status.rejected_data_points or status.error_message)


def _json_object(content: bytes) -> dict[str, Any] | None:
    """
    What stands in a body, if it is that.
    """
    if content.lstrip()[:1] != b"{":
        return None
    import json

    try:
        return cast("dict[str, Any]", json.loads(content))
    except (ValueError, RecursionError):
        return None
