"""
When not to call: a breaker made for telemetry.

Rules
1. Pure: it is told what happened and what time it is (monotonic seconds), it never looks.
2. Half-open admits exactly one call, and that call is a real batch.
3. Each time a probe fails the open time doubles, up to a cap; a success resets it. A little is added at random, so that a fleet does
   not come back in the same second.
4. Content errors are not its business: they say nothing about whether the next call would arrive.

    CLOSED --threshold failures, or one refusal of the credentials--> OPEN --open time over, one call asks--> HALF_OPEN
    HALF_OPEN --success--> CLOSED            HALF_OPEN --failure--> OPEN (longer)
    any --force_open()--> FORCED_OPEN        any --disable()--> DISABLED (calls always pass)        either --automatic()--> CLOSED
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from retainwise_metrics.stats import BreakerState

if TYPE_CHECKING:
    from collections.abc import Callable


class BreakerPolicy(NamedTuple):
    """
    When to open, and for how long.

    Attributes:
        failure_threshold: Failures in a row that open it.
        open_seconds: How long it stays open the first time.
        growth: Factor on the open time after each failed probe.
        max_open_seconds: Cap on the open time, before jitter.
        jitter: Up to this share of the open time is added at random.
    """

    failure_threshold: int = 5
    open_seconds: float = 300.0
    growth: float = 2.0
    max_open_seconds: float = 1200.0
    jitter: float = 0.2


class CircuitBreaker:
    """
    A state machine over the outcomes of calls.

    Args:
        policy: When to open, and for how long.
        random: A number in [0, 1) per call; spreads the open times.
    """

    def __init__(self, policy: BreakerPolicy, random: Callable[[], float]) -> None:
        self._policy = policy
        self._random = random
        self._failures = 0
        self._openings = 0
        self._open_until = 0.0
        self.state = BreakerState.CLOSED

    def permit(self, now: float) -> bool:
        """
        Whether a call may be made now. A True while open makes that call the probe: its outcome must be reported.
        """
        if self.state in (BreakerState.CLOSED, BreakerState.DISABLED):
            return True
        if self.state is BreakerState.OPEN and now >= self._open_until:
            self.state = BreakerState.HALF_OPEN
            return True
        return False

    def seconds_until_permit(self, now: float) -> float | None:
        """
        Seconds until `permit` is worth asking again; None when only an outcome or an operator can change the answer.
        """
        if self.state in (BreakerState.CLOSED, BreakerState.DISABLED):
            return 0.0
        if self.state is BreakerState.OPEN:
            return max(self._open_until - now, 0.0)
        return None

    def last_chance(self) -> None:
        """
        End the open time now: the process is about to stop and this is the last occasion to find out.
        """
        if self.state is BreakerState.OPEN:
            self._open_until = float("-inf")

    def succeeded(self) -> None:
        """
        A call was answered: the destination works, whatever it thought of the content.
        """
        if self.state is BreakerState.FORCED_OPEN:
            return  # a call that was under way when the operator opened it
        self._failures = 0
        self._openings = 0
        if self.state is not BreakerState.DISABLED:
            self.state = BreakerState.CLOSED

    def failed(self, now: float, *, at_once: bool = False) -> None:
        """
        A call did not get through.

        Args:
            now: Monotonic seconds.
            at_once: Open without waiting for the threshold: the next call is known to fail too.
        """
        if self.state in (BreakerState.FORCED_OPEN, BreakerState.DISABLED, BreakerState.OPEN):
            return
        self._failures += 1
        if self.state is BreakerState.HALF_OPEN or at_once or self._failures >= self._policy.failure_threshold:
            self._open(now)

    def _open(self, now: float) -> None:
        policy = self._policy
        seconds = min(policy.open_seconds * policy.growth**self._openings, policy.max_open_seconds)
        self._openings += 1
        self._open_until = now + seconds * (1 + policy.jitter * self._random())
        self.state = BreakerState.OPEN

    def force_open(self) -> None:
        """
        Make no calls until `automatic`, whatever happens.
        """
        self.state = BreakerState.FORCED_OPEN

    def disable(self) -> None:
        """
        Let every call pass until `automatic`, whatever happens.
        """
        self.state = BreakerState.DISABLED

    def automatic(self) -> None:
        """
        End a forced state and start over, closed.
        """
        self._failures = self._openings = 0
        self.state = BreakerState.CLOSED
