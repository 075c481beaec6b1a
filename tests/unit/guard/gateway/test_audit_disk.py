"""Writing the audit log: at once, on a disk that is full, slow, gone, or under a process that is killed."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from audit_logs import ALLOW, rows, some
from steersman.errors import UserError
from steersman.guard.gateway import audit_file
from steersman.guard.gateway.audit import AuditFailed, AuditLog
from steersman.guard.gateway.audit_chain import (
    head_file,
    segments,
    verify,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_two_processes_cannot_write_one_log(path: Path) -> None:
    log = AuditLog(path)
    with pytest.raises(AuditFailed, match="another process"):
        AuditLog(path)
    code = (
        f"from pathlib import Path; from steersman.guard.gateway.audit import AuditLog; AuditLog(Path({str(path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another process writes this audit log" in done.stderr
    log.close()
    AuditLog(path).close()
    assert verify(path).exit_code == 0


def test_many_at_once_share_one_sync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk holds up neither the event loop nor each answer in turn."""
    syncs = 0

    def slow(file: int) -> None:
        nonlocal syncs
        syncs += 1
        time.sleep(0.05)

    async def work(log: AuditLog) -> int:
        ticks = 0
        entry = log.entry(ALLOW, request="r", tenant="t", model="m", side="input", ms=0)
        tasks = [asyncio.create_task(log.record(entry)) for _ in range(200)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0.001)
            ticks += 1
        assert all(task.result() for task in tasks)
        return ticks

    log = AuditLog(path)
    monkeypatch.setattr(audit_file.os, "fsync", slow)
    ticks = asyncio.run(work(log))
    monkeypatch.undo()
    log.close()
    assert syncs <= 8  # two of each commit: the log's and the head's
    assert ticks > 2 * syncs  # the loop ran while the disk did not answer
    assert len(rows(path)) == 202
    assert verify(path).exit_code == 0


def test_a_record_counts_when_it_is_on_the_disk_and_the_head_after_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(path)
    done = []
    names = {"log": os.stat(path).st_ino}
    monkeypatch.setattr(audit_file.os, "fsync", lambda file: done.append(os.fstat(file).st_ino == names["log"]))
    some(log, 1)
    assert done == [True, False]
    log.close()


def test_a_client_that_goes_away_takes_no_record_with_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(path)
    real = os.fsync
    monkeypatch.setattr(audit_file.os, "fsync", lambda file: (time.sleep(0.05), real(file)))

    async def cancelled() -> None:
        entry = log.entry(ALLOW, request="gone", tenant="t", model="m", side="input", ms=0)
        task = asyncio.create_task(log.record(entry))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    log.close()
    assert rows(path)[1]["request"] == "gone"


# ── faults of the disk ───────────────────────────────────────────────────────────────────────────────────────────────
def failing(name: str, monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOSPC, half: bool = False) -> None:
    real = getattr(os, name)

    def fail(file: int, *rest: Any) -> Any:
        if half and len(rest[0]) > 10:
            return real(file, rest[0][:10])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(audit_file.os, name, fail)


@pytest.mark.parametrize(("name", "half"), [("write", False), ("write", True), ("fsync", False)])
@pytest.mark.parametrize("on_failure", ["refuse", "continue"])
def test_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch, name: str, half: bool, on_failure: Any) -> None:
    """No record counts that is not on the disk, none stays half; when there is space again, the chain goes on."""
    monkeypatch.setattr(audit_file, "RETRY_S", 0.0)
    log = AuditLog(path, on_failure=on_failure)
    some(log, 2)
    failing(name, monkeypatch, half=half)
    entry = log.entry(ALLOW, request="lost", tenant="t", model="m", side="input", ms=0)
    for _ in range(3):
        if on_failure == "refuse":
            with pytest.raises(AuditFailed, match="no space left"):
                log.record_now(entry)
        else:
            assert log.record_now(entry) is False
    assert log.status()["state"] == ("failed" if on_failure == "refuse" else "degraded")
    assert log.status()["lost"] == 3
    monkeypatch.undo()
    some(log, 1)
    assert log.status()["state"] == "ok"
    log.close()
    assert "lost" not in [row.get("request") for row in rows(path)]
    assert {"event": "gap", "lost": 3}.items() <= next(row for row in rows(path) if row["event"] == "gap").items()
    assert verify(path).exit_code == 0


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """The kernel's own limit on a file's size, in a process of its own, stands for a full disk."""
    code = f"""
import resource, signal
from pathlib import Path
from steersman.guard.gateway.audit import AuditFailed, AuditLog
from steersman.guard.verdict import Ruling
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = AuditLog(Path({str(tmp_path / "audit.jsonl")!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
done = failed = 0
for number in range(40):
    try:
        log.record_now(log.entry(Ruling("allow", None), request="r", tenant="t", model="m", side="input", ms=0))
        done += 1
    except AuditFailed:
        failed += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.close()
print(done, failed)
"""
    done, failed = map(int, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split())
    assert done + failed == 40
    assert min(done, failed) > 3
    report = verify(tmp_path / "audit.jsonl")
    assert report.exit_code == 0
    assert [row["event"] for row in rows(tmp_path / "audit.jsonl")].count("ruling") == done


def test_a_file_that_vanished_or_was_changed_is_noticed_at_the_next_record(path: Path) -> None:
    log = AuditLog(path)
    entry = log.entry(ALLOW, request="r", tenant="t", model="m", side="input", ms=0)
    path.rename(away := path.with_name("away"))
    with pytest.raises(AuditFailed, match="no such file"):
        log.record_now(entry)
    path.write_bytes(away.read_bytes())  # a copy is not the file
    with pytest.raises(AuditFailed, match="moved or deleted"):
        log.record_now(entry)
    away.replace(path)
    assert log.record_now(entry)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(AuditFailed, match="changed by somebody else"):
        log.record_now(entry)
    log.close()
    assert verify(path).exit_code == 1
    with pytest.raises(UserError, match="not as it was left"):
        AuditLog(path)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default nothing starts; told to go on, it does, says so, and begins the log when it can."""
    monkeypatch.setattr(audit_file, "RETRY_S", 0.0)
    (folder := tmp_path / "logs").write_text("no folder")
    with pytest.raises(UserError, match="cannot be written"):
        AuditLog(folder / "audit.jsonl")
    log = AuditLog(folder / "audit.jsonl", on_failure="continue")
    entry = log.entry(ALLOW, request="r", tenant="t", model="m", side="input", ms=0)
    assert log.record_now(entry) is False
    assert log.status()["state"] == "degraded"
    folder.unlink()
    assert log.record_now(entry) is True
    log.close()
    assert rows(folder / "audit.jsonl")[1]["event"] == "gap"


def test_a_disk_that_hangs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(path, patience_s=0.05)
    release = threading.Event()
    monkeypatch.setattr(audit_file.os, "fsync", lambda file: release.wait(5))
    with pytest.raises(AuditFailed, match="did not answer within"):
        asyncio.run(log.record(log.entry(ALLOW, request="r", tenant="t", model="m", side="input", ms=0)))
    release.set()
    log.close()


def test_a_record_that_is_no_json_fails_alone_and_at_once(path: Path) -> None:
    log = AuditLog(path)
    with pytest.raises(AuditFailed, match="TypeError"):
        log.record_now({"event": object()})
    some(log, 1)
    log.close()
    with pytest.raises(AuditFailed, match="closed"):
        log.record_now({"event": "late"})
    assert verify(path).exit_code == 0


@pytest.mark.parametrize("torn", [1, 40])
def test_a_killed_process_leaves_a_log_that_goes_on(path: Path, torn: int) -> None:
    """Killed in the middle of a record, and between the log and its head: the next one says what it found."""
    log = AuditLog(path)
    some(log, 2)
    old_head = head_file(path).read_bytes()
    some(log, 1)
    log._file.release()  # as a kill does: no last record, no closed head
    with path.open("ab") as file:
        file.write(b"x" * torn)
    head_file(path).write_bytes(old_head)
    some(again := AuditLog(path), 1)
    again.close()
    reopened = [row for row in rows(path) if row["event"] == "opened"][1]
    assert (reopened["torn_bytes"], reopened["unvouched"]) == (torn, 1)
    assert verify(path).exit_code == 0


@pytest.mark.slow
def test_kill_at_any_moment_loses_no_acknowledged_record(path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from steersman.guard.gateway.audit import AuditLog
from steersman.guard.verdict import Ruling
log = AuditLog(Path({str(path)!r}), segment_bytes=3000)
number = 0
while True:
    number += 1
    request = f"{{sys.argv[1]}}-{{number}}"
    log.record_now(log.entry(Ruling("allow", None), request=request, tenant="t", model="m", side="input", ms=0))
    print(number, flush=True)
"""
    acknowledged = set()
    for attempt in range(8):
        command = [sys.executable, "-c", code, str(attempt)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.03 * attempt)
            process.kill()
            numbers = [1, *(int(line) for line in process.stdout if line.endswith("\n"))]
        acknowledged |= {f"{attempt}-{number}" for number in numbers}
    AuditLog(path).close()
    found = {row["request"] for file in segments(path) for row in rows(file) if row["event"] == "ruling"}
    assert acknowledged <= found
    assert len(acknowledged) > 20
    assert verify(path).exit_code == 0
