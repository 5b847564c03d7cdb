"""No request breaks a limit of the API, whatever was recorded - judged by botocore's own serialiser."""

from __future__ import annotations

import json
from typing import Any

import boto3.session
import botocore.session
from botocore.serialize import create_serializer
from hypothesis import given, settings
from hypothesis import strategies as st

from retainwise_metrics import CloudWatchMetrics, MetricsConfig, MetricUnit
from retainwise_metrics.datum import Batch, Datum, Series
from retainwise_metrics.limits import DATUMS_PER_CALL, REQUEST_BYTES, VALUES_PER_DATUM
from retainwise_metrics.sinks.put_metric_data import Connection, PutMetricDataSink, to_wire
from retainwise_metrics.testing import ManualRuntime

OPERATION = botocore.session.get_session().get_service_model("cloudwatch").operation_model("PutMetricData")
SERIALISER = create_serializer("json", include_validation=False)


def body_of(batch: Batch) -> bytes:
    """The body botocore would send."""
    request = SERIALISER.serialize_to_request(
        {"Namespace": batch.namespace, "MetricData": [to_wire(datum) for datum in batch.datums]}, OPERATION
    )
    body = request["body"]
    return body if isinstance(body, bytes) else body.encode()


class CheckingSink(PutMetricDataSink):
    """Serialises instead of sending, and checks each request against the limits of the API."""

    def __init__(self) -> None:
        super().__init__(Connection())
        self.requests = 0
        self.measurements = 0
        self.problems: list[BaseException] = []
        """The flusher survives whatever a sink raises, so a failed check is kept for the test to see."""

    def send(self, batch: Batch) -> None:
        try:
            self.check(batch)
        except Exception as problem:
            self.problems.append(problem)

    def check(self, batch: Batch) -> None:
        body = body_of(batch)
        assert len(body) == batch.encoded_bytes <= REQUEST_BYTES < 1_000_000
        wire = json.loads(body)
        assert 1 <= len(wire["MetricData"]) <= DATUMS_PER_CALL
        for datum in wire["MetricData"]:
            values = datum.get("Values", [datum.get("Value")])
            assert 1 <= len(values) <= VALUES_PER_DATUM
            assert len(set(values)) == len(values)
            assert len(datum.get("Counts", values)) == len(values)
            assert ("Value" in datum) != ("Values" in datum)
        self.requests += 1
        self.measurements += batch.measurements


printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=255).filter(
    lambda text: bool(text.strip()) and not text.startswith(":")
)
values = st.floats(min_value=-(2.0**360), max_value=2.0**360, allow_nan=False) | st.integers(-(2**360), 2**360)


@given(
    batch_size=st.sampled_from([1, 20, 1000]),
    records=st.lists(
        st.tuples(
            st.sampled_from(["A", "B" * 255]),
            st.lists(values, min_size=1, max_size=200),
            st.dictionaries(printable, printable, max_size=30),
        ),
        min_size=1,
        max_size=30,
    ),
    unit=st.sampled_from(list(MetricUnit)),
    resolution=st.sampled_from([1, 60]),
)
@settings(max_examples=40, deadline=None)
def test_no_request_breaks_a_limit_and_its_size_is_known_exactly(
    batch_size: int, records: list[Any], unit: MetricUnit, resolution: int
) -> None:
    """Any names, dimensions, values and batch size: at most 1,000 datums, 150 values each, under 1 MB, predicted to the byte."""
    sink = CheckingSink()
    client = CloudWatchMetrics(MetricsConfig(batch_size=batch_size), sink=sink, runtime=ManualRuntime())
    for name, numbers, dimensions in records:
        for number in numbers:
            client.put_metric(name, number, unit, dimensions=dimensions, storage_resolution=resolution)
    client.flush(timeout=1000.0)
    assert sink.problems == []
    assert client.stats().pending == 0
    assert sink.measurements == client.stats().delivered
    assert client.stats().failed_calls == 0, client.stats()


def test_the_largest_legal_datums_are_split_by_bytes() -> None:
    """A thousand datums of 30 dimensions with the longest names and values would be 36 MB; every request stays below the limit."""
    sink = CheckingSink()
    client = CloudWatchMetrics(
        MetricsConfig(batch_size=1000, max_series=2000, max_series_per_metric=2000), sink=sink, runtime=ManualRuntime()
    )
    for index in range(200):
        dimensions = {f"{number:03}{'k' * 252}": f"{index:04}{'Quotes and words ' * 60}" for number in range(30)}
        assert client.put_metric("N" * 255, 1 / 3, dimensions=dimensions)
    assert client.flush(timeout=1000.0)
    assert sink.problems == []
    assert sink.measurements == 200
    assert sink.requests >= 200 * 30 * 1275 // REQUEST_BYTES


def test_a_thousand_full_datums_are_split_by_bytes_and_values() -> None:
    """150,000 distinct full-precision values are 4 MB raw: count-only batching would be refused."""
    sink = CheckingSink()
    client = CloudWatchMetrics(MetricsConfig(batch_size=1000), sink=sink, runtime=ManualRuntime())
    for series in range(300):
        for index in range(150):
            client.put_metric("M", (series + 1) / (index + 3), dimensions={"Series": f"s{series}"})
    assert client.flush(timeout=1000.0)
    assert sink.problems == []
    assert sink.measurements == 300 * 150


@given(
    name=printable,
    namespace=printable,
    dimensions=st.dictionaries(printable, st.text(min_size=1, max_size=50), max_size=5),
    counted=st.lists(
        st.tuples(values, st.integers(1, 10**9)), min_size=1, max_size=150, unique_by=lambda pair: float(pair[0])
    ),
    timestamp=st.integers(0, 4_000_000_000),
    resolution=st.sampled_from([1, 60]),
)
@settings(deadline=None)
def test_the_size_of_one_datum_is_exact(
    name: str,
    namespace: str,
    dimensions: dict[str, str],
    counted: list[tuple[float, int]],
    timestamp: int,
    resolution: int,
) -> None:
    """The computed size equals what botocore writes, escapes and all."""
    sink = PutMetricDataSink(Connection())
    series = Series(namespace, name, tuple(sorted(dimensions.items())), "Count", resolution)
    numbers, counts = tuple(float(value) for value, _ in counted), tuple(count for _, count in counted)
    datum = Datum(series, timestamp, numbers, counts, sum(counts))
    size = sink.envelope_bytes(namespace) + sink.datum_bytes(datum)
    assert size == len(body_of(Batch(namespace, (datum,), size)))


def test_botocore_speaks_json_to_cloudwatch() -> None:
    """The sizes above are computed for this encoding; the dependency's lower bound guarantees it."""
    client = boto3.session.Session().client("cloudwatch", region_name="us-east-1")
    assert client.meta.service_model.resolved_protocol == "json"
