"""
Peers of the real parts, for tests: a clock that stands still, a sink that keeps what it is sent, a CloudWatch as strict as the real one.

Each name is loaded when it is first asked for: the pytest plugin is in this package, and every run of pytest imports it.
"""

TYPE_CHECKING = False  # as in the package itself: type checkers take the name for what it says
if TYPE_CHECKING:
    from retainwise_metrics.sinks.in_memory import InMemorySink, rejecting

    from .capture import CapturingMetrics, captured_metrics
    from .emf_reader import EmfError, EmfReader
    from .fake_cloudwatch import FakeCloudWatch
    from .fake_emf_agent import FakeEmfAgent
    from .manual_runtime import ManualRuntime
    from .recording_service import RecordingMetrics

__all__ = [
    "CapturingMetrics",
    "EmfError",
    "EmfReader",
    "FakeCloudWatch",
    "FakeEmfAgent",
    "InMemorySink",
    "ManualRuntime",
    "RecordingMetrics",
    "captured_metrics",
    "rejecting",
]

_MODULES = {
    "CapturingMetrics": ".capture",
    "EmfError": ".emf_reader",
    "EmfReader": ".emf_reader",
    "FakeCloudWatch": ".fake_cloudwatch",
    "FakeEmfAgent": ".fake_emf_agent",
    "InMemorySink": "..sinks.in_memory",
    "ManualRuntime": ".manual_runtime",
    "RecordingMetrics": ".recording_service",
    "captured_metrics": ".capture",
    "rejecting": "..sinks.in_memory",
}
"""Where each name lives; a test keeps it equal to the imports above."""


def __getattr__(name: str) -> object:
    """One of the names above."""
    module = _MODULES.get(name)
    if module is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module

    value: object = getattr(import_module(module, __name__), name)
    globals()[name] = value  # the next access is an ordinary one
    return value


def __dir__() -> list[str]:
    """The names above, loaded or not."""
    return __all__
