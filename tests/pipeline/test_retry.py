"""How long to wait after a failure."""

from __future__ import annotations

import pytest

from retainwise_metrics.pipeline.retry import RetryPolicy


@pytest.mark.parametrize(
    ("failures", "jitter", "asked", "expected"),
    [
        (1, 0.5, None, 0.5),
        (2, 0.5, None, 1.0),
        (5, 0.5, None, 8.0),
        (50, 0.5, None, 30.0),
        (10**6, 0.999, None, 59.94),
        (1, 0.0, None, 0.1),
        (1, 0.5, 40.0, 40.0),
        (50, 0.5, 3.0, 30.0),
        (1, 0.5, 86_400.0, 900.0),
    ],
)
def test_waits_grow_are_jittered_and_honour_the_server(
    failures: int, jitter: float, asked: float | None, expected: float
) -> None:
    """Full jitter over a doubling span up to a minute, never nothing, never less than asked for, and never a day."""
    assert RetryPolicy().delay(failures, jitter, asked) == pytest.approx(expected)
