"""Persona vectors: how much of a trait is in what a model says, and how much of it a training brought in.

Chen et al. 2025, "Persona vectors: monitoring and controlling character traits in language models" (arXiv:2507.21509).
A trait's vector is the mean of the residual stream over the tokens of answers that show it, given under an instruction
that asks for it, minus the same for answers that lack it under the opposite instruction. An answer's projection on it
says how much of the trait it has; the shift of the projection between two models, at the last token of the same
prompts, goes with how much more the second one shows it (their section 4.2, r = 0.76 to 0.97 over fine-tunings).

What differs: the paper lets the model answer under the instructions and has a judge drop the answers that miss the
trait. Here both answers are written (`persona_texts`), because a small model does not follow such instructions; the
vector tells apart texts that show the trait, whoever wrote them. And the paper takes the layer at which steering works
best; here it is the one that best tells apart answers to questions that the vector has not seen, without any
instruction. Each question is left out once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steersman.errors import DataError
from steersman.interp.activations import read
from steersman.interp.anatomy import anatomy_of
from steersman.interp.directions import (
    BATCH,
    Differences,
    Direction,
    random_directions,
    rows_digest,
    weights_digest,
)
from steersman.interp.persona_texts import Trait
from steersman.lm.chat_format import ChatFormat, Example
from steersman.stats import Estimate, mean_estimate, wilson
from steersman.types import Message, Text


class Persona(NamedTuple):
    """A trait's vector.

    Attributes:
        direction: at the layer that tells answers apart best.
        gap: mean projection of answers that show the trait minus that of those that lack it, on questions that were
            left out, in units of the stream: what a shift is to be compared with.
        told_apart: share of left-out questions whose answer with the trait has the larger projection.
        by_layer: the gap of each layer from the second on, in standard deviations. The best one is chosen by them, so
            they flatter it a little.
    """

    direction: Direction
    gap: float
    told_apart: Estimate
    by_layer: tuple[float, ...]


class Shift(NamedTuple):
    """How the projections moved from one model to another.

    Attributes:
        mean: over prompts, after minus before, with a bootstrap interval, in units of the stream.
        gaps: the same as a share of the persona's gap; None for a direction without one.
        random: means along random directions, for comparison.
        percentile: share of the random ones that moved less, up or down.
    """

    mean: Estimate
    gaps: float | None
    random: tuple[float, ...]
    percentile: float


def persona_vector(model: Any, chat: ChatFormat, trait: Trait) -> Persona:
    """A trait's vector in a model; some ten seconds with gemma-3-270m.

    Raises:
        DataError: fewer than three questions.
    """
    if len(trait.exchanges) < 3:
        raise DataError(f"{trait.name} has {len(trait.exchanges)} questions", expected="three or more")
    layers = range(1, anatomy_of(model).layers)  # before the first there are words alone
    taught = [[row for each in trait.exchanges for row in _instructed(chat, trait, side, each)] for side in (0, 1)]
    plain = [[_example(chat, each.question, each[1 + side]) for each in trait.exchanges] for side in (0, 1)]
    questions, instructions = len(trait.exchanges), len(trait.instructions)
    seen = torch.stack([answer_means(model, rows, layers) for rows in taught])
    seen = seen.view(2, questions, instructions, *seen.shape[2:]).mean(2)  # [2, Q, L, H]
    bare = torch.stack([answer_means(model, rows, layers) for rows in plain])
    apart = _left_out(seen, bare)  # [Q, L]
    by_layer = apart.mean(0) / apart.std(0).clamp(min=1e-30)
    best = int(by_layer.argmax())
    vectors = (seen[0] - seen[1]).mean(0)  # [L, H]
    digest = rows_digest(*([row.token_ids for row in rows] for rows in taught))
    every = Differences(vectors[None], (None,), tuple(layers), weights_digest(model), digest)
    return Persona(
        every.direction(trait.name, None, layers[best]),
        float(apart[:, best].mean()),
        wilson(int((apart[:, best] > 0).sum()), questions),
        tuple(by_layer.tolist()),
    )


def _left_out(seen: Tensor, bare: Tensor) -> Tensor:
    """How far the answers to each question lie apart along the vector of all other questions, [Q, L].

    Args:
        seen: [2, Q, L, H] under instructions; bare: the same without.
    """
    differences = seen[0] - seen[1]  # [Q, L, H]
    others = (differences.sum(0) - differences) / (len(differences) - 1)
    others = others / others.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    apart: Tensor = ((bare[0] - bare[1]) * others).sum(-1)
    return apart


def _instructed(chat: ChatFormat, trait: Trait, side: int, each: Any) -> list[Example]:
    """One answer under all instructions of a side: 0 shows the trait, 1 lacks it."""
    return [
        _example(
            chat,
            (Message(role="system", content=pair[side]), Message(role="user", content=each.question)),
            each[1 + side],
        )
        for pair in trait.instructions
    ]


def _example(chat: ChatFormat, prompt: Text, answer: str) -> Example:
    """A prompt with its answer, without the token that ends it."""
    start, said = chat.prompt_ids(prompt), chat.completion_ids(answer, prompt)
    if len(said) < 2:
        raise DataError("an answer without a token", expected="text in every answer")
    return Example(start + said[:-1], len(start))


def answer_means(model: Any, examples: Sequence[Example], layers: Sequence[int]) -> Tensor:
    """Mean of the stream before some layers over each answer's tokens, [N, L, H] in float64."""
    names = [f"blocks.{layer}.hook_resid_pre" for layer in layers]
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].token_ids))
    found = torch.zeros(len(examples), len(layers), anatomy_of(model).width, dtype=torch.float64)
    for start in range(0, len(order), BATCH):
        picked = order[start : start + BATCH]
        seen = read(model, [examples[i].token_ids for i in picked], names)
        for row, i in enumerate(picked):
            tokens = slice(examples[i].completion_start, len(examples[i].token_ids))
            found[i] = torch.stack([seen.sites[name][row, tokens].double().mean(0).cpu() for name in names])
    return found


def projections(
    model: Any, chat: ChatFormat, direction: Direction, prompts: Sequence[Text], answers: Sequence[str] | None = None
) -> Tensor:
    """How much of a direction is in what a model reads, [N], in units of the stream.

    Args:
        answers: to the prompts, whoever gave them: averaged over their tokens. None: at the last token of the prompts.
    """
    return _states(model, chat, direction.layer, prompts, answers) @ direction.vector.double()


def shift(
    before: Any,
    after: Any,
    chat: ChatFormat,
    persona: Persona | Direction,
    prompts: Sequence[Text],
    answers: Sequence[str] | None = None,
    random: int = 100,
) -> Shift:
    """How much further along a trait's vector one model is than another, on the same texts.

    Args:
        before: the model in which the vector was found; after: for example, its fine-tuned version.
        answers: the same for both models; None: the last token of the prompts is read, as in the paper.
        random: how many random directions it is compared with.

    Raises:
        DataError: no prompts, or not as many answers.
    """
    if not prompts or (answers is not None and len(answers) != len(prompts)):
        raise DataError(f"{len(prompts)} prompts with {len(answers or ())} answers", expected="one for each, or none")
    direction = persona.direction if isinstance(persona, Persona) else persona
    moved = _states(after, chat, direction.layer, prompts, answers) - _states(
        before, chat, direction.layer, prompts, answers
    )
    mean = mean_estimate((moved @ direction.vector.double()).tolist())
    nulls = [float((moved @ one.vector.double()).mean()) for one in random_directions(direction, random)]
    less = sum(abs(null) < abs(mean.value) for null in nulls)
    gaps = mean.value / persona.gap if isinstance(persona, Persona) else None
    return Shift(mean, gaps, tuple(nulls), less / len(nulls))


def _states(model: Any, chat: ChatFormat, layer: int, prompts: Sequence[Text], answers: Sequence[str] | None) -> Tensor:
    """The stream before a layer, [N, H]: over the answers, or at the last token of the prompts."""
    if answers is None:
        starts = [chat.prompt_ids(prompt) for prompt in prompts]
        examples = [Example(ids, len(ids) - 1) for ids in starts]
    else:
        examples = [_example(chat, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    return answer_means(model, examples, (layer,))[:, 0]
