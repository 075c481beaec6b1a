"""A reward model with a score for each recorded group of raters, on one trunk: small groups borrow from all.

    r_g(x, y) = (w + d_g) . h(last token of y)        w ~ N(0, 1 / precision)    d_g ~ N(0, 1 / shrinkage)

Multi-annotator models have a head for each rater or group on a shared encoder (Davani et al. 2022, TACL 10; jury
learning, Gordon et al. 2022, arXiv:2202.02950). Heads that know nothing of one another starve where a group has rated
little; here a group's head is everyone's plus a deviation that is shrunk towards 0, a hierarchical (random-effects)
Bradley-Terry model. Without shrinkage it is a head per group, with infinite shrinkage the pooled model; how much is
chosen on raters who are left out, so that groups whose raters do not agree among themselves stay with everyone.
Comparisons without a group teach w alone.

`lm.reward_heads.GroupRewardModel` gives the scores, [groups, answers]; the first group is everyone. ``groups.json``
says of every group how many raters and comparisons are behind it, how accurate its score is on comparisons that were
held out, whether it is more accurate than everyone's, and of a group that is too small that it is.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from steersman.errors import DataError
from steersman.functional import preference_nll
from steersman.lm.reward_heads import EVERYONE, GroupRewardModel
from steersman.lm.sampling import random_stream
from steersman.stats import Estimate, clustered_mean
from steersman.store import StageFolder, write_json
from steersman.train import distributed
from steersman.train.reward_heads import (
    HeadsConfig,
    Objective,
    Pairs,
    Scale,
    Trunk,
    fit_head,
    hidden_states,
    open_trunk,
    pairs_of,
    save,
    train,
)
from steersman.train.reward_model import Ranked
from steersman.types import Comparison, Demonstration

VERSION = 1
CARD = "groups.json"
SHRINKAGES = (1024.0, 256.0, 64.0, 16.0, 4.0, 1.0)  # that are tried
FOLDS = 3  # parts of the raters, each left out once


class GroupRewardConfig(HeadsConfig):
    """A score per recorded group of raters on one adapter."""

    shrinkage: float | None = Field(
        default=None,
        ge=0,
        description="Inverse variance of a group's deviation from everyone's score, per nat squared; null: chosen.",
    )
    smallest_raters: int = Field(default=5, ge=2, description="Below so many raters nothing is said of a group.")
    smallest_comparisons: int = Field(
        default=50, ge=1, description="Below so many held-out comparisons nothing is said of a group's accuracy."
    )


# ── the loss ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def group_nll(outputs: Tensor, pairs: Pairs, group: Tensor) -> Tensor:
    """The weighted sum of Bradley-Terry losses in nats, each pair scored by its rater's group.

    Args:
        outputs: [S, 1 + G]: everyone's score, and each group's deviation from it; group: [R] of each row, from 0, or
            -1 for a rater without one, whose score is everyone's.
    """
    deviations = torch.cat([torch.zeros_like(outputs[:, :1]), outputs[:, 1:]], 1)
    own = (group[pairs.row] + 1)[:, None]
    scores = [outputs[at, 0] + deviations[at].gather(1, own)[:, 0] for at in (pairs.better, pairs.worse)]
    return preference_nll(scores[0] - scores[1] - pairs.margin, pairs.label) @ pairs.weight


def group_penalty(weights: Tensor, precision: float, shrinkage: float) -> Tensor:
    """The negative log-prior in nats of scaled weights [1 + G, H]: everyone's, and the deviations."""
    return 0.5 * (precision * weights[0].square().sum() + shrinkage * weights[1:].square().sum())


def objective(groups: Sequence[str], precision: float, shrinkage: float) -> Objective:
    """Of a head with everyone's output and one for each group."""
    index = {name: i for i, name in enumerate(groups)}

    def nll(outputs: Tensor, pairs: Pairs, rows: Sequence[Ranked]) -> Tensor:
        own = torch.tensor([index.get(row.of, -1) for row in rows], device=outputs.device)
        return group_nll(outputs, pairs, own)

    return Objective(nll, lambda weights: group_penalty(weights, precision, shrinkage))


def summed(weights: Tensor) -> Tensor:
    """[1 + G, H] weights of the groups' scores, everyone's first, of those of everyone's score and the deviations."""
    return torch.cat([weights[:1], weights[:1] + weights[1:]])


# ── how much groups borrow ───────────────────────────────────────────────────────────────────────────────────────────
def choose_shrinkage(
    scaled: Tensor, rows: Sequence[Ranked], groups: Sequence[str], precision: float, seed: int
) -> tuple[float, list[dict[str, float]]]:
    """The shrinkage that predicts raters who were left out best, and what each one tried costs there.

    Raters of a group need not agree with one another: where they do not, their group says nothing, and the largest
    shrinkage, nearly the pooled model, wins. A row without a rater is a rater of its own.

    Args:
        scaled: [S, H], `Scale.scaled` hidden states of all answers of the rows.
    """
    names = [row.rater or f"row {i}" for i, row in enumerate(rows)]
    people = {name: i for i, name in enumerate(sorted(set(names)))}
    fold = torch.randperm(len(people), generator=random_stream(seed, len(people))) % FOLDS
    of_rows = fold[torch.tensor([people[name] for name in names])]
    of_answers = of_rows.repeat_interleave(torch.tensor([len(row.ranks) for row in rows]))
    costs = dict.fromkeys(SHRINKAGES, 0.0)
    for part in range(FOLDS):
        inside = [row for row, own in zip(rows, of_rows.tolist(), strict=True) if own != part]
        outside = [row for row, own in zip(rows, of_rows.tolist(), strict=True) if own == part]
        weights = torch.zeros(1 + len(groups), scaled.shape[1])
        for shrinkage in SHRINKAGES:  # from the largest on: each fit starts from the last one
            goal = objective(groups, precision, shrinkage)
            weights = fit_head(scaled[of_answers != part], inside, goal, weights)
            if outside:
                left = scaled[of_answers == part] @ weights.T
                costs[shrinkage] += float(goal.nll(left, pairs_of(outside), outside))
    weight = sum(row.weight for row in rows)
    tried = [{"shrinkage": value, "nll_nats_per_comparison": cost / weight} for value, cost in costs.items()]
    return min(costs, key=costs.__getitem__), tried


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def group_names(rows: Sequence[Comparison]) -> list[str]:
    """The recorded groups, sorted.

    Raises:
        DataError: fewer than two, or one with the name that is everyone's.
    """
    names = sorted({row.group for row in rows} - {""})
    if len(names) < 2:
        raise DataError(
            f"the comparisons name {len(names)} group{'s' * (len(names) != 1)} of raters",
            expected="`group` filled for two or more",
            do="record the groups, or look for hidden ones (reward_mixture)",
        )
    if EVERYONE in names:
        raise DataError(f"a group is called {EVERYONE!r}, the name of all raters together", do="rename it")
    return names


def run(
    config: GroupRewardConfig,
    base: Path,
    start: Path,
    comparisons: Sequence[Comparison],
    held_out: Sequence[Comparison],
    demonstrations: Sequence[Demonstration],
    out: StageFolder,
) -> None:
    """Train from the adapter in ``start`` (a folder of `save_policy`); resumes from its checkpoint.

    Leaves ``adapter/``, ``head.safetensors``, ``reward_heads.json`` and the card, ``groups.json``.

    Args:
        held_out: the groups' accuracy is measured on them; demonstrations: their mean score becomes 0.

    Raises:
        DataError: nothing to train on, or no groups. ModelError: ``start`` belongs to another base model.
        TrainingFailed: a loss or gradient that is not finite.
    """
    names = group_names([row for row in comparisons if row.pairs() or row.soft_label == 0.5])
    trunk = open_trunk(config, base, start, comparisons, out.stage)
    answers = [row.group for row in trunk.rows]
    hidden = hidden_states(trunk, answers, config.micro_batch_size)
    scale, shrinkage, tried = Scale.of(hidden), config.shrinkage, list[dict[str, float]]()
    if shrinkage is None:
        shrinkage, tried = choose_shrinkage(scale.scaled(hidden), trunk.rows, names, config.precision, config.seed)
    goal = objective(names, config.precision, shrinkage)
    weights = fit_head(scale.scaled(hidden), trunk.rows, goal, torch.zeros(1 + len(names), hidden.shape[1]))
    if config.epochs:
        train(config, trunk, scale.head(weights), scale, goal, out)
        hidden = hidden_states(trunk, answers, config.micro_batch_size)
        scale = Scale.of(hidden)
        weights = fit_head(scale.scaled(hidden), trunk.rows, goal, torch.zeros_like(weights))
    scores = scale.scaled(hidden) @ summed(weights).T
    distances = weights[1:].norm(dim=1) / weights[0].norm().clamp(min=1e-12)
    about = {
        "kind": "groups",
        "groups": [EVERYONE, *names],
        "deviation": scores.std(0).tolist(),
        "shrinkage": shrinkage,
        "shrinkages_tried": tried,
        "distance_from_everyone": dict(zip(names, distances.tolist(), strict=True)),
    }
    save(config, trunk, scale.head(summed(weights)), demonstrations, about, out)
    _write_card(config, trunk, base, comparisons, held_out, out)


def _write_card(
    config: GroupRewardConfig,
    trunk: Trunk,
    base: Path,
    comparisons: Sequence[Comparison],
    held_out: Sequence[Comparison],
    out: StageFolder,
) -> None:
    if distributed.rank() == 0:
        model = GroupRewardModel.load(base, out.path, (trunk.model, trunk.policy))
        write_json(out.file(CARD), card(config, model, comparisons, held_out))
    distributed.barrier()


# ── the card ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def card(
    config: GroupRewardConfig, model: GroupRewardModel, trained_on: Sequence[Comparison], held_out: Sequence[Comparison]
) -> list[dict[str, Any]]:
    """A row for each group: what it was trained on, its accuracy on held-out comparisons, and one sentence.

    Accuracies are shares of ordered pairs with the interval of raters and prompts as clusters; ``gain`` is that of the
    group's own score less that of everyone's on the same comparisons.
    """
    return [_of_group(config, model, name, trained_on, held_out) for name in model.groups if name != EVERYONE]


def _of_group(
    config: GroupRewardConfig,
    model: GroupRewardModel,
    name: str,
    trained_on: Sequence[Comparison],
    held_out: Sequence[Comparison],
) -> dict[str, Any]:
    trained = [row for row in trained_on if row.group == name and row.pairs()]
    measured = [row for row in held_out if row.group == name and row.pairs()]
    right: dict[str, list[float]] = {EVERYONE: [], name: []}
    for row, scores in zip(measured, model.scores_to([(row.prompt, row.options) for row in measured]), strict=True):
        for who, found in right.items():
            found.append(_share_right(scores[model.groups.index(who)].tolist(), row))
    raters_of = [row.rater or str(i) for i, row in enumerate(measured)]
    clusters: tuple[Sequence[Hashable], ...] = (raters_of, [row.prompt for row in measured])
    own, everyone = (clustered_mean(right[who], *clusters, rate=True).estimate for who in (name, EVERYONE))
    differences = [a - b for a, b in zip(right[name], right[EVERYONE], strict=True)]
    gain = clustered_mean(differences, *clusters).estimate
    raters = len({row.rater for row in trained} - {""})
    counts = {"raters": raters, "comparisons": len(trained), "held_out_comparisons": len(measured)}
    too_small = raters < config.smallest_raters or len(measured) < config.smallest_comparisons
    return {
        "group": name,
        **counts,
        "too_small": too_small,
        "accuracy": own.json(),
        "accuracy_of_everyone": everyone.json(),
        "gain": gain.json(),
        "statement": _statement(config, name, counts, own, everyone, gain),
    }


def _share_right(scores: Sequence[float], row: Comparison) -> float:
    """The share of a row's ordered pairs that scores put in the right order; equal scores are half right."""
    of = dict(zip(row.options, scores, strict=True))
    pairs = row.pairs()
    return sum((of[p.better] > of[p.worse]) + (of[p.better] == of[p.worse]) / 2 for p in pairs) / len(pairs)


def _statement(
    config: GroupRewardConfig, name: str, counts: dict[str, int], own: Estimate, everyone: Estimate, gain: Estimate
) -> str:
    raters, comparisons, measured = counts.values()
    who = f"{raters} rater{'s' * (raters != 1)} and {comparisons} comparisons of {name}"
    if raters < config.smallest_raters:
        named = "no rater is named" if raters == 0 else f"fewer than {config.smallest_raters} raters"
        return f"{who}: too small ({named}) to say anything of this group; its score is drawn to everyone's."
    if measured < config.smallest_comparisons:
        return f"{who}: only {measured} held-out comparisons, too few to say how well its score predicts it."
    verdict = (
        "better than everyone's score" if gain.low > 0 else
        "worse than everyone's score" if gain.high < 0 else
        "no difference from everyone's score was shown"
    )  # fmt: skip
    return f"{who}: its own score is right in {own.percent()}, everyone's in {100 * everyone.value:.0f} %: {verdict}."
