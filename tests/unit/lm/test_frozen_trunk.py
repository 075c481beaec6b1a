"""FrozenStates layers read once: the same hidden states and gradients as the whole model, in every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from steersman.errors import ModelError
from steersman.lm import pretrained
from steersman.lm.adapters import LoraConfig, add_lora, trainable
from steersman.lm.chat_format import Example, pad
from steersman.lm.frozen_trunk import FrozenTrunk, TrunkCache
from steersman.lm.head import trunk

FAMILIES = ["Gemma3", "Gemma2", "Llama", "Qwen2", "Qwen3", "Mistral", "GPT2", "GPTNeoX", "Phi", "Granite", "Cohere"]
TEXTS = [list(range(5, 5 + n)) for n in (30, 11, 19)]
BATCH = pad([Example(text, 2) for text in TEXTS], 0)
INPUTS = {"input_ids": BATCH.token_ids, "attention_mask": BATCH.attention_mask}
REAL = BATCH.attention_mask.bool()


def whole(model: Any) -> torch.Tensor:
    return trunk(model)(
        input_ids=BATCH.token_ids, attention_mask=BATCH.attention_mask, use_cache=False
    ).last_hidden_state


@pytest.mark.parametrize("name", FAMILIES)
def test_lower_and_upper_layers_are_the_whole_model(name: str, family: Callable[[str], Any]) -> None:
    model = family(name)
    lower = FrozenTrunk(model, 1)
    with torch.no_grad():
        expected = whole(model)
        states = lower.read(input_ids=BATCH.token_ids, attention_mask=BATCH.attention_mask)
        found = lower.finish(states, **INPUTS)
        torch.testing.assert_close(found[REAL], expected[REAL], atol=1e-6, rtol=1e-6)
        other = lower.finish(states * 1.5, **INPUTS)
        assert (other[REAL] - expected[REAL]).abs().max() > 1e-3  # the states that are put in matter
        torch.testing.assert_close(whole(model), expected, atol=0, rtol=0)  # and no hook stays behind


def test_gradients_of_the_upper_layers_are_those_of_the_whole_model(tiny_base: Path) -> None:
    torch.manual_seed(0)
    model = pretrained.load_model(tiny_base)
    policy = add_lora(model.requires_grad_(False), LoraConfig(rank=2, trainable_layers=1), "tiny")
    parameters = trainable(policy)
    with torch.no_grad():
        for p in parameters.values():
            p.normal_(std=0.1)
    cache = TrunkCache(FrozenTrunk(model, 1), TEXTS, 0, 1)
    gradients = []
    for cached in (False, True):
        lower = cache.batch(TEXTS)
        hidden = lower.trunk.finish(lower.states, **INPUTS) if cached else whole(model)
        hidden[REAL].square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in parameters.items() if p.grad is not None})
        for p in parameters.values():
            p.grad = None
    assert set(gradients[0]) == set(parameters)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("budget_mb", "read_at_once"), [(1, 30 + 3), (0, 0)])
def test_a_text_that_begins_another_shares_its_activations_within_the_budget(
    budget_mb: int, read_at_once: int, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower = FrozenTrunk(pretrained.load_model(tiny_base), 1)
    read: list[int] = []
    honest = lower.read

    def counting(**inputs: torch.Tensor) -> torch.Tensor:
        read.append(int(inputs["attention_mask"].sum()))
        return honest(**inputs)

    monkeypatch.setattr(lower, "read", counting)
    texts = [*TEXTS, TEXTS[0][:4], TEXTS[0][:4], [9, 8, 7], [9, 8]]
    cache = TrunkCache(lower, texts, 0, budget_mb)
    assert sum(read) == read_at_once  # the longest of those that begin with 5, 6, 7, and the other one
    for text in texts:
        alone = honest(input_ids=torch.tensor([text]), attention_mask=torch.ones(1, len(text), dtype=torch.long))
        torch.testing.assert_close(cache.batch([text]).states, alone, atol=1e-6, rtol=1e-6)
    assert cache.batch(texts).states.shape == (len(texts), 30, 64)
    assert (len(read) == 1) == bool(budget_mb)


def test_dropout_of_the_lower_layers_is_off(family: Callable[[str], Any]) -> None:
    model = family("GPT2")  # its configuration has dropout
    lower = FrozenTrunk(model, 1)
    try:
        model.train()
        states = [lower.read(input_ids=BATCH.token_ids, attention_mask=BATCH.attention_mask) for _ in range(2)]
        assert model.training
    finally:
        model.eval()
    assert torch.equal(*states)


@pytest.mark.parametrize("layers", [0, 2, 3])
def test_some_layers_must_be_frozen_and_some_not(layers: int, family: Callable[[str], Any]) -> None:
    with pytest.raises(ModelError, match=f"cannot freeze {layers} of the model's 2 layers"):
        FrozenTrunk(family("Llama"), layers)
