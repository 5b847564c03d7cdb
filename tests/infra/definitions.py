"""Alarms and dashboards as Terraform plans them, and what is wrong with them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.infra.terraform import MODULE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Published = dict[tuple[str, str], set[frozenset[str]]]

# What AWS publishes by itself, from the services' lists of metrics.
OF_AWS: Published = {
    ("AWS/SQS", "ApproximateNumberOfMessagesVisible"): {frozenset({"QueueName"})},
    ("AWS/SQS", "ApproximateAgeOfOldestMessage"): {frozenset({"QueueName"})},
    ("AWS/SNS", "NumberOfNotificationsFailed"): {frozenset({"TopicName"})},
}

# In alarms these see more data than the alarm evaluates, or are not allowed at all.
_FORBIDDEN = (
    "AVG",
    "SUM",
    "MIN",
    "MAX",
    "STDDEV",
    "RUNNING_SUM",
    "DATAPOINT_COUNT",
    "REMOVE_EMPTY",
    "SEARCH",
    "METRICS",
)
_UNBOUNDED = frozenset({"UploadId", "RequestId", "UserId", "TenantId", "MessageId", "TraceId", "Email", "CustomerId"})
_TREATMENTS = frozenset({"missing", "ignore", "breaching", "notBreaching"})


class Series(NamedTuple):
    """
    One series that an alarm or a graph reads.

    Attributes:
        namespace: CloudWatch namespace.
        name: Metric name.
        dimensions: Names of its dimensions.
        unit: Unit it is limited to; None for none.
    """

    namespace: str
    name: str
    dimensions: frozenset[str]
    unit: str | None = None


def published_by_package() -> Published:
    """Read from the catalogue file which dimension sets are published."""
    entries = json.loads((MODULE / "catalogue.json").read_text())
    return {(one["namespace"], one["name"]): {frozenset(keys) for keys in one["dimension_sets"]} for one in entries}


def resources(state: Mapping[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """The attributes of each resource of a kind, by its key."""
    found = (one for one in state["root_module"]["resources"] if one["type"] == kind and one["mode"] == "managed")
    return {str(one.get("index", "")): one["values"] for one in found}


def series_of_alarm(alarm: Mapping[str, Any]) -> list[Series]:
    """Every series an alarm reads."""
    metrics = [metric for query in alarm["metric_query"] for metric in query["metric"]] or [alarm]
    return [
        Series(one["namespace"], one["metric_name"], frozenset(one["dimensions"] or {}), one["unit"]) for one in metrics
    ]


def expression_of(alarm: Mapping[str, Any]) -> str | None:
    """The expression an alarm evaluates; None for an alarm on one series."""
    returned = [query["expression"] for query in alarm["metric_query"] if query["return_data"]]
    return returned[0] if returned else None


def periods_of(alarm: Mapping[str, Any]) -> set[int]:
    """Every period an alarm uses, in seconds."""
    return {metric["period"] for query in alarm["metric_query"] for metric in query["metric"]} or {alarm["period"]}


def contract_complaints(found: Iterable[Series], published: Published, *, rollup_only: bool) -> Iterator[str]:
    """
    Compare series with what is published.

    Args:
        found: Series that are read.
        published: Dimension sets of each metric of the package.
        rollup_only: Whether the package's metrics may only be read without dimensions, as in alarms.
    """
    for one in found:
        sets = (published | OF_AWS).get((one.namespace, one.name))
        if sets is None:
            yield f"{one.namespace} {one.name} is not published"
        elif one.dimensions not in sets:
            yield f"{one.namespace} {one.name} is not published with the dimensions {sorted(one.dimensions)}"
        elif rollup_only and one.dimensions and (one.namespace, one.name) in published:
            yield f"{one.namespace} {one.name} has dimensions {sorted(one.dimensions)}; alarms read roll-ups"
        if one.unit is not None:
            yield f"{one.namespace} {one.name} is limited to the unit {one.unit}"


def lint(key: str, alarm: Mapping[str, Any], anchors: Iterable[str]) -> Iterator[str]:
    """What is wrong with one alarm, whatever it is about."""
    yield from _lint_expression(alarm)
    yield from _lint_evaluation(alarm)
    yield from _lint_words(key, alarm, anchors)
    for one in series_of_alarm(alarm):
        yield from (f"dimension {name} has values without bound" for name in one.dimensions & _UNBOUNDED)


def _lint_expression(alarm: Mapping[str, Any]) -> Iterator[str]:
    queries = alarm["metric_query"]
    if not queries:
        return
    expression = expression_of(alarm)
    if expression is None or sum(query["return_data"] is True for query in queries) != 1:
        yield "exactly one query must return data"
        return
    yield from (f"{name} is not for alarms" for name in _FORBIDDEN if re.search(rf"\b{name}\(", expression))
    if "/" in expression and not re.match(r"IF\([^/]+ >= [1-9]\d*, ", expression):
        yield "a rate needs a minimum volume"
    ids = [query["id"] for query in queries if query["metric"]]
    bare = re.sub(r"FILL\(\w+,0\)", "", expression)
    yield from (f"{name} is used without FILL" for name in ids if re.search(rf"\b{name}\b", bare))
    yield from (f"{name} is not used" for name in ids if not re.search(rf"\b{name}\b", expression))
    yield from (f"{name} is no id" for name in ids if not re.fullmatch(r"[a-z]\w*", name))
    if len(ids) > 10 or len(periods_of(alarm)) != 1:
        yield "at most 10 metrics, all of one period"


def _lint_evaluation(alarm: Mapping[str, Any]) -> Iterator[str]:
    period, count = max(periods_of(alarm)), alarm["evaluation_periods"]
    if period % 60 or period * count > (86_400 if period < 3_600 else 604_800):
        yield f"{count} periods of {period} s cannot be evaluated"
    if not 1 <= alarm["datapoints_to_alarm"] <= count:
        yield "datapoints_to_alarm must be between 1 and evaluation_periods"
    if alarm["treat_missing_data"] not in _TREATMENTS:
        yield "treat_missing_data must be stated"
    if alarm["extended_statistic"] and alarm["evaluate_low_sample_count_percentiles"] != "evaluate":
        yield "a percentile must be evaluated at low volume too"
    if not alarm["actions_enabled"] or len(alarm["alarm_actions"] or []) > 5:
        yield "actions must be enabled, and five at most"


def _lint_words(key: str, alarm: Mapping[str, Any], anchors: Iterable[str]) -> Iterator[str]:
    text = alarm["alarm_description"]
    if not re.match(r"(CRITICAL|WARNING): \S", text) or not text.lower().startswith(alarm["tags"]["Severity"]):
        yield "the description must start with the severity"
    link = re.search(r"^Runbook: https://\S+#(\S+)$", text, re.MULTILINE)
    if link is None or link[1] != key or key not in anchors:
        yield "the description must end with the link of a runbook that exists"
    if len(text) >= 1024:
        yield "the description must be shorter than 1024 characters"
