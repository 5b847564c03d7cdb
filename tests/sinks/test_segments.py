"""Files of the spool: what was written comes back, and what was damaged costs no more than itself."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retainwise_metrics import limits
from retainwise_metrics.datum import Datum, Series
from retainwise_metrics.sinks._segments import SETTLED, Damaged, Segment, decode, encode

if TYPE_CHECKING:
    from pathlib import Path

NUMBERS = st.floats(-limits.MAX_VALUE, limits.MAX_VALUE) | st.integers(-(2**360), 2**360)
TEXTS = st.text(min_size=1, max_size=20)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Datum, ...]:
    """Datums of one namespace."""
    namespace = draw(TEXTS)

    def datum() -> Datum:
        dimensions = tuple(sorted(draw(st.dictionaries(TEXTS, TEXTS, max_size=3)).items()))
        values = draw(st.lists(NUMBERS, min_size=1, max_size=5, unique=True))
        counts = draw(st.lists(st.integers(1, 10**9), min_size=len(values), max_size=len(values)))
        series = Series(namespace, draw(TEXTS), dimensions, draw(TEXTS), draw(st.sampled_from([1, 60])))
        return Datum(series, draw(st.integers(0, 2**40)), tuple(values), tuple(counts), sum(counts))

    return tuple(datum() for _ in range(draw(st.integers(1, 4))))


def batch_of(*values: float) -> tuple[Datum, ...]:
    """One datum per value."""
    series = Series("N", "M", (("Kind", "a"),), "Count", 60)
    return tuple(Datum(series, 60 * index, (value,), (2,), 2) for index, value in enumerate(values))


def rest_of(path: Path) -> list[tuple[Datum, ...]]:
    """What another process would deliver."""
    segment = Segment(path, new=False)
    found = []
    while (record := segment.next()) is not None:
        done = segment.settled_of(record.place)
        datums = decode(record.payload, record.measurements)
        found.append(tuple(datum for index, datum in enumerate(datums) if index not in done))
    assert segment.pending == sum(datum.measurements for batch in found for datum in batch)
    segment.close()
    return found


@given(batches())
def test_a_batch_comes_back_as_it_was(datums: tuple[Datum, ...]) -> None:
    """To the last bit, whole numbers as whole numbers."""
    back = decode(encode(datums), sum(datum.measurements for datum in datums))
    assert back == datums
    assert [list(map(type, datum.values)) for datum in back] == [list(map(type, datum.values)) for datum in datums]


def test_records_come_back_in_order_without_those_that_are_settled(tmp_path: Path) -> None:
    """Whole records, and single datums of one."""
    segment = Segment(tmp_path / "s", new=True)
    first, second, third = (segment.append(batch_of(*values)) for values in ((1, 2, 3), (4, 5), (6,)))
    segment.settle(second, {0, 1}, 4, whole=True)
    segment.settle(first, {1}, 2, whole=False)
    segment.close()
    one, _, three = batch_of(1, 2, 3)
    assert rest_of(tmp_path / "s") == [(one, three), batch_of(6)]
    again = Segment(tmp_path / "s", new=False)
    again.settle(first, {0}, 2, whole=False)
    again.settle(third, {0}, 2, whole=True)
    assert rest_of(tmp_path / "s") == [(three,)]
    assert again.pending == 2


def test_a_file_that_was_cut_anywhere_keeps_every_whole_record_before(tmp_path: Path) -> None:
    """Wherever its writer was killed."""
    segment = Segment(tmp_path / "s", new=True)
    ends = []
    for value in range(5):
        segment.append(batch_of(value, value + 0.5))
        ends.append(segment.size)
    whole = (tmp_path / "s").read_bytes()
    for length in range(len(whole) + 1):
        (tmp_path / "cut").write_bytes(whole[:length])
        assert rest_of(tmp_path / "cut") == [batch_of(v, v + 0.5) for v, end in enumerate(ends) if end <= length]


def test_damage_costs_the_records_it_touches(tmp_path: Path) -> None:
    """Any byte of a file changed, any stretch overwritten or taken out: all other records come back, and none that was never written."""
    segment = Segment(tmp_path / "s", new=True)
    written = [batch_of(value, value + 0.25) for value in range(20)]
    places = [segment.append(datums) for datums in written]
    whole, chance = (tmp_path / "s").read_bytes(), random.Random(5)
    for _ in range(300):
        start = chance.randrange(len(whole))
        length = chance.choice([1, 1, 2, 30, 200])
        rubbish = chance.randbytes(chance.choice([0, length, 3 * length]))
        (tmp_path / "damaged").write_bytes(whole[:start] + rubbish + whole[start + length :])
        back = rest_of(tmp_path / "damaged")
        untouched = [
            datums
            for datums, place, end in zip(written, places, [*places[1:], len(whole)], strict=True)
            if end <= start or place >= start + length
        ]
        assert [datums for datums in back if datums in untouched] == untouched
        assert all(datums in written for datums in back)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no zlib",
        zlib.compress(b"no json"),
        zlib.compress(b"[" * 200_000),
        zlib.compress(bytes(100_000_000)),
        *(
            zlib.compress(json.dumps(content).encode())
            for content in (
                5,
                [],
                ["N", []],
                ["N", [5]],
                ["N", [["M", [], "Count", 60, 60, [1], [1]]], "more"],
                ["N", [["M", [], "Count", 60, 60, [1], [1]]]],  # one measurement, and two were promised
                [5, [["M", [], "Count", 60, 60, [1], [2]]]],
                ["N", [[5, [], "Count", 60, 60, [1], [2]]]],
                ["N", [["M", [["a"]], "Count", 60, 60, [1], [2]]]],
                ["N", [["M", [["a", 5]], "Count", 60, 60, [1], [2]]]],
                ["N", [["M", [], "Count", 61, 60, [1], [2]]]],
                ["N", [["M", [], "Count", 60, 60.5, [1], [2]]]],
                ["N", [["M", [], "Count", 60, 60, ["1"], [2]]]],
                ["N", [["M", [], "Count", 60, 60, [float("nan")], [2]]]],
                ["N", [["M", [], "Count", 60, 60, [2**361], [2]]]],
                ["N", [["M", [], "Count", 60, 60, [1, 2], [2]]]],
                ["N", [["M", [], "Count", 60, 60, [1, 2], [3, -1]]]],
                ["N", [["M", [], "Count", 60, 60, list(range(151)), [1] * 151]]],
            )
        ),
    ],
)
def test_a_record_that_nobody_of_us_has_written_is_damaged(content: bytes) -> None:
    """Whatever is in a file with a right checksum, nothing that CloudWatch would refuse gets out, and no other error."""
    with pytest.raises(Damaged):
        decode(content, 2)


def test_a_note_that_names_nothing_is_damage(tmp_path: Path) -> None:
    """Its checksum is right, and it is shorter than any of ours."""
    segment = Segment(tmp_path / "s", new=True)
    segment.append(batch_of(1))
    segment._write(SETTLED, 2, b"x")
    segment.append(batch_of(2))
    again = Segment(tmp_path / "s", new=False)
    assert (again.damaged, again.pending) == (1, 4)
    assert rest_of(tmp_path / "s") == [batch_of(1), batch_of(2)]


def test_calls_that_were_begun_and_not_withdrawn_are_known(tmp_path: Path) -> None:
    """To whoever reads the file later."""
    segment = Segment(tmp_path / "s", new=True)
    first, second, third = (segment.append(batch_of(value)) for value in range(3))
    for place in (first, second, third):
        segment.begin(place)
    segment.withdraw(second)
    segment.settle(third, {0}, 2, whole=True)
    assert Segment(tmp_path / "s", new=False).begun - {third} == {first}


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    """Values are nobody's business, however generous the umask is."""
    before = os.umask(0)
    try:
        Segment(tmp_path / "s", new=True)
    finally:
        os.umask(before)
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600


FILL = """
import resource, sys
from pathlib import Path
from retainwise_metrics.sinks._segments import Segment
from tests.sinks.test_segments import batch_of
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
segment, kept = Segment(Path(sys.argv[1]), new=True), 0
try:
    while True:
        segment.append(batch_of(kept))
        kept += 1
except OSError:
    print(kept, segment.size)
"""


def test_what_does_not_fit_on_the_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """The write that fails half-way, in a process that may write no more than 1,000 bytes."""
    done = subprocess.run([sys.executable, "-c", FILL, str(tmp_path / "s")], capture_output=True, text=True, check=True)
    kept, size = map(int, done.stdout.split())
    assert kept > 3
    assert (tmp_path / "s").stat().st_size == size <= 1000
    assert rest_of(tmp_path / "s") == [batch_of(value) for value in range(kept)]
