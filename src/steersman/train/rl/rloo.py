"""RLOO: REINFORCE with the other answers to the prompt as baseline (Ahmadian et al. 2024, arXiv:2402.14740).

    R_i  = score_i - beta * sum_t (log pi - log reference)          the KL is a part of the reward (k1)
    A_i  = R_i - mean of the other answers' R
    loss = mean over answers of -min(ratio_i A_i, clip(ratio_i, 1 - clip, 1 + clip) A_i)
           ratio_i = exp(sum_t w_t (log pi - log old)_t)

An answer is one action: its log-probability is the sum over its tokens. w_t corrects for a sampler with int8 weights or
a compact vocabulary, and is 1 otherwise. It is per token: the weight of a whole answer would be exact, and a product of
fifty ratios of 1 +- 0.2 is noise. With one update for each batch of rollouts, as in the paper, the ratio is 1, the clip
has no effect, and the gradient is that of - A_i log pi(y_i | x).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from pydantic import Field

from steersman.functional import clipped_surrogate, leave_one_out_advantages, sampler_weights
from steersman.train.rl.actor import PolicyBatch
from steersman.train.rl.loop import Algorithm, Losses, RlConfig, Targets, Totals

VERSION = 1


class RlooConfig(RlConfig):
    """`RlConfig`, and RLOO's own settings."""

    algorithm: Literal["rloo"] = Field(default="rloo", description="REINFORCE, leave-one-out.")
    clip: float = Field(default=0.2, gt=0, lt=1, description="An answer's ratio is clipped to 1 - clip ... 1 + clip.")


def algorithm(config: RlooConfig) -> Algorithm:
    """RLOO with these settings."""
    return Algorithm(advantages, partial(loss, config))


def advantages(batches: Sequence[PolicyBatch], beta: float) -> list[Targets]:
    """[P * G] of each micro-batch."""
    rewards = [batch.rewards - beta * batch.k1_per_answer() for batch in batches]
    return [Targets(leave_one_out_advantages(group).flatten()) for group in rewards]


def loss(config: RlooConfig, batch: PolicyBatch, targets: Targets, totals: Totals, beta: float) -> Losses:
    """The policy's loss; beta is in the advantages."""
    change = batch.logprobs - batch.old_logprobs
    if batch.sampler_logprobs is not None:
        change = change * sampler_weights(batch.old_logprobs, batch.sampler_logprobs)
    log_ratios = batch.tree.sum_per_sequence(change)
    losses = clipped_surrogate(log_ratios, torch.zeros_like(log_ratios), targets.advantages, config.clip, config.clip)
    return Losses(losses.sum() / totals.answers)
