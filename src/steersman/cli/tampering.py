"""What the verbs that write into a model share: how much is left of it after somebody fine-tunes the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steersman.cli.subjects import DATA

if TYPE_CHECKING:
    from steersman.interp.hardening.tamper import Metric, Point

ROWS = 200  # harmless ones of the shipped data, that somebody fine-tunes on
DEFAULT = "5,25,100"

Tamper = Annotated[
    str,
    typer.Option(help="Steps of fine-tuning on harmless rows after which is measured what is left; '' leaves it out."),
]


def steps_of(text: str) -> tuple[int, ...]:
    """Steps, from ``5,25,100``.

    Raises:
        UserError: they are no ascending whole numbers.
    """
    from steersman.errors import UserError

    words = [word.strip() for word in text.split(",")]
    steps = tuple(int(word) for word in words if word.isdigit())
    if len(steps) != len(words) or 0 in steps or list(steps) != sorted(set(steps)):
        raise UserError(f"no steps: {text!r}", where="--tamper", expected="ascending numbers, such as 5,25,100")
    return steps


def curve_of(model: Any, chat: Any, metric: Metric, steps: Sequence[int]) -> list[Point]:
    """The tamper curve on shipped harmless rows; empty without steps. The model is as before afterwards."""
    from steersman.data import sources
    from steersman.evals.forms import HARMFUL, kind_of
    from steersman.interp.hardening.rows import drawn
    from steersman.interp.hardening.tamper import TamperConfig, tamper_curve

    if not steps:
        return []
    rows = [row for row in sources.load(DATA).demonstrations if kind_of(row.tags) != HARMFUL]
    return tamper_curve(TamperConfig(at=tuple(steps)), model, chat, drawn(rows, ROWS, 1), metric)


def told(points: Sequence[Point], what: str, form: str = "{:.0%}") -> str:
    """The curve as a line."""
    rates = ", ".join(f"{form.format(point.left.value)} after {point.steps} steps" for point in points[1:])
    return f"{what}: {form.format(points[0].left.value)}; fine-tuned on harmless rows {rates}"
