"""
A process that gevent has patched before anything else: greenlets record, and it ends in one of many ways.

    greenlets.py <way>
"""

# ruff: noqa: E402 - patching comes before everything else

from gevent import monkey

monkey.patch_all()

import json
import os
import signal
import sys

import gevent

from retainwise_metrics import flush_on_sigterm, get_metrics_client

GREENLETS, RECORDS = 50, 40
client = get_metrics_client()
handle = client.counter("Bound")


def record(number: int) -> int:
    """Record, and let others have their turn now and then."""
    taken = 0
    for value in range(RECORDS):
        taken += handle.inc() + client.put_metric("M", value, dimensions={"Greenlet": f"g{number % 5}"})
        if value % 7 == 0:
            gevent.sleep(0)
    return taken


def record_all() -> int:
    """Let many greenlets record at once."""
    greenlets = [gevent.spawn(record, number) for number in range(GREENLETS)]
    gevent.joinall(greenlets)
    return sum(greenlet.value for greenlet in greenlets)


def by_itself() -> int:
    """The program ends, and nobody has asked for anything."""
    return record_all()


def flush() -> int:
    """A greenlet waits for the delivery while others go on recording."""
    taken = record_all()
    flushing = gevent.spawn(client.flush, 30.0)
    taken += record_all()
    assert flushing.get()
    return taken


def stop() -> int:
    """Greenlets record in a loop, also while the client stops."""
    taken = []

    def record_for_ever() -> None:
        while True:
            taken.append(handle.inc())
            gevent.sleep(0.001)  # a hub that never waits leaves the interpreter to real threads only every 5 ms

    greenlets = [gevent.spawn(record_for_ever) for _ in range(5)]
    while sum(taken) < 100:
        gevent.sleep(0.01)
    assert client.stop(30.0)
    gevent.killall(greenlets)
    return sum(taken)


def fork() -> int:
    """A child records and ends by `os._exit`, its parent by itself."""
    taken = record_all()
    assert client.flush(30.0)
    child = os.fork()
    if child == 0:
        record_all()
        os._exit(0 if client.stop(30.0).delivered == GREENLETS * RECORDS * 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return taken + record_all()


def signal_handler() -> int:
    """While every greenlet waits, a signal handler runs in the hub, where nobody may wait."""
    taken: list[bool] = []
    signal.signal(signal.SIGALRM, lambda *_: taken.extend((client.put_metric("M", 1), handle.inc())))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    while not taken:
        gevent.sleep(0.05)
    return sum(taken)


def native_thread() -> int:
    """The first value ever is recorded in one of the real threads that gevent keeps for what blocks."""
    pool = gevent.get_hub().threadpool
    return sum(pool.spawn(client.put_metric, "M", 1).get() for _ in range(5))


def sigterm() -> int:
    """SIGTERM, while greenlets wait for something else."""
    assert flush_on_sigterm()
    taken = record_all()
    gevent.spawn_later(0.01, os.kill, os.getpid(), signal.SIGTERM)
    json.dump(taken, sys.stdout)
    sys.stdout.flush()
    gevent.sleep(60.0)
    sys.exit("it should have ended long ago")


json.dump(globals()[sys.argv[1]](), sys.stdout)
