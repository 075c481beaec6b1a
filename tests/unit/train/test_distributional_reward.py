"""Distributions of utility: both losses against plain references, and where raters split."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from steersman.functional import categorical_nll, entropy_of_mean, mean_variance_nll
from steersman.lm.distributional_reward import DistributionalRewardModel, Kind, preferred, utilities
from steersman.lm.shared_prefix import Group
from steersman.store import StageFolder
from steersman.train import distributional_reward
from steersman.train.distributional_reward import DistributionalConfig, objective
from steersman.train.reward_heads import fit_head, pairs_of
from steersman.train.reward_model import Ranked
from steersman.types import Comparison

FAST = DistributionalConfig(epochs=0)


# ── losses ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_mean_variance_is_phi() -> None:
    """By the error function: means 1 and 0.2, variances 0.5 and 1.5; far in the tail it stays finite."""
    means, variances = torch.tensor([[1.0, 0.2], [-60.0, 0.0]]), torch.tensor([[0.5, 1.5], [0.5, 0.5]])
    p = NormalDist().cdf(0.8 / math.sqrt(2.0))
    assert float(mean_variance_nll(means, variances)[0]) == pytest.approx(-math.log(p), rel=1e-5)
    assert float(mean_variance_nll(means, variances)[1]) == pytest.approx(1800, rel=0.01)
    labelled = mean_variance_nll(means[:1], variances[:1], torch.tensor([0.7]))
    assert float(labelled) == pytest.approx(-0.7 * math.log(p) - 0.3 * math.log(1 - p), rel=1e-5)


def test_categorical_is_the_sum_over_all_pairs_of_atoms() -> None:
    """The released code's comparison matrix, written as two loops: above counts 1, equal 1/2."""
    logits = torch.randn(5, 2, 10, generator=torch.Generator().manual_seed(0))
    expected = []
    for first, second in logits.softmax(-1).tolist():
        above = sum(p * q * (1.0 if a > b else 0.5 if a == b else 0.0)
                    for a, p in enumerate(first) for b, q in enumerate(second))  # fmt: skip
        expected.append(-math.log(above))
    assert categorical_nll(logits).tolist() == pytest.approx(expected, rel=1e-5)
    reverse = torch.exp(-categorical_nll(logits.flip(1)))
    torch.testing.assert_close(torch.exp(-categorical_nll(logits)) + reverse, torch.ones(5))
    half = categorical_nll(logits, torch.full((5,), 0.5))
    torch.testing.assert_close(half, (categorical_nll(logits) + categorical_nll(logits.flip(1))) / 2)


def test_gradients_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(4, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    variances = torch.rand(4, 2, generator=generator, dtype=torch.float64).add(0.2).requires_grad_()
    labels = torch.rand(4, generator=generator, dtype=torch.float64)
    logits = torch.randn(4, 2, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, v: mean_variance_nll(m, v, labels), (means, variances))
    assert torch.autograd.gradcheck(lambda x: categorical_nll(x, labels), (logits,))
    assert torch.autograd.gradcheck(lambda x: entropy_of_mean(x.flatten(0, 1)), (logits,))


def test_entropy_is_of_the_mean_distribution() -> None:
    """Two certain answers on different atoms of two: the batch uses both, log 2."""
    assert float(entropy_of_mean(torch.tensor([[50.0, 0.0], [0.0, 50.0]]))) == pytest.approx(math.log(2))
    assert float(entropy_of_mean(torch.tensor([[50.0, 0.0], [50.0, 0.0]]))) == pytest.approx(0, abs=1e-6)


# ── where people split ───────────────────────────────────────────────────────────────────────────────────────────────
def split_world(seed: int, pairs: int = 120, votes: int = 4) -> tuple[Tensor, list[Ranked], Tensor]:
    """Features [S, 6] of answers of whom every second pair is disputed (its first feature is 1): there half of the
    raters like what the other half does not, elsewhere all like the second feature."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(pairs, 2, 6, generator=generator)
    contested = torch.arange(pairs) % 2 == 0
    features[:, :, 0] = contested[:, None].float()
    rows = []
    for i in range(pairs):
        margin = 3 * (features[i, 0, 1] - features[i, 1, 1])
        for _ in range(votes):
            sign = 1 if not contested[i] or torch.rand((), generator=generator) < 0.5 else -1
            first = bool(torch.rand((), generator=generator) < (sign * margin).sigmoid())
            rows.append(Ranked(Group([1], [[2], [3]]), (1, 2) if first else (2, 1), [], number=len(rows)))
    answers = features.repeat_interleave(votes, 0).flatten(0, 1)
    return answers, rows, contested


@pytest.mark.parametrize("kind", ["mean_variance", "categorical"])
def test_it_finds_the_pairs_where_people_split(kind: Kind) -> None:
    """Its preference is near one half there, and its variance larger than where all agree."""
    features, rows, contested = split_world(0)
    features = features / features.std(0)
    config = DistributionalConfig(kind=kind, precision=0.1)
    weights = fit_head(features, rows, objective(config), torch.zeros(config.outputs, 6))
    outputs = (features @ weights.T).view(len(contested), 4, 2, -1)[:, 0]
    sure = (preferred(outputs, kind) - 0.5).abs()
    assert sure[contested].mean() < 0.5 * sure[~contested].mean()
    if kind == "mean_variance":
        spread = utilities(outputs.flatten(0, 1), kind).variance.view(-1, 2).mean(1)
        assert spread[contested].min() > spread[~contested].max()


# ── the whole method ─────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("kind", ["mean_variance", pytest.param("categorical", marks=pytest.mark.slow)])
def test_a_model_says_how_raters_differ(
    kind: Kind, tiny_base: Path, start: Path, divided: list[Comparison], tmp_path: Path
) -> None:
    """Raters of `divided` differ by group; those of the other data all say what the many say."""
    divided = divided[::3]
    agreed = [row.model_copy(update={"ranking": (1, 2)}) for row in divided]
    found = {}
    for name, rows in (("agreed", agreed), ("divided", [*divided, *_turned(divided)])):
        (tmp_path / name).mkdir()
        config = FAST.model_copy(update={"kind": kind, "risk_quantile": 0.1})
        distributional_reward.run(config, tiny_base, start, rows, (), StageFolder(tmp_path / name, "distribution"))
        model = DistributionalRewardModel.load(tiny_base, tmp_path / name)
        found[name] = model.disagreement(divided[0].prompt, divided[0].options)
        card = json.loads((tmp_path / name / "disagreement.json").read_text())
        assert 0 <= card["explained_variance"] < 1
        assert card["disputed"][0]["disagreement"] >= card["disputed"][-1]["disagreement"]
        scores = model.score(divided[0].prompt, divided[0].options)
        own = model.utilities(divided[0].prompt, divided[0].options)
        assert all(low < mean for low, mean in zip(scores, own.mean.tolist(), strict=True))
    assert found["divided"] > found["agreed"] + 0.3


def _turned(rows: list[Comparison]) -> list[Comparison]:
    return [row.model_copy(update={"ranking": tuple(3 - rank for rank in row.ranks())}) for row in rows]


def test_the_loss_is_the_weighted_sum_over_pairs() -> None:
    """The categorical one less the entropy of the batch, in nats, by the weight of the batch."""
    rows = [Ranked(Group([1], [[2], [3]]), (1, 2), [], weight=2.0), Ranked(Group([1], [[2], [3]]), (2, 1), [])]
    outputs = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    config = DistributionalConfig(kind="categorical")
    nll = categorical_nll(outputs.view(2, 2, 10)[:, :])
    turned = categorical_nll(outputs.view(2, 2, 10).flip(1))
    expected = 2 * nll[0] + turned[1] - 0.1 * 3 * entropy_of_mean(outputs)
    torch.testing.assert_close(objective(config).nll(outputs, pairs_of(rows), rows), expected)
