"""
Where predictions end up: one SQLite file, shared by all workers.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Prediction = tuple[str, float]
"""Customer id, and the probability of leaving."""

WAIT_SECONDS = 30.0
"""How long a writer waits for another; SQLite has one writer at a time."""


class Predictions:
    """
    The table of predictions.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self) -> None:
        """
        Make the table, once, before anyone writes.
        """
        with closing(self._connect()) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE predictions (upload_id TEXT, customer_id TEXT, churn_probability REAL)")
            connection.execute("CREATE INDEX by_upload ON predictions (upload_id)")

    def save(self, upload_id: str, predictions: Iterable[Prediction]) -> None:
        """
        Replace the predictions of one upload, all or nothing, so that a job delivered twice does no harm.

        Raises:
            sqlite3.Error: Nothing was written.
        """
        rows = [(upload_id, customer_id, probability) for customer_id, probability in predictions]
        with closing(self._connect()) as connection, connection:
            connection.execute("DELETE FROM predictions WHERE upload_id = ?", (upload_id,))
            connection.executemany("INSERT INTO predictions VALUES (?, ?, ?)", rows)

    def count(self) -> int:
        """
        How many predictions there are.
        """
        with closing(self._connect()) as connection:
            (number,) = connection.execute("SELECT count(*) FROM predictions").fetchone()
        return int(number)

    def latest(self) -> dict[str, float]:
        """
        The probability of leaving, by customer id.
        """
        with closing(self._connect()) as connection:
            return dict(connection.execute("SELECT customer_id, churn_probability FROM predictions ORDER BY rowid"))

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=WAIT_SECONDS)
