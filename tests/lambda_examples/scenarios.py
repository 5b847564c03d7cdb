"""Each handler once as it goes well and once as it does not, with what it has to return or raise, metrics or no metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tests.lambda_examples.cluster import Cluster, event
from tests.lambda_examples.handlers import cluster_health, etcd_backup, etcd_lifecycle
from tests.lambda_examples.world import REGION

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.lambda_examples.world import World


class Scenario(NamedTuple):
    """
    One run of one handler.

    Attributes:
        name: The handler's directory.
        module: The handler.
        prepare: Makes the world as it is before, and the event.
        result: What is returned, in part; None when something is raised.
        error: What is raised, by the name of its class; empty when nothing is.
        metrics: What is published, besides the duration.
    """

    name: str
    module: Any
    prepare: Callable[[World, pytest.MonkeyPatch], dict[str, Any]]
    result: dict[str, Any] | None
    error: str
    metrics: dict[str, float]


def _backup(world: World, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setenv("BACKUP_BUCKET", "backups")
    patch.setenv("BACKUP_COMMAND", "echo BACKUP_SUCCESS key=one.db size=3")
    s3 = world.clients("s3")
    s3.create_bucket(Bucket="backups", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket="backups", Key="one.db", Body=b"...")
    return {}


def _backup_fails(world: World, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    _backup(world, patch)
    patch.setenv("BACKUP_COMMAND", "false")
    return {}


def _lifecycle(world: World, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setenv("KUBECTL", "kubectl")
    patch.setenv("ETCDCTL", "etcdctl")
    Cluster(world)
    return event(world.nodes[0])


def _lifecycle_fails(world: World, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    asked = _lifecycle(world, patch)
    Cluster(world).etcd(world.nodes, unhealthy=(world.nodes[2],))
    return asked


def _health(world: World, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setenv("STATE_PARAMETER", "/health")
    patch.setenv("PROBE_COMMAND", "true")
    return {"id": "an-event"}


def _health_fails(world: World, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    asked = _health(world, patch)
    patch.setenv("CONTROL_PLANE_GROUP", "nobody")
    return asked


SCENARIOS = [
    Scenario(
        "etcd_backup", etcd_backup, _backup, {"key": "one.db", "size": 3}, "",
        {"BackupSuccess": 1, "BackupFailure": 0, "BackupSizeBytes": 3},
    ),
    Scenario(
        "etcd_backup", etcd_backup, _backup_fails, None, "BackupError", {"BackupSuccess": 0, "BackupFailure": 1}
    ),
    Scenario(
        "etcd_lifecycle", etcd_lifecycle, _lifecycle, {"drain": "drained", "member": "removed"}, "",
        {
            "NodeDrainSuccess": 1, "NodeDrainFailure": 0, "QuorumRiskDetected": 0,
            "EtcdMemberRemovalSuccess": 1, "EtcdMemberRemovalFailure": 0,
        },
    ),
    Scenario(
        "etcd_lifecycle", etcd_lifecycle, _lifecycle_fails, None, "MemberNotRemovedError",
        {"NodeDrainSuccess": 1, "NodeDrainFailure": 0, "QuorumRiskDetected": 1},
    ),
    Scenario(
        "cluster_health", cluster_health, _health, {"healthy": 3, "failures": 0}, "",
        {
            "HealthyControlPlaneInstances": 3, "ConsecutiveHealthFailures": 0,
            "AutoRecoveryTriggered": 0, "ClusterRecovered": 0,
        },
    ),
    Scenario(
        "cluster_health", cluster_health, _health_fails, None, "OperationError",
        {
            "HealthyControlPlaneInstances": 0, "ConsecutiveHealthFailures": 1,
            "AutoRecoveryTriggered": 0, "ClusterRecovered": 0,
        },
    ),
]  # fmt: skip


def title(scenario: Scenario) -> str:
    """A name for a test."""
    return f"{scenario.name}-{scenario.error or 'goes-well'}"
