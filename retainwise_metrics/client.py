"""
The client: what application code calls.

`put_metric` is the hot path. It handles the ordinary case - a known metric with known dimensions and an ordinary number - in one dict
lookup, one key built from the caller's dimensions and one append to a list; everything else goes to `_record`, which checks, sanitises
and remembers, so that the next call is ordinary.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from . import checks, limits
from .catalogue import CATALOGUE, SELF_METRICS
from .config import MetricsConfig
from .datum import Datum, Series
from .dimensions.policy import DimensionPolicy
from .exceptions import ConfigurationError, InvalidMetricError
from .instruments import Counter, Gauge, Histogram, Level, Timer
from .lifecycle import LIFECYCLE
from .namespaces import MetricNamespace
from .pipeline.circuit_breaker import BreakerPolicy
from .pipeline.intake import COMBINATIONS, LOOKUP_SIZE, Destination, Schema
from .pipeline.pipeline import Pipeline, PipelineSettings
from .pipeline.reporting import say
from .runtime import SystemRuntime
from .scoped import ScopedMetrics
from .self_metrics import SelfMetrics
from .stats import DropReason
from .units import MetricUnit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime
    from types import TracebackType

    from typing_extensions import Self

    from .catalogue import MetricSpec
    from .datum import Counted
    from .runtime import Runtime
    from .sinks.base import Sink
    from .sinks.spool import SpoolSettings
    from .stats import ClientStats, FlushResult, Health
    from .units import StorageResolution

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
_LEAST, _MOST = -int(limits.MAX_VALUE), int(limits.MAX_VALUE)
"""The same for integers: comparing an integer with a float takes twice as long."""
_COUNT, _SECONDS, _NO_UNIT = MetricUnit.COUNT, MetricUnit.SECONDS, MetricUnit.NONE


class Collector:
    """
    Something that is read once a minute instead of being recorded when it happens.

    Args:
        destination: Where the reading goes.
        read: Returns the reading.
        minute: When it was read last, in minutes since the epoch.
    """

    __slots__ = ("destination", "minute", "read")

    def __init__(self, destination: Destination, read: Callable[[], float], minute: float) -> None:
        self.destination = destination
        self.read = read
        self.minute = minute


def _zero() -> float:
    """What a counter reads that is published while nothing happens."""
    return 0


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
        before_send: Asked on the metrics thread about each series of a flush; returns the series, another one (`with_dimensions` makes
            one), or None to withhold its values, which are then counted as `withheld`. What raises counts as None.
        on_drop: Told on the metrics thread why (`DropReason`) and how many measurements were dropped; it must be quick.

    Raises:
        ConfigurationError: The environment holds a wrong setting (only when `config` is None).
    """

    def __init__(
        self,
        config: MetricsConfig | None = None,
        *,
        sink: Sink | None = None,
        runtime: Runtime | None = None,
        before_send: Callable[[Series], Series | None] | None = None,
        on_drop: Callable[[DropReason, int], object] | None = None,
    ) -> None:
        if config is not None and not issubclass(type(config), MetricsConfig):
            message = f"config is {checks.shown(config)}, but must be a MetricsConfig, or None for the environment"
            raise ConfigurationError(message)
        self.config = MetricsConfig.from_env() if config is None else config
        self._runtime = SystemRuntime() if runtime is None else runtime
        self._policy = _policy_for(self.config)
        catalogue = CATALOGUE if self.config.catalogue is None else (*SELF_METRICS, *self.config.catalogue)
        self._specs = {(str(spec.namespace), spec.name): spec for spec in catalogue}
        self._collectors: dict[tuple[Series, ...], Collector] = {}
        self._levels: dict[tuple[Series, ...], Level] = {}
        self._schemas: dict[object, Schema] = {}
        self._uses: dict[object, Schema] = {}
        self._combinations = 0
        self._most_combinations = max(COMBINATIONS, 2 * self.config.max_series)
        self._pipeline = Pipeline(
            _pipeline_settings(self.config),
            _sink_for(self.config, self._pause) if sink is None else sink,
            self._runtime,
            self._collect,
            LIFECYCLE.stop_at_exit,
            before_send=before_send,
            on_drop=on_drop,
        )
        self._intake = self._pipeline.intake
        self._self_metrics = SelfMetrics(self._pipeline, self._record_own) if self.config.self_metrics else None
        if self.config.enabled:
            LIFECYCLE.watch(self)
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
                and (
                    value >= _LOWEST and value <= _HIGHEST  # apart, because CPython specialises that
                    if type(value) is float
                    else type(value) is int and value >= _LEAST and value <= _MOST
                )
                and (len(dimensions) if type(dimensions) is dict else 0 if dimensions is None else -1) == schema.size
            ):
                pending = schema.channels[schema.key_of(dimensions)].pending
                if pending and len(pending) < self._intake.fold_at:
                    pending.append(value)
                    return True
        except Exception:  # noqa: BLE001, S110 - anything unusual is looked at properly below
            pass
        return self._record(name, value, unit, namespace, dimensions, timestamp, storage_resolution)

    def put_values(
        self,
        name: str,
        counts: Mapping[float, int],
        unit: MetricUnit | str = _NO_UNIT,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        timestamp: datetime | float | None = None,
        storage_resolution: StorageResolution | int = 60,
    ) -> bool:
        """
        Record many values at once, each as often as it occurred; otherwise like `put_metric`.

        For what somebody else has already counted, such as a histogram: a million occurrences take no longer than one.

        Args:
            name: Metric name.
            counts: A dict of 1 to 1,000 values, each with its count, a whole number from 1.
            unit: One of CloudWatch's 27 units.
            namespace: None is the configured default.
            dimensions: At most 30.
            timestamp: None is now.
            storage_resolution: 60, or 1 for a high-resolution metric.

        Returns:
            Whether all of them were taken; it is all or none.

        Raises:
            InvalidMetricError: With `strict=True` only.
        """
        return self._record(
            name, counts, unit, namespace, dimensions, timestamp, storage_resolution, checks.checked_counts
        )

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
            Whether CloudWatch, or whatever sink there is, accepted it.

        Raises:
            InvalidMetricError: With `strict=True` only.
        """
        if not self._enabled():
            return False
        try:
            number = checks.checked_value(value)
            wall = self._runtime.wall()
            seconds = wall if timestamp is None else checks.checked_timestamp(timestamp, wall)
            given = checks.checked_dimensions(dimensions)
            destination = self._destination(self._schema(name, unit, namespace, storage_resolution, given), given)
        except Exception as error:  # noqa: BLE001 - as in _record
            return self._refuse(error, name)
        return self._pipeline.send_now(
            tuple(Datum(each, each.window_of(seconds), (float(number),), (1,), 1) for each in destination.series)
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
        spec = self._spec_of(name, namespace)
        if (spec is not None and spec.emits_zero) if emits_zero is None else emits_zero is True:
            self._collect_from(counter, _zero)
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
            self._collect_from(gauge, callback)
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

    def health(self) -> Health:
        """
        What is wrong with delivery, for a readiness probe or a status page: truthy when nothing is. It waits for nobody.

        Not a reason to take a process out of service: it does its work all the same.
        """
        return self._pipeline.health()

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
        for level in self._levels.values():
            level.after_fork()
        if self._self_metrics is not None:
            self._self_metrics.after_fork()
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
        checked: Callable[[object], float | Counted] = checks.checked_value,
    ) -> bool:
        """
        Take any record: check it, find or make its place, remember the way.
        """
        if not self._enabled():
            return False
        try:
            number = checked(value)
            seconds = None if timestamp is None else checks.checked_timestamp(timestamp, self._runtime.wall())
            given = checks.checked_dimensions(dimensions)
            schema = self._schema(name, unit, namespace, resolution, given)
            target = schema.known(given) or self._find(schema, given)
            # Last, and nothing after it: what is refused below must not have been taken here.
            return self._intake.record(target, number, seconds)
        except Exception as error:  # noqa: BLE001 - dimensions, names and values are any objects: whatever they raise is refused
            return self._refuse(error, name)

    def _find(self, schema: Schema, given: dict[str, object]) -> Destination:
        """
        Where these dimension values go. A combination that comes for the second time is remembered for the fast path.
        """
        destination = self._destination(schema, given)
        self._learn(schema)
        if destination.private:
            schema.make_private()
        channel = self._intake.channel_of(destination)
        if channel is not None:
            self._combinations += schema.remember(given, channel)
            if self._combinations >= self._most_combinations:
                self._forget_combinations()
        return destination

    def _forget_combinations(self) -> None:
        """
        Forget those of the metric that has the most: a flood of one metric's identifiers does not slow the others down.
        """
        schemas = list(self._uses.values())
        max(schemas, key=lambda schema: len(schema.channels)).channels.clear()
        self._combinations = sum(len(schema.channels) for schema in schemas)

    def _schema(
        self, name: object, unit: object, namespace: object, resolution: object, given: dict[str, object]
    ) -> Schema:
        """
        How a metric is used, remembered or new; of the dimensions only the names matter.
        """
        checks.checked_resolution(resolution)  # before the look-up, for which True and 1.0 are 1
        names = tuple(given)
        schema: Schema | None = None
        with suppress(Exception):  # besides KeyError: some object has no hash; the checks say what is wrong with it
            schema = self._uses[name, unit, namespace, resolution, names]
            self._schemas[schema.series.name] = schema
        if schema is None:
            schema = self._new_schema(name, unit, namespace, resolution, names)
        schema.unit, schema.namespace, schema.resolution = unit, namespace, resolution
        return schema

    def _new_schema(
        self, name: object, unit: object, namespace: object, resolution: object, names: tuple[str, ...]
    ) -> Schema:
        plain_name, plain_unit = checks.checked_name(name), checks.checked_unit(unit)
        plain_namespace, seconds = self._namespace_text(namespace), checks.checked_resolution(resolution)
        spec = self._specs.get((plain_namespace, plain_name))
        # A unit that is not given is the declared one: an alarm sees only values of the unit it reads.
        declared = spec.unit.value if spec is not None and plain_unit == _NO_UNIT.value else plain_unit
        series = Series(plain_namespace, plain_name, (), declared, seconds)
        use = (plain_name, plain_unit, None if namespace is None else plain_namespace, seconds, names)
        return Schema(series, use, names, private=any(map(self._policy.is_private, names)))

    def _learn(self, schema: Schema) -> None:
        # Names may come from anywhere: a flood of them must not grow these tables for ever.
        if len(self._uses) >= LOOKUP_SIZE:
            self._uses.clear()
            self._schemas.clear()
            self._combinations = 0
        self._uses[schema.use] = schema
        self._schemas[schema.series.name] = schema

    def _namespace_text(self, namespace: object) -> str:
        return self.config.default_namespace if namespace is None else checks.checked_namespace(namespace)

    def _destination(self, schema: Schema, dimensions: Mapping[str, object] | None) -> Destination:
        """
        Sanitise the dimensions, and spread the record over the dimension sets of its metric.
        """
        given: Mapping[str, object] = dimensions or {}
        if self.config.default_dimensions:
            given = {**self.config.default_dimensions, **given}
        pairs, private = self._policy.resolve_all(given)
        series = schema.series
        spec = self._specs.get((series.namespace, series.name))
        if spec is None:
            return Destination((series.with_dimensions(pairs),), private)
        values = dict(pairs)
        sets = [sorted(names) for names in spec.dimension_sets if all(name in values for name in names)]
        if not sets:
            return Destination((series.with_dimensions(pairs),), private)
        return Destination(
            tuple(series.with_dimensions(tuple((name, values[name]) for name in names)) for names in sets), private
        )

    def _refuse(self, error: Exception, name: object) -> bool:
        invalid = self._count_refusal(error, name)
        if self.config.strict:
            raise invalid from None
        return False

    def _count_refusal(self, error: Exception, name: object) -> InvalidMetricError:
        if type(error) is not InvalidMetricError:
            # Somebody's object raised while it was looked at. Its message may hold anything, so only the type is repeated.
            error = InvalidMetricError(f"{checks.shown(error)} was raised while the record was being checked")
        note = f"{error} (metric {checks.discreet(name)})"
        self._intake.refuse(REASONS.get(error.field, DropReason.INTERNAL_ERROR), note=note)
        return error

    # ---- what the rest of the machine asks for ----

    def _enabled(self) -> bool:
        if self.config.enabled:
            return True
        if not self._told_disabled:
            self._told_disabled = True
            say(f"CloudWatch metrics are disabled, nothing is recorded: {self.config.why_disabled()}")
        return False

    def _spec_of(self, name: object, namespace: object) -> MetricSpec | None:
        try:
            return self._specs.get((self._namespace_text(namespace), name))  # type: ignore[arg-type]  # any object
        except Exception:  # noqa: BLE001 - what is wrong with them is said when something is recorded
            return None

    def _pause(self) -> None:
        """
        For the sink, which is made before the pipeline.
        """
        self._pipeline.pause()

    def _collect_from(self, instrument: Counter | Gauge, read: Callable[[], float]) -> bool:
        """
        Record what `read` returns once a minute. For one destination the last `read` counts: it cannot have two levels.
        """
        if not self._enabled():
            return False
        try:
            destination = instrument._resolved()  # noqa: SLF001 - instruments are the client's other half
        except Exception as error:  # noqa: BLE001 - as in _record
            return self._refuse(error, instrument.name)
        if len(self._collectors) >= self.config.max_series and destination.series not in self._collectors:
            note = f"more than max_series={self.config.max_series} gauges and counters are read once a minute"
            self._intake.refuse(DropReason.TOO_MANY_SERIES, note=note)
            return False
        before = self._collectors.get(destination.series)
        minute = -1.0 if before is None else before.minute
        self._collectors[destination.series] = Collector(destination, read, minute)
        self._intake.rouse()
        return True

    def _collect(self, minute: float) -> bool:
        """
        Read what has not been read in this minute; says whether anything was.
        """
        due = [collector for collector in list(self._collectors.values()) if collector.minute != minute]
        for collector in due:
            collector.minute = minute
        self._read(due)
        observed = self._self_metrics is not None and self._self_metrics.record(minute)
        return observed or bool(due)

    def _record_own(self, name: str, value: float, unit: str, dimensions: Mapping[str, str]) -> None:
        schema = self._schema(name, unit, MetricNamespace.METRICS, 60, dict(dimensions))
        self._intake.record(self._destination(schema, dimensions), value, None)

    def _read(self, collectors: Iterable[Collector]) -> None:
        for collector in collectors:
            try:
                reading = collector.read()
            except KeyboardInterrupt:  # only where the caller of flush does the work
                raise
            except BaseException:  # noqa: BLE001 - callbacks are the application's; one that fails must not keep the others from being read
                self._pipeline.reporter.failure("callback", "a gauge's callback raised; its reading is missing")
                continue
            try:
                self._intake.record(collector.destination, checks.checked_value(reading), None)
            except InvalidMetricError as error:
                self._count_refusal(error, collector.destination.series[0].name)

    def _shared_level(self, destination: Destination, level: Level) -> Level:
        """
        The level of a gauge, whichever handle moves it; `level` if it has none yet.
        """
        if len(self._levels) >= self.config.max_series:
            return self._levels.get(destination.series, level)
        return self._levels.setdefault(destination.series, level)


def _policy_for(config: MetricsConfig) -> DimensionPolicy:
    if config.dimension_policy is None:
        return DimensionPolicy(pii_key=config.pii_key)
    # The rules come from the code and the secret from the environment: the one must not silence the other.
    return config.dimension_policy if config.pii_key is None else config.dimension_policy.with_key(config.pii_key)


def _pipeline_settings(config: MetricsConfig) -> PipelineSettings:
    return PipelineSettings(
        batch_size=config.batch_size,
        flush_interval_seconds=config.flush_interval_seconds,
        max_pending_datums=config.max_pending_datums,
        max_series=config.max_series,
        max_series_per_metric=config.max_series_per_metric,
        max_distinct_values=config.max_distinct_values,
        reject_while_open=config.on_open == "reject",
        at_most_once=config.delivery == "at-most-once",
        spool=_spool_settings(config),
        breaker=BreakerPolicy(
            failure_threshold=config.failure_threshold,
            open_seconds=config.open_seconds,
            max_open_seconds=config.max_open_seconds,
        ),
    )


def _spool_settings(config: MetricsConfig) -> SpoolSettings | None:
    if config.spool_dir is None:
        return None
    from .sinks.spool import SpoolSettings

    return SpoolSettings(
        config.spool_dir,
        config.spool_max_bytes,
        config.spool_max_age_seconds,
        f"{config.sink} {config.region} {config.endpoint_url}",
        config.delivery == "at-most-once",
    )


def _sink_for(config: MetricsConfig, pause: Callable[[], None]) -> Sink:
    if config.sink == "memory":
        from .sinks.in_memory import InMemorySink

        return InMemorySink()
    if config.sink == "emf":
        return _stdout_sink(config)
    primary = _cloudwatch_sink(config, pause) if config.sink == "cloudwatch" else _OTHER_SINKS[config.sink](config)
    if config.failover == "none":
        return primary
    from .sinks.failover import FailoverSink

    return FailoverSink(primary, _stdout_sink(config))


def _stdout_sink(config: MetricsConfig) -> Sink:
    from .sinks.emf_stdout import EmfStdoutSink

    return EmfStdoutSink(values=config.emf_values, timeout_seconds=config.read_timeout_seconds)


def _agent_sink(config: MetricsConfig) -> Sink:
    from .sinks.emf_agent import EmfAgentSink
    from .sinks.emf_format import Layout

    return EmfAgentSink(
        config.emf_agent_endpoint,
        layout=Layout(config.emf_values, config.emf_log_group or "", config.emf_log_stream or ""),
        connect_timeout_seconds=config.connect_timeout_seconds,
        write_timeout_seconds=config.read_timeout_seconds,
    )


def _otlp_sink(config: MetricsConfig) -> Sink:
    from .sinks.otlp import OtlpSink
    from .sinks.put_metric_data import Connection

    catalogue = CATALOGUE if config.catalogue is None else config.catalogue
    return OtlpSink(
        Connection(config.region, config.endpoint_url, config.connect_timeout_seconds, config.read_timeout_seconds),
        # What is published as zero is a count of events.
        counters={spec.name for spec in catalogue if spec.emits_zero},
    )


def _cloudwatch_sink(config: MetricsConfig, pause: Callable[[], None]) -> Sink:
    from .sinks.put_metric_data import Connection, PutMetricDataSink

    return PutMetricDataSink(
        Connection(config.region, config.endpoint_url, config.connect_timeout_seconds, config.read_timeout_seconds),
        pause=pause,
    )


_OTHER_SINKS = {"emf-agent": _agent_sink, "otlp": _otlp_sink}
