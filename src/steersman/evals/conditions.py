"""The conditions under which a run's models answer the evaluation prompts. No torch: the report reads this too."""

from __future__ import annotations

from typing import NamedTuple

from steersman.types import Text

RAW, FEW_SHOT, ALIGNED = CONDITIONS = ("raw", "raw_few_shot", "aligned")


class Condition(NamedTuple):
    """A condition's name in the tables, and the text that precedes every prompt."""

    name: str
    preamble: Text | None
