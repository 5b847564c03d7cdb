"""
Everything that travels: a Series says what is measured, a Datum carries values of one series and one timestamp, a Batch is one call.

All of it is immutable, so it can cross threads without a lock.
"""

from __future__ import annotations

from typing import NamedTuple

Dimensions = tuple[tuple[str, str], ...]
"""Sanitised dimensions: (name, value) pairs sorted by name."""


class Series:
    """
    The identity of a time series: namespace, name, dimensions, and the unit and resolution it is published with.

    CloudWatch itself identifies a metric by namespace, name and dimensions; unit and resolution are part of the key here because
    values of different units must never be folded together.
    """

    __slots__ = ("_hash", "dimensions", "encoded_bytes", "name", "namespace", "resolution", "unit")

    def __init__(self, namespace: str, name: str, dimensions: Dimensions, unit: str, resolution: int) -> None:
        self.namespace = namespace
        self.name = name
        self.dimensions = dimensions
        self.unit = unit
        self.resolution = resolution
        self._hash = hash((namespace, name, dimensions, unit, resolution))
        self.encoded_bytes: int | None = None
        """Cache of the sink that sizes requests: what a datum of this series costs before its values."""

    def with_dimensions(self, dimensions: Dimensions) -> Series:
        """
        The same series under other dimensions.
        """
        return Series(self.namespace, self.name, dimensions, self.unit, self.resolution)

    def window_of(self, timestamp: float) -> int:
        """
        Start of the window that holds `timestamp` (epoch seconds): its minute, or its second at a resolution of one second.
        """
        return int(timestamp // self.resolution) * self.resolution

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Series):
            return NotImplemented
        return (
            self._hash == other._hash
            and self.name == other.name
            and self.dimensions == other.dimensions
            and self.namespace == other.namespace
            and self.unit == other.unit
            and self.resolution == other.resolution
        )

    def __repr__(self) -> str:
        """Namespace, name and dimensions as `ns name{A=b}`; the values are sanitised ones."""
        pairs = ", ".join(f"{name}={value}" for name, value in self.dimensions)
        return f"{self.namespace} {self.name}{{{pairs}}}"


class Counted(NamedTuple):
    """
    Many values recorded at once.

    Attributes:
        counts: How often each value occurred.
        total: Sum of the counts.
    """

    counts: dict[float, int]
    total: int


class Datum(NamedTuple):
    """
    Values of one series in one window: at most `limits.VALUES_PER_DATUM` distinct values, each with how often it occurred.

    Attributes:
        series: What was measured.
        timestamp: Start of the window, epoch seconds.
        values: Distinct values, ascending.
        counts: How often each occurred, in the order of `values`.
        measurements: Sum of `counts`.
    """

    series: Series
    timestamp: int
    values: tuple[float, ...]
    counts: tuple[int, ...]
    measurements: int


class Batch(NamedTuple):
    """
    One call: datums of one namespace.

    Attributes:
        namespace: The CloudWatch namespace of every datum.
        datums: What is sent, in order.
        encoded_bytes: Size of the request body, uncompressed.
    """

    namespace: str
    datums: tuple[Datum, ...]
    encoded_bytes: int

    @property
    def measurements(self) -> int:
        """
        How many measurements the batch carries.
        """
        return sum(datum.measurements for datum in self.datums)
