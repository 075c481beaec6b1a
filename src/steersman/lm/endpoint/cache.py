"""Replies of an endpoint on disk, so that none is paid for twice.

One JSON Lines file, only ever appended to. A line holds the key of a request (sha256 of everything that affects its
reply), its usage, and the reply; a failed attempt that was charged leaves a line without a reply. No line holds the
request itself or the endpoint's key.

A line is written in one piece under a lock, at once: `kill -9` loses none that was acknowledged, and a torn line is cut
off and counted by the next process. Two processes may share one file; each sees the other's replies, and the first
reply to a request holds for both. The file is synced to disk once a second, so a power cut may lose that second.
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
READ_BYTES = 2**28  # at a time; no reply is nearly as long


class AnswerCache:
    """The answers in one file, made if it is not there.

    Attributes:
        paid: the usage of all lines, also those of other processes.
        dropped: lines that could not be read, for example because their writer was killed.

    Raises:
        UserError: no file can be written at this path.
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
                f"replies cannot be cached here ({(error.strerror or '').lower()})",
                where=str(path),
                expected="a file that can be written, or the name of a new one",
            ) from error
        weakref.finalize(self, os.close, self._file)
        with self._locked():
            pass

    def get(self, key: str) -> Reply | None:
        """The stored reply, also one that another process wrote a moment ago."""
        if key not in self._replies:
            self._catch_up()
        return self._replies.get(key)

    def put(self, key: str, reply: Reply) -> Reply:
        """Store a reply and return the stored one: another process may have been quicker."""
        with self._locked():
            self._append({"key": key, "usage": asdict(reply.usage), "reply": reply.to_json()})
        return self._replies[key]

    def charge(self, key: str, usage: Usage) -> None:
        """Store the usage of an attempt without a usable reply."""
        with self._locked():
            self._append({"key": key, "usage": asdict(usage)})

    def sync(self) -> None:
        """Wait until everything is on disk."""
        with disk_full_is_explained(self.path):
            os.fsync(self._file)
        self._synced = time.monotonic()

    # internals ──────────────────────────────────────────────────────────────────────────────────────────────────────
    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the file's lock, with every line read and no torn one at its end."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            self._catch_up()
            if self._size() > self._read:  # writers hold the lock, so this one's is dead
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
        self._catch_up()
        if time.monotonic() - self._synced > SYNC_S:
            self.sync()

    def _size(self) -> int:
        return os.fstat(self._file).st_size

    def _catch_up(self) -> None:
        """Read the complete lines that were appended since."""
        while (unread := self._size() - self._read) > 0:
            lines = os.pread(self._file, min(unread, READ_BYTES), self._read)
            lines = lines[: lines.rfind(b"\n") + 1]
            if not lines:
                return
            self._read += len(lines)
            for line in lines.splitlines():
                self._parse(line)

    def _parse(self, line: bytes) -> None:
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
