"""
Records, says what it knows, and dies in one of many ways.

    die.py <way>
"""

import json
import os
import resource
import signal
import sys
import threading
from itertools import count

from retainwise_metrics import get_metrics_client

FLUSHED, PENDING = 5, 3
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # nobody wants to look at what is left of it
client = get_metrics_client()
handle = client.counter("M")


def record(how_many: int) -> None:
    """Different values, so that one that arrives twice can be told from two."""
    for value in range(how_many):
        assert client.put_metric("M", value)


def say(what: object) -> None:
    """Tell whoever started this."""
    os.write(1, json.dumps(what).encode() + b"\n")


def die(way: str) -> None:
    """Die now."""
    {"abort": os.abort, "os._exit": lambda: os._exit(9), "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL)}[way]()


def suddenly(way: str) -> None:
    """Some of it has been delivered, and some has not."""
    record(FLUSHED)
    assert client.flush(30.0)
    for value in range(PENDING):
        assert client.put_metric("M", 100 + value)
    die(way)


def when_told(way: str) -> None:
    """Nobody flushes. The last values come right before the end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    record(FLUSHED)
    signal.sigwait({signal.SIGUSR1})
    for value in range(PENDING):
        assert client.put_metric("M", 100 + value)
    die(way)


def waiting() -> None:
    """Wait for a signal."""
    record(FLUSHED)
    say(os.getpid())
    while True:
        signal.pause()


def waiting_and_catching() -> None:
    """As programs do that want to choose their exit code."""
    try:
        waiting()
    except KeyboardInterrupt:
        sys.exit(130)


def recording() -> None:
    """The signal comes in the middle of a loop that records; at most one value is not counted here and has arrived all the same."""
    taken = int(handle.inc())
    try:
        say(os.getpid())
        while True:
            taken += handle.inc()
    except KeyboardInterrupt:
        say(taken)
        raise


def flushing() -> None:
    """The signal comes while the main thread waits for a delivery that does not end."""
    record(FLUSHED)
    say(os.getpid())
    client.flush(3600.0)


def hooked() -> None:
    """Threads record all the time, also while the client stops; then the process ends without any hook of the interpreter."""
    assert handle.inc()
    assert client.flush(30.0)
    threads, taken = record_in_threads()
    assert client.stop(30.0)
    over.set()
    for thread in threads:
        thread.join()
    say([1 + sum(taken), client.stats()[:4]])
    os._exit(3)


over = threading.Event()


def record_in_threads() -> "tuple[list[threading.Thread], list[int]]":
    """Some threads that record until it is over; returns when they have got going."""
    under_way = threading.Barrier(5)
    taken = [0] * 4

    def record_on(index: int) -> None:
        for number in count():
            taken[index] += handle.inc()
            taken[index] += client.put_metric("Kinds", 1, dimensions={"Kind": f"k{number % 7}"})
            if number == 50:
                under_way.wait()
            if over.is_set():
                break

    threads = [threading.Thread(target=record_on, args=(index,), daemon=True) for index in range(4)]
    for thread in threads:
        thread.start()
    under_way.wait()
    return threads, taken


globals()[sys.argv[1]](*sys.argv[2:])
