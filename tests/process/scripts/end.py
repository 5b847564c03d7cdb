"""
Records a value or two and ends in one of many ways.

    end.py <way>
"""

import atexit
import sys
import threading

from retainwise_metrics import CloudWatchMetrics, MetricsConfig, get_metrics_client


def record() -> None:
    """One value for the process-wide client."""
    assert get_metrics_client().put_metric("M", 1)


def by_itself() -> None:
    """The last line of the program."""
    record()


def with_block() -> None:
    """A client of its own, stopped by its block."""
    with CloudWatchMetrics(MetricsConfig.from_env()) as client:
        client.put_metric("M", 1)
    assert client.stats()[:4] == (1, 1, 0, {})
    assert not client.put_metric("M", 1)


def with_block_that_raises() -> None:
    """The block's exception goes on its way after the delivery."""
    with CloudWatchMetrics(MetricsConfig.from_env()) as client:
        client.put_metric("M", 1)
        raise SystemExit(7)


def unhandled() -> None:
    """An error nobody caught."""
    record()
    message = "nobody catches this"
    raise LookupError(message)


def exit_in_a_thread() -> None:
    """`sys.exit` ends a thread, not the program."""
    thread = threading.Thread(target=lambda: (record(), sys.exit(9)))
    thread.start()
    thread.join()


def unhandled_in_a_thread() -> None:
    """The thread's error is printed, and the program goes on."""
    threading.excepthook = lambda _: None
    thread = threading.Thread(target=unhandled)
    thread.start()
    thread.join()


def last_thread() -> None:
    """A thread that is not a daemon outlives the main thread and records after it."""
    record()
    main = threading.main_thread()
    threading.Thread(target=lambda: (main.join(), record())).start()


def atexit_handler() -> None:
    """The application's own handler records; it was registered after the client was made, so it runs first."""
    get_metrics_client().put_metric("M", 1)
    atexit.register(record)


def quiet() -> None:
    """Everything is made and nothing recorded: the library must not even be noticed."""
    client = get_metrics_client()
    client.counter("M").bind(Kind="bound")
    client.histogram("H")
    client.scoped({"Service": "api"})
    client.flush(5.0)
    client.stop(5.0)
    loaded = {"boto3", "botocore", "asyncio", "logging", "dataclasses"} & set(sys.modules)
    assert not loaded, loaded
    assert threading.active_count() == 1


globals()[sys.argv[1]]()
