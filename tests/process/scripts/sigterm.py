"""
Records a value, says that it is ready, and waits for a signal.

    sigterm.py <way>
"""

import os
import signal
import sys
import threading
from contextlib import suppress

from retainwise_metrics import flush_on_sigterm, get_metrics_client


def default() -> None:
    """Nobody but the library minds the signal."""
    assert flush_on_sigterm()
    assert flush_on_sigterm()


def not_asked() -> None:
    """The library is not asked to mind it."""


def other_threads() -> None:
    """A thread that is not a daemon and never ends would keep the interpreter from ending in an orderly way."""
    default()
    threading.Thread(target=threading.Event().wait).start()


def catches_everything() -> None:
    """The main thread lets no exception through, so none can end it."""
    default()
    say_ready()
    while True:
        with suppress(BaseException):
            signal.pause()


def handler_that_exits() -> None:
    """The application's handler ends the program in its own way."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
    default()


def handler_that_goes_on() -> None:
    """The application's handler lets the program go on for a while."""
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    default()
    say_ready()
    over.wait()
    assert get_metrics_client().put_metric("M", 1)
    sys.exit(0)


def ignored() -> None:
    """A signal that is ignored stays ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert not flush_on_sigterm()
    os.kill(os.getpid(), signal.SIGTERM)
    sys.exit(0)


def in_a_thread() -> None:
    """Only the main thread may say what happens on a signal."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(flush_on_sigterm()))
    thread.start()
    thread.join()
    assert answers == [False]
    sys.exit(0)


def forked() -> None:
    """A child minds the signal as its parent does, for its own values."""
    default()
    child = os.fork()
    if child == 0:
        get_metrics_client().put_metric("M", 1)
        say_ready()
        while True:
            signal.pause()
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
    os.kill(os.getpid(), signal.SIGTERM)


def say_ready() -> None:
    """Tell whoever started this whom to send the signal to."""
    os.write(1, f"{os.getpid()}\n".encode())


get_metrics_client().put_metric("M", 1)
globals()[sys.argv[1]]()
say_ready()
while True:
    signal.pause()
