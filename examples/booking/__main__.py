"""
`python -m examples.booking`: put the booking service under load, and check its metrics against what happened.
"""

from __future__ import annotations

import tempfile
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from examples.booking import load, proof, report

INTERRUPTED = 130

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Sink(str, Enum):
    """
    Where the metrics go.
    """

    CLOUDWATCH = "cloudwatch"
    EMF = "emf"


@app.command()
def main(
    *,
    sink: Annotated[
        Sink, typer.Option(envvar="SINK", help="PutMetricData to an embedded CloudWatch, or EMF documents to a file.")
    ] = Sink.CLOUDWATCH,
    requests: Annotated[int, typer.Option(help="How many bookings are asked for.", min=1, max=100_000)] = 2_000,
    concurrency: Annotated[int, typer.Option(help="How many at once.", min=1, max=1_000)] = 50,
    seed: Annotated[int, typer.Option(help="Of everything that is left to chance.")] = 1,
    output: Annotated[
        Path | None,
        typer.Option(help="File to keep the EMF documents in. Default: a temporary one.", dir_okay=False),
    ] = None,
    miscount: Annotated[int, typer.Option(help="Pretend that so many more requests were made.", hidden=True)] = 0,
) -> None:
    """
    A ticketing service under load: every metric it publishes is held against what really happened.

    It all runs on this machine; no account is touched.

    Ends with 0 if the metrics say exactly what happened, with 1 if not.
    """
    console = Console()
    with tempfile.TemporaryDirectory(prefix="booking-") as directory:
        documents = output or Path(directory) / "metrics.jsonl"
        where = "EMF documents" if sink is Sink.EMF else "an embedded CloudWatch"
        console.print(f"[bold]A box office[/bold] under load; its metrics go to {where}.")
        try:
            with console.status(f"{requests:,} requests, {concurrency} at once"):
                outcome = load.run(load.Options(sink.value, requests, concurrency, seed, documents))
        except KeyboardInterrupt:
            console.print("\nInterrupted. Everything is stopped.")
            raise typer.Exit(INTERRUPTED) from None
    outcome.books.requests.extend(["never made"] * miscount)
    facts = proof.prove(outcome)
    report.show(console, facts, outcome)
    raise typer.Exit(report.exit_code(facts))


if __name__ == "__main__":
    app()
