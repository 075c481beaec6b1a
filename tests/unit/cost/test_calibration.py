"""Calibration: prices of work, extrapolated from one and two layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steersman.cost import calibration as calibration_module
from steersman.cost.calibration import calibrate
from steersman.cost.work import Counts, PeakSizes, Workload
from steersman.types import Demonstration
from workloads import changed, prices, small_workload, tiny


@pytest.fixture(autouse=True)
def _short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_module, "REPEAT_SECONDS", 0.0)
    monkeypatch.setattr(calibration_module, "LONG_CONTEXT", 32)


@pytest.fixture
def workload(tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path) -> Workload:
    return small_workload(tiny_base, demonstrations, tmp_path)


# ── prices ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_seconds_and_memory_by_hand() -> None:
    calibration = prices(loads=3.0, decode_rows=0.5)
    assert calibration.seconds(Counts(loads=2, decode_rows=10, read_tokens=99)) == 11.0
    # training: 4 copies of what learns, 30 MiB of activations and half as much that the allocator keeps, no logits
    assert calibration.peak_mb(PeakSizes(train_tokens=30 * 2**10)) == 100 + 50 + 4 + 45
    # reading: one of two layers' activations, and the cache; two tiles of logits of at most 256 MiB
    assert calibration.peak_mb(PeakSizes(read_tokens=2**11, cached_tokens=2**12)) == 100 + 50 + 1 + 1
    assert calibration.peak_mb(PeakSizes(scored=10**6)) == 100 + 50 + 512


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # peft says so of GPT-2
@pytest.mark.parametrize("name", ["Gemma3", "Gemma2", "Llama", "Qwen3", "GPT2", "GPTNeoX", "Phi", "Cohere"])
@pytest.mark.slow
def test_calibration_knows_the_size_of_any_model(
    workload: Workload, family: Callable[[str], Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One and two layers give the exact size of five; every price is a finite number and reading costs something."""
    from copy import deepcopy

    from transformers import AutoModelForCausalLM

    config = deepcopy(family(name).config)
    config.num_hidden_layers = 5
    if getattr(config, "layer_types", None):
        config.layer_types = (config.layer_types * 3)[:5]
    state = torch.get_rng_state()
    found = calibrate(replace(workload, config=config))
    assert torch.equal(torch.get_rng_state(), state)
    assert found.weight_bytes == 4 * sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    assert found.layers == 5
    upper = calibrate(replace(workload, config=config, recipe=tiny("sft.lora.trainable_layers=2")))
    assert 2 * found.trainable_bytes == 5 * upper.trainable_bytes
    assert upper.activation_bytes_per_token < found.activation_bytes_per_token
    assert found.activation_bytes_per_token > 5 * config.hidden_size * 4
    assert all(0 <= price < 60 for price in found.prices)
    assert min(found.prices.train_tokens, found.prices.read_tokens, found.prices.scored_tokens) > 0


def test_weights_are_not_counted_as_activations() -> None:
    layer = torch.nn.Linear(64, 64, bias=False).requires_grad_(False)
    row = torch.ones(2, 64, requires_grad=True)
    kept = calibration_module._saved_bytes(layer, lambda: torch.relu(layer(row)).sum().backward())  # type: ignore[no-untyped-call]
    assert kept == 2 * 64 * 4  # of relu; the layer keeps its weight alone


def test_calibration_follows_the_recipe(workload: Workload) -> None:
    from transformers import AutoModelForCausalLM

    whole = calibrate(changed(workload, "rl=null", "reward_model=null", "sft.method=full"))
    assert whole.trainable_bytes == whole.weight_bytes
    adapters = calibrate(changed(workload, "sft.vocabulary=compact", "sft.compact.extra_rows=5"))
    rank, hidden = 4, workload.config.hidden_size
    model = AutoModelForCausalLM.from_config(workload.config)
    linear = [m for m in model.model.modules() if isinstance(m, torch.nn.Linear)]
    assert hidden == 64
    assert adapters.trainable_bytes == 4 * rank * sum(m.in_features + m.out_features for m in linear)
