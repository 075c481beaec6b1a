"""Hidden groups: EM against its definition, opposed groups recovered, their number chosen, and the whole method."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from steersman.errors import DataError
from steersman.functional import responsibilities
from steersman.lm.reward_heads import GroupRewardModel
from steersman.store import StageFolder
from steersman.train import reward_mixture
from steersman.train.loop import OptimiserConfig
from steersman.train.reward_heads import pairs_of
from steersman.train.reward_mixture import Mixture, MixtureConfig, RunningMixture, Votes, choose, em, em_from
from steersman.types import Comparison

from .conftest import Stopped, recorder

FAST = MixtureConfig(starts=2, max_groups=3, epochs=0)


def toy(tastes: Tensor, raters: int, each: int, seed: int) -> tuple[Votes, list[int]]:
    """Votes of raters in turn from each group, on random pairs of answers with features; who is in which group."""
    generator = torch.Generator().manual_seed(seed)
    group = [i % len(tastes) for i in range(raters)]
    rater = torch.arange(raters).repeat_interleave(each)
    differences = torch.randn(len(rater), tastes.shape[1], generator=generator)
    margins = (differences * tastes[torch.tensor(group)[rater]]).sum(1)
    flip = torch.rand(len(rater), generator=generator) > margins.sigmoid()
    differences = torch.where(flip[:, None], -differences, differences)
    one = torch.ones(len(rater))
    return Votes(differences, rater, one, 0 * one, one), group


def opposed(cosine: float, features: int = 8, strength: float = 2.0) -> Tensor:
    """Two tastes with this cosine, [2, H]."""
    first, second = torch.zeros(2, features)
    first[0] = 1.0
    second[0], second[1] = cosine, math.sqrt(1 - cosine**2)
    return strength * torch.stack([first, second])


# ── EM ───────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_responsibilities_are_those_of_bayes() -> None:
    """Two raters by hand: 0.5 * e^-1 against 0.5 * e^-2 and so on."""
    likelihoods = torch.tensor([[-1.0, -2.0], [-3.0, -0.5]])
    shares, evidence = responsibilities(likelihoods, torch.tensor([0.25, 0.75]).log())
    for row, (a, b) in enumerate([(-1.0, -2.0), (-3.0, -0.5)]):
        joint = [0.25 * math.exp(a), 0.75 * math.exp(b)]
        assert shares[row].tolist() == pytest.approx([x / sum(joint) for x in joint])
        assert float(evidence[row]) == pytest.approx(math.log(sum(joint)))


def test_two_opposed_groups_are_recovered_at_20_comparisons_a_rater() -> None:
    """Adjusted Rand on each of five seeds, of 60 raters whose tastes have a cosine of -0.6."""
    found = []
    for seed in range(5):
        votes, group = toy(opposed(-0.6), raters=60, each=20, seed=seed)
        mixture = em(votes, 60, 2, FAST, seed)
        found.append(adjusted_rand_score(group, mixture.responsibilities.argmax(1).tolist()))
    assert min(found) >= 0.9, found


def test_em_never_falls_and_ends_at_a_fixed_point() -> None:
    votes, _ = toy(opposed(-0.6), raters=20, each=10, seed=3)
    start = torch.full((20, 2), 0.5) + 0.1 * torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    reached = []
    for steps in (1, 2, 4, 8, 50):
        mixture = em_from(votes, start, FAST.model_copy(update={"steps": steps}))
        reached.append(mixture.objective)
    assert all(later >= earlier - 1e-3 for earlier, later in itertools.pairwise(reached)), reached
    again = em_from(votes, mixture.responsibilities, FAST, mixture.weights)
    torch.testing.assert_close(again.responsibilities, mixture.responsibilities, atol=0.02, rtol=0)


@pytest.mark.parametrize(("tastes", "expected"), [(opposed(-0.6), 2), (opposed(-0.6)[:1], 1)])
def test_the_number_of_groups_is_what_left_out_raters_show(tastes: Tensor, expected: int) -> None:
    votes, _ = toy(tastes, raters=30, each=20, seed=1)
    chosen, tried = choose(votes, 30, FAST)
    assert chosen == expected, tried
    assert [row["groups"] for row in tried] == [1, 2, 3]


def test_the_votes_of_some_raters_keep_their_own() -> None:
    votes, _ = toy(opposed(-1.0), raters=5, each=3, seed=0)
    some = votes.of(torch.tensor([4, 1]))
    assert some.rater.tolist() == [1, 1, 1, 0, 0, 0]
    torch.testing.assert_close(some.differences[:3], votes.differences[3:6])
    unnamed = votes._replace(rater=torch.where(votes.rater == 4, -1, votes.rater))
    assert unnamed.of(torch.tensor([4, 1])).rater.tolist() == [1, 1, 1]


# ── the whole method ─────────────────────────────────────────────────────────────────────────────────────────────────
def test_groups_of_raters_are_found_on_a_model(
    tiny_base: Path, start: Path, divided: list[Comparison], tmp_path: Path
) -> None:
    config = FAST.model_copy(update={"groups": 2})
    reward_mixture.run(config, tiny_base, start, divided, (), StageFolder(tmp_path, "reward_mixture"))
    found = json.loads((tmp_path / "responsibilities.json").read_text())
    truth = {row.rater: row.group for row in divided}
    likeliest = [max((0, 1), key=shares.__getitem__) for shares in found["raters"].values()]
    assert adjusted_rand_score([truth[rater] for rater in found["raters"]], likeliest) == 1
    assert sum(found["shares"]) == pytest.approx(1)
    small = [row for row in found["groups"] if row["raters"] == 3]
    assert [row["too_small"] for row in found["groups"]] == [False, True]
    assert "too small" in small[0]["statement"]
    model = GroupRewardModel.load(tiny_base, tmp_path)
    scores = model.scores(divided[0].prompt, divided[0].options)
    assert scores.shape == (2, 2)
    assert (scores[0, 0] > scores[0, 1]) != (scores[1, 0] > scores[1, 1])
    with pytest.raises(DataError, match="no group 'hidden-3'"):
        model.score("Why?", ("A.", "B."), "hidden-3")


@pytest.mark.slow
def test_resuming_is_exact(tiny_base: Path, start: Path, divided: list[Comparison], tmp_path: Path) -> None:
    """Responsibilities move with the training, and are part of its state."""
    rate = OptimiserConfig(learning_rate=3e-3)
    update = {"groups": 2, "epochs": 2, "optimiser": rate, "checkpoint_every_steps": 2, "batch_size": 32}
    config, events = FAST.model_copy(update=update), {}
    for name, stop in (("whole", None), ("killed", 5), ("killed", None)):
        (tmp_path / name).mkdir(exist_ok=True)
        events[name, stop], emit = recorder(stop)
        folder = StageFolder(tmp_path / name, "reward_mixture", emit)
        if stop is None:
            reward_mixture.run(config, tiny_base, start, divided, (), folder)
            continue
        with pytest.raises(Stopped):
            reward_mixture.run(config, tiny_base, start, divided, (), folder)
    assert events["killed", None][0]["resumed_at_step"] == 4
    whole, killed = (
        {p.name: p.read_bytes() for p in sorted((tmp_path / n).rglob("*")) if p.is_file()} for n in ("whole", "killed")
    )
    assert whole == killed
    assert "state.safetensors" not in whole


def test_likelihoods_follow_the_training() -> None:
    """After a step the rows that it read have new likelihoods, and their raters new responsibilities; by hand."""
    from steersman.lm.shared_prefix import Group
    from steersman.train.reward_model import Ranked

    rows = [Ranked(Group([1], [[2], [3]]), (1, 2), [], number=n, rater=r) for n, r in enumerate("aab")]
    mixture = Mixture(torch.zeros(2, 1), torch.tensor([0.5, 0.5]), torch.full((2, 2), 0.5), 0.0)
    running = RunningMixture(mixture, torch.full((3, 2), -math.log(2)), rows, ["a", "b"])
    outputs = torch.tensor([[1.0, -1.0], [0.0, 0.0]])
    nll = [math.log1p(math.exp(-1)), math.log1p(math.exp(1))]
    assert float(running.nll(outputs, pairs_of(rows[:1]), rows[:1])) == pytest.approx(sum(nll) / 2)
    running.after_step()
    first = [math.exp(-x) / 2 for x in nll]
    assert running.assigned[0].tolist() == pytest.approx([x / sum(first) for x in first])
    assert running.assigned[1].tolist() == [0.5, 0.5]


def test_raters_who_say_little_are_refused(
    tiny_base: Path, start: Path, divided: list[Comparison], tmp_path: Path
) -> None:
    rows = [row.model_copy(update={"rater": ""}) for row in divided]
    stage: dict[str, Any] = {"out": StageFolder(tmp_path, "reward_mixture")}
    with pytest.raises(DataError, match="0 raters have two comparisons or more"):
        reward_mixture.run(FAST, tiny_base, start, rows, (), **stage)
