"""SIGTERM is how a container ends: with `flush_on_sigterm()` nothing pending is lost, and the process still ends as it was told to."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.helpers import NAMESPACE

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from retainwise_metrics.testing import FakeCloudWatch

    Start = Callable[..., subprocess.Popen[str]]

SECONDS = 60.0


def terminate(process: subprocess.Popen[str]) -> int:
    """Send a SIGTERM to whoever has said to be ready, and wait for the end of the process."""
    assert process.stdout is not None
    os.kill(int(process.stdout.readline()), signal.SIGTERM)
    return process.wait(SECONDS)


@pytest.mark.parametrize(
    ("way", "code", "arrived"),
    [
        ("default", -signal.SIGTERM, 1),
        ("other_threads", -signal.SIGTERM, 1),
        ("catches_everything", -signal.SIGTERM, 1),
        ("handler_that_exits", 5, 1),
        ("handler_that_goes_on", 0, 2),
        ("forked", -signal.SIGTERM, 2),
        ("not_asked", -signal.SIGTERM, 0),
    ],
)
def test_what_was_pending_is_delivered_and_the_process_ends_as_ever(
    way: str, code: int, arrived: int, start: Start, cloudwatch: FakeCloudWatch
) -> None:
    """Each value arrives once; the exit status is that of the signal, or the one that the application's own handler chose."""
    process = start("sigterm.py", way)
    assert terminate(process) == code
    assert cloudwatch.count(NAMESPACE, "M") == arrived
    assert process.stderr is not None
    assert process.stderr.read() == ""


@pytest.mark.parametrize("way", ["ignored", "in_a_thread"])
def test_where_it_cannot_help_it_says_so(way: str, start: Start, cloudwatch: FakeCloudWatch) -> None:
    """It answers False and changes nothing."""
    process = start("sigterm.py", way)
    assert process.wait(SECONDS) == 0
    assert cloudwatch.count(NAMESPACE, "M") == 1


def test_an_endpoint_that_hangs_does_not_hold_the_end(start: Start, cloudwatch: FakeCloudWatch) -> None:
    """The process ends when its shutdown time is over, by the signal."""
    cloudwatch.faults.hang()
    process = start("sigterm.py", "default", RETAINWISE_METRICS_SHUTDOWN_TIMEOUT_SECONDS="1")
    assert terminate(process) == -signal.SIGTERM
    assert cloudwatch.total_count() == 0


def test_a_second_signal_ends_it_at_once(start: Start, cloudwatch: FakeCloudWatch) -> None:
    """Whoever has no patience need not have any."""
    cloudwatch.faults.hang()
    process = start("sigterm.py", "default", RETAINWISE_METRICS_SHUTDOWN_TIMEOUT_SECONDS="300")
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    os.kill(pid, signal.SIGTERM)
    assert cloudwatch.wait_for_calls(1, SECONDS)
    os.kill(pid, signal.SIGTERM)
    assert process.wait(SECONDS) == -signal.SIGTERM
