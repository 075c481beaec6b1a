"""HTML from templates. Jinja escapes whatever it is given; model text goes through `markdown.rendered`."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from steersman.rating.markdown import rendered
from steersman.types import messages_of

_templates = Environment(
    loader=PackageLoader("steersman.rating"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_templates.filters["rendered"] = rendered
_templates.filters["messages"] = messages_of


def page(template: str, **values: Any) -> str:
    """A template filled in; every value is escaped."""
    return _templates.get_template(template).render(**values)
