"""A control plane for each test; the clients, which take longest to make, are made once."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.lambda_examples.world import World


@pytest.fixture(scope="session")
def clients() -> Callable[[str], Any]:
    """Clients that moto answers."""
    import boto3
    from botocore.config import Config
    from moto import mock_aws

    from tests.lambda_examples.world import REGION

    with mock_aws():
        session = boto3.Session("testing", "testing", region_name=REGION)

    @functools.cache
    def client(service: str) -> Any:
        # Errors reach the handlers at once; how often botocore asks again is botocore's affair.
        return session.client(service, config=Config(retries={"total_max_attempts": 1}))

    return client


@pytest.fixture
def world(
    clients: Callable[[str], Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    """Three healthy nodes, and the settings that all handlers share."""
    from moto import mock_aws
    from moto.ec2.models import amis

    from tests.lambda_examples.fleet import Fleet
    from tests.lambda_examples.world import CLUSTER, GROUP, IMAGE, World

    monkeypatch.setenv("CLUSTER_NAME", CLUSTER)
    monkeypatch.setenv("CONTROL_PLANE_GROUP", GROUP)
    # moto loads 1,300 images anew for every test; with a file of one's own, which it has read by now, it loads only that.
    monkeypatch.setattr(amis, "AMIS", [image for image in amis.AMIS if image["ami_id"] == IMAGE])
    monkeypatch.setenv("MOTO_AMIS_PATH", os.devnull)
    with mock_aws(), Fleet(tmp_path).served() as fleet:
        yield World(fleet, clients, capsys)
