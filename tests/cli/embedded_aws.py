"""
moto with everything that goes wrong: alarms whose actions fail, addresses that are unconfirmed, queues that refuse.
"""

from __future__ import annotations

import copy
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from moto.sns.models import SNSBackend
from moto.sqs.models import SQSBackend, sqs_backends

from examples.retainwise.alarm_actions import ACCOUNT, AlarmActions

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

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


class Shims(AlarmActions):
    """
    The methods put in place of moto's own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.faults = Faults()

    def reset(self) -> None:
        """Forget history and faults."""
        self.faults = Faults()
        self.history = {}

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        """Put the shims in place; moto's own parts are changed, none of ours."""
        list_subscriptions = SNSBackend.list_subscriptions_by_topic

        def by_topic(backend: Any, topic_arn: str, **options: Any) -> Any:
            found, token = list_subscriptions(backend, topic_arn, **options)
            return [pending(each) if each.endpoint == UNCONFIRMED else each for each in found], token

        self.install(partial(patch.setattr, raising=False))
        patch.setattr(SNSBackend, "list_subscriptions_by_topic", by_topic)
        self._install_queues(patch)

    def set_state(self, backend: Any, moto_sets_state: Callable[..., None], wanted: tuple[str, str, str, str]) -> None:
        """Refuse states, and let CloudWatch find another one."""
        from moto.cloudwatch.exceptions import ValidationError

        name, _, data, value = wanted
        if value in self.faults.refuse_state:
            raise ValidationError("the state cannot be set")
        super().set_state(backend, moto_sets_state, wanted)
        if value == "ALARM":
            if name in self.faults.evaluated:
                moto_sets_state(backend, name, "Threshold Crossed", data, self.faults.evaluated[name])
            self.faults.raised.set()

    def is_stuck(self, state: str) -> bool:
        """Composites that stay red."""
        return self.faults.composites_stick and state == "ALARM"

    def run_actions(self, backend: Any, alarm: Any, before: str) -> None:
        """Actions that do not run."""
        if self.faults.actions_run:
            super().run_actions(backend, alarm, before)

    def publish(self, backend: Any, arn: str, payload: str) -> str:
        """Topics whose key keeps CloudWatch out."""
        return KMS_ERROR if arn in self.faults.locked_topics else super().publish(backend, arn, payload)

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
