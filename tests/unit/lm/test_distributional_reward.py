"""Distributions of utility: moments, low quantiles and the explained share, by hand."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch

from steersman.lm.distributional_reward import UNIT_SPREAD, explained, quantile, utilities


def test_moments_and_quantiles_by_hand() -> None:
    """Two atoms, 0 and 1, with masses 0.3 and 0.7: mean 0.7, variance 0.21; the 0.15-quantile is in the middle of the
    first half of [0, 1]."""
    outputs = torch.tensor([[0.3, 0.7]]).log()
    own = utilities(outputs, "categorical")
    assert (float(own.mean), float(own.variance)) == pytest.approx((0.7, 0.21))
    assert float(quantile(outputs, "categorical", 0.15)) == pytest.approx(0.25)
    assert float(quantile(outputs, "categorical", 0.65)) == pytest.approx(0.75)
    normal = torch.tensor([[2.0, 0.0]])
    assert float(utilities(normal, "mean_variance").variance) == pytest.approx(0.5)
    low = 2 + NormalDist().inv_cdf(0.1) * math.sqrt(0.5)
    assert float(quantile(normal, "mean_variance", 0.1)) == pytest.approx(low, rel=1e-5)
    assert math.log1p(math.exp(UNIT_SPREAD)) == pytest.approx(math.sqrt(0.5))


def test_explained_variance_by_hand() -> None:
    """Means 0 and 2 vary by 1; mean variance 3: a quarter is explained."""
    assert explained(torch.tensor([0.0, 2.0]), torch.tensor([2.0, 4.0])) == pytest.approx(0.25)
