"""A host that cannot start threads: whoever asks does the work, and nothing else changes."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from retainwise_metrics import CloudWatchMetrics, DropReason, MetricsConfig
from retainwise_metrics.testing import InMemorySink, ManualRuntime
from tests.concurrency.threads import FOREVER_SECONDS, Gate, begin, together
from tests.helpers import NAMESPACE, assert_balanced

if TYPE_CHECKING:
    import pytest

    from retainwise_metrics.runtime import Job


class Threadless(ManualRuntime):
    """Clocks that move when told to, and no thread."""

    def start(self, job: Job, name: str) -> ManualRuntime:
        message = "can't start new thread"
        raise RuntimeError(message)


def make(runtime: Threadless, sink: InMemorySink, **settings: object) -> CloudWatchMetrics:
    """A client in such a host."""
    return CloudWatchMetrics(MetricsConfig(**{"catalogue": (), **settings}), sink=sink, runtime=runtime)


def test_flush_does_the_work_and_values_keep_their_minutes(
    runtime: ManualRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is delivered until somebody asks; then everything is, each value in the minute it was recorded in."""
    runtime, sink = Threadless(), InMemorySink()
    client = make(runtime, sink)
    handle = client.counter("Bound")
    start = int(runtime.wall())
    with caplog.at_level(logging.WARNING, "retainwise_metrics"):
        for minute in range(5):
            for _ in range(3):
                assert client.put_metric("M", minute)
                assert handle.inc(minute)
                assert client.put_metric("Fast", minute, storage_resolution=1)
            runtime.freeze(60.0)
        assert sink.batches == []
        assert client.stats()[:4] == (45, 0, 45, {})
        assert client.flush(5.0).delivered == 45
    assert {datum.timestamp: datum.values for datum in sink.datums if datum.series.name == "M"} == {
        start + 60 * minute: (float(minute),) for minute in range(5)
    }
    assert len(sink.datums) == 15
    (line,) = caplog.messages
    assert "can't start new thread" in line
    assert "flush()" in line


def test_stop_delivers_and_ends(runtime: ManualRuntime) -> None:
    """`with` and `stop` work as ever, the last gauge reading included; a start afterwards begins anew."""
    sink = InMemorySink()
    with make(Threadless(), sink) as client:
        client.gauge("Level", lambda: 4)
        client.put_metric("M", 1)
    assert sink.values(NAMESPACE, "M") == {1.0: 1}
    assert sink.values(NAMESPACE, "Level") == {4.0: 1}
    assert not client.put_metric("M", 1)
    client.start()
    assert client.put_metric("M", 2)
    assert client.stop(5.0)
    assert sink.values(NAMESPACE, "M") == {1.0: 1, 2.0: 1}
    assert client.stats()[:4] == (4, 3, 0, {DropReason.STOPPED: 1})


def test_one_works_at_a_time() -> None:
    """Threads that flush at the same moment, made by somebody else, take turns: each finds the work done or does it."""
    sink = InMemorySink()
    client = make(Threadless(), sink)
    for _ in range(30):
        client.put_metric("M", 1)
        together(*[partial(client.flush, FOREVER_SECONDS)] * 8)
        assert client.stats().pending == 0
    assert sink.values(NAMESPACE, "M") == {1.0: 30}
    assert len(sink.batches) == 30
    assert_balanced(client)


def test_whoever_asks_while_another_works_waits_for_him() -> None:
    """The second flush begins when the first has ended, and answers for what was recorded before it."""
    gate = Gate()
    client = make(Threadless(), sink := InMemorySink(gate))
    client.put_metric("M", 1)
    first = begin(partial(client.flush, FOREVER_SECONDS))
    gate.wait_until_reached()
    client.put_metric("M", 2)
    second = begin(partial(client.flush, FOREVER_SECONDS))
    assert not client.flush(0.0), "there is no time to wait"
    gate.open()
    assert first.result(FOREVER_SECONDS)
    assert second.result(FOREVER_SECONDS)
    assert sink.values(NAMESPACE, "M") == {1.0: 1, 2.0: 1}


def test_a_gauge_that_flushes_does_not_wait_for_itself() -> None:
    """The thread that does the work cannot ask itself."""
    client = make(Threadless(), sink := InMemorySink())
    client.gauge("Level", lambda: client.flush(FOREVER_SECONDS).pending)
    client.put_metric("M", 1)
    assert client.flush(FOREVER_SECONDS)
    assert sink.values(NAMESPACE, "M") == {1.0: 1}


def test_memory_is_bounded_when_nobody_ever_asks() -> None:
    """Minutes pile up only to the bound of the backlog; what is beyond it is counted."""
    runtime = Threadless()
    client = make(runtime, sink := InMemorySink(), max_pending_datums=100)
    for _ in range(150):
        client.put_metric("M", 1)
        runtime.freeze(60.0)
    assert client.stats()[:4] == (150, 0, 100, {DropReason.BACKLOG_FULL: 50})
    assert client.flush(5.0)
    assert sum(sink.values(NAMESPACE, "M").values()) == 100
    assert client.put_metric("M", 1)
    assert client.flush(5.0).delivered == 1
    assert_balanced(client)
