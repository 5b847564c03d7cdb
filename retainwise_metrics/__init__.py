"""
CloudWatch metrics for Python services: never slows a request, never raises, never loses data silently.

    from retainwise_metrics import get_metrics_client

    metrics = get_metrics_client()
    metrics.increment_counter("UploadSuccess", dimensions={"Endpoint": "/upload"})

Each name is loaded when it is first asked for (PEP 562), so that importing the package costs next to nothing and a program that uses one
part does not pay for the others. None of them imports boto3 or asyncio; making a client starts nothing.
"""

TYPE_CHECKING = (
    False  # type checkers take the name for what it says; importing `typing` would cost twenty times the rest
)
if TYPE_CHECKING:
    from .adapters import ClientMetrics, EmfMetrics
    from .client import CloudWatchMetrics
    from .config import MetricsConfig
    from .decorators import counted, timed
    from .default_client import (
        flush_on_sigterm,
        get_metrics_client,
        increment_counter,
        put_metric,
        record_time,
        reset_metrics_client,
        set_metrics_client,
    )
    from .dimensions.policy import DimensionPolicy
    from .exceptions import ConfigurationError, InvalidMetricError, MetricsError
    from .instruments import Counter, Gauge, Histogram, Timer
    from .namespaces import MetricNamespace
    from .service import MetricsService, NullMetrics
    from .stats import BreakerState, ClientStats, DropReason, FlushResult, Health
    from .units import MetricUnit, StorageResolution
    from .use_cases import track_use_case

__all__ = [
    "BreakerState",
    "ClientMetrics",
    "ClientStats",
    "CloudWatchMetrics",
    "ConfigurationError",
    "Counter",
    "DimensionPolicy",
    "DropReason",
    "EmfMetrics",
    "FlushResult",
    "Gauge",
    "Health",
    "Histogram",
    "InvalidMetricError",
    "MetricNamespace",
    "MetricUnit",
    "MetricsConfig",
    "MetricsError",
    "MetricsService",
    "NullMetrics",
    "StorageResolution",
    "Timer",
    "counted",
    "flush_on_sigterm",
    "get_metrics_client",
    "increment_counter",
    "put_metric",
    "record_time",
    "reset_metrics_client",
    "set_metrics_client",
    "timed",
    "track_use_case",
]

_MODULES = {
    "BreakerState": "stats",
    "ClientMetrics": "adapters",
    "ClientStats": "stats",
    "CloudWatchMetrics": "client",
    "ConfigurationError": "exceptions",
    "Counter": "instruments",
    "DimensionPolicy": "dimensions.policy",
    "DropReason": "stats",
    "EmfMetrics": "adapters",
    "FlushResult": "stats",
    "Gauge": "instruments",
    "Health": "stats",
    "Histogram": "instruments",
    "InvalidMetricError": "exceptions",
    "MetricNamespace": "namespaces",
    "MetricUnit": "units",
    "MetricsConfig": "config",
    "MetricsError": "exceptions",
    "MetricsService": "service",
    "NullMetrics": "service",
    "StorageResolution": "units",
    "Timer": "instruments",
    "counted": "decorators",
    "flush_on_sigterm": "default_client",
    "get_metrics_client": "default_client",
    "increment_counter": "default_client",
    "put_metric": "default_client",
    "record_time": "default_client",
    "reset_metrics_client": "default_client",
    "set_metrics_client": "default_client",
    "timed": "decorators",
    "track_use_case": "use_cases",
}
"""Where each public name lives; a test keeps it equal to the imports above."""


def __getattr__(name: str) -> object:
    """A public name, or the version from the installed metadata."""
    if name == "__version__":
        from importlib.metadata import version

        return version("retainwise-metrics")
    module = _MODULES.get(name)
    if module is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module

    value: object = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value  # the next access is an ordinary one
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return [*__all__, "__version__"]
