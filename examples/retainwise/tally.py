"""
What an application did, counted beside the metrics library and without its help.

`TalliedMetrics` passes every record on and adds it up by itself: plain additions under a lock, by metric and dimensions
as the application gave them. A comparison with what CloudWatch holds then says something about everything in between.
"""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol

from retainwise_metrics import MetricUnit
from retainwise_metrics.catalogue import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from retainwise_metrics import ClientStats, CloudWatchMetrics

Dimensions = tuple[tuple[str, str], ...]
"""Name and value of each dimension, sorted by name."""


class SeriesKey(NamedTuple):
    """
    What CloudWatch keeps apart.
    """

    namespace: str
    name: str
    dimensions: Dimensions


class Totals(NamedTuple):
    """
    The numbers of one series over the whole run; `samples=0` when nothing was recorded.
    """

    unit: str
    samples: float
    total: float
    minimum: float
    maximum: float

    def plus(self, other: Totals) -> Totals:
        """
        Both taken together.
        """
        if not self.samples or not other.samples:
            return self if self.samples else other
        return Totals(
            self.unit if self.unit == other.unit else "mixed",
            self.samples + other.samples,
            self.total + other.total,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
        )


class Ledger(NamedTuple):
    """
    What a process's metrics client says of itself at its end, in measurements.
    """

    recorded: int
    delivered: int
    pending: int
    dropped: dict[str, int]
    calls: int
    failed_calls: int


class ProcessTally(NamedTuple):
    """
    What one process left behind.
    """

    process: str
    ledger: Ledger
    records: dict[SeriesKey, Totals]


def nothing(unit: str) -> Totals:
    """
    The totals of a series that nothing was recorded to.
    """
    return Totals(str(unit), 0, 0.0, 0.0, 0.0)


class TalliedMetrics:
    """
    The recording surface the applications use: forwards to the client, and counts.

    Args:
        client: The metrics client under test.
    """

    def __init__(self, client: CloudWatchMetrics) -> None:
        self._client = client
        self._records: dict[SeriesKey, Totals] = {}
        self._lock = threading.Lock()

    def put_metric(
        self, name: str, value: float, unit: MetricUnit, *, namespace: str, dimensions: Mapping[str, str] | None = None
    ) -> None:
        """
        Record one value.
        """
        self.count(name, value, unit, namespace, dimensions or {})
        self._client.put_metric(name, value, unit, namespace=namespace, dimensions=dimensions)

    def increment_counter(
        self, name: str, *, namespace: str, dimensions: Mapping[str, str] | None = None, value: float = 1
    ) -> None:
        """
        Record that something happened.
        """
        self.count(name, value, MetricUnit.COUNT, namespace, dimensions or {})
        self._client.increment_counter(name, namespace=namespace, dimensions=dimensions, value=value)

    def record_time(
        self, name: str, seconds: float, *, namespace: str, dimensions: Mapping[str, str] | None = None
    ) -> None:
        """
        Record a duration.
        """
        self.count(name, seconds, MetricUnit.SECONDS, namespace, dimensions or {})
        self._client.record_time(name, seconds, namespace=namespace, dimensions=dimensions)

    def histogram(
        self, name: str, unit: MetricUnit, *, namespace: str, dimensions: Mapping[str, str]
    ) -> TalliedHistogram:
        """
        A handle for values that come by the thousand.
        """
        bound = self._client.histogram(name, unit, namespace=namespace).bind(**dimensions)
        return TalliedHistogram(bound, lambda value: self.count(name, value, unit, namespace, dimensions))

    def publish_zeros(self, *namespaces: str) -> None:
        """
        Declare the catalogue's counters that must have data even while nothing happens.

        Args:
            namespaces: Those this process records to.
        """
        for spec in CATALOGUE:
            if spec.emits_zero and spec.namespace in namespaces:
                self._client.counter(spec.name, namespace=spec.namespace)
                self._records.setdefault(_key(spec.namespace, spec.name, {}), nothing(spec.unit))

    def count(self, name: str, value: float, unit: str, namespace: str, dimensions: Mapping[str, str]) -> None:
        """
        Add one value to the tally, and to nothing else.
        """
        key = _key(namespace, name, dimensions)
        one = Totals(str(unit), 1, value, value, value)
        with self._lock:
            self._records[key] = self._records.get(key, nothing(unit)).plus(one)

    def stop(self, timeout: float = 10.0) -> None:
        """
        Stop the client, which delivers what it holds.

        Args:
            timeout: Seconds it has for that.
        """
        self._client.stop(timeout)

    def write(self, path: Path, process: str) -> None:
        """
        Leave the tally and the client's ledger in a file, whole or not at all.

        Args:
            path: The file.
            process: The name of this process.
        """
        document = {
            "process": process,
            "ledger": _ledger(self._client.stats())._asdict(),
            "records": [[*key, totals] for key, totals in self._records.items()],
        }
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps(document, indent=1))
        draft.replace(path)


class Observer(Protocol):
    """
    Takes values one at a time.
    """

    def observe(self, value: float) -> object:
        """
        Record one value.
        """
        ...


class TalliedHistogram:
    """
    A bound histogram: the fastest way to record, and counted all the same.

    Args:
        bound: The library's handle.
        count: Adds one value to the tally.
    """

    def __init__(self, bound: Observer, count: Callable[[float], None]) -> None:
        self._bound = bound
        self._count = count

    def observe(self, value: float) -> None:
        """
        Record one value.
        """
        self._count(value)
        self._bound.observe(value)


def read(path: Path) -> ProcessTally:
    """
    Read what `TalliedMetrics.write` wrote.

    Raises:
        FileNotFoundError: The process did not reach its end.
    """
    document = json.loads(path.read_text())
    records = {
        SeriesKey(namespace, name, tuple((key, value) for key, value in dimensions)): Totals(*totals)
        for namespace, name, dimensions, totals in document["records"]
    }
    return ProcessTally(document["process"], Ledger(**document["ledger"]), records)


def _key(namespace: str, name: str, dimensions: Mapping[str, str]) -> SeriesKey:
    return SeriesKey(str(namespace), name, tuple(sorted(dimensions.items())))


def _ledger(stats: ClientStats) -> Ledger:
    return Ledger(
        recorded=stats.recorded,
        delivered=stats.delivered,
        pending=stats.pending,
        dropped={str(reason): number for reason, number in stats.dropped.items()},
        calls=stats.calls,
        failed_calls=stats.failed_calls,
    )
