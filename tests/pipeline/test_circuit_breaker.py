"""The breaker as a state machine over outcomes."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from retainwise_metrics import BreakerState
from retainwise_metrics.pipeline.circuit_breaker import BreakerPolicy, CircuitBreaker

POLICY = BreakerPolicy(failure_threshold=3, open_seconds=100.0, growth=2.0, max_open_seconds=400.0, jitter=0.2)


def breaker(random: float = 0.0) -> CircuitBreaker:
    """A closed breaker whose chance is fixed."""
    return CircuitBreaker(POLICY, lambda: random)


def opened(at: float = 0.0, random: float = 0.0) -> CircuitBreaker:
    """A breaker that has just opened."""
    made = breaker(random)
    made.failed(at, at_once=True)
    return made


def test_opens_at_the_threshold_and_not_before() -> None:
    """Two failures leave it closed, the third opens it."""
    made = breaker()
    for _ in range(2):
        made.failed(0.0)
    assert made.permit(0.0)
    made.failed(0.0)
    assert made.state is BreakerState.OPEN
    assert not made.permit(0.0)


def test_a_success_starts_the_count_over() -> None:
    """Only failures in a row count."""
    made = breaker()
    for _ in range(5):
        made.failed(0.0)
        made.failed(0.0)
        made.succeeded()
    assert made.state is BreakerState.CLOSED


def test_half_open_admits_exactly_one_call() -> None:
    """Once the open time is over one call passes, and no other until its outcome is known."""
    made = opened()
    assert not made.permit(99.9)
    assert [made.permit(100.0) for _ in range(10)] == [True] + [False] * 9
    assert made.state is BreakerState.HALF_OPEN
    assert made.seconds_until_permit(100.0) is None


def test_open_time_doubles_with_each_failed_probe_up_to_the_cap_and_a_success_resets_it() -> None:
    """100, 200, 400, 400 seconds; after a success 100 again."""
    made, now, waits = opened(), 0.0, []
    for _ in range(4):
        wait = made.seconds_until_permit(now)
        assert wait is not None
        waits.append(wait)
        now += wait
        assert made.permit(now)
        made.failed(now)
    assert waits == [100.0, 200.0, 400.0, 400.0]
    now += 400.0
    assert made.permit(now)
    made.succeeded()
    made.failed(now, at_once=True)
    assert made.seconds_until_permit(now) == 100.0


@pytest.mark.parametrize(("random", "wait"), [(0.0, 100.0), (0.5, 110.0)])
def test_jitter_only_lengthens_the_open_time(random: float, wait: float) -> None:
    """A fleet that lost its endpoint together does not come back together."""
    assert opened(random=random).seconds_until_permit(0.0) == pytest.approx(wait)


def test_operators_can_force_it_open_and_disable_it() -> None:
    """Forced states ignore outcomes until the breaker is made automatic again."""
    made = breaker()
    made.force_open()
    made.succeeded()
    assert not made.permit(1e9)
    made.disable()
    for _ in range(10):
        made.failed(0.0, at_once=True)
    assert made.permit(0.0)
    made.automatic()
    assert made.state is BreakerState.CLOSED


class AnyInterleaving(RuleBasedStateMachine):
    """Whatever happens in whatever order: at most one probe is out, and an open breaker lets nothing through early."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = breaker()
        self.now = 0.0
        self.opened_at: float | None = None
        self.probe_out = False

    @rule(seconds=st.floats(min_value=0, max_value=500))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def ask(self) -> None:
        was = self.breaker.state
        allowed = self.breaker.permit(self.now)
        if was is BreakerState.OPEN and allowed:
            assert self.opened_at is not None
            assert self.now - self.opened_at >= POLICY.open_seconds
            assert not self.probe_out
            self.probe_out = True
        if was is BreakerState.HALF_OPEN:
            assert not allowed

    @rule()
    def succeed(self) -> None:
        self.breaker.succeeded()
        self.probe_out = False
        assert self.breaker.state is BreakerState.CLOSED

    @rule(at_once=st.booleans())
    def fail(self, at_once: bool) -> None:
        was = self.breaker.state
        self.breaker.failed(self.now, at_once=at_once)
        if was is not BreakerState.OPEN and self.breaker.state is BreakerState.OPEN:
            self.opened_at = self.now
            self.probe_out = False

    @invariant()
    def a_wait_is_known_unless_an_outcome_is_due(self) -> None:
        wait = self.breaker.seconds_until_permit(self.now)
        assert (wait is None) == (self.breaker.state is BreakerState.HALF_OPEN)


TestAnyInterleaving = AnyInterleaving.TestCase
TestAnyInterleaving.settings = settings(max_examples=60, stateful_step_count=40)
