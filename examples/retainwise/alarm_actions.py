"""
What moto lacks of alarms: actions that run, a history of them, and composites that follow their members.

moto keeps alarms and their states, but an alarm that turns red there tells nobody. Nothing is evaluated here either: a state
changes when somebody sets it, which is what a drill does.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final

from moto.cloudwatch.models import CloudWatchBackend
from moto.cloudwatch.responses import CloudWatchResponse
from moto.core.responses import ActionResult
from moto.sns.models import sns_backends

if TYPE_CHECKING:
    from collections.abc import Callable

ACCOUNT: Final = "123456789012"


class AlarmActions:
    """
    Puts what is missing in place of moto's methods, and remembers what ran.

    Attributes:
        history: Items of `DescribeAlarmHistory` by name of the alarm, oldest first.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[dict[str, Any]]] = {}

    def install(self, replace: Callable[[object, str, object], None]) -> None:
        """
        Change moto in this process.

        Args:
            replace: `setattr`, or something that can be undone.
        """
        actions = self
        moto_sets_state = CloudWatchBackend.set_alarm_state

        def set_alarm_state(backend: Any, name: str, reason: str, data: str, value: str) -> None:
            actions.set_state(backend, moto_sets_state, (name, reason, data, value))

        def describe_alarm_history(response: Any) -> ActionResult:
            items = actions.history.get(response._get_param("AlarmName"), [])  # noqa: SLF001 - as moto's own do
            return ActionResult({"AlarmHistoryItems": items[::-1]})

        replace(CloudWatchBackend, "set_alarm_state", set_alarm_state)
        replace(CloudWatchResponse, "describe_alarm_history", describe_alarm_history)
        # moto's alarms have a place for the rule, and this reads it.
        replace(CloudWatchResponse, "put_composite_alarm", CloudWatchResponse.put_metric_alarm)

    def set_state(self, backend: Any, moto_sets_state: Callable[..., None], wanted: tuple[str, str, str, str]) -> None:
        """
        Set the state of an alarm, and let everything happen that follows from it.

        Args:
            backend: moto's CloudWatch of one region.
            moto_sets_state: moto's own method.
            wanted: Name, reason, reason as JSON, and state.
        """
        name, *_, value = wanted
        before = backend.alarms[name].state_value if name in backend.alarms else value
        moto_sets_state(backend, *wanted)
        if before != value:
            self.run_actions(backend, backend.alarms[name], before)
            self.evaluate_composites(backend, name)

    def evaluate_composites(self, backend: Any, member: str) -> None:
        """Let composites over an alarm follow it; their reason names the alarm and not the alarm's reason."""
        for composite in [each for each in backend.alarms.values() if f'"{member}"' in (each.rule or "")]:
            members = re.findall(r'"([^"]+)"', composite.rule)
            firing = any(backend.alarms[each].state_value == "ALARM" for each in members)
            value = "ALARM" if firing else "OK"
            before = composite.state_value
            if value != before and not self.is_stuck(before):
                composite.update_state(f"{member} transitioned to {value}", "{}", value)
                self.run_actions(backend, composite, before)

    def is_stuck(self, _state: str) -> bool:
        """Whether composites do not leave a state; for tests."""
        return False

    def run_actions(self, backend: Any, alarm: Any, before: str) -> None:
        """Publish what CloudWatch publishes, and write down what came of it."""
        chosen = {"ALARM": alarm.alarm_actions, "OK": alarm.ok_actions}
        if not alarm.actions_enabled:
            return
        for arn in chosen.get(alarm.state_value, alarm.insufficient_data_actions):
            payload = _payload(alarm, before)
            error = self.publish(backend, arn, payload)
            self.history.setdefault(alarm.name, []).append(_item(alarm.name, arn, payload, error))

    def publish(self, backend: Any, arn: str, payload: str) -> str:
        """Tell a topic; answers what went wrong."""
        try:
            topics = sns_backends[ACCOUNT][backend.region_name]
            topics.publish(message=payload, arn=arn, phone_number=None, subject="ALARM")
        except Exception as error:  # noqa: BLE001 - whatever it is, the history tells it
            return f"{type(error).__name__}: {error}"
        return ""


def _payload(alarm: Any, before: str) -> str:
    return json.dumps(
        {
            "AlarmName": alarm.name,
            "AlarmDescription": alarm.description,
            "AWSAccountId": ACCOUNT,
            "NewStateValue": alarm.state_value,
            "NewStateReason": alarm.state_reason,
            "OldStateValue": before,
            "AlarmArn": alarm.alarm_arn,
        }
    )


def _item(name: str, arn: str, payload: str, error: str) -> dict[str, Any]:
    data = {
        "actionState": "Failed" if error else "Succeeded",
        "notificationResource": arn,
        "publishedMessage": json.dumps({"default": payload}),
        "error": error or None,
    }
    verb = "Failed to execute" if error else "Successfully executed"
    return {
        "AlarmName": name,
        "AlarmType": "MetricAlarm",
        "Timestamp": datetime.now(timezone.utc),
        "HistoryItemType": "Action",
        "HistorySummary": f"{verb} action {arn}",
        "HistoryData": json.dumps(data),
    }
