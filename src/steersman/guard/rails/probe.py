"""Heads on a model's activations: one that reads a whole request, and one that reads along while text is made.

`Probe` asks of a request's states (`guard/activations.py`) what the n-gram models ask of its words: linear heads, one
for each seed, whose log-odds are averaged. `TokenProbe` is a score for each token, smoothed by an exponential moving
average, for a model that this process serves; it costs a dot product a token, and `TokenRail` is its verdict.
(Cunningham et al. 2026, arXiv:2601.04603, screen all traffic with such a probe.)

    probe.safetensors   mean, scale [D]; weight [seeds, D, heads], bias [seeds, heads]; token.weight [H], token.bias [1]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steersman.errors import ModelError
from steersman.guard.activations import normal
from steersman.guard.verdict import Decision, Exchange, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from steersman.guard.normalise import Views

Floats = NDArray[np.float32]
MEMORY_TOKENS = 16  # over which the moving average of token scores forgets
MIN_TOKENS = 6  # before which the average of so few says little
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
    """A score for each token of an answer, and for the answer so far: the highest moment of their moving average.

    The average begins with the answer. Where it ran through the question too, it found half as many harmful answers at
    equal false alarms; requests have a probe of their own.

    Attributes:
        layer: index of the decoder's layer, from 0, whose output is read.
        threshold: the score above which an answer is stopped.
    """

    def __init__(self, layer: int, weight: Floats, bias: float, threshold: float, memory: int = MEMORY_TOKENS) -> None:
        import torch

        self.layer, self.threshold = layer, threshold
        self._weight, self._bias, self._memory = torch.tensor(weight), bias, memory

    def tokens(self, hidden: Tensor) -> Tensor:
        """Each token's own score, [...], of its state, [..., H]."""
        scores: Tensor = normal(hidden.float()) @ self._weight.to(hidden.device) + self._bias
        return scores

    def follow(self) -> TokenReading:
        """Begin an answer."""
        return TokenReading(self._memory)


class TokenReading:
    """One answer under a `TokenProbe`."""

    def __init__(self, memory: int) -> None:
        self._memory, self._seen, self._mean = memory, 0, 0.0
        self._highest = -math.inf

    def add(self, score: float) -> float:
        """Take the next token's score; the highest moment so far, and NaN from a score on that is no number."""
        self._seen += 1
        self._mean += (score - self._mean) / min(self._seen, self._memory)  # the plain mean, until there are enough
        if not math.isfinite(self._mean):
            self._highest = math.nan
        elif self._seen >= MIN_TOKENS and not math.isnan(self._highest):
            self._highest = max(self._highest, self._mean)
        return self._highest


class TokenRail:
    """Stops an answer by the score of its own activations, where this process serves the model.

    Args:
        principle, decision: what a high score is a breach of, and what is done then.
    """

    name = "probe"
    reach: int | None = 0
    waits = False
    along = True  # it judges activations, and is not asked where there are none

    def __init__(self, probe: TokenProbe, principle: str, decision: Decision) -> None:
        self.probe, self._principle, self._decision = probe, principle, decision

    def check(self, exchange: Exchange, views: dict[str, Views]) -> Sequence[Verdict]:
        """See `verdict.Rail`."""
        score = exchange.activation
        if score is None:
            return ()
        if math.isnan(score):
            raise ArithmeticError("the model's activations are no numbers")
        over = score > self.probe.threshold
        return (
            Verdict(
                rail=self.name,
                principle=self._principle,
                decision=self._decision if over else "allow",
                score=round(_chance(score), 6),
                threshold=round(_chance(self.probe.threshold), 6),
            ),
        )


def _chance(log_odds: float) -> float:
    return 1 / (1 + math.exp(-min(500.0, max(-500.0, log_odds))))
