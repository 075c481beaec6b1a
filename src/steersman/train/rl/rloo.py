"""RLOO: REINFORCE with the other answers to the prompt as baseline (Ahmadian et al. 2024, arXiv:2402.14740).

    R_i  = score_i - beta * sum_t (log pi - log reference)          the KL is a part of the reward (k1)
    A_i  = R_i - mean of the other answers' R
    loss = mean over answers of -min(ratio_i A_i, clip(ratio_i, 1 - clip, 1 + clip) A_i)
           ratio_i = exp(sum_t w_t (log pi - log old)_t)

An answer is one action: its log-probability is the sum over its tokens. w_t corrects for what int8 weights or a compact
vocabulary sampled, and is 1 otherwise. It is that of a token: that of a whole answer would be exact, and a product of
fifty ratios of 1 +- 0.2 is noise. With one update for each batch of rollouts, as in the paper, the ratio
is 1, the clip bounds nothing, and the gradient is that of - A_i log pi(y_i | x).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from steersman.functional import clipped_surrogate, leave_one_out_advantages, sampler_weights
from steersman.train.rl.actor import Read
from steersman.train.rl.loop import Algorithm, RlConfig, Totals

VERSION = 1


class RlooConfig(RlConfig):
    """See `RlConfig`."""

    algorithm: Literal["rloo"] = "rloo"
    clip: float = Field(default=0.2, gt=0, lt=1)


class Rloo(Algorithm):
    """The loss above."""

    def __init__(self, config: RlooConfig) -> None:
        self.config = config

    def loss(self, read: Read, totals: Totals, beta: float) -> Tensor:
        """A micro-batch's share of the step's loss, a scalar."""
        clip = self.config.clip
        advantages = leave_one_out_advantages(read.rewards - beta * read.k1_per_answer()).flatten()
        moved = read.logprobs - read.old
        if read.drawn is not None:
            moved = moved * sampler_weights(read.old, read.drawn)
        log_ratios = read.batch.sum_per_sequence(moved)
        losses = clipped_surrogate(log_ratios, torch.zeros_like(log_ratios), advantages, clip, clip)
        return losses.sum() / totals.answers
