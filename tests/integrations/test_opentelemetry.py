"""OpenTelemetry's real SDK in front of our delivery, and behind our recording surface."""

from __future__ import annotations

import bisect
import logging
import math
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("opentelemetry.sdk.metrics", reason="the integration is with OpenTelemetry's SDK")

from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics import export as otel
from opentelemetry.sdk.metrics.view import (
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from retainwise_metrics import CloudWatchMetrics, DropReason, MetricsConfig, MetricUnit, set_metrics_client, timed
from retainwise_metrics.dimensions.policy import DimensionPolicy
from retainwise_metrics.integrations import opentelemetry as integration
from retainwise_metrics.integrations.opentelemetry import (
    Bucket,
    CloudWatchMetricExporter,
    MeterRecorder,
    explicit_buckets,
    exponential_buckets,
    stand_ins,
    unit_of,
)
from retainwise_metrics.testing import InMemorySink, ManualRuntime
from tests.helpers import NAMESPACE, assert_balanced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

needs_put_values = pytest.mark.skipif(
    not hasattr(CloudWatchMetrics, "put_values"), reason="the client takes values one by one"
)
SUCCESS, FAILURE = otel.MetricExportResult.SUCCESS, otel.MetricExportResult.FAILURE
DELTA, CUMULATIVE = otel.AggregationTemporality.DELTA, otel.AggregationTemporality.CUMULATIVE
ROUNDING = 1e-9
"""The stated relative error of a histogram's sum."""


@pytest.fixture
def runtime() -> ManualRuntime:
    """A clock that stands at the real time, which is what the SDK stamps points with."""
    return ManualRuntime(wall=time.time())


@pytest.fixture
def provider_of() -> Iterator[Callable[..., MeterProvider]]:
    """Make providers whose reader exports only when asked to."""
    made: list[MeterProvider] = []

    def make(exporter: otel.MetricExporter, **options: Any) -> MeterProvider:
        reader = otel.PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)
        made.append(MeterProvider([reader], shutdown_on_exit=False, **options))
        return made[-1]

    yield make
    for provider in made:
        if not provider._shutdown:
            provider.shutdown()


def values(sink: InMemorySink, name: str, **dimensions: str) -> dict[float, int]:
    """What arrived under one name."""
    return sink.values(NAMESPACE, name, dimensions)


def units(sink: InMemorySink) -> dict[str, str]:
    """The unit of each metric that arrived."""
    return {datum.series.name: datum.series.unit for datum in sink.datums}


# ---- sums and levels ----


def test_a_counter_is_what_was_added_since_the_last_export(
    client: CloudWatchMetrics, sink: InMemorySink, provider_of: Callable[..., MeterProvider]
) -> None:
    """Sums are differences, so that CloudWatch's `Sum` over any period is right."""
    provider = provider_of(CloudWatchMetricExporter(client))
    uploads = provider.get_meter("m").create_counter("uploads", unit="{upload}")
    uploads.add(2, {"Endpoint": "/upload"})
    uploads.add(3, {"Endpoint": "/upload"})
    uploads.add(1)
    assert provider.force_flush()
    uploads.add(7, {"Endpoint": "/upload"})
    assert provider.force_flush()
    assert values(sink, "uploads", Endpoint="/upload") == {5.0: 1, 7.0: 1}
    assert values(sink, "uploads") == {1.0: 1}
    assert units(sink) == {"uploads": "Count"}
    assert_balanced(client)


def test_an_up_down_counter_is_its_level(
    client: CloudWatchMetrics, sink: InMemorySink, provider_of: Callable[..., MeterProvider]
) -> None:
    """A level is published as it stands, not as what changed."""
    provider = provider_of(CloudWatchMetricExporter(client))
    queue = provider.get_meter("m").create_up_down_counter("queue", unit="{job}")
    queue.add(5)
    provider.force_flush()
    queue.add(-2)
    provider.force_flush()
    assert values(sink, "queue") == {5.0: 1, 3.0: 1}


def test_what_is_observed_arrives_too(
    client: CloudWatchMetrics, sink: InMemorySink, provider_of: Callable[..., MeterProvider]
) -> None:
    """Observed totals become differences, observed levels stay levels, gauges are the last value."""
    totals, levels = iter([10, 25]), iter([-4, -6])
    provider = provider_of(CloudWatchMetricExporter(client))
    meter = provider.get_meter("m")
    meter.create_observable_counter("total", [lambda _: [Observation(next(totals))]])
    meter.create_observable_up_down_counter("level", [lambda _: [Observation(next(levels))]])
    meter.create_observable_gauge("temperature", [lambda _: [Observation(21.5)]], unit="Cel")
    gauge = meter.create_gauge("load", unit="%")
    gauge.set(10.0)
    gauge.set(20.0)
    provider.force_flush()
    provider.force_flush()
    assert values(sink, "total") == {10.0: 1, 15.0: 1}
    assert values(sink, "level") == {-4.0: 1, -6.0: 1}
    assert values(sink, "temperature") == {21.5: 2}
    assert values(sink, "load") == {20.0: 2}
    assert units(sink) == {"total": "Count", "level": "Count", "temperature": "None", "load": "Percent"}


# ---- histograms ----


def quantile_of(counts: dict[float, int], rank: int) -> float:
    """The value of a rank, from 0, among values with counts."""
    for value in sorted(counts):
        rank -= counts[value]
        if rank < 0:
            return value
    raise IndexError(rank)


def test_a_histogram_keeps_count_sum_and_extremes(
    client: CloudWatchMetrics, sink: InMemorySink, provider_of: Callable[..., MeterProvider]
) -> None:
    """By default buckets are exponential: four numbers exact, and percentiles to 9.1 % over a factor of 900,000."""
    provider = provider_of(CloudWatchMetricExporter(client))
    durations = provider.get_meter("m").create_histogram("duration", unit="s")
    recorded = sorted(0.001 * 1.004**power for power in range(3000))
    for value in recorded:
        durations.record(value, {"Endpoint": "/upload"})
    assert provider.force_flush()
    counts = values(sink, "duration", Endpoint="/upload")
    assert sum(counts.values()) == 3000
    assert math.fsum(v * c for v, c in counts.items()) == pytest.approx(math.fsum(recorded), rel=ROUNDING)
    assert (min(counts), max(counts)) == (recorded[0], recorded[-1])
    for rank in (0, 1, 300, 1500, 2700, 2970, 2999):
        assert quantile_of(counts, rank) == pytest.approx(recorded[rank], rel=0.091)
    assert units(sink) == {"duration": "Seconds"}
    assert_balanced(client)


def test_a_view_with_explicit_bounds_wins(
    client: CloudWatchMetrics, sink: InMemorySink, provider_of: Callable[..., MeterProvider]
) -> None:
    """Then every value stays between the bounds it was counted in."""
    view = View(instrument_name="size", aggregation=ExplicitBucketHistogramAggregation([10.0, 100.0]))
    provider = provider_of(CloudWatchMetricExporter(client), views=[view])
    sizes = provider.get_meter("m").create_histogram("size", unit="KiBy")
    for value in (1.0, 2.0, 4.0, 30.0, 50.0, 1000.0):
        sizes.record(value)
    provider.force_flush()
    counts = values(sink, "size")
    assert units(sink) == {"size": "Bytes"}
    in_kilobytes = {value / 1024: count for value, count in counts.items()}
    assert sum(in_kilobytes.values()) == 6
    assert sum(v * c for v, c in in_kilobytes.items()) == pytest.approx(1087.0, rel=ROUNDING)
    assert sum(count for value, count in in_kilobytes.items() if value <= 10) == 3
    assert sum(count for value, count in in_kilobytes.items() if 10 < value <= 100) == 2
    assert (min(in_kilobytes), max(in_kilobytes)) == (1.0, 1000.0)


NUMBERS = (
    st.floats(min_value=-1e6, max_value=1e6) | st.floats(min_value=0, max_value=10) | st.integers(-5, 5).map(float)
)


@given(st.lists(NUMBERS, min_size=1, max_size=60), st.lists(NUMBERS, max_size=10, unique=True))
def test_stand_ins_for_explicit_buckets_keep_what_is_stated(recorded: list[float], bounds: list[float]) -> None:
    """Count, minimum and maximum are exact, the sum to 1e-9, and each rank is in the bucket of the value that had it."""
    bounds = sorted(bounds)
    held = [0] * (len(bounds) + 1)
    for value in recorded:
        held[bisect.bisect_left(bounds, value)] += 1
    counts = stand_ins(explicit_buckets(bounds, held), math.fsum(recorded), min(recorded), max(recorded))
    assert sum(counts.values()) == len(recorded)
    assert (min(counts), max(counts)) == (min(recorded), max(recorded))
    scale = max(math.fsum(map(abs, recorded)), 1e-300)
    assert math.fsum(v * c for v, c in counts.items()) == pytest.approx(math.fsum(recorded), abs=ROUNDING * scale)
    edges = [-math.inf, *bounds, math.inf]
    for rank, value in enumerate(sorted(recorded)):
        bucket = bisect.bisect_left(bounds, value)
        assert edges[bucket] <= quantile_of(counts, rank) <= edges[bucket + 1]


@settings(max_examples=60)
@given(
    st.lists(
        st.floats(min_value=1e-12, max_value=1e12) | st.floats(min_value=0.001, max_value=10) | st.just(0.0),
        min_size=1,
        max_size=80,
    ),
    st.sampled_from([160, 20, 4]),
)
def test_stand_ins_for_exponential_buckets_keep_what_is_stated(recorded: list[float], size: int) -> None:
    """With buckets as the SDK fills them: four numbers as above, and every rank within the relative width of a bucket."""
    reader = otel.InMemoryMetricReader({Histogram: DELTA}, {Histogram: ExponentialBucketHistogramAggregation(size)})
    instrument = MeterProvider([reader], shutdown_on_exit=False).get_meter("m").create_histogram("h")
    for value in recorded:
        instrument.record(value)
    data = reader.get_metrics_data()
    assert data is not None
    (point,) = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    assert isinstance(point, otel.ExponentialHistogramDataPoint)
    counts = stand_ins(exponential_buckets(point), point.sum, point.min, point.max)
    assert sum(counts.values()) == len(recorded)
    assert (min(counts), max(counts)) == (min(recorded), max(recorded))
    assert math.fsum(v * c for v, c in counts.items()) == pytest.approx(math.fsum(recorded), rel=ROUNDING)
    width = 2.0 ** (2.0**-point.scale) - 1.0
    for rank, value in enumerate(sorted(recorded)):
        assert abs(quantile_of(counts, rank) - value) <= width * value * (1 + ROUNDING) + 1e-9 * value


@given(
    st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=40), st.lists(NUMBERS, max_size=6, unique=True)
)
def test_without_extremes_count_and_sum_are_kept(recorded: list[float], bounds: list[float]) -> None:
    """A view with `record_min_max=False` costs the extremes and the bound of percentiles, not the sum of what is not negative."""
    bounds = sorted(bounds)
    held = [0] * (len(bounds) + 1)
    for value in recorded:
        held[bisect.bisect_left(bounds, value)] += 1
    counts = stand_ins(explicit_buckets(bounds, held), math.fsum(recorded), math.inf, -math.inf)
    assert sum(counts.values()) == len(recorded)
    scale = max(math.fsum(recorded), *map(abs, bounds), 1e-300) * len(recorded)
    assert math.fsum(v * c for v, c in counts.items()) == pytest.approx(math.fsum(recorded), abs=ROUNDING * scale)


@pytest.mark.parametrize(
    ("buckets", "total", "extremes", "expected"),
    [
        pytest.param([], 0.0, (None, None), {}, id="nothing"),
        pytest.param([Bucket(-math.inf, math.inf, 4)], 8.0, (None, None), {2.0: 4}, id="one bucket for everything"),
        pytest.param([Bucket(-math.inf, math.inf, 4)], math.nan, (None, None), {0.0: 4}, id="nothing known"),
        pytest.param([Bucket(0.0, 4.0, 3)], math.nan, (None, None), {2.0: 3}, id="no sum"),
        pytest.param([Bucket(0.0, 4.0, 1)], 3.0, (3.0, 3.0), {3.0: 1}, id="one value"),
        pytest.param([Bucket(0.0, 4.0, 2)], 4.0, (1.0, 3.0), {1.0: 1, 3.0: 1}, id="two values"),
        pytest.param([Bucket(5.0, math.inf, 2)], None, (None, None), {5.0: 2}, id="no end and no sum"),
        pytest.param(
            [Bucket(4.0, 10.0, 2), Bucket(10.0, math.inf, 1)], 38.0, (None, None), {7.75: 2, 22.5: 1}, id="no end"
        ),
        pytest.param([Bucket(-math.inf, -5.0, 2)], -12.0, (None, None), {-5.0: 2}, id="no beginning, negative"),
        pytest.param([Bucket(0.0, 2.0, 2)], 100.0, (None, None), {2.0: 2}, id="a sum that cannot be"),
        pytest.param(
            [Bucket(0.0, math.inf, 2)], math.inf, (1.0, math.inf), {1.0: 1, 0.0: 0}, id="infinity was recorded"
        ),
    ],
)
def test_what_little_is_known_is_used(
    buckets: list[Bucket], total: float | None, extremes: tuple[float | None, float | None], expected: dict[float, int]
) -> None:
    """Counts survive whatever is missing, and no value leaves its bucket."""
    counts = stand_ins(buckets, total, *extremes)
    assert sum(counts.values()) == sum(bucket.held for bucket in buckets)
    if 0 not in expected.values():
        assert counts == pytest.approx(expected)
        assert list(counts) == pytest.approx(list(expected))
    assert all(math.isfinite(value) for value in counts)


def test_bounds_beyond_the_floats_are_no_error() -> None:
    """The coarsest scale has buckets that no float ends."""
    point = exponential_point(scale=-10, positive=(0, [3]), count=3, total=3e300)
    counts = stand_ins(exponential_buckets(point), 3e300, 1e299, 2e300)
    assert sum(counts.values()) == 3
    assert sum(v * c for v, c in counts.items()) == pytest.approx(3e300, rel=ROUNDING)


@needs_put_values
def test_a_million_occurrences_cost_no_more_than_one(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """A count is handed on as a count."""
    data = metrics_data(
        "h", otel.ExponentialHistogram([exponential_point(0, (0, [10**12]), 10**12, 1.5 * 10**12)], DELTA)
    )
    assert CloudWatchMetricExporter(client).export(data) is SUCCESS
    client.flush()
    counts = values(sink, "h")
    assert sum(counts.values()) == 10**12
    assert sum(v * c for v, c in counts.items()) == pytest.approx(1.5 * 10**12, rel=ROUNDING)
    assert client.stats().recorded == 10**12
    assert_balanced(client)


# ---- points made by hand ----


def exponential_point(
    scale: int, positive: tuple[int, list[int]], count: int, total: float
) -> otel.ExponentialHistogramDataPoint:
    """A point as the SDK would make it, of a minute that ends now."""
    now = time.time_ns()
    some, none = otel.Buckets(*positive) if hasattr(otel, "Buckets") else _buckets(*positive), _buckets(0, [])
    return otel.ExponentialHistogramDataPoint(
        {}, now - 60 * 10**9, now, count, total, scale, 0, some, none, 0, math.inf, -math.inf
    )


def _buckets(offset: int, counts: list[int]) -> Any:
    from opentelemetry.sdk.metrics._internal.point import Buckets

    return Buckets(offset, counts)


def number_point(value: float, start: float | None = None, end: float | None = None, **attributes: Any) -> Any:
    """A number, of the last minute unless told otherwise."""
    end = time.time() if end is None else end
    start = end - 60 if start is None else start
    return otel.NumberDataPoint(attributes, int(start * 10**9), int(end * 10**9), value)


def metrics_data(name: str, data: Any, unit: str = "1", resource: Resource | None = None) -> otel.MetricsData:
    """One metric, as a reader would hand it over."""
    scope = otel.ScopeMetrics(InstrumentationScope("m"), [otel.Metric(name, "", unit, data)], "")
    return otel.MetricsData([otel.ResourceMetrics(resource or Resource({}), [scope], "")])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(otel.Sum([number_point(1)], CUMULATIVE, is_monotonic=True), id="a total"),
        pytest.param(otel.Sum([number_point(1)], DELTA, is_monotonic=False), id="a change of level"),
        pytest.param(otel.Histogram([], CUMULATIVE), id="a histogram since the start"),
        pytest.param(otel.ExponentialHistogram([], CUMULATIVE), id="an exponential one"),
    ],
)
def test_what_has_the_wrong_temporality_is_refused_aloud(
    client: CloudWatchMetrics, sink: InMemorySink, caplog: pytest.LogCaptureFixture, data: Any
) -> None:
    """A total taken for a difference would be a wrong number every minute: nothing is recorded, and the log names the metric."""
    exporter = CloudWatchMetricExporter(client, monotonic=lambda: 0.0)
    with caplog.at_level(logging.WARNING):
        assert exporter.export(metrics_data("orders", data)) is FAILURE
        assert exporter.export(metrics_data("orders", data)) is FAILURE
    client.flush()
    assert sink.datums == []
    (record,) = caplog.records
    assert "'orders'" in record.getMessage()
    assert "temporality" in record.getMessage()


def test_a_difference_belongs_to_the_minute_that_holds_most_of_its_interval(
    make_client: Callable[..., CloudWatchMetrics], runtime: ManualRuntime, sink: InMemorySink
) -> None:
    """Exports come at any second of a minute; a level is of the moment, and an interval that was frozen is of its end."""
    client = make_client()
    exporter = CloudWatchMetricExporter(client)
    minute = runtime.wall() // 60 * 60 - 600

    def export(name: str, start: float, end: float, monotonic: bool = True) -> None:
        temporality = DELTA if monotonic else CUMULATIVE
        data = otel.Sum([number_point(1, start, end)], temporality, is_monotonic=monotonic)
        assert exporter.export(metrics_data(name, data)) is SUCCESS

    export("early", minute - 59, minute + 1)
    export("late", minute - 1, minute + 59)
    export("frozen", minute - 7200, minute + 40)
    export("level", minute - 7200, minute + 1, monotonic=False)
    client.flush()
    assert {datum.series.name: datum.timestamp - minute for datum in sink.datums} == {
        "early": -60,
        "late": 0,
        "frozen": 0,
        "level": 0,
    }


def test_what_the_client_refuses_fails_the_export_and_nothing_else(
    client: CloudWatchMetrics, sink: InMemorySink
) -> None:
    """One bad point costs that point: the others are taken, and the ledger says why it was refused."""
    data = otel.Gauge(
        [number_point(math.nan), number_point(2.0, A="b"), number_point(1.0, **{f"a{i}": "x" for i in range(31)})]
    )
    assert CloudWatchMetricExporter(client).export(metrics_data("g", data)) is FAILURE
    client.flush()
    assert values(sink, "g", A="b") == {2.0: 1}
    assert client.stats().dropped == {DropReason.INVALID_VALUE: 1, DropReason.INVALID_DIMENSIONS: 1}
    assert_balanced(client)


def test_attributes_are_dimensions_by_the_policy(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """Personal values are hashed, status codes grouped, sequences joined, and what is blank is left out."""
    attributes = {
        "user.id": "user_123",
        "contact": "jane@example.org",
        "http.response.status_code": 200,
        "error": True,
        "peers": ("a", "b"),
        "blank": " ",
    }
    assert (
        CloudWatchMetricExporter(client).export(metrics_data("g", otel.Gauge([number_point(1.0, **attributes)])))
        is SUCCESS
    )
    client.flush()
    (datum,) = sink.datums
    found = dict(datum.series.dimensions)
    assert {name: found[name] for name in ("error", "peers", "http.response.status_code")} == {
        "error": "true",
        "peers": "a,b",
        "http.response.status_code": "2xx",
    }
    assert "blank" not in found
    assert not {"user_123", "jane@example.org"} & set(found.values())
    assert {"user.id", "contact"} <= set(found)


def test_attributes_of_the_resource_are_dimensions_if_named(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """None by default, since each multiplies the series; those of a point win."""
    resource = Resource({"service.name": "uploads", "host.name": "a", "process.pid": 7})
    data = otel.Gauge([number_point(1.0, **{"host.name": "b"})])
    for names in ((), ("service.name", "host.name", "absent")):
        CloudWatchMetricExporter(client, resource_attributes=names).export(metrics_data("g", data, resource=resource))
    client.flush()
    assert values(sink, "g", **{"host.name": "b"}) == {1.0: 1}
    assert values(sink, "g", **{"host.name": "b", "service.name": "uploads"}) == {1.0: 1}


def test_the_namespace_is_the_exporters(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """All metrics go into the namespace that was given."""
    exporter = CloudWatchMetricExporter(client, namespace="Shop")
    exporter.export(metrics_data("g", otel.Gauge([number_point(1.0)])))
    client.flush()
    assert sink.values("Shop", "g") == {1.0: 1}


def test_without_a_client_it_is_the_process_wide_one(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """Looked up at each export, so that a test may put another in its place."""
    exporter = CloudWatchMetricExporter()
    set_metrics_client(client)
    exporter.export(metrics_data("g", otel.Gauge([number_point(1.0)])))
    assert exporter.force_flush()
    assert values(sink, "g") == {1.0: 1}


@pytest.mark.parametrize(
    ("ucum", "counted", "unit", "factor"),
    [
        ("s", False, MetricUnit.SECONDS, 1.0),
        ("ms", False, MetricUnit.MILLISECONDS, 1.0),
        ("us", False, MetricUnit.MICROSECONDS, 1.0),
        ("ns", False, MetricUnit.MICROSECONDS, 1e-3),
        ("min", False, MetricUnit.SECONDS, 60.0),
        ("By", False, MetricUnit.BYTES, 1.0),
        ("MiBy", False, MetricUnit.BYTES, 1024.0**2),
        ("By/s", False, MetricUnit.BYTES_PER_SECOND, 1.0),
        ("{request}", False, MetricUnit.COUNT, 1.0),
        ("{request}/s", False, MetricUnit.COUNT_PER_SECOND, 1.0),
        ("%", False, MetricUnit.PERCENT, 1.0),
        ("1", False, MetricUnit.NONE, 1.0),
        ("1", True, MetricUnit.COUNT, 1.0),
        ("", True, MetricUnit.COUNT, 1.0),
        (None, False, MetricUnit.NONE, 1.0),
        ("Cel", True, MetricUnit.NONE, 1.0),
    ],
)
def test_units_are_those_of_cloudwatch(ucum: str | None, counted: bool, unit: MetricUnit, factor: float) -> None:
    """UCUM is translated, with a factor where CloudWatch lacks the unit, and to `None` where it has nothing like it."""
    assert unit_of(ucum, counted=counted) == (unit, factor)


@pytest.mark.parametrize("unit", list(MetricUnit))
def test_every_unit_comes_back(unit: MetricUnit) -> None:
    """What the other direction writes, this one reads."""
    assert unit_of(integration.UCUM[unit]) == (unit, 1.0)


# ---- flushing and the end ----


class Remembering:
    """A recorder of the smallest kind: it takes one value at a time."""

    def __init__(self) -> None:
        self.records: list[tuple[str, float]] = []
        self.flushes: list[float] = []
        self.flushed = True

    def put_metric(self, name: str, value: float, *_: object, **__: object) -> bool:
        """Keep a value."""
        self.records.append((name, value))
        return True

    increment_counter = record_time = put_metric

    def flush(self, timeout: float) -> bool:
        """Keep the timeout."""
        self.flushes.append(timeout)
        return self.flushed


def test_force_flush_says_whether_all_was_delivered() -> None:
    """Milliseconds there are seconds here, and what is left over is False."""
    recorder = Remembering()
    exporter = CloudWatchMetricExporter(recorder)
    assert exporter.force_flush(2500)
    recorder.flushed = False
    assert not exporter.force_flush(-1)
    assert recorder.flushes == [2.5, 0.0]


def test_a_shutdown_exports_flushes_once_and_takes_no_more(provider_of: Callable[..., MeterProvider]) -> None:
    """The provider's shutdown delivers within its own timeout; later exports fail, and the recorder is not stopped."""
    recorder = Remembering()
    exporter = CloudWatchMetricExporter(recorder)
    provider = provider_of(exporter)
    provider.get_meter("m").create_counter("c").add(1)
    provider.force_flush()
    provider.shutdown(timeout_millis=2000)
    assert recorder.records == [("c", 1.0)]
    *_, last = recorder.flushes
    assert 0 < last <= 2.0
    exporter.shutdown()
    assert len(recorder.flushes) == 2
    assert exporter.export(metrics_data("g", otel.Gauge([number_point(1.0)]))) is FAILURE
    assert recorder.records == [("c", 1.0)]


def test_a_shutdown_never_takes_the_thirty_seconds_it_may() -> None:
    """The end of a process is not held up longer than by the client itself."""
    recorder = Remembering()
    CloudWatchMetricExporter(recorder).shutdown()
    assert recorder.flushes == [integration.SHUTDOWN_SECONDS]


def test_a_recorder_that_takes_single_values_gets_them_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    """Bounded: a histogram with too many occurrences is refused aloud."""
    recorder = Remembering()
    exporter = CloudWatchMetricExporter(recorder)
    point = exponential_point(0, (0, [5]), 5, 7.0)
    assert exporter.export(metrics_data("h", otel.ExponentialHistogram([point], DELTA))) is SUCCESS
    assert [name for name, _ in recorder.records] == ["h"] * 5
    assert sum(value for _, value in recorder.records) == pytest.approx(7.0)
    point = exponential_point(0, (0, [10**9]), 10**9, 1.2e9)
    with caplog.at_level(logging.WARNING):
        assert exporter.export(metrics_data("h", otel.ExponentialHistogram([point], DELTA))) is FAILURE
    assert len(recorder.records) == 5
    assert "CloudWatchMetrics" in caplog.text


AT_EXIT = """
import math, sys
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from retainwise_metrics import CloudWatchMetrics, MetricsConfig
from retainwise_metrics.integrations.opentelemetry import CloudWatchMetricExporter
from retainwise_metrics.testing import InMemorySink

class Telling(InMemorySink):
    def send(self, batch):
        for datum in batch.datums:
            print(datum.series.name, datum.values, datum.counts, flush=True)

client = CloudWatchMetrics(MetricsConfig(), sink=Telling())
provider = MeterProvider([PeriodicExportingMetricReader(CloudWatchMetricExporter(client), 600_000)])
provider.get_meter("m").create_counter("orders").add(3)
client.put_metric("own", 1.0)
"""


def test_a_process_that_just_ends_has_delivered() -> None:
    """The provider's last export comes before the client is stopped, whichever of the two was used first."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", AT_EXIT],
        env={**os.environ, "ENVIRONMENT": "production"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert sorted(done.stdout.splitlines()) == ["orders (3.0,) (1,)", "own (1.0,) (1,)"], done.stderr


# ---- the other way ----


@pytest.fixture
def reader() -> otel.InMemoryMetricReader:
    """A reader that keeps totals."""
    return otel.InMemoryMetricReader()


@pytest.fixture
def recorder(reader: otel.InMemoryMetricReader) -> MeterRecorder:
    """A recorder on a real meter."""
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("m")
    return MeterRecorder(meter, gauges={"Depth"}, monotonic=lambda: 0.0)


def metrics_of(reader: otel.InMemoryMetricReader) -> dict[str, otel.Metric]:
    """What the SDK holds, by name."""
    data = reader.get_metrics_data()
    if data is None:
        return {}
    return {m.name: m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}


def test_counts_times_values_and_levels_reach_their_instruments(
    recorder: MeterRecorder, reader: otel.InMemoryMetricReader
) -> None:
    """Each verb has its instrument, with the unit in UCUM and the dimensions as attributes; the SDK makes names lower case."""
    assert recorder.increment_counter("Uploads", dimensions={"Endpoint": "/upload"}, value=3)
    assert recorder.increment_counter("Uploads", dimensions={"Endpoint": "/upload"})
    assert recorder.record_time("Duration", 0.25)
    assert recorder.record_time("Duration", 0.75)
    assert recorder.put_metric("Size", 4.2, MetricUnit.MEGABYTES, storage_resolution=1)
    assert recorder.put_metric("Depth", 7.0, "Count")
    assert recorder.put_metric("Depth", -1.0, "Count", namespace="Shop")
    found = metrics_of(reader)
    (uploads,) = found["uploads"].data.data_points
    assert (uploads.value, dict(uploads.attributes)) == (4, {"Endpoint": "/upload"})
    (duration,) = found["duration"].data.data_points
    assert (duration.count, duration.sum, duration.min, duration.max) == (2, 1.0, 0.25, 0.75)
    assert {name: metric.unit for name, metric in found.items()} == {
        "uploads": "{Count}",
        "duration": "s",
        "size": "MBy",
        "depth": "{Count}",
    }
    assert sorted((p.value, dict(p.attributes)) for p in found["depth"].data.data_points) == [
        (-1.0, {"cloudwatch.namespace": "Shop"}),
        (7.0, {}),
    ]


def test_personal_dimensions_do_not_reach_the_meter(recorder: MeterRecorder, reader: otel.InMemoryMetricReader) -> None:
    """The policy stands before OpenTelemetry as it stands before CloudWatch: a value is published alike in both."""
    recorder.increment_counter("Uploads", dimensions={"UserId": "user_123", "Note": "jane@example.org"})
    (point,) = metrics_of(reader)["uploads"].data.data_points
    assert (
        tuple(sorted(point.attributes.items()))
        == DimensionPolicy().resolve_all({"UserId": "user_123", "Note": "jane@example.org"})[0]
    )
    assert not {"user_123", "jane@example.org"} & set(point.attributes.values())


class Raising:
    """An object whose every use is an error."""

    def __hash__(self) -> int:
        raise RuntimeError

    def __float__(self) -> float:
        raise RuntimeError


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(lambda r: r.put_metric("X", math.nan), id="NaN"),
        pytest.param(lambda r: r.put_metric("X", Raising()), id="a value that raises"),
        pytest.param(lambda r: r.put_metric(Raising(), 1.0), id="a name that raises"),
        pytest.param(lambda r: r.put_metric("X", 1.0, "Lightyears"), id="an unknown unit"),
        pytest.param(lambda r: r.put_metric("X", 1.0, dimensions={"A": ""}), id="a blank dimension"),
        pytest.param(lambda r: r.put_metric("X", 1.0, namespace="AWS/X"), id="a reserved namespace"),
        pytest.param(lambda r: r.put_metric("X", 1.0, timestamp=time.time()), id="a timestamp"),
        pytest.param(lambda r: r.put_metric("X", -1.0), id="a negative value"),
        pytest.param(lambda r: r.increment_counter("X", value=-1), id="a negative count"),
        pytest.param(lambda r: r.put_metric("two words", 1.0), id="a name OpenTelemetry does not take"),
    ],
)
def test_what_cannot_be_recorded_is_refused_and_said(
    recorder: MeterRecorder,
    reader: otel.InMemoryMetricReader,
    caplog: pytest.LogCaptureFixture,
    record: Callable[[MeterRecorder], bool],
) -> None:
    """False, one line in the log, nothing recorded, nothing raised."""
    with caplog.at_level(logging.WARNING, "retainwise_metrics"):
        assert record(recorder) is False
        assert record(recorder) is False
    assert metrics_of(reader) == {}
    assert len([each for each in caplog.records if each.name == "retainwise_metrics"]) == 1


def test_a_flood_of_names_makes_no_flood_of_instruments(recorder: MeterRecorder) -> None:
    """Instruments live for ever, so their number is bounded."""
    recorder._instruments.update(
        {("counter", f"X{i}", "Count"): lambda *_: None for i in range(integration.INSTRUMENTS)}
    )
    assert recorder.increment_counter("X0")
    assert not recorder.increment_counter("New")


def test_decorators_record_to_a_meter(recorder: MeterRecorder, reader: otel.InMemoryMetricReader) -> None:
    """It is a `Recorder`: whatever takes one takes it."""

    @timed("Work", client=recorder)
    def work() -> None:
        pass

    work()
    (point,) = metrics_of(reader)["work"].data.data_points
    assert point.count == 1


def test_there_and_back_is_the_same(
    client: CloudWatchMetrics, sink: InMemorySink, provider_of: Callable[..., MeterProvider]
) -> None:
    """Recorded to a meter and exported to a client: count, sum and extremes are those of recording directly."""
    provider = provider_of(CloudWatchMetricExporter(client))
    recorder = MeterRecorder(provider.get_meter("m"))
    for index in range(100):
        recorder.record_time("Duration", index / 7)
        recorder.increment_counter("Uploads")
    provider.force_flush()
    counts = values(sink, "duration")
    assert sum(counts.values()) == 100
    assert sum(v * c for v, c in counts.items()) == pytest.approx(4950 / 7, rel=ROUNDING)
    assert (min(counts), max(counts)) == (0.0, 99 / 7)
    assert values(sink, "uploads") == {100.0: 1}
    assert units(sink) == {"duration": "Seconds", "uploads": "Count"}


def test_the_client_of_a_process_may_be_disabled() -> None:
    """Then nothing is recorded, and nothing breaks."""
    client = CloudWatchMetrics(MetricsConfig(enabled=False), sink=InMemorySink())
    exporter = CloudWatchMetricExporter(client)
    assert exporter.export(metrics_data("g", otel.Gauge([number_point(1.0)]))) is FAILURE
    assert exporter.force_flush()
    exporter.shutdown()
