"""Documents hold what they are given, within every limit, and refuse what CloudWatch would drop without a word."""

from __future__ import annotations

import json
import math
from collections import Counter
from enum import Enum
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retainwise_metrics import MetricUnit, emf
from retainwise_metrics.emf import Entry, FormatError, write_documents
from retainwise_metrics.testing.emf_reader import EmfReader

if TYPE_CHECKING:
    from collections.abc import Callable

NOON_MS = 1_800_000_000_000
FORMAT = settings(max_examples=60)


def write(*entries: Entry, sets: Any = ((),), dimensions: Any = None, **options: Any) -> list[bytes]:
    """All documents of some entries."""
    return list(write_documents("Tests", sets, dimensions or {}, entries, NOON_MS, **options))


def test_a_document_is_what_the_specification_shows() -> None:
    """One line: defaults are left out, one value is a number, several are a list."""
    (line,) = write(
        Entry("Time", "Milliseconds", 60, [1.5]),
        Entry("Depth", "None", 1, [1, 2]),
        sets=[["Service"], []],
        dimensions={"Service": "api", "Unused": "x"},
        properties={"request_id": "8f0e"},
        log_group="group",
        log_stream="stream",
    )
    assert line.endswith(b"}\n")
    assert json.loads(line) == {
        "_aws": {
            "Timestamp": NOON_MS,
            "LogGroupName": "group",
            "LogStreamName": "stream",
            "CloudWatchMetrics": [
                {
                    "Namespace": "Tests",
                    "Dimensions": [["Service"], []],
                    "Metrics": [
                        {"Name": "Time", "Unit": "Milliseconds"},
                        {"Name": "Depth", "StorageResolution": 1},
                    ],
                }
            ],
        },
        "Service": "api",
        "request_id": "8f0e",
        "Time": 1.5,
        "Depth": [1, 2],
    }


def test_the_constants_are_all_units() -> None:
    """The module stands alone, so it has the units written down again."""
    constants = {getattr(emf, unit.name) for unit in MetricUnit}
    assert constants == {unit.value for unit in MetricUnit}
    assert all(write(Entry("Size", unit, 60, [1])) == write(Entry("Size", unit.value, 60, [1])) for unit in MetricUnit)


ENTRIES = st.lists(
    st.builds(
        Entry,
        name=st.sampled_from(["A", "B", "C", 'quote"', '"Metrics":[', "x" * 255]),
        unit=st.sampled_from(["Count", "Bytes", "None"]),
        resolution=st.sampled_from([60, 1]),
        values=st.lists(st.floats(-1e12, 1e12, allow_nan=False) | st.integers(-(2**60), 2**60), max_size=350),
    ),
    max_size=12,
)


@FORMAT
@given(entries=ENTRIES, max_bytes=st.sampled_from([1000, 1500, 60_000, 262_144]))
def test_every_value_is_in_exactly_one_document(entries: list[Entry], max_bytes: int) -> None:
    """Whatever the entries and the limit, reading back gives each value under its name, unit and resolution, as often as it was given."""
    lines = write(
        *entries, sets=[["Key"]], dimensions={"Key": '"Metrics":['}, properties={"A": "é"}, max_bytes=max_bytes
    )
    EmfReader(now=lambda: NOON_MS / 1000, max_bytes=max_bytes).read(lines)
    expected = Counter((entry.name, entry.unit, entry.resolution, value) for entry in entries for value in entry.values)
    assert found_in(lines) == expected
    assert all(len(line) <= max_bytes and line.isascii() for line in lines)


def found_in(lines: list[bytes]) -> Counter[tuple[object, ...]]:
    """Name, unit, resolution and value of everything in some documents."""
    found: Counter[tuple[object, ...]] = Counter()
    for line in lines:
        document = json.loads(line)
        for definition in document["_aws"]["CloudWatchMetrics"][0]["Metrics"]:
            target = document[definition["Name"]]
            key = definition["Name"], definition.get("Unit", "None"), definition.get("StorageResolution", 60)
            found.update((*key, value) for value in (target if isinstance(target, list) else [target]))
    return found


@pytest.mark.parametrize(("metrics", "documents"), [(0, 0), (1, 1), (100, 1), (101, 2), (1000, 10)])
def test_a_document_has_at_most_100_metrics(read: Callable[..., EmfReader], metrics: int, documents: int) -> None:
    """CloudWatch takes nothing out of a document with 101."""
    lines = write(*(Entry(f"M{number}", "Count", 60, [number]) for number in range(metrics)))
    assert len(lines) == documents
    assert read(lines).total_count() == metrics


@pytest.mark.parametrize(("values", "documents"), [(1, 1), (100, 1), (101, 2), (1001, 11)])
def test_a_metric_has_at_most_100_values(read: Callable[..., EmfReader], values: int, documents: int) -> None:
    """CloudWatch ignores a metric with 101."""
    lines = write(Entry("M", "Count", 60, list(range(values))))
    assert len(lines) == documents
    assert read(lines).sum("Tests", "M") == sum(range(values))


def test_a_full_document_stays_below_256_kilobytes(read: Callable[..., EmfReader]) -> None:
    """100 metrics of 100 long values would be more than that."""
    value = -1.2345678901234567e-100
    lines = write(*(Entry(f"{number:0255}", "Kilobytes/Second", 60, [value] * 100) for number in range(100)))
    assert len(lines) > 1
    assert read(lines).total_count() == 10_000


@pytest.mark.parametrize("count", [1, 30])
def test_a_limit_of_bytes_holds_to_the_byte(count: int) -> None:
    """No document is longer, whatever the limit, and one more byte of room is used sooner or later."""
    entries = [Entry(f"M{number}", "Count", 60, [0.5] * (120 // count)) for number in range(count)]
    lengths = {limit: [len(line) for line in write(*entries, max_bytes=limit)] for limit in range(200, 500)}
    assert all(max(found) <= limit for limit, found in lengths.items())
    assert sum(max(found) > limit - 5 for limit, found in lengths.items()) > 20
    assert len(lengths[499]) < len(lengths[200])


def test_a_property_never_covers_anything() -> None:
    """Its name gets an underscore where a metric, a dimension, the metadata or another property has it."""
    (line,) = write(
        Entry("Size", "Bytes", 60, [1]),
        sets=[["Key"]],
        dimensions={"Key": "value"},
        properties={"Size": "a", "Size_": "b", "Key": "c", "_aws": "d", "other": {"e": [None]}},
    )
    document = json.loads(line)
    kept = {name: value for name, value in document.items() if name != "_aws"}
    assert kept == {
        "Key": "value", "Size": 1, "Size_": "a", "Size__": "b", "Key_": "c", "_aws_": "d", "other": {"e": [None]},
    }  # fmt: skip


def test_a_dimension_set_counts_once(read: Callable[..., EmfReader]) -> None:
    """The same keys twice, in any order, would publish each value twice."""
    lines = write(
        Entry("M", "Count", 60, [1]),
        sets=[["A", "B"], ["B", "A"], ["A", "A"], []],
        dimensions={"A": "1", "B": "2"},
    )
    sets = json.loads(lines[0])["_aws"]["CloudWatchMetrics"][0]["Dimensions"]
    assert [sorted(keys) for keys in sets] == [["A", "B"], ["A"], []]
    assert read(lines).total_count() == 3


class Colour(str, Enum):
    """Text that is more than text."""

    RED = "red"


def test_text_of_another_type_is_written_as_text() -> None:
    """An enum's member is its value."""
    (line,) = write(Entry(Colour.RED, "Count", 60, [True]), sets=[["Key"]], dimensions={"Key": Colour.RED})
    assert b'"Key":"red"' in line
    assert b'"red":1' in line


ONE = Entry("M", "Count", 60, [1])
THIRTY_ONE = {f"D{number}": "x" for number in range(31)}


@pytest.mark.parametrize(
    ("field", "entries", "options"),
    [
        ("value", [ONE._replace(values=[1, math.nan])], {}),
        ("value", [ONE._replace(values=[math.inf])], {}),
        ("value", [ONE._replace(values=[2**361])], {}),
        ("value", [ONE._replace(values=["1"])], {}),
        ("value", [ONE._replace(values=[None])], {}),
        ("name", [ONE._replace(name="")], {}),
        ("name", [ONE._replace(name=" ")], {}),
        ("name", [ONE._replace(name="x" * 256)], {}),
        ("name", [ONE._replace(name="Größe")], {}),
        ("name", [ONE._replace(name="a\nb")], {}),
        ("name", [ONE._replace(name="_aws")], {}),
        ("name", [ONE._replace(name=None)], {}),
        ("name", [ONE], {"sets": [["M"]], "dimensions": {"M": "x"}}),
        ("unit", [ONE._replace(unit="count")], {}),
        ("unit", [ONE._replace(unit=[])], {}),
        ("resolution", [ONE._replace(resolution=30)], {}),
        ("resolution", [ONE._replace(resolution=True)], {}),
        ("dimensions", [ONE], {"sets": []}),
        ("dimensions", [ONE], {"sets": [["Key"]]}),
        ("dimensions", [ONE], {"sets": [["Key"]], "dimensions": {"Key": ""}}),
        ("dimensions", [ONE], {"sets": [["Key"]], "dimensions": {"Key": 7}}),
        ("dimensions", [ONE], {"sets": [["Key"]], "dimensions": {"Key": "é"}}),
        ("dimensions", [ONE], {"sets": [["Key"]], "dimensions": {"Key": "x" * 1025}}),
        ("dimensions", [ONE], {"sets": [["k" * 251]], "dimensions": {"k" * 251: "x"}}),
        ("dimensions", [ONE], {"sets": [[":key"]], "dimensions": {":key": "x"}}),
        ("dimensions", [ONE], {"sets": [["_aws"]], "dimensions": {"_aws": "x"}}),
        ("dimensions", [ONE], {"sets": [list(THIRTY_ONE)], "dimensions": THIRTY_ONE}),
        ("properties", [ONE], {"properties": {"p": math.nan}}),
        ("properties", [ONE], {"properties": {"p": object()}}),
        ("properties", [ONE], {"properties": {"": 1}}),
        ("size", [ONE], {"properties": {"p": "x" * 300_000}}),
        ("size", [ONE], {"max_bytes": 100}),
    ],
)
def test_what_would_be_dropped_is_refused(field: str, entries: list[Entry], options: dict[str, Any]) -> None:
    """The error names the part, and comes before anything was written, also for what stands beside it."""
    with pytest.raises(FormatError) as raised:
        write_documents(
            "Tests",
            options.pop("sets", [[]]),
            options.pop("dimensions", {}),
            [Entry("Fine", "Count", 60, [1]), *entries],
            NOON_MS,
            **options,
        )
    assert raised.value.field == field


@pytest.mark.parametrize("namespace", ["", " ", "AWS/EC2", ":x", "Größe", "a*b", "x" * 256, None])
def test_a_namespace_is_checked(namespace: Any) -> None:
    """CloudWatch would take nothing out of the document."""
    with pytest.raises(FormatError, match="namespace"):
        write_documents(namespace, [[]], {}, [ONE], NOON_MS)


@pytest.mark.parametrize("timestamp", [1.5, -1, True, None, "1"])
def test_a_timestamp_is_whole_milliseconds(timestamp: Any) -> None:
    """The schema wants an integer."""
    with pytest.raises(FormatError, match="timestamp"):
        write_documents("Tests", [[]], {}, [ONE], timestamp)


def test_messages_do_not_repeat_dimension_values() -> None:
    """They may be personal data."""
    with pytest.raises(FormatError) as raised:
        write_documents("Tests", [["User"]], {"User": "Zoë"}, [ONE], NOON_MS)
    assert "User" in str(raised.value)
    assert "Zo" not in str(raised.value)
