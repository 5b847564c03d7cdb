"""However a process ends, what it recorded is delivered or given up within the time it has, and its exit code is its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics.testing import FakeCloudWatch
from tests.helpers import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.process.conftest import Ended

NOWHERE = "http://127.0.0.1:1"
"""A port where nothing listens."""


@pytest.mark.parametrize(
    ("way", "code", "arrived"),
    [
        ("by_itself", 0, 1),
        ("with_block", 0, 1),
        ("with_block_that_raises", 7, 1),
        ("unhandled", 1, 1),
        ("exit_in_a_thread", 0, 1),
        ("unhandled_in_a_thread", 0, 1),
        ("last_thread", 0, 2),
        ("atexit_handler", 0, 2),
        ("quiet", 0, 0),
    ],
)
def test_what_was_recorded_last_arrives(
    way: str, code: int, arrived: int, run: Callable[..., Ended], cloudwatch: FakeCloudWatch
) -> None:
    """The value recorded right before the end is delivered, and only the program's own errors are printed."""
    done = run("end.py", way)
    assert done.code == code, done.complained
    assert cloudwatch.count(NAMESPACE, "M") == arrived
    assert ("Traceback" in done.complained) == (way == "unhandled"), done.complained
    assert "retainwise" not in done.complained


def test_all_clients_end_at_the_same_time(run: Callable[..., Ended], cloudwatch: FakeCloudWatch) -> None:
    """Clients share one deadline and do not take it from each other: the healthy one delivers while the others hang until the end."""
    began = time.monotonic()
    with FakeCloudWatch() as hanging:
        hanging.faults.hang()
        endpoints = [hanging.endpoint_url] * 4 + [NOWHERE, cloudwatch.endpoint_url]
        done = run("exit_with_several.py", ",".join(endpoints), "3", RETAINWISE_METRICS_SHUTDOWN_TIMEOUT_SECONDS="4")
        # On a busy machine not all of them get as far as a call within their time.
        assert 1 <= hanging.faults.injected["hang"] <= 4
        assert hanging.total_count() == 0
    assert time.monotonic() - began < 16, "one after the other takes four times as long"
    assert done.code == 3, done.complained
    assert cloudwatch.count(NAMESPACE, "M") == 5
