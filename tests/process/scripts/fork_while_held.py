"""
Forks at the worst moments: while other threads hold each of the locks of a client, and are half-way through changing what they protect.
"""

import json
import os
import sys
import threading

from retainwise_metrics import CloudWatchMetrics, MetricsConfig

client = CloudWatchMetrics(MetricsConfig.from_env(catalogue=(), max_series_per_metric=3, flush_interval_seconds=3600))
handle = client.counter("Bound", dimensions={"Kind": "made before"})
handle.inc()
for number in range(10):
    client.put_metric("Exploding", 1, dimensions={"Session": f"s{number}"})
assert client.put_metric_sync("Now", 1)
assert client.flush(20.0)
handle.inc()
client.put_metric("Exploding", 1, dimensions={"Session": "s1"})
assert client.stats().offenders

# Nothing but a call on this thread: no worker, and still a connection that a child must not touch.
synchronous = CloudWatchMetrics(MetricsConfig.from_env(catalogue=()))
assert synchronous.put_metric_sync("Alone", 1)

held, over = threading.Semaphore(0), threading.Event()


def hold(lock: threading.Lock) -> None:
    """Take a lock and keep it until all children have ended."""
    with lock:
        held.release()
        over.wait()


pipeline = client._pipeline
locks = [client._intake._lock, pipeline._starting, pipeline._flusher.deciding]
threads = [threading.Thread(target=hold, args=(lock,)) for lock in locks]
for thread in threads:
    thread.start()
    held.acquire()


def be_a_child() -> None:
    """Find everything empty, and everything in working order."""
    stats = client.stats()
    assert stats[:4] == (0, 0, 0, {}), stats
    assert (stats.series, stats.offenders, stats.calls, stats.running) == (0, (), 0, False), stats
    assert handle.inc()
    for number in range(10):
        assert client.put_metric("Exploding", 1, dimensions={"Session": f"s{number}"})
    assert client.put_metric_sync("Now", 1)
    assert client.flush(20.0)
    assert client.stats()[:3] == (12, 12, 0), client.stats()
    assert client.stop(20.0)
    assert synchronous.stats()[:4] == (0, 0, 0, {}), synchronous.stats()
    assert synchronous.put_metric_sync("Alone", 1)


codes = []
for _ in range(2):
    child = os.fork()
    if child == 0:
        try:
            be_a_child()
            os._exit(0)
        finally:
            os._exit(1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
over.set()
for thread in threads:
    thread.join()
assert client.put_metric_sync("Now", 1)
assert synchronous.put_metric_sync("Alone", 1)
client.stop(20.0)
json.dump({"codes": codes, "stats": client.stats()[:4]}, sys.stdout)
