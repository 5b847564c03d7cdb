"""A whole process against a CloudWatch: how it starts, forks and ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics.testing import FakeCloudWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
NS = "RetainWise/MLPipeline"
LONGEST_SECONDS = 60.0


@pytest.fixture
def cloudwatch() -> Iterator[FakeCloudWatch]:
    """A CloudWatch in this process, for child processes to talk to."""
    with FakeCloudWatch() as server:
        yield server


def run(script: str, endpoint_url: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a user's program, with settings from its environment."""
    settings = {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": endpoint_url,
        "ENVIRONMENT": "process-test",
        "PYTHONPATH": str(ROOT),
        "PATH": os.environ["PATH"],
        **environ,
    }
    return subprocess.run(
        [sys.executable, "-c", script],
        env=settings,
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
        check=False,
    )


RECORD = (
    "from retainwise_metrics import get_metrics_client as client\nfor _ in range(7): client().increment_counter('A')\n"
)


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("", 0),
        ("import sys; sys.exit(3)", 3),
        ("raise ValueError('bug')", 1),
        ("import threading, sys; t = threading.Thread(target=sys.exit); t.start(); t.join()", 0),
        ("client().stop()", 0),
        ("client().flush()", 0),
    ],
)
def test_whatever_way_it_ends_everything_is_delivered_once(cloudwatch: FakeCloudWatch, ending: str, code: int) -> None:
    """A program that ends right after recording, by itself or by an exception, loses nothing and keeps its exit code."""
    done = run(RECORD + ending, cloudwatch.endpoint_url)
    assert done.returncode == code, done.stderr
    assert cloudwatch.sum(NS, "A", {}) == 7
    assert "retainwise" not in done.stderr


@pytest.mark.parametrize("fault", ["hang", "refuse_connections"])
def test_an_endpoint_that_does_not_answer_does_not_hold_the_exit(cloudwatch: FakeCloudWatch, fault: str) -> None:
    """The process ends within its shutdown time and says what it could not deliver."""
    getattr(cloudwatch.faults, fault)()
    script = RECORD + "import logging; logging.basicConfig()"
    done = run(script, cloudwatch.endpoint_url, RETAINWISE_METRICS_SHUTDOWN_TIMEOUT_SECONDS="0.5")
    assert done.returncode == 0, done.stderr
    assert "shutdown" in done.stderr


def test_a_process_that_never_records_starts_nothing() -> None:
    """Importing everything and making a client loads no boto3 and no asyncio, and starts no thread."""
    script = """
import sys, json
import retainwise_metrics
bare = sorted(m for m in ("boto3", "botocore", "asyncio", "typing", "logging") if m in sys.modules)
from retainwise_metrics import *
client = get_metrics_client()
client.counter("A").bind(B="c"); client.histogram("H"); client.scoped({"S": "s"}); client.stats()
import threading
print(json.dumps([bare, [m for m in ("boto3", "botocore", "asyncio", "logging", "dataclasses") if m in sys.modules],
                  threading.active_count()]))
"""
    done = run(script, "http://127.0.0.1:1")
    assert json.loads(done.stdout) == [[], [], 1], done.stderr


def test_the_default_environment_is_quiet_and_says_so(cloudwatch: FakeCloudWatch) -> None:
    """In development nothing is recorded, nothing started, and one warning says how to change it."""
    script = RECORD + "import threading; print(client().put_metric('A', 1), threading.active_count())"
    done = run(script, cloudwatch.endpoint_url, ENVIRONMENT="")
    assert done.stdout.split() == ["False", "1"]
    assert done.stderr.count("FORCE_CLOUDWATCH") == 1
    assert cloudwatch.calls == []


FORK = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later: threads and fork
from retainwise_metrics import get_metrics_client
client = get_metrics_client()
handle = client.counter("Bound")
for _ in range(5): client.increment_counter("A"); handle.inc()
FLUSH
for _ in range(3): client.increment_counter("A"); handle.inc()
child = os.fork()
for _ in range(10): assert client.increment_counter("A") and handle.inc()
if child == 0:
    assert client.stats().recorded == 20, client.stats()
    result = client.stop(10.0)
    os._exit(0 if result and result.delivered == 20 else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
result = client.stop(10.0)
stats = client.stats()
assert stats.recorded == stats.delivered == 36, stats
sys.exit(status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("flush", ["pass", "assert client.flush(10.0)"], ids=["cold", "with a warm connection"])
def test_a_forked_child_starts_empty_and_the_parent_is_unharmed(cloudwatch: FakeCloudWatch, flush: str) -> None:
    """What was pending is delivered by the parent, once; what the child records by the child; bound handles work in both."""
    done = run(FORK.replace("FLUSH", flush), cloudwatch.endpoint_url)
    assert done.returncode == 0, done.stderr
    assert cloudwatch.sum(NS, "A", {}) == 5 + 3 + 10 + 10
    assert cloudwatch.sum(NS, "Bound", {}) == 5 + 3 + 10 + 10


FORK_UNDER_LOAD = """
import os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from retainwise_metrics import get_metrics_client
client = get_metrics_client()
handle = client.counter("Bound")
client.increment_counter('Warm'); client.flush(20.0)
sys.setswitchinterval(1e-5)
over, recorded = threading.Event(), [0] * 3

def record(index):
    while not over.is_set():
        recorded[index] += handle.inc() + client.increment_counter("A", dimensions={"Kind": str(recorded[index] % 50)})

def flush():
    while not over.is_set():
        client.flush(1.0)

threads = [threading.Thread(target=record, args=(index,)) for index in range(3)] + [threading.Thread(target=flush)]
for thread in threads: thread.start()
bad = 0
for _ in range(30):
    child = os.fork()
    if child == 0:
        for _ in range(10): handle.inc()
        os._exit(0 if client.stop(20.0) and client.stats().delivered == 10 else 1)
    bad += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
over.set()
for thread in threads: thread.join()
client.stop(20.0)
stats = client.stats()
assert stats.recorded == stats.delivered == 1 + sum(recorded), (stats, recorded)
print(1 + sum(recorded))
sys.exit(bad)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_thirty_forks_under_load_hang_nothing_and_count_right(cloudwatch: FakeCloudWatch) -> None:
    """Children forked while other threads record, fold and send start empty and work; the parent loses nothing."""
    done = run(FORK_UNDER_LOAD, cloudwatch.endpoint_url)
    assert done.returncode == 0, done.stderr
    assert cloudwatch.total_count() == int(done.stdout) + 30 * 10


FORK_AT_ONCE = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from retainwise_metrics import CloudWatchMetrics, MetricsConfig
client = CloudWatchMetrics(MetricsConfig.from_env(flush_interval_seconds=0.1))
client.increment_counter("A")  # starts the thread, which imports boto3
bad = 0
for delay in range(6):
    for _ in range(delay * 20_000): pass
    child = os.fork()
    if child == 0:
        client.increment_counter("A")
        os._exit(0 if client.stop(20.0) else 1)
    bad += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
client.stop(20.0)
sys.exit(bad)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_in_the_middle_of_importing_boto3_leaves_a_child_that_delivers(cloudwatch: FakeCloudWatch) -> None:
    """A half imported module would make the child wait for ever: the fork waits for the import instead."""
    done = run(FORK_AT_ONCE, cloudwatch.endpoint_url)
    assert done.returncode == 0, done.stderr
    assert cloudwatch.sum(NS, "A", {}) == 7


FROZEN = """
from freezegun import freeze_time
from retainwise_metrics import CloudWatchMetrics, MetricsConfig
client = CloudWatchMetrics(MetricsConfig.from_env())
with freeze_time(FROZEN_AT, tick=TICK):
    for _ in range(5): assert client.put_metric("A", 1)
    assert client.flush(10.0), client.stats()
    assert client.put_metric("A", 1)
    assert client.stop(10.0), client.stats()
"""


@pytest.mark.parametrize("tick", [False, True])
def test_it_works_with_frozen_time_and_keeps_the_frozen_minute(tick: bool) -> None:
    """Under freezegun a flush still ends, and the values carry the minute that the test pretends it is."""
    frozen = 1_790_000_040.0
    with FakeCloudWatch(now=lambda: frozen) as cloudwatch:
        moment = "__import__('datetime').datetime.fromtimestamp(1790000040, __import__('datetime').timezone.utc)"
        done = run(FROZEN.replace("FROZEN_AT", moment).replace("TICK", str(tick)), cloudwatch.endpoint_url)
        assert done.returncode == 0, done.stderr
        assert cloudwatch.minutes(NS, "A", {}) == [1_790_000_040]
        assert cloudwatch.count(NS, "A", {}) == 6


REENTRANT = """
import gc, signal, sys
from retainwise_metrics import get_metrics_client
client = get_metrics_client()
handle = client.counter("Handler")
# Lists, because += on a number is not safe when a handler interrupts a handler; append is.
recorded = {"handler": [], "finaliser": []}

class Finalised:
    def __init__(self): self.me = self
    def __del__(self): recorded["finaliser"].append(client.increment_counter("Finaliser"))

def on_signal(*_):
    recorded["handler"].append(handle.inc())
    recorded["handler"].append(client.increment_counter("Handler", dimensions={"N": str(len(recorded["handler"]) % 9)}))

signal.signal(signal.SIGALRM, on_signal)
signal.setitimer(signal.ITIMER_REAL, 1e-3, 2e-4)
gc.set_threshold(1)
for index in range(20_000):
    Finalised()
    client.put_metric("Main", index % 11)
    if index % 2_000 == 0: client.flush(5.0)
signal.setitimer(signal.ITIMER_REAL, 0)
gc.collect()
assert client.stop(20.0)
stats = client.stats()
counts = {name: sum(taken) for name, taken in recorded.items()}
assert stats.recorded == stats.delivered == 20_000 + sum(counts.values()), (stats, counts)
assert counts["handler"] > 100 and counts["finaliser"] > 1_000, counts
"""


def test_signal_handlers_and_finalisers_may_record_at_any_moment(cloudwatch: FakeCloudWatch) -> None:
    """Thousands of records from handlers and finalisers, in the middle of everything: no deadlock and not one lost."""
    done = run(REENTRANT, cloudwatch.endpoint_url)
    assert done.returncode == 0, done.stderr


def test_stop_returns_in_its_time_while_a_call_hangs(cloudwatch: FakeCloudWatch) -> None:
    """A hundred thousand records are taken while the endpoint hangs, and stop(0.3) does not wait for it."""
    cloudwatch.faults.hang()
    script = """
import time
from retainwise_metrics import get_metrics_client
client = get_metrics_client()
client.increment_counter("A")
client.flush(0.2)
taken = sum(client.put_metric("A", index) for index in range(100_000))
began = time.monotonic()
result = client.stop(0.3)
took = time.monotonic() - began
stats = client.stats()
assert taken == 100_000 and not result and stats.pending + sum(stats.dropped.values()) == 100_001, (taken, stats)
print(took, flush=True)
import os; os._exit(0)
"""
    done = run(script, cloudwatch.endpoint_url)
    assert done.returncode == 0, done.stderr
    assert 0.25 < float(done.stdout) < 3.0  # generous: it is the hanging call's ten seconds that it must not wait for
