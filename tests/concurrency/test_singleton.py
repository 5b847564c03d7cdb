"""One process-wide client, whoever asks first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import retainwise_metrics
from retainwise_metrics import get_metrics_client, reset_metrics_client
from tests.concurrency.threads import FOREVER_SECONDS, together, wait_until
from tests.helpers import NAMESPACE

if TYPE_CHECKING:
    from retainwise_metrics import CloudWatchMetrics


@pytest.mark.usefixtures("restless")
def test_threads_that_ask_at_the_same_moment_get_the_same_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 threads make one client, and what they record through the shorthands is in its books."""
    monkeypatch.setenv("RETAINWISE_METRICS_SINK", "memory")

    def ask() -> CloudWatchMetrics:
        client = get_metrics_client()
        retainwise_metrics.increment_counter("Asked")
        return client

    for _ in range(20):
        clients = together(*[ask] * 32)
        assert len(set(map(id, clients))) == 1
        (client,) = set(clients)
        reset_metrics_client(FOREVER_SECONDS)
        assert client._pipeline._sink.values(NAMESPACE, "Asked") == {1.0: 32}
        assert client.stats()[:4] == (32, 32, 0, {})


@pytest.mark.usefixtures("restless")
def test_resetting_while_others_record_leaves_no_record_unaccounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record belongs to the client that took it, before or after the reset."""
    monkeypatch.setenv("RETAINWISE_METRICS_SINK", "memory")
    seen: set[CloudWatchMetrics] = set()

    def record() -> int:
        taken = 0
        for _ in range(200):
            client = get_metrics_client()
            seen.add(client)
            taken += client.increment_counter("Asked")
        return taken

    def reset() -> int:
        for _ in range(10):
            reset_metrics_client(FOREVER_SECONDS)
        return 0

    taken = together(record, record, record, reset)
    reset_metrics_client(FOREVER_SECONDS)
    wait_until(lambda: sum(client.stats().pending for client in seen) == 0)
    assert sum(client.stats().delivered for client in seen) == sum(taken)
