"""
Designs to compare with: nothing at all, the textbook's lock around a dict, and the naive buffer that its caller flushes.
"""

from __future__ import annotations

from datetime import datetime, timezone
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Parameters that nobody reads are the point of it: passing them is what is measured.
# ruff: noqa: ARG002

NAIVE_BATCH = 20
"""Datums that the naive design puts into one call."""


class Empty:
    """
    What Python itself takes for such a call: the floor.
    """

    def put_metric(
        self,
        name: str,
        value: float,
        unit: str = "None",
        *,
        namespace: str | None = None,
        dimensions: Mapping[str, object] | None = None,
        timestamp: float | None = None,
        storage_resolution: int = 60,
    ) -> bool:
        return True

    def inc(self, value: float = 1) -> bool:
        return True

    def observe(self, value: float) -> bool:
        return True


class Textbook:
    """
    A lock around a dict of aggregates, by name and sorted dimensions.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._aggregates: dict[object, list[float]] = {}

    def put_metric(self, name: str, value: float, *, dimensions: Mapping[str, str] | None = None) -> bool:
        key = (name, tuple(sorted(dimensions.items())) if dimensions else ())
        with self._lock:
            aggregate = self._aggregates.get(key)
            if aggregate is None:
                aggregate = self._aggregates[key] = [0, 0.0, value, value]
            aggregate[0] += 1
            aggregate[1] += value
            aggregate[2] = min(aggregate[2], value)
            aggregate[3] = max(aggregate[3], value)
        return True

    def counts(self) -> list[int]:
        """
        How many values each series holds.
        """
        return [int(aggregate[0]) for aggregate in self._aggregates.values()]


class Naive:
    """
    A list of datums under a lock; whoever brings the twentieth sends them all, and waits for the answer.

    Args:
        send: Called with a namespace and twenty datums.
        namespace: Of records that name none.
    """

    def __init__(self, send: Callable[[str, list[dict[str, Any]]], object], namespace: str = "Bench") -> None:
        self._send = send
        self._namespace = namespace
        self._lock = Lock()
        self._buffers: dict[str, list[dict[str, Any]]] = {}

    def put_metric(
        self,
        name: str,
        value: float,
        unit: str = "None",
        *,
        namespace: str | None = None,
        dimensions: Mapping[str, str] | None = None,
    ) -> bool:
        datum = {
            "MetricName": name,
            "Value": value,
            "Unit": unit,
            "Timestamp": datetime.now(timezone.utc),
            "Dimensions": [{"Name": key, "Value": given} for key, given in (dimensions or {}).items()],
        }
        where = namespace or self._namespace
        full: list[dict[str, Any]] = []
        with self._lock:
            buffer = self._buffers.setdefault(where, [])
            buffer.append(datum)
            if len(buffer) >= NAIVE_BATCH:
                full, self._buffers[where] = buffer, []
        if full:
            self._send(where, full)
        return True

    def flush(self) -> None:
        """
        Send what is left.
        """
        with self._lock:
            left, self._buffers = self._buffers, {}
        for namespace, datums in left.items():
            self._send(namespace, datums)
