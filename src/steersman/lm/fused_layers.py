"""Pieces of a transformer block in few passes over memory, in the place of the model's own.

On a CPU a block is matrix products and, for a fifth of the time and much of the memory, what lies between them. Three
leaves of Hugging Face's and peft's code are replaced, whatever the architecture, each only where it was seen to compute
the same numbers, and only while its frozen weights stay frozen:

    LoRA        y = x W' + b + s (x A') B'          Hu et al. 2021 (arXiv:2106.09685); s = alpha / r
    RMSNorm     y = g x / rms(x)                    Zhang & Sennrich 2019 (arXiv:1910.07467); g = w, or 1 + w in Gemma
    gated MLP   y = D(activation(G x) * U x)        Shazeer 2020 (arXiv:2002.05202); D is a LoRA layer

peft computes LoRA as five operations that each write a tensor as large as y, and autograd does so again; here the low
rank product is added into the frozen layer's own output, and its gradient into the frozen layer's own gradient. Of a
norm, only x and one number a row are kept for the backward pass; of an MLP, only G x and U x: the activation and the
product are computed again. An SFT step of gemma-3-270m peaks a sixth lower for both (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Up to this many rows (a decoding step), MKL is up to twice as fast with the weight as the left factor of the product.
FEW_ROWS = 48


def use_fused(policy: Any) -> None:
    """Replace what can be replaced in a peft model. Its parameters, and what is saved of it, stay as they are."""
    from peft.tuners.lora.layer import Linear

    for module in policy.modules():  # before LoRA's own: what they are compared with is the model's and peft's code
        if type(module).__name__.endswith("RMSNorm"):
            _replace_norm(module)
        elif {name for name, _ in module.named_children()} - {"act_fn"} == {"gate_proj", "up_proj", "down_proj"}:
            _replace_mlp(module)
    for module in policy.modules():
        if type(module) is Linear:
            module.forward = MethodType(_lora_forward, module)


def leave_fused(model: Any) -> None:
    """Give a model's norms and MLPs their own code back, when its adapters are gone."""
    for module in model.modules():
        if getattr(module.__dict__.get("forward"), "__func__", None) in (_norm_forward, _mlp_forward):
            del module.forward


# ── LoRA ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
class Lora(NamedTuple):
    """A frozen linear layer and the one adapter on it; ``weight`` [out, in], ``a`` [r, in], ``b`` [out, r].

    The adapter's own weights are float32 always. In a model of bfloat16 these are copies in its precision, through
    which the gradients reach them; peft computes the low-rank product in float32 instead.
    """

    weight: Tensor
    bias: Tensor | None
    a: Tensor
    b: Tensor
    scaling: float


def _plain_lora(layer: Any) -> Lora | None:
    """What a peft layer computes, if that is nothing but LoRA: no dropout, no variant, one adapter, not merged."""
    base, active = layer.get_base_layer(), layer.active_adapters
    plain = (
        not (layer.disable_adapters or layer.merged or layer.lora_variant or base.weight.requires_grad)
        and len(active) == 1
        and active[0] in layer.lora_A
        and isinstance(layer.lora_dropout[active[0]], nn.Identity)
        and not layer.lora_bias[active[0]]
    )
    if not plain:
        return None
    a, b = layer.lora_A[active[0]].weight, layer.lora_B[active[0]].weight
    # Conv1D (GPT-2) keeps its weight as [in, out].
    weight = base.weight.T if layer.fan_in_fan_out else base.weight
    return Lora(weight, base.bias, a.to(weight.dtype), b.to(weight.dtype), layer.scaling[active[0]])


def _lora_forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A peft layer's forward; what is not plain LoRA goes to peft's own."""
    lora = None if args or kwargs else _plain_lora(layer)
    if lora is None:
        forward: Callable[..., Tensor] = type(layer).forward
        return forward(layer, x, *args, **kwargs)
    base = layer.get_base_layer()
    if "forward" in base.__dict__ and not torch.is_grad_enabled():  # an int8 copy (`lm/int8.py`) is in use
        y: Tensor = base(x)
        y.view(-1, y.shape[-1]).addmm_(x.flatten(0, -2) @ lora.a.T, lora.b.T, alpha=lora.scaling)
        return y
    return lora_linear(x, lora)


def lora_linear(x: Tensor, lora: Lora) -> Tensor:
    """``x W' + bias + scaling * (x A') B'``, [..., in] -> [..., out], with gradients for x, A and B."""
    rows = x.flatten(0, -2)
    y: Tensor
    if len(rows) <= FEW_ROWS and not torch.is_grad_enabled() and lora.bias is None:
        y = (lora.weight @ rows.T).addmm_(lora.b, lora.a @ rows.T, alpha=lora.scaling).T.contiguous()
    else:
        y = _LoraLinear.apply(rows, *lora)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], -1)


class _LoraLinear(torch.autograd.Function):
    """On [N, in]; x A' is kept for the backward pass, the other intermediates are not needed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *lora: Any) -> Tensor:
        y, low = _lora_product(x, Lora(*lora))
        weight, _, a, b, ctx.scaling = lora
        ctx.save_for_backward(x, low, weight, a, b)
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        x, low, weight, a, b = ctx.saved_tensors
        return _lora_gradients(upstream[0], x, low, Lora(weight, None, a, b, ctx.scaling), ctx.needs_input_grad)


def _lora_product(x: Tensor, lora: Lora) -> tuple[Tensor, Tensor]:
    """The layer's output, [N, out], and x A', [N, r]."""
    low = x @ lora.a.T
    return nn.functional.linear(x, lora.weight, lora.bias).addmm_(low, lora.b.T, alpha=lora.scaling), low


def _lora_gradients(grad: Tensor, x: Tensor, low: Tensor, lora: Lora, needed: Any) -> Any:
    """Gradients for x and the fields of `Lora`; ``needed``: for which of these six."""
    grad_low = (grad @ lora.b).mul_(lora.scaling)
    grad_x = (grad @ lora.weight).addmm_(grad_low, lora.a) if needed[0] else None
    grad_a = grad_low.T @ x if needed[3] else None
    grad_b = (grad.T @ low).mul_(lora.scaling) if needed[4] else None
    return grad_x, None, None, grad_a, grad_b, None


# ── RMSNorm ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def _replace_norm(module: Any) -> None:
    """Fuse a norm if ``g x / rms(x)``, with g = w or 1 + w, is what it computes."""
    epsilon = getattr(module, "eps", getattr(module, "variance_epsilon", None))
    weight = getattr(module, "weight", None)
    if epsilon is None or weight is None or weight.dtype != torch.float32:
        return
    probe = torch.linspace(-2, 3, 2 * len(weight), device=weight.device).view(2, -1)
    with torch.no_grad():
        wanted = module(probe)
        for shift in (0.0, 1.0):
            if torch.allclose(rms_norm(probe, weight + shift, epsilon), wanted, atol=1e-5, rtol=1e-5):
                module.forward = MethodType(_norm_forward, module)
                module.shift, module.epsilon = shift, epsilon


def _norm_forward(module: Any, x: Tensor) -> Tensor:
    if module.weight.requires_grad or x.dtype != torch.float32:
        forward: Callable[..., Tensor] = type(module).forward
        return forward(module, x)
    return rms_norm(x, module.weight + module.shift, module.epsilon)


def rms_norm(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    """``gain * x / sqrt(mean(x^2) + epsilon)`` over the last dimension, [..., D], with a gradient for x."""
    if not torch.is_grad_enabled():
        return (x * _inverse_rms(x, epsilon)).mul_(gain)
    y: Tensor = _RmsNorm.apply(x, gain, epsilon)  # type: ignore[no-untyped-call]
    return y


def _inverse_rms(x: Tensor, epsilon: float) -> Tensor:
    # The norm is one pass without an intermediate; x^2 and its mean would be two with one.
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
        inverse = _inverse_rms(x, epsilon)
        ctx.save_for_backward(x, gain, inverse)
        return (x * inverse).mul_(gain)

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        """With y = g x r and r = rms(x)^-1: dx = r (g dy) - x r^3 / D sum(x g dy)."""
        x, gain, inverse = ctx.saved_tensors
        grad = upstream[0] * gain
        along = (grad * x).sum(-1, keepdim=True).mul_(inverse**3).div_(-x.shape[-1])
        return grad.mul_(inverse).addcmul_(x, along), None, None


# ── gated MLP ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _replace_mlp(module: Any) -> None:
    """Fuse an MLP if ``down(act_fn(gate(x)) * up(x))`` is what it computes."""
    from peft.tuners.lora.layer import Linear

    if type(module.down_proj) is not Linear or not callable(getattr(module, "act_fn", None)):
        return
    weight = module.gate_proj.weight
    probe = torch.linspace(-2, 3, 2 * module.gate_proj.in_features, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        x = probe.view(1, 2, -1)
        wanted, gate = module(x), module.gate_proj(x)
        activated = module.act_fn(gate)
        ours = module.down_proj(activated * module.up_proj(x))
    # An activation in place would destroy what the backward pass needs.
    if torch.allclose(ours, wanted, atol=1e-5, rtol=1e-5) and activated.data_ptr() != gate.data_ptr():
        module.forward = MethodType(_mlp_forward, module)


def _mlp_forward(module: Any, x: Tensor) -> Tensor:
    lora = _plain_lora(module.down_proj) if torch.is_grad_enabled() else None
    if lora is None:
        forward: Callable[..., Tensor] = type(module).forward
        return forward(module, x)
    gate, up = (layer(x).flatten(0, -2) for layer in (module.gate_proj, module.up_proj))
    y: Tensor = gated_lora(gate, up, module.act_fn, lora)
    return y.view(*x.shape[:-1], -1)


def gated_lora(gate: Tensor, up: Tensor, activation: Callable[[Tensor], Tensor], lora: Lora) -> Tensor:
    """A LoRA layer on ``activation(gate) * up``, [N, in] -> [N, out], with gradients for gate, up, A and B."""
    y: Tensor = _GatedLora.apply(gate, up, activation, *lora)  # type: ignore[no-untyped-call]
    return y


class _GatedLora(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: Callable[[Tensor], Tensor], *lora: Any) -> Tensor:
        y, low = _lora_product(activation(gate).mul_(up), Lora(*lora))
        weight, _, a, b, ctx.scaling = lora
        ctx.save_for_backward(gate, up, low, weight, a, b)
        ctx.activation = activation
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        gate, up, low, weight, a, b = ctx.saved_tensors
        with torch.enable_grad():
            gate = gate.detach().requires_grad_()
            activated = ctx.activation(gate)
        needed = (True, *ctx.needs_input_grad[3:])
        lora = Lora(weight, None, a, b, ctx.scaling)
        grad, *rest = _lora_gradients(upstream[0], activated.detach() * up, low, lora, needed)
        grad_up = grad * activated.detach()
        (grad_gate,) = torch.autograd.grad(activated, gate, grad.mul_(up))
        return grad_gate, grad_up, None, *rest
