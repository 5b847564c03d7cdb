"""Each value belongs to the minute it was recorded in, whatever the worker is doing when a minute begins."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics import CloudWatchMetrics, MetricsConfig
from retainwise_metrics.pipeline.intake import FOLD_AT
from retainwise_metrics.runtime import SystemRuntime
from retainwise_metrics.testing import InMemorySink
from tests.concurrency.threads import FOREVER_SECONDS, PATIENCE_SECONDS, Gate, begin, together
from tests.helpers import NAMESPACE, assert_balanced

if TYPE_CHECKING:
    from collections.abc import Callable

    from retainwise_metrics.testing import ManualRuntime

MINUTE = 1_767_225_600
THREADS, RECORDS = 8, 40_000


class SetClock(SystemRuntime):
    """The real thing, with a wall clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = float(MINUTE)

    def wall(self) -> float:
        return self.now


@pytest.mark.usefixtures("restless")
def test_a_minute_that_begins_while_a_call_hangs_loses_nothing() -> None:
    """Eight threads in tight loops turn over to the new minute by themselves, without the worker and without a loss."""
    runtime, gate = SetClock(), Gate()
    client = CloudWatchMetrics(
        MetricsConfig(catalogue=(), flush_interval_seconds=3600.0), sink=(sink := InMemorySink(gate)), runtime=runtime
    )
    handle = client.counter("Bound")
    client.put_metric("M", 1, dimensions={"Kind": "k"})
    handle.inc()
    flushing = begin(partial(client.flush, FOREVER_SECONDS))
    gate.wait_until_reached()
    runtime.now += 60.0

    def record() -> int:
        taken = 0
        for _ in range(RECORDS // 2):
            taken += client.put_metric("M", 1, dimensions={"Kind": "k"})
            taken += handle.inc()
        return taken

    assert sum(together(*[record] * THREADS)) == THREADS * RECORDS
    gate.open()
    assert flushing.result(PATIENCE_SECONDS).delivered >= 1
    assert client.flush(FOREVER_SECONDS)
    by_minute = {MINUTE: 0, MINUTE + 60: 0}
    for datum in sink.datums:
        by_minute[datum.timestamp] += datum.measurements
    assert sum(by_minute.values()) == THREADS * RECORDS + 2
    # What a list takes before anybody looks at the clock again; several threads may have seen it just short of full.
    assert by_minute[MINUTE] <= 2 * (FOLD_AT + THREADS)
    assert client.stats().dropped == {}
    assert client.stop(FOREVER_SECONDS)


def test_a_full_list_is_turned_over_by_its_caller(
    runtime: ManualRuntime, make_client: Callable[..., CloudWatchMetrics], sink: InMemorySink
) -> None:
    """A caller that finds its list full in a new minute folds it into the old one and goes on in the new one."""
    client = make_client()
    client.put_metric("M", 1)
    client.flush()
    start = int(runtime.wall()) // 60 * 60
    for _ in range(FOLD_AT):
        client.put_metric("M", 1)
    runtime.freeze(60.0)
    for _ in range(10):
        client.put_metric("M", 2)
    client.flush()
    assert [(d.timestamp - start, d.values, d.counts) for d in sink.datums[1:]] == [
        (0, (1.0,), (FOLD_AT,)),
        (60, (2.0,), (10,)),
    ]
    assert_balanced(client)


def test_a_caller_that_comes_too_late_is_noticed_at_the_next_full_minute(
    runtime: ManualRuntime, make_client: Callable[..., CloudWatchMetrics], sink: InMemorySink
) -> None:
    """
    A caller may lose the interpreter between looking at its list and appending to it, and the worker fall asleep meanwhile.

    Nobody is woken for such a value, and those after it follow it without looking at the clock, so a sleep ends with the minute.
    """
    client = make_client(flush_interval_seconds=3600)
    start = int(runtime.wall()) // 60 * 60
    for _ in range(2):
        client.put_metric("M", 1)
    client.flush()
    runtime.advance(5.0)
    (channel,) = client._intake.channels()
    assert client._intake.asleep
    channel.pending.append(2)  # what such a caller does
    runtime.advance(60.0)
    assert client.put_metric("M", 3)
    client.flush()
    assert {datum.timestamp - start: datum.values for datum in sink.datums[1:]} == {0: (2.0,), 60: (3.0,)}
    assert sink.values(NAMESPACE, "M") == {1.0: 2, 2.0: 1, 3.0: 1}
    assert_balanced(client)
