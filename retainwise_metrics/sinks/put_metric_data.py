"""
PutMetricData through boto3.

Rules
1. The client is made at the first send, on the sending thread, from a session of its own: nothing is imported or opened before.
2. Retries, timeouts and deadlines are the pipeline's: botocore makes exactly one attempt.
3. Every way a call can fail becomes one of the errors of `base`; only what AWS answered with a request id counts as accepted.
4. A client made before a fork is never used or closed by the child: using it makes the *parent* hang (measured).
5. Whoever answers may be anybody. An answer has a time and a size after which it ends, it can make a batch be sent again but not be given
   up, and no text of it, nor of an exception that may show a secret, gets into a message.
6. boto3 finds its credentials once per client. A client whose credentials were refused is forgotten, so that others are found.
7. What boto3 says about the library's own calls below WARNING is not said: a log handler that records would never come to rest.
"""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from io import BufferedReader, RawIOBase
from typing import TYPE_CHECKING, Any, NamedTuple

from retainwise_metrics.runtime import IMPORTS, SystemRuntime

from .base import SinkError, SinkForbidden, SinkRejected, SinkThrottled, SinkTooLarge, SinkUnavailable

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator

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
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
"""Others may be there already, where these were found."""

CODE = re.compile(r"[A-Za-z0-9_.]{1,100}", re.ASCII)
"""What a code looks like. Anything else was not written by AWS, and does not belong into a log line."""

USER_INFO = re.compile(r"//[^/\s\"']*@")
"""Name and password in an endpoint's URL."""

ANSWER_BYTES = 1_000_000
"""Most bytes of an answer that are read; CloudWatch's have less than a thousand, a refusal of a thousand datums some hundred thousand."""

CHATTY = ("boto3", "botocore", "urllib3")
"""Loggers that have something to say about each call."""


class Connection(NamedTuple):
    """
    How to reach CloudWatch; None leaves the choice to boto3 (environment, profile, instance metadata).

    Attributes:
        region: AWS region.
        endpoint_url: Where to send instead of the region's endpoint.
        connect_timeout_seconds: Per call.
        read_timeout_seconds: Until the answer is complete, per call; a call that times out may still have been accepted.
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

    _hush()
    try:
        agent = f"retainwise-metrics/{version('retainwise-metrics')}"
    except PackageNotFoundError:
        agent = "retainwise-metrics"
    client = boto3.session.Session(region_name=connection.region).client(
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
    client.meta.events.register("before-send.cloudwatch.PutMetricData", _written)
    _limit_answers(client)
    return client


class _Call(threading.local):
    """
    The call that the current thread is making. It is a log filter, too.
    """

    under_way = False
    written = False
    """Whether the request was ready to be sent: what goes wrong afterwards is not the batch's fault."""

    def filter(self, record: logging.LogRecord) -> bool:
        """
        Whether a line of one of the `CHATTY` loggers may be written.
        """
        return not self.under_way or record.levelno >= 30  # logging.WARNING; the module is not imported for a number


CALL = _Call()


def _written(**_: object) -> None:
    CALL.written = True


@contextmanager
def _calling() -> Iterator[None]:
    """
    Make a call, or a client, that is not talked about.
    """
    _hush()
    # A signal handler may make a call in the middle of another one.
    before = CALL.under_way, CALL.written
    CALL.under_way, CALL.written = True, False
    try:
        yield
    finally:
        CALL.under_way, CALL.written = before


def _hush() -> None:
    """
    Filter every logger of boto3: a filter on a parent does not see what its children are told, and children come into being at any time.
    """
    import logging

    for name in list(logging.root.manager.loggerDict):
        if name.startswith(CHATTY):
            logging.getLogger(name).addFilter(CALL)


class _Limited(RawIOBase):
    """
    A connection's answer, until it takes too long or is too long.

    The timeout of a socket is for each piece it receives: whoever sends a byte now and then would be waited for for ever.
    """

    def __init__(self, raw: Any, connection: Any, monotonic: Callable[[], float]) -> None:
        self._raw = raw
        self._connection = connection
        self._monotonic = monotonic
        self._timeout = connection.gettimeout()
        self._deadline = float("inf") if self._timeout is None else monotonic() + self._timeout
        self._left = ANSWER_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        seconds = self._deadline - self._monotonic()
        if seconds <= 0:
            raise TimeoutError
        if self._timeout is not None:
            self._connection.settimeout(seconds)
        received = self._raw.readinto(buffer)
        self._left -= received or 0
        if self._left < 0:
            message = f"the answer has more than {ANSWER_BYTES} bytes"
            raise OSError(message)
        return received

    def close(self) -> None:
        if not self.closed:
            with suppress(OSError):
                self._connection.settimeout(self._timeout)  # for the next request on this connection
            self._raw.close()
        super().close()


def _limit_answers(client: Any) -> None:
    """
    Let the client's connections read their answers through `_Limited`.

    botocore has no public place for that. Should a release of it move this one, answers have no deadline as a whole, and everything else
    works; a test notices.
    """
    from http.client import HTTPResponse

    monotonic = SystemRuntime().monotonic

    class Response(HTTPResponse):
        def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
            super().__init__(sock, *args, **options)
            self.fp = BufferedReader(_Limited(self.fp.detach(), sock, monotonic))

    with suppress(AttributeError):
        pools = client._endpoint.http_session._pool_classes_by_scheme  # noqa: SLF001
        for scheme, pool in list(pools.items()):
            connection = type("Connection", (pool.ConnectionCls,), {"response_class": Response})
            pools[scheme] = type("Pool", (pool,), {"ConnectionCls": connection})


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
        with _calling():
            try:
                answer = client.put_metric_data(
                    Namespace=batch.namespace, MetricData=[to_wire(datum) for datum in batch.datums]
                )
            except Exception as error:
                translated = translate(error, written=CALL.written)
                if isinstance(translated, SinkForbidden) or _code_of(error) in EXPIRED:
                    self._forget(client)
                raise translated from error
        if not answer.get("ResponseMetadata", {}).get("RequestId"):
            message = "the answer was no error but carried no request id: something other than CloudWatch answered"
            raise SinkUnavailable(message, maybe_delivered=True)

    def _connected(self) -> Any:
        with self._making:
            if self._client is None:
                try:
                    with IMPORTS, _calling():
                        self._client = self._make_client(self._connection)
                except Exception as error:
                    # No region, an unknown profile, a malformed endpoint: somebody has to change a setting.
                    message = f"the boto3 client could not be made: {_words(error)}"
                    raise SinkForbidden(message) from error
            return self._client

    def _forget(self, client: Any) -> None:
        """
        Let the next call make a client of its own, with the credentials that are found then.
        """
        with self._making:
            if self._client is not client:
                return
            self._client = None
        client.close()

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


def translate(error: Exception, *, written: bool = False) -> SinkError:
    """
    What an exception from boto3 means for the batch.

    Codes come in two spellings, with and without "Exception": the service translates for older clients, proxies do not.

    Args:
        error: What was raised.
        written: Whether the request had been written before: then it was the answer that could not be read.
    """
    from botocore import exceptions as boto

    if isinstance(error, boto.ClientError):
        return _translate_answer(error)
    if isinstance(
        error,
        (
            boto.NoCredentialsError,
            boto.PartialCredentialsError,
            boto.CredentialRetrievalError,
            boto.TokenRetrievalError,
            boto.NoRegionError,
            boto.InvalidRegionError,
        ),
    ):
        return SinkForbidden(_words(error))
    if isinstance(error, (boto.BotoCoreError, boto.HTTPClientError, OSError)):
        return SinkUnavailable(_words(error), maybe_delivered=written and not _never_left(error))
    if written:
        return SinkUnavailable(
            f"{type(error).__name__} while the answer was being read: it is not one of CloudWatch's",
            maybe_delivered=True,
        )
    if isinstance(error, (TypeError, ValueError, OverflowError)):
        # Raised while the request was being written: content that slipped through the checks.
        return SinkRejected(f"{type(error).__name__} while the request was being written")
    return SinkUnavailable(f"unexpected {type(error).__name__}")


def _never_left(error: Exception) -> bool:
    """
    Whether no connection came about, so that nothing of the request can have arrived.
    """
    from botocore import exceptions as boto

    if isinstance(error, boto.SSLError):  # also raised for a connection that breaks later
        return "CERTIFICATE_VERIFY_FAILED" in str(error)
    return isinstance(error, (boto.ConnectTimeoutError, boto.EndpointConnectionError, boto.ProxyConnectionError))


def _words(error: Any) -> str:
    """
    An exception in words, without passwords in URLs.
    """
    from botocore import exceptions as boto

    kind = type(error).__name__
    if type(error) is boto.HTTPClientError:
        # Not one of the known ways to fail. It repeats what it wraps, and that may be a header with a session token.
        return f"{kind}: {type(error.kwargs.get('error')).__name__}"
    if isinstance(error, (boto.CredentialRetrievalError, boto.TokenRetrievalError)):
        return f"{kind}: credentials could not be loaded"  # it repeats what a program wrote that was asked for them
    return USER_INFO.sub("//***@", f"{kind}: {' '.join(str(error).split())}")


def _code_of(error: Any) -> str:
    code = getattr(error, "response", None) or {}
    code = code.get("Error", {}).get("Code", "")
    return code if isinstance(code, str) and CODE.fullmatch(code) else ""


def _translate_answer(error: Any) -> SinkError:
    answer = error.response
    code = _code_of(error)
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
    # A 503 says that it was not done; after any other 5xx, of the service or of something between, nobody knows.
    maybe = status >= 500 and status != 503
    return SinkUnavailable(words, retry_after_seconds=_retry_after(answer), maybe_delivered=maybe)


def _retry_after(answer: dict[str, Any]) -> float | None:
    """
    `Retry-After` in seconds (RFC 9110, 10.2.3) or `x-amz-retry-after` in milliseconds (AWS SDKs, botocore/retries/standard.py).
    """
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    for name, unit in (("x-amz-retry-after", 0.001), ("retry-after", 1.0)):
        with suppress(KeyError, ValueError):
            seconds = float(headers[name]) * unit
            if seconds >= 0:  # neither is NaN
                return seconds
    return None
