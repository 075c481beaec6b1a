"""RLOO: REINFORCE with the other answers to the prompt as baseline (Ahmadian et al. 2024, arXiv:2402.14740).

    R_i  = score_i - beta * sum_t (log pi - log reference)          the KL is a part of the reward (k1)
    A_i  = R_i - mean of the other answers' R
    loss = mean over answers of w_i * -min(ratio_i A_i, clip(ratio_i, 1 - clip, 1 + clip) A_i)

An answer is one action: its log-probability is the sum over its tokens. w_i corrects for answers that int8 weights or a
compact vocabulary sampled, and is 1 otherwise. With one update for each batch of rollouts, as in the paper, the ratio
is 1, the clip bounds nothing, and the gradient is that of - A_i log pi(y_i | x).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from steersman.functional import clipped_surrogate, leave_one_out_advantages, sampler_weights
from steersman.train.actor import Read
from steersman.train.rl import Algorithm, RlConfig, Totals

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
        logprobs, old = (read.batch.sum_per_sequence(values) for values in (read.logprobs, read.old))
        losses = clipped_surrogate(logprobs, old, advantages, clip, clip)
        if read.drawn is not None:
            losses = losses * sampler_weights(old, read.batch.sum_per_sequence(read.drawn))
        return losses.sum() / totals.answers
