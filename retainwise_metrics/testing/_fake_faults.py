"""
The ways in which the fake CloudWatch can fail, settable by a test at any moment from any thread.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from retainwise_metrics.testing._fake_wire import Reply, retry_after_headers

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping
    from typing import Any

_SERVER_ERRORS: Final = {500: "InternalServiceError", 503: "ServiceUnavailable"}
_PROXY_PAGE: Final = b"<html><head><title>Error</title></head><body>The upstream server does not answer.</body></html>"
_PORTAL_PAGE: Final = b"<html><head><title>Welcome</title></head><body>Please sign in first.</body></html>"


class Poison(NamedTuple):
    """
    A rule that refuses the datums a test has chosen.

    Attributes:
        predicate: Gets a datum as it was on the wire, says whether to refuse it.
        name_member: Whether the message names the offending members, as AWS does for most rules.
    """

    predicate: Callable[[dict[str, Any]], bool]
    name_member: bool


class Fault:
    """
    What happens to a request instead of, or before, its normal treatment.

    Attributes:
        kind: Name of the method that set it.
        remaining: How many requests it still applies to; None means all of them.
        reply: The answer to give without looking at the request.
        accept_first: Whether the data is stored before anything goes wrong.
        hold_seconds: How long the request is held before it is treated, infinity until released; 0 not at all.
        released: Set when held requests shall go on.
    """

    __slots__ = ("accept_first", "hold_seconds", "kind", "released", "remaining", "reply")

    def __init__(
        self,
        kind: str,
        remaining: int | None,
        *,
        reply: Reply | None = None,
        accept_first: bool = False,
        hold_seconds: float = 0.0,
    ) -> None:
        self.kind = kind
        self.remaining = remaining
        self.reply = reply
        self.accept_first = accept_first
        self.hold_seconds = hold_seconds
        self.released = False


class Faults:
    """
    Faults for `PutMetricData` requests; reads are never disturbed, except by `refuse_connections`.

    Every method that takes `n` applies to the next *n* requests, or with None to all until `clear()`. Faults with a
    number come first, in the order in which they were set, so that a sequence of calls is a script; without a number,
    the one set last wins. All methods that set a fault return this object, so that they can be chained:

        cloudwatch.faults.throttle(2).ok(1).cut(1)
    """

    def __init__(
        self,
        changed: threading.Condition,
        *,
        refuse: Callable[[], None],
        accept: Callable[[], None],
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._changed = changed
        self._wait = wait
        self._refuse = refuse
        self._accept = accept
        self._pending: list[Fault] = []
        self._held: list[Fault] = []
        self._poisons: list[Poison] = []
        self._injected: Counter[str] = Counter()

    @property
    def injected(self) -> Mapping[str, int]:
        """
        How often each fault has struck, by the name of its method.
        """
        with self._changed:
            return Counter(self._injected)

    @property
    def held(self) -> int:
        """
        How many requests are being held at this moment by `hang` or `slow`.
        """
        with self._changed:
            return len(self._held)

    @property
    def poisons(self) -> tuple[Poison, ...]:
        """
        The poison rules in force.
        """
        with self._changed:
            return tuple(self._poisons)

    def throttle(
        self, n: int | None = None, *, code: str = "Throttling", retry_after_seconds: float | None = None
    ) -> Faults:
        """
        Answer 400: too many requests.

        Args:
            n: How many requests; None means all.
            code: What boto3 shows as the error code. A name that ends in `Exception` is sent as real services do that
                leave the query-compatibility header out: `ThrottlingException`.
            retry_after_seconds: Sent as `Retry-After` and `x-amz-retry-after`; None sends neither.
        """
        reply = Reply(400, code, "Rate exceeded", headers=retry_after_headers(retry_after_seconds))
        return self._add(Fault("throttle", n, reply=reply))

    def fail(self, status: int = 500, n: int | None = None) -> Faults:
        """
        Answer with an HTTP error: 500 and 503 as CloudWatch words them, any other as the HTML page of a proxy.

        Args:
            status: HTTP status, for example 500, 502, 503 or 504.
            n: How many requests; None means all.
        """
        code = _SERVER_ERRORS.get(status, "")
        reply = Reply(status, code, "The service is failing.") if code else Reply(status, page=_PROXY_PAGE)
        return self._add(Fault("fail", n, reply=reply))

    def deny(self, code: str = "AccessDenied", n: int | None = None, *, status: int = 403) -> Faults:
        """
        Answer that the caller may not do this.

        Args:
            code: For example `AccessDenied`, `InvalidClientTokenId`, `SignatureDoesNotMatch` or `ExpiredToken`.
            n: How many requests; None means all.
            status: HTTP status; AWS uses 403 for most and 400 for some.
        """
        return self._add(Fault("deny", n, reply=Reply(status, code, "The request is not allowed.")))

    def html(self, status: int = 200, n: int | None = None) -> Faults:
        """
        Answer with the page of a captive portal and no RequestId; with status 200 boto3 takes it for success.

        Args:
            status: HTTP status.
            n: How many requests; None means all.
        """
        return self._add(Fault("html", n, reply=Reply(status, page=_PORTAL_PAGE)))

    def cut(self, n: int | None = None, *, after_accept: bool = False) -> Faults:
        """
        Close the connection without an answer.

        Args:
            n: How many requests; None means all.
            after_accept: Whether the data is stored before, which the client cannot know.
        """
        return self._add(Fault("cut", n, accept_first=after_accept))

    def hang(self, n: int | None = None, *, after_accept: bool = False) -> Faults:
        """
        Take the request and answer nothing until `release()`.

        A released request is treated normally if its client is still waiting, and forgotten if not. One that the
        server is stopped over is forgotten too.

        Args:
            n: How many requests; None means all until `release()`.
            after_accept: Whether the data is stored before, which a client that gives up cannot know.
        """
        return self._add(Fault("hang", n, accept_first=after_accept, hold_seconds=math.inf))

    def slow(self, seconds: float, n: int | None = None) -> Faults:
        """
        Treat the request normally, but only after a while; a client that has gone by then is forgotten.

        Args:
            seconds: How long to wait before; `release()`, `clear()` and stopping the server end the wait.
            n: How many requests; None means all.
        """
        return self._add(Fault("slow", n, hold_seconds=seconds))

    def ok(self, n: int = 1) -> Faults:
        """
        Treat the next requests normally: the gap in a script.

        Args:
            n: How many requests.
        """
        return self._add(Fault("ok", n, reply=None))

    def poison(self, predicate: Callable[[dict[str, Any]], bool], *, name_member: bool = True) -> Faults:
        """
        Refuse every request with a datum for which a predicate holds, with `InvalidParameterValue`.

        Args:
            predicate: Gets a datum as it was on the wire, for example `{"MetricName": "Bad", "Value": 1.0}`.
            name_member: Whether the message names the offending members; False is the unhelpful kind of refusal.
        """
        with self._changed:
            self._poisons.append(Poison(predicate, name_member))
        return self

    def refuse_connections(self) -> Faults:
        """
        Close the listening socket, and the connections that exist: clients get "connection refused" on the same port.
        """
        self._refuse()
        return self

    def accept_connections(self) -> Faults:
        """
        Listen again on the same port.
        """
        self._accept()
        return self

    def release(self) -> Faults:
        """
        End hanging and slowness: those that are held go on, and no further request is held.
        """
        with self._changed:
            for fault in [*self._held, *self._pending]:
                fault.released = True
            self._pending = [fault for fault in self._pending if not fault.hold_seconds]
            self._changed.notify_all()
        return self

    def clear(self) -> Faults:
        """
        Be healthy: no faults, no poison, nobody held, connections accepted.
        """
        with self._changed:
            self._pending.clear()
            self._poisons.clear()
        self.release()
        self._accept()
        return self

    def take(self) -> Fault | None:
        """
        The fault that strikes the request at hand; called by the server once for each.

        One that holds the request counts it as held from here on: a release must not slip in between.
        """
        with self._changed:
            counted = (fault for fault in self._pending if fault.remaining is not None)
            endless = (fault for fault in reversed(self._pending) if fault.remaining is None)
            fault = next(counted, None) or next(endless, None)
            if fault is not None:
                self._use_up(fault)
            return None if fault is None or fault.kind == "ok" else fault

    def struck(self, kind: str) -> None:
        """
        Count a fault that is not taken from the queue.
        """
        with self._changed:
            self._injected[kind] += 1

    def hold(self, fault: Fault, *, given_up: Callable[[], bool]) -> None:
        """
        Wait until a fault is released, its time is over, or the server is being closed.
        """
        try:
            if self._wait is not None and fault.hold_seconds < math.inf:
                self._wait(fault.hold_seconds)
            else:
                self._wait_for(lambda: fault.released or given_up(), fault.hold_seconds)
        finally:
            with self._changed:
                self._held.remove(fault)
                self._changed.notify_all()

    def _wait_for(self, condition: Callable[[], bool], seconds: float) -> None:
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(condition, seconds if seconds < math.inf else None)

    def _add(self, fault: Fault) -> Faults:
        if fault.remaining is None or fault.remaining > 0:
            with self._changed:
                self._pending.append(fault)
        return self

    def _use_up(self, fault: Fault) -> None:
        if fault.kind != "ok":
            self._injected[fault.kind] += 1
        if fault.hold_seconds:
            self._held.append(fault)
            self._changed.notify_all()
        if fault.remaining is not None:
            fault.remaining -= 1
            if fault.remaining == 0:
                self._pending.remove(fault)
