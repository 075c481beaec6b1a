"""The refusal direction as hardening needs it: of every layer at once, and taken out with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steersman.interp.activations import Edit, read
from steersman.interp.anatomy import anatomy_of

AT_ONCE = 16  # prompts in one forward pass


def stream_differences(model: Any, harmful: Sequence[list[int]], harmless: Sequence[list[int]]) -> Tensor:
    """Means of the stream before each layer at the last token, harmful minus harmless, [layers, H]; no gradients.

    Args:
        harmful, harmless: token ids of prompts.
    """
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(anatomy_of(model).layers)]
    means = []
    for prompts in (harmful, harmless):
        total = torch.zeros(())
        for start in range(0, len(prompts), AT_ONCE):
            found = read(model, prompts[start : start + AT_ONCE], names)
            total = total + torch.stack([found.at(name).double().sum(0) for name in names])
        means.append(total / len(prompts))
    return (means[0] - means[1]).float()


def without(direction: Tensor) -> Edit:
    """An edit that takes a unit vector, [H], out: x - r (r . x). Gradients pass, and have nothing along r."""

    def edit(x: Tensor) -> Tensor:
        r = direction.to(x)
        return x - (x @ r)[..., None] * r

    return edit


def everywhere(model: Any, direction: Tensor) -> list[tuple[str, Edit]]:
    """Hooks that take a unit vector, [H], out of all that is written into the stream (Arditi et al. 2024, sec. 2.4)."""
    edit = without(direction)
    sites = [
        f"blocks.{layer}.{name}"
        for layer in range(anatomy_of(model).layers)
        for name in ("hook_attn_out", "hook_mlp_out")
    ]
    return [("blocks.0.hook_resid_pre", edit), *((site, edit) for site in sites)]
