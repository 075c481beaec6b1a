"""ReFAT, refusal feature adversarial training (Yu et al. 2024, arXiv:2409.20089): refuse without the refusal direction.

Jailbreaks of many kinds take out of the residual stream what harmful requests share in it. So a model is trained to
refuse while that is taken out,

    loss = NLL(refusal | harmful request, under ablation) + w * NLL(answer | other request)

with r_l, at layer l, the mean stream before it at the last token of harmful prompts minus that of others, and x without
its component along r_l in the place of x. r is computed afresh every few steps, of prompts drawn anew: it moves
with the model. A harmful batch is ablated with probability 1/2, so that the model goes on refusing as it is, too.
Gradients pass through the ablation.

What differs from the paper. There, each of the upper three quarters of the layers loses its own direction. Whoever has
the weights does something else (Arditi et al. 2024): takes *one* layer's direction out of everything that is written.
A share of the ablated batches, ``single``, is of that kind, with a layer drawn at random. The component is put to where
harmless prompts have it and not to zero, which breaks a model with massive activations (`direction.py`; ``form: zero``
is the paper's). The policy goes on learning in its own shape, and answers are cut off after their beginnings.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from steersman.interp.activations import Edit, hooks
from steersman.interp.anatomy import anatomy_of
from steersman.interp.directions import Form
from steersman.interp.hardening import learner
from steersman.interp.hardening.direction import Streams, own, single, streams
from steersman.interp.hardening.learner import Learner, TrainingConfig
from steersman.interp.hardening.rows import Rows, drawn_evenly, examples
from steersman.lm.chat_format import Example
from steersman.lm.sampling import random_stream
from steersman.store import StageFolder
from steersman.terminal import Progress
from steersman.train import loop

VERSION = 1


class RefatConfig(TrainingConfig):
    """ReFAT. The published values are those of ``ablated``, ``every_steps``, ``prompts`` and ``from_layer``."""

    ablated: float = Field(default=0.5, ge=0, le=1, description="Probability that a harmful batch is ablated.")
    single: float = Field(
        default=0.5, ge=0, le=1, description="Share of these in which one layer's direction leaves the whole stream."
    )
    form: Form = Field(default="level", description="Where an ablated component is put: see direction.py.")
    from_layer: float = Field(default=0.25, ge=0, lt=1, description="Share of lower layers that are not ablated.")
    every_steps: int = Field(default=4, ge=1, description="Optimiser steps after which directions are found afresh.")
    prompts: int = Field(default=32, ge=2, description="Prompts of each kind, drawn, that directions are found with.")
    utility_weight: float = Field(default=1.0, ge=0, description="Weight of the loss on rows that are not harmful.")


class Ablation(NamedTuple):
    """What is taken away in one batch: each layer's own direction (the paper's), or one layer's from everywhere."""

    kind: Literal["own", "single"]
    layer: int  # the first that is ablated, or the one whose direction it is


def draw_ablation(config: RefatConfig, layers: int, generator: torch.Generator) -> Ablation | None:
    """The ablation of one harmful batch; None leaves it as it is.

    Args:
        layers: of the model. Single directions are drawn from those between `from_layer` and the last fifth, from which
            nobody takes them.
    """
    chance, kind, place = torch.rand(3, generator=generator).tolist()
    first = max(1, int(config.from_layer * layers))  # before layer 0 the last tokens of all prompts are the same
    if chance >= config.ablated:
        return None
    if kind >= config.single:
        return Ablation("own", first)
    last = max(first + 1, int(0.8 * layers))
    return Ablation("single", first + int(place * (last - first)))


def edits_of(model: Any, found: Streams, ablation: Ablation, form: Form) -> list[tuple[str, Edit]]:
    """The ablation as hooks."""
    if ablation.kind == "single":
        return single(model, found, ablation.layer, form)
    return own(found, ablation.layer, form)


def refat_loss(
    state: Learner,
    harmful: Sequence[Example],
    utility: Sequence[Example],
    edits: Sequence[tuple[str, Edit]],
    generator: torch.Generator,
    utility_weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The two parts of the loss, scalars in nats per token, the second already weighted; both are to be minimised.

    Args:
        harmful, utility: tokenised rows.
        edits: of the forward pass over the harmful rows; none leaves it as it is.
    """
    with hooks(state.model, edits):
        refusing = state.loss(harmful, generator)
    return refusing, utility_weight * state.loss(utility, generator)


class Directions:
    """What refusal directions are made of, found afresh every few steps."""

    def __init__(self, config: RefatConfig, state: Learner, rows: Rows) -> None:
        self.config, self.state, self.found_at = config, state, -1
        self._prompts = [rows.prompts(harmful=True), rows.prompts(harmful=False)]
        self._found: Streams | None = None

    def at(self, step: int) -> Streams:
        """As of the last step that is a multiple of ``every_steps``."""
        wanted = step - step % self.config.every_steps
        if self._found is None or wanted != self.found_at:
            self.found_at, chat = wanted, self.state.chat
            generator = random_stream(self.config.seed, 1, wanted)
            kinds = []
            for prompts in self._prompts:
                chosen = torch.randperm(len(prompts), generator=generator)[: self.config.prompts].tolist()
                kinds.append([chat.prompt_within(prompts[i], self.config.max_length) for i in chosen])
            self._found = streams(self.state.model, *kinds)
        return self._found


def run(config: RefatConfig, base: Path, trained: Path, rows: Rows, out: StageFolder) -> None:
    """Train the policy in ``trained`` on, and leave it in ``out`` as `save_policy` does.

    Raises:
        TrainingFailed: a loss or gradient that is not finite.
    """
    torch.manual_seed(config.seed)
    policy, chat = learner.load(base, trained)
    kinds = [
        examples(chat, drawn_evenly(some, config.rows, config.seed), config.answer_tokens, config.max_length)
        for some in (rows.harmful, rows.utility)
    ]
    state = Learner.of(config, policy, chat, [*kinds[0], *kinds[1]])
    train(config, state, rows, kinds[0], kinds[1], out)
    learner.save(policy, chat, out.path, base)


def train(
    config: RefatConfig,
    state: Learner,
    rows: Rows,
    harmful: Sequence[Example],
    utility: Sequence[Example],
    out: StageFolder,
) -> None:
    """The loop of `run`.

    Args:
        rows: whose prompts directions are found with; harmful, utility: the tokenised rows to learn from.
    """
    directions, layers = Directions(config, state, rows), anatomy_of(state.model).layers
    with Progress("refat", config.steps) as progress:
        for step in range(config.steps):
            start, generator = time.perf_counter(), random_stream(config.seed, 2, step)
            ablation = draw_ablation(config, layers, generator)
            edits = [] if ablation is None else edits_of(state.model, directions.at(step), ablation, config.form)
            batches = [learner.turn(kind, step, config.batch_size, config.seed) for kind in (harmful, utility)]
            refusing, helping = refat_loss(state, batches[0], batches[1], edits, generator, config.utility_weight)
            (refusing + helping).backward()  # type: ignore[no-untyped-call]
            loss = refusing.item() + helping.item()
            rate = loop.learning_rate_at(step, config.steps, config.optimiser)
            norm = loop.optimiser_step(state.optimiser, state.parameters, loss, rate, config.optimiser.max_grad_norm)
            out.emit(
                event="train",
                step=step,
                ablation=None if ablation is None else ablation._asdict(),
                refusal_nats_per_token=refusing.item(),
                utility_nats_per_token=helping.item(),
                gradient_norm=norm,
                seconds=round(time.perf_counter() - start, 2),
            )
            progress.advance(loss=loss)
