"""
Counters, histograms and levels on any `Recorder`, made once and used often.

A recorder that makes instruments (the client and its scopes do) is used through them: that is the fastest way to
record, publishes the catalogue's zeros, and reads a level once a minute. Any other recorder gets a record per call.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Protocol, cast

from retainwise_metrics.pipeline.reporting import say
from retainwise_metrics.service import NullInstrument, merge_dimensions
from retainwise_metrics.units import MetricUnit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from retainwise_metrics.namespaces import MetricNamespace
    from retainwise_metrics.service import Recorder

ERROR_TYPE = "ErrorType"

REMEMBERED_ERROR_TYPES = 128
"""Handles kept for error types: many times what one service has; the others are recorded without one."""

ERROR_TYPE_LENGTH = 255
"""Characters kept of an error type; CloudWatch takes 1024, and nobody reads that many."""

_NOTHING = NullInstrument()


class Count(Protocol):
    """
    Counts what happens.
    """

    def inc(self, value: float = 1) -> object:
        """
        Count `value` more.
        """
        ...


class Distribution(Protocol):
    """
    Collects values.
    """

    def observe(self, value: float) -> object:
        """
        Record one value.
        """
        ...


class Level(Count, Protocol):
    """
    Goes up and down.
    """

    def dec(self, value: float = 1) -> object:
        """
        Lower it by `value`.
        """
        ...


class Handles:
    """
    Makes the handles of one integration on one recorder, all in one namespace and with the same dimensions.

    A name that is empty makes a handle that records nothing.

    Args:
        recorder: The client, one of its scopes, or any other `Recorder`.
        namespace: Namespace of every record.
        dimensions: Dimensions of every record.
    """

    __slots__ = ("_dimensions", "_namespace", "recorder")

    def __init__(
        self, recorder: Recorder, namespace: MetricNamespace | str | None, dimensions: Mapping[str, object]
    ) -> None:
        self.recorder = recorder
        self._namespace = namespace
        self._dimensions = dimensions

    def within(self, **dimensions: object) -> Handles:
        """
        The same with further dimensions.
        """
        return Handles(self.recorder, self._namespace, merge_dimensions(self._dimensions, dimensions))

    def counter(self, name: str) -> Count:
        """
        A counter.
        """
        if not name:
            return _NOTHING
        made = self._made_by_recorder("counter", name)
        return cast("Count", made) if made is not None else _Counter(self._record, name)

    def histogram(self, name: str, unit: MetricUnit) -> Distribution:
        """
        A histogram in `unit`.
        """
        if not name:
            return _NOTHING
        made = self._made_by_recorder("histogram", name, unit=unit)
        return cast("Distribution", made) if made is not None else _Histogram(self._record, name, unit)

    def level(self, name: str) -> Level:
        """
        A level in `Count`. Without instruments it is recorded each time it rises.
        """
        if not name:
            return _NOTHING
        made = self._made_by_recorder("gauge", name, unit=MetricUnit.COUNT)
        return cast("Level", made) if made is not None else _Level(self._record, name)

    def errors(self, name: str) -> ErrorCounter:
        """
        A counter by error type.
        """
        return ErrorCounter(self, name)

    def _made_by_recorder(self, kind: str, name: str, **options: object) -> object | None:
        make: Any = getattr(self.recorder, kind, None)
        if make is None:
            return None
        made: object = make(name, namespace=self._namespace, dimensions=self._dimensions, **options)
        return made

    def _record(self, name: str, value: float, unit: MetricUnit) -> None:
        self.recorder.put_metric(name, value, unit, namespace=self._namespace, dimensions=self._dimensions)


class _Counter:
    __slots__ = ("_name", "_record")

    def __init__(self, record: Callable[[str, float, MetricUnit], None], name: str) -> None:
        self._record = record
        self._name = name

    def inc(self, value: float = 1) -> None:
        self._record(self._name, value, MetricUnit.COUNT)


class _Histogram:
    __slots__ = ("_name", "_record", "_unit")

    def __init__(self, record: Callable[[str, float, MetricUnit], None], name: str, unit: MetricUnit) -> None:
        self._record = record
        self._name = name
        self._unit = unit

    def observe(self, value: float) -> None:
        self._record(self._name, value, self._unit)


class _Level:
    __slots__ = ("_name", "_record", "_terms")

    def __init__(self, record: Callable[[str, float, MetricUnit], None], name: str) -> None:
        self._record = record
        self._name = name
        self._terms: list[None] = []
        """One per unit of the level: a list grows and shrinks in single steps, whatever other threads do."""

    def inc(self, value: float = 1) -> None:
        self._terms.extend([None] * int(value))
        self._record(self._name, len(self._terms), MetricUnit.COUNT)

    def dec(self, value: float = 1) -> None:
        del self._terms[: int(value)]


class ErrorCounter:
    """
    Counts failures, each under its error type.

    Args:
        handles: Makes the counters.
        name: Name of the metric; empty counts nothing.
    """

    __slots__ = ("_by_type", "_handles", "_name", "_overall")

    def __init__(self, handles: Handles, name: str) -> None:
        self._handles = handles
        self._name = name
        # It never counts, but it is what the client publishes zeros for while nothing fails.
        self._overall = handles.counter(name)
        self._by_type: dict[str, Count] = {}

    def inc(self, error_type: str) -> None:
        """
        Count one failure.

        Args:
            error_type: Its type, 1 to 255 printable ASCII characters.
        """
        counter = self._by_type.get(error_type)
        if counter is None:
            counter = self._bound(error_type)
            if len(self._by_type) < REMEMBERED_ERROR_TYPES:
                self._by_type[error_type] = counter
        counter.inc()

    def _bound(self, error_type: str) -> Count:
        bind: Any = getattr(self._overall, "bind", None)
        if bind is None:
            return self._handles.within(**{ERROR_TYPE: error_type}).counter(self._name)
        bound: Count = bind(**{ERROR_TYPE: error_type})
        return bound


class Complaint:
    """
    Says once that recording fails.
    """

    __slots__ = ("_about", "_said")

    def __init__(self, about: str) -> None:
        self._about = about
        self._said = False

    def say(self, failure: BaseException) -> None:
        """
        Say it without the message of the exception: it may hold a dimension value.
        """
        if not self._said:
            self._said = True
            say(
                f"recording for {self._about} failed with {type(failure).__name__}: work goes on unmeasured; "
                "this is said once"
            )


def spelled(error_type: object) -> str:
    """
    An error type spelled so that CloudWatch takes it: a failure that is not counted for its name makes the counts wrong.

    Args:
        error_type: An exception, of which the class's name is taken; or a short text.

    Returns:
        1 to 255 printable ASCII characters.
    """
    name = type(error_type).__name__ if isinstance(error_type, BaseException) else str(error_type)
    plain = ascii(name)[1:-1]
    return plain[:ERROR_TYPE_LENGTH] if plain.strip() else "unnamed"


@functools.cache
def default_recorder_getter() -> Callable[[], Recorder]:
    """
    The function that finds the process-wide client; an import statement at each call would cost more than recording.
    """
    from retainwise_metrics.default_client import get_metrics_client

    return get_metrics_client
