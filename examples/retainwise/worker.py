"""
The worker: takes jobs from the queue, scores the customers of each file, and saves the predictions.

Every job is counted exactly once, as a success or a failure. A job that no retry can mend is taken off the queue; any
other failure leaves the message where it is, and SQS delivers it again, or moves it to the dead-letter queue.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn

from botocore.exceptions import BotoCoreError, ClientError

from examples.retainwise import aws, model
from examples.retainwise.csv_checks import UnusableCSVError, read_customers
from examples.retainwise.settings import Settings
from examples.retainwise.storage import Predictions
from examples.retainwise.tally import TalliedMetrics
from retainwise_metrics import MetricNamespace, MetricUnit, get_metrics_client
from retainwise_metrics.integrations.sqs import REQUESTED_ATTRIBUTES, SqsWorkerMetrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from examples.retainwise.csv_checks import Customer

WORKER = MetricNamespace.WORKER
ML = MetricNamespace.ML_PIPELINE
DATABASE = MetricNamespace.DATABASE

POLL_SECONDS = 1
"""How long a receive waits for a message, and so how long a stop waits for an idle worker."""

log = logging.getLogger("retainwise.worker")


class JobFailedError(Exception):
    """
    A job ended without saved predictions.

    Attributes:
        error_type: A short class of errors.
        final: Whether trying again is pointless.
    """

    def __init__(self, *, error_type: str, final: bool) -> None:
        super().__init__(error_type)
        self.error_type = error_type
        self.final = final


def error_type_of(error: BaseException) -> str:
    """
    The type a job's failure is counted under.
    """
    return error.error_type if isinstance(error, JobFailedError) else "Unexpected"


class Worker:
    """
    One worker: a loop around `handle`.
    """

    def __init__(self, settings: Settings, metrics: TalliedMetrics, trained: model.Model) -> None:
        self._settings = settings
        self._metrics = metrics
        self._model = trained
        self._s3 = aws.client("s3")
        self._sqs = aws.client("sqs")
        self._predictions = Predictions(settings.database)
        self._version = {"ModelVersion": trained.version}
        self._confidence = metrics.histogram(
            "PredictionConfidence", MetricUnit.NONE, namespace=ML, dimensions=self._version
        )
        self._jobs = SqsWorkerMetrics(
            metrics,
            queue_name=settings.queue_url.rpartition("/")[2],
            error_type=error_type_of,
            expected=(JobFailedError,),
        )
        self._stopping = False

    def stop(self, *_signal: object) -> None:
        """
        Leave the loop after the job in hand; safe in a signal handler.
        """
        self._stopping = True

    def run(self) -> None:
        """
        Work until `stop`.
        """
        while not self._stopping:
            for message in self._jobs.received(self._receive()):
                self.handle(message)

    def handle(self, message: dict[str, Any]) -> None:
        """
        Do one job and count it.

        Args:
            message: As SQS delivers it.
        """
        try:
            with self._jobs.message(message):
                self._work(message["Body"])
        except JobFailedError as failure:
            done = failure.final
        except Exception:
            log.exception("unexpected error")
            done = False
        else:
            done = True
        if done:
            self._sqs.delete_message(QueueUrl=self._settings.queue_url, ReceiptHandle=message["ReceiptHandle"])

    def _receive(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._sqs.receive_message(
            QueueUrl=self._settings.queue_url,
            MaxNumberOfMessages=1,
            WaitTimeSeconds=POLL_SECONDS,
            MessageSystemAttributeNames=REQUESTED_ATTRIBUTES,
        )
        return answer

    def _work(self, body: str) -> None:
        upload_id = self._parse(body)
        customers = self._read(self._download(upload_id))
        self._save(upload_id, customers, self._predict(customers))

    def _parse(self, body: str) -> str:
        try:
            return str(json.loads(body)["upload_id"])
        except (ValueError, KeyError, TypeError) as error:
            self._metrics.increment_counter("MessageParseError", namespace=WORKER)
            raise JobFailedError(error_type="MessageParse", final=True) from error

    def _download(self, upload_id: str) -> bytes:
        started = perf_counter()
        try:
            data: bytes = self._s3.get_object(Bucket=self._settings.bucket, Key=upload_id)["Body"].read()
        except (BotoCoreError, ClientError) as error:
            self._error("S3DownloadFailure", type(error).__name__, WORKER)
            raise JobFailedError(error_type="S3Download", final=False) from error
        self._metrics.record_time("S3DownloadDuration", perf_counter() - started, namespace=WORKER)
        return data

    def _read(self, data: bytes) -> list[Customer]:
        try:
            customers = read_customers(data)
        except UnusableCSVError as unusable:
            self._error("CSVParseError", unusable.error_type, ML)
            raise JobFailedError(error_type="CSVParse", final=True) from unusable
        self._metrics.put_metric("CSVRowCount", len(customers), MetricUnit.COUNT, namespace=ML)
        return customers

    def _predict(self, customers: Sequence[Customer]) -> list[float]:
        started = perf_counter()
        try:
            probabilities = self._model.churn_probabilities(customers)
        except ValueError as error:
            self._error("MLPredictionError", type(error).__name__, ML)
            raise JobFailedError(error_type="Prediction", final=True) from error
        seconds = perf_counter() - started
        self._metrics.record_time("MLPredictionDuration", seconds, namespace=ML, dimensions=self._version)
        self._metrics.put_metric(
            "PredictionThroughput", len(customers) / seconds, MetricUnit.COUNT_PER_SECOND, namespace=ML
        )
        for probability in probabilities:
            self._confidence.observe(round(max(probability, 1 - probability), 2))
        return probabilities

    def _save(self, upload_id: str, customers: Sequence[Customer], probabilities: Sequence[float]) -> None:
        started = perf_counter()
        ids = (customer.customer_id for customer in customers)
        try:
            self._predictions.save(upload_id, zip(ids, probabilities, strict=True))
        except sqlite3.Error as error:
            self._error("DatabaseWriteError", type(error).__name__, DATABASE)
            raise JobFailedError(error_type="DatabaseWrite", final=False) from error
        self._metrics.record_time("DatabaseWriteDuration", perf_counter() - started, namespace=DATABASE)
        self._metrics.increment_counter("PredictionsSaved", namespace=DATABASE, value=len(probabilities))

    def _error(self, name: str, error_type: str, namespace: str) -> None:
        self._metrics.increment_counter(name, namespace=namespace, dimensions={"ErrorType": error_type})


def load_model(settings: Settings, metrics: TalliedMetrics) -> model.Model:
    """
    Load the model, and count how that went.

    Raises:
        Exception: Whatever unpickling raised; without a model there is no worker.
    """
    started = perf_counter()
    try:
        loaded = model.load(settings.model)
    except Exception as error:
        dimensions = {"ErrorType": type(error).__name__}
        metrics.increment_counter("ModelLoadFailure", namespace=ML, dimensions=dimensions)
        raise
    dimensions = {"ModelVersion": loaded.version}
    metrics.record_time("ModelLoadDuration", perf_counter() - started, namespace=ML, dimensions=dimensions)
    return loaded


def main() -> NoReturn:
    """
    Work until SIGTERM.
    """
    # Until the loop runs there is nothing to finish: leaving at once is a graceful stop, through the `finally` below.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = Settings.from_environ(os.environ)
    metrics = TalliedMetrics(get_metrics_client())
    try:
        metrics.publish_zeros(WORKER, ML, DATABASE)
        worker = Worker(settings, metrics, load_model(settings, metrics))
        signal.signal(signal.SIGTERM, worker.stop)
        worker.run()
    finally:
        metrics.stop()
        metrics.write(settings.tally, settings.name)
    sys.exit(0)


if __name__ == "__main__":
    main()
