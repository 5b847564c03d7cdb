"""
An AWS of our own: moto's server on a loopback port, and clients that can reach nothing else.

Its rules:

1. Nothing reaches a real account. The environment of every process is cleared of what points to AWS, credentials are
   dummies, and a client is only made for a loopback address.
2. `python -m examples.retainwise.aws PORT` is the server.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HOST = "127.0.0.1"
REGION = "us-east-1"
START_SECONDS = 30.0

_FOREIGN_PREFIXES = ("AWS_", "BOTO_", "CLOUDWATCH_", "RETAINWISE_", "MOTO_")
_FOREIGN_NAMES = frozenset({"ENVIRONMENT", "FORCE_CLOUDWATCH", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"})

_CLIENT_CONFIG = Config(
    connect_timeout=5,
    read_timeout=30,
    retries={"total_max_attempts": 3, "mode": "standard"},
    s3={"addressing_style": "path"},
)


class NotLoopbackError(RuntimeError):
    """
    A client was about to be made for an address outside this machine.
    """


def free_port() -> int:
    """
    A loopback port that nobody listens on at this moment.
    """
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def environment(endpoint_url: str, surroundings: Mapping[str, str]) -> dict[str, str]:
    """
    The environment of a process that can only see the embedded AWS.

    Args:
        endpoint_url: Where the embedded AWS listens.
        surroundings: The environment to start from; what it says of AWS, proxies and this library is left out.

    Returns:
        A new environment.
    """
    kept = {name: value for name, value in surroundings.items() if not _is_foreign(name)}
    return kept | {
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_ACCESS_KEY_ID": "retainwise-demo",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        # moto's server unzips a gzipped body twice and answers 500.
        "AWS_DISABLE_REQUEST_COMPRESSION": "true",
        "NO_PROXY": "*",
    }


def _is_foreign(name: str) -> bool:
    return name.upper().startswith(_FOREIGN_PREFIXES) or name.upper() in _FOREIGN_NAMES


def client(service: str, environ: Mapping[str, str] = os.environ) -> Any:
    """
    A boto3 client of the embedded AWS.

    Args:
        service: Such as `"s3"`.
        environ: Holds `AWS_ENDPOINT_URL`.

    Raises:
        NotLoopbackError: The endpoint is missing, or is not on this machine.
    """
    return boto3.client(
        service, endpoint_url=require_loopback(environ.get("AWS_ENDPOINT_URL", "")), config=_CLIENT_CONFIG
    )


def require_loopback(url: str) -> str:
    """
    Let an address pass only if it is on this machine.

    Returns:
        The address.

    Raises:
        NotLoopbackError: It is not.
    """
    host = urlsplit(url).hostname or ""
    try:
        if ipaddress.ip_address(host).is_loopback:
            return url
    except ValueError:
        pass
    msg = f"AWS_ENDPOINT_URL is {url!r}, and the demo only talks to a loopback address such as {HOST}."
    raise NotLoopbackError(msg)


def wait_until_up(endpoint_url: str, still_alive: Callable[[], None]) -> None:
    """
    Return when an HTTP server answers.

    Args:
        endpoint_url: The address to ask.
        still_alive: Called between attempts; raises when waiting is pointless.

    Raises:
        TimeoutError: It did not answer within `START_SECONDS`.
    """
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        still_alive()
        if _answers(endpoint_url):
            return
        time.sleep(0.05)
    message = f"{endpoint_url} did not answer within {START_SECONDS:.0f} s."
    raise TimeoutError(message)


def _answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _serve(port: int) -> None:
    from moto.server import main

    from examples.retainwise.alarm_actions import AlarmActions

    AlarmActions().install(setattr)
    main(["--host", HOST, "--port", str(port)])


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
