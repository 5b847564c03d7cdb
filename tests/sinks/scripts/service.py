"""
A service for ten minutes of its life, always the same: uploads, scores, failures. Where its metrics go is the environment's business.

Usage: service.py EPOCH_SECONDS (the full minute in which it ends)
"""

from __future__ import annotations

import random
import sys

from retainwise_metrics import MetricNamespace, MetricUnit, get_metrics_client


def main() -> None:
    """Live those ten minutes."""
    end, chance = int(sys.argv[1]), random.Random(2024)
    client = get_metrics_client()
    for number in range(4000):
        at = end - 60 * (number % 10) + chance.random() * 59
        route = chance.choice(["/upload", "/score", "/health"])
        dimensions = {"Endpoint": route, "Region": chance.choice(["eu", "us"])}
        client.put_metric(
            "Latency", chance.lognormvariate(3, 1), MetricUnit.MILLISECONDS, dimensions=dimensions, timestamp=at
        )
        client.put_metric("Rows", chance.randrange(20), dimensions={"Endpoint": route}, timestamp=at)
        client.increment_counter("Requests", dimensions={"Endpoint": route}, timestamp=at)
        client.increment_counter("UploadSuccess", namespace=MetricNamespace.API, timestamp=at)
        if number % 7 == 0:
            client.record_time("Scoring", chance.random(), timestamp=at, storage_resolution=1)
            client.put_metric("Balance", chance.gauss(0, 1e6), timestamp=at)
    gauge = client.gauge("Queue")
    for level in range(5):
        gauge.set(level)
    client.put_metric_sync("Ended", 1)
    client.stop(60.0)
    stats = client.stats()
    sys.stderr.write(f"{stats.recorded} recorded, {stats.delivered} delivered\n")


main()
