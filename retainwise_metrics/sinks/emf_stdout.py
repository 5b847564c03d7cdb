"""
Documents of Embedded Metric Format on standard output: for Lambda, and for containers whose output goes to CloudWatch Logs.

Rules
1. One line a document, one write a line, and nothing of it stays in a buffer.
2. A document is at most 4,096 bytes (`PIPE_BUF`) where that is possible: a pipe takes such a line whole, so processes that share
   one never tear each other's lines, and a pipe with room for it never makes the write wait.
3. Nobody reads and the pipe is full: the sink is unavailable after its timeout. (A longer line, which one metric alone needs only if its
   dimensions are very long, may wait as long as its reader.)

*Delivered* means: the system has taken the line.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import TYPE_CHECKING

from .base import SinkUnavailable
from .emf_format import DocumentSink, Layout

if TYPE_CHECKING:
    from typing import TextIO

PIPE_BYTES = 4096
"""What a write to a pipe takes whole: POSIX promises 512 bytes, Linux keeps 4,096 (pipe(7))."""


class EmfStdoutSink(DocumentSink):
    """
    Writes documents to a text stream.

    A stream of its own making that has a file descriptor is flushed and then written to directly; any other one, such as one that captures
    output for a test, by its own `write` and `flush`.

    Args:
        stream: Where to write; None is `sys.stdout` as it is at each write.
        values: `list`, or `object` for the undocumented form with counts.
        timeout_seconds: Longest wait for room in the pipe.
    """

    def __init__(self, stream: TextIO | None = None, *, values: str = "list", timeout_seconds: float = 10.0) -> None:
        super().__init__(Layout(values, usual_bytes=PIPE_BYTES), timeout_seconds)
        self._stream = stream
        self._torn = False
        """Whether the last line was left unfinished."""

    def _write(self, line: bytes) -> None:
        stream = self._stream or sys.stdout
        try:
            self._put(stream, b"\n" + line if self._torn else line)
        except (AttributeError, OSError, ValueError) as error:  # no stream at all, a broken one, a closed one
            message = f"standard output cannot be written: {type(error).__name__}"
            raise SinkUnavailable(message) from error
        self._torn = False

    def _put(self, stream: TextIO, line: bytes) -> None:
        descriptor = _descriptor_of(stream)
        if descriptor is None:
            self._torn = True
            stream.write(line.decode())
            stream.flush()
            return
        self._wait_for_room(descriptor)
        stream.flush()  # what the program has printed comes first, and whole
        written = 0
        while written < len(line):
            written += os.write(descriptor, line[written:])
            self._torn = True

    def _wait_for_room(self, descriptor: int) -> None:
        if not hasattr(select, "poll"):
            return  # a platform without it; its pipes are not looked at
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        if not poll.poll(self._timeout * 1000):
            message = f"nobody has read standard output for {self._timeout:g} s"
            raise SinkUnavailable(message)

    def after_fork(self) -> None:
        """
        Forget what the parent was writing: it is the parent's.
        """
        super().after_fork()
        self._torn = False


def _descriptor_of(stream: TextIO) -> int | None:
    """
    The file descriptor behind an ordinary text stream, or None.
    """
    if type(stream) is not io.TextIOWrapper or stream.closed:
        return None
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None
