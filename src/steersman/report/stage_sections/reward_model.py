"""The reward model in the report: held-out accuracy, calibration, and biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steersman.report.blocks import Number, Rate, Section, Table, paragraph
from steersman.report.cards import accuracy_table
from steersman.report.evidence import StageRecord
from steersman.report.format import percent, phrase, rate

CARD = "card.json"
KINDS = {"principle": "principle", "failure": "flaw of the worse answer", "group": "group of raters"}
LIMIT = (
    "A reward model is measured on its own kind of data. The held-out comparisons come from the same data set as those "
    "that it was trained on; its accuracy on other people’s preferences, or far from the answers in them, is unknown."
)


def section(record: StageRecord) -> Section:
    """The card that `reward_card` wrote."""
    card = record.read(CARD)
    best, ceiling, error = card["best_of_4"], card["ceiling"], card["calibration"]["expected_error"]
    notes = [
        f"Best of four answers found: {rate(best)}." if best["n"] else "",
        f"Inter-rater agreement, the ceiling of accuracy: {rate(ceiling)}." if ceiling["n"] else "",
        f"Expected calibration error: {percent(error)}." if error is not None else "",
        "None of the changes below makes an answer better: a preference for them is a bias.",
    ]
    blocks = (
        accuracy_table("Held-out accuracy of the reward model", card, KINDS, record),
        paragraph(" ".join(filter(None, notes))),
        _biases(card["biases"]),
    )
    return Section(id=record.name, title="Reward model", blocks=blocks, limits=(LIMIT,))


def _biases(biases: Mapping[str, Any]) -> Table:
    rows = tuple(
        (phrase(name), Rate.of(bias["preferred"]), Number.of(bias["shift_nats"], digits=2), bias["preferred"]["n"])
        for name, bias in biases.items()
        if bias["preferred"]["n"]
    )
    columns = ("The same answer", "Preferred to the original", "Shift of the reward, nats", "n")
    return Table(caption="Biases of the reward model", columns=columns, rows=rows)
