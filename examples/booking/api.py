"""
What a web framework would call for each request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from examples.booking.domain import (
    Booking,
    BookingError,
    PaymentDeclined,
    PaymentTimedOut,
    SeatBusy,
    SeatTaken,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from examples.booking.domain import Request
    from examples.booking.use_cases import BookSeat

HTTP = {SeatTaken: 409, PaymentDeclined: 402, SeatBusy: 503, PaymentTimedOut: 504}
"""Reason -> HTTP status."""


class Answer(NamedTuple):
    """
    What the customer gets.

    Attributes:
        status: HTTP status.
        booking: What was booked; None when nothing was.
        error: Why not: the name of the error's class.
    """

    status: int
    booking: Booking | None
    error: str


class Api:
    """
    Turns requests into use cases and their ends into answers.

    Args:
        book: The use case.
        end_of_work: Called when an answer is ready: EMF is written once per request.
    """

    def __init__(self, book: BookSeat, end_of_work: Callable[[], object]) -> None:
        self._book = book
        self._end_of_work = end_of_work

    async def post_booking(self, request: Request) -> Answer:
        """
        Handle a request.
        """
        try:
            return Answer(201, await self._book(request), "")
        except BookingError as error:
            return Answer(HTTP[type(error)], None, type(error).__name__)
        finally:
            self._end_of_work()
