"""What the tests of reinforcement learning share: settings, prompts, and a policy and a reward model to begin with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from steersman.lm.adapters import LoraConfig
from steersman.lm.compact_vocabulary import CompactConfig
from steersman.store import StageFolder
from steersman.train import reward_model, sft
from steersman.train.loop import OptimiserConfig
from steersman.train.reward_model import RewardConfig
from steersman.train.rl import rloo
from steersman.train.rl.actor import Actor, ActorConfig, RolloutConfig
from steersman.train.rl.evaluation import EvaluationConfig
from steersman.train.rl.loop import ConstraintConfig
from steersman.train.rl.rloo import RlooConfig
from steersman.train.sft import SftConfig
from steersman.types import Comparison, Demonstration, Prompt

SMALL: dict[str, Any] = {
    "rollouts": RolloutConfig(prompts=4, answers=3, max_new_tokens=8),
    "evaluation": EvaluationConfig(every_steps=2, prompts=6),
    "steps": 6,
    "optimiser": OptimiserConfig(learning_rate=3e-3, schedule="constant", warmup_ratio=0.0),
    "micro_batch_size": 2,
    "checkpoint_every_steps": 2,
}
RLOO = rloo.algorithm(RlooConfig())
CONSTRAINT = ConstraintConfig(behaviours=("complies",), at_most=0.1, learning_rate=0.5)
COMPACT = {"vocabulary": "compact", "compact": CompactConfig(extra_rows=20, full_share=0.3)}
VLLM = {"rollouts": SMALL["rollouts"].model_copy(update={"engine": "vllm", "temperature": 0.5})}


@pytest.fixture(scope="module")
def prompts(demonstrations: list[Demonstration]) -> list[Prompt]:
    return [Prompt(prompt=row.prompt) for row in demonstrations[:20]]


@pytest.fixture(scope="session")
def trained(shared: Callable[..., Path], tiny_base: Path, demonstrations: list[Demonstration]) -> Path:
    """A folder with a fine-tuned policy, ``sft/``, and a reward model, ``reward/``, both on the upper layer."""

    def make(folder: Path) -> None:
        for name in ("sft", "reward"):
            (folder / name).mkdir(parents=True)
        config = SftConfig(
            lora=LoraConfig(rank=4, trainable_layers=1), epochs=1, optimiser=OptimiserConfig(learning_rate=3e-3)
        )
        sft.run(config, tiny_base, "tiny", demonstrations, [], StageFolder(folder / "sft", "sft"))
        rows = [Comparison(prompt=d.prompt, options=(d.completion, "No."), ranking=(1, 2)) for d in demonstrations[:16]]
        out = StageFolder(folder / "reward", "reward_model")
        reward_model.run(RewardConfig(batch_size=8), tiny_base, folder / "sft", rows, demonstrations, out)

    return shared("rl", make)


def actor(config: ActorConfig, base: Path, trained: Path, demonstrations: Sequence[Demonstration]) -> Actor:
    return Actor.load(config, base, trained / "sft", trained / "reward", demonstrations)


def long(prompt: Prompt, answer: str) -> float:
    return float(len(answer) > 12)
