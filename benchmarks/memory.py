"""
What the library holds: a busy minute, many series, many distinct values, and an hour in which nothing can be delivered.

1. Each scenario runs twice in fresh interpreters: once under tracemalloc, which counts what Python allocates, and once without, for what
   the system gives (resident memory). Both are compared with the client when it has just started, and both are the highest of the run.
2. Time is simulated, so that an hour takes seconds; the flusher does what it does each second, on the same thread.
3. What was recorded must have arrived to the last value, or been dropped for the reason the scenario is about: else it ends with an error.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tracemalloc
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from _harness import Report, Rounds, arguments, interleaved

from retainwise_metrics import CloudWatchMetrics, DropReason, MetricsConfig
from retainwise_metrics.sinks.base import SinkUnavailable
from retainwise_metrics.testing import ManualRuntime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from retainwise_metrics.datum import Batch, Datum

MIB = 1024 * 1024
PERCENTS = (50, 90, 99, 99.9)
RESIDENT = re.compile(r"VmHWM:\s+(\d+) kB")


class Scenario(NamedTuple):
    """
    One thing that fills memory.

    Attributes:
        run: Does it, with a number of records, and returns what else it found out.
        records: How many.
        target: What it may hold.
    """

    run: Callable[[Box, int], dict[str, float]]
    records: int
    target: str = ""


class Box:
    """
    A client on a simulated clock, and a sink that adds up what arrives instead of keeping it.
    """

    def __init__(self, **settings: Any) -> None:
        self.runtime = ManualRuntime()
        self.sink = AddingSink()
        config = MetricsConfig(environment="bench", catalogue=(), **settings)
        self.client = CloudWatchMetrics(config, sink=self.sink, runtime=self.runtime)

    def expect(self, *, dropped: DropReason | None = None) -> None:
        """
        Deliver the rest; everything must have arrived, or been dropped for this reason.
        """
        self.client.flush(600.0)
        stats = self.client.stats()
        lost = sum(stats.dropped.values())
        unexpected = lost - (stats.dropped.get(dropped, 0) if dropped else 0)
        if stats.pending or unexpected or self.sink.measurements + lost != stats.recorded:
            message = f"{stats.recorded} were recorded and {self.sink.measurements} arrived: {stats}"
            raise RuntimeError(message)


class AddingSink:
    """
    Counts what it is sent; it can be down.
    """

    def __init__(self) -> None:
        self.measurements = 0
        self.down = False
        self.seen: Callable[[Datum], object] = lambda _: None

    def send(self, batch: Batch) -> None:
        if self.down:
            message = "down for the benchmark"
            raise SinkUnavailable(message)
        self.measurements += batch.measurements
        for datum in batch.datums:
            self.seen(datum)

    def datum_bytes(self, datum: Datum) -> int:
        return 200 + 25 * len(datum.values)

    def envelope_bytes(self, namespace: str) -> int:
        return 50 + len(namespace)

    def after_fork(self) -> None:
        """Nothing to forget."""

    def close(self) -> None:
        """Nothing to let go of."""


def main() -> None:
    options = arguments(__doc__)
    report = Report("memory", options)
    run(report, rounds=1 if options.quick else 3, share=1.0)
    report.finish()


def run(report: Report, rounds: int, share: float) -> None:
    """
    Measure all scenarios, with a share of their records, and print them.
    """
    extras: dict[str, dict[str, float]] = {}

    def measure(name: str, *, traced: bool) -> float:
        found = _in_a_process(name, int(SCENARIOS[name].records * share), traced=traced)
        extras[name] = {key: value for key, value in found.items() if key != "mib"}
        return float(found["mib"])

    cases: dict[str, Callable[[], float]] = {}
    for name in SCENARIOS:
        cases[f"traced {name}"] = lambda name=name: measure(name, traced=True)  # type: ignore[misc]
        cases[f"resident {name}"] = lambda name=name: measure(name, traced=False)  # type: ignore[misc]
    found = interleaved(cases, rounds)
    report.table(
        "Highest use of memory, MiB above idle",
        ("scenario", "allocated by Python", "resident", "target"),
        [
            (name, _brief(found[f"traced {name}"]), _brief(found[f"resident {name}"]), scenario.target)
            for name, scenario in SCENARIOS.items()
        ],
    )
    precise = extras[DISTINCT]
    report.table(
        "A million distinct values in one series, relative error of what arrives, percent",
        ("of", "error", "target"),
        [(name, f"{error:.4f}", "<= 1" if name.startswith("p") else "0") for name, error in precise.items()],
        note="lognormal values; the sum is that of floats, up to their rounding",
    )
    report.table(
        "An outage of an hour, measurements",
        ("scenario", "recorded", "dropped", "datums held at most"),
        [
            (name, *(f"{value:,.0f}" for value in extras[name].values()))
            for name in (OUTAGE, FULL_OUTAGE)
            if name in extras
        ],
        note="whatever was not dropped arrived after the outage, with its own timestamp",
    )


def _brief(rounds: Rounds) -> Rounds | float:
    return rounds if len(rounds.values) > 1 else rounds.median


# ---- scenarios ----


def _busy_minute(box: Box, records: int) -> dict[str, float]:
    """Ten series, durations in milliseconds."""
    draw = random.Random(1)
    bound = [box.client.histogram("Duration").bind(Endpoint=f"/v{number}/upload") for number in range(10)]
    durations = [round(draw.lognormvariate(-2.0, 0.6), 3) for _ in range(10_000)]
    for number in _during(box, 60.0, records):
        bound[number % 10].observe(durations[number % 10_000])
    box.expect()
    return {}


def _many_series(box: Box, records: int) -> dict[str, float]:
    series = 10_000
    for number in _during(box, 60.0, records):
        box.client.put_metric("Duration", number // series / 100, dimensions={"Shard": f"shard-{number % series}"})
    box.expect()
    return {}


def _distinct_values(box: Box, records: int) -> dict[str, float]:
    """Compares what arrives with what was recorded; the values are kept where tracemalloc does not count them."""
    arrived: dict[float, int] = {}

    def add(datum: Datum) -> None:
        for value, count in zip(datum.values, datum.counts, strict=True):
            arrived[value] = arrived.get(value, 0) + count

    box.sink.seen = add
    observe, draw = box.client.histogram("Duration").bind(Endpoint="/upload").observe, random.Random(1)
    for _ in _during(box, 59.0, records):
        observe(draw.lognormvariate(0.0, 1.0))
    box.expect()
    draw = random.Random(1)
    exact = sorted(draw.lognormvariate(0.0, 1.0) for _ in range(records))
    return _errors(exact, sorted(arrived.items()))


def _errors(exact: list[float], arrived: list[tuple[float, int]]) -> dict[str, float]:
    """Relative errors in percent; percentiles are the nearest rank."""
    from math import ceil, fsum

    found = array("d")
    for value, count in arrived:
        found.extend([value] * count)

    def error(mine: float, theirs: float) -> float:
        return abs(mine / theirs - 1) * 100

    errors = {
        f"p{percent:g}": error(*(values[ceil(len(exact) * percent / 100) - 1] for values in (found, exact)))
        for percent in PERCENTS
    }
    totals = fsum(value * count for value, count in arrived), fsum(exact)
    return errors | {
        "minimum": error(found[0], exact[0]),
        "maximum": error(found[-1], exact[-1]),
        "sum": error(*totals),
        "count": error(len(found), len(exact)),
    }


def _outage(box: Box, records: int, series: int) -> dict[str, float]:
    """An hour in which every call fails; half of the series count, the other half are durations."""
    box.client.put_metric("Before", 1)
    box.client.flush(60.0)
    box.sink.down = True
    draw = random.Random(1)
    durations = [round(draw.lognormvariate(-2.0, 0.6), 3) for _ in range(10_000)]
    counters = [box.client.counter("Seen").bind(Endpoint=f"/v{number}") for number in range(series // 2)]
    timers = [box.client.histogram("Duration").bind(Endpoint=f"/v{number}") for number in range(series // 2)]
    half = series // 2
    for number in _during(box, 3600.0, records):
        if number % 2:
            counters[number // 2 % half].inc()
        else:
            timers[number // 2 % half].observe(durations[number % 10_000])
    box.client.flush(1.0)
    held = box.client._pipeline._delivery.backlog.datums  # noqa: SLF001 - how full it is, nobody else needs to know
    box.sink.down = False
    box.runtime.advance(1500.0)  # the breaker's longest time, and its jitter
    box.expect(dropped=DropReason.BACKLOG_FULL)
    stats = box.client.stats()
    return {"recorded": stats.recorded, "dropped": sum(stats.dropped.values()), "held": held}


def _during(box: Box, seconds: float, records: int) -> Iterator[int]:
    """Numbers of records, spread over a time that passes meanwhile in steps: of a second in an hour, of a tenth in a minute."""
    steps = int(seconds if seconds > 600 else seconds * 10)
    done = 0
    for step in range(1, steps + 1):
        due = records * step // steps
        yield from range(done, due)
        done = due
        box.runtime.advance(seconds / steps)


DISTINCT = "a million distinct values in one series"
OUTAGE = "an outage of an hour, 200 series"
FULL_OUTAGE = "an outage of an hour, 2,000 series: more than is held"
SCENARIOS = {
    "a million records in a minute, 10 series": Scenario(_busy_minute, 1_000_000, "< 5"),
    "10,000 series, 10 values each": Scenario(_many_series, 100_000),
    DISTINCT: Scenario(_distinct_values, 1_000_000, "< 10"),
    OUTAGE: Scenario(lambda box, records: _outage(box, records, 200), 600_000),
    FULL_OUTAGE: Scenario(lambda box, records: _outage(box, records, 2_000), 600_000),
}


# ---- the process that is measured ----


def _in_a_process(name: str, records: int, *, traced: bool) -> dict[str, float]:
    code = f"import memory; memory.child({name!r}, {records}, traced={traced})"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    if process.returncode:
        message = f"{name}: {process.stderr.strip()}"
        raise RuntimeError(message)
    found: dict[str, float] = json.loads(process.stdout)
    return found


def child(name: str, records: int, *, traced: bool) -> None:
    """
    Run a scenario and print what it held at most, in MiB above idle, and what else it found out.
    """
    import logging

    logging.getLogger("retainwise_metrics").setLevel(logging.ERROR)  # an outage is not news here
    box = Box(max_series=10_000, max_series_per_metric=10_000)
    box.client.put_metric("Idle", 1)
    box.client.flush(60.0)
    idle = _resident()
    if traced:
        tracemalloc.start()
    peaks: list[float] = []
    expect = box.expect

    def measured_expect(**given: Any) -> None:
        expect(**given)
        peaks.append(tracemalloc.get_traced_memory()[1] if traced else _resident() - idle)
        tracemalloc.stop()

    box.expect = measured_expect  # type: ignore[method-assign]
    extras = SCENARIOS[name].run(box, records)
    print(json.dumps({"mib": peaks[0] / MIB, **extras}))


def _resident() -> int:
    """
    Most bytes of resident memory so far. What `getrusage` says of a new process includes the process that it was forked from.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = RESIDENT.search(status.read_text("ascii"))
        if found:
            return int(found[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


if __name__ == "__main__":
    main()
