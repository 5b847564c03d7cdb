"""The metrics thread cannot be ended from outside: whatever is raised in it, it goes on and says so."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import pytest

from retainwise_metrics import CloudWatchMetrics, MetricsConfig
from retainwise_metrics.sinks.base import SinkUnavailable
from retainwise_metrics.testing import InMemorySink, ManualRuntime
from tests.concurrency.threads import PATIENCE_SECONDS, wait_until
from tests.helpers import NAMESPACE, assert_balanced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retainwise_metrics.datum import Batch


class Struck(BaseException):
    """What somebody raises in other people's threads, to end them."""


@pytest.fixture
def client() -> Iterator[CloudWatchMetrics]:
    """A client that does nothing by itself for an hour, with a value folded: it looks once a second whether there is more."""
    config = MetricsConfig(catalogue=(), flush_interval_seconds=3600.0)
    client = CloudWatchMetrics(config, sink=InMemorySink())
    yield client
    client.stop(PATIENCE_SECONDS)


def strike(client: CloudWatchMetrics) -> None:
    """Raise in the metrics thread; it strikes when the thread runs Python code again, which is at the end of a wait."""
    thread = client._pipeline._worker._thread  # type: ignore[union-attr]
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Struck)) == 1


USES: dict[str, Any] = {
    "a record of a known series": lambda client: client.put_metric("M", 1),
    "a record of a new series": lambda client: client.put_metric("New", 1),
    "a refused record": lambda client: client.put_metric("", 1),
    "flush": lambda client: client.flush(PATIENCE_SECONDS),
    "stop": lambda client: client.stop(PATIENCE_SECONDS),
    "start": lambda client: client.start(),
    "nothing": lambda client: None,
}


@pytest.mark.parametrize("use", USES)
def test_struck_while_it_waits_for_the_next_second(
    client: CloudWatchMetrics, use: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is done then works, and what was there before is delivered."""
    client.put_metric("M", 1)
    wait_until(lambda: client._intake.open_windows() > 0)
    strike(client)
    USES[use](client)
    if use != "stop":
        wait_until(lambda: "Struck was raised in the metrics thread from outside; it goes on" in caplog.messages)
        assert client.stats().running
    assert client.stop(PATIENCE_SECONDS)
    assert client.stats().pending == 0
    assert client._pipeline._sink.values(NAMESPACE, "M").keys() == {1}
    assert_balanced(client)


@pytest.mark.parametrize("use", ["a record of a known series", "flush", "stop"])
def test_struck_by_the_message_that_wakes_it(client: CloudWatchMetrics, use: str) -> None:
    """The message it had in its hand is not lost: whoever waits for the answer gets it."""
    client.put_metric("M", 1)
    assert client.flush(PATIENCE_SECONDS)
    wait_until(lambda: client._intake.asleep)
    strike(client)
    client._intake.asleep = False  # the record wakes nobody, so that what is used is the first message
    client.put_metric("M", 1)
    client._intake.asleep = True
    assert USES[use](client)
    assert client.stop(PATIENCE_SECONDS)
    assert client._pipeline._sink.values(NAMESPACE, "M") == {1: 3 if use.startswith("a record") else 2}


@pytest.mark.parametrize("use", ["flush", "stop"])
def test_a_thread_that_is_gone_all_the_same_is_replaced_for_what_waits_to_be_sent(use: str) -> None:
    """Nothing is unfolded and nothing is folded; a batch waits for its next attempt, and its thread has ended."""

    def fail(_: Batch) -> None:
        message = "503"
        raise SinkUnavailable(message)

    sink = InMemorySink(fail)
    client = CloudWatchMetrics(MetricsConfig(), sink=sink, runtime=ManualRuntime())
    client.put_metric("M", 1)
    client.flush(0.0)
    assert client.stats().pending == 1
    client._pipeline._worker.due = None  # type: ignore[union-attr]  # whatever ended it
    assert not client.stats().running
    sink.fail = None
    assert USES[use](client)
    assert sink.values(NAMESPACE, "M") == {1: 1}
