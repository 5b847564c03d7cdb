"""
Alarms and the topics they tell, as `drill` and `check` read them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from retainwise_metrics.cli.access import unique

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

ALARM_TYPES: Final = ("CompositeAlarm", "MetricAlarm")
"""Asked for by name: CloudWatch leaves composite alarms out of an answer unless they are."""

SEVERITIES: Final = ("critical", "warning", "info")
"""How urgent an alarm is, as the first word of its description."""

UNCONFIRMED: Final = frozenset({"PendingConfirmation", "Deleted"})
"""What SNS writes in place of the ARN of a subscription that delivers nothing."""


class Series(NamedTuple):
    """
    One metric an alarm reads: CloudWatch knows it by exactly these three.

    Attributes:
        namespace: CloudWatch namespace.
        name: Metric name.
        dimensions: Names and values, sorted by name.
    """

    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]


class Alarm(NamedTuple):
    """
    An alarm as CloudWatch describes it.

    Attributes:
        name: Alarm name.
        state: `OK`, `ALARM` or `INSUFFICIENT_DATA`.
        reason: Why it is in this state.
        since: When it came into this state.
        description: What the mail says.
        actions_enabled: Whether a change of state runs the actions.
        actions: ARNs of what happens on `ALARM`.
        series: What it reads; empty for a composite.
        rule: The rule of a composite over other alarms; empty for a metric alarm.
        delay_seconds: How long a composite waits for its suppressor before it runs its actions.
    """

    name: str
    state: str
    reason: str
    since: datetime
    description: str
    actions_enabled: bool
    actions: tuple[str, ...]
    series: tuple[Series, ...]
    rule: str
    delay_seconds: int = 0

    @property
    def severity(self) -> str:
        """One of `SEVERITIES`, or empty when the description starts with none of them."""
        first = self.description.split(maxsplit=1)[:1]
        word = first[0].strip("[]|:.,-").lower() if first else ""
        return word if word in SEVERITIES else ""

    @property
    def topics(self) -> tuple[str, ...]:
        """ARNs of the SNS topics among the actions."""
        return tuple(arn for arn in self.actions if arn.split(":")[2:3] == ["sns"])


class Topic(NamedTuple):
    """
    A topic and who listens.

    Attributes:
        arn: ARN of the topic.
        exists: False when SNS does not know it.
        confirmed: Endpoints that get what is published.
        pending: Endpoints that have not been confirmed and get nothing.
    """

    arn: str
    exists: bool
    confirmed: tuple[str, ...]
    pending: tuple[str, ...]


def read_alarms(cloudwatch: Any, *, prefix: str = "", names: Iterable[str] = ()) -> tuple[Alarm, ...]:
    """
    Read alarms from CloudWatch.

    Args:
        cloudwatch: A boto3 client.
        prefix: Only alarms whose name starts with it.
        names: Only these, at most 100, the most one call takes; then `prefix` is not looked at.

    Returns:
        Metric alarms and composites, sorted by name.
    """
    wanted = {"AlarmNames": list(names)} if names else {"AlarmNamePrefix": prefix} if prefix else {}
    pages = cloudwatch.get_paginator("describe_alarms").paginate(AlarmTypes=list(ALARM_TYPES), **wanted)
    found = [raw for page in pages for kind in ("MetricAlarms", "CompositeAlarms") for raw in page.get(kind, ())]
    return tuple(sorted(map(_alarm, found), key=lambda alarm: alarm.name))


def read_topic(sns: Any, arn: str) -> Topic:
    """
    Read who listens to a topic.

    Args:
        sns: A boto3 client.
        arn: ARN of the topic.

    Returns:
        The topic, also when it does not exist.
    """
    pages = sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=arn)
    try:
        found = [subscription for page in pages for subscription in page["Subscriptions"]]
    except sns.exceptions.NotFoundException:
        return Topic(arn, exists=False, confirmed=(), pending=())
    return Topic(
        arn,
        exists=True,
        confirmed=tuple(each["Endpoint"] for each in found if each["SubscriptionArn"] not in UNCONFIRMED),
        pending=tuple(each["Endpoint"] for each in found if each["SubscriptionArn"] == "PendingConfirmation"),
    )


def voice_of(alarm: Alarm, others: Iterable[Alarm]) -> Alarm | None:
    """
    Find out whose actions tell of an alarm.

    Args:
        alarm: The alarm.
        others: All alarms beside it.

    Returns:
        The alarm itself, or a composite over it that has actions; None when nobody is told.
    """
    if alarm.actions:
        return alarm
    # Rules write ALARM(name), ALARM("name") or ALARM(arn:...:alarm:name).
    named = re.compile(rf"""[(":\s]{re.escape(alarm.name)}[)"\s]""")
    return next((each for each in others if each.actions and named.search(each.rule)), None)


def topics_of(alarms: Iterable[Alarm]) -> tuple[str, ...]:
    """
    List the topics alarms tell.

    Args:
        alarms: Any alarms.

    Returns:
        ARNs, each once.
    """
    return unique(arn for alarm in alarms for arn in alarm.topics)


def _alarm(raw: dict[str, Any]) -> Alarm:
    return Alarm(
        name=raw["AlarmName"],
        state=raw["StateValue"],
        reason=raw.get("StateReason", ""),
        since=raw["StateUpdatedTimestamp"],
        description=raw.get("AlarmDescription", ""),
        actions_enabled=raw["ActionsEnabled"],
        actions=unique(raw.get("AlarmActions", ())),
        series=_series_of(raw),
        rule=raw.get("AlarmRule", ""),
        delay_seconds=raw.get("ActionsSuppressorWaitPeriod", 0),
    )


def _series_of(raw: dict[str, Any]) -> tuple[Series, ...]:
    """The metrics of an alarm: one at the top, or several under metric math."""
    stats = [query["MetricStat"]["Metric"] for query in raw.get("Metrics", ()) if query.get("MetricStat")]
    if raw.get("MetricName"):
        stats.append(raw)
    return unique(_series(stat) for stat in stats)


def _series(raw: dict[str, Any]) -> Series:
    pairs = sorted((each["Name"], each["Value"]) for each in raw.get("Dimensions", ()))
    return Series(raw["Namespace"], raw["MetricName"], tuple(pairs))
