"""
Settings: arguments over environment over defaults, checked once, then frozen.

Every setting is declared once in `SETTINGS`: its type, default, range and meaning. The environment variable of a field is
`RETAINWISE_METRICS_<FIELD>`; a few also have a name of their own (`ENVIRONMENT`, `AWS_REGION`, ...).
"""

from __future__ import annotations

import os
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from .checks import checked_dimensions, checked_namespace, shown
from .exceptions import ConfigurationError, InvalidMetricError
from .namespaces import MetricNamespace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .catalogue import MetricSpec
    from .dimensions.policy import DimensionPolicy

PREFIX = "RETAINWISE_METRICS_"
QUIET_ENVIRONMENTS = ("test", "development")
SINKS = ("cloudwatch", "emf", "emf-agent", "otlp", "memory")
LOG_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/#")
"""Characters of a log group's name (CloudWatch Logs API, `CreateLogGroup`)."""
LOG_NAME_LENGTH = 512
"""Longest name of a log group or stream (CloudWatch Logs API)."""
TRUE = ("1", "true", "yes", "on")
FALSE = ("0", "false", "no", "off")
SECRETS = ("pii_key",)
"""Settings whose value is never shown."""


class Setting(NamedTuple):
    """
    One setting.

    Attributes:
        default: Value when neither an argument nor the environment gives one.
        kind: `int`, `float`, `bool` or `str`.
        allowed: What is allowed, in words, for error messages.
        accepts: Whether a value of the right type is allowed.
        meaning: For the documentation.
        variables: Environment variables besides `RETAINWISE_METRICS_<NAME>`, first one set wins.
    """

    default: Any
    kind: type
    allowed: str
    accepts: Callable[[Any], bool]
    meaning: str
    variables: tuple[str, ...] = ()


def _between(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: low <= value <= high


def _number(default: float, low: float, high: float, meaning: str, kind: type = float) -> Setting:
    what = "a whole number" if kind is int else "a number"
    return Setting(default, kind, f"{what} from {low} to {high}", _between(low, high), meaning)


def _choice(default: str, choices: tuple[str, ...], meaning: str) -> Setting:
    return Setting(default, str, f"one of {', '.join(choices)}", lambda value: value in choices, meaning)


def _text(meaning: str, *variables: str, default: str | None = None) -> Setting:
    return Setting(default, str, "a non-empty string", bool, meaning, variables)


def _namespace(default: str, meaning: str, *variables: str) -> Setting:
    allowed = 'a namespace: 1 to 255 letters, digits, blanks and . - _ / # :, not starting with ":" or "AWS/"'
    return Setting(default, str, allowed, _is_namespace, meaning, variables)


def _endpoint(default: str, meaning: str, *variables: str) -> Setting:
    allowed = "tcp://HOST:PORT, udp://HOST:PORT, unix:///PATH or unixgram:///PATH"
    return Setting(default, str, allowed, _is_endpoint, meaning, variables)


def _is_endpoint(text: str) -> bool:
    from .sinks.emf_agent import parse_endpoint  # imports sockets: only who sets it needs them

    try:
        parse_endpoint(text)
    except ValueError:
        return False
    return True


def _is_log_group(text: str) -> bool:
    return 0 < len(text) <= LOG_NAME_LENGTH and LOG_NAME_CHARACTERS.issuperset(text)


def _is_log_stream(text: str) -> bool:
    return 0 < len(text) <= LOG_NAME_LENGTH and text.isprintable() and not {":", "*"} & set(text)


def _is_namespace(text: str) -> bool:
    try:
        checked_namespace(text)
    except InvalidMetricError:
        return False
    return True


def _switch(meaning: str, *variables: str, default: bool) -> Setting:
    return Setting(default, bool, "true or false", lambda _: True, meaning, variables)


SETTINGS: dict[str, Setting] = {
    "environment": _text(
        "Name of the deployment; `test` and `development` disable the client.", "ENVIRONMENT", default="development"
    ),
    "enabled": _switch("Whether anything is recorded at all.", "CLOUDWATCH_METRICS_ENABLED", default=True),
    "force": _switch("Record in `test` and `development` too.", "FORCE_CLOUDWATCH", default=False),
    "strict": _switch("Raise `InvalidMetricError` for a bad record, for tests and CI.", default=False),
    "sink": _choice("cloudwatch", SINKS, "Where metrics go."),
    "region": _text("AWS region; without it boto3 decides.", "AWS_REGION", "AWS_DEFAULT_REGION"),
    "endpoint_url": _text(
        "CloudWatch endpoint; without it boto3 decides.", "AWS_ENDPOINT_URL_CLOUDWATCH", "AWS_ENDPOINT_URL"
    ),
    "default_namespace": _namespace(
        MetricNamespace.ML_PIPELINE.value, "Namespace of records that name none.", "AWS_EMF_NAMESPACE"
    ),
    "emf_agent_endpoint": _endpoint(
        "tcp://127.0.0.1:25888", "Where the CloudWatch agent listens, for `emf-agent`.", "AWS_EMF_AGENT_ENDPOINT"
    ),
    "emf_log_group": Setting(
        None,
        str,
        "a log group: 1 to 512 letters, digits and . _ - / #",
        _is_log_group,
        "Log group that the agent writes to; without it the agent decides.",
        ("AWS_EMF_LOG_GROUP_NAME",),
    ),
    "emf_log_stream": Setting(
        None,
        str,
        "a log stream: 1 to 512 printable characters without : and *",
        _is_log_stream,
        "Log stream that the agent writes to; without it the agent decides.",
        ("AWS_EMF_LOG_STREAM_NAME",),
    ),
    "emf_values": _choice(
        "list", ("list", "object"), "How documents hold values: each one, or once with its count (undocumented by AWS)."
    ),
    "delivery": _choice(
        "at-least-once",
        ("at-least-once", "at-most-once"),
        "What follows when a call fails that may have arrived: send again, or give up as `in-doubt`.",
    ),
    "failover": _choice(
        "none", ("none", "emf"), "Where batches go while the breaker is open: nowhere, or to standard output as EMF."
    ),
    "spool_dir": _text(
        "Folder on local disk for what cannot be delivered, shared by all processes of the service; without it nothing is kept on disk."
    ),
    "spool_max_bytes": _number(
        67_108_864, 1_048_576, 1_099_511_627_776, "Bytes on disk, per process; the oldest go first.", int
    ),
    "spool_max_age_seconds": _number(
        1_209_600.0, 60, 1_209_600, "Age from which values on disk are given up; CloudWatch takes two weeks."
    ),
    "batch_size": _number(20, 1, 1000, "Datums per PutMetricData call; at least 50 while 2,000 or more wait.", int),
    "flush_interval_seconds": _number(60.0, 0.1, 3600, "Seconds between two flushes."),
    "failure_threshold": _number(5, 1, 1000, "Failed calls in a row that open the breaker.", int),
    "open_seconds": _number(300.0, 0.1, 86_400, "Seconds the breaker stays open the first time."),
    "max_open_seconds": _number(1200.0, 0.1, 86_400, "Cap on the open time, which doubles with each failed probe."),
    "on_open": _choice(
        "hold", ("hold", "reject"), "What recording does while the breaker is open: keep minutes, or return False."
    ),
    "max_pending_datums": _number(
        50_000, 100, 10_000_000, "Datums held while nothing can be delivered; the oldest go first.", int
    ),
    "max_series": _number(10_000, 1, 1_000_000, "Series of the client with a place of their own.", int),
    "max_series_per_metric": _number(1_000, 1, 1_000_000, "Series of one metric with a place of their own.", int),
    "max_distinct_values": _number(1_000, 1, 1_000_000, "Distinct values kept exactly per series and minute.", int),
    "self_metrics": _switch(
        "Whether the client publishes what it drops, how long calls take, whether the breaker is open and how old its backlog is.",
        default=False,
    ),
    "connect_timeout_seconds": _number(3.0, 0.05, 60, "Seconds to connect, per call."),
    "read_timeout_seconds": _number(10.0, 0.05, 60, "Seconds to wait for the answer, per call."),
    "shutdown_timeout_seconds": _number(5.0, 0, 300, "Seconds that delivery may take when the process exits."),
    "pii_key": _text("Key for hashing personal data, optionally as `id:secret` so that a rotation is visible."),
}


class MetricsConfig:
    """
    How a client behaves; immutable.

    Args:
        settings: Any of `SETTINGS` by name; None means the default.
        default_dimensions: Dimensions of every record; a record's own win.
        dimension_policy: What happens to dimension values; None: the default rules with `pii_key`.
        catalogue: Metrics whose dimension sets, units and zeros are declared; None: those of RetainWise; `()`: none.

    Raises:
        ConfigurationError: A setting is unknown, has the wrong type or is out of range.
    """

    __slots__ = ("catalogue", "default_dimensions", "dimension_policy", *SETTINGS)

    # One attribute per setting; see SETTINGS for what each means.
    environment: str
    enabled: bool
    force: bool
    strict: bool
    sink: str
    region: str | None
    endpoint_url: str | None
    default_namespace: str
    emf_agent_endpoint: str
    emf_log_group: str | None
    emf_log_stream: str | None
    emf_values: str
    delivery: str
    failover: str
    spool_dir: str | None
    spool_max_bytes: int
    spool_max_age_seconds: float
    batch_size: int
    flush_interval_seconds: float
    failure_threshold: int
    open_seconds: float
    max_open_seconds: float
    on_open: str
    max_pending_datums: int
    max_series: int
    max_series_per_metric: int
    max_distinct_values: int
    self_metrics: bool
    connect_timeout_seconds: float
    read_timeout_seconds: float
    shutdown_timeout_seconds: float
    pii_key: str | None
    default_dimensions: Mapping[str, object]
    dimension_policy: DimensionPolicy | None
    catalogue: tuple[MetricSpec, ...] | None

    def __init__(
        self,
        *,
        default_dimensions: Mapping[str, object] | None = None,
        dimension_policy: DimensionPolicy | None = None,
        catalogue: tuple[MetricSpec, ...] | None = None,
        **settings: object,
    ) -> None:
        unknown = sorted(set(settings) - set(SETTINGS))
        if unknown:
            message = f"unknown setting {unknown[0]!r}; known settings are {', '.join(sorted(SETTINGS))}"
            raise ConfigurationError(message, setting=unknown[0])
        for name, setting in SETTINGS.items():
            value = settings.get(name)
            object.__setattr__(self, name, setting.default if value is None else _checked(name, setting, value, name))
        object.__setattr__(self, "default_dimensions", _frozen(default_dimensions))
        object.__setattr__(self, "dimension_policy", _policy(dimension_policy))
        object.__setattr__(self, "catalogue", _specs(catalogue))
        if self.max_open_seconds < self.open_seconds:
            object.__setattr__(self, "max_open_seconds", self.open_seconds)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> MetricsConfig:
        """
        Read the environment; arguments win over it.

        `ENVIRONMENT` being `test` or `development` (the default) disables the client unless `FORCE_CLOUDWATCH` is true, an argument
        says `enabled`, or nothing would leave the process anyway (`sink="memory"`). `CLOUDWATCH_METRICS_ENABLED=false` disables it
        in every environment, and only an argument wins over that.

        Args:
            environ: Variables to read; None: those of the process. An empty or blank one counts as not set.
            overrides: Arguments of `MetricsConfig`; None leaves a setting to the environment.

        Raises:
            ConfigurationError: A variable has the wrong type or is out of range; the message names it.
        """
        variables = os.environ if environ is None else _variables(environ)
        settings: dict[str, Any] = {}
        for name, setting in SETTINGS.items():
            found = _find(variables, name, setting)
            if found is not None:
                settings[name] = _checked(name, setting, _parse(name, setting, *found), found[0])
        given = {name: value for name, value in overrides.items() if value is not None}
        config = cls(**{**settings, **given})
        if config.is_quiet() and config.sink != "memory" and "enabled" not in given:
            object.__setattr__(config, "enabled", False)
        return config

    def is_quiet(self) -> bool:
        """
        Whether the environment is one in which nothing is recorded unless somebody insists.
        """
        return self.environment.lower() in QUIET_ENVIRONMENTS and not self.force

    def why_disabled(self) -> str:
        """
        What to change so that a client that is not `enabled` records.
        """
        if self.is_quiet():
            return f"ENVIRONMENT is {self.environment!r}; set it to the name of the deployment, or set FORCE_CLOUDWATCH=true"
        return "CLOUDWATCH_METRICS_ENABLED (or enabled=) is false; set it to true, or leave it out"

    def __setattr__(self, name: str, value: object) -> None:
        message = f"MetricsConfig is immutable: make a new one with {name}=..."
        raise AttributeError(message)

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __repr__(self) -> str:
        """All settings that differ from their default; the key is never shown."""
        changed = (name for name, setting in SETTINGS.items() if getattr(self, name) != setting.default)
        shown = (f"{name}={_shown(name, getattr(self, name))}" for name in changed)
        return f"MetricsConfig({', '.join(shown)})"


def _find(variables: Mapping[str, str], name: str, setting: Setting) -> tuple[str, str] | None:
    for variable in (PREFIX + name.upper(), *setting.variables):
        text = variables.get(variable, "").strip()
        if text:
            return variable, text
    return None


def _parse(name: str, setting: Setting, variable: str, text: str) -> object:
    try:
        return _parse_switch(text) if setting.kind is bool else setting.kind(text)
    except ValueError:
        message = f"{variable} is {_shown(name, text)}, but must be {setting.allowed}"
        raise ConfigurationError(message, setting=name) from None


def _parse_switch(text: str) -> bool:
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise ValueError(text)


def _checked(name: str, setting: Setting, value: object, source: str) -> object:
    # An exact match of types, so that True is not taken for the number 1; enums and other subclasses of str are taken as text.
    if setting.kind is str and issubclass(type(value), str):
        value = str.__str__(cast("str", value))
    right_type = type(value) is setting.kind or (setting.kind is float and type(value) is int)
    if not right_type or not setting.accepts(value):
        message = f"{source} is {_shown(name, value)}, but must be {setting.allowed}"
        raise ConfigurationError(message, setting=name)
    return setting.kind(value)


def _shown(name: str, value: object) -> str:
    if name in SECRETS:
        return "***"
    if type(value) is str:
        # A URL may carry a name and a password, longer than what is shown of it.
        scheme, found, rest = value.partition("://")
        if found and "@" in rest:
            value = f"{scheme}://***@{rest.rpartition('@')[2]}"
    return shown(value)


def _policy(policy: object) -> DimensionPolicy | None:
    if policy is None:
        return None
    from .dimensions.policy import DimensionPolicy

    if not issubclass(type(policy), DimensionPolicy):
        message = f"dimension_policy is {shown(policy)}, but must be a DimensionPolicy"
        raise ConfigurationError(message, setting="dimension_policy")
    return cast("DimensionPolicy", policy)


def _specs(catalogue: object) -> tuple[MetricSpec, ...] | None:
    if catalogue is None:
        return None
    from .catalogue import MetricSpec

    specs: tuple[MetricSpec, ...] | None = None
    if issubclass(type(catalogue), (tuple, list)):
        with suppress(Exception):  # a subclass may raise while it is read
            specs = tuple(cast("tuple[MetricSpec, ...]", catalogue))
    if specs is None or not all(type(spec) is MetricSpec for spec in specs):
        message = f"catalogue is {shown(catalogue)}, but must be a tuple of MetricSpec; () declares nothing"
        raise ConfigurationError(message, setting="catalogue")
    return specs


def _variables(environ: object) -> dict[str, str]:
    """
    Those that settings are read from, as they are at this moment.
    """
    wanted = [
        variable for name, setting in SETTINGS.items() for variable in (PREFIX + name.upper(), *setting.variables)
    ]
    try:
        found = {variable: cast("Mapping[str, object]", environ).get(variable, "") for variable in wanted}
        if all(issubclass(type(text), str) for text in found.values()):
            return {variable: str.__str__(cast("str", text)) for variable, text in found.items()}
    except Exception:  # noqa: BLE001, S110 - user code, and its error may show a value
        pass
    message = f"environ is {shown(environ)}, but must be a mapping from names of variables to texts, like os.environ"
    raise ConfigurationError(message, setting="environ")


def _frozen(dimensions: object) -> Mapping[str, object]:
    try:
        return MappingProxyType(checked_dimensions(dimensions))
    except InvalidMetricError as error:
        message = f"default_{error}"
        raise ConfigurationError(message, setting="default_dimensions") from None
