"""
Clocks, randomness, threads and mailboxes: the only place that touches any of them.

Rules
1. Nobody else reads a clock, draws a random number or starts a thread; everybody is given a `Runtime`.
2. Wall time stamps values; monotonic time decides when something is due. They are never mixed.
3. Nothing waits for time to pass by sleeping: a worker waits on its mailbox, so any message interrupts any wait. (`pause` is the length of
   a breath, to let other threads run.)

The wall clock is looked up on each call, so that tools which freeze it (freezegun) freeze the timestamps. The monotonic clock is read
where they do not reach: with time frozen, a flush is still due after a real minute.
"""

from __future__ import annotations

import _thread
import os
import queue
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable

STEP_PAUSE_SECONDS = 50e-6
"""How long the flusher lets go of the interpreter between two steps (chosen by measurement: docs/decisions/0004)."""

AT_ONCE = (False,)
"""
For `(mine,) = map(lock.acquire, AT_ONCE)`, which tries to take a lock.

A Ctrl-C is raised at the end of a call. `if lock.acquire(False):` may have taken it then, but `try:` is not reached, and nobody would ever
release it. Here it is no call that takes the lock, but the unpacking of what `map` has not done yet.
"""

FORK_WAITS_SECONDS = 10.0
"""
How long a fork waits for a background import. Importing boto3 and making its client take 0.2 s (measured), several seconds on a starved
machine; a child forked in the middle could never deliver.
"""


class ImportGate:
    """
    Keeps background imports and forks apart.

    A module that another thread was importing at the moment of a fork stays half imported in the child, with its lock held by a thread
    that does not exist there: whoever imports it in the child waits for ever. So a fork waits for the import to end.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        """Held around every import that happens in the background."""
        self._held = False

    def before_fork(self) -> None:
        """
        Wait until no import is under way, and let none begin.
        """
        (self._held,) = map(self.lock.acquire, (True,), (FORK_WAITS_SECONDS,))  # see AT_ONCE

    def after_fork_in_parent(self) -> None:
        """
        Let imports begin again.
        """
        if self._held:
            self.lock.release()

    def after_fork_in_child(self) -> None:
        """
        Start anew: whatever thread held it is gone.
        """
        self.lock = threading.Lock()


IMPORTS = ImportGate()


class Job(Protocol):
    """
    Background work in small steps.
    """

    def step(self, message: object | None) -> float | None:
        """
        Do a little, having received `message` (None: a wait ended; an exception: one that was raised in the worker from outside).

        Returns:
            Seconds until the next step is due without a message, or None when the work is finished for good.
        """
        ...


class Question:
    """
    A message that wants an answer: the asker waits on its own reply queue, with a timeout.
    """

    __slots__ = ("deadline", "replies")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        """Monotonic time at which the asker stops waiting."""
        self.replies: queue.SimpleQueue[object] = queue.SimpleQueue()


class Worker(Protocol):
    """
    A job being worked on.
    """

    def post(self, message: object) -> None:
        """
        Hand over a message without waiting; safe in a signal handler.
        """
        ...

    def ask(self, question: Question, timeout: float) -> object | None:
        """
        Hand over a question and wait for its answer, at most `timeout` seconds; None when there was none in time.
        """
        ...

    def is_alive(self) -> bool:
        """
        Whether messages are still being worked on.
        """
        ...


class Runtime(Protocol):
    """
    What the library needs from the world; `testing.ManualRuntime` is the peer that only moves when told to.
    """

    def wall(self) -> float:
        """
        Seconds since the epoch.
        """
        ...

    def monotonic(self) -> float:
        """
        Seconds on a clock that never steps back.
        """
        ...

    def random(self) -> float:
        """
        A number in [0, 1).
        """
        ...

    def start(self, job: Job, name: str) -> Worker:
        """
        Begin working on a job in the background.

        Raises:
            RuntimeError: No thread can be started here.
        """
        ...

    def pause(self) -> None:
        """
        Let other threads run before the next step.
        """
        ...


def patience(seconds: object) -> float:
    """
    A timeout as a plain number that can be added and compared: from 0 (for NaN, too) to some centuries.

    Raises:
        TypeError: It is no number.
    """
    kind = type(seconds)
    try:
        if hasattr(kind, "__float__") and not issubclass(kind, (str, bytes, bytearray)):
            return bounded(float(cast("float", seconds)))
    except OverflowError:
        return threading.TIMEOUT_MAX if cast("int", seconds) > 0 else 0.0
    except Exception:  # noqa: BLE001, S110 - somebody's __float__ may raise anything
        pass
    message = "a timeout must be a number of seconds; give 0 not to wait"
    raise TypeError(message)


def bounded(seconds: float) -> float:
    """
    A timeout that the system takes: not negative, and at most some centuries instead of for ever.
    """
    return min(seconds, threading.TIMEOUT_MAX) if seconds > 0.0 else 0.0  # NaN is not more than 0


class ThreadWorker:
    """
    A daemon thread that works on one job and waits on one mailbox.

    `SimpleQueue.put` is re-entrant, so a signal handler may post while the very same thread is posting.
    """

    def __init__(self, job: Job, name: str) -> None:
        self._mailbox: deque[object] = deque()
        # Rung once per message. A message itself is not waited for: an exception that somebody raises in this thread strikes when the wait
        # ends, and what had just been taken would be lost with it.
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._job = job
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        message: object | None = None
        try:
            while True:
                try:
                    return self._work(message)
                except BaseException as error:  # noqa: BLE001 - raised in this thread from outside: a flusher that dies is a blackout
                    message = error
        finally:
            self._ended = True
            self._dismiss()

    def _work(self, message: object | None) -> None:
        delay = self._job.step(message)
        while delay is not None:
            delay = self._job.step(self._receive(delay))

    def _receive(self, seconds: float) -> object | None:
        if self._mailbox:
            seconds = 0.0  # it may have been rung for already
        with suppress(queue.Empty):
            self._bell.get(timeout=seconds) if seconds > 0 else self._bell.get_nowait()
        with suppress(IndexError):
            return self._mailbox.popleft()
        return None

    def _dismiss(self) -> None:
        """
        Tell whoever asked too late that there will be no answer.
        """
        while (message := self._receive(0)) is not None:
            if isinstance(message, Question):
                message.replies.put(None)

    def post(self, message: object) -> None:
        """
        Put a message into the mailbox.
        """
        self._mailbox.append(message)
        self._bell.put(None)

    def ask(self, question: Question, timeout: float) -> object | None:
        """
        Put a question into the mailbox and wait for its answer.
        """
        if self._thread.ident == _thread.get_ident():
            return None  # the worker cannot wait for itself: a sink or callback that calls flush() gets no answer instead of a hang
        self.post(question)
        if self._ended:
            self._dismiss()
        try:
            return question.replies.get(timeout=bounded(timeout))
        except queue.Empty:
            return None

    def is_alive(self) -> bool:
        """
        Whether the thread runs.
        """
        return not self._ended and self._thread.is_alive()


GREENLETS_WAIT_SECONDS = 0.005
"""How often a greenlet looks whether its question has been answered."""


class NativeWorker(ThreadWorker):
    """
    The same where gevent has made greenlets out of threads: a real thread all the same.

    A greenlet would belong to the hub of whoever recorded first. If that was one of gevent's own threads, nobody runs it again; if that was
    a hub, it cannot even be started there. And it would have to wait for every greenlet that does not let go.
    """

    def __init__(self, job: Job, start: Callable[[Callable[[], None], tuple[()]], int]) -> None:
        from _queue import SimpleQueue  # gevent has put its own into `queue`

        self._make_queue: Callable[[], queue.SimpleQueue[Any]] = SimpleQueue
        self._mailbox = deque()
        self._bell = self._make_queue()
        self._job = job
        self._ended = False
        self._greenlet = 0
        start(self._run, ())

    def _run(self) -> None:
        self._greenlet = _thread.get_ident()
        super()._run()

    def ask(self, question: Question, timeout: float) -> object | None:
        """
        Put a question into the mailbox, and let other greenlets run until it is answered.
        """
        if self._greenlet == _thread.get_ident():
            return None
        question.replies = self._make_queue()
        self.post(question)
        if self._ended:
            self._dismiss()
        deadline = _monotonic() + timeout
        while True:
            try:
                return question.replies.get_nowait()
            except queue.Empty:
                if _monotonic() >= deadline:
                    return None
            time.sleep(GREENLETS_WAIT_SECONDS)

    def is_alive(self) -> bool:
        """
        Whether messages are being worked on.
        """
        return not self._ended


def _unfrozen_monotonic() -> Callable[[], float]:
    """
    The clock behind `time.monotonic`: this module may be imported while a tool has put another function in its place.
    """
    if hasattr(time, "clock_gettime"):
        return partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    return time.monotonic


def _native_sleep() -> Callable[[float], None]:
    """
    The system's, also where gevent has put its own in its place: a pause is for other threads, and some are made with a lock held.
    """
    monkey = sys.modules.get("gevent.monkey")
    sleep: Callable[[float], None] = time.sleep if monkey is None else monkey.get_original("time", "sleep")
    return sleep


_monotonic = _unfrozen_monotonic()


class SystemRuntime:
    """
    The real thing: the system's clocks, the system's randomness, real threads.
    """

    _monotonic: Callable[[], float] = staticmethod(_monotonic)
    _sleep: Callable[[float], None] = staticmethod(_native_sleep())

    def wall(self) -> float:
        """
        Seconds since the epoch, as the (possibly frozen) system clock says.
        """
        return time.time()

    def monotonic(self) -> float:
        """
        Seconds on the system's monotonic clock.
        """
        return self._monotonic()

    def random(self) -> float:
        """
        A number in [0, 1) from the system's entropy: an application that seeds `random` must not make a whole fleet flush in one second.
        """
        return int.from_bytes(os.urandom(4), "big") / 2**32

    def start(self, job: Job, name: str) -> Worker:
        """
        Start a daemon thread.

        Raises:
            RuntimeError: No thread can be started, or uWSGI would not let it run.
        """
        # There threads start, and then stand still whenever no request is being answered.
        if not getattr(sys.modules.get("uwsgi"), "has_threads", True):
            message = "uWSGI runs without --enable-threads"
            raise RuntimeError(message)
        monkey = sys.modules.get("gevent.monkey")
        if monkey is not None and monkey.is_module_patched("threading"):
            return NativeWorker(job, monkey.get_original("_thread", "start_new_thread"))
        return ThreadWorker(job, name)

    def pause(self) -> None:
        """
        Give up the interpreter for a moment.
        """
        self._sleep(STEP_PAUSE_SECONDS)
