"""What the sections of the page are made of: marks, tables that scroll on their own, folded parts, figures.

Captions and headings given to them are our own markup; text of models and people goes through `html` before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from steersman.report import charts
from steersman.report.wording import Figure, bounds, difference, html, percent

TRUE_MINUS = str.maketrans("-", "−")


def icon(good: bool | None) -> str:
    """A tick, a cross, or a dash for what was not judged."""
    paths = {True: "M2.5 7.5l3 3 6-7", False: "M3 3l8 8M11 3l-8 8", None: "M3 7h8"}
    name = {True: "yes", False: "no", None: "none"}[good]
    size = 'viewBox="0 0 14 14" width="14" height="14"'
    return f'<svg class="icon {name}" aria-hidden="true" {size}><path d="{paths[good]}"/></svg>'


def verdict(kept: bool | None) -> str:
    """Whether a principle was kept, as a sign and in words."""
    text = {True: "kept", False: "not kept", None: "not judged"}[kept]
    return f'<span class="verdict">{icon(kept)}{text}</span>'


def scroll(label: str, table: str) -> str:
    """A table in a container of its own, so that a narrow screen scrolls the table and not the page."""
    return f'<div class="scroll" role="region" aria-label="Table: {html(label)}" tabindex="0">{table}</div>'


def row(heading: str, cells: Iterable[str], scope: str = "row") -> str:
    """A row of `table`."""
    return f'<tr><th scope="{scope}">{heading}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def table(caption: str, heads: Sequence[str], rows: Iterable[str], kind: str = "") -> str:
    """A captioned table in its scroll container. ``caption`` is plain text, ``heads`` our own markup."""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "".join(rows)
    content = f"<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return scroll(caption, f'<table class="{kind}">{content}</table>')


def details(summary: str, content: str, kind: str = "more", unfolded: bool = False) -> str:
    """Content that opens at a click."""
    return f'<details class="{kind}"{" open" if unfolded else ""}><summary>{summary}</summary>{content}</details>'


def section(id: str, title: str, content: str) -> str:
    """A part of the page with its heading."""
    return f'<section id="{id}" aria-labelledby="{id}-h"><h2 id="{id}-h">{title}</h2>{content}</section>'


def value(figure: Figure, kind: str = "") -> str:
    """A rate above its interval."""
    return f'<span class="value {kind}">{percent(figure["value"])}</span><span class="interval">{bounds(figure)}</span>'


def points(figure: Figure) -> str:
    """A difference of rates in percentage points, with its interval."""
    return difference(figure).translate(TRUE_MINUS)


def figure(curves: Sequence[charts.Curve], said: str, y_name: str, keys: str = "", x_name: str = "step") -> str:
    """A line chart, drawn for wide and for narrow screens, with what it says below it."""
    drawn = "".join(
        f'<div class="{kind}">{charts.lines(curves, said, width, y_name, x_name)}</div>'
        for kind, width in (("wide", 760), ("narrow", 310))
    )
    legend = f'<ul class="legend" aria-label="Lines">{keys}</ul>' if keys else ""
    return f"<figure>{legend}{drawn}<figcaption>{said}</figcaption></figure>"
