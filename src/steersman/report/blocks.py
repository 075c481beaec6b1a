"""What a report consists of, as values. `html.py`, `terminal.py` and JSON draw the same blocks.

No block carries markup: every string is plain text, also a model's, and the HTML renderer alone escapes it.
Rates and differences of rates are fractions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field

from steersman.report.format import FEW, NO_DATA, bounds, finite, percent, points
from steersman.types import Record, Slug, Text


# ── inline text and cells ────────────────────────────────────────────────────────────────────────────────────────────
class Strong(Record):
    """Emphasised text."""

    kind: Literal["strong"] = "strong"
    text: str


class Code(Record):
    """A key, digest or command."""

    kind: Literal["code"] = "code"
    text: str


class Label(Record):
    """A row's heading with a small second line."""

    kind: Literal["label"] = "label"
    text: str
    note: str = ""


class Figure(Record):
    """A value with its interval, null where there is no data."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, estimate: Mapping[str, Any], **more: Any) -> Self:
        """From an estimate in a file, ``{"value", "low", "high"}``; null for what is not finite."""
        return cls(**{key: finite(estimate[key]) for key in ("value", "low", "high")}, **more)


class Number(Figure):
    """A number. ``factor``: shown as ``x 1.04``."""

    kind: Literal["number"] = "number"
    digits: int = 1
    factor: bool = False

    def texts(self) -> tuple[str, str]:
        """The value and the interval, in ASCII."""
        value, low, high = (f"{x:,.{self.digits}f}" if x is not None else "" for x in (self.value, self.low, self.high))
        return (f"x {value}" if self.factor else value) if value else NO_DATA, f"[{low}, {high}]" if low else ""


class Difference(Figure):
    """A difference of two rates, shown in percentage points."""

    kind: Literal["difference"] = "difference"

    def texts(self) -> tuple[str, str]:
        """The value and the interval, in ASCII."""
        return points(self.model_dump()), bounds(self.model_dump())


class Rate(Figure):
    """A rate and, where it has one, its change since an earlier rate. ``n``: the observations, where they are known."""

    kind: Literal["rate"] = "rate"
    strong: bool = False
    change: Difference | None = None
    n: int | None = None

    @classmethod
    def of(cls, estimate: Mapping[str, Any], **more: Any) -> Self:
        """From an estimate in a file, with its number of observations."""
        return super().of(estimate, n=estimate.get("n"), **more)

    @property
    def count(self) -> str:
        """``1 of 3``: what stands in place of a rate of fewer than `FEW` observations; empty for any other."""
        if self.value is None or not self.n or self.n >= FEW or abs(self.value * self.n % 1 - 0.5) < 0.499:
            return ""  # the last: a mean of other things than yes and no
        return f"{round(self.value * self.n)} of {self.n}"

    def texts(self) -> tuple[str, str]:
        """The value and the interval, in ASCII; of few observations, their count alone."""
        if self.count:
            return self.count, ""
        return percent(self.value), "" if self.low is None else bounds(self.model_dump())


class Outcome(Record):
    """What became of a measure: see `verdict`."""

    kind: Literal["outcome"] = "outcome"
    value: Literal["better", "worse", "unchanged", "too few prompts", "not compared"]


class Dots(Record):
    """Rates as dots and whiskers on one scale, by condition. A chart beside the numbers; the terminal leaves it out."""

    kind: Literal["dots"] = "dots"
    rates: dict[str, Rate]


Inline = str | Strong | Code
Cell = None | str | int | Code | Label | Number | Difference | Rate | Outcome | Dots


# ── blocks ───────────────────────────────────────────────────────────────────────────────────────────────────────────
class Paragraph(Record):
    """A paragraph; see `paragraph`."""

    kind: Literal["paragraph"] = "paragraph"
    parts: tuple[Inline, ...]
    style: Literal["body", "lead", "note", "verdict"] = "body"


def paragraph(*parts: Inline, style: Literal["body", "lead", "note", "verdict"] = "body") -> Paragraph:
    """A paragraph of text with emphasis and code in it."""
    return Paragraph(parts=parts, style=style)


class Table(Record):
    """A captioned table. The first cell of a row is its heading; in the terminal, an empty row is a rule.

    ``headline``: set closely, for the first screen.
    """

    kind: Literal["table"] = "table"
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    headline: bool = False


class Curve(Record):
    """A line of a chart: thin, thick, or dashed with a mark at every point."""

    name: str
    style: Literal["light", "smooth", "marked"]
    points: tuple[tuple[float, float], ...]


class LineChart(Record):
    """Curves over one pair of axes; the caption says in words what they show."""

    kind: Literal["line_chart"] = "line_chart"
    caption: str
    x: str
    y: str
    curves: tuple[Curve, ...]


class ShownToken(Record):
    """A token of a text. ``shade``: -1 to 1, how strongly it is coloured and which way; ``note``: for its tooltip."""

    text: str
    shade: float = 0.0
    note: str = ""
    muted: bool = False


class TokenStrip(Record):
    """A text token by token, each shaded by a figure; ``low`` and ``high`` say what the two ends of the shade mean."""

    kind: Literal["tokens"] = "tokens"
    caption: str
    tokens: tuple[ShownToken, ...]
    low: str = ""
    high: str = ""


class GridRow(Record):
    """A row of a grid, such as a layer."""

    name: str
    cells: tuple[ShownToken, ...]


class Grid(Record):
    """A heat map whose cells have text, such as layers by positions; ``corner`` names what its rows are.

    ``pinned``: the last column stays in view while the others scroll.
    """

    kind: Literal["grid"] = "grid"
    caption: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[GridRow, ...]
    pinned: bool = False


class BarRow(Record):
    """A row of bars: one value for each series, null where it has none."""

    name: str
    values: tuple[float | None, ...]


class Bars(Record):
    """Signed bars, a column for each series; ``left`` and ``right`` say what the two signs mean.

    ``longest``: the value of the longest bar, where several figures share a scale; 0: that of this one.
    """

    kind: Literal["bars"] = "bars"
    caption: str
    series: tuple[str, ...]
    rows: tuple[BarRow, ...]
    left: str
    right: str
    digits: int = 2
    longest: float = 0.0


class Answer(Record):
    """One answer of an exchange. ``checks``: what the prompt calls for, and whether the detectors found it."""

    name: str
    text: str
    verdict: Literal["pass", "fail", "not judged"] | None = None
    checks: dict[str, bool] = Field(default={})
    note: str = ""  # beside the name
    warning: str = ""  # below the text
    strong: bool = False
    folded: bool = False


class Exchange(Record):
    """A prompt with several answers side by side, or one below another if ``stacked``.

    ``open``: folds away, and starts open or closed; null: always shown.
    """

    kind: Literal["exchange"] = "exchange"
    prompt: Text
    answers: tuple[Answer, ...]
    title: str = ""
    note: str = ""
    language: str = ""
    stacked: bool = False
    open: bool | None = None


class Facts(Record):
    """Names with their values."""

    kind: Literal["facts"] = "facts"
    items: tuple[tuple[str, tuple[Inline, ...]], ...]


class Bullets(Record):
    """A list. The first sentence of an item is its claim and is emphasised."""

    kind: Literal["bullets"] = "bullets"
    items: tuple[str, ...]


class Json(Record):
    """A JSON value in full, such as settings."""

    kind: Literal["json"] = "json"
    title: str
    value: Any


class Beside(Record):
    """Blocks side by side where there is room, such as the same figure of two models."""

    kind: Literal["beside"] = "beside"
    blocks: tuple[Block, ...]


class Details(Record):
    """Blocks that are folded away on the page."""

    kind: Literal["details"] = "details"
    title: str
    blocks: tuple[Block, ...]


class Section(Record):
    """A heading with its blocks.

    ``limits``: what its evidence does not show; the page lists those of all sections at its end. A stage's section has
    the stage's name as its ``id``. ``part``: of the page, where it is shown: how the model was trained, or how it was
    then examined.
    """

    kind: Literal["section"] = "section"
    id: Slug
    title: str
    blocks: tuple[Block, ...]
    limits: tuple[str, ...] = ()
    part: Literal["training", "examination"] = "training"


Block = (
    Paragraph
    | Table
    | LineChart
    | TokenStrip
    | Grid
    | Bars
    | Exchange
    | Facts
    | Bullets
    | Json
    | Beside
    | Details
    | Section
)
Beside.model_rebuild()
Details.model_rebuild()
Section.model_rebuild()


class Page(Record):
    """A whole page: title, facts and summary above its sections, which fold; ``unfolded``: they start open."""

    title: str
    facts: Facts
    summary: tuple[Paragraph | Table, ...]
    sections: tuple[Section, ...]
    version: str
    summary_title: str = "Verdict"
    unfolded: bool = False
