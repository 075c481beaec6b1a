"""Steersman: a written constitution in, an aligned model out, with evidence.

What each command does is also one typed function here. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from steersman.constitution.document import load as load_constitution
    from steersman.data.sources import load as load_data
    from steersman.pipeline import align
    from steersman.recipe import Recipe, load_recipe
    from steersman.runs import OpenRun, open_run

_HOMES = {
    "Recipe": ("steersman.recipe", "Recipe"),
    "align": ("steersman.pipeline", "align"),
    "load_recipe": ("steersman.recipe", "load_recipe"),
    "load_constitution": ("steersman.constitution.document", "load"),
    "load_data": ("steersman.data.sources", "load"),
    "OpenRun": ("steersman.runs", "OpenRun"),
    "open_run": ("steersman.runs", "open_run"),
}

__all__ = ["OpenRun", "Recipe", "__version__", "align", "load_constitution", "load_data", "load_recipe", "open_run"]


def __getattr__(name: str) -> Any:
    """Import a public function on first use (PEP 562), so that `steersman --help` needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'steersman' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
