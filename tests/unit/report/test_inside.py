"""The page of `steersman inspect`: what its sentences say, what its figures hold, and that text stays text."""

from __future__ import annotations

import json
import re

import pytest
from tests.fixtures.prompt_readings import guess, model_reading, prompt_reading

from steersman.interp.reading_of_prompt import PromptReading
from steersman.report import html, inside, terminal
from steersman.report.blocks import BarRow, Bars, Grid, GridRow, LineChart, ShownToken, TokenStrip

from .test_compare import printed
from .test_page import Page as Parsed

EVIL = "</script><script>alert(1)</script><img src=http://evil.example onerror=x>"


def page(reading: PromptReading) -> str:
    return html.render(inside.page(reading, "0"))


def plain(text: str) -> str:
    """What a reader sees of a page."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text)).replace("\u00a0", " ")


def test_the_first_screen_says_who_declines_and_what_is_asked() -> None:
    seen = plain(page(prompt_reading(model_reading("raw", refuses=False), model_reading("aligned"))))
    assert "Raw does not decline; aligned declines; aligned without the refusal direction does not decline." in seen
    assert "begins its answer with the token “ I” and not with “ The” : what it says without the direction." in seen
    assert "From layer 1 on (of layers 0 to 1) “ I” is what the logit lens reads first." in seen
    assert "two tokens in aligned: MLP 0 (+1.50), attention 1 (−1.00), MLP 1 (+0.75)" in seen
    assert "the request stands at 0.75" in seen


def test_a_lens_that_ends_elsewhere_is_not_said_to_agree() -> None:
    seen = plain(page(prompt_reading(chosen=guess(" No", number=9))))
    assert "The logit lens does not end at “ No”: aligned would begin with “ I”." in seen


def test_every_panel_explains_itself_and_stands_open() -> None:
    reading = prompt_reading()
    text = page(reading)
    Parsed(text)
    sections = list(inside.sections(reading))
    assert [s.id for s in sections][:6] == ["answers", "direction", "lens", "parts", "heads", "ablation"]
    for section in sections[:6]:
        assert section.blocks[0].kind == "paragraph"
        assert 15 < len(" ".join(map(str, section.blocks[0].parts)).split()) < 80
    assert text.count('<details class="part" open>') == len(sections)


def test_without_a_direction_there_is_none_on_the_page() -> None:
    alone = model_reading("m", projection=(), by_layer=(), without=None)
    reading = prompt_reading(alone, direction=None)
    assert {"direction", "ablation"}.isdisjoint(section.id for section in inside.sections(reading))
    assert "refusal direction the end" not in plain(page(reading))
    assert "m declines." in plain(page(reading))


@pytest.mark.parametrize("slot", ["prompt", "token", "guess", "answer", "name", "why"])
def test_hostile_text_is_text(slot: str) -> None:
    model = model_reading(
        EVIL if slot == "name" else "m",
        answer=EVIL if slot == "answer" else "a",
        next=(guess(EVIL if slot == "guess" else " I"),),
        lens=(((guess(EVIL if slot == "guess" else " I"),),) * 4,) * 3,
    )
    reading = prompt_reading(model)
    tokens = tuple(t.model_copy(update={"text": EVIL}) for t in reading.tokens) if slot == "token" else reading.tokens
    more = {key: EVIL for key in ("prompt", "why") if key == slot}
    text = page(reading.model_copy(update={"tokens": tokens, **more}))
    Parsed(text)
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_the_page_loads_nothing() -> None:
    text = page(prompt_reading())
    assert "default-src 'none'" in text
    assert not re.search(r"<script|<link|<iframe|@import|url\(|\bsrc=|href=\"(?!#)", text)


def test_shades_and_bars_are_in_proportion() -> None:
    bars = Bars(
        caption="c",
        series=("one", "two"),
        rows=(BarRow(name="r", values=(2.0, -1.0)), BarRow(name="s", values=(None, 0.0))),
        left="l",
        right="r",
    )
    text = html._block(bars, 3)
    assert '<i class="for" style="left:50.0%;width:50.0%"></i>' in text
    assert '<i class="against" style="left:25.0%;width:25.0%"></i>' in text
    assert "−1.00" in text
    halved = html._block(bars.model_copy(update={"longest": 4.0}), 3)
    assert '<i class="for" style="left:50.0%;width:25.0%"></i>' in halved
    strip = TokenStrip(caption="", tokens=(ShownToken(text=" a", shade=-1.0), ShownToken(text="b", shade=0.5)))
    text = html._block(strip, 3)
    assert '<span class="against" style="--s:55%"><i class="space">·</i>a</span>' in text
    assert '<span class="for" style="--s:28%">b</span>' in text
    assert "<figcaption" not in text


def test_a_harmful_token_is_red_and_a_harmless_one_blue() -> None:
    (strip, *_) = [block for block in inside._direction(prompt_reading()) if isinstance(block, TokenStrip)]
    assert [token.shade for token in strip.tokens] == [1.0, 0.5, -1.0, -0.5]
    assert (strip.low, strip.high) == ("harmful", "harmless")


def test_the_lens_shows_the_end_of_a_long_prompt_and_says_so() -> None:
    model = model_reading("m")
    short = model.model_copy(update={"lens": tuple(row[2:] for row in model.lens)})
    reading = prompt_reading(short, first_shown=2)
    (grid,) = [block for block in inside._lens(reading) if isinstance(block, Grid)]
    assert grid.columns == (" it", "\n")
    assert [row.name for row in grid.rows] == ["embedding", "0", "1"]
    assert grid.rows[2].cells[-1] == ShownToken(
        text=" I", shade=0.9, note="layer 1, after “⏎”:\n“\u00a0I” 90.0 %\n“\u00a0The” 5.0 %"
    )
    assert "The first 2 tokens of the prompt are not shown." in plain(page(reading))
    (chart,) = [block for block in inside._lens(reading) if isinstance(block, LineChart)]
    assert chart.curves[0].points == ((-1.0, 0.0), (0.0, 0.1), (1.0, 0.9))


def test_a_direction_that_carries_other_things_is_said_to() -> None:
    reading = prompt_reading()
    assert reading.direction is not None
    assert "differ by 0.05 nats, little" in plain(page(reading))
    broad = reading.direction.model_copy(update={"harmless_kl_nats": 0.5})
    seen = plain(page(reading.model_copy(update={"direction": broad})))
    assert "differ by 0.50 nats, more than the 0.1 nats that the published selection allows" in seen


def test_the_terminal_draws_the_same() -> None:
    text = printed(terminal.render(inside.sections(prompt_reading())), width=200)
    for words in ("Logit lens of aligned", "raw, by layer (- for “", "direction taken out", "Heads of raw"):
        assert words in text


def test_readings_survive_json() -> None:
    reading = prompt_reading()
    assert PromptReading.model_validate(json.loads(reading.model_dump_json())) == reading


def test_a_row_of_the_heat_map_is_named() -> None:
    grid = Grid(caption="c", corner="layer", columns=(" a",), rows=(GridRow(name="7", cells=(ShownToken(text="x"),)),))
    text = html._block(grid, 3)
    assert '<th scope="row">7</th><td>x</td>' in text
    assert '<th scope="col"><i class="space">·</i>a</th>' in text
