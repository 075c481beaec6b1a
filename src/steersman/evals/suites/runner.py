"""Suites from the user's copy, asked of the arms of a run, and measured.

The questions are gathered first, so that a missing file is known before a model is loaded. One model is loaded at a
time and asked all suites; its replies are in files of their own, so that a killed run goes on where it stopped and
writes the same bytes. `summary.json` holds what `measure.figures` makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from steersman.data import public_files
from steersman.errors import DataError, closest
from steersman.evals.suites import SUITES, by_name, measure
from steersman.evals.suites.asking import ask, read_replies
from steersman.evals.suites.suite import Question, Suite
from steersman.lm.language_model import LanguageModel
from steersman.lm.sampling import SamplingConfig
from steersman.store import StageFolder, canonical, read_jsonl, sha256_text, write_json, write_jsonl
from steersman.terminal import Progress
from steersman.types import Record, Text, transport

VERSION = 2  # raise it when the questions, columns or metrics of any suite change, or how they are asked or measured
SUMMARY = "summary.json"
OURS = "ours"  # the name of all suites that need no copy
GUARDED = "guarded"  # the arm that is the last model's answers behind the guard
LONGEST = 256  # tokens of a free answer
ANY_FILE = ("",)  # suites name their files themselves

Guarded = Callable[[Text, str], str | None]  # of a prompt and an answer: what stands in its place, None if it passes


class SuitesConfig(Record):
    """Published suites, as far as a copy of them is at hand, and our own."""

    names: tuple[str, ...] = Field(
        default=(), description="Which suites; `ours`: all that need no copy; empty: all whose files are found."
    )
    limit: int | None = Field(
        default=200, ge=1, description="Most questions of a suite, chosen by a digest of their text; null for all."
    )
    folder: str | None = transport(
        None,
        description=f"Folder with the published sets; null for the one that {public_files.FOLDER_VARIABLE} names.",
    )
    sampling: SamplingConfig = Field(
        default=SamplingConfig(max_new_tokens=LONGEST),
        description="Sampling of free answers; their length is the suite's, or this if it is less.",
    )


class Gathered(NamedTuple):
    """The questions by suite, and the suites whose files are missing from the copy."""

    questions: Mapping[str, list[Question]]
    missing: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of all questions: whatever a model would be asked, and what its replies are held against."""
        return sha256_text(canonical({name: digest_of(rows) for name, rows in self.questions.items()}))


def digest_of(questions: Sequence[Question]) -> str:
    """The digest of the questions of one suite."""
    rows = [
        [
            q.prompt if isinstance(q.prompt, str) else [message.model_dump(mode="json") for message in q.prompt],
            list(q.options),
            dict(q.facts),
            q.cluster,
            q.plain,
        ]
        for q in questions
    ]
    return sha256_text(canonical(rows))


# ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────────
def available(names: Sequence[str], folder: Path | None) -> list[str]:
    """The suites of these names (all if there are none) that are ours or have a file in the folder."""
    return [suite.name for suite in _wanted(names) if not suite.files or (folder and files_of(suite, folder))]


def files_of(suite: Suite, folder: Path) -> list[Path]:
    """The files of a suite in the user's copy."""
    return public_files.find(folder, suite.files, endings=ANY_FILE)


def gather(names: Sequence[str], folder: Path | None, limit: int | None, *, strict: bool = False) -> Gathered:
    """The questions of suites.

    Args:
        names: which; all if there are none.
        strict: a suite without its files is an error, not left out.

    Raises:
        DataError: a name that no suite has; a file that cannot be read; a missing file, if ``strict``.
    """
    questions: dict[str, list[Question]] = {}
    missing = []
    for suite in _wanted(names):
        paths = files_of(suite, folder) if folder and suite.files else []
        if suite.files and not paths:
            if strict:
                raise _missing(suite, folder)
            missing.append(suite.name)
            continue
        rows = suite.load(paths, limit)
        if not rows:
            raise DataError(
                f"no question of {suite.title} in the files", where=", ".join(map(str, paths)), expected=suite.expected
            )
        questions[suite.name] = rows
    return Gathered(questions, tuple(missing))


def _wanted(names: Sequence[str]) -> list[Suite]:
    known = [OURS, *(suite.name for suite in SUITES)]
    for name in names:
        if name not in known:
            raise DataError(f"no suite {name!r}", expected=", ".join(known), do=closest(name, known))
    return [suite for suite in SUITES if not names or suite.name in names or (OURS in names and not suite.files)]


def _missing(suite: Suite, folder: Path | None) -> DataError:
    named = " or ".join(f"{start} ..." for start in suite.files)
    where = str(folder) if folder else f"--data, or the variable {public_files.FOLDER_VARIABLE}"
    found = f"{suite.title} is asked from your copy, and there is none" + ("" if folder else ": no folder is named")
    expected = f"a file or folder whose name begins with {named}" + (f"; {suite.expected}" if suite.expected else "")
    return DataError(found, where=where, expected=expected, do=f"get it from its authors ({suite.paper})")


# ── asking and measuring ─────────────────────────────────────────────────────────────────────────────────────────────
def run(
    gathered: Gathered,
    arms: Mapping[str, Callable[[], LanguageModel]],
    sampling: SamplingConfig,
    out: StageFolder,
    guarded: Callable[[], Guarded] | None = None,
) -> None:
    """Ask every arm every suite, measure, and write summary.json. A killed run resumes after its last batch.

    Args:
        arms: by name, what loads the model; the first is what others are compared with.
        guarded: loads a guard, behind which the last arm's free answers are one more arm.
    """
    asked = {by_name(name): questions for name, questions in gathered.questions.items()}
    for arm, load in arms.items():
        _ask_all(asked, arm, load, sampling, out)
    suites = []
    last = list(arms)[-1]
    free = [suite for suite, questions in asked.items() if not any(question.options for question in questions)]
    if guarded and any(not file_of(out, suite, GUARDED).exists() for suite in free):
        guard = guarded()
        for suite in free:
            behind_guard(guard, asked[suite], file_of(out, suite, last), file_of(out, suite, GUARDED))
            out.emit(event="guarded", suite=suite.name)
    for suite, questions in asked.items():
        names = [*arms, *([GUARDED] if guarded and suite in free else [])]
        suites.append(summarise(suite, questions, {arm: file_of(out, suite, arm) for arm in names}))
        out.emit(event="measured", suite=suite.name)
    compared = last if len(arms) > 1 else None
    write_json(
        out.file(SUMMARY),
        {
            "suites": suites,
            "arms": list(arms),
            "missing": described(gathered.missing),
            "changes": measure.verdicts(suites, compared) if compared else [],
        },
    )


def _ask_all(
    asked: Mapping[Suite, Sequence[Question]],
    arm: str,
    load: Callable[[], LanguageModel],
    sampling: SamplingConfig,
    out: StageFolder,
) -> None:
    """One arm's replies to all suites; the model is loaded only if some are missing."""
    left = [suite for suite in asked if not file_of(out, suite, arm).exists()]
    if not left:
        return
    model = load()
    with Progress(f"{arm} suites", sum(len(asked[suite]) for suite in left)) as progress:
        for suite in left:
            ask(suite, asked[suite], model, sampling, file_of(out, suite, arm), progress.advance)
            out.emit(event="asked", suite=suite.name, arm=arm)


def file_of(out: StageFolder, suite: Suite, arm: str) -> Path:
    """Where an arm's replies to a suite are."""
    return out.file(f"{suite.name}.{arm}.jsonl")


def behind_guard(guard: Guarded, questions: Sequence[Question], answers: Path, file: Path) -> None:
    """Write the answers as a reader behind the guard gets them: what it stops is its own refusal."""
    rows = []
    for row in read_jsonl(answers):
        instead = guard(questions[row["index"]].prompt, row["answer"])
        rows.append({**row, "answer": row["answer"] if instead is None else instead, "stopped": instead is not None})
    write_jsonl(file, rows)


def summarise(suite: Suite, questions: Sequence[Question], files: Mapping[str, Path]) -> dict[str, Any]:
    """A suite's figures from the arms' replies, with what it is about and what was dropped, as JSON values."""
    read = {arm: read_replies(file) for arm, file in files.items()}
    by_letter = any(row.get("by_letter") for row in read_jsonl(next(iter(files.values()))))
    return {
        **_about(suite),
        "questions": len(questions),
        "clusters": int(measure.clusters_of(questions).max()) + 1,
        "dropped": {arm: dropped for arm, (_, dropped) in read.items() if dropped},
        "by_letter": by_letter,
        **measure.figures(suite, questions, {arm: replies for arm, (replies, _) in read.items()}),
    }


def described(names: Sequence[str]) -> list[dict[str, Any]]:
    """What suites are about, as JSON values."""
    return [_about(by_name(name)) for name in names]


def _about(suite: Suite) -> dict[str, Any]:
    return {
        "suite": suite.name,
        "title": suite.title,
        "paper": suite.paper,
        "about": suite.about,
        "principles": list(suite.principles),
    }
