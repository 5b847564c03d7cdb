"""Documents on standard output: whole lines, whoever writes, whatever happens to the stream."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, TextIO

import pytest

from retainwise_metrics import BreakerState, CloudWatchMetrics, MetricsConfig
from retainwise_metrics.sinks.base import SinkUnavailable
from retainwise_metrics.sinks.emf_stdout import PIPE_BYTES, EmfStdoutSink
from retainwise_metrics.testing import EmfReader, ManualRuntime
from tests.concurrency.own_dimensions import ALL, RECORDED, record_all
from tests.concurrency.threads import FOREVER_SECONDS, PATIENCE_SECONDS, begin, together
from tests.helpers import assert_balanced
from tests.sinks.emf_documents import NAMESPACE, batch, check, contents, contents_of, datum, read

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_poll = pytest.mark.skipif(not hasattr(os, "pipe2"), reason="needs Linux's pipes")


class Pipe:
    """A pipe with a text stream at its end, as standard output is."""

    def __init__(self, flags: int = 0) -> None:
        self.reading, writing = os.pipe2(flags)
        self.stream: TextIO = io.TextIOWrapper(io.BufferedWriter(io.FileIO(writing, "w")), encoding="utf-8")

    def drain(self) -> list[bytes]:
        """What is in it, one item per write if it was made with O_DIRECT."""
        os.set_blocking(self.reading, False)
        packets = []
        with contextlib.suppress(BlockingIOError):
            while packet := os.read(self.reading, 1 << 20):
                packets.append(packet)
        return packets

    def fill(self) -> int:
        """Write blanks until it is full."""
        descriptor, written = self.stream.fileno(), 0
        os.set_blocking(descriptor, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                written += os.write(descriptor, b"\n" * 4096)
        os.set_blocking(descriptor, True)
        return written

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.stream.close()
        with contextlib.suppress(OSError):
            os.close(self.reading)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe that is closed in the end."""
    made = Pipe()
    yield made
    made.close()


class Flaky(io.StringIO):
    """A stream without a descriptor that fails when told to, half-way through a line."""

    def __init__(self, *fails: bool) -> None:
        super().__init__()
        self.fails = iter(fails)
        self.flushed = 0

    def write(self, text: str) -> int:
        if next(self.fails, False):
            super().write(text[: len(text) // 2])
            raise OSError(28, "No space left on device")
        return super().write(text)

    def flush(self) -> None:
        self.flushed = len(self.getvalue())


# ---- lines ----


@needs_poll
def test_one_document_is_one_line_is_one_write() -> None:
    """Seen from the other end of a pipe that keeps writes apart: after each document nothing is left in a buffer."""
    pipe = Pipe(os.O_DIRECT)
    whole = batch(*(datum(f"M{index}", {1 / 3: 40}, K=f"v{index % 3}") for index in range(30)))
    EmfStdoutSink(pipe.stream).send(whole)
    packets = pipe.drain()
    assert len(packets) > 3
    for packet in packets:
        assert packet.count(b"\n") == 1
        assert packet.endswith(b"}\n")
        assert len(packet) <= PIPE_BYTES, "more than a pipe takes whole"
    assert contents_of(read(packets)) == contents(whole.datums)
    pipe.close()


@needs_poll
def test_what_the_program_printed_before_comes_before(pipe: Pipe) -> None:
    """Its own buffer is emptied first: emptied when it is full, it would end in half a line, with a document behind it."""
    print("before", file=pipe.stream)
    EmfStdoutSink(pipe.stream).send(batch(datum()))
    print("after", file=pipe.stream, flush=True)
    first, line, last = b"".join(pipe.drain()).splitlines()
    assert (first, last) == (b"before", b"after")
    assert read(line).total_count() == 1


def test_a_stream_that_only_has_write_and_flush_is_used_by_them() -> None:
    """Whatever captures output: StringIO, pytest, Lambda's wrapper."""
    stream = Flaky()
    EmfStdoutSink(stream).send(batch(datum()))
    assert stream.flushed == len(stream.getvalue())
    assert read(stream.getvalue()).total_count() == 1


def test_standard_output_is_looked_up_at_each_write(capfd: pytest.CaptureFixture[str]) -> None:
    """Programs redirect it."""
    sink = EmfStdoutSink()
    for _ in range(2):
        with contextlib.redirect_stdout(io.StringIO()) as captured:
            sink.send(batch(datum()))
        assert read(captured.getvalue()).total_count() == 1
    sink.send(batch(datum()))
    assert read(capfd.readouterr().out).total_count() == 1


@needs_poll
def test_lines_of_threads_never_mix(pipe: Pipe) -> None:
    """Eight threads, one pipe, long lines: every line is a whole document."""
    sink = EmfStdoutSink(pipe.stream, timeout_seconds=PATIENCE_SECONDS)
    whole = [batch(*(datum(f"M{n}", {1 / 3 + thread: 90}, K=f"t{thread}") for n in range(9))) for thread in range(8)]

    def write(each: int) -> None:
        for _ in range(20):
            sink.send(whole[each])

    reading = begin(lambda: _read_to_the_end(pipe))
    together(*(partial(write, thread) for thread in range(8)))
    pipe.stream.close()
    reader = read(b"".join(reading.result(PATIENCE_SECONDS)))
    assert reader.other_lines == []
    for thread in range(8):
        assert reader.values(NAMESPACE, "M0", {"K": f"t{thread}"}) == {1 / 3 + thread: 1800}


def _read_to_the_end(pipe: Pipe) -> list[bytes]:
    os.set_blocking(pipe.reading, True)
    pieces = []
    while piece := os.read(pipe.reading, 1000):
        pieces.append(piece)
    return pieces


# ---- trouble ----


@needs_poll
def test_a_full_pipe_is_unavailable_and_nothing_is_lost_or_doubled(pipe: Pipe) -> None:
    """Nobody reads: the batch fails after the timeout; when somebody reads again, it goes on where it was."""
    sink = EmfStdoutSink(pipe.stream, timeout_seconds=0.02)
    pipe.fill()
    whole = batch(*(datum("M", {float(index): 1}, K=f"v{index}") for index in range(2000)))
    packets: list[bytes] = []
    for _ in range(3):
        with pytest.raises(SinkUnavailable, match="nobody has read"):
            begin(partial(sink.send, whole)).result(PATIENCE_SECONDS)
        packets += pipe.drain()
    reading = begin(lambda: _read_to_the_end(pipe))
    sink.send(whole)
    pipe.stream.close()
    packets += reading.result(PATIENCE_SECONDS)
    assert contents_of(read(b"".join(packets))) == contents(whole.datums)


@needs_poll
def test_an_end_that_nobody_holds_is_unavailable(pipe: Pipe) -> None:
    """A broken pipe."""
    os.close(pipe.reading)
    with pytest.raises(SinkUnavailable, match="BrokenPipeError"):
        EmfStdoutSink(pipe.stream).send(batch(datum()))


def test_no_standard_output_at_all_is_unavailable() -> None:
    """Closed, or None as in a program without a console."""
    closed = io.StringIO()
    closed.close()
    for stream in (closed, None):
        with contextlib.redirect_stdout(stream), pytest.raises(SinkUnavailable, match="cannot be written"):
            EmfStdoutSink().send(batch(datum()))


def test_a_closed_stream_with_a_descriptor_is_unavailable(pipe: Pipe) -> None:
    """Its descriptor may be somebody else's by now."""
    pipe.stream.close()
    with pytest.raises(SinkUnavailable, match="ValueError"):
        EmfStdoutSink(pipe.stream).send(batch(datum()))


def test_a_line_that_was_torn_is_ended_before_the_next_document() -> None:
    """The disk was full: half a line is there, and the whole one stands on a line of its own."""
    stream = Flaky(False, True)
    sink = EmfStdoutSink(stream)
    whole = batch(datum("A"), datum("B", K="x"))
    with pytest.raises(SinkUnavailable):
        sink.send(whole)
    sink.send(whole)
    first, torn, again = stream.getvalue().splitlines()
    assert again.startswith(torn)
    assert contents_of(read([first, again])) == contents(whole.datums)


def test_a_child_process_ends_no_line_of_its_parent() -> None:
    """What the parent tore, the parent ends."""
    stream = Flaky(True)
    sink = EmfStdoutSink(stream)
    with pytest.raises(SinkUnavailable):
        sink.send(batch(datum()))
    sink.after_fork()
    before = len(stream.getvalue())
    sink.send(batch(datum()))
    assert stream.getvalue()[before] == "{"
    sink.close()


# ---- a client ----


def test_a_client_whose_output_breaks_holds_its_values(runtime: ManualRuntime) -> None:
    """The breaker opens as for any destination, and everything is delivered after it."""
    stream = Flaky(*[True] * 5)
    client = CloudWatchMetrics(
        MetricsConfig(catalogue=(), failure_threshold=5), sink=EmfStdoutSink(stream), runtime=runtime
    )
    for value in range(3):
        client.put_metric("M", value)
    client.flush(timeout=60.0)
    assert client.stats().breaker_state is BreakerState.OPEN
    assert client.stats().pending == 3
    runtime.advance(1000.0)
    assert client.stats()[:4] == (3, 3, 0, {})
    whole = [line for line in stream.getvalue().splitlines() if line.endswith("}")]
    assert read(whole, now=runtime.wall).values("RetainWise/MLPipeline", "M") == {0.0: 1, 1.0: 1, 2.0: 1}


def test_what_no_document_can_hold_is_in_the_ledger_with_its_reason(runtime: ManualRuntime) -> None:
    """A metric named as one of its dimensions is dropped and counted, and its neighbours are delivered."""
    stream = io.StringIO()
    client = CloudWatchMetrics(MetricsConfig(catalogue=()), sink=EmfStdoutSink(stream), runtime=runtime)
    client.put_metric("Route", 1, dimensions={"Route": "/upload"})
    for value in range(5):
        client.put_metric("M", value, dimensions={"Route": "/upload"})
    assert client.flush()
    assert client.stats().dropped == {"rejected": 1}
    assert client.stats().breaker_state is BreakerState.CLOSED
    assert read(stream.getvalue(), now=runtime.wall).total_count() == 5
    assert_balanced(client)


@pytest.mark.parametrize("values", ["list", "object"])
def test_threads_and_tasks_under_their_own_dimensions(values: str) -> None:
    """Eight threads and a hundred tasks, beside constant flushes: each value under its own dimensions, counts exact."""
    over = threading.Event()
    with contextlib.redirect_stdout(io.StringIO()) as output:
        client = CloudWatchMetrics(
            MetricsConfig(catalogue=(), sink="emf", emf_values=values, flush_interval_seconds=3600.0)
        )

        def keep_flushing() -> None:
            while not over.is_set():
                client.flush(FOREVER_SECONDS)

        flusher = begin(keep_flushing)
        record_all(client)
        over.set()
        flusher.result(PATIENCE_SECONDS)
        assert client.stop(FOREVER_SECONDS)
    reader = check(EmfReader(objects=True).read(output.getvalue()))
    found = {
        (series.name, dict(series.dimensions)["Who"]): reader.values(*series[:2], dict(series.dimensions))
        for series in reader.series()
    }
    assert found == RECORDED
    assert client.stats()[:4] == (ALL, ALL, 0, {})
