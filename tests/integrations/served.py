"""
The applications that test_http_servers.py serves: on the process-wide client, as a user's are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retainwise_metrics.integrations import asgi, wsgi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def make_asgi() -> Any:
    """A Starlette application with one route."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def item(request: Any) -> PlainTextResponse:
        asgi.current_metrics().increment_counter("ItemsSeen")
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/items/{item_id}", item)])
    app.add_middleware(asgi.ObservabilityMiddleware)
    return app


def _item(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    wsgi.current_metrics().increment_counter("ItemsSeen")
    environ["retainwise_metrics.endpoint"] = "/items/{item_id}"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


wsgi_app = wsgi.ObservabilityMiddleware(_item)
"""Made when the module is imported: with `--preload`, in the parent of the workers."""
