"""Several texts in one sequence, each of which sees itself alone: the padding between texts of a batch is not computed.

    sequence:    a1 a2 a3 | b1 b2 | c1 c2 c3        attention is block-diagonal
    positions:    0  1  2    0  1    0  1  2

It is the layout of `lm/shared_prefix.py` with an empty prompt. Hidden states, and what follows from them, are those of
the same texts in rows of their own, and come in the rows' order, so that nothing above knows of the arrangement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steersman.errors import ModelError
from steersman.functional import scored_positions, scored_targets
from steersman.lm.chat_format import Batch, Example, pad
from steersman.lm.fast_paths import fast_paths
from steersman.lm.frozen_trunk import FrozenStates
from steersman.lm.head import trunk
from steersman.lm.shared_prefix import Group, SharedPrefixBatch, shared_prefix_batch, shared_prefix_hidden


class Packed(NamedTuple):
    """How the rows of a batch, [B, T], are arranged in S sequences of W tokens.

    ``place``: [B, T] the position of each token in the flattened sequences, S * W; of padding, any.
    """

    layout: SharedPrefixBatch
    place: Tensor


def refuse_unpackable(model: Any, key: str) -> None:
    """Refuse a model for which packed rows are wrong, as `fast_paths` found.

    Args:
        key: of the recipe, for the message.

    Raises:
        ModelError: they are.
    """
    if not fast_paths(model).shared_prefix:
        raise ModelError(
            f"{type(model).__name__} does not read packed rows as it reads the same rows one by one",
            expected="attention that heeds the mask and the positions it is given",
            do=f"set {key}: false",
        )


def arrange(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Indices of texts by sequence: as few sequences as ``limit`` allows, and about equally long, since they are padded
    to the longest. A text above the limit is one by itself.

    Each text, the longest first, goes to the sequence that is shortest so far (Graham 1969).
    """
    most = max(limit, *lengths)
    for count in range(-(-sum(lengths) // most), len(lengths) + 1):
        sequences: list[list[int]] = [[] for _ in range(count)]
        tokens = [0] * count
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            shortest = tokens.index(min(tokens))
            sequences[shortest].append(i)
            tokens[shortest] += lengths[i]
        if max(tokens) <= most:
            break
    return sequences


def pack(examples: Sequence[Example], limit: int, pad_id: int, device: Any = None) -> Batch:
    """The batch that `pad` makes, with its rows arranged in sequences of at most ``limit`` tokens."""
    batch = pad(examples, pad_id, device)
    lengths = [len(example.token_ids) for example in examples]
    sequences = arrange(lengths, limit)
    layout = shared_prefix_batch([Group([], [examples[i].token_ids for i in own]) for own in sequences], pad_id, device)
    order = torch.tensor([i for own in sequences for i in own], device=device)
    start = torch.empty_like(layout.last)
    start[order] = layout.last + 1 - torch.tensor(lengths, device=device)[order]
    place = start[:, None] + torch.arange(batch.token_ids.shape[1], device=device)
    return batch._replace(packed=Packed(layout, place))


def scored_hidden(model: Any, batch: Batch, lower: FrozenStates | None = None) -> tuple[Tensor, Tensor]:
    """Hidden states at the scored positions, [N, H], and the tokens they should predict, [N], row by row.

    Args:
        lower: the rows' activations below the trainable layers, [B, T, H], if they are known.
    """
    scored, targets = scored_positions(batch.completion_mask), scored_targets(batch.token_ids, batch.completion_mask)
    if batch.packed is not None:
        layout, place = batch.packed
        if lower is not None:
            lower = _arranged(lower, batch.attention_mask.bool(), batch.packed)
        return shared_prefix_hidden(model, layout, place[scored], lower), targets
    inputs = {"input_ids": batch.token_ids, "attention_mask": batch.attention_mask}
    if lower is None:
        hidden = trunk(model)(**inputs, use_cache=False).last_hidden_state
    else:
        hidden = lower.trunk.finish(lower.states, **inputs)
    return hidden[scored], targets


def _arranged(lower: FrozenStates, seen: Tensor, packed: Packed) -> FrozenStates:
    """The rows' activations, [B, T, H], in the sequences, [S, W, H]; zeros in the padding."""
    shape = packed.layout.token_ids.shape
    states = lower.states.new_zeros(shape.numel(), lower.states.shape[-1])
    states[packed.place[seen]] = lower.states[seen]
    return FrozenStates(lower.trunk, states.view(*shape, -1))
