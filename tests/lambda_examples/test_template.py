"""The template is formatted and valid, its own tests pass, and what it renders is what CloudFormation takes."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from tests.infra.terraform import Terraform
from tests.lambda_examples.handlers import DIRECTORY

TEMPLATE = DIRECTORY / "template"
TESTS = TEMPLATE / "tests" / "template.tftest.hcl"
RUNS = re.findall(r'^run "(\w+)"', TESTS.read_text("utf-8"), re.MULTILINE)

# A state that Terraform prints carries the provider's schema, 14 MB of it. This gets one value out of it in a second.
RENDER = """
run "render" {
  command = plan

  assert {
    condition     = output.template == ""
    error_message = output.template
  }
}
"""


@pytest.fixture(scope="module")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """Terraform in an initialised copy of the template."""
    target = tmp_path_factory.mktemp("template") / "template"
    shutil.copytree(TEMPLATE, target, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    with (target / "tests" / TESTS.name).open("a", encoding="utf-8") as file:
        file.write(RENDER)
    ready = Terraform(target)
    ready.init()
    return ready


class Verdict:
    """
    What `terraform test` said.

    Attributes:
        status: `pass` or another word, by run.
        complaints: Warnings and errors, by run; the empty name holds what belongs to no run.
    """

    def __init__(self, terraform: Terraform) -> None:
        self.status: dict[str, str] = {}
        self.complaints: dict[str, list[str]] = {}
        for event in terraform.test_events(TESTS.name, verbose=False):
            run = event.get("@testrun", "")
            if event["type"] == "test_run" and event["test_run"].get("progress") == "complete":
                self.status[run] = event["test_run"]["status"]
            elif event["type"] == "diagnostic":
                said = event["diagnostic"]
                self.complaints.setdefault(run, []).append(said.get("detail") or said["summary"])


@pytest.fixture(scope="module")
def tested(terraform: Terraform) -> Verdict:
    """The outcome of the template's own tests."""
    return Verdict(terraform)


def test_files_are_formatted(terraform: Terraform) -> None:
    """`terraform fmt` would change nothing."""
    done = terraform.run("fmt", "-check", "-recursive", "-diff", "-no-color")
    assert done.code == 0, done.output


@pytest.mark.parametrize("run", RUNS)
def test_a_run_of_the_template_passes(run: str, tested: Verdict) -> None:
    """Each run of `terraform test`, which begins by validating everything, passes without a warning."""
    assert tested.status.get(run) == "pass", tested.complaints
    assert run not in tested.complaints
    assert "" not in tested.complaints


def test_what_cloudformation_is_given(tested: Verdict) -> None:
    """The rendered template is small enough, flawless to cfn-lint, and holds the bundle as it is committed."""
    (body,) = tested.complaints["render"]
    assert len(body.encode()) <= 51_200
    source = json.loads(body)["Resources"]["Function"]["Properties"]["Code"]["ZipFile"]
    assert source == (TEMPLATE / "etcd_backup.inline.txt").read_text("utf-8")
    lint = pytest.importorskip("cfnlint.api", reason="cfn-lint comes with moto's server")
    found = [match for match in lint.lint_all(body) if not match.rule.id.startswith("I")]
    assert found == []


def test_the_readme_lists_variables_and_outputs() -> None:
    """Every input and output has a row in the README."""
    page = (DIRECTORY / "README.md").read_text("utf-8")
    for file, kind in (("variables.tf", "variable"), ("outputs.tf", "output")):
        for name in re.findall(rf'^{kind} "(\w+)"', (TEMPLATE / file).read_text("utf-8"), re.MULTILINE):
            assert f"\n| `{name}` |" in page, name
