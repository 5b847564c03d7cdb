"""
Seats, bookings and payments, and what the use cases need of the world outside: the ports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager


class Request(NamedTuple):
    """
    Somebody wants a seat.

    Attributes:
        booking_id: A new id for each request.
        user_id: Who wants it; personal data.
        seat_id: Which seat of which performance.
        price_cents: What it costs.
    """

    booking_id: str
    user_id: str
    seat_id: str
    price_cents: int


class Payment(NamedTuple):
    """
    What the payment provider has charged.
    """

    booking_id: str
    amount_cents: int
    reference: str


class Booking(NamedTuple):
    """
    A seat that is somebody's.
    """

    booking_id: str
    user_id: str
    seat_id: str
    payment: Payment


class BookingError(Exception):
    """
    A booking that cannot be made; each reason is a class of its own, and so an `error_type` of its own.
    """


class SeatTaken(BookingError):
    """
    Somebody else has the seat.
    """


class SeatBusy(BookingError):
    """
    Others were being served for the seat for so long that this request gave up.

    Attributes:
        waited_ms: For how long.
    """

    def __init__(self, waited_ms: float) -> None:
        super().__init__("the seat is in high demand; try again")
        self.waited_ms = waited_ms


class PaymentDeclined(BookingError):
    """
    The card was refused.
    """


class PaymentTimedOut(BookingError):
    """
    The payment provider did not answer in time.
    """


class TicketJammed(Exception):
    """
    A ticket that cannot be printed.
    """


class Grant(NamedTuple):
    """
    A lock that was granted.

    Attributes:
        contended: Whether somebody else held it when it was asked for.
        waited_ms: How long it took to get it.
    """

    contended: bool
    waited_ms: float


class Delivery(NamedTuple):
    """
    A message that is to be worked on.

    Attributes:
        booking: What it says: this was booked.
        lag_ms: How long it has waited in the queue.
    """

    booking: Booking
    lag_ms: float


class Seats(Protocol):
    """
    Who has which seat.
    """

    async def reserve(self, seat_id: str, booking_id: str) -> None:
        """
        Take a seat; only while holding its lock, for nobody else looks before it is written.

        Raises:
            SeatTaken: It is taken.
        """
        ...

    async def release(self, seat_id: str) -> None:
        """
        Give a seat back.
        """
        ...


class SeatLocks(Protocol):
    """
    One at a time for each seat.
    """

    def hold(self, seat_id: str) -> AbstractAsyncContextManager[Grant]:
        """
        Hold the lock of a seat for the time of a block; entering raises `SeatBusy` when it takes too long.
        """
        ...


class Gateway(Protocol):
    """
    The payment provider.
    """

    async def charge(self, booking_id: str, amount_cents: int) -> Payment:
        """
        Take money.

        Raises:
            PaymentDeclined: The card was refused.
            PaymentTimedOut: There was no answer in time.
        """
        ...


class Bookings(Protocol):
    """
    Every booking.
    """

    async def add(self, booking: Booking) -> None:
        """
        Keep a booking.
        """
        ...


class Queue(Protocol):
    """
    Bookings that are to be followed up, in order.
    """

    async def publish(self, booking: Booking) -> None:
        """
        Say that something was booked.
        """
        ...

    async def receive(self) -> Delivery | None:
        """
        The next message, when there is one; None when there will be no more.
        """
        ...


class Printer(Protocol):
    """
    Makes tickets.
    """

    async def print(self, booking: Booking) -> None:
        """
        Print and send the ticket of a booking.

        Raises:
            TicketJammed: It cannot be printed.
        """
        ...


class Ports(NamedTuple):
    """
    The world outside, as a set of adapters.
    """

    seats: Seats
    locks: SeatLocks
    gateway: Gateway
    bookings: Bookings
    queue: Queue
    printer: Printer
