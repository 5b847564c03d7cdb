"""A worker around SQS, in every way its messages can end: the metrics say what happened, and change nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto import mock_aws

from retainwise_metrics import CloudWatchMetrics, MetricsConfig, NullMetrics, set_metrics_client
from retainwise_metrics.integrations import sqs
from retainwise_metrics.integrations.sqs import LAMBDA_NAMES, REQUESTED_ATTRIBUTES, SqsMetricNames, SqsWorkerMetrics
from retainwise_metrics.testing import InMemorySink, ManualRuntime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

NAMESPACE = "RetainWise/Worker"
REGION = "us-east-1"
DEADLINE_SECONDS = 30.0


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self, now: float = 1_767_225_600.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class JobFailedError(Exception):
    """What a worker raises on purpose."""


class UnexpectedError(Exception):
    """What it does not."""


@pytest.fixture
def metrics(make_client: Callable[..., CloudWatchMetrics]) -> CloudWatchMetrics:
    """A strict client that knows the metrics of a worker."""
    return make_client(strict=True, catalogue=sqs.catalogue(), max_distinct_values=2000)


@pytest.fixture
def clock() -> Clock:
    """The time."""
    return Clock()


@pytest.fixture
def worker(metrics: CloudWatchMetrics, clock: Clock) -> SqsWorkerMetrics:
    """A worker on that client, at that time."""
    return SqsWorkerMetrics(metrics, queue_name="uploads", max_receive_count=3, clock=clock, wall=clock)


class Recorded:
    """What a client delivered, by metric."""

    def __init__(self, client: CloudWatchMetrics, sink: InMemorySink) -> None:
        self._client = client
        self._sink = sink

    def values(self, name: str, **dimensions: str) -> dict[float, int]:
        """Values of one series, zeros that the client publishes by itself left out."""
        self._client.flush()
        return {value: count for value, count in self._sink.values(NAMESPACE, name, dimensions).items() if value}

    def total(self, name: str, **dimensions: str) -> float:
        """Their sum."""
        return sum(value * count for value, count in self.values(name, **dimensions).items())


@pytest.fixture
def recorded(metrics: CloudWatchMetrics, sink: InMemorySink) -> Recorded:
    """What the client has delivered."""
    return Recorded(metrics, sink)


def message(receives: int = 1, sent: float = 1_767_225_600.0, **more: object) -> dict[str, Any]:
    """A message as boto3 delivers it, attributes as text."""
    attributes = {"SentTimestamp": str(int(sent * 1000)), "ApproximateReceiveCount": str(receives)}
    return {"MessageId": "m", "ReceiptHandle": "r", "Body": "{}", "Attributes": attributes, **more}


# ---- against SQS ----


class Truth:
    """What a worker did, counted by itself."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.unexpected: Counter[str] = Counter()
        self.ages: Counter[float] = Counter()
        self.receives: Counter[int] = Counter()
        self.batches: Counter[int] = Counter()
        self.seconds: Counter[float] = Counter()


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[tuple[Any, str, str]]:
    """A queue with a dead-letter queue behind it after three receives; SQS lives by the test's clock."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    # moto asks the time several times per waiting message and call, in a slow way.
    monkeypatch.setattr("moto.sqs.models.unix_time_millis", lambda: clock.now * 1000)
    monkeypatch.setattr("moto.sqs.models.unix_time", clock)
    with mock_aws():
        client = boto3.client("sqs", region_name=REGION)
        dead = client.create_queue(QueueName="uploads-dlq")["QueueUrl"]
        arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "3"})
        url = client.create_queue(QueueName="uploads", Attributes={"RedrivePolicy": policy})["QueueUrl"]
        yield client, url, dead


def send(client: Any, url: str, number: int) -> None:
    """Put numbered messages into a queue."""
    for first in range(0, number, 10):
        entries = [{"Id": str(n), "MessageBody": str(n)} for n in range(first, min(first + 10, number))]
        client.send_message_batch(QueueUrl=url, Entries=entries)


def do_as_planned(number: int, receives: int) -> None:
    """The work on a message: some always fails, some at first, some with a bug, most never."""
    if number % 20 == 0:
        raise JobFailedError
    if number % 20 == 1:
        raise UnexpectedError
    if number % 20 == 2 and receives < 3:
        raise TimeoutError
    if number % 20 == 3 and receives < 2:
        raise ConnectionError


def work(worker: SqsWorkerMetrics, queues: tuple[Any, str, str], clock: Clock, truth: Truth) -> None:
    """A loop as a user writes it, that ends when a receive brings nothing; it keeps books of its own."""
    client, url, _ = queues
    chance = random.Random(7)
    while True:
        answer = client.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageSystemAttributeNames=REQUESTED_ATTRIBUTES
        )
        with worker.batch(answer) as messages:
            if not messages:
                truth.counts["empty"] += 1
                return
            truth.batches[len(messages)] += 1
            done = []
            for each in messages:
                clock.now += chance.choice((0.0, 0.125))
                if handle(worker, each, clock, truth):
                    done.append({"Id": each["MessageId"], "ReceiptHandle": each["ReceiptHandle"]})
                else:
                    client.change_message_visibility(
                        QueueUrl=url, ReceiptHandle=each["ReceiptHandle"], VisibilityTimeout=0
                    )
            if done:
                client.delete_message_batch(QueueUrl=url, Entries=done)
            if len(done) < len(messages):
                truth.counts["given back"] += len(messages) - len(done)
                worker.partial_failures(len(messages) - len(done))


def handle(worker: SqsWorkerMetrics, each: Mapping[str, Any], clock: Clock, truth: Truth) -> bool:
    """Work on one message; whether it is done."""
    receives = int(each["Attributes"]["ApproximateReceiveCount"])
    truth.counts["received"] += 1
    truth.receives[receives] += 1
    truth.ages[round(clock.now - int(each["Attributes"]["SentTimestamp"]) / 1000, 6)] += 1
    started = clock.now
    try:
        with worker.message(each):
            clock.now += 0.25
            do_as_planned(int(each["Body"]), receives)
    except Exception as error:
        truth.errors[type(error).__name__] += 1
        if isinstance(error, UnexpectedError):
            truth.unexpected[type(error).__name__] += 1
        return False
    truth.counts["succeeded"] += 1
    truth.seconds[round(clock.now - started, 6)] += 1
    return True


def rounded(values: Mapping[float, int]) -> Counter[float]:
    """Values to the microsecond, without zeros, which the client may publish by itself."""
    result: Counter[float] = Counter()
    for value, count in values.items():
        if round(value, 6):
            result[round(value, 6)] += count
    return result


def test_a_thousand_messages_are_counted_as_they_were(
    queues: tuple[Any, str, str], metrics: CloudWatchMetrics, recorded: Recorded, clock: Clock
) -> None:
    """Over real calls of boto3: successes, failures by type, retries, ages, batches and dead letters equal the truth."""
    client, url, dead = queues
    send(client, url, 1000)
    worker = SqsWorkerMetrics(
        metrics,
        queue_name="uploads",
        max_receive_count=sqs.max_receive_count(client, url),
        expected=(JobFailedError, OSError),
        heartbeat_seconds=0,
        clock=clock,
        wall=clock,
    )
    truth = Truth()
    work(worker, queues, clock, truth)

    failed = sum(truth.errors.values())
    dead_letters = int(
        client.get_queue_attributes(QueueUrl=dead, AttributeNames=["ApproximateNumberOfMessages"])["Attributes"][
            "ApproximateNumberOfMessages"
        ]
    )
    assert truth.counts["succeeded"] + dead_letters == 1000, "the worker of this test lost messages"
    assert (dead_letters, failed) == (100, 450), "the plan of this test is not what it was"

    assert recorded.total("SQSMessageReceived") == truth.counts["received"] == truth.counts["succeeded"] + failed
    assert recorded.total("WorkerSuccess") == truth.counts["succeeded"]
    assert recorded.total("WorkerFailure") == failed
    for name, number in truth.errors.items():
        assert recorded.total("WorkerFailure", ErrorType=name) == number
    assert recorded.total("WorkerUnexpectedError") == truth.unexpected["UnexpectedError"] == 150
    assert recorded.total("SQSPoisonMessages") == dead_letters
    assert recorded.values("SQSReceiveCount") == truth.receives
    assert recorded.values("SQSBatchSize") == truth.batches
    assert recorded.total("SQSEmptyReceives") == truth.counts["empty"]
    assert recorded.total("SQSPartialFailures") == truth.counts["given back"] == failed
    assert rounded(recorded.values("SQSMessageAge")) == rounded(truth.ages)
    assert rounded(recorded.values("WorkerEndToEndDuration")) == rounded(truth.seconds)
    assert recorded.total("SQSMessagesInFlight") == 0
    assert recorded.total("WorkerSuccess", QueueName="uploads") == truth.counts["succeeded"]
    assert metrics.stats().dropped == {}


def test_the_redrive_policy_is_read_from_the_queue(queues: tuple[Any, str, str]) -> None:
    """`max_receive_count` is what the queue says, and None for a queue without a dead-letter queue."""
    client, url, dead = queues
    assert sqs.max_receive_count(client, url) == 3
    assert sqs.max_receive_count(client, dead) is None


def test_a_queue_that_cannot_be_read_is_no_reason_not_to_start(
    queues: tuple[Any, str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Without permission, or without the queue, there is a line in the log and no poison count."""
    client, url, _ = queues
    assert sqs.max_receive_count(client, url + "-gone") is None
    assert "allow sqs:GetQueueAttributes or give max_receive_count" in caplog.text


def test_a_message_of_the_queue_resource_is_measured_too(
    queues: tuple[Any, str, str], worker: SqsWorkerMetrics, recorded: Recorded, clock: Clock
) -> None:
    """boto3's `Queue.receive_messages` makes objects, not dicts; they are understood as well."""
    client, url, _ = queues
    send(client, url, 1)
    clock.now += 2
    queue = boto3.resource("sqs", region_name=REGION).Queue(url)

    @worker.handler
    def process(prefix: str, each: Any) -> str:
        return prefix + each.body

    (received,) = worker.received(queue.receive_messages(AttributeNames=["All"]))
    assert process("body ", received) == "body 0"
    assert recorded.values("SQSReceiveCount") == {1.0: 1}
    assert recorded.values("SQSMessageAge") == {2.0: 1}


# ---- what ends a message ----


def test_an_exception_is_counted_and_goes_on_its_way(worker: SqsWorkerMetrics, recorded: Recorded) -> None:
    """The very exception leaves the block; the message counts as failed, under the name of its class."""
    error = JobFailedError("no such file")
    with pytest.raises(JobFailedError) as caught, worker.message(message()):
        raise error
    assert caught.value is error
    assert recorded.values("WorkerFailure", ErrorType="JobFailedError") == {1.0: 1}
    assert recorded.values("WorkerSuccess") == {}
    assert recorded.values("WorkerEndToEndDuration") == {}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_what_stops_a_message_from_outside_is_a_failure_of_its_own_type(
    stop: type[BaseException], metrics: CloudWatchMetrics, recorded: Recorded
) -> None:
    """Each message ends as one of success and failure; being stopped is no bug, so it is not unexpected."""
    worker = SqsWorkerMetrics(metrics, queue_name="uploads", expected=())
    with pytest.raises(stop), worker.message(message()):
        raise stop
    assert recorded.values("WorkerFailure", ErrorType=stop.__name__) == {1.0: 1}
    assert recorded.values("WorkerUnexpectedError") == {}


def test_a_failure_may_be_told_instead_of_raised(worker: SqsWorkerMetrics, recorded: Recorded) -> None:
    """`failed` counts the message as failed though its block ends without an exception."""
    with worker.message(message()) as job:
        job.failed("S3Download")
    with worker.message(message()) as job:
        job.failed(JobFailedError("handled"))
    assert recorded.total("WorkerFailure") == 2
    assert recorded.values("WorkerFailure", ErrorType="S3Download") == {1.0: 1}
    assert recorded.values("WorkerFailure", ErrorType="JobFailedError") == {1.0: 1}
    assert recorded.values("WorkerSuccess") == {}


@pytest.mark.parametrize(("receives", "poison"), [(1, 0), (2, 0), (3, 1), (4, 1)])
def test_poison_is_a_failure_on_the_last_receive(
    receives: int, poison: int, worker: SqsWorkerMetrics, recorded: Recorded
) -> None:
    """The third receive of three is the last; a queue whose policy was tightened may show a higher count."""
    with pytest.raises(JobFailedError), worker.message(message(receives)):
        raise JobFailedError
    assert recorded.total("SQSPoisonMessages") == poison


def test_a_success_on_the_last_receive_is_no_poison(worker: SqsWorkerMetrics, recorded: Recorded) -> None:
    """Neither is a message that failed and is deleted all the same: none of them reaches the dead-letter queue."""
    with worker.message(message(3)):
        pass
    with worker.message(message(3)) as job:
        job.failed("CSVParse", discarded=True)
    assert recorded.total("SQSPoisonMessages") == 0
    assert recorded.total("WorkerFailure") == 1


def test_without_the_limit_nothing_is_poison(metrics: CloudWatchMetrics, recorded: Recorded) -> None:
    """Who does not say when the last receive is gets no poison count, however often a message comes."""
    worker = SqsWorkerMetrics(metrics, queue_name="uploads")
    with worker.message(message(99)) as job:
        job.failed("Again")
    assert recorded.total("SQSPoisonMessages") == 0


def test_error_types_are_the_applications_to_name(metrics: CloudWatchMetrics, recorded: Recorded) -> None:
    """`error_type` names the failure; where it raises itself, the class's name is good enough."""

    def name(error: BaseException) -> str:
        return {"late": "Timeout"}[str(error)]

    worker = SqsWorkerMetrics(metrics, queue_name="uploads", error_type=name, expected=(JobFailedError,))
    for text in ("late", "unknown"):
        with pytest.raises(UnexpectedError), worker.message(message()):
            raise UnexpectedError(text)
    assert recorded.values("WorkerFailure", ErrorType="Timeout") == {1.0: 1}
    assert recorded.values("WorkerFailure", ErrorType="UnexpectedError") == {1.0: 1}
    assert recorded.values("WorkerUnexpectedError", ErrorType="UnexpectedError") == {1.0: 2}


def test_a_class_whose_name_cloudwatch_would_refuse_is_counted(worker: SqsWorkerMetrics, recorded: Recorded) -> None:
    """Python allows such names; the failure must not be lost for its name."""
    odd = type("Fehler\N{LATIN SMALL LETTER U WITH DIAERESIS}ber", (Exception,), {})
    with pytest.raises(odd), worker.message(message()):
        raise odd
    assert recorded.total("WorkerFailure") == 1


# ---- the loop ----


def test_the_heart_beats_with_the_loop(worker: SqsWorkerMetrics, recorded: Recorded, clock: Clock) -> None:
    """Empty receives beat, too, but never more often than every ten seconds."""
    for _ in range(25):
        worker.received({"ResponseMetadata": {}})
        clock.now += 1
    assert recorded.total("WorkerHeartbeat") == 3
    assert recorded.total("SQSEmptyReceives") == 25


def test_the_heart_stops_when_the_loop_hangs(
    worker: SqsWorkerMetrics, recorded: Recorded, clock: Clock, runtime: ManualRuntime
) -> None:
    """Minutes in one message bring no beat, though the client goes on delivering; its end does."""
    worker.received([message()])
    assert recorded.total("WorkerHeartbeat") == 1
    with worker.message(message()):
        for _ in range(5):
            clock.now += 60
            runtime.advance(60)
        assert recorded.total("WorkerHeartbeat") == 1
        assert recorded.total("SQSMessagesInFlight") == 6  # in the first minute too
    assert recorded.total("WorkerHeartbeat") == 2


def test_a_long_job_may_beat_by_itself(worker: SqsWorkerMetrics, recorded: Recorded, clock: Clock) -> None:
    """`beat` is for the steps of a job that takes longer than the alarm waits."""
    with worker.message(message()):
        for _ in range(4):
            clock.now += 30
            worker.beat()
    assert recorded.total("WorkerHeartbeat") == 4


def test_messages_in_flight_are_a_level(
    worker: SqsWorkerMetrics, recorded: Recorded, runtime: ManualRuntime, metrics: CloudWatchMetrics
) -> None:
    """What is being worked on is read once a minute; what has ended is not there any more."""
    with worker.message(message()), worker.message(message()):
        runtime.advance(60)
    assert recorded.values("SQSMessagesInFlight") == {2.0: 1}
    runtime.advance(60)
    assert recorded.values("SQSMessagesInFlight") == {2.0: 1}


def test_batches_give_their_messages(worker: SqsWorkerMetrics, recorded: Recorded) -> None:
    """An answer of boto3, its messages and the event of a Lambda function are all understood, and given back untouched."""
    one, two = message(), message()
    with worker.batch({"Messages": [one, two]}) as messages:
        assert messages[0] is one
    assert worker.received([one]) == [one]
    assert worker.received({"Records": [one, two]}) == [one, two]
    assert worker.received(None) == []
    assert recorded.values("SQSBatchSize") == {2.0: 2, 1.0: 1}


def test_a_receive_that_was_not_awaited_is_an_error(worker: SqsWorkerMetrics) -> None:
    """It must not look like a quiet queue."""

    async def receive() -> None: ...

    answer = receive()
    with pytest.raises(TypeError):
        worker.received(answer)  # type: ignore[arg-type]
    answer.close()


@pytest.mark.parametrize(
    ("given_back", "number"),
    [
        (2, 2),
        (0, 0),
        ({"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "b"}]}, 2),
        ({"batchItemFailures": []}, 0),
        ({"Successful": [], "Failed": [{"Id": "a"}]}, 1),
    ],
)
def test_partial_failures_are_read_from_what_says_them(
    given_back: Any, number: int, worker: SqsWorkerMetrics, recorded: Recorded
) -> None:
    """A number, a Lambda function's answer, or that of `delete_message_batch`; it is handed back as it came."""
    assert worker.partial_failures(given_back) is given_back
    assert recorded.total("SQSPartialFailures") == number


# ---- functions ----


def test_a_handler_is_measured_and_stays_what_it_is(worker: SqsWorkerMetrics, recorded: Recorded) -> None:
    """Functions and methods: the message is found among the arguments, name and result stay."""

    class Jobs:
        @worker.handler
        def process(self, each: dict[str, Any], *, fast: bool = False) -> tuple[str, bool]:
            """Do it."""
            return each["Body"], fast

    assert Jobs().process(message(2), fast=True) == ("{}", True)
    assert Jobs().process(each=message(2)) == ("{}", False)
    assert (Jobs.process.__name__, Jobs.process.__doc__) == ("process", "Do it.")
    assert recorded.values("SQSReceiveCount") == {2.0: 2}
    assert recorded.total("WorkerSuccess") == 2


def test_coroutine_functions_are_measured_to_their_end(
    worker: SqsWorkerMetrics, recorded: Recorded, clock: Clock
) -> None:
    """Many at once, each with a start of its own; `async with` does the same for blocks."""

    async def fail() -> None:
        async with worker.message(message()):
            await asyncio.sleep(0)
            raise JobFailedError

    async def main() -> list[str]:
        together = asyncio.Barrier(3) if hasattr(asyncio, "Barrier") else None

        @worker.handler
        async def process(each: dict[str, Any]) -> str:
            await (together.wait() if together else asyncio.sleep(0))
            clock.now += 1
            return each["Body"]

        async with worker.batch({"Messages": [message()] * 3}) as messages:
            bodies = await asyncio.gather(*map(process, messages))
        with pytest.raises(JobFailedError):
            await fail()
        return bodies

    assert asyncio.run(main()) == ["{}"] * 3
    assert recorded.total("WorkerSuccess") == 3
    assert recorded.total("WorkerFailure") == 1
    assert sum(recorded.values("WorkerEndToEndDuration").values()) == 3


def test_generator_functions_are_refused(worker: SqsWorkerMetrics) -> None:
    """Calling one does not do the work."""

    def process(each: object) -> Iterator[object]:
        yield each

    with pytest.raises(TypeError, match="cannot measure the calls"):
        worker.handler(process)


def test_threads_do_not_disturb_each_other(worker: SqsWorkerMetrics, recorded: Recorded) -> None:
    """Four threads, a thousand messages: every one is counted once."""

    def work_through(share: int) -> None:
        for number in range(250):
            with worker.message(message()) as job:
                if number % 5 == share:
                    job.failed(f"Share{share}")

    threads = [threading.Thread(target=work_through, args=(share,)) for share in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert recorded.total("SQSMessageReceived") == 1000
    assert recorded.total("WorkerFailure") == 200
    assert recorded.total("WorkerFailure", ErrorType="Share3") == 50
    assert recorded.total("WorkerSuccess") == 800


# ---- recorders ----


class Broken:
    """A recorder that fails, at making instruments or at recording."""

    def __init__(self, **instruments: Any) -> None:
        self.__dict__.update(instruments)

    def put_metric(self, *arguments: object, **options: object) -> bool:
        raise RuntimeError("jane@example.com")


def break_down(*_arguments: object, **_options: object) -> Any:
    """What a broken factory does."""
    raise RuntimeError("jane@example.com")


@pytest.mark.parametrize("broken", [Broken(), Broken(counter=break_down), object(), NullMetrics()])
def test_a_broken_recorder_changes_nothing(broken: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Results and exceptions are those of the work; the log says it once, without what the recorder said."""
    worker = SqsWorkerMetrics(broken, queue_name="uploads", max_receive_count=1)

    @worker.handler
    def process(each: dict[str, Any]) -> str:
        return each["Body"]

    for _ in range(3):
        with worker.batch({"Messages": [message()]}) as (received,):
            assert process(received) == "{}"
        with pytest.raises(JobFailedError), worker.message(message()):
            raise JobFailedError
        assert worker.partial_failures({"batchItemFailures": [1]}) == {"batchItemFailures": [1]}
    assert len(caplog.records) == (0 if isinstance(broken, NullMetrics) else 1)
    assert "jane" not in caplog.text


class PlainRecorder:
    """A `Recorder` and no more: it makes no instruments."""

    def __init__(self) -> None:
        self.records: list[tuple[str, float, str, tuple[tuple[str, object], ...]]] = []

    def put_metric(
        self, name: str, value: float, unit: str, *, namespace: str, dimensions: Mapping[str, object]
    ) -> bool:
        assert namespace == NAMESPACE
        self.records.append((name, value, str(unit), tuple(sorted(dimensions.items()))))
        return True


def test_a_recorder_without_instruments_will_do(clock: Clock) -> None:
    """The integration depends on the protocol alone; levels are then recorded when they rise."""
    recorder = PlainRecorder()
    worker = SqsWorkerMetrics(
        recorder,  # type: ignore[arg-type]
        queue_name="uploads",
        dimensions={"Stage": "beta"},
        clock=clock,
        wall=clock,
    )
    here: tuple[tuple[str, object], ...] = (("QueueName", "uploads"), ("Stage", "beta"))
    with worker.message(message()), worker.message(message()) as job:
        clock.now += 1.5
        job.failed("Csv")
    with worker.message(message()):
        pass
    found = Counter(recorder.records)
    assert [value for name, value, *_ in recorder.records if name == "SQSMessagesInFlight"] == [1, 2, 1]
    assert found["WorkerFailure", 1, "Count", (("ErrorType", "Csv"), *here)] == 1
    assert found["WorkerEndToEndDuration", 1.5, "Seconds", here] == 1
    assert found["SQSMessageReceived", 1, "Count", here] == 3


def test_the_process_wide_client_is_that_of_the_moment(
    metrics: CloudWatchMetrics, recorded: Recorded, make_client: Callable[..., CloudWatchMetrics]
) -> None:
    """A worker made before the client was put in place, or replaced, records to the new one."""
    worker = SqsWorkerMetrics(queue_name="uploads")
    previous = set_metrics_client(make_client())
    worker.received([message()])
    set_metrics_client(metrics)
    worker.received([message()])
    set_metrics_client(previous)
    assert recorded.values("SQSBatchSize") == {1.0: 1}


def test_making_one_starts_nothing() -> None:
    """No client is made or started before the first record."""
    runtime = ManualRuntime()
    client = CloudWatchMetrics(MetricsConfig(), sink=InMemorySink(), runtime=runtime)
    worker = SqsWorkerMetrics(client, queue_name="uploads")
    assert runtime._workers == []
    worker.received([])
    assert runtime._workers != []


def test_zeros_are_published_while_nothing_happens(
    worker: SqsWorkerMetrics, metrics: CloudWatchMetrics, sink: InMemorySink
) -> None:
    """After the first receive alarms have data for failures and poison, though none came."""
    worker.received([])
    metrics.flush()
    for name in ("WorkerSuccess", "WorkerFailure", "SQSPoisonMessages"):
        assert set(sink.values(NAMESPACE, name)) == {0.0}
    assert sink.values(NAMESPACE, "WorkerHeartbeat") == {1.0: 1}


def test_names_are_the_users_choice(make_client: Callable[..., CloudWatchMetrics], sink: InMemorySink) -> None:
    """Metrics are renamed, or switched off by an empty name; outside the catalogue they come by queue."""
    client = make_client(strict=True)
    worker = SqsWorkerMetrics(
        client, queue_name="orders", namespace="Shop", names=SqsMetricNames(succeeded="OrderDone", age="", heartbeat="")
    )
    worker.received([message()])
    with worker.message(message()):
        pass
    client.flush()
    assert sink.values("Shop", "OrderDone", {"QueueName": "orders"}) == {1.0: 1}
    assert {datum.series.name for datum in sink.datums}.isdisjoint(
        {"SQSMessageAge", "WorkerHeartbeat", "WorkerSuccess"}
    )


def test_a_lambda_event_is_measured(metrics: CloudWatchMetrics, recorded: Recorded) -> None:
    """Records of an event source have their attributes under other keys, and no loop."""
    worker = SqsWorkerMetrics(metrics, queue_name="uploads", names=LAMBDA_NAMES, max_receive_count=2)
    attributes = {"SentTimestamp": "1767225600000", "ApproximateReceiveCount": "2"}
    event = {"Records": [{"messageId": body, "body": body, "attributes": attributes} for body in ("good", "bad")]}

    def lambda_handler(event: dict[str, Any], _context: object) -> Any:
        failures = []
        for record in worker.received(event):
            try:
                with worker.message(record):
                    assert record["body"] == "good"
            except AssertionError:
                failures.append({"itemIdentifier": record["messageId"]})
        return worker.partial_failures({"batchItemFailures": failures})

    assert lambda_handler(event, None) == {"batchItemFailures": [{"itemIdentifier": "bad"}]}
    assert recorded.values("SQSReceiveCount") == {2.0: 2}
    assert recorded.total("SQSPoisonMessages") == recorded.total("SQSPartialFailures") == 1
    assert recorded.values("WorkerHeartbeat") == {}


# ---- attributes ----


@pytest.mark.parametrize(
    "odd",
    [
        {"Body": "{}"},
        {"Body": "{}", "Attributes": None},
        {"Body": "{}", "Attributes": {"SentTimestamp": "soon", "ApproximateReceiveCount": None}},
        None,
        "not a message",
    ],
)
def test_what_was_not_requested_is_said_once(
    odd: Any, worker: SqsWorkerMetrics, recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages without attributes are worked on and counted; one line says what to request."""
    for _ in range(3):
        with worker.message(odd):
            pass
    assert recorded.total("WorkerSuccess") == 3
    assert recorded.values("SQSMessageAge") == recorded.values("SQSReceiveCount") == {}
    (line,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "MessageSystemAttributeNames=['SentTimestamp', 'ApproximateReceiveCount']" in line.getMessage()


def test_what_nobody_wants_is_not_missed(metrics: CloudWatchMetrics, caplog: pytest.LogCaptureFixture) -> None:
    """Only attributes that something is measured by are asked for."""
    names = SqsMetricNames(age="", receive_count="")
    with SqsWorkerMetrics(metrics, queue_name="uploads", names=names).message({"Body": "{}"}):
        pass
    assert caplog.records == []
    with SqsWorkerMetrics(metrics, queue_name="uploads", names=names, max_receive_count=3).message({"Body": "{}"}):
        pass
    assert "MessageSystemAttributeNames=['ApproximateReceiveCount']" in caplog.text


def test_a_clock_behind_that_of_sqs_makes_no_negative_age(
    worker: SqsWorkerMetrics, sink: InMemorySink, metrics: CloudWatchMetrics, clock: Clock
) -> None:
    """An age is at least 0."""
    with worker.message(message(sent=clock.now + 5)):
        pass
    metrics.flush()
    assert sink.values(NAMESPACE, "SQSMessageAge") == {0.0: 1}
