"""However many threads record, flush and look on: nothing is lost, nothing is counted twice."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.concurrency.own_dimensions import ALL, RECORDED, record_all
from tests.concurrency.threads import FOREVER_SECONDS, PATIENCE_SECONDS, begin, together
from tests.helpers import NAMESPACE, assert_balanced

if TYPE_CHECKING:
    from collections.abc import Callable

    from retainwise_metrics import CloudWatchMetrics
    from retainwise_metrics.testing import FakeCloudWatch

THREADS = 8
RECORDS = 100_000
DIMENSIONS = {"Endpoint": "/upload", "Method": "POST"}


def put(client: CloudWatchMetrics) -> Callable[[int], bool]:
    """Through the client, dimensions each time."""
    return lambda value: client.put_metric("M", value, dimensions=DIMENSIONS)


def count(client: CloudWatchMetrics) -> Callable[[int], bool]:
    """Through a bound counter."""
    return client.counter("M").bind(**DIMENSIONS).inc


def observe(client: CloudWatchMetrics) -> Callable[[int], bool]:
    """Through a histogram with dimensions of its own."""
    return client.histogram("M", dimensions=DIMENSIONS).observe


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("way", [put, count, observe])
def test_every_record_of_eight_threads_arrives_once(
    way: Callable[[CloudWatchMetrics], Callable[[int], bool]],
    connect: Callable[..., CloudWatchMetrics],
    cloudwatch: FakeCloudWatch,
) -> None:
    """800,000 records beside constant flushes are 800,000 records on CloudWatch, with the same sum."""
    client = connect()
    assert client.put_metric_sync("ConnectionIsMade", 1)
    record = way(client)
    over = threading.Event()

    def record_all() -> int:
        first_half = sum(record(value % 7) for value in range(RECORDS // 2))
        assert cloudwatch.wait_for_calls(2, PATIENCE_SECONDS), "nothing is flushed while all are recording"
        return first_half + sum(record(value % 7) for value in range(RECORDS // 2, RECORDS))

    def keep_flushing() -> int:
        flushes = 0
        while not over.is_set():
            client.flush(FOREVER_SECONDS)
            flushes += 1
        return flushes

    flusher = begin(keep_flushing)
    taken = together(*[record_all] * THREADS)
    over.set()
    assert flusher.result(PATIENCE_SECONDS) >= 1
    assert client.flush(FOREVER_SECONDS)
    assert sum(taken) == THREADS * RECORDS
    assert cloudwatch.count(NAMESPACE, "M", DIMENSIONS) == THREADS * RECORDS
    assert cloudwatch.sum(NAMESPACE, "M", DIMENSIONS) == THREADS * sum(value % 7 for value in range(RECORDS))
    assert client.stats()[:4] == (THREADS * RECORDS + 1, THREADS * RECORDS + 1, 0, {})


@pytest.mark.usefixtures("restless")
def test_one_new_series_for_all_who_ask_for_it_at_once(
    connect: Callable[..., CloudWatchMetrics], cloudwatch: FakeCloudWatch
) -> None:
    """Threads that are the first to record something, all at the same moment, record it in one place."""
    client = connect(batch_size=1000)
    barrier = threading.Barrier(16)

    def be_first_again_and_again() -> None:
        for name in range(100):
            barrier.wait(PATIENCE_SECONDS)
            client.put_metric(f"New-{name}", 2, dimensions={"Kind": "fresh"})
            client.counter(f"Bound-{name}", dimensions={"Kind": "fresh"}).inc()

    together(*[be_first_again_and_again] * 16)
    assert client.flush(FOREVER_SECONDS)
    assert len(cloudwatch.series()) == client.stats().series == 200
    for name in range(100):
        assert cloudwatch.values(NAMESPACE, f"New-{name}", {"Kind": "fresh"}) == {2.0: 16}
        assert cloudwatch.values(NAMESPACE, f"Bound-{name}", {"Kind": "fresh"}) == {1.0: 16}
    assert_balanced(client)


@pytest.mark.usefixtures("restless")
def test_thousands_of_series_registered_by_threads(
    connect: Callable[..., CloudWatchMetrics], cloudwatch: FakeCloudWatch
) -> None:
    """Half of the series are known to all threads, half to one: each of the 5,000 holds exactly what was recorded in it."""
    client = connect(batch_size=1000, max_series=20_000, max_series_per_metric=20_000)

    def register(own: int) -> int:
        taken = 0
        for number in range(500):
            taken += client.put_metric("M", 1, dimensions={"Thread": "all", "Number": f"n{number}"})
            taken += client.put_metric("M", 1, dimensions={"Thread": f"t{own}", "Number": f"n{number}"})
        return taken

    taken = together(*(partial(register, own) for own in range(THREADS)))
    assert client.flush(FOREVER_SECONDS)
    assert cloudwatch.total_count() == sum(taken) == THREADS * 1000
    assert len(cloudwatch.series()) == client.stats().series == 500 + THREADS * 500
    for number in range(500):
        assert cloudwatch.count(NAMESPACE, "M", {"Thread": "all", "Number": f"n{number}"}) == THREADS
    assert_balanced(client)


@pytest.mark.usefixtures("restless")
def test_threads_and_tasks_under_their_own_dimensions(
    connect: Callable[..., CloudWatchMetrics], cloudwatch: FakeCloudWatch
) -> None:
    """Beside constant flushes, each value arrives under its own dimensions; `tests/sinks/test_emf_stdout.py` has the same for documents."""
    client = connect()
    over = threading.Event()

    def keep_flushing() -> None:
        while not over.is_set():
            client.flush(FOREVER_SECONDS)

    flusher = begin(keep_flushing)
    record_all(client)
    over.set()
    flusher.result(PATIENCE_SECONDS)
    assert client.stop(FOREVER_SECONDS)
    found = {
        (series.name, dict(series.dimensions)["Who"]): cloudwatch.values(*series[:2], dict(series.dimensions))
        for series in cloudwatch.series()
    }
    assert found == RECORDED
    assert client.stats()[:4] == (ALL, ALL, 0, {})


@pytest.mark.usefixtures("restless")
def test_the_ledger_is_balanced_whenever_somebody_looks(connect: Callable[..., CloudWatchMetrics]) -> None:
    """Beside four recording threads and constant flushes, the books always add up and never go back."""
    client = connect()
    over = threading.Event()

    def record() -> int:
        return sum(client.put_metric("M", value % 300) + client.put_metric("N", float("nan")) for value in range(5_000))

    def keep_flushing() -> None:
        while not over.is_set():
            client.flush(FOREVER_SECONDS)

    def keep_reading() -> int:
        looks = recorded = delivered = dropped = 0
        while not over.is_set():
            stats = client.stats()
            lost = sum(stats.dropped.values())
            assert stats.recorded == stats.delivered + lost + stats.pending
            assert stats.pending >= 0
            assert (recorded, delivered, dropped) <= (stats.recorded, stats.delivered, lost), "a total went back"
            assert recorded <= stats.recorded <= 4 * 10_000
            assert delivered <= stats.delivered
            assert dropped <= lost <= 4 * 5_000
            recorded, delivered, dropped = stats.recorded, stats.delivered, lost
            looks += 1
        return looks

    others = [begin(keep_flushing), begin(keep_reading), begin(keep_reading)]
    taken = together(*[record] * 4)
    over.set()
    assert all(future.result(PATIENCE_SECONDS) != 0 for future in others)
    assert client.flush(FOREVER_SECONDS)
    stats = client.stats()
    assert (stats.recorded, stats.delivered, stats.pending) == (4 * 10_000, sum(taken), 0)
    assert sum(stats.dropped.values()) == 4 * 5_000
