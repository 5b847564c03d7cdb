"""
The metrics of RetainWise, declared once.

The docs, the Terraform locals and the drift check are made from this table, and the client publishes by it. Its rules:

1. CloudWatch never adds up across dimensions: an alarm reads only a series published with exactly its dimensions. So
   each metric is published as a roll-up without dimensions, `()`, which is the only set alarms read, and at most in one
   further set of few values, for dashboards.
2. A record is published once per set whose keys it has. Dimensions outside every set are not published: they may be
   given freely, and cost nothing.
3. Every upload counts once, as `UploadSuccess`, `UploadRejected` or `UploadFailure`; every job once, as `WorkerSuccess`
   or `WorkerFailure`. So rates are true. `UploadUnexpectedError` and `WorkerUnexpectedError` are counted in addition.
4. What alarms count is also published as 0 while nothing happens (`emits_zero`): an alarm without data says nothing.

A client works for metrics outside this table too: those are published under exactly the dimensions given.
"""

from typing import Final, NamedTuple

from retainwise_metrics.namespaces import MetricNamespace
from retainwise_metrics.units import MetricUnit

DimensionSets = tuple[tuple[str, ...], ...]

ROLLUP: Final[DimensionSets] = ((),)
"""The roll-up alone."""

BY_ENDPOINT: Final[DimensionSets] = ((), ("Endpoint",))
"""`Endpoint` is a route template such as `/upload`, never a path with an identifier in it."""

BY_ERROR_TYPE: Final[DimensionSets] = ((), ("ErrorType",))
"""`ErrorType` is a class of errors, such as `MissingColumns` or `Throttling`, never a message."""

BY_MODEL: Final[DimensionSets] = ((), ("ModelVersion",))
"""`ModelVersion` is the version of a released model: two values while a new one is rolled out."""


class MetricSpec(NamedTuple):
    """
    One metric: where it is published, in which unit and sets, and what one value means.

    Attributes:
        name: Metric name, unique in its namespace.
        namespace: CloudWatch namespace.
        unit: The only unit it is published in; CloudWatch keeps units apart, and an alarm sees one of them.
        dimension_sets: Keys of each published set; `()` is the roll-up.
        meaning: What one recorded value says.
        emits_zero: A counter that is also published as 0 while nothing happens, so that alarms always have data.
    """

    name: str
    namespace: str
    unit: MetricUnit
    dimension_sets: DimensionSets
    meaning: str
    emits_zero: bool = False


def _count(namespace: str, name: str, sets: DimensionSets, meaning: str, *, emits_zero: bool = True) -> MetricSpec:
    """A counter; unless told otherwise it is published as 0 while nothing happens."""
    return MetricSpec(name, namespace, MetricUnit.COUNT, sets, meaning, emits_zero)


def _seconds(namespace: str, name: str, sets: DimensionSets, meaning: str) -> MetricSpec:
    """A duration in seconds."""
    return MetricSpec(name, namespace, MetricUnit.SECONDS, sets, meaning)


_API: Final = MetricNamespace.API
_WORKER: Final = MetricNamespace.WORKER
_ML: Final = MetricNamespace.ML_PIPELINE
_DATABASE: Final = MetricNamespace.DATABASE


def http_metrics(namespace: str = _API) -> tuple[MetricSpec, ...]:
    """
    What the middlewares for web frameworks record, declared for a catalogue; in `MetricNamespace.API` it is in `CATALOGUE` already.

    For another namespace: `MetricsConfig(catalogue=(*CATALOGUE, *http_metrics("Shop")))`.

    Args:
        namespace: The namespace that the middleware records in.
    """
    bytes_ = MetricUnit.BYTES
    by_status: DimensionSets = ((), ("Endpoint", "Method", "Status"))
    by_method: DimensionSets = ((), ("Endpoint", "Method"))
    return (
        MetricSpec("HttpRequests", namespace, MetricUnit.COUNT, by_status, "A request that ended, however it ended."),
        _seconds(
            namespace, "HttpRequestDuration", by_method, "From a request's first line to the end of all work for it."
        ),
        _count(
            namespace,
            "HttpErrors",
            BY_ERROR_TYPE,
            "A request that failed on our side: an unhandled exception or HTTP 5xx.",
        ),
        MetricSpec(
            "HttpRequestsInFlight",
            namespace,
            MetricUnit.COUNT,
            ROLLUP,
            "Requests under way in one process, seen by each that arrives.",
        ),
        MetricSpec("HttpRequestSize", namespace, bytes_, ROLLUP, "Body of one request that has one."),
        MetricSpec("HttpResponseSize", namespace, bytes_, ROLLUP, "Body of one response that has one."),
    )


SELF_METRICS: Final[tuple[MetricSpec, ...]] = (
    _count(
        MetricNamespace.METRICS,
        "MetricsDropped",
        ((), ("Reason",)),
        "Measurements the metrics client dropped in a minute, by reason (`DropReason`).",
    ),
    _seconds(MetricNamespace.METRICS, "PublishLatency", ROLLUP, "One call that delivers, successful or not."),
    _count(
        MetricNamespace.METRICS,
        "CircuitOpen",
        ROLLUP,
        "Once a minute and process: 1 when the circuit breaker lets no call through, 0 otherwise.",
        emits_zero=False,
    ),
    _seconds(
        MetricNamespace.METRICS,
        "BacklogAge",
        ROLLUP,
        "How long the oldest value that waits has been waiting, per process, once a minute; 0 when none does.",
    ),
)
"""What a client publishes about itself with `self_metrics=True`."""

CATALOGUE: Final[tuple[MetricSpec, ...]] = (
    # The upload API: one of the first three counts every upload.
    _count(_API, "UploadSuccess", BY_ENDPOINT, "An upload that was stored and queued."),
    _count(_API, "UploadRejected", BY_ERROR_TYPE, "An upload refused for what the customer sent (HTTP 4xx)."),
    _count(_API, "UploadFailure", BY_ERROR_TYPE, "An upload that failed on our side (HTTP 5xx)."),
    _count(
        _API,
        "UploadUnexpectedError",
        BY_ERROR_TYPE,
        "An exception no code path expected while uploading: a bug. Counted in addition to `UploadFailure`.",
    ),
    MetricSpec(
        "UploadFileSizeMB",
        _API,
        MetricUnit.MEGABYTES,
        ROLLUP,
        "Size of one uploaded file in 10^6 bytes, refused ones too.",
    ),
    _seconds(_API, "UploadEndToEndDuration", BY_ENDPOINT, "From request to answer, for an upload that succeeded."),
    _seconds(
        _API, "S3UploadDuration", ROLLUP, "One stored file. Its sample count is the successes of the S3 failure rate."
    ),
    _count(_API, "S3UploadFailure", BY_ERROR_TYPE, "A file S3 did not take, after all retries."),
    _count(_API, "SQSMessageSent", ROLLUP, "A job handed to the queue."),
    _count(_API, "SQSMessageFailure", BY_ERROR_TYPE, "A job the queue did not take, after all retries."),
    *http_metrics(),
    # The worker: `WorkerSuccess` or `WorkerFailure` counts every job.
    _count(_WORKER, "WorkerSuccess", ROLLUP, "A job whose predictions are saved."),
    _count(_WORKER, "WorkerFailure", BY_ERROR_TYPE, "A job that ended without saved predictions."),
    _count(
        _WORKER,
        "WorkerUnexpectedError",
        BY_ERROR_TYPE,
        "An exception no code path expected while working: a bug. Counted in addition to `WorkerFailure`.",
    ),
    _seconds(
        _WORKER,
        "WorkerEndToEndDuration",
        ROLLUP,
        "From message to saved predictions, for a job that succeeded.",
    ),
    _count(
        _WORKER,
        "WorkerHeartbeat",
        ROLLUP,
        "The worker's main loop is turning. Never published as 0: its absence is the alarm.",
        emits_zero=False,
    ),
    _count(_WORKER, "MessageParseError", ROLLUP, "A message that is not a job."),
    _count(_WORKER, "SQSMessageReceived", ROLLUP, "Work on a message began."),
    _count(
        _WORKER,
        "SQSPoisonMessages",
        ROLLUP,
        "A message that failed on its last receive before the dead-letter queue.",
    ),
    _count(_WORKER, "SQSPartialFailures", ROLLUP, "Messages of a batch that were given back."),
    _seconds(_WORKER, "SQSMessageAge", ROLLUP, "From a message's sending to the beginning of work on it."),
    _count(_WORKER, "SQSReceiveCount", ROLLUP, "How often a message has been received.", emits_zero=False),
    _count(_WORKER, "SQSBatchSize", ROLLUP, "Messages of one receive that brought some.", emits_zero=False),
    _count(_WORKER, "SQSEmptyReceives", ROLLUP, "A receive that brought no message.", emits_zero=False),
    _count(
        _WORKER,
        "SQSMessagesInFlight",
        ROLLUP,
        "Messages being worked on, per process, once a minute.",
        emits_zero=False,
    ),
    _seconds(_WORKER, "S3DownloadDuration", ROLLUP, "One fetched file."),
    _count(_WORKER, "S3DownloadFailure", BY_ERROR_TYPE, "A file that could not be fetched, after all retries."),
    # Data and model.
    MetricSpec("CSVRowCount", _ML, MetricUnit.COUNT, ROLLUP, "Customers in one file that could be read."),
    _count(_ML, "CSVParseError", BY_ERROR_TYPE, "A stored file that could not be read."),
    _seconds(_ML, "ModelLoadDuration", BY_MODEL, "One loaded model."),
    _count(_ML, "ModelLoadFailure", BY_ERROR_TYPE, "A model that could not be loaded: no predictions."),
    _seconds(_ML, "MLPredictionDuration", BY_MODEL, "Scoring all customers of one file."),
    MetricSpec(
        "PredictionThroughput", _ML, MetricUnit.COUNT_PER_SECOND, ROLLUP, "Customers scored per second, once per file."
    ),
    _count(_ML, "MLPredictionError", BY_ERROR_TYPE, "A file the model could not score."),
    MetricSpec(
        "PredictionConfidence",
        _ML,
        MetricUnit.NONE,
        BY_MODEL,
        "How sure the model is of one customer, 0.5 to 1, to two decimals so that equal values fold together.",
    ),
    *SELF_METRICS,
    # The database of results.
    _count(_DATABASE, "PredictionsSaved", ROLLUP, "Predictions written, counted after the commit."),
    _count(_DATABASE, "DatabaseWriteError", BY_ERROR_TYPE, "Predictions that could not be written, after all retries."),
    _seconds(_DATABASE, "DatabaseWriteDuration", ROLLUP, "One commit of the predictions of a file."),
)
"""Every metric RetainWise publishes."""

_BY_NAME: Final = {(str(spec.namespace), spec.name): spec for spec in CATALOGUE}


def find(namespace: str, name: str) -> MetricSpec | None:
    """
    Look a metric up, in constant time.

    Args:
        namespace: CloudWatch namespace, as `MetricNamespace` or plain text.
        name: Metric name; CloudWatch tells upper from lower case, and so does this.

    Returns:
        The metric's declaration; None for a metric outside the catalogue.
    """
    return _BY_NAME.get((namespace, name))
