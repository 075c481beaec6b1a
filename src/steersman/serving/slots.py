"""A batch whose places are filled again: a new sequence is written over a finished one.

`sampling.Batch` copies all keys and values when a sequence comes or goes. Where they come and go all the time, that
would cost more than the model, so a finished row stays, computed and not read, until a new one takes its place or a
quarter of the rows is finished.
"""

from __future__ import annotations

from typing import cast

import torch

from steersman.lm.sampling import Batch
from steersman.serving.sequences import Continuation

SPARE_COLUMNS = 64  # empty ones at the left that are worth a copy


class Slots(Batch):
    """As `Batch`; rows are continuations, of which finished ones are free places."""

    @property
    def alive(self) -> list[int]:
        """Places of the unfinished rows."""
        return [i for i, row in enumerate(self.rows) if not cast("Continuation", row).finished]

    def admit(self, other: Batch) -> Slots:
        """Put newly prefilled sequences into free places, or behind the last row; returns this batch."""
        alive = self.alive
        free = sorted(set(range(len(self.rows))) - set(alive))[: len(other.rows)]
        if len(free) == len(other.rows):
            self._put(free, other)
            return self
        if free:
            self.evict(alive)
        super().admit(other)
        return self

    def evict(self, keep: list[int]) -> None:
        """Drop all other sequences, and the columns that are padding for all that stay."""
        super().evict(keep)
        self.hidden = self.hidden[keep]

    def tidy(self) -> bool:
        """Make room where too much is computed for nothing; whether the places have changed."""
        alive = self.alive
        finished = len(self.rows) - len(alive)
        if 4 * finished < max(4, len(self.rows)) and (
            self.mask.shape[1] % SPARE_COLUMNS or int(self.mask[alive].any(0).int().argmax()) < SPARE_COLUMNS
        ):
            return False
        self.evict(alive)
        return True

    def _put(self, places: list[int], other: Batch) -> None:
        missing = other.mask.shape[1] - self.mask.shape[1]
        if missing > 0:
            self.cache.widen(missing)
            self.mask = torch.nn.functional.pad(self.mask, (missing, 0))
        at = torch.tensor(places, device=self.mask.device)
        self.cache.put(at, other.cache)
        self.mask[at] = torch.nn.functional.pad(other.mask, (max(0, -missing), 0))
        self.hidden[at] = other.hidden
        self.rows = list(self.rows)
        for place, row in zip(places, other.rows, strict=True):
            self.rows[place] = row
