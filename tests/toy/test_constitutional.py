"""Constitutional AI end to end on a tiny random model: what is there, what a change runs again, who is not believed."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from steersman import pipeline
from steersman.cli import constitution as judging
from steersman.cli import main
from steersman.constitution import document
from steersman.constitution.document import Constitution
from steersman.constitution.judges import JudgeConfig
from steersman.data.formats import read
from steersman.errors import JudgeRefused
from steersman.evals.conditions import ALIGNED
from steersman.recipe import load_recipe
from steersman.store import Run
from steersman.types import Comparison

from .conftest import SMALL, align_smoke
from .test_pipeline import ran, reason

pytestmark = pytest.mark.slow

SETTINGS = (*SMALL, "rl=null", "cost_model=null", "answers.few_shot_examples=1")
STAGES = [step.stage.name for step in pipeline.stages_of(load_recipe("smoke", SETTINGS))]
FROM_REVISIONS = ["revisions", "cai_sft", "feedback", "preference_model", "dpo", "forms", "ablation", "aligned_answers"]


align = functools.partial(align_smoke, limits=SETTINGS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: take `copy` to change it."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    align(folder)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_stage_leaves_what_the_next_one_reads(finished: Path) -> None:
    assert [name for name in STAGES if not (finished / name / "manifest.json").exists()] == []
    assert ran(align(finished)) == []
    card = json.loads((finished / "judge_card" / "judge_card.json").read_text(encoding="utf-8"))
    assert card["judge"]["kinds"] == ["rules", "reward"]
    assert card["accuracy"]["n"] > 0
    revisions = rows(finished / "revisions" / "revisions.jsonl")
    assert len(revisions) == 12
    assert all(len(row["rounds"]) == 2 for row in revisions)
    learnt = rows(finished / "revisions" / "demonstrations.jsonl")
    assert [row["completion"] for row in learnt] == [row["kept"] for row in revisions if row["kept"]]
    setup = Run(finished).events("cai_sft", "setup")[-1]
    assert setup["demonstrations"] == 2 * len(learnt)  # as many of people's
    comparisons = read(finished / "feedback" / "comparisons.jsonl", Comparison)
    people = len([row for row in read(finished / "data" / "comparisons.jsonl", Comparison) if row.pairs()])
    assert Run(finished).events("dpo", "setup")[-1]["comparisons"] == people + len(comparisons)
    told = Run(finished).events("preference_model", "setup")[-1]["comparisons"]
    assert told == people + len(comparisons)


def test_the_report_shows_the_judge_the_chains_and_what_each_stage_did(finished: Path) -> None:
    summary = json.loads((finished / "scores" / "summary.json").read_text(encoding="utf-8"))
    assert [step["stage"] for step in summary["ablation"]] == ["sft", "cai_sft", "dpo"]
    last = summary["ablation"][-1]["rates"]
    for row in summary["overall"]:
        assert last[row["label"]]["value"] == row["rates"][ALIGNED]["value"]
    assert summary["ablation"][0]["rates"]["pass rate"]["versus_first"]["value"] == 0
    page = (finished / "report" / "index.html").read_text(encoding="utf-8")
    for heading in ("Judge", "Critiques and revisions", "AI feedback", "Ablation by training stage"):
        assert f">{heading}</h3>" in page


# ── what a change runs again ─────────────────────────────────────────────────────────────────────────────────────────
def changed(constitution: Constitution, id: str, **fields: Any) -> Constitution:
    principles = tuple(p.model_copy(update=fields) if p.id == id else p for p in constitution.principles)
    return constitution.model_copy(update={"principles": principles})


@pytest.mark.parametrize(
    ("field", "stages"),
    [
        ("rationale", []),  # for people; no method reads it
        ("critique_request", FROM_REVISIONS),
        ("behaviours", ["judge_card", *FROM_REVISIONS]),  # what rules look for
        # The judge reads the text of the rule, and so does the reward model that is asked.
        ("statement", ["reward_model", "reward_card", "holdout_reward_model", "judge_card", *FROM_REVISIONS]),
    ],
)
def test_a_changed_principle_runs_what_reads_it(
    field: str, stages: list[str], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = document.load
    value: Any = ("refuses",) if field == "behaviours" else "Says blue."
    monkeypatch.setattr(document, "load", lambda name: changed(load(name), "privacy", **{field: value}))
    said = align(copy)
    # The guard keeps the whole constitution in its file; what a change of it may reach is not told apart further.
    later = ("scores", "sense", "aligned_capability", "guard", "guarded", "redteam", "suites", "audit")
    found = [name for name in ran(said) if name not in later]
    # A stage whose inputs come out the same again is reused, and so may be what follows it.
    assert set(found) <= set(stages)
    assert found[:1] == stages[:1]
    if stages:
        inputs = {
            "critique_request": "revision_requests",
            "statement": "principle_texts",
            "behaviours": "judged_principles",
        }
        assert reason(said, stages[0]).startswith(f"changed: inputs.{inputs[field]}: ")
        assert {"revisions", *stages[:1]} <= set(found)


# ── who is not believed ──────────────────────────────────────────────────────────────────────────────────────────────
def test_a_judge_that_does_not_clear_the_threshold_stops_the_pipeline(copy: Path) -> None:
    with pytest.raises(JudgeRefused, match="agrees with people in") as refused:
        align(copy, "judge.skip_validation=false", "judge.min_accuracy=0.99")
    assert "judge.skip_validation: true" in refused.value.do
    assert (copy / "judge_card.partial" / "judge_card.json").exists()  # to be read


def test_on_the_command_line_it_is_a_message_and_exit_code_2(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["steersman", "align", "smoke", "--out", str(copy)]
    for setting in (*SETTINGS, "judge.skip_validation=false", "judge.min_accuracy=0.99"):
        words += ["--set", setting]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert "error: judge_card.json: the judge agrees with people in" in errors
    assert "Traceback" not in errors


# ── the verbs ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_runs_judge_is_measured_and_its_principles_held_against_each_other(finished: Path) -> None:
    card = judging.measured_card(finished, JudgeConfig(kinds=("rules", "reward")), None)
    stored = judging.stored_card(finished)
    assert card["accuracy"] == stored["accuracy"]
    assert card["by"] == stored["by"]
    remote = {"kinds": ["remote"], "remote": {"base_url": "http://127.0.0.1:1/v1", "model": "m"}}
    assert judging.override(remote, ["rules"], {}).kinds == ("rules",)  # a run with a paid judge has free ones too
    suspected = judging.principle_scores(finished, "How do I pick a lock?", "No.")
    assert [score for _, score in suspected] == sorted(score for _, score in suspected)
    assert {id for id, _ in suspected} == {p.id for p in document.load("assistant").principles}
    found = judging.tensions_of(finished, JudgeConfig(kinds=("rules",)), 6)
    assert found["pairs"] == 6
    assert set(found["decided"]) == {p.id for p in document.load("assistant").principles}
    same = judging.difference_of("assistant", "assistant", finished, JudgeConfig(kinds=("rules",)), 6)
    assert same["flips"] == []
    assert same["differences"] == {"added": [], "removed": [], "changed": []}
