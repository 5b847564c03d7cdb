"""
Documents of Embedded Metric Format to a CloudWatch agent, over TCP, UDP or a Unix socket.

Rules
1. Whoever sends waits at most `connect_timeout_seconds`, and then `write_timeout_seconds` for a whole batch.
2. On a stream a document ends with its newline. If it was written in part, the connection is closed: a new one begins with a whole line.
   As a datagram it is one packet of at most 60 KB.
3. A connection that the agent has closed is noticed before anything is written to it.
4. A socket made before a fork is never used or closed by the child.

*Delivered* means: this machine's kernel has taken the document. Agents acknowledge nothing. An agent that dies takes with it what it has
not read: at most `SEND_BUFFER_BYTES` here (the system doubles it) and its own receive buffer. On UDP, an agent on this machine that
does not listen is noticed with each packet; one elsewhere never, and packets may be lost on the way.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from retainwise_metrics.runtime import AT_ONCE, IMPORTS, SystemRuntime

from .base import SinkTooLarge, SinkUnavailable
from .emf_format import DocumentSink, Layout

if TYPE_CHECKING:
    from collections.abc import Callable

PORT = 25_888
"""Where the CloudWatch agent listens by default, on TCP and UDP (CloudWatch user guide, "Generate logs")."""

DATAGRAM_BYTES = 60 * 1024
"""Largest document as one packet: UDP ends at 65,507 bytes."""

SEND_BUFFER_BYTES = 64 * 1024
"""What the kernel may hold of a stream: it bounds what is lost with the agent, and how late one that hangs is noticed."""

SCHEMES = ("tcp", "udp", "unix", "unixgram")


class Endpoint(NamedTuple):
    """
    Where an agent listens.

    Attributes:
        scheme: One of `SCHEMES`.
        host: For `tcp` and `udp`.
        port: Likewise.
        path: For `unix` (a stream) and `unixgram` (packets).
    """

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_stream(self) -> bool:
        """
        Whether documents are told apart by their newlines.
        """
        return self.scheme in {"tcp", "unix"}


def parse_endpoint(text: str) -> Endpoint:
    """
    Read `tcp://host:port`, `udp://host:port`, `unix:///path` or `unixgram:///path`; without a port it is 25888.

    Raises:
        ValueError: It is none of them.
    """
    scheme, _, rest = text.partition("://")
    if scheme in {"unix", "unixgram"} and rest.startswith("/") and len(rest) > 1:
        return Endpoint(scheme, path=rest)
    host, colon, port = rest.removesuffix("/").rpartition(":")
    if not colon or rest.endswith("]"):
        host, port = rest.removesuffix("/"), str(PORT)
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if scheme not in {"tcp", "udp"} or not host or "/" in host or not (port.isascii() and port.isdigit()):
        raise ValueError(text)
    if not 0 < int(port) < 65_536:
        raise ValueError(text)
    return Endpoint(scheme, host, int(port))


class EmfAgentSink(DocumentSink):
    """
    Writes documents to an agent's socket. Nothing is opened before the first batch.

    Args:
        endpoint: Where the agent listens, as text or parsed.
        layout: How documents are written; for packets they are kept below 60 KB.
        connect_timeout_seconds: Longest wait for a connection, per address of the host.
        write_timeout_seconds: Longest wait until the kernel has taken all documents of a batch.
        monotonic: Seconds on a clock that never steps back.
    """

    def __init__(
        self,
        endpoint: Endpoint | str,
        *,
        layout: Layout | None = None,
        connect_timeout_seconds: float = 3.0,
        write_timeout_seconds: float = 10.0,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._endpoint = parse_endpoint(endpoint) if isinstance(endpoint, str) else endpoint
        chosen = layout or Layout()
        if not self._endpoint.is_stream:
            chosen = chosen._replace(max_bytes=DATAGRAM_BYTES, usual_bytes=DATAGRAM_BYTES)
        super().__init__(chosen, connect_timeout_seconds + write_timeout_seconds)
        self._connect_timeout = connect_timeout_seconds
        self._write_timeout = write_timeout_seconds
        self._monotonic = monotonic or SystemRuntime().monotonic
        self._deadline = 0.0
        self._socket: socket.socket | None = None
        self._abandoned: list[object] = []

    def _begin(self) -> None:
        if self._socket is not None and self._endpoint.is_stream and _is_closed_by_peer(self._socket):
            self._disconnect()
        if self._socket is None:
            try:
                self._socket = self._connect()
            except OSError as error:
                message = f"the CloudWatch agent cannot be reached: {type(error).__name__}"
                raise SinkUnavailable(message) from error
        self._deadline = self._monotonic() + self._write_timeout

    def _connect(self) -> socket.socket:
        endpoint = self._endpoint
        if not endpoint.path:
            with IMPORTS.lock:
                import encodings.idna  # noqa: F401 - looking up a name needs it; here a fork waits for it (runtime.ImportGate)
            if endpoint.is_stream:
                connection = socket.create_connection((endpoint.host, endpoint.port), self._connect_timeout)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
                return connection
            found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_DGRAM)
            family, address = found[0][0], found[0][4]
            return _connected(socket.socket(family, socket.SOCK_DGRAM), address, self._connect_timeout)
        kind = socket.SOCK_STREAM if endpoint.is_stream else socket.SOCK_DGRAM
        return _connected(socket.socket(socket.AF_UNIX, kind), endpoint.path, self._connect_timeout)

    def _write(self, line: bytes) -> None:
        connection, left = self._socket, self._deadline - self._monotonic()
        if connection is None or left <= 0:
            message = f"the agent did not take a batch within {self._write_timeout:g} s"
            raise SinkUnavailable(message)
        try:
            connection.settimeout(left)
            if self._endpoint.is_stream:
                connection.sendall(line)
            else:
                _send_packet(connection, line)
        except OSError as error:
            # Nobody knows how much of the line is on its way, so nothing may follow it here.
            self._disconnect()
            if error.errno == errno.EMSGSIZE:
                message = f"this system sends no packet of {len(line)} bytes"
                raise SinkTooLarge(message) from error
            message = f"the CloudWatch agent stopped taking documents: {type(error).__name__}"
            raise SinkUnavailable(message, maybe_delivered=True) from error

    def _disconnect(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            with suppress(OSError):
                connection.close()

    def after_fork(self) -> None:
        """
        Forget the parent's socket. It is kept, unused: closing it is the parent's business.
        """
        super().after_fork()
        self._abandoned.append(self._socket)
        self._socket = None

    def close(self) -> None:
        """
        Close the socket, unless somebody is writing to it.
        """
        (mine,) = map(self._turn.acquire, AT_ONCE)
        if mine:
            try:
                self._disconnect()
            finally:
                self._turn.release()


def _connected(connection: socket.socket, address: object, timeout: float) -> socket.socket:
    try:
        connection.settimeout(timeout)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        connection.connect(address)  # type: ignore[arg-type]  # a pair or a path, as the family wants it
    except BaseException:
        connection.close()
        raise
    return connection


def _is_closed_by_peer(connection: socket.socket) -> bool:
    """
    Whether the other end has gone away. Agents say nothing, so all there can be to read is the end.
    """
    try:
        connection.settimeout(0)
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _send_packet(connection: socket.socket, line: bytes) -> None:
    connection.send(line)
    # Sent to this machine, a packet that nobody listens for is answered before `send` returns.
    trouble = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if trouble:
        raise OSError(trouble, os.strerror(trouble))
