"""
What the application wants to be asked before its values are sent, and told when they are dropped.

Both run on the metrics thread, under no lock. They are the application's code: whatever they raise is said in the log, and costs no more
than what they were asked about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retainwise_metrics import checks, limits
from retainwise_metrics.datum import Series
from retainwise_metrics.exceptions import InvalidMetricError

from .aggregation import measurements_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from retainwise_metrics.stats import DropReason

    from .aggregation import Distribution
    from .reporting import Reporter

    Sealed = tuple[int, Series, Distribution]
    BeforeSend = Callable[[Series], Series | None]
    OnDrop = Callable[[DropReason, int], Any]


class Hooks:
    """
    Two functions of the application, either of which may be missing.

    Args:
        before_send: Asked about each series of a flush: the series, another one instead, or None to withhold its values.
        on_drop: Told the reason and how many measurements, at most once per reason and step of the flusher.
        reporter: Says what they raised.
    """

    def __init__(self, before_send: BeforeSend | None, on_drop: OnDrop | None, reporter: Reporter) -> None:
        self._before_send = before_send
        self._on_drop = on_drop
        self._reporter = reporter

    def ask_about(self, sealed: Iterable[Sealed]) -> tuple[list[Sealed], int]:
        """
        Ask about sealed windows.

        Returns:
            Those to be sent, and how many measurements are not.
        """
        kept, withheld = [], 0
        for window, series, distribution in sealed:
            chosen = self.ask(series)
            if chosen is None:
                withheld += measurements_of(distribution)
            else:
                kept.append((window, chosen, distribution))
        return kept, withheld

    def ask(self, series: Series) -> Series | None:
        """
        The series to be sent instead of this one, or None.
        """
        if self._before_send is None:
            return series
        try:
            chosen = self._before_send(series)
            return chosen if chosen is None or chosen is series else _checked(chosen)
        except BaseException:  # noqa: BLE001 - who filters for a reason must not have values sent unfiltered
            self._reporter.failure("before-send", "before_send raised, or returned no series; the values are withheld")
            return None

    def tell_dropped(self, reason: DropReason, measurements: int) -> None:
        """
        Tell that measurements have been dropped.
        """
        if self._on_drop is not None:
            try:
                self._on_drop(reason, measurements)
            except BaseException:  # noqa: BLE001 - as above
                self._reporter.failure("on-drop", "on_drop raised")


def _checked(series: object) -> Series:
    """
    A series that CloudWatch takes.

    Raises:
        InvalidMetricError: It is none.
    """
    if type(series) is not Series or type(series.dimensions) is not tuple or len(series.dimensions) > limits.DIMENSIONS:
        message = "before_send must return a Series or None; series.with_dimensions(...) makes one"
        raise InvalidMetricError(message, field="dimensions")
    for name, value in series.dimensions:
        for text, most in ((name, limits.NAME_LENGTH), (value, limits.DIMENSION_VALUE_LENGTH)):
            if (
                type(text) is not str
                or not text.strip()
                or len(text) > most
                or not (text.isascii() and text.isprintable())
            ):
                message = f"before_send must return dimensions of 1 to {most} printable ASCII characters"
                raise InvalidMetricError(message, field="dimensions")
    names = [name for name, _ in series.dimensions]
    if len(set(names)) < len(names) or any(name.startswith(":") for name in names):
        message = "before_send must return dimensions with different names, none of which starts with ':'"
        raise InvalidMetricError(message, field="dimensions")
    return Series(
        checks.checked_namespace(series.namespace),
        checks.checked_name(series.name),
        tuple(sorted(series.dimensions)),
        checks.checked_unit(series.unit),
        checks.checked_resolution(series.resolution),
    )
