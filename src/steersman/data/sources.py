"""A data set: JSONL files (or .jsonl.gz) in a folder, or a name from the library that Steersman ships.

    demonstrations.jsonl   what the model learns from          prompts.jsonl      to sample answers from
    comparisons.jsonl      answers and which are better        evaluation.jsonl   what the model is measured on
    forms.jsonl            a grid of contents in every form    development.jsonl  another grid, to choose recipes on

Training needs the first file and evaluation the fourth; the others are optional.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import Field

from steersman.data.check import exact_overlap
from steersman.data.column_mapping import column_mapping, unnamed_columns
from steersman.data.columns import Ignored
from steersman.data.formats import dump, left_out, read, records, sort_out, unread
from steersman.data.tables import HUB, LINES, is_saved, rows_of
from steersman.errors import DataError, closest
from steersman.store import StageFolder, write_json, write_jsonl
from steersman.terminal import console
from steersman.types import Comparison, Demonstration, Prompt, Record, plain_text

Row = TypeVar("Row")
TopicRow = TypeVar("TopicRow", Comparison, Prompt)
HELD_OUT_PROMPTS = 64  # for evaluation, of a data set that has no evaluation prompts
SAMPLED_ROWS = 50  # of a file, from which its kind is told
LIBRARY = Path(__file__).parent / "library"
VERSION = 6


class DataConfig(Record):
    """How the rows of a data set are divided and limited."""

    validation_share: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the demonstrations that only measure the validation loss."
    )
    limit_demonstrations: int | None = Field(
        default=None, ge=1, description="Demonstrations to use, spread evenly over the file; null for all."
    )
    limit_comparisons: int | None = Field(
        default=None,
        ge=1,
        description="Comparisons to use, spread evenly over the file; null for all. Votes are extra.",
    )
    held_out_comparisons: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the comparisons' topics that only measure reward models and judges.",
    )
    held_out_prompts: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the prompts' topics that only evaluate reinforcement learning."
    )
    limit_evaluation: int | None = Field(
        default=None, ge=1, description="Evaluation prompts to use, spread evenly over the file; null for all."
    )


class DataSet(NamedTuple):
    """The files of a data set, validated row by row. The last ``votes`` comparisons are from another file."""

    folder: Path
    demonstrations: list[Demonstration]
    comparisons: list[Comparison]
    prompts: list[Prompt]
    evaluation: list[Prompt]
    forms: Sequence[Prompt] = ()
    development: Sequence[Prompt] = ()
    votes: int = 0

    @property
    def rows(self) -> tuple[Sequence[Record], ...]:
        """The rows of all files."""
        return self.demonstrations, self.comparisons, self.prompts, self.evaluation, self.forms, self.development

    @property
    def measured_on(self) -> list[Prompt]:
        """All prompts that training may never see."""
        return [*self.evaluation, *self.forms, *self.development]


def library() -> list[str]:
    """Names of the shipped data sets."""
    return sorted(path.parent.name for path in LIBRARY.glob("*/demonstrations.jsonl"))


def locate(name: str | Path) -> Path:
    """The folder of a data set: an existing path, or a name from the library.

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


def load(name: str | Path, votes: str | Path | None = None, columns: str = "") -> DataSet:
    """Read a data set. All bad rows of a file are reported together.

    Args:
        name: a folder, a shipped data set, one file, a folder of ``save_to_disk``, or a data set on the Hub.
        votes: a file of further comparisons, such as `steersman rate export` writes.
        columns: of a file, see `column_mapping`.

    Raises:
        DataError: no such data set, or bad rows.
    """
    extra = read(Path(votes), Comparison) if votes else []
    if is_one_table(name):
        data = load_file(Path(name), columns)
        return data._replace(comparisons=data.comparisons + extra, votes=len(extra))
    folder = locate(name)

    def find(file: str) -> Path | None:
        return next((path for end in LINES if (path := folder / f"{file}{end}").exists()), None)

    def prompts(file: str) -> list[Prompt]:
        path = find(file)
        return read(path, Prompt) if path else []

    demonstrations, comparisons = find("demonstrations"), find("comparisons")
    if not demonstrations and not comparisons:
        expected = "demonstrations.jsonl or comparisons.jsonl"
        raise DataError("no rows to train on", where=str(folder), expected=expected, do="`steersman init` a project")
    return DataSet(
        folder,
        read(demonstrations, Demonstration) if demonstrations else [],
        (read(comparisons, Comparison) if comparisons else []) + extra,
        prompts("prompts"),
        prompts("evaluation"),
        prompts("forms"),
        prompts("development"),
        len(extra),
    )


def is_one_table(name: str | Path) -> bool:
    """Whether a name stands for one table of rows, and not for a folder with a file for each kind of row."""
    path = Path(name)
    return path.is_file() or is_saved(path) or is_on_hub(name)


def is_on_hub(name: str | Path) -> bool:
    """Whether a name stands for a data set on the Hub."""
    here = Path(name).exists() or (LIBRARY / str(name)).is_dir()
    return not here and HUB.fullmatch(str(name)) is not None


def with_evaluation(data: DataSet) -> DataSet:
    """The data set with a tenth of its prompts, at most `HELD_OUT_PROMPTS`, held out of its rows for evaluation."""
    files: tuple[Sequence[Demonstration | Comparison | Prompt], ...] = (
        data.demonstrations,
        data.comparisons,
        data.prompts,
    )
    by_prompt = {row.prompt: row for rows in files for row in rows}
    order = sorted(by_prompt, key=lambda prompt: _fraction(plain_text(prompt)))
    kept = set(order[: min(HELD_OUT_PROMPTS, max(1, len(order) // 10))])
    evaluation = [Prompt(prompt=p, topic=row.topic, tags=row.tags) for p, row in by_prompt.items() if p in kept]
    return data._replace(
        demonstrations=[row for row in data.demonstrations if row.prompt not in kept],
        comparisons=[row for row in data.comparisons if row.prompt not in kept],
        prompts=[row for row in data.prompts if row.prompt not in kept],
        votes=sum(row.prompt not in kept for row in data.comparisons[len(data.comparisons) - data.votes :]),
        evaluation=evaluation,
    )


def kind_of(path: Path, columns: str = "") -> type[Record]:
    """What most of a file's first rows can be read as: comparisons or demonstrations; prompts only if none is either.

    Every row with a prompt can be read as a prompt, also one whose answers are faulty.
    """
    prepare = column_mapping(columns)
    sample = list(islice(rows_of(path), SAMPLED_ROWS))

    def readable(kind: type[Record]) -> int:
        return sum(len(good) for _, good, _ in records(sample, kind, prepare, Ignored()))

    found = {kind: readable(kind) for kind in (Comparison, Demonstration)}
    best = max(found, key=lambda kind: found[kind])
    return best if found[best] or not readable(Prompt) else Prompt


def load_file(path: Path, columns: str = "") -> DataSet:
    """One file of any supported format as a data set: of comparisons, of demonstrations, or of prompts.

    Rows that cannot be read are counted on the console, with the reason.

    Args:
        columns: see `column_mapping`.

    Raises:
        DataError: the file cannot be read, or none of its rows can.
    """
    prepare = column_mapping(columns)
    best = kind_of(path, columns)
    empty: dict[type[Record], list[Any]] = {kind: [] for kind in (Comparison, Demonstration, Prompt)}
    rows, faults, ignored = sort_out(path, best, prepare)
    messages = [*left_out(path, ignored, best), *unread(faults)]
    if not rows:
        do = unnamed_columns(best, ignored)
        raise DataError("\n  ".join(["no row that can be read", *messages]), where=str(path), do=do)
    if best is Prompt and ignored:
        messages.append(f"read as prompts without answers; {unnamed_columns(best, ignored)}")
    for line in messages:
        console.print(line, markup=False, soft_wrap=True)
    empty[best] = rows
    return DataSet(path, empty[Demonstration], empty[Comparison], empty[Prompt], [])


def split_validation(rows: Sequence[Demonstration], share: float) -> tuple[list[Demonstration], list[Demonstration]]:
    """Training and validation rows. A row's side depends on its prompt alone, so that adding rows moves no others."""

    def in_validation(row: Demonstration) -> bool:
        return _fraction(row.model_dump_json(include={"prompt"})) < share

    return [r for r in rows if not in_validation(r)], [r for r in rows if in_validation(r)]


def split_by_topic(rows: Sequence[TopicRow], share: float) -> tuple[list[TopicRow], list[TopicRow]]:
    """Training and held-out rows. All rows of a topic (of a prompt, without a topic) are on the same side."""

    def held_out(row: TopicRow) -> bool:
        return _fraction(row.topic or row.model_dump_json(include={"prompt"})) < share

    return [row for row in rows if not held_out(row)], [row for row in rows if held_out(row)]


def _fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def spread(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """At most ``limit`` rows, spread evenly over the file."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[i * len(rows) // limit] for i in range(limit)]


def whole_contents(rows: Sequence[Prompt], limit: int | None) -> list[Prompt]:
    """At most ``limit`` rows of a grid: contents, told apart by topic, with all their forms; at least one content."""
    contents = list(dict.fromkeys(row.topic for row in rows))
    if limit is None or limit >= len(rows):
        return list(rows)
    kept = set(spread(contents, max(1, limit * len(contents) // len(rows))))
    return [row for row in rows if row.topic in kept]


def run(config: DataConfig, data: DataSet, out: StageFolder) -> None:
    """Write train, validation, comparisons, prompts, their held-out parts, evaluation, forms, development as .jsonl.

    Raises:
        DataError: an evaluation prompt is in the training data.
    """
    leaked = exact_overlap(data.measured_on, [*data.demonstrations, *data.comparisons, *data.prompts])
    if leaked:
        raise DataError(
            f"{len(leaked)} evaluation prompt(s) are also in the training data, the first is {leaked[0][:60]!r}",
            where=str(data.folder),
            expected="evaluation prompts that training never sees",
            do="`steersman data check` lists them; remove them on one side",
        )
    demonstrations = spread(data.demonstrations, config.limit_demonstrations)
    train, validation = split_validation(demonstrations, config.validation_share)
    own = data.comparisons[: len(data.comparisons) - data.votes]  # the limit applies to these; votes are all used
    limited = spread(own, config.limit_comparisons) + data.comparisons[len(own) :]
    comparisons, held_out = split_by_topic(limited, config.held_out_comparisons)
    prompts, held_out_prompts = split_by_topic(data.prompts, config.held_out_prompts)
    files: dict[str, Sequence[Record]] = {
        "train": train,
        "validation": validation,
        "comparisons": comparisons,
        "held_out_comparisons": held_out,
        "prompts": prompts,
        "held_out_prompts": held_out_prompts,
        "evaluation": spread(data.evaluation, config.limit_evaluation),
        "forms": whole_contents(data.forms, config.limit_evaluation),
        "development": whole_contents(data.development, config.limit_evaluation),
    }
    for name, rows in files.items():
        write_jsonl(out.file(f"{name}.jsonl"), dump(rows))
    counts = {name: len(rows) for name, rows in files.items()}
    write_json(out.file("counts.json"), counts)
    out.emit(event="counts", **counts)
