"""Children start empty and deliver what they record; the parent delivers the rest, and nobody does so twice."""

from __future__ import annotations

import multiprocessing
import os
from typing import TYPE_CHECKING

import pytest

from tests.helpers import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from retainwise_metrics.testing import FakeCloudWatch
    from tests.process.conftest import Ended

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@pytest.mark.parametrize("made_before", ["yes", "no"])
@pytest.mark.parametrize("way", ["process", "executor"])
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_children_of_multiprocessing_deliver_what_they_recorded(
    method: str, way: str, made_before: str, run: Callable[..., Ended], cloudwatch: FakeCloudWatch
) -> None:
    """They end without `atexit` and without being told to flush, and still everything arrives once."""
    done = run("multiprocess.py", method, way, made_before)
    parent = 3 if made_before == "yes" else 1
    assert done.code == 0, done.complained
    assert done.said == [parent, parent, 0, {}]
    assert done.complained == ""
    assert cloudwatch.sum(NAMESPACE, "Parent") == parent
    assert cloudwatch.count(NAMESPACE, "Bound") == 3 * 5
    for number in range(3):
        child = {"Child": f"c{number}"}
        assert cloudwatch.values(NAMESPACE, "M", child) == dict.fromkeys(map(float, range(5)), 1.0)


@needs_fork
def test_a_child_does_not_inherit_what_others_hold(run: Callable[..., Ended], cloudwatch: FakeCloudWatch) -> None:
    """Every lock of the client is held by a thread that the child does not have; it finds new ones, and empty books."""
    done = run("fork_while_held.py")
    assert done.code == 0, done.complained
    assert done.said["codes"] == [0, 0], done.complained
    assert done.said["stats"] == [15, 15, 0, {}]
    assert cloudwatch.count(NAMESPACE, "Bound", {"Kind": "made before"}) == 2 + 2
    assert cloudwatch.count(NAMESPACE, "Now") == 2 + 2
    assert cloudwatch.count(NAMESPACE, "Alone") == 2 + 2
    assert cloudwatch.total_count() == (15 + 2) + 2 * (12 + 1)


@needs_fork
def test_forty_forks_in_a_storm_of_new_series(run: Callable[..., Ended], cloudwatch: FakeCloudWatch) -> None:
    """Whatever the other threads were changing at the moment of a fork, parent and children lose and repeat nothing."""
    done = run("fork_in_a_storm.py")
    assert done.code == 0, done.complained
    assert done.said["bad"] == 0, done.complained
    parent = done.said["parent"]
    assert done.said["stats"] == [parent, parent, 0, {}]
    assert cloudwatch.total_count() == parent + done.said["children"]
