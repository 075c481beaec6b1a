"""Supervised fine-tuning in the report: loss curves and, with a compact vocabulary, the probability it leaves out."""

from __future__ import annotations

from steersman.report.blocks import Block, Cell, Curve, Details, LineChart, Number, Section, Table, paragraph
from steersman.report.evidence import Points, StageRecord, smoothed
from steersman.report.format import number

LOSS, OUTSIDE = "loss_nats_per_token", "mass_outside_exact_rows"


def section(record: StageRecord) -> Section:
    """Training and validation loss by step."""
    loss, validation, outside = (
        record.curve(*column) for column in (("train", LOSS), ("validation", LOSS), ("validation", OUTSIDE))
    )
    blocks: list[Block] = []
    if loss:
        blocks += [_losses(loss, validation), paragraph(_amount(record))]
    else:
        blocks.append(paragraph("This run recorded no steps of supervised fine-tuning."))
    if outside:
        caption = (
            f"Probability outside the vocabulary rows that are scored exactly: {100 * outside[0][1]:.2f} % before "
            f"training, {100 * outside[-1][1]:.2f} % after. Those rows are sampled in training; this must not grow."
        )
        curve = Curve(name="outside", style="marked", points=outside)
        blocks.append(LineChart(caption=caption, x="step", y="probability outside the exact rows", curves=(curve,)))
    if validation:
        columns = ("Step", "Loss, nats per token", *(["Probability outside"] if outside else []))
        rows: list[tuple[Cell, ...]] = []
        for step, value in validation:
            beside = [Number(value=dict(outside).get(step), digits=4)] if outside else []
            rows.append((int(step), Number(value=value, digits=4), *beside))
        table = Table(caption="Validation by step", columns=columns, rows=tuple(rows))
        blocks.append(Details(title="Validation loss as a table", blocks=(table,)))
    return Section(id=record.name, title="Supervised fine-tuning", blocks=tuple(blocks))


def _amount(record: StageRecord) -> str:
    tokens = record.curve("train", "tokens_seen")
    names = ("steps", "demonstrations", "truncated", "trainable_parameters")
    steps, rows, cut, parameters = (number(record.setup(name), 0) for name in names)
    return (
        f"{number(tokens[-1][1] if tokens else None, 0)} tokens in {steps} steps over {rows} demonstrations ({cut} of "
        f"them truncated at the length limit); {parameters} trainable parameters."
    )


def _losses(loss: Points, validation: Points) -> LineChart:
    window = max(3, len(loss) // 15) | 1
    smooth = smoothed(loss, window)
    curves = [
        Curve(name="training, each step", style="light", points=loss),
        Curve(name=f"training, mean of {window} steps", style="smooth", points=smooth),
    ]
    verb = "fell" if smooth[-1][1] < smooth[0][1] else "went"
    caption = f"Training loss {verb} from {smooth[0][1]:.3f} to {smooth[-1][1]:.3f}"
    if validation:
        curves.append(Curve(name="validation, rows not trained on", style="marked", points=validation))
        caption += f", and validation loss from {validation[0][1]:.3f} to {validation[-1][1]:.3f}"
    caption += " (nats per token)."
    return LineChart(caption=caption, x="step", y="loss, nats per token", curves=tuple(curves))
