"""
Time, as the commands see it: what waits is told how, so that nothing really waits in a test.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


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

    def __init__(self, check: Callable[[], None] = lambda: None) -> None:
        """
        Note what to look at.

        Args:
            check: Called before and after each wait; raises when there is nothing to wait for any more.
        """
        self._check = check

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
        self._check()
        if seconds > 0:
            time.sleep(seconds)
            self._check()
