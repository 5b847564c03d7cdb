"""`track_use_case` around every kind of use case, in every way it can end, over services that do what they should not."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import subprocess
import sys
import threading
from contextvars import ContextVar
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import pytest

from retainwise_metrics.adapters import ClientMetrics
from retainwise_metrics.service import NullMetrics
from retainwise_metrics.testing import RecordingMetrics
from retainwise_metrics.use_cases import error_type_of, track_use_case

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from retainwise_metrics import CloudWatchMetrics
    from retainwise_metrics.testing import InMemorySink

SUCCESS, FAILURE, CANCELLED = ({"status": status} for status in ("success", "failure", "cancelled"))
FOREVER = 3600.0


class SeatTaken(Exception):
    """What a use case raises."""


class ManualClock:
    """Moves 0.25 s with each reading."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time, in seconds."""
        self.now += 0.25
        return self.now


@pytest.fixture
def metrics() -> RecordingMetrics:
    """What the use case is given."""
    return RecordingMetrics()


# ---- every kind of use case, as a function of what happens in it ----

Body = "Callable[[], object]"
Run = "Callable[[RecordingMetrics, Body], object]"


def function(track: Any, body: Body) -> object:
    """A function."""

    @track
    def book() -> object:
        return body()

    return book()


def method(track: Any, body: Body) -> object:
    """A method."""

    class BookSeat:
        @track
        def book(self) -> object:
            return body()

    return BookSeat().book()


def static_method(track: Any, body: Body) -> object:
    """A static method, decorated outside."""

    class BookSeat:
        @track
        @staticmethod
        def book() -> object:
            return body()

    return BookSeat.book()


def class_method(track: Any, body: Body) -> object:
    """A class method, decorated inside."""

    class BookSeat:
        @classmethod
        @track
        def book(cls) -> object:
            assert cls is BookSeat
            return body()

    return BookSeat.book()


def callable_object(track: Any, body: Body) -> object:
    """An object with `__call__`."""

    class BookSeat:
        def __call__(self) -> object:
            return body()

    return track(BookSeat())()


def partial(track: Any, body: Body) -> object:
    """A partial."""
    return track(functools.partial(body))()


def block(track: Any, body: Body) -> object:
    """A `with` block."""
    with track:
        return body()


def exit_stack(track: Any, body: Body) -> object:
    """A block entered through an ExitStack."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(track)
        return body()


def coroutine_function(track: Any, body: Body) -> object:
    """A coroutine function."""

    @track
    async def book() -> object:
        await asyncio.sleep(0)
        return body()

    assert inspect.iscoroutinefunction(book)
    return asyncio.run(book())


def coroutine_method(track: Any, body: Body) -> object:
    """A coroutine method."""

    class BookSeat:
        @track
        async def __call__(self) -> object:
            return body()

    return asyncio.run(BookSeat()())


def async_block(track: Any, body: Body) -> object:
    """An `async with` block."""

    async def book() -> object:
        async with track:
            await asyncio.sleep(0)
            return body()

    return asyncio.run(book())


def without_a_loop(track: Any, body: Body) -> object:
    """A coroutine function that never waits, driven by hand."""

    @track
    async def book() -> object:
        return body()

    try:
        book().send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("tracking waited")


SYNC = [function, method, static_method, class_method, callable_object, partial, block, exit_stack]
ASYNC = [coroutine_function, coroutine_method, async_block]
KINDS = [*SYNC, *ASYNC, without_a_loop]


def fail(error: BaseException) -> Callable[[], object]:
    """A body that raises."""

    def body() -> object:
        raise error

    return body


def assert_one_run(metrics: RecordingMetrics, *, error_type: str | None, status: dict[str, str]) -> None:
    """One attempt, with one end and one duration, and nothing else."""
    metrics.assert_counted("booking.attempts")
    if error_type is None:
        metrics.assert_counted("booking.success")
    else:
        metrics.assert_counted("booking.failure", {"error_type": error_type})
    metrics.assert_timed("booking.duration", status, value_ms=250.0)
    assert len(metrics.records) == 3, metrics


@pytest.mark.parametrize("kind", KINDS)
def test_success(kind, metrics):
    """What the use case returns is returned, and it counts as one attempt, one success and one duration."""
    result = object()

    assert kind(track_use_case("booking", metrics, clock=ManualClock()), lambda: result) is result
    assert_one_run(metrics, error_type=None, status=SUCCESS)


@pytest.mark.parametrize("kind", KINDS)
def test_failure(kind, metrics):
    """What the use case raises is raised, as the very same object, and counts by the name of its class."""
    error = SeatTaken("A1")

    with pytest.raises(SeatTaken) as raised:
        kind(track_use_case("booking", metrics, clock=ManualClock()), fail(error))
    assert raised.value is error
    assert_one_run(metrics, error_type="SeatTaken", status=FAILURE)


@pytest.mark.parametrize("stop", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("kind", [*SYNC, without_a_loop])
def test_what_stops_a_use_case_from_outside_is_a_failure_with_a_status_of_its_own(kind, stop, metrics):
    """A cancelled attempt ends as a failure, so that the counts add up, and its duration is kept apart."""
    with pytest.raises(stop):
        kind(track_use_case("booking", metrics, clock=ManualClock()), fail(stop()))
    assert_one_run(metrics, error_type=stop.__name__, status=CANCELLED)


def test_a_cancelled_task_counts_as_a_failure(metrics):
    """Cancelling the task of a use case is seen as such, and passes through."""

    @track_use_case("booking", metrics, clock=ManualClock())
    async def book() -> None:
        await asyncio.sleep(FOREVER)

    async def main() -> None:
        task = asyncio.create_task(book())
        await asyncio.sleep(0)
        metrics.assert_counted("booking.attempts")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert_one_run(metrics, error_type="CancelledError", status=CANCELLED)


def test_the_attempt_is_counted_before_the_use_case_begins_and_the_rest_after_it(metrics):
    """While it runs there is an attempt and no end; the time that recording takes is in no duration."""
    seen: list[int] = []

    @track_use_case("booking", metrics)
    def book() -> None:
        seen.append(len(metrics.records))

    book()
    assert seen == [1]
    assert [record.name for record in metrics.records] == ["booking.attempts", "booking.success", "booking.duration"]


# ---- where the service comes from ----


class BookSeat:
    """A use case that was given its metrics."""

    def __init__(self, metrics: RecordingMetrics) -> None:
        self.metrics = metrics

    @track_use_case("booking", attrgetter("metrics"))
    async def __call__(self, seat: str) -> str:
        """Book."""
        return seat

    @track_use_case("cancelling", lambda self: self.metrics)
    def cancel(self, seat: str) -> str:
        """Cancel."""
        return seat


def test_the_service_of_the_object_is_used():
    """One decorated class, many objects: each records to its own service."""
    one, other = RecordingMetrics(), RecordingMetrics()

    assert asyncio.run(BookSeat(one)("A1")) == "A1"
    assert BookSeat(other).cancel(seat="A2") == "A2"
    one.assert_counted("booking.success")
    other.assert_counted("cancelling.success")
    assert len(one.records) == len(other.records) == 3


def test_a_service_that_can_be_called_is_a_service():
    """What has `increment` is not asked for another service."""

    class Callable(RecordingMetrics):
        def __call__(self, *_: object) -> RecordingMetrics:
            raise AssertionError("called")

    metrics = Callable()
    function(track_use_case("booking", metrics), int)
    metrics.assert_counted("booking.success")


@pytest.mark.parametrize("missing", [attrgetter("metrics"), "metrics", None, 3])
@pytest.mark.parametrize("kind", [function, block, coroutine_function, async_block])
def test_a_service_that_cannot_be_found_is_said_once_and_nothing_else(kind, missing, caplog):
    """A wrong service does not change the outcome."""
    tracker = track_use_case("booking", missing)

    assert kind(tracker, lambda: 1) == 1
    with pytest.raises(SeatTaken):
        kind(tracker, fail(SeatTaken()))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "'booking'" in caplog.text


# ---- what is kept, what is refused ----


def test_a_decorated_use_case_keeps_its_name_and_signature():
    """Frameworks that look at functions see the use case."""
    assert BookSeat.cancel.__name__ == "cancel"
    assert BookSeat.cancel.__doc__ == "Cancel."
    assert list(inspect.signature(BookSeat.cancel).parameters) == ["self", "seat"]
    assert inspect.iscoroutinefunction(BookSeat.__call__)


def generator() -> Iterator[int]:
    """No use case."""
    yield 1


async def async_generator():
    """No use case."""
    yield 1


@pytest.mark.parametrize(
    "wrong",
    [generator, async_generator, contextlib.contextmanager(generator), contextlib.asynccontextmanager(async_generator)],
)
def test_generators_are_refused_where_they_are_decorated(wrong):
    """A generator would be over before it began; the message says what to do."""
    with pytest.raises(TypeError, match="put `with track_use_case"):
        track_use_case("booking", NullMetrics())(wrong)


@pytest.mark.parametrize("wrong", [BookSeat, "booking", None])
def test_what_cannot_be_decorated_is_refused(wrong):
    """Classes and things that cannot be called are mistakes of the programmer."""
    with pytest.raises(TypeError, match="cannot track"):
        track_use_case("booking", NullMetrics())(wrong)
    with pytest.raises(TypeError):
        track_use_case(lambda: None)


# ---- at once ----


def test_one_tracker_for_many_blocks_at_once(metrics):
    """Tasks and nested blocks that share a tracker have starts and ends of their own."""
    tracker = track_use_case("booking", metrics)

    async def book(number: int) -> None:
        with contextlib.suppress(SeatTaken):
            async with tracker:
                await asyncio.sleep(0)
                with tracker:
                    pass
                await asyncio.sleep(0)
                if number % 2:
                    raise SeatTaken

    async def main() -> None:
        await asyncio.gather(*map(book, range(50)))

    asyncio.run(main())
    metrics.assert_counted("booking.attempts", value=100)
    metrics.assert_counted("booking.success", value=75)
    metrics.assert_counted("booking.failure", {"error_type": "SeatTaken"}, value=25)
    metrics.assert_timed("booking.duration", SUCCESS, times=75)
    assert tracker._open == {}


def test_threads_share_a_tracker(metrics):
    """Exact counts from several threads, decorated and in blocks, recursion included."""
    tracker = track_use_case("booking", metrics)

    @tracker
    def book(depth: int) -> None:
        with tracker:
            if depth:
                book(depth - 1)

    threads = [threading.Thread(target=lambda: [book(2) for _ in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("booking.attempts", "booking.success"):
        metrics.assert_counted(name, value=8 * 50 * 6)
    metrics.assert_timed("booking.duration", SUCCESS, times=8 * 50 * 6)


def test_an_exit_without_an_entry_is_ignored(metrics):
    """Whoever calls the methods by hand, and one too many, records nothing."""
    tracker = track_use_case("booking", metrics)
    tracker.__exit__(None, None, None)
    asyncio.run(tracker.__aexit__(None, None, None))
    metrics.assert_nothing_recorded()


# ---- services that do what they should not ----


class Broken(RecordingMetrics):
    """A service whose every method does the same wrong thing."""

    def __init__(self, wrong: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self.wrong = wrong
        self.calls = 0

    async def increment(self, name: str, **_: Any) -> None:
        """Do it."""
        self.calls += 1
        await self.wrong()

    async def record_timing(self, name: str, **_: Any) -> None:
        """Do it."""
        self.calls += 1
        await self.wrong()


def raising(error: BaseException) -> Callable[[], Awaitable[None]]:
    """What raises."""

    async def wrong() -> None:
        raise error

    return wrong


async def hang() -> None:
    """Wait for what never comes."""
    await asyncio.get_running_loop().create_future()


async def spin() -> None:
    """Never end, and never wait for anything either."""
    while True:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def ignore_being_closed() -> None:
    """Wait, and go on waiting whatever happens."""
    while True:
        with contextlib.suppress(BaseException):
            await Bare()


class Bare:
    """A bare yield, as of another framework than asyncio."""

    def __await__(self) -> Iterator[None]:
        yield


class NotAService:
    """Has the name of one method, and it is nothing."""

    increment = None


class Plain:
    """Methods that are no coroutine functions, and record all the same."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def increment(self, name: str, **_: Any) -> None:
        """Record."""
        self.names.append(name)

    def record_timing(self, name: str, **_: Any) -> None:
        """Record."""
        self.names.append(name)


BROKEN = {
    "raises": lambda: Broken(raising(RuntimeError("user 17"))),
    "raises a cancellation": lambda: Broken(raising(asyncio.CancelledError())),
    "raises StopIteration": lambda: Broken(raising(StopIteration())),
    "raises no Exception": lambda: Broken(raising(BaseException())),
    "hangs": lambda: Broken(hang),
    "spins": lambda: Broken(spin),
    "waits without asyncio": lambda: Broken(ignore_being_closed),
    "is no service": NotAService,
    "cannot be awaited": type("Odd", (), {"increment": lambda *_, **__: 7, "record_timing": 3}),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("kind", [function, block, coroutine_function, async_block])
def test_a_broken_service_changes_nothing_and_is_said_once(kind, broken, caplog, recwarn):
    """Outcomes are those of the use case, nothing hangs, one line says that recording fails, no coroutine is left over."""
    tracker = track_use_case("booking", broken(), patience_seconds=0.02)

    assert kind(tracker, lambda: 1) == 1
    with pytest.raises(SeatTaken):
        kind(tracker, fail(SeatTaken()))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "user 17" not in caplog.text
    assert not recwarn.list


def test_methods_that_are_no_coroutine_functions_count(caplog):
    """A service that records without `async` is one that never waits."""
    plain = Plain()

    function(track_use_case("booking", plain), int)
    coroutine_function(track_use_case("booking", plain), int)
    assert plain.names == 2 * ["booking.attempts", "booking.success", "booking.duration"]
    assert not caplog.records


def test_ctrl_c_while_recording_is_not_swallowed():
    """A signal handler may raise anywhere, and these two mean the whole program."""
    for stop in (KeyboardInterrupt, SystemExit):
        with pytest.raises(stop):
            function(track_use_case("booking", Broken(raising(stop()))), int)
        with pytest.raises(stop):
            without_a_loop(track_use_case("booking", Broken(raising(stop()))), int)


@pytest.mark.parametrize("clock", [lambda: 1 / 0, lambda: None])
def test_a_broken_clock_costs_the_duration_alone(metrics, clock, caplog):
    """Counts go on; the duration is none, and is not recorded."""
    assert function(track_use_case("booking", metrics, clock=clock), lambda: 1) == 1
    metrics.assert_counted("booking.success")
    assert len(metrics.records) == 2
    assert len(caplog.records) == 1


# ---- services that wait ----


class Slow(RecordingMetrics):
    """Waits for a turn of the loop before it records, in a context of its caller's."""

    seen: ContextVar[int] = ContextVar("seen", default=0)

    async def increment(self, name: str, **options: Any) -> None:
        """Record later."""
        task = asyncio.current_task()
        self.seen.set(self.seen.get() + 1)
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        assert asyncio.current_task() is task
        await super().increment(name, **options)

    async def record_timing(self, name: str, **options: Any) -> None:
        """Record later."""
        await asyncio.create_task(asyncio.sleep(0.001))
        await super().record_timing(name, **options)


@pytest.mark.parametrize("kind", ASYNC)
def test_a_service_that_waits_is_waited_for_in_an_asynchronous_use_case(kind, caplog):
    """All of its records are taken, in one task, before the use case's result is there."""
    metrics = Slow()

    assert kind(track_use_case("booking", metrics, patience_seconds=60), lambda: 1) == 1
    metrics.assert_counted("booking.success")
    metrics.assert_timed("booking.duration", SUCCESS)
    assert not caplog.records


def test_a_service_that_waits_keeps_its_context():
    """What it sets in context variables is there after it has waited, as with `await`."""

    async def main() -> int:
        async with track_use_case("booking", Slow(), patience_seconds=60):
            pass
        return Slow.seen.get()

    assert asyncio.run(main()) == 2


def test_a_service_that_waits_is_closed_in_a_synchronous_use_case_even_if_a_loop_runs(caplog):
    """It cannot be waited for there: its `finally` runs, the record is lost, and that is said once."""
    closed: list[int] = []

    async def wrong() -> None:
        try:
            await asyncio.sleep(FOREVER)
        finally:
            closed.append(1)

    async def main() -> None:
        function(track_use_case("booking", Broken(wrong)), int)

    asyncio.run(main())
    assert len(closed) == 3
    assert "cannot be waited for" in caplog.text
    assert len(caplog.records) == 1


def test_a_service_that_took_too_long_is_not_waited_for_until_a_minute_later():
    """A backend that is down costs one wait, not three per use case; one that has recovered is used again."""
    recorded: list[str] = []

    async def recovered() -> None:
        await asyncio.sleep(0.001)
        recorded.append("record")

    async def book() -> None:
        async with tracker:
            pass

    clock = ManualClock()
    metrics = Broken(hang)
    tracker = track_use_case("booking", metrics, clock=clock, patience_seconds=0.01)
    asyncio.run(book())
    assert metrics.calls == 3
    assert clock.now - 10 < tracker._rest_until - 60 <= clock.now

    metrics.wrong, tracker._patience = recovered, FOREVER
    asyncio.run(book())
    assert recorded == []
    clock.now += 60
    asyncio.run(book())
    assert recorded == 3 * ["record"]


def test_what_a_service_waits_for_is_cancelled_with_it():
    """A task that a service began and waits for does not outlive the record that is given up."""
    tasks: list[asyncio.Task[None]] = []

    async def wrong() -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(FOREVER)))
        await tasks[-1]

    async def main() -> None:
        async with track_use_case("booking", Broken(wrong), patience_seconds=0.01):
            pass
        await asyncio.sleep(0)
        assert [task.cancelled() for task in tasks[:1]] == [True]
        for task in tasks[1:]:
            task.cancel()

    asyncio.run(main())


def test_a_cancellation_during_a_record_is_the_use_cases():
    """Cancelled while a service takes the attempt: the use case does not begin, and counts as cancelled."""
    metrics = RecordingMetrics()
    begun, ran = asyncio.Event(), False

    class Waiting(RecordingMetrics):
        async def increment(self, name: str, **options: Any) -> None:
            await metrics.increment(name, **options)
            if name == "booking.attempts":
                begun.set()
                await asyncio.sleep(FOREVER)

        async def record_timing(self, name: str, **options: Any) -> None:
            await metrics.record_timing(name, **options)

    tracker = track_use_case("booking", Waiting(), clock=ManualClock(), patience_seconds=FOREVER)

    async def book() -> None:
        nonlocal ran
        async with tracker:
            ran = True

    async def main() -> None:
        task = asyncio.create_task(book())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not ran
    assert tracker._open == {}
    assert_one_run(metrics, error_type="CancelledError", status=CANCELLED)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tasks do not know how often they were cancelled before 3.11")
def test_a_service_that_swallows_a_cancellation_does_not_swallow_the_tasks():
    """The task ends although a service caught everything."""
    waiting = asyncio.Event()

    async def wrong() -> None:
        waiting.set()
        with contextlib.suppress(BaseException):
            await asyncio.sleep(FOREVER)

    async def main() -> None:
        async def book() -> None:
            async with track_use_case("booking", Broken(wrong), patience_seconds=FOREVER):
                raise AssertionError("begun")

        task = asyncio.create_task(book())
        await waiting.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()  # the failure is recorded through the same service
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is new in 3.11")
def test_a_time_limit_of_the_service_ends_its_record_and_not_the_use_case(caplog):
    """`asyncio.timeout` inside a service cancels the task it runs in, and takes that back."""

    async def limited() -> None:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(FOREVER)

    async def main() -> int:
        async with track_use_case("booking", Broken(limited), patience_seconds=60):
            await asyncio.sleep(0)
        return asyncio.current_task().cancelling()

    assert asyncio.run(main()) == 0
    assert "TimeoutError" in caplog.text


def test_a_service_whose_own_work_is_cancelled_does_not_cancel_the_use_case(caplog):
    """A connection pool that cancels what waits for it is a failure of the service."""

    async def cancelled() -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.cancel)
        await future

    async def main() -> int:
        async with track_use_case("booking", Broken(cancelled), patience_seconds=60):
            return 1

    assert asyncio.run(main()) == 1
    assert "CancelledError" in caplog.text


def test_a_use_case_that_is_closed_while_a_service_waits_can_be_closed():
    """`GeneratorExit` passes through: nothing asks the loop for more."""

    async def book() -> None:
        async with track_use_case("booking", Broken(hang), patience_seconds=FOREVER):
            raise AssertionError("begun")

    async def main() -> None:
        for coroutine in (book(), function_that_waits()):
            coroutine.send(None)
            coroutine.close()

    async def function_that_waits() -> None:
        async with track_use_case("booking", Broken(hang), patience_seconds=0):
            await Bare()

    asyncio.run(main())


# ---- names CloudWatch takes ----


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("SeatTaken", "SeatTaken"),
        ("Überfüllt", r"\xdcberf\xfcllt"),
        ("x" * 300, "x" * 255),
        (" ", "unnamed"),
        ("", "unnamed"),
    ],
)
def test_any_class_name_can_be_published(name, shown, metrics):
    """A failure counts whatever the class of the exception is called."""
    error = type(name, (Exception,), {})()

    assert error_type_of(error) == shown
    with pytest.raises(type(error)):
        function(track_use_case("booking", metrics), fail(error))
    metrics.assert_counted("booking.failure", {"error_type": shown})


def test_over_the_client(client: CloudWatchMetrics, sink: InMemorySink):
    """The three series arrive under the client's namespace, in the units of their kind."""
    with track_use_case("booking", ClientMetrics(client, "Ticketing"), clock=ManualClock()):
        pass
    assert client.flush()
    assert sink.values("Ticketing", "booking.attempts") == {1.0: 1}
    assert sink.values("Ticketing", "booking.success") == {1.0: 1}
    assert sink.values("Ticketing", "booking.duration", SUCCESS) == {250.0: 1}


def test_importing_costs_no_asyncio_and_no_boto3():
    """A program that tracks synchronous use cases pays for neither."""
    program = (
        "import sys, retainwise_metrics.use_cases, retainwise_metrics.adapters\n"
        "print([name for name in ('asyncio', 'boto3', 'logging', 'inspect') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
