"""
Where the service is put together: the only module that knows where metrics go.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple, TextIO

from examples.booking.api import Api
from examples.booking.consumer import TicketConsumer
from examples.booking.use_cases import BookSeat, Pay, ReserveSeat
from retainwise_metrics import CloudWatchMetrics, MetricsConfig, emf
from retainwise_metrics.adapters import ClientMetrics, EmfMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from examples.booking.domain import Ports
    from retainwise_metrics import MetricsService

NAMESPACE = "Ticketing/Booking"
SINKS = ("cloudwatch", "emf")


class Telemetry(NamedTuple):
    """
    Where metrics go.

    Attributes:
        metrics: What the use cases record to.
        end_of_work: Called when a request or a message is done.
        close: Called at the end of the process; returns whether everything was delivered.
    """

    metrics: MetricsService
    end_of_work: Callable[[], object]
    close: Callable[[], bool]


class Service(NamedTuple):
    """
    The service, put together.
    """

    api: Api
    consumer: TicketConsumer
    close: Callable[[], bool]


def telemetry(environ: Mapping[str, str] = os.environ, *, stream: TextIO | None = None) -> Telemetry:
    """
    Choose a sink by the variable `SINK`: `cloudwatch` (the default) or `emf`.

    Args:
        environ: Variables, also those of `MetricsConfig`.
        stream: Where EMF goes. None: stdout.

    Raises:
        ValueError: There is no such sink.
    """
    sink = environ.get("SINK") or SINKS[0]
    if sink == "emf":
        logger = emf.MetricsLogger(NAMESPACE, stream=stream)
        return Telemetry(EmfMetrics(logger), logger.flush, logger.flush)
    if sink == "cloudwatch":
        client = CloudWatchMetrics(MetricsConfig.from_env(environ))
        # A thread of the client delivers: there is nothing to do at the end of a request.
        return Telemetry(ClientMetrics(client, NAMESPACE), lambda: None, lambda: bool(client.stop()))
    message = f"SINK is {sink!r}, but must be one of {', '.join(SINKS)}"
    raise ValueError(message)


def wire(ports: Ports, chosen: Telemetry, *, clock: Callable[[], float] = time.perf_counter) -> Service:
    """
    Put the service together.

    Args:
        ports: The world outside.
        chosen: Where metrics go.
        clock: What `booking.duration` is measured with, in seconds.
    """
    metrics, end_of_work, close = chosen
    reserve = ReserveSeat(ports.seats, ports.locks, metrics)
    book = BookSeat(reserve, Pay(ports.gateway, metrics), ports.bookings, ports.queue, metrics, clock)
    return Service(Api(book, end_of_work), TicketConsumer(ports.queue, ports.printer, metrics, end_of_work), close)
