"""
What importing the package costs a process that starts: fresh interpreters, in turns, with byte code cached.

The ratio is to what `import boto3` adds to a bare interpreter. Importing the package loads none of its parts, so the table also says what
the parts cost once they are used: making a client is what every application does.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

from _harness import Report, Rounds, arguments, interleaved

if TYPE_CHECKING:
    from collections.abc import Mapping

BARE = "pass"
IMPORT = "import retainwise_metrics"
CLIENT = "from retainwise_metrics import CloudWatchMetrics, MetricsConfig; CloudWatchMetrics(MetricsConfig())"
BOTO3 = "import boto3"
CODES = {"bare interpreter": BARE, "import retainwise_metrics": IMPORT, "and make a client": CLIENT, BOTO3: BOTO3}

IMPORT_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")
"""A line of `-X importtime`: microseconds in the module itself, microseconds with what it imports, name."""

SLOWEST = 12
"""Modules listed."""


def main() -> None:
    options = arguments(__doc__)
    report = Report("import_time", options)
    with tempfile.TemporaryDirectory() as directory:
        environment = _environment(directory)
        for code in CODES.values():
            _start(code, environment)  # compiles into the cache
        wall, cpu = _measure(environment, rounds=7 if options.quick else 31)
        for title, found in (("wall clock", wall), ("user + system CPU", cpu)):
            report.table(f"Starting a process, ms, {title}", _COLUMNS, _rows(found))
        modules = _modules(environment, runs=3 if options.quick else 9)
    report.table(
        "Slowest modules behind 'make a client' (-X importtime, beyond the bare interpreter's)",
        ("module", "ms itself"),
        modules,
    )
    report.finish()


_COLUMNS = ("process", "ms", "ms over bare", "ratio to boto3", "target")


def _rows(found: Mapping[str, Rounds]) -> list[tuple[object, ...]]:
    bare, boto3 = found["bare interpreter"], found[BOTO3].minus(found["bare interpreter"])
    rows: list[tuple[object, ...]] = []
    for name, figure in found.items():
        over = figure.minus(bare)
        known = name != "bare interpreter"
        target = "< 0.1" if name == "import retainwise_metrics" else ""
        rows.append((name, figure, over if known else None, over.over(boto3) if known else None, target))
    return rows


def _environment(directory: str) -> dict[str, str]:
    """The caller's, but byte code is cached in a place of our own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "PYTHONPYCACHEPREFIX": directory}


def _measure(environment: Mapping[str, str], rounds: int) -> tuple[dict[str, Rounds], dict[str, Rounds]]:
    cpu: dict[str, list[float]] = defaultdict(list)

    def run(name: str) -> float:
        wall_ms, cpu_ms = _start(CODES[name], environment)
        cpu[name].append(cpu_ms)
        return wall_ms

    wall = interleaved({name: lambda name=name: run(name) for name in CODES}, rounds)
    return wall, {name: Rounds(tuple(cpu[name])) for name in CODES}


def _start(code: str, environment: Mapping[str, str]) -> tuple[float, float]:
    """Milliseconds of wall clock and of CPU from the start of an interpreter to its end."""
    before, started = _cpu_of_children(), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    return (time.perf_counter() - started) * 1e3, (_cpu_of_children() - before) * 1e3


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _modules(environment: Mapping[str, str], runs: int) -> list[tuple[str, float]]:
    bare = set(_import_times(BARE, environment))
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(runs):
        for name, own in _import_times(CLIENT, environment).items():
            if name not in bare:
                found[name].append(own)
    ranked = sorted(((median(own), name) for name, own in found.items()), reverse=True)
    total = sum(own for own, _ in ranked)
    return [(name, own) for own, name in ranked[:SLOWEST]] + [(f"all {len(ranked)}", total)]


def _import_times(code: str, environment: Mapping[str, str]) -> dict[str, float]:
    command = [sys.executable, "-X", "importtime", "-c", code]
    told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stderr
    return {name: int(own) / 1e3 for own, name in IMPORT_LINE.findall(told)}


if __name__ == "__main__":
    main()
