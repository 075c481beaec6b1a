"""A data set: four JSONL files (or .jsonl.gz) in a folder, or a name from the library that Steersman ships.

    demonstrations.jsonl   what the model learns from          prompts.jsonl      to sample answers from
    comparisons.jsonl      answers and which are better        evaluation.jsonl   what it is measured on

The first file is required for training and the last for measuring; the other two may be absent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import Field

from steersman.data.check import exact_overlap
from steersman.data.formats import dump, read
from steersman.errors import DataError, closest
from steersman.store import StageFolder, write_json, write_jsonl
from steersman.types import Comparison, Demonstration, Prompt, Record

Row = TypeVar("Row")
Asked = TypeVar("Asked", Comparison, Prompt)
LIBRARY = Path(__file__).parent / "library"
VERSION = 4


class DataConfig(Record):
    """``validation_share`` of the demonstrations watches the loss during training and is not trained on.

    ``held_out_comparisons`` is the share of the comparisons' topics that a reward model is measured on, and nothing is
    trained on; ``held_out_prompts`` that of the prompts' topics by which reinforcement learning is judged. The limits
    take that many rows, evenly over the file; for quick trials.
    """

    validation_share: float = Field(default=0.05, ge=0, lt=1)
    limit_demonstrations: int | None = Field(default=None, ge=1)
    limit_comparisons: int | None = Field(default=None, ge=1)
    held_out_comparisons: float = Field(default=0.0, ge=0, lt=1)
    held_out_prompts: float = Field(default=0.0, ge=0, lt=1)
    limit_evaluation: int | None = Field(default=None, ge=1)


class DataSet(NamedTuple):
    """The four files of a data set, read and checked row by row. The last ``votes`` comparisons are from elsewhere."""

    folder: Path
    demonstrations: list[Demonstration]
    comparisons: list[Comparison]
    prompts: list[Prompt]
    evaluation: list[Prompt]
    votes: int = 0


def library() -> list[str]:
    """Names of the shipped data sets."""
    return sorted(path.parent.name for path in LIBRARY.glob("*/demonstrations.jsonl"))


def locate(name: str | Path) -> Path:
    """The folder of a data set: a path as it is, a bare name from the library.

    Raises:
        DataError: neither exists.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if (LIBRARY / str(name) / "demonstrations.jsonl").exists():
        return LIBRARY / str(name)
    raise DataError(
        f"no data set {str(name)!r}", expected="a folder, or a shipped name", do=closest(str(name), library())
    )


def load(name: str | Path, votes: str | Path | None = None) -> DataSet:
    """Read a data set; every bad row of a file is reported at once.

    Args:
        votes: a file of further comparisons, such as `steersman rate export` writes.

    Raises:
        DataError: no such data set, no demonstrations.jsonl, or bad rows.
    """
    folder = locate(name)

    def find(file: str) -> Path | None:
        return next((path for end in ("jsonl", "jsonl.gz") if (path := folder / f"{file}.{end}").exists()), None)

    comparisons, prompts, evaluation = find("comparisons"), find("prompts"), find("evaluation")
    further = read(Path(votes), Comparison) if votes else []
    return DataSet(
        folder,
        read(find("demonstrations") or folder / "demonstrations.jsonl", Demonstration),
        (read(comparisons, Comparison) if comparisons else []) + further,
        read(prompts, Prompt) if prompts else [],
        read(evaluation, Prompt) if evaluation else [],
        len(further),
    )


def split_validation(rows: Sequence[Demonstration], share: float) -> tuple[list[Demonstration], list[Demonstration]]:
    """Training and validation rows. A row's side depends on its own prompt, so adding rows moves no others."""

    def in_validation(row: Demonstration) -> bool:
        return _fraction(row.model_dump_json(include={"prompt"})) < share

    return [r for r in rows if not in_validation(r)], [r for r in rows if in_validation(r)]


def split_by_topic(rows: Sequence[Asked], share: float) -> tuple[list[Asked], list[Asked]]:
    """Training and held-out rows. All rows of a topic (or a prompt, without one) are on the same side."""

    def held_out(row: Asked) -> bool:
        return _fraction(row.topic or row.model_dump_json(include={"prompt"})) < share

    return [row for row in rows if not held_out(row)], [row for row in rows if held_out(row)]


def _fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def spread(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """At most ``limit`` rows, evenly over the file, so that every part of it is represented."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[i * len(rows) // limit] for i in range(limit)]


def run(config: DataConfig, data: DataSet, out: StageFolder) -> None:
    """Write train, validation, comparisons, held_out_comparisons, prompts, held_out_prompts and evaluation as .jsonl.

    Raises:
        DataError: there is nothing to train or to measure on, or an evaluation prompt is also trained on.
    """
    if not data.evaluation:
        raise DataError("no evaluation prompts", where=str(data.folder / "evaluation.jsonl"), do="add held-out prompts")
    leaked = exact_overlap(data.evaluation, [*data.demonstrations, *data.comparisons, *data.prompts])
    if leaked:
        raise DataError(
            f"{len(leaked)} evaluation prompt(s) are also trained on, the first is {leaked[0][:60]!r}",
            where=str(data.folder),
            expected="evaluation prompts that training never sees",
            do="`steersman data check` lists them; remove them on one side",
        )
    demonstrations = spread(data.demonstrations, config.limit_demonstrations)
    train, validation = split_validation(demonstrations, config.validation_share)
    if not train:
        raise DataError("no demonstrations to train on", where=str(data.folder / "demonstrations.jsonl"))
    own = data.comparisons[: len(data.comparisons) - data.votes]  # the limit is for these: votes are all taken
    limited = spread(own, config.limit_comparisons) + data.comparisons[len(own) :]
    comparisons, held_out = split_by_topic(limited, config.held_out_comparisons)
    prompts, watched = split_by_topic(data.prompts, config.held_out_prompts)
    files: dict[str, Sequence[Record]] = {
        "train": train,
        "validation": validation,
        "comparisons": comparisons,
        "held_out_comparisons": held_out,
        "prompts": prompts,
        "held_out_prompts": watched,
        "evaluation": spread(data.evaluation, config.limit_evaluation),
    }
    for name, rows in files.items():
        write_jsonl(out.file(f"{name}.jsonl"), dump(rows))
    counts = {name: len(rows) for name, rows in files.items()}
    write_json(out.file("counts.json"), counts)
    out.emit(event="counts", **counts)
