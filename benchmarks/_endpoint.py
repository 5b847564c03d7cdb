"""
The strict fake of CloudWatch in a process of its own, so that its work does not count as the library's.
"""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from types import TracebackType

    from typing_extensions import Self


class Endpoint:
    """
    The process and its remote control; use it in a `with` statement.
    """

    def __enter__(self) -> Self:
        # Not forked: the child shall inherit neither threads nor memory of the process that is measured.
        context = multiprocessing.get_context("spawn")
        self._control, remote = context.Pipe()
        self._process = context.Process(target=_serve, args=(remote,), daemon=True)
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ask("end")
        self._process.join(timeout=10)

    def fresh(self) -> str:
        """
        Begin anew, without data, calls and faults.

        Returns:
            The new endpoint's URL.
        """
        return str(self._ask("fresh"))

    def hang(self) -> None:
        """
        Take requests from now on and answer none.
        """
        self._ask("hang")

    def release(self) -> None:
        """
        Answer again, those that were held too.
        """
        self._ask("release")

    def wait_until_held(self) -> bool:
        """
        Wait, at most ten seconds, until a request hangs.
        """
        return bool(self._ask("held"))

    def measurements(self) -> float:
        """
        How many measurements were accepted.
        """
        return float(self._ask("measurements"))

    def _ask(self, command: str) -> Any:
        self._control.send(command)
        return self._control.recv()


def _serve(control: Connection) -> None:
    from retainwise_metrics.testing import FakeCloudWatch

    server = FakeCloudWatch().start()
    while (command := control.recv()) != "end":
        if command == "fresh":
            server.stop()
            server = FakeCloudWatch().start()
        control.send(_obey(server, command))
    server.stop()
    control.send(None)


def _obey(server: Any, command: str) -> Any:
    if command == "hang":
        server.faults.hang()
    elif command == "release":
        server.faults.release()
    elif command == "held":
        return server.wait_until(lambda: server.faults.held > 0)
    elif command == "measurements":
        return server.total_count()
    return server.endpoint_url
