"""A drill tells the truth about an alarm, and leaves it as it was."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from retainwise_metrics.cli import app as command_line
from retainwise_metrics.cli import drill
from retainwise_metrics.cli.access import is_loopback
from retainwise_metrics.cli.alarms import Alarm, read_alarms, voice_of
from retainwise_metrics.cli.clock import SystemClock
from retainwise_metrics.cli.drill import Drill, Outcome, Result, Wanted, make_plans
from retainwise_metrics.cli.interrupts import Interrupts
from retainwise_metrics.cli.probe import Probes
from tests.cli.embedded_aws import KMS_ERROR, UNCONFIRMED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from retainwise_metrics.cli.access import Access
    from tests.cli.conftest import ManualClock
    from tests.cli.embedded_aws import Faults, Shims

ID = "drill-20270115-080000-beef"
MISSING_TOPIC = "arn:aws:sns:us-east-1:123456789012:gone"


@pytest.fixture
def run(access: Access, clock: ManualClock) -> Callable[..., list[Result]]:
    """Drill alarms and return the results."""

    def drill_them(*names: str, probes: Probes | None = None, **wanted: Any) -> list[Result]:
        cloudwatch = access.client("cloudwatch")
        plans = make_plans(cloudwatch, access.client("sns"), Wanted(names, **wanted))
        runner = Drill(cloudwatch, drill_id=ID, operator="ann", clock=clock, probes=probes)
        results: list[Result] = []
        runner.run(plans, on_result=results.append)
        return results

    return drill_them


def state_of(access: Access, name: str) -> str:
    """The state of an alarm now."""
    return read_alarms(access.client("cloudwatch"), names=[name])[0].state


class TestOneAlarm:
    def test_is_raised_and_set_back(self, run: Any, access: Access, make_alarm: Any, shims: Shims) -> None:
        """A healthy alarm is proven by its history, which names the drill, and is left as it was."""
        name = make_alarm("dlq-messages-present")
        (result,) = run(name)
        assert (result.note, result.outcome, result.restored, result.severity) == ("", Outcome.PROVEN, "OK", "critical")
        assert result.action_seconds == 0.0
        assert state_of(access, name) == "OK"
        raised, over = (json.loads(item["HistoryData"]) for item in shims.history[name])
        assert f"DRILL {ID} by ann" in raised["publishedMessage"]
        assert "it is over" in over["publishedMessage"]

    def test_that_does_not_exist_fails(self, run: Any, make_alarm: Any) -> None:
        """A misspelt name is said to be missing, and the others are drilled."""
        name = make_alarm("worker-heartbeat-missing")
        missing, there = run("retainwise-typo", name)
        assert missing.outcome is Outcome.FAILED
        assert "does not exist" in missing.note
        assert there.outcome is Outcome.PROVEN

    def test_with_a_missing_topic_fails_untouched(self, run: Any, access: Access, make_alarm: Any) -> None:
        """An action that points nowhere is found before the alarm is raised."""
        name = make_alarm("a", AlarmActions=[MISSING_TOPIC])
        (result,) = run(name)
        assert result.outcome is Outcome.FAILED
        assert "topic gone does not exist" in result.note
        assert result.restored == ""

    def test_with_disabled_actions_fails_untouched(self, run: Any, make_alarm: Any, shims: Shims) -> None:
        """Disabled actions are named together with the command that enables them."""
        (result,) = run(make_alarm("a", ActionsEnabled=False))
        assert result.outcome is Outcome.FAILED
        assert "enable-alarm-actions --alarm-names retainwise-a" in result.note
        assert not shims.faults.raised.is_set()

    def test_that_is_really_firing_is_not_faked(self, run: Any, access: Access, make_alarm: Any) -> None:
        """An alarm in ALARM is refused and stays in ALARM, with its own reason."""
        name = make_alarm("a")
        access.client("cloudwatch").set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="Threshold Crossed")
        (result,) = run(name)
        assert result.outcome is Outcome.REFUSED
        assert "really firing" in result.note
        assert state_of(access, name) == "ALARM"

    def test_left_in_alarm_by_a_killed_drill_is_told_apart(self, run: Any, access: Access, make_alarm: Any) -> None:
        """What a killed drill left behind is not taken for a fault; the note says how to set it back."""
        name = make_alarm("a")
        access.client("cloudwatch").set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="DRILL x by y")
        (result,) = run(name)
        assert "drill that was killed" in result.note
        assert "set-alarm-state --alarm-name retainwise-a --state-value OK" in result.note

    def test_whose_only_subscription_is_unconfirmed_fails(self, run: Any, access: Access, make_alarm: Any) -> None:
        """An address that never clicked the link hears nothing, so the drill does not start."""
        sns = access.client("sns")
        arn = sns.create_topic(Name="lonely")["TopicArn"]
        sns.subscribe(TopicArn=arn, Protocol="email", Endpoint=UNCONFIRMED)
        (result,) = run(make_alarm("a", AlarmActions=[arn]))
        assert result.outcome is Outcome.FAILED
        assert "no subscription of topic lonely is confirmed" in result.note

    def test_whose_topic_nobody_subscribed_to_fails(self, run: Any, access: Access, make_alarm: Any) -> None:
        """A topic without subscriptions is not the same as one with unconfirmed ones."""
        arn = access.client("sns").create_topic(Name="empty")["TopicArn"]
        (result,) = run(make_alarm("a", AlarmActions=[arn]))
        assert "topic empty has no subscription" in result.note

    def test_without_actions_fails_when_asked_for(self, run: Any, make_alarm: Any) -> None:
        """A drill that was asked for by name and cannot be done is a failure."""
        (result,) = run(make_alarm("a", AlarmActions=[]))
        assert result.outcome is Outcome.FAILED
        assert "nobody is told" in result.note

    def test_whose_action_fails_shows_why(self, run: Any, faults: Faults, topic: str, make_alarm: Any) -> None:
        """The text of the history, such as a key that locks CloudWatch out, reaches the operator."""
        faults.locked_topics.add(topic)
        (result,) = run(make_alarm("a"))
        assert result.outcome is Outcome.FAILED
        assert KMS_ERROR in result.note
        assert result.restored == "OK"

    def test_whose_action_never_runs_times_out(
        self, run: Any, faults: Faults, clock: ManualClock, access: Access, make_alarm: Any
    ) -> None:
        """Without an entry in the history the wait ends after the timeout, and the alarm is set back."""
        faults.actions_run = False
        name = make_alarm("a")
        (result,) = run(name)
        assert result.outcome is Outcome.FAILED
        assert "did not run within 90 s" in result.note
        assert sum(clock.waits) == pytest.approx(90.0)
        assert state_of(access, name) == "OK"

    def test_is_set_back_to_the_state_it_had(self, run: Any, access: Access, make_alarm: Any) -> None:
        """An alarm without data is left without data, not green."""
        name = make_alarm("a")
        access.client("cloudwatch").set_alarm_state(AlarmName=name, StateValue="INSUFFICIENT_DATA", StateReason="new")
        (result,) = run(name)
        assert result.restored == state_of(access, name) == "INSUFFICIENT_DATA"

    def test_that_cloudwatch_evaluated_meanwhile_is_left_alone(
        self, run: Any, faults: Faults, access: Access, make_alarm: Any
    ) -> None:
        """A state CloudWatch found itself is true, and is not overwritten."""
        name = make_alarm("a")
        faults.evaluated[name] = "ALARM"
        (result,) = run(name)
        assert (result.outcome, result.restored) == (Outcome.PROVEN, "ALARM")
        assert read_alarms(access.client("cloudwatch"), names=[name])[0].reason == "Threshold Crossed"

    def test_that_cannot_be_raised_fails_with_the_words_of_aws(self, run: Any, faults: Faults, make_alarm: Any) -> None:
        """A refusal of SetAlarmState becomes the result of this alarm."""
        faults.refuse_state = {"ALARM"}
        (result,) = run(make_alarm("a"))
        assert result.outcome is Outcome.FAILED
        assert "the state cannot be set" in result.note

    def test_that_cannot_be_set_back_stops_the_drill(self, run: Any, faults: Faults, make_alarm: Any) -> None:
        """The operator is told how to do it by hand, and no further alarm is raised."""
        faults.refuse_state = {"OK"}
        first, second = run(make_alarm("a"), make_alarm("b"))
        assert (first.outcome, first.restored) == (Outcome.FAILED, drill.UNKNOWN)
        assert "set-alarm-state --alarm-name retainwise-a --state-value OK" in first.note
        assert second.outcome is Outcome.REFUSED
        assert second.restored == ""


class TestChoosing:
    def test_by_severity(self, run: Any, make_alarm: Any) -> None:
        """Only alarms whose description starts with the severity are drilled."""
        make_alarm("a", AlarmDescription="CRITICAL: uploads fail.")
        make_alarm("b", AlarmDescription="WARNING: slow.")
        results = run(prefix="retainwise-", severity="warning")
        assert [result.alarm for result in results] == ["retainwise-b"]

    def test_all_leaves_out_what_is_for_dashboards(self, run: Any, access: Access, topic: str, make_alarm: Any) -> None:
        """A composite without actions needs none; a metric alarm that nobody tells of is a failure."""
        make_alarm("orphan", AlarmActions=[], OKActions=[])
        access.client("cloudwatch").put_composite_alarm(
            AlarmName="retainwise-tile", AlarmRule='ALARM("retainwise-orphan")'
        )
        orphan, tile = run(prefix="retainwise-")
        assert (orphan.outcome, tile.outcome) == (Outcome.FAILED, Outcome.SKIPPED)
        (tile,) = run("retainwise-tile")
        assert tile.outcome is Outcome.FAILED

    @pytest.mark.parametrize("rule", ['ALARM("x-a")', "ALARM(x-a)", "NOT ALARM( x-a )", "ALARM(arn:aws:a:alarm:x-a)"])
    def test_members_are_found_however_a_rule_names_them(self, rule: str) -> None:
        """A composite's rule may quote a name, not quote it, or give an ARN."""
        member = Alarm("x-a", "OK", "", None, "", True, (), (), "")  # type: ignore[arg-type]
        speaker = member._replace(name="all", actions=("arn",), rule=rule)
        assert voice_of(member, [member, speaker]) is speaker
        longer = speaker._replace(rule=rule.replace("x-a", "x-ab"))
        assert voice_of(member, [member, longer]) is None
        assert voice_of(speaker, [member]) is speaker

    def test_a_rehearsal_touches_nothing(self, access: Access, make_alarm: Any, faults: Faults) -> None:
        """A dry run says of each alarm whether it would be raised."""
        make_alarm("a")
        make_alarm("b", ActionsEnabled=False)
        plans = make_plans(access.client("cloudwatch"), access.client("sns"), Wanted(prefix="retainwise-"))
        assert [result.outcome for result in drill.rehearse(plans)] == [Outcome.READY, Outcome.FAILED]
        assert not faults.raised.is_set()


class TestMembersOfAComposite:
    @pytest.fixture
    def outage(self, access: Access, topic: str, make_alarm: Any) -> str:
        """A composite over two alarms that have no actions of their own."""
        members = [make_alarm(key, AlarmActions=[], OKActions=[]) for key in ("a", "b")]
        access.client("cloudwatch").put_composite_alarm(
            AlarmName="retainwise-outage",
            AlarmRule=" OR ".join(f'ALARM("{name}")' for name in members),
            AlarmActions=[topic],
            OKActions=[topic],
        )
        return "retainwise-outage"

    def test_are_proven_through_it(self, run: Any, access: Access, outage: str) -> None:
        """Each member raises the composite, whose action counts; all are left as they were."""
        a, b, composite = run(prefix="retainwise-")
        assert [each.outcome for each in (a, b, composite)] == [Outcome.PROVEN] * 3
        assert [each.told_by for each in (a, b, composite)] == [outage, outage, ""]
        assert {state_of(access, each.alarm) for each in (a, b, composite)} == {"OK"}

    def test_are_delivered_through_it(
        self, run: Any, access: Access, clock: ManualClock, outage: str, make_alarm: Any
    ) -> None:
        """The message in the temporary queue is the composite's."""
        probes = Probes(access.client("sns"), access.client("sqs"), drill_id=ID, clock=clock)
        results = run("retainwise-a", "retainwise-b", probes=probes)
        probes.close()
        assert [each.outcome for each in results] == [Outcome.PROVEN] * 2

    def test_wait_for_it_to_come_back(self, run: Any, faults: Faults, clock: ManualClock, outage: str) -> None:
        """While the composite is still in ALARM it would mail nothing, so the next member is not raised."""
        faults.composites_stick = True
        first, second = run("retainwise-a", "retainwise-b")
        assert first.outcome is Outcome.PROVEN
        assert (second.outcome, second.restored) == (Outcome.REFUSED, "OK")
        assert "did not return from ALARM" in second.note

    def test_are_refused_while_it_fires(self, run: Any, access: Access, outage: str) -> None:
        """An outage that is going on is not drilled."""
        access.client("cloudwatch").set_alarm_state(AlarmName=outage, StateValue="ALARM", StateReason="real")
        (result,) = run("retainwise-a")
        assert result.outcome is Outcome.REFUSED
        assert "would mail nothing further" in result.note


class TestDelivery:
    @pytest.fixture
    def probes(self, access: Access, clock: ManualClock) -> Probes:
        """Temporary queues."""
        return Probes(access.client("sns"), access.client("sqs"), drill_id=ID, clock=clock)

    def test_is_proven_by_a_temporary_queue(self, run: Any, access: Access, probes: Probes, make_alarm: Any) -> None:
        """Every alarm's own message arrives in the queue; afterwards queue and subscription are gone."""
        results = run(make_alarm("a"), make_alarm("b"), probes=probes)
        assert [result.outcome for result in results] == [Outcome.PROVEN, Outcome.PROVEN]
        assert all(result.delivery_seconds is not None for result in results)
        assert len(access.client("sqs").list_queues()["QueueUrls"]) == 1
        probes.close()
        assert "QueueUrls" not in access.client("sqs").list_queues()
        subscriptions = access.client("sns").list_subscriptions()["Subscriptions"]
        assert [each["Protocol"] for each in subscriptions] == ["email"]

    def test_that_does_not_happen_fails(
        self, run: Any, access: Access, probes: Probes, clock: ManualClock, topic: str, make_alarm: Any
    ) -> None:
        """An action that ran and a message that never came are told apart."""
        probes.listen(topic)
        for each in access.client("sns").list_subscriptions()["Subscriptions"]:
            access.client("sns").unsubscribe(SubscriptionArn=each["SubscriptionArn"])
        access.client("sns").subscribe(TopicArn=topic, Protocol="email", Endpoint="on-call@example.com")
        (result,) = run(make_alarm("a"), probes=probes)
        assert result.outcome is Outcome.FAILED
        assert "delivered nothing within 90 s" in result.note
        assert (result.action_seconds, result.restored) == (0.0, "OK")
        probes.close()


class TestHistory:
    ACTION = "arn:aws:sns:us-east-1:123456789012:alerts"

    def item(self, summary: str, **data: object) -> dict[str, str]:
        """An item of an alarm's history."""
        return {"HistorySummary": summary, "HistoryData": json.dumps(data)}

    def test_of_another_change_does_not_count(self) -> None:
        """The mail about a return to OK proves nothing about the alarm."""
        for state, reason in (("OK", f"DRILL {ID}; it is over"), ("ALARM", "Threshold Crossed")):
            message = json.dumps({"default": json.dumps({"NewStateValue": state, "NewStateReason": reason})})
            other = self.item(f"Successfully executed action {self.ACTION}", publishedMessage=message)
            assert drill.outcomes([other], [self.ACTION], ID) == {}

    def test_of_a_longer_arn_does_not_count(self) -> None:
        """A topic whose name begins like another's is not taken for it."""
        longer = f"{self.ACTION}-warning"
        item = self.item(f"Successfully executed action {longer}")
        assert drill.outcomes([item], [self.ACTION, longer], ID) == {longer: ""}

    def test_without_an_error_text_shows_the_summary(self) -> None:
        """A failure is a failure also when CloudWatch does not say why."""
        item = {"HistorySummary": f"Failed to execute action {self.ACTION}", "HistoryData": "not JSON"}
        assert drill.outcomes([item], [self.ACTION], ID) == {self.ACTION: item["HistorySummary"]}


class TestCommandLine:
    def invoke(self, *arguments: str) -> Any:
        """Run the verb in this process."""
        return CliRunner().invoke(command_line.app, ["drill", *arguments], env={"COLUMNS": "80"})

    def test_prints_a_table_and_writes_a_report(self, endpoint: str, make_alarm: Any, tmp_path: Path) -> None:
        """The table fits 80 columns, the report holds the same, the exit code is 0."""
        name = make_alarm("api-upload-success-rate-low")
        done = self.invoke("--all", "--report", str(tmp_path / "report.json"))
        assert done.exit_code == 0, done.output
        row = next(line for line in done.stdout.splitlines() if line.startswith(name))
        assert row.split()[:3] == [name, "critical", "proven"]
        assert all(len(line) <= 80 for line in done.stdout.splitlines())
        report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
        assert (report["succeeded"], report["account"], report["endpoints"]) == (True, "123456789012", [endpoint])
        assert report["results"][0]["outcome"] == "proven"

    def test_says_with_the_exit_code_that_something_is_wrong(self, make_alarm: Any, tmp_path: Path) -> None:
        """One failing alarm among healthy ones makes the exit code 1."""
        make_alarm("a")
        make_alarm("b", ActionsEnabled=False)
        done = self.invoke("--all", "--report", str(tmp_path / "r.json"))
        assert done.exit_code == command_line.TO_DO
        assert "the actions of retainwise-b are disabled" in done.stdout

    def test_shows_where_it_works(self, endpoint: str, make_alarm: Any) -> None:
        """Account, region and endpoint are shown before anything else."""
        make_alarm("a")
        done = self.invoke("--all", "--dry-run")
        assert done.exit_code == 0
        assert "123456789012" in done.stderr
        assert "us-east-1" in done.stderr
        assert endpoint in done.stderr

    def test_wants_to_know_what_to_drill(self, endpoint: str) -> None:
        """Neither nothing nor two choices at once are accepted."""
        assert self.invoke().exit_code == command_line.IMPOSSIBLE
        assert self.invoke("--all", "--severity", "critical").exit_code == command_line.IMPOSSIBLE

    def test_says_when_there_is_nothing_to_drill(self, endpoint: str) -> None:
        """An empty account, or another prefix, is not a successful drill."""
        done = self.invoke("--all")
        assert done.exit_code == command_line.IMPOSSIBLE
        assert "no alarm here starts with 'retainwise-'" in done.stderr

    def test_does_not_touch_another_machine_without_leave(
        self, make_alarm: Any, faults: Faults, endpoint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where nobody can be asked, one service elsewhere is enough to stop."""
        make_alarm("a")
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "https://kms.example.com")
        done = self.invoke("--all")
        assert done.exit_code == command_line.IMPOSSIBLE
        assert "add --yes" in done.stderr
        assert not faults.raised.is_set()


@pytest.mark.parametrize(("answer", "code", "raised"), [("n", 2, False), ("y", 0, True)])
def test_a_person_is_asked_before_another_machine_is_touched(
    answer: str,
    code: int,
    raised: bool,
    make_alarm: Any,
    faults: Faults,
    endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """At a terminal the question says how many alarms it is about; only yes means yes."""
    make_alarm("a")
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "https://kms.example.com")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "retainwise_metrics", "drill", "--all", "--report", str(tmp_path / "r.json")],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    os.write(ours, f"{answer}\n".encode())
    said, _ = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert "Raise 1 alarm here, and mail everybody subscribed? [y/N]" in said
    assert process.returncode == code, said
    assert faults.raised.is_set() == raised


class TestWithoutTheMeans:
    """What is missing is named together with how to get it; no traceback, exit code 2."""

    def said(self, *, without: str, monkeypatch: pytest.MonkeyPatch, **environ: str) -> str:
        for name in [name for name in os.environ if name.startswith(without)]:
            monkeypatch.delenv(name)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        done = subprocess.run(
            [sys.executable, "-m", "retainwise_metrics", "drill", "--all"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == command_line.IMPOSSIBLE
        assert "Traceback" not in done.stdout
        return done.stdout

    def test_of_a_region(self, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """AWS_REGION alone is enough; without any region both ways to give one are named."""
        monkeypatch.delenv("AWS_DEFAULT_REGION")
        assert "no alarm here starts with" in self.said(without="AWS_DEFAULT_", monkeypatch=monkeypatch)
        assert "give --region, or set AWS_REGION" in self.said(without="AWS_REGION", monkeypatch=monkeypatch)

    def test_of_credentials(self, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever is not logged in is told to."""
        assert "log in" in self.said(without="AWS_SECRET_ACCESS_KEY", monkeypatch=monkeypatch, AWS_ACCESS_KEY_ID="")

    def test_of_an_endpoint_that_answers(self, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The address that does not answer is named."""
        nobody = "http://127.0.0.1:1"
        assert nobody in self.said(without="AWS_ENDPOINT", monkeypatch=monkeypatch, AWS_ENDPOINT_URL=nobody)


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:5000", True),
        ("http://localhost:4566", True),
        ("http://[::1]:5000", True),
        ("https://monitoring.us-east-1.amazonaws.com", False),
        ("http://127.0.0.1@example.com", False),
        ("http://localhost.example.com", False),
        ("http://10.0.0.1", False),
        ("", False),
    ],
)
def test_only_this_machine_is_touched_without_asking(url: str, here: bool) -> None:
    """Names and addresses that may lead away from this machine are not taken for it."""
    assert is_loopback(url) is here


class TestInterrupts:
    def test_in_the_middle_sets_the_alarm_back(
        self, make_alarm: Any, access: Access, faults: Faults, tmp_path: Path
    ) -> None:
        """Ctrl-C while waiting for the action: the alarm is OK again, the report is written, the exit code is 130."""
        faults.actions_run = False
        name = make_alarm("a")
        report = tmp_path / "report.json"
        process = subprocess.Popen(
            [sys.executable, "-m", "retainwise_metrics", "drill", "--alarm", name, "--report", str(report)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        with process:
            assert faults.raised.wait(30), "the drill never raised the alarm"
            assert state_of(access, name) == "ALARM"
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=30)
        assert process.returncode == command_line.INTERRUPTED, said
        assert state_of(access, name) == "OK"
        (result,) = json.loads(report.read_text(encoding="utf-8"))["results"]
        assert (result["outcome"], result["restored"]) == ("stopped", "OK")

    def test_one_that_is_lost_in_a_finaliser_ends_the_next_wait(self) -> None:
        """Files and connections drop what is raised while they are finalised; tidying up may wait all the same."""

        class Answer(io.IOBase):
            def close(self) -> None:
                signal.raise_signal(signal.SIGINT)

        interrupts = Interrupts(on_later=lambda: None)
        clock = SystemClock(interrupts.check)
        clock.wait(0)
        with interrupts.listening():
            Answer()
            with pytest.raises(KeyboardInterrupt):
                clock.wait(60)
            with interrupts.held():
                clock.wait(0)

    def test_while_setting_back_wait(self) -> None:
        """An interrupt that comes while something must be finished takes effect afterwards, once."""
        noticed: list[str] = []
        finished: list[bool] = []
        interrupts = Interrupts(on_later=lambda: noticed.append("later"))

        def tidy_up() -> None:
            with interrupts.held():
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGTERM)
                finished.append(True)

        with interrupts.listening():
            with pytest.raises(KeyboardInterrupt):
                tidy_up()
            signal.raise_signal(signal.SIGINT)
        assert finished == [True]
        assert noticed == ["later", "later", "later"]
