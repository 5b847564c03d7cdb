"""`timed` and `counted` on every kind of callable, in every way a call can end."""

# ruff: noqa: D103  # tests have docstrings; the kinds of callable are named by what they are
from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import logging
import sys
import threading
import traceback
import types
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from retainwise_metrics.decorators import counted, outcome_of, timed
from retainwise_metrics.default_client import set_metrics_client
from retainwise_metrics.service import NullMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

NAME = "WorkerEndToEndDuration"
SECONDS = 2.5
VALUE = object()


class ManualClock:
    """
    A clock that moves when a test says so, and counts how often it is read.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.reads = 0

    def __call__(self) -> float:
        """The time, in seconds."""
        self.reads += 1
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class Records:
    """
    A recorder that keeps what it is given, and can be told to fail.
    """

    def __init__(self, failure: Exception | None = None) -> None:
        self.times: list[tuple[str, float, object, object]] = []
        self.counts: list[tuple[str, float, object, object]] = []
        self.failure = failure

    def put_metric(self, name: str, value: float, unit: object = None, **options: object) -> bool:
        raise AssertionError("decorators use the two specific methods")

    def record_time(self, name: str, seconds: float, *, namespace: object = None, dimensions: object = None) -> bool:
        if self.failure is not None:
            raise self.failure
        self.times.append((name, seconds, namespace, dimensions))
        return True

    def increment_counter(
        self, name: str, *, namespace: object = None, dimensions: object = None, value: float = 1
    ) -> bool:
        if self.failure is not None:
            raise self.failure
        self.counts.append((name, value, namespace, dimensions))
        return True

    @property
    def seconds(self) -> list[float]:
        return [seconds for _, seconds, _, _ in self.times]


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the coroutine waited")


# Every kind takes a decorator and a body, and returns a function that makes one call and hands back what came of it.
Decorate = Any
Body = Any


def function(decorate: Decorate, body: Body) -> Callable[[], object]:
    @decorate
    def run() -> object:
        return body()

    return run


def method(decorate: Decorate, body: Body) -> Callable[[], object]:
    class Job:
        @decorate
        def run(self) -> object:
            assert type(self) is Job
            return body()

    return Job().run


def bound_method(decorate: Decorate, body: Body) -> Callable[[], object]:
    class Job:
        def run(self) -> object:
            assert type(self) is Job
            return body()

    return decorate(Job().run)


def class_method_inside(decorate: Decorate, body: Body) -> Callable[[], object]:
    class Job:
        @classmethod
        @decorate
        def run(cls) -> object:
            assert cls is Job
            return body()

    return Job.run


def class_method_outside(decorate: Decorate, body: Body) -> Callable[[], object]:
    class Job:
        @decorate
        @classmethod
        def run(cls) -> object:
            assert cls is Job
            return body()

    return Job().run


def static_method_inside(decorate: Decorate, body: Body) -> Callable[[], object]:
    class Job:
        @staticmethod
        @decorate
        def run() -> object:
            return body()

    return Job().run


def static_method_outside(decorate: Decorate, body: Body) -> Callable[[], object]:
    class Job:
        @decorate
        @staticmethod
        def run() -> object:
            return body()

    return Job.run


def property_getter(decorate: Decorate, body: Body) -> Callable[[], object]:
    class Job:
        @property
        @decorate
        def result(self) -> object:
            return body()

    return lambda: Job().result


def partial(decorate: Decorate, body: Body) -> Callable[[], object]:
    def run(body: Any) -> object:
        return body()

    return decorate(functools.partial(run, body))


def callable_object(decorate: Decorate, body: Body) -> Callable[[], object]:
    class Job:
        def __call__(self) -> object:
            return body()

    return decorate(Job())


def coroutine_function(decorate: Decorate, body: Body) -> Callable[[], object]:
    @decorate
    async def run() -> object:
        return body()

    return lambda: drive(run())


def coroutine_method(decorate: Decorate, body: Body) -> Callable[[], object]:
    class Job:
        @decorate
        async def run(self) -> object:
            assert type(self) is Job
            return body()

    return lambda: drive(Job().run())


def coroutine_partial(decorate: Decorate, body: Body) -> Callable[[], object]:
    async def run(body: Any) -> object:
        return body()

    run = decorate(functools.partial(functools.partial(run), body))
    return lambda: drive(run())


def coroutine_callable_object(decorate: Decorate, body: Body) -> Callable[[], object]:
    class Job:
        async def __call__(self) -> object:
            return body()

    run = decorate(Job())
    return lambda: drive(run())


def awaitable_generator(decorate: Decorate, body: Body) -> Callable[[], object]:
    @decorate
    @types.coroutine
    def run() -> object:
        return body()
        yield

    async def await_it() -> object:
        return await run()

    return lambda: drive(await_it())


def generator_function(decorate: Decorate, body: Body) -> Callable[[], object]:
    @decorate
    def run() -> Any:
        yield 1
        yield body()

    return lambda: list(run())[-1]


def generator_callable_object(decorate: Decorate, body: Body) -> Callable[[], object]:
    class Job:
        def __call__(self) -> Any:
            yield body()

    run = decorate(functools.partial(Job()))
    return lambda: list(run())[-1]


def generator_of_a_return_value(decorate: Decorate, body: Body) -> Callable[[], object]:
    @decorate
    def run() -> Any:
        yield 1
        return body()

    def collect() -> Any:
        return (yield from run())

    def last() -> object:
        collecting = collect()
        next(collecting)
        try:
            next(collecting)
        except StopIteration as end:
            return end.value

    return last


def async_generator_function(decorate: Decorate, body: Body) -> Callable[[], object]:
    @decorate
    async def run() -> Any:
        yield 1
        yield body()

    async def collect() -> object:
        return [item async for item in run()][-1]

    return lambda: drive(collect())


def async_generator_callable_object(decorate: Decorate, body: Body) -> Callable[[], object]:
    class Job:
        async def __call__(self) -> Any:
            yield body()

    run = decorate(Job())

    async def collect() -> object:
        return [item async for item in run()][-1]

    return lambda: drive(collect())


def context_manager_below(decorate: Decorate, body: Body) -> Callable[[], object]:
    @decorate
    @contextlib.contextmanager
    def opened() -> Any:
        yield body

    def run() -> object:
        with opened() as inner:
            return inner()

    return run


def context_manager_above(decorate: Decorate, body: Body) -> Callable[[], object]:
    @contextlib.contextmanager
    @decorate
    def opened() -> Any:
        yield body

    def run() -> object:
        with opened() as inner:
            return inner()

    return run


def context_manager_method(decorate: Decorate, body: Body) -> Callable[[], object]:
    class Store:
        @contextlib.contextmanager
        def opened(self, inner: Any) -> Any:
            assert type(self) is Store
            yield inner

    opened = decorate(functools.partial(Store().opened, body))

    def run() -> object:
        with opened() as inner:
            return inner()

    return run


def context_manager_as_decorator(decorate: Decorate, body: Body) -> Callable[[], object]:
    @decorate
    @contextlib.contextmanager
    def opened() -> Any:
        yield

    return opened()(body)


def async_context_manager_below(decorate: Decorate, body: Body) -> Callable[[], object]:
    @decorate
    @contextlib.asynccontextmanager
    async def opened() -> Any:
        yield body

    async def run() -> object:
        async with opened() as inner:
            return inner()

    return lambda: drive(run())


def async_context_manager_above(decorate: Decorate, body: Body) -> Callable[[], object]:
    @contextlib.asynccontextmanager
    @decorate
    async def opened() -> Any:
        yield body

    async def run() -> object:
        async with opened() as inner:
            return inner()

    return lambda: drive(run())


def with_statement(decorate: Decorate, body: Body) -> Callable[[], object]:
    def run() -> object:
        with decorate:
            return body()

    return run


def async_with_statement(decorate: Decorate, body: Body) -> Callable[[], object]:
    async def run() -> object:
        async with decorate:
            return body()

    return lambda: drive(run())


def exit_stack(decorate: Decorate, body: Body) -> Callable[[], object]:
    def run() -> object:
        with contextlib.ExitStack() as stack:
            stack.enter_context(decorate)
            return body()

    return run


KINDS = [
    function,
    method,
    bound_method,
    class_method_inside,
    class_method_outside,
    static_method_inside,
    static_method_outside,
    property_getter,
    partial,
    callable_object,
    coroutine_function,
    coroutine_method,
    coroutine_partial,
    coroutine_callable_object,
    awaitable_generator,
    generator_function,
    generator_callable_object,
    generator_of_a_return_value,
    async_generator_function,
    async_generator_callable_object,
    context_manager_below,
    context_manager_above,
    context_manager_method,
    context_manager_as_decorator,
    async_context_manager_below,
    async_context_manager_above,
    with_statement,
    async_with_statement,
    exit_stack,
]

ENDS = {
    "returns": (None, "success"),
    "fails": (ValueError("bad row"), "error"),
    "fails to look up": (LookupError(), "error"),
    "is cancelled": (asyncio.CancelledError(), "cancelled"),
    "is interrupted": (KeyboardInterrupt(), "cancelled"),
    "is closed": (GeneratorExit(), "cancelled"),
    "exits": (SystemExit(3), "cancelled"),
}

MATRIX = [
    pytest.param(kind, error, outcome, id=f"{kind.__name__} {end}")
    for kind in KINDS
    for end, (error, outcome) in ENDS.items()
]


def call_and_check_what_comes_out(run: Callable[[], object], error: BaseException | None) -> None:
    """The value of a call that returns, or the very exception of one that does not."""
    if error is None:
        assert run() is VALUE
        return
    error.__traceback__ = None
    with pytest.raises(type(error)) as caught:
        run()
    assert caught.value is error
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(("kind", "error", "outcome"), MATRIX)
def test_timed_records_the_exact_duration_of_every_kind_of_call_however_it_ends(kind, error, outcome):
    """
    One call makes one record, of the time the body took, and the caller sees the same value or exception as without it.
    """
    clock, records = ManualClock(), Records()

    def body() -> object:
        clock.advance(SECONDS)
        if error is not None:
            raise error
        return VALUE

    run = kind(timed(NAME, client=records, namespace="Jobs", outcome=True, clock=clock), body)

    assert records.times == []
    call_and_check_what_comes_out(run, error)
    assert records.times == [(NAME, SECONDS, "Jobs", {"Outcome": outcome})]
    assert clock.reads == 2

    call_and_check_what_comes_out(run, error)
    assert records.seconds == [SECONDS, SECONDS]


@pytest.mark.parametrize(("kind", "error", "outcome"), MATRIX)
def test_counted_counts_every_kind_of_call_once_however_it_ends(kind, error, outcome):
    """
    One call is one count; with `errors_only` a call counts only if it raised an `Exception`, by the name of its class.
    """
    every, failed = Records(), Records()

    def body() -> object:
        if error is not None:
            raise error
        return VALUE

    call_and_check_what_comes_out(kind(counted(NAME, client=every, namespace="Jobs", outcome=True), body), error)
    call_and_check_what_comes_out(kind(counted(NAME, client=failed, errors_only=True), body), error)

    assert every.counts == [(NAME, 1, "Jobs", {"Outcome": outcome})]
    expected = [(NAME, 1, None, {"ErrorType": type(error).__name__})] if outcome == "error" else []
    assert failed.counts == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [timed, counted])
@pytest.mark.parametrize("error", [None, KeyError("row")], ids=["returns", "fails"])
def test_a_failing_recorder_changes_nothing_for_the_caller(kind, make, error):
    """
    The call returns or raises what it would have without metrics, even if the recorder raises each time.
    """

    def body() -> object:
        if error is not None:
            raise error
        return VALUE

    run = kind(make(NAME, client=Records(failure=RuntimeError("out of order"))), body)

    call_and_check_what_comes_out(run, error)
    call_and_check_what_comes_out(run, error)


def test_a_failing_recorder_is_reported_once_and_without_its_message(caplog):
    """
    One warning per decorator names the metric and the kind of failure; the failure's text may hold a dimension value.
    """
    measured = timed(NAME, client=Records(failure=RuntimeError("tenant-123 is odd")))(lambda: None)

    with caplog.at_level(logging.WARNING, logger="retainwise_metrics"):
        measured()
        measured()

    (record,) = caplog.records
    assert record.name == "retainwise_metrics"
    assert NAME in record.getMessage()
    assert "RuntimeError" in record.getMessage()
    assert "tenant-123" not in record.getMessage()


def test_a_broken_log_handler_does_not_reach_the_caller_either():
    """
    Reporting a failing recorder is best effort.
    """

    def refuse(record: logging.LogRecord) -> bool:
        raise OSError("disk full")

    logger = logging.getLogger("retainwise_metrics")
    logger.addFilter(refuse)
    try:
        assert timed(NAME, client=Records(failure=RuntimeError()))(lambda: VALUE)() is VALUE
    finally:
        logger.removeFilter(refuse)


def test_outcome_is_no_dimension_unless_asked_for():
    """
    By default a record carries exactly the dimensions given, or none.
    """
    records = Records()
    timed(NAME, client=records)(lambda: None)()
    timed(NAME, client=records, dimensions={"Endpoint": "/upload"})(lambda: None)()
    counted(NAME, client=records, dimensions={"Endpoint": "/upload"})(lambda: None)()

    assert [dimensions for *_, dimensions in records.times] == [{}, {"Endpoint": "/upload"}]
    assert [dimensions for *_, dimensions in records.counts] == [{"Endpoint": "/upload"}]


@pytest.mark.parametrize("outcome", [False, True])
def test_dimensions_are_copied_when_decorating(outcome):
    """
    Changing the mapping afterwards changes no record.
    """
    records, dimensions = Records(), {"Endpoint": "/upload"}
    measured = timed(NAME, client=records, dimensions=dimensions, outcome=outcome)(lambda: None)
    dimensions["Endpoint"] = "/other"
    measured()

    assert records.times[0][3]["Endpoint"] == "/upload"
    assert dimensions == {"Endpoint": "/other"}


@pytest.mark.parametrize("options", [{}, {"outcome": True}], ids=["plain", "with outcome"])
def test_dimensions_that_are_no_mapping_reach_the_recorder_as_they_are(options):
    """
    Refusing and counting a bad record is the client's business.
    """
    records = Records()
    timed(NAME, client=records, dimensions=["Endpoint"], **options)(lambda: None)()
    counted(NAME, client=records, dimensions=["Endpoint"], **options)(lambda: None)()

    assert records.times[0][3] == ["Endpoint"]
    assert records.counts[0][3] == ["Endpoint"]


def test_errors_only_and_outcome_add_a_dimension_each():
    """
    The two options are independent.
    """
    records = Records()
    with pytest.raises(ZeroDivisionError), counted(NAME, client=records, outcome=True, errors_only=True):
        raise ZeroDivisionError

    assert records.counts[0][3] == {"Outcome": "error", "ErrorType": "ZeroDivisionError"}


@pytest.mark.parametrize(
    ("error", "outcome"), [(None, "success"), *((error, outcome) for error, outcome in ENDS.values() if error)]
)
def test_outcome_of_tells_failure_from_being_stopped(error, outcome):
    """
    What is not an `Exception` stops a call from outside.
    """
    assert outcome_of(error) == outcome


def test_without_a_client_the_process_wide_one_of_the_moment_takes_the_record():
    """
    It is looked up at the end of each call, so a decorator follows `set_metrics_client`.
    """
    first, second = Records(), Records()
    measured = timed(NAME)(counted(NAME)(lambda: None))
    previous = set_metrics_client(first)
    try:
        measured()
        set_metrics_client(second)
        measured()
    finally:
        set_metrics_client(previous)

    assert (len(first.times), len(first.counts)) == (1, 1)
    assert (len(second.times), len(second.counts)) == (1, 1)


def test_a_no_op_client_works():
    """
    `NullMetrics` is a client like any other.
    """
    assert timed(NAME, client=NullMetrics())(lambda: VALUE)() is VALUE
    assert counted(NAME, client=NullMetrics())(lambda: VALUE)() is VALUE


# --- what a decorated function looks like


async def a_coroutine(self, row: int, /, *, strict: bool = False) -> int:
    """Documented."""


def a_generator(self, row: int, /, *, strict: bool = False) -> int:
    """Documented."""
    yield


async def an_async_generator(self, row: int, /, *, strict: bool = False) -> int:
    """Documented."""
    yield


def a_function(self, row: int, /, *, strict: bool = False) -> int:
    """Documented."""


@pytest.mark.parametrize("make", [timed, counted])
@pytest.mark.parametrize("original", [a_function, a_coroutine, a_generator, an_async_generator])
def test_a_decorated_function_keeps_its_kind_name_docstring_and_signature(make, original):
    """
    Frameworks that inspect functions (routers, test runners) see what they would have seen.
    """
    measured = make(NAME, client=Records())(original)

    assert measured is not original
    assert measured.__wrapped__ is original
    for kind in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        assert kind(measured) == kind(original)
    assert (measured.__name__, measured.__qualname__, measured.__module__, measured.__doc__) == (
        original.__name__,
        original.__qualname__,
        original.__module__,
        original.__doc__,
    )
    assert inspect.signature(measured) == inspect.signature(original)
    assert measured.__annotations__ == original.__annotations__


def test_arguments_reach_the_function():
    """
    Positional and keyword arguments pass through.
    """
    measured = timed(NAME, client=Records())(lambda *args, **kwargs: (args, kwargs))

    assert measured(1, 2, self=3, name=4) == ((1, 2), {"self": 3, "name": 4})


def test_attributes_of_a_function_stay_reachable():
    """
    Marks set by other decorators survive.
    """

    def marked() -> None: ...

    marked.route = "/upload"
    assert timed(NAME, client=Records())(marked).route == "/upload"


def test_decorators_stack():
    """
    Measuring a measured function, or context manager, records for both.
    """
    clock, records = ManualClock(), Records()

    @counted("Opened", client=records)
    @timed(NAME, client=records, clock=clock)
    @contextlib.contextmanager
    def opened() -> Any:
        clock.advance(1)
        yield
        clock.advance(1)

    with opened():
        clock.advance(SECONDS)

    assert records.seconds == [SECONDS + 2]
    assert [name for name, *_ in records.counts] == ["Opened"]


@pytest.mark.parametrize("make", [timed, counted])
def test_forgetting_the_name_is_an_error_while_decorating(make):
    """
    `@timed` without parentheses would otherwise turn the function into a decorator.
    """
    with pytest.raises(TypeError, match=r"@timed\('UploadDuration'\), with parentheses; got <function a_function"):
        make(a_function)


def test_a_name_that_is_no_string_is_the_recorders_to_refuse():
    """
    A bad name raises neither while decorating nor while calling.
    """
    records = Records()
    timed(5, client=records)(lambda: None)()
    counted(None, client=records)(lambda: None)()

    assert records.times[0][0] == 5
    assert records.counts[0][0] is None


@pytest.mark.parametrize("target", [object(), type("Job", (), {}), property(lambda self: 1), 3])
def test_what_cannot_be_called_or_is_a_class_is_refused_while_decorating(target):
    """
    A decorated class would no longer be a class; anything else would never be measured.
    """
    with pytest.raises(TypeError, match="decorate a function, a method or a callable object"):
        timed(NAME, client=Records())(target)


# --- exceptions


def test_an_exception_keeps_its_traceback_and_gains_one_frame():
    """
    The traceback leads to the failing line through the wrapper, and nothing else of this library.
    """

    def fail() -> None:
        raise ValueError

    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the traceback is what is looked at
        timed(NAME, client=Records(), outcome=True)(fail)()

    assert [frame.name for frame in traceback.extract_tb(caught.tb)][1:] == ["call", "fail"]


def test_a_context_manager_may_still_swallow_exceptions():
    """
    Measuring a manager that handles exceptions leaves that to it, and records what the block did to it.
    """
    records = Records()

    @timed(NAME, client=records, outcome=True)
    @contextlib.contextmanager
    def forgiving() -> Any:
        with contextlib.suppress(KeyError):
            yield

    with forgiving():
        raise KeyError

    assert [dimensions for *_, dimensions in records.times] == [{"Outcome": "success"}]


def test_real_cancellation_ends_the_measurement_and_the_task():
    """
    A task cancelled while its coroutine waits is cancelled, and recorded as such.
    """
    records = Records()

    @timed(NAME, client=records, outcome=True)
    async def wait(started: asyncio.Event) -> None:
        started.set()
        await asyncio.Event().wait()

    async def main() -> bool:
        started = asyncio.Event()
        task = asyncio.ensure_future(wait(started))
        await started.wait()
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(main())
    assert [dimensions for *_, dimensions in records.times] == [{"Outcome": "cancelled"}]


# --- generators


def test_a_generator_is_measured_from_the_first_next_to_the_end_with_its_consumers_time():
    """
    Time before the first `next` does not count; time spent by the consumer between items does.
    """
    clock, records = ManualClock(), Records()

    @timed(NAME, client=records, clock=clock)
    def rows() -> Any:
        clock.advance(1)
        yield 1
        clock.advance(2)
        yield 2

    running = rows()
    clock.advance(100)
    for _ in running:
        clock.advance(10)

    assert records.seconds == [23]


def test_a_generator_that_is_never_started_is_not_measured():
    """
    Nothing of it ran.
    """
    records = Records()

    @counted(NAME, client=records)
    def rows() -> Any:
        yield

    rows().close()

    assert records.counts == []


def test_a_generator_passes_values_exceptions_and_its_return_value_both_ways():
    """
    `send`, `throw` and `return` work through the decorator as through `yield from`.
    """
    records, received = Records(), []

    @timed(NAME, client=records, outcome=True)
    def echo() -> Any:
        while len(received) < 3:
            try:
                received.append((yield len(received)))
            except LookupError as error:  # one round is one exchange
                received.append(error)
        return "done"

    error = KeyError("row")
    running = echo()
    assert next(running) == 0
    assert running.send("a") == 1
    assert running.throw(error) == 2
    with pytest.raises(StopIteration) as end:
        running.send("b")
    assert end.value.value == "done"
    assert received == ["a", error, "b"]
    assert [dimensions for *_, dimensions in records.times] == [{"Outcome": "success"}]


def test_closing_a_generator_runs_its_clean_up_and_records_a_cancellation():
    """
    A consumer that stops early ends the measurement, once.
    """
    records, cleaned = Records(), []

    @timed(NAME, client=records, outcome=True)
    def rows() -> Any:
        try:
            yield 1
        finally:
            cleaned.append(True)

    running = rows()
    next(running)
    running.close()
    running.close()

    assert cleaned == [True]
    assert [dimensions for *_, dimensions in records.times] == [{"Outcome": "cancelled"}]


def test_an_abandoned_generator_is_recorded_when_it_is_collected():
    """
    Dropping the last reference closes a generator; the measurement ends there and the clean-up still runs.
    """
    records = Records()

    @counted(NAME, client=records, outcome=True)
    def rows() -> Any:
        yield 1

    running = rows()
    next(running)
    del running
    gc.collect()

    assert [dimensions for *_, dimensions in records.counts] == [{"Outcome": "cancelled"}]


def test_an_async_generator_passes_values_and_exceptions_both_ways():
    """
    `asend` and `athrow` work through the decorator, with the very same objects and no context added.
    """
    records, received = Records(), []

    @timed(NAME, client=records, outcome=True)
    async def echo() -> Any:
        while len(received) < 3:
            try:
                received.append((yield len(received)))
            except LookupError as error:  # one round is one exchange
                received.append(error)
        raise OSError

    async def main() -> None:
        error = KeyError("row")
        running = echo()
        assert await running.__anext__() == 0
        assert await running.asend("a") == 1
        assert await running.athrow(error) == 2
        with pytest.raises(OSError) as end:  # noqa: PT011  # it carries no message
            await running.asend("b")
        assert end.value.__context__ is None
        assert received == ["a", error, "b"]

    drive(main())
    assert [dimensions for *_, dimensions in records.times] == [{"Outcome": "error"}]


def test_what_an_async_generator_raises_after_handling_a_thrown_exception_has_no_context():
    """
    The wrapper leaves its own handler before it passes a thrown exception on: the two are not chained.
    """

    @timed(NAME, client=Records())
    async def rows() -> Any:
        with contextlib.suppress(KeyError):
            yield 1
        raise OSError

    async def main() -> BaseException:
        running = rows()
        await running.__anext__()
        with pytest.raises(OSError) as caught:  # noqa: PT011  # it carries no message
            await running.athrow(KeyError())
        return caught.value

    assert drive(main()).__context__ is None


def test_closing_an_async_generator_runs_its_clean_up_and_records_a_cancellation():
    """
    `aclose` reaches the generator's `finally`, which may wait.
    """
    records, cleaned = Records(), []

    @timed(NAME, client=records, outcome=True)
    async def rows() -> Any:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    async def main() -> None:
        running = rows()
        await running.__anext__()
        await running.aclose()
        await running.aclose()

    asyncio.run(main())
    assert cleaned == [True]
    assert [dimensions for *_, dimensions in records.times] == [{"Outcome": "cancelled"}]


def test_an_async_generator_that_ignores_being_closed_fails_as_it_would_undecorated():
    """
    Python's own complaint comes through.
    """

    @timed(NAME, client=Records())
    async def stubborn() -> Any:
        with contextlib.suppress(GeneratorExit):
            yield 1
        yield 2

    async def main() -> None:
        running = stubborn()
        await running.__anext__()
        with pytest.raises(RuntimeError, match="async generator ignored GeneratorExit"):
            await running.aclose()

    drive(main())


def test_an_event_loop_closes_an_unfinished_async_generator_without_complaints():
    """
    At the end of the loop the generator is closed once, by its wrapper, and not a second time at the same moment.
    """
    records, complaints, cleaned, kept = Records(), [], [], []

    @timed(NAME, client=records, outcome=True)
    async def rows() -> Any:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        running = rows()
        kept.append(running)
        await running.__anext__()

    asyncio.run(main())
    assert complaints == []
    assert cleaned == [True]
    assert [dimensions for *_, dimensions in records.times] == [{"Outcome": "cancelled"}]


def test_measuring_an_async_generator_leaves_the_hooks_of_the_event_loop_in_place():
    """
    Generators that are not measured are still closed by the loop.
    """

    @timed(NAME, client=Records())
    async def rows() -> Any:
        yield 1

    async def main() -> None:
        before = sys.get_asyncgen_hooks()
        assert [row async for row in rows()] == [1]
        assert sys.get_asyncgen_hooks() == before
        assert before.firstiter is not None

    asyncio.run(main())


def test_an_exception_thrown_into_an_async_generator_is_released_at_once():
    """
    No reference cycle keeps the exception, and the locals of its traceback, until the next garbage collection.
    """

    class Thrown(Exception):  # not an error, a thing to count references of
        pass

    @timed(NAME, client=Records())
    async def rows() -> Any:
        yield 1

    async def main() -> weakref.ref[Thrown]:
        running = rows()
        await running.__anext__()
        thrown = Thrown()
        reference = weakref.ref(thrown)
        try:
            await running.athrow(thrown)
        except Thrown:
            del thrown
        return reference

    gc.disable()
    try:
        assert drive(main())() is None
    finally:
        gc.enable()


# --- one decorator, many calls


def test_recursion_measures_every_level():
    """
    Each call has its own start.
    """
    clock, records = ManualClock(), Records()

    @timed(NAME, client=records, clock=clock)
    def descend(levels: int) -> None:
        clock.advance(1)
        if levels > 1:
            descend(levels - 1)

    descend(3)
    assert records.seconds == [1, 2, 3]


def test_one_timer_may_be_entered_again_inside_itself():
    """
    Blocks of one object nest, in one function or through calls.
    """
    clock, records = ManualClock(), Records()
    timer = timed(NAME, client=records, clock=clock)

    def inner() -> None:
        with timer:
            clock.advance(1)

    with timer:
        with timer:
            clock.advance(10)
            inner()
        clock.advance(100)

    assert records.seconds == [1, 11, 111]


def test_one_timer_may_be_shared_by_tasks():
    """
    Overlapping blocks of many tasks keep their own starts, in whatever order they end.
    """
    clock, records = ManualClock(), Records()
    timer = timed(NAME, client=records, clock=clock)

    async def work(until: asyncio.Event) -> None:
        async with timer:
            await until.wait()

    async def main() -> None:
        events = [asyncio.Event() for _ in range(3)]
        tasks = []
        for event in events:
            tasks.append(asyncio.ensure_future(work(event)))
            await asyncio.sleep(0)
            clock.advance(1)
        for event, task in zip(events, tasks, strict=True):
            event.set()
            await task
            clock.advance(10)

    asyncio.run(main())
    assert records.seconds == [3, 12, 21]


def test_one_timer_may_be_shared_by_interleaved_generators():
    """
    A block inside a generator belongs to that generator, although all run in one thread.
    """
    clock, records = ManualClock(), Records()
    timer = timed(NAME, client=records, clock=clock)

    def rows() -> Any:
        with timer:
            yield

    first, second = rows(), rows()
    next(first)
    clock.advance(1)
    next(second)
    clock.advance(10)
    first.close()
    clock.advance(100)
    second.close()

    assert records.seconds == [11, 110]


def test_a_block_may_end_in_another_thread_than_it_began_in():
    """
    Frameworks run the two halves of a generator dependency on different threads of a pool.
    """
    clock, records = ManualClock(), Records()
    timer = timed(NAME, client=records, clock=clock)

    def dependency() -> Any:
        with timer:
            yield

    running = dependency()
    for _ in range(2):
        thread = threading.Thread(target=next, args=(running, None))
        thread.start()
        thread.join()
        clock.advance(SECONDS)

    assert records.seconds == [SECONDS]


@pytest.mark.parametrize("use", ["decorator", "block"])
def test_threads_share_a_decorator_without_losing_or_mixing_calls(use):
    """
    Every call of every thread is recorded once, with its own duration, under constant thread switching.
    """
    records, threads, calls = Records(), 8, 500
    local = threading.local()

    def clock() -> int:
        local.now = getattr(local, "now", 1000 * threading.get_ident()) + 1
        return local.now

    timer = timed(NAME, client=records, clock=clock)
    measured = timer(lambda: None)

    def work() -> None:
        for _ in range(calls):
            if use == "decorator":
                measured()
            else:
                with timer:
                    pass

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)

    assert records.seconds == [1] * (threads * calls)


def test_nested_exit_stack_entries_of_one_timer_end_in_reverse_order():
    """
    A stack enters and leaves from frames of its own; the newest start goes with the first exit.
    """
    clock, records = ManualClock(), Records()
    timer = timed(NAME, client=records, clock=clock)

    with contextlib.ExitStack() as stack:
        stack.enter_context(timer)
        clock.advance(1)
        stack.enter_context(timer)
        clock.advance(10)

    assert records.seconds == [10, 11]


def test_an_exit_without_an_entry_records_nothing():
    """
    There is no duration to tell.
    """
    records = Records()
    timed(NAME, client=records).__exit__(None, None, None)

    assert records.times == []
