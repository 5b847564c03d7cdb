"""
Measure whole calls: `timed` records how long they took, `counted` that they happened.

Both decorate anything callable, and both are context managers, too::

    @timed("MLPredictionDuration", namespace=MetricNamespace.ML_PIPELINE)
    async def predict(rows): ...

    with timed("S3UploadDuration", outcome=True):
        s3.upload_file(...)

What one measurement covers follows the kind of the callable, as `inspect` sees it:

=================================  ============================================================================
function, method, callable object  from the call to its return or exception
coroutine function                 from the first step of the coroutine (its `await`) to its end
generator function (also async)    from the first `next` to exhaustion, exception or `close`, the consumer's
                                   time included; one that is never started is not measured
`@contextmanager` (also async)     the `with` block and its set-up and clean-up, whichever decorator is outermost
`with`, `async with`               the block
=================================  ============================================================================

A plain function that returns an awaitable or an iterator is over when it returns; decorate what it returns instead.

Rules
1. What a call returns, raises, yields and receives passes through unchanged, as the very same objects. (Only a
   `@contextmanager` object comes out as another one that does the same.)
2. Every end is recorded once, whether by return, exception, cancellation, `close` or Ctrl-C, and before it goes on
   its way.
3. A recorder that fails is never noticed by the caller: one warning per decorator goes to the log.
4. Calls share nothing, so recursion, threads and tasks may overlap at will.
"""

from __future__ import annotations

import functools
import sys
import time
from typing import TYPE_CHECKING, Any, TypeVar

from .service import merge_dimensions

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
    from types import TracebackType

    from .namespaces import MetricNamespace
    from .service import Recorder

    AnyCallable = Callable[..., Any]
    Begin = Callable[[], float]
    Finish = Callable[[float, BaseException | None], None]

_F = TypeVar("_F", bound="Callable[..., object]")

SUCCESS = "success"
ERROR = "error"
CANCELLED = "cancelled"

_NO_TIME = float("nan")
"""What a clock says that is broken: the client refuses it, and counts it."""


def outcome_of(error: BaseException | None) -> str:
    """
    The value of the dimension `Outcome` for a call that ended with `error` (None: it returned).

    Returns:
        `success`; `error` for an `Exception`; `cancelled` for whatever stops a call from outside:
        `asyncio.CancelledError` and its relatives, `GeneratorExit` (the consumer wants no more), `KeyboardInterrupt`,
        `SystemExit`.
    """
    if error is None:
        return SUCCESS
    return ERROR if issubclass(type(error), Exception) else CANCELLED  # `isinstance` would ask the exception


class timed:  # noqa: N801  # reads as a verb, like contextlib.suppress
    """
    Record, in seconds, how long a call or a `with` block takes, however it ends.

    One object may decorate many functions and be entered many times at once: every call and every block has a start
    of its own. (Blocks entered through an `ExitStack` share their starts: give each a `timed` of its own.)

    A decorated function keeps its type for type checkers, overloads included, and its name, docstring, signature and
    kind (`inspect.iscoroutinefunction` and its relatives) at run time. It works above and below `@classmethod`,
    `@staticmethod` and `@contextmanager`; type checkers want it below the first two.

    Args:
        name: Name of the metric.
        client: Takes the records. None: the process-wide client, looked up at the end of each call, so that
            decorating a function while a module is imported neither creates that client nor pins it.
        namespace: Namespace of the metric. None: the client's default.
        dimensions: Dimensions of every record; copied. None: no dimensions.
        outcome: Add the dimension `Outcome`: `success`, `error` or `cancelled` (see `outcome_of`). False by default
            because it makes up to three billed metrics out of one.
        clock: Seconds on a clock that never steps back; read once at the start and once at the end. The default is
            held by reference, so tools that freeze time do not freeze durations.

    Raises:
        TypeError: The name is missing (`@timed` without parentheses), or the decorated object is a class or cannot be
            called. Any other wrong argument is the client's to refuse and count, as with every record.
    """

    __slots__ = ("_clock", "_destination", "_open")

    def __init__(
        self,
        name: str,
        *,
        client: Recorder | None = None,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        outcome: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._destination = _Destination(name, client, namespace, dimensions, outcome=outcome)
        self._clock = clock
        self._open: dict[int, tuple[float, Any]] = {}
        """The frame of an open `with` statement -> when its block began, and the entry of the block around it."""

    def __call__(self, function: _F, /) -> _F:
        """The function, measured."""
        return _measured(function, self._begin, self._finish)

    def __enter__(self) -> None:
        self._enter(_frame_of_the_block())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exit(_frame_of_the_block(), error)

    async def __aenter__(self) -> None:
        self._enter(_frame_of_the_block())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exit(_frame_of_the_block(), error)

    def _enter(self, frame: int) -> None:
        self._open[frame] = (self._begin(), self._open.get(frame))

    def _begin(self) -> float:
        try:
            return self._clock()
        except Exception as failure:  # noqa: BLE001  # rule 3
            self._destination.complain(failure)
            return _NO_TIME

    def _exit(self, frame: int, error: BaseException | None) -> None:
        try:
            # An ExitStack enters and leaves a block from different frames: such an exit takes the newest start.
            frame, (started, around) = (frame, self._open.pop(frame)) if frame in self._open else self._open.popitem()
        except KeyError:
            return  # an exit without an entry
        if around is not None:
            self._open[frame] = around
        self._finish(started, error)

    def _finish(self, started: float, error: BaseException | None) -> None:
        destination = self._destination
        try:
            destination.client().record_time(
                destination.name,
                self._clock() - started,
                namespace=destination.namespace,
                dimensions=destination.dimensions_after(error),
            )
        except Exception as failure:  # noqa: BLE001  # rule 3
            destination.complain(failure)


class counted:  # noqa: N801  # reads as a verb, like contextlib.suppress
    """
    Count calls or `with` blocks as they end, however they end: one call, one count.

    Decorates, and is entered, exactly as `timed`.

    Args:
        name: Name of the metric.
        client: Takes the records. None: the process-wide client, looked up at the end of each call.
        namespace: Namespace of the metric. None: the client's default.
        dimensions: Dimensions of every record; copied. None: no dimensions.
        outcome: Add the dimension `Outcome`: `success`, `error` or `cancelled` (see `outcome_of`).
        errors_only: Count only calls that raised an `Exception`, cancellation not being a failure, and add the
            dimension `ErrorType`: the name of the exception's class.

    Raises:
        TypeError: The name is missing (`@counted` without parentheses), or the decorated object is a class or cannot be
            called. Any other wrong argument is the client's to refuse and count, as with every record.
    """

    __slots__ = ("_destination", "_errors_only")

    def __init__(
        self,
        name: str,
        *,
        client: Recorder | None = None,
        namespace: MetricNamespace | str | None = None,
        dimensions: Mapping[str, object] | None = None,
        outcome: bool = False,
        errors_only: bool = False,
    ) -> None:
        self._destination = _Destination(name, client, namespace, dimensions, outcome=outcome)
        self._errors_only = errors_only is True

    def __call__(self, function: _F, /) -> _F:
        """The function, counted."""
        return _measured(function, _no_clock, self._finish)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._finish(0.0, error)

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._finish(0.0, error)

    def _finish(self, _started: float, error: BaseException | None) -> None:
        if self._errors_only and not issubclass(type(error), Exception):
            return
        destination = self._destination
        try:
            dimensions = destination.dimensions_after(error)
            if self._errors_only:
                dimensions = merge_dimensions(dimensions, {"ErrorType": _class_of(error)})
            destination.client().increment_counter(
                destination.name, namespace=destination.namespace, dimensions=dimensions
            )
        except Exception as failure:  # noqa: BLE001  # rule 3
            destination.complain(failure)


class _Destination:
    """
    Where the records of one decorator go: which client, under which name, namespace and dimensions.
    """

    __slots__ = ("_by_outcome", "_client", "_complained", "_dimensions", "name", "namespace")

    def __init__(
        self,
        name: str,
        client: Recorder | None,
        namespace: MetricNamespace | str | None,
        dimensions: Mapping[str, object] | None,
        *,
        outcome: bool,
    ) -> None:
        if callable(name):
            message = (
                f"the metric's name is missing: write @timed('UploadDuration'), with parentheses; got {named(name)}"
            )
            raise TypeError(message)
        self.name = name
        self.namespace = namespace
        self._client = client
        self._complained = False
        own = self._dimensions = merge_dimensions({}, dimensions)
        self._by_outcome = (
            {end: merge_dimensions(own, {"Outcome": end}) for end in (SUCCESS, ERROR, CANCELLED)}
            if outcome is True
            else None
        )

    def client(self) -> Recorder:
        """
        The given client, else the process-wide one of this moment.
        """
        return _default_client_getter()() if self._client is None else self._client

    def dimensions_after(self, error: BaseException | None) -> Mapping[str, object]:
        """
        The dimensions of a call that ended with `error`.
        """
        return self._dimensions if self._by_outcome is None else self._by_outcome[outcome_of(error)]

    def complain(self, failure: Exception) -> None:
        """
        Say once that recording fails, without the message of the exception: it may hold a dimension value.
        """
        if self._complained:
            return
        self._complained = True
        try:
            import logging

            logging.getLogger("retainwise_metrics").warning(
                "recording %s failed with %s: calls go on unmeasured; this is said once per decorator",
                _shown(self.name),
                _class_of(failure),
            )
        except Exception:  # noqa: BLE001, S110  # a broken log handler is no reason to fail the caller either
            pass


@functools.cache
def _default_client_getter() -> Callable[[], Recorder]:
    # Cached because an import statement costs more than the rest of a measurement.
    from .default_client import get_metrics_client

    return get_metrics_client


def _frame_of_the_block() -> int:
    """
    The identity of the frame that holds the `with` statement: two calls up.

    The frame that enters a block is the one that leaves it, whichever thread or task runs it by then, and every call,
    coroutine and generator has a frame of its own. Only the number is kept: a reference would keep the block's
    variables alive.
    """
    return id(sys._getframe(2))  # noqa: SLF001  # the documented way, as used by logging and namedtuple


def _no_clock() -> float:
    return 0.0


def _class_of(value: object) -> str:
    from .checks import type_of

    return type_of(value)


def named(thing: object) -> str:
    """
    Somebody's code for a message to its author, who may have broken its `repr`.
    """
    try:
        return repr(thing)
    except Exception:  # noqa: BLE001
        return _shown(thing)


def _shown(value: object) -> str:
    """Any object for a message: nothing personal, nothing long, and never an exception."""
    from .checks import discreet

    return discreet(value)


def _measured(function: _F, begin: Begin, finish: Finish) -> _F:
    """
    Wrap `function` so that `finish(begin(), error)` spans each of its calls.
    """
    target: Any = function
    if issubclass(type(target), (classmethod, staticmethod)):
        return type(target)(_measured(target.__func__, begin, finish))  # type: ignore[no-any-return]
    wrap = None if issubclass(type(target), type) or not callable(target) else wrapper_for(target)
    if wrap is None:
        message = f"cannot measure the calls of {named(target)}: decorate a function, a method or a callable object"
        raise TypeError(message)
    return functools.wraps(target)(wrap(target, begin, finish))  # type: ignore[return-value]


def wrapper_for(function: AnyCallable) -> Callable[[AnyCallable, Begin, Finish], AnyCallable] | None:
    """
    Like `_wrapper_for`; None when the object raises while it is looked at: what it is cannot be known, nor kept.
    """
    try:
        functools.update_wrapper(lambda: None, function)
        return _wrapper_for(function)
    except Exception:  # noqa: BLE001 - somebody's callable object, such as a proxy without its object
        return None


def _wrapper_for(function: AnyCallable) -> Callable[[AnyCallable, Begin, Finish], AnyCallable]:
    """
    The wrapper that keeps the kind of `function`; a callable object is of the kind of its `__call__`.
    """
    import inspect

    while isinstance(function, functools.partial):
        function = function.func
    subjects = (function, getattr(function, "__call__", None))  # noqa: B004  # the method is wanted, not whether there is one
    kinds = (
        (inspect.iscoroutinefunction, _coroutine_function),
        (inspect.isasyncgenfunction, _async_generator_function),
        (_is_awaitable_generator_function, _awaitable_generator_function),
        (inspect.isgeneratorfunction, _generator_function),
        (_makes_context_managers, _context_manager_function),
        (_makes_async_context_managers, _async_context_manager_function),
    )
    return next((wrapper for is_kind, wrapper in kinds if any(map(is_kind, subjects))), _function)


def _is_awaitable_generator_function(function: object) -> bool:
    """
    Whether `types.coroutine` made `function`: a generator function whose generators may be awaited.
    """
    import inspect

    code = getattr(function, "__code__", None)
    return code is not None and bool(code.co_flags & inspect.CO_ITERABLE_COROUTINE)


def _makes_context_managers(function: object) -> bool:
    """
    Whether `contextlib.contextmanager` made `function`: everything it makes shares one code object.
    """
    from contextlib import contextmanager

    return getattr(function, "__code__", None) is contextmanager(_no_clock).__code__  # type: ignore[arg-type]


def _makes_async_context_managers(function: object) -> bool:
    """
    Whether `contextlib.asynccontextmanager` made `function`.
    """
    from contextlib import asynccontextmanager

    return getattr(function, "__code__", None) is asynccontextmanager(_no_clock).__code__  # type: ignore[arg-type]


def _function(function: AnyCallable, begin: Begin, finish: Finish) -> AnyCallable:
    def call(*args: object, **kwargs: object) -> object:
        started = begin()
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            finish(started, error)
            raise
        finish(started, None)
        return result

    return call


def _coroutine_function(function: AnyCallable, begin: Begin, finish: Finish) -> AnyCallable:
    async def call(*args: object, **kwargs: object) -> object:
        started = begin()
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            finish(started, error)
            raise
        finish(started, None)
        return result

    return call


def _generator_function(function: AnyCallable, begin: Begin, finish: Finish) -> AnyCallable:
    def call(*args: object, **kwargs: object) -> Generator[object, object, object]:
        started = begin()
        try:
            result = yield from function(*args, **kwargs)
        except BaseException as error:
            finish(started, error)
            raise
        finish(started, None)
        return result

    return call


def _awaitable_generator_function(function: AnyCallable, begin: Begin, finish: Finish) -> AnyCallable:
    import types

    return types.coroutine(_generator_function(function, begin, finish))


def _async_generator_function(function: AnyCallable, begin: Begin, finish: Finish) -> AnyCallable:
    async def call(*args: object, **kwargs: object) -> AsyncGenerator[object, object]:
        started = begin()
        step: Awaitable[object] | None = None
        try:
            generator = function(*args, **kwargs)
            step = _first_step(generator)
            while True:
                value = await step
                try:
                    sent = yield value
                except BaseException as thrown:  # noqa: BLE001  # handed to the generator, which decides, as `yield from` does
                    step = generator.athrow(thrown)
                else:
                    step = generator.asend(sent)
        except StopAsyncIteration:
            finish(started, None)
        except BaseException as error:
            finish(started, error)
            raise
        finally:
            step = None  # it may hold an exception whose traceback holds this frame

    return call


def _first_step(generator: AsyncGenerator[object, object]) -> Awaitable[object]:
    """
    The first `asend`, kept off the event loop's list of generators to close when it ends.

    The measuring generator is on that list and closes the measured one. Were both listed, asyncio would close both at
    once, and one would fail with "asynchronous generator is already running".
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return generator.asend(None)
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _context_manager_function(function: AnyCallable, begin: Begin, finish: Finish) -> AnyCallable:
    from contextlib import contextmanager

    def block(*args: object, **kwargs: object) -> Generator[object, None, None]:
        with function(*args, **kwargs) as value:
            yield value

    return contextmanager(_generator_function(block, begin, finish))


def _async_context_manager_function(function: AnyCallable, begin: Begin, finish: Finish) -> AnyCallable:
    from contextlib import asynccontextmanager

    async def block(*args: object, **kwargs: object) -> AsyncGenerator[object, None]:
        async with function(*args, **kwargs) as value:
            yield value

    return asynccontextmanager(_async_generator_function(block, begin, finish))
