"""
Runs one module as a child of the demo, and ends it when the demo is gone.

`python -m examples.retainwise.child MODULE [ARGUMENT ...]`. The demo holds the other end of the standard input and
never writes to it. When the demo ends, for whatever reason and be it by SIGKILL, the system closes that end: the read
returns and the child stops as if asked to. So the applications themselves need to know nothing of the demo.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

GRACE_SECONDS = 15.0


def _leave_with_parent() -> None:
    # os.read, not sys.stdin: a daemon thread inside a buffered read makes the interpreter abort at shutdown.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """
    Watch the standard input, and become the module named on the command line.
    """
    threading.Thread(target=_leave_with_parent, name="leave-with-parent", daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
