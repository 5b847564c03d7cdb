"""
Every public entry, and any object for any of its arguments.

What is public is looked up and compared with the table below: a name, a method or an argument that is not tried here fails the test.
Batches are judged by the rules of CloudWatch, as the fake has them, on their way into the sink.
"""

from __future__ import annotations

import asyncio
import decimal
import inspect
import io
import itertools
import math
import signal
import traceback
import warnings
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import retainwise_metrics
from retainwise_metrics import (
    ClientMetrics,
    CloudWatchMetrics,
    ConfigurationError,
    Counter,
    DimensionPolicy,
    DropReason,
    EmfMetrics,
    Gauge,
    Histogram,
    InvalidMetricError,
    MetricsConfig,
    NullMetrics,
    Timer,
    counted,
    emf,
    set_metrics_client,
    timed,
    track_use_case,
)
from retainwise_metrics.config import SETTINGS
from retainwise_metrics.datum import Series
from retainwise_metrics.dimensions.bucketing import Resolved, Rule
from retainwise_metrics.scoped import ScopedMetrics
from retainwise_metrics.service import NullInstrument
from retainwise_metrics.sinks.base import SinkRejected
from retainwise_metrics.sinks.put_metric_data import Connection, PutMetricDataSink
from retainwise_metrics.testing import FakeCloudWatch, InMemorySink, ManualRuntime
from retainwise_metrics.testing._fake_wire import Request
from tests.helpers import NAMESPACE, assert_balanced
from tests.properties.test_any_object import (
    BASES,
    GOOD_DIMENSIONS,
    GOOD_VALUE,
    METHODS,
    RECIPES,
    SECRET,
    Strange,
    hostile,
    make,
)
from tests.properties.test_any_object import SPECIAL as ODD
from tests.properties.test_request_limits import body_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from retainwise_metrics.datum import Batch

# ---- more objects ----


class Unspeakable(Exception, metaclass=Strange):
    """An exception whose class raises for whatever it is asked, its name included."""


class Mute(InvalidMetricError):
    """A refusal by somebody else: it has no text, and its field has no hash."""

    def __init__(self) -> None:
        super().__init__("")
        self.field: Any = []

    def __str__(self) -> str:
        raise ZeroDivisionError(SECRET)

    __repr__ = __str__


class Stranger(BaseException):
    """Not even an `Exception`, and it does not say of which class it is."""

    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise ZeroDivisionError(SECRET)


FAILURES: dict[str, Callable[[], Exception]] = {
    "unspeakable": lambda: type.__call__(Unspeakable),
    "mute": Mute,
    "format error": lambda: emf.FormatError([], SECRET),  # type: ignore[arg-type]
}


def failing(failure: Callable[[], Exception], base: type = object, arguments: tuple[Any, ...] = ()) -> Any:
    """An object all of whose methods raise the same."""

    def method(*_: object, **__: object) -> Any:
        raise failure()

    made: Any = {name: property(method) if name == "__class__" else method for name in METHODS}
    return type("Failing", (base,), made)(*arguments)


class LyingText(str):
    """Text that says it is short, plain and equal to whatever is asked for."""

    __slots__ = ()

    def __len__(self) -> int:
        return 1

    def __str__(self) -> str:
        return "Kind"

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__

    def isascii(self) -> bool:
        return True

    isprintable = isascii

    def strip(self, *_: object) -> str:
        return "Kind"


class LyingInt(int):
    """An integer that is in every range and of every size."""

    def __le__(self, _: object) -> bool:
        return True

    __ge__ = __lt__ = __gt__ = __eq__ = __le__  # type: ignore[assignment]
    __hash__ = int.__hash__

    def __float__(self) -> float:
        return math.nan

    def __index__(self) -> int:
        return 60


class LyingFloat(float):
    """Likewise."""

    def __le__(self, _: object) -> bool:
        return True

    __ge__ = __lt__ = __gt__ = __eq__ = __le__  # type: ignore[assignment]
    __hash__ = float.__hash__

    def __float__(self) -> float:
        return 1.0


class LyingDict(dict[Any, Any]):
    """A dict that shows something else each time."""

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Any]:
        return map("D{}".format, range(100))

    def items(self) -> Any:
        return ((name, "é") for name in self)

    def __getitem__(self, name: Any) -> Any:
        return SECRET

    def copy(self) -> Any:
        return self

    get = __getitem__  # type: ignore[assignment]


def coroutine() -> object:
    """A coroutine that nobody has to wait for."""

    async def nothing() -> None:
        """Nothing."""

    made = nothing()
    made.close()
    return made


TEN_MEGABYTES = "x" * 10_000_000
TEN_MEGABYTES_OF_HALVES = "\ud800" * 5_000_000
LARGEST = 2.0**360

MORE: dict[str, Callable[[], Any]] = {
    "ten megabytes": lambda: TEN_MEGABYTES,
    "ten megabytes of halves": lambda: TEN_MEGABYTES_OF_HALVES,
    "ten megabytes of bytes": lambda: b"x" * 10_000_000,
    "ten megabytes as a value": lambda: {"Kind": TEN_MEGABYTES_OF_HALVES},
    "ten megabytes as a name": lambda: {TEN_MEGABYTES: "x"},
    "coroutine": coroutine,
    "coroutine function": lambda: asyncio.sleep,
    "exception class": lambda: ZeroDivisionError,
    "largest": lambda: LARGEST,
    "beyond": lambda: math.nextafter(LARGEST, math.inf),
    "lowest": lambda: -LARGEST,
    "below": lambda: math.nextafter(-LARGEST, -math.inf),
    "largest int": lambda: 2**360,
    "beyond int": lambda: 2**360 + 1,
    "decimal NaN": lambda: decimal.Decimal("-sNaN123"),
    "decimal largest": lambda: decimal.Decimal(10) ** 999_999,
    "numpy largest": lambda: np.float64(LARGEST),
    "numpy NaN": lambda: np.float16("nan"),
    "numpy unsigned": lambda: np.uint64(2**64 - 1),
    "numpy bool": lambda: np.bool_(True),
    "numpy complex": lambda: np.complex128(1 + 2j),
    "numpy duration": lambda: np.timedelta64(5, "ms"),
    "numpy date": lambda: np.datetime64("2026-01-01T00:00:00"),
    "numpy text in an array": lambda: np.array("5"),
    "numpy long double": lambda: np.longdouble("1e4000"),
    "lying text": lambda: LyingText("naïve \ud800" * 200),
    "lying plain text": lambda: LyingText("Kind"),
    "lying int": lambda: LyingInt(10**400),
    "lying small int": lambda: LyingInt(2),
    "lying float": lambda: LyingFloat("inf"),
    "lying dict": lambda: LyingDict(Kind="x"),
    "failing dict": lambda: failing(FAILURES["mute"], dict, ({"Kind": "x"},)),
    "resolved": lambda: Resolved(LyingText("é\x00"), private=None),  # type: ignore[arg-type]
    "another client": NullMetrics,
    **{f"raises {name}": (lambda failure=failure: failing(failure)) for name, failure in FAILURES.items()},
    **{
        f"text that raises {name}": (lambda f=failure: failing(f, str, ("Kind",))) for name, failure in FAILURES.items()
    },
}
SPECIAL = {**ODD, **MORE}
OBJECTS = RECIPES | st.tuples(st.just("more"), st.sampled_from(sorted(MORE)))


def made(recipe: tuple[str, Any]) -> Any:
    """The object of a recipe."""
    return MORE[recipe[1]]() if recipe[0] == "more" else make(recipe)


# ---- the world around an entry ----


class StrictSink(PutMetricDataSink):
    """
    The sink for CloudWatch, with its sizes and its spelling; what it would send is judged instead.
    """

    def __init__(self, cloudwatch: FakeCloudWatch) -> None:
        super().__init__(Connection())
        self.cloudwatch = cloudwatch
        self.complaints: list[str] = []

    def send(self, batch: Batch) -> None:
        headers = {"content-type": "application/x-amz-json-1.0", "authorization": "somebody"}
        request = Request("PutMetricData", headers, body_of(batch), False, True, lambda: True, lambda: False)
        reply = self.cloudwatch.answer(request)
        assert reply is not None
        if reply.code:
            self.complaints.append(reply.message[:500])
            raise SinkRejected(reply.message[:500])


class World:
    """
    One of everything, on a clock that stands still, and two series that are used the ordinary way all the time.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.runtime = ManualRuntime()
        self.cloudwatch = FakeCloudWatch(now=self.runtime.wall)
        self.sink = StrictSink(self.cloudwatch)
        self.client = CloudWatchMetrics(MetricsConfig(strict=strict), sink=self.sink, runtime=self.runtime)
        self.neighbour = self.client.counter("Neighbour")
        self.stream = io.StringIO()
        self.logger = emf.MetricsLogger(
            "Ours", {"Kind": "x"}, stream=self.stream, clock=self.runtime.wall, monotonic=self.runtime.monotonic
        )
        self.rounds = 0

    def live(self) -> None:
        """The same good records as always, under names that strange ones use too."""
        self.client.start()
        self.client.reset_breaker()
        for _ in range(3):
            assert self.client.put_metric("M", GOOD_VALUE, "Count", dimensions=dict(GOOD_DIMENSIONS)) is True
            assert self.neighbour.inc(GOOD_VALUE) is True
            assert self.logger.put_metric("Good", GOOD_VALUE) is True
            self.rounds += 1

    def check(self) -> None:
        """Each of them arrived once, nothing waits, the ledger adds up, and nobody found anything wrong with a request."""
        self.live()
        assert_balanced(self.client)
        self.runtime.advance(61)
        self.live()
        self.client.flush()
        assert_balanced(self.client)
        assert self.client.stats().pending == 0
        assert self.sink.complaints == []
        assert not {DropReason.REJECTED, DropReason.TOO_LARGE} & set(self.client.stats().dropped)
        dimensions = dict(self.client._policy.resolve_all(GOOD_DIMENSIONS)[0])
        assert self.cloudwatch.values(NAMESPACE, "M", dimensions)[GOOD_VALUE] == self.rounds
        assert self.cloudwatch.values(NAMESPACE, "Neighbour") == {GOOD_VALUE: self.rounds}
        assert SECRET not in repr(self.client.stats())
        assert self.logger.flush() is True
        assert self.logger.stats().pending == 0
        assert self.stream.getvalue().count(str(GOOD_VALUE)) == self.rounds


# ---- the entries ----


class Entry(NamedTuple):
    """
    Something public that takes arguments.

    Attributes:
        target: What is called, for its signature.
        call: Calls it, and uses what it makes.
        ordinary: An ordinary argument for each parameter.
        errors: What it may raise, as documented.
        parts: Parameters that take a part of the machine, which has a protocol of its own; see the tests at the end.
    """

    target: Callable[..., Any]
    call: Callable[..., object]
    ordinary: dict[str, Any]
    errors: tuple[type[BaseException], ...] = ()
    parts: frozenset[str] = frozenset()


ENTRIES: dict[str, Entry] = {}

PLAIN: dict[str, Any] = {
    "name": "M",
    "value": 1,
    "seconds": 1.5,
    "value_ms": 1.5,
    "counts": {1.5: 2, 3: 1},
    "unit": "Count",
    "namespace": None,
    "dimensions": {"Kind": "x"},
    "_dimensions": {"Kind": "x"},
    "timestamp": None,
    "storage_resolution": 60,
    "emits_zero": None,
    "callback": None,
    "tenant_id": "t",
    "timeout": 1.0,
    "key": "Key",
    "_options": {"unit": "Count"},
    "function": len,
}
"""An ordinary argument for each parameter of this name."""

QUIET, REFUSES, WRONG_CALL = (), (InvalidMetricError,), (TypeError,)
STRICT = (InvalidMetricError,)


def use(thing: Any) -> Any:
    """Do with something what it is there for."""
    repr(thing)
    if inspect.iscoroutine(thing):
        return asyncio.run(thing) if thing.__name__ in ("aflush", "astop") else end_of(thing)
    for method in ("inc", "dec", "set", "observe"):
        if isinstance(thing, (Counter, Gauge, Histogram)) and hasattr(thing, method):
            assert getattr(thing, method)(1) in (True, False)
    if isinstance(thing, ScopedMetrics):
        assert thing.put_metric("M", 1) in (True, False)
        use(thing.counter("M"))
    if isinstance(thing, (timed, counted, track_use_case)):
        use_around(thing)
    if isinstance(thing, emf.MetricsLogger):
        thing.put_metric("M", 1)
        thing.flush()
        repr(thing.stats())
    return thing


def end_of(thing: Any) -> Any:
    """What a coroutine returns that ends in its first step."""
    try:
        thing.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError


def use_around(thing: Any) -> None:
    """Measure a block and a call."""
    with thing:
        pass
    assert thing(lambda: 5)() == 5


def _within(thing: Any, work: Callable[[], object]) -> None:
    with thing:
        work()


def method_of(owner: type, make_owner: Callable[[World], Any], name: str, errors: tuple[Any, ...] = QUIET) -> None:
    """A method, on an object that is made by `make_owner`."""
    target = getattr(owner, name)
    parameters = list(inspect.signature(target).parameters.values())[1:]

    def call(world: World, **arguments: Any) -> object:
        positional, by_name = spread(parameters, arguments)
        return use(getattr(make_owner(world), name)(*positional, **by_name))

    ENTRIES[f"{owner.__name__}.{name}"] = Entry(
        target, call, {each.name: PLAIN[each.name] for each in parameters}, errors
    )


def spread(parameters: list[inspect.Parameter], arguments: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments as they are passed: what takes any keywords gets those of a dict, or one strange object under a name."""
    positional: list[Any] = []
    by_name: dict[str, Any] = {}
    for each in parameters:
        value = arguments[each.name]
        if each.kind is each.POSITIONAL_ONLY:
            positional.append(value)
        elif each.kind is each.VAR_KEYWORD:
            plain = type(value) is dict and all(type(name) is str and name.isidentifier() for name in value)
            by_name.update(value if plain else {"Strange": value})
        elif each.kind is not each.VAR_POSITIONAL:
            by_name[each.name] = value
    return positional, by_name


def function(
    name: str,
    target: Callable[..., Any],
    ordinary: dict[str, Any],
    errors: tuple[Any, ...] = QUIET,
    parts: set[str] | None = None,
    setting: Callable[[World], Any] | None = None,
) -> None:
    """A function or a class; `setting` is entered around the call."""
    parameters = list(inspect.signature(target).parameters.values())

    def call(world: World, **arguments: Any) -> object:
        positional, by_name = spread(parameters, arguments)
        with setting(world) if setting is not None else nullcontext():
            return use(target(*positional, **by_name))

    ENTRIES[name] = Entry(target, call, ordinary, errors, frozenset(parts or ()))


RECORDING = ("put_metric", "increment_counter", "record_time", "put_metric_sync")
MAKING = ("counter", "gauge", "histogram", "scoped", "with_tenant")
CLIENT, SCOPE = lambda world: world.client, lambda world: world.client.scoped({"Place": "p"})

for _owner, _make in ((CloudWatchMetrics, CLIENT), (ScopedMetrics, SCOPE)):
    for _name in (*RECORDING, *MAKING):
        method_of(_owner, _make, _name)
    method_of(_owner, _make, "timer", WRONG_CALL)
method_of(CloudWatchMetrics, CLIENT, "put_values")
for _name in ("flush", "stop", "aflush", "astop"):
    method_of(CloudWatchMetrics, CLIENT, _name, WRONG_CALL)
for _name in ("start", "stats", "health", "force_open", "disable_breaker", "reset_breaker"):
    method_of(CloudWatchMetrics, CLIENT, _name)

HANDLES: dict[type, Callable[[World], Any]] = {
    Counter: lambda world: world.client.counter("M").bind(Kind="x"),
    Gauge: lambda world: world.client.gauge("M", unit="Bytes").bind(Kind="x"),
    Histogram: lambda world: world.client.histogram("M", "Seconds").bind(Kind="x"),
}
for _owner, _make in HANDLES.items():
    for _name in ("bind", *(name for name in ("inc", "dec", "set", "observe") if hasattr(_owner, name))):
        method_of(_owner, _make, _name)

for _name in ("increment", "record_timing", "set_property"):
    method_of(ClientMetrics, lambda world: ClientMetrics(world.client), _name)
    method_of(EmfMetrics, lambda world: EmfMetrics(world.logger), _name)
    method_of(NullMetrics, lambda _: NullMetrics(), _name)
for _name in (*RECORDING, "put_values", *MAKING, "timer"):
    method_of(NullMetrics, lambda _: NullMetrics(), _name)
for _name in ("inc", "dec", "set", "observe", "bind"):
    method_of(NullInstrument, lambda _: NullMetrics().counter("M"), _name)

for _name in ("put_metric", "set_dimension", "set_property", "flush", "stats"):
    method_of(emf.MetricsLogger, lambda world: world.logger, _name)


@contextmanager
def default_client(world: World) -> Iterator[None]:
    """The world's client as the process-wide one."""
    before = set_metrics_client(world.client)
    try:
        yield
    finally:
        set_metrics_client(before)


@contextmanager
def own_signals(_: World) -> Iterator[None]:
    """Signal handlers are as before afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


for _name in ("put_metric", "increment_counter", "record_time"):
    _target = getattr(retainwise_metrics, _name)
    function(
        _name, _target, {each: PLAIN[each] for each in inspect.signature(_target).parameters}, setting=default_client
    )
function("get_metrics_client", retainwise_metrics.get_metrics_client, {}, setting=default_client)
function("set_metrics_client", set_metrics_client, {"client": None}, setting=default_client)
function(
    "reset_metrics_client",
    retainwise_metrics.reset_metrics_client,
    {"timeout": 1.0},
    WRONG_CALL,
    setting=default_client,
)
function("flush_on_sigterm", retainwise_metrics.flush_on_sigterm, {}, setting=own_signals)

function(
    "MetricsConfig",
    MetricsConfig,
    {"default_dimensions": None, "dimension_policy": None, "catalogue": None, "settings": {"strict": True}},
    (ConfigurationError,),
)
function(
    "MetricsConfig.from_env",
    MetricsConfig.from_env,
    {"environ": {}, "overrides": {"strict": True}},
    (ConfigurationError,),
)
for _name in ("is_quiet", "why_disabled"):
    method_of(MetricsConfig, lambda world: world.client.config, _name)
function(
    "CloudWatchMetrics",
    CloudWatchMetrics,
    {
        "config": MetricsConfig(),
        "sink": None,
        "runtime": ManualRuntime(),
        "before_send": None,
        "on_drop": None,
    },
    (ConfigurationError,),
    {"sink", "runtime"},
)
function("DimensionPolicy", DimensionPolicy, {"rules": None, "detectors": None, "pii_key": None}, (ConfigurationError,))
for _name, _errors in (("resolve", REFUSES), ("resolve_all", REFUSES), ("is_private", QUIET)):
    method_of(DimensionPolicy, lambda world: world.client._policy, _name, _errors)
function(
    "DimensionPolicy.with_key",
    lambda pii_key: DimensionPolicy().with_key(pii_key),
    {"pii_key": "k:secret"},
    (ConfigurationError,),
)
function(
    "DimensionPolicy.extend",
    lambda rule, detectors: DimensionPolicy().extend(rule, detectors=detectors),
    {"rule": Rule("Kind", becomes=str.upper), "detectors": ()},
    (ConfigurationError,),
)

MEASURING: dict[str, Any] = {"name": "M", "namespace": None, "dimensions": None, "outcome": False}
for _name, _target, _more in (
    ("timed", timed, {"clock": lambda: 0.0}),
    ("Timer", Timer, {"clock": lambda: 0.0}),
    ("counted", counted, {"errors_only": False}),
):
    function(_name, _target, {**MEASURING, "client": NullMetrics(), **_more}, WRONG_CALL)
    ENTRIES[f"{_name}.__call__"] = Entry(
        _target.__call__,
        lambda world, function, _target=_target: _target("M", client=world.client)(function),
        {"function": len},
        WRONG_CALL,
    )
    ENTRIES[f"{_name} for a client"] = Entry(
        _target,
        lambda world, _target=_target, **arguments: use(_target(**{**arguments, "client": world.client})),
        {**MEASURING, "client": None, **_more},
        WRONG_CALL,
        frozenset({"client"}),
    )
function(
    "track_use_case",
    track_use_case,
    {"name": "booking", "metrics": NullMetrics(), "clock": lambda: 0.0, "patience_seconds": 0.5},
    WRONG_CALL,
)
ENTRIES["track_use_case for a client"] = Entry(
    track_use_case,
    lambda world, metrics, **arguments: use(track_use_case(metrics=ClientMetrics(world.client), **arguments)),
    ENTRIES["track_use_case"].ordinary,
    WRONG_CALL,
    frozenset({"metrics"}),
)
ENTRIES["track_use_case.__call__"] = Entry(
    track_use_case.__call__,
    lambda world, function: track_use_case("booking", ClientMetrics(world.client))(function),
    {"function": len},
    WRONG_CALL,
)


def used_service(service: Any) -> None:
    """Record through it."""
    for name in ("M", TEN_MEGABYTES):
        end_of(service.increment(name))
        end_of(service.record_timing(name, value_ms=1.0))
    service.set_property("Key", "value")


ENTRIES["ClientMetrics"] = Entry(
    ClientMetrics,
    lambda _, **arguments: used_service(ClientMetrics(**arguments)),
    {"recorder": NullMetrics(), "namespace": None},
    # What `strict` is for: a recorder that raises this is not held back.
    STRICT,
)
ENTRIES["EmfMetrics"] = Entry(
    EmfMetrics, lambda _, **arguments: used_service(EmfMetrics(**arguments)), {"logger": NullMetrics()}
)
ENTRIES["ScopedMetrics"] = Entry(
    ScopedMetrics,
    lambda world, recorder, dimensions: use(ScopedMetrics(world.client, dimensions)),
    {"recorder": None, "dimensions": {"Kind": "x"}},
    parts=frozenset({"recorder"}),
)
NullMetrics_entry = Entry(NullMetrics, lambda _: use(NullMetrics()), {})
ENTRIES["NullMetrics"] = NullMetrics_entry
ENTRIES["NullInstrument.__call__"] = Entry(
    NullInstrument.__call__, lambda _, function: NullMetrics().timer("M")(function), {"function": len}
)

LOGGER: dict[str, Any] = {
    "default_dimensions": None,
    "stream": io.StringIO(),
    "clock": lambda: 1_767_225_600.0,
    "monotonic": lambda: 0.0,
    "timer": lambda *_: None,
    "margin_seconds": 0.5,
}
function("MetricsLogger", emf.MetricsLogger, {"namespace": "Ours", **LOGGER})


def handled(world: World, **arguments: Any) -> None:
    """A Lambda handler that is called, once with a context that cannot be looked at."""
    handler = world.logger.handler(lambda *_: 5, prefix=arguments["prefix"])
    assert handler({}, arguments["function"]) == 5


ENTRIES["MetricsLogger.handler"] = Entry(emf.MetricsLogger.handler, handled, {"function": None, "prefix": "Handler"})
ENTRIES["create_metrics_logger"] = Entry(
    emf.create_metrics_logger,
    lambda _, namespace, context, options: use(emf.create_metrics_logger(namespace, context, stream=io.StringIO())),
    {"namespace": "Ours", "context": None, "options": None},
)
ENTRIES["lambda_handler"] = Entry(
    emf.lambda_handler,
    lambda world, metrics, prefix: emf.lambda_handler(world.logger, prefix=prefix)(lambda *_: 5)({}, metrics),
    {"metrics": None, "prefix": "Handler"},
)

DATA = {
    **dict.fromkeys(("BreakerState", "DropReason", "MetricNamespace", "MetricUnit", "StorageResolution"), "an enum"),
    **dict.fromkeys(("ClientStats", "FlushResult", "Health"), "a tuple that the library makes"),
    **dict.fromkeys(("ConfigurationError", "InvalidMetricError", "MetricsError"), "an exception that it raises"),
    **dict.fromkeys(("Counter", "Gauge", "Histogram"), "made by a client, which is tried"),
    "MetricsService": "a protocol",
}
"""Public names that are no entries, and why."""

NOT_HERE = {
    "CloudWatchMetrics.after_fork": "takes nothing, and empties the client: tests/process/test_forks.py",
    "CloudWatchMetrics.stopped": "a property",
    **dict.fromkeys(
        (f"track_use_case.{name}" for name in ("service_for", "now", "take", "take_or_wait", "complain")),
        "what a run asks of its tracker",
    ),
}
OWNERS = (ScopedMetrics, NullInstrument, emf.MetricsLogger)
"""Classes that are not among the public names, but whose objects everybody holds."""


def public_entries() -> Iterator[tuple[str, Any]]:
    """Everything that somebody may call."""
    owners = [getattr(retainwise_metrics, name) for name in retainwise_metrics.__all__ if name not in DATA]
    handles = [getattr(retainwise_metrics, name) for name in ("Counter", "Gauge", "Histogram")]
    for owner in owners:
        yield owner.__name__, owner
    for owner in (*owners, *handles, *OWNERS):
        for name, member in inspect.getmembers(owner) if inspect.isclass(owner) else ():
            is_called = inspect.isfunction(member) or inspect.ismethod(member) or isinstance(member, property)
            if is_called and (not name.startswith("_") or name == "__call__"):
                yield f"{owner.__name__}.{name}", member
    for name in ("MetricsLogger", "create_metrics_logger", "lambda_handler"):
        yield name, getattr(emf, name)


def test_every_public_entry_is_tried() -> None:
    """And every argument of it: what is new has to be added here."""
    found = dict(public_entries())
    assert set(found) - set(NOT_HERE) <= set(ENTRIES)
    assert set(NOT_HERE) <= set(found)
    assert set(DATA) <= set(retainwise_metrics.__all__)
    for name, entry in ENTRIES.items():
        parameters = set(inspect.signature(entry.target).parameters) - {"self"}
        assert parameters == set(entry.ordinary), name
        assert entry.parts <= parameters, name
    assert set(inspect.signature(DimensionPolicy.extend).parameters) == {"self", "rules", "detectors"}
    assert set(inspect.signature(DimensionPolicy.with_key).parameters) == {"self", "pii_key"}


@pytest.mark.parametrize("entry", ENTRIES)
def test_ordinary_arguments_are_ordinary(entry: str) -> None:
    """What every other call here is a change of raises nothing."""
    world = World()
    ENTRIES[entry].call(world, **ENTRIES[entry].ordinary)
    world.check()


# ---- the tests ----


@contextmanager
def readable(*expected: type[BaseException]) -> Iterator[None]:
    """
    What escapes becomes a failure that can be read: of an exception that breaks whoever asks it, only the place is told.
    """
    escaped: list[str] = []
    try:
        yield
    except BaseException as error:
        if issubclass(type(error), (AssertionError, KeyboardInterrupt, pytest.fail.Exception)) or (
            type(type(error)) is type and not issubclass(type(error), (*expected, Mute, Stranger, ZeroDivisionError))
        ):
            raise
        if not issubclass(type(error), expected):
            lines = traceback.extract_tb(error.__traceback__)
            escaped = [f"{line.filename}:{line.lineno} {line.line}" for line in lines[-4:]]
    if escaped:
        failure = AssertionError(escaped)
        failure.__context__ = None
        raise failure from None


def attempt(world: World, entry: Entry, errors: tuple[Any, ...], **changes: Any) -> None:
    """Call it with some strange arguments: it raises nothing that is not documented."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in production: numpy warns of much that would be an error here
        with readable(*errors):
            entry.call(world, **{**entry.ordinary, **changes})


MAPPINGS = ("dimensions", "default_dimensions")
ARGUMENTS = [(name, each) for name, entry in ENTRIES.items() for each in entry.ordinary if each not in entry.parts]


@pytest.mark.parametrize(("way", "argument"), ARGUMENTS)
def test_every_special_object_for_every_argument(way: str, argument: str) -> None:
    """As the argument itself, and inside of one."""
    world, entry = World(), ENTRIES[way]
    world.live()
    for special in SPECIAL.values():
        attempt(world, entry, entry.errors, **{argument: special()})
    for name, special in MORE.items():
        if "megabytes" not in name and (type(entry.ordinary[argument]) is dict or argument in MAPPINGS):
            attempt(world, entry, entry.errors, **{argument: {"Kind": special()}})
    world.check()


@pytest.mark.parametrize(("way", "argument"), ARGUMENTS)
def test_every_broken_method_in_every_argument(way: str, argument: str) -> None:
    """One broken method at a time, and all of them at once, of an object of every kind."""
    world, entry = World(), ENTRIES[way]
    world.live()
    one_by_one = itertools.product(("object", "str"), (frozenset({each}) for each in DUNDERS))
    for base, methods in (*((base, frozenset(METHODS)) for base in BASES), *one_by_one):
        try:
            strange = hostile(base, methods, "ValueError")
        except Exception:  # it cannot be made
            continue
        attempt(world, entry, entry.errors, **{argument: strange})
    world.check()


DUNDERS = [name for name in METHODS if name.startswith("__")]

CALLS = st.sampled_from(sorted(ENTRIES)).flatmap(
    lambda name: st.tuples(
        st.just(name),
        st.dictionaries(st.sampled_from(sorted({*ENTRIES[name].ordinary} - ENTRIES[name].parts)), OBJECTS, max_size=3)
        if set(ENTRIES[name].ordinary) - ENTRIES[name].parts
        else st.just({}),
    )
)


@settings(max_examples=150, deadline=None)
@given(calls=st.lists(CALLS, min_size=1, max_size=8), strict=st.booleans())
def test_any_objects_in_any_order(calls: list[tuple[str, dict[str, Any]]], strict: bool) -> None:
    """Several entries of one client, one after the other; a strict one raises what it refuses, and nothing else."""
    world = World(strict=strict)
    for name, changes in calls:
        entry = ENTRIES[name]
        errors = (*entry.errors, *STRICT) if strict else entry.errors
        attempt(world, entry, errors, **{argument: made(recipe) for argument, recipe in changes.items()})
        world.live()
    world.check()


# ---- single settings, callbacks and parts of the machine ----


@pytest.mark.parametrize("name", SETTINGS)
@readable()
def test_every_special_object_as_every_setting(name: str) -> None:
    """A setting is refused by the error for that, or the client works with it; no message is longer than a few lines."""
    for special in SPECIAL.values():
        with suppress(ConfigurationError):
            config = MetricsConfig(**{name: special()})
            assert len(repr(config)) < 500
            CloudWatchMetrics(config, sink=InMemorySink(), runtime=ManualRuntime()).put_metric("M", 1)
            continue
        with pytest.raises(ConfigurationError) as refused:
            MetricsConfig(**{name: special()})
        assert len(str(refused.value)) < 1000
        assert SECRET not in str(refused.value)


@pytest.mark.parametrize("special", MORE)
@readable()
def test_every_special_object_as_a_variable_of_the_environment(special: str) -> None:
    """Likewise."""
    for name in ("strict", "batch_size", "open_seconds", "default_namespace", "endpoint_url", "pii_key"):
        with suppress(ConfigurationError):
            repr(MetricsConfig.from_env({f"RETAINWISE_METRICS_{name.upper()}": MORE[special]()}))


@pytest.mark.parametrize("length", [1, 20, 40, 60, 100, 10_000])
def test_a_password_in_a_url_is_never_shown(length: int) -> None:
    """However long it is: what is cut off must not be the sign that it is one."""
    config = MetricsConfig(endpoint_url=f"https://somebody:{'Pw7' * length}@example.test/")
    assert "Pw7" not in repr(config)
    assert "somebody" not in repr(config)
    assert "example.test" in repr(config)


@pytest.mark.parametrize("special", SPECIAL)
@readable()
def test_a_gauge_whose_callback_returns_or_raises_anything(special: str) -> None:
    """Its reading is refused or missing; those of the gauges after it are not."""
    world = World()
    world.client.gauge("Before", lambda: 3)
    world.client.gauge("Strange", SPECIAL[special])
    world.client.gauge("Called", SPECIAL[special]())
    world.client.gauge("After", lambda: 4)
    world.check()
    assert set(world.cloudwatch.values(NAMESPACE, "Before")) == {3.0}
    before, after = (world.cloudwatch.values(NAMESPACE, name) for name in ("Before", "After"))
    assert after == {4.0: before[3.0]}


@pytest.mark.parametrize("failure", FAILURES)
@readable()
def test_a_gauge_whose_callback_raises_what_cannot_be_looked_at(failure: str) -> None:
    """Not even a refusal of its own, with a field that has no hash, keeps the next gauge from being read."""

    def read() -> float:
        error = FAILURES[failure]()
        raise error

    world = World()
    world.client.gauge("Strange", read)
    world.client.gauge("After", lambda: 4)
    world.check()
    assert set(world.cloudwatch.values(NAMESPACE, "After")) == {4.0}


@pytest.mark.parametrize("failure", [*FAILURES, "answers nonsense"])
@readable()
def test_a_rule_that_returns_or_raises_anything(failure: str) -> None:
    """The application's own dimension rule: what it breaks is refused, and what it makes of a value keeps the limits."""

    def rule(_: str) -> Any:
        if failure in FAILURES:
            error = FAILURES[failure]()
            raise error
        return next(answers)

    answers = itertools.cycle(special() for special in SPECIAL.values())
    world = World()
    policy = DimensionPolicy().extend(Rule("Ruled", becomes=rule))
    client = CloudWatchMetrics(MetricsConfig(dimension_policy=policy), sink=world.sink, runtime=world.runtime)
    for _ in SPECIAL:
        assert client.put_metric("M", 1, dimensions={"Ruled": "x"}) in (True, False)
    assert client.put_metric("M", 1)
    assert client.flush()
    assert_balanced(client)
    world.check()


UNPUBLISHABLE: dict[str, tuple[Any, ...]] = {
    "a name twice": (("A", "1"), ("A", "2")),
    "a colon": ((":A", "1"),),
    "a list": (["A", "1"],),
    "three": (("A", "1", "2"),),
    "lying": ((LyingText("A"), LyingText("é")),),
    "not ASCII": (("A", "é"),),
    "too long": (("A", "x" * 1025),),
    "too many": tuple((f"A{number}", "x") for number in range(31)),
    "giant": (("A", TEN_MEGABYTES),),
    "no pair": (5,),
}
"""Dimensions that `before_send` may make of a series."""


@pytest.mark.parametrize("dimensions", UNPUBLISHABLE)
@readable()
def test_a_hook_that_makes_a_series_that_cannot_be_published(dimensions: str) -> None:
    """Its values are withheld, and counted; those of all other series arrive."""

    def change(series: Series) -> Series:
        return series.with_dimensions(UNPUBLISHABLE[dimensions]) if series.name == "Changed" else series

    world = World()
    client = CloudWatchMetrics(MetricsConfig(), sink=world.sink, runtime=world.runtime, before_send=change)
    for _ in range(2):
        assert client.put_metric("Changed", 1)
        assert client.put_metric("Kept", 1)
        assert client.put_metric_sync("Changed", 1) is False
        assert client.put_metric_sync("Kept", 1)
        assert client.flush()
    assert client.stats().dropped == {DropReason.WITHHELD: 4}
    assert world.cloudwatch.values(NAMESPACE, "Kept") == {1.0: 4}
    assert_balanced(client)
    world.check()


@pytest.mark.parametrize("special", [*SPECIAL, *(f"raises {failure}" for failure in FAILURES)])
@readable()
def test_hooks_that_return_or_raise_anything(special: str) -> None:
    """Neither who is asked before values are sent nor who is told that they are dropped can do more than withhold them."""

    def hook(*arguments: Any) -> Any:
        if arguments[0] == DropReason.INVALID_VALUE:
            told.append(arguments)
        if special.partition(" ")[2] in FAILURES:
            raise FAILURES[special.partition(" ")[2]]()  # noqa: RSE102  # it is made, not raised, by the call
        if isinstance(arguments[0], Series) and arguments[0].name == "Kept":
            return arguments[0]
        return SPECIAL[special]()

    told: list[Any] = []
    world = World()
    client = CloudWatchMetrics(MetricsConfig(), sink=world.sink, runtime=world.runtime, before_send=hook, on_drop=hook)
    for value in (1, math.nan, 1):
        client.put_metric("M", value)
        client.put_metric("Kept", value)
        assert client.put_metric_sync("M", value) is False
        client.flush()
        assert_balanced(client)
    assert client.health().pending == 0
    assert told
    if special.partition(" ")[2] not in FAILURES:
        assert world.cloudwatch.values(NAMESPACE, "Kept") == {1.0: 2}
    world.check()


@pytest.mark.parametrize("method", ["send", "datum_bytes", "envelope_bytes", "after_fork", "close"])
@pytest.mark.parametrize("failure", FAILURES)
@readable()
def test_a_sink_that_raises_anything_anywhere(method: str, failure: str) -> None:
    """A sink is somebody's code as well: whoever records does not notice, and nothing is lost while it is broken."""
    broken = True

    class Broken(InMemorySink):
        """Raises in one of its methods."""

    def fail(self: Broken, *arguments: Any) -> Any:
        if broken:
            error = FAILURES[failure]()
            raise error
        return getattr(super(Broken, self), method)(*arguments)

    setattr(Broken, method, fail)
    runtime, sink = ManualRuntime(), Broken()
    client = CloudWatchMetrics(MetricsConfig(), sink=sink, runtime=runtime)
    sent = sum(client.put_metric_sync("Now", 1) for _ in range(3))
    assert all(client.put_metric("M", 1) for _ in range(3))
    client.flush()
    assert_balanced(client)
    runtime.advance(600)
    broken = False
    runtime.advance(3600)
    assert client.put_metric("M", 1)
    assert client.flush()
    assert sink.values(NAMESPACE, "M") == {1.0: 4}
    assert sum(sink.values(NAMESPACE, "Now").values()) == sent
    broken = True
    client.stop()
    assert_balanced(client)


@pytest.mark.parametrize(
    "failure", [lambda: type.__call__(Unspeakable), Stranger, Mute], ids=["unspeakable", "stranger", "mute"]
)
@pytest.mark.parametrize("options", [{}, {"outcome": True}, {"errors_only": True}], ids=str)
@pytest.mark.parametrize("kind", [timed, counted, track_use_case])
@readable()
def test_an_exception_that_cannot_be_looked_at_passes_through(
    kind: Any, options: dict[str, Any], failure: Callable[[], BaseException]
) -> None:
    """The very same object, from a call and from a block, also where the exception is what is counted."""
    world, error, caught = World(), failure(), []
    if not set(options) <= set(inspect.signature(kind).parameters):
        return
    arguments = (ClientMetrics(world.client),) if kind is track_use_case else ()
    measured = kind("M", *arguments, **options, **({} if arguments else {"client": world.client}))

    def fail() -> None:
        raise error

    for call in (measured(fail), lambda: _within(measured, fail)):
        try:
            call()
        except BaseException as raised:
            caught.append(raised)
    assert [each is error for each in caught] == [True, True]
    assert world.client.stats().recorded >= (type(error) is not Stranger or not options.get("errors_only"))
    world.check()


# ---- timeouts, on threads ----

TIMEOUTS: dict[str, Any] = {
    "NaN": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "negative": -5,
    "giant": 10**400,
    "numpy": np.float32(0.5),
    "decimal": decimal.Decimal(1),
    "signalling NaN": decimal.Decimal("sNaN"),
    "text": "5",
    "None": None,
    "complex": 1j,
    "array": np.array([1.0, 2.0]),
}


@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_a_strange_timeout_does_no_harm(timeout: str) -> None:
    """
    It is a number, or refused by a `TypeError` before anything has happened; whoever asks next is not held up by it.
    """
    sink = InMemorySink()
    client = CloudWatchMetrics(MetricsConfig(catalogue=(), flush_interval_seconds=3600), sink=sink)
    for value in range(3):
        client.put_metric("M", value)
        with suppress(TypeError):
            client.flush(TIMEOUTS[timeout])
    client.put_metric("M", 3)
    assert client.flush(60.0)
    try:
        client.stop(TIMEOUTS[timeout])
    except TypeError:
        assert not client.stopped
    assert client.stop(60.0)
    assert sink.values(NAMESPACE, "M") == dict.fromkeys(map(float, range(4)), 1)
    assert_balanced(client)


@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_a_strange_timeout_while_nothing_gets_through(timeout: str) -> None:
    """The flusher compares it with the time again and again: it must be something that can be compared."""
    world = World()
    world.client.force_open()
    for _ in range(2):
        world.client.put_metric("M", 1)
        with suppress(TypeError):
            world.client.flush(TIMEOUTS[timeout])
        world.runtime.advance(600)
    assert not world.client.stats().last_error
    steps = 0

    def count(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def step(message: Any) -> Any:
            nonlocal steps
            steps += 1
            return original(message)

        return step

    for worker in world.runtime._workers:
        worker._job.step = count(worker._job.step)  # type: ignore[method-assign]
    world.runtime.advance(600)
    assert steps <= 60, "a question that is never answered keeps the flusher busy"
    world.check()


@pytest.mark.parametrize("special", ["numpy complex", "numpy duration", "numpy date", "numpy text in an array"])
def test_what_is_no_real_number_is_not_made_one(special: str) -> None:
    """`float()` takes the real part of a complex number, with a warning that nobody sees, and text inside of an array."""
    world = World()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert world.client.put_metric("M", MORE[special]()) is False
        assert world.client.put_metric_sync("M", MORE[special]()) is False
        assert world.logger.put_metric("M", MORE[special]()) is False
    assert world.client.stats().dropped == {DropReason.INVALID_VALUE: 2}
    world.check()
