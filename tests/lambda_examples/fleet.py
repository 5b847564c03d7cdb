"""Nodes for moto's Systems Manager: commands that are sent to them run for real, in a shell with other programs on its path."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from moto.autoscaling.responses import AutoScalingResponse
from moto.core.responses import EmptyResult
from moto.ssm.exceptions import SSMException
from moto.ssm.models import SimpleSystemManagerBackend
from moto.ssm.responses import SimpleSystemManagerResponse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Sent(NamedTuple):
    """A command that was sent."""

    node: str
    comment: str
    script: str
    seconds: int


class Fleet:
    """
    The nodes of a test.

    Args:
        directory: Where `bin` goes: the programs that commands find before the system's.
    """

    def __init__(self, directory: Path) -> None:
        self.bin = directory / "bin"
        self.bin.mkdir()
        self.home = directory
        self.offline: set[str] = set()
        """Nodes whose agent is not connected."""
        self.endless: set[str] = set()
        """Nodes on which no command ends."""
        self.details: dict[str, str] = {}
        """What the status of every command on a node says in detail, where it did not run."""
        self.hesitation: list[str | None] = []
        """Answers to the next questions about commands: an error's code, or None for "in progress"."""
        self.sent: list[Sent] = []
        self.cancelled: list[str] = []
        self.completed: list[dict[str, str]] = []
        """Lifecycle actions that were completed."""
        self.refuse_completion: Exception | None = None
        self._ended: dict[str, dict[str, Any]] = {}

    def program(self, name: str, script: str) -> None:
        """Put a shell script onto the path of every node; `$NODE` is the node it runs on, `$HOME` the test's directory."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        path.chmod(0o755)

    def accept(self, command_id: str, node: str, comment: str, parameters: dict[str, list[str]]) -> None:
        """Run what was sent."""
        script = "\n".join(parameters["commands"])
        self.sent.append(Sent(node, comment, script, int(parameters["executionTimeout"][0])))
        if node in self.endless:
            self._ended[command_id] = {"Status": "InProgress", "StatusDetails": "InProgress", "ResponseCode": -1}
        elif node in self.details:
            details = {"Status": "Failed", "StatusDetails": self.details[node], "ResponseCode": -1}
            self._ended[command_id] = details
        else:
            self._ended[command_id] = self._run(node, script)

    def _run(self, node: str, script: str) -> dict[str, Any]:
        environment = {"PATH": f"{self.bin}:/usr/bin:/bin", "NODE": node, "HOME": str(self.home)}
        done = subprocess.run(
            ["/bin/sh", "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        status = "Failed" if done.returncode else "Success"
        return {
            "Status": status,
            "StatusDetails": status,
            "ResponseCode": done.returncode,
            # Systems Manager keeps no more than this.
            "StandardOutputContent": done.stdout[:24_000],
            "StandardErrorContent": done.stderr[:8_000],
        }

    def look(self, command_id: str) -> dict[str, Any]:
        """What is known of a command now."""
        if self.hesitation:
            code = self.hesitation.pop(0)
            if code is not None:
                raise SSMException(code, "as the test wants it")
            return {"Status": "InProgress", "StatusDetails": "InProgress", "ResponseCode": -1}
        return self._ended[command_id]

    @contextlib.contextmanager
    def served(self) -> Iterator[Fleet]:
        """Let moto's Systems Manager send to these nodes, and add what it lacks: cancelling, and lifecycle actions."""
        fleet = self
        send_command = SimpleSystemManagerBackend.send_command
        get_command_invocation = SimpleSystemManagerBackend.get_command_invocation

        def send(self: Any, **asked: Any) -> Any:
            (node,) = asked["instance_ids"]
            if node in fleet.offline:
                raise SSMException("InvalidInstanceId", f"Instances [[{node}]] not in a valid state for account")
            assert asked["document_name"] == "AWS-RunShellScript"
            assert asked["timeout_seconds"] >= 30, "the API takes nothing shorter"
            command = send_command(self, **asked)
            fleet.accept(command.command_id, node, asked["comment"], asked["parameters"])
            return command

        def look(self: Any, command_id: str, instance_id: str, plugin_name: str | None) -> Any:
            return {**get_command_invocation(self, command_id, instance_id, plugin_name), **fleet.look(command_id)}

        def cancel(self: Any) -> Any:
            fleet.cancelled.append(self._get_param("CommandId"))
            return EmptyResult()

        def complete(self: Any) -> Any:
            if fleet.refuse_completion:
                raise fleet.refuse_completion
            keys = (
                "AutoScalingGroupName",
                "LifecycleHookName",
                "LifecycleActionToken",
                "InstanceId",
                "LifecycleActionResult",
            )
            fleet.completed.append({key: self._get_param(key) for key in keys})
            return EmptyResult()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SimpleSystemManagerBackend, "send_command", send)
            patch.setattr(SimpleSystemManagerBackend, "get_command_invocation", look)
            patch.setattr(SimpleSystemManagerResponse, "cancel_command", cancel, raising=False)
            patch.setattr(AutoScalingResponse, "complete_lifecycle_action", complete, raising=False)
            yield self
