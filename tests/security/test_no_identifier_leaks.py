"""Ten thousand made-up identifiers go in at every door; none of them comes out, or stays inside."""

from __future__ import annotations

import gc
import json
import logging
import time
import types
import zlib
from collections import Counter, deque
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from retainwise_metrics import CloudWatchMetrics, ConfigurationError, DropReason, InvalidMetricError, MetricsConfig
from retainwise_metrics.sinks._segments import Segment
from retainwise_metrics.sinks.base import SinkUnavailable
from retainwise_metrics.testing import FakeCloudWatch, InMemorySink, ManualRuntime
from tests.dimensions.identifiers import SHAPES, corpus
from tests.helpers import assert_balanced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from retainwise_metrics.datum import Batch

IDENTIFIERS = 10_000
PERSONAL_NAMES = (
    "UserId",
    "customer-id",
    "TenantId",
    "email",
    "FullName",
    "last_name",
    "SessionId",
    "ClientIp",
    "ApiKey",
)
"""Dimensions whose values are personal whatever they look like."""

SYLLABLES = (
    "an",
    "bel",
    "cor",
    "da",
    "el",
    "fri",
    "gu",
    "ha",
    "jo",
    "ka",
    "lu",
    "mar",
    "ni",
    "or",
    "pe",
    "ra",
    "so",
    "wil",
)
SEED = 6
SHORTEST = 6
"""Anything shorter, such as the address ::7, would be found by chance."""


class Identifier:
    """
    One of them.

    Attributes:
        raw: What must not be seen.
        text: A text that contains it.
        detectable: Whether its looks give it away.
    """

    __slots__ = ("detectable", "raw", "shape", "text")

    def __init__(self, shape: str, raw: str, text: str, *, detectable: bool = True) -> None:
        self.shape, self.raw, self.text, self.detectable = shape, raw, text, detectable


def identifiers() -> Iterator[Identifier]:
    """Identifiers of every shape that has a pattern, and names and account numbers, which have none."""
    random = Random(SEED)
    without_pattern = IDENTIFIERS // 10
    recognised = (each for each in corpus(2 * IDENTIFIERS, SEED) if len(each[1]) >= SHORTEST)
    for shape, raw, text in islice(recognised, IDENTIFIERS - without_pattern):
        yield Identifier(shape, raw, text)
    for number in range(without_pattern):
        if number % 2:
            first, last = ("".join(random.choices(SYLLABLES, k=4)).title() for _ in range(2))
            raw = f"{first} {last}"
            yield Identifier("name", raw, raw, detectable=False)
        else:
            raw = f"kd{random.randrange(10**9):09}"
            yield Identifier("account number", raw, raw, detectable=False)


CORPUS = list(identifiers())


def spellings(raw: str) -> Iterator[str]:
    """Ways in which it may have been written down."""
    yield raw
    yield raw.lower()
    if not raw.isascii():
        yield ascii(raw)[1:-1]


BY_BEGINNING: dict[str, list[tuple[str, Identifier]]] = {}
for _each in CORPUS:
    for _form in spellings(_each.raw):
        BY_BEGINNING.setdefault(_form[:SHORTEST], []).append((_form, _each))


def seen_in(texts: set[str]) -> list[tuple[str, str]]:
    """The identifiers that some text shows. One pass over the texts: ten thousand searches would take minutes."""
    everything = "\n".join(texts)
    found = {
        (each.shape, each.raw)
        for start in range(len(everything))
        for form, each in BY_BEGINNING.get(everything[start : start + SHORTEST], ())
        if everything.startswith(form, start)
    }
    return sorted(found)


KEEP_OUT = (type, types.ModuleType, types.FrameType, types.CodeType, logging.Logger)


def texts_held_by(root: object, *, but_for: object) -> set[str]:
    """Every text, number and object with a text of its own that an object holds on to, without the program itself."""
    seen, waiting, texts = {id(root), id(but_for)}, deque([root]), set()
    while waiting:
        found = waiting.popleft()
        if isinstance(found, (str, bytes, int)):
            texts.add(str(found))
        if isinstance(found, types.FunctionType):
            held: list[object] = [found.__closure__, found.__defaults__, found.__kwdefaults__]
        else:
            held = gc.get_referents(found)
        for each in held:
            if id(each) not in seen and not isinstance(each, KEEP_OUT):
                seen.add(id(each))
                waiting.append(each)
    return texts


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """An error and those that a traceback shows above it."""
    yield error
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from chain_of(before)


class Doors:
    """
    A client, everything that can be done to it with an identifier, and everything that was said about it.
    """

    def __init__(self, client: CloudWatchMetrics) -> None:
        self.client = client
        self.said: set[str] = set()
        self.led_to_it: set[str] = set()
        """What a traceback would show above the errors."""
        self.taken: Counter[str] = Counter()

    def attempt(self, call: Callable[..., object], *arguments: Any, **options: Any) -> None:
        """Call, and keep the text of what it raises, and of what led to it."""
        try:
            self.taken[f"{call.__name__} {call(*arguments, **options)}"] += 1
        except InvalidMetricError as error:
            self.said.update([str(error), repr(error), repr(vars(error)), repr(error.args)])
            self.led_to_it.update(f"{type(each).__name__}: {each}" for each in chain_of(error))
            self.taken["raised"] += 1

    def go_through(self, each: Identifier, dimension: str, turn: int) -> None:
        """The identifier goes in, in a good record and in one bad one."""
        put = self.client.put_metric
        where = "Anything" if each.detectable else dimension
        self.attempt(put, "Requests", 1, dimensions={where: each.text, "Plan": "pro"})
        self.attempt(put, "Requests", 1, dimensions={dimension: each.raw})
        bad = self.bad_records(each, dimension)
        if each.detectable:
            bad += self.bad_records_of_what_is_recognised(each, dimension)
        name, options = bad[turn % len(bad)]
        self.attempt(put, **{"name": name, "value": 1, **options})

    def bad_records(self, each: Identifier, dimension: str) -> list[tuple[Any, dict[str, Any]]]:
        """Refused for something else, or for the very place in which the identifier is."""
        return [
            ("M", {"value": "x", "dimensions": {dimension: each.text}}),
            ("M", {"dimensions": {dimension: each.text, "Note": "\n."}}),
            ("M", {"dimensions": {dimension: each.text + "x" * 1_024}}),
            ("M", {"dimensions": {"Note": Unreadable(each.raw)}}),
            ("M", {"dimensions": [each.text]}),
            ("", {"dimensions": {dimension: each.text}}),
            ("M", {"timestamp": 1, "dimensions": {dimension: each.text}}),
        ]

    def bad_records_of_what_is_recognised(self, each: Identifier, dimension: str) -> list[tuple[Any, dict[str, Any]]]:
        """In places where only its looks give it away."""
        text = each.text
        return [
            (text, {"dimensions": {dimension: text}}),
            (f"seen {text}"[:255], {}),
            ("M", {"namespace": text}),
            ("M", {"unit": text}),
            ("M", {"value": text}),
            ("M", {"timestamp": text}),
            ("M", {"storage_resolution": text}),
            ("M", {"dimensions": text}),
            ("M", {"dimensions": {text: "x"}}),
            (Text(text), {"namespace": Text(text)}),
        ]


class Text(str):
    """A text with another representation, as an enum's."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{self}>"


class Unreadable:
    """An object that says what it holds while it refuses to be read."""

    def __init__(self, raw: str) -> None:
        self.raw = raw

    def __str__(self) -> str:
        raise ValueError(self.raw)

    def __repr__(self) -> str:
        return f"Unreadable({self.raw})"


@pytest.fixture
def runtime() -> ManualRuntime:
    """A clock that is moved by hand, from now on."""
    return ManualRuntime(wall=time.time())


@pytest.fixture
def cloudwatch(runtime: ManualRuntime, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCloudWatch]:
    """A CloudWatch that remembers what was on the wire."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with FakeCloudWatch(now=runtime.wall) as server:
        yield server


def test_the_corpus_is_what_it_says() -> None:
    """Ten thousand identifiers of more than twenty shapes, nearly all of them different; the search would find each one."""
    shapes = Counter(each.shape for each in CORPUS)
    assert len(shapes) == len(SHAPES) + 2 >= 20
    assert min(shapes.values()) > 300
    assert len({each.raw for each in CORPUS}) > 0.99 * IDENTIFIERS == 9_900
    assert len(seen_in({each.text for each in CORPUS})) == len({(each.shape, each.raw) for each in CORPUS})


@pytest.mark.parametrize("strict", [False, True])
def test_no_identifier_comes_out_or_stays_inside(
    strict: bool, runtime: ManualRuntime, cloudwatch: FakeCloudWatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not on the wire, in a log line, a repr, an exception or stats(), nor in anything that the client holds on to."""
    caplog.set_level(logging.DEBUG)
    config = MetricsConfig(
        endpoint_url=cloudwatch.endpoint_url, region="us-east-1", catalogue=(), strict=strict, batch_size=1000
    )
    client = CloudWatchMetrics(config, runtime=runtime)
    doors = Doors(client)
    for number, each in enumerate(CORPUS):
        doors.go_through(each, PERSONAL_NAMES[number % len(PERSONAL_NAMES)], number // len(SHAPES))
        doors.said.update(client._intake.notes.values())
        if number % 200 == 0:
            runtime.advance(61.0)  # so that each subject may be said again
            doors.said.update([repr(client), repr(client.stats()), str(client.config)])
    assert client.flush(60.0)
    held = texts_held_by(client, but_for=client._pipeline._sink._client)
    client.stop()
    held |= texts_held_by(client, but_for=None)
    logged = {f"{line.getMessage()} {line.args} {line.exc_text}" for line in caplog.records}
    wire = {json.dumps(call.metric_data) for call in cloudwatch.calls} | {
        repr(call.headers) for call in cloudwatch.calls
    }

    assert doors.taken["put_metric True"] >= 2 * IDENTIFIERS - 100
    assert doors.taken["raised" if strict else "put_metric False"] >= IDENTIFIERS
    assert len(client.stats().dropped) >= 6
    assert DropReason.INTERNAL_ERROR not in client.stats().dropped
    assert len(logged) > 100 or strict
    assert any("bucket-" in text for text in wire)
    assert any("bucket-" in text for text in held)
    assert_balanced(client)
    assert cloudwatch.total_count() == client.stats().delivered
    for place, texts in {"said": doors.said, "logged": logged, "on the wire": wire, "held": held}.items():
        assert seen_in(texts)[:10] == [], place


def test_no_identifier_in_what_led_to_an_error(runtime: ManualRuntime) -> None:
    """An error that is logged with its traceback shows the errors before it as well."""
    doors = Doors(CloudWatchMetrics(MetricsConfig(sink="memory", catalogue=(), strict=True), runtime=runtime))
    for number, each in enumerate(CORPUS):
        doors.go_through(each, PERSONAL_NAMES[number % len(PERSONAL_NAMES)], number // len(SHAPES))
    assert len(doors.led_to_it) > 5
    assert seen_in(doors.led_to_it)[:10] == []


def test_no_identifier_in_instruments_scopes_and_settings(runtime: ManualRuntime) -> None:
    """What is shown of handles, scopes, policies and wrong settings does not repeat what they were given."""
    client = CloudWatchMetrics(MetricsConfig(sink="memory", catalogue=()), runtime=runtime)
    said: set[str] = set()
    for number, each in enumerate(CORPUS[::5]):
        dimension = PERSONAL_NAMES[number % len(PERSONAL_NAMES)]
        scope = client.scoped({dimension: each.text})
        counter = client.counter("C", dimensions={dimension: each.text})
        assert scope.increment_counter("M")
        assert counter.inc()
        said.update(map(repr, (scope, counter, client.with_tenant(each.text))))
        try:
            MetricsConfig(default_dimensions={dimension: each.text, f"bad{each.text}\n": "x"})
            MetricsConfig(default_dimensions=[each.text])  # type: ignore[arg-type]
        except ConfigurationError as error:
            said.update([str(error), repr(error), repr(error.__context__)])
    assert len(said) > 3
    assert seen_in(said) == []


def test_no_identifier_on_disk(runtime: ManualRuntime, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the spool keeps of values that cannot be delivered is what would have been on the wire; and its folder is its owner's."""

    def fail(_: Batch) -> None:
        message = "503"
        raise SinkUnavailable(message)

    caplog.set_level(logging.DEBUG)
    sink = InMemorySink(fail)
    config = MetricsConfig(catalogue=(), spool_dir=str(tmp_path / "spool"))
    client = CloudWatchMetrics(config, sink=sink, runtime=runtime)
    doors = Doors(client)
    for number, each in enumerate(CORPUS):
        doors.go_through(each, PERSONAL_NAMES[number % len(PERSONAL_NAMES)], number // len(SHAPES))
        if number % 1_000 == 0:
            runtime.advance(61.0)
    client.stop()
    assert client.stats().spooled == client.stats().pending > IDENTIFIERS
    raw, kept = set(), set()
    for path in (tmp_path / "spool").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
        kept.add(str(path.relative_to(tmp_path)))
        if path.suffix == ".seg":
            raw.add(path.read_bytes().decode("latin-1"))
            kept.update(texts_of(path))
    assert any("bucket-" in text for text in kept)
    logged = {f"{line.getMessage()} {line.args} {line.exc_text}" for line in caplog.records}
    for texts in (raw, kept, logged):
        assert seen_in(texts)[:10] == []


def texts_of(path: Path) -> Iterator[str]:
    """What a file of the spool says."""
    segment = Segment(path, new=False)
    while (record := segment.next()) is not None:
        yield zlib.decompress(record.payload).decode()
    segment.close()
