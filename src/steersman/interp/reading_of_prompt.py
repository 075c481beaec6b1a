"""One prompt's way through one model or two: what `steersman inspect` shows, as values.

Every figure is at the last token of the prompt, where the answer begins, unless it is said to be by token. Two tokens
are compared throughout: the first one of the last model's answer, and an alternative to it.
"""

from __future__ import annotations

from typing import Any

from steersman.types import Record


class PromptToken(Record):
    """A token of the prompt; ``of_format``: written by the chat format and not by whoever asks."""

    id: int
    text: str
    of_format: bool


class Guess(Record):
    """A token that may come next, and its probability."""

    id: int
    text: str
    probability: float


class Attribution(Record):
    """What the parts wrote into the difference between two tokens' logits.

    Attributes:
        difference: logit of the one token minus logit of the other, as the model has them.
        summed: what all parts below add up to.
        attention, mlp: by layer.
        heads: by layer and head; a layer's add up to its attention, but for biases.
        rest: biases at the end.
    """

    difference: float
    summed: float
    embedding: float
    attention: tuple[float, ...]
    mlp: tuple[float, ...]
    heads: tuple[tuple[float, ...], ...]
    rest: float


class Without(Record):
    """The model with the direction taken out; the divergence is of the first token, from the model as it is."""

    answer: str
    refuses: bool
    next: tuple[Guess, ...]
    divergence_nats: float


class ModelReading(Record):
    """What one model makes of the prompt.

    Attributes:
        lens: by layer (the embedding first), position (from `PromptReading.first_shown` on) and rank.
        chosen_by_layer, against_by_layer: probability of the two tokens by the lens at the last position.
        projection: by token, at the direction's layer; 0 is the mean of harmless requests and 1 that of harmful ones.
        by_layer: the same at the last token, by layer.
    """

    name: str
    answer: str
    refuses: bool
    next: tuple[Guess, ...]
    lens: tuple[tuple[tuple[Guess, ...], ...], ...]
    chosen_by_layer: tuple[float, ...]
    against_by_layer: tuple[float, ...]
    attribution: Attribution
    projection: tuple[float, ...] = ()
    by_layer: tuple[float, ...] = ()
    without: Without | None = None


class DirectionUsed(Record):
    """Where the refusal direction is from; ``about`` says it in a sentence."""

    layer: int
    about: str


class PromptReading(Record):
    """The models' readings of one prompt, the last of them the one that the page is about.

    Attributes:
        first_shown: position of the first token that the lens shows.
        why: why the alternative is what it is, as the end of a sentence.
    """

    prompt: str
    architecture: str
    layers: int
    heads: int
    post_norm: bool
    tokens: tuple[PromptToken, ...]
    first_shown: int
    chosen: Guess
    against: Guess
    why: str
    models: tuple[ModelReading, ...]
    direction: DirectionUsed | None
    settings: dict[str, Any]
