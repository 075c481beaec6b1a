"""A reward model that learns a distribution of utility for every answer, so that it knows where raters disagree.

    mean_variance    p(i > j) = Phi((m_i - m_j) / sqrt(v_i + v_j))
    categorical      p(i > j) = sum_a p_i(a) (sum_{b < a} p_j(b) + p_j(a) / 2),  10 atoms on [0, 1]

Siththaranjan et al. 2023, "Distributional preference learning" (arXiv:2312.08358). One score learnt from raters who
differ is their Borda count, whatever they differ in; a distribution also says how much, and a low quantile of it is a
score that no large part of the raters abhors. r^2 = Var(m) / (Var(m) + E[v]) is the share of utility's variance that
the answers explain; the rest is hidden context.

What differs from the released code: Phi itself instead of a logistic curve in its place (`mean_variance_nll`); LoRA on
the fine-tuned policy; the head is fitted on frozen states first and penalised. Utilities of a mean-variance model have
no unit, since means and deviations can grow together: the deviation of an average answer is fixed so that v_i + v_j =
1. The entropy of the batch's mean distribution is rewarded by 0.1 as in the released runs, so that a categorical model
spreads over its atoms; it is taken by micro-batch. Margins of comparisons are not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from steersman.functional import entropy_of_mean
from steersman.lm.distributional_reward import (
    DistributionalRewardModel,
    Kind,
    explained,
    pair_nll,
    utilities,
)
from steersman.store import StageFolder, write_json
from steersman.train import distributed
from steersman.train.reward_heads import (
    HeadsConfig,
    Objective,
    Pairs,
    Scale,
    fit_head,
    hidden_states,
    open_trunk,
    save,
    train,
)
from steersman.train.reward_model import Ranked
from steersman.types import Comparison, Demonstration, plain_text

VERSION = 1
CARD = "disagreement.json"
DISPUTED = 20  # pairs that the card names


class DistributionalConfig(HeadsConfig):
    """A distribution of utility per answer on one adapter."""

    kind: Kind = Field(default="mean_variance", description="Normal utilities, or probabilities of atoms on [0, 1].")
    atoms: int = Field(default=10, ge=2, description="Atoms of a categorical model.")
    entropy_coefficient: float = Field(
        default=0.1, ge=0, description="Weight in nats of the entropy of a batch's mean distribution (categorical)."
    )
    risk_quantile: float | None = Field(
        default=None, gt=0, lt=1, description="The score is this low quantile of utility; null: its mean."
    )

    @property
    def outputs(self) -> int:
        """Of the head."""
        return self.atoms if self.kind == "categorical" else 2


# ── the loss ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def distributional_nll(outputs: Tensor, pairs: Pairs, kind: Kind) -> Tensor:
    """The weighted sum over pairs of -log P(better is preferred) in nats; outputs: [S, D]."""
    both = torch.stack([outputs[pairs.better], outputs[pairs.worse]], 1)
    return pair_nll(both, kind, pairs.label) @ pairs.weight


def objective(config: DistributionalConfig) -> Objective:
    """Of a head with the outputs of the kind."""

    def nll(outputs: Tensor, pairs: Pairs, rows: Sequence[Ranked]) -> Tensor:
        loss = distributional_nll(outputs, pairs, config.kind)
        if config.kind == "mean_variance":
            return loss
        return loss - config.entropy_coefficient * pairs.weight.sum() * entropy_of_mean(outputs)

    return Objective(nll, lambda weights: 0.5 * config.precision * weights.square().sum())


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def run(
    config: DistributionalConfig,
    base: Path,
    start: Path,
    comparisons: Sequence[Comparison],
    demonstrations: Sequence[Demonstration],
    out: StageFolder,
) -> None:
    """Train from the adapter in ``start`` (a folder of `save_policy`); resumes from its checkpoint.

    Leaves ``adapter/``, ``head.safetensors``, ``reward_heads.json`` and ``disagreement.json``: r^2, and the pairs on
    which raters are said to differ most.

    Raises:
        DataError: nothing to train on. ModelError: ``start`` belongs to another base model.
        TrainingFailed: a loss or gradient that is not finite.
    """
    trunk, goal = open_trunk(config, base, start, comparisons, out.stage), objective(config)
    answers = [row.group for row in trunk.rows]
    hidden = hidden_states(trunk, answers, config.micro_batch_size)
    scale = Scale.of(hidden)
    weights = fit_head(scale.scaled(hidden), trunk.rows, goal, torch.zeros(config.outputs, hidden.shape[1]))
    if config.epochs:
        head = scale.head(weights)
        train(config, trunk, head, scale, goal, out)
        hidden = hidden_states(trunk, answers, config.micro_batch_size)
        scale = Scale.of(hidden)
        weights = fit_head(scale.scaled(hidden), trunk.rows, goal, scale.weights(head.weight.detach().cpu()))
    outputs = scale.scaled(hidden) @ weights.T
    found = utilities(outputs, config.kind)
    r2 = explained(found.mean, found.variance)
    about = {"kind": config.kind, "risk_quantile": config.risk_quantile, "explained_variance": r2}
    save(config, trunk, scale.head(weights), demonstrations, about, out)
    if distributed.rank() == 0:
        model = DistributionalRewardModel.load(base, out.path, (trunk.model, trunk.policy))
        kept = [row for row in comparisons if row.pairs() or row.soft_label == 0.5]
        write_json(out.file(CARD), {"explained_variance": r2, "disputed": disputed(model, kept)})
    distributed.barrier()


def disputed(
    model: DistributionalRewardModel, rows: Sequence[Comparison], most: int = DISPUTED
) -> list[dict[str, Any]]:
    """The questions on which raters are said to differ most: prompt, answers, and the model's `disagreement`."""
    questions = list({(row.prompt, frozenset(row.options)): (row.prompt, row.options) for row in rows}.values())
    found = sorted(zip(model.disagreements(questions), questions, strict=True), key=lambda pair: -pair[0])
    return [
        {"prompt": plain_text(prompt), "options": list(options), "disagreement": value}
        for value, (prompt, options) in found[:most]
    ]
