"""
How long to wait after a failure: full jitter over an exponentially growing span, never less than what the server asked for.

Source of the method: AWS Architecture Blog, "Exponential Backoff And Jitter" (2015).
"""

from __future__ import annotations

from typing import NamedTuple


class RetryPolicy(NamedTuple):
    """
    Waiting times between attempts.

    Attributes:
        min_seconds: Shortest wait, so that no jitter makes it none.
        base_seconds: Span of the first wait.
        max_seconds: Largest span.
        max_server_seconds: Most that a server's own request is honoured for; a wrong header must not silence a process for a day.
    """

    min_seconds: float = 0.1
    base_seconds: float = 1.0
    max_seconds: float = 60.0
    max_server_seconds: float = 900.0

    def delay(self, failures: int, jitter: float, retry_after_seconds: float | None = None) -> float:
        """
        Seconds to wait after this many failures in a row.

        Args:
            failures: Failures in a row, from 1.
            jitter: A number in [0, 1).
            retry_after_seconds: What the server asked for, or None.
        """
        span = min(self.base_seconds * 2.0 ** min(failures - 1, 32), self.max_seconds)
        asked = min(retry_after_seconds or 0.0, self.max_server_seconds)
        return max(span * jitter, asked, self.min_seconds)
