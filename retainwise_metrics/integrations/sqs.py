"""
Measure a worker that takes messages from SQS in a loop of its own.

    worker = SqsWorkerMetrics(queue_name="uploads", max_receive_count=5)
    while running:
        answer = sqs.receive_message(QueueUrl=url, MessageSystemAttributeNames=REQUESTED_ATTRIBUTES, WaitTimeSeconds=20)
        for message in worker.received(answer):
            with worker.message(message):
                handle(message)
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])

What is recorded, all under the dimension `QueueName` and under the names of `SqsMetricNames`:

==========================  ============  ================================================================================
`WorkerHeartbeat`           Count         the loop is turning: it received, also nothing, or ended a message
`SQSBatchSize`              Count         messages of one receive that brought some
`SQSEmptyReceives`          Count         a receive that brought none
`SQSMessageReceived`        Count         work on a message began
`SQSMessageAge`             Seconds       from its sending to that moment, earlier attempts included
`SQSReceiveCount`           Count         how often it has been received; more than 1 is a retry
`SQSMessagesInFlight`       Count         messages being worked on in this process
`WorkerSuccess`             Count         the block ended without an exception
`WorkerFailure`             Count         it did not, or `failed` was called; also by `ErrorType`
`WorkerUnexpectedError`     Count         in addition, if it was none of the `expected` exceptions; also by `ErrorType`
`WorkerEndToEndDuration`    Seconds       of a message that succeeded
`SQSPoisonMessages`         Count         it failed on its last receive: SQS moves it to the dead-letter queue
`SQSPartialFailures`        Count         messages of a batch that are given back, as told by `partial_failures`
==========================  ============  ================================================================================

Rules
1. It reports. It never deletes a message, never changes its visibility, and never hides an exception.
2. Each message that is begun ends in exactly one of success and failure. What is cancelled, or stopped by Ctrl-C or
   `SystemExit`, is a failure with the error type of what stopped it: SQS delivers the message again.
3. A recorder that fails is never noticed by the worker: one warning per `SqsWorkerMetrics` goes to the log.
4. Only the loop makes the heart beat. No other thread does it: a loop that hangs must stop beating.
5. Messages share nothing, so threads and tasks may work on many at once.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

from retainwise_metrics.catalogue import ROLLUP, MetricSpec
from retainwise_metrics.integrations._handles import Complaint, Handles, default_recorder_getter, spelled
from retainwise_metrics.namespaces import MetricNamespace
from retainwise_metrics.pipeline.reporting import say
from retainwise_metrics.service import merge_dimensions
from retainwise_metrics.units import MetricUnit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from retainwise_metrics.service import Recorder

_F = TypeVar("_F", bound="Callable[..., object]")
_T = TypeVar("_T")

SENT: Final = "SentTimestamp"
RECEIVES: Final = "ApproximateReceiveCount"

REQUESTED_ATTRIBUTES: Final = (SENT, RECEIVES)
"""What `receive_message` must be asked for, as `MessageSystemAttributeNames`: SQS does not send it by itself."""

HEARTBEAT_SECONDS: Final = 10.0
"""Least time between two beats: several a minute, however fast the loop turns."""

_MESSAGE_KEYS = frozenset({"ReceiptHandle", "receiptHandle", "MessageId", "messageId", "Body", "body"})


class SqsMetricNames(NamedTuple):
    """
    Under which name each measurement is published; an empty name switches it off, for each costs a metric.

    The defaults are the names of RetainWise's catalogue.
    """

    heartbeat: str = "WorkerHeartbeat"
    batch_size: str = "SQSBatchSize"
    empty_receives: str = "SQSEmptyReceives"
    received: str = "SQSMessageReceived"
    age: str = "SQSMessageAge"
    receive_count: str = "SQSReceiveCount"
    in_flight: str = "SQSMessagesInFlight"
    succeeded: str = "WorkerSuccess"
    failed: str = "WorkerFailure"
    unexpected: str = "WorkerUnexpectedError"
    duration: str = "WorkerEndToEndDuration"
    poison: str = "SQSPoisonMessages"
    partial_failures: str = "SQSPartialFailures"


DEFAULT_NAMES: Final = SqsMetricNames()

LAMBDA_NAMES: Final = SqsMetricNames(heartbeat="", empty_receives="", in_flight="")
"""For functions that SQS invokes: they have no loop, no empty receives, and one batch at a time."""


def catalogue(
    namespace: MetricNamespace | str = MetricNamespace.WORKER, names: SqsMetricNames = DEFAULT_NAMES
) -> tuple[MetricSpec, ...]:
    """
    The declarations of these metrics, for `MetricsConfig(catalogue=...)` of services other than RetainWise.

    CloudWatch adds nothing up across dimensions. Declared, each metric is published for all queues together, which is
    what alarms read, and by queue; failures also by error type; and what alarms count is published as 0 while nothing
    happens. Not declared, a metric is published by queue, and failures by queue and error type, and nothing else.
    """
    by_queue = (*ROLLUP, ("QueueName",))
    by_type = (*by_queue, ("ErrorType",))
    count, seconds = MetricUnit.COUNT, MetricUnit.SECONDS
    declared = (
        (names.heartbeat, count, ROLLUP, "The loop is turning. Never published as 0: its absence is the alarm.", False),
        (names.batch_size, count, by_queue, "Messages of one receive that brought some.", False),
        (names.empty_receives, count, by_queue, "A receive that brought no message.", False),
        (names.received, count, by_queue, "Work on a message began.", True),
        (names.age, seconds, by_queue, "From a message's sending to the beginning of work on it.", False),
        (names.receive_count, count, by_queue, "How often a message has been received.", False),
        (names.in_flight, count, by_queue, "Messages being worked on, per process, once a minute.", False),
        (names.succeeded, count, by_queue, "A message that was worked on without an error.", True),
        (names.failed, count, by_type, "A message whose work failed.", True),
        (names.unexpected, count, by_type, "An exception no code path expected; also counted as a failure.", True),
        (names.duration, seconds, by_queue, "Work on a message that succeeded.", False),
        (
            names.poison,
            count,
            by_queue,
            "A message that failed on its last receive before the dead-letter queue.",
            True,
        ),
        (names.partial_failures, count, by_queue, "Messages of a batch that were given back.", True),
    )
    return tuple(
        MetricSpec(name, str(namespace), unit, sets, meaning, zero)
        for name, unit, sets, meaning, zero in declared
        if name
    )


class QueueReader(Protocol):
    """
    What is needed of boto3's SQS client.
    """

    def get_queue_attributes(self, *, QueueUrl: str, AttributeNames: Sequence[str]) -> Mapping[str, Any]:  # noqa: N803 - boto3's names
        """
        Read attributes of a queue.
        """
        ...


def max_receive_count(sqs: QueueReader, queue_url: str) -> int | None:
    """
    Ask SQS how often a queue delivers a message before it moves it to the dead-letter queue.

    One call, for the start of a worker. It needs the permission `sqs:GetQueueAttributes`; where it fails, the log says
    so and the worker runs without counting poison messages.

    Args:
        sqs: A boto3 client.
        queue_url: The queue the worker reads.

    Returns:
        The `maxReceiveCount` of its redrive policy; None when it has none or it cannot be read.
    """
    import json

    try:
        answer = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["RedrivePolicy"])
        policy = answer.get("Attributes", {}).get("RedrivePolicy")
        return None if policy is None else int(json.loads(policy)["maxReceiveCount"])
    except Exception as failure:  # noqa: BLE001  # a worker without this one metric is better than no worker
        say(
            f"the redrive policy of the queue could not be read ({type(failure).__name__}): poison messages are not "
            "counted; allow sqs:GetQueueAttributes or give max_receive_count"
        )
        return None


class SqsWorkerMetrics:
    """
    Reports what a worker does with its messages; one per queue, shared by all threads and tasks that read it.

    Making one starts nothing: the client is looked up at the first record.

    Args:
        metrics: Takes the records. None: the process-wide client of each moment.
        queue_name: The queue's name, for the dimension `QueueName`.
        namespace: Namespace of every record. None: the recorder's default.
        max_receive_count: The queue's `maxReceiveCount`, see the function of that name. None: poison messages are not
            counted.
        dimensions: Further dimensions of every record; copied.
        names: Names of the metrics.
        error_type: From an exception to its error type, a short text of few values. None: the name of its class.
        expected: Exceptions the worker raises on purpose; any other `Exception` is also counted as unexpected. None:
            nothing is.
        heartbeat_seconds: Least time between two heartbeats; 0 beats at every turn.
        clock: Seconds on a clock that never steps back, for durations and heartbeats.
        wall: Seconds since the epoch, for the age of messages.
    """

    __slots__ = (
        "_attributes_missed",
        "_clock",
        "_complaint",
        "_dimensions",
        "_error_type",
        "_expected",
        "_heartbeat_seconds",
        "_instruments",
        "_last_receive",
        "_metrics",
        "_names",
        "_namespace",
        "_next_beat",
        "_queue_name",
        "_wall",
    )

    def __init__(
        self,
        metrics: Recorder | None = None,
        *,
        queue_name: str,
        namespace: MetricNamespace | str | None = MetricNamespace.WORKER,
        max_receive_count: int | None = None,
        dimensions: Mapping[str, object] | None = None,
        names: SqsMetricNames = DEFAULT_NAMES,
        error_type: Callable[[BaseException], str] | None = None,
        expected: tuple[type[BaseException], ...] | None = None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        clock: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._metrics = metrics
        self._queue_name = queue_name
        self._namespace = namespace
        self._last_receive = max_receive_count
        self._dimensions = merge_dimensions({"QueueName": queue_name}, dimensions)
        self._names = names
        self._error_type = error_type
        self._expected = expected
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock
        self._wall = wall
        self._instruments: _Instruments | None = None
        self._next_beat = float("-inf")
        self._attributes_missed = False
        self._complaint = Complaint(f"the SQS queue {queue_name!a}")

    def received(self, answer: Mapping[str, Any] | Iterable[_T] | None) -> list[Any]:
        """
        Note one receive, and the heartbeat.

        Args:
            answer: What `receive_message` returned; or its messages; or the event of a Lambda function.

        Returns:
            The messages, untouched; empty when there are none.

        Raises:
            TypeError: It is none of these: a coroutine that was not awaited, for example.
        """
        messages = _messages_of(answer)
        try:
            instruments = self._current()
            if messages:
                instruments.batch_size.observe(len(messages))
            else:
                instruments.empty_receives.inc()
            self._beat(instruments)
        except Exception as failure:  # noqa: BLE001  # rule 3
            self._complaint.say(failure)
        return messages

    def batch(self, answer: Mapping[str, Any] | Iterable[_T] | None) -> BatchBlock:
        """
        Note one receive, and the heartbeat at its end, too: `with` and `async with` give its messages.

        Args:
            answer: As for `received`.
        """
        return BatchBlock(self, answer)

    def message(self, message: object) -> MessageBlock:
        """
        Measure the work on one message: a block for `with` and `async with`.

        Args:
            message: As `receive_message` delivers it, a `Message` of boto3's queue resource, or a record of a Lambda event.
        """
        return MessageBlock(self, message)

    def handler(self, function: _F) -> _F:
        """
        Decorate a function, coroutine function or method that works on one message: `message` around each call.

        The message is the first argument that looks like one.

        Raises:
            TypeError: It is a generator function, whose calls do not do the work, or nothing that can be called.
        """
        target: Any = function
        if not callable(target) or inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
            message = f"cannot measure the calls of {target!r}: decorate a function or a coroutine function"
            raise TypeError(message)

        @functools.wraps(target)
        def call(*args: object, **kwargs: object) -> object:
            with self.message(_message_among(args, kwargs)):
                return target(*args, **kwargs)

        @functools.wraps(target)
        async def call_async(*args: object, **kwargs: object) -> object:
            """The handler, awaited and measured."""
            with self.message(_message_among(args, kwargs)):
                return await target(*args, **kwargs)

        return call_async if _is_async(target) else call  # type: ignore[return-value]

    def partial_failures(self, given_back: _T) -> _T:
        """
        Note how many messages of a batch are given back to the queue, or could not be deleted from it.

        Args:
            given_back: Their number; or the answer of a Lambda function, with `batchItemFailures`; or the answer of
                `delete_message_batch`, with `Failed`.

        Returns:
            What it was given, so that a Lambda function can end with `return worker.partial_failures(answer)`.
        """
        try:
            number = _failures_in(given_back)
            if number:
                self._current().partial_failures.inc(number)
        except Exception as failure:  # noqa: BLE001  # rule 3
            self._complaint.say(failure)
        return given_back

    def beat(self) -> None:
        """
        Note that the worker is alive: for long jobs, between their steps. At most one beat in `heartbeat_seconds`.
        """
        try:
            self._beat(self._current())
        except Exception as failure:  # noqa: BLE001  # rule 3
            self._complaint.say(failure)

    # ---- what the blocks ask for ----

    def _current(self) -> _Instruments:
        """
        The instruments on the recorder of this moment: the process-wide client may be replaced at any time.
        """
        recorder = default_recorder_getter()() if self._metrics is None else self._metrics
        instruments = self._instruments
        if instruments is None or instruments.recorder is not recorder:
            instruments = _Instruments(Handles(recorder, self._namespace, self._dimensions), self._names)
            self._instruments = instruments
        return instruments

    def _beat(self, instruments: _Instruments) -> None:
        now = self._clock()
        if now >= self._next_beat:
            self._next_beat = now + self._heartbeat_seconds
            instruments.heartbeat.inc()

    def _begin(self, block: MessageBlock, message: object) -> None:
        """
        Record what is known of a message when work on it begins.
        """
        instruments = block.instruments = self._current()
        instruments.in_flight.inc()
        instruments.received.inc()
        attributes = _attributes_of(message)
        sent, receives = _number(attributes, SENT), _number(attributes, RECEIVES)
        if sent is not None:
            instruments.age.observe(max(self._wall() - sent / 1000, 0.0))  # clocks differ by some milliseconds
        if receives is not None:
            instruments.receive_count.observe(receives)
            block.is_last = self._last_receive is not None and receives >= self._last_receive
        if (sent is None or receives is None) and not self._attributes_missed:
            self._attributes_missed = True
            self._say_what_is_missing(attributes)

    def _end(self, block: MessageBlock, seconds: float, error: BaseException | None) -> None:
        """
        Record how it went.
        """
        instruments = block.instruments
        if instruments is None:
            return  # recording failed when it began
        instruments.in_flight.dec()
        self._beat(instruments)
        if error is None and block.error_type is None:
            instruments.duration.observe(seconds)
            instruments.succeeded.inc()
            return
        instruments.failed.inc(self._type_of(error) if block.error_type is None else block.error_type)
        if self._is_unexpected(error):
            instruments.unexpected.inc(spelled(error))
        if block.is_last and not block.discarded:
            instruments.poison.inc()

    def _type_of(self, error: BaseException | None) -> str:
        if self._error_type is not None and error is not None:
            try:
                return spelled(self._error_type(error))
            except Exception as failure:  # noqa: BLE001  # the application's function; the failure must be counted
                self._complaint.say(failure)
        return spelled(error)

    def _is_unexpected(self, error: BaseException | None) -> bool:
        return self._expected is not None and isinstance(error, Exception) and not isinstance(error, self._expected)

    def _say_what_is_missing(self, attributes: Mapping[str, object]) -> None:
        counts_receives = self._names.receive_count or self._last_receive is not None
        needed = ((SENT, self._names.age), (RECEIVES, counts_receives))
        missing = [name for name, needs in needed if needs and _number(attributes, name) is None]
        if missing:
            say(
                f"messages of the SQS queue {self._queue_name!a} come without {' and '.join(missing)}, which is not "
                f"measured: call receive_message with MessageSystemAttributeNames={missing} (older clients: "
                "AttributeNames); this is said once"
            )


class BatchBlock:
    """
    One receive, for `with` and `async with`; made by `SqsWorkerMetrics.batch`.
    """

    __slots__ = ("_answer", "_worker")

    def __init__(self, worker: SqsWorkerMetrics, answer: Mapping[str, Any] | Iterable[object] | None) -> None:
        self._worker = worker
        self._answer = answer

    def __enter__(self) -> list[Any]:
        """The messages."""
        return self._worker.received(self._answer)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._worker.beat()

    async def __aenter__(self) -> list[Any]:
        """The messages."""
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._worker.beat()


class MessageBlock:
    """
    The work on one message, for `with` and `async with`; made by `SqsWorkerMetrics.message`.

    Attributes:
        instruments: What it records with, from its beginning to its end; for the worker's metrics.
        is_last: Whether SQS will not deliver the message again.
        error_type: What `failed` was told. None: it was not called.
        discarded: Whether the message is deleted although it failed.
    """

    __slots__ = ("_message", "_started", "_worker", "discarded", "error_type", "instruments", "is_last")

    def __init__(self, worker: SqsWorkerMetrics, message: object) -> None:
        self._worker = worker
        self._message = message
        self._started = 0.0
        self.instruments: _Instruments | None = None
        self.is_last = False
        self.error_type: str | None = None
        self.discarded = False

    def failed(self, error_type: str | BaseException, *, discarded: bool = False) -> None:
        """
        Say that the work failed, where no exception leaves the block.

        Args:
            error_type: A class of errors, of few values; or the exception that was handled.
            discarded: The message is deleted all the same, because no retry can mend it: it will not reach the
                dead-letter queue.
        """
        try:
            self.error_type = spelled(error_type)
        except Exception as failure:  # noqa: BLE001  # rule 3: its text is the application's
            self.error_type = "unnamed"
            self._worker._complaint.say(failure)  # noqa: SLF001 - a block is the worker's other half
        self.discarded = discarded

    def __enter__(self) -> Self:
        worker = self._worker
        try:
            worker._begin(self, self._message)  # noqa: SLF001 - as above
        except Exception as failure:  # noqa: BLE001  # rule 3
            worker._complaint.say(failure)  # noqa: SLF001
        self._started = worker._clock()  # noqa: SLF001
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        worker = self._worker
        try:
            worker._end(self, worker._clock() - self._started, error)  # noqa: SLF001 - as above
        except Exception as failure:  # noqa: BLE001  # rule 3
            worker._complaint.say(failure)  # noqa: SLF001

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


class _Instruments:
    """
    The handles of one worker on one recorder.
    """

    __slots__ = (*SqsMetricNames._fields, "recorder")

    def __init__(self, handles: Handles, names: SqsMetricNames) -> None:
        self.recorder = handles.recorder
        self.heartbeat = handles.counter(names.heartbeat)
        self.batch_size = handles.histogram(names.batch_size, MetricUnit.COUNT)
        self.empty_receives = handles.counter(names.empty_receives)
        self.received = handles.counter(names.received)
        self.age = handles.histogram(names.age, MetricUnit.SECONDS)
        self.receive_count = handles.histogram(names.receive_count, MetricUnit.COUNT)
        self.in_flight = handles.level(names.in_flight)
        self.succeeded = handles.counter(names.succeeded)
        self.failed = handles.errors(names.failed)
        self.unexpected = handles.errors(names.unexpected)
        self.duration = handles.histogram(names.duration, MetricUnit.SECONDS)
        self.poison = handles.counter(names.poison)
        self.partial_failures = handles.counter(names.partial_failures)


def _messages_of(answer: Mapping[str, Any] | Iterable[object] | None) -> list[Any]:
    if isinstance(answer, Mapping):
        answer = answer.get("Messages") or answer.get("Records")
    return [] if answer is None else list(answer)


def _attributes_of(message: object) -> Mapping[str, object]:
    """The system attributes of a message of boto3's client or resource, or of a record of a Lambda event."""
    found = getattr(message, "attributes", None)
    if isinstance(message, Mapping):
        found = message.get("Attributes") or message.get("attributes")
    return found if isinstance(found, Mapping) else {}


def _number(attributes: Mapping[str, object], name: str) -> float | None:
    """SQS sends numbers as text; None for what is missing or no number."""
    text = attributes.get(name)
    try:
        return int(text) if isinstance(text, (str, int)) else None
    except ValueError:
        return None


def _failures_in(given_back: object) -> int:
    if isinstance(given_back, Mapping):
        return len(given_back.get("batchItemFailures") or given_back.get("Failed") or ())
    return int(given_back)  # type: ignore[call-overload, no-any-return]  # what is no number raises


def _message_among(args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
    """The first argument that looks like a message; None if none does."""
    return next((each for each in (*args, *kwargs.values()) if _is_message(each)), None)


def _is_message(value: object) -> bool:
    if isinstance(value, Mapping):
        return not _MESSAGE_KEYS.isdisjoint(value)
    return hasattr(value, "receipt_handle")


def _is_async(function: object) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
