"""The logger: what it records comes out under the right dimensions and minute, and whatever goes wrong is counted instead of raised."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import math
import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from retainwise_metrics import MetricUnit, emf
from retainwise_metrics.emf import MetricsLogger, create_metrics_logger
from tests.emf.conftest import NOON, Context

if TYPE_CHECKING:
    from collections.abc import Callable

    from retainwise_metrics.testing.emf_reader import EmfReader
    from tests.emf.conftest import Time

    Make = Callable[..., MetricsLogger]
    Read = Callable[..., EmfReader]


def documents(stream: io.StringIO) -> list[dict[str, Any]]:
    """What was written."""
    return [json.loads(line) for line in stream.getvalue().splitlines() if line]


class Unreliable(io.StringIO):
    """A stream whose writes and flushes fail while told to."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses: BaseException | None = None
        self.stuck: BaseException | None = None
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        """Take text, unless it is refused."""
        if self.refuses is not None:
            raise self.refuses
        self.writes.append(text)
        return super().write(text)

    def flush(self) -> None:
        """Pass it on, unless it is stuck."""
        if self.stuck is not None:
            raise self.stuck


# Recording


def test_one_line_is_one_write(make_logger: Make, read: Read) -> None:
    """Lambda makes a log event of each write; a document must not be in two."""
    stream = Unreliable()
    logger = make_logger(stream=stream)
    for key in "abc":
        logger.put_metric("M", 1, dimensions={"Key": key})
    assert logger.flush()
    assert len(stream.writes) == 3
    assert all(text.endswith("}\n") and text.count("\n") == 1 for text in stream.writes)
    assert read(stream.writes).total_count() == 3


def test_nothing_recorded_is_nothing_written(logger: MetricsLogger, stream: io.StringIO) -> None:
    """Every line costs something."""
    assert logger.flush()
    assert stream.getvalue() == ""


def test_the_hundredth_record_flushes(logger: MetricsLogger, stream: io.StringIO, read: Read) -> None:
    """A hundred records fill a document, and memory stays bounded."""
    for number in range(99):
        logger.put_metric(f"M{number}", number)
    assert stream.getvalue() == ""
    logger.put_metric("M99", 99)
    assert len(documents(stream)) == 1
    assert read(stream.getvalue()).total_count() == 100


def test_stdout_is_looked_up_when_something_is_written(make_logger: Make, read: Read) -> None:
    """Lambda replaces it after the module was imported."""
    logger = make_logger(stream=None)
    logger.put_metric("M", 1)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        logger.flush()
    assert read(out.getvalue()).total_count() == 1


@pytest.mark.parametrize(
    ("value", "published"),
    [(3, 3), (0.5, 0.5), (-1, -1), (True, 1), (Decimal("1.5"), 1.5), (MetricUnit, None), (2.0**360, 2.0**360)],
)
def test_anything_that_is_a_number_is_taken(
    logger: MetricsLogger, stream: io.StringIO, value: Any, published: float | None
) -> None:
    """Other libraries' numbers too; a flag counts as 1 or 0."""
    assert logger.put_metric("M", value) is (published is not None)
    logger.flush()
    assert [document["M"] for document in documents(stream)] == ([] if published is None else [published])


def test_values_under_different_dimensions_never_share_a_document(make_logger: Make, read: Read) -> None:
    """A document has one value for each dimension, so the later one would take the earlier one's metrics over."""
    stream = Unreliable()
    logger = make_logger({"Cluster": "blue"}, stream=stream)
    logger.put_metric("M", 1)
    logger.set_dimension("Op", "a")
    logger.put_metric("M", 2)
    logger.set_dimension("Op", "b")
    logger.put_metric("M", 4)
    logger.put_metric("M", 8, dimensions={"Op": "c", "Zone": 7})
    logger.put_metric("M", 16)
    logger.flush()
    found = read(stream.writes)
    assert found.values("Tests", "M", {"Cluster": "blue"}) == {1: 1}
    assert found.values("Tests", "M", {"Cluster": "blue", "Op": "a"}) == {2: 1}
    assert found.values("Tests", "M", {"Cluster": "blue", "Op": "b"}) == {4: 1, 16: 1}
    assert found.values("Tests", "M", {"Cluster": "blue", "Op": "c", "Zone": "7"}) == {8: 1}


def test_one_name_in_two_units_and_resolutions_is_kept_apart(
    logger: MetricsLogger, stream: io.StringIO, read: Read
) -> None:
    """A document can hold a name once."""
    logger.put_metric("Size", 1, emf.BYTES)
    logger.put_metric("Size", 2, emf.KILOBYTES)
    logger.put_metric("Size", 4, emf.BYTES, storage_resolution=1)
    logger.flush()
    found = read(stream.getvalue())
    assert len(found.documents) == 3
    assert found.values("Tests", "Size") == {1: 1, 2: 1, 4: 1}
    assert found.statistics("Tests", "Size", unit="Kilobytes").total == 2


def test_a_property_stands_beside_what_follows(logger: MetricsLogger, stream: io.StringIO) -> None:
    """Each value keeps the properties it was recorded with, copied when they were set."""
    upload = {"id": 1}
    logger.put_metric("M", 1)
    logger.set_property("upload", upload)
    logger.put_metric("M", 2)
    upload["id"] = 2
    logger.set_property("upload", upload)
    logger.put_metric("M", 3)
    logger.flush()
    assert [(found["M"], found.get("upload")) for found in documents(stream)] == [
        (1, None),
        (2, {"id": 1}),
        (3, {"id": 2}),
    ]


# Time


def test_a_frozen_process_does_not_publish_the_past_as_now(
    logger: MetricsLogger, stream: io.StringIO, read: Read, clock: Time
) -> None:
    """After 20 minutes in the freezer the old values come out in their own minute, the new ones in theirs."""
    logger.put_metric("M", 1)
    clock.seconds += 1200
    logger.put_metric("M", 2)
    logger.flush()
    clock.seconds += 1200
    assert read(stream.getvalue()).windows("Tests", "M") == {NOON: {1: 1}, NOON + 1200: {2: 1}}


def test_minutes_and_seconds_are_kept_apart(
    logger: MetricsLogger, stream: io.StringIO, read: Read, clock: Time
) -> None:
    """A value is published in the minute it was recorded in; one of a metric kept by the second, in its second."""
    for _ in range(3):
        logger.put_metric("Slow", 1)
        logger.put_metric("Fast", 1, storage_resolution=1)
        clock.seconds += 29.5
    logger.flush()
    found = read(stream.getvalue())
    assert found.windows("Tests", "Slow") == {NOON: {1: 3}}
    assert found.windows("Tests", "Fast") == {NOON: {1: 1}, NOON + 29: {1: 1}, NOON + 59: {1: 1}}


# What cannot be published


@pytest.mark.parametrize(
    ("reason", "arguments", "options"),
    [
        ("value", ("M", math.nan), {}),
        ("value", ("M", math.inf), {}),
        ("value", ("M", "1"), {}),
        ("value", ("M", None), {}),
        ("name", ("", 1), {}),
        ("name", (None, 1), {}),
        ("name", ("x" * 256, 1), {}),
        ("name", ("_aws", 1), {}),
        ("name", ("Key", 1), {"dimensions": {"Key": "x"}}),
        ("unit", ("M", 1, "Parsecs"), {}),
        ("unit", ("M", 1, {}), {}),
        ("resolution", ("M", 1), {"storage_resolution": 30}),
        ("dimensions", ("M", 1), {"dimensions": {"": "x"}}),
        ("dimensions", ("M", 1), {"dimensions": {"k" * 251: "x"}}),
        ("dimensions", ("M", 1), {"dimensions": {7: "x"}}),
        ("dimensions", ("M", 1), {"dimensions": {f"D{number}": "x" for number in range(31)}}),
        ("internal", ("M", 1), {"dimensions": 7}),
    ],
)
def test_a_record_that_would_be_dropped_is_refused_and_counted(
    logger: MetricsLogger,
    stream: io.StringIO,
    reason: str,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """False, a reason in the books, a line on stderr, and the records beside it go out."""
    assert logger.put_metric("Fine", 1)
    assert logger.put_metric(*arguments, **options) is False
    assert logger.flush()
    assert logger.stats() == (1, 0, {reason: 1}, {})
    assert [document["Fine"] for document in documents(stream)] == [1]
    assert capsys.readouterr().err.startswith("retainwise_metrics.emf: ")


def test_a_bad_namespace_refuses_every_record(stream: io.StringIO) -> None:
    """A function must not fail to start because a variable with the name of its namespace is empty."""
    logger = MetricsLogger("", stream=stream)
    assert not logger.put_metric("M", 1)
    assert logger.stats().dropped == {"namespace": 1}


@pytest.mark.parametrize(
    ("value", "published"),
    [
        ("", "unknown"),
        ("  ", "unknown"),
        (None, "unknown"),
        ("é", "\\xe9"),
        ("a\nb", "a\\nb"),
        ("\ud800", "\\ud800"),
        ("x" * 1025, "x" * 1024),
    ],
)
def test_a_dimension_that_would_be_lost_is_repaired_and_counted(
    logger: MetricsLogger, stream: io.StringIO, read: Read, value: Any, published: str
) -> None:
    """An empty one would take all dimensions off the metric; two different values stay different."""
    assert logger.set_dimension("Key", value)
    assert logger.put_metric("M", 1)
    logger.flush()
    assert read(stream.getvalue()).sum("Tests", "M", {"Key": published}) == 1
    assert logger.stats().adjusted == {"dimensions": 1}


@pytest.mark.parametrize(("value", "published"), [(7, "7"), (True, "True"), (MetricUnit.COUNT, "Count")])
def test_a_dimension_becomes_text(
    logger: MetricsLogger, stream: io.StringIO, read: Read, value: Any, published: str
) -> None:
    """A number would take all dimensions off the metric."""
    logger.set_dimension("Key", value)
    logger.put_metric("M", 1)
    logger.flush()
    assert read(stream.getvalue()).sum("Tests", "M", {"Key": published}) == 1
    assert logger.stats().adjusted == {}


def test_a_dimension_that_cannot_be_set_changes_nothing(logger: MetricsLogger, stream: io.StringIO, read: Read) -> None:
    """There are 30 at most; what follows is recorded under those there are."""
    for number in range(31):
        assert logger.set_dimension(f"D{number}", "x") is (number < 30)
    assert not logger.set_dimension("", "x")
    logger.put_metric("M", 1)
    logger.flush()
    assert read(stream.getvalue()).sum("Tests", "M", {f"D{number}": "x" for number in range(30)}) == 1
    assert logger.stats().adjusted == {"dimensions": 2}


def test_default_dimensions_are_repaired_one_by_one(make_logger: Make, stream: io.StringIO, read: Read) -> None:
    """One that cannot be used does not take the others with it."""
    logger = make_logger({"": "x", "Empty": "", "Fine": "y"})
    logger.put_metric("M", 1)
    logger.flush()
    assert read(stream.getvalue()).sum("Tests", "M", {"Empty": "unknown", "Fine": "y"}) == 1
    assert logger.stats().adjusted == {"dimensions": 2}
    assert make_logger(7).put_metric("M", 1)  # type: ignore[arg-type]


class Hostile:
    """An object that raises whenever it is looked at."""

    def __getattribute__(self, name: str) -> Any:
        """No."""
        raise RuntimeError("secret")

    def __str__(self) -> str:
        raise RuntimeError("secret")

    def __float__(self) -> float:
        raise RuntimeError("secret")

    def __hash__(self) -> int:
        raise RuntimeError("secret")


def test_no_argument_can_make_it_raise(logger: MetricsLogger, capsys: pytest.CaptureFixture[str]) -> None:
    """What strangers' objects raise is counted, and not repeated."""
    bad: Any = Hostile()
    assert not logger.put_metric(bad, 1)
    assert not logger.put_metric("M", bad)
    assert not logger.put_metric("M", 1, bad)
    assert not logger.put_metric("M", 1, dimensions=bad)
    assert not logger.put_metric("M", 1, dimensions={"Key": bad})
    assert not logger.put_metric("M", 1, storage_resolution=bad)
    assert not logger.set_dimension(bad, "x")
    assert not logger.set_dimension("Key", bad)
    assert not logger.set_property(bad, "x")
    assert not logger.set_property("Key", bad)
    assert sum(logger.stats().dropped.values()) == 6
    assert sum(logger.stats().adjusted.values()) == 4
    assert "secret" not in capsys.readouterr().err


@pytest.mark.parametrize("value", [math.nan, {1, 2}, {"a": [math.inf]}, {(1, 2): 3}])
def test_a_property_that_is_not_json_becomes_text(
    logger: MetricsLogger, stream: io.StringIO, value: object, read: Read
) -> None:
    """It would make the document unreadable."""
    assert logger.set_property("p", value)
    logger.put_metric("M", 1)
    logger.flush()
    assert read(stream.getvalue()).documents[0]["p"] in {str(value), repr(value)}


def test_properties_are_bounded(logger: MetricsLogger, stream: io.StringIO, read: Read) -> None:
    """A document is 256 kilobytes at most, and each carries all properties."""
    assert logger.set_property("p", "x" * 60_000)
    assert not logger.set_property("q", "x" * 60_000)
    logger.put_metric("M", 1)
    logger.flush()
    assert "q" not in read(stream.getvalue()).documents[0]
    assert logger.stats().adjusted == {"properties": 1}


def test_stderr_is_told_once_a_minute_and_reason(
    logger: MetricsLogger, clock: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken record in a loop does not fill the log, and no value of a dimension gets there."""
    for _ in range(1000):
        logger.put_metric("M", math.nan)
        logger.put_metric("M", 1, dimensions={"Customer": "Zoë", "": ""})
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 2
    assert "Zo" not in told
    clock.seconds += 61
    logger.put_metric("M", math.nan)
    assert capsys.readouterr().err == (
        "retainwise_metrics.emf: put_metric('M'): value must be a finite number between -2**360 and 2**360 (said once a minute)\n"
    )
    assert logger.stats().dropped == {"value": 1001, "dimensions": 1000}


# A stream that fails


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("I/O operation on closed file"), RuntimeError()])
def test_what_a_broken_stream_does_not_take_is_kept(make_logger: Make, read: Read, error: Exception) -> None:
    """It goes out with the next flush, once, on a line of its own: half a line may be there already."""
    stream = Unreliable()
    logger = make_logger(stream=stream)
    stream.refuses = error
    logger.put_metric("M", 1)
    assert not logger.flush()
    logger.put_metric("M", 2)
    assert not logger.flush()
    assert logger.stats() == (0, 2, {}, {})
    stream.refuses = None
    assert logger.flush()
    assert stream.writes[0].startswith("\n")
    assert read(stream.getvalue()).values("Tests", "M") == {1: 1, 2: 1}
    assert logger.stats() == (2, 0, {}, {})


def test_what_a_stream_holds_already_is_not_written_to_it_again(make_logger: Make, read: Read) -> None:
    """A buffered stream that cannot pass a line on still has it."""
    stream = Unreliable()
    logger = make_logger(stream=stream)
    stream.stuck = BlockingIOError()
    logger.put_metric("M", 1)
    assert not logger.flush()
    assert not logger.flush()
    stream.stuck = None
    assert logger.flush()
    assert read(stream.getvalue()).values("Tests", "M") == {1: 1}


def test_a_closed_stdout_that_is_replaced_loses_nothing(make_logger: Make, read: Read) -> None:
    """The new one gets what the old one did not take."""
    logger = make_logger(stream=None)
    closed = io.StringIO()
    closed.close()
    with contextlib.redirect_stdout(closed):
        logger.put_metric("M", 1)
        assert not logger.flush()
    with contextlib.redirect_stdout(None):
        assert not logger.flush()
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert logger.flush()
    assert read(out.getvalue()).values("Tests", "M") == {1: 1}


def test_a_stream_that_stays_broken_costs_bounded_memory(make_logger: Make, read: Read) -> None:
    """The newest hundred documents are kept, the others counted as dropped: nothing is unaccounted for."""
    stream = Unreliable()
    logger = make_logger(stream=stream)
    stream.refuses = BrokenPipeError()
    for number in range(15_000):
        logger.put_metric("M", number)
    found = logger.stats()
    assert found == (0, 10_000, {"unwritable": 5000}, {})
    stream.refuses = None
    assert logger.flush()
    assert read(stream.getvalue()).minimum("Tests", "M") == 5000
    assert logger.stats() == (10_000, 0, {"unwritable": 5000}, {})


def test_an_interrupt_in_a_write_loses_nothing(make_logger: Make, read: Read) -> None:
    """Ctrl-C belongs to the program; the document waits."""
    stream = Unreliable()
    logger = make_logger(stream=stream)
    stream.refuses = KeyboardInterrupt()
    logger.put_metric("M", 1)
    with pytest.raises(KeyboardInterrupt):
        logger.flush()
    stream.refuses = None
    assert logger.flush()
    assert read(stream.getvalue()).values("Tests", "M") == {1: 1}


@pytest.mark.parametrize("broken", ["clock", "monotonic"])
def test_a_broken_clock_is_counted_as_well(make_logger: Make, broken: str) -> None:
    """Whatever is injected may fail."""

    def fail() -> float:
        raise OSError

    logger = make_logger(**{broken: fail})
    assert logger.put_metric("M", 1) is (broken == "monotonic")
    logger.put_metric("M", math.nan)
    assert logger.flush()
    assert sum(logger.stats().dropped.values()) == (1 if broken == "monotonic" else 2)


# Re-entrancy and threads are in test_logger_concurrency.py; here: life and death


def test_a_logger_that_goes_away_writes_what_it_has(make_logger: Make, stream: io.StringIO, read: Read) -> None:
    """One made inside a handler and never flushed loses nothing."""
    make_logger().put_metric("M", 1)
    gc.collect()
    assert read(stream.getvalue()).total_count() == 1


def test_loggers_leave_nothing_behind(make_logger: Make) -> None:
    """One per invocation is a common mistake; dimensions set on it must not stay in the thread for ever."""
    kept = make_logger()
    kept.set_dimension("Key", "x")
    for _ in range(50):
        make_logger().set_dimension("Key", "x")
    gc.collect()
    kept.set_dimension("Key", "y")
    assert [logger for logger in emf._STATES.get() if logger is not kept] == []


def test_a_new_thread_starts_with_the_default_dimensions(make_logger: Make, stream: io.StringIO, read: Read) -> None:
    """What one thread sets is not another's."""
    logger = make_logger({"Default": "x"})
    logger.set_dimension("Key", "y")
    thread = threading.Thread(target=logger.put_metric, args=("M", 1))
    thread.start()
    thread.join()
    logger.flush()
    assert read(stream.getvalue()).sum("Tests", "M", {"Default": "x"}) == 1


# create_metrics_logger


@pytest.mark.parametrize(
    ("environment", "context", "dimensions"),
    [
        ({}, None, {}),
        ({"CLUSTER_NAME": "blue"}, Context(), {"ClusterName": "blue", "FunctionName": "billing"}),
        ({"CLUSTER_NAME": "blue", "AWS_LAMBDA_FUNCTION_NAME": "mail"}, None, {"ClusterName": "blue", "FunctionName": "mail"}),
        ({"CLUSTER_NAME": "", "AWS_LAMBDA_FUNCTION_NAME": "mail"}, Context(), {"FunctionName": "billing"}),
        ({}, Hostile, {}),
    ],
)  # fmt: skip
def test_default_dimensions_come_from_the_surroundings(
    monkeypatch: pytest.MonkeyPatch,
    stream: io.StringIO,
    environment: dict[str, str],
    context: Any,
    dimensions: dict[str, str],
) -> None:
    """The cluster's name from its variable, the function's from the context, else from Lambda's variable; what is missing is left out."""
    for name in ("CLUSTER_NAME", "AWS_LAMBDA_FUNCTION_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    logger = create_metrics_logger("Tests", Hostile() if context is Hostile else context, stream=stream)
    logger.put_metric("M", 1)
    logger.flush()
    (document,) = documents(stream)
    assert {key: document[key] for key in document["_aws"]["CloudWatchMetrics"][0]["Dimensions"][0]} == dimensions
