"""
What the commands show: tables that fit 80 columns, progress, and one line per problem.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from retainwise_metrics.cli import catalogue
from retainwise_metrics.cli.check import Level
from retainwise_metrics.cli.drill import Outcome
from retainwise_metrics.cli.redaction import redacted, redacted_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from retainwise_metrics.cli.access import Target
    from retainwise_metrics.cli.check import Finding
    from retainwise_metrics.cli.drill import Result
    from retainwise_metrics.cli.replay_dlq import Letter, Tally
    from retainwise_metrics.dimensions.policy import DimensionPolicy

console = Console(markup=False, highlight=False, emoji=False)
"""Results, on standard output."""

notes = Console(stderr=True, markup=False, highlight=False, emoji=False)
"""Everything that is not the result: where a command works, progress, questions, errors."""

_COLOURS: Final = {
    Outcome.PROVEN: "green",
    Outcome.READY: "green",
    Outcome.SKIPPED: "dim",
    Outcome.REFUSED: "yellow",
    Outcome.FAILED: "red",
    Outcome.INTERRUPTED: "yellow",
}


def plain_table(*, title: str = "") -> Table:
    """
    Start a table in the style of all commands.

    Args:
        title: What the table is about; empty for none.

    Returns:
        A table without columns.
    """
    return Table(
        title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1, 0, 0)
    )


def progress(what: str, total: int | None) -> Progress:
    """
    Start a progress bar on standard error; nothing is drawn where that is not a terminal.

    Args:
        what: What is counted.
        total: How many there are. None: not known.

    Returns:
        A context manager with one task, whose id is 0.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=notes,
        transient=True,
        disable=not notes.is_terminal,
    )
    bar.add_task(what, total=total)
    return bar


def show_target(target: Target) -> None:
    """
    Say where a command works.

    Args:
        target: Account, region and addresses.
    """
    notes.print(f"Account   {target.account} as {target.operator}")
    notes.print(f"Region    {target.region}")
    for number, endpoint in enumerate(target.endpoints):
        notes.print("Endpoint " if number == 0 else "         ", endpoint, soft_wrap=True)


def catalogue_tables() -> tuple[Table, ...]:
    """
    Draw the catalogue.

    Returns:
        One table per namespace.
    """
    return tuple(_catalogue_table(namespace) for namespace in catalogue.namespaces())


def _catalogue_table(namespace: str) -> Table:
    table = plain_table(title=namespace)
    for heading in catalogue.COLUMNS:
        table.add_column(
            heading, overflow="fold", no_wrap=heading == "Metric", ratio=2 if heading == "Meaning" else None
        )
    for row in catalogue.rows_of(namespace):
        table.add_row(*row)
    return table


def show_drill(results: Sequence[Result]) -> None:
    """
    Print how a drill went: a table, then what has to be done.

    Args:
        results: Of all alarms.
    """
    if not results:
        return
    console.print(drill_table(results))
    remarks = [result for result in results if result.note]
    if remarks:
        console.print()
    for result in remarks:
        console.print(Text(f"{result.alarm}: {result.note}", style=_COLOURS[result.outcome]), soft_wrap=True)


def drill_table(results: Iterable[Result]) -> Table:
    """
    Draw how a drill went.

    Args:
        results: Of all alarms.

    Returns:
        One row per alarm; times are seconds after it was raised.
    """
    table = plain_table()
    table.add_column("Alarm", no_wrap=True)
    table.add_column("Severity", no_wrap=True)
    table.add_column("Result", no_wrap=True)
    table.add_column("Action", justify="right", no_wrap=True)
    table.add_column("Arrival", justify="right", no_wrap=True)
    table.add_column("Left in", no_wrap=True)
    for result in results:
        table.add_row(
            result.alarm,
            result.severity or "-",
            Text(result.outcome.value, style=_COLOURS[result.outcome]),
            _seconds(result.action_seconds),
            _seconds(result.delivery_seconds),
            {"INSUFFICIENT_DATA": "NO DATA"}.get(result.restored, result.restored) or "-",
        )
    return table


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"


def show_findings(findings: Iterable[Finding]) -> None:
    """
    Print what a check found: what it is about, what is wrong, and what to do, on three lines each.

    Args:
        findings: In the order in which they are to be looked at.
    """
    for finding in findings:
        style = "red" if finding.level is Level.PROBLEM else "yellow"
        console.print(Text(f"{finding.level.value:<8}", style=style), Text(finding.subject, style="bold"))
        for line in (finding.what, f"-> {finding.remedy}"):
            console.print(Padding(line, (0, 0, 0, 9)))
        console.print()


def letters_table(letters: Iterable[Letter]) -> Table:
    """
    Draw dead letters without their contents.

    Args:
        letters: Any number.

    Returns:
        One row per letter.
    """
    table = plain_table()
    table.add_column("Message id", no_wrap=True)
    table.add_column("Sent (UTC)", no_wrap=True)
    table.add_column("Reads", justify="right", no_wrap=True)
    table.add_column("Bytes", justify="right", no_wrap=True)
    for letter in letters:
        reads = letter.system.get("ApproximateReceiveCount", "-")
        table.add_row(letter.message_id, _sent(letter), reads, str(letter.size))
    return table


def show_letter(letter: Letter, policy: DimensionPolicy) -> None:
    """
    Print a dead letter, with personal data hidden.

    Args:
        letter: The letter.
        policy: The rules of what is personal.
    """
    console.print(Text(f"{letter.message_id}  sent {_sent(letter)} UTC", style="bold"))
    texts = {name: given["StringValue"] for name, given in letter.attributes.items() if "StringValue" in given}
    for name, value in redacted_fields(texts, policy).items():
        console.print(f"{name}: {value}", soft_wrap=True)
    console.print(redacted(letter.body, policy), soft_wrap=True)
    console.print()


def show_tally(tally: Tally) -> None:
    """
    Print how a replay went.

    Args:
        tally: What became of how many letters.
    """
    table = plain_table()
    table.show_header = False
    table.add_column(justify="right")
    table.add_column()
    for number, meaning in (
        (tally.moved, "moved"),
        (tally.finished, "moved by an earlier run, now deleted"),
        (tally.refused, "refused by the queue, still dead letters"),
        (tally.left_over, "moved but not deleted: run again with the same log"),
        (tally.passed_over, "passed over by the filter"),
    ):
        if number or meaning == "moved":
            table.add_row(str(number), meaning)
    console.print(table)
    if tally.problem:
        console.print(Text(f"Stopped early: {tally.problem}", style="red"), soft_wrap=True)


def _sent(letter: Letter) -> str:
    from datetime import datetime, timezone

    return f"{datetime.fromtimestamp(letter.sent, timezone.utc):%Y-%m-%d %H:%M:%S}" if letter.sent else "-"
