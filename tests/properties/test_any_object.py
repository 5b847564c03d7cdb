"""
Whatever object is passed for whatever argument: recording does not raise, nothing else is lost, and the next record works.

Objects are drawn as recipes and made inside the test: some of them cannot even be printed.
"""

from __future__ import annotations

import decimal
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone, tzinfo
from typing import Any
from unittest.mock import ANY, MagicMock, Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retainwise_metrics import CloudWatchMetrics, InvalidMetricError, MetricsConfig
from retainwise_metrics.testing import InMemorySink, ManualRuntime
from tests.helpers import NAMESPACE, assert_balanced

SECRET = "alice@example.com"
GOOD_VALUE = 77.25
"""No recipe below makes this number."""

GOOD_DIMENSIONS = {"Kind": "good", "UserId": "somebody"}

# ---- objects ----

METHODS = (
    *("__str__", "__repr__", "__format__", "__hash__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"),
    *("__bool__", "__len__", "__iter__", "__next__", "__contains__", "__getitem__", "__getattr__", "__missing__"),
    *(
        "__float__",
        "__int__",
        "__index__",
        "__complex__",
        "__abs__",
        "__neg__",
        "__add__",
        "__radd__",
        "__mul__",
        "__rmul__",
    ),
    *("__call__", "__enter__", "__exit__", "__class__", "__reversed__", "keys", "items", "values", "get", "copy"),
    *(
        "timestamp",
        "utcoffset",
        "tzinfo",
        "isoformat",
        "encode",
        "strip",
        "startswith",
        "isascii",
        "isprintable",
        "lower",
    ),
    *("translate", "casefold", "value", "name"),
)
"""What might be called on an argument."""


class Odd(Mapping[str, object]):
    """A mapping that is what its class attributes say."""

    def __getitem__(self, name: str) -> object:
        return "x"

    def __iter__(self) -> Iterator[str]:
        return iter(["Kind"])

    def __len__(self) -> int:
        return 1


class Endless(Odd):
    """A mapping without an end."""

    def __iter__(self) -> Iterator[str]:
        return map(str, itertools.count())


class Strange(type):
    """A metaclass that raises for whatever it is asked."""

    def __getattribute__(cls, name: str) -> object:
        raise ZeroDivisionError(SECRET)

    def __instancecheck__(cls, instance: object) -> bool:
        raise ZeroDivisionError(SECRET)

    def __eq__(cls, other: object) -> bool:
        raise ZeroDivisionError(SECRET)

    __hash__ = type.__hash__


BASES: dict[str, tuple[type, tuple[Any, ...]]] = {
    "object": (object, ()),
    "str": (str, ("Kind",)),
    "long str": (str, ("x" * 300,)),
    "int": (int, (1,)),
    "float": (float, (1.5,)),
    "dict": (dict, ({"Kind": "x"},)),
    "mapping": (Odd, ()),
    "list": (list, (["Kind"],)),
    "datetime": (datetime, (2026, 1, 1)),
    "decimal": (decimal.Decimal, ("1.5",)),
    "exception": (Exception, (SECRET,)),
}

ERRORS: dict[str, Callable[[], Exception]] = {
    "ValueError": lambda: ValueError(SECRET),
    "TypeError": lambda: TypeError(SECRET),
    "KeyError": lambda: KeyError(SECRET),
    "AttributeError": lambda: AttributeError(SECRET),
    "RecursionError": lambda: RecursionError(SECRET),
    "InvalidMetricError": lambda: InvalidMetricError("somebody else's", field="dimensions"),
    "StopIteration": lambda: StopIteration(SECRET),
}

ANSWERS: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "NotImplemented": lambda: NotImplemented,
    "True": lambda: True,
    "minus one": lambda: -1,
    "text": lambda: "Count",
    "an object": object,
    "infinite": itertools.count,
}


def hostile(base: str, methods: frozenset[str], behaviour: str) -> object:
    """An object of a subclass of `base`, some of whose methods raise or answer nonsense."""
    kind, arguments = BASES[base]

    def method(*_: object, **__: object) -> Any:
        if behaviour in ERRORS:
            error = ERRORS[behaviour]()
            raise error
        return ANSWERS[behaviour]()

    made: Any = {name: property(method) if name == "__class__" else method for name in methods}
    return type("Hostile", (kind,), made)(*arguments)


def recursive_dict() -> dict[str, object]:
    """A dict that contains itself."""
    made: dict[str, object] = {"Kind": "x"}
    made["Self"] = made
    return made


def recursive_list() -> list[object]:
    """A list that contains itself."""
    made: list[object] = []
    made.append(made)
    return made


def deep() -> object:
    """A list in a list in a list, deeper than the stack."""
    made: list[object] = []
    for _ in range(sys.getrecursionlimit() * 2):
        made = [made]
    return made


class Recursive:
    """Its text is the text of its text."""

    def __str__(self) -> str:
        return str(self)

    def __float__(self) -> float:
        return float(self)


class BrokenZone(tzinfo):
    """A time zone that raises."""

    def utcoffset(self, _: datetime | None) -> None:
        raise ZeroDivisionError(SECRET)


SPECIAL: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "NotImplemented": lambda: NotImplemented,
    "Ellipsis": lambda: ...,
    "object": object,
    "class": lambda: dict,
    "strange class": lambda: Strange("S", (), {}),
    "strange instance": lambda: type.__call__(Strange("S", (), {})),
    "strange str": lambda: type.__call__(Strange("S", (str,), {}), "Kind"),
    "lambda": lambda: lambda: 1,
    "generator": lambda: (each for each in "abc"),
    "endless generator": itertools.count,
    "endless mapping": Endless,
    "recursive dict": recursive_dict,
    "recursive list": recursive_list,
    "deep list": deep,
    "recursive": Recursive,
    "giant text": lambda: "x" * 1_000_000,
    "giant int": lambda: 10**5000,
    "giant negative int": lambda: -(10**5000),
    "giant dict": lambda: dict.fromkeys(map(str, range(10_000)), "x"),
    "giant value": lambda: {"Kind": "x" * 1_000_000},
    "giant name": lambda: {"K" * 1_000_000: "x"},
    "surrogate": lambda: "\ud800",
    "surrogate value": lambda: {"Kind": "\udfff"},
    "nul": lambda: "\x00",
    "newlines": lambda: "a\nb\r\n",
    "secret": lambda: {"Anything": SECRET, "": SECRET},
    "bytes": lambda: b"Kind",
    "memoryview": lambda: memoryview(b"Kind"),
    "complex": lambda: 1j,
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "signalling NaN": lambda: decimal.Decimal("sNaN"),
    "numpy scalar": lambda: np.float32(1.5),
    "numpy text": lambda: np.str_("Kind"),
    "numpy array": lambda: np.array([1.0, 2.0]),
    "numpy 0-d": lambda: np.array(1.5),
    "numpy objects": lambda: np.array([object()]),
    "numpy record": lambda: np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")])[0],
    "mock": Mock,
    "magic mock": MagicMock,
    "mock of a str": lambda: MagicMock(spec=str),
    "mock of an int": lambda: MagicMock(spec=int),
    "mock of a dict": lambda: MagicMock(spec=dict),
    "mock of a datetime": lambda: MagicMock(spec=datetime),
    "anything": lambda: ANY,
    "broken zone": lambda: datetime(2026, 1, 1, tzinfo=BrokenZone()),
    "first datetime": lambda: datetime.min,  # noqa: DTZ901
    "last datetime": lambda: datetime.max.replace(tzinfo=timezone.utc),
    "frozenset": lambda: frozenset({"Kind"}),
    "empty list": list,
    "empty dict": dict,
}


Recipe = tuple[str, Any]

LEAVES: st.SearchStrategy[Recipe] = st.one_of(
    st.tuples(
        st.just("hostile"),
        st.tuples(
            st.sampled_from(sorted(BASES)),
            st.frozensets(st.sampled_from(METHODS), max_size=6) | st.just(frozenset(METHODS)),
            st.sampled_from(sorted([*ERRORS, *ANSWERS])),
        ),
    ),
    st.tuples(st.just("special"), st.sampled_from(sorted(SPECIAL))),
    st.tuples(
        st.just("plain"),
        st.text(max_size=5) | st.integers() | st.floats() | st.booleans() | st.datetimes() | st.binary(max_size=3),
    ),
)
RECIPES: st.SearchStrategy[Recipe] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(
            st.just("dict"), st.lists(st.tuples(st.sampled_from(["Kind", "UserId", "Other"]), inner), max_size=3)
        ),
        st.tuples(st.just("keys"), st.lists(inner, max_size=2)),
        st.tuples(st.just("list"), st.lists(inner, max_size=3)),
    ),
    max_leaves=4,
)


def make(recipe: Recipe) -> Any:
    """Make the object of a recipe."""
    kind, what = recipe
    if kind == "hostile":
        try:
            return hostile(*what)
        except Exception:
            return object()
    if kind == "special":
        return SPECIAL[what]()
    if kind == "dict":
        return {name: make(value) for name, value in what}
    if kind == "keys":
        made = {}
        for key in map(make, what):
            try:
                made[key] = "x"
            except Exception:  # it has no hash
                continue
        return made
    if kind == "list":
        return [make(each) for each in what]
    return what


# ---- ways to record ----

Arguments = dict[str, Any]
FIELDS = ("name", "value", "unit", "namespace", "dimensions", "timestamp", "storage_resolution")


def only(arguments: Arguments, *fields: str) -> Arguments:
    """Some of the arguments."""
    return {field: value for field, value in arguments.items() if field in fields}


def put_metric(client: Any, arguments: Arguments) -> object:
    """By the client."""
    return client.put_metric(**arguments)


def put_metric_sync(client: Any, arguments: Arguments) -> object:
    """At once."""
    return client.put_metric_sync(**arguments)


def increment_counter(client: Any, arguments: Arguments) -> object:
    """As a count."""
    return client.increment_counter(**{field: value for field, value in arguments.items() if field != "unit"})


def record_time(client: Any, arguments: Arguments) -> object:
    """As a duration."""
    options = {field: value for field, value in arguments.items() if field not in ("unit", "value")}
    return client.record_time(seconds=arguments["value"], **options)


def counter(client: Any, arguments: Arguments) -> object:
    """By a counter that is made for it; the unit is taken for `emits_zero`."""
    made = client.counter(**only(arguments, "name", "namespace", "dimensions"), emits_zero=arguments["unit"])
    return repr(made) and made.inc(arguments["value"])


def gauge(client: Any, arguments: Arguments) -> object:
    """By a gauge, with each of its verbs."""
    made = client.gauge(**only(arguments, "name", "unit", "namespace", "dimensions"))
    value = arguments["value"]
    return [repr(made) and made.set(value), made.inc(value), made.dec(value), made.set(value)][0]


def gauge_callback(client: Any, arguments: Arguments) -> object:
    """By a gauge that is read; the timestamp is taken for a callback, too."""
    client.gauge(arguments["name"], arguments["timestamp"], dimensions=arguments["dimensions"])
    made = client.gauge("Read", lambda: arguments["value"], **only(arguments, "unit", "namespace", "dimensions"))
    return made.set(1)


def histogram(client: Any, arguments: Arguments) -> object:
    """By a histogram."""
    made = client.histogram(**only(arguments, "name", "unit", "namespace", "dimensions"))
    return repr(made) and made.observe(arguments["value"])


def bound(client: Any, arguments: Arguments) -> object:
    """By a bound handle, the objects as dimension values."""
    dimensions = {"Kind": arguments["dimensions"], "Other": arguments["timestamp"]}
    return client.counter("M").bind(**dimensions).inc(arguments["value"])


def scoped(client: Any, arguments: Arguments) -> object:
    """Within a scope, the objects as dimension values and tenant."""
    scope = client.scoped({"Kind": arguments["dimensions"]}).with_tenant(arguments["timestamp"])
    return scope.put_metric(**only(arguments, "name", "value", "unit"))


def timer(client: Any, arguments: Arguments) -> object:
    """By a timer, the objects as namespace and dimension value."""
    with client.timer("M", namespace=arguments["namespace"], dimensions={"Kind": arguments["dimensions"]}):
        return True


WAYS: dict[str, Callable[[Any, Arguments], object]] = {
    way.__name__: way
    for way in (
        put_metric,
        put_metric_sync,
        increment_counter,
        record_time,
        counter,
        gauge,
        gauge_callback,
        histogram,
        bound,
        scoped,
        timer,
    )
}

ORDINARY: dict[str, Any] = {
    "name": "M",
    "value": 1,
    "unit": "Count",
    "namespace": None,
    "dimensions": {"Kind": "x"},
    "timestamp": None,
    "storage_resolution": 60,
}
CHANGES = st.dictionaries(st.sampled_from(FIELDS), RECIPES, min_size=1, max_size=3)


class Bystander:
    """A series that is used the ordinary way all the time."""

    def __init__(self, *, strict: bool) -> None:
        self.runtime, self.sink = ManualRuntime(), InMemorySink()
        self.client = CloudWatchMetrics(MetricsConfig(strict=strict), sink=self.sink, runtime=self.runtime)
        self.handle = self.client.counter("Handle")
        self.records = 0

    def record(self) -> None:
        """The same good record as always, by `put_metric` and by a handle, under the name that strange ones use too."""
        for _ in range(3):
            assert self.client.put_metric("M", GOOD_VALUE, "Count", dimensions=dict(GOOD_DIMENSIONS))
            assert self.handle.inc(GOOD_VALUE)
            self.records += 1

    def check(self) -> None:
        """Each of them arrived, once, and the ledger adds up."""
        self.record()
        assert_balanced(self.client)
        self.runtime.advance(61)
        assert_balanced(self.client)
        self.record()
        assert self.client.flush()
        assert_balanced(self.client)
        dimensions = self.client._policy.resolve_all(GOOD_DIMENSIONS)[0]
        assert self.sink.values(NAMESPACE, "M", dict(dimensions))[GOOD_VALUE] == self.records
        assert self.sink.values(NAMESPACE, "Handle") == {GOOD_VALUE: self.records}
        assert SECRET not in repr(self.client.stats())
        assert SECRET not in " ".join(self.client._intake.notes.values())


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=100, deadline=None)
@given(calls=st.lists(CHANGES, min_size=1, max_size=3))
def test_no_object_makes_recording_raise_or_lose_a_neighbour(way: str, calls: list[dict[str, Recipe]]) -> None:
    """Each strange call is made twice, between ordinary ones; it answers True or False, and nothing else changes."""
    bystander = Bystander(strict=False)
    bystander.record()
    for changes in calls:
        for _ in range(2):
            arguments = {**ORDINARY, **{field: make(recipe) for field, recipe in changes.items()}}
            assert WAYS[way](bystander.client, arguments) in (True, False)
            bystander.record()
    bystander.check()


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=40, deadline=None)
@given(changes=CHANGES)
def test_in_strict_mode_nothing_but_an_invalid_metric_error_is_raised(way: str, changes: dict[str, Recipe]) -> None:
    """And what is raised has been counted."""
    bystander = Bystander(strict=True)
    bystander.record()
    for _ in range(2):
        arguments = {**ORDINARY, **{field: make(recipe) for field, recipe in changes.items()}}
        try:
            assert WAYS[way](bystander.client, arguments) in (True, False)
        except InvalidMetricError:
            assert sum(bystander.client.stats().dropped.values()) >= 1
        bystander.record()
    bystander.check()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("field", FIELDS)
def test_every_special_object_in_every_argument(way: str, field: str) -> None:
    """Also those that a random search would not try together with this argument."""
    bystander = Bystander(strict=False)
    bystander.record()
    for special in SPECIAL.values():
        assert WAYS[way](bystander.client, {**ORDINARY, field: special()}) in (True, False)
        assert WAYS[way](bystander.client, {**ORDINARY, field: special(), "dimensions": {"Kind": special()}}) in (
            True,
            False,
        )
        bystander.record()
    bystander.check()


@pytest.mark.parametrize("behaviour", ["ValueError", "InvalidMetricError", "None", "True"])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("field", FIELDS)
def test_every_method_of_every_kind_of_object_in_every_argument(field: str, base: str, behaviour: str) -> None:
    """One broken method at a time, as the argument itself, as a dimension value, and as a dimension name."""
    bystander = Bystander(strict=False)
    bystander.record()
    for method in METHODS:
        try:
            strange = hostile(base, frozenset({method}), behaviour)
        except Exception:  # it cannot be made
            continue
        places = [strange]
        if field == "dimensions":
            places += [{"Kind": strange}, {"Other": strange, "Kind": "x"}, make(("keys", [])) | _as_key(strange)]
        for place in places:
            for way in ("put_metric", "put_metric_sync"):
                assert WAYS[way](bystander.client, {**ORDINARY, field: place}) in (True, False)
    bystander.check()


def _as_key(strange: object) -> dict[object, str]:
    try:
        return {strange: "x"}
    except Exception:
        return {}
