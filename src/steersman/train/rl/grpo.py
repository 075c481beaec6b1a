"""GRPO: a clipped policy gradient with the group as baseline (Shao et al. 2024, arXiv:2402.03300), and two variants.

    A_i  = (R_i - mean of the group) / (its standard deviation + 1e-4)
    loss = mean of w_t * -min(ratio_t A_i, clip(ratio_t, 1 - low, 1 + high) A_i)  +  beta * KL_t

    grpo      the mean is that of each answer's tokens, then of the answers
    dr_grpo   A is not divided by the deviation and the sum is divided by the longest length, so that long wrong answers
              are not favoured and easy prompts not weighted up (Liu et al. 2025, arXiv:2503.20783)
    dapo      one mean over all tokens of the step; take clip_high 0.28 and no KL (Yu et al. 2025, arXiv:2503.14476)

Where the KL goes is a setting: into the reward (k1, the default) or into the loss. k2 has the gradient of the reverse
KL, k3 a lower variance and another gradient (`functional`); the paper has k3. w_t corrects for what int8 weights or a
compact vocabulary sampled. With one update for each batch of rollouts, the ratio is 1, and the clip bounds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from steersman.functional import (
    centred_advantages,
    clipped_surrogate,
    group_advantages,
    k2_nats,
    k3_nats,
    sampler_weights,
)
from steersman.train.rl.actor import Read
from steersman.train.rl.loop import Algorithm, RlConfig, Totals

VERSION = 1


class GrpoConfig(RlConfig):
    """``kl`` says where beta's term goes."""

    algorithm: Literal["grpo"] = "grpo"
    variant: Literal["grpo", "dr_grpo", "dapo"] = "grpo"
    kl: Literal["reward", "k2", "k3"] = "reward"
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    clip_high: float = Field(default=0.2, gt=0)


def grpo(read: Read, totals: Totals, beta: float, config: GrpoConfig) -> Tensor:
    """Each answer counts the same, however long it is."""
    losses = _token_losses(read, beta, group_advantages(_rewards(read, beta, config)), config)
    lengths = read.batch.sum_per_sequence(torch.ones_like(losses))
    return (read.batch.sum_per_sequence(losses) / lengths).sum() / totals.answers


def dr_grpo(read: Read, totals: Totals, beta: float, config: GrpoConfig) -> Tensor:
    """Each token counts the same, in every step."""
    losses = _token_losses(read, beta, centred_advantages(_rewards(read, beta, config)), config)
    return losses.sum() / (totals.answers * config.rollouts.max_new_tokens)


def dapo(read: Read, totals: Totals, beta: float, config: GrpoConfig) -> Tensor:
    """Each token of the step counts the same."""
    losses = _token_losses(read, beta, group_advantages(_rewards(read, beta, config)), config)
    return losses.sum() / totals.tokens


VARIANTS: Mapping[str, Callable[[Read, Totals, float, GrpoConfig], Tensor]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
}
PENALTIES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"k2": k2_nats, "k3": k3_nats}


class Grpo(Algorithm):
    """The variant that the recipe names."""

    def __init__(self, config: GrpoConfig) -> None:
        self.config = config

    def loss(self, read: Read, totals: Totals, beta: float) -> Tensor:
        """A micro-batch's share of the step's loss, a scalar."""
        return VARIANTS[self.config.variant](read, totals, beta, self.config)


def _rewards(read: Read, beta: float, config: GrpoConfig) -> Tensor:
    return read.rewards - beta * read.k1_per_answer() if config.kl == "reward" else read.rewards


def _token_losses(read: Read, beta: float, advantages: Tensor, config: GrpoConfig) -> Tensor:
    """[N]."""
    of_token = advantages.flatten()[read.batch.sequence]
    losses = clipped_surrogate(read.logprobs, read.old, of_token, config.clip_low, config.clip_high)
    if read.drawn is not None:
        losses = losses * sampler_weights(read.old, read.drawn)
    if config.kl in PENALTIES:
        losses = losses + beta * PENALTIES[config.kl](read.logprobs, read.reference)
    return losses
