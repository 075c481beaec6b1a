"""HTML from templates, and Markdown that models wrote as HTML that can do nothing.

Jinja escapes whatever it is given. Markdown is read by markdown-it with raw HTML off, and without links and images:
they show as they were written, because a page with model text must fetch nothing and lead nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

from steersman.types import messages_of

LONGEST_MARKDOWN = 20_000  # characters; what is longer is shown as plain text


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
        return '<div class="wide" tabindex="0"><table>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """Its end."""
        return "</table></div>\n"


_markdown = (
    MarkdownIt("commonmark", {"html": False, "breaks": True}, renderer_cls=_Renderer)
    .enable(["table", "strikethrough"])
    .disable(["link", "image", "autolink", "reference", "html_block", "html_inline"])
)


@lru_cache(maxsize=4096)
def rendered(text: str) -> Markup:
    """Model text as safe HTML."""
    if len(text) > LONGEST_MARKDOWN:
        return Markup('<div class="plain" dir="auto">{}</div>').format(text)
    return Markup(_markdown.render(text))


_templates = Environment(
    loader=PackageLoader("steersman.rating"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_templates.filters["rendered"] = rendered
_templates.filters["messages"] = messages_of


def page(template: str, **values: Any) -> str:
    """A template filled in; every value is escaped."""
    return _templates.get_template(template).render(**values)
