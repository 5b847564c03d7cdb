"""The backup counts only when the object is in the bucket: whole, and new."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("moto.server", reason="needs the extra [demo]: moto is the AWS of this test")

from tests.lambda_examples.handlers import etcd_backup
from tests.lambda_examples.world import REGION

if TYPE_CHECKING:
    from tests.lambda_examples.world import Ran, World

BUCKET = "prod-1-backups"
KEY = "etcd/2026-01-01T00-00.db"
BODY = b"a snapshot"
FAILED = {"BackupSuccess": 0, "BackupFailure": 1}


@pytest.fixture
def world(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A control plane with a bucket, a backup in it, and a script that says so."""
    monkeypatch.setenv("BACKUP_BUCKET", BUCKET)
    monkeypatch.setenv("BACKUP_COMMAND", "etcd-backup.sh --now")
    s3 = world.clients("s3")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket=BUCKET, Key=KEY, Body=BODY)
    world.fleet.program("etcd-backup.sh", f'test "$1" = --now && echo BACKUP_SUCCESS key={KEY} size={len(BODY)}')
    return world


def failed(ran: Ran) -> str:
    """The message of a run that failed and said so in its metrics."""
    assert ran.result is None
    assert ran.error is not None
    metrics = ran.metrics()
    assert metrics.pop("BackupDuration") >= 0
    assert metrics == FAILED
    assert ran.left > 0
    return str(ran.error)


def test_a_backup_is_made_and_measured(world: World) -> None:
    """A backup that is in the bucket is a success, with its size and how long it took."""
    world.fleet.hesitation = ["InvocationDoesNotExist", None, "ThrottlingException", None]
    ran = world.run(etcd_backup)
    assert ran.result == {"bucket": BUCKET, "key": KEY, "size": len(BODY), "node": world.nodes[0]}
    assert ran.metrics() == {
        "BackupSuccess": 1,
        "BackupFailure": 0,
        "BackupSizeBytes": len(BODY),
        "BackupDuration": 12,
    }
    assert (
        ran.emf.statistics(
            "K8sCluster/EtcdBackup",
            "BackupSizeBytes",
            {"ClusterName": "prod-1", "FunctionName": "the-function"},
            unit="Bytes",
        ).count
        == 1
    )
    assert [sent.seconds for sent in world.fleet.sent] == [535], "600 s, less what is kept back at the end"


def test_the_next_node_is_asked_when_one_takes_no_commands(world: World) -> None:
    """A node without a connected agent, and one that never picks its command up, are passed over."""
    world.fleet.offline.add(world.nodes[0])
    world.fleet.details[world.nodes[1]] = "Delivery Timed Out"
    assert world.run(etcd_backup).result["node"] == world.nodes[2]


def test_a_node_that_is_leaving_is_not_asked(world: World) -> None:
    """Only nodes in service count, and only those their group believes healthy."""
    world.set_state(world.nodes[0], lifecycle="Terminating:Wait")
    world.set_state(world.nodes[1], health="Unhealthy")
    assert world.run(etcd_backup).result["node"] == world.nodes[2]


def test_no_node_takes_commands(world: World) -> None:
    """When no node can be reached, the message says why for each."""
    world.fleet.offline.update(world.nodes)
    message = failed(world.run(etcd_backup))
    assert all(node in message for node in world.nodes)


def test_the_group_is_empty(world: World) -> None:
    """Without a node in service there is no backup."""
    for node in world.nodes:
        world.set_state(node, lifecycle="Terminating")
    assert "no instance that is healthy and in service" in failed(world.run(etcd_backup))


def test_the_script_fails(world: World) -> None:
    """A script that fails is not run again elsewhere; its last words are in the message."""
    world.fleet.program("etcd-backup.sh", "echo snapshot: no space left on device >&2; exit 3")
    message = failed(world.run(etcd_backup))
    assert "exit code 3" in message
    assert "no space left on device" in message
    assert len(world.fleet.sent) == 1


def test_the_script_succeeds_without_a_word(world: World) -> None:
    """Returning 0 is not enough."""
    world.fleet.program("etcd-backup.sh", "echo all fine")
    assert "it said: all fine" in failed(world.run(etcd_backup))


def test_a_failing_script_that_announces_success(world: World) -> None:
    """Nor is the announcement enough, when the script returns something else than 0."""
    world.fleet.program("etcd-backup.sh", f"echo BACKUP_SUCCESS key={KEY} size={len(BODY)}; exit 1")
    assert "exit code 1" in failed(world.run(etcd_backup))


def test_a_talkative_script(world: World) -> None:
    """What counts is at the end, where Systems Manager would have cut it off."""
    world.fleet.program(
        "etcd-backup.sh",
        f"yes 'uploading a part' | head -n 5000; echo BACKUP_SUCCESS key={KEY} size={len(BODY)}",
    )
    assert world.run(etcd_backup).result["key"] == KEY


def test_the_last_announcement_counts(world: World) -> None:
    """A script may announce each attempt."""
    world.fleet.program(
        "etcd-backup.sh", f"echo BACKUP_SUCCESS key=old size=1; echo BACKUP_SUCCESS key={KEY} size={len(BODY)}"
    )
    assert world.run(etcd_backup).result["key"] == KEY


@pytest.mark.parametrize(
    ("announced", "reason"),
    [
        ("key=etcd/nowhere.db size=10", "no such object"),
        (f"key={KEY} size=11", "has 10 bytes; the script announced 11"),
    ],
)
def test_the_object_is_not_what_was_announced(world: World, announced: str, reason: str) -> None:
    """An object that is missing, or of another size, is no backup."""
    world.fleet.program("etcd-backup.sh", f"echo BACKUP_SUCCESS {announced}")
    assert reason in failed(world.run(etcd_backup))


def test_an_empty_object_is_no_backup(world: World) -> None:
    """A backup of nothing is none, even when the script is honest about it."""
    world.clients("s3").put_object(Bucket=BUCKET, Key=KEY, Body=b"")
    world.fleet.program("etcd-backup.sh", f"echo BACKUP_SUCCESS key={KEY} size=0")
    assert "0 bytes" in failed(world.run(etcd_backup))


def test_an_old_object_is_no_backup(world: World) -> None:
    """A script that names yesterday's object has uploaded nothing."""
    world.clock.ahead = 24 * 3600
    assert "uploaded nothing new" in failed(world.run(etcd_backup))


def test_a_bucket_that_is_forbidden_is_not_reported_as_a_missing_object(world: World) -> None:
    """Any other error of S3 is passed on as it is."""
    world.clients("s3").delete_object(Bucket=BUCKET, Key=KEY)
    world.clients("s3").delete_bucket(Bucket=BUCKET)
    ran = world.run(etcd_backup)
    assert failed(ran)


def test_a_script_that_hangs_is_cancelled_in_time(world: World) -> None:
    """The command is given up and cancelled early enough to say so before the time limit."""
    world.fleet.endless.add(world.nodes[0])
    ran = world.run(etcd_backup, limit_seconds=120)
    assert "did not end within 55 s and was cancelled" in failed(ran)
    assert len(world.fleet.cancelled) == 1
    assert ran.left >= 60


def test_a_time_limit_that_is_too_short_is_named(world: World) -> None:
    """With Lambda's default limit of three seconds nothing is begun."""
    assert "raise the function's time limit" in failed(world.run(etcd_backup, limit_seconds=3))
    assert world.fleet.sent == []


@pytest.mark.parametrize("name", ["BACKUP_BUCKET", "CONTROL_PLANE_GROUP"])
def test_a_missing_setting_is_named(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A function that is not configured says what it lacks, and counts as a failed backup."""
    monkeypatch.delenv(name)
    assert name in failed(world.run(etcd_backup))


def test_a_number_that_is_none_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are checked before anything is begun."""
    monkeypatch.setenv("BACKUP_TIMEOUT_SECONDS", "ten")
    assert "BACKUP_TIMEOUT_SECONDS is 'ten'" in failed(world.run(etcd_backup))
    assert world.fleet.sent == []


def test_a_group_that_does_not_exist_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong name is the commonest mistake."""
    monkeypatch.setenv("CONTROL_PLANE_GROUP", "prod-2")
    assert "no Auto Scaling group 'prod-2'" in failed(world.run(etcd_backup))
