"""
Metrics, tenants and a log line for every HTTP request of an ASGI application: FastAPI, Starlette and their relatives.

    app.add_middleware(MetricsMiddleware)

1. A request is over when the application is done with it: after the last byte of a stream, after its background tasks.
2. Nothing is changed on the way: messages, exceptions, cancellation, websockets and lifespan pass as they are. Only
   `ObservabilityMiddleware` adds something, a header with the request's id.
3. Routes are told apart by their template. What no route took is one endpoint, `unmatched`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from retainwise_metrics.namespaces import MetricNamespace

from ._asgi_routes import RouteTemplates
from ._http import (
    CURRENT,
    MARK,
    UNMATCHED,
    Exchange,
    Identity,
    RequestLog,
    RequestMetrics,
    Telemetry,
    Tenants,
    current_metrics,
    current_request,
    default_clock,
    http_metrics,
    set_tenant,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from retainwise_metrics.dimensions import DimensionPolicy
    from retainwise_metrics.service import Recorder

    from ._http import CurrentRequest, TenantSource

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = [
    "MetricsMiddleware",
    "ObservabilityMiddleware",
    "RequestMetrics",
    "Tenants",
    "current_metrics",
    "current_request",
    "http_metrics",
    "set_tenant",
]

_HEADS_WITHOUT_BODY: Final = ("http.response.pathsend", "http.response.zerocopysend")


class _Exchange(Exchange):
    """
    Sees what the server and the application say to each other.
    """

    header: tuple[bytes, bytes] | None = None
    """Added to the response, if the application has not set it."""

    def __init__(self, method: str, receive: Receive, send: Send, clock: Callable[[], float] | None) -> None:
        super().__init__(method)
        self._receive = receive
        self._send = send
        self._clock = clock

    async def receive(self) -> Message:
        """
        The server's next message.
        """
        message = await self._receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
        elif message["type"] == "http.disconnect":
            self.left = True
        return message

    async def send(self, message: Message) -> None:
        """
        Hand the application's message to the server.
        """
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
            if self.header is not None:
                message = _with_header(message, self.header)
        try:
            await self._send(message)
        except OSError:
            # How servers say that the client is gone, since version 2.4 of the specification.
            self.left = True
            raise
        if kind == "http.response.body":
            self.sent += len(message.get("body", b""))
            if not message.get("more_body", False):
                self._completed()
        elif kind in _HEADS_WITHOUT_BODY and not message.get("more_body", False):
            self._completed()

    def _completed(self) -> None:
        self.complete = True
        if self._clock is not None:
            self.answered = self._clock()


def _with_header(message: Message, header: tuple[bytes, bytes]) -> Message:
    headers = list(message.get("headers", ()))
    if any(name.lower() == header[0] for name, _ in headers):
        return message
    return {**message, "headers": [*headers, header]}


class _Head:
    """
    What a request says before its body.
    """

    __slots__ = ("scope",)

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def header(self, name: str) -> str:
        """
        A header's value; of several, the first; "" if there is none.
        """
        wanted = name.lower().encode("latin-1")
        for found, value in self.scope["headers"]:
            if found == wanted:
                return str(value, "latin-1")
        return ""


class _Application:
    """
    The application with a measured way to it.
    """

    def __init__(
        self,
        app: ASGIApp,
        telemetry: Telemetry,
        endpoint: Callable[[Scope], str | None] | None,
        flush_timeout_seconds: float,
    ) -> None:
        self._app = app
        self.telemetry = telemetry
        self._template_of = RouteTemplates().template_of if endpoint is None else endpoint
        self._flush_timeout_seconds = flush_timeout_seconds

    def exchange(self, scope: Scope, receive: Receive, send: Send) -> _Exchange:
        """
        A request to come.
        """
        scope[MARK] = True
        telemetry = self.telemetry
        return _Exchange(scope["method"], receive, send, telemetry.clock if telemetry.until_answered else None)

    async def handle(self, scope: Scope, exchange: _Exchange) -> None:
        """
        Let the application handle a request.
        """
        self.telemetry.begin(exchange)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            self._end(scope, exchange, error)
            raise
        self._end(scope, exchange, None)

    def _end(self, scope: Scope, exchange: _Exchange, error: BaseException | None) -> None:
        try:
            exchange.endpoint = self._template_of(scope) or UNMATCHED
        except Exception as failure:  # noqa: BLE001 - somebody else's routes, or callable
            self.telemetry.aloud.say("finding the endpoint of an HTTP request", failure)
        self.telemetry.end(exchange, error)

    async def pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Everything that is not a request, or is measured already.
        """
        if scope["type"] != "lifespan" or not self._flush_timeout_seconds:
            await self._app(scope, receive, send)
            return

        async def send_after_flush(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self._flush()
            await send(message)

        await self._app(scope, receive, send_after_flush)

    async def _flush(self) -> None:
        """Some servers end their process by a signal right after this, and then nothing else gets a chance to."""
        flush: Any = getattr(self.telemetry.recorder(), "aflush", None)
        try:
            if flush is not None:
                await flush(self._flush_timeout_seconds)
        except Exception as failure:  # noqa: BLE001 - a shutdown goes on
            self.telemetry.aloud.say("flushing at shutdown", failure)


class MetricsMiddleware:
    """
    Counts, times and sizes the requests of an ASGI application.

    Args:
        app: The application.
        metrics: Takes the records: a client, a scope of one, any `Recorder`. None: the process-wide client.
        namespace: Namespace of the metrics. None: the client's default.
        endpoint: Finds the route's template in the scope, once the application is done; None: as FastAPI and Starlette leave it there. It
            must answer with few different texts; after 500 the rest is `other`.
        until_answered: End the duration with the last byte of the answer, not with the background tasks after it.
        flush_timeout_seconds: How long the end of the application (`lifespan.shutdown`) may wait for delivery; 0: not at all.
        clock: Seconds on a clock that never steps back.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Recorder | None = None,
        *,
        namespace: MetricNamespace | str | None = MetricNamespace.API,
        endpoint: Callable[[Scope], str | None] | None = None,
        until_answered: bool = False,
        flush_timeout_seconds: float = 5.0,
        clock: Callable[[], float] = default_clock,
    ) -> None:
        telemetry = Telemetry(metrics, namespace, clock, until_answered=until_answered)
        self._application = _Application(app, telemetry, endpoint, flush_timeout_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or pass on what is none."""
        application = self._application
        if scope["type"] != "http" or MARK in scope:
            await application.pass_on(scope, receive, send)
        else:
            await application.handle(scope, application.exchange(scope, receive, send))


class ObservabilityMiddleware:
    """
    `MetricsMiddleware`, and in addition the request's id and tenant, for metrics recorded while it is handled and for one log line.

    Args:
        app: The application.
        metrics: As for `MetricsMiddleware`; it also takes what is recorded through `current_metrics()`.
        tenant: Reads the tenant from the request, such as `Tenants.from_header("X-Tenant-Id")`. None: `set_tenant` may name it.
        request_id_header: Brings a request's id, and takes it back to the client.
        logger: A `logging.Logger` or a structlog logger. None: structlog if the application has configured it, else the logger
            `retainwise_metrics.requests`.
        policy: Makes of a tenant what is logged. None: the client's.
        namespace: As for `MetricsMiddleware`, and so are the following.
        endpoint: See there.
        until_answered: See there.
        flush_timeout_seconds: See there.
        clock: See there.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Recorder | None = None,
        *,
        tenant: TenantSource | None = None,
        request_id_header: str = "X-Request-ID",
        logger: object | None = None,
        policy: DimensionPolicy | None = None,
        namespace: MetricNamespace | str | None = MetricNamespace.API,
        endpoint: Callable[[Scope], str | None] | None = None,
        until_answered: bool = False,
        flush_timeout_seconds: float = 5.0,
        clock: Callable[[], float] = default_clock,
    ) -> None:
        telemetry = Telemetry(metrics, namespace, clock, until_answered=until_answered)
        self._application = _Application(app, telemetry, endpoint, flush_timeout_seconds)
        self._identity = Identity(tenant, request_id_header)
        self._header = request_id_header.lower().encode("latin-1")
        self._log = RequestLog(logger, policy, telemetry.aloud)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or pass on what is none."""
        application = self._application
        if scope["type"] != "http" or MARK in scope:
            await application.pass_on(scope, receive, send)
            return
        request = self._identity.of(_Head(scope), application.telemetry)
        exchange = application.exchange(scope, receive, send)
        exchange.header = (self._header, request.request_id.encode("ascii"))
        await self._handle(scope, exchange, request)

    async def _handle(self, scope: Scope, exchange: _Exchange, request: CurrentRequest) -> None:
        before = CURRENT.get()
        CURRENT.set(request)
        try:
            await self._application.handle(scope, exchange)
        finally:
            # Not by a token: a coroutine that is closed by the garbage collector ends in another context.
            CURRENT.set(before)
            self._log.write(request, exchange, self._application.telemetry.recorder())
