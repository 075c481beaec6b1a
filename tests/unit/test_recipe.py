"""Recipes: settings in any order, relations between keys at the line where they were written, former names."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from steersman import pipeline, recipe
from steersman.errors import RecipeError
from steersman.plan import plan
from steersman.recipe import RENAMED, Recipe, load_recipe

HEAD = "name: mine\nmodel: tiny-random\nconstitution: assistant\ndata: assistant\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(HEAD + text, encoding="utf-8")
    return path


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "settings",
    [
        ("feedback=null", "preference_model=null"),
        ("rl=null", "reward_model=null", "judge=null", "revisions=null", "cai_sft=null", "feedback=null",
         "preference_model=null")[:4],
        ("reward_model={}", "reward_model.epochs=2", "reward_model.optimiser.learning_rate=0.01"),
        ("rl={algorithm: grpo}", "rl.steps=3", "rl.rollouts.answers=5"),
        ("judge={kinds: [rules]}", "judge.seed=4"),
        ("sft.vocabulary=full", "sft.method=full"),
    ],
)  # fmt: skip
def test_the_order_of_settings_does_not_matter(settings: tuple[str, ...]) -> None:
    read = [load_recipe("smoke", order) for order in itertools.permutations(settings)]
    assert all(one == read[0] for one in read)


def test_a_new_section_keeps_its_own_defaults() -> None:
    """Those of the section, not those of the type of a nested one."""
    changed = load_recipe("smoke", ["dpo={}", "dpo.optimiser.learning_rate=0.5"])
    assert changed.dpo is not None
    assert (changed.dpo.optimiser.learning_rate, changed.dpo.optimiser.warmup_ratio) == (0.5, 0.1)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("sft.epochs=-1", "--set sft.epochs=-1: sft, epochs: found the number -1; expected greater than or equal to 0"),
        ("rl.steps=0", "--set rl.steps=0: "),
        ("rl.setps=1", "no setting 'rl.setps'"),
        ("judge.kinds=[remote]", "--set judge.kinds=[remote]: "),
    ],
)
def test_a_wrong_setting_is_named(setting: str, expected: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe("smoke", ["sft.batch_size=4", setting, "dpo.beta=0.2"])
    assert expected in str(refused.value)
    assert "value error" not in str(refused.value)


# ── relations between keys ───────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("report: {title: T}\ncai_sft: {}\n", 6, "cai_sft needs revisions"),
        ("sft: {method: full}\ndpo:\n  beta: 0.1\n  vocabulary: compact\n", 8, "dpo.vocabulary: compact needs"),
        ("dpo: {vocabulary: compact}\nsft:\n  method: full\n", 7, "dpo.vocabulary: compact needs"),
        ("hardware: {dtype: bfloat16}\nsft: {method: full}\n", 6, "hardware.dtype"),
        ("examples: {held_out_comparisons: 0}\nreward_model: {}\n", 6, "held-out comparisons"),
        ("examples: {held_out_comparisons: 0.2}\nrl: {algorithm: rloo}\n", 6, "rl needs reward_model"),
        ("feedback: {}\n", 5, "feedback needs judge"),
        ("preference_model: {}\n", 5, "preference_model needs feedback"),
    ],
)
def test_a_conflict_names_the_line_of_the_key_for_align_and_for_the_plan(
    text: str, line: int, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, text)
    for verb in (pipeline.align, plan):
        with pytest.raises(RecipeError) as refused:
            verb(load_recipe(path), tmp_path / "run")
        assert str(refused.value).startswith(f"{path}:{line}: ")
        assert message in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_conflict_with_a_setting_names_the_setting(tmp_path: Path) -> None:
    path = write(tmp_path, "dpo: {vocabulary: compact}\n")
    with pytest.raises(RecipeError, match=r"--set sft\.method=full: dpo\.vocabulary"):
        pipeline.prepare(load_recipe(path, ["sft.method=full"]))


# ── former names ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_former_keys_are_answered_with_their_new_names(tmp_path: Path) -> None:
    path = write(tmp_path, "sft:\n  epochs: 1\n  opening: {tokens: 8, passes: {harmful: 2}}\nrl: {most_varied: 3}\n")
    with pytest.raises(RecipeError) as refused:
        load_recipe(path)
    assert str(refused.value).startswith(f"{path}:7: sft.opening was renamed to sft.prefix\n")
    assert "sft.opening.passes was renamed to sft.prefix.upsample" in str(refused.value)
    assert "rl.most_varied was renamed to rl.top_prompts_by_reward_std" in str(refused.value)
    with pytest.raises(RecipeError, match=r"--set dpo\.tokens=3: dpo\.tokens was renamed to dpo\.first_n_tokens"):
        load_recipe("smoke", ["dpo.tokens=3"])


def keys_of(model: type[recipe.Record], prefix: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        found.add(prefix + name)
        for inner in recipe.records_in(field.annotation):
            found |= keys_of(inner, f"{prefix}{name}.")
    return found


def test_former_names_are_gone_and_new_ones_exist() -> None:
    known = keys_of(Recipe)
    assert {old for old in RENAMED if old in known} == set()
    assert {new for new in RENAMED.values() if new not in known} == set()


def test_a_mapping_of_names_takes_new_ones_by_their_key() -> None:
    """What they name is checked against the data, later."""
    chosen = load_recipe("smoke", ["sft.prefix.upsample.lookalike=1", "sft.prefix.upsample={harmful: 2}"])
    assert chosen.sft.prefix.upsample == {"harmful": 2, "lookalike": 1}


def test_only_what_is_trained_is_compared() -> None:
    """Stages of answers by recipe; other baselines leave the aligned answers' key alone."""
    chosen = load_recipe("smoke", ["answers.baselines=[]"])
    bare, full = ({s.stage.name: s for s in pipeline.stages_of(r)} for r in (chosen, load_recipe("smoke")))
    assert "raw_answers" not in bare
    assert bare["aligned_answers"].config == full["aligned_answers"].config
    nothing = ["sft=null", "dpo=null", "rl=null", "cai_sft=null", "cost_model=null", "ablation=false"]
    nothing += ["judge=null", "revisions=null", "feedback=null", "preference_model=null", "answers.baselines=[]"]
    alone = {step.stage.name: step for step in pipeline.stages_of(load_recipe("smoke", nothing))}
    assert alone["raw_answers"].config.baselines == ("raw",)
    assert not {"aligned_answers", "aligned_capability"} & alone.keys()
    silent = load_recipe("smoke", [*nothing[:-1], "sense=null", "answers=null"])
    assert not {"raw_answers", "aligned_answers"} & {step.stage.name for step in pipeline.stages_of(silent)}
