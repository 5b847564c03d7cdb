"""Terraform in tests: where it is missing they skip, unless it is required."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from examples.retainwise import terraform
from examples.retainwise.terraform import MODULE, copy_of_module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["MODULE", "REGION", "REQUIRED", "Terraform", "copy_of_module", "unavailable"]

REQUIRED = "RETAINWISE_REQUIRE_TERRAFORM"
REGION = "eu-central-1"


def unavailable(reason: str) -> NoReturn:
    """Skip what needs Terraform, or fail where Terraform is required."""
    if os.environ.get(REQUIRED, "") not in {"", "0"}:
        pytest.fail(f"{reason} ({REQUIRED} is set)", pytrace=False)
    pytest.skip(f"{reason} (set {REQUIRED}=1 to make this a failure)")


class Terraform(terraform.Terraform):
    """
    One working directory with a root module in it.

    Args:
        directory: Where the root module is.
    """

    def __init__(self, directory: Path) -> None:
        try:
            super().__init__(directory, region=REGION)
        except terraform.UnavailableError as error:
            unavailable(str(error))

    def init(self) -> None:
        """Install the provider, or skip."""
        try:
            super().init()
        except terraform.UnavailableError as error:
            unavailable(str(error))

    def test_events(self, *files: str, verbose: bool) -> Iterator[dict[str, Any]]:
        """Run test files and yield what `terraform test -json` says."""
        options = ["-json", *(["-verbose"] if verbose else []), *(f"-filter=tests/{name}" for name in files)]
        log = self.directory / "events.jsonl"
        # A state carries the provider's whole schema, 14 MB each: one is held at a time.
        with log.open("wb") as out:
            subprocess.run(
                [self.executable, "test", *options],
                cwd=self.directory,
                env=self.environment(),
                stdout=out,
                stderr=subprocess.DEVNULL,
                timeout=300,
                check=False,
            )
        with log.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)
        log.unlink()
