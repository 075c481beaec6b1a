"""One finished run of the smallest whole pipeline, and ways to run it again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from steersman import pipeline
from steersman.recipe import load_recipe
from steersman.store import Run

SETTINGS = (
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
    "answers.sampling.max_new_tokens=4",
    "capability.knowledge_items=4",
    "capability.neutral_passages=2",
    "capability.batch_size=4",
)
Align = Callable[..., list[str]]


def align_smoke(folder: Path, *settings: str, until: str | None = None) -> list[str]:
    """Run the smoke recipe with small limits; returns what was said, a line per stage."""
    said: list[str] = []
    pipeline.align(load_recipe("smoke", [*SETTINGS, *settings]), folder, until=until, echo=said.append)
    return said


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed. Read only: take `copy` to change it."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    align_smoke(folder)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Run:
    """A copy of the finished run."""
    return Run(Path(shutil.copytree(finished, tmp_path / "copy")))
