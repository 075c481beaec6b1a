"""Tests by permutation, which ask nothing of a distribution's shape: signs of paired differences, and group labels."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steersman.stats import Estimate

PERMUTATIONS = 4000


def sign_flips(differences: Sequence[float], seed: int = 0) -> float:
    """One-sided p-value that the mean of paired differences is above 0, if each might as well have the other sign."""
    values = np.asarray(differences, dtype=np.float64)
    if not len(values):
        return 1.0
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(PERMUTATIONS, len(values)))
    return _p_value((signs * values).mean(1), values.mean())


def highest_of(differences: Sequence[Sequence[float]], seed: int = 0) -> tuple[int, float]:
    """Of several series of paired differences on the same items, the one with the highest mean, and its p-value.

    The signs of an item are flipped in all series together, and the highest mean of each permutation is the null's:
    so the choice of the series is part of the test.
    """
    values = np.asarray(differences, dtype=np.float64)  # [series, items]
    means = values.mean(1)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(PERMUTATIONS, values.shape[1]))
    return int(means.argmax()), _p_value((signs @ values.T / values.shape[1]).max(1), means.max())


def highest_of_groups(differences: Sequence[float], groups: Sequence[Hashable], seed: int = 0) -> tuple[Any, float]:
    """The group of paired differences with the highest mean, and its p-value: signs flipped, the choice in the test."""
    values, names = np.asarray(differences, dtype=np.float64), list(dict.fromkeys(groups))
    member = np.array([[group == name for group in groups] for name in names], dtype=np.float64)
    member /= member.sum(1, keepdims=True)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(PERMUTATIONS, len(values)))
    means = member @ values
    return names[int(means.argmax())], _p_value(((signs * values) @ member.T).max(1), means.max())


class Outlier(NamedTuple):
    """The group that stands out most.

    Attributes:
        excess: its mean less that of all other groups, with a bootstrap interval over its items.
        p_value: the share of permutations of the labels in which some group stands out as much.
        null: the 95th percentile of the excess under permutation.
    """

    group: Hashable
    excess: Estimate
    p_value: float
    null: float


def outlier(values: Sequence[float], groups: Sequence[Hashable], seed: int = 0) -> Outlier:
    """The group whose mean is furthest above the other groups', tested by permuting the labels."""
    data, names = np.asarray(values, dtype=np.float64), list(dict.fromkeys(groups))
    if len(names) < 2:
        raise ValueError(f"an outlier needs two groups or more, got {len(names)}")
    label = np.array([names.index(group) for group in groups])
    sizes = np.bincount(label)
    random = np.random.default_rng(seed)
    member = np.eye(len(names))[label]  # [items, groups]

    def excesses(of: NDArray[Any]) -> NDArray[Any]:
        """[..., items] -> [..., groups]."""
        sums, all_ = of @ member, of.sum(-1, keepdims=True)
        difference: NDArray[Any] = sums / sizes - (all_ - sums) / (of.shape[-1] - sizes)
        return difference

    observed = excesses(data)
    best = int(observed.argmax())
    null = excesses(random.permuted(np.tile(data, (PERMUTATIONS, 1)), axis=1)).max(1)
    own, others = data[label == best], data[label != best]
    drawn = own[random.integers(len(own), size=(2000, len(own)))].mean(1) - others.mean()
    low, high = np.quantile(drawn, [0.025, 0.975])
    value = Estimate(float(observed[best]), float(low), float(high), len(own))
    return Outlier(names[best], value, _p_value(null, observed[best]), float(np.quantile(null, 0.95)))


def _p_value(null: NDArray[Any], observed: float) -> float:
    """With the observed value among the permutations, so that it is never 0."""
    return float((1 + (null >= observed - 1e-12).sum()) / (1 + len(null)))
