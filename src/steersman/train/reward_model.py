"""Training a reward model, a score for an answer, from comparisons: step 2 of InstructGPT (Ouyang et al. 2022,
arXiv:2203.02155). `lm/reward_model.py` loads the result and scores with it.

    loss = mean over pairs of -log sigmoid(r(better) - r(worse))      r = w . h(last token) + b

h is the hidden state of the answer's last token, its terminator. All pairs of one prompt are one element: its answers
share a row, so the prompt is read once and no answer is passed over K - 1 times. Afterwards the scores are shifted so
that demonstrations average 0; a difference of two scores stays the log-odds that the first answer is preferred.

What differs from the paper: LoRA on the fine-tuned policy instead of all weights; optionally
- an **ensemble** of members with their own adapter, head and order of batches: mean, worst case, or mean minus variance
  (Coste et al. 2023, arXiv:2310.02743), or one model with the mean of their weights (WARM, Ramé et al. 2024,
  arXiv:2401.12187), which costs no more than one member;
- **style control**: length, lists, emoji, exclamation, flattery and agreement first explain what they can of the
  comparisons, with one weight each; the model learns the rest, which alone is the score. It is Clark et al.'s product
  of experts (2019, arXiv:1909.03683) with ODIN's purpose (Chen et al. 2024, arXiv:2402.07319); ODIN's own second head,
  tied to the features by correlation alone, learnt content as well where we knew the truth.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from steersman.data import answer_style as style
from steersman.data import rater_model
from steersman.data.by_principle import of_principles, with_principles
from steersman.data.rater_model import RankedVote, RaterModel
from steersman.errors import DataError, ModelError
from steersman.functional import minimise, preference_nll, ranking_nll
from steersman.lm import pretrained
from steersman.lm.adapters import ADAPTER, activate, load_adapter, save_policy, trainable
from steersman.lm.chat_format import ChatFormat, chat_format
from steersman.lm.frozen_trunk import FrozenStatesCache, FrozenTrunk
from steersman.lm.reward_model import ABOUT, HEAD, RewardModel, fitted, scalar
from steersman.lm.sampling import random_stream
from steersman.lm.shared_prefix import Group, compute_frozen_states, shared_prefix_batch, shared_prefix_hidden
from steersman.store import StageFolder, write_json
from steersman.terminal import Progress
from steersman.train import distributed, loop
from steersman.types import Comparison, Demonstration, Record, Seed, Slug, transport

VERSION = 3
RIDGE = 1e-3  # L2 penalty on the weights of style features
RATERS = "raters.json"


class RewardConfig(Record):
    """A reward model on the adapters of the fine-tuned policy, or an ensemble of them trained one after another."""

    members: int = Field(default=1, ge=1, description="Reward models in the ensemble; 1 is a single model.")
    combine: Literal["mean", "worst", "mean_minus_variance", "weights"] = Field(
        default="mean", description="How members score together; `weights` is one model with their mean weights."
    )
    center_rewards_coefficient: float = Field(default=0.01, ge=0, description="Coefficient of the mean squared score.")
    style_control: bool = Field(default=False, description="Leave what style features explain out of the score.")
    rater_reliability: bool = Field(default=False, description="Learn a reliability and a position bias per rater.")
    by_principle: bool = Field(default=False, description="Also learn rankings by one principle, given its text.")
    contrasts: float = Field(
        default=0.5, ge=0, description="Ties added with an unrelated principle, per row by one principle."
    )
    optimiser: loop.OptimiserConfig = Field(
        default=loop.OptimiserConfig(learning_rate=1e-4), description="AdamW and its schedule."
    )
    epochs: int = Field(default=1, ge=1, description="Passes over the comparisons.")
    trunk_cache_mb: int = Field(default=1024, ge=0, description="MB of memory for kept activations of frozen layers.")
    batch_size: int = Field(default=16, ge=1, description="Prompts in an optimiser step.")
    micro_batch_size: int = Field(default=8, ge=1, description="Prompts in one pass; affects speed and memory.")
    max_length: int = Field(default=512, ge=16, description="Tokens of a prompt with its longest answer.")
    truncation: loop.Truncation = Field(default="truncate", description=loop.TRUNCATION)
    checkpoint_every_steps: int = transport(20, ge=1, description="Optimiser steps between checkpoints.")
    seed: Seed = Field(default=0, description="Seed of the heads and of the order of batches.")

    def rows(self, comparisons: Sequence[Comparison], texts: Mapping[str, str]) -> list[Comparison]:
        """The rows to train on.

        Args:
            texts: of the principles, by id.
        """
        rows = list(comparisons)
        return with_principles(rows, texts, self.contrasts, self.seed) if self.by_principle else rows


class CostConfig(RewardConfig):
    """A reward model of a few principles alone, for a constraint of reinforcement learning."""

    principles: tuple[Slug, ...] = Field(min_length=1, description="Principles whose comparisons it learns.")

    def rows(self, comparisons: Sequence[Comparison], texts: Mapping[str, str]) -> list[Comparison]:
        """The comparisons by these principles; see `RewardConfig.rows`."""
        return super().rows(of_principles(comparisons, self.principles), texts)


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
class Ranked(NamedTuple):
    """A prompt's tokenised answers, their ranks (1 is best, equal ranks are ties) and their style features.

    ``certainty``: of two answers, the probability that the better one is better; ``margin``: by how much, in nats;
    ``number``: index of the row; ``places``: positions at which the rater was shown the answers; ``of``: the group of
    the rater.
    """

    group: Group
    ranks: tuple[int, ...]
    style: list[Sequence[float]]
    weight: float = 1.0
    certainty: float = 1.0
    margin: float = 0.0
    number: int = 0
    rater: str = ""
    places: Sequence[float] = (0.0, 0.0)
    of: str = ""


def ranked(rows: Sequence[Comparison], chat: ChatFormat, config: RewardConfig) -> tuple[list[Ranked], int]:
    """Comparisons that order at least two answers, or say that two are equally likely to be better; how many are too
    long (cut, or left out by ``truncation``).

    A ranking with nothing but ties is left out.

    Raises:
        DataError: no such comparison.
    """
    ordered = [row for row in rows if row.pairs() or row.soft_label == 0.5]
    if not ordered:
        raise DataError("no comparisons that order two answers", do="add rows to comparisons.jsonl")
    tokenised = [(row, *fitted(row.prompt, row.options, chat, config.max_length)) for row in ordered]
    kept = [(row, group) for row, group, too_long in tokenised if not too_long or config.truncation == "truncate"]
    found = [
        Ranked(
            group,
            row.ranks(),
            [style.features(option) for option in row.options],
            row.weight,
            row.certainty,
            row.margin or 0.0,
            number,
            row.rater,
            rater_model.places(row),
            row.group,
        )
        for number, (row, group) in enumerate(kept)
    ]
    return found, sum(too_long for *_, too_long in tokenised)


# ── losses ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def row_losses(scores: Tensor, ranks: Tensor, certainties: Tensor, margins: Tensor) -> Tensor:
    """[R]: of two answers the pair's loss with certainty and margin, of more the mean over all pairs of the ranking.

    Args:
        scores: [R, A], padded; ranks: [R, A], 0 where a row has fewer answers; certainties, margins: [R].
    """
    sign = torch.where(ranks[:, 0] < ranks[:, 1], 1, -1)
    two_answers = preference_nll(sign * (scores[:, 0] - scores[:, 1]) - margins, certainties)
    return torch.where((ranks > 0).sum(1) == 2, two_answers, ranking_nll(scores, ranks))


def count_correct(scores: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of [R, A] ranked answers that the scores put in the right order, and all pairs."""
    better = (ranks[:, :, None] < ranks[:, None, :]) & (ranks > 0)[:, :, None]
    return (better & (scores[:, :, None] > scores[:, None, :])).sum(), better.sum()


def style_weights(rows: Sequence[Ranked]) -> Tensor:
    """How much each style feature explains of the comparisons by itself, [F] nats per unit.

    A logistic regression on the differences of the features within the pairs, with an L2 penalty (`RIDGE`).
    """
    pairs = [
        (above, below, row.weight, row.certainty)
        for row in rows
        for (rank, above), (other, below) in itertools.permutations(zip(row.ranks, row.style, strict=True), 2)
        if rank < other
    ]
    better, worse = (torch.tensor([pair[side] for pair in pairs], dtype=torch.float64) for side in (0, 1))
    weight, certainty = torch.tensor([pair[2:] for pair in pairs], dtype=torch.float64).T
    weights = torch.zeros(better.shape[1], dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        nll = preference_nll((better - worse) @ weights, certainty) @ weight / weight.sum()
        return torch.add(nll, weights.square().sum(), alpha=RIDGE)

    minimise([weights], loss)
    return weights


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def new_head(hidden: int, seed: int) -> nn.Linear:
    """One output, weights of standard deviation 1 / sqrt(hidden + 1) and bias 0, as in InstructGPT."""
    head = nn.Linear(hidden, 1)
    with torch.no_grad():
        head.weight.copy_(torch.randn(1, hidden, generator=random_stream(seed, hidden)) / math.sqrt(hidden + 1))
        head.bias.zero_()
    return head


def run(
    config: RewardConfig,
    base: Path,
    start: Path,
    comparisons: Sequence[Comparison],
    demonstrations: Sequence[Demonstration],
    out: StageFolder,
) -> None:
    """Train every member from the adapter in ``start`` (a folder of `save_policy`); resumes from its checkpoints.

    Leaves ``member-N/adapter/``, ``member-N/head.safetensors`` and ``reward_model.json`` with the centre of the scores.

    Args:
        demonstrations: their mean score becomes 0.

    Raises:
        DataError: nothing to train on. ModelError: ``start`` belongs to another base model.
        TrainingFailed: a loss or gradient that is not finite.
    """
    torch.manual_seed(config.seed)
    tokenizer, model = pretrained.load_tokenizer(base), pretrained.load_model(base)
    if not (start / ADAPTER).exists():
        raise ModelError("a reward model starts from an adapter", where=str(start), do="train with sft.method: lora")
    model.requires_grad_(False)
    chat, pad_id = chat_format(tokenizer, model.generation_config), tokenizer.pad_token_id or 0
    rows, too_long = ranked(comparisons, chat, config)
    fates = loop.say_too_long(out.stage, too_long, len(rows), config.truncation)
    # The same batches in every epoch, in another order: their activations in the frozen layers are computed once.
    plan = loop.plan_batches([row.group.tokens for row in rows], config.batch_size, 1, config.seed)
    batches = [[rows[i] for i in step] for step in plan]
    explained = style_weights(rows) if config.style_control else torch.zeros(len(style.FEATURES))
    prior = rater_model.prior_reliability(comparisons) if config.rater_reliability else {}
    policy: Any = None
    states: FrozenStatesCache | None = None
    for member in range(config.members):
        folder, name = out.path / f"member-{member}", f"member-{member}"
        policy = load_adapter(model if policy is None else policy, base, start / ADAPTER, name)
        activate(policy, name)
        states = states or FrozenStatesCache(FrozenTrunk.below(model, policy, name), config.trunk_cache_mb)
        if (folder / HEAD).exists():  # finished before a kill
            continue
        rater_fit = RaterModel([RankedVote(r.rater, r.ranks, r.places, r.weight, r.certainty) for r in rows], prior)
        trainer = RewardTrainer.prepare(config, member, model, policy, states, explained, pad_id, rater_fit)
        _train(trainer, member, batches, fates, folder, out)
        if distributed.rank() == 0:
            save_policy(policy, folder, tokenizer, pretrained.digest(base), name)
            if config.rater_reliability:
                write_json(folder / RATERS, {name: params._asdict() for name, params in rater_fit.raters.items()})
            save_file({key: value.detach() for key, value in trainer.head.state_dict().items()}, folder / HEAD)
            loop.drop_checkpoint(folder)
        distributed.barrier()
    if distributed.rank() == 0:
        about: dict[str, Any] = {"combine": config.combine, "max_length": config.max_length, "members": config.members}
        about["style_nats"] = dict(zip(style.FEATURES, explained.tolist(), strict=True))
        write_json(out.file(ABOUT), about | {"centre": [0.0] * (1 if config.combine == "weights" else config.members)})
        centre = RewardModel.load(base, out.path, onto=(model, policy)).mean_scores(demonstrations)
        write_json(out.file(ABOUT), about | {"centre": centre})


def _train(
    trainer: RewardTrainer,
    member: int,
    batches: Sequence[Sequence[Ranked]],
    fates: Mapping[str, int],
    folder: Path,
    out: StageFolder,
) -> None:
    """All optimiser steps of one member; ``fates`` are the counts of rows that were too long."""
    config, total = trainer.config, len(batches) * trainer.config.epochs
    order = [
        int(i)
        for epoch in range(config.epochs)
        for i in torch.randperm(len(batches), generator=random_stream(config.seed, member, epoch))
    ]
    folder.mkdir(exist_ok=True)
    state = loop.load_checkpoint(folder, trainer.parameters, trainer.optimiser) or {"step": 0}
    if state["step"]:
        trainer.raters.resume(state["raters"])
    distributed.barrier()
    setup = {"comparisons": sum(map(len, batches)), **fates, "steps": total, "resumed_at_step": state["step"]}
    out.emit(
        event="setup", member=member, trainable_parameters=sum(p.numel() for p in trainer.parameters.values()), **setup
    )
    with Progress(f"reward model {member}", total, done=state["step"]) as progress:
        for step in range(state["step"], total):
            rate = loop.learning_rate_at(step, total, config.optimiser)
            measured = trainer.step(order[step], batches[order[step]], rate)
            if (step + 1) % rater_model.FIT_EVERY_STEPS == 0:
                trainer.raters.fit()
            out.emit(event="train", member=member, step=step, learning_rate=rate, **measured)
            progress.advance(loss=measured["loss"])
            if (step + 1) % config.checkpoint_every_steps == 0 and step + 1 < total and distributed.rank() == 0:
                kept = {"raters": trainer.raters.state()}
                loop.save_checkpoint(folder, step + 1, trainer.parameters, trainer.optimiser, kept)


@dataclass(frozen=True)
class RewardTrainer:
    """The state of one member's training, and its optimiser step."""

    config: RewardConfig
    model: Any
    head: nn.Linear
    states: FrozenStatesCache
    style_weights: Tensor  # [F], what style explains by itself
    raters: RaterModel
    parameters: dict[str, Tensor]
    optimiser: torch.optim.Optimizer
    pad_id: int

    @classmethod
    def prepare(
        cls,
        config: RewardConfig,
        member: int,
        model: Any,
        policy: Any,
        states: FrozenStatesCache,
        style_weights: Tensor,
        pad_id: int = 0,
        rater_fit: RaterModel | None = None,
    ) -> RewardTrainer:
        """Train the policy's active adapter and a new head."""
        head = new_head(model.config.get_text_config().hidden_size, config.seed + member).to(model.device)
        policy.train()
        parameters: dict[str, Tensor] = {**trainable(policy), **{f"head.{k}": p for k, p in head.named_parameters()}}
        raters, optimiser = rater_fit or RaterModel([], {}), loop.adamw(parameters, config.optimiser)
        return cls(config, model, head, states, style_weights, raters, parameters, optimiser, pad_id)

    def step(self, batch: int, rows: Sequence[Ranked], rate: float) -> dict[str, Any]:
        """One optimiser step on batch number ``batch`` of an epoch; returns its metrics, over all processes."""
        start, config = time.perf_counter(), self.config
        total_weight, answers = sum(row.weight for row in rows), sum(len(row.ranks) for row in rows)
        sums, scores_of_raters = torch.zeros(4, dtype=torch.float64), []
        for number, share in enumerate(distributed.split(rows, config.micro_batch_size)):
            if not distributed.mine(number):
                continue
            scores = self._scores((batch, number), [row.group for row in share])
            nll, correct, pairs = self._ranking(scores, share)
            loss = nll / total_weight + config.center_rewards_coefficient * scores.square().sum() / answers
            loss.backward()  # type: ignore[no-untyped-call]
            sums += torch.stack([x.detach().double().cpu() for x in (loss, nll / total_weight, correct, pairs)])
            by_row = torch.split(scores.detach(), [len(row.ranks) for row in share])
            scores_of_raters += [
                (row.number, own.tolist())
                for row, own in zip(share, by_row, strict=True)
                if row.rater in self.raters.prior
            ]
        loss_sum, nll_sum, correct_sum, pairs_sum = distributed.all_reduce(self.parameters.values(), *sums.tolist())
        norm = loop.optimiser_step(self.optimiser, self.parameters, loss_sum, rate, config.optimiser.max_grad_norm)
        if self.raters.prior:
            self.raters.observe(dict(distributed.gather(scores_of_raters)))
        tokens = sum(row.group.tokens for row in rows)
        return {
            "loss": loss_sum,
            "nll_nats_per_prompt": nll_sum,
            "accuracy": correct_sum / pairs_sum if pairs_sum else None,
            "gradient_norm": norm,
            "tokens_per_second": round(tokens / (time.perf_counter() - start), 1),
        }

    def _scores(self, key: tuple[int, int], groups: Sequence[Group]) -> Tensor:
        """[S] scores of all answers of a micro-batch, which has the same key in every epoch."""
        laid_out = shared_prefix_batch(groups, self.pad_id, self.model.device)
        lower = self.states.get(key, lambda trunk: compute_frozen_states(self.model, laid_out, trunk))
        return scalar(self.head, shared_prefix_hidden(self.model, laid_out, laid_out.last, lower))

    def _ranking(self, scores: Tensor, rows: Sequence[Ranked]) -> tuple[Tensor, Tensor, Tensor]:
        """The weighted sum of the rows' losses, the pairs that the scores order correctly, and all pairs.

        Args:
            scores: [S], of all answers of the rows.
        """
        counts = [len(row.ranks) for row in rows]

        def by_row(values: Tensor) -> Tensor:  # [S] -> [R, A], padded with 0
            return nn.utils.rnn.pad_sequence(list(torch.split(values, counts)), batch_first=True)

        ranks = by_row(torch.tensor([rank for row in rows for rank in row.ranks], device=scores.device))
        weights, certainties, margins = scores.new_tensor([(r.weight, r.certainty, r.margin) for r in rows]).T
        losses = row_losses(by_row(self._as_rated(scores, rows)), ranks, certainties, margins)
        return (losses * weights).sum(), *count_correct(by_row(scores.detach()), ranks)

    def _as_rated(self, scores: Tensor, rows: Sequence[Ranked]) -> Tensor:
        """[S]: reliability * (score + what style adds) + position bias * place, by the rater of each row."""
        features = scores.new_tensor([values for row in rows for values in row.style])
        places = scores.new_tensor([place for row in rows for place in row.places])
        reliability, bias = scores.new_tensor([self.raters.params(row.rater) for row in rows for _ in row.ranks]).T
        rated: Tensor = reliability * (scores + features @ self.style_weights.to(features)) + bias * places
        return rated
