"""
Back up etcd: run the backup script on a control plane node, and believe it only when the object is in S3.

Started by a schedule. The script has to print `BACKUP_SUCCESS key=<S3 key> size=<bytes>` as its last word and return 0. The object
has to be in the bucket, as large as announced, and written by this run: a script that uploads nothing and names yesterday's
object has not made a backup.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError
from operations import (
    CALL_SECONDS,
    Clock,
    Deadline,
    Metrics,
    NodeUnreachableError,
    OperationError,
    client,
    describe_group,
    emf_logger,
    error_code,
    log,
    run_shell,
    serving,
    setting,
    whole_number,
)

if TYPE_CHECKING:
    from collections.abc import Callable

NAMESPACE = "K8sCluster/EtcdBackup"
ANNOUNCEMENT = re.compile(r"^BACKUP_SUCCESS key=(\S+) size=([0-9]+)\s*$", re.MULTILINE)

RESERVE_SECONDS = 3 * CALL_SECONDS + 5
"""Kept back to see the end of the command, look at the object and write metrics."""

CLOCKS_DIFFER_SECONDS = 300.0
"""An object may seem this much older than the run that wrote it."""

# Systems Manager keeps the beginning of what is printed, and what counts is at the end.
SCRIPT = """
set -eu
said=$(mktemp)
trap 'rm -f "$said"' EXIT
code=0
{backup} >"$said" 2>&1 || code=$?
tail -c 8000 "$said"
exit "$code"
"""


class BackupError(OperationError):
    """There is no backup."""


def handler(
    event: dict[str, Any],  # noqa: ARG001  a schedule says nothing
    context: Any,
    *,
    clients: Callable[[str], Any] = client,
    clock: Clock = Clock(),
    logger: Callable[[str, Any], Any] = emf_logger,
) -> dict[str, Any]:
    """
    Make one backup.

    Raises:
        OperationError: There is no backup, and Lambda should try again.
    """
    started = clock.monotonic()
    made = False
    with Metrics(NAMESPACE, context, logger) as metrics:
        try:
            deadline = Deadline(context, clock, reserve_seconds=RESERVE_SECONDS)
            backup = back_up(clients, clock, deadline)
            made = True
            metrics.put("BackupSizeBytes", backup["size"], "Bytes")
            log("backup made", **backup)
        except Exception as error:
            log("no backup", error=error)
            raise
        else:
            return backup
        finally:
            metrics.outcome("Backup", succeeded=made)
            metrics.put("BackupDuration", clock.monotonic() - started, "Seconds")


def back_up(clients: Callable[[str], Any], clock: Clock, deadline: Deadline) -> dict[str, Any]:
    """Run the script and verify what it says."""
    bucket = setting("BACKUP_BUCKET")
    begun = clock.wall()
    nodes = serving(describe_group(clients("autoscaling"), setting("CONTROL_PLANE_GROUP")))
    node, output = run_backup(clients("ssm"), nodes, clock, deadline)
    key, size = read_announcement(output)
    verify(clients("s3"), bucket, key, size, begun=begun)
    return {"bucket": bucket, "key": key, "size": size, "node": node}


def run_backup(ssm: Any, nodes: list[str], clock: Clock, deadline: Deadline) -> tuple[str, str]:
    """Run the script on the first node that takes the command: (node, what the script printed)."""
    seconds = whole_number("BACKUP_TIMEOUT_SECONDS", 600)
    script = SCRIPT.format(backup=setting("BACKUP_COMMAND", "/usr/local/bin/etcd-backup.sh"))
    unreachable = []
    for node in nodes:
        try:
            done = run_shell(ssm, node, script, comment="back up etcd", seconds=seconds, deadline=deadline, clock=clock)
        except NodeUnreachableError as error:
            unreachable.append(str(error))
            continue
        if not done.ok:
            message = f"The backup failed on {node}: {done.trouble()}"
            raise BackupError(message)
        return node, done.stdout
    reasons = " ".join(unreachable) or "The group has no instance that is healthy and in service."
    message = f"No control plane node takes commands. {reasons}"
    raise BackupError(message)


def read_announcement(output: str) -> tuple[str, int]:
    """The key and size that the script announced last."""
    found = ANNOUNCEMENT.findall(output)
    if not found:
        said = " ".join(output.split())[-300:] or "nothing"
        message = f"The script returned 0 without a line `BACKUP_SUCCESS key=... size=...`; it said: {said}"
        raise BackupError(message)
    key, size = found[-1]
    return key, int(size)


def verify(s3: Any, bucket: str, key: str, size: int, *, begun: float) -> None:
    """See that the object is there, whole and new."""
    where = f"s3://{bucket}/{key}"
    try:
        found = s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error_code(error) in {"404", "NoSuchKey", "NotFound"}:
            message = f"The script announced {where}, but there is no such object."
            raise BackupError(message) from error
        raise
    if found["ContentLength"] != size or size == 0:
        message = f"{where} has {found['ContentLength']} bytes; the script announced {size}."
        raise BackupError(message)
    age = begun - found["LastModified"].timestamp()
    if age > CLOCKS_DIFFER_SECONDS:
        message = f"{where} was written {age:.0f} s before this run; the script uploaded nothing new."
        raise BackupError(message)
