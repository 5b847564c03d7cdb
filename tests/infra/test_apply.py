"""The module applied for real, to an AWS on loopback: created, stable, changed, removed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from examples.retainwise.terraform import ROOT
from tests.infra.embedded_aws import embedded_aws
from tests.infra.terraform import REGION, Terraform, copy_of_module

pytest.importorskip("moto.server", reason="needs the extra [demo]: moto is the AWS of this test")

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.infra.embedded_aws import EmbeddedAws

ALARMS = """
variable "alarm_overrides" {
  type    = any
  default = {}
}

module "alarms" {
  source = "./module"

  queue_name      = "predictions"
  dlq_name        = "predictions-dlq"
  critical_emails = ["oncall@example.com"]
  warning_emails  = ["team@example.com"]
  encryption      = { mode = "create" }
  alarm_overrides = var.alarm_overrides
}

output "alarms" {
  value = module.alarms.alarms
}
"""


@pytest.fixture(scope="module")
def aws() -> Iterator[EmbeddedAws]:
    """An AWS on loopback."""
    with embedded_aws() as running:
        yield running


@pytest.fixture(scope="module")
def applied(aws: EmbeddedAws, tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """The module with everything switched on, applied."""
    directory = tmp_path_factory.mktemp("apply")
    copy_of_module(directory / "module")
    (directory / "main.tf").write_text(ROOT % {"region": REGION, "endpoint": aws.endpoint} + ALARMS)
    terraform = Terraform(directory)
    terraform.init()
    done = terraform.run("apply", "-auto-approve", "-no-color", timeout=180)
    assert done.code == 0, done.output
    return terraform


def _client(aws: EmbeddedAws, service: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=aws.endpoint,
        region_name=REGION,
        aws_access_key_id="retainwise-test",
        aws_secret_access_key="not-a-secret",
        config=Config(proxies={}),  # loopback is reached directly, whatever the caller's environment says
    )


def _alarms(aws: EmbeddedAws) -> dict[str, dict[str, Any]]:
    answer = _client(aws, "cloudwatch").describe_alarms(AlarmTypes=["MetricAlarm", "CompositeAlarm"])
    return {alarm["AlarmName"]: alarm for alarm in answer["MetricAlarms"] + answer["CompositeAlarms"]}


def test_the_module_lives_through_apply_plan_change_and_destroy(applied: Terraform, aws: EmbeddedAws) -> None:
    """Everything is created, a second plan is empty, an alarm can be left out, and nothing stays after the end."""
    _assert_created(applied, aws)

    again = applied.run("plan", "-detailed-exitcode", "-no-color")
    assert again.code == 0, again.output

    _assert_every_alarm_reaches_its_topic(applied, aws)

    _assert_an_alarm_can_be_left_out(applied, aws)

    gone = applied.run("destroy", "-auto-approve", "-refresh=false", "-no-color", timeout=180)
    assert gone.code == 0, gone.output
    assert _alarms(aws) == {}
    assert _client(aws, "sns").list_topics()["Topics"] == []
    assert _client(aws, "cloudwatch").list_dashboards()["DashboardEntries"] == []


def _assert_created(applied: Terraform, aws: EmbeddedAws) -> None:
    known = json.loads(applied.run("output", "-json", "alarms").output)
    alarms = _alarms(aws)
    assert set(alarms) == {one["name"] for one in known.values()} | {
        "retainwise-service-outage",
        "retainwise-service-health",
    }
    sns = _client(aws, "sns")
    topics = {topic["TopicArn"].rpartition(":")[2]: topic["TopicArn"] for topic in sns.list_topics()["Topics"]}
    assert set(topics) == {"retainwise-cloudwatch-alerts", "retainwise-cloudwatch-warnings"}
    assert alarms["retainwise-service-outage"]["AlarmActions"] == [topics["retainwise-cloudwatch-alerts"]]
    assert alarms["retainwise-model-confidence-low"]["AlarmActions"] == [topics["retainwise-cloudwatch-warnings"]]
    subscribed = {(one["TopicArn"], one["Endpoint"]) for one in sns.list_subscriptions()["Subscriptions"]}
    assert subscribed == {
        (topics["retainwise-cloudwatch-alerts"], "oncall@example.com"),
        (topics["retainwise-cloudwatch-warnings"], "team@example.com"),
    }

    cloudwatch = _client(aws, "cloudwatch")
    boards = [board["DashboardName"] for board in cloudwatch.list_dashboards()["DashboardEntries"]]
    assert set(boards) == {"retainwise-realtime", "retainwise-trend"}
    for board in boards:
        widgets = json.loads(cloudwatch.get_dashboard(DashboardName=board)["DashboardBody"])["widgets"]
        shown = {arn for one in widgets if one["type"] == "alarm" for arn in one["properties"]["alarms"]}
        assert shown == {alarm["AlarmArn"] for alarm in alarms.values()}


def _assert_every_alarm_reaches_its_topic(applied: Terraform, aws: EmbeddedAws) -> None:
    """The drill an operator runs after `terraform apply`, with proof of delivery, and all alarms as they were after it."""
    report = applied.directory / "drill.json"
    done = subprocess.run(
        [sys.executable, "-m", "retainwise_metrics", "drill", "--all", "--end-to-end", f"--report={report}"],
        env=applied.environment() | {"AWS_ENDPOINT_URL": aws.endpoint, "NO_PROXY": "*"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    results = {one["alarm"]: one for one in json.loads(report.read_text(encoding="utf-8"))["results"]}
    tile = results.pop("retainwise-service-health")
    assert (tile["outcome"], tile["told_by"]) == ("skipped", "")
    assert {one["outcome"] for one in results.values()} == {"proven"}
    assert len(results) == 14
    assert all(one["delivery_seconds"] is not None for one in results.values())
    assert results["retainwise-model-load-failures"]["told_by"] == "retainwise-service-outage"
    assert results["retainwise-dlq-messages-present"]["told_by"] == ""
    states = {alarm["AlarmName"]: alarm["StateValue"] for alarm in _alarms(aws).values()}
    assert "ALARM" not in states.values(), states


def _assert_an_alarm_can_be_left_out(applied: Terraform, aws: EmbeddedAws) -> None:
    """CloudWatch refuses to delete an alarm that a composite still names, so the composite has to change first."""
    aws.calls.clear()
    less = json.dumps({"model-load-failures": {"enabled": False}})
    done = applied.run(
        "apply", "-auto-approve", "-refresh=false", "-no-color", f"-var=alarm_overrides={less}", timeout=180
    )
    assert done.code == 0, done.output
    *changed, deleted = aws.calls
    assert deleted == ("DeleteAlarms", ("retainwise-model-load-failures",))
    assert sorted(names[0] for _, names in changed) == ["retainwise-service-health", "retainwise-service-outage"]
    assert not [names for _, names in changed if "model-load-failures" in names[1]]
