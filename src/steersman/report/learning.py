"""The section on training: the curves of fine-tuning, learning from comparisons, and the reward model's card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steersman.report import charts, pieces
from steersman.report.pieces import TRUE_MINUS
from steersman.report.wording import html, number, percent, phrase
from steersman.report.wording import rate as rate_of

Data = Mapping[str, Any]


def training(data: Data) -> str:
    """Loss curves and, with a compact vocabulary, the probability outside its exact rows."""
    loss, validation, outside = (
        [(float(x), float(y)) for x, y in data["training"][name] if y is not None]
        for name in ("loss", "validation_loss", "mass_outside_exact_rows")
    )
    if not loss:
        return pieces.section("training", "Training", "<p>This run recorded no training steps.</p>")
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
    figure += pieces.details("The same as a table", table) if validation else ""
    return pieces.section("training", "Training", figure + _preferences(data["preferences"]) + _reward_card(data))


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
        f"{better[-1][1]:+.2f} nats and that of the worse ones by {worse[-1][1]:+.2f}, against the model before; "
        f"{percent(told_apart)} of the pairs of the last steps were told apart, all of them trained on."
    ).translate(TRUE_MINUS)
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
