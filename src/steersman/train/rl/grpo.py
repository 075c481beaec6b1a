"""GRPO: a clipped policy gradient with the group as baseline (Shao et al. 2024, arXiv:2402.03300), and two variants.

    A_i  = (R_i - mean of the group) / (its standard deviation + 1e-4)
    loss = mean of w_t * -min(ratio_t A_i, clip(ratio_t, 1 - low, 1 + high) A_i)  +  beta * KL_t

    grpo      the mean is that of each answer's tokens, then of the answers
    dr_grpo   A is not divided by the deviation and the sum is divided by the longest length, so that long wrong answers
              are not favoured and easy prompts not weighted up (Liu et al. 2025, arXiv:2503.20783)
    dapo      one mean over all tokens of the step; take clip_high 0.28 and no KL (Yu et al. 2025, arXiv:2503.14476)

Where the KL goes is a setting: into the reward (k1, the default) or into the loss. k2 has the gradient of the reverse
KL, k3 a lower variance and another gradient (`functional`); the paper has k3. w_t corrects for a sampler with int8
weights or a compact vocabulary. With one update for each batch of rollouts the ratio is 1, and the clip has no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
from steersman.train.rl.actor import PolicyBatch
from steersman.train.rl.loop import Algorithm, Losses, RlConfig, Targets, Totals

VERSION = 1


class GrpoConfig(RlConfig):
    """`RlConfig`, and GRPO's own settings."""

    algorithm: Literal["grpo"] = Field(default="grpo", description="Group-relative policy optimisation.")
    variant: Literal["grpo", "dr_grpo", "dapo"] = Field(default="grpo", description="How losses are averaged.")
    kl: Literal["reward", "k2", "k3"] = Field(default="reward", description="KL in the reward (k1), or as a loss.")
    clip_low: float = Field(default=0.2, gt=0, lt=1, description="The ratio is clipped below 1 - clip_low.")
    clip_high: float = Field(default=0.2, gt=0, description="The ratio is clipped above 1 + clip_high; DAPO: 0.28.")


def algorithm(config: GrpoConfig) -> Algorithm:
    """GRPO with these settings."""
    return Algorithm(partial(advantages, config), partial(loss, config))


def advantages(config: GrpoConfig, batches: Sequence[PolicyBatch], beta: float) -> list[Targets]:
    """[P * G] of each micro-batch: rewards relative to their group."""
    relative, _ = VARIANTS[config.variant]
    in_reward = config.kl == "reward"
    rewards = [batch.rewards - beta * batch.k1_per_answer() if in_reward else batch.rewards for batch in batches]
    return [Targets(relative(group).flatten()) for group in rewards]


def loss(config: GrpoConfig, batch: PolicyBatch, targets: Targets, totals: Totals, beta: float) -> Losses:
    """The clipped surrogate of every token, the KL if it is a loss, and the variant's mean."""
    per_token = targets.advantages[batch.tree.sequence]
    losses = clipped_surrogate(batch.logprobs, batch.old_logprobs, per_token, config.clip_low, config.clip_high)
    if batch.sampler_logprobs is not None:
        losses = losses * sampler_weights(batch.old_logprobs, batch.sampler_logprobs)
    if config.kl in PENALTIES:
        losses = losses + beta * PENALTIES[config.kl](batch.logprobs, batch.reference_logprobs)
    _, mean = VARIANTS[config.variant]
    return Losses(mean(losses, batch, totals, config))


def grpo(losses: Tensor, batch: PolicyBatch, totals: Totals, config: GrpoConfig) -> Tensor:
    """Each answer counts the same, however long it is."""
    lengths = batch.tree.sum_per_sequence(torch.ones_like(losses))
    return (batch.tree.sum_per_sequence(losses) / lengths).sum() / totals.answers


def dr_grpo(losses: Tensor, batch: PolicyBatch, totals: Totals, config: GrpoConfig) -> Tensor:
    """Each token counts the same, in every step."""
    return losses.sum() / (totals.answers * config.rollouts.max_new_tokens)


def dapo(losses: Tensor, batch: PolicyBatch, totals: Totals, config: GrpoConfig) -> Tensor:
    """Each token of the step counts the same."""
    return losses.sum() / totals.tokens


Mean = Callable[[Tensor, PolicyBatch, Totals, GrpoConfig], Tensor]
VARIANTS: Mapping[str, tuple[Callable[[Tensor], Tensor], Mean]] = {
    "grpo": (group_advantages, grpo),
    "dr_grpo": (centred_advantages, dr_grpo),
    "dapo": (group_advantages, dapo),
}
PENALTIES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"k2": k2_nats, "k3": k3_nats}
