"""A bundle is one file that does what the handler does, without the package and without site-packages."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("moto.server", reason="needs the extra [demo]: moto is the AWS of this test")

from retainwise_metrics.testing.emf_reader import EmfReader
from tests.lambda_examples.handlers import DIRECTORY, NAMES, bundle
from tests.lambda_examples.scenarios import SCENARIOS, Scenario, title

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lambda_examples.world import World

COMMITTED = DIRECTORY / "template" / "etcd_backup.inline.txt"
BESIDE_THE_SOURCE = 3_000
"""Bytes of the template's rest, generously."""

LIBRARIES = {
    "boto3.py": """
import datetime

ANSWERS = {
    "describe_auto_scaling_groups": {"AutoScalingGroups": [{"Instances": [
        {"InstanceId": "i-0123456789abcdef0", "LifecycleState": "InService", "HealthStatus": "Healthy"}]}]},
    "send_command": {"Command": {"CommandId": "c-1"}},
    "get_command_invocation": {"Status": "Success", "ResponseCode": 0,
        "StandardOutputContent": "BACKUP_SUCCESS key=one.db size=3\\n", "StandardErrorContent": ""},
    "head_object": {"ContentLength": 3, "LastModified": datetime.datetime.now(datetime.timezone.utc)},
}


class Client:
    def __getattr__(self, name):
        return lambda **asked: ANSWERS[name]


def client(service, config):
    return Client()
""",
    "botocore/config.py": "def Config(**settings):\n    return settings\n",
    "botocore/exceptions.py": "class ClientError(Exception): pass\nclass BotoCoreError(Exception): pass\n",
}
"""Just enough of boto3 to be imported and to answer."""

LAMBDA = """
import importlib.util
import json
import os
import sys

sys.path.insert(0, sys.argv[1])
assert importlib.util.find_spec("retainwise_metrics") is None, "this interpreter must not know the package"
assert importlib.util.find_spec("operations") is None
os.environ.update(CLUSTER_NAME="prod-1", CONTROL_PLANE_GROUP="group", BACKUP_BUCKET="backups")


class Context:
    function_name = "etcd-backup"
    aws_request_id = "1"

    @staticmethod
    def get_remaining_time_in_millis():
        return 300_000


import index

print(json.dumps(index.handler({}, Context())), file=sys.stderr)
"""
"""What Lambda does with a source: puts it into index.py, imports it and calls the handler."""


def meaning(source: str) -> list[str]:
    """
    What a bundle says, module by module, however it is spelled: Python versions write some expressions differently.
    """
    tree = ast.parse(source)
    inner = [
        node.args[1].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "_module" and len(node.args) == 2
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in inner:
            node.value = "a module"
    return [ast.dump(each) for each in [tree, *map(ast.parse, inner)]]


def loaded(source: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a bundle; the modules that it brings are gone after the test."""
    for name in ("retainwise_metrics", "retainwise_metrics.emf", "operations"):
        monkeypatch.setitem(sys.modules, name, sys.modules[name])
    module = types.ModuleType("index")
    exec(compile(source, "index.py", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("scenario", SCENARIOS, ids=title)
def test_a_bundle_does_what_its_handler_does(scenario: Scenario, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Result, error and metrics are those of the sources."""
    ran = world.run(loaded(bundle.bundle(scenario.name), monkeypatch), scenario.prepare(world, monkeypatch))
    assert (type(ran.error).__name__ if ran.error else "") == scenario.error
    assert {key: ran.result[key] for key in scenario.result or {}} == (scenario.result or {})
    metrics = ran.metrics()
    assert {name: metrics[name] for name in scenario.metrics} == scenario.metrics


@pytest.mark.parametrize("broken", ["raise RuntimeError('broken')", ""])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=title)
def test_metrics_code_that_cannot_be_imported(
    scenario: Scenario, world: World, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """A handler whose metrics code is broken works on, and says so in its log."""
    index = loaded(bundle.bundle(scenario.name, emf_source=broken), monkeypatch)
    ran = world.run(index, scenario.prepare(world, monkeypatch))
    assert (type(ran.error).__name__ if ran.error else "") == scenario.error
    assert {key: ran.result[key] for key in scenario.result or {}} == (scenario.result or {})
    assert ran.emf.documents == []
    assert "metrics are broken" in [line["message"] for line in ran.log]


def test_the_committed_bundle_runs_in_a_bare_interpreter(tmp_path: Path) -> None:
    """What the template deploys needs the standard library and boto3, and nothing else."""
    for name, source in LIBRARIES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source, "utf-8")
    (tmp_path / "index.py").write_text(COMMITTED.read_text("utf-8"), "utf-8")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", LAMBDA, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    returned = json.loads(done.stderr.splitlines()[-1])
    assert returned == {"bucket": "backups", "key": "one.db", "size": 3, "node": "i-0123456789abcdef0"}
    emf = EmfReader().read(done.stdout)
    assert emf.other_lines == []
    where = {"ClusterName": "prod-1", "FunctionName": "etcd-backup"}
    assert emf.sum("K8sCluster/EtcdBackup", "BackupSuccess", where) == 1
    assert emf.sum("K8sCluster/EtcdBackup", "BackupSizeBytes", where) == 3


def test_the_committed_bundle_is_fresh() -> None:
    """
    The template deploys today's code: `python examples/lambda/bundle.py etcd_backup --output <the file>` makes it anew.
    """
    assert meaning(COMMITTED.read_text("utf-8")) == meaning(bundle.bundle("etcd_backup"))


@pytest.mark.parametrize(
    "part", ["BACKUP_SUCCESS", "No time is left", "CloudWatchMetrics", "operations", "sys.modules"]
)
def test_a_change_makes_the_bundle_stale(part: str) -> None:
    """The comparison sees a change in the handler, in what it imports, and in what holds them together."""
    text = bundle.bundle("etcd_backup")
    assert part in text
    assert meaning(text.replace(part, "Another")) != meaning(text)


@pytest.mark.parametrize("name", NAMES)
def test_every_bundle_fits_into_a_template(name: str) -> None:
    """CloudFormation takes 51,200 bytes; Terraform writes <, > and & as six characters each."""
    text = json.dumps(bundle.bundle(name))
    size = len(text.encode()) + 5 * sum(map(text.count, "<>&"))
    assert size + BESIDE_THE_SOURCE <= 51_200


SOURCE = '''
"""A docstring."""
X = "# no comment"  # a comment
"""What X is."""


class Empty(Exception):
    """Nothing else."""


def f():
    """One."""
    # why
    return """first

# third"""
'''


def test_what_is_left_out_of_a_source() -> None:
    """Docstrings, comments and blank lines go; what only looks like them stays."""
    assert bundle.slim(SOURCE) == (
        'X = "# no comment"\nclass Empty(Exception):\n    pass\ndef f():\n    return """first\n\n# third"""\n'
    )


def test_a_source_that_would_end_its_own_quotes_is_refused() -> None:
    """A bundle that cannot be right is not made."""
    with pytest.raises(ValueError, match=r"retainwise_metrics\.emf has '''"):
        bundle.bundle("etcd_backup", emf_source="x = '''a'''")


def test_the_command_writes_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To a file or to standard output, the same text."""
    bundle.main(["cluster_health", "--output", str(tmp_path / "index.py")])
    bundle.main(["cluster_health"])
    assert (tmp_path / "index.py").read_text("utf-8") == capsys.readouterr().out == bundle.bundle("cluster_health")
