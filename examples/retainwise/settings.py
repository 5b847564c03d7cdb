"""
What the API and the worker are told by their environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "BOX_"


class Settings(NamedTuple):
    """
    Where everything is.

    Attributes:
        bucket: S3 bucket of uploaded files.
        queue_url: SQS queue of jobs.
        database: SQLite file of predictions.
        model: File of the trained model.
        tally: File the process leaves its tally in.
        name: What people call the process.
        port: Loopback port of the API; 0 for a worker.
    """

    bucket: str
    queue_url: str
    database: Path
    model: Path
    tally: Path
    name: str
    port: int = 0

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """
        Read what `as_environ` wrote.

        Raises:
            KeyError: A variable is missing; its name is the message.
        """
        text = {field: environ[PREFIX + field.upper()] for field in cls._fields}
        return cls(
            text["bucket"],
            text["queue_url"],
            Path(text["database"]),
            Path(text["model"]),
            Path(text["tally"]),
            text["name"],
            int(text["port"]),
        )

    def as_environ(self) -> dict[str, str]:
        """
        The settings as environment variables.
        """
        return {PREFIX + field.upper(): str(value) for field, value in self._asdict().items()}
