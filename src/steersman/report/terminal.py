"""The blocks for a terminal: what `results().print` writes. Folded parts are shown; of curves, the ends; of
shades, nothing.

Text is never read as rich's markup, and hidden characters are spelled out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from json import dumps

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

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
    Json,
    Label,
    LineChart,
    Number,
    Outcome,
    Paragraph,
    Rate,
    Section,
    Strong,
    Table,
    TokenStrip,
)
from steersman.report.format import visible
from steersman.types import plain_text

SHORT = 24  # characters of a cell up to which a column is not folded


def render(blocks: Iterable[Block]) -> RenderableType:
    """Blocks one below another, an empty line between two."""
    parts: list[RenderableType] = []
    for block in blocks:
        parts += ["", *_block(block)]
    return Group(*parts[1:])


def _text(text: str, style: str = "") -> Text:
    return Text(visible(text), style=style, overflow="fold")


def _block(block: Block) -> Iterator[RenderableType]:
    match block:
        case Paragraph():
            yield Text.assemble(
                *(visible(p) if isinstance(p, str) else (visible(p.text), _style(p)) for p in block.parts)
            )
        case Table():
            yield _table(block)
        case LineChart():
            yield _text(block.caption)
            yield _text(f"{block.y}, by {block.x}:")
            for curve in filter(lambda curve: curve.points, block.curves):
                (x, y), (x_end, y_end) = curve.points[0], curve.points[-1]
                yield _text(f"  {curve.name}: {y:.4g} at {x:.4g}, {y_end:.4g} at {x_end:.4g}")
        case TokenStrip():
            yield _text(block.caption, "bold")
            yield _text("".join(token.text for token in block.tokens))
        case Grid():
            yield _table(_grid_as_table(block))
        case Bars():
            yield _table(_as_table(block))
        case Exchange():
            yield from _exchange(block)
        case Facts():
            yield from _facts(block)
        case Bullets():
            yield from (_text(f"- {item}") for item in block.items)
        case Json():
            yield _text(block.title, "bold")
            yield _text(dumps(block.value, indent=2, ensure_ascii=False))
        case Beside():
            yield render(block.blocks)
        case Details() | Section():
            yield _text(block.title, "bold")
            yield render(block.blocks)


def _as_table(block: Bars) -> Table:
    """Bars as numbers; behind the caption, what their signs mean."""
    rows: list[tuple[Cell, ...]] = [
        (row.name, *(Number(value=value, digits=block.digits) for value in row.values)) for row in block.rows
    ]
    caption = f"{block.caption} (- {block.left}, + {block.right})"
    return Table(caption=caption, columns=("", *block.series), rows=tuple(rows))


def _grid_as_table(block: Grid) -> Table:
    rows: list[tuple[Cell, ...]] = [(row.name, *(cell.text for cell in row.cells)) for row in block.rows]
    return Table(caption=block.caption, columns=(block.corner, *block.columns), rows=tuple(rows))


def _style(part: Strong | Code) -> str:
    return "bold" if isinstance(part, Strong) else ""


def _facts(block: Facts) -> Iterator[RenderableType]:
    grid = RichTable.grid(padding=(0, 2, 0, 0))
    for name, parts in block.items:
        value = "".join(part if isinstance(part, str) else part.text for part in parts)
        grid.add_row(_text(name), _text(value))
    yield grid


def _exchange(block: Exchange) -> Iterator[RenderableType]:
    if block.title:
        yield _text(block.title, "bold")
    yield _text(f"> {plain_text(block.prompt)}")
    for answer in block.answers:
        yield _text(f"{answer.name} {_about(answer)}".strip(), "bold")
        yield _text(answer.text if answer.text.strip() else "(empty answer)")
    if block.note:
        yield _text(f"({block.note})")


def _about(answer: Answer) -> str:
    checks = (f"{name}: {'yes' if found else 'no'}" for name, found in answer.checks.items())
    about = "; ".join(part for part in (answer.note, answer.verdict, *checks, answer.warning) if part)
    return f"({about})" if about else ""


def _table(block: Table) -> RichTable:
    """Columns of numbers and short text keep their width and stand right; longer text folds."""
    table = RichTable(
        title=_text(block.caption, "bold") if block.caption else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        pad_edge=False,
    )
    rows = [row for row in block.rows if row]
    kept = [i for i in range(len(block.columns)) if not any(isinstance(row[i], Dots) for row in rows)]
    for place in kept:
        lengths = [len(plain(row[place])) for row in rows]
        if place and max(lengths, default=0) <= SHORT:
            longest = max(lengths + [len(word) for word in block.columns[place].split()])
            table.add_column(_text(block.columns[place]), justify="right", min_width=longest)
        else:
            table.add_column(_text(block.columns[place]), overflow="fold", min_width=8)
    for row in block.rows:
        if row:
            table.add_row(*(_text(plain(row[place])) for place in kept))
        else:
            table.add_section()
    return table


def plain(cell: Cell) -> str:
    """A cell as text in ASCII, but for the text of others in it."""
    match cell:
        case None | Dots():
            return ""
        case str():
            return cell
        case int():
            return f"{cell:,}"
        case Code():
            return cell.text
        case Outcome():
            return cell.value
        case Label():
            return f"{cell.text} ({cell.note})" if cell.note else cell.text
        case Number() | Difference() | Rate():
            change = cell.change if isinstance(cell, Rate) else None
            return " ".join(cell.texts()).strip() + (f", {' '.join(change.texts())}" if change else "")
