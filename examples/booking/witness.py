"""
Books about what really happened, kept at the ports and without the help of any metric.

The service is given witnessed ports instead of bare ones, and cannot tell. What a witness writes down is what the world
outside said: an answer, an exception, a time that the lock or the queue has measured itself. The duration of a booking
is what the service's clock showed first and last during a request, and lies within what the caller measured around it
with a clock of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from examples.booking.domain import Ports, SeatBusy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from examples.booking.api import Api
    from examples.booking.domain import Booking, Delivery, Gateway, Grant, Payment, Printer, Queue, Request, SeatLocks

DONE = ""
"""How something ends that does not fail; everything else is the name of an exception's class."""

CANCELLED = "CancelledError"


class Books:
    """
    What happened.

    Attributes:
        requests: Ids of the requests that were made.
        ends: How they ended -> how many.
        durations: Status -> milliseconds from begin to end of each booking.
        odd_durations: Durations that cannot be: not measured exactly once, or longer than the caller waited.
        charges: How the payment provider answered -> how often.
        locks_granted: How often a seat was locked.
        locks_contended: How often somebody else held the lock.
        lock_waits: Milliseconds each one waited who did not hang up meanwhile.
        lags: Milliseconds each message waited.
        tickets: How printing ended -> how often.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.ends: Counter[str] = Counter()
        self.durations: defaultdict[str, list[float]] = defaultdict(list)
        self.odd_durations = 0
        self.charges: Counter[str] = Counter()
        self.locks_granted = 0
        self.locks_contended = 0
        self.lock_waits: list[float] = []
        self.lags: list[float] = []
        self.tickets: Counter[str] = Counter()


class Stopwatch:
    """
    The service's clock; it remembers what it showed during each request.
    """

    def __init__(self) -> None:
        self._shown: ContextVar[list[float] | None] = ContextVar("shown", default=None)

    def __call__(self) -> float:
        """
        Seconds, as `time.perf_counter`.
        """
        now = time.perf_counter()
        shown = self._shown.get()
        if shown is not None:
            shown.append(now)
        return now

    def begin(self) -> list[float]:
        """
        What it shows from now on in this task.
        """
        shown: list[float] = []
        self._shown.set(shown)
        return shown


async def make(request: Request, api: Api, stopwatch: Stopwatch, books: Books) -> None:
    """
    Be a customer: make one request, in a task of its own that may be cancelled.
    """
    books.requests.append(request.booking_id)
    shown, before = stopwatch.begin(), time.perf_counter()
    try:
        end = (await api.post_booking(request)).error
    except asyncio.CancelledError:
        end = CANCELLED
    after = time.perf_counter()
    books.ends[end] += 1
    if len(shown) != 2 or not before <= shown[0] <= shown[1] <= after:
        books.odd_durations += 1
    else:
        books.durations[_status(end)].append((shown[1] - shown[0]) * 1000.0)


def _status(end: str) -> str:
    return "success" if end == DONE else "cancelled" if end == CANCELLED else "failure"


def witnessed(ports: Ports, books: Books) -> Ports:
    """
    The same ports, with somebody who writes down what comes out of them.
    """
    return ports._replace(
        locks=_Locks(ports.locks, books),
        gateway=_Gateway(ports.gateway, books),
        queue=_Queue(ports.queue, books),
        printer=_Printer(ports.printer, books),
    )


class _Locks:
    def __init__(self, locks: SeatLocks, books: Books) -> None:
        self._locks = locks
        self._books = books

    @asynccontextmanager
    async def hold(self, seat_id: str) -> AsyncIterator[Grant]:
        try:
            async with self._locks.hold(seat_id) as grant:
                self._books.locks_granted += 1
                self._wait(grant.waited_ms, contended=grant.contended)
                yield grant
        except SeatBusy as busy:
            self._wait(busy.waited_ms, contended=True)
            raise

    def _wait(self, waited_ms: float, *, contended: bool) -> None:
        self._books.locks_contended += contended
        self._books.lock_waits.append(waited_ms)


class _Gateway:
    def __init__(self, gateway: Gateway, books: Books) -> None:
        self._gateway = gateway
        self._books = books

    async def charge(self, booking_id: str, amount_cents: int) -> Payment:
        end = DONE
        try:
            return await self._gateway.charge(booking_id, amount_cents)
        except BaseException as error:
            end = type(error).__name__
            raise
        finally:
            self._books.charges[end] += 1


class _Queue:
    def __init__(self, queue: Queue, books: Books) -> None:
        self._queue = queue
        self._books = books

    async def publish(self, booking: Booking) -> None:
        await self._queue.publish(booking)

    async def receive(self) -> Delivery | None:
        delivery = await self._queue.receive()
        if delivery is not None:
            self._books.lags.append(delivery.lag_ms)
        return delivery


class _Printer:
    def __init__(self, printer: Printer, books: Books) -> None:
        self._printer = printer
        self._books = books

    async def print(self, booking: Booking) -> None:
        end = DONE
        try:
            await self._printer.print(booking)
        except BaseException as error:
            end = type(error).__name__
            raise
        finally:
            self._books.tickets[end] += 1
