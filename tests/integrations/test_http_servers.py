"""Real servers with several processes: after a graceful stop every request that was answered is counted, once."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics.testing import FakeCloudWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
APPS = "tests.integrations.served"
REQUESTS = 200
CLIENTS = 8
LONGEST_SECONDS = 60.0
"""Far longer than any of the servers takes: only one that hangs takes longer."""

for module in ("uvicorn", "gunicorn", "starlette", "uvicorn_worker"):
    pytest.importorskip(module)

UVICORN = ["-m", "uvicorn", "--no-access-log", "--log-level", "warning"]
GUNICORN = ["-m", "gunicorn", "--preload", "--workers", "2", "--log-level", "warning", "--no-control-socket"]

SERVERS = {
    "uvicorn": [*UVICORN, "--factory", f"{APPS}:make_asgi", "--fd", "{fd}"],
    "uvicorn, 4 workers": [*UVICORN, "--workers", "4", "--factory", f"{APPS}:make_asgi", "--fd", "{fd}"],
    "gunicorn, preload, sync": [*GUNICORN, "--bind", "fd://{fd}", f"{APPS}:wsgi_app"],
    "gunicorn, preload, gthread": [
        *GUNICORN,
        *("--worker-class", "gthread", "--threads", "4"),
        *("--bind", "fd://{fd}", f"{APPS}:wsgi_app"),
    ],
    "gunicorn, preload, uvicorn workers": [
        *GUNICORN,
        *("--worker-class", "uvicorn_worker.UvicornWorker"),
        *("--bind", "fd://{fd}", f"{APPS}:make_asgi()"),
    ],
}


@pytest.fixture
def cloudwatch() -> Iterator[FakeCloudWatch]:
    """A CloudWatch in this process, for the servers to talk to."""
    with FakeCloudWatch() as server:
        yield server


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that listens before its server runs, so that nobody has to wait for the server: connections wait for it instead."""
    with socket.create_server(("127.0.0.1", 0), backlog=CLIENTS * 4) as listening:
        yield listening


def environment(cloudwatch: FakeCloudWatch) -> dict[str, str]:
    """What the servers find in their environment: nothing but this."""
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": cloudwatch.endpoint_url,
        "ENVIRONMENT": "server-test",
        # A worker that ends imports boto3 for its first delivery; on a starved machine that takes longer than the default.
        "RETAINWISE_METRICS_SHUTDOWN_TIMEOUT_SECONDS": "30",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
    }


def request_some(port: int, first: int) -> list[int]:
    """One client's share of the requests, each on a connection of its own, so that all workers get some."""
    statuses = []
    for number in range(first, REQUESTS, CLIENTS):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST_SECONDS)
        connection.request("GET", f"/items/{number}", headers={"Connection": "close"})
        answer = connection.getresponse()
        assert answer.read() == b"ok"
        statuses.append(answer.status)
        connection.close()
    return statuses


def counted(cloudwatch: FakeCloudWatch, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """What arrived under a name, by dimensions, without the roll-up."""
    return {
        each.dimensions: cloudwatch.sum(each.namespace, name, dict(each.dimensions))
        for each in cloudwatch.series()
        if each.name == name and each.dimensions
    }


@pytest.mark.parametrize("server", SERVERS)
def test_what_was_answered_is_counted(server: str, cloudwatch: FakeCloudWatch, listener: socket.socket) -> None:
    """Requests answered before a SIGTERM are in CloudWatch when the server has ended, under their route, each once."""
    command = [part.format(fd=listener.fileno()) for part in SERVERS[server]]
    process = subprocess.Popen(
        [sys.executable, *command],
        env=environment(cloudwatch),
        pass_fds=[listener.fileno()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        port = listener.getsockname()[1]
        with ThreadPoolExecutor(CLIENTS) as clients:
            shares = list(clients.map(lambda first: request_some(port, first), range(CLIENTS)))
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=LONGEST_SECONDS)
    finally:
        process.kill()
        process.wait()
    assert sum(map(len, shares)) == REQUESTS
    expected = {(("Endpoint", "/items/{item_id}"), ("Method", "GET"), ("Status", "2xx")): REQUESTS}
    assert counted(cloudwatch, "HttpRequests") == expected, said
    assert cloudwatch.sum("RetainWise/MLPipeline", "ItemsSeen") == REQUESTS, said
    assert "Traceback" not in said, said
