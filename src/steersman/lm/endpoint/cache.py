"""Answers of an endpoint on disk, so that what was answered and paid for is never asked again.

One JSON Lines file, only ever appended to. A line holds the key of a request (sha256 of everything that affects its
reply), what it cost, and the reply; a broken attempt that was charged leaves a line without a reply. No line holds the
request itself or a key of the endpoint's.

A line is written in one piece under a lock, at once: `kill -9` loses none that was acknowledged, and what it leaves of
a line being written is cut off and counted by the next to come. Two processes may work with one file; each sees the
other's answers, and the first answer to a request holds for both. The disk itself is told to keep the lines once a
second, so a power cut may cost that second's.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steersman.errors import UserError
from steersman.lm.endpoint.replies import Reply, Usage
from steersman.store import disk_full_is_explained

SYNC_S = 1.0
AT_ONCE = 2**28  # bytes read at a time; no reply is nearly as long


class AnswerCache:
    """The answers in one file, made if it is not there.

    Attributes:
        paid: what all lines together cost, whoever asked.
        dropped: lines that could not be read, for example because their writer was killed; they are asked again.

    Raises:
        UserError: no file can be kept at this path.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.paid, self.dropped = path, Usage(), 0
        self._replies: dict[str, Reply] = {}
        self._read = 0  # bytes of the file that are known, always up to the end of a line
        self._synced = time.monotonic()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
            raise UserError(
                f"no answers can be kept here ({(error.strerror or '').lower()})",
                where=str(path),
                expected="a file that can be written, or the name of a new one",
            ) from error
        weakref.finalize(self, os.close, self._file)
        with self._alone():
            pass

    def get(self, key: str) -> Reply | None:
        """The stored reply, also one that another process wrote a moment ago."""
        if key not in self._replies:
            self._read_on()
        return self._replies.get(key)

    def put(self, key: str, reply: Reply) -> Reply:
        """Store a reply. The one that holds comes back: another process may have been quicker."""
        with self._alone():
            self._append({"key": key, "usage": asdict(reply.usage), "reply": reply.to_json()})
        return self._replies[key]

    def charge(self, key: str, usage: Usage) -> None:
        """Store what an attempt without a usable reply cost."""
        with self._alone():
            self._append({"key": key, "usage": asdict(usage)})

    def sync(self) -> None:
        """Wait until the disk has everything."""
        with disk_full_is_explained(self.path):
            os.fsync(self._file)
        self._synced = time.monotonic()

    # internals ──────────────────────────────────────────────────────────────────────────────────────────────────────
    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the file's lock, with every line read and no half-written one at its end."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            self._read_on()
            if self._size() > self._read:  # writers hold the lock, so whoever wrote this is dead
                os.truncate(self._file, self._read)
                self.dropped += 1
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _append(self, row: dict[str, Any]) -> None:
        rest = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        with disk_full_is_explained(self.path):
            while rest:
                rest = rest[os.write(self._file, rest) :]
        self._read_on()
        if time.monotonic() - self._synced > SYNC_S:
            self.sync()

    def _size(self) -> int:
        return os.fstat(self._file).st_size

    def _read_on(self) -> None:
        """Take in the whole lines that were written since."""
        while (unread := self._size() - self._read) > 0:
            lines = os.pread(self._file, min(unread, AT_ONCE), self._read)
            lines = lines[: lines.rfind(b"\n") + 1]
            if not lines:
                return
            self._read += len(lines)
            for line in lines.splitlines():
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            key, usage = row["key"], Usage(**row["usage"])
            reply = Reply.from_json(row["reply"], usage) if "reply" in row else None
        except (ValueError, KeyError, TypeError, AttributeError):
            self.dropped += 1
            return
        self.paid += usage
        if reply is not None:
            self._replies.setdefault(key, reply)
