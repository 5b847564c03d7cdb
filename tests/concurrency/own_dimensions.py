"""
Eight threads and a hundred asyncio tasks, each recording under dimensions of its own.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from tests.concurrency.threads import together

if TYPE_CHECKING:
    from retainwise_metrics import CloudWatchMetrics

THREADS, TASKS = 8, 100


def record_in_a_thread(client: CloudWatchMetrics, thread: int) -> None:
    """2,000 values under the thread's dimensions, and now and then one at once."""
    for number in range(2000):
        client.put_metric("M", thread, dimensions={"Who": f"thread-{thread}", "Kind": "thread"})
        if number % 100 == 0:
            client.put_metric_sync("Now", thread, dimensions={"Who": f"thread-{thread}"})


async def record_in_tasks(client: CloudWatchMetrics) -> None:
    """50 values in each task, which take turns after each one."""

    async def act(task: int) -> None:
        metrics = client.scoped({"Who": f"task-{task}"})
        for _ in range(50):
            metrics.put_metric("M", task, dimensions={"Kind": "task"})
            await asyncio.sleep(0)

    await asyncio.gather(*map(act, range(TASKS)))


def record_all(client: CloudWatchMetrics) -> None:
    """All of them at the same time."""
    together(
        *(partial(record_in_a_thread, client, thread) for thread in range(THREADS)),
        lambda: asyncio.run(record_in_tasks(client)),
    )


RECORDED = {
    **{("M", f"thread-{thread}"): {float(thread): 2000} for thread in range(THREADS)},
    **{("Now", f"thread-{thread}"): {float(thread): 20} for thread in range(THREADS)},
    **{("M", f"task-{task}"): {float(task): 50} for task in range(TASKS)},
}
"""How often which value was recorded, by metric and by who did."""

ALL = 21_160
"""Measurements in all."""
