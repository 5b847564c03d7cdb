"""
The reading side of the fake CloudWatch: `GetMetricStatistics`, `GetMetricData` and `ListMetrics` over the same wire.

Dimensions are exact, as on AWS: a query without dimensions finds the series without dimensions and nothing else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from retainwise_metrics.testing._fake_rules import COMBINATION, INVALID, MISSING, Problem
from retainwise_metrics.testing._fake_store import Series, Statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from retainwise_metrics.testing._fake_store import Store

_MAX_DATAPOINTS: Final = 1440
_PAGE: Final = 500
_VALIDATION: Final = "ValidationError"
_QUERY_ID: Final = re.compile(r"[a-z][A-Za-z0-9_]*")


class ReadRefusedError(Exception):
    """
    A query that CloudWatch, or this fake, does not answer.

    Attributes:
        problem: Code and message of the answer.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(code, message)


def get_metric_statistics(store: Store, query: Mapping[str, Any]) -> dict[str, Any]:
    """
    Statistics of one series, one datapoint per period and unit that has data.
    """
    names = _statistic_names(query)
    period, start, end = _window(query, int(_required(query, "Period")))
    if (end - start) / period > _MAX_DATAPOINTS:
        asked = f"You have requested up to {int((end - start) / period):,} datapoints"
        advice = "You may reduce the datapoints requested by increasing Period, or decreasing the time range."
        raise ReadRefusedError(COMBINATION, f"{asked}, which exceeds the limit of {_MAX_DATAPOINTS:,}. {advice}")
    found = store.periods(_series(query), start=start, end=end, period=period, unit=query.get("Unit"))
    points = (_datapoint(at, unit, statistics, names) for (at, unit), statistics in found.items())
    return {"Label": query["MetricName"], "Datapoints": [point for point in points if point]}


def get_metric_data(store: Store, query: Mapping[str, Any]) -> dict[str, Any]:
    """
    One result per `MetricStat` query; metric math and search expressions are refused.
    """
    queries = _required(query, "MetricDataQueries")
    ids = [str(item.get("Id")) for item in queries]
    if len(set(ids)) < len(ids) or not all(_QUERY_ID.fullmatch(item) for item in ids):
        raise ReadRefusedError(_VALIDATION, "Each Id must be unique and match [a-z][a-zA-Z0-9_]*.")
    wanted = [item for item in queries if item.get("ReturnData", True)]
    return {"MetricDataResults": [_result(store, query, item) for item in wanted], "Messages": []}


def list_metrics(store: Store, query: Mapping[str, Any]) -> dict[str, Any]:
    """
    The series that match a namespace, a name and dimension filters, 500 a page.
    """
    matching = [series for series in store.series() if _matches(series, query)]
    start = int(query.get("NextToken") or 0)
    page: dict[str, Any] = {"Metrics": [_metric(series) for series in matching[start : start + _PAGE]]}
    if start + _PAGE < len(matching):
        page["NextToken"] = str(start + _PAGE)
    return page


READS: Final[Mapping[str, Callable[[Store, Mapping[str, Any]], dict[str, Any]]]] = {
    "GetMetricStatistics": get_metric_statistics,
    "GetMetricData": get_metric_data,
    "ListMetrics": list_metrics,
}


def _result(store: Store, query: Mapping[str, Any], item: Mapping[str, Any]) -> dict[str, Any]:
    stat = item.get("MetricStat")
    if stat is None:
        raise ReadRefusedError(_VALIDATION, f"The query {item['Id']} has no MetricStat: expressions are not modelled.")
    period, start, end = _window(query, int(_required(stat, "Period")))
    series = _series(_required(stat, "Metric"))
    found = store.periods(series, start=start, end=end, period=period, unit=stat.get("Unit"))
    values = _values_by_time(found, str(_required(stat, "Stat")))
    times = sorted(values, reverse=query.get("ScanBy") != "TimestampAscending")
    return {
        "Id": item["Id"],
        "Label": item.get("Label", series.name),
        "Timestamps": times,
        "Values": [values[at] for at in times],
        "StatusCode": "Complete",
    }


def _values_by_time(found: Mapping[tuple[int, str], Statistics], name: str) -> dict[int, float]:
    """
    One value per period, whatever the unit.
    """
    merged: dict[int, Statistics] = {}
    for (at, _), statistics in found.items():
        merged.setdefault(at, Statistics()).merge(statistics)
    values = {at: _statistic(statistics, name) for at, statistics in merged.items()}
    return {at: value for at, value in values.items() if value is not None}


def _datapoint(at: int, unit: str, statistics: Statistics, names: Iterable[str]) -> dict[str, Any]:
    """
    One datapoint, empty when none of its statistics is available.
    """
    values = {name: _statistic(statistics, name) for name in names}
    simple = {name: value for name, value in values.items() if value is not None and not name.startswith("p")}
    extended = {name: value for name, value in values.items() if value is not None and name.startswith("p")}
    if extended:
        simple["ExtendedStatistics"] = extended  # type: ignore[assignment]
    return {"Timestamp": at, "Unit": unit, **simple} if simple else {}


def _statistic(statistics: Statistics, name: str) -> float | None:
    try:
        return statistics.statistic(name)
    except ValueError as error:
        raise ReadRefusedError(INVALID, str(error)) from error


def _statistic_names(query: Mapping[str, Any]) -> list[str]:
    simple, extended = query.get("Statistics") or [], query.get("ExtendedStatistics") or []
    if simple and extended:
        both = "The parameters Statistics and ExtendedStatistics are mutually exclusive"
        raise ReadRefusedError(COMBINATION, f"{both} and you have specified both.")
    if not simple and not extended:
        message = "At least one of the parameters Statistics and ExtendedStatistics must be specified."
        raise ReadRefusedError(COMBINATION, message)
    for name in simple or extended:
        _statistic(Statistics(), name)
    return [*simple, *extended]


def _window(query: Mapping[str, Any], period: int) -> tuple[int, float, float]:
    """
    The period and the time range, whose start is rounded down to a whole period.
    """
    start, end = float(_required(query, "StartTime")), float(_required(query, "EndTime"))
    if period not in {1, 5, 10, 20, 30} and (period < 60 or period % 60):
        raise ReadRefusedError(INVALID, "The parameter Period must be 1, 5, 10, 20, 30 or a multiple of 60.")
    if start >= end:
        raise ReadRefusedError(INVALID, "The parameter StartTime must be less than the parameter EndTime.")
    return period, start // period * period, end


def _series(metric: Mapping[str, Any]) -> Series:
    dimensions = {item["Name"]: item["Value"] for item in metric.get("Dimensions") or []}
    return Series.of(_required(metric, "Namespace"), _required(metric, "MetricName"), dimensions)


def _required(structure: Mapping[str, Any], name: str) -> Any:
    if structure.get(name) in (None, "", []):
        raise ReadRefusedError(MISSING, f"The parameter {name} is required.")
    return structure[name]


def _matches(series: Series, query: Mapping[str, Any]) -> bool:
    dimensions = dict(series.dimensions)
    return (
        query.get("Namespace") in {None, series.namespace}
        and query.get("MetricName") in {None, series.name}
        and all(
            item["Name"] in dimensions and item.get("Value") in {None, dimensions[item["Name"]]}
            for item in query.get("Dimensions") or []
        )
    )


def _metric(series: Series) -> dict[str, Any]:
    dimensions = [{"Name": name, "Value": value} for name, value in series.dimensions]
    return {"Namespace": series.namespace, "MetricName": series.name, "Dimensions": dimensions}
