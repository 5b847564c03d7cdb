"""
A CloudWatch agent for tests: a real socket on this machine that keeps the documents it receives, and behaves badly when told to.

    with FakeEmfAgent("tcp") as agent:
        client = CloudWatchMetrics(MetricsConfig(sink="emf-agent", emf_agent_endpoint=agent.endpoint))
        client.increment_counter("UploadSuccess", namespace="RetainWise/API")
        client.flush()
        assert agent.wait_for(lambda emf: emf.sum("RetainWise/API", "UploadSuccess") == 1)

It reads every line with a strict `EmfReader`. Like the real agent it answers nothing.
"""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from .emf_reader import EmfReader

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

_RECEIVE_BYTES: Final = 4096
"""Buffer of a connection: small, so that an agent that does not read is noticed soon."""

_PACKET_BYTES: Final = 65_536
_TICK_SECONDS: Final = 0.05


class FakeEmfAgent:
    """
    The agent. Construction opens nothing; `start()` or `with` does.

    Args:
        scheme: `tcp`, `udp`, `unix` or `unixgram`.
        path: Where the socket is made, for the last two.
        now: Seconds since the epoch, for the window of accepted timestamps; None reads the system's clock.
    """

    def __init__(self, scheme: str = "tcp", path: str = "", *, now: Callable[[], float] | None = None) -> None:
        self._scheme, self._path = scheme, path
        self._reader = EmfReader(now=now)
        self._port = 0
        self._changed = threading.Condition()
        self._reading = threading.Event()
        self._reading.set()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._lines: list[bytes] = []
        """Received and not looked at yet."""
        self._slowly = 0
        self.torn: list[bytes] = []
        """What connections ended with that was no whole line."""
        self.connections = 0
        """Connections accepted so far."""

    @property
    def endpoint(self) -> str:
        """
        What `emf_agent_endpoint` is to be set to.
        """
        return f"{self._scheme}://{self._path or f'127.0.0.1:{self._port}'}"

    def start(self) -> Self:
        """
        Listen, on the same port or path as before if it was started already.
        """
        if self._thread is None:
            listening = self._listen()
            self._stopping = threading.Event()
            self._thread = threading.Thread(target=self._serve, args=(listening, self._stopping), daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """
        Close every socket, as a process that is killed does: what was received and not read is gone.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping.set()
            thread.join()

    def hang(self) -> None:
        """
        Read nothing any more, until `resume`.
        """
        self._reading.clear()

    def resume(self) -> None:
        """
        Read again.
        """
        self._reading.set()

    def read_slowly(self, size: int) -> None:
        """
        Read this many bytes of each connection at a time, with a pause after each; 0 is as fast as possible.
        """
        self._slowly = size

    def read(self) -> EmfReader:
        """
        Everything received so far, and later by the next call of `read`.

        Raises:
            EmfError: Something was received that CloudWatch would drop.
        """
        with self._changed:
            lines, self._lines = self._lines, []
            return self._reader.read(lines)

    def wait_for(self, condition: Callable[[EmfReader], bool], timeout: float = 30.0) -> bool:
        """
        Wait until something is true of what was received.

        Returns:
            Whether it became true.
        """
        return self.wait_until(lambda: condition(self.read()), timeout)

    def wait_until(self, condition: Callable[[], bool], timeout: float = 30.0) -> bool:
        """
        Wait until something is true of this agent, for example `lambda: agent.connections == 1`.

        Returns:
            Whether it became true.
        """
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.resume()
        self.stop()

    # On its thread

    def _listen(self) -> socket.socket:
        is_stream = self._scheme in {"tcp", "unix"}
        family = socket.AF_UNIX if self._path else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM if is_stream else socket.SOCK_DGRAM)
        if is_stream:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        if self._path:
            with suppress(FileNotFoundError):
                from pathlib import Path

                Path(self._path).unlink()
            listening.bind(self._path)
        else:
            listening.bind(("127.0.0.1", self._port))
            self._port = listening.getsockname()[1]
        if is_stream:
            listening.listen()
        return listening

    def _serve(self, listening: socket.socket, stopping: threading.Event) -> None:
        rests: dict[socket.socket, bytes] = {}
        with selectors.DefaultSelector() as selector, listening:
            selector.register(listening, selectors.EVENT_READ)
            while not stopping.is_set():
                for key, _ in selector.select(_TICK_SECONDS):
                    connection = key.fileobj
                    assert isinstance(connection, socket.socket)
                    if connection is listening and self._scheme in {"tcp", "unix"}:
                        accepted, _ = listening.accept()
                        rests[accepted] = b""
                        selector.register(accepted, selectors.EVENT_READ)
                        self._note(accepted=1)
                    elif self._may_read(stopping):
                        self._receive(selector, connection, rests)
            for connection in rests:
                connection.close()

    def _may_read(self, stopping: threading.Event) -> bool:
        """
        Whether to read now; an agent that hangs still accepts connections, because the system does that for it.
        """
        if not self._reading.is_set():
            stopping.wait(_TICK_SECONDS)
            return False
        return True

    def _receive(
        self, selector: selectors.BaseSelector, connection: socket.socket, rests: dict[socket.socket, bytes]
    ) -> None:
        if connection not in rests:
            self._note(lines=[connection.recv(_PACKET_BYTES)])
            return
        try:
            received = connection.recv(self._slowly or _PACKET_BYTES)
        except ConnectionError:
            received = b""
        if self._slowly:
            threading.Event().wait(_TICK_SECONDS / 50)
        *lines, rest = (rests[connection] + received).split(b"\n")
        rests[connection] = rest
        if not received:
            selector.unregister(connection)
            connection.close()
            del rests[connection]
        self._note(lines=lines, torn=rest if not received else b"")

    def _note(self, *, lines: list[bytes] | None = None, torn: bytes = b"", accepted: int = 0) -> None:
        with self._changed:
            self._lines += lines or []
            self.torn += [torn] if torn else []
            self.connections += accepted
            self._changed.notify_all()
