"""
What happens to clients when the process forks or ends. One object, registered with the interpreter once, holding clients weakly.

Rules
1. A forked child logs nothing and takes no lock before its clients are empty: whoever held it may not exist there.
2. At exit all clients end at the same time, within one deadline: one that hangs must not take the time of the others.
3. A signal handler never waits, and takes no lock that the code it interrupted may hold: what has to wait does so on a thread of its own,
   started without the help of `threading`, whose lock is one of those.
"""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from .runtime import IMPORTS, SystemRuntime

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from .client import CloudWatchMetrics

LAST = -100
"""Priority among the finalisers of multiprocessing: after those of its queues (-5) and of the application."""


class Lifecycle:
    """
    Stops clients at exit and empties them in forked children.

    Args:
        monotonic: Reads the monotonic clock, seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._clients: WeakValueDictionary[int, CloudWatchMetrics] = WeakValueDictionary()
        self._forks_watched = False
        self._exit_watched = False
        self._worker_exit_watched = False

    def watch(self, client: CloudWatchMetrics) -> None:
        """
        Look after a client from its making: threads may be starting it at the very moment another one forks.
        """
        self._clients[id(client)] = client
        if not self._forks_watched and hasattr(os, "register_at_fork"):
            self._forks_watched = True
            os.register_at_fork(after_in_child=self.after_fork)

    def stop_at_exit(self) -> None:
        """
        Stop the clients when the interpreter ends; asked for by the first one that starts.
        """
        if self._exit_watched:
            return
        self._exit_watched = True
        # boto3 imports this module, and once the interpreter has begun to end it cannot be imported any more: a program that ends before
        # its first flush could not deliver at exit. Whoever uses asyncio or boto3 has it already.
        with suppress(RuntimeError):
            import concurrent.futures.thread  # noqa: F401
        atexit.register(self.stop_all)
        # Hooks run in reverse order, and that import has registered logging's, which takes the lock that importing boto3 needs: registered
        # after it, ours waits for the import before that lock is taken.
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=IMPORTS.before_fork, after_in_parent=IMPORTS.after_fork_in_parent)
        self._stop_at_worker_exit()

    def stop_all(self) -> None:
        """
        Stop every client within one deadline shared by all: the longest any of them is configured with.
        """
        # One that the application has stopped has had its time; if its thread still hangs in a call, waiting again would not help.
        clients = [client for client in self._alive() if not client.stopped]
        budget = max((client.config.shutdown_timeout_seconds for client in clients), default=0.0)
        deadline = self._monotonic() + budget
        for client in clients:
            client._pipeline.begin_stop(budget)  # noqa: SLF001 - nobody else has to stop several clients at once
        for client in clients:
            client.stop(max(deadline - self._monotonic(), 0.0))

    def flush_on_sigterm(self) -> bool:
        """
        Deliver what is pending when a SIGTERM ends this process, see `default_client.flush_on_sigterm`.
        """
        import signal

        previous = signal.getsignal(signal.SIGTERM)
        if getattr(previous, "func", None) == self._on_sigterm:
            return True
        # None: a handler that is not Python's, and could not be called. Ignored: the signal ends nothing.
        if previous is None or previous is signal.SIG_IGN:
            return False
        try:
            signal.signal(signal.SIGTERM, partial(self._on_sigterm, previous))
        except ValueError:  # only the main thread may
            return False
        return True

    def _on_sigterm(
        self, previous: Callable[[int, FrameType | None], Any] | int, number: int, frame: FrameType | None
    ) -> None:
        import _thread
        import signal

        if callable(previous):
            for client in self._alive():
                client._pipeline.begin_flush(client.config.shutdown_timeout_seconds)  # noqa: SLF001 - as in stop_all
            previous(number, frame)
            return
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        try:
            _thread.start_new_thread(self._end_by, (number,))
        except RuntimeError:  # no threads here
            self._end_by(number)

    def _end_by(self, number: int) -> None:
        """
        Deliver, then end as the signal would have ended it: by the signal.
        """
        try:
            self.stop_all()
        finally:
            os.kill(os.getpid(), number)

    def after_fork(self) -> None:
        """
        In a child: every client starts empty, on its own thread, with its own connection.
        """
        IMPORTS.after_fork_in_child()
        for client in self._alive():
            # A sink may be the application's; what it raises must not keep the next client from being emptied.
            with suppress(Exception):
                client.after_fork()
        self._worker_exit_watched = False
        util = sys.modules.get("multiprocessing.util")
        if self._exit_watched and util is not None:
            # A child of multiprocessing begins by forgetting all finalisers, and then calls this.
            util.register_after_fork(self, Lifecycle._stop_at_worker_exit)

    def _stop_at_worker_exit(self) -> None:
        """
        A forked child of multiprocessing ends without `atexit`, but not without its own finalisers.
        """
        process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
        if self._worker_exit_watched or process is None or util is None or process.parent_process() is None:
            return
        self._worker_exit_watched = True
        util.Finalize(None, self.stop_all, exitpriority=LAST)

    def _alive(self) -> list[CloudWatchMetrics]:
        # `valuerefs` copies in one step; iterating would fail if another thread made a client meanwhile.
        return [client for reference in self._clients.valuerefs() if (client := reference()) is not None]


LIFECYCLE = Lifecycle(SystemRuntime().monotonic)
"""The process's one; the module that holds it is the only place with this state."""
