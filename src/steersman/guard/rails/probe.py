"""Heads on a model's activations: one that reads a whole request, and one that reads along while text is made.

`Probe` asks of a request's states (`guard/activations.py`) what the n-gram models ask of its words: linear heads, one
for each seed, whose log-odds are averaged. `TokenProbe` is a score for each token, smoothed by an exponential moving
average, for a model that this process serves; it costs a dot product a token. (Cunningham et al. 2026,
arXiv:2601.04603, screen all traffic with such a probe.)

    probe.safetensors   mean, scale [D]; weight [seeds, D, heads], bias [seeds, heads]; token.weight [H], token.bias [1]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steersman.errors import ModelError
from steersman.guard.activations import normal

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]
MEMORY_TOKENS = 16  # over which the moving average of token scores forgets
_NAMES = ("mean", "scale", "weight", "bias", "token.weight", "token.bias")


class Probe(NamedTuple):
    """The head that reads whole requests, and the weights of `TokenProbe`."""

    heads: tuple[str, ...]
    arrays: Mapping[str, Floats]

    def scores(self, states: Floats) -> Floats:
        """Log-odds, [N, heads], of states, [N, D or more]: the mean over the seeds."""
        return np.asarray(np.mean(self.of_seeds(states), 0), np.float32)

    def of_seeds(self, states: Floats) -> Floats:
        """Log-odds of each seed alone, [seeds, N, heads]."""
        own = self.arrays
        inputs = (states[:, : len(own["mean"])] - own["mean"]) * own["scale"]
        return np.asarray(inputs @ own["weight"] + own["bias"][:, None], np.float32)

    def of_means(self, means: Floats) -> Floats:
        """What `TokenProbe` says on average, [N], of the mean states of its layer, [N, H]."""
        return np.asarray(means @ self.arrays["token.weight"] + self.arrays["token.bias"], np.float32)

    def member(self, seed: int) -> Probe:
        """One seed's heads alone."""
        own = {name: self.arrays[name][seed : seed + 1] for name in ("weight", "bias")}
        return self._replace(arrays={**self.arrays, **own})

    @classmethod
    def of_arrays(cls, heads: Sequence[str], arrays: Mapping[str, Any], where: Path) -> Probe:
        """From a file's arrays.

        Raises:
            ModelError: an array is missing, or holds NaN or infinity, or the heads are others.
        """
        missing = [name for name in _NAMES if name not in arrays]
        if missing:
            raise ModelError(f"{', '.join(missing)} is missing", where=str(where), do="train the guard again")
        for name in _NAMES:
            if not np.isfinite(arrays[name]).all():
                raise ModelError(f"{name} holds NaN or infinity", where=str(where), do="train the guard again")
        if arrays["bias"].shape[1] != len(heads):
            raise ModelError(
                f"{arrays['bias'].shape[1]} heads", where=str(where), expected=f"{len(heads)}: {', '.join(heads)}"
            )
        return cls(tuple(heads), {name: np.asarray(arrays[name], np.float32) for name in _NAMES})


class TokenProbe:
    """Scores a sequence token by token. A sequence of the engine's has a copy of its own.

    Attributes:
        layer: index of the decoder's layer, from 0, whose output is read.
        threshold: the score from which a request of the calibration would be stopped.
    """

    def __init__(self, layer: int, weight: Floats, bias: float, threshold: float, memory: int = MEMORY_TOKENS) -> None:
        import torch

        self.layer, self.threshold = layer, threshold
        self._weight, self._bias, self._keep = torch.tensor(weight), bias, 1 - 1 / memory
        self.start(1)

    def start(self, rows: int) -> None:
        """Begin new sequences."""
        import torch

        self._mean, self._seen, self._highest = torch.zeros(rows), 0, torch.full((rows,), -torch.inf)

    def step(self, hidden: Tensor) -> Tensor:
        """The highest smoothed score so far, [B]; hidden: [B, T, H] of the new tokens.

        It is the same however the tokens are cut into steps. NaN in the states stays NaN.
        """
        import torch

        weight = self._weight.to(hidden.device)
        scores = normal(hidden.float()) @ weight + self._bias  # [B, T]
        for column in scores.unbind(1):
            self._seen += 1
            if self._seen == 1:
                continue  # the first token is a sink that says nothing
            rate = max(1 - self._keep, 1 / (self._seen - 1))  # the plain mean, until there are tokens enough
            self._mean = self._mean.to(column.device) * (1 - rate) + column * rate
            if self._seen > MIN_TOKENS:
                self._highest = torch.maximum(self._highest.to(column.device), self._mean)
        return self._highest if self._seen > MIN_TOKENS else self._mean


MIN_TOKENS = 6  # before which the mean of so few says little
