"""
Counters, gauges, histograms and timers: handles that are made once and used often.

Each is bound to its dimensions: they are sanitised at the first use, never again. `bind` makes a handle with further dimensions::

    uploads = client.counter("UploadSuccess", namespace=MetricNamespace.API)
    for_csv = uploads.bind(Endpoint="/upload")    # keep it, it is the fastest way to record
    for_csv.inc()
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from . import checks, limits
from .decorators import timed
from .exceptions import InvalidMetricError
from .pipeline.intake import FOLD_AT
from .runtime import AT_ONCE
from .service import merge_dimensions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

    from .client import CloudWatchMetrics
    from .namespaces import MetricNamespace
    from .pipeline.intake import Destination
    from .units import MetricUnit

_ONE = 1
_LOWEST, _HIGHEST = -limits.MAX_VALUE, limits.MAX_VALUE
_LEAST, _MOST = -int(limits.MAX_VALUE), int(limits.MAX_VALUE)
"""The same for integers: comparing an integer with a float takes twice as long."""


class _Handle:
    """
    What counters, gauges and histograms share: the way from a value to where it is recorded.

    The subclasses repeat the fast path instead of sharing it: a further call would double its cost.
    """

    __slots__ = ("_client", "_destination", "_dimensions", "_namespace", "_pending", "_unit", "name")

    def __init__(
        self,
        client: CloudWatchMetrics,
        name: str,
        unit: MetricUnit | str,
        namespace: MetricNamespace | str | None,
        dimensions: Mapping[str, object] | None,
    ) -> None:
        self._client = client
        self.name = name
        self._unit = unit
        self._namespace = namespace
        self._dimensions = _copied(dimensions)
        self._destination: Destination | None = None
        # While it is empty every call takes the slow path, which replaces this list by that of the destination's channel.
        self._pending: list[float] = []

    def bind(self, **dimensions: object) -> Self:
        """
        A handle with further dimensions; those given here win.
        """
        merged = merge_dimensions(self._dimensions, dimensions)
        return type(self)(self._client, self.name, self._unit, self._namespace, merged)

    def __repr__(self) -> str:
        """Kind and name; dimension values may be personal."""
        return f"<{type(self).__name__} {checks.discreet(self.name)}>"

    def _resolved(self) -> Destination:
        """
        Where it records, its dimensions sanitised; found out once.

        Raises:
            InvalidMetricError: Its name, unit, namespace or dimensions break a rule of the API.
        """
        if self._destination is None:
            client, given = self._client, checks.checked_dimensions(self._dimensions)
            schema = client._schema(self.name, self._unit, self._namespace, 60, given)  # noqa: SLF001 - handles are the client's other half
            self._destination = client._destination(schema, given)  # noqa: SLF001
        return self._destination

    def _record(self, value: object) -> bool:
        """
        Take any value; afterwards the fast path works if it can.
        """
        client = self._client
        if not client._enabled():  # noqa: SLF001
            return False
        try:
            return self._take(checks.checked_value(value))
        except Exception as error:  # noqa: BLE001 - as in CloudWatchMetrics._record
            return client._refuse(error, self.name)  # noqa: SLF001

    def _take(self, number: float) -> bool:
        intake, destination = self._client._intake, self._resolved()  # noqa: SLF001
        channel = intake.channel_of(destination)
        if channel is not None:
            self._pending = channel.pending
        return intake.record(channel or destination, number, None)


def _copied(dimensions: Mapping[str, object] | None) -> Mapping[str, object]:
    """What is not a mapping is kept, so that each record with it is refused and counted."""
    try:
        return checks.checked_dimensions(dimensions)
    except InvalidMetricError:
        return dimensions  # type: ignore[return-value]


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
        # Nearly every increment is the default, and asking for that is cheaper than comparing.
        if value is _ONE or (
            value >= 0 and value <= _MOST
            if type(value) is int
            else type(value) is float and value >= 0.0 and value <= _HIGHEST
        ):
            pending = self._pending
            if pending and len(pending) < self._client._intake.fold_at:  # noqa: SLF001
                pending.append(value)
                return True
        return self._record(value)

    def _take(self, number: float) -> bool:
        if number < 0:
            message = f"value {checks.shown(number)} would make a counter go down; give 0 or more, or use a gauge"
            raise InvalidMetricError(message, field="value")
        return super()._take(number)


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
        if (
            value >= _LOWEST and value <= _HIGHEST
            if type(value) is float
            else type(value) is int and value >= _LEAST and value <= _MOST
        ):
            pending = self._pending
            if pending and len(pending) < self._client._intake.fold_at:  # noqa: SLF001
                pending.append(value)
                return True
        return self._record(value)


class Level:
    """
    The level of a gauge that is moved: the sum of its terms. Any thread adds terms, none waits.
    """

    __slots__ = ("_adding_up", "_terms")

    def __init__(self) -> None:
        self._terms: list[float] = [0]
        self._adding_up = threading.Lock()

    def set(self, value: float) -> None:
        """
        Start anew from `value`. A change that another thread makes at this moment comes before it.
        """
        self._terms = [value]

    def change(self, difference: float) -> None:
        """
        Add `difference`.
        """
        terms = self._terms
        terms.append(difference)
        if len(terms) >= FOLD_AT:
            (mine,) = map(self._adding_up.acquire, AT_ONCE)
            if mine:
                try:
                    # The copy and the replacement are each atomic, and what is appended in between stays behind the sum.
                    seen = terms.copy()
                    terms[: len(seen)] = [sum(seen)]
                finally:
                    self._adding_up.release()

    def read(self) -> float:
        """
        The level now.
        """
        return sum(self._terms.copy())

    def after_fork(self) -> None:
        """
        Start from 0 in a child: what the parent counted in, the parent counts out.
        """
        self._terms = [0]
        self._adding_up = threading.Lock()


class Gauge(_Handle):
    """
    A level that goes up and down: a queue's length, jobs under way.

    `set` records the level each time. After `inc` or `dec` the level is kept and recorded once a minute, so that counting jobs in and
    out costs nothing per job on the bill. All handles of one gauge move the same level; it starts from 0.
    """

    __slots__ = ("_level", "_moves")

    def __init__(
        self,
        client: CloudWatchMetrics,
        name: str,
        unit: MetricUnit | str,
        namespace: MetricNamespace | str | None,
        dimensions: Mapping[str, object] | None,
    ) -> None:
        super().__init__(client, name, unit, namespace, dimensions)
        self._level = Level()
        self._moves = False

    def set(self, value: float) -> bool:
        """
        Record the level.

        Returns:
            Whether it was taken.

        Raises:
            InvalidMetricError: With `strict=True` only: not a finite number in range.
        """
        if (
            value >= _LOWEST and value <= _HIGHEST
            if type(value) is float
            else type(value) is int and value >= _LEAST and value <= _MOST
        ):
            pending = self._pending
            if pending and len(pending) < self._client._intake.fold_at:  # noqa: SLF001
                self._level.set(value)
                pending.append(value)
                return True
        return self._record(value)

    def _take(self, number: float) -> bool:
        self._level = self._client._shared_level(self._resolved(), self._level)  # noqa: SLF001
        self._level.set(number)
        return super()._take(number)

    def inc(self, value: float = 1) -> bool:
        """
        Raise the level; it is recorded once a minute.

        Returns:
            Whether the change was taken.

        Raises:
            InvalidMetricError: With `strict=True` only: not a finite number in range.
        """
        return self._change(value, 1)

    def dec(self, value: float = 1) -> bool:
        """
        Lower the level; it is recorded once a minute.

        Returns:
            Whether the change was taken.

        Raises:
            InvalidMetricError: With `strict=True` only: not a finite number in range.
        """
        return self._change(value, -1)

    def _change(self, value: object, sign: int) -> bool:
        client = self._client
        if not client._enabled():  # noqa: SLF001
            return False
        try:
            number = checks.checked_value(value)
            self._moves = self._moves or self._be_read()
        except Exception as error:  # noqa: BLE001 - as in CloudWatchMetrics._record
            return client._refuse(error, self.name)  # noqa: SLF001
        if self._moves:
            self._level.change(sign * number)
        return self._moves

    def _be_read(self) -> bool:
        self._level = self._client._shared_level(self._resolved(), self._level)  # noqa: SLF001
        return self._client._collect_from(self, self._level.read)  # noqa: SLF001


class Timer(timed):
    """
    Records how long a `with` block or a call takes, in seconds: `timed` with its client given. `client.timer(...)` makes one.
    """

    __slots__ = ()
