"""
What dimensions look like on the wire: numbers and paths in buckets, personal data hashed. No I/O, clock, thread or lock.
"""

from retainwise_metrics.dimensions.bucketing import (
    HASHED,
    UNCHANGED,
    NumberBuckets,
    PathTemplate,
    Rule,
    StatusClass,
)
from retainwise_metrics.dimensions.pii import Detector
from retainwise_metrics.dimensions.policy import DimensionPolicy, Resolved

__all__ = [
    "HASHED",
    "UNCHANGED",
    "Detector",
    "DimensionPolicy",
    "NumberBuckets",
    "PathTemplate",
    "Resolved",
    "Rule",
    "StatusClass",
]
