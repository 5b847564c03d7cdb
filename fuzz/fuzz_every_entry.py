"""
A coverage-guided search for objects that a public entry cannot bear; the entries and the objects are those of the tests.

    pip install -e '.[test]' atheris
    python fuzz/fuzz_every_entry.py -max_total_time=600 fuzz/corpus

It ends with a dump of the input that raised what is not documented, lost a neighbour, or broke a limit of CloudWatch.
"""

# ruff: noqa: INP001
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["retainwise_metrics"]):
    from tests.properties import test_every_entry as entries
    from tests.properties.test_any_object import ANSWERS, BASES, ERRORS, METHODS, hostile

MOST_CALLS = 6
NAMES = sorted(entries.ENTRIES)
SPECIAL = sorted(entries.SPECIAL)
BEHAVIOURS = sorted([*ERRORS, *ANSWERS])


def an_object(data: atheris.FuzzedDataProvider, depth: int = 2) -> Any:
    """Any object, as the input says."""
    kind = data.ConsumeIntInRange(0, 8 if depth else 5)
    if kind == 0:
        return entries.SPECIAL[data.PickValueInList(SPECIAL)]()
    if kind == 1:
        methods = frozenset(data.PickValueInList(list(METHODS)) for _ in range(data.ConsumeIntInRange(1, 5)))
        try:
            return hostile(data.PickValueInList(sorted(BASES)), methods, data.PickValueInList(BEHAVIOURS))
        except Exception:  # noqa: BLE001 - it cannot be made
            return None
    if kind in (2, 3):
        return data.ConsumeUnicode(300) if kind == 2 else data.ConsumeUnicodeNoSurrogates(300)
    if kind in (4, 5):
        return data.ConsumeFloat() if kind == 4 else data.ConsumeInt(50)
    if kind == 6:
        return [an_object(data, depth - 1) for _ in range(data.ConsumeIntInRange(0, 3))]
    return {data.ConsumeUnicode(20): an_object(data, depth - 1) for _ in range(data.ConsumeIntInRange(0, 32))}


def one_input(raw: bytes) -> None:
    """A few calls of any entries on one client, between ordinary ones."""
    data = atheris.FuzzedDataProvider(raw)
    strict = data.ConsumeBool()
    world = entries.World(strict=strict)
    for _ in range(data.ConsumeIntInRange(1, MOST_CALLS)):
        entry = entries.ENTRIES[data.PickValueInList(NAMES)]
        changes = {name: an_object(data) for name in entry.ordinary if name not in entry.parts and data.ConsumeBool()}
        entries.attempt(world, entry, (*entry.errors, *(entries.STRICT if strict else ())), **changes)
        world.live()
    world.check()


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
