"""
A Celery application as a user would write it; what its tasks did is also written down by themselves, in a file.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from billiard.exceptions import WorkerLostError
from celery import Celery, signals
from celery.exceptions import Ignore

from retainwise_metrics import CloudWatchMetrics, MetricsConfig, set_metrics_client
from retainwise_metrics.catalogue import CATALOGUE
from retainwise_metrics.integrations import celery as celery_metrics

HOME = Path(os.environ["CELERY_TEST_HOME"])
DIARY = HOME / "diary"

app = Celery("orders", broker="filesystem://")
app.conf.update(
    worker_proc_alive_timeout=60.0,  # on a busy machine a process takes longer than four seconds to begin
    broker_transport_options={
        "data_folder_in": str(HOME / "messages"),
        "data_folder_out": str(HOME / "messages"),
        "control_folder": str(HOME / "control"),
        "polling_interval": 0.02,
    },
    task_ignore_result=True,
    worker_prefetch_multiplier=8,
    worker_lost_wait=0.2,
)

if "AWS_ENDPOINT_URL" in os.environ:
    declared = (*CATALOGUE, *celery_metrics.catalogue())
    set_metrics_client(CloudWatchMetrics(MetricsConfig.from_env(catalogue=declared)))
celery_metrics.instrument_celery()


def note(event: str) -> None:
    """Write one event down; appends of a few bytes do not mix."""
    descriptor = os.open(DIARY, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{event}\n".encode())
    os.close(descriptor)


@app.task
def ship(number: int) -> int:
    """Succeeds."""
    note("ship succeeded")
    return number


@app.task
def charge(number: int) -> None:
    """Fails, in one of two ways."""
    note("charge failed")
    raise (KeyError if number % 2 else ValueError)(number)


@app.task(bind=True, max_retries=2)
def mail(self: object, number: int) -> None:
    """Succeeds at its third attempt."""
    retries = self.request.retries  # type: ignore[attr-defined]
    if retries < 2:
        note("mail retried")
        raise self.retry(countdown=0, exc=ConnectionError("later"))  # type: ignore[attr-defined]
    note("mail succeeded")


@app.task
def skip(number: int) -> None:
    """Says that its outcome does not matter."""
    note("skip ignored")
    raise Ignore


@app.task
def crash(number: int) -> None:
    """Takes its process with it."""
    os.kill(os.getpid(), signal.SIGKILL)


@signals.task_failure.connect
def lost(exception: object = None, **_signal: object) -> None:
    """Written down by the main process, for a task that cannot do so any more."""
    if isinstance(exception, WorkerLostError):
        note("crash failed")


@signals.task_revoked.connect
def expired(**_signal: object) -> None:
    """Written down by the main process: an expired task is never begun."""
    note("ship revoked")
