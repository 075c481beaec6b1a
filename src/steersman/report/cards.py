"""The table that the cards of reward models and judges share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steersman.report.blocks import Label, Rate, Table
from steersman.report.evidence import StageRecord


def accuracy_table(caption: str, card: Mapping[str, Any], kinds: Mapping[str, str], record: StageRecord) -> Table:
    """Accuracy on all held-out pairs, then by each kind of subset."""
    rows: list[tuple[str | Label, Rate, int]] = [
        ("All pairs", Rate.of(card["accuracy"], strong=True), card["accuracy"]["n"])
    ]
    for kind, name in kinds.items():
        for key, figure in card["by"][kind].items():
            rows.append((Label(text=record.title(key), note=name), Rate.of(figure), figure["n"]))
    return Table(caption=caption, columns=("Held-out pairs", "Accuracy", "n"), rows=tuple(rows))
