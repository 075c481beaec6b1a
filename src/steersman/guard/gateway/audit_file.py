"""The audit log's files on disk, as the process that writes them holds them.

A commit is all or nothing: its lines are written, synced, and only then is the signed head renewed, by a rename. What
failed is cut off again. Opening the log checks its last file, so that nothing is ever added to a log that was changed.
"""

from __future__ import annotations

import fcntl
import hmac
import os
import secrets
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from steersman import __version__
from steersman.errors import RunError, UserError
from steersman.guard.gateway import audit_chain as chain
from steersman.guard.gateway.audit_chain import BEGIN, Chain, Head

Record = dict[str, Any]

RETRY_S = 1.0  # after which a disk that failed is tried again


class AuditFailed(RunError):
    """A record could not be written, and so the answer may not be sent."""


class LogFile:
    """The files of a log, held for writing. All methods but `digest_of` are for one thread at a time."""

    def __init__(self, path: Path, key_path: Path, segment_bytes: int) -> None:
        self._path, self._key_path, self._segment_bytes = path, key_path, segment_bytes
        self.head, self._first, self._size = BEGIN, 1, 0
        self._file = self._lock = -1
        self._retry_at = 0.0
        self._key = secrets.token_bytes(chain.KEY_BYTES)  # until the log's own is read

    def digest_of(self, text: str) -> str:
        """The HMAC by which equal texts are found."""
        key = chain.derived(self._key, "text")
        return hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256").hex()

    def open(self) -> None:
        """Lock the log, check its last file, and go on where it ends.

        Raises:
            OSError: the disk. UserError: the log is not as it was left. AuditFailed: another process writes it.
        """
        self._hold()
        files = chain.segments(self._path)
        begun = bool(files) or chain.head_file(self._path).exists()
        self._key = self._own_key(begun)
        unvouched = self._find_end(files)
        torn = _cut_torn_tail(self._path)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size
        _sync_folder(self._path)
        found = {"torn_bytes": torn, "unvouched": unvouched}  # what a killed process left
        opened = {"event": "opened", "time": now(), "steersman": __version__}
        self.append([opened | {name: number for name, number in found.items() if number}])

    def _hold(self) -> None:
        if self._lock >= 0:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise AuditFailed(
                "another process writes this audit log",
                where=str(self._path),
                do="give each gateway a log of its own",
            ) from None

    def _own_key(self, begun: bool) -> bytes:
        key = chain.read_key(self._key_path)
        if key is None and begun:
            raise UserError(
                "the audit log is there, but its key is not",
                where=str(self._key_path),
                do=f"put the key back, or move {self._path.name}* away to begin a new log",
            )
        if key is None:
            key = secrets.token_bytes(chain.KEY_BYTES)
            made = os.open(self._key_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _write_all(made, key.hex().encode() + b"\n")
                os.fsync(made)
            finally:
                os.close(made)
        return key

    def _find_end(self, files: list[Path]) -> int:
        """Walk the last file to the head; how many records are newer than the signed one."""
        if len(files) > 1 and files[-1] == self._path and not self._path.stat().st_size:
            files = files[:-1]  # a process was killed just after it had put the full file aside
        before = _last_head(files[-2]) if len(files) > 1 else BEGIN
        file = chain.head_file(self._path)
        kept = chain.read_head(file.read_bytes(), self._key) if file.exists() else None
        walk = Chain([before], [kept.head] if kept else [])
        wrong = walk.walk(files[-1], torn_tail=True) if files else None
        what = str(wrong) if wrong else ""
        if not what and kept is None and (walk.records or file.exists()):
            what = f"{file}: the signed head is missing or was changed"
        if not what and kept and kept.head not in walk.met:
            what = f"{self._path}: record {kept.head.seq} was signed, and is not there"
        if not what and kept and kept.closed and walk.head != kept.head:
            what = f"{self._path}: records follow the signed end"
        if what:
            raise UserError(
                f"the audit log is not as it was left ({what})",
                where=str(self._path),
                do=f"look at it with `steersman guard verify`; move {self._path.name}* away to begin a new log",
            )
        self.head = walk.head
        self._first = walk.first if walk.first and files[-1] == self._path else walk.head.seq + 1
        return walk.head.seq - (kept.head.seq if kept else 0)

    def append(self, records: Sequence[Record]) -> None:
        """Write records, fsync, renew the head; all or none.

        Raises:
            OSError: the disk, or somebody has moved or changed the file.
        """
        if self._file < 0:
            self._reopen()
        self._intact()
        if self._size >= self._segment_bytes:
            self._put_aside()
        content, head = bytearray(), self.head
        for record in records:
            line, head = chain.line_of(record, head)
            content += line
        size, written = self._size, False
        try:
            _write_all(self._file, content)
            written = True
            os.fsync(self._file)
            self._size += len(content)
            self._intact()
            self._sign(head, closed=False)
        except OSError:
            self._size = size
            self._take_back(written)
            raise
        self.head = head

    def _take_back(self, written: bool) -> None:
        """Cut what was written for nothing. After a failed fsync nobody knows what is on the disk: it is read anew."""
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            written = True
        if written:
            os.close(self._file)
            self._file = -1

    def _reopen(self) -> None:
        now = time.monotonic()
        if now < self._retry_at:
            raise OSError(0, "its disk failed a moment ago")
        self._retry_at = now + RETRY_S
        self.open()

    def _intact(self) -> None:
        """The file of the log is still the one that is open, and nobody else has written to it."""
        here, there = os.fstat(self._file), os.stat(self._path)
        if (here.st_ino, here.st_dev) != (there.st_ino, there.st_dev):
            raise OSError(0, "its file was moved or deleted while it was open")
        if here.st_size != self._size:
            raise OSError(0, "its file was changed by somebody else while it was open")

    def _put_aside(self) -> None:
        aside = chain.segment_file(self._path, self._first)
        self._path.rename(aside)
        try:
            new = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError:
            aside.rename(self._path)
            raise
        os.close(self._file)
        self._file, self._size, self._first = new, 0, self.head.seq + 1
        _sync_folder(self._path)

    def _sign(self, head: Head, *, closed: bool) -> None:
        target = chain.head_file(self._path)
        temporary = target.with_name(target.name + ".tmp")
        made = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(made, chain.signed_head(self._key, head, time=now(), closed=closed))
            os.fsync(made)
        finally:
            os.close(made)
        temporary.replace(target)  # a killed process leaves the old one or this one

    def close(self) -> None:
        """Sign the end and let go of the log."""
        try:
            if self._file >= 0:
                self.append([{"event": "closed", "time": now()}])
                self._sign(self.head, closed=True)
        finally:
            self.release()

    def release(self) -> None:
        """Close the files."""
        for file in (self._file, self._lock):
            if file >= 0:
                os.close(file)
        self._file = self._lock = -1


def _write_all(file: int, content: bytes | bytearray) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]


def _sync_folder(path: Path) -> None:
    """A file's name is on the disk only when its folder is."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _cut_torn_tail(path: Path) -> int:
    """Cut a record that a killed process left half-written; the bytes of it."""
    if not path.exists():
        return 0
    size = whole = path.stat().st_size
    with path.open("rb") as file:
        while whole:
            start = max(0, whole - 2**16)
            file.seek(start)
            found = file.read(whole - start).rfind(b"\n")
            if found >= 0:
                whole = start + found + 1
                break
            whole = start
    if whole < size:
        os.truncate(path, whole)
    return size - whole


def _last_head(segment: Path) -> Head:
    """The head at the end of a full file; a wrong one is found by what follows it."""
    with segment.open("rb") as lines:
        last = deque(lines, maxlen=1).pop()
    record = chain.read_line(last.rstrip(b"\n"))
    return Head(record["seq"], record["digest"]) if record else BEGIN


def now() -> str:
    """The time in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
