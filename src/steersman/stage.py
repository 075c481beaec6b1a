"""A stage as one frozen value: its configuration, its inputs, its work, its cost and its part of the report.

Input    a typed handle on one thing that passes between stages; the module constants are in `stages/inputs.py`
Inputs   the declared inputs of one stage, resolved; reading anything else is a KeyError
Stage    everything that the pipeline, the plan and the report know about a stage
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar

from steersman.constitution.document import Constitution
from steersman.cost.work import Work, Workload
from steersman.data import formats
from steersman.data.sources import DataSet
from steersman.recipe import Recipe
from steersman.report.blocks import Section
from steersman.report.evidence import StageRecord
from steersman.store import StageFolder
from steersman.types import Record

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R", bound=Record)
C = TypeVar("C", bound=Record)


# ── inputs ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, eq=False)
class Input(Generic[T_co]):
    """A handle on a stage's folder (``sft``), on one of its files (``data/train.jsonl``), or on a source of the run.

    Attributes:
        names: alternatives in pipeline order; the last one that the recipe has is read.
        read: from the path, or from the source's value, to what the stage gets.
        required: without it, a recipe that has none of ``names`` gives None.
        part: of a source, what affects the outputs: the key holds its digest, under ``label``, not the whole source's.
        when: the input is there only if the recipe says so, e.g. the reward model only for a judge that uses it.
    """

    names: tuple[str, ...]
    read: Callable[[Any], T_co]
    required: bool = True
    part: Callable[[Any], Any] | None = None
    label: str = ""
    when: Callable[[Recipe], bool] | None = None


def folder(*stages: str) -> Input[Path]:
    """The folder of the last of these stages that the recipe has."""
    return Input(stages, lambda path: path)


def rows(file: str, record: type[R]) -> Input[list[R]]:
    """The records in a JSON Lines file of a stage."""
    return Input((file,), lambda path: formats.read(path, record))


def optional(wanted: Input[T], when: Callable[[Recipe], bool] | None = None) -> Input[T | None]:
    """The same, or None where the recipe has no such stage (or ``when`` says no)."""
    return replace(wanted, required=False, when=when)


@dataclass(frozen=True)
class Inputs:
    """What a stage was given, by handle: paths and source values, and the names that they have in the run."""

    values: Mapping[Input[Any], Any]
    names: Mapping[Input[Any], str]

    def __getitem__(self, wanted: Input[T]) -> T:
        """Read an input.

        Raises:
            KeyError: the stage does not declare it, so its key would not change with it.
        """
        value = self.values[wanted]
        return wanted.read(value) if value is not None else None  # type: ignore[return-value]


# ── a stage ──────────────────────────────────────────────────────────────────────────────────────────────────────────
class NoSettings(Record):
    """The configuration of a stage that has none."""


class Sources(NamedTuple):
    """A recipe with the constitution and the data set that it names."""

    recipe: Recipe
    constitution: Constitution
    data: DataSet


@dataclass(frozen=True)
class Stage(Generic[C]):
    """Everything that the pipeline, the plan and the report know about a stage.

    Attributes:
        name: the name of its folder in the run.
        code: the modules whose ``VERSION`` is part of the key: all whose change would change the outputs. A stage that
            does its work itself has a ``VERSION`` of its own and names its own module.
        config: what the recipe says about it; None where the recipe leaves the stage out.
        inputs: all that `run` may read.
        run: does the work in the stage's folder; it continues what a killed process left there. The first line of its
            docstring describes the stage in docs/runs.md.
        trains: under torchrun every process runs it.
        recipe_key: the section of the recipe that switches it on, if it has another name than the stage.
        check: raises `UserError` for what would only fail later, before the first stage runs.
        estimate: the work that `run` will do, counted from the data, None if it cannot be known. A stage that reads a
            model needs one; any other takes a moment.
        section: its part of the report, from what it left in a finished run; None where there is nothing to show.
    """

    name: str
    code: tuple[ModuleType, ...]
    config: Callable[[Recipe], C | None]
    inputs: tuple[Input[Any], ...]
    run: Callable[[C, Inputs, StageFolder], None]
    trains: bool = False
    recipe_key: str = ""
    check: Callable[[C, Sources], None] | None = None
    estimate: Callable[[C, Workload], Work | None] | None = None
    section: Callable[[StageRecord], Section | None] | None = None

    @property
    def versions(self) -> dict[str, int]:
        """By module, the version of the code behind the stage."""
        return {module.__name__.removeprefix("steersman."): module.VERSION for module in self.code}
