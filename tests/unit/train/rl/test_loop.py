"""Reinforcement learning: the loop, its evaluations, resuming, and what stops it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import pretend_vllm
from steersman.errors import DataError, RunError, TrainingFailed
from steersman.lm import pretrained
from steersman.lm.adapters import load_adapter
from steersman.lm.reward_model import RewardModel
from steersman.store import StageFolder, read_jsonl, write_jsonl
from steersman.train.rl import loop as rl
from steersman.train.rl import ppo
from steersman.train.rl.actor import RolloutConfig, Scorer
from steersman.train.rl.evaluation import EVAL_ANSWERS, EvaluationConfig, People
from steersman.train.rl.grpo import GrpoConfig
from steersman.train.rl.loop import Algorithm, CollapseDetector, ConstraintConfig, Monitors, RlConfig, RlData
from steersman.train.rl.ppo import PpoConfig
from steersman.train.rl.rloo import RlooConfig
from steersman.types import Demonstration, Prompt

from ..conftest import Stopped, recorder
from .conftest import COMPACT, CONSTRAINT, RLOO, SMALL, VLLM, long


@pytest.mark.parametrize(
    "config", [RlooConfig, GrpoConfig, PpoConfig, RolloutConfig, EvaluationConfig, ConstraintConfig]
)
def test_every_setting_is_described(config: Any) -> None:
    assert [name for name, field in config.model_fields.items() if not field.description] == []


def run(
    config: RlConfig,
    base: Path,
    trained: Path,
    prompts: Sequence[Prompt],
    folder: Path,
    gold: Scorer | People | None = None,
    stop_before: int | None = None,
    algorithm: Algorithm | None = None,
) -> list[dict[str, Any]]:
    events, emit = recorder(stop_before)
    folder.mkdir(exist_ok=True)
    out = StageFolder(folder, "rl", emit)
    data = RlData(prompts[:14], prompts[14:], [Demonstration(prompt=p.prompt, completion="some text") for p in prompts])
    rl.run(config, algorithm or RLOO, base, trained / "sft", trained / "reward", data, out, Monitors(gold, cost=long))
    return events


def timeless(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in event.items() if not k.endswith("seconds")} for event in events]


@pytest.mark.slow
def test_vllm_gets_every_policy_and_ends_with_the_training(
    tiny_base: Path, trained: Path, prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_vllm.installed(monkeypatch)
    run(RlooConfig(**SMALL | VLLM), tiny_base, trained, prompts, tmp_path / "whole")
    with pytest.raises(Stopped):
        run(RlooConfig(**SMALL | VLLM), tiny_base, trained, prompts, tmp_path / "stopped", stop_before=1)
    whole, stopped = pretend_vllm.LLM.started
    assert whole.ended
    assert stopped.ended
    evaluations = SMALL["steps"] // SMALL["evaluation"].every_steps + 1
    assert len(whole.adapters) == SMALL["steps"] + evaluations


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["compact", "full", "ppo"])
def test_resuming_is_exact(kind: str, tiny_base: Path, trained: Path, prompts: list[Prompt], tmp_path: Path) -> None:
    """With every controller: beta, the multiplier, the evaluations; for PPO the critic and its moments."""
    steered: dict[str, Any] = {"kl_target_nats": 0.5, "constraint": CONSTRAINT, "ptx_coef": 0.1}
    config: RlConfig = RlooConfig(**SMALL, **steered, **(COMPACT if kind == "compact" else {}))
    if kind == "ppo":
        config = PpoConfig(**SMALL, **steered, updates=2)

    def go(name: str, stop_before: int | None = None) -> list[dict[str, Any]]:
        algorithm = ppo.algorithm(config) if isinstance(config, PpoConfig) else None
        return run(config, tiny_base, trained, prompts, tmp_path / name, long, stop_before, algorithm)

    whole = go("whole")
    with pytest.raises(Stopped):
        go("killed", stop_before=5)
    again = go("killed")
    assert whole[1]["gold"] > 0
    assert [e["multiplier"] for e in whole if e["event"] == "train"][-1] != CONSTRAINT.multiplier
    assert again[0]["resumed_at_step"] == 4
    later = [event for event in whole if event["event"] in ("train", "evaluation", "selected") and event["step"] >= 4]
    selected = [event for event in whole if event["event"] == "selected"]
    assert timeless(again[1:]) == timeless([e for e in later if e["event"] != "selected"] + selected)
    files = [{p.name: p.read_bytes() for p in (tmp_path / n / "adapter").iterdir()} for n in ("whole", "killed")]
    assert files[0] == files[1]
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {"adapter", EVAL_ANSWERS}
    assert (tmp_path / "whole" / EVAL_ANSWERS).read_bytes() == (tmp_path / "killed" / EVAL_ANSWERS).read_bytes()


@pytest.mark.slow
def test_the_checkpoint_with_the_best_gold_is_selected(
    tiny_base: Path, trained: Path, prompts: list[Prompt], tmp_path: Path
) -> None:
    """Gold that falls from the second evaluation on ends the training, and the policy of that evaluation is saved."""
    noise = [0.5, -0.5, 0.0, 0.5, -0.5]  # another one at every evaluation: 2.9 is not surely less than 3.0
    labels = iter([mean + n for i, mean in enumerate((1.0, 3.0, 2.9, -5.0)) for n in noise[i % 3 :][:3] * 2])

    def gold(prompt: Prompt, answer: str) -> float:
        return next(labels)

    config = RlooConfig(**SMALL | {"steps": 20, "evaluation": EvaluationConfig(every_steps=2, prompts=6)})
    events = run(config, tiny_base, trained, prompts, tmp_path / "out", gold)
    assert [e["gold"] for e in events if e["event"] == "evaluation"] == pytest.approx([1.0, 3.0, 2.9, -5.0])
    assert (events[-1]["event"], events[-1]["step"]) == ("selected", 2)
    assert events[-1]["gold_worse"] > 0.9
    assert [e["step"] for e in events if e["event"] == "train"] == list(range(6))
    short = config.model_copy(update={"steps": 2})
    run(short, tiny_base, trained, prompts, tmp_path / "short")
    weights = [
        load_adapter(pretrained.load_model(tiny_base), tiny_base, tmp_path / name / "adapter")
        for name in ("out", "short")
    ]
    ours, theirs = ([p for _, p in sorted(rl.trainable(w).items())] for w in weights)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.slow
def test_people_label_what_the_run_waits_for(
    tiny_base: Path, trained: Path, prompts: list[Prompt], tmp_path: Path
) -> None:
    """Stopped at every evaluation and resumed, it is to the bit the training that a function labels."""
    evaluation = EvaluationConfig(every_steps=2, prompts=6, labels=4, gold="people")
    config = RlooConfig(**SMALL | {"evaluation": evaluation})
    whole = run(config, tiny_base, trained, prompts, tmp_path / "function", long)
    people, stops = People(tmp_path / "labels.jsonl"), 0
    while True:
        try:
            again = run(config, tiny_base, trained, prompts, tmp_path / "people", people)
            break
        except RunError:
            rows = read_jsonl(people.file)
            answered = [{**row, "label": long(prompts[0], row["answer"])} for row in rows]
            assert stops == 0 or len(rows) > stops
            stops = len(rows)
            write_jsonl(people.file, answered)
    assert 4 < stops <= 4 * sum(event["event"] == "evaluation" for event in whole)
    assert timeless(again)[-2:] == timeless(whole)[-2:]
    files = [{p.name: p.read_bytes() for p in (tmp_path / n / "adapter").iterdir()} for n in ("function", "people")]
    assert files[0] == files[1]
    rows = [row for row in read_jsonl(tmp_path / "people" / EVAL_ANSWERS) if row["step"] == 0]
    assert sum(row["gold"] is not None for row in rows) == 4
    assert len(rows) == 6


def test_collapse_is_five_consecutive_steps_without_a_difference() -> None:
    detector = CollapseDetector()
    for share in (1.0, 1.0, 1.0, 1.0, 0.75, 1.0, 1.0, 1.0, 1.0):
        detector.update(share, 7)
    with pytest.raises(TrainingFailed, match=r"for 5 consecutive steps, .* \(step 8\)"):
        detector.update(1.0, 8)


def test_answers_that_never_differ_are_a_collapse(
    tiny_base: Path, trained: Path, prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        RewardModel,
        "scores",
        lambda self, groups, below: torch.zeros(sum(len(g.completions) for g in groups)),
    )
    config = RlooConfig(**SMALL | {"steps": 20, "rollouts": RolloutConfig(prompts=2, answers=2, max_new_tokens=1)})
    with pytest.raises(TrainingFailed, match="all answers to a prompt scored the same"):
        run(config, tiny_base, trained, prompts, tmp_path / "out")


def test_without_prompts_nothing_is_begun(tiny_base: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prompts to answer"):
        run(RlooConfig(**SMALL), tiny_base, trained, [], tmp_path / "out")
