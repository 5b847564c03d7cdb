"""
What cannot be delivered, kept on local disk: by this process, or left behind by one that has ended.

    spool_dir/
        DESTINATION-HOST-PID-NONCE/     one folder per writer
            lock                        locked (flock) as long as its owner lives
            00000001.seg ...            see `_segments`

Rules
1. One writer per folder. Its lock goes away with its process, however that ends, and not before; whoever gets the lock owns the folder, and
   delivers what is left in it. (On another host the lock may mean nothing: there the folder has to have been untouched for a while, too.)
2. What is loaded to be sent stays on disk until it is settled. A batch that is settled is noted before the next one is loaded.
3. Bytes and age are bounded. The oldest file goes first, and is counted.
4. Nothing here raises: a disk that is full, read-only or gone is said and counted, and values stay in memory as they do without a spool.
5. Not thread-safe: whoever uses it sees to it that there is one at a time.

How this came about: docs/decisions/0010.
"""

from __future__ import annotations

import os
import re
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from retainwise_metrics.stats import DropReason

from ._segments import Damaged, Segment, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from retainwise_metrics.datum import Datum

SEGMENTS = 16
"""Files that the allowed bytes are divided into: a sixteenth goes at once when there is too much."""

FOREIGN_SECONDS = 900.0
"""How long the folder of another host has to be untouched before it counts as left behind; owners touch theirs every minute."""

TEND_SECONDS = 60.0
"""How often folders that were left behind are looked for, and a disk that failed is tried again."""

MOST_FOLDERS = 8
"""Folders owned at a time: each costs a descriptor, and one more per file (17 when it is full)."""

FOLDER = re.compile(r"([0-9a-f]{8})-([0-9a-f]{8})-\d+-[0-9a-f]{8}", re.ASCII)
SEGMENT = re.compile(r"\d{8}\.seg", re.ASCII)


class SpoolSettings(NamedTuple):
    """
    Where and how much.

    Attributes:
        directory: The folder that all processes of a service share.
        max_bytes: Most bytes of this process's files, those taken over included.
        max_age_seconds: What is older is given up.
        destination: What the values are for; only folders of the same destination are taken over.
        at_most_once: Whether calls are noted before they are made, so that nobody repeats one that may have arrived.
    """

    directory: str
    max_bytes: int = 64 * 1024 * 1024
    max_age_seconds: float = 14 * 86_400.0
    destination: str = ""
    at_most_once: bool = False


class _Folder:
    """
    One writer's folder, locked.
    """

    __slots__ = ("lock", "path", "segments", "serial")

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.lock = lock
        self.segments: list[Segment] = []
        self.serial = 0

    def touch(self) -> float:
        """
        Say that the owner is alive; the time is that of the file's server.
        """
        os.utime(self.path / "lock")
        return os.fstat(self.lock).st_mtime

    def remove(self) -> None:
        """
        Remove the folder, which has no files any more.
        """
        with suppress(OSError):
            (self.path / "lock").unlink()
            self.path.rmdir()
        self.close()

    def close(self) -> None:
        """
        Let go of everything and leave it where it is.
        """
        for segment in self.segments:
            segment.close()
        lock, self.lock = self.lock, -1
        if lock >= 0:
            with suppress(OSError):
                os.close(lock)


class _Loaded(NamedTuple):
    """
    Where a datum that is in memory just now is kept.
    """

    segment: Segment
    place: int
    position: int
    of: int
    datum: Datum


class Spool:
    """
    The disk's part of the backlog.

    Args:
        settings: Where and how much.
        wall: Reads the wall clock, epoch seconds.
        monotonic: Reads a clock that never steps back, seconds.
        warn: Says something about a subject, at a bounded rate.
        host: Tells hosts apart whose locks know nothing of each other; None: this one's.
    """

    def __init__(
        self,
        settings: SpoolSettings,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        warn: Callable[[str, str], None],
        *,
        host: str | None = None,
    ) -> None:
        self._settings = settings
        self.directory = Path(settings.directory)
        self._wall = wall
        self._monotonic = monotonic
        self._warn = warn
        self._host = f"{zlib.crc32((this_host() if host is None else host).encode()):08x}"
        self._destination = f"{zlib.crc32(settings.destination.encode()):08x}"
        self._segment_bytes = settings.max_bytes // SEGMENTS
        self._start_empty()

    def _start_empty(self) -> None:
        self._mine: _Folder | None = None
        self._folders: list[_Folder] = []
        self._loaded: dict[int, _Loaded] = {}
        self._tend_at = self._retry_at = self._read_at = float("-inf")
        self.held = 0
        """Measurements on disk that are not loaded."""
        self.losses: dict[DropReason, int] = {}
        """Measurements given up, since somebody has looked last: whoever looks empties it."""
        self.adopted = 0
        """Measurements taken over from others, likewise."""
        self.errors = 0
        """Times that the disk did not do what it was asked for, and damaged stretches that were found."""

    def oldest(self) -> int | None:
        """
        Start of the earliest window on disk, epoch seconds, as far as is known without looking; None when there is none.
        """
        return min((segment.oldest for folder in self._folders for segment in folder.segments), default=None)

    def is_failing(self) -> bool:
        """
        Whether the disk has failed and has not been tried again since.
        """
        return self.seconds_until_readable() > 0

    # ---- keeping ----

    def keep(self, datums: tuple[Datum, ...]) -> bool:
        """
        Keep datums of one namespace that wait; those that were loaded from here need not be written again.

        Returns:
            Whether they are on disk, so that memory need not hold them.
        """
        if id(datums[0]) in self._loaded:
            self._put_back(datums)
            return True
        if self._store(datums) is None:
            return False
        self.held += sum(datum.measurements for datum in datums)
        return True

    def keep_too(self, datums: tuple[Datum, ...]) -> bool:
        """
        Keep datums that are on the wire just now: on disk as well as in memory, as if they had been loaded for this call.
        """
        if id(datums[0]) in self._loaded:
            return True
        stored = self._store(datums, begun=self._settings.at_most_once)
        if stored is None:
            return False
        segment, place = stored
        self._note_loaded(segment, place, enumerate(datums), len(datums))
        return True

    def _store(self, datums: tuple[Datum, ...], *, begun: bool = False) -> tuple[Segment, int] | None:
        if self._monotonic() < self._retry_at:
            return None
        try:
            segment = self._writable()
            place = segment.append(datums, begun=begun)
        except OSError as error:
            self._failed("values stay in memory", error)
            return None
        self._keep_the_bound(segment)
        return segment, place

    def _writable(self) -> Segment:
        folder = self._own_folder()
        last = folder.segments[-1] if folder.segments else None
        made_after = self._wall() - self._settings.max_age_seconds / SEGMENTS
        if last is not None and last.size < self._segment_bytes and last.made > made_after:
            return last
        if last is not None:
            last.sync()
        folder.serial += 1
        segment = Segment(folder.path / f"{folder.serial:08}.seg", new=True)
        segment.made = self._wall()
        folder.segments.append(segment)
        _sync_folder(folder.path)
        return segment

    def _own_folder(self) -> _Folder:
        if self._mine is None:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self.directory / f"{self._destination}-{self._host}-{os.getpid()}-{os.urandom(4).hex()}"
            path.mkdir(mode=0o700)
            lock = _lock(path / "lock", os.O_CREAT | os.O_EXCL)
            self._mine = _Folder(path, lock)
            self._folders.append(self._mine)
        return self._mine

    def _keep_the_bound(self, newest: Segment) -> None:
        while sum(segment.size for folder in self._folders for segment in folder.segments) > self._settings.max_bytes:
            oldest = self._oldest(but=newest)
            if oldest is None:
                return
            self._give_up(*oldest, DropReason.SPOOL_FULL)

    def _oldest(self, but: Segment | None) -> tuple[_Folder, Segment] | None:
        in_use = {id(loaded.segment) for loaded in self._loaded.values()}
        candidates = [
            (folder, segment)
            for folder in self._folders
            for segment in folder.segments
            if segment is not but and id(segment) not in in_use
        ]
        return min(candidates, key=lambda pair: pair[1].newest, default=None)

    def _give_up(self, folder: _Folder, segment: Segment, reason: DropReason) -> None:
        """
        Count what is left in a file as lost, and remove it.
        """
        loaded = sum(each.datum.measurements for each in self._loaded.values() if each.segment is segment)
        lost = max(segment.pending - loaded, 0)
        if lost:
            self.held -= lost
            self.losses[reason] = self.losses.get(reason, 0) + lost
            segment.pending -= lost
        self._forget_if_done(folder, segment)

    def sync(self) -> None:
        """
        Wait until the disk has what was kept last.
        """
        if self._mine is not None and self._mine.segments:
            try:
                self._mine.segments[-1].sync()
            except OSError as error:
                self._failed("it may not survive a power cut", error)

    # ---- giving back ----

    def load(self) -> tuple[Datum, ...]:
        """
        The next batch to send; it stays on disk until it is settled. Empty when there is none, or none that can be read now.
        """
        for folder in list(self._folders):
            for segment in list(folder.segments):
                try:
                    datums = self._load_from(segment)
                except OSError as error:
                    self._read_at = self._monotonic() + TEND_SECONDS
                    self._complain("what is on it waits", error)
                    continue  # one file that cannot be read must not hold up the others
                if datums:
                    self.held -= sum(datum.measurements for datum in datums)
                    return datums
                if not any(loaded.segment is segment for loaded in self._loaded.values()):
                    # Read to its end, and still something is missing.
                    if segment.pending:
                        self._damage(f"{segment.pending} measurements in {segment.path} are gone")
                    self._give_up(folder, segment, DropReason.SPOOL_DAMAGED)
        return ()

    def put_back_all(self) -> None:
        """
        Nothing is in memory: what counts as loaded all the same was lost on the way, when something was raised in between.
        """
        if self._loaded:
            self._put_back(tuple(each.datum for each in self._loaded.values()))
            self.held = sum(segment.pending for folder in self._folders for segment in folder.segments)

    def seconds_until_readable(self) -> float:
        """
        How long to wait before `load` is worth another try, after the disk has failed.
        """
        return max(self._retry_at - self._monotonic(), self._read_at - self._monotonic(), 0.0)

    def _load_from(self, segment: Segment) -> tuple[Datum, ...]:
        while (record := segment.next()) is not None:
            if self._is_loaded(segment, record.place):
                continue
            try:
                datums = decode(record.payload, record.measurements)
            except Damaged:
                continue  # counted when the end of the file is reached
            except BaseException:
                segment.cursor = record.place
                raise
            done = segment.settled_of(record.place)
            left = [(index, datum) for index, datum in enumerate(datums) if index not in done]
            if self._settings.at_most_once and record.place in segment.begun:
                self._doubt(segment, record.place, left)
                continue
            if self._settings.at_most_once:
                self._begin(segment, record.place)
            self._note_loaded(segment, record.place, left, len(datums))
            return tuple(datum for _, datum in left)
        return ()

    def _begin(self, segment: Segment, place: int) -> None:
        try:
            segment.begin(place)
        except OSError:
            segment.cursor = place
            raise

    def _note_loaded(self, segment: Segment, place: int, datums: object, of: int) -> None:
        for index, datum in datums:  # type: ignore[attr-defined]  # pairs of an index and a datum
            self._loaded[id(datum)] = _Loaded(segment, place, index, of, datum)

    def _doubt(self, segment: Segment, place: int, left: Sequence[tuple[int, Datum]]) -> None:
        """
        Whoever had this record before was making a call with it when it ended.
        """
        lost = sum(datum.measurements for _, datum in left)
        self.held -= lost
        self.losses[DropReason.IN_DOUBT] = self.losses.get(DropReason.IN_DOUBT, 0) + lost
        self._note_settled(segment, place, {index for index, _ in left}, lost, whole=True)

    def _put_back(self, datums: tuple[Datum, ...]) -> None:
        for datum in datums:
            loaded = self._loaded.pop(id(datum))
            loaded.segment.cursor = min(loaded.segment.cursor, loaded.place)
            self.held += datum.measurements
            self._withdraw_if_unused(loaded.segment, loaded.place)

    def _withdraw_if_unused(self, segment: Segment, place: int) -> None:
        """
        No call with a record is under way any more, unless another part of it is still in memory: that one may be on the wire.
        """
        if place not in segment.begun or self._is_loaded(segment, place):
            return
        try:
            segment.withdraw(place)
        except OSError as error:
            self._failed("a call that was not made may count as made", error)

    def _is_loaded(self, segment: Segment, place: int) -> bool:
        return any(each.segment is segment and each.place == place for each in self._loaded.values())

    def settled(self, datums: Sequence[Datum]) -> None:
        """
        Datums are done with: delivered, or dropped for good. Those that did not come from here are none of its business.
        """
        records: dict[tuple[int, int], list[_Loaded]] = {}
        for datum in datums:
            loaded = self._loaded.pop(id(datum), None)
            if loaded is not None:
                records.setdefault((id(loaded.segment), loaded.place), []).append(loaded)
        for done in records.values():
            segment, place = done[0].segment, done[0].place
            measurements = sum(each.datum.measurements for each in done)
            positions = {each.position for each in done}
            # Not: what is left of it in memory. A part of it may have been put back.
            whole = len(segment.settled_of(place) | positions) == done[0].of
            self._note_settled(segment, place, positions, measurements, whole=whole)
            if not whole:
                self._withdraw_if_unused(segment, place)
            for folder in [folder for folder in self._folders if segment in folder.segments]:
                self._forget_if_done(folder, segment)

    def _note_settled(self, segment: Segment, place: int, indexes: set[int], measurements: int, *, whole: bool) -> None:
        try:
            segment.settle(place, indexes, measurements, whole=whole)
        except OSError as error:
            self._failed("values may be delivered again by a later process", error)

    def _forget_if_done(self, folder: _Folder, segment: Segment) -> None:
        if segment.pending > 0:
            return
        segment.remove()
        if segment in folder.segments:
            folder.segments.remove(segment)
        if not folder.segments and folder is not self._mine:
            folder.remove()
            self._folders.remove(folder)
            self._tend_at = float("-inf")  # there is room for another one

    # ---- now and then ----

    def tend(self) -> None:
        """
        Once a minute: say that this process is alive, take over what was left behind, give up what is too old.
        """
        now = self._monotonic()
        if now < self._tend_at:
            return
        self._tend_at = now + TEND_SECONDS
        try:
            self._say_alive()
            self._adopt_all()
        except OSError as error:
            self._failed("what others have left behind stays there", error)
        oldest = self._wall() - self._settings.max_age_seconds
        for folder in list(self._folders):
            for segment in [segment for segment in folder.segments if segment.newest < oldest]:
                self._give_up(folder, segment, DropReason.TOO_OLD)

    def _say_alive(self) -> None:
        for folder in self._folders:
            if folder is not self._mine:
                with suppress(OSError):
                    folder.touch()
        if self._mine is None:
            return
        try:
            self._mine.touch()
        except FileNotFoundError:
            self._damage(f"{self._mine.path} was removed; a new folder is made for what comes")
            if not self._mine.segments:
                self._folders.remove(self._mine)
                self._mine.close()
            self._mine = None

    def _adopt_all(self) -> None:
        known = {folder.path for folder in self._folders}
        try:
            found = sorted(entry.name for entry in os.scandir(self.directory) if entry.is_dir(follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            return  # nobody has left anything; whoever wants to keep something says what is wrong
        for name in found:
            match = FOLDER.fullmatch(name)
            if len(self._folders) >= MOST_FOLDERS:
                return  # each costs descriptors, which are the application's; the next one when one of these is empty
            if match is not None and match[1] == self._destination and self.directory / name not in known:
                try:
                    self._adopt(self.directory / name, same_host=match[2] == self._host)
                except FileNotFoundError:
                    continue  # another heir was faster
                except OSError as error:
                    self._complain(f"{self.directory / name} is left alone", error)

    def _adopt(self, path: Path, *, same_host: bool) -> None:
        if hasattr(os, "geteuid") and path.stat().st_uid != os.geteuid():
            self._warn("spool-stranger", f"the spool's folder {path} belongs to another user and is left alone")
            return
        if not same_host and not self._is_left_behind(path):
            return
        try:
            lock = _lock(path / "lock", 0)
        except BlockingIOError:
            return  # its owner lives
        except FileNotFoundError:
            self._remove_if_old(path)
            return
        folder = _Folder(path, lock)
        try:
            names = sorted(file for file in path.iterdir() if SEGMENT.fullmatch(file.name))
            folder.segments = [Segment(file, new=False) for file in names]
        except BaseException:
            folder.close()  # with its lock where it is: whoever tries again, or somebody else, finds all of it
            raise
        for segment in list(folder.segments):
            self._take_over(folder, segment)
        if folder.segments:
            # In front: what others have left is older than what this process keeps.
            self._folders.insert(0, folder)
        else:
            folder.remove()

    def _take_over(self, folder: _Folder, segment: Segment) -> None:
        if segment.damaged:
            self._damage(
                f"{segment.path} is damaged or was cut off in {segment.damaged} places; the rest of it is delivered"
            )
        if segment.pending <= 0:
            segment.remove()
            folder.segments.remove(segment)
            return
        self.adopted += segment.pending
        self.held += segment.pending

    def _is_left_behind(self, path: Path) -> bool:
        """
        Whether the folder of another host has not been touched for long, by the clock of the file's server.
        """
        try:
            touched = (path / "lock").stat().st_mtime
        except FileNotFoundError:
            return True
        return self._own_folder().touch() - touched > FOREIGN_SECONDS

    def _remove_if_old(self, path: Path) -> None:
        """
        A folder without a lock is being made just now, or its maker was killed between the two; then it is empty.
        """
        with suppress(OSError):
            if self._own_folder().touch() - path.stat().st_mtime > FOREIGN_SECONDS:
                path.rmdir()

    # ---- the end ----

    def after_fork(self) -> None:
        """
        In a child: all of it is the parent's. Its descriptors are closed, because a lock lasts until the last copy of them is.
        """
        for folder in self._folders:
            folder.close()
        self._start_empty()

    def __del__(self) -> None:
        """Whoever shares the directory may have what is left, as soon as nobody can use it here any more."""
        with suppress(Exception):
            self.close()

    def close(self) -> None:
        """
        Let go. What is still on disk is anybody's who shares the directory; a folder without files is removed.
        """
        folders, self._folders, self._mine = self._folders, [], None
        for folder in folders:
            if folder.segments:
                folder.close()
            else:
                folder.remove()

    # ---- what is said ----

    def _failed(self, consequence: str, error: OSError) -> None:
        self._retry_at = self._monotonic() + TEND_SECONDS
        self._complain(consequence, error)

    def _complain(self, consequence: str, error: OSError) -> None:
        self.errors += 1
        self._warn(
            "spool", f"the spool {self.directory} failed ({type(error).__name__}: {error.strerror}); {consequence}"
        )

    def _damage(self, words: str) -> None:
        self.errors += 1
        self._warn("spool-damaged", f"the spool is damaged: {words}")


def _sync_folder(path: Path) -> None:
    """
    Wait until the disk knows which files a folder has.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def this_host() -> str:
    """
    A name for the kernel that this process's locks live in: containers of one host share it, and a restart of the host changes it.
    """
    import socket

    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return socket.gethostname()


def _lock(path: Path, flags: int) -> int:
    """
    Open and lock a file.

    Raises:
        BlockingIOError: Somebody else has locked it.
        FileNotFoundError: It is not there, or was removed while it was being locked.
        OSError: Files cannot be locked here.
    """
    try:
        import fcntl
    except ImportError:
        message = "this system has no flock, by which the spool knows whose files are whose"
        raise OSError(None, message) from None
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        gone = os.fstat(descriptor).st_nlink == 0
    except BaseException:
        os.close(descriptor)
        raise
    if gone:
        os.close(descriptor)
        raise FileNotFoundError(path)
    return descriptor
