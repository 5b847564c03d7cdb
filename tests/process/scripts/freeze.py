"""
Uses the library while freezegun holds the time.

    freeze.py <when: before | meanwhile | import> <tick: yes | no>
"""

import json
import sys
from datetime import datetime, timezone

from freezegun import freeze_time

FROZEN = datetime(2020, 2, 29, 23, 59, 59, tzinfo=timezone.utc)
when, tick = sys.argv[1], sys.argv[2] == "yes"

if when != "import":
    import retainwise_metrics.runtime

if when == "meanwhile":
    # The clock goes years back under a worker that runs. Nobody looks at it for each value, so a flush stands between two times.
    client = retainwise_metrics.get_metrics_client()
    handle = client.counter("Bound")
    for _ in range(3):
        assert handle.inc()
        assert client.put_metric("Real", 1)
    assert client.flush(20.0), client.stats()
    with freeze_time(FROZEN, tick=tick):
        assert handle.inc()
        assert client.put_metric("M", 1)
        assert client.put_metric("Fast", 1, storage_resolution=1)
        assert client.flush(20.0), client.stats()
        assert client.put_metric("Late", 1)
    assert handle.inc()
else:
    with freeze_time(FROZEN, tick=tick):
        import retainwise_metrics

        client = retainwise_metrics.get_metrics_client()
        handle = client.counter("Bound")
        assert handle.inc()
        assert client.put_metric("M", 1)
        assert client.put_metric("Fast", 1, storage_resolution=1)
        assert client.flush(20.0), client.stats()
        assert handle.inc()
        assert client.put_metric_sync("Now", 1)
        assert client.stop(20.0), client.stats()
        client.start()
        assert client.put_metric("M", 1)
        assert client.flush(20.0), client.stats()
assert client.stop(20.0)
json.dump(client.stats()[:4], sys.stdout)
