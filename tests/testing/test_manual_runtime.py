"""The clock that stands still, where it is asked for something it cannot wait for."""

from __future__ import annotations

from retainwise_metrics import CloudWatchMetrics, MetricsConfig
from retainwise_metrics.testing import InMemorySink, ManualRuntime


def test_a_gauge_that_flushes_the_client_it_is_read_by_gets_no_answer() -> None:
    """The step that reads it cannot end before it has an answer: it gets none, instead of waiting on a clock that nobody moves."""
    answers: list[bool] = []
    client = CloudWatchMetrics(MetricsConfig(catalogue=()), sink=(sink := InMemorySink()), runtime=ManualRuntime())

    def read() -> float:
        answers.append(bool(client.flush(60.0)))
        return 7

    client.gauge("Level", read)
    client.put_metric("M", 1)
    assert client.flush()
    assert answers == [False]
    assert sink.values("RetainWise/MLPipeline", "Level") == {7.0: 1}
