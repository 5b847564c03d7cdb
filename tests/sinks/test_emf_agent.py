"""Documents to an agent over real sockets: one that is down, restarts, hangs or reads slowly. Callers never wait; the ledger balances."""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics import CloudWatchMetrics, MetricsConfig
from retainwise_metrics.sinks.base import SinkTooLarge, SinkUnavailable
from retainwise_metrics.sinks.emf_agent import DATAGRAM_BYTES, EmfAgentSink, Endpoint, parse_endpoint
from retainwise_metrics.testing import FakeEmfAgent, ManualRuntime
from tests.concurrency.threads import FOREVER_SECONDS, PATIENCE_SECONDS, begin
from tests.helpers import assert_balanced
from tests.sinks.emf_documents import NAMESPACE, NOON, batch, check, contents, contents_of, datum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from retainwise_metrics.datum import Datum

SCHEMES = ["tcp", "udp", "unix", "unixgram"]
STREAMS = ["tcp", "unix"]
DEFAULT = "RetainWise/MLPipeline"


@pytest.fixture
def make_agent(tmp_path: Path) -> Iterator[Callable[[str], FakeEmfAgent]]:
    """Start agents whose clock stands where that of the tests does."""
    agents: list[FakeEmfAgent] = []

    def make(scheme: str, **options: object) -> FakeEmfAgent:
        path = str(tmp_path / "agent") if scheme.startswith("unix") else ""
        agents.append(FakeEmfAgent(scheme, path, **{"now": lambda: NOON, **options}).start())  # type: ignore[arg-type]
        return agents[-1]

    yield make
    for agent in agents:
        agent.resume()
        agent.stop()


@pytest.fixture
def make_sink() -> Iterator[Callable[..., EmfAgentSink]]:
    """Make sinks; each is closed at the end."""
    sinks: list[EmfAgentSink] = []

    def make(agent: FakeEmfAgent, **options: object) -> EmfAgentSink:
        sinks.append(EmfAgentSink(agent.endpoint, **options))  # type: ignore[arg-type]
        return sinks[-1]

    yield make
    for sink in sinks:
        sink.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., CloudWatchMetrics]]:
    """Make clients of an agent that flush when they are told to; each is stopped at the end."""
    clients: list[CloudWatchMetrics] = []

    def make(agent: FakeEmfAgent, **settings: object) -> CloudWatchMetrics:
        defaults = {"catalogue": (), "flush_interval_seconds": 3600.0, "read_timeout_seconds": 60.0}
        config = MetricsConfig(sink="emf-agent", emf_agent_endpoint=agent.endpoint, **{**defaults, **settings})
        clients.append(CloudWatchMetrics(config))
        return clients[-1]

    yield make
    for client in clients:
        client.stop(0.0)


def has(agent: FakeEmfAgent, *datums: Datum) -> bool:
    """Whether the agent has these, and nothing else."""
    return agent.wait_for(lambda emf: contents_of(emf) == contents(datums))


# ---- endpoints ----


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("tcp://127.0.0.1:25888", Endpoint("tcp", "127.0.0.1", 25888)),
        ("udp://agent:1/", Endpoint("udp", "agent", 1)),
        ("tcp://agent", Endpoint("tcp", "agent", 25888)),
        ("tcp://[::1]:7", Endpoint("tcp", "::1", 7)),
        ("tcp://[::1]", Endpoint("tcp", "::1", 25888)),
        ("unix:///run/emf.sock", Endpoint("unix", path="/run/emf.sock")),
        ("unixgram:///run/emf.sock", Endpoint("unixgram", path="/run/emf.sock")),
    ],
)
def test_an_endpoint_is_read(text: str, endpoint: Endpoint) -> None:
    """With the agent's own port where none is given. What is refused is tested with the settings."""
    assert parse_endpoint(text) == endpoint


# ---- an agent that works ----


@pytest.mark.parametrize("scheme", SCHEMES)
def test_documents_arrive_over_every_kind_of_socket(scheme: str, make_agent: Callable[..., FakeEmfAgent]) -> None:
    """One connection, with the log group and stream in each document."""
    agent = make_agent(scheme)
    config = MetricsConfig(
        sink="emf-agent",
        emf_agent_endpoint=agent.endpoint,
        emf_log_group="/ecs/api",
        emf_log_stream="one",
        catalogue=(),
    )
    client = CloudWatchMetrics(config, runtime=ManualRuntime())
    for value in range(300):
        client.put_metric("M", value % 7, "Seconds", dimensions={"Kind": f"k{value % 3}"})
        if value % 100 == 0:
            assert client.flush()
    assert client.stop()
    assert client.stats()[:4] == (300, 300, 0, {})
    assert agent.wait_for(lambda emf: emf.total_count() == 300)
    reader = check(agent.read())
    assert reader.count(DEFAULT, "M", {"Kind": "k0"}) == 100
    assert {(each["_aws"]["LogGroupName"], each["_aws"]["LogStreamName"]) for each in reader.documents} == {
        ("/ecs/api", "one")
    }
    assert agent.connections == (1 if scheme in STREAMS else 0)
    assert agent.torn == []


@pytest.mark.parametrize("scheme", ["udp", "unixgram"])
def test_a_packet_is_at_most_60_kb(
    scheme: str, make_agent: Callable[..., FakeEmfAgent], make_sink: Callable[..., EmfAgentSink]
) -> None:
    """What would be one document of 90 KB is two packets, whole."""
    agent = make_agent(scheme)
    long = {f"Key{index}": "v" * 1000 for index in range(20)}
    datums = [datum(f"M{index:03}{'n' * 200}", {1 / 3: 90}, **long) for index in range(30)]
    make_sink(agent).send(batch(*datums))
    assert has(agent, *datums)
    assert len(agent.read().documents) == 2
    assert DATAGRAM_BYTES < 65_507


# ---- an agent that is not there ----


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_agent_that_is_not_there_is_unavailable_until_it_is(
    scheme: str, make_agent: Callable[..., FakeEmfAgent], make_sink: Callable[..., EmfAgentSink]
) -> None:
    """On this machine even a packet that nobody listens for is noticed."""
    agent = make_agent(scheme)
    agent.stop()
    sink = make_sink(agent)
    whole = batch(datum("A"), datum("B", K="x"))
    for _ in range(3):
        with pytest.raises(SinkUnavailable, match="agent"):
            sink.send(whole)
    agent.start()
    sink.send(whole)
    assert has(agent, *whole.datums)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_agent_that_restarts_between_batches_misses_none(
    scheme: str, make_agent: Callable[..., FakeEmfAgent], connect: Callable[..., CloudWatchMetrics]
) -> None:
    """A closed connection is noticed before it is written to; while the agent is away, values are held."""
    agent = make_agent(scheme, now=None)
    client = connect(agent, failure_threshold=1000)
    for round_ in range(1, 4):
        client.put_metric("M", round_)
        assert client.flush(FOREVER_SECONDS)
        assert agent.wait_for(lambda emf, so_far=round_: emf.count(DEFAULT, "M") == so_far)
        agent.stop()
        if round_ == 2:
            client.put_metric("Meanwhile", 1)
            assert not client.flush(timeout=0.2)
            assert client.stats().pending == 1
            assert_balanced(client)
        agent.start()
    assert client.flush(FOREVER_SECONDS)
    assert agent.wait_for(lambda emf: emf.count(DEFAULT, "Meanwhile") == 1)
    assert agent.read().values(DEFAULT, "M") == {1.0: 1, 2.0: 1, 3.0: 1}
    stats = client.stats()
    assert stats[:4] == (4, 4, 0, {})
    if scheme in STREAMS:
        assert stats.failed_calls == stats.calls - 4, "a restart alone costs no failed call"


# ---- an agent that hangs ----


def fill(client: CloudWatchMetrics) -> int:
    """Record more than any buffer on the way to the agent holds: about a megabyte of documents."""
    for series in range(30):
        handle = client.histogram(f"Fill{series}{'n' * 200}").bind(Kind="k" * 200)
        for value in range(1000):
            handle.observe(value / 7)
    return 30 * 1000


@pytest.mark.parametrize("scheme", [*STREAMS, "unixgram"])
def test_callers_do_not_wait_for_an_agent_that_hangs(
    scheme: str, make_agent: Callable[..., FakeEmfAgent], connect: Callable[..., CloudWatchMetrics]
) -> None:
    """10,000 records, new series among them, begin and end while the flusher hangs in a write; all of them arrive after it."""
    agent = make_agent(scheme, now=None)
    client = connect(agent, max_distinct_values=5000)
    agent.hang()
    filled = fill(client)
    flushing = begin(partial(client.flush, FOREVER_SECONDS))
    assert agent.wait_until(lambda: agent.connections == (scheme != "unixgram"))

    taken = 0
    for value in range(10_000):
        taken += client.put_metric("M", value % 9, dimensions={"Kind": f"k{value % 100}"})
    assert taken == 10_000
    assert not flushing.done(), "the flush ended too early to show anything"
    assert client.stats().pending > 10_000
    assert_balanced(client)

    agent.resume()
    flushing.result(PATIENCE_SECONDS)
    assert client.flush(FOREVER_SECONDS)
    assert agent.wait_for(lambda emf: emf.total_count() == filled + 10_000, PATIENCE_SECONDS)
    assert client.stats()[:4] == (filled + 10_000, filled + 10_000, 0, {})
    assert agent.torn == []


def test_udp_never_waits_and_says_nothing_of_what_is_lost(
    make_agent: Callable[..., FakeEmfAgent], connect: Callable[..., CloudWatchMetrics]
) -> None:
    """An agent that hangs lets the system throw packets away: everything is delivered as far as anybody here can know."""
    agent = make_agent("udp", now=None)
    client = connect(agent, max_distinct_values=5000)
    agent.hang()
    filled = fill(client)
    assert client.flush(FOREVER_SECONDS)
    assert client.stats()[:4] == (filled, filled, 0, {})
    agent.resume()

    def one_more_arrives() -> bool:
        assert client.put_metric_sync("After", 1)
        return agent.wait_for(lambda emf: emf.count(DEFAULT, "After") > 0, timeout=1.0)

    assert any(one_more_arrives() for _ in range(60))
    assert agent.read().total_count() <= client.stats().delivered
    assert_balanced(client)


@pytest.mark.parametrize("scheme", [*STREAMS, "unixgram"])
def test_a_write_that_hangs_ends_with_its_timeout_and_nothing_is_doubled(
    scheme: str, make_agent: Callable[..., FakeEmfAgent], make_sink: Callable[..., EmfAgentSink]
) -> None:
    """The batch is unavailable; what was on its way stays counted once, and a torn line never runs into the next document."""
    agent = make_agent(scheme)
    agent.hang()
    sink = make_sink(agent, write_timeout_seconds=0.1)
    whole = batch(*(datum("M", {float(index): 1}, K=f"{index:04}{'v' * 1000}") for index in range(1500)))
    for _ in range(2):
        with pytest.raises(SinkUnavailable, match="agent"):
            sink.send(whole)
    agent.resume()
    sink._write_timeout = PATIENCE_SECONDS
    sink.send(whole)
    assert has(agent, *whole.datums)
    sink.close()
    # What ends a connection without a newline is the beginning of a document that was written again.
    assert all(b"\n" not in torn for torn in agent.torn)


def test_stop_returns_while_the_agent_hangs(
    make_agent: Callable[..., FakeEmfAgent], connect: Callable[..., CloudWatchMetrics]
) -> None:
    """`stop(0.3)` leaves the write to itself; nothing is lost from the books."""
    agent = make_agent("tcp", now=None)
    client = connect(agent)
    agent.hang()
    filled = fill(client)
    result = begin(partial(client.stop, 0.3)).result(PATIENCE_SECONDS)
    assert result.pending > 0
    assert client.stats().recorded == filled
    assert_balanced(client)


def test_an_agent_that_reads_slowly_gets_everything(
    make_agent: Callable[..., FakeEmfAgent], connect: Callable[..., CloudWatchMetrics]
) -> None:
    """A few kilobytes at a time, and the flusher goes at the agent's pace; recorders at their own."""
    agent = make_agent("tcp", now=None)
    agent.read_slowly(2000)
    client = connect(agent, max_distinct_values=5000)
    filled = fill(client)
    flushing = begin(partial(client.flush, FOREVER_SECONDS))
    assert agent.wait_until(lambda: agent.connections == 1)
    for value in range(10_000):
        assert client.put_metric("M", value % 9)
    assert flushing.result(PATIENCE_SECONDS)
    assert client.flush(FOREVER_SECONDS)
    assert agent.wait_for(lambda emf: emf.total_count() == filled + 10_000, PATIENCE_SECONDS)
    assert client.stats()[:4] == (filled + 10_000, filled + 10_000, 0, {})


def test_a_batch_has_one_deadline_not_one_per_document(
    make_agent: Callable[..., FakeEmfAgent], make_sink: Callable[..., EmfAgentSink]
) -> None:
    """The clock says that the time is over after two documents, however well each of them went."""
    agent = make_agent("tcp")
    readings = iter([0.0, 0.0, 4.0, 11.0])
    sink = make_sink(agent, write_timeout_seconds=10.0, monotonic=lambda: next(readings))
    whole = batch(*(datum(K=f"v{index}") for index in range(5)))
    with pytest.raises(SinkUnavailable, match="within 10 s"):
        sink.send(whole)
    assert agent.wait_for(lambda emf: emf.total_count() == 2)
    sink._monotonic = lambda: 0.0
    sink.send(whole)
    assert has(agent, *whole.datums)
    assert agent.connections == 1, "nothing was torn, so the connection goes on"


# ---- sockets ----


class Touchy:
    """A socket that may not be used."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(name)


def test_a_child_does_not_touch_its_parents_socket(
    make_agent: Callable[..., FakeEmfAgent], make_sink: Callable[..., EmfAgentSink]
) -> None:
    """It makes one of its own."""
    agent = make_agent("tcp")
    sink = make_sink(agent)
    sink._socket = Touchy()  # type: ignore[assignment]
    sink.after_fork()
    sink.send(batch(datum()))
    assert has(agent, datum())
    assert agent.connections == 1
    sink.close()


def test_a_closed_sink_opens_a_connection_again(
    make_agent: Callable[..., FakeEmfAgent], make_sink: Callable[..., EmfAgentSink]
) -> None:
    """After `close` it may still be used; while somebody writes, `close` leaves the socket to them."""
    agent = make_agent("tcp")
    sink = make_sink(agent)
    sink.send(batch(datum("A")))
    sink.close()
    sink.close()
    sink.send(batch(datum("B")))
    with sink._turn:
        sink.close()
    assert sink._socket is not None
    sink.close()
    assert has(agent, datum("A"), datum("B"))
    assert agent.connections == 2


def test_a_packet_that_the_system_does_not_send_is_too_large(
    make_agent: Callable[..., FakeEmfAgent], make_sink: Callable[..., EmfAgentSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some systems have a smaller limit: the batch is split, and a datum that is too large alone is counted."""
    agent = make_agent("udp")
    sink = make_sink(agent)

    def refuse(_: socket.socket, data: bytes) -> int:
        raise OSError(90, "Message too long")

    monkeypatch.setattr(socket.socket, "send", refuse)
    with pytest.raises(SinkTooLarge):
        sink.send(batch(datum()))


def test_no_address_of_the_agent_is_in_a_message() -> None:
    """A message says what happened, not where: it may be shown to others."""
    with pytest.raises(SinkUnavailable) as caught:
        EmfAgentSink("unix:///nowhere/secret.sock").send(batch(datum(NAMESPACE)))
    assert "secret" not in str(caught.value)
