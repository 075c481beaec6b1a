"""One finished run of the smallest whole pipeline, ways to run it again, and one fine-tuned policy of the toy world."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from steersman import pipeline
from steersman.data import toy_world as world
from steersman.lm import pretrained, tiny
from steersman.lm.adapters import LoraConfig, add_lora, save_policy
from steersman.recipe import load_recipe
from steersman.store import Run, StageFolder
from steersman.train import sft
from steersman.train.loop import OptimiserConfig
from steersman.train.sft import SftConfig

# Constitutional AI has a run of its own: tests/toy/test_constitutional.py.
PLAIN = (
    "cai_sft=null",
    "preference_model=null",
    "feedback=null",
    "revisions=null",
    "judge=null",
    "ablation=false",
    "reward_model.by_principle=false",
)
SMALL = (
    "examples.limit_demonstrations=60",
    "examples.limit_comparisons=24",
    "examples.limit_evaluation=10",
    "sft.lora.rank=2",
    "sft.epochs=1",
    "sft.batch_size=4",
    "sft.eval_every_steps=6",
    "sft.checkpoint_every_steps=4",
    "sft.max_length=128",
    "dpo.batch_size=4",
    "dpo.checkpoint_every_steps=2",
    "dpo.max_length=128",
    "reward_model.members=1",
    "reward_model.max_length=96",
    "reward_model.checkpoint_every_steps=1",
    "rl.steps=4",
    "rl.rollouts.max_new_tokens=4",
    "rl.evaluation.prompts=4",
    "rl.checkpoint_every_steps=2",
    "answers.sampling.max_new_tokens=4",
    "capability.knowledge_items=4",
    "capability.neutral_passages=2",
    "capability.batch_size=4",
    "guard.limit=3",
    "suites.limit=1",
    "suites.sampling.max_new_tokens=4",
)
SETTINGS = (*PLAIN, *SMALL, "audit=null")  # the audit is run by tests/stages/test_conformance.py


def align_smoke(folder: Path, *settings: str, until: str | None = None, limits: Sequence[str] = SETTINGS) -> list[str]:
    """Run the smoke recipe with small limits; returns what was said, a line per stage."""
    said: list[str] = []
    pipeline.align(load_recipe("smoke", [*limits, *settings]), folder, until=until, echo=said.append)
    return said


@pytest.fixture(scope="session")
def finished(shared: Callable[..., Path]) -> Path:
    """A run that nothing disturbed. Read only: take `copy` to change it."""
    return shared("run", align_smoke)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Run:
    """A copy of the finished run."""
    return Run(Path(shutil.copytree(finished, tmp_path / "copy")))


@pytest.fixture(scope="session")
def fine_tuned(shared: Callable[..., Path]) -> Path:
    """A policy of the toy world, fine-tuned on demonstrations of mixed quality in 188 steps, about 7 seconds.

    ``base``: the random model; ``sft/model``: the policy; ``start``: a fresh adapter on it, which reward models and
    reinforcement learning start from. Read only.
    """
    return shared("world", fine_tune)


def fine_tune(folder: Path) -> None:
    """Write what `fine_tuned` describes; benchmarks/over_optimisation.py starts from the same."""
    tiny.save(tiny.word_tokenizer(world.WORDS), folder / "base")
    out = StageFolder(folder / "sft", "sft")
    out.path.mkdir()
    config = SftConfig(
        method="full",
        optimiser=OptimiserConfig(learning_rate=5e-3),
        epochs=4,
        batch_size=32,
        micro_batch_size=32,
        max_length=64,
        checkpoint_every_steps=1000,
    )
    sft.run(config, folder / "base", "toy", world.demonstrations(1500), [], out)
    torch.manual_seed(0)
    base = folder / "sft" / "model"
    model, tokenizer = pretrained.load_model(base), pretrained.load_tokenizer(base)
    model.requires_grad_(False)
    policy = add_lora(model, LoraConfig(rank=16, alpha=32.0), "toy")
    save_policy(policy, folder / "start", tokenizer, pretrained.digest(base))
