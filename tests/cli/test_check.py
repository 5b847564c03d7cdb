"""Each way in which an alarm stays silent is found, and a healthy account is left in peace."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from retainwise_metrics.cli import app as command_line
from retainwise_metrics.cli import check
from retainwise_metrics.cli.alarms import Alarm, Series
from retainwise_metrics.cli.check import Finding, Key, Level, Published
from tests.cli.embedded_aws import UNCONFIRMED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from retainwise_metrics.cli.access import Access

PREFIX = "retainwise-"
NOW = datetime(2027, 1, 15, 8, 0, tzinfo=timezone.utc)
ANCHORS = frozenset({"a", "b"})


@pytest.fixture
def publish(access: Access) -> Callable[..., None]:
    """Publish a metric once, with any dimensions."""

    def put(name: str, namespace: str = "RetainWise/Worker", **dimensions: str) -> None:
        pairs = [{"Name": key, "Value": value} for key, value in dimensions.items()]
        datum = {"MetricName": name, "Value": 0.0, "Dimensions": pairs}
        access.client("cloudwatch").put_metric_data(Namespace=namespace, MetricData=[datum])

    return put


@pytest.fixture
def findings(access: Access) -> Callable[..., list[Finding]]:
    """Look at everything, and return what is wrong."""

    def look(**options: Any) -> list[Finding]:
        facts = check.gather(access.client("cloudwatch"), access.client("sns"), access.client("kms"), prefix=PREFIX)
        defaults = {"now": datetime.now(timezone.utc), "anchors": ANCHORS}
        return list(check.judge(facts, **(defaults | options)))

    return look


class TestFaults:
    def test_none(self, findings: Any, make_alarm: Any, publish: Any) -> None:
        """A confirmed address, enabled actions, published series, a runbook: nothing to say."""
        make_alarm("a")
        publish("WorkerFailure")
        assert findings() == []

    def test_an_unconfirmed_subscription(
        self, findings: Any, access: Access, topic: str, make_alarm: Any, publish: Any
    ) -> None:
        """The address is recognisable and not spelt out."""
        make_alarm("a")
        publish("WorkerFailure")
        access.client("sns").subscribe(TopicArn=topic, Protocol="email", Endpoint=UNCONFIRMED)
        (finding,) = findings()
        assert finding.level is Level.PROBLEM
        assert finding.what == "u...@example.com has not confirmed its subscription"

    def test_a_missing_topic(self, findings: Any, make_alarm: Any, publish: Any) -> None:
        """An alarm whose topic was deleted tells nobody."""
        publish("WorkerFailure")
        make_alarm("a", AlarmActions=["arn:aws:sns:us-east-1:123456789012:gone"])
        (finding,) = findings()
        assert (finding.subject, finding.what) == ("gone", "the topic does not exist, and alarms tell it")

    def test_a_topic_without_subscriptions(self, findings: Any, access: Access, make_alarm: Any, publish: Any) -> None:
        """A topic nobody subscribed to is found."""
        publish("WorkerFailure")
        make_alarm("a", AlarmActions=[access.client("sns").create_topic(Name="empty")["TopicArn"]])
        (finding,) = findings()
        assert (finding.subject, finding.what) == ("empty", "nobody is subscribed")

    def test_disabled_actions(self, findings: Any, make_alarm: Any, publish: Any) -> None:
        """The command that enables them is given."""
        publish("WorkerFailure")
        name = make_alarm("a", ActionsEnabled=False)
        (finding,) = findings()
        assert finding.what == "its actions are disabled"
        assert finding.remedy.endswith(f"enable-alarm-actions --alarm-names {name}")

    def test_no_actions(self, findings: Any, make_alarm: Any, publish: Any) -> None:
        """An alarm without actions that no composite speaks for tells nobody."""
        publish("WorkerFailure")
        make_alarm("a", AlarmActions=[])
        assert [finding.what for finding in findings()] == ["it has no actions"]

    def test_no_data_for_too_long(self, findings: Any, access: Access, make_alarm: Any, publish: Any) -> None:
        """A new alarm may be without data for a while; after an hour it is stuck."""
        publish("WorkerFailure")
        name = make_alarm("a")
        access.client("cloudwatch").set_alarm_state(AlarmName=name, StateValue="INSUFFICIENT_DATA", StateReason="new")
        assert findings() == []
        (finding,) = findings(now=datetime.now(timezone.utc) + timedelta(hours=2))
        assert finding.what == "has been in INSUFFICIENT_DATA for 2 h"

    def test_a_series_published_with_other_dimensions_only(self, findings: Any, make_alarm: Any, publish: Any) -> None:
        """An alarm without dimensions does not see a series per upload; dimension values are not shown."""
        make_alarm("a", MetricName="WorkerUnexpectedError")
        publish("WorkerUnexpectedError", UploadId="u-4711")
        (finding,) = findings()
        assert finding.level is Level.PROBLEM
        assert "WorkerUnexpectedError {}; published is only {UploadId}" in finding.what
        assert "4711" not in finding.what

    def test_a_series_with_more_dimensions_than_the_alarm(self, findings: Any, make_alarm: Any, publish: Any) -> None:
        """A set that contains the alarm's dimensions is another set."""
        make_alarm("a", Dimensions=[{"Name": "Kind", "Value": "x"}])
        publish("WorkerFailure", Kind="x", Zone="1")
        (finding,) = findings()
        assert "{Kind}; published is only {Kind, Zone}" in finding.what

    def test_a_series_with_another_value(self, findings: Any, make_alarm: Any, publish: Any) -> None:
        """The same names with other values are another series."""
        make_alarm("a", Dimensions=[{"Name": "Kind", "Value": "x"}])
        publish("WorkerFailure", Kind="y")
        assert len(findings()) == 1

    def test_a_series_within_metric_math(self, findings: Any, make_alarm: Any, access: Access, publish: Any) -> None:
        """Every series of an expression is looked up."""
        publish("WorkerFailure")
        stats = [_stat("bad", "WorkerFailure"), _stat("good", "WorkerSuccess")]
        access.client("cloudwatch").put_metric_alarm(
            AlarmName="retainwise-rate",
            AlarmDescription="CRITICAL: https://example.com/runbooks.md#a",
            Metrics=[*stats, {"Id": "rate", "Expression": "bad/(bad+good)", "ReturnData": True}],
            EvaluationPeriods=1,
            Threshold=1.0,
            ComparisonOperator="GreaterThanThreshold",
            AlarmActions=[access.client("sns").create_topic(Name="t")["TopicArn"]],
        )
        told = [finding.what for finding in findings() if finding.subject == "retainwise-rate"]
        assert told == ["reads RetainWise/Worker WorkerSuccess {}; never published in two weeks"]

    def test_the_key_of_aws(self, findings: Any, access: Access, topic: str, make_alarm: Any, publish: Any) -> None:
        """A topic under alias/aws/sns gets no alarms, whatever else is in order."""
        make_alarm("a")
        publish("WorkerFailure")
        access.client("sns").set_topic_attributes(
            TopicArn=topic, AttributeName="KmsMasterKeyId", AttributeValue="alias/aws/sns"
        )
        (finding,) = findings()
        assert finding.what == "is encrypted with a key of AWS (alias/aws/sns): alarms cannot publish"

    @pytest.mark.parametrize("admitted", [True, False])
    def test_a_key_that_locks_cloudwatch_out(
        self, findings: Any, access: Access, topic: str, make_alarm: Any, publish: Any, admitted: bool
    ) -> None:
        """The policy of one's own key decides."""
        make_alarm("a")
        publish("WorkerFailure")
        policy = _policy(_allow({"AWS": "arn:aws:iam::123456789012:root"}, "kms:*"))
        if admitted:
            service = {"Service": "cloudwatch.amazonaws.com"}
            policy = _policy(_allow(service, ["kms:Decrypt", "kms:GenerateDataKey*"]))
        key = access.client("kms").create_key(Policy=policy)["KeyMetadata"]["KeyId"]
        access.client("sns").set_topic_attributes(TopicArn=topic, AttributeName="KmsMasterKeyId", AttributeValue=key)
        told = [finding.what for finding in findings()]
        locked_out = "its key's policy does not let cloudwatch.amazonaws.com in: alarms cannot publish"
        assert told == ([] if admitted else [locked_out])

    def test_a_missing_runbook(self, findings: Any, make_alarm: Any, publish: Any) -> None:
        """The link's anchor must be a section; no link at all is worse."""
        publish("WorkerFailure")
        make_alarm("c")
        make_alarm("d", AlarmDescription="CRITICAL: something.")
        assert [finding.what for finding in findings()] == [
            "the runbooks have no section #c",
            "its description has no link to a runbook",
        ]
        assert len(findings(anchors=None)) == 1


def _stat(name: str, metric: str) -> dict[str, Any]:
    stat = {"Metric": {"Namespace": "RetainWise/Worker", "MetricName": metric}, "Period": 60, "Stat": "Sum"}
    return {"Id": name, "MetricStat": stat, "ReturnData": False}


def _allow(principal: object, actions: object) -> dict[str, object]:
    return {"Effect": "Allow", "Principal": principal, "Action": actions, "Resource": "*"}


def _policy(*statements: object) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


class TestPureParts:
    @pytest.mark.parametrize(
        ("policy", "admits"),
        [
            (_policy(_allow({"Service": "cloudwatch.amazonaws.com"}, "kms:*")), True),
            (_policy(_allow({"Service": ["sns.amazonaws.com", "cloudwatch.amazonaws.com"]}, "*")), True),
            (json.dumps({"Statement": _allow("*", ["kms:decrypt", "kms:GenerateDataKey"])}), True),
            (_policy(_allow({"Service": "cloudwatch.amazonaws.com"}, "kms:Decrypt")), False),
            (_policy(_allow({"Service": "sns.amazonaws.com"}, "kms:*")), False),
            (_policy(_allow({"AWS": "*"}, "kms:*")), False),
            (_policy(_allow({"Service": "cloudwatch.amazonaws.com"}, "kms:*") | {"Effect": "Deny"}), False),
            ("not JSON", False),
        ],
    )
    def test_key_policies(self, policy: str, admits: bool) -> None:
        """CloudWatch itself must be allowed both actions; being root's friend is not enough."""
        assert check.admits_cloudwatch(policy) is admits

    def test_a_policy_that_may_not_be_read_is_a_note(self) -> None:
        """Whoever checks may lack the right to read it: that is no proof of a fault."""
        (finding,) = check.judge_key("arn:aws:sns:r:1:t", Key("k", managed_by_aws=False, policy=None))
        assert finding.level is Level.NOTE

    @pytest.mark.parametrize(
        ("namespace", "name", "level"),
        [
            ("AWS/SQS", "ApproximateAgeOfOldestMessage", Level.NOTE),
            ("RetainWise/Worker", "WorkerEndToEndDuration", Level.NOTE),
            ("RetainWise/Worker", "WorkerFailure", Level.PROBLEM),
            ("RetainWise/Worker", "Unheard", Level.PROBLEM),
        ],
    )
    def test_what_was_never_published(self, namespace: str, name: str, level: Level) -> None:
        """Metrics of AWS and durations appear with the first event; counters are published from the start."""
        series = Series(namespace, name, ())
        alarm = Alarm("x", "OK", "", NOW, "", True, ("a",), (series,), "")
        (finding,) = check.judge_series(alarm, {series: Published(exists=False)})
        assert finding.level is level

    def test_anchors_are_those_of_github(self) -> None:
        """Headings of any level, code in them, and anchors set by hand."""
        text = '# Runbooks\n\n## retainwise-`dlq`: Messages!\ntext\n### s3-upload-failures ###\n<a id="by-hand"></a>\n'
        assert check.anchors_of(text) == {"runbooks", "retainwise-dlq-messages", "s3-upload-failures", "by-hand"}

    @pytest.mark.parametrize(
        ("endpoint", "shown"),
        [
            ("jane.doe@example.com", "j...@example.com"),
            ("https://hooks.example.com/services/secret", "https://hooks.example.com"),
            ("https://user@hooks.example.com/secret", "https://user@hooks.example.com"),
            ("arn:aws:sqs:us-east-1:1:q", "arn:aws:sqs:us-east-1:1:q"),
        ],
    )
    def test_addresses_are_masked(self, endpoint: str, shown: str) -> None:
        """Nothing that says who it is, and no secret of a webhook."""
        assert check.masked(endpoint) == shown

    def test_problems_come_first(self) -> None:
        """What must be done is read before what may be fine."""
        aws = Series("AWS/SQS", "A", ())
        alarm = Alarm("x", "OK", "", NOW, "", True, ("arn",), (aws,), "")
        facts = check.Facts((alarm,), {}, {}, {aws: Published(exists=False)})
        levels = [finding.level for finding in check.judge(facts, now=NOW, anchors=None)]
        assert levels == [Level.PROBLEM, Level.NOTE]


class TestCommandLine:
    def invoke(self, *arguments: str) -> Any:
        """Run the verb in this process."""
        return CliRunner().invoke(command_line.app, ["check", *arguments], env={"COLUMNS": "80"})

    def test_says_that_all_is_well(self, endpoint: str, make_alarm: Any, publish: Any, tmp_path: Path) -> None:
        """Nothing found is exit code 0 and a sentence that says what was looked at."""
        make_alarm("a")
        publish("WorkerFailure")
        runbooks = tmp_path / "runbooks.md"
        runbooks.write_text("## a\n", encoding="utf-8")
        done = self.invoke("--runbooks", str(runbooks))
        assert done.exit_code == 0, done.output
        assert "1 alarm and 1 topic looked at: 0 problems, 0 notes" in done.stdout

    def test_lists_what_is_wrong(self, endpoint: str, make_alarm: Any, tmp_path: Path) -> None:
        """A problem is exit code 1, in 80 columns."""
        make_alarm("prediction-processing-slow", ActionsEnabled=False)
        runbooks = tmp_path / "runbooks.md"
        runbooks.write_text("## other\n", encoding="utf-8")
        done = self.invoke("--runbooks", str(runbooks))
        assert done.exit_code == command_line.TO_DO
        assert "3 problems" in done.stdout
        assert all(len(line) <= 80 for line in done.stdout.splitlines())

    def test_explains_what_it_cannot_do(self, endpoint: str, tmp_path: Path) -> None:
        """Runbooks that are not there, and an account without alarms, are not taken for health."""
        done = self.invoke("--runbooks", str(tmp_path / "none.md"))
        assert (done.exit_code, "there are no runbooks at" in done.stderr) == (command_line.IMPOSSIBLE, True)
        done = self.invoke()
        assert (done.exit_code, "no alarm here starts with" in done.stderr) == (command_line.IMPOSSIBLE, True)
