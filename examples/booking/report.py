"""
What the load script prints: a table a person can check line by line, and the verdict.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from examples.booking.load import Outcome
    from examples.booking.proof import Fact


def show(console: Console, facts: Sequence[Fact], outcome: Outcome) -> None:
    """
    Print everything about a run.
    """
    made = len(outcome.books.requests)
    rate = made / outcome.seconds
    console.print(
        f"{made:,} requests in {outcome.seconds:.1f} s, {rate:,.0f} a second; {outcome.transport}.\n", highlight=False
    )
    for about, section in groupby(facts, key=lambda fact: fact.about):
        console.print(_table(about, section))
    console.print(_verdict(facts))


def exit_code(facts: Sequence[Fact]) -> int:
    """
    What the script ends with.

    Returns:
        0 when the metrics say exactly what happened, else 1.
    """
    return 0 if facts and all(fact.equal for fact in facts) else 1


def _table(about: str, facts: Iterable[Fact]) -> Table:
    table = Table(title=about, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    # The same widths in every table, so that they read as one.
    table.add_column("metric", no_wrap=True, min_width=36)
    table.add_column("happened", justify="right", no_wrap=True, min_width=11)
    table.add_column("published", justify="right", no_wrap=True, min_width=11)
    table.add_column("equal", no_wrap=True, min_width=7)
    for fact in facts:
        table.add_row(fact.metric, *_numbers(fact), _equal(fact))
    return table


def _numbers(fact: Fact) -> tuple[str, str]:
    decimals = 0 if fact.is_count else 3
    return f"{fact.happened:,.{decimals}f}", f"{fact.published:,.{decimals}f}"


def _equal(fact: Fact) -> Text:
    return Text("equal", style="green") if fact.equal else Text("DIFFERS", style="bold red")


def _verdict(facts: Sequence[Fact]) -> Text:
    wrong = sum(not fact.equal for fact in facts)
    if wrong:
        return Text(f"{wrong} of {len(facts)} facts differ.", style="bold red")
    return Text(f"All {len(facts)} facts are equal: the metrics say what happened.", style="bold green")
