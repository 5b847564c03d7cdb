"""Every guarantee names a test that proves it, and each of these tests exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from retainwise_metrics import DropReason

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guarantees.md"
ROWS = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
GUARANTEES = [row for row in ROWS if row[2] != "Proof"]


def names_in(path: Path) -> set[str]:
    """Test functions and classes of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    # What Hypothesis makes of a state machine is a class in a variable.
    return names | {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


@pytest.mark.parametrize(("failure", "outcome", "proof"), GUARANTEES, ids=[row[0][:60] for row in GUARANTEES])
def test_a_guarantee_is_proven_by_tests_that_exist(failure: str, outcome: str, proof: str) -> None:
    """A row without a proof says that there is nothing to prove, and admits a loss."""
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", proof)
    if not named:
        assert proof == "nothing to prove"
        assert outcome.startswith("lost")
    for reason in re.findall(r"(?:dropped|refused \(False\)|dropped [^;]*?),? as `([\w-]+)`", outcome):
        assert DropReason(reason)
    for path, name in named:
        assert (ROOT / path).is_file(), f"{failure}: there is no {path}"
        assert not name or name in names_in(ROOT / path), f"{failure}: {path} has no {name}"


def test_the_way_a_process_ends_is_proven_row_by_row() -> None:
    """Each file about processes stands behind some row: whoever adds one says what it guarantees."""
    proofs = " ".join(proof for _, _, proof in GUARANTEES)
    unnamed = [path.name for path in (ROOT / "tests" / "process").glob("test_*.py") if path.name not in proofs]
    assert unnamed == ["test_frozen_time.py"], "freezegun is a matter of users' tests, not of what becomes of values"
