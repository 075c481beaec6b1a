"""The section on training: the curves of fine-tuning, learning from comparisons, and the reward model's card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steersman.report import charts, pieces
from steersman.report.constitutional import constitutional
from steersman.report.pieces import TRUE_MINUS
from steersman.report.wording import html, number, percent, phrase
from steersman.report.wording import rate as rate_of

Data = Mapping[str, Any]


def training(data: Data) -> str:
    """What each stage that learns recorded."""
    later = (_preferences(data["preferences"]), _reward_card(data), constitutional(data))
    found = "".join((_fine_tuning(data), *later, _reinforcement(data["reinforcement"])))
    return pieces.section("training", "Training", found)


def _fine_tuning(data: Data) -> str:
    """Loss curves and, with a compact vocabulary, the probability outside its exact rows."""
    loss, validation, outside = (
        [(float(x), float(y)) for x, y in data["training"][name] if y is not None]
        for name in ("loss", "validation_loss", "mass_outside_exact_rows")
    )
    if not loss:
        return "<p>This run recorded no steps of supervised fine-tuning.</p>"
    window = max(3, len(loss) // 15) | 1
    smooth = charts.smoothed(loss, window)
    curves = [
        charts.Curve("step", "light", charts.thinned(loss)),
        charts.Curve("mean", "smooth", charts.thinned(smooth)),
    ]
    said = f"Training loss fell from {smooth[0][1]:.3f} to {smooth[-1][1]:.3f}"
    if smooth[-1][1] >= smooth[0][1]:
        said = f"Training loss went from {smooth[0][1]:.3f} to {smooth[-1][1]:.3f}"
    keys = '<li><i class="swatch light"></i>training, each step</li>'
    keys += f'<li><i class="swatch smooth"></i>training, mean of {window} steps</li>'
    if validation:
        curves.append(charts.Curve("validation", "marked", validation))
        said += f", and validation loss from {validation[0][1]:.3f} to {validation[-1][1]:.3f}"
        keys += '<li><i class="swatch marked"></i>validation, rows not trained on</li>'
    figure = pieces.figure(curves, f"{said} (nats per token).", "loss, nats per token", keys)
    if outside:
        before, after = outside[0][1], outside[-1][1]
        figure += pieces.figure(
            [charts.Curve("outside", "marked", outside)],
            f"Probability outside the vocabulary rows that were scored exactly: {100 * before:.2f} % before training, "
            f"{100 * after:.2f} % at the end. Those rows are sampled in training; this must not grow.",
            "probability outside the exact rows",
        )
    table = pieces.table(
        "Validation by step",
        ("Step", "Loss, nats per token", *(["Probability outside"] if outside else [])),
        (
            pieces.row(f"{x:g}", [f"{y:.4f}", *([f"{dict(outside)[x]:.4f}"] if x in dict(outside) else [])])
            for x, y in validation
        ),
        "plain small",
    )
    return figure + (pieces.details("The same as a table", table) if validation else "")


def _signed(nats: float) -> str:
    return f"{nats:+.2f}".translate(TRUE_MINUS)


def _preferences(found: Data) -> str:
    """How far the answers of the comparisons moved from the policy before; nothing if none were learnt from."""
    chosen, rejected, accuracy = (
        [(float(x), float(y)) for x, y in found[name] if y is not None] for name in ("chosen", "rejected", "accuracy")
    )
    if not chosen:
        return ""
    window = max(3, len(chosen) // 10) | 1
    better, worse = charts.smoothed(chosen, window), charts.smoothed(rejected, window)
    told_apart = charts.smoothed(accuracy, window)[-1][1]
    said = (
        f"On {number(found['comparisons'], 0)} comparisons, the log-probability of the better answers changed by "
        f"{_signed(better[-1][1])} nats and that of the worse ones by {_signed(worse[-1][1])}, against the model "
        f"before; {percent(told_apart)} of the pairs of the last steps were told apart, all of them trained on."
    )
    keys = '<li><i class="swatch smooth"></i>better answers</li><li><i class="swatch light"></i>worse answers</li>'
    lines = [
        charts.Curve("chosen", "smooth", charts.thinned(better)),
        charts.Curve("rejected", "light", charts.thinned(worse)),
    ]
    name = f"log-ratio, nats, mean of {window} steps"
    return "<h3>Learning from comparisons</h3>" + pieces.figure(lines, said, name, keys)


def _reward_card(data: Data) -> str:
    """What the reward model is worth on comparisons that it did not see, and what it falls for; nothing without one."""
    card = data["reward_card"]
    if card is None:
        return ""
    titles = {row["principle"]: row["title"] for row in data["principles"]}
    rows = [pieces.row("All pairs", [pieces.value(card["accuracy"], "strong"), str(card["accuracy"]["n"])])]
    kinds = {"principle": "principle", "failure": "what is wrong with the worse answer", "group": "group of raters"}
    for kind, name in kinds.items():
        for key, rate in card["by"][kind].items():
            heading = f'{html(titles.get(key, phrase(key)))}<span class="sub">{name}</span>'
            rows.append(pieces.row(heading, [pieces.value(rate), str(rate["n"])]))
    heads = ("Held-out pairs", "In the raters\u2019 order", "n")
    accuracy = pieces.table("Accuracy of the reward model", heads, rows, "plain small")
    best, ceiling, error = card["best_of_4"], card["ceiling"], card["calibration"]["expected_error"]
    notes = [
        f"Best of four answers found: {rate_of(best)}." if best["n"] else "",
        f"Two raters of the same pair agree in {rate_of(ceiling)}: the ceiling." if ceiling["n"] else "",
        f"Its probabilities are off by {percent(error)} on average." if error is not None else "",
    ]
    biases = [
        pieces.row(
            html(phrase(name)),
            [
                pieces.value(found["preferred"]),
                f"{number(found['shift_nats']['value'], 2)} [{number(found['shift_nats']['low'], 2)}, "
                f"{number(found['shift_nats']['high'], 2)}]".translate(TRUE_MINUS),
                str(found["preferred"]["n"]),
            ],
        )
        for name, found in card["biases"].items()
        if found["preferred"]["n"]
    ]
    return (
        f"<h3>The reward model</h3>{accuracy}<p>{' '.join(filter(None, notes))}</p>"
        "<p>What it falls for: none of these changes makes an answer better.</p>"
        + pieces.table(
            "Biases of the reward model",
            ("The same answer", "Preferred to the original", "Shift of the score, nats", "n"),
            biases,
            "plain small",
        )
    )


def _reinforcement(found: Data | None) -> str:
    """The score against the KL with what was not optimised beside it, the policy taken, and how answers changed."""
    if found is None or not found["looks"]:
        return ""
    looks, taken = found["looks"], found["taken"]
    first, last = looks[0], looks[-1]
    said = (
        f"{found['algorithm'].upper()} over {last['step']} steps: the reward model's mean score of answers to "
        f"{found['held_out_prompts']} held-out prompts went from {_signed(first['score'])} to "
        f"{_signed(last['score'])} nats"
    )
    curves = [charts.Curve("score", "smooth", [(look["kl"], look["score"]) for look in looks])]
    keys = '<li><i class="swatch smooth"></i>the score that is optimised</li>'
    if first["holdout_score"] is not None:
        curves.append(charts.Curve("second", "light", [(look["kl"], look["holdout_score"]) for look in looks]))
        said += f", that of a reward model trained on other data from {_signed(first['holdout_score'])} to "
        said += f"{_signed(last['holdout_score'])}"
        keys += '<li><i class="swatch light"></i>a reward model trained on other data</li>'
    x_name = "KL to the model before, nats an answer"
    parts = [pieces.figure(curves, f"{said}.", "score, nats", keys, x_name)]
    if first["gold"] is not None:
        gold = charts.Curve("gold", "marked", [(look["kl"], look["gold"]) for look in looks])
        said = (
            f"Gold labels, which nothing optimises: {percent(first['gold'])} before, {percent(last['gold'])} at the "
            f"end. The policy of step {taken['step']} was taken, the highest by all labels ({percent(taken['gold'])}). "
            f"That the last policy is worse has a probability of {percent(taken['gold_worse'])}."
        )
        parts.append(pieces.figure([gold], said, "mean gold label", "", x_name))
    return "<h3>Reinforcement learning</h3>" + "".join(parts) + _looks(looks) + _changes(found)


def _looks(looks: Sequence[Data]) -> str:
    """Every look in numbers."""
    heads = ("Step", "KL an answer", "Score", "Gold", "Refused", "Ends itself", "Tokens", "Repeats", "Entropy")
    rows = (
        pieces.row(
            f"{look['step']}",
            [
                number(look["kl"], 2),
                number(look["score"], 2).translate(TRUE_MINUS),
                "–" if look["gold"] is None else percent(look["gold"]),
                percent(look["refused"]),
                percent(look["terminated"]),
                number(look["mean_answer_tokens"], 0),
                percent(look["repeated_trigrams"]),
                number(look["entropy_nats_per_token"], 2),
            ],
        )
        for look in looks
    )
    return pieces.details(
        "Every look as a table", pieces.table("Looks at held-out prompts", heads, rows, "plain small")
    )


def _changes(found: Data) -> str:
    """The same prompts answered at several points of training."""
    blocks = []
    for example in found["examples"]:
        prompt = example["prompt"] if isinstance(example["prompt"], str) else example["prompt"][-1]["content"]
        answers = "".join(
            f'<div class="answer {"ali" if answer["step"] == found["taken"]["step"] else "other"}">'
            f'<p class="who"><b>Step {answer["step"]}</b> score {number(answer["score"], 2).translate(TRUE_MINUS)}</p>'
            f'<p class="text" dir="auto">{html(answer["answer"])}</p></div>'
            for answer in example["answers"]
        )
        blocks.append(
            f'<blockquote class="question" dir="auto">{html(prompt)}</blockquote><div class="pair">{answers}</div>'
        )
    return pieces.details("How answers changed, sampled", "".join(blocks))
