"""What application code depends on, and the no-op it may default to."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections import UserDict
from itertools import count
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics.decorators import counted, timed
from retainwise_metrics.instruments import Counter, Gauge, Histogram, Timer
from retainwise_metrics.namespaces import MetricNamespace
from retainwise_metrics.service import MetricsService, NullInstrument, NullMetrics, Recorder, merge_dimensions
from retainwise_metrics.units import MetricUnit

if TYPE_CHECKING:
    from collections.abc import Coroutine, KeysView


def drive(coroutine: Coroutine[object, None, None]) -> None:
    """Run a coroutine that never waits, without an event loop."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


def methods_of(protocol: type) -> list[str]:
    """The public methods a protocol asks for."""
    return [name for name, member in vars(protocol).items() if inspect.isfunction(member) and name[0] != "_"]


@pytest.mark.parametrize("protocol", [Recorder, MetricsService])
def test_the_no_op_has_every_method_of_both_protocols_with_the_same_signature(protocol):
    """
    Code written against a protocol can default to `NullMetrics`.
    """
    names = methods_of(protocol)

    assert 3 <= len(names) <= 4
    for name in names:
        assert inspect.signature(getattr(NullMetrics, name)) == inspect.signature(getattr(protocol, name))


def test_the_no_op_takes_every_kind_of_record_and_reports_that_it_took_none():
    """
    Recording answers False: nothing was taken.
    """
    metrics = NullMetrics()
    everything = {"namespace": MetricNamespace.API, "dimensions": {"Endpoint": "/upload"}, "timestamp": 1.0}

    assert metrics.put_metric("UploadFileSizeMB", 4.2, MetricUnit.MEGABYTES, **everything) is False
    assert metrics.put_metric_sync("UploadFileSizeMB", 4.2, storage_resolution=1, **everything) is False
    assert metrics.increment_counter("UploadSuccess", value=2, **everything) is False
    assert metrics.record_time("S3UploadDuration", 0.83, **everything) is False


def test_the_no_op_service_can_be_awaited_and_never_waits():
    """
    The asynchronous methods end at once, without an event loop.
    """
    metrics = NullMetrics()

    drive(metrics.increment("UploadSuccess", value=2, dimensions={"Endpoint": "/upload"}))
    drive(metrics.record_timing("S3UploadDuration", value_ms=830.0))
    assert metrics.set_property("request_id", "r-1") is None


def test_the_no_op_instruments_take_every_verb():
    """
    Whatever code does to an instrument works and records nothing.
    """
    metrics = NullMetrics()
    options = {"namespace": MetricNamespace.API, "dimensions": {"Endpoint": "/upload"}}

    assert metrics.counter("UploadSuccess", **options).inc() is False
    assert metrics.counter("UploadSuccess").bind(Endpoint="/upload").inc(2) is False
    assert metrics.gauge("Depth", **options).set(3) is False
    assert metrics.gauge("Depth").inc() is False
    assert metrics.gauge("Depth").dec() is False
    assert metrics.histogram("UploadFileSizeMB", MetricUnit.MEGABYTES, **options).observe(0.2) is False
    with metrics.timer("S3UploadDuration", **options):
        pass


def test_the_no_op_instrument_has_the_verbs_of_the_real_ones_and_no_others():
    """
    Code that runs with the no-op runs with a client, and the other way round.
    """
    real = {name for kind in (Counter, Gauge, Histogram, Timer) for each in kind.__mro__ for name in methods_of(each)}

    assert set(methods_of(NullInstrument)) == real
    assert {"__call__", "__enter__", "__exit__", "__aenter__", "__aexit__"} <= vars(NullInstrument).keys()


def test_the_no_op_gauge_never_calls_its_callback():
    """
    Reading a gauge may be expensive; nobody wants the reading.
    """

    def read() -> float:
        raise AssertionError("called")

    NullMetrics().gauge("Depth", read)


def test_the_no_op_timer_leaves_functions_exceptions_and_coroutines_alone():
    """
    As a decorator it returns the function itself; as a context manager it swallows nothing.
    """
    timer = NullMetrics().timer("S3UploadDuration")

    async def block() -> None:
        async with timer:
            raise KeyError

    assert timer(block) is block
    with pytest.raises(KeyError), timer:
        raise KeyError
    with pytest.raises(KeyError):
        block().send(None)


def test_a_scope_of_the_no_op_is_the_no_op():
    """
    There is nothing to add dimensions to.
    """
    metrics = NullMetrics()

    assert metrics.scoped({"Service": "api"}) is metrics
    assert metrics.with_tenant("tenant-123") is metrics


def test_decorators_work_with_the_no_op():
    """
    A library can decorate its functions with a client that does nothing.
    """
    metrics = NullMetrics()

    @timed("S3UploadDuration", client=metrics)
    @counted("S3UploadFailure", client=metrics, errors_only=True)
    def upload() -> str:
        return "key"

    assert upload() == "key"


class Hostile(UserDict):
    """
    A mapping whose keys cannot be listed.
    """

    def keys(self) -> KeysView[object]:
        raise RuntimeError("not today")

    def __iter__(self):
        raise RuntimeError("not today")


@pytest.mark.parametrize(
    ("outer", "inner", "merged"),
    [
        pytest.param({"A": 1}, None, {"A": 1}, id="nothing to add"),
        pytest.param({"A": 1}, {}, {"A": 1}, id="an empty mapping"),
        pytest.param({"A": 1, "B": 2}, {"B": 3, "C": 4}, {"A": 1, "B": 3, "C": 4}, id="the call wins"),
        pytest.param({"A": 1}, 5, 5, id="a call without a mapping"),
        pytest.param({"A": 1}, [("B", 2)], [("B", 2)], id="a call with pairs"),
        pytest.param({"A": 1}, "B", "B", id="a call with a string"),
        pytest.param([("A", 1)], {"B": 2}, [("A", 1)], id="a scope without a mapping"),
        pytest.param([("A", 1)], None, [("A", 1)], id="a scope without a mapping, a call without dimensions"),
    ],
)
def test_dimensions_merge_or_the_argument_at_fault_is_handed_on(outer, inner, merged):
    """
    A mistake reaches the client as it is: the record is refused, not published under half of its dimensions.
    """
    assert merge_dimensions(outer, inner) == merged


def test_a_mapping_that_raises_is_handed_on_as_it_is():
    """
    Merging never raises.
    """
    hostile = Hostile(B=2)

    assert merge_dimensions({"A": 1}, hostile) is hostile


def test_importing_the_protocols_decorators_and_scopes_is_cheap():
    """
    None of the modules that cost milliseconds is imported before it is needed.
    """
    script = """
import sys, retainwise_metrics.service, retainwise_metrics.decorators, retainwise_metrics.scoped
costly = {"asyncio", "boto3", "dataclasses", "datetime", "hashlib", "inspect", "json", "logging"}
print(sorted(costly & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"


def test_an_endless_mapping_does_not_hang_a_scope() -> None:
    """It is read as far as needed to know that it is too long; the client then refuses it."""

    class Endless(UserDict):  # type: ignore[type-arg]
        def __iter__(self):  # type: ignore[no-untyped-def]
            return (f"name-{number}" for number in count())

        def __getitem__(self, name: str) -> str:
            return "x"

    merged = merge_dimensions({"Service": "api"}, Endless())
    assert len(merged) > 30
