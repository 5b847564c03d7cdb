"""
PutMetricData through boto3.

Rules
1. The client is made at the first send, on the sending thread, from a session of its own: nothing is imported or opened before.
2. Retries, timeouts and deadlines are the pipeline's: botocore makes exactly one attempt.
3. Every way a call can fail becomes one of the errors of `base`; only what AWS answered with a request id counts as accepted.
4. A client made before a fork is never used or closed by the child: using it makes the *parent* hang (measured).
5. Whoever answers may be anybody: what `_aws_calls` does about that holds here. An answer can make a batch be sent again but not be given
   up, unless it is one of CloudWatch's.
6. boto3 finds its credentials once per client. A client whose credentials were refused is forgotten, so that others are found.
7. What boto3 says about the library's own calls below WARNING is not said: a log handler that records would never come to rest.
"""

from __future__ import annotations

import json
import re
import threading
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from retainwise_metrics.runtime import IMPORTS

from ._aws_calls import (
    CALL,
    EXPIRED,
    FORBIDDEN,
    REJECTED,
    THROTTLED,
    calling,
    code_of,
    hush,
    retry_after,
    translate_failure,
    watch,
    words,
)
from .base import SinkError, SinkForbidden, SinkRejected, SinkThrottled, SinkTooLarge, SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from retainwise_metrics.datum import Batch, Datum, Series

VALUES_PER_TURN = 300
"""Values that boto3 serialises before other threads get a turn: about 0.4 ms. A full call of 3,000 would keep the interpreter for 4 ms."""

DATUM_IN_VALUES = 13
"""What else a datum has (name, dimensions, time) takes as long as so many values."""

MEMBER = re.compile(r"MetricData\.member\.(\d+)")
"""AWS names each offending datum, from 1 (recorded answers of the service; it lists all of them, one per line)."""

TOO_LARGE = frozenset({"RequestEntityTooLarge", "RequestEntityTooLargeException", "413"})


class Connection(NamedTuple):
    """
    How to reach CloudWatch; None leaves the choice to boto3 (environment, profile, instance metadata).

    Attributes:
        region: AWS region.
        endpoint_url: Where to send instead of the region's endpoint.
        connect_timeout_seconds: Per call.
        read_timeout_seconds: Until the answer is complete, per call; a call that times out may still have been accepted.
    """

    region: str | None = None
    endpoint_url: str | None = None
    connect_timeout_seconds: float = 3.0
    read_timeout_seconds: float = 10.0


def boto3_client(connection: Connection) -> Any:
    """
    A CloudWatch client that makes one attempt per call and validates nothing, because the library has.
    """
    import encodings.idna  # noqa: F401 - urllib3 needs it for the first connection; here a fork waits for it (runtime.ImportGate)
    from importlib.metadata import PackageNotFoundError, version

    import boto3.session
    from botocore.config import Config

    hush()
    try:
        agent = f"retainwise-metrics/{version('retainwise-metrics')}"
    except PackageNotFoundError:
        agent = "retainwise-metrics"
    client = boto3.session.Session(region_name=connection.region).client(
        "cloudwatch",
        endpoint_url=connection.endpoint_url,
        config=Config(
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=connection.connect_timeout_seconds,
            read_timeout=connection.read_timeout_seconds,
            parameter_validation=False,
            tcp_keepalive=True,
            user_agent_extra=agent,
        ),
    )
    client.meta.events.register_first("before-sign.cloudwatch.PutMetricData", _encoded)
    client.meta.events.register("before-send.cloudwatch.PutMetricData", _written)
    with suppress(AttributeError):  # botocore has no public place for it; see `watch`
        watch(client._endpoint.http_session)  # noqa: SLF001
    return client


def _encoded(**_: object) -> None:
    CALL.encoded = True


def _written(**_: object) -> None:
    CALL.written = True


class InTurns(list[dict[str, Any]]):
    """
    Datums on their way through boto3's serialiser, which lets other threads run between them.

    Args:
        datums: As `to_wire` makes them.
        pause: Lets other threads run; called after every `VALUES_PER_TURN` values, or what takes as long.
    """

    def __init__(self, datums: Iterable[dict[str, Any]], pause: Callable[[], None]) -> None:
        super().__init__(datums)
        self._pause = pause

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """One by one, with pauses."""
        values = 0
        for datum in super().__iter__():
            yield datum
            values += DATUM_IN_VALUES + len(datum.get("Values", ()))
            if values >= VALUES_PER_TURN:
                values = 0
                self._pause()


class PutMetricDataSink:
    """
    Sends batches to CloudWatch.

    Args:
        connection: How to reach it.
        make_client: Makes the boto3 client; the default is `boto3_client`.
        pause: Lets other threads run; called three times in each call, more often if it is large.
    """

    def __init__(
        self,
        connection: Connection,
        make_client: Callable[[Connection], Any] = boto3_client,
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._make_client = make_client
        self._pause = pause
        self._abandoned: list[object] = []
        self._client: Any = None
        self._making = threading.Lock()

    def send(self, batch: Batch) -> None:
        """
        Put one batch on the wire; see `base.Sink.send`.
        """
        client = self._connected()
        with calling():
            try:
                answer = client.put_metric_data(
                    Namespace=batch.namespace, MetricData=InTurns(map(to_wire, batch.datums), self._pause)
                )
            except Exception as error:
                alone = len(batch.datums) == 1
                translated = translate(error, encoded=CALL.encoded, written=CALL.written, alone=alone)
                if isinstance(translated, SinkForbidden) or code_of(error) in EXPIRED:
                    self._forget(client)
                raise translated from error
        if not answer.get("ResponseMetadata", {}).get("RequestId"):
            message = "the answer was no error but carried no request id: something other than CloudWatch answered"
            raise SinkUnavailable(message, maybe_delivered=True)

    def _connected(self) -> Any:
        with self._making:
            if self._client is None:
                try:
                    with IMPORTS.lock, calling():
                        client = self._make_client(self._connection)
                    self._take_turns(client)
                    self._client = client
                except Exception as error:
                    # No region, an unknown profile, a malformed endpoint: somebody has to change a setting.
                    message = f"the boto3 client could not be made: {words(error)}"
                    raise SinkForbidden(message) from error
            return self._client

    def _take_turns(self, client: Any) -> None:
        """
        Let others run between writing, compressing, signing and sending: that is 1.3 ms in one go, and 2 ms for a full call.
        """

        def turn(**_: object) -> None:
            self._pause()

        with suppress(AttributeError):  # a client that somebody else made may have no events
            for event in ("before-call", "before-sign", "before-send"):
                client.meta.events.register(f"{event}.cloudwatch.PutMetricData", turn)

    def _forget(self, client: Any) -> None:
        """
        Let the next call make a client of its own, with the credentials that are found then.
        """
        with self._making:
            if self._client is not client:
                return
            self._client = None
        client.close()

    def datum_bytes(self, datum: Datum) -> int:
        """
        Exact size of one datum in the JSON body, with its separator.
        """
        series = datum.series
        fixed = series.encoded_bytes
        if fixed is None:
            fixed = series.encoded_bytes = _fixed_bytes(series)
        values = sum(map(len, map(repr, datum.values))) + 2 * (len(datum.values) - 1)
        if max(datum.counts) == 1:
            # One value alone is written as "Value": 1.5, several as "Values": [1.5, 2.5].
            return (
                fixed
                + len(str(datum.timestamp))
                + values
                + (len('"Value": ') if len(datum.values) == 1 else len('"Values": []'))
            )
        counts = sum(map(len, map(str, datum.counts))) + 2 * (len(datum.counts) - 1)
        return fixed + len(str(datum.timestamp)) + values + counts + len('"Values": [], "Counts": []')

    def envelope_bytes(self, namespace: str) -> int:
        """
        Exact size of the body around the datums; the first datum has no separator.
        """
        return len(json.dumps({"Namespace": namespace, "MetricData": []})) - len(", ")

    def after_fork(self) -> None:
        """
        Forget the parent's client. It is kept alive, unused: collecting it could close what the parent still uses.
        """
        self._abandoned.append(self._client)
        self._client = None
        self._making = threading.Lock()

    def close(self) -> None:
        """
        Close the client's connections.
        """
        client, self._client = self._client, None
        if client is not None:
            client.close()


def to_wire(datum: Datum) -> dict[str, Any]:
    """
    A datum as boto3 takes it. The unit is always written, and whatever equals the service's default otherwise is left out.
    """
    series = datum.series
    wire: dict[str, Any] = {
        "MetricName": series.name,
        "Timestamp": datetime.fromtimestamp(datum.timestamp, timezone.utc),
        "Unit": series.unit,
    }
    if series.dimensions:
        wire["Dimensions"] = [{"Name": name, "Value": value} for name, value in series.dimensions]
    if series.resolution == 1:
        wire["StorageResolution"] = 1
    if max(datum.counts) > 1:
        wire["Values"], wire["Counts"] = list(datum.values), list(datum.counts)
    elif len(datum.values) > 1:
        wire["Values"] = list(datum.values)
    else:
        wire["Value"] = datum.values[0]
    return wire


def _fixed_bytes(series: Series) -> int:
    """
    What a datum of this series takes without its timestamp, values and counts.
    """
    empty: dict[str, Any] = {"MetricName": series.name, "Timestamp": 0, "Unit": series.unit}
    if series.dimensions:
        empty["Dimensions"] = [{"Name": name, "Value": value} for name, value in series.dimensions]
    if series.resolution == 1:
        empty["StorageResolution"] = 1
    return len(json.dumps(empty)) - len("0") + len(", ") + len(", ")


def translate(error: Exception, *, encoded: bool = False, written: bool = False, alone: bool = False) -> SinkError:
    """
    What an exception from boto3 means for the batch.

    Codes come in two spellings, with and without "Exception": the service translates for older clients, proxies do not.

    Args:
        error: What was raised.
        encoded: Whether the body of the request had been written before.
        written: Whether some of the request may have left before.
        alone: Whether the batch is of one datum, which cannot be split.
    """
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError) and error.operation_name == "PutMetricData":
        return _translate_answer(error, alone=alone)
    return translate_failure(error, encoded=encoded, written=written)


def _translate_answer(error: Any, *, alone: bool) -> SinkError:
    answer = error.response
    code = code_of(error)
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    after = retry_after(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}))
    text = str(answer.get("Error", {}).get("Message", ""))
    said = f"{code or status} from CloudWatch"
    is_aws = bool(answer.get("ResponseMetadata", {}).get("RequestId"))
    # A proxy may allow less than CloudWatch, so a batch is split for it; but no datum is given up because of it.
    if (code in TOO_LARGE or status == 413) and (is_aws or not alone):
        return SinkTooLarge(said)
    if code in THROTTLED or status == 429:
        return SinkThrottled(said, retry_after_seconds=after)
    if code in FORBIDDEN:
        return SinkForbidden(said)
    if code in REJECTED and is_aws:
        members = tuple(sorted({int(number) - 1 for number in MEMBER.findall(text)}))
        fields = sorted(set(re.findall(r"MetricData\.member\.\d+\.(\w+)", text)))
        return SinkRejected(f"{said}{' about ' + ', '.join(fields) if fields else ''}", members=members)
    # A 503 says that it was not done; after any other 5xx, of the service or of something between, nobody knows.
    maybe = status >= 500 and status != 503
    return SinkUnavailable(said, retry_after_seconds=after, maybe_delivered=maybe)
