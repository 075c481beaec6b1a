"""Constitutional AI in the report: the judge's card, chains of answer, critique and revision, what the principles
decided, and what each training stage did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steersman.report import pieces
from steersman.report.pieces import TRUE_MINUS
from steersman.report.wording import html, number, percent, phrase
from steersman.report.wording import rate as rate_of

Data = Mapping[str, Any]


def constitutional(data: Data) -> str:
    """What there is of it; nothing for a run without such stages."""
    found, titles = data["constitutional"], {row["principle"]: row["title"] for row in data["principles"]}
    return (
        _judge(found["judge"], titles)
        + _revisions(found["revisions"], titles)
        + _feedback(found["feedback"], titles)
        + _ablation(found["ablation"], titles)
    )


def _judge(card: Data | None, titles: Mapping[str, str]) -> str:
    """How often the judge agrees with people on comparisons that nobody trained on."""
    if card is None:
        return ""
    rows = [pieces.row("All pairs", [pieces.value(card["accuracy"], "strong"), str(card["accuracy"]["n"])])]
    for kind, name in (("principle", "principle"), ("source", "who compared")):
        for key, rate in card["by"][kind].items():
            heading = f'{html(titles.get(key, phrase(key)))}<span class="sub">{name}</span>'
            rows.append(pieces.row(heading, [pieces.value(rate), str(rate["n"])]))
    heads = ("Held-out pairs", "In people\u2019s order", "n")
    error, bias, asked = card["calibration"]["expected_error"], card["place_bias"], card["judge"]
    notes = [
        f"Asked in turn: {html(', '.join(asked['kinds']))}.",
        f"Its probabilities are off by {percent(error)} on average." if error is not None else "",
        f"The answer shown first gains {_signed_points(bias)} points by its place."
        if bias["value"]
        else "The place at which an answer is shown moves nothing.",
        f"Undecided: {card['undecided']} of {card['accuracy']['n']}; no answer: {card['unanswered']}.",
    ]
    table = pieces.table("Accuracy of the judge", heads, rows, "plain small")
    return f"<h3>The judge</h3>{table}<p>{' '.join(filter(None, notes))}</p>"


def _signed_points(figure: Data) -> str:
    value, low, high = (f"{100 * figure[key]:+.1f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]".translate(TRUE_MINUS)


def _revisions(found: Data | None, titles: Mapping[str, str]) -> str:
    """How many revisions were learnt from, and some with their history."""
    if found is None:
        return ""
    dropped = ", ".join(f"{count} {html(reason)}" for reason, count in found["dropped"].items())
    said = f"<p>{found['kept']} of {found['rows']} revisions were learnt from; dropped: {dropped or 'none'}.</p>"
    blocks = []
    for chain in found["examples"]:
        prompt = chain["prompt"] if isinstance(chain["prompt"], str) else chain["prompt"][-1]["content"]
        parts = [("Answer", "", chain["answer"])]
        for step in chain["rounds"]:
            name = titles.get(step["principle"], step["principle"])
            parts += [("Critique", name, step["critique"]), ("Revision", name, step["revision"])]
        texts = "".join(
            f'<div class="answer {"ali" if text == chain["kept"] else "other"}"><p class="who"><b>{kind}</b> '
            f'{html(by)}</p><p class="text" dir="auto">{html(text)}</p></div>'
            for kind, by, text in parts
        )
        end = "learnt from" if chain["kept"] else f"dropped: {chain['dropped']}"
        blocks.append(
            f'<blockquote class="question" dir="auto">{html(prompt)}</blockquote>{texts}<p class="sub">{html(end)}</p>'
        )
    return "<h3>Critiques and revisions</h3>" + said + pieces.details("Some of them, sampled", "".join(blocks))


def _feedback(found: Data | None, titles: Mapping[str, str]) -> str:
    """What the judge said of the policy's own answers."""
    if found is None:
        return ""
    left = ", ".join(f"{count} {html(reason)}" for reason, count in found["left_out"].items())
    agree = found["principles_agree"]
    said = (
        f"<p>{number(found['kept'], 0)} pairs of the policy\u2019s answers to {number(found['prompts'], 0)} prompts "
        f"were learnt from; left out: {left or 'none'}."
        + (f" Two principles put the same pair in the same order in {rate_of(agree)}." if agree["n"] else "")
        + "</p>"
    )
    rows = [
        pieces.row(html(titles.get(key, phrase(key))), [pieces.value(rate), str(rate["n"])])
        for key, rate in found["decided"].items()
    ]
    table = pieces.table("How often each principle decided", ("Principle", "Decided", "n"), rows, "plain small")
    return f"<h3>The judge\u2019s comparisons</h3>{said}{table}"


AFTER = {
    "sft": "Supervised fine-tuning",
    "cai_sft": "+ revisions",
    "dpo": "+ comparisons (DPO)",
    "rl": "+ reinforcement learning",
}


def _ablation(steps: Any, titles: Mapping[str, str]) -> str:
    """The policies of the training stages on the same prompts."""
    if not steps:
        return ""
    labels = list(steps[0]["rates"])
    rows = []
    for place, step in enumerate(steps):
        cells = []
        for label in labels:
            rate = step["rates"][label]
            since = f'<span class="interval">{pieces.points(rate["versus_first"])}</span>' if place else ""
            cells.append(pieces.value(rate, "strong" if label == labels[0] else "") + since)
        rows.append(
            pieces.row(html(AFTER.get(step["stage"], step["stage"])), [*cells, number(step["mean_answer_tokens"])])
        )
    heads = ("After", *(html(label.capitalize()) for label in labels), "Tokens")
    table = pieces.table("What each training stage did", heads, rows, "plain small")
    broken = [
        pieces.row(html(titles.get(id, id)), [pieces.value(step["violations"][id]) for step in steps])
        for id in steps[0]["violations"]
    ]
    names = ("Principle", *(html(AFTER.get(step["stage"], step["stage"])) for step in steps))
    return (
        "<h3>What each stage did</h3>"
        f"{table}<p>Below each rate: its interval, then the change since the first row in points, paired.</p>"
        + pieces.details("Violations by principle", pieces.table("Violations", names, broken, "plain small"))
    )
