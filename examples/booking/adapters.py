"""
The world outside, in memory: slow enough to get in each other's way, and unreliable in a way that can be repeated.

Which cards are declined and which tickets jam is drawn from the seed and the booking's id, so it is the same in every
run; who comes too late for a seat is not.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from examples.booking.domain import (
    Booking,
    Delivery,
    Grant,
    Payment,
    PaymentDeclined,
    PaymentTimedOut,
    Ports,
    SeatBusy,
    SeatTaken,
    TicketJammed,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DATABASE_SECONDS = 0.002
"""One query."""

LOCK_SECONDS = 0.02
"""How long a request waits for the lock of a seat."""

GATEWAY_SECONDS = (0.002, 0.02)
"""Fastest and slowest answer of the payment provider."""

GATEWAY_TIMEOUT_SECONDS = 0.04
DECLINED, TIMED_OUT, JAMMED = 0.12, 0.04, 0.05
"""Shares of payments that are declined and get no answer, and of tickets that cannot be printed."""


class SeatsInMemory:
    """
    A table of seats without transactions: between looking and writing there is a query's time.
    """

    def __init__(self) -> None:
        self._taken: dict[str, str] = {}

    async def reserve(self, seat_id: str, booking_id: str) -> None:
        """
        Look, then write; both take a while.
        """
        await asyncio.sleep(DATABASE_SECONDS)
        if seat_id in self._taken:
            raise SeatTaken
        await asyncio.sleep(DATABASE_SECONDS)
        if seat_id in self._taken:
            message = f"the seat {seat_id} was sold twice"
            raise AssertionError(message)
        self._taken[seat_id] = booking_id

    async def release(self, seat_id: str) -> None:
        """
        Give it back; it does not wait, so it is done even when a request was cancelled.
        """
        del self._taken[seat_id]


class LocksInMemory:
    """
    One `asyncio.Lock` per seat.
    """

    def __init__(self, wait_seconds: float = LOCK_SECONDS) -> None:
        self._wait_seconds = wait_seconds
        self._locks: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def hold(self, seat_id: str) -> AsyncIterator[Grant]:
        """
        Wait for the lock, at most so long.
        """
        lock = self._locks.setdefault(seat_id, asyncio.Lock())
        contended = lock.locked()
        asked = time.perf_counter()
        try:
            await asyncio.wait_for(lock.acquire(), self._wait_seconds)
        except asyncio.TimeoutError:
            raise SeatBusy(_ms_since(asked)) from None
        try:
            yield Grant(contended, _ms_since(asked))
        finally:
            lock.release()


class RandomGateway:
    """
    Answers after a while, declines now and then, and sometimes does not answer in time.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    async def charge(self, booking_id: str, amount_cents: int) -> Payment:
        """
        Charge a card, maybe.
        """
        chance = random.Random(f"{self._seed} pay {booking_id}")
        fate = chance.random()
        if fate < TIMED_OUT:
            await asyncio.sleep(GATEWAY_TIMEOUT_SECONDS)
            raise PaymentTimedOut
        await asyncio.sleep(chance.uniform(*GATEWAY_SECONDS))
        if fate < TIMED_OUT + DECLINED:
            raise PaymentDeclined
        return Payment(booking_id, amount_cents, f"pay-{chance.getrandbits(48):012x}")


class BookingsInMemory:
    """
    A table of bookings.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Booking] = {}

    async def add(self, booking: Booking) -> None:
        """
        Insert a row.
        """
        await asyncio.sleep(DATABASE_SECONDS)
        self.rows[booking.booking_id] = booking


class QueueInMemory:
    """
    A queue that notes when a message came, as SQS does with `SentTimestamp`.
    """

    def __init__(self) -> None:
        self._messages: asyncio.Queue[tuple[float, Booking] | None] = asyncio.Queue()

    async def publish(self, booking: Booking) -> None:
        """
        Put a message at the end.
        """
        self._messages.put_nowait((time.perf_counter(), booking))

    async def receive(self) -> Delivery | None:
        """
        Wait for the first message.
        """
        message = await self._messages.get()
        return None if message is None else Delivery(message[1], _ms_since(message[0]))

    def close(self, consumers: int) -> None:
        """
        Let each consumer end when it has worked on what is there.
        """
        for _ in range(consumers):
            self._messages.put_nowait(None)


class RandomPrinter:
    """
    Prints, unless it jams.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    async def print(self, booking: Booking) -> None:
        """
        Print a ticket, maybe.
        """
        await asyncio.sleep(DATABASE_SECONDS)
        if random.Random(f"{self._seed} print {booking.booking_id}").random() < JAMMED:
            raise TicketJammed


def in_memory(seed: int) -> Ports:
    """
    Every port, new and empty.
    """
    return Ports(
        SeatsInMemory(),
        LocksInMemory(),
        RandomGateway(seed),
        BookingsInMemory(),
        QueueInMemory(),
        RandomPrinter(seed),
    )


def _ms_since(moment: float) -> float:
    return (time.perf_counter() - moment) * 1000.0
