"""
Ctrl-C, once and at the right moment: what tidies up is not itself interrupted.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


class Interrupts:
    """
    Turns the first Ctrl-C or SIGTERM into `KeyboardInterrupt`; later ones find a command that is tidying up already.
    """

    def __init__(self, *, on_later: Callable[[], None]) -> None:
        """
        Note what to do; nothing is changed yet.

        Args:
            on_later: Called for every interrupt that has to wait, to say that it was noticed.
        """
        self._on_later = on_later
        self._held = False
        self._waiting = False
        self._raised = False

    @contextmanager
    def listening(self) -> Iterator[Interrupts]:
        """
        Handle signals until the block ends; only for the main thread.

        Yields:
            This object.
        """
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """
        Do something to its end: an interrupt that comes meanwhile takes effect afterwards.

        Raises:
            KeyboardInterrupt: At the end, when one came.
        """
        outermost, self._held = not self._held, True
        try:
            yield
        finally:
            if outermost:
                self._held = False
        if outermost and self._waiting:
            self._raise_once()

    def check(self) -> None:
        """
        Raise once more what was raised and has not ended anything.

        A signal may come while Python finalises an object, such as the last answer of a server. What is raised then is lost: files and
        connections drop it without a word.

        Raises:
            KeyboardInterrupt: An interrupt has come, and nothing is being tidied up.
        """
        if self._raised and not self._held:
            raise KeyboardInterrupt

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._held or self._raised:
            self._waiting = True
            self._on_later()
        else:
            self._raise_once()

    def _raise_once(self) -> None:
        if not self._raised:
            self._raised = True
            raise KeyboardInterrupt
