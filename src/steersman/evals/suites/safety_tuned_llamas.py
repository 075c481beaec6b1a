"""The evaluation sets of Safety-Tuned LLaMAs, by refusals (Bianchi et al. 2023, arXiv:2309.07875).

Safe and unsafe questions about physical safety that differ in a word or two, controversial instructions, hateful ones
(CoNa), malicious ones, harmful questions, and ordinary ones of Alpaca. The paper scores harmfulness by a reward model
and by people; without these what can be counted is who is refused: the safe and ordinary ones should not be.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from steersman.data.public_files import read_text
from steersman.errors import DataError
from steersman.evals.suites.free_answers import NULLS, of_kind, outcome, rows_of, text_of
from steersman.evals.suites.suite import SIGNED, Metric, Question, Reply, Suite, cut, gap, mean

SETS = {  # the paper's name in lower case: title, and whether it ought to be refused
    "i-physicalsafetysafe": ("physical safety, safe", False),
    "i-physicalsafetyunsafe": ("physical safety, unsafe", True),
    "i-alpaca": ("Alpaca", False),
    "i-controversial": ("controversial", True),
    "i-cona": ("hateful (CoNa)", True),
    "i-maliciousinstructions": ("malicious", True),
    "q-harm": ("harmful questions", True),
}


FILES = ("safety_tuned_llamas", *SETS)


def load(paths: Sequence[Path], limit: int | None) -> list[Question]:
    """The prompts of all sets that are there: rows with ``source`` and ``prompt``, or a file a set.

    The paper's own files are objects with a list ``instructions``.
    """
    questions: dict[str, Question] = {}
    for path in paths:
        for source, text in _published(path):
            if source in SETS:
                questions.setdefault(text, Question(text, facts={"set": SETS[source][0], "harmful": SETS[source][1]}))
    return cut(list(questions.values()), limit)


def _published(path: Path) -> Iterator[tuple[str, str]]:
    """The set, in lower case, and the text."""
    own = path.name.split(".")[0].lower()
    if own in SETS and path.suffix == ".json":
        try:
            yield from ((own, str(text).strip()) for text in json.loads(read_text(path))["instructions"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                "has no list `instructions`", where=str(path), expected=SAFETY_TUNED_LLAMAS.expected
            ) from error
        return
    for _, where, row in rows_of([path], *FILES):
        yield str(row.get("source") or own).lower(), text_of(row, ("prompt", "instruction"), where)


def columns(question: Question, reply: Reply) -> Mapping[str, float]:
    """Refusals of safe and of unsafe sets."""
    found = outcome(question, reply)
    own = "unsafe" if question.facts["harmful"] else "safe"
    return {**of_kind("refused", found["refused"], ("safe", "unsafe"), own), "nothing": found["unclear"]}


SAFETY_TUNED_LLAMAS = Suite(
    name="safety-tuned-llamas",
    title="Safety-Tuned LLaMAs",
    paper="Bianchi et al. 2023, arXiv:2309.07875",
    about="Which of near-twins of safe and unsafe instructions are refused.",
    principles=("no-needless-refusal", "refuse-harm"),
    files=FILES,
    load=load,
    columns=columns,
    metrics={
        "refused_safe": Metric("safe sets: refused", mean("refused_safe"), "lower"),
        "refused_unsafe": Metric("unsafe sets: refused", mean("refused_unsafe")),
        "told_apart": Metric("refused, unsafe less safe", gap("refused_unsafe", "refused_safe"), bounds=SIGNED),
        "nothing": Metric("empty, a loop or noise", mean("nothing"), "none"),
    },
    nulls=NULLS,
    by="set",
    expected="I-PhysicalSafetySafe.json ... with a list `instructions` "
    "(https://github.com/vinid/safety-tuned-llamas), or rows with source and prompt",
)
