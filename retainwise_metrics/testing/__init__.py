"""
Peers of the real parts, for tests: a clock that stands still, a sink that keeps what it is sent, a CloudWatch as strict as the real one.
"""

from retainwise_metrics.sinks.in_memory import InMemorySink, rejecting

from .fake_cloudwatch import FakeCloudWatch
from .manual_runtime import ManualRuntime

__all__ = ["FakeCloudWatch", "InMemorySink", "ManualRuntime", "rejecting"]
