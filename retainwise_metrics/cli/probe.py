"""
Proof that a topic delivers: a temporary queue that listens to it like everybody else.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from retainwise_metrics.cli.clock import Clock

SETTLE_SECONDS: Final = 5.0
"""Between subscribing and relying on it. SQS asks for one second after making a queue; SNS does not say."""

RETENTION_SECONDS: Final = 3600
"""How long a message waits in a queue whose drill was killed before it could delete the queue."""


class Probes:
    """
    Temporary queues, one per topic, made when first asked for and deleted when the drill ends.
    """

    def __init__(self, sns: Any, sqs: Any, *, drill_id: str, clock: Clock) -> None:
        """
        Note what to work with; nothing is made yet.

        Args:
            sns: A boto3 client.
            sqs: A boto3 client.
            drill_id: Goes into the queues' names.
            clock: How to wait.
        """
        self._sns = sns
        self._sqs = sqs
        self._drill_id = drill_id
        self._clock = clock
        self._queues: dict[str, str] = {}
        self._cleanup = ExitStack()

    def close(self) -> None:
        """
        Unsubscribe and delete every queue, also when one of them cannot be deleted.
        """
        self._cleanup.close()

    def listen(self, topic: str) -> None:
        """
        Subscribe a temporary queue to a topic, once per topic.

        Args:
            topic: ARN of the topic.
        """
        if topic in self._queues:
            return
        name = f"retainwise-{self._drill_id}-{len(self._queues) + 1}"
        queue = f"{topic.rpartition(':')[0].replace(':sns:', ':sqs:')}:{name}"
        url = self._sqs.create_queue(QueueName=name, Attributes=_attributes(queue, topic))["QueueUrl"]
        self._later(self._sqs.delete_queue, QueueUrl=url)
        subscription = self._sns.subscribe(
            TopicArn=topic,
            Protocol="sqs",
            Endpoint=queue,
            Attributes={"RawMessageDelivery": "true"},
            ReturnSubscriptionArn=True,
        )
        self._later(self._sns.unsubscribe, SubscriptionArn=subscription["SubscriptionArn"])
        self._queues[topic] = url
        self._clock.wait(SETTLE_SECONDS)

    def heard(self, topic: str, alarm: str, marker: str) -> bool:
        """
        Look once whether the message of a drilled alarm has arrived.

        Args:
            topic: ARN of a topic listened to.
            alarm: Name of the alarm whose actions tell of it.
            marker: What the message's reason contains.

        Returns:
            True when it has.
        """
        url = self._queues[topic]
        messages = self._sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", ())
        for message in messages:
            self._sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        # Messages of earlier alarms of this drill, such as that of their return to OK, are of no further use.
        return any(is_about(message["Body"], alarm, marker) for message in messages)

    def _later(self, act: Callable[..., object], **arguments: str) -> None:
        self._cleanup.callback(act, **arguments)


def is_about(body: str, alarm: str, marker: str) -> bool:
    """
    Tell whether a message says that an alarm was raised.

    Args:
        body: What the topic delivered.
        alarm: Name of the alarm.
        marker: What the message's reason contains.

    Returns:
        True for the message a subscriber gets when the alarm is raised for this reason.
    """
    try:
        told = json.loads(body)
    except ValueError:
        return False
    if not isinstance(told, dict) or told.get("AlarmName") != alarm or told.get("NewStateValue") != "ALARM":
        return False
    return marker in str(told.get("NewStateReason"))


def _attributes(queue: str, topic: str) -> dict[str, str]:
    """The policy belongs to the queue from its first moment: a later change may take a minute to be seen."""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue,
        "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    return {
        "Policy": json.dumps(policy),
        "MessageRetentionPeriod": str(RETENTION_SECONDS),
        "SqsManagedSseEnabled": "true",
    }
