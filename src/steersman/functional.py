"""The arithmetic, once: what every training method shares. Pure functions of tensors; no model, no disk.

Notation: B sequences, T positions, N scored positions of a whole batch, V tokens, H hidden units.
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
