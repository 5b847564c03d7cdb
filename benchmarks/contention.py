"""
What is left of one thread's throughput when many threads record at once, on one hot series and on fifty, against the textbook's lock.

1. In every run all threads record for the same time into a client (or textbook) of its own. Afterwards each series must hold exactly what
   was recorded in it: one value too many or too few ends the benchmark with an error.
2. All threads share one interpreter, so one thread's throughput is all that a design can hope for; what falls short of it are the fights
   about locks, and about the interpreter: the floor is what is left of calls that do nothing. By the wall clock that includes what other
   programs took away; by CPU time it includes only what was spent on it.
3. CPython hands the interpreter over every 5 ms; in the second table every 10 µs, which finds the fights that are rare otherwise.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from functools import partial
from itertools import cycle, product, starmap
from typing import TYPE_CHECKING, Any, NamedTuple

from _harness import Report, Rounds, arguments, interleaved
from _naive import Empty, Textbook

from retainwise_metrics import CloudWatchMetrics, MetricsConfig
from retainwise_metrics.sinks.in_memory import InMemorySink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PUT, BOUND, TEXTBOOK = "put_metric, 3 dimensions", "bound histogram, observe", "textbook, 3 dimensions"
FLOOR = "nothing, same signature"
DESIGNS = (PUT, BOUND, TEXTBOOK, FLOOR)
NAME = "Requests"
TINY_INTERVAL = 1e-5
CHUNK = 1_000
"""Values a thread records between two looks at the clock."""

KEPT = ">= 0.9"
"""What eight threads have to keep of one thread's throughput."""

AGAINST_TEXTBOOK = {1: ">= 2", 8: ">= 6"}
"""Throughput against the textbook's, by threads."""


class Size(NamedTuple):
    """
    How much is measured.

    Attributes:
        rounds: Rounds of all cases.
        seconds: For one case in one round.
        threads: Numbers of threads; the first is what the others are compared with.
        series: Numbers of series; `CHUNK` is a multiple of each.
    """

    rounds: int
    seconds: float
    threads: tuple[int, ...] = (1, 2, 8, 32)
    series: tuple[int, ...] = (1, 50)


FULL, QUICK = Size(7, 0.4), Size(3, 0.2)


class Case(NamedTuple):
    """
    One run.

    Attributes:
        design: One of `DESIGNS`.
        series: Over how many series the values go.
        threads: How many record at once.
    """

    design: str
    series: int
    threads: int


def main() -> None:
    options = arguments(__doc__)
    report = Report("contention", options)
    run(report, QUICK if options.quick else FULL)
    report.finish()


def run(report: Report, size: Size) -> None:
    """
    Measure all cases at both switch intervals, and print them.
    """
    default = sys.getswitchinterval()
    for seconds in (default, TINY_INTERVAL):
        wall, cpu = _measure(size, seconds)
        report.table(
            f"Thousands of records a second, interpreter handed over every {seconds * 1e3:g} ms",
            ("design, series", *(f"{threads} threads" for threads in size.threads)),
            [
                (f"{design}, {series} series", *(wall[Case(design, series, each)] for each in size.threads))
                for design, series in product(DESIGNS, size.series)
            ],
            note="every series held exactly what was recorded",
        )
        report.table(
            f"Ratios of throughput, interpreter handed over every {seconds * 1e3:g} ms",
            ("of", "to", "by the wall clock", "by CPU time", "target"),
            _ratios(wall, cpu, size, judged=seconds == default),
        )


def _measure(size: Size, seconds: float) -> tuple[dict[Case, Rounds], dict[Case, Rounds]]:
    """What each case came to by the wall clock and by CPU time."""
    cases = {repr(case): case for case in starmap(Case, product(DESIGNS, size.series, size.threads))}
    by_cpu: dict[Case, list[float]] = defaultdict(list)

    def one(case: Case) -> float:
        found = _measured(case, size.seconds)
        by_cpu[case].append(found.by_cpu)
        return found.by_wall

    with _switching_every(seconds):
        wall = interleaved({name: partial(one, case) for name, case in cases.items()}, size.rounds)
    cpu = {case: Rounds(tuple(figures)) for case, figures in by_cpu.items()}
    return {cases[name]: figures for name, figures in wall.items()}, cpu


def _ratios(
    wall: dict[Case, Rounds], cpu: dict[Case, Rounds], size: Size, *, judged: bool
) -> Iterator[tuple[object, ...]]:
    one = size.threads[0]
    for design, series in product(DESIGNS, size.series):
        base = Case(design, series, one)
        for threads in size.threads[1:]:
            case = Case(design, series, threads)
            target = KEPT if judged and case == Case(PUT, 1, 8) else ""
            name = f"{design}, {series} series, {threads} threads"
            yield name, "one thread", wall[case].over(wall[base]), cpu[case].over(cpu[base]), target
    for series, threads in product(size.series, size.threads):
        ours, theirs = Case(PUT, series, threads), Case(TEXTBOOK, series, threads)
        target = AGAINST_TEXTBOOK.get(threads, "") if judged and series == 1 else ""
        name = f"{PUT}, {series} series, {threads} threads"
        yield name, "textbook", wall[ours].over(wall[theirs]), cpu[ours].over(cpu[theirs]), target


@contextmanager
def _switching_every(seconds: float) -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


# ---- one run ----


class Throughput(NamedTuple):
    """
    What one run came to, in thousands of records.

    Attributes:
        by_wall: Per second of the wall clock.
        by_cpu: Per second of CPU time, over all threads.
    """

    by_wall: float
    by_cpu: float


def _measured(case: Case, seconds: float) -> Throughput:
    if case.design == FLOOR:
        chunks, took = _work(case, Empty().put_metric, seconds)
        return Throughput(chunks * CHUNK / took.wall / 1e3, chunks * CHUNK / took.cpu / 1e3)
    if case.design == TEXTBOOK:
        textbook = Textbook()
        chunks, took = _work(case, textbook.put_metric, seconds)
        held = textbook.counts()
    else:
        chunks, took, held = _measured_client(case, seconds)
    expected = [chunks * CHUNK // case.series] * case.series
    if sorted(held) != expected:
        message = f"{case}: series should hold {expected}, but hold {sorted(held)}"
        raise RuntimeError(message)
    return Throughput(chunks * CHUNK / took.wall / 1e3, chunks * CHUNK / took.cpu / 1e3)


def _measured_client(case: Case, seconds: float) -> tuple[int, Took, list[int]]:
    sink = InMemorySink()
    with CloudWatchMetrics(MetricsConfig(environment="bench", flush_interval_seconds=3600.0), sink=sink) as client:
        chunks, took = _work(case, client.put_metric if case.design == PUT else client, seconds)
        client.flush(60.0)
        stats = client.stats()
    held: Counter[object] = Counter()
    for datum in sink.datums:
        held[datum.series] += datum.measurements
    if stats.recorded != stats.delivered or stats.dropped:
        message = f"{case}: not everything that was recorded was delivered: {stats}"
        raise RuntimeError(message)
    return chunks, took, list(held.values())


class Took(NamedTuple):
    """
    Seconds of one run.
    """

    wall: float
    cpu: float


def _work(case: Case, target: Any, seconds: float) -> tuple[int, Took]:
    """
    Record chunk after chunk in every thread, all starting together, until the time is over and each has finished the chunk at hand.

    Returns:
        How many chunks were recorded, and how long that took.
    """
    over = threading.Event()
    done: list[int] = []
    errors: list[BaseException] = []
    ready = threading.Barrier(case.threads + 1)

    def work() -> None:
        chunk, chunks = _chunk(case, target), 0
        ready.wait()
        try:
            while not over.is_set():
                chunk()
                chunks += 1
        except BaseException as error:
            errors.append(error)
        done.append(chunks)

    threads = [threading.Thread(target=work) for _ in range(case.threads)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = Took(time.perf_counter(), time.process_time())
    over.wait(seconds)
    over.set()
    for thread in threads:
        thread.join()
    took = Took(time.perf_counter() - began.wall, time.process_time() - began.cpu)
    if errors:
        raise errors[0]
    return sum(done), took


def _chunk(case: Case, target: Any) -> Callable[[], None]:
    """What one thread does again and again: it goes round and round over the series."""
    values = [number % 100 / 100 for number in range(CHUNK)]
    if case.design == BOUND:
        bound = [_bound(target, number) for number in range(case.series)]
        return partial(_observe_one, bound[0], values) if case.series == 1 else partial(_observe_all, bound, values)
    endpoints = [f"/v{number}/upload" for number in range(case.series)]
    if case.series == 1:
        return partial(_put_one, target, endpoints[0], values)
    return partial(_put_all, target, endpoints, values)


def _bound(client: CloudWatchMetrics, number: int) -> Callable[[float], object]:
    histogram = client.histogram(NAME)
    return histogram.bind(Endpoint=f"/v{number}/upload", Method="POST", Status="accepted").observe


def _put_one(put: Any, endpoint: str, values: list[float]) -> None:
    for value in values:
        put(NAME, value, dimensions={"Endpoint": endpoint, "Method": "POST", "Status": "accepted"})


def _put_all(put: Any, endpoints: list[str], values: list[float]) -> None:
    for endpoint, value in zip(cycle(endpoints), values):
        put(NAME, value, dimensions={"Endpoint": endpoint, "Method": "POST", "Status": "accepted"})


def _observe_one(observe: Callable[[float], object], values: list[float]) -> None:
    for value in values:
        observe(value)


def _observe_all(bound: list[Callable[[float], object]], values: list[float]) -> None:
    for observe, value in zip(cycle(bound), values):
        observe(value)


if __name__ == "__main__":
    main()
