"""The control plane is counted on every run; a node is replaced late, alone, and never at the price of the majority."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("moto.server", reason="needs the extra [demo]: moto is the AWS of this test")

from tests.lambda_examples.handlers import cluster_health
from tests.lambda_examples.world import GROUP

if TYPE_CHECKING:
    from tests.lambda_examples.world import Ran, World

PARAMETER = "/prod-1/health"
PROBE = 'test ! -e "$HOME/$NODE.sick"'


class Watch:
    """
    The checks of a control plane, one after the other.

    Args:
        world: The control plane.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._ids = (f"event-{number}" for number in itertools.count())

    def check(self, event_id: str | None = None, **options: Any) -> Ran:
        """Check once."""
        ran = self.world.run(cluster_health, {"id": event_id or next(self._ids)}, **options)
        assert ran.left > 0
        return ran

    def sick(self, node: str) -> None:
        """Let the probe fail on a node."""
        (self.world.fleet.home / f"{node}.sick").touch()

    def well(self, node: str) -> None:
        """Let it succeed again."""
        (self.world.fleet.home / f"{node}.sick").unlink()

    def stored(self) -> dict[str, Any]:
        """The state that is kept."""
        found = self.world.clients("ssm").get_parameter(Name=PARAMETER)["Parameter"]["Value"]
        return dict(json.loads(found))


@pytest.fixture
def watch(world: World, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Three nodes, and nothing known of them."""
    monkeypatch.setenv("STATE_PARAMETER", PARAMETER)
    monkeypatch.setenv("FAILURE_THRESHOLD", "3")
    monkeypatch.setenv("PROBE_COMMAND", PROBE)
    return Watch(world)


def numbers(ran: Ran) -> tuple[float, float, float, float]:
    """Healthy nodes, failures in a row, replacements, recoveries; all of them are published on every run."""
    metrics = ran.metrics()
    assert metrics.pop("HealthCheckDuration") >= 0
    names = ("HealthyControlPlaneInstances", "ConsecutiveHealthFailures", "AutoRecoveryTriggered", "ClusterRecovered")
    assert sorted(metrics) == sorted(names)
    healthy, failures, replaced, recovered = (metrics[name] for name in names)
    return healthy, failures, replaced, recovered


def test_a_healthy_control_plane(watch: Watch) -> None:
    """Every run says how many are well, and that nothing has failed."""
    ran = watch.check()
    assert numbers(ran) == (3, 0, 0, 0)
    assert ran.result == {"healthy": 3, "failures": 0, "replaced": "", "recovered": False}


def test_from_the_first_failure_to_the_recovery(watch: Watch) -> None:
    """Failures are counted across runs, the third replaces the node, and the first good run after that is the recovery."""
    first = watch.world.nodes[0]
    watch.sick(first)
    assert numbers(watch.check()) == (2, 1, 0, 0)
    assert numbers(watch.check()) == (2, 2, 0, 0)
    ran = watch.check()
    assert numbers(ran) == (2, 3, 1, 0)
    assert ran.result["replaced"] == first
    assert watch.world.health(first) == "Unhealthy"
    assert numbers(watch.check()) == (2, 4, 0, 0), "the group knows by now, and is not told again"
    watch.well(first)
    watch.world.set_state(first)
    assert numbers(watch.check()) == (3, 0, 0, 1)
    assert numbers(watch.check()) == (3, 0, 0, 0)


def test_failures_have_to_be_in_a_row(watch: Watch) -> None:
    """A good run in between begins the count anew, and is no recovery: nothing had been done."""
    first = watch.world.nodes[0]
    for _ in range(2):
        watch.sick(first)
        watch.check()
        watch.check()
        watch.well(first)
        assert numbers(watch.check()) == (3, 0, 0, 0)


def test_each_node_has_its_own_count(watch: Watch) -> None:
    """Two failures of one node and one of another are three failed runs, but reason to replace neither."""
    one, other, _ = watch.world.nodes
    watch.sick(one)
    watch.check()
    watch.check()
    watch.well(one)
    watch.sick(other)
    assert numbers(watch.check()) == (2, 3, 0, 0)
    assert watch.stored()["suspects"] == {other: 1}


def test_nothing_is_replaced_without_a_majority(watch: Watch) -> None:
    """Two of three nodes down is for a person: a replacement would make the loss final."""
    for node in watch.world.nodes[:2]:
        watch.sick(node)
    for _ in range(5):
        ran = watch.check()
    assert numbers(ran) == (1, 5, 0, 0)
    assert "a person has to decide" in json.dumps(ran.log)


@pytest.mark.parametrize("state", [{"lifecycle": "Pending:Wait"}, {"health": "Unhealthy"}])
def test_nothing_is_replaced_while_another_node_changes(watch: Watch, state: dict[str, str]) -> None:
    """One at a time, whoever began it."""
    watch.world.clients("autoscaling").set_desired_capacity(AutoScalingGroupName=GROUP, DesiredCapacity=5)
    late = watch.world.states()[-1].instance_id
    watch.world.set_state(late, **state)
    watch.sick(watch.world.nodes[0])
    for _ in range(4):
        ran = watch.check()
    assert numbers(ran) == (3, 4, 0, 0)
    watch.world.set_state(late)
    assert numbers(watch.check()) == (4, 5, 1, 0)


def test_one_node_in_a_run(watch: Watch) -> None:
    """Of several broken nodes the one that has failed longest goes first, and the others wait."""
    watch.world.clients("autoscaling").update_auto_scaling_group(
        AutoScalingGroupName=GROUP, MaxSize=7, DesiredCapacity=7
    )
    nodes = sorted(state.instance_id for state in watch.world.states())
    watch.world.set_state(nodes[6], lifecycle="Pending")
    watch.sick(nodes[1])
    watch.check()
    watch.sick(nodes[0])
    for _ in range(3):
        assert watch.check().result["replaced"] == ""
    watch.world.set_state(nodes[6])
    assert watch.check().result["replaced"] == nodes[1]
    assert [watch.world.health(node) for node in nodes[:2]] == ["Healthy", "Unhealthy"]
    assert watch.check().result["replaced"] == ""


def test_a_node_that_ec2_knows_to_be_down(watch: Watch) -> None:
    """A stopped instance is broken whatever its group believes."""
    watch.world.clients("ec2").stop_instances(InstanceIds=[watch.world.nodes[0]])
    ran = watch.check()
    assert numbers(ran)[:2] == (2, 1)
    assert {sent.node for sent in watch.world.fleet.sent} == set(watch.world.nodes[1:]), "no probe is lost on it"


@pytest.mark.parametrize(
    ("instance", "system", "running", "failed"),
    [
        ("ok", "ok", "running", False),
        ("initializing", "initializing", "running", False),
        ("insufficient-data", "ok", "running", False),
        ("impaired", "ok", "running", True),
        ("ok", "impaired", "running", True),
        ("ok", "ok", "stopping", True),
    ],
)
def test_which_status_checks_count(instance: str, system: str, running: str, failed: bool) -> None:
    """A check that has failed counts; one that has not ended does not."""

    class Ec2:
        @staticmethod
        def describe_instance_status(**_: Any) -> dict[str, Any]:
            status = {
                "InstanceId": "i-1",
                "InstanceState": {"Name": running},
                "InstanceStatus": {"Status": instance},
                "SystemStatus": {"Status": system},
            }
            return {"InstanceStatuses": [status]}

    assert cluster_health.failed_status_checks(Ec2(), ["i-1"]) == ({"i-1"} if failed else set())


def test_a_node_that_takes_no_commands_is_broken(watch: Watch) -> None:
    """Its agent runs in the same kernel as everything else."""
    watch.world.fleet.offline.add(watch.world.nodes[0])
    assert numbers(watch.check())[:2] == (2, 1)


def test_a_probe_that_hangs_has_failed(watch: Watch) -> None:
    """A probe has a time of its own."""
    watch.world.fleet.endless.add(watch.world.nodes[0])
    ran = watch.check()
    assert numbers(ran)[:2] == (2, 1)
    assert ran.metrics()["HealthCheckDuration"] == cluster_health.PROBE_SECONDS


def test_without_a_probe(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty command leaves the judgement to Auto Scaling and EC2."""
    monkeypatch.setenv("PROBE_COMMAND", "")
    watch.sick(watch.world.nodes[0])
    assert numbers(watch.check()) == (3, 0, 0, 0)
    assert watch.world.fleet.sent == []


def test_a_missing_node_is_a_failure_but_nobodys(watch: Watch) -> None:
    """A node that is only just starting makes the check fail; there is nothing to replace."""
    watch.world.set_state(watch.world.nodes[0], lifecycle="Pending")
    for _ in range(4):
        ran = watch.check()
    assert numbers(ran) == (2, 4, 0, 0)


def test_a_group_that_is_switched_off_is_well(watch: Watch) -> None:
    """Nobody is wanted, nobody is there."""
    watch.world.clients("autoscaling").update_auto_scaling_group(
        AutoScalingGroupName=GROUP, MinSize=0, DesiredCapacity=0
    )
    assert numbers(watch.check()) == (0, 0, 0, 0)


def test_an_event_that_comes_twice_is_counted_once(watch: Watch) -> None:
    """EventBridge delivers at least once, and Lambda tries failed runs again."""
    watch.sick(watch.world.nodes[0])
    for _ in range(5):
        ran = watch.check("the same")
    assert numbers(ran) == (2, 1, 0, 0)


def test_a_check_that_sees_nothing_fails_and_accuses_nobody(watch: Watch) -> None:
    """When AWS does not answer, failures go up, the count of each node stands still, and the run fails."""

    def blind(service: str) -> Any:
        if service == "ec2":
            raise ConnectionError("no answer")
        return watch.world.clients(service)

    watch.sick(watch.world.nodes[0])
    watch.check()
    ran = watch.check(clients=blind)
    assert isinstance(ran.error, ConnectionError)
    assert numbers(ran) == (0, 2, 0, 0)
    assert watch.stored()["suspects"] == {watch.world.nodes[0]: 1}
    assert numbers(watch.check()) == (2, 3, 0, 0), "two failures seen are not three"
    assert numbers(watch.check()) == (2, 4, 1, 0)


def test_no_time_for_probes_accuses_nobody(watch: Watch) -> None:
    """A function whose time limit is too short has failed itself; the nodes have not."""
    ran = watch.check(limit_seconds=130)
    assert "raise the function's time limit" in str(ran.error)
    assert numbers(ran) == (0, 1, 0, 0)
    assert watch.stored()["suspects"] == {}


@pytest.mark.parametrize(
    "stored", ["", "{}", "[1]", '{"failures": "x", "suspects": {}, "event": ""}', '{"suspects": 1}']
)
def test_a_state_that_cannot_be_read_begins_anew(watch: Watch, stored: str) -> None:
    """Somebody edited the parameter, or an older version wrote it."""
    watch.world.clients("ssm").put_parameter(Name=PARAMETER, Value=stored or " ", Type="String")
    assert numbers(watch.check()) == (3, 0, 0, 0)
    assert watch.stored()["failures"] == 0


def test_a_state_that_is_out_of_reach(watch: Watch) -> None:
    """What was seen is published all the same, and the run fails: without a memory nothing would ever be replaced."""

    class Forgetful:
        def __init__(self) -> None:
            self._ssm = watch.world.clients("ssm")

        def __getattr__(self, name: str) -> Any:
            if name.endswith("_parameter"):
                raise PermissionError(name)
            return getattr(self._ssm, name)

    watch.sick(watch.world.nodes[0])
    ran = watch.check(clients=lambda service: Forgetful() if service == "ssm" else watch.world.clients(service))
    assert isinstance(ran.error, PermissionError)
    assert numbers(ran) == (2, 1, 0, 0)


@pytest.mark.parametrize("name", ["STATE_PARAMETER", "CONTROL_PLANE_GROUP"])
def test_a_missing_setting_is_named(watch: Watch, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A check that is not configured fails, and publishes that it has."""
    monkeypatch.delenv(name)
    ran = watch.check()
    assert name in str(ran.error)
    assert numbers(ran) == (0, 1, 0, 0)
