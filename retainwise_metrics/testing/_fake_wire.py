"""
HTTP for the fake CloudWatch: JSON 1.0 with the query-compatibility header, as boto3 speaks it from botocore 1.42.7.

Two things make a server usable in tests: closing it never waits for a client, and nothing of it is left behind.
So the accept loop is woken rather than polled, every connection is remembered with its thread, and closing
shuts all of them down before it waits for the threads.
"""

from __future__ import annotations

import gzip
import json
import math
import select
import selectors
import socket
import threading
import uuid
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_HOST: Final = "127.0.0.1"
_CLOSE_SECONDS: Final = 5.0
_JSON: Final = "application/x-amz-json-1.0"
_SHAPES: Final = {"MissingParameter": "MissingRequiredParameter", "InternalServiceError": "InternalServiceFault"}


class Request(NamedTuple):
    """
    One request, read to its end and decompressed.

    Attributes:
        operation: Name of the API operation, empty when the request does not say.
        headers: With lower-case names.
        body: Without its compression.
        compressed: Whether it came as gzip.
        readable: False when the compression was broken; the body is then what was sent.
        connected: Asks whether the client is still waiting for the answer.
        closing: Asks whether the server is being closed.
    """

    operation: str
    headers: Mapping[str, str]
    body: bytes
    compressed: bool
    readable: bool
    connected: Callable[[], bool]
    closing: Callable[[], bool]


class Reply(NamedTuple):
    """
    One answer.

    Attributes:
        status: HTTP status.
        code: Error code in the spelling boto3 shall show; empty when it is no error.
        message: Error message.
        payload: Result of the operation.
        page: Bytes sent as HTML instead of a result, without a RequestId: what a proxy or a captive portal answers.
        headers: Further headers.
    """

    status: int = 200
    code: str = ""
    message: str = ""
    payload: Mapping[str, Any] | None = None
    page: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()


class Service(Protocol):
    """
    What answers requests.
    """

    def answer(self, request: Request) -> Reply | None:
        """
        Answer one request; None closes the connection without an answer.
        """

    def failed(self, error: BaseException) -> None:
        """
        Take note of an exception raised while answering: it is a mistake in the fake or in a test.
        """


class WireServer(ThreadingHTTPServer):
    """
    Accepts connections on a port of 127.0.0.1; a port may be held without listening, which refuses connections.
    """

    daemon_threads = True
    request_queue_size = 128
    timeout = 0  # `handle_request` is called when a connection waits; if it is gone again, there is nothing to wait for

    def __init__(self, service: Service, *, port: int = 0, listen: bool = True) -> None:
        super().__init__((_HOST, port), _Handler, bind_and_activate=False)
        self.service = service
        self.closing = False
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self._waker, self._wakened = socket.socketpair()
        self._acceptor = threading.Thread(target=self._accept, name="fake-cloudwatch", daemon=True)
        try:
            self.server_bind()
        except OSError:
            self.server_close()
            raise
        if listen:
            self.listen()

    def listen(self) -> None:
        """
        Begin to accept connections.
        """
        self.server_activate()
        self._acceptor.start()

    def close(self) -> None:
        """
        Stop accepting, end every connection and wait for their threads, for at most five seconds each.

        `closing` must be set before, and whoever holds a request be told, so that held requests end.
        """
        self._waker.close()
        if self._acceptor.ident is not None:
            self._acceptor.join(_CLOSE_SECONDS)
        self.server_close()
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            _shut_down(connection)
        for thread in connections.values():
            thread.join(_CLOSE_SECONDS)

    def server_bind(self) -> None:
        """
        Bind without the name lookup of `HTTPServer.server_bind`, which can take seconds.
        """
        TCPServer.server_bind(self)
        self.server_name, self.server_port = _HOST, self.socket.getsockname()[1]

    def server_close(self) -> None:
        """
        Close the listening socket and the pair that wakes the accept loop.
        """
        super().server_close()
        self._waker.close()
        self._wakened.close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """
        Serve one connection on a thread that `close` knows.
        """
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name="fake-cloudwatch-connection",
            daemon=True,
        )
        with self._lock:
            self._connections[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        """
        Close one connection and forget it.
        """
        super().shutdown_request(request)
        with self._lock:
            self._connections.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """
        Say nothing: clients that go away are part of the test, and `_Handler` reports what is a mistake.
        """

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            selector.register(self._wakened, selectors.EVENT_READ)
            while not any(key.fileobj is self._wakened for key, _ in selector.select()):
                self.handle_request()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: WireServer

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length")
        if length is None:
            self.send_error(411)
            return
        sent = self.rfile.read(int(length))
        if len(sent) < int(length):
            self.close_connection = True  # the client went away in the middle: there is nobody to answer
            return
        request = self._request(sent)
        reply = self._answer(request)
        if reply is None:
            self.close_connection = True
        else:
            self._send(reply, query_mode=request.headers.get("x-amzn-query-mode") == "true")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  signature of http.server
        pass

    def _answer(self, request: Request) -> Reply | None:
        try:
            return self.server.service.answer(request)
        except Exception as error:  # noqa: BLE001  whatever it is, the test shall see it
            self.server.service.failed(error)
            return Reply(500, "FakeCloudWatchFailed", f"FakeCloudWatch failed: {error!r}")

    def _request(self, sent: bytes) -> Request:
        headers = {name.lower(): value for name, value in self.headers.items()}
        compressed = headers.get("content-encoding") == "gzip"
        body = _decompressed(sent) if compressed else sent
        return Request(
            operation=headers.get("x-amz-target", "").rpartition(".")[2],
            headers=headers,
            body=sent if body is None else body,
            compressed=compressed,
            readable=body is not None,
            connected=self._client_waits,
            closing=lambda: self.server.closing,
        )

    def _client_waits(self) -> bool:
        """
        Whether the client still holds the connection open: a socket that is readable and empty has been closed.
        """
        try:
            readable, _, _ = select.select([self.connection], [], [], 0)
            return not readable or self.connection.recv(1, socket.MSG_PEEK) != b""
        except (OSError, ValueError):
            return False

    def _send(self, reply: Reply, *, query_mode: bool) -> None:
        body = _body(reply)
        self.send_response(reply.status)
        self.send_header("Content-Length", str(len(body)))
        if reply.page is None:
            self.send_header("x-amzn-RequestId", str(uuid.uuid4()))
            self.send_header("Content-Type", _JSON)
        else:
            self.send_header("Content-Type", "text/html")
        if query_mode and reply.code and not _is_shape_name(reply.code):
            fault = "Sender" if reply.status < 500 else "Receiver"
            self.send_header("x-amzn-query-error", f"{reply.code};{fault}")
        for name, value in reply.headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def retry_after_headers(seconds: float | None) -> tuple[tuple[str, str], ...]:
    """
    The two headers that ask a client to wait: whole seconds for HTTP, milliseconds for the AWS SDKs.
    """
    if seconds is None:
        return ()
    return (("Retry-After", str(math.ceil(seconds))), ("x-amz-retry-after", str(round(seconds * 1000))))


def _body(reply: Reply) -> bytes:
    if reply.page is not None:
        return reply.page
    if reply.code:
        return json.dumps({"__type": _shape_name(reply.code), "message": reply.message}).encode()
    return json.dumps(reply.payload or {}).encode()


def _is_shape_name(code: str) -> bool:
    return code.endswith("Exception")


def _shape_name(code: str) -> str:
    """
    The name an error has in the JSON body, beside the name of the query protocol in the header.
    """
    shape = _SHAPES.get(code, code)
    return shape if shape.endswith(("Exception", "Fault")) else f"{shape}Exception"


def _decompressed(body: bytes) -> bytes | None:
    try:
        return gzip.decompress(body)
    except (OSError, EOFError, zlib.error):
        return None


def _shut_down(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # its client was faster
