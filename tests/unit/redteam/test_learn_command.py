"""`steersman redteam learn`, from a run and its findings to a run that learnt from them, and what it gained."""

from __future__ import annotations

from pathlib import Path

import pytest

from steersman import pipeline
from steersman.cli.redteam_learn import LEARN, RECIPE, recipe_of, redteam_learn
from steersman.errors import UserError
from steersman.recipe import Recipe, load_recipe
from steersman.redteam.finding import Finding
from steersman.runs import open_run
from steersman.stages.inputs import EVALUATION
from steersman.store import read_json, read_jsonl, write_jsonl

FAMILIES = {"encodings": "base64", "wrappers": "fiction"}
ONLY_SFT = (
    "dpo=null reward_model=null judge=null revisions=null cai_sft=null feedback=null preference_model=null "
    "ablation=false cost_model=null rl=null forms=null sense=null guard=null capability=null answers=null "
    "sft.epochs=0.2 examples.held_out_comparisons=0 examples.held_out_prompts=0 examples.limit_demonstrations=40"
)


def test_the_recipe_goes_on_from_the_policy_and_trains_as_before() -> None:
    recipe = load_recipe("laptop").model_dump(mode="json")
    found = recipe_of(recipe, compares=True)
    assert (found["model"], found["data"], found["name"]) == ("model", "data", "laptop-learn")
    assert found["sft"]["epochs"] == 1
    assert found["sft"]["optimiser"] == recipe["sft"]["optimiser"]
    assert found["dpo"] == {}
    assert recipe_of(recipe, compares=False)["dpo"] is None
    Recipe.model_validate({**found, "model": "tiny-random", "data": "assistant"})


def test_to_evaluate_what_was_not_learnt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing was learnt here"):
        redteam_learn(tmp_path / "run", evaluate=tmp_path)


@pytest.mark.slow
def test_findings_are_learnt_from_and_the_gain_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.align(load_recipe("smoke", ONLY_SFT.split()), tmp_path / "run", until="sft")
    run = open_run(tmp_path / "run")
    goals = [row for row in run[EVALUATION] if "harmful" in row.tags and isinstance(row.prompt, str)]

    def findings(target: str, *, success: bool) -> list[dict[str, object]]:
        return [
            Finding(
                attack=attack,
                family=family,
                principle=goal.principles[0],
                topic=goal.topic or "",
                goal=str(goal.prompt),
                target=target,
                seed=0,
                step=0,
                prompt=f"{family}: {goal.prompt}",
                response="First you do this, and then you do that.",
                success=success,
                judge="rules",
                judge_confidence=0.9,
            ).model_dump(mode="json")
            for goal in goals
            for family, attack in FAMILIES.items()
        ]

    (run.path / "attacked").mkdir()
    write_jsonl(run.path / "attacked" / "findings.jsonl", findings("aligned", success=True))
    redteam_learn(run.path, hold_out="wrappers", out=tmp_path / "learn")
    folder = tmp_path / "learn"
    rows = read_jsonl(folder / "data" / "demonstrations.jsonl")
    learnt = {row["topic"] for row in rows if row["source"] == "redteam" and "harmful" in row["tags"]}
    assert learnt
    assert not learnt & {row["topic"] for row in read_jsonl(folder / "data" / "evaluation.jsonl")}
    assert read_json(folder / LEARN)["config"]["hold_out"] == ["wrappers"]

    pipeline.align(load_recipe(folder / RECIPE), folder / "run", until="dpo")
    (folder / "run" / "attacked").mkdir()
    both = [*findings("raw", success=True), *findings("aligned", success=False)]
    write_jsonl(folder / "run" / "attacked" / "findings.jsonl", both)
    redteam_learn(run.path, evaluate=folder / "run", out=folder)
    said = capsys.readouterr().out
    assert "success goes from 100 % to 0 %" in said
    assert read_json(folder / "gain.json")["unseen"]["after"]["value"] == 0
