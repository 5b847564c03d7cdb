"""Any batch becomes documents that CloudWatch takes as a whole, with the same values."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retainwise_metrics.limits import MAX_VALUE
from retainwise_metrics.sinks.base import SinkRejected, SinkUnavailable
from retainwise_metrics.sinks.emf_format import DocumentSink, Layout, Writer
from retainwise_metrics.testing import EmfReader
from retainwise_metrics.units import MetricUnit
from tests.sinks.emf_documents import NAMESPACE, NOON, batch, check, contents, contents_of, datum, read

if TYPE_CHECKING:
    from retainwise_metrics.datum import Datum

LISTS, OBJECTS = Layout(), Layout("object")


def lines_of(*datums: Datum, layout: Layout = LISTS) -> list[bytes]:
    """All documents of a batch."""
    return list(Writer(layout).documents(batch(*datums)))


# ---- any batch ----

text = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20).filter(
    lambda text: not text.startswith(":") and text != "_aws"
)
names = st.sampled_from(["A", "B", "C", "_", '"'])
# A list may hold any number; the sum of an object has to be one, too.
numbers = st.floats(-1e100, 1e100) | st.sampled_from([0.0, -0.0, 1.0, -7.0, 0.1, 2.0**53, 1e22, MAX_VALUE / 250 / 150])
datums = st.builds(
    lambda name, counted, minute, unit, resolution, dimensions: datum(
        name, counted, at=NOON + 60 * minute, unit=unit, resolution=resolution, **dimensions
    ),
    names,
    st.dictionaries(numbers, st.integers(1, 250), min_size=1, max_size=150)
    | st.dictionaries(numbers, st.integers(1, 3), min_size=1, max_size=3),
    st.integers(0, 2),
    st.sampled_from([unit.value for unit in MetricUnit]),
    st.sampled_from([60, 60, 1]),
    st.sampled_from([{}, {}, {"K": "x"}, {"K": "y", "quote": 'a"b\\'}])
    | st.dictionaries(text.map(lambda key: f"d{key}"), text, max_size=30),
)


@given(
    several=st.lists(datums, min_size=1, max_size=20),
    values=st.sampled_from(["list", "object"]),
    usual=st.sampled_from([4096, 10_000, 256 * 1024]),
    largest=st.sampled_from([60 * 1024, 256 * 1024]),
)
@settings(max_examples=60)
def test_any_batch_becomes_documents_with_the_same_values(
    several: list[Datum], values: str, usual: int, largest: int
) -> None:
    """Whatever the names, dimensions, units, times and counts: the strict reader takes every document, and finds each value as often."""
    layout = Layout(values, max_bytes=largest, usual_bytes=min(usual, largest))
    reader = read(lines_of(*several, layout=layout), max_bytes=largest, objects=values == "object")
    assert contents_of(reader) == contents(several)
    assert reader.other_lines == []


# ---- how ----


def test_what_belongs_together_is_one_document() -> None:
    """Same dimensions and window: one line, whatever the units and resolutions."""
    lines = lines_of(
        datum("A", {1.0: 1}, unit="Count", K="x"),
        datum("B", {1.5: 2}, unit="Seconds", resolution=1, K="x"),
        datum("A", {2.0: 1}, K="y"),
        datum("A", {3.0: 1}, at=NOON - 60, K="x"),
    )
    assert (
        lines[0]
        == (
            f'{{"_aws":{{"Timestamp":{NOON}000,"CloudWatchMetrics":[{{"Namespace":"{NAMESPACE}","Dimensions":[["K"]],"Metrics":['
            '{"Name":"A","Unit":"Count"},{"Name":"B","Unit":"Seconds","StorageResolution":1}]}]},'
            '"K":"x","A":1,"B":[1.5,1.5]}\n'
        ).encode()
    )
    assert len(lines) == 3


def test_a_thousand_metrics_are_ten_documents() -> None:
    """A hundred each."""
    lines = lines_of(*(datum(f"M{index}") for index in range(1000)))
    assert len(lines) == 10
    assert read(lines).total_count() == 1000


def test_values_are_repeated_as_often_as_they_occurred() -> None:
    """A hundred to a document; as an object they are one document."""
    spread = datum("M", {1.0: 250, 2.0: 50})
    assert len(lines_of(spread)) == 3
    assert read(lines_of(spread)).values(NAMESPACE, "M") == {1.0: 250, 2.0: 50}
    (line,) = lines_of(spread, layout=OBJECTS)
    assert b'"M":{"Values":[1,2],"Counts":[250,50],"Count":300,"Sum":350.0,"Min":1.0,"Max":2.0}' in line


def test_a_huge_count_is_never_in_memory_at_once() -> None:
    """The first documents of a thousand million values come at once, and their order is always the same."""
    many = batch(datum("M", {1.0: 10**9}), datum("N"))
    first, again = (list(itertools.islice(Writer(Layout()).documents(many), 250)) for _ in range(2))
    assert first == again
    assert read(first).count(NAMESPACE, "M") == 25_000


def test_more_than_a_hundred_distinct_values_are_several_objects() -> None:
    """EMF allows a hundred values in a list, so no object holds more."""
    lines = lines_of(datum("M", {float(value): 3 for value in range(150)}), datum("N"), layout=OBJECTS)
    reader = read(lines, objects=True)
    assert reader.count(NAMESPACE, "M") == 450
    assert len(lines) == 2


def test_objects_of_many_full_metrics_stay_below_the_limit() -> None:
    """Long values and long names: each document is as full as the limit allows, and no fuller."""
    full = {-1.2345678901234567e-300 * (1 + value / 1000): 1_000_000 for value in range(10)}
    datums = [datum(f"M{index}{'n' * 200}", full) for index in range(300)]
    for limit in (10_000, 30_000, 60_000):
        lines = lines_of(*datums, layout=OBJECTS._replace(max_bytes=limit))
        assert read(lines, objects=True, max_bytes=limit).total_count() == 300 * 10 * 1_000_000
        assert len(lines) < 3 * sum(map(len, lines)) / limit


def test_documents_are_kept_as_small_as_is_usual_where_that_is_possible() -> None:
    """Only what does not fit alone goes into larger ones."""
    layout = Layout(usual_bytes=4096)
    long = {f"Key{index}": "v" * 1000 for index in range(6)}
    lines = lines_of(*(datum(f"M{index}", {1 / 3: 60}) for index in range(50)), datum("Long", **long), layout=layout)
    assert sorted(len(line) > 4096 for line in lines).count(True) == 1
    assert read(lines).total_count() == 50 * 60 + 1


def test_the_log_group_and_stream_are_in_every_document() -> None:
    """The agent asks there."""
    reader = read(lines_of(*(datum(f"M{index}") for index in range(101)), layout=Layout("list", "/ecs/api", "one")))
    assert {(each["_aws"]["LogGroupName"], each["_aws"]["LogStreamName"]) for each in reader.documents} == {
        ("/ecs/api", "one")
    }


# ---- what no document can hold ----


class Collecting(DocumentSink):
    """Keeps documents, and fails when told to."""

    def __init__(self, layout: Layout = LISTS, fails: Any = ()) -> None:
        super().__init__(layout, timeout_seconds=60.0)
        self.lines: list[bytes] = []
        self.fails = iter(fails)

    def _write(self, line: bytes) -> None:
        if next(self.fails, False):
            message = "as told"
            raise SinkUnavailable(message)
        self.lines.append(line)


def test_an_object_whose_sum_would_be_out_of_range_is_rejected() -> None:
    """As a list the same values are fine."""
    extreme = datum("M", {-MAX_VALUE: 1, MAX_VALUE: 2})
    with pytest.raises(SinkRejected, match="2\\*\\*360") as caught:
        Collecting(OBJECTS).send(batch(datum(), extreme))
    assert caught.value.members == (1,)
    assert contents_of(read(lines_of(extreme))) == contents([extreme])


@pytest.mark.parametrize(
    "bad",
    [
        datum("Route", Route="/upload"),
        datum("_aws"),
        datum("M", **{"k" * 251: "x"}),
        datum("M", _aws="x"),
        datum("M", **{f"{index:03}{'k' * 247}": '"' * 1024 for index in range(30)}),
    ],
    ids=["named as its dimension", "named as the format", "long key", "key of the format", "larger than a packet"],
)
@pytest.mark.parametrize("values", ["list", "object"])
def test_what_no_document_can_hold_is_rejected_by_its_index(bad: Datum, values: str) -> None:
    """Before anything is written; without it the rest goes through."""
    sink = Collecting(Layout(values, max_bytes=60 * 1024, usual_bytes=60 * 1024))
    good = [datum("A"), datum("B", Route="/upload")]
    with pytest.raises(SinkRejected, match="no EMF document can hold") as caught:
        sink.send(batch(good[0], bad, good[1], bad))
    assert caught.value.members == (1, 3)
    assert sink.lines == []
    assert "upload" not in str(caught.value)
    sink.send(batch(*good))
    assert contents_of(read(sink.lines, objects=values == "object")) == contents(good)


def test_what_was_found_out_about_series_does_not_grow_for_ever() -> None:
    """A flood of series is forgotten and found out anew."""
    writer = Writer(Layout())
    for index in range(25_000):
        writer._known[datum(f"M{index}").series] = 4096
        if index % 5_000 == 0:
            writer.refuse_what_does_not_fit(batch(datum(f"New{index}")))
    assert len(writer._known) <= 15_000


# ---- a batch that failed in the middle ----


def test_a_batch_goes_on_where_it_failed() -> None:
    """What was written before is not written again when the very same batch comes again."""
    sink = Collecting(fails=[False, False, True, False, True])
    whole = batch(*(datum("M", {float(minute): 1}, at=NOON - 60 * minute) for minute in range(6)))
    for _ in range(2):
        with pytest.raises(SinkUnavailable):
            sink.send(whole)
    sink.send(whole)
    assert contents_of(read(sink.lines)) == contents(whole.datums)
    sink.send(whole)
    assert read(sink.lines).total_count() == 12, "and then it is a batch like any other"


def test_an_equal_batch_of_somebody_else_is_written_whole() -> None:
    """A failed put_metric_sync is not repeated; the next one with the same value is another measurement."""
    sink = Collecting(fails=[False, True])
    first, second = (batch(datum("M"), datum("M", K="x")) for _ in range(2))
    assert first == second
    with pytest.raises(SinkUnavailable):
        sink.send(first)
    sink.send(second)
    assert len(sink.lines) == 3


def test_few_unfinished_batches_are_remembered() -> None:
    """The last four; a child process remembers none."""
    unfinished = [batch(datum(f"A{index}"), datum(f"B{index}", K="x")) for index in range(6)]
    sink = Collecting(fails=[False, True] * 6)
    for each in unfinished:
        with pytest.raises(SinkUnavailable):
            sink.send(each)
    assert len(sink._unfinished) == 4
    sink.send(unfinished[5])
    assert len(sink.lines) == 7, "the document that was missing"
    sink.send(unfinished[0])
    assert len(sink.lines) == 9, "both documents"
    sink.after_fork()
    sink.send(unfinished[4])
    assert len(sink.lines) == 11


def test_who_waits_too_long_for_another_thread_is_told_so() -> None:
    """put_metric_sync beside a flusher that hangs: unavailable, not a wait without end."""
    sink = DocumentSink(Layout(), timeout_seconds=0.01)
    assert sink._turn.acquire()
    with pytest.raises(SinkUnavailable, match="another thread"):
        sink.send(batch(datum()))


def test_the_schema_is_a_check_of_its_own() -> None:
    """It refuses what the reader would have refused, too: 101 metrics."""
    reader = EmfReader()
    metrics = [{"Name": f"M{index}"} for index in range(101)]
    directive = {"Namespace": "N", "Dimensions": [[]], "Metrics": metrics}
    reader.documents.append({"_aws": {"Timestamp": NOON * 1000, "CloudWatchMetrics": [directive]}})
    with pytest.raises(Exception, match="too long"):
        check(reader)
