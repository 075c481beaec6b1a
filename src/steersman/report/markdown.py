"""Blocks as Markdown, for a model card. Charts, exchanges and what is folded away are left to the report."""

from __future__ import annotations

import re
from collections.abc import Iterable

from steersman.report.blocks import Block, Bullets, Dots, Facts, Inline, Paragraph, Section, Table
from steersman.report.format import visible
from steersman.report.terminal import plain


def render(blocks: Iterable[Block], level: int = 2) -> str:
    """Blocks with an empty line between two; sections have headings of this level."""
    return "\n\n".join(filter(None, (_block(block, level) for block in blocks)))


def escaped(text: str) -> str:
    """Text that Markdown shows as it is: one line without tags, links, emphasis, or the end of a cell."""
    return re.sub(r"[\\`*_|<]|(?<=\])\(", r"\\\g<0>", re.sub(r"\s+", " ", visible(text)))


def _inline(part: Inline) -> str:
    if isinstance(part, str):
        return escaped(part)
    return f"**{escaped(part.text)}**" if part.kind == "strong" else f"`{visible(part.text)}`"


def _block(block: Block, level: int) -> str:
    match block:
        case Paragraph():
            return "".join(map(_inline, block.parts))
        case Table():
            return _table(block)
        case Bullets():
            return "\n".join(f"- {escaped(item)}" for item in block.items)
        case Facts():
            return "\n".join(f"- {escaped(name)}: {''.join(map(_inline, parts))}" for name, parts in block.items)
        case Section():
            return f"{'#' * level} {escaped(block.title)}\n\n{render(block.blocks, level + 1)}"
        case _:
            return ""


def _table(table: Table) -> str:
    rows = [row for row in table.rows if row]
    kept = [i for i in range(len(table.columns)) if not any(isinstance(row[i], Dots) for row in rows)]
    lines = [[escaped(table.columns[i]) for i in kept], ["---"] * len(kept)]
    lines += [[escaped(plain(row[i])) for i in kept] for row in rows]
    caption = f"**{escaped(table.caption)}**\n\n" if table.caption else ""
    return caption + "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
