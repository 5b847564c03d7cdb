"""
The client: what application code calls.

`put_metric` is the hot path. It handles the ordinary case - a known metric with known dimensions and an ordinary number - in one dict
lookup, one key built from the caller's dimensions and one append to a list; everything else goes to `_record`, which checks, sanitises
and remembers, so that the next call is ordinary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from . import checks, limits
from .catalogue import CATALOGUE
from .config import MetricsConfig
from .datum import Datum, Series
from .dimensions.policy import DimensionPolicy
from .exceptions import InvalidMetricError
from .instruments import Counter, Gauge, Histogram, Timer
from .pipeline.circuit_breaker import BreakerPolicy
from .pipeline.intake import FOLD_AT, LOOKUP_SIZE, Destination, Schema
from .pipeline.pipeline import Pipeline, PipelineSettings
from .pipeline.reporting import logger
from .runtime import SystemRuntime
from .scoped import ScopedMetrics
from .stats import DropReason
from .units import MetricUnit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from types import TracebackType

    from typing_extensions import Self

    from .namespaces import MetricNamespace
    from .pipeline.intake import Channel
    from .runtime import Runtime
    from .sinks.base import Sink
    from .stats import ClientStats, FlushResult
    from .units import StorageResolution

    C = TypeVar("C")

REASONS = {
    "name": DropReason.INVALID_NAME,
    "value": DropReason.INVALID_VALUE,
    "unit": DropReason.INVALID_UNIT,
    "namespace": DropReason.INVALID_NAMESPACE,
    "dimensions": DropReason.INVALID_DIMENSIONS,
    "timestamp": DropReason.INVALID_TIMESTAMP,
    "storage_resolution": DropReason.INVALID_STORAGE_RESOLUTION,
}

_LOWEST, _HIGHEST = -limits.MAX_VALUE, limits.MAX_VALUE
_COUNT, _SECONDS, _NO_UNIT = MetricUnit.COUNT, MetricUnit.SECONDS, MetricUnit.NONE


class CloudWatchMetrics:
    """
    Records measurements and delivers them to CloudWatch from a background thread.

    Making one starts nothing: no thread, no socket, no boto3 import. The first record does. Recording never waits and, unless
    `config.strict`, never raises: a bad record returns False, is counted by reason in `stats()` and explained in the log at most once a
    minute.

    Args:
        config: Settings; None reads the environment (`MetricsConfig.from_env()`).
        sink: Where batches go; None makes the one `config.sink` names.
        runtime: Clocks, randomness and threads; None is the real ones.

    Raises:
        ConfigurationError: The environment holds a wrong setting (only when `config` is None).
    """

    def __init__(
        self, config: MetricsConfig | None = None, *, sink: Sink | None = None, runtime: Runtime | None = None
    ) -> None:
        self.config = MetricsConfig.from_env() if config is None else config
        self._runtime = runtime or SystemRuntime()
        self._policy = self.config.dimension_policy or DimensionPolicy(pii_key=self.config.pii_key)
        catalogue = CATALOGUE if self.config.catalogue is None else self.config.catalogue
        self._dimension_sets = {(str(spec.namespace), spec.name): spec for spec in catalogue}
        self._collectors: dict[object, Callable[[], object]] = {}
        self._schemas: dict[object, Schema] = {}
        self._uses: dict[object, Schema] = {}
        self._pipeline = Pipeline(
            _pipeline_settings(self.config),
            _sink_for(self.config) if sink is None else sink,
            self._runtime,
            self._collect,
            self._started,
        )
        self._intake = self._pipeline.intake
        self._told_disabled = False

    # ---- recording ----

    def put_metric(
        self,
        name: str,
        value: float,
        unit: MetricUnit | str = _NO_UNIT,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        timestamp: datetime | float | None = None,
        storage_resolution: StorageResolution | int = 60,
    ) -> bool:
        """
        Record one value.

        Args:
            name: Metric name, 1 to 255 printable ASCII characters.
            value: A finite number between -2**360 and 2**360; numpy numbers and `Decimal` are taken.
            unit: One of CloudWatch's 27 units.
            namespace: None is the configured default.
            dimensions: At most 30; values are bucketed, hashed or turned into text by the dimension policy.
            timestamp: Aware datetime, naive datetime (taken as UTC) or epoch seconds, from two weeks back to two hours ahead; None is now.
            storage_resolution: 60, or 1 for a high-resolution metric.

        Returns:
            Whether the value was taken. If not, `stats().dropped` says why.

        Raises:
            InvalidMetricError: With `strict=True` only: something is against the rules of CloudWatch.
        """
        try:
            schema = self._schemas[name]
            if (
                unit is schema.unit
                and namespace is schema.namespace
                and timestamp is None
                and storage_resolution is schema.resolution
                and (type(value) is float or type(value) is int)
                and _LOWEST <= value <= _HIGHEST
                and (len(dimensions) if dimensions else 0) == schema.size
            ):
                pending = schema.channels[schema.key_of(dimensions)].pending
                if 0 < len(pending) < FOLD_AT:
                    pending.append(value)
                    return True
        except Exception:  # noqa: BLE001, S110 - anything unusual is looked at properly below
            pass
        return self._record(name, value, unit, namespace, dimensions, timestamp, storage_resolution)

    def increment_counter(
        self,
        name: str,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        value: float = 1,
        timestamp: datetime | float | None = None,
        storage_resolution: StorageResolution | int = 60,
    ) -> bool:
        """
        Record that something happened `value` times, in `Count`; otherwise like `put_metric`.
        """
        return self.put_metric(
            name,
            value,
            _COUNT,
            namespace=namespace,
            dimensions=dimensions,
            timestamp=timestamp,
            storage_resolution=storage_resolution,
        )

    def record_time(
        self,
        name: str,
        seconds: float,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        timestamp: datetime | float | None = None,
        storage_resolution: StorageResolution | int = 60,
    ) -> bool:
        """
        Record how long something took, in `Seconds`; otherwise like `put_metric`.
        """
        return self.put_metric(
            name,
            seconds,
            _SECONDS,
            namespace=namespace,
            dimensions=dimensions,
            timestamp=timestamp,
            storage_resolution=storage_resolution,
        )

    def put_metric_sync(
        self,
        name: str,
        value: float,
        unit: MetricUnit | str = _NO_UNIT,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        timestamp: datetime | float | None = None,
        storage_resolution: StorageResolution | int = 60,
    ) -> bool:
        """
        Send one value now, on the caller's thread, through the breaker; it waits for the network and does not retry.

        For what must be known to have arrived: a drill, a deployment marker, the last word of a process. Everything else belongs into
        `put_metric`. Not for signal handlers.

        Returns:
            Whether CloudWatch accepted it.

        Raises:
            InvalidMetricError: With `strict=True` only.
        """
        if not self._enabled():
            return False
        try:
            number = checks.checked_value(value)
            schema = self._schema(name, unit, namespace, storage_resolution, dimensions)
            destination = self._destination(schema, dimensions)
            wall = self._runtime.wall()
            seconds = wall if timestamp is None else checks.checked_timestamp(timestamp, wall)
        except Exception as error:  # noqa: BLE001 - as in _record
            return self._refuse(error)
        series = destination.series
        return self._pipeline.send_now(
            tuple(Datum(each, each.window_of(seconds), (float(number),), (1,), 1) for each in series)
        )

    # ---- instruments ----

    def counter(
        self,
        name: str,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        emits_zero: bool | None = None,
    ) -> Counter:
        """
        A counter: it only goes up.

        Args:
            name: Metric name.
            namespace: None is the configured default.
            dimensions: Dimensions of every increment.
            emits_zero: Also record 0 once a minute, so that an alarm always has data; None: as the catalogue says.
        """
        counter = Counter(self, name, _COUNT, namespace, dimensions)
        if emits_zero is None:
            spec = self._dimension_sets.get((self._namespace_text(namespace), name))
            emits_zero = spec is not None and spec.emits_zero
        if emits_zero:
            self._collect_from(counter, lambda: counter.inc(0))
        return counter

    def gauge(
        self,
        name: str,
        callback: Callable[[], float] | None = None,
        *,
        unit: MetricUnit | str = _NO_UNIT,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
    ) -> Gauge:
        """
        A gauge: a level that goes up and down.

        Args:
            name: Metric name.
            callback: Called once a minute, on the background thread, for the level; it must be quick. None: the code calls `set`.
            unit: One of CloudWatch's 27 units.
            namespace: None is the configured default.
            dimensions: Dimensions of every reading.
        """
        gauge = Gauge(self, name, unit, namespace, dimensions)
        if callback is not None:
            self._collect_from(gauge, lambda: gauge.set(callback()))
        return gauge

    def histogram(
        self,
        name: str,
        unit: MetricUnit | str = _NO_UNIT,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
    ) -> Histogram:
        """
        A histogram: values whose percentiles matter.
        """
        return Histogram(self, name, unit, namespace, dimensions)

    def timer(
        self,
        name: str,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
    ) -> Timer:
        """
        A timer: a `with` block or a decorator that records seconds.
        """
        return Timer(name, client=self, namespace=namespace, dimensions=dimensions)

    def scoped(self, dimensions: Mapping[str, object]) -> ScopedMetrics:
        """
        The same recording surface with these dimensions on every record.
        """
        return ScopedMetrics(self, dimensions)

    def with_tenant(self, tenant_id: object) -> ScopedMetrics:
        """
        The same recording surface with `TenantId` on every record, hashed into a bucket by the default policy.
        """
        return ScopedMetrics(self).with_tenant(tenant_id)

    # ---- lifecycle ----

    def start(self) -> None:
        """
        Start the background thread now instead of with the first record; after `stop`, start again.
        """
        if self._enabled():
            self._pipeline.start()

    def flush(self, timeout: float = 5.0) -> FlushResult:
        """
        Deliver everything recorded so far, waiting at most `timeout` seconds.

        Returns:
            What was delivered and dropped meanwhile and what is still pending; truthy when nothing is.
        """
        return self._pipeline.flush(timeout)

    def stop(self, timeout: float = 5.0) -> FlushResult:
        """
        Deliver what can be delivered in `timeout` seconds and end the background thread.

        Later records return False and are counted as `stopped`. What is then still undelivered is counted as `shutdown`, unless the
        thread hangs in a call: then it stays `pending`, because it may yet arrive.
        """
        return self._pipeline.stop(timeout)

    @property
    def stopped(self) -> bool:
        """
        Whether `stop` was called and `start` has not been called since.
        """
        return self._pipeline.stopped

    async def aflush(self, timeout: float = 5.0) -> FlushResult:
        """
        `flush` without blocking the event loop.
        """
        import asyncio

        return await asyncio.to_thread(self.flush, timeout)

    async def astop(self, timeout: float = 5.0) -> FlushResult:
        """
        `stop` without blocking the event loop.
        """
        import asyncio

        return await asyncio.to_thread(self.stop, timeout)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop, within the configured shutdown time."""
        self.stop(self.config.shutdown_timeout_seconds)

    def stats(self) -> ClientStats:
        """
        The ledger and the state of delivery, as one consistent value.
        """
        return self._pipeline.stats()

    def force_open(self) -> None:
        """
        Operators: make no calls until `reset_breaker`. Records are held (or refused, with `on_open="reject"`).
        """
        self._pipeline.operate(self._pipeline.breaker.force_open)

    def disable_breaker(self) -> None:
        """
        Operators: call CloudWatch whatever happens, until `reset_breaker`.
        """
        self._pipeline.operate(self._pipeline.breaker.disable)

    def reset_breaker(self) -> None:
        """
        Operators: close the breaker and let it decide by itself again.
        """
        self._pipeline.operate(self._pipeline.breaker.automatic)

    def after_fork(self) -> None:
        """
        Start empty in a child process. Called by itself where `os.register_at_fork` exists.
        """
        self._pipeline.after_fork()

    def __repr__(self) -> str:
        """Namespace, sink and state; no secrets."""
        state = self.stats().breaker_state if self.config.enabled else "disabled"
        return f"<CloudWatchMetrics {self.config.default_namespace} sink={self.config.sink} breaker={state}>"

    # ---- behind the hot path ----

    def _record(
        self,
        name: object,
        value: object,
        unit: object,
        namespace: object,
        dimensions: Mapping[str, object] | None,
        timestamp: object,
        resolution: object,
    ) -> bool:
        """
        Take any record: check it, find or make its place, remember the way.
        """
        if not self._enabled():
            return False
        try:
            number = checks.checked_value(value)
            seconds = None if timestamp is None else checks.checked_timestamp(timestamp, self._runtime.wall())
            schema = self._schema(name, unit, namespace, resolution, dimensions)
            channel = self._known_channel(schema, dimensions)
            if channel is not None:
                return self._intake.record(channel, number, seconds)
            destination = self._destination(schema, dimensions)
            target = self._intake.channel_of(destination) or destination
            taken = self._intake.record(target, number, seconds)
            self._remember(schema, dimensions, destination)
        except Exception as error:  # noqa: BLE001 - dimensions, names and values are any objects: whatever they raise is refused
            return self._refuse(error)
        return taken

    def _schema(
        self,
        name: object,
        unit: object,
        namespace: object,
        resolution: object,
        dimensions: Mapping[str, object] | None,
    ) -> Schema:
        names = tuple(dimensions) if dimensions else ()
        use = (name, unit, namespace, resolution, names)
        try:
            schema = self._uses.get(use)
        except TypeError:  # something in it is not hashable; the checks say what
            schema = None
        if schema is None:
            schema = self._new_schema(use)
        self._schemas[name] = schema
        return schema

    def _new_schema(self, use: tuple[object, object, object, object, tuple[str, ...]]) -> Schema:
        name, unit, namespace, resolution, names = use
        series = Series(
            self._namespace_text(namespace),
            checks.checked_name(name),
            (),
            checks.checked_unit(unit),
            checks.checked_resolution(resolution),
        )
        private = any(isinstance(each, str) and self._policy.is_private(each) for each in names)
        schema = Schema(series, use[1:4], names, private=private)
        # Names may come from anywhere: a flood of them must not grow these tables for ever.
        if len(self._uses) >= LOOKUP_SIZE:
            self._uses.clear()
            self._schemas.clear()
        self._uses[use] = schema
        return schema

    def _namespace_text(self, namespace: object) -> str:
        return self.config.default_namespace if namespace is None else checks.checked_namespace(namespace)

    def _known_channel(self, schema: Schema, dimensions: Mapping[str, object] | None) -> Channel | None:
        try:
            channel = schema.channels[schema.key_of(dimensions)]
        except (KeyError, TypeError):
            return None
        return None if channel.retired else channel

    def _destination(self, schema: Schema, dimensions: Mapping[str, object] | None) -> Destination:
        """
        Sanitise the dimensions, and spread the record over the dimension sets of its metric.
        """
        given: Mapping[str, object] = dimensions or {}
        if self.config.default_dimensions:
            given = {**self.config.default_dimensions, **given}
        pairs, private = self._policy.resolve_all(given)
        series = schema.series
        spec = self._dimension_sets.get((series.namespace, series.name))
        if spec is None:
            return Destination((series.with_dimensions(pairs),), private)
        values = dict(pairs)
        sets = [sorted(names) for names in spec.dimension_sets if all(name in values for name in names)]
        if not sets:
            return Destination((series.with_dimensions(pairs),), private)
        return Destination(
            tuple(series.with_dimensions(tuple((name, values[name]) for name in names)) for names in sets), private
        )

    def _remember(self, schema: Schema, dimensions: Mapping[str, object] | None, destination: Destination) -> None:
        if destination.private:
            schema.make_private()
        channel = self._intake.channel_of(destination)
        if channel is not None and schema.series.resolution != 1:
            schema.remember(dimensions, channel)

    def _refuse(self, error: Exception) -> bool:
        if isinstance(error, InvalidMetricError):
            self._intake.refuse(REASONS.get(error.field, DropReason.INTERNAL_ERROR), note=str(error))
            if self.config.strict:
                raise error
            return False
        # Somebody's object raised while it was looked at. Its message may hold anything, so only the type is repeated.
        note = f"a {type(error).__name__} was raised while the record was being checked"
        self._intake.refuse(DropReason.INTERNAL_ERROR, note=note)
        if self.config.strict:
            raise InvalidMetricError(note) from error
        return False

    # ---- what the rest of the machine asks for ----

    def _enabled(self) -> bool:
        if self.config.enabled:
            return True
        if not self._told_disabled:
            self._told_disabled = True
            logger().warning(
                "CloudWatch metrics are disabled (ENVIRONMENT=%s): nothing is recorded. Set ENVIRONMENT to the name of the deployment,"
                " or FORCE_CLOUDWATCH=true, to record.",
                self.config.environment,
            )
        return False

    def _collect_from(self, instrument: Counter | Gauge, read: Callable[[], object]) -> None:
        # Keyed by what it measures: making the same counter twice does not record its zero twice.
        self._collectors[instrument.key] = read
        self.start()

    def _collect(self) -> None:
        for read in list(self._collectors.values()):
            try:
                read()
            except Exception:  # noqa: BLE001 - callbacks are the application's; one that fails must not keep the others from being read
                self._pipeline.reporter.failure("callback", "a gauge's callback raised; its reading is missing")

    def _started(self) -> None:
        from .lifecycle import LIFECYCLE

        LIFECYCLE.watch(self)


def _pipeline_settings(config: MetricsConfig) -> PipelineSettings:
    return PipelineSettings(
        batch_size=config.batch_size,
        flush_interval_seconds=config.flush_interval_seconds,
        max_pending_datums=config.max_pending_datums,
        max_series=config.max_series,
        max_series_per_metric=config.max_series_per_metric,
        max_distinct_values=config.max_distinct_values,
        reject_while_open=config.on_open == "reject",
        breaker=BreakerPolicy(
            failure_threshold=config.failure_threshold,
            open_seconds=config.open_seconds,
            max_open_seconds=config.max_open_seconds,
        ),
    )


def _sink_for(config: MetricsConfig) -> Sink:
    if config.sink == "memory":
        from .sinks.in_memory import InMemorySink

        return InMemorySink()
    from .sinks.put_metric_data import Connection, PutMetricDataSink

    return PutMetricDataSink(
        Connection(config.region, config.endpoint_url, config.connect_timeout_seconds, config.read_timeout_seconds)
    )
