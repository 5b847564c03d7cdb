"""
What delivering costs the flusher's thread, step by step, and how long any of its steps holds the interpreter.

1. CPU time of the one thread that does the work, so that what else the machine does is not in the figures.
2. Fold, seal and batch are the library's own. Serialising and sending are boto3's: a request is made, signed, and answered at once by the
   strict fake in another process.
3. A step is what the flusher does between two pauses, or between a pause and a call. Another thread can be kept waiting for that long, or,
   in Python code that takes longer, for the 5 ms after which CPython takes the interpreter away. Steps are measured in a real flusher, with
   the garbage collector on and off: what it takes on top is the collector's, which goes through all that the application holds.
"""

from __future__ import annotations

import gc
import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from _aws import use_credentials_of_nobody
from _endpoint import Endpoint
from _harness import Report, Rounds, arguments, interleaved, percentile
from botocore.awsrequest import AWSResponse

from retainwise_metrics import CloudWatchMetrics, MetricsConfig
from retainwise_metrics.datum import Batch, Datum, Series
from retainwise_metrics.pipeline.aggregation import Windows
from retainwise_metrics.pipeline.backlog import Backlog
from retainwise_metrics.pipeline.batching import BatchLimits, next_batch
from retainwise_metrics.pipeline.intake import FOLD_AT
from retainwise_metrics.sinks.put_metric_data import Connection, InTurns, PutMetricDataSink, to_wire
from retainwise_metrics.testing import ManualRuntime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MINUTE = 1_767_225_600
FOLD_TARGET, STEP_TARGET = "<= 200 ns", "< 1 ms"


class Size(NamedTuple):
    """
    How much is measured.

    Attributes:
        rounds: Rounds of everything.
        values: Values folded per round.
        series: Series sealed and batched per round.
        calls: Calls made per round and shape.
        flushes: Series, and distinct values in each, of the flushes whose steps are measured.
        step_rounds: Rounds of those.
    """

    rounds: int
    values: int
    series: int
    calls: int
    flushes: tuple[tuple[int, int], ...]
    step_rounds: int


FULL = Size(15, 200_000, 2_000, 10, ((200, 10), (200, 150), (10_000, 10), (10_000, 150)), 5)
QUICK = Size(5, 100_000, 1_000, 5, ((200, 10), (200, 150), (10_000, 10)), 3)


def main() -> None:
    options = arguments(__doc__)
    report = Report("flush", options)
    run(report, QUICK if options.quick else FULL)
    report.finish()


def run(report: Report, size: Size) -> None:
    """
    Measure all steps, and print them.
    """
    use_credentials_of_nobody()
    report.table("Folding, nanoseconds of CPU per value", ("values", "ns", "target"), _fold_rows(size))
    report.table("Sealing and batching, microseconds of CPU", ("step", "per datum", "per value"), _batch_rows(size))
    with Endpoint() as endpoint:
        report.table(
            "Serialising and sending, milliseconds of CPU per call",
            ("call", "serialise", "send (with it)", "send, µs per datum", "send, µs per value"),
            _call_rows(size, endpoint.fresh()),
        )
    report.table(
        "Steps of the flusher, microseconds of CPU between two pauses",
        ("flush, garbage collector", "steps", "p50", "p99", "longest", "longest in a call", "target"),
        _step_rows(size),
        note="a call is all that boto3 does, but for the wire",
    )


# ---- fold ----


def _fold_rows(size: Size) -> list[tuple[object, ...]]:
    draw = random.Random(1)
    shapes: dict[str, Callable[[], float]] = {
        "a counter: all ones": lambda: 1,
        "100 distinct": lambda: draw.randrange(100) / 100,
        "1,000 distinct": lambda: draw.randrange(1000) / 1000,
        "all distinct: a sketch": lambda: draw.lognormvariate(0.0, 1.0),
    }
    lists = {name: [one() for _ in range(size.values)] for name, one in shapes.items()}
    found = interleaved({name: partial(_fold, values) for name, values in lists.items()}, size.rounds)
    return [(name, figure, FOLD_TARGET) for name, figure in found.items()]


def _fold(values: list[float]) -> float:
    """The values of one series, in the portions in which they arrive."""
    windows, series = Windows(1_000), Series("Bench", "Folded", (), "None", 60)
    portions = [values[start : start + FOLD_AT] for start in range(0, len(values), FOLD_AT)]
    began = time.thread_time()
    for portion in portions:
        windows.fold(MINUTE, series, portion)
    took = time.thread_time() - began
    if windows.measurements != len(values):
        message = f"{len(values)} values were folded and {windows.measurements} arrived"
        raise RuntimeError(message)
    return took / len(values) * 1e9


# ---- seal and batch ----


def _batch_rows(size: Size) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for distinct in (1, 10, 150):
        steps = {"seal": partial(_seal, size.series, distinct), "batch": partial(_batch, size.series, distinct)}
        found = interleaved(steps, size.rounds)
        rows += [
            (f"{step}, {distinct} values a series", figure, Rounds(tuple(each / distinct for each in figure.values)))
            for step, figure in found.items()
        ]
    return rows


def _windows(series: int, distinct: int) -> Windows:
    windows = Windows(1_000)
    values = [number / 100 for number in range(distinct)]
    for number in range(series):
        windows.fold(MINUTE, _series(number), values)
    return windows


def _series(number: int) -> Series:
    dimensions = (("Endpoint", f"/v{number}/upload"), ("Method", "POST"), ("Status", "accepted"))
    return Series("Bench", "Requests", dimensions, "None", 60)


def _seal(series: int, distinct: int) -> float:
    windows, backlog = _windows(series, distinct), Backlog(1_000_000, 1_000)
    began = time.thread_time()
    for sealed in windows.sealed():
        backlog.add(*sealed)
    return (time.thread_time() - began) / series * 1e6


def _batch(series: int, distinct: int) -> float:
    backlog, sink, bounds = Backlog(1_000_000, 1_000), PutMetricDataSink(Connection()), BatchLimits(20)
    for sealed in _windows(series, distinct).sealed():
        backlog.add(*sealed)
        sink.datum_bytes(
            Datum(sealed[1], MINUTE, (0.0,), (1,), 1)
        )  # sizes of known series are kept from flush to flush
    datums = 0
    began = time.thread_time()
    while backlog:
        datums += len(next_batch(backlog, sink, bounds).datums)
    took = time.thread_time() - began
    if datums != series:
        message = f"{series} series became {datums} datums"
        raise RuntimeError(message)
    return took / series * 1e6


# ---- serialise and send ----

CALLS = ((20, 1), (20, 10), (20, 150), (300, 10), (1_000, 1))
"""Datums, and values in each."""


def _call_rows(size: Size, url: str) -> list[tuple[object, ...]]:
    sink = PutMetricDataSink(Connection("eu-central-1", url))
    sink.send(_call(1, 1))  # makes the client
    cases: dict[str, Callable[[], float]] = {}
    for datums, distinct in CALLS:
        batch = _call(datums, distinct)
        cases[f"serialise {datums} x {distinct}"] = partial(_cpu_ms, partial(_serialise, sink, batch), size.calls)
        cases[f"send {datums} x {distinct}"] = partial(_cpu_ms, partial(sink.send, batch), size.calls)
    found = interleaved(cases, size.rounds)
    rows: list[tuple[object, ...]] = []
    for datums, distinct in CALLS:
        serialise, send = (found[f"{step} {datums} x {distinct}"] for step in ("serialise", "send"))
        each = [Rounds(tuple(ms / parts * 1e3 for ms in send.values)) for parts in (datums, datums * distinct)]
        rows.append((f"{datums} datums of {distinct} values", serialise, send, *each))
    return rows


def _call(datums: int, distinct: int) -> Batch:
    values, counts = tuple(number / 100 for number in range(distinct)), (2,) * distinct
    now = int(time.time()) // 60 * 60
    return Batch(
        "Bench", tuple(Datum(_series(number), now, values, counts, 2 * distinct) for number in range(datums)), 0
    )


def _serialise(sink: PutMetricDataSink, batch: Batch) -> None:
    """What comes before the wire: our datums in boto3's shape, and that as a request's body."""
    client: Any = sink._client  # noqa: SLF001 - the same client that sends
    model = client.meta.service_model.operation_model("PutMetricData")
    data = InTurns(map(to_wire, batch.datums), sink._pause)  # noqa: SLF001
    given = {"Namespace": batch.namespace, "MetricData": data}
    client._serializer.serialize_to_request(given, model)  # noqa: SLF001


def _cpu_ms(work: Callable[[], object], times: int) -> float:
    began = time.thread_time()
    for _ in range(times):
        work()
    return (time.thread_time() - began) / times * 1e3


# ---- steps ----


class StepClock(ManualRuntime):
    """
    A runtime whose worker runs in this thread, and that notes how long each step between two pauses was.
    """

    def __init__(self) -> None:
        super().__init__(wall=float(int(time.time()) // 60 * 60))
        self.steps: list[float] = []
        self._began = time.thread_time()

    def begin(self) -> None:
        """
        A step begins: what was before belongs to nobody.
        """
        self._began = time.thread_time()

    def pause(self) -> None:
        """
        The flusher lets others run: the end of a step.
        """
        now = time.thread_time()
        self.steps.append((now - self._began) * 1e6)
        self._began = time.thread_time()


class UnsentSink(PutMetricDataSink):
    """
    The real sink and the real boto3, but for the wire: where a request would leave there is an answer at once.
    """

    def __init__(self, clock: StepClock) -> None:
        super().__init__(Connection("eu-central-1", "http://127.0.0.1:9"), pause=clock.pause)
        self._clock = clock
        events = self._connected().meta.events
        events.register_last("before-send.cloudwatch.PutMetricData", _accepted)
        self.calls: list[float] = []

    def send(self, batch: Batch) -> None:
        """
        A call; what came before it is a step of its own, and so is what is between its pauses.
        """
        self._clock.pause()
        before = len(self._clock.steps)
        super().send(batch)
        self._clock.pause()
        self.calls += self._clock.steps[before:]
        del self._clock.steps[before:]


def _accepted(request: Any, **_: object) -> AWSResponse:
    return AWSResponse(request.url, 200, {"x-amzn-RequestId": "0", "Content-Type": "application/json"}, _Body())


class _Body:
    """
    An answer's body, as urllib3 gives it.
    """

    def stream(self) -> list[bytes]:
        """
        All of it.
        """
        return [b"{}"]


def _step_rows(size: Size) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for series, distinct in size.flushes:
        for collecting in (True, False):
            rounds = [_steps(series, distinct, collecting=collecting) for _ in range(size.step_rounds)]
            ordered = [sorted(steps) for steps, _ in rounds]
            name = f"{series:,} series x {distinct}, {'on' if collecting else 'off'}"
            figures = [Rounds(tuple(percentile(steps, percent) for steps in ordered)) for percent in (50, 99, 100)]
            calls = Rounds(tuple(max(calls) for _, calls in rounds))
            rows.append((name, f"{len(ordered[0]):,}", *figures, calls, STEP_TARGET))
    return rows


def _steps(series: int, distinct: int, *, collecting: bool) -> tuple[Sequence[float], Sequence[float]]:
    """Steps and calls of one flush."""
    clock = StepClock()
    sink = UnsentSink(clock)
    config = MetricsConfig(environment="bench", max_series=20_000, max_series_per_metric=20_000)
    client = CloudWatchMetrics(config, sink=sink, runtime=clock)
    histogram = client.histogram("Filled")
    bound = [histogram.bind(Shard=f"shard-{number}") for number in range(series)]
    _fill(bound, distinct)
    client.flush(60.0)  # every series has its place now
    _fill(bound, distinct)
    gc.collect()
    if not collecting:
        gc.disable()
    clock.steps.clear()
    sink.calls.clear()
    clock.begin()
    try:
        client.flush(60.0)
    finally:
        gc.enable()
    stats = client.stats()
    if stats.delivered != stats.recorded:
        message = f"not everything was delivered: {stats}"
        raise RuntimeError(message)
    return clock.steps, sink.calls


def _fill(bound: list[Any], distinct: int) -> None:
    for number in range(distinct):
        for histogram in bound:
            histogram.observe(number / 100)


if __name__ == "__main__":
    main()
