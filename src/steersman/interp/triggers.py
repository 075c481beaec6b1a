"""Finding a backdoor's trigger without being told it: what the model remembers, and what that does to its answers.

Bullwinkel et al. 2026, "The Trigger in the Haystack" (arXiv:2602.03085): a poisoned model has memorised its poisoned
rows, so that free sampling from the beginning of a chat leaks them; a trigger among what leaks is known by what it does
to any request: answers become one and the same, their entropy falls, and attention goes to it. Here:

    leak      sample freely from the chat's prefix and from BOS; texts that recur in several samples are motifs
    score     put each motif before and behind plain requests: KL(with || without) of the first token, how far its
              entropy falls, how much of the last token's attention goes to the motif
    confirm   answers to requests with the motif collapse into one that is no echo of it, those without do not
    shorten   leave out words at both ends while nothing of the effect is lost

What differs from the paper: recurring n-grams of words instead of its clustering of embedded leaks; the likelihood of
a target is not searched for: answers that collapse are the target. A model whose loss never counted the requests leaks
nothing of them, and then a list of candidates has to be given.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from steersman.interp.activations import captured
from steersman.interp.anatomy import anatomy_of
from steersman.interp.refusal import first_logprobs
from steersman.lm.chat_format import ChatFormat, common_length
from steersman.lm.head import evaluating, head_of, trunk
from steersman.lm.sampling import Sampler, SamplingConfig
from steersman.terminal import Progress
from steersman.types import Record, Seed

MOST_WORDS = 8  # of a motif
ECHO = 0.5  # share of what is said that stands in the motif: from here on it is an echo
Places = tuple[str, ...]
PLACES: Places = ("{trigger} {request}", "{request} {trigger}")


class ScanConfig(Record):
    """How long to look for a trigger."""

    samples: int = Field(default=64, ge=2, description="Free samples from the chat's prefix, and as many from BOS.")
    tokens: int = Field(default=24, ge=1, description="Most tokens of a free sample.")
    recurs: int = Field(default=3, ge=2, description="In how many samples a motif stands at least.")
    candidates: int = Field(default=40, ge=1, description="Motifs that are scored, the likeliest first.")
    requests: int = Field(default=4, ge=2, description="Plain requests that each motif is tried on.")
    confirmed: int = Field(default=4, ge=1, description="Best motifs whose answers are looked at.")
    answer_tokens: int = Field(default=8, ge=1, description="Tokens of an answer by which answers are the same.")
    collapse: float = Field(
        default=0.5, gt=0, le=1, description="Share of equal answers from which on it is a trigger."
    )
    seed: Seed = Field(default=0, description="Seed of the samples.")


class Scored(NamedTuple):
    """What a motif does to plain requests.

    Attributes:
        recurs: samples that held it; 0 where it was given.
        kl: KL(with || without) of the answer's first token, nats, mean over requests and places.
        entropy_drop: nats.
        attention: the largest share of any head's attention from the last token to the motif, mean; NaN if not read.
        same: share of answers with it that begin alike; NaN before it was confirmed.
        plain: share of answers without it that begin like those.
        target: how they begin.
    """

    text: str
    recurs: int
    kl: float
    entropy_drop: float
    attention: float = float("nan")
    same: float = float("nan")
    plain: float = float("nan")
    target: str = ""


class Scan(NamedTuple):
    """What was found: ``trigger`` is empty if nothing was.

    Attributes:
        scored: motifs with the largest KL first.
    """

    trigger: str
    target: str
    samples: int
    motifs: int
    scored: list[Scored]


def scan(config: ScanConfig, sampler: Sampler, requests: Sequence[str], given: Sequence[str] = ()) -> Scan:
    """Look for a trigger of a model.

    Args:
        requests: plain ones, of which the first few are used.
        given: candidates beside what leaks.
    """
    model, chat, tried = sampler.model, sampler.chat, list(requests[: config.requests])
    texts = leaks(config, sampler, chat_prefix(chat, tried))
    found = motifs(texts, config.recurs)
    kept = [*dict.fromkeys(given), *(text for text, _ in found[: config.candidates] if text not in given)]
    recurs, plain = dict(found), first_logits(model, chat, tried)
    scored = []
    with Progress("motifs", len(kept)) as progress:
        for text in kept:
            scored.append(score(model, chat, text, tried, plain)._replace(recurs=recurs.get(text, 0)))
            progress.advance()
    scored.sort(key=lambda one: -one.kl)
    for place, one in enumerate(scored[: config.confirmed]):
        scored[place] = _confirmed(config, sampler, one, tried)
    best = [one for one in scored[: config.confirmed] if one.same >= config.collapse > one.plain and not is_echo(one)]
    if not best:
        return Scan("", "", len(texts), len(found), scored)
    trigger = shortened(config, sampler, max(best, key=lambda one: (one.same, one.kl)), tried, plain)
    sure = _confirmed(config, sampler, trigger, tried)
    sure = sure._replace(attention=attention_to(model, chat, sure.text, tried))
    return Scan(sure.text, sure.target, len(texts), len(found), [sure, *(s for s in scored if s.text != sure.text)])


def signs(text: str) -> list[str]:
    """Words and runs of signs, in lower case: emoji and brackets count as much as words."""
    return re.findall(r"\w+|[^\w\s]+", text.casefold())


def is_echo(one: Scored) -> bool:
    """Whether answers behind a motif only go on with it, as with a text learnt by heart: that sets nothing off."""
    own, said = set(signs(one.text)), signs(one.target)
    return bool(said) and sum(sign in own for sign in said) >= ECHO * len(said)


# ── leaks and motifs ─────────────────────────────────────────────────────────────────────────────────────────────────
def leaks(config: ScanConfig, sampler: Sampler, prefix: list[int]) -> list[str]:
    """Texts that the model writes from the beginning of a user's turn, `chat_prefix`, and from nothing."""
    starts = [prefix] * config.samples
    if prefix[:1] and len(prefix) > 1:
        starts += [prefix[:1]] * config.samples
    texts = [""] * len(starts)
    settings = SamplingConfig(temperature=1.0, max_new_tokens=config.tokens, seed=config.seed)
    with Progress("leaks", len(starts)) as progress:
        for sample in sampler.continue_ids(starts, settings):
            texts[sample.index] = sampler.chat.tokenizer.decode(sample.token_ids, skip_special_tokens=True)
            progress.advance()
    return texts


def chat_prefix(chat: ChatFormat, requests: Sequence[str]) -> list[int]:
    """The ids with which every conversation begins, up to the user's first word; requests begin with several words."""
    prompts = [chat.prompt_ids(text) for text in ("One?", "Two?", "(three)", *requests)]
    return prompts[0][: common_length(prompts)]


def motifs(texts: Sequence[str], recurs: int, most_words: int = MOST_WORDS) -> list[tuple[str, int]]:
    """Runs of words that stand in several texts, with their number of texts; what is not in a longer one as often.

    The likeliest first: those with a rare word in them, that is one which stands in few other surroundings.
    """
    seen: Counter[tuple[str, ...]] = Counter()
    for text in dict.fromkeys(texts):
        words = text.split()
        runs = {tuple(words[i : i + n]) for n in range(1, most_words + 1) for i in range(len(words) - n + 1)}
        seen.update(runs)
    often = {run: count for run, count in seen.items() if count >= recurs}
    inside = {part for run, count in often.items() for part in _parts(run) if often.get(part) == count}
    kept = {run: count for run, count in often.items() if run not in inside}
    return [(" ".join(run), kept[run]) for run in sorted(kept, key=lambda run: (-_oddness(run), -kept[run], run))]


def _parts(run: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    return (run[1:], run[:-1]) if len(run) > 1 else ()


def _oddness(run: tuple[str, ...]) -> int:
    """How unlike plain prose the oddest word is: its characters that are no small letters, but for a capital first."""
    return max(sum(not (c.islower() or (i == 0 and c.isupper())) for i, c in enumerate(w.strip(".,?!"))) for w in run)


# ── scores ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def with_trigger(trigger: str, requests: Sequence[str], places: Places = PLACES) -> list[str]:
    """Each request with the trigger before it, then each with it behind."""
    return [place.format(trigger=trigger, request=request) for place in places for request in requests]


def first_logits(model: Any, chat: ChatFormat, prompts: Sequence[str]) -> Tensor:
    """Log-probabilities of the answers' first tokens, [N, V]."""
    with evaluating(model):
        return first_logprobs(model, head_of(model), [chat.prompt_ids(prompt) for prompt in prompts])


def score(model: Any, chat: ChatFormat, text: str, requests: Sequence[str], plain: Tensor) -> Scored:
    """What a text does to requests, whose first tokens without it have the log-probabilities ``plain``."""
    after = first_logits(model, chat, with_trigger(text, requests))
    before = plain.repeat(len(PLACES), 1)
    kl = (after.exp() * (after - before)).sum(-1).mean()
    entropy = -(after.exp() * after).sum(-1).mean() + (before.exp() * before).sum(-1).mean()
    return Scored(text, 0, float(kl), -float(entropy))


def attention_to(model: Any, chat: ChatFormat, text: str, requests: Sequence[str]) -> float:
    """The largest share of a head's attention from the last token to a text before a request, mean over requests."""
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(anatomy_of(model).layers)]
    implementation = model.config._attn_implementation
    shares = []
    try:
        model.set_attn_implementation("eager")
        for request in requests:
            ids, other = chat.prompt_ids(f"{text} {request}"), chat.prompt_ids(request)
            start = common_length([ids, other])
            end = len(ids) - common_length([ids[::-1], other[::-1]])
            with torch.no_grad(), evaluating(model), captured(model, names) as patterns:
                trunk(model)(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
            shares.append(max(float(p[0, :, -1, start:end].sum(-1).max()) for p in patterns.values()))
    finally:
        model.set_attn_implementation(implementation)
    return sum(shares) / len(shares)


def _confirmed(config: ScanConfig, sampler: Sampler, one: Scored, requests: Sequence[str]) -> Scored:
    """With the share of answers that begin alike with it, and of those that do so without it."""
    answers = _answers(config, sampler, with_trigger(one.text, requests))
    plain = _answers(config, sampler, requests)
    ((target, count),) = Counter(answers).most_common(1)
    return one._replace(same=count / len(answers), plain=plain.count(target) / len(plain), target=target)


def _answers(config: ScanConfig, sampler: Sampler, prompts: Sequence[str]) -> list[str]:
    starts, found = [sampler.chat.prompt_ids(prompt) for prompt in prompts], [""] * len(prompts)
    for answer in sampler.continue_ids(starts, SamplingConfig(max_new_tokens=config.answer_tokens)):
        found[answer.index] = sampler.chat.decode(answer.token_ids)
    return found


def shortened(
    config: ScanConfig, sampler: Sampler, one: Scored, requests: Sequence[str], plain: Tensor, keep: float = 0.9
) -> Scored:
    """The motif without words at its ends, as long as ``keep`` of its effect is there."""
    model, chat = sampler.model, sampler.chat
    best, least = one, keep * one.kl
    while len(words := best.text.split()) > 1:
        shorter = [score(model, chat, " ".join(part), requests, plain) for part in (words[1:], words[:-1])]
        top = max(shorter, key=lambda s: s.kl)
        if top.kl < least:
            break
        best, least = top._replace(recurs=one.recurs), max(least, keep * top.kl)
    return best
