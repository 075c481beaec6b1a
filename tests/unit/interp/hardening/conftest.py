"""A policy on the tiny model, as a run leaves it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from steersman.lm import pretrained
from steersman.lm.adapters import LoraConfig, add_lora, save_policy


@pytest.fixture(scope="session")
def tiny_policy(shared: Callable[[str, Callable[[Path], object]], Path], tiny_base: Path) -> Path:
    """New adapters on `tiny_base`, which change nothing yet. Read only."""

    def make(folder: Path) -> None:
        policy = add_lora(pretrained.load_model(tiny_base), LoraConfig(rank=4), "tiny")
        save_policy(policy, folder, pretrained.load_tokenizer(tiny_base), pretrained.digest(tiny_base))

    return shared("hardened", make)
