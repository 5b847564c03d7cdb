"""
Every way in which the fake CloudWatch can be made to fail, as a real boto3 client sees it.
"""

from __future__ import annotations

import gc
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError, ReadTimeoutError

from retainwise_metrics.testing._fake_wire import WireServer
from retainwise_metrics.testing.fake_cloudwatch import FakeCloudWatch

NOW = 1_700_000_040.0
GOOD = {"MetricName": "Uploads", "Value": 1.0}


@pytest.fixture
def client(cloudwatch, connect):
    """
    A client of the fresh server.
    """
    with connect(cloudwatch) as made:
        yield made


def put(client, *data):
    """
    Send datums in one call; a good one when none is given.
    """
    return client.put_metric_data(Namespace="Test", MetricData=list(data or [GOOD]))


def refused(client, *data):
    """
    The error a call ends with: code, status, and the headers of the answer.
    """
    with pytest.raises(ClientError) as caught:
        put(client, *data)
    response = caught.value.response
    metadata = response["ResponseMetadata"]
    return response["Error"]["Code"], metadata["HTTPStatusCode"], metadata["HTTPHeaders"]


@pytest.fixture
def pool():
    """
    Threads for calls that are meant to wait.
    """
    with ThreadPoolExecutor(8) as executor:
        yield executor


def stored(cloudwatch):
    """
    How many measurements were accepted.
    """
    return cloudwatch.total_count()


def outcomes(cloudwatch):
    """
    What became of each call.
    """
    return [(call.status, call.error_code, call.accepted) for call in cloudwatch.calls]


ANSWERS = {
    "throttle": (lambda faults, n: faults.throttle(n), "Throttling", 400),
    "throttle by shape": (lambda faults, n: faults.throttle(n, code="ThrottlingException"), "ThrottlingException", 400),
    "internal failure": (lambda faults, n: faults.fail(n=n), "InternalServiceError", 500),
    "unavailable": (lambda faults, n: faults.fail(503, n), "ServiceUnavailable", 503),
    "bad gateway": (lambda faults, n: faults.fail(502, n), "502", 502),
    "gateway timeout": (lambda faults, n: faults.fail(504, n), "504", 504),
    "too large for a proxy": (lambda faults, n: faults.fail(413, n), "413", 413),
    "denied": (lambda faults, n: faults.deny(n=n), "AccessDenied", 403),
    "expired": (lambda faults, n: faults.deny("ExpiredToken", n, status=400), "ExpiredToken", 400),
    "portal with an error": (lambda faults, n: faults.html(511, n), "511", 511),
}


@pytest.mark.parametrize(("inject", "code", "status"), ANSWERS.values(), ids=ANSWERS.keys())
def test_an_error_strikes_as_often_as_it_was_told_to(cloudwatch, client, inject, code, status):
    """
    boto3 sees its code and status, nothing is stored, and the request after the last of them is normal.
    """
    inject(cloudwatch.faults, 2)

    assert [refused(client)[:2] for _ in range(2)] == [(code, status)] * 2
    assert stored(cloudwatch) == 0
    put(client)
    assert stored(cloudwatch) == 1
    assert [call.status for call in cloudwatch.calls] == [status, status, 200]
    assert sum(cloudwatch.faults.injected.values()) == 2


@pytest.mark.parametrize(("inject", "code", "status"), ANSWERS.values(), ids=ANSWERS.keys())
def test_an_error_without_a_number_strikes_until_it_is_cleared(cloudwatch, client, inject, code, status):
    """
    `clear()` makes the next request normal.
    """
    inject(cloudwatch.faults, None)

    assert {refused(client)[:2] for _ in range(3)} == {(code, status)}
    cloudwatch.faults.clear()
    put(client)
    assert stored(cloudwatch) == 1


def test_throttling_can_ask_for_patience(cloudwatch, client):
    """
    HTTP gets whole seconds, rounded up, and the SDKs get milliseconds.
    """
    cloudwatch.faults.throttle(1, retry_after_seconds=2.5).throttle(1)

    _, _, asked = refused(client)
    _, _, plain = refused(client)

    assert (asked["retry-after"], asked["x-amz-retry-after"]) == ("3", "2500")
    assert not {"retry-after", "x-amz-retry-after"} & plain.keys()


def test_a_captive_portal_looks_like_success_without_a_request_id(cloudwatch, client):
    """
    Nothing is stored, boto3 raises nothing, and only the missing RequestId tells.
    """
    cloudwatch.faults.html(n=1)

    metadata = put(client)["ResponseMetadata"]

    assert metadata["HTTPStatusCode"] == 200
    assert "RequestId" not in metadata
    assert stored(cloudwatch) == 0
    assert outcomes(cloudwatch) == [(200, "html", False)]


@pytest.mark.parametrize(("after_accept", "expected"), [(False, 0), (True, 1)])
def test_a_cut_connection_may_or_may_not_have_delivered(cloudwatch, client, after_accept, expected):
    """
    The client sees the same in both cases: the connection was closed.
    """
    cloudwatch.faults.cut(1, after_accept=after_accept)

    with pytest.raises(ConnectionClosedError):
        put(client)

    assert stored(cloudwatch) == expected
    assert outcomes(cloudwatch) == [(0, "cut", after_accept)]
    put(client)
    assert stored(cloudwatch) == expected + 1


def test_a_cut_after_acceptance_stores_only_what_is_acceptable(cloudwatch, client):
    """
    Data that breaks a rule is not stored by a fault either.
    """
    cloudwatch.faults.cut(1, after_accept=True)

    with pytest.raises(ConnectionClosedError):
        put(client, {**GOOD, "Unit": "Bananas"})

    assert stored(cloudwatch) == 0
    assert outcomes(cloudwatch) == [(0, "cut", False)]


def test_hanging_requests_go_on_when_released(cloudwatch, client, pool):
    """
    Clients that still wait get their answer, the data is stored once, and their calls become normal ones.
    """
    cloudwatch.faults.hang()
    waiting = [pool.submit(put, client) for _ in range(3)]
    assert cloudwatch.wait_for_calls(3)
    assert outcomes(cloudwatch) == [(0, "hang", False)] * 3
    assert cloudwatch.faults.held == 3
    assert stored(cloudwatch) == 0

    cloudwatch.faults.release()

    assert all(call.result(5)["ResponseMetadata"]["RequestId"] for call in waiting)
    assert outcomes(cloudwatch) == [(200, "", True)] * 3
    assert cloudwatch.faults.held == 0
    put(client)
    assert stored(cloudwatch) == 4


def test_a_client_that_gave_up_on_a_hanging_request_is_forgotten(cloudwatch, connect):
    """
    Its data is not stored later, when the server recovers.
    """
    cloudwatch.faults.hang(1)
    with connect(cloudwatch, read_timeout=0.05) as impatient, pytest.raises(ReadTimeoutError):
        put(impatient)

    cloudwatch.faults.release()

    assert cloudwatch.wait_until(lambda: cloudwatch.faults.held == 0)
    assert stored(cloudwatch) == 0
    assert outcomes(cloudwatch) == [(0, "hang", False)]


def test_a_hanging_request_may_have_been_stored(cloudwatch, connect):
    """
    The client cannot know: a retry counts twice.
    """
    cloudwatch.faults.hang(1, after_accept=True)
    with connect(cloudwatch, read_timeout=0.05) as impatient:
        with pytest.raises(ReadTimeoutError):
            put(impatient)
        put(impatient)

    assert stored(cloudwatch) == 2
    assert outcomes(cloudwatch) == [(0, "hang", True), (200, "", True)]


def test_a_request_that_was_stored_before_it_hung_is_stored_once(cloudwatch, client, pool):
    """
    Being released only answers it.
    """
    cloudwatch.faults.hang(1, after_accept=True)
    waiting = pool.submit(put, client)
    assert cloudwatch.wait_until(lambda: cloudwatch.faults.held == 1)

    cloudwatch.faults.release()

    assert waiting.result(5)
    assert stored(cloudwatch) == 1
    assert outcomes(cloudwatch) == [(200, "", True)]


@pytest.mark.parametrize("after_accept", [False, True])
def test_stopping_ends_hanging_requests_at_once(connect, pool, after_accept):
    """
    `stop()` does not wait for a release, the clients see a closed connection, and no thread stays behind.
    """
    server = FakeCloudWatch(now=lambda: NOW).start()
    server.faults.hang(after_accept=after_accept)
    with connect(server) as client:
        waiting = [pool.submit(put, client) for _ in range(4)]
        assert server.wait_until(lambda: server.faults.held == 4)
        began = monotonic()
        server.stop()
        took = monotonic() - began

    assert all(isinstance(call.exception(5), ConnectionClosedError) for call in waiting)
    assert took < 2.0
    assert stored(server) == (4 if after_accept else 0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fake-cloudwatch")]


def test_stopping_ends_slow_requests_at_once(connect, pool):
    """
    An hour of slowness does not keep the server alive, and its data is not stored.
    """
    server = FakeCloudWatch(now=lambda: NOW).start()
    server.faults.slow(3600)
    with connect(server) as client:
        waiting = pool.submit(put, client)
        assert server.wait_until(lambda: server.faults.held == 1)
        server.stop()

    assert isinstance(waiting.exception(5), ConnectionClosedError)
    assert stored(server) == 0


def raw(server):
    """
    A plain connection, for what boto3 would never send.
    """
    return socket.create_connection(("127.0.0.1", int(server.endpoint_url.rpartition(":")[2])), timeout=5)


def test_stopping_in_the_middle_of_a_request_does_not_wait_for_the_rest():
    """
    A client that never finishes its request cannot hold the server.
    """
    server = FakeCloudWatch().start()
    with raw(server) as half:
        half.sendall(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
        began = monotonic()
        server.stop()

    assert monotonic() - began < 2.0
    assert server.calls == []


def test_a_request_that_ends_in_the_middle_is_no_call(cloudwatch):
    """
    A client that goes away while sending gets no answer, and nothing is recorded.
    """
    with raw(cloudwatch) as half:
        half.sendall(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
        half.shutdown(socket.SHUT_WR)
        assert half.recv(1) == b""

    assert cloudwatch.calls == []


def test_a_request_without_a_length_is_refused(cloudwatch):
    """
    Chunked bodies are not read, and the client is told so.
    """
    with raw(cloudwatch) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 411"


def test_a_port_that_is_taken_is_an_error_and_leaks_nothing(cloudwatch):
    """
    The sockets made until then are closed again: one that is not would warn, and warnings are errors.
    """
    port = int(cloudwatch.endpoint_url.rpartition(":")[2])

    with pytest.raises(OSError, match="in use"):
        WireServer(cloudwatch, port=port)
    gc.collect()


def test_a_slow_server_treats_requests_normally_in_the_end(connect):
    """
    What it waits with can be given, so that tests do not wait.
    """
    waited = []
    with FakeCloudWatch(now=lambda: NOW, wait=waited.append) as server, connect(server) as client:
        server.faults.slow(30.0, n=2)
        for _ in range(3):
            put(client)

        assert waited == [30.0, 30.0]
        assert outcomes(server) == [(200, "", True)] * 3
        assert stored(server) == 3


def test_a_slow_server_really_waits(cloudwatch, client):
    """
    Without anything given the answer comes after the time.
    """
    cloudwatch.faults.slow(0.05, n=1)
    began = monotonic()

    put(client)

    assert monotonic() - began >= 0.05
    assert stored(cloudwatch) == 1


def test_clearing_ends_slowness(cloudwatch, client, pool):
    """
    A request that is being held goes on at once.
    """
    cloudwatch.faults.slow(3600)
    waiting = pool.submit(put, client)
    assert cloudwatch.wait_until(lambda: cloudwatch.faults.held == 1)

    cloudwatch.faults.clear()

    assert waiting.result(5)
    assert stored(cloudwatch) == 1


def test_poison_refuses_every_request_that_contains_it(cloudwatch, client):
    """
    The message names the members, and the rest of the data passes without them.
    """
    cloudwatch.faults.poison(lambda datum: datum["MetricName"] == "Bad")
    bad = {"MetricName": "Bad", "Value": 1.0}

    with pytest.raises(ClientError) as caught:
        put(client, GOOD, bad, GOOD, bad)

    error = caught.value.response["Error"]
    assert error["Code"] == "InvalidParameterValue"
    assert error["Message"].splitlines() == [
        "The value for parameter MetricData.member.2.Value is invalid.",
        "The value for parameter MetricData.member.4.Value is invalid.",
    ]
    put(client, GOOD, GOOD)
    assert stored(cloudwatch) == 2
    assert cloudwatch.faults.injected == {"poison": 1}


def test_poison_can_be_nameless(cloudwatch, client):
    """
    Then the message helps nobody, and the culprit has to be found by halving.
    """
    cloudwatch.faults.poison(lambda datum: datum["Value"] > 5, name_member=False)

    with pytest.raises(ClientError) as caught:
        put(client, GOOD, {"MetricName": "Bad", "Value": 6.0})

    error = caught.value.response["Error"]
    assert error["Code"] == "InvalidParameterValue"
    assert "member" not in error["Message"]
    cloudwatch.faults.clear()
    put(client, GOOD, {"MetricName": "Bad", "Value": 6.0})
    assert stored(cloudwatch) == 2


def test_a_mistake_in_a_predicate_is_raised_at_the_end(connect):
    """
    The client sees an error that says so, and the with statement raises the exception itself.
    """

    def with_a_mistake():
        with FakeCloudWatch(now=lambda: NOW) as server, connect(server) as client:
            server.faults.poison(lambda datum: datum["Missing"])
            assert refused(client)[:2] == ("FakeCloudWatchFailed", 500)

    with pytest.raises(KeyError, match="Missing"):
        with_a_mistake()


def test_a_mistake_in_a_predicate_does_not_hide_a_failing_test(connect):
    """
    When the body of the with statement has raised, its exception is the one that is seen.
    """

    def with_two_mistakes():
        with FakeCloudWatch(now=lambda: NOW) as server, connect(server) as client:
            server.faults.poison(lambda datum: datum["Missing"])
            refused(client)
            message = "the test failed"
            raise AssertionError(message)

    with pytest.raises(AssertionError, match="the test failed"):
        with_two_mistakes()


def test_refused_connections_come_back_on_the_same_port(cloudwatch, client):
    """
    Even a client with a connection in its pool is refused, as often as it tries, until connections are accepted again.
    """
    put(client)
    url = cloudwatch.endpoint_url
    cloudwatch.faults.refuse_connections().refuse_connections()
    for _ in range(3):
        with pytest.raises(EndpointConnectionError):
            put(client)
    assert cloudwatch.endpoint_url == url

    cloudwatch.faults.accept_connections().accept_connections()

    put(client)
    assert cloudwatch.endpoint_url == url
    assert stored(cloudwatch) == 2


def test_refusing_connections_ends_hanging_requests(cloudwatch, client, pool):
    """
    A server that goes down takes its requests with it; `clear()` brings it up again.
    """
    cloudwatch.faults.hang(1)
    waiting = pool.submit(put, client)
    assert cloudwatch.wait_until(lambda: cloudwatch.faults.held == 1)

    cloudwatch.faults.refuse_connections()

    assert isinstance(waiting.exception(5), ConnectionClosedError)
    cloudwatch.faults.clear()
    put(client)
    assert stored(cloudwatch) == 1


def test_a_server_that_refuses_connections_can_be_stopped(connect):
    """
    And started again, it accepts them.
    """
    server = FakeCloudWatch(now=lambda: NOW).start()
    server.faults.refuse_connections()
    server.stop()
    server.faults.accept_connections()

    with server, connect(server) as client:
        put(client)

    assert stored(server) == 1


def test_faults_with_a_number_are_a_script(cloudwatch, client):
    """
    They strike one after the other, in the order in which they were set, with gaps where there is an `ok`.
    """
    cloudwatch.faults.throttle(2).ok().fail(503, 1).ok(2).deny(n=1)

    for code in ("Throttling", "Throttling", "", "ServiceUnavailable", "", "", "AccessDenied", ""):
        if code:
            assert refused(client)[0] == code
        else:
            put(client)

    assert [call.error_code for call in cloudwatch.rejected_calls] == ["Throttling"] * 2 + [
        "ServiceUnavailable",
        "AccessDenied",
    ]
    assert cloudwatch.faults.injected == {"throttle": 2, "fail": 1, "deny": 1}
    assert stored(cloudwatch) == 4


def test_faults_with_a_number_go_before_those_without(cloudwatch, client):
    """
    Of those without, the one that was set last wins.
    """
    cloudwatch.faults.throttle().fail().deny(n=1)

    assert [refused(client)[0] for _ in range(3)] == ["AccessDenied", "InternalServiceError", "InternalServiceError"]


def test_a_fault_for_no_request_strikes_never(cloudwatch, client):
    """
    Zero is a number too.
    """
    cloudwatch.faults.throttle(0)

    put(client)
    assert stored(cloudwatch) == 1


def test_reads_are_not_disturbed(cloudwatch, client):
    """
    A test can look through boto3 while deliveries fail.
    """
    put(client)
    cloudwatch.faults.fail()

    assert len(client.list_metrics()["Metrics"]) == 1
    assert len(cloudwatch.calls) == 1


def test_a_throttled_call_is_recorded_with_what_it_carried(cloudwatch, client):
    """
    Also without being looked at, a call says what it was for.
    """
    cloudwatch.faults.throttle(1)

    refused(client, GOOD, GOOD)

    (call,) = cloudwatch.calls
    assert (call.namespace, call.datums, call.values, call.accepted) == ("Test", 2, 2, False)


def test_faults_set_from_many_threads_all_strike(cloudwatch, client, pool):
    """
    Setting and striking at once loses none and invents none.
    """

    def disturb():
        for _ in range(10):
            cloudwatch.faults.throttle(1)
            try:
                put(client)
            except ClientError:
                continue

    for done in [pool.submit(disturb) for _ in range(8)]:
        done.result(10)

    assert cloudwatch.faults.injected == {"throttle": 80}
    assert len(cloudwatch.rejected_calls) == 80
