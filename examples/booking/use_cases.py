"""
What the service does: reserve a seat, take the money, book.

The use cases name no cloud and no metrics backend: they are given a `MetricsService` with their other ports. Two rules
for what they record:

1. A dimension has few values (a class of errors, a status), because each combination is a metric and has its price. Ids
   of seats, users and bookings are properties.
2. Names and values of dimensions are plain ASCII text.
"""

from __future__ import annotations

import time
from operator import attrgetter
from typing import TYPE_CHECKING

from examples.booking.domain import Booking, Payment, SeatBusy
from retainwise_metrics.use_cases import track_use_case

if TYPE_CHECKING:
    from collections.abc import Callable

    from examples.booking.domain import Bookings, Gateway, Queue, Request, SeatLocks, Seats
    from retainwise_metrics import MetricsService


class ReserveSeat:
    """
    Take a seat out of sale.
    """

    def __init__(self, seats: Seats, locks: SeatLocks, metrics: MetricsService) -> None:
        self._seats = seats
        self._locks = locks
        self._metrics = metrics

    async def __call__(self, request: Request) -> None:
        """
        Reserve the seat of a request.

        Raises:
            SeatTaken: Somebody else has it.
            SeatBusy: The lock of the seat was not to be had in time.
        """
        try:
            async with self._locks.hold(request.seat_id) as grant:
                await self._metrics.increment("reservation.lock_acquired")
                await self._waited(grant.waited_ms, contended=grant.contended)
                await self._seats.reserve(request.seat_id, request.booking_id)
        except SeatBusy as busy:
            await self._waited(busy.waited_ms, contended=True)
            raise

    async def release(self, request: Request) -> None:
        """
        Put the seat back on sale.
        """
        await self._seats.release(request.seat_id)

    async def _waited(self, waited_ms: float, *, contended: bool) -> None:
        if contended:
            await self._metrics.increment("reservation.lock_contended")
        await self._metrics.record_timing("reservation.lock_wait", value_ms=waited_ms)


class Pay:
    """
    Take the money for a booking. Tracked by a decorator, with the service found in `self`.
    """

    def __init__(self, gateway: Gateway, metrics: MetricsService) -> None:
        self._gateway = gateway
        self.metrics = metrics

    @track_use_case("payment", attrgetter("metrics"))
    async def __call__(self, request: Request) -> Payment:
        """
        Charge the price of a request.

        Raises:
            PaymentDeclined: The card was refused.
            PaymentTimedOut: There was no answer in time.
        """
        return await self._gateway.charge(request.booking_id, request.price_cents)


class BookSeat:
    """
    Reserve, pay, keep, tell. Tracked by a block, with a clock that can be chosen.
    """

    def __init__(
        self,
        reserve: ReserveSeat,
        pay: Pay,
        bookings: Bookings,
        queue: Queue,
        metrics: MetricsService,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._reserve = reserve
        self._pay = pay
        self._bookings = bookings
        self._queue = queue
        self._metrics = metrics
        self._tracked = track_use_case("booking", metrics, clock=clock)

    async def __call__(self, request: Request) -> Booking:
        """
        Book a seat.

        Raises:
            BookingError: It cannot be booked; the class says why.
        """
        for key in ("booking_id", "user_id", "seat_id"):
            self._metrics.set_property(key, getattr(request, key))
        async with self._tracked:
            await self._reserve(request)
            try:
                booking = Booking(request.booking_id, request.user_id, request.seat_id, await self._pay(request))
                await self._bookings.add(booking)
            except (
                BaseException
            ):  # a customer who hangs up, too; with a real provider this is where the money goes back
                await self._reserve.release(request)
                raise
            await self._queue.publish(booking)
            return booking
