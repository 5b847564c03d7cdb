"""
Other metrics libraries, each set up as its documentation shows, and how each records one value with three dimensions of its own.

A library that is not installed is left out: `peers` says so, with what to install.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LABELS = ("endpoint", "method", "status")
"""Names of the three dimensions, which are variables of the loop as well."""

VALUES = ("/upload", "POST", "accepted")
THREE = '{"endpoint": endpoint, "method": method, "status": status}'


class Peer(NamedTuple):
    """
    One library.

    Attributes:
        names: What its statements refer to.
        statements: How it records, by what the table calls it; `each` is the value at hand.
        close: Lets go of what it holds.
    """

    names: dict[str, Any]
    statements: dict[str, str]
    close: Callable[[], object] = lambda: None


def peers(say: Callable[[str], object]) -> Iterator[Peer]:
    """
    All of them that are installed.

    Args:
        say: Told of each that is not.
    """
    for package, make in PACKAGES.items():
        try:
            yield make()
        except ImportError as error:
            say(f"{package} is left out: {error}. Install it with: pip install {package}")


def _prometheus() -> Peer:
    from prometheus_client import CollectorRegistry, Counter, Histogram

    registry = CollectorRegistry()
    counter = Counter("requests", "Requests", LABELS, registry=registry)
    histogram = Histogram("seconds", "Seconds", LABELS, registry=registry)
    names = {
        "prometheus_counter": counter,
        "prometheus_histogram": histogram,
        "prometheus_bound_counter": counter.labels(*VALUES),
        "prometheus_bound_histogram": histogram.labels(*VALUES),
    }
    by_name = "labels(endpoint=endpoint, method=method, status=status)"
    return Peer(
        names,
        {
            "prometheus labels(k=v).inc": f"prometheus_counter.{by_name}.inc()",
            "prometheus labels(v).inc": "prometheus_counter.labels(endpoint, method, status).inc()",
            "prometheus labels(k=v).observe": f"prometheus_histogram.{by_name}.observe(each)",
            "prometheus bound inc": "prometheus_bound_counter.inc()",
            "prometheus bound observe": "prometheus_bound_histogram.observe(each)",
        },
    )


def _datadog() -> Peer:
    from datadog.dogstatsd.base import DogStatsd

    agent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    agent.bind(("127.0.0.1", 0))
    # Telemetry about itself is not what is compared.
    client = DogStatsd(
        host="127.0.0.1",
        port=agent.getsockname()[1],
        disable_aggregation=False,
        disable_buffering=False,
        disable_telemetry=True,
    )

    def close() -> None:
        client.stop()
        agent.close()

    tags = '[f"endpoint:{endpoint}", f"method:{method}", f"status:{status}"]'
    return Peer(
        {"datadog": client}, {"datadogpy increment, aggregated": f'datadog.increment("Requests", tags={tags})'}, close
    )


def _opentelemetry() -> Peer:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    meter = provider.get_meter("bench")
    return Peer(
        {"otel_counter": meter.create_counter("requests"), "otel_histogram": meter.create_histogram("seconds")},
        {
            "OpenTelemetry counter.add": f"otel_counter.add(1, {THREE})",
            "OpenTelemetry histogram.record": f"otel_histogram.record(each, {THREE})",
        },
        provider.shutdown,
    )


class _Here:
    """
    Where aws-embedded-metrics believes to run; its sink makes each document as ever and writes it nowhere.
    """

    def __init__(self, serialize: Callable[[Any], object]) -> None:
        self.accept = serialize

    def get_name(self) -> str:
        return "bench"

    get_type = get_log_group_name = get_name

    def configure_context(self, context: Any) -> None:
        """Nothing to add."""

    def get_sink(self) -> _Here:
        return self


def _drive(flush: Any) -> None:
    """Run a coroutine that never waits, without the price of an event loop."""
    try:
        flush.send(None)
    except StopIteration:
        return
    message = "flush() waited for something"
    raise RuntimeError(message)


def _embedded_metrics() -> Peer:
    from aws_embedded_metrics.logger.metrics_logger import MetricsLogger
    from aws_embedded_metrics.serializers.log_serializer import LogSerializer

    here = _Here(LogSerializer.serialize)

    async def resolve() -> Any:
        return here

    record = f'emf_logger.put_dimensions({THREE}); emf_logger.put_metric("Requests", each, "Count")'
    return Peer(
        {"emf_logger": MetricsLogger(resolve), "drive": _drive},
        {"aws-embedded-metrics, a document": f"{record}; drive(emf_logger.flush())"},
    )


def _powertools() -> Peer:
    import inspect
    import sys

    from aws_lambda_powertools import single_metric

    # It prints each document: to nobody, so that the figures hold no terminal.
    vars(sys.modules[inspect.unwrap(single_metric).__module__])["print"] = lambda *_: None

    def record(value: float, dimensions: dict[str, str]) -> None:
        with single_metric(name="Requests", unit="Count", value=value, namespace="Bench") as metric:
            for name, given in dimensions.items():
                metric.add_dimension(name=name, value=given)

    return Peer({"powertools": record}, {"Powertools, a document": f"powertools(each, {THREE})"})


PACKAGES: dict[str, Callable[[], Peer]] = {
    "prometheus-client": _prometheus,
    "datadog": _datadog,
    "opentelemetry-sdk": _opentelemetry,
    "aws-embedded-metrics": _embedded_metrics,
    "aws-lambda-powertools": _powertools,
}
