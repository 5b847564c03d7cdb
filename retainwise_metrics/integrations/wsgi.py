"""
Metrics, tenants and a log line for every request of a WSGI application: Flask, Django and their relatives.

    app.wsgi_app = MetricsMiddleware(app.wsgi_app)                     # Flask
    application = MetricsMiddleware(get_wsgi_application())            # Django, with django.endpoint_middleware among its own

1. A request is over when its body has been iterated to the end or closed, not when the application returns.
2. Nothing is changed on the way: exceptions pass, the body is closed, a file wrapper stays one and a list keeps its length, because
   servers treat both better. Only `ObservabilityMiddleware` adds something, a header with the request's id.
3. Each request runs in a context of its own, so that its tenant is gone with it, whatever the server does with its threads.
"""

from __future__ import annotations

import re
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final

from retainwise_metrics.namespaces import MetricNamespace

from ._http import (
    CURRENT,
    ENDPOINT_KEY,
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
    from collections.abc import Callable, Iterable, Iterator

    from typing_extensions import Self

    from retainwise_metrics.dimensions import DimensionPolicy
    from retainwise_metrics.service import Recorder

    from ._http import CurrentRequest, TenantSource

    Environ = dict[str, Any]
    StartResponse = Callable[..., Callable[[bytes], object]]
    WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]
    Call = Callable[..., Any]

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

_WITHOUT_BODY: Final = (204, 304)
_PLACEHOLDER: Final = re.compile(r"<(?:[^:<>]*:)?([^<>]+)>")
_REMEMBERED_RULES: Final = 1024
_TEMPLATES: Final[dict[str, str]] = {}


def endpoint_of(environ: Environ) -> str | None:
    """
    The template of the route that took a request: what the application left in the environ, or Flask's rule.

    Returns:
        None if no route took it.
    """
    found: str | None = environ.get(ENDPOINT_KEY)
    if found is not None:
        return found
    rule = getattr(environ.get("werkzeug.request"), "url_rule", None)
    return None if rule is None else template_of_rule(rule.rule)


def template_of_rule(rule: str) -> str:
    """
    `/items/<int:item_id>` as `/items/{item_id}`.
    """
    found = _TEMPLATES.get(rule)
    if found is None:
        found = _PLACEHOLDER.sub(r"{\1}", rule)
        if len(_TEMPLATES) < _REMEMBERED_RULES:
            _TEMPLATES[rule] = found
    return found


def _directly(function: Call, *arguments: Any) -> Any:
    return function(*arguments)


class _Exchange(Exchange):
    """
    Sees what the server and the application say to each other, and ends once.
    """

    header: tuple[str, str] | None = None
    declared: int | None = None
    """Bytes of the body as the response's head says."""

    def __init__(self, environ: Environ, telemetry: Telemetry, endpoint: Callable[[Environ], str | None]) -> None:
        super().__init__(environ.get("REQUEST_METHOD", ""))
        self.environ = environ
        self.received = _number(environ.get("CONTENT_LENGTH")) or 0
        self._telemetry = telemetry
        self._endpoint = endpoint
        self._start_response: Any = None
        self.call: Call = _directly
        self.after: Callable[[], None] | None = None

    def start_response(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], object]:
        """
        Hand the head of the response to the server.
        """
        self.status = _number(status[:3]) or 0
        self._find_endpoint()
        self.declared = next((_number(value) for name, value in headers if name.lower() == "content-length"), None)
        if self.header is not None and not any(name.lower() == self.header[0].lower() for name, _ in headers):
            headers = [*headers, self.header]
        write = self._start_response(status, headers, *exc_info)

        def write_and_count(data: bytes) -> object:
            self.sent += len(data)
            return write(data)

        return write_and_count

    def _find_endpoint(self) -> None:
        """Asked when the response begins, because Flask forgets its rule soon after; and at the end, if there was no answer."""
        try:
            self.endpoint = self._endpoint(self.environ) or UNMATCHED
        except Exception as failure:  # noqa: BLE001 - somebody else's callable
            self._telemetry.aloud.say("finding the endpoint of an HTTP request", failure)

    def run(self, app: WSGIApp, start_response: StartResponse) -> Iterable[bytes]:
        """
        Call the application, and see to it that the end of its answer is noticed.
        """
        self._start_response = start_response
        self._telemetry.begin(self)
        try:
            body = self.call(app, self.environ, self.start_response)
            wrapper = self.environ.get("wsgi.file_wrapper")
            if isinstance(wrapper, type) and isinstance(body, wrapper):
                return self._file(body)
            return _SizedBody(self, body) if hasattr(body, "__len__") else _Body(self, body)
        except BaseException as error:
            self.end(error)
            raise

    def _file(self, body: Any) -> Iterable[bytes]:
        """
        The very object the server sends without reading it; all it calls is `close`.
        """
        close = getattr(body, "close", None)

        def closed() -> None:
            self.sent = self.sent or self.declared or 0
            self.close(close, whole=True)

        try:
            body.close = closed
        except (AttributeError, TypeError):  # a class written in C: this is the last that is seen of it
            self.complete = True
            self.end(None)
        return body  # type: ignore[no-any-return]

    def close(self, close: Callable[[], object] | None, *, whole: bool) -> None:
        """
        The server wants no more of the body.

        Args:
            close: The body's own.
            whole: It has all of it.
        """
        enough = self.declared is not None and self.sent >= self.declared
        self.complete = self.complete or whole or enough or self.method == "HEAD" or self.status in _WITHOUT_BODY
        self.left = not self.complete
        try:
            if close is not None:
                self.call(close)
        except BaseException as error:
            self.end(error)
            raise
        self.end(None)

    def end(self, error: BaseException | None) -> None:
        """
        It is over; the first end counts.
        """
        if self.outcome:
            return
        if self.endpoint is UNMATCHED:
            self._find_endpoint()
        self._telemetry.end(self, error)
        after, self.after = self.after, None
        if after is not None:
            after()


def _number(text: object) -> int | None:
    return int(text) if isinstance(text, str) and len(text) < 20 and text.isascii() and text.isdigit() else None


class _Body:
    """
    The body of a response on its way to the server.
    """

    def __init__(self, exchange: _Exchange, body: Iterable[bytes]) -> None:
        self._exchange = exchange
        self._body = body
        self._parts: Iterator[bytes] | None = None

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> bytes:
        """The next part."""
        exchange = self._exchange
        try:
            if self._parts is None:
                self._parts = exchange.call(iter, self._body)
            part: bytes = exchange.call(next, self._parts)
        except StopIteration:
            exchange.complete = True
            exchange.end(None)
            raise
        except BaseException as error:
            exchange.end(error)
            raise
        exchange.sent += len(part)
        return part

    def close(self) -> None:
        """
        Close the application's body, as the server must.
        """
        self._exchange.close(getattr(self._body, "close", None), whole=False)


class _SizedBody(_Body):
    """
    The body of a response that is a list: a server that finds one part knows the content's length.
    """

    def __len__(self) -> int:
        """How many parts there are."""
        return len(self._body)  # type: ignore[arg-type]  # it is asked of bodies that have a length


class MetricsMiddleware:
    """
    Counts, times and sizes the requests of a WSGI application.

    Args:
        app: The application.
        metrics: Takes the records: a client, a scope of one, any `Recorder`. None: the process-wide client.
        namespace: Namespace of the metrics. None: the client's default.
        endpoint: Finds the route's template in the environ. It is asked when the response begins, and again at its end if it knew none. It
            must answer with few different texts; after 500 the rest is `other`.
        clock: Seconds on a clock that never steps back.
    """

    def __init__(
        self,
        app: WSGIApp,
        metrics: Recorder | None = None,
        *,
        namespace: MetricNamespace | str | None = MetricNamespace.API,
        endpoint: Callable[[Environ], str | None] = endpoint_of,
        clock: Callable[[], float] = default_clock,
    ) -> None:
        self._app = app
        self._endpoint = endpoint
        self._telemetry = Telemetry(metrics, namespace, clock, until_answered=False)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Handle a request."""
        if MARK in environ:
            return self._app(environ, start_response)
        environ[MARK] = True
        return _Exchange(environ, self._telemetry, self._endpoint).run(self._app, start_response)


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
        clock: See there.
    """

    def __init__(
        self,
        app: WSGIApp,
        metrics: Recorder | None = None,
        *,
        tenant: TenantSource | None = None,
        request_id_header: str = "X-Request-ID",
        logger: object | None = None,
        policy: DimensionPolicy | None = None,
        namespace: MetricNamespace | str | None = MetricNamespace.API,
        endpoint: Callable[[Environ], str | None] = endpoint_of,
        clock: Callable[[], float] = default_clock,
    ) -> None:
        self._app = app
        self._endpoint = endpoint
        self._telemetry = Telemetry(metrics, namespace, clock, until_answered=False)
        self._identity = Identity(tenant, request_id_header)
        self._log = RequestLog(logger, policy, self._telemetry.aloud)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Handle a request."""
        if MARK in environ:
            return self._app(environ, start_response)
        environ[MARK] = True
        request = self._identity.of(_Head(environ), self._telemetry)
        exchange = _Exchange(environ, self._telemetry, self._endpoint)
        exchange.header = (self._identity.header, request.request_id)
        exchange.call = _context_of(request).run
        exchange.after = lambda: self._log.write(request, exchange, self._telemetry.recorder())
        return exchange.run(self._app, start_response)


def _context_of(request: CurrentRequest) -> Context:
    context = copy_context()
    context.run(CURRENT.set, request)
    return context


class _Head:
    """
    What a request says before its body.
    """

    __slots__ = ("_environ",)

    def __init__(self, environ: Environ) -> None:
        self._environ = environ

    def header(self, name: str) -> str:
        """
        A header's value; "" if there is none.
        """
        found: str = self._environ.get("HTTP_" + name.upper().replace("-", "_"), "")
        return found
