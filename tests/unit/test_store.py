"""Runs on disk: what is reused, what runs again and why; a kill, a full disk or a second process loses nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steersman import store
from steersman.errors import DiskFull, RunBusy, RunError, UserError
from steersman.store import (
    Artifact,
    Identity,
    Run,
    StageFolder,
    append_jsonl,
    canonical,
    cut_torn_tail,
    find_run,
    read_json,
    read_jsonl,
    write_json,
    write_text,
)


class Killed(BaseException):
    """Stands for `kill -9`: no handler of ours may catch it."""


def identity(**changes: Any) -> Identity:
    return Identity(**{"stage": "sft", "version": 1, "config": {"epochs": 2}, "inputs": {"data": "d1"}, **changes})


def writes(text: str) -> Callable[[StageFolder], None]:
    return lambda out: write_text(out.file("weights.txt"), text)


def refuses_to_run(out: StageFolder) -> None:
    raise AssertionError("this stage should have been reused")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    with Run(tmp_path / "run").locked() as opened:
        return opened


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical({"b": [1, None], "a": "é"}) == canonical({"a": "é", "b": [1, None]}) == '{"a":"é","b":[1,null]}'


def test_the_key_is_the_sha256_of_stage_version_config_and_inputs() -> None:
    # printf '%s' '{"config":{"epochs":2},"inputs":{"data":"d1"},"stage":"sft","version":1}' | sha256sum
    assert identity().key == "5212b451e7478f4bd7a619d991b307e03209058a4bd0cc4b72f5669bf4901476"


@pytest.mark.parametrize(
    "changes", [{"stage": "dpo"}, {"version": 2}, {"config": {"epochs": 3}}, {"inputs": {"data": "d2"}}, {"inputs": {}}]
)
def test_everything_that_an_output_depends_on_changes_the_key(changes: dict[str, Any]) -> None:
    assert identity(**changes).key != identity().key
    assert identity(config={"epochs": 2}).key == identity().key


# ── reuse ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_finished_stage_is_reused_with_its_digests(run: Run) -> None:
    assert run.finished(identity()) is None
    assert run.why(identity()) == "new"
    made = run.perform(identity(), writes("one"))
    assert run.finished(identity()) == made == Artifact(run.path / "sft", made.outputs)
    assert made.outputs == {"weights.txt": store.sha256_text("one")}
    assert made.file("weights.txt").read_text(encoding="utf-8") == "one"
    manifest = run.manifest("sft")
    assert manifest is not None
    assert manifest["key"] == identity().key
    assert manifest["peak_mb"] > 0
    assert sorted(path.name for path in run.path.iterdir()) == [".lock", "events.jsonl", "sft"]


def test_the_digest_of_an_artifact_follows_its_outputs(run: Run) -> None:
    first = run.perform(identity(), writes("one")).digest
    assert run.perform(identity(version=2), writes("one")).digest == first
    assert run.perform(identity(version=3), writes("two")).digest != first


def test_outputs_in_subfolders_are_part_of_the_artifact(run: Run) -> None:
    def work(out: StageFolder) -> None:
        out.file("adapter").mkdir()
        write_text(out.file("adapter/a.json"), "{}")

    assert list(run.perform(identity(), work).outputs) == ["adapter/a.json"]


def test_another_key_runs_again_and_replaces_the_old_outputs(run: Run) -> None:
    run.perform(identity(), lambda out: write_text(out.file("old.txt"), "old"))
    changed = identity(config={"epochs": 3})
    assert run.finished(changed) is None
    assert run.perform(changed, writes("two")).outputs.keys() == {"weights.txt"}
    assert not (run.path / "sft" / "old.txt").exists()
    assert run.finished(identity()) is None


def test_every_changed_field_is_named(run: Run) -> None:
    before = {"lora": {"rank": 4, "alpha": 8}, "limit": None, "digest": "a" * 64, "gone": 1}
    after = {"lora": {"rank": 4, "alpha": 16}, "limit": 5, "digest": "b" * 64, "fresh": None}
    run.perform(identity(config=before), writes("one"))
    clauses = run.why(identity(config=after, version=2, inputs={"data": "d2"})).removeprefix("changed: ").split("; ")
    assert sorted(clauses) == [
        "config.digest: aaaaaaaaaaaa… -> bbbbbbbbbbbb…",
        "config.fresh: absent -> None",
        "config.gone: 1 -> absent",
        "config.limit: None -> 5",
        "config.lora.alpha: 8 -> 16",
        "inputs.data: d1 -> d2",
        "version: 1 -> 2",
    ]


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_output_runs_the_stage_again(run: Run, damage: str) -> None:
    output = run.perform(identity(), writes("one")).file("weights.txt")
    output.write_text("onf", encoding="utf-8") if damage == "changed" else output.unlink()
    assert run.finished(identity()) is None
    assert run.why(identity()) == "an output is missing or damaged"
    assert run.perform(identity(), writes("one")) == run.finished(identity())


def test_a_damaged_manifest_is_named_and_not_used(run: Run) -> None:
    run.perform(identity(), writes("one"))
    (run.path / "sft" / "manifest.json").write_text('{"key": ', encoding="utf-8")
    with pytest.raises(RunError, match=r"sft/manifest\.json: not valid JSON") as error:
        run.finished(identity())
    assert "delete this stage's folder" in str(error.value)


# ── interruptions ────────────────────────────────────────────────────────────────────────────────────────────────────
def interrupted(run: Run, which: Identity, name: str = "half.txt") -> None:
    def work(out: StageFolder) -> None:
        write_text(out.file(name), "half")
        raise Killed

    with pytest.raises(Killed):
        run.perform(which, work)


def test_the_same_key_goes_on_with_what_was_there(run: Run) -> None:
    interrupted(run, identity())
    assert run.finished(identity()) is None
    assert run.why(identity()) == "continues where it stopped"

    def work(out: StageFolder) -> None:
        write_text(out.file("weights.txt"), out.file("half.txt").read_text(encoding="utf-8") + " and half")
        out.file("half.txt").unlink()

    assert run.perform(identity(), work).file("weights.txt").read_text(encoding="utf-8") == "half and half"


def test_another_key_discards_what_was_there(run: Run) -> None:
    interrupted(run, identity())
    assert run.perform(identity(version=2), writes("two")).outputs.keys() == {"weights.txt"}


def test_a_folder_without_pending_is_nobody_s_and_is_discarded(run: Run) -> None:
    (run.path / "sft.partial").mkdir()
    write_text(run.path / "sft.partial" / "foreign.txt", "?")
    assert run.perform(identity(), writes("one")).outputs.keys() == {"weights.txt"}


def test_half_written_temporary_files_do_not_become_outputs(run: Run) -> None:
    interrupted(run, identity(), ".half.txt.4711.tmp")
    assert run.perform(identity(), writes("one")).outputs.keys() == {"weights.txt"}


def test_the_seconds_of_a_killed_attempt_are_counted(run: Run) -> None:
    interrupted(run, identity())
    for file, age_s in (("pending.json", 100), ("half.txt", 40)):
        path = run.path / "sft.partial" / file
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age_s))
    interrupted(run, identity())
    run.perform(identity(), writes("one"))
    assert 55 < run.manifest("sft")["seconds"] < 100  # type: ignore[index]


STEPS = [
    "write the manifest",
    "drop pending.json",
    "set the old outputs aside",
    "put the new ones into place",
    "tidy up",
]


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_of_finishing_leaves_the_old_or_the_new_outputs(
    run: Run, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    old, new = identity(), identity(version=2)
    run.perform(old, writes("old"))
    unlink, rename, rmtree = Path.unlink, Path.rename, shutil.rmtree

    def kill_if(condition: bool) -> None:
        if condition:
            raise Killed

    def killing_write_json(path: Path, value: Any) -> None:
        kill_if(step == STEPS[0] and path.name == "manifest.json")
        write_json(path, value)

    def killing_unlink(path: Path, missing_ok: bool = False) -> None:
        kill_if(step == STEPS[1] and path.name == "pending.json")
        unlink(path, missing_ok=missing_ok)

    def killing_rename(path: Path, target: Path) -> Path:
        kill_if(path.name == {STEPS[2]: "sft", STEPS[3]: "sft.partial"}.get(step))
        return rename(path, target)

    def killing_rmtree(path: Path, **options: Any) -> None:
        kill_if(step == STEPS[4] and path.exists())
        rmtree(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_json", killing_write_json)
        patch.setattr(Path, "unlink", killing_unlink)
        patch.setattr(Path, "rename", killing_rename)
        patch.setattr(shutil, "rmtree", killing_rmtree)
        with pytest.raises(Killed):
            run.perform(new, writes("new"))
    with run.locked():
        if step == STEPS[0]:
            assert run.finished(old) is not None
            assert run.why(new) == "continues where it stopped"
            run.perform(new, writes("new"))
        finished = run.finished(new)
    assert finished is not None
    assert finished.outputs == {"weights.txt": store.sha256_text("new")}
    assert sorted(path.name for path in run.path.iterdir()) == [".lock", "events.jsonl", "sft"]
    assert sorted(path.name for path in finished.path.iterdir()) == ["manifest.json", "weights.txt"]


def test_a_kill_between_two_renames_does_not_leak_into_another_key(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def killing_rename(path: Path, target: Path) -> Path:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killing_rename)
        with pytest.raises(Killed):
            run.perform(identity(), lambda out: write_text(out.file("old.txt"), "old"))
    assert run.perform(identity(version=2), writes("new")).outputs.keys() == {"weights.txt"}


# ── one writer ───────────────────────────────────────────────────────────────────────────────────────────────────────
HOLDER = """
import sys
from pathlib import Path
from steersman.store import Run
with Run(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_second_process_gets_run_busy_and_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    command = [sys.executable, "-c", HOLDER, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunBusy, match=f"pid {holder.pid}") as error, run.locked():
            pass
        assert error.value.exit_code == 3
        holder.kill()
        holder.wait()
        with run.locked():
            assert (run.path / ".lock").read_text(encoding="utf-8") == str(os.getpid())


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_where_the_folder_should_be_is_the_user_s_mistake(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="no run can be kept here") as error, Run(tmp_path / "file" / below).locked():
        pass
    assert "--out" in str(error.value)


def test_open_run_names_the_runs_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no run here"):
        find_run("runs/mine")
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    write_json(tmp_path / "runs" / "mine" / "run.json", {})
    assert find_run("runs/mine").path == Path("runs/mine")
    with pytest.raises(UserError, match="expected: one of runs/mine"):
        find_run("runs/other")


# ── a full disk ──────────────────────────────────────────────────────────────────────────────────────────────────────
class SafetensorError(Exception):
    """Like that of safetensors: no OSError, no errno."""


@pytest.mark.parametrize(
    "fault",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_explained_and_earlier_stages_are_kept(run: Run, fault: Exception) -> None:
    earlier = run.perform(identity(), writes("one"))
    later = identity(stage="scores")

    def work(out: StageFolder) -> None:
        write_text(out.file("half.txt"), "half")
        raise fault

    with pytest.raises(DiskFull, match="the disk is full") as error:
        run.perform(later, work)
    assert error.value.exit_code == 3
    assert "run the same command again" in str(error.value)
    assert run.finished(identity()) == earlier
    assert run.finished(later) is None
    assert run.why(later) == "continues where it stopped"


def test_a_disk_that_is_full_while_a_file_is_written_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"old": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull), store.disk_full_is_explained(tmp_path / "not" / "there"):
        write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_outside_a_stage_is_explained_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull), Run(tmp_path / "run").locked() as run:
        write_text(run.path / "recipe.yaml", "name: x")


def test_other_faults_pass_through(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), store.disk_full_is_explained(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")


# ── events and JSON Lines ────────────────────────────────────────────────────────────────────────────────────────────
def test_repeated_steps_replace_their_first_occurrence_in_place(run: Run) -> None:
    run.emit(stage="sft", event="start", key="k")
    for step, loss in ((0, 3.0), (1, 2.0), (2, 9.9)):
        run.emit(stage="sft", event="train", step=step, loss=loss)
    run.emit(stage="sft", event="start", key="k")  # killed after step 2, resumed from the checkpoint of step 1
    for step, loss in ((2, 1.5), (3, 1.0)):
        run.emit(stage="sft", event="train", step=step, loss=loss)
    run.emit(stage="sft", event="validation", step=2, loss=7.0)
    run.emit(stage="dpo", event="train", step=2, loss=8.0)
    trained = [(row["step"], row["loss"]) for row in run.events("sft", "train")]
    assert trained == [(0, 3.0), (1, 2.0), (2, 1.5), (3, 1.0)]
    assert [row["loss"] for row in run.events("sft", "validation")] == [7.0]
    assert [row["loss"] for row in run.events("sft") if "loss" in row] == [3.0, 2.0, 1.5, 1.0, 7.0]
    assert [row["loss"] for row in run.events(event="train")] == [3.0, 2.0, 1.5, 1.0, 8.0]
    assert len(run.events("sft", "start")) == 2
    assert all(row["time"] > 1e9 for row in run.events())


def test_a_stage_with_another_key_forgets_the_steps_of_the_old_one(run: Run) -> None:
    def train(steps: int) -> Callable[[StageFolder], None]:
        def work(out: StageFolder) -> None:
            for step in range(steps):
                out.emit(event="train", step=step)

        return work

    run.perform(identity(), train(4))
    run.perform(identity(stage="dpo"), train(1))
    run.perform(identity(config={"epochs": 1}), train(2))
    assert [row["step"] for row in run.events("sft", "train")] == [0, 1]
    assert len(run.events("sft", "finish")) == 1
    assert len(run.events("dpo", "train")) == 1


def test_a_torn_last_event_is_ignored_and_cut_before_the_next(run: Run) -> None:
    path = run.path / "events.jsonl"
    run.emit(stage="a", event="x")
    with path.open("ab") as file:
        file.write(b'{"stage": "a", "event": "y')
    assert [row["event"] for row in run.events()] == ["x"]
    with run.locked():
        run.emit(stage="a", event="z")
    assert [row["event"] for row in run.events()] == ["x", "z"]


def test_a_torn_tail_is_only_forgiven_where_it_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, [{"a": "ä"}])
    with path.open("ab") as file:
        file.write('{"b": "\u00e4'.encode()[:-1])
    with pytest.raises(RunError, match=r"rows\.jsonl:2: not valid JSON"):
        read_jsonl(path)
    assert read_jsonl(path, torn_tail=True) == [{"a": "ä"}]
    cut_torn_tail(path)
    assert read_jsonl(path) == [{"a": "ä"}]
    path.write_bytes(b'{"torn')
    cut_torn_tail(path)
    assert path.read_bytes() == b""
    cut_torn_tail(tmp_path / "absent.jsonl")
    assert read_jsonl(tmp_path / "absent.jsonl") == []


def test_rows_survive_writing_and_reading_whatever_they_hold(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": "line\nbreak\u2028\x00 \U0001f600"}, {"n": 0.1, "none": None}]
    store.write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8").count("\n") == 2
    assert json.loads(canonical(rows)) == rows
