"""A control plane of three nodes in moto, and a way to run a handler there and to hold what it said."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from moto.autoscaling import autoscaling_backends

from retainwise_metrics.testing.emf_reader import EmfReader
from tests.lambda_examples.handlers import operations

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.lambda_examples.fleet import Fleet

REGION = "eu-central-1"
GROUP = "prod-1-control-plane"
IMAGE = "ami-12c6146b"
CLUSTER = "prod-1"
FUNCTION = "the-function"
DIMENSIONS = {"ClusterName": CLUSTER, "FunctionName": FUNCTION}


class ManualClock:
    """Time that passes only where somebody sleeps; its wall clock starts at the real time, as moto's does."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.ahead = 0.0
        self.start = time.time()

    def sleep(self, seconds: float) -> None:
        assert seconds > 0, "a loop that does not wait"
        self.passed += seconds

    def clock(self) -> Any:
        return operations.Clock(
            wall=lambda: self.start + self.ahead + self.passed, monotonic=lambda: self.passed, sleep=self.sleep
        )


class Context:
    """
    Lambda's context, as far as it matters.

    Args:
        clock: Whose time it is.
        limit_seconds: The function's time limit, from now on.
    """

    function_name = FUNCTION
    aws_request_id = "11111111-2222-3333-4444-555555555555"

    def __init__(self, clock: ManualClock, limit_seconds: float) -> None:
        self._clock = clock
        self._end = clock.passed + limit_seconds

    def get_remaining_time_in_millis(self) -> int:
        return round((self._end - self._clock.passed) * 1000)


class Ran(NamedTuple):
    """
    One run of a handler.

    Attributes:
        result: What it returned; None when it raised.
        error: What it raised.
        emf: What it published.
        log: The lines it logged.
        left: Seconds that were left until the time limit.
    """

    result: Any
    error: Exception | None
    emf: EmfReader
    log: list[dict[str, Any]]
    left: float

    def metrics(self) -> dict[str, float]:
        """The sum of each metric, under exactly the dimensions that alarms look at."""
        found = self.emf.series()
        assert all(dict(series.dimensions) == DIMENSIONS for series in found), found
        return {series.name: self.emf.sum(series.namespace, series.name, DIMENSIONS) for series in found}


class World:
    """
    A control plane.

    Args:
        fleet: Answers commands.
        clients: Makes clients of moto.
        capsys: Holds what handlers print.
    """

    def __init__(self, fleet: Fleet, clients: Callable[[str], Any], capsys: pytest.CaptureFixture[str]) -> None:
        self.fleet = fleet
        self.clients = clients
        self.clock = ManualClock()
        self._capsys = capsys
        ec2, autoscaling = clients("ec2"), clients("autoscaling")
        ec2.create_launch_template(LaunchTemplateName="node", LaunchTemplateData={"ImageId": IMAGE})
        autoscaling.create_auto_scaling_group(
            AutoScalingGroupName=GROUP,
            LaunchTemplate={"LaunchTemplateName": "node"},
            AvailabilityZones=[f"{REGION}a"],
            MinSize=3,
            MaxSize=5,
            DesiredCapacity=3,
        )
        self.nodes = [state.instance_id for state in self.states()]
        found = ec2.describe_instances(InstanceIds=self.nodes)["Reservations"]
        self.address = {i["InstanceId"]: i["PrivateIpAddress"] for each in found for i in each["Instances"]}

    def states(self) -> list[Any]:
        """The group's instances, as moto keeps them."""
        return list(next(iter(autoscaling_backends.values()))[REGION].autoscaling_groups[GROUP].instance_states)

    def set_state(self, node: str, *, lifecycle: str = "InService", health: str = "Healthy") -> None:
        """Put a node into a state."""
        state = next(state for state in self.states() if state.instance_id == node)
        state.lifecycle_state, state.health_status = lifecycle, health

    def health(self, node: str) -> str:
        """What the group takes a node's health to be."""
        return str(next(state for state in self.states() if state.instance_id == node).health_status)

    def run(self, module: Any, event: dict[str, Any] | None = None, *, limit_seconds: float = 600, **parts: Any) -> Ran:
        """Run a handler."""
        self._capsys.readouterr()
        context = Context(self.clock, limit_seconds)
        arguments = {"clients": self.clients, "clock": self.clock.clock(), **parts}
        result = error = None
        try:
            result = module.handler(event or {}, context, **arguments)
        except Exception as raised:
            error = raised
        said = self._capsys.readouterr()
        emf = EmfReader().read(said.out)
        assert emf.other_lines == [], "only metrics belong on standard output"
        # Besides the handlers only the metrics logger speaks there, when it is broken.
        log = [json.loads(line) for line in said.err.splitlines() if not line.startswith("retainwise_metrics.emf: ")]
        return Ran(result, error, emf, log, context.get_remaining_time_in_millis() / 1000)
