"""The refusal direction: one vector of the residual stream without which the model does not decline, and with which it
declines what is harmless.

Arditi et al. 2024, "Refusal in language models is mediated by a single direction" (arXiv:2406.11717); the constants are
those of their code (andyrdt/refusal_direction). Candidates are differences of means between harmful and harmless
prompts, at each layer's input and each token that the chat template writes behind the question. With R the tokens with
which refusals begin, and m the mass of R at the answer's first token, the refusal score is log m - log(1 - m). Of each
candidate three numbers are taken on prompts that the means were not:

    ablation   refusal score of harmful prompts when it is taken out at every layer: the lower, the better
    steering   refusal score of harmless prompts when it is added at its own layer
    KL         of the first token after harmless prompts, plain || ablated, in nats

A candidate is out if a number is not finite, it is of the last fifth of the layers, its KL is over 0.1 or its steering
below 0. Of the others the one with the lowest ablation score is the refusal direction. Prompts whose own score has the
wrong sign (harmful ones that are answered, harmless ones that are declined) are dropped before, and counted.

The zero is the paper's where most harmful prompts are above it. A model that declines in many words puts less than half
of its mass on any few tokens; then zero is the middle between the mean scores of both kinds (`RefusalDirection.zero`).

What differs: R is counted from the model's own first tokens, each with its probability, not written by hand; of
candidates that are nearly parallel one is tried (`RefusalConfig.candidates`; null tries all, as the paper does); the KL
has no epsilon; and where the paper's code fails, because every candidate is out or the model does not refuse, the
result says so: there is no single direction.

*Cleared candidates.* In models with massive activations (Gemma 3) a difference of means holds much of what all tokens
have in common, and taking that out breaks the model: no candidate passes the KL. Then a second round tries the same
differences without their part in the span of the stream's means over harmless prompts, at every layer, of the first
token and of the others ("projected abliteration", grimjim 2025, does so with the mean at one layer). The result says
which round a direction is from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from steersman.errors import DataError
from steersman.interp.activations import padded, read
from steersman.interp.anatomy import anatomy_of
from steersman.interp.directions import (
    BATCH,
    Differences,
    Direction,
    ablating,
    adding,
    batches,
    differences,
    levelling,
    means,
    post_instruction,
    rows_digest,
    weights_digest,
)
from steersman.lm.chat_format import ChatFormat
from steersman.lm.head import Head, evaluating, head_of, trunk
from steersman.store import sha256_text
from steersman.types import Record, Text, plain_text

EPSILON = 1e-8  # added to masses before their logarithm
FEWEST = 4  # prompts of a kind, to take a mean over or to compare candidates with
SPAN = 1e-3  # of the largest singular value: smaller ones are no part of a span
LEVEL_PROMPTS = 32  # of each kind, for `nearest`
MOST_LEVEL_KL = 0.3  # nats of the first token after harmless prompts
KL_ROWS = 8  # distributions over the whole vocabulary that are compared at once


class RefusalConfig(Record):
    """How the refusal direction is chosen."""

    fit: int = Field(default=128, ge=FEWEST, description="Most prompts of each kind that the means are taken over.")
    validation: int = Field(default=32, ge=FEWEST, description="Most prompts of each kind to compare candidates with.")
    candidates: int | None = Field(
        default=12, ge=1, description="How many directions are compared, as different as can be; null: all."
    )
    most_kl: float = Field(default=0.1, gt=0, description="Nats of the first token after harmless prompts.")
    last_share: float = Field(default=0.2, ge=0, lt=1, description="Of the layers, from which no direction is taken.")
    least_steering: float = Field(
        default=0.0, description="Refusal score of harmless prompts with it added, over zero."
    )
    clear: Literal["if_none_passes", "always", "never"] = Field(
        default="if_none_passes", description="Whether candidates lose what all tokens have in common."
    )
    token_share: float = Field(
        default=0.01, gt=0, le=1, description="A refusal token begins this share of the answers to harmful prompts,"
    )
    token_ratio: float = Field(default=4.0, ge=1, description="and so many times the share of those to harmless ones.")


class Measures(NamedTuple):
    """The three numbers of a direction, see the top of this file."""

    ablation: float
    steering: float
    kl: float


class Candidate(NamedTuple):
    """A direction that was tried.

    Attributes:
        ablation, steering, kl: as of `Measures`.
        norm: of the difference of the means.
        out: why it was left out; empty if it was not.
        cleared: of the second round.
    """

    position: int
    layer: int
    ablation: float
    steering: float
    kl: float
    norm: float
    out: str
    cleared: bool = False


@dataclass(frozen=True)
class RefusalDirection:
    """What was found.

    Attributes:
        direction: None if there is no single direction; ``reason`` says why.
        tokens: first tokens of refusals, each with its share among answers to harmful and to harmless prompts.
        zero: the score from which on a prompt counts as refused.
        harmful_score, harmless_score: mean refusal scores of the prompts that candidates were compared with.
        candidates: those that were tried, best first; ``untried`` were nearly parallel to one of them.
        dropped_harmful, dropped_harmless: prompts whose own score has the wrong sign.
    """

    direction: Direction | None
    reason: str
    tokens: dict[int, tuple[float, float]]
    zero: float
    harmful_score: float
    harmless_score: float
    candidates: tuple[Candidate, ...]
    untried: int
    dropped_harmful: int
    dropped_harmless: int
    fitted: tuple[int, int]
    validated: tuple[int, int]


def refusal_direction(
    model: Any, chat: ChatFormat, harmful: Sequence[Text], harmless: Sequence[Text], config: RefusalConfig | None = None
) -> RefusalDirection:
    """Find the refusal direction of a model; about two minutes with gemma-3-270m on two cores.

    Args:
        model: in evaluation mode or not; adapters may be on it.
        harmful, harmless: different prompts; which of them serve for the means follows from a digest of their text.

    Raises:
        DataError: fewer than eight prompts of a kind.
    """
    config = config or RefusalConfig()
    with torch.no_grad(), evaluating(model):
        tried = _Trial(model, chat, config, head_of(model))
        return tried.find(_shuffled(harmful, "harmful"), _shuffled(harmless, "harmless"))


def _shuffled(prompts: Sequence[Text], kind: str) -> list[Text]:
    """Each prompt once, in an order that nobody chose."""
    once = sorted({plain_text(prompt): prompt for prompt in prompts}.items(), key=lambda item: sha256_text(item[0]))
    if len(once) < 2 * FEWEST:
        raise DataError(f"{len(once)} different {kind} prompts", expected=f"{2 * FEWEST} or more")
    return [prompt for _, prompt in once]


class _Trial:
    """One search, with what all its steps need."""

    def __init__(self, model: Any, chat: ChatFormat, config: RefusalConfig, head: Head) -> None:
        self.model, self.chat, self.config, self.head = model, chat, config, head
        self.tokens: list[int] = []
        self.zero = 0.0

    def find(self, harmful: list[Text], harmless: list[Text]) -> RefusalDirection:
        """The whole procedure."""
        bad, good = (
            [self.chat.prompt_ids(text) for text in side[: self.config.fit + self.config.validation]]
            for side in (harmful, harmless)
        )
        first_bad, first_good = (first_logprobs(self.model, self.head, rows) for rows in (bad, good))
        shares = refusal_tokens(first_bad.exp().mean(0), first_good.exp().mean(0), self.config)
        self.tokens = list(shares)
        scores_bad, scores_good = (refusal_scores(first, self.tokens) for first in (first_bad, first_good))
        self.zero = zero_of(scores_bad, scores_good)
        refused = [row for row, score in zip(bad, scores_bad.tolist(), strict=True) if score > self.zero]
        answered = [row for row, score in zip(good, scores_good.tolist(), strict=True) if score < self.zero]
        fit_bad, val_bad = self.split(refused)
        fit_good, val_good = self.split(answered)
        found = RefusalDirection(
            direction=None,
            reason="",
            tokens=shares,
            zero=self.zero,
            harmful_score=float(scores_bad[scores_bad > self.zero].mean()),
            harmless_score=float(scores_good[scores_good < self.zero].mean()),
            candidates=(),
            untried=0,
            dropped_harmful=len(bad) - len(refused),
            dropped_harmless=len(good) - len(answered),
            fitted=(len(fit_bad), len(fit_good)),
            validated=(len(val_bad), len(val_good)),
        )
        if reason := self._nothing_to_find(refused, answered):
            return replace(found, reason=reason)
        every = differences(self.model, fit_bad, fit_good, positions=post_instruction(self.chat), layers=self.layers())
        rounds, tried = {False: every}, list[Candidate]()
        if self.config.clear != "always":
            tried += self.round(every, val_bad, val_good)
        if self.config.clear == "always" or (self.config.clear == "if_none_passes" and tried[0].out):
            rounds[True] = every._replace(vectors=clear_of(every.vectors, common_stream(self.model, fit_good)))
            tried += [one._replace(cleared=True) for one in self.round(rounds[True], val_bad, val_good)]
        ranked = sorted(tried, key=preference)
        kinds = len({one.cleared for one in ranked})
        untried = kinds * len(every.positions) * len(every.layers) - len(ranked)
        found, best = replace(found, candidates=tuple(ranked), untried=untried), ranked[0]
        if best.out:
            return replace(found, reason=f"no single direction: of {len(ranked)} candidates none passes the filters")
        return replace(found, direction=rounds[best.cleared].direction("refusal", best.position, best.layer))

    def round(self, every: Differences, harmful: list[Any], harmless: list[Any]) -> list[Candidate]:
        """Some of the candidates with their numbers, best first."""
        plain = first_logprobs(self.model, self.head, harmless)
        picked = spread(every, self.config.candidates)
        return sorted((self.candidate(every, *place, harmful, harmless, plain) for place in picked), key=preference)

    def layers(self) -> range:
        """Those whose inputs are candidates: not the last fifth (the paper tries them, and drops them)."""
        return range(int(anatomy_of(self.model).layers * (1 - self.config.last_share)) or 1)

    def split(self, rows: list[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
        """For the means, and for comparing: a fifth of few."""
        apart = min(self.config.validation, max(FEWEST, len(rows) // 5))
        return rows[apart:][: self.config.fit], rows[:apart]

    def _nothing_to_find(self, refused: Sequence[Any], answered: Sequence[Any]) -> str:
        """Why there is no refusal to explain; empty if there is."""
        if not self.tokens:
            return "no refusal: answers to harmful prompts begin with no token of their own"
        for kind, left in (("harmful prompts that it refuses", refused), ("harmless ones that it answers", answered)):
            if len(left) < 2 * FEWEST:
                return f"no refusal to explain: {len(left)} {kind}, and {2 * FEWEST} are needed"
        return ""

    def candidate(
        self, every: Differences, position: int, layer: int, harmful: list[Any], harmless: list[Any], plain: Tensor
    ) -> Candidate:
        """One direction with its three numbers and whether it is out."""
        one = every.direction("candidate", position, layer)
        found = measure(self.model, self.head, one, self.tokens, harmful, harmless, plain)
        return Candidate(position, layer, *found, one.norm, self.out(layer, found))

    def out(self, layer: int, found: Measures) -> str:
        """The first of the paper's filters that drops a direction."""
        if not all(map(math.isfinite, found)):
            return "not finite"
        if layer >= int(anatomy_of(self.model).layers * (1 - self.config.last_share)):
            return "late layer"
        if found.kl > self.config.most_kl:
            return "changes harmless answers"
        return "does not induce refusal" if found.steering < self.zero + self.config.least_steering else ""


def measure(
    model: Any, head: Head, one: Direction, tokens: Sequence[int], harmful: Any, harmless: Any, plain: Tensor
) -> Measures:
    """The three numbers of any direction, for example a random one.

    Args:
        tokens: with which refusals begin.
        harmful, harmless: token ids of prompts.
        plain: `first_logprobs` of the harmless ones without an intervention.
    """
    with ablating(model, one.vector):
        ablation = float(refusal_scores(first_logprobs(model, head, harmful), tokens).mean())
        kl = mean_kl(plain, first_logprobs(model, head, harmless))
    with adding(model, one.layer, one.difference):
        steering = float(refusal_scores(first_logprobs(model, head, harmless), tokens).mean())
    return Measures(ablation, steering, kl)


def nearest(
    model: Any, chat: ChatFormat, found: RefusalDirection, harmful: Sequence[Text], harmless: Sequence[Text], name: str
) -> tuple[Direction, Measures]:
    """Where no candidate passes: the one with which levelling (`directions.levelling`) leaves the least refusal.

    Among those that change harmless answers by at most `MOST_LEVEL_KL`, if there are any; steering is not measured.

    Args:
        found: a search that tried candidates.
        harmful, harmless: prompts; the first `LEVEL_PROMPTS` of each serve.
        name: of the direction.
    """
    bad, good = ([chat.prompt_ids(text) for text in side[:LEVEL_PROMPTS]] for side in (harmful, harmless))
    head, layers, tokens = head_of(model), range(anatomy_of(model).layers), list(found.tokens)
    places = sorted({(one.position, one.layer) for one in found.candidates})
    tried = []
    with torch.no_grad(), evaluating(model):
        plain = first_logprobs(model, head, good)
        positions = tuple(sorted({position for position, _ in places}))
        ends = [means(model, rows, positions, layers) for rows in (good, bad)]  # [P, L, H] each
        digests = weights_digest(model), rows_digest(bad, good)
        every = Differences(ends[1] - ends[0], positions, tuple(layers), *digests)
        for position, layer in places:
            one, at = every.direction(name, position, layer), positions.index(position)
            levels, gaps = (side[at] @ one.vector.double() for side in (ends[0], every.vectors))
            with levelling(model, one.vector, levels, gaps):
                left = float(refusal_scores(first_logprobs(model, head, bad), tokens).mean())
                tried.append((one, Measures(left, math.nan, mean_kl(plain, first_logprobs(model, head, good)))))
    return min(tried, key=lambda pair: (pair[1].kl > MOST_LEVEL_KL, pair[1].ablation))


def preference(one: Candidate) -> tuple[bool, float]:
    """Sorts candidates: those that pass the filters first, then by the ablation score."""
    return bool(one.out), one.ablation if math.isfinite(one.ablation) else math.inf


def refusal_tokens(harmful: Tensor, harmless: Tensor, config: RefusalConfig) -> dict[int, tuple[float, float]]:
    """Tokens that begin answers to harmful prompts often and to harmless ones seldom, most frequent first.

    Args:
        harmful, harmless: [V] mean probability of each token to be an answer's first: expected shares.

    Returns:
        their shares among both.
    """
    often = (harmful >= config.token_share) & (harmful >= config.token_ratio * harmless)
    found = [(int(token), (float(harmful[token]), float(harmless[token]))) for token in often.nonzero()[:, 0]]
    return dict(sorted(found, key=lambda item: -item[1][0]))


def refusal_scores(logprobs: Tensor, tokens: Sequence[int]) -> Tensor:
    """Log-odds that an answer begins with one of the tokens, [N] in float64; logprobs is [N, V]."""
    mass = logprobs[:, list(tokens)].double().exp().sum(-1).clamp(max=1.0)
    return (mass + EPSILON).log() - (1 - mass + EPSILON).log()


def zero_of(harmful: Tensor, harmless: Tensor) -> float:
    """From which score on a prompt counts as refused, given those of both kinds, [N] each."""
    if float((harmful > 0).double().mean()) > 0.5 or not float(harmful.mean()) > float(harmless.mean()):
        return 0.0
    return float(harmful.mean() + harmless.mean()) / 2


def first_logprobs(model: Any, head: Head, rows: Sequence[Sequence[int]]) -> Tensor:
    """Log-probabilities in nats of the token after each text, [N, V] in float32."""
    found: dict[int, Tensor] = {}
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), BATCH):
        picked = order[start : start + BATCH]
        ids, mask = padded(model, [rows[i] for i in picked])
        with torch.no_grad():
            hidden = trunk(model)(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
            last = hidden[torch.arange(len(picked), device=hidden.device), mask.sum(1) - 1]
            found.update(zip(picked, head.logits(last).float().log_softmax(-1), strict=True))
    return torch.stack([found[i] for i in range(len(rows))])


def mean_kl(plain: Tensor, changed: Tensor) -> float:
    """Mean KL(plain || changed) in nats of distributions given as log-probabilities, [N, V]."""
    parts = [
        (p.double().exp() * (p.double() - q.double())).sum(-1)
        for p, q in zip(torch.split(plain, KL_ROWS), torch.split(changed, KL_ROWS), strict=True)
    ]
    return float(torch.cat(parts).mean())


def common_stream(model: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    """What all tokens have in common: the mean of the stream before each layer, of texts' first tokens and of the
    others, [2 L, H] in float64."""
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(anatomy_of(model).layers)]
    first = torch.zeros(len(names), anatomy_of(model).width, dtype=torch.float64)
    others, count = torch.zeros_like(first), 0
    for batch in batches(rows):
        seen = read(model, batch, names)
        stream = torch.stack([seen.sites[name].double().cpu() for name in names])  # [L, B, T, H]
        mask = seen.mask.cpu()
        first += stream[:, :, 0].sum(1)
        others += (stream[:, :, 1:] * mask[:, 1:, None]).sum((1, 2))
        count += int(mask[:, 1:].sum())
    return torch.cat([first / len(rows), others / max(count, 1)])


def clear_of(vectors: Tensor, others: Tensor) -> Tensor:
    """Vectors, [..., H], without their part in the span of some others, [K, H]; of these only directions matter."""
    units = others / others.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    _, sizes, basis = torch.linalg.svd(units, full_matrices=False)
    basis = basis[sizes > SPAN * sizes[0]]
    cleared: Tensor = vectors - (vectors @ basis.T) @ basis
    return cleared


def spread(every: Differences, count: int | None) -> list[tuple[int, int]]:
    """Some of the candidates, as different as can be: (position, layer) of each, the longest one first.

    Each next one is that whose largest cosine, of either sign, with those before it is smallest.
    """
    places = [(position, layer) for position in every.positions for layer in every.layers if position is not None]
    vectors = every.vectors.flatten(0, 1)
    norms = vectors.norm(dim=-1)
    usable = norms > 1e-6 * norms.max()  # before the first layer, a template's tokens are the same in all prompts
    units = vectors / norms.clamp(min=1e-30)[:, None]
    if count is None or count >= int(usable.sum()):
        return [place for place, good in zip(places, usable.tolist(), strict=True) if good]
    picked = [int(norms.argmax())]
    nearest = (units @ units[picked[0]]).abs()
    while len(picked) < count:
        nearest[picked] = math.inf
        nearest[~usable] = math.inf
        picked.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, (units @ units[picked[-1]]).abs())
    return [places[i] for i in picked]
