"""
The run: start everything, upload, wait, stop everything, read CloudWatch back.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from examples.retainwise import alarms, aws, read_back, sample, tally, traffic
from examples.retainwise.checks import Ending, Evidence
from examples.retainwise.csv_checks import UnusableCSVError, read_customers
from examples.retainwise.processes import Child, Children
from examples.retainwise.settings import Settings
from examples.retainwise.storage import Predictions
from examples.retainwise.terraform import MODULE, UnavailableError
from retainwise_metrics import MetricNamespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rich.console import Console

    from examples.retainwise.csv_checks import Customer

BUCKET = "retainwise-uploads"
QUEUE = "retainwise-jobs"
DEAD_LETTERS = "retainwise-dead-letters"
MODEL_VERSION = "sample-1"
FLUSH_SECONDS = 5
DRAIN_SECONDS = 90.0
STRAY_MESSAGES = 1
RUNBOOKS = MODULE.parent / "docs" / "runbooks.md"


class DemoError(RuntimeError):
    """
    The demo cannot go on; the message says why and what to do.
    """


class Options(NamedTuple):
    """
    What the user asked for.

    Attributes:
        csv: A telco-style churn file; None for the built-in sample.
        minutes: How long to upload.
        rate: Uploads per second.
        workers: How many workers.
        keep: Leave everything running after the uploads, until Ctrl-C.
        alarms: Apply the module in `infra/`, check it, and drill an alarm.
    """

    csv: Path | None
    minutes: float
    rate: float
    workers: int
    keep: bool
    alarms: bool


class Box(NamedTuple):
    """
    RetainWise, running.
    """

    aws: Child
    api: Child
    workers: list[Child]
    children: Children
    url: str
    queue_url: str
    sqs: Any
    predictions: Predictions


def run(options: Options, directory: Path, console: Console) -> Evidence:
    """
    Run the demo.

    Args:
        options: What the user asked for.
        directory: An existing, empty directory for everything the run writes.
        console: Where progress is shown.

    Returns:
        What is known of the run; nothing runs any more.

    Raises:
        DemoError: The file is unusable, or the run came to no end.
        ChildDiedError: A process ended by itself.
    """
    if options.alarms and not shutil.which("terraform"):
        msg = "--alarms needs Terraform, and there is none on the PATH. Install Terraform 1.7 or newer, or leave --alarms out."
        raise DemoError(msg)
    began = datetime.now(timezone.utc)
    data, customers = _customers(options.csv)
    endpoint = f"http://{aws.HOST}:{aws.free_port()}"
    environ = aws.environment(endpoint, os.environ)
    # This process too: from here on, no client of it can reach anything else.
    os.environ.clear()
    os.environ.update(environ)
    with Children(environ | _application_environ(), directory) as children:
        box = _start(options, directory, endpoint, children, console)
        sent = _upload(options, traffic.Source(data), box, console)
        _agreement(customers, box.predictions, console)
        if options.keep:
            _wait_for_ctrl_c(box, directory, console)
        applications = [_stop(child, directory, console) for child in (box.api, *box.workers)]
        found = _read_back(began, console)
        watched = _watch(directory, endpoint, console) if options.alarms else None
        others = [_stop(box.aws, directory, console)]
    predictions = box.predictions.count()
    return Evidence(sent, STRAY_MESSAGES, options.keep, applications, others, found, predictions, watched)


def _customers(path: Path | None) -> tuple[bytes, list[Customer]]:
    data = path.read_bytes() if path else sample.sample_csv()
    try:
        return data, read_customers(data)
    except UnusableCSVError as error:
        msg = f"{path} is not a telco-style churn file. {error}"
        raise DemoError(msg) from error


def _application_environ() -> dict[str, str]:
    return {
        "ENVIRONMENT": "demo",
        "FORCE_CLOUDWATCH": "true",
        "RETAINWISE_METRICS_FLUSH_INTERVAL_SECONDS": str(FLUSH_SECONDS),
        "RETAINWISE_METRICS_SELF_METRICS": "true",
        # One core per worker: scoring a small file on all of them takes longer.
        "OMP_NUM_THREADS": "1",
    }


def _start(options: Options, directory: Path, endpoint: str, children: Children, console: Console) -> Box:
    emulator = children.start("embedded aws", "examples.retainwise.aws", endpoint.rpartition(":")[2])
    with _step(console, "embedded AWS", f"{endpoint}, pid {emulator.pid}"):
        aws.wait_until_up(f"{endpoint}/moto-api/", emulator.check)
        sqs = aws.client("sqs")
        queue_url = _create_resources(sqs)
        predictions = Predictions(directory / "predictions.sqlite")
        predictions.create()
    port = aws.free_port()

    def settings(name: str) -> dict[str, str]:
        return Settings(
            bucket=BUCKET,
            queue_url=queue_url,
            database=directory / "predictions.sqlite",
            model=directory / "model.joblib",
            tally=directory / f"{name.replace(' ', '-')}.json",
            name=name,
            port=port,
        ).as_environ()

    api = children.start("upload api", "examples.retainwise.api", environ=settings("upload api"))
    with _step(console, "model", f"trained on {sample.CUSTOMERS:,} sample customers"):
        _train(directory / "model.joblib")
    names = [f"worker {number}" for number in range(1, options.workers + 1)]
    workers = [children.start(name, "examples.retainwise.worker", environ=settings(name)) for name in names]
    url = f"http://{aws.HOST}:{port}"
    with _step(console, "upload API", f"{url}, pid {api.pid}"):
        aws.wait_until_up(f"{url}/health", api.check)
    pids = ", ".join(str(worker.pid) for worker in workers)
    with _step(console, f"{len(workers)} workers", f"pid {pids}"):
        children.check()
    return Box(emulator, api, workers, children, url, queue_url, sqs, predictions)


def _create_resources(sqs: Any) -> str:
    aws.client("s3").create_bucket(Bucket=BUCKET)
    dead = sqs.create_queue(QueueName=DEAD_LETTERS)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 3})
    url: str = sqs.create_queue(QueueName=QUEUE, Attributes={"VisibilityTimeout": "30", "RedrivePolicy": redrive})[
        "QueueUrl"
    ]
    return url


def _train(path: Path) -> None:
    from examples.retainwise import model

    model.save(model.train(read_customers(sample.sample_csv()), MODEL_VERSION), path)


def _upload(options: Options, source: traffic.Source, box: Box, console: Console) -> list[traffic.Sent]:
    uploads = list(traffic.plan(source, round(options.minutes * 60 * options.rate), random.Random(sample.SEED)))
    files = sum(upload.customers > 0 for upload in uploads)
    with _progress(console) as progress:
        uploading = progress.add_task("uploading files", total=len(uploads))
        scoring = progress.add_task("scoring customers", total=sum(upload.customers for upload in uploads))

        def refresh() -> None:
            box.children.check()
            progress.update(scoring, completed=box.predictions.count())

        def answered(_sent: traffic.Sent) -> None:
            progress.advance(uploading)
            refresh()

        box.sqs.send_message(QueueUrl=box.queue_url, MessageBody="not a job")
        try:
            sent = traffic.run(uploads, f"{box.url}/upload", options.rate, answered)
        except httpx.HTTPError as error:
            box.children.check()
            msg = f"The upload API stopped answering: {error}."
            raise DemoError(msg) from error
        _drain(box, refresh)
    console.print(f"  {len(sent)} files uploaded, {files} of them good, {box.predictions.count():,} customers scored")
    return sent


def _drain(box: Box, refresh: Callable[[], None]) -> None:
    give_up = time.monotonic() + DRAIN_SECONDS
    while _messages_left(box):
        if time.monotonic() > give_up:
            msg = f"The queue was not empty {DRAIN_SECONDS:.0f} s after the last upload; see the workers' logs."
            raise DemoError(msg)
        refresh()
        time.sleep(0.1)
    refresh()


def _messages_left(box: Box) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    answer = box.sqs.get_queue_attributes(QueueUrl=box.queue_url, AttributeNames=names)
    return sum(int(answer["Attributes"][name]) for name in names)


def _agreement(customers: list[Customer], predictions: Predictions, console: Console) -> None:
    scored = predictions.latest()
    labelled = [customer for customer in customers if customer.churned is not None and customer.customer_id in scored]
    if labelled:
        right = sum((scored[customer.customer_id] > 0.5) == customer.churned for customer in labelled)
        share = right / len(labelled)
        console.print(f"  the predictions agree with the file's own Churn column for {share:.0%} of {len(labelled):,}")


LOOK_AROUND = """
[bold]Everything keeps running.[/bold] Look around; Ctrl-C stops it and compares.
  Upload a file:
    curl -F file=@FILE.csv -F user_id=me {url}/upload
  Read the API's own pages: {url}/docs
  Ask CloudWatch:
    AWS_ACCESS_KEY_ID=x AWS_SECRET_ACCESS_KEY=x AWS_REGION={region} \\
    aws --endpoint-url {endpoint} cloudwatch list-metrics
  See logs and database: {directory}
"""


def _wait_for_ctrl_c(box: Box, directory: Path, console: Console) -> None:
    text = LOOK_AROUND.format(
        url=box.url, region=aws.REGION, endpoint=os.environ["AWS_ENDPOINT_URL"], directory=directory
    )
    try:
        console.print(text, soft_wrap=True, highlight=False)
        while True:
            box.children.check()
            time.sleep(0.2)
    except KeyboardInterrupt:
        console.print()
    _drain(box, box.children.check)


def _stop(child: Child, directory: Path, console: Console) -> Ending:
    with _step(console, f"stop {child.name}", f"pid {child.pid}"):
        code = child.stop()
    path = directory / f"{child.name.replace(' ', '-')}.json"
    return Ending(child.name, child.pid, code, tally.read(path) if path.exists() else None)


def _read_back(began: datetime, console: Console) -> dict[tally.SeriesKey, tally.Totals]:
    with _step(console, "read CloudWatch back", "ListMetrics, GetMetricStatistics"):
        return read_back.read(aws.client("cloudwatch"), [str(namespace) for namespace in MetricNamespace], began)


def _watch(directory: Path, endpoint: str, console: Console) -> alarms.Watched:
    """What operators do once metrics arrive; all applications have ended, so that every series there will be is there."""
    try:
        with _step(console, "alarms", "terraform apply of infra/"):
            applied = alarms.make(
                directory, endpoint=endpoint, region=aws.REGION, queue=QUEUE, dead_letters=DEAD_LETTERS
            )
    except (alarms.AlarmsError, UnavailableError) as error:
        msg = f"--alarms needs Terraform. {error}" if isinstance(error, UnavailableError) else str(error)
        raise DemoError(msg) from error
    run = partial(alarms.command, console, os.environ, directory)
    checked = run("check", "--runbooks", str(RUNBOOKS))
    drilled = run("drill", "--alarm", alarms.DRILLED, "--end-to-end", "--report", "drill.json")
    console.print()
    return alarms.Watched(applied, checked, drilled)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("[cyan]…[/cyan] {task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
    )


@contextmanager
def _step(console: Console, name: str, detail: str) -> Iterator[None]:
    started = time.monotonic()
    with console.status(name):
        yield
    console.print(
        f"[green]✓[/green] {name:<21}[dim]{time.monotonic() - started:5.1f} s[/dim]  {detail}", highlight=False
    )
