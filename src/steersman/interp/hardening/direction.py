"""The refusal direction as hardening needs it: of every layer at once, found in a moment, and taken away in training.

Taking it away has two forms. ``zero`` is the published one: x - r (r . x). Where a model has massive activations
(Gemma 3), r has a part along them, and what is left is no model any more: refusals that gemma-3-270m gives 1.3 nats per
token get 5 to 43 under it, where all tokens alike would be 12.5. ``level`` puts the component to where it is after
harmless prompts (affine concept editing, Marshall et al. 2024, arXiv:2411.09003), and moves no token by more than a few
of the gaps between harmful and harmless prompts, so that what is massive stays nearly as it is:

    x + r clamp(r . m - r . x, -c g, c g)        m: mean of harmless prompts;  g = |r . (mean of harmful ones - m)|
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from steersman.interp.activations import Edit
from steersman.interp.anatomy import anatomy_of
from steersman.interp.directions import Form, level_edits, means, to_level, without


class Streams(NamedTuple):
    """Means of the stream before each layer at prompts' last tokens, [layers, H] each."""

    harmful: Tensor
    harmless: Tensor

    @property
    def difference(self) -> Tensor:
        """Harmful minus harmless, [layers, H]."""
        return self.harmful - self.harmless

    @property
    def directions(self) -> Tensor:
        """The same as unit vectors; before the first layer there may be none, and zeros."""
        lengths: Tensor = self.difference.norm(dim=-1, keepdim=True)
        return self.difference / lengths.clamp_min(1e-12)


def streams(model: Any, harmful: Sequence[list[int]], harmless: Sequence[list[int]]) -> Streams:
    """The means, in float32; no gradients.

    Without a digest of the weights, which `directions.differences` takes: they change with every step here.

    Args:
        harmful, harmless: token ids of prompts.
    """
    layers = range(anatomy_of(model).layers)
    return Streams(*(means(model, rows, (-1,), layers)[0].float() for rows in (harmful, harmless)))


def levelled(found: Streams, layer: int, direction: Tensor) -> Edit:
    """The edit of a layer's input that puts it, along a unit vector, where harmless prompts are. Gradients pass."""
    return to_level(direction, float(found.harmless[layer] @ direction), float(found.difference[layer] @ direction))


def own(found: Streams, first: int, form: Form) -> list[tuple[str, Edit]]:
    """Hooks: every layer from ``first`` on loses its own direction."""
    edits = []
    for layer in range(first, len(found.harmful)):
        r = found.directions[layer]
        edits.append((f"blocks.{layer}.hook_resid_pre", without(r) if form == "zero" else levelled(found, layer, r)))
    return edits


def single(model: Any, found: Streams, layer: int, form: Form) -> list[tuple[str, Edit]]:
    """Hooks: one layer's direction is taken away at every layer."""
    r = found.directions[layer]
    if form == "zero":
        return everywhere(model, r)
    return level_edits(r, found.harmless @ r, found.difference @ r)


def everywhere(model: Any, direction: Tensor) -> list[tuple[str, Edit]]:
    """Hooks that take a unit vector, [H], out of all that is written into the stream.

    The stream of `directions.ablating`, with two thirds of its hooks: what no layer writes, the next one need not lose.
    """
    edit = without(direction)
    layers = range(anatomy_of(model).layers)
    sites = [f"blocks.{layer}.{name}" for layer in layers for name in ("hook_attn_out", "hook_mlp_out")]
    return [("blocks.0.hook_resid_pre", edit), *((site, edit) for site in sites)]
