"""Credentials that expire, renew, appear late or cannot be sent: nothing is lost, nothing is shown, nobody restarts."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics import BreakerState
from tests.concurrency.threads import FOREVER_SECONDS
from tests.helpers import LONGEST_FIRST_OPENING, NAMESPACE, assert_balanced
from tests.network.proxy import page, pass_on

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from retainwise_metrics import CloudWatchMetrics
    from retainwise_metrics.testing import FakeCloudWatch, ManualRuntime
    from tests.network.proxy import Behaviour, Link, Proxy

    Connect = Callable[..., CloudWatchMetrics]

EXPIRED = page(
    "400 Bad Request",
    b'{"__type": "com.amazon.coral.service#ExpiredTokenException", "message": "The security token is expired"}',
    b"x-amzn-RequestId: 1",
    b"x-amzn-query-error: ExpiredToken;Sender",
    kind=b"application/x-amz-json-1.0",
)


def only_for(key_id: str) -> Behaviour:
    """Whoever signs with another key is told that it has expired."""

    def behave(link: Link, request: bytes) -> None:
        if f"Credential={key_id}/".encode() in request:
            pass_on(link, request)
        else:
            link.client.sendall(EXPIRED)

    return behave


@pytest.fixture(autouse=True)
def _no_keys_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would win over all others."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def write_keys(folder: Path, key_id: str) -> None:
    """What a sidecar, or `aws sso login`, leaves on disk."""
    text = f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = x\naws_session_token = t\n"
    (folder / "credentials").write_text(text, encoding="utf-8")


def test_credentials_that_appear_late(
    connect: Connect, runtime: ManualRuntime, cloudwatch: FakeCloudWatch, tmp_path: Path
) -> None:
    """Without any the breaker opens at once; when they are there, what was held is delivered, without a restart."""
    client = connect()
    client.put_metric("M", 1)
    runtime.advance(60.0)
    stats = client.stats()
    assert (stats.breaker_state, stats.failed_calls, stats.pending) == (BreakerState.OPEN, 1, 1)
    assert "NoCredentials" in (stats.last_error or "")
    write_keys(tmp_path, "AKIDLATE")
    runtime.advance(LONGEST_FIRST_OPENING)
    assert client.stats()[:4] == (1, 1, 0, {})
    assert client.stats().breaker_state is BreakerState.CLOSED
    assert cloudwatch.count(NAMESPACE, "M") == 1


def test_keys_in_a_file_that_expire_and_are_replaced(
    connect: Connect, runtime: ManualRuntime, cloudwatch: FakeCloudWatch, proxy: Proxy, tmp_path: Path
) -> None:
    """boto3 reads the file once per client; the new keys are found all the same."""
    write_keys(tmp_path, "AKIDOLD")
    client = connect()
    client.put_metric("M", 1)
    assert client.flush(FOREVER_SECONDS)
    proxy.break_down(only_for("AKIDNEW"))
    client.put_metric("M", 2)
    runtime.advance(60.0)
    stats = client.stats()
    assert (stats.breaker_state, stats.failed_calls, stats.pending) == (BreakerState.OPEN, 3, 1)
    assert "ExpiredToken" in (stats.last_error or "")
    write_keys(tmp_path, "AKIDNEW")
    runtime.advance(LONGEST_FIRST_OPENING)
    assert client.stats()[:4] == (2, 2, 0, {})
    assert client.stats().breaker_state is BreakerState.CLOSED
    assert cloudwatch.values(NAMESPACE, "M") == {1.0: 1, 2.0: 1}


def test_keys_that_are_replaced_before_the_next_attempt(
    connect: Connect, runtime: ManualRuntime, proxy: Proxy, tmp_path: Path
) -> None:
    """One call fails, the next one has the new keys: the breaker stays closed."""
    write_keys(tmp_path, "AKIDOLD")
    client = connect()
    proxy.break_down(only_for("AKIDNEW"))
    client.put_metric("M", 1)
    client.flush(0.0)
    assert client.stats().failed_calls == 1
    write_keys(tmp_path, "AKIDNEW")
    runtime.advance(60.0)
    assert client.stats()[:4] == (1, 1, 0, {})
    assert (client.stats().failed_calls, client.stats().breaker_state) == (1, BreakerState.CLOSED)


def test_a_credential_process_that_renews(
    connect: Connect, runtime: ManualRuntime, cloudwatch: FakeCloudWatch, proxy: Proxy, tmp_path: Path
) -> None:
    """boto3 asks it again when what it said is about to expire; no call fails."""
    said, program = tmp_path / "said.json", tmp_path / "program.py"
    program.write_text(f"print(open({str(said)!r}).read())", encoding="utf-8")
    command = f'"{sys.executable}" -I -S "{program}"'
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {command}\n", encoding="utf-8")
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 300))  # boto3 renews ten minutes before
    client = connect()
    for key_id in ("AKIDFIRST", "AKIDSECOND"):
        keys = {"AccessKeyId": key_id, "SecretAccessKey": "x", "SessionToken": "t", "Expiration": soon, "Version": 1}
        said.write_text(json.dumps(keys), encoding="utf-8")
        proxy.break_down(only_for(key_id))
        client.put_metric("M", 1)
        assert client.flush(FOREVER_SECONDS), client.stats()
    assert (client.stats().calls, client.stats().failed_calls) == (2, 0)
    assert cloudwatch.count(NAMESPACE, "M") == 2


def test_a_credential_process_that_fails_for_a_while(
    connect: Connect, runtime: ManualRuntime, cloudwatch: FakeCloudWatch, tmp_path: Path
) -> None:
    """What it says while it fails is not repeated: it may be half of a secret."""
    program, works = tmp_path / "program.py", tmp_path / "works"
    program.write_text(
        f"import os, sys\nif not os.path.exists({str(works)!r}): sys.exit('hunter2')\n"
        """print('{"Version": 1, "AccessKeyId": "AKID", "SecretAccessKey": "x"}')""",
        encoding="utf-8",
    )
    command = f'"{sys.executable}" -I -S "{program}"'
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {command}\n", encoding="utf-8")
    client = connect()
    client.put_metric("M", 1)
    runtime.advance(60.0)
    assert (client.stats().breaker_state, client.stats().pending) == (BreakerState.OPEN, 1)
    assert "hunter2" not in (client.stats().last_error or "")
    works.touch()
    runtime.advance(LONGEST_FIRST_OPENING)
    assert client.stats()[:4] == (1, 1, 0, {})
    assert cloudwatch.count(NAMESPACE, "M") == 1


def test_nonsense_of_a_credential_process_at_renewal_is_no_reason_to_drop(
    connect: Connect, runtime: ManualRuntime, cloudwatch: FakeCloudWatch, tmp_path: Path
) -> None:
    """It has worked before, and prints something else than JSON now: what goes wrong while signing says nothing about the batch."""
    program, broken = tmp_path / "program.py", tmp_path / "broken"
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 300))
    keys = {"AccessKeyId": "AKID", "SecretAccessKey": "x", "SessionToken": "t", "Expiration": soon, "Version": 1}
    program.write_text(
        f"import os\nprint('nonsense' if os.path.exists({str(broken)!r}) else {json.dumps(keys)!r})\n", encoding="utf-8"
    )
    command = f'"{sys.executable}" -I -S "{program}"'
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {command}\n", encoding="utf-8")
    client = connect()
    client.put_metric("M", 1)
    assert client.flush(FOREVER_SECONDS)
    broken.touch()
    client.put_metric("M", 2)
    runtime.advance(60.0)
    assert client.stats()[:4] == (2, 1, 1, {})
    broken.unlink()
    runtime.advance(2 * LONGEST_FIRST_OPENING)
    assert client.stats()[:4] == (2, 2, 0, {})
    assert cloudwatch.count(NAMESPACE, "M") == 2


def test_refused_credentials_cost_one_client_per_refusal(
    connect: Connect, cloudwatch: FakeCloudWatch, tmp_path: Path
) -> None:
    """While they are good the client is kept, and other errors do not cost it."""
    write_keys(tmp_path, "AKID")
    client = connect()
    sink = client._pipeline._sink
    used = []
    for fault in (lambda: None, lambda: cloudwatch.faults.fail(503, 1), lambda: cloudwatch.faults.throttle(1)):
        fault()
        client.put_metric_sync("M", 1)
        used.append(sink._client)
    assert used[0] is used[1] is used[2] is not None
    cloudwatch.faults.deny(n=1)
    client.put_metric_sync("M", 1)
    assert sink._client is None
    assert_balanced(client)


@pytest.mark.parametrize("variable", ["AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"])
def test_a_secret_that_is_no_header_is_not_shown(
    variable: str,
    connect: Connect,
    runtime: ManualRuntime,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A newline at the end of a mounted secret is common; the exception that says so repeats the secret."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "AKIDGOOD")
    monkeypatch.setenv(variable, "hunter2\nhunter2")
    caplog.set_level("DEBUG")
    client = connect()
    client.put_metric("M", 1)
    runtime.advance(60.0)
    assert (client.stats().breaker_state, client.stats().pending) == (BreakerState.OPEN, 1)
    said = [line.getMessage() for line in caplog.records]
    assert [line for line in said if "circuit breaker is now open" in line]
    assert "hunter2" not in repr([said, client.stats(), client])


def test_a_password_in_the_endpoint_is_not_shown(
    connect: Connect, runtime: ManualRuntime, proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where boto3 repeats the URL that it could not reach."""
    write_keys(tmp_path, "AKID")
    proxy.refuse()
    client = connect(endpoint_url=f"http://jane:hunter2@127.0.0.1:{proxy.port}")
    client.put_metric("M", 1)
    runtime.advance(60.0)
    assert "127.0.0.1" in (client.stats().last_error or "")
    said = [line.getMessage() for line in caplog.records]
    assert said
    assert "hunter2" not in repr([said, client.stats(), client])
    proxy.accept()


def test_what_a_stranger_calls_its_error_is_not_repeated(
    connect: Connect, runtime: ManualRuntime, proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody writes lines of their own into the log."""
    write_keys(tmp_path, "AKID")
    answer = page("400 Bad Request", b'{"__type": "a\\n2026-01-01 CRITICAL all is lost"}', kind=b"application/json")
    proxy.break_down(lambda link, request: link.client.sendall(answer))
    client = connect()
    client.put_metric("M", 1)
    runtime.advance(60.0)
    assert client.stats().last_error == "SinkUnavailable: 400 from CloudWatch"
    assert not [line for line in caplog.records if "\n" in line.getMessage()]
