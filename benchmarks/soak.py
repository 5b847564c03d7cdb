"""
Does anything grow, or get lost, while a busy client lives with an endpoint that throttles, fails, hangs and refuses?

1. The client has a process of its own, and so has the endpoint, the strict fake. Whatever an application does goes on all the time: known,
   new and unbounded series, handles, histograms, gauges, whole histograms, bad records, an asyncio loop, flushes, looks at `stats()`.
2. At every sample the ledger must balance, and fit between what callers had been told and what they had offered; else the run ends.
3. At the end everything that was taken must have arrived, in count and in sum, for each metric. A call that failed for the client, and
   that the endpoint had accepted, was sent again: these are known one by one, and counted twice on both sides.
4. Memory, threads and descriptors in the last healthy phase must be those of the first one, but for a stated allowance.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from functools import partial
from pathlib import Path
from statistics import linear_regression, median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from _aws import use_credentials_of_nobody
from _harness import Report, Rounds

from retainwise_metrics import ClientStats, CloudWatchMetrics, DropReason, MetricsConfig
from retainwise_metrics.sinks.base import SinkError
from retainwise_metrics.sinks.put_metric_data import Connection, PutMetricDataSink, boto3_client
from retainwise_metrics.testing import FakeCloudWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from multiprocessing.connection import Connection as Pipe
    from types import TracebackType

    from typing_extensions import Self

    from retainwise_metrics.datum import Batch

    Counts = dict[str, list[float]]

RESIDENT = re.compile(r"^(VmRSS|RssAnon):\s+(\d+) kB", re.MULTILINE)
CYCLE_SECONDS = 600.0
PATIENCE_SECONDS = 120.0
"""How long a process may take to answer: nobody is in a hurry here, and the machine may be busy."""
CALL_ID = "amz-sdk-invocation-id"
"""The header by which boto3 tells calls apart."""
CALLS_KEPT = 10_000
"""Accepted calls that are remembered for a client that says later that they failed."""

WARMING_UP, HEALTHY, THROTTLING, FAILING, HANGING, REFUSING = (
    "warming up",
    "healthy",
    "throttling",
    "error 500",
    "hanging",
    "refused",
)
UNFRIENDLY = ((THROTTLING, 0.15), (FAILING, 0.15), (HANGING, 0.15), (REFUSING, 0.1))
FIRST_SHARE, HEALTHY_SHARE, LAST_SHARE = 0.1, 0.15, 0.2
CYCLE_SHARE = HEALTHY_SHARE + sum(share for _, share in UNFRIENDLY)

LEAKS = ("memory", "threads", "descriptors", "values", "ledger")
MOST_LEAKED = 100
MOST_SAID = 5
"""Metrics that an error names."""
SLOPE_CYCLES = 6
"""From so many cycles on there are enough healthy phases for a line through them."""


class Plan(NamedTuple):
    """
    How long a run is, and what is wrong with it.

    Attributes:
        cycle_seconds: Of one round through all phases.
        cycles: How many rounds.
        sample_seconds: From one sample to the next.
        leaks: What the client does wrong on purpose, see `LEAKS`.
        spool: Whether it keeps on disk what cannot be delivered.
        lenience: A factor on what may grow: in a few seconds no process settles.
    """

    cycle_seconds: float = CYCLE_SECONDS
    cycles: int = 1
    sample_seconds: float = 1.0
    leaks: tuple[str, ...] = ()
    spool: bool = False
    lenience: float = 1.0

    def phases(self) -> Iterator[tuple[str, float]]:
        """
        Every phase with its length in seconds.
        """
        yield WARMING_UP, FIRST_SHARE * self.cycle_seconds
        for _ in range(self.cycles):
            for name, share in ((HEALTHY, HEALTHY_SHARE), *UNFRIENDLY):
                yield name, share * self.cycle_seconds
        yield HEALTHY, LAST_SHARE * self.cycle_seconds


class Sample(NamedTuple):
    """
    The client's process at one moment.
    """

    resident_mib: float
    anonymous_mib: float
    threads: float
    descriptors: float
    blocks: float
    pending: float
    recorded: float
    delivered: float
    dropped: float
    calls: float
    failed_calls: float
    spooled: float


class Phase(NamedTuple):
    """
    What was seen in one phase: its name, and its samples, each with the second of the run.
    """

    name: str
    seconds: list[float]
    samples: list[Sample]

    def of(self, figure: str) -> Rounds:
        """
        One figure of every sample.
        """
        return Rounds(tuple(getattr(sample, figure) for sample in self.samples))


class Judged(NamedTuple):
    """
    A figure that must not grow: how it is called, and by how much it may be above its value at the start, and per hour of a long run.
    """

    title: str
    allowed: float
    allowed_share: float
    allowed_an_hour: float


JUDGED = {
    "anonymous_mib": Judged("anonymous MiB", 12.0, 0.0, 2.0),
    "blocks": Judged("objects, thousands", 5.0, 0.1, 5.0),
    "threads": Judged("threads", 1.0, 0.0, 0.1),
    "descriptors": Judged("descriptors", 2.0, 0.0, 0.1),
}
"""
What an outage leaves behind is not a leak: the heap is fragmented after holding a backlog, and boto3 has loaded what it needs to fail.
Of resident memory the anonymous part is judged: pages of files are taken away and given back as the system likes.
"""


def main() -> None:
    options = _arguments()
    report = Report("soak", options)
    try:
        run(report, _plan(options))
    finally:
        report.finish()  # what went wrong after hours has a history


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one minute instead of ten")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures, every sample of them")
    parser.add_argument("--hours", type=float, metavar="H", help="run so long, again and again through all phases")
    parser.add_argument("--spool", action="store_true", help="the client keeps on disk what cannot be delivered")
    parser.add_argument(
        "--leak",
        action="append",
        default=[],
        choices=LEAKS,
        help="let the client do this wrong, to see that it is noticed",
    )
    return parser.parse_args()


def _plan(options: argparse.Namespace) -> Plan:
    leaks = tuple(options.leak)
    if options.hours:
        rounds = (options.hours * 3600 / CYCLE_SECONDS - FIRST_SHARE - LAST_SHARE) / CYCLE_SHARE
        return Plan(cycles=max(1, round(rounds)), sample_seconds=10.0, leaks=leaks, spool=options.spool)
    return Plan(CYCLE_SECONDS / 10 if options.quick else CYCLE_SECONDS, leaks=leaks, spool=options.spool)


def run(report: Report, plan: Plan) -> None:
    """
    Run once through the plan, print what was seen, and say what is wrong.
    """
    phases: list[Phase] = []
    try:
        with TemporaryDirectory() as directory, Remote(endpoint_process) as endpoint:
            spool = directory if plan.spool else None
            with Remote(client_process, endpoint.ask("url"), plan.leaks, spool) as client:
                _run_phases(endpoint, client, plan, phases)
                books = _close(endpoint, client)
    finally:
        _show_phases(report, [phase for phase in phases if phase.samples])
    wrong = [*_show_growth(report, phases, plan), *_show_books(report, books)]
    if wrong:
        raise RuntimeError("; ".join(wrong))


# ---- the run ----


def _run_phases(endpoint: Remote, client: Remote, plan: Plan, phases: list[Phase]) -> None:
    due = started = time.monotonic()
    for name, seconds in plan.phases():
        endpoint.ask("phase", name)
        phase, due = Phase(name, [], []), due + seconds
        phases.append(phase)
        while not phase.samples or time.monotonic() < due:
            phase.samples.append(_sample(endpoint, client))
            phase.seconds.append(round(time.monotonic() - started, 3))
            time.sleep(max(0.0, min(plan.sample_seconds, due - time.monotonic())))


def _sample(endpoint: Remote, client: Remote) -> Sample:
    sample, failed = client.ask("sample")
    endpoint.ask("failed", failed)
    return Sample(*sample)


class Books(NamedTuple):
    """
    Both sides at the end, for each metric its count and its sum.
    """

    taken: Counts
    received: Counts
    doubled: Counts
    refused: int
    stats: ClientStats


def _close(endpoint: Remote, client: Remote) -> Books:
    taken, refused, stats, failed = client.ask("finish")
    endpoint.ask("failed", failed)
    received, doubled = endpoint.ask("received")
    return Books(taken, received, doubled, refused, stats)


# ---- tables ----


def _show_phases(report: Report, phases: list[Phase]) -> None:
    if not phases:
        return
    ends = [*(phase.samples[0] for phase in phases[1:]), phases[-1].samples[-1]]
    columns = (
        "phase",
        "second",
        "resident MiB",
        *(each.title for each in JUDGED.values()),
        "pending",
        "peak",
        "on disk",
    )
    report.table(
        "Phases, medians of their samples",
        (*columns, "recorded", "calls", "failed"),
        [_phase_row(phase, end) for phase, end in zip(phases, ends, strict=True)],
        note="throttling: every tenth call; the ledger balanced at every sample",
        brief=columns,
    )


def _phase_row(phase: Phase, end: Sample) -> Sequence[Any]:
    start, pending = phase.samples[0], phase.of("pending")
    rises = (getattr(end, count) - getattr(start, count) for count in ("recorded", "calls", "failed_calls"))
    figures = (phase.of(figure) for figure in ("resident_mib", *JUDGED))
    held = (pending, max(pending.values), phase.of("spooled"))
    return phase.name, Rounds(tuple(phase.seconds)), *figures, *held, *(f"{n:,}" for n in rises)


def _show_growth(report: Report, phases: list[Phase], plan: Plan) -> list[str]:
    """What grew more than it may, in words."""
    healthy = [phase for phase in phases if phase.name == HEALTHY]
    rows: list[Sequence[Any]] = []
    wrong: list[str] = []
    for figure, judged in JUDGED.items():
        first, last = (healthy[number].of(figure).median for number in (0, -1))
        allowed = (judged.allowed + judged.allowed_share * first) * plan.lenience
        slope = _slope_an_hour(healthy[1:], figure) if plan.cycles >= SLOPE_CYCLES else None
        rows.append((judged.title, first, last, last - first, allowed, slope, judged.allowed_an_hour))
        if last - first > allowed:
            wrong.append(
                f"{judged.title}: {first:.1f} at the start, {last:.1f} at the end, allowed are {allowed:.1f} more"
            )
        if slope is not None and slope > judged.allowed_an_hour:
            wrong.append(f"{judged.title}: {slope:+.2f} an hour, allowed are {judged.allowed_an_hour}")
    report.table(
        "Growth from the first healthy phase to the last, medians",
        ("figure", "first", "last", "growth", "allowed", "an hour", "allowed an hour"),
        rows,
        note=f"an hour: a line through all healthy phases but the first, in runs of {SLOPE_CYCLES} rounds and more",
    )
    return wrong


def _slope_an_hour(phases: list[Phase], figure: str) -> float:
    """A line through the phases' medians: a single sample, or the end of an outage, does not turn it."""
    hours = [median(phase.seconds) / 3600 for phase in phases]
    return linear_regression(hours, [phase.of(figure).median for phase in phases]).slope


def _show_books(report: Report, books: Books) -> list[str]:
    """What does not add up, in words."""
    stats = books.stats
    taken, received, doubled = (int(sum(count for count, _ in each.values())) for each in books[:3])
    dropped = {str(reason): count for reason, count in stats.dropped.items() if reason is not DropReason.INVALID_NAME}
    report.table(
        "Books of the whole run, measurements",
        ("what", "measurements"),
        [
            ("taken from callers", f"{taken:,}"),
            ("refused, and the caller was told", f"{books.refused:,}"),
            ("dropped after they were taken", f"{sum(dropped.values()):,}"),
            ("received by the endpoint", f"{received:,}"),
            ("of these twice: accepted in a call that failed for the client", f"{doubled:,}"),
            ("lost", f"{taken - received + doubled:,}"),
        ],
        note=f"{stats.calls:,} calls, {stats.failed_calls:,} of them failed; sums are equal, too",
    )
    wrong = list(_wrong_books(books, dropped))
    return [*wrong[:MOST_SAID], *([f"and {len(wrong) - MOST_SAID} more"] if len(wrong) > MOST_SAID else [])]


def _wrong_books(books: Books, dropped: dict[str, int]) -> Iterator[str]:
    if dropped:
        yield f"dropped: {dropped}"
    if books.refused != books.stats.dropped.get(DropReason.INVALID_NAME, 0):
        yield f"{books.refused} records were refused, and the ledger says {books.stats.dropped}"
    for name in sorted(books.taken.keys() | books.received.keys()):
        count, total = books.taken.get(name, [0, 0.0])
        twice, twice_total = books.doubled.get(name, [0, 0.0])
        expected = [count + twice, total + twice_total]
        if books.received.get(name) != expected:
            yield f"{name}: {expected} (count, sum) should have been received, and {books.received.get(name)} were"


# ---- processes ----


class Remote:
    """
    A process that answers questions; use it in a `with` statement.

    Args:
        target: What runs there: it is given a pipe, and answers what `answers` passes on.
        arguments: What else it is given.
    """

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        # Not forked: nobody shall inherit threads or memory of anybody.
        context = multiprocessing.get_context("spawn")
        self._name = target.__name__
        self._control, self._remote = context.Pipe()
        self._process = context.Process(target=target, args=(self._remote, *arguments), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._remote.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._control.close()
        if error is not None:
            self._process.kill()
        self._process.join(PATIENCE_SECONDS)
        if error is None and self._process.exitcode != 0:
            message = f"{self._name} ended with {self._process.exitcode}"
            raise RuntimeError(message)

    def ask(self, *question: object) -> Any:
        """
        Ask and wait for the answer.

        Raises:
            RuntimeError: Something is wrong over there.
        """
        try:
            self._control.send(question)
            if not self._control.poll(PATIENCE_SECONDS):
                message = f"no answer of {self._name} to {question[0]!r} in {PATIENCE_SECONDS:.0f} seconds"
                raise RuntimeError(message)
            answer, wrong = self._control.recv()
        except (EOFError, OSError) as error:
            message = f"{self._name} has gone: {error!r}"
            raise RuntimeError(message) from error
        if wrong:
            raise RuntimeError(wrong)
        return answer


def answers(control: Pipe, commands: dict[str, Callable[..., object]]) -> None:
    """
    Answer questions until nobody asks any more.
    """
    while True:
        try:
            name, *arguments = control.recv()
        except EOFError:
            return
        try:
            control.send((commands[name](*arguments), ""))
        except Exception as error:
            control.send((None, str(error) if isinstance(error, RuntimeError) else repr(error)))


# ---- the endpoint ----


class CountingCloudWatch(FakeCloudWatch):
    """
    Counts what it accepts instead of keeping it: hours of it would fill the memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.received: Counts = {}
        self.doubled: Counts = {}
        self._accepted: OrderedDict[str, Counts] = OrderedDict()
        self._failed: set[str] = set()

    def _record(self, call: Any, put: Any = None, *, index: int | None = None) -> int:  # noqa: ARG002 - there is no list of calls
        with self._changed:
            if call.accepted and put is not None:
                self._accept(call.headers[CALL_ID], _counts_of(put))
            self._changed.notify_all()
        return 0

    def _accept(self, call_id: str, counts: Counts) -> None:
        _add(self.received, counts)
        if call_id in self._failed:
            _add(self.doubled, counts)
        self._accepted[call_id] = counts
        if len(self._accepted) > CALLS_KEPT:
            self._accepted.popitem(last=False)

    def fail_for_client(self, call_ids: Iterable[str]) -> None:
        """
        Take note of calls that the client takes for failed: of what was accepted all the same, or will be, there is another delivery.
        """
        with self._changed:
            for call_id in call_ids:
                self._failed.add(call_id)
                _add(self.doubled, self._accepted.get(call_id, {}))

    def begin(self, phase: str) -> None:
        """
        Be as unfriendly as a phase wants it.
        """
        faults = self.faults.clear()
        if phase == THROTTLING:
            for _ in range(1000):
                faults.ok(9).throttle(1)
        elif phase == FAILING:
            faults.fail(500)
        elif phase == HANGING:
            faults.hang(after_accept=True)
        elif phase == REFUSING:
            faults.refuse_connections()


def endpoint_process(control: Pipe) -> None:
    """
    The endpoint, in a process of its own.
    """
    with CountingCloudWatch() as server:
        answers(
            control,
            {
                "url": lambda: server.endpoint_url,
                "phase": server.begin,
                "failed": server.fail_for_client,
                "received": lambda: (server.received, server.doubled),
            },
        )


def _counts_of(put: Any) -> Counts:
    counts: Counts = {}
    for datum in put.datums:
        pairs = datum.pairs()
        _add(counts, {datum.name: [sum(count for _, count in pairs), sum(value * count for value, count in pairs)]})
    return counts


def _add(counts: Counts, more: Counts) -> None:
    for name, (count, total) in more.items():
        counted = counts.setdefault(name, [0, 0.0])
        counted[0] += count
        counted[1] += total


# ---- the client ----


class WatchedSink(PutMetricDataSink):
    """
    The real sink; it remembers which of its calls failed.
    """

    def __init__(self, connection: Connection, *, forgets: bool) -> None:
        super().__init__(connection, self._watched_client)
        self.failed: list[str] = []
        self._call_id = ""
        self._forgets = forgets
        self._batches = 0

    def send(self, batch: Batch) -> None:
        self._call_id = ""
        self._batches += 1
        if self._forgets and self._batches % 10 == 0:
            return
        try:
            super().send(batch)
        except SinkError:
            self.failed.append(self._call_id)
            raise

    def _watched_client(self, connection: Connection) -> Any:
        client = boto3_client(connection)
        client.meta.events.register("before-send.cloudwatch.PutMetricData", self._note)
        return client

    def _note(self, request: Any, **_: object) -> None:
        call_id = request.headers[CALL_ID]
        self._call_id = call_id.decode("ascii") if isinstance(call_id, bytes) else call_id


class Caller:
    """
    A part of the application: what it offered, and what it was told. Only one thread uses it.
    """

    def __init__(self) -> None:
        self.offered = 0
        self.taken: Counts = {}
        self.refused = 0

    def __call__(self, put: Callable[..., bool], name: str, value: float, *, count: int = 1, **given: Any) -> None:
        """
        Let a method record something, and take note of its answer.
        """
        self.offered += count
        if put(**given):
            self.took(name, value, count)
        else:
            self.refused += count

    def took(self, name: str, value: float, count: int = 1) -> None:
        """
        Take note of what was taken.
        """
        counted = self.taken.setdefault(name, [0, 0.0])
        counted[0] += count
        counted[1] += value * count

    @property
    def told(self) -> int:
        """
        How many measurements this caller knows the fate of.
        """
        return int(sum(count for count, _ in list(self.taken.values()))) + self.refused


ENDPOINTS = tuple({"Endpoint": f"/v{n}/upload", "Method": "POST", "Status": "accepted"} for n in range(10))


class Application:
    """
    Everything that an application does with a client, all at once.

    Args:
        url: The endpoint's.
        leaks: What it does wrong.
        spool: Directory for what cannot be delivered.
    """

    def __init__(self, url: str, leaks: Sequence[str], spool: str | None) -> None:
        self._sink = WatchedSink(
            Connection("eu-central-1", url, connect_timeout_seconds=2.0, read_timeout_seconds=2.0),
            forgets="values" in leaks,
        )
        self._client = CloudWatchMetrics(
            MetricsConfig(
                environment="soak",
                catalogue=(),
                flush_interval_seconds=1.0,
                open_seconds=1.0,
                max_open_seconds=3.0,
                max_series=2_000,
                max_series_per_metric=300,
                pii_key="soak",
                spool_dir=spool,
            ),
            sink=self._sink,
        )
        self._over = threading.Event()
        self._wrong: list[str] = []
        self._off_by = 1 if "ledger" in leaks else 0
        self._leaked: list[object] = []
        self._gauges = Caller()
        self._callers = [self._gauges]
        self._threads: list[threading.Thread] = []
        self._begin(leaks)
        self._client.flush(PATIENCE_SECONDS / 2)  # boto3 is loaded and connected

    def _begin(self, leaks: Sequence[str]) -> None:
        for pause, burst in (
            (0.01, self._known_series),
            (0.01, self._handles()),
            (0.02, self._new_series),
            (0.01, self._flood),
            (0.05, self._whole_histograms),
            (0.1, self._bad_record),
        ):
            self._go(partial(self._repeat, self._new_caller(), pause, burst))
        self._go(partial(asyncio.run, self._loop(self._new_caller())))
        self._go(partial(self._every, 2.0, lambda: self._client.flush(1.0)))
        self._go(partial(self._every, 0.05, self._look))
        for leak in {"memory", "threads", "descriptors"}.intersection(leaks):
            self._go(partial(self._every, 0.1, partial(self._leak, leak)))
        for number in range(5):
            self._client.gauge("Depth", self._depth, dimensions={"Queue": f"queue-{number}"})

    def _new_caller(self) -> Caller:
        self._callers.append(Caller())
        return self._callers[-1]

    def _go(self, work: Callable[[], object]) -> None:
        self._threads.append(threading.Thread(target=self._guarded, args=(work,), daemon=True))
        self._threads[-1].start()

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:
            self._wrong.append(f"a call raised {error!r}")

    def _repeat(self, caller: Caller, pause: float, burst: Callable[[Caller, int], None]) -> None:
        number = 0
        while not self._over.wait(pause):
            burst(caller, number)
            number += 1

    def _every(self, seconds: float, work: Callable[[], object]) -> None:
        while not self._over.wait(seconds):
            work()

    # What is recorded. Values are whole numbers, of which sums are exact, and few enough for CloudWatch to see each of them.

    def _known_series(self, caller: Caller, number: int) -> None:
        for endpoint in ENDPOINTS:
            put = partial(self._client.put_metric, "Requests", number % 7)
            caller(put, "Requests", number % 7, dimensions=endpoint)

    def _handles(self) -> Callable[[Caller, int], None]:
        counters = [self._client.counter("Seen").bind(Shard=f"shard-{n}") for n in range(10)]
        timers = [self._client.histogram("Duration", "Milliseconds").bind(Shard=f"shard-{n}") for n in range(10)]
        level = self._client.gauge("Level")

        def burst(caller: Caller, number: int) -> None:
            for counter, timer in zip(counters, timers, strict=True):
                caller(partial(counter.inc, 2), "Seen", 2)
                caller(partial(timer.observe, number % 500), "Duration", number % 500)
            caller(partial(level.set, number % 9), "Level", number % 9)

        return burst

    def _new_series(self, caller: Caller, number: int) -> None:
        """A job a second that is never seen again, and hundreds of metrics."""
        job = {"Job": f"job-{int(time.monotonic())}"}
        caller(partial(self._client.increment_counter, "Jobs"), "Jobs", 1, dimensions=job)
        name = f"Metric{number % 500}"
        caller(partial(self._client.put_metric, name, 3), name, 3)

    def _flood(self, caller: Caller, number: int) -> None:
        request = {"RequestId": f"request-{number}", "Region": f"region-{number % 3}"}
        caller(partial(self._client.put_metric, "Flood", 1), "Flood", 1, dimensions=request)
        user = {"UserId": f"user-{number % 50_000}"}
        caller(partial(self._client.record_time, "Personal", 4), "Personal", 4, dimensions=user)

    def _whole_histograms(self, caller: Caller, number: int) -> None:
        put = partial(self._client.put_values, "Sizes", {10: 5, 20: 3, number % 100 + 30: 2})
        caller(put, "Sizes", (50 + 60 + 2 * (number % 100 + 30)) / 10, count=10)

    def _bad_record(self, caller: Caller, _: int) -> None:
        caller(partial(self._client.put_metric, "", 1), "", 1)

    def _depth(self) -> float:
        self._gauges.offered += 1
        self._gauges.took("Depth", 6)
        return 6

    async def _loop(self, caller: Caller) -> None:
        async def handle(number: int) -> None:
            await asyncio.sleep(0.001)
            caller(partial(self._client.put_metric, "Handled", number), "Handled", number, dimensions=ENDPOINTS[number])

        while not self._over.is_set():
            for _ in range(100):
                await asyncio.gather(*(handle(number) for number in range(10)))
            await self._client.aflush(1.0)

    # What is seen

    def _look(self) -> ClientStats:
        stats = self._client.stats()
        stats = stats._replace(pending=stats.pending - self._off_by)
        if stats.recorded != stats.delivered + stats.pending + sum(stats.dropped.values()) or stats.pending < 0:
            self._wrong.append(f"the ledger does not balance: {stats}")
        return stats

    def sample(self) -> tuple[tuple[float, ...], list[str]]:
        """
        What the process holds and what the client says, and which calls have failed since the sample before.

        Raises:
            RuntimeError: The ledger does not balance, or is not about what was recorded.
        """
        stats = self._fitting_look()
        figures = (*memory_mib(), os_threads(), descriptors(), sys.getallocatedblocks() / 1e3)
        dropped = sum(stats.dropped.values())
        ledger = (
            stats.pending,
            stats.recorded,
            stats.delivered,
            dropped,
            stats.calls,
            stats.failed_calls,
            stats.spooled,
        )
        return (*figures, *ledger), self._newly_failed()

    def _fitting_look(self) -> ClientStats:
        """The ledger, which must hold what callers had been told before, and no more than they had offered by then."""
        told = sum(caller.told for caller in self._callers)
        # While a fold stands in the way, the client answers with its last look; and a gauge that was read is recorded a moment later.
        for _ in range(200):
            stats = self._look()
            if self._wrong or stats.recorded >= told:
                break
            time.sleep(0.01)
        offered = sum(caller.offered for caller in self._callers)
        if not self._wrong and not told <= stats.recorded <= offered:
            self._wrong.append(f"{told} to {offered} measurements were recorded, and the ledger has {stats.recorded}")
        if self._wrong:
            raise RuntimeError(self._wrong[0])
        return stats

    def _newly_failed(self) -> list[str]:
        failed = self._sink.failed[:]
        del self._sink.failed[: len(failed)]
        return failed

    def finish(self) -> tuple[Counts, int, ClientStats, list[str]]:
        """
        End the load and deliver the rest.

        Returns:
            What was taken and how many records were refused, the last look, and the calls that have failed since the last sample.
        """
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
        self._client.stop(PATIENCE_SECONDS / 2)
        stats = self._fitting_look()
        taken: Counts = {}
        for caller in self._callers:
            _add(taken, caller.taken)
        return taken, sum(caller.refused for caller in self._callers), stats, self._newly_failed()

    def _leak(self, kind: str) -> None:
        if len(self._leaked) >= MOST_LEAKED:
            return
        if kind == "threads":
            self._leaked.append(threading.Thread(target=self._over.wait, daemon=True))
            self._leaked[-1].start()  # type: ignore[attr-defined]
        else:
            self._leaked.append(os.dup(2) if kind == "descriptors" else [object() for _ in range(100_000)])


def client_process(control: Pipe, url: str, leaks: Sequence[str], spool: str | None) -> None:
    """
    The application, in a process of its own.
    """
    use_credentials_of_nobody()
    logging.getLogger("retainwise_metrics").setLevel(logging.ERROR)  # an outage is not news here
    application = Application(url, leaks, spool)
    answers(control, {"sample": application.sample, "finish": application.finish})


def memory_mib() -> tuple[float, float]:
    """
    Resident memory of this process, and the part of it that is no file's; the same twice where the system does not tell.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = dict(RESIDENT.findall(status.read_text("ascii")))
        if len(found) == 2:
            return int(found["VmRSS"]) / 1024, int(found["RssAnon"]) / 1024
    resident = int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(os.getpid())])) / 1024
    return resident, resident


def os_threads() -> int:
    """
    Threads of this process, those included that Python does not know.
    """
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else threading.active_count()


def descriptors() -> int:
    """
    Open descriptors of this process.
    """
    return len(list(Path("/dev/fd").iterdir()))


if __name__ == "__main__":
    main()
