"""
Terraform, run on copies of the module in `infra/`, without an account and without the operator's settings.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

MODULE = Path(__file__).parents[2] / "infra"
PROVIDER = "registry.terraform.io/hashicorp/aws"
INIT_SECONDS = 300.0

ROOT = """
provider "aws" {
  region      = "%(region)s"
  access_key  = "retainwise-test"
  secret_key  = "not-a-secret"
  # moto's answers do not get better by asking again; a connection that breaks in the middle of one does.
  max_retries = 3

  endpoints {
    cloudwatch = "%(endpoint)s"
    iam        = "%(endpoint)s"
    kms        = "%(endpoint)s"
    sns        = "%(endpoint)s"
    sqs        = "%(endpoint)s"
    sts        = "%(endpoint)s"
  }
}
"""
"""Where the provider works: at `endpoint`, for every service that the module uses."""


class UnavailableError(RuntimeError):
    """
    There is no Terraform, or no AWS provider for it; the message says which.
    """


class Finished(NamedTuple):
    """
    A finished command.

    Attributes:
        code: Exit code.
        output: Standard output and standard error.
    """

    code: int
    output: str


class Terraform:
    """
    One working directory with a root module in it.

    Args:
        directory: Where the root module is.
        region: AWS region that the environment names.

    Raises:
        UnavailableError: There is no Terraform.
    """

    def __init__(self, directory: Path, *, region: str) -> None:
        self.directory = directory
        self._region = region
        executable = shutil.which("terraform")
        if executable is None:
            msg = "terraform is not on the PATH"
            raise UnavailableError(msg)
        self.executable = executable

    def run(self, *arguments: str, timeout: float = 120) -> Finished:
        """
        Run one command; it is killed after `timeout` seconds.
        """
        done = subprocess.run(
            [self.executable, *arguments],
            cwd=self.directory,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Finished(done.returncode, done.stdout)

    def init(self) -> None:
        """
        Install the provider, from a mirror if there is one.

        Raises:
            UnavailableError: There is none, here or in the registry.
        """
        mirror = plugin_directory()
        source = [f"-plugin-dir={mirror}"] if mirror else []
        done = self.run("init", "-no-color", *source, timeout=INIT_SECONDS)
        if done.code:
            msg = f"terraform init found no AWS provider; TF_PLUGIN_DIR may name a mirror:\n{done.output}"
            raise UnavailableError(msg)

    def environment(self) -> dict[str, str]:
        """
        The caller's environment without what leads to an account or changes how Terraform works.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_"))}
        cache = os.environ.get("TF_PLUGIN_CACHE_DIR")
        return kept | {
            "AWS_ACCESS_KEY_ID": "retainwise-test",
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
            "AWS_REGION": self._region,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "CHECKPOINT_DISABLE": "1",
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            **({"TF_PLUGIN_CACHE_DIR": cache} if cache else {}),
        }


def plugin_directory() -> Path | None:
    """
    Find an unpacked mirror of the AWS provider: `TF_PLUGIN_DIR`, or one in the usual folders.

    Returns:
        The mirror; None means that the registry has to do.
    """
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


def copy_of_module(target: Path) -> Path:
    """
    Copy the module, so that neither state nor plugins end up in the repository.

    Returns:
        `target`.
    """
    shutil.copytree(MODULE, target, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    return target
