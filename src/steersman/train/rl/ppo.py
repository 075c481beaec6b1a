"""PPO with a critic: step 3 of InstructGPT (Ouyang et al. 2022, arXiv:2203.02155; Schulman et al. 2017,
arXiv:1707.06347).

    r_t    = - beta * (log pi - log reference)_t  +  the answer's reward on its last token
    A, R   = GAE(r, V, gamma, lambda)                  R = A + V;  A is whitened over all tokens of the step
    policy   mean over tokens of w_t * -min(ratio_t A_t, clip(ratio_t, 1 - clip, 1 + clip) A_t)
    critic   vf_coef * mean over tokens of half the larger squared error of V and of V clipped to its old value

The critic is an adapter with a head of its own, both initialised with the reward model (its first member), as in the
paper. V_t is its output where token t is predicted. A batch of rollouts is used for ``updates`` steps. The score stands
on the last token that was generated; some implementations put it on the place after, where no value is learnt.

What differs from the paper: LoRA; the critic shares the base model's frozen layers and the optimiser with the policy;
``ptx_coef`` mixes in demonstrations, where the paper has pre-training text; no moving average of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from steersman.functional import (
    clipped_surrogate,
    clipped_value_loss,
    generalised_advantages,
    k1_nats,
    sampler_weights,
    whiten,
)
from steersman.train import distributed
from steersman.train.rl.actor import PolicyBatch
from steersman.train.rl.loop import Algorithm, Losses, RlConfig, Targets, Totals

VERSION = 1


class PpoConfig(RlConfig):
    """`RlConfig`, and PPO's own settings."""

    algorithm: Literal["ppo"] = Field(default="ppo", description="PPO with a critic.")
    updates: int = Field(default=4, ge=1, description="Optimiser steps per batch of rollouts (PPO epochs).")
    clip: float = Field(default=0.2, gt=0, lt=1, description="The policy ratio is clipped to 1 - clip ... 1 + clip.")
    gamma: float = Field(default=1.0, gt=0, le=1, description="Discount per token.")
    gae_lambda: float = Field(default=0.95, ge=0, le=1, description="GAE's lambda: 1 trusts rewards, 0 the critic.")
    value_clip: float = Field(default=0.2, gt=0, description="Values are clipped to their old value +- this.")
    vf_coef: float = Field(default=0.1, gt=0, description="Weight of the critic's loss.")


def algorithm(config: PpoConfig) -> Algorithm:
    """PPO with these settings."""
    return Algorithm(partial(advantages, config), partial(loss, config), ("value_loss", "clipfrac"), critic=True)


def advantages(config: PpoConfig, batches: Sequence[PolicyBatch], beta: float) -> list[Targets]:
    """GAE of a step's micro-batches, whitened over the whole step, in whatever micro-batches and processes."""
    targets = [estimated(config, batch, beta) for batch in batches]
    own = [advantage for t in targets for advantage in t.advantages.tolist()]
    every = torch.tensor(distributed.gather(own), dtype=torch.float64)

    def whitened(raw: Tensor) -> Tensor:
        return whiten(raw, torch.ones_like(raw, dtype=torch.bool), over=every.to(raw.device))

    return [t._replace(advantages=whitened(t.advantages)) for t in targets]


def estimated(config: PpoConfig, batch: PolicyBatch, beta: float) -> Targets:
    """Advantages [N], not yet whitened, and returns [N]."""
    assert batch.values is not None
    values = batch.values
    lengths = batch.tree.sum_per_sequence(torch.ones_like(values)).long()
    mask = torch.arange(int(lengths.max()), device=values.device) < lengths[:, None]
    per_token = -beta * k1_nats(batch.old_logprobs, batch.reference_logprobs)
    last = lengths.cumsum(0) - 1
    per_token = per_token.index_add(0, last, batch.rewards.flatten().to(per_token.dtype))

    def by_answer(flat: Tensor) -> Tensor:
        return flat.new_zeros(mask.shape).masked_scatter(mask, flat)

    gae, returns = generalised_advantages(
        by_answer(per_token), by_answer(values), mask, config.gamma, config.gae_lambda
    )
    return Targets(gae[mask], returns[mask], values)


def loss(config: PpoConfig, batch: PolicyBatch, targets: Targets, totals: Totals, beta: float) -> Losses:
    """The policy's and the critic's loss; beta is in the advantages."""
    assert batch.values is not None
    assert targets.returns is not None
    assert targets.old_values is not None
    surrogate = clipped_surrogate(batch.logprobs, batch.old_logprobs, targets.advantages, config.clip, config.clip)
    if batch.sampler_logprobs is not None:
        surrogate = surrogate * sampler_weights(batch.old_logprobs, batch.sampler_logprobs)
    errors = clipped_value_loss(batch.values, targets.old_values, targets.returns, config.value_clip)
    with torch.no_grad():
        ratio = torch.exp(batch.logprobs - batch.old_logprobs)
        clipped = float(((ratio - 1).abs() > config.clip).sum())
    return Losses(
        surrogate.sum() / totals.tokens,
        config.vf_coef * errors.sum() / totals.tokens,
        {"value_loss": float(errors.detach().sum()), "clipfrac": clipped},
    )
