"""Direct preference optimisation in the report: how far it moved chosen and rejected answers."""

from __future__ import annotations

from steersman.report.blocks import Curve, LineChart, Section
from steersman.report.evidence import StageRecord, smoothed
from steersman.report.format import number, percent, signed


def section(record: StageRecord) -> Section | None:
    """The log-ratios to the reference model; null if no step was recorded."""
    columns = ("chosen_log_ratio_nats", "rejected_log_ratio_nats", "accuracy")
    steps = record.curve("train", columns[0])
    if not steps:
        return None
    window = max(3, len(steps) // 10) | 1
    chosen, rejected, accuracy = (smoothed(record.curve("train", column), window) for column in columns)
    caption = (
        f"On {number(record.setup('comparisons'), 0)} comparisons, the log-probability of chosen answers changed by "
        f"{signed(chosen[-1][1])} nats and that of rejected answers by {signed(rejected[-1][1])}, relative to the "
        f"reference model. Training accuracy over the last steps: {percent(accuracy[-1][1])} of the pairs."
    )
    chart = LineChart(
        caption=caption,
        x="step",
        y=f"log-ratio, nats, mean of {window} steps",
        curves=(
            Curve(name="chosen answers", style="smooth", points=chosen),
            Curve(name="rejected answers", style="light", points=rejected),
        ),
    )
    return Section(id=record.name, title="Direct preference optimisation (DPO)", blocks=(chart,))
