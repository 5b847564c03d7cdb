"""
The verdict on a run: everything that must be true, each as one sentence.

What the outside saw (HTTP answers, rows in the database, exit codes) is held against what CloudWatch says of it, so a
mistake that the applications and their tallies share does not pass either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from examples.retainwise import compare
from examples.retainwise.read_back import total_of
from examples.retainwise.traffic import BAD_KINDS, KINDS
from retainwise_metrics import MetricNamespace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from examples.retainwise.alarms import Watched
    from examples.retainwise.tally import ProcessTally, SeriesKey, Totals
    from examples.retainwise.traffic import Sent


class Ending(NamedTuple):
    """
    How a process ended.

    Attributes:
        name: What people call it.
        pid: Its process id.
        exit_code: 0 when all is well; negative when a signal ended it.
        tally: What it left behind; None for a process that has none, or left none.
    """

    name: str
    pid: int
    exit_code: int
    tally: ProcessTally | None


class Evidence(NamedTuple):
    """
    All that is known of a run.

    Attributes:
        sent: Every upload with its answer.
        stray_messages: Messages put on the queue that are not jobs.
        visitors: Whether somebody else may have used the API too (`--keep`).
        applications: Processes that record metrics.
        others: Processes that do not.
        found: What CloudWatch holds.
        predictions: Rows in the database.
        watched: What came of the alarms; None without `--alarms`.
    """

    sent: Sequence[Sent]
    stray_messages: int
    visitors: bool
    applications: Sequence[Ending]
    others: Sequence[Ending]
    found: Mapping[SeriesKey, Totals]
    predictions: int
    watched: Watched | None = None

    @property
    def tallies(self) -> list[ProcessTally]:
        """
        The tallies that were left behind.
        """
        return [ending.tally for ending in self.applications if ending.tally]

    @property
    def rows(self) -> list[compare.Row]:
        """
        CloudWatch and the tallies, side by side; without what the metrics clients say about themselves, which no application tallies.
        """
        told = {key: totals for key, totals in self.found.items() if key.namespace != MetricNamespace.METRICS}
        return compare.compare(told, compare.expected(tally.records for tally in self.tallies))


class Check(NamedTuple):
    """
    One sentence that must be true.
    """

    true: bool
    sentence: str


def verdict(evidence: Evidence) -> list[Check]:
    """
    Check a run.

    Returns:
        Every check, failed or not; the run is good when all are true.
    """
    checks = [*_series(evidence), *_processes(evidence), *_privacy(evidence)]
    checks += _jobs(evidence)
    checks += _alarms(evidence)
    return checks if evidence.visitors else [*checks, *_files(evidence)]


def _series(evidence: Evidence) -> Iterator[Check]:
    rows = evidence.rows
    equal = sum(row.equal for row in rows)
    yield Check(bool(rows) and equal == len(rows), f"{equal} of {len(rows)} lines read back equal what was recorded")
    stored = round(sum(totals.samples for totals in evidence.found.values()))
    delivered = sum(tally.ledger.delivered for tally in evidence.tallies)
    yield Check(
        stored == delivered, f"CloudWatch holds {stored:,} values; the ledgers say {delivered:,} were delivered"
    )
    lost = sum(sum(tally.ledger.dropped.values()) for tally in evidence.tallies)
    told = total_of(evidence.found, "MetricsDropped")
    there = any(key.name == "MetricsDropped" for key in evidence.found)
    yield Check(there and told == lost, f"the ledgers say {lost:,} were dropped; MetricsDropped says {told:,.0f}")


def _processes(evidence: Evidence) -> Iterator[Check]:
    for ending in (*evidence.applications, *evidence.others):
        yield Check(ending.exit_code == 0, f"{ending.name} ended with exit code {ending.exit_code}")
    for ending in evidence.applications:
        problems = compare.ledger_problems(ending.tally.ledger) if ending.tally else ["is missing"]
        yield Check(not problems, f"the ledger of {ending.name} {' and '.join(problems) or 'balances'}")


def _privacy(evidence: Evidence) -> Iterator[Check]:
    personal = compare.personal_values(tally.records for tally in evidence.tallies)
    leaked = compare.leaked(evidence.found, personal)
    sentence = f"{len(leaked)} of {len(personal)} user ids reached CloudWatch unhashed"
    yield Check(bool(personal) and not leaked, sentence)


def _alarms(evidence: Evidence) -> Iterator[Check]:
    watched = evidence.watched
    if watched is None:
        return
    yield Check(watched.applied == 0, f"terraform apply of the alarms ended with exit code {watched.applied}")
    yield Check(watched.checked == 0, f"the check of the alarms ended with exit code {watched.checked}")
    yield Check(watched.drilled == 0, f"the drill of an alarm ended with exit code {watched.drilled}")


def _jobs(evidence: Evidence) -> Iterator[Check]:
    found = evidence.found
    jobs = total_of(found, "WorkerSuccess") + total_of(found, "WorkerFailure")
    messages = total_of(found, "SQSMessageSent") + evidence.stray_messages
    yield Check(jobs == messages, f"{messages:,.0f} messages became {jobs:,.0f} successes and failures of workers")
    saved = total_of(found, "PredictionsSaved")
    yield Check(
        saved == evidence.predictions > 0,
        f"{evidence.predictions:,} rows in the database, {saved:,.0f} PredictionsSaved",
    )
    strays = total_of(found, "MessageParseError")
    yield Check(
        strays == evidence.stray_messages, f"{evidence.stray_messages} stray message, {strays:.0f} MessageParseError"
    )


def _files(evidence: Evidence) -> Iterator[Check]:
    found = evidence.found
    accepted = sum(sent.status == 202 for sent in evidence.sent)
    success = total_of(found, "UploadSuccess")
    yield Check(accepted == success > 0, f"{accepted} uploads answered 202, {success:.0f} UploadSuccess")
    counted = success + total_of(found, "UploadRejected") + total_of(found, "UploadFailure")
    yield Check(len(evidence.sent) == counted, f"{len(evidence.sent)} uploads sent, each counted once ({counted:.0f})")
    for kind in BAD_KINDS:
        sent = sum(sent.upload.kind == kind for sent in evidence.sent)
        fate = KINDS[kind]
        seen = total_of(found, fate.metric, ErrorType=fate.error_type)
        yield Check(sent == seen > 0, f"{kind}: {sent} sent, {seen:.0f} {fate.metric} ({fate.error_type})")
