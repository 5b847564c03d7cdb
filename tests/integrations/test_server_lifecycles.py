"""Real servers that reload, recycle and end their workers, and processes of greenlets: what was answered is counted, once."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics.testing import FakeCloudWatch
from tests.helpers import NAMESPACE
from tests.integrations.test_http_servers import LONGEST_SECONDS, counted, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

APPS = "tests.integrations.lifecycle_apps"
CLIENTS = 8
ROUTE = (("Endpoint", "/items/{item_id}"), ("Method", "GET"), ("Status", "2xx"))

for module in ("gevent", "gunicorn", "pyuwsgi", "starlette", "uvicorn"):
    pytest.importorskip(module)

GUNICORN = ["-m", "gunicorn", "--workers", "2", "--log-level", "warning", "--no-control-socket"]
GUNICORN_APP = ["--bind", "fd://{fd}", f"{APPS}:app"]
WORKERS = {
    "sync": ["--worker-class", "sync"],
    "gthread": ["--worker-class", "gthread", "--threads", "4"],
    "gevent": ["--worker-class", "gevent"],
}
UWSGI = [
    *("-c", "import pyuwsgi; pyuwsgi.run()"),
    *("--http-socket", "fd://{fd}", "--module", APPS, "--callable", "app"),
    *("--need-app", "--disable-logging", "--master"),
    # By itself it ends workers without their hooks if they have not quite finished a request.
    *("--hook-master-start", "unix_signal:15 gracefully_kill_them_all"),
]
PREFORK = ["--processes", "2", "--enable-threads"]


class Load:
    """Clients that ask one thing after the other, each on a connection of its own, until the block ends."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = False
        self._changed = threading.Condition()
        self._errors: list[Exception] = []
        self._threads = [threading.Thread(target=self._ask_on) for _ in range(CLIENTS)]
        self.answers: Counter[str] = Counter()
        """How often each process has answered."""

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        for thread in self._threads:
            thread.join()
        assert not self._errors, self._errors

    def _ask_on(self) -> None:
        while not self._over:
            try:
                answer = get(self._port, "/items/7")
            except Exception as error:
                self._errors.append(error)
                self._over = True
            with self._changed:
                self.answers.update([] if self._errors else [answer])
                self._changed.notify_all()

    def wait_until(self, condition: Callable[[set[str]], bool]) -> set[str]:
        """Wait until something is true of the processes that have answered so far; returns them."""
        with self._changed:
            reached = self._changed.wait_for(lambda: condition(set(self.answers)) or self._over, LONGEST_SECONDS)
            assert reached, self.answers
            return set(self.answers)


class Server(subprocess.Popen[str]):
    """A server that takes over a socket on which clients may wait already."""

    def end(self) -> str:
        """Ask it to end, and wait until it has; returns what it said."""
        self.send_signal(signal.SIGTERM)
        return self.communicate(timeout=LONGEST_SECONDS)[0]


@pytest.fixture
def cloudwatch() -> Iterator[FakeCloudWatch]:
    """A CloudWatch in this process, for the servers to talk to."""
    with FakeCloudWatch() as server:
        yield server


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that listens before its server runs."""
    with socket.create_server(("127.0.0.1", 0), backlog=CLIENTS * 4) as listening:
        yield listening


@pytest.fixture
def port(listener: socket.socket) -> int:
    """Where the server will be found."""
    return int(listener.getsockname()[1])


@pytest.fixture
def serve(cloudwatch: FakeCloudWatch, listener: socket.socket) -> Callable[..., Iterator[Server]]:
    """Run a server for the length of a block."""

    @contextmanager
    def run(*command: str, **variables: str) -> Iterator[Server]:
        server = Server(
            [sys.executable, *(part.format(fd=listener.fileno()) for part in command)],
            env={**environment(cloudwatch), **variables},
            pass_fds=[listener.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield server
        finally:
            # Its workers, too, whatever has become of it.
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.communicate()

    return run


def get(port: int, path: str) -> str:
    """Ask for something, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST_SECONDS)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read().decode()
    finally:
        connection.close()


def assert_counted(cloudwatch: FakeCloudWatch, answers: Counter[str], said: str) -> None:
    """What was answered has arrived, once, and nobody complained."""
    assert counted(cloudwatch, "HttpRequests") == {ROUTE: answers.total()}, said
    assert cloudwatch.sum(NAMESPACE, "ItemsSeen") == answers.total(), said
    assert "Traceback" not in said, said


@pytest.mark.parametrize("workers", WORKERS)
def test_a_graceful_reload_of_gunicorn_under_load(
    workers: str, serve: Callable, port: int, cloudwatch: FakeCloudWatch
) -> None:
    """SIGHUP replaces both workers while requests keep coming; the old ones deliver what they have counted before they go."""
    with serve(*GUNICORN, *WORKERS[workers], *GUNICORN_APP) as server:
        with Load(port) as load:
            old = load.wait_until(lambda seen: len(seen) >= 2)
            server.send_signal(signal.SIGHUP)
            load.wait_until(lambda seen: len(seen - old) >= 2)
        said = server.end()
    assert_counted(cloudwatch, load.answers, said)
    assert server.returncode == 0


@pytest.mark.parametrize("workers", ["sync", "gthread"])
def test_workers_of_gunicorn_that_are_recycled(
    workers: str, serve: Callable, port: int, cloudwatch: FakeCloudWatch
) -> None:
    """With `max_requests` many short lives follow each other, and each delivers its own."""
    with serve(*GUNICORN, *WORKERS[workers], "--max-requests", "20", *GUNICORN_APP) as server:
        with Load(port) as load:
            load.wait_until(lambda seen: len(seen) >= 5)
        said = server.end()
    assert_counted(cloudwatch, load.answers, said)


def test_greenlets_of_gunicorn_and_a_client_that_was_made_before(
    serve: Callable, port: int, cloudwatch: FakeCloudWatch
) -> None:
    """With `--preload` the library is imported, and has recorded, in an unpatched process; its workers are patched after the fork."""
    command = [*GUNICORN, *WORKERS["gevent"], "--preload", *GUNICORN_APP]
    with serve(*command, RECORD_AT_IMPORT="yes") as server:
        with Load(port) as load:
            load.wait_until(lambda seen: len(seen) >= 2)
        said = server.end()
    assert_counted(cloudwatch, load.answers, said)
    assert cloudwatch.sum(NAMESPACE, "AtImport") == 1


def test_uvicorn_that_has_had_enough(serve: Callable, port: int, cloudwatch: FakeCloudWatch) -> None:
    """After `--limit-max-requests` the process ends by itself, in an orderly way."""
    app = ["--factory", "tests.integrations.served:make_asgi", "--fd", "{fd}"]
    with serve("-m", "uvicorn", "--log-level", "warning", "--limit-max-requests", "30", *app) as server:
        answers = Counter(get(port, f"/items/{number}") for number in range(30))
        said = server.communicate(timeout=LONGEST_SECONDS)[0]
    assert_counted(cloudwatch, answers, said)


@pytest.mark.parametrize(
    "options",
    [
        [],
        PREFORK,
        [*PREFORK, "--lazy-apps"],
        [*PREFORK, "--threads", "4"],
        [*PREFORK, "--py-call-uwsgi-fork-hooks"],
    ],
    ids=" ".join,
)
def test_uwsgi_ends(options: list[str], serve: Callable, port: int, cloudwatch: FakeCloudWatch) -> None:
    """One process or several, loaded before the fork or after it: what was counted is delivered when the server ends."""
    with serve(*UWSGI, *options) as server:
        with Load(port) as load:
            load.wait_until(lambda seen: len(seen) >= (2 if options else 1))
        said = server.end()
    assert_counted(cloudwatch, load.answers, said)


@pytest.mark.parametrize("options", [[], ["--py-call-uwsgi-fork-hooks"]], ids=["", "with fork hooks"])
def test_uwsgi_forks_a_client_that_has_recorded(
    options: list[str], serve: Callable, port: int, cloudwatch: FakeCloudWatch
) -> None:
    """UWSGI forks without a word to the interpreter. Workers start empty all the same, and have a thread of their own."""
    with serve(*UWSGI, *PREFORK, *options, RECORD_AT_IMPORT="yes") as server:
        with Load(port) as load:
            load.wait_until(lambda seen: len(seen) >= 2)
        said = server.end()
    assert_counted(cloudwatch, load.answers, said)
    # The master runs no hooks when it ends: what was recorded in it may arrive, if its thread was quick, but not from its workers too.
    assert cloudwatch.sum(NAMESPACE, "AtImport") <= 1


def test_workers_of_uwsgi_that_are_reloaded(
    serve: Callable, port: int, cloudwatch: FakeCloudWatch, tmp_path: Path
) -> None:
    """A graceful reload replaces both workers under load; nothing that was answered is missing."""
    touched = tmp_path / "reload"
    touched.touch()
    with serve(*UWSGI, *PREFORK, "--lazy-apps", "--touch-workers-reload", str(touched)) as server:
        with Load(port) as load:
            old = load.wait_until(lambda seen: len(seen) >= 2)
            times = touched.stat()
            # It compares whole seconds.
            os.utime(touched, (times.st_atime, times.st_mtime + 10))
            load.wait_until(lambda seen: len(seen - old) >= 2)
        said = server.end()
    assert_counted(cloudwatch, load.answers, said)


def test_workers_of_uwsgi_that_are_recycled(serve: Callable, port: int, cloudwatch: FakeCloudWatch) -> None:
    """With `max-requests` workers end while others go on, and each delivers its own."""
    with serve(*UWSGI, *PREFORK, "--max-requests", "50", "--min-worker-lifetime", "0") as server:
        with Load(port) as load:
            load.wait_until(lambda seen: len(seen) >= 3)
        said = server.end()
    assert_counted(cloudwatch, load.answers, said)


@pytest.mark.parametrize("hook", ["yes", ""], ids=["with its hook", "without"])
def test_uwsgi_that_skips_the_end_of_the_interpreter(
    hook: str, serve: Callable, port: int, cloudwatch: FakeCloudWatch
) -> None:
    """With `--skip-atexit-teardown` nobody runs `atexit`; `uwsgi.atexit` is called, and may stop the client."""
    with serve(*UWSGI, *PREFORK, "--lazy-apps", "--skip-atexit-teardown", UWSGI_ATEXIT=hook) as server:
        with Load(port) as load:
            load.wait_until(lambda seen: len(seen) >= 2)
        said = server.end()
    if hook:
        assert_counted(cloudwatch, load.answers, said)
    else:
        assert cloudwatch.total_count() == 0


@pytest.mark.parametrize("options", [["--processes", "1"], [*PREFORK, "--lazy-apps"]], ids=" ".join)
def test_a_worker_of_uwsgi_that_has_used_tls_still_can_when_it_ends(
    options: list[str], serve: Callable, port: int
) -> None:
    """The interpreter is ended in an exit handler of C; OpenSSL's must not have come before it."""
    with serve(*UWSGI, *options, TLS_AT_EXIT="yes") as server:
        get(port, "/items/7")
        get(port, "/flush")
        said = server.end()
    assert "TLS works" in said
    assert "no TLS" not in said


def test_uwsgi_that_does_not_run_threads(serve: Callable, port: int, cloudwatch: FakeCloudWatch) -> None:
    """Without `--enable-threads` old releases let no thread run: values are held until somebody asks, and the log says so."""
    with serve(*UWSGI, RETAINWISE_METRICS_FLUSH_INTERVAL_SECONDS="0.1") as server:
        answers = Counter(get(port, f"/items/{number}") for number in range(30))
        delivered, has_threads = map(int, get(port, "/flush").split())
        assert cloudwatch.sum(NAMESPACE, "ItemsSeen") == 30
        answers[get(port, "/items/7")] += 1
        said = server.end()
    assert_counted(cloudwatch, answers, said)
    assert ("uWSGI runs without --enable-threads" in said) == (not has_threads), said
    assert has_threads or delivered > 2 * 30, "nothing was delivered before somebody asked"


@pytest.mark.parametrize("way", ["by_itself", "flush", "stop", "fork", "signal_handler", "native_thread", "sigterm"])
def test_a_process_of_greenlets(way: str, cloudwatch: FakeCloudWatch) -> None:
    """Whatever greenlet, hub or thread recorded it, and however the process ends: it arrives, once."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("greenlets.py")), way],
        env=environment(cloudwatch),
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
        check=False,
    )
    assert done.returncode == (-signal.SIGTERM if way == "sigterm" else 0), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    taken = json.loads(done.stdout) + (4000 if way == "fork" else 0)
    assert taken > 0
    assert cloudwatch.total_count() == taken, done.stderr
