"""
What happens to a booking later: a consumer of messages prints the ticket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from examples.booking.domain import TicketJammed

if TYPE_CHECKING:
    from collections.abc import Callable

    from examples.booking.domain import Printer, Queue
    from retainwise_metrics import MetricsService


class TicketConsumer:
    """
    Works on one message after the other. A message that cannot be worked on is counted and left behind.

    Args:
        queue: Where messages come from.
        printer: Makes tickets.
        metrics: Takes `consumer.lag`, `consumer.processed` and `consumer.failed`.
        end_of_work: Called after each message.
    """

    def __init__(
        self, queue: Queue, printer: Printer, metrics: MetricsService, end_of_work: Callable[[], object]
    ) -> None:
        self._queue = queue
        self._printer = printer
        self._metrics = metrics
        self._end_of_work = end_of_work

    async def run(self) -> None:
        """
        Consume until there will be no more.
        """
        while (delivery := await self._queue.receive()) is not None:
            self._metrics.set_property("booking_id", delivery.booking.booking_id)
            await self._metrics.record_timing("consumer.lag", value_ms=delivery.lag_ms)
            try:
                await self._printer.print(delivery.booking)
            except TicketJammed as error:
                await self._metrics.increment("consumer.failed", dimensions={"error_type": type(error).__name__})
            else:
                await self._metrics.increment("consumer.processed")
            self._end_of_work()
