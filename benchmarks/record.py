"""
What one record costs its caller, in one thread, against an empty method, prometheus_client and the textbook.

The client is a real one with its thread running; it delivers to memory. What callers fold on the way (each time a series holds 4,096
values) is therefore part of the figures, and the memory is bounded. Prometheus' client has nothing to deliver.
"""

from __future__ import annotations

import random
import time
from itertools import cycle, islice
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from _harness import Report, Rounds, arguments, interleaved
from prometheus_client import CollectorRegistry
from prometheus_client import Counter as PrometheusCounter
from prometheus_client import Histogram as PrometheusHistogram

from retainwise_metrics import CloudWatchMetrics, MetricsConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

VALUES = tuple(round(0.001 * number, 3) for number in range(1000))
LABELS = ("endpoint", "method", "status")
DIMENSIONS = '{"Endpoint": endpoint, "Method": method, "Status": status}'
WITH_USER = '{"Endpoint": endpoint, "Method": method, "UserId": each}'

_DRAW = random.Random(7)
HUNDRED_USERS = tuple(f"customer-{_DRAW.randrange(100)}" for _ in range(20_000))
TEN_THOUSAND_USERS = tuple(f"client-{_DRAW.randrange(10_000)}" for _ in range(20_000))
NEW_USERS = tuple(f"visitor-{number}" for number in range(200_000))


# Parameters that nobody reads are the point of it: passing them is what is measured.
# ruff: noqa: ARG002


class Empty:
    """
    What Python itself takes for such a call: the floor.
    """

    def put_metric(
        self,
        name: str,
        value: float,
        unit: str = "None",
        *,
        namespace: str | None = None,
        dimensions: Mapping[str, object] | None = None,
        timestamp: float | None = None,
        storage_resolution: int = 60,
    ) -> bool:
        return True

    def inc(self, value: float = 1) -> bool:
        return True

    def observe(self, value: float) -> bool:
        return True


class Textbook:
    """
    A lock around a dict of aggregates, by name and sorted dimensions.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._aggregates: dict[object, list[float]] = {}

    def put_metric(self, name: str, value: float, *, dimensions: Mapping[str, str] | None = None) -> bool:
        key = (name, tuple(sorted(dimensions.items())) if dimensions else ())
        with self._lock:
            aggregate = self._aggregates.get(key)
            if aggregate is None:
                aggregate = self._aggregates[key] = [0, 0.0, value, value]
            aggregate[0] += 1
            aggregate[1] += value
            aggregate[2] = min(aggregate[2], value)
            aggregate[3] = max(aggregate[3], value)
        return True


class Case(NamedTuple):
    """
    One way to record.

    Attributes:
        statement: What is timed; `each` is the item at hand.
        over: The items.
    """

    statement: str
    over: Sequence[object] = VALUES


CASES = {
    "empty put_metric, no dimensions": Case('empty.put_metric("Requests", each)'),
    "empty put_metric, 3 dimensions": Case(f'empty.put_metric("Requests", each, dimensions={DIMENSIONS})'),
    "empty inc": Case("empty.inc()"),
    "empty observe": Case("empty.observe(each)"),
    "put_metric, no dimensions": Case('client.put_metric("Requests", each)'),
    "put_metric, 3 dimensions": Case(f'client.put_metric("RequestsBy", each, dimensions={DIMENSIONS})'),
    "put_metric, 3, 100 UserIds": Case(f'client.put_metric("Few", 1.5, dimensions={WITH_USER})', HUNDRED_USERS),
    "put_metric, 3, 10,000 UserIds": Case(
        f'client.put_metric("Many", 1.5, dimensions={WITH_USER})', TEN_THOUSAND_USERS
    ),
    "put_metric, 3, a new UserId each": Case(f'client.put_metric("New", 1.5, dimensions={WITH_USER})', NEW_USERS),
    "increment_counter, 3 dimensions": Case(f'client.increment_counter("Seen", dimensions={DIMENSIONS})'),
    "bound counter, inc": Case("counter.inc()"),
    "bound histogram, observe": Case("histogram.observe(each)"),
    "prometheus labels(k=v).inc": Case(
        "prometheus_counter.labels(endpoint=endpoint, method=method, status=status).inc()"
    ),
    "prometheus labels(v).inc": Case("prometheus_counter.labels(endpoint, method, status).inc()"),
    "prometheus labels(k=v).observe": Case(
        "prometheus_histogram.labels(endpoint=endpoint, method=method, status=status).observe(each)"
    ),
    "prometheus bound inc": Case("prometheus_bound_counter.inc()"),
    "prometheus bound observe": Case("prometheus_bound_histogram.observe(each)"),
    "textbook, no dimensions": Case('textbook.put_metric("Requests", each)'),
    "textbook, 3 dimensions": Case(f'textbook.put_metric("RequestsBy", each, dimensions={DIMENSIONS})'),
}

RATIOS = (
    ("put_metric, 3 dimensions", "prometheus labels(k=v).inc", "<= 0.35"),
    ("put_metric, 3 dimensions", "prometheus labels(v).inc", ""),
    ("put_metric, 3 dimensions", "prometheus labels(k=v).observe", ""),
    ("put_metric, 3 dimensions", "empty put_metric, 3 dimensions", "<= 3.5"),
    ("put_metric, no dimensions", "empty put_metric, no dimensions", ""),
    ("put_metric, 3, 100 UserIds", "put_metric, 3 dimensions", "<= 2"),
    ("put_metric, 3, 10,000 UserIds", "put_metric, 3 dimensions", "<= 2"),
    ("put_metric, 3, a new UserId each", "put_metric, 3 dimensions", ""),
    ("bound counter, inc", "prometheus bound inc", "<= 0.3"),
    ("bound histogram, observe", "prometheus bound observe", ""),
    ("bound counter, inc", "empty inc", ""),
    ("textbook, 3 dimensions", "put_metric, 3 dimensions", ">= 2"),
)
"""What is compared with what, and the target."""


def main() -> None:
    options = arguments(__doc__)
    report = Report("record", options)
    client = CloudWatchMetrics(MetricsConfig(sink="memory", environment="bench", flush_interval_seconds=3600.0))
    with client:
        found = _measure(_names(client), rounds=5 if options.quick else 15, seconds=0.02 if options.quick else 0.05)
        stats = client.stats()
    if stats.dropped:
        message = f"records were dropped, so the figures mean nothing: {stats.dropped}"
        raise RuntimeError(message)
    report.table("Nanoseconds per record, one thread", ("call", "ns"), found.items())
    report.table(
        "Ratios",
        ("call", "against", "ratio", "target"),
        [(call, against, found[call].over(found[against]), target) for call, against, target in RATIOS],
        note=f"{stats.recorded:,} measurements recorded, none dropped",
    )
    report.finish()


def _names(client: CloudWatchMetrics) -> dict[str, Any]:
    """What the statements refer to."""
    registry = CollectorRegistry()
    counter = PrometheusCounter("requests", "Requests", LABELS, registry=registry)
    histogram = PrometheusHistogram("seconds", "Seconds", LABELS, registry=registry)
    values = ("/upload", "POST", "accepted")
    return {
        "empty": Empty(),
        "textbook": Textbook(),
        "client": client,
        "counter": client.counter("Uploads").bind(Endpoint="/upload", Method="POST", Status="accepted"),
        "histogram": client.histogram("Duration").bind(Endpoint="/upload", Method="POST", Status="accepted"),
        "prometheus_counter": counter,
        "prometheus_histogram": histogram,
        "prometheus_bound_counter": counter.labels(*values),
        "prometheus_bound_histogram": histogram.labels(*values),
        **dict(zip(LABELS, values, strict=True)),
    }


def _measure(names: dict[str, Any], rounds: int, seconds: float) -> dict[str, Rounds]:
    return interleaved({name: _timed(case, names, seconds) for name, case in CASES.items()}, rounds)


def _timed(case: Case, names: dict[str, Any], seconds: float) -> Callable[[], float]:
    """
    A function that runs a case for about so long and answers with the nanoseconds of one call.
    """
    loop = _loop(case.statement, names)
    warm = min(loop(islice(cycle(case.over), 1000)) for _ in range(5)) / 1000
    calls = max(int(seconds * 1e9 / warm), 1000)
    items = cycle(case.over)
    return lambda: loop(list(islice(items, calls))) / calls


def _loop(statement: str, names: dict[str, Any]) -> Callable[[Any], int]:
    """
    The statement in a loop of its own, with everything it refers to as a local variable, as in an application's function.
    """
    source = f"def loop(items, clock, {', '.join(names)}):\n begin = clock()\n for each in items:\n  {statement}\n return clock() - begin\n"
    scope: dict[str, Any] = {}
    exec(compile(source, f"<{statement}>", "exec"), scope)
    return lambda items: scope["loop"](items, time.perf_counter_ns, **names)


if __name__ == "__main__":
    main()
