"""What is attacked: a model, a model behind its guard, or an endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from steersman.redteam.attack import Stopped, WhiteBox
from steersman.types import Text


class Query(NamedTuple):
    """One conversation to answer. ``number`` names it in the log; ``seed`` is read where the temperature is not 0."""

    number: int
    prompt: Text
    temperature: float = 0.0
    seed: int = 0


class Reply(NamedTuple):
    """What came back. ``stopped`` is never "model" here: whether a reply refuses is the judge's business."""

    number: int
    text: str
    stopped: Stopped = ""
    tokens: int = 0


class Target(Protocol):
    """Anything that answers an attacker."""

    name: str

    def answer(self, queries: Sequence[Query]) -> Iterator[Reply]:
        """Answer every query; replies come as they finish."""
        ...

    @property
    def weights(self) -> WhiteBox | None:
        """The weights behind it, for attacks that need them."""
        ...
