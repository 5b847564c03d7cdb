"""
Drills: raise an alarm without a fault, see that its actions run, and set it back.

1. An alarm is touched only after everything that can be known beforehand has been looked at, and never while it is
   really firing.
2. Whatever is raised is set back, also after Ctrl-C. Only a state that this drill set is changed back: CloudWatch may
   have evaluated the alarm in the meantime, and what it found is true.
3. CloudWatch says in the alarm's history alone whether an action ran. Everything else, a mail included, is hearsay.
4. An alarm without actions that is a member of a composite is proven through the composite: its *voice*.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from retainwise_metrics.cli import alarms as alarms_of_cloudwatch
from retainwise_metrics.cli.access import unique

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from retainwise_metrics.cli.access import Target
    from retainwise_metrics.cli.alarms import Alarm, Topic
    from retainwise_metrics.cli.clock import Clock
    from retainwise_metrics.cli.probe import Probes

POLL_SECONDS: Final = 2.0
"""Between two looks at the history: actions take one to a few seconds."""

TIMEOUT_SECONDS: Final = 90.0
"""Longest wait for the actions of one alarm, and again for the message of one topic."""

REASON_PREFIX: Final = "DRILL"
"""First word of the reason of every state a drill sets."""


class Outcome(str, Enum):
    """
    How the drill of one alarm ended.
    """

    PROVEN = "proven"
    READY = "ready"
    SKIPPED = "skipped"
    REFUSED = "refused"
    FAILED = "failed"
    INTERRUPTED = "stopped"


UNKNOWN: Final = "unknown"
"""The state of an alarm that could not be set back."""

FINE: Final = frozenset({Outcome.PROVEN, Outcome.READY, Outcome.SKIPPED})
"""Outcomes after which nothing has to be done."""


class Result(NamedTuple):
    """
    What a drill found out about one alarm.

    Attributes:
        alarm: Alarm name.
        outcome: How it ended.
        note: What to know or do; empty when there is nothing.
        severity: As the alarm's description says.
        action_seconds: From raising the alarm to the last action in its history. None: not seen.
        delivery_seconds: From raising the alarm to the message in the temporary queue. None: not seen, or not asked for.
        restored: The state after the drill. Empty: the alarm was not touched.
        told_by: The composite that told of it; empty when it told itself, or was not touched.
    """

    alarm: str
    outcome: Outcome
    note: str = ""
    severity: str = ""
    action_seconds: float | None = None
    delivery_seconds: float | None = None
    restored: str = ""
    told_by: str = ""


class Wanted(NamedTuple):
    """
    Which alarms to drill.

    Attributes:
        names: Exactly these; empty: those with the prefix.
        prefix: What the names of all our alarms start with.
        severity: Only alarms of this severity; empty: of any.
    """

    names: tuple[str, ...] = ()
    prefix: str = ""
    severity: str = ""


class Plan(NamedTuple):
    """
    What will be done with one alarm.

    Attributes:
        name: Alarm name.
        alarm: The alarm to raise; None when it does not exist.
        voice: The alarm whose actions tell of it: itself, or a composite. None: there is none.
        verdict: Why it will not be touched; None when it will.
    """

    name: str
    alarm: Alarm | None
    voice: Alarm | None
    verdict: Result | None


def make_plans(cloudwatch: Any, sns: Any, wanted: Wanted) -> tuple[Plan, ...]:
    """
    Look at everything that can be known before an alarm is touched.

    Args:
        cloudwatch: A boto3 client.
        sns: A boto3 client.
        wanted: Which alarms.

    Returns:
        One plan per alarm, sorted by name; in the order asked for when names were given.
    """
    known = {alarm.name: alarm for alarm in alarms_of_cloudwatch.read_alarms(cloudwatch, prefix=wanted.prefix)}
    elsewhere = [name for name in wanted.names if name not in known]
    if elsewhere:
        known |= {alarm.name: alarm for alarm in alarms_of_cloudwatch.read_alarms(cloudwatch, names=elsewhere)}
    chosen = unique(wanted.names) or tuple(
        name for name, alarm in known.items() if wanted.severity in {"", alarm.severity}
    )
    voices = {name: alarms_of_cloudwatch.voice_of(known[name], known.values()) for name in chosen if name in known}
    topics = {
        arn: alarms_of_cloudwatch.read_topic(sns, arn)
        for arn in alarms_of_cloudwatch.topics_of(voice for voice in voices.values() if voice)
    }
    by_name = bool(wanted.names)
    return tuple(
        Plan(
            name,
            known.get(name),
            voices.get(name),
            judge(name, known.get(name), voices.get(name), topics, by_name=by_name),
        )
        for name in chosen
    )


def judge(
    name: str, alarm: Alarm | None, voice: Alarm | None, topics: Mapping[str, Topic], *, by_name: bool
) -> Result | None:
    """
    Decide whether an alarm may be raised.

    Args:
        name: Alarm name.
        alarm: The alarm as it is; None when it does not exist.
        voice: The alarm whose actions tell of it, as it is; None when there is none.
        topics: Every topic the voice tells, by ARN.
        by_name: Whether this alarm was asked for by name. A composite for dashboards, which tells nobody, is then an
            error: the drill that was asked for cannot be done.

    Returns:
        Why not; None when it may.
    """
    if alarm is None:
        return Result(name, Outcome.FAILED, "does not exist here: compare name, account and region")
    if voice is None:
        tile = bool(alarm.rule) and not by_name
        note = "is for the dashboard: a composite without actions" if alarm.rule else "has no actions: nobody is told"
        return Result(name, Outcome.SKIPPED if tile else Outcome.FAILED, note, alarm.severity)
    if not voice.actions_enabled:
        remedy = f"aws cloudwatch enable-alarm-actions --alarm-names {voice.name}"
        return Result(name, Outcome.FAILED, f"the actions of {voice.name} are disabled: {remedy}", alarm.severity)
    if alarm.state == "ALARM":
        return Result(name, Outcome.REFUSED, _why_not_while_firing(alarm), alarm.severity)
    if voice.state == "ALARM":
        note = f"{voice.name} tells for it and is in ALARM already: it would mail nothing further"
        return Result(name, Outcome.REFUSED, note, alarm.severity)
    deaf = [_why_deaf(topics[arn]) for arn in voice.topics if not topics[arn].confirmed]
    return Result(name, Outcome.FAILED, "; ".join(deaf), alarm.severity) if deaf else None


def _why_not_while_firing(alarm: Alarm) -> str:
    if not alarm.reason.startswith(REASON_PREFIX):
        return "is really firing: see its runbook, and drill it when it is OK again"
    command = (
        f"aws cloudwatch set-alarm-state --alarm-name {alarm.name} --state-value OK --state-reason 'after a drill'"
    )
    return f"a drill that was killed left it in ALARM; set it back: {command}"


def _why_deaf(topic: Topic) -> str:
    name = topic.arn.rpartition(":")[2]
    if not topic.exists:
        return f"topic {name} does not exist: apply the infrastructure again"
    if topic.pending:
        return f"no subscription of topic {name} is confirmed: click the link in the mail to each address"
    return f"topic {name} has no subscription: add an address"


def new_id(now: float, random_hex: str) -> str:
    """
    Name a drill.

    Args:
        now: Seconds since 1970.
        random_hex: Tells two drills of one second apart.

    Returns:
        An id of letters, digits and dashes that sorts by time.
    """
    from datetime import datetime, timezone

    return f"drill-{datetime.fromtimestamp(now, timezone.utc):%Y%m%d-%H%M%S}-{random_hex}"


class Drill:
    """
    Raises alarms one after another and sets them back.
    """

    def __init__(
        self,
        cloudwatch: Any,
        *,
        drill_id: str,
        operator: str,
        clock: Clock,
        probes: Probes | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        uninterrupted: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """
        Note what to work with; nothing is touched yet.

        Args:
            cloudwatch: A boto3 client.
            drill_id: From `new_id`; part of the reason, so that everybody who is told knows it is a drill.
            operator: Who drills; part of the reason too.
            clock: How to wait.
            probes: Temporary queues that prove delivery. None: the history is proof enough.
            timeout_seconds: Longest wait for the actions of one alarm; a composite's suppressor may add to it.
            uninterrupted: Makes what runs inside it run to its end.
        """
        self._cloudwatch = cloudwatch
        self._id = drill_id
        self._reason = f"{REASON_PREFIX} {drill_id} by {operator}: no fault, nothing to do"
        self._clock = clock
        self._probes = probes
        self._timeout_seconds = timeout_seconds
        self._uninterrupted = uninterrupted

    def run(self, plans: Iterable[Plan], *, on_result: Callable[[Result], None]) -> None:
        """
        Drill what the plans allow, one alarm after another.

        Args:
            plans: From `make_plans`.
            on_result: Told each result as soon as it is known, also that of an alarm whose drill is interrupted.

        Raises:
            KeyboardInterrupt: Ctrl-C; the alarm at hand has been set back.
        """
        stuck = ""
        for plan in plans:
            if stuck:
                on_result(Result(plan.name, Outcome.REFUSED, f"not touched, because {stuck} could not be set back"))
            elif plan.verdict is not None or plan.alarm is None or plan.voice is None:
                on_result(plan.verdict or Result(plan.name, Outcome.FAILED))
            elif not self._drill(plan.alarm, plan.voice, on_result):
                stuck = plan.name

    def _drill(self, alarm: Alarm, voice: Alarm, on_result: Callable[[Result], None]) -> bool:
        """Drill one alarm; answers whether it was set back."""
        told_by = voice.name if voice.name != alarm.name else ""
        result = Result(alarm.name, Outcome.INTERRUPTED, "interrupted", alarm.severity, told_by=told_by)
        try:
            result = self._raise_and_watch(alarm, voice, result)
        except (BotoCoreError, ClientError) as error:
            result = result._replace(outcome=Outcome.FAILED, note=str(error))
        finally:
            with self._uninterrupted():
                result = self._restored(alarm, result)
                on_result(result)
        return result.restored != UNKNOWN

    def _raise_and_watch(self, alarm: Alarm, voice: Alarm, result: Result) -> Result:
        # A composite that an earlier drill raised through another member takes a moment to come back.
        if result.told_by and not self._wait(lambda: self._is_quiet(voice), self._timeout_seconds):
            note = f"{voice.name}, which tells for it, did not return from ALARM: raise it when it has"
            return result._replace(outcome=Outcome.REFUSED, note=note)
        for topic in voice.topics if self._probes else ():
            self._probes.listen(topic)  # type: ignore[union-attr]
        seen = {_identity(item) for item in self._history(voice.name)}
        started = self._clock.now()
        self._cloudwatch.set_alarm_state(AlarmName=alarm.name, StateValue="ALARM", StateReason=self._reason)
        patience = self._timeout_seconds + voice.delay_seconds
        marker = self._marker(result)
        told = self._wait(lambda: self._actions_run(voice, seen, marker), patience)
        problem = _first_problem(voice, told, patience)
        if problem:
            return result._replace(outcome=Outcome.FAILED, note=problem)
        acted = self._clock.now() - started
        result = result._replace(outcome=Outcome.PROVEN, note="", action_seconds=acted)
        return self._prove_delivery(voice, result, started)

    def _marker(self, result: Result) -> str:
        """What a message of this drill contains; a composite does not pass its member's reason on."""
        return "" if result.told_by else self._id

    def _is_quiet(self, voice: Alarm) -> tuple[bool, bool]:
        now = alarms_of_cloudwatch.read_alarms(self._cloudwatch, names=[voice.name])
        quiet = bool(now) and now[0].state != "ALARM"
        return quiet, quiet

    def _actions_run(self, voice: Alarm, seen: set[str], marker: str) -> tuple[bool, dict[str, str]]:
        """What the history says of each action so far, and whether that is all."""
        new = [item for item in self._history(voice.name) if _identity(item) not in seen]
        told = outcomes(new, voice.actions, marker)
        return len(told) == len(voice.actions), told

    def _prove_delivery(self, voice: Alarm, result: Result, started: float) -> Result:
        probes = self._probes
        if probes is None or not voice.topics:
            return result
        for topic in voice.topics:
            heard = self._wait(
                partial(self._look_for, probes, topic, voice, self._marker(result)), self._timeout_seconds
            )
            if not heard:
                name = topic.rpartition(":")[2]
                note = f"the action ran, but topic {name} delivered nothing within {self._timeout_seconds:g} s"
                return result._replace(outcome=Outcome.FAILED, note=note)
        return result._replace(delivery_seconds=self._clock.now() - started)

    def _look_for(self, probes: Probes, topic: str, voice: Alarm, marker: str) -> tuple[bool, bool]:
        heard = probes.heard(topic, voice.name, marker)
        return heard, heard

    def _wait(self, look: Callable[[], tuple[bool, Any]], seconds: float) -> Any:
        """Look until there is nothing more to wait for, or the time is up; answers what was seen last."""
        until = self._clock.now() + seconds
        while True:
            complete, seen = look()
            if complete or self._clock.now() >= until:
                return seen
            self._clock.wait(POLL_SECONDS)

    def _history(self, name: str) -> Sequence[Mapping[str, Any]]:
        """The newest actions; more than a page of them in one drill there are not."""
        page = self._cloudwatch.describe_alarm_history(
            AlarmName=name,
            AlarmTypes=list(alarms_of_cloudwatch.ALARM_TYPES),
            HistoryItemType="Action",
            MaxRecords=100,
            ScanBy="TimestampDescending",
        )
        return list(page["AlarmHistoryItems"])

    def _restored(self, before: Alarm, result: Result) -> Result:
        """Set back what this drill set, and note the state the alarm is left in."""
        try:
            return result._replace(restored=self._restore(before))
        except (BotoCoreError, ClientError) as error:
            command = f"aws cloudwatch set-alarm-state --alarm-name {before.name} --state-value {before.state}"
            note = f"could not be set back ({error}); do it by hand: {command} --state-reason 'after a drill'"
            return result._replace(outcome=Outcome.FAILED, note=note, restored=UNKNOWN)

    def _restore(self, before: Alarm) -> str:
        now = alarms_of_cloudwatch.read_alarms(self._cloudwatch, names=[before.name])
        if not now or not is_ours(now[0], self._id):
            return now[0].state if now else "deleted"
        self._cloudwatch.set_alarm_state(
            AlarmName=before.name, StateValue=before.state, StateReason=f"{self._reason}; it is over"
        )
        return before.state


def is_ours(alarm: Alarm, drill_id: str) -> bool:
    """
    Tell whether an alarm is in the state this drill put it in.

    Args:
        alarm: The alarm as it is now.
        drill_id: Id of the drill.

    Returns:
        False when CloudWatch, or somebody, has changed its state since.
    """
    return alarm.state == "ALARM" and drill_id in alarm.reason


def outcomes(items: Iterable[Mapping[str, Any]], actions: Sequence[str], marker: str) -> dict[str, str]:
    """
    Read from an alarm's history what became of its actions.

    Args:
        items: Items of type `Action` that were not there before the alarm was raised.
        actions: ARNs of the alarm's actions.
        marker: What the reason of the change of state contains; items about another change do not count.

    Returns:
        By ARN of each action that has run: what CloudWatch says went wrong; empty when nothing did.
    """
    told: dict[str, str] = {}
    for item in items:
        summary, data = item.get("HistorySummary", ""), _parsed(item.get("HistoryData", ""))
        arn = _action_of(summary, data, actions)
        if arn and _is_about(data, marker):
            error = data.get("error")
            told[arn] = "" if summary.startswith("Successfully") else str(error or summary)
    return told


def _is_about(data: Mapping[str, Any], marker: str) -> bool:
    """Whether a history item is about a change to ALARM with this reason; one that does not say is."""
    message = _parsed(_parsed(data.get("publishedMessage")).get("default"))
    if not message:
        return True
    return message.get("NewStateValue") == "ALARM" and marker in str(message.get("NewStateReason"))


def _parsed(text: object) -> Mapping[str, Any]:
    """The JSON object in a text; empty when there is none."""
    try:
        parsed = json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _action_of(summary: str, data: Mapping[str, Any], actions: Sequence[str]) -> str:
    """The action an item is about; the longest, because one ARN may be the beginning of another."""
    named = [arn for arn in actions if arn in summary or arn == data.get("notificationResource")]
    return max(named, key=len, default="")


def _first_problem(voice: Alarm, told: Mapping[str, str], timeout_seconds: float) -> str:
    for arn in voice.actions:
        name = arn.rpartition(":")[2]
        if arn not in told:
            return f"action {name} did not run within {timeout_seconds:g} s: the alarm's history does not mention it"
        if told[arn]:
            return f"action {name} failed: {told[arn]}"
    return ""


def _identity(item: Mapping[str, Any]) -> str:
    """Tell history items apart: they have no id. Their times may be as coarse as a second, their data is not."""
    return json.dumps([str(item.get("Timestamp")), item.get("HistorySummary"), item.get("HistoryData")])


def succeeded(results: Sequence[Result]) -> bool:
    """
    Tell whether a drill proved what was asked of it.

    Args:
        results: Of all alarms.

    Returns:
        True when nothing has to be done and at least one alarm was proven, or would be in a rehearsal.
    """
    proofs = [result for result in results if result.outcome in {Outcome.PROVEN, Outcome.READY}]
    return bool(proofs) and all(result.outcome in FINE for result in results)


def rehearse(plans: Iterable[Plan]) -> list[Result]:
    """
    Say what a drill would do, without touching anything.

    Args:
        plans: From `make_plans`.

    Returns:
        One result per plan.
    """
    return [
        plan.verdict or Result(plan.name, Outcome.READY, severity=plan.alarm.severity if plan.alarm else "")
        for plan in plans
    ]


def as_report(results: Iterable[Result], *, drill_id: str, target: Target, started: float, ended: float) -> str:
    """
    Write a drill down for later.

    Args:
        results: Of all alarms.
        drill_id: Id of the drill.
        target: Where it was done.
        started: Seconds since 1970.
        ended: Seconds since 1970.

    Returns:
        A JSON object with a newline at the end.
    """
    listed = list(results)
    report = {
        "drill": drill_id,
        "operator": target.operator,
        "account": target.account,
        "region": target.region,
        "endpoints": list(target.endpoints),
        "started": _as_time(started),
        "ended": _as_time(ended),
        "succeeded": succeeded(listed),
        "results": [result._asdict() | {"outcome": result.outcome.value} for result in listed],
    }
    return json.dumps(report, indent=2) + "\n"


def _as_time(seconds: float) -> str:
    from datetime import datetime, timezone

    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
