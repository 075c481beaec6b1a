"""Figures about the inside of a model, as HTML that the page's style colours: tokens, heat maps of text, signed bars.

Their shades are mixed from the page's own colours, so that they follow dark mode, and never so strong that text on them
cannot be read. Every figure is there as text too: a cell has its token or number, a bar its value.
"""

from __future__ import annotations

from collections.abc import Iterator

from steersman.report.blocks import Bars, Grid, ShownToken, TokenStrip
from steersman.report.charts import escaped
from steersman.report.format import signed

MOST_SHADE = 55  # per cent of a colour behind text


def token_strip(block: TokenStrip) -> str:
    """The tokens one after another, as they wrap."""
    tokens = "".join(_token(token) for token in block.tokens)
    scale = (
        f'<p class="scale"><span>{escaped(block.low)}</span><i></i><span>{escaped(block.high)}</span></p>'
        if block.low or block.high
        else ""
    )
    caption = f'<figcaption class="above">{escaped(block.caption)}</figcaption>' if block.caption else ""
    return f'<figure class="tokens">{caption}<div class="strip">{tokens}</div>{scale}</figure>'


def _token(token: ShownToken) -> str:
    return f"<span{_look(token)}>{spelled(token.text)}</span>"


def grid(block: Grid) -> str:
    """A table whose first column stays while the others scroll."""
    heads = "".join(f'<th scope="col">{spelled(name)}</th>' for name in block.columns)
    rows = "".join(
        f'<tr><th scope="row">{escaped(row.name)}</th>{"".join(map(_cell, row.cells))}</tr>' for row in block.rows
    )
    caption, kind = escaped(block.caption), "grid-map pinned" if block.pinned else "grid-map"
    return (
        f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0"><table class="{kind}">'
        f'<caption>{caption}</caption><thead><tr><th scope="col">{escaped(block.corner)}</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cell(cell: ShownToken) -> str:
    return f"<td{_look(cell)}>{spelled(cell.text)}</td>"


def bars(block: Bars) -> str:
    """A row for each name; in a column, bars begin at its middle and go left or right on a scale that all share."""
    own = max((abs(value) for row in block.rows for value in row.values if value is not None), default=0.0)
    most = max(block.longest, own) or 1.0
    heads = "".join(f'<th scope="col">{escaped(name)}</th>' for name in block.series)
    rows = "".join(
        f'<tr><th scope="row">{escaped(row.name)}</th>{"".join(_bars_of(row.values, most, block.digits))}</tr>'
        for row in block.rows
    )
    sides = f'<p class="sides"><span>← {escaped(block.left)}</span><span>{escaped(block.right)} →</span></p>'
    caption = escaped(block.caption)
    return (
        f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0"><table class="bars">'
        f"<caption>{caption}{sides}</caption>"
        f'<thead><tr><th scope="col"><span class="hidden">part</span></th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _bars_of(values: tuple[float | None, ...], most: float, digits: int) -> Iterator[str]:
    for value in values:
        if value is None:
            yield "<td></td>"
            continue
        share = 50 * abs(value) / most
        kind, start = ("for", 50.0) if value >= 0 else ("against", 50 - share)
        bar = f'<i class="{kind}" style="left:{start:.1f}%;width:{share:.1f}%"></i>'
        yield f'<td><span class="track">{bar}</span><span class="amount">{signed(value, digits)}</span></td>'


def spelled(text: str) -> str:
    """A token as HTML: its spaces as middle dots and its line ends as arrows, for both are part of it."""
    return (
        escaped(text)
        .replace(" ", '<i class="space">·</i>')
        .replace("\t", '<i class="space">⇥</i>')
        .replace("\n", '<i class="space">⏎</i>')
    )


def _look(token: ShownToken) -> str:
    """Attributes: a background of the accent for positive shades and of the other colour for negative, a tooltip."""
    amount = round(min(1.0, abs(token.shade)) * MOST_SHADE)
    kinds = [*(["for" if token.shade > 0 else "against"] if amount else []), *(["muted"] if token.muted else [])]
    look = f' class="{" ".join(kinds)}"' if kinds else ""
    look += f' style="--s:{amount}%"' if amount else ""
    return look + (f' title="{escaped(token.note)}"' if token.note else "")
