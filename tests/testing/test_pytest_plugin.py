"""The test kit: what a capture sees, what it says when something is missing, and the pytest plugin in suites of its own."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from freezegun import freeze_time

import retainwise_metrics.testing as kit
from retainwise_metrics import (
    BreakerState,
    CloudWatchMetrics,
    DropReason,
    InvalidMetricError,
    MetricNamespace,
    MetricsConfig,
    counted,
    get_metrics_client,
    increment_counter,
    put_metric,
    reset_metrics_client,
    set_metrics_client,
    timed,
)
from retainwise_metrics.testing import CapturingMetrics, InMemorySink, captured_metrics
from retainwise_metrics.testing.capture import CaptureRuntime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
UPLOAD = {"Endpoint": "/upload"}


@pytest.fixture
def metrics() -> Iterator[CapturingMetrics]:
    """A capture in the place of the process-wide client."""
    with captured_metrics() as capture:
        yield capture


def failure(assertion: Callable[..., None], *args: object, **filters: object) -> str:
    """The text with which an assertion fails."""
    with pytest.raises(AssertionError) as caught:
        assertion(*args, **filters)
    return str(caught.value)


# ---- what is asked ----


def test_a_record_is_seen_before_anybody_flushes(metrics: CapturingMetrics) -> None:
    """Nothing has been sent yet, and the record is there."""
    assert put_metric("Rows", 3)
    metrics.assert_recorded("Rows", count=1, value=3)
    assert metrics.stats().pending == 1
    assert metrics.flush()
    assert metrics.stats().delivered == 1


def test_every_way_of_recording_is_seen(metrics: CapturingMetrics) -> None:
    """Shorthands, instruments, scopes, decorators and the synchronous call."""
    increment_counter("A")
    metrics.counter("B").bind(Queue="fast").inc()
    metrics.histogram("C").observe(1.5)
    metrics.gauge("D").set(2)
    with metrics.timer("E"):
        metrics.scoped({"Service": "api"}).with_tenant("t1").increment_counter("F")
    timed("G")(lambda: None)()
    counted("H")(lambda: None)()
    assert metrics.put_metric_sync("I", 4, dimensions={"Queue": "slow"})
    assert sorted(record.name for record in metrics.records) == list("ABCDEFGHI")
    metrics.assert_recorded("F", count=1, dimensions={"Service": "api", "TenantId": "t1"})
    metrics.assert_recorded("I", count=1, value=4, dimensions={"Queue": "slow"})


def test_many_records_in_a_row_are_all_seen(metrics: CapturingMetrics) -> None:
    """The fast path of the client and of handles, which only appends to a list, is not taken past the capture."""
    jobs = metrics.counter("Jobs").bind(Queue="fast")
    for _ in range(5_000):
        jobs.inc()
        put_metric("Rows", 2, dimensions={"Queue": "fast"})
    metrics.assert_recorded("Jobs", count=5_000)
    metrics.assert_recorded("Rows", count=5_000, value=2)
    assert metrics.stats().recorded == 10_000


def test_what_is_left_out_is_not_looked_at(metrics: CapturingMetrics) -> None:
    """Each filter narrows the question; dimensions are all or nothing."""
    put_metric("Size", 1.0, "Megabytes", namespace="Shop", dimensions={"Queue": "fast"})
    put_metric("Size", 2.0, "Bytes")
    metrics.assert_recorded("Size", count=2)
    metrics.assert_recorded("Size", count=1, namespace="Shop")
    metrics.assert_recorded("Size", count=1, unit="Bytes")
    metrics.assert_recorded("Size", count=1, dimensions={})
    metrics.assert_recorded("Size", count=1, dimensions={"Queue": "fast"})
    metrics.assert_recorded("Size", count=0, dimensions={"Queue": "fast", "Zone": "a"})
    metrics.assert_not_recorded("Size", namespace="Shop", unit="Bytes")
    metrics.assert_not_recorded("Other")
    assert metrics.values("Size") == [1.0, 2.0]
    assert metrics.values("Size", unit="Bytes") == [2.0]


def test_dimensions_are_asked_for_as_given_or_as_published(metrics: CapturingMetrics) -> None:
    """A hashed value is found by what was hashed, and by its bucket."""
    increment_counter("Uploads", dimensions={"UserId": "user_123", "Attempt": 2})
    bucket = dict(metrics.records[0].dimensions)["UserId"]
    assert bucket != "user_123"
    metrics.assert_recorded("Uploads", count=1, dimensions={"UserId": "user_123", "Attempt": 2})
    metrics.assert_recorded("Uploads", count=1, dimensions={"UserId": bucket, "Attempt": "2"})


def test_a_record_published_in_two_sets_is_one_record(metrics: CapturingMetrics) -> None:
    """The catalogue adds a roll-up; the code under test has recorded once."""
    increment_counter("UploadSuccess", namespace=MetricNamespace.API, dimensions={**UPLOAD, "UserId": "u"})
    metrics.assert_recorded("UploadSuccess", count=1)
    metrics.assert_recorded("UploadSuccess", count=1, dimensions=UPLOAD)
    metrics.assert_recorded("UploadSuccess", count=1, dimensions={})
    metrics.assert_recorded("UploadSuccess", count=1, dimensions={**UPLOAD, "UserId": "u"})


def test_values_are_compared_as_numbers(metrics: CapturingMetrics) -> None:
    """Rounding does not matter, and pytest.approx is understood."""
    put_metric("Seconds", 0.1 + 0.2)
    metrics.assert_recorded("Seconds", value=0.3)
    metrics.assert_recorded("Seconds", value=pytest.approx(0.31, abs=0.02))
    metrics.assert_not_recorded("Seconds", value=0.31)


@pytest.mark.parametrize("filters", [{"unit": "Meters"}, {"namespace": "AWS/EC2"}, {"dimensions": "x"}], ids=str)
def test_a_question_nothing_could_answer_is_refused(metrics: CapturingMetrics, filters: dict[str, object]) -> None:
    """A mistake in the test is not taken for a missing record, nor for its absence."""
    with pytest.raises(InvalidMetricError):
        metrics.assert_not_recorded("Rows", **filters)


def test_clear_forgets(metrics: CapturingMetrics) -> None:
    """A test with several phases asks about the last one only."""
    increment_counter("Jobs")
    metrics.clear()
    metrics.assert_not_recorded("Jobs")
    increment_counter("Jobs")
    metrics.assert_recorded("Jobs", count=1)


# ---- gauges ----


def test_gauges_are_read_when_asked(metrics: CapturingMetrics) -> None:
    """Of the readings in one minute the last counts; each further minute has one of its own."""
    level = iter(range(100))
    metrics.gauge("Waiting", lambda: next(level))
    busy = metrics.gauge("Busy")
    busy.inc()
    metrics.assert_recorded("Busy", count=1, value=1)
    busy.inc()
    metrics.assert_recorded("Busy", count=1, value=2)
    busy.dec(2)
    metrics.assert_recorded("Busy", count=1, value=0)
    metrics.clock.advance(60)
    assert len(metrics.values("Busy")) == 2
    assert len(metrics.values("Waiting")) == 2


def test_zeros_and_gauges_that_did_not_move_are_not_records(metrics: CapturingMetrics) -> None:
    """What the library publishes on its own account says nothing about the code under test."""
    metrics.counter("UploadSuccess", namespace=MetricNamespace.API, emits_zero=True)
    metrics.gauge("Busy")._be_read()
    metrics.clock.advance(180)
    assert metrics.records == []


def test_a_gauge_that_flushes_does_not_hang(metrics: CapturingMetrics) -> None:
    """A callback that asks for a flush gets an answer."""
    metrics.gauge("Odd", lambda: float(metrics.flush(timeout=0.0).pending >= 0))
    increment_counter("Jobs")
    metrics.clock.advance(120)
    metrics.assert_recorded("Odd", value=1)


# ---- failure texts ----


def test_a_failure_shows_near_misses(metrics: CapturingMetrics) -> None:
    """Other dimensions, other namespaces, units and values, similar names: each with how often, and what."""
    increment_counter("Uploads", namespace="Shop", dimensions={"Endpoint": "/other"})
    put_metric("Uploads", 5, "Bytes", namespace="Shop", dimensions=UPLOAD)
    increment_counter("Uploads", dimensions=UPLOAD)
    increment_counter("uploads_")
    increment_counter("Unrelated")
    filters = {"dimensions": UPLOAD, "namespace": "Shop", "unit": "Count"}
    text = failure(metrics.assert_recorded, "Uploads", count=2, **filters)
    assert text.splitlines() == [
        "Uploads{Endpoint=/upload} in Count in the namespace Shop was recorded 0 times, expected 2 times",
        "near misses:",
        "  other dimensions: Uploads{Endpoint=/other} in Shop, Count, once: 1",
        "  other unit: Uploads{Endpoint=/upload} in Shop, Bytes, once: 5",
        "  other namespace: Uploads{Endpoint=/upload} in RetainWise/MLPipeline, Count, once: 1",
        "  similar name: uploads_{} in RetainWise/MLPipeline, Count, once: 1",
    ]
    assert "other value: Uploads{" in failure(metrics.assert_recorded, "Uploads", value=7)


def test_a_wrong_count_shows_what_there_is(metrics: CapturingMetrics) -> None:
    """Too many are shown with their values, a long list cut short."""
    for number in range(12):
        put_metric("Rows", number)
    text = failure(metrics.assert_recorded, "Rows", count=1)
    assert text.startswith(
        "Rows was recorded 12 times, expected once\nrecorded:\n  Rows{} in RetainWise/MLPipeline, no unit"
    )
    assert text.endswith("7, 8, 9 and 2 more")
    assert "expected never" in failure(metrics.assert_not_recorded, "Rows", value=3)


def test_a_failure_with_nothing_alike_shows_what_was_recorded_instead(metrics: CapturingMetrics) -> None:
    """Another metric altogether, or nothing."""
    assert failure(metrics.assert_recorded, "Jobs").endswith("at least once\nrecorded instead:\n  nothing")
    increment_counter("Xyz")
    assert "recorded instead:\n  Xyz{} in" in failure(metrics.assert_recorded, "Jobs")


def test_refused_records_are_shown_with_their_reasons(metrics: CapturingMetrics) -> None:
    """Strict raises where the record is made, and a decorator swallows that: the text has it in both cases."""
    with pytest.raises(InvalidMetricError):
        put_metric("Rows", float("nan"))
    for _ in range(2):
        counted("Jobs", namespace="AWS/mine")(lambda: None)()
    text = failure(metrics.assert_recorded, "Jobs")
    assert re.search(
        r"refused:\n  invalid-value: .*\(metric 'Rows'\), once\n  invalid-namespace: .*'Jobs'\), 2 times", text
    )
    assert [each.reason for each in metrics.refused][:1] == [DropReason.INVALID_VALUE]


def test_what_a_stopped_client_refuses_is_shown(metrics: CapturingMetrics) -> None:
    """An application that stops its client at shutdown and records afterwards learns why it is not seen."""
    increment_counter("Jobs")
    metrics.stop()
    assert increment_counter("Jobs") is False
    assert metrics.put_metric_sync("Jobs", 1) is False
    metrics.assert_recorded("Jobs", count=1)
    text = failure(metrics.assert_recorded, "Jobs", count=2)
    assert "stopped: the client was stopped (metric 'Jobs'), once" in text
    assert "stopped: put_metric_sync returned False (metric 'Jobs'), once" in text


def test_a_client_that_was_reset_is_named(metrics: CapturingMetrics) -> None:
    """Who resets the process-wide client during a test no longer records here, and the text says so."""
    reset_metrics_client()
    assert "set_metrics_client or reset_metrics_client was called" in failure(metrics.assert_recorded, "Jobs")


# ---- the place of the process-wide client ----


def test_the_previous_client_comes_back() -> None:
    """Also after a failure inside."""
    mine = CloudWatchMetrics(MetricsConfig(), sink=InMemorySink())
    set_metrics_client(mine)
    captures = []

    def fail() -> None:
        with captured_metrics() as metrics:
            captures.append(metrics)
            assert get_metrics_client() is metrics
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(captures) == 1
    assert get_metrics_client() is mine


def test_a_client_made_in_place_of_the_capture_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reset leads to ends with the capture, its thread included."""
    monkeypatch.setenv("RETAINWISE_METRICS_SINK", "memory")
    before = set(threading.enumerate())
    with captured_metrics():
        reset_metrics_client()
        increment_counter("Jobs")
        made = get_metrics_client()
        assert made.stats().running
    assert made.stopped
    assert set(threading.enumerate()) == before


def test_a_list_that_another_thread_has_just_filled_is_no_way_past_the_capture() -> None:
    """Such a thread may lose the interpreter between its look at the list and its append."""
    client = CloudWatchMetrics(MetricsConfig(catalogue=()), sink=InMemorySink(), runtime=kit.ManualRuntime())
    set_metrics_client(client)
    handle = client.counter("Jobs")
    for _ in range(2):
        handle.inc()
        client.flush()
    (channel,) = client._intake.channels()
    with captured_metrics() as metrics:
        channel.pending.append(1)
        assert handle.inc()
        assert put_metric("Jobs", 1, "Count")
        metrics.assert_recorded("Jobs", count=2)


@pytest.mark.parametrize("enabled", [True, False])
def test_what_was_made_from_the_previous_client_is_seen(enabled: bool) -> None:
    """Its own methods, handles and scopes, whether it is enabled or not, and whether they hold values or not."""
    sink, runtime = InMemorySink(), kit.ManualRuntime()
    earlier = CloudWatchMetrics(MetricsConfig(enabled=enabled, default_namespace="Shop"), sink=sink, runtime=runtime)
    jobs, scope, busy = (
        earlier.counter("Jobs").bind(Queue="fast"),
        earlier.scoped({"Queue": "fast"}),
        earlier.gauge("Busy"),
    )
    for _ in range(3):
        jobs.inc()
        earlier.put_metric("Rows", 1)
        busy.inc()
    set_metrics_client(earlier)
    for _ in range(2):
        with captured_metrics() as metrics:
            jobs.inc()
            earlier.put_metric("Rows", 1)
            scope.increment_counter("Scoped")
            busy.inc()
            for name in ("Jobs", "Rows", "Scoped", "Busy"):
                metrics.assert_recorded(name, count=1, value=1, namespace="Shop")
            with pytest.raises(InvalidMetricError):
                earlier.put_metric("", 1)
            earlier.stop()
    jobs.inc()
    assert earlier.put_metric("Rows", 1) is enabled
    earlier.flush()
    assert sink.values("Shop", "Jobs", {"Queue": "fast"}) == ({1.0: 4} if enabled else {})
    assert sink.values("Shop", "Rows") == ({1.0: 4} if enabled else {})
    assert earlier.stats().recorded == earlier.stats().delivered


def test_what_was_made_from_an_earlier_capture_is_seen() -> None:
    """A module that is first imported inside a test keeps that test's client; the next test sees its records."""
    with captured_metrics() as first:
        jobs = get_metrics_client().counter("Jobs")
        jobs.inc()
    assert jobs.inc() is False
    with captured_metrics() as second:
        jobs.inc()
        first.increment_counter("Rows")
        second.assert_recorded("Jobs", count=1)
        second.assert_recorded("Rows", count=1)
    assert [record.name for record in first.records] == ["Jobs"]


def test_a_callback_ends_with_its_capture() -> None:
    """What one test gives a gauge to call says nothing in the next; a level that is moved starts from 0 there."""
    with captured_metrics() as first:
        first.gauge("Waiting", lambda: 1)
        busy = first.gauge("Busy")
        busy.inc(5)
        assert len(first.records) == 2
    with captured_metrics() as second:
        assert second.records == []
        busy.inc()
        second.assert_recorded("Busy", count=1, value=1)
        second.assert_not_recorded("Waiting")


def test_another_client_is_adopted_on_request(metrics: CapturingMetrics) -> None:
    """A client that the code under test made by itself is left alone until the test says otherwise."""
    sink = InMemorySink()
    other = CloudWatchMetrics(MetricsConfig(), sink=sink, runtime=kit.ManualRuntime())
    other.increment_counter("Jobs")
    metrics.assert_not_recorded("Jobs")
    metrics.adopt(other)
    metrics.adopt(other)
    other.increment_counter("Jobs")
    metrics.assert_recorded("Jobs", count=1)
    metrics.release()
    other.flush()
    assert sink.values("RetainWise/MLPipeline", "Jobs") == {1.0: 1}


# ---- threads, loops, clocks ----


def test_any_number_of_threads_may_record_and_flush() -> None:
    """Nothing is lost or counted twice, nobody waits for ever, and no thread comes into being."""
    runtime = CaptureRuntime()
    start = threading.Barrier(7)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            start.wait(30)
            for each in range(300):
                increment_counter("Jobs", dimensions={"Worker": str(number)})
                if each % 100 == number:
                    metrics.flush()
        except BaseException as error:
            errors.append(error)

    with captured_metrics(runtime=runtime) as metrics:
        before = threading.active_count()
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        start.wait(30)
        for _ in range(20):
            runtime.advance(60)
        for thread in threads:
            thread.join(60)
        assert errors == []
        assert threading.active_count() == before
        for number in range(6):
            metrics.assert_recorded("Jobs", count=300, dimensions={"Worker": str(number)})
        assert metrics.flush()
        assert metrics.stats().delivered == 1_800


def test_a_flush_waits_no_longer_than_asked_for_another_thread(metrics: CapturingMetrics) -> None:
    """While one thread is at work, others record without waiting, and a flush gives up at its deadline."""
    inside, go_on = threading.Event(), threading.Event()
    metrics.gauge("Slow", lambda: float(inside.set() or go_on.wait(60)))
    thread = threading.Thread(target=metrics.clock.advance, args=(60,))
    increment_counter("Jobs")
    thread.start()
    assert inside.wait(60)
    assert increment_counter("Jobs")
    assert not metrics.flush(timeout=0.01)
    go_on.set()
    thread.join(60)
    assert metrics.flush()


def test_who_leaves_a_message_does_not_wait() -> None:
    """A message that comes while another thread is at work is found by the next step."""
    inside, go_on = threading.Event(), threading.Event()
    messages: list[object] = []

    class Job:
        def step(self, message: object | None) -> float:
            messages.append(message)
            if message == "wait":
                inside.set()
                go_on.wait(10)
            return 60.0

    worker = CaptureRuntime().start(Job(), "job")
    thread = threading.Thread(target=worker.post, args=("wait",))
    thread.start()
    assert inside.wait(60)
    worker.post("late")
    assert thread.is_alive()
    go_on.set()
    thread.join(60)
    assert messages == [None, "wait", "late"]


def test_a_child_that_was_forked_while_a_thread_was_at_work_goes_on(metrics: CapturingMetrics) -> None:
    """The lock that a thread of the parent holds is not waited for, and what was recorded is the parent's."""
    inside, go_on = threading.Event(), threading.Event()
    metrics.gauge("Slow", lambda: float(inside.set() or go_on.wait(60)))
    increment_counter("Jobs")
    thread = threading.Thread(target=metrics.clock.advance, args=(60,))
    thread.start()
    assert inside.wait(60)
    metrics._collectors.clear()
    metrics.after_fork()
    metrics.assert_not_recorded("Jobs")
    increment_counter("Jobs")
    assert metrics.flush()
    metrics.assert_recorded("Jobs", count=1)
    go_on.set()
    thread.join(60)


def test_coroutines_use_it_like_the_real_client(metrics: CapturingMetrics) -> None:
    """`aflush` and `astop` do not block, and records of tasks are seen."""

    async def main() -> None:
        await asyncio.gather(*(asyncio.to_thread(increment_counter, "Jobs") for _ in range(5)))
        assert await metrics.aflush()
        metrics.assert_recorded("Jobs", count=5)
        assert await metrics.astop()

    asyncio.run(main())


def test_the_breaker_can_be_moved(metrics: CapturingMetrics) -> None:
    """Operators' calls do what they do on a real client; what is recorded is still seen."""
    metrics.force_open()
    increment_counter("Jobs")
    assert metrics.stats().breaker_state is BreakerState.FORCED_OPEN
    metrics.assert_recorded("Jobs", count=1)
    metrics.reset_breaker()
    assert metrics.flush()


def test_frozen_time_is_the_time_of_the_record(metrics: CapturingMetrics) -> None:
    """Also when time is frozen only after the fixture was made, and when records bring timestamps of that time."""
    with freeze_time("2012-03-04 12:00:30") as frozen:
        increment_counter("Jobs")
        frozen.tick(60)
        increment_counter("Jobs", timestamp=1_330_862_460.0)
        increment_counter("Jobs")
        assert metrics.flush()
    first, second, third = (record.timestamp for record in metrics.records)
    assert first == 1_330_862_430.0
    assert (second, third) == (first + 30, first + 60)


def test_the_clock_adds_to_the_calendar() -> None:
    """`advance` moves both clocks, and a wall clock that was set moves no other way."""
    with freeze_time("2026-01-01", auto_tick_seconds=5):
        runtime = CaptureRuntime()
        assert runtime.wall() < runtime.wall()
        runtime.set_wall(1_000.0)
        runtime.advance(60)
        assert (runtime.wall(), runtime.monotonic()) == (1_060.0, 60.0)


# ---- the package ----


def test_every_name_of_the_kit_is_loaded_from_where_it_is_declared() -> None:
    """The table of lazy names is that of the imports type checkers see."""
    source = Path(kit.__file__).read_text("utf-8").partition("__all__")[0]
    declared = {
        name.strip(): module.removeprefix("retainwise_metrics").replace(".sinks", "..sinks")
        if "sinks" in module
        else module
        for module, names in re.findall(r"^    from (\S+) import (.*)$", source, re.MULTILINE)
        for name in names.split(",")
    }
    assert declared == kit._MODULES
    assert sorted(kit._MODULES) == kit.__all__ == dir(kit)
    assert all(getattr(kit, name) is not None for name in kit.__all__)
    with pytest.raises(AttributeError, match="Nothing"):
        _ = kit.Nothing


# ---- suites of users ----

GUARD = """
import sys, threading
import pytest

def offline(event, arguments):
    if event in ("socket.connect", "socket.sendto") and arguments[1][0] != "127.0.0.1":
        raise OSError("a test reached for the network")

sys.addaudithook(offline)

@pytest.fixture(autouse=True)
def no_thread_survives():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before
"""

LATE = """
from retainwise_metrics import get_metrics_client

jobs = get_metrics_client().counter("Jobs")
"""

APP = """
from retainwise_metrics import MetricNamespace, counted, get_metrics_client, increment_counter, timed

client = get_metrics_client()
uploads = client.counter("UploadSuccess", namespace=MetricNamespace.API).bind(Endpoint="/upload")

@timed("UploadDuration")
@counted("Uploads")
def upload():
    uploads.inc()
    client.put_metric("Rows", 3)
    increment_counter("Shorthand")

@timed("UploadDuration")
async def aupload():
    upload()
"""


class Suites:
    """
    Runs suites of users in processes of their own, with nothing loaded but the plugin.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, suite: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run one test module beside the application and the guard."""
        for name, text in {"conftest": GUARD, "app": APP, "late": LATE, "test_suite": suite}.items():
            (self.folder / f"{name}.py").write_text(textwrap.dedent(text), "utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir=."]
        if "autoload" not in environment:
            command += ["-p", "retainwise_metrics.testing.pytest_plugin"]
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RETAINWISE_", "PYTEST"))
        }
        return subprocess.run(
            [*command, *options],
            cwd=self.folder,
            env={**kept, "ENVIRONMENT": "test", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def suites(tmp_path: Path) -> Suites:
    """Runs suites in an empty folder."""
    return Suites(tmp_path)


def passed(done: subprocess.CompletedProcess[str]) -> int:
    """How many tests passed; none failed."""
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"(\d+) passed", done.stdout)
    assert found is not None, done.stdout
    return int(found[1])


def test_a_suite_in_a_quiet_environment(suites: Suites) -> None:
    """`ENVIRONMENT=test` disables the application's client; its records are seen all the same, in each test only its own."""
    done = suites.run(
        """
        import os, threading
        import pytest

        @pytest.mark.parametrize("number", range(3))
        def test_import_inside_a_test(metrics, number):
            import late
            late.jobs.inc()
            metrics.assert_recorded("Jobs", count=1)

        def test_import_at_the_top(metrics):
            import app
            for _ in range(2):
                app.upload()
            metrics.assert_recorded("UploadSuccess", count=2, dimensions={"Endpoint": "/upload"})
            for name in ("Rows", "Shorthand", "Uploads", "UploadDuration"):
                metrics.assert_recorded(name, count=2)

        def test_threads(metrics):
            import app
            threads = [threading.Thread(target=app.upload) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            metrics.assert_recorded("Uploads", count=8)

        def test_without_the_fixture_nothing_is_recorded():
            import app
            assert app.client.increment_counter("Jobs") is False

        def test_time(metrics, metrics_runtime):
            metrics.gauge("Level", lambda: 7)
            metrics_runtime.advance(120)
            metrics.assert_recorded("Level", value=7)

        @pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
        def test_a_forked_child_starts_empty(metrics):
            import app
            app.upload()
            pid = os.fork()
            if pid == 0:
                ends_with = 1
                try:
                    metrics.assert_not_recorded("Uploads")
                    app.upload()
                    metrics.assert_recorded("Uploads", count=1)
                    assert metrics.flush()
                    ends_with = 0
                finally:
                    os._exit(ends_with)
            assert os.waitpid(pid, 0)[1] == 0
            metrics.assert_recorded("Uploads", count=1)
        """
    )
    assert passed(done) == 8


def test_a_failure_points_at_the_line_of_the_test(suites: Suites) -> None:
    """What a user sees: the line of the assertion, and the text, without the inside of the kit."""
    done = suites.run("""
        import app

        def test_it(metrics):
            app.upload()
            metrics.assert_recorded("UploadSuccess", dimensions={"Endpoint": "/uploads"})
        """)
    assert done.returncode == 1
    assert "test_suite.py:6: AssertionError" in done.stdout
    assert "other dimensions: UploadSuccess{Endpoint=/upload} in RetainWise/API, Count, once: 1" in done.stdout
    assert "capture.py" not in done.stdout


def test_xdist(suites: Suites) -> None:
    """Each worker process has captures of its own."""
    pytest.importorskip("xdist")
    done = suites.run(
        """
        import app, pytest

        @pytest.mark.parametrize("number", range(20))
        def test_it(metrics, number):
            app.upload()
            metrics.assert_recorded("UploadSuccess", count=1)
        """,
        *("-p", "xdist", "-n", "2"),
    )
    assert passed(done) == 20


@pytest.mark.parametrize("plugin", ["pytest_asyncio", "anyio"])
def test_tests_that_are_coroutines(suites: Suites, plugin: str) -> None:
    """The fixture serves tests that run in an event loop."""
    if importlib.util.find_spec(plugin) is None:
        pytest.skip(f"{plugin} is not installed")
    mark, names = (
        ("asyncio", ["-p", "pytest_asyncio.plugin"])
        if plugin == "pytest_asyncio"
        else ("anyio", ["-p", "anyio.pytest_plugin"])
    )
    settings = ["-o", "asyncio_default_fixture_loop_scope=function"] if mark == "asyncio" else []
    done = suites.run(
        f"""
        import asyncio
        import app, pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.{mark}
        @pytest.mark.parametrize("number", range(3))
        async def test_it(metrics, number):
            await asyncio.gather(*(app.aupload() for _ in range(4)))
            metrics.assert_recorded("UploadSuccess", count=4)
            metrics.assert_recorded("UploadDuration", count=8)
            with metrics.timer("Waiting"):
                await asyncio.sleep(0)
            assert metrics.flush()
        """,
        *names,
        *settings,
    )
    assert passed(done) == 3


def test_freezegun(suites: Suites) -> None:
    """A test that is frozen as a whole, and one that freezes a block."""
    done = suites.run("""
        import datetime
        import app
        from freezegun import freeze_time

        @freeze_time("2012-01-14 03:21:34")
        def test_decorated(metrics):
            app.upload()
            app.client.put_metric("Old", 1, timestamp=datetime.datetime.now(datetime.timezone.utc))
            metrics.assert_recorded("Old", count=1)
            assert {record.timestamp for record in metrics.records} == {1326511294.0}
            assert metrics.flush()

        def test_block(metrics):
            with freeze_time("2012-01-14", tick=True):
                app.upload()
            with freeze_time("2031-01-14") as frozen:
                app.upload()
                frozen.tick(86_400)
                app.upload()
                metrics.clock.advance(60)
            metrics.assert_recorded("Uploads", count=3)
        """)
    assert passed(done) == 2


def test_fake_cloudwatch(suites: Suites) -> None:
    """The environment leads to the server, for this library and for boto3; beside `metrics` the process-wide client stays captured."""
    done = suites.run(
        """
        import os, threading
        import boto3
        from retainwise_metrics import CloudWatchMetrics, get_metrics_client, increment_counter

        def test_alone(fake_cloudwatch):
            increment_counter("Jobs")
            assert get_metrics_client().flush(30)
            assert fake_cloudwatch.sum("RetainWise/MLPipeline", "Jobs") == 1
            found = boto3.session.Session().client("cloudwatch").list_metrics()["Metrics"]
            assert [metric["MetricName"] for metric in found] == ["Jobs"]

        def test_afterwards():
            assert "AWS_ENDPOINT_URL_CLOUDWATCH" not in os.environ
            assert increment_counter("Jobs") is False

        def test_both(metrics, fake_cloudwatch):
            increment_counter("Captured")
            with CloudWatchMetrics() as own:
                own.increment_counter("Sent")
            metrics.assert_recorded("Captured", count=1)
            assert [series.name for series in fake_cloudwatch.series()] == ["Sent"]
        """,
        HTTP_PROXY="http://192.0.2.1:9",
    )
    assert passed(done) == 3


def test_an_installed_plugin_costs_a_run_next_to_nothing(suites: Suites) -> None:
    """Found by its entry point, it loads three modules and nothing else until a fixture is used; and it can be turned off."""
    metadata = suites.folder / "site" / "users_copy-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: users-copy\nVersion: 1.0\n", "utf-8")
    entry = "[pytest11]\nusers_copy = retainwise_metrics.testing.pytest_plugin\n"
    (metadata / "entry_points.txt").write_text(entry, "utf-8")
    suite = """
        import sys

        def test_nothing_else_is_loaded():
            ours = sorted(name for name in sys.modules if name.startswith("retainwise_metrics"))
            assert ours == ["retainwise_metrics", "retainwise_metrics.testing", "retainwise_metrics.testing.pytest_plugin"]
            assert not {"boto3", "botocore", "moto", "hypothesis"} & set(sys.modules)

        def test_it_is_there(metrics):
            metrics.increment_counter("Jobs")
            metrics.assert_recorded("Jobs")
        """
    found = {"PYTHONPATH": str(metadata.parent), "PYTEST_PLUGINS": "", "autoload": "1"}
    blocked = [
        option
        for name in ("retainwise_metrics", "hypothesispytest", "anyio", "xdist", "asyncio")
        for option in ("-p", f"no:{name}")
    ]
    done = suites.run(suite, *blocked, **found, PYTEST_DISABLE_PLUGIN_AUTOLOAD="")
    assert passed(done) == 2
    off = suites.run(suite, *blocked, "-p", "no:users_copy", **found, PYTEST_DISABLE_PLUGIN_AUTOLOAD="")
    assert "fixture 'metrics' not found" in off.stdout


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "\ndef test_" in page.read_text("utf-8")], ids=lambda page: page.name
)
def test_the_tests_on_a_page_pass(suites: Suites, page: Path) -> None:
    """What a page shows as a test is one, beside the code that the same page shows."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    suite = "\n".join(blocks)
    account = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_EC2_METADATA_DISABLED": "true"}
    done = suites.run(suite, RETAINWISE_METRICS_SINK="memory", **account)
    assert passed(done) == suite.count("\ndef test_")
