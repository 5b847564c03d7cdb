"""What the tests of the HTTP middlewares share: a server's side of ASGI and WSGI, without a server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from retainwise_metrics.catalogue import CATALOGUE
from retainwise_metrics.integrations._http import http_metrics

if TYPE_CHECKING:
    from collections.abc import Iterable

    from retainwise_metrics import CloudWatchMetrics
    from retainwise_metrics.testing import InMemorySink

API = "RetainWise/API"
DECLARED = tuple({(spec.namespace, spec.name): spec for spec in (*CATALOGUE, *http_metrics())}.values())
"""A catalogue that has the metrics of HTTP."""


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Server:
    """
    One request as an ASGI server sees it.

    Args:
        method, path, headers, body: The request.
        gone: The client leaves after the body; the next message to receive says so.
        deaf_after: So many messages are sent, then the client is gone. None: it stays.
    """

    def __init__(
        self,
        path: str = "/",
        method: str = "GET",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        gone: bool = False,
        deaf_after: int | None = None,
    ) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
        }
        self.messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
        if gone:
            self.messages.append({"type": "http.disconnect"})
        self.sent: list[dict[str, Any]] = []
        self._deaf_after = deaf_after

    async def receive(self) -> dict[str, Any]:
        """The next message of the client, who is silent after the last one."""
        if not self.messages:
            await asyncio.Event().wait()
        return self.messages.pop(0)

    async def send(self, message: dict[str, Any]) -> None:
        """Take a message for the client."""
        if self._deaf_after is not None and len(self.sent) >= self._deaf_after:
            raise OSError("the client is gone")
        self.sent.append(message)

    async def ask(self, app: Any) -> Server:
        """Let an application handle the request."""
        await app(self.scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int:
        """The status of the answer."""
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}


def values(
    client: CloudWatchMetrics, sink: InMemorySink, name: str, namespace: str = API, **dimensions: str
) -> dict[float, int]:
    """What was recorded under exactly these dimensions."""
    assert client.flush()
    return sink.values(namespace, name, dimensions)


def counted(
    client: CloudWatchMetrics, sink: InMemorySink, name: str, namespace: str = API
) -> dict[tuple[str, ...], float]:
    """Sums by the values of the dimensions, in the order of their names; without the roll-up."""
    assert client.flush()
    sums: dict[tuple[str, ...], float] = {}
    for datum in sink.datums:
        if (datum.series.namespace, datum.series.name) == (namespace, name) and datum.series.dimensions:
            key = tuple(value for _, value in datum.series.dimensions)
            sums[key] = sums.get(key, 0) + sum(map(float.__mul__, map(float, datum.values), map(float, datum.counts)))
    return sums


async def start(send: Any, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Begin an answer."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def body(send: Any, data: bytes = b"", *, more: bool = False) -> None:
    """Continue an answer."""
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def ok(scope: Any, receive: Any, send: Any) -> None:
    """The least an application does."""
    await start(send)
    await body(send, b"ok")
