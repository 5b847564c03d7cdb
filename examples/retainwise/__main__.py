"""
`python -m examples.retainwise`: the command line of the demo.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from examples.retainwise import checks, demo, report
from examples.retainwise.processes import ChildDiedError

INTERRUPTED = 130

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    csv: Annotated[
        Path | None,
        typer.Option(
            help="A telco-style churn CSV, with or without Churn. Default: a built-in sample.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    minutes: Annotated[float, typer.Option(help="How long to upload.", min=0.0, max=30.0)] = 0.5,
    rate: Annotated[float, typer.Option(help="Uploads per second.", min=0.1, max=20.0)] = 4.0,
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1, max=16)] = 2,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running after the uploads, until Ctrl-C.")] = False,
    alarms: Annotated[
        bool,
        typer.Option("--alarms", help="Also apply the Terraform module in infra/, check it, and drill an alarm."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Directory for logs, tallies and the database. Default: a temporary one, removed when all is well."
        ),
    ] = None,
) -> None:
    """
    RetainWise in a box: upload customer files, score them, and read every metric back from CloudWatch.

    It all runs on this machine, on an embedded AWS; no account is touched.

    Ends with 0 if CloudWatch holds exactly what was recorded, with 1 if not.
    """
    _end_on_signals()
    directory = _directory(output)
    console = Console()
    code = 1
    console.print("[bold]RetainWise in a box[/bold], on an embedded AWS: nothing leaves this machine.\n")
    try:
        code = _run(demo.Options(csv, minutes, rate, workers, keep, alarms), directory, console)
    except KeyboardInterrupt:
        console.print("\nInterrupted. Everything is stopped.")
        code = INTERRUPTED
    finally:
        _tidy(directory, console, keep=output is not None or code not in {0, INTERRUPTED})
    raise typer.Exit(code)


def _run(options: demo.Options, directory: Path, console: Console) -> int:
    try:
        evidence = demo.run(options, directory, console)
    except (demo.DemoError, ChildDiedError, TimeoutError) as error:
        # As plain text: a log may hold what rich takes for markup.
        console.print(Text.assemble(("✗ ", "bold red"), str(error)), soft_wrap=True)
        return 1
    verdict = checks.verdict(evidence)
    console.print()
    report.show(console, evidence, verdict)
    return report.exit_code(verdict)


def _end_on_signals() -> None:
    """SIGTERM and a closed terminal are what Ctrl-C is: the context managers stop the children."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)


def _directory(output: Path | None) -> Path:
    if output is None:
        return Path(tempfile.mkdtemp(prefix="retainwise-demo-"))
    directory = output.resolve() / datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S")
    directory.mkdir(parents=True)
    return directory


def _tidy(directory: Path, console: Console, *, keep: bool) -> None:
    if keep and any(directory.iterdir()):
        console.print(f"Logs, tallies and the database are in {directory}", highlight=False, soft_wrap=True)
    else:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    app()
