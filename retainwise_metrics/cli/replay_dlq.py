"""
Dead letters: look at them, and move them back to the queue they came from.

1. A message is deleted from the dead-letter queue only after the queue has said that it has it, with the same checksum.
2. So whatever happens in between, a kill included, a message is in at least one of the two queues. A kill between the
   two steps leaves it in both: the log says which, and the next run with the same log deletes those and sends them no
   second time. A duplicate remains only where the log cannot know: the queue's answer was lost on its way, or the kill
   came in the instant between answer and log. Workers must cope with one anyway: SQS delivers at least once.
3. What is only looked at is hidden from other readers for `HOLD_SECONDS` at most, and made visible again at the end.
"""

from __future__ import annotations

import json
import os
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from typing import IO

    from retainwise_metrics.cli.clock import Clock

MESSAGES_PER_CALL: Final = 10
"""Most messages SQS takes, gives or deletes in one call."""

BYTES_PER_CALL: Final = 262_144
"""Most bytes of one `SendMessageBatch` that every queue takes; newer ones may take more."""

HOLD_SECONDS: Final = 300
"""How long a message that was looked at stays hidden from other readers if nobody makes it visible again."""

LOOK_SECONDS: Final = 1
"""Long polling: without it SQS asks only some of its servers, and messages seem to be missing."""

EMPTY_LOOKS: Final = 2
"""Empty answers in a row after which a queue is taken to be empty."""

REFUSALS_IN_A_ROW: Final = 10
"""Messages refused one after another after which the queue itself is taken to be the cause."""


class Queues(NamedTuple):
    """
    From where to where.

    Attributes:
        dlq_url: The dead-letter queue.
        queue_url: The queue jobs are taken from; empty when messages are only looked at.
        waiting: Messages in the dead-letter queue, about: SQS counts approximately.
        fifo: Whether both keep an order.
    """

    dlq_url: str
    queue_url: str
    waiting: int
    fifo: bool


class UnusableQueueError(Exception):
    """
    The queues named cannot be worked on; the message says why and what to do.
    """


class Letter(NamedTuple):
    """
    A dead letter.

    Attributes:
        message_id: Its id, which SQS keeps when it moves a message to the dead-letter queue.
        receipt: What deletes it.
        body: Text.
        checksum: MD5 of the body in hexadecimal, as SQS computes it.
        attributes: Message attributes, as `SendMessage` takes them.
        system: Attributes SQS keeps: `SentTimestamp` in milliseconds, `ApproximateReceiveCount`, `MessageGroupId`, ...
    """

    message_id: str
    receipt: str
    body: str
    checksum: str
    attributes: dict[str, dict[str, Any]]
    system: dict[str, str]

    @property
    def sent(self) -> float:
        """When it was sent first, in seconds since 1970; 0 when SQS does not say."""
        return int(self.system.get("SentTimestamp", 0)) / 1000

    @property
    def size(self) -> int:
        """Bytes that count against the limit of a call, about: body and attributes."""
        return len(self.body.encode()) + len(json.dumps(self.attributes, default=repr))


class Filter(NamedTuple):
    """
    Which dead letters are meant; everything given must hold.

    Attributes:
        message_ids: One of these; empty: any.
        contains: Text in the body; empty: any.
        fields: Values of top-level fields of a JSON body, by name.
        older_than_seconds: Sent at least so long ago. None: whenever.
        newer_than_seconds: Sent at most so long ago. None: whenever.
    """

    message_ids: frozenset[str] = frozenset()
    contains: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    older_than_seconds: float | None = None
    newer_than_seconds: float | None = None

    def matches(self, letter: Letter, *, now: float) -> bool:
        """
        Decide about one letter.

        Args:
            letter: The letter.
            now: Seconds since 1970.

        Returns:
            True when it is meant.
        """
        age = now - letter.sent
        return (
            (not self.message_ids or letter.message_id in self.message_ids)
            and self.contains in letter.body
            and (self.older_than_seconds is None or age >= self.older_than_seconds)
            and (self.newer_than_seconds is None or age <= self.newer_than_seconds)
            and (not self.fields or _has_fields(letter.body, self.fields))
        )


def _has_fields(body: str, fields: Iterable[tuple[str, str]]) -> bool:
    try:
        job = json.loads(body)
    except ValueError:
        return False
    return isinstance(job, dict) and all(name in job and _as_text(job[name]) == value for name, value in fields)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def find_queues(sqs: Any, dlq: str, queue: str | None, *, moving: bool) -> Queues:
    """
    Find the two queues and see that they belong together.

    Args:
        sqs: A boto3 client.
        dlq: Name or URL of the dead-letter queue.
        queue: Name or URL of the queue. None: the one that has `dlq` as its dead-letter queue.
        moving: Whether messages will be moved; else the queue is not needed.

    Returns:
        The queues.

    Raises:
        UnusableQueueError: One does not exist or cannot be meant.
    """
    dlq_url = _url(sqs, dlq)
    told = sqs.get_queue_attributes(QueueUrl=dlq_url, AttributeNames=["All"])["Attributes"]
    if told.get("RedrivePolicy"):
        message = f"{dlq} has a dead-letter queue itself: reading its messages may move them there; remove that first"
        raise UnusableQueueError(message)
    queue_url = ""
    if moving:
        queue_url = _url(sqs, queue) if queue else _source_of(sqs, dlq, dlq_url)
        if queue_url == dlq_url:
            message = f"{dlq} is given as queue and as dead-letter queue; give the queue the worker reads as --queue"
            raise UnusableQueueError(message)
    return Queues(dlq_url, queue_url, int(told["ApproximateNumberOfMessages"]), told.get("FifoQueue") == "true")


def _url(sqs: Any, name: str) -> str:
    if "://" in name:
        return name
    try:
        return str(sqs.get_queue_url(QueueName=name)["QueueUrl"])
    except sqs.exceptions.QueueDoesNotExist:
        message = f"queue {name} does not exist here: compare name, account and region"
        raise UnusableQueueError(message) from None


def _source_of(sqs: Any, dlq: str, dlq_url: str) -> str:
    pages = sqs.get_paginator("list_dead_letter_source_queues").paginate(QueueUrl=dlq_url)
    urls = [str(url) for page in pages for url in page.get("queueUrls", ())]
    if len(urls) != 1:
        message = f"{len(urls)} queues have {dlq} as their dead-letter queue; say with --queue which one is meant"
        raise UnusableQueueError(message)
    return urls[0]


class Letters:
    """
    Reads a dead-letter queue once through, without deleting anything.
    """

    def __init__(self, sqs: Any, url: str, *, look_seconds: int = LOOK_SECONDS) -> None:
        """
        Note what to read; nothing is read yet.

        Args:
            sqs: A boto3 client.
            url: The dead-letter queue.
            look_seconds: How long one call waits for messages.
        """
        self._sqs = sqs
        self._url = url
        self._look_seconds = look_seconds
        self._seen: dict[str, str] = {}
        self._held: dict[str, str] = {}

    def batches(self) -> Iterator[list[Letter]]:
        """
        Read on until the queue is empty or shows only what was there before.

        Yields:
            Up to 10 letters, none twice. They stay hidden until `let_go`, or `HOLD_SECONDS`.
        """
        fruitless = 0
        while fruitless < EMPTY_LOOKS:
            letters = [_letter(raw) for raw in self._receive()]
            new = [letter for letter in letters if letter.message_id not in self._seen]
            for letter in letters:
                self._seen[letter.message_id] = self._held[letter.message_id] = letter.receipt
            fruitless = 0 if new else fruitless + 1
            if new:
                yield new

    def delete(self, letters: Sequence[Letter]) -> set[str]:
        """
        Delete letters from the queue.

        Args:
            letters: At most 10.

        Returns:
            Ids of those that are deleted.
        """
        if not letters:
            return set()
        entries = [
            {"Id": str(index), "ReceiptHandle": self._seen[letter.message_id]} for index, letter in enumerate(letters)
        ]
        answer = self._sqs.delete_message_batch(QueueUrl=self._url, Entries=entries)
        gone = {letters[int(each["Id"])].message_id for each in answer.get("Successful", ())}
        for message_id in gone:
            self._held.pop(message_id, None)
        return gone

    def let_go(self) -> None:
        """
        Make everything that was read and not deleted visible again.
        """
        receipts = list(self._held.values())
        self._held.clear()
        for start in range(0, len(receipts), MESSAGES_PER_CALL):
            entries = [
                {"Id": str(index), "ReceiptHandle": receipt, "VisibilityTimeout": 0}
                for index, receipt in enumerate(receipts[start : start + MESSAGES_PER_CALL])
            ]
            self._sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)

    def _receive(self) -> Sequence[dict[str, Any]]:
        answer = self._sqs.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=MESSAGES_PER_CALL,
            VisibilityTimeout=HOLD_SECONDS,
            WaitTimeSeconds=self._look_seconds,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
        )
        return list(answer.get("Messages", ()))


def _letter(raw: dict[str, Any]) -> Letter:
    attributes = {
        name: {key: value for key, value in given.items() if key in {"DataType", "StringValue", "BinaryValue"}}
        for name, given in raw.get("MessageAttributes", {}).items()
    }
    return Letter(
        message_id=raw["MessageId"],
        receipt=raw["ReceiptHandle"],
        body=raw["Body"],
        checksum=raw["MD5OfBody"],
        attributes=attributes,
        system=raw.get("Attributes", {}),
    )


class Event(str, Enum):
    """
    What happened to a letter; the words of the log.
    """

    ACCEPTED = "accepted"
    DELETED = "deleted"
    REFUSED = "refused"
    NOT_DELETED = "not deleted"


class Log:
    """
    What was moved, one JSON object a line: ids and times, never a body.
    """

    def __init__(self, file: IO[str], clock: Clock, unfinished: dict[str, str] | None = None) -> None:
        """
        Go on with a log.

        Args:
            file: Opened for appending.
            clock: Tells the time.
            unfinished: From `unfinished_in`.
        """
        self._file = file
        self._clock = clock
        self.unfinished = unfinished or {}

    def write(self, event: Event, letter: Letter, *, now_called: str = "", why: str = "") -> None:
        """
        Write a line; it is on the disk before anything else happens.

        Args:
            event: What happened.
            letter: To which letter.
            now_called: Its id in the queue it was moved to.
            why: What AWS said, when it refused.
        """
        line = {"time": self._clock.now(), "event": event.value, "message_id": letter.message_id}
        extra = {"new_message_id": now_called, "why": why}
        self._file.write(json.dumps(line | {name: value for name, value in extra.items() if value}) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """
        See that what was written survives a crash of the machine.
        """
        os.fsync(self._file.fileno())


def unfinished_in(lines: Iterable[str]) -> dict[str, str]:
    """
    Read from an earlier log what was accepted by the queue and not deleted from the dead letters.

    Args:
        lines: Of a log; a last line that was cut off by a kill is not looked at.

    Returns:
        New ids by message id.
    """
    unfinished: dict[str, str] = {}
    for line in lines:
        try:
            told = json.loads(line)
            event, message_id = told["event"], told["message_id"]
        except (ValueError, KeyError, TypeError):
            continue
        if event == Event.ACCEPTED.value:
            unfinished[message_id] = told.get("new_message_id", "")
        elif event == Event.DELETED.value:
            unfinished.pop(message_id, None)
    return unfinished


class Tally(NamedTuple):
    """
    How a replay went, in letters.

    Attributes:
        moved: Accepted by the queue and deleted.
        finished: Accepted by the queue in an earlier run, deleted in this one.
        refused: Not accepted; still dead letters.
        left_over: Accepted, but not deleted: in both queues. The next run with the same log deletes them.
        passed_over: Not meant by the filter; still dead letters.
        problem: Why the replay stopped early; empty when it did not.
    """

    moved: int = 0
    finished: int = 0
    refused: int = 0
    left_over: int = 0
    passed_over: int = 0
    problem: str = ""

    @property
    def fine(self) -> bool:
        """Whether nothing has to be done."""
        return not (self.refused or self.left_over or self.problem)


class Limits(NamedTuple):
    """
    How much, how fast.

    Attributes:
        letters: Most letters to move. None: all.
        per_second: Most letters a second. None: as fast as it goes.
    """

    letters: int | None = None
    per_second: float | None = None


class Replay:
    """
    Moves letters back to the queue.
    """

    def __init__(
        self,
        sqs: Any,
        queues: Queues,
        *,
        letters: Letters,
        log: Log,
        clock: Clock,
        run_id: str,
        limits: Limits | None = None,
        uninterrupted: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """
        Note what to work with; nothing is read yet.

        Args:
            sqs: A boto3 client.
            queues: From `find_queues`.
            letters: The dead letters.
            log: Where every step is written.
            clock: How to wait.
            run_id: Tells this run from every other; a FIFO queue takes the same letter once per run.
            limits: How much, how fast. None: everything, as fast as it goes.
            uninterrupted: Makes what runs inside it run to its end.
        """
        self._sqs = sqs
        self._queues = queues
        self._letters = letters
        self._log = log
        self._clock = clock
        self._run_id = run_id
        self._limits = limits or Limits()
        self._uninterrupted = uninterrupted
        self._refused_in_a_row = 0
        self.tally = Tally()

    def run(self, wanted: Filter, *, on_progress: Callable[[int], None]) -> Tally:
        """
        Move what the filter means until there is no more, or the limit is reached.

        Args:
            wanted: Which letters.
            on_progress: Told how many letters have been dealt with, after each call.

        Returns:
            How it went; `tally` has it while this runs, and after an interrupt.

        Raises:
            KeyboardInterrupt: Ctrl-C, between two calls; nothing is half done.
        """
        started = self._clock.now()
        try:
            for batch in self._letters.batches():
                self._move_some(batch, wanted, started)
                on_progress(sum(self.tally[:5]))
                if self.tally.problem or self._room() == 0:
                    break
        except (BotoCoreError, ClientError) as error:
            self.tally = self.tally._replace(problem=str(error))
        finally:
            with self._uninterrupted():
                self._letters.let_go()
        return self.tally

    def _move_some(self, batch: Sequence[Letter], wanted: Filter, started: float) -> None:
        earlier = [letter for letter in batch if letter.message_id in self._log.unfinished]
        with self._uninterrupted():
            self._finish(earlier)
        rest = [letter for letter in batch if letter.message_id not in self._log.unfinished]
        meant = [letter for letter in rest if wanted.matches(letter, now=self._clock.now())]
        self._count(passed_over=len(rest) - len(meant))
        for group in grouped(meant[: self._room()], most=self._most_at_once()):
            self._clock.wait(pause(self.tally.moved, self._clock.now() - started, self._limits.per_second))
            with self._uninterrupted():
                self._delete(self._send(group))
            if self.tally.problem:
                return

    def _room(self) -> int | None:
        """How many letters may still be moved."""
        most = self._limits.letters
        return None if most is None else max(0, most - self.tally.moved - self.tally.left_over)

    def _most_at_once(self) -> int:
        """A rate of less than 10 a second takes smaller calls, so that it is one and not a burst."""
        rate = self._limits.per_second
        return MESSAGES_PER_CALL if rate is None else max(1, min(MESSAGES_PER_CALL, int(rate)))

    def _send(self, letters: Sequence[Letter]) -> list[Letter]:
        """Send letters to the queue; answers those it has."""
        entries = [self._entry(index, letter) for index, letter in enumerate(letters)]
        answer = self._sqs.send_message_batch(QueueUrl=self._queues.queue_url, Entries=entries)
        taken: list[Letter] = []
        for each in answer.get("Successful", ()):
            letter = letters[int(each["Id"])]
            if each["MD5OfMessageBody"] == letter.checksum:
                self._log.write(Event.ACCEPTED, letter, now_called=each["MessageId"])
                taken.append(letter)
        self._log.sync()
        said = {int(each["Id"]): f"{each['Code']}: {each.get('Message', '')}" for each in answer.get("Failed", ())}
        for index, letter in enumerate(letters):
            if letter not in taken:
                self._log.write(Event.REFUSED, letter, why=said.get(index, "the queue's checksum differs"))
        self._note_refusals(len(letters) - len(taken), said, taken_any=bool(taken))
        return taken

    def _note_refusals(self, refused: int, said: dict[int, str], *, taken_any: bool) -> None:
        self._count(refused=refused)
        self._refused_in_a_row = 0 if taken_any else self._refused_in_a_row + refused
        if self._refused_in_a_row >= REFUSALS_IN_A_ROW:
            why = next(iter(said.values()), "the queue's checksums differ")
            problem = f"the queue refused {self._refused_in_a_row} messages in a row, the last with {why}"
            self.tally = self.tally._replace(problem=problem)

    def _entry(self, index: int, letter: Letter) -> dict[str, Any]:
        entry: dict[str, Any] = {"Id": str(index), "MessageBody": letter.body}
        if letter.attributes:
            entry["MessageAttributes"] = letter.attributes
        trace = letter.system.get("AWSTraceHeader")
        if trace:
            entry["MessageSystemAttributes"] = {"AWSTraceHeader": {"DataType": "String", "StringValue": trace}}
        if self._queues.fifo:
            entry["MessageGroupId"] = letter.system["MessageGroupId"]
            # Not the id it had: within five minutes of that one the queue would say yes and throw the message away.
            entry["MessageDeduplicationId"] = f"{self._run_id}-{letter.message_id}"
        return entry

    def _delete(self, letters: Sequence[Letter]) -> None:
        """Delete letters the queue has; a letter that cannot be deleted is written down."""
        gone = self._deleted(letters)
        self._count(moved=len(gone), left_over=len(letters) - len(gone))

    def _finish(self, letters: Sequence[Letter]) -> None:
        """Delete letters that an earlier run sent and could not delete."""
        gone = self._deleted(letters)
        self._count(finished=len(gone), left_over=len(letters) - len(gone))

    def _deleted(self, letters: Sequence[Letter]) -> set[str]:
        gone: set[str] = set()
        why = ""
        try:
            gone = self._letters.delete(letters)
        except (BotoCoreError, ClientError) as error:
            why = str(error)
            problem = f"moved letters cannot be deleted ({why}); run again with the same log to delete them"
            self.tally = self.tally._replace(problem=problem)
        for letter in letters:
            event = Event.DELETED if letter.message_id in gone else Event.NOT_DELETED
            self._log.write(event, letter, why=why)
        return gone

    def _count(self, **more: int) -> None:
        counted = self.tally._asdict()
        self.tally = self.tally._replace(**{name: counted[name] + number for name, number in more.items()})


def grouped(letters: Iterable[Letter], *, most: int = MESSAGES_PER_CALL) -> Iterator[list[Letter]]:
    """
    Cut letters into calls.

    Args:
        letters: In any number.
        most: Most letters of one call.

    Yields:
        Groups within SQS's limits, in order; a letter that is too large on its own is a group of its own.
    """
    group: list[Letter] = []
    for letter in letters:
        if group and (len(group) >= most or sum(each.size for each in group) + letter.size > BYTES_PER_CALL):
            yield group
            group = []
        group.append(letter)
    if group:
        yield group


def pause(moved: int, elapsed_seconds: float, per_second: float | None) -> float:
    """
    Find how long to wait so that a rate is kept.

    Args:
        moved: Letters moved so far.
        elapsed_seconds: Since the first one.
        per_second: The rate. None: none.

    Returns:
        Seconds, at least 0.
    """
    return max(0.0, moved / per_second - elapsed_seconds) if per_second else 0.0


def look(letters: Letters, wanted: Filter, *, now: float, most: int | None) -> Iterator[Letter]:
    """
    Read letters without moving any.

    Args:
        letters: The dead letters; made visible again when this ends.
        wanted: Which of them.
        now: Seconds since 1970.
        most: How many. None: all.

    Yields:
        Letters the filter means.
    """
    found = 0
    try:
        for batch in letters.batches():
            for letter in batch:
                if wanted.matches(letter, now=now):
                    found += 1
                    yield letter
                    if found == most:
                        return
    finally:
        letters.let_go()
