"""
Threads for tests: they begin together, none is waited for in vain, and what one of them raises is raised in the test.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from retainwise_metrics.datum import Batch

Result = TypeVar("Result")

PATIENCE_SECONDS = 60.0
"""Far longer than anything here takes: only a deadlock takes longer."""

FOREVER_SECONDS = 200.0
"""A timeout that must never be needed: whoever waits for it fails the test first."""


class Gate:
    """
    A call that hangs until it is let go: `InMemorySink(gate)`.
    """

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, _: Batch | None = None) -> None:
        self.reached.set()
        assert self.opened.wait(PATIENCE_SECONDS)

    def wait_until_reached(self) -> None:
        assert self.reached.wait(PATIENCE_SECONDS)

    def open(self) -> None:
        self.opened.set()


def wait_until(over: Callable[[], bool]) -> None:
    """Look until something has happened that nobody tells of."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not over():
        assert time.monotonic() < give_up
        time.sleep(0.001)


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


def begin_together(*works: Callable[[], Result]) -> list[Future[Result]]:
    """Do several things at the same moment, each on a thread of its own."""
    barrier = threading.Barrier(len(works))

    def after_the_others(work: Callable[[], Result]) -> Callable[[], Result]:
        def run() -> Result:
            barrier.wait(PATIENCE_SECONDS)
            return work()

        return run

    return [begin(after_the_others(work)) for work in works]


def together(*works: Callable[[], Result]) -> list[Result]:
    """Do several things at the same moment, and wait for all of them."""
    return [future.result(PATIENCE_SECONDS) for future in begin_together(*works)]
