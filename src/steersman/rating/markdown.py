"""Markdown that models wrote, as HTML that can do nothing.

It is read by markdown-it with raw HTML off, and without links, images and footnotes: they show as they were written,
because a page with model text must fetch nothing and lead nowhere. Formulas are kept whole (`maths`). A backslash is an
escape only before what Markdown would act upon, so that paths and TeX outside of formulas keep theirs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markupsafe import Markup

from steersman.rating import maths

LONGEST_MARKDOWN = 20_000  # characters; what is longer is shown as plain text
_ESCAPED = frozenset("*_~`#+-.>|!&$<")  # what Markdown acts upon here: links and HTML are off
_PRODUCT = re.compile(r"[A-Za-z0-9)\]][*][A-Za-z0-9(\[]")
_CONTAINERS = ("bullet_list", "ordered_list", "blockquote", "table")


class _Renderer(RendererHTML):
    """Headings that stay below the page's own, and blocks wide enough to scroll that a keyboard can reach."""

    def fence(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """A block of code; what language it claims to be is of no use here."""
        return f'<pre tabindex="0"><code>{escapeHtml(tokens[idx].content)}</code></pre>\n'

    code_block = fence

    def heading_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """A heading of any level."""
        return '<h3 dir="auto">'

    def heading_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """Its end."""
        return "</h3>\n"

    def paragraph_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """A paragraph that reads in the direction of its own letters."""
        return "" if tokens[idx].hidden else '<p dir="auto">'

    def paragraph_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """Its end."""
        return "" if tokens[idx].hidden else "</p>\n"

    def table_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """A table."""
        return f'<div class="wide" tabindex="0"><table{self.renderAttrs(tokens[idx])}>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """Its end."""
        return "</table></div>\n"


def _escape(state: StateInline, silent: bool) -> bool:
    """A backslash: before Markdown's own signs it is not shown; else it is text like any other."""
    if state.src[state.pos] != "\\":
        return False
    following = state.src[state.pos + 1 : state.pos + 2]
    if following == "\\":
        shown, taken = "\\\\", 2
    elif following in _ESCAPED:
        shown, taken = following, 2
    else:
        shown, taken = ("" if following == "\n" else "\\"), 1  # before a line's end it is a hard break, as is the end
    if not silent:
        state.pending += shown
    state.pos += taken
    return True


def _product(state: StateInline, silent: bool) -> bool:
    """The star of `2*3*4` is no emphasis, as the underscore of `a_b_c` is none."""
    around = state.src[max(0, state.pos - 1) : state.pos + 2]
    if not _PRODUCT.fullmatch(around):
        return False
    if not silent:
        state.pending += "*"
    state.pos += 1
    return True


def _directions(state: StateCore) -> None:
    """Lists, quotes and tables read in the direction of their first letter; columns keep their alignment by a class.

    (`dir=auto` does not look into paragraphs that have a direction of their own, and the page allows no inline style.)
    """
    undecided: list[Token] = []
    for token in state.tokens:
        if token.nesting == 1 and token.type.removesuffix("_open") in _CONTAINERS:
            undecided.append(token)
        elif token.nesting == -1 and token.type.removesuffix("_close") in _CONTAINERS:
            undecided = undecided[:-1]
        elif token.type == "inline" and undecided and (direction := _direction(token.content)):
            for container in undecided:
                container.attrs.setdefault("dir", direction)
        if token.type in ("th_open", "td_open"):
            style = str(token.attrs.pop("style", ""))
            token.attrs["dir"] = "auto"
            if style:
                token.attrs["class"] = style.replace("text-align:", "align-")


def _direction(text: str) -> str | None:
    kinds = (unicodedata.bidirectional(letter) for letter in text)
    return next(({"L": "ltr"}.get(kind, "rtl") for kind in kinds if kind in ("L", "R", "AL")), None)


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True}, renderer_cls=_Renderer)
    parser.enable(["table", "strikethrough"])
    parser.disable(["link", "image", "autolink", "reference", "html_block", "html_inline"])
    parser.inline.ruler.at("escape", _escape)
    parser.inline.ruler.before("emphasis", "product", _product)
    parser.core.ruler.push("directions", _directions)
    maths.install(parser)
    return parser


_markdown = _parser()


@lru_cache(maxsize=4096)
def rendered(text: str) -> Markup:
    """Model text as safe HTML."""
    if len(text) > LONGEST_MARKDOWN:
        return Markup('<div class="plain" dir="auto">{}</div>').format(text)
    return Markup(_markdown.render(text))
