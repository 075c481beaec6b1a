"""Train the heads of `rails/probe.py` on a model's activations: logistic regressions on standardised states.

Small networks on more of the states separated our own held-out topics as well or better, and prompts of others worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steersman.guard.rails.probe import Probe

Floats = NDArray[np.float32]
STRENGTH = 0.001  # inverse regularisation


def fit(
    states: Floats, heads: Mapping[str, Sequence[bool | None]], weights: Sequence[Sequence[float]], middle: slice
) -> Probe:
    """A linear head of the last tokens' states for each name and row of weights, and one for single tokens.

    Args:
        states: [N, D], of the training rows, as `ActivationReader.read` gives them.
        heads: whether a row is positive, by head; None: that head does not learn from the row. The first is for tokens
            too.
        weights: of the rows, one list for each seed (its bootstrap).
        middle: the columns of the mean that `TokenProbe` learns from; those before it are the last tokens'.
    """
    mean = states.mean(0)
    scale = 1 / (states.std(0) + 1e-3)
    inputs = (states - mean) * scale
    labels = [_Labels.of(found) for found in heads.values()]
    last = inputs[:, : middle.start]
    seeds = [[_head(last, found.positive, found.known * np.array(own)) for found in labels] for own in weights]
    weight = np.stack([np.stack([head[0] for head in of_seed], 1) for of_seed in seeds]).astype(np.float32)
    bias = np.array([[head[1] for head in of_seed] for of_seed in seeds], np.float32)
    token, offset = _head(inputs[:, middle], labels[0].positive, labels[0].known.astype(float))
    token = token * scale[middle]
    arrays = {"mean": mean[: middle.start], "scale": scale[: middle.start], "weight": weight, "bias": bias}
    arrays["token.weight"] = token.astype(np.float32)
    arrays["token.bias"] = np.array([offset - token @ mean[middle]], np.float32)
    return Probe(tuple(heads), arrays)


def by_other_folds(
    states: Floats, heads: Mapping[str, Sequence[bool | None]], folds: NDArray[np.int_], middle: slice
) -> Floats:
    """Log-odds of each row, [N, heads], by heads that learnt from the rows of the other folds alone."""
    found = np.zeros((len(states), len(heads)), np.float32)
    for fold in np.unique(folds):
        probe = fit(states, heads, [(folds != fold).astype(float).tolist()], middle)
        found[folds == fold] = probe.scores(states[folds == fold])
    return found


class _Labels(NamedTuple):
    positive: NDArray[np.bool_]
    known: NDArray[np.bool_]

    @classmethod
    def of(cls, found: Sequence[bool | None]) -> _Labels:
        return cls(np.array([bool(one) for one in found]), np.array([one is not None for one in found]))


def _head(inputs: Floats, positive: NDArray[np.bool_], weights: NDArray[np.float64]) -> tuple[NDArray[Any], float]:
    """Weights and bias; a head without positives or negatives says nothing."""
    from sklearn.linear_model import LogisticRegression

    kept = weights > 0
    if len(set(positive[kept].tolist())) < 2:
        return np.zeros(inputs.shape[1]), 0.0
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=300)
    model.fit(inputs[kept], positive[kept], sample_weight=weights[kept])
    return model.coef_[0], float(model.intercept_[0])
