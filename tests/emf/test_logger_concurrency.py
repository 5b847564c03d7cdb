"""Threads, tasks, interruptions and forks: no value under another's dimensions, none lost, none twice."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from retainwise_metrics.emf import MetricsLogger
from tests.emf.conftest import NOON
from tests.interrupts import interrupted, signals_as_in_311

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from retainwise_metrics.testing.emf_reader import EmfReader

    Make = Callable[..., MetricsLogger]
    Read = Callable[..., EmfReader]

PATIENCE = 60.0
"""Seconds until a thread that does not end counts as stuck."""


@pytest.fixture(autouse=True)
def _rapid_switching() -> Iterator[None]:
    """Threads are interrupted as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def run_all(*targets: Callable[[], object]) -> None:
    """Run functions in threads that start together; all must end."""
    barrier = threading.Barrier(len(targets))
    threads = [threading.Thread(target=lambda run=run: (barrier.wait(PATIENCE), run()), daemon=True) for run in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)


def test_threads_and_tasks_keep_their_dimensions_apart(make_logger: Make, stream: io.StringIO, read: Read) -> None:
    """8 threads and 100 tasks on one logger, each under dimensions of its own, change them while others record."""
    logger = make_logger({"Default": "x"})

    def in_thread(number: int) -> None:
        for turn in range(300):
            logger.set_dimension("Who", f"thread-{number}")
            logger.set_dimension("Turn", turn % 3)
            logger.put_metric("M", number)

    async def in_task(number: int) -> None:
        for turn in range(15):
            logger.set_dimension("Who", f"task-{number}")
            await asyncio.sleep(0)
            logger.set_dimension("Turn", turn % 3)
            await asyncio.sleep(0)
            logger.put_metric("M", number)

    async def all_tasks() -> None:
        await asyncio.gather(*map(in_task, range(100)))

    run_all(*(lambda number=number: in_thread(number) for number in range(8)), lambda: asyncio.run(all_tasks()))
    assert logger.flush()
    found = read(stream.getvalue())
    assert found.total_count() == 8 * 300 + 100 * 15
    for kind, workers, records in (("thread", 8, 100), ("task", 100, 5)):
        for number in range(workers):
            for turn in "012":
                mine = {"Default": "x", "Who": f"{kind}-{number}", "Turn": turn}
                assert found.values("Tests", "M", mine) == {number: records}
    assert logger.stats() == (3900, 0, {}, {})


def test_dimensions_of_a_record_are_its_own(make_logger: Make, stream: io.StringIO, read: Read) -> None:
    """The same without setting anything: dimensions given with each record."""
    logger = make_logger()

    def record(number: int) -> None:
        for _ in range(500):
            logger.put_metric("M", number, dimensions={"Who": number})

    run_all(*(lambda number=number: record(number) for number in range(8)))
    logger.flush()
    found = read(stream.getvalue())
    assert [found.values("Tests", "M", {"Who": str(number)}) for number in range(8)] == [
        {number: 500} for number in range(8)
    ]


def test_flushing_while_others_record_loses_nothing(make_logger: Make, stream: io.StringIO, read: Read) -> None:
    """What comes while documents are made is in the next ones."""
    logger = make_logger()
    recording = threading.Event()

    def record() -> None:
        for number in range(1000):
            logger.put_metric("M", number)
        recording.set()

    def flush() -> None:
        while not recording.is_set():
            logger.flush()

    run_all(record, record, record, flush, flush)
    logger.flush()
    assert read(stream.getvalue()).values("Tests", "M") == dict.fromkeys(range(1000), 3)
    assert logger.stats() == (3000, 0, {}, {})


def test_refusals_are_counted_exactly(make_logger: Make) -> None:
    """The books are right, whoever writes in them at once."""
    logger = make_logger()

    def record() -> None:
        for _ in range(1000):
            logger.put_metric("M", "no")  # type: ignore[arg-type]

    run_all(record, record, record, record, lambda: [logger.stats() for _ in range(100)])
    assert logger.stats().dropped == {"value": 4000}


class Interrupting(io.StringIO):
    """A stream in whose writes other code runs, as a signal handler or a finaliser would."""

    interruption: Callable[[], Any] = staticmethod(lambda: None)

    def write(self, text: str) -> int:
        """Be interrupted, and go on."""
        self.interruption()
        return super().write(text)


def test_recording_and_flushing_inside_a_flush(make_logger: Make, read: Read) -> None:
    """A signal handler that records and flushes does not wait for what it interrupted, and its record is in the next flush."""
    stream = Interrupting()
    logger = make_logger(stream=stream)
    answers = []

    def interruption() -> None:
        logger.put_metric("Inner", 1)
        logger.put_metric("Inner", "bad")  # type: ignore[arg-type]
        logger.stats()
        answers.append(logger.flush())

    stream.interruption = interruption
    logger.put_metric("Outer", 1)
    logger.flush()
    assert answers == [False]
    stream.interruption = lambda: None
    assert logger.flush()
    found = read(stream.getvalue())
    assert (found.sum("Tests", "Outer"), found.sum("Tests", "Inner")) == (1, 1)


def interrupter(at: int) -> Callable[[FrameType, str, object], None]:
    """A profile function that raises at one of the calls."""
    calls = count()

    def interrupt(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and next(calls) == at:
            raise KeyboardInterrupt

    return interrupt


def test_an_interrupt_anywhere_in_a_flush_loses_nothing(make_logger: Make, read: Read) -> None:
    """Ctrl-C at each call that a flush makes in turn: the next flush writes what is missing, and nothing twice."""
    for at in range(1000):
        stream = io.StringIO()
        logger = make_logger(stream=stream)
        for number in range(3):
            logger.put_metric("M", number, dimensions={"Key": number % 2})
        sys.setprofile(interrupter(at))
        try:
            logger.flush()
        except KeyboardInterrupt:
            pass
        else:
            break
        finally:
            sys.setprofile(None)
        assert logger.flush()
        assert read(stream.getvalue()).total_count() == logger.stats().written == 3
    assert 20 < at < 999, "the flush ended without an interrupt at last"


def test_a_record_does_not_wait_for_a_slow_stream(make_logger: Make, read: Read) -> None:
    """While one thread writes, others go on recording, past the hundredth record too."""
    stream = Interrupting()
    writing, recorded = threading.Event(), threading.Event()

    def interruption() -> None:
        writing.set()
        assert recorded.wait(PATIENCE)

    stream.interruption = interruption
    logger = make_logger(stream=stream)
    logger.put_metric("M", 1)

    def record() -> None:
        assert writing.wait(PATIENCE)
        for _ in range(250):
            logger.put_metric("M", 1)
        recorded.set()

    run_all(logger.flush, record)
    assert recorded.is_set()
    logger.flush()
    assert read(stream.getvalue()).values("Tests", "M") == {1: 251}


def test_a_backlog_that_nobody_writes_is_bounded(make_logger: Make, read: Read) -> None:
    """Records beyond 10,000 that wait for a thread stuck in a write are refused and counted."""
    stream = Interrupting()
    logger = make_logger(stream=stream)
    taken: list[int] = []

    def interruption() -> None:
        stream.interruption = lambda: None
        taken.append(sum(logger.put_metric("M", 2) for _ in range(10_010)))

    stream.interruption = interruption
    logger.put_metric("M", 1)
    logger.flush()
    logger.flush()
    assert taken == [10_000]
    assert logger.stats() == (10_001, 0, {"backlog": 10}, {})
    assert read(stream.getvalue()).values("Tests", "M") == {1: 1, 2: 10_000}


def run(program: str) -> str:
    """The output of a program in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return done.stdout


def test_a_program_that_ends_writes_what_it_has(read: Read) -> None:
    """Nobody has to remember the last flush, not even for a logger that the interpreter never gets to collect."""
    out = run(
        "import ctypes\n"
        "from retainwise_metrics import emf\n"
        f"logger = emf.MetricsLogger('Tests', clock=lambda: {NOON})\n"
        "logger.put_metric('M', 1)\n"
        "ctypes.pythonapi.Py_IncRef(ctypes.py_object(logger))\n"
    )
    assert read(out).total_count() == 1


def test_a_forked_child_does_not_publish_its_parents_records(read: Read) -> None:
    """Both would; and a lock that was held in the parent must not stop the child."""
    out = run(
        "import os\n"
        "from retainwise_metrics import emf\n"
        f"logger = emf.MetricsLogger('Tests', clock=lambda: {NOON})\n"
        "logger.put_metric('Parent', 1)\n"
        "logger._lock.acquire()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    logger.put_metric('Child', 1)\n"
        "    os._exit(0 if logger.flush() and logger.stats().written == 1 else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "logger._lock.release()\n"
        "logger.flush()\n"
    )
    found = read(out)
    assert (found.sum("Tests", "Parent"), found.sum("Tests", "Child")) == (1, 1)
    assert len(found.documents) == 2


@signals_as_in_311
def test_a_flush_that_is_interrupted_anywhere_leaves_no_lock_behind() -> None:
    """A Ctrl-C in the middle of it: another thread can flush afterwards."""
    for at in range(1, 10_000):
        stream = io.StringIO()
        metrics = MetricsLogger("Shop", stream=stream)
        metrics.put_metric("Orders", 1)
        struck = interrupted(at, metrics.flush, times=1)
        with ThreadPoolExecutor(1) as other:
            assert other.submit(metrics.flush).result(5.0), at
        if not struck:
            break
