"""The namespaces RetainWise publishes to; any valid string is accepted where one of these is."""

from enum import Enum


class MetricNamespace(str, Enum):
    """
    A CloudWatch namespace of RetainWise; a member equals its wire spelling.
    """

    ML_PIPELINE = "RetainWise/MLPipeline"
    API = "RetainWise/API"
    WORKER = "RetainWise/Worker"
    DATABASE = "RetainWise/Database"
    METRICS = "RetainWise/Metrics"
    """What the client says about itself."""

    def __str__(self) -> str:
        """The wire spelling, in f-strings and logs too."""
        return self.value
