"""
What happens to clients when the process forks or ends. One object, registered with the interpreter once, holding clients weakly.
"""

from __future__ import annotations

import atexit
import os
import time
import weakref
from typing import TYPE_CHECKING

from .runtime import IMPORTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from .client import CloudWatchMetrics


class Lifecycle:
    """
    Stops clients at exit and empties them in forked children.

    Args:
        monotonic: Reads the monotonic clock, seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._clients: weakref.WeakSet[CloudWatchMetrics] = weakref.WeakSet()
        self._forks_watched = False
        self._exit_watched = False

    def watch(self, client: CloudWatchMetrics) -> None:
        """
        Look after a client from its making: threads may be starting it at the very moment another one forks.
        """
        self._clients.add(client)
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
        import concurrent.futures.thread  # noqa: F401

        atexit.register(self.stop_all)
        # Hooks run in reverse order, and that import has registered logging's, which takes the lock that importing boto3 needs: registered
        # after it, ours waits for the import before that lock is taken.
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=IMPORTS.before_fork, after_in_parent=IMPORTS.after_fork_in_parent)

    def stop_all(self) -> None:
        """
        Stop every client within one deadline shared by all: the longest any of them is configured with.
        """
        # One that the application has stopped has had its time; if its thread still hangs in a call, waiting again would not help.
        clients = [client for client in self._clients if not client.stopped]
        budget = max((client.config.shutdown_timeout_seconds for client in clients), default=0.0)
        deadline = self._monotonic() + budget
        for client in clients:
            client.stop(max(deadline - self._monotonic(), 0.0))

    def after_fork(self) -> None:
        """
        In a child: every client starts empty, on its own thread, with its own connection.
        """
        IMPORTS.after_fork_in_child()
        for client in list(self._clients):
            client.after_fork()


LIFECYCLE = Lifecycle(time.monotonic)
"""The process's one; the module that holds it is the only place with this state."""
