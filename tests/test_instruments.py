"""Counters, gauges, histograms and timers: what they record, what they refuse, and that handles of one thing agree."""

from __future__ import annotations

import sys
import threading
from decimal import Decimal
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from retainwise_metrics import (
    CloudWatchMetrics,
    DropReason,
    InvalidMetricError,
    MetricNamespace,
    MetricsConfig,
    MetricUnit,
)
from retainwise_metrics.catalogue import CATALOGUE, MetricSpec
from retainwise_metrics.instruments import Level
from retainwise_metrics.pipeline.intake import FOLD_AT
from retainwise_metrics.testing import InMemorySink, ManualRuntime
from tests.helpers import NAMESPACE, assert_balanced
from tests.interrupts import interrupted, signals_as_in_311

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    MakeClient = Callable[..., CloudWatchMetrics]


def delivered(
    client: CloudWatchMetrics, sink: InMemorySink, name: str, dimensions: dict[str, str] | None = None
) -> Any:
    """What arrived of one series in the default namespace, after a flush."""
    assert client.flush()
    assert_balanced(client)
    return sink.values(NAMESPACE, name, dimensions)


# ---- counters ----


def test_a_counter_counts_in_count(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """One by default, any number that is not negative otherwise."""
    counter = client.counter("C", dimensions={"Kind": "a"})
    assert counter.inc()
    assert counter.inc(2)
    assert counter.inc(0.5)
    assert counter.inc(0)
    assert delivered(client, sink, "C", {"Kind": "a"}) == {0: 1, 0.5: 1, 1: 1, 2: 1}
    assert {datum.series.unit for datum in sink.datums} == {"Count"}


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    "value",
    [
        -1,
        -0.001,
        np.float64(-1),
        np.int64(-3),
        np.float32(-0.5),
        Decimal(-1),
        Fraction(-1, 3),
        -(2**360),
        pytest.param(-(10**5000), id="giant"),
        float("-inf"),
    ],
)
def test_a_counter_does_not_go_down(client: CloudWatchMetrics, sink: InMemorySink, value: Any, warm: bool) -> None:
    """A negative number of any type is refused and counted, on the slow and on the fast path; its neighbours arrive."""
    counter = client.counter("C")
    for _ in range(3 if warm else 1):
        assert counter.inc(5)
    assert counter.inc(value) is False
    assert counter.inc(5)
    assert delivered(client, sink, "C") == {5: 4 if warm else 2}
    assert client.stats().dropped == {DropReason.INVALID_VALUE: 1}


def test_a_negative_increment_raises_in_strict_mode(make_client: MakeClient) -> None:
    """With the value and the remedy in the message."""
    with pytest.raises(InvalidMetricError, match=r"-3.*gauge") as caught:
        make_client(strict=True).counter("C").inc(-3)
    assert caught.value.field == "value"


@pytest.mark.parametrize("value", ["1", None, [], object(), float("nan"), float("inf"), b"1", 1j])
def test_instruments_refuse_what_is_not_a_number(client: CloudWatchMetrics, sink: InMemorySink, value: Any) -> None:
    """Each verb returns False, each refusal is counted, and the neighbours arrive."""
    counter, gauge, histogram = client.counter("C"), client.gauge("G"), client.histogram("H")
    verbs = [counter.inc, gauge.set, gauge.inc, gauge.dec, histogram.observe]
    for record in (counter.inc, gauge.set, histogram.observe):
        assert record(1)
    assert [verb(value) for verb in verbs] == [False] * 5
    for record in (counter.inc, gauge.set, histogram.observe):
        assert record(1)
    for name in ("C", "G", "H"):
        assert delivered(client, sink, name) == {1: 2}
    assert client.stats().dropped == {DropReason.INVALID_VALUE: 5}


@pytest.mark.parametrize("value", [np.int64(2), np.float32(2), np.array(2), Decimal(2), Fraction(2), 2.0, 2])
def test_instruments_take_numbers_of_any_kind(client: CloudWatchMetrics, sink: InMemorySink, value: Any) -> None:
    """And mean the same by them."""
    assert client.counter("C").inc(value)
    assert client.histogram("H").observe(value)
    assert client.gauge("G").set(value)
    for name in ("C", "G", "H"):
        assert delivered(client, sink, name) == {2: 1}


# ---- zeros ----


def test_a_counter_that_emits_zero_publishes_one_each_minute_while_idle(
    make_client: MakeClient, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """Ten minutes without an increment are ten zeros, each in its own minute."""
    client = make_client()
    client.counter("C", emits_zero=True)
    runtime.advance(600)
    assert sink.values(NAMESPACE, "C") == {0: 10}
    minutes = [datum.timestamp for datum in sink.datums]
    assert minutes == sorted(set(minutes))
    assert all(later - earlier == 60 for earlier, later in pairwise(minutes))
    assert_balanced(client)


@pytest.mark.parametrize("wall", [1_767_225_600.0, 1_767_225_659.9])
def test_what_is_registered_after_the_minutes_reading_is_read_all_the_same(
    make_client: MakeClient, sink: InMemorySink, runtime: ManualRuntime, wall: float
) -> None:
    """A process that lives for less than a minute publishes the zeros and gauges it makes after its first flush, each once."""
    runtime.set_wall(wall)
    client = make_client(flush_interval_seconds=1)
    client.counter("Early", emits_zero=True)
    runtime.advance(2)
    client.counter("Late", emits_zero=True)
    client.gauge("Level", lambda: 7)
    client.counter("Late", emits_zero=True)
    runtime.advance(20)
    client.stop()
    assert sink.values(NAMESPACE, "Early") == sink.values(NAMESPACE, "Late") == {0: 1}
    assert sink.values(NAMESPACE, "Level") == {7: 1}


def test_zeros_do_not_change_a_sum(make_client: MakeClient, sink: InMemorySink, runtime: ManualRuntime) -> None:
    """Increments and zeros share a series; only the sample count knows."""
    client = make_client()
    counter = client.counter("C", emits_zero=True)
    for _ in range(300):
        counter.inc(2)
        runtime.advance(2)
    runtime.advance(60)
    values = sink.values(NAMESPACE, "C")
    assert values[2] == 300
    assert values[0] in (10, 11)


def test_making_a_counter_again_does_not_double_its_zeros(
    make_client: MakeClient, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """Also not under other dimensions that are published under the same series."""
    sets = MetricSpec("C", NAMESPACE, MetricUnit.COUNT, ((),), "A test.", emits_zero=True)
    client = make_client(catalogue=(sets,))
    for tenant in range(50):
        client.with_tenant(f"tenant-{tenant}").counter("C")
    runtime.advance(60)
    assert sink.values(NAMESPACE, "C") == {0: 1}
    assert client.stats().recorded == 1


def test_the_catalogue_says_which_counters_emit_zero(
    make_client: MakeClient, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """Unless the code says otherwise; for every counter of the catalogue."""
    client = make_client()
    for spec in CATALOGUE:
        client.counter(spec.name, namespace=spec.namespace)
    client.counter("Unknown")
    client.counter("UploadSuccess")  # of another namespace than the catalogue's
    runtime.advance(60)
    zeros = {(datum.series.namespace, datum.series.name) for datum in sink.datums if datum.values == (0,)}
    assert zeros == {(str(spec.namespace), spec.name) for spec in CATALOGUE if spec.emits_zero}


def test_zeros_can_be_declined(make_client: MakeClient, sink: InMemorySink, runtime: ManualRuntime) -> None:
    """`emits_zero=False` wins over the catalogue."""
    make_client().counter("UploadSuccess", namespace=MetricNamespace.API, emits_zero=False)
    runtime.advance(120)
    assert sink.datums == []


# ---- gauges ----


def test_a_gauge_records_each_level_that_is_set(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """In its unit."""
    gauge = client.gauge("G", unit=MetricUnit.BYTES)
    assert gauge.set(5)
    assert gauge.set(-2.5)
    assert gauge.set(0)
    assert delivered(client, sink, "G") == {5: 1, -2.5: 1, 0: 1}
    assert sink.datums[0].series.unit == "Bytes"


def test_a_gauge_that_is_moved_is_recorded_once_a_minute(
    client: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """However often it moves, the level costs one value a minute; also while nothing moves."""
    gauge = client.gauge("Jobs")
    for _ in range(1_000):
        assert gauge.inc()
        assert gauge.dec()
    assert gauge.inc(3)
    runtime.advance(300)
    assert sink.values(NAMESPACE, "Jobs") == {3: 5}
    assert_balanced(client)


def test_a_gauge_is_moved_from_the_level_that_was_set(
    client: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """`set`, then `inc`: the sum, whichever handle does it and whatever kind of number it is."""
    client.gauge("G").set(np.float32(5))
    client.gauge("G").inc(np.int64(2))
    client.gauge("G").dec(Decimal("0.5"))
    runtime.advance(60)
    assert sink.values(NAMESPACE, "G") == {5: 1, 6.5: 1}
    client.gauge("G").set(Fraction(10))
    runtime.advance(60)
    assert sink.values(NAMESPACE, "G") == {5: 1, 6.5: 1, 10: 2}


def test_two_gauges_keep_to_themselves(client: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime) -> None:
    """Other dimensions, another namespace or another unit make another gauge."""
    client.gauge("G", dimensions={"Pool": "a"}).inc(1)
    client.gauge("G").bind(Pool="b").inc(2)
    client.gauge("G", namespace=MetricNamespace.API, dimensions={"Pool": "a"}).inc(3)
    runtime.advance(60)
    assert sink.values(NAMESPACE, "G", {"Pool": "a"}) == {1: 1}
    assert sink.values(NAMESPACE, "G", {"Pool": "b"}) == {2: 1}
    assert sink.values("RetainWise/API", "G", {"Pool": "a"}) == {3: 1}


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as the interpreter allows."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("restless")
def test_eight_threads_move_one_gauge_and_no_move_is_lost(
    client: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """Each through a handle of its own, more often than one fold takes."""
    client.gauge("Jobs").inc()
    moves = 3 * FOLD_AT
    together = threading.Barrier(8)

    def work() -> None:
        gauge = client.gauge("Jobs")
        together.wait(10)
        for _ in range(moves):
            gauge.inc(2)
            gauge.dec()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    runtime.advance(60)
    assert sink.values(NAMESPACE, "Jobs") == {1 + 8 * moves: 1}


@pytest.mark.usefixtures("restless")
def test_the_first_moves_of_eight_threads_are_all_counted() -> None:
    """Nobody has used the gauge before, on a real thread."""
    for _ in range(20):
        sink = InMemorySink()
        client = CloudWatchMetrics(MetricsConfig(), sink=sink)
        together = threading.Barrier(8)
        shared = client.gauge("Jobs")

        def work(client: CloudWatchMetrics = client, shared: Any = shared, together: Any = together) -> None:
            own = client.gauge("Jobs")
            together.wait(10)
            assert shared.inc()
            assert own.inc()

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert client.stop(10.0)
        assert max(sink.values(NAMESPACE, "Jobs")) == 16


def test_the_memory_of_a_gauge_is_bounded_while_nobody_reads_it() -> None:
    """A million moves are added up on the way, and none is lost."""
    level = Level()
    for _ in range(20 * FOLD_AT):
        level.change(1)
    assert len(level._terms) <= FOLD_AT + 1
    assert level.read() == 20 * FOLD_AT


def test_a_gauge_in_a_forked_child_starts_from_nothing(
    client: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """The jobs that the parent counted in are counted out there."""
    gauge = client.gauge("Jobs")
    gauge.inc(5)
    runtime.after_fork()
    client.after_fork()
    gauge.inc()
    client.put_metric("Other", 1)
    runtime.advance(60)
    assert sink.values(NAMESPACE, "Jobs") == {1: 1}


def test_a_callback_is_read_once_a_minute_at_the_flush(
    client: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """Not when the gauge is made, and not once more for a flush in the same minute."""
    readings = iter(range(1_000))
    client.gauge("Depth", lambda: next(readings), unit=MetricUnit.COUNT)
    assert next(readings) == 0
    runtime.advance(600)
    client.flush()
    client.flush()
    assert next(readings) in (11, 12)
    values = sink.values(NAMESPACE, "Depth")
    assert sorted(values) == list(range(1, 1 + len(values)))
    assert set(values.values()) == {1}
    assert_balanced(client)


def test_a_callback_that_fails_costs_only_its_own_reading(
    client: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are read, and the log says so with the traceback, once a minute at most."""

    def fail() -> float:
        message = "no connection"
        raise ConnectionError(message)

    client.gauge("Before", lambda: 1)
    client.gauge("Broken", fail)
    client.gauge("After", lambda: 2)
    runtime.advance(300)
    assert sink.values(NAMESPACE, "Before") == {1: 5}
    assert sink.values(NAMESPACE, "After") == {2: 5}
    assert sink.values(NAMESPACE, "Broken") == {}
    assert 1 <= len(caplog.records) <= 5
    assert all("callback" in line.getMessage() and line.exc_info for line in caplog.records)
    assert_balanced(client)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("reading", ["many", None, float("nan"), object()])
def test_a_callback_that_returns_no_number_is_refused_and_counted(
    make_client: MakeClient, sink: InMemorySink, runtime: ManualRuntime, reading: Any, strict: bool
) -> None:
    """Nobody can catch an exception on the background thread, so strict mode does not raise there."""
    client = make_client(strict=strict)
    client.gauge("Broken", lambda: reading)
    client.gauge("After", lambda: 2)
    runtime.advance(120)
    assert sink.values(NAMESPACE, "After") == {2: 2}
    assert client.stats().dropped == {DropReason.INVALID_VALUE: 2}
    assert_balanced(client)


def test_the_last_callback_of_a_gauge_counts(
    client: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """A gauge that is made again is not read twice: a level has one reading."""
    client.gauge("G", lambda: 1)
    client.gauge("G", lambda: 2)
    runtime.advance(60)
    assert sink.values(NAMESPACE, "G") == {2: 1}


@pytest.mark.parametrize("make", [lambda c: c.gauge("G", lambda: 1), lambda c: c.counter("C", emits_zero=True)])
def test_making_an_instrument_starts_the_thread_but_not_after_stop(make: Any, make_client: MakeClient) -> None:
    """A reading needs somebody to take it; `stop` is only undone by `start`."""
    client = make_client()
    assert not client.stats().running
    make(client)
    assert client.stats().running
    client.stop()
    make(client)
    client.gauge("Jobs").inc()
    assert not client.stats().running
    assert client.put_metric("M", 1) is False


def test_what_is_read_once_a_minute_is_bounded(
    make_client: MakeClient, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """A gauge per identifier is refused past `max_series`, counted, and the first ones go on."""
    client = make_client(max_series=10)
    moved = [client.gauge("Jobs", dimensions={"Queue": f"q{index}"}).inc() for index in range(100)]
    assert moved == [True] * 10 + [False] * 90
    assert client.gauge("Jobs", dimensions={"Queue": "q3"}).inc()
    runtime.advance(60)
    assert sink.values(NAMESPACE, "Jobs", {"Queue": "q3"}) == {2: 1}
    assert client.stats().dropped == {DropReason.TOO_MANY_SERIES: 90}
    assert_balanced(client)


# ---- histograms, timers, handles ----


def test_a_histogram_keeps_every_value_with_its_count(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """In its unit and namespace."""
    histogram = client.histogram("H", MetricUnit.MILLISECONDS, namespace=MetricNamespace.API, dimensions={"A": "x"})
    for value in (3, 1, 3, 2.5, -1):
        assert histogram.observe(value)
    client.flush()
    assert sink.values("RetainWise/API", "H", {"A": "x"}) == {3: 2, 1: 1, 2.5: 1, -1: 1}
    assert sink.datums[0].series.unit == "Milliseconds"


def test_a_timer_times_blocks_and_calls(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """In seconds, also when they raise."""
    timer = client.timer("T", dimensions={"A": "x"})

    @timer
    def work() -> str:
        return "done"

    with timer:
        pass
    with pytest.raises(KeyError), timer:
        raise KeyError
    assert work() == "done"
    values = delivered(client, sink, "T", {"A": "x"})
    assert sum(values.values()) == 3
    assert all(0 <= value < 10 for value in values)
    assert sink.datums[0].series.unit == "Seconds"


def test_bind_adds_dimensions_and_its_own_win(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """The handle it was made from stays as it is; binding goes on from there."""
    counter = client.counter("C", dimensions={"A": "a", "B": "b"})
    bound = counter.bind(B="other", D=4)
    assert counter.inc()
    assert bound.inc()
    assert bound.bind(A="x").inc()
    assert delivered(client, sink, "C", {"A": "a", "B": "b"}) == {1: 1}
    assert delivered(client, sink, "C", {"A": "a", "B": "other", "D": "4"}) == {1: 1}
    assert delivered(client, sink, "C", {"A": "x", "B": "other", "D": "4"}) == {1: 1}
    assert type(bound) is type(counter)


def test_a_handle_does_not_notice_what_becomes_of_the_mapping_it_was_given(
    client: CloudWatchMetrics, sink: InMemorySink
) -> None:
    """It took a copy."""
    given = {"A": "x"}
    counter = client.counter("C", dimensions=given)
    given["A"] = "y"
    given["B"] = "z"
    counter.inc()
    assert delivered(client, sink, "C", {"A": "x"}) == {1: 1}


def test_a_handle_and_put_metric_share_a_series(client: CloudWatchMetrics, sink: InMemorySink) -> None:
    """It makes no difference how a value is recorded."""
    counter = client.counter("C", dimensions={"A": "x"})
    for _ in range(5):
        assert counter.inc()
        assert client.increment_counter("C", dimensions={"A": "x"})
        assert client.put_metric("C", 1, "Count", dimensions={"A": "x"})
    assert delivered(client, sink, "C", {"A": "x"}) == {1: 15}
    assert client.stats().series == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"name": ""}, DropReason.INVALID_NAME),
        ({"name": ["M"]}, DropReason.INVALID_NAME),
        ({"namespace": "AWS/EC2"}, DropReason.INVALID_NAMESPACE),
        ({"namespace": []}, DropReason.INVALID_NAMESPACE),
        ({"dimensions": {"A": ""}}, DropReason.INVALID_DIMENSIONS),
        ({"dimensions": "A=x"}, DropReason.INVALID_DIMENSIONS),
        ({"dimensions": {str(index): "x" for index in range(31)}}, DropReason.INVALID_DIMENSIONS),
    ],
)
def test_a_wrong_handle_is_made_but_refuses_every_record(
    client: CloudWatchMetrics, make_client: MakeClient, options: dict[str, Any], reason: DropReason
) -> None:
    """Making one never raises; each use is refused and counted, or raises in strict mode."""
    options = {"name": "M", **options}
    for make, verb in (("counter", "inc"), ("gauge", "set"), ("gauge", "inc"), ("histogram", "observe")):
        for _ in range(2):
            assert getattr(getattr(client, make)(**options), verb)(1) is False
        with pytest.raises(InvalidMetricError):
            getattr(getattr(make_client(strict=True), make)(**options), verb)(1)
    assert client.stats().dropped == {reason: 8}
    client.counter(emits_zero=True, **options)
    client.gauge(callback=lambda: 1, **options)
    assert client.stats().dropped == {reason: 10}
    assert_balanced(client)


@pytest.mark.parametrize("unit", ["Furlongs", None, []])
def test_a_wrong_unit_is_refused_by_every_record(client: CloudWatchMetrics, unit: Any) -> None:
    """Of gauges and histograms; the unit of a counter is given."""
    assert client.gauge("G", unit=unit).set(1) is False
    assert client.histogram("H", unit).observe(1) is False
    assert client.stats().dropped == {DropReason.INVALID_UNIT: 2}


def test_a_disabled_client_makes_handles_that_do_nothing(make_client: MakeClient, runtime: ManualRuntime) -> None:
    """They return False, call no callback, count nothing and start nothing."""
    client = make_client(enabled=False)
    called: list[int] = []
    client.gauge("G", lambda: called.append(1) or 1.0)
    client.counter("C", emits_zero=True)
    answers = [
        client.counter("C").inc(),
        client.counter("C").inc(-1),
        client.gauge("G").set(1),
        client.gauge("G").inc(),
    ]
    answers += [client.gauge("G").dec(), client.histogram("H").observe(1), client.histogram("H").observe("x")]  # type: ignore[arg-type]
    runtime.advance(600)
    assert answers == [False] * 7
    assert called == []
    assert client.stats().recorded == 0
    assert not client.stats().running


def test_a_repr_shows_kind_and_name_but_no_dimension_value(client: CloudWatchMetrics) -> None:
    """Values may be personal."""
    handles = [make("M", dimensions={"UserId": "alice"}) for make in (client.counter, client.gauge, client.histogram)]
    assert [repr(handle) for handle in handles] == ["<Counter 'M'>", "<Gauge 'M'>", "<Histogram 'M'>"]


def test_zeros_come_every_minute_whatever_the_interval(
    make_client: Callable[..., CloudWatchMetrics], sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """A client that sends every five minutes leaves no minute without data."""
    client = make_client(flush_interval_seconds=300)
    client.counter("Failures", emits_zero=True)
    runtime.advance(20 * 60.0)
    client.stop()
    assert len({datum.timestamp for datum in sink.datums}) >= 20


@signals_as_in_311
def test_a_level_whose_terms_are_added_up_in_the_middle_of_a_ctrl_c_can_be_added_up_again() -> None:
    """No lock is left behind, and no term is lost."""
    for at in range(1, 1_000):
        level = Level()
        for _ in range(FOLD_AT - 2):
            level.change(1)
        struck = interrupted(at, partial(level.change, 1), times=1)
        before = level.read()
        assert before in (FOLD_AT - 2, FOLD_AT - 1)
        for _ in range(2):
            level.change(1)
        assert level.read() == before + 2
        assert len(level._terms) < 4, at
        if not struck:
            break


@pytest.mark.parametrize(
    "beyond", [2**360 + 1, -(2**360) - 1, 2.0**361, -(2.0**361)], ids=["int", "negative int", "float", "negative float"]
)
def test_a_handle_that_knows_its_list_still_refuses_what_is_beyond_the_limits(beyond: float) -> None:
    """The fast path compares integers with integers, and floats with floats."""
    sink = InMemorySink()
    client = CloudWatchMetrics(MetricsConfig(catalogue=()), sink=sink, runtime=ManualRuntime())
    for record in (client.counter("A").inc, client.histogram("B").observe, client.gauge("C").set):
        for value in (1, 2**360, 2.0**360, 3):
            assert record(value)
        assert not record(beyond)
    assert client.flush()
    assert client.stats().recorded == 3 * 5
    assert client.stats().delivered == 3 * 4
    assert_balanced(client)
