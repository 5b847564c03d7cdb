"""`retainwise-metrics <verb>`, also as `python -m retainwise_metrics <verb>`."""

from __future__ import annotations

import sys
from typing import Final

NEEDED: Final = ("rich", "typer")
"""What the extra `[cli]` brings; the package itself needs neither."""


def main() -> None:
    """
    Run the verb named on the command line, and exit with its code.

    Raises:
        SystemExit: Always; 2 when the extra `[cli]` is not installed.
    """
    missing = _missing()
    if missing:
        sys.exit(_explain(missing))
    from retainwise_metrics.cli.app import run

    run()


def _missing() -> list[str]:
    """Which of the needed packages cannot be imported."""
    from importlib.util import find_spec

    return [name for name in NEEDED if find_spec(name) is None]


def _explain(missing: list[str]) -> int:
    sys.stderr.write(
        f"retainwise-metrics needs {' and '.join(missing)}: install the extra [cli] with "
        "`pip install 'retainwise-metrics[cli]'`.\n"
    )
    return 2


if __name__ == "__main__":
    main()
