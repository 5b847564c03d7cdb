"""
Plots of what the benchmarks wrote: `python _plots.py [DIRECTORY]`, by default `results/`, makes a PNG of each JSON it knows.

`scripts/bench` calls it after the benchmarks. A file that is not there is left out.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

OURS, THEIRS = "#1f6f8b", "#c9c9c9"
WIDTH_INCHES, DOTS_PER_INCH = 8.0, 100


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results"
    try:
        import matplotlib as mpl
    except ImportError as error:
        print(f"no plots: {error}. Install it with: pip install 'retainwise-metrics[bench]'")
        return
    mpl.use("Agg")
    for name, draw in PLOTS.items():
        path = directory / f"{name}.json"
        if path.exists():
            tables = json.loads(path.read_text("utf-8"))["tables"]
            target = path.with_suffix(".png")
            _draw(draw, tables, target)
            print(f"written: {target} ({target.stat().st_size:,} bytes)")


def _draw(draw: Callable[[Any, list[Any]], None], tables: list[Any], target: Path) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(WIDTH_INCHES, 4.2), dpi=DOTS_PER_INCH)
    draw(axes, tables)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(target)
    plt.close(figure)


def _rows(tables: list[Any], title: str) -> list[dict[str, Any]]:
    """The rows of the first table whose title begins so."""
    rows: list[dict[str, Any]] = next(table["rows"] for table in tables if table["title"].startswith(title))
    return rows


def _median(cell: Any) -> float:
    return float(cell["median"] if isinstance(cell, dict) else cell)


def _bars(axes: Any, names: list[str], values: list[float], ours: Callable[[str], bool], what: str) -> None:
    """Horizontal bars from the cheapest down, with a logarithmic axis and their figures."""
    ordered = sorted(zip(values, names, strict=True), reverse=True)
    colors = [OURS if ours(name) else THEIRS for _, name in ordered]
    bars = axes.barh([name for _, name in ordered], [value for value, _ in ordered], color=colors)
    axes.bar_label(bars, [f" {value:,.0f}" if value >= 10 else f" {value:.1f}" for value, _ in ordered], fontsize=8)
    axes.set_xscale("log")
    axes.tick_params(axis="y", labelsize=8)
    axes.set_title(what, loc="left", fontsize=10)


def record(axes: Any, tables: list[Any]) -> None:
    """What a record with three dimensions costs."""
    shown = {
        "empty put_metric, 3 dimensions": "an empty method",
        "put_metric, 3 dimensions": "put_metric",
        "put_metric, 3, 100 UserIds": "put_metric, with hashed UserId",
        "bound counter, inc": "bound counter",
        "prometheus bound inc": "prometheus_client, bound",
        "prometheus labels(k=v).inc": "prometheus_client",
        "datadogpy increment, aggregated": "datadogpy, aggregated",
        "textbook, 3 dimensions": "textbook: a lock and a dict",
        "OpenTelemetry counter.add": "OpenTelemetry SDK",
        "aws-embedded-metrics, a document": "aws-embedded-metrics",
        "Powertools, a document": "Powertools",
        "naive, flushing inline": "naive, flushing inline",
    }
    found = {row["call"]: _median(row["ns"]) for row in _rows(tables, "Nanoseconds per record")}
    kept = {name: label for name, label in shown.items() if name in found}
    ours = {"put_metric", "put_metric, with hashed UserId", "bound counter"}
    _bars(
        axes,
        list(kept.values()),
        [found[name] for name in kept],
        ours.__contains__,
        "Nanoseconds per record with three dimensions, one thread (logarithmic)",
    )


def contention(axes: Any, tables: list[Any]) -> None:
    """Throughput by threads, relative to one."""
    rows = _rows(tables, "Thousands of records a second")
    threads = [column for column in rows[0] if column.endswith("threads")]
    for row in rows:
        design = row["design, series"]
        ours = not design.startswith("textbook")
        values = [_median(row[column]) for column in threads]
        style = "-" if " 1 series" in design else "--"
        color = {"put": OURS, "bou": "#e07b39"}.get(design[:3], "#8a8a8a")
        axes.plot(threads, values, style, color=color, marker="o", label=design, linewidth=2 if ours else 1)
    axes.set_yscale("log")
    axes.legend(fontsize=7)
    axes.set_title("Thousands of records a second, all threads together (logarithmic)", loc="left", fontsize=10)


def scale(axes: Any, tables: list[Any]) -> None:
    """Cost per record, and per series of a flush, by the number of series."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in _rows(tables, "Nanoseconds of CPU: a record"):
        name, series = re.fullmatch(r"(.*), ([\d,]+) series", row["call, one dimension"]).groups()  # type: ignore[union-attr]
        found.setdefault(name, []).append((int(series.replace(",", "")), _median(row["ns"])))
    found["flush, per series"] = [
        (int(row["series"].replace(",", "")), _median(row["µs per series"]) * 1e3)
        for row in _rows(tables, "A flush of all series")
    ]
    for name, points in found.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("series", fontsize=8)
    axes.legend(fontsize=7)
    axes.set_title("Nanoseconds of CPU by the number of series (logarithmic)", loc="left", fontsize=10)


def memory(axes: Any, tables: list[Any]) -> None:
    """What each scenario holds."""
    rows = _rows(tables, "Highest use of memory")
    names = [row["scenario"].replace(", ", ",\n", 1).replace(": ", ":\n") for row in rows]
    places = range(len(rows))
    for offset, (column, color) in enumerate((("allocated by Python", OURS), ("resident", THEIRS))):
        bars = axes.barh(
            [place + 0.38 * offset for place in places],
            [_median(row[column]) for row in rows],
            0.36,
            color=color,
            label=column,
        )
        axes.bar_label(bars, fmt=" %.1f", fontsize=8)
    axes.set_yticks([place + 0.19 for place in places], names, fontsize=8)
    axes.invert_yaxis()
    axes.legend(fontsize=8)
    axes.set_title("MiB above idle, the highest of the run", loc="left", fontsize=10)


def tail(axes: Any, tables: list[Any]) -> None:
    """Percentiles of the wake-up lag of an asyncio loop, and of the caller's latency."""
    for title, style in (
        ("Latency of put_metric with 3 dimensions, microseconds, waiting", "-"),
        ("Wake-up lag of an asyncio", "--"),
    ):
        for color, row in zip(("#8a8a8a", "#e07b39", OURS, "#6a4c93"), _rows(tables, title), strict=False):
            percents = [column for column in row if re.fullmatch(r"p[\d.]+", column)]
            what = "put_metric" if style == "-" else "asyncio loop"
            axes.plot(
                percents,
                [_median(row[column]) for column in percents],
                style,
                color=color,
                marker="o",
                label=f"{what}, {row['meanwhile']}",
            )
    axes.set_yscale("log")
    axes.legend(fontsize=7)
    axes.set_title("Microseconds: a call of put_metric, and how late an asyncio loop wakes", loc="left", fontsize=10)


def calls(axes: Any, tables: list[Any]) -> None:
    """Calls a minute."""
    rows = _rows(tables, "PutMetricData calls")
    names = [row["design, traffic"].replace(", all", ",\nall").replace(", without", ",\nwithout") for row in rows]
    _bars(
        axes,
        names,
        [float(row["calls a minute"]) for row in rows],
        lambda name: name.startswith("retainwise"),
        "PutMetricData calls a minute, 100 uploads a second (logarithmic)",
    )


PLOTS: dict[str, Callable[[Any, list[Any]], None]] = {
    "record": record,
    "contention": contention,
    "scale": scale,
    "memory": memory,
    "tail": tail,
    "calls": calls,
}

if __name__ == "__main__":
    main()
