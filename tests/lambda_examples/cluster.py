"""An etcd and a Kubernetes for the nodes, and the event that says that one of them goes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.lambda_examples.world import GROUP

if TYPE_CHECKING:
    from tests.lambda_examples.world import World

KUBECTL = """
printf '%s\\n' "$*" >>"$HOME/kubectl.calls"
case "$1" in
get) cat "$HOME/nodes" ;;
drain) cat "$HOME/drain.said" >&2; exit "$(cat "$HOME/drain.code")" ;;
esac
"""

ETCDCTL = """
echo "$NODE $*" >>"$HOME/etcdctl.calls"
if [ -e "$HOME/$NODE.broken" ]; then echo "context deadline exceeded" >&2; exit 1; fi
case "$1 $2" in
"member list") if [ "$3" = --write-out=json ]; then cat "$HOME/members.json"; else cat "$HOME/members"; fi ;;
"endpoint health") cat "$HOME/health.json"; exit "$(cat "$HOME/health.code")" ;;
"member remove")
    if [ -e "$HOME/remove.fails" ]; then cat "$HOME/remove.fails" >&2; exit 1; fi
    grep -v "^$3," "$HOME/members" >"$HOME/left"; mv "$HOME/left" "$HOME/members" ;;
esac
"""


class Cluster:
    """
    An etcd and a Kubernetes that `etcdctl` and `kubectl` on the nodes tell of.

    Args:
        world: The nodes.
    """

    def __init__(self, world: World) -> None:
        self.home = world.fleet.home
        self.nodes = world.nodes
        self.address = world.address
        self.ids = {node: 0x8E9E05C52164694D + number for number, node in enumerate(world.nodes)}
        world.fleet.program("kubectl", KUBECTL)
        world.fleet.program("etcdctl", ETCDCTL)
        self.write("nodes", "".join(f"node-{n} aws:///eu-central-1a/{n} {self.address[n]}\n" for n in self.nodes))
        self.drain(0)
        self.etcd(self.nodes)

    def write(self, name: str, text: str) -> None:
        """Set what the programs read."""
        (self.home / name).write_text(text, "utf-8")

    def calls(self, program: str) -> list[str]:
        """How a program was called."""
        path = self.home / f"{program}.calls"
        return path.read_text("utf-8").splitlines() if path.exists() else []

    def removals(self) -> list[str]:
        """The members that were asked to be removed."""
        return [call.split()[-1] for call in self.calls("etcdctl") if " member remove " in call]

    def drain(self, code: int, said: str = "") -> None:
        """Set how draining ends."""
        self.write("drain.code", str(code))
        self.write("drain.said", said)

    def etcd(self, members: list[str], *, unhealthy: tuple[str, ...] = (), learners: tuple[str, ...] = ()) -> None:
        """Set who is in the cluster, and how each is."""
        known = [
            {
                "ID": self.ids[node],
                "name": node,
                "peerURLs": [f"https://{self.address[node]}:2380"],
                "clientURLs": [f"https://{self.address[node]}:2379"],
                **({"isLearner": True} if node in learners else {}),
            }
            for node in members
        ]
        health = [{"endpoint": each["clientURLs"][0], "health": each["name"] not in unhealthy} for each in known]
        self.write("members.json", json.dumps({"header": {"raft_term": 2}, "members": known}))
        self.write("members", "".join(f"{self.ids[node]:x}, started, {node}, ..., false\n" for node in members))
        self.write("health.json", json.dumps(health))
        self.write("health.code", "1" if unhealthy else "0")


def event(node: str, **other: Any) -> dict[str, Any]:
    """What EventBridge sends."""
    detail = {
        "AutoScalingGroupName": GROUP,
        "LifecycleHookName": "drain",
        "LifecycleActionToken": "87654321-4321-4321-4321-210987654321",
        "EC2InstanceId": node,
        "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
        **other,
    }
    return {
        "version": "0",
        "id": "12345678-1234-1234-1234-123456789012",
        "source": "aws.autoscaling",
        "detail-type": "EC2 Instance-terminate Lifecycle Action",
        "detail": {key: value for key, value in detail.items() if value is not None},
    }
