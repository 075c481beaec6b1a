"""Everything that passes between stages: the data dictionary of a run, as typed handles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steersman.constitution import ai_feedback, critique_revise
from steersman.constitution.document import Constitution
from steersman.data.sources import DataSet
from steersman.evals.facts import Fact
from steersman.evals.suites.runner import Gathered
from steersman.recipe import Recipe
from steersman.stage import Input, folder, optional, rows
from steersman.types import Comparison, Demonstration, Prompt


def _as_it_is(value: Any) -> Any:
    return value


def _by_principle(recipe: Recipe) -> bool:
    models = (recipe.reward_model, recipe.cost_model, recipe.preference_model)
    return any(config.by_principle for config in models if config)


def _judged_by_reward(recipe: Recipe) -> bool:
    return recipe.judge is not None and "reward" in recipe.judge.kinds


# ── sources: what the recipe names ───────────────────────────────────────────────────────────────────────────────────
BASE: Input[Path] = Input(("base",), _as_it_is)  # the base model's folder
MODEL_NAME: Input[str] = Input(("model_name",), _as_it_is)  # written into adapters as the model that they belong to
JUDGE_MODEL: Input[str | None] = optional(Input(("judge_model",), _as_it_is))  # a judge's own model, if it is a folder
DATASET: Input[DataSet] = Input(("dataset",), _as_it_is)
SUITES: Input[Gathered] = Input(("suite_questions",), _as_it_is)  # of the user's copy of published sets, and ours
PUBLIC_PROMPTS: Input[list[Prompt]] = Input(("public_sets",), _as_it_is)
CAPABILITY_ITEMS: Input[None] = Input(("capability_items",), _as_it_is)
# A user's reward function: its file's digest decides, its path stands in the settings.
REWARD_FUNCTION: Input[None] = optional(
    Input(("reward_function",), _as_it_is), lambda recipe: recipe.rl is not None and recipe.rl.reward is not None
)
FACTS: Input[list[Fact]] = Input(("facts",), _as_it_is)

CONSTITUTION: Input[Constitution] = Input(("constitution",), _as_it_is)
PERSONA: Input[str] = Input(("constitution",), lambda c: c.persona, part=lambda c: c.persona, label="persona")
# A key without distillation holds no persona.
TEACHERS_PERSONA = optional(PERSONA, lambda recipe: recipe.sft.distillation.prompts > 0)
# The principles' texts, which a reward model reads if it judges by principle.
TEXTS: Input[Mapping[str, str] | None] = optional(
    Input(("constitution",), lambda c: c.texts, part=lambda c: c.texts, label="principle_texts"), _by_principle
)
# What a judge reads of the constitution beside the principles' texts, and what a reviser reads beside that.
_READ_BY_A_JUDGE = {"id", "examples", "behaviours"}
JUDGED: Input[Constitution] = Input(
    ("constitution",),
    _as_it_is,
    part=lambda c: [[p.text, p.model_dump(mode="json", include=_READ_BY_A_JUDGE)] for p in c.principles],
    label="judged_principles",
)
REVISED: Input[Constitution] = Input(
    ("constitution",),
    _as_it_is,
    part=lambda c: [[p.id, p.critique_request, p.revision_request] for p in c.principles],
    label="revision_requests",
)

# ── files of the stage `data` ────────────────────────────────────────────────────────────────────────────────────────
TRAIN = rows("data/train.jsonl", Demonstration)
VALIDATION = rows("data/validation.jsonl", Demonstration)
COMPARISONS = rows("data/comparisons.jsonl", Comparison)
HELD_OUT_COMPARISONS = rows("data/held_out_comparisons.jsonl", Comparison)
PROMPTS = rows("data/prompts.jsonl", Prompt)
HELD_OUT_PROMPTS = rows("data/held_out_prompts.jsonl", Prompt)
EVALUATION = rows("data/evaluation.jsonl", Prompt)
FORM_GRID = rows("data/forms.jsonl", Prompt)
DEVELOPMENT = rows("data/development.jsonl", Prompt)

# ── what later stages write ──────────────────────────────────────────────────────────────────────────────────────────
# A run that trains no policy has no aligned ones; baselines and whole sections may be left out.
RAW_ANSWERS, ALIGNED_ANSWERS = optional(folder("raw_answers")), optional(folder("aligned_answers"))
RAW_CAPABILITY, ALIGNED_CAPABILITY = optional(folder("raw_capability")), optional(folder("aligned_capability"))
PUBLIC_ANSWERS = optional(folder("public_prompts"))
ABLATION = optional(folder("ablation"))
GUARD = folder("guard")
OPTIONAL_GUARD = optional(GUARD)
JUDGE_CARD = folder("judge_card")
REVISIONS = rows(f"revisions/{critique_revise.DEMONSTRATIONS}", Demonstration)
AI_COMPARISONS = rows(f"feedback/{ai_feedback.COMPARISONS}", Comparison)
SCORES = folder("scores")

# ── models: of alternatives, the last that the recipe has ────────────────────────────────────────────────────────────
SFT = folder("sft")
TUNED = folder("sft", "cai_sft")  # the last that learnt from demonstrations
OFFLINE_POLICY = folder("sft", "cai_sft", "dpo")  # the last before reinforcement learning
POLICY = folder("sft", "cai_sft", "dpo", "rl")  # the aligned model
OPTIONAL_POLICY = optional(POLICY)  # where nothing is trained, the raw model is all there is
REWARD_MODEL = folder("reward_model")
PREFERENCE_MODEL = folder("reward_model", "preference_model")  # whose score reinforcement learning maximises
HOLDOUT_REWARD_MODEL = folder("holdout_reward_model")
COST_MODEL = optional(folder("cost_model"))

# Whatever uses the judge declares all that the judge reads.
JUDGE_REWARD_MODEL = optional(REWARD_MODEL, _judged_by_reward)
JUDGE_INPUTS = (BASE, JUDGED, JUDGE_MODEL, JUDGE_REWARD_MODEL)
