"""
The units CloudWatch knows.

Source: `StandardUnit` in botocore's CloudWatch service model (2010-08-01): 27 values, case-sensitive.
"""

from enum import Enum


class MetricUnit(str, Enum):
    """
    A CloudWatch unit; a member equals its wire spelling, so `"Count"` is accepted wherever a unit is.

    Data published with different units is kept in separate streams by CloudWatch: pick one unit per metric.
    """

    SECONDS = "Seconds"
    MICROSECONDS = "Microseconds"
    MILLISECONDS = "Milliseconds"
    BYTES = "Bytes"
    KILOBYTES = "Kilobytes"
    MEGABYTES = "Megabytes"
    GIGABYTES = "Gigabytes"
    TERABYTES = "Terabytes"
    BITS = "Bits"
    KILOBITS = "Kilobits"
    MEGABITS = "Megabits"
    GIGABITS = "Gigabits"
    TERABITS = "Terabits"
    PERCENT = "Percent"
    COUNT = "Count"
    BYTES_PER_SECOND = "Bytes/Second"
    KILOBYTES_PER_SECOND = "Kilobytes/Second"
    MEGABYTES_PER_SECOND = "Megabytes/Second"
    GIGABYTES_PER_SECOND = "Gigabytes/Second"
    TERABYTES_PER_SECOND = "Terabytes/Second"
    BITS_PER_SECOND = "Bits/Second"
    KILOBITS_PER_SECOND = "Kilobits/Second"
    MEGABITS_PER_SECOND = "Megabits/Second"
    GIGABITS_PER_SECOND = "Gigabits/Second"
    TERABITS_PER_SECOND = "Terabits/Second"
    COUNT_PER_SECOND = "Count/Second"
    NONE = "None"

    def __str__(self) -> str:
        """The wire spelling, in f-strings and logs too."""
        return self.value


class StorageResolution(int, Enum):
    """
    How finely CloudWatch stores a series, in seconds.

    One-second data is kept for three hours, minutes for 15 days (CloudWatch user guide, "Metrics retention").
    """

    HIGH = 1
    STANDARD = 60
