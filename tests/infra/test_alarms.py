"""Alarms read what the package publishes, are well formed, and have a runbook each."""

from __future__ import annotations

import copy
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.infra.conftest import RUNBOOKS
from tests.infra.definitions import (
    contract_complaints,
    expression_of,
    lint,
    periods_of,
    published_by_package,
    resources,
    series_of_alarm,
)
from tests.infra.terraform import MODULE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.infra.conftest import Outcome

Alarm = dict[str, Any]
ALARM, COMPOSITE = "aws_cloudwatch_metric_alarm", "aws_cloudwatch_composite_alarm"
PARTS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]


def _all_alarms(outcome: Outcome) -> list[tuple[str, str, Alarm]]:
    return [
        (run, key, alarm) for run, state in outcome.states.items() for key, alarm in resources(state, ALARM).items()
    ]


def test_every_series_of_an_alarm_is_published(outcome: Outcome) -> None:
    """Whatever the settings, an alarm reads only roll-ups of the catalogue, without a unit, or metrics of AWS."""
    published = published_by_package()
    complaints = {
        (run, key): found
        for run, key, alarm in _all_alarms(outcome)
        if (found := list(contract_complaints(series_of_alarm(alarm), published, rollup_only=True)))
    }
    assert complaints == {}


def _change_metric(key: str, **changes: object) -> Callable[[dict[str, Alarm]], None]:
    def change(alarms: dict[str, Alarm]) -> None:
        alarm = alarms[key]
        target = next((metric for query in alarm["metric_query"] for metric in query["metric"]), alarm)
        target.update(changes)

    return change


@pytest.mark.parametrize(
    ("mutate", "complaint"),
    [
        (_change_metric("worker-error-rate-high", dimensions={"UploadId": "u-1"}), "with the dimensions ['UploadId']"),
        (_change_metric("worker-error-rate-high", dimensions={"ErrorType": "Throttling"}), "not published"),
        (_change_metric("api-upload-success-rate-low", dimensions={"Endpoint": "/upload"}), "Endpoint"),
        (_change_metric("sqs-queue-depth-high", dimensions={}), "with the dimensions []"),
        (_change_metric("worker-heartbeat-missing", namespace="RetainWise/API"), "is not published"),
        (_change_metric("database-write-errors", metric_name="DatabaseWriteFailed"), "is not published"),
        (_change_metric("prediction-processing-slow", unit="Seconds"), "limited to the unit Seconds"),
    ],
)
def test_the_contract_notices_a_mutated_alarm(
    mutate: Callable[[dict[str, Alarm]], None], complaint: str, state: dict[str, Any]
) -> None:
    """An alarm on a series that nobody publishes, which CloudWatch would show as green or grey for ever, is found."""
    alarms = copy.deepcopy(resources(state, ALARM))
    mutate(alarms)
    found = [
        text
        for alarm in alarms.values()
        for text in contract_complaints(series_of_alarm(alarm), published_by_package(), rollup_only=True)
    ]
    assert any(complaint in text for text in found), found


def test_no_alarm_is_badly_formed(outcome: Outcome, anchors: list[str]) -> None:
    """The lint finds nothing, whatever the settings."""
    complaints = {
        (run, key): found for run, key, alarm in _all_alarms(outcome) if (found := list(lint(key, alarm, anchors)))
    }
    assert complaints == {}


def _set(**changes: object) -> Callable[[Alarm], None]:
    return lambda alarm: alarm.update(changes)


def _set_expression(expression: str) -> Callable[[Alarm], None]:
    def change(alarm: Alarm) -> None:
        next(query for query in alarm["metric_query"] if query["return_data"])["expression"] = expression

    return change


@pytest.mark.parametrize(
    ("mutate", "complaint"),
    [
        (_set_expression("100*FILL(failed,0)/(FILL(failed,0)+FILL(done,0))"), "a rate needs a minimum volume"),
        (_set_expression("IF(failed+done >= 5, 100*failed/(failed+done), 0)"), "failed is used without FILL"),
        (_set_expression("IF(FILL(failed,0) >= 5, 100/FILL(failed,0), 0)"), "done is not used"),
        (_set_expression("SUM(FILL(failed,0)+FILL(done,0))"), "SUM is not for alarms"),
        (_set(evaluation_periods=400), "400 periods of 300 s cannot be evaluated"),
        (_set(datapoints_to_alarm=3), "datapoints_to_alarm must be between 1 and evaluation_periods"),
        (_set(treat_missing_data=None), "treat_missing_data must be stated"),
        (_set(extended_statistic="p95", evaluate_low_sample_count_percentiles="ignore"), "at low volume"),
        (_set(actions_enabled=False), "actions must be enabled, and five at most"),
        (_set(alarm_description="Something is wrong."), "must start with the severity"),
        (_set(alarm_description="WARNING: x.\n\nRunbook: https://x.example/runbooks.md#other"), "link of a runbook"),
        (_set(alarm_description="WARNING: " + "x" * 1024), "shorter than 1024"),
    ],
)
def test_the_lint_notices_a_mutated_alarm(
    mutate: Callable[[Alarm], None], complaint: str, state: dict[str, Any], anchors: list[str]
) -> None:
    """Each rule of the lint can fail."""
    alarm = copy.deepcopy(resources(state, ALARM)["worker-error-rate-high"])
    mutate(alarm)
    found = list(lint("worker-error-rate-high", alarm, anchors))
    assert any(complaint in text for text in found), found


def test_no_topic_uses_the_key_that_silences_alarms(outcome: Outcome) -> None:
    """No topic is encrypted with a key that AWS manages: CloudWatch cannot publish through it."""
    keys = {
        str(topic["kms_master_key_id"])
        for state in outcome.states.values()
        for topic in resources(state, "aws_sns_topic").values()
    }
    assert len(keys) >= 3  # none, the module's own, one that existed
    assert not [key for key in keys if "alias/aws/" in key]


def test_every_alarm_reaches_a_topic(outcome: Outcome) -> None:
    """An alarm mails by itself or through the outage, never both; the rules of composites name alarms that exist."""
    for run, state in outcome.states.items():
        alarms, composites = resources(state, ALARM), resources(state, COMPOSITE)
        names = {alarm["alarm_name"] for alarm in alarms.values()}
        rules = {key: set(re.findall(r'ALARM\("([^"]+)"\)', one["alarm_rule"])) for key, one in composites.items()}
        members = rules.get("service-outage", set())
        assert all(rule <= names for rule in rules.values()), run
        assert {alarm["alarm_name"] for alarm in alarms.values() if not alarm["alarm_actions"]} == members, run
        assert all(one["alarm_actions"] for key, one in composites.items() if key == "service-outage"), run


def test_counters_that_alarms_read_are_published_as_zero(state: dict[str, Any]) -> None:
    """A counter behind an alarm is published while nothing happens, except the heartbeat, whose absence is the alarm."""
    catalogue = {(one["namespace"], one["name"]): one for one in json.loads((MODULE / "catalogue.json").read_text())}
    silent = {
        one.name
        for alarm in resources(state, ALARM).values()
        for one in series_of_alarm(alarm)
        if (entry := catalogue.get((one.namespace, one.name)))
        if entry["unit"] == "Count" and not entry["emits_zero"]
    }
    assert silent == {"WorkerHeartbeat"}


def test_every_alarm_has_a_runbook_and_every_runbook_an_alarm(state: dict[str, Any], anchors: list[str]) -> None:
    """The sections of docs/runbooks.md are the alarms and composites, each once."""
    assert sorted(anchors) == sorted([*resources(state, ALARM), *resources(state, COMPOSITE)])


def test_a_runbook_has_its_four_parts_and_commands(anchors: list[str]) -> None:
    """Each section has Meaning, Impact, Diagnosis with commands, and Mitigation, in this order."""
    text = RUNBOOKS.read_text(encoding="utf-8")
    for anchor in anchors:
        section = text.partition(f"\n## {anchor}\n")[2].partition("\n## ")[0]
        assert re.findall(r"^### (.+)$", section, re.MULTILINE) == PARTS, anchor
        assert "```bash\n" in section.partition("### Diagnosis")[2].partition("### Mitigation")[0], anchor


def test_the_tables_show_the_alarms_as_they_are(state: dict[str, Any]) -> None:
    """README and runbooks show each alarm's severity and condition as Terraform makes them."""
    readme = (MODULE / "README.md").read_text(encoding="utf-8")
    runbooks = RUNBOOKS.read_text(encoding="utf-8")
    for key, alarm in state["outputs"]["alarms"]["value"].items():
        assert f"| `{key}` | {alarm['severity']} | {alarm['condition']} |" in readme
        section = runbooks.partition(f"\n## {key}\n")[2].partition("\n## ")[0]
        assert f"**{alarm['severity'].capitalize()}.** Fires when: {alarm['condition']}." in section, key


def test_queries_of_one_alarm_share_a_period(state: dict[str, Any]) -> None:
    """Metric math in alarms needs one period, and each alarm has one."""
    alarms = resources(state, ALARM)
    assert all(len(periods_of(alarm)) == 1 for alarm in alarms.values())
    assert sum(expression_of(alarm) is not None for alarm in alarms.values()) == 8
