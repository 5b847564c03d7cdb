"""
OpenTelemetry, both ways.

`CloudWatchMetricExporter` sends what OpenTelemetry's instruments record through this library's delivery; `MeterRecorder` sends what is
recorded here to an OpenTelemetry meter.

    reader = PeriodicExportingMetricReader(CloudWatchMetricExporter())
    set_meter_provider(MeterProvider(metric_readers=[reader]))

What becomes of a data point:

1. A monotonic sum is one value, what was added since the last export: `Sum` is right, `SampleCount` counts exports.
2. A gauge, and the level of an up-down counter, is one value.
3. A histogram is one value per bucket that holds something, with the bucket's count. The smallest and the largest value stay as they were.
   All others stand at the same fraction of their bucket, chosen so that they add up to the histogram's sum. So count, sum, minimum and
   maximum are right, and no percentile is further off than its bucket is wide (`stand_ins`).
4. Nothing is guessed: what has to be a difference and is a total is refused, and the log says so.
"""

from __future__ import annotations

import math
import re
import sys
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.sdk.metrics import (
    Counter,
    Histogram,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
)
from opentelemetry.sdk.metrics import export as otel
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation

from retainwise_metrics import checks
from retainwise_metrics.default_client import get_metrics_client
from retainwise_metrics.dimensions.policy import DimensionPolicy
from retainwise_metrics.exceptions import InvalidMetricError
from retainwise_metrics.lifecycle import LIFECYCLE
from retainwise_metrics.pipeline.reporting import Reporter
from retainwise_metrics.units import MetricUnit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.metrics.view import Aggregation

    from retainwise_metrics.namespaces import MetricNamespace
    from retainwise_metrics.service import Recorder
    from retainwise_metrics.units import StorageResolution

DELTA: Final = otel.AggregationTemporality.DELTA
CUMULATIVE: Final = otel.AggregationTemporality.CUMULATIVE

TEMPORALITY: dict[type, otel.AggregationTemporality] = {
    Counter: DELTA,
    ObservableCounter: DELTA,
    Histogram: DELTA,
    UpDownCounter: CUMULATIVE,
    ObservableUpDownCounter: CUMULATIVE,
    ObservableGauge: CUMULATIVE,
}
"""What is counted is asked for as differences, levels as they are: the specification's "delta" preference."""

SHUTDOWN_SECONDS = 5.0
"""Longest that a shutdown waits for delivery, whatever the SDK allows: its default of 30 s would hold up the end of a process."""

LATEST_SECONDS = 30.0
"""A difference is stamped in the middle of its interval, and at most this long before its end, should the process have been frozen."""

REPEATS = 10_000
"""Most occurrences of a histogram that are recorded one by one, where the recorder has no `put_values`."""

PART = 1000
"""Most distinct values that `put_values` takes at once; only a histogram with a thousand explicit bounds has more."""

INSTRUMENTS = 4096
"""Most instruments that a `MeterRecorder` makes: names may come from anywhere."""

NAME = re.compile(r"[A-Za-z][-A-Za-z0-9_./]{0,254}", re.ASCII)
"""Names of instruments (OpenTelemetry specification, "Instrument name syntax"); the Python SDK then writes them in lower case."""

NAMESPACE_ATTRIBUTE = "cloudwatch.namespace"
"""Attribute that carries the namespace of a record that names one: OpenTelemetry has none."""

_UNITS: dict[MetricUnit, str] = {
    MetricUnit.SECONDS: "s",
    MetricUnit.MILLISECONDS: "ms",
    MetricUnit.MICROSECONDS: "us",
    MetricUnit.BYTES: "By",
    MetricUnit.KILOBYTES: "kBy",
    MetricUnit.MEGABYTES: "MBy",
    MetricUnit.GIGABYTES: "GBy",
    MetricUnit.TERABYTES: "TBy",
    MetricUnit.BITS: "bit",
    MetricUnit.KILOBITS: "kbit",
    MetricUnit.MEGABITS: "Mbit",
    MetricUnit.GIGABITS: "Gbit",
    MetricUnit.TERABITS: "Tbit",
    MetricUnit.COUNT: "{Count}",
    MetricUnit.PERCENT: "%",
    MetricUnit.NONE: "1",
}
UCUM: dict[MetricUnit, str] = _UNITS | {
    unit: f"{_UNITS[MetricUnit(unit.value.removesuffix('/Second'))]}/s"
    for unit in MetricUnit
    if unit.value.endswith("/Second")
}
"""How OpenTelemetry spells CloudWatch's units (UCUM, as CloudWatch's own metric streams write them)."""

CONVERTED: dict[str, tuple[MetricUnit, float]] = {
    "ns": (MetricUnit.MICROSECONDS, 1e-3),
    "min": (MetricUnit.SECONDS, 60.0),
    "h": (MetricUnit.SECONDS, 3600.0),
    "d": (MetricUnit.SECONDS, 86_400.0),
    "KiBy": (MetricUnit.BYTES, 1024.0),
    "MiBy": (MetricUnit.BYTES, 1024.0**2),
    "GiBy": (MetricUnit.BYTES, 1024.0**3),
    "TiBy": (MetricUnit.BYTES, 1024.0**4),
}
"""Units that CloudWatch lacks, and the factor that turns them into one it has."""

_KNOWN = {ucum: (unit, 1.0) for unit, ucum in UCUM.items()} | CONVERTED


def unit_of(ucum: str | None, *, counted: bool = False) -> tuple[MetricUnit, float]:
    """
    CloudWatch's unit for one of OpenTelemetry's.

    Args:
        ucum: UCUM text, such as `s`, `By` or `{request}`.
        counted: Whether the values are sums: then a unit that says nothing (`1`, or none) is `Count`.

    Returns:
        The unit and what the values have to be multiplied with; `None` and 1 for what CloudWatch has no unit for.
    """
    text = ucum or "1"
    if text == "1" and counted:
        return MetricUnit.COUNT, 1.0
    if text.startswith("{"):
        if text.endswith("}"):
            return MetricUnit.COUNT, 1.0
        if text.endswith("}/s"):
            return MetricUnit.COUNT_PER_SECOND, 1.0
    return _KNOWN.get(text, (MetricUnit.NONE, 1.0))


# ---- histograms ----


class Bucket(NamedTuple):
    """
    How many values lie between two bounds.

    Attributes:
        low: The lower bound; minus infinity in the first bucket of a histogram with explicit bounds.
        high: The upper bound; infinity in the last.
        held: How many values.
    """

    low: float
    high: float
    held: int


def explicit_buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[Bucket]:
    """
    The buckets of a histogram with explicit bounds that hold something, ascending.
    """
    edges = (-math.inf, *bounds, math.inf)
    return [
        Bucket(low, high, count) for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True) if count > 0
    ]


def exponential_buckets(point: otel.ExponentialHistogramDataPoint) -> list[Bucket]:
    """
    The buckets of an exponential histogram that hold something, ascending; zeros have one without width.
    """
    below = [Bucket(-high, -low, count) for low, high, count in _one_side(point.negative, point.scale)]
    zeros = [Bucket(0.0, 0.0, point.zero_count)] if point.zero_count else []
    return [*reversed(below), *zeros, *_one_side(point.positive, point.scale)]


def _one_side(buckets: Any, scale: int) -> Iterator[Bucket]:
    for index, count in enumerate(buckets.bucket_counts, buckets.offset):
        if count > 0:
            yield Bucket(_bound(index, scale), _bound(index + 1, scale), count)


def _bound(index: int, scale: int) -> float:
    """The lower bound of an exponential bucket: 2 ** (index / 2**scale)."""
    try:
        return float(2.0 ** math.ldexp(index, -scale))
    except OverflowError:
        return sys.float_info.max


def stand_ins(
    buckets: Sequence[Bucket], total: float | None, minimum: float | None, maximum: float | None
) -> dict[float, int]:
    """
    Values, with their counts, that stand for a histogram.

    Each stays in its bucket, so the k-th smallest is less than a bucket's width from the k-th smallest of what was recorded. They add up
    to `total` but for the rounding of floats (a relative 1e-9), because all stand at the same fraction of their buckets, and the fraction
    is solved for: the true sum lies between the sum of all lower and that of all upper bounds.

    The first and the last bucket end at the minimum and the maximum, which are themselves among the values. Without them (a view with
    `record_min_max=False`) a bucket from minus infinity begins at 0, or has no width if it ends below; and one to infinity ends
    where the sum allows. There the error of a percentile has no bound, and if values were negative the sum may be off too.

    Args:
        buckets: Those that hold something, ascending.
        total: The sum of all values; None, or not finite: not known, and values stand in the middle.
        minimum: The smallest value; None, or not finite: not known.
        maximum: The largest value, likewise.
    """
    if not buckets:
        return {}
    left, rest = list(buckets), total if _is_known(total) else None
    values: dict[float, int] = {}
    if _is_known(minimum):
        rest = _single_out(left, 0, minimum, values, rest)
    if left and _is_known(maximum):
        rest = _single_out(left, -1, maximum, values, rest)
    left = _closed([bucket for bucket in left if bucket.held], rest)
    fraction = _fraction(left, rest)
    for low, high, count in left:
        value = min(max((1.0 - fraction) * low + fraction * high, low), high)
        values[value] = values.get(value, 0) + count
    return values


def _is_known(number: float | None) -> bool:
    return number is not None and math.isfinite(number)


def _single_out(
    buckets: list[Bucket], end: int, extreme: Any, values: dict[float, int], rest: float | None
) -> float | None:
    """
    Take one occurrence of the smallest or largest value out of its bucket, which then ends there; returns what is left of the sum.
    """
    low, high, count = buckets[end]
    if not count:
        return rest  # the only value was the minimum, so it is the maximum too
    values[extreme] = values.get(extreme, 0) + 1
    edge = min(max(extreme, low), high)
    buckets[end] = Bucket(edge, high, count - 1) if end == 0 else Bucket(low, edge, count - 1)
    return None if rest is None else rest - extreme


def _closed(buckets: list[Bucket], total: float | None) -> list[Bucket]:
    """
    Give bounds to what has none.
    """
    if not buckets:
        return buckets
    low, high, count = buckets[0]
    if low == -math.inf:
        if high == math.inf:
            mean = 0.0 if total is None else total / count
            return [Bucket(mean, mean, count)]
        buckets[0] = Bucket(min(0.0, high), high, count)
    low, high, count = buckets[-1]
    if high == math.inf:
        others = math.fsum(bucket.low * bucket.held for bucket in buckets[:-1])
        buckets[-1] = Bucket(low, low if total is None else max(low, (total - others) / count), count)
    return buckets


def _fraction(buckets: Sequence[Bucket], total: float | None) -> float:
    if total is None:
        return 0.5
    least = math.fsum(bucket.low * bucket.held for bucket in buckets)
    width = math.fsum((bucket.high - bucket.low) * bucket.held for bucket in buckets)
    return min(max((total - least) / width, 0.0), 1.0) if 0.0 < width < math.inf else 0.5


# ---- from OpenTelemetry ----


class CloudWatchMetricExporter(otel.MetricExporter):
    """
    Sends what OpenTelemetry's instruments record through this library's delivery, for a `PeriodicExportingMetricReader`.

    Attributes become dimensions through the recorder's dimension policy. An export only hands over, and never waits; the client delivers
    at its own pace. Make the exporter before the `MeterProvider`: then the provider's last export, at the end of the process, comes before
    the client is stopped.

    Args:
        metrics: The client, or any other `Recorder`; None is the process-wide client of the moment. It is flushed, and never stopped.
        namespace: Namespace of every metric; None is the recorder's default.
        resource_attributes: Names of the attributes of the resource that become dimensions too, such as `service.name`. Every one of
            them makes each metric's series its own per process or host, and is paid for as such.
        preferred_aggregation: How instruments are aggregated, by class. None: histograms exponentially, which bounds the relative error; a
            view wins over it.
        monotonic: Seconds on a clock that never steps back, for the rate of log lines.
    """

    def __init__(
        self,
        metrics: Recorder | None = None,
        *,
        namespace: MetricNamespace | str | None = None,
        resource_attributes: Iterable[str] = (),
        preferred_aggregation: Mapping[type, Aggregation] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        chosen: Mapping[type, Aggregation] = (
            {Histogram: ExponentialBucketHistogramAggregation()}
            if preferred_aggregation is None
            else preferred_aggregation
        )
        super().__init__(preferred_temporality=dict(TEMPORALITY), preferred_aggregation={**chosen})
        self._metrics = metrics
        self._namespace = namespace
        self._resource_attributes = tuple(resource_attributes)
        self._reporter = Reporter(monotonic)
        self._closed = False
        # What is registered first runs last: the provider, made after this, exports before the client is stopped.
        LIFECYCLE.stop_at_exit()

    def export(
        self,
        metrics_data: otel.MetricsData,
        timeout_millis: float = 10_000,  # noqa: ARG002 - the SDK's interface; nothing here waits
        **_kwargs: object,
    ) -> otel.MetricExportResult:
        """
        Hand data points over; it does not wait for delivery.

        Returns:
            FAILURE when the exporter was shut down or a point was not taken: `stats().dropped` of the client has the reasons, and the log.
            The other points of the export have been taken, and it must not be repeated.
        """
        if self._closed:
            return otel.MetricExportResult.FAILURE
        results = [
            self._take(metric, shared)
            for resource in metrics_data.resource_metrics
            for shared in [self._shared(resource.resource.attributes)]
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        return otel.MetricExportResult.SUCCESS if all(results) else otel.MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """
        Have the client deliver everything it holds.

        Returns:
            Whether nothing is left.
        """
        flush = getattr(self._recorder(), "flush", None)
        return flush is None or bool(flush(max(timeout_millis, 0.0) / 1000.0))

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """
        Take no more, and have the client deliver what it holds, within the timeout and at most `SHUTDOWN_SECONDS`.

        The client goes on: it is the application's.
        """
        if self._closed:
            return
        self._closed = True
        # The SDK's reader says `timeout`, in milliseconds too; only its other name is in the interface.
        allowed = float(kwargs.get("timeout", timeout_millis))
        self.force_flush(min(allowed, SHUTDOWN_SECONDS * 1000.0))

    def _recorder(self) -> Recorder:
        return get_metrics_client() if self._metrics is None else self._metrics

    def _shared(self, attributes: Mapping[str, object]) -> dict[str, object]:
        return {name: attributes[name] for name in self._resource_attributes if name in attributes}

    def _take(self, metric: otel.Metric, shared: Mapping[str, object]) -> bool:
        """
        Record all points of a metric; whether every one was taken.
        """
        data = metric.data
        unit, factor = unit_of(metric.unit, counted=isinstance(data, otel.Sum))
        objection = _objection(data)
        if objection is not None:
            name = checks.discreet(metric.name)
            self._reporter.warn(objection, f"OpenTelemetry metric {name} is not exported: {objection}")
            return False
        is_level = isinstance(data, otel.Gauge) or data.aggregation_temporality is CUMULATIVE
        results = [
            self._put(
                metric.name,
                _scaled(_values_of(point), factor),
                unit,
                _dimensions({**shared, **(point.attributes or {})}),
                point.time_unix_nano / 1e9 if is_level else _middle(point),
            )
            for point in data.data_points
        ]
        return all(results)

    def _put(
        self, name: str, counts: dict[float, int], unit: MetricUnit, dimensions: dict[str, object], timestamp: float
    ) -> bool:
        recorder, where = self._recorder(), self._namespace
        put_values = getattr(recorder, "put_values", None)
        occurrences = sum(counts.values())
        if occurrences > 1 and put_values is not None:
            values = list(counts.items())
            parts = [dict(values[at : at + PART]) for at in range(0, len(values), PART)]
            results = [
                put_values(name, part, unit, namespace=where, dimensions=dimensions, timestamp=timestamp)
                for part in parts
            ]
            return all(results)
        if occurrences > REPEATS:
            self._reporter.warn(
                "repeats",
                f"OpenTelemetry metric {checks.discreet(name)} has {occurrences} values in one point; a"
                f" {type(recorder).__name__} takes them one by one, {REPEATS} at most: export to a CloudWatchMetrics",
            )
            return False
        results = [
            recorder.put_metric(name, value, unit, namespace=where, dimensions=dimensions, timestamp=timestamp)
            for value, count in counts.items()
            for _ in range(count)
        ]
        return all(results)


def _objection(data: Any) -> str | None:
    """
    Why a metric cannot be exported: it is a difference where a total is needed, or the other way round.
    """
    remedy = "leave the temporality that the exporter asks for as it is"
    if isinstance(data, otel.Gauge):
        return None
    if isinstance(data, otel.Sum) and not data.is_monotonic:
        is_level = data.aggregation_temporality is CUMULATIVE
        return None if is_level else f"an up-down counter is published as its level, and this is a change; {remedy}"
    if data.aggregation_temporality is DELTA:
        return None
    return f"a total since the start would be counted again every minute; {remedy}"


def _values_of(point: Any) -> dict[float, int]:
    """
    What a data point becomes: values and counts.
    """
    if isinstance(point, otel.NumberDataPoint):
        return {point.value: 1}
    if isinstance(point, otel.HistogramDataPoint):
        buckets = explicit_buckets(point.explicit_bounds, point.bucket_counts or (point.count,))
    else:
        buckets = exponential_buckets(point)
    return stand_ins(buckets, point.sum, point.min, point.max)


def _scaled(counts: dict[float, int], factor: float) -> dict[float, int]:
    if factor == 1.0:
        return counts
    scaled: dict[float, int] = {}
    for value, count in counts.items():
        scaled[value * factor] = scaled.get(value * factor, 0) + count
    return scaled


def _middle(point: Any) -> float:
    """
    When a point's measurements were made, epoch seconds: the middle of their interval.

    Intervals of a minute begin anywhere in a minute; the middle lies in the minute that holds most of the interval.
    """
    end = point.time_unix_nano / 1e9
    start = (point.start_time_unix_nano or point.time_unix_nano) / 1e9
    return float(end - min(max(end - start, 0.0) / 2.0, LATEST_SECONDS))


def _dimensions(attributes: Mapping[str, object]) -> dict[str, object]:
    """
    Attributes as dimensions: sequences as their items joined by commas; without what CloudWatch has no place for, which is no text.
    """
    found = {
        name: ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        for name, value in attributes.items()
    }
    return {name: value for name, value in found.items() if value is not None and str(value).strip()}


# ---- to OpenTelemetry ----


class MeterRecorder:
    """
    A `Recorder` that sends what is recorded to an OpenTelemetry meter: for decorators, scopes and services that take a `Recorder`.

    It stands where values are recorded and not where batches are sent: OpenTelemetry's instruments take one value at a time and stamp it
    themselves, so minutes that are already folded could only be replayed value by value, late, and into the wrong minute.

    `increment_counter` adds to a counter; `record_time` and `put_metric` record into a histogram, which keeps count, sum, minimum and
    maximum as CloudWatch does; the metrics named in `gauges` are set as gauges. Dimensions go through the policy and become attributes.

    What OpenTelemetry has no place for: a record with a timestamp is refused, since it would count as now; a storage resolution is
    ignored; a negative value is refused unless the metric is a gauge; and the Python SDK writes names in lower case.

    Args:
        meter: From OpenTelemetry's API; with the SDK, its views and limits apply.
        gauges: Names of metrics that are levels.
        policy: What becomes of dimensions; None is the default policy, with a public key.
        monotonic: Seconds on a clock that never steps back, for the rate of log lines.
    """

    def __init__(
        self,
        meter: Meter,
        *,
        gauges: Collection[str] = (),
        policy: DimensionPolicy | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._meter = meter
        self._gauges = frozenset(gauges)
        self._policy = DimensionPolicy() if policy is None else policy
        self._reporter = Reporter(monotonic)
        self._instruments: dict[tuple[str, str, str], Callable[..., None]] = {}

    def put_metric(
        self,
        name: str,
        value: float,
        unit: MetricUnit | str = MetricUnit.NONE,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        timestamp: datetime | float | None = None,
        storage_resolution: StorageResolution | int = 60,  # noqa: ARG002 - OpenTelemetry has no such thing
    ) -> bool:
        """
        Record one value into a histogram, or set the gauge of that name.

        Returns:
            Whether the record was taken; if not, the log says why, at most once a minute.
        """
        return self._record("", name, value, unit, namespace, dimensions, timestamp)

    def increment_counter(
        self,
        name: str,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        value: float = 1,
        timestamp: datetime | float | None = None,
        storage_resolution: StorageResolution | int = 60,  # noqa: ARG002 - as above
    ) -> bool:
        """
        Add to a counter.

        Returns:
            Whether the record was taken.
        """
        return self._record("counter", name, value, MetricUnit.COUNT, namespace, dimensions, timestamp)

    def record_time(
        self,
        name: str,
        seconds: float,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        timestamp: datetime | float | None = None,
        storage_resolution: StorageResolution | int = 60,  # noqa: ARG002 - as above
    ) -> bool:
        """
        Record a duration into a histogram, in seconds.

        Returns:
            Whether the record was taken.
        """
        return self._record("histogram", name, seconds, MetricUnit.SECONDS, namespace, dimensions, timestamp)

    def _record(
        self,
        kind: str,
        name: str,
        value: float,
        unit: MetricUnit | str,
        namespace: MetricNamespace | str | None,
        dimensions: Mapping[str, object] | None,
        timestamp: datetime | float | None,
    ) -> bool:
        try:
            number = checks.checked_value(value)
            if timestamp is not None:
                return self._refuse("timestamp", "a record with a timestamp would count as now; record when it happens")
            kind = kind or ("gauge" if name in self._gauges else "histogram")
            if number < 0 and kind != "gauge":
                return self._refuse("negative", f"a {kind} takes no negative value; name the metric in `gauges`")
            attributes = dict(self._policy.resolve_all(checks.checked_dimensions(dimensions))[0])
            if namespace is not None:
                attributes[NAMESPACE_ATTRIBUTE] = checks.checked_namespace(namespace)
            self._instrument(kind, checks.checked_name(name), checks.checked_unit(unit))(number, attributes)
        except Exception as error:  # noqa: BLE001 - recording never raises; whatever the arguments and the SDK do
            words = str(error) if isinstance(error, InvalidMetricError) else f"{type(error).__name__} was raised"
            return self._refuse(type(error).__name__, words)
        return True

    def _refuse(self, subject: str, why: str) -> bool:
        self._reporter.warn(subject, f"a record was not sent to OpenTelemetry: {why}")
        return False

    def _instrument(self, kind: str, name: str, unit: str) -> Callable[..., None]:
        key = (kind, name, unit)
        known = self._instruments.get(key)
        if known is not None:
            return known
        if len(self._instruments) >= INSTRUMENTS:
            message = f"more than {INSTRUMENTS} metrics are recorded to one meter; use fewer names and more dimensions"
            raise InvalidMetricError(message, field="name")
        if not NAME.fullmatch(name):
            message = (
                f"OpenTelemetry takes letters, digits and _ . - / in a name, not {checks.discreet(name)}; rename it"
            )
            raise InvalidMetricError(message, field="name")
        return self._instruments.setdefault(key, self._made(kind, name, UCUM[MetricUnit(unit)]))

    def _made(self, kind: str, name: str, unit: str) -> Callable[..., None]:
        if kind == "counter":
            return self._meter.create_counter(name, unit).add
        if kind == "gauge":
            return self._meter.create_gauge(name, unit).set
        return self._meter.create_histogram(name, unit).record
