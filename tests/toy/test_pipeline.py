"""The smoke recipe end to end: every stage, reuse, what a change runs again, and `kill -9` in six stages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from steersman import pipeline
from steersman.constitution import document
from steersman.errors import ModelError, RecipeError
from steersman.lm.adapters import load_policy
from steersman.recipe import load_recipe
from steersman.runs import open_run
from steersman.store import Run

from .conftest import SETTINGS, align_smoke

NAMES = [step.stage.name for step in pipeline.stages_of(load_recipe("smoke", SETTINGS))]
AFTER_RL = [
    "rl",
    "forms",
    "aligned_answers",
    "aligned_capability",
    "sense",
    "guard",
    "guarded",
    "redteam",
    "suites",
    "scores",
]


def ran(said: list[str]) -> list[str]:
    """The stages that were not reused."""
    return [line.split(":")[0].split()[1] for line in said if ": done in" in line]


def reason(said: list[str], stage: str) -> str:
    return next(line.partition(": ")[2] for line in said if f" {stage}: " in line)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ── a run ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_every_stage_and_the_report_are_there(finished: Path) -> None:
    assert {path.name for path in finished.iterdir() if path.is_dir()} == {*NAMES, "base", "report"}
    run = Run(finished)
    for name in NAMES:
        manifest = run.manifest(name)
        assert manifest is not None
        assert sorted(manifest["outputs"]) == [f for f in sorted(contents(finished / name)) if f != "manifest.json"]
        assert [e["event"] for e in run.events(name) if e["event"] in ("start", "finish")] == ["start", "finish"]
    assert (finished / "report" / "index.html").stat().st_size > 10_000
    answers = [
        json.loads(line) for line in (finished / "raw_answers" / "answers.jsonl").read_text("utf-8").splitlines()
    ]
    assert len(answers) == 2 * 10
    assert len((finished / "aligned_answers" / "answers.jsonl").read_text("utf-8").splitlines()) == 10
    counts = json.loads((finished / "data" / "counts.json").read_text())
    assert counts["train"] + counts["validation"] == 60
    assert counts["evaluation"] == 10


def test_a_run_says_what_made_it(finished: Path) -> None:
    note = json.loads((finished / "run.json").read_text())
    assert note["model"]["name"] == "tiny-random"
    assert note["packages"]["torch"] == torch.__version__
    again = load_recipe(finished / "recipe.yaml")
    assert again == load_recipe("smoke", SETTINGS)
    assert json.loads((finished / "constitution.json").read_text("utf-8"))["principles"]


def test_training_changed_the_model_and_lowered_its_loss(finished: Path) -> None:
    losses = [e["loss_nats_per_token"] for e in Run(finished).events("sft", "validation")]
    assert losses[-1] < losses[0]
    ids, base = torch.arange(3, 60)[None], finished / "base" / "model"
    with torch.no_grad():
        raw, tuned, preferred, reinforced = (
            load_policy(base, x)(input_ids=ids).logits
            for x in (None, finished / "sft", finished / "dpo", finished / "rl")
        )
    assert (raw - tuned).abs().max() > 1e-3
    assert (tuned - preferred).abs().max() > 1e-3
    selected = [e["step"] for e in Run(finished).events("rl", "selected")]
    assert ((preferred - reinforced).abs().max() > 1e-5) == (selected != [0])


def test_a_second_call_runs_nothing(copy: Run) -> None:
    before = {name: contents(copy.path / name) for name in [*NAMES, "base"]}
    said = align_smoke(copy.path)
    assert ran(said) == []
    assert said == [f"[{i}/{len(NAMES)}] {name}: reused" for i, name in enumerate(NAMES, start=1)]
    assert {name: contents(copy.path / name) for name in before} == before


# ── what a change runs again ─────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "stages", "why"),
    [
        (
            "capability.knowledge_items=3",
            ["raw_capability", "aligned_capability", "scores"],
            "changed: config.knowledge_items: 4 -> 3",
        ),
        (
            "answers.few_shot_examples=1",
            ["raw_answers", "aligned_answers", "sense", "guarded", "scores"],
            "changed: config.few_shot_examples: 2 -> 1",
        ),
        (
            "sft.epochs=0.5",
            ["sft", "reward_model", "reward_card", "holdout_reward_model", "cost_model", "dpo", *AFTER_RL],
            "changed: config.epochs: 1.0 -> 0.5",
        ),
        (
            "dpo.beta=0.3",
            ["dpo", *AFTER_RL],
            "changed: config.dpo.beta: 0.1 -> 0.3",
        ),
        (
            "reward_model.combine=worst",
            ["reward_model", "reward_card", "rl"],  # of one member, the worst is the mean: the same policy comes out
            "changed: config.combine: mean -> worst",
        ),
        ("dpo=null", AFTER_RL, "changed: inputs.sft: absent -> "),
        ("sft.checkpoint_every_steps=3", [], ""),  # it changes no output
        ("report.title=Another title", [], ""),
    ],
)
def test_a_change_runs_what_depends_on_it_and_says_why(setting: str, stages: list[str], why: str, copy: Run) -> None:
    if setting.startswith("answers"):  # aligned answers need no few-shot prompt, but share the configuration
        assert "aligned_answers" in stages
    said = align_smoke(copy.path, setting)
    assert ran(said) == stages
    if stages:
        assert reason(said, stages[0]).startswith(why)
        assert "inputs." in reason(said, stages[-1])


@pytest.mark.slow
def test_without_reinforcement_the_policy_before_it_answers(copy: Run) -> None:
    """It may answer as the one that had been selected; what reads nothing but equal outputs is there already then."""
    said = align_smoke(copy.path, "rl=null")
    assert ran(said)[:2] == AFTER_RL[1:3]
    assert set(ran(said)) <= set(AFTER_RL[1:])
    assert reason(said, AFTER_RL[1]).startswith("changed: inputs.dpo: absent -> ")


@pytest.mark.slow
def test_another_persona_changes_the_few_shot_baseline_alone(copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    load = document.load
    monkeypatch.setattr(
        document,
        "load",
        lambda name: load(name).model_copy(update={"persona": "You are a lighthouse keeper."}),
    )
    said = align_smoke(copy.path)
    # Of the models alone: the guard keeps the whole constitution in its file.
    assert ran(said) == ["raw_answers", "sense", "guard", "guarded", "redteam", "suites", "scores"]
    assert reason(said, "raw_answers").startswith("changed: inputs.persona: ")


def test_until_stops_after_a_stage(tmp_path: Path) -> None:
    said = align_smoke(tmp_path / "run", until="data")
    assert ran(said) == ["data"]
    assert {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()} == {"base", "data"}
    with pytest.raises(ModelError, match="no aligned model yet"):
        open_run(tmp_path / "run").export(tmp_path / "out")
    with pytest.raises(RecipeError, match="did you mean sft"):
        align_smoke(tmp_path / "run", until="stf")


# ── kill -9 ──────────────────────────────────────────────────────────────────────────────────────────────────────────
# For every line on its input the console script, except that it says where it is and stands still there, so that the
# kill hits that very place. Each is a copy of a process that has imported everything, which takes longer than the rest.
SCRIPT = """
import os, sys, time
from transformers import Gemma3ForCausalLM
from steersman import cli, pipeline, store
from steersman.evals import capability
from steersman.lm import transcript

append, seen = store.append_jsonl, [0]

def watched(path, rows):
    append(path, rows)
    here = rows[0].get("stage") == place and rows[0].get("event") == "train"
    seen[0] += here or path.parent.name == place + ".partial"
    if seen[0] > int(rows_before):
        print("here", os.getpid(), flush=True)
        time.sleep(600)

for module in (store, transcript, capability):
    module.append_jsonl = watched
for line in sys.stdin:
    place, rows_before, *sys.argv[1:] = line.rstrip().split("\\t")
    process = os.fork()
    if not process:
        cli.main()
    print("ended", os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""
Kill = Callable[[str, int], None]


@pytest.fixture
def kill_in(tmp_path: Path) -> Iterator[Kill]:
    """Start `steersman align` in a folder called ``run``, and kill it in a stage, after so many writes there."""
    folder = tmp_path / "run"
    words = ["align", "smoke", "--out", str(folder)] + [word for setting in SETTINGS for word in ("--set", setting)]
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=PIPE, stdout=PIPE, text=True, bufsize=1) as script:
        assert script.stdin is not None
        assert script.stdout is not None
        reading, writing = script.stdout, script.stdin

        def kill(stage: str, writes_before: int) -> None:
            print(stage, writes_before, *words, sep="\t", file=writing)
            said = reading.readline().split()
            assert said[0] == "here", said
            os.kill(int(said[1]), signal.SIGKILL)
            assert reading.readline().split() == ["ended", str(-signal.SIGKILL)]
            assert (folder / f"{stage}.partial").exists()
            assert not (folder / stage).exists()

        yield kill


@pytest.mark.slow
def test_kill_9_in_six_stages_changes_no_byte_of_the_result(finished: Path, kill_in: Kill, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kill_in("sft", 9)  # two checkpoints are written, and steps after them are lost
    kill_in("reward_model", 1)  # after its first checkpoint
    kill_in("dpo", 3)  # one checkpoint is written, and a step after it is lost
    kill_in("rl", 3)  # after its first checkpoint and its second evaluation
    kill_in("raw_answers", 0)  # the first condition is answered, the second is not
    kill_in("aligned_capability", 2)  # three batches are scored
    with (folder / "events.jsonl").open("a") as events:
        events.write('{"time": 1, "sta')  # what a kill in the middle of a line leaves
    said = align_smoke(folder)
    assert ran(said) == ["aligned_capability", "sense", "guard", "guarded", "redteam", "suites", "scores"]
    assert reason(said, "aligned_capability") == "continues where it stopped"
    setups = [json.loads(line) for line in (folder / "events.jsonl").read_text("utf-8").splitlines()]
    assert [e["resumed_at_step"] for e in setups if e["event"] == "setup"] == [0, 8, 0, 1, 0, 0, 0, 2, 0, 2]
    for name in NAMES:
        mine, theirs = contents(folder / name), contents(finished / name)
        assert {f: c for f, c in mine.items() if f != "manifest.json"} == {
            f: c for f, c in theirs.items() if f != "manifest.json"
        }
    for stage, loss in (("sft", "loss_nats_per_token"), ("dpo", "loss"), ("reward_model", "loss"), ("rl", "loss")):
        mine, theirs = ([(e["step"], e[loss]) for e in Run(f).events(stage, "train")] for f in (folder, finished))
        assert mine == theirs
    assert not [path.name for path in folder.iterdir() if path.suffix in (".partial", ".retired")]
    assert ran(align_smoke(folder)) == []


# ── the way out ──────────────────────────────────────────────────────────────────────────────────────────────────────
def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=torch.arange(3, 60)[None]).logits
    return found


def test_what_is_exported_loads_without_steersman(finished: Path, tmp_path: Path) -> None:
    expected = logits(load_policy(finished / "base" / "model", finished / "rl"))
    merged = AutoModelForCausalLM.from_pretrained(open_run(finished).export(tmp_path / "merged", merged=True))
    adapter = open_run(finished).export(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(finished / "base" / "model")
    for model in (merged, peft.PeftModel.from_pretrained(base, adapter)):
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_without_comparisons_the_fine_tuned_model_is_the_aligned_one(copy: Run) -> None:
    align_smoke(copy.path, "dpo=null", "rl=null")
    expected = logits(load_policy(copy.path / "base" / "model", copy.path / "sft"))
    torch.testing.assert_close(logits(load_policy(open_run(copy.path).base, open_run(copy.path).policy)), expected)


def test_a_run_that_was_moved_still_finds_its_base(copy: Run, tmp_path: Path) -> None:
    note = json.loads((copy.path / "run.json").read_text())
    note["model"]["path"] = str(tmp_path / "gone" / "base")
    (copy.path / "run.json").write_text(json.dumps(note))
    assert open_run(copy.path).base == copy.path / "base" / "model"
