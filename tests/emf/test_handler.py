"""The handler's decorator: everything is on stdout in every outcome, before the time limit too, and the outcome stays what it was."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import io
import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from retainwise_metrics import emf
from tests.emf.conftest import NOON, Context

if TYPE_CHECKING:
    from collections.abc import Callable

    from retainwise_metrics.emf import MetricsLogger
    from retainwise_metrics.testing.emf_reader import EmfReader
    from tests.emf.conftest import Time, Timer

    Make = Callable[..., MetricsLogger]
    Read = Callable[..., EmfReader]

PATIENCE = 60.0


def handler_of(logger: MetricsLogger, body: Callable[[Any, Any], Any], *, is_async: bool) -> Callable[[Any, Any], Any]:
    """A decorated handler that does what `body` does, called in the same way whether it is async or not."""
    if not is_async:
        return logger.handler(body)

    @logger.handler
    async def handler(event: object, context: object) -> object:
        await asyncio.sleep(0)
        return body(event, context)

    return lambda event, context: asyncio.run(handler(event, context))


class Wrong(Exception):
    """What a handler raises."""


class Abandoned(BaseException):
    """What stops it from outside."""


def fail_with(error: BaseException) -> Callable[[object, object], object]:
    """A handler that fails."""

    def body(event: object, context: object) -> object:
        raise error

    return body


@pytest.mark.parametrize("is_async", [False, True])
def test_a_handler_that_returns(
    logger: MetricsLogger, stream: io.StringIO, read: Read, clock: Time, *, is_async: bool
) -> None:
    """One document: the handler's own metrics, its duration in milliseconds, a success and the zero of errors."""
    result = object()

    def body(event: object, context: object) -> object:
        logger.put_metric("Rows", 7)
        clock.seconds += 0.25
        return result

    assert handler_of(logger, body, is_async=is_async)({}, Context()) is result
    found = read(stream.getvalue())
    (document,) = found.documents
    assert document["request_id"] == "8f0e"
    assert "error_type" not in document
    assert document["HandlerDuration"] == 250
    assert found.statistics("Tests", "HandlerDuration", unit="Milliseconds").count == 1
    assert (document["Rows"], document["HandlerSuccess"], document["HandlerError"]) == (7, 1, 0)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("error", [Wrong("secret"), Abandoned(), SystemExit(3), KeyboardInterrupt()])
def test_a_handler_that_raises(
    logger: MetricsLogger, stream: io.StringIO, read: Read, error: BaseException, *, is_async: bool
) -> None:
    """Whatever it raises arrives as it is, and is counted with its type, never its message."""
    with pytest.raises(type(error)) as raised:
        handler_of(logger, fail_with(error), is_async=is_async)({}, Context())
    if not (is_async and isinstance(error, (KeyboardInterrupt, SystemExit))):  # the event loop raises those anew
        assert raised.value is error
        assert raised.value.__context__ is None
    found = read(stream.getvalue())
    assert found.sum("Tests", "HandlerError") == found.count("Tests", "HandlerSuccess") == 1
    assert found.sum("Tests", "HandlerSuccess") == 0
    assert found.count("Tests", "HandlerDuration") == 1
    assert found.documents[-1]["error_type"] == type(error).__name__
    assert "secret" not in stream.getvalue()


def test_a_handler_that_is_cancelled(logger: MetricsLogger, stream: io.StringIO, read: Read) -> None:
    """Cancellation is flushed, and goes on."""

    @logger.handler
    async def handler(event: object, context: object) -> None:
        await asyncio.sleep(PATIENCE)

    async def cancel() -> None:
        task = asyncio.create_task(handler({}, Context()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert read(stream.getvalue()).documents[-1]["error_type"] == "CancelledError"


def test_concurrent_invocations_keep_their_state_apart(make_logger: Make, stream: io.StringIO, read: Read) -> None:
    """Dimensions and properties of one invocation are not another's."""
    logger = make_logger()

    @logger.handler
    async def handler(event: int, context: object) -> None:
        logger.set_dimension("Tenant", event)
        logger.set_property("upload", event)
        await asyncio.sleep(0)
        logger.put_metric("Rows", event)

    async def all_at_once() -> None:
        await asyncio.gather(*(handler(number, Context()) for number in range(50)))

    asyncio.run(all_at_once())
    found = read(stream.getvalue())
    for number in range(50):
        assert found.values("Tests", "Rows", {"Tenant": str(number)}) == {number: 1}
    assert found.sum("Tests", "HandlerSuccess") == 50
    assert all(int(document["Tenant"]) == document["upload"] for document in found.documents if "Rows" in document)


@pytest.mark.parametrize("is_async", [False, True])
def test_what_an_invocation_sets_ends_with_it(logger: MetricsLogger, stream: io.StringIO, *, is_async: bool) -> None:
    """The next one in the same process starts with what was set outside."""
    logger.set_dimension("Outside", "x")

    def body(event: Any, context: object) -> None:
        if event:
            logger.set_dimension("Inside", "y")
            logger.set_property("upload", 7)
        logger.put_metric("Rows", 1)

    handler = handler_of(logger, body, is_async=is_async)
    handler({"first": True}, None)
    handler({}, None)
    first, second = (found for found in map(json.loads, stream.getvalue().splitlines()) if "Rows" in found)
    assert (first["Inside"], first["upload"], first["Outside"]) == ("y", 7, "x")
    assert not {"Inside", "upload"} & second.keys()
    assert second["Outside"] == "x"


def test_how_it_went_is_recorded_where_an_alarm_looks(logger: MetricsLogger, stream: io.StringIO, read: Read) -> None:
    """Under the dimensions from before the call, whichever the handler had set when it failed; its properties stay beside that."""

    @logger.handler
    def handler(event: object, context: object) -> None:
        logger.set_dimension("Tenant", "a")
        logger.set_property("upload", 7)
        raise Wrong

    with pytest.raises(Wrong):
        handler({}, Context())
    found = read(stream.getvalue())
    assert found.sum("Tests", "HandlerError") == found.count("Tests", "HandlerDuration") == 1
    assert (found.documents[-1]["upload"], found.documents[-1]["error_type"]) == (7, "Wrong")


def test_the_decorated_handler_keeps_its_face(logger: MetricsLogger) -> None:
    """Name, documentation and kind are those of the handler; methods, partials and callable objects work too."""

    @logger.handler
    async def handler(event: object, context: object) -> str:
        """Do it."""
        return "done"

    assert (handler.__name__, handler.__doc__) == ("handler", "Do it.")
    assert inspect.iscoroutinefunction(handler)
    assert asyncio.run(handler({}, None)) == "done"
    partial = logger.handler(functools.partial(handler, {}))
    assert inspect.iscoroutinefunction(partial)
    assert asyncio.run(partial(context=None)) == "done"

    class Service:
        @logger.handler
        def handle(self, event: object, context: object) -> object:
            return event

        async def __call__(self, event: object, context: object) -> object:
            return event

    assert Service().handle(7, Context()) == 7
    assert asyncio.run(logger.handler(Service())(7, Context())) == 7  # type: ignore[arg-type]


def test_a_prefix_names_the_metrics(monkeypatch: pytest.MonkeyPatch, read: Read) -> None:
    """The decorator that takes a namespace makes a logger, which the handler has as its attribute."""
    monkeypatch.setenv("CLUSTER_NAME", "blue")
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_NAME", raising=False)

    @emf.lambda_handler("Tests", prefix="Backup")
    def handler(event: object, context: object) -> str:
        return "done"

    handler.metrics._clock = lambda: NOON  # type: ignore[attr-defined]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert handler({}, None) == "done"
    found = read(out.getvalue())
    assert found.sum("Tests", "BackupSuccess", {"ClusterName": "blue"}) == 1
    assert found.count("Tests", "BackupError", {"ClusterName": "blue"}) == 1


def test_the_cold_start_is_counted_once_per_process(read: Read) -> None:
    """Not once per handler or logger."""
    program = (
        "from retainwise_metrics import emf\n"
        f"first, second = (emf.MetricsLogger('Tests', clock=lambda: {NOON}) for _ in range(2))\n"
        "handlers = [logger.handler(lambda event, context: None) for logger in (first, second)]\n"
        "for handler in handlers * 2: handler({}, None)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    found = read(done.stdout)
    assert (found.count("Tests", "ColdStart"), found.sum("Tests", "ColdStart")) == (1, 1)
    assert found.sum("Tests", "HandlerSuccess") == 4
    assert "ColdStart" in found.documents[0]


# The time limit


@pytest.mark.parametrize(
    ("remaining_ms", "seconds"), [(3000, 2.5), (1000, 0.5), (300, 0.15), (900_000, 899.5), (1001, 0.501)]
)
def test_the_timer_rings_before_the_limit(
    logger: MetricsLogger, timers: list[Timer], remaining_ms: float, seconds: float
) -> None:
    """Half a second before, or half of what is left if that is less; and it does not keep a process alive."""
    logger.handler(lambda event, context: None)({}, Context(remaining_ms))
    (timer,) = timers
    assert timer.seconds == pytest.approx(seconds)
    assert timer.started
    assert timer.cancelled
    assert timer.daemon


def test_an_overrunning_handler_is_saved_and_may_go_on(
    logger: MetricsLogger, stream: io.StringIO, read: Read, timers: list[Timer]
) -> None:
    """Near the limit everything goes out, marked, under the handler's dimensions; what comes later goes out later, unmarked."""
    logger.set_dimension("Outside", "x")

    def body(event: object, context: object) -> str:
        logger.put_metric("Rows", 1)
        with contextlib.ExitStack() as stack:  # on the timer's thread, as in earnest
            thread = threading.Thread(target=timers[0].fire)
            stack.callback(thread.join, PATIENCE)
            thread.start()
        saved = read(stream.getvalue())
        assert saved.sum("Tests", "Rows", {"Outside": "x"}) == 1
        assert saved.sum("Tests", "HandlerNearTimeout", {"Outside": "x"}) == 1
        assert all(document["Truncated"] is True for document in saved.documents)
        assert all(document["request_id"] == "8f0e" for document in saved.documents)
        logger.put_metric("Rows", 2)
        return "late"

    assert logger.handler(body)({}, Context()) == "late"
    found = read(stream.getvalue())
    assert found.values("Tests", "Rows", {"Outside": "x"}) == {1: 1, 2: 1}
    assert found.sum("Tests", "HandlerSuccess", {"Outside": "x"}) == 1
    assert "Truncated" not in found.documents[-1]


def test_a_timer_that_rings_too_late_says_nothing(
    logger: MetricsLogger, stream: io.StringIO, timers: list[Timer]
) -> None:
    """It may ring while it is being cancelled."""
    logger.handler(lambda event, context: None)({}, Context())
    before = stream.getvalue()
    timers[0].fire()
    logger.flush()
    assert stream.getvalue() == before


class Signalling(io.StringIO):
    """A stream that says when it got a marked document."""

    def __init__(self) -> None:
        super().__init__()
        self.marked = threading.Event()

    def write(self, text: str) -> int:
        """Take it."""
        written = super().write(text)
        if '"Truncated":true' in text:
            self.marked.set()
        return written


def test_a_real_timer_saves_a_handler_that_overruns(read: Read) -> None:
    """With a limit of 300 ms, a handler that goes on until its metrics are on stdout sees them there."""
    stream = Signalling()
    logger = emf.MetricsLogger("Tests", stream=stream, clock=lambda: NOON)

    @logger.handler
    def handler(event: object, context: object) -> bool:
        logger.put_metric("Rows", 7)
        return stream.marked.wait(PATIENCE)

    assert handler({}, Context(300))
    assert read(stream.getvalue()).sum("Tests", "Rows") == 7


def test_a_process_that_is_killed_at_the_limit_has_told_everything(read: Read) -> None:
    """As Lambda does it: the process hangs, its output is read, it gets no chance to clean up."""
    program = (
        "import threading\n"
        "from retainwise_metrics import emf\n"
        f"logger = emf.MetricsLogger('Tests', clock=lambda: {NOON})\n"
        "class Context:\n"
        "    aws_request_id = '8f0e'\n"
        "    def get_remaining_time_in_millis(self): return 300\n"
        "@logger.handler\n"
        "def handler(event, context):\n"
        "    logger.put_metric('Rows', 7)\n"
        "    threading.Event().wait()\n"
        "handler({}, Context())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        lines = [next(process.stdout)]
        while "HandlerNearTimeout" not in lines[-1]:
            lines.append(next(process.stdout))
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()
    found = read("".join(lines))
    assert found.sum("Tests", "Rows") == 7
    assert all(document["Truncated"] for document in found.documents)


@pytest.mark.parametrize("remaining", [0, -5, float("nan"), float("inf"), "soon", None, 10**9])
def test_a_strange_limit_sets_no_timer(
    logger: MetricsLogger, stream: io.StringIO, read: Read, timers: list[Timer], remaining: Any
) -> None:
    """The rest is recorded all the same."""
    assert logger.handler(lambda event, context: "done")({}, Context(remaining)) == "done"
    assert timers == []
    assert read(stream.getvalue()).sum("Tests", "HandlerSuccess") == 1


@pytest.mark.parametrize("arguments", [(), ({},), ({}, None), ({}, object()), ({}, {"a": 1})])
def test_a_context_is_not_needed(
    logger: MetricsLogger, stream: io.StringIO, read: Read, timers: list[Timer], arguments: tuple[object, ...]
) -> None:
    """Tests and other hosts call handlers with less."""
    assert logger.handler(lambda *event: "done")(*arguments) == "done"
    assert timers == []
    assert read(stream.getvalue()).sum("Tests", "HandlerSuccess") == 1


def test_a_context_may_be_given_by_name(logger: MetricsLogger, timers: list[Timer]) -> None:
    """And beside a method's `self`."""
    logger.handler(lambda event, context: None)(event={}, context=Context())
    assert len(timers) == 1


def test_a_freeze_between_invocations_keeps_the_minutes(
    logger: MetricsLogger, stream: io.StringIO, read: Read, clock: Time, timers: list[Timer]
) -> None:
    """What a background thread recorded after the handler's end waits in the freezer, and comes out in its own minute."""
    handler = logger.handler(lambda event, context: logger.put_metric("Rows", 1))
    handler({}, Context())
    logger.put_metric("Late", 1)
    clock.seconds += 1200
    handler({}, Context())
    found = read(stream.getvalue())
    assert found.windows("Tests", "Rows") == {NOON: {1: 1}, NOON + 1200: {1: 1}}
    assert found.windows("Tests", "Late") == {NOON: {1: 1}}
    assert found.maximum("Tests", "HandlerDuration") == 0
    assert all(timer.cancelled for timer in timers)


# A broken metrics layer


class Broken:
    """Anything but what it should be."""

    def __getattr__(self, name: str) -> Any:
        raise OSError("broken")

    def __call__(self, *arguments: object) -> Any:
        """Fail."""
        raise OSError("broken")


class BrokenContext:
    """A context of which nothing works."""

    def __getattribute__(self, name: str) -> Any:
        """Fail."""
        raise OSError("broken")


class BrokenLimit(Context):
    """A context that does not know its time."""

    def get_remaining_time_in_millis(self) -> float:
        """Fail."""
        raise OSError("broken")


BREAKAGES: list[tuple[dict[str, Any], Any]] = [
    ({"stream": Broken()}, Context),
    ({"clock": Broken()}, Context),
    ({"monotonic": Broken()}, Context),
    ({"timer": Broken()}, Context),
    ({"margin_seconds": "soon"}, Context),
    ({}, BrokenContext),
    ({}, BrokenLimit),
    ({"stream": Broken(), "clock": Broken(), "monotonic": Broken(), "timer": Broken()}, BrokenContext),
]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(("options", "context"), BREAKAGES)
def test_a_broken_part_does_not_change_the_outcome(
    make_logger: Make, options: dict[str, Any], context: Any, *, is_async: bool
) -> None:
    """The very objects that the handler returns and raises arrive."""
    logger = make_logger(**options)
    result, error = object(), Wrong()
    assert handler_of(logger, lambda event, context: result, is_async=is_async)({}, context()) is result
    with pytest.raises(Wrong) as raised:
        handler_of(logger, fail_with(error), is_async=is_async)({}, context())
    assert raised.value is error


def test_a_logger_whose_methods_raise_does_not_change_the_outcome(stream: io.StringIO) -> None:
    """Nor does one that was overridden by something worse."""

    class Raising(emf.MetricsLogger):
        def put_metric(self, *arguments: object, **options: object) -> bool:
            raise OSError("broken")

        set_dimension = set_property = flush = put_metric

    logger = Raising("Tests", stream=stream)
    assert logger.handler(lambda event, context: "done")({}, Context()) == "done"
    with pytest.raises(Wrong):
        logger.handler(fail_with(Wrong()))({}, Context())


def test_a_broken_pipe_does_not_change_the_outcome() -> None:
    """A real one, with nobody at its other end."""
    program = (
        "import os, sys\n"
        "from retainwise_metrics import emf\n"
        "read, write = os.pipe(); os.close(read); sys.stdout = os.fdopen(write, 'w')\n"
        "logger = emf.MetricsLogger('Tests')\n"
        "print(logger.handler(lambda event, context: 'done')({}, None), logger.stats().pending, file=sys.stderr)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.splitlines()[-1] == "done 4"


def test_a_failed_handler_is_not_kept_alive(logger: MetricsLogger) -> None:
    """The exception's frames, and so the event, are free when the caller drops them."""

    class Event:
        pass

    alive: list[object] = []
    handler = logger.handler(fail_with(Wrong()))
    event = Event()
    with contextlib.suppress(Wrong):
        handler(event, Context())
    del event, handler
    gc.collect()
    alive.extend(found for found in gc.get_objects() if type(found) is Event)
    assert alive == []
