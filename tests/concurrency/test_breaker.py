"""The breaker under many callers at once: one probe, one verdict."""

from __future__ import annotations

from concurrent.futures import as_completed
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics import BreakerState, CloudWatchMetrics, DropReason, MetricsConfig
from retainwise_metrics.runtime import SystemRuntime
from retainwise_metrics.sinks.base import SinkUnavailable
from retainwise_metrics.testing import InMemorySink
from tests.concurrency.threads import FOREVER_SECONDS, PATIENCE_SECONDS, Gate, begin, begin_together, together
from tests.helpers import assert_balanced

if TYPE_CHECKING:
    from retainwise_metrics.datum import Batch

CALLERS = 16


class ForwardRuntime(SystemRuntime):
    """The real thing, with a monotonic clock that can be put forward."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class Endpoint:
    """Refuses everything, then lets calls hang at a gate, then answers."""

    def __init__(self) -> None:
        self.gate: Gate | None = None
        self.calls = 0
        self.works = False

    def __call__(self, batch: Batch) -> None:
        self.calls += 1
        if self.gate is not None:
            self.gate()
        if not self.works:
            message = "connection refused"
            raise SinkUnavailable(message)


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("recovers", [True, False])
def test_of_many_callers_at_once_one_is_the_probe(recovers: bool) -> None:
    """While the probe is under way everybody else is told so at once, the worker included; its outcome is everybody's."""
    endpoint, runtime = Endpoint(), ForwardRuntime()
    config = MetricsConfig(catalogue=(), failure_threshold=1, open_seconds=300.0, flush_interval_seconds=3600.0)
    client = CloudWatchMetrics(config, sink=InMemorySink(endpoint), runtime=runtime)
    assert not client.put_metric_sync("M", 1)
    assert not any(together(*[partial(client.put_metric_sync, "M", 1)] * CALLERS))
    assert endpoint.calls == 1, "the breaker is open: nobody calls"

    runtime.ahead = 1_000.0
    endpoint.gate, endpoint.works = Gate(), recovers
    client.put_metric("Held", 1)
    calls = begin_together(*[partial(client.put_metric_sync, "M", 1)] * CALLERS)
    flushing = begin(partial(client.flush, FOREVER_SECONDS))
    endpoint.gate.wait_until_reached()
    # All but one are told no while the call hangs; the one is the probe, unless the worker's own batch is.
    told = list(islice(as_completed(calls, PATIENCE_SECONDS), CALLERS - 1))
    assert not any(call.result() for call in told)
    assert endpoint.calls == 2
    assert client.stats().breaker_state is BreakerState.HALF_OPEN
    assert_balanced(client)

    endpoint.gate.open()
    results = [call.result(PATIENCE_SECONDS) for call in calls]
    flushing.result(PATIENCE_SECONDS)
    client.flush(FOREVER_SECONDS)
    assert_balanced(client)
    if recovers:
        assert client.stats().breaker_state is BreakerState.CLOSED
        assert sum(results) <= 1
    else:
        assert client.stats().breaker_state is BreakerState.OPEN
        assert not any(results)
        assert endpoint.calls == 2
    endpoint.works = True
    client.reset_breaker()
    assert client.stop(FOREVER_SECONDS)
    assert set(client.stats().dropped) <= {DropReason.BREAKER_OPEN, DropReason.NOT_SENT}
    assert client.stats().pending == 0
