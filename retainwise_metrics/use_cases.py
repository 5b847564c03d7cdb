"""
Measure the use cases of an application through the `MetricsService` it was given.

`track_use_case("booking", metrics)` records, around each run of a use case:

====================  ============  ============================================================================
`booking.attempts`    Count         it was begun
`booking.success`     Count         it returned
`booking.failure`     Count         it did not; dimension `error_type`: name of the exception's class
`booking.duration`    Milliseconds  from begin to end; dimension `status`: `success`, `failure` or `cancelled`
====================  ============  ============================================================================

Rules
1. Each attempt ends in exactly one of success and failure, so `success / attempts` is true. What is cancelled (or
   stopped by Ctrl-C or `SystemExit`) is a failure with the error type of what stopped it: whoever asked did not get what
   was asked for. Those who see it otherwise leave out `error_type=CancelledError`, which is a series of its own. Its
   duration has the status `cancelled`, because it says how long somebody waited and not how long the work takes.
2. What the use case returns and raises passes through unchanged. The metrics are recorded before it does.
3. The metrics service never changes the outcome. What it raises is said once per tracker in the log, and so is that it
   waits where it must not. What blocks the thread itself cannot be helped from here.
4. Runs share nothing, so recursion, threads and tasks may overlap at will.

The service's methods are coroutines. Those of this library end in their first step, and that is how they are run here:
at once, with or without an event loop, so tracking adds no point at which a task could be switched or cancelled. A
service that really waits (it talks to a server, say) is waited for in asynchronous use cases on asyncio, for half a
second at most; in synchronous ones, and for a minute after it took too long, it is closed where it begins to wait.
"""

from __future__ import annotations

import functools
import time
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeVar

from .checks import discreet, type_of
from .decorators import (
    CANCELLED,
    ERROR,
    SUCCESS,
    _coroutine_function,
    _frame_of_the_block,
    _function,
    named,
    outcome_of,
    wrapper_for,
)
from .pipeline.reporting import say
from .service import NullMetrics

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from types import TracebackType

    from .service import MetricsService

    AnyCallable = Callable[..., Any]
    Record = Callable[[], object]
    """Makes one coroutine of the service."""

_F = TypeVar("_F", bound="Callable[..., object]")

STATUSES = {SUCCESS: "success", ERROR: "failure", CANCELLED: "cancelled"}
"""Outcome of a call, as `timed` has it -> value of the dimension `status`."""

PATIENCE_SECONDS = 0.5
"""Longest wait for one record: much for a server that answers, little for a person who waits for the use case."""

REST_SECONDS = 60.0
"""How long a service that took too long is not waited for."""

ERROR_TYPE_LENGTH = 255
"""Characters kept of an exception's class name; CloudWatch takes 1024, and nobody reads that many."""

_ENDED = object()
_STOPS = (KeyboardInterrupt, SystemExit)
_NO_METRICS = NullMetrics()


class track_use_case:  # noqa: N801  # reads as a verb, like contextlib.suppress
    """
    Record attempts, success, failure and duration of a use case: a decorator and a context manager.

    It decorates functions, coroutine functions, methods of either kind and callable objects, and keeps their type, name
    and signature; `with` and `async with` measure a block. One object may decorate many functions and be entered many
    times at once. (Blocks entered through an `ExitStack` share their starts: give each an object of its own.)::

        class BookSeat:
            def __init__(self, metrics: MetricsService) -> None:
                self.metrics = metrics

            @track_use_case("booking", attrgetter("metrics"))
            async def __call__(self, seat: str) -> Booking: ...

    Generator functions and functions that return context managers are refused: what is *one run* of them is for their
    author to say, with a block inside.

    Args:
        name: What the names of the metrics begin with.
        metrics: Takes the records; or a function from the first positional argument of the call (of a method: `self`)
            to the service that takes them.
        clock: Seconds on a clock that never steps back; read once at the start and once at the end of each run.
        patience_seconds: Longest wait for one record of a service that waits; 0 never waits.

    Raises:
        TypeError: The name or the metrics are missing (`@track_use_case` without parentheses), or the decorated object
            is a class, a generator function or nothing that can be called.
    """

    __slots__ = ("_clock", "_complained", "_metrics", "_open", "_patience", "_rest_until", "name")

    def __init__(
        self,
        name: str,
        metrics: MetricsService | Callable[[Any], MetricsService],
        *,
        clock: Callable[[], float] = time.perf_counter,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.name = name
        self._metrics = metrics
        self._clock = clock
        self._patience = patience_seconds
        self._rest_until = float("-inf")
        self._complained = False
        self._open: dict[int, list[_Run]] = {}
        """The frame of an open `with` statement -> its runs, the innermost last."""

    def __call__(self, function: _F, /) -> _F:
        """The use case, measured."""
        target: Any = function
        if issubclass(type(target), (classmethod, staticmethod)):
            return type(target)(self(target.__func__))  # type: ignore[no-any-return]
        return functools.wraps(target)(self._wrapper(target))  # type: ignore[return-value]

    def __enter__(self) -> None:
        frame, run = _frame_of_the_block(), _Run(self, ())
        run.__enter__()
        self._open.setdefault(frame, []).append(run)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run = self._ended(_frame_of_the_block())
        if run is not None:
            run.__exit__(kind, error, traceback)

    async def __aenter__(self) -> None:
        frame, run = _frame_of_the_block(), _Run(self, ())
        await run.__aenter__()
        self._open.setdefault(frame, []).append(run)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run = self._ended(_frame_of_the_block())
        if run is not None:
            await run.__aexit__(kind, error, traceback)

    def _wrapper(self, function: AnyCallable) -> AnyCallable:
        kind = wrapper_for(function) if callable(function) and not issubclass(type(function), type) else None
        if kind is _coroutine_function:
            return self._async_use_case(function)
        if kind is _function:
            return self._use_case(function)
        message = (
            f"cannot track {named(function)}: decorate a function, a coroutine function, a method or a callable object; "
            "in a generator put `with track_use_case(...):` around what is one run"
        )
        raise TypeError(message)

    def _use_case(self, function: AnyCallable) -> AnyCallable:
        def call(*args: object, **kwargs: object) -> object:
            with _Run(self, args):
                return function(*args, **kwargs)

        return call

    def _async_use_case(self, function: AnyCallable) -> AnyCallable:
        async def call(*args: object, **kwargs: object) -> object:
            async with _Run(self, args):
                return await function(*args, **kwargs)

        return call

    def _ended(self, frame: int) -> _Run | None:
        try:
            # An ExitStack enters and leaves a block from different frames: such an exit takes the newest run.
            frame, runs = (frame, self._open.pop(frame)) if frame in self._open else self._open.popitem()
        except KeyError:
            return None  # an exit without an entry
        run = runs.pop()
        if runs:
            self._open[frame] = runs
        return run

    # What a run asks of its tracker.

    def service_for(self, args: tuple[object, ...]) -> MetricsService:
        """
        The service that takes the records of a call with these positional arguments.
        """
        metrics: Any = self._metrics
        try:
            if hasattr(metrics, "increment"):
                return metrics  # type: ignore[no-any-return]
            return metrics(*args[:1])  # type: ignore[no-any-return]
        except Exception as failure:  # noqa: BLE001  # rule 3
            self.complain(f"failed with {type_of(failure)} where its metrics service was looked up")
        return _NO_METRICS

    def now(self) -> float:
        """
        Seconds; NaN when the clock is broken, which every sink refuses.
        """
        try:
            return float(self._clock())
        except Exception as failure:  # noqa: BLE001  # rule 3
            self.complain(f"failed with {type_of(failure)} at its clock")
            return float("nan")

    def take(self, record: Record) -> None:
        """
        Make a record without an event loop.
        """
        coroutine, waiting = self._first_step(record)
        if waiting is not _ENDED:
            self._give_up(coroutine, "waits where it cannot be waited for: the record is lost")

    async def take_or_wait(self, record: Record) -> None:
        """
        Make a record, and wait for it a little if that is what it takes.

        Raises:
            CancelledError: The use case was cancelled meanwhile.
        """
        coroutine, waiting = self._first_step(record)
        if waiting is _ENDED:
            return
        if self.now() < self._rest_until:
            self._give_up(coroutine, "waits again after it took too long: the record is lost")
            return
        cancelled = None
        try:
            cancelled = await _rest_of(coroutine, waiting, self._patience)
        except (*_STOPS, GeneratorExit):
            _close(coroutine)
            raise
        except BaseException as failure:  # noqa: BLE001  # rule 3
            if isinstance(failure, _TookTooLong):
                self._rest_until = self.now() + REST_SECONDS
            self._give_up(coroutine, _how(failure))
        if cancelled is not None:
            raise cancelled

    def complain(self, what: str) -> None:
        """
        Say once that recording fails, without the message of an exception: it may hold a dimension value.
        """
        if not self._complained:
            self._complained = True
            say(f"recording the use case {discreet(self.name)} {what}; calls go on, and this is said once per tracker")

    def _first_step(self, record: Record) -> tuple[Coroutine[object, None, object], object]:
        """
        The coroutine of a record, and what it waits for after its first step, `_ENDED` if for nothing more.
        """
        coroutine: Any = None
        try:
            made = record()
            if made is None:
                return coroutine, _ENDED  # a plain function instead of a coroutine function: it has recorded
            coroutine = made if type(made) is CoroutineType else _awaited(made)
            return coroutine, coroutine.send(None)
        except StopIteration:
            pass
        except _STOPS:
            raise
        except BaseException as failure:  # noqa: BLE001  # rule 3; a cancellation cannot come from outside in a first step
            self.complain(_how(failure))
        return coroutine, _ENDED

    def _give_up(self, coroutine: Coroutine[object, None, object], why: str) -> None:
        self.complain(why)
        _close(coroutine)


class _Run:
    """
    One run of a use case.
    """

    __slots__ = ("_service", "_started", "_tracker")

    def __init__(self, tracker: track_use_case, args: tuple[object, ...]) -> None:
        self._tracker = tracker
        self._service = tracker.service_for(args)
        self._started = float("nan")

    def __enter__(self) -> None:
        self._tracker.take(self._attempt)
        self._started = self._tracker.now()

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        for record in self._outcome(error):
            self._tracker.take(record)

    async def __aenter__(self) -> None:
        try:
            await self._tracker.take_or_wait(self._attempt)
        except BaseException as error:
            # Stopped while a service that waits took the attempt: the use case will not begin, and has failed.
            self._started = self._tracker.now()
            await self.__aexit__(type(error), error, None)
            raise
        self._started = self._tracker.now()

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        for record in self._outcome(error):
            if isinstance(error, GeneratorExit):
                self._tracker.take(record)  # a coroutine that is being closed must not wait any more
            else:
                await self._tracker.take_or_wait(record)

    def _attempt(self) -> Awaitable[None]:
        return self._service.increment(f"{self._tracker.name}.attempts")

    def _outcome(self, error: BaseException | None) -> Iterator[Record]:
        elapsed_ms = (self._tracker.now() - self._started) * 1000.0
        name, service = self._tracker.name, self._service
        if error is None:
            yield lambda: service.increment(f"{name}.success")
        else:
            yield lambda: service.increment(f"{name}.failure", dimensions={"error_type": error_type_of(error)})
        status = STATUSES[outcome_of(error)]
        yield lambda: service.record_timing(f"{name}.duration", value_ms=elapsed_ms, dimensions={"status": status})


def error_type_of(error: BaseException) -> str:
    """
    The value of the dimension `error_type`: the name of the exception's class, spelled so that CloudWatch takes it.

    Returns:
        1 to 255 printable ASCII characters. Python allows class names that CloudWatch does not; a failure that is not
        counted for its name would make the counts wrong.
    """
    name = ascii(type_of(error))[1:-1]
    return name[:ERROR_TYPE_LENGTH] if name.strip() else "unnamed"


class _TookTooLong(Exception):
    """
    A record was given up because its service waited too long.
    """


def _how(failure: BaseException) -> str:
    if isinstance(failure, _TookTooLong):
        return f"took too long and was given up; the service is not waited for in the next {REST_SECONDS:.0f} s"
    return f"failed with {type_of(failure)}"


def _close(coroutine: Coroutine[object, None, object]) -> None:
    """
    Close a coroutine, whether it wants to be closed or not.
    """
    try:
        coroutine.close()
    except _STOPS:
        raise
    except BaseException:  # noqa: BLE001, S110  # its failure has been told, or does not matter any more
        pass


async def _awaited(awaitable: Any) -> None:
    await awaitable


async def _rest_of(
    coroutine: Coroutine[object, None, object], waiting: Any, seconds: float
) -> asyncio.CancelledError | None:
    """
    The rest of a coroutine that has begun to wait, on asyncio, in the task and the context it began in.

    In the same task, because a time limit inside the coroutine cancels the task it began in, and in the same context,
    because what it sets in context variables is meant for this one. `asyncio.wait_for` keeps neither before Python 3.12.

    Args:
        coroutine: What has been started, by `send`.
        waiting: The future it waits for; None for a bare yield.
        seconds: How long it may wait in all.

    Returns:
        A cancellation that came from outside and must go on its way, or None.

    Raises:
        _TookTooLong: It did not end in time; it is still to be closed.
        BaseException: Whatever the coroutine raised.
    """
    import asyncio

    cancelled: asyncio.CancelledError | None = None
    give_up = asyncio.get_running_loop().time() + seconds
    requests = _requests_to_cancel()
    try:
        while True:
            thrown = await _waited(waiting, give_up)
            cancelled = thrown or cancelled
            waiting = coroutine.send(None) if thrown is None else coroutine.throw(thrown)
    except BaseException as end:
        # A time limit inside the coroutine takes its own cancellation back; one that is not taken back is the task's,
        # even if the coroutine has swallowed it.
        if cancelled is not None and (isinstance(end, asyncio.CancelledError) or _requests_to_cancel() > requests):
            return cancelled
        if isinstance(end, StopIteration):
            return None
        raise


def _requests_to_cancel() -> int:
    """
    How often the running task has been asked to end, less what was taken back; always 0 before Python 3.11.
    """
    import asyncio

    return int(getattr(asyncio.current_task(), "cancelling", int)())


async def _waited(waiting: Any, give_up: float) -> asyncio.CancelledError | None:
    """
    Wait for what a coroutine waits for.

    Returns:
        The cancellation that ended the wait, None when what was waited for is there.

    Raises:
        _TookTooLong: It is later than `give_up`, in seconds of the loop's clock.
    """
    import asyncio

    seconds_left = give_up - asyncio.get_running_loop().time()
    if seconds_left <= 0:
        _cancel(waiting)
        raise _TookTooLong
    try:
        if waiting is None:
            await asyncio.sleep(0)
            return None
        waiting._asyncio_future_blocking = False  # noqa: SLF001  # "I have seen what you yield", as asyncio's tasks say
        done, _ = await asyncio.wait((waiting,), timeout=seconds_left)
    except asyncio.CancelledError as cancelled:
        _cancel(waiting)
        return cancelled
    if not done:
        _cancel(waiting)
        raise _TookTooLong
    return None


def _cancel(waiting: Any) -> None:
    """
    As a cancelled task does with what it waits for.
    """
    if waiting is not None:
        waiting.cancel()
