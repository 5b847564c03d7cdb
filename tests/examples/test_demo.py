"""The demo as a user runs it: a few seconds of traffic, real processes, an embedded AWS."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.terraform import unavailable

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "examples.retainwise", "--minutes", "0.05", "--workers", "1"]
SECONDS = 300.0


class Demo:
    """A demo that is running, and what it has printed so far."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=os.environ | {"COLUMNS": "120", "PYTHONUNBUFFERED": "1"},
        )
        self.printed = ""
        self._guard = threading.Timer(SECONDS, self.process.kill)
        self._guard.start()

    def read_until(self, words: str) -> None:
        """Read its output until a line has these words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.printed += line
            if words in line:
                return
        pytest.fail(f"The demo ended without printing {words!r}:\n{self.printed}")

    def finish(self) -> int:
        """Read the rest, and return the exit code."""
        assert self.process.stdout is not None
        self.printed += self.process.stdout.read()
        return self.process.wait()

    def close(self) -> None:
        """Leave nothing behind, even when a test fails."""
        self._guard.cancel()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def pids(self) -> set[int]:
        """Process ids of the children, as printed."""
        lists = re.findall(r"\bpid (\d+(?:, \d+)*)", self.printed)
        return {int(pid) for pids in lists for pid in pids.split(", ")}


@pytest.fixture(name="start")
def _start() -> Iterator[type[Demo]]:
    """Start demos that are closed after the test."""
    demos: list[Demo] = []

    class Closed(Demo):
        """A demo that the fixture closes."""

        def __init__(self, *arguments: str) -> None:
            super().__init__(*arguments)
            demos.append(self)

    yield Closed
    for demo in demos:
        demo.close()


def gone(pids: set[int], within: float = 20.0) -> bool:
    """Whether all of these processes end in time; zombies count as ended."""
    pause = threading.Event()
    for _ in range(int(within / 0.1)):
        if not any(_runs(pid) for pid in pids):
            return True
        pause.wait(0.1)
    return False


def _runs(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return state.strip()[:1] not in {"", "Z"}


@pytest.mark.parametrize("alarms", [False, True])
def test_everything_recorded_is_read_back(start: type[Demo], tmp_path: Path, alarms: bool) -> None:
    """All series are equal, all checks pass, nothing runs any more, and the exit code is 0; with alarms, they watch what is published."""
    if alarms and not shutil.which("terraform"):
        unavailable("terraform is not on the PATH")
    demo = start("--output", str(tmp_path), *(["--alarms"] if alarms else []))
    assert demo.finish() == 0, demo.printed
    assert re.search(r"(\d+) of \1 lines read back equal", demo.printed)
    assert re.search(r"^ *UploadSuccess .* equal\*? *$", demo.printed, re.MULTILINE)
    assert re.search(r"^ *UserId=\(hashed\).* equal *$", demo.printed, re.MULTILINE)
    assert "DIFFERS" not in demo.printed
    assert f"All {22 if alarms else 19} checks passed" in demo.printed
    assert len(demo.pids) == 3
    assert gone(demo.pids, within=0.1)
    left = {path.name for path in tmp_path.glob("*/*.json")}
    assert left == {"upload-api.json", "worker-1.json"} | ({"drill.json"} if alarms else set())
    assert not alarms or re.search(r"^retainwise-dlq-messages-present +critical proven ", demo.printed, re.MULTILINE)
    assert not alarms or "15 alarms and 2 topics looked at: 0 problems" in demo.printed


def test_alarms_are_refused_at_once_without_terraform(
    start: type[Demo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for the end of the traffic to hear what is missing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    demo = start("--alarms")
    assert demo.finish() == 1
    assert "--alarms needs Terraform, and there is none on the PATH" in demo.printed
    assert not demo.pids


def test_ctrl_c_stops_everything(start: type[Demo]) -> None:
    """Interrupted while it uploads, the demo ends at once and takes its children along."""
    demo = start("--minutes", "5")
    demo.read_until("workers")
    demo.process.send_signal(signal.SIGINT)
    assert demo.finish() == 130, demo.printed
    assert "Everything is stopped" in demo.printed
    assert gone(demo.pids, within=0.1)


def test_children_end_when_the_demo_is_killed(start: type[Demo], tmp_path: Path) -> None:
    """A demo that cannot clean up leaves no orphans either."""
    demo = start("--minutes", "5", "--output", str(tmp_path))
    demo.read_until("workers")
    demo.process.kill()
    assert gone(demo.pids)


def test_keep_leaves_it_running_until_ctrl_c(start: type[Demo]) -> None:
    """With --keep the processes stay, and the comparison follows Ctrl-C."""
    demo = start("--keep")
    demo.read_until("See logs")
    demo.process.send_signal(signal.SIGINT)
    assert demo.finish() == 0, demo.printed
    assert re.search(r"(\d+) of \1 lines read back equal", demo.printed)


def test_refuses_a_file_that_is_no_customer_file(start: type[Demo]) -> None:
    """Any other file is refused with what it lacks, before anything is started."""
    demo = start("--csv", str(ROOT / "pyproject.toml"))
    assert demo.finish() == 1
    assert "not a telco-style churn file" in demo.printed
    assert demo.pids == set()
