"""Dashboards that CloudWatch would draw as they are meant; it does not check their bodies itself."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

from tests.infra.definitions import (
    Series,
    contract_complaints,
    expression_of,
    published_by_package,
    resources,
    series_of_alarm,
)

if TYPE_CHECKING:
    from tests.infra.conftest import Outcome

Widget = dict[str, Any]
COLUMNS = 24
SEARCH = re.compile(
    r"""SEARCH\('\{(?P<namespace>[\w/]+),(?P<keys>[\w,]+)\} MetricName="(?P<name>\w+)"', 'Sum', \d+\)"""
)


def _bodies(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {key: json.loads(one["dashboard_body"]) for key, one in resources(state, "aws_cloudwatch_dashboard").items()}


@pytest.fixture(params=["realtime", "trend"])
def widgets(request: pytest.FixtureRequest, state: dict[str, Any]) -> list[Widget]:
    """The widgets of one dashboard."""
    return _bodies(state)[request.param]["widgets"]


def _lines(widget: Widget) -> list[tuple[Series | None, dict[str, Any]]]:
    """The lines of a graph: a series (None for an expression) and its options."""
    found = []
    for line in widget["properties"]["metrics"]:
        *head, options = line
        found.append((Series(head[0], head[1], frozenset(head[2::2])) if head else None, options))
    return found


def _graphs(widgets: list[Widget]) -> list[Widget]:
    return [widget for widget in widgets if widget["type"] == "metric"]


def test_widgets_fit_the_grid_and_do_not_overlap(outcome: Outcome) -> None:
    """Whatever the settings, widgets lie within 24 columns, side by side."""
    for run, state in outcome.states.items():
        for body in _bodies(state).values():
            for one in body["widgets"]:
                assert one["type"] in {"alarm", "metric", "text"}, run
                assert one["x"] >= 0, run
                assert one["y"] >= 0, run
                assert one["width"] >= 1, run
                assert 1 <= one["height"] <= 1000, run
                assert one["x"] + one["width"] <= COLUMNS, (run, one["properties"].get("title"))
            for one, other in combinations(body["widgets"], 2):
                apart = (
                    one["x"] + one["width"] <= other["x"]
                    or other["x"] + other["width"] <= one["x"]
                    or one["y"] + one["height"] <= other["y"]
                    or other["y"] + other["height"] <= one["y"]
                )
                assert apart, (run, one["properties"].get("title"), other["properties"].get("title"))


def test_graphs_have_what_cloudwatch_requires(widgets: list[Widget]) -> None:
    """A graph names its region, view and at least one line; a line with a period has one of whole minutes."""
    for widget in _graphs(widgets):
        properties = widget["properties"]
        assert properties["region"] == "eu-central-1"
        assert properties["view"] in {"timeSeries", "singleValue"}
        assert properties["metrics"]
        assert all(options.get("period", 60) % 60 == 0 for _, options in _lines(widget))


def test_every_line_of_a_graph_is_published(widgets: list[Widget]) -> None:
    """Graphs, too, read only dimension sets that are published, by name or by search."""
    series = [one for widget in _graphs(widgets) for one, _ in _lines(widget) if one]
    expressions = [options["expression"] for widget in _graphs(widgets) for one, options in _lines(widget) if not one]
    searches = [match for text in expressions if (match := SEARCH.fullmatch(text))]
    assert len(searches) == sum("SEARCH" in text for text in expressions) == 8
    series += [Series(found["namespace"], found["name"], frozenset(found["keys"].split(","))) for found in searches]
    assert list(contract_complaints(series, published_by_package(), rollup_only=False)) == []


def test_a_graph_shows_what_its_alarm_sees(widgets: list[Widget], state: dict[str, Any]) -> None:
    """A graph has the alarm's series and expression, and the alarm's threshold as a line."""
    graphs = {one["properties"]["title"]: one for one in _graphs(widgets) if one["properties"]["view"] == "timeSeries"}
    for key, alarm in resources(state, "aws_cloudwatch_metric_alarm").items():
        lines = _lines(graphs[key])
        assert {one for one, _ in lines if one} == set(series_of_alarm(alarm))
        assert [options["expression"] for one, options in lines if not one] == [
            text for text in [expression_of(alarm)] if text
        ]
        assert [line["value"] for line in graphs[key]["properties"]["annotations"]["horizontal"]] == [
            alarm["threshold"]
        ]


def test_expressions_name_lines_of_their_graph(widgets: list[Widget]) -> None:
    """Identifiers are unique in a graph, and what an expression fills is among them."""
    for widget in _graphs(widgets):
        lines = _lines(widget)
        ids = [options["id"] for _, options in lines if "id" in options]
        used = {name for _, options in lines for name in re.findall(r"FILL\((\w+),", options.get("expression", ""))}
        assert len(ids) == len(set(ids))
        assert used <= set(ids)
        assert any(options.get("visible", True) for _, options in lines)


def test_alarm_widgets_name_every_alarm(widgets: list[Widget], state: dict[str, Any]) -> None:
    """The status widgets show every alarm and composite, by the ARNs they will have."""
    shown = {arn for widget in widgets if widget["type"] == "alarm" for arn in widget["properties"]["alarms"]}
    named = {
        f"arn:aws:cloudwatch:eu-central-1:123456789012:alarm:{one['alarm_name']}"
        for kind in ("aws_cloudwatch_metric_alarm", "aws_cloudwatch_composite_alarm")
        for one in resources(state, kind).values()
    }
    assert shown == named
