"""
Records while, and after, the interpreter shuts down.

    shut_down.py <way>
"""

import atexit
import json
import sys
import threading
import weakref
from itertools import count

from retainwise_metrics import get_metrics_client, put_metric

THREADS = 4
over = threading.Event()
taken: "list[int]" = []


def record(name: str) -> None:
    """One value; what becomes of it is printed."""
    answers[name] = get_metrics_client().put_metric(name, 1)


answers: "dict[str, bool]" = {}


def say_answers() -> None:
    """The last hook of all: what was answered, and what became of it."""
    json.dump([answers, get_metrics_client().stats()[:4]], sys.stdout)
    sys.stdout.flush()


def hooks_around() -> None:
    """Hooks run in reverse order: what is registered after the library's finds it working, what was registered before finds it stopped."""
    atexit.register(record, "Before")
    record("M")
    atexit.register(record, "After")


def first_in_hook() -> None:
    """The client is there, and its first value ever comes when the interpreter is already shutting down."""
    get_metrics_client()
    import boto3.s3.transfer  # noqa: F401 - as in a program that uses AWS itself

    atexit.register(record, "First")


def first_in_hook_cold() -> None:
    """The same in a program that has not imported boto3, which then cannot be imported any more."""
    get_metrics_client()
    atexit.register(record, "First")


def finalizers() -> None:
    """`weakref.finalize` runs its own hook, registered with the first finaliser."""
    kept.append(Kept())
    record("M")
    weakref.finalize(kept[0], record, "After")


def del_after_everything() -> None:
    """An object of a module dies with the module, when the client has long been stopped."""
    record("M")
    kept.append(Kept())


class Kept:
    """Records with its last breath."""

    def __init__(self) -> None:
        self.client = get_metrics_client()

    def __del__(self) -> None:
        # Not through `record`: names of this module may be gone by now.
        assert not self.client.put_metric("Del", 1)
        assert not self.client.counter("Del").inc()
        assert not put_metric("Del", 1)


kept: "list[Kept]" = []


def record_in_threads() -> None:
    """Daemon threads record in a tight loop and never end."""
    client = get_metrics_client()
    handle = client.counter("M")
    under_way = threading.Barrier(THREADS + 1)
    taken.extend([0] * THREADS)

    def record_on(index: int) -> None:
        for number in count():
            taken[index] += handle.inc()
            taken[index] += client.put_metric("Kinds", 1, dimensions={"Kind": f"k{number % 7}"})
            taken[index] += client.put_metric("Fast", 1, storage_resolution=1)
            if number == 100:
                under_way.wait()
            if over.is_set():
                break

    threads.extend(threading.Thread(target=record_on, args=(index,), daemon=True) for index in range(THREADS))
    for thread in threads:
        thread.start()
    under_way.wait()


threads: "list[threading.Thread]" = []


def say_taken() -> None:
    """After the library's hook: what the threads were told has been taken, and the ledger."""
    over.set()
    for thread in threads:
        thread.join()
    json.dump([sum(taken), get_metrics_client().stats()[:4]], sys.stdout)


def daemons() -> None:
    """The threads record until the library has stopped, and are then told to end, so that the books can be compared."""
    atexit.register(say_taken)
    record_in_threads()


def daemons_to_the_very_end() -> None:
    """Nobody tells the threads anything: they record until the interpreter is gone."""
    record_in_threads()


if sys.argv[1] != "daemons" and not sys.argv[1].endswith("end"):
    atexit.register(say_answers)
globals()[sys.argv[1]]()
