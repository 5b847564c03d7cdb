"""
CloudWatch metrics as lines of JSON (Embedded Metric Format, EMF), for Lambda and wherever stdout goes to CloudWatch Logs.

    metrics = create_metrics_logger("K8sCluster/Health")

    @metrics.handler
    def handler(event, context):
        metrics.put_metric("HealthyInstances", 3)

One file, standard library only, to be pasted in front of inline Lambda code too (`inline_source`): everything that is not public, what
is imported as well, begins with an underscore, to keep out of the way of the handler's names.

Limits are those of the EMF specification or, where narrower, of PutMetricData, which apply to what is extracted. CloudWatch drops what
breaks them without a word; here it is refused or repaired, counted, and said on stderr.
"""

from __future__ import annotations

import atexit as _atexit
import contextvars as _contextvars
import functools as _functools
import json as _json
import os as _os
import sys as _sys
import threading as _threading
import time as _time
import weakref as _weakref
from collections import deque as _deque
from collections import namedtuple as _namedtuple
from itertools import islice as _islice

TYPE_CHECKING = False  # type checkers take the name for what it says; importing `typing` would cost more than the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from typing import Any, NamedTuple, NoReturn, TextIO, TypeVar

    _F = TypeVar("_F", bound=Callable[..., Any])
    _Texts = dict[str, str]
    _State = tuple[_Texts, dict[str, object]]

_METRICS, _VALUES, _DIMENSIONS = 100, 100, 30
"""Most metrics of a document, values of a metric in it, and keys of a dimension set."""

_NAME_LENGTH, _KEY_LENGTH, _VALUE_LENGTH = 255, 250, 1024
"""Most characters of a namespace or metric name, of a dimension's key, and of its value."""

DOCUMENT_BYTES = 256 * 1024
"""Most bytes of a document: a log event may have 1 MB since April 2025, but agents still cut at this."""

_MAX_VALUE = 2.0**360
_PROPERTY_BYTES = 64 * 1024
_PENDING, _UNSENT = 10_000, 100
"""Most records that wait for a flush, and documents that wait for stdout to work again."""

_LONGEST_SECONDS = 3600
"""A Lambda function has 15 minutes at most: a longer time limit is not one."""

_TELL_SECONDS = 60.0
_WRITE_SECONDS = 5.0
"""How long a flush waits for another thread's."""

(
    SECONDS, MICROSECONDS, MILLISECONDS, PERCENT, COUNT, NONE,
    BYTES, KILOBYTES, MEGABYTES, GIGABYTES, TERABYTES, BITS, KILOBITS, MEGABITS, GIGABITS, TERABITS,
    BYTES_PER_SECOND, KILOBYTES_PER_SECOND, MEGABYTES_PER_SECOND, GIGABYTES_PER_SECOND, TERABYTES_PER_SECOND,
    BITS_PER_SECOND, KILOBITS_PER_SECOND, MEGABITS_PER_SECOND, GIGABITS_PER_SECOND, TERABITS_PER_SECOND, COUNT_PER_SECOND,
) = _SPELLINGS = (
    "Seconds", "Microseconds", "Milliseconds", "Percent", "Count", "None",
    "Bytes", "Kilobytes", "Megabytes", "Gigabytes", "Terabytes", "Bits", "Kilobits", "Megabits", "Gigabits", "Terabits",
    "Bytes/Second", "Kilobytes/Second", "Megabytes/Second", "Gigabytes/Second", "Terabytes/Second",
    "Bits/Second", "Kilobits/Second", "Megabits/Second", "Gigabits/Second", "Terabits/Second", "Count/Second",
)  # fmt: skip
_UNITS: dict[object, str] = {unit: unit for unit in _SPELLINGS}
_NAMESPACE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_/#: ")

if TYPE_CHECKING:

    class Entry(NamedTuple):
        """See below."""

        name: str
        unit: str
        resolution: int
        values: Sequence[float]

    class Stats(NamedTuple):
        """See below."""

        written: int
        pending: int
        dropped: Mapping[str, int]
        adjusted: Mapping[str, int]

else:
    Entry = _namedtuple("Entry", "name unit resolution values")  # noqa: PYI024
    Entry.__doc__ = (
        "One metric: its name, unit, resolution in seconds (60 or 1), and values, as often as they occurred."
    )
    Stats = _namedtuple("Stats", "written pending dropped adjusted")  # noqa: PYI024
    Stats.__doc__ = (
        "Values written, pending and dropped by reason; dimensions and properties changed or left out, by reason."
    )


class FormatError(ValueError):
    """
    What no document can hold, or what CloudWatch would drop without a word.

    Attributes:
        field: Which part is wrong: name, value, unit, resolution, dimensions, properties, namespace, timestamp, size.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def write_documents(
    namespace: str,
    dimension_sets: Sequence[Sequence[str]],
    dimensions: Mapping[str, str],
    entries: Iterable[Entry],
    timestamp_ms: int,
    *,
    properties: Mapping[str, object] | None = None,
    log_group: str = "",
    log_stream: str = "",
    max_bytes: int = DOCUMENT_BYTES,
) -> Iterator[bytes]:
    """
    Documents of values that share dimensions and a timestamp: each a line of ASCII that ends in a newline.

    Args:
        namespace: Where the metrics appear.
        dimension_sets: Keys; each metric is published once per set. `[[]]`: without dimensions.
        dimensions: The value of every key in the sets; others are left out.
        entries: The metrics. One without values is skipped; a name that comes again goes to a document of its own.
        timestamp_ms: Milliseconds since the epoch.
        properties: Further members, anything JSON holds; `<name>_` if its name is a metric's, a dimension's or `_aws`.
        log_group: Where an agent puts the documents.
        log_stream: Likewise.
        max_bytes: Most bytes of a document, with its newline.

    Raises:
        FormatError: Some part fits in no document. Everything is checked before this function returns.
    """
    taken = list(entries)
    about: dict[str, object] = {"LogGroupName": log_group} if log_group else {}
    if log_stream:
        about["LogStreamName"] = log_stream
    documents = _documents(
        namespace, dimension_sets, dimensions, taken, timestamp_ms, properties or {}, about=about, max_bytes=max_bytes
    )
    return (line.encode() for line, _ in documents)


def _documents(
    namespace: str,
    dimension_sets: Sequence[Sequence[str]],
    dimensions: Mapping[str, str],
    entries: list[Entry],
    timestamp_ms: int,
    properties: Mapping[str, object],
    *,
    about: Mapping[str, object],
    max_bytes: int,
) -> Iterator[tuple[str, int]]:
    """Each document, and how many values are in it."""
    sets = _checked_sets(dimension_sets)
    members: dict[str, object] = {key: _checked_dimension(key, dimensions.get(key)) for keys in sets for key in keys}
    names = {_checked_name(entry.name) for entry in entries}
    for name in names & members.keys():
        _refuse("name", f"{name!r} is also a dimension of the document; rename one of them")
    for key, value in properties.items():
        members[_free_name(key, members.keys() | names)] = value
    directive = {"Namespace": _checked_namespace(namespace), "Dimensions": sets, "Metrics": ()}
    aws = {"Timestamp": _checked_timestamp(timestamp_ms), **about, "CloudWatchMetrics": [directive]}
    frame = _encoded("properties", {"_aws": aws, **members})
    room = max_bytes - len(frame)  # the newline that is missing makes up for the comma that the first metric lacks
    layers: list[list[tuple[str, str, int]]] = []
    used: dict[str, int] = {}
    for entry in entries:
        for part in _parts(entry, room):
            layer = used[entry.name] = used.get(entry.name, -1) + 1
            if layer == len(layers):
                layers.append([])
            layers[layer].append(part)
    return (document for layer in layers for document in _filled(frame, layer, room))


def _parts(entry: Entry, room: int) -> Iterator[tuple[str, str, int]]:
    """Definition, member and number of values of a metric; several if it has too many values for one document."""
    definition: dict[str, object] = {"Name": entry.name}
    unit = _checked_unit(entry.unit)
    if unit != "None":
        definition["Unit"] = unit
    if _checked_resolution(entry.resolution) == 1:
        definition["StorageResolution"] = 1
    text, key = _encoded("name", definition), _encoded("name", entry.name)
    numbers = [repr(_checked_value(value)) for value in entry.values]
    room -= len(text) + len(key) + len(",,:[")  # each number brings a comma or the closing bracket
    start = 0
    while start < len(numbers):
        end, left = start, room
        while end < min(start + _VALUES, len(numbers)) and left > len(numbers[end]):
            left -= len(numbers[end]) + 1
            end += 1
        if end == start:
            _refuse("size", f"of a document with {entry.name!r} alone is over the limit; shorten the properties")
        several = ",".join(numbers[start:end])
        yield text, f"{key}:[{several}]" if end > start + 1 else f"{key}:{several}", end - start
        start = end


def _filled(frame: str, metrics: list[tuple[str, str, int]], room: int) -> Iterator[tuple[str, int]]:
    """Documents of metrics that may stand beside each other, each as full as it can be."""
    head, opening, tail = frame.partition('"Metrics":[')
    start = 0
    while start < len(metrics):
        end, left = start, room
        while end < min(start + _METRICS, len(metrics)):
            left -= len(metrics[end][0]) + len(metrics[end][1]) + 2
            if left < 0:
                break
            end += 1
        texts, members, counts = zip(*metrics[start:end], strict=True)
        yield "".join((head, opening, ",".join(texts), tail[:-1], ",", ",".join(members), "}\n")), sum(counts)
        start = end


_type_name: Any = type.__dict__["__name__"].__get__  # `cls.__name__` would ask the metaclass


def _type_of(thing: object) -> str:
    return str(_type_name(type(thing)))[:_NAME_LENGTH]


def _refuse(field: str, message: str) -> NoReturn:
    raise FormatError(field, f"{field} {message}")


def _encoded(field: str, value: object) -> str:
    """Strict and compact, in ASCII: no stream's encoding can break it."""
    try:
        return _json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        _refuse(field, f"cannot be written as JSON: {type(error).__name__}")


def _free_name(name: object, taken: Collection[str]) -> str:
    if type(name) is not str or not name:
        _refuse("properties", "must have names that are text and not empty")
    while name in taken or name == "_aws":
        name += "_"
    return name


def _checked_sets(sets: Sequence[Sequence[str]]) -> list[list[str]]:
    """Each set of keys once: published twice, its values would count double."""
    kept = list({frozenset(keys): [_checked_key(key) for key in dict.fromkeys(keys)] for keys in sets}.values())
    if not kept:
        _refuse("dimensions", "need one set at least; [[]] is the one without dimensions")
    if max(map(len, kept)) > _DIMENSIONS:
        _refuse("dimensions", f"are more than {_DIMENSIONS}; leave some out")
    return kept


def _checked_timestamp(milliseconds: object) -> int:
    if type(milliseconds) is not int or milliseconds < 0:
        _refuse("timestamp", "must be an int, in milliseconds since the epoch")
    return milliseconds


def _checked_text(field: str, what: str, text: object, most: int) -> str:
    plain = str.__str__(text) if isinstance(text, str) else ""  # the methods of a subclass may say anything
    if not plain.strip() or len(plain) > most or not (plain.isascii() and plain.isprintable()):
        _refuse(field, f"{what}must be 1 to {most} printable ASCII characters and not blank")
    return plain


def _checked_name(name: object) -> str:
    if name == "_aws":
        _refuse("name", "'_aws' belongs to the format; choose another")
    return _checked_text("name", "", name, _NAME_LENGTH)


def _checked_namespace(namespace: object) -> str:
    text = _checked_text("namespace", "", namespace, _NAME_LENGTH)
    if not _NAMESPACE.issuperset(text) or text.startswith((":", "AWS/")):
        _refuse("namespace", 'may hold letters, digits, blank and . - _ / # : and not start with ":" or "AWS/"')
    return text


def _checked_key(key: object) -> str:
    text = _checked_text("dimensions", "have a key that ", key, _KEY_LENGTH)
    if text == "_aws" or text.startswith(":"):
        _refuse("dimensions", "have a key that is '_aws' or starts with ':'")
    return text


def _checked_dimension(key: str, value: object) -> str:
    """Anything but text would publish the metric without dimensions."""
    return _checked_text("dimensions", f"have a value under {key!r} that ", value, _VALUE_LENGTH)


def _checked_unit(unit: object) -> str:
    try:
        return _UNITS[unit]
    except Exception:  # noqa: BLE001  # besides KeyError: its hash is user code
        _refuse("unit", "must be one of the 27 of CloudWatch, such as COUNT")


def _checked_resolution(resolution: object) -> int:
    if isinstance(resolution, bool) or not isinstance(resolution, int) or resolution not in (1, 60):
        _refuse("resolution", "must be 60 or 1, in seconds")
    return int(resolution)


def _checked_value(value: Any) -> float:
    """Text, NaN and infinities are refused; `Decimal`, numpy's numbers and bool become floats."""
    number: float | None = None
    if type(value) is int or type(value) is float:
        number = value
    elif not issubclass(type(value), (str, bytes, bytearray)):
        try:
            # Kinds of numpy's types that `float()` takes all the same: complex, text, and times.
            if getattr(getattr(value, "dtype", None), "kind", "f") not in ("c", "S", "U", "m", "M"):
                number = float(value)
        except Exception:  # noqa: BLE001  # somebody's __float__ may raise anything
            number = None
    if number is None or not -_MAX_VALUE <= number <= _MAX_VALUE:
        _refuse("value", "must be a finite number between -2**360 and 2**360")
    return number


_STATES: _contextvars.ContextVar[Any] = _contextvars.ContextVar("retainwise_emf", default=None)
"""Logger -> its dimensions and properties in this thread or task; copied to be changed, so that other contexts keep theirs."""

_LOGGERS: _weakref.WeakSet[MetricsLogger] = _weakref.WeakSet()
_PROCESS = {"cold": True}


def _never_raises(book: str) -> Callable[[_F], _F]:
    """Make a method return False instead, and write down why: in a book of `stats()`, if one is named, and on stderr."""

    def decorate(method: _F) -> _F:
        @_functools.wraps(method)
        def guarded(self: MetricsLogger, *args: object, **kwargs: object) -> object:
            try:
                return method(self, *args, **kwargs)
            except FormatError as error:
                # Anybody may raise one, with anything as its field; the books take text.
                reason = error.field if type(error.field) is str else "internal"
                message = str(error) if type(error) is FormatError else "is refused"
            except Exception as error:  # noqa: BLE001  # of a stranger's exception only the type: its text may hold a value
                reason, message = "internal", f"failed with {_type_of(error)}"
            subject = ascii(args[0]) if args and type(args[0]) is str and len(args[0]) <= _NAME_LENGTH else "..."
            self._complain(book, reason, f"{method.__name__}({subject}): {message}")
            return False

        return guarded  # type: ignore[return-value]

    return decorate


class MetricsLogger:
    """
    Records metrics and writes them to stdout as documents, for CloudWatch to extract.

    Any thread, task, signal handler or finaliser may record. No method raises: what cannot be published is refused (the method returns
    False), counted in `stats()` and said on stderr, once a minute and reason. Values are published in the minute they were recorded in.

    Args:
        namespace: Where the metrics appear.
        default_dimensions: Dimensions of every record.
        stream: Where documents go. None: `sys.stdout` at the time of each write.
        clock: Seconds since the epoch.
        monotonic: Seconds that never step back.
        timer: Makes what `threading.Timer` makes.
        margin_seconds: How long before the time limit `handler` flushes; at most half of the time that is left.
    """

    def __init__(
        self,
        namespace: str,
        default_dimensions: Mapping[str, object] | None = None,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = _time.time,
        monotonic: Callable[[], float] = _time.perf_counter,
        timer: Callable[[float, Callable[[], None]], Any] = _threading.Timer,
        margin_seconds: float = 0.5,
    ) -> None:
        self._namespace = namespace
        self._stream = stream
        self._clock = clock
        self._monotonic = monotonic
        self._timer = timer
        self._margin = margin_seconds
        self._start_empty()
        self._defaults: _State = ({}, {})
        if default_dimensions is not None:
            self._add_defaults(default_dimensions)
        _LOGGERS.add(self)

    def _start_empty(self) -> None:
        """Also in a forked child: what waited is its parent's, and a lock may be held by a thread that is not there."""
        self._records: _deque[tuple[Any, ...]] = _deque()
        self._unsent: _deque[tuple[str, int]] = _deque()
        self._handed_to: object = None
        self._torn = ""
        self._lock = _threading.RLock()
        self._flushing = False
        self._written = 0
        self._counting = _threading.Lock()
        self._uncounted: _deque[tuple[str, str, int]] = _deque()
        self._books: dict[str, dict[str, int]] = {"dropped": {}, "adjusted": {}}
        self._told: dict[str, float] = {}

    @_never_raises("dropped")
    def put_metric(
        self,
        name: str,
        value: float,
        unit: str = COUNT,
        *,
        dimensions: Mapping[str, object] | None = None,
        storage_resolution: int = 60,
    ) -> bool:
        """
        Record a value under the dimensions and properties of this thread or task.

        Args:
            name: 1 to 255 characters of printable ASCII.
            value: A finite number.
            unit: One of CloudWatch's 27.
            dimensions: More dimensions, of this record only.
            storage_resolution: 60, or 1 for a metric kept by the second.

        Returns:
            Whether it was taken.
        """
        keys, properties = self._state()
        if dimensions is not None:
            keys = self._merged(keys, dimensions)
        _checked_namespace(self._namespace)
        name = _checked_name(name)
        if name in keys:
            _refuse("name", "is also the name of a dimension; rename one of them")
        number, spelling, resolution = (
            _checked_value(value),
            _checked_unit(unit),
            _checked_resolution(storage_resolution),
        )
        if len(self._records) >= _PENDING:
            _refuse("backlog", f"holds {_PENDING} records that could not be written")
        now = self._clock()
        window = (int(now // resolution), resolution)
        self._records.append((window, tuple(keys.items()), properties, name, spelling, number, int(now * 1000)))
        if len(self._records) >= _METRICS:
            self._flush(wait=0)
        return True

    @_never_raises("adjusted")
    def set_dimension(self, key: str, value: object) -> bool:
        """
        Record what follows in this thread or task under a further dimension; outside `handler` that is for good.

        A blank value becomes "unknown", characters outside ASCII are escaped, and what is too long is cut.
        """
        keys, properties = self._state()
        self._set_state(self._merged(keys, {key: value}), properties)
        return True

    @_never_raises("adjusted")
    def set_property(self, key: str, value: object) -> bool:
        """
        Put a field beside what follows in this thread or task: for ids and whatever else would make too many dimensions.

        Anything that JSON holds, copied; anything else becomes text.
        """
        keys, properties = self._state()
        try:
            plain = _json.loads(_json.dumps(value, default=str, allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            plain = str(value)
            self._count("adjusted", "properties")
        merged = {**properties, _free_name(key, ()): plain}
        if len(_encoded("properties", merged)) > _PROPERTY_BYTES:
            _refuse("properties", f"are more than {_PROPERTY_BYTES} bytes; leave some out")
        self._set_state(keys, merged)
        return True

    def flush(self) -> bool:
        """
        Write what was recorded.

        Returns:
            Whether nothing waits any more. What a broken stream did not take waits for the next flush: at most 100 documents.
        """
        return self._flush()

    def stats(self) -> Stats:
        """
        What became of the values so far: each is written, pending or dropped.
        """
        with self._lock:
            self._add_up()
            pending = len(self._records) + sum(count for _, count in self._unsent)
            return Stats(self._written, pending, dict(self._books["dropped"]), dict(self._books["adjusted"]))

    def handler(self, function: _F, *, prefix: str = "Handler") -> _F:
        """
        Decorate a Lambda handler, sync or async: measure it and flush, however it ends.

        Records `<prefix>Duration` (milliseconds), `<prefix>Success` and `<prefix>Error` (1 or 0), and `ColdStart` once per process, under
        the dimensions from before the call: an alarm finds them there, whatever the handler sets. The property `request_id` is beside
        everything, `error_type` beside what a failed handler ends with. Shortly before the time limit it records `<prefix>NearTimeout`
        and flushes, with the property `Truncated`. What the handler sets ends with it. What it returns or raises stays as it is,
        whatever happens to the metrics.
        """
        wrap = _measured_coroutine if _is_async(function) else _measured
        return _functools.wraps(function)(wrap(self, prefix, function))  # type: ignore[return-value]

    def __del__(self) -> None:
        if getattr(self, "_records", None):
            self._flush()

    @_never_raises("")
    def _begin(self, invocation: _Invocation, arguments: tuple[Any, ...]) -> None:
        invocation.started = self._monotonic()
        context = next((each for each in reversed(arguments) if hasattr(each, "get_remaining_time_in_millis")), None)
        self._identify(context)
        if _PROCESS.pop("cold", False):
            self.put_metric("ColdStart", 1)
        if context is not None:
            self._set_timer(invocation, context.get_remaining_time_in_millis() / 1000)

    @_never_raises("adjusted")
    def _identify(self, context: object) -> None:
        request_id = getattr(context, "aws_request_id", None)
        if request_id:
            self.set_property("request_id", request_id)

    def _set_timer(self, invocation: _Invocation, seconds: float) -> None:
        if 0 < seconds <= _LONGEST_SECONDS:
            here = _contextvars.copy_context()
            delay = max(seconds - self._margin, seconds / 2)
            invocation.timer = self._timer(delay, lambda: here.run(invocation.near_timeout))
            invocation.timer.daemon = True
            invocation.timer.start()

    @_never_raises("")
    def _end(self, invocation: _Invocation, error: BaseException | None) -> None:
        if invocation.timer is not None:
            invocation.timer.cancel()
        self._set_state(invocation.dimensions, self._state()[1])
        if error is not None:
            self.set_property("error_type", type(error).__name__)
        if invocation.started is not None:
            milliseconds = (self._monotonic() - invocation.started) * 1000
            self.put_metric(f"{invocation.prefix}Duration", milliseconds, MILLISECONDS)
        self.put_metric(f"{invocation.prefix}Success", int(error is None))
        self.put_metric(f"{invocation.prefix}Error", int(error is not None))

    @_never_raises("adjusted")
    def _add_defaults(self, dimensions: Mapping[str, object]) -> bool:
        for key, value in _islice(dimensions.items(), _DIMENSIONS + 1):  # it may be endless
            self._add_default(key, value)
        return True

    @_never_raises("adjusted")
    def _add_default(self, key: str, value: object) -> bool:
        self._defaults = (self._merged(self._defaults[0], {key: value}), {})
        return True

    def _state(self) -> _State:
        states = _STATES.get()
        return self._defaults if states is None else states.get(self, self._defaults)

    def _set_state(self, dimensions: _Texts, properties: dict[str, object]) -> None:
        states = _weakref.WeakKeyDictionary(_STATES.get() or {})
        states[self] = (dimensions, properties)
        _STATES.set(states)

    def _merged(self, dimensions: _Texts, more: Mapping[str, object]) -> _Texts:
        few = _islice(more.items(), _DIMENSIONS + 1)  # one too many is enough to know, and it may be endless
        merged = {**dimensions, **{_checked_key(key): self._dimension(value) for key, value in few}}
        if len(merged) > _DIMENSIONS:
            _refuse("dimensions", f"are more than {_DIMENSIONS}; leave some out")
        return merged

    def _dimension(self, value: object) -> str:
        """A value as CloudWatch takes it; values that differ stay different, unless they differ beyond the longest."""
        text = str.__str__(value if isinstance(value, str) else "" if value is None else str(value))
        kept = text if text.isascii() and text.isprintable() else text.encode("unicode_escape").decode()
        kept = kept[:_VALUE_LENGTH]
        if not kept.strip():
            kept = "unknown"
        if kept != text:
            self._count("adjusted", "dimensions")
        return kept

    @_never_raises("")
    def _flush(self, *, wait: float = _WRITE_SECONDS, marks: Mapping[str, object] | None = None) -> bool:
        # Not by a call: a Ctrl-C comes at the end of one, and `try` would not be reached. Likewise below.
        (mine,) = map(self._lock.acquire, (True,), (wait,))
        if not mine:
            return False
        try:
            if self._flushing:  # called by what interrupted a flush of this thread
                return False
            self._flushing = True
            try:
                self._make_documents(marks or {})
                written = self._write()  # not returned from here: a Ctrl-C at its end would come after `try`, too
            finally:
                self._flushing = False
        finally:
            self._lock.release()
        return written

    def _make_documents(self, marks: Mapping[str, object]) -> None:
        records: list[tuple[Any, ...]] = []
        groups: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
        made: list[tuple[str, int]] = []
        try:
            records.extend(self._records.popleft() for _ in range(len(self._records)))
            for record in records:
                window, dimensions, properties, *_ = record
                groups.setdefault((window, dimensions, id(properties)), []).append(record)
            for group in groups.values():
                made += self._documents_of(group, marks)
        except BaseException:  # such as an interrupt
            self._records.extendleft(reversed(records))
            raise
        self._unsent.extend(made)

    def _documents_of(self, group: list[tuple[Any, ...]], marks: Mapping[str, object]) -> list[tuple[str, int]]:
        """Documents of records with the same window, dimensions and properties, under the time of the first."""
        (_, resolution), dimensions, properties, _, _, _, timestamp_ms = group[0]
        values: dict[tuple[str, str], list[float]] = {}
        for *_, name, unit, value, _ in group:
            values.setdefault((name, unit), []).append(value)
        entries = [Entry(name, unit, resolution, found) for (name, unit), found in values.items()]
        keys, beside = dict(dimensions), {**properties, **marks}
        try:
            return list(
                _documents(
                    self._namespace, [[*keys]], keys, entries, timestamp_ms, beside, about={}, max_bytes=DOCUMENT_BYTES
                )
            )
        except FormatError as error:
            self._complain("dropped", error.field, str(error), len(group))
            return []

    def _write(self) -> bool:
        """One write for each line; a line that a stream has taken but not passed on is not given to it again."""
        stream = _sys.stdout if self._stream is None else self._stream
        try:
            while self._unsent:
                line, count = self._unsent[0]
                if self._handed_to is not stream:
                    stream.write(self._torn + line)
                    self._handed_to = stream
                stream.flush()
                self._handed_to, self._torn = None, ""
                self._written += count
                self._unsent.popleft()
        except Exception as error:  # noqa: BLE001  # a closed or broken stream, or anything put in its place
            self._torn = "\n"  # half a line may be there already
            self._tell("unwritable", f"the stream does not take documents: {type(error).__name__}")
            while len(self._unsent) > _UNSENT:
                self._handed_to = None
                self._count("dropped", "unwritable", self._unsent.popleft()[1])
        return not self._unsent

    def _complain(self, book: str, reason: str, message: str, count: int = 1) -> None:
        if book:
            self._count(book, reason, count)
        self._tell(reason, message)

    def _count(self, book: str, reason: str, count: int = 1) -> None:
        self._uncounted.append((book, reason, count))
        if len(self._uncounted) > _METRICS:
            self._add_up()

    def _add_up(self) -> None:
        (mine,) = map(self._counting.acquire, (False,))
        if mine:  # else somebody is at it, who may be this thread, interrupted
            try:
                while self._uncounted:
                    book, reason, count = self._uncounted.popleft()
                    self._books[book][reason] = self._books[book].get(reason, 0) + count
            finally:
                self._counting.release()

    def _tell(self, reason: str, message: str) -> None:
        try:
            now = self._monotonic()
            if now - self._told.get(reason, -_TELL_SECONDS * 2) >= _TELL_SECONDS:
                self._told[reason] = now
                _sys.stderr.write(f"retainwise_metrics.emf: {message} (said once a minute)\n")
        except Exception:  # noqa: BLE001, S110  # nobody is left to be told
            pass


def _is_async(function: object) -> bool:
    """Whether calling it makes a coroutine; `inspect`, which knows, takes milliseconds to import."""
    while issubclass(type(function), _functools.partial):
        function = getattr(function, "func")  # noqa: B009  # type checkers do not follow `issubclass`
    for called in (function, getattr(function, "__call__", None)):  # noqa: B004  # the method is wanted
        code = getattr(called, "__code__", None)
        if code is not None:
            return bool(code.co_flags & 0x80)  # CO_COROUTINE
    return False


def _measured(logger: MetricsLogger, prefix: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: object, **kwargs: object) -> object:
        invocation = _Invocation(logger, prefix, (*args, *kwargs.values()))
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            invocation.end(error)
            raise
        invocation.end(None)
        return result

    return call


def _measured_coroutine(logger: MetricsLogger, prefix: str, function: Callable[..., Any]) -> Callable[..., Any]:
    async def call(*args: object, **kwargs: object) -> object:
        invocation = _Invocation(logger, prefix, (*args, *kwargs.values()))
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            invocation.end(error)
            raise
        invocation.end(None)
        return result

    return call


class _Invocation:
    """One call of a handler."""

    def __init__(self, logger: MetricsLogger, prefix: str, arguments: tuple[object, ...]) -> None:
        self.logger = logger
        self.prefix = prefix
        self.before = _STATES.get()
        self.dimensions = logger._state()[0]  # noqa: SLF001
        self.over = False
        self.timer: Any = None
        self.started: float | None = None
        logger._begin(self, arguments)  # noqa: SLF001

    def near_timeout(self) -> None:
        """Save what there is; on the timer's thread."""
        if not self.over:
            self.logger.put_metric(f"{self.prefix}NearTimeout", 1)
            self.logger._flush(marks={"Truncated": True})  # noqa: SLF001

    def end(self, error: BaseException | None) -> None:
        """Record how it went, and flush."""
        self.over = True
        self.logger._end(self, error)  # noqa: SLF001
        self.logger._flush()  # noqa: SLF001
        _STATES.set(self.before)


def create_metrics_logger(namespace: str, context: object = None, **options: Any) -> MetricsLogger:
    """
    A logger with the dimensions `ClusterName` (from the variable CLUSTER_NAME) and `FunctionName`, as far as they are known.

    Args:
        namespace: Where the metrics appear.
        context: The handler's second argument. None: the function's name is taken from AWS_LAMBDA_FUNCTION_NAME.
        options: Options of `MetricsLogger`.
    """
    try:
        function = getattr(context, "function_name", None) or None
    except Exception:  # noqa: BLE001
        function = None
    known = {
        "ClusterName": _os.environ.get("CLUSTER_NAME") or None,
        "FunctionName": (_os.environ.get("AWS_LAMBDA_FUNCTION_NAME") or None) if function is None else function,
    }
    return MetricsLogger(namespace, {key: value for key, value in known.items() if value is not None}, **options)


def lambda_handler(metrics: MetricsLogger | str, *, prefix: str = "Handler") -> Callable[[_F], _F]:
    """
    `MetricsLogger.handler` with options, for a logger or a namespace; the function's attribute `metrics` is the logger.
    """
    logger = create_metrics_logger(metrics) if isinstance(metrics, str) else metrics

    def decorate(function: _F) -> _F:
        measured = logger.handler(function, prefix=prefix)
        measured.metrics = logger  # type: ignore[attr-defined]
        return measured

    return decorate


def inline_source() -> str:
    """
    This module as text to paste in front of a handler, for CloudFormation, CDK or Terraform; without what only readers need.

    Raises:
        OSError: The module was installed without its source.
    """
    import ast

    loader: Any = __spec__ and __spec__.loader
    source = loader.get_source(__name__) if hasattr(loader, "get_source") else None
    if source is None and __file__.endswith(".py"):  # a loader that knows no sources, such as pytest's
        with open(__file__, encoding="utf-8") as file:  # noqa: PTH123  # pathlib would be one more name
            source = file.read()
    if source is None:
        message = "the source of retainwise_metrics.emf is not installed, only its byte code"
        raise OSError(message)
    tree = ast.parse(source)
    for node in [*tree.body]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            at = tree.body.index(node)
            tree.body[at : at + 1] = node.orelse
        elif isinstance(node, ast.FunctionDef) and node.name == inline_source.__name__:
            tree.body.remove(node)
    for each in ast.walk(tree):
        if isinstance(each, ast.arg):
            each.annotation = None
        if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)):
            each.returns = None
        if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)):
            each.body = [
                line for line in each.body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
            ] or [ast.Pass()]
    return f"# retainwise_metrics.emf, made by inline_source(): change it there.\n{ast.unparse(tree)}\n"


def _flush_all() -> None:
    for logger in list(_LOGGERS):
        logger.flush()


def _after_fork() -> None:
    for logger in list(_LOGGERS):
        logger._start_empty()  # noqa: SLF001


_atexit.register(_flush_all)
if hasattr(_os, "register_at_fork"):
    _os.register_at_fork(after_in_child=_after_fork)
