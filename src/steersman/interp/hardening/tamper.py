"""The tamper curve: what is left of a behaviour after a few steps of fine-tuning by whoever has the weights.

A model that was hardened against one attack may fall to the next: LoRA-based circuit breakers are undone in five steps
(EleutherAI's unlearning experiments), refusals by a handful of harmless rows (Qi et al. 2023, arXiv:2310.03693). So
`steersman harden` always prints this curve. New adapters are trained on rows of the adversary's, the behaviour is
measured after 5, 25 and 100 steps, and the adapters are taken off again. Two kinds of rows: ``benign`` ones, harmless
instructions as anybody has them, and ``adversarial`` ones, harmful requests with answers that give in.

The curve is of one learning rate, one seed and these rows: a bound from above on what an adversary needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from pydantic import Field

from steersman.errors import DataError
from steersman.interp.anatomy import anatomy_of
from steersman.interp.hardening import learner
from steersman.interp.hardening.learner import Learner, TrainingConfig
from steersman.interp.hardening.rows import examples
from steersman.lm.adapters import LoraConfig, add_lora, take_off
from steersman.lm.chat_format import ChatFormat
from steersman.lm.head import evaluating
from steersman.lm.sampling import random_stream
from steersman.stats import Estimate
from steersman.terminal import Progress
from steersman.train import loop
from steersman.train.sft import PrefixConfig
from steersman.types import Demonstration

VERSION = 1
Metric = Callable[[Any, ChatFormat], Estimate]
"""Given a model in evaluation mode and its chat format, what of the behaviour is there."""


class TamperConfig(TrainingConfig):
    """A fine-tuning by somebody else. ``steps`` is the last point of ``at``."""

    at: tuple[int, ...] = Field(default=(5, 25, 100), min_length=1, description="Steps after which it is measured.")
    lora: LoraConfig = Field(default=LoraConfig(), description="The adversary's adapters.")
    batch_size: int = Field(default=8, ge=1, description="Rows in an optimiser step.")
    prefix: PrefixConfig = Field(default=PrefixConfig(), description="Weight of answers' first tokens: as usual, 1.")
    optimiser: loop.OptimiserConfig = Field(
        default=loop.OptimiserConfig(schedule="constant", warmup_ratio=0.0), description="AdamW and its schedule."
    )


class Point(NamedTuple):
    """What was left after some steps."""

    steps: int
    left: Estimate

    def json(self) -> dict[str, Any]:
        """For a file."""
        return {"steps": self.steps, "left": self.left.json()}


def tamper_curve(
    config: TamperConfig, model: Any, chat: ChatFormat, rows: Sequence[Demonstration], metric: Metric
) -> list[Point]:
    """What is left of a behaviour, before any step and after those in ``config.at``; the model is as before afterwards.

    Args:
        model: any decoder, without adapters.
        rows: what the adversary trains on.

    Raises:
        DataError: no rows. TrainingFailed: a loss or gradient that is not finite.
    """
    if not rows:
        raise DataError("a tamper curve needs rows to fine-tune on", do="give harmless instructions with their answers")
    torch.manual_seed(config.seed)
    anatomy_of(model)  # found, and kept, while no adapters stand in the modules' places
    points = [Point(0, _measured(metric, model, chat))]
    learns = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(False)
    read = examples(chat, rows, config.answer_tokens, config.max_length)
    policy = add_lora(model, config.lora, "")
    try:
        state = Learner.of(config, policy, chat, read)
        with Progress("tampering", max(config.at)) as progress:
            for step in range(max(config.at)):
                batch = learner.turn(read, step, config.batch_size, config.seed)
                loss = state.loss(batch, random_stream(config.seed, step))
                loss.backward()  # type: ignore[no-untyped-call]
                rate = loop.learning_rate_at(step, max(config.at), config.optimiser)
                limit = config.optimiser.max_grad_norm
                loop.optimiser_step(state.optimiser, state.parameters, loss.item(), rate, limit)
                progress.advance(loss=loss.item())
                if step + 1 in config.at:
                    points.append(Point(step + 1, _measured(metric, state.model, chat)))
    finally:
        take_off(policy)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(learns[name])
    return points


def _measured(metric: Metric, model: Any, chat: ChatFormat) -> Estimate:
    with evaluating(model):
        return metric(model, chat)
