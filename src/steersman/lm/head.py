"""From hidden states to log-probabilities, only where they are needed, never holding [B, T, V].

With 262,144 tokens the output layer is 63 % of the forward FLOPs of gemma-3-270m, and one [8, 200, V] tensor of
logits takes 1.7 GB. So the caller gathers the scored positions first, and the functions here work through them in
tiles. The gradient of a token's log-prob is known as soon as its tile's softmax is, so it is taken in the forward
pass: three matrix products instead of four, and nothing large is kept. The backward pass only scales its rows.

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

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from steersman.errors import ModelError
from steersman.lm.chat_format import Example
from steersman.types import Record

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
    return _weighted_nll(token_logprobs(hidden, targets, head), weights)


def _weighted_nll(logprobs: Tensor, weights: Tensor | None) -> Tensor:
    return -(logprobs.sum() if weights is None else logprobs @ weights)


def entropies(hidden: Tensor, head: Head) -> Tensor:
    """Entropy in nats of the next-token distribution at each position, [N]; no gradient flows. hidden is [N, H]."""
    found = []
    with torch.no_grad():
        for h in torch.split(hidden, max(8, _tile(head.weight) // 2)):
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


def _tile(weight: Tensor) -> int:
    """Positions whose logits fill TILE_MB; weight is [V, H]."""
    return max(8, TILE_MB * 2**20 // (4 * weight.shape[0]))


class _FusedLogprobs(torch.autograd.Function):
    """Tiled log-probs of a frozen linear head, with d log-prob / d hidden taken in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        tile = _tile(weight)
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

    tiles = zip(torch.split(hidden, _tile(head.weight)), torch.split(targets, _tile(head.weight)), strict=True)
    return torch.cat([checkpoint(one, h, t, use_reentrant=False) for h, t in tiles])


class _FusedDivergence(torch.autograd.Function):
    """Tiled KL(reference || policy) of a frozen linear head: d KL / d logits is policy - reference."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, reference: Tensor, weight: Tensor, reference_head: Head) -> Tensor:
        tile = max(8, _tile(weight) // 2)
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

    tile = max(8, _tile(head.weight) // 2)
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

    def token_logprobs(self, hidden: Tensor, targets: Tensor, full: Head, generator: torch.Generator) -> Tensor:
        """Unbiased estimates of ``token_logprobs(hidden, targets, full)``, [N], values and gradients.

        Args:
            hidden: [N, H]; targets: [N] token ids, all among the exact rows.
            generator: chooses the positions that are scored over all rows as well.
        """
        logprobs = token_logprobs(hidden, self.position[targets], self.head)
        chosen = self._chosen(hidden, generator).nonzero()[:, 0]
        correction = token_logprobs(hidden[chosen], targets[chosen], full) - logprobs[chosen]
        return logprobs.index_add(0, chosen, correction / self.full_share)

    def nll(
        self, hidden: Tensor, targets: Tensor, full: Head, generator: torch.Generator, weights: Tensor | None = None
    ) -> Tensor:
        """An unbiased estimate of ``completion_nll(hidden, targets, full, weights)``; arguments as above."""
        return _weighted_nll(self.token_logprobs(hidden, targets, full, generator), weights)

    def divergence(self, hidden: Tensor, reference: Tensor, full: Head, generator: torch.Generator) -> Tensor:
        """An unbiased estimate of ``divergence(hidden, reference, full)``, value and gradient; arguments as above."""
        chosen = self._chosen(hidden, generator)
        some, wanted = hidden[chosen], reference[chosen]
        correction = divergence(some, wanted, full) - divergence(some, wanted, self.head)
        return divergence(hidden, reference, self.head) + correction / self.full_share

    def _chosen(self, hidden: Tensor, generator: torch.Generator) -> Tensor:
        """[N] bool: the positions that are scored over all rows as well."""
        return torch.rand(len(hidden), generator=generator).to(hidden.device) < self.full_share

    def pass_over(self, positions: int, generator: torch.Generator) -> None:
        """Draw what scoring so many positions would have drawn, when another process scores them."""
        torch.rand(positions, generator=generator)

    def outside_mass(self, hidden: Tensor, full: Head) -> float:
        """Mean probability that the full softmax gives to tokens outside the exact rows; hidden is [N, H]."""
        with torch.no_grad():
            inside = [
                torch.softmax(full.logits(h).float(), -1)[:, self.exact].sum(-1)
                for h in torch.split(hidden, _tile(full.weight))
            ]
            return 1.0 - float(torch.cat(inside).mean())


def compact_vocabulary(token_ids: Tensor, hidden: Tensor, full: Head, config: CompactConfig) -> CompactVocabulary:
    """Choose the rows: every token of the data, then those to which the base model gives the most probability.

    Args:
        token_ids: ids that occur in the data, any shape.
        hidden: [N, H] hidden states of the base model at a sample of scored positions.
    """
    vocabulary, device = full.weight.shape[0], full.weight.device
    mass = torch.zeros(vocabulary, device=device)
    with torch.no_grad():
        for h in torch.split(hidden, _tile(full.weight)):
            mass += torch.softmax(full.logits(h).float(), -1).sum(0)
    chosen = torch.zeros(vocabulary, dtype=torch.bool, device=device)
    chosen[token_ids.flatten()] = True
    mass[chosen] = -1.0
    chosen[mass.topk(min(config.extra_rows, int((~chosen).sum()))).indices] = True
    exact = chosen.nonzero()[:, 0]
    position = torch.full((vocabulary,), -1, device=device)
    position[exact] = torch.arange(len(exact), device=device)
    return CompactVocabulary(exact, position, full.rows(exact), config.full_share)


def choose_vocabulary(config: CompactConfig, model: Any, head: Head, examples: Sequence[Example]) -> CompactVocabulary:
    """Rows from all examples; the base model's own mass from an even sample of them (about 1,500 positions)."""
    with torch.no_grad():
        hidden = torch.cat([_scored_states(model, e) for e in examples[:: max(1, len(examples) // 32)]])
    ids = torch.tensor(sorted({token for example in examples for token in example.token_ids}))
    return compact_vocabulary(ids, hidden, head, config)


def _scored_states(model: Any, example: Example) -> Tensor:
    """Hidden states at the positions that predict the completion, [C, H]."""
    ids = torch.tensor([example.token_ids], device=model.device)
    hidden: Tensor = trunk(model)(input_ids=ids, use_cache=False).last_hidden_state
    return hidden[0, example.completion_start - 1 : -1]
