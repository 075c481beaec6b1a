"""From hidden states to log-probabilities, only where they are needed, never holding [B, T, V].

With 262,144 tokens the output layer is 63 % of the forward FLOPs of gemma-3-270m, and one [8, 200, V] tensor of
logits takes 1.7 GB. So the caller gathers the scored positions first, and the functions here work through them in
tiles. For a sum of token log-probs the gradient of the hidden states is known as soon as a tile's softmax is, so it
is taken in the forward pass: three matrix products instead of four, and nothing large is kept for the backward pass.

A **compact vocabulary** makes the layer about five times cheaper again: every position is scored over the K rows that
can occur, and a random share s of the positions over all V rows as well,

    loss = sum over all positions of nll_K  +  (1 / s) * sum over the chosen positions of (nll_V - nll_K) .

Its expectation over the choice is the full loss, and so is its gradient's: the estimator is exactly unbiased (a
single-term debiasing, as in Rhee & Glynn 2015). Leaving the second sum out would let probability leak into rows that
nobody holds down: trained that way, a model put 7.2 % of its mass outside (raw: 5.7 %) and wrote curly apostrophes
where the data had straight ones. Sampling the rest of the partition function instead is unbiased for Z but not for
log Z, and at affordable sample sizes it held the outside down too weakly (docs/decisions/0003).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from steersman.errors import ModelError
from steersman.types import Record

TILE_MB = 256  # of logits in flight


@dataclass(frozen=True)
class Head:
    """The output layer of a decoder-only model: ``softcap(scale * (hidden @ weight.T + bias))``.

    ``weight`` is [V, H]; ``softcap`` is Gemma 2's tanh cap, ``scale`` covers Cohere's and Granite's logit scales.
    """

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, H] -> [N, V]."""
        logits = nn.functional.linear(hidden, self.weight, self.bias)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def rows(self, ids: Tensor) -> Head:
        """The same head with only some of its rows, in the order of ``ids``."""
        return Head(self.weight[ids], None if self.bias is None else self.bias[ids], self.softcap, self.scale)

    def frozen_copy(self) -> Head:
        """The same head as it is now, whatever is learnt later."""
        bias = None if self.bias is None else self.bias.detach().clone()
        return Head(self.weight.detach().clone(), bias, self.softcap, self.scale)

    @property
    def is_plain(self) -> bool:
        """Frozen and linear, so that its gradient can be written down."""
        return not self.weight.requires_grad and self.bias is None and self.softcap is None and self.scale == 1.0


def head_of(model: Any) -> Head:
    """Read the head off a Hugging Face model and check on four tokens that it reproduces the model's own logits.

    Raises:
        ModelError: the architecture does something else between hidden states and logits.
    """
    output, config = model.get_output_embeddings(), model.config.get_text_config()
    head = Head(
        weight=output.weight,
        bias=getattr(output, "bias", None),
        softcap=getattr(config, "final_logit_softcapping", None),
        scale=getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0),
    )
    probe = torch.arange(4, device=output.weight.device)[None] % head.weight.shape[0]
    with torch.no_grad():
        hidden = trunk(model)(input_ids=probe, use_cache=False).last_hidden_state
        theirs, ours = model(input_ids=probe, use_cache=False).logits[0].float(), head.logits(hidden[0]).float()
    error = (theirs - ours).abs().max().item()
    if not error <= 1e-3 * max(1.0, theirs.abs().max().item()):
        raise ModelError(
            f"{type(model).__name__} changes its logits in a way that Steersman does not know (off by {error:.2g})",
            expected="logits = softcap(scale * (hidden @ weight.T + bias))",
            do="choose another model, or add the missing term to lm/head.py",
        )
    return head


def trunk(model: Any) -> Any:
    """The decoder below the head: ``trunk(model)(input_ids=...).last_hidden_state`` is [B, T, H]."""
    return getattr(model, model.base_model_prefix)


def token_logprobs(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    """Log-probability of each target token, [N]. No gradient flows; see `completion_nll` for training.

    Args:
        hidden: [N, H]; targets: [N] token ids.
    """
    with torch.no_grad():
        tiles = zip(torch.split(hidden, _tile(head)), torch.split(targets, _tile(head)), strict=True)
        parts = [torch.log_softmax(head.logits(h).float(), -1).gather(1, t[:, None])[:, 0] for h, t in tiles]
        return torch.cat(parts) if parts else hidden.new_zeros(0)


def completion_nll(hidden: Tensor, targets: Tensor, head: Head, weights: Tensor | None = None) -> Tensor:
    """Sum of the negative log-likelihoods in nats, a scalar with gradients for ``hidden`` and, if it learns, the head.

    Args:
        hidden: [N, H]; targets: [N] indices of the head's rows; weights: [N], how often each target counts.
    """
    weights = torch.ones(len(targets), device=hidden.device) if weights is None else weights
    if not head.is_plain:
        return _checkpointed_nll(hidden, targets, head, weights)
    loss: Tensor = _FusedNLL.apply(hidden, targets, head.weight, weights)  # type: ignore[no-untyped-call]
    return loss


def divergence(hidden: Tensor, reference: Tensor, head: Head, reference_head: Head | None = None) -> Tensor:
    """Sum over positions of KL(reference || policy) in nats over the whole vocabulary, with gradients for ``hidden``.

    Args:
        hidden, reference: [N, H] hidden states of the policy and of the model that it is held to.
        reference_head: the reference's output layer, if it is not the same.
    """
    reference_head = reference_head or head
    if not head.is_plain:
        return _checkpointed_divergence(hidden, reference, head, reference_head)
    loss: Tensor = _FusedDivergence.apply(hidden, reference, head.weight, reference_head)  # type: ignore[no-untyped-call]
    return loss


def _tile(head: Head) -> int:
    return max(8, TILE_MB * 2**20 // (4 * head.weight.shape[0]))


class _FusedNLL(torch.autograd.Function):
    """Tiled cross-entropy of a frozen linear head, with d loss / d hidden taken in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor, weights: Tensor) -> Tensor:
        tile = max(8, TILE_MB * 2**20 // (4 * weight.shape[0]))
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden)
        start = 0
        tiles = (torch.split(x, tile) for x in (hidden, targets, weights))
        for h, t, w in zip(*tiles, strict=True):
            logits = (h @ weight.T).float()
            log_z = torch.logsumexp(logits, -1, keepdim=True)
            total += (log_z - logits.gather(1, t[:, None]))[:, 0] @ w
            probabilities = logits.sub_(log_z).exp_()  # in place: the tile is the largest tensor of the step
            probabilities.scatter_add_(1, t[:, None], probabilities.new_full((len(t), 1), -1.0))
            gradient[start : start + len(t)] = (probabilities.to(h.dtype) @ weight) * w[:, None]
            start += len(t)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0], None, None, None


def _checkpointed_nll(hidden: Tensor, targets: Tensor, head: Head, weights: Tensor) -> Tensor:
    """The same sum through autograd, a tile at a time under checkpointing: heads that learn, cap or shift."""
    from torch.utils.checkpoint import checkpoint

    def one(h: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return nn.functional.cross_entropy(head.logits(h).float(), t, reduction="none") @ w

    tiles = (torch.split(x, _tile(head)) for x in (hidden, targets, weights))
    parts = [checkpoint(one, h, t, w, use_reentrant=False) for h, t, w in zip(*tiles, strict=True)]
    return torch.stack(parts).sum() if parts else hidden.sum() * 0.0


class _FusedDivergence(torch.autograd.Function):
    """Tiled KL(reference || policy) of a frozen linear head: d KL / d logits is policy - reference."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, reference: Tensor, weight: Tensor, reference_head: Head) -> Tensor:
        tile = max(8, TILE_MB * 2**20 // (8 * weight.shape[0]))
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden)
        start = 0
        for h, r in zip(torch.split(hidden, tile), torch.split(reference, tile), strict=True):
            policy = torch.log_softmax((h @ weight.T).float(), -1)
            wanted = torch.log_softmax(reference_head.logits(r).float(), -1)
            difference = wanted - policy
            wanted.exp_()
            total += (wanted * difference).sum()
            gradient[start : start + len(h)] = policy.exp_().sub_(wanted).to(h.dtype) @ weight
            start += len(h)
        ctx.save_for_backward(gradient)
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

    tile = max(8, _tile(head) // 2)
    tiles = zip(torch.split(hidden, tile), torch.split(reference, tile), strict=True)
    parts = [checkpoint(one, h, r, use_reentrant=False) for h, r in tiles]
    return torch.stack(parts).sum() if parts else hidden.sum() * 0.0


# ── compact vocabulary ───────────────────────────────────────────────────────────────────────────────────────────────
class CompactConfig(Record):
    """``extra_rows``: exact rows beyond the data's own tokens; ``full_share``: positions also scored over all rows."""

    extra_rows: int = Field(default=8192, ge=0)
    full_share: float = Field(default=0.125, gt=0, le=1)


@dataclass(frozen=True)
class CompactVocabulary:
    """The rows that are scored at every position.

    ``exact`` [K] ids; ``position`` [V] the index of an id among them, -1 if absent; ``head`` their rows of the head.
    """

    exact: Tensor
    position: Tensor
    head: Head
    full_share: float

    def nll(
        self, hidden: Tensor, targets: Tensor, full: Head, generator: torch.Generator, weights: Tensor | None = None
    ) -> Tensor:
        """An unbiased estimate of ``completion_nll(hidden, targets, full, weights)``, value and gradient.

        Args:
            hidden: [N, H]; targets: [N] token ids, all among the exact rows; weights: [N].
            generator: chooses the positions that are scored over all rows as well.
        """
        rows = self.position[targets]
        total = completion_nll(hidden, rows, self.head, weights)
        chosen = self._chosen(hidden, generator)
        some, w = hidden[chosen], None if weights is None else weights[chosen]
        correction = completion_nll(some, targets[chosen], full, w) - completion_nll(some, rows[chosen], self.head, w)
        return total + correction / self.full_share

    def divergence(self, hidden: Tensor, reference: Tensor, full: Head, generator: torch.Generator) -> Tensor:
        """An unbiased estimate of ``divergence(hidden, reference, full)``, value and gradient; arguments as above."""
        chosen = self._chosen(hidden, generator)
        some, wanted = hidden[chosen], reference[chosen]
        correction = divergence(some, wanted, full) - divergence(some, wanted, self.head)
        return divergence(hidden, reference, self.head) + correction / self.full_share

    def _chosen(self, hidden: Tensor, generator: torch.Generator) -> Tensor:
        """[N] bool: the positions that are scored over all rows as well."""
        return torch.rand(len(hidden), generator=generator).to(hidden.device) < self.full_share

    def outside_mass(self, hidden: Tensor, full: Head) -> float:
        """Mean probability that the full softmax gives to tokens outside the exact rows; hidden is [N, H]."""
        with torch.no_grad():
            inside = [
                torch.softmax(full.logits(h).float(), -1)[:, self.exact].sum(-1)
                for h in torch.split(hidden, _tile(full))
            ]
            return 1.0 - float(torch.cat(inside).mean())


def compact_vocabulary(token_ids: Tensor, hidden: Tensor, full: Head, config: CompactConfig) -> CompactVocabulary:
    """Choose the rows: every token of the data, then those to which the base model gives the most probability.

    Args:
        token_ids: ids that occur in the data, any shape.
        hidden: [N, H] hidden states of the base model at a sample of scored positions.
    """
    vocabulary = full.weight.shape[0]
    mass = torch.zeros(vocabulary)
    with torch.no_grad():
        for h in torch.split(hidden, _tile(full)):
            mass += torch.softmax(full.logits(h).float(), -1).sum(0)
    chosen = torch.zeros(vocabulary, dtype=torch.bool)
    chosen[token_ids.flatten()] = True
    mass[chosen] = -1.0
    chosen[mass.topk(min(config.extra_rows, int((~chosen).sum()))).indices] = True
    exact = chosen.nonzero()[:, 0]
    position = torch.full((vocabulary,), -1)
    position[exact] = torch.arange(len(exact))
    return CompactVocabulary(exact, position, full.rows(exact), config.full_share)
