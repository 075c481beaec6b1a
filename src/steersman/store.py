"""Runs on disk: content-keyed stages, the manifest written last, one writer at a time, `events.jsonl`.

    runs/NAME/  recipe.yaml  run.json  events.jsonl  .lock
      STAGE/          manifest.json + outputs       a finished stage
      STAGE.partial/  pending.json + work so far    an unfinished one; the same key resumes it, another key discards it

A stage is identified by key = sha256(stage, version, config, digests of its inputs): the same key is reused, a
different one runs again and reports which field changed. A mismatch is never used with a warning.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from steersman.errors import DiskFull, RunBusy, RunError, UserError

MANIFEST = "manifest.json"
PENDING = "pending.json"


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text, for hashing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_text(text: str) -> str:
    """Sha256 of a text in UTF-8, hex."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_file(path: Path) -> str:
    """Sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write atomically: readers see the old file or the complete new one, also after a crash or on a full disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON of a value, with null for NaN and infinity, which JSON lacks: a figure that nothing was measured for."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_without_nan(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json_text(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of ours.

    Raises:
        RunError: it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(
            f"not valid JSON ({error})", where=str(path), do="delete this stage's folder and run the command again"
        ) from error


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON Lines file atomically."""
    write_text(path, "".join(json_text(row) + "\n" for row in rows))


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append lines that survive `kill -9`. A half-written last line is left for `read_jsonl` to drop."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json_text(row) + "\n" for row in rows))
        file.flush()
        os.fsync(file.fileno())


def read_jsonl(path: Path, *, torn_tail: bool = False) -> list[dict[str, Any]]:
    """All rows of a JSONL file of ours. ``torn_tail`` ignores a last line that a killed process left half-written."""
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows
    with path.open("rb") as file:
        for line in file:
            if torn_tail and not line.endswith(b"\n"):
                break
            try:
                rows.append(json.loads(line))
            except ValueError:
                raise RunError("not valid JSON", where=f"{path}:{len(rows) + 1}") from None
    return rows


def cut_torn_tail(path: Path) -> None:
    """Cut a half-written last line, so that the next append starts on a line of its own."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)


@contextmanager
def disk_full_is_explained(where: Path) -> Iterator[None]:
    """Turn "no space left" into a `DiskFull` that says what is kept and what to do."""
    try:
        yield
    except Exception as error:
        # safetensors raises a class of its own, without an errno.
        number = error.errno if isinstance(error, OSError) else errno.ENOSPC if "os error 28" in str(error) else None
        if number not in (errno.ENOSPC, errno.EDQUOT):
            raise
        existing = next(path for path in (where, *where.absolute().parents) if path.exists())
        free_mb = shutil.disk_usage(existing).free // 2**20
        raise DiskFull(
            f"the disk is full ({free_mb} MB free)",
            where=str(where),
            do="free some space and run the same command again; finished stages and the last checkpoint are kept",
        ) from error


# ── stages ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Artifact:
    """A finished stage's folder and the digests of the files in it."""

    path: Path
    outputs: Mapping[str, str]  # file name -> sha256

    @property
    def digest(self) -> str:
        """One digest of all outputs."""
        return sha256_text(canonical(self.outputs))

    def file(self, name: str) -> Path:
        """The path of one output."""
        return self.path / name


def folder_digest(folder: Path) -> str:
    """The digest of a finished stage's outputs, from its manifest."""
    return Artifact(folder, read_json(folder / MANIFEST)["outputs"]).digest


@dataclass(frozen=True)
class Identity:
    """Everything that a stage's outputs depend on: its key decides between reuse and a new run."""

    stage: str
    version: int | Mapping[str, int]  # of the code; by module where several are behind a stage
    config: Mapping[str, Any]
    inputs: Mapping[str, str]  # name -> digest

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that are hashed and written into the manifest."""
        return {"stage": self.stage, "version": self.version, "config": dict(self.config), "inputs": dict(self.inputs)}

    @property
    def key(self) -> str:
        """Sha256 of the fields."""
        return sha256_text(canonical(self.fields))

    def changed_since(self, manifest: Mapping[str, Any]) -> list[str]:
        """The fields that differ from a manifest's, as ``config.epochs: 2 -> 3``."""
        old, new = _flatten(manifest), _flatten(self.fields)
        wanted = [name for name in new | old if name.split(".")[0] in ("version", "config", "inputs")]
        return [
            f"{name}: {_short(old.get(name, 'absent'))} -> {_short(new.get(name, 'absent'))}"
            for name in wanted
            if old.get(name, "absent") != new.get(name, "absent")
        ]


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        flat: dict[str, Any] = {}
        for name, item in value.items():
            flat |= _flatten(item, f"{prefix}.{name}" if prefix else str(name))
        return flat
    return {prefix: value}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 20 else text[:12] + "…"


@dataclass
class StageFolder:
    """The folder of a running stage. Its files become the outputs when its `run` returns."""

    path: Path
    stage: str
    emit: Callable[..., None] = field(default=lambda **_: None)

    def file(self, name: str) -> Path:
        """The path of one file of the stage."""
        return self.path / name


class Run:
    """A run directory, opened for writing by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[Run]:
        """Lock the run; a second process gets `RunBusy` at once. The lock ends with its process.

        Raises:
            RunBusy: another process holds it. UserError: no folder can be made here.
        """
        with disk_full_is_explained(self.path):
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                lock = (self.path / ".lock").open("a+", encoding="utf-8")
            except (FileExistsError, NotADirectoryError, PermissionError) as error:
                raise UserError(
                    f"no run can be kept here ({(error.strerror or '').lower()})",
                    where=str(self.path),
                    expected="a new folder, or a run's folder",
                    do="choose another folder with --out",
                ) from error
            with lock:
                self._hold(lock)
                cut_torn_tail(self.path / "events.jsonl")
                for manifest in sorted(self.path.glob(f"*.partial/{MANIFEST}")):
                    self._publish(manifest.parent)
                for retired in self.path.glob("*.retired"):
                    shutil.rmtree(retired)
                yield self

    def _hold(self, lock: TextIO) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise RunBusy(
                f"another process (pid {holder}) is working in this run",
                where=str(self.path),
                do="wait for it, or choose another folder with --out",
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()

    # events ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def emit(self, **fields: Any) -> None:
        """Append one event: ``stage``, ``event`` and measurements, with the time in seconds since the epoch."""
        with disk_full_is_explained(self.path):
            append_jsonl(self.path / "events.jsonl", [{"time": round(time.time(), 3), **fields}])

    def events(self, stage: str | None = None, event: str | None = None) -> list[dict[str, Any]]:
        """Events in order. Steps repeated after a kill replace their first occurrence.

        A stage that starts with a new key discards its earlier events.
        """
        latest: dict[Any, dict[str, Any]] = {}
        keys: dict[Any, Any] = {}
        for number, row in enumerate(read_jsonl(self.path / "events.jsonl", torn_tail=True)):
            if row.get("event") == "start" and keys.get(row.get("stage")) != row.get("key"):
                keys[row.get("stage")] = row.get("key")
                latest = {name: old for name, old in latest.items() if old.get("stage") != row.get("stage")}
            if stage in (None, row.get("stage")) and event in (None, row.get("event")):
                step = row.get("step")
                latest[number if step is None else (row.get("stage"), row.get("event"), step)] = row
        return list(latest.values())

    # stages ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def finished(self, identity: Identity) -> Artifact | None:
        """The stored artefact of exactly this identity, with every output verified, or None."""
        manifest = self.manifest(identity.stage)
        if manifest is None or manifest["key"] != identity.key:
            return None
        folder = self.path / identity.stage
        for name, expected in manifest["outputs"].items():
            file = folder / name
            if not file.exists() or sha256_file(file) != expected:
                return None
        return Artifact(folder, manifest["outputs"])

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """The manifest of a finished stage."""
        path = self.path / stage / MANIFEST
        return read_json(path) if path.exists() else None

    def why(self, identity: Identity) -> str:
        """One clause that says why a stage must run: new, resumed, changed (and what), or damaged."""
        pending = self.path / f"{identity.stage}.partial" / PENDING
        if pending.exists() and read_json(pending).get("key") == identity.key:
            return "continues where it stopped"
        manifest = self.manifest(identity.stage)
        if manifest is None:
            return "new"
        changes = identity.changed_since(manifest)
        return "changed: " + "; ".join(changes) if changes else "an output is missing or damaged"

    def perform(self, identity: Identity, work: Callable[[StageFolder], None]) -> Artifact:
        """Run a stage in STAGE.partial/, write its manifest last, and move it into place in one rename."""
        partial = self.path / f"{identity.stage}.partial"
        pending = partial / PENDING
        if partial.exists() and not (pending.exists() and read_json(pending)["key"] == identity.key):
            shutil.rmtree(partial)
        start = time.perf_counter()
        with disk_full_is_explained(partial):
            partial.mkdir(exist_ok=True)
            earlier_s = 0.0
            if pending.exists():  # a killed attempt ran at least until its last write
                last_write = max(path.stat().st_mtime for path in partial.rglob("*"))
                earlier_s = read_json(pending)["seconds"] + last_write - pending.stat().st_mtime
            write_json(pending, {"key": identity.key, "seconds": earlier_s})
            self.emit(stage=identity.stage, event="start", key=identity.key)
            folder = StageFolder(partial, identity.stage, lambda **row: self.emit(stage=identity.stage, **row))
            work(folder)
            seconds = earlier_s + time.perf_counter() - start
            return self._commit(identity, partial, seconds)

    def _commit(self, identity: Identity, partial: Path, seconds: float) -> Artifact:
        for leftover in partial.rglob(".*.tmp"):  # of a killed `write_text`
            leftover.unlink()
        files = sorted(p for p in partial.rglob("*") if p.is_file() and p.name not in (PENDING, MANIFEST))
        outputs = {str(p.relative_to(partial)): sha256_file(p) for p in files}
        manifest = {
            "key": identity.key,
            **identity.fields,
            "outputs": outputs,
            "seconds": round(seconds, 2),
            "peak_mb": peak_memory_mb(),
        }
        write_json(partial / MANIFEST, manifest)
        target = self._publish(partial)
        self.emit(stage=identity.stage, event="finish", seconds=manifest["seconds"], peak_mb=manifest["peak_mb"])
        return Artifact(target, outputs)

    def _publish(self, partial: Path) -> Path:
        """Move a folder with its manifest into place. After a kill between two steps, `locked` repeats them."""
        target, retired = partial.with_suffix(""), partial.with_suffix(".retired")
        (partial / PENDING).unlink(missing_ok=True)
        if target.exists():
            shutil.rmtree(retired, ignore_errors=True)
            target.rename(retired)
        partial.rename(target)
        shutil.rmtree(retired, ignore_errors=True)
        return target


def find_run(path: str | Path) -> Run:
    """An existing run, for reading.

    Raises:
        UserError: the folder does not exist or holds no run.
    """
    run = Run(Path(path))
    if not (run.path / "run.json").exists():
        others = sorted(str(p.parent) for p in Path("runs").glob("*/run.json"))
        raise UserError(
            "no run here (run.json is missing)",
            where=str(run.path),
            expected=f"one of {', '.join(others)}" if others else "a folder written by `steersman align`",
            do="run `steersman align` first, or name the run's folder",
        )
    return run


def peak_memory_mb() -> int:
    """Peak resident memory of this process so far in MiB, not of one stage alone."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
