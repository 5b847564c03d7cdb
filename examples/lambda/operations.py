"""
What the three handlers share: a clock, a deadline, shell commands on nodes, log lines, and metrics that cannot hurt.

1. Nothing waits longer than the invocation has left: every wait is bounded by a `Deadline`.
2. Log lines go to standard error. Standard output is for metrics (EMF).
3. Whatever goes wrong with metrics is logged, and the handler goes on.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable  # noqa: TC003  the attributes of a named tuple
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

LONGEST_SECONDS = 900.0
"""Lambda's longest time limit; what a run without a Lambda context is given."""

POLL_SECONDS = 3.0
"""Between two questions whether a command has finished."""

CALL_SECONDS = 20.0
"""The longest that one call of AWS takes, with the settings of `client`: three attempts of 5 s and the pauses between."""

DELIVERY_SECONDS = 30
"""How long a node has to pick a command up: the shortest time that SendCommand accepts."""

FINISHED = frozenset({"Success", "Failed", "TimedOut", "Cancelled"})
"""The states of a command that do not change any more."""


class OperationError(Exception):
    """An operation could not be done; the message says which, on what, and what to look at."""


class OutOfTimeError(OperationError):
    """The invocation ends before the operation could."""


class NodeUnreachableError(OperationError):
    """Systems Manager cannot deliver a command to a node."""


class Clock(NamedTuple):
    """
    Time, as the handlers see it.

    Attributes:
        wall: Seconds since the epoch.
        monotonic: Seconds that never go back.
        sleep: Wait for some seconds.
    """

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Deadline:
    """
    When an invocation must have done its work.

    Args:
        context: Lambda's context; None where there is none.
        clock: Whose time it is.
        reserve_seconds: What to keep back for what must happen in any case.
    """

    def __init__(self, context: Any, clock: Clock, *, reserve_seconds: float) -> None:
        ask = getattr(context, "get_remaining_time_in_millis", None)
        seconds = ask() / 1000 if ask else LONGEST_SECONDS
        self._clock = clock
        self._end = clock.monotonic() + seconds - reserve_seconds

    def left(self) -> float:
        """How many seconds are left; never negative."""
        return max(0.0, self._end - self._clock.monotonic())


class Shell(NamedTuple):
    """
    A shell command that has ended, one way or another.

    Attributes:
        status: Systems Manager's word for it: `Success`, `Failed`, `TimedOut` or `Cancelled`.
        exit_code: The command's exit code; -1 where it has none.
        stdout: The first 24,000 characters of its standard output.
        stderr: The first 8,000 characters of its standard error.
    """

    status: str
    exit_code: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether the command ran and returned 0."""
        return self.status == "Success"

    def trouble(self) -> str:
        """What went wrong, in one line."""
        said = " ".join((self.stderr or self.stdout).split())
        return f"{self.status}, exit code {self.exit_code}: {said[-300:] or 'it said nothing'}"


@functools.cache
def client(service: str) -> Any:
    """Make a client that gives up after `CALL_SECONDS`, once for each service and container."""
    settings = Config(connect_timeout=1, read_timeout=4, retries={"mode": "standard", "total_max_attempts": 3})
    return boto3.client(service, config=settings)


def setting(name: str, default: str | None = None) -> str:
    """Read a setting from the environment; without a default it has to be there."""
    value = os.environ.get(name, default)
    if not value and default is None:
        message = f"The environment variable {name} is not set; see the table of settings in the README."
        raise OperationError(message)
    return value or ""


def whole_number(name: str, default: int) -> int:
    """Read a setting that is a number from 1 upwards."""
    value = setting(name, str(default))
    if not (value.isascii() and value.isdigit() and int(value)):
        message = f"The environment variable {name} is {value!r}; it takes a whole number from 1 upwards."
        raise OperationError(message)
    return int(value)


def log(message: str, **fields: object) -> None:
    """Write one line of JSON to standard error."""
    with contextlib.suppress(Exception):
        print(json.dumps({"message": message, **fields}, default=str), file=sys.stderr, flush=True)


def error_code(error: ClientError) -> str:
    """The code by which AWS names an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


def describe_group(autoscaling: Any, name: str) -> dict[str, Any]:
    """Look up an Auto Scaling group."""
    groups = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
    if not groups:
        message = f"There is no Auto Scaling group {name!r} in this region and account."
        raise OperationError(message)
    return dict(groups[0])


def serving(group: dict[str, Any]) -> list[str]:
    """The instances that a group has in service and believes healthy."""
    return [
        instance["InstanceId"]
        for instance in group["Instances"]
        if instance["LifecycleState"] == "InService" and instance["HealthStatus"].lower() == "healthy"
    ]


def run_shell(
    ssm: Any, instance_id: str, script: str, *, comment: str, seconds: float, deadline: Deadline, clock: Clock
) -> Shell:
    """
    Run a script on a node, as root, and wait for its end.

    Args:
        ssm: A Systems Manager client.
        instance_id: The node.
        script: For `/bin/sh`.
        comment: What the command's list shows; 100 characters at most.
        seconds: How long it may take; the deadline may cut this short.
        deadline: When the invocation ends.
        clock: Whose time it is.

    Raises:
        NodeUnreachableError: The node is not managed, its agent is not connected, or it did not pick the command up.
        OutOfTimeError: There is no time left.
    """
    allowed = min(seconds, deadline.left())
    if allowed < 1:
        message = f"No time is left for {comment!r} on {instance_id}; raise the function's time limit."
        raise OutOfTimeError(message)
    until = clock.monotonic() + allowed
    command_id = _send(ssm, instance_id, script, comment=comment, seconds=int(allowed))
    ended = _wait(ssm, command_id, instance_id, until=until, clock=clock)
    if ended is None:
        _cancel(ssm, command_id, instance_id)
        return Shell("TimedOut", -1, "", f"{comment!r} did not end within {allowed:.0f} s and was cancelled")
    # The API's documentation writes these with spaces, the API without.
    if ended.get("StatusDetails", "").replace(" ", "") in {"Undeliverable", "DeliveryTimedOut"}:
        message = f"{instance_id} did not pick up {comment!r}: {ended['StatusDetails']}."
        raise NodeUnreachableError(message)
    return Shell(
        ended["Status"],
        int(ended.get("ResponseCode", -1)),
        ended.get("StandardOutputContent", ""),
        ended.get("StandardErrorContent", ""),
    )


def _send(ssm: Any, instance_id: str, script: str, *, comment: str, seconds: int) -> str:
    try:
        sent = ssm.send_command(
            DocumentName="AWS-RunShellScript",
            InstanceIds=[instance_id],
            Comment=comment[:100],
            TimeoutSeconds=DELIVERY_SECONDS,
            Parameters={"commands": script.splitlines(), "executionTimeout": [str(seconds)]},
        )
    except ClientError as error:
        if error_code(error) == "InvalidInstanceId":
            message = f"{instance_id} takes no commands; is its Systems Manager agent running and connected?"
            raise NodeUnreachableError(message) from error
        raise
    return str(sent["Command"]["CommandId"])


def _wait(ssm: Any, command_id: str, instance_id: str, *, until: float, clock: Clock) -> dict[str, Any] | None:
    """The end of a command; None when it has not come in time."""
    while True:
        seen = _look(ssm, command_id, instance_id)
        if seen.get("Status") in FINISHED:
            return seen
        left = until - clock.monotonic()
        if left <= 0:
            return None
        clock.sleep(min(POLL_SECONDS, left))


def _look(ssm: Any, command_id: str, instance_id: str) -> dict[str, Any]:
    """The state of a command; empty when it cannot be told now."""
    try:
        return dict(ssm.get_command_invocation(CommandId=command_id, InstanceId=instance_id))
    except ClientError as error:
        # A command is not known everywhere the moment it is sent, and a throttled question can be asked again.
        if error_code(error) in {"InvocationDoesNotExist", "ThrottlingException", "InternalServerError"}:
            return {}
        raise
    except BotoCoreError:
        return {}


def _cancel(ssm: Any, command_id: str, instance_id: str) -> None:
    try:
        ssm.cancel_command(CommandId=command_id, InstanceIds=[instance_id])
    except (ClientError, BotoCoreError) as error:
        log("a command that took too long could not be cancelled", command=command_id, error=error)


def emf_logger(namespace: str, context: Any) -> Any:
    """
    Make the logger of retainwise_metrics: one for each invocation, so that what is set on it ends with that.

    It is imported here, so that a broken one is a logged error like any other.
    """
    from retainwise_metrics import emf

    return emf.create_metrics_logger(namespace, context)


class Metrics:
    """
    The metrics of one invocation, written at its end whatever the end is.

    Args:
        namespace: CloudWatch's namespace.
        context: Lambda's context.
        make: Makes the logger that does the work.
    """

    def __init__(self, namespace: str, context: Any, make: Callable[[str, Any], Any] = emf_logger) -> None:
        self._logger: Any = None
        with self._harmless("make the logger"):
            self._logger = make(namespace, context)

    def put(self, name: str, value: float, unit: str = "Count") -> None:
        """Record one value."""
        with self._harmless(name):
            if self._logger is not None:
                self._logger.put_metric(name, value, unit)

    def outcome(self, what: str, *, succeeded: bool) -> None:
        """Record a success and no failure, or the other way round: alarms need the zeros too."""
        self.put(f"{what}Success", int(succeeded))
        self.put(f"{what}Failure", int(not succeeded))

    def property(self, name: str, value: object) -> None:
        """Say something about the invocation that is no dimension."""
        with self._harmless(name):
            if self._logger is not None:
                self._logger.set_property(name, value)

    def __enter__(self) -> Metrics:  # noqa: PYI034  Self is not in Python 3.10
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._harmless("flush"):
            if self._logger is not None:
                self._logger.flush()

    @staticmethod
    @contextlib.contextmanager
    def _harmless(what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  a handler's result does not depend on its metrics
            log("metrics are broken", what=what, error=repr(error))
