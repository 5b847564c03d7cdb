"""
What one record costs its caller, in one thread, against an empty method, other libraries, the textbook and the naive design.

1. The client is a real one with its thread running; it delivers to memory. What callers fold on the way (each time a series holds 4,096
   values) is therefore part of the figures, and the memory is bounded. Prometheus' client has nothing to deliver.
2. Each other library is called as its documentation shows for a record with dimensions of its own. For aws-embedded-metrics and Powertools
   that is a document per record, which goes to nobody. datadogpy aggregates, and sends to a socket of this process.
3. The naive design keeps twenty datums and sends them with boto3 from the caller's thread, to a fake in another process that answers at
   once: the milliseconds to a real endpoint come on top.
4. A library that is not installed is left out, with a message.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from _endpoint import Endpoint
from _harness import Report, arguments, interleaved
from _naive import Empty, Naive, Textbook
from _peers import LABELS, peers
from _peers import VALUES as LABEL_VALUES

from retainwise_metrics import CloudWatchMetrics, MetricsConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

VALUES = tuple(round(0.001 * number, 3) for number in range(1000))
DIMENSIONS = '{"Endpoint": endpoint, "Method": method, "Status": status}'
WITH_USER = '{"Endpoint": endpoint, "Method": method, "UserId": each}'

_DRAW = random.Random(7)
HUNDRED_USERS = tuple(f"customer-{_DRAW.randrange(100)}" for _ in range(20_000))
TEN_THOUSAND_USERS = tuple(f"client-{_DRAW.randrange(10_000)}" for _ in range(20_000))
NEW_USERS = tuple(f"visitor-{number}" for number in range(200_000))


class Case(NamedTuple):
    """
    One way to record.

    Attributes:
        statement: What is timed; `each` is the item at hand.
        over: The items.
        waits: Whether it waits for something: then the wall clock is read, and else the CPU time of the thread, which a busy machine
            does not lengthen.
    """

    statement: str
    over: Sequence[object] = VALUES
    waits: bool = False


CASES = {
    "empty put_metric, no dimensions": Case('empty.put_metric("Requests", each)'),
    "empty put_metric, 3 dimensions": Case(f'empty.put_metric("Requests", each, dimensions={DIMENSIONS})'),
    "empty inc": Case("empty.inc()"),
    "empty observe": Case("empty.observe(each)"),
    "put_metric, no dimensions": Case('client.put_metric("Requests", each)'),
    "put_metric, 3 dimensions": Case(f'client.put_metric("RequestsBy", each, dimensions={DIMENSIONS})'),
    "put_metric, 3, 100 UserIds": Case(f'client.put_metric("Few", 1.5, dimensions={WITH_USER})', HUNDRED_USERS),
    "put_metric, 3, 10,000 UserIds": Case(
        f'client.put_metric("Many", 1.5, dimensions={WITH_USER})', TEN_THOUSAND_USERS
    ),
    "put_metric, 3, a new UserId each": Case(f'client.put_metric("New", 1.5, dimensions={WITH_USER})', NEW_USERS),
    "increment_counter, 3 dimensions": Case(f'client.increment_counter("Seen", dimensions={DIMENSIONS})'),
    "bound counter, inc": Case("counter.inc()"),
    "bound histogram, observe": Case("histogram.observe(each)"),
    "textbook, no dimensions": Case('textbook.put_metric("Requests", each)'),
    "textbook, 3 dimensions": Case(f'textbook.put_metric("RequestsBy", each, dimensions={DIMENSIONS})'),
    "naive, flushing inline": Case(f'naive.put_metric("RequestsBy", each, dimensions={DIMENSIONS})', waits=True),
}

RATIOS = (
    ("put_metric, 3 dimensions", "prometheus labels(k=v).inc", "<= 0.35"),
    ("put_metric, 3 dimensions", "prometheus labels(v).inc", ""),
    ("put_metric, 3 dimensions", "prometheus labels(k=v).observe", ""),
    ("put_metric, 3 dimensions", "empty put_metric, 3 dimensions", "<= 3.5"),
    ("put_metric, no dimensions", "empty put_metric, no dimensions", ""),
    ("put_metric, 3, 100 UserIds", "put_metric, 3 dimensions", "<= 2"),
    ("put_metric, 3, 10,000 UserIds", "put_metric, 3 dimensions", "<= 2"),
    ("put_metric, 3, a new UserId each", "put_metric, 3 dimensions", ""),
    ("bound counter, inc", "prometheus bound inc", "<= 0.3"),
    ("bound histogram, observe", "prometheus bound observe", ""),
    ("bound counter, inc", "empty inc", ""),
    ("put_metric, 3 dimensions", "datadogpy increment, aggregated", "<= 0.5"),
    ("OpenTelemetry counter.add", "put_metric, 3 dimensions", ">= 12"),
    ("OpenTelemetry histogram.record", "put_metric, 3 dimensions", ">= 12"),
    ("aws-embedded-metrics, a document", "put_metric, 3 dimensions", ">= 30"),
    ("Powertools, a document", "put_metric, 3 dimensions", ">= 30"),
    ("textbook, 3 dimensions", "put_metric, 3 dimensions", ">= 2"),
    ("naive, flushing inline", "put_metric, 3 dimensions", ""),
)
"""What is compared with what, and the target."""


class Size(NamedTuple):
    """
    How much is measured.

    Attributes:
        rounds: Rounds of all cases.
        seconds: For one case in one round.
    """

    rounds: int
    seconds: float


FULL, QUICK = Size(15, 0.05), Size(5, 0.02)


def main() -> None:
    options = arguments(__doc__)
    report = Report("record", options)
    run(report, QUICK if options.quick else FULL)
    report.finish()


def run(report: Report, size: Size) -> None:
    """
    Measure all cases, and print them.
    """
    with Endpoint() as endpoint, ExitStack() as stack:
        cases, theirs = dict(CASES), {}
        for peer in peers(print):
            stack.callback(peer.close)
            theirs |= peer.names
            cases |= {name: Case(statement) for name, statement in peer.statements.items()}
        client = stack.enter_context(
            CloudWatchMetrics(MetricsConfig(sink="memory", environment="bench", flush_interval_seconds=3600.0))
        )
        names = _names(client) | {"naive": Naive(_boto3_sender(endpoint.fresh()))} | theirs
        found = interleaved({name: _timed(case, names, size.seconds) for name, case in cases.items()}, size.rounds)
        stats = client.stats()
    if stats.dropped:
        message = f"records were dropped, so the figures mean nothing: {stats.dropped}"
        raise RuntimeError(message)
    report.table("Nanoseconds per record, one thread", ("call", "ns"), found.items())
    report.table(
        "Ratios",
        ("call", "against", "ratio", "target"),
        [
            (call, against, found[call].over(found[against]), target)
            for call, against, target in RATIOS
            if call in found and against in found
        ],
        note=f"{stats.recorded:,} measurements recorded, none dropped",
    )


def _names(client: CloudWatchMetrics) -> dict[str, Any]:
    """What the statements refer to."""
    return {
        "empty": Empty(),
        "textbook": Textbook(),
        "client": client,
        "counter": client.counter("Uploads").bind(Endpoint="/upload", Method="POST", Status="accepted"),
        "histogram": client.histogram("Duration").bind(Endpoint="/upload", Method="POST", Status="accepted"),
        **dict(zip(LABELS, LABEL_VALUES, strict=True)),
    }


def _boto3_sender(url: str) -> Callable[[str, list[dict[str, Any]]], object]:
    """What the naive design calls: boto3 as it comes, with credentials that nobody checks."""
    import boto3

    sender = boto3.session.Session(
        aws_access_key_id="bench", aws_secret_access_key="bench", region_name="eu-central-1"
    ).client("cloudwatch", endpoint_url=url)
    return lambda namespace, datums: sender.put_metric_data(Namespace=namespace, MetricData=datums)


def _timed(case: Case, names: dict[str, Any], seconds: float) -> Callable[[], float]:
    """
    A function that runs a case for about so long and answers with the nanoseconds of one call.
    """
    loop = _loop(case, names)
    warm = min(loop(islice(cycle(case.over), 1000)) for _ in range(5)) / 1000
    calls = max(int(seconds * 1e9 / warm), 1000)
    items = cycle(case.over)
    return lambda: loop(list(islice(items, calls))) / calls


def _loop(case: Case, names: dict[str, Any]) -> Callable[[Any], int]:
    """
    The statement in a loop of its own, with everything it refers to as a local variable, as in an application's function.
    """
    clock = time.perf_counter_ns if case.waits else time.thread_time_ns
    body = f" begin = clock()\n for each in items:\n  {case.statement}\n return clock() - begin\n"
    source = f"def loop(items, clock, {', '.join(names)}):\n{body}"
    scope: dict[str, Any] = {}
    exec(compile(source, f"<{case.statement}>", "exec"), scope)
    return lambda items: scope["loop"](items, clock, **names)


if __name__ == "__main__":
    main()
