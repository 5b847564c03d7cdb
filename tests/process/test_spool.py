"""Real processes that are killed, forked and full of hope: what was on disk is delivered by others, and once."""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.helpers import NAMESPACE

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from retainwise_metrics.testing import FakeCloudWatch
    from tests.process.conftest import Ended

GENERATIONS = 8
SPACE = 1_000_000
"""Numbers of one process begin with a multiple of this."""


def numbers_in(call: object) -> Counter[int]:
    """The numbers that one call carried."""
    found: Counter[int] = Counter()
    for datum in call.metric_data:  # type: ignore[attr-defined]
        values = datum["Values"] if "Values" in datum else [datum["Value"]]
        for value, count in zip(values, datum.get("Counts", [1] * len(values)), strict=True):
            found[int(value)] += int(count)
    return found


def wait_for_the_disk(owner: subprocess.Popen[str]) -> None:
    """Until some of its values are safe, while nothing gets through."""
    assert owner.stdout is not None
    recorded = unsafe = 0
    while recorded == unsafe:
        recorded, unsafe = json.loads(owner.stdout.readline())


@pytest.mark.parametrize("delivery", ["at-least-once", "at-most-once"])
def test_kill_9_at_any_point_loses_what_was_not_on_disk_and_repeats_nothing_acknowledged(
    delivery: str,
    start: Callable[..., subprocess.Popen[str]],
    run: Callable[..., Ended],
    cloudwatch: FakeCloudWatch,
    tmp_path: Path,
) -> None:
    """Several generations, each killed in good times or bad, each heir to the ones before; the last one delivers what is left."""
    chance = random.Random(7)
    settings = {
        "RETAINWISE_METRICS_SPOOL_DIR": str(tmp_path / "spool"),
        "RETAINWISE_METRICS_DELIVERY": delivery,
        "RETAINWISE_METRICS_BATCH_SIZE": "2",
    }
    in_flight: set[int] = set()
    safe: dict[int, int] = {}
    for generation in range(GENERATIONS):
        cloudwatch.faults.clear()
        if generation % 2 == 0:
            cloudwatch.faults.fail(503)
        process = start("spool.py", str(generation * SPACE), "killed", **settings)
        assert process.stdout is not None
        line, left = "[0, 0]", chance.randrange(1, 12)
        while left:
            recorded, unsafe = json.loads(line)
            left -= recorded - unsafe > 200  # its first flush is over
            line = process.stdout.readline()
            if chance.random() < 0.1:
                cloudwatch.faults.clear()
                cloudwatch.faults.fail(503, n=chance.randrange(1, 10))
        process.send_signal(signal.SIGKILL)
        for rest in process.stdout:
            line = rest if rest.endswith("\n") else line
        process.wait()
        recorded, unsafe = json.loads(line)
        safe[generation] = recorded - unsafe
        in_flight.add(len(cloudwatch.accepted_calls) - 1)
    cloudwatch.faults.clear()
    done = run("spool.py", "0", "delivers", **settings)
    assert done.code == 0, done.complained
    recorded, delivered, pending, dropped = done.said
    assert (pending, recorded) == (0, delivered + sum(dropped.values()))
    assert list((tmp_path / "spool").iterdir()) == [], "and there has been something in it"

    received, where = Counter[int](), dict[int, list[int]]()
    for index, call in enumerate(cloudwatch.accepted_calls):
        for number, count in numbers_in(call).items():
            received[number] += count
            where.setdefault(number, []).append(index)
    repeated = {number for number, count in received.items() if count > 1}
    assert cloudwatch.total_count() == sum(received.values()) > 0
    if delivery == "at-most-once":
        assert repeated == set()
    for number in repeated:
        assert received[number] == 2
        assert where[number][0] in in_flight, "accepted, and killed before it could know"
    # As many of each process's numbers as were safe at its last word; which ones depends on the batches that had failed once.
    arrived = Counter(number // SPACE for number in received)
    missing = sum(max(count - arrived[generation], 0) for generation, count in safe.items())
    in_doubt = dropped.get("in-doubt", 0)
    assert in_doubt == 0 or delivery == "at-most-once"
    assert missing <= in_doubt
    assert sum(safe.values()) > 0


@pytest.mark.parametrize("delivery", ["at-least-once", "at-most-once"])
def test_killed_between_acceptance_and_answer(
    delivery: str,
    start: Callable[..., subprocess.Popen[str]],
    run: Callable[..., Ended],
    cloudwatch: FakeCloudWatch,
    tmp_path: Path,
) -> None:
    """The one case in which nobody can know: delivered twice at least once, given up as in doubt at most once; and only that batch."""
    settings = {"RETAINWISE_METRICS_SPOOL_DIR": str(tmp_path / "spool"), "RETAINWISE_METRICS_DELIVERY": delivery}
    cloudwatch.faults.fail(503)
    owner = start("spool.py", "0", "killed", **settings)
    wait_for_the_disk(owner)
    cloudwatch.faults.clear()
    cloudwatch.faults.hang(after_accept=True)
    assert owner.stdout is not None
    while not cloudwatch.faults.held:
        owner.stdout.readline()
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    (call,) = cloudwatch.accepted_calls
    accepted = sum(numbers_in(call).values())
    cloudwatch.faults.clear()
    cloudwatch.faults.release()
    recorded, delivered, pending, dropped = run("spool.py", "0", "delivers", **settings).said
    assert (pending, recorded) == (0, delivered + sum(dropped.values()))
    assert cloudwatch.total_count() == delivered + accepted
    received = sum(map(numbers_in, cloudwatch.accepted_calls), Counter[int]())
    repeated = {number for number, count in received.items() if count > 1}
    if delivery == "at-most-once":
        assert repeated == set()
        # A batch that came from memory was on no disk, so the heir knows nothing of it.
        assert dropped in ({"in-doubt": accepted}, {})
    else:
        assert repeated <= numbers_in(call).keys()
        assert dropped == {}


def test_an_heir_on_the_same_host_waits_for_the_end_of_the_owner(
    start: Callable[..., subprocess.Popen[str]],
    run: Callable[..., Ended],
    cloudwatch: FakeCloudWatch,
    tmp_path: Path,
) -> None:
    """A living process's files are its own, however long nothing gets through; a stopped (SIGSTOP) one lives."""
    settings = {"RETAINWISE_METRICS_SPOOL_DIR": str(tmp_path / "spool")}
    cloudwatch.faults.fail(503)
    owner = start("spool.py", "0", "killed", **settings)
    wait_for_the_disk(owner)
    owner.send_signal(signal.SIGSTOP)
    cloudwatch.faults.clear()
    assert run("spool.py", "0", "delivers", **settings).said == [0, 0, 0, {}]
    assert cloudwatch.total_count() == 0
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    recorded, delivered, pending, dropped = run("spool.py", "0", "delivers", **settings).said
    assert recorded == delivered == cloudwatch.total_count() > 0
    assert (pending, dropped) == (0, {})


def test_an_exit_during_an_outage_leaves_everything_on_disk(
    run: Callable[..., Ended], cloudwatch: FakeCloudWatch, tmp_path: Path
) -> None:
    """An ordinary end: nothing is dropped as shutdown, and nothing is said about it but that calls fail."""
    settings = {"RETAINWISE_METRICS_SPOOL_DIR": str(tmp_path / "spool")}
    cloudwatch.faults.fail(503)
    done = run("end.py", "with_block_that_raises", RETAINWISE_METRICS_SHUTDOWN_TIMEOUT_SECONDS="1", **settings)
    assert done.code == 7
    assert cloudwatch.count(NAMESPACE, "M") == 0
    cloudwatch.faults.clear()
    assert run("spool.py", "0", "delivers", **settings).said == [1, 1, 0, {}]
    assert cloudwatch.count(NAMESPACE, "M") == 1


def test_an_exit_while_the_endpoint_hangs_leaves_everything_on_disk(
    run: Callable[..., Ended], cloudwatch: FakeCloudWatch, tmp_path: Path
) -> None:
    """The thread is stuck in a call, so whoever stops the client brings to disk what it holds, and what is being sent."""
    settings = {"RETAINWISE_METRICS_SPOOL_DIR": str(tmp_path / "spool")}
    cloudwatch.faults.hang()
    done = run("end.py", "by_itself", RETAINWISE_METRICS_SHUTDOWN_TIMEOUT_SECONDS="1", **settings)
    assert done.code == 0, done.complained
    cloudwatch.faults.clear()
    cloudwatch.faults.release()
    assert run("spool.py", "0", "delivers", **settings).said == [1, 1, 0, {}]
    assert cloudwatch.count(NAMESPACE, "M") == 1
