"""
Counters, gauges, histograms and timers: handles that are made once and used often.

Each is bound to its dimensions: they are sanitised at the first use, never again. `bind` makes a handle with further dimensions::

    uploads = client.counter("UploadSuccess", namespace=MetricNamespace.API)
    for_csv = uploads.bind(Endpoint="/upload")    # keep it, it is the fastest way to record
    for_csv.inc()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import checks, limits
from .decorators import timed
from .exceptions import InvalidMetricError
from .pipeline.intake import FOLD_AT
from .service import merge_dimensions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

    from .client import CloudWatchMetrics
    from .namespaces import MetricNamespace
    from .pipeline.intake import Channel, Destination
    from .units import MetricUnit

_LOWEST, _HIGHEST = -limits.MAX_VALUE, limits.MAX_VALUE


class _Handle:
    """
    What counters, gauges and histograms share: the way from a value to its channel.

    The subclasses repeat the fast path instead of sharing it: a further call would double its cost.
    """

    __slots__ = ("_channel", "_client", "_destination", "_dimensions", "_name", "_namespace", "_pending", "_unit")

    def __init__(
        self,
        client: CloudWatchMetrics,
        name: str,
        unit: MetricUnit | str,
        namespace: MetricNamespace | str | None,
        dimensions: Mapping[str, object] | None,
    ) -> None:
        self._client = client
        self._name = name
        self._unit = unit
        self._namespace = namespace
        self._dimensions = merge_dimensions({}, dimensions)
        self._destination: Destination | None = None
        self._channel: Channel | None = None
        # While it is empty every call takes the slow path, which finds the channel and replaces this list by the channel's own.
        self._pending: list[float] = []

    def bind(self, **dimensions: object) -> Self:
        """
        A handle with further dimensions; those given here win.
        """
        merged = merge_dimensions(self._dimensions, dimensions)
        return type(self)(self._client, self._name, self._unit, self._namespace, merged)

    @property
    def key(self) -> tuple[object, ...]:
        """
        What it measures, to tell two handles for the same thing from two different ones.
        """
        dimensions = self._dimensions if isinstance(self._dimensions, dict) else {}
        return (type(self).__name__, str(self._name), str(self._namespace), tuple(sorted(map(str, dimensions.items()))))

    def __repr__(self) -> str:
        """Kind and name; dimension values may be personal."""
        return f"<{type(self).__name__} {self._name}>"

    def _record(self, value: object) -> bool:
        """
        Take any value; afterwards the fast path works if it can.
        """
        client = self._client
        if not client._enabled():  # noqa: SLF001 - handles are the client's other half
            return False
        try:
            number = checks.checked_value(value)
            channel = self._channel
            if channel is not None and not channel.retired:
                return client._intake.record(channel, number, None)  # noqa: SLF001
            return self._find_and_record(number)
        except Exception as error:  # noqa: BLE001 - as in CloudWatchMetrics._record
            return client._refuse(error)  # noqa: SLF001

    def _find_and_record(self, number: float) -> bool:
        client, dimensions = self._client, self._dimensions
        if self._destination is None:
            schema = client._schema(self._name, self._unit, self._namespace, 60, dimensions)  # noqa: SLF001
            self._destination = client._destination(schema, dimensions)  # noqa: SLF001
        intake = client._intake  # noqa: SLF001
        taken = intake.record(intake.channel_of(self._destination) or self._destination, number, None)
        channel = intake.channel_of(self._destination)
        if channel is not None:
            self._channel = channel
            self._pending = channel.pending
        return taken


class Counter(_Handle):
    """
    Counts what happens; it only goes up. Recorded in `Count`; the sum per period is what it says.
    """

    __slots__ = ()

    def inc(self, value: float = 1) -> bool:
        """
        Count `value` more, at least 0.

        Returns:
            Whether it was taken.

        Raises:
            InvalidMetricError: With `strict=True` only: not a number, or negative.
        """
        if (type(value) is int or type(value) is float) and 0 <= value <= _HIGHEST:
            pending = self._pending
            if 0 < len(pending) < FOLD_AT:
                pending.append(value)
                return True
        return self._count(value)

    def _count(self, value: object) -> bool:
        try:
            negative = value < 0  # type: ignore[operator]  # any object; what cannot be compared is refused in _record
        except Exception:  # noqa: BLE001
            negative = False
        if negative is True and self._client.config.enabled:
            message = f"counter {checks.shown(self._name)} cannot go down by {checks.shown(value)}; use a gauge"
            return self._client._refuse(InvalidMetricError(message, field="value"))  # noqa: SLF001
        return self._record(value)


class Histogram(_Handle):
    """
    Collects values whose distribution matters: durations, sizes, confidences. Every percentile survives.
    """

    __slots__ = ()

    def observe(self, value: float) -> bool:
        """
        Record one value.

        Returns:
            Whether it was taken.

        Raises:
            InvalidMetricError: With `strict=True` only: not a finite number in range.
        """
        if (type(value) is float or type(value) is int) and _LOWEST <= value <= _HIGHEST:
            pending = self._pending
            if 0 < len(pending) < FOLD_AT:
                pending.append(value)
                return True
        return self._record(value)


class Gauge(_Handle):
    """
    A level that goes up and down: a queue's length, jobs under way.

    `set` records the level each time. After `inc` or `dec` the level is kept here and recorded once a minute, so that counting jobs in
    and out costs nothing per job on the bill; a level that is only ever moved this way starts from 0.
    """

    __slots__ = ("_changes", "_level")

    def __init__(
        self,
        client: CloudWatchMetrics,
        name: str,
        unit: MetricUnit | str,
        namespace: MetricNamespace | str | None,
        dimensions: Mapping[str, object] | None,
    ) -> None:
        super().__init__(client, name, unit, namespace, dimensions)
        self._level = 0.0
        # Changes are appended (atomic) and added up by whoever reads: no lock, and none is lost between threads.
        self._changes: list[float] | None = None

    def set(self, value: float) -> bool:
        """
        Record the level.

        Returns:
            Whether it was taken.

        Raises:
            InvalidMetricError: With `strict=True` only: not a finite number in range.
        """
        if self._changes is not None and self._is_number(value):
            self._changes.clear()
            self._level = value
        if (type(value) is float or type(value) is int) and _LOWEST <= value <= _HIGHEST:
            pending = self._pending
            if 0 < len(pending) < FOLD_AT:
                pending.append(value)
                return True
        return self._record(value)

    def inc(self, value: float = 1) -> bool:
        """
        Raise the level; it is recorded once a minute.

        Returns:
            Whether the change was taken.
        """
        return self._change(value, 1)

    def dec(self, value: float = 1) -> bool:
        """
        Lower the level; it is recorded once a minute.

        Returns:
            Whether the change was taken.
        """
        return self._change(value, -1)

    def _change(self, value: float, sign: int) -> bool:
        if not self._client.config.enabled or not self._is_number(value):
            return self._record(value) and False
        if self._changes is None:
            self._changes = []
            self._client._collect_from(self, self._record_level)  # noqa: SLF001
        self._changes.append(sign * value)
        return True

    def _record_level(self) -> bool:
        changes = self._changes or []
        seen = len(changes)
        self._level += sum(changes[:seen])
        del changes[:seen]
        return self._record(self._level)

    @staticmethod
    def _is_number(value: object) -> bool:
        return (type(value) is float or type(value) is int) and _LOWEST <= value <= _HIGHEST


class Timer(timed):
    """
    Records how long a `with` block or a call takes, in seconds: `timed` with its client given. `client.timer(...)` makes one.
    """

    __slots__ = ()
