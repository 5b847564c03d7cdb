"""The module is complete, formatted and valid, and its own tests pass."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics.cli.catalogue import as_json
from tests.infra.terraform import MODULE

if TYPE_CHECKING:
    from tests.infra.conftest import Outcome
    from tests.infra.terraform import Terraform

FILES = [
    "versions.tf", "variables.tf", "main.tf", "alarms.tf", "composites.tf", "sns.tf", "kms.tf", "iam.tf", "dashboards.tf", "outputs.tf",
    "README.md",
    "catalogue.json", "examples/minimal/main.tf", "examples/complete/main.tf", "examples/existing-topic/main.tf",
]  # fmt: skip


def _text(name: str) -> str:
    return (MODULE / name).read_text(encoding="utf-8")


def _blocks(kind: str, text: str) -> dict[str, str]:
    return dict(re.findall(rf'^{kind} "(\w+)" {{\n(.*?)^}}', text, re.MULTILINE | re.DOTALL))


VARIABLES = _blocks("variable", _text("variables.tf"))
OUTPUTS = _blocks("output", _text("outputs.tf"))
RUNS = [
    run for path in sorted(MODULE.glob("tests/*.tftest.hcl")) for run in _blocks("run", _text(f"tests/{path.name}"))
]


def _expected_failures() -> Counter[str]:
    lists = re.findall(r"expect_failures = \[(.*?)\]", _text("tests/validation.tftest.hcl"), re.DOTALL)
    return Counter(target.strip() for found in lists for target in found.split(",") if target.strip())


@pytest.mark.parametrize("name", FILES)
def test_the_module_has_its_files(name: str) -> None:
    """Criterion 1: the root module has the files that readers of Terraform modules look for."""
    assert (MODULE / name).is_file()


def test_versions_are_bounded() -> None:
    """Criterion 1: Terraform from 1.7, the AWS provider from 5 and below 7."""
    text = _text("versions.tf")
    assert 'required_version = ">= 1.7"' in text
    assert 'version = ">= 5.0, < 7.0"' in text


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_is_typed_described_and_validated(name: str) -> None:
    """Criterion 1: a variable has a type and a description, and a rule unless its type is rule enough."""
    block = VARIABLES[name]
    assert re.search(r"^  description = \"\S.{20,}\"$", block, re.MULTILINE)
    kind = re.search(r"^  type +?= (.+)$", block, re.MULTILINE)
    assert kind
    assert kind[1] == "bool" or "validation {" in block


@pytest.mark.parametrize("name", VARIABLES)
def test_each_rule_of_a_variable_has_a_case_it_refuses(name: str) -> None:
    """A variable with three rules is refused in at least three runs."""
    assert _expected_failures()[f"var.{name}"] >= VARIABLES[name].count("validation {")


@pytest.mark.parametrize(
    ("file", "address"),
    [
        ("main.tf", "data.aws_caller_identity.current"),
        ("sns.tf", "aws_sns_topic.this"),
        ("alarms.tf", "aws_cloudwatch_metric_alarm.this"),
    ],
)
def test_each_rule_across_variables_has_a_case_it_refuses(file: str, address: str) -> None:
    """Rules across variables are preconditions, and each is broken by a run."""
    assert _expected_failures()[address] == _text(file).count("precondition {")


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_is_described(name: str) -> None:
    """Every output says what it holds."""
    assert re.search(r"^  description = \"\S.{10,}\"$", OUTPUTS[name], re.MULTILINE)


@pytest.mark.parametrize("name", [*VARIABLES, *OUTPUTS])
def test_the_readme_lists_inputs_and_outputs(name: str) -> None:
    """Every input and output has a row in the module's README."""
    assert f"\n| `{name}` |" in _text("README.md")


def test_the_readme_lists_nothing_else() -> None:
    """No row is left of an input or output that is gone."""
    tables = _text("README.md").partition("## Inputs")[2].partition("## Cost")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", tables, re.MULTILINE)) == {*VARIABLES, *OUTPUTS}


def test_the_catalogue_file_is_fresh() -> None:
    """Terraform reads what the package publishes today; `retainwise-metrics catalogue --format json` makes the file."""
    assert _text("catalogue.json") == as_json()


def test_files_are_formatted(terraform: Terraform) -> None:
    """`terraform fmt` would change nothing."""
    done = terraform.run("fmt", "-check", "-recursive", "-diff", "-no-color")
    assert done.code == 0, done.output


def test_the_module_is_valid(terraform: Terraform) -> None:
    """`terraform validate` agrees, without warnings."""
    done = terraform.run("validate", "-no-color")
    assert done.code == 0, done.output
    assert "Warning" not in done.output


@pytest.mark.parametrize("run", RUNS)
def test_a_run_of_the_module_passes(run: str, outcome: Outcome) -> None:
    """Each run of `terraform test` passes."""
    assert outcome.status.get(run) == "pass", outcome.messages.get(run) or outcome.messages


def test_every_run_has_a_name_of_its_own(outcome: Outcome) -> None:
    """No run hides another, and none was forgotten."""
    assert sorted(outcome.status) == sorted(RUNS)
