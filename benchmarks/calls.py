"""
API calls and money a month, against the naive design that sends every value as a datum of its own, twenty a call.

1. The traffic is that of the demo (`examples/retainwise`): what its upload API and its workers record for each file, in the same order and
   with the same dimensions, for the files that its customers upload, bad ones included. Durations are drawn from a lognormal distribution.
2. Time is simulated. Files come evenly, one hundred a second, and are divided among two processes of the API and six of the worker.
3. Both designs are given the same records, and both must have sent all of them at the end. The naive one also sends once a minute.
4. The price is the one of PutMetricData in the first tier. What custom metrics cost is the same for both and comes on top.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from _harness import Report, arguments
from _naive import Naive

from retainwise_metrics import CloudWatchMetrics, MetricNamespace, MetricsConfig, MetricUnit
from retainwise_metrics.testing import ManualRuntime

sys.path.insert(0, str(Path(__file__).parents[1]))  # the examples are not installed

if TYPE_CHECKING:
    from retainwise_metrics.datum import Batch, Datum

API, WORKER = MetricNamespace.API, MetricNamespace.WORKER
ML, DATABASE = MetricNamespace.ML_PIPELINE, MetricNamespace.DATABASE
ENDPOINT, VERSION = {"Endpoint": "/upload"}, {"ModelVersion": "sample-1"}

FILES_A_SECOND = 100
API_PROCESSES, WORKERS = 2, 6
MONTH_SECONDS = 730 * 3600
DOLLARS_PER_CALL = 0.01 / 1000
"""PutMetricData, first tier (https://aws.amazon.com/cloudwatch/pricing/, us-east-1)."""

FEWER = ">= 50"
"""Times fewer calls."""


class Size(NamedTuple):
    """
    How much is simulated.

    Attributes:
        minutes: Simulated minutes.
        rate: Files per second.
    """

    minutes: int
    rate: int = FILES_A_SECOND


FULL, QUICK = Size(60), Size(10)


class CountingSink:
    """
    Counts calls and measurements.
    """

    def __init__(self) -> None:
        self.calls = self.datums = self.measurements = 0

    def send(self, batch: Batch) -> None:
        self.calls += 1
        self.datums += len(batch.datums)
        self.measurements += batch.measurements

    def put(self, namespace: str, datums: list[dict[str, Any]]) -> None:
        """
        The naive design's call.
        """
        del namespace
        self.calls += 1
        self.datums += len(datums)
        self.measurements += len(datums)

    def datum_bytes(self, datum: Datum) -> int:
        return 250 + 25 * len(datum.values)

    def envelope_bytes(self, namespace: str) -> int:
        return 50 + len(namespace)

    def after_fork(self) -> None:
        """Nothing to forget."""

    def close(self) -> None:
        """Nothing to let go of."""


class Process:
    """
    One process of the service, with one of the designs inside.

    Args:
        naive: Which one.
        sink: What all processes send to.
        runtime: The clock of all processes.
    """

    def __init__(self, sink: CountingSink, runtime: ManualRuntime, *, naive: bool) -> None:
        self.recorded = 0
        self._naive = Naive(sink.put) if naive else None
        config = MetricsConfig(environment="bench", catalogue=())
        self._client = None if naive else CloudWatchMetrics(config, sink=sink, runtime=runtime)

    def put(
        self, name: str, value: float, unit: MetricUnit, namespace: str, dimensions: dict[str, str] | None = None
    ) -> None:
        """
        Record one value.
        """
        self.recorded += 1
        target: Any = self._client or self._naive
        target.put_metric(name, value, unit, namespace=namespace, dimensions=dimensions)

    def minute(self) -> None:
        """
        A minute is over: the naive design sends what it has; ours knows by itself.
        """
        if self._naive is not None:
            self._naive.flush()

    def stop(self) -> None:
        """
        Deliver the rest.
        """
        if self._client is not None:
            self._client.stop(60.0)
            stats = self._client.stats()
            if stats.recorded != stats.delivered:
                message = f"{stats.recorded} were recorded and {stats.delivered} delivered: {stats}"
                raise RuntimeError(message)
        self.minute()


class Traffic:
    """
    What the demo records.

    Args:
        customers: Whether each customer's confidence is recorded, too: nine tenths of all values.
    """

    def __init__(self, *, customers: bool) -> None:
        from examples.retainwise import sample, traffic

        chance = random.Random(sample.SEED)
        # More files at a time than this would be smaller ones (traffic.MOST_CUSTOMERS).
        planned = traffic.plan(traffic.Source(sample.sample_csv()), 100, chance)
        self._files = [(upload, traffic.KINDS[upload.kind]) for upload in planned]
        self._customers = customers
        self._draw = random.Random(1)
        self._confidences = [round(self._draw.uniform(0.5, 1.0), 2) for _ in range(10_000)]

    def file(self, number: int, api: Process, worker: Process) -> None:
        """
        One file: uploaded, and scored if it was accepted.
        """
        upload, answer = self._files[number % len(self._files)]
        put, seconds = api.put, self._seconds
        put("UploadFileSizeMB", len(upload.data) / 1e6, MetricUnit.MEGABYTES, API)
        put("UploadsByUser", 1, MetricUnit.COUNT, API, {"UserId": upload.user_id})
        if not answer.accepted:
            put(answer.metric, 1, MetricUnit.COUNT, API, {"ErrorType": answer.error_type})
            return
        put("S3UploadDuration", seconds(0.05), MetricUnit.SECONDS, API)
        put("SQSMessageSent", 1, MetricUnit.COUNT, API)
        put("UploadSuccess", 1, MetricUnit.COUNT, API, ENDPOINT)
        put("UploadEndToEndDuration", seconds(0.1), MetricUnit.SECONDS, API, ENDPOINT)
        self._job(upload.customers, answer.metric, answer.error_type, worker.put)

    def _job(self, customers: int, metric: str, error_type: str, put: Any) -> None:
        seconds = self._seconds
        put("S3DownloadDuration", seconds(0.05), MetricUnit.SECONDS, WORKER)
        if metric:
            put(metric, 1, MetricUnit.COUNT, ML, {"ErrorType": error_type})
            put("WorkerFailure", 1, MetricUnit.COUNT, WORKER, {"ErrorType": "CSVParse"})
            return
        put("CSVRowCount", customers, MetricUnit.COUNT, ML)
        took = seconds(0.02)
        put("MLPredictionDuration", took, MetricUnit.SECONDS, ML, VERSION)
        put("PredictionThroughput", customers / took, MetricUnit.COUNT_PER_SECOND, ML)
        if self._customers:
            for number in range(customers):
                put("PredictionConfidence", self._confidences[number], MetricUnit.NONE, ML, VERSION)
        put("DatabaseWriteDuration", seconds(0.01), MetricUnit.SECONDS, DATABASE)
        put("PredictionsSaved", customers, MetricUnit.COUNT, DATABASE)
        put("WorkerEndToEndDuration", seconds(0.1), MetricUnit.SECONDS, WORKER)
        put("WorkerSuccess", 1, MetricUnit.COUNT, WORKER)

    def _seconds(self, typical: float) -> float:
        return typical * self._draw.lognormvariate(0.0, 0.5)


def main() -> None:
    options = arguments(__doc__)
    report = Report("calls", options)
    run(report, QUICK if options.quick else FULL)
    report.finish()


def run(report: Report, size: Size) -> None:
    """
    Simulate both designs with both kinds of traffic, and print what they come to.
    """
    rows: list[tuple[object, ...]] = []
    for customers in (True, False):
        naive, recorded = _simulate(size, customers=customers, naive=True)
        ours, same = _simulate(size, customers=customers, naive=False)
        if recorded != same or {naive.measurements, ours.measurements} != {recorded}:
            message = f"recorded {recorded} and {same}; sent {naive.measurements} and {ours.measurements}"
            raise RuntimeError(message)
        what = "all values" if customers else "without one value per customer"
        for name, sink, target in (("naive, 20 datums a call", naive, ""), ("retainwise_metrics", ours, FEWER)):
            a_minute = sink.calls / size.minutes
            dollars = sink.calls * MONTH_SECONDS / (size.minutes * 60) * DOLLARS_PER_CALL
            ratio = f"{naive.calls / sink.calls:,.0f}"
            rows.append((f"{name}, {what}", f"{recorded / size.minutes / 60:,.0f}", a_minute, dollars, ratio, target))
    report.table(
        f"PutMetricData calls, {size.rate} uploads a second, {API_PROCESSES + WORKERS} processes",
        ("design, traffic", "values a second", "calls a minute", "US dollars a month", "times fewer calls", "target"),
        rows,
        note=f"{size.minutes} simulated minutes; what is left at their end counts as well",
    )


def _simulate(size: Size, *, customers: bool, naive: bool) -> tuple[CountingSink, int]:
    """What one design sends, and how many values were recorded."""
    runtime, sink, traffic = ManualRuntime(), CountingSink(), Traffic(customers=customers)
    apis = [Process(sink, runtime, naive=naive) for _ in range(API_PROCESSES)]
    workers = [Process(sink, runtime, naive=naive) for _ in range(WORKERS)]
    number = 0
    for second in range(1, size.minutes * 60 + 1):
        while number < second * size.rate:
            traffic.file(number, apis[number % API_PROCESSES], workers[number % WORKERS])
            number += 1
        runtime.advance(1.0)
        if second % 60 == 0:
            for process in (*apis, *workers):
                process.minute()
    for process in (*apis, *workers):
        process.stop()
    return sink, sum(process.recorded for process in (*apis, *workers))


if __name__ == "__main__":
    main()
