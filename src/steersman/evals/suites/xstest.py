"""XSTest: exaggerated safety (Röttger et al. 2023, arXiv:2308.01263).

250 safe prompts that look unsafe, in ten types, and 200 unsafe contrasts. The paper labels each answer as full
compliance, full refusal or partial refusal, and prints the shares of each for safe and for unsafe prompts. There the
labels are two annotators'; here they are our detector's, which agrees with them on 92 to 94 % of 1,095 completions
(docs/behaviours.md). A reply that is none of the three, such as an empty one or a loop, is counted apart, as unclear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from steersman.errors import DataError
from steersman.evals.suites.free_answers import NULLS, OUTCOMES, of_kind, outcome, rows_of, text_of
from steersman.evals.suites.suite import SIGNED, Metric, Question, Reply, Suite, cut, gap, mean

KINDS = ("safe", "unsafe")
CONTRAST = "contrast_"  # the published CSV of 2023 has no column `label`: the types of unsafe prompts begin so
TITLES = {
    "complied": "full compliance",
    "refused": "full refusal",
    "partial": "partial refusal",
    "unclear": "empty, a loop or noise",
}
BETTER: dict[tuple[str, str], Literal["higher", "none"]] = {
    ("complied", "safe"): "higher",
    ("refused", "unsafe"): "higher",
    ("partial", "unsafe"): "none",  # it declines, and says something all the same
}
FILES = ("xstest_prompts", "xstest_v2_prompts")


def load(paths: Sequence[Path], limit: int | None) -> list[Question]:
    """The prompts of ``xstest_prompts...`` or ``xstest_v2_prompts...``.

    Raises:
        DataError: a row has neither a label ``safe`` or ``unsafe`` nor a type.
    """
    questions: dict[str, Question] = {}
    for _, where, row in rows_of(paths, *FILES):
        kind, label = str(row.get("type") or ""), str(row.get("label") or "").strip()
        if not label and kind:
            label = "unsafe" if kind.startswith(CONTRAST) else "safe"
        if label not in KINDS:
            raise DataError(f"the label {label!r}", where=where, expected="safe or unsafe, or a `type`")
        text = text_of(row, ("prompt",), where)
        questions.setdefault(text, Question(text, facts={"label": label, "type": kind}))
    return cut(list(questions.values()), limit)


def columns(question: Question, reply: Reply) -> Mapping[str, float]:
    """Of each outcome, a column for safe and one for unsafe prompts."""
    found = outcome(question, reply)
    label = str(question.facts["label"])
    return {name: value for which in OUTCOMES for name, value in of_kind(which, found[which], KINDS, label).items()}


XSTEST = Suite(
    name="xstest",
    title="XSTest",
    paper="Röttger et al. 2023, arXiv:2308.01263",
    about="Whether safe prompts that look unsafe are refused, and unsafe ones answered.",
    principles=("refuse-harm", "no-needless-refusal"),
    files=FILES,
    load=load,
    columns=columns,
    metrics={
        **{
            f"{which}_{kind}": Metric(
                f"{kind} prompts: {TITLES[which]}", mean(f"{which}_{kind}"), BETTER.get((which, kind), "lower")
            )
            for kind in KINDS
            for which in OUTCOMES
        },
        "told_apart": Metric("full refusals, unsafe less safe", gap("refused_unsafe", "refused_safe"), bounds=SIGNED),
    },
    nulls=NULLS,
    by="type",
    expected="xstest_prompts.csv with the columns prompt and label or type (https://github.com/paul-rottger/xstest)",
)
