"""What calls to AWS share: the time that an answer has, and what is said of URLs."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest

from retainwise_metrics.sinks._aws_calls import ANSWER_BYTES, _Limited, words
from retainwise_metrics.testing import ManualRuntime


class Connection:
    """A socket, as far as its timeout goes."""

    def __init__(self) -> None:
        self.timeout: float | None = 10.0

    def gettimeout(self) -> float | None:
        return self.timeout

    def settimeout(self, seconds: float | None) -> None:
        self.timeout = seconds


def test_each_piece_of_an_answer_may_take_what_is_left_of_the_whole() -> None:
    """Seven of ten seconds leave three, and ten leave none; the connection has its own timeout again afterwards."""
    runtime, connection = ManualRuntime(), Connection()
    answer = _Limited(BytesIO(b"abc"), connection, runtime.monotonic)
    assert answer.read(1) == b"a"
    assert connection.timeout == pytest.approx(10.0)
    runtime.advance(7.0)
    assert answer.read(1) == b"b"
    assert connection.timeout == pytest.approx(3.0)
    runtime.advance(3.0)
    with pytest.raises(TimeoutError):
        answer.read(1)
    answer.close()
    assert connection.timeout == 10.0


def test_an_answer_may_be_so_long_and_no_longer() -> None:
    """Exactly the limit is read, and one byte more is not."""
    for length in (ANSWER_BYTES, ANSWER_BYTES + 1):
        answer = _Limited(BytesIO(b"x" * length), Connection(), ManualRuntime().monotonic)
        if length == ANSWER_BYTES:
            assert len(answer.readall() or b"") == length
        else:
            with pytest.raises(OSError, match=str(ANSWER_BYTES)):
                answer.readall()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("to https://host/ and on", "to https://host/ and on"),
        ("to https://host:1", "to https://host:1"),
        ('"https://host/v1/metrics".', '"https://host/***".'),
        ("https://host?key=hunter2", "https://host/***"),
        ("https://jane:hunter2@host:1/x", "https://***@host:1/***"),
        ("http://jane:hun/ter2@host", "http://***/***"),
        ("http://hunter2@host, http://b/hunter2", "http://***@host, http://b/***"),
    ],
)
def test_of_a_url_only_the_host_is_said(said: str, shown: str) -> None:
    """Users, passwords, paths and queries may be secrets."""
    error: Any = ValueError(said)
    assert words(error) == f"ValueError: {shown}"
