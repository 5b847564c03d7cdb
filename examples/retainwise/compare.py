"""
Whether CloudWatch holds what the applications did: pure functions from numbers to a verdict.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from retainwise_metrics.catalogue import find

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from examples.retainwise.tally import Dimensions, Ledger, SeriesKey, Totals

PERSONAL = frozenset({"UserId"})
"""Dimensions the applications fill with personal data; the library must hash their values."""

HASHED = "(hashed)"

SHORTEST_FOUND_INSIDE = 6
"""Characters of a personal value that is also looked for inside other text; `me` is part of many words."""

ROUNDING = 1e-9
"""How far two sums of the same floats, added in another order, may be apart: 1e-16 per addition, with much room."""


class Row(NamedTuple):
    """
    One line of the comparison.

    Attributes:
        key: The series; all buckets of a hashed dimension are one line.
        found: What CloudWatch holds; None when there is no such series.
        recorded: What the applications recorded; None when they recorded no such thing.
        series: How many series of CloudWatch the line stands for.
        only_sums: The library adds zeros to this series by itself: the count may be higher, the sum may not.
    """

    key: SeriesKey
    found: Totals | None
    recorded: Totals | None
    series: int
    only_sums: bool

    @property
    def equal(self) -> bool:
        """
        Whether both sides say the same.
        """
        if self.found is None or self.recorded is None or self.found.unit != self.recorded.unit:
            return False
        if self.only_sums:
            return _same(self.found.total, self.recorded.total) and self.found.samples >= self.recorded.samples
        return all(map(_same, self.found[1:], self.recorded[1:]))


def expected(records: Iterable[Mapping[SeriesKey, Totals]]) -> dict[SeriesKey, Totals]:
    """
    The series CloudWatch should hold, from what the applications recorded.

    Args:
        records: The tally of each process, under the dimensions the application gave.

    Returns:
        The same values under the dimensions they are to be published with: the catalogue's sets, or exactly the given
        ones for a metric outside it. Personal values are masked.
    """
    sums: dict[SeriesKey, Totals] = {}
    for process in records:
        for key, totals in process.items():
            for published in _published(key):
                _add(sums, published, totals)
    return sums


def compare(found: Mapping[SeriesKey, Totals], recorded: Mapping[SeriesKey, Totals]) -> list[Row]:
    """
    Put both sides next to each other.

    Args:
        found: What CloudWatch holds.
        recorded: What it should hold, from `expected`.

    Returns:
        A line for every series of either side, by namespace and name.
    """
    masked: dict[SeriesKey, Totals] = {}
    series: dict[SeriesKey, int] = {}
    for key, totals in found.items():
        place = key._replace(dimensions=_masked(key.dimensions))
        _add(masked, place, totals)
        series[place] = series.get(place, 0) + 1
    return [
        Row(key, masked.get(key), recorded.get(key), series.get(key, 0), _has_zeros(key))
        for key in sorted(masked.keys() | recorded.keys())
    ]


def ledger_problems(ledger: Ledger) -> list[str]:
    """
    What is wrong with a ledger at the end of a process: everything recorded must have been delivered.
    """
    problems = []
    if ledger.recorded != ledger.delivered + sum(ledger.dropped.values()) + ledger.pending:
        problems.append("does not add up")
    if ledger.dropped:
        problems.append("dropped " + ", ".join(f"{number} ({reason})" for reason, number in ledger.dropped.items()))
    if ledger.pending:
        problems.append(f"left {ledger.pending} pending")
    if ledger.recorded == 0:
        problems.append("recorded nothing")
    return problems


def personal_values(records: Iterable[Mapping[SeriesKey, Totals]]) -> set[str]:
    """
    The raw personal values the applications used as dimensions.
    """
    keys = (key for process in records for key in process)
    return {value for key in keys for name, value in key.dimensions if name in PERSONAL}


def leaked(found: Iterable[SeriesKey], personal: Iterable[str]) -> set[str]:
    """
    Which of the raw personal values reached CloudWatch, in any place.
    """
    texts = {text for key in found for text in (key.name, *(part for pair in key.dimensions for part in pair))}
    long = {value for value in personal if len(value) >= SHORTEST_FOUND_INSIDE}
    return {value for value in personal if value in texts} | {value for value in long if any(value in t for t in texts)}


def _published(key: SeriesKey) -> Iterator[SeriesKey]:
    spec = find(key.namespace, key.name)
    given = dict(key.dimensions)
    sets = spec.dimension_sets if spec else (tuple(given),)
    for names in sets:
        if given.keys() >= set(names):
            chosen = tuple(sorted((name, given[name]) for name in names))
            yield key._replace(dimensions=_masked(chosen))


def _masked(dimensions: Dimensions) -> Dimensions:
    return tuple((name, HASHED if name in PERSONAL else value) for name, value in dimensions)


def _add(sums: dict[SeriesKey, Totals], key: SeriesKey, totals: Totals) -> None:
    sums[key] = sums[key].plus(totals) if key in sums else totals


def _has_zeros(key: SeriesKey) -> bool:
    spec = find(key.namespace, key.name)
    return spec is not None and spec.emits_zero and not key.dimensions


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=1e-9)
