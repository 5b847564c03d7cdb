"""The demo's judgement: a good run passes, and any altered number does not."""

from collections.abc import Callable
from typing import Any

import pytest

from examples.retainwise import checks, compare, read_back, report
from examples.retainwise.checks import Ending, Evidence
from examples.retainwise.tally import Ledger, ProcessTally, SeriesKey, Totals
from examples.retainwise.traffic import KINDS, Sent, Upload

API, WORKER, ML, DATABASE = "RetainWise/API", "RetainWise/Worker", "RetainWise/MLPipeline", "RetainWise/Database"
METRICS = "RetainWise/Metrics"
USER = "user_1001"
BUCKET = "b17"

Records = dict[SeriesKey, Totals]
Change = Callable[[Evidence], Evidence]


def counted(namespace: str, name: str, times: int, value: float = 1, **dimensions: str) -> Records:
    """A counter that was incremented some times."""
    totals = Totals("Count", times, times * value, value, value)
    return {SeriesKey(namespace, name, tuple(sorted(dimensions.items()))): totals}


def process(name: str, records: Records) -> Ending:
    """A process that recorded this, and whose client delivered all of it, and a number about itself."""
    published = compare.expected([records])
    delivered = int(sum(totals.samples for totals in published.values())) + 1
    return Ending(name, 1, 0, ProcessTally(name, Ledger(delivered, delivered, 0, {}, 1, 0), records))


def good_run() -> Evidence:
    """A run with two good files and one bad file of each kind."""
    api = process(
        "upload api",
        counted(API, "UploadSuccess", 3, Endpoint="/upload")
        | counted(API, "UploadRejected", 1, ErrorType="NotText")
        | counted(API, "UploadRejected", 1, ErrorType="NoRows")
        | counted(API, "UploadRejected", 1, ErrorType="MissingColumns")
        | counted(API, "UploadRejected", 1, ErrorType="EmptyFile")
        | counted(API, "SQSMessageSent", 3)
        | counted(API, "UploadsByUser", 7, UserId=USER),
    )
    worker = process(
        "worker",
        counted(WORKER, "WorkerSuccess", 2)
        | counted(WORKER, "WorkerFailure", 1, ErrorType="CSVParse")
        | counted(WORKER, "WorkerFailure", 1, ErrorType="MessageParse")
        | counted(WORKER, "MessageParseError", 1)
        | counted(ML, "CSVParseError", 1, ErrorType="RowLength")
        | counted(DATABASE, "PredictionsSaved", 2, 25),
    )
    files = ["customers", *KINDS]
    sent = [Sent(Upload(kind, USER, b"", 0), 202 if KINDS[kind].accepted else 400) for kind in files]
    recorded = compare.expected(ending.tally.records for ending in (api, worker) if ending.tally)
    found = {key._replace(dimensions=hashed(key.dimensions)): totals for key, totals in recorded.items()}
    found |= counted(METRICS, "MetricsDropped", 2, 0)
    return Evidence(sent, 1, False, [api, worker], [Ending("embedded aws", 2, 0, None)], found, 50)


def hashed(dimensions: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """The dimensions as the library publishes them."""
    return tuple((name, BUCKET if name == "UserId" else value) for name, value in dimensions)


def found(namespace: str, name: str, totals: Totals | None, **dimensions: str) -> Change:
    """CloudWatch holds other numbers for a series, or no such series."""

    def change(evidence: Evidence) -> Evidence:
        key = SeriesKey(namespace, name, tuple(sorted(dimensions.items())))
        others = {other: value for other, value in evidence.found.items() if other != key}
        return evidence._replace(found=others | ({key: totals} if totals else {}))

    return change


def ledger(**fields: Any) -> Change:
    """The ledger of the worker says something else."""

    def change(evidence: Evidence) -> Evidence:
        api, worker = evidence.applications
        assert worker.tally is not None
        altered = worker.tally._replace(ledger=worker.tally.ledger._replace(**fields))
        return evidence._replace(applications=[api, worker._replace(tally=altered)])

    return change


def ending(**fields: Any) -> Change:
    """The worker ended in another way."""

    def change(evidence: Evidence) -> Evidence:
        api, worker = evidence.applications
        return evidence._replace(applications=[api, worker._replace(**fields)])

    return change


def test_a_good_run_passes() -> None:
    """Numbers that agree everywhere make every check true."""
    verdict = checks.verdict(good_run())
    assert [check.sentence for check in verdict if not check.true] == []
    assert report.exit_code(verdict) == 0


LINES, LEDGER = "lines read back", "the ledger of worker"
BY_ENDPOINT = {"Endpoint": "/upload"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(found(WORKER, "WorkerSuccess", Totals("Count", 3, 3, 1, 1)), LINES, id="more than recorded"),
        pytest.param(found(WORKER, "WorkerSuccess", Totals("Count", 1, 1, 1, 1)), LINES, id="less than recorded"),
        pytest.param(found(WORKER, "WorkerSuccess", None), LINES, id="series missing"),
        pytest.param(found(API, "UploadSuccess", None, **BY_ENDPOINT), LINES, id="series of a dimension missing"),
        pytest.param(found(API, "Surprise", Totals("Count", 1, 1, 1, 1)), LINES, id="series nobody recorded"),
        pytest.param(found(API, "UploadSuccess", Totals("Bytes", 3, 3, 1, 1), **BY_ENDPOINT), LINES, id="other unit"),
        pytest.param(
            found(API, "UploadSuccess", Totals("Count", 3, 3, 1, 2), **BY_ENDPOINT), LINES, id="other maximum"
        ),
        pytest.param(found(API, "UploadSuccess", Totals("Count", 4, 3, 1, 1), **BY_ENDPOINT), LINES, id="other count"),
        pytest.param(found(API, "X", Totals("Count", 1, 1, 1, 1), UserId=USER), "user ids reached", id="raw user id"),
        pytest.param(ledger(recorded=9, delivered=9), "CloudWatch holds", id="ledger and CloudWatch disagree"),
        pytest.param(found(METRICS, "MetricsDropped", None), "MetricsDropped says", id="nothing said about drops"),
        pytest.param(
            found(METRICS, "MetricsDropped", Totals("Count", 2, 1, 0, 1)), "MetricsDropped says", id="other drops said"
        ),
        pytest.param(ledger(pending=1), LEDGER, id="something pending"),
        pytest.param(ledger(dropped={"backlog-full": 1}), LEDGER, id="something dropped"),
        pytest.param(ledger(recorded=99), LEDGER, id="ledger does not add up"),
        pytest.param(ending(tally=None), LEDGER, id="no tally left"),
        pytest.param(ending(exit_code=-9), "exit code -9", id="killed"),
        pytest.param(lambda run: run._replace(predictions=49), "rows in the database", id="a row missing"),
        pytest.param(lambda run: run._replace(stray_messages=2), "stray message", id="a stray message unseen"),
        pytest.param(lambda run: run._replace(stray_messages=2), "messages became", id="a job uncounted"),
        pytest.param(lambda run: run._replace(sent=run.sent[1:]), "answered 202", id="a success too many"),
        pytest.param(lambda run: run._replace(sent=run.sent[1:]), "each counted once", id="an upload counted twice"),
        pytest.param(lambda run: run._replace(sent=run.sent[:-1]), "empty: 0 sent", id="a kind of file missing"),
    ],
)
def test_any_difference_fails_the_run(change: Change, words: str) -> None:
    """One altered number is reported by the check that is there for it, and the demo ends with 1."""
    verdict = checks.verdict(change(good_run()))
    assert any(words in check.sentence for check in verdict if not check.true)
    assert report.exit_code(verdict) == 1


def test_no_checks_are_no_success() -> None:
    """Without evidence the demo fails."""
    assert report.exit_code([]) == 1


def test_zeros_of_the_library_are_no_difference() -> None:
    """A counter that alarms read may have more values than were recorded, as long as the sum is the same."""
    zeros = found(WORKER, "WorkerSuccess", Totals("Count", 5, 2, 0, 1))
    rows = zeros(good_run()).rows
    assert all(row.equal for row in rows)


def test_what_moto_adds_is_taken_off() -> None:
    """Moto answers with a series and all that have more dimensions; the series' own numbers come out."""

    def key(**dimensions: str) -> SeriesKey:
        return SeriesKey(API, "Requests", tuple(sorted(dimensions.items())))

    def totals(number: float) -> Totals:
        return Totals("Count", number, number, 1, 1)

    own = {key(): totals(10), key(A="1"): totals(4), key(A="2"): totals(3), key(A="1", B="1"): totals(2)}
    moto = {key(): totals(19), key(A="1"): totals(6), key(A="2"): totals(3), key(A="1", B="1"): totals(2)}
    assert read_back.exact(moto) == own
