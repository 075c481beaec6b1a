"""The fused pieces of a block against peft's and transformers' own, in all families."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from steersman.lm.adapters import LoraConfig, add_lora, merge, take_off, trainable
from steersman.lm.fused_layers import Lora, gated_lora, lora_linear, rms_norm
from steersman.lm.pretrained import load_model

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
    assert torch.autograd.gradcheck(lambda *v: lora_linear(v[0], Lora(weight, bias, v[1], v[2], 1.7)), (x, a, b))


def test_gradients_of_a_norm_and_of_a_gated_mlp_by_finite_differences() -> None:
    torch.manual_seed(0)
    x, a, b = (torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in ((2, 3, 5), (2, 5), (4, 2)))
    gain, weight = torch.randn(5, dtype=torch.double), torch.randn(4, 5, dtype=torch.double)
    assert torch.autograd.gradcheck(lambda v: rms_norm(v, gain, 1e-6), (x,))
    gate, up = (torch.randn(6, 5, dtype=torch.double, requires_grad=True) for _ in range(2))

    def mlp(gate: torch.Tensor, up: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return gated_lora(gate, up, torch.nn.functional.silu, Lora(weight, None, a, b, 1.7))

    assert torch.autograd.gradcheck(mlp, (gate, up, a, b))


def replaced(policy: Any) -> dict[str, int]:
    """How many modules of each kind have a forward of ours."""
    return dict(Counter(type(module).__name__ for module in policy.modules() if "forward" in module.__dict__))


@pytest.mark.parametrize(
    ("name", "expected"),
    [  # two blocks; the last norm is outside
        ("Gemma3", {"Linear": 14, "Gemma3RMSNorm": 13, "Gemma3MLP": 2}),
        ("Gemma2", {"Linear": 14, "Gemma2RMSNorm": 9, "Gemma2MLP": 2}),
        ("Llama", {"Linear": 14, "LlamaRMSNorm": 5, "LlamaMLP": 2}),
        ("Qwen3", {"Linear": 14, "Qwen3RMSNorm": 9, "Qwen3MLP": 2}),
        ("GPT2", {"Linear": 8}),
        ("GPTNeoX", {"Linear": 8}),
    ],
)
def test_what_is_replaced(name: str, expected: dict[str, int], family: Callable[[str], Any]) -> None:
    assert replaced(add_lora(deepcopy(family(name)), LoraConfig(rank=2), "x")) == expected


def test_what_computes_something_else_is_left_alone(family: Callable[[str], Any]) -> None:
    class OddRMSNorm(torch.nn.Module):
        def __init__(self, of: Any) -> None:
            super().__init__()
            self.weight, self.eps = of.weight, of.variance_epsilon

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight / x.abs().mean(-1, keepdim=True)

    model = deepcopy(family("Llama"))
    model.model.norm = OddRMSNorm(model.model.norm)
    model.model.layers[0].mlp.act_fn = torch.nn.Identity()  # gives back its own input, which must be kept
    assert replaced(add_lora(model, LoraConfig(rank=2), "x")) == {"Linear": 14, "LlamaRMSNorm": 4, "LlamaMLP": 1}


def test_a_norm_that_learns_gets_its_gradient(family: Callable[[str], Any]) -> None:
    policy = add_lora(deepcopy(family("Gemma3")), LoraConfig(rank=2), "x")
    norm = next(module for module in policy.modules() if type(module).__name__ == "Gemma3RMSNorm")
    norm.weight.requires_grad_()
    policy(input_ids=IDS).logits.sum().backward()
    assert norm.weight.grad is not None


def test_what_is_not_plain_goes_to_peft(family: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> torch.Tensor:
        raise AssertionError("the fused layer was used")

    base = family("Gemma3")
    policy = grown(add_lora(deepcopy(base), LoraConfig(rank=2), "x"))
    monkeypatch.setattr("steersman.lm.fused_layers.lora_linear", never)
    with torch.no_grad():
        plain = base(input_ids=IDS).logits
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


def test_a_model_whose_adapters_are_gone_learns_as_before(tiny_base: Path) -> None:
    """An MLP that went on looking for its adapters would fail with gradients, and only then."""
    ids = torch.tensor([[5, 9, 11, 3]])
    for leave in (take_off, merge):
        model = load_model(tiny_base)
        before = model(input_ids=ids).logits
        left = leave(add_lora(model, LoraConfig(), "tiny"))
        assert torch.equal(left(input_ids=ids).logits, before)
