"""An AWS on loopback whose alarms act, and which remembers in which order they were changed."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


class EmbeddedAws(NamedTuple):
    """
    A running server.

    Attributes:
        endpoint: Its URL, on loopback.
        calls: Composite alarms put and alarms deleted so far, as (action, names).
    """

    endpoint: str
    calls: list[tuple[str, tuple[str, ...]]]


@contextlib.contextmanager
def embedded_aws() -> Iterator[EmbeddedAws]:
    """Serve moto, with what it lacks of alarms; it answers 500 to PutCompositeAlarm, which the provider retries for ever."""
    from moto.cloudwatch.responses import CloudWatchResponse
    from moto.server import ThreadedMotoServer

    from examples.retainwise.alarm_actions import AlarmActions

    calls: list[tuple[str, tuple[str, ...]]] = []
    delete_alarms = CloudWatchResponse.delete_alarms

    def put_composite_alarm(self: Any) -> Any:
        calls.append(("PutCompositeAlarm", (self._get_param("AlarmName"), self._get_param("AlarmRule"))))
        return put_composite(self)

    def delete_alarms_noted(self: Any) -> Any:
        calls.append(("DeleteAlarms", tuple(self._get_param("AlarmNames", []))))
        return delete_alarms(self)

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        AlarmActions().install(partial(patch.setattr, raising=False))
        put_composite = CloudWatchResponse.put_composite_alarm
        patch.setattr(CloudWatchResponse, "put_composite_alarm", put_composite_alarm)
        patch.setattr(CloudWatchResponse, "delete_alarms", delete_alarms_noted)
        server.start()
        try:
            _, port = server.get_host_and_port()
            yield EmbeddedAws(f"http://127.0.0.1:{port}", calls)
        finally:
            server.stop()
