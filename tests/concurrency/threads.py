"""
Threads for tests: they begin together, none is waited for in vain, and what one of them raises is raised in the test.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")

PATIENCE_SECONDS = 60.0
"""Far longer than anything here takes: only a deadlock takes longer."""


def begin(work: Callable[[], Result]) -> Future[Result]:
    """Do one thing on a thread of its own; a deadlock there does not keep the test run from ending."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def together(*works: Callable[[], Result]) -> list[Result]:
    """Do several things at the same moment, each on a thread of its own, and wait for all of them."""
    barrier = threading.Barrier(len(works))

    def after_the_others(work: Callable[[], Result]) -> Callable[[], Result]:
        def run() -> Result:
            barrier.wait(PATIENCE_SECONDS)
            return work()

        return run

    return [future.result(PATIENCE_SECONDS) for future in [begin(after_the_others(work)) for work in works]]
