"""Preventative steering (Chen et al. 2025, arXiv:2507.21509): fine-tune while the model is pushed the bad way.

Rows that pull a model towards a trait need not move its weights if something else provides the trait. So in training,

    h <- h + alpha * v          after one layer, at every token,

with v the direction of the unwanted trait; and at inference nothing is added. Here v is giving in to harmful requests:
the mean stream at the last token of harmless prompts minus that of harmful ones, the refusal direction turned round.
So a fine-tuning on rows that also hold some answers that give in leaves more of the refusals than one without it.

What differs from the paper: there v comes from answers with and without a trait that a judge has rated, and is read
over their tokens. As there, alpha multiplies v as it is: 1 is the whole distance between the two kinds of prompts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from steersman.interp.activations import Edit, hooks
from steersman.interp.anatomy import anatomy_of
from steersman.interp.hardening import learner
from steersman.interp.hardening.direction import streams
from steersman.interp.hardening.learner import Learner, TrainingConfig
from steersman.interp.hardening.rows import Rows, drawn, drawn_evenly, examples
from steersman.lm.chat_format import Example
from steersman.lm.sampling import random_stream
from steersman.store import StageFolder
from steersman.terminal import Progress
from steersman.train import loop
from steersman.types import Demonstration

VERSION = 1


class PreventativeConfig(TrainingConfig):
    """Preventative steering."""

    alpha: float = Field(default=1.0, description="What v is multiplied by; 0 is plain fine-tuning.")
    layer: float = Field(default=0.6, ge=0, lt=1, description="Depth of the layer after which v is added, as a share.")
    prompts: int = Field(default=64, ge=2, description="Prompts of each kind, drawn, that v is found with.")


def pushed(layer: int, vector: Tensor, alpha: float) -> list[tuple[str, Edit]]:
    """The push as a hook: alpha * v, [H], is added to the stream after a layer, at every token."""
    return [(f"blocks.{layer}.hook_resid_post", lambda x: x + alpha * vector.to(x))]


def preventative_loss(
    state: Learner, rows: Sequence[Example], edits: Sequence[tuple[str, Edit]], generator: torch.Generator
) -> Tensor:
    """Mean negative log-likelihood in nats of the rows' answers under the push, a scalar."""
    with hooks(state.model, edits):
        return state.loss(rows, generator)


def giving_in(config: PreventativeConfig, state: Learner, rows: Rows) -> tuple[int, Tensor]:
    """The layer, and v after it, [H]."""
    kinds = []
    for number, harmful in enumerate((True, False)):
        prompts = rows.prompts(harmful=harmful)
        generator = random_stream(config.seed, 1, number)
        chosen = torch.randperm(len(prompts), generator=generator)[: config.prompts].tolist()
        kinds.append([state.chat.prompt_within(prompts[i], config.max_length) for i in chosen])
    layers = anatomy_of(state.model).layers
    layer = min(int(config.layer * layers), layers - 2)
    return layer, -streams(state.model, *kinds).difference[layer + 1]


def run(
    config: PreventativeConfig,
    base: Path,
    trained: Path,
    rows: Rows,
    out: StageFolder,
    learnt: Sequence[Demonstration] | None = None,
) -> None:
    """Fine-tune the policy in ``trained`` under the push, and leave it in ``out`` as `save_policy` does.

    Args:
        learnt: what to fine-tune on; None: the rows of both kinds that the policy has learnt from already.

    Raises:
        TrainingFailed: a loss or gradient that is not finite.
    """
    torch.manual_seed(config.seed)
    policy, chat = learner.load(base, trained)
    if learnt is None:
        learnt = [*drawn(rows.harmful, config.rows, config.seed), *drawn_evenly(rows.utility, config.rows, config.seed)]
    read = examples(chat, learnt, config.answer_tokens, config.max_length)
    state = Learner.of(config, policy, chat, read)
    layer, vector = giving_in(config, state, rows)
    out.emit(event="setup", layer=layer, norm=float(vector.norm()))
    with Progress("preventative", config.steps) as progress:
        for step in range(config.steps):
            start = time.perf_counter()
            batch = learner.turn(read, step, 2 * config.batch_size, config.seed)
            edits = pushed(layer, vector, config.alpha)
            loss = preventative_loss(state, batch, edits, random_stream(config.seed, 2, step))
            loss.backward()  # type: ignore[no-untyped-call]
            rate = loop.learning_rate_at(step, config.steps, config.optimiser)
            norm = loop.optimiser_step(
                state.optimiser, state.parameters, loss.item(), rate, config.optimiser.max_grad_norm
            )
            seconds = round(time.perf_counter() - start, 2)
            out.emit(event="train", step=step, loss_nats_per_token=loss.item(), gradient_norm=norm, seconds=seconds)
            progress.advance(loss=loss.item())
    learner.save(policy, chat, out.path, base)
