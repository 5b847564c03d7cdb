"""Settings: where each comes from, what is allowed, what is said about a wrong one."""

from __future__ import annotations

import logging
from collections import UserDict
from typing import TYPE_CHECKING, Any

import pytest

from retainwise_metrics import (
    CloudWatchMetrics,
    ConfigurationError,
    DimensionPolicy,
    MetricNamespace,
    MetricsConfig,
    MetricsError,
)
from retainwise_metrics.config import PREFIX, SETTINGS
from retainwise_metrics.testing import InMemorySink, ManualRuntime

if TYPE_CHECKING:
    from collections.abc import Mapping

OTHER: dict[str, tuple[object, str]] = {
    "environment": ("staging", "qa"),
    "enabled": (False, "true"),
    "force": (True, "false"),
    "strict": (True, "false"),
    "sink": ("memory", "cloudwatch"),
    "region": ("eu-west-1", "us-east-2"),
    "endpoint_url": ("http://localhost:1", "http://localhost:2"),
    "default_namespace": ("Other/Namespace", "Third/Namespace"),
    "emf_agent_endpoint": ("udp://127.0.0.1:7", "unix:///run/emf.sock"),
    "emf_log_group": ("/ecs/api", "/ecs/worker"),
    "emf_log_stream": ("one", "two"),
    "emf_values": ("object", "list"),
    "delivery": ("at-most-once", "at-least-once"),
    "failover": ("emf", "none"),
    "spool_dir": ("/var/spool/one", "/var/spool/two"),
    "spool_max_bytes": (2_000_000, "3000000"),
    "spool_max_age_seconds": (70.0, "80"),
    "batch_size": (7, "8"),
    "flush_interval_seconds": (7.5, "8.5"),
    "failure_threshold": (7, "8"),
    "open_seconds": (7.5, "8.5"),
    "max_open_seconds": (3600.0, "7200"),
    "on_open": ("reject", "hold"),
    "max_pending_datums": (700, "800"),
    "max_series": (7, "8"),
    "max_series_per_metric": (7, "8"),
    "max_distinct_values": (7, "8"),
    "self_metrics": (True, "true"),
    "connect_timeout_seconds": (7.5, "8.5"),
    "read_timeout_seconds": (7.5, "8.5"),
    "shutdown_timeout_seconds": (7.5, "8.5"),
    "pii_key": ("k1:one", "k2:two"),
}
"""For each setting two values that differ from its default: an argument, and a text for the environment."""

RANGES = {
    "batch_size": (1, 1000),
    "spool_max_bytes": (1_048_576, 1_099_511_627_776),
    "spool_max_age_seconds": (60, 1_209_600),
    "flush_interval_seconds": (0.1, 3600),
    "failure_threshold": (1, 1000),
    "open_seconds": (0.1, 86_400),
    "max_open_seconds": (0.1, 86_400),
    "max_pending_datums": (100, 10_000_000),
    "max_series": (1, 1_000_000),
    "max_series_per_metric": (1, 1_000_000),
    "max_distinct_values": (1, 1_000_000),
    "connect_timeout_seconds": (0.05, 60),
    "read_timeout_seconds": (0.05, 60),
    "shutdown_timeout_seconds": (0, 300),
}
NUMBERS = sorted(RANGES)
WHOLE = [name for name in NUMBERS if SETTINGS[name].kind is int]
SWITCHES = [name for name, setting in SETTINGS.items() if setting.kind is bool]
TEXTS = [name for name, setting in SETTINGS.items() if setting.kind is str]


def read_text(name: str, text: str) -> object:
    """What a text in the environment means for a setting."""
    kind = SETTINGS[name].kind
    return text == "true" if kind is bool else kind(text)


def from_env(environ: Mapping[str, str] | None = None, **overrides: Any) -> MetricsConfig:
    """A configuration of a deployment, so that `enabled` is not about the environment's name."""
    return MetricsConfig.from_env({"ENVIRONMENT": "production", **(environ or {})}, **overrides)


def refusal(build: object, *arguments: object, **settings: object) -> ConfigurationError:
    """What is said about a wrong setting."""
    with pytest.raises(ConfigurationError) as caught:
        build(*arguments, **settings)  # type: ignore[operator]
    assert isinstance(caught.value, (MetricsError, ValueError))
    return caught.value


# ---- where a value comes from ----


def test_the_table_of_this_test_knows_every_setting() -> None:
    """A new setting needs a line above."""
    assert OTHER.keys() == SETTINGS.keys()
    assert RANGES.keys() == {name for name, setting in SETTINGS.items() if setting.kind in (int, float)}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_has_a_default(name: str) -> None:
    """Without argument and variable, and with None for an argument."""
    assert getattr(MetricsConfig(), name) == SETTINGS[name].default
    assert getattr(MetricsConfig(**{name: None}), name) == SETTINGS[name].default
    if name != "environment":
        assert getattr(from_env(), name) == SETTINGS[name].default


@pytest.mark.parametrize("name", SETTINGS)
def test_an_argument_wins_over_the_environment_and_the_environment_over_the_default(name: str) -> None:
    """None as an argument leaves a setting to the environment."""
    argument, text = OTHER[name]
    environ = {PREFIX + name.upper(): text}
    assert getattr(MetricsConfig(**{name: argument}), name) == argument
    assert getattr(from_env(environ), name) == read_text(name, text)
    assert getattr(from_env(environ, **{name: argument}), name) == argument
    assert getattr(from_env(environ, **{name: None}), name) == read_text(name, text)


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("environment", ["RETAINWISE_METRICS_ENVIRONMENT", "ENVIRONMENT"]),
        ("enabled", ["RETAINWISE_METRICS_ENABLED", "CLOUDWATCH_METRICS_ENABLED"]),
        ("force", ["RETAINWISE_METRICS_FORCE", "FORCE_CLOUDWATCH"]),
        ("region", ["RETAINWISE_METRICS_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"]),
        ("endpoint_url", ["RETAINWISE_METRICS_ENDPOINT_URL", "AWS_ENDPOINT_URL_CLOUDWATCH", "AWS_ENDPOINT_URL"]),
        ("default_namespace", ["RETAINWISE_METRICS_DEFAULT_NAMESPACE", "AWS_EMF_NAMESPACE"]),
        ("emf_agent_endpoint", ["RETAINWISE_METRICS_EMF_AGENT_ENDPOINT", "AWS_EMF_AGENT_ENDPOINT"]),
        ("emf_log_group", ["RETAINWISE_METRICS_EMF_LOG_GROUP", "AWS_EMF_LOG_GROUP_NAME"]),
        ("emf_log_stream", ["RETAINWISE_METRICS_EMF_LOG_STREAM", "AWS_EMF_LOG_STREAM_NAME"]),
    ],
)
def test_the_first_variable_that_is_set_wins(name: str, variables: list[str]) -> None:
    """The library's own name, then the particular one, then the general one."""
    argument, text = OTHER[name]
    for first, variable in enumerate(variables):
        later = dict.fromkeys(variables[first + 1 :], str(argument))
        environ = {"ENVIRONMENT": "production", **later, variable: text}
        assert getattr(MetricsConfig.from_env(environ), name) == read_text(name, text)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_a_blank_variable_counts_as_not_set(name: str, blank: str) -> None:
    """Templates often render what is missing as nothing."""
    environ = {PREFIX + name.upper(): blank, "ENVIRONMENT": "production"}
    expected = "production" if name == "environment" else SETTINGS[name].default
    assert getattr(MetricsConfig.from_env(environ), name) == expected


def test_a_variable_may_have_blanks_around_its_value() -> None:
    """They come from files and are never meant."""
    assert from_env({"RETAINWISE_METRICS_BATCH_SIZE": " 50\n"}).batch_size == 50
    assert from_env({"AWS_REGION": " eu-west-1 "}).region == "eu-west-1"


def test_the_environment_of_the_process_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """`from_env()` is what a client without a configuration uses."""
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("RETAINWISE_METRICS_BATCH_SIZE", "50")
    assert MetricsConfig.from_env().batch_size == 50
    assert CloudWatchMetrics().config.batch_size == 50


# ---- what is allowed ----


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_taken_at_its_limits_and_refused_beyond(name: str) -> None:
    """The message names the setting or the variable, the value and both limits."""
    low, high = RANGES[name]
    kind = SETTINGS[name].kind
    for good in (low, high):
        assert getattr(MetricsConfig(**{name: kind(good)}), name) == good or name == "max_open_seconds"
        from_env({PREFIX + name.upper(): str(kind(good))})
    step = 1 if kind is int else 0.001
    for bad in (kind(low - step), kind(high + step)):
        for error, source in (
            (refusal(MetricsConfig, **{name: bad}), name),
            (refusal(from_env, {PREFIX + name.upper(): str(bad)}), PREFIX + name.upper()),
        ):
            assert error.setting == name
            assert str(error).startswith(f"{source} is {bad}")
            assert f"from {low} to {high}" in str(error)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("bad", ["many", "1e999", "nan", "-inf", "1,5", "0x10", "9" * 5000])
def test_a_variable_that_is_no_number_in_range_is_refused(name: str, bad: str) -> None:
    """The message names the variable and what it holds, cut to a readable length."""
    error = refusal(from_env, {PREFIX + name.upper(): bad})
    assert error.setting == name
    assert PREFIX + name.upper() in str(error)
    assert len(str(error)) < 300


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "bad", [True, "20", [20], 20j, float("nan"), float("inf"), 10**400, pytest.param(10**5000, id="giant"), b"20"]
)
def test_an_argument_that_is_no_number_in_range_is_refused(name: str, bad: object) -> None:
    """True is not the number 1, and text is for the environment."""
    assert refusal(MetricsConfig, **{name: bad}).setting == name


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_number_is_not_a_fraction(name: str) -> None:
    """And the message says so."""
    assert "a whole number" in str(refusal(MetricsConfig, **{name: 20.5}))
    assert "a whole number" in str(refusal(from_env, {PREFIX + name.upper(): "20.5"}))


def test_a_whole_number_is_taken_for_seconds() -> None:
    """Durations are floats, however they are written."""
    config = MetricsConfig(flush_interval_seconds=30)
    assert config.flush_interval_seconds == 30.0
    assert type(config.flush_interval_seconds) is float


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_understands_the_usual_words(name: str) -> None:
    """In any case."""
    variable = PREFIX + name.upper()
    for text in ("1", "true", "TRUE", "Yes", "on"):
        assert getattr(from_env({variable: text}), name) is True
    for text in ("0", "false", "FALSE", "No", "off"):
        assert getattr(from_env({variable: text}), name) is False
    for bad in ("2", "maybe", "none", "truthy"):
        error = refusal(from_env, {variable: bad})
        assert str(error) == f"{variable} is {bad!r}, but must be true or false"
    for bad_argument in (1, 0, "true", []):
        assert refusal(MetricsConfig, **{name: bad_argument}).setting == name


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("bad", ["", 5, b"x", ["x"], True])
def test_a_text_is_not_empty_and_not_something_else(name: str, bad: object) -> None:
    """An empty argument is a mistake; an empty variable is not set."""
    assert refusal(MetricsConfig, **{name: bad}).setting == name


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("sink", "cloudwatch, emf, emf-agent, otlp, memory"),
        ("on_open", "hold, reject"),
        ("emf_values", "list, object"),
        ("failover", "none, emf"),
    ],
)
def test_a_choice_names_the_others(name: str, choices: str) -> None:
    """The message lists what is allowed."""
    for error in (refusal(MetricsConfig, **{name: "x"}), refusal(from_env, {PREFIX + name.upper(): "x"})):
        assert "'x'" in str(error)
        assert f"one of {choices}" in str(error)


@pytest.mark.parametrize("bad", ["AWS/EC2", ":x", "a@b", "é", "n" * 256, " "])
def test_a_default_namespace_that_cloudwatch_refuses_is_refused_here(bad: str) -> None:
    """It would cost every record that names no namespace."""
    error = refusal(MetricsConfig, default_namespace=bad)
    assert error.setting == "default_namespace"
    assert "AWS/" in str(error)
    if bad.strip():
        refusal(from_env, {"RETAINWISE_METRICS_DEFAULT_NAMESPACE": bad})


@pytest.mark.parametrize(
    "bad",
    [
        "127.0.0.1:25888",
        "http://127.0.0.1:25888",
        "tcp://",
        "tcp://:25888",
        "tcp://host:port",
        "tcp://host:",
        "tcp://host:0",
        "tcp://host:65536",
        "tcp://host:25888/path",
        "unix://relative",
        "unix:///",
    ],
)
def test_an_endpoint_of_an_agent_that_cannot_be_one_is_refused(bad: str) -> None:
    """The message shows it, and the forms that are allowed."""
    for error in (refusal(MetricsConfig, emf_agent_endpoint=bad), refusal(from_env, {"AWS_EMF_AGENT_ENDPOINT": bad})):
        assert error.setting == "emf_agent_endpoint"
        assert repr(bad) in str(error)
        assert "tcp://HOST:PORT, udp://HOST:PORT, unix:///PATH or unixgram:///PATH" in str(error)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("emf_log_group", "with blank"),
        ("emf_log_group", "g" * 513),
        ("emf_log_group", "gr\u00fcn"),
        ("emf_log_stream", "a:b"),
        ("emf_log_stream", "a*"),
        ("emf_log_stream", "s" * 513),
    ],
)
def test_a_log_group_or_stream_that_cannot_be_made_is_refused(name: str, bad: str) -> None:
    """The agent would fail to make it, and tell nobody who reads the application's log."""
    assert "1 to 512" in str(refusal(MetricsConfig, **{name: bad}))


def test_an_enum_is_taken_for_its_text() -> None:
    """`MetricNamespace` members are namespaces; what is kept is plain text."""
    config = MetricsConfig(default_namespace=MetricNamespace.API)
    assert config.default_namespace == "RetainWise/API"
    assert type(config.default_namespace) is str


def test_an_unknown_setting_is_refused_with_the_known_ones() -> None:
    """A typo must not silently leave a default in place; its value is not repeated, it may be a secret."""
    error = refusal(MetricsConfig, pii_kye="k1:secret")
    assert error.setting == "pii_kye"
    assert "pii_key" in str(error)
    assert "secret" not in str(error)
    assert refusal(from_env, flush_interval=5).setting == "flush_interval"


@pytest.mark.parametrize("bad", [5, "Host=a", [("Host", "a")], {1: "a"}])
def test_default_dimensions_are_a_mapping_of_names(bad: object) -> None:
    """What cannot be read would cost every record."""
    error = refusal(MetricsConfig, default_dimensions=bad)
    assert error.setting == "default_dimensions"
    assert str(error).startswith("default_dimensions ")


def test_the_longest_open_time_is_at_least_the_first() -> None:
    """A longer first time raises the cap."""
    assert MetricsConfig(open_seconds=5_000.0).max_open_seconds == 5_000.0
    assert MetricsConfig(open_seconds=100.0).max_open_seconds == 1200.0


# ---- immutable ----


def test_nothing_can_be_changed_afterwards() -> None:
    """Neither set nor deleted, nor through what was passed in."""
    given: UserDict[str, object] = UserDict({"Host": "a"})
    catalogue: list[Any] = []
    config = MetricsConfig(default_dimensions=given, catalogue=catalogue)  # type: ignore[arg-type]
    for name in (*SETTINGS, "default_dimensions", "catalogue", "anything"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(config, name, 1)
        with pytest.raises(AttributeError, match="immutable"):
            delattr(config, name)
    given["Host"] = "b"
    catalogue.append("x")
    assert config.default_dimensions == {"Host": "a"}
    assert config.catalogue == ()
    with pytest.raises(TypeError):
        config.default_dimensions["Host"] = "b"  # type: ignore[index]


# ---- secrets ----


def test_the_key_is_shown_nowhere() -> None:
    """Not in repr, not in errors, not by a client or its policy."""
    secret = "correct horse battery staple"
    config = MetricsConfig(pii_key=f"k1:{secret}", batch_size=7)
    client = CloudWatchMetrics(config, sink=InMemorySink(), runtime=ManualRuntime())
    client.put_metric("M", 1, dimensions={"UserId": "u"})
    said = [repr(config), repr(client), repr(client.stats()), repr(client._policy), str(config)]
    said += [str(refusal(MetricsConfig, pii_key=bad)) for bad in ([secret], {secret: 1}, secret.encode())]
    said += [str(refusal(_client_with_key, f"K1 {secret}:{secret}"))]
    assert not [text for text in said if "horse" in text]
    assert "pii_key=***" in repr(config)
    assert "batch_size=7" in repr(config)


def _client_with_key(key: str) -> CloudWatchMetrics:
    return CloudWatchMetrics(MetricsConfig(pii_key=key), sink=InMemorySink())


def test_a_repr_shows_what_differs_from_the_defaults() -> None:
    """So that a log line says how a client was set up."""
    assert repr(MetricsConfig()) == "MetricsConfig()"
    assert repr(MetricsConfig(on_open="reject", batch_size=5)) == "MetricsConfig(batch_size=5, on_open='reject')"


# ---- enabled or not ----


@pytest.mark.parametrize(
    ("environ", "overrides", "enabled"),
    [
        ({}, {}, False),
        ({"ENVIRONMENT": "development"}, {}, False),
        ({"ENVIRONMENT": "test"}, {}, False),
        ({"ENVIRONMENT": "TEST"}, {}, False),
        ({"ENVIRONMENT": " test "}, {}, False),
        ({"ENVIRONMENT": "staging"}, {}, True),
        ({"ENVIRONMENT": "production"}, {}, True),
        ({"ENVIRONMENT": "testing"}, {}, True),
        ({"ENVIRONMENT": "test", "FORCE_CLOUDWATCH": "true"}, {}, True),
        ({"ENVIRONMENT": "test", "FORCE_CLOUDWATCH": "false"}, {}, False),
        ({"ENVIRONMENT": "test", "CLOUDWATCH_METRICS_ENABLED": "true"}, {}, False),
        ({"ENVIRONMENT": "production", "CLOUDWATCH_METRICS_ENABLED": "false"}, {}, False),
        ({"FORCE_CLOUDWATCH": "true", "CLOUDWATCH_METRICS_ENABLED": "false"}, {}, False),
        ({"ENVIRONMENT": "test"}, {"enabled": True}, True),
        ({"ENVIRONMENT": "test"}, {"enabled": None}, False),
        ({"ENVIRONMENT": "test"}, {"force": True}, True),
        ({"ENVIRONMENT": "test"}, {"environment": "production"}, True),
        ({"ENVIRONMENT": "production"}, {"environment": "test"}, False),
        ({"ENVIRONMENT": "production"}, {"enabled": False}, False),
        ({"ENVIRONMENT": "production", "CLOUDWATCH_METRICS_ENABLED": "false"}, {"enabled": True}, True),
        ({"ENVIRONMENT": "test"}, {"sink": "emf"}, False),
        ({"ENVIRONMENT": "test", "RETAINWISE_METRICS_SINK": "emf-agent"}, {}, False),
        ({"ENVIRONMENT": "test", "FORCE_CLOUDWATCH": "true"}, {"sink": "emf"}, True),
        ({"ENVIRONMENT": "test"}, {"sink": "memory"}, True),
        ({"ENVIRONMENT": "test", "RETAINWISE_METRICS_SINK": "memory"}, {}, True),
        ({"ENVIRONMENT": "test", "CLOUDWATCH_METRICS_ENABLED": "0"}, {"sink": "memory"}, False),
    ],
)
def test_when_a_client_is_enabled(environ: dict[str, str], overrides: dict[str, Any], enabled: bool) -> None:
    """Quiet in tests and on developers' machines, unless somebody insists or nothing leaves the process."""
    assert MetricsConfig.from_env(environ, **overrides).enabled is enabled


@pytest.mark.parametrize(
    ("environ", "remedy", "cure"),
    [
        ({}, "ENVIRONMENT is 'development'", {"ENVIRONMENT": "production"}),
        ({"ENVIRONMENT": "test"}, "FORCE_CLOUDWATCH=true", {"FORCE_CLOUDWATCH": "true"}),
        (
            {"ENVIRONMENT": "production", "CLOUDWATCH_METRICS_ENABLED": "false"},
            "CLOUDWATCH_METRICS_ENABLED",
            {"CLOUDWATCH_METRICS_ENABLED": "true"},
        ),
    ],
)
def test_a_disabled_client_says_once_why_and_what_to_change(
    environ: dict[str, str], remedy: str, cure: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """One line at WARNING, and doing what it says helps."""
    client = CloudWatchMetrics(MetricsConfig.from_env(environ), sink=InMemorySink(), runtime=ManualRuntime())
    for _ in range(3):
        assert client.put_metric("M", 1) is False
        client.counter("C").inc()
        client.start()
    (line,) = caplog.records
    assert (line.name, line.levelno) == ("retainwise_metrics", logging.WARNING)
    assert remedy in line.getMessage()
    assert MetricsConfig.from_env({**environ, **cure}).enabled


def test_a_configuration_made_by_hand_is_enabled_whatever_its_environment_is_called() -> None:
    """Only `from_env` is careful: whoever writes `MetricsConfig(...)` means it."""
    assert MetricsConfig(environment="test").enabled
    assert not MetricsConfig(enabled=False).enabled


def test_the_policy_and_the_catalogue_are_kept_as_given() -> None:
    """They are objects, not settings of the environment."""
    policy = DimensionPolicy()
    config = MetricsConfig(dimension_policy=policy, catalogue=())
    assert config.dimension_policy is policy
    assert config.catalogue == ()
    assert MetricsConfig().catalogue is None


def test_a_password_in_an_endpoint_is_not_shown() -> None:
    """Neither in the settings' text nor in the error about another part of it."""
    config = MetricsConfig(endpoint_url="https://user:secret@proxy.example:8443/cloudwatch")
    assert repr(config) == "MetricsConfig(endpoint_url='https://***@proxy.example:8443/cloudwatch')"
    with pytest.raises(ConfigurationError) as caught:
        MetricsConfig(emf_agent_endpoint="ftp://user:secret@agent:25888")
    assert "secret" not in str(caught.value)
    assert "agent:25888" in str(caught.value)
