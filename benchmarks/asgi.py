"""
What the ASGI middleware adds to a request, against those of Prometheus (two) and OpenTelemetry, in one process and in turns.

The application is called without a server or a socket, so that nothing else is in the figures; what a middleware costs is the difference
from the same application without one. Each middleware has its defaults. OpenTelemetry's metrics go to an in-memory reader, and its spans
to nobody. Ours delivers to memory, with its thread running; it alone measures what arrives, too.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from _harness import Report, Rounds, arguments, interleaved
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry
from prometheus_fastapi_instrumentator.middleware import PrometheusInstrumentatorMiddleware
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette_exporter import PrometheusMiddleware

from retainwise_metrics import CloudWatchMetrics, MetricsConfig
from retainwise_metrics.catalogue import CATALOGUE
from retainwise_metrics.integrations.asgi import MetricsMiddleware, ObservabilityMiddleware, Tenants, http_metrics

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

HEADERS = [
    (b"host", b"api.example.com"),
    (b"user-agent", b"bench/1.0"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"content-type", b"application/json"),
    (b"content-length", b"11"),
    (b"x-tenant-id", b"acme"),
    (b"x-request-id", b"0123456789abcdef"),
]
NOTHING = "no middleware"
OURS = "MetricsMiddleware"
OBSERVABILITY = "ObservabilityMiddleware, with tenant and log line"
INSTRUMENTATOR = "prometheus-fastapi-instrumentator"
EXPORTER = "starlette_exporter"
OPENTELEMETRY = "opentelemetry-instrumentation-asgi"
THEIRS = (INSTRUMENTATOR, EXPORTER, OPENTELEMETRY)


async def bare(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001 - the form of an application
    """
    The least an application does: read the body, answer.
    """
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def _hello(request: Any) -> PlainTextResponse:
    await request.body()
    return PlainTextResponse("ok")


def routed(middleware: Callable[[Any], Any]) -> Any:
    """
    A Starlette application of ten routes, with the middleware where applications put it.
    """
    routes = [Route(f"/things{number}/{{id}}", _hello, methods=["POST"]) for number in range(10)]
    app = Starlette(routes=routes)
    if middleware is not _without:
        app.add_middleware(_Added, wrap=middleware)
    return app


class _Added:
    """The form that `add_middleware` takes."""

    def __new__(cls, app: Any, wrap: Callable[[Any], Any]) -> Any:
        return wrap(app)


def _without(app: Any) -> Any:
    return app


class Silent:
    """
    A logger that takes the line and keeps nothing: what a line costs to write is the logger's.
    """

    def isEnabledFor(self, level: int) -> bool:  # noqa: ARG002, N802 - as in logging
        return True

    def log(self, level: int, message: str, *values: object, extra: dict[str, object]) -> None:
        pass


def middlewares(client: CloudWatchMetrics, number: int) -> dict[str, Callable[[Any], Any]]:
    """
    What is compared: each wraps an application.
    """
    meters = MeterProvider(metric_readers=[InMemoryMetricReader()])
    silent: Any = Silent()
    silent_logger: logging.Logger = silent
    return {
        NOTHING: _without,
        OURS: lambda app: MetricsMiddleware(app, client),
        OBSERVABILITY: lambda app: ObservabilityMiddleware(
            app, client, tenant=Tenants.from_header("x-tenant-id"), logger=silent_logger
        ),
        INSTRUMENTATOR: lambda app: PrometheusInstrumentatorMiddleware(app, registry=CollectorRegistry()),
        EXPORTER: lambda app: PrometheusMiddleware(app, prefix=f"bench{number}", group_paths=True),
        OPENTELEMETRY: lambda app: OpenTelemetryMiddleware(app, meter_provider=meters),
    }


def requests(app: Any, count: int) -> Callable[[], float]:
    """
    What measures one round: microseconds per request.
    """

    async def receive() -> Any:
        return {"type": "http.request", "body": b'{"rows": 7}', "more_body": False}

    async def send(message: Any) -> None:
        pass

    async def run() -> float:
        began = time.perf_counter()
        for _ in range(count):
            scope = {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": "1.1",
                "method": "POST",
                "scheme": "http",
                "path": "/things9/42",
                "raw_path": b"/things9/42",
                "query_string": b"",
                "root_path": "",
                "headers": HEADERS,
                "client": ("127.0.0.1", 50000),
                "server": ("127.0.0.1", 8000),
                "state": {},
            }
            await app(scope, receive, send)
        return (time.perf_counter() - began) / count * 1e6

    return lambda: asyncio.run(run())


def main() -> None:
    options = arguments(__doc__)
    report = Report("asgi", options)
    rounds, count = (5, 300) if options.quick else (21, 1000)
    config = MetricsConfig(
        sink="memory", environment="bench", flush_interval_seconds=3600.0, catalogue=(*CATALOGUE, *http_metrics())
    )
    with CloudWatchMetrics(config) as client:
        for number, (what, wrap) in enumerate((("a bare ASGI application", None), ("Starlette, ten routes", routed))):
            apps = {
                name: wrap(middleware) if wrap else middleware(bare)
                for name, middleware in middlewares(client, number).items()
            }
            found = interleaved({name: requests(app, count) for name, app in apps.items()}, rounds)
            _tables(report, what, found)
        stats = client.stats()
    if stats.dropped:
        message = f"records were dropped, so the figures mean nothing: {stats.dropped}"
        raise RuntimeError(message)
    report.finish()


def _tables(report: Report, what: str, found: dict[str, Rounds]) -> None:
    added = {name: figure.minus(found[NOTHING]) for name, figure in found.items() if name != NOTHING}
    report.table(
        f"Microseconds per request, {what}",
        ("middleware", "request", "added"),
        [(name, figure, added.get(name)) for name, figure in found.items()],
    )
    report.table(
        f"What is added, as a ratio, {what}",
        ("middleware", "against", "ratio", "target"),
        [(ours, theirs, added[ours].over(added[theirs]), "< 1") for ours in (OURS, OBSERVABILITY) for theirs in THEIRS],
    )


if __name__ == "__main__":
    main()
