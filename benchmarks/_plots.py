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
        ours = design.startswith(("put", "bound"))
        values = [_median(row[column]) for column in threads]
        style = "-" if " 1 series" in design else "--"
        color = {"put": OURS, "bou": "#e07b39", "not": "#c8c8c8"}.get(design[:3], "#8a8a8a")
        axes.plot(threads, values, style, color=color, marker="o", label=design, linewidth=2 if ours else 1)
    axes.set_yscale("log")
    axes.legend(fontsize=7, ncol=2, loc="upper center", bbox_to_anchor=(0.5, -0.08))
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


PHASE_COLORS = {"throttling": "#f6e7b4", "error 500": "#f3cfc0", "hanging": "#d9cfe8", "refused": "#d5dde3"}
"""The unfriendly phases of a soak; the healthy ones stay white."""

NAMED_PHASES = 10
"""Most phases that have their names in the picture: those of one round."""

SOAKED = {
    "Resident memory of the client's process, MiB": ("anonymous MiB", "resident MiB"),
    "Measurements that wait for delivery": ("pending", "on disk"),
    "Threads and open descriptors": ("threads", "descriptors"),
}
"""The panels of a soak, and the columns that each shows."""


def soak(axes: Any, tables: list[Any]) -> None:
    """Memory, pending measurements, threads and descriptors over a whole run, its phases shaded."""
    phases = _rows(tables, "Phases")
    figure = axes.figure
    axes.remove()
    figure.set_size_inches(WIDTH_INCHES, 6.0)
    panels = figure.subplots(len(SOAKED), 1, sharex=True, gridspec_kw={"height_ratios": (3, 3, 2)})
    for panel, (title, columns) in zip(panels, SOAKED.items(), strict=True):
        _panel(panel, phases, title, columns)
    if len(phases) <= NAMED_PHASES:
        _name_phases(panels[0], phases)
    else:
        _explain_colors(panels[0])
    panels[-1].set_xlabel("minutes", fontsize=8)


def _panel(panel: Any, phases: list[dict[str, Any]], title: str, columns: tuple[str, ...]) -> None:
    spans = _spans(phases)
    for phase, start, end in spans:
        panel.axvspan(start, end, color=PHASE_COLORS.get(phase, "white"), linewidth=0)
    for column, color in zip(columns, (OURS, "#e07b39"), strict=False):
        panel.plot(*_over_time(phases, column), color=color, linewidth=1.2, label=column)
    if len(columns) > 1:
        panel.legend(fontsize=8, loc="center right", ncols=2)
    panel.set_title(title, loc="left", fontsize=9)
    panel.tick_params(labelsize=8)
    panel.yaxis.set_major_formatter("{x:,.0f}")
    panel.set_xlim(0, spans[-1][2])
    panel.set_ylim(0, 1.1 * panel.get_ylim()[1])
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def _over_time(phases: list[dict[str, Any]], column: str) -> tuple[list[float], list[float]]:
    """Minutes and values of all samples."""
    minutes = [second / 60 for phase in phases for second in phase["second"]["rounds"]]
    return minutes, [value for phase in phases for value in phase[column]["rounds"]]


def _spans(phases: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """Each phase with its first minute and that of the next one."""
    starts = [phase["second"]["rounds"][0] / 60 for phase in phases]
    ends = [*starts[1:], phases[-1]["second"]["rounds"][-1] / 60]
    return [(phase["phase"], start, end) for phase, start, end in zip(phases, starts, ends, strict=True)]


def _name_phases(panel: Any, phases: list[dict[str, Any]]) -> None:
    place = {"transform": panel.get_xaxis_transform(), "ha": "center", "va": "bottom"}
    for name, start, end in _spans(phases):
        panel.text((start + end) / 2, 0.04, name, fontsize=8, color="#555555", **place)


def _explain_colors(panel: Any) -> None:
    panel.add_artist(panel.get_legend())
    colors = [panel.axvspan(0, 0, color=color, label=name) for name, color in PHASE_COLORS.items()]
    panel.legend(handles=colors, fontsize=8, loc="lower right", ncols=len(colors))


PLOTS: dict[str, Callable[[Any, list[Any]], None]] = {
    "record": record,
    "contention": contention,
    "scale": scale,
    "memory": memory,
    "tail": tail,
    "calls": calls,
    "soak": soak,
}

if __name__ == "__main__":
    main()
