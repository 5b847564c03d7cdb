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

from .pipeline.reporting import say
from .runtime import IMPORTS, SystemRuntime

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from .client import CloudWatchMetrics

SWITCH_SECONDS = 1e-4
"""
How often threads take turns while the process ends. With the interpreter's 5 ms, four daemon threads in a tight loop let nobody import
boto3 in less than 20 s; with this it takes 1.5 s (measured).
"""

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
        self._process = os.getpid()
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
            os.register_at_fork(after_in_child=self.after_fork)
            self._forks_watched = True
            self._watch_uwsgi()

    def _watch_uwsgi(self) -> None:
        """
        Look after workers of uWSGI: it forks them without telling the interpreter, unless asked to. A hook of its own it calls in any case.
        """
        uwsgi: Any = sys.modules.get("uwsgi")
        if uwsgi is None:
            return
        previous = getattr(uwsgi, "post_fork_hook", None)

        def after_fork() -> None:
            # Without a master it calls this where nothing was forked.
            if os.getpid() != self._process:
                self.after_fork()
            if previous is not None:
                previous()

        uwsgi.post_fork_hook = after_fork

    def stop_at_exit(self) -> None:
        """
        Stop the clients when the interpreter ends; asked for by the first one that starts.
        """
        if self._exit_watched:
            return
        # boto3 imports this module, and once the interpreter has begun to end it cannot be imported any more: a program that ends before
        # its first flush could not deliver at exit. Whoever uses asyncio or boto3 has it already.
        with suppress(RuntimeError):
            import concurrent.futures.thread  # noqa: F401
        atexit.register(self.end)
        # Only now: a Ctrl-C before it costs nothing but a second registration. One of the next would make each fork wait for itself.
        self._exit_watched = True
        # Hooks run in reverse order, and that import has registered logging's, which takes the lock that importing boto3 needs: registered
        # after it, ours waits for the import before that lock is taken.
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=IMPORTS.before_fork, after_in_parent=IMPORTS.after_fork_in_parent)
        self._stop_at_worker_exit()

    def end(self) -> None:
        """
        Stop every client because the process ends.
        """
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))
        self.stop_all()
        if getattr(sys, "last_type", None) is KeyboardInterrupt:
            # The interpreter is about to end itself by the signal, unless a string has been evaluated since: importing boto3 does that.
            with suppress(KeyboardInterrupt):
                exec("raise KeyboardInterrupt")  # noqa: S102 - the only way to remind it

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
            self.stop(client, max(deadline - self._monotonic(), 0.0))

    def stop(self, client: CloudWatchMetrics, seconds: float) -> None:
        """
        Stop one client because the process ends, and say what that loses.
        """
        client.stop(seconds)
        self._say_what_is_lost(client)

    def _say_what_is_lost(self, client: CloudWatchMetrics) -> None:
        """
        A thread that hangs in a call, or is importing boto3, says nothing any more.
        """
        stats = client.stats()
        if stats.pending > stats.spooled and (client.config.spool_dir is None or stats.spool_errors):
            lost, seconds = stats.pending - stats.spooled, client.config.shutdown_timeout_seconds
            say(
                f"metrics lost at shutdown: {lost} measurements could not be delivered within {seconds:g} s; {stats.last_error}"
            )

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
            self.end()
        finally:
            os.kill(os.getpid(), number)

    def after_fork(self) -> None:
        """
        In a child: every client starts empty, on its own thread, with its own connection.
        """
        self._process = os.getpid()
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
        util.Finalize(None, self.end, exitpriority=LAST)

    def _alive(self) -> list[CloudWatchMetrics]:
        # `valuerefs` copies in one step; iterating would fail if another thread made a client meanwhile.
        return [client for reference in self._clients.valuerefs() if (client := reference()) is not None]


LIFECYCLE = Lifecycle(SystemRuntime().monotonic)
"""The process's one; the module that holds it is the only place with this state."""

# Registered before the application's hooks, so it runs after them: a client that began to record in one of them has nobody else to stop it.
atexit.register(LIFECYCLE.end)

if "uwsgi" in sys.modules:
    # uWSGI ends the interpreter in an exit handler of C, registered when the application has been loaded. They run in reverse order, too:
    # OpenSSL's, registered when it is first used, must not come before it, or nothing can be sent over TLS any more.
    import ssl  # noqa: F401
