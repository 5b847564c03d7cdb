"""
What the ASGI and the WSGI middlewares share: the metrics of HTTP, the request under way, its tenant, its id, its log line.

1. Nothing here harms a request: what a recorder, a tenant callable or a log handler raises is said once and the request goes on. The one
   exception is `InvalidMetricError`, which only a client with `strict=True` raises.
2. Nothing that a client of the service sends becomes a dimension or a log field as it is: a path counts as its template, a method as one
   of those that exist, a tenant as what the dimension policy makes of it, a request id only if it is short and plain.
3. What belongs to one request is held by objects of its own; a context variable points at them, so nothing leaks into another request.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from uuid import UUID

from retainwise_metrics.catalogue import http_metrics as http_metrics  # noqa: PLC0414 - the middlewares hand it on
from retainwise_metrics.default_client import client_in_any_case
from retainwise_metrics.dimensions.policy import DimensionPolicy
from retainwise_metrics.exceptions import InvalidMetricError
from retainwise_metrics.integrations._handles import Handles, spelled
from retainwise_metrics.pipeline.reporting import say
from retainwise_metrics.scoped import ScopedMetrics
from retainwise_metrics.units import MetricUnit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from retainwise_metrics.namespaces import MetricNamespace
    from retainwise_metrics.service import Recorder
    from retainwise_metrics.units import StorageResolution

REQUESTS: Final = "HttpRequests"
DURATION: Final = "HttpRequestDuration"
IN_FLIGHT: Final = "HttpRequestsInFlight"
REQUEST_SIZE: Final = "HttpRequestSize"
RESPONSE_SIZE: Final = "HttpResponseSize"
ERRORS: Final = "HttpErrors"

UNMATCHED: Final = "unmatched"
"""The endpoint of requests that no route took: 404s, scanners, redirects to a trailing slash."""

OTHER: Final = "other"
"""The endpoint, method or error type of what does not fit any more, or is not known."""

DISCONNECTED: Final = "disconnected"
"""The status of a request whose client left before it had its answer."""

CANCELLED: Final = "cancelled"
"""The status of a request that the server gave up: a shutdown, a timeout around it."""

MAX_ENDPOINTS: Final = 500
"""Route templates kept apart per middleware: more than services have routes; what calls itself a template beyond is `other`."""

ENDPOINT_KEY: Final = "retainwise_metrics.endpoint"
"""Where a framework may leave the route's template, in the scope or the environ."""

MARK: Final = "retainwise_metrics.http"
"""In the scope or the environ of a request that is being measured: a second middleware lets it pass."""

METHODS: Final = {
    name: name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE")
}
_CLASSES: Final = {number: f"{number // 100}xx" for number in range(100, 600)}

_MAX_HEADER: Final = 8192
"""Characters of a header that is looked into: servers take about as much."""

_MAX_TENANT: Final = 256
"""Characters of a tenant's identifier; what is longer is none."""

_INFO, _ERROR = 20, 40  # the levels of `logging`

_MAX_REQUEST_ID: Final = 128
_REQUEST_ID_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


class Aloud:
    """
    Says once that something fails, without the message of the exception: it may hold personal data.
    """

    __slots__ = ("_said",)

    def __init__(self) -> None:
        self._said: set[str] = set()

    def say(self, what: str, failure: BaseException) -> None:
        """
        Say that `what` failed, the first time.
        """
        if what not in self._said:
            self._said.add(what)
            say(f"{what} failed with {type(failure).__name__}: requests go on without it; this is said once")


# ---- one request ----


class Exchange:
    """
    What is known of one request and its answer so far. What has not happened yet is said by the class.

    Attributes:
        method: One of `METHODS`, or `other`.
        started: When it began, on the middleware's clock, in seconds.
        status: HTTP status of the answer; 0 while there is none.
        received: Bytes of the request's body.
        sent: Bytes of the response's body.
        complete: The answer was handed over to its last byte.
        answered: When that was; 0 unless asked for.
        left: The client was seen to be gone.
        endpoint: The route's template. Known at the end, as are the following.
        outcome: The status class, `disconnected` or `cancelled`.
        error_type: What failed on our side; "" if nothing did.
        seconds: The duration.
        instruments: What it is recorded with.
    """

    started = 0.0
    status = 0
    received = 0
    sent = 0
    complete = False
    answered = 0.0
    left = False
    endpoint = UNMATCHED
    outcome = ""
    error_type = ""
    seconds = 0.0
    instruments: Instruments | None = None

    def __init__(self, method: str) -> None:
        self.method = METHODS.get(method, OTHER)

    def conclude(self, error: BaseException | None) -> None:
        """
        Decide what came of it. What the client got counts; if it got nothing whole, why.
        """
        if self.complete:
            self.outcome = _CLASSES.get(self.status, "5xx")
        elif self.left:
            self.outcome = DISCONNECTED
        elif error is not None and not isinstance(error, Exception):
            self.outcome = CANCELLED
        else:
            self.outcome = "5xx"
        if self.outcome == "5xx" and not self.status:
            self.status = 500  # what the server answers in the application's place
        if self.outcome == "5xx" or (self.complete and isinstance(error, Exception)):
            self.error_type = self._named(error)

    def _named(self, error: BaseException | None) -> str:
        if error is not None:
            return spelled(error)
        return f"Http{self.status}" if self.complete else "IncompleteResponse"


class Instruments:
    """
    The handles of one client: bound once, then used by all requests.
    """

    def __init__(
        self, recorder: Recorder, namespace: MetricNamespace | str | None, in_flight: Callable[[], float]
    ) -> None:
        self.recorder = recorder
        self._handles = handles = Handles(recorder, namespace, {})
        self.in_flight = handles.histogram(IN_FLIGHT, MetricUnit.COUNT).observe
        self.request_size = handles.histogram(REQUEST_SIZE, MetricUnit.BYTES).observe
        self.response_size = handles.histogram(RESPONSE_SIZE, MetricUnit.BYTES).observe
        self.errors = handles.errors(ERRORS)
        self.requests: dict[tuple[str, str, str], tuple[Callable[[], object], Callable[[float], object]]] = {}
        self._endpoints: set[str] = set()
        gauge: Any = getattr(recorder, "gauge", None)
        if gauge is not None:
            # What arrivals see is the exact peak; the reading once a minute shows those that hang when nothing arrives any more.
            gauge(IN_FLIGHT, in_flight, unit=MetricUnit.COUNT, namespace=namespace)

    def bind(self, endpoint: str, method: str, outcome: str) -> tuple[Callable[[], object], Callable[[float], object]]:
        """
        What counts and times the requests of a combination that is new.
        """
        if endpoint not in self._endpoints:
            if len(self._endpoints) >= MAX_ENDPOINTS and endpoint != OTHER:
                return self.requests.get((OTHER, method, outcome)) or self.bind(OTHER, method, outcome)
            self._endpoints.add(endpoint)
        by_method = self._handles.within(Endpoint=endpoint, Method=method)
        requests = by_method.within(Status=outcome).counter(REQUESTS)
        found = requests.inc, by_method.histogram(DURATION, MetricUnit.SECONDS).observe
        self.requests[endpoint, method, outcome] = found
        return found


class Telemetry:
    """
    Records requests, in any thread.

    Args:
        metrics: Takes the records. None: the process-wide client, looked up with each request, so that one may take another's place.
        namespace: Namespace of the metrics. None: the client's default.
        clock: Seconds on a clock that never steps back.
        until_answered: End the duration with the last byte of the answer, not with the work that goes on after it.
    """

    def __init__(
        self,
        metrics: Recorder | None,
        namespace: MetricNamespace | str | None,
        clock: Callable[[], float],
        *,
        until_answered: bool,
    ) -> None:
        self._metrics = metrics
        self._namespace = namespace
        self.clock = clock
        self.until_answered = until_answered
        self.aloud = Aloud()
        self._open: set[Exchange] = set()
        self._instruments: Instruments | None = None

    def recorder(self) -> Recorder:
        """
        Who takes the records of a request that begins now.
        """
        return client_in_any_case() if self._metrics is None else self._metrics

    def begin(self, exchange: Exchange) -> None:
        """
        A request arrived.
        """
        self._open.add(exchange)
        try:
            recorder = self._metrics or client_in_any_case()
            instruments = self._instruments
            if instruments is None or instruments.recorder is not recorder:
                instruments = self._instruments = Instruments(recorder, self._namespace, self._open.__len__)
            exchange.instruments = instruments
            instruments.in_flight(len(self._open))
        except InvalidMetricError:
            raise
        except Exception as failure:  # noqa: BLE001 - rule 1
            self.aloud.say("recording an HTTP request", failure)
        exchange.started = self.clock()

    def end(self, exchange: Exchange, error: BaseException | None) -> None:
        """
        A request is over; `exchange.endpoint` is known. The second end of the same request is none.
        """
        if exchange.outcome:
            return
        self._open.discard(exchange)
        exchange.seconds = max(0.0, (exchange.answered or self.clock()) - exchange.started)
        exchange.conclude(error)
        if exchange.instruments is None:
            return
        try:
            _record(exchange, exchange.instruments)
        except InvalidMetricError:
            raise
        except Exception as failure:  # noqa: BLE001 - rule 1
            self.aloud.say("recording an HTTP request", failure)


def _record(exchange: Exchange, instruments: Instruments) -> None:
    key = exchange.endpoint, exchange.method, exchange.outcome
    found = instruments.requests.get(key)
    count, observe = instruments.bind(*key) if found is None else found
    count()
    observe(exchange.seconds)
    if exchange.sent:
        instruments.response_size(exchange.sent)
    if exchange.received:
        instruments.request_size(exchange.received)
    if exchange.error_type:
        instruments.errors.inc(exchange.error_type)


# ---- whose request it is ----


class RequestHead(Protocol):
    """
    What a tenant may be read from, whatever the server.
    """

    def header(self, name: str) -> str:
        """
        A header's value, whatever the spelling of its name; "" if there is none.
        """
        ...


class Tenants:
    """
    Where a request's tenant is named. The metrics of an unknown tenant, and of none, carry no tenant.
    """

    @staticmethod
    def from_header(name: str) -> TenantSource:
        """
        The tenant is the value of a header, such as one that a gateway sets.
        """

        def tenant(head: RequestHead) -> object | None:
            return head.header(name) or None

        return tenant

    @staticmethod
    def from_jwt_claim(claim: str, *, header: str = "authorization") -> TenantSource:
        """
        The tenant is a claim of the bearer token.

        The signature is **not** verified: whoever makes up a token can have requests counted as any tenant's. That is good enough for
        metrics and for nothing else. Where it is not, call `set_tenant` where the token was verified. The token itself goes nowhere.
        """

        def tenant(head: RequestHead) -> object | None:
            return _claim(head.header(header), claim)

        return tenant


def _claim(authorization: str, claim: str) -> object | None:
    import json
    from base64 import urlsafe_b64decode

    scheme, _, token = authorization.strip().partition(" ")
    parts = token.strip().split(".")
    if scheme.lower() != "bearer" or len(parts) != 3 or len(token) > _MAX_HEADER:
        return None
    try:
        found = json.loads(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return found.get(claim)  # type: ignore[no-any-return]
    except (ValueError, AttributeError, RecursionError):
        return None


def _plain_tenant(found: object) -> str | None:
    """Text of a reasonable length, or none: a tenant may be a number or a UUID, but not a list."""
    if isinstance(found, str):
        text = found.strip()
    elif isinstance(found, (int, UUID)) and not isinstance(found, bool):
        try:
            text = str(found)
        except ValueError:  # an int of thousands of digits
            return None
    else:
        return None
    return text if 0 < len(text) <= _MAX_TENANT else None


class CurrentRequest:
    """
    The request being handled: its id, its tenant, and what records for it.

    Attributes:
        request_id: From the request's header if that is plain text of at most 128 characters, else a new one.
        metrics: Records with the tenant of the request, if it has one.
    """

    __slots__ = ("_recorder", "_tenant", "metrics", "request_id")

    def __init__(self, request_id: str, recorder: Recorder) -> None:
        self.request_id = request_id
        self._recorder = recorder
        self._tenant: str | None = None
        self.metrics = recorder

    def __repr__(self) -> str:
        """The id only: the tenant may be personal."""
        return f"<CurrentRequest {self.request_id}>"

    def set_tenant(self, tenant: object) -> None:
        """
        Say whose request it is, from here on; what names no tenant changes nothing.
        """
        text = _plain_tenant(tenant)
        if text is not None:
            self._tenant = text
            # Whatever else a scope can do, it records through any recorder.
            self.metrics = ScopedMetrics(self._recorder, {"TenantId": text})  # type: ignore[arg-type]

    def tenant_label(self, policy: DimensionPolicy) -> str | None:
        """
        The tenant as the metrics show it.
        """
        if self._tenant is None:
            return None
        try:
            return policy.resolve("TenantId", self._tenant).value
        except InvalidMetricError:
            return None


CURRENT: ContextVar[CurrentRequest | None] = ContextVar("retainwise_metrics_request", default=None)


def current_request() -> CurrentRequest | None:
    """
    The request being handled; None outside of one, or without an `ObservabilityMiddleware`.
    """
    return CURRENT.get()


def current_metrics() -> Recorder:
    """
    Records for the tenant of the request being handled; outside of a request, the process-wide client.
    """
    request = CURRENT.get()
    return client_in_any_case() if request is None else request.metrics


def set_tenant(tenant: object) -> None:
    """
    Say whose request is being handled, where that was verified; outside of a request it does nothing.
    """
    request = CURRENT.get()
    if request is not None:
        request.set_tenant(tenant)


class RequestMetrics:
    """
    A recorder for code that is made once and called by many requests: each record carries the tenant of the request it is made in.

    It goes wherever a `Recorder` is asked for: `ClientMetrics(RequestMetrics())`, `@timed("ScoringDuration", client=RequestMetrics())`.

    Args:
        outside: Takes what is recorded outside of a request. None: the process-wide client.
    """

    __slots__ = ("_outside",)

    def __init__(self, outside: Recorder | None = None) -> None:
        self._outside = outside

    def _now(self) -> Recorder:
        request = CURRENT.get()
        if request is not None:
            return request.metrics
        return client_in_any_case() if self._outside is None else self._outside

    def put_metric(
        self,
        name: str,
        value: float,
        unit: MetricUnit | str = MetricUnit.NONE,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        timestamp: datetime | float | None = None,
        storage_resolution: StorageResolution | int = 60,
    ) -> bool:
        """
        Record one value, as `Recorder.put_metric` does.

        Returns:
            Whether the record was taken.
        """
        return self._now().put_metric(
            name,
            value,
            unit,
            namespace=namespace,
            dimensions=dimensions,
            timestamp=timestamp,
            storage_resolution=storage_resolution,
        )

    def increment_counter(
        self,
        name: str,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        value: float = 1,
        timestamp: datetime | float | None = None,
        storage_resolution: StorageResolution | int = 60,
    ) -> bool:
        """
        Count something, as `Recorder.increment_counter` does.

        Returns:
            Whether the record was taken.
        """
        return self._now().increment_counter(
            name,
            namespace=namespace,
            dimensions=dimensions,
            value=value,
            timestamp=timestamp,
            storage_resolution=storage_resolution,
        )

    def record_time(
        self,
        name: str,
        seconds: float,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        timestamp: datetime | float | None = None,
        storage_resolution: StorageResolution | int = 60,
    ) -> bool:
        """
        Record a duration, as `Recorder.record_time` does.

        Returns:
            Whether the record was taken.
        """
        return self._now().record_time(
            name,
            seconds,
            namespace=namespace,
            dimensions=dimensions,
            timestamp=timestamp,
            storage_resolution=storage_resolution,
        )


# ---- what is said about it ----


class RequestLog:
    """
    One structured line per request.

    Args:
        logger: A `logging.Logger` or a structlog logger. None: structlog if the application has configured it, else the logger
            `retainwise_metrics.requests`.
        policy: Makes of a tenant what is logged. None: as the client does, so that log and metrics name it alike.
    """

    def __init__(self, logger: object | None, policy: DimensionPolicy | None, aloud: Aloud) -> None:
        self._logger = logger
        self._policy = policy
        self._aloud = aloud

    def write(self, request: CurrentRequest, exchange: Exchange, client: object) -> None:
        """
        Write the line, at INFO, or at ERROR when the request failed on our side.
        """
        try:
            self._policy = self._policy or _policy_of(client)
            logger: Any = self._logger or _default_logger()
            if hasattr(logger, "bind"):
                write = logger.error if exchange.error_type else logger.info
                write("http_request", **_fields(request, exchange, self._policy))
                return
            level = _ERROR if exchange.error_type else _INFO
            if logger.isEnabledFor(level):
                message = f"{exchange.method} {exchange.endpoint} {exchange.outcome}"
                logger.log(level, "http_request: %s", message, extra=_fields(request, exchange, self._policy))
        except Exception as failure:  # noqa: BLE001 - rule 1
            self._aloud.say("logging an HTTP request", failure)


def _fields(request: CurrentRequest, exchange: Exchange, policy: DimensionPolicy) -> dict[str, object]:
    fields: dict[str, object] = {
        "request_id": request.request_id,
        "tenant": request.tenant_label(policy),
        "method": exchange.method,
        "endpoint": exchange.endpoint,
        "status": exchange.status,
        "outcome": exchange.outcome,
        "duration_seconds": round(exchange.seconds, 6),
        "request_bytes": exchange.received,
        "response_bytes": exchange.sent,
    }
    if exchange.error_type:
        fields["error_type"] = exchange.error_type
    return fields


def _default_logger() -> object:
    import logging
    import sys

    # Whoever has configured structlog has imported it.
    structlog = sys.modules.get("structlog")
    if structlog is not None and structlog.is_configured():
        return structlog.get_logger("retainwise_metrics.requests")
    return logging.getLogger("retainwise_metrics.requests")


def _policy_of(client: object) -> DimensionPolicy:
    config = getattr(client, "config", None)
    policy: DimensionPolicy = getattr(config, "dimension_policy", None) or DimensionPolicy()
    key = getattr(config, "pii_key", None)
    return policy if key is None else policy.with_key(key)


class Identity(NamedTuple):
    """
    How `ObservabilityMiddleware` finds out whose request it is.

    Attributes:
        tenant: Reads the tenant; None: there are none.
        header: The header that brings a request's id, and takes it back to the client.
    """

    tenant: TenantSource | None
    header: str

    def of(self, head: RequestHead, telemetry: Telemetry) -> CurrentRequest:
        """
        The request that begins with this head.
        """
        request = CurrentRequest(plain_request_id(head.header(self.header)), telemetry.recorder())
        if self.tenant is not None:
            try:
                request.set_tenant(self.tenant(head))
            except Exception as failure:  # noqa: BLE001 - rule 1
                telemetry.aloud.say("finding the tenant of a request", failure)
        return request


def plain_request_id(given: str) -> str:
    """
    The id a client sent if it is harmless in a log and a header, else a new one.
    """
    if 0 < len(given) <= _MAX_REQUEST_ID and _REQUEST_ID_CHARACTERS.issuperset(given):
        return given
    import os

    return os.urandom(16).hex()


default_clock = time.perf_counter
"""Held by reference, so that tools that freeze time do not freeze durations."""

if TYPE_CHECKING:
    TenantSource = Callable[[RequestHead], object | None]
