"""No cross-talk: however requests of many tenants are interleaved, in tasks and in threads, each record carries its own tenant."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from retainwise_metrics import CloudWatchMetrics, MetricsConfig, timed
from retainwise_metrics.dimensions import DimensionPolicy
from retainwise_metrics.integrations import asgi, wsgi
from retainwise_metrics.testing import InMemorySink, ManualRuntime
from tests.helpers import assert_balanced
from tests.integrations.http_drivers import Server, ok
from tests.integrations.test_wsgi import Server as WsgiServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

TENANTS = ("acme", "globex", "initech", "umbrella", "hooli")
UNNAMED = "unnamed"
EVERYWHERE = asgi.RequestMetrics()
STEPS = 6

schedules = st.tuples(
    st.lists(st.sampled_from([*TENANTS, ""]), min_size=2, max_size=8),
    st.lists(st.integers(0, 7), max_size=60),
)
"""Whose requests there are, and which of them takes the next step, each time."""


class World:
    """A client whose tenants are published by their names, and what was recorded through it."""

    def __init__(self) -> None:
        self.sink = InMemorySink()
        plain = DimensionPolicy(rules=(), detectors=())
        config = MetricsConfig(strict=True, dimension_policy=plain, catalogue=())
        self.client = CloudWatchMetrics(config, sink=self.sink, runtime=ManualRuntime())

    def found(self, name: str) -> Counter[str]:
        """How often a metric was recorded, by tenant."""
        assert self.client.flush()
        assert_balanced(self.client)
        totals: Counter[str] = Counter()
        for datum in self.sink.datums:
            if datum.series.name == name:
                totals[dict(datum.series.dimensions).get("TenantId", UNNAMED)] += int(sum(datum.counts))
        return totals


def expected(requests: Iterable[str], each: int) -> Counter[str]:
    """How often it must have been."""
    return Counter({tenant: number * each for tenant, number in Counter(name or UNNAMED for name in requests).items()})


def record(step: int) -> None:
    """Record in one of the ways that code has that knows nothing of tenants."""
    if step % 3 == 0:
        asgi.current_metrics().increment_counter("Steps")
    elif step % 3 == 1:
        EVERYWHERE.increment_counter("Steps", dimensions={})
    else:
        with timed("Steps", client=EVERYWHERE):
            pass


async def handle(scope: Any, receive: Any, send: Any) -> None:
    """Record between awaits: in the request's task, in a task of its own, in a thread."""
    steps: asyncio.Queue[None] = scope["steps"]
    for step in range(STEPS):
        await steps.get()
        if step == 2:
            await asyncio.gather(_record_later(step))
        elif step == 4:
            await asyncio.to_thread(record, step)
        else:
            record(step)
    await ok(scope, receive, send)


async def _record_later(step: int) -> None:
    await asyncio.sleep(0)
    record(step)


@settings(max_examples=40)
@given(schedules)
def test_interleaved_tasks_do_not_mix_tenants(schedule: tuple[list[str], list[int]]) -> None:
    """Requests that take turns in one event loop in any order record under their own tenants, and exactly as often as they should."""
    requests, turns = schedule
    world = World()

    async def run() -> None:
        app = asgi.ObservabilityMiddleware(handle, world.client, tenant=asgi.Tenants.from_header("X-Tenant"))
        servers = [Server(headers=[("X-Tenant", tenant)]) for tenant in requests]
        for server in servers:
            server.scope["steps"] = asyncio.Queue()
        tasks = [asyncio.ensure_future(server.ask(app)) for server in servers]
        given_out: Counter[int] = Counter()
        for turn in turns:
            number = turn % len(servers)
            if given_out[number] < STEPS:
                given_out[number] += 1
                servers[number].scope["steps"].put_nowait(None)
                await asyncio.sleep(0)
        for number, server in enumerate(servers):
            for _ in range(STEPS - given_out[number]):
                server.scope["steps"].put_nowait(None)
        await asyncio.gather(*tasks)
        assert asgi.current_request() is None

    asyncio.run(run())
    assert world.found("Steps") == expected(requests, STEPS)


def stream(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    """Record between the parts of a body."""
    start_response("200 OK", [])
    for step in range(STEPS):
        record(step)
        yield b"part"


def middleware(world: World) -> Any:
    """A WSGI application whose tenants are in a header."""
    return wsgi.ObservabilityMiddleware(stream, world.client, tenant=wsgi.Tenants.from_header("X-Tenant"))


@settings(max_examples=60)
@given(schedules)
def test_interleaved_bodies_in_one_thread_do_not_mix_tenants(schedule: tuple[list[str], list[int]]) -> None:
    """A server that iterates many bodies by turns in one thread gets none of them mixed up."""
    requests, turns = schedule
    world = World()
    app = middleware(world)
    bodies = [WsgiServer(HTTP_X_TENANT=tenant).begin(app) for tenant in requests]
    for turn in turns:
        next(bodies[turn % len(bodies)], None)
    for body in bodies:
        list(body)
        body.close()
    assert asgi.current_request() is None
    assert world.found("Steps") == expected(requests, STEPS)


def test_threads_do_not_mix_tenants() -> None:
    """Threads that handle requests of all tenants at once, each body begun by one thread and finished by another, get all counts right."""
    world = World()
    app = middleware(world)
    requests = [(*TENANTS, "")[number % 6] for number in range(240)]
    shares = [requests[first::8] for first in range(8)]
    begun: list[list[Any]] = [[] for _ in shares]
    meeting = threading.Barrier(len(shares), timeout=60)

    def work(number: int) -> None:
        meeting.wait()
        for tenant in shares[number]:
            body = WsgiServer(HTTP_X_TENANT=tenant).begin(app)
            next(body)
            begun[number].append(body)
        meeting.wait()
        for body in begun[(number + 1) % len(begun)]:
            list(body)
            body.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.found("Steps") == expected(requests, STEPS)


def test_event_loops_in_threads_do_not_mix_tenants() -> None:
    """Several event loops, each in its thread and full of requests, share one middleware and one client."""
    world = World()
    app = asgi.ObservabilityMiddleware(handle, world.client, tenant=asgi.Tenants.from_header("X-Tenant"))
    requests = [(*TENANTS, "")[number % 6] for number in range(40)]

    async def serve() -> None:
        servers = [Server(headers=[("X-Tenant", tenant)]) for tenant in requests]
        for server in servers:
            server.scope["steps"] = asyncio.Queue()
            for _ in range(STEPS):
                server.scope["steps"].put_nowait(None)
        await asyncio.gather(*(server.ask(app) for server in servers))

    threads = [threading.Thread(target=lambda: asyncio.run(serve())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.found("Steps") == expected(requests * 4, STEPS)
