"""The conditions under which a run's models answer the evaluation prompts. No torch: the report reads this too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from steersman.types import Text

RAW, FEW_SHOT, ALIGNED = CONDITIONS = ("raw", "raw_few_shot", "aligned")


def subject(names: Iterable[str]) -> str:
    """Of some conditions, the model that a run is about: the aligned one; the raw one where nothing was trained."""
    return ALIGNED if ALIGNED in names else RAW


def baselines(names: Iterable[str]) -> list[str]:
    """Of some conditions, those that the subject is compared with; a recipe may leave them out."""
    given = list(names)
    return [name for name in CONDITIONS if name in given and name != subject(given)]


def conditions_of(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The conditions under which some rows were answered."""
    found = {row["condition"] for row in rows}
    return tuple(name for name in CONDITIONS if name in found)


class Condition(NamedTuple):
    """A condition's name in the tables, and the text that precedes every prompt."""

    name: str
    preamble: Text | None
