"""Every block in every renderer: hostile text in each of its slots is escaped in HTML and visible in the terminal."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

import pytest

from steersman.report import html, terminal
from steersman.report.blocks import (
    Answer,
    BarRow,
    Bars,
    Beside,
    Block,
    Bullets,
    Code,
    Curve,
    Details,
    Difference,
    Dots,
    Exchange,
    Facts,
    Grid,
    GridRow,
    Json,
    Label,
    LineChart,
    Number,
    Page,
    Rate,
    Section,
    ShownToken,
    Strong,
    Table,
    TokenStrip,
    paragraph,
)
from steersman.report.charts import SIGNS
from steersman.types import Message

from .test_compare import printed
from .test_page import Page as Parsed

SLOTS = 30
EVIL = "</p><script>alert('{}')</script>]]>--><img src=x onerror=y> [bold]\u202e\x1b[31m\ud83d"


class Slots:
    """Hands out hostile texts, each with its own number."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        return EVIL.format(f"slot {self.count}")


def everything(t: Slots) -> list[Block]:
    """One block of each kind, every text slot filled by ``t``."""
    rate = Rate(value=0.5, low=0.25, high=1.0, change=Difference(value=-0.1, low=-0.2, high=0.3))
    rows = (
        (Label(text=t(), note=t()), t(), Code(text=t()), 1200, rate, Dots(rates=dict.fromkeys(SIGNS, rate))),
        (t(), None, None, Number(value=-1.5, low=-2, high=3), Rate(value=None), None),
    )
    answer = Answer(name=t(), text=t(), verdict="pass", checks={t(): True}, note=t(), warning=t())
    turns = (
        Message(role="user", content=t()),
        Message(role="assistant", content=t()),
        Message(role="user", content=t()),
    )
    return [
        paragraph(t(), Strong(text=t()), Code(text=t())),
        Table(caption=t(), columns=(t(), t(), t(), t(), t(), t()), rows=rows),
        LineChart(caption=t(), x=t(), y=t(), curves=(_curve(t()), _curve(t()))),
        Exchange(prompt=t(), answers=(answer, answer.model_copy(update={"folded": True})), title=t(), note=t()),
        Exchange(prompt=turns, answers=(), title=t(), language=t(), open=False, stacked=True),
        Facts(items=((t(), (t(), Code(text=t()))),)),
        Bullets(items=(t() + ". " + t(),)),
        Json(title=t(), value={t(): [t()]}),
        Beside(blocks=(paragraph(t()), paragraph(t()))),
        TokenStrip(caption=t(), tokens=(ShownToken(text=t(), shade=0.5, note=t()),), low=t(), high=t()),
        Grid(caption=t(), corner=t(), columns=(t(),), rows=(GridRow(name=t(), cells=(_shown(t),)),)),
        Bars(caption=t(), series=(t(),), rows=(BarRow(name=t(), values=(1.0,)),), left=t(), right=t()),
        Details(title=t(), blocks=(paragraph(t()),)),
        Section(id="part", title=t(), blocks=(paragraph(t()),)),
    ]


def _shown(t: Slots) -> ShownToken:
    return ShownToken(text=t(), note=t(), muted=True)


def _curve(name: str) -> Curve:
    return Curve(name=name, style="marked", points=((0.0, 1.0), (1.0, -2.0)))


def page(t: Slots) -> Page:
    sections = (Section(id="all", title=t(), blocks=tuple(everything(t))),)
    return Page(
        title=t(), facts=Facts(items=((t(), (t(),)),)), summary=(paragraph(t()),), sections=sections, version=t()
    )


def test_all_blocks_are_tried() -> None:
    assert {type(block) for block in everything(Slots())} == set(get_args(Block))


def test_every_slot_is_escaped_in_html() -> None:
    slots = Slots()
    text = html.render(page(slots))
    Parsed(text)  # well formed
    assert slots.count > SLOTS
    text = text.replace('<i class="space">·</i>', " ")  # a token's spaces
    for i in range(1, slots.count + 1):
        assert f"&lt;script&gt;alert(&#x27;slot {i}&#x27;)&lt;/script&gt;" in text, i
    assert not re.search("[\u202e\x1b\ud83d]|<script|<img|]]>", text)
    assert "‹U+202E›‹U+001B›[31m‹U+D83D›" in text
    text.encode()


def test_every_slot_is_visible_in_the_terminal() -> None:
    slots = Slots()
    text = printed(terminal.render(everything(slots)), width=1000)
    unseen = ["chart's column", "language", "tooltip", "tooltip", "a shade's end", "and other end"]  # nowhere to go
    assert sum(f"'slot {i}'" not in text for i in range(1, slots.count + 1)) == len(unseen)
    assert not re.search("[\u202e\x1b\ud83d]", text)
    assert "[bold]‹U+202E›‹U+001B›[31m‹U+D83D›" in text


def test_tables_fit_80_columns_and_numbers_keep_theirs() -> None:
    figure = Rate(value=1.0, low=0.25, high=1.0)
    rows = tuple((f"{name} " * 12, figure, 1234, Number(value=1.25, digits=2)) for name in ("one", "two"))
    table = Table(caption="Caption", columns=("name", "rate", "n", "a number with a long head"), rows=rows)
    lines = printed(terminal.render([table])).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("100 % [25, 100]" in line and "1,234" in line and "1.25" in line for line in lines) == 2


def stacked(value: str, interval: str) -> str:
    return f'<span class="value">{value}</span><span class="interval">{interval}</span>'


@pytest.mark.parametrize(
    ("cell", "as_html", "as_text"),
    [
        (Rate(value=0.5, low=0.25, high=1), stacked("50 %", "[25, 100]"), "50 % [25, 100]"),
        (Rate(value=0.5), "50 %", "50 %"),
        (Rate(value=None), "no data", "no data"),
        (Difference(value=-0.1, low=-0.2, high=0.3), stacked("−10", "[−20, 30]"), "-10 [-20, 30]"),
        (Number(value=None), "no data", "no data"),
        (Number(value=1.036, digits=2, factor=True), "× 1.04", "x 1.04"),
        (Number(value=-2.5, low=-3, high=1), stacked("−2.5", "[−3.0, 1.0]"), "-2.5 [-3.0, 1.0]"),
        (Label(text="a", note="b"), 'a<span class="sub">b</span>', "a (b)"),
        (1234, "1,234", "1,234"),
        (None, "", ""),
    ],
)  # fmt: skip
def test_cells(cell: Any, as_html: str, as_text: str) -> None:
    assert html._cell(cell) == as_html
    assert terminal.plain(cell) == as_text


def test_a_chart_without_points_is_its_caption() -> None:
    block = LineChart(caption="Nothing.", x="x", y="y", curves=(Curve(name="a", style="light", points=()),))
    assert html._block(block, 3) == "<figure><figcaption>Nothing.</figcaption></figure>"
    assert printed(terminal.render([block])).split() == ["Nothing.", "y,", "by", "x:"]


def test_blocks_survive_json() -> None:
    section = Section(id="all", title="All", blocks=tuple(everything(lambda: "text")))  # type: ignore[arg-type]
    assert Section.model_validate(json.loads(section.model_dump_json())) == section
