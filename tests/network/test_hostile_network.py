"""Everything a network can do to a call: nothing is lost, nobody waits, and all is well again when the network is."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest

from retainwise_metrics import BreakerState, CloudWatchMetrics, DropReason
from tests.concurrency.threads import FOREVER_SECONDS, PATIENCE_SECONDS, begin
from tests.helpers import LONGEST_FIRST_OPENING, NAMESPACE, OPEN_SECONDS, assert_balanced
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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from retainwise_metrics.testing import FakeCloudWatch, ManualRuntime
    from tests.network.proxy import Behaviour

    Connect = Callable[..., CloudWatchMetrics]

READ_TIMEOUT_SECONDS = 0.6
RECORDS = 10_000
JSON = b"application/x-amz-json-1.0"


class Fault(NamedTuple):
    """
    What goes wrong.

    Attributes:
        behaviour: What the network does with a request.
        ambiguous: Whether CloudWatch has accepted it all the same, which the client cannot know.
    """

    behaviour: Behaviour
    ambiguous: bool = False


FAULTS = {
    "reset in the middle of the request": Fault(reset_in_the_request),
    "reset after CloudWatch has accepted": Fault(reset_after_accepting, ambiguous=True),
    "a black hole": Fault(keep_waiting),
    "an answer without end, byte by byte": Fault(drip, ambiguous=True),
    "an answer without end, at full speed": Fault(pour),
    "a request that creeps": Fault(upload_slowly),
    "an answer cut in its first line": Fault(cut_answer(lambda _: 7), ambiguous=True),
    "an answer cut in its headers": Fault(cut_answer(lambda answer: answer.index(b"x-amzn-Req")), ambiguous=True),
    "no answer at all": Fault(cut_answer(lambda _: 0), ambiguous=True),
    "a captive portal": Fault(answer_with(page("200 OK", PORTAL))),
    "a captive portal, in Latin-1": Fault(answer_with(page("200 OK", LATIN_1))),
    "a portal that forwards": Fault(answer_with(page("302 Found", PORTAL, b"Location: http://127.0.0.1:9/"))),
    "a portal that knows the RFC": Fault(answer_with(page("511 Network Authentication Required", PORTAL))),
    "a proxy's refusal, in Latin-1": Fault(answer_with(page("403 Forbidden", LATIN_1))),
    "a proxy's error, in Latin-1": Fault(answer_with(page("502 Bad Gateway", LATIN_1))),
    "a stranger's JSON": Fault(answer_with(page("400 Bad Request", b'{"__type": 5}', kind=JSON))),
    "no JSON object": Fault(answer_with(page("400 Bad Request", b"[]", kind=JSON))),
    "a 200 of a stranger": Fault(answer_with(page("200 OK", b"{}", kind=JSON))),
    "another protocol": Fault(answer_with(b"SSH-2.0-OpenSSH_9.6\r\n")),
}


@contextmanager
def refused(proxy: Proxy) -> Iterator[None]:
    """Nobody listens on the port."""
    proxy.refuse()
    yield
    proxy.accept()


def record(client: CloudWatchMetrics, count: int = RECORDS) -> None:
    """Each of them is taken."""
    assert sum(client.put_metric("M", value % 100) for value in range(count)) == count


def values_in(cloudwatch: FakeCloudWatch) -> float:
    """How many have been accepted, those that came twice counted twice."""
    return cloudwatch.count(NAMESPACE, "M")


def goes_through(
    client: CloudWatchMetrics,
    runtime: ManualRuntime,
    cloudwatch: FakeCloudWatch,
    broken: AbstractContextManager[object],
    *,
    ambiguous: bool = False,
) -> None:
    """
    One client's way through a fault and out of it: closed, open, half-open, open for longer, closed.
    """
    record(client, 1)
    assert client.flush(FOREVER_SECONDS)
    with broken:
        record(client)
        runtime.advance(60.0)
        stats = client.stats()
        assert (stats.breaker_state, stats.failed_calls) == (BreakerState.OPEN, 3), stats
        assert (stats.delivered, stats.pending, stats.dropped) == (1, RECORDS, {})
        record(client)  # while it is open: taken as ever, and no call is made
        runtime.advance(OPEN_SECONDS - 120.0)
        assert client.stats().failed_calls == 3
        runtime.advance(LONGEST_FIRST_OPENING - OPEN_SECONDS + 120.0)
        stats = client.stats()
        assert (stats.breaker_state, stats.failed_calls) == (BreakerState.OPEN, 4), "one probe, and only one"
        assert (stats.delivered, stats.pending, stats.dropped) == (1, 2 * RECORDS, {})
        assert client._pipeline._delivery.backlog.datums <= 3, "minutes are held, however many values they have"
    runtime.advance(2 * LONGEST_FIRST_OPENING)
    stats = client.stats()
    assert (stats.breaker_state, stats.failed_calls) == (BreakerState.CLOSED, 4), stats
    assert client.flush(FOREVER_SECONDS)
    assert (client.stats().delivered, client.stats().dropped) == (1 + 2 * RECORDS, {})
    assert_balanced(client)
    repeated = 4 * RECORDS if ambiguous else 0
    assert values_in(cloudwatch) == client.stats().delivered + repeated


@contextmanager
def broken_by(proxy: Proxy, behaviour: Behaviour) -> Iterator[None]:
    """The network does this; in the end it is well again, and has done it."""
    before = proxy.struck
    proxy.break_down(behaviour)
    yield
    assert proxy.struck - before == 4
    proxy.heal()


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_delays_and_never_drops(
    name: str, connect: Connect, runtime: ManualRuntime, cloudwatch: FakeCloudWatch, proxy: Proxy
) -> None:
    """What CloudWatch has counted is what the client says; it is more only where the answer to an accepted call was lost."""
    fault = FAULTS[name]
    client = connect(read_timeout_seconds=READ_TIMEOUT_SECONDS)
    goes_through(client, runtime, cloudwatch, broken_by(proxy, fault.behaviour), ambiguous=fault.ambiguous)


@pytest.mark.parametrize("name", FAULTS)
def test_at_most_once_nothing_arrives_twice(
    name: str, connect: Connect, runtime: ManualRuntime, cloudwatch: FakeCloudWatch, proxy: Proxy
) -> None:
    """What may have arrived is given up as in doubt and said to be; whatever else fails is delivered later."""
    client = connect(read_timeout_seconds=READ_TIMEOUT_SECONDS, delivery="at-most-once")
    proxy.break_down(FAULTS[name].behaviour)
    record(client)
    runtime.advance(60.0)
    proxy.heal()
    record(client)
    runtime.advance(2 * LONGEST_FIRST_OPENING)
    assert client.flush(FOREVER_SECONDS)
    stats, in_doubt = client.stats(), client.stats().dropped.get(DropReason.IN_DOUBT, 0)
    assert sum(stats.dropped.values()) == in_doubt
    assert stats.delivered + in_doubt == 2 * RECORDS
    assert values_in(cloudwatch) == stats.delivered + (RECORDS if FAULTS[name].ambiguous else 0)
    assert_balanced(client)


def test_at_most_once_what_never_left_is_sent_again(
    connect: Connect, runtime: ManualRuntime, cloudwatch: FakeCloudWatch, proxy: Proxy
) -> None:
    """Nobody listens on the port: there is no doubt, and nothing is given up."""
    goes_through(connect(delivery="at-most-once"), runtime, cloudwatch, refused(proxy))


def test_a_strangers_413_splits_and_drops_nothing(
    connect: Connect, runtime: ManualRuntime, cloudwatch: FakeCloudWatch, proxy: Proxy
) -> None:
    """A proxy may well allow less than CloudWatch; but that a single datum is too large is nothing it can know."""
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
    assert cloudwatch.total_count() == 4


def test_a_strangers_refusal_gives_nothing_up(
    connect: Connect, runtime: ManualRuntime, cloudwatch: FakeCloudWatch, proxy: Proxy
) -> None:
    """It speaks like AWS and knows its codes; but only what has a request id was looked at by CloudWatch."""
    client = connect()
    refusal = b'{"__type": "InvalidParameterValue", "message": "MetricData.member.1.Value"}'
    proxy.break_down(answer_with(page("400 Bad Request", refusal, kind=JSON)))
    record(client)
    runtime.advance(60.0)
    assert client.stats()[:4] == (RECORDS, 0, RECORDS, {})
    proxy.heal()
    runtime.advance(2 * LONGEST_FIRST_OPENING)
    assert client.stats()[:4] == (RECORDS, RECORDS, 0, {})
    assert values_in(cloudwatch) == RECORDS


def test_refused_connections(
    connect: Connect, runtime: ManualRuntime, cloudwatch: FakeCloudWatch, proxy: Proxy
) -> None:
    """Nobody listens on the port."""
    goes_through(connect(), runtime, cloudwatch, refused(proxy))


def test_a_name_that_is_not_found(
    connect: Connect,
    runtime: ManualRuntime,
    cloudwatch: FakeCloudWatch,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DNS fails for a while."""
    known, look_up = True, socket.getaddrinfo

    def resolve(host: object, *arguments: object, **options: object) -> object:
        if host != "cloudwatch.test":
            return look_up(host, *arguments, **options)  # type: ignore[arg-type]
        if not known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(HOST, *arguments, **options)  # type: ignore[arg-type]

    @contextmanager
    def unknown() -> Iterator[None]:
        nonlocal known
        known = False
        proxy.drop_connections()
        yield
        known = True

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    goes_through(connect(endpoint_url=f"http://cloudwatch.test:{proxy.port}"), runtime, cloudwatch, unknown())


@pytest.mark.parametrize("trusted", [True, False], ids=["of another host", "of nobody known"])
def test_a_wrong_certificate(
    trusted: bool,
    connect: Connect,
    runtime: ManualRuntime,
    cloudwatch: FakeCloudWatch,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody sits in the middle: not a byte of a request reaches them."""
    right, wrong = certificate(tmp_path, HOST), certificate(tmp_path, "192.0.2.1")
    bundle = tmp_path / "bundle"
    bundle.write_bytes(right.read_bytes() + (wrong.read_bytes() if trusted else b""))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))

    @contextmanager
    def intercepted() -> Iterator[None]:
        proxy.tls = present(wrong)
        proxy.drop_connections()
        before = len(proxy.requests)
        yield
        assert len(proxy.requests) == before
        assert "SSLError" in (client.stats().last_error or "")
        proxy.tls = present(right)

    proxy.tls = present(right)
    client = connect()
    goes_through(client, runtime, cloudwatch, intercepted())


@pytest.mark.parametrize("kept", [-1, -2], ids=["the last byte", "the body"])
def test_an_answer_that_is_cut_after_its_request_id_is_a_delivery(
    kept: int, connect: Connect, cloudwatch: FakeCloudWatch, proxy: Proxy
) -> None:
    """The rest of it says nothing: the values are not sent twice."""
    client = connect()
    proxy.break_down(cut_answer(lambda answer: len(answer) + kept))
    record(client)
    assert client.flush(FOREVER_SECONDS)
    assert (client.stats().delivered, client.stats().calls) == (RECORDS, 1)
    assert values_in(cloudwatch) == RECORDS


# ---- stuck, on real threads ----

STUCK = {"a black hole": keep_waiting, "a slow loris": drip, "a request that creeps": upload_slowly}


@pytest.mark.parametrize("name", STUCK)
def test_nobody_waits_for_a_call_that_is_stuck(
    name: str, connect: Connect, cloudwatch: FakeCloudWatch, proxy: Proxy
) -> None:
    """10,000 records begin and end while one call is stuck; all of them are delivered when it has failed."""
    client = connect(runtime=None, read_timeout_seconds=60.0, flush_interval_seconds=3600.0)
    proxy.break_down(STUCK[name])
    record(client, 1)
    flushing = begin(partial(client.flush, FOREVER_SECONDS))
    assert proxy.wait_until(lambda: proxy.struck == 1)
    record(client)
    assert not flushing.done()
    assert client.stats()[:4] == (1 + RECORDS, 0, 1 + RECORDS, {})
    assert len(proxy.requests) == 1, "the call ended too early to show anything"
    proxy.heal()
    flushing.result(PATIENCE_SECONDS)
    assert client.flush(FOREVER_SECONDS)
    assert client.stats()[:4] == (1 + RECORDS, 1 + RECORDS, 0, {})
    assert values_in(cloudwatch) == 1 + RECORDS + (name == "a slow loris")


@pytest.mark.parametrize("name", STUCK)
def test_who_sends_at_once_is_held_no_longer_than_the_timeout(name: str, connect: Connect, proxy: Proxy) -> None:
    """`put_metric_sync` waits for the network, but not for somebody who sends a byte now and then for ever."""
    client = connect(runtime=None, read_timeout_seconds=0.2)
    proxy.break_down(STUCK[name])
    assert begin(partial(client.put_metric_sync, "M", 1)).result(PATIENCE_SECONDS) is False
    assert not proxy.healed.is_set()
    assert "Timeout" in (client.stats().last_error or "")
    assert client.stats().dropped == {DropReason.NOT_SENT: 1}


def test_a_slow_answer_leaves_nothing_behind_for_the_next_call(
    connect: Connect, proxy: Proxy, cloudwatch: FakeCloudWatch
) -> None:
    """The time that an answer had left is not the timeout of the next request on the same connection."""
    client = connect()
    timeouts: list[float | None] = []
    for value in range(3):
        client.put_metric("M", value)
        assert client.flush(FOREVER_SECONDS)
        pools = client._pipeline._sink._client._endpoint.http_session._manager.pools
        (pool,) = [pools[key] for key in pools.keys()]  # noqa: SIM118 - not a dict
        connection = pool.pool.get_nowait()
        timeouts.append(connection.sock.gettimeout())
        pool.pool.put(connection)
    assert timeouts == [10.0, 10.0, 10.0]
    assert pool.num_connections == 1
    assert values_in(cloudwatch) == 3


# ---- coming and going ----


def test_an_endpoint_that_flaps_every_second(
    connect: Connect, runtime: ManualRuntime, cloudwatch: FakeCloudWatch, proxy: Proxy
) -> None:
    """Half of the calls fail for ten minutes; every value arrives once, in its own minute."""

    def flap(link: object, request: bytes) -> None:
        (pass_on if int(runtime.monotonic()) % 2 else reset_in_the_request)(link, request)  # type: ignore[arg-type]

    client = connect(flush_interval_seconds=7.0, open_seconds=10.0)
    proxy.break_down(flap)
    start = runtime.wall()
    for _ in range(600):
        record(client, 10)
        runtime.advance(1.0)
        assert_balanced(client)
    stats = client.stats()
    assert 0 < stats.failed_calls < stats.calls
    proxy.heal()
    runtime.advance(60.0)
    assert client.flush(FOREVER_SECONDS)
    assert client.stats()[:4] == (6_000, 6_000, 0, {})
    for minute in range(10):
        assert cloudwatch.count(NAMESPACE, "M", minute=start + 60 * minute) == 600


def test_an_hour_without_the_region(
    connect: Connect, runtime: ManualRuntime, cloudwatch: FakeCloudWatch, proxy: Proxy
) -> None:
    """Sixty minutes are held and delivered with their own timestamps; few calls were made in vain."""
    client = connect(failure_threshold=5)
    start = runtime.wall()
    proxy.refuse()
    for _ in range(60):
        record(client, 100)
        runtime.advance(60.0)
        assert_balanced(client)
    before_opening, probes_in_an_hour = 5, 5
    assert client.stats().pending == 6_000
    assert client.stats().failed_calls <= before_opening + probes_in_an_hour
    proxy.accept()
    runtime.advance(1500.0)
    assert client.flush(FOREVER_SECONDS)
    assert client.stats()[:4] == (6_000, 6_000, 0, {})
    assert cloudwatch.minutes(NAMESPACE, "M") == [start + 60 * minute for minute in range(60)]
    assert values_in(cloudwatch) == 6_000


def test_memory_is_bounded_while_nothing_gets_through(
    connect: Connect, runtime: ManualRuntime, cloudwatch: FakeCloudWatch, proxy: Proxy
) -> None:
    """More series than the backlog holds: the oldest are dropped, counted, and the rest arrives."""
    client = connect(max_pending_datums=100)
    proxy.refuse()
    for minute in range(10):
        for series in range(50):
            assert client.put_metric("M", minute, dimensions={"Series": f"s{series}"})
        runtime.advance(60.0)
        assert_balanced(client)
        assert client.stats().pending <= 100 + 20  # the batch that is being tried is not in the backlog
    proxy.accept()
    runtime.advance(600.0)
    assert client.flush(FOREVER_SECONDS)
    stats = client.stats()
    assert stats.dropped.keys() == {DropReason.BACKLOG_FULL}
    assert stats.recorded == 500 == stats.delivered + stats.dropped[DropReason.BACKLOG_FULL]
    assert cloudwatch.total_count() == stats.delivered >= 100


# ---- refusals that pass ----


@pytest.mark.parametrize(
    ("code", "calls"),
    [("RequestExpired", 3), ("InvalidSignatureException", 1), ("SignatureDoesNotMatch", 1)],
)
def test_a_clock_that_is_wrong_by_a_quarter_of_an_hour(
    code: str, calls: int, connect: Connect, runtime: ManualRuntime, cloudwatch: FakeCloudWatch
) -> None:
    """AWS refuses the signature until the clock is set; everything is held and delivered then."""
    client = connect()
    cloudwatch.faults.deny(code, status=400)
    record(client)
    runtime.advance(60.0)
    stats = client.stats()
    assert (stats.breaker_state, stats.failed_calls) == (BreakerState.OPEN, calls)
    assert code in (stats.last_error or "")
    assert stats.pending == RECORDS
    cloudwatch.faults.clear()
    runtime.set_wall(runtime.wall() + 900.0)
    runtime.advance(LONGEST_FIRST_OPENING)
    assert client.stats()[:4] == (RECORDS, RECORDS, 0, {})
    assert client.stats().breaker_state is BreakerState.CLOSED
    assert values_in(cloudwatch) == RECORDS


def test_every_tenth_call_is_throttled(connect: Connect, runtime: ManualRuntime, cloudwatch: FakeCloudWatch) -> None:
    """It is sent again; the breaker stays closed."""
    client = connect(batch_size=1)
    for _ in range(20):
        cloudwatch.faults.ok(9).throttle(1)
    for series in range(90):  # a hundred would be caught up with in larger calls
        client.put_metric("M", series, dimensions={"Series": f"s{series}"})
    assert client.flush(FOREVER_SECONDS)
    stats = client.stats()
    assert (stats.delivered, stats.calls, stats.failed_calls) == (90, 99, 9)
    assert stats.breaker_state is BreakerState.CLOSED
    assert cloudwatch.total_count() == 90


def test_every_call_is_throttled(connect: Connect, runtime: ManualRuntime, cloudwatch: FakeCloudWatch) -> None:
    """Two calls are tolerated, three more open the breaker; a throttled probe opens it for longer."""
    client = connect()
    cloudwatch.faults.throttle()
    record(client)
    runtime.advance(60.0)
    stats = client.stats()
    assert (stats.breaker_state, stats.failed_calls, stats.pending) == (BreakerState.OPEN, 5, RECORDS)
    runtime.advance(LONGEST_FIRST_OPENING)
    assert client.stats().failed_calls == 6
    cloudwatch.faults.clear()
    runtime.advance(2 * LONGEST_FIRST_OPENING)
    assert client.stats()[:4] == (RECORDS, RECORDS, 0, {})
    assert values_in(cloudwatch) == RECORDS
