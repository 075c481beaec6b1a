"""Scores by group: the loss by hand and by finite differences, shrinkage, the card, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from steersman.errors import DataError, ModelError
from steersman.functional import preference_nll
from steersman.lm.reward_heads import EVERYONE, GroupRewardModel
from steersman.lm.shared_prefix import Group
from steersman.store import StageFolder
from steersman.train import group_reward
from steersman.train.group_reward import GroupRewardConfig, choose_shrinkage, group_nll, objective, summed
from steersman.train.loop import OptimiserConfig
from steersman.train.reward_heads import fit_head, pairs_of
from steersman.train.reward_model import Ranked
from steersman.types import Comparison

from .conftest import recorder

FAST = GroupRewardConfig(epochs=0, shrinkage=4.0, smallest_comparisons=10)
TWO = Group([1], [[2], [3]])


def row(of: str, first_is_better: bool = True, number: int = 0) -> Ranked:
    return Ranked(TWO, (1, 2) if first_is_better else (2, 1), [], number=number, rater="r", of=of)


# ── the loss ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_group_is_scored_by_everyones_score_and_its_own_deviation() -> None:
    """By hand: everyone's margin is 1; group 0 adds -3, group 1 adds 0.5, a rater without a group nothing. Weights of
    1, 2 and 3 tell them apart."""
    outputs = torch.tensor([[1.0, -3.0, 0.5], [0.0, 0.0, 0.0]] * 3)
    pairs = pairs_of([row(of)._replace(weight=i + 1.0) for i, of in enumerate(("a", "b", ""))])
    expected = sum((i + 1) * math.log1p(math.exp(-margin)) for i, margin in enumerate((-2.0, 1.5, 1.0)))
    assert float(group_nll(outputs, pairs, torch.tensor([0, 1, -1]))) == pytest.approx(expected)


def test_gradients_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    pairs = pairs_of([row("a"), row("b", False), row("")])
    pairs = pairs._replace(label=pairs.label.double(), margin=pairs.margin.double(), weight=pairs.weight.double())
    own = torch.tensor([0, 1, -1])
    assert torch.autograd.gradcheck(lambda x: group_nll(x, pairs, own), (outputs,))


# ── shrinkage ────────────────────────────────────────────────────────────────────────────────────────────────────────
def votes(counts: dict[str, int], tastes: dict[str, list[float]], seed: int) -> tuple[torch.Tensor, list[Ranked]]:
    """Features [S, 4] of the two answers of each row, and the rows, of groups with these tastes."""
    generator, features, rows = torch.Generator().manual_seed(seed), [], []
    for name, count in counts.items():
        pair = torch.randn(count, 2, 4, generator=generator)
        margin = ((pair[:, 0] - pair[:, 1]) * torch.tensor(tastes[name])).sum(1)
        says_first = torch.rand(count, generator=generator) < margin.sigmoid()
        features.append(pair.flatten(0, 1))
        rows += [row(name, bool(first), len(rows) + i) for i, first in enumerate(says_first)]
    return torch.cat(features), rows


def test_a_small_group_borrows_from_all_and_a_large_one_keeps_its_own() -> None:
    """On three seeds a group with 12 votes is predicted better with shrinkage than by a head of its own."""
    tastes = {"many": [2.0, 1.0, 0.0, 0.0], "few": [1.5, 1.0, 1.0, 0.0]}
    truth = torch.tensor(tastes["few"])
    gains = []
    for seed in range(3):
        features, rows = votes({"many": 200, "few": 12}, tastes, seed)
        fresh = torch.randn(1000, 4, generator=torch.Generator().manual_seed(100 + seed))
        labels, errors = (fresh @ truth).sigmoid(), []
        for shrinkage in (4.0, 0.0):
            goal = objective(["many", "few"], 0.1, shrinkage)
            heads = summed(fit_head(features, rows, goal, torch.zeros(3, 4)))
            errors.append(float(preference_nll(fresh @ heads[2], labels).mean()))
        gains.append(errors[1] - errors[0])
    assert min(gains) > 0.05, gains


def test_infinite_shrinkage_is_the_pooled_model_and_none_is_a_head_each() -> None:
    features, rows = votes({"a": 60, "b": 60}, {"a": [2.0, 0, 0, 0], "b": [-2.0, 0, 0, 0]}, 0)
    goal = objective(["a", "b"], 1.0, 1e6)
    pooled = summed(fit_head(features, rows, goal, torch.zeros(3, 4)))
    torch.testing.assert_close(pooled[1], pooled[0], atol=1e-2, rtol=0)
    goal = objective(["a", "b"], 1.0, 0.1)
    apart = summed(fit_head(features, rows, goal, torch.zeros(3, 4)))
    assert apart[1, 0] > 1
    assert apart[2, 0] < -1


@pytest.mark.parametrize(("taste", "expected"), [(2.0, 64.0), (-2.0, 16.0)])
def test_groups_that_agree_are_shrunk_and_groups_that_do_not_are_not(taste: float, expected: float) -> None:
    tastes = {"a": [2.0, 0, 0, 0], "b": [taste, 0, 0, 0]}
    features, rows = votes({"a": 120, "b": 120}, tastes, 0)
    rows = [row._replace(rater=f"{row.of} {row.number % 8}") for row in rows]
    chosen, tried = choose_shrinkage(features, rows, ["a", "b"], 0.1, 0)
    assert chosen >= expected if taste > 0 else chosen <= expected, tried
    assert [entry["shrinkage"] for entry in tried] == [1024, 256, 64, 16, 4, 1]


# ── the whole method ─────────────────────────────────────────────────────────────────────────────────────────────────
def test_groups_that_disagree_get_their_own_order_and_three_raters_are_said_to_be_too_few(
    tiny_base: Path, start: Path, divided: list[Comparison], tmp_path: Path
) -> None:
    events, emit = recorder(None)
    config = FAST.model_copy(update={"epochs": 1, "optimiser": OptimiserConfig(learning_rate=1e-3), "shrinkage": 0.5})
    held_out, rows = divided[::4], [r for i, r in enumerate(divided) if i % 4]
    group_reward.run(config, tiny_base, start, rows, held_out, (), StageFolder(tmp_path, "group_reward", emit))
    assert events[0]["comparisons"] == len(rows)
    model = GroupRewardModel.load(tiny_base, tmp_path)
    assert model.groups == (EVERYONE, "few", "many")
    scores = model.scores(divided[0].prompt, divided[0].options)
    assert scores.shape == (3, 2)
    assert scores[2, 0] > scores[2, 1]  # many like the first answer
    assert scores[1, 0] < scores[1, 1]
    card = {entry["group"]: entry for entry in json.loads((tmp_path / "groups.json").read_text())}
    assert card["few"]["raters"] == 3
    assert card["few"]["too_small"]
    assert "too small (fewer than 5 raters)" in card["few"]["statement"]
    assert not card["many"]["too_small"]
    assert card["many"]["accuracy"]["value"] > 0.9
    assert card["many"]["held_out_comparisons"] == sum(r.group == "many" for r in held_out)


def test_what_cannot_be_is_refused(tiny_base: Path, start: Path, divided: list[Comparison], tmp_path: Path) -> None:
    out = StageFolder(tmp_path, "group_reward")
    one = [r for r in divided if r.group == "many"]
    with pytest.raises(DataError, match="name 1 group of raters"):
        group_reward.run(FAST, tiny_base, start, one, (), (), out)
    named = [r.model_copy(update={"group": "everyone" if r.group == "few" else "many"}) for r in divided]
    with pytest.raises(DataError, match="'everyone'"):
        group_reward.run(FAST, tiny_base, start, named, (), (), out)
    with pytest.raises(ModelError, match="starts from an adapter"):
        group_reward.run(FAST, tiny_base, tmp_path, divided, (), (), out)
    with pytest.raises(ModelError, match="no reward model of groups here"):
        GroupRewardModel.load(tiny_base, tmp_path)
    (tmp_path / "reward_heads.json").write_text('{"kind": "categorical"}')
    with pytest.raises(ModelError, match="of the kind 'categorical'"):
        GroupRewardModel.load(tiny_base, tmp_path)
