"""
Record numbers from the first argument on, about one every millisecond, and say now and then how many of them are not safe.

The second argument says how it ends: `killed` (it goes on until somebody ends it), or `delivers` (it records nothing, and ends when
nothing is pending any more).
"""

import json
import sys
import time

from retainwise_metrics import CloudWatchMetrics, MetricsConfig

PATIENCE_SECONDS = 60.0


def say(numbers: object) -> None:
    """One line to whoever has started this."""
    sys.stdout.write(f"{json.dumps(numbers)}\n")
    sys.stdout.flush()


config = MetricsConfig.from_env(
    flush_interval_seconds=0.2,
    open_seconds=0.1,
    max_open_seconds=0.2,
    failure_threshold=2,
    max_distinct_values=1_000_000,  # each number has to be told from the others in the end
)
first, end = int(sys.argv[1]), sys.argv[2]
with CloudWatchMetrics(config) as client:
    if end == "delivers":
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not client.flush(1.0) and time.monotonic() < deadline:
            pass
        say(client.stats()[:4])
        sys.exit(0)
    for number in range(first, first + 100_000):
        client.put_metric(f"M{number % 20}", number)
        if number % 50 == 0:
            stats = client.stats()
            # What is neither delivered nor on disk is at most this many, of whomsoever.
            say([number - first + 1, stats.pending - stats.spooled])
        time.sleep(0.001)
