"""Small things several tests need."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retainwise_metrics import CloudWatchMetrics

NAMESPACE = "RetainWise/MLPipeline"
OPEN_SECONDS = 300.0
"""How long the breaker is open at first, by default."""

LONGEST_FIRST_OPENING = 360.0
"""With its jitter."""


def assert_balanced(client: CloudWatchMetrics) -> None:
    """The ledger adds up: recorded == delivered + dropped + pending."""
    stats = client.stats()
    assert stats.recorded == stats.delivered + sum(stats.dropped.values()) + stats.pending, stats
    assert stats.pending >= 0, stats
