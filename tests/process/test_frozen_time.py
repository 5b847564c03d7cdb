"""Under freezegun values carry the minute that the test pretends it is, and whatever waits goes on waiting in real time."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics.testing import FakeCloudWatch
from tests.helpers import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.process.conftest import Ended

FROZEN = datetime(2020, 2, 29, 23, 59, 59, tzinfo=timezone.utc).timestamp()
MINUTE = int(FROZEN // 60) * 60


@pytest.fixture
def cloudwatch() -> FakeCloudWatch:
    """A CloudWatch that believes it is the frozen time."""
    with FakeCloudWatch(now=lambda: FROZEN) as server:
        yield server


@pytest.mark.parametrize("tick", ["yes", "no"])
@pytest.mark.parametrize("when", ["before", "import"])
def test_values_carry_the_frozen_minute(
    when: str, tick: str, run: Callable[..., Ended], cloudwatch: FakeCloudWatch
) -> None:
    """Made, or even imported, while time stands still in the past: flush, stop and start end, and the minute is the frozen one."""
    done = run("freeze.py", when, tick)
    assert done.code == 0, done.complained
    assert done.said == [6, 6, 0, {}]
    assert cloudwatch.total_count() == 6
    for name, count in {"M": 2, "Bound": 2, "Fast": 1, "Now": 1}.items():
        assert cloudwatch.count(NAMESPACE, name) == count
        # With tick the clock goes on: what comes last may fall into the minutes after midnight.
        minutes = cloudwatch.minutes(NAMESPACE, name)
        assert minutes[0] == MINUTE or tick == "yes"
        assert set(minutes) <= ({MINUTE} if tick == "no" else {MINUTE, MINUTE + 60})


@pytest.mark.parametrize("tick", ["yes", "no"])
def test_time_may_freeze_under_a_running_client(
    tick: str, run: Callable[..., Ended], cloudwatch: FakeCloudWatch
) -> None:
    """Each value keeps the minute its caller saw, frozen or real, and the frozen past delays nothing."""
    done = run("freeze.py", "meanwhile", tick)
    assert done.code == 0, done.complained
    # For a CloudWatch of 2020 the real minutes are years ahead, and for the thawed client the frozen one is years ago.
    assert done.said == [11, 3, 0, {"rejected": 7, "too-old": 1}]
    assert cloudwatch.total_count() == 3
    for name in ("M", "Fast", "Bound"):
        assert cloudwatch.count(NAMESPACE, name) == 1
        assert cloudwatch.minutes(NAMESPACE, name)[0] in (MINUTE, MINUTE + 60 * (tick == "yes"))


def test_the_interval_is_real_time_even_when_imported_in_frozen_time(run: Callable[..., Ended]) -> None:
    """The worker's clock is out of freezegun's reach: it delivers by itself while time stands still, and after it has thawed."""
    done = run("thaw.py")
    assert done.code == 0, done.complained
    assert done.said == [True, True]
