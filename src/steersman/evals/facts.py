"""Facts with known answers, asked as questions and as commands and answered by generation.

Unlike the knowledge items of `evals/capability.py`, which are scored by log-probability, they show whether a model
*says* what it knows when it is asked in the format of its training. Right is what holds an accepted string as whole
words in its first two sentences (Joshi et al. 2017, arXiv:1705.03551); what else it says is not judged. The items ship
with Steersman, in `data/library/capability/facts.jsonl`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from steersman.data.sources import spread
from steersman.evals.conditions import Condition
from steersman.evals.detectors.behaviours import detect
from steersman.lm.language_model import LanguageModel
from steersman.lm.sampling import SamplingConfig
from steersman.lm.transcript import Transcript
from steersman.store import StageFolder, read_jsonl
from steersman.terminal import Progress
from steersman.types import NonEmpty, Record, Text

FILE = Path(__file__).parent.parent / "data" / "library" / "capability" / "facts.jsonl"
SENTENCES = 2  # of an answer, in which the fact must stand


class Fact(Record):
    """A question, or a command, with a known answer. ``accept``: words of which one must stand in a right answer."""

    question: NonEmpty
    accept: tuple[NonEmpty, ...]
    form: Literal["question", "command"]


def load() -> list[Fact]:
    """The shipped facts, questions and commands in turn."""
    return [Fact.model_validate(row) for row in read_jsonl(FILE)]


def chosen(facts: Sequence[Fact], limit: int) -> list[Fact]:
    """At most ``limit`` facts, spread evenly over the file, about as many questions as commands."""
    questions, commands = ([fact for fact in facts if fact.form == form] for form in ("question", "command"))
    return [*spread(questions, limit - limit // 2), *spread(commands, limit // 2)]


def is_right(fact: Fact, answer: str) -> bool:
    """Whether an accepted string occurs as whole words in the answer's first two sentences, whatever its case."""
    sentences = [part for part in re.split(r"(?<=[.!?])\s+|\n+", answer) if part.strip()]
    text = _whole_words(" ".join(sentences[:SENTENCES]))
    return any(_whole_words(accepted) in text for accepted in fact.accept)


def _whole_words(text: str) -> str:
    """The words, with one space between them and at each end; 1,000 is one word."""
    joined = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text.casefold())
    words = re.findall(r"[^\W_]+", joined)
    return f" {' '.join(words)} "


def ask(
    facts: Sequence[Fact],
    model: LanguageModel,
    condition: Condition,
    sampling: SamplingConfig,
    partial: Path,
    out: StageFolder,
) -> list[dict[str, Any]]:
    """Answers under one condition, each with whether it is right, and whether it declines.

    Args:
        partial: the transcript, which several conditions may share; a killed run continues from it.
    """
    transcript = Transcript(partial)
    questions: dict[int, Text] = {index: fact.question for index, fact in enumerate(facts)}
    done = sum(step == condition.name for step, _ in transcript.rows)
    with Progress(out.stage, len(questions), done) as progress:
        replies = transcript.answers(
            condition.name, model, questions, sampling, preamble=condition.preamble, advance=progress.advance
        )
    rows = []
    for index, fact in enumerate(facts):
        reply = {key: value for key, value in replies[index].items() if key not in ("step", "index")}
        about = {"condition": condition.name, "index": index, "prompt": fact.question, "form": fact.form}
        declined = detect("refuses", fact.question, reply["answer"])
        rows.append({**about, **reply, "right": is_right(fact, reply["answer"]), "declined": declined})
    out.emit(event="facts", condition=condition.name, asked=len(rows), right=sum(row["right"] for row in rows))
    return rows
