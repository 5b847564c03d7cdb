"""
An Auto Scaling group is about to terminate a control plane node: drain it, take its etcd member out, let it go.

Started by EventBridge on `EC2 Instance-terminate Lifecycle Action`. In this order:

1. Find a surviving node whose etcd answers; everything is done through it.
2. Drain the node. When that fails the rest goes on: the node goes anyway, and a dead member would stay in the way.
3. Look at etcd again and remove the member, unless the members that stay would be without a quorum.
4. Complete the lifecycle action, whatever has happened before: CONTINUE when the member is out of the cluster, ABANDON when
   it is still in. Both end with the termination of the instance, unless the group's instance lifecycle policy retains
   abandoned instances (`TerminateHookAbandon: retain`): that is how a node is kept for a person to look at.
5. Fail when the member is still in, so that Lambda tries again, twice. Every step can be repeated.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from botocore.exceptions import ClientError
from operations import (
    CALL_SECONDS,
    Clock,
    Deadline,
    Metrics,
    OperationError,
    Shell,
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

NAMESPACE = "K8sCluster/EtcdLifecycle"
TERMINATING = "autoscaling:EC2_INSTANCE_TERMINATING"

RESERVE_SECONDS = 4 * CALL_SECONDS + 5
"""Kept back to complete the action: a command that began late is sent, looked at and cancelled before."""

SURVEY_SECONDS = 30.0
REMOVAL_SECONDS = 30.0
SHORTEST_DRAIN_SECONDS = 10

KUBECTL = "kubectl --kubeconfig=/etc/kubernetes/admin.conf"
ETCDCTL = (
    "etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/kubernetes/pki/etcd/ca.crt"
    " --cert=/etc/kubernetes/pki/etcd/server.crt --key=/etc/kubernetes/pki/etcd/server.key"
)
"""Where kubeadm puts what the commands need; `KUBECTL` and `ETCDCTL` say otherwise."""

SURVEY = """
set -eu
export ETCDCTL_API=3
members=$({etcdctl} member list --write-out=json)
health=$({etcdctl} endpoint health --cluster --write-out=json) || true
printf 'ETCD_MEMBERS %s\\n' "$members"
printf 'ETCD_HEALTH %s\\n' "$health"
"""

# A node is known by its provider's id, and by its address where no cloud provider is set up.
DRAIN = """
set -eu
nodes=$({kubectl} get nodes --output=jsonpath='{{range .items[*]}}{{.metadata.name}}{{" "}}{{.spec.providerID}}{{" "}}\
{{.status.addresses[?(@.type=="InternalIP")].address}}{{"\\n"}}{{end}}')
node=$(printf '%s\\n' "$nodes" | awk -v id={instance} -v ip={address} \
'{{ for (i = 2; i <= NF; i++) if ($i == ip || $i ~ ("/" id "$")) {{ print $1; next }} }}')
if [ -z "$node" ]; then echo NODE_ABSENT; exit 0; fi
{kubectl} drain "$node" --ignore-daemonsets --delete-emptydir-data --force --timeout={seconds}s
echo NODE_DRAINED "$node"
"""

# A removal that was done before, or whose answer got lost, is no failure.
REMOVE = """
set -eu
export ETCDCTL_API=3
if {etcdctl} member remove {member}; then exit 0; fi
members=$({etcdctl} member list)
printf '%s\\n' "$members" | awk -F, -v id={member} '$1 "" == id {{ left = 1 }} END {{ exit left }}'
"""


class MemberNotRemovedError(OperationError):
    """The node's etcd member is still in the cluster."""


class Action(NamedTuple):
    """A lifecycle action that waits to be completed."""

    group: str
    hook: str
    token: str
    instance_id: str


class Member(NamedTuple):
    """A member of the etcd cluster, as a healthy member sees it."""

    id: str
    hosts: frozenset[str]
    votes: bool
    healthy: bool


class Report:
    """How far it has come; it begins with what is true when everything goes wrong at once."""

    def __init__(self) -> None:
        self.drain = "failed"
        self.member = "failed"
        self.reason = ""

    @property
    def result(self) -> str:
        """How the lifecycle action is completed."""
        return "CONTINUE" if self.member in {"removed", "absent"} else "ABANDON"


class Tools(NamedTuple):
    """What the steps work with."""

    clients: Callable[[str], Any]
    clock: Clock
    deadline: Deadline

    def shell(self, node: str, script: str, *, comment: str, seconds: float) -> Shell:
        """Run a script on a node."""
        return run_shell(
            self.clients("ssm"),
            node,
            script,
            comment=comment,
            seconds=seconds,
            deadline=self.deadline,
            clock=self.clock,
        )


def handler(
    event: dict[str, Any],
    context: Any,
    *,
    clients: Callable[[str], Any] = client,
    clock: Clock = Clock(),
    logger: Callable[[str, Any], Any] = emf_logger,
) -> dict[str, str]:
    """
    Handle one lifecycle action.

    Raises:
        OperationError: The event is not one, a setting is wrong, or the member is still in the cluster.
    """
    started = clock.monotonic()
    with Metrics(NAMESPACE, context, logger) as metrics:
        try:
            tools = Tools(clients, clock, Deadline(context, clock, reserve_seconds=RESERVE_SECONDS))
            return handle(read_action(event), tools, metrics)
        finally:
            metrics.put("LifecycleHandlerDuration", clock.monotonic() - started, "Seconds")


def handle(action: Action, tools: Tools, metrics: Metrics) -> dict[str, str]:
    """Take the node out and complete the action in every case."""
    report = Report()
    metrics.property("instance_id", action.instance_id)
    try:
        take_out(action, report, tools)
    except OperationError as error:
        report.reason = str(error)
    except BaseException as error:
        report.reason = repr(error)
        raise
    finally:
        log("the action is completed", instance_id=action.instance_id, result=report.result, **vars(report))
        measure(report, metrics)
        complete(tools.clients("autoscaling"), action, report.result)
    if report.result == "ABANDON":
        message = f"The etcd member of {action.instance_id} is still in the cluster. {report.reason}"
        raise MemberNotRemovedError(message)
    return {
        "instance_id": action.instance_id,
        "drain": report.drain,
        "member": report.member,
        "lifecycle_action_result": report.result,
    }


def read_action(event: dict[str, Any]) -> Action:
    """Read the lifecycle action from its event."""
    detail = event.get("detail") or {}
    if detail.get("LifecycleTransition") != TERMINATING:
        message = f"The event is no terminating lifecycle action but {event.get('detail-type')!r}; look at the rule."
        raise OperationError(message)
    keys = ("AutoScalingGroupName", "LifecycleHookName", "LifecycleActionToken", "EC2InstanceId")
    missing = [key for key in keys if not detail.get(key)]
    if missing:
        message = f"The event's detail has no {', '.join(missing)}."
        raise OperationError(message)
    action = Action(*(str(detail[key]) for key in keys))
    if not re.fullmatch(r"i-[0-9a-f]{8,17}", action.instance_id):
        message = f"EC2InstanceId {action.instance_id!r} is no instance id."
        raise OperationError(message)
    return action


def measure(report: Report, metrics: Metrics) -> None:
    """Say in metrics what a report says; a removal that was not tried is neither success nor failure."""
    metrics.outcome("NodeDrain", succeeded=report.drain != "failed")
    metrics.put("QuorumRiskDetected", int(report.member == "quorum risk"))
    if report.member != "quorum risk":
        metrics.outcome("EtcdMemberRemoval", succeeded=report.result == "CONTINUE")


def complete(autoscaling: Any, action: Action, result: str) -> None:
    """Complete the action; one that is completed or has expired is left alone."""
    try:
        autoscaling.complete_lifecycle_action(
            AutoScalingGroupName=action.group,
            LifecycleHookName=action.hook,
            LifecycleActionToken=action.token,
            InstanceId=action.instance_id,
            LifecycleActionResult=result,
        )
    except ClientError as error:
        if error_code(error) != "ValidationError" or "No active Lifecycle Action" not in str(error):
            raise
        log("the lifecycle action is over already", instance_id=action.instance_id)


def take_out(action: Action, report: Report, tools: Tools) -> None:
    """Drain the node, then remove its etcd member."""
    group = describe_group(tools.clients("autoscaling"), action.group)
    survivors = [instance for instance in serving(group) if instance != action.instance_id]
    address = address_of(tools.clients("ec2"), action.instance_id)
    via = answering_node(survivors, tools)
    report.drain = drain(action.instance_id, address, via, tools)
    report.member, report.reason = remove_member(address, via, tools)


def address_of(ec2: Any, instance_id: str) -> str:
    """The private address of an instance; empty when it is terminated already."""
    found = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
    return next((str(i.get("PrivateIpAddress", "")) for each in found for i in each["Instances"]), "")


def answering_node(candidates: list[str], tools: Tools) -> str:
    """The first node through which etcd can be looked at."""
    troubles = []
    for node in candidates:
        try:
            survey(node, tools)
        except OperationError as error:
            troubles.append(f"{node}: {error}")
        else:
            return node
    reasons = "; ".join(troubles) or "the group has no other instance that is healthy and in service"
    message = f"No surviving control plane node has an etcd that answers: {reasons}."
    raise OperationError(message)


def drain(instance_id: str, address: str, via: str, tools: Tools) -> str:
    """Drain a node: `drained`, `absent` when Kubernetes does not know it, or `failed`."""
    # The removal matters more, so its time is kept back.
    left = tools.deadline.left() - SURVEY_SECONDS - REMOVAL_SECONDS - 10
    seconds = int(min(whole_number("DRAIN_TIMEOUT_SECONDS", 120), left))
    if seconds < SHORTEST_DRAIN_SECONDS:
        log("no time is left for a drain", instance_id=instance_id)
        return "failed"
    script = DRAIN.format(
        kubectl=setting("KUBECTL", KUBECTL),
        instance=shlex.quote(instance_id),
        address=shlex.quote(address),
        seconds=seconds,
    )
    try:
        done = tools.shell(via, script, comment=f"drain {instance_id}", seconds=seconds + 10)
    except OperationError as error:
        log("the drain did not begin", instance_id=instance_id, error=error)
        return "failed"
    if not done.ok:
        log("the drain failed", instance_id=instance_id, error=done.trouble())
        return "failed"
    return "absent" if "NODE_ABSENT" in done.stdout else "drained"


def survey(via: str, tools: Tools) -> list[Member]:
    """The members of the etcd cluster and their health, as one node sees them."""
    script = SURVEY.format(etcdctl=setting("ETCDCTL", ETCDCTL))
    done = tools.shell(via, script, comment="look at etcd", seconds=SURVEY_SECONDS)
    if not done.ok:
        message = f"etcd could not be looked at through {via}: {done.trouble()}"
        raise OperationError(message)
    return read_survey(done.stdout)


def read_survey(output: str) -> list[Member]:
    """Read what the survey printed."""
    said = dict(line.split(" ", 1) for line in output.splitlines() if line.startswith("ETCD_"))
    try:
        healthy = {each["endpoint"] for each in json.loads(said["ETCD_HEALTH"]) if each["health"] is True}
        return [
            Member(
                id=f"{each['ID']:x}",
                hosts=frozenset(urlsplit(url).hostname or "" for url in each.get("peerURLs", ())),
                votes=not each.get("isLearner", False),
                healthy=not healthy.isdisjoint(each.get("clientURLs", ())),
            )
            for each in json.loads(said["ETCD_MEMBERS"])["members"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        message = f"etcdctl's answer could not be read ({error!r}); is ETCDCTL version 3.4 or newer?"
        raise OperationError(message) from error


def keeps_quorum(members: list[Member], leaving: Member) -> bool:
    """Whether the cluster that is left has enough healthy voters; removing the last voter is never right."""
    voters = [member for member in members if member.votes and member.id != leaving.id]
    healthy = sum(member.healthy for member in voters)
    return healthy >= len(voters) // 2 + 1


def remove_member(address: str, via: str, tools: Tools) -> tuple[str, str]:
    """Remove the member that lives at an address: (`removed`, `absent`, `quorum risk` or `failed`, and why)."""
    if not address:
        return (
            "failed",
            "The instance is terminated and its address is gone; see `etcdctl member list` for a dead member.",
        )
    members = survey(via, tools)
    leaving = next((member for member in members if address in member.hosts), None)
    if leaving is None:
        return "absent", ""
    if not keeps_quorum(members, leaving):
        unhealthy = sorted(member.id for member in members if member.votes and not member.healthy)
        return (
            "quorum risk",
            f"Without it etcd would have no quorum; members that do not answer: {', '.join(unhealthy)}.",
        )
    script = REMOVE.format(etcdctl=setting("ETCDCTL", ETCDCTL), member=leaving.id)
    done = tools.shell(via, script, comment=f"remove etcd member {leaving.id}", seconds=REMOVAL_SECONDS)
    return ("removed", "") if done.ok else ("failed", f"Its removal failed: {done.trouble()}")
