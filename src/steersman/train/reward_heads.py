"""Training a head of several outputs over one LoRA adapter: what `group_reward`, `reward_mixture` and
`distributional_reward` share. Each of them gives an `Objective`; `lm/reward_heads.py` loads the result.

In three steps, after Kumar et al. 2022 ("Fine-tuning can distort pretrained features", arXiv:2202.10054): the head
alone is fitted on the hidden states of the fine-tuned policy (`fit_head`); adapter and head learn together; the head
is fitted again. Two of the three objectives are convex in the head, so that what a small group gets is the maximum a
posteriori of its prior and not of how far an optimiser came.

The head is penalised where it acts: on weights of hidden units scaled to variance 1 / H (`Scale`), so that a weight
vector drawn from the prior N(0, 1 / precision) gives scores of that variance, in nats, whatever the model's width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from steersman.errors import ModelError
from steersman.functional import minimise
from steersman.lm import pretrained
from steersman.lm.adapters import ADAPTER, activate, load_adapter, save_policy, trainable
from steersman.lm.chat_format import ChatFormat, chat_format
from steersman.lm.frozen_trunk import FrozenStatesCache, FrozenTrunk
from steersman.lm.reward_heads import ABOUT
from steersman.lm.reward_model import HEAD, centring_groups
from steersman.lm.sampling import random_stream
from steersman.lm.shared_prefix import Group, compute_frozen_states, shared_prefix_batch, shared_prefix_hidden
from steersman.store import StageFolder, write_json
from steersman.terminal import Progress
from steersman.train import distributed, loop
from steersman.train.reward_model import Ranked, RewardConfig, ranked
from steersman.types import Comparison, Demonstration, Record, Seed, transport

NAME = "heads"  # of the adapter


class HeadsConfig(Record):
    """How adapter and head learn; the methods add their own fields."""

    optimiser: loop.OptimiserConfig = Field(
        default=loop.OptimiserConfig(learning_rate=1e-4), description="AdamW and its schedule."
    )
    epochs: int = Field(default=1, ge=0, description="Passes over the comparisons; 0 fits the head alone.")
    precision: float = Field(default=1.0, gt=0, description="Inverse variance of the prior of scores, per nat squared.")
    trunk_cache_mb: int = Field(default=1024, ge=0, description="MB of memory for kept activations of frozen layers.")
    batch_size: int = Field(default=16, ge=1, description="Prompts in an optimiser step.")
    micro_batch_size: int = Field(default=8, ge=1, description="Prompts in one pass; affects speed and memory.")
    max_length: int = Field(default=512, ge=16, description="Tokens of a prompt with its longest answer.")
    truncation: loop.Truncation = Field(default="truncate", description=loop.TRUNCATION)
    checkpoint_every_steps: int = transport(20, ge=1, description="Optimiser steps between checkpoints.")
    seed: Seed = Field(default=0, description="Seed of the order of batches, and of restarts.")


# ── pairs ────────────────────────────────────────────────────────────────────────────────────────────────────────────
class Pairs(NamedTuple):
    """The pairs of answers that rows order, as columns [P].

    ``better``, ``worse``: indices of the answers over all rows; ``row``: index of the row; ``label``: P(the better one
    is better); ``margin`` in nats; ``weight``: the row's, divided by its number of pairs.
    """

    better: Tensor
    worse: Tensor
    row: Tensor
    label: Tensor
    margin: Tensor
    weight: Tensor


def pairs_of(rows: Sequence[Ranked], device: Any = None) -> Pairs:
    """All strictly ordered pairs of each row; two answers that are equally likely to be better are one as well."""
    found: list[tuple[int, int, int]] = []
    columns: list[tuple[float, float, float]] = []
    start = 0
    for number, row in enumerate(rows):
        two_equal = len(row.ranks) == 2 and row.ranks[0] == row.ranks[1]
        own = [(i, j) for i, j in permutations(range(len(row.ranks)), 2) if row.ranks[i] < row.ranks[j]]
        own = [(0, 1)] if two_equal else own
        found += [(start + i, start + j, number) for i, j in own]
        columns += [(row.certainty, row.margin, row.weight / len(own))] * len(own)
        start += len(row.ranks)
    indices = torch.tensor(found, device=device).T
    return Pairs(*indices, *torch.tensor(columns, device=device).T)


class Observer(Protocol):
    """State of an objective that follows the training: all processes have the same."""

    def after_step(self) -> None:
        """Take over what the losses of the step have left."""

    def state(self) -> dict[str, Any]:
        """The state of a checkpoint."""

    def resume(self, state: Mapping[str, Any]) -> None:
        """Restore `state`."""


@dataclass(frozen=True)
class Objective:
    """What a head is trained for.

    Attributes:
        nll: the weighted sum over pairs in nats, of outputs [S, D], the pairs and their rows.
        penalty: the negative log-prior in nats of the scaled weights [D, H].
        observer: what else changes from step to step.
    """

    nll: Callable[[Tensor, Pairs, Sequence[Ranked]], Tensor]
    penalty: Callable[[Tensor], Tensor]
    observer: Observer | None = None


# ── the trunk ────────────────────────────────────────────────────────────────────────────────────────────────────────
class Trunk(NamedTuple):
    """A base model with the adapter that learns, and the comparisons as it reads them."""

    base: Path
    tokenizer: Any
    model: Any
    policy: Any
    chat: ChatFormat
    rows: list[Ranked]
    fates: dict[str, int]  # of rows that are too long

    @property
    def pad_id(self) -> int:
        """Of the tokenizer."""
        return self.tokenizer.pad_token_id or 0


def open_trunk(config: HeadsConfig, base: Path, start: Path, comparisons: Sequence[Comparison], stage: str) -> Trunk:
    """The adapter in ``start`` (a folder of `save_policy`) on its base model, and tokenised comparisons.

    Raises:
        DataError: nothing to train on. ModelError: ``start`` has no adapter, or belongs to another base model.
    """
    torch.manual_seed(config.seed)
    tokenizer, model = pretrained.load_tokenizer(base), pretrained.load_model(base)
    if not (start / ADAPTER).exists():
        raise ModelError("a reward model starts from an adapter", where=str(start), do="train with sft.method: lora")
    model.requires_grad_(False)
    chat = chat_format(tokenizer, model.generation_config)
    limits = RewardConfig(max_length=config.max_length, truncation=config.truncation)
    rows, too_long = ranked(comparisons, chat, limits)
    fates = loop.say_too_long(stage, too_long, len(rows), config.truncation)
    policy = load_adapter(model, base, start / ADAPTER, NAME)
    activate(policy, NAME)
    return Trunk(base, tokenizer, model, policy, chat, rows, fates)


def hidden_states(trunk: Trunk, groups: Sequence[Group], batch_size: int) -> Tensor:
    """[S, H] in float32 on the CPU: of every answer's last token, in the order of the groups; in evaluation mode."""
    found, was_training = [], trunk.policy.training
    trunk.policy.eval()
    with torch.no_grad():
        for i in range(0, len(groups), batch_size):
            batch = shared_prefix_batch(groups[i : i + batch_size], trunk.pad_id, trunk.model.device)
            found.append(shared_prefix_hidden(trunk.model, batch, batch.last).float().cpu())
    trunk.policy.train(was_training)
    return torch.cat(found)


# ── the head ─────────────────────────────────────────────────────────────────────────────────────────────────────────
class Scale(NamedTuple):
    """Mean and deviation of each hidden unit, [H]: scaled units are (h - mean) / (deviation sqrt(H))."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, hidden: Tensor) -> Scale:
        """Of hidden states [S, H]; a unit that never moves has deviation 1."""
        deviation = hidden.std(0, unbiased=False)
        return cls(hidden.mean(0), torch.where(deviation > 0, deviation, 1.0))

    def scaled(self, hidden: Tensor) -> Tensor:
        """[S, H] scaled units."""
        return (hidden - self.mean) / (self.deviation * self._root)

    def weights(self, raw: Tensor) -> Tensor:
        """[D, H] weights of scaled units, of those of hidden units."""
        return raw * self.deviation.to(raw) * self._root

    def head(self, weights: Tensor) -> nn.Linear:
        """The head on hidden units, of [D, H] weights of scaled ones."""
        raw = weights.detach() / (self.deviation * self._root)
        head = nn.Linear(raw.shape[1], raw.shape[0])
        with torch.no_grad():
            head.weight.copy_(raw)
            head.bias.copy_(-raw @ self.mean)
        return head

    @property
    def _root(self) -> float:
        return float(len(self.mean) ** 0.5)


def fit_head(scaled: Tensor, rows: Sequence[Ranked], objective: Objective, start: Tensor, steps: int = 100) -> Tensor:
    """[D, H] weights of scaled units at the minimum of the objective, from ``start`` [D, H].

    Args:
        scaled: [S, H], `Scale.scaled` hidden states of all answers of the rows.
    """
    pairs, weights = pairs_of(rows), start.clone().requires_grad_()

    def loss() -> Tensor:
        return (objective.nll(scaled @ weights.T, pairs, rows) + objective.penalty(weights)) / len(rows)

    minimise([weights], loss, steps)
    return weights


# ── adapter and head together ────────────────────────────────────────────────────────────────────────────────────────
def train(
    config: HeadsConfig, trunk: Trunk, head: nn.Linear, scale: Scale, objective: Objective, out: StageFolder
) -> None:
    """All optimiser steps over adapter and head; resumes from its checkpoint. Updates both in place."""
    # The same batches in every epoch, in another order: their activations in the frozen layers are computed once.
    plan = loop.plan_batches([row.group.tokens for row in trunk.rows], config.batch_size, 1, config.seed)
    batches, total = [[trunk.rows[i] for i in step] for step in plan], len(plan) * config.epochs
    epochs = (torch.randperm(len(batches), generator=random_stream(config.seed, e)) for e in range(config.epochs))
    order = [int(i) for epoch in epochs for i in epoch]
    trainer = HeadsTrainer.prepare(config, trunk, head, scale, objective)
    state = loop.load_checkpoint(out.path, trainer.parameters, trainer.optimiser) or {"step": 0}
    if state["step"] and objective.observer:
        objective.observer.resume(state["observer"])
    distributed.barrier()
    count = sum(p.numel() for p in trainer.parameters.values())
    setup = {"comparisons": len(trunk.rows), "steps": total, "resumed_at_step": state["step"], **trunk.fates}
    out.emit(event="setup", trainable_parameters=count, **setup)
    with Progress(out.stage, total, done=state["step"]) as progress:
        for step in range(state["step"], total):
            rate = loop.learning_rate_at(step, total, config.optimiser)
            measured = trainer.step(order[step], batches[order[step]], rate)
            out.emit(event="train", step=step, learning_rate=rate, **measured)
            progress.advance(loss=measured["loss"])
            if (step + 1) % config.checkpoint_every_steps == 0 and step + 1 < total and distributed.rank() == 0:
                kept = {"observer": objective.observer.state()} if objective.observer else {}
                loop.save_checkpoint(out.path, step + 1, trainer.parameters, trainer.optimiser, kept)


@dataclass(frozen=True)
class HeadsTrainer:
    """The state of the training, and its optimiser step."""

    config: HeadsConfig
    trunk: Trunk
    head: nn.Linear
    scale: Scale
    objective: Objective
    states: FrozenStatesCache
    parameters: dict[str, Tensor]
    optimiser: torch.optim.Optimizer

    @classmethod
    def prepare(
        cls, config: HeadsConfig, trunk: Trunk, head: nn.Linear, scale: Scale, objective: Objective
    ) -> HeadsTrainer:
        """Train the trunk's adapter and a head that is fitted already."""
        head.to(trunk.model.device)
        head.bias.requires_grad_(False)
        trunk.policy.train()
        states = FrozenStatesCache(FrozenTrunk.below(trunk.model, trunk.policy, NAME), config.trunk_cache_mb)
        # The constants cancel in differences of scores; a spread's would let the scale of utility drift.
        parameters: dict[str, Tensor] = {**trainable(trunk.policy), "head.weight": head.weight}
        optimiser = loop.adamw(parameters, config.optimiser)
        return cls(config, trunk, head, scale, objective, states, parameters, optimiser)

    def step(self, batch: int, rows: Sequence[Ranked], rate: float) -> dict[str, Any]:
        """One optimiser step on batch number ``batch`` of an epoch; returns its metrics, over all processes."""
        start, total_weight = time.perf_counter(), sum(row.weight for row in rows)
        sums = torch.zeros(2, dtype=torch.float64)
        for number, share in enumerate(distributed.split(rows, self.config.micro_batch_size)):
            if not distributed.mine(number):
                continue
            outputs = self._outputs((batch, number), [row.group for row in share])
            nll = self.objective.nll(outputs, pairs_of(share, outputs.device), share)
            prior = self.objective.penalty(self.scale.weights(self.head.weight)) * len(share) / len(rows)
            loss = nll / total_weight + prior / len(self.trunk.rows)
            loss.backward()  # type: ignore[no-untyped-call]
            sums += torch.stack([x.detach().double().cpu() for x in (loss, nll / total_weight)])
        loss_sum, nll_sum = distributed.all_reduce(self.parameters.values(), *sums.tolist())
        norm = self.config.optimiser.max_grad_norm
        norm = loop.optimiser_step(self.optimiser, self.parameters, loss_sum, rate, norm)
        if self.objective.observer:
            self.objective.observer.after_step()
        tokens_per_second = round(sum(row.group.tokens for row in rows) / (time.perf_counter() - start), 1)
        measured = {"loss": loss_sum, "nll_nats_per_prompt": nll_sum, "gradient_norm": norm}
        return {**measured, "tokens_per_second": tokens_per_second}

    def _outputs(self, key: tuple[int, int], groups: Sequence[Group]) -> Tensor:
        """[S, D] outputs for all answers of a micro-batch, which has the same key in every epoch."""
        model = self.trunk.model
        laid_out = shared_prefix_batch(groups, self.trunk.pad_id, model.device)
        lower = self.states.get(key, lambda below: compute_frozen_states(model, laid_out, below))
        outputs: Tensor = self.head(shared_prefix_hidden(model, laid_out, laid_out.last, lower).float())
        return outputs


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────────────────────────
def save(
    config: HeadsConfig,
    trunk: Trunk,
    head: nn.Linear,
    demonstrations: Sequence[Demonstration],
    about: Mapping[str, Any],
    out: StageFolder,
) -> None:
    """Write adapter, head and ``reward_heads.json``, with each output's mean over demonstrations (0 without any)."""
    if distributed.rank() == 0:
        groups = centring_groups(demonstrations, trunk.chat, config.max_length)
        head = head.cpu()
        with torch.no_grad():
            own = (
                head(hidden_states(trunk, groups, config.micro_batch_size)).mean(0)
                if groups
                else torch.zeros(len(head.weight))
            )
        save_policy(trunk.policy, out.path, trunk.tokenizer, pretrained.digest(trunk.base), NAME)
        save_file({key: value.detach().contiguous() for key, value in head.state_dict().items()}, out.file(HEAD))
        write_json(out.file(ABOUT), {"max_length": config.max_length, "centre": own.tolist(), **about})
        loop.drop_checkpoint(out.path)
    distributed.barrier()
