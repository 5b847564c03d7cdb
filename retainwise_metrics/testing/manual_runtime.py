"""
A runtime that stands still until it is told to move: no thread, no sleep, no chance.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retainwise_metrics.runtime import Job, Question


class ManualWorker:
    """
    A job that is worked on inside `post`, `ask` and `ManualRuntime.advance`, on the caller's thread.
    """

    def __init__(self, job: Job, runtime: ManualRuntime) -> None:
        self._job = job
        self._runtime = runtime
        self._messages: deque[object] = deque()
        self._busy = False
        self.due: float | None = runtime.monotonic()
        """Monotonic time of the next step; None when the job is finished."""

    def post(self, message: object) -> None:
        """
        Work on a message now, or after the step that is under way.
        """
        self._messages.append(message)
        self.run()

    def ask(self, question: Question, timeout: float) -> object | None:
        """
        Work until the question is answered, letting time pass where the job waits, at most `timeout` seconds of it.
        """
        if self._busy:
            # Asked by the very step that is under way, a gauge's callback or a sink: it cannot end before it is answered.
            return None
        deadline = self._runtime.monotonic() + timeout
        self.post(question)
        while question.replies.empty() and self.due is not None and self.due <= deadline:
            self._runtime.move_to(self.due)
        return None if question.replies.empty() else question.replies.get_nowait()

    def is_alive(self) -> bool:
        """
        Whether the job is not finished.
        """
        return self.due is not None

    def run(self) -> None:
        """
        Do every step that is due by now.
        """
        if self._busy:
            return
        self._busy = True
        try:
            while self.due is not None and (self._messages or self.due <= self._runtime.monotonic()):
                message = self._messages.popleft() if self._messages else None
                delay = self._job.step(message)
                self.due = None if delay is None else self._runtime.monotonic() + delay
        finally:
            self._busy = False


class ManualRuntime:
    """
    A `Runtime` whose clocks move only by `advance`; background work happens at exactly the moments it is due.

    Args:
        wall: Epoch seconds to start from; the default is 2026-01-01T00:00:00Z.
        random: What `random()` returns.
    """

    def __init__(self, wall: float = 1_767_225_600.0, random: float = 0.5) -> None:
        self._wall = wall
        self._monotonic = 0.0
        self._random = random
        self._workers: list[ManualWorker] = []

    def wall(self) -> float:
        """
        Epoch seconds.
        """
        return self._wall

    def monotonic(self) -> float:
        """
        Seconds since the runtime was made.
        """
        return self._monotonic

    def random(self) -> float:
        """
        The number it was given.
        """
        return self._random

    def start(self, job: Job, name: str) -> ManualWorker:
        """
        Begin working on a job: its first step is done at once.
        """
        del name
        worker = ManualWorker(job, self)
        self._workers.append(worker)
        worker.run()
        return worker

    def pause(self) -> None:
        """
        Nothing: there is no other thread.
        """

    def advance(self, seconds: float) -> None:
        """
        Let time pass, stopping at each moment at which background work is due.
        """
        target = self._monotonic + seconds
        while (due := self._next_due()) is not None and due <= target:
            self.move_to(due)
        self.move_to(target)

    def set_wall(self, wall: float) -> None:
        """
        Step the wall clock, as NTP or an operator does; the monotonic clock does not notice.
        """
        self._wall = wall

    def freeze(self, seconds: float) -> None:
        """
        Let time pass without any background work, as for a frozen process; what was due meanwhile happens at the next `advance`.
        """
        self._wall += seconds
        self._monotonic += seconds

    def after_fork(self) -> None:
        """
        Forget every job, as threads are gone in a forked child. Call it before `client.after_fork()`.
        """
        self._workers = []

    def move_to(self, monotonic: float) -> None:
        """
        Set the clocks and do what is due at that moment.
        """
        step = max(monotonic - self._monotonic, 0.0)
        self._wall += step
        self._monotonic += step
        for worker in list(self._workers):
            worker.run()
        self._workers = [worker for worker in self._workers if worker.is_alive()]

    def _next_due(self) -> float | None:
        return min((worker.due for worker in self._workers if worker.due is not None), default=None)
