"""Prompts that nobody here wrote, from the user's copy of public data sets, and which of them a model refuses.

The sets are neither shipped nor trained on. Where no copy is found the stage is left out; a set that is missing from
the copy is named in the report. Each set gives at most ``rows`` prompts, chosen by a digest of their text, so that
every run asks the same ones.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from steersman.data import public_files
from steersman.data.forms import COMMAND, QUESTION, form_of
from steersman.data.public_files import FOLDER_VARIABLE, read_rows
from steersman.errors import DataError
from steersman.evals.forms import HARMFUL, KINDS, LOOKALIKE, PLAIN, Cell, kind_of, rate
from steersman.lm.sampling import SamplingConfig
from steersman.stats import independent_difference
from steersman.store import sha256_text
from steersman.types import Prompt, Record

VERSION = 2
SET = "set:"


class PublicPromptsConfig(Record):
    """Refusals on public sets of prompts, as far as a copy of them is at hand."""

    folder: str | None = Field(
        default=None, description=f"Folder with the sets; null for the one that {FOLDER_VARIABLE} names, if any."
    )
    limit: int = Field(default=200, ge=1, description="Most prompts of a set.")
    sampling: SamplingConfig = Field(
        default=SamplingConfig(max_new_tokens=96), description="Sampling of the answers; greedy by default."
    )


class PublicSet(NamedTuple):
    """Where a public set is found in a copy: by the start of a file name below the folder, and by columns."""

    name: str
    kind: str
    file: str
    rows: int
    where: tuple[str, str] = ("", "")  # column and value of the rows that belong to it
    column: str = "prompt"


SETS = (
    PublicSet("XSTest, safe", LOOKALIKE, "xstest_prompts", 200, ("label", "safe")),
    PublicSet("XSTest, unsafe", HARMFUL, "xstest_prompts", 200, ("label", "unsafe")),
    PublicSet("AdvBench", HARMFUL, "harmful_prompts", 30, ("source", "advbench")),
    PublicSet("BeaverTails evaluation", HARMFUL, "harmful_prompts", 30, ("source", "beavertails_eval")),
    PublicSet("HarmfulQ", HARMFUL, "harmful_prompts", 30, ("source", "harmfulq")),
    PublicSet("MaliciousInstruct", HARMFUL, "harmful_prompts", 30, ("source", "malicious_instruct")),
    PublicSet("TDC 2023", HARMFUL, "harmful_prompts", 30, ("source", "tdc2023")),
    PublicSet("GPTFuzz questions", HARMFUL, "harmful_prompts", 30, ("source", "gptfuzz_questions")),
    PublicSet(
        "Safety-tuned LLaMAs, safe", LOOKALIKE, "safety_tuned_llamas_eval", 40, ("source", "I-PhysicalSafetySafe")
    ),
    PublicSet("Alpaca instructions", PLAIN, "harmless_instructions", 80, column="instruction"),
    PublicSet("Self-Instruct, user-oriented", PLAIN, "user_oriented", 60, column="instruction"),
    PublicSet("OpenAssistant prompts", PLAIN, "oasst_en_prompts", 60),
)


def locate(config: PublicPromptsConfig) -> Path | None:
    """The folder with the user's copy, None where there is none.

    Raises:
        DataError: the recipe, or the environment variable, names a folder that does not exist.
    """
    return public_files.locate(config.folder, "public_prompts.folder")


def load(config: PublicPromptsConfig) -> list[Prompt]:
    """The prompts of all sets that the copy has; a tag ``set:NAME`` says which set, another tag its kind.

    Raises:
        DataError: the folder or a file cannot be read, or the folder has none of the sets.
    """
    folder = locate(config)
    if folder is None:
        return []
    files = sorted(path for path in folder.rglob("*") if path.name.endswith((".jsonl", ".jsonl.gz", ".json", ".csv")))
    read = functools.cache(read_rows)  # several sets lie in one file
    prompts = []
    for wanted in SETS:
        path = next((path for path in files if path.name.startswith(wanted.file)), None)
        rows = read(path) if path else []
        column, value = wanted.where
        texts = {_text(row, wanted.column) for row in rows if not column or row.get(column) == value}
        chosen = sorted(texts - {""}, key=sha256_text)[: min(wanted.rows, config.limit)]
        prompts += [Prompt(prompt=text, split="evaluation", tags=(wanted.kind, SET + wanted.name)) for text in chosen]
    if not prompts:
        names = ", ".join(sorted({wanted.file for wanted in SETS}))
        raise DataError("none of the public sets is here", where=str(folder), expected=f"files named {names} ...")
    return prompts


def _text(row: Mapping[str, Any], column: str) -> str:
    """The prompt of a row; an instruction with its input, where it has one."""
    instances = row.get("instances")
    inputs = instances[0] if isinstance(instances, list) and instances else row
    more = inputs.get("input") if isinstance(inputs, Mapping) else ""
    return "\n".join(part.strip() for part in (str(row.get(column) or ""), str(more or "")) if part.strip())


def summarise(prompts: Sequence[Prompt], refused: Iterable[bool]) -> dict[str, Any]:
    """Refusal rates by set, by kind, and by the form of the prompts of each kind, as JSON values."""
    cells = [
        Cell(kind_of(prompt.tags), _set(prompt), form_of(prompt.prompt), fact)
        for prompt, fact in zip(prompts, refused, strict=True)
    ]
    sets = [
        {
            "name": wanted.name,
            "kind": wanted.kind,
            "refused": rate([c for c in cells if c.content == wanted.name]).json(),
        }
        for wanted in SETS
    ]
    kinds = {}
    for kind in KINDS:
        own = [c for c in cells if c.kind == kind]
        commands, questions = (rate([c for c in own if c.form == form]) for form in (COMMAND, QUESTION))
        kinds[kind] = {
            "refused": rate(own).json(),
            "commands": commands.json(),
            "questions": questions.json(),
            "difference": independent_difference(questions, commands).json(),
        }
    return {"sets": sets, "kinds": kinds}


def _set(prompt: Prompt) -> str:
    return next(tag.removeprefix(SET) for tag in prompt.tags if tag.startswith(SET))
