"""
Every limit of the API, exactly and one beyond: over HTTP, to a CloudWatch that knows the limits by itself.

What a record may be is in `tests/test_client.py`, where nothing is sent; here the same records arrive. Then come the limits that concern
several records at once, and for each the proof that the other side would not take one more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from retainwise_metrics import CloudWatchMetrics, DropReason, InvalidMetricError, MetricsConfig
from retainwise_metrics.datum import Batch, Datum, Series
from retainwise_metrics.limits import (
    DATUMS_PER_CALL,
    DIMENSIONS,
    FUTURE_SECONDS,
    MAX_VALUE,
    PAST_SECONDS,
    RECORDED_AT_ONCE,
    REQUEST_BYTES,
    VALUES_PER_DATUM,
    VALUES_PER_RECORD,
)
from retainwise_metrics.sinks.base import SinkRejected, SinkTooLarge
from retainwise_metrics.sinks.put_metric_data import Connection, PutMetricDataSink
from retainwise_metrics.testing import FakeCloudWatch, ManualRuntime
from tests.helpers import NAMESPACE, assert_balanced
from tests.test_client import NOW, RULES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Made = tuple[CloudWatchMetrics, FakeCloudWatch]

LONGEST_SECONDS = 1000.0


@pytest.fixture(scope="module")
def sink_of() -> Iterator[Callable[[FakeCloudWatch], PutMetricDataSink]]:
    """A sink for a server; making its connection takes longer than everything else here."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "x")
        yield lambda server: PutMetricDataSink(
            Connection(region="us-east-1", endpoint_url=server.endpoint_url, read_timeout_seconds=60.0)
        )


@pytest.fixture(scope="module")
def server() -> Iterator[FakeCloudWatch]:
    """A CloudWatch whose clock stands where that of the clients begins."""
    with FakeCloudWatch(now=lambda: NOW) as made:
        yield made


@pytest.fixture(scope="module")
def sink(server: FakeCloudWatch, sink_of: Callable[[FakeCloudWatch], PutMetricDataSink]) -> PutMetricDataSink:
    """One connection for all of them."""
    return sink_of(server)


@pytest.fixture
def make(sink: PutMetricDataSink) -> Callable[..., CloudWatchMetrics]:
    """Make a client of it."""

    def made(**settings: Any) -> CloudWatchMetrics:
        return CloudWatchMetrics(
            MetricsConfig(**{"catalogue": (), **settings}), sink=sink, runtime=ManualRuntime(wall=NOW)
        )

    return made


def deliver(client: CloudWatchMetrics) -> None:
    """Everything is delivered, nothing is refused by the server."""
    assert client.flush(LONGEST_SECONDS)
    stats = client.stats()
    assert (stats.dropped, stats.failed_calls, stats.pending) == ({}, 0, 0), stats
    assert_balanced(client)


def datum(**changes: Any) -> Datum:
    """A datum as the pipeline makes them, but for the changes."""
    series = Series(
        changes.pop("namespace", NAMESPACE),
        changes.pop("name", "M"),
        changes.pop("dimensions", ()),
        changes.pop("unit", "Count"),
        changes.pop("resolution", 60),
    )
    values = changes.pop("values", (1.0,))
    counts = changes.pop("counts", (1,) * len(values))
    return Datum(series, changes.pop("timestamp", int(NOW)), values, counts, sum(counts))


@pytest.mark.parametrize("rule", RULES)
def test_what_a_client_takes_at_the_limit_the_server_takes(
    rule: str, make: Callable[..., CloudWatchMetrics], server: FakeCloudWatch
) -> None:
    """Each rule of a single record: delivered at the limit; one beyond nothing is sent at all."""
    client = make(strict=True)
    accepted = len(server.accepted_calls)
    taken, refused = ({"name": "M", "value": 1, **arguments} for arguments in (RULES[rule].taken, RULES[rule].refused))
    # The minute that began two weeks ago is over the limit when it leaves; a second has no such edge.
    resolution = {"storage_resolution": 1} if "timestamp" in taken else {}
    assert client.put_metric(**{**taken, **resolution})
    assert client.put_metric_sync(**{**taken, **resolution})
    with pytest.raises(InvalidMetricError):
        client.put_metric_sync(**refused)
    assert client.flush(LONGEST_SECONDS)
    assert client.stats().delivered == 2
    assert len(server.accepted_calls) == accepted + 2
    assert server.rejected_calls == []


LARGEST = math.nextafter(MAX_VALUE, math.inf)
BEYOND: dict[str, Datum] = {
    "name": datum(name="n" * 256),
    "namespace": datum(namespace="n" * 256),
    "reserved namespace": datum(namespace="AWS/Mine"),
    "dimensions": datum(dimensions=tuple((f"D{number:02}", "x") for number in range(DIMENSIONS + 1))),
    "dimension name": datum(dimensions=(("d" * 256, "x"),)),
    "dimension value": datum(dimensions=(("D", "v" * 1025),)),
    "value": datum(values=(LARGEST,)),
    "lowest value": datum(values=(-LARGEST,)),
    "unit": datum(unit="count"),
    "values": datum(values=tuple(map(float, range(VALUES_PER_DATUM + 1)))),
    "past": datum(timestamp=int(NOW) - PAST_SECONDS - 1),
    "future": datum(timestamp=int(NOW) + FUTURE_SECONDS + 1),
}


@pytest.mark.parametrize("limit", BEYOND)
def test_one_beyond_the_server_would_refuse(limit: str, sink_of: Callable[[FakeCloudWatch], PutMetricDataSink]) -> None:
    """So what is refused by the client is refused for a reason, and what arrived above was really at the limit."""
    with FakeCloudWatch(now=lambda: NOW) as server, pytest.raises(SinkRejected):
        sink_of(server).send(Batch(BEYOND[limit].series.namespace, (BEYOND[limit],), 1000))
    assert len(server.rejected_calls) == 1


@pytest.mark.parametrize("resolution", [1, 60])
def test_the_oldest_and_the_newest_moment(
    resolution: int, make: Callable[..., CloudWatchMetrics], server: FakeCloudWatch
) -> None:
    """
    To the second; one second beyond is refused, and the message says by how much and what the limit is.

    What is exactly two weeks old arrives when it is sent at once. What waits for the next flush is over the limit then, and is counted.
    """
    client = make(strict=True)
    oldest, newest = NOW - PAST_SECONDS, NOW + FUTURE_SECONDS
    name = f"Moment{resolution}"
    for moment in (oldest, newest):
        assert client.put_metric_sync(name, 1, timestamp=moment, storage_resolution=resolution)
    for moment in (oldest, oldest + 60, NOW, newest - 1, newest):
        assert client.put_metric(name, 1, timestamp=moment, storage_resolution=resolution)
    for moment, days in ((oldest - 1, "-14.00"), (newest + 1, "+0.08")):
        with pytest.raises(InvalidMetricError, match="timestamp") as caught:
            client.put_metric(name, 1, timestamp=moment, storage_resolution=resolution)
        assert days in str(caught.value)
        assert "two weeks back to two hours ahead" in str(caught.value)
    assert client.flush(LONGEST_SECONDS)
    assert server.count(NAMESPACE, name) == client.stats().delivered == 6
    assert client.stats().dropped == {DropReason.INVALID_TIMESTAMP: 2, DropReason.TOO_OLD: 1}


@pytest.mark.parametrize(("distinct", "datums"), [(150, 1), (151, 2), (300, 2), (301, 3), (1000, 7)])
def test_values_per_datum(
    distinct: int, datums: int, make: Callable[..., CloudWatchMetrics], server: FakeCloudWatch
) -> None:
    """The 151st value goes into a datum of its own, whichever way the values came."""
    client, name = make(), f"Distinct{distinct}"
    calls = len(server.accepted_calls)
    assert all(client.put_metric(f"{name}Single", value + 0.5) for value in range(distinct))
    assert client.put_values(f"{name}Counts", {value + 0.5: 3 for value in range(distinct)})
    deliver(client)
    assert server.count(NAMESPACE, f"{name}Single") == distinct
    assert server.count(NAMESPACE, f"{name}Counts") == 3 * distinct
    assert sum(call.datums for call in server.accepted_calls[calls:]) == 2 * datums


@pytest.mark.parametrize(("series", "calls"), [(1000, 1), (1001, 2)])
def test_datums_per_call(
    series: int, calls: int, make: Callable[..., CloudWatchMetrics], server: FakeCloudWatch
) -> None:
    """A thousand fill a call, and one more needs another."""
    client, before = make(batch_size=DATUMS_PER_CALL, max_series_per_metric=2000), len(server.accepted_calls)
    assert all(client.put_metric(f"Call{series}", 1, dimensions={"Shelf": f"s{each}"}) for each in range(series))
    deliver(client)
    sent = [call.datums for call in server.accepted_calls[before:]]
    assert (sum(sent), len(sent), max(sent)) == (series, calls, DATUMS_PER_CALL)


def test_a_thousand_and_one_datums_the_server_would_refuse(
    sink_of: Callable[[FakeCloudWatch], PutMetricDataSink],
) -> None:
    """In one call."""
    datums = tuple(datum(name=f"M{number}") for number in range(DATUMS_PER_CALL + 1))
    with FakeCloudWatch(now=lambda: NOW) as server, pytest.raises(SinkRejected):
        sink_of(server).send(Batch(NAMESPACE, datums, 100_000))


@pytest.mark.parametrize("beyond", [0, 1])
def test_bytes_of_a_request(
    beyond: int, make: Callable[..., CloudWatchMetrics], server: FakeCloudWatch, sink: PutMetricDataSink
) -> None:
    """Bodies of exactly the largest size this library sends; one byte more, and the last datum goes with the next call."""
    client = make(batch_size=DATUMS_PER_CALL, max_series_per_metric=2000)
    name, before = f"Bytes{beyond}", len(server.accepted_calls)

    def size(of: dict[str, str]) -> int:
        return sink.datum_bytes(datum(dimensions=tuple(sorted(of.items())), unit="None", name=name))

    left = REQUEST_BYTES - sink.envelope_bytes(NAMESPACE)
    records: list[dict[str, str]] = []
    while left > 3_000:
        records.append({"A": "y " * 500, "B": f"s{len(records):05}"})
        left -= size(records[-1])
    for last in (False, True):  # two more, which share what is left, to the byte
        records.append({"A": "z", "B": f"s{len(records):05}"})
        room = left if last else left // 2
        records[-1]["A"] = "z" * (1 + room - size(records[-1]))
        left -= size(records[-1])
    assert left == 0
    if beyond:
        records[-1]["A"] += "z"
    assert all(client.put_metric(name, 1, dimensions=each) for each in records)
    deliver(client)
    sizes = [call.body_bytes for call in server.accepted_calls[before:]]
    assert len(sizes) == 1 + beyond
    assert sizes[0] == REQUEST_BYTES if not beyond else sizes[0] < REQUEST_BYTES


def test_one_byte_more_than_the_server_takes(sink_of: Callable[[FakeCloudWatch], PutMetricDataSink]) -> None:
    """A server with a smaller limit: halved until it fits; a datum that is too large by one byte alone is dropped, the others are not."""
    probe = PutMetricDataSink(Connection())
    one = probe.envelope_bytes(NAMESPACE) + probe.datum_bytes(
        datum(name="Size", unit="None", dimensions=(("A", "x" * 900),))
    )
    with FakeCloudWatch(now=lambda: NOW, max_body_bytes=one) as server:
        sink = sink_of(server)
        with pytest.raises(SinkTooLarge):
            sink.send(Batch(NAMESPACE, (datum(name="Size", unit="None", dimensions=(("A", "x" * 901),)),), one + 1))
        client = CloudWatchMetrics(MetricsConfig(catalogue=()), sink=sink, runtime=ManualRuntime(wall=NOW))
        for length in (899, 900, 901):
            assert client.put_metric("Size", 1, dimensions={"A": "x" * length})
        client.flush(LONGEST_SECONDS)
        assert client.stats().dropped == {DropReason.TOO_LARGE: 1}
        assert server.total_count() == client.stats().delivered == 2
        assert_balanced(client)


def test_counts(make: Callable[..., CloudWatchMetrics], server: FakeCloudWatch) -> None:
    """A thousand values and 2**53 occurrences at once, and the extremes of what a value may be."""
    client = make(strict=True)
    assert client.put_values("Many", {value * 0.25: 1 for value in range(VALUES_PER_RECORD)})
    assert client.put_values("Often", {0.5: RECORDED_AT_ONCE - 1, 1.5: 1})
    extremes = {MAX_VALUE: 1, -MAX_VALUE: 2, math.nextafter(MAX_VALUE, 0.0): 3, 5e-324: 4, -5e-324: 5, 0.0: 6}
    assert client.put_values("Extreme", extremes)
    deliver(client)
    assert server.count(NAMESPACE, "Many") == VALUES_PER_RECORD
    assert server.count(NAMESPACE, "Often") == RECORDED_AT_ONCE
    assert server.values(NAMESPACE, "Extreme") == extremes


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (dict.fromkeys(range(VALUES_PER_RECORD + 1), 1), ("counts", "1001", "1 to 1000", "parts")),
        ({}, ("counts", "0 values", "1 to 1000", "record")),
        ({1.5: RECORDED_AT_ONCE, 2.5: 1}, ("counts", "9007199254740993", "2**53", "parts")),
        ({1.5: 0}, ("counts", "not 0", "from 1", "leave the value out")),
        ({LARGEST: 1}, ("value", "2**360", "leave the record out")),
        ([1.5], ("counts", "a list", "a dict of 1 to 1000", "values")),
    ],
    ids=["values", "none", "occurrences", "zero", "largest", "type"],
)
def test_one_beyond_what_can_be_recorded_at_once(
    counts: Any, words: tuple[str, ...], make: Callable[..., CloudWatchMetrics]
) -> None:
    """The message names the thing, what was given, the limit and the remedy."""
    client = make(strict=True)
    with pytest.raises(InvalidMetricError) as caught:
        client.put_values("M", counts)
    for word in words:
        assert word in str(caught.value)
    assert client.stats().dropped == {DropReason.INVALID_VALUE: 1}


def test_the_largest_record_there_is(make: Callable[..., CloudWatchMetrics], server: FakeCloudWatch) -> None:
    """Everything at its limit in one record: name, namespace, thirty dimensions with the longest names and values, and a value."""
    client = make(strict=True)
    dimensions = {f"{number:02}".ljust(255, "k"): "v w " * 256 for number in range(DIMENSIONS)}
    name, namespace = "n" * 255, "s/" * 127 + "s"
    assert client.put_metric(name, -MAX_VALUE, "Terabits/Second", namespace=namespace, dimensions=dimensions)
    deliver(client)
    assert server.values(namespace, name, dimensions) == {-MAX_VALUE: 1.0}
