"""From hidden states to log-probabilities, only where they are needed, never holding [B, T, V].

With 262,144 tokens the output layer is 63 % of the forward FLOPs of gemma-3-270m, and one [8, 200, V] tensor of
logits takes 1.7 GB. So the caller gathers the scored positions first, and the functions here work through them in
tiles. The gradient of a token's log-prob is known as soon as its tile's softmax is, so it is taken in the forward
pass: three matrix products instead of four, and nothing large is kept. The backward pass only scales its rows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from steersman.errors import ModelError

TILE_MB = 256  # of logits in flight
FEW_ROWS, BLOCK_ROWS = 64, 2048  # of hidden states; of the output layer, a few megabytes, which a cache holds


@dataclass(frozen=True)
class Head:
    """The output layer of a decoder-only model: ``softcap(scale * (hidden @ weight.T + bias)) / temperature``.

    ``weight`` is [V, H]; ``softcap`` is Gemma 2's tanh cap, ``scale`` covers Cohere's and Granite's logit scales. No
    model has another ``temperature`` than 1; it makes the head that of a policy which samples at it.
    """

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0
    temperature: float = 1.0

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, H] -> [N, V]."""
        logits = self.product(hidden)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits if self.temperature == 1.0 else logits / self.temperature

    def product(self, hidden: Tensor) -> Tensor:
        """``hidden @ weight.T + bias``, [N, H] -> [N, V].

        The few rows of sampling meet the weight in blocks, turned round, on a CPU without AVX-512: 1.4 to 2.4 times as
        fast, because at once the library packs all of the large weight anew (docs/performance.md).
        """
        single = hidden.device.type == "cpu" and hidden.dtype == torch.float32
        if torch.is_grad_enabled() or not single or not 1 < len(hidden) <= FEW_ROWS or not _blocks_pay():
            return nn.functional.linear(hidden, self.weight, self.bias)
        logits = hidden.new_empty(len(hidden), len(self.weight))
        for start in range(0, len(self.weight), BLOCK_ROWS):
            logits[:, start : start + BLOCK_ROWS] = (self.weight[start : start + BLOCK_ROWS] @ hidden.T).T
        return logits if self.bias is None else logits.add_(self.bias)

    def rows(self, ids: Tensor) -> Head:
        """The same head with only some of its rows, in the order of ``ids``."""
        return replace(self, weight=self.weight[ids], bias=None if self.bias is None else self.bias[ids])

    def frozen_copy(self) -> Head:
        """The same head as it is now, whatever is learnt later."""
        bias = None if self.bias is None else self.bias.detach().clone()
        return replace(self, weight=self.weight.detach().clone(), bias=bias)

    @property
    def is_plain(self) -> bool:
        """Frozen and linear, so that its gradient can be written down."""
        return not self.weight.requires_grad and self.bias is None and self.softcap is None

    def scaled(self, hidden: Tensor) -> Tensor:
        """The hidden states whose products with a plain head's weight are its logits."""
        factor = self.scale / self.temperature
        return hidden if factor == 1.0 else hidden * factor


@functools.cache
def _blocks_pay() -> bool:
    return "AVX512" not in torch.backends.cpu.get_cpu_capability()


def head_of(model: Any) -> Head:
    """Read the head off a Hugging Face model, and check on a few tokens that it reproduces the model's own logits.

    Also that padding on the right changes nothing before it, which every batch relies on, and that no token is read
    before its time.

    Raises:
        ModelError: the architecture does something else between hidden states and logits, or cannot be padded or run.
    """
    output, config = model.get_output_embeddings(), model.config.get_text_config()
    head = Head(
        weight=output.weight,
        bias=getattr(output, "bias", None),
        softcap=getattr(config, "final_logit_softcapping", None),
        scale=getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0),
    )
    probe = torch.arange(4, device=output.weight.device)[None] % head.weight.shape[0]
    padded, seen = torch.cat([probe, probe[:, :1].expand(1, 3)], 1).repeat(2, 1), torch.ones(2, 7, dtype=torch.long)
    seen[0, 4:] = 0
    try:
        with torch.no_grad(), evaluating(model):
            hidden = trunk(model)(input_ids=probe, use_cache=False).last_hidden_state
            theirs, ours = model(input_ids=probe, use_cache=False).logits[0].float(), head.logits(hidden[0]).float()
            rows = trunk(model)(input_ids=padded, attention_mask=seen.to(padded.device), use_cache=False)
    except Exception as raised:  # whatever a foreign architecture raises
        raise ModelError(
            f"{type(model).__name__} cannot read a text of four tokens ({type(raised).__name__}: {str(raised)[:200]})",
            do="check that the configuration belongs to the weights, or choose another model",
        ) from raised
    if not same_states(rows.last_hidden_state[0, :4], hidden[0]):
        raise ModelError(
            f"what {type(model).__name__} makes of a text changes when the text is padded on the right",
            expected="a decoder-only model whose attention heeds the mask",
            do="choose another model",
        )
    if not same_states(rows.last_hidden_state[1, :4], hidden[0]):
        raise ModelError(
            f"what {type(model).__name__} makes of a text's beginning depends on how the text goes on",
            expected="a decoder-only model, which reads from left to right",
            do="choose another model",
        )
    error = (theirs - ours).abs().max().item()
    if not error <= 1e-3 * max(1.0, theirs.abs().max().item()):
        raise ModelError(
            f"{type(model).__name__} changes its logits in a way that Steersman does not know (off by {error:.2g})",
            expected="logits = softcap(scale * (hidden @ weight.T + bias))",
            do="choose another model, or add the missing term to lm/head.py",
        )
    return head


def head_in_use(head: Head, model: Any) -> Head:
    """The head with the weights of the adapter in use: one that trains the output layer whole has a copy of its own."""
    output = model.get_output_embeddings()
    return replace(head, weight=output.weight, bias=getattr(output, "bias", None))


def trunk(model: Any) -> Any:
    """The decoder below the head: ``trunk(model)(input_ids=...).last_hidden_state`` is [B, T, H]."""
    return getattr(model, model.base_model_prefix)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model in evaluation mode, and each module as it was afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def probe_ids(model: Any, count: int, start: int = 0) -> list[int]:
    """Token ids to try a model on, different as far as its vocabulary reaches."""
    size = model.get_input_embeddings().weight.shape[0]
    return [(7 * (start + i) + 3) % size for i in range(count)]


def same_states(some: Tensor, others: Tensor) -> bool:
    """Whether two computations of the same hidden states differ by rounding alone."""
    tolerance = 1e-3 if others.dtype == torch.float32 else 5e-2
    return bool((some.float() - others.float()).norm() <= tolerance * others.float().norm())


def token_logprobs(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    """Log-probability in nats of each target token, [N], with gradients for ``hidden`` and, if it learns, the head.

    Any loss of these numbers can be trained: the gradient of each is a row that the backward pass only scales.

    Args:
        hidden: [N, H]; targets: [N] indices of the head's rows.
    """
    if not head.is_plain:
        return _checkpointed_logprobs(hidden, targets, head)
    logprobs: Tensor = _FusedLogprobs.apply(head.scaled(hidden), targets, head.weight)  # type: ignore[no-untyped-call]
    return logprobs


def completion_nll(hidden: Tensor, targets: Tensor, head: Head, weights: Tensor | None = None) -> Tensor:
    """Sum of the negative log-likelihoods in nats, a scalar with gradients as in `token_logprobs`.

    Args:
        hidden: [N, H]; targets: [N] indices of the head's rows; weights: [N], how often each target counts.
    """
    return weighted_nll(token_logprobs(hidden, targets, head), weights)


def weighted_nll(logprobs: Tensor, weights: Tensor | None) -> Tensor:
    """Minus the weighted sum of log-probs, [N]; weights: [N], None for 1."""
    return -(logprobs.sum() if weights is None else logprobs @ weights)


def entropies(hidden: Tensor, head: Head) -> Tensor:
    """Entropy in nats of the next-token distribution at each position, [N]; no gradient flows. hidden is [N, H]."""
    found = []
    with torch.no_grad():
        for h in torch.split(hidden, max(8, tile_rows(head.weight) // 2)):
            logprobs = torch.log_softmax(head.logits(h).float(), -1)
            found.append(-(logprobs.exp() * logprobs).sum(-1))
    return torch.cat(found)


def divergence(hidden: Tensor, reference: Tensor, head: Head, reference_head: Head | None = None) -> Tensor:
    """Sum over positions of KL(reference || policy) in nats over the whole vocabulary, with gradients for ``hidden``.

    Args:
        hidden, reference: [N, H] hidden states of the policy and of the model that it is held to.
        reference_head: the reference's output layer, if it is not the same.
    """
    reference_head = reference_head or head
    if not head.is_plain:
        return _checkpointed_divergence(hidden, reference, head, reference_head)
    loss: Tensor = _FusedDivergence.apply(head.scaled(hidden), reference, head.weight, reference_head)  # type: ignore[no-untyped-call]
    return loss


def tile_rows(weight: Tensor) -> int:
    """Positions whose logits fill TILE_MB; weight is [V, H]."""
    return max(8, TILE_MB * 2**20 // (4 * weight.shape[0]))


class _FusedLogprobs(torch.autograd.Function):
    """Tiled log-probs of a frozen linear head, with d log-prob / d hidden taken in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        tile = tile_rows(weight)
        logprobs, gradients = [], []
        for h, t in zip(torch.split(hidden, tile), torch.split(targets, tile), strict=True):
            logits = (h @ weight.T).float()
            log_z = torch.logsumexp(logits, -1, keepdim=True)
            logprobs.append((logits.gather(1, t[:, None]) - log_z)[:, 0])
            if ctx.needs_input_grad[0]:
                probabilities = logits.sub_(log_z).exp_()  # in place: the tile is the largest tensor of the step
                probabilities.scatter_add_(1, t[:, None], probabilities.new_full((len(t), 1), -1.0))
                gradients.append(-(probabilities.to(h.dtype) @ weight))
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0][:, None].to(gradient.dtype), None, None


def _checkpointed_logprobs(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    """The same through autograd, a tile at a time under checkpointing: heads that learn, cap or shift."""
    from torch.utils.checkpoint import checkpoint

    def one(h: Tensor, t: Tensor) -> Tensor:
        return torch.log_softmax(head.logits(h).float(), -1).gather(1, t[:, None])[:, 0]

    tiles = zip(torch.split(hidden, tile_rows(head.weight)), torch.split(targets, tile_rows(head.weight)), strict=True)
    return torch.cat([checkpoint(one, h, t, use_reentrant=False) for h, t in tiles])


class _FusedDivergence(torch.autograd.Function):
    """Tiled KL(reference || policy) of a frozen linear head: d KL / d logits is policy - reference."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, reference: Tensor, weight: Tensor, reference_head: Head) -> Tensor:
        tile = max(8, tile_rows(weight) // 2)
        total = hidden.new_zeros((), dtype=torch.float32)
        gradients = []
        for h, r in zip(torch.split(hidden, tile), torch.split(reference, tile), strict=True):
            policy = torch.log_softmax((h @ weight.T).float(), -1)
            wanted = torch.log_softmax(reference_head.logits(r).float(), -1)
            difference = wanted - policy
            wanted.exp_()
            total += (wanted * difference).sum()
            if ctx.needs_input_grad[0]:
                gradients.append(policy.exp_().sub_(wanted).to(h.dtype) @ weight)
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0], None, None, None


def _checkpointed_divergence(hidden: Tensor, reference: Tensor, head: Head, reference_head: Head) -> Tensor:
    from torch.utils.checkpoint import checkpoint

    def one(h: Tensor, r: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = torch.log_softmax(reference_head.logits(r).float(), -1)
        policy = torch.log_softmax(head.logits(h).float(), -1)
        return nn.functional.kl_div(policy, wanted, reduction="sum", log_target=True)

    tile = max(8, tile_rows(head.weight) // 2)
    tiles = zip(torch.split(hidden, tile), torch.split(reference, tile), strict=True)
    parts = [checkpoint(one, h, r, use_reentrant=False) for h, r in tiles]
    return torch.stack(parts).sum() if parts else hidden.sum() * 0.0
