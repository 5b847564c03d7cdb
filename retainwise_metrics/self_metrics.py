"""
What a client publishes about itself, with `self_metrics=True`: the numbers that `stats()` and `health()` have, where alarms can see them.

Read once a minute on the metrics thread, like gauges. They are ordinary measurements: they count in the ledger, may be dropped like any
other, and describe the minute before the one in which they arrive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .catalogue import SELF_METRICS
from .stats import BreakerState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .pipeline.pipeline import Pipeline
    from .stats import DropReason

    Record = Callable[[str, float, str, Mapping[str, str]], object]

UNITS = {spec.name: spec.unit.value for spec in SELF_METRICS}


class SelfMetrics:
    """
    Reads a pipeline and records what it says.

    Args:
        pipeline: What is read.
        record: Records one value in `MetricNamespace.METRICS`: name, value, unit, dimensions.
    """

    def __init__(self, pipeline: Pipeline, record: Record) -> None:
        self._pipeline = pipeline
        self._put = record
        self._dropped: dict[DropReason, int] = {}
        self.minute = -1.0
        """When it was read last, in minutes since the epoch."""

    def record(self, minute: float) -> bool:
        """
        Record everything, unless that has been done in this minute; says whether it did.
        """
        if minute == self.minute:
            return False
        self.minute = minute
        stats = self._pipeline.stats()
        # An alarm without data says nothing: the roll-up is there in every minute.
        self._record("MetricsDropped", 0.0)
        for reason, total in stats.dropped.items():
            new = total - self._dropped.get(reason, 0)
            self._dropped[reason] = total
            if new > 0:
                self._record("MetricsDropped", new, {"Reason": reason.value})
        self._record("CircuitOpen", float(stats.breaker_state not in {BreakerState.CLOSED, BreakerState.DISABLED}))
        self._record("BacklogAge", self._pipeline.backlog_age())
        for seconds in self._pipeline.take_latencies():
            self._record("PublishLatency", seconds)
        return True

    def after_fork(self) -> None:
        """
        Start anew in a child process, whose books are empty.
        """
        self._dropped = {}
        self.minute = -1.0

    def _record(self, name: str, value: float, dimensions: Mapping[str, str] | None = None) -> None:
        self._put(name, value, UNITS[name], dimensions or {})
