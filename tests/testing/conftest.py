"""
A running fake CloudWatch, and real boto3 clients that try once and give up early.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config

from retainwise_metrics.testing.fake_cloudwatch import FakeCloudWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1_700_000_040.0
"""The server's clock in these tests: a whole minute."""


@pytest.fixture(scope="session")
def boto_session():
    """
    One boto3 session, since making the first client of a session is slow.
    """
    return boto3.session.Session(aws_access_key_id="x", aws_secret_access_key="x", region_name="us-east-1")


@pytest.fixture(scope="session")
def connect(boto_session):
    """
    Makes a client for a server, as a context manager.
    """

    @contextmanager
    def connect_to(server: FakeCloudWatch, **options: object) -> Iterator[object]:
        config = {"read_timeout": 5, "connect_timeout": 5, "retries": {"total_max_attempts": 1}, **options}
        client = boto_session.client("cloudwatch", endpoint_url=server.endpoint_url, config=Config(**config))
        try:
            yield client
        finally:
            client.close()

    return connect_to


@pytest.fixture
def cloudwatch():
    """
    A fresh server whose clock stands still.
    """
    with FakeCloudWatch(now=lambda: NOW) as server:
        yield server
