"""
Publishes to a real AWS account and reads back: the one test that costs money (one custom metric, a few calls).

    FORCE_CLOUDWATCH=true AWS_REGION=eu-west-1 scripts/test tests/contract/test_real_account.py

It needs credentials with `cloudwatch:PutMetricData` and `cloudwatch:GetMetricData`.
"""

from __future__ import annotations

import os
import threading
import time
import uuid

import boto3.session
import pytest

from retainwise_metrics import CloudWatchMetrics, MetricsConfig, MetricUnit

pytestmark = [
    pytest.mark.aws,
    pytest.mark.skipif(
        os.environ.get("FORCE_CLOUDWATCH", "").lower() != "true",
        reason="publishes to a real AWS account: set FORCE_CLOUDWATCH=true, AWS_REGION and credentials to run it",
    ),
]

NAMESPACE = "RetainWise/IntegrationTest"
READABLE_WITHIN_SECONDS = 180.0
"""New data is readable within about two minutes (CloudWatch user guide, "Publish custom metrics")."""


def test_what_is_recorded_can_be_read_back() -> None:
    """Sum, count, extremes and a percentile of one series equal what was recorded, on the real service."""
    run = uuid.uuid4().hex[:8]
    dimensions = {"Run": f"run-{run[:4]}"}
    values = [1.0] * 50 + [2.0] * 30 + [10.0] * 20
    started = int(time.time()) // 60 * 60
    config = MetricsConfig.from_env(catalogue=())
    with CloudWatchMetrics(config) as client:
        for value in values:
            # One minute for all of them, so that each statistic is one number.
            assert client.put_metric(
                "Probe", value, MetricUnit.SECONDS, namespace=NAMESPACE, dimensions=dimensions, timestamp=started
            )
        assert client.flush(timeout=30.0), client.stats()
        assert client.stats().dropped == {}
    cloudwatch = boto3.session.Session(region_name=config.region).client("cloudwatch")
    # The dimension as it was published: the default policy may have replaced it.
    published = client._policy.resolve_all(dimensions)[0]
    metric = {
        "Namespace": NAMESPACE,
        "MetricName": "Probe",
        "Dimensions": [{"Name": name, "Value": value} for name, value in published],
    }
    statistics = ["Sum", "SampleCount", "Minimum", "Maximum", "p90"]
    pause, deadline = threading.Event(), time.monotonic() + READABLE_WITHIN_SECONDS
    read: dict[str, float] = {}
    while time.monotonic() < deadline and len(read) < len(statistics):
        answer = cloudwatch.get_metric_data(
            StartTime=started,
            EndTime=started + 600,
            MetricDataQueries=[
                {"Id": f"m{index}", "MetricStat": {"Metric": metric, "Period": 60, "Stat": statistic}}
                for index, statistic in enumerate(statistics)
            ],
        )
        for result in answer["MetricDataResults"]:
            if result["Values"]:
                read[statistics[int(result["Id"][1:])]] = sum(result["Values"])
        pause.wait(5.0)
    assert read == {"Sum": sum(values), "SampleCount": 100, "Minimum": 1.0, "Maximum": 10.0, "p90": 10.0}
