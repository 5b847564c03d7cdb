"""
A fleet of a thousand processes on one simulated clock: how evenly its calls come, and what becomes of them under an account's limit.

1. Each process is a real client with a phase of its own. All of them record all the time; nothing is simulated but the clock and AWS.
2. AWS takes so many calls in each second and throttles the rest (`ThrottlingException`, no Retry-After), as an account's limit does. A call
   takes 30 ms, accepted or not.
3. Calls are counted per second of the clock. Each process draws its phase alone, so that some second is busier than others by chance: the
   last table draws the phases of a thousand processes again and again.
4. Retries are synchronised when many come in the same tenth of a second, or when the number of them repeats itself: the highest
   autocorrelation over all distances from one second to one minute says so. What chance alone does is in the table: as many retries
   in the same seconds, each put into one of its tenths at random.
5. In the end each value must have arrived, or it ends with an error.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from itertools import count
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from _harness import Report, Rounds, arguments

from retainwise_metrics import CloudWatchMetrics, MetricsConfig
from retainwise_metrics.sinks.base import SinkThrottled, SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from retainwise_metrics.datum import Batch, Datum
    from retainwise_metrics.runtime import Job, Question

CALL_SECONDS = 0.03
LIMIT = 500
"""Calls per second of an account and region (CloudWatch quotas, PutMetricData; it can be raised)."""

PEAK = "<= 1.5"
NAMESPACES = ("RetainWise/API", "RetainWise/Worker", "RetainWise/MLPipeline")


class Scenario(NamedTuple):
    """
    One fleet.

    Attributes:
        name: What it shows.
        series: Series of each process, divided among the namespaces.
        minutes: How long it records.
        namespaces: How many of `NAMESPACES`.
        batch_size: Datums in a call.
        down: Minutes, from and to, in which AWS answers nothing.
        judged: Whether the peak of its calls has a target.
    """

    name: str
    series: int
    minutes: int
    namespaces: int = 1
    batch_size: int = 20
    down: tuple[int, int] = (0, 0)
    judged: bool = False


class Size(NamedTuple):
    """
    How much is simulated.

    Attributes:
        processes: How many.
        limit: Calls per second that are taken.
        scenarios: What they go through.
    """

    processes: int
    limit: int
    scenarios: tuple[Scenario, ...]


def _scenarios(minutes: int, outage: int) -> tuple[Scenario, ...]:
    return (
        Scenario("one call a minute each", 20, minutes, judged=True),
        Scenario("three calls a minute each", 30, minutes, namespaces=3, judged=True),
        Scenario("24 calls a minute each, 80 % of the limit", 24, minutes, batch_size=1),
        Scenario(f"AWS down for {outage} minutes", 30, outage + 3, namespaces=3, down=(2, 2 + outage)),
    )


FULL, QUICK = Size(1_000, LIMIT, _scenarios(12, 15)), Size(1_000, LIMIT, _scenarios(3, 3))


class Clock:
    """
    One clock for all processes, and what is due on it.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._order = count()
        self._due: list[tuple[float, int, FleetWorker]] = []

    def put(self, worker: FleetWorker, due: float) -> None:
        """
        Let a worker take its next step at this time.
        """
        worker.due = due
        heapq.heappush(self._due, (due, next(self._order), worker))

    def run_until(self, end: float) -> None:
        """
        Let everything happen that is due before a time.
        """
        while self._due and self._due[0][0] <= end:
            due, _, worker = heapq.heappop(self._due)
            if worker.due == due:  # else it was woken meanwhile, and has another time
                self.now = max(self.now, due)
                worker.step(None)
        self.now = end


class FleetWorker:
    """
    A job whose steps come when they are due; a step that made a call takes as long as calls do.
    """

    def __init__(self, job: Job, clock: Clock, aws: Aws) -> None:
        self._job = job
        self._clock = clock
        self._aws = aws
        self.due = -1.0

    def step(self, message: object | None) -> None:
        """
        Take a step now.
        """
        calls = self._aws.attempts
        delay = self._job.step(message)
        if delay is not None:
            self._clock.put(self, self._clock.now + delay + CALL_SECONDS * (self._aws.attempts - calls))

    def post(self, message: object) -> None:
        """
        Wake up: in a fleet without pauses that is now, or when the call at hand is over.
        """
        del message
        self._clock.put(self, max(self._clock.now, min(self.due, self._clock.now + CALL_SECONDS)))

    def ask(self, question: Question, timeout: float) -> object | None:
        """Nobody waits for answers in here."""
        del question, timeout
        return None

    def is_alive(self) -> bool:
        return True


class FleetRuntime:
    """
    What one process sees of the clock, and its own randomness.
    """

    def __init__(self, clock: Clock, aws: Aws, seed: int) -> None:
        self._clock = clock
        self._aws = aws
        self._random = random.Random(seed)

    def wall(self) -> float:
        return 1_767_225_600.0 + self._clock.now

    def monotonic(self) -> float:
        return self._clock.now

    def random(self) -> float:
        return self._random.random()

    def start(self, job: Job, name: str) -> FleetWorker:
        del name
        worker = FleetWorker(job, self._clock, self._aws)
        self._clock.put(worker, self._clock.now)
        return worker

    def pause(self) -> None:
        """Nothing: there is no other thread."""


class Aws:
    """
    Takes so many calls in each second.
    """

    def __init__(self, clock: Clock, limit: int) -> None:
        self._clock = clock
        self._limit = limit
        self.down = False
        self.attempts = self.measurements = self.throttled = 0
        self.taken: Counter[int] = Counter()
        """Calls taken, by second."""
        self.calls: Counter[int] = Counter()
        """Calls made, by second."""
        self.retries: Counter[int] = Counter()
        """Calls of processes whose call before that had failed, by tenth of a second."""

    def send(self, batch: Batch, *, retry: bool) -> None:
        """
        Take a batch, or not.
        """
        self.attempts += 1
        second = int(self._clock.now)
        self.calls[second] += 1
        self.retries[int(self._clock.now * 10)] += retry
        if self.down:
            message = "down for the benchmark"
            raise SinkUnavailable(message)
        if self.taken[second] >= self._limit:
            self.throttled += 1
            message = "Rate exceeded"
            raise SinkThrottled(message)
        self.taken[second] += 1
        self.measurements += batch.measurements


class FleetSink:
    """
    One process's way to AWS.
    """

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._failed = False

    def send(self, batch: Batch) -> None:
        retry, self._failed = self._failed, True
        self._aws.send(batch, retry=retry)
        self._failed = False

    def datum_bytes(self, datum: Datum) -> int:
        return 250 + 25 * len(datum.values)

    def envelope_bytes(self, namespace: str) -> int:
        return 50 + len(namespace)

    def after_fork(self) -> None:
        """Nothing to forget."""

    def close(self) -> None:
        """Nothing to let go of."""


class Outcome(NamedTuple):
    """
    What became of one fleet.

    Attributes:
        aws: What AWS saw.
        recorded: Values.
        drained: Minutes until everything had arrived, after the end of the recording.
    """

    aws: Aws
    recorded: int
    drained: float


def main() -> None:
    import logging

    logging.getLogger("retainwise_metrics").setLevel(logging.CRITICAL)  # failures are what is asked for here
    options = arguments(__doc__)
    report = Report("fleet", options)
    run(report, QUICK if options.quick else FULL)
    report.finish()


def run(report: Report, size: Size) -> None:
    """
    Simulate all scenarios, and print them.
    """
    calls: list[tuple[object, ...]] = []
    retries: list[tuple[object, ...]] = []
    for scenario in size.scenarios:
        outcome = simulate(scenario, size)
        aws = outcome.aws
        a_second = _steady(scenario, aws.calls)
        ten = [sum(a_second[start : start + 10]) for start in range(0, len(a_second) - 9, 10)]
        calls.append(
            (
                scenario.name,
                fmean(a_second),
                f"{max(a_second):,}",
                max(a_second) / fmean(a_second),
                PEAK if scenario.judged else "",
                max(ten) / fmean(ten),
            )
        )
        retries.append((scenario.name, *_retry_cells(aws.retries), f"{outcome.recorded:,}", outcome.drained))
    report.table(
        f"Calls a second, {size.processes:,} processes, while they record",
        ("fleet", "mean", "peak", "peak to mean", "target", "peak to mean of 10 s"),
        calls,
        note=f"at most {size.limit:,} calls a second are taken",
    )
    report.table(
        "Retries",
        (
            "fleet",
            "retries",
            "most in 0.1 s",
            "by chance",
            "autocorrelation",
            "by chance ",
            "values, all delivered",
            "minutes to drain",
        ),
        retries,
    )
    report.table(
        "Peak to mean of calls a second, by chance alone: phases drawn 500 times",
        ("fleet", "peak to mean"),
        [(f"{size.processes:,} processes, their calls within a second each", Rounds(_drawn_peaks(size.processes)))],
    )


def _drawn_peaks(processes: int) -> tuple[float, ...]:
    draw = random.Random(1)
    return tuple(
        max(Counter(draw.randrange(60) for _ in range(processes)).values()) * 60 / processes for _ in range(500)
    )


def _steady(scenario: Scenario, calls: Counter[int]) -> list[int]:
    """Calls by second, without the first minutes, in which the fleet starts."""
    return [calls[second] for second in range(120, scenario.minutes * 60)]


def _retry_cells(retries: Counter[int]) -> tuple[str, ...]:
    total = retries.total()
    if total < 100:
        return (f"{total:,}", "", "", "", "")
    tenths = [retries[tenth] for tenth in range(min(retries), max(retries) + 1)]
    shuffled = _by_chance(tenths)
    return (
        f"{total:,}",
        f"{max(tenths):,}",
        f"{max(shuffled):,}",
        f"{_autocorrelation(tenths):.2f}",
        f"{_autocorrelation(shuffled):.2f}",
    )


def _by_chance(tenths: Sequence[int]) -> list[int]:
    """The same retries, each in some tenth of the ten around its own."""
    draw, found = random.Random(1), [0] * len(tenths)
    for tenth, retries in enumerate(tenths):
        for _ in range(retries):
            found[min(tenth // 10 * 10 + draw.randrange(10), len(tenths) - 1)] += 1
    return found


def _autocorrelation(tenths: Sequence[int]) -> float:
    """
    The highest over distances from one second to a minute of what is left when the mean of the ten seconds around is taken away.
    """
    smooth = 50
    sums = [0]
    for each in tenths:
        sums.append(sums[-1] + each)
    rest: list[float] = []
    for place, each in enumerate(tenths):
        low, high = max(place - smooth, 0), min(place + smooth + 1, len(tenths))
        rest.append(each - (sums[high] - sums[low]) / (high - low))
    power = sum(each * each for each in rest)
    if not power:
        return 0.0
    distances = range(10, min(600, len(rest) // 2))
    return max(
        (sum(one * two for one, two in zip(rest, rest[distance:], strict=False)) / power for distance in distances),
        default=0.0,
    )


def simulate(scenario: Scenario, size: Size) -> Outcome:
    """
    Let a fleet record, and then wait until all of it has arrived.
    """
    clock = Clock()
    aws = Aws(clock, size.limit)
    draw = random.Random(size.processes)
    clients = [_client(clock, aws, scenario, number) for number in range(size.processes)]
    recorders = [_recorder(client, scenario) for client in clients]
    # Processes do not record in the same instant either.
    offsets = sorted((draw.uniform(0.0, 10.0), number) for number in range(size.processes))
    for begin in range(0, scenario.minutes * 60, 10):
        aws.down = scenario.down[0] * 60 <= begin < scenario.down[1] * 60
        for offset, number in offsets:
            clock.run_until(begin + offset)
            recorders[number]()
    aws.down = False
    ended = clock.now
    while any(client.stats().pending for client in clients):
        clock.run_until(clock.now + 10.0)
        if clock.now - ended > 4 * 3600:
            message = f"{scenario.name}: not everything has arrived after four hours"
            raise RuntimeError(message)
    recorded = sum(client.stats().recorded for client in clients)
    if aws.measurements != recorded:
        message = f"{scenario.name}: {recorded} values were recorded and {aws.measurements} arrived"
        raise RuntimeError(message)
    return Outcome(aws, recorded, (clock.now - ended) / 60)


def _client(clock: Clock, aws: Aws, scenario: Scenario, number: int) -> CloudWatchMetrics:
    config = MetricsConfig(environment="bench", catalogue=(), batch_size=scenario.batch_size)
    return CloudWatchMetrics(config, sink=FleetSink(aws), runtime=FleetRuntime(clock, aws, number))


def _recorder(client: CloudWatchMetrics, scenario: Scenario) -> Callable[[], None]:
    """Records a value for each series; a sixth of them at a time, so that all have one each minute."""
    bound = [
        client.counter("Seen", namespace=NAMESPACES[number % scenario.namespaces]).bind(Shard=f"shard-{number}")
        for number in range(scenario.series)
    ]
    turns = count()

    def record() -> None:
        turn = next(turns) % 6
        for each in bound[turn::6]:
            each.inc()

    return record


if __name__ == "__main__":
    main()
