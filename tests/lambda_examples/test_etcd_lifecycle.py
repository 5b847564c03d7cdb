"""A node that goes is drained, its member leaves etcd only if a quorum stays, and the action is completed in any case."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("moto.server", reason="needs the extra [demo]: moto is the AWS of this test")

from moto.autoscaling.exceptions import AutoscalingClientError

from tests.lambda_examples.cluster import KUBECTL, Cluster, event
from tests.lambda_examples.handlers import etcd_lifecycle, operations
from tests.lambda_examples.world import GROUP

if TYPE_CHECKING:
    from tests.lambda_examples.world import Ran, World

Member = etcd_lifecycle.Member

FINE = {
    "NodeDrainSuccess": 1,
    "NodeDrainFailure": 0,
    "EtcdMemberRemovalSuccess": 1,
    "EtcdMemberRemovalFailure": 0,
    "QuorumRiskDetected": 0,
}
NOT_DRAINED = {"NodeDrainSuccess": 0, "NodeDrainFailure": 1}
NOT_REMOVED = {"EtcdMemberRemovalSuccess": 0, "EtcdMemberRemovalFailure": 1}


@pytest.fixture
def cluster(world: World, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Three healthy members; the first node is about to go."""
    monkeypatch.setenv("KUBECTL", "kubectl")
    monkeypatch.setenv("ETCDCTL", "etcdctl")
    world.set_state(world.nodes[0], lifecycle="Terminating:Wait")
    return Cluster(world)


def run(world: World, node: str | None = None, **options: Any) -> Ran:
    """Handle the first node's end."""
    return world.run(etcd_lifecycle, event(node or world.nodes[0]), **options)


def results(world: World) -> list[str]:
    """How lifecycle actions were completed."""
    return [done["LifecycleActionResult"] for done in world.fleet.completed]


def assert_ended(ran: Ran, world: World, expected: dict[str, float], result: str) -> None:
    """The run has published exactly this, has completed the action once, and had time left."""
    metrics = ran.metrics()
    assert metrics.pop("LifecycleHandlerDuration") >= 0
    assert metrics == expected
    assert results(world) == [result]
    assert ran.left > 0


def test_a_node_is_taken_out(world: World, cluster: Cluster) -> None:
    """The node is drained, its member removed, and the action continued with all that identifies it."""
    ran = run(world)
    assert ran.result == {
        "instance_id": world.nodes[0],
        "drain": "drained",
        "member": "removed",
        "lifecycle_action_result": "CONTINUE",
    }
    assert_ended(ran, world, FINE, "CONTINUE")
    assert cluster.removals() == ["8e9e05c52164694d"]
    assert cluster.calls("kubectl")[-1].split()[:2] == ["drain", f"node-{world.nodes[0]}"]
    assert {sent.node for sent in world.fleet.sent} == {world.nodes[1]}, "everything is done through a survivor"
    assert world.fleet.completed == [
        {
            "AutoScalingGroupName": GROUP,
            "LifecycleHookName": "drain",
            "LifecycleActionToken": "87654321-4321-4321-4321-210987654321",
            "InstanceId": world.nodes[0],
            "LifecycleActionResult": "CONTINUE",
        }
    ]
    assert ran.emf.documents[0]["instance_id"] == world.nodes[0], (
        "a property: as a dimension it would make endless series"
    )


def test_a_second_delivery_changes_nothing(world: World, cluster: Cluster) -> None:
    """Events come more than once: a member that is gone is a success, and so is an action that is over."""
    cluster.etcd(world.nodes[1:])
    world.fleet.refuse_completion = AutoscalingClientError(
        "ValidationError", "No active Lifecycle Action found with token 87654321-4321-4321-4321-210987654321"
    )
    ran = run(world)
    assert ran.result["member"] == "absent"
    assert cluster.removals() == []
    assert "the lifecycle action is over already" in [line["message"] for line in ran.log]


def test_a_node_that_kubernetes_does_not_know(world: World, cluster: Cluster) -> None:
    """There is nothing to drain on a node that has left Kubernetes or never joined."""
    cluster.write("nodes", f"other aws:///eu-central-1a/{world.nodes[1]} {world.address[world.nodes[1]]}\n")
    ran = run(world)
    assert ran.result["drain"] == "absent"
    assert_ended(ran, world, FINE, "CONTINUE")


def test_a_node_without_a_provider_id_is_known_by_its_address(world: World, cluster: Cluster) -> None:
    """Clusters without a cloud provider have no ids; addresses are compared whole."""
    address = world.address[world.nodes[0]]
    cluster.write("nodes", f"other  {address}1\nthis-one  {address}\n")
    assert run(world).result["drain"] == "drained"
    assert cluster.calls("kubectl")[-1].startswith("drain this-one ")


def test_a_node_with_a_provider_id_is_known_by_it(world: World, cluster: Cluster) -> None:
    """Its addresses may be of another network; ids are compared whole."""
    node = world.nodes[0]
    cluster.write(
        "nodes", f"other aws:///eu-central-1a/{node}0 10.9.9.8\nthis-one aws:///eu-central-1a/{node} 10.9.9.9\n"
    )
    assert run(world).result["drain"] == "drained"
    assert cluster.calls("kubectl")[-1].startswith("drain this-one ")


def test_a_drain_that_fails_does_not_keep_the_member(world: World, cluster: Cluster) -> None:
    """The node goes anyway; a member that stayed would only be in the way of the quorum."""
    cluster.drain(1, "Cannot evict pod as it would violate the pod's disruption budget.")
    ran = run(world)
    assert ran.result["drain"] == "failed"
    assert_ended(ran, world, {**FINE, **NOT_DRAINED}, "CONTINUE")
    assert "disruption budget" in json.dumps(ran.log)


def test_a_survivor_without_a_working_etcd_is_passed_over(world: World, cluster: Cluster) -> None:
    """A node whose agent answers may still have an etcd that does not."""
    cluster.write(f"{world.nodes[1]}.broken", "")
    assert run(world).result["member"] == "removed"
    assert {sent.node for sent in world.fleet.sent[1:]} == {world.nodes[2]}


def test_no_survivor_answers(world: World, cluster: Cluster) -> None:
    """Without anybody to ask nothing is done, the action is abandoned, and the run fails with all reasons."""
    cluster.write(f"{world.nodes[1]}.broken", "")
    world.fleet.offline.add(world.nodes[2])
    ran = run(world)
    assert "context deadline exceeded" in str(ran.error)
    assert f"{world.nodes[2]} takes no commands" in str(ran.error)
    assert_ended(ran, world, {**NOT_DRAINED, **NOT_REMOVED, "QuorumRiskDetected": 0}, "ABANDON")


def test_the_last_node_has_nobody_to_ask(world: World, cluster: Cluster) -> None:
    """A group that is deleted ends with a node that has no survivors."""
    for node in world.nodes[1:]:
        world.set_state(node, lifecycle="Terminated")
    ran = run(world)
    assert "no other instance that is healthy and in service" in str(ran.error)
    assert results(world) == ["ABANDON"]


def test_a_removal_that_would_cost_the_quorum_is_not_done(world: World, cluster: Cluster) -> None:
    """With another member down the member stays, the action is abandoned, and the run fails so that it is tried again."""
    cluster.etcd(world.nodes, unhealthy=(world.nodes[2],))
    ran = run(world)
    assert isinstance(ran.error, etcd_lifecycle.MemberNotRemovedError)
    assert f"{cluster.ids[world.nodes[2]]:x}" in str(ran.error)
    assert cluster.removals() == []
    assert_ended(ran, world, {"NodeDrainSuccess": 1, "NodeDrainFailure": 0, "QuorumRiskDetected": 1}, "ABANDON")


def test_a_dead_member_is_removed(world: World, cluster: Cluster) -> None:
    """The usual reason for a termination: the member that leaves is itself the one that is down."""
    cluster.etcd(world.nodes, unhealthy=(world.nodes[0],))
    assert_ended(run(world), world, FINE, "CONTINUE")


def test_the_quorum_is_looked_at_after_the_drain(world: World, cluster: Cluster) -> None:
    """A member that fails during the drain, which takes minutes, still counts."""
    cluster.etcd(world.nodes, unhealthy=(world.nodes[2],))
    for name in ("health.json", "health.code"):
        (cluster.home / name).rename(cluster.home / f"{name}.later")
    cluster.etcd(world.nodes)
    move = "for f in health.json health.code; do mv $HOME/$f.later $HOME/$f; done"
    world.fleet.program("kubectl", KUBECTL.replace("drain) ", f"drain) {move}; "))
    assert run(world).metrics()["QuorumRiskDetected"] == 1


@pytest.mark.parametrize(
    ("healthy", "leaving", "safe"),
    [
        ("111", 0, True),
        ("011", 0, True),
        ("110", 0, False),
        ("010", 0, False),
        ("11", 0, True),
        ("01", 0, True),
        ("10", 0, False),
        ("1", 0, False),
        ("11111", 0, True),
        ("11100", 0, False),
        ("11110", 0, True),
        ("01110", 0, True),
        ("1111", 0, True),
        ("1110", 0, True),
        ("1100", 0, False),
    ],
)
def test_which_removals_keep_a_quorum(healthy: str, leaving: int, safe: bool) -> None:
    """The voters that stay need a majority of themselves that answers."""
    members = [Member(str(n), frozenset(), votes=True, healthy=each == "1") for n, each in enumerate(healthy)]
    assert etcd_lifecycle.keeps_quorum(members, members[leaving]) is safe


def test_a_learner_is_no_voter(world: World, cluster: Cluster) -> None:
    """A new member that still learns does not help the quorum."""
    cluster.etcd(world.nodes, learners=(world.nodes[2],))
    assert run(world).result["member"] == "removed"
    alone = [Member("a", frozenset(), votes=True, healthy=True), Member("b", frozenset(), votes=False, healthy=True)]
    assert not etcd_lifecycle.keeps_quorum(alone, alone[0])
    assert etcd_lifecycle.keeps_quorum(alone, alone[1])


def test_a_removal_that_fails(world: World, cluster: Cluster) -> None:
    """The member is still in: the action is abandoned and the run fails."""
    cluster.write("remove.fails", "Error: etcdserver: re-configuration failed due to not enough started members")
    ran = run(world)
    assert "not enough started members" in str(ran.error)
    assert_ended(ran, world, {**FINE, **NOT_REMOVED}, "ABANDON")


def test_a_removal_that_another_run_was_quicker_with(world: World, cluster: Cluster) -> None:
    """An error of the removal does not matter when the member is gone."""
    cluster.write("remove.fails", "Error: etcdserver: member not found")
    cluster.write("members", f"{cluster.ids[world.nodes[1]]:x}, started, ..., false\n")
    assert_ended(run(world), world, FINE, "CONTINUE")


def test_an_instance_that_is_terminated_already(world: World, cluster: Cluster) -> None:
    """Its address is gone, so nobody can say which member was its; none is guessed, a person is asked."""

    class Ec2:
        @staticmethod
        def describe_instances(InstanceIds: list[str]) -> dict[str, Any]:
            return {"Reservations": [{"Instances": [{"InstanceId": InstanceIds[0], "State": {"Name": "terminated"}}]}]}

    ran = run(world, clients=lambda service: Ec2() if service == "ec2" else world.clients(service))
    assert "etcdctl member list" in str(ran.error)
    assert cluster.removals() == []
    assert_ended(ran, world, {**FINE, **NOT_REMOVED}, "ABANDON")


@pytest.mark.parametrize("answer", ["", "[]", '{"members": 1}', "not JSON"])
def test_an_answer_that_cannot_be_read(answer: str) -> None:
    """What etcdctl should never say is an error that names it."""
    with pytest.raises(operations.OperationError, match="etcdctl"):
        etcd_lifecycle.read_survey(f"ETCD_MEMBERS {answer}\nETCD_HEALTH {answer}\n")


def test_everything_hangs(world: World, cluster: Cluster) -> None:
    """When no command ends the action is completed before the time limit all the same."""
    world.fleet.endless.update(world.nodes)
    ran = run(world, limit_seconds=130)
    assert_ended(ran, world, {**NOT_DRAINED, **NOT_REMOVED, "QuorumRiskDetected": 0}, "ABANDON")
    assert ran.left >= 80
    assert len(world.fleet.cancelled) == len(world.fleet.sent) == 2


def test_a_drain_leaves_time_for_the_removal(world: World, cluster: Cluster) -> None:
    """With little time the drain is shortened, with very little it is left out; the removal comes first."""
    assert run(world, limit_seconds=200).result["drain"] == "drained"
    assert "--timeout=45s" in cluster.calls("kubectl")[-1]
    cluster.etcd(world.nodes)
    ran = run(world, limit_seconds=160)
    assert (ran.result["drain"], ran.result["member"]) == ("failed", "removed")


def test_a_time_limit_that_is_too_short(world: World, cluster: Cluster) -> None:
    """Even then the action is completed."""
    ran = run(world, limit_seconds=3)
    assert "raise the function's time limit" in str(ran.error)
    assert results(world) == ["ABANDON"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING"}, "no terminating lifecycle action"),
        ({"LifecycleActionToken": None, "LifecycleHookName": ""}, "no LifecycleHookName, LifecycleActionToken"),
        ({"EC2InstanceId": "i-1; reboot"}, "no instance id"),
    ],
)
def test_an_event_that_is_none(world: World, change: dict[str, Any], message: str) -> None:
    """Events that are not for this handler are refused; nothing is run, and above all nothing from the event."""
    ran = world.run(etcd_lifecycle, event(world.nodes[0], **change))
    assert message in str(ran.error)
    assert set(ran.metrics()) == {"LifecycleHandlerDuration"}
    assert (world.fleet.sent, world.fleet.completed) == ([], [])


def test_an_unexpected_error_completes_the_action_too(world: World, cluster: Cluster) -> None:
    """An error of AWS that nobody thought of is passed on after the action is completed."""

    def clients(service: str) -> Any:
        if service == "ec2":
            raise PermissionError("UnauthorizedOperation")
        return world.clients(service)

    ran = run(world, clients=clients)
    assert isinstance(ran.error, PermissionError)
    assert_ended(ran, world, {**NOT_DRAINED, **NOT_REMOVED, "QuorumRiskDetected": 0}, "ABANDON")


@pytest.mark.parametrize(
    ("code", "message"), [("ResourceContention", "try later"), ("ValidationError", "Invalid Auto Scaling group")]
)
def test_an_action_that_cannot_be_completed_fails_the_run(
    world: World, cluster: Cluster, code: str, message: str
) -> None:
    """Lambda has to try again, or the instance would wait for the hook's timeout."""
    world.fleet.refuse_completion = AutoscalingClientError(code, message)
    ran = run(world)
    assert message in str(ran.error)
    metrics = ran.metrics()
    assert metrics.pop("LifecycleHandlerDuration") >= 0
    assert metrics == FINE
