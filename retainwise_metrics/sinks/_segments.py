"""
Files of the spool: records appended one after the other, each with a checksum, and notes on what became of them.

    record = magic, kind, length of the payload, measurements, CRC-32 of all that but the magic, payload

A data record holds the datums of one batch; its place in the file is its name. A note about it names that place: *settled* says which of
its datums are done with (none named: all), *begun* and *withdrawn* say that a call with it is under way, for delivery at most once. Nothing
is ever overwritten. So a file is whole up to the last record that was written completely, wherever its writer was killed; and after a
damaged stretch reading goes on at the next record whose checksum is right.
"""

from __future__ import annotations

import json
import os
import zlib
from contextlib import suppress
from struct import Struct, unpack_from
from typing import TYPE_CHECKING, NamedTuple

from retainwise_metrics import limits
from retainwise_metrics.datum import Datum, Series

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MAGIC = b"RWS1"
DATA, SETTLED, BEGUN, WITHDRAWN = range(4)
HEAD = Struct(">BIQQ")
"""Kind, length, measurements in two halves: counts may be as large as 2**53 each."""
CHECKSUM = Struct(">I")
PLACE = Struct(">Q")
PAYLOAD_AT = len(MAGIC) + HEAD.size + CHECKSUM.size

LARGEST_PAYLOAD = 2 * limits.REQUEST_BYTES
"""A batch is smaller than a request in bytes of JSON, and compressed besides."""

CHUNK_BYTES = 1 << 20
"""How much is read at a time while looking for the next record after a damaged stretch."""


class Damaged(ValueError):
    """
    A record whose checksum is right, but whose content no writer of this library has written.
    """


class Record(NamedTuple):
    """
    One record of a file.

    Attributes:
        place: Where it begins.
        end: Where the next one begins.
        kind: `DATA`, `SETTLED`, `BEGUN` or `WITHDRAWN`.
        measurements: What the record is about, in measurements.
        payload: Its content.
    """

    place: int
    end: int
    kind: int
    measurements: int
    payload: bytes


def encode(datums: Sequence[Datum]) -> bytes:
    """
    Datums of one namespace as a payload. Numbers come back as they were: JSON text of a float is its shortest exact form.
    """
    rows = [
        [
            datum.series.name,
            datum.series.dimensions,
            datum.series.unit,
            datum.series.resolution,
            datum.timestamp,
            datum.values,
            datum.counts,
        ]
        for datum in datums
    ]
    return zlib.compress(json.dumps([datums[0].series.namespace, rows], separators=(",", ":")).encode(), 1)


def decode(payload: bytes, measurements: int) -> tuple[Datum, ...]:
    """
    The datums of a payload.

    Args:
        payload: What `encode` has made.
        measurements: How many there have to be.

    Raises:
        Damaged: It holds something else.
    """
    try:
        text = zlib.decompressobj().decompress(payload, 8 * LARGEST_PAYLOAD)
        namespace, rows = json.loads(text)
        datums = tuple(_datum(namespace, row) for row in rows)
    except (TypeError, ValueError, KeyError, RecursionError, zlib.error) as error:
        message = f"{type(error).__name__} in a record of the spool"
        raise Damaged(message) from None
    if not datums or sum(datum.measurements for datum in datums) != measurements:
        message = "a record of the spool holds something else than it says"
        raise Damaged(message)
    return datums


def _datum(namespace: str, row: list[object]) -> Datum:
    name, pairs, unit, resolution, timestamp, values, counts = row
    dimensions = tuple((key, value) for key, value in pairs)  # type: ignore[attr-defined]  # whatever it is
    texts = (namespace, name, unit, *(text for pair in dimensions for text in pair))
    if not all(type(text) is str for text in texts) or resolution not in (1, 60) or type(timestamp) is not int:
        raise TypeError
    if not (type(values) is type(counts) is list and 0 < len(values) == len(counts) <= limits.VALUES_PER_DATUM):
        raise TypeError
    if not all(type(v) in (int, float) and -limits.MAX_VALUE <= v <= limits.MAX_VALUE for v in values):
        raise ValueError
    if not all(type(count) is int and count > 0 for count in counts):
        raise ValueError
    series = Series(namespace, name, dimensions, unit, resolution)  # type: ignore[arg-type]  # checked above
    return Datum(series, timestamp, tuple(values), tuple(counts), sum(counts))


class Segment:
    """
    One file, and what is known about its records.

    Args:
        path: The file.
        new: Whether to make it; otherwise it is read once from beginning to end, to learn what is still to be delivered.

    Raises:
        OSError: It cannot be made or read.
    """

    def __init__(self, path: Path, *, new: bool) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
        self._file = os.open(path, flags | (os.O_CREAT | os.O_EXCL if new else 0), 0o600)
        self.size = 0
        self.made = 0.0
        """When its writer has made it, epoch seconds."""
        self.pending = 0
        """Measurements that are still to be delivered, those loaded just now included."""
        self.newest = 0
        """Start of the latest window in it, epoch seconds; when it was written last, if somebody else has written it."""
        self.oldest = 2**63
        """Likewise of the earliest."""
        self.cursor = 0
        """Where the next record to load is looked for."""
        self.damaged = 0
        """Stretches that nothing could be made of when the file was taken over, such as a record that was cut off."""
        self.begun: set[int] = set()
        self._settled: dict[int, set[int] | None] = {}
        """By place, the datums that are done with; None: all of them."""
        if not new:
            try:
                self._learn()
            except BaseException:
                self.close()
                raise

    # ---- writing ----

    def append(self, datums: Sequence[Datum], *, begun: bool = False) -> int:
        """
        Add a batch; returns its place.

        Args:
            datums: The batch, of one namespace.
            begun: Whether a call with it is under way; noted before it, so that there is no moment at which it seems not to be.

        Raises:
            OSError: It could not be written; the file is as before.
        """
        measurements = sum(datum.measurements for datum in datums)
        payload, before = encode(datums), self.size
        if begun:
            self.begin(before + PAYLOAD_AT + PLACE.size)
        try:
            place = self._write(DATA, measurements, payload)
        except OSError:
            self.begun.discard(before + PAYLOAD_AT + PLACE.size)
            self._cut(before)
            raise
        self.pending += measurements
        starts = [datum.timestamp for datum in datums]
        self.newest, self.oldest = max(self.newest, *starts), min(self.oldest, *starts)
        return place

    def settle(self, place: int, indexes: set[int], measurements: int, *, whole: bool) -> None:
        """
        Note that datums of a record are done with.

        Raises:
            OSError: The note could not be written. The segment knows all the same; whoever reads the file after this process does not.
        """
        known = self._settled.get(place) or set()
        self._settled[place] = None if whole else known | indexes
        self.pending -= measurements
        if self.pending:  # otherwise the file is removed at once, and needs no notes
            named = b"" if whole else b"".join(index.to_bytes(2, "big") for index in sorted(indexes))
            self._write(SETTLED, measurements, PLACE.pack(place) + named)

    def begin(self, place: int) -> None:
        """
        Note that a call with a record is about to be made.
        """
        self._write(BEGUN, 0, PLACE.pack(place))
        self.begun.add(place)

    def withdraw(self, place: int) -> None:
        """
        Note that the call has certainly not delivered it.
        """
        self.begun.discard(place)
        self._write(WITHDRAWN, 0, PLACE.pack(place))

    def sync(self) -> None:
        """
        Wait until the disk has what was written.
        """
        getattr(os, "fdatasync", os.fsync)(self._file)

    def _write(self, kind: int, measurements: int, payload: bytes) -> int:
        head = HEAD.pack(kind, len(payload), *divmod(measurements, 2**64))
        record = MAGIC + head + CHECKSUM.pack(zlib.crc32(payload, zlib.crc32(head))) + payload
        place, done = self.size, 0
        try:
            while done < len(record):
                done += os.pwrite(self._file, record[done:], place + done)
        except OSError:
            self._cut(place)
            raise
        self.size = place + len(record)
        return place

    def _cut(self, size: int) -> None:
        self.size = size
        with suppress(OSError):
            os.ftruncate(self._file, size)

    # ---- reading ----

    def next(self) -> Record | None:
        """
        The next data record that is not done with, or None at the end; the cursor moves behind it.

        Raises:
            OSError: The file cannot be read.
        """
        for record in self._records(self.cursor):
            if record is None:
                continue
            self.cursor = record.end
            if record.kind == DATA and self._settled.get(record.place, set()) is not None:
                return record
        self.cursor = self.size
        return None

    def settled_of(self, place: int) -> set[int]:
        """
        Which datums of a record are done with.
        """
        return self._settled.get(place) or set()

    def _learn(self) -> None:
        self.size = os.fstat(self._file).st_size
        left: dict[int, int] = {}
        for record in self._records(0):
            if record is None:
                self.damaged += 1
                continue
            if record.kind == DATA:
                left[record.place] = record.measurements
                continue
            if len(record.payload) < PLACE.size:
                self.damaged += 1
                continue
            (place,) = PLACE.unpack_from(record.payload)
            if record.kind == SETTLED:
                self._learn_settled(record, place)
                # Of a record that is damaged nothing is left, whatever is noted about it.
                if place in left:
                    left[place] = 0 if self._settled.get(place, set()) is None else left[place] - record.measurements
            elif record.kind == BEGUN:
                self.begun.add(place)
            else:
                self.begun.discard(place)
        self.pending = sum(left.values())
        self.newest = self.oldest = int(os.fstat(self._file).st_mtime)

    def _learn_settled(self, record: Record, place: int) -> None:
        indexes = unpack_from(f">{(len(record.payload) - PLACE.size) // 2}H", record.payload, PLACE.size)
        if not indexes:
            self._settled[place] = None
        elif (known := self._settled.get(place, set())) is not None:
            self._settled[place] = known | set(indexes)

    def _records(self, place: int) -> Iterator[Record | None]:
        """
        All records from a place on; None for each stretch that is none.
        """
        end = self.size
        while place < end:
            record = self._read(place)
            yield record
            place = self._find_next(place + 1) if record is None else record.end

    def _read(self, place: int) -> Record | None:
        head = os.pread(self._file, PAYLOAD_AT, place)
        if len(head) < PAYLOAD_AT or not head.startswith(MAGIC):
            return None
        kind, length, high, low = HEAD.unpack_from(head, len(MAGIC))
        if length > LARGEST_PAYLOAD:
            return None
        payload = os.pread(self._file, length, place + PAYLOAD_AT)
        (checksum,) = CHECKSUM.unpack_from(head, len(MAGIC) + HEAD.size)
        if checksum != zlib.crc32(payload, zlib.crc32(head[len(MAGIC) : len(MAGIC) + HEAD.size])):
            return None
        return Record(place, place + PAYLOAD_AT + length, kind, (high << 64) + low, payload)

    def _find_next(self, place: int) -> int:
        while place < self.size:
            chunk = os.pread(self._file, CHUNK_BYTES, place)
            found = chunk.find(MAGIC)
            if found >= 0:
                return place + found
            if len(chunk) < len(MAGIC):
                break
            place += len(chunk) - len(MAGIC) + 1
        return self.size

    # ---- the end ----

    def remove(self) -> None:
        """
        Delete the file: all of it is done with.
        """
        with suppress(OSError):
            self.path.unlink()
        self.close()

    def close(self) -> None:
        """
        Let go of the file and leave it where it is.
        """
        descriptor, self._file = self._file, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)
