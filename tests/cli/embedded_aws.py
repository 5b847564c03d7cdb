"""
moto's server on loopback, with what it lacks of alarms: actions that run, a history, composites, unconfirmed addresses.
"""

from __future__ import annotations

import copy
import json
import re
import threading
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from moto.cloudwatch.models import CloudWatchBackend
from moto.cloudwatch.responses import CloudWatchResponse
from moto.core.responses import ActionResult
from moto.sns.models import SNSBackend, sns_backends
from moto.sqs.models import SQSBackend, sqs_backends

if TYPE_CHECKING:
    import pytest

ACCOUNT = "123456789012"
REGION = "us-east-1"
UNCONFIRMED = "unconfirmed@example.com"
"""An address that never clicked the link."""

KMS_ERROR = "CloudWatch Alarms does not have authorization to access the SNS topic encryption key."
"""What CloudWatch writes into the history when a topic's key does not admit it."""


class Faults:
    """
    What is broken at the moment, and what has been seen; one per test.
    """

    def __init__(self) -> None:
        self.actions_run = True
        self.locked_topics: set[str] = set()
        self.raised = threading.Event()
        self.refuse_state: set[str] = set()
        self.evaluated: dict[str, str] = {}
        self.refuse_send = ""
        self.refuse_delete = False
        self.garble = False
        self.composites_stick = False
        self.accepted = 0
        self.many_accepted = threading.Event()
        self.killed = threading.Event()
        self.enough = 0


class Shims:
    """
    The methods put in place of moto's own.
    """

    def __init__(self) -> None:
        self.faults = Faults()
        self.history: dict[str, list[dict[str, Any]]] = {}

    def reset(self) -> None:
        """Forget history and faults."""
        self.faults = Faults()
        self.history = {}

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put the shims in place; moto's own parts are changed, none of ours."""
        shims = self
        set_state = CloudWatchBackend.set_alarm_state
        list_subscriptions = SNSBackend.list_subscriptions_by_topic

        def set_alarm_state(backend: Any, name: str, reason: str, data: str, value: str) -> None:
            from moto.cloudwatch.exceptions import ValidationError

            if value in shims.faults.refuse_state:
                raise ValidationError("the state cannot be set")
            before = backend.alarms[name].state_value if name in backend.alarms else value
            set_state(backend, name, reason, data, value)
            if before != value:
                shims.run_actions(backend.alarms[name], before)
                shims.evaluate_composites(backend, name)
            if value == "ALARM":
                if name in shims.faults.evaluated:
                    set_state(backend, name, "Threshold Crossed", data, shims.faults.evaluated[name])
                shims.faults.raised.set()

        def describe_alarm_history(response: Any) -> ActionResult:
            items = shims.history.get(response._get_param("AlarmName"), [])
            return ActionResult({"AlarmHistoryItems": items[::-1]})

        def by_topic(backend: Any, topic_arn: str, **options: Any) -> Any:
            found, token = list_subscriptions(backend, topic_arn, **options)
            return [pending(each) if each.endpoint == UNCONFIRMED else each for each in found], token

        patch.setattr(CloudWatchBackend, "set_alarm_state", set_alarm_state)
        patch.setattr(CloudWatchResponse, "describe_alarm_history", describe_alarm_history, raising=False)
        patch.setattr(CloudWatchResponse, "put_composite_alarm", CloudWatchResponse.put_metric_alarm, raising=False)
        patch.setattr(SNSBackend, "list_subscriptions_by_topic", by_topic)
        self._install_queues(patch)

    def _install_queues(self, patch: pytest.MonkeyPatch) -> None:
        shims = self
        send = SQSBackend.send_message_batch
        delete = SQSBackend.delete_message_batch

        def send_message_batch(backend: Any, queue: str, entries: Any) -> Any:
            from moto.sqs.exceptions import InvalidParameterValue

            if shims.faults.refuse_send == "all":
                raise InvalidParameterValue("the queue is being deleted")
            accepted, refused = send(backend, queue, entries)
            for message in [
                each for each in accepted if shims.faults.refuse_send and shims.faults.refuse_send in each.body
            ]:
                accepted.remove(message)
                backend.get_queue(queue)._messages.remove(message)
                refused.append({"Id": message.user_id, "SenderFault": True, "Code": "InvalidMessageContents"})
            for message in accepted if shims.faults.garble else ():
                message.body = "garbled"
            shims.faults.accepted += len(accepted)
            return accepted, refused

        def delete_message_batch(backend: Any, queue: str, entries: Any) -> Any:
            if shims.faults.enough and shims.faults.accepted >= shims.faults.enough:
                # Whoever sent these is killed now: accepted by the queue, not deleted from the dead letters.
                shims.faults.many_accepted.set()
                shims.faults.killed.wait(30)
                return [], []
            if shims.faults.refuse_delete:
                return [], [{"Id": each["Id"], "SenderFault": False, "Code": "InternalError"} for each in entries]
            return delete(backend, queue, entries)

        # moto asks the time several times per waiting message and call, in a slow way: a minute for 1,000 messages.
        patch.setattr("moto.sqs.models.unix_time_millis", lambda: time.time() * 1000)
        patch.setattr(SQSBackend, "send_message_batch", send_message_batch)
        patch.setattr(SQSBackend, "delete_message_batch", delete_message_batch)

    def evaluate_composites(self, backend: Any, member: str) -> None:
        """Let composites over an alarm follow it; their reason names the alarm and not the alarm's reason."""
        for composite in [each for each in backend.alarms.values() if f'"{member}"' in (each.rule or "")]:
            members = re.findall(r'"([^"]+)"', composite.rule)
            firing = any(backend.alarms[each].state_value == "ALARM" for each in members)
            value = "ALARM" if firing else "OK"
            before = composite.state_value
            if value != before and not (self.faults.composites_stick and before == "ALARM"):
                composite.update_state(f"{member} transitioned to {value}", "{}", value)
                self.run_actions(composite, before)

    def run_actions(self, alarm: Any, before: str) -> None:
        """Publish what CloudWatch publishes, and write down what came of it."""
        chosen = {"ALARM": alarm.alarm_actions, "OK": alarm.ok_actions}.get(
            alarm.state_value, alarm.insufficient_data_actions
        )
        if not alarm.actions_enabled or not self.faults.actions_run:
            return
        for arn in chosen:
            payload = _payload(alarm, before)
            error = self._publish(arn, payload)
            self.history.setdefault(alarm.name, []).append(_item(alarm.name, arn, payload, error))

    def _publish(self, arn: str, payload: str) -> str:
        if arn in self.faults.locked_topics:
            return KMS_ERROR
        try:
            sns_backends[ACCOUNT][REGION].publish(message=payload, arn=arn, phone_number=None, subject="ALARM")
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""


def end_hiding(name: str) -> None:
    """Let the time pass for which messages of a queue that were read are hidden."""
    for message in sqs_backends[ACCOUNT][REGION].get_queue(name)._messages:
        message.visible_at = 0


def bodies_in(name: str) -> list[str]:
    """Bodies of all messages in a queue, hidden ones too."""
    return [message.body for message in sqs_backends[ACCOUNT][REGION].get_queue(name)._messages]


def pending(subscription: Any) -> Any:
    """The subscription as SNS lists it before its address has been confirmed."""
    shown = copy.copy(subscription)
    shown.arn = "PendingConfirmation"
    return shown


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
