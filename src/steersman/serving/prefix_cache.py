"""Keys and values of prompts, kept so that a later prompt that begins alike is read from there on.

A system prompt that many requests share, or the earlier turns of a conversation. Entries are whole prompts, the least
recently used go first. Also prompts read in pieces, so that a long one does not hold up those who wait for a token.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steersman.lm.head import trunk
from steersman.lm.kv_cache import KVCache

MIN_TOKENS = 16  # shorter beginnings are read again; longer ones are used in multiples of this


@dataclass
class Beginning:
    """The first ``length`` tokens of a prompt, read: keys and values, [1, H, T, D] a layer, with T >= length."""

    cache: KVCache
    length: int

    @property
    def key(self) -> tuple[int, int]:
        """Equal for what can be read behind one another's beginning in one pass."""
        return (id(self.cache), self.length)


def extend(model: Any, start: Beginning | None, ids: Sequence[int]) -> Beginning:
    """Read further tokens of a prompt; the beginning's own cache stays as it is."""
    done = start.length if start else 0
    cache = start.cache.prefix(1, done) if start else KVCache()
    trunk(model)(
        input_ids=torch.tensor([list(ids)], device=model.device),
        attention_mask=torch.ones(1, done + len(ids), dtype=torch.long, device=model.device),
        position_ids=torch.arange(done, done + len(ids), device=model.device)[None],
        past_key_values=cache,
        use_cache=True,
    )
    return Beginning(cache, done + len(ids))


class PrefixCache:
    """Prompts of one model, by their ids.

    Args:
        tokens: kept in all; 0 keeps nothing.
    """

    def __init__(self, tokens: int) -> None:
        self.capacity, self.kept, self.version = tokens, 0, 0
        self._entries: OrderedDict[tuple[int, ...], tuple[Tensor, Beginning]] = OrderedDict()

    def find(self, ids: Sequence[int]) -> Beginning | None:
        """The longest beginning of these ids that is there; at least one id stays to be read."""
        wanted = torch.tensor(list(ids))
        best, length = None, 0
        for key, (known, _) in self._entries.items():
            size = min(len(known), len(ids) - 1)
            differ = (known[:size] != wanted[:size]).nonzero()
            same = (int(differ[0]) if len(differ) else size) // MIN_TOKENS * MIN_TOKENS
            if same > length:
                best, length = key, same
        if best is None:
            return None
        self._entries.move_to_end(best)
        entry = self._entries[best][1]
        return Beginning(entry.cache, length)

    def wants(self, ids: Sequence[int], known: int) -> bool:
        """Whether a prompt of which ``known`` tokens were there is worth a place."""
        return len(ids) <= self.capacity and len(ids) - known >= max(MIN_TOKENS, known // 8)

    def keep(self, ids: Sequence[int], read: Beginning) -> None:
        """Keep a prompt."""
        key = tuple(ids)
        if key in self._entries:
            return
        self._entries[key] = (torch.tensor(key), read)
        self.kept += len(key)
        self.version += 1
        while self.kept > self.capacity:
            oldest, _ = self._entries.popitem(last=False)
            self.kept -= len(oldest)
