"""The endpoint takes a call and answers nothing: callers do not notice, and nobody waits longer than asked."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics import CloudWatchMetrics, DropReason
from tests.concurrency.threads import FOREVER_SECONDS, PATIENCE_SECONDS, begin, together
from tests.helpers import NAMESPACE, assert_balanced

if TYPE_CHECKING:
    from collections.abc import Callable

    from retainwise_metrics.testing import FakeCloudWatch


def test_records_do_not_wait_for_a_call_that_hangs(
    connect: Callable[..., CloudWatchMetrics], cloudwatch: FakeCloudWatch
) -> None:
    """100,000 records, new series among them, begin and end while one call hangs; all of them arrive after it."""
    client = connect(read_timeout_seconds=60.0)
    handle = client.counter("Bound")
    cloudwatch.faults.hang(1)
    client.put_metric("M", 0)
    flushing = begin(partial(client.flush, FOREVER_SECONDS))
    assert cloudwatch.wait_until(lambda: cloudwatch.faults.held == 1)

    def record() -> int:
        taken = 0
        for value in range(25_000):
            taken += client.put_metric("M", value % 9, dimensions={"Kind": f"k{value % 100}"})
            taken += handle.inc()
        return taken

    assert sum(together(record, record)) == 100_000
    assert cloudwatch.faults.held == 1, "the call ended too early to show anything"
    assert not flushing.done()
    assert client.stats()[:4] == (100_001, 0, 100_001, {})
    cloudwatch.faults.release()
    assert flushing.result(PATIENCE_SECONDS).delivered >= 1
    assert client.flush(FOREVER_SECONDS)
    assert cloudwatch.total_count() == 100_001
    assert client.stats()[:4] == (100_001, 100_001, 0, {})


def test_stop_returns_while_the_call_hangs(
    connect: Callable[..., CloudWatchMetrics], cloudwatch: FakeCloudWatch
) -> None:
    """`stop(0.3)` leaves the call to itself; once it has ended, everything was delivered or is counted as given up."""
    client = connect(read_timeout_seconds=60.0, batch_size=1)
    cloudwatch.faults.hang(1)
    for value in range(3):
        client.put_metric(f"M{value}", value)
    flushing = begin(partial(client.flush, FOREVER_SECONDS))
    assert cloudwatch.wait_until(lambda: cloudwatch.faults.held == 1)
    result = begin(partial(client.stop, 0.3)).result(PATIENCE_SECONDS)
    assert cloudwatch.faults.held == 1, "stop waited for the call"
    assert (result.delivered, result.dropped, result.pending) == (0, 0, 3)
    assert not client.put_metric("M0", 1)
    assert client.stats()[:4] == (4, 0, 3, {DropReason.STOPPED: 1})
    cloudwatch.faults.release()
    flushing.result(PATIENCE_SECONDS)
    stats = client.stats()
    assert (stats.recorded, stats.pending, stats.dropped[DropReason.STOPPED]) == (4, 0, 1)
    assert cloudwatch.total_count() == stats.delivered == 3 - stats.dropped.get(DropReason.SHUTDOWN, 0) >= 1


@pytest.mark.parametrize("ask", [CloudWatchMetrics.flush, CloudWatchMetrics.stop])
def test_no_time_at_all_is_enough_to_ask(
    ask: Callable[[CloudWatchMetrics, float], object],
    connect: Callable[..., CloudWatchMetrics],
    cloudwatch: FakeCloudWatch,
) -> None:
    """With a timeout of 0 the question is put, and answered by nobody while the call hangs."""
    client = connect(read_timeout_seconds=60.0)
    cloudwatch.faults.hang(1)
    client.put_metric("M", 1)
    begin(partial(client.flush, FOREVER_SECONDS))
    assert cloudwatch.wait_until(lambda: cloudwatch.faults.held == 1)
    assert not begin(partial(ask, client, 0.0)).result(PATIENCE_SECONDS)
    assert cloudwatch.faults.held == 1
    assert_balanced(client)
    cloudwatch.faults.release()


def test_a_client_that_gives_up_reading_sends_the_same_batch_again(
    connect: Callable[..., CloudWatchMetrics], cloudwatch: FakeCloudWatch
) -> None:
    """A call that hangs is cut off by the read timeout and repeated: delivered late, delivered once."""
    client = connect(read_timeout_seconds=0.2)
    cloudwatch.faults.hang(1)
    client.put_metric("M", 5)
    assert client.flush(FOREVER_SECONDS)
    assert cloudwatch.values(NAMESPACE, "M") == {5.0: 1}
    assert (client.stats().calls, client.stats().failed_calls) == (2, 1)
