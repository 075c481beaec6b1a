"""Int8 copies: near the weights, the same for a row whatever its batch, gone after use."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch

from steersman.errors import ModelError
from steersman.lm import fast_paths
from steersman.lm.adapters import LoraConfig, add_lora, trainable
from steersman.lm.chat_format import ChatFormat
from steersman.lm.head import Head, head_of, trunk
from steersman.lm.int8 import Int8Copy, Int8Linear, Rounding
from steersman.lm.sampling import Sampler, SamplingConfig

IDS = torch.tensor([[2, 30, 40, 50, 60, 70, 1], [2, 9, 8, 7, 6, 5, 4]])


def hidden(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return trunk(model)(input_ids=IDS, use_cache=False).last_hidden_state


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_a_product_is_near_and_the_same_in_any_batch() -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(48, 64) * torch.rand(48, 1), torch.randn(48)
    # Rows of very different size: one scale for all of them would leave nothing of the small ones.
    x = torch.randn(5, 3, 64) * torch.tensor([1e-3, 1.0, 1e3, 0.0, 1.0])[:, None, None]
    copy = Int8Linear(weight, bias, Rounding())
    for found, wanted in zip(copy(x), torch.nn.functional.linear(x, weight, bias), strict=True):
        assert error(found - bias, wanted - bias) < 0.02 or not (wanted - bias).any()
    torch.testing.assert_close(copy(x)[1], copy(x[1]), atol=0, rtol=1e-6)
    assert torch.equal(copy(x)[3], bias.expand(3, -1))


@pytest.mark.parametrize("name", ["Gemma3", "Gemma2", "Llama", "Qwen2", "GPT2", "GPTNeoX", "Phi"])
def test_a_model_is_near_while_it_is_in_use_and_itself_afterwards(name: str, family: Callable[[str], Any]) -> None:
    model = deepcopy(family(name)).requires_grad_(False)
    before, copy = hidden(model), Int8Copy(model, head_of(model))
    with copy.in_use():
        within = hidden(model)
        logits = copy.head.logits(before[0])
    assert 0 < error(within, before) < 0.1
    assert 0 < error(logits, head_of(model).logits(before[0])) < 0.03
    assert torch.equal(hidden(model), before)


def test_adapters_stay_exact_on_top(family: Callable[[str], Any]) -> None:
    """A weight of zero has an exact copy; what is left is the adapter."""
    model = deepcopy(family("Llama")).requires_grad_(False)
    layer = model.model.layers[0].mlp.up_proj
    layer.weight.zero_()
    policy = add_lora(model, LoraConfig(rank=4), "x")
    with torch.no_grad():
        for parameter in trainable(policy).values():
            parameter.copy_(torch.randn_like(parameter))
    layer, x = model.model.layers[0].mlp.up_proj, torch.randn(2, 3, layer.in_features)
    copy = Int8Copy(model, head_of(model))
    with copy.in_use():
        torch.testing.assert_close(layer(x).clone(), layer.lora_B["default"](layer.lora_A["default"](x)) * 8.0)


def test_an_error_within_leaves_the_model_itself(family: Callable[[str], Any]) -> None:
    model = deepcopy(family("Gemma3")).requires_grad_(False)
    before = hidden(model)
    with pytest.raises(KeyboardInterrupt), Int8Copy(model, head_of(model)).in_use():
        raise KeyboardInterrupt
    assert torch.equal(hidden(model), before)


@pytest.mark.slow
def test_a_batch_and_a_single_row_get_the_same_text_and_its_own_logprobs(
    family: Callable[[str], Any], tokenizer: Any
) -> None:
    model = deepcopy(family("Gemma3")).requires_grad_(False)
    chat, config = ChatFormat(tokenizer, frozenset({1}), template=None), SamplingConfig(temperature=1.0, seed=3)
    starts, copy = [[2, 9, 30], [2, 9, 30], [2, 40, 41, 42, 43, 44]], Int8Copy(model, head_of(model))
    rows = sorted(Sampler(model, chat, int8=copy).continue_ids(starts, config), key=lambda row: row.index)
    exact = sorted(Sampler(model, chat).continue_ids(starts, config), key=lambda row: row.index)
    assert [row.token_ids for row in rows] != [row.token_ids for row in exact]
    for index, row in enumerate(rows):
        (alone,) = Sampler(model, chat, int8=copy).continue_ids([starts[index]], config, indices=[index])
        # Other shapes add up in another order, and what lies on the edge of two levels falls to either side: with
        # AVX-512 all texts are equal to the end; on an EPYC without it one differs from its 78th token on.
        together = min(32, len(row.token_ids))
        assert alone.token_ids[:together] == row.token_ids[:together]
        with copy.in_use():
            states = trunk(model)(input_ids=torch.tensor([starts[index] + row.token_ids])).last_hidden_state[0]
            scores = torch.log_softmax(copy.head.logits(states[len(starts[index]) - 1 : -1]), -1)
            wanted = scores.gather(1, torch.tensor(row.token_ids)[:, None])[:, 0]
        apart = (torch.tensor(row.logprobs) - wanted).abs()
        assert apart.median() < 1e-5
        assert apart.max() < 0.1  # a token after a number that fell to the other side


def test_weights_that_learn_have_no_copy() -> None:
    with pytest.raises(ModelError, match="frozen weights"):
        Int8Copy(None, Head(torch.zeros(3, 2, requires_grad=True)))


def test_a_model_with_a_copy_is_still_decoded_with_a_cache(
    family: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = deepcopy(family("Gemma3")).requires_grad_(False)
    model.__dict__.pop(fast_paths._KEPT, None)  # nobody has tried its fast paths yet
    copy = Int8Copy(model, head_of(model))
    # From now on everything differs, as large models do whose inputs are rounded on two ways.
    monkeypatch.setattr(fast_paths, "same_states", lambda fast, plain: False)
    with copy.in_use():
        assert fast_paths.fast_paths(model) == (True, True)
