"""An AWS on loopback for the operators' commands, and a clock on which waiting takes no time."""

from __future__ import annotations

import os
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from moto.server import ThreadedMotoServer

from retainwise_metrics.cli.access import Access
from tests.cli.embedded_aws import REGION, Shims

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cli.embedded_aws import Faults

QUIET_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "retainwise-test",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    "AWS_REGION": REGION,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "*",
}


class ManualClock:
    """
    A clock that moves only by being waited on.
    """

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0
        self.waits: list[float] = []
        self.on_wait: Callable[[], None] = lambda: None

    def now(self) -> float:
        """The time so far."""
        return self.seconds

    def wait(self, seconds: float) -> None:
        """Move on at once."""
        self.waits.append(seconds)
        self.seconds += max(0.0, seconds)
        self.on_wait()


@pytest.fixture
def clock() -> ManualClock:
    """A clock that moves only by being waited on."""
    return ManualClock()


@pytest.fixture(scope="module")
def _server() -> Iterator[tuple[str, Shims]]:
    """One server for all tests of a module: starting one takes a second. Elsewhere moto is as it was."""
    shims = Shims()
    with pytest.MonkeyPatch.context() as patch:
        shims.patch(patch)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}", shims
        server.stop()


@pytest.fixture
def shims(_server: tuple[str, Shims]) -> Shims:
    """What moto is told to do differently; an empty AWS."""
    endpoint, shims = _server
    shims.reset()
    request = urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200
    return shims


@pytest.fixture
def faults(shims: Shims) -> Faults:
    """What is broken in this AWS."""
    return shims.faults


@pytest.fixture
def endpoint(shims: Shims, _server: tuple[str, Shims], monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of an empty AWS; the environment points nowhere else."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "RETAINWISE_"))]:
        monkeypatch.delenv(name)
    for name, value in QUIET_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", _server[0])
    return _server[0]


@pytest.fixture
def access(endpoint: str) -> Access:
    """Clients of the embedded AWS."""
    return Access(region=REGION, endpoint_url=endpoint)


@pytest.fixture
def topic(access: Access) -> str:
    """A topic with one confirmed address."""
    sns = access.client("sns")
    arn: str = sns.create_topic(Name="retainwise-cloudwatch-alerts")["TopicArn"]
    sns.subscribe(TopicArn=arn, Protocol="email", Endpoint="on-call@example.com")
    return arn


@pytest.fixture
def make_alarm(access: Access, topic: str) -> Callable[..., str]:
    """Make an alarm that tells the topic, with any setting of PutMetricAlarm changed."""

    def make(key: str, **settings: Any) -> str:
        name = f"retainwise-{key}"
        defaults: dict[str, Any] = {
            "AlarmDescription": f"CRITICAL | Something is wrong. | Runbook: https://example.com/runbooks.md#{key}",
            "Namespace": "RetainWise/Worker",
            "MetricName": "WorkerFailure",
            "Statistic": "Sum",
            "Period": 60,
            "EvaluationPeriods": 5,
            "Threshold": 1.0,
            "ComparisonOperator": "GreaterThanOrEqualToThreshold",
            "AlarmActions": [topic],
            "OKActions": [topic],
        }
        access.client("cloudwatch").put_metric_alarm(AlarmName=name, **(defaults | settings))
        return name

    return make
