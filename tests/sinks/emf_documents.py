"""
Documents of the tests: what CloudWatch would make of them, judged by the strict reader and by the published schema.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema

from retainwise_metrics.datum import Batch, Datum, Series
from retainwise_metrics.testing import EmfReader, ManualRuntime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SCHEMA = jsonschema.Draft202012Validator(
    json.loads((Path(__file__).parents[1] / "emf/emf_schema.json").read_text("utf-8"))
)
NOON = int(ManualRuntime().wall())
NAMESPACE = "Tests/Emf"


def check(reader: EmfReader) -> EmfReader:
    """Compare each document with the schema as well."""
    for document in reader.documents:
        SCHEMA.validate(document)
    return reader


def read(
    output: str | bytes | Iterable[bytes], *, now: Callable[[], float] = lambda: NOON, **options: Any
) -> EmfReader:
    """Read output of tests whose clock stands still."""
    return check(EmfReader(now=now, **options).read(output))


def datum(
    name: str = "M",
    values: dict[float, int] | None = None,
    *,
    at: int = NOON,
    unit: str = "None",
    resolution: int = 60,
    **dimensions: str,
) -> Datum:
    """A datum; values map to how often they occurred."""
    counted = {1.0: 1} if values is None else values
    series = Series(NAMESPACE, name, tuple(sorted(dimensions.items())), unit, resolution)
    return Datum(series, at, tuple(counted), tuple(counted.values()), sum(counted.values()))


def batch(*datums: Datum) -> Batch:
    """A batch of these datums."""
    return Batch(datums[0].series.namespace, datums, 0)


def contents(datums: Iterable[Datum]) -> dict[tuple[Any, ...], Counter[float]]:
    """What datums say: per name, dimensions, window, unit and resolution how often each value occurred."""
    found: dict[tuple[Any, ...], Counter[float]] = {}
    for each in datums:
        series = each.series
        key = (series.name, series.dimensions, each.timestamp, series.unit, series.resolution)
        found.setdefault(key, Counter()).update(dict(zip(each.values, each.counts, strict=True)))
    return found


def contents_of(reader: EmfReader) -> dict[tuple[Any, ...], Counter[float]]:
    """The same of what was read."""
    found: dict[tuple[Any, ...], Counter[float]] = {}
    for series in reader.series():
        for cell, statistics in reader._store.cells(series):
            key = (series.name, series.dimensions, cell.start, cell.unit, cell.resolution)
            found[key] = Counter({value: int(count) for value, count in statistics.values.items()})
    return found
