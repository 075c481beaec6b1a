"""Decoding without a KV cache, for models whose cache cannot be padded, joined and cut: slower, and right.

Every step reads the whole sequences again. `lm/fast_paths.py` says which models need it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steersman.lm.fast_paths import plain_hidden

if TYPE_CHECKING:
    from steersman.lm.sampling import Row


@dataclass
class UncachedBatch:
    """Sequences being decoded, as `sampling.Batch`; ``shared`` are the ids before every row's own."""

    rows: list[Row]
    shared: list[int]
    pad_id: int
    hidden: Tensor

    @classmethod
    def read(cls, model: Any, rows: list[Row], shared: list[int], pad_id: int) -> UncachedBatch:
        """The sequences as far as they are, with their last hidden states, [B, H]."""
        return cls(rows, shared, pad_id, _last_hidden(model, rows, shared, pad_id))

    def admit(self, other: UncachedBatch) -> UncachedBatch:
        """Append further sequences; returns this batch."""
        self.rows, self.hidden = self.rows + other.rows, torch.cat([self.hidden, other.hidden])
        return self

    def evict(self, keep: list[int]) -> None:
        """Drop all other sequences."""
        self.rows, self.hidden = [self.rows[i] for i in keep], self.hidden[keep]

    def decode(self, model: Any, tokens: Tensor) -> None:
        """Read the sequences with their newest tokens, which are in the rows already."""
        self.hidden = _last_hidden(model, self.rows, self.shared, self.pad_id)


def _last_hidden(model: Any, rows: list[Row], shared: list[int], pad_id: int) -> Tensor:
    texts = [[*shared, *row.prompt, *row.tokens] for row in rows]
    last = torch.tensor([len(text) - 1 for text in texts], device=model.device)
    hidden = plain_hidden(model, texts, pad_id)
    return hidden[torch.arange(len(texts), device=model.device), last]
