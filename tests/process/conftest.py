"""
Programs that use the library as a user's program does, each in a process of its own, talking to a fake CloudWatch in this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from retainwise_metrics.testing import FakeCloudWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCRIPTS = Path(__file__).parent / "scripts"
ROOT = Path(__file__).parents[2]

LONGEST_SECONDS = 60.0
"""Far longer than any of the programs takes: only one that hangs takes longer."""


class Ended(NamedTuple):
    """
    How a program ended.

    Attributes:
        code: Its exit code.
        said: What it printed, read as JSON; None when it printed nothing.
        complained: Its standard error.
    """

    code: int
    said: Any
    complained: str


@pytest.fixture
def cloudwatch() -> Iterator[FakeCloudWatch]:
    """A CloudWatch in this process, for other processes to talk to."""
    with FakeCloudWatch() as server:
        yield server


@pytest.fixture
def run(cloudwatch: FakeCloudWatch) -> Callable[..., Ended]:
    """Run one of the scripts to its end, with warnings as errors and only these variables in its environment."""

    def run_script(name: str, *arguments: str, **variables: str) -> Ended:
        done = subprocess.run(
            [sys.executable, str(SCRIPTS / name), *arguments],
            env=_environment(cloudwatch, variables),
            capture_output=True,
            text=True,
            timeout=LONGEST_SECONDS,
            check=False,
        )
        return Ended(done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr)

    return run_script


@pytest.fixture
def start(cloudwatch: FakeCloudWatch) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start one of the scripts; what still runs after the test is killed."""
    processes: list[subprocess.Popen[str]] = []

    def start_script(name: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        processes.append(
            subprocess.Popen(
                [sys.executable, str(SCRIPTS / name), *arguments],
                env=_environment(cloudwatch, variables),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return processes[-1]

    yield start_script
    for process in processes:
        process.kill()
        process.communicate()


def _environment(cloudwatch: FakeCloudWatch, variables: dict[str, str]) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": cloudwatch.endpoint_url,
        "ENVIRONMENT": "process-test",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        # Python 3.12 and later warn of every fork in a process with threads.
        "PYTHONWARNINGS": "error,ignore:This process:DeprecationWarning",
        **variables,
    }
