"""What `retainwise-metrics catalogue` prints is the catalogue, for Terraform, for the docs and for people."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from typer.testing import CliRunner

from retainwise_metrics import __main__ as entry
from retainwise_metrics.catalogue import CATALOGUE
from retainwise_metrics.cli import catalogue
from retainwise_metrics.cli.app import app


def invoke(*arguments: str) -> Any:
    """Run the verb in this process."""
    done = CliRunner().invoke(app, ["catalogue", *arguments], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_json_is_what_terraform_reads() -> None:
    """Every metric once, sorted, with exactly the fields Terraform knows, and a newline at the end."""
    text = invoke("--format", "json")
    assert text == catalogue.as_json()
    assert text.endswith("]\n")
    read = json.loads(text)
    assert len(read) == len(CATALOGUE)
    assert [(each["namespace"], each["name"]) for each in read] == sorted(
        (str(spec.namespace), spec.name) for spec in CATALOGUE
    )
    failure = next(each for each in read if each["name"] == "WorkerFailure")
    assert failure == {
        "name": "WorkerFailure",
        "namespace": "RetainWise/Worker",
        "unit": "Count",
        "dimension_sets": [[], ["ErrorType"]],
        "emits_zero": True,
        "meaning": "A job that ended without saved predictions.",
    }


def test_markdown_has_a_table_per_namespace() -> None:
    """Each metric is a row; nothing in a cell breaks the table."""
    text = invoke("--format", "markdown")
    assert text.count("\n## ") + text.startswith("## ") == len(catalogue.namespaces())
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == len(CATALOGUE)
    assert {row.count(" | ") for row in rows} == {4}


def test_the_table_fits_a_terminal() -> None:
    """80 columns are enough, and every metric is there."""
    text = invoke()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(spec.name in text for spec in CATALOGUE)


def test_without_the_extra_one_line_says_what_to_install() -> None:
    """Without typer and rich there is no traceback: the extra is named, and the exit code is 2."""
    hide = "import sys; sys.modules['typer'] = sys.modules['rich'] = None; "
    code = f"{hide}from retainwise_metrics.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "install the extra [cli]" in line
    assert entry.NEEDED == ("rich", "typer")


def test_the_logic_needs_no_extra() -> None:
    """Terraform's test of the committed file calls `as_json` where neither typer nor rich is installed."""
    hide = "import sys; sys.modules['typer'] = sys.modules['rich'] = None; "
    code = f"{hide}from retainwise_metrics.cli.catalogue import as_json; print(len(as_json()))"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=30)
