"""What every metric of the catalogue must satisfy to be published, alarmed on and paid for."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from retainwise_metrics import limits
from retainwise_metrics.catalogue import CATALOGUE, MetricSpec, find
from retainwise_metrics.namespaces import MetricNamespace
from retainwise_metrics.units import MetricUnit

PIPELINE_NAMES = [
    "UploadSuccess",
    "UploadRejected",
    "UploadFailure",
    "UploadUnexpectedError",
    "UploadFileSizeMB",
    "UploadEndToEndDuration",
    "S3UploadDuration",
    "S3UploadFailure",
    "DatabaseWriteError",
    "SQSMessageSent",
    "SQSMessageFailure",
    "MessageParseError",
    "S3DownloadDuration",
    "S3DownloadFailure",
    "CSVRowCount",
    "CSVParseError",
    "MLPredictionDuration",
    "PredictionThroughput",
    "MLPredictionError",
    "PredictionsSaved",
    "WorkerEndToEndDuration",
    "WorkerSuccess",
    "WorkerFailure",
    "WorkerUnexpectedError",
    "ModelLoadDuration",
    "ModelLoadFailure",
    "PredictionConfidence",
    "WorkerHeartbeat",
    "MetricsDropped",
]

ALARMED_COUNTERS = [
    "UploadSuccess",
    "UploadFailure",
    "S3UploadFailure",
    "DatabaseWriteError",
    "WorkerSuccess",
    "WorkerFailure",
    "WorkerUnexpectedError",
    "ModelLoadFailure",
    "MetricsDropped",
]

ROOT = Path(__file__).parents[1]

MOST_VALUES = {"Endpoint": 3, "ErrorType": 8, "Method": 2, "ModelVersion": 2, "Reason": 4, "Status": 4}
"""How many values of each dimension RetainWise has at one time, with room."""

each_metric = pytest.mark.parametrize("spec", CATALOGUE, ids=lambda spec: spec.name)


def test_holds_every_metric_of_the_pipeline() -> None:
    """The names the pipeline records are all declared."""
    assert set(PIPELINE_NAMES) <= {spec.name for spec in CATALOGUE}


def test_declares_each_metric_once() -> None:
    """A name stands in one namespace only, so that it cannot be recorded to the wrong one unnoticed."""
    assert [name for name, times in Counter(spec.name for spec in CATALOGUE).items() if times > 1] == []


@each_metric
def test_is_accepted_by_cloudwatch(spec: MetricSpec) -> None:
    """Name, namespace, unit and sets keep the rules of the API."""
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", spec.name)
    assert len(spec.name) <= limits.NAME_LENGTH
    assert spec.namespace in set(MetricNamespace)
    assert isinstance(spec.unit, MetricUnit)
    assert all(len(keys) <= limits.DIMENSIONS for keys in spec.dimension_sets)


@each_metric
def test_has_the_roll_up_that_alarms_read(spec: MetricSpec) -> None:
    """Every metric has the series without dimensions, and no set twice."""
    assert () in spec.dimension_sets
    assert len(set(spec.dimension_sets)) == len(spec.dimension_sets)
    assert all(len(set(keys)) == len(keys) for keys in spec.dimension_sets)


@each_metric
def test_says_what_one_value_means(spec: MetricSpec) -> None:
    """The meaning is a sentence: documentation is made from it."""
    assert spec.meaning.endswith(".")
    assert spec.meaning[0].isupper()


@each_metric
def test_name_agrees_with_the_unit(spec: MetricSpec) -> None:
    """A duration is in seconds and a size in MB, as its name says; only counts are published as 0."""
    assert spec.name.endswith(("Duration", "Age", "Latency")) == (spec.unit is MetricUnit.SECONDS)
    assert spec.name.endswith("MB") == (spec.unit is MetricUnit.MEGABYTES)
    assert not spec.emits_zero or spec.unit is MetricUnit.COUNT


@pytest.mark.parametrize("name", ALARMED_COUNTERS)
def test_alarmed_counters_always_have_data(name: str) -> None:
    """A counter that an alarm reads is published as 0 while nothing happens."""
    assert next(spec for spec in CATALOGUE if spec.name == name).emits_zero


def test_heartbeat_is_never_zero() -> None:
    """Its absence is the alarm: a zero published by a live flusher would hide a dead main loop as well as raise it."""
    heartbeat = find(MetricNamespace.WORKER, "WorkerHeartbeat")
    assert heartbeat is not None
    assert not heartbeat.emits_zero


def test_stays_affordable() -> None:
    """At 0.30 USD per series and month, the whole catalogue costs less than 60 USD."""
    series = sum(_most_series(keys) for spec in CATALOGUE for keys in spec.dimension_sets)
    assert series <= 200


def _most_series(keys: tuple[str, ...]) -> int:
    series = 1
    for key in keys:
        series *= MOST_VALUES[key]
    return series


def test_find_accepts_both_spellings_of_a_namespace() -> None:
    """The enum member and its text find the same metric."""
    assert find(MetricNamespace.API, "UploadSuccess") is find("RetainWise/API", "UploadSuccess") is not None


@pytest.mark.parametrize(
    ("namespace", "name"), [("RetainWise/API", "uploadsuccess"), ("RetainWise/Worker", "UploadSuccess")]
)
def test_find_answers_none_outside_the_catalogue(namespace: str, name: str) -> None:
    """Another spelling or another namespace is another metric."""
    assert find(namespace, name) is None


def test_import_stays_cheap() -> None:
    """The catalogue is on the path of `import retainwise_metrics`: it loads nothing that costs."""
    costly = "{'dataclasses', 'logging', 'json', 'asyncio', 'inspect', 'datetime', 'boto3'}"
    code = f"import sys, retainwise_metrics.catalogue; print(*sorted({costly} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout.split() == []
