"""
A CloudWatch for tests: an HTTP server in this process that refuses what AWS refuses and keeps the rest as numbers.

    with FakeCloudWatch() as cloudwatch:
        client = CloudWatchMetrics(MetricsConfig(endpoint_url=cloudwatch.endpoint_url, ...))
        client.increment_counter("UploadSuccess", namespace="RetainWise/API", dimensions={"Endpoint": "/upload"})
        client.flush()
        assert cloudwatch.sum("RetainWise/API", "UploadSuccess", {"Endpoint": "/upload"}) == 1

boto3 (botocore 1.42.7 or newer) talks to it through `endpoint_url` with any credentials. It answers `PutMetricData`,
`GetMetricStatistics`, `GetMetricData` and `ListMetrics`. A request is accepted as a whole or refused as a whole, with
AWS's error code and a message that names every offending member (`MetricData.member.3.Value`), one per line; when
the reasons differ in kind, the code is that of the first.

Stricter than AWS, or strict where AWS's behaviour is not documented:

- 1 MB is 1,000,000 bytes of body, counted without its compression (`max_body_bytes`),
- a value twice in `Values`, a dimension name twice, and zero or negative `Counts` are refused,
- `StatisticValues` whose `Sum` cannot come from its count and extremes are refused,
- a member that the operation does not have, or of the wrong type, is refused instead of ignored,
- blank names and values, and a leading colon in a namespace or dimension name, are refused.

Not modelled:

- signatures: a request must be signed, by anybody,
- delays: what was accepted can be read at once, while AWS takes up to minutes, and days for old timestamps,
- expiry and roll-up of old data, quotas in calls per second (see `faults.throttle`), other accounts, entities, alarms,
- the older query protocol and CBOR: they get `UnsupportedProtocol`,
- values closer to zero than 2^-360, which AWS once refused: they are accepted,
- metric math, `SEARCH` and trimmed means: refused rather than answered wrongly.

A percentile is the nearest rank among all values; AWS interpolates in ways it does not document. As on AWS there is
none when a value is negative or when a statistic set hides the values. Periods start at multiples of their length.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict

from retainwise_metrics.testing import _fake_reads as reads
from retainwise_metrics.testing._fake_faults import Fault, Faults
from retainwise_metrics.testing._fake_request import MalformedError, PutRequest, parse_json, parse_put
from retainwise_metrics.testing._fake_rules import INVALID, Problem, check_put
from retainwise_metrics.testing._fake_store import Series, Statistics, Store
from retainwise_metrics.testing._fake_wire import Reply, Request, WireServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from typing_extensions import Self, Unpack

_MAX_BODY_BYTES: Final = 1_000_000
_NAMELESS: Final = Problem(INVALID, "The request contains a value that is invalid.")
_SECRET_HEADERS: Final = frozenset({"authorization", "x-amz-security-token"})
_NOTHING: Final = PutRequest(None, (), has_entities=False)


class Call(NamedTuple):
    """
    One `PutMetricData` request, recorded when its fate was decided; a held one is recorded when it begins to be held.

    Attributes:
        at: When it was recorded, seconds since the epoch by the server's clock.
        namespace: What it was for; empty when the body could not be read.
        datums: How many datums it carried.
        values: How many values and statistic sets they carried together.
        body_bytes: Size of the body without compression.
        compressed: Whether it came as gzip.
        status: HTTP status of the answer, 0 when there was none (yet).
        error_code: What boto3 shows as the code, or for a fault without a code its name; empty when all went well.
        accepted: Whether its data was stored. A connection that was cut after that is accepted and has status 0.
        headers: Headers of the request, names in lower case, without the credentials.
        metric_data: The datums as they were on the wire.
    """

    at: float
    namespace: str
    datums: int
    values: int
    body_bytes: int
    compressed: bool
    status: int
    error_code: str
    accepted: bool
    headers: Mapping[str, str]
    metric_data: tuple[dict[str, Any], ...]


class Window(TypedDict, total=False):
    """
    The part of a series to look at.

    Attributes:
        minute: Start of the only period to look at, in epoch seconds; without it, or with None, all periods.
        period: Length of that period in seconds, 60 without it.
        unit: The only unit to look at; without it, or with None, all units together.
    """

    minute: float | None
    period: float
    unit: str | None


class FakeCloudWatch:
    """
    The server, its data and its faults. Construction opens nothing; `start()` or `with` does.

    Stopping never waits for a client: held requests and idle connections are ended. Data and calls stay readable.

    Attributes:
        faults: How to make it fail, see `Faults`.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float] | None = None,
        wait: Callable[[float], object] | None = None,
        max_body_bytes: int = _MAX_BODY_BYTES,
    ) -> None:
        """
        Prepare a server.

        Args:
            now: Seconds since the epoch, for the window of accepted timestamps; None reads the system's clock.
            wait: What `faults.slow` waits with, given seconds; None waits for real, until the server is stopped.
            max_body_bytes: Largest accepted body; a small one makes splitting cheap to test.
        """
        self._now = now if now is not None else lambda: time.time()  # noqa: PLW0108  looked up late: tests may freeze it
        self._max_body_bytes = max_body_bytes
        self._changed = threading.Condition()
        self._lifecycle = threading.Lock()
        self._server: WireServer | None = None
        self._refusing = False
        self._store = Store()
        self._calls: list[Call] = []
        self._failures: list[BaseException] = []
        self.faults = Faults(self._changed, refuse=self._refuse_connections, accept=self._accept_connections, wait=wait)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if error is None and self._failures:
            raise self._failures[0]

    def __repr__(self) -> str:
        with self._changed:
            accepted = sum(call.accepted for call in self._calls)
            where = self._server.server_port if self._server else "stopped"
            return (
                f"<FakeCloudWatch {where}: {len(self._calls)} calls, {accepted} accepted, "
                f"{self._store.total_count():g} measurements>"
            )

    # Lifecycle

    def start(self) -> Self:
        """
        Listen on a free port of 127.0.0.1; does nothing when it already does.
        """
        with self._lifecycle:
            if self._server is None:
                self._server = WireServer(self)
        return self

    def stop(self) -> None:
        """
        Close the socket, end every connection and wait for their threads; does nothing when it is not running.
        """
        with self._lifecycle:
            self._close_server()
            self._refusing = False

    @property
    def endpoint_url(self) -> str:
        """
        What boto3 wants as `endpoint_url`.

        Raises:
            RuntimeError: The server is not running.
        """
        with self._lifecycle:
            return f"http://127.0.0.1:{self._running().server_port}"

    def _running(self) -> WireServer:
        if self._server is None:
            message = "FakeCloudWatch is not running: use it in a with statement or call start() first."
            raise RuntimeError(message)
        return self._server

    def _refuse_connections(self) -> None:
        """
        Bind without listening: the port stays ours, and the system refuses who connects to it.
        """
        with self._lifecycle:
            port = self._running().server_port
            self._close_server()
            self._server = WireServer(self, port=port, listen=False)
            self._refusing = True

    def _accept_connections(self) -> None:
        with self._lifecycle:
            if self._refusing:
                self._running().listen()
                self._refusing = False

    def _close_server(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        with self._changed:
            server.closing = True
            self._changed.notify_all()
        server.close()

    # What was accepted

    def sum(
        self, namespace: str, name: str, dimensions: Mapping[str, str] | None = None, **window: Unpack[Window]
    ) -> float:
        """
        Sum of one series; 0 when it has no data.

        Args:
            namespace: Its namespace.
            name: Its metric name.
            dimensions: Exactly its dimensions; None and an empty mapping mean the series without dimensions.
            window: What to look at, see `Window`; everything when nothing is given.
        """
        return self._select(namespace, name, dimensions, **window).total

    def count(
        self, namespace: str, name: str, dimensions: Mapping[str, str] | None = None, **window: Unpack[Window]
    ) -> float:
        """
        Number of measurements of one series; 0 when it has no data. Arguments as for `sum`.
        """
        return self._select(namespace, name, dimensions, **window).count

    def minimum(
        self, namespace: str, name: str, dimensions: Mapping[str, str] | None = None, **window: Unpack[Window]
    ) -> float | None:
        """
        Smallest value of one series; None when it has no data. Arguments as for `sum`.
        """
        return self._select(namespace, name, dimensions, **window).statistic("Minimum")

    def maximum(
        self, namespace: str, name: str, dimensions: Mapping[str, str] | None = None, **window: Unpack[Window]
    ) -> float | None:
        """
        Largest value of one series; None when it has no data. Arguments as for `sum`.
        """
        return self._select(namespace, name, dimensions, **window).statistic("Maximum")

    def percentile(
        self,
        namespace: str,
        name: str,
        dimensions: Mapping[str, str] | None,
        percent: float,
        **window: Unpack[Window],
    ) -> float | None:
        """
        Percentile of one series, `percent` from 0 to 100; None when CloudWatch has none. Other arguments as for `sum`.
        """
        return self._select(namespace, name, dimensions, **window).percentile(percent)

    def values(
        self, namespace: str, name: str, dimensions: Mapping[str, str] | None = None, **window: Unpack[Window]
    ) -> dict[float, float]:
        """
        Every value of one series with its count. Arguments as for `sum`.
        """
        return self._select(namespace, name, dimensions, **window).values

    def minutes(self, namespace: str, name: str, dimensions: Mapping[str, str] | None = None) -> list[int]:
        """
        The minutes in which one series has data, as epoch seconds of their start, in order.
        """
        with self._changed:
            cells = self._store.cells(Series.of(namespace, name, dimensions))
            return sorted({cell.start // 60 * 60 for cell, _ in cells})

    def series(self) -> list[Series]:
        """
        Every series that has data: namespace, name and sorted pairs of dimensions.
        """
        with self._changed:
            return self._store.series()

    def total_count(self) -> float:
        """
        All measurements of all series.
        """
        with self._changed:
            return self._store.total_count()

    def _select(
        self,
        namespace: str,
        name: str,
        dimensions: Mapping[str, str] | None,
        *,
        minute: float | None = None,
        period: float = 60,
        unit: str | None = None,
    ) -> Statistics:
        series = Series.of(namespace, name, dimensions)
        start, end = (-math.inf, math.inf) if minute is None else (minute, minute + period)
        with self._changed:
            return self._store.statistics(series, start=start, end=end, unit=unit)

    # What was asked

    @property
    def calls(self) -> list[Call]:
        """
        Every `PutMetricData` request so far, in order.
        """
        with self._changed:
            return list(self._calls)

    @property
    def accepted_calls(self) -> list[Call]:
        """
        The calls whose data was stored.
        """
        return [call for call in self.calls if call.accepted]

    @property
    def rejected_calls(self) -> list[Call]:
        """
        The calls whose data was not stored, for whatever reason.
        """
        return [call for call in self.calls if not call.accepted]

    def wait_for_calls(self, n: int, timeout: float = 10.0) -> bool:
        """
        Wait until there have been at least *n* calls in all.

        Args:
            n: How many, counted from the start of the server.
            timeout: Longest wait in seconds.

        Returns:
            Whether there were.
        """
        return self.wait_until(lambda: len(self._calls) >= n, timeout)

    def wait_until(self, condition: Callable[[], bool], timeout: float = 10.0) -> bool:
        """
        Wait until something is true of this server, for example `lambda: cloudwatch.faults.held == 1`.

        Args:
            condition: Asked whenever something has happened; must be quick and not wait itself.
            timeout: Longest wait in seconds.

        Returns:
            Whether it became true.
        """
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    # Answering, on the threads of the connections

    def answer(self, request: Request) -> Reply | None:
        """
        Answer one HTTP request; None closes the connection. Called by the wire.
        """
        refusal = _check_envelope(request)
        if refusal is not None:
            return refusal
        if request.operation == "PutMetricData":
            return self._put(request)
        return self._read(request)

    def failed(self, error: BaseException) -> None:
        """
        Keep an exception that was raised while answering, to raise it at the end of the with statement.
        """
        with self._changed:
            self._failures.append(error)

    def _read(self, request: Request) -> Reply:
        try:
            query = parse_json(request.body)
            with self._changed:
                return Reply(payload=reads.READS[request.operation](self._store, query))
        except reads.ReadRefusedError as error:
            return Reply(400, *error.problem)
        except MalformedError as error:
            return _serialization_error(error)

    def _put(self, request: Request) -> Reply | None:
        fault = self.faults.take()
        put, unreadable = self._parse(request)
        call = self._describe(request, put)
        if fault is None:
            reply = unreadable or self._judge(put)
            self._record(_settled(call, reply), put)
            return reply
        if fault.reply is not None:
            self._record(call._replace(status=fault.reply.status, error_code=fault.reply.code or fault.kind))
            return fault.reply
        return self._withhold(request, call, put, unreadable, fault)

    def _withhold(
        self, request: Request, call: Call, put: PutRequest, unreadable: Reply | None, fault: Fault
    ) -> Reply | None:
        """
        Cut the connection, or hold the request and go on with it if its client is still there.
        """
        reply = unreadable or self._judge(put) if fault.accept_first else None
        accepted = reply is not None and not reply.code
        index = self._record(call._replace(error_code=fault.kind, accepted=accepted), put)
        if not fault.hold_seconds:
            return None
        self.faults.hold(fault, given_up=request.closing)
        if request.closing() or not request.connected():
            return None
        reply = reply or unreadable or self._judge(put)
        self._record(_settled(call, reply), None if accepted else put, index=index)
        return reply

    def _parse(self, request: Request) -> tuple[PutRequest, Reply | None]:
        """
        The request, and the refusal it deserves before any rule is looked at.
        """
        too_large = None
        if len(request.body) > self._max_body_bytes:
            message = f"Request size {len(request.body)} exceeded {self._max_body_bytes} bytes"
            too_large = Reply(413, "RequestEntityTooLarge", message)
        try:
            return parse_put(request.body), too_large
        except MalformedError as error:
            return _NOTHING, too_large or _serialization_error(error)

    def _judge(self, put: PutRequest) -> Reply:
        problems = [*check_put(put, now=self._now()), *self._poisoned(put)]
        if not problems:
            return Reply()
        return Reply(400, problems[0].code, "\n".join(problem.message for problem in problems))

    def _poisoned(self, put: PutRequest) -> list[Problem]:
        problems: list[Problem] = []
        for rule in self.faults.poisons:
            members = [number for number, datum in enumerate(put.datums, start=1) if rule.predicate(datum.raw)]
            if members:
                self.faults.struck("poison")
                problems += _poison_problems(members) if rule.name_member else [_NAMELESS]
        return problems

    def _describe(self, request: Request, put: PutRequest) -> Call:
        return Call(
            at=self._now(),
            namespace=put.namespace or "",
            datums=len(put.datums),
            values=sum(len(datum.values) or 1 for datum in put.datums),
            body_bytes=len(request.body),
            compressed=request.compressed,
            status=0,
            error_code="",
            accepted=False,
            headers={name: value for name, value in request.headers.items() if name not in _SECRET_HEADERS},
            metric_data=tuple(datum.raw for datum in put.datums),
        )

    def _record(self, call: Call, put: PutRequest | None = None, *, index: int | None = None) -> int:
        """
        Note a call, or the outcome of the one at an index, and store its data if it is accepted, at one moment.
        """
        with self._changed:
            if call.accepted and put is not None:
                self._store.add(put, received=call.at)
            if index is None:
                index = len(self._calls)
                self._calls.append(call)
            else:
                self._calls[index] = call
            self._changed.notify_all()
            return index


def _settled(call: Call, reply: Reply) -> Call:
    return call._replace(status=reply.status, error_code=reply.code, accepted=not reply.code)


def _poison_problems(members: list[int]) -> list[Problem]:
    return [Problem(INVALID, f"The value for parameter MetricData.member.{n}.Value is invalid.") for n in members]


def _check_envelope(request: Request) -> Reply | None:
    """
    What is refused before the operation is looked at.
    """
    if not request.headers.get("content-type", "").startswith("application/x-amz-json-1."):
        message = "FakeCloudWatch speaks JSON 1.0 only, as botocore does from 1.42.7 on."
        return Reply(400, "UnsupportedProtocol", message)
    if "authorization" not in request.headers:
        return Reply(403, "MissingAuthenticationToken", "Missing Authentication Token")
    if request.operation != "PutMetricData" and request.operation not in reads.READS:
        return Reply(
            400, "UnknownOperationException", f"FakeCloudWatch does not know the operation {request.operation}."
        )
    if not request.readable:
        return Reply(400, "SerializationException", "The request body is not gzip, as its Content-Encoding says.")
    return None


def _serialization_error(error: MalformedError) -> Reply:
    return Reply(400, "SerializationException", str(error))
