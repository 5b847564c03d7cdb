"""
What application code depends on, so that it never names a concrete client.

- `Recorder` is what clients, scoped clients and test doubles share; decorators and scopes record through it.
- `MetricsService` is the smaller, asynchronous view that business code asks for in its constructor.
- `NullMetrics` satisfies both and does nothing: the default for code that may run without metrics.

Dimensions are merged here too, because decorators and scopes must agree on what happens to bad ones: they are handed on
untouched, so that the client refuses the record and counts it. Nothing in this module raises.
"""

# ruff: noqa: ARG002  # a no-op takes arguments to ignore them
from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from .limits import DIMENSIONS
from .units import MetricUnit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from typing_extensions import Self  # for type checkers only, which bring their own copy

    from .namespaces import MetricNamespace
    from .units import StorageResolution

_F = TypeVar("_F", bound="Callable[..., object]")


class Recorder(Protocol):
    """
    Whatever takes measurements: it never waits, never raises outside strict mode, and says whether it took the record.

    All three methods share their options. `namespace=None` means the recorder's default namespace, `dimensions=None`
    means no dimensions, `timestamp=None` means now; a `float` timestamp is in seconds since the epoch. A recorder may
    keep the mapping it is given but never changes it.
    """

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
        Record one value, in `unit`.

        Returns:
            Whether the record was taken.
        """
        ...

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
        Record that something happened `value` times, in `Count`.

        Returns:
            Whether the record was taken.
        """
        ...

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
        Record how long something took, in `Seconds`.

        Returns:
            Whether the record was taken.
        """
        ...


class MetricsService(Protocol):
    """
    What business code asks for: count, time, annotate.

    The methods are coroutines so that an implementation may do anything it likes; the ones of this library never wait.
    """

    async def increment(self, name: str, *, value: float = 1.0, dimensions: Mapping[str, object] | None = None) -> None:
        """
        Count something that happened `value` times.
        """
        ...

    async def record_timing(
        self, name: str, *, value_ms: float, dimensions: Mapping[str, object] | None = None
    ) -> None:
        """
        Record how long something took, in milliseconds.
        """
        ...

    def set_property(self, key: str, value: object) -> None:
        """
        Attach context that is worth reading but is not a dimension: a request id, a file name.
        """
        ...


class NullInstrument:
    """
    A counter, gauge, histogram, timer and bound handle at once, none of which records anything.
    """

    __slots__ = ()

    def inc(self, value: float = 1, **_options: object) -> bool:
        """
        Ignore an increment.
        """
        return False

    def dec(self, value: float = 1, **_options: object) -> bool:
        """
        Ignore a decrement.
        """
        return False

    def set(self, value: float, **_options: object) -> bool:
        """
        Ignore a reading.
        """
        return False

    def observe(self, value: float, **_options: object) -> bool:
        """
        Ignore an observation.
        """
        return False

    def bind(self, **_dimensions: object) -> NullInstrument:
        """
        A bound handle that does not record.
        """
        return self

    def __call__(self, function: _F, /) -> _F:
        """The function as it is."""
        return function

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        pass


_NULL_INSTRUMENT = NullInstrument()


class NullMetrics:
    """
    Takes every call and does nothing: the default for code that may run without metrics.

    It is a `MetricsService`, a `Recorder`, and a stand-in for the client's factories and scopes, so one instance will
    do wherever metrics are optional::

        class UploadService:
            def __init__(self, metrics: MetricsService | None = None) -> None:
                self._metrics = metrics or NullMetrics()
    """

    __slots__ = ()

    async def increment(self, name: str, *, value: float = 1.0, dimensions: Mapping[str, object] | None = None) -> None:
        """
        Ignore a count.
        """

    async def record_timing(
        self, name: str, *, value_ms: float, dimensions: Mapping[str, object] | None = None
    ) -> None:
        """
        Ignore a duration.
        """

    def set_property(self, key: str, value: object) -> None:
        """
        Ignore a property.
        """

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
        Ignore a value.

        Returns:
            False: nothing was taken.
        """
        return False

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
        Ignore a value, without a call to AWS.

        Returns:
            False: nothing was sent.
        """
        return False

    def put_values(
        self,
        name: str,
        counts: Mapping[float, int],
        unit: MetricUnit | str = MetricUnit.NONE,
        *,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        timestamp: datetime | float | None = None,
        storage_resolution: StorageResolution | int = 60,
    ) -> bool:
        """
        Ignore many values at once.

        Returns:
            False: nothing was taken.
        """
        return False

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
        Ignore a count.

        Returns:
            False: nothing was taken.
        """
        return False

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
        Ignore a duration.

        Returns:
            False: nothing was taken.
        """
        return False

    def counter(self, name: str, **_options: object) -> NullInstrument:
        """
        A counter that counts nothing.
        """
        return _NULL_INSTRUMENT

    def gauge(self, name: str, callback: Callable[[], float] | None = None, **_options: object) -> NullInstrument:
        """
        A gauge that shows nothing and never calls `callback`.
        """
        return _NULL_INSTRUMENT

    def histogram(self, name: str, unit: MetricUnit | str = MetricUnit.NONE, **_options: object) -> NullInstrument:
        """
        A histogram that observes nothing.
        """
        return _NULL_INSTRUMENT

    def timer(self, name: str, **_options: object) -> NullInstrument:
        """
        A timer that does not time.
        """
        return _NULL_INSTRUMENT

    def scoped(self, dimensions: Mapping[str, object]) -> NullMetrics:
        """
        The same nothing, under more dimensions.
        """
        return self

    def with_tenant(self, tenant_id: object) -> NullMetrics:
        """
        The same nothing, for one tenant.
        """
        return self


def _bounded(inner: object) -> dict[str, object]:
    """
    A mapping as a dict; one dimension more than CloudWatch takes is enough to know that they are too many, and it may be endless.
    """
    if type(inner) is dict:
        return inner
    mapping = cast("Mapping[str, object]", inner)
    return {name: mapping[name] for name in islice(mapping, DIMENSIONS + 1)}


def merge_dimensions(outer: object, inner: object) -> Mapping[str, object]:
    """
    Dimensions of an enclosing scope joined with those of one call; where both name a dimension, the call wins.

    Args:
        outer: The scope's dimensions: a `dict` that nobody changes any more. Anything else is a mistake made earlier.
        inner: The call's dimensions: any mapping, or None for no more than the scope's. Never changed.

    Returns:
        A mapping the caller must not change (it is `outer` itself when there is nothing to add). An argument that
        cannot be merged is returned as it is, whatever its type, so that the recorder refuses it and counts the
        refusal: a record under half of its dimensions would be a wrong number in somebody else's series.
    """
    if inner is None or type(outer) is not dict:
        return outer  # type: ignore[return-value]  # a mistake travels on to whoever counts it
    try:
        return {**outer, **_bounded(inner)}
    except Exception:  # noqa: BLE001  # the caller's mapping may raise anything, and recording never raises
        return inner  # type: ignore[return-value]
