"""The ASGI middlewares: what is recorded of a request, and that the application and its server never notice."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from retainwise_metrics import CloudWatchMetrics, NullMetrics, set_metrics_client
from retainwise_metrics.dimensions import DimensionPolicy
from retainwise_metrics.integrations import _http
from retainwise_metrics.integrations.asgi import (
    MetricsMiddleware,
    ObservabilityMiddleware,
    Tenants,
    current_metrics,
    current_request,
    set_tenant,
)
from tests.helpers import assert_balanced
from tests.integrations.http_drivers import API, DECLARED, Clock, Server, body, counted, ok, start, values

if TYPE_CHECKING:
    from collections.abc import Callable

    from retainwise_metrics.testing import InMemorySink, ManualRuntime

LOGGER = "retainwise_metrics.requests"


@pytest.fixture
def client(make_client: Callable[..., CloudWatchMetrics]) -> CloudWatchMetrics:
    """A strict client that publishes the metrics of HTTP with their roll-ups."""
    return make_client(strict=True, catalogue=DECLARED)


def at(endpoint: str, app: Any = ok) -> Any:
    """An application that says which route it is."""

    async def routed(scope: Any, receive: Any, send: Any) -> None:
        scope["retainwise_metrics.endpoint"] = endpoint
        await app(scope, receive, send)

    return routed


# ---- what is recorded ----


def test_a_request_is_counted_timed_and_sized(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """One request makes one count, one duration and the sizes of both bodies, each with its roll-up."""
    clock = Clock()

    async def upload(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        clock.now += 0.25
        await start(send, 201)
        await body(send, b"stored")

    app = MetricsMiddleware(at("/upload", upload), client, clock=clock)
    asyncio.run(Server(method="POST", body=b"a,b\n1,2\n").ask(app))
    assert values(client, sink, "HttpRequests", Endpoint="/upload", Method="POST", Status="2xx") == {1.0: 1}
    assert values(client, sink, "HttpRequests") == {1.0: 1}
    assert values(client, sink, "HttpRequestDuration", Endpoint="/upload", Method="POST") == {0.25: 1}
    assert values(client, sink, "HttpRequestDuration") == {0.25: 1}
    assert values(client, sink, "HttpRequestSize") == {8.0: 1}
    assert values(client, sink, "HttpResponseSize") == {6.0: 1}
    assert values(client, sink, "HttpErrors") == {0.0: 1}
    assert_balanced(client)


def test_a_route_costs_few_series(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """A route with one method that answers with 2xx, 4xx and 5xx has four series; the roll-ups are six, however many routes there are."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await start(send, int(scope["path"][1:]))
        await body(send, b"x")

    app = MetricsMiddleware(at("/x", answer), client)
    for path in ("/200", "/404", "/503", "/201"):
        asyncio.run(Server(path, "POST", body=b"1").ask(app))
    assert client.flush()
    series = {datum.series for datum in sink.datums}
    assert len([each for each in series if ("Endpoint", "/x") in each.dimensions]) == 4
    assert len([each for each in series if not each.dimensions]) == 6


def test_background_work_belongs_to_the_request(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """The duration ends with streams and background tasks; with `until_answered`, with the last byte of the answer."""
    clock = Clock()

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for _ in range(3):
            clock.now += 1
            await body(send, b"part", more=True)
        await body(send)
        clock.now += 10

    asyncio.run(Server().ask(MetricsMiddleware(at("/all", stream), client, clock=clock)))
    asyncio.run(Server().ask(MetricsMiddleware(at("/answer", stream), client, clock=clock, until_answered=True)))
    assert values(client, sink, "HttpRequestDuration", Endpoint="/all", Method="GET") == {13.0: 1}
    assert values(client, sink, "HttpRequestDuration", Endpoint="/answer", Method="GET") == {3.0: 1}
    assert values(client, sink, "HttpResponseSize") == {12.0: 2}


def test_requests_in_flight_are_seen_by_those_that_arrive(
    client: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """The peak is exact, and once a minute those are read that hang."""

    async def run() -> None:
        gate = asyncio.Event()

        async def wait(scope: Any, receive: Any, send: Any) -> None:
            await gate.wait()
            await ok(scope, receive, send)

        app = MetricsMiddleware(wait, client)
        tasks = [asyncio.ensure_future(Server().ask(app)) for _ in range(3)]
        await asyncio.sleep(0)
        runtime.advance(60)
        assert sink.values(API, "HttpRequestsInFlight") == {1.0: 1, 2.0: 1, 3.0: 2}
        gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    runtime.advance(60)
    assert 0.0 in sink.values(API, "HttpRequestsInFlight")


@pytest.mark.parametrize(
    ("status", "outcome", "errors"),
    [(101, "1xx", {}), (302, "3xx", {}), (404, "4xx", {}), (503, "5xx", {"Http503": 1})],
)
def test_statuses_are_classes(
    status: int, outcome: str, errors: dict[str, int], client: CloudWatchMetrics, sink: InMemorySink
) -> None:
    """A status counts as its class; of errors only those on our side are errors."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await start(send, status)
        await body(send)

    asyncio.run(Server().ask(MetricsMiddleware(at("/x", answer), client)))
    assert counted(client, sink, "HttpRequests") == {("/x", "GET", outcome): 1}
    assert counted(client, sink, "HttpErrors") == {(name,): count for name, count in errors.items()}


def test_methods_and_endpoints_are_few() -> None:
    """Methods that nobody knows, and templates beyond 500, are `other`: whoever invents some does not make metrics."""
    plain = Plain()
    app = MetricsMiddleware(ok, plain, endpoint=lambda scope: scope["path"])

    async def run() -> None:
        for number in range(_http.MAX_ENDPOINTS + 20):
            await Server(f"/{number}").ask(app)
        await Server("/0", "BREW").ask(app)

    asyncio.run(run())
    seen = [(each["Endpoint"], each["Method"]) for name, each in plain.records if name == "HttpRequests"]
    assert len(set(seen)) == _http.MAX_ENDPOINTS + 2
    assert seen.count(("other", "GET")) == 20
    assert seen[-1] == ("/0", "other")


def test_two_middlewares_count_once(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """An application that is wrapped twice, or mounts one that is, counts each request once."""
    app = MetricsMiddleware(ObservabilityMiddleware(MetricsMiddleware(at("/x"), client), client), client)
    asyncio.run(Server().ask(app))
    assert counted(client, sink, "HttpRequests") == {("/x", "GET", "2xx"): 1}


# ---- how it ends ----


def test_exceptions_pass_and_are_counted(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """The server gets the very exception; it counts as 5xx and by its type, even after the answer has begun."""
    raised = LookupError("nobody knows jane@example.com")

    async def fail(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/late":
            await start(send)
        raise raised

    app = MetricsMiddleware(at("/x", fail), client)
    for path in ("/early", "/late"):
        with pytest.raises(LookupError) as caught:
            asyncio.run(Server(path).ask(app))
        assert caught.value is raised
    assert counted(client, sink, "HttpRequests") == {("/x", "GET", "5xx"): 2}
    assert counted(client, sink, "HttpErrors") == {("LookupError",): 2}


def test_an_error_after_the_answer_does_not_change_the_answer(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """A background task that fails is an error; the client still got its 2xx."""

    async def fail_late(scope: Any, receive: Any, send: Any) -> None:
        await ok(scope, receive, send)
        raise ValueError("too late")

    with pytest.raises(ValueError, match="too late"):
        asyncio.run(Server().ask(MetricsMiddleware(at("/x", fail_late), client)))
    assert counted(client, sink, "HttpRequests") == {("/x", "GET", "2xx"): 1}
    assert counted(client, sink, "HttpErrors") == {("ValueError",): 1}


def test_a_client_that_leaves_is_told_apart(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """A client that leaves before its answer is whole is `disconnected` and no error, whichever way the server says so."""

    async def listen(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        while (await receive())["type"] != "http.disconnect":
            await body(send, b"part", more=True)

    async def write(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await body(send, b"part", more=True)

    app = MetricsMiddleware(at("/listen", listen), client)
    asyncio.run(Server(gone=True).ask(app))
    with pytest.raises(OSError, match="gone"):
        asyncio.run(Server(deaf_after=1).ask(MetricsMiddleware(at("/write", write), client)))
    assert counted(client, sink, "HttpRequests") == {
        ("/listen", "GET", "disconnected"): 1,
        ("/write", "GET", "disconnected"): 1,
    }
    assert counted(client, sink, "HttpErrors") == {}


def test_cancellation_passes_and_is_counted(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """A request whose task is cancelled is `cancelled`, is no error, and is not in flight any more."""

    async def run() -> None:
        async def hang(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.Event().wait()

        task = asyncio.ensure_future(Server().ask(MetricsMiddleware(at("/x", hang), client)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert counted(client, sink, "HttpRequests") == {("/x", "GET", "cancelled"): 1}
    assert counted(client, sink, "HttpErrors") == {}
    assert 0.0 in values(client, sink, "HttpRequestsInFlight")


def test_an_application_that_does_not_answer_failed(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """An application that returns without an answer, or in the middle of one, is an error of its own type."""

    async def forget(scope: Any, receive: Any, send: Any) -> None:
        pass

    asyncio.run(Server().ask(MetricsMiddleware(at("/x", forget), client)))
    assert counted(client, sink, "HttpRequests") == {("/x", "GET", "5xx"): 1}
    assert counted(client, sink, "HttpErrors") == {("IncompleteResponse",): 1}


def test_a_file_that_the_server_sends_is_an_answer(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """A response that is handed over as a path is complete."""

    async def send_file(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await send({"type": "http.response.pathsend", "path": "/srv/report.csv"})

    asyncio.run(Server().ask(MetricsMiddleware(at("/x", send_file), client)))
    assert counted(client, sink, "HttpRequests") == {("/x", "GET", "2xx"): 1}


# ---- what passes ----


def test_websockets_pass_untouched(client: CloudWatchMetrics) -> None:
    """A websocket's scope, receive and send reach the application as the very same objects; nothing is recorded."""
    seen: list[Any] = []

    async def app(*arguments: Any) -> None:
        seen.extend(arguments)

    server = Server()
    server.scope["type"] = "websocket"
    arguments = (server.scope, server.receive, server.send)
    asyncio.run(MetricsMiddleware(app, client)(*arguments))
    asyncio.run(ObservabilityMiddleware(app, client)(*arguments))
    assert [a is b for a, b in zip(seen, arguments * 2, strict=True)] == [True] * 6
    assert client.stats().recorded == 0


def test_everything_is_delivered_before_the_shutdown_is_complete(
    make_client: Callable[..., CloudWatchMetrics], sink: InMemorySink
) -> None:
    """Servers end their process by a signal right after the lifespan: what was recorded has left by then, also in shutdown handlers."""
    client = make_client(catalogue=DECLARED)

    async def lifespan(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        client.increment_counter("LastWord")
        await send({"type": "lifespan.shutdown.complete"})

    server = Server()
    server.scope = {"type": "lifespan"}
    server.messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    asyncio.run(server.ask(MetricsMiddleware(lifespan, client)))
    assert [message["type"] for message in server.sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert client.stats().pending == 0
    assert sink.values("RetainWise/MLPipeline", "LastWord") == {1.0: 1}


def test_an_application_without_lifespan_says_so_itself(client: CloudWatchMetrics) -> None:
    """The exception by which an application refuses the lifespan reaches the server."""

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        raise NotImplementedError

    server = Server()
    server.scope = {"type": "lifespan"}
    with pytest.raises(NotImplementedError):
        asyncio.run(server.ask(MetricsMiddleware(refuse, client)))


# ---- who records ----


def test_the_process_wide_client_is_found_with_each_request(make_client: Callable[..., CloudWatchMetrics]) -> None:
    """Without a client of its own the middleware uses the process-wide one, also when another took its place."""
    app = MetricsMiddleware(at("/x"))
    first, second = make_client(strict=True), make_client(strict=True)
    for client in (first, second, second):
        set_metrics_client(client)
        asyncio.run(Server().ask(app))
    assert second.stats().recorded == 2 * first.stats().recorded > 0


class Plain:
    """A recorder that can do nothing else, and remembers."""

    def __init__(self) -> None:
        self.records: list[tuple[str, dict[str, object]]] = []

    def put_metric(self, name: str, value: float, *arguments: object, **options: Any) -> bool:
        self.records.append((name, dict(options["dimensions"] or {})))
        return True

    increment_counter = record_time = put_metric


class Broken:
    """A recorder with a bug."""

    def put_metric(self, *arguments: object, **options: object) -> bool:
        raise RuntimeError("jane@example.com")

    increment_counter = record_time = put_metric


def test_any_recorder_will_do() -> None:
    """A recorder without instruments, and none at all, serve as well as a client."""
    plain = Plain()
    asyncio.run(Server().ask(MetricsMiddleware(at("/x"), plain)))
    assert ("HttpRequests", {"Endpoint": "/x", "Method": "GET", "Status": "2xx"}) in plain.records
    assert asyncio.run(Server().ask(ObservabilityMiddleware(ok, NullMetrics()))).status == 200


def test_a_scope_adds_its_dimensions(make_client: Callable[..., CloudWatchMetrics], sink: InMemorySink) -> None:
    """Recording through a scope of a client puts the scope's dimensions on everything."""
    client = make_client(strict=True, catalogue=())
    asyncio.run(Server().ask(MetricsMiddleware(at("/x"), client.scoped({"Service": "shop"}))))
    assert values(client, sink, "HttpRequests", Endpoint="/x", Method="GET", Status="2xx", Service="shop") == {1.0: 1}


def test_a_failing_recorder_is_said_once_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Requests are answered and logged although recording, the endpoint and the tenant raise; each is said once, without the message."""
    caplog.set_level(logging.INFO)

    def explode(_: object) -> str:
        raise RuntimeError("jane@example.com")

    app = ObservabilityMiddleware(ok, Broken(), tenant=explode, endpoint=explode)
    for _ in range(3):
        assert asyncio.run(Server().ask(app)).status == 200
    said = [record.getMessage() for record in caplog.records if record.name == "retainwise_metrics"]
    assert len(said) == 3
    assert [record.outcome for record in caplog.records if record.name == LOGGER] == ["2xx"] * 3  # type: ignore[attr-defined]
    assert "jane" not in caplog.text


# ---- routes ----


def frameworks() -> tuple[Any, list[tuple[str, str, str]]]:
    """A FastAPI application with all there is to mount, and what its requests count as: method and path, status class, endpoint."""
    fastapi = pytest.importorskip("fastapi")
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    async def hello(request: Any) -> PlainTextResponse:
        return PlainTextResponse("hi")

    async def item(item_id: str) -> str:
        if item_id == "none":
            raise fastapi.HTTPException(404)
        return item_id

    app, sub = fastapi.FastAPI(), fastapi.FastAPI()
    router, inner = fastapi.APIRouter(prefix="/v1"), fastapi.APIRouter(prefix="/deep")
    inner.get("/x/{rest:path}")(item_of_rest)
    router.get("/items/{item_id}")(item)
    router.include_router(inner)
    app.include_router(router, prefix="/api")
    app.include_router(router, prefix="/other")
    app.get("/plain/{item_id}")(item)
    sub.get("/in/{item_id}")(item)
    app.mount("/t/{tenant}/z", sub)
    app.mount("/sub", sub)
    app.mount("/star", Starlette(routes=[Route("/h/{n:int}", hello), Mount("/m/{q}", routes=[Route("/k", hello)])]))
    app.mount("/opaque", ok)
    return app, [
        ("GET /api/v1/items/3", "2xx", "/api/v1/items/{item_id}"),
        ("GET /other/v1/items/3", "2xx", "/other/v1/items/{item_id}"),
        ("GET /api/v1/items/none", "4xx", "/api/v1/items/{item_id}"),
        ("GET /api/v1/deep/x/a/b", "2xx", "/api/v1/deep/x/{rest}"),
        ("POST /plain/4", "4xx", "/plain/{item_id}"),
        ("GET /t/acme7/z/in/5", "2xx", "/t/{tenant}/z/in/{item_id}"),
        ("GET /t/in/z/in/in", "2xx", "/t/{tenant}/z/in/{item_id}"),
        ("GET /sub/in/5", "2xx", "/sub/in/{item_id}"),
        ("GET /sub/in/6", "2xx", "/sub/in/{item_id}"),
        ("GET /sub/nope", "4xx", "unmatched"),
        ("GET /star/h/3", "2xx", "/star/h/{n}"),
        ("GET /star/m/9/k", "2xx", "/star/m/{q}/k"),
        ("GET /star/nope", "4xx", "unmatched"),
        ("GET /opaque/a/b/7", "2xx", "/opaque/*"),
        ("GET /docs", "2xx", "/docs"),
        ("GET /nope/1", "4xx", "unmatched"),
        ("GET /plain/4/", "3xx", "unmatched"),
    ]


async def item_of_rest(rest: str) -> str:
    """An endpoint with a path for a parameter."""
    return rest


@pytest.mark.parametrize("where", ["around", "added", "around, and no traces of routes"])
def test_a_route_counts_as_its_template(where: str, client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """
    Included, mounted and nested routes count under their whole template, and nothing of a path is ever published.

    Before Starlette 1.0 its routers left no trace of the route; there it is found all the same.
    """
    app, expected = frameworks()
    if where == "added":
        app.add_middleware(MetricsMiddleware, metrics=client)
    else:
        app = MetricsMiddleware(_without_route(app) if "no traces" in where else app, client)

    async def run() -> None:
        for request, _, _ in expected:
            method, path = request.split()
            await Server(path, method).ask(app)

    asyncio.run(run())
    sums: dict[tuple[str, ...], float] = {}
    for request, outcome, endpoint in expected:
        key = (endpoint, request.split()[0], outcome)
        sums[key] = sums.get(key, 0) + 1
    assert counted(client, sink, "HttpRequests") == sums


def _without_route(app: Any) -> Any:
    async def forget(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)
        scope.pop("route", None)

    return forget


# ---- one line per request ----


def token(**claims: object) -> str:
    """A bearer token with these claims."""
    parts = [{"alg": "none"}, claims]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return f"Bearer {'.'.join(encoded)}.c2lnbmF0dXJl"


def test_one_line_tells_what_happened(client: CloudWatchMetrics, caplog: pytest.LogCaptureFixture) -> None:
    """The line has the request's id and what the metrics say, the tenant as they name it, and nothing else of the request."""
    caplog.set_level(logging.INFO)
    app = ObservabilityMiddleware(at("/x/{id}"), client, tenant=Tenants.from_header("X-Tenant"), clock=Clock())
    headers = [("X-Tenant", "jane@example.com"), ("X-Request-ID", "abc-1"), ("Authorization", token(sub="jane"))]
    answer = asyncio.run(Server("/x/secret", headers=headers, body=b"secret").ask(app))
    (record,) = [each for each in caplog.records if each.name == LOGGER]
    fields = {name: getattr(record, name) for name in ("request_id", "tenant", "method", "endpoint", "status")}
    label = DimensionPolicy().resolve("TenantId", "jane@example.com").value
    assert fields == {"request_id": "abc-1", "tenant": label, "method": "GET", "endpoint": "/x/{id}", "status": 200}
    assert (record.outcome, record.duration_seconds, record.response_bytes) == ("2xx", 0.0, 2)  # type: ignore[attr-defined]
    assert (record.levelname, record.getMessage()) == ("INFO", "http_request: GET /x/{id} 2xx")
    everything = str(record.__dict__)
    assert not [secret for secret in ("jane", "secret", "Bearer", "c2ln") if secret in everything]
    assert answer.headers["x-request-id"] == "abc-1"


def test_failures_are_logged_as_errors(client: CloudWatchMetrics, caplog: pytest.LogCaptureFixture) -> None:
    """A request that failed on our side is at ERROR, with the type of the failure and not its message."""

    async def fail(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("jane@example.com")

    with pytest.raises(LookupError):
        asyncio.run(Server().ask(ObservabilityMiddleware(at("/x", fail), client)))
    (record,) = [each for each in caplog.records if each.name == LOGGER]
    assert (record.levelname, record.error_type, record.status) == ("ERROR", "LookupError", 500)  # type: ignore[attr-defined]
    assert "jane" not in str(record.__dict__)


def test_structlog_is_used_where_it_is_configured(client: CloudWatchMetrics, caplog: pytest.LogCaptureFixture) -> None:
    """An application that has configured structlog gets its events there, with the same fields."""
    structlog = pytest.importorskip("structlog")
    app = ObservabilityMiddleware(at("/x"), client)
    structlog.configure()
    try:
        with structlog.testing.capture_logs() as events:
            asyncio.run(Server(headers=[("X-Request-ID", "abc-1")]).ask(app))
    finally:
        structlog.reset_defaults()
    assert [(each["event"], each["request_id"], each["endpoint"], each["log_level"]) for each in events] == [
        ("http_request", "abc-1", "/x", "info")
    ]
    assert not [each for each in caplog.records if each.name == LOGGER]


@pytest.mark.parametrize("given", ["", "a\nb", "ab c", "x" * 129, "<script>", "caf\u00e9"])
def test_a_request_id_that_is_not_plain_is_replaced(given: str, client: CloudWatchMetrics) -> None:
    """An id that could forge a line, or is too long, is not used; a new one is made and sent back."""
    answer = asyncio.run(Server(headers=[("X-Request-ID", given)]).ask(ObservabilityMiddleware(ok, client)))
    assert len(answer.headers["x-request-id"]) == 32
    assert answer.headers["x-request-id"] != given


def test_the_applications_own_id_stays(client: CloudWatchMetrics) -> None:
    """A response that has the header already keeps it, once."""

    async def own(scope: Any, receive: Any, send: Any) -> None:
        await start(send, headers=[(b"X-Request-Id", b"mine")])
        await body(send)

    answer = asyncio.run(Server().ask(ObservabilityMiddleware(own, client)))
    assert answer.sent[0]["headers"] == [(b"X-Request-Id", b"mine")]


# ---- tenants ----


def seen_by(client: CloudWatchMetrics, sink: InMemorySink) -> set[tuple[tuple[str, str], ...]]:
    """The dimensions under which `Seen` was recorded."""
    assert client.flush()
    return {datum.series.dimensions for datum in sink.datums if datum.series.name == "Seen"}


async def see(scope: Any, receive: Any, send: Any) -> None:
    """An application that records something of its own."""
    current_metrics().increment_counter("Seen")
    await ok(scope, receive, send)


@pytest.mark.parametrize(
    ("authorization", "tenant"),
    [
        (token(tenant="acme"), "acme"),
        (token(tenant=42), "42"),
        (token(tenant=["acme"]), None),
        (token(tenant=True), None),
        (token(tenant="x" * 300), None),
        (token(other="acme"), None),
        ("Basic YTpi", None),
        ("Bearer a.b", None),
        ("Bearer a.!.c", None),
        ("Bearer a.W10.c", None),
        ("Bearer " + "a" * 9000 + ".b.c", None),
        ("", None),
    ],
)
def test_the_tenant_may_be_a_claim(
    authorization: str, tenant: str | None, client: CloudWatchMetrics, sink: InMemorySink
) -> None:
    """A claim of a bearer token names the tenant; a token that is none, or a claim that is not a name, names nobody."""
    app = ObservabilityMiddleware(see, client, tenant=Tenants.from_jwt_claim("tenant"))
    asyncio.run(Server(headers=[("Authorization", authorization)]).ask(app))
    label = () if tenant is None else (("TenantId", DimensionPolicy().resolve("TenantId", tenant).value),)
    assert seen_by(client, sink) == {label}


def test_the_tenant_may_be_named_by_the_application(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """What `set_tenant` says counts from there on, in whatever context of the request it was said."""

    async def login(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.to_thread(set_tenant, "acme")
        await see(scope, receive, send)

    asyncio.run(Server().ask(ObservabilityMiddleware(login, client)))
    assert seen_by(client, sink) == {(("TenantId", DimensionPolicy().resolve("TenantId", "acme").value),)}


def test_outside_of_a_request_there_is_none(client: CloudWatchMetrics) -> None:
    """After a request, and before one, there is no current request, and the process-wide client records."""
    set_metrics_client(client)

    async def run() -> None:
        await Server().ask(ObservabilityMiddleware(ok))
        assert current_request() is None
        set_tenant("nobody")

    asyncio.run(run())
    assert current_request() is None
    assert current_metrics() is client
