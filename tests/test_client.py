"""The recording surface of the client: what is taken and refused, where it goes, and that nothing personal is kept."""

from __future__ import annotations

import enum
import gc
import logging
import math
import sys
import types
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retainwise_metrics import (
    CloudWatchMetrics,
    DimensionPolicy,
    DropReason,
    InvalidMetricError,
    MetricNamespace,
    MetricsConfig,
    MetricUnit,
    StorageResolution,
)
from retainwise_metrics.catalogue import CATALOGUE, MetricSpec
from retainwise_metrics.pipeline.intake import COMBINATIONS, LOOKUP_SIZE
from retainwise_metrics.sinks.base import SinkUnavailable
from retainwise_metrics.testing import InMemorySink, ManualRuntime
from tests.helpers import NAMESPACE, assert_balanced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from retainwise_metrics.sinks.base import Batch

    MakeClient = Callable[..., CloudWatchMetrics]

NOW = 1_767_225_600.0
"""Where the manual runtime starts: 2026-01-01T00:00:00Z."""

DAY = 86_400.0


def record(client: CloudWatchMetrics, **changes: Any) -> bool:
    """An ordinary record, but for the changes."""
    return client.put_metric(**{"name": "M", "value": 1, **changes})


def send(client: CloudWatchMetrics, **changes: Any) -> bool:
    """The same, at once."""
    return client.put_metric_sync(**{"name": "M", "value": 1, **changes})


def moment(seconds: float) -> datetime:
    """An aware datetime, so many seconds from now."""
    return datetime.fromtimestamp(NOW, timezone.utc) + timedelta(seconds=seconds)


# ---- the rules of the API, each at its limit and one beyond ----

SECRET = "alice-the-secret-value"
"""A dimension value that no message may contain."""


class Rule(NamedTuple):
    """
    One rule.

    Attributes:
        field: Which argument it is about.
        reason: What a refusal is counted as.
        taken: Arguments at the limit.
        refused: Arguments one beyond.
        says: What the message names: the thing, what was given or the limit, and the remedy.
    """

    field: str
    reason: DropReason
    taken: dict[str, Any]
    refused: dict[str, Any]
    says: tuple[str, ...]


def names(count: int) -> dict[str, str]:
    """So many dimensions."""
    return {f"D{index}": "x" for index in range(count)}


BIG = 2.0**360
BEYOND = math.nextafter(BIG, math.inf)
N, V, U = ("name", DropReason.INVALID_NAME), ("value", DropReason.INVALID_VALUE), ("unit", DropReason.INVALID_UNIT)
S = ("namespace", DropReason.INVALID_NAMESPACE)
D = ("dimensions", DropReason.INVALID_DIMENSIONS)
T = ("timestamp", DropReason.INVALID_TIMESTAMP)
R = ("storage_resolution", DropReason.INVALID_STORAGE_RESOLUTION)

RULES = {
    "name-length": Rule(*N, {"name": "n" * 255}, {"name": "n" * 256}, ("metric name", "256", "255", "shorten")),
    "name-empty": Rule(*N, {"name": "n"}, {"name": ""}, ("metric name", "empty", "1 to 255")),
    "name-blank": Rule(*N, {"name": " n "}, {"name": "  "}, ("metric name", "blank", "1 to 255")),
    "name-charset": Rule(*N, {"name": "!~ x"}, {"name": "naïve"}, ("metric name", "na\\xefve", "ASCII", "replace")),
    "name-control": Rule(*N, {"name": "n"}, {"name": "n\x00"}, ("metric name", "\\x00", "ASCII", "replace")),
    "name-type": Rule(*N, {"name": "5"}, {"name": 5}, ("metric name", "not 5", "string")),
    "value-high": Rule(*V, {"value": BIG}, {"value": BEYOND}, ("value", "2**360", "leave")),
    "value-low": Rule(*V, {"value": -BIG}, {"value": -BEYOND}, ("value", "2**360", "leave")),
    "value-int": Rule(*V, {"value": 2**360}, {"value": 2**360 + 1}, ("value", "bits", "2**360", "leave")),
    "value-nan": Rule(*V, {"value": 0.0}, {"value": math.nan}, ("value", "nan", "2**360", "leave")),
    "value-inf": Rule(*V, {"value": -0.0}, {"value": math.inf}, ("value", "inf", "2**360", "leave")),
    "value-text": Rule(*V, {"value": 5}, {"value": "5"}, ("value", "'5'", "number", "float()")),
    "value-none": Rule(*V, {"value": True}, {"value": None}, ("value", "None", "number", "float()")),
    "unit": Rule(*U, {"unit": "Count"}, {"unit": "count"}, ("unit", "'count'", "MetricUnit")),
    "unit-type": Rule(*U, {"unit": MetricUnit.COUNT}, {"unit": None}, ("unit", "None", "MetricUnit")),
    "namespace-length": Rule(
        *S, {"namespace": "n" * 255}, {"namespace": "n" * 256}, ("namespace", "256", "255", "shorten")
    ),
    "namespace-empty": Rule(*S, {"namespace": "n"}, {"namespace": ""}, ("namespace", "empty", "1 to 255")),
    "namespace-reserved": Rule(*S, {"namespace": "aws/x"}, {"namespace": "AWS/x"}, ("namespace", "AWS/x", "choose")),
    "namespace-colon": Rule(*S, {"namespace": "a:b"}, {"namespace": ":b"}, ("namespace", ":b", "choose")),
    "namespace-charset": Rule(
        *S, {"namespace": "a.-_/#: 0"}, {"namespace": "a@b"}, ("namespace", "a@b", "'@'", "allowed are")
    ),
    "namespace-type": Rule(*S, {"namespace": None}, {"namespace": 5}, ("namespace", "not 5", "string")),
    "dimensions-30": Rule(*D, {"dimensions": names(30)}, {"dimensions": names(31)}, ("30", "leave")),
    "dimension-name-length": Rule(
        *D, {"dimensions": {"d" * 255: "x"}}, {"dimensions": {"d" * 256: SECRET}}, ("256", "255")
    ),
    "dimension-name-empty": Rule(*D, {"dimensions": {"d": "x"}}, {"dimensions": {"": SECRET}}, ("name", "1 to 255")),
    "dimension-name-charset": Rule(
        *D, {"dimensions": {"a b!": "x"}}, {"dimensions": {"é": SECRET}}, ("ASCII", "rename")
    ),
    "dimension-name-colon": Rule(*D, {"dimensions": {"a:": "x"}}, {"dimensions": {":a": SECRET}}, ("':'", "rename")),
    "dimension-name-type": Rule(*D, {"dimensions": {"5": "x"}}, {"dimensions": {5: SECRET}}, ("name", "str", "give")),
    "dimension-value-length": Rule(
        *D,
        {"dimensions": {"A": "v" * 1024}},
        {"dimensions": {"A": SECRET + "v" * 1024}},
        ("'A'", "1046", "1024", "shorten"),
    ),
    "dimension-value-empty": Rule(*D, {"dimensions": {"A": "."}}, {"dimensions": {"A": ""}}, ("'A'", "blank", "leave")),
    "dimension-value-blank": Rule(
        *D, {"dimensions": {"A": " ."}}, {"dimensions": {"A": " "}}, ("'A'", "blank", "leave")
    ),
    "dimension-value-charset": Rule(
        *D, {"dimensions": {"A": "~"}}, {"dimensions": {"A": SECRET + "é"}}, ("'A'", "1024", "ASCII", "replace")
    ),
    "dimension-value-control": Rule(
        *D, {"dimensions": {"A": "x"}}, {"dimensions": {"A": SECRET + "\n"}}, ("'A'", "ASCII", "replace")
    ),
    "dimension-value-none": Rule(*D, {"dimensions": {"A": 0}}, {"dimensions": {"A": None}}, ("'A'", "text", "give")),
    "dimension-value-nan": Rule(
        *D, {"dimensions": {"A": 1.5}}, {"dimensions": {"A": math.nan}}, ("'A'", "NaN", "give")
    ),
    "dimension-value-address": Rule(*D, {"dimensions": {"A": ()}}, {"dimensions": {"A": object()}}, ("'A'", "give")),
    "dimensions-type": Rule(
        *D, {"dimensions": None}, {"dimensions": SECRET}, ("dimensions", "mapping", "a str", "dict")
    ),
    "dimensions-pairs": Rule(
        *D, {"dimensions": {}}, {"dimensions": [("A", SECRET)]}, ("dimensions", "mapping", "a list", "dict")
    ),
    "timestamp-past": Rule(
        *T, {"timestamp": NOW - 14 * DAY + 60}, {"timestamp": NOW - 14 * DAY - 1}, ("timestamp", "-14.00", "two weeks")
    ),
    "timestamp-future": Rule(
        *T, {"timestamp": NOW + 7_200}, {"timestamp": NOW + 7_201}, ("timestamp", "+0.08", "two hours")
    ),
    "timestamp-aware": Rule(
        *T, {"timestamp": moment(-13 * DAY)}, {"timestamp": moment(-15 * DAY)}, ("timestamp", "-15.00", "two weeks")
    ),
    "timestamp-naive": Rule(
        *T,
        {"timestamp": moment(7_140).replace(tzinfo=None)},
        {"timestamp": moment(7_260).replace(tzinfo=None)},
        ("timestamp", "+0.08", "two hours"),
    ),
    "timestamp-milliseconds": Rule(
        *T, {"timestamp": NOW}, {"timestamp": NOW * 1000}, ("timestamp", "milliseconds", "seconds")
    ),
    "timestamp-nan": Rule(*T, {"timestamp": int(NOW)}, {"timestamp": math.nan}, ("timestamp", "nan", "epoch seconds")),
    "timestamp-text": Rule(
        *T, {"timestamp": None}, {"timestamp": "2026-01-01"}, ("timestamp", "'2026-01-01'", "datetime or epoch")
    ),
    "resolution": Rule(
        *R, {"storage_resolution": 1}, {"storage_resolution": 2}, ("1 or 60", "not 2", "StorageResolution")
    ),
    "resolution-zero": Rule(
        *R, {"storage_resolution": 60}, {"storage_resolution": 0}, ("1 or 60", "not 0", "StorageResolution")
    ),
    "resolution-bool": Rule(
        *R, {"storage_resolution": StorageResolution.HIGH}, {"storage_resolution": True}, ("1 or 60", "True")
    ),
}


@pytest.fixture(params=RULES)
def rule(request: pytest.FixtureRequest) -> Rule:
    """Each rule in turn."""
    return RULES[request.param]


def test_at_the_limit_a_record_is_taken_and_delivered(
    client: CloudWatchMetrics, sink: InMemorySink, rule: Rule
) -> None:
    """By the slow path, again by the fast one, and at once."""
    for _ in range(3):
        assert record(client, **rule.taken) is True
    assert send(client, **rule.taken) is True
    assert client.flush()
    assert sum(datum.measurements for datum in sink.datums) == 4
    assert client.stats().dropped == {}
    assert_balanced(client)


@pytest.mark.parametrize("recorder", [record, send])
def test_one_beyond_is_refused_and_counted_and_its_neighbours_arrive(
    client: CloudWatchMetrics, sink: InMemorySink, rule: Rule, recorder: Callable[..., bool]
) -> None:
    """It returns False, under the right reason, also after the same record was taken within the rules."""
    for _ in range(3):
        assert record(client, **rule.taken)
    assert record(client, name="Neighbour")
    for _ in range(3):
        assert recorder(client, **rule.refused) is False
    assert record(client, name="Neighbour")
    for _ in range(3):
        assert record(client, **rule.taken)
    assert client.flush()
    assert client.stats().dropped == {rule.reason: 3}
    assert sink.values(NAMESPACE, "Neighbour") == {1: 2}
    assert sum(datum.measurements for datum in sink.datums) == 8
    assert_balanced(client)


@pytest.mark.parametrize("recorder", [record, send])
def test_in_strict_mode_it_raises_and_the_message_says_what_to_do(
    make_client: MakeClient, rule: Rule, recorder: Callable[..., bool]
) -> None:
    """It names the thing, the value or the limit, and the remedy; it is counted all the same."""
    client = make_client(strict=True)
    with pytest.raises(InvalidMetricError) as caught:
        recorder(client, **rule.refused)
    assert caught.value.field == rule.field
    for word in rule.says:
        assert word in str(caught.value)
    assert SECRET not in everything_in(caught.value)
    assert client.stats().dropped == {rule.reason: 1}
    assert recorder(client, **rule.taken)
    assert_balanced(client)


def everything_in(error: BaseException | None) -> str:
    """The messages of an exception and of all that it came from."""
    text = ""
    while error is not None:
        text += f"{error!r} {error} {error.args} {vars(error)} "
        error = error.__cause__ or error.__context__
    return text


def test_a_refusal_is_logged_at_most_once_a_minute(
    client: CloudWatchMetrics, runtime: ManualRuntime, rule: Rule, caplog: pytest.LogCaptureFixture
) -> None:
    """With the reason, the metric, what was wrong and how often, and never with a dimension value."""
    for _ in range(5):
        for _ in range(200):
            record(client, **rule.refused)
        runtime.advance(20)
        runtime.set_wall(NOW)
    lines = [line.getMessage() for line in caplog.records]
    assert len(lines) == 2
    assert {(line.name, line.levelno) for line in caplog.records} == {("retainwise_metrics", logging.WARNING)}
    assert all(str(rule.reason) in line for line in lines)
    assert all(word in lines[0] for word in rule.says)
    assert "times since the last such line" in lines[1]
    assert SECRET not in "".join(lines)
    if rule.field != "name":
        assert "metric 'M'" in lines[0]


def test_only_the_background_thread_writes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever records may hold the lock of a log handler, or be in a signal handler."""
    client = CloudWatchMetrics(MetricsConfig(), sink=InMemorySink())
    record(client, name="")
    record(client, value="x")
    client.flush()
    client.stop()
    assert len(caplog.records) == 2
    assert {line.threadName for line in caplog.records} == {"retainwise-metrics"}


def test_a_refusal_after_stop_is_counted_without_growing(client: CloudWatchMetrics) -> None:
    """Nobody empties a list then, so there must be none that grows."""
    record(client)
    client.stop()
    for _ in range(30_000):
        assert record(client) is False
        assert record(client, value="x") is False
    assert len(client._intake._refused) < 10_000
    assert client.stats().dropped == {DropReason.STOPPED: 30_000, DropReason.INVALID_VALUE: 30_000}
    assert_balanced(client)


@pytest.mark.parametrize("dimension", ["UserId", "Kind"])
def test_the_same_mistake_is_refused_each_time(client: CloudWatchMetrics, dimension: str) -> None:
    """Equal is not good enough: True equals 1, but is no resolution, also after 1 was used."""
    for resolution in (1, 60):
        record(client, storage_resolution=resolution, dimensions={dimension: "x"})
    for resolution in (True, 1.0, 60.0, Decimal(60)):
        assert record(client, storage_resolution=resolution, dimensions={dimension: "x"}) is False
    assert client.stats().dropped == {DropReason.INVALID_STORAGE_RESOLUTION: 4}


# ---- numbers, units, timestamps ----


class Size(enum.IntEnum):
    """A number with a name."""

    TWO = 2


@pytest.mark.parametrize(
    "number",
    [
        2,
        2.0,
        Size.TWO,
        np.float32(2),
        np.float64(2),
        np.float16(2),
        np.int64(2),
        np.uint8(2),
        np.array(2.0),
        Decimal(2),
        Fraction(2),
    ],
)
def test_equal_numbers_of_any_kind_fold_into_one_value(
    client: CloudWatchMetrics, sink: InMemorySink, number: Any
) -> None:
    """What is sent is a plain number."""
    for _ in range(2):
        assert record(client, value=number)
    assert record(client, value=2)
    assert send(client, value=number)
    client.flush()
    assert sink.values(NAMESPACE, "M") == {2.0: 4}
    assert {type(value) for datum in sink.datums for value in datum.values} <= {int, float}


def test_true_and_false_are_numbers(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """As a metric of successes, for example."""
    for value in (True, False, np.bool_(True)):
        assert record(client, value=value)
    client.flush()
    assert sink.values(NAMESPACE, "M") == {0: 1, 1: 2}
    assert bool not in {type(value) for datum in sink.datums for value in datum.values}


@pytest.mark.parametrize("text", ["5", "5.0", b"5", bytearray(b"5"), np.str_("5")])
def test_a_number_as_text_is_refused(client: CloudWatchMetrics, text: Any) -> None:
    """It is a mistake often enough."""
    assert record(client, value=text) is False
    assert client.stats().dropped == {DropReason.INVALID_VALUE: 1}


@pytest.mark.parametrize("unit", list(MetricUnit))
def test_every_unit_arrives(client: CloudWatchMetrics, sink: InMemorySink, unit: MetricUnit) -> None:
    """As a member and as text, in one series."""
    for _ in range(3):
        assert record(client, unit=unit)
        assert record(client, unit=str(unit))
    client.flush()
    assert {datum.series.unit for datum in sink.datums} == {unit.value}
    assert sink.values(NAMESPACE, "M") == {1: 6}
    assert client.stats().series == 1


def test_two_units_are_two_series(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """CloudWatch keeps them apart, so values of different units are never folded together."""
    for _ in range(3):
        record(client, unit=MetricUnit.SECONDS)
        record(client, unit=MetricUnit.MILLISECONDS)
    client.flush()
    assert Counter((datum.series.unit, datum.measurements) for datum in sink.datums) == {
        ("Seconds", 3): 1,
        ("Milliseconds", 3): 1,
    }


@pytest.mark.parametrize("resolution", [1, 60])
def test_a_record_belongs_to_the_window_of_its_timestamp(
    client: CloudWatchMetrics, sink: InMemorySink, resolution: int
) -> None:
    """Its minute, or its second at high resolution; in whatever form the moment is given."""
    at = NOW - 3600 - 7.25
    zone = timezone(timedelta(hours=-8))
    forms = [
        at,
        Decimal(at),
        moment(at - NOW),
        moment(at - NOW).astimezone(zone),
        moment(at - NOW).replace(tzinfo=None),
    ]
    for form in forms:
        assert record(client, timestamp=form, storage_resolution=resolution)
    client.flush()
    window = NOW - 3600 - 8 if resolution == 1 else NOW - 3600 - 60
    assert [(datum.timestamp, datum.measurements) for datum in sink.datums] == [(window, 5)]


def test_the_minute_that_is_two_weeks_old_is_taken_but_too_old_when_it_leaves(
    client: CloudWatchMetrics, sink: InMemorySink
) -> None:
    """Its window begins before the limit, so CloudWatch would refuse it: it is dropped with its reason."""
    assert record(client, timestamp=NOW - 14 * DAY)
    client.flush()
    assert sink.datums == []
    assert client.stats().dropped == {DropReason.TOO_OLD: 1}
    assert_balanced(client)


# ---- where a record goes ----


def test_a_record_without_a_namespace_goes_to_the_configured_one(make_client: MakeClient, sink: InMemorySink) -> None:
    """Naming it is the same as leaving it out."""
    client = make_client(default_namespace="My/Service")
    for _ in range(3):
        record(client)
        record(client, namespace="My/Service")
        record(client, namespace=MetricNamespace.API)
    client.flush()
    assert sink.values("My/Service", "M") == {1: 6}
    assert sink.values("RetainWise/API", "M") == {1: 3}


def test_a_metric_outside_the_catalogue_has_exactly_its_dimensions(
    client: CloudWatchMetrics, sink: InMemorySink
) -> None:
    """No roll-up is added: each one is billed."""
    record(client, dimensions={"B": "b", "A": "a"})
    record(client, dimensions={"A": "a"})
    client.flush()
    assert [datum.series.dimensions for datum in sink.datums] == [(("A", "a"), ("B", "b")), (("A", "a"),)]


SPECS = (
    MetricSpec("Rolled", NAMESPACE, MetricUnit.COUNT, ((), ("A",), ("A", "B"), ("C",)), "A test."),
    MetricSpec("Strict", NAMESPACE, MetricUnit.BYTES, (("A",),), "A test."),
)


@pytest.mark.parametrize(
    ("name", "dimensions", "published"),
    [
        ("Rolled", None, [{}]),
        ("Rolled", {}, [{}]),
        ("Rolled", {"X": "x"}, [{}]),
        ("Rolled", {"A": "a"}, [{}, {"A": "a"}]),
        ("Rolled", {"B": "b"}, [{}]),
        ("Rolled", {"B": "b", "A": "a"}, [{}, {"A": "a"}, {"A": "a", "B": "b"}]),
        ("Rolled", {"X": 1, "C": "c", "B": "b", "A": "a"}, [{}, {"A": "a"}, {"A": "a", "B": "b"}, {"C": "c"}]),
        ("Strict", {"A": "a", "X": "x"}, [{"A": "a"}]),
        ("Strict", {"X": "x"}, [{"X": "x"}]),
        ("Strict", None, [{}]),
    ],
)
def test_a_record_is_published_once_for_each_set_whose_names_it_has(
    make_client: MakeClient, sink: InMemorySink, name: str, dimensions: Any, published: list[dict[str, str]]
) -> None:
    """The ledger counts it once per set; a record that fits no set keeps its own dimensions, and is not lost."""
    client = make_client(catalogue=SPECS)
    for _ in range(5):
        assert client.put_metric(name, 2, dimensions=dimensions)
    assert client.put_metric_sync(name, 2, dimensions=dimensions)
    assert client.stats().recorded == 6 * len(published)
    client.flush()
    for series in published:
        assert sink.values(NAMESPACE, name, series) == {2: 6}
    assert len({datum.series for datum in sink.datums}) == len(published)
    assert client.stats().delivered == 6 * len(published)
    assert_balanced(client)


def test_a_refused_record_is_counted_once(make_client: MakeClient) -> None:
    """It is refused before it is known how often it would be published; after `stop` it is known."""
    client = make_client(catalogue=SPECS)
    assert client.put_metric("Rolled", 1, dimensions={"A": "a"})
    assert client.put_metric("Rolled", "x", dimensions={"A": "a"}) is False  # type: ignore[arg-type]
    client.stop()
    assert client.put_metric("Rolled", 1, dimensions={"A": "a"}) is False
    assert client.stats().dropped == {DropReason.INVALID_VALUE: 1, DropReason.STOPPED: 2}
    assert_balanced(client)


def test_a_metric_of_the_catalogue_has_its_unit_unless_another_is_given(
    client: CloudWatchMetrics, sink: InMemorySink
) -> None:
    """An alarm sees only one unit; whoever names another one means it."""
    for spec in CATALOGUE:
        for _ in range(3):
            assert client.put_metric(spec.name, 1, namespace=spec.namespace)
    client.put_metric("UploadFileSizeMB", 1, "Kilobytes", namespace=MetricNamespace.API)
    client.put_metric("UploadFileSizeMB", 1)
    client.flush()
    found = {(d.series.namespace, d.series.name, d.series.unit) for d in sink.datums if not d.series.dimensions}
    declared = {(str(spec.namespace), spec.name, spec.unit.value) for spec in CATALOGUE}
    assert found - declared == {
        ("RetainWise/API", "UploadFileSizeMB", "Kilobytes"),
        (NAMESPACE, "UploadFileSizeMB", "None"),
    }
    assert declared <= found


def test_default_dimensions_are_on_every_record_and_its_own_win(make_client: MakeClient, sink: InMemorySink) -> None:
    """On handles and scopes, too; they are sanitised like the others."""
    client = make_client(default_dimensions={"Host": "h1", "UserId": "u"})
    for _ in range(3):
        record(client)
        record(client, dimensions={"Host": "mine", "A": 1})
    client.counter("M").inc()
    client.scoped({"A": 1}).put_metric("M", 1)
    send(client)
    client.flush()
    bucket = DimensionPolicy().resolve("UserId", "u").value
    assert sink.values(NAMESPACE, "M", {"Host": "h1", "UserId": bucket}) == {1: 5}
    assert sink.values(NAMESPACE, "M", {"Host": "mine", "A": "1", "UserId": bucket}) == {1: 3}
    assert sink.values(NAMESPACE, "M", {"Host": "h1", "A": "1", "UserId": bucket}) == {1: 1}


def test_default_and_own_dimensions_together_are_at_most_thirty(make_client: MakeClient) -> None:
    """What counts is what would be published."""
    client = make_client(default_dimensions={"Host": "h"})
    assert record(client, dimensions=names(29))
    assert record(client, dimensions=names(30)) is False


@pytest.mark.parametrize(
    "dimensions",
    [
        {"A": "x"},
        OrderedDict(A="x"),
        defaultdict(str, {"A": "x"}),
        UserDict({"A": "x"}),
        types.MappingProxyType({"A": "x"}),
    ],
)
def test_any_mapping_will_do_for_dimensions(client: CloudWatchMetrics, sink: InMemorySink, dimensions: Any) -> None:
    """And none is changed, also when another record with as many names was there before."""
    before = dict(dimensions)
    for _ in range(3):
        record(client, dimensions={"B": "y"})
        record(client, dimensions=dimensions)
    assert dict(dimensions) == before
    client.flush()
    assert sink.values(NAMESPACE, "M", {"A": "x"}) == {1: 3}
    assert sink.values(NAMESPACE, "M", {"B": "y"}) == {1: 3}


def test_a_mapping_that_contradicts_itself_misleads_nobody_else(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """It is read once, so what its `[]` says cannot end up as the key of another series."""

    class Liar(dict[str, str]):
        def __getitem__(self, name: str) -> str:
            return "lie"

    for _ in range(3):
        record(client, value=1, dimensions=Liar(A="truth"))
        record(client, value=5, dimensions={"A": "lie"})
    client.flush()
    assert sink.values(NAMESPACE, "M", {"A": "truth"}) == {1: 3}
    assert sink.values(NAMESPACE, "M", {"A": "lie"}) == {5: 3}


def test_a_name_that_compares_strangely_does_not_disturb_its_namesake(
    client: CloudWatchMetrics, sink: InMemorySink
) -> None:
    """No table keeps the caller's object as a key."""

    class Evil(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            raise ZeroDivisionError

        __hash__ = str.__hash__

    for _ in range(3):
        client.put_metric(Evil("M"), 1, Evil("Count"), namespace=Evil(NAMESPACE), dimensions={"A": Evil("x")})
        assert record(client, unit="Count", namespace=NAMESPACE, dimensions={"A": "x"})
    client.flush()
    assert sink.values(NAMESPACE, "M", {"A": "x"})[1] >= 3
    assert_balanced(client)


# ---- the fast path and the slow path are one ----


def copied(text: str) -> str:
    """An equal text that is another object."""
    return "".join(list(text))


class Word(str):
    """A string of another type."""

    __slots__ = ()


class Kind(str, enum.Enum):
    """Text with a name."""

    ONE = "1"
    TRUE = "true"
    CSV = "csv"


NAMES = st.sampled_from(["A", "B", Word("A"), copied("A")])
UNITS = st.sampled_from([MetricUnit.COUNT, "Count", copied("Count"), MetricUnit.NONE, "None", Word("None")])
NAMESPACES = st.sampled_from(
    [None, NAMESPACE, MetricNamespace.ML_PIPELINE, MetricNamespace.API, "RetainWise/API", Word("N")]
)
VALUES = st.sampled_from(
    [1, True, 1.0, 0, False, 0.0, -0.0, 2, 2.5, Decimal("2.5"), np.float32(2.5), np.int64(2), Size.TWO]
)
DIMENSION_VALUES = st.sampled_from(
    [
        1,
        True,
        1.0,
        "1",
        "True",
        "true",
        Decimal("1.00"),
        np.int64(1),
        np.float64(1),
        np.True_,
        Word("1"),
        *Kind,
        "csv",
        "x",
        0,
        "0",
    ]
)
DIMENSION_NAMES = st.sampled_from(["Kind", "Plan", "UserId", "StatusCode", Word("Kind")])
DIMENSIONS = st.none() | st.lists(st.tuples(DIMENSION_NAMES, DIMENSION_VALUES), max_size=4).map(dict)
RESOLUTIONS = st.sampled_from([60, 60, 60, 1, StorageResolution.STANDARD, StorageResolution.HIGH])


@settings(max_examples=150, deadline=None)
@given(
    calls=st.lists(
        st.tuples(NAMES, VALUES, UNITS, NAMESPACES, DIMENSIONS, RESOLUTIONS, st.integers(1, 4)), min_size=1, max_size=30
    ),
    pauses=st.sets(st.integers(0, 30)),
)
def test_a_stream_of_records_arrives_as_a_plain_model_says(calls: list[Any], pauses: set[int]) -> None:
    """
    Whatever was remembered on the way: spellings, types and order of the arguments make no difference, their text does.

    Each call is repeated, so that the first one takes the slow path and the others take the fast one if they can.
    """
    runtime, sink = ManualRuntime(), InMemorySink()
    client = CloudWatchMetrics(MetricsConfig(catalogue=()), sink=sink, runtime=runtime)
    policy = DimensionPolicy()
    expected: dict[object, Counter[float]] = {}
    for index, (name, value, unit, namespace, dimensions, resolution, times) in enumerate(calls):
        pairs, _ = policy.resolve_all(dimensions or {})
        series = (str(namespace or NAMESPACE), str(name), str(unit), int(resolution), pairs)
        for repetition in range(times):
            shuffled = dimensions and dict(sorted(dimensions.items(), key=str, reverse=repetition % 2 == 1))
            assert client.put_metric(
                name, value, unit, namespace=namespace, dimensions=shuffled, storage_resolution=resolution
            )
            expected.setdefault(series, Counter())[float(value)] += 1
        if index in pauses:
            runtime.advance(7.0)
    assert client.flush()
    found: dict[object, Counter[float]] = {}
    for datum in sink.datums:
        series = datum.series
        key = (series.namespace, series.name, series.unit, series.resolution, series.dimensions)
        found.setdefault(key, Counter()).update(dict(zip(datum.values, datum.counts, strict=True)))
    assert found == expected
    assert_balanced(client)


def test_a_record_made_twice_takes_the_fast_path(client: CloudWatchMetrics, runtime: ManualRuntime) -> None:
    """Also with equal names of another object, in another order, and for personal data; but not with 1 for "1"."""
    for dimensions in ({"A": "x", "B": "y"}, {"UserId": "u", "B": "y"}, {}, None):
        for _ in range(2):
            record(client, dimensions=dimensions)
    channels = {channel.series: channel for channel in client._intake.channels()}
    before = {series: len(channel.pending) for series, channel in channels.items()}
    taken = [
        record(client, dimensions={"B": "y", "A": "x"}),
        record(client, dimensions={"UserId": copied("u"), "B": "y"}),
        record(client, dimensions={}),
        record(client, dimensions=None),
    ]
    assert taken == [True] * 4
    after = {series: len(channel.pending) for series, channel in channels.items()}
    assert sum(after.values()) - sum(before.values()) == 4
    assert client.stats().recorded == 12


# ---- personal data ----

KEEP_OUT = (type, types.ModuleType, types.FrameType, types.CodeType, logging.Logger)


def reachable(root: object) -> Iterator[object]:
    """Everything an object holds on to, without the program itself."""
    seen = {id(root)}
    waiting = deque([root])
    while waiting:
        found = waiting.popleft()
        yield found
        if isinstance(found, types.FunctionType):
            held: list[object] = [found.__closure__, found.__defaults__, found.__kwdefaults__]
        else:
            held = gc.get_referents(found)
        for each in held:
            if id(each) not in seen and not isinstance(each, KEEP_OUT):
                seen.add(id(each))
                waiting.append(each)


def texts_held_by(root: object) -> str:
    """Every text an object holds on to."""
    return "\n".join(str(found) for found in reachable(root) if isinstance(found, (str, bytes)))


PERSONAL = {
    "by name": ("UserId", "wolfgang-amadeus"),
    "by another spelling": ("customer-id", "wolfgang-amadeus"),
    "an e-mail address": ("Anything", "wolfgang@mozart.at"),
    "an IPv4 address": ("Anything", "203.0.113.77"),
    "an IPv6 address": ("Anything", "2001:db8::dead:beef"),
    "a UUID": ("Anything", "8f14e45f-ceea-467f-9e1a-2a0d3c3c7f10"),
    "a phone number": ("Anything", "+43 662 889940 77"),
    "a number": ("UserId", 20260777),
}


@pytest.fixture(params=PERSONAL)
def personal(request: pytest.FixtureRequest) -> tuple[str, object]:
    """A dimension and a personal value, an object that nothing else holds."""
    dimension, value = PERSONAL[request.param]
    return dimension, value if isinstance(value, int) else copied(value)


@pytest.mark.parametrize("strict", [False, True])
def test_no_personal_value_is_kept_or_shown(
    make_client: MakeClient,
    sink: InMemorySink,
    runtime: ManualRuntime,
    personal: tuple[str, object],
    strict: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not on the wire, in the log, in a repr, in an exception, nor in anything the client holds on to."""
    dimension, value = personal
    raw, bucket = str(value), DimensionPolicy().resolve(dimension, value).value
    caplog.set_level(logging.DEBUG)
    client = make_client(strict=strict)
    said: list[str] = []

    def attempt(call: Callable[..., object], *arguments: object, **options: object) -> None:
        try:
            call(*arguments, **options)
        except InvalidMetricError as error:
            said.append(everything_in(error))

    def look() -> None:
        said.extend([repr(client), repr(client.stats()), str(client.config)])
        held = texts_held_by(client)
        assert bucket in held
        assert raw not in held
        assert not [found for found in reachable(client) if type(found) is int and found == value]

    dimensions = {dimension: value, "Plan": "pro"}
    handles = [client.counter("C", dimensions=dimensions, emits_zero=True), client.gauge("G", dimensions=dimensions)]
    client.gauge("Read", lambda: 1, dimensions=dimensions)
    for _ in range(4):
        assert record(client, dimensions=dict(dimensions))
        assert send(client, dimensions=dimensions)
        assert client.scoped({dimension: value}).increment_counter("M")
        assert client.with_tenant(value).put_metric("M", 1)
        with client.timer("T", dimensions=dimensions):
            assert handles[0].inc()
        assert handles[1].set(1)
        assert handles[1].inc()
        assert client.histogram("H").bind(**dimensions).observe(1)
        for wrong in (
            {"Long": raw + "x" * 1024},
            {"Control": f"{raw}\n"},
            {"": raw},
            {"é": raw},
            {dimension: ""},
        ):
            attempt(record, client, dimensions={**dimensions, **wrong})
            attempt(send, client, dimensions={**dimensions, **wrong})
            attempt(client.counter("C", dimensions={**dimensions, **wrong}).inc)
        attempt(record, client, value="x", dimensions=dimensions)
        attempt(record, client, dimensions=raw)
        look()
        runtime.advance(61)
        look()
    client.flush()
    look()
    client.stop()
    look()
    said += [line.getMessage() + str(line.args) for line in caplog.records]
    assert {DropReason.INVALID_DIMENSIONS, DropReason.INVALID_VALUE} <= client.stats().dropped.keys()
    assert caplog.records
    assert bool(strict) == bool([text for text in said if "InvalidMetricError" in text])
    assert raw not in "\n".join(said)
    published = [f"{datum.series!r} {datum.series.dimensions}" for datum in sink.datums]
    assert published
    assert raw not in "\n".join(published)
    assert bucket in "\n".join(published)


def test_the_search_for_personal_data_can_fail(client: CloudWatchMetrics) -> None:
    """What is no personal data is kept, and found."""
    for _ in range(3):
        record(client, dimensions={"Plan": "a-plan-of-its-own"})
    assert "a-plan-of-its-own" in texts_held_by(client)


# ---- cardinality ----


def test_a_flood_of_identifiers_folds_into_other_and_loses_nothing(
    make_client: MakeClient, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """Totals are preserved, memory is bounded, real traffic keeps its own series, and the offender has a name but no value."""
    client = make_client(max_series=50, max_series_per_metric=20, catalogue=())
    offered = 0
    for minute in range(30):
        for index in range(500):
            offered += record(client, dimensions={"Widget": f"w{minute}x{index}", "Plan": "free"})
        for _ in range(50):
            offered += record(client, dimensions={"Widget": "popular", "Plan": "pro"})
        runtime.advance(60)
        assert client.stats().series <= 50 + 100
        assert len(client._intake._channels) <= 50 + 1_000
        assert sum(len(schema.channels) for schema in client._uses.values()) <= COMBINATIONS
    client.flush()
    stats = client.stats()
    assert offered == 30 * 550
    assert sum(datum.measurements for datum in sink.datums) == stats.delivered == offered
    assert stats.dropped == {}
    own = [datum for datum in sink.datums if dict(datum.series.dimensions).get("Widget") == "popular"]
    assert sum(datum.measurements for datum in own) >= 15 * 50
    others = {datum.series.dimensions for datum in sink.datums if ("Widget", "other") in datum.series.dimensions}
    assert others
    assert (stats.offenders[0].metric, stats.offenders[0].dimension) == ("M", "Widget")
    assert "w0x1" not in repr(stats)
    assert_balanced(client)


def test_a_flood_of_refused_names_leaves_nothing_behind(client: CloudWatchMetrics) -> None:
    """Neither of metrics nor of dimensions, however long they are."""
    for index in range(200):
        giant = f"{index}" + "x" * 10_000
        assert record(client, name=giant) is False
        assert record(client, namespace=giant) is False
        assert record(client, unit=giant) is False
        assert record(client, dimensions={giant: "x"}) is False
        assert record(client, dimensions={"A": giant}) is False
    held = sum(sys.getsizeof(found) for found in reachable(client) if isinstance(found, str))
    assert held < 100_000
    assert client._uses == {}


def test_a_flood_of_one_metric_is_forgotten_and_the_others_are_not(make_client: MakeClient) -> None:
    """What is remembered for the fast path is bounded over all metrics, and the one with the most starts over."""
    client = make_client(catalogue=())
    for user in range(100):
        record(client, name="Steady", dimensions={"UserId": f"u{user}"})
        record(client, name="Steady", dimensions={"UserId": f"u{user}"})
    for user in range(COMBINATIONS + 1_000):
        record(client, name="Flood", dimensions={"UserId": f"u{user}"})
    remembered = {schema.series.name: len(schema.channels) for schema in client._uses.values()}
    assert remembered["Steady"] == 100
    assert remembered["Flood"] <= COMBINATIONS - 100
    assert_balanced(client)


def test_what_is_remembered_of_a_flood_of_names_is_bounded(make_client: MakeClient) -> None:
    """Good names, too, may come from outside."""
    client = make_client(max_series=100)
    for index in range(3 * LOOKUP_SIZE):
        record(client, name=f"name-{index}")
    assert len(client._uses) <= LOOKUP_SIZE
    assert len(client._schemas) <= LOOKUP_SIZE
    assert_balanced(client)


# ---- at once, stopped, disabled ----


def test_a_value_sent_at_once_goes_alone_and_says_whether_it_arrived(
    make_client: MakeClient, sink: InMemorySink
) -> None:
    """It is not retried, and the ledger says so."""
    client = make_client()
    assert send(client, value=3, unit="Count", dimensions={"A": 1}, timestamp=NOW - 90)
    assert [(d.timestamp, d.values, d.counts, d.series.unit) for d in sink.datums] == [
        (NOW - 120, (3.0,), (1,), "Count")
    ]

    def fail(_: Batch) -> None:
        message = "503"
        raise SinkUnavailable(message)

    sink.fail = fail
    assert send(client) is False
    assert client.stats().dropped == {DropReason.NOT_SENT: 1}
    assert client.stats().delivered == 1
    client.stop()
    assert send(client) is False
    assert client.stats().dropped[DropReason.STOPPED] == 1
    assert_balanced(client)


def test_a_disabled_client_does_nothing_whatever_it_is_given(make_client: MakeClient, sink: InMemorySink) -> None:
    """It returns False for good and for bad records, also in strict mode, and counts nothing."""
    client = make_client(enabled=False, strict=True)
    for options in ({}, {"name": ""}, {"value": "x"}, {"dimensions": 5}):
        assert record(client, **options) is False
        assert send(client, **options) is False
    with client:
        assert client.scoped({"A": "x"}).increment_counter("M") is False
    assert not client.flush().delivered
    assert client.stats().recorded == 0
    assert not client.stats().running
    assert sink.batches == []
    assert "disabled" in repr(client)


def test_a_repr_names_the_namespace_the_sink_and_the_breaker(client: CloudWatchMetrics) -> None:
    """What one wants to see in a debugger."""
    assert repr(client) == "<CloudWatchMetrics RetainWise/MLPipeline sink=cloudwatch breaker=closed>"


def test_recording_at_the_end_of_the_stack_loses_nobody_elses_record(
    client: CloudWatchMetrics, sink: InMemorySink
) -> None:
    """A runaway recursion that records on its way down is counted right, as far as it got."""
    limit = sys.getrecursionlimit()
    answers: list[bool] = []

    def down(depth: int) -> None:
        answers.append(record(client, dimensions={"Depth": f"d{depth % 7}"}))
        down(depth + 1)

    sys.setrecursionlimit(250)
    try:
        with pytest.raises(RecursionError):
            down(0)
    finally:
        sys.setrecursionlimit(limit)
    answers.append(record(client, dimensions={"Depth": "d1"}))
    client.flush()
    assert sum(datum.measurements for datum in sink.datums) == sum(answers)
    assert_balanced(client)
