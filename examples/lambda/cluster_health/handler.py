"""
Watch the control plane, and have a node replaced that stays broken while the others are well.

Started by a schedule, every minute or so. A node is healthy when its Auto Scaling group has it in service, its EC2 status checks have
not failed, and the probe (a command on the node; by default the API server's `/readyz`) returns 0. A run fails when fewer
nodes are healthy than the group wants. How often in a row, is kept in Parameter Store.

A node that has failed in N runs in a row is reported to its group as unhealthy, which replaces it through the usual lifecycle hooks.
That is done

1. only for nodes that the group itself takes to be healthy: the others are being replaced already,
2. only while the healthy nodes are a majority: otherwise a replacement costs the data, and a person has to decide,
3. only while no other node comes or goes, and for one node in a run,
4. never without having seen the node fail in this very run.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import ClientError
from operations import (
    CALL_SECONDS,
    Clock,
    Deadline,
    Metrics,
    NodeUnreachableError,
    OutOfTimeError,
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

NAMESPACE = "K8sCluster/Health"

RESERVE_SECONDS = 6 * CALL_SECONDS + 5
"""Kept back to see the end of a probe, to read and store the state and to report a node."""

PROBE_SECONDS = 20.0
PROBE = "curl --silent --show-error --fail --max-time 10 --insecure https://127.0.0.1:6443/readyz"
"""`PROBE_COMMAND` says otherwise; set to nothing it leaves the judgement to Auto Scaling and EC2."""


class State(NamedTuple):
    """
    What a run hands on to the next.

    Attributes:
        failures: Failed runs in a row.
        suspects: For each node that failed in the last run: in how many in a row.
        event: The id of the event that was counted last; EventBridge may deliver one twice.
    """

    failures: int = 0
    suspects: dict[str, int] = {}  # noqa: RUF012  never changed
    event: str = ""


class View(NamedTuple):
    """
    What a run has seen of the group.

    Attributes:
        wanted: How many nodes the group should have.
        healthy: The nodes that are well.
        broken: The nodes that are not, though the group has them in service and takes them to be healthy.
        changing: Whether nodes come or go.
    """

    wanted: int
    healthy: list[str]
    broken: list[str]
    changing: bool

    @property
    def failed(self) -> bool:
        """Whether the group has fewer healthy nodes than it wants."""
        return len(self.healthy) < self.wanted


class Report:
    """What a run has to tell; it begins with what is true when nothing could be seen."""

    def __init__(self) -> None:
        self.healthy = 0
        self.failures = 1
        self.replaced = ""
        self.recovered = False


def handler(
    event: dict[str, Any],
    context: Any,
    *,
    clients: Callable[[str], Any] = client,
    clock: Clock = Clock(),
    logger: Callable[[str, Any], Any] = emf_logger,
) -> dict[str, Any]:
    """
    Check once.

    Raises:
        OperationError: A setting is wrong, or the group does not exist.
        botocore.exceptions.ClientError: AWS refused what the check needs.
    """
    started = clock.monotonic()
    report = Report()
    with Metrics(NAMESPACE, context, logger) as metrics:
        try:
            deadline = Deadline(context, clock, reserve_seconds=RESERVE_SECONDS)
            check(str(event.get("id", "")), report, clients, clock, deadline)
            return {**vars(report)}
        except Exception as error:
            log("the check failed", error=error)
            raise
        finally:
            log("checked", **vars(report))
            metrics.put("HealthyControlPlaneInstances", report.healthy)
            metrics.put("ConsecutiveHealthFailures", report.failures)
            metrics.put("AutoRecoveryTriggered", int(bool(report.replaced)))
            metrics.put("ClusterRecovered", int(report.recovered))
            metrics.put("HealthCheckDuration", clock.monotonic() - started, "Seconds")


def check(event_id: str, report: Report, clients: Callable[[str], Any], clock: Clock, deadline: Deadline) -> None:
    """Look, count, and have a node replaced if that is due."""
    name, parameter = setting("CONTROL_PLANE_GROUP"), setting("STATE_PARAMETER")
    threshold = whole_number("FAILURE_THRESHOLD", 3)
    ssm = clients("ssm")
    try:
        view = look(name, clients, clock, deadline)
    except Exception:
        # A check that sees nothing has failed, and says nothing about any node.
        advance(ssm, parameter, None, event_id, report)
        raise
    report.healthy = len(view.healthy)
    report.failures = int(view.failed)
    before, after = advance(ssm, parameter, view, event_id, report)
    if after is before:
        log("the event was counted before", event=event_id)
        return
    report.recovered = before.failures >= threshold and after.failures == 0
    due = to_replace(after, view, threshold)
    if due:
        replace(clients("autoscaling"), due)
        report.replaced = due


def advance(ssm: Any, parameter: str, view: View | None, event_id: str, report: Report) -> tuple[State, State]:
    """Count a run and store the outcome: the states before and after."""
    before = load(ssm, parameter)
    after = count(before, view, event_id)
    report.failures = after.failures
    if after is not before:
        save(ssm, parameter, after)
    return before, after


def look(name: str, clients: Callable[[str], Any], clock: Clock, deadline: Deadline) -> View:
    """See how the group and its nodes are."""
    group = describe_group(clients("autoscaling"), name)
    in_service = serving(group)
    impaired = failed_status_checks(clients("ec2"), in_service)
    broken = [
        node
        for node in in_service
        if node in impaired or not answers(clients("ssm"), node, clock=clock, deadline=deadline)
    ]
    states = [instance["LifecycleState"] for instance in group["Instances"]]
    return View(
        wanted=group["DesiredCapacity"],
        healthy=[node for node in in_service if node not in broken],
        broken=broken,
        changing=any(state not in {"InService", "Standby"} for state in states)
        or states.count("InService") > len(in_service),
    )


def failed_status_checks(ec2: Any, nodes: list[str]) -> set[str]:
    """The nodes that EC2 knows to be impaired or not running; a check that still begins is none that failed."""
    if not nodes:
        return set()
    found = ec2.describe_instance_status(InstanceIds=nodes, IncludeAllInstances=True)["InstanceStatuses"]
    return {
        each["InstanceId"]
        for each in found
        if each["InstanceState"]["Name"] != "running"
        or "impaired" in {each["InstanceStatus"]["Status"], each["SystemStatus"]["Status"]}
    }


def answers(ssm: Any, node: str, *, clock: Clock, deadline: Deadline) -> bool:
    """Whether the probe succeeds on a node."""
    probe = setting("PROBE_COMMAND", PROBE)
    if not probe:
        return True
    if deadline.left() < PROBE_SECONDS:
        # A probe that is cut short says something about this function, not about the node.
        message = f"No time is left for the probe of {node}; raise the function's time limit."
        raise OutOfTimeError(message)
    try:
        done = run_shell(
            ssm, node, probe, comment="health probe", seconds=PROBE_SECONDS, deadline=deadline, clock=clock
        )
    except NodeUnreachableError as error:
        log("no probe", node=node, error=error)
        return False
    if not done.ok:
        log("the probe failed", node=node, error=done.trouble())
    return done.ok


def count(before: State, view: View | None, event_id: str) -> State:
    """The state after a run, None for one that saw nothing; the same object for an event that was counted before."""
    if event_id and event_id == before.event:
        return before
    if view is None:
        return State(before.failures + 1, before.suspects, event_id)
    suspects = {node: before.suspects.get(node, 0) + 1 for node in view.broken}
    return State(before.failures + 1 if view.failed else 0, suspects, event_id)


def to_replace(state: State, view: View, threshold: int) -> str:
    """The node that is to be replaced now; empty when none is, or none may be."""
    due = sorted((-runs, node) for node, runs in state.suspects.items() if runs >= threshold)
    if not due:
        return ""
    if view.changing:
        log("no replacement while nodes come or go", suspects=state.suspects)
        return ""
    if len(view.healthy) < view.wanted // 2 + 1:
        log("no replacement without a healthy majority: a person has to decide", suspects=state.suspects)
        return ""
    return due[0][1]


def replace(autoscaling: Any, node: str) -> None:
    """Tell the group that a node is broken; where an operator has suspended replacements, the group waits."""
    autoscaling.set_instance_health(InstanceId=node, HealthStatus="Unhealthy", ShouldRespectGracePeriod=False)


def load(ssm: Any, parameter: str) -> State:
    """Read the state; a first run, and one after a state nobody can read, begin anew."""
    try:
        stored = json.loads(ssm.get_parameter(Name=parameter)["Parameter"]["Value"])
        suspects = {str(node): int(runs) for node, runs in stored["suspects"].items()}
        return State(int(stored["failures"]), suspects, str(stored["event"]))
    except ClientError as error:
        if error_code(error) == "ParameterNotFound":
            return State()
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        log("the stored state is not readable; counting begins anew", parameter=parameter, error=repr(error))
        return State()


def save(ssm: Any, parameter: str, state: State) -> None:
    """Store the state for the next run."""
    ssm.put_parameter(Name=parameter, Value=json.dumps(state._asdict()), Type="String", Overwrite=True)
