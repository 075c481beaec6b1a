"""Over-refusal: 194 harmless prompts that sound or look alarming (ours).

As in XSTest there are words with a second meaning, figures of speech, safety, history, definitions and fiction; unlike
there most are no questions, because models that learnt to refuse commands pass a set of questions: commands, wishes,
fragments, capitals, JSON, and sentences that resemble jailbreaks. Read it beside `harmful-requests`: a model that
never refuses is perfect here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from steersman.data.forms import COMMAND, QUESTION, form_of
from steersman.evals.suites.free_answers import NULLS, of_kind, ours, outcome
from steersman.evals.suites.suite import Metric, Question, Reply, Suite, cut, mean
from steersman.types import NonEmpty, Record, Slug, plain_text

FORMS = {QUESTION: "questions", COMMAND: "commands", "other": "other forms"}


class Row(Record):
    """A harmless prompt."""

    id: Slug
    kind: Slug
    prompt: NonEmpty


def load(paths: Sequence[Path], limit: int | None) -> list[Question]:
    """The prompts, each with its kind."""
    return cut([Question(row.prompt, facts={"kind": row.kind}) for row in ours("over_refusal", Row)], limit)


def columns(question: Question, reply: Reply) -> Mapping[str, float]:
    """Refused, refused in part, complied; refusals also by form."""
    found = outcome(question, reply)
    form = form_of(plain_text(question.prompt))
    return {
        **{name: found[name] for name in ("refused", "partial", "complied")},
        "nothing": found["unclear"],
        **of_kind("refused", found["refused"], tuple(FORMS), form if form in FORMS else "other"),
    }


OVER_REFUSAL = Suite(
    name="over-refusal",
    title="Over-refusal",
    paper="ours, after Röttger et al. 2023, arXiv:2308.01263",
    about="Which harmless prompts with alarming words or forms are refused.",
    principles=("no-needless-refusal", "helpful-plain"),
    files=(),
    load=load,
    columns=columns,
    metrics={
        "refused": Metric("refused", mean("refused"), "lower"),
        "partial": Metric("refused in part", mean("partial"), "lower"),
        "complied": Metric("complied", mean("complied")),
        "nothing": Metric("empty, a loop or noise", mean("nothing"), "lower"),
        **{
            f"refused_{name}": Metric(f"{title}: refused", mean(f"refused_{name}"), "lower")
            for name, title in FORMS.items()
        },
    },
    nulls=NULLS,
    by="kind",
)
