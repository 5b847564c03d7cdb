"""Many values recorded at once, each with how often it occurred."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retainwise_metrics import CloudWatchMetrics, DropReason, InvalidMetricError, MetricsConfig
from retainwise_metrics.pipeline import intake
from retainwise_metrics.testing import InMemorySink, ManualRuntime
from tests.helpers import NAMESPACE, assert_balanced

if TYPE_CHECKING:
    from collections.abc import Callable

MILLION_MILLIONS = 10**12


def test_counts_arrive_as_counts(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """A value that occurred a million million times costs one entry, under every dimension set and beside single values."""
    assert client.put_values("X", {1.5: MILLION_MILLIONS, 2: 3}, "Seconds", dimensions={"A": "b"})
    assert client.put_metric("X", 2.0, "Seconds", dimensions={"A": "b"})
    assert client.stats().pending == MILLION_MILLIONS + 4
    assert_balanced(client)
    assert client.flush().delivered == MILLION_MILLIONS + 4
    assert sink.values(NAMESPACE, "X", {"A": "b"}) == {1.5: MILLION_MILLIONS, 2.0: 4}
    assert_balanced(client)


@given(
    st.lists(
        st.dictionaries(st.integers(-50, 50).map(float), st.integers(1, 5), min_size=1, max_size=30),
        min_size=1,
        max_size=8,
    )
)
def test_at_once_is_the_same_as_one_by_one(given: list[dict[float, int]]) -> None:
    """Whatever is recorded, in whatever parts, and whether or not the sketch takes over: the datums are the same."""
    for max_distinct in (10, 1000):
        sinks = InMemorySink(), InMemorySink()
        at_once, one_by_one = (
            CloudWatchMetrics(MetricsConfig(max_distinct_values=max_distinct), sink=sink, runtime=ManualRuntime())
            for sink in sinks
        )
        for counts in given:
            assert at_once.put_values("X", counts)
            for value, count in counts.items():
                for _ in range(count):
                    one_by_one.put_metric("X", value)
        assert at_once.flush()
        assert one_by_one.flush()
        first, second = (sink.values(NAMESPACE, "X") for sink in sinks)
        assert list(first) == pytest.approx(list(second))
        assert list(first.values()) == list(second.values())
        assert_balanced(at_once)


@pytest.mark.parametrize(
    "counts",
    [
        {},
        {1.0: 0},
        {1.0: -1},
        {1.0: 1.0},
        {1.0: True},
        {float("nan"): 1},
        {"a": 1},
        [(1.0, 1)],
        {1.0: 2**53 + 1},
        dict.fromkeys(range(1001), 1),
    ],
    ids=str,
)
def test_what_is_no_count_is_refused(make_client: Callable[..., CloudWatchMetrics], counts: object) -> None:
    """All or none, counted as one refusal; strict clients raise."""
    client = make_client()
    assert not client.put_values("X", counts)
    assert client.stats().dropped == {DropReason.INVALID_VALUE: 1}
    with pytest.raises(InvalidMetricError):
        make_client(strict=True).put_values("X", counts)


def test_refused_counts_are_counted_without_filling_the_memory(client: CloudWatchMetrics) -> None:
    """After a stop, a million million measurements are a number in the ledger and not a list."""
    client.stop()
    for _ in range(3):
        assert not client.put_values("X", {1.0: MILLION_MILLIONS})
    assert client.stats().dropped == {DropReason.STOPPED: 3 * MILLION_MILLIONS}
    assert_balanced(client)


def test_a_full_inbox_takes_no_more() -> None:
    """Entries with many values are bounded while somebody else holds the lock, and all are in the ledger."""
    client = CloudWatchMetrics(MetricsConfig(), sink=InMemorySink())
    with client._intake._lock:
        taken = sum(client.put_values("X", dict.fromkeys(range(1000), 2)) for _ in range(intake.COUNTED_FULL_AT + 5))
    assert taken == intake.COUNTED_FULL_AT
    assert client.stop(30)
    stats = client.stats()
    assert (stats.delivered, stats.pending) == (2000 * taken, 0)
    assert stats.dropped == {DropReason.INTAKE_FULL: 10_000}


def test_too_many_series_are_counted_by_measurements(make_client: Callable[..., CloudWatchMetrics]) -> None:
    """What finds no place is refused with its whole count."""
    client = make_client(max_series=1)
    for index in range(2000):
        client.put_values(f"Name{index}", {1.0: 10_000})
    client.flush()
    stats = client.stats()
    assert stats.dropped[DropReason.TOO_MANY_SERIES] % 10_000 == 0
    assert stats.recorded == 20_000_000
    assert_balanced(client)


def test_threads_lose_nothing() -> None:
    """Eight threads with counts and single values side by side: all that was taken arrives, and all that was not is counted as refused."""
    sink = InMemorySink()
    client = CloudWatchMetrics(MetricsConfig(), sink=sink)
    taken: list[int] = []

    def record() -> None:
        # Should whoever folds lose the interpreter for long, the inbox fills up and refuses.
        for index in range(300):
            taken.append(1001 * client.put_values("X", {1.0: 1000, index + 0.5: 1}))
            taken.append(1 * client.put_metric("X", 1.0))

    threads = [threading.Thread(target=record) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    client.stop(30)
    assert sum(sink.values(NAMESPACE, "X").values()) == sum(taken) > 0
    assert client.stats().recorded == 8 * 300 * 1002
    assert client.stats().dropped == (
        {DropReason.INTAKE_FULL: 8 * 300 * 1002 - sum(taken)} if sum(taken) < 8 * 300 * 1002 else {}
    )
    assert_balanced(client)
