"""Scopes: the recording surface of a client with some dimensions filled in."""

from __future__ import annotations

import inspect
from types import MappingProxyType
from typing import Any

import pytest

from retainwise_metrics.client import CloudWatchMetrics
from retainwise_metrics.config import MetricsConfig
from retainwise_metrics.decorators import timed
from retainwise_metrics.instruments import Counter, Gauge, Histogram
from retainwise_metrics.namespaces import MetricNamespace
from retainwise_metrics.scoped import ScopedMetrics
from retainwise_metrics.service import Recorder
from retainwise_metrics.units import MetricUnit


class Recording:
    """
    A client that keeps the arguments of every call under the name of the method.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[object, ...], dict[str, object]]] = []
        self.answer: object = object()

    def _keep(self, method: str, arguments: tuple[object, ...], options: dict[str, object]) -> Any:
        self.calls.append((method, arguments, options))
        return self.answer

    def put_metric(self, *arguments: object, **options: object) -> Any:
        return self._keep("put_metric", arguments, options)

    def put_metric_sync(self, *arguments: object, **options: object) -> Any:
        return self._keep("put_metric_sync", arguments, options)

    def increment_counter(self, *arguments: object, **options: object) -> Any:
        return self._keep("increment_counter", arguments, options)

    def record_time(self, *arguments: object, **options: object) -> Any:
        return self._keep("record_time", arguments, options)

    def counter(self, *arguments: object, **options: object) -> Any:
        return self._keep("counter", arguments, options)

    def gauge(self, *arguments: object, **options: object) -> Any:
        return self._keep("gauge", arguments, options)

    def histogram(self, *arguments: object, **options: object) -> Any:
        return self._keep("histogram", arguments, options)

    def timer(self, *arguments: object, **options: object) -> Any:
        return self._keep("timer", arguments, options)

    @property
    def dimensions(self) -> list[object]:
        """The dimensions of every call so far."""
        return [options["dimensions"] for _, _, options in self.calls]


def read() -> float:
    """A gauge callback."""
    return 1.0


RECORDING = {"timestamp": None, "storage_resolution": 60}
EXACT = {"timestamp": 12.5, "storage_resolution": 1}

# Method, arguments, further options given, arguments and further options that must arrive.
CALLS = [
    ("put_metric", ("X", 4.2), {}, ("X", 4.2, MetricUnit.NONE), RECORDING),
    ("put_metric", ("X", 4.2, "Bytes"), EXACT, ("X", 4.2, "Bytes"), EXACT),
    ("put_metric_sync", ("X", 4.2), {}, ("X", 4.2, MetricUnit.NONE), RECORDING),
    ("put_metric_sync", ("X", 4.2, "Bytes"), EXACT, ("X", 4.2, "Bytes"), EXACT),
    ("increment_counter", ("X",), {}, ("X",), {"value": 1, **RECORDING}),
    ("increment_counter", ("X",), {"value": 3, **EXACT}, ("X",), {"value": 3, **EXACT}),
    ("record_time", ("X", 0.83), {}, ("X", 0.83), RECORDING),
    ("record_time", ("X", 0.83), EXACT, ("X", 0.83), EXACT),
    ("counter", ("X",), {}, ("X",), {"emits_zero": None}),
    ("counter", ("X",), {"emits_zero": True}, ("X",), {"emits_zero": True}),
    ("gauge", ("X",), {}, ("X", None), {"unit": MetricUnit.NONE}),
    ("gauge", ("X", read), {"unit": "Bytes"}, ("X", read), {"unit": "Bytes"}),
    ("histogram", ("X",), {}, ("X", MetricUnit.NONE), {}),
    ("histogram", ("X", "Bytes"), {}, ("X", "Bytes"), {}),
    ("timer", ("X",), {}, ("X",), {}),
]
METHODS = sorted({method for method, *_ in CALLS})


@pytest.mark.parametrize(("method", "arguments", "given", "expected", "further"), CALLS)
def test_every_method_passes_its_arguments_on_with_the_scopes_dimensions_added(
    method, arguments, given, expected, further
):
    """
    Nothing but the dimensions changes on the way, and the recorder's answer comes back.
    """
    client = Recording()
    scope = ScopedMetrics(client, {"Service": "api"})

    answer = getattr(scope, method)(
        *arguments, namespace=MetricNamespace.API, dimensions={"Endpoint": "/upload"}, **given
    )

    assert answer is client.answer
    dimensions = {"Service": "api", "Endpoint": "/upload"}
    assert client.calls == [(method, expected, {"namespace": MetricNamespace.API, "dimensions": dimensions, **further})]


def call(scope: Any, method: str, **options: object) -> object:
    """Call any method of the surface with as little as it needs."""
    values = (1.0,) if method in ("put_metric", "put_metric_sync", "record_time") else ()
    return getattr(scope, method)("X", *values, **options)


@pytest.mark.parametrize("method", METHODS)
def test_without_dimensions_of_its_own_a_call_has_the_scopes(method):
    """
    The namespace stays open for the client to fill in.
    """
    client = Recording()
    call(ScopedMetrics(client, {"Service": "api"}), method)

    ((_, _, options),) = client.calls
    assert options["dimensions"] == {"Service": "api"}
    assert options["namespace"] is None


@pytest.mark.parametrize("method", METHODS)
def test_the_calls_dimensions_win_over_the_scopes(method):
    """
    The nearer value counts.
    """
    client = Recording()
    call(ScopedMetrics(client, {"Service": "api", "Stage": "test"}), method, dimensions={"Service": "worker"})

    assert client.dimensions == [{"Service": "worker", "Stage": "test"}]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrong", [5, "Service", [("Service", "api")], object()])
def test_dimensions_that_are_no_mapping_arrive_unmerged(method, wrong):
    """
    Given with a call or with the scope, and at any depth, they reach the client, which refuses and counts the record.
    """
    client = Recording()
    call(ScopedMetrics(client, {"Service": "api"}), method, dimensions=wrong)
    call(ScopedMetrics(client, wrong), method, dimensions={"Endpoint": "/upload"})
    call(ScopedMetrics(client, wrong).with_tenant("tenant-123"), method)
    call(ScopedMetrics(client, {"Service": "api"}).scoped(wrong), method)

    assert all(dimensions is wrong for dimensions in client.dimensions)
    assert len(client.dimensions) == 4


def test_nested_scopes_merge_and_the_inner_one_wins():
    """
    A scope of a scope has the dimensions of both.
    """
    client = Recording()
    outer = ScopedMetrics(client, {"Service": "api", "Stage": "test"})
    inner = outer.scoped({"Stage": "live", "Endpoint": "/upload"})
    inner.increment_counter("X")
    outer.increment_counter("X")

    assert client.dimensions == [
        {"Service": "api", "Stage": "live", "Endpoint": "/upload"},
        {"Service": "api", "Stage": "test"},
    ]


def test_a_scope_may_stand_on_another_scope():
    """
    A scope is a recorder itself: what takes a client takes a scope.
    """
    client = Recording()
    ScopedMetrics(ScopedMetrics(client, {"Service": "api"}), {"Stage": "live"}).record_time("X", 1.0)
    with timed("X", client=ScopedMetrics(client, {"Service": "api"}), dimensions={"Endpoint": "/upload"}):
        pass

    assert client.dimensions == [{"Service": "api", "Stage": "live"}, {"Service": "api", "Endpoint": "/upload"}]


def test_with_tenant_adds_the_tenant_as_a_dimension():
    """
    The raw identifier goes on to the client, whose policy hashes it.
    """
    client = Recording()
    ScopedMetrics(client, {"Service": "api"}).with_tenant("tenant-123").increment_counter("X")

    assert client.dimensions == [{"Service": "api", "TenantId": "tenant-123"}]


def test_scopes_neither_change_nor_depend_on_the_callers_mappings():
    """
    Dimensions are copied when a scope is made, and merged into a new mapping with every call.
    """
    client = Recording()
    of_scope, of_call = {"Service": "api"}, {"Endpoint": "/upload"}
    scope = ScopedMetrics(client, of_scope)
    of_scope["Service"] = "changed"
    scope.increment_counter("X", dimensions=of_call)

    assert client.dimensions == [{"Service": "api", "Endpoint": "/upload"}]
    assert of_call == {"Endpoint": "/upload"}


def test_any_mapping_will_do():
    """
    Dimensions need not be a `dict`.
    """
    client = Recording()
    scope = ScopedMetrics(client, MappingProxyType({"Service": "api"}))
    scope.increment_counter("X", dimensions=MappingProxyType({"Endpoint": "/upload"}))

    assert client.dimensions == [{"Service": "api", "Endpoint": "/upload"}]


def test_a_scope_cannot_be_changed():
    """
    It can be shared by threads and kept in a module.
    """
    scope = ScopedMetrics(Recording(), {"Service": "api"})

    with pytest.raises(AttributeError):
        scope.dimensions = {}
    assert not hasattr(scope, "__dict__")


def test_a_scope_prints_the_names_of_its_dimensions_but_no_values():
    """
    A tenant's identifier must not end up in a log line.
    """
    assert repr(ScopedMetrics(Recording(), {"Service": "api"}).with_tenant("t-1")) == "ScopedMetrics(Service, TenantId)"
    assert repr(ScopedMetrics(Recording(), ["t-1"])) == "ScopedMetrics(not a mapping)"


@pytest.mark.parametrize("name", ["put_metric", "increment_counter", "record_time"])
def test_a_scope_records_with_the_signature_of_every_recorder(name):
    """
    Code written for any recorder works with a scope unchanged.
    """
    assert inspect.signature(getattr(ScopedMetrics, name)) == inspect.signature(getattr(Recorder, name))


@pytest.mark.parametrize("name", [*METHODS, "scoped", "with_tenant"])
def test_a_scope_has_the_clients_methods_with_the_clients_parameters_and_defaults(name):
    """
    Replacing a client by a scope changes no call.
    """
    of_scope, of_client = (inspect.signature(getattr(kind, name)) for kind in (ScopedMetrics, CloudWatchMetrics))

    assert of_scope == of_client


def test_a_scope_of_a_real_client_makes_instruments_and_records():
    """
    Everything a scope offers is taken by a client as it is.
    """
    scope = ScopedMetrics(CloudWatchMetrics(MetricsConfig(enabled=False)), {"Service": "api"})

    assert isinstance(scope.counter("X").bind(Endpoint="/upload"), Counter)
    assert isinstance(scope.gauge("X", read, unit="Bytes"), Gauge)
    assert isinstance(scope.histogram("X", "Bytes"), Histogram)
    with scope.timer("X") as nothing:
        assert nothing is None
    assert [call(scope, method) for method in METHODS if method.startswith(("put", "inc", "rec"))] == [False] * 4
