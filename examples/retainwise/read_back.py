"""
What CloudWatch holds, asked of CloudWatch.

Its rules:

1. ListMetrics names the series, GetMetricStatistics has their numbers. Nothing is taken from what the applications or
   the library say, so a series that nobody expects is found as well as one that is missing.
2. moto answers a query for some dimensions with the sum over *every* series that has them, and a query without
   dimensions with the sum over all of the metric; CloudWatch answers with exactly the series asked for. As all series
   are known, what moto adds can be taken off again, from the series with most dimensions down: `exact`. What is left is
   the number of one series, so a value published under too few, too many or wrong dimensions makes two series differ.
3. A minimum cannot be taken off. It is compared all the same: what is published under dimensions is in the roll-up too,
   so the smallest value of the roll-up is the smallest value of all.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from examples.retainwise.tally import SeriesKey, Totals, nothing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PERIOD_SECONDS = 60
MARGIN = timedelta(minutes=5)
STATISTICS = ["Sum", "SampleCount", "Minimum", "Maximum"]


def read(cloudwatch: Any, namespaces: Iterable[str], since: datetime) -> dict[SeriesKey, Totals]:
    """
    Read every series of some namespaces.

    Args:
        cloudwatch: A boto3 client of the embedded AWS.
        namespaces: Where to look.
        since: When the run began, with a time zone.

    Returns:
        The numbers of each series since then.
    """
    keys = {key for namespace in namespaces for key in _series(cloudwatch, namespace)}
    window = (since - MARGIN, datetime.now(timezone.utc) + MARGIN)
    return exact({key: _statistics(cloudwatch, key, window) for key in keys})


def exact(answers: Mapping[SeriesKey, Totals]) -> dict[SeriesKey, Totals]:
    """
    Take off what moto adds to each answer.

    Args:
        answers: For each existing series, what moto answered: it and all series with the same dimensions and more.

    Returns:
        For each series its own count and total. The extremes are those of the answer.
    """
    found: dict[SeriesKey, Totals] = {}
    for key in sorted(answers, key=lambda key: len(key.dimensions), reverse=True):
        more = [totals for other, totals in found.items() if _has_more(other, key)]
        answer = answers[key]
        found[key] = answer._replace(
            samples=answer.samples - sum(totals.samples for totals in more),
            total=answer.total - sum(totals.total for totals in more),
        )
    return found


def _has_more(other: SeriesKey, key: SeriesKey) -> bool:
    return other[:2] == key[:2] and set(other.dimensions) > set(key.dimensions)


def _series(cloudwatch: Any, namespace: str) -> set[SeriesKey]:
    # moto lists a series without dimensions once for every stored value: the set removes those.
    pages = cloudwatch.get_paginator("list_metrics").paginate(Namespace=namespace)
    return {
        SeriesKey(namespace, metric["MetricName"], tuple(sorted((d["Name"], d["Value"]) for d in metric["Dimensions"])))
        for page in pages
        for metric in page["Metrics"]
    }


def _statistics(cloudwatch: Any, key: SeriesKey, window: tuple[datetime, datetime]) -> Totals:
    answer = cloudwatch.get_metric_statistics(
        Namespace=key.namespace,
        MetricName=key.name,
        Dimensions=[{"Name": name, "Value": value} for name, value in key.dimensions],
        StartTime=window[0],
        EndTime=window[1],
        Period=PERIOD_SECONDS,
        Statistics=STATISTICS,
    )
    sums = nothing("None")
    for point in answer["Datapoints"]:
        unit = point.get("Unit", "None")
        sums = sums.plus(Totals(unit, point["SampleCount"], point["Sum"], point["Minimum"], point["Maximum"]))
    return sums


def total_of(found: Mapping[SeriesKey, Totals], name: str, **dimensions: str) -> float:
    """
    The total of one series, by the name of its metric; 0 when there is none.
    """
    wanted = tuple(sorted(dimensions.items()))
    return sum(totals.total for key, totals in found.items() if key.name == name and key.dimensions == wanted)
