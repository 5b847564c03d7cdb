#!/usr/bin/env python3
"""
Moves failed jobs from the dead-letter queue back to the queue, or looks at them: `retainwise-metrics replay-dlq`.

    scripts/replay_dlq_messages.py --dlq NAME --list
    scripts/replay_dlq_messages.py --dlq NAME --show --limit 1
    scripts/replay_dlq_messages.py --dlq NAME --dry-run
    scripts/replay_dlq_messages.py --dlq NAME --rate 5

Sets itself up as the scripts beside it do; where the package is installed with the extra [cli], this file is not needed.
"""

import os
import sys
from pathlib import Path

SET_UP_AND_RUN = """
set -euo pipefail
. "$0/_venv"
venv_with cli
exec "$venv_python" -I -m retainwise_metrics replay-dlq "$@"
"""

if __name__ == "__main__":
    os.execvp("bash", ["bash", "-c", SET_UP_AND_RUN, str(Path(__file__).resolve().parent), *sys.argv[1:]])
