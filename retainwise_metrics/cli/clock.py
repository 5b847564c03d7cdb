"""
Time, as the commands see it: what waits is told how, so that nothing really waits in a test.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """
    Tells the time and waits.
    """

    def now(self) -> float:
        """
        Tell the time.

        Returns:
            Seconds since 1970, UTC.
        """

    def wait(self, seconds: float) -> None:
        """
        Wait.

        Args:
            seconds: How long; nothing happens for 0 and less.
        """


class SystemClock:
    """
    The clock of this machine.
    """

    def now(self) -> float:
        """
        Tell the time.

        Returns:
            Seconds since 1970, UTC.
        """
        return time.time()

    def wait(self, seconds: float) -> None:
        """
        Wait; Ctrl-C ends it.

        Args:
            seconds: How long; nothing happens for 0 and less.
        """
        if seconds > 0:
            time.sleep(seconds)
