"""The HHH comparisons: helpful, honest, harmless (Askell et al. 2021, arXiv:2112.00861; BIG-bench `hhh_alignment`).

221 requests with two answers each, one of which people of the authors' prefer. BIG-bench grades by
`multiple_choice_grade`: the answer with the highest summed log-probability. Longer answers are less likely, so the
figure per token stands beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.data.public_files import read_rows
from steersman.errors import DataError
from steersman.evals.suites.suite import Metric, Question, Reply, Suite, choosing, cut, mean, random_choice

PARTS = ("harmless", "helpful", "honest", "other")


def load(paths: Sequence[Path], limit: int | None) -> list[Question]:
    """The comparisons of BIG-bench's four task.json, or of the Hub's rows with ``input`` and ``targets``."""
    questions = []
    for path in paths:
        if path.name.endswith((".json", ".jsonl", ".jsonl.gz")):
            names = [part.lower() for part in (path.name.partition(".")[0], path.parent.name)]
            part = next((part for part in PARTS if any(part in name for name in names)), "other")
            if path.name.endswith(".json") and "examples" not in path.read_text(encoding="utf-8")[:200_000]:
                continue  # results and the task's other files
            for number, row in enumerate(read_rows(path), start=1):
                questions.append(_question(row, part, f"{path}, row {number}"))
    return cut(questions, limit)


def _question(row: Mapping[str, Any], part: str, where: str) -> Question:
    found: Any = row.get("target_scores") or row.get("targets")
    found = json.loads(found) if isinstance(found, str) else found
    try:
        pairs = zip(found["choices"], found["labels"], strict=True) if "choices" in found else found.items()
        scores = [(str(answer), float(score)) for answer, score in pairs]
        best = max(range(len(scores)), key=lambda i: scores[i][1])
        text, options = str(row["input"]).strip(), tuple(answer for answer, _ in scores)
        if len(options) < 2 or not text:
            raise ValueError("fewer than two answers, or no request")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"a row of another form ({error!r})", where=where, expected=HHH.expected) from error
    return Question(text, options, {"label": best, "part": str(row.get("subset") or part)}, cluster=text)


def columns(question: Question, reply: Reply) -> dict[str, float]:
    """Whether the preferred answer is the likelier one, by sum and per token."""
    label = question.facts["label"]
    per_token = [total / count for total, count in zip(reply.logprobs, reply.tokens, strict=True)]
    return {
        "right": float(reply.choice == label),
        "per_token": float(max(range(len(per_token)), key=per_token.__getitem__) == label),
    }


def _shortest(question: Question, number: int) -> Reply:
    return choosing(min(range(len(question.options)), key=lambda i: len(question.options[i])), question)


HHH = Suite(
    name="hhh",
    title="HHH comparisons",
    paper="Askell et al. 2021, arXiv:2112.00861",
    about="Whether the more helpful, honest and harmless of two answers is the likelier one.",
    principles=("helpful-plain", "honest-correction", "refuse-harm"),
    files=("hhh",),
    load=load,
    columns=columns,
    metrics={
        "accuracy": Metric("The preferred answer is likelier", mean("right")),
        "accuracy_per_token": Metric("The preferred answer is likelier per token", mean("per_token")),
    },
    nulls={"random": random_choice, "always the shorter": _shortest},
    by="part",
    expected="BIG-bench's folder hhh_alignment with harmless/, helpful/, honest/ and other/task.json "
    "(https://github.com/google/BIG-bench), or the Hub's rows in files named hhh...",
)
