"""The refusal direction as hardening needs it: of every layer at once, found in a moment, and taken out in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from steersman.interp.activations import Edit
from steersman.interp.anatomy import anatomy_of
from steersman.interp.directions import means, without


def stream_differences(model: Any, harmful: Sequence[list[int]], harmless: Sequence[list[int]]) -> Tensor:
    """Means of the stream before each layer at the last token, harmful minus harmless, [layers, H]; no gradients.

    Without a digest of the weights, which `directions.differences` takes: they change with every step here.

    Args:
        harmful, harmless: token ids of prompts.
    """
    layers = range(anatomy_of(model).layers)
    return (means(model, harmful, (-1,), layers) - means(model, harmless, (-1,), layers))[0].float()


def everywhere(model: Any, direction: Tensor) -> list[tuple[str, Edit]]:
    """Hooks that take a unit vector, [H], out of all that is written into the stream.

    The stream of `directions.ablating`, with two thirds of its hooks: what no layer writes, the next one need not lose.
    """
    edit = without(direction)
    sites = [
        f"blocks.{layer}.{name}"
        for layer in range(anatomy_of(model).layers)
        for name in ("hook_attn_out", "hook_mlp_out")
    ]
    return [("blocks.0.hook_resid_pre", edit), *((site, edit) for site in sites)]
