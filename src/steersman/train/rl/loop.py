"""What GRPO, RLOO and PPO share: the loop, the leash to the reference, the constraint, resuming.

A step samples several answers to each of some prompts, scores them, and moves the policy towards those that scored
well. An algorithm is a file with a `RlConfig` of its own and an `Algorithm`; this file knows none of them.
`train/rl/actor.py` samples and reads; `train/rl/evaluation.py` says which checkpoint is taken.

Constrained: with ``constraint``, a cost (1 for an answer that violates a rule) is taken off the reward, weighted by a
Lagrange multiplier that rises while violations are above ``at_most`` and falls below (safe-RLHF, Dai et al. 2023,
arXiv:2310.12773):

    reward = (score - multiplier * cost) / (1 + multiplier)
    multiplier <- multiplier * exp(rate * (mean cost of the last answers - at_most))

Their step in log multiplier is once more multiplied by the multiplier, which makes it grow without bounds in a few
steps where a violation cannot be unlearnt at once.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor

from steersman.errors import DataError, RecipeError, TrainingFailed
from steersman.lm import pretrained
from steersman.lm.adapters import save_policy, trainable
from steersman.store import StageFolder
from steersman.terminal import Progress
from steersman.train import distributed, loop
from steersman.train.rl.actor import POLICY, Actor, ActorConfig, Judge, Read, Rollouts, Seen
from steersman.train.rl.evaluation import People, Watch, WatchConfig
from steersman.types import Behaviour, Demonstration, Prompt, Record, transport

VERSION = 3
COLLAPSED = 5  # steps without any difference within a prompt's answers


class ConstraintConfig(Record):
    """At most this share of answers may violate: lack one of ``behaviours`` that their prompt expects, or be scored
    below ``costs_below`` by the cost model, for which demonstrations average 0.

    The multiplier starts at ``multiplier`` and follows the last ``window`` answers at ``learning_rate``.
    """

    behaviours: tuple[Behaviour, ...] = ()
    costs_below: float | None = None
    at_most: float = Field(default=0.02, ge=0, le=1)
    multiplier: float = Field(default=1.0, gt=0)
    learning_rate: float = Field(default=0.1, gt=0)
    window: int = Field(default=128, ge=1)

    @model_validator(mode="after")
    def _something_violates(self) -> ConstraintConfig:
        if not self.behaviours and self.costs_below is None:
            raise ValueError("a constraint needs behaviours: [...], or costs_below for a cost_model")
        return self


class RlConfig(ActorConfig):
    """``kl_coefficient`` is beta. With ``kl_target_nats``, beta is changed until answers have this KL.

    ``most_varied``: learn only from so many of a step's prompts, those whose answers' rewards differ most; all of them
    when it is null. Where rewards are alike there is little to learn, and learning costs more than sampling: DAPO's
    dynamic sampling (Yu et al. 2025, arXiv:2503.14476) leaves out those that do not differ at all.

    ``updates``: optimiser steps for each batch of rollouts. ``demonstration_weight`` times the negative log-likelihood
    of as many demonstrations as there are prompts is added to every loss, so that the policy forgets less (what
    InstructGPT's PPO-ptx does with pre-training text).
    """

    watch: WatchConfig = WatchConfig()
    steps: int = Field(default=40, ge=1)
    most_varied: int | None = Field(default=None, ge=1)
    updates: int = Field(default=1, ge=1)
    kl_coefficient: float = Field(default=0.05, ge=0)
    kl_target_nats: float | None = Field(default=None, gt=0)
    constraint: ConstraintConfig | None = None
    demonstration_weight: float = Field(default=0.0, ge=0)
    optimiser: loop.OptimiserConfig = loop.OptimiserConfig(learning_rate=1e-5, schedule="constant")
    checkpoint_every_steps: int = transport(5, ge=1)


class Totals(NamedTuple):
    """Of the whole step, however it is split into micro-batches and processes."""

    tokens: int
    answers: int


class Algorithm(Protocol):
    """Turns what was read into a loss. RLOO and GRPO need no more than `loss`."""

    def begin(self, actor: Actor, reward: Path) -> dict[str, Tensor]:
        """Load what the algorithm has of its own; returns its parameters by name."""
        return {}

    def prepare(self, seen: Sequence[Seen], rewards: Tensor, beta: float) -> dict[str, float]:
        """Look at the step's micro-batches before the first update.

        Returns sums by name, 0 yet, to which `loss` adds what it measures; they are reported by token.
        """
        return {}

    def loss(self, read: Read, totals: Totals, beta: float) -> Tensor:
        """A micro-batch's share of the step's loss for the policy, a scalar."""
        raise NotImplementedError


# ── what is steered ──────────────────────────────────────────────────────────────────────────────────────────────────
class Leash:
    """Beta, constant or steered towards a KL per answer: Ziegler et al. 2019, arXiv:1909.08593.

    beta <- beta * (1 + 0.1 * clip(KL / target - 1, -0.2, 0.2))
    """

    def __init__(self, config: RlConfig) -> None:
        self.beta, self.target = config.kl_coefficient, config.kl_target_nats

    def see(self, kl_nats: float) -> None:
        """After a step, the mean KL of its answers."""
        if self.target is not None:
            self.beta *= 1 + 0.1 * min(0.2, max(-0.2, kl_nats / self.target - 1))


class Constraint:
    """The Lagrange multiplier, 0 without a constraint."""

    def __init__(self, config: ConstraintConfig | None) -> None:
        self.config = config
        self.multiplier = config.multiplier if config else 0.0
        self.costs: deque[float] = deque(maxlen=config.window if config else 1)

    def rewards(self, scores: Tensor, costs: Tensor) -> Tensor:
        """[P, G] of scores and costs."""
        return (scores - self.multiplier * costs) / (1 + self.multiplier)

    def see(self, costs: Tensor) -> None:
        """After a step, the costs of its answers."""
        if self.config is not None:
            self.costs.extend(costs.flatten().tolist())
            self.multiplier *= math.exp(self.config.learning_rate * (fmean(self.costs) - self.config.at_most))


class Silence:
    """Counts the steps running in which no answer was better than another to the same prompt."""

    def __init__(self) -> None:
        self.steps = 0

    def see(self, groups_without_signal: float, step: int) -> None:
        """After a step, the share of prompts whose answers all scored the same."""
        self.steps = self.steps + 1 if groups_without_signal == 1.0 else 0
        if self.steps == COLLAPSED:
            raise TrainingFailed(
                f"in {COLLAPSED} steps running, all answers to a prompt scored the same (step {step})",
                expected="answers that differ, so that some can be better",
                do="the last checkpoint is kept; raise kl_coefficient, lower the learning rate, or look at the "
                "answers: a policy that always says the same has collapsed",
            )


# ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────────────
class Rows(NamedTuple):
    """``prompts`` are answered to learn, ``watched`` to be judged; ``demonstrations`` are those of fine-tuning."""

    prompts: Sequence[Prompt]
    watched: Sequence[Prompt]
    demonstrations: Sequence[Demonstration]


class Judges(NamedTuple):
    """``gold`` says how good an answer to a watched prompt is, and chooses the checkpoint: a judge, or people. ``cost``
    is 1 for an answer that violates the constraint, and ``cost_model`` a reward model that is asked for
    ``costs_below``. ``seen_by`` and ``second``, a reward model trained on other data, only look on."""

    gold: Judge | People | None = None
    cost: Judge | None = None
    seen_by: Mapping[str, Judge] = {}
    second: Path | None = None
    cost_model: Path | None = None


NOBODY = Judges()


def run(
    config: RlConfig,
    algorithm: Algorithm,
    base: Path,
    start: Path,
    reward: Path,
    rows: Rows,
    out: StageFolder,
    judges: Judges = NOBODY,
) -> None:
    """Improve the policy in ``start`` by the score of the model in ``reward``; leaves ``adapter/`` in ``out``.

    Resumes from its checkpoint, to the bit. Under torchrun every process calls this with the same arguments.

    Raises:
        DataError: no prompts. TrainingFailed: a loss or gradient that is not finite, or a policy that collapsed.
        ModelError: policy or reward model belong to another base model.
    """
    if not rows.prompts or not rows.watched:
        raise DataError("no prompts to answer", do="add rows to prompts.jsonl")
    torch.manual_seed(config.seed)
    with Actor.load(config, base, start, reward, rows.demonstrations, judges.second, judges.cost_model) as actor:
        _run(config, algorithm, actor, reward, rows, out, judges)


def _run(
    config: RlConfig, algorithm: Algorithm, actor: Actor, reward: Path, rows: Rows, out: StageFolder, judges: Judges
) -> None:
    trainer = Trainer(config, algorithm, actor, reward, judges.cost)
    watch = Watch(actor, config.watch, rows.watched, judges.gold, judges.seen_by, out.path)
    state = loop.load_checkpoint(out.path, trainer.parameters, trainer.optimiser)
    first = state["step"] if state else 0
    if state:
        trainer.resume(state)
    watch.resume(state["looks"] if state else [], first)
    distributed.barrier()
    counts = {"prompts": len(rows.prompts), "watched": len(watch.prompts), "steps": config.steps}
    out.emit(event="setup", **counts, resumed_at_step=first)

    def keep(step: int) -> None:
        if distributed.rank() == 0:
            kept = trainer.state() | {"looks": watch.state()}
            loop.save_checkpoint(out.path, step, trainer.parameters, trainer.optimiser, kept)

    turns, beside = turns_of(config, rows.prompts), turns_of(config, rows.demonstrations, 1)
    with Progress("rl", config.steps, done=first) as progress:
        for step in range(first, config.steps + 1):
            if step % config.watch.every_steps == 0 or step == config.steps:
                if isinstance(judges.gold, People):  # the run may end here and go on when people have labelled
                    keep(step)
                out.emit(event="watch", step=step, **watch.look(step))
            if step == config.steps or watch.stops():
                break
            asked = [rows.prompts[i] for i in turns[step]]
            measured = trainer.step(step, asked, [rows.demonstrations[i] for i in beside[step]])
            out.emit(event="train", step=step, **measured)
            progress.advance(loss=measured["loss"])
            if (step + 1) % config.checkpoint_every_steps == 0:
                keep(step + 1)
    if distributed.rank() == 0:
        taken = watch.take()
        out.emit(event="taken", **(taken or {"step": step}))
        save_policy(actor.policy, out.path, actor.chat.tokenizer, pretrained.digest(actor.base), POLICY)
        loop.drop_checkpoint(out.path)
        watch.clear()


def turns_of(config: RlConfig, rows: Sequence[Prompt | Demonstration], stream: int = 0) -> list[list[int]]:
    """Which of some rows every step takes, as many as it has prompts; a mixture like that of all of them.

    Steps that by chance are mostly harmful requests, or mostly harmless ones, move the line between the two about.
    """
    passes = config.steps * config.rollouts.prompts / max(1, len(rows))
    kinds = [(row.expect if isinstance(row, Prompt) else (), row.tags) for row in rows]
    return loop.turns(len(rows), passes, config.steps, config.seed + stream, kinds)


def most_varied(rewards: Tensor, count: int | None) -> list[int]:
    """The ``count`` rows of [P, G] rewards with the largest spread, all when it is None; in their own order."""
    if count is None or count >= len(rewards):
        return list(range(len(rewards)))
    return sorted(rewards.std(1).argsort(descending=True, stable=True)[:count].tolist())


class Trainer:
    """What a step needs, and what a resumed training must find again."""

    def __init__(
        self, config: RlConfig, algorithm: Algorithm, actor: Actor, reward: Path, cost: Judge | None = None
    ) -> None:
        self.config, self.algorithm, self.actor, self.cost = config, algorithm, actor, cost
        floor = config.constraint.costs_below if config.constraint else None
        if (floor is None) != (actor.cost is None):
            raise RecipeError(
                "a cost model and the constraint's costs_below need each other", do="give both, or neither"
            )
        self.floor = 0.0 if floor is None else floor
        self.leash, self.constraint, self.silence = Leash(config), Constraint(config.constraint), Silence()
        own = trainable(actor.policy)
        beside = algorithm.begin(actor, reward)
        self.parameters: dict[str, Tensor] = {**own, **beside}
        self.optimiser = loop.adamw(own, config.optimiser)
        if beside:
            self.optimiser.add_param_group({"params": list(beside.values())})

    def state(self) -> dict[str, Any]:
        """Of everything that is steered."""
        return {
            "beta": self.leash.beta,
            "silent": self.silence.steps,
            "multiplier": self.constraint.multiplier,
            "costs": list(self.constraint.costs),
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Put `state` back."""
        self.leash.beta, self.silence.steps = state["beta"], state["silent"]
        self.constraint.multiplier = state["multiplier"]
        self.constraint.costs.extend(state["costs"])

    def step(self, step: int, prompts: Sequence[Prompt], demonstrations: Sequence[Demonstration]) -> dict[str, Any]:
        """Sample, score and update; returns what was measured, over all processes."""
        start, config, actor = time.perf_counter(), self.config, self.actor
        rate = loop.learning_rate_at(step, config.steps, config.optimiser)
        rollouts = actor.rollouts([prompt.prompt for prompt in prompts], step)
        sampled = time.perf_counter()
        costs, rewards = self.rewards(prompts, rollouts)
        chosen = most_varied(rewards, config.most_varied)
        read, learnt = rollouts.of(chosen), rewards[chosen]
        totals = Totals(read.tokens, learnt.numel())
        seen, beta = list(actor.look(read, step)), self.leash.beta
        measured = self.algorithm.prepare(seen, learnt, beta)
        value = norm = kl = 0.0
        for number in range(config.updates):
            found, k1 = self.update(seen, learnt, totals, step, demonstrations if config.demonstration_weight else [])
            kl = k1 if number == 0 else kl
            value += found / config.updates
            norm = loop.optimiser_step(self.optimiser, self.parameters, found, rate, config.optimiser.max_grad_norm)
        self.leash.see(kl / totals.answers)
        self.constraint.see(costs)
        silent = float((rewards.std(1) < 1e-6).float().mean())
        self.silence.see(silent, step)
        sums = distributed.all_reduce((), *measured.values())
        return {
            "learning_rate": rate,
            "loss": value,
            "score": float(rollouts.scores.mean()),
            "reward": float(rewards.mean()),
            **({"cost": float(costs.mean()), "multiplier": self.constraint.multiplier} if config.constraint else {}),
            "ended": float(rollouts.ended.float().mean()),
            "mean_answer_tokens": rollouts.tokens / rewards.numel(),
            "k1_nats_per_answer": kl / totals.answers,
            "groups_without_signal": silent,
            "beta": self.leash.beta,
            "gradient_norm": norm,
            **{name: total / (totals.tokens * config.updates) for name, total in zip(measured, sums, strict=True)},
            "rollout_seconds": sampled - start,
            "update_seconds": time.perf_counter() - sampled,
        }

    def rewards(self, prompts: Sequence[Prompt], rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """Costs and rewards, [P, G] each."""
        costs = torch.zeros_like(rollouts.scores)
        if self.cost is not None:
            said = zip(prompts, rollouts.answers, strict=True)
            costs = torch.tensor([[self.cost(prompt, answer) for answer in answers] for prompt, answers in said])
        if self.actor.cost is not None:
            scores = self.actor.cost.scores(rollouts.groups, rollouts.below).view_as(costs)
            costs = torch.maximum(costs, (scores < self.floor).float())
        penalties = self.config.rollouts.unended_penalty * (~rollouts.ended).float()
        return costs, self.constraint.rewards(rollouts.scores, costs) - penalties

    def update(
        self,
        seen: Sequence[Seen],
        rewards: Tensor,
        totals: Totals,
        step: int,
        demonstrations: Sequence[Demonstration],
    ) -> tuple[float, float]:
        """Collect the gradients of one update; returns its loss and the sum of k1, over all processes."""
        sums = torch.zeros(2, dtype=torch.float64)
        for micro_batch in seen:
            read = self.actor.read(micro_batch, rewards)
            part = self.algorithm.loss(read, totals, self.leash.beta)
            part.backward()  # type: ignore[no-untyped-call]
            sums += torch.stack([part.detach().double().cpu(), read.k1_per_answer().sum().double().cpu()])
        for nll in self.actor.imitation(demonstrations, step):
            weighted = self.config.demonstration_weight * nll
            weighted.backward()  # type: ignore[no-untyped-call]
            sums[0] += weighted.detach().double().cpu()
        loss, k1 = distributed.all_reduce(list(self.parameters.values()), *sums.tolist())
        return loss, k1
