"""
A network that can be broken: a TCP proxy between a client and a server, whose behaviour a test changes at any moment.
"""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typing_extensions import Self

    Behaviour = Callable[["Link", bytes], None]

HOST = "127.0.0.1"
PATIENCE_SECONDS = 60.0
PORTAL = b"<html><head><title>Welcome</title></head><body>Please sign in.</body></html>"
LATIN_1 = "<!doctype html><title>Zugang für Gäste</title>".encode("latin-1")
PACE_SECONDS = 0.02
"""Between two bytes of whoever is slow: well below every read timeout, so that none of them ever strikes."""


class Link:
    """
    One connection of the client, and the connection to the server behind it.
    """

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self.proxy = proxy
        self.client = client
        self.server: socket.socket | None = None

    def ask(self, request: bytes) -> bytes:
        """Pass a request on; the server's whole answer, or b"" if it gave none."""
        if self.server is None:
            self.server = socket.create_connection((HOST, self.proxy.server_port), PATIENCE_SECONDS)
            self.proxy.opened(self.server)
        self.server.sendall(request)
        return read_message(self.server)

    def reset(self) -> None:
        """End the client's connection as a crash does: with RST instead of FIN."""
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.client.close()
        if self.server is not None:
            self.server.close()


class Proxy:
    """
    Listens on a port of its own and treats each request as the behaviour of the moment says; ends with its `with` block.

    Args:
        server_port: Where requests are passed on to.
        tls: What connections are encrypted with, if at all; may be exchanged.
    """

    def __init__(self, server_port: int, tls: ssl.SSLContext | None = None) -> None:
        self.server_port = server_port
        self.tls = tls
        self.behaviour: Behaviour = pass_on
        self.requests: list[bytes] = []
        """Every request that arrived, with its headers."""
        self.struck = 0
        """How many of them were treated otherwise than by passing them on."""
        self.healed = threading.Event()
        self._closing = False
        self._changed = threading.Condition()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self._start(self._accept, self._listener)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self.heal()
        self._stop_listening()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()

    def break_down(self, behaviour: Behaviour) -> None:
        """From now on, treat requests like this."""
        self.healed.clear()
        self.behaviour = behaviour

    def heal(self) -> None:
        """Pass on whatever comes from now on; whoever is being kept waiting is cut off."""
        self.behaviour = pass_on
        self.healed.set()
        self.drop_connections()

    def refuse(self) -> None:
        """Connections are refused, and those that exist are ended."""
        self._stop_listening()
        self.drop_connections()

    def accept(self) -> None:
        """Listen again, on the same port."""
        self._listener = socket.create_server((HOST, self.port))
        self._start(self._accept, self._listener)

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Wait for something that is counted here."""
        with self._changed:
            return self._changed.wait_for(condition, PATIENCE_SECONDS)

    def opened(self, connection: socket.socket) -> None:
        """Remember a socket, to end it."""
        with self._changed:
            self._sockets.add(connection)

    def drop_connections(self) -> None:
        """End all connections; their threads end with them."""
        with self._changed:
            connections, self._sockets = self._sockets, set()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _stop_listening(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, name="proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        self.opened(connection)
        link = Link(self, connection)
        with suppress(OSError):
            if self.tls is not None:
                link.client = self.tls.wrap_socket(connection, server_side=True)
                self.opened(link.client)
            while not self._closing and (request := read_message(link.client)):
                self._treat(link, request)
        link.close()
        with self._changed:
            self._sockets -= {connection, link.client}

    def _treat(self, link: Link, request: bytes) -> None:
        behaviour = self.behaviour
        with self._changed:
            self.requests.append(request)
            self.struck += behaviour is not pass_on
            self._changed.notify_all()
        behaviour(link, request)


def read_message(connection: socket.socket) -> bytes:
    """One HTTP message with a Content-Length; b"" if the peer left before its end."""
    message = b""
    while True:
        head, separator, body = message.partition(b"\r\n\r\n")
        if separator:
            length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            if len(body) >= (int(length[1]) if length else 0):
                return message
        received = connection.recv(65_536)
        if not received:
            return b""
        message += received


# ---- behaviours ----


def pass_on(link: Link, request: bytes) -> None:
    """Nothing happens."""
    answer = link.ask(request)
    if not answer:
        raise ConnectionError
    link.client.sendall(answer)


def reset_in_the_request(link: Link, request: bytes) -> None:
    """The server gets half of the request, then both sides are cut."""
    with socket.create_connection((HOST, link.proxy.server_port)) as server:
        server.sendall(request[: len(request) // 2])
    link.reset()


def reset_after_accepting(link: Link, request: bytes) -> None:
    """The server answers; the answer is lost."""
    link.ask(request)
    link.reset()


def keep_waiting(link: Link, request: bytes) -> None:
    """Nobody answers, nobody hangs up: a black hole."""
    link.proxy.healed.wait(PATIENCE_SECONDS)


def cut_answer(kept: Callable[[bytes], int]) -> Behaviour:
    """The server answers; only so many bytes of it arrive."""

    def behave(link: Link, request: bytes) -> None:
        answer = link.ask(request)
        link.client.sendall(answer[: kept(answer)])
        link.close()
        raise ConnectionError

    return behave


def answer_with(answer: bytes) -> Behaviour:
    """Somebody else answers; the server never hears of it."""
    return lambda link, request: link.client.sendall(answer)


def page(status: str, body: bytes, *headers: bytes, kind: bytes = b"text/html") -> bytes:
    """An answer."""
    lines = [b"HTTP/1.1 " + status.encode(), b"Content-Type: " + kind, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


def drip(link: Link, request: bytes) -> None:
    """The server answers, and its answer arrives byte by byte, without an end to its headers: a slow loris."""
    link.ask(request)
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: ":
        link.client.sendall(bytes([byte]))
    while not link.proxy.healed.wait(PACE_SECONDS):
        link.client.sendall(b"x")


def pour(link: Link, request: bytes) -> None:
    """An answer that never ends, as fast as it is read."""
    link.client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    while not link.proxy.healed.is_set():
        link.client.sendall(chunk)


def upload_slowly(link: Link, request: bytes) -> None:
    """The request creeps to the server byte by byte, which has nothing to answer before its end."""
    with socket.create_connection((HOST, link.proxy.server_port)) as server:
        for byte in request:
            server.sendall(bytes([byte]))
            if link.proxy.healed.wait(PACE_SECONDS):
                return


# ---- certificates ----


def certificate(folder: Path, address: str) -> Path:
    """A certificate for one address with its key, signed by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("certificates are made with the openssl command")
    made = folder / f"{address}.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    options = ["-addext", f"subjectAltName=IP:{address}", "-keyout", str(made), "-out", str(folder / "cert")]
    subprocess.run([*command.split(), *options], check=True, capture_output=True)
    made.write_bytes(made.read_bytes() + (folder / "cert").read_bytes())
    return made


def present(pem: Path) -> ssl.SSLContext:
    """What a server encrypts with that shows this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context
