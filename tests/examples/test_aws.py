"""The demo's AWS: it cannot be anybody's real one."""

import pytest

from examples.retainwise import aws


@pytest.mark.parametrize("url", ["http://127.0.0.1:5000", "http://127.8.8.8:1", "http://[::1]:5000"])
def test_loopback_addresses_pass(url: str) -> None:
    """An address on this machine is let through unchanged."""
    assert aws.require_loopback(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://monitoring.us-east-1.amazonaws.com",
        "http://10.0.0.1:5000",
        "http://localhost.example.com:5000",
        "http://127.0.0.1.example.com:5000",
        "http://127.0.0.1@example.com:5000",
        "127.0.0.1:5000",
    ],
)
def test_everything_else_is_refused(url: str) -> None:
    """A client is not even made for an address that may lead away from this machine."""
    with pytest.raises(aws.NotLoopbackError, match="loopback"):
        aws.client("cloudwatch", {"AWS_ENDPOINT_URL": url})


def test_nothing_of_the_users_account_is_inherited() -> None:
    """Credentials, profiles, endpoints, proxies and settings of this library are cleared; the rest stays."""
    mine = {
        "AWS_PROFILE": "production",
        "AWS_SECRET_ACCESS_KEY": "real",
        "AWS_SESSION_TOKEN": "real",
        "AWS_ENDPOINT_URL_CLOUDWATCH": "https://example.com",
        "HTTPS_PROXY": "http://proxy.example.com",
        "https_proxy": "http://proxy.example.com",
        "RETAINWISE_METRICS_SINK": "memory",
        "CLOUDWATCH_METRICS_ENABLED": "false",
        "PATH": "/bin",
    }
    environ = aws.environment("http://127.0.0.1:5000", mine)
    assert environ["PATH"] == "/bin"
    assert environ["AWS_ENDPOINT_URL"] == "http://127.0.0.1:5000"
    kept = {name for name, value in mine.items() if environ.get(name) == value}
    assert kept == {"PATH"}
