"""What `retainwise-metrics emf-source` prints can be pasted in front of an inline handler."""

from __future__ import annotations

import json
import subprocess
import sys

from typer.testing import CliRunner

from retainwise_metrics import emf
from retainwise_metrics.cli.app import app


def test_it_prints_the_source() -> None:
    """Nothing but the source, which ends in a newline."""
    done = CliRunner().invoke(app, ["emf-source"])
    assert done.exit_code == 0, done.output
    assert done.stdout == emf.inline_source()
    assert done.stdout.endswith("\n")


def test_what_it_prints_runs_without_the_package() -> None:
    """Through a pipe, as a build script would use it, into an interpreter that has nothing else."""
    command = [sys.executable, "-m", "retainwise_metrics", "emf-source"]
    source = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    program = source + "logger = create_metrics_logger('Tests')\nlogger.put_metric('Rows', 7)\nlogger.flush()\n"
    bare = [sys.executable, "-I", "-S", "-c", program]
    written = subprocess.run(bare, capture_output=True, text=True, timeout=60, check=True).stdout
    assert json.loads(written)["Rows"] == 7
