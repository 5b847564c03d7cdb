"""Terraform, run on copies of the module, without an account and without the operator's settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULE = Path(__file__).parents[2] / "infra"
PROVIDER = "registry.terraform.io/hashicorp/aws"
REQUIRED = "RETAINWISE_REQUIRE_TERRAFORM"
REGION = "eu-central-1"

# Nothing here may reach a real account, whatever the caller's environment holds.
_QUIET = {
    "AWS_ACCESS_KEY_ID": "retainwise-test",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    "AWS_REGION": REGION,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "CHECKPOINT_DISABLE": "1",
    "TF_IN_AUTOMATION": "1",
    "TF_INPUT": "0",
}


class Finished(NamedTuple):
    """
    A finished command.

    Attributes:
        code: Exit code.
        output: Standard output and standard error.
    """

    code: int
    output: str


def unavailable(reason: str) -> NoReturn:
    """Skip what needs Terraform, or fail where Terraform is required."""
    if os.environ.get(REQUIRED, "") not in {"", "0"}:
        pytest.fail(f"{reason} ({REQUIRED} is set)", pytrace=False)
    pytest.skip(f"{reason} (set {REQUIRED}=1 to make this a failure)")


def plugin_directory() -> Path | None:
    """Find an unpacked mirror of the AWS provider; None means that the registry has to do."""
    named = os.environ.get("TF_PLUGIN_DIR")
    optional = Path("/opt")
    candidates = [
        *([Path(named)] if named else []),
        Path.home() / ".terraform.d/plugins",
        Path("/usr/local/share/terraform/plugins"),
        Path("/usr/share/terraform/plugins"),
        *(sorted(optional.iterdir()) if optional.is_dir() else []),
    ]
    return next((path for path in candidates if (path / PROVIDER).is_dir()), None)


class Terraform:
    """
    One working directory with a root module in it.

    Args:
        directory: Where the root module is.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        executable = shutil.which("terraform")
        if executable is None:
            unavailable("terraform is not on the PATH")
        self._executable = executable

    def run(self, *arguments: str, timeout: float = 120) -> Finished:
        """Run one command; it is killed after `timeout` seconds."""
        done = subprocess.run(
            [self._executable, *arguments],
            cwd=self.directory,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Finished(done.returncode, done.stdout)

    def init(self) -> None:
        """Install the provider, from a mirror if there is one."""
        mirror = plugin_directory()
        source = [f"-plugin-dir={mirror}"] if mirror else []
        done = self.run("init", "-no-color", *source, timeout=300)
        if done.code:
            unavailable(f"terraform init found no AWS provider; TF_PLUGIN_DIR may name a mirror:\n{done.output}")

    def test_events(self, *files: str, verbose: bool) -> Iterator[dict[str, Any]]:
        """Run test files and yield what `terraform test -json` says."""
        options = ["-json", *(["-verbose"] if verbose else []), *(f"-filter=tests/{name}" for name in files)]
        log = self.directory / "events.jsonl"
        # A state carries the provider's whole schema, 14 MB each: one is held at a time.
        with log.open("wb") as out:
            subprocess.run(
                [self._executable, "test", *options],
                cwd=self.directory,
                env=self._environment(),
                stdout=out,
                stderr=subprocess.DEVNULL,
                timeout=180,
                check=False,
            )
        with log.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)
        log.unlink()

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_"))}
        cache = os.environ.get("TF_PLUGIN_CACHE_DIR")
        return kept | _QUIET | ({"TF_PLUGIN_CACHE_DIR": cache} if cache else {})


def copy_of_module(target: Path) -> Path:
    """Copy the module, so that neither state nor plugins end up in the repository."""
    shutil.copytree(MODULE, target, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    return target
