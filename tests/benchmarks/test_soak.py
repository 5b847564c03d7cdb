"""
The soak runs, and ends with an error when something grows, gets lost or does not add up. Its figures are never judged here.
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

pytestmark = pytest.mark.skipif(not Path("/dev/fd").exists(), reason="descriptors are counted in /dev/fd")


@pytest.fixture(autouse=True)
def _importable() -> Iterator[None]:
    """Benchmarks are scripts that import each other by name, in this process and in those it starts; nothing of that is left behind."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))
    for name in set(sys.modules) - before:
        if (BENCHMARKS / f"{name}.py").exists():
            del sys.modules[name]


@pytest.fixture
def soak(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run for some seconds, and read what was written."""
    pytest.importorskip("rich", reason="benchmarks print their tables with it")

    def run(seconds: float, *leaks: str, spool: bool = False) -> dict[str, Any]:
        path = tmp_path / "soak.json"
        report = import_module("_harness").Report("soak", Namespace(quick=True, json=path))
        module = import_module("soak")
        module.run(report, module.Plan(seconds, sample_seconds=0.1, leaks=leaks, spool=spool, lenience=3.0))
        report.finish()
        return {table["title"].split(",")[0]: table["rows"] for table in json.loads(path.read_text("utf-8"))["tables"]}

    return run


@pytest.mark.parametrize("spool", [False, True], ids=["memory", "spool"])
def test_a_client_lives_through_all_phases_and_loses_nothing(
    soak: Callable[..., dict[str, Any]], tmp_path: Path, *, spool: bool
) -> None:
    """Books and ledger balance in each phase, what a hanging endpoint accepted is known to have come twice, and there is a picture."""
    found = soak(4.0, spool=spool)
    phases = [row["phase"] for row in found["Phases"]]
    assert phases == ["warming up", "healthy", "throttling", "error 500", "hanging", "refused", "healthy"]
    books = {
        row["what"].partition(":")[0]: int(row["measurements"].replace(",", ""))
        for row in found["Books of the whole run"]
    }
    assert books["taken from callers"] > 1_000
    assert books["refused, and the caller was told"] > 0
    assert books["received by the endpoint"] == books["taken from callers"] + books["of these twice"]
    pytest.importorskip("matplotlib", reason="plots need the extra bench")
    _draw(tmp_path)
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


def test_leaks_and_losses_are_noticed(soak: Callable[..., dict[str, Any]]) -> None:
    """A client that keeps memory, threads and descriptors, and whose sink forgets batches, ends the run; each of it is named."""
    with pytest.raises(RuntimeError) as caught:
        soak(4.0, "memory", "threads", "descriptors", "values")
    for what in ("anonymous MiB", "objects", "threads", "descriptors", "should have been received"):
        assert what in str(caught.value)


def test_a_ledger_that_does_not_balance_ends_the_run(soak: Callable[..., dict[str, Any]]) -> None:
    """Not at the end of an hour: at once."""
    with pytest.raises(RuntimeError, match="ledger does not balance"):
        soak(600.0, "ledger")


@pytest.mark.parametrize(("mib_a_phase", "noticed"), [(0.0, False), (0.5, True)])
def test_a_leak_too_slow_for_ten_minutes_is_noticed_in_hours(mib_a_phase: float, *, noticed: bool) -> None:
    """Each phase is within the allowance, and the line through them is not flat; noise alone is."""
    module = import_module("soak")
    report = import_module("_harness").Report("soak", Namespace(quick=True, json=None))
    phases = []
    for number in range(8):
        samples = [
            module.Sample(70.0, 50.0 + number * mib_a_phase + noise, 12, 13, 300, *[0] * 7) for noise in (-1, 0, 3)
        ]
        phases.append(module.Phase(module.HEALTHY, [600.0 * number + second for second in range(3)], samples))
    wrong = module._show_growth(report, phases, module.Plan(cycles=8))
    assert [what.partition(":")[0] for what in wrong] == ["anonymous MiB"] * noticed


def _draw(directory: Path) -> None:
    plots = import_module("_plots")
    sys.argv, before = ["_plots.py", str(directory)], sys.argv
    try:
        plots.main()
    finally:
        sys.argv = before
