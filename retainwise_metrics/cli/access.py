"""
Which AWS a command talks to, and whether it may.

1. One `Access` makes every client of a command, so that what is shown is what is used.
2. What is on this machine may be touched freely. Anything else is shown first and asked for.
"""

from __future__ import annotations

import ipaddress
import os
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

_Item = TypeVar("_Item")

SERVICES: Final = ("cloudwatch", "sns", "sqs", "kms", "sts")
"""Every service a command may call."""


class Target(NamedTuple):
    """
    Where a command is about to work.

    Attributes:
        account: AWS account number.
        region: AWS region.
        endpoints: Addresses of the services, each once.
        operator: Who works, as AWS names the caller: the last part of the caller's ARN.
    """

    account: str
    region: str
    endpoints: tuple[str, ...]
    operator: str

    @property
    def is_loopback(self) -> bool:
        """Whether nothing outside this machine can be reached."""
        return bool(self.endpoints) and all(map(is_loopback, self.endpoints))


class Access:
    """
    Makes the clients of one command, all of one region and endpoint.
    """

    def __init__(self, *, region: str | None = None, endpoint_url: str | None = None) -> None:
        """
        Note where to go; nothing is called yet.

        Args:
            region: AWS region. None: AWS_REGION, as the library and the AWS CLI read it, else as boto3 finds it.
            endpoint_url: One address for all services. None: as boto3 finds it, or AWS itself.
        """
        self._region = region or os.environ.get("AWS_REGION") or None
        self._endpoint_url = endpoint_url
        self.client = cache(self._make_client)

    def target(self) -> Target:
        """
        Ask AWS who is calling.

        Returns:
            The account, region and endpoints that every client of this access works on.
        """
        identity = self.client("sts").get_caller_identity()
        clients = [self.client(service) for service in SERVICES]
        return Target(
            account=identity["Account"],
            region=self.client("cloudwatch").meta.region_name,
            endpoints=unique(client.meta.endpoint_url for client in clients),
            operator=identity["Arn"].rpartition("/")[2].rpartition(":")[2],
        )

    def _make_client(self, service: str) -> Any:
        import boto3
        from botocore.config import Config

        # A person is waiting: say soon that an address does not answer, but outlast throttling.
        patience = Config(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 5, "mode": "standard"})
        return boto3.client(service, region_name=self._region, endpoint_url=self._endpoint_url, config=patience)


def is_loopback(url: str) -> bool:
    """
    Tell whether an address is on this machine.

    Args:
        url: With scheme, such as `http://127.0.0.1:5000`.

    Returns:
        True for loopback addresses and the name `localhost`; False for every other name, wherever it may lead.
    """
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def unique(items: Iterable[_Item]) -> tuple[_Item, ...]:
    """
    Drop what was there before.

    Args:
        items: In any order.

    Returns:
        Each item once, in the order of first appearance.
    """
    return tuple(dict.fromkeys(items))
