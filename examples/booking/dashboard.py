"""
A CloudWatch dashboard of the service.

    python -m examples.booking.dashboard > dashboard.json
    aws cloudwatch put-dashboard --dashboard-name booking --dashboard-body file://dashboard.json

CloudWatch never adds up across dimensions, so every line names exactly the dimensions that the service publishes, or
searches for them; a test holds each against what a run has published. Rates are of counters without dimensions, so that
the same expressions work in alarms, where `SEARCH` does not.
"""

from __future__ import annotations

import json
import os
from typing import Any

from examples.booking.wiring import NAMESPACE

WIDTH, HEIGHT, COLUMNS = 8, 6, 3
Line = list[Any]
Widget = dict[str, Any]


def body(region: str) -> dict[str, Any]:
    """
    The dashboard.

    Args:
        region: AWS region of the metrics.

    Returns:
        What `PutDashboard` takes as `DashboardBody`, before it is made JSON.
    """
    graphs = [
        _graph("Bookings that succeed, %", _rate("booking.success", "booking.attempts"), top=100),
        _graph("Bookings", _sums("booking.attempts", "booking.success")),
        _graph("Bookings that fail, by type", _by_type("booking.failure")),
        _graph("Time to book, ms", _percentiles("booking.duration", status="success")),
        _graph("Time to fail, and until somebody hung up, ms", _medians("booking.duration", "failure", "cancelled")),
        _graph("Payments that succeed, %", _rate("payment.success", "payment.attempts"), top=100),
        _graph("Payments that fail, by type", _by_type("payment.failure")),
        _graph("Time to pay, ms", _percentiles("payment.duration", status="success")),
        _graph("Locks that somebody else held, %", _rate("reservation.lock_contended", "reservation.lock_acquired")),
        _graph("Wait for a lock, ms", _percentiles("reservation.lock_wait")),
        _graph("Consumer lag, ms", [*_percentiles("consumer.lag"), _line("consumer.lag", "Maximum")]),
        _graph("Messages", [*_sums("consumer.processed"), *_by_type("consumer.failed")]),
    ]
    placed = [_placed(graph, number) for number, graph in enumerate(graphs)]
    for widget in placed:
        widget["properties"]["region"] = region
    return {"start": "-PT3H", "periodOverride": "inherit", "widgets": placed}


def _placed(graph: Widget, number: int) -> Widget:
    place = {"x": WIDTH * (number % COLUMNS), "y": HEIGHT * (number // COLUMNS), "width": WIDTH, "height": HEIGHT}
    return {**graph, **place}


def _graph(title: str, lines: list[Line], *, top: float | None = None) -> Widget:
    axis = {"min": 0} if top is None else {"min": 0, "max": top}
    properties = {"title": title, "view": "timeSeries", "metrics": lines, "yAxis": {"left": axis}, "period": 60}
    return {"type": "metric", "properties": properties}


def _line(name: str, stat: str, *, label: str = "", **dimensions: str) -> Line:
    pairs = [part for pair in dimensions.items() for part in pair]
    return [NAMESPACE, name, *pairs, {"stat": stat, "label": label or stat}]


def _sums(*names: str) -> list[Line]:
    return [_line(name, "Sum", label=name) for name in names]


def _percentiles(name: str, **dimensions: str) -> list[Line]:
    return [_line(name, stat, **dimensions) for stat in ("p50", "p95", "p99")]


def _medians(name: str, *statuses: str) -> list[Line]:
    return [_line(name, "p50", label=f"p50, {status}", status=status) for status in statuses]


def _rate(part: str, whole: str) -> list[Line]:
    """
    A share in percent. What began in one minute may end in the next, so a single minute can be a little off.
    """
    hidden = [
        [NAMESPACE, name, {"id": name_id, "stat": "Sum", "visible": False}] for name_id, name in _ids(part, whole)
    ]
    return [*hidden, [{"id": "rate", "expression": "IF(whole > 0, 100 * FILL(part, 0) / whole)", "label": "%"}]]


def _ids(part: str, whole: str) -> list[tuple[str, str]]:
    return [("part", part), ("whole", whole)]


def _by_type(name: str) -> list[Line]:
    search = f"""SEARCH('{{{NAMESPACE},error_type}} MetricName="{name}"', 'Sum', 60)"""
    return [[{"expression": search, "label": "${PROP('Dim.error_type')}"}]]


if __name__ == "__main__":
    print(json.dumps(body(os.environ.get("AWS_REGION", "us-east-1")), indent=2))
