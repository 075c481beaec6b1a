"""A KV cache for continuous batching: sequences are evicted and admitted, and it grows without a copy every step.

Importing this loads `transformers`, so `lm/sampling.py` does it when the first cache is made.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, cat, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

GROWTH = 64  # columns that are allocated at a time


class KVCache(DynamicCache):  # type: ignore[misc]
    """Keys and values of all layers, [B, H, T, D] each, with B sequences padded on the left to one length T.

    No model configuration is given: every layer keeps all keys, and the attention mask does the sliding window; a layer
    that drops old keys could not be padded, joined and cut.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer_class_to_replicate = Layer

    def prefix(self, rows: int, length: int) -> KVCache:
        """A copy of the first columns of a cache of one sequence, for a batch: [1, H, T, D] -> [rows, H, length, D]."""
        copy = KVCache()
        for number, layer in enumerate(self.layers):
            copy.update(*(x[:, :, :length].expand(rows, -1, -1, -1) for x in (layer.keys, layer.values)), number)
        return copy

    def row(self, number: int, length: int) -> KVCache:
        """A copy of the last columns of one sequence: [B, H, T, D] -> [1, H, length, D]."""
        copy, start = KVCache(), self.get_seq_length() - length
        for layer_number, layer in enumerate(self.layers):
            one = (x[number : number + 1, :, start:] for x in (layer.keys, layer.values))
            copy.update(*one, layer_number)
        return copy

    def put(self, rows: Tensor, other: KVCache) -> None:
        """Write another cache, no longer than this one, over the last columns of some rows; rows: [B']."""
        start = self.get_seq_length() - other.get_seq_length()
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.keys[rows, :, start:] = theirs.keys
            mine.values[rows, :, start:] = theirs.values

    def widen(self, columns: int) -> None:
        """Put empty columns before the first."""
        for layer in self.layers:
            layer.replace(*(nn.functional.pad(x, (0, 0, columns, 0)) for x in (layer.keys, layer.values)))

    def rearrange(self, columns: Tensor, rows: Tensor) -> None:
        """Gather columns within each row, then rows; columns: [B, T], rows: [B']."""
        for layer in self.layers:
            layer.replace(*(x.take_along_dim(columns[:, None, :, None], 2)[rows] for x in (layer.keys, layer.values)))

    def keep(self, rows: Tensor, start: int) -> None:
        """Evict all other rows, and the columns before ``start``; rows: [B']."""
        for layer in self.layers:
            layer.replace(layer.keys[rows, :, start:], layer.values[rows, :, start:])

    def join(self, other: KVCache) -> None:
        """Append the rows of another cache; the shorter of both is padded on the left."""
        length = max(self.get_seq_length(), other.get_seq_length())
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            pairs = (mine.keys, theirs.keys), (mine.values, theirs.values)
            mine.replace(*(cat([nn.functional.pad(x, (0, 0, length - x.shape[2], 0)) for x in pair]) for pair in pairs))


class Layer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values, [B, H, T, D], at the beginning of buffers with room for GROWTH more columns."""

    def replace(self, keys: Tensor, values: Tensor) -> None:
        """Drop the present columns for these."""
        self.buffers = [x.new_empty(*x.shape[:2], x.shape[2] + GROWTH, x.shape[3]) for x in (keys, values)]
        self._write(0, keys, values)

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append new columns and return all; `transformers` calls this in each forward pass."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
            self.replace(keys, values)
        elif self.keys.shape[2] + keys.shape[2] > self.buffers[0].shape[2]:
            self.replace(cat([self.keys, keys], 2), cat([self.values, values], 2))
        else:
            self._write(self.keys.shape[2], keys, values)
        return self.keys, self.values

    def _write(self, start: int, *new: Tensor) -> None:
        end = start + new[0].shape[2]
        for buffer, x in zip(self.buffers, new, strict=True):
            buffer[:, :, start:end] = x
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
