"""
An OTLP endpoint for tests: parses what arrives, and answers as told.
"""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

PROTOBUF = {"Content-Type": "application/x-protobuf"}


class Received(NamedTuple):
    """One request, as it came."""

    path: str
    headers: dict[str, str]
    body: bytes
    message: Any

    @property
    def metrics(self) -> dict[str, Any]:
        """Its metrics, by name."""
        (resource,) = self.message.resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: metric for metric in scope.metrics}


class Answer(NamedTuple):
    """What the receiver says."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = PROTOBUF


class Receiver:
    """An OTLP endpoint: keeps what it accepts, and gives the answers it was told, in order, then 200."""

    def __init__(self) -> None:
        receiver = self
        self.requests: list[Received] = []
        self.answers: list[Answer | str] = []
        self.release = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = receiver.answers.pop(0) if receiver.answers else Answer()
                if answer == "cut":
                    self.close_connection = True
                    return
                if answer == "hang":
                    receiver.release.wait(60)
                    self.close_connection = True
                    return
                assert isinstance(answer, Answer)
                if answer.status == 200:
                    message = ExportMetricsServiceRequest.FromString(gzip.decompress(body))
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    receiver.requests.append(Received(self.path, headers, body, message))
                self.send_response(answer.status)
                for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def count(self, name: str) -> int:
        """How many measurements of a metric were accepted, those that came twice counted twice."""
        metrics = [request.metrics[name] for request in self.requests if name in request.metrics]
        return sum(point.count for metric in metrics for point in metric.exponential_histogram.data_points)

    def close(self) -> None:
        """Refuse connections from now on."""
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
