"""
What this library raises. In production, recording raises nothing at all: these appear in strict mode and while configuring.

    MetricsError
    +-- ConfigurationError (also a ValueError)    a setting is wrong
    +-- InvalidMetricError (also a ValueError)    a record breaks a rule of the API; only with strict=True
"""

from __future__ import annotations


class MetricsError(Exception):
    """
    The parent of everything this library raises.
    """


class ConfigurationError(MetricsError, ValueError):
    """
    A setting is wrong; the message names the setting, the value and what is allowed.

    Attributes:
        setting: Name of the setting, as in `MetricsConfig`.
    """

    def __init__(self, message: str, *, setting: str = "") -> None:
        super().__init__(message)
        self.setting = setting


class InvalidMetricError(MetricsError, ValueError):
    """
    A record breaks a rule of the CloudWatch API; the message names the thing, the limit and the remedy.

    The message never contains a dimension value: values may be personal data.

    Attributes:
        field: What was wrong: `"name"`, `"value"`, `"unit"`, `"namespace"`, `"dimensions"`, `"timestamp"` or `"storage_resolution"`.
    """

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field
