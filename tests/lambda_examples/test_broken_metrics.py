"""Whatever happens to the metrics: the handler returns or raises what it would have, and does what it has to do."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("moto.server", reason="needs the extra [demo]: moto is the AWS of this test")

from retainwise_metrics import emf
from tests.lambda_examples.scenarios import SCENARIOS, Scenario, title

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lambda_examples.world import Ran, World

pytestmark = pytest.mark.parametrize("scenario", SCENARIOS, ids=title)


def unavailable(*arguments: object) -> Any:
    """A logger that cannot be made."""
    raise RuntimeError("no logger today")


def breaking(method: str) -> Callable[[str, Any], Any]:
    """A logger of which one method raises."""

    def make(namespace: str, context: Any) -> Any:
        logger = emf.create_metrics_logger(namespace, context)

        class Broken:
            def __getattr__(self, name: str) -> Any:
                return unavailable if name == method else getattr(logger, name)

        return Broken()

    return make


BROKEN = {
    "cannot be made": unavailable,
    "can do nothing": lambda *_: object(),
    "put_metric raises": breaking("put_metric"),
    "flush raises": breaking("flush"),
}


def assert_unchanged(ran: Ran, scenario: Scenario, world: World) -> None:
    """The run ended as its scenario says."""
    assert (type(ran.error).__name__ if ran.error else "") == scenario.error
    assert (
        {key: ran.result[key] for key in scenario.result} == scenario.result if scenario.result else ran.result is None
    )
    if scenario.name == "etcd_lifecycle":
        assert len(world.fleet.completed) == 1


def test_with_metrics_that_work(scenario: Scenario, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a handler ends, it publishes."""
    ran = world.run(scenario.module, scenario.prepare(world, monkeypatch))
    assert_unchanged(ran, scenario, world)
    metrics = ran.metrics()
    (duration,) = metrics.keys() - scenario.metrics.keys()
    assert duration in {"BackupDuration", "LifecycleHandlerDuration", "HealthCheckDuration"}
    assert {name: metrics[name] for name in scenario.metrics} == scenario.metrics


@pytest.mark.parametrize("how", BROKEN)
def test_a_logger_that_breaks(scenario: Scenario, world: World, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """That a logger raises is said in the log, and nowhere else."""
    ran = world.run(scenario.module, scenario.prepare(world, monkeypatch), logger=BROKEN[how])
    assert_unchanged(ran, scenario, world)
    assert "metrics are broken" in [line["message"] for line in ran.log]


class Unwritable(io.StringIO):
    """A standard output whose reader is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("kind", ["closed", "broken"])
def test_a_standard_output_that_breaks(
    scenario: Scenario, world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nor does it matter to a handler that nothing can be printed."""
    asked = scenario.prepare(world, monkeypatch)
    stream = {"closed": io.StringIO(), "broken": Unwritable()}[kind]
    if kind == "closed":
        stream.close()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        ran = world.run(scenario.module, asked)
    assert_unchanged(ran, scenario, world)
    assert ran.emf.documents == []


def test_a_standard_error_that_breaks(scenario: Scenario, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log lines are no reason to fail either, and the metrics are published without them."""
    asked = scenario.prepare(world, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Unwritable())
        ran = world.run(scenario.module, asked)
    assert_unchanged(ran, scenario, world)
    assert {name: ran.metrics()[name] for name in scenario.metrics} == scenario.metrics
