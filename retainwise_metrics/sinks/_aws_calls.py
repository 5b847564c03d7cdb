"""
Calls to AWS over HTTP with botocore's means: how long they take, what they let slip, and what their failures mean.

Both sinks that make such calls share it: `put_metric_data`, whose requests boto3 writes, and `otlp`, which writes them itself.

Rules
1. Whoever answers may be anybody. An answer has a time and a size after which it ends.
2. No text of an answer, nor of an exception that may show a secret, gets into a message.
3. What goes wrong before a request was written may be the batch's fault, while it was signed only the credentials', afterwards neither.
4. What botocore says about the library's own calls below WARNING is not said: a log handler that records would never come to rest.
"""

from __future__ import annotations

import math
import re
import threading
from contextlib import contextmanager, suppress
from io import BufferedReader, RawIOBase
from typing import TYPE_CHECKING, Any

from retainwise_metrics.runtime import SystemRuntime

from .base import SinkError, SinkForbidden, SinkRejected, SinkUnavailable

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator, Mapping

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
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
"""Others may be there already, where these were found."""

CODE = re.compile(r"[A-Z][A-Za-z]{2,80}|\d{3}", re.ASCII)
"""What a code looks like, or the status that botocore puts in its place. Anything else was not written by AWS, and may be a secret."""

URL = re.compile(r"(https?://)([^\s\"']*)", re.ASCII | re.IGNORECASE)

ANSWER_BYTES = 1_000_000
"""Most bytes of an answer that are read; CloudWatch's have less than a thousand, a refusal of a thousand datums some hundred thousand."""

CHATTY = ("boto3", "botocore", "urllib3")
"""Loggers that have something to say about each call."""


# ---- a call ----


class _Call(threading.local):
    """
    The call that the current thread is making. It is a log filter, too.
    """

    under_way = False
    encoded = False
    """Whether the request has its body: what goes wrong afterwards is not the batch's fault."""
    written = False
    """Whether some of the request may have left: what goes wrong afterwards may go wrong although it was accepted."""

    def filter(self, record: logging.LogRecord) -> bool:
        """
        Whether a line of one of the `CHATTY` loggers may be written.
        """
        return not self.under_way or record.levelno >= 30  # logging.WARNING; the module is not imported for a number


CALL = _Call()


@contextmanager
def calling() -> Iterator[None]:
    """
    Make a call, or a client, that is not talked about.
    """
    hush()
    # A signal handler may make a call in the middle of another one.
    before = CALL.under_way, CALL.encoded, CALL.written
    CALL.under_way, CALL.encoded, CALL.written = True, False, False
    try:
        yield
    finally:
        CALL.under_way, CALL.encoded, CALL.written = before


def hush() -> None:
    """
    Filter every logger of boto3 that there is: a filter on a parent does not see what its children are told.

    To be called again after an import of more of boto3, which makes more of them.
    """
    import logging

    for name in list(logging.root.manager.loggerDict):
        if name.startswith(CHATTY):
            logging.getLogger(name).addFilter(CALL)


# ---- its answer ----


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


def watch(http_session: Any) -> None:
    """
    Let the connections of a `botocore.httpsession.URLLib3Session` read their answers through `_Limited`, and note when a request leaves.

    botocore has no public place for that. Should a release of it move this one, answers have no deadline as a whole, some failures are
    taken for doubtful that are not, and everything else works; tests notice.
    """
    from http.client import HTTPResponse

    monotonic = SystemRuntime().monotonic

    class Response(HTTPResponse):
        """One that ends."""

        def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
            super().__init__(sock, *args, **options)
            self.fp = BufferedReader(_Limited(self.fp.detach(), sock, monotonic))

    with suppress(AttributeError):
        pools = http_session._pool_classes_by_scheme  # noqa: SLF001
        for scheme, pool in list(pools.items()):
            connection = type("Connection", (_Watched, pool.ConnectionCls), {"response_class": Response})
            pools[scheme] = type("Pool", (pool,), {"ConnectionCls": connection})


class _Watched:
    """
    What a connection of urllib3 does besides: note whether anything of the request has left.
    """

    def connect(self) -> None:
        try:
            super().connect()  # type: ignore[misc]
        finally:
            CALL.written = False  # what a proxy or TLS was told is not the request

    def request(self, *args: Any, **options: Any) -> None:
        CALL.written = False
        super().request(*args, **options)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        if self.sock is None:  # type: ignore[attr-defined]
            self.connect()
        CALL.written = True
        super().send(data)  # type: ignore[misc]


# ---- what its failure means ----


def translate_failure(error: Exception, *, encoded: bool = False, written: bool = False) -> SinkError:
    """
    What it means for the batch that a call raised something else than an answer to it.

    Args:
        error: What was raised.
        encoded: Whether the body of the request had been written before: then it was the signature that could not be made.
        written: Whether some of the request may have left before: then it was the answer that could not be read.
    """
    from botocore import exceptions as boto

    if isinstance(error, boto.ClientError):
        return _without_credentials(error)
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
        return SinkForbidden(words(error))
    if isinstance(error, (boto.BotoCoreError, boto.HTTPClientError, OSError)):
        return SinkUnavailable(words(error), maybe_delivered=written and not _never_left(error))
    kind = type(error).__name__
    if written:
        message = f"{kind} while the answer was being read: something else answered"
        return SinkUnavailable(message, maybe_delivered=True)
    if isinstance(error, (TypeError, ValueError, OverflowError)):
        if encoded:
            return SinkForbidden(f"{kind} while the request was being signed: the credentials cannot be used")
        # Content that slipped through the checks.
        return SinkRejected(f"{kind} while the request was being written")
    return SinkUnavailable(f"unexpected {kind}")


def _without_credentials(error: Any) -> SinkError:
    """
    Somebody else of AWS was asked before, for credentials, and refused.
    """
    code = code_of(error)
    message = f"{code or 'an error'} from AWS when it was asked for credentials"
    return SinkUnavailable(message) if code in THROTTLED else SinkForbidden(message)


def _never_left(error: Exception) -> bool:
    """
    Whether no connection came about, so that nothing of the request can have arrived.
    """
    from botocore import exceptions as boto

    if isinstance(error, boto.SSLError):  # also raised for a connection that breaks later
        return "CERTIFICATE_VERIFY_FAILED" in str(error)
    return isinstance(error, (boto.ConnectTimeoutError, boto.EndpointConnectionError, boto.ProxyConnectionError))


def words(error: Any) -> str:
    """
    An exception in words, without what URLs say besides the host: passwords, and keys that are part of a path.
    """
    from botocore import exceptions as boto

    kind = type(error).__name__
    if type(error) is boto.HTTPClientError:
        # Not one of the known ways to fail. It repeats what it wraps, and that may be a header with a session token.
        return f"{kind}: {type(error.kwargs.get('error')).__name__}"
    if isinstance(error, (boto.CredentialRetrievalError, boto.TokenRetrievalError)):
        return f"{kind}: credentials could not be loaded"  # it repeats what a program wrote that was asked for them
    return URL.sub(_host_only, f"{kind}: {' '.join(str(error).split())}")


def _host_only(url: re.Match[str]) -> str:
    authority, *_ = re.split(r"[/?#]", url[2], maxsplit=1)
    user, at, host = authority.rpartition("@")
    if "@" in url[2][len(authority) :]:
        host = "***"  # a password with a slash in it: where the host begins is not certain
    rest = "/***" if len(url[2]) > len(authority) + 1 else url[2][len(authority) :]
    return f"{url[1]}{'***@' if user or at else ''}{host}{rest}"


def code_of(error: Any) -> str:
    """
    AWS's name for an error that it answered with; "" if that is not one.
    """
    answer = getattr(error, "response", None) or {}
    code = answer.get("Error", {}).get("Code", "")
    return code if isinstance(code, str) and CODE.fullmatch(code) else ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """
    How many seconds to wait the answer asks for.

    `x-amz-retry-after` is in milliseconds (AWS SDKs, botocore/retries/standard.py), `Retry-After` in seconds or a date (RFC 9110, 10.2.3).
    """
    for name, unit in (("x-amz-retry-after", 0.001), ("retry-after", 1.0)):
        with suppress(KeyError, ValueError):
            seconds = float(headers[name]) * unit
            if math.isfinite(seconds):
                return max(seconds, 0.0)
    with suppress(KeyError, ValueError, OverflowError, OSError):
        from email.utils import parsedate_to_datetime

        return max(parsedate_to_datetime(headers["retry-after"]).timestamp() - SystemRuntime().wall(), 0.0)
    return None
