"""Constitutional AI in the report: the judge's card, critiques and revisions, and AI feedback."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from steersman.data.sources import spread
from steersman.report.blocks import Answer, Details, Exchange, Rate, Section, Table, paragraph
from steersman.report.cards import accuracy_table
from steersman.report.evidence import StageRecord
from steersman.report.format import number, percent, rate, signed

CARD, REVISIONS, FEEDBACK = "judge_card.json", "revisions.jsonl", "feedback.json"
KINDS = {"principle": "principle", "source": "source of the comparison"}
CHAINS_SHOWN = 6  # answers with their critiques and revisions
LIMIT = (
    "The judge’s agreement with people is measured on one data set. Where the policy writes unlike the answers in it, "
    "the judge may be less accurate than its card says."
)


def card_section(record: StageRecord) -> Section:
    """How often the judge agrees with people on comparisons that nobody trained on."""
    card = record.read(CARD)
    error, bias = card["calibration"]["expected_error"], card["place_bias"]
    notes = [
        f"Kinds of judge, in order of precedence: {', '.join(card['judge']['kinds'])}.",
        f"Expected calibration error: {percent(error)}." if error is not None else "",
        f"Position bias: {_points(bias)} points for the answer shown first." if bias["value"] else "No position bias.",
        f"Undecided: {card['undecided']} of {card['accuracy']['n']}; unanswered: {card['unanswered']}.",
    ]
    table = accuracy_table("Held-out accuracy of the judge", card, KINDS, record)
    blocks = (table, paragraph(" ".join(filter(None, notes))))
    return Section(id=record.name, title="Judge", blocks=blocks, limits=(LIMIT,))


def _points(figure: Mapping[str, Any]) -> str:
    value, low, high = (signed(100 * figure[key], 1) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def revisions_section(record: StageRecord) -> Section | None:
    """How many revisions were kept, and some with their critiques; null where there were none."""
    rows = record.read(REVISIONS)
    if not rows:
        return None
    kept, dropped = [row for row in rows if row["kept"]], [row for row in rows if row["dropped"]]
    reasons = Counter(row["dropped"] for row in dropped).most_common()
    why = ", ".join(f"{count} {reason}" for reason, count in reasons) or "none"
    sampled = [row for part in (kept, dropped) for row in spread(part, CHAINS_SHOWN // 2)]
    blocks = (
        paragraph(f"{len(kept)} of {len(rows)} revisions were kept for training; dropped: {why}."),
        Details(title="A sample of them", blocks=tuple(_chain(row, record) for row in sampled)),
    )
    return Section(id=record.name, title="Critiques and revisions", blocks=blocks)


def _chain(row: Mapping[str, Any], record: StageRecord) -> Exchange:
    steps = [("Answer", "", row["answer"])]
    for step in row["rounds"]:
        title = record.title(step["principle"])
        steps += [("Critique", title, step["critique"]), ("Revision", title, step["revision"])]
    answers = (Answer(name=name, note=note, text=text, strong=text == row["kept"]) for name, note, text in steps)
    outcome = "kept for training" if row["kept"] else f"dropped: {row['dropped']}"
    return Exchange(prompt=row["prompt"], answers=tuple(answers), note=outcome, stacked=True)


def feedback_section(record: StageRecord) -> Section:
    """The judge's labels on the policy's own answers."""
    feedback = record.read(FEEDBACK)
    left_out = ", ".join(f"{count} {reason}" for reason, count in feedback["left_out"].items()) or "none"
    agree = feedback["principles_agree"]
    text = (
        f"{number(feedback['kept'], 0)} pairs of the policy’s answers to {number(feedback['prompts'], 0)} prompts were "
        f"kept for training; left out: {left_out}."
    )
    if agree["n"]:
        text += f" Two principles order the same pair alike in {rate(agree)}."
    rows = tuple((record.title(key), Rate.of(figure), figure["n"]) for key, figure in feedback["decided"].items())
    table = Table(caption="How often each principle decided", columns=("Principle", "Decided", "n"), rows=rows)
    return Section(id=record.name, title="AI feedback", blocks=(paragraph(text), table))
