"""The arithmetic of LoRA, Hu et al. 2021 (arXiv:2106.09685), in few passes over memory.

    y = x W' + b + s (x A') B'        W frozen, A [r, in], B [out, r], s = alpha / r

peft computes it as five operations that each write a tensor as large as y, and autograd does so again. Here the low
rank product is added into the frozen layer's own output, and its gradient into the frozen layer's own gradient:
three matrix products forward, five backward, nothing else. The adapters stay peft's: only how they are applied
changes, and only where nothing but plain LoRA is asked for (no dropout, no variant, one adapter, not merged).
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

# Up to so many rows (a decoding step), MKL is up to twice as fast with the weight as the left factor of the product.
FEW_ROWS = 48


def use_fused(policy: Any) -> None:
    """Let every plain LoRA layer of a peft model compute its output with `lora_linear`."""
    from peft.tuners.lora.layer import Linear

    for module in policy.modules():
        if type(module) is Linear:
            module.forward = MethodType(_forward, module)


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A peft layer's forward; what is not plain LoRA goes to peft's own."""
    base, active = layer.get_base_layer(), layer.active_adapters
    plain = (
        not (args or kwargs or layer.disable_adapters or layer.merged or layer.lora_variant)
        and len(active) == 1
        and active[0] in layer.lora_A
        and isinstance(layer.lora_dropout[active[0]], nn.Identity)
        and not layer.lora_bias[active[0]]
    )
    if not plain or base.weight.requires_grad:
        forward: Callable[..., Tensor] = type(layer).forward
        return forward(layer, x, *args, **kwargs)
    a, b = layer.lora_A[active[0]].weight, layer.lora_B[active[0]].weight
    # Conv1D (GPT-2) keeps its weight as [in, out].
    weight = base.weight.T if layer.fan_in_fan_out else base.weight
    return lora_linear(x, weight, base.bias, a, b, layer.scaling[active[0]])


def lora_linear(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """``x W' + bias + scaling * (x A') B'``, [..., in] -> [..., out], with gradients for x, A and B.

    Args:
        weight: [out, in], frozen; bias: [out], frozen; a: [r, in]; b: [out, r].
    """
    rows = x.flatten(0, -2)
    y: Tensor
    if len(rows) <= FEW_ROWS and not torch.is_grad_enabled() and bias is None:
        y = (weight @ rows.T).addmm_(b, a @ rows.T, alpha=scaling).T.contiguous()
    else:
        y = _LoraLinear.apply(rows, weight, bias, a, b, scaling)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], -1)


class _LoraLinear(torch.autograd.Function):
    """On [N, in]; x A' is kept for the backward pass, the other intermediates are not needed."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        low = x @ a.T
        ctx.save_for_backward(x, low, weight, a, b)
        ctx.scaling = scaling
        return nn.functional.linear(x, weight, bias).addmm_(low, b.T, alpha=scaling)

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        (grad,) = upstream
        x, low, weight, a, b = ctx.saved_tensors
        grad_low = (grad @ b).mul_(ctx.scaling)
        grad_x = (grad @ weight).addmm_(grad_low, a) if ctx.needs_input_grad[0] else None
        grad_a = grad_low.T @ x if ctx.needs_input_grad[3] else None
        grad_b = (grad.T @ low).mul_(ctx.scaling) if ctx.needs_input_grad[4] else None
        return grad_x, None, None, grad_a, grad_b, None
