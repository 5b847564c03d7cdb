"""
Every measurement ends in exactly one column, whatever happens in whatever order.

The truth is kept here, beside the library: what the test handed in, and what the sink accepted.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from retainwise_metrics import CloudWatchMetrics, MetricsConfig
from retainwise_metrics.sinks.base import (
    SinkForbidden,
    SinkRejected,
    SinkThrottled,
    SinkTooLarge,
    SinkUnavailable,
)
from retainwise_metrics.sinks.failover import FailoverSink
from retainwise_metrics.testing import InMemorySink, ManualRuntime

if TYPE_CHECKING:
    from retainwise_metrics.datum import Batch, Datum

NAMES = ["A", "B", "Poison", "Huge"]
FAILURES = {
    "works": None,
    "throttled": lambda: SinkThrottled("Throttling", retry_after_seconds=7.0),
    "unavailable": lambda: SinkUnavailable("503"),
    "forbidden": lambda: SinkForbidden("AccessDenied"),
    "broken": ZeroDivisionError,
}


def is_poison(datum: Datum) -> bool:
    """What the destination refuses."""
    return datum.series.name == "Poison"


class Conservation(RuleBasedStateMachine):
    """A client, a clock and a destination in any of its moods."""

    @initialize(
        on_open=st.sampled_from(["hold", "reject"]),
        batch_size=st.sampled_from([1, 2, 7, 20, 1000]),
        max_distinct=st.sampled_from([1, 5, 1000]),
        names_members=st.booleans(),
        random=st.sampled_from([0.0, 0.5, 0.99]),
        failover=st.booleans(),
        spool=st.booleans(),
        delivery=st.sampled_from(["at-least-once", "at-most-once"]),
    )
    def begin(
        self,
        on_open: str,
        batch_size: int,
        max_distinct: int,
        names_members: bool,
        random: float,
        failover: bool,
        spool: bool,
        delivery: str,
    ) -> None:
        self.runtime = ManualRuntime(random=random)
        self.sink = InMemorySink(self.receive)
        self.failover = failover
        self.names_members = names_members
        self.mood = self.second_mood = "works"
        self.folder = tempfile.mkdtemp() if spool else None
        self.config = MetricsConfig(
            spool_dir=self.folder,
            delivery=delivery,
            on_open=on_open,
            batch_size=batch_size,
            max_distinct_values=max_distinct,
            max_pending_datums=100,
            failure_threshold=3,
            open_seconds=120.0,
            catalogue=(),
        )
        self.accepted_sum = 0.0
        self.astray = self.left_on_disk = 0
        self.begin_a_process()

    def begin_a_process(self) -> None:
        sink = FailoverSink(self.sink, InMemorySink(self.receive_instead)) if self.failover else self.sink
        self.client = CloudWatchMetrics(self.config, sink=sink, runtime=self.runtime)
        self.counter = self.client.counter("Bound")
        self.offered = self.accepted_count = self.diverted_count = 0
        self.left_by_others = self.left_on_disk

    def receive(self, batch: Batch) -> None:
        self.take(batch, self.mood)

    def receive_instead(self, batch: Batch) -> None:
        # The flusher survives whatever a sink raises, so a batch that should not have come here is noted for the invariant to see.
        self.astray += self.client.stats().breaker_state in {"closed", "disabled"}
        self.take(batch, self.second_mood)
        self.diverted_count += batch.measurements

    def take(self, batch: Batch, mood: str) -> None:
        failure = FAILURES[mood]
        if failure is not None:
            raise failure()
        if len(batch.datums) > 1 and any(datum.series.name == "Huge" for datum in batch.datums):
            message = "413"
            raise SinkTooLarge(message)
        poison = tuple(index for index, datum in enumerate(batch.datums) if is_poison(datum))
        if poison:
            message = "InvalidParameterValue"
            raise SinkRejected(message, members=poison if self.names_members else ())
        self.accepted_count += batch.measurements
        self.accepted_sum += sum(v * c for d in batch.datums for v, c in zip(d.values, d.counts, strict=True))

    @rule(
        name=st.sampled_from(NAMES),
        values=st.lists(st.integers(-5, 5) | st.floats(0.1, 9.9), min_size=1, max_size=40),
        kind=st.sampled_from(["a", "b", "c"]),
        resolution=st.sampled_from([60, 60, 60, 1]),
    )
    def record(self, name: str, values: list[float], kind: str, resolution: int) -> None:
        for value in values:
            self.client.put_metric(name, value, dimensions={"Kind": kind}, storage_resolution=resolution)
            self.offered += 1

    @rule(times=st.integers(1, 50))
    def count(self, times: int) -> None:
        for _ in range(times):
            self.counter.inc()
            self.offered += 1

    @rule(value=st.sampled_from([float("nan"), "many", None, 2.0**361]))
    def record_rubbish(self, value: object) -> None:
        assert self.client.put_metric("A", value) is False  # type: ignore[arg-type]
        self.offered += 1

    @rule(age=st.floats(min_value=-3 * 7200, max_value=16 * 86_400))
    def record_for_another_time(self, age: float) -> None:
        self.client.put_metric("A", 1, timestamp=self.runtime.wall() - age)
        self.offered += 1

    @rule()
    def send_now(self) -> None:
        self.client.put_metric_sync("Now", 1)
        self.offered += 1

    @rule(seconds=st.sampled_from([0.3, 1.0, 10.0, 60.0, 61.0, 600.0]))
    def advance(self, seconds: float) -> None:
        self.runtime.advance(seconds)

    @rule(seconds=st.sampled_from([20 * 60.0, 15 * 86_400.0]))
    def freeze(self, seconds: float) -> None:
        self.runtime.freeze(seconds)

    @rule(seconds=st.sampled_from([-3600.0, -1.0, 1.0, 3600.0]))
    def step_the_wall_clock(self, seconds: float) -> None:
        self.runtime.set_wall(self.runtime.wall() + seconds)

    @rule(mood=st.sampled_from(sorted(FAILURES)))
    def change_mood(self, mood: str) -> None:
        self.mood = mood

    @rule(mood=st.sampled_from(sorted(FAILURES)))
    def change_second_mood(self, mood: str) -> None:
        self.second_mood = mood

    @rule(timeout=st.sampled_from([0.0, 1.0, 30.0]))
    def flush(self, timeout: float) -> None:
        result = self.client.flush(timeout)
        assert bool(result) == (result.pending == 0)

    @rule(action=st.sampled_from(["force_open", "disable_breaker", "reset_breaker"]))
    def operate(self, action: str) -> None:
        getattr(self.client, action)()

    @rule()
    def stop_and_start(self) -> None:
        self.client.stop(1.0)
        self.client.put_metric("A", 1)
        self.offered += 1
        assert self.client.stats().pending == self.client.stats().spooled
        self.client.start()

    @rule()
    def become_a_forked_child(self) -> None:
        if self.folder is not None:
            self.left_by_others = self.on_disk()  # the parent goes on elsewhere, and ends
        self.runtime.after_fork()
        self.client.after_fork()
        self.offered = self.accepted_count = self.diverted_count = 0
        self.accepted_sum = 0.0
        assert self.client.stats().recorded == 0

    @rule()
    def be_killed(self) -> None:
        """The process is gone in the middle of whatever it did; another one finds on disk what was not settled, and all of that."""
        spool = self.client._pipeline._spool
        if spool is None:
            return
        self.left_on_disk = self.on_disk()
        spool.after_fork()  # as for a killed process, its descriptors are closed and its files stay
        self.runtime.after_fork()
        self.begin_a_process()
        mood, self.mood = self.mood, "works"
        self.client.start()
        assert self.client.stats().adopted == self.left_on_disk
        self.mood = mood

    def on_disk(self) -> int:
        """What this process keeps, and what it has not taken over yet."""
        spool = self.client._pipeline._spool
        kept = sum(segment.pending for folder in spool._folders for segment in folder.segments)
        return kept + self.left_by_others - self.client.stats().adopted

    @invariant()
    def the_ledger_is_the_truth(self) -> None:
        if not hasattr(self, "client"):
            return
        stats = self.client.stats()
        assert stats.recorded == self.offered + stats.adopted
        assert 0 <= stats.spooled <= stats.pending
        assert stats.spool_errors == 0
        assert stats.recorded == stats.delivered + sum(stats.dropped.values()) + stats.pending
        assert stats.delivered == self.accepted_count
        assert stats.diverted == self.diverted_count <= stats.delivered
        assert self.astray == 0
        assert "breaker-open" not in stats.dropped or not self.failover
        assert stats.pending >= 0

    def teardown(self) -> None:
        """In the end, with a destination that works, everything is delivered or dropped for a reason."""
        if not hasattr(self, "client"):
            return
        self.mood = "works"
        self.client.reset_breaker()
        self.client.flush(timeout=10_000.0)
        stats = self.client.stats()
        assert stats.pending == 0
        assert stats.recorded == stats.delivered + sum(stats.dropped.values())
        assert math.isfinite(self.accepted_sum)
        if self.folder is not None:
            self.client._pipeline._spool.close()
            assert list(Path(self.folder).iterdir()) == []
            shutil.rmtree(self.folder)


TestConservation = Conservation.TestCase
TestConservation.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
