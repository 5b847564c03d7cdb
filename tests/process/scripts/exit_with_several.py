"""
Ends by itself with three clients that hold values: one each for a CloudWatch that answers, one that hangs and one that is not there.

    exit_with_several.py <endpoints, comma-separated> <exit code>
"""

import sys

from retainwise_metrics import CloudWatchMetrics, MetricsConfig

endpoints, code = sys.argv[1].split(","), int(sys.argv[2])
clients = [
    CloudWatchMetrics(
        MetricsConfig.from_env(endpoint_url=endpoint, read_timeout_seconds=60, flush_interval_seconds=3600)
    )
    for endpoint in endpoints
]
for client in clients:
    for value in range(5):
        assert client.put_metric("M", value)
sys.exit(code)
