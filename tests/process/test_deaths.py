"""Sudden deaths lose what was pending, and nothing else; orderly ones lose nothing, whoever records during the shutdown."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.helpers import NAMESPACE

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from retainwise_metrics.testing import FakeCloudWatch
    from tests.process.conftest import Ended

    Start = Callable[..., subprocess.Popen[str]]

SECONDS = 60.0
FLUSHED = {0.0: 1, 1.0: 1, 2.0: 1, 3.0: 1, 4.0: 1}
PENDING = {100.0: 1, 101.0: 1, 102.0: 1}
SUDDEN = pytest.mark.parametrize(
    ("way", "code"), [("abort", -signal.SIGABRT), ("os._exit", 9), ("SIGKILL", -signal.SIGKILL)]
)


@SUDDEN
def test_what_was_delivered_stays_and_the_rest_is_lost(
    way: str, code: int, run: Callable[..., Ended], cloudwatch: FakeCloudWatch
) -> None:
    """No code of the process runs any more. What is started in its place is not disturbed, and repeats nothing."""
    done = run("die.py", "suddenly", way, PYTHONFAULTHANDLER="")
    assert done.code == code, done.complained
    assert "retainwise" not in done.complained
    assert cloudwatch.values(NAMESPACE, "M") == FLUSHED
    assert run("end.py", "by_itself").code == 0
    assert cloudwatch.count(NAMESPACE, "M") == len(FLUSHED) + 1


@SUDDEN
def test_at_most_one_interval_is_lost(way: str, code: int, start: Start, cloudwatch: FakeCloudWatch) -> None:
    """Nobody has asked for a delivery: what is older than the interval has arrived all the same."""
    process = start("die.py", "when_told", way, RETAINWISE_METRICS_FLUSH_INTERVAL_SECONDS="0.2")
    assert cloudwatch.wait_until(lambda: cloudwatch.count(NAMESPACE, "M") == len(FLUSHED), SECONDS)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(SECONDS) == code
    values = cloudwatch.values(NAMESPACE, "M")
    assert FLUSHED.items() <= values.items() <= (FLUSHED | PENDING).items()


def test_killed_in_the_middle_of_a_call(start: Start, run: Callable[..., Ended], cloudwatch: FakeCloudWatch) -> None:
    """The call ends with the process; a new one finds a service that works, and repeats nothing."""
    cloudwatch.faults.hang()
    process = start("die.py", "flushing")
    assert cloudwatch.wait_for_calls(1, SECONDS)
    process.kill()
    assert process.wait(SECONDS) == -signal.SIGKILL
    cloudwatch.faults.clear()
    assert run("end.py", "by_itself").code == 0
    assert cloudwatch.count(NAMESPACE, "M") in (1, 1 + len(FLUSHED)), (
        "never twice, whether or not the call had come to its end"
    )


def test_a_hook_before_os_exit(run: Callable[..., Ended], cloudwatch: FakeCloudWatch) -> None:
    """After `client.stop()` nothing is pending, although threads record all the time: `os._exit` loses nothing that was taken."""
    done = run("die.py", "hooked")
    assert done.code == 3, done.complained
    taken, (recorded, delivered, pending, dropped) = done.said
    assert (delivered, pending, recorded - taken) == (taken, 0, sum(dropped.values()))
    assert set(dropped) <= {"stopped"}
    assert cloudwatch.total_count() == taken
    assert "Traceback" not in done.complained


def interrupt(process: subprocess.Popen[str]) -> None:
    """Send a SIGINT to whoever has said to be ready."""
    assert process.stdout is not None
    os.kill(int(process.stdout.readline()), signal.SIGINT)


@pytest.mark.parametrize(("way", "code"), [("waiting", -signal.SIGINT), ("waiting_and_catching", 130)])
def test_an_interrupt_delivers(way: str, code: int, start: Start, cloudwatch: FakeCloudWatch) -> None:
    """Ctrl-C is an exception, and the process ends in an orderly way: by the signal, as ever, or as it likes."""
    process = start("die.py", way)
    interrupt(process)
    _, complained = process.communicate(timeout=SECONDS)
    assert process.returncode == code, complained
    assert cloudwatch.values(NAMESPACE, "M") == FLUSHED
    assert complained.count("Traceback") == (code != 130), complained
    assert "retainwise" not in complained


def test_an_interrupt_in_the_middle_of_recording(start: Start, cloudwatch: FakeCloudWatch) -> None:
    """Whatever bytecode it interrupts: the books are right, and everything is delivered."""
    process = start("die.py", "recording")
    interrupt(process)
    said, complained = process.communicate(timeout=SECONDS)
    assert process.returncode == -signal.SIGINT, complained
    assert cloudwatch.count(NAMESPACE, "M") - json.loads(said) in (0, 1)
    assert complained.count("Traceback") == 1, complained


def test_an_interrupt_while_a_delivery_hangs(start: Start, cloudwatch: FakeCloudWatch) -> None:
    """It ends the waiting at once, and the process when its shutdown time is over."""
    cloudwatch.faults.hang()
    process = start("die.py", "flushing", RETAINWISE_METRICS_SHUTDOWN_TIMEOUT_SECONDS="1")
    assert cloudwatch.wait_for_calls(1, SECONDS)
    interrupt(process)
    _, complained = process.communicate(timeout=SECONDS)
    assert process.returncode == -signal.SIGINT, complained
    assert "KeyboardInterrupt" in complained
    assert cloudwatch.total_count() == 0


HOOKS = {
    "hooks_around": {"M": True, "After": True, "Before": False},
    "first_in_hook": {"First": True},
    "finalizers": {"M": True, "After": True},
    "del_after_everything": {"M": True},
}


@pytest.mark.parametrize("way", HOOKS)
def test_what_hooks_of_the_shutdown_record(way: str, run: Callable[..., Ended], cloudwatch: FakeCloudWatch) -> None:
    """What was answered with True has arrived when the process has ended; what comes too late is refused and counted."""
    # A connection made after the hook of `weakref` is closed by the end of the process, and urllib3 gets a warning for that.
    done = run("shut_down.py", way, PYTHONWARNINGS="error,ignore::ResourceWarning")
    assert done.code == 0, done.complained
    answers, (recorded, delivered, pending, dropped) = done.said
    assert answers == HOOKS[way]
    assert sum(dropped.values()) == recorded - delivered - pending
    assert {name for name in answers if cloudwatch.count(NAMESPACE, name) == 1} == {n for n in answers if answers[n]}
    assert cloudwatch.total_count() == sum(answers.values())
    assert "Traceback" not in done.complained
    assert "ignored" not in done.complained


def test_the_first_value_comes_when_boto3_cannot_be_imported_any_more(
    run: Callable[..., Ended], cloudwatch: FakeCloudWatch
) -> None:
    """It cannot be delivered, and that is said."""
    done = run("shut_down.py", "first_in_hook_cold")
    assert done.code == 0, done.complained
    assert done.said[0] == {"First": True}
    assert cloudwatch.total_count() == 0
    assert "metrics dropped (shutdown), 1 so far" in done.complained
    assert "Traceback" not in done.complained


def test_daemon_threads_record_while_the_interpreter_shuts_down(
    run: Callable[..., Ended], cloudwatch: FakeCloudWatch
) -> None:
    """Four of them, in a tight loop, and nothing has been delivered yet: what was taken arrives, and the ledger balances."""
    done = run("shut_down.py", "daemons", RETAINWISE_METRICS_SHUTDOWN_TIMEOUT_SECONDS="30")
    assert done.code == 0, done.complained
    taken, (recorded, delivered, pending, dropped) = done.said
    assert (delivered, pending, recorded - taken) == (taken, 0, sum(dropped.values()))
    assert set(dropped) == {"stopped"}
    assert cloudwatch.total_count() == taken
    assert "Traceback" not in done.complained


@pytest.mark.parametrize("repetition", range(2))
def test_daemon_threads_that_nobody_tells_to_end(
    repetition: int, run: Callable[..., Ended], cloudwatch: FakeCloudWatch
) -> None:
    """They record until the interpreter is gone: it ends with its own exit code, and without a word about them."""
    done = run("shut_down.py", "daemons_to_the_very_end", RETAINWISE_METRICS_SHUTDOWN_TIMEOUT_SECONDS="30")
    assert done.code == 0, done.complained
    assert cloudwatch.total_count() >= 4 * 300
    assert "Traceback" not in done.complained
    assert "Fatal" not in done.complained
