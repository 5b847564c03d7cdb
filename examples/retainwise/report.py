"""
What the demo prints: tables a person can check line by line, and the verdict.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from examples.retainwise.traffic import KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from examples.retainwise.checks import Check, Ending, Evidence
    from examples.retainwise.compare import Row
    from examples.retainwise.tally import Totals

NONE = "-"


def show(console: Console, evidence: Evidence, checks: Sequence[Check]) -> None:
    """
    Print everything about a run.

    Args:
        console: Where to.
        evidence: What is known.
        checks: What must be true, and whether it is.
    """
    for part in (_uploads(evidence), _series(evidence.rows), _processes(evidence)):
        console.print(part)
        console.print()
    for check in checks:
        console.print(_check_line(check))
    console.print()
    console.print(_last_line(evidence, checks))


def exit_code(checks: Sequence[Check]) -> int:
    """
    What the demo ends with.

    Returns:
        0 when every check is true, else 1.
    """
    return 0 if checks and all(check.true for check in checks) else 1


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)


def _uploads(evidence: Evidence) -> Table:
    table = _table("Uploads")
    for name in ("file", "sent", "HTTP", "counted as"):
        table.add_column(name, justify="right" if name == "sent" else "left")
    counts = Counter((sent.upload.kind, sent.status) for sent in evidence.sent)
    for (kind, status), number in sorted(counts.items(), key=lambda item: list(KINDS).index(item[0][0])):
        fate = KINDS[kind]
        counted = f"{fate.metric} ({fate.error_type})" if fate.metric else "UploadSuccess, WorkerSuccess"
        table.add_row(kind, str(number), str(status), counted)
    return table


def _series(rows: Sequence[Row]) -> Table:
    table = _table("CloudWatch, and what the applications recorded")
    table.add_column("metric\n  series", no_wrap=True, overflow="ellipsis", ratio=1)
    for heading in ("CloudWatch\nsum", "\ncount", "recorded\nsum", "\ncount"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("\nequal", no_wrap=True, min_width=7)
    table.caption = "* the library adds zeros, so that alarms have data: the sums are compared"
    table.caption_justify = "left"
    namespace = name = ""
    for row in rows:
        if row.key.namespace != namespace:
            namespace = row.key.namespace
            table.add_section()
            table.add_row(Text(namespace, style="bold cyan"))
        if row.key.name != name and row.key.dimensions:
            table.add_row(row.key.name)
        name = row.key.name
        table.add_row(_series_name(row), *_numbers(row.found), *_numbers(row.recorded), _equal(row))
    return table


def _series_name(row: Row) -> str:
    if not row.key.dimensions:
        return row.key.name
    pairs = ", ".join(f"{name}={value}" for name, value in row.key.dimensions)
    return f"  {pairs}" if row.series <= 1 else f"  {pairs} x{row.series}"


def _numbers(totals: Totals | None) -> tuple[str, str]:
    if totals is None:
        return NONE, NONE
    decimals = 0 if totals.unit == "Count" else 3 if abs(totals.total) < 10_000 else 1
    return f"{totals.total:,.{decimals}f}", f"{totals.samples:,.0f}"


def _equal(row: Row) -> Text:
    if not row.equal:
        return Text("DIFFERS", style="bold red")
    return Text("equal*" if row.only_sums else "equal", style="green")


def _processes(evidence: Evidence) -> Table:
    table = _table("Processes, and the ledger of each metrics client")
    for name in ("process", "pid", "exit", "recorded", "delivered", "dropped", "pending", "calls"):
        table.add_column(name, justify="left" if name == "process" else "right")
    table.caption = "recorded once per series it belongs to; calls are PutMetricData requests"
    table.caption_justify = "left"
    for ending in (*evidence.applications, *evidence.others):
        table.add_row(ending.name, str(ending.pid), _exit(ending), *_ledger(ending))
    return table


def _exit(ending: Ending) -> Text:
    return Text(str(ending.exit_code), style="green" if ending.exit_code == 0 else "bold red")


def _ledger(ending: Ending) -> tuple[str, ...]:
    if ending.tally is None:
        return (NONE,) * 5
    ledger = ending.tally.ledger
    numbers = (ledger.recorded, ledger.delivered, sum(ledger.dropped.values()), ledger.pending, ledger.calls)
    return tuple(f"{number:,}" for number in numbers)


def _check_line(check: Check) -> Text:
    mark, style = ("✓", "green") if check.true else ("✗", "bold red")
    return Text.assemble((mark, style), " ", (check.sentence, "" if check.true else style))


def _last_line(evidence: Evidence, checks: Sequence[Check]) -> Text:
    calls = sum(tally.ledger.calls for tally in evidence.tallies)
    delivered = sum(tally.ledger.delivered for tally in evidence.tallies)
    failed = sum(not check.true for check in checks)
    summary = f"{delivered:,} measurements in {calls} PutMetricData calls.\n"
    if failed:
        return Text.assemble(summary, (f"{failed} of {len(checks)} checks failed.", "bold red"))
    return Text.assemble(
        summary, (f"All {len(checks)} checks passed: everything recorded was delivered.", "bold green")
    )
