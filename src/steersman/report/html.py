"""The blocks as one HTML page that opens from disk anywhere.

The page loads nothing: its style is inline, its charts are SVG of ours, it has no script, and a content security policy
forbids the browser to fetch anything. Every string of a block passes `escaped` here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from json import dumps
from pathlib import Path
from string import Template

from steersman.report import charts, pictures
from steersman.report.blocks import (
    Answer,
    Bars,
    Beside,
    Block,
    Bullets,
    Cell,
    Code,
    Details,
    Difference,
    Dots,
    Exchange,
    Facts,
    Grid,
    Inline,
    Json,
    Label,
    LineChart,
    Number,
    Outcome,
    Page,
    Paragraph,
    Rate,
    Section,
    Strong,
    Table,
    TokenStrip,
)
from steersman.report.charts import escaped
from steersman.report.format import TRUE_MINUS, number
from steersman.types import messages_of

TEMPLATE = Path(__file__).with_name("page.html")
OUTCOMES = {  # a sign that needs no colour
    "better": '<i aria-hidden="true">▲</i> ',
    "worse": '<i aria-hidden="true">▼</i> ',
    "unchanged": '<i aria-hidden="true">=</i> ',
    "too few prompts": '<i aria-hidden="true">?</i> ',
    "not compared": "",
}
LONG_TEXT = 24  # characters of a cell from which on a table is set wide


def render(page: Page) -> str:
    """The whole page."""
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escaped(page.title),
        facts=_facts(page.facts, "facts"),
        summary=_blocks(page.summary, 3),
        summary_title=escaped(page.summary_title),
        contents=_entry("verdict", page.summary_title, ())
        + "".join(_entry(s.id, s.id.capitalize(), s.blocks) for s in page.sections),
        sections="\n".join(_fold(section, 2, unfolded=page.unfolded) for section in page.sections),
        version=escaped(page.version),
    )


def _entry(place: str, name: str, blocks: Sequence[Block]) -> str:
    """A line of the menu with those of the sections in it; sections may lie in what folds away."""
    inner = "".join(_entry(s.id, s.title, s.blocks) for s in blocks if isinstance(s, Section))
    below = f"<ul>{inner}</ul>" if inner else ""
    return f'<li><a href="#{place}">{escaped(name)}</a>{below}</li>'


def fragment(blocks: Sequence[Block]) -> str:
    """Blocks without a page around them, for a notebook's cell; charts, which need the page's style, are left out."""
    return "".join(_block(_undrawn(block), 4) for block in blocks)


def _undrawn(block: Block) -> Block:
    if not isinstance(block, Table) or not block.rows:
        return block
    kept = [i for i, cell in enumerate(block.rows[0]) if not isinstance(cell, Dots)]
    rows = tuple(tuple(row[i] for i in kept) for row in block.rows)
    return block.model_copy(update={"columns": tuple(block.columns[i] for i in kept), "rows": rows})


def _blocks(blocks: Sequence[Block], level: int) -> str:
    """Blocks whose headings are ``<h{level}>``; above the first chart of rates stands what its signs mean."""
    chart = next((block for block in blocks if isinstance(block, Table) and _has_dots(block)), None)
    return "".join((_signs(chart) if chart and block is chart else "") + _block(block, level) for block in blocks)


def _signs(chart: Table) -> str:
    shown = {name for row in chart.rows for cell in row if isinstance(cell, Dots) for name in cell.rates}
    entries = "".join(f"<li>{charts.sample(name)}{name}</li>" for name in charts.SIGNS if name in shown)
    return f'<ul class="legend" aria-label="Signs in the charts">{entries}</ul>'


def _block(block: Block, level: int) -> str:
    match block:
        case Paragraph():
            return _paragraph(block)
        case Table():
            return _table(block)
        case LineChart():
            return _line_chart(block)
        case TokenStrip():
            return pictures.token_strip(block)
        case Grid():
            return pictures.grid(block)
        case Bars():
            return pictures.bars(block)
        case Exchange():
            return _exchange(block, level)
        case Facts():
            return _facts(block, "identity")
        case Bullets():
            return f'<ul class="limits">{"".join(map(_bullet, block.items))}</ul>'
        case Json():
            text = escaped(dumps(block.value, indent=2, ensure_ascii=False))
            title = escaped(block.title)
            return f'<h{level}>{title}</h{level}><pre role="region" tabindex="0" aria-label="{title}">{text}</pre>'
        case Beside():
            return f'<div class="pair">{"".join(f"<div>{_block(one, level)}</div>" for one in block.blocks)}</div>'
        case Details():
            return _details(escaped(block.title), _blocks(block.blocks, level), "more")
        case Section():
            return _section(block, level)


def _fold(section: Section, level: int, *, unfolded: bool = False) -> str:
    """A section that folds; one that holds nothing but sections stays open, and these fold.

    The link's target is the content and not the ``details``: a browser opens what its target lies in.
    """
    heading = f'<h{level} id="{section.id}-h">{escaped(section.title)}</h{level}>'
    start = f'<section aria-labelledby="{section.id}-h"'
    if section.blocks and all(isinstance(block, Section) for block in section.blocks):
        folds = "".join(_fold(block, level + 1) for block in section.blocks if isinstance(block, Section))
        return f'{start} class="group" id="{section.id}">{heading}{folds}</section>'
    content = f'<div class="inside" id="{section.id}">{_blocks(section.blocks, level + 1)}</div>'
    return f'{start} class="fold">{_details(heading, content, "part", unfolded)}</section>'


def _section(section: Section, level: int) -> str:
    heading = f'<h{level} id="{section.id}-h">{escaped(section.title)}</h{level}>'
    content = _blocks(section.blocks, level + 1)
    return f'<section id="{section.id}" aria-labelledby="{section.id}-h">{heading}{content}</section>'


def _details(summary: str, content: str, kind: str, unfolded: bool = False) -> str:
    return f'<details class="{kind}"{" open" if unfolded else ""}><summary>{summary}</summary>{content}</details>'


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def _inline(part: Inline) -> str:
    match part:
        case Strong():
            return f"<strong>{escaped(part.text)}</strong>"
        case Code():
            return f"<code>{escaped(part.text)}</code>"
        case str():
            return escaped(part)


def _paragraph(block: Paragraph) -> str:
    kind = "" if block.style == "body" else f' class="{block.style}"'
    return f"<p{kind}>{''.join(map(_inline, block.parts))}</p>"


def _bullet(item: str) -> str:
    claim, stop, rest = item.partition(". ")
    return f"<li><b>{escaped(claim + stop.strip())}</b> {escaped(rest)}</li>"


def _facts(block: Facts, kind: str) -> str:
    items = (
        f"<div><dt>{escaped(name)}</dt><dd>{''.join(map(_inline, parts))}</dd></div>" for name, parts in block.items
    )
    return f'<dl class="{kind}">{"".join(items)}</dl>'


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def _table(block: Table) -> str:
    """A table in a container of its own, so that a narrow screen scrolls the table and not the page.

    On a phone, the numbers of a row stand below its heading, each under the name of its column.
    """
    rows = [row for row in block.rows if row]
    cells = [cell for row in rows for cell in row[1:]]
    wide = len(block.columns) > 4 or any(map(_long, cells))
    heads = "".join(f'<th scope="col">{head}</th>' for head in _heads(block))
    body = "".join(
        f'<tr><th scope="row">{_cell(heading)}</th>{"".join(map(_data, rest, block.columns[1:]))}</tr>'
        for heading, *rest in rows
    )
    caption = escaped(block.caption)
    kind = "headline" if block.headline else "rates" if _has_dots(block) else "plain" if wide else "plain small"
    return (
        f'<div class="scroll" role="region" aria-label="Table: {caption}" tabindex="0"><table class="{kind}">'
        f"<caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _long(cell: Cell) -> bool:
    return isinstance(cell, str) and len(cell) > LONG_TEXT


def _data(cell: Cell, column: str) -> str:
    """A cell below the heading of its column, which a phone shows beside it."""
    kind = (
        "chart"
        if isinstance(cell, Dots)
        else "outcome"
        if isinstance(cell, Outcome)
        else "long" * (_long(cell) or isinstance(cell, Code))
    )
    named = f' class="{kind}"' if kind else ""
    return f'<td{named} data-label="{escaped(column)}">{_cell(cell)}</td>'


def _has_dots(block: Table) -> bool:
    return any(isinstance(cell, Dots) for row in block.rows for cell in row)


def _heads(block: Table) -> Iterator[str]:
    """Column titles; above a chart, its scale."""
    for place, name in enumerate(block.columns):
        if any(isinstance(row[place], Dots) for row in block.rows if row):
            yield f'<span class="hidden">{escaped(name)}</span>{charts.dots_axis()}'
        else:
            yield escaped(name)


def _cell(cell: Cell) -> str:
    match cell:
        case None:
            return ""
        case str():
            return escaped(cell)
        case int():
            return number(cell, 0)
        case Code():
            return _inline(cell)
        case Label():
            return escaped(cell.text) + (f'<span class="sub">{escaped(cell.note)}</span>' if cell.note else "")
        case Number() | Difference() | Rate():
            return _figure(cell)
        case Outcome():
            return f'<span class="{cell.value.split()[0]}">{OUTCOMES[cell.value]}{cell.value}</span>'
        case Dots():
            return charts.dots(cell.rates) if cell.rates else ""


def _figure(cell: Number | Difference | Rate) -> str:
    """A value above its interval, and above its change since an earlier value."""
    value, interval = (text.translate(TRUE_MINUS).replace("x ", "× ") for text in cell.texts())
    strong, change = (cell.strong, cell.change) if isinstance(cell, Rate) else (False, None)
    if cell.value is None or not (interval or strong):
        return value
    below = [*([interval] if interval else []), *([" ".join(change.texts()).translate(TRUE_MINUS)] if change else [])]
    lines = "".join(f'<span class="interval">{line}</span>' for line in below)
    return f'<span class="value{" strong" if strong else ""}">{value}</span>{lines}'


# ── charts ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def _line_chart(block: LineChart) -> str:
    """A line chart, drawn for wide and for narrow screens, with its caption below; no chart without points."""
    curves = [curve for curve in block.curves if curve.points]
    drawn = "".join(
        f'<div class="{kind}">{charts.lines(curves, block.caption, width, block.y, block.x)}</div>'
        for kind, width in (("wide", 760), ("narrow", 310))
        if curves
    )
    keys = "".join(f'<li><i class="swatch {c.style}"></i>{escaped(c.name)}</li>' for c in curves)
    legend = f'<ul class="legend" aria-label="Lines">{keys}</ul>' if len(curves) > 1 else ""
    return f"<figure>{legend}{drawn}<figcaption>{escaped(block.caption)}</figcaption></figure>"


# ── prompts and answers ──────────────────────────────────────────────────────────────────────────────────────────────
def _exchange(block: Exchange, level: int) -> str:
    content = _turns(block) + _answers(block)
    if block.note:
        content += f'<p class="sub">{escaped(block.note)}</p>'
    title = escaped(block.title)
    if block.open is None:
        heading = f'<h{level} class="eyebrow">{title}</h{level}>' if title else ""
        return f"<article>{heading}{content}</article>"
    teaser = (
        f'<span class="teaser" dir="auto"{_lang(block)}>{escaped(_cut(messages_of(block.prompt)[-1].content))}</span>'
    )
    verdicts = "".join(f"<span>{escaped(a.name)}: {_verdict(a)}</span>" for a in block.answers)
    summary = f'<h{level}>{title}</h{level}>{teaser}<span class="verdicts">{verdicts}</span>'
    return _details(summary, content, "example", block.open)


def _turns(block: Exchange) -> str:
    turns, lang = messages_of(block.prompt), _lang(block)
    if len(turns) == 1:
        return f'<blockquote class="question" dir="auto"{lang}>{escaped(turns[0].content)}</blockquote>'
    said = (f'<p dir="auto"{lang}><b>{turn.role.capitalize()}:</b> {escaped(turn.content)}</p>' for turn in turns)
    return f'<blockquote class="question turns">{"".join(said)}</blockquote>'


def _answers(block: Exchange) -> str:
    shown = "".join(_answer(answer, block) for answer in block.answers if not answer.folded)
    folded = "".join(
        _details(f"{escaped(answer.name)}: {_verdict(answer)}", _answer(answer, block), "few-shot")
        for answer in block.answers
        if answer.folded
    )
    return f'{shown if block.stacked else f"""<div class="pair">{shown}</div>"""}{folded}'


def _answer(answer: Answer, block: Exchange) -> str:
    text = escaped(answer.text) if answer.text.strip() else '<em class="note">(empty answer)</em>'
    warning = f'<span class="note cut">{escaped(answer.warning)}</span>' if answer.warning else ""
    checks = "".join(
        f"<li>{_icon(found)}{escaped(name)}: {'yes' if found else 'no'}</li>" for name, found in answer.checks.items()
    )
    return (
        f'<div class="answer {"ali" if answer.strong else "other"}"><p class="who">{charts.sample(answer.name)}'
        f"<b>{escaped(answer.name)}</b> {escaped(answer.note)}{_verdict(answer)}</p>"
        f'<p class="text" dir="auto"{_lang(block)}>{text}</p>{warning}'
        + (f'<ul class="shown">{checks}</ul></div>' if checks else "</div>")
    )


def _verdict(answer: Answer) -> str:
    """Whether the answer passed, as a sign and in words; empty where nobody judged."""
    if answer.verdict is None:
        return ""
    passed = {"pass": True, "fail": False}.get(answer.verdict)
    return f'<span class="verdict">{_icon(passed)}{answer.verdict}</span>'


def _icon(good: bool | None) -> str:
    """A tick, a cross, or a dash for what was not judged."""
    paths = {True: "M2.5 7.5l3 3 6-7", False: "M3 3l8 8M11 3l-8 8", None: "M3 7h8"}
    name = {True: "yes", False: "no", None: "none"}[good]
    size = 'viewBox="0 0 14 14" width="14" height="14"'
    return f'<svg class="icon {name}" aria-hidden="true" {size}><path d="{paths[good]}"/></svg>'


def _lang(block: Exchange) -> str:
    """A ``lang`` attribute, so that screen readers pronounce the text."""
    return f' lang="{escaped(block.language)}"' if block.language else ""


def _cut(text: str, length: int = 110) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 1].rstrip() + "…"
