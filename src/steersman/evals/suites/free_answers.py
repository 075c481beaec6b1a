"""What suites with free answers share: what a reply did, pairs that stay together, and reading rows.

A reply complies, declines, declines in part, or does neither: it is empty, an echo, a loop, noise, off the subject, or
in a language that the detector does not cover (`steersman.evals.detectors.refusal`). The four add up to 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from steersman.data.public_files import ENDINGS, read_rows, read_text
from steersman.errors import DataError
from steersman.evals.detectors.behaviours import detect
from steersman.evals.detectors.refusal import refusal
from steersman.evals.suites.suite import Question, Reply, answering
from steersman.store import read_jsonl, sha256_text
from steersman.types import Behaviour, Record, plain_text

LIBRARY = Path(__file__).parents[2] / "data" / "library" / "suites"
LINES = ".txt"  # a prompt a line
OUTCOMES = ("complied", "refused", "partial", "unclear")
SAYS_NOTHING = math.nan  # the question says nothing about this column
REFUSES = "I'm sorry, but I can't help with that."
COMPLIES = (
    "Sure, here is what you asked for, in a few words: it depends on the case, and this is how it is usually done."
)
NULLS = {"always refuses": answering(REFUSES), "always complies": answering(COMPLIES)}

R = TypeVar("R", bound=Record)


def outcome(question: Question, reply: Reply) -> dict[str, float]:
    """One of `OUTCOMES` is 1, the others are 0."""
    name = _outcome(plain_text(question.prompt), reply.text)
    return {which: float(which == name) for which in OUTCOMES}


@lru_cache(maxsize=2**14)  # a null says the same in every draw
def _outcome(prompt: str, reply: str) -> str:
    names = {"compliance": "complied", "refusal": "refused", "partial": "partial"}
    return names.get(refusal(prompt, reply), "unclear")


def shows(question: Question, reply: Reply, *behaviours: Behaviour) -> bool:
    """Whether the reply shows one of the behaviours of `evals.detectors.behaviours`."""
    return any(_shows(behaviour, plain_text(question.prompt), reply.text) for behaviour in behaviours)


@lru_cache(maxsize=2**14)
def _shows(behaviour: Behaviour, prompt: str, reply: str) -> bool:
    return detect(behaviour, prompt, reply)


def of_kind(name: str, value: float, kinds: Sequence[str], own: str) -> dict[str, float]:
    """A column for each kind, ``NAME_KIND``: the value for the question's own, NaN for the others."""
    return {f"{name}_{kind}": value if kind == own else SAYS_NOTHING for kind in kinds}


def ours(name: str, row: type[R]) -> list[R]:
    """The rows of one of our own sets, which ship."""
    return [row.model_validate(found) for found in read_jsonl(LIBRARY / f"{name}.jsonl")]


def cut_pairs(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """At most so many questions, whole clusters, in their order; which ones, a digest of their first text says.

    There is always one cluster, even if it alone is larger.

    Questions of one cluster are compared with one another, so that none may lack its twin.
    """
    clusters: dict[str, list[Question]] = {}
    for question in questions:
        clusters.setdefault(question.cluster, []).append(question)
    kept, size = set[str](), 0
    for name in sorted(clusters, key=lambda key: sha256_text(plain_text(clusters[key][0].prompt))):
        if kept and limit is not None and size + len(clusters[name]) > limit:
            break
        kept.add(name)
        size += len(clusters[name])
    return [question for question in questions if question.cluster in kept]


def rows_of(paths: Sequence[Path], *starts: str) -> Iterator[tuple[Path, str, Mapping[str, Any]]]:
    """The rows of all tables among the files, each with its file and, for errors, where it stands.

    Args:
        starts: of the file names that are read, whatever their case, without any all. A set's folder holds others too.
    """
    for path in paths:
        name = path.name.lower()
        if starts and not name.startswith(starts):
            continue
        if name.endswith(ENDINGS):
            for number, row in enumerate(read_rows(path), start=1):
                yield path, f"{path}, row {number}", row
        elif name.endswith(LINES):
            for number, line in enumerate(read_text(path).splitlines(), start=1):
                if line.strip():
                    yield path, f"{path}, line {number}", {"prompt": line}


def text_of(row: Mapping[str, Any], columns: Sequence[str], where: str) -> str:
    """The text in the first of the columns that the row has.

    Raises:
        DataError: it has none of them, or the text is empty.
    """
    for column in columns:
        if str(row.get(column) or "").strip():
            return str(row[column]).strip()
    raise DataError(f"a row has no text in {', '.join(columns)}", where=where, expected="the columns as published")
