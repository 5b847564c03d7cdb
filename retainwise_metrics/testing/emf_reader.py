"""
Reads Embedded Metric Format as CloudWatch does, except that it never stays silent.

    emf = EmfReader().read(captured_stdout)
    assert emf.sum("RetainWise/API", "UploadSuccess", {"Endpoint": "/upload"}) == 1

CloudWatch tells nobody what it could not use: a document with 101 metrics, a metric with 101 values, NaN, a reference to a missing member
publish nothing, and an empty dimension value publishes the metric without any dimension. Each of these raises an `EmfError` here. The
extracted metrics must also satisfy the rules of `PutMetricData`, which are those of the fake CloudWatch.

Rules of the specification: "Embedded metric format", CloudWatch user guide. Stricter than that: a member twice in one object, a metric
twice in one document and a directive without metrics are refused, because one of the two would be lost or counted twice.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from retainwise_metrics.testing._fake_request import Datum, PutRequest, StatisticSet
from retainwise_metrics.testing._fake_rules import UNITS, check_put
from retainwise_metrics.testing._fake_store import Series, Statistics, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from typing_extensions import Self

_MARK: Final = '"_aws"'
_MAX_BYTES: Final = 256 * 1024
_MAX_METRICS: Final = 100
_MAX_VALUES: Final = 100
_MAX_DIMENSIONS: Final = 30
_MAX_KEY: Final = 250
_SUM_TOLERANCE: Final = 1e-9
_MILLISECONDS_FROM: Final = 100_000_000_000
"""As milliseconds the year 1973, as seconds the year 5138."""
_OBJECT_MEMBERS: Final = frozenset({"Count", "Sum", "Min", "Max"})


class EmfError(ValueError):
    """
    A line that CloudWatch would ignore, in whole or in part, or misread; the message says which line and why, without dimension values.
    """


class Extracted(NamedTuple):
    """
    One metric of one document under one dimension set.

    Attributes:
        namespace: Its namespace.
        datum: Its name, dimensions, time, unit, resolution and values.
    """

    namespace: str
    datum: Datum


class EmfReader:
    """
    Takes output and gives back series; all lines of all calls of `read` together.

    Attributes:
        documents: Every document, parsed, in order: for looking at properties, `LogGroupName` and the like.
        other_lines: Every line that does not claim to be a document, without its newline. Blank lines are left out.
    """

    def __init__(
        self, *, now: Callable[[], float] | None = None, max_bytes: int = _MAX_BYTES, objects: bool = False
    ) -> None:
        """
        Prepare a reader.

        Args:
            now: Seconds since the epoch, for the window of accepted timestamps; None reads the system's clock.
            max_bytes: Largest accepted document, its newline included.
            objects: Whether a metric may be an object of statistics, which EMF does not document and AWS's exporters write.
        """
        self._now = now if now is not None else lambda: time.time()  # noqa: PLW0108  looked up late: tests may freeze it
        self._max_bytes = max_bytes
        self._objects = objects
        self._store = Store()
        self._lines = 0
        self.documents: list[dict[str, Any]] = []
        self.other_lines: list[str] = []

    def read(self, output: str | bytes | Iterable[str | bytes]) -> Self:
        """
        Take more output: text, bytes, or lines.

        Raises:
            EmfError: A line claims to be a document (it mentions `"_aws"`) and breaks a rule. Nothing of it is kept.
        """
        for line in _lines(output):
            self._lines += 1
            try:
                self._read_line(line)
            except EmfError as error:
                message = f"line {self._lines}: {error}"
                raise EmfError(message) from None
        return self

    def _read_line(self, line: str) -> None:
        if _MARK not in line:
            if line.strip():
                self.other_lines.append(line)
            return
        size = len(line.encode("utf-8", "surrogatepass")) + 1
        if size > self._max_bytes:
            _refuse(f"the document has {size} bytes, more than {self._max_bytes}")
        document = _parse(line)
        extracted = list(_extract(document, objects=self._objects))
        self._check_downstream(extracted)
        self.documents.append(document)
        for namespace, datum in extracted:
            self._store.add(PutRequest(namespace, (datum,), has_entities=False), received=self._now())

    def _check_downstream(self, extracted: list[Extracted]) -> None:
        for namespace, datum in extracted:
            request = PutRequest(namespace, (datum,), has_entities=False)
            problems = check_put(request, now=self._now())
            if problems:
                _refuse(f"metric {datum.name!a}: {problems[0].message}")

    # What CloudWatch would show

    def statistics(
        self,
        namespace: str,
        name: str,
        dimensions: Mapping[str, str] | None = None,
        *,
        minute: float | None = None,
        unit: str | None = None,
    ) -> Statistics:
        """
        All statistics of one series.

        Args:
            namespace: Its namespace.
            name: Its metric name.
            dimensions: Exactly its dimensions; None and an empty mapping mean the series without dimensions.
            minute: Start of the only minute to look at, in epoch seconds; None: all of them.
            unit: The only unit to look at; None: all of them.
        """
        start, end = (-math.inf, math.inf) if minute is None else (minute, minute + 60)
        return self._store.statistics(Series.of(namespace, name, dimensions), start=start, end=end, unit=unit)

    def sum(self, namespace: str, name: str, dimensions: Mapping[str, str] | None = None) -> float:
        """
        Sum of one series; 0 when it has no data. Arguments as for `statistics`.
        """
        return self.statistics(namespace, name, dimensions).total

    def count(self, namespace: str, name: str, dimensions: Mapping[str, str] | None = None) -> float:
        """
        Number of measurements of one series; 0 when it has no data. Arguments as for `statistics`.
        """
        return self.statistics(namespace, name, dimensions).count

    def minimum(self, namespace: str, name: str, dimensions: Mapping[str, str] | None = None) -> float | None:
        """
        Smallest value of one series; None when it has no data. Arguments as for `statistics`.
        """
        return self.statistics(namespace, name, dimensions).statistic("Minimum")

    def maximum(self, namespace: str, name: str, dimensions: Mapping[str, str] | None = None) -> float | None:
        """
        Largest value of one series; None when it has no data. Arguments as for `statistics`.
        """
        return self.statistics(namespace, name, dimensions).statistic("Maximum")

    def percentile(
        self, namespace: str, name: str, dimensions: Mapping[str, str] | None, percent: float
    ) -> float | None:
        """
        Percentile of one series by nearest rank, `percent` from 0 to 100; None when CloudWatch has none: no data, or a negative value.
        """
        return self.statistics(namespace, name, dimensions).percentile(percent)

    def values(self, namespace: str, name: str, dimensions: Mapping[str, str] | None = None) -> dict[float, float]:
        """
        Every value of one series with how often it occurred. Arguments as for `statistics`.
        """
        return self.statistics(namespace, name, dimensions).values

    def windows(
        self, namespace: str, name: str, dimensions: Mapping[str, str] | None = None
    ) -> dict[int, dict[float, float]]:
        """
        The values of one series by when they were recorded: the start of the minute (of the second at a resolution of 1) in epoch seconds.
        """
        found: dict[int, Statistics] = {}
        for cell, statistics in self._store.cells(Series.of(namespace, name, dimensions)):
            found.setdefault(cell.start, Statistics()).merge(statistics)
        return {start: found[start].values for start in sorted(found)}

    def series(self) -> list[Series]:
        """
        Every series that has data: namespace, name and sorted pairs of dimensions.
        """
        return self._store.series()

    def total_count(self) -> float:
        """
        All measurements of all series.
        """
        return self._store.total_count()

    def __repr__(self) -> str:
        return f"<EmfReader {len(self.documents)} documents, {len(self.series())} series, {self.total_count():g} measurements>"


def _lines(output: str | bytes | Iterable[str | bytes]) -> Iterator[str]:
    for piece in [output] if isinstance(output, (str, bytes)) else output:
        text = piece.decode("utf-8", "surrogateescape") if isinstance(piece, bytes) else piece
        yield from text.removesuffix("\n").split("\n")  # not splitlines: only a newline ends a log event


# ---- one document ----


def _parse(line: str) -> dict[str, Any]:
    try:
        document = json.loads(line, object_pairs_hook=_without_doubles, parse_constant=_refuse_constant)
    except EmfError:
        raise
    except ValueError as error:
        _refuse(f"something stands before or after the document, or it is not JSON: {error}")
    return _object(document, "the document")


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        double = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        _refuse(f"member {double!a} stands twice in one object; only one of them would be read")
    return found


def _refuse_constant(name: str) -> NoReturn:
    _refuse(f"{name} is not JSON")


def _extract(document: dict[str, Any], *, objects: bool) -> Iterator[Extracted]:
    metadata = _object(document.get("_aws"), "_aws")
    timestamp = _timestamp(metadata.get("Timestamp"))
    for name in ("LogGroupName", "LogStreamName"):
        if name in metadata and not (isinstance(metadata[name], str) and metadata[name]):
            _refuse(f"_aws.{name} is not a text")
    directives = _list(metadata.get("CloudWatchMetrics"), "_aws.CloudWatchMetrics")
    if not directives:
        _refuse("_aws.CloudWatchMetrics is empty: nothing would be published")
    published: set[tuple[str, str]] = set()
    for directive in directives:
        for extracted in _extract_directive(document, _object(directive, "a directive"), timestamp, objects=objects):
            published_as = f"{extracted.namespace} {extracted.datum.dimensions}", str(extracted.datum.name)
            if published_as in published:
                _refuse(f"metric {extracted.datum.name!a} stands twice under one dimension set: it would count twice")
            published.add(published_as)
            yield extracted


def _timestamp(value: object) -> float:
    if not isinstance(value, int) or isinstance(value, bool):
        _refuse("_aws.Timestamp is not a whole number of milliseconds")
    if value < _MILLISECONDS_FROM:
        _refuse("_aws.Timestamp looks like seconds; it is in milliseconds")
    return value / 1000


def _extract_directive(
    document: dict[str, Any], directive: dict[str, Any], timestamp: float, *, objects: bool
) -> Iterator[Extracted]:
    namespace = directive.get("Namespace")
    if not isinstance(namespace, str):
        _refuse("Namespace is not a text")
    sets = _dimension_sets(document, _list(directive.get("Dimensions"), "Dimensions"))
    metrics = _list(directive.get("Metrics"), "Metrics")
    if not 1 <= len(metrics) <= _MAX_METRICS:
        _refuse(f"a directive has {len(metrics)} metrics instead of 1 to {_MAX_METRICS}: none would be published")
    for definition in metrics:
        datum = _datum(document, _object(definition, "a metric definition"), timestamp, objects=objects)
        for pairs in sets:
            if datum.name in dict(pairs):
                _refuse(f"metric {datum.name!a} has the name of one of its dimensions")
            yield Extracted(namespace, datum._replace(dimensions=pairs))


def _dimension_sets(document: dict[str, Any], sets: list[object]) -> list[tuple[tuple[str, str], ...]]:
    if not sets:
        _refuse("Dimensions is empty; the set without dimensions is [[]]")
    found = [_dimension_set(document, _list(keys, "a dimension set")) for keys in sets]
    if len({frozenset(pairs) for pairs in found}) < len(found):
        _refuse("one dimension set stands twice: its metrics would count twice")
    return found


def _dimension_set(document: dict[str, Any], keys: list[object]) -> tuple[tuple[str, str], ...]:
    if len(keys) > _MAX_DIMENSIONS:
        _refuse(f"a dimension set has {len(keys)} keys, more than {_MAX_DIMENSIONS}")
    pairs = []
    for key in keys:
        if not isinstance(key, str) or not 1 <= len(key) <= _MAX_KEY:
            _refuse(f"a dimension key is not a text of 1 to {_MAX_KEY} characters")
        value = document.get(key)
        if key == "_aws" or key not in document:
            _refuse(f"dimension {key!a} refers to a member that is missing")
        if not isinstance(value, str) or not value.strip():
            _refuse(f"dimension {key!a} is not a text, or blank: the metric would be published without dimensions")
        pairs.append((key, value))
    return tuple(sorted(pairs))


def _datum(document: dict[str, Any], definition: dict[str, Any], timestamp: float, *, objects: bool) -> Datum:
    name = definition.get("Name")
    if not isinstance(name, str) or name == "_aws" or name not in document:
        _refuse(f"metric {name!a} refers to a member that is missing")
    unit, resolution = definition.get("Unit", "None"), definition.get("StorageResolution", 60)
    if unit not in UNITS:
        _refuse(f"metric {name!a} has the unit {unit!a}, which is none of CloudWatch's")
    if resolution not in (1, 60) or isinstance(resolution, bool):
        _refuse(f"metric {name!a} has a storage resolution other than 1 and 60")
    target = document[name]
    if objects and isinstance(target, dict):
        values, statistics = _from_object(target, name)
    else:
        values, statistics = _from_numbers(target, name), None
    distinct, counts = tuple(values), tuple(map(float, values.values()))
    return Datum(name, (), timestamp, None, distinct, counts, statistics, unit, resolution, definition)


def _from_numbers(target: object, name: str) -> Counter[float]:
    items = target if isinstance(target, list) else [target]
    if not 1 <= len(items) <= _MAX_VALUES:
        _refuse(f"metric {name!a} has {len(items)} values instead of 1 to {_MAX_VALUES}: it would be ignored")
    return Counter(_number(item, name) for item in items)


def _from_object(target: dict[str, Any], name: str) -> tuple[Counter[float], StatisticSet]:
    missing = sorted(_OBJECT_MEMBERS - target.keys())
    if missing:
        _refuse(f"metric {name!a} is an object without {', '.join(missing)}")
    count, total, low, high = (_number(target[member], name) for member in ("Count", "Sum", "Min", "Max"))
    statistics = StatisticSet(count, total, low, high)
    if "Values" not in target:
        return Counter(), statistics
    values = [_number(item, name) for item in _list(target["Values"], "Values")]
    counts = [_number(item, name) for item in _list(target.get("Counts"), "Counts")]
    if not 1 <= len(values) <= _MAX_VALUES or len(values) != len(counts) or len(set(values)) < len(values):
        _refuse(
            f"metric {name!a} has {len(values)} values and {len(counts)} counts instead of 1 to {_MAX_VALUES} pairs"
        )
    found: Counter[float] = Counter()
    found.update(dict(zip(values, counts, strict=True)))
    sums = sum(value * times for value, times in found.items())
    agrees = sum(counts) == count and math.isclose(sums, total, rel_tol=_SUM_TOLERANCE, abs_tol=_SUM_TOLERANCE)
    if not agrees or min(values) != low or max(values) != high:
        _refuse(f"metric {name!a} has statistics that are not those of its values")
    return found, statistics


def _number(value: object, name: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        _refuse(f"metric {name!a} has a value that is not a number: {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        return math.inf  # out of the range that is checked later


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(f"{what} is missing or not an object")
    return value


def _list(value: object, what: str) -> list[object]:
    if not isinstance(value, list):
        _refuse(f"{what} is missing or not a list")
    return value


def _refuse(message: str) -> NoReturn:
    raise EmfError(message)
