"""
Forks again and again while other threads register series, overflow the cardinality guard, record and flush.
"""

import json
import os
import sys
import threading

from retainwise_metrics import CloudWatchMetrics, MetricsConfig

FORKS, AT_ONCE, RECORDS = 40, 4, 30
client = CloudWatchMetrics(MetricsConfig.from_env(catalogue=(), max_series_per_metric=20, flush_interval_seconds=3600))
handle = client.counter("Bound")
handle.inc()
client.flush(20.0)
sys.setswitchinterval(1e-5)
over = threading.Event()
recorded = [1, 0, 0]


def record(index: int) -> None:
    """Record into known series, new series, and high-resolution series."""
    number = 0
    while not over.is_set():
        number += 1
        recorded[index] += handle.inc()
        recorded[index] += client.put_metric("Exploding", 1, dimensions={"Session": f"s{index}-{number % 500}"})
        recorded[index] += client.put_metric("Fast", 1, storage_resolution=1)


def flush() -> None:
    """Keep the worker busy in every stage."""
    while not over.is_set():
        client.flush(20.0)


def be_a_child() -> None:
    """Record as the parent does, and deliver it."""
    for number in range(RECORDS):
        assert handle.inc()
        assert client.put_metric("Exploding", 1, dimensions={"Session": f"child{number}"})
        assert client.put_metric("Fast", 1, storage_resolution=1)
    assert client.stop(20.0)
    assert client.stats()[:4] == (3 * RECORDS, 3 * RECORDS, 0, {}), client.stats()


def fork() -> int:
    """Start a child; returns its process id."""
    child = os.fork()
    if child:
        return child
    try:
        be_a_child()
        os._exit(0)
    finally:
        os._exit(1)


threads = [threading.Thread(target=record, args=(index,)) for index in range(3)] + [threading.Thread(target=flush)]
for thread in threads:
    thread.start()
bad = 0
for _ in range(FORKS // AT_ONCE):
    for child in [fork() for _ in range(AT_ONCE)]:
        bad += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
over.set()
for thread in threads:
    thread.join()
client.stop(20.0)
parent = sum(recorded)
json.dump({"bad": bad, "parent": parent, "children": FORKS * 3 * RECORDS, "stats": client.stats()[:4]}, sys.stdout)
