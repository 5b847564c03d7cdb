"""
Between memory and disk: what waits for long goes to the spool, and comes back when calls get through.

Rules
1. The disk is never touched under `deciding`: first the disk, then the books. What is on its way in between counts as held in memory.
2. One thread at a time, but not always the same: while the flusher is stuck in a call, whoever stops the client brings to disk what it
   holds.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from retainwise_metrics.datum import Datum
    from retainwise_metrics.runtime import Runtime
    from retainwise_metrics.sinks.spool import Spool

    from .delivery import Delivery, DeliveryCounts


NOTHING_SECONDS = 1.0
"""How long to wait for the disk when it holds something and gives nothing."""


class Spooling:
    """
    Moves batches between a delivery and a spool.

    Args:
        spool: The disk.
        delivery: What decides and keeps the books.
        deciding: The lock under which the delivery is changed.
        publish: Makes the delivery's books known; called under `deciding`.
        runtime: Clocks.
        pause: Lets other threads run.
    """

    def __init__(
        self,
        spool: Spool,
        delivery: Delivery,
        deciding: threading.Lock,
        publish: Callable[[DeliveryCounts], None],
        runtime: Runtime,
        pause: Callable[[], None],
    ) -> None:
        self._spool = spool
        self._delivery = delivery
        self._deciding = deciding
        self._publish = publish
        self._runtime = runtime
        self._pause = pause
        self._turn = threading.Lock()
        delivery.finished = []

    def tend(self) -> None:
        """
        What is due now and then: taking over what others have left behind, giving up what is too old.
        """
        with self._turn:
            self._spool.tend()
            self._book()

    def relieve(self, *, at_once: bool = False) -> None:
        """
        Bring to disk what waits for long; `at_once`: all that waits.
        """
        with self._turn:
            moved = False
            while self._unload_one(at_once=at_once):
                moved = True
                self._pause()
            if moved:
                self._spool.sync()

    def _unload_one(self, *, at_once: bool) -> bool:
        with self._deciding:
            datums = self._delivery.unload(self._runtime.monotonic(), at_once=at_once)
        kept = False
        try:
            kept = bool(datums) and self._spool.keep(datums)
        finally:
            if datums:  # whatever was raised, they have to be somewhere
                self._book(lambda: self._delivery.unloaded(kept=kept))
        return kept

    def refill(self) -> None:
        """
        Load the next batch from disk when there is nothing else to send.
        """
        with self._turn:
            with self._deciding:
                wanted = self._delivery.wants_more(self._runtime.monotonic())
            if wanted:
                self._spool.put_back_all()
                datums = self._spool.load()
                # Never at once: what the disk says it holds and does not give must not keep the flusher busy.
                load_at = self._runtime.monotonic() + max(self._spool.seconds_until_readable(), NOTHING_SECONDS)
                self._book(lambda: self._delivery.load(datums, load_at))

    def settle(self) -> None:
        """
        Let the disk forget what has been delivered or dropped for good.
        """
        with self._turn:
            with self._deciding:
                finished: list[Datum] = list(self._delivery.finished or [])
            self._spool.settled(finished)
            with self._deciding:
                del (self._delivery.finished or [])[: len(finished)]
            self._book()

    def rescue(self, patience_seconds: float) -> None:
        """
        Bring to disk all that is held while the flusher is stuck in a call, also what it is sending.

        Args:
            patience_seconds: How long to wait for the disk, should it be stuck too.
        """
        until = self._runtime.monotonic() + patience_seconds
        (mine,) = map(self._turn.acquire, (True,), (patience_seconds,))  # see runtime.AT_ONCE
        if not mine:
            return
        try:
            with self._deciding:
                sending = self._delivery.being_sent()
            if sending:
                self._spool.keep_too(sending)
            while self._runtime.monotonic() < until and self._unload_one(at_once=True):
                pass
            self._spool.sync()
            self._book()
        finally:
            self._turn.release()

    def _book(self, change: Callable[[], None] = lambda: None) -> None:
        spool = self._spool
        lost, spool.losses = spool.losses, {}
        adopted, spool.adopted = spool.adopted, 0
        with self._deciding:
            change()
            self._delivery.spool_holds(spool.held, lost, adopted, spool.oldest())
            self._publish(self._delivery.counts())
