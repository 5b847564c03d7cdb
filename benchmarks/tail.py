"""
What callers and other threads notice of the delivery: the tail of put_metric's latency, wake-up lag, and how long stop(0.3) takes.

1. The endpoint is the strict fake, in a process of its own, behind boto3 as in production.
2. Only calls made *during* a flush count as such; filling the series before it does not.
3. The wake-up lag is that of a thread, and that of an asyncio loop in a thread of its own: how late it goes on after `sleep(0.001)`.
4. A waiting caller records ten values, then sleeps a millisecond, as a service does that waits for its clients. A busy caller never
   lets go: it shows in which steps the flusher takes the interpreter, because each turn costs it one whole step.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from array import array
from collections import defaultdict
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING, NamedTuple

from _aws import use_credentials_of_nobody
from _endpoint import Endpoint
from _harness import Report, Rounds, arguments, interleaved, percentile

from retainwise_metrics import CloudWatchMetrics, MetricsConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PERCENTS = (50, 99, 99.9, 99.99)
PAUSE_SECONDS = 0.001
STOP_SECONDS = 0.3
COMPARED = 99.9
"""The percentile that is compared with idle."""

IDLE, HANGING, ANSWERING = "idle", "endpoint hangs", "endpoint answers"
FLUSHED = {"flush of 200 series": 200, "flush of 10,000 series": 10_000}
SCENARIOS = (IDLE, *FLUSHED, HANGING)
WAITING, BUSY = "waiting", "busy"
LOOP_TARGETS = dict.fromkeys(FLUSHED, "< 3000")
TARGETS = {"flush of 10,000 series": "<= 3", HANGING: "about 1"}

COMBINATIONS = tuple({"Endpoint": f"/v{n}/upload", "Method": "POST", "Status": "accepted"} for n in range(10))
"""The caller's own series: what one request records."""


class Tail(NamedTuple):
    """
    What one round of a scenario has shown, in microseconds.

    Attributes:
        calls: The percentiles of the calls' durations and, last, the longest.
        lags: The same of how late another thread woke up; empty beside a busy caller.
        loop_lags: The same of an asyncio loop.
    """

    calls: tuple[float, ...]
    lags: tuple[float, ...]
    loop_lags: tuple[float, ...]


def main() -> None:
    options = arguments(__doc__)
    report = Report("tail", options)
    run(report, *((2, 1.0) if options.quick else (5, 4.0)))
    report.finish()


def run(report: Report, rounds: int, seconds: float) -> None:
    """
    Measure all scenarios, each so many times for so long, and print them.
    """
    with Endpoint() as endpoint:
        tails = _measure(endpoint, rounds, seconds)
        stops = interleaved({name: partial(_stop_seconds, endpoint, name) for name in (ANSWERING, HANGING)}, rounds * 2)
    for caller in (WAITING, BUSY):
        rows = [_call_row(name, tails[name, caller], tails[IDLE, caller]) for name in SCENARIOS]
        report.table(
            f"Latency of put_metric with 3 dimensions, microseconds, {caller} caller",
            _CALL_COLUMNS,
            rows,
            brief=_PERCENTS,
        )
    lags = [(name, *_by_round([tail.lags for tail in tails[name, WAITING]])) for name in SCENARIOS]
    report.table(
        "Wake-up lag of another thread, microseconds, beside the waiting caller", _LAG_COLUMNS, lags, brief=_PERCENTS
    )
    loops = [
        (name, *_by_round([tail.loop_lags for tail in tails[name, WAITING]]), LOOP_TARGETS.get(name, ""))
        for name in SCENARIOS
    ]
    report.table(
        "Wake-up lag of an asyncio loop, microseconds, beside the waiting caller",
        (*_LAG_COLUMNS, "target of p99"),
        loops,
        brief=_PERCENTS,
    )
    title = f"stop({STOP_SECONDS}) with 200 series to deliver, seconds"
    report.table(
        title, ("meanwhile", "seconds", "target"), [(name, took, _stop_target(name)) for name, took in stops.items()]
    )


# ---- tables ----

_PERCENTS = tuple(f"p{percent:g}" for percent in PERCENTS)
_LAG_COLUMNS = ("meanwhile", *_PERCENTS, "max")
_CALL_COLUMNS = (*_LAG_COLUMNS, f"p{COMPARED:g} over idle's", "target")


def _call_row(name: str, tails: list[Tail], idle: list[Tail]) -> tuple[object, ...]:
    compared = PERCENTS.index(COMPARED)
    mine, base = _by_round([tail.calls for tail in tails]), _by_round([tail.calls for tail in idle])
    ratio = None if name == IDLE else mine[compared].over(base[compared])
    return (name, *mine, ratio, TARGETS.get(name, ""))


def _by_round(figures: list[tuple[float, ...]]) -> list[Rounds]:
    """For each percentile its values in the rounds."""
    return [Rounds(values) for values in zip(*figures, strict=True)]


def _stop_target(name: str) -> str:
    return f"about {STOP_SECONDS}" if name == HANGING else ""


# ---- scenarios ----


def _measure(endpoint: Endpoint, rounds: int, seconds: float) -> dict[tuple[str, str], list[Tail]]:
    found: dict[tuple[str, str], list[Tail]] = defaultdict(list)

    def run(scenario: str, caller: str) -> float:
        tail = _run(endpoint, scenario, caller, seconds if caller == WAITING else seconds / 2)
        found[scenario, caller].append(tail)
        return tail.calls[-1]

    names = [(scenario, caller) for caller in (WAITING, BUSY) for scenario in SCENARIOS]
    interleaved({f"{scenario}, {caller}": partial(run, scenario, caller) for scenario, caller in names}, rounds)
    return found


def _run(endpoint: Endpoint, scenario: str, caller: str, seconds: float) -> Tail:
    client = _client(endpoint.fresh())
    watch = Watch(client, busy=caller == BUSY)
    gc.collect()  # what the scenario before has left behind is not this one's
    if scenario == IDLE:
        watch.record_for(seconds)
    elif scenario == HANGING:
        _record_while_hanging(endpoint, client, watch, seconds)
    else:
        while watch.seconds < seconds:
            _fill(client, FLUSHED[scenario])
            watch.record_while(_in_background(partial(client.flush, 60.0)), at_most=seconds)
    _finish(endpoint, client)
    return watch.tail()


def _finish(endpoint: Endpoint, client: CloudWatchMetrics) -> None:
    """Deliver the rest; figures of a client that lost something would mean nothing."""
    client.stop(60.0)
    stats, arrived = client.stats(), endpoint.measurements()
    if stats.recorded != arrived:
        message = f"{stats.recorded} measurements were recorded and {arrived:g} arrived: {stats}"
        raise RuntimeError(message)


def _record_while_hanging(endpoint: Endpoint, client: CloudWatchMetrics, watch: Watch, seconds: float) -> None:
    _begin_to_hang(endpoint, client)
    watch.record_for(seconds)
    endpoint.release()


def _begin_to_hang(endpoint: Endpoint, client: CloudWatchMetrics) -> None:
    endpoint.hang()
    _fill(client, 200)
    _in_background(partial(client.flush, 60.0))
    if not endpoint.wait_until_held():
        message = "no request arrived at the endpoint that hangs"
        raise RuntimeError(message)


def _stop_seconds(endpoint: Endpoint, scenario: str) -> float:
    client = _client(endpoint.fresh())
    if scenario == HANGING:
        _begin_to_hang(endpoint, client)
    else:
        _fill(client, 200)
    started = time.perf_counter()
    client.stop(STOP_SECONDS)
    took = time.perf_counter() - started
    endpoint.release()
    return took


def _client(url: str) -> CloudWatchMetrics:
    """
    A client that flushes only when asked to, and has already made its first call: boto3 is loaded and connected.
    """
    client = CloudWatchMetrics(
        MetricsConfig(
            environment="bench",
            endpoint_url=url,
            region="eu-central-1",
            flush_interval_seconds=3600.0,
            read_timeout_seconds=60.0,
            max_series=20_000,
            max_series_per_metric=20_000,
        )
    )
    for dimensions in COMBINATIONS:
        client.put_metric("Requests", 1.0, dimensions=dimensions)
    client.flush(30.0)
    return client


def _fill(client: CloudWatchMetrics, series: int) -> None:
    for number in range(series):
        client.put_metric("Filled", 1.0, dimensions={"Shard": f"shard-{number}"})


def _in_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


# ---- measuring ----


class Watch:
    """
    A caller whose calls are timed and, unless it is busy, another thread whose wake-ups are.
    """

    def __init__(self, client: CloudWatchMetrics, *, busy: bool) -> None:
        self.seconds = 0.0
        """How long was recorded so far."""
        self._client = client
        self._busy = busy
        self._combinations: Iterator[dict[str, str]] = cycle(COMBINATIONS)
        # Not lists: the garbage collector would look through millions of figures, and its pauses would be ours.
        self._calls = array("q")
        self._lags = array("q")
        self._loop_lags = array("q")

    def record_for(self, seconds: float) -> None:
        """
        Record for so long.
        """
        until = time.perf_counter() + seconds
        self._record(lambda: time.perf_counter() < until)

    def record_while(self, thread: threading.Thread, *, at_most: float) -> None:
        """
        Record as long as a thread lives, but no longer than so many seconds: beside a busy caller a long flush takes very long.
        """
        until = time.perf_counter() + at_most
        self._record(lambda: thread.is_alive() and time.perf_counter() < until)

    def tail(self) -> Tail:
        """
        What was seen, in short.
        """
        return Tail(_percentiles(self._calls), _percentiles(self._lags), _percentiles(self._loop_lags))

    def _record(self, goes_on: Callable[[], bool]) -> None:
        started, over = time.perf_counter(), threading.Event()
        others = [] if self._busy else [partial(self._sleep_until, over), lambda: asyncio.run(self._loop_until(over))]
        sleepers = [_in_background(other) for other in others]
        while goes_on():
            self._burst(100 if self._busy else 10)
            if not self._busy:
                time.sleep(PAUSE_SECONDS)
        over.set()
        for sleeper in sleepers:
            sleeper.join()
        self.seconds += time.perf_counter() - started

    def _burst(self, calls: int) -> None:
        clock, put, note = time.perf_counter_ns, self._client.put_metric, self._calls.append
        for combination in islice(self._combinations, calls):
            endpoint, method, status = combination.values()
            before = clock()
            put("Requests", 1.5, dimensions={"Endpoint": endpoint, "Method": method, "Status": status})
            note(clock() - before)

    def _sleep_until(self, over: threading.Event) -> None:
        clock, pause = time.perf_counter_ns, int(PAUSE_SECONDS * 1e9)
        while not over.is_set():
            before = clock()
            time.sleep(PAUSE_SECONDS)
            self._lags.append(clock() - before - pause)

    async def _loop_until(self, over: threading.Event) -> None:
        clock, pause = time.perf_counter_ns, int(PAUSE_SECONDS * 1e9)
        while not over.is_set():
            before = clock()
            await asyncio.sleep(PAUSE_SECONDS)
            self._loop_lags.append(clock() - before - pause)


def _percentiles(nanoseconds: array[int]) -> tuple[float, ...]:
    """The percentiles and the maximum in microseconds; nothing of nothing."""
    if not nanoseconds:
        return ()
    ordered = sorted(nanoseconds)
    return (*(percentile(ordered, percent) / 1e3 for percent in PERCENTS), ordered[-1] / 1e3)


def _expect_losses() -> None:
    """What an endpoint that hangs makes the library say is not news here."""
    logging.getLogger("retainwise_metrics").setLevel(logging.ERROR)


if __name__ == "__main__":
    _expect_losses()
    use_credentials_of_nobody()
    main()
