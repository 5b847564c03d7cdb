"""
The recording surface of a client with some dimensions already filled in.

A scope holds two things, the recorder and a finished dictionary; nesting makes a new scope beside the old one instead
of a chain, so recording costs one dictionary union at any depth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from .checks import looks_personal
from .limits import NAME_LENGTH
from .service import Recorder, merge_dimensions
from .units import MetricUnit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from .instruments import Counter, Gauge, Histogram, Timer
    from .namespaces import MetricNamespace
    from .units import StorageResolution


class InstrumentFactory(Protocol):
    """
    Makes instruments that record where it records.
    """

    def counter(
        self,
        name: str,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        emits_zero: bool | None = None,
    ) -> Counter:
        """
        A counter of `name`.
        """
        ...

    def gauge(
        self,
        name: str,
        callback: Callable[[], float] | None = None,
        *,
        unit: MetricUnit | str = MetricUnit.NONE,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
    ) -> Gauge:
        """
        A gauge of `name`.
        """
        ...

    def histogram(
        self,
        name: str,
        unit: MetricUnit | str = MetricUnit.NONE,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
    ) -> Histogram:
        """
        A histogram of `name`, in `unit`.
        """
        ...

    def timer(
        self,
        name: str,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
    ) -> Timer:
        """
        A timer of `name`, in seconds.
        """
        ...


class Scopable(Recorder, InstrumentFactory, Protocol):
    """
    What a scope can be put on: a client, or another scope.
    """

    def put_metric_sync(
        self,
        name: str,
        value: float,
        unit: MetricUnit | str = MetricUnit.NONE,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        timestamp: datetime | float | None = None,
        storage_resolution: StorageResolution | int = 60,
    ) -> bool:
        """
        Send one value now, on the caller's thread.
        """
        ...


def _shown(name: object) -> str:
    """A dimension's name, if it can be one."""
    plain = type(name) is str and len(name) <= NAME_LENGTH and not looks_personal(name)
    return cast("str", name) if plain else "?"


class ScopedMetrics:
    """
    A client whose records all carry the dimensions of this scope.

    A dimension given with a call wins over the scope's; `scoped` and `with_tenant` return a further scope and leave
    this one as it is. A scope is immutable, holds no resources and costs one small dictionary: make one per request,
    tenant or component::

        metrics = client.scoped({"Service": "api"}).with_tenant(tenant_id)
        metrics.increment_counter("UploadSuccess", dimensions={"Endpoint": "/upload"})  # all three dimensions

    Every combination of dimension values is a metric of its own, with its own price, and CloudWatch adds nothing up
    across them: scope by what an alarm or a dashboard reads.

    Args:
        recorder: The client (or scope) that takes the records.
        dimensions: Added to every record; copied, so later changes to the mapping have no effect. Something that is
            not a mapping makes the client refuse, and count, everything recorded through this scope.
    """

    __slots__ = ("_dimensions", "_recorder")

    def __init__(self, recorder: Scopable, dimensions: Mapping[str, object] | None = None) -> None:
        self._recorder = recorder
        self._dimensions = merge_dimensions({}, dimensions)

    def __repr__(self) -> str:
        """The names of the scope's dimensions; the values may be personal data."""
        if type(self._dimensions) is not dict:
            return "ScopedMetrics(not a mapping)"
        return f"ScopedMetrics({', '.join(map(_shown, self._dimensions))})"

    def scoped(self, dimensions: Mapping[str, object]) -> ScopedMetrics:
        """
        A further scope: this one's dimensions and `dimensions`, which win.
        """
        return ScopedMetrics(self._recorder, merge_dimensions(self._dimensions, dimensions))

    def with_tenant(self, tenant_id: object) -> ScopedMetrics:
        """
        A further scope for one tenant, as the dimension `TenantId`.

        Args:
            tenant_id: The raw identifier; the client's dimension policy hashes it before it leaves the process.
        """
        return self.scoped({"TenantId": tenant_id})

    def put_metric(
        self,
        name: str,
        value: float,
        unit: MetricUnit | str = MetricUnit.NONE,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        timestamp: datetime | float | None = None,
        storage_resolution: StorageResolution | int = 60,
    ) -> bool:
        """
        Record one value within this scope, as `Recorder.put_metric` does.

        Returns:
            Whether the record was taken.
        """
        return self._recorder.put_metric(
            name,
            value,
            unit,
            namespace=namespace,
            dimensions=merge_dimensions(self._dimensions, dimensions),
            timestamp=timestamp,
            storage_resolution=storage_resolution,
        )

    def put_metric_sync(
        self,
        name: str,
        value: float,
        unit: MetricUnit | str = MetricUnit.NONE,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        timestamp: datetime | float | None = None,
        storage_resolution: StorageResolution | int = 60,
    ) -> bool:
        """
        Send one value within this scope now, on the caller's thread; for scripts and last words, not for requests.

        Returns:
            Whether AWS accepted it.
        """
        return self._recorder.put_metric_sync(
            name,
            value,
            unit,
            namespace=namespace,
            dimensions=merge_dimensions(self._dimensions, dimensions),
            timestamp=timestamp,
            storage_resolution=storage_resolution,
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
        Count something within this scope, as `Recorder.increment_counter` does.

        Returns:
            Whether the record was taken.
        """
        return self._recorder.increment_counter(
            name,
            namespace=namespace,
            dimensions=merge_dimensions(self._dimensions, dimensions),
            value=value,
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
        Record a duration within this scope, as `Recorder.record_time` does.

        Returns:
            Whether the record was taken.
        """
        return self._recorder.record_time(
            name,
            seconds,
            namespace=namespace,
            dimensions=merge_dimensions(self._dimensions, dimensions),
            timestamp=timestamp,
            storage_resolution=storage_resolution,
        )

    def counter(
        self,
        name: str,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        emits_zero: bool | None = None,
    ) -> Counter:
        """
        The client's counter of `name`, within this scope; with `emits_zero` it also records 0 once a minute.
        """
        return self._recorder.counter(
            name,
            namespace=namespace,
            dimensions=merge_dimensions(self._dimensions, dimensions),
            emits_zero=emits_zero,
        )

    def gauge(
        self,
        name: str,
        callback: Callable[[], float] | None = None,
        *,
        unit: MetricUnit | str = MetricUnit.NONE,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
    ) -> Gauge:
        """
        The client's gauge of `name`, within this scope; with `callback`, the client asks it for the reading.
        """
        return self._recorder.gauge(
            name,
            callback,
            unit=unit,
            namespace=namespace,
            dimensions=merge_dimensions(self._dimensions, dimensions),
        )

    def histogram(
        self,
        name: str,
        unit: MetricUnit | str = MetricUnit.NONE,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
    ) -> Histogram:
        """
        The client's histogram of `name`, in `unit`, within this scope.
        """
        return self._recorder.histogram(
            name, unit, namespace=namespace, dimensions=merge_dimensions(self._dimensions, dimensions)
        )

    def timer(
        self,
        name: str,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
    ) -> Timer:
        """
        The client's timer of `name`, in seconds, within this scope.
        """
        return self._recorder.timer(
            name, namespace=namespace, dimensions=merge_dimensions(self._dimensions, dimensions)
        )
