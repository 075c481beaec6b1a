"""Hidden groups of raters, found by how they rate: a mixture of Bradley-Terry models by EM over raters.

    E   u_ik ~ pi_k prod over the pairs of rater i of sigmoid(r_k(better) - r_k(worse))
    M   r_k: Bradley-Terry with the pairs of rater i weighted by u_ik        pi_k: mean of u_ik

MaxMin-RLHF, Chakraborty et al. 2024 (arXiv:2402.08925), for raters whose group nobody recorded. What differs: one
trunk with K heads instead of K models; EM runs first on the frozen hidden states of the fine-tuned policy, with
restarts, where each M step is convex, and then goes on in steps while adapter and heads learn (incremental EM, Neal &
Hinton 1998); responsibilities are soft; and the number of groups is the smallest that predicts raters who were left out
as well as the best does. The likelihood of a rater who was left out is that of all answers of theirs together, so that
it rises only if people come in kinds, and not if the same people err at random.

Raters with one comparison say nothing about groups. People who answer carelessly, or the opposite of what they think,
form a group as well: gold questions tell them from people of another taste (`data/rater_model.py`). A rater's group is
no fact about a person: ``responsibilities.json`` says how sure the mixture is of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from steersman.errors import DataError
from steersman.functional import minimise, preference_nll, responsibilities
from steersman.lm.sampling import random_stream
from steersman.stats import mean_estimate
from steersman.store import StageFolder, write_json
from steersman.train import distributed
from steersman.train.reward_heads import (
    HeadsConfig,
    Objective,
    Pairs,
    Scale,
    hidden_states,
    open_trunk,
    pairs_of,
    save,
    train,
)
from steersman.train.reward_model import Ranked
from steersman.types import Comparison, Demonstration

VERSION = 1
RESPONSIBILITIES = "responsibilities.json"
M_STEPS = 8  # of L-BFGS in an M step, which goes on from the last one's weights
TOLERANCE = 1e-5  # nats per comparison, of the rise of the objective at which EM ends


class MixtureConfig(HeadsConfig):
    """Hidden groups of raters on one adapter."""

    groups: int | None = Field(default=None, ge=1, description="Number of hidden groups; null: chosen.")
    max_groups: int = Field(default=4, ge=1, description="Most groups that are tried.")
    folds: int = Field(default=3, ge=2, description="Parts of the raters, each left out once to choose the number.")
    starts: int = Field(default=8, ge=1, description="Starts of EM; the best one is kept.")
    steps: int = Field(default=50, ge=1, description="Most E and M steps of a start.")
    smallest_raters: int = Field(default=5, ge=2, description="Below so many raters nothing is said of a group.")


# ── votes ────────────────────────────────────────────────────────────────────────────────────────────────────────────
class Votes(NamedTuple):
    """Pairs with their raters, as columns [P].

    ``differences``: [P, H], features of the better answer less those of the worse; ``rater``: index from 0, -1 for an
    unnamed one; ``label``, ``margin``, ``weight``: as in `Pairs`.
    """

    differences: Tensor
    rater: Tensor
    label: Tensor
    margin: Tensor
    weight: Tensor

    def of(self, raters: Tensor) -> Votes:
        """The votes of some raters, renumbered in the order given."""
        largest = max(int(self.rater.max()), int(raters.max()))
        place = torch.full((largest + 2,), -1)  # the last one is that of -1
        place[raters] = torch.arange(len(raters))
        kept = (place[self.rater] >= 0).nonzero()[:, 0]
        return Votes(*(column[kept] for column in self))._replace(rater=place[self.rater[kept]])


def votes_of(scaled: Tensor, rows: Sequence[Ranked], raters: Sequence[str]) -> Votes:
    """The votes of rows whose answers have these features, [S, H]."""
    index, pairs = {name: i for i, name in enumerate(raters)}, pairs_of(rows)
    rater = torch.tensor([index.get(row.rater, -1) for row in rows])[pairs.row]
    return Votes(scaled[pairs.better] - scaled[pairs.worse], rater, pairs.label, pairs.margin, pairs.weight)


def log_likelihoods(votes: Votes, weights: Tensor) -> Tensor:
    """[P, K] weighted log-likelihood of each vote under each group's weights [K, H], in nats."""
    margins = votes.differences @ weights.T - votes.margin[:, None]
    return -preference_nll(margins, votes.label[:, None]) * votes.weight[:, None]


def by_rater(values: Tensor, rater: Tensor, raters: int) -> Tensor:
    """[R, K] sums of [P, K] by rater; unnamed ones are left out."""
    named = rater >= 0
    return values.new_zeros(raters, values.shape[1]).index_add(0, rater[named], values[named])


# ── EM on features ───────────────────────────────────────────────────────────────────────────────────────────────────
class Mixture(NamedTuple):
    """A fitted mixture of K groups.

    Attributes:
        weights: [K, H] of the groups' scores, the largest group first.
        shares: [K] of raters, pi.
        responsibilities: [R, K] P(group | answers of the rater).
        objective: log-likelihood of all raters less the penalty of the heads, in nats.
    """

    weights: Tensor
    shares: Tensor
    responsibilities: Tensor
    objective: float


def em(votes: Votes, raters: int, groups: int, config: MixtureConfig, seed: int) -> Mixture:
    """The best of some starts; raters are numbered from 0."""
    starts = config.starts if groups > 1 else 1
    found = [em_from(votes, _start(votes, raters, groups, seed, n), config) for n in range(starts)]
    return max(found, key=lambda mixture: mixture.objective)


def em_from(votes: Votes, assigned: Tensor, config: MixtureConfig, weights: Tensor | None = None) -> Mixture:
    """EM from responsibilities [R, K], and from weights [K, H] (0 unless given)."""
    raters, groups = assigned.shape
    weights = votes.differences.new_zeros(groups, votes.differences.shape[1]) if weights is None else weights
    before, total = -math.inf, float(votes.weight.sum())
    for _ in range(config.steps):
        shares = (assigned.sum(0) + 1) / (raters + groups)  # one rater more in each group: none dies out
        weights = _m_step(votes, assigned, shares, weights, config.precision)
        likelihoods = by_rater(log_likelihoods(votes, weights), votes.rater, raters)
        assigned, evidence = responsibilities(likelihoods, shares.log())
        reached = float(evidence.sum() - 0.5 * config.precision * weights.square().sum())
        if reached - before < TOLERANCE * total:
            break
        before = reached
    order = shares.argsort(descending=True)
    return Mixture(weights[order], shares[order], assigned[:, order], reached)


def _m_step(votes: Votes, assigned: Tensor, shares: Tensor, weights: Tensor, precision: float) -> Tensor:
    """[K, H]: weighted Bradley-Terry with a normal prior, from the last weights on."""
    of_votes = torch.where((votes.rater >= 0)[:, None], assigned[votes.rater], shares)  # [P, K]
    moved = weights.clone().requires_grad_()

    def loss() -> Tensor:
        nll = -(of_votes * log_likelihoods(votes, moved)).sum()
        return torch.add(nll, moved.square().sum(), alpha=0.5 * precision) / len(of_votes)

    minimise([moved], loss, M_STEPS)
    return moved


def _start(votes: Votes, raters: int, groups: int, seed: int, number: int) -> Tensor:
    """[R, K] responsibilities to start from: raters by the nearest of K of them, drawn far apart (k-means++).

    A rater's place is the sum of their differences, which is the gradient of their log-likelihood at 0.
    """
    generator = random_stream(seed, groups, number)
    sums = by_rater(votes.differences * votes.weight[:, None], votes.rater, raters)
    places = sums / sums.norm(dim=1, keepdim=True).clamp(min=1e-12)
    centres = [int(torch.randint(raters, (1,), generator=generator))]
    while len(centres) < groups:
        distances = torch.cdist(places, places[centres]).min(1).values.square() + 1e-12
        centres.append(int(torch.multinomial(distances, 1, generator=generator)))
    nearest = torch.cdist(places, places[centres]).argmin(1)
    hard = torch.nn.functional.one_hot(nearest, groups).to(sums)
    return 0.8 * hard + 0.2 / groups


# ── how many groups ──────────────────────────────────────────────────────────────────────────────────────────────────
def choose(votes: Votes, raters: int, config: MixtureConfig) -> tuple[int, list[dict[str, Any]]]:
    """The number of groups, and for each number tried what raters who were left out say of it.

    The smallest number whose log-likelihood of left-out raters is not shown to be below that of the best one: the
    bootstrap interval over raters of the difference holds 0.
    """
    order = torch.randperm(raters, generator=random_stream(config.seed, raters))
    folds = [order[fold :: config.folds] for fold in range(config.folds)]
    most = min(config.max_groups, min(raters - len(fold) for fold in folds) // 2)
    found = [_left_out(votes, raters, folds, groups, config) for groups in range(1, most + 1)]
    comparisons = float(votes.weight[votes.rater >= 0].sum())
    best = max(range(len(found)), key=lambda k: float(found[k].sum()))
    table, chosen = [], best
    for k in reversed(range(len(found))):
        difference = mean_estimate((found[best] - found[k]).tolist())
        if k < best and difference.low <= 0:
            chosen = k
        nll = -float(found[k].sum()) / comparisons
        table.append({"groups": k + 1, "nll_nats_per_comparison": nll, "behind_best_nats_per_rater": difference.json()})
    return chosen + 1, table[::-1]


def _left_out(votes: Votes, raters: int, folds: Sequence[Tensor], groups: int, config: MixtureConfig) -> Tensor:
    """[R] log-likelihood in nats of all answers of each rater, by the mixture fitted without their fold."""
    evidence = torch.zeros(raters)
    for fold in folds:
        kept = torch.tensor(sorted(set(range(raters)) - set(fold.tolist())))
        mixture = em(votes.of(kept), len(kept), groups, config, config.seed)
        left = votes.of(fold)
        likelihoods = by_rater(log_likelihoods(left, mixture.weights), left.rater, len(fold))
        evidence[fold] = responsibilities(likelihoods, mixture.shares.log())[1]
    return evidence


# ── EM in steps, while the trunk learns ──────────────────────────────────────────────────────────────────────────────
class RunningMixture:
    """Responsibilities that follow the training: each step renews the likelihoods of the rows that it reads.

    Args:
        start: of EM on the frozen trunk; rows: all that are trained on; raters: their names, in its order.
    """

    def __init__(self, start: Mixture, observed: Tensor, rows: Sequence[Ranked], raters: Sequence[str]) -> None:
        index = {name: i for i, name in enumerate(raters)}
        self.rater = torch.tensor([index.get(row.rater, -1) for row in rows])
        self.observed, self.shares, self.assigned = observed, start.shares, start.responsibilities
        self.pending: list[tuple[int, list[float]]] = []

    def nll(self, outputs: Tensor, pairs: Pairs, rows: Sequence[Ranked]) -> Tensor:
        """The losses of all groups in nats, weighted by the responsibilities as they stand; outputs: [S, K]."""
        margins = outputs[pairs.better] - outputs[pairs.worse] - pairs.margin[:, None]
        of_pairs = preference_nll(margins, pairs.label[:, None]) * pairs.weight[:, None]
        of_rows = of_pairs.new_zeros(len(rows), outputs.shape[1]).index_add(0, pairs.row, of_pairs)
        self.pending += list(zip([row.number for row in rows], (-of_rows.detach()).tolist(), strict=True))
        rater = self.rater[[row.number for row in rows]]
        share = torch.where((rater >= 0)[:, None], self.assigned[rater], self.shares)
        return (share.to(of_rows) * of_rows).sum()

    def after_step(self) -> None:
        """The E step with what the last optimiser step has read."""
        for number, likelihoods in distributed.gather(self.pending):
            self.observed[number] = torch.tensor(likelihoods)
        self.pending = []
        self._e_step()

    def _e_step(self) -> None:
        likelihoods = by_rater(self.observed, self.rater, len(self.assigned))
        self.assigned, _ = responsibilities(likelihoods, self.shares.log())
        self.shares = (self.assigned.sum(0) + 1) / (len(self.assigned) + self.assigned.shape[1])

    def state(self) -> dict[str, Any]:
        """The state of a checkpoint."""
        return {
            "observed": self.observed.tolist(),
            "shares": self.shares.tolist(),
            "assigned": self.assigned.tolist(),
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Restore `state`."""
        self.observed, self.shares, self.assigned = (
            torch.tensor(state[key]) for key in ("observed", "shares", "assigned")
        )


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def rater_names(rows: Sequence[Ranked]) -> list[str]:
    """The raters with two comparisons or more, sorted.

    Raises:
        DataError: fewer than four, of whom nothing about groups can be learnt.
    """
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.rater] = counts.get(row.rater, 0) + 1
    names = sorted(name for name, count in counts.items() if name and count > 1)
    if len(names) < 4:
        raise DataError(
            f"{len(names)} raters have two comparisons or more",
            expected="4 or more; hidden groups are found by how each rater rates",
            do="fill `rater`, and let each rater answer several questions",
        )
    return names


def run(
    config: MixtureConfig,
    base: Path,
    start: Path,
    comparisons: Sequence[Comparison],
    demonstrations: Sequence[Demonstration],
    out: StageFolder,
) -> None:
    """Find the groups and train from the adapter in ``start`` (a folder of `save_policy`); resumes from a checkpoint.

    Leaves ``adapter/``, ``head.safetensors``, ``reward_heads.json`` and ``responsibilities.json``;
    `lm.reward_heads.GroupRewardModel` loads it.

    Raises:
        DataError: nothing to train on, or too few raters. ModelError: ``start`` belongs to another base model.
        TrainingFailed: a loss or gradient that is not finite.
    """
    trunk = open_trunk(config, base, start, comparisons, out.stage)
    names = rater_names(trunk.rows)
    hidden = hidden_states(trunk, [row.group for row in trunk.rows], config.micro_batch_size)
    scale = Scale.of(hidden)
    votes = votes_of(scale.scaled(hidden), trunk.rows, names)
    groups, tried = (config.groups, []) if config.groups else choose(votes, len(names), config)
    mixture = em(votes, len(names), groups, config, config.seed)
    if config.epochs:
        running = RunningMixture(mixture, _by_row(votes, mixture.weights, trunk.rows), trunk.rows, names)
        goal = Objective(running.nll, lambda weights: 0.5 * config.precision * weights.square().sum(), running)
        train(config, trunk, scale.head(mixture.weights), scale, goal, out)
        hidden = hidden_states(trunk, [row.group for row in trunk.rows], config.micro_batch_size)
        scale = Scale.of(hidden)
        votes = votes_of(scale.scaled(hidden), trunk.rows, names)
        mixture = em_from(votes, running.assigned, config)
    scores = scale.scaled(hidden) @ mixture.weights.T
    labels = [f"hidden-{k + 1}" for k in range(groups)]
    about = {"kind": "mixture", "groups": labels, "deviation": scores.std(0).tolist()}
    save(config, trunk, scale.head(mixture.weights), demonstrations, about, out)
    if distributed.rank() == 0:
        write_json(out.file(RESPONSIBILITIES), _found(config, mixture, names, labels, tried))
    distributed.barrier()


def _by_row(votes: Votes, weights: Tensor, rows: Sequence[Ranked]) -> Tensor:
    """[rows, K] log-likelihood of each row under each group."""
    values = log_likelihoods(votes, weights)
    return values.new_zeros(len(rows), len(weights)).index_add(0, pairs_of(rows).row, values)


def _found(
    config: MixtureConfig,
    mixture: Mixture,
    names: Sequence[str],
    labels: Sequence[str],
    tried: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """The groups, how sure the mixture is of each rater, and a sentence on each group."""
    likeliest, sizes = mixture.responsibilities.max(1), []
    for k, label in enumerate(labels):
        own = likeliest.values[likeliest.indices == k]
        raters, sure = len(own), float(own.mean()) if len(own) else math.nan
        small = raters < config.smallest_raters
        verdict = (
            f"too small (fewer than {config.smallest_raters} raters) to say anything of it"
            if small
            else (f"membership is {100 * sure:.0f} % sure on average")
        )
        sentence = f"{label}: {raters} of {len(names)} raters; {verdict}."
        sizes.append({"group": label, "raters": raters, "sure": sure, "too_small": small, "statement": sentence})
    return {
        "groups": sizes,
        "shares": mixture.shares.tolist(),
        "tried": list(tried),
        "raters": dict(zip(names, mixture.responsibilities.tolist(), strict=True)),
    }
