"""A user's Python function as the reward: what it is given, what it may return, and that it is learnt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steersman import load_recipe
from steersman.errors import RecipeError, TrainingFailed
from steersman.pipeline import align
from steersman.store import write_jsonl
from steersman.train.rl.reward_function import reward_function
from steersman.types import Demonstration, Message

RECIPE = """
name: brief
model: tiny-random
data: data
sft: {{epochs: 1, lora: {{rank: 4}}, optimiser: {{learning_rate: 0.003}}}}
examples: {{held_out_prompts: 0.3}}
rl:
  algorithm: grpo
  reward: rewards.py:{name}
  rollouts: {{prompts: 4, answers: 4, max_new_tokens: 12}}
  evaluation: {{every_steps: 3, prompts: 4}}
  steps: 3
  optimiser: {{learning_rate: 0.003}}
answers: {{sampling: {{max_new_tokens: 8}}}}
capability: {{knowledge_items: 4, neutral_passages: 1}}
"""
REWARDS = """
seen = []

def brief(prompts, completions, **rest):
    seen.append((prompts, completions))
    return [-len(text) for text in completions]

def short(prompts, completions):
    return [1.0]

def odd(prompts, completions):
    return ["good"] * len(completions)

def infinite(prompts, completions):
    return [float("inf")] * len(completions)

def broken(prompts, completions):
    return [1 / 0 for _ in completions]
"""


@pytest.fixture
def rewards(tmp_path: Path) -> Path:
    path = tmp_path / "rewards.py"
    path.write_text(REWARDS)
    return path


def test_it_gets_texts_and_messages_and_returns_a_number_each(rewards: Path) -> None:
    found = reward_function(f"{rewards}:brief")
    talk = (Message(role="system", content="Be brief."), Message(role="user", content="Why?"))
    assert found(["Hi?", talk], ["abc", ""]) == [-3.0, 0.0]
    (((first, second), answers),) = found.function.__globals__["seen"]
    assert (first, answers) == ("Hi?", ["abc", ""])
    assert second == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("short", "returned 1 numbers for 2 answers"),
        ("odd", "returned list"),
        ("infinite", "returned inf"),
        ("broken", r"rewards\.py:18[\s\S]*raised ZeroDivisionError: division by zero"),
    ],
)
def test_anything_else_ends_the_training_with_the_reason(name: str, said: str, rewards: Path) -> None:
    with pytest.raises(TrainingFailed, match=said):
        reward_function(f"{rewards}:{name}")(["a", "b"], ["c", "d"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rewards.py", "is not file.py:function"),
        ("nowhere.py:brief", "there is no such file"),
        ("rewards.py:breif", "one of: brief, short, odd, infinite, broken"),
        ("bad.py:brief", "the file cannot be run"),
    ],
)
def test_a_function_that_is_not_there_is_refused(name: str, said: str, rewards: Path) -> None:
    (rewards.parent / "bad.py").write_text("import nothing_of_this_name")
    with pytest.raises(RecipeError, match=said):
        reward_function(str(rewards.parent / name))


def project(folder: Path, demonstrations: list[Demonstration], name: str) -> Path:
    (folder / "data").mkdir()
    write_jsonl(folder / "data" / "demonstrations.jsonl", [r.model_dump(mode="json") for r in demonstrations[:24]])
    prompts = [{"prompt": row.prompt, "topic": f"t.{i}"} for i, row in enumerate(demonstrations[24:])]
    write_jsonl(folder / "data" / "prompts.jsonl", prompts)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(name=name))
    return path


@pytest.mark.slow
def test_alone_it_is_what_the_policy_learns(rewards: Path, demonstrations: list[Demonstration]) -> None:
    rows = [row.model_copy(update={"principles": ()}) for row in demonstrations]
    recipe = load_recipe(project(rewards.parent, rows, "brief"))
    run = align(recipe, rewards.parent / "run")
    events = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    scores = [event["score"] for event in events if event["stage"] == "rl" and event["event"] == "train"]
    assert all(score < 0 for score in scores)
    assert "holdout_reward_model" not in {path.name for path in run.path.iterdir()}
    said: list[str] = []
    rewards.write_text(REWARDS + "\n# another file is another reward\n")
    align(recipe, run.path, until="rl", echo=said.append)
    assert any("rl: " in line and "reward_function" in line for line in said)


def test_ppo_and_no_reward_at_all_are_refused(rewards: Path, demonstrations: list[Demonstration]) -> None:
    rows = [row.model_copy(update={"principles": ()}) for row in demonstrations]
    path = project(rewards.parent, rows, "brief")
    path.write_text(path.read_text().replace("grpo", "ppo"))
    with pytest.raises(RecipeError, match="critic starts as a reward model"):
        align(load_recipe(path), rewards.parent / "run")
    path.write_text(path.read_text().replace("ppo", "grpo"))
    with pytest.raises(RecipeError, match=r"rl needs reward_model, or rl\.reward"):
        align(load_recipe(path, ["rl.reward=null"]), rewards.parent / "run")
