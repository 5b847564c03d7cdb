"""Celery's tasks are counted as they were: in a real worker with a pool of processes, and signal by signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics import MetricsConfig, set_metrics_client
from retainwise_metrics.testing import FakeCloudWatch

celery = pytest.importorskip("celery")

from celery import Celery, signals  # noqa: E402 - after the check that there is one
from celery.exceptions import Ignore, Reject  # noqa: E402

from retainwise_metrics import CloudWatchMetrics  # noqa: E402
from retainwise_metrics.integrations import celery as celery_metrics  # noqa: E402
from retainwise_metrics.integrations.celery import CeleryMetricNames, CeleryMetrics, instrument_celery  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from retainwise_metrics.testing import InMemorySink, ManualRuntime

NAMESPACE = "RetainWise/Worker"
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DEADLINE_SECONDS = 60.0


# ---- a real worker ----


class Worker:
    """A Celery worker in a process of its own, and what its tasks wrote down."""

    def __init__(self, home: Path, cloudwatch: FakeCloudWatch) -> None:
        self._diary = home / "diary"
        for folder in ("messages", "control"):
            (home / folder).mkdir()
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join((str(HERE), str(ROOT))),
            "CELERY_TEST_HOME": str(home),
            "ENVIRONMENT": "production",
            "RETAINWISE_METRICS_FLUSH_INTERVAL_SECONDS": "1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": cloudwatch.endpoint_url,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        self._home = home
        self._log = home / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start it."""
        command = [sys.executable, "-m", "celery", "-A", "celery_project", "worker", "--loglevel", "INFO", *options]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=self.environment, cwd=self._home, stdout=log, stderr=subprocess.STDOUT
            )

    def send(self, program: str) -> None:
        """Send tasks, as another process of the same project does."""
        subprocess.run(
            [sys.executable, "-c", f"from celery_project import *\n{program}"],
            env=self.environment,
            cwd=self._home,
            check=True,
            timeout=DEADLINE_SECONDS,
        )

    def diary(self) -> Counter[str]:
        """How often each event was written down."""
        return Counter(self._diary.read_text().splitlines()) if self._diary.exists() else Counter()

    def wait_for(self, events: int) -> None:
        """Wait until so many events are written down."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.diary().total() < events:
            assert self.process is not None
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, (self.diary(), self._log.read_text())
            time.sleep(0.05)  # another process writes it, and cannot wake this one

    def stop(self) -> int:
        """A warm shutdown, as by a deployment."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_SECONDS)

    def kill(self) -> None:
        """Whatever happened, leave nothing behind."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)


@pytest.fixture
def cloudwatch() -> Iterator[FakeCloudWatch]:
    """A CloudWatch for other processes."""
    with FakeCloudWatch() as server:
        yield server


@pytest.fixture
def worker(tmp_path: Path, cloudwatch: FakeCloudWatch) -> Iterator[Worker]:
    """A worker that is not started yet."""
    made = Worker(tmp_path, cloudwatch)
    try:
        yield made
    finally:
        made.kill()


def test_a_pool_of_processes_delivers_all_it_counted(worker: Worker, cloudwatch: FakeCloudWatch) -> None:
    """Two processes, replaced after 25 tasks each, one killed in its task: after a warm shutdown, tasks run are tasks counted."""
    worker.start("--pool", "prefork", "--concurrency", "2", "--max-tasks-per-child", "25")
    # Alone: what else its process had counted in the last seconds would be lost with it, which no library can help.
    worker.send("crash.delay(0)")
    worker.wait_for(1)
    worker.send(
        "for n in range(40): ship.delay(n), charge.delay(n)\n"
        "for n in range(10): mail.delay(n), skip.delay(n)\n"
        "import datetime\n"
        "past = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)\n"
        "for n in range(3): ship.apply_async((n,), expires=past)"
    )
    worker.wait_for(1 + 80 + 30 + 10 + 3)
    # Processes that are replaced flush at their end. But with a broker of files Celery starts those that replace them from a thread that
    # ends when the worker stops, and Linux kills them with it: what they hold has to be out before.
    ends = ("WorkerSuccess", "WorkerFailure", "CeleryTaskRetried", "CeleryTaskIgnored")
    flushed = 50 + 41 + 20 + 10
    assert cloudwatch.wait_until(
        lambda: sum(cloudwatch.sum(NAMESPACE, name) for name in ends) >= flushed, DEADLINE_SECONDS
    ), "a process that was replaced has not flushed"
    assert worker.stop() == 0

    diary = worker.diary()
    assert diary == {
        "ship succeeded": 40,
        "charge failed": 40,
        "mail retried": 20,
        "mail succeeded": 10,
        "skip ignored": 10,
        "crash failed": 1,
        "ship revoked": 3,
    }

    def found(name: str, **dimensions: str) -> float:
        return cloudwatch.sum(NAMESPACE, name, dimensions)

    of = "celery_project.{}".format
    assert found("WorkerSuccess", TaskName=of("ship")) == diary["ship succeeded"]
    assert found("WorkerSuccess", TaskName=of("mail")) == diary["mail succeeded"]
    assert found("WorkerSuccess") == diary["ship succeeded"] + diary["mail succeeded"]
    assert cloudwatch.count(NAMESPACE, "WorkerEndToEndDuration") == found("WorkerSuccess")
    assert found("WorkerFailure", TaskName=of("charge")) == diary["charge failed"]
    assert found("WorkerFailure", ErrorType="KeyError") == found("WorkerFailure", ErrorType="ValueError") == 20
    assert found("WorkerFailure", ErrorType="WorkerLostError") == diary["crash failed"]
    assert found("WorkerFailure") == diary["charge failed"] + diary["crash failed"]
    assert (
        found("CeleryTaskRetried", ErrorType="ConnectionError") == found("CeleryTaskRetried") == diary["mail retried"]
    )
    assert found("CeleryTaskIgnored", TaskName=of("skip")) == diary["skip ignored"]
    assert found("CeleryTaskRevoked", ErrorType="Expired") == diary["ship revoked"]
    # The killed process could not deliver that its task had begun; every other run has its end.
    assert found("CeleryTaskStarted") == 40 + 40 + 30 + 10
    assert found("WorkerHeartbeat") >= 1


# ---- signal by signal ----


@pytest.fixture
def app() -> Iterator[Celery]:
    """An application whose tasks run where they are called, through the code that runs them in a worker."""
    made = Celery("test", broker="memory://", set_as_current=False)
    made.conf.update(task_always_eager=True, task_store_eager_result=False)
    yield made
    made.close()


@pytest.fixture
def metrics(make_client: Callable[..., CloudWatchMetrics]) -> CloudWatchMetrics:
    """A strict client that knows the metrics of tasks."""
    return make_client(strict=True, catalogue=celery_metrics.catalogue())


@pytest.fixture(autouse=True)
def _nobody_listens() -> Iterator[None]:
    """Signals are those of the process: no test leaves a listener behind."""
    yield
    if CeleryMetrics._listening is not None:
        CeleryMetrics._listening.disconnect()


def total(client: CloudWatchMetrics, sink: InMemorySink, name: str, **dimensions: str) -> float:
    """Sum of one series."""
    client.flush()
    return sum(value * count for value, count in sink.values(NAMESPACE, name, dimensions).items())


class Ticking:
    """A clock that moves half a second with each reading."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.5
        return self.now


def test_a_task_passes_through_unchanged(app: Celery, metrics: CloudWatchMetrics, sink: InMemorySink) -> None:
    """Results and exceptions are the task's; a run that succeeded is timed."""
    instrument_celery(metrics, clock=Ticking())

    @app.task
    def divide(by: int) -> float:
        return 1 / by

    assert divide.delay(2).get() == 0.5
    failed = divide.delay(0)
    assert isinstance(failed.result, ZeroDivisionError)
    assert total(metrics, sink, "CeleryTaskStarted") == 2
    assert total(metrics, sink, "WorkerSuccess") == 1
    assert total(metrics, sink, "WorkerFailure", ErrorType="ZeroDivisionError") == 1
    assert sink.values(NAMESPACE, "WorkerEndToEndDuration", {"TaskName": divide.name}) == {0.5: 1}


@pytest.mark.parametrize("exception", [Ignore(), Reject("no")])
def test_a_task_set_aside_is_neither_success_nor_failure(
    exception: Exception, app: Celery, metrics: CloudWatchMetrics, sink: InMemorySink
) -> None:
    """`Ignore` and `Reject` are counted as such, also by versions of Celery that send a failure as well."""
    instrument_celery(metrics)

    @app.task
    def give_up() -> None:
        raise exception

    give_up.delay()
    signals.task_failure.send(sender=give_up, task_id="1", exception=Reject("no"))
    assert total(metrics, sink, "CeleryTaskIgnored") == 1
    assert total(metrics, sink, "WorkerFailure") == total(metrics, sink, "WorkerSuccess") == 0


def test_a_second_call_replaces_the_first(app: Celery, metrics: CloudWatchMetrics, sink: InMemorySink) -> None:
    """Nothing is counted twice, and `disconnect` ends it; one that listens no more disconnects nobody else."""
    first = instrument_celery(metrics)
    second = instrument_celery(metrics)

    @app.task
    def add() -> int:
        return 1

    add.delay()
    first.disconnect()
    add.delay()
    second.disconnect()
    add.delay()
    assert total(metrics, sink, "CeleryTaskStarted") == 2


def test_in_flight_is_a_level(
    app: Celery, metrics: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """A task that runs over the full minute is seen there, and gone afterwards."""
    instrument_celery(metrics)

    @app.task
    def rest() -> None:
        runtime.advance(60)

    rest.delay()
    runtime.advance(60)
    assert total(metrics, sink, "CeleryTasksInFlight", TaskName=rest.name) == 1


def test_a_task_stopped_from_outside_leaves_nothing_in_flight(
    app: Celery, metrics: CloudWatchMetrics, sink: InMemorySink, runtime: ManualRuntime
) -> None:
    """`SystemExit` ends the process; how the run ended is then for the main process to say."""
    instrument_celery(metrics)

    @app.task
    def leave() -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        leave.delay()
    runtime.advance(60)
    assert total(metrics, sink, "CeleryTasksInFlight") == 0
    assert total(metrics, sink, "WorkerSuccess") == 0


@pytest.mark.parametrize(
    ("options", "why"), [({"terminated": True}, "Terminated"), ({"expired": True}, "Expired"), ({}, "Revoked")]
)
def test_revoked_tasks_are_counted_by_reason(
    options: dict[str, bool], why: str, app: Celery, metrics: CloudWatchMetrics, sink: InMemorySink
) -> None:
    """The main process says it."""
    instrument_celery(metrics)

    @app.task
    def task() -> None: ...

    signals.task_revoked.send(
        sender=task, request=None, signum=None, **{"terminated": False, "expired": False, **options}
    )
    assert total(metrics, sink, "CeleryTaskRevoked", ErrorType=why) == 1


def test_the_heart_beats_at_most_every_ten_seconds(metrics: CloudWatchMetrics, sink: InMemorySink) -> None:
    """Celery beats every two seconds, which is more than an alarm needs."""

    class Clock:
        now = 0.0

    instrument_celery(metrics, clock=lambda: Clock.now)
    for _ in range(15):
        signals.heartbeat_sent.send(sender=None)
        Clock.now += 2
    assert total(metrics, sink, "WorkerHeartbeat") == 3


def test_zeros_come_with_the_worker(metrics: CloudWatchMetrics, sink: InMemorySink) -> None:
    """From its start alarms have data, though no task came yet."""
    instrument_celery(metrics)
    signals.worker_ready.send(sender=None)
    metrics.flush()
    for name in ("WorkerSuccess", "WorkerFailure", "CeleryTaskRetried"):
        assert set(sink.values(NAMESPACE, name)) == {0.0}


def test_the_end_of_a_process_delivers(metrics: CloudWatchMetrics) -> None:
    """What a process recorded is delivered when Celery says that it ends; with a recorder that cannot, as told."""
    flushed: list[float] = []
    instrument_celery(metrics.scoped({"Stage": "beta"}), flush=flushed.append)
    signals.worker_process_shutdown.send(sender=None, pid=1, exitcode=0)
    assert flushed == [5.0]
    instrument_celery(metrics.scoped({"Stage": "beta"}))
    signals.worker_process_shutdown.send(sender=None, pid=1, exitcode=0)
    instrument_celery(metrics)
    for end in (signals.worker_shutdown, signals.worker_process_shutdown):
        metrics.increment_counter("Last")
        assert metrics.stats().pending > 0
        end.send(sender=None, pid=1, exitcode=0)
        assert metrics.stats().pending == 0
    assert metrics.stopped


ENDING = """
import os
from celery import signals
from retainwise_metrics import get_metrics_client
from retainwise_metrics.integrations.celery import instrument_celery
instrument_celery()
for number in range(7):
    get_metrics_client().increment_counter("Last")
signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)
os._exit(0)
"""


@pytest.mark.parametrize("spooling", [False, True])
def test_a_process_that_cannot_deliver_at_its_end_says_so_or_leaves_it_on_disk(
    worker: Worker, cloudwatch: FakeCloudWatch, tmp_path: Path, *, spooling: bool
) -> None:
    """Celery ends the processes of its pool at once after the signal; the endpoint hangs."""
    environment = {**worker.environment, "RETAINWISE_METRICS_SHUTDOWN_TIMEOUT_SECONDS": "2"}
    if spooling:
        environment["RETAINWISE_METRICS_SPOOL_DIR"] = str(tmp_path / "spool")
    cloudwatch.faults.hang(after_accept=False)
    ended = subprocess.run(
        [sys.executable, "-c", ENDING], env=environment, check=True, timeout=DEADLINE_SECONDS, capture_output=True
    )
    assert (b"metrics lost at shutdown: 7 measurements" in ended.stderr) is not spooling, ended.stderr
    cloudwatch.faults.release()
    subprocess.run(
        [sys.executable, "-c", ENDING], env=environment, check=True, timeout=DEADLINE_SECONDS, capture_output=True
    )
    assert cloudwatch.sum("RetainWise/MLPipeline", "Last") == (14 if spooling else 7)


def test_names_error_types_and_client_are_the_users(
    app: Celery, make_client: Callable[..., CloudWatchMetrics], sink: InMemorySink
) -> None:
    """Metrics are renamed or switched off; the process-wide client of the moment takes them."""

    def error_type(error: BaseException) -> str:
        return {"late": "Timeout"}[str(error)]

    names = CeleryMetricNames(failed="TaskFailed", started="", in_flight="")
    instrument_celery(namespace="Shop", names=names, error_type=error_type, dimensions={"Stage": "beta"})
    client = make_client(strict=True)
    previous = set_metrics_client(client)

    @app.task
    def fail(text: str) -> None:
        raise ValueError(text)

    fail.delay("late")
    fail.delay("unknown")
    set_metrics_client(previous)
    client.flush()
    for why in ("Timeout", "ValueError"):
        dimensions = {"Stage": "beta", "TaskName": fail.name, "ErrorType": why}
        assert sink.values("Shop", "TaskFailed", dimensions) == {1.0: 1}
    assert "CeleryTaskStarted" not in {datum.series.name for datum in sink.datums}


def test_a_broken_recorder_changes_nothing(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """Tasks end as they do, and the log says it once."""
    instrument_celery(object())  # type: ignore[arg-type]

    @app.task
    def divide(by: int) -> float:
        return 1 / by

    assert divide.delay(2).get() == 0.5
    assert isinstance(divide.delay(0).result, ZeroDivisionError)
    signals.heartbeat_sent.send(sender=None)
    assert [record.getMessage() for record in caplog.records if record.name == "retainwise_metrics"] == [
        "recording for Celery tasks failed with AttributeError: work goes on unmeasured; this is said once"
    ]


def test_a_task_that_began_before_is_left_alone(app: Celery, metrics: CloudWatchMetrics, sink: InMemorySink) -> None:
    """Listening from the middle of a task counts no end without a beginning."""

    @app.task
    def begin() -> None:
        instrument_celery(metrics)

    begin.delay()
    assert total(metrics, sink, "WorkerSuccess") == total(metrics, sink, "CeleryTasksInFlight") == 0


def test_instrumenting_starts_nothing(runtime: ManualRuntime, sink: InMemorySink) -> None:
    """No thread before the first signal: the main process forks its pool after this."""
    instrument_celery(CloudWatchMetrics(MetricsConfig(), sink=sink, runtime=runtime))
    assert runtime._workers == []
