"""One `init`, one run of the tests in the module's own language, shared by everything that looks at their outcome."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.infra.terraform import MODULE, Terraform, copy_of_module

if TYPE_CHECKING:
    from collections.abc import Iterable

RUNBOOKS = MODULE.parent / "docs" / "runbooks.md"


class Outcome(NamedTuple):
    """
    What `terraform test` said.

    Attributes:
        status: `pass` or another word, by run.
        messages: What was complained about, by run; the empty name holds what belongs to no run.
        states: State after each run that applied; only the verbose files have one.
    """

    status: dict[str, str]
    messages: dict[str, list[str]]
    states: dict[str, dict[str, Any]]

    def read(self, events: Iterable[dict[str, Any]]) -> None:
        """Take in the events of one command."""
        for event in events:
            run = event.get("@testrun", "")
            if event["type"] == "test_run" and event["test_run"].get("progress") == "complete":
                self.status[run] = event["test_run"]["status"]
            elif event["type"] == "diagnostic":
                said = event["diagnostic"]
                self.messages.setdefault(run, []).append(f"{said['summary']}: {said.get('detail', '')}")
            elif event["type"] == "test_state":
                state = event["test_state"]
                self.states[run] = {name: state[name] for name in ("root_module", "outputs") if name in state}


@pytest.fixture(scope="session")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """Terraform in an initialised copy of the module."""
    ready = Terraform(copy_of_module(tmp_path_factory.mktemp("terraform") / "infra"))
    ready.init()
    return ready


@pytest.fixture(scope="session")
def outcome(terraform: Terraform) -> Outcome:
    """The outcome of every `*.tftest.hcl`, and the alarms and dashboards that came of it."""
    outcome = Outcome({}, {}, {})
    outcome.read(terraform.test_events("criteria.tftest.hcl", "options.tftest.hcl", verbose=True))
    outcome.read(terraform.test_events("validation.tftest.hcl", "examples.tftest.hcl", verbose=False))
    return outcome


@pytest.fixture(scope="session")
def state(outcome: Outcome) -> dict[str, Any]:
    """The module with its defaults, as applied to a mocked provider."""
    if "criterion_2_alarms" not in outcome.states:
        pytest.fail(f"terraform test produced no state: {outcome.messages}")
    return outcome.states["criterion_2_alarms"]


@pytest.fixture(scope="session")
def anchors() -> list[str]:
    """The anchors of the runbooks, in order."""
    return re.findall(r"^## ([a-z0-9-]+)$", RUNBOOKS.read_text(encoding="utf-8"), re.MULTILINE)
