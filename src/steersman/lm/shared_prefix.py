"""Several completions of one prompt in one row, so that the prompt is read once.

    row:        p1 p2 p3 | a1 a2 | b1 b2 b3        chosen and rejected, or the answers of a GRPO group
    positions:   0  1  2    3  4    3  4  5

Each token sees the prompt and the earlier tokens of its own completion, never another completion: the hidden states are
those of separate rows, and gradients add up in the prompt as they would there. Sliding windows count positions, not
columns. G completions of C tokens read P + G C tokens instead of G (P + C).

A model for which this is not so (`lm/fast_paths.py` tries it) reads separate rows, from the same batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steersman.lm.compact_vocabulary import CompactVocabulary
from steersman.lm.fast_paths import fast_paths, plain_hidden
from steersman.lm.frozen_trunk import FrozenStates, FrozenTrunk
from steersman.lm.head import Head, token_logprobs, trunk


class Group(NamedTuple):
    """A prompt and its completions, as token ids; the terminators are among them."""

    prompt: list[int]
    completions: list[list[int]]

    @property
    def tokens(self) -> int:
        """The width of its row."""
        return len(self.prompt) + sum(map(len, self.completions))


class SharedPrefixBatch(NamedTuple):
    """Groups as rows padded on the right, and where their completions are scored.

    ``token_ids``, ``position_ids``: [B, T]; ``owner``: [B, T] 0 in the prompt, 1, 2 ... in a completion, -1 in padding;
    ``visible``: [B, T, T] bool, which query sees which key;
    ``source``: [N] the position in the flattened batch, B * T, that predicts a scored token; ``targets``: [N] these
    tokens; ``sequence``: [N] the completion that a token belongs to, numbered over all groups in their order;
    ``last``: [S] the position of each completion's last token, where a reward model reads its score.
    """

    token_ids: Tensor
    position_ids: Tensor
    owner: Tensor
    visible: Tensor
    source: Tensor
    targets: Tensor
    sequence: Tensor
    last: Tensor

    def sum_per_sequence(self, values: Tensor) -> Tensor:
        """Sum values of the scored tokens, [N], per completion, giving [S]."""
        return values.new_zeros(len(self.last)).index_add(0, self.sequence, values)


def shared_prefix_batch(groups: Sequence[Group], pad_id: int, device: Any = None) -> SharedPrefixBatch:
    """Lay out groups, one a row.

    A prompt may be empty (`lm/packing.py`); then nothing predicts the first tokens, and ``source`` has no use.
    """
    width = max(group.tokens for group in groups)
    token_ids = torch.full((len(groups), width), pad_id)
    position_ids = torch.zeros_like(token_ids)
    owner = torch.full_like(token_ids, -1)  # 0: prompt; 1, 2 ...: a completion; -1: padding
    source: list[int] = []
    targets: list[int] = []
    sequence: list[int] = []
    last: list[int] = []
    for row, (prompt, completions) in enumerate(groups):
        ids, positions, owners = list(prompt), list(range(len(prompt))), [0] * len(prompt)
        for number, completion in enumerate(completions, 1):
            start = row * width + len(ids)
            source += [row * width + len(prompt) - 1, *range(start, start + len(completion) - 1)]
            targets += completion
            sequence += [len(last)] * len(completion)
            last.append(start + len(completion) - 1)
            ids += completion
            positions += range(len(prompt), len(prompt) + len(completion))
            owners += [number] * len(completion)
        token_ids[row, : len(ids)] = torch.tensor(ids)
        position_ids[row, : len(ids)] = torch.tensor(positions)
        owner[row, : len(ids)] = torch.tensor(owners)
    key, query = owner[:, None, :], owner[:, :, None]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    # Padding sees itself: a softmax over nothing would be NaN.
    visible = ((key == 0) | (key == query)) & causal & (key >= 0) | torch.eye(width, dtype=torch.bool)
    numbers = (torch.tensor(x, dtype=torch.long, device=device) for x in (source, targets, sequence, last))
    tables = (table.to(device) for table in (token_ids, position_ids, owner, visible))
    return SharedPrefixBatch(*tables, *numbers)


def shared_prefix_hidden(model: Any, batch: SharedPrefixBatch, at: Tensor, lower: FrozenStates | None = None) -> Tensor:
    """Hidden states at some positions, [N, H].

    Args:
        at: [N] positions in the flattened batch, such as ``batch.source`` or ``batch.last``.
        lower: the batch's activations below the trainable layers, if they are known.
    """
    if lower is not None:
        hidden = lower.trunk.finish(lower.states, **_inputs(model, batch))
    elif fast_paths(model).shared_prefix:
        hidden = packed_hidden(model, batch)
    else:
        hidden = separate_hidden(model, batch)
    found: Tensor = hidden.flatten(0, 1)[at]
    return found


def packed_hidden(model: Any, batch: SharedPrefixBatch) -> Tensor:
    """Hidden states of all rows as they are laid out, [B, T, H]."""
    hidden: Tensor = trunk(model)(**_inputs(model, batch), use_cache=False).last_hidden_state
    return hidden


def separate_hidden(model: Any, batch: SharedPrefixBatch) -> Tensor:
    """The same from a row for each completion, [B, T, H]; zeros in the padding."""
    width = batch.token_ids.shape[1]
    rows: list[list[int]] = []
    places: list[Tensor] = []  # of a row's tokens in the flattened batch
    kept: list[int] = []  # how many of a row's first tokens an earlier row has answered for: the prompt's
    for number, (ids, owner) in enumerate(zip(batch.token_ids, batch.owner, strict=True)):
        prompt = (owner == 0).nonzero()[:, 0]
        for completion in range(1, int(owner.max()) + 1):
            columns = torch.cat([prompt, (owner == completion).nonzero()[:, 0]])
            rows.append(ids[columns].tolist())
            places.append(number * width + columns)
            kept.append(len(prompt) if completion > 1 else 0)
    read = plain_hidden(model, rows, 0)
    states = torch.cat([read[i, start : len(row)] for i, (start, row) in enumerate(zip(kept, rows, strict=True))])
    at = torch.cat([place[start:] for place, start in zip(places, kept, strict=True)])
    flat = read.new_zeros(batch.token_ids.numel(), read.shape[-1])
    return flat.index_copy(0, at, states).view(-1, width, read.shape[-1])


def compute_frozen_states(model: Any, batch: SharedPrefixBatch, below: FrozenTrunk | None) -> FrozenStates | None:
    """Activations of the frozen lower layers: computed once, for every adapter and head above them.

    None without frozen layers, and for a model that reads separate rows.
    """
    if below is None or not fast_paths(model).shared_prefix:
        return None
    return FrozenStates(below, below.read(**_inputs(model, batch)))


class GroupStates(NamedTuple):
    """Activations of the frozen lower layers for some groups, [T, H] each: computed once, for every adapter above them
    and every way of batching the groups."""

    trunk: FrozenTrunk
    states: list[Tensor]

    def batch(self, indices: Sequence[int]) -> FrozenStates:
        """Those of a batch of the groups at these indices."""
        rows = [self.states[i] for i in indices]
        return FrozenStates(self.trunk, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))


def compute_group_states(
    model: Any, groups: Sequence[Group], below: FrozenTrunk | None, pad_id: int, batch_size: int
) -> GroupStates | None:
    """In batches of ``batch_size`` groups; None as in `compute_frozen_states`."""
    if below is None or not fast_paths(model).shared_prefix:
        return None
    states: list[Tensor] = []
    for i in range(0, len(groups), batch_size):
        some = groups[i : i + batch_size]
        read = below.read(**_inputs(model, shared_prefix_batch(some, pad_id, model.device)))
        # Copies: a view would keep the padding.
        states += [row[: group.tokens].clone() for row, group in zip(read, some, strict=True)]
    return GroupStates(below, states)


def shared_prefix_logprobs(
    model: Any,
    batch: SharedPrefixBatch,
    head: Head,
    vocabulary: CompactVocabulary | None,
    generator: torch.Generator,
    lower: FrozenStates | None = None,
) -> Tensor:
    """Log-probs of a batch's scored tokens under the active adapter, [N], exact or by a compact vocabulary.

    Args:
        generator: draws what a compact vocabulary samples; in the same state, it draws the same.
    """
    hidden = shared_prefix_hidden(model, batch, batch.source, lower)
    if vocabulary is None:
        return token_logprobs(hidden, batch.targets, head)
    return vocabulary.token_logprobs(hidden, batch.targets, head, generator)


def _inputs(model: Any, batch: SharedPrefixBatch) -> dict[str, Any]:
    return {
        "input_ids": batch.token_ids,
        "attention_mask": attention_masks(model, batch.visible, batch.position_ids),
        "position_ids": batch.position_ids,
    }


def attention_masks(model: Any, visible: Tensor, position_ids: Tensor) -> Any:
    """Masks in the form that the model's layers take: one, [B, 1, T, T], to be added; or one for each kind of layer.

    Args:
        visible: [B, T, T] bool; position_ids: [B, T].
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    seen = {"full_attention": visible}
    if window is not None:
        seen["sliding_attention"] = visible & (position_ids[:, :, None] - position_ids[:, None, :] < window)
    masks = {
        kind: torch.zeros_like(s, dtype=model.dtype).masked_fill_(~s, torch.finfo(model.dtype).min)[:, None]
        for kind, s in seen.items()
    }
    kinds = set(getattr(config, "layer_types", None) or [list(seen)[-1]])
    return masks if len(kinds) > 1 else masks[kinds.pop()]
