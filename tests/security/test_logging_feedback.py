"""Every log line is a metric: the root logger at DEBUG has a handler that records. No deadlock, no loss, no loop."""

from __future__ import annotations

import logging
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from retainwise_metrics import BreakerState, CloudWatchMetrics, MetricsConfig
from retainwise_metrics.testing import FakeCloudWatch, ManualRuntime
from tests.concurrency.threads import FOREVER_SECONDS, PATIENCE_SECONDS, begin, together
from tests.helpers import NAMESPACE, assert_balanced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Count = Callable[..., tuple[CloudWatchMetrics, "Recording"]]

LOGGER = logging.getLogger("tests.application")
CHATTY = ("boto3", "botocore", "urllib3")


class Recording(logging.Handler):
    """Records a metric for each log line, as people do to count their errors."""

    def __init__(self, client: CloudWatchMetrics) -> None:
        super().__init__()
        self.client = client
        self.lines: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines[record.name.partition(".")[0]] += 1
        self.client.increment_counter("Lines", dimensions={"Level": record.levelname})


@pytest.fixture
def runtime() -> ManualRuntime:
    """A clock that is moved by hand, from now on."""
    return ManualRuntime(wall=time.time())


@pytest.fixture
def cloudwatch(runtime: ManualRuntime) -> Iterator[FakeCloudWatch]:
    """A CloudWatch on the same clock."""
    with FakeCloudWatch(now=runtime.wall) as server:
        yield server


@pytest.fixture
def count_lines(cloudwatch: FakeCloudWatch, runtime: ManualRuntime, monkeypatch: pytest.MonkeyPatch) -> Iterator[Count]:
    """Make a client, on the manual clock or on real threads, and let it record every log line of the process."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    root = logging.getLogger()
    level, handlers = root.level, []

    def make(runtime: ManualRuntime | None = runtime, **settings: Any) -> tuple[CloudWatchMetrics, Recording]:
        usual = {"endpoint_url": cloudwatch.endpoint_url, "region": "us-east-1", "catalogue": ()}
        handlers.append(Recording(CloudWatchMetrics(MetricsConfig(**{**usual, **settings}), runtime=runtime)))
        root.addHandler(handlers[-1])
        root.setLevel(logging.DEBUG)
        return handlers[-1].client, handlers[-1]

    yield make
    root.setLevel(level)
    for handler in handlers:
        root.removeHandler(handler)
        handler.client.stop(5.0)


def test_a_flush_does_not_make_work_for_the_next_one(
    count_lines: Count, runtime: ManualRuntime, cloudwatch: FakeCloudWatch
) -> None:
    """boto3 has fifty lines to say about a call; none of them is written about the library's own, so it comes to rest."""
    client, handler = count_lines()
    LOGGER.debug("one")
    runtime.advance(3600.0)
    assert handler.lines == {"tests": 1}
    assert client.stats()[:4] == (1, 1, 0, {})
    assert client.stats().calls == 1
    LOGGER.debug("another")
    runtime.advance(3600.0)
    assert client.stats().calls == 2
    assert cloudwatch.sum(NAMESPACE, "Lines", {"Level": "DEBUG"}) == 2


def test_trouble_is_told_once_and_not_about_itself(
    count_lines: Count, runtime: ManualRuntime, cloudwatch: FakeCloudWatch
) -> None:
    """An hour of refusals: the few lines of the library are recorded, held, and delivered like all others."""
    client, handler = count_lines()
    cloudwatch.faults.refuse_connections()
    LOGGER.error("one")
    runtime.advance(3600.0)
    assert handler.lines.keys() == {"tests", "retainwise_metrics"}
    assert client.stats().breaker_state is BreakerState.OPEN
    openings_in_an_hour = 5
    assert handler.lines["retainwise_metrics"] <= openings_in_an_hour
    cloudwatch.faults.accept_connections()
    runtime.advance(3600.0)
    assert client.flush(FOREVER_SECONDS)
    assert_balanced(client)
    assert client.stats().dropped == {}
    assert cloudwatch.total_count() == client.stats().delivered == sum(handler.lines.values())


def test_a_bad_record_in_the_handler_does_not_feed_on_its_own_line(count_lines: Count, runtime: ManualRuntime) -> None:
    """The line that says a record was refused leads to another refused record: one line a minute is all it can become."""
    client, handler = count_lines()
    handler.emit = lambda record: (  # type: ignore[method-assign]
        handler.lines.update([record.name.partition(".")[0]]),
        client.put_metric("M", float("nan")),
    )
    LOGGER.error("one")
    client.put_metric("M", 1)
    runtime.advance(3600.0)
    assert handler.lines["retainwise_metrics"] <= 61
    assert_balanced(client)


def test_no_line_is_lost_and_nobody_hangs(count_lines: Count, cloudwatch: FakeCloudWatch) -> None:
    """Four threads log while others flush and the flusher calls boto3."""
    client, handler = count_lines(runtime=None, flush_interval_seconds=0.1)

    def log() -> None:
        for line in range(2_500):
            LOGGER.debug("line %d", line)

    def flush() -> None:
        for _ in range(20):
            client.flush(FOREVER_SECONDS)

    together(log, log, log, log, flush)
    assert client.flush(FOREVER_SECONDS)
    assert handler.lines == {"tests": 10_000}
    assert client.stats()[:4] == (10_000, 10_000, 0, {})
    assert cloudwatch.sum(NAMESPACE, "Lines", {"Level": "DEBUG"}) == 10_000


def test_a_handler_that_flushes_does_not_wait_for_itself(
    count_lines: Count, runtime: ManualRuntime, cloudwatch: FakeCloudWatch
) -> None:
    """The flusher's own lines reach a handler that asks the flusher for a flush: it gets no answer instead of a hang."""
    client, handler = count_lines(runtime=None, failure_threshold=1, flush_interval_seconds=0.1)
    record = handler.emit

    def emit(line: logging.LogRecord) -> None:
        record(line)
        client.flush(FOREVER_SECONDS if line.name == "retainwise_metrics" else 0.0)

    handler.emit = emit  # type: ignore[method-assign]
    cloudwatch.faults.fail(503)
    LOGGER.error("one")
    assert cloudwatch.wait_for_calls(1, PATIENCE_SECONDS)
    assert begin(partial(client.stop, FOREVER_SECONDS)).result(PATIENCE_SECONDS) is not None
    assert_balanced(client)


@pytest.mark.parametrize("name", CHATTY)
def test_only_the_librarys_own_calls_are_mute(
    name: str, count_lines: Count, cloudwatch: FakeCloudWatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While a call is under way, the application's own use of boto3 on other threads is heard."""
    client, _ = count_lines(runtime=None, read_timeout_seconds=60.0)
    client.put_metric("M", 1)
    assert client.flush(FOREVER_SECONDS)
    cloudwatch.faults.hang(1)
    client.put_metric("M", 2)
    flushing = begin(partial(client.flush, FOREVER_SECONDS))
    assert cloudwatch.wait_until(lambda: cloudwatch.faults.held == 1)
    # The loggers that boto3 itself uses, not made up ones.
    (logger, *_) = [made for made in sorted(logging.root.manager.loggerDict) if made.startswith(f"{name}.")]
    logging.getLogger(logger).debug("of the application")
    assert [line.name for line in caplog.records if line.name.startswith(CHATTY)] == [logger]
    cloudwatch.faults.release()
    flushing.result(PATIENCE_SECONDS)
    logging.getLogger(logger).debug("afterwards")
    assert [line.getMessage() for line in caplog.records if line.name == logger] == ["of the application", "afterwards"]


def test_warnings_about_the_librarys_calls_are_heard(count_lines: Count, cloudwatch: FakeCloudWatch) -> None:
    """What somebody ought to know is said as ever: only chatter is mute."""
    client, handler = count_lines(runtime=None)
    client.put_metric("M", 1)
    assert client.flush(FOREVER_SECONDS)
    boto = client._pipeline._sink._client
    boto.meta.events.register_first(
        "before-send.cloudwatch.PutMetricData",
        lambda **_: [logging.getLogger("botocore.credentials").log(level, "x") for level in (10, 20, 30, 40)] and None,
    )
    assert client.put_metric_sync("M", 1)
    assert handler.lines["botocore"] == 2
    assert client.flush(FOREVER_SECONDS)
    assert cloudwatch.sum(NAMESPACE, "Lines", {"Level": "WARNING"}) == 1
    assert cloudwatch.sum(NAMESPACE, "Lines", {"Level": "ERROR"}) == 1
