"""RLOO: REINFORCE with the other answers to the prompt as baseline (Ahmadian et al. 2024, arXiv:2402.14740).

    R_i  = score_i - beta * sum_t (log pi - log reference)          the KL is a part of the reward (k1)
    A_i  = R_i - mean of the other answers' R
    loss = - mean over answers of w_i * A_i * log pi(y_i | x)

An answer is one action: its log-probability is the sum over its tokens. w_i corrects for answers that int8 weights or a
compact vocabulary sampled, and is 1 otherwise. What differs from the paper: one update for each batch of rollouts.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from steersman.functional import leave_one_out_advantages, sampler_weights
from steersman.train.rl import Loss, Read, RlConfig, Totals

VERSION = 1


class RlooConfig(RlConfig):
    """See `RlConfig`."""

    algorithm: Literal["rloo"] = "rloo"


def loss(config: RlooConfig) -> Loss:
    """RLOO has one variant."""
    del config
    return rloo


def rloo(read: Read, totals: Totals, beta: float) -> Tensor:
    """A micro-batch's share of the step's loss, a scalar."""
    advantages = leave_one_out_advantages(read.rewards - beta * read.k1_per_answer()).flatten()
    answers = read.batch.sum_per_sequence(read.logprobs)
    if read.drawn is not None:
        old, drawn = read.batch.sum_per_sequence(read.old), read.batch.sum_per_sequence(read.drawn)
        advantages = advantages * sampler_weights(old, drawn)
    return -(advantages * answers).sum() / totals.answers
