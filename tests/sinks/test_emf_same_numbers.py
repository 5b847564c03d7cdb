"""One program, run with PutMetricData and with EMF: the same series, sums, counts, extremes, percentiles, minutes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from retainwise_metrics.testing import EmfReader, FakeCloudWatch, FakeEmfAgent
from tests.sinks.emf_documents import check

if TYPE_CHECKING:
    from retainwise_metrics.testing.emf_reader import Series

SERVICE = Path(__file__).parent / "scripts/service.py"
ROOT = Path(__file__).parents[2]
RECORDED = 4000 * 4 + 572 * 2
ALSO = 5 + 1
"""The gauge's levels and what is sent at once: recorded at the time of the run, not at a given one."""


class Numbers(NamedTuple):
    """What CloudWatch shows of a series."""

    count: float
    sum: float
    minimum: float | None
    maximum: float | None
    percentiles: tuple[float | None, ...]
    values: dict[float, float]


def run_service(end: int, **settings: str) -> bytes:
    """Run the program to its end; what it wrote to standard output."""
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "ENVIRONMENT": "process-test",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        **settings,
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SERVICE), str(end)],
        env=environment,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.decode() == f"{RECORDED + ALSO} recorded, {RECORDED + ALSO} delivered\n"
    return done.stdout


def numbers(source: FakeCloudWatch | EmfReader) -> dict[Series, Numbers]:
    """Everything a source shows."""
    found = {}
    for series in source.series():
        where: tuple[Any, ...] = (series.namespace, series.name, dict(series.dimensions))
        found[series] = Numbers(
            source.count(*where),
            source.sum(*where),
            source.minimum(*where),
            source.maximum(*where),
            tuple(source.percentile(*where, percent) for percent in (50, 95, 99, 99.9)),
            source.values(*where),
        )
    return found


@pytest.fixture(scope="module")
def end() -> int:
    """The minute in which all runs end."""
    return int(time.time()) // 60 * 60


@pytest.fixture(scope="module")
def published(end: int) -> FakeCloudWatch:
    """What a run with PutMetricData leaves on a strict CloudWatch."""
    with FakeCloudWatch() as cloudwatch:
        run_service(end, RETAINWISE_METRICS_SINK="cloudwatch", AWS_ENDPOINT_URL=cloudwatch.endpoint_url)
    assert cloudwatch.total_count() == RECORDED + ALSO
    assert cloudwatch.rejected_calls == []
    return cloudwatch


def compare(reader: EmfReader, published: FakeCloudWatch) -> None:
    """The same numbers, and the same minutes for what was given a time."""
    # Floats that are added in another order are a little different.
    expected = {series: each._replace(sum=pytest.approx(each.sum)) for series, each in numbers(published).items()}
    assert numbers(check(reader)) == expected
    assert len(expected) == 6 + 3 + 3 + 1 + 2 + 2
    for series in expected:
        if series.name not in {"Queue", "Ended"}:
            where: tuple[Any, ...] = (series.namespace, series.name, dict(series.dimensions))
            minutes = sorted({start // 60 * 60 for start in reader.windows(*where)})
            assert minutes == published.minutes(*where)
            for minute in minutes:
                assert reader.statistics(*where, minute=minute).count == published.count(*where, minute=minute)


@pytest.mark.parametrize("values", ["list", "object"])
def test_standard_output_has_the_numbers_of_put_metric_data(values: str, end: int, published: FakeCloudWatch) -> None:
    """Captured from a real process, every line of it a document; the object form says the same in fewer bytes."""
    output = run_service(end, RETAINWISE_METRICS_SINK="emf", RETAINWISE_METRICS_EMF_VALUES=values)
    reader = EmfReader(objects=values == "object").read(output)
    assert reader.other_lines == []
    compare(reader, published)


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
def test_an_agent_gets_the_numbers_of_put_metric_data(
    scheme: str, end: int, published: FakeCloudWatch, tmp_path: Path
) -> None:
    """And standard output stays the program's own."""
    with FakeEmfAgent(scheme, str(tmp_path / "agent") if scheme == "unix" else "") as agent:
        output = run_service(end, RETAINWISE_METRICS_SINK="emf-agent", AWS_EMF_AGENT_ENDPOINT=agent.endpoint)
        assert agent.wait_for(lambda emf: emf.total_count() >= RECORDED + ALSO, 60.0)
    assert output == b""
    compare(agent.read(), published)


def test_the_namespace_of_other_libraries_is_honoured(end: int) -> None:
    """`AWS_EMF_NAMESPACE` is where records without a namespace go."""
    output = run_service(end, RETAINWISE_METRICS_SINK="emf", AWS_EMF_NAMESPACE="Shop/Orders")
    assert {series.namespace for series in EmfReader().read(output).series()} == {"Shop/Orders", "RetainWise/API"}


def test_a_program_in_the_test_environment_writes_nothing(end: int) -> None:
    """As with CloudWatch: quiet unless somebody insists."""
    environment = {"ENVIRONMENT": "test", "RETAINWISE_METRICS_SINK": "emf", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(SERVICE), str(end)], env=environment, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"disabled" in done.stderr


def test_a_program_that_writes_documents_never_imports_boto3() -> None:
    """Nor asyncio: who does not call AWS does not pay for being able to."""
    program = (
        "import sys; from retainwise_metrics import *; c = CloudWatchMetrics(MetricsConfig(sink='emf'));"
        "c.put_metric('M', 1); c.stop(); sys.exit(', '.join({'boto3', 'botocore', 'asyncio'} & sys.modules.keys()) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert EmfReader().read(done.stdout).total_count() == 1
