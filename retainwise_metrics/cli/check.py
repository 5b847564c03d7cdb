"""
What can be wrong after `terraform apply` although nothing failed: every way in which an alarm stays silent.

1. Reading is done first, judging afterwards: what judges is told everything and calls nothing.
2. A finding names what is wrong and what to do. A *problem* keeps somebody from being told; a *note* may be as it should.
"""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from botocore.exceptions import ClientError

from retainwise_metrics.catalogue import find
from retainwise_metrics.cli import alarms as alarms_of_cloudwatch
from retainwise_metrics.cli.access import unique

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from retainwise_metrics.cli.alarms import Alarm, Series, Topic

STUCK_SECONDS: Final = 3600.0
"""How long an alarm may be without data: a new one gets its first within minutes, and SQS takes up to 15 of them."""

MOST_PAGES: Final = 40
"""Pages of 500 series read in search of one; a metric with more than 20,000 series has other troubles."""

AWS_MANAGED_KEY: Final = "alias/aws/sns"
"""AWS's own key: its policy admits no CloudWatch and cannot be changed."""

CLOUDWATCH: Final = "cloudwatch.amazonaws.com"

NEEDED_KEY_ACTIONS: Final = ("kms:Decrypt", "kms:GenerateDataKey")
"""What CloudWatch does with the key of an encrypted topic."""


class Level(str, Enum):
    """
    How bad a finding is.
    """

    PROBLEM = "problem"
    NOTE = "note"


class Finding(NamedTuple):
    """
    Something that is not as it should be.

    Attributes:
        level: How bad.
        subject: The alarm, topic or key.
        what: What is wrong.
        remedy: What to do.
    """

    level: Level
    subject: str
    what: str
    remedy: str


class Published(NamedTuple):
    """
    What CloudWatch knows of a series an alarm reads.

    Attributes:
        exists: Whether exactly this series has had data within two weeks.
        keys: Dimension names of series with the same namespace and name, if this one does not exist.
    """

    exists: bool
    keys: tuple[tuple[str, ...], ...] = ()


class Key(NamedTuple):
    """
    The key of an encrypted topic.

    Attributes:
        key_id: As the topic names it.
        managed_by_aws: Whether it is AWS's own.
        policy: Its policy, as JSON. None: may not be read.
    """

    key_id: str
    managed_by_aws: bool
    policy: str | None


class Facts(NamedTuple):
    """
    Everything the judgement is made from.

    Attributes:
        alarms: All alarms with the prefix.
        topics: Every topic they tell, by ARN.
        keys: Keys of encrypted topics, by ARN of the topic.
        published: What CloudWatch knows, by series.
    """

    alarms: tuple[Alarm, ...]
    topics: Mapping[str, Topic]
    keys: Mapping[str, Key]
    published: Mapping[Series, Published]


def gather(cloudwatch: Any, sns: Any, kms: Any, *, prefix: str) -> Facts:
    """
    Read everything from AWS.

    Args:
        cloudwatch: A boto3 client.
        sns: A boto3 client.
        kms: A boto3 client.
        prefix: What the names of all our alarms start with.

    Returns:
        The facts.
    """
    alarms = alarms_of_cloudwatch.read_alarms(cloudwatch, prefix=prefix)
    topics = {arn: alarms_of_cloudwatch.read_topic(sns, arn) for arn in alarms_of_cloudwatch.topics_of(alarms)}
    keys = {arn: key for arn, topic in topics.items() if topic.exists and (key := read_key(sns, kms, arn))}
    series = unique(each for alarm in alarms for each in alarm.series)
    return Facts(alarms, topics, keys, {each: read_published(cloudwatch, each) for each in series})


def read_key(sns: Any, kms: Any, topic: str) -> Key | None:
    """
    Read the key a topic is encrypted with.

    Args:
        sns: A boto3 client.
        kms: A boto3 client.
        topic: ARN of the topic.

    Returns:
        The key; None when the topic is not encrypted with one.
    """
    attributes = sns.get_topic_attributes(TopicArn=topic)["Attributes"]
    key_id = attributes.get("KmsMasterKeyId", "")
    if not key_id:
        return None
    if key_id.endswith(AWS_MANAGED_KEY):
        return Key(key_id, managed_by_aws=True, policy=None)
    try:
        described = kms.describe_key(KeyId=key_id)["KeyMetadata"]
        policy = kms.get_key_policy(KeyId=described["KeyId"], PolicyName="default")["Policy"]
    except ClientError:
        return Key(key_id, managed_by_aws=False, policy=None)
    return Key(key_id, managed_by_aws=described.get("KeyManager") == "AWS", policy=policy)


def read_published(cloudwatch: Any, series: Series) -> Published:
    """
    Ask CloudWatch for exactly one series.

    Args:
        cloudwatch: A boto3 client.
        series: What an alarm reads.

    Returns:
        Whether it exists, and what exists instead.
    """
    # A filter by dimensions also finds series that have more of them, and without one all are found: compare whole sets.
    sets = _published_sets(cloudwatch, series, only_like_it=True)
    if series.dimensions in sets:
        return Published(exists=True)
    if series.dimensions:
        sets = _published_sets(cloudwatch, series, only_like_it=False)
    return Published(exists=False, keys=tuple(sorted({tuple(name for name, _ in each) for each in sets})))


def _published_sets(cloudwatch: Any, series: Series, *, only_like_it: bool) -> set[tuple[tuple[str, str], ...]]:
    """Dimensions of the series of one metric; without `only_like_it` of any of them, else of those with these dimensions."""
    wanted: dict[str, Any] = {"Namespace": series.namespace, "MetricName": series.name}
    if only_like_it and series.dimensions:
        wanted["Dimensions"] = [{"Name": name, "Value": value} for name, value in series.dimensions]
    paginator = cloudwatch.get_paginator("list_metrics")
    pages = paginator.paginate(**wanted, PaginationConfig={"MaxItems": MOST_PAGES * 500})
    return {
        tuple(sorted((each["Name"], each["Value"]) for each in metric.get("Dimensions", ())))
        for page in pages
        for metric in page["Metrics"]
    }


def judge(
    facts: Facts, *, now: datetime, stuck_seconds: float = STUCK_SECONDS, anchors: frozenset[str] | None
) -> tuple[Finding, ...]:
    """
    Judge what was read.

    Args:
        facts: From `gather`.
        now: The time, with a time zone.
        stuck_seconds: How long an alarm may be without data.
        anchors: From `anchors_of`. None: runbooks are not looked at.

    Returns:
        Findings, the problems first.
    """
    findings = [
        *(finding for topic in facts.topics.values() for finding in judge_topic(topic)),
        *(finding for arn, key in facts.keys.items() for finding in judge_key(arn, key)),
        *(finding for alarm in facts.alarms for finding in judge_actions(alarm, facts.alarms)),
        *(finding for alarm in facts.alarms for finding in judge_age(alarm, now, stuck_seconds)),
        *(finding for alarm in facts.alarms for finding in judge_series(alarm, facts.published)),
        *(finding for alarm in facts.alarms for finding in judge_runbook(alarm, anchors)),
    ]
    return tuple(sorted(findings, key=lambda finding: finding.level is Level.NOTE))


def judge_topic(topic: Topic) -> list[Finding]:
    """
    Find who does not hear a topic.

    Args:
        topic: The topic.

    Returns:
        Findings.
    """
    name = _short(topic.arn)
    if not topic.exists:
        return [Finding(Level.PROBLEM, name, "the topic does not exist, and alarms tell it", "apply again")]
    findings = [
        Finding(
            Level.PROBLEM,
            name,
            f"{masked(endpoint)} has not confirmed its subscription",
            "click the link in AWS's mail; after 3 days apply again for a new one",
        )
        for endpoint in topic.pending
    ]
    if not topic.confirmed and not topic.pending:
        findings.append(Finding(Level.PROBLEM, name, "nobody is subscribed", "add an address and apply"))
    return findings


def judge_key(topic: str, key: Key) -> list[Finding]:
    """
    Find a key that keeps alarms out of a topic.

    Args:
        topic: ARN of the topic.
        key: Its key.

    Returns:
        Findings.
    """
    name = _short(topic)
    if key.managed_by_aws:
        what = f"is encrypted with a key of AWS ({_short(key.key_id)}): alarms cannot publish"
        return [Finding(Level.PROBLEM, name, what, "use a key of your own, or no encryption")]
    if key.policy is None:
        return [Finding(Level.NOTE, name, "its key's policy could not be read", f"see that it admits {CLOUDWATCH}")]
    if admits_cloudwatch(key.policy):
        return []
    what = f"its key's policy does not let {CLOUDWATCH} in: alarms cannot publish"
    return [Finding(Level.PROBLEM, name, what, f"allow {' and '.join(NEEDED_KEY_ACTIONS)}*")]


def admits_cloudwatch(policy: str) -> bool:
    """
    Read from a key's policy whether alarms may use the key.

    Args:
        policy: JSON.

    Returns:
        True when statements allow CloudWatch everything it needs. Conditions are not looked at.
    """
    try:
        statements = json.loads(policy).get("Statement", [])
    except (ValueError, AttributeError):
        return False
    allowed = [
        action
        for statement in _as_list(statements)
        if statement.get("Effect") == "Allow" and _is_for_cloudwatch(statement.get("Principal"))
        for action in _as_list(statement.get("Action", []))
    ]
    return all(any(_covers(action, needed) for action in allowed) for needed in NEEDED_KEY_ACTIONS)


def _is_for_cloudwatch(principal: object) -> bool:
    if isinstance(principal, dict):
        return CLOUDWATCH in _as_list(principal.get("Service", []))
    return principal == "*"


def _covers(pattern: str, action: str) -> bool:
    parts = (re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(".*".join(parts), action, re.IGNORECASE) is not None


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def judge_actions(alarm: Alarm, others: Iterable[Alarm]) -> list[Finding]:
    """
    Find an alarm that tells nobody.

    Args:
        alarm: The alarm.
        others: All alarms.

    Returns:
        Findings.
    """
    if not alarm.actions_enabled:
        remedy = f"aws cloudwatch enable-alarm-actions --alarm-names {alarm.name}"
        return [Finding(Level.PROBLEM, alarm.name, "its actions are disabled", remedy)]
    # A composite without actions is for dashboards.
    if not alarm.rule and alarms_of_cloudwatch.voice_of(alarm, others) is None:
        return [Finding(Level.PROBLEM, alarm.name, "it has no actions", "give it a topic and apply")]
    return []


def judge_age(alarm: Alarm, now: datetime, stuck_seconds: float) -> list[Finding]:
    """
    Find an alarm that waits for data in vain.

    Args:
        alarm: The alarm.
        now: The time.
        stuck_seconds: How long is in vain.

    Returns:
        Findings.
    """
    seconds = (now - alarm.since).total_seconds()
    if alarm.state != "INSUFFICIENT_DATA" or seconds < stuck_seconds:
        return []
    what = f"has been in INSUFFICIENT_DATA for {duration(seconds)}"
    return [Finding(Level.PROBLEM, alarm.name, what, "see that the service runs and publishes, and what it publishes")]


def judge_series(alarm: Alarm, published: Mapping[Series, Published]) -> list[Finding]:
    """
    Find series that an alarm reads and nobody publishes.

    Args:
        alarm: The alarm.
        published: What CloudWatch knows, by series.

    Returns:
        Findings. A metric of AWS may be one that appears with the first message or failure: that is a note.
    """
    return [
        _missing_series(alarm.name, series, published[series])
        for series in alarm.series
        if not published[series].exists
    ]


def _missing_series(alarm: str, series: Series, known: Published) -> Finding:
    what = f"reads {series.namespace} {series.name} {_keys_as_text(name for name, _ in series.dimensions)}"
    if known.keys:
        others = ", ".join(map(_keys_as_text, known.keys[:4]))
        return Finding(
            Level.PROBLEM, alarm, f"{what}; published is only {others}", "read a published set: no other has data"
        )
    if series.namespace.startswith("AWS/"):
        remedy = "compare names; fine if nothing has happened there yet"
        return Finding(Level.NOTE, alarm, f"{what}; AWS has published none in two weeks", remedy)
    spec = find(series.namespace, series.name)
    if spec and not spec.emits_zero:
        remedy = "fine until the first one; then see that the service publishes"
        return Finding(Level.NOTE, alarm, f"{what}; never published in two weeks", remedy)
    return Finding(Level.PROBLEM, alarm, f"{what}; never published in two weeks", "start the service, look at its log")


def _keys_as_text(keys: Iterable[str]) -> str:
    return "{" + ", ".join(keys) + "}"


def judge_runbook(alarm: Alarm, anchors: frozenset[str] | None) -> list[Finding]:
    """
    Find an alarm that does not say what to do.

    Args:
        alarm: The alarm.
        anchors: Sections there are. None: not looked at.

    Returns:
        Findings.
    """
    link = re.search(r"https?://\S+#([\w-]+)", alarm.description)
    if link is None:
        return [Finding(Level.PROBLEM, alarm.name, "its description has no link to a runbook", "add it and apply")]
    if anchors is not None and link[1] not in anchors:
        return [Finding(Level.PROBLEM, alarm.name, f"the runbooks have no section #{link[1]}", "write it")]
    return []


def anchors_of(markdown: str) -> frozenset[str]:
    """
    List the sections of a Markdown file.

    Args:
        markdown: The text.

    Returns:
        Their anchors, as GitHub makes them from headings, and those set by `<a id="...">`.
    """
    headings = re.findall(r"^#{1,6}\s+(.+?)\s*#*$", markdown, re.MULTILINE)
    explicit = re.findall(r'<a\s+(?:id|name)="([^"]+)"', markdown)
    return frozenset(explicit) | {_anchor(heading) for heading in headings}


def _anchor(heading: str) -> str:
    plain = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return plain.replace(" ", "-")


def masked(endpoint: str) -> str:
    """
    Show enough of an address to recognise it, and no more.

    Args:
        endpoint: Where a subscription leads.

    Returns:
        An e-mail address with all but the first letter of its name hidden; of anything else what comes before the path.
    """
    name, at, domain = endpoint.rpartition("@")
    if at and "://" not in endpoint:
        return f"{name[:1]}...@{domain}"
    return "/".join(endpoint.split("/")[:3])


def duration(seconds: float) -> str:
    """
    Write a duration for people.

    Args:
        seconds: How long.

    Returns:
        Whole days, hours or minutes, whichever is the largest that is not 0.
    """
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def _short(arn: str) -> str:
    return arn.rpartition(":")[2]
