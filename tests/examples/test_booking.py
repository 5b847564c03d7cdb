"""The booking service: its metrics are right, its dashboard shows what it publishes, and its use cases know no cloud."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import random
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from examples.booking import dashboard, load, proof, wiring
from examples.booking.adapters import in_memory
from examples.booking.domain import Ports, Request, SeatBusy
from examples.booking.wiring import NAMESPACE, Telemetry, wire
from examples.booking.witness import Books
from retainwise_metrics.testing import RecordingMetrics

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SEARCH = re.compile(r"""SEARCH\('\{(?P<namespace>[\w/]+),(?P<keys>\w+)\} MetricName="(?P<name>[\w.]+)"', 'Sum', 60\)""")
SHORT = ["--requests", "400", "--concurrency", "40"]
REQUEST = Request("booking-1", "user-17", "row-1-seat-3", 4200)


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the load script as a user would."""
    environ = {name: value for name, value in os.environ.items() if name != "SINK"}
    return subprocess.run(
        [sys.executable, "-m", "examples.booking", *arguments],
        cwd=ROOT,
        env=environ | {"COLUMNS": "120"} | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# ---- the load script ----


def test_over_cloudwatch_the_metrics_say_what_happened():
    """Every fact is equal over PutMetricData, and the script says so and ends with 0."""
    done = run(*SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^ *booking\.attempts +400 +400 +equal", done.stdout, re.MULTILINE)
    assert re.search(r"All \d+ facts are equal", done.stdout)
    assert "DIFFERS" not in done.stdout
    assert "PutMetricData calls, 0 refused" in done.stdout


def test_over_emf_the_metrics_say_what_happened(tmp_path):
    """The same facts from the documents, which name seats, users and bookings as properties and never as dimensions."""
    path = tmp_path / "metrics.jsonl"
    done = run(*SHORT, "--output", str(path), SINK="emf")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^ *booking\.attempts +400 +400 +equal", done.stdout, re.MULTILINE)
    assert re.search(r"^ *requests named by a property +400 +400 +equal", done.stdout, re.MULTILINE)
    documents = [json.loads(line) for line in path.read_text().splitlines()]
    keys = {
        key
        for each in documents
        for one in each["_aws"]["CloudWatchMetrics"]
        for keys in one["Dimensions"]
        for key in keys
    }
    assert keys == {"error_type", "status"}
    first = next(each for each in documents if "booking.attempts" in each)
    assert {"booking_id", "user_id", "seat_id"} <= first.keys()


def test_one_request_too_many_is_noticed():
    """With one request in the books that was never made, the script names the differing facts and ends with 1."""
    done = run(*SHORT, "--miscount", "1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"^ *booking\.attempts +401 +400 +DIFFERS", done.stdout, re.MULTILINE)
    assert "2 of " in done.stdout


# ---- the proof ----


class Unreliable:
    """Everything that was published, with one number changed on the way."""

    def __init__(self, published: proof.Published, name: str, statistic: str, change: float) -> None:
        self._published = published
        self._name = name
        self._statistic = statistic
        self._change = change

    def _changed(self, statistic: str, name: str, value: float | None) -> Any:
        return value + self._change if (statistic, name) == (self._statistic, self._name) and value else value

    def sum(self, namespace: str, name: str, dimensions: Any = None) -> float:
        """Changed or not."""
        return self._changed("sum", name, self._published.sum(namespace, name, dimensions))

    def count(self, namespace: str, name: str, dimensions: Any = None) -> float:
        """Changed or not."""
        return self._changed("count", name, self._published.count(namespace, name, dimensions))

    def percentile(self, namespace: str, name: str, dimensions: Any, percent: float) -> float | None:
        """Changed or not."""
        return self._changed("percentile", name, self._published.percentile(namespace, name, dimensions, percent))

    def series(self) -> Any:
        """As they are, and one more if so wanted."""
        extra = [(NAMESPACE, self._name, (("seat_id", "A1"),))] if self._statistic == "series" else []
        return [*self._published.series(), *extra]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> load.Outcome:
    """A run over EMF."""
    documents = tmp_path_factory.mktemp("booking") / "metrics.jsonl"
    return load.run(load.Options("emf", 300, 40, 7, documents))


@pytest.mark.parametrize(
    ("name", "statistic", "change"),
    [
        ("booking.attempts", "sum", -1),
        ("booking.success", "sum", 1),
        ("booking.failure", "sum", 1),
        ("booking.duration", "count", 1),
        ("booking.duration", "sum", 0.001),
        ("booking.duration", "percentile", 0.001),
        ("payment.failure", "sum", -1),
        ("reservation.lock_contended", "sum", 1),
        ("reservation.lock_wait", "sum", 0.001),
        ("consumer.processed", "sum", -1),
        ("consumer.lag", "count", 1),
        ("booking.attempts", "series", 0),
    ],
)
def test_each_number_matters(outcome, name, statistic, change):
    """A count that is off by one, a microsecond in a sum and a series too many are all noticed."""
    assert all(fact.equal for fact in proof.prove(outcome))
    published = Unreliable(outcome.published, name, statistic, change)
    assert not all(fact.equal for fact in proof.prove(outcome._replace(published=published)))


def test_what_was_not_delivered_is_noticed(outcome):
    """A service that says it could not deliver everything fails the proof, and so does an impossible duration."""
    assert not all(fact.equal for fact in proof.prove(outcome._replace(delivered=False)))
    assert not all(fact.equal for fact in proof.prove(outcome._replace(named=set(outcome.books.requests[1:]))))
    outcome.books.odd_durations += 1
    assert not all(fact.equal for fact in proof.prove(outcome))
    outcome.books.odd_durations -= 1


def test_an_empty_run_proves_nothing(outcome):
    """Books without entries do not agree with metrics that have some."""
    assert not all(fact.equal for fact in proof.prove(outcome._replace(books=Books())))


def test_the_load_is_a_load(outcome):
    """Requests succeed, fail in several ways, hang up, and wait for each other's locks: nothing is proved about nothing."""
    books = outcome.books
    assert {"", "PaymentDeclined", "SeatTaken", "CancelledError"} <= books.ends.keys()
    assert books.locks_contended > 0
    assert len(books.durations) == 3
    assert books.tickets.keys() == {"", "TicketJammed"}
    assert sum(books.ends.values()) == len(set(books.requests)) <= 300


def test_chance_can_be_repeated():
    """The same seed makes the same requests."""
    assert list(load.plan(50, random.Random(3))) == list(load.plan(50, random.Random(3)))


# ---- the dashboard ----


def lines() -> Iterator[tuple[str, str, frozenset[str], dict[str, str]]]:
    """Namespace, metric, names of dimensions and their values of every line, searches included."""
    for widget in dashboard.body("eu-central-1")["widgets"]:
        for *head, options in widget["properties"]["metrics"]:
            if head:
                pairs = dict(zip(head[2::2], head[3::2], strict=True))
                yield head[0], head[1], frozenset(pairs), pairs
            elif "SEARCH" in options["expression"]:
                found = SEARCH.fullmatch(options["expression"])
                assert found, options
                yield found["namespace"], found["name"], frozenset({found["keys"]}), {}


def test_every_line_of_the_dashboard_is_published_with_exactly_these_dimensions(outcome):
    """Lines name series that a run has published; searches, their dimension sets."""
    series = outcome.published.series()
    sets = {(space, name, frozenset(dict(pairs))) for space, name, pairs in series}
    exact = {(space, name, pairs) for space, name, pairs in series}
    shown = list(lines())
    assert [line[:3] for line in shown if line[:3] not in sets] == []
    assert [line for line in shown if line[3] and (*line[:2], tuple(sorted(line[3].items()))) not in exact] == []


def test_the_dashboard_shows_every_metric(outcome):
    """Nothing is published that nobody can look at."""
    assert {line[1] for line in lines()} == {name for _, name, _ in outcome.published.series()}


def test_the_dashboard_has_what_was_asked_for():
    """Success rate by metric math, latency percentiles, errors by type, consumer lag; widgets that fit the grid."""
    widgets = dashboard.body("eu-central-1")["widgets"]
    graphs = {widget["properties"]["title"]: widget["properties"]["metrics"] for widget in widgets}
    rate = graphs["Bookings that succeed, %"]
    assert [line[1] for line in rate[:2]] == ["booking.success", "booking.attempts"]
    ids = {line[-1]["id"] for line in rate[:2]}
    assert set(re.findall(r"\b(?:part|whole)\b", rate[2][0]["expression"])) == ids
    assert [line[-1]["stat"] for line in graphs["Time to book, ms"]] == ["p50", "p95", "p99"]
    assert "booking.failure" in graphs["Bookings that fail, by type"][0][0]["expression"]
    assert graphs["Consumer lag, ms"][0][1] == "consumer.lag"
    for one, other in combinations(widgets, 2):
        assert one["x"] + one["width"] <= 24
        assert (one["x"], one["y"]) != (other["x"], other["y"])


def test_the_dashboard_can_be_printed():
    """`python -m examples.booking.dashboard` prints what `put-dashboard` takes."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.booking.dashboard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert len(json.loads(done.stdout)["widgets"]) == 12


# ---- the service ----


def test_only_the_wiring_knows_where_metrics_go():
    """Domain, use cases, consumer and API import the protocol and the tracker, and no client, sink or adapter of metrics."""
    for name in ("domain", "use_cases", "consumer", "api", "adapters"):
        tree = ast.parse((ROOT / "examples" / "booking" / f"{name}.py").read_text())
        imported = {
            f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and "retainwise_metrics" in (node.module or "")
            for alias in node.names
        }
        assert imported <= {"retainwise_metrics.MetricsService", "retainwise_metrics.use_cases.track_use_case"}, name


def book(ports: Ports, metrics: RecordingMetrics) -> Any:
    """Make one request, in a service over a fake."""
    service = wire(ports, Telemetry(metrics, lambda: None, lambda: True))
    return asyncio.run(service.api.post_booking(REQUEST))


class Declines:
    """Never charges."""

    async def charge(self, *_: object) -> Any:
        """Decline."""
        from examples.booking.domain import PaymentDeclined

        raise PaymentDeclined


class Busy:
    """Never grants."""

    def hold(self, _seat_id: str) -> Any:
        """Give up."""
        raise SeatBusy(20.0)


def test_a_seat_whose_payment_is_declined_is_on_sale_again():
    """The customer is told, the seat can be booked by the next one, and both failures are counted where they happened."""
    ports, metrics = in_memory(1)._replace(gateway=Declines()), RecordingMetrics()

    assert [book(ports, metrics).status for _ in range(2)] == [402, 402]
    metrics.assert_counted("booking.failure", {"error_type": "PaymentDeclined"}, value=2)
    metrics.assert_counted("payment.failure", {"error_type": "PaymentDeclined"}, value=2)
    metrics.assert_counted("reservation.lock_acquired", value=2)
    metrics.assert_not_counted("booking.success")
    metrics.assert_property("seat_id", "row-1-seat-3")


def test_a_seat_in_high_demand():
    """Who gives up waiting for the lock is told to come again, and the wait is recorded."""
    metrics = RecordingMetrics()

    assert book(in_memory(1)._replace(locks=Busy()), metrics).status == 503
    metrics.assert_counted("reservation.lock_contended")
    metrics.assert_not_counted("reservation.lock_acquired")
    metrics.assert_timed("reservation.lock_wait", value_ms=20.0)
    metrics.assert_not_counted("payment.attempts")


def test_an_unknown_sink_is_refused():
    """A typo in `SINK` does not silently publish elsewhere."""
    with pytest.raises(ValueError, match="SINK is 'emff', but must be one of cloudwatch, emf"):
        wiring.telemetry({"SINK": "emff"})
