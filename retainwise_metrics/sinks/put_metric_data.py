"""
PutMetricData through boto3.

Rules
1. The client is made at the first send, on the sending thread, from a session of its own: nothing is imported or opened before.
2. Retries, timeouts and deadlines are the pipeline's: botocore makes exactly one attempt.
3. Every way a call can fail becomes one of the errors of `base`; only what AWS answered with a request id counts as accepted.
4. A client made before a fork is never used or closed by the child: using it makes the *parent* hang (measured).
"""

from __future__ import annotations

import json
import re
import threading
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from retainwise_metrics.runtime import IMPORTS

from .base import SinkError, SinkForbidden, SinkRejected, SinkThrottled, SinkTooLarge, SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from retainwise_metrics.datum import Batch, Datum, Series

MEMBER = re.compile(r"MetricData\.member\.(\d+)")
"""AWS names each offending datum, from 1 (recorded answers of the service; it lists all of them, one per line)."""

THROTTLED = frozenset(
    {
        "BandwidthLimitExceeded",
        "LimitExceeded",
        "LimitExceededException",
        "LimitExceededFault",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttled",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "429",
    }
)
FORBIDDEN = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnauthorizedOperation",
        "UnrecognizedClientException",
    }
)
"""`ExpiredToken` and `RequestExpired` are not here: credentials that refresh, and clocks, come right by themselves."""
REJECTED = frozenset(
    {
        "InvalidParameterCombination",
        "InvalidParameterCombinationException",
        "InvalidParameterValue",
        "InvalidParameterValueException",
        "MissingParameter",
        "MissingRequiredParameter",
        "MissingRequiredParameterException",
        "SerializationException",
        "ValidationError",
        "ValidationException",
    }
)
TOO_LARGE = frozenset({"RequestEntityTooLarge", "RequestEntityTooLargeException", "413"})


class Connection(NamedTuple):
    """
    How to reach CloudWatch; None leaves the choice to boto3 (environment, profile, instance metadata).

    Attributes:
        region: AWS region.
        endpoint_url: Where to send instead of the region's endpoint.
        connect_timeout_seconds: Per call.
        read_timeout_seconds: Per call; a call that times out may still have been accepted.
    """

    region: str | None = None
    endpoint_url: str | None = None
    connect_timeout_seconds: float = 3.0
    read_timeout_seconds: float = 10.0


def boto3_client(connection: Connection) -> Any:
    """
    A CloudWatch client that makes one attempt per call and validates nothing, because the library has.
    """
    import encodings.idna  # noqa: F401 - urllib3 needs it for the first connection; here a fork waits for it (runtime.ImportGate)
    from importlib.metadata import PackageNotFoundError, version

    import boto3.session
    from botocore.config import Config

    try:
        agent = f"retainwise-metrics/{version('retainwise-metrics')}"
    except PackageNotFoundError:
        agent = "retainwise-metrics"
    return boto3.session.Session(region_name=connection.region).client(
        "cloudwatch",
        endpoint_url=connection.endpoint_url,
        config=Config(
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=connection.connect_timeout_seconds,
            read_timeout=connection.read_timeout_seconds,
            parameter_validation=False,
            tcp_keepalive=True,
            user_agent_extra=agent,
        ),
    )


class PutMetricDataSink:
    """
    Sends batches to CloudWatch.

    Args:
        connection: How to reach it.
        make_client: Makes the boto3 client; the default is `boto3_client`.
    """

    def __init__(self, connection: Connection, make_client: Callable[[Connection], Any] = boto3_client) -> None:
        self._connection = connection
        self._make_client = make_client
        self._abandoned: list[object] = []
        self._client: Any = None
        self._making = threading.Lock()

    def send(self, batch: Batch) -> None:
        """
        Put one batch on the wire; see `base.Sink.send`.
        """
        client = self._connected()
        try:
            answer = client.put_metric_data(
                Namespace=batch.namespace, MetricData=[to_wire(datum) for datum in batch.datums]
            )
        except Exception as error:
            raise translate(error) from error
        if not answer.get("ResponseMetadata", {}).get("RequestId"):
            message = "the answer was 200 but carried no request id: something other than CloudWatch answered"
            raise SinkUnavailable(message)

    def _connected(self) -> Any:
        with self._making:
            if self._client is None:
                try:
                    with IMPORTS:
                        self._client = self._make_client(self._connection)
                except Exception as error:
                    # No region, an unknown profile, a malformed endpoint: somebody has to change a setting.
                    message = f"the boto3 client could not be made: {type(error).__name__}: {error}"
                    raise SinkForbidden(message) from error
            return self._client

    def datum_bytes(self, datum: Datum) -> int:
        """
        Exact size of one datum in the JSON body, with its separator.
        """
        series = datum.series
        fixed = series.encoded_bytes
        if fixed is None:
            fixed = series.encoded_bytes = _fixed_bytes(series)
        values = sum(map(len, map(repr, datum.values))) + 2 * (len(datum.values) - 1)
        if max(datum.counts) == 1:
            # One value alone is written as "Value": 1.5, several as "Values": [1.5, 2.5].
            return (
                fixed
                + len(str(datum.timestamp))
                + values
                + (len('"Value": ') if len(datum.values) == 1 else len('"Values": []'))
            )
        counts = sum(map(len, map(str, datum.counts))) + 2 * (len(datum.counts) - 1)
        return fixed + len(str(datum.timestamp)) + values + counts + len('"Values": [], "Counts": []')

    def envelope_bytes(self, namespace: str) -> int:
        """
        Exact size of the body around the datums; the first datum has no separator.
        """
        return len(json.dumps({"Namespace": namespace, "MetricData": []})) - len(", ")

    def after_fork(self) -> None:
        """
        Forget the parent's client. It is kept alive, unused: collecting it could close what the parent still uses.
        """
        self._abandoned.append(self._client)
        self._client = None
        self._making = threading.Lock()

    def close(self) -> None:
        """
        Close the client's connections.
        """
        client, self._client = self._client, None
        if client is not None:
            client.close()


def to_wire(datum: Datum) -> dict[str, Any]:
    """
    A datum as boto3 takes it. The unit is always written, and whatever equals the service's default otherwise is left out.
    """
    series = datum.series
    wire: dict[str, Any] = {
        "MetricName": series.name,
        "Timestamp": datetime.fromtimestamp(datum.timestamp, timezone.utc),
        "Unit": series.unit,
    }
    if series.dimensions:
        wire["Dimensions"] = [{"Name": name, "Value": value} for name, value in series.dimensions]
    if series.resolution == 1:
        wire["StorageResolution"] = 1
    if max(datum.counts) > 1:
        wire["Values"], wire["Counts"] = list(datum.values), list(datum.counts)
    elif len(datum.values) > 1:
        wire["Values"] = list(datum.values)
    else:
        wire["Value"] = datum.values[0]
    return wire


def _fixed_bytes(series: Series) -> int:
    """
    What a datum of this series takes without its timestamp, values and counts.
    """
    empty: dict[str, Any] = {"MetricName": series.name, "Timestamp": 0, "Unit": series.unit}
    if series.dimensions:
        empty["Dimensions"] = [{"Name": name, "Value": value} for name, value in series.dimensions]
    if series.resolution == 1:
        empty["StorageResolution"] = 1
    return len(json.dumps(empty)) - len("0") + len(", ") + len(", ")


def translate(error: Exception) -> SinkError:
    """
    What an exception from boto3 means for the batch.

    Codes come in two spellings, with and without "Exception": the service translates for older clients, proxies do not.
    """
    from botocore import exceptions as boto

    if isinstance(error, boto.ClientError):
        return _translate_answer(error)
    if isinstance(
        error, (boto.NoCredentialsError, boto.PartialCredentialsError, boto.NoRegionError, boto.InvalidRegionError)
    ):
        return SinkForbidden(f"{type(error).__name__}: {error}")
    if isinstance(error, (boto.CredentialRetrievalError, boto.TokenRetrievalError)):
        return SinkForbidden(f"{type(error).__name__}: credentials could not be loaded")
    if isinstance(error, (boto.BotoCoreError, boto.HTTPClientError, OSError)):
        return SinkUnavailable(f"{type(error).__name__}: {error}")
    if isinstance(error, (TypeError, ValueError, OverflowError)):
        # Raised while the request was being written: content that slipped through the checks.
        return SinkRejected(f"{type(error).__name__} while the request was being written")
    return SinkUnavailable(f"unexpected {type(error).__name__}")


def _translate_answer(error: Any) -> SinkError:
    answer = error.response
    code = str(answer.get("Error", {}).get("Code", ""))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    text = str(answer.get("Error", {}).get("Message", ""))
    words = f"{code or status} from CloudWatch"
    if code in TOO_LARGE or status == 413:
        return SinkTooLarge(words)
    if code in THROTTLED or status == 429:
        return SinkThrottled(words, retry_after_seconds=_retry_after(answer))
    if code in FORBIDDEN:
        return SinkForbidden(words)
    if code in REJECTED:
        members = tuple(sorted({int(number) - 1 for number in MEMBER.findall(text)}))
        fields = sorted(set(re.findall(r"MetricData\.member\.\d+\.(\w+)", text)))
        return SinkRejected(f"{words}{' about ' + ', '.join(fields) if fields else ''}", members=members)
    return SinkUnavailable(words, retry_after_seconds=_retry_after(answer))


def _retry_after(answer: dict[str, Any]) -> float | None:
    """
    `Retry-After` in seconds (RFC 9110, 10.2.3) or `x-amz-retry-after` in milliseconds (AWS SDKs, botocore/retries/standard.py).
    """
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    for name, unit in (("x-amz-retry-after", 0.001), ("retry-after", 1.0)):
        try:
            return max(float(headers[name]) * unit, 0.0)
        except (KeyError, ValueError):
            continue
    return None
