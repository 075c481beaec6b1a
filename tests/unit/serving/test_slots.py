"""A new sequence in the place of a finished one sees its own tokens and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steersman.serving.slots import Slots


class Cache:
    """Keys and values, as far as places are concerned."""

    widened = 0

    def widen(self, columns: int) -> None:
        self.widened += columns

    def put(self, rows: torch.Tensor, other: Any) -> None:
        self.filled = rows.tolist()


def slots(mask: list[list[int]], *finished: bool) -> Slots:
    rows: list[Any] = [SimpleNamespace(finished=one) for one in finished]
    cache: Any = Cache()
    return Slots(rows, cache, torch.tensor(mask), torch.arange(float(len(mask)))[:, None])


@pytest.mark.parametrize(
    ("new", "masks"),
    [
        ([[1, 1]], [[0, 0, 1, 1, 1], [0, 0, 0, 1, 1], [1, 1, 1, 1, 1]]),
        ([[0, 1]], [[0, 0, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]]),
        ([[1] * 7], [[0, 0, 0, 0, 1, 1, 1], [1] * 7, [0, 0, 1, 1, 1, 1, 1]]),
    ],
    ids=["shorter", "padded", "longer"],
)
def test_a_filled_place_is_masked_as_the_new_sequence_is(new: list[list[int]], masks: list[list[int]]) -> None:
    batch = slots([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]], False, True, False)
    other = slots(new, False)
    batch.admit(other)
    assert batch.mask.tolist() == masks
    assert batch.alive == [0, 1, 2]
    assert batch.rows[1] is other.rows[0]
    assert batch.hidden.tolist() == [[0.0], [0.0], [2.0]]
    cache: Any = batch.cache
    assert (cache.filled, cache.widened) == ([1], max(0, len(new[0]) - 5))
