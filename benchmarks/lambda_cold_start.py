"""
What recording the first metric costs a Lambda function that starts: import, one metric, one document on stdout, in fresh interpreters.

Compared are `retainwise_metrics.emf`, aws-embedded-metrics and Powertools for AWS Lambda, each as its documentation shows it, in turns.
Their byte code is cached, as it is in a published layer. Code that is pasted inline has none and is compiled at each start: that is a row
of its own. The ratio is to what our module adds to a bare interpreter: the first metric with another library takes so many times as long.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from _harness import Report, Rounds, arguments, interleaved

from retainwise_metrics import emf

if TYPE_CHECKING:
    from collections.abc import Mapping

BARE, OURS, INLINE = "bare interpreter", "retainwise_metrics.emf", "retainwise_metrics.emf, pasted inline"

RECORD = """
metrics = create_metrics_logger("Tests")
metrics.put_metric("Rows", 1, COUNT)
metrics.flush()
"""

CODES = {
    BARE: "pass",
    OURS: f"from retainwise_metrics.emf import COUNT, create_metrics_logger{RECORD}",
    "aws-embedded-metrics": """
from aws_embedded_metrics import metric_scope

@metric_scope
def handler(event, context, metrics):
    metrics.set_namespace("Tests")
    metrics.put_metric("Rows", 1, "Count")

handler({}, None)
""",
    "Powertools": """
from aws_lambda_powertools import Metrics
from aws_lambda_powertools.metrics import MetricUnit

metrics = Metrics(namespace="Tests", service="bench")

@metrics.log_metrics
def handler(event, context):
    metrics.add_metric(name="Rows", unit=MetricUnit.Count, value=1)

handler({}, None)
""",
}

LAMBDA = {"AWS_LAMBDA_FUNCTION_NAME": "bench", "AWS_EMF_ENVIRONMENT": "Lambda", "AWS_REGION": "eu-central-1"}
"""What Lambda sets, and what keeps a library from asking the network where it runs."""

COLUMNS = ("process", "ms", "ms over bare", "times ours", "target")


def main() -> None:
    options = arguments(__doc__)
    report = Report("lambda_cold_start", options)
    with tempfile.TemporaryDirectory() as directory:
        commands = _commands(Path(directory))
        environment = _environment(directory)
        for name, command in commands.items():
            _check(name, command, environment)  # also compiles into the cache
        wall, cpu = _measure(commands, environment, rounds=7 if options.quick else 31)
        for title, found in (("wall clock", wall), ("user + system CPU", cpu)):
            report.table(f"From nothing to the first document, ms, {title}", COLUMNS, _rows(found))
    report.finish()


def _commands(directory: Path) -> dict[str, list[str]]:
    """How each process is started."""
    inline = directory / "index.py"
    inline.write_text(emf.inline_source() + RECORD, "utf-8")
    commands = {name: [sys.executable, "-c", code] for name, code in CODES.items()}
    return {**commands, INLINE: [sys.executable, str(inline)]}  # a script's byte code is never cached


def _environment(directory: str) -> dict[str, str]:
    """The caller's with Lambda's variables; byte code is cached in a place of our own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AWS_"))}
    return {**kept, **LAMBDA, "PYTHONPYCACHEPREFIX": directory}


def _check(name: str, command: list[str], environment: Mapping[str, str]) -> None:
    """A library that writes no document is not fast but broken."""
    written = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    found = [json.loads(line)["Rows"] for line in written.splitlines()]
    if found not in ([], [1], [[1.0]]) or bool(found) == (name == BARE):
        message = f"{name} wrote {written!r} instead of one document"
        raise SystemExit(message)


def _measure(
    commands: Mapping[str, list[str]], environment: Mapping[str, str], rounds: int
) -> tuple[dict[str, Rounds], dict[str, Rounds]]:
    cpu: dict[str, list[float]] = defaultdict(list)

    def run(name: str) -> float:
        before, started = _cpu_of_children(), time.perf_counter()
        subprocess.run(commands[name], env=environment, check=True, stdout=subprocess.DEVNULL)
        wall_ms = (time.perf_counter() - started) * 1e3
        cpu[name].append((_cpu_of_children() - before) * 1e3)
        return wall_ms

    wall = interleaved({name: lambda name=name: run(name) for name in commands}, rounds)
    return wall, {name: Rounds(tuple(cpu[name])) for name in commands}


def _rows(found: Mapping[str, Rounds]) -> list[tuple[object, ...]]:
    bare = found[BARE]
    ours = found[OURS].minus(bare)
    rows: list[tuple[object, ...]] = []
    for name, figure in found.items():
        over = None if name == BARE else figure.minus(bare)
        target = "" if name in {BARE, OURS, INLINE} else "> 1"
        rows.append((name, figure, over, over and over.over(ours), target))
    return rows


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
