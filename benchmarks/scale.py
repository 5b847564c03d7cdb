"""
Whether more series make a record dearer, and whether a flush costs the same for each of them.

1. CPU time of the thread, on a client whose flusher works only when told to (a simulated clock), with `max_series` raised.
2. Each round goes through all series in an order of its own making, the same for all designs: with 100,000 series no cache of the processor
   holds them, so the textbook's dict gets dearer too. That is why it is in the table.
3. A flush folds, seals and batches every series, and hands the calls to a sink that takes them at once: what sending costs is in `flush`.
"""

from __future__ import annotations

import gc
import random
import time
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from _harness import Report, Rounds, arguments, interleaved
from _naive import Textbook

from retainwise_metrics import CloudWatchMetrics, MetricsConfig
from retainwise_metrics.sinks.in_memory import InMemorySink
from retainwise_metrics.testing import ManualRuntime

if TYPE_CHECKING:
    from collections.abc import Callable

PUT, BOUND, TEXTBOOK = "put_metric", "bound histogram, observe", "textbook"
DESIGNS = (PUT, BOUND, TEXTBOOK)
TARGET = "flat"


class Size(NamedTuple):
    """
    How much is measured.

    Attributes:
        rounds: Rounds of everything.
        records: Records per round and number of series; at least one for each series.
        series: Numbers of series.
    """

    rounds: int
    records: int
    series: tuple[int, ...] = (10, 100, 1_000, 10_000, 100_000)


FULL, QUICK = Size(5, 200_000), Size(2, 50_000)


class World:
    """
    A number of series in each design, known to all of them.
    """

    def __init__(self, series: int, records: int) -> None:
        most = max(2 * series, 100)
        config = MetricsConfig(
            environment="bench",
            max_series=most,
            max_series_per_metric=most,
            max_pending_datums=max(most, 50_000),
            catalogue=(),
        )
        self.series = series
        self.client = CloudWatchMetrics(config, sink=InMemorySink(max_batches=1), runtime=ManualRuntime())
        self.textbook = Textbook()
        shards = [f"shard-{number}" for number in range(series)]
        histogram = self.client.histogram("Bound")
        self._bound = [histogram.bind(Shard=shard) for shard in shards]
        draw = random.Random(series)
        order = draw.sample(range(series), series)
        indexes = list(islice(cycle(order), max(records, series)))
        self._shards = [shards[index] for index in indexes]
        self._handles = [self._bound[index] for index in indexes]
        for _ in range(3):  # a combination is remembered when it comes again, and has a place after the first fold
            for shard in shards:
                self.client.put_metric("Put", 1.5, dimensions={"Shard": shard})
                self.textbook.put_metric("Put", 1.5, dimensions={"Shard": shard})
            for bound in self._bound:
                bound.observe(1.5)
            self.client.flush(60.0)

    def record(self, design: str, *, first: bool) -> float:
        """
        Nanoseconds of CPU per record.

        Args:
            design: How it is recorded.
            first: Whether each series is found empty, as after a fold, or holds a value.
        """
        self.client.flush(600.0)
        work = self._observe if design == BOUND else partial(self._put, self._put_of(design))
        if first:
            return work(self.series)
        work(self.series)
        return work(len(self._shards))

    def _put_of(self, design: str) -> Any:
        return self.client.put_metric if design == PUT else self.textbook.put_metric

    def _observe(self, records: int) -> float:
        handles = self._handles[:records]
        began = time.thread_time_ns()
        for bound in handles:
            bound.observe(1.5)
        return (time.thread_time_ns() - began) / records

    def _put(self, put: Any, records: int) -> float:
        shards = self._shards[:records]
        began = time.thread_time_ns()
        for shard in shards:
            put("Put", 1.5, dimensions={"Shard": shard})
        return (time.thread_time_ns() - began) / records

    def flush(self) -> float:
        """
        Milliseconds of CPU for a flush of all series with one new value each; what is pending before it is flushed first.
        """
        self.client.flush(600.0)
        for bound in self._bound:
            bound.observe(1.5)
        gc.collect()
        before = self.client.stats().delivered
        began = time.thread_time()
        self.client.flush(600.0)
        took = time.thread_time() - began
        stats = self.client.stats()
        if stats.delivered - before != self.series or stats.dropped:
            message = f"{self.series} values were recorded and {stats.delivered - before} delivered: {stats}"
            raise RuntimeError(message)
        return took * 1e3


def main() -> None:
    options = arguments(__doc__)
    report = Report("scale", options)
    run(report, QUICK if options.quick else FULL)
    report.finish()


def run(report: Report, size: Size) -> None:
    """
    Measure all numbers of series, and print them.
    """
    found: dict[int, dict[str, Rounds]] = {}
    # One world at a time: what others hold would only make the garbage collector's work, and memory's, look like ours.
    for series in size.series:
        world = World(series, size.records)
        cases: dict[str, Callable[[], float]] = {
            design: partial(world.record, design, first=False) for design in DESIGNS
        }
        cases |= {f"first {design}": partial(world.record, design, first=True) for design in (PUT, BOUND)}
        found[series] = interleaved({**cases, "flush": world.flush}, size.rounds)
        del world, cases
        gc.collect()
    _record_table(report, size, found, DESIGNS, "a record for a series that holds a value", TARGET)
    first = tuple(f"first {design}" for design in (PUT, BOUND))
    _record_table(report, size, found, first, "the first record of each series after a fold, once a second at most", "")
    report.table(
        "A flush of all series, milliseconds of CPU",
        ("series", "ms", "µs per series"),
        [
            (f"{series:,}", each["flush"], Rounds(tuple(ms / series * 1e3 for ms in each["flush"].values)))
            for series, each in found.items()
        ],
    )


def _record_table(
    report: Report, size: Size, found: dict[int, dict[str, Rounds]], names: tuple[str, ...], what: str, target: str
) -> None:
    smallest = size.series[0]
    rows: list[tuple[object, ...]] = []
    for name in names:
        base = found[smallest][name].median
        for series in size.series:
            figure = found[series][name]
            rows.append((f"{name}, {series:,} series", figure, figure.median / base, target if name == PUT else ""))
    report.table(
        f"Nanoseconds of CPU: {what}",
        ("call, one dimension", "ns", f"over {smallest} series", "target"),
        rows,
    )


if __name__ == "__main__":
    main()
