"""Dead letters are moved, not lost: whatever happens on the way, each is in at least one of the two queues."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from retainwise_metrics.cli import app as command_line
from retainwise_metrics.cli import replay_dlq
from retainwise_metrics.cli.redaction import redacted, redacted_fields
from retainwise_metrics.cli.replay_dlq import Filter, Letter, Letters, Limits, Log, Replay, Tally, find_queues
from retainwise_metrics.dimensions.policy import DimensionPolicy
from tests.cli.embedded_aws import bodies_in, end_hiding

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from retainwise_metrics.cli.access import Access
    from tests.cli.conftest import ManualClock
    from tests.cli.embedded_aws import Faults

QUEUE, DLQ = "predictions", "predictions-dlq"


@pytest.fixture
def fill(access: Access) -> Callable[..., list[str]]:
    """Make both queues and put jobs into the dead-letter queue; answers their bodies."""

    def put(number: int, *, fifo: str = "", **message: Any) -> list[str]:
        sqs = access.client("sqs")
        kind = {"FifoQueue": "true"} if fifo else {}
        dlq = sqs.create_queue(QueueName=DLQ + fifo, Attributes=kind)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=dlq, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 3})
        sqs.create_queue(QueueName=QUEUE + fifo, Attributes=kind | {"RedrivePolicy": redrive})
        bodies = [json.dumps({"upload": index, "kind": "odd" if index % 2 else "even"}) for index in range(number)]
        for start in range(0, number, 10):
            entries = [
                {"Id": str(index), "MessageBody": body, **_ordered(fifo, start + index), **message}
                for index, body in enumerate(bodies[start : start + 10])
            ]
            sqs.send_message_batch(QueueUrl=dlq, Entries=entries)
        return bodies

    return put


def _ordered(fifo: str, index: int) -> dict[str, str]:
    return {"MessageGroupId": f"g{index}", "MessageDeduplicationId": f"d{index}"} if fifo else {}


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    """Where replays of a test write."""
    return tmp_path / "replay.jsonl"


@pytest.fixture
def replay(access: Access, clock: ManualClock, log_path: Path) -> Callable[..., Tally]:
    """Move what there is, and return how it went."""

    def move(wanted: Filter | None = None, *, dlq: str = DLQ, **limits: Any) -> Tally:
        sqs = access.client("sqs")
        queues = find_queues(sqs, dlq, None, moving=True)
        earlier = log_path.read_text(encoding="utf-8").splitlines() if log_path.exists() else []
        with log_path.open("a", encoding="utf-8") as file:
            return Replay(
                sqs,
                queues,
                letters=Letters(sqs, queues.dlq_url, look_seconds=0),
                log=Log(file, clock, replay_dlq.unfinished_in(earlier)),
                clock=clock,
                run_id="run",
                limits=Limits(**limits),
                uninterrupted=nullcontext,
            ).run(wanted or Filter(), on_progress=lambda _: None)

    return move


def events(path: Path) -> Counter[str]:
    """How often each event is in a log."""
    return Counter(json.loads(line)["event"] for line in path.read_text(encoding="utf-8").splitlines())


class TestMoving:
    def test_a_thousand_letters(self, fill: Any, replay: Any, log_path: Path) -> None:
        """All arrive once, none stays, and the log has two lines for each."""
        bodies = fill(1000)
        assert replay() == Tally(moved=1000)
        assert sorted(bodies_in(QUEUE)) == sorted(bodies)
        assert bodies_in(DLQ) == []
        assert events(log_path) == {"accepted": 1000, "deleted": 1000}
        assert "upload" not in log_path.read_text(encoding="utf-8")

    def test_only_what_the_filter_means(self, fill: Any, replay: Any, access: Access) -> None:
        """The rest stays, and can be read again at once."""
        fill(40)
        assert replay(Filter(fields=(("kind", "odd"),))) == Tally(moved=20, passed_over=20)
        assert all('"odd"' in body for body in bodies_in(QUEUE))
        assert (
            len(
                list(
                    Letters(
                        access.client("sqs"),
                        find_queues(access.client("sqs"), DLQ, None, moving=False).dlq_url,
                        look_seconds=0,
                    ).batches()
                )
            )
            == 2
        )

    def test_no_more_than_the_limit(self, fill: Any, replay: Any) -> None:
        """A limit that is no multiple of a call's size is kept exactly."""
        fill(30)
        assert replay(letters=13).moved == 13
        assert (len(bodies_in(QUEUE)), len(bodies_in(DLQ))) == (13, 17)

    def test_at_a_rate(self, fill: Any, replay: Any, clock: ManualClock) -> None:
        """20 letters at 2 a second take 9 seconds: the last call does not wait for what follows it."""
        fill(20)
        started = clock.now()
        assert replay(per_second=2.0).moved == 20
        assert clock.now() - started == pytest.approx(9.0)

    def test_attributes_travel_along(self, fill: Any, replay: Any, access: Access) -> None:
        """A moved message has the attributes it was sent with, text and bytes."""
        attributes = {
            "Kind": {"DataType": "String", "StringValue": "csv"},
            "Raw": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
        }
        fill(1, MessageAttributes=attributes)
        replay()
        sqs = access.client("sqs")
        url = sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"]
        (message,) = sqs.receive_message(QueueUrl=url, MessageAttributeNames=["All"])["Messages"]
        assert message["MessageAttributes"]["Kind"]["StringValue"] == "csv"
        assert message["MessageAttributes"]["Raw"]["BinaryValue"] == b"\x00\xff"

    def test_first_in_first_out_queues(self, fill: Any, replay: Any, access: Access) -> None:
        """Letters of a FIFO queue keep their group, and are not taken for a repetition of themselves."""
        fill(3, fifo=".fifo")
        assert replay(dlq=f"{DLQ}.fifo").moved == 3
        assert len(bodies_in(f"{QUEUE}.fifo")) == 3


class TestTrouble:
    def test_a_queue_that_refuses_everything(self, fill: Any, replay: Any, faults: Faults, access: Access) -> None:
        """Nothing is deleted, the replay stops at once, and every letter can be read again."""
        fill(30)
        faults.refuse_send = "all"
        tally = replay()
        assert tally.moved == 0
        assert "the queue is being deleted" in tally.problem
        assert len(bodies_in(DLQ)) == 30
        faults.refuse_send = ""
        assert replay().moved == 30

    def test_a_queue_that_refuses_some(self, fill: Any, replay: Any, faults: Faults, log_path: Path) -> None:
        """What is refused stays a dead letter; the others are moved; the log says why."""
        fill(20)
        faults.refuse_send = '"odd"'
        tally = replay()
        assert (tally.moved, tally.refused, tally.fine) == (10, 10, False)
        assert all('"odd"' in body for body in bodies_in(DLQ))
        assert "InvalidMessageContents" in log_path.read_text(encoding="utf-8")

    def test_ten_refusals_in_a_row_stop_the_replay(self, fill: Any, replay: Any, faults: Faults) -> None:
        """A queue that refuses one message after another is not tried a thousand times."""
        fill(50)
        faults.refuse_send = "upload"
        tally = replay()
        assert tally.refused == replay_dlq.REFUSALS_IN_A_ROW
        assert "refused 10 messages in a row" in tally.problem

    def test_a_wrong_checksum_is_a_refusal(self, fill: Any, replay: Any, faults: Faults) -> None:
        """A queue that says it has something else has not accepted the letter."""
        bodies = fill(3)
        faults.garble = True
        assert replay().refused == 3
        assert sorted(bodies_in(DLQ)) == sorted(bodies)

    def test_letters_that_cannot_be_deleted_are_not_sent_twice(
        self, fill: Any, replay: Any, faults: Faults, log_path: Path
    ) -> None:
        """The next run with the same log deletes what the queue has already."""
        bodies = fill(20)
        faults.refuse_delete = True
        assert replay().left_over == 20
        assert len(bodies_in(DLQ)) == 20
        faults.refuse_delete = False
        assert replay() == Tally(finished=20)
        assert sorted(bodies_in(QUEUE)) == sorted(bodies)
        assert bodies_in(DLQ) == []

    def test_a_kill_between_sending_and_deleting_loses_nothing(
        self, fill: Any, replay: Any, faults: Faults, log_path: Path
    ) -> None:
        """After SIGKILL each of 1,000 letters is somewhere; the next run with the same log leaves each exactly once."""
        bodies = fill(1000)
        faults.accepted, faults.enough = 0, 300
        process = subprocess.Popen(
            [sys.executable, "-m", "retainwise_metrics", "replay-dlq", "--dlq", DLQ, "--log", str(log_path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with process:
            assert faults.many_accepted.wait(60), "the replay never came this far"
            process.kill()
            process.wait(10)
        faults.enough = 0
        faults.killed.set()
        moved, dead = bodies_in(QUEUE), bodies_in(DLQ)
        assert process.returncode == -signal.SIGKILL
        assert set(moved) | set(dead) == set(bodies)
        assert (len(moved), len(dead)) == (300, 710)
        end_hiding(DLQ)
        assert replay() == Tally(moved=700, finished=10)
        assert sorted(bodies_in(QUEUE)) == sorted(bodies)
        assert bodies_in(DLQ) == []

    def test_an_interrupt_between_two_calls(self, fill: Any, replay: Any, clock: ManualClock, access: Access) -> None:
        """Ctrl-C while waiting for the rate: what was sent is deleted, the rest can be read at once."""
        fill(20)

        def interrupt() -> None:
            raise KeyboardInterrupt

        clock.on_wait = lambda: interrupt() if len(bodies_in(QUEUE)) == 6 else None
        with pytest.raises(KeyboardInterrupt):
            replay(per_second=2.0)
        assert (len(bodies_in(QUEUE)), len(bodies_in(DLQ))) == (6, 14)
        clock.on_wait = lambda: None
        assert replay().moved == 14

    @pytest.mark.parametrize(
        ("lines", "unfinished"),
        [
            ([], {}),
            (['{"event": "accepted", "message_id": "a", "new_message_id": "b"}'], {"a": "b"}),
            (['{"event": "accepted", "message_id": "a"}', '{"event": "deleted", "message_id": "a"}'], {}),
            (['{"event": "accepted", "message_id": "a"}', '{"event": "not deleted", "message_id": "a"}'], {"a": ""}),
            (['{"event": "refused", "message_id": "a"}', '{"event": "acc', "7", "[]"], {}),
        ],
    )
    def test_logs_say_what_is_unfinished(self, lines: list[str], unfinished: dict[str, str]) -> None:
        """Accepted and not deleted; a line that was cut off says nothing."""
        assert replay_dlq.unfinished_in(lines) == unfinished


class TestQueues:
    def test_a_missing_one_is_named(self, access: Access) -> None:
        """A misspelt name is said to be missing."""
        with pytest.raises(replay_dlq.UnusableQueueError, match="queue nope does not exist"):
            find_queues(access.client("sqs"), "nope", None, moving=True)

    def test_the_same_twice_is_refused(self, access: Access, fill: Any) -> None:
        """Moving dead letters to themselves would never end."""
        fill(0)
        with pytest.raises(replay_dlq.UnusableQueueError, match="as queue and as dead-letter queue"):
            find_queues(access.client("sqs"), DLQ, DLQ, moving=True)

    def test_one_with_dead_letters_of_its_own_is_refused(self, access: Access, fill: Any) -> None:
        """Reading a queue that has a redrive policy can move its messages: that is the working queue."""
        fill(0)
        with pytest.raises(replay_dlq.UnusableQueueError, match="has a dead-letter queue itself"):
            find_queues(access.client("sqs"), QUEUE, None, moving=False)

    def test_an_ambiguous_one_must_be_named(self, access: Access) -> None:
        """Without a queue that points here, or with two, there is no default."""
        access.client("sqs").create_queue(QueueName=DLQ)
        with pytest.raises(replay_dlq.UnusableQueueError, match="0 queues have predictions-dlq"):
            find_queues(access.client("sqs"), DLQ, None, moving=True)


def letter(body: str = "{}", *, sent: float = 0.0, message_id: str = "m") -> Letter:
    """A dead letter."""
    return Letter(message_id, "receipt", body, "", {}, {"SentTimestamp": str(int(sent * 1000))})


class TestPureParts:
    @pytest.mark.parametrize(
        ("wanted", "matches"),
        [
            (Filter(), True),
            (Filter(message_ids=frozenset({"m"})), True),
            (Filter(message_ids=frozenset({"other"})), False),
            (Filter(contains="u-1"), True),
            (Filter(contains="u-2"), False),
            (Filter(fields=(("id", "u-1"), ("try", "3"))), True),
            (Filter(fields=(("try", "4"),)), False),
            (Filter(fields=(("missing", "null"),)), False),
            (Filter(older_than_seconds=100), True),
            (Filter(older_than_seconds=101), False),
            (Filter(newer_than_seconds=100), True),
            (Filter(newer_than_seconds=99), False),
        ],
    )
    def test_filters(self, wanted: Filter, matches: bool) -> None:
        """Everything given must hold; ages include their limit."""
        assert wanted.matches(letter('{"id": "u-1", "try": 3}', sent=900.0), now=1000.0) is matches

    def test_fields_of_what_is_not_json_match_nothing(self) -> None:
        """A filter by field passes over texts and lists."""
        wanted = Filter(fields=(("a", "1"),))
        assert not any(wanted.matches(letter(body), now=0.0) for body in ("text", "[1]", "{"))

    def test_calls_stay_within_the_limits(self) -> None:
        """A call has at most 10 letters and 256 KiB; a letter that is too large is alone."""
        sizes = [len(group) for group in replay_dlq.grouped([letter("x" * 100_000)] * 5)]
        assert sizes == [2, 2, 1]
        assert [len(group) for group in replay_dlq.grouped([letter()] * 25)] == [10, 10, 5]
        assert [len(group) for group in replay_dlq.grouped([letter("x" * 300_000), letter()])] == [1, 1]

    @pytest.mark.parametrize(
        ("moved", "elapsed", "rate", "seconds"),
        [(0, 0.0, 5.0, 0.0), (10, 0.0, 5.0, 2.0), (10, 1.5, 5.0, 0.5), (10, 9.0, 5.0, 0.0), (10, 0.0, None, 0.0)],
    )
    def test_pauses(self, moved: int, elapsed: float, rate: float | None, seconds: float) -> None:
        """A replay that is too early waits for the difference, and one that is late does not."""
        assert replay_dlq.pause(moved, elapsed, rate) == seconds


class TestRedaction:
    POLICY = DimensionPolicy()

    def show(self, body: object) -> Any:
        """The body as it is shown."""
        return json.loads(redacted(json.dumps(body), self.POLICY))

    def test_harmless_fields_are_shown(self) -> None:
        """What helps to find the fault stays readable, numbers stay numbers."""
        body = {"kind": "csv", "attempt": 3, "dry": False, "note": None, "empty": "", "parts": [1, 2]}
        assert self.show(body) == body

    def test_personal_fields_are_hashed_however_deep(self) -> None:
        """Names that say so, values that look so, and everything under a personal name."""
        shown = json.dumps(
            self.show(
                {
                    "user_id": "user_123",
                    "note": "write to jane@example.com",
                    "user": {"first": "Jane", "tags": ["vip"]},
                    "rows": [{"Email": "joe@example.com"}],
                    "Message": json.dumps({"customerName": "Jo Doe"}),
                    "jane@example.com": 1,
                }
            )
        )
        assert not [text for text in ("123", "jane", "Jane", "vip", "joe", "Doe") if text in shown]
        assert shown.count("bucket-") == 6

    def test_what_cannot_be_judged_is_hidden(self) -> None:
        """Long texts and letters outside ASCII are not shown, because no rule has looked at them."""
        assert self.show({"a": "ü", "b": "x" * 2000}) == {
            "a": "[hidden: 1 characters]",
            "b": "[hidden: 2000 characters]",
        }

    def test_texts_that_are_not_json(self) -> None:
        """A plain body is judged as a whole."""
        assert redacted("please retry", self.POLICY) == "please retry"
        assert redacted("mail jane@example.com", self.POLICY).startswith("bucket-")
        assert redacted("{broken, jane@example.com", self.POLICY).startswith("bucket-")

    def test_message_attributes(self) -> None:
        """Attributes follow the same rules."""
        assert redacted_fields({"Kind": "csv", "Email": "x"}, self.POLICY)["Kind"] == "csv"
        assert redacted_fields({"Email": "x"}, self.POLICY)["Email"].startswith("bucket-")


class TestCommandLine:
    def invoke(self, *arguments: str) -> Any:
        """Run the verb in this process."""
        return CliRunner().invoke(command_line.app, ["replay-dlq", "--dlq", DLQ, *arguments], env={"COLUMNS": "80"})

    def test_lists(self, endpoint: str, fill: Any) -> None:
        """One row per message in 80 columns; nothing is moved."""
        fill(3)
        done = self.invoke("--list", "--limit", "3")
        assert done.exit_code == 0, done.output
        assert "3 messages" in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 80
        assert len(bodies_in(DLQ)) == 3

    def test_shows_redacted(self, endpoint: str, fill: Any) -> None:
        """Bodies and attributes are shown without personal data."""
        fill(1, MessageAttributes={"Email": {"DataType": "String", "StringValue": "jane@example.com"}})
        done = self.invoke("--show", "--limit", "1")
        assert '"kind": "even"' in done.stdout
        assert "Email: bucket-" in done.stdout
        assert "jane" not in done.stdout

    def test_reveals_what_is_asked_for(self, endpoint: str, fill: Any, access: Access) -> None:
        """The id that finds the job in the worker's log can be shown; everything else stays hidden."""
        fill(0)
        url = access.client("sqs").get_queue_url(QueueName=DLQ)["QueueUrl"]
        access.client("sqs").send_message(QueueUrl=url, MessageBody='{"upload_id": "u-4711", "user_id": "jane"}')
        hidden = self.invoke("--show", "--limit", "1").stdout
        assert "4711" not in hidden
        shown = self.invoke("--show", "--limit", "1", "--reveal", "upload_id").stdout
        assert '"upload_id": "u-4711"' in shown
        assert "jane" not in shown

    def test_rehearses(self, endpoint: str, fill: Any) -> None:
        """A dry run says what would be moved where, and moves nothing."""
        fill(2)
        done = self.invoke("--dry-run", "--limit", "2")
        assert "2 messages would be moved to predictions" in done.stdout
        assert (len(bodies_in(DLQ)), bodies_in(QUEUE)) == (2, [])

    def test_moves(self, endpoint: str, fill: Any, log_path: Path) -> None:
        """The summary, the log and the exit code say that all went well; a log cut off by a kill is gone on with."""
        fill(2)
        log_path.write_text('{"event": "acc', encoding="utf-8")
        done = self.invoke("--limit", "2", "--log", str(log_path))
        assert done.exit_code == 0, done.output
        assert "2 moved" in done.stdout
        assert len(log_path.read_text(encoding="utf-8").splitlines()) == 5

    def test_says_with_the_exit_code_that_something_is_left(
        self, endpoint: str, fill: Any, faults: Faults, log_path: Path
    ) -> None:
        """A queue that refuses makes the exit code 1, and the reason is shown."""
        fill(2)
        faults.refuse_send = "all"
        done = self.invoke("--limit", "2", "--log", str(log_path))
        assert done.exit_code == command_line.TO_DO
        assert "Stopped early" in done.stdout

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--list", "--show"), "choose one of"),
            (("--older-than", "soon"), "is not a duration"),
            (("--field", "kind"), "write NAME=VALUE"),
            ((), "does not exist here"),
        ],
    )
    def test_explains_what_it_cannot_do(self, endpoint: str, arguments: tuple[str, ...], said: str) -> None:
        """Wrong options and wrong names end with a sentence, not a traceback."""
        done = self.invoke(*arguments)
        assert done.exit_code == command_line.IMPOSSIBLE
        assert said in " ".join(done.stderr.replace("│", " ").split())

    def test_asks_before_it_moves_anything_elsewhere(
        self, endpoint: str, fill: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where nobody can be asked, another machine's messages stay where they are."""
        fill(1)
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "https://kms.example.com")
        assert self.invoke().exit_code == command_line.IMPOSSIBLE
        assert len(bodies_in(DLQ)) == 1
