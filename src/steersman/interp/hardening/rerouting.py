"""Representation rerouting, or circuit breakers (Zou et al. 2024, arXiv:2406.04313): the way to harm leads nowhere.

The stream of harmful answers is turned away from where it was in the model as it is, h0, and that of everything else is
held in place. With t of T steps done,

    loss = a (1 - t/2T) mean over target layers and tokens of relu(cos(h, h0))              harmful answers
         + a max(t/2T, floor) mean over layers and tokens of |h - h0| / |h0|                all other rows

The second kind are other requests with their answers, and harmful ones with refusals. Neither needs the output layer:
the model is read up to the highest target. LoRA stands in the layers below it. Schedule and losses are those of the
authors' code (GraySwanAI's `lorra_circuit_breaker.py`: `progress = step / 300` in 150 steps, hidden states 10 and 20 of
32 layers: here a third and two thirds of the depth).

What differs. The retain coefficient starts at a ``floor`` and not at 0: without anything that holds it, a model can be
destroyed in the first steps, as EleutherAI's unlearning experiments found. The distance is relative to h0, token by
token: there it is absolute, but Gemma's stream is many times as long as Mistral's. Only the answers of harmful rows are
turned away, not their requests. Means are over tokens and not over padding. The adapters are merged in the end, beside
which the policy's own would not fit: the result is a whole model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from steersman.errors import DataError
from steersman.interp.activations import read
from steersman.interp.anatomy import anatomy_of
from steersman.interp.hardening import learner
from steersman.interp.hardening.rows import Rows, drawn, drawn_evenly, examples
from steersman.lm import pretrained
from steersman.lm.adapters import LoraConfig, add_lora, load_policy, merge, trainable, using
from steersman.lm.chat_format import Example, chat_format
from steersman.store import StageFolder
from steersman.terminal import Progress
from steersman.train import loop
from steersman.types import Record, Seed

VERSION = 1


class ReroutingConfig(Record):
    """Representation rerouting."""

    steps: int = Field(default=150, ge=1, description="Optimiser steps.")
    rows: int = Field(default=400, ge=1, description="Rows of each kind, at most; drawn.")
    batch_size: int = Field(default=8, ge=1, description="Rows of each of the two losses in an optimiser step.")
    answer_tokens: int = Field(default=48, ge=1, description="Answers are cut off after so many tokens.")
    max_length: int = Field(default=256, ge=16, description="Tokens of a row, at most.")
    alpha: float = Field(default=10.0, gt=0, description="Weight of both losses.")
    floor: float = Field(default=0.25, ge=0, le=0.5, description="Least coefficient of the retain loss, times alpha.")
    targets: tuple[float, ...] = Field(
        default=(1 / 3, 2 / 3), min_length=1, description="Depths at which harmful answers are turned away, as shares."
    )
    lora: LoraConfig = Field(default=LoraConfig(rank=16, alpha=16.0), description="The adapters; layers are set here.")
    optimiser: loop.OptimiserConfig = Field(
        default=loop.OptimiserConfig(learning_rate=1e-4, schedule="constant"), description="AdamW and its schedule."
    )
    seed: Seed = Field(default=0, description="Seed of adapters, rows and batches.")


def coefficients(step: int, config: ReroutingConfig) -> tuple[float, float]:
    """Of the rerouting and the retain loss, in a step (0-based; the authors count from 1)."""
    progress = (step + 1) / (2 * config.steps)
    return config.alpha * (1 - progress), config.alpha * max(progress, config.floor)


def reroute_loss(hidden: Tensor, original: Tensor, mask: Tensor) -> Tensor:
    """Mean of relu(cos) over layers and the tokens in the mask, a scalar.

    Args:
        hidden, original: [layers, B, T, H], of the model and of the model as it was.
        mask: [B, T] bool.
    """
    cosine = torch.nn.functional.cosine_similarity(hidden[:, mask].float(), original[:, mask].float(), dim=-1)
    loss: Tensor = cosine.relu().mean()
    return loss


def retain_loss(hidden: Tensor, original: Tensor, mask: Tensor) -> Tensor:
    """Mean of |h - h0| / |h0| over layers and the tokens in the mask, a scalar; arguments as `reroute_loss`."""
    h, h0 = hidden[:, mask].float(), original[:, mask].float()
    moved: Tensor = (h - h0).norm(dim=-1) / h0.norm(dim=-1).clamp_min(1e-6)
    return moved.mean()


def target_layers(config: ReroutingConfig, layers: int) -> list[int]:
    """Layers whose inputs are turned away; at least the second."""
    return sorted({min(max(1, round(depth * layers)), layers - 1) for depth in config.targets})


def below(model: Any, highest: int) -> str:
    """A regular expression of the linear modules in the layers that the highest target reads, for `LoraConfig`."""
    blocks = [block.module for block in anatomy_of(model).blocks[:highest]]
    names = {id(module): name for name, module in model.named_modules()}
    layers = "|".join(names[id(block)].replace(".", r"\.") for block in blocks)
    from transformers.pytorch_utils import Conv1D

    kinds = (torch.nn.Linear, Conv1D)
    ends = sorted({name.split(".")[-1] for name, module in blocks[0].named_modules() if isinstance(module, kinds)})
    return rf"({layers})\..*({'|'.join(ends)})"


class Rerouter:
    """A policy under new adapters, and its stream with and without them."""

    def __init__(self, config: ReroutingConfig, model: Any) -> None:
        layers = anatomy_of(model).layers
        self.targets = target_layers(config, layers)
        lora = config.lora.model_copy(update={"target_modules": below(model, self.targets[-1])})
        self.policy = add_lora(model, lora, "")
        self.model = self.policy.get_base_model()
        self.parameters = trainable(self.policy)
        self.optimiser = loop.adamw(self.parameters, config.optimiser)
        self._held = [f"blocks.{layer}.hook_resid_pre" for layer in range(1, self.targets[-1] + 1)]
        self._turned = [f"blocks.{layer}.hook_resid_pre" for layer in self.targets]

    def losses(self, harmful: Sequence[Example], others: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """`reroute_loss` of the answers of some rows and `retain_loss` of others, with gradients for the adapters."""
        hidden, original, mask = self._streams(harmful, self._turned)
        answers = mask.clone()
        for number, row in enumerate(harmful):
            answers[number, : row.completion_start] = False
        turned = reroute_loss(hidden, original, answers)
        return turned, retain_loss(*self._streams(others, self._held))

    def _streams(self, rows: Sequence[Example], names: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """The stream with and without the adapters, [layers, B, T, H] each, and which tokens are no padding, [B, T]."""
        ids = [row.token_ids for row in rows]
        with using(self.policy, None):
            original = read(self.model, ids, names)
        found = read(self.model, ids, names, gradients=True)
        stacked = (torch.stack([sites.sites[name] for name in names]) for sites in (found, original))
        hidden, kept = stacked
        return hidden, kept, found.mask


def run(config: ReroutingConfig, base: Path, trained: Path, rows: Rows, out: StageFolder) -> None:
    """Reroute the policy in ``trained``, and leave it in ``out`` as a whole model.

    Raises:
        DataError: no harmful rows with answers that give in. TrainingFailed: a loss or gradient that is not finite.
    """
    if not rows.complying:
        raise DataError(
            "rerouting reads harmful requests with answers that give in, and there are none",
            expected="comparisons with the tag `harmful`, whose worse answers give in",
            do="add comparisons.jsonl to the run's data, or use another method",
        )
    torch.manual_seed(config.seed)
    model = load_policy(base, trained)
    tokenizer = pretrained.load_tokenizer(base)
    chat = chat_format(tokenizer, model.generation_config)
    kept = [*drawn_evenly(rows.utility, config.rows, config.seed), *drawn(rows.harmful, config.rows // 2, config.seed)]
    harmful, others = (
        examples(chat, some, config.answer_tokens, config.max_length)
        for some in (drawn(rows.complying, config.rows, config.seed), kept)
    )
    model.requires_grad_(False)
    state = Rerouter(config, model)
    train(config, state, harmful, others, out)
    learner.save(merge(state.policy), chat, out.path, base)


def train(
    config: ReroutingConfig, state: Rerouter, harmful: Sequence[Example], others: Sequence[Example], out: StageFolder
) -> None:
    """The loop of `run`."""
    with Progress("rerouting", config.steps) as progress:
        for step in range(config.steps):
            start = time.perf_counter()
            batches = [learner.turn(kind, step, config.batch_size, config.seed) for kind in (harmful, others)]
            turned, held = state.losses(*batches)
            weights = coefficients(step, config)
            loss = weights[0] * turned + weights[1] * held
            loss.backward()  # type: ignore[no-untyped-call]
            rate = loop.learning_rate_at(step, config.steps, config.optimiser)
            norm = loop.optimiser_step(
                state.optimiser, state.parameters, loss.item(), rate, config.optimiser.max_grad_norm
            )
            seconds = round(time.perf_counter() - start, 2)
            out.emit(
                event="train", step=step, cosine=turned.item(), moved=held.item(), gradient_norm=norm, seconds=seconds
            )
            progress.advance(loss=loss.item())
