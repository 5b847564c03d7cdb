"""
What stands behind `MetricsService`: the client, or the logger of the embedded metric format.

Application code asks for a `MetricsService` in its constructor and never names a concrete class; where the application
is put together, one of these is chosen::

    metrics: MetricsService = ClientMetrics(get_metrics_client(), namespace="Ticketing")   # PutMetricData
    metrics: MetricsService = EmfMetrics(emf.create_metrics_logger("Ticketing"))           # a line on stdout

Their rules:

1. Nothing waits: the coroutines end in their first step, whether an event loop runs or not.
2. Nothing raises. What a broken recorder or logger raises is said once per adapter in the log. The one exception is
   `InvalidMetricError`, which only a client with `strict=True` raises, and which is what `strict` is for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .checks import type_of
from .exceptions import InvalidMetricError
from .pipeline.reporting import say
from .units import MetricUnit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .namespaces import MetricNamespace
    from .service import Recorder

_COUNT, _MILLISECONDS = MetricUnit.COUNT, MetricUnit.MILLISECONDS


class DocumentLogger(Protocol):
    """
    What `EmfMetrics` needs of `emf.MetricsLogger`.
    """

    def put_metric(
        self, name: str, value: float, unit: str = "Count", *, dimensions: Mapping[str, object] | None = None
    ) -> object:
        """
        Record one value.
        """
        ...

    def set_property(self, key: str, value: object) -> object:
        """
        Attach a property to the documents that follow.
        """
        ...


class _Adapter:
    """
    What both have in common: a voice that is used once.
    """

    __slots__ = ("_complained",)

    def __init__(self) -> None:
        self._complained = False

    def _complain(self, failure: Exception) -> None:
        """
        Say once that recording fails, without the message of the exception: it may hold a dimension value.
        """
        if not self._complained:
            self._complained = True
            say(
                f"recording through {type(self).__name__} failed with {type_of(failure)}: calls go on unmeasured; "
                "this is said once per adapter"
            )


class ClientMetrics(_Adapter):
    """
    A `MetricsService` over the client: counts in `Count`, durations in `Milliseconds`, delivered by `PutMetricData`.

    Args:
        recorder: The client, one of its scopes, or any other `Recorder`.
        namespace: Namespace of every record. None: the recorder's default.
    """

    __slots__ = ("_namespace", "_recorder")

    def __init__(self, recorder: Recorder, namespace: MetricNamespace | str | None = None) -> None:
        super().__init__()
        self._recorder = recorder
        self._namespace = namespace

    async def increment(self, name: str, *, value: float = 1.0, dimensions: Mapping[str, object] | None = None) -> None:
        """
        Count something that happened `value` times.
        """
        self._put(name, value, _COUNT, dimensions)

    async def record_timing(
        self, name: str, *, value_ms: float, dimensions: Mapping[str, object] | None = None
    ) -> None:
        """
        Record how long something took, in milliseconds.
        """
        self._put(name, value_ms, _MILLISECONDS, dimensions)

    def set_property(self, key: str, value: object) -> None:
        """
        Do nothing: `PutMetricData` takes numbers and dimensions, and has no place for a property.

        A property is not made a dimension instead: a new value would be a new metric, and billed as one. Code that
        sets properties runs unchanged here; they are published by `EmfMetrics`.
        """

    def _put(self, name: str, value: float, unit: MetricUnit, dimensions: Mapping[str, object] | None) -> None:
        try:
            self._recorder.put_metric(name, value, unit, namespace=self._namespace, dimensions=dimensions)
        except InvalidMetricError:
            raise
        except Exception as failure:  # noqa: BLE001  # rule 2
            self._complain(failure)


class EmfMetrics(_Adapter):
    """
    A `MetricsService` over `emf.MetricsLogger`: counts in `Count`, durations in `Milliseconds`, published as documents.

    The logger writes when it holds 100 metrics and when it is flushed. Flushing is for whoever begins and ends a unit
    of work (the Lambda decorator of `emf`, a web framework's middleware, a message loop), not for the code in between,
    and so it is the logger's and not part of the service.

    Args:
        logger: An `emf.MetricsLogger`; its namespace and default dimensions apply.
    """

    __slots__ = ("_logger",)

    def __init__(self, logger: DocumentLogger) -> None:
        super().__init__()
        self._logger = logger

    async def increment(self, name: str, *, value: float = 1.0, dimensions: Mapping[str, object] | None = None) -> None:
        """
        Count something that happened `value` times.
        """
        self._put(name, value, _COUNT, dimensions)

    async def record_timing(
        self, name: str, *, value_ms: float, dimensions: Mapping[str, object] | None = None
    ) -> None:
        """
        Record how long something took, in milliseconds.
        """
        self._put(name, value_ms, _MILLISECONDS, dimensions)

    def set_property(self, key: str, value: object) -> None:
        """
        Attach context to the documents that follow in this task or thread: searchable in the logs, never a metric.
        """
        try:
            self._logger.set_property(key, value)
        except Exception as failure:  # noqa: BLE001  # rule 2
            self._complain(failure)

    def _put(self, name: str, value: float, unit: MetricUnit, dimensions: Mapping[str, object] | None) -> None:
        try:
            self._logger.put_metric(name, value, unit.value, dimensions=dimensions)
        except Exception as failure:  # noqa: BLE001  # rule 2
            self._complain(failure)
