"""The names that other code relies on: which there are, and that each says what it does."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import retainwise_metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTRACT = [
    "CloudWatchMetrics",
    "MetricsConfig",
    "MetricUnit",
    "MetricNamespace",
    "StorageResolution",
    "get_metrics_client",
    "set_metrics_client",
    "reset_metrics_client",
    "put_metric",
    "increment_counter",
    "record_time",
    "MetricsService",
    "NullMetrics",
    "Counter",
    "Gauge",
    "Health",
    "Histogram",
    "Timer",
    "timed",
    "counted",
    "track_use_case",
    "ClientMetrics",
    "EmfMetrics",
    "flush_on_sigterm",
    "ClientStats",
    "DropReason",
    "FlushResult",
    "BreakerState",
    "DimensionPolicy",
    "MetricsError",
    "ConfigurationError",
    "InvalidMetricError",
]
"""Adding a name is a decision, and taking one away breaks somebody."""

CLIENT = [
    "put_metric",
    "increment_counter",
    "record_time",
    "put_metric_sync",
    "put_values",
    "counter",
    "gauge",
    "histogram",
    "timer",
    "scoped",
    "with_tenant",
    "start",
    "flush",
    "stop",
    "aflush",
    "astop",
    "stats",
    "health",
    "stopped",
    "force_open",
    "disable_breaker",
    "reset_breaker",
    "after_fork",
]


def public_members(owner: type) -> Iterator[tuple[str, object]]:
    """Methods and properties that a class adds itself and that do not begin with an underscore."""
    for name, member in vars(owner).items():
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, (property, classmethod))):
            yield f"{owner.__name__}.{name}", member


def test_the_public_names_are_the_contract() -> None:
    """Sorted, each once, and each there."""
    assert retainwise_metrics.__all__ == sorted(CONTRACT)
    for name in CONTRACT:
        assert getattr(retainwise_metrics, name).__name__ == name


def test_type_checkers_and_the_interpreter_find_the_same_names() -> None:
    """The names are loaded lazily from a table, and imported for type checkers beside it."""
    tree = ast.parse(Path(inspect.getfile(retainwise_metrics)).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    declared = {name.name: node.module for node in imports for name in node.names}
    assert declared == retainwise_metrics._MODULES
    assert sorted(declared) == retainwise_metrics.__all__


def test_the_names_show_up_where_people_look(capsys: pytest.CaptureFixture[str]) -> None:
    """In `dir`, in a star import, and as an error for a name that is not there."""
    assert set(CONTRACT) <= set(dir(retainwise_metrics))
    namespace: dict[str, object] = {}
    exec("from retainwise_metrics import *", namespace)
    assert set(CONTRACT) <= set(namespace)
    with pytest.raises(AttributeError, match="no attribute 'put_metrics'"):
        retainwise_metrics.put_metrics  # noqa: B018
    assert retainwise_metrics.__version__.count(".") == 2


def test_the_client_has_the_methods_of_the_contract_and_no_others() -> None:
    """What is not listed here is nobody's to call."""
    found = [name.partition(".")[2] for name, _ in public_members(retainwise_metrics.CloudWatchMetrics)]
    assert sorted(found) == sorted(CLIENT)


@pytest.mark.parametrize("name", CONTRACT)
def test_every_public_name_is_documented(name: str) -> None:
    """With at least one sentence, and so is every public method of it."""
    value = getattr(retainwise_metrics, name)
    documented = [(name, value), *(public_members(value) if inspect.isclass(value) else ())]
    for where, what in documented:
        text = inspect.getdoc(what) or ""
        assert text.split("\n")[0].rstrip().endswith((".", ":", ";")), f"{where} has no sentence: {text[:60]!r}"


@pytest.mark.parametrize("name", CONTRACT)
def test_the_arguments_that_are_documented_exist(name: str) -> None:
    """A docstring that explains an argument explains one that is there."""
    value = getattr(retainwise_metrics, name)
    members = public_members(value) if inspect.isclass(value) else [(name, value)]
    for where, member in members:
        if not inspect.isfunction(member):
            continue
        text = inspect.getdoc(member) or ""
        section = text.partition("Args:\n")[2].partition("\n\n")[0]
        explained = [line.strip().partition(":")[0] for line in section.split("\n") if line.startswith("    ")]
        explained = [argument for argument in explained if argument.isidentifier()]
        assert set(explained) <= set(inspect.signature(member).parameters), where


def test_no_public_function_takes_an_option_by_position() -> None:
    """At most name, value and unit; so options can be added without breaking a call."""
    for owner in (retainwise_metrics.CloudWatchMetrics, retainwise_metrics.NullMetrics):
        for name in (
            "put_metric",
            "put_metric_sync",
            "increment_counter",
            "record_time",
            "counter",
            "gauge",
            "histogram",
        ):
            parameters = list(inspect.signature(getattr(owner, name)).parameters.values())[1:]
            positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
            assert len(positional) <= 3
            assert not {"namespace", "dimensions", "timestamp", "storage_resolution"} & set(positional), name


def test_importing_every_public_name_loads_neither_boto3_nor_asyncio() -> None:
    """Nor logging, nor hashlib: a process that only imports pays for nothing."""
    program = (
        "import sys; from retainwise_metrics import *; import retainwise_metrics as r; [getattr(r, n) for n in r.__all__];"
        "print([m for m in ('boto3', 'botocore', 'asyncio', 'logging', 'hashlib', 'json') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-I", "-c", _with_path(program)], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def _with_path(program: str) -> str:
    """An isolated interpreter does not look into the working directory."""
    root = str(Path(inspect.getfile(retainwise_metrics)).parents[1])
    return f"import sys; sys.path.insert(0, {root!r}); {program}"
