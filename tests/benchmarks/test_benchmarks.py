"""
The benchmarks still run: each in the smallest size, for its own checks that nothing was lost, and for its tables. Never for its figures.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable() -> Iterator[None]:
    """Benchmarks are scripts that import each other by name; nothing of that is left behind."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))
    for name in set(sys.modules) - before:
        if (BENCHMARKS / f"{name}.py").exists():
            del sys.modules[name]


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks set credentials of nobody; they end with the test."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.setenv(name, "testing")


@pytest.fixture
def tables(tmp_path: Path) -> Callable[[str, Callable[[Any, Any], None]], list[dict[str, Any]]]:
    """Run a benchmark by name, and read the tables it wrote."""

    def run(name: str, measure: Callable[[Any, Any], None]) -> list[dict[str, Any]]:
        module, path = import_module(name), tmp_path / f"{name}.json"
        report = import_module("_harness").Report(name, Namespace(quick=True, json=path))
        measure(module, report)
        report.finish()
        written: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["tables"]
        return written

    return run


def rows(table: dict[str, Any]) -> list[Any]:
    """The first column of a table."""
    return [next(iter(row.values())) for row in table["rows"]]


def test_contention_counts_exactly(tables: Any) -> None:
    """Threads that fight about one series and about fifty lose nothing, in each design and at both switch intervals."""
    found = tables(
        "contention", lambda module, report: module.run(report, module.Size(rounds=1, seconds=0.01, threads=(1, 4)))
    )
    assert [len(table["rows"]) for table in found] == [8, 12, 8, 12]


def test_contention_notices_a_lost_value(tables: Any) -> None:
    """A design that loses one value ends the benchmark."""

    def measure(module: Any, report: Any) -> None:
        class Forgetful(module.Textbook):  # type: ignore[misc]
            def counts(self) -> list[int]:
                first, *others = super().counts()
                return [first - 1, *others]

        module.Textbook = Forgetful
        module.run(report, module.Size(rounds=1, seconds=0.01, threads=(1,), series=(1,)))

    with pytest.raises(RuntimeError, match="series should hold"):
        tables("contention", measure)


def test_flush_measures_every_step(tables: Any) -> None:
    """Folding, sealing, batching, serialising and sending all have figures."""
    found = tables(
        "flush", lambda module, report: module.run(report, module.Size(1, 5_000, 50, 1, ((50, 2),), step_rounds=1))
    )
    assert [len(table["rows"]) for table in found] == [4, 6, 5, 2]


def test_memory_delivers_everything_it_holds(tables: Any) -> None:
    """Each scenario runs in processes of its own, and its sums are exact."""

    def measure(module: Any, report: Any) -> None:
        module.SCENARIOS = {name: module.SCENARIOS[name] for name in (module.DISTINCT, module.OUTAGE)}
        module.run(report, rounds=1, share=0.01)

    held, precise, outage = tables("memory", measure)
    assert len(held["rows"]) == 2
    exact = {row["of"]: row["error"] for row in precise["rows"] if row["target"] == "0"}
    assert set(exact.values()) == {"0.0000"}
    assert [row["dropped"] for row in outage["rows"]] == ["0"]


def test_scale_knows_all_numbers_of_series(tables: Any) -> None:
    """Records and flushes are measured for each number of series."""
    found = tables(
        "scale", lambda module, report: module.run(report, module.Size(rounds=1, records=200, series=(10, 100)))
    )
    assert [len(table["rows"]) for table in found] == [6, 4, 2]


def test_calls_compares_the_same_records(tables: Any) -> None:
    """Both designs send everything, ours in far fewer calls."""
    pytest.importorskip("httpx", reason="the demo's traffic needs the extra demo")
    (found,) = tables("calls", lambda module, report: module.run(report, module.Size(minutes=1, rate=20)))
    naive, ours, *_ = (row["calls a minute"] for row in found["rows"])
    assert ours * 10 < naive


def test_fleet_delivers_everything_under_a_limit(tables: Any) -> None:
    """A fleet that is throttled, and one whose destination is down, deliver all that they recorded."""

    def measure(module: Any, report: Any) -> None:
        scenarios = (
            module.Scenario("throttled", 24, 3, batch_size=1),
            module.Scenario("down", 6, 3, namespaces=3, down=(1, 2)),
        )
        module.run(report, module.Size(20, 8, scenarios))

    calls, retries, _ = tables("fleet", measure)
    assert rows(calls) == ["throttled", "down"]
    assert all(int(row["retries"].replace(",", "")) > 0 for row in retries["rows"])


def test_record_leaves_out_what_is_not_installed(tables: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A library that is missing is named, with what to install; the others are measured."""

    def measure(module: Any, report: Any) -> None:
        def missing() -> Any:
            message = "No module named 'elsewhere'"
            raise ImportError(message)

        import_module("_peers").PACKAGES = {"elsewhere": missing}
        module.run(report, module.Size(rounds=1, seconds=0.0001))

    costs, _ = tables("record", measure)
    assert "elsewhere is left out" in capsys.readouterr().out
    assert "naive, flushing inline" in rows(costs)
    assert not [name for name in rows(costs) if "prometheus" in name]


def test_plots_are_made_of_what_was_written(tables: Any, tmp_path: Path) -> None:
    """Each known file becomes a picture."""
    pytest.importorskip("matplotlib", reason="plots need the extra bench")
    tables("scale", lambda module, report: module.run(report, module.Size(rounds=1, records=200, series=(10, 100))))
    plots = import_module("_plots")
    sys.argv, before = ["_plots.py", str(tmp_path)], sys.argv
    try:
        plots.main()
    finally:
        sys.argv = before
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")
