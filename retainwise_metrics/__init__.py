"""
CloudWatch metrics for Python services: never slows a request, never raises, never loses data silently.

    from retainwise_metrics import get_metrics_client

    metrics = get_metrics_client()
    metrics.increment_counter("UploadSuccess", dimensions={"Endpoint": "/upload"})

Importing this imports neither boto3 nor asyncio; making a client starts nothing.
"""

from .client import CloudWatchMetrics
from .config import MetricsConfig
from .decorators import counted, timed
from .default_client import (
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
from .stats import BreakerState, ClientStats, DropReason, FlushResult
from .units import MetricUnit, StorageResolution

__all__ = [
    "BreakerState",
    "ClientStats",
    "CloudWatchMetrics",
    "ConfigurationError",
    "Counter",
    "DimensionPolicy",
    "DropReason",
    "FlushResult",
    "Gauge",
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
    "get_metrics_client",
    "increment_counter",
    "put_metric",
    "record_time",
    "reset_metrics_client",
    "set_metrics_client",
    "timed",
]


def __getattr__(name: str) -> object:
    """The version, asked from the installed metadata only when somebody wants it."""
    if name == "__version__":
        from importlib.metadata import version

        return version("retainwise-metrics")
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
