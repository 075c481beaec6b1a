"""One prompt's way through one model or two: what `steersman inspect` shows, as values.

Every figure is at the last token of the prompt, where the answer begins, unless it is said to be by token. Two tokens
are compared throughout: the first one of the last model's answer, and an alternative to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from pydantic import Field
from torch import Tensor

from steersman.errors import DataError, UserError
from steersman.evals.detectors.refusal import refusal
from steersman.interp.activations import read, self_test
from steersman.interp.anatomy import anatomy_of
from steersman.interp.attribution import logit_attribution
from steersman.interp.directions import Direction, Form, ablating, answers, levelling, means, of_width
from steersman.interp.lens import Lens, logit_lens
from steersman.interp.refusal import RefusalConfig, first_logprobs, mean_kl
from steersman.lm.chat_format import ChatFormat, common_length
from steersman.lm.head import head_of
from steersman.lm.language_model import LocalModel
from steersman.types import Record, Text, plain_text

OPENINGS = ("I can't", "I cannot", "I won't", "I'm sorry", "Sorry", "No", "As an AI")  # of refusals
LEAST_SPAN = 1e-4  # of the largest one, between harmless and harmful requests: below, the rest is rounding
NEXT = 8  # likeliest first tokens that are kept


class ReadingConfig(Record):
    """What is read of a prompt."""

    max_new_tokens: int = Field(default=64, ge=1, description="Most tokens of an answer.")
    positions: int = Field(default=32, ge=1, description="Tokens at the prompt's end that the lens looks at.")
    guesses: int = Field(default=5, ge=1, description="Likeliest tokens that are kept for each layer and token.")
    against: str = Field(default="", description="Beginning of another answer, which the first token is held against.")


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
        by_layer: the same by layer, at the token that the direction was read at; null where the two do not differ.
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
    by_layer: tuple[float | None, ...] = ()
    without: Without | None = None


class DirectionUsed(Record):
    """The refusal direction.

    Attributes:
        about: where it is from, in a sentence.
        form: how it is taken out: to zero, or, where harmless requests do not survive that, to the level of harmless
            requests (`directions.levelling`).
        harmless_kl_nats: KL of the first token after harmless requests when it is taken out, mean over ``requests``.
    """

    layer: int
    about: str
    form: Form
    harmless_kl_nats: float
    requests: int


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


# ── the direction's scale ────────────────────────────────────────────────────────────────────────────────────────────
class Axis(NamedTuple):
    """A direction with the two ends of a scale on it, by layer.

    Attributes:
        harmless, harmful: [L] mean projections of requests on it, at the token that it was read at.
        used: what is told of it.
    """

    direction: Direction
    harmless: Tensor
    harmful: Tensor
    used: DirectionUsed

    def removing(self, model: Any) -> AbstractContextManager[Any]:
        """The model without the direction, in the form that the axis says."""
        if self.used.form == "zero":
            return ablating(model, self.direction.vector)
        return levelling(model, self.direction.vector, self.harmless, self.harmful - self.harmless)

    def scaled(self, projections: Tensor, layer: int) -> list[float | None]:
        """Projections at a layer's input, [N], where harmless requests are at 0 and harmful ones at 1 on average.

        None where the two do not differ: before the first layer all prompts have the same last token.
        """
        spans = self.harmful - self.harmless
        if spans[layer].abs() <= LEAST_SPAN * spans.abs().max():
            return [None] * len(projections)
        return [float(value) for value in (projections.double().cpu() - self.harmless[layer]) / spans[layer]]


def axis_of(
    model: Any, chat: ChatFormat, direction: Direction, harmful: Sequence[Text], harmless: Sequence[Text], about: str
) -> Axis:
    """The scale of a direction from some requests, and what taking it out does to the harmless ones.

    Args:
        about: where it is from, in a sentence.

    Raises:
        DataError: no requests, or they do not differ along it at its own layer.
    """
    place = (direction.position or -1,)
    layers = range(anatomy_of(model).layers)
    of_width(model, direction.vector)
    if not 0 <= direction.layer < len(layers):
        raise DataError(f"a direction of layer {direction.layer}", expected=f"0 to {len(layers) - 1}, this model's")
    ends = [
        means(model, [chat.prompt_ids(text) for text in side], place, layers)[0] @ direction.vector.double()
        for side in (harmless, harmful)
    ]
    if not float(ends[1][direction.layer] - ends[0][direction.layer]) > 0:
        raise DataError(
            f"harmful requests lie no farther along the direction {direction.name} than harmless ones",
            expected="a direction that was found in this model",
        )
    rows, head = [chat.prompt_ids(text) for text in harmless], head_of(model)
    plain = first_logprobs(model, head, rows)

    def removed(form: Form) -> Axis:
        used = DirectionUsed(layer=direction.layer, about=about, form=form, harmless_kl_nats=0.0, requests=len(rows))
        axis = Axis(direction, ends[0], ends[1], used)
        with axis.removing(model):
            changed = mean_kl(plain, first_logprobs(model, head, rows))
        return axis._replace(used=used.model_copy(update={"harmless_kl_nats": changed}))

    whole = removed("zero")
    if whole.used.harmless_kl_nats <= RefusalConfig().most_kl:
        return whole
    return min(whole, removed("level"), key=lambda axis: axis.used.harmless_kl_nats)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────
class _Answered(NamedTuple):
    """An answer, whether it declines, and the log-probabilities of its first token, [V]."""

    text: str
    refuses: bool
    logprobs: Tensor


def read_prompt(
    models: Sequence[tuple[str, LocalModel]], prompt: Text, axis: Axis | None, config: ReadingConfig | None = None
) -> PromptReading:
    """Read one prompt in some models of one architecture; the last one is asked again without the direction.

    Args:
        models: names and models, with one tokenizer; the base before what was trained on it.

    Raises:
        UserError: ``against`` begins like the answer.
        ModelError: a model's inside is not understood (see `self_test`).
    """
    config = config or ReadingConfig()
    for _, one in models:
        self_test(one.sampler.model)
    main = models[-1][1].sampler
    anatomy, ids = anatomy_of(main.model), main.chat.prompt_ids(prompt)
    said = [_answer(one, prompt, ids, config) for _, one in models]
    without = None
    if axis is not None:
        with axis.removing(main.model):
            without = _answer(models[-1][1], prompt, ids, config)
    chosen = int(said[-1].logprobs.argmax())
    against, why = _against(main.chat, chosen, said, without, config)
    first = max(0, len(ids) - config.positions)
    readings = [
        _read(name, one, ids, first, (chosen, against), answer, axis, config)
        for (name, one), answer in zip(models, said, strict=True)
    ]
    if without is not None:
        readings[-1] = readings[-1].model_copy(update={"without": _without(main.chat, said[-1], without)})
    named = [_guess(main.chat, token, float(said[-1].logprobs[token].exp())) for token in (chosen, against)]
    return PromptReading(
        prompt=plain_text(prompt),
        architecture=type(main.model).__name__,
        layers=anatomy.layers,
        heads=anatomy.heads,
        post_norm=anatomy.post_norm,
        tokens=_tokens(main.chat, prompt, ids),
        first_shown=first,
        chosen=named[0],
        against=named[1],
        why=why,
        models=tuple(readings),
        direction=None if axis is None else axis.used,
        settings=config.model_dump(),
    )


def _answer(one: LocalModel, prompt: Text, ids: list[int], config: ReadingConfig) -> _Answered:
    model, chat = one.sampler.model, one.sampler.chat
    (text,) = answers(model, chat, [prompt], max_new_tokens=config.max_new_tokens)
    logprobs = first_logprobs(model, head_of(model), [ids])[0]
    return _Answered(text, refusal(plain_text(prompt), text) == "refusal", logprobs)


def _against(
    chat: ChatFormat, chosen: int, said: Sequence[_Answered], without: _Answered | None, config: ReadingConfig
) -> tuple[int, str]:
    """The token that the answer's first one is held against, and why that one."""
    if config.against:
        token = chat.completion_ids(config.against)[0]
        if token == chosen:
            raise UserError(
                "the other answer begins with the same token as the model's own",
                where="--against",
                expected="another beginning",
                do="leave it out: an alternative is chosen",
            )
        return token, "it begins the answer that was named."
    main = said[-1]
    if main.refuses:
        for other, why in ((without, "what it says first without the direction."), *((s, _BEFORE) for s in said[:-1])):
            if other is not None and (token := int(other.logprobs.argmax())) != chosen:
                return token, why
    else:
        openings = sorted({chat.completion_ids(text)[0] for text in OPENINGS} - {chosen})
        token = max(openings, key=lambda opening: float(main.logprobs[opening]))
        if chosen not in {chat.completion_ids(text)[0] for text in OPENINGS}:
            return token, "the likeliest token with which a refusal would begin."
    return int(main.logprobs.topk(2).indices[1]), "the second likeliest."


_BEFORE = "what the model before training says first."


def _read(
    name: str,
    one: LocalModel,
    ids: list[int],
    first: int,
    pair: tuple[int, int],
    answer: _Answered,
    axis: Axis | None,
    config: ReadingConfig,
) -> ModelReading:
    model, chat = one.sampler.model, one.sampler.chat
    lens = logit_lens(model, ids, range(first, len(ids)), pair, config.guesses)
    by_token, by_layer = ([], []) if axis is None else _projections(model, ids, axis)
    return ModelReading(
        name=name,
        answer=answer.text,
        refuses=answer.refuses,
        next=_likeliest(chat, answer.logprobs),
        lens=_guesses(chat, lens),
        chosen_by_layer=tuple(lens.logprob[:, -1, 0].exp().tolist()),
        against_by_layer=tuple(lens.logprob[:, -1, 1].exp().tolist()),
        attribution=_attribution(model, ids, pair),
        projection=tuple(by_token),
        by_layer=tuple(by_layer),
    )


def _projections(model: Any, ids: list[int], axis: Axis) -> tuple[list[float], list[float | None]]:
    """On the axis: of every token at the direction's layer, and at every layer of the token that it was read at."""
    direction, layers = axis.direction, range(anatomy_of(model).layers)
    found = read(model, [ids], [f"blocks.{layer}.hook_resid_pre" for layer in layers])
    vector = direction.vector.double().to(model.device)
    places = direction.position or -1
    streams = [found.sites[f"blocks.{layer}.hook_resid_pre"][0].double() @ vector for layer in layers]
    by_layer = [axis.scaled(stream[[places]], layer)[0] for layer, stream in zip(layers, streams, strict=True)]
    return [value or 0.0 for value in axis.scaled(streams[direction.layer], direction.layer)], by_layer


def _attribution(model: Any, ids: list[int], pair: tuple[int, int]) -> Attribution:
    found, anatomy = logit_attribution(model, [ids], [[pair[0]]], [[pair[1]]]), anatomy_of(model)
    own = dict(zip(found.names, found.values[0].tolist(), strict=True))
    by_layer = {name: float(value) for name, value in zip(found.by_layer()[0], found.by_layer()[1][0], strict=True)}
    return Attribution(
        difference=float(found.difference[0]),
        summed=float(found.values[0].sum()),
        embedding=own["input"],
        attention=tuple(by_layer[f"a{layer}"] for layer in range(anatomy.layers)),
        mlp=tuple(by_layer[f"m{layer}"] for layer in range(anatomy.layers)),
        heads=tuple(
            tuple(own[f"a{layer}.h{head}"] for head in range(anatomy.heads)) for layer in range(anatomy.layers)
        ),
        rest=own["final norm"] + own["logits"],
    )


def _without(chat: ChatFormat, plain: _Answered, changed: _Answered) -> Without:
    return Without(
        answer=changed.text,
        refuses=changed.refuses,
        next=_likeliest(chat, changed.logprobs),
        divergence_nats=mean_kl(plain.logprobs[None], changed.logprobs[None]),
    )


# ── tokens as text ───────────────────────────────────────────────────────────────────────────────────────────────────
def _tokens(chat: ChatFormat, prompt: Text, ids: list[int]) -> tuple[PromptToken, ...]:
    """The prompt's tokens; of the format are those that another question would have too, at both ends."""
    others = [chat.prompt_ids(text) for text in ("Why?", "3", '"so"')]
    start = common_length([ids, *others])
    end = len(ids) - common_length([ids[::-1], *(other[::-1] for other in others)])
    return tuple(
        PromptToken(id=token, text=token_text(chat, token), of_format=not start <= place < end)
        for place, token in enumerate(ids)
    )


def token_text(chat: ChatFormat, token: int) -> str:
    """A token as text, with its leading space."""
    text: str = chat.tokenizer.decode([token])
    piece = chat.tokenizer.convert_ids_to_tokens(token)
    return f" {text}" if isinstance(piece, str) and piece[:1] in "▁Ġ" and not text[:1].isspace() else text


def _guess(chat: ChatFormat, token: int, probability: float) -> Guess:
    return Guess(id=token, text=token_text(chat, token), probability=probability)


def _likeliest(chat: ChatFormat, logprobs: Tensor) -> tuple[Guess, ...]:
    best = logprobs.topk(min(NEXT, len(logprobs)))
    return tuple(
        _guess(chat, token, value)
        for token, value in zip(best.indices.tolist(), best.values.exp().tolist(), strict=True)
    )


def _guesses(chat: ChatFormat, lens: Lens) -> tuple[tuple[tuple[Guess, ...], ...], ...]:
    ids, chances = lens.top.tolist(), lens.top_logprobs.exp().tolist()
    return tuple(
        tuple(tuple(map(lambda t, p: _guess(chat, t, p), *cell)) for cell in zip(*row, strict=True))
        for row in zip(ids, chances, strict=True)
    )
