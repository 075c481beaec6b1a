"""The fused LoRA layer against peft's own, in every kind of linear layer that the families have."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import peft
import pytest
import torch

from steersman.lm.lora import lora_linear
from steersman.lm.model import LoraConfig, add_lora, trainable

IDS = torch.tensor([[2, 30, 40, 50, 60, 70, 1], [2, 9, 8, 7, 6, 5, 4]])


def grown(policy: Any) -> Any:
    """B is 0 at the start; other values let both products count."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainable(policy).values():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return policy


def unfused(policy: Any) -> Any:
    """The same policy with peft's own forward."""
    found = deepcopy(policy)
    for module in found.modules():
        module.__dict__.pop("forward", None)
    return found


def measured(policy: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logits = policy(input_ids=IDS).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), IDS.flatten()).backward()
    return logits.detach(), {name: p.grad for name, p in trainable(policy).items()}


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")  # peft, on GPT-2; it corrects it
@pytest.mark.parametrize("name", ["Gemma3", "Gemma2", "Llama", "Qwen2", "Qwen3", "Mistral", "GPT2", "GPTNeoX", "Phi"])
def test_outputs_and_gradients_are_those_of_peft(name: str, family: Callable[[str], Any]) -> None:
    policy = grown(add_lora(deepcopy(family(name)), LoraConfig(rank=4, alpha=12.0), "x"))
    theirs, their_gradients = measured(unfused(policy))
    ours, gradients = measured(policy)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    with torch.no_grad():  # few rows without gradients, as in a decoding step, take another path
        torch.testing.assert_close(policy(input_ids=IDS).logits, theirs, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == their_gradients.keys()
    for key, gradient in gradients.items():
        error = (gradient - their_gradients[key]).norm() / their_gradients[key].norm()
        assert error < 1e-4, (key, float(error))


def test_gradients_by_finite_differences() -> None:
    torch.manual_seed(0)
    x, a, b = (torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in ((2, 3, 5), (2, 5), (4, 2)))
    weight, bias = torch.randn(4, 5, dtype=torch.double), torch.randn(4, dtype=torch.double)
    assert torch.autograd.gradcheck(lambda *v: lora_linear(v[0], weight, bias, v[1], v[2], 1.7), (x, a, b))


def test_the_fused_layer_is_really_used(family: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    policy = add_lora(deepcopy(family("Gemma3")), LoraConfig(rank=2), "x")

    def counted(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        calls.append(1)
        return lora_linear(x, *rest)

    monkeypatch.setattr("steersman.lm.lora.lora_linear", counted)
    policy(input_ids=IDS)
    assert len(calls) == 14  # seven linear layers in each of two blocks


def test_what_is_not_plain_goes_to_peft(family: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> torch.Tensor:
        raise AssertionError("the fused layer was used")

    monkeypatch.setattr("steersman.lm.lora.lora_linear", never)
    base = family("Gemma3")
    with torch.no_grad():
        plain = base(input_ids=IDS).logits
        policy = grown(add_lora(deepcopy(base), LoraConfig(rank=2), "x"))
        with policy.disable_adapter():
            torch.testing.assert_close(policy(input_ids=IDS).logits, plain)
        policy.merge_adapter()
        assert (policy(input_ids=IDS).logits - plain).abs().max() > 0.01
        policy.unmerge_adapter()
        policy.add_adapter("second", peft.LoraConfig(r=2, target_modules=["q_proj"]))
        policy.base_model.set_adapter(["default", "second"])
        policy(input_ids=IDS)
        dropping = add_lora(deepcopy(base), LoraConfig(rank=2, dropout=0.5), "x")
        dropping(input_ids=IDS)
