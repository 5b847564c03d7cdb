"""
Imports the library and makes a client while time is frozen, and then goes on in real time: the interval must still be one.
"""

import json
import sys
import threading

from freezegun import freeze_time

with freeze_time("2020-02-29 12:00:30"):
    import retainwise_metrics
    from retainwise_metrics.testing import InMemorySink

    delivered = threading.Semaphore(0)
    client = retainwise_metrics.CloudWatchMetrics(
        retainwise_metrics.MetricsConfig(flush_interval_seconds=0.2), sink=InMemorySink(lambda _: delivered.release())
    )
    client.put_metric("M", 1)
    in_frozen_time = delivered.acquire(timeout=20.0)
client.put_metric("M", 1)
in_real_time = delivered.acquire(timeout=20.0)
client.stop(20.0)
json.dump([in_frozen_time, in_real_time], sys.stdout)
