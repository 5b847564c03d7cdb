"""
Every limit of the CloudWatch API that this library keeps, with its source.

Sources: "model" is botocore's CloudWatch service model (2010-08-01, operation `PutMetricData` and its shapes);
"guide" is the CloudWatch user guide.
"""

from typing import Final

DATUMS_PER_CALL: Final = 1000
"""Most datums in one PutMetricData call (model: `PutMetricDataInput.MetricData`)."""

REQUEST_BYTES: Final = 950_000
"""
Most bytes of one request body, uncompressed.

The service's limit is 1 MB (model: operation text). Whether that is 10^6 or 2^20 and before or after gzip is not
stated, so the library stays below the smallest reading; the CloudWatch agent caps at 999,000 for the same reason.
"""

VALUES_PER_DATUM: Final = 150
"""Most distinct values in one datum (model: `MetricDatum.Values`)."""

VALUES_PER_RECORD: Final = 1000
"""Most distinct values that can be recorded at once (this library's own: what is folded under the lock is folded in small pieces)."""

RECORDED_AT_ONCE: Final = 2**53
"""Most measurements that can be recorded at once: `Counts` are doubles (model: `MetricDatum.Counts`), exact up to here."""

DIMENSIONS: Final = 30
"""Most dimensions of one datum (model: `MetricDatum.Dimensions`)."""

NAME_LENGTH: Final = 255
"""Longest metric name, namespace and dimension name, in characters (model: `MetricName`, `Namespace`, `DimensionName`)."""

DIMENSION_VALUE_LENGTH: Final = 1024
"""Longest dimension value, in characters (model: `DimensionValue`)."""

MAX_VALUE: Final = 2.0**360
"""Largest magnitude of a value; NaN and infinities are refused (model: `MetricDatum`)."""

PAST_SECONDS: Final = 14 * 24 * 3600
"""Oldest accepted timestamp: two weeks back (model: `MetricDatum.Timestamp`)."""

FUTURE_SECONDS: Final = 2 * 3600
"""Newest accepted timestamp: two hours ahead (model: `MetricDatum.Timestamp`)."""
