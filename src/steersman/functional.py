"""The arithmetic, once: what every training method shares. Pure functions of tensors; no model, no disk.

Notation: B rows of a batch, S sequences in them (one a row, or several that share a prompt), P pairs of sequences, G
sequences of one prompt, T positions, N scored positions of a whole batch, V tokens, H hidden units.
"""

from __future__ import annotations

import torch
from torch import Tensor


def scored_positions(completion_mask: Tensor) -> Tensor:
    """Which positions predict a completion token.

    Position t predicts token t + 1, so a position carries loss when its *successor* belongs to the completion.

    Args:
        completion_mask: [B, T] bool, true on the completion's tokens (the terminator is one of them).

    Returns:
        [B, T] bool, true where the hidden state is to be scored; the last column is always false.
    """
    shifted = torch.zeros_like(completion_mask)
    shifted[:, :-1] = completion_mask[:, 1:]
    return shifted


def gather_scored(hidden: Tensor, token_ids: Tensor, completion_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states at the scored positions and the tokens that they should predict.

    Args:
        hidden: [B, T, H]; token_ids: [B, T]; completion_mask: [B, T] bool.

    Returns:
        ([N, H], [N]) in row-major order of the batch.
    """
    scored = scored_positions(completion_mask)
    targets = token_ids.roll(-1, dims=1)  # the wrapped-around last column is never scored
    return hidden[scored], targets[scored]


def sum_per_sequence(values: Tensor, completion_mask: Tensor) -> Tensor:
    """Sum values of the scored positions, [N], per sequence, giving [B]."""
    rows = scored_positions(completion_mask).nonzero()[:, 0]
    return torch.zeros(completion_mask.shape[0], dtype=values.dtype).index_add(0, rows, values)


def aggregate(loss_sum: Tensor, tokens_in_optimiser_step: float) -> Tensor:
    """Token mean over the whole optimiser step, however it is split into micro-batches.

    Averaging each micro-batch on its own weights a token by the length of its neighbours; dividing every sum by
    the step's *total* count makes the loss invariant to the split.
    """
    if tokens_in_optimiser_step <= 0:
        raise ValueError("an optimiser step needs at least one scored token")
    return loss_sum / tokens_in_optimiser_step


# ── preferences ──────────────────────────────────────────────────────────────────────────────────────────────────────
def preference_nll(margins: Tensor) -> Tensor:
    """-log sigmoid(margin), the Bradley-Terry negative log-likelihood in nats that the chosen one wins.

    Args:
        margins: [P], the chosen one's score minus the rejected one's.

    Returns:
        [P].
    """
    return -torch.nn.functional.logsigmoid(margins)


# ── policy gradients ─────────────────────────────────────────────────────────────────────────────────────────────────
def group_advantages(rewards: Tensor, epsilon: float = 1e-4) -> Tensor:
    """(r - mean) / (standard deviation + epsilon) within each prompt's group: GRPO, Shao et al. (arXiv:2402.03300).

    Args:
        rewards: [prompts, G]; the deviation is the sample's (G - 1).

    Returns:
        [prompts, G].
    """
    return (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + epsilon)


def clipped_surrogate(logprobs: Tensor, old: Tensor, advantages: Tensor, low: float = 0.2, high: float = 0.2) -> Tensor:
    """PPO's loss a token, Schulman et al. 2017 (arXiv:1707.06347): -min(ratio A, clip(ratio, 1 - low, 1 + high) A).

    Args:
        logprobs: [N] under the policy; old: [N] under the policy that sampled; advantages: [N].

    Returns:
        [N].
    """
    ratio = torch.exp(logprobs - old)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def sampler_weights(logprobs: Tensor, sampler: Tensor, cap: float = 2.0) -> Tensor:
    """min(policy / sampler, cap) a token: what a loss is multiplied with when another distribution sampled, [N].

    For text that was drawn with int8 weights or from a compact vocabulary. Truncated importance sampling: Ionides 2008;
    for rollouts, Yao et al. 2025 ("Your efficient RL framework secretly brings you off-policy RL training").

    Args:
        logprobs: [N] under the policy as it was when the text was sampled, no gradients; sampler: [N] as it was drawn.
    """
    return torch.exp(logprobs - sampler).clamp(max=cap)


def k3_nats(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Schulman's estimate of KL(policy || reference) a token: exp(-k1) - 1 + k1 with k1 = log-prob - reference, [N].

    Its value is unbiased and never negative; its gradient as a loss is not the reverse KL's (arXiv:2512.21852).
    """
    k1 = logprobs - reference
    return torch.exp(-k1) - 1 + k1
