"""
The upload API: takes a CSV file, stores it in S3, and hands a job to the queue.

Every upload is counted exactly once: as a success, as rejected (the customer's fault), or as a failure (ours).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import uuid
from contextlib import asynccontextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import uvicorn
from botocore.exceptions import BotoCoreError, ClientError
from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from examples.retainwise import aws
from examples.retainwise.csv_checks import UnusableCSVError, check_head
from examples.retainwise.settings import Settings
from examples.retainwise.tally import TalliedMetrics
from retainwise_metrics import MetricNamespace, MetricUnit, get_metrics_client
from retainwise_metrics.integrations.asgi import MetricsMiddleware

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

API = MetricNamespace.API
ENDPOINT = {"Endpoint": "/upload"}

log = logging.getLogger("retainwise.api")


class UnavailableError(Exception):
    """
    S3 or SQS did not do its part, after boto3's own retries.
    """

    def __init__(self, *, error_type: str) -> None:
        super().__init__(error_type)
        self.error_type = error_type


class Uploads:
    """
    What happens to an uploaded file.
    """

    def __init__(self, settings: Settings, metrics: TalliedMetrics) -> None:
        self._bucket = settings.bucket
        self._queue_url = settings.queue_url
        self._metrics = metrics
        self._s3 = aws.client("s3")
        self._sqs = aws.client("sqs")

    def accept(self, data: bytes, user_id: str) -> JSONResponse:
        """
        Take one file in, count it, and answer.

        Args:
            data: The file.
            user_id: Who sent it.
        """
        started = perf_counter()
        self._metrics.put_metric("UploadFileSizeMB", len(data) / 1e6, MetricUnit.MEGABYTES, namespace=API)
        # Outside the catalogue: published under exactly this dimension, its value hashed by the library.
        self._metrics.increment_counter("UploadsByUser", namespace=API, dimensions={"UserId": user_id})
        try:
            upload_id = self._store_and_queue(data)
        except UnusableCSVError as refused:
            return self.reject(refused.error_type, str(refused))
        except UnavailableError as failure:
            return self._fail(failure.error_type, 503)
        except Exception as error:
            log.exception("unexpected error")
            self._count("UploadUnexpectedError", type(error).__name__)
            return self._fail("Unexpected", 500)
        self._metrics.increment_counter("UploadSuccess", namespace=API, dimensions=ENDPOINT)
        self._metrics.record_time(
            "UploadEndToEndDuration", perf_counter() - started, namespace=API, dimensions=ENDPOINT
        )
        return JSONResponse({"upload_id": upload_id}, status_code=202)

    def reject(self, error_type: str, message: str) -> JSONResponse:
        """
        Count and answer an upload that is the customer's to mend.
        """
        self._count("UploadRejected", error_type)
        return JSONResponse({"error": error_type, "message": message}, status_code=400)

    def _fail(self, error_type: str, status: int) -> JSONResponse:
        self._count("UploadFailure", error_type)
        return JSONResponse({"error": error_type}, status_code=status)

    def _store_and_queue(self, data: bytes) -> str:
        check_head(data)
        upload_id = uuid.uuid4().hex
        self._store(upload_id, data)
        self._queue(upload_id)
        return upload_id

    def _store(self, upload_id: str, data: bytes) -> None:
        started = perf_counter()
        try:
            self._s3.put_object(Bucket=self._bucket, Key=upload_id, Body=data)
        except (BotoCoreError, ClientError) as error:
            self._count("S3UploadFailure", type(error).__name__)
            raise UnavailableError(error_type="S3") from error
        self._metrics.record_time("S3UploadDuration", perf_counter() - started, namespace=API)

    def _queue(self, upload_id: str) -> None:
        try:
            self._sqs.send_message(QueueUrl=self._queue_url, MessageBody=json.dumps({"upload_id": upload_id}))
        except (BotoCoreError, ClientError) as error:
            self._count("SQSMessageFailure", type(error).__name__)
            raise UnavailableError(error_type="SQS") from error
        self._metrics.increment_counter("SQSMessageSent", namespace=API)

    def _count(self, name: str, error_type: str) -> None:
        self._metrics.increment_counter(name, namespace=API, dimensions={"ErrorType": error_type})


def create_app(settings: Settings, metrics: TalliedMetrics) -> FastAPI:
    """
    Build the API.

    Args:
        settings: Where everything is.
        metrics: Records what happens; stopped, and its tally written, when the application shuts down.
    """
    uploads = Uploads(settings, metrics)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        metrics.publish_zeros(API)
        yield
        metrics.stop()
        metrics.write(settings.tally, settings.name)

    app = FastAPI(title="RetainWise", lifespan=lifespan)
    app.add_middleware(MetricsMiddleware, metrics=metrics)

    @app.post("/upload")
    def upload(file: Annotated[UploadFile, File()], user_id: Annotated[str, Form()]) -> Any:
        return uploads.accept(file.file.read(), user_id)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.exception_handler(RequestValidationError)
    async def incomplete(_request: Request, _error: RequestValidationError) -> JSONResponse:
        return uploads.reject("Incomplete", "Send the file as `file` and the user as `user_id`, multipart.")

    return app


def main() -> None:
    """
    Serve until SIGTERM.
    """
    # uvicorn ends by raising the signal it was stopped with once more: without a handler the process would die of it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = Settings.from_environ(os.environ)
    app = create_app(settings, TalliedMetrics(get_metrics_client()))
    uvicorn.run(app, host=aws.HOST, port=settings.port, log_level="info", timeout_graceful_shutdown=10)


if __name__ == "__main__":
    main()
