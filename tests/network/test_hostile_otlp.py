"""Everything a network can do to a call of the OTLP sink: nothing is lost, nobody waits, nothing is shown, nobody restarts."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

pytest.importorskip("opentelemetry.proto", reason="the encoding is OpenTelemetry's")

from retainwise_metrics import BreakerState, CloudWatchMetrics, DropReason
from retainwise_metrics.datum import Batch, Datum, Series
from retainwise_metrics.sinks.base import SinkForbidden
from retainwise_metrics.sinks.otlp import OtlpSink
from retainwise_metrics.sinks.put_metric_data import Connection
from tests.concurrency.threads import FOREVER_SECONDS, PATIENCE_SECONDS, begin
from tests.helpers import LONGEST_FIRST_OPENING, NAMESPACE, assert_balanced
from tests.network.proxy import (
    HOST,
    LATIN_1,
    PORTAL,
    Proxy,
    answer_with,
    certificate,
    cut_answer,
    drip,
    keep_waiting,
    page,
    pass_on,
    pour,
    present,
    reset_after_accepting,
    reset_in_the_request,
    upload_slowly,
)
from tests.sinks.otlp_receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from retainwise_metrics.testing import ManualRuntime
    from tests.network.proxy import Behaviour, Link

    Connect = Callable[..., CloudWatchMetrics]

READ_TIMEOUT_SECONDS = 0.6
RECORDS = 100
CHATTY = ("boto3", "botocore", "urllib3")
JSON = b"application/json"
PROTOBUF = b"application/x-protobuf"
BARE_200 = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
EXPIRED = page("403 Forbidden", b"{}", b"x-amzn-ErrorType: ExpiredTokenException:http://x/", kind=JSON)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An OTLP endpoint."""
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def proxy(receiver: Receiver) -> Iterator[Proxy]:
    """The network in front of it."""
    with Proxy(int(receiver.url.rpartition(":")[2])) as between:
        yield between


@pytest.fixture
def connect(connect: Connect) -> Connect:
    """Make clients that send OTLP through that network."""
    return partial(connect, sink="otlp")


class Fault(NamedTuple):
    """
    What goes wrong.

    Attributes:
        behaviour: What the network does with a request.
        ambiguous: Whether the endpoint has accepted it all the same, which the client cannot know.
        doubtful: Whether the client has to allow for that: it gives up what must not arrive twice.
    """

    behaviour: Behaviour
    ambiguous: bool = False
    doubtful: bool = True


def short_by_one(link: Link, request: bytes) -> None:
    """The endpoint accepts; its answer says that there is a byte to come, and none does."""
    answer = link.ask(request)
    link.client.sendall(answer.replace(b"Content-Length: 0", b"Content-Length: 1"))
    link.close()
    raise ConnectionError


FAULTS = {
    "reset in the middle of the request": Fault(reset_in_the_request),
    "reset after the endpoint has accepted": Fault(reset_after_accepting, ambiguous=True),
    "a black hole": Fault(keep_waiting),
    "an answer without end, byte by byte": Fault(drip, ambiguous=True),
    "an answer without end, at full speed": Fault(pour),
    "a request that creeps": Fault(upload_slowly),
    "an answer cut in its first line": Fault(cut_answer(lambda _: 7), ambiguous=True),
    "an answer cut in its headers": Fault(cut_answer(lambda answer: answer.index(b"Content-Type")), ambiguous=True),
    "no answer at all": Fault(cut_answer(lambda _: 0), ambiguous=True),
    "a captive portal": Fault(answer_with(page("200 OK", PORTAL))),
    "a captive portal, in Latin-1": Fault(answer_with(page("200 OK", LATIN_1))),
    "a portal that calls itself JSON": Fault(answer_with(page("200 OK", PORTAL, kind=JSON))),
    "a portal that calls itself JSON, in Latin-1": Fault(answer_with(page("200 OK", LATIN_1, kind=JSON))),
    "a portal that calls itself protobuf": Fault(answer_with(page("200 OK", PORTAL, kind=PROTOBUF))),
    "a portal without a word": Fault(answer_with(BARE_200)),
    "a portal's 204": Fault(answer_with(b"HTTP/1.1 204 No Content\r\n\r\n")),
    "a portal that forwards": Fault(
        answer_with(page("302 Found", PORTAL, b"Location: http://127.0.0.1:9/")), doubtful=False
    ),
    "a portal that knows the RFC": Fault(answer_with(page("511 Network Authentication Required", PORTAL))),
    "a stranger's JSON": Fault(answer_with(page("200 OK", b'{"status": "ok"}', kind=JSON))),
    "no JSON object": Fault(answer_with(page("200 OK", b"[]", kind=JSON))),
    "a partial success that is none": Fault(answer_with(page("200 OK", b'{"partialSuccess": 5}', kind=JSON))),
    "JSON without a bottom": Fault(answer_with(page("200 OK", b"[" * 200_000, kind=JSON))),
    "another protobuf message": Fault(answer_with(page("200 OK", b"123456789", kind=PROTOBUF))),
    "an answer that is shorter than it says": Fault(short_by_one, ambiguous=True),
    "a proxy's 400": Fault(answer_with(page("400 Bad Request", PORTAL)), doubtful=False),
    "a proxy's 400, in Latin-1": Fault(answer_with(page("400 Bad Request", LATIN_1, kind=JSON)), doubtful=False),
    "a stranger's error": Fault(answer_with(page("400 Bad Request", b'{"__type": 5}', kind=JSON)), doubtful=False),
    "a stranger's 422": Fault(answer_with(page("422 Unprocessable", b"[[[", kind=PROTOBUF)), doubtful=False),
    "a proxy's refusal, in Latin-1": Fault(answer_with(page("403 Forbidden", LATIN_1)), doubtful=False),
    "a proxy's error, in Latin-1": Fault(answer_with(page("502 Bad Gateway", LATIN_1))),
    "no room at the moment": Fault(answer_with(page("503 Service Unavailable", PORTAL)), doubtful=False),
    "another protocol": Fault(answer_with(b"SSH-2.0-OpenSSH_9.6\r\n")),
}


def record(client: CloudWatchMetrics, count: int = RECORDS) -> None:
    """Each of them is taken."""
    assert sum(client.put_metric("M", value % 100) for value in range(count)) == count


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_delays_and_never_drops(
    name: str, connect: Connect, runtime: ManualRuntime, receiver: Receiver, proxy: Proxy
) -> None:
    """What the endpoint has counted is what the client says; it is more only where the answer to an accepted call was lost."""
    fault = FAULTS[name]
    client = connect(read_timeout_seconds=READ_TIMEOUT_SECONDS, failure_threshold=1)
    proxy.break_down(fault.behaviour)
    record(client)
    runtime.advance(60.0)
    stats = client.stats()
    assert (stats.breaker_state, stats.failed_calls) == (BreakerState.OPEN, 1), stats
    assert stats[:4] == (RECORDS, 0, RECORDS, {})
    record(client)  # while it is open: taken as ever
    runtime.advance(LONGEST_FIRST_OPENING)
    assert client.stats().failed_calls == 2, "one probe, and only one"
    assert client.stats()[:4] == (2 * RECORDS, 0, 2 * RECORDS, {})
    assert proxy.struck == 2
    proxy.heal()
    runtime.advance(2 * LONGEST_FIRST_OPENING)
    assert client.flush(FOREVER_SECONDS)
    assert client.stats()[:4] == (2 * RECORDS, 2 * RECORDS, 0, {})
    assert client.stats().breaker_state is BreakerState.CLOSED
    assert_balanced(client)
    assert receiver.count("M") == 2 * RECORDS + (proxy.struck * RECORDS if fault.ambiguous else 0)


@pytest.mark.parametrize("name", FAULTS)
def test_at_most_once_nothing_arrives_twice(
    name: str, connect: Connect, runtime: ManualRuntime, receiver: Receiver, proxy: Proxy
) -> None:
    """What may have arrived is given up as in doubt and said to be; whatever else fails is delivered later."""
    fault = FAULTS[name]
    client = connect(read_timeout_seconds=READ_TIMEOUT_SECONDS, delivery="at-most-once")
    proxy.break_down(fault.behaviour)
    record(client)
    runtime.advance(60.0)
    proxy.heal()
    record(client)
    runtime.advance(2 * LONGEST_FIRST_OPENING)
    assert client.flush(FOREVER_SECONDS)
    assert client.stats().dropped == ({DropReason.IN_DOUBT: RECORDS} if fault.doubtful else {})
    assert receiver.count("M") == (2 * RECORDS if fault.ambiguous or not fault.doubtful else RECORDS)
    assert_balanced(client)


def test_at_most_once_what_never_left_is_sent_again(
    connect: Connect, runtime: ManualRuntime, receiver: Receiver, proxy: Proxy
) -> None:
    """Nobody listens on the port, or nobody takes part in its TLS: there is no doubt, and nothing is given up."""
    for url in (proxy.url, proxy.url.replace("http:", "https:")):
        client = connect(endpoint_url=url, delivery="at-most-once", connect_timeout_seconds=1.0, failure_threshold=1)
        if url == proxy.url:
            proxy.refuse()
        record(client)
        runtime.advance(60.0)
        stats = client.stats()
        assert (stats.breaker_state, stats.failed_calls) == (BreakerState.OPEN, 1), stats
        assert stats[:4] == (RECORDS, 0, RECORDS, {})
        if url == proxy.url:
            proxy.accept()
            runtime.advance(LONGEST_FIRST_OPENING)
            assert client.stats()[:4] == (RECORDS, RECORDS, 0, {})
    assert receiver.count("M") == RECORDS


def test_a_strangers_413_splits_and_drops_nothing(
    connect: Connect, runtime: ManualRuntime, receiver: Receiver, proxy: Proxy
) -> None:
    """A proxy may well allow less than the endpoint; but that a single datum is too large is nothing it can know."""
    client = connect()
    proxy.break_down(answer_with(page("413 Content Too Large", PORTAL)))
    for series in range(4):
        client.put_metric("M", series, dimensions={"Series": f"s{series}"})
    runtime.advance(60.0)
    assert client.stats()[:4] == (4, 0, 4, {})
    proxy.heal()
    runtime.advance(2 * LONGEST_FIRST_OPENING)
    assert client.flush(FOREVER_SECONDS)
    assert client.stats()[:4] == (4, 4, 0, {})
    assert receiver.count("M") == 4


@pytest.mark.parametrize("setting", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "profile"])
def test_a_certificate_of_the_companys_own(
    setting: str,
    connect: Connect,
    runtime: ManualRuntime,
    receiver: Receiver,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is trusted if the settings say so that boto3 goes by; another one in its place gets nothing."""
    right, wrong = certificate(tmp_path, HOST), certificate(tmp_path, "192.0.2.1")
    if setting == "profile":
        (tmp_path / "config").write_text(f"[default]\nca_bundle = {right}\n")
    else:
        monkeypatch.setenv(setting, str(right))
    proxy.tls = present(wrong)
    client = connect()
    record(client)
    runtime.advance(60.0)
    assert "SSLError" in (client.stats().last_error or "")
    assert proxy.requests == []
    proxy.tls = present(right)
    runtime.advance(LONGEST_FIRST_OPENING)
    assert client.stats()[:4] == (RECORDS, RECORDS, 0, {})
    assert receiver.count("M") == RECORDS


def test_the_way_leads_through_a_proxy(connect: Connect, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the environment says, and boto3 does."""
    monkeypatch.setenv("HTTP_PROXY", receiver.url)
    client = connect(endpoint_url="http://collector.test:4318")
    record(client)
    assert client.flush(FOREVER_SECONDS).delivered == RECORDS
    assert receiver.count("M") == RECORDS
    monkeypatch.setenv("NO_PROXY", "collector.test")
    direct = connect(endpoint_url="http://collector.test:4318")
    record(direct)
    assert direct.flush(1.0).delivered == 0


# ---- deadlines, on real threads ----

STUCK = {"a black hole": keep_waiting, "a slow loris": drip, "a request that creeps": upload_slowly}


@pytest.mark.parametrize("name", STUCK)
def test_who_sends_at_once_is_held_no_longer_than_the_timeout(name: str, connect: Connect, proxy: Proxy) -> None:
    """`put_metric_sync` waits for the network, but not for somebody who sends a byte now and then for ever."""
    client = connect(runtime=None, read_timeout_seconds=0.2)
    proxy.break_down(STUCK[name])
    assert begin(partial(client.put_metric_sync, "M", 1)).result(PATIENCE_SECONDS) is False
    assert not proxy.healed.is_set()
    assert "Timeout" in (client.stats().last_error or "")
    assert client.stats().dropped == {DropReason.NOT_SENT: 1}


def test_an_endless_answer_ends_before_its_time(connect: Connect, proxy: Proxy) -> None:
    """It is bounded in size, too: whoever sends as fast as it can does not fill the memory until the timeout."""
    client = connect(runtime=None, read_timeout_seconds=PATIENCE_SECONDS)
    proxy.break_down(pour)
    assert begin(partial(client.put_metric_sync, "M", 1)).result(2 * PATIENCE_SECONDS) is False
    assert not proxy.healed.is_set()
    assert "Timeout" not in (client.stats().last_error or "Timeout")


def test_a_slow_answer_leaves_nothing_behind_for_the_next_call(
    connect: Connect, proxy: Proxy, receiver: Receiver
) -> None:
    """The time that an answer had left is not the timeout of the next request on the same connection."""
    client = connect()
    timeouts: list[float | None] = []
    for value in range(3):
        client.put_metric("M", value)
        assert client.flush(FOREVER_SECONDS)
        pools = client._pipeline._sink._wire.session._manager.pools
        (pool,) = [pools[key] for key in pools.keys()]  # noqa: SIM118 - not a dict
        connection = pool.pool.get_nowait()
        timeouts.append(connection.sock.gettimeout())
        pool.pool.put(connection)
    assert timeouts == [10.0, 10.0, 10.0]
    assert pool.num_connections == 1
    assert receiver.count("M") == 3


# ---- credentials ----


def only_for(key_id: str) -> Behaviour:
    """Whoever signs with another key is told that it has expired."""

    def behave(link: Link, request: bytes) -> None:
        if f"Credential={key_id}/".encode() in request:
            pass_on(link, request)
        else:
            link.client.sendall(EXPIRED)

    return behave


@pytest.fixture
def _no_keys_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would win over all others."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def write_keys(folder: Path, key_id: str) -> None:
    """What a sidecar, or `aws sso login`, leaves on disk."""
    text = f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = x\naws_session_token = t\n"
    (folder / "credentials").write_text(text, encoding="utf-8")


@pytest.mark.usefixtures("_no_keys_in_the_environment")
def test_credentials_that_appear_late(
    connect: Connect, runtime: ManualRuntime, receiver: Receiver, tmp_path: Path
) -> None:
    """Without any the breaker opens at once; when they are there, what was held is delivered, without a restart."""
    client = connect()
    client.put_metric("M", 1)
    runtime.advance(60.0)
    assert (client.stats().breaker_state, client.stats().failed_calls) == (BreakerState.OPEN, 1)
    assert "credentials" in (client.stats().last_error or "")
    write_keys(tmp_path, "AKIDLATE")
    runtime.advance(LONGEST_FIRST_OPENING)
    assert client.stats()[:4] == (1, 1, 0, {})
    assert receiver.count("M") == 1


@pytest.mark.usefixtures("_no_keys_in_the_environment")
def test_keys_in_a_file_that_expire_and_are_replaced(
    connect: Connect, runtime: ManualRuntime, receiver: Receiver, proxy: Proxy, tmp_path: Path
) -> None:
    """The file is read once per session; the new keys are found all the same."""
    write_keys(tmp_path, "AKIDOLD")
    client = connect()
    client.put_metric("M", 1)
    assert client.flush(FOREVER_SECONDS)
    proxy.break_down(only_for("AKIDNEW"))
    client.put_metric("M", 2)
    runtime.advance(60.0)
    stats = client.stats()
    assert (stats.breaker_state, stats.failed_calls, stats.pending) == (BreakerState.OPEN, 3, 1)
    assert "ExpiredToken" in (stats.last_error or "")
    write_keys(tmp_path, "AKIDNEW")
    runtime.advance(LONGEST_FIRST_OPENING)
    assert client.stats()[:4] == (2, 2, 0, {})
    assert client.stats().breaker_state is BreakerState.CLOSED
    assert receiver.count("M") == 2


@pytest.mark.usefixtures("_no_keys_in_the_environment")
def test_refused_credentials_cost_one_session_per_refusal(
    connect: Connect, proxy: Proxy, receiver: Receiver, tmp_path: Path
) -> None:
    """While they are good the session is kept, and other errors do not cost it."""
    write_keys(tmp_path, "AKID")
    client = connect()
    sink = client._pipeline._sink
    used: list[object] = []
    for answer in (None, page("503 Service Unavailable", b""), page("429 Too Many Requests", b"")):
        proxy.break_down(answer_with(answer) if answer else pass_on)
        client.put_metric_sync("M", 1)
        used.append(sink._wire)
    assert used[0] is used[1] is used[2] is not None
    proxy.break_down(answer_with(page("401 Unauthorized", b"")))
    client.put_metric_sync("M", 1)
    assert sink._wire is None
    assert_balanced(client)


@pytest.mark.usefixtures("_no_keys_in_the_environment")
@pytest.mark.parametrize("said", ["sys.exit('hunter2')", "print('hunter2')"], ids=["fails", "says nonsense"])
def test_a_credential_process_that_fails_when_it_is_asked_again(
    said: str, connect: Connect, runtime: ManualRuntime, receiver: Receiver, tmp_path: Path
) -> None:
    """The batch is not at fault and is kept; what the process says meanwhile is not repeated: it may be half of a secret."""
    program, broken = tmp_path / "program.py", tmp_path / "broken"
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 300))  # boto3 must renew ten minutes before
    keys = {"AccessKeyId": "AKID", "SecretAccessKey": "x", "SessionToken": "t", "Expiration": soon, "Version": 1}
    program.write_text(
        f"import os, sys\nif os.path.exists({str(broken)!r}):\n    {said}\nelse:\n    print({json.dumps(keys)!r})\n",
        encoding="utf-8",
    )
    command = f'"{sys.executable}" -I -S "{program}"'
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {command}\n", encoding="utf-8")
    client = connect()
    client.put_metric("M", 1)
    assert client.flush(FOREVER_SECONDS), client.stats()
    broken.touch()
    client.put_metric("M", 2)
    runtime.advance(60.0)
    assert client.stats()[:4] == (2, 1, 1, {})
    assert client.stats().breaker_state is BreakerState.OPEN
    assert "hunter2" not in (client.stats().last_error or "")
    broken.unlink()
    runtime.advance(LONGEST_FIRST_OPENING)
    assert client.stats()[:4] == (2, 2, 0, {})
    assert receiver.count("M") == 2


# ---- what is said, and what is not ----


@pytest.mark.parametrize("variable", ["AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"])
def test_a_secret_that_is_no_header_is_not_shown(
    variable: str,
    connect: Connect,
    runtime: ManualRuntime,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A newline at the end of a mounted secret is common; the exception that says so repeats the secret."""
    monkeypatch.setenv(variable, "hunter2\nhunter2")
    caplog.set_level("DEBUG")
    client = connect(delivery="at-most-once")
    client.put_metric("M", 1)
    runtime.advance(60.0)
    assert (client.stats().breaker_state, client.stats().pending) == (BreakerState.OPEN, 1)
    said = [line.getMessage() for line in caplog.records]
    assert [line for line in said if "circuit breaker is now open" in line]
    assert "hunter2" not in repr([said, client.stats(), client])


@pytest.mark.parametrize(
    "url",
    [
        "http://jane:hunter2@127.0.0.1:{}",
        "http://127.0.0.1:{}/receiver/hunter2/v1/metrics",
        "http://127.0.0.1:{}/v1/metrics?key=hunter2",
    ],
    ids=["password", "path", "query"],
)
def test_a_secret_in_the_endpoint_is_not_shown(
    url: str, connect: Connect, runtime: ManualRuntime, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the URL is repeated that could not be reached; collectors for hire put their keys into it."""
    proxy.refuse()
    client = connect(endpoint_url=url.format(proxy.port))
    client.put_metric("M", 1)
    runtime.advance(60.0)
    assert f"127.0.0.1:{proxy.port}" in (client.stats().last_error or "")
    said = [line.getMessage() for line in caplog.records]
    assert said
    assert "hunter2" not in repr([said, client.stats()])
    proxy.accept()


STRANGERS = {
    "a line of its own": page("400 Bad Request", b'{"__type": "a\\n2026-01-01 CRITICAL hunter2"}', kind=JSON),
    "a header": page("400 Bad Request", b"", b"x-amzn-ErrorType: x hunter2"),
    "a long name": page("500 Oh", json.dumps({"code": "hunter2" * 50}).encode(), kind=JSON),
    "a reason": b"HTTP/1.1 500 hunter2\r\nContent-Length: 7\r\n\r\nhunter2",
    "a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhunter2\r\n",
    "a status": page("400 Bad Request", b"\x08\x03\x12\x07hunter2", kind=PROTOBUF),
    "another protocol": b"hunter2 hunter2\r\n\r\n",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_what_is_answered_is_not_repeated(
    name: str, connect: Connect, runtime: ManualRuntime, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody writes lines of their own into the log, or gets a header of the request repeated there."""
    proxy.break_down(answer_with(STRANGERS[name]))
    client = connect(read_timeout_seconds=READ_TIMEOUT_SECONDS)
    client.put_metric("M", 1)
    runtime.advance(60.0)
    assert client.stats().last_error
    said = [line.getMessage() for line in caplog.records]
    assert "hunter2" not in repr([said, client.stats()])
    assert not [line for line in said if "\n" in line]


def test_settings_that_cannot_be_used_are_said_without_secrets() -> None:
    """The endpoint of a session that cannot be made."""

    def make_session(connection: Connection) -> Any:
        message = f"Invalid endpoint: {connection.endpoint_url}"
        raise ValueError(message)

    sink = OtlpSink(Connection("eu-west-1", "http://jane:hunter2@collector:4318/hunter2"), make_session=make_session)
    series = Series(NAMESPACE, "M", (), "Count", 60)
    with pytest.raises(SinkForbidden, match="collector:4318") as caught:
        sink.send(Batch(NAMESPACE, (Datum(series, 1_767_225_600, (1.0,), (1,), 1),), 0))
    assert "hunter2" not in str(caught.value)


def test_the_librarys_own_calls_are_mute_and_others_are_not(
    connect: Connect, proxy: Proxy, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """At DEBUG a call, and the session it is made with, say nothing; the application's own use of boto3 meanwhile is heard."""
    caplog.set_level(logging.DEBUG)
    client = connect(runtime=None, read_timeout_seconds=PATIENCE_SECONDS)
    client.put_metric("M", 1)
    assert client.flush(FOREVER_SECONDS)
    proxy.break_down(keep_waiting)
    client.put_metric("M", 2)
    flushing = begin(partial(client.flush, FOREVER_SECONDS))
    assert proxy.wait_until(lambda: proxy.struck == 1)
    logging.getLogger("botocore.auth").debug("of the application")
    proxy.heal()
    flushing.result(PATIENCE_SECONDS)
    assert client.flush(FOREVER_SECONDS)
    logging.getLogger("urllib3.connectionpool").debug("afterwards")
    heard = [line.getMessage() for line in caplog.records if line.name.startswith(CHATTY)]
    assert heard == ["of the application", "afterwards"]
    assert receiver.count("M") == 2


def test_not_even_the_first_call_of_a_process_is_heard(proxy: Proxy, receiver: Receiver) -> None:
    """Loggers come into being when boto3 is imported, which the first call does; the root logger was at DEBUG long before."""
    program = f"""
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(name)s %(message)s")
from retainwise_metrics import CloudWatchMetrics, MetricsConfig
assert "botocore" not in sys.modules
client = CloudWatchMetrics(MetricsConfig(sink="otlp", region="us-east-1", endpoint_url={proxy.url!r}))
client.put_metric("M", 1)
assert client.stop({PATIENCE_SECONDS})
assert client.stats().delivered == 1
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=2 * PATIENCE_SECONDS, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [line for line in ended.stdout.splitlines() if line.startswith(CHATTY)] == []
    assert receiver.count("M") == 1
