"""Bad input and faults at the command line: one message that says what to do, exit code 2 or 3, never a traceback."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from safetensors import SafetensorError

from steersman import cli, pipeline
from steersman.constitution.document import LIBRARY
from steersman.lm import tiny
from steersman.store import Run
from steersman.train import loop

from .conftest import SETTINGS

SCRIPT = str(Path(sys.executable).with_name("steersman"))
# Python is told to believe the locale, which by itself it does not since 3.7.
BELIEVE = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "100"}


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The one error message; what was said before it is progress."""
        assert "Traceback" not in self.err + self.out
        assert self.err.count("error: ") == 1, self.err
        return self.err[self.err.index("error: ") :]


Steersman = Callable[..., Said]


@pytest.fixture
def steersman(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Steersman:
    """The console script's function, called in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["steersman", *words])
        capfd.readouterr()
        try:
            cli.main()
            code: Any = 0
        except SystemExit as stop:
            code = stop.code
        return Said(int(code or 0), *capfd.readouterr())

    return call


def console_script(*words: str, cwd: Path, **environment: str) -> Said:
    done = subprocess.run(
        [SCRIPT, *words], cwd=cwd, env={**os.environ, **environment}, capture_output=True, timeout=120
    )
    return Said(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


def smoke(folder: str = "run") -> list[str]:
    return ["align", "smoke", "--out", folder, *(word for setting in SETTINGS for word in ("--set", setting))]


def project(folder: Path, **changes: str) -> Path:
    """A recipe, a constitution and data in a folder, with some lines replaced."""
    texts = {
        "recipe": "name: mine\nmodel: tiny-random\nconstitution: rules.yaml\ndata: rows\nsft:\n  epochs: 1\n",
        "rules": (LIBRARY / "assistant.yaml").read_text("utf-8"),
        "demonstrations": '{"prompt": "Why?", "completion": "Because."}\n' * 5,
        "evaluation": '{"prompt": "How?", "expect": ["complies"]}\n',
    } | changes
    (folder / "rows").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(texts["recipe"], "utf-8")
    (folder / "rules.yaml").write_text(texts["rules"], "utf-8")
    for name in ("demonstrations", "evaluation"):
        (folder / "rows" / f"{name}.jsonl").write_text(texts[name], "utf-8", errors="surrogateescape")
    return folder / "recipe.yaml"


# ── recipes ──────────────────────────────────────────────────────────────────────────────────────────────────────────
RECIPE = "name: mine\nmodel: tiny-random\nconstitution: rules.yaml\ndata: rows\nsft:\n"


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (RECIPE + "  epoch: 3\n", ["recipe.yaml:6", "epoch", "epochs"]),
        (RECIPE + "  epochs: many\n", ["recipe.yaml:6", "many"]),
        (RECIPE + "  epochs: -1\n", ["recipe.yaml:6", "-1"]),
        (RECIPE + "  seed: 99999999999999999999\n", ["recipe.yaml:6", "99999999999999999999"]),
        (RECIPE + "  seed: -1\n", ["recipe.yaml:6", "-1"]),
        (RECIPE + "  lora: {rank: 4, rnak: 5}\n", ["recipe.yaml:6", "rnak"]),
        (RECIPE + "  epochs: [1\n", ["recipe.yaml:"]),
        (RECIPE + "\tepochs: 1\n", ["recipe.yaml:6", "tab"]),
        ("", ["recipe.yaml:1", "empty"]),
        ("model: tiny-random\n", ["recipe.yaml", "name"]),
        (RECIPE.replace("tiny-random", "gemma-3-270") + "  epochs: 1\n", ["gemma-3-270m"]),
        (RECIPE.replace("tiny-random", "./nothing") + "  epochs: 1\n", ["./nothing"]),
        (RECIPE.replace("rules.yaml", "asistant") + "  epochs: 1\n", ["did you mean assistant"]),
        (RECIPE.replace("data: rows", "data: asistant") + "  epochs: 1\n", ["did you mean assistant"]),
    ],
)
def test_a_bad_recipe_is_named_with_its_line(
    recipe: str, words: list[str], steersman: Steersman, tmp_path: Path
) -> None:
    project(tmp_path / "p", recipe=recipe)
    said = steersman("align", "p/recipe.yaml", "--out", "run")
    assert said.code == 2
    for word in words:
        assert word in said.message
    assert len(said.message) < 1000
    assert not (tmp_path / "run" / "data").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["align", "lap-top"], "did you mean laptop"),
        (["align", "nowhere/recipe.yaml"], "nowhere/recipe.yaml"),
        (["align", "."], "."),
        (["align", "x" * 5000], "File name too long"),
        (["align", "smoke", "--set", "sft.epoch=3"], "sft.epochs"),
        (["align", "smoke", "--set", "sft.epochs"], "--set sft.epochs: not of the form key=value"),
        (["align", "smoke", "--set", "sft.epochs=["], "--set sft.epochs=["),
        (["align", "smoke", "--set", "sft.epochs=!!python/object:os.system x"], "--set sft.epochs"),
        (["align", "smoke", "--set", "sft.epochs=-1"], "--set sft.epochs=-1"),
        (["align", "smoke", "--set", "sft={}.x"], "--set sft="),
        (["align", "smoke", "--set", "sft.lora.rank.x=1"], "no setting"),
        (["align", "smoke", "--set", "dpo=null", "--set", "dpo.beta=1"], "add it with its defaults: --set dpo={}"),
        (["align", "smoke", "--set", "dpo.upsample={vage: 2}"], "did you mean vague"),
        (["align", "smoke", "--set", "sft.prefix.upsample={lawn: 2}"], "did you mean law"),
        (["align", "smoke", "--set", "dpo.vocabulary=compact", "--set", "sft.method=full"], "--set sft.method=full: "),
        (["align", "smoke", "--model", "gemma3-270m"], "gemma-3-270m"),
        (["align", "smoke", "--model", "\x00\ud83d"], "no model is called"),
        (["align", "smoke", "--constitution", "nothing.yaml"], "nothing.yaml"),
        (["align", "smoke", "--until", "sfft"], "did you mean sft"),
        (["show", "runs/none"], "no run here"),
        (["chat", "runs/none", "Hi"], "no run here"),
        (["export", "runs/none", "--to", "x"], "no run here"),
        (["report", "runs/none"], "no run here"),
        (["diff", "runs/none", "runs/none"], "no run here"),
        (["constitution", "check", "nothing.yaml"], "nothing.yaml"),
        (["data", "check", "nothing"], "nothing"),
    ],
)
def test_words_that_name_nothing(words: list[str], expected: str, steersman: Steersman) -> None:
    said = steersman(*words)
    assert said.code == 2
    assert expected in said.message
    assert len(said.message) < 1000
    assert not list(Path().glob("runs/*/data")), "a stage was run before the error was found"


# ── constitution and data ────────────────────────────────────────────────────────────────────────────────────────────
def test_a_constitution_with_a_duplicate_id(steersman: Steersman, tmp_path: Path) -> None:
    shipped = (LIBRARY / "assistant.yaml").read_text("utf-8")
    ids = [line.split("id:")[1].strip() for line in shipped.splitlines() if line.strip().startswith("- id:")]
    project(tmp_path / "p", rules=shipped.replace(f"- id: {ids[1]}\n", f"- id: {ids[0]}\n", 1))
    lines = (tmp_path / "p" / "rules.yaml").read_text("utf-8").splitlines()
    second = [i for i, line in enumerate(lines, start=1) if line.strip() == f"- id: {ids[0]}"][1]
    for command in (["align", "p/recipe.yaml"], ["constitution", "check", "p/rules.yaml"]):
        said = steersman(*command)
        assert said.code == 2
        assert f"rules.yaml:{second}" in said.message
        assert ids[0] in said.message


@pytest.mark.parametrize(
    ("file", "rows", "words"),
    [
        ("demonstrations", '{"prompt": "A?", "completion": "B."}\n{"prompt": "C?"}\n', ["line 2", "completion"]),
        ("demonstrations", '{"prompt": "A?", "completion": ""}\n', ["line 1", "completion"]),
        ("demonstrations", '\n\n{"prompt": "A?", "completion": \n', ["line 3", "JSON"]),
        ("demonstrations", '{"prompt": "A\udcff?", "completion": "B"}\n', ["demonstrations.jsonl:1", "UTF-8"]),
        ("demonstrations", '["A?"]\n', ["line 1"]),
        ("demonstrations", "", ["no demonstrations"]),
        ("evaluation", '{"prompt": "Why?", "expect": ["complies"]}\n', ["also in the training data", "Why?"]),
        ("evaluation", '{"prompt": "How?", "expect": ["complys"]}\n', ["line 1", "complies"]),
    ],
)
def test_a_bad_row_is_named_with_its_line(
    file: str, rows: str, words: list[str], steersman: Steersman, tmp_path: Path
) -> None:
    project(tmp_path / "p", **{file: rows})
    said = steersman("align", "p/recipe.yaml", "--out", "run")
    assert said.code == 2
    for word in words:
        assert word in said.message


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_checkpoint_of_another_model(copy: Run, steersman: Steersman, tmp_path: Path) -> None:
    shutil.rmtree(copy.path / "base" / "model")
    tiny.build(["other text"], copy.path / "base" / "model", seed=1)
    note = json.loads((copy.path / "run.json").read_text())
    note["model"]["path"] = str(copy.path / "base" / "model")
    (copy.path / "run.json").write_text(json.dumps(note))
    for words in (["chat", str(copy.path), "Hi"], ["export", str(copy.path), "--to", "out", "--merged"]):
        said = steersman(*words)
        assert said.code == 2
        assert "belongs to another base model" in said.message
    assert not (tmp_path / "out").exists()


def test_an_export_overwrites_nothing(finished: Path, steersman: Steersman, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years")
    for target in ("out", "out/thesis.tex"):
        said = steersman("export", str(finished), "--to", target)
        assert said.code == 2
        assert target in said.message
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years"


@pytest.mark.parametrize("target", ["file", "file/below", "locked/run"])
def test_a_run_that_cannot_be_written(target: str, steersman: Steersman, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "locked").mkdir(mode=0o500)
    if target == "locked/run" and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    said = steersman(*smoke(target))
    assert said.code in (2, 3)
    assert target.split("/")[0] in said.message
    assert (tmp_path / "file").read_text() == "mine"


def test_a_second_process_in_the_same_run(finished: Path, steersman: Steersman, copy: Run) -> None:
    before = (copy.path / "events.jsonl").read_bytes()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(copy.path)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        said = steersman(*smoke(str(copy.path)))
        assert said.code == 3
        assert f"pid {holder.pid}" in said.message
        assert (copy.path / "events.jsonl").read_bytes() == before
        holder.kill()
    assert steersman(*smoke(str(copy.path))).code == 0  # the lock died with its process


HOLD = """
import sys
from pathlib import Path
from steersman.store import Run

with Run(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


# ── a full disk ──────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.slow
def test_a_disk_that_fills_up_anywhere_loses_nothing(
    finished: Path, steersman: Steersman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first stage, in each of several, and while the report is written; then the same command finishes."""
    honest = os.fsync
    places = ["recipe.yaml", "train.jsonl", "answers.jsonl", "scored.partial.jsonl", "summary.json", "index.html"]
    for place in places:

        def fails(handle: int, place: str = place) -> None:
            name = os.readlink(f"/proc/self/fd/{handle}")
            if place in Path(name).name:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
            honest(handle)

        monkeypatch.setattr(os, "fsync", fails)
        said = steersman(*smoke())
        assert (place, said.code) == (place, 3)
        assert "the disk is full" in said.message
    monkeypatch.setattr(os, "fsync", honest)

    def no_space(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    shutil.rmtree(tmp_path / "run" / "sft")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_file", no_space)
        said = steersman(*smoke())
    assert said.code == 3
    assert "the disk is full" in said.message
    said = steersman(*smoke())
    assert said.code == 0
    for file in ("sft/adapter/adapter_model.safetensors", "aligned_answers/answers.jsonl", "scores/summary.json"):
        assert (tmp_path / "run" / file).read_bytes() == (finished / file).read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting needs root on Linux")
def test_a_really_full_disk(finished: Path, steersman: Steersman, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        said = steersman(*smoke("disk/run"))
        assert said.code == 3
        assert "the disk is full" in said.message
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert steersman(*smoke("disk/run")).code == 0
        adapter = "sft/adapter/adapter_model.safetensors"
        assert (disk / "run" / adapter).read_bytes() == (finished / adapter).read_bytes()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


# ── prompts ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("prompt", ["", " \n\t"])
def test_an_empty_prompt(prompt: str, finished: Path, steersman: Steersman) -> None:
    said = steersman("chat", str(finished), prompt)
    assert said.code == 2
    assert "the prompt is empty" in said.message


@pytest.mark.parametrize(
    "prompt",
    [
        "\x07\x1b[2J\x1b]0;title\x07 bell?",
        "你好，世界? مرحبا नमस्ते 👩‍👩‍👧‍👦",
        "half \ud83d an emoji",
        "[bold]markup[/bold] <eos> {x} %s",
        "-" * 3,
    ],
)
def test_strange_prompts_are_answered(prompt: str, finished: Path, steersman: Steersman) -> None:
    said = steersman("chat", str(finished), "--compare", "--max-new-tokens", "3", "--", prompt)
    assert said.code == 0
    assert "Traceback" not in said.err
    assert "error" not in said.err
    assert said.out.startswith("raw: ")
    assert "\naligned: " in said.out


def test_an_endless_prompt_is_cut_and_says_so(finished: Path, steersman: Steersman) -> None:
    said = steersman("chat", str(finished), "--max-new-tokens", "3", "How do I cook rice? " * 5000)
    assert said.code == 0
    assert "tokens of the conversation were cut" in said.err
    assert "Traceback" not in said.err


def test_control_characters_of_a_model_do_not_reach_the_terminal(
    finished: Path, steersman: Steersman, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steersman.lm.chat_format.ChatFormat.decode", lambda *_: "a\x1b[2J\x07\x00b\nc")
    said = steersman("chat", str(finished), "--max-new-tokens", "2", "Hi")
    assert said.code == 0
    assert not {"\x1b", "\x07", "\x00"} & set(said.out)
    assert "b\nc" in said.out


def test_the_keyboard_stops_it_with_a_word(steersman: Steersman, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "align", stopped)
    said = steersman(*smoke())
    assert said.code == 130
    assert said.err.strip() == "Stopped. Repeat the command to resume."


# ── the installed script, in locales that cannot write what it says ──────────────────────────────────────────────────
@pytest.mark.slow
def test_the_c_locale(finished: Path, tmp_path: Path) -> None:
    project(tmp_path / "p", recipe="name: mine\nmödel: tiny-random\n")
    environment = {**BELIEVE, "LC_ALL": "", "LANG": "C"}
    bad = console_script("align", "p/recipe.yaml", cwd=tmp_path, **environment)
    assert bad.code == 2
    assert "recipe.yaml:2" in bad.message
    words = ("chat", str(finished), "--max-new-tokens", "3", "Zürich 你好 👍?")
    said = console_script(*words, cwd=tmp_path, **environment)
    assert said.code == 0
    assert "Traceback" not in said.err


@pytest.mark.slow
def test_a_locale_of_another_age(finished: Path, tmp_path: Path) -> None:
    shown = console_script("show", str(finished), cwd=tmp_path, **BELIEVE, LC_ALL="en_US.ISO-8859-1")
    assert shown.code == 0
    assert "Traceback" not in shown.err
    assert "pass rate" in shown.out


def test_help_names_every_verb(tmp_path: Path) -> None:
    said = console_script("--help", cwd=tmp_path)
    assert said.code == 0
    for verb in ("init", "align", "show", "diff", "chat", "report", "export", "constitution", "data"):
        assert verb in said.out
