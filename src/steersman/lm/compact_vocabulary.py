"""A compact vocabulary: an unbiased loss over K of V rows of the output layer, about five times cheaper.

Every position is scored over the K rows of the output layer that can occur, and a random share s of the positions over
all V rows as well,

    loss = sum over all positions of nll_K  +  (1 / s) * sum over the chosen positions of (nll_V - nll_K) .

Its expectation over the choice is the full loss, and so is its gradient's: the estimator is exactly unbiased (a
single-term debiasing, as in Rhee & Glynn 2015). Leaving the second sum out would let probability leak into rows that
are never held down: trained that way, a model put 7.2 % of its mass outside (raw: 5.7 %) and wrote curly apostrophes
where the data had straight ones. Sampling the rest of the partition function instead is unbiased for Z but not for
log Z, and at affordable sample sizes it held the outside down too weakly (docs/decisions/0003).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from steersman.lm.chat_format import Example
from steersman.lm.head import Head, divergence, tile_rows, token_logprobs, trunk, weighted_nll
from steersman.types import Record


class CompactConfig(Record):
    """Which rows a compact vocabulary scores, and how often all rows are scored to debias it."""

    extra_rows: int = Field(default=8192, ge=0, description="Rows beyond the data's own tokens, by probability.")
    full_share: float = Field(default=0.125, gt=0, le=1, description="Share of positions scored over all rows as well.")


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
        return weighted_nll(self.token_logprobs(hidden, targets, full, generator), weights)

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
        """Advance the generator past positions that another process scores."""
        torch.rand(positions, generator=generator)

    def outside_mass(self, hidden: Tensor, full: Head) -> float:
        """Mean probability that the full softmax gives to tokens outside the exact rows; hidden is [N, H]."""
        with torch.no_grad():
            inside = [
                torch.softmax(full.logits(h).float(), -1)[:, self.exact].sum(-1)
                for h in torch.split(hidden, tile_rows(full.weight))
            ]
            return 1.0 - float(torch.cat(inside).mean())


def compact_vocabulary(token_ids: Tensor, hidden: Tensor, full: Head, config: CompactConfig) -> CompactVocabulary:
    """The rows: every token of the data, then those to which the base model gives the most probability.

    Args:
        token_ids: ids that occur in the data, any shape.
        hidden: [N, H] hidden states of the base model at a sample of scored positions.
    """
    vocabulary, device = full.weight.shape[0], full.weight.device
    mass = torch.zeros(vocabulary, device=device)
    with torch.no_grad():
        for h in torch.split(hidden, tile_rows(full.weight)):
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
