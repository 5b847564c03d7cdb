"""
Batches as documents of Embedded Metric Format: what the sinks that write documents have in common. The format itself is in `emf.py`.

Rules
1. Datums with the same dimensions and the same window share documents.
2. A value that occurred n times is written n times, as EMF documents it, a few at a time: a count may be in the millions. With
   `values="object"` it is written once with its count, in the undocumented form of AWS's own exporters (docs/decisions/0009).
3. What no document can hold is found before anything is written, and rejected by its index: the rest goes through.
4. What was written of a batch before a failure is remembered, and not written again when the same batch is sent again.
"""

from __future__ import annotations

import json
import threading
from itertools import islice
from math import fsum
from typing import TYPE_CHECKING, NamedTuple

from retainwise_metrics.emf import DOCUMENT_BYTES, Entry, FormatError, write_documents
from retainwise_metrics.limits import MAX_VALUE

from .base import SinkRejected, SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from retainwise_metrics.datum import Batch, Datum, Dimensions, Series

VALUES_AT_ONCE = 10_000
"""Values written out before documents are made of them: bounds memory, and fills 100 documents."""

REMEMBERED = 4
"""Batches whose written part is remembered: the flusher has one at a time, callers of `put_metric_sync` never repeat theirs."""

KNOWN_SERIES = 10_000
"""Series whose fit is remembered before it is found out anew."""

OBJECT_VALUES = 100
"""Distinct values of an object: what EMF allows in a list."""

LONGEST_VALUE = -1.2345678901234567e-300
"""No number has more characters."""

WHOLE_BELOW = 2.0**53
"""Whole numbers below this are written as such; above it, floats have the shorter spelling."""

LATEST_MS = 9_999_999_999_999
"""No timestamp has more digits, until the year 2286."""


class Layout(NamedTuple):
    """
    How documents are written.

    Attributes:
        values: `list`, or `object` for the undocumented form with counts.
        log_group: Where an agent keeps the documents; empty: the agent decides.
        log_stream: Likewise.
        max_bytes: Most bytes of a document, its newline included.
        usual_bytes: Documents are kept this small where that is possible.
    """

    values: str = "list"
    log_group: str = ""
    log_stream: str = ""
    max_bytes: int = DOCUMENT_BYTES
    usual_bytes: int = DOCUMENT_BYTES


class Part(NamedTuple):
    """
    Some values of one series and window, to be written into one document.

    Attributes:
        series: What was measured.
        values: Distinct values.
        counts: How often each occurred, in the order of `values`.
    """

    series: Series
    values: list[float]
    counts: list[int]

    def expanded(self) -> Entry:
        """
        As a list of numbers.
        """
        numbers = [_short(value) for value in self.values]
        numbers = [number for number, count in zip(numbers, self.counts, strict=True) for _ in range(count)]
        return Entry(self.series.name, self.series.unit, self.series.resolution, numbers)

    def placeholder(self) -> Entry:
        """
        As one number, which an object takes the place of.
        """
        return Entry(self.series.name, self.series.unit, self.series.resolution, [0])

    def as_object(self) -> dict[str, object]:
        """
        As an object of statistics.
        """
        return {
            "Values": [_short(value) for value in self.values],
            "Counts": self.counts,
            "Count": sum(self.counts),
            "Sum": fsum(value * count for value, count in zip(self.values, self.counts, strict=True)),
            "Min": min(self.values),
            "Max": max(self.values),
        }


class Writer:
    """
    Turns batches into documents.

    Args:
        layout: How.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._as_objects = layout.values == "object"
        # Objects take the place of numbers after the format has been written, so each gets one half of a document.
        self._rooms = (layout.max_bytes // 2,) if self._as_objects else (layout.usual_bytes, layout.max_bytes)
        self._known: dict[Series, int] = {}

    def refuse_what_does_not_fit(self, batch: Batch) -> None:
        """
        Look for what no document can hold.

        Raises:
            SinkRejected: It names the datums.
        """
        wrong = {index: why for index, datum in enumerate(batch.datums) if (why := self._why_not(datum))}
        if wrong:
            index, why = next(iter(wrong.items()))
            message = f"no EMF document can hold {batch.datums[index].series.name}: {why}"
            raise SinkRejected(message, members=tuple(wrong))

    def _why_not(self, datum: Datum) -> str:
        if self._as_objects and max(map(abs, datum.values)) * datum.measurements > MAX_VALUE:
            return "the sum of its values may be beyond 2**360"
        try:
            self._room_for(datum.series)
        except FormatError as error:
            return str(error)
        return ""

    def documents(self, batch: Batch) -> Iterator[bytes]:
        """
        The documents of a batch, each with its newline; the same ones in the same order each time.
        """
        groups: dict[tuple[Dimensions, int, int], list[Datum]] = {}
        for datum in batch.datums:
            key = (datum.series.dimensions, datum.timestamp, self._room_for(datum.series))
            groups.setdefault(key, []).append(datum)
        for (_, timestamp, room), datums in groups.items():
            if self._as_objects:
                for parts in _parts_of_one_document(datums, room):
                    skeleton = self._lines(
                        [part.placeholder() for part in parts], datums[0].series, timestamp * 1000, room
                    )
                    yield from _with_objects(skeleton, parts)
            else:
                for parts in _parts_at_once(datums):
                    yield from self._lines(
                        [part.expanded() for part in parts], datums[0].series, timestamp * 1000, room
                    )

    def _lines(self, entries: list[Entry], series: Series, timestamp_ms: int, room: int) -> Iterator[bytes]:
        return write_documents(
            series.namespace,
            [[name for name, _ in series.dimensions]],
            dict(series.dimensions),
            entries,
            timestamp_ms,
            log_group=self._layout.log_group,
            log_stream=self._layout.log_stream,
            max_bytes=room,
        )

    def _room_for(self, series: Series) -> int:
        """
        The size of the documents this series goes into: the usual one, or the largest if it does not fit.

        Raises:
            FormatError: No document can hold it.
        """
        room = self._known.get(series)
        if room is None:
            if len(self._known) >= KNOWN_SERIES:
                self._known.clear()
            room = self._known[series] = self._find_room(series)
        return room

    def _find_room(self, series: Series) -> int:
        probe = [Entry(series.name, series.unit, series.resolution, [LONGEST_VALUE])]
        usual, largest = self._rooms[0], self._rooms[-1]
        try:
            next(self._lines(probe, series, LATEST_MS, usual))
        except FormatError:
            next(self._lines(probe, series, LATEST_MS, largest))
            return largest
        return usual


def _parts_at_once(datums: Iterable[Datum]) -> Iterator[list[Part]]:
    """
    Datums cut so that not too many values are written out at once.
    """
    parts: list[Part] = []
    left = VALUES_AT_ONCE
    for datum in datums:
        part = Part(datum.series, [], [])
        for value, occurred in zip(datum.values, datum.counts, strict=True):
            remaining = occurred
            while remaining:
                taken = min(remaining, left)
                part.values.append(value)
                part.counts.append(taken)
                remaining -= taken
                left -= taken
                if not left:
                    yield [*parts, part]
                    parts, left, part = [], VALUES_AT_ONCE, Part(datum.series, [], [])
        if part.values:
            parts.append(part)
    if parts:
        yield parts


def _parts_of_one_document(datums: Iterable[Datum], room: int) -> Iterator[list[Part]]:
    """
    Datums cut and gathered so that the objects of one document have different names and fit.
    """
    parts: dict[str, Part] = {}
    left = room
    for datum in datums:
        for start in range(0, len(datum.values), OBJECT_VALUES):
            cut = slice(start, start + OBJECT_VALUES)
            part = Part(datum.series, list(datum.values[cut]), list(datum.counts[cut]))
            size = len(_json(part.as_object()))
            if parts and (size > left or part.series.name in parts):
                yield list(parts.values())
                parts, left = {}, room
            parts[part.series.name] = part
            left -= size
    if parts:
        yield list(parts.values())


def _with_objects(skeleton: Iterable[bytes], parts: Iterable[Part]) -> Iterator[bytes]:
    """
    Documents with objects instead of placeholders.
    """
    by_name = {part.series.name: part for part in parts}
    for line in skeleton:
        document = json.loads(line)
        for directive in document["_aws"]["CloudWatchMetrics"]:
            for definition in directive["Metrics"]:
                document[definition["Name"]] = by_name[definition["Name"]].as_object()
        yield _json(document) + b"\n"


def _short(value: float) -> float:
    """
    A whole number without its `.0`: half of the bytes of a counter.
    """
    return int(value) if value.is_integer() and abs(value) < WHOLE_BELOW else value


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


class DocumentSink:
    """
    A sink that writes documents one after the other; subclasses say where.

    Args:
        layout: How documents are written.
        timeout_seconds: Longest wait for another thread that is writing.
    """

    def __init__(self, layout: Layout, timeout_seconds: float) -> None:
        self._writer = Writer(layout)
        self._timeout = timeout_seconds
        self._turn = threading.Lock()
        self._unfinished: list[tuple[tuple[Datum, ...], int]] = []

    def send(self, batch: Batch) -> None:
        """
        Write the documents of one batch; see `base.Sink.send`.
        """
        self._writer.refuse_what_does_not_fit(batch)
        (mine,) = map(self._turn.acquire, (True,), (self._timeout,))  # see runtime.AT_ONCE
        if not mine:
            message = f"another thread has been writing for {self._timeout:g} s"
            raise SinkUnavailable(message)
        try:
            self._continue(batch)
        finally:
            self._turn.release()

    def _continue(self, batch: Batch) -> None:
        done = self._written_before(batch)
        try:
            self._begin()
            for line in islice(self._writer.documents(batch), done, None):
                self._write(line)
                done += 1
        except BaseException:
            if done:
                self._unfinished = [*self._unfinished[1 - REMEMBERED :], (batch.datums, done)]
            raise

    def _written_before(self, batch: Batch) -> int:
        """
        How many documents of this very batch are written already. An equal batch of another caller is another batch.
        """
        done = sum(count for datums, count in self._unfinished if datums is batch.datums)
        self._unfinished = [(datums, count) for datums, count in self._unfinished if datums is not batch.datums]
        return done

    def _begin(self) -> None:
        """
        Prepare for a batch.
        """

    def _write(self, line: bytes) -> None:
        """
        Write one document whole, or raise a `SinkError`.
        """
        raise NotImplementedError

    def datum_bytes(self, datum: Datum) -> int:
        """
        A rough size: documents are bounded where they are made, whatever a batch holds.
        """
        return 200 + 25 * len(datum.values)

    def envelope_bytes(self, namespace: str) -> int:
        """
        A rough size, as for `datum_bytes`.
        """
        return 50 + len(namespace)

    def after_fork(self) -> None:
        """
        Forget what the parent was writing: it is the parent's.
        """
        self._turn = threading.Lock()
        self._unfinished = []

    def close(self) -> None:
        """
        Let go of what is held open.
        """
