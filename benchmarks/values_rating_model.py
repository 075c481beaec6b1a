"""A model of ratings by text, rater and group, for values_disagreement.py: cumulative logit with random effects.

    P(rater r rates item i above c) = sigmoid((a_r (w + D_g) . x_i + b_r + beta_g - tau_c) / exp(u . x_i))

b_r is a rater's severity, a_r their scale, beta_g and D_g what their groups add, u the spread of a text: where it is
large, raters differ whoever they are (mean-variance, arXiv:2312.08358). All are shrunk by normal priors; w alone is the
pooled model. A rater who was left out is a mixture over severities and scales, weighted by the ratings of theirs that
are known, none or a few: an integral on a grid.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from steersman.functional import minimise
from steersman.stats import wilson

SEVERITIES, SCALES = torch.linspace(-3, 3, 13), torch.linspace(-1.5, 1.5, 5)  # grid, in deviations of the raters


class Ratings(NamedTuple):
    """Ratings as columns [N]; ``features`` [I, F] of items, ``levels`` [R, L] one-hot groups of raters."""

    item: Tensor
    rater: Tensor
    value: Tensor
    features: Tensor
    levels: Tensor
    top: int  # ratings are 0 to top

    def where(self, mask: Tensor) -> Ratings:
        """Some of the ratings."""
        return self._replace(item=self.item[mask], rater=self.rater[mask], value=self.value[mask])


class Spec(NamedTuple):
    """What a model knows of beside the text."""

    groups: bool = False
    raters: bool = False
    spread: bool = False
    tight: float = 1.0  # factor of the precision of what groups add
    taste: bool = True  # groups differ in what they mind, and not only in how severe they are


class Fit(NamedTuple):
    """Parameters: taste [F], thresholds [top], of levels [L] and [L, F], of raters [R] and [R], spread [F]."""

    spec: Spec
    taste: Tensor
    thresholds: Tensor
    level: Tensor
    level_taste: Tensor
    severity: Tensor
    log_scale: Tensor
    spread: Tensor


def log_probabilities(location: Tensor, thresholds: Tensor, value: Tensor) -> Tensor:
    """log P(value) of a cumulative logit model; location and value [...], thresholds broadcast over a last axis."""
    above = torch.sigmoid(location[..., None] - thresholds)
    edges = torch.nn.functional.pad(torch.nn.functional.pad(above, (1, 0), value=1.0), (0, 1), value=0.0)
    cells = (edges[..., :-1] - edges[..., 1:]).clamp(min=1e-7)
    return cells.log().gather(-1, value[..., None])[..., 0]


def _ordered(raw: Tensor) -> Tensor:
    return torch.cat([raw[:1], raw[:1] + torch.nn.functional.softplus(raw[1:]).cumsum(0)])


def _parts(fit: Fit, ratings: Ratings) -> tuple[Tensor, Tensor, Tensor]:
    """[N] each: the text's part for the rater's groups, what the groups add, and the inverse spread."""
    x = ratings.features[ratings.item]
    text, shift = x @ fit.taste, torch.zeros(len(x))
    if fit.spec.groups:
        levels = ratings.levels[ratings.rater]
        shift = levels @ fit.level
        if fit.spec.taste:
            text = text + ((levels @ fit.level_taste) * x).sum(1)
    narrow = torch.exp(-(x @ fit.spread).clamp(-3, 3)) if fit.spec.spread else torch.ones(len(x))
    return text, shift, narrow


def fit_ratings(ratings: Ratings, spec: Spec, precision: float) -> Fit:
    """Maximum a posteriori by L-BFGS.

    Args:
        precision: inverse variance of the weights of features, which have variance 1.
    """
    _items, features = ratings.features.shape
    raters, levels = ratings.levels.shape
    shapes = ((features,), (ratings.top,), (levels,), (levels, features), (raters,), (raters,), (features,))
    values = [torch.zeros(shape).requires_grad_() for shape in shapes]
    precisions = (precision, 1e-3, 4 * spec.tight, 4 * spec.tight * precision, 1.0, 4.0, 4 * precision)

    def loss() -> Tensor:
        fit = Fit(spec, *values)._replace(thresholds=_ordered(values[1]))
        text, shift, narrow = _parts(fit, ratings)
        if spec.raters:
            text = text * fit.log_scale[ratings.rater].exp()
            shift = shift + fit.severity[ratings.rater]
        location = (text + shift) * narrow
        nll = -log_probabilities(location, fit.thresholds * narrow[:, None], ratings.value).sum()
        prior = sum(0.5 * p * value.square().sum() for p, value in zip(precisions, values, strict=True))
        return (nll + prior) / len(ratings.value)

    minimise(values, loss, 60)
    return Fit(spec, *values)._replace(thresholds=_ordered(values[1]))


def known_raters(fit: Fit, ratings: Ratings) -> Tensor:
    """[N, top] P(rating above each threshold) of raters that the fit has seen."""
    text, shift, narrow = _parts(fit, ratings)
    if fit.spec.raters:
        text = text * fit.log_scale[ratings.rater].exp()
        shift = shift + fit.severity[ratings.rater]
    location = (text + shift) * narrow
    return torch.sigmoid(location[:, None] - fit.thresholds * narrow[:, None])


def new_raters(fit: Fit, ratings: Ratings, known: Tensor, seen: Tensor) -> Tensor:
    """[N, top] P(rating above each threshold) of raters that the fit has not seen.

    Args:
        known: [N] bool, ratings that may be used for the rater; seen: the raters of the fit, for the grid's widths.
    """
    if not fit.spec.raters:
        return known_raters(fit, ratings)
    text, shift, narrow = _parts(fit, ratings)
    widths = [value[seen].std() for value in (fit.severity, fit.log_scale)]
    severity, scale = torch.cartesian_prod(SEVERITIES, SCALES).T
    log_prior = -0.5 * (severity.square() + scale.square())
    location = (text[:, None] * (scale * widths[1]).exp() + shift[:, None] + severity * widths[0]) * narrow[:, None]
    thresholds = (fit.thresholds * narrow[:, None])[:, None, :]
    value = ratings.value[:, None].expand(location.shape)
    log_p = torch.where(known[:, None], log_probabilities(location, thresholds, value), 0.0)
    per_rater = torch.zeros(len(ratings.levels), len(severity)).index_add(0, ratings.rater, log_p)
    weights = (per_rater + log_prior).softmax(1)[ratings.rater]
    above = torch.sigmoid(location[..., None] - thresholds)
    return (above * weights[..., None]).sum(1)


def nll_of(above: Tensor, value: Tensor) -> Tensor:
    """[N] log loss in nats of ratings, of P(rating above each threshold) [N, top]."""
    edges = torch.nn.functional.pad(torch.nn.functional.pad(above, (1, 0), value=1.0), (0, 1), value=0.0)
    cells = (edges[:, :-1] - edges[:, 1:]).clamp(min=1e-7)
    return -cells.gather(1, value[:, None])[:, 0].log()


def calibration(above: Tensor, ratings: Ratings) -> dict[str, Any]:
    """Predicted and observed shares of ratings above the first threshold, in five bins; those near one half apart."""
    p, rated = above[:, 0], ratings.value > 0
    bins, gap = [], 0.0
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        own = (p >= low) & (p < low + 0.2 + 1e-6 * (low == 0.8))
        if own.any():
            observed = wilson(int(rated[own].sum()), int(own.sum()))
            bins.append({"predicted": float(p[own].mean()), "observed": observed.json()})
            gap += observed.n / len(p) * abs(observed.value - float(p[own].mean()))
    split = (p > 0.35) & (p < 0.65)
    observed = wilson(int(rated[split].sum()), int(split.sum()))
    near_half = {"predicted": float(p[split].mean()), "observed": observed.json()}
    return {"bins": bins, "expected_error": gap, "where_people_split": near_half}
