"""
What the benchmarks share: rounds that are interleaved, medians with their spread, ratios, tables and JSON.

1. Everything that is compared runs in one process, in turns: whatever slows the machine slows all of them.
2. A ratio is taken round by round, and the median of those is quoted: it holds while the machine's speed drifts.
3. Nothing is judged here. A target is printed beside the ratio, for the reader.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import sysconfig
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


class Rounds(NamedTuple):
    """
    One figure, once per round.

    Attributes:
        values: In the order of the rounds.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def low(self) -> float:
        """
        The lower quartile.
        """
        return percentile(sorted(self.values), 25)

    @property
    def high(self) -> float:
        """
        The upper quartile.
        """
        return percentile(sorted(self.values), 75)

    def over(self, other: Rounds) -> Rounds:
        """
        The ratio to another figure, round by round.
        """
        return Rounds(tuple(mine / theirs for mine, theirs in zip(self.values, other.values, strict=True)))

    def minus(self, other: Rounds) -> Rounds:
        """
        The difference from another figure, round by round.
        """
        return Rounds(tuple(mine - theirs for mine, theirs in zip(self.values, other.values, strict=True)))


Cell = str | float | Rounds | None


def percentile(ordered: Sequence[float], percent: float) -> float:
    """
    The nearest rank among values in ascending order.
    """
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]


def interleaved(cases: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Rounds]:
    """
    Run every case once per round, in another order each time: what a case leaves behind, in caches or on the clock, meets all others.

    Args:
        cases: What to run, by name; each answers with its figure.
        rounds: How many rounds.
    """
    found: dict[str, list[float]] = {name: [] for name in cases}
    order = list(cases)
    shuffle = random.Random(rounds).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            found[name].append(cases[name]())
    return {name: Rounds(tuple(values)) for name, values in found.items()}


def arguments(description: str) -> argparse.Namespace:
    """
    Read the command line that all benchmarks have: `--quick` and `--json FILE`.
    """
    parser = argparse.ArgumentParser(description=description.strip().partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: rougher figures, same tables")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures, every round of them")
    return parser.parse_args()


class Report:
    """
    Tables, printed as they come and written as JSON at the end.

    Args:
        name: Name of the benchmark.
        options: What `arguments` read.
    """

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        from rich.console import Console

        # Without a terminal Rich assumes 80 columns, and would cut what a file or a log has room for.
        self._console = Console(width=None if sys.stdout.isatty() else 140)
        self._path: Path | None = options.json
        self._found: dict[str, Any] = {"benchmark": name, "quick": options.quick, "machine": machine(), "tables": []}
        self._console.print(f"[bold]{name}[/bold] on {self._found['machine']['description']}")

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Cell]],
        *,
        note: str = "",
        brief: Sequence[str] = (),
    ) -> None:
        """
        Print a table and keep it for the JSON.

        Args:
            title: What it shows, with the unit.
            columns: Their headings; the first column names the row.
            rows: A cell is text, a number, or `Rounds`, which shows as its median and quartiles.
            note: What to know to read it.
            brief: Columns that show their median only, for want of room; the JSON has the rounds of all.
        """
        from rich.table import Table

        kept = [list(row) for row in rows]
        shown = Table(title=title, title_justify="left", caption=note or None, caption_justify="left")
        for number, column in enumerate(columns):
            shown.add_column(column, justify="right" if number else "left", overflow="fold")
        for row in kept:
            shown.add_row(*(_shown(cell, brief=column in brief) for column, cell in zip(columns, row, strict=True)))
        self._console.print()
        self._console.print(shown)
        named = [dict(zip(columns, map(_stored, row), strict=True)) for row in kept]
        self._found["tables"].append({"title": title, "rows": named, "note": note})

    def finish(self) -> None:
        """
        Write the JSON, if it was asked for.
        """
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self._found, indent=1) + "\n", encoding="utf-8")
            self._console.print(f"\nwritten: {self._path}")


def machine() -> dict[str, Any]:
    """
    What the absolute figures depend on.
    """
    python = f"{platform.python_implementation()} {platform.python_version()}"
    cores = os.cpu_count()
    optimized = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    busy = "" if load is None else f", load {load:.1f} at the start"
    build = "" if optimized else " (built without PGO)"
    return {
        "description": f"{cores} cores, {python}{build}, {platform.system()} {platform.machine()}{busy}",
        "cores": cores,
        "python": python,
        "optimized_build": optimized,
        "load_at_start": load,
    }


def _shown(cell: Cell, *, brief: bool) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Rounds) and brief:
        return _number(cell.median)
    if isinstance(cell, Rounds):
        return f"{_number(cell.median)} ({_number(cell.low)}-{_number(cell.high)})"
    return _number(cell)


def _number(value: float) -> str:
    """Three digits that count, without an exponent."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2
    return f"{value:,.{digits}f}"


def _stored(cell: Cell) -> Any:
    if isinstance(cell, Rounds):
        return {"median": cell.median, "low": cell.low, "high": cell.high, "rounds": list(cell.values)}
    return cell
