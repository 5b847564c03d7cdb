"""A client with a spool: outages, ends and heirs, on a clock that stands still; and a call that hangs, on a real one."""

from __future__ import annotations

import os
import threading
from time import time
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics import BreakerState, CloudWatchMetrics, DropReason, MetricsConfig
from retainwise_metrics.sinks.base import SinkRejected, SinkTooLarge, SinkUnavailable
from retainwise_metrics.sinks.failover import FailoverSink
from retainwise_metrics.testing import InMemorySink, ManualRuntime
from tests.concurrency.threads import PATIENCE_SECONDS, wait_until
from tests.helpers import NAMESPACE, assert_balanced

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from retainwise_metrics.datum import Batch, Datum

    Make = Callable[..., CloudWatchMetrics]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the processes of the service keep what they cannot deliver."""
    return tmp_path / "spool"


@pytest.fixture
def make(make_client: Make, folder: Path) -> Make:
    """Make a client with a spool."""

    def make_with_spool(**settings: object) -> CloudWatchMetrics:
        return make_client(spool_dir=str(folder), **settings)

    return make_with_spool


def unavailable(_: Batch) -> None:
    """Nothing gets through."""
    message = "503"
    raise SinkUnavailable(message)


def die(client: CloudWatchMetrics, runtime: ManualRuntime) -> None:
    """The process is killed: its thread is gone, its descriptors are closed, and its memory is nobody's."""
    runtime.after_fork()
    client._pipeline._spool.after_fork()  # type: ignore[union-attr]


def files(folder: Path) -> list[Path]:
    """What is on disk besides locks."""
    return list(folder.glob("*/*.seg"))


def test_nothing_goes_to_disk_while_calls_get_through(make: Make, runtime: ManualRuntime, folder: Path) -> None:
    """Not even a folder is made."""
    client = make()
    for _ in range(10):
        client.put_metric("M", 1)
        runtime.advance(60.0)
    client.stop()
    assert client.stats().delivered == 10
    assert not folder.exists()


def test_a_single_failure_is_no_reason_to_write(
    make: Make, sink: InMemorySink, runtime: ManualRuntime, folder: Path
) -> None:
    """The next attempt is less than a second away."""

    def fail_once(_: Batch) -> None:
        sink.fail = None
        unavailable(_)

    client = make()
    sink.fail = fail_once
    client.put_metric("M", 1)
    runtime.advance(120.0)
    assert client.stats().delivered == 1
    assert not folder.exists()


def test_an_hour_of_outage_is_on_disk_and_not_in_memory(
    make: Make, sink: InMemorySink, runtime: ManualRuntime, folder: Path
) -> None:
    """More than memory may hold is delivered in the end, each value once and in its own minute; no file is left."""
    client = make(max_pending_datums=500)
    start = int(runtime.wall())
    sink.fail = unavailable
    for minute in range(60):
        for index in range(100):
            client.put_metric(f"M{index}", minute)
        runtime.advance(60.0)
        stats = client.stats()
        assert stats.recorded == 100 * (minute + 1)
        assert (stats.dropped, stats.spool_errors) == ({}, 0)
        if minute > 2:
            assert client._pipeline._delivery.backlog.datums == 0
            assert stats.spooled == stats.pending == 100 * (minute + 1)
        assert_balanced(client)
    assert files(folder)
    sink.fail = None
    runtime.advance(3600.0)
    stats = client.stats()
    assert (stats.delivered, stats.pending, stats.spooled, stats.breaker_state) == (6000, 0, 0, BreakerState.CLOSED)
    assert sorted((d.series.name, (d.timestamp - start) // 60, d.values) for d in sink.datums) == sorted(
        (f"M{index}", minute, (minute,)) for index in range(100) for minute in range(60)
    )
    assert files(folder) == []
    assert sum(len(batch.datums) for batch in sink.batches) / len(sink.batches) > 40, "caught up with in larger calls"


def test_values_of_now_come_before_those_on_disk(make: Make, sink: InMemorySink, runtime: ManualRuntime) -> None:
    """Alarms look at the present: a long way back to catch up with must not hold it up."""
    client = make()
    sink.fail = unavailable
    for minute in range(30):
        for index in range(200):
            client.put_metric(f"Old{index}", minute)
        runtime.advance(60.0)
    client.reset_breaker()
    client.put_metric("New", 1)
    sink.fail = None
    client.flush(1000.0)
    assert client.stats().delivered == 6001
    assert "New" in [datum.series.name for batch in sink.batches[:2] for datum in batch.datums]


def test_a_stop_leaves_on_disk_what_the_next_process_delivers(
    make: Make, sink: InMemorySink, runtime: ManualRuntime, folder: Path
) -> None:
    """Not dropped as shutdown; with its own timestamps; and the heir says where it comes from."""
    client = make()
    sink.fail = unavailable
    start = int(runtime.wall())
    client.put_metric("M", 1)
    runtime.advance(60.0)
    client.put_metric("M", 2)
    result = client.stop(1.0)
    stats = client.stats()
    assert (result.pending, stats.pending, stats.spooled, stats.dropped) == (2, 2, 2, {})
    assert_balanced(client)
    die(client, runtime)
    sink.fail = None
    heir = make()
    heir.start()
    assert heir.flush(100.0)
    stats = heir.stats()
    assert (stats.recorded, stats.adopted, stats.delivered) == (2, 2, 2)
    assert sorted((datum.timestamp - start, datum.values) for datum in sink.datums) == [(0, (1,)), (60, (2,))]
    assert files(folder) == []


def test_a_stopped_client_that_starts_again_delivers_what_it_left(
    make: Make, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """It still owns its files."""
    client = make()
    sink.fail = unavailable
    client.put_metric("M", 1)
    client.stop(1.0)
    sink.fail = None
    client.start()
    client.put_metric("M", 2)
    runtime.advance(1000.0)
    assert sink.values(NAMESPACE, "M") == {1: 1, 2: 1}
    assert_balanced(client)


def test_a_client_that_is_forgotten_leaves_its_files_to_the_next(make: Make, sink: InMemorySink) -> None:
    """As `reset_metrics_client` does."""
    client = make()
    sink.fail = unavailable
    client.put_metric("M", 1)
    client.stop(1.0)
    del client
    import gc

    gc.collect()
    sink.fail = None
    heir = make()
    heir.start()
    assert heir.flush(100.0)
    assert sink.values(NAMESPACE, "M") == {1: 1}


def test_a_kill_loses_what_had_not_waited_for_long(make: Make, sink: InMemorySink, runtime: ManualRuntime) -> None:
    """What was recorded since the last flush; everything before is delivered by the heir, once."""
    client = make(flush_interval_seconds=60.0)
    sink.fail = unavailable
    for second in range(600):
        client.put_metric("M", second)
        runtime.advance(1.0)
    spooled = client.stats().spooled
    assert client.stats().pending - spooled <= 60
    die(client, runtime)
    sink.fail = None
    heir = make()
    heir.start()
    heir.flush(1000.0)
    assert sink.values(NAMESPACE, "M") == dict.fromkeys(range(spooled), 1)


def test_a_kill_while_catching_up_repeats_nothing(make: Make, sink: InMemorySink, runtime: ManualRuntime) -> None:
    """Whatever was acknowledged before it, and wherever it comes: after each call in turn."""
    for calls in range(1, 12):
        client = make(batch_size=3)
        sink.fail = unavailable
        for index in range(5):
            for name in range(100):
                client.put_metric(f"M{name}", calls * 10 + index)
            runtime.advance(60.0)
        sink.fail = None
        client.reset_breaker()
        before = len(sink.batches)

        def stop_after(_: Batch, before: int = before, calls: int = calls) -> None:
            if len(sink.batches) - before >= calls:
                unavailable(_)

        sink.fail = stop_after
        client.flush(0.0)
        assert_balanced(client)
        die(client, runtime)
    sink.fail = None
    heir = make()
    heir.start()
    runtime.advance(120.0)
    heir.flush(10_000.0)
    for name in range(100):
        assert sink.values(NAMESPACE, f"M{name}") == {c * 10 + i: 1 for c in range(1, 12) for i in range(5)}


@pytest.mark.parametrize("names_members", [True, False])
def test_poison_on_disk_is_found_and_the_rest_of_it_delivered(
    make: Make, sink: InMemorySink, runtime: ManualRuntime, names_members: bool, folder: Path
) -> None:
    """Also when the search is interrupted by another outage, and by the end of the process."""
    client = make()
    sink.fail = unavailable
    for index in range(40):
        client.put_metric(f"M{index}", index)
    runtime.advance(60.0)
    client.put_metric("N", 1)
    runtime.advance(60.0)

    def refuse(batch: Batch) -> None:
        poison = tuple(i for i, datum in enumerate(batch.datums) if datum.series.name in {"M7", "M31"})
        if poison:
            message = "InvalidParameterValue"
            raise SinkRejected(message, members=poison if names_members else ())

    calls = 0

    def flap(batch: Batch) -> None:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            unavailable(batch)
        refuse(batch)

    sink.fail = flap
    for _ in range(4):
        client.reset_breaker()
        client.flush(0.0)
        runtime.advance(4.0)
        assert_balanced(client)
    delivered, dropped = client.stats().delivered, sum(client.stats().dropped.values())
    die(client, runtime)
    heir = make(failure_threshold=1000)
    heir.start()
    heir.flush(10_000.0)
    stats = heir.stats()
    assert delivered + stats.delivered == 39
    assert dropped + stats.dropped.get(DropReason.REJECTED, 0) == 2
    assert sorted(d.series.name for d in sink.datums) == sorted(
        ["N", *(f"M{i}" for i in range(40) if i not in (7, 31))]
    )
    assert files(folder) == []


def test_what_became_too_large_or_too_old_on_disk_is_dropped_for_that(
    make: Make, sink: InMemorySink, runtime: ManualRuntime, folder: Path
) -> None:
    """As it would have been from memory."""
    client = make()
    sink.fail = unavailable
    client.put_metric("Old", 1, timestamp=runtime.wall() - 13 * 86_400)
    client.put_metric("Large", 1)
    client.put_metric("M", 1)
    runtime.advance(2 * 86_400.0)

    def refuse(batch: Batch) -> None:
        if any(datum.series.name == "Large" for datum in batch.datums):
            message = "413"
            raise SinkTooLarge(message)

    sink.fail = refuse
    client.flush(10_000.0)
    assert client.stats().dropped == {DropReason.TOO_OLD: 1, DropReason.TOO_LARGE: 1}
    assert [datum.series.name for datum in sink.datums] == ["M"]
    assert client.stats().pending == 0
    assert files(folder) == []


def test_a_disk_that_does_not_work_leaves_things_as_they_were_without_one(
    make_client: Make, sink: InMemorySink, runtime: ManualRuntime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Values are held in memory and delivered later; it is counted, and said once a minute at most."""
    (tmp_path / "spool").write_text("a file where the folder should be")
    client = make_client(spool_dir=str(tmp_path / "spool"))
    sink.fail = unavailable
    for minute in range(20):
        client.put_metric("M", minute)
        runtime.advance(60.0)
    stats = client.stats()
    assert (stats.spooled, stats.pending, stats.dropped) == (0, 20, {})
    assert 1 <= stats.spool_errors <= 25
    said = [line for line in caplog.messages if "spool" in line]
    assert 1 <= len(said) <= 25
    assert "values stay in memory" in said[0]
    sink.fail = None
    runtime.advance(3600.0)
    assert sink.values(NAMESPACE, "M") == dict.fromkeys(range(20), 1)


def test_the_second_sink_comes_before_the_disk(sink: InMemorySink, runtime: ManualRuntime, folder: Path) -> None:
    """What can be diverted is delivered; only when that fails too is anything written, and diverted when that works again."""
    second = InMemorySink()
    config = MetricsConfig(spool_dir=str(folder))
    client = CloudWatchMetrics(config, sink=FailoverSink(sink, second), runtime=runtime)
    sink.fail = unavailable
    for minute in range(10):
        client.put_metric("M", minute)
        runtime.advance(60.0)
    assert client.stats().spooled == 0
    second.fail = unavailable
    for minute in range(10, 20):
        client.put_metric("M", minute)
        runtime.advance(60.0)
    assert client.stats().spooled >= 9
    second.fail = None
    runtime.advance(120.0)
    assert client.stats().pending == 0
    assert second.values(NAMESPACE, "M") == dict.fromkeys(range(20), 1)


@pytest.mark.parametrize("delivery", ["at-least-once", "at-most-once"])
def test_killed_after_a_stop_while_a_call_hangs(folder: Path, delivery: str) -> None:
    """Nobody knows what became of the call: an heir sends it again, or gives it up as in doubt."""
    entered, answer = threading.Event(), threading.Event()

    def hang(_: Batch) -> None:
        entered.set()
        assert answer.wait(PATIENCE_SECONDS)

    settings = {"spool_dir": str(folder), "delivery": delivery}
    client = CloudWatchMetrics(MetricsConfig(flush_interval_seconds=0.1, **settings), sink=InMemorySink(hang))
    client.put_metric("M", 1)
    assert entered.wait(PATIENCE_SECONDS)
    client.put_metric("M", 2)
    client.stop(0.1)
    client._pipeline._spool.after_fork()  # type: ignore[union-attr]  # the process is killed
    sink = InMemorySink()
    with CloudWatchMetrics(MetricsConfig(**settings), sink=sink) as heir:
        assert heir.flush(PATIENCE_SECONDS)
        assert heir.stats().adopted == 2
    in_doubt = {DropReason.IN_DOUBT: 1} if delivery == "at-most-once" else {}
    assert heir.stats().dropped == in_doubt
    assert sink.values(NAMESPACE, "M") == ({2: 1} if in_doubt else {1: 1, 2: 1})
    answer.set()


@pytest.mark.parametrize("arrives", [True, False])
def test_a_stop_while_a_call_hangs_brings_everything_to_disk(folder: Path, arrives: bool) -> None:
    """Also what is being sent: an heir has it, unless the call succeeds after all while the process lives."""
    entered, answer = threading.Event(), threading.Event()

    def hang(_: Batch) -> None:
        entered.set()
        assert answer.wait(PATIENCE_SECONDS)
        if not arrives:
            unavailable(_)

    sink = InMemorySink(hang)
    client = CloudWatchMetrics(MetricsConfig(spool_dir=str(folder), flush_interval_seconds=0.1), sink=sink)
    client.put_metric("M", 1)
    assert entered.wait(PATIENCE_SECONDS)
    client.put_metric("M", 2)
    result = client.stop(0.1)
    stats = client.stats()
    assert (result.pending, stats.pending, stats.spooled) == (2, 2, 1), "what is on the wire is in memory as well"
    on_disk = sum(s.pending for f in client._pipeline._spool._folders for s in f.segments)  # type: ignore[union-attr]
    assert on_disk == 2
    answer.set()
    wait_until(lambda: not client.stats().running)
    assert_balanced(client)
    assert client.stats().spooled == client.stats().pending == (0 if arrives else 2)
    client._pipeline._spool.after_fork()  # type: ignore[union-attr]  # the process ends
    second = InMemorySink()
    with CloudWatchMetrics(MetricsConfig(spool_dir=str(folder)), sink=second) as heir:
        assert heir.flush(PATIENCE_SECONDS)
    assert second.values(NAMESPACE, "M") == ({} if arrives else {1: 1, 2: 1})


def test_a_forked_child_leaves_the_parents_files_alone(make: Make, sink: InMemorySink, runtime: ManualRuntime) -> None:
    """It starts with empty books, and nothing on disk is its own."""
    client = make()
    sink.fail = unavailable
    client.put_metric("M", 1)
    runtime.advance(60.0)
    assert client.stats().spooled == 1
    parent = client._pipeline._spool._folders[0].path  # type: ignore[union-attr]
    runtime.after_fork()
    client.after_fork()
    assert client.stats().recorded == client.stats().spooled == 0
    assert list(parent.glob("*.seg"))


@pytest.mark.parametrize("end", ["accepted", "killed"])
@pytest.mark.parametrize("delivery", ["at-least-once", "at-most-once"])
def test_a_stop_while_half_of_a_record_is_being_sent(folder: Path, delivery: str, end: str) -> None:
    """A batch from disk was halved, and its first half hangs: that half is in doubt or sent again, the other half is delivered."""
    settings = {"spool_dir": str(folder), "delivery": delivery}
    first = CloudWatchMetrics(MetricsConfig(**settings), sink=InMemorySink(unavailable), runtime=ManualRuntime(time()))
    for index in range(10):
        first.put_metric(f"M{index}", index)
    first.stop(1.0)
    first._pipeline._spool.after_fork()  # type: ignore[union-attr]
    entered, answer = threading.Event(), threading.Event()
    arrived: list[str] = []

    def hang(batch: Batch) -> None:
        if len(batch.datums) > 5:
            message = "413"
            raise SinkTooLarge(message)
        arrived.extend(datum.series.name for datum in batch.datums)
        entered.set()
        assert answer.wait(PATIENCE_SECONDS)

    second = CloudWatchMetrics(MetricsConfig(flush_interval_seconds=0.1, **settings), sink=InMemorySink(hang))
    second.start()
    assert entered.wait(PATIENCE_SECONDS)
    second.stop(0.1)
    if end == "accepted":
        answer.set()
        wait_until(lambda: not second.stats().running)
        assert_balanced(second)
        assert second.stats().dropped == {}
    before = sorted(arrived)
    second._pipeline._spool.after_fork()  # type: ignore[union-attr]
    sink = InMemorySink()
    with CloudWatchMetrics(MetricsConfig(**settings), sink=sink) as heir:
        assert heir.flush(PATIENCE_SECONDS)
    after = sorted(datum.series.name for datum in sink.datums)
    answer.set()
    everything = {f"M{index}" for index in range(10)}
    if delivery == "at-most-once":
        assert not set(before) & set(after)
        lost = heir.stats().dropped.get(DropReason.IN_DOUBT, 0)
        assert len(before) + len(after) + lost >= 10 >= len(set(before) | set(after))
        assert end == "killed" or set(before) | set(after) == everything
    else:
        assert set(before) | set(after) == everything
        assert end == "killed" or len(before) + len(after) == 10


def test_a_disk_that_hangs_does_not_hold_whoever_stops(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call hangs, and then the disk does, too."""
    entered, answer = threading.Event(), threading.Event()

    def hang(_: Batch) -> None:
        entered.set()
        assert answer.wait(PATIENCE_SECONDS)

    client = CloudWatchMetrics(
        MetricsConfig(spool_dir=str(folder), flush_interval_seconds=0.1), sink=InMemorySink(hang)
    )
    client.put_metric("M", 1)
    assert entered.wait(PATIENCE_SECONDS)
    write = os.pwrite

    def stuck(*arguments: object) -> int:
        assert answer.wait(PATIENCE_SECONDS)
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "pwrite", stuck)
    assert client.stop(0.1).pending == 1
    assert not answer.is_set()
    answer.set()
    wait_until(lambda: not client.stats().running)


def test_a_sink_that_raises_while_it_sizes_does_not_make_stop_raise(folder: Path) -> None:
    """It is somebody's code."""
    entered, answer = threading.Event(), threading.Event()

    class Moody(InMemorySink):
        def datum_bytes(self, datum: Datum) -> int:
            if entered.is_set():
                raise ZeroDivisionError
            return super().datum_bytes(datum)

    def hang(_: Batch) -> None:
        entered.set()
        assert answer.wait(PATIENCE_SECONDS)

    client = CloudWatchMetrics(MetricsConfig(spool_dir=str(folder), flush_interval_seconds=0.1), sink=Moody(hang))
    client.put_metric("M", 1)
    assert entered.wait(PATIENCE_SECONDS)
    client.put_metric("N", 1)
    assert client.stop(0.1).pending == 2
    answer.set()


@pytest.mark.parametrize("operation", ["pwrite", "pread"])
def test_whatever_is_raised_at_the_disk_nothing_is_lost_or_spins(
    make: Make, sink: InMemorySink, runtime: ManualRuntime, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """No memory for a moment, or something raised in the thread from outside: the books balance, and all is delivered in the end."""
    client, do, calls = make(), getattr(os, operation), 0

    def fail_now_and_then(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls % 3 == 1:
            raise MemoryError
        return do(*arguments)

    monkeypatch.setattr(os, operation, fail_now_and_then)
    sink.fail = unavailable
    for minute in range(5):
        for index in range(120):
            client.put_metric(f"M{index}", minute)
        runtime.advance(60.0)
        assert_balanced(client)
    sink.fail = None
    runtime.advance(3600.0)
    assert calls > 3
    assert client.stats()[1:4] == (600, 0, {})
    assert_balanced(client)
