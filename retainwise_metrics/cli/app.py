"""
The command line: reads options, asks, calls the verb's module, and turns its answer into an exit code.

Exit codes: 0 all is well; 1 something has to be done; 2 the command could not be carried out; 130 interrupted.
"""

from __future__ import annotations

import os
import secrets
import sys
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from retainwise_metrics import emf
from retainwise_metrics.cli import catalogue as catalogue_verb
from retainwise_metrics.cli import check as check_verb
from retainwise_metrics.cli import drill as drill_verb
from retainwise_metrics.cli import output
from retainwise_metrics.cli import replay_dlq as replay_verb
from retainwise_metrics.cli.access import Access
from retainwise_metrics.cli.clock import SystemClock
from retainwise_metrics.cli.interrupts import Interrupts
from retainwise_metrics.cli.probe import Probes
from retainwise_metrics.dimensions.bucketing import UNCHANGED, Rule
from retainwise_metrics.dimensions.policy import DimensionPolicy
from retainwise_metrics.exceptions import MetricsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from retainwise_metrics.cli.access import Target
    from retainwise_metrics.cli.drill import Plan, Result

PREFIX: Final = "retainwise-"
"""What the names of the alarms made by `infra/` start with, unless its variable says otherwise."""

RUNBOOKS: Final = Path("docs/runbooks.md")

SECONDS_PER_UNIT: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

TO_DO, IMPOSSIBLE, INTERRUPTED = 1, 2, 130

RegionOption = Annotated[
    str | None, typer.Option("--region", help="AWS region; else AWS_REGION, or as boto3 finds it.")
]
EndpointOption = Annotated[
    str | None, typer.Option("--endpoint-url", help="One address for all services; else as boto3 finds it.")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask, although this is not this machine.")]
PrefixOption = Annotated[str, typer.Option("--prefix", help="What the names of all our alarms start with.")]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Commands for whoever runs RetainWise: what is measured, whether alarms reach a person, and failed jobs.",
)


class CatalogueFormat(str, Enum):
    """
    How the catalogue is written.
    """

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"


class Severity(str, Enum):
    """
    How urgent an alarm is.
    """

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


@app.callback()
def _verbs() -> None:
    """Keep verbs as verbs while there are few of them."""


@app.command()
def catalogue(
    *,
    written_as: Annotated[
        CatalogueFormat, typer.Option("--format", help="json is what Terraform reads, markdown what the docs hold.")
    ] = CatalogueFormat.TABLE,
) -> None:
    """
    Print every metric RetainWise publishes.
    """
    if written_as is CatalogueFormat.JSON:
        typer.echo(catalogue_verb.as_json(), nl=False)
    elif written_as is CatalogueFormat.MARKDOWN:
        typer.echo(catalogue_verb.as_markdown(), nl=False)
    else:
        for table in output.catalogue_tables():
            output.console.print(table, "")


@app.command("emf-source")
def emf_source() -> None:
    """
    Print the Lambda metrics logger as one text, to paste in front of an inline handler.
    """
    typer.echo(emf.inline_source(), nl=False)


@app.command()
def drill(
    *,
    alarm: Annotated[list[str] | None, typer.Option("--alarm", help="Drill this alarm; may be repeated.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Drill every alarm with the prefix.")] = False,
    severity: Annotated[Severity | None, typer.Option("--severity", help="Drill every alarm of this severity.")] = None,
    prefix: PrefixOption = PREFIX,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look at everything, touch nothing.")] = False,
    end_to_end: Annotated[
        bool, typer.Option("--end-to-end", help="Also wait for the message in a temporary queue at the topic.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, help="Longest wait for one alarm's actions, in seconds.")
    ] = drill_verb.TIMEOUT_SECONDS,
    report: Annotated[Path | None, typer.Option("--report", help="JSON report; else <drill id>.json here.")] = None,
    yes: YesOption = False,
    region: RegionOption = None,
    endpoint_url: EndpointOption = None,
) -> None:
    """
    Raise alarms without a fault, see that they reach somebody, and set them back.

    Everybody subscribed gets a mail whose reason starts with DRILL, and another one if the alarm tells when it is over.
    """
    if [bool(alarm), every, severity is not None].count(True) != 1:
        message = "say what to drill: one of --alarm NAME, --all or --severity critical"
        raise typer.BadParameter(message)
    wanted = drill_verb.Wanted(tuple(alarm or ()), prefix, severity.value if severity else "")
    access = Access(region=region, endpoint_url=endpoint_url)
    target = access.target()
    output.show_target(target)
    plans = drill_verb.make_plans(access.client("cloudwatch"), access.client("sns"), wanted)
    if not plans:
        _give_up(f"no alarm here starts with {prefix!r}" + (f" and is {severity.value}" if severity else ""))
    if dry_run:
        results = drill_verb.rehearse(plans)
        output.show_drill(results)
        raise typer.Exit(0 if drill_verb.succeeded(results) else TO_DO)
    touched = sum(plan.verdict is None for plan in plans)
    if touched:
        _ask(target, f"Raise {_count(touched, 'alarm')} here, and mail everybody subscribed?", yes=yes)
    raise typer.Exit(
        _drill(access, target, plans, end_to_end=end_to_end, timeout_seconds=timeout, report=report),
    )


def _drill(
    access: Access,
    target: Target,
    plans: tuple[Plan, ...],
    *,
    end_to_end: bool,
    timeout_seconds: float,
    report: Path | None,
) -> int:
    """Drill, show and write down how it went; answers the exit code."""
    interrupts = Interrupts(on_later=lambda: output.notes.print("Setting back first; this takes a moment."))
    clock = SystemClock(interrupts.check)
    started = clock.now()
    drill_id = drill_verb.new_id(started, secrets.token_hex(2))
    probes = Probes(access.client("sns"), access.client("sqs"), drill_id=drill_id, clock=clock)
    results: list[Result] = []
    interrupted = False
    with interrupts.listening(), output.progress("Drilling", len(plans)) as bar:
        runner = drill_verb.Drill(
            access.client("cloudwatch"),
            drill_id=drill_id,
            operator=target.operator,
            clock=clock,
            probes=probes if end_to_end else None,
            timeout_seconds=timeout_seconds,
            uninterrupted=interrupts.held,
        )

        def note(result: Result) -> None:
            results.append(result)
            bar.advance(bar.task_ids[0])

        try:
            try:
                runner.run(plans, on_result=note)
            finally:
                with interrupts.held():
                    probes.close()
        except KeyboardInterrupt:
            interrupted = True
    output.show_drill(results)
    path = report or Path(f"{drill_id}.json")
    path.write_text(
        drill_verb.as_report(results, drill_id=drill_id, target=target, started=started, ended=clock.now()),
        encoding="utf-8",
    )
    output.notes.print(f"Report    {path}", soft_wrap=True)
    return INTERRUPTED if interrupted else 0 if drill_verb.succeeded(results) else TO_DO


@app.command()
def check(
    *,
    prefix: PrefixOption = PREFIX,
    runbooks: Annotated[
        Path | None, typer.Option("--runbooks", help="Markdown file with a section per alarm; else docs/runbooks.md.")
    ] = None,
    stuck_after: Annotated[
        str, typer.Option("--stuck-after", help="How long an alarm may be without data: 90s, 15m, 2h, 3d.")
    ] = "1h",
    region: RegionOption = None,
    endpoint_url: EndpointOption = None,
) -> None:
    """
    Look for everything that keeps an alarm from telling somebody. Reads only.
    """
    stuck_seconds = _duration(stuck_after)
    path = runbooks or RUNBOOKS
    if runbooks and not runbooks.exists():
        _give_up(f"there are no runbooks at {runbooks}")
    access = Access(region=region, endpoint_url=endpoint_url)
    output.show_target(access.target())
    facts = check_verb.gather(access.client("cloudwatch"), access.client("sns"), access.client("kms"), prefix=prefix)
    if not facts.alarms:
        _give_up(f"no alarm here starts with {prefix!r}")
    anchors = check_verb.anchors_of(path.read_text(encoding="utf-8")) if path.exists() else None
    findings = check_verb.judge(
        facts,
        now=datetime.now(timezone.utc),
        stuck_seconds=check_verb.STUCK_SECONDS if stuck_seconds is None else stuck_seconds,
        anchors=anchors,
    )
    output.show_findings(findings)
    problems = sum(finding.level is check_verb.Level.PROBLEM for finding in findings)
    output.console.print(
        f"{_count(len(facts.alarms), 'alarm')} and {_count(len(facts.topics), 'topic')} looked at: "
        f"{_count(problems, 'problem')}, {_count(len(findings) - problems, 'note')}"
    )
    if anchors is None:
        output.notes.print(f"Runbooks were not compared: there is no {path} here; name the file with --runbooks.")
    raise typer.Exit(TO_DO if problems else 0)


@app.command("replay-dlq")
def replay_dlq(
    *,
    dlq: Annotated[str, typer.Option("--dlq", help="Name or URL of the dead-letter queue.")],
    queue: Annotated[
        str | None, typer.Option("--queue", help="Name or URL of the queue; else the one whose dead letters these are.")
    ] = None,
    list_only: Annotated[bool, typer.Option("--list", help="List messages, move none.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Show messages with personal data hidden, move none.")] = False,
    reveal: Annotated[
        list[str] | None, typer.Option("--reveal", help="With --show, show this field as it is; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the messages that would be moved.")] = False,
    message_id: Annotated[list[str] | None, typer.Option("--message-id", help="Only this one; repeatable.")] = None,
    contains: Annotated[str, typer.Option("--contains", help="Only bodies with this text.")] = "",
    field: Annotated[list[str] | None, typer.Option("--field", help="Only JSON bodies with NAME=VALUE.")] = None,
    older_than: Annotated[str, typer.Option("--older-than", help="Only if sent so long ago: 90s, 15m, 2h, 3d.")] = "",
    newer_than: Annotated[str, typer.Option("--newer-than", help="Only if sent since: 90s, 15m, 2h, 3d.")] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Most messages.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", min=0.01, help="Most messages moved a second.")] = None,
    log: Annotated[
        Path | None, typer.Option("--log", help="What was moved; else replay-<dlq>.jsonl here. Keep it between runs.")
    ] = None,
    yes: YesOption = False,
    region: RegionOption = None,
    endpoint_url: EndpointOption = None,
) -> None:
    """
    Move failed jobs from the dead-letter queue back to the queue, or look at them.

    A message is deleted from the dead-letter queue only after the queue has accepted it.
    """
    if [list_only, show, dry_run].count(True) > 1:
        message = "choose one of --list, --show and --dry-run"
        raise typer.BadParameter(message)
    wanted = replay_verb.Filter(
        message_ids=frozenset(message_id or ()),
        contains=contains,
        fields=tuple(map(_pair, field or ())),
        older_than_seconds=_duration(older_than),
        newer_than_seconds=_duration(newer_than),
    )
    access = Access(region=region, endpoint_url=endpoint_url)
    sqs = access.client("sqs")
    target = access.target()
    output.show_target(target)
    looking = list_only or show
    try:
        queues = replay_verb.find_queues(sqs, dlq, queue, moving=not looking)
    except replay_verb.UnusableQueueError as error:
        _give_up(str(error))
    if looking or dry_run:
        question = "Look at the messages here? They are hidden from other readers meanwhile."
    else:
        question = f"Move up to {_count(min(queues.waiting, limit or queues.waiting), 'message')} here?"
    _ask(target, question, yes=yes)
    letters = replay_verb.Letters(sqs, queues.dlq_url)
    if looking or dry_run:
        found = list(replay_verb.look(letters, wanted, now=SystemClock().now(), most=limit))
        _show_letters(found, policy=_policy(reveal or ()) if show else None)
        fate = f" would be moved to {_last_part(queues.queue_url)}" if queues.queue_url else ""
        output.console.print(f"{_count(len(found), 'message')}{fate}")
    else:
        path = log or Path(f"replay-{_last_part(queues.dlq_url)}.jsonl")
        raise typer.Exit(_replay(sqs, queues, letters, wanted, replay_verb.Limits(limit, rate), path))


def _policy(revealed: Iterable[str]) -> DimensionPolicy:
    """The rules the service publishes by, with its key, so that labels can be compared with those on dashboards."""
    policy = DimensionPolicy(pii_key=os.environ.get("RETAINWISE_METRICS_PII_KEY"))
    return policy.extend(*(Rule(name, becomes=UNCHANGED) for name in revealed))


def _show_letters(found: list[replay_verb.Letter], *, policy: DimensionPolicy | None) -> None:
    """In full with a policy, else as a table."""
    if policy is not None:
        for letter in found:
            output.show_letter(letter, policy)
    elif found:
        output.console.print(output.letters_table(found), "")


def _replay(
    sqs: object,
    queues: replay_verb.Queues,
    letters: replay_verb.Letters,
    wanted: replay_verb.Filter,
    limits: replay_verb.Limits,
    path: Path,
) -> int:
    """Move messages, show and write down how it went; answers the exit code."""
    earlier = path.read_text(encoding="utf-8") if path.exists() else ""
    unfinished = replay_verb.unfinished_in(earlier.splitlines())
    interrupts = Interrupts(on_later=lambda: output.notes.print("Finishing what was begun; this takes a moment."))
    total = min(queues.waiting, limits.letters or queues.waiting)
    interrupted = False
    with path.open("a", encoding="utf-8") as file, interrupts.listening(), output.progress("Moving", total) as bar:
        if earlier and not earlier.endswith("\n"):
            file.write("\n")  # a kill cut the last line off
        clock = SystemClock(interrupts.check)
        replay = replay_verb.Replay(
            sqs,
            queues,
            letters=letters,
            log=replay_verb.Log(file, clock, unfinished),
            clock=clock,
            run_id=secrets.token_hex(4),
            limits=limits,
            uninterrupted=interrupts.held,
        )
        try:
            replay.run(wanted, on_progress=lambda done: bar.update(bar.task_ids[0], completed=done))
        except KeyboardInterrupt:
            interrupted = True
    output.show_tally(replay.tally)
    output.notes.print(f"Log       {path}", soft_wrap=True)
    return INTERRUPTED if interrupted else 0 if replay.tally.fine else TO_DO


def _pair(text: str) -> tuple[str, str]:
    name, given, value = text.partition("=")
    if not given or not name:
        message = f"--field is {text!r}; write NAME=VALUE"
        raise typer.BadParameter(message)
    return name, value


def _duration(text: str) -> float | None:
    if not text:
        return None
    number, unit = text[:-1], text[-1]
    if not number.isdecimal() or unit not in SECONDS_PER_UNIT:
        message = f"{text!r} is not a duration; write 90s, 15m, 2h or 3d"
        raise typer.BadParameter(message)
    return float(number) * SECONDS_PER_UNIT[unit]


def _last_part(url: str) -> str:
    return url.rpartition("/")[2]


def _ask(target: Target, question: str, *, yes: bool) -> None:
    """Go on only on this machine, with leave given beforehand, or with leave given now."""
    if target.is_loopback or yes:
        return
    if not sys.stdin.isatty():
        _give_up("this is not this machine, and nobody can be asked: look at the account above and add --yes")
    if not typer.confirm(question, err=True):
        _give_up("nothing was touched")


def _give_up(message: str) -> NoReturn:
    output.notes.print(f"retainwise-metrics: {message}", soft_wrap=True)
    raise typer.Exit(IMPOSSIBLE)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def run() -> None:
    """
    Run the verb named on the command line, and exit with its code.
    """
    try:
        app()
    except NoRegionError:
        output.notes.print(
            "retainwise-metrics: no AWS region is known: give --region, or set AWS_REGION", soft_wrap=True
        )
        sys.exit(IMPOSSIBLE)
    except NoCredentialsError:
        output.notes.print(
            "retainwise-metrics: there are no AWS credentials: log in, for example with `aws sso login`, and set AWS_PROFILE",
            soft_wrap=True,
        )
        sys.exit(IMPOSSIBLE)
    except (BotoCoreError, ClientError, MetricsError, OSError) as error:
        output.notes.print(f"retainwise-metrics: {error}", soft_wrap=True)
        sys.exit(IMPOSSIBLE)
