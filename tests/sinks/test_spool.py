"""The spool on disk: who may have whose files, what is bounded, and what a disk that fails does."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics import DropReason
from retainwise_metrics.datum import Datum, Series
from retainwise_metrics.sinks.spool import FOREIGN_SECONDS, MOST_FOLDERS, TEND_SECONDS, Spool, SpoolSettings

if TYPE_CHECKING:
    from pathlib import Path

    from retainwise_metrics.testing import ManualRuntime

MEBIBYTE = 1_048_576


def batch_of(*values: float, at: int = 1_767_225_600) -> tuple[Datum, ...]:
    """One datum per value, each of two measurements."""
    series = Series("N", "M", (), "Count", 60)
    return tuple(Datum(series, at, (value,), (2,), 2) for value in values)


class Host:
    """Processes of one host that share a folder; each `process` is the spool of one."""

    def __init__(self, folder: Path, runtime: ManualRuntime, name: str = "here") -> None:
        self.folder = folder
        self.runtime = runtime
        self.name = name
        self.said: list[str] = []

    def process(self, **settings: object) -> Spool:
        """A spool with these settings."""
        chosen = SpoolSettings(str(self.folder), **settings)  # type: ignore[arg-type]
        return Spool(chosen, self.runtime.wall, self.runtime.monotonic, self.warn, host=self.name)

    def warn(self, subject: str, message: str) -> None:
        """What would be logged."""
        assert subject
        self.said.append(message)

    def wait(self) -> None:
        """Until folders are looked at again."""
        self.runtime.advance(TEND_SECONDS)


@pytest.fixture
def host(tmp_path: Path, runtime: ManualRuntime) -> Host:
    """A host with an empty folder that does not exist yet."""
    return Host(tmp_path / "service" / "spool", runtime)


def end(spool: Spool) -> None:
    """A process has ended: its descriptors are closed, and nothing else has happened."""
    spool.after_fork()


def values_in(spool: Spool) -> list[float]:
    """All that can be loaded, delivered."""
    values: list[float] = []
    while datums := spool.load():
        values += [datum.values[0] for datum in datums]
        spool.settled(datums)
    return values


def files(host: Host) -> list[Path]:
    """What is on disk besides locks."""
    return sorted(host.folder.glob("*/*.seg"))


def test_nothing_is_made_before_there_is_something_to_keep(host: Host) -> None:
    """No folder, no file."""
    spool = host.process()
    spool.tend()
    assert spool.load() == ()
    spool.close()
    assert not host.folder.exists()


def test_what_is_kept_comes_back_once_and_leaves_nothing(host: Host) -> None:
    """In order; when all of it is settled, no file is left, and when the spool is closed, no folder."""
    spool = host.process()
    assert spool.keep(batch_of(1, 2))
    assert spool.keep(batch_of(3))
    assert spool.held == 6
    assert [path.stat().st_mode & 0o777 for path in (host.folder, files(host)[0])] == [0o700, 0o600]
    assert values_in(spool) == [1, 2, 3]
    assert (spool.held, spool.losses, spool.errors, files(host)) == (0, {}, 0, [])
    spool.close()
    assert list(host.folder.iterdir()) == []


def test_what_was_loaded_and_not_sent_comes_back_first(host: Host) -> None:
    """Nothing is written for that."""
    spool = host.process()
    spool.keep(batch_of(1))
    spool.keep(batch_of(2))
    before = files(host)[0].read_bytes()
    assert spool.keep(spool.load())
    assert spool.held == 4
    assert files(host)[0].read_bytes() == before
    assert values_in(spool) == [1, 2]


def test_what_an_ended_process_has_left_is_taken_over_and_nothing_else(host: Host) -> None:
    """Without what it had settled; and the living are left alone."""
    living, dying, heir = host.process(), host.process(), host.process()
    living.keep(batch_of(1))
    dying.keep(batch_of(2, 3))
    dying.keep(batch_of(4))
    datums = dying.load()
    dying.settled(datums[:1])
    heir.tend()
    assert (heir.held, heir.adopted) == (0, 0)
    end(dying)
    heir.tend()
    assert heir.held == 0, "it looks once a minute"
    host.wait()
    heir.tend()
    assert (heir.held, heir.adopted) == (4, 4)
    assert values_in(heir) == [3, 4]
    assert values_in(living) == [1]
    heir.close()
    living.close()
    assert list(host.folder.iterdir()) == []
    assert (heir.errors, host.said) == (0, [])


def test_one_of_two_heirs_gets_it(host: Host) -> None:
    """And when that one ends too, the other."""
    dying, first, second = host.process(), host.process(), host.process()
    dying.keep(batch_of(1, 2))
    end(dying)
    first.tend()
    second.tend()
    assert (first.held, second.held) == (4, 0)
    first.settled(first.load()[:1])
    end(first)
    host.wait()
    second.tend()
    assert values_in(second) == [2]


def test_what_is_for_another_destination_is_left_alone(host: Host) -> None:
    """Another region, another account's endpoint: it would be delivered to the wrong place."""
    dying, other = host.process(destination="eu"), host.process(destination="us")
    dying.keep(batch_of(1))
    end(dying)
    other.tend()
    assert other.held == 0
    heir = host.process(destination="eu")
    heir.tend()
    assert values_in(heir) == [1]


def test_another_hosts_folder_is_taken_over_when_it_has_not_been_touched_for_long(
    host: Host, tmp_path: Path, runtime: ManualRuntime
) -> None:
    """Two hosts on one network drive: a lock that can be had may be had because it means nothing there."""
    there = Host(host.folder, runtime, "there")
    remote = there.process()
    remote.keep(batch_of(1))
    lock = next(host.folder.glob("*/lock"))
    end(remote)
    spool = host.process()
    spool.tend()
    assert spool.held == 0
    now = lock.stat().st_mtime
    os.utime(lock, (now, now - FOREIGN_SECONDS - 5))
    host.wait()
    spool.tend()
    assert values_in(spool) == [1]
    assert tmp_path in host.folder.parents


def test_an_owner_touches_its_lock(host: Host) -> None:
    """Once a minute, so that other hosts see it live."""
    spool = host.process()
    spool.keep(batch_of(1))
    lock = next(host.folder.glob("*/lock"))
    os.utime(lock, (0, 0))
    spool.tend()
    assert lock.stat().st_mtime > 1_000_000_000


def test_rubbish_in_the_folder_is_left_alone(host: Host) -> None:
    """Files, other folders, links, a folder that looks like ours without a lock."""
    dying = host.process()
    dying.keep(batch_of(1))
    end(dying)
    name = next(host.folder.iterdir()).name
    (host.folder / "a file").write_text("x")
    (host.folder / name[:-8]).mkdir()
    empty = host.folder / f"{name[:-8]}{'0' * 8}"
    empty.mkdir()
    (host.folder / f"{name[:-8]}{'1' * 8}").symlink_to("/")
    (host.folder / name / "notes.txt").write_text("x")
    heir = host.process()
    heir.tend()
    assert values_in(heir) == [1]
    assert (heir.errors, host.said) == (0, [])
    os.utime(empty, (0, 0))
    host.wait()
    heir.tend()
    assert not empty.exists(), "its maker was killed long ago"
    assert (host.folder / name / "notes.txt").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_another_users_folder_is_left_alone(host: Host) -> None:
    """Anybody may write into a folder in /tmp."""
    dying, heir = host.process(), host.process()
    dying.keep(batch_of(1))
    end(dying)
    os.chown(next(host.folder.iterdir()), 65_534, -1)
    heir.tend()
    assert heir.held == 0
    assert "belongs to another user" in host.said[0]


def test_bytes_are_bounded_and_the_oldest_go_first(host: Host) -> None:
    """What goes is counted; what stays is the newest."""
    spool = host.process(max_bytes=MEBIBYTE)
    lost = 0
    for minute in range(3000):
        # Values that zlib cannot make smaller.
        values = [int.from_bytes(os.urandom(8), "big") / 7 for _ in range(50)]
        assert spool.keep(batch_of(*values, at=60 * minute))
        lost = spool.losses.get(DropReason.SPOOL_FULL, 0)
        assert sum(path.stat().st_size for path in files(host)) <= MEBIBYTE
        assert spool.held + lost == 100 * (minute + 1)
    first = spool.load()[0].timestamp // 60
    assert lost == 100 * first > 0
    assert sum(path.stat().st_size for path in files(host)) > MEBIBYTE * 0.9


def test_what_is_too_old_is_given_up(host: Host, runtime: ManualRuntime) -> None:
    """A file at a time, when all in it is too old."""
    spool = host.process(max_age_seconds=3600.0)
    spool.keep(batch_of(1, at=int(runtime.wall())))
    runtime.advance(3500.0)
    spool.tend()
    assert spool.held == 2
    runtime.advance(3600.0)
    spool.tend()
    assert (spool.held, spool.losses, files(host)) == (0, {DropReason.TOO_OLD: 2}, [])


def test_a_file_that_somebody_has_changed_is_lost_and_counted(host: Host) -> None:
    """As many measurements as are missing, under the spool's own reason."""
    spool = host.process()
    spool.keep(batch_of(1))
    spool.keep(batch_of(2, 3))
    spool.keep(batch_of(4))
    content = bytearray(files(host)[0].read_bytes())
    content[len(content) // 2] ^= 0xFF
    files(host)[0].write_bytes(bytes(content))
    assert values_in(spool) == [1, 4]
    assert (spool.held, spool.losses, spool.errors) == (0, {DropReason.SPOOL_DAMAGED: 4}, 1)
    assert "are gone" in host.said[0]


def test_files_that_were_emptied_are_lost_and_counted(host: Host) -> None:
    """Somebody has cleaned up with `truncate`."""
    spool = host.process()
    spool.keep(batch_of(1, 2))
    files(host)[0].write_bytes(b"")
    assert spool.load() == ()
    assert (spool.held, spool.losses) == (0, {DropReason.SPOOL_DAMAGED: 4})


def test_a_folder_that_was_removed_under_a_living_process_changes_nothing(host: Host) -> None:
    """`rm -rf`: its open files go on, and new ones come into a new folder."""
    import shutil

    spool = host.process()
    spool.keep(batch_of(1))
    shutil.rmtree(host.folder)
    spool.keep(batch_of(2))
    assert values_in(spool) == [1, 2]
    host.wait()
    spool.tend()
    host.wait()
    assert spool.keep(batch_of(3))
    assert len(files(host)) == 1
    assert values_in(spool) == [3]


def test_an_adopted_file_that_is_damaged_gives_what_it_can(host: Host) -> None:
    """Its writer was killed in the middle of a record."""
    dying, heir = host.process(), host.process()
    dying.keep(batch_of(1))
    dying.keep(batch_of(2))
    end(dying)
    files(host)[0].write_bytes(files(host)[0].read_bytes()[:-3])
    heir.tend()
    assert values_in(heir) == [1]
    assert (heir.adopted, heir.losses, heir.errors) == (2, {}, 1)
    assert "cut off" in host.said[0]


@pytest.mark.parametrize("obstacle", ["a file", "no such device"])
def test_a_folder_that_cannot_be_made_is_said_and_tried_again(host: Host, obstacle: str) -> None:
    """Values are not taken, so they stay in memory; a minute later it is tried again."""
    host.folder.parent.mkdir()
    if obstacle == "a file":
        host.folder.write_text("not a folder")
    else:
        host.folder.symlink_to("/nowhere/at/all")
    spool = host.process()
    assert not spool.keep(batch_of(1))
    assert not spool.keep(batch_of(1))
    assert (spool.errors, spool.held) == (1, 0)
    assert "values stay in memory" in host.said[0]
    assert str(host.folder) in host.said[0]
    host.folder.unlink()
    assert not spool.keep(batch_of(1))
    host.wait()
    assert spool.keep(batch_of(1))
    assert values_in(spool) == [1]


def test_a_call_that_was_under_way_at_the_end_is_in_doubt_at_most_once(host: Host) -> None:
    """And only that one; at least once it is sent again."""
    for at_most_once, expected, doubt in ((True, [2, 3], {DropReason.IN_DOUBT: 2}), (False, [1, 2, 3], {})):
        dying, heir = (host.process(at_most_once=at_most_once) for _ in range(2))
        for value in (1, 2, 3):
            dying.keep(batch_of(value))
        dying.load()
        dying.keep(dying.load())  # the second call certainly did not get through
        end(dying)
        heir.tend()
        assert values_in(heir) == expected
        assert (heir.losses, heir.held) == (doubt, 0)
        heir.close()


def test_what_is_on_the_wire_is_kept_as_if_it_had_been_loaded(host: Host) -> None:
    """Settled, it is forgotten; otherwise an heir has it."""
    dying, heir = host.process(), host.process()
    first, second = batch_of(1), batch_of(2)
    assert dying.keep_too(first)
    assert dying.keep_too(second)
    assert dying.held == 0, "it is in memory, too"
    dying.settled(first)
    end(dying)
    heir.tend()
    assert values_in(heir) == [2]


FULL = """
import resource, sys
from pathlib import Path
from retainwise_metrics.testing import ManualRuntime
from tests.sinks.test_spool import Host, batch_of, values_in
runtime = ManualRuntime()
host = Host(Path(sys.argv[1]), runtime)
spool, kept, limit = host.process(), 0, (1000, resource.RLIM_INFINITY)
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
while spool.keep(batch_of(kept)):
    kept += 1
assert kept > 3 and spool.errors == 1 and spool.held == 2 * kept, (kept, spool.errors, spool.held)
assert "values stay in memory" in host.said[0] and "OSError" in host.said[0], host.said
first = 0
while spool.errors == 1:  # until not even the note of a delivery fits
    spool.settled(spool.load())
    first += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
host.wait()
assert spool.keep(batch_of(kept))
assert values_in(spool) == list(range(first, kept + 1))
assert spool.losses == {}
"""


def test_a_full_disk_is_said_and_tried_again(tmp_path: Path) -> None:
    """In a process that may write no more than 1,000 bytes to a file; what was kept before comes back."""
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


READ_ONLY = """
import fcntl, os, sys
from pathlib import Path
from retainwise_metrics.testing import ManualRuntime
from tests.sinks.test_spool import Host, batch_of
host = Host(Path(sys.argv[1]), ManualRuntime())
spool = host.process()
if os.geteuid() == 0:  # who may do anything
    os.setuid(65_534)
spool.tend()
assert not spool.keep(batch_of(1))
print(host.said[-1])
"""


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no such permissions")
def test_a_folder_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    """In a process without the rights."""
    tmp_path.chmod(0o555)
    command = [sys.executable, "-c", READ_ONLY, str(tmp_path / "spool")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    tmp_path.chmod(0o755)
    assert "PermissionError: Permission denied" in done.stdout, done
    assert (done.returncode, done.stderr) == (0, "")


def leave_behind(host: Host, *values: float, **settings: object) -> Path:
    """The folder of a process that has ended."""
    spool = host.process(**settings)
    spool.keep(batch_of(*values))
    (folder,) = (each.path for each in spool._folders)
    end(spool)
    return folder


def test_a_crash_loop_does_not_cost_the_applications_descriptors(host: Host) -> None:
    """Hundreds of folders are taken over a few at a time; in the end all are delivered."""
    for value in range(100):
        leave_behind(host, value)
    heir = host.process()
    values: list[float] = []
    for _ in range(100):
        heir.tend()
        assert len(heir._folders) <= MOST_FOLDERS
        values += values_in(heir)
    assert sorted(values) == list(range(100))
    heir.close()
    assert list(host.folder.iterdir()) == []


def test_a_shortage_of_descriptors_leaves_the_folder_for_later(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its lock, so that somebody can take it over when there are some again."""
    leave_behind(host, 1)
    heir, open_ = host.process(), os.open

    def too_many(path: object, *arguments: object, **options: object) -> int:
        if str(path).endswith(".seg"):
            raise OSError(24, "Too many open files")
        return open_(path, *arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", too_many)
        heir.tend()
    assert (heir.adopted, heir.errors) == (0, 1)
    host.wait()
    heir.tend()
    assert values_in(heir) == [1]


@pytest.mark.parametrize("obstacle", ["a folder", "a link"])
def test_one_folder_that_cannot_be_opened_does_not_stop_the_others(host: Host, obstacle: str) -> None:
    """What is kept is kept, and what others have left is taken over."""
    path = leave_behind(host, 1)
    bad = path.with_name(f"{path.name[:-8]}{'0' * 8}")
    bad.mkdir()
    (bad / "lock").mkdir() if obstacle == "a folder" else (bad / "lock").symlink_to("/tmp")
    heir = host.process()
    for _ in range(5):
        heir.tend()
        assert heir.keep(batch_of(2))
        host.wait()
    assert values_in(heir) == [1, 2, 2, 2, 2, 2]
    assert heir.errors == 5


def test_one_file_that_cannot_be_read_does_not_stop_the_others(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad sector: the rest is delivered, and more can be kept."""
    leave_behind(host, 1)
    spool, read = host.process(), os.pread
    spool.tend()
    bad = spool._folders[0].segments[0]._file

    def fail(descriptor: int, length: int, place: int) -> bytes:
        if descriptor == bad:
            raise OSError(5, "Input/output error")
        return read(descriptor, length, place)

    monkeypatch.setattr(os, "pread", fail)
    assert spool.keep(batch_of(2))
    assert values_in(spool) == [2]
    assert spool.keep(batch_of(3))
    assert spool.seconds_until_readable() > 0


@pytest.mark.parametrize("others", [20, 80])
def test_damage_to_what_was_settled_costs_nothing_else(host: Host, others: int) -> None:
    """What was noted about it is not taken from its neighbours."""
    dying, heir = host.process(), host.process()
    dying.keep(batch_of(*range(50)))
    dying.keep(batch_of(*range(100, 100 + others)))
    dying.settled(dying.load())
    end(dying)
    content = bytearray(files(host)[0].read_bytes())
    content[40] ^= 0xFF
    files(host)[0].write_bytes(bytes(content))
    heir.tend()
    assert heir.adopted == heir.held == 2 * others
    assert values_in(heir) == list(range(100, 100 + others))
    assert (heir.held, heir.losses) == (0, {})


def test_age_is_bounded_for_a_writer_of_little(host: Host, runtime: ManualRuntime) -> None:
    """A value a minute for a day, with an hour allowed: files are not written for longer than a sixteenth of it."""
    spool = host.process(max_age_seconds=3600.0)
    for minute in range(24 * 60):
        spool.tend()
        spool.keep(batch_of(minute, at=int(runtime.wall())))
        runtime.advance(60.0)
    spool.tend()
    assert runtime.wall() - spool.load()[0].timestamp < 1.1 * 3600.0
    assert spool.losses[DropReason.TOO_OLD] > 2 * 22 * 60


def test_what_was_taken_over_is_touched_too(host: Host) -> None:
    """Another host must see that somebody is at it."""
    lock = leave_behind(host, 1) / "lock"
    heir = host.process()
    heir.tend()
    os.utime(lock, (0, 0))
    host.wait()
    heir.tend()
    assert lock.stat().st_mtime > 1_000_000_000


def test_counts_may_be_enormous(host: Host) -> None:
    """As large as the API takes them, for many datums."""
    spool = host.process()
    series = Series("N", "M", (), "Count", 60)
    datums = tuple(Datum(series, 60 * index, (1.0,), (2**53,), 2**53) for index in range(3_000))
    assert spool.keep(datums)
    assert spool.held == 3_000 * 2**53 > 2**64
    assert spool.load() == datums
