"""
The alarms of the run: the module in `infra/` applied to the embedded AWS, checked, and one of them drilled.

What an operator would type is run as an operator would: `terraform apply`, `retainwise-metrics check`, `retainwise-metrics drill`.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from examples.retainwise.terraform import ROOT, Terraform, copy_of_module

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.console import Console

APPLY_SECONDS = 300.0
COMMAND_SECONDS = 120.0
DRILLED = "retainwise-dlq-messages-present"

ALARMS = """
module "alarms" {
  source = "./module"

  queue_name      = "%(queue)s"
  dlq_name        = "%(dead_letters)s"
  critical_emails = ["oncall@example.com"]
  warning_emails  = ["team@example.com"]
}
"""


class Watched(NamedTuple):
    """
    How the operators' commands ended.

    Attributes:
        applied: Exit code of `terraform apply`.
        checked: Exit code of `retainwise-metrics check`: 0 when every alarm reads what is published, and can tell somebody.
        drilled: Exit code of `retainwise-metrics drill`: 0 when the alarm's message arrived.
    """

    applied: int
    checked: int
    drilled: int


class AlarmsError(RuntimeError):
    """
    The alarms could not be made; the message says why.
    """


def make(directory: Path, *, endpoint: str, region: str, queue: str, dead_letters: str) -> int:
    """
    Apply the module.

    Args:
        directory: Where a directory for Terraform is made.
        endpoint: URL of the embedded AWS.
        region: AWS region.
        queue: Name of the queue of jobs.
        dead_letters: Name of its dead-letter queue.

    Returns:
        0.

    Raises:
        UnavailableError: There is no Terraform, or no AWS provider.
        AlarmsError: Terraform failed; the message holds what it said.
    """
    work = directory / "terraform"
    work.mkdir()
    copy_of_module(work / "module")
    root = ROOT % {"endpoint": endpoint, "region": region}
    (work / "main.tf").write_text(root + ALARMS % {"queue": queue, "dead_letters": dead_letters}, encoding="utf-8")
    terraform = Terraform(work, region=region)
    terraform.init()
    done = terraform.run("apply", "-auto-approve", "-no-color", timeout=APPLY_SECONDS)
    if done.code:
        msg = f"terraform apply failed:\n{done.output}"
        raise AlarmsError(msg)
    return done.code


def command(console: Console, environ: Mapping[str, str], directory: Path, *arguments: str) -> int:
    """
    Run one of the operators' commands and show what it prints.

    Args:
        console: Where to.
        environ: The command's environment; it leads to the embedded AWS.
        directory: Where the command writes.
        arguments: Such as `"check"`.

    Returns:
        Its exit code.
    """
    console.print(f"\n[bold]$ retainwise-metrics {' '.join(arguments)}[/bold]", highlight=False)
    done = subprocess.run(
        [sys.executable, "-I", "-m", "retainwise_metrics", *arguments],
        cwd=directory,
        env={**environ, "COLUMNS": str(console.width)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    console.print(done.stdout.rstrip(), markup=False, highlight=False, soft_wrap=True)
    return done.returncode
