"""
The run: customers on one side, CloudWatch or a file of EMF documents on the other, the service in between.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from examples.booking.adapters import QueueInMemory, in_memory
from examples.booking.domain import Request
from examples.booking.wiring import Telemetry, telemetry, wire
from examples.booking.witness import Books, Stopwatch, make, witnessed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from examples.booking.proof import Published
    from examples.booking.wiring import Service

CONSUMERS = 2
HOT_SEATS, HOT_SHARE = 6, 0.2
"""The first row, and how many want to sit there."""

IMPATIENT_SHARE = 0.03
IMPATIENT_SECONDS = (0.0, 0.02)
"""Some customers hang up, after a time between these."""

EXACT_VALUES = "1000000"
"""
Distinct values per series and minute that the client keeps as they are, so that percentiles are exact however many
requests are made; with the default of 1,000 they are right to 1 % beyond that.
"""


class Options(NamedTuple):
    """
    What the user asked for.

    Attributes:
        sink: `cloudwatch` or `emf`.
        requests: How many.
        concurrency: How many at once.
        seed: Of everything that is left to chance.
        documents: Where EMF documents go.
    """

    sink: str
    requests: int
    concurrency: int
    seed: int
    documents: Path


class Outcome(NamedTuple):
    """
    What is known of a run.

    Attributes:
        books: What happened.
        published: What was published.
        delivered: Whether the service says that everything was.
        seconds: How long the customers took.
        transport: How it was published, in words.
        named: With EMF, the requests that documents name by their property `booking_id`; None otherwise.
    """

    books: Books
    published: Published
    delivered: bool
    seconds: float
    transport: str
    named: set[str] | None


def run(options: Options) -> Outcome:
    """
    Put the service under load, stop it, and read back what it published.
    """
    return {"cloudwatch": _over_cloudwatch, "emf": _over_emf}[options.sink](options)


def _over_cloudwatch(options: Options) -> Outcome:
    from retainwise_metrics.testing import FakeCloudWatch

    with FakeCloudWatch() as cloudwatch, _surroundings(cloudwatch.endpoint_url):
        books, delivered, seconds = _serve(options, telemetry(os.environ | {"SINK": "cloudwatch"}))
        calls, refused = len(cloudwatch.calls), len(cloudwatch.rejected_calls)
    return Outcome(books, cloudwatch, delivered, seconds, f"{calls} PutMetricData calls, {refused} refused", None)


def _over_emf(options: Options) -> Outcome:
    from retainwise_metrics.testing.emf_reader import EmfReader

    with options.documents.open("w", encoding="utf-8") as stream:
        books, delivered, seconds = _serve(options, telemetry({"SINK": "emf"}, stream=stream))
    with options.documents.open(encoding="utf-8") as lines:
        published = EmfReader().read(lines)
    named = {document["booking_id"] for document in published.documents if "booking.attempts" in document}
    transport = f"{len(published.documents):,} documents, {options.documents.stat().st_size:,} bytes"
    return Outcome(books, published, delivered, seconds, transport, named)


@contextmanager
def _surroundings(endpoint_url: str) -> Iterator[None]:
    """
    An environment in which nothing but the fake can be reached.
    """
    from examples.retainwise import aws

    before = dict(os.environ)
    inside = aws.environment(endpoint_url, before) | {
        "ENVIRONMENT": "demo",
        "RETAINWISE_METRICS_MAX_DISTINCT_VALUES": EXACT_VALUES,
    }
    _replace_environ(inside)
    try:
        yield
    finally:
        _replace_environ(before)


def _replace_environ(environ: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environ)


def _serve(options: Options, chosen: Telemetry) -> tuple[Books, bool, float]:
    books, stopwatch, ports = Books(), Stopwatch(), in_memory(options.seed)
    queue = ports.queue
    assert isinstance(queue, QueueInMemory)
    service = wire(witnessed(ports, books), chosen, clock=stopwatch)
    started = time.perf_counter()
    try:
        asyncio.run(_load(options, service, queue, stopwatch, books))
        seconds = time.perf_counter() - started
    finally:
        delivered = service.close()  # also after Ctrl-C, while there is still somebody to deliver to
    return books, delivered, seconds


async def _load(options: Options, service: Service, queue: QueueInMemory, stopwatch: Stopwatch, books: Books) -> None:
    consumers = [asyncio.create_task(service.consumer.run()) for _ in range(CONSUMERS)]
    customers = plan(options.requests, random.Random(options.seed))
    loop = asyncio.get_running_loop()

    async def at_once() -> None:
        for request, hangs_up_after in customers:
            task = asyncio.create_task(make(request, service.api, stopwatch, books))
            if hangs_up_after is not None:
                loop.call_later(hangs_up_after, task.cancel)
            await asyncio.wait({task})
            if not task.cancelled():  # before it began
                task.result()

    await asyncio.gather(*(at_once() for _ in range(options.concurrency)))
    queue.close(CONSUMERS)
    await asyncio.gather(*consumers)


def plan(requests: int, chance: random.Random) -> Iterator[tuple[Request, float | None]]:
    """
    Requests, each with the seconds after which its customer hangs up; None for those who wait.
    """
    for number in range(requests):
        hot = chance.random() < HOT_SHARE
        seat = f"row-1-seat-{chance.randrange(HOT_SEATS)}" if hot else f"stalls-{chance.randrange(10 * requests)}"
        patience = chance.uniform(*IMPATIENT_SECONDS) if chance.random() < IMPATIENT_SHARE else None
        request = Request(f"booking-{number}", f"user-{chance.randrange(1000)}", seat, chance.randrange(20, 120) * 100)
        yield request, patience
