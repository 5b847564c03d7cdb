"""
The demo's children: started, watched and stopped by their own pid, and never left behind.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

REPOSITORY = Path(__file__).resolve().parents[2]
STOP_SECONDS = 30.0
LOG_TAIL_LINES = 15


class ChildDiedError(RuntimeError):
    """
    A child ended by itself; the message has the end of its log.
    """


class Child:
    """
    One process.

    Attributes:
        name: What people call it.
        log: File with everything it printed.
    """

    def __init__(self, name: str, command: list[str], environ: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._output: IO[bytes] = log.open("wb")
        # A session of its own: a Ctrl-C in the terminal reaches the demo alone, which then stops its children in order.
        # The open standard input is how a child notices that the demo is gone (child.py).
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=dict(environ),
            cwd=REPOSITORY,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """
        Process id.
        """
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """
        None while it runs; negative when a signal ended it.
        """
        return self._process.poll()

    def check(self) -> None:
        """
        Raise `ChildDiedError` when it has ended.
        """
        if self.exit_code is not None:
            msg = f"{self.name} ended by itself with code {self.exit_code}. Its log ends:\n{self.log_tail()}"
            raise ChildDiedError(msg)

    def log_tail(self) -> str:
        """
        The last lines it printed.
        """
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def stop(self, timeout: float = STOP_SECONDS) -> int:
        """
        Ask it to stop, wait, and kill it when it does not.

        Args:
            timeout: Seconds it has.

        Returns:
            Its exit code.
        """
        if self.exit_code is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._close()
        return code

    def _close(self) -> None:
        self._output.close()
        if self._process.stdin is not None:
            self._process.stdin.close()


class Children:
    """
    All children; as a context manager it stops those that still run, the youngest first.
    """

    def __init__(self, environ: Mapping[str, str], directory: Path) -> None:
        self._environ = environ
        self._directory = directory
        self._children: list[Child] = []

    def start(self, name: str, module: str, *arguments: str, environ: Mapping[str, str] | None = None) -> Child:
        """
        Start a module as a process.

        Args:
            name: What people call it; also names its log.
            module: What `python -m` runs.
            arguments: Its command line.
            environ: In addition to the common environment.
        """
        command = [sys.executable, "-m", "examples.retainwise.child", module, *arguments]
        log = self._directory / f"{name.replace(' ', '-')}.log"
        child = Child(name, command, {**self._environ, **(environ or {})}, log)
        self._children.append(child)
        return child

    def check(self) -> None:
        """
        Raise `ChildDiedError` when one has ended.
        """
        for child in self._children:
            child.check()

    def __enter__(self) -> Children:  # noqa: PYI034  # typing.Self came with Python 3.11
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        # A second Ctrl-C must not leave children behind; the wait below is bounded.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for child in reversed(self._children):
                child.stop(timeout=5.0 if error else STOP_SECONDS)
        finally:
            signal.signal(signal.SIGINT, before)
