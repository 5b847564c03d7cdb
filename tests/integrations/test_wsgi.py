"""The WSGI middlewares: the end of a request is the end of its body, and neither server nor application notices."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper

import pytest

from retainwise_metrics.dimensions import DimensionPolicy
from retainwise_metrics.integrations.wsgi import (
    MetricsMiddleware,
    ObservabilityMiddleware,
    Tenants,
    current_metrics,
    current_request,
)
from tests.helpers import assert_balanced
from tests.integrations.http_drivers import DECLARED, Clock, counted, values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from retainwise_metrics import CloudWatchMetrics
    from retainwise_metrics.testing import InMemorySink


@pytest.fixture
def client(make_client: Callable[..., CloudWatchMetrics]) -> CloudWatchMetrics:
    """A strict client that publishes the metrics of HTTP with their roll-ups."""
    return make_client(strict=True, catalogue=DECLARED)


class Server:
    """One request as a WSGI server sees it."""

    def __init__(self, path: str = "/", method: str = "GET", **environ: str) -> None:
        self.environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            **environ,
        }
        self.status = ""
        self.headers: dict[str, str] = {}
        self.written: list[bytes] = []

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[..., Any]:
        """Take the head of the response."""
        self.status, self.headers = status, dict(headers)
        return self.written.append

    def begin(self, app: Any) -> Any:
        """Call the application; the body is still to be iterated."""
        return app(self.environ, self.start_response)

    def ask(self, app: Any) -> bytes:
        """Handle the request to its end."""
        body = self.begin(app)
        try:
            return b"".join(body)
        finally:
            if hasattr(body, "close"):
                body.close()


class Body:
    """A body that knows whether it was closed."""

    def __init__(self, parts: Iterable[bytes], close_error: Exception | None = None) -> None:
        self._parts = iter(parts)
        self._close_error = close_error
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    def close(self) -> None:
        """Count it."""
        self.closed += 1
        if self._close_error is not None:
            raise self._close_error


def answering(body: Iterable[bytes], status: str = "200 OK", headers: Iterable[tuple[str, str]] = ()) -> Any:
    """An application that says which route it is, and answers with this body."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["retainwise_metrics.endpoint"] = "/x"
        start_response(status, list(headers))
        return body

    return app


def test_a_request_ends_with_its_body(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """The duration lasts until the body has been iterated, however fast the application returned; sizes are those of the bodies."""
    clock = Clock()

    def parts() -> Iterator[bytes]:
        for part in (b"some", b"more"):
            clock.now += 2
            yield part

    server = Server(method="POST", CONTENT_LENGTH="11")
    body = server.begin(MetricsMiddleware(answering(parts()), client, clock=clock))
    clock.now += 1
    assert counted(client, sink, "HttpRequests") == {}
    assert b"".join(body) == b"somemore"
    clock.now += 100
    body.close()
    assert values(client, sink, "HttpRequestDuration", Endpoint="/x", Method="POST") == {5.0: 1}
    assert counted(client, sink, "HttpRequests") == {("/x", "POST", "2xx"): 1}
    assert values(client, sink, "HttpRequests") == {1.0: 1}
    assert values(client, sink, "HttpRequestSize") == {11.0: 1}
    assert values(client, sink, "HttpResponseSize") == {8.0: 1}
    assert_balanced(client)


def test_the_body_is_always_closed_once(client: CloudWatchMetrics) -> None:
    """What the server closes, the application's body gets, also after an exception."""
    whole, broken = Body([b"x"]), Body(1 / 0 for _ in "x")
    Server().ask(MetricsMiddleware(answering(whole), client))
    with pytest.raises(ZeroDivisionError):
        Server().ask(MetricsMiddleware(answering(broken), client))
    assert (whole.closed, broken.closed) == (1, 1)


def test_exceptions_pass_and_are_counted_once(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """An exception of the application, of its body and of the body's end reaches the server; each request counts once."""

    def fail(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        raise LookupError("jane@example.com")

    with pytest.raises(LookupError):
        Server().ask(MetricsMiddleware(fail, client))
    with pytest.raises(ZeroDivisionError):
        Server().ask(MetricsMiddleware(answering(1 / 0 for _ in "x"), client))  # type: ignore[arg-type]
    unread = Server().begin(MetricsMiddleware(answering(Body([b"x"], KeyError("x"))), client))
    with pytest.raises(KeyError):
        unread.close()
    assert counted(client, sink, "HttpRequests") == {
        ("unmatched", "GET", "5xx"): 1,
        ("/x", "GET", "5xx"): 1,
        ("/x", "GET", "disconnected"): 1,
    }
    assert counted(client, sink, "HttpErrors") == {("LookupError",): 1, ("ZeroDivisionError",): 1}


@pytest.mark.parametrize(
    ("method", "status", "headers", "outcome"),
    [
        ("GET", "200 OK", [], "disconnected"),
        ("GET", "200 OK", [("Content-Length", "4")], "2xx"),
        ("GET", "200 OK", [("Content-Length", "5")], "disconnected"),
        ("HEAD", "200 OK", [], "2xx"),
        ("GET", "304 Not Modified", [], "3xx"),
    ],
)
def test_a_body_that_is_closed_early_was_not_wanted(
    method: str,
    status: str,
    headers: list[tuple[str, str]],
    outcome: str,
    client: CloudWatchMetrics,
    sink: InMemorySink,
) -> None:
    """A server that closes a body early has lost its client, unless it had all it needed."""
    app = MetricsMiddleware(answering(iter([b"part", b""]), status, headers), client)
    body = Server(method=method).begin(app)
    next(body)
    body.close()
    assert counted(client, sink, "HttpRequests") == {("/x", method, outcome): 1}
    assert counted(client, sink, "HttpErrors") == {}


def test_a_file_wrapper_stays_one(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """The server gets its own wrapper, to send the file in its own way; the request ends when it is closed."""
    file = io.BytesIO(b"rows")
    clock = Clock()
    app = MetricsMiddleware(answering(FileWrapper(file), headers=[("Content-Length", "4")]), client, clock=clock)
    body = Server().begin(app)
    assert type(body) is FileWrapper
    assert counted(client, sink, "HttpRequests") == {}
    clock.now += 3
    body.close()
    assert file.closed
    assert values(client, sink, "HttpRequestDuration") == {3.0: 1}
    assert values(client, sink, "HttpResponseSize") == {4.0: 1}
    assert counted(client, sink, "HttpRequests") == {("/x", "GET", "2xx"): 1}


def test_a_file_wrapper_that_cannot_be_watched_ends_at_once(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """Servers written in C have wrappers without attributes: they are passed on, and the request ends there."""

    class Sealed:
        __slots__ = ()

    server = Server()
    server.environ["wsgi.file_wrapper"] = Sealed
    body = Sealed()
    assert server.begin(MetricsMiddleware(answering(body), client)) is body  # type: ignore[arg-type]
    assert counted(client, sink, "HttpRequests") == {("/x", "GET", "2xx"): 1}


def test_a_list_keeps_its_length(client: CloudWatchMetrics) -> None:
    """A server that finds one part in the body sets the content's length itself."""
    assert len(Server().begin(MetricsMiddleware(answering([b"ok"]), client))) == 1
    assert not hasattr(Server().begin(MetricsMiddleware(answering(iter([b"ok"])), client)), "__len__")


def test_write_is_counted(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """What an application writes in the old way reaches the server and has its size."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [])(b"old")
        return []

    server = Server()
    server.ask(MetricsMiddleware(app, client))
    assert server.written == [b"old"]
    assert values(client, sink, "HttpResponseSize") == {3.0: 1}


def test_two_middlewares_count_once(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """An application that is wrapped twice counts each request once."""
    app = MetricsMiddleware(ObservabilityMiddleware(MetricsMiddleware(answering([b"ok"]), client), client), client)
    assert Server().ask(app) == b"ok"
    assert counted(client, sink, "HttpRequests") == {("/x", "GET", "2xx"): 1}


def test_the_line_the_id_and_the_tenant(
    client: CloudWatchMetrics, sink: InMemorySink, caplog: pytest.LogCaptureFixture
) -> None:
    """One line at the end of the body; what is recorded meanwhile carries the tenant, and nothing of it is left afterwards."""
    caplog.set_level(logging.INFO)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [])
        current_metrics().increment_counter("Seen")
        yield b"o"
        current_metrics().increment_counter("Seen")
        yield b"k"

    middleware = ObservabilityMiddleware(app, client, tenant=Tenants.from_header("X-Tenant"))
    server = Server(HTTP_X_TENANT="jane@example.com", HTTP_X_REQUEST_ID="abc-1")
    body = server.begin(middleware)
    next(body)
    assert current_request() is None
    assert not caplog.records
    assert (b"o" + b"".join(body), body.close()) == (b"ok", None)
    (record,) = caplog.records
    label = DimensionPolicy().resolve("TenantId", "jane@example.com").value
    assert (record.request_id, record.tenant, record.status) == ("abc-1", label, 200)  # type: ignore[attr-defined]
    assert "jane" not in str(record.__dict__)
    assert server.headers == {"X-Request-ID": "abc-1"}
    assert counted(client, sink, "Seen", "RetainWise/MLPipeline") == {(label,): 2}


def test_flask(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """One line instruments a Flask application: rules become templates, and 404s are unmatched."""
    flask = pytest.importorskip("flask")
    app = flask.Flask("shop")
    blueprint = flask.Blueprint("api", "api")
    blueprint.get("/items/<int:item_id>/<path:rest>")(lambda item_id, rest: "item")
    app.register_blueprint(blueprint, url_prefix="/v1")
    app.get("/file", endpoint="file")(lambda: flask.send_file(__file__))
    app.get("/boom", endpoint="boom")(lambda: 1 / 0)
    app.logger.disabled = True
    app.wsgi_app = MetricsMiddleware(app.wsgi_app, client)
    test_client = app.test_client()
    for path in ("/v1/items/7/a/b", "/v1/items/8/c", "/file", "/boom", "/nope"):
        with test_client.get(path) as answer:
            answer.get_data()
    assert counted(client, sink, "HttpRequests") == {
        ("/v1/items/{item_id}/{rest}", "GET", "2xx"): 2,
        ("/file", "GET", "2xx"): 1,
        ("/boom", "GET", "5xx"): 1,
        ("unmatched", "GET", "4xx"): 1,
    }


DJANGO = """
import asyncio, json, re
import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import include, path, re_path
from retainwise_metrics import CloudWatchMetrics, MetricsConfig
from retainwise_metrics.integrations import asgi, wsgi
from retainwise_metrics.testing import InMemorySink, ManualRuntime
from tests.integrations.http_drivers import DECLARED, Server, counted
from tests.integrations.test_wsgi import Server as WsgiServer

settings.configure(
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["retainwise_metrics.integrations.django.endpoint_middleware"],
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="x",
    LOGGING_CONFIG=None,
)
hello = lambda request, **_: HttpResponse("hi")
urlpatterns = [
    path("items/<int:pk>/", hello),
    re_path(r"^old/(?P<year>[0-9]{4})/$", hello),
    path("in/", include([re_path(r"^w/(?P<q>\\w+)/$", hello)])),
    path("boom/", lambda request: 1 / 0),
]
PATHS = ("/items/7/", "/items/8/", "/old/2024/", "/in/w/abc/", "/boom/", "/nope/")
found = []
for middleware, application in ((wsgi.MetricsMiddleware, get_wsgi_application()), (asgi.MetricsMiddleware, get_asgi_application())):
    sink = InMemorySink()
    client = CloudWatchMetrics(MetricsConfig(strict=True, catalogue=DECLARED), sink=sink, runtime=ManualRuntime())
    app = middleware(application, client)
    for each in PATHS:
        if middleware is wsgi.MetricsMiddleware:
            WsgiServer(each).ask(app)
        else:
            asyncio.run(Server(each).ask(app))
    found.append({" ".join(key): count for key, count in counted(client, sink, "HttpRequests").items()})
print(json.dumps(found))
"""


def test_django() -> None:
    """A wrapped Django application, with the middleware that notes the route, counts under templates; under WSGI and under ASGI."""
    pytest.importorskip("django")
    done = subprocess.run(
        [sys.executable, "-c", DJANGO],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = {
        "/items/{pk}/ GET 2xx": 2,
        "/old/{year}/ GET 2xx": 1,
        "/in/w/{q}/ GET 2xx": 1,
        "/boom/ GET 5xx": 1,
        "unmatched GET 4xx": 1,
    }
    assert json.loads(done.stdout) == [expected, expected]
