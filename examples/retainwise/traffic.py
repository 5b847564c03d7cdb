"""
Customers of RetainWise: they upload slices of a CSV file, and now and then something that is not one.
"""

from __future__ import annotations

import csv
import io
import itertools
import time
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, NamedTuple

import httpx

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Iterator

SIZES = (25, 80, 3, 150, 60, 250, 40)
"""Customers in one good file, in turn."""

USERS = tuple(f"user_{number}" for number in range(1001, 1013))
"""Who uploads; personal data, as far as metrics are concerned."""

MOST_CUSTOMERS = 30_000
"""
About how many customers a run uploads at most; a long run sends smaller files. The embedded AWS keeps every value, and
takes time that grows with the square of their number to list the series.
"""

AT_ONCE = 4
"""Uploads under way at one time."""

Rows = list[list[str]]


class Answer(NamedTuple):
    """
    The fate of a kind of file.

    Attributes:
        accepted: Whether the API takes it (HTTP 202) or refuses it (HTTP 4xx).
        metric: The error metric that must count it; empty for a good file.
        error_type: Under which `ErrorType`.
    """

    accepted: bool
    metric: str = ""
    error_type: str = ""


GOOD = "customers"
KINDS: dict[str, Answer] = {
    GOOD: Answer(accepted=True),
    "not a CSV": Answer(accepted=False, metric="UploadRejected", error_type="NotText"),
    "cut off": Answer(accepted=True, metric="CSVParseError", error_type="RowLength"),
    "no rows": Answer(accepted=False, metric="UploadRejected", error_type="NoRows"),
    "missing columns": Answer(accepted=False, metric="UploadRejected", error_type="MissingColumns"),
    "empty": Answer(accepted=False, metric="UploadRejected", error_type="EmptyFile"),
}
"""What is uploaded, and what must become of it."""

BAD_KINDS = tuple(kind for kind in KINDS if kind != GOOD)
FEWEST_UPLOADS = 2 * len(BAD_KINDS) + 2
"""So that every kind of file occurs, however short the run."""


class Upload(NamedTuple):
    """
    One file to send.

    Attributes:
        kind: A key of `KINDS`.
        user_id: Who sends it.
        data: The file.
        customers: How many customers must be scored; 0 for a bad file.
    """

    kind: str
    user_id: str
    data: bytes
    customers: int


class Sent(NamedTuple):
    """
    One upload and its answer.

    Attributes:
        upload: What was sent.
        status: HTTP status.
    """

    upload: Upload
    status: int


class Source:
    """
    A customer file that uploads are cut from, going round and round.

    Args:
        data: The file, as a customer would upload it.
    """

    def __init__(self, data: bytes) -> None:
        self._header, *rows = filter(None, csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))
        self._rows: Rows = rows
        self._next = itertools.cycle(rows)

    def take(self, customers: int) -> Rows:
        """
        The next customers of the file.
        """
        return list(itertools.islice(self._next, min(customers, len(self._rows))))

    def first(self, customers: int) -> Rows:
        """
        The first customers of the file, which stay to be taken.
        """
        return self._rows[:customers]

    def file(self, rows: Iterable[list[str]], *, without: Iterable[str] = ()) -> bytes:
        """
        A CSV file of some rows.

        Args:
            rows: Rows of this source.
            without: Names of columns to leave out.
        """
        kept = [place for place, name in enumerate(self._header) if name not in without]
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([row[place] for place in kept] for row in [self._header, *rows])
        return text.getvalue().encode()

    @property
    def header(self) -> list[str]:
        """
        Names of the columns, as in the file.
        """
        return self._header


def plan(source: Source, uploads: int, chance: random.Random) -> Iterator[Upload]:
    """
    The files to upload: one in four is bad, and each kind of bad file comes in turn.

    Args:
        source: Where good customers come from.
        uploads: How many files; at least `FEWEST_UPLOADS` are made.
        chance: Picks users, and bytes of what is no CSV.
    """
    uploads = max(uploads, FEWEST_UPLOADS)
    bad_every = 4 if uploads >= 4 * len(BAD_KINDS) else 2
    largest = max(1, MOST_CUSTOMERS // uploads)
    kinds, sizes = itertools.cycle(BAD_KINDS), itertools.cycle(min(size, largest) for size in SIZES)
    for number in range(uploads):
        user = chance.choice(USERS)
        if number % bad_every == 1:
            kind = next(kinds)
            yield Upload(kind, user, bad_file(kind, source, chance), 0)
        else:
            rows = source.take(next(sizes))
            yield Upload(GOOD, user, source.file(rows), len(rows))


def bad_file(kind: str, source: Source, chance: random.Random) -> bytes:
    """
    A file of a bad kind.
    """
    rows = source.first(20)
    if kind == "not a CSV":
        return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + chance.randbytes(4_000)
    if kind == "cut off":
        whole = source.file(rows)
        half_row = ",".join(rows[-1][: len(rows[-1]) // 2])
        return whole + half_row.encode()
    if kind == "no rows":
        return source.file([])
    if kind == "missing columns":
        return source.file(rows, without=source.header[2:6])
    return b""


def run(uploads: Iterable[Upload], url: str, rate: float, on_answer: Callable[[Sent], None]) -> list[Sent]:
    """
    Upload files at a steady rate, a few at once.

    Args:
        uploads: What to send.
        url: The API's upload address.
        rate: Uploads per second.
        on_answer: Told of each answer, in this thread.

    Returns:
        Every upload with its answer.
    """
    answers: list[Sent] = []
    waiting: set[Future[Sent]] = set()
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        with httpx.Client(timeout=60, trust_env=False) as http:
            for upload in _paced(uploads, rate):
                waiting.add(pool.submit(_send, http, url, upload))
                done = {future for future in waiting if future.done()}
                waiting -= done
                _collect(done, answers, on_answer)
            _collect(as_completed(waiting), answers, on_answer)
    finally:
        # After an error or Ctrl-C, what has not been sent yet is not sent any more.
        pool.shutdown(cancel_futures=True)
    return answers


def _collect(done: Iterable[Future[Sent]], answers: list[Sent], on_answer: Callable[[Sent], None]) -> None:
    for future in done:
        answers.append(future.result())
        on_answer(answers[-1])


def _paced(uploads: Iterable[Upload], rate: float) -> Iterator[Upload]:
    started = time.monotonic()
    for number, upload in enumerate(uploads):
        time.sleep(max(0.0, started + number / rate - time.monotonic()))
        yield upload


def _send(http: httpx.Client, url: str, upload: Upload) -> Sent:
    files = {"file": ("customers.csv", upload.data, "text/csv")}
    response = http.post(url, data={"user_id": upload.user_id}, files=files)
    return Sent(upload, response.status_code)
