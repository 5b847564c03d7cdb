"""
A million of something that nobody expected: memory stays bounded, totals are exact, heavy hitters are seen, and a record costs the same.

What a record costs is counted in function calls, which are the same on every machine, and not in seconds.
"""

from __future__ import annotations

import gc
import itertools
import sys
import tracemalloc
from collections import Counter
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from retainwise_metrics import CloudWatchMetrics, DropReason, MetricsConfig
from retainwise_metrics.pipeline.intake import COMBINATIONS, LOOKUP_SIZE
from retainwise_metrics.sinks.base import SinkUnavailable
from retainwise_metrics.testing import InMemorySink, ManualRuntime
from tests.helpers import NAMESPACE, assert_balanced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from retainwise_metrics.datum import Batch

MILLION = 1_000_000
MEGABYTE = 1_000_000
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath")
LETTERS = "ghijkmnpqrstuvwxyz"


class CountingSink(InMemorySink):
    """Adds up what it is sent instead of keeping it."""

    def __init__(self, fail: Callable[[Batch], None] | None = None) -> None:
        super().__init__(fail)
        self.measurements: Counter[tuple[str, str, tuple[tuple[str, str], ...]]] = Counter()
        self.total = 0
        self.windows: set[int] = set()

    def send(self, batch: Batch) -> None:
        super().send(batch)
        self.batches.clear()
        for datum in batch.datums:
            series = datum.series
            self.measurements[series.namespace, series.name, series.dimensions] += datum.measurements
            self.total += datum.measurements
            self.windows.add(datum.timestamp)


def word(number: int) -> str:
    """A word for a number, which no default rule takes for an identifier or a number."""
    made = []
    for _ in range(5):
        number, rest = divmod(number, len(LETTERS))
        made.append(LETTERS[rest])
    return "".join(made)


@contextmanager
def counted_calls() -> Iterator[Callable[[], int]]:
    """How many Python and C functions are called meanwhile on this thread."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        yield lambda: calls
    finally:
        sys.setprofile(None)


@contextmanager
def counted_memory() -> Iterator[Callable[[], int]]:
    """How many bytes more are in use than at the beginning."""

    def used() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    before = used()
    try:
        yield lambda: used() - before
    finally:
        tracemalloc.stop()


def cost(record: Callable[[int], object], numbers: range) -> float:
    """Function calls per record, everything included that records lead to."""
    with counted_calls() as calls:
        for number in numbers:
            record(number)
        return calls() / len(numbers)


class Flooded:
    """A client on a clock that stands still until it is moved, once for each so many records."""

    def __init__(self, **settings: Any) -> None:
        self.runtime, self.sink = ManualRuntime(), CountingSink()
        usual: dict[str, Any] = {"catalogue": (), "max_series": 500, "max_series_per_metric": 100}
        self.client = CloudWatchMetrics(MetricsConfig(**{**usual, **settings}), sink=self.sink, runtime=self.runtime)

    def pour(self, record: Callable[[int], object], numbers: range, *, minutes: int = 8) -> None:
        """Record many, within some minutes."""
        step = max(len(numbers) // minutes, 1)
        for start in range(numbers.start, numbers.stop, step):
            for number in range(start, min(start + step, numbers.stop)):
                record(number)
            self.runtime.advance(60.0)

    def settle(self, recorded: int) -> None:
        """Everything that was recorded is delivered or was refused, to the last one."""
        assert self.client.flush(1000.0)
        assert_balanced(self.client)
        stats = self.client.stats()
        assert stats.recorded == recorded
        assert stats.pending == 0
        assert self.sink.total == stats.delivered


def remembered(client: CloudWatchMetrics) -> int:
    """Objects that the client holds on to, in its tables."""
    schemas = [*client._schemas.values(), *client._uses.values()]
    guard = client._intake._guard
    return (
        len(schemas)
        + sum(len(schema.channels) for schema in schemas)
        + len(client._intake.channels())
        + len(client._intake._series)
        + client._intake._windows.datums
        + sum(len(places) for places in guard._places.values())
        + sum(len(each.candidates) + len(each.series) for each in guard._overflows.values())
    )


def test_a_million_ids_in_a_dimension() -> None:
    """Memory is that of the cap, eight heavy hitters get a series of their own, no measurement is missing, and a record costs the same."""
    flooded = Flooded()
    client, random = flooded.client, Random(6)
    heavy = Counter[str]()

    def record(number: int) -> None:
        # One in eight is one of the heavy hitters, which come late: all places are taken by then.
        if number > 10_000 and number % 8 == 0:
            name = random.choice(WORDS)
            heavy[name] += 1
        else:
            name = word(number)
        client.put_metric("Uploads", 1, dimensions={"Shelf": name})
        if number % 10_000 == 0:
            flooded.runtime.advance(60.0)

    flooded.pour(record, range(100_000), minutes=1)
    early, settled = cost(record, range(100_000, 110_000)), remembered(client)
    with counted_memory() as grown:
        flooded.pour(record, range(110_000, 140_000), minutes=1)
        assert grown() < 10 * MEGABYTE
    flooded.pour(record, range(140_000, MILLION - 10_000), minutes=1)
    assert cost(record, range(MILLION - 10_000, MILLION)) < 1.25 * early + 5
    assert remembered(client) < 2 * settled + 1000
    assert len(flooded.sink.measurements) < 2_000, "series that are billed"
    assert client.stats().series <= 500
    flooded.settle(MILLION)
    assert flooded.sink.total == MILLION
    for name, count in heavy.items():
        own = flooded.sink.measurements[NAMESPACE, "Uploads", (("Shelf", name),)]
        assert own > count / 2, f"{name} has a series of its own most of the time"
    (offender, *_) = client.stats().offenders
    assert (offender.metric, offender.dimension) == ("Uploads", "Shelf")


FLOODS: dict[str, tuple[Any, int]] = {
    "metric names": (lambda client, n: client.put_metric(f"Name{word(n)}", 1), 12_000),
    "metric names of counters": (lambda client, n: client.counter(f"Name{word(n)}").inc(), 10_000),
    "metric names of gauges that are read": (lambda client, n: client.gauge(f"Name{word(n)}", int), 10_000),
    "metric names of gauges that are moved": (lambda client, n: client.gauge(f"Name{word(n)}").inc(), 12_000),
    "dimension names": (lambda client, n: client.put_metric("M", 1, dimensions={f"Kind{word(n)}": "x"}), 12_000),
    "dimension names, thirty at a time": (
        lambda client, n: client.put_metric("M", 1, dimensions={f"K{word(30 * n + each)}": "x" for each in range(30)}),
        800,
    ),
    "namespaces": (lambda client, n: client.put_metric("M", 1, namespace=f"Space/{word(n)}"), 12_000),
    "namespaces with a dimension": (
        lambda client, n: client.put_metric("M", 1, namespace=f"Space/{word(n)}", dimensions={"Kind": word(n)}),
        12_000,
    ),
    "garbage for units": (lambda client, n: client.put_metric("M", 1, word(n)), 12_000),
    "garbage for everything": (lambda client, n: client.put_metric(n, word(n), n, dimensions=n, namespace=n), 12_000),
    "values": (lambda client, n: client.put_metric("M", n * 1.37), 100_000),
    "counts": (lambda client, n: client.put_values("M", {n * 1.37 + each: 1 for each in range(10)}), 4_000),
    "users": (lambda client, n: client.put_metric("M", 1, dimensions={"UserId": word(n)}), 12_000),
    "scopes": (lambda client, n: client.with_tenant(word(n)).put_metric("M", 1), 12_000),
    "bound handles": (lambda client, n: client.counter("M").bind(Kind=word(n)).inc(), 12_000),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of(flood: str) -> None:
    """Each is bounded in what is remembered of it and in what a record costs, and what is refused is counted."""
    record, count = FLOODS[flood]
    flooded = Flooded(max_pending_datums=20_000)
    client = flooded.client
    client.put_metric("Bystander", 1)
    flooded.pour(lambda number: record(client, number), range(count // 4), minutes=4)
    settled = remembered(client) + len(client._levels) + len(client._collectors)
    some = count // 20
    early = cost(lambda number: record(client, number), range(count // 4, count // 4 + some))
    flooded.pour(lambda number: record(client, number), range(count // 4 + some, count), minutes=12)
    late = cost(lambda number: record(client, number), range(count, count + some))
    assert remembered(client) + len(client._levels) + len(client._collectors) < 2 * settled + LOOKUP_SIZE + COMBINATIONS
    assert len(client._levels) <= 500
    assert len(client._collectors) <= 500
    # A full table starts over now and then, at one record's expense; a flood of names is also one of first records.
    assert late < 2 * early + 50
    assert client.put_metric("Bystander", 1)
    assert client.flush(1000.0)
    assert_balanced(client)
    assert client.stats().pending == 0
    assert flooded.sink.total == client.stats().delivered
    assert flooded.sink.measurements[NAMESPACE, "Bystander", ()] == 2
    if "gauges" not in flood:
        weight = 10 if flood == "counts" else 1
        assert client.stats().recorded == weight * (count + some) + 2


def test_a_flood_of_timestamps() -> None:
    """Each in another minute of the last two weeks: all of them arrive, each in its own minute, and memory is that of the backlog."""
    flooded = Flooded()
    now = flooded.runtime.wall()
    minutes = 14 * 24 * 60 - 30
    taken = 0
    for number in itertools.chain(range(minutes), range(0, minutes, 3)):
        taken += flooded.client.put_metric("M", 1, timestamp=now - 60.0 * number)
    flooded.settle(taken)
    assert flooded.sink.measurements == {(NAMESPACE, "M", ()): taken}
    assert len(flooded.sink.windows) == minutes


def test_a_flood_of_timestamps_while_nothing_gets_through() -> None:
    """The backlog holds as many minutes as it may, and every one that it gives up is counted."""

    def fail(_: Batch) -> None:
        message = "nothing gets through"
        raise SinkUnavailable(message)

    flooded = Flooded(max_pending_datums=1_000)
    flooded.sink.fail = fail
    now = flooded.runtime.wall()
    for number in range(20_000):
        flooded.client.put_metric("M", 1, timestamp=now - 60.0 * number)
        if number % 500 == 0:
            flooded.client.flush(0.0)
            assert flooded.client.stats().pending <= 2_000
            assert_balanced(flooded.client)
    flooded.client.flush(0.0)
    stats = flooded.client.stats()
    assert stats.recorded == 20_000
    assert stats.dropped.keys() == {DropReason.BACKLOG_FULL}
    assert stats.pending <= 1_000 + flooded.client.config.batch_size
    flooded.sink.fail = None
    flooded.runtime.advance(3600.0)
    flooded.settle(20_000)
