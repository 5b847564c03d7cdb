"""The strict reader: what CloudWatch would drop or misread without a word raises here, the rest becomes series."""

from __future__ import annotations

import json
from typing import Any

import pytest

from retainwise_metrics.testing import EmfError, EmfReader

NOW = 1_800_000_000.0
NOW_MS = 1_800_000_000_000


def document(**changes: Any) -> dict[str, Any]:
    """A good document; `Dimensions`, `Metrics`, `Timestamp`, ... replace their part, anything else is a root member."""
    directive = {
        "Namespace": changes.pop("Namespace", "App"),
        "Dimensions": changes.pop("Dimensions", [["Route"]]),
        "Metrics": changes.pop("Metrics", [{"Name": "Time", "Unit": "Milliseconds"}]),
    }
    aws = {
        "Timestamp": changes.pop("Timestamp", NOW_MS),
        "CloudWatchMetrics": changes.pop("CloudWatchMetrics", [directive]),
        **changes.pop("aws", {}),
    }
    whole = {"_aws": aws, "Route": "/upload", "Time": [1, 2.5, 2.5], "request_id": "8f0e", **changes}
    return {name: value for name, value in whole.items() if value is not ...}


def read(*documents: dict[str, Any] | str, **options: Any) -> EmfReader:
    """Read documents, or lines."""
    lines = [each if isinstance(each, str) else json.dumps(each) for each in documents]
    return EmfReader(now=lambda: NOW, **options).read("".join(f"{line}\n" for line in lines))


def test_a_good_document_becomes_a_series() -> None:
    """With statistics, percentiles, times and the document itself."""
    emf = read(document())
    where = ("App", "Time", {"Route": "/upload"})
    assert emf.series() == [("App", "Time", (("Route", "/upload"),))]
    assert (emf.sum(*where), emf.count(*where), emf.minimum(*where), emf.maximum(*where)) == (6.0, 3.0, 1.0, 2.5)
    assert emf.values(*where) == {1.0: 1, 2.5: 2}
    assert emf.percentile(*where, 50) == 2.5
    assert emf.windows(*where) == {int(NOW): {1.0: 1, 2.5: 2}}
    assert emf.total_count() == 3
    assert emf.statistics(*where, minute=NOW).count == 3
    assert emf.statistics(*where, minute=NOW + 60).count == 0
    assert emf.statistics(*where, unit="Seconds").count == 0
    assert emf.documents[0]["request_id"] == "8f0e"
    assert emf.count("App", "Time") == 0, "CloudWatch never adds up over dimensions"
    assert repr(emf) == "<EmfReader 1 documents, 1 series, 3 measurements>"


def test_a_metric_is_published_under_each_dimension_set() -> None:
    """The empty set among them."""
    emf = read(document(Dimensions=[["Route"], []]))
    assert emf.count("App", "Time") == emf.count("App", "Time", {"Route": "/upload"}) == 3


def test_seconds_are_kept_at_high_resolution_only() -> None:
    """A minute is the window otherwise."""
    metrics = [{"Name": "Time"}, {"Name": "Fine", "StorageResolution": 1}]
    emf = read(document(Metrics=metrics, Fine=1, Timestamp=NOW_MS + 7_000))
    assert list(emf.windows("App", "Time", {"Route": "/upload"})) == [int(NOW)]
    assert list(emf.windows("App", "Fine", {"Route": "/upload"})) == [int(NOW) + 7]


def test_other_lines_are_kept_apart() -> None:
    """What does not claim to be a document is a log line; a blank one is nothing."""
    emf = read("starting", "", document(), '{"message": "json, but no metrics"}')
    assert emf.other_lines == ["starting", '{"message": "json, but no metrics"}']
    assert emf.total_count() == 3


def test_output_is_taken_in_every_form() -> None:
    """Text, bytes, lines, and in several pieces."""
    line = json.dumps(document())
    for output in (line, line + "\n", line.encode(), [line], [line.encode() + b"\n"]):
        assert EmfReader(now=lambda: NOW).read(output).total_count() == 3
    assert EmfReader(now=lambda: NOW).read([line] * 2).read(line).total_count() == 9


BROKEN: dict[str, tuple[dict[str, Any] | str, str]] = {
    "torn": (json.dumps(document())[:-1], "not JSON"),
    "text before": ("INFO " + json.dumps(document()), "before or after"),
    "two on a line": (json.dumps(document()) * 2, "before or after"),
    "in a list": (json.dumps([document()]), "not an object"),
    "NaN": (document(Time=float("nan")), "NaN is not JSON"),
    "infinity in a list": (document(Time=[float("inf")]), "Infinity is not JSON"),
    "a member twice": ('{"_aws": 1, "A": 1, "A": 2}', "'A' stands twice"),
    "no directives": (document(CloudWatchMetrics=[]), "CloudWatchMetrics is empty"),
    "directives missing": (document(CloudWatchMetrics=None), "missing or not a list"),
    "no timestamp": (document(Timestamp=None), "Timestamp is not a whole number"),
    "a fraction": (document(Timestamp=NOW_MS + 0.5), "Timestamp is not a whole number"),
    "true": (document(Timestamp=True), "Timestamp is not a whole number"),
    "seconds": (document(Timestamp=int(NOW)), "looks like seconds"),
    "too old": (document(Timestamp=NOW_MS - 14 * 86_400_000 - 1000), "past two weeks"),
    "too new": (document(Timestamp=NOW_MS + 7_201_000), "past two weeks"),
    "log group": (document(aws={"LogGroupName": 5}), "LogGroupName"),
    "no namespace": (document(Namespace=None), "Namespace is not a text"),
    "empty namespace": (document(Namespace=""), "Namespace is required"),
    "reserved namespace": (document(Namespace="AWS/Lambda"), "AWS/"),
    "no dimension sets": (document(Dimensions=[]), r"\[\[\]\]"),
    "a null set": (document(Dimensions=[None]), "a dimension set is missing"),
    "a flat set": (document(Dimensions=["Route"]), "a dimension set is missing or not a list"),
    "the same set twice": (document(Dimensions=[["Route"], ["Route"]]), "set stands twice"),
    "31 dimensions": (
        document(Dimensions=[[f"D{i}" for i in range(31)]], **{f"D{i}": "x" for i in range(31)}),
        "31 keys",
    ),
    "a long key": (document(Dimensions=[["k" * 251]], **{"k" * 251: "x"}), "250"),
    "a missing dimension": (document(Route=...), "'Route' refers to a member that is missing"),
    "a number for a dimension": (document(Route=5), "'Route' is not a text"),
    "null for a dimension": (document(Route=None), "'Route' is not a text"),
    "an empty dimension": (document(Route=""), "without dimensions"),
    "a blank dimension": (document(Route=" "), "without dimensions"),
    "a long dimension": (document(Route="x" * 1025), "shorter than 1025"),
    "a dimension in another script": (document(Route="gr\u00fcn"), "non-ASCII"),
    "the key twice": (document(Dimensions=[["Route", "Route"]]), "more than once"),
    "no metrics": (document(Metrics=[]), "0 metrics"),
    "101 metrics": (
        document(Metrics=[{"Name": f"M{i}"} for i in range(101)], **{f"M{i}": 1 for i in range(101)}),
        "101",
    ),
    "a missing metric": (document(Time=...), "'Time' refers to a member that is missing"),
    "a nameless metric": (document(Metrics=[{}]), "None refers"),
    "the format's own member": (document(Metrics=[{"Name": "_aws"}]), "'_aws' refers"),
    "text for a number": (document(Time="5"), "not a number: str"),
    "true for a number": (document(Time=[True]), "not a number: bool"),
    "null for a number": (document(Time=[1, None]), "not a number: NoneType"),
    "no values": (document(Time=[]), "0 values"),
    "101 values": (document(Time=[1] * 101), "101 values"),
    "nested values": (document(Time=[[1]]), "not a number: list"),
    "an object": (document(Time={"Count": 1, "Sum": 1, "Min": 1, "Max": 1}), "not a number: dict"),
    "out of range": (document(Time=2.0**361), "is invalid"),
    "far out of range": (document(Time=10**400), "is invalid"),
    "a unit of its own": (document(Metrics=[{"Name": "Time", "Unit": "Hours"}]), "'Hours'"),
    "a resolution of its own": (document(Metrics=[{"Name": "Time", "StorageResolution": 10}]), "resolution"),
    "a metric twice": (document(Metrics=[{"Name": "Time"}, {"Name": "Time", "StorageResolution": 1}]), "stands twice"),
    "a metric that is a dimension": (document(Metrics=[{"Name": "Route"}]), "not a number|name of one of"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cloudwatch_would_not_tell_of_is_said(name: str) -> None:
    """With the line it is on; nothing of that line is kept, everything before it is."""
    broken, reason = BROKEN[name]
    emf = read(document())
    with pytest.raises(EmfError, match=reason) as caught:
        emf.read(broken if isinstance(broken, str) else json.dumps(broken))
    assert str(caught.value).startswith("line 2: ")
    assert emf.total_count() == 3


def test_a_document_that_is_too_large_is_refused() -> None:
    """In bytes, with its newline."""
    line = json.dumps(document(note="\u00fc" * 100), ensure_ascii=False)
    size = len(line.encode()) + 1
    assert read(line, max_bytes=size).total_count() == 3
    with pytest.raises(EmfError, match=f"{size} bytes"):
        read(line, max_bytes=size - 1)


def test_dimension_values_are_not_repeated_in_messages() -> None:
    """They may be personal."""
    with pytest.raises(EmfError) as caught:
        read(document(Route="secret\u00fc"))
    assert "secret" not in str(caught.value)


def test_objects_are_read_where_they_are_expected() -> None:
    """The form of AWS's exporters: with values, or as statistics alone."""
    whole = {"Values": [1, 2], "Counts": [1, 2], "Count": 3, "Sum": 5, "Min": 1, "Max": 2}
    emf = read(document(Time=whole), objects=True)
    where = ("App", "Time", {"Route": "/upload"})
    assert (emf.values(*where), emf.sum(*where), emf.percentile(*where, 99)) == ({1.0: 1, 2.0: 2}, 5.0, 2.0)
    alone = {name: value for name, value in whole.items() if name not in {"Values", "Counts"}}
    emf = read(document(Time=alone), objects=True)
    assert (emf.count(*where), emf.sum(*where), emf.percentile(*where, 99)) == (3.0, 5.0, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"Count": 4},
        {"Sum": 6},
        {"Min": 0},
        {"Max": 3},
        {"Counts": [3]},
        {"Values": [1, 1]},
        {"Values": []},
        {"Sum": None},
        {"Values": list(range(101)), "Counts": [1] * 101, "Count": 101, "Sum": 5050, "Min": 0, "Max": 100},
    ],
)
def test_an_object_that_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    """Statistics are those of the values."""
    whole = {"Values": [1, 2], "Counts": [1, 2], "Count": 3, "Sum": 5, "Min": 1, "Max": 2, **wrong}
    with pytest.raises(EmfError):
        read(document(Time=whole), objects=True)
    del whole["Max"]
    with pytest.raises(EmfError, match="without Max"):
        read(document(Time=whole), objects=True)
