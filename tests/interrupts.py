"""A Ctrl-C at every place where the interpreter looks for signals in this library's code."""

from __future__ import annotations

import dis
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


class Interrupt:
    """Raises KeyboardInterrupt at the n-th place where the interpreter looks for signals: after calls, at starts of functions, in loops."""

    def __init__(self, at: int) -> None:
        self.places, self._at = 0, at
        self._previous: dict[FrameType, str] = {}
        self._visits: Counter[object] = Counter()

    def trace(self, frame: FrameType, event: str, _: object) -> Callable[..., object] | None:
        """For `sys.settrace`."""
        if "retainwise_metrics" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            before = self._previous.get(frame, "RESUME")
            self._previous[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if before.startswith(("CALL", "RESUME", "JUMP_BACKWARD")):
                place = (frame.f_code, frame.f_lasti)
                self._visits[place] += 1
                if self._visits[place] > 3:
                    return self.trace  # more rounds of a loop show nothing new
                self.places += 1
                if self.places == self._at:
                    raise KeyboardInterrupt
        return self.trace


def interrupted(at: int, work: Callable[[], object], times: int = 2, caught: list[BaseException] | None = None) -> bool:
    """Do it some times, with one Ctrl-C at the n-th place in all of that; False if there are fewer places. `caught` keeps it."""
    interrupt = Interrupt(at)
    for _ in range(times):
        before = sys.gettrace()
        sys.settrace(interrupt.trace)
        try:
            work()
        except KeyboardInterrupt as error:
            if caught is not None:
                caught.append(error)
        finally:
            sys.settrace(before)
    return interrupt.places >= at


signals_as_in_311 = pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 looks for signals at other places")
