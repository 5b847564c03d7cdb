"""
The process-wide client: the one piece of global state, in one place.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .client import CloudWatchMetrics
from .exceptions import ConfigurationError
from .lifecycle import LIFECYCLE
from .pipeline.reporting import logger
from .service import NullMetrics
from .units import MetricUnit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from .namespaces import MetricNamespace
    from .units import StorageResolution


class _Default:
    """
    Holds the client; the lock is only taken to make it, never to use it.
    """

    def __init__(self) -> None:
        self.client: CloudWatchMetrics | None = None
        self.making = threading.RLock()
        self.complained = False


_DEFAULT = _Default()


def get_metrics_client() -> CloudWatchMetrics:
    """
    The process-wide client, made from the environment at the first call; the same object in every thread.

    Raises:
        ConfigurationError: The environment holds a wrong setting; the message names it.
    """
    client = _DEFAULT.client
    if client is not None:
        return client
    with _DEFAULT.making:
        if _DEFAULT.client is None:
            made = CloudWatchMetrics()
            # A signal handler or finaliser of this very thread may have been here meanwhile, and has recorded: then its client is the one.
            _DEFAULT.client = _DEFAULT.client or made
        return _DEFAULT.client


def set_metrics_client(client: CloudWatchMetrics | None) -> CloudWatchMetrics | None:
    """
    Put another client in its place; the previous one is returned, and is not stopped.
    """
    with _DEFAULT.making:
        previous, _DEFAULT.client = _DEFAULT.client, client
    return previous


def reset_metrics_client(timeout: float = 5.0) -> None:
    """
    Stop the process-wide client, delivering for at most `timeout` seconds; the next use makes a new one.
    """
    previous = set_metrics_client(None)
    if previous is not None:
        previous.stop(timeout)


def flush_on_sigterm() -> bool:
    """
    Deliver what all clients hold when a SIGTERM ends the process, which otherwise ends it without another word. Call it once, early.

    Without a handler of the application the process goes on for at most `shutdown_timeout_seconds`, in which everything pending is
    delivered and new records are refused, and then ends by the signal, as it would have. A second SIGTERM ends it at once. With a handler
    (of a web server, of Celery) delivery begins, and the handler is called at once; when it ends the process in an orderly way, the rest
    is delivered then.

    Returns:
        Whether SIGTERM is now looked after. False outside of the main thread, and where the signal is ignored or belongs to code that is
        not Python's.
    """
    return LIFECYCLE.flush_on_sigterm()


def client_in_any_case() -> CloudWatchMetrics | NullMetrics:
    """
    The process-wide client, or one that records nothing while a setting is wrong: recording never raises.
    """
    try:
        return get_metrics_client()
    except ConfigurationError as error:
        if not _DEFAULT.complained:
            _DEFAULT.complained = True
            logger().error("metrics are not recorded: %s", error)
        return NullMetrics()


def put_metric(
    name: str,
    value: float,
    unit: MetricUnit | str = MetricUnit.NONE,
    *,
    namespace: MetricNamespace | str | None = None,
    dimensions: Mapping[str, object] | None = None,
    timestamp: datetime | float | None = None,
    storage_resolution: StorageResolution | int = 60,
) -> bool:
    """
    `CloudWatchMetrics.put_metric` on the process-wide client; with a wrong setting it records nothing, and the log says why.
    """
    return client_in_any_case().put_metric(
        name,
        value,
        unit,
        namespace=namespace,
        dimensions=dimensions,
        timestamp=timestamp,
        storage_resolution=storage_resolution,
    )


def increment_counter(
    name: str,
    *,
    namespace: MetricNamespace | str | None = None,
    dimensions: Mapping[str, object] | None = None,
    value: float = 1,
    timestamp: datetime | float | None = None,
    storage_resolution: StorageResolution | int = 60,
) -> bool:
    """
    `CloudWatchMetrics.increment_counter` on the process-wide client; otherwise like `put_metric` here.
    """
    return client_in_any_case().increment_counter(
        name,
        namespace=namespace,
        dimensions=dimensions,
        value=value,
        timestamp=timestamp,
        storage_resolution=storage_resolution,
    )


def record_time(
    name: str,
    seconds: float,
    *,
    namespace: MetricNamespace | str | None = None,
    dimensions: Mapping[str, object] | None = None,
    timestamp: datetime | float | None = None,
    storage_resolution: StorageResolution | int = 60,
) -> bool:
    """
    `CloudWatchMetrics.record_time` on the process-wide client; otherwise like `put_metric` here.
    """
    return client_in_any_case().record_time(
        name,
        seconds,
        namespace=namespace,
        dimensions=dimensions,
        timestamp=timestamp,
        storage_resolution=storage_resolution,
    )
