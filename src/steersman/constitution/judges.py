"""Judges: who reads a principle and says which of two answers keeps it better, behind one port.

- `AskedJudge`: a language model that is asked for (A) or (B), in both orders, as in constitutional AI (Bai et al. 2022,
  arXiv:2212.08073); weights here, or an endpoint.
- `ScoringJudge`: anything that scores answers, such as a reward model which reads the principle's text.
- `RuleJudge`: what can be seen in an answer without a model.

A judgement is a probability, and None where the judge gave none. A small model's is often no better than a coin's, so
that none is believed before `constitution/judge_card.py` has measured it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, Protocol

from pydantic import Field, model_validator

from steersman.constitution.document import Principle
from steersman.lm.endpoint.client import RemoteConfig, RemoteModel
from steersman.lm.endpoint.replies import Cost
from steersman.lm.language_model import LanguageModel
from steersman.lm.sampling import Request, SamplingConfig
from steersman.terminal import console
from steersman.types import Behaviour, Message, Record, Seed, Text, judged_by, messages_of, plain_text

OPTIONS = ("A", "B")
ALL_IN_ALL = "Which answer is more helpful, honest and harmless?"
LEAN = 0.05  # a probability that is nearer to one half decides nothing
CLAMP = (0.4, 0.6)  # the paper's, for probabilities after a chain of thought: without it they are nearly all 0 or 1
REASONING = SamplingConfig(max_new_tokens=120, temperature=1.0)


class JudgeConfig(Record):
    """Who is asked, in turn until one decides: ``rules`` see behaviours; ``reward`` is the recipe's reward model, which
    reads the principle; ``model`` is asked in words: a name, Hub id or folder, the base model unless given; so is the
    one at the endpoint ``remote``.

    A judge is believed only if the lower end of the interval of its accuracy on held-out comparisons is at least
    ``at_least``; ``believe_anyway`` is how a recipe says in so many words that it takes one that is not. ``questions``:
    so many of the held-out pairs are asked, None for all. ``sure``: how sure a rule is of what it sees.
    """

    kinds: Annotated[tuple[Literal["rules", "reward", "model", "remote"], ...], Field(min_length=1)] = ("reward",)
    model: str | None = None
    remote: RemoteConfig | None = None
    chain_of_thought: bool = False
    sure: float = Field(default=0.9, gt=0.5, le=1)
    at_least: float = Field(default=0.6, ge=0.5, le=1)
    believe_anyway: bool = False
    questions: int | None = Field(default=None, ge=1)
    seed: Seed = 0

    @model_validator(mode="after")
    def _an_endpoint_is_named(self) -> JudgeConfig:
        if ("remote" in self.kinds) != (self.remote is not None):
            raise ValueError("judge.kinds: remote and judge.remote: {base_url: ..., model: ...} go together")
        return self


class Question(NamedTuple):
    """Which of two answers to a prompt keeps a principle better, or without one is better all in all?

    ``expect``: the behaviours that a good answer to this prompt shows, if they are known.
    """

    prompt: Text
    first: str
    second: str
    principle: Principle | None
    expect: tuple[Behaviour, ...] = ()

    def turned(self) -> Question:
        """The same with the answers in the other order."""
        return self._replace(first=self.second, second=self.first)


class Judgement(NamedTuple):
    """The probability that the first answer is better.

    ``place_bias``: by how much the place shown first raises an answer's probability, from both orders; 0 for a judge
    that sees no order. ``reasons``: a chain of thought, if there was one.
    """

    probability: float
    place_bias: float = 0.0
    reasons: str = ""

    @property
    def lean(self) -> int:
        """1 if the first answer is better, -1 if the second is, 0 if both are about as good (`LEAN`)."""
        if abs(self.probability - 0.5) < LEAN:
            return 0
        return 1 if self.probability > 0.5 else -1


class Judge(Protocol):
    """Whoever can be asked."""

    def judge(self, questions: Sequence[Question]) -> Iterator[tuple[int, Judgement | None]]:
        """Judgements with the numbers of their questions, as they come; None where there is none."""
        ...


# ── a model that is asked ────────────────────────────────────────────────────────────────────────────────────────────
def asked(question: Question) -> str:
    """The question as text, in the words of the paper."""
    rule = f"Rule: {question.principle.text}\n\n" if question.principle else ""
    which = "Which answer keeps the rule better?" if question.principle else ALL_IN_ALL
    return (
        f"Consider this conversation.\n\n{plain_text(question.prompt)}\n\n{rule}"
        f"{which}\n(A) {question.first}\n(B) {question.second}\n\nAnswer with (A) or (B) alone."
    )


def shown_before(principle: Principle) -> tuple[Message, ...]:
    """The principle's own examples as questions with their right answers, which stand at (A) and (B) in turn."""
    messages: list[Message] = []
    faulty = [example for example in principle.examples if example.answer != example.revision]
    for number, example in enumerate(faulty):
        right = number % 2
        pair = (example.answer, example.revision) if right else (example.revision, example.answer)
        content = asked(Question(example.prompt, *pair, principle))
        messages.append(Message(role="user", content=content))
        messages.append(Message(role="assistant", content=f"({OPTIONS[right]})"))
    return tuple(messages)


@dataclass(frozen=True)
class AskedJudge:
    """A language model that is shown a principle's examples and asked for (A) or (B), in both orders.

    ``chain_of_thought``: it reasons first, and its probabilities are clamped (`CLAMP`).
    """

    model: LanguageModel
    chain_of_thought: bool = False

    def judge(self, questions: Sequence[Question]) -> Iterator[tuple[int, Judgement | None]]:
        """See `Judge`. Questions under one principle are asked together: what stands before them is read once.

        For an endpoint, what it will cost at most is said before, and the bill after.
        """
        by_principle: dict[Principle | None, list[int]] = {}
        for number, question in enumerate(questions):
            by_principle.setdefault(question.principle, []).append(number)
        if isinstance(self.model, RemoteModel):
            beside = f", and as many chains of thought of up to {REASONING.max_new_tokens} tokens"
            said = f"{self._estimate(self.model, questions)}{beside if self.chain_of_thought else ''}"
            console.print(f"the judge at the endpoint: {said}", markup=False)
        for principle, numbers in by_principle.items():
            some = [questions[i] for i in numbers]
            texts: list[Text] = _both_orders(some)
            reasons = self._reasons(texts) if self.chain_of_thought else [""] * len(texts)
            if self.chain_of_thought:
                texts = [_after(text, why) for text, why in zip(texts, reasons, strict=True)]
            found = self.model.choose(texts, OPTIONS, preamble=_before(principle))
            first = [None if logprobs is None else _first_of(logprobs) for logprobs in found]
            if self.chain_of_thought:
                first = [None if p is None else min(max(p, CLAMP[0]), CLAMP[1]) for p in first]
            for place, number in enumerate(numbers):
                shown, turned = first[place], first[place + len(some)]
                if shown is None or turned is None:
                    yield number, None
                else:
                    mean, bias = (shown + 1 - turned) / 2, (shown + turned - 1) / 2
                    yield number, Judgement(mean, bias, reasons[place])
        if isinstance(self.model, RemoteModel):
            console.print(f"the bill: {self.model.bill}", markup=False)

    def _estimate(self, model: RemoteModel, questions: Sequence[Question]) -> Cost:
        """Of the choices alone: what a chain of thought says, and so what is read after it, nobody knows before."""
        requests = [
            (*(_before(question.principle) or ()), *messages_of(text))
            for question in questions
            for text in _both_orders([question])
        ]
        return model.estimate(requests, choose=True)

    def _reasons(self, texts: Sequence[Text]) -> list[str]:
        questions = [f"{plain_text(text)}\n\nThink step by step before you decide." for text in texts]
        found = {answer.index: answer.text for answer in self.model.answers(Request(questions, REASONING))}
        return [found[i] for i in range(len(texts))]


def _before(principle: Principle | None) -> tuple[Message, ...] | None:
    return shown_before(principle) or None if principle else None


def _both_orders(questions: Sequence[Question]) -> list[Text]:
    return [asked(question) for question in (*questions, *(question.turned() for question in questions))]


def _after(question: Text, reasons: str) -> Text:
    """The question once more, after a chain of thought."""
    said = Message(role="assistant", content=reasons or "Both answers have to be held against the rule.")
    decide = Message(role="user", content="So which one, (A) or (B)?")
    return (Message(role="user", content=plain_text(question)), said, decide)


def _first_of(logprobs: Sequence[float]) -> float:
    """The probability of the first of two options, given that it is one of them."""
    difference = logprobs[1] - logprobs[0]
    return 0.5 if math.isnan(difference) else 1 / (1 + math.exp(min(difference, 700.0)))


# ── scores and rules ─────────────────────────────────────────────────────────────────────────────────────────────────
Scores = Callable[[Text, Sequence[str]], Sequence[float]]  # of some answers to a prompt, in nats


@dataclass(frozen=True)
class ScoringJudge:
    """Scores of a reward model that was trained on prompts which name the principle, see `types.judged_by`."""

    scores: Scores

    def judge(self, questions: Sequence[Question]) -> Iterator[tuple[int, Judgement | None]]:
        """See `Judge`. Answers to one prompt are scored together."""
        together: dict[tuple[Text, Principle | None], list[int]] = {}
        for number, question in enumerate(questions):
            together.setdefault((question.prompt, question.principle), []).append(number)
        for (prompt, principle), numbers in together.items():
            answers = list(dict.fromkeys(text for i in numbers for text in (questions[i].first, questions[i].second)))
            found = self.scores(judged_by(prompt, principle.text) if principle else prompt, answers)
            of: Mapping[str, float] = dict(zip(answers, found, strict=True))
            for i in numbers:
                yield i, Judgement(_first_of((of[questions[i].first], of[questions[i].second])))


def suspects(
    scores: Scores, prompt: Text, answer: str, principles: Sequence[Principle]
) -> list[tuple[Principle, float]]:
    """The principles with the answer's score under each, in nats; the one that it most likely breaks first."""
    found = [(principle, float(scores(judged_by(prompt, principle.text), [answer])[0])) for principle in principles]
    return sorted(found, key=lambda pair: pair[1])


Shows = Callable[[Behaviour, str, str], bool]  # whether an answer to a prompt, both as text, shows a behaviour


@dataclass(frozen=True)
class RuleJudge:
    """Counts the behaviours that an answer shows, of those expected of it: the prompt's own, or the principle's.

    ``sure``: the probability with which the answer that shows more is said to be better.
    """

    shows: Shows
    sure: float = 0.9

    def judge(self, questions: Sequence[Question]) -> Iterator[tuple[int, Judgement | None]]:
        """See `Judge`; one half where both show as many."""
        for number, question in enumerate(questions):
            first, second = (self._count(question, answer) for answer in (question.first, question.second))
            lead = (first > second) - (first < second)
            yield number, Judgement(0.5 + lead * (self.sure - 0.5))

    def _count(self, question: Question, answer: str) -> int:
        text, wanted = plain_text(question.prompt), question.expect
        if not wanted and question.principle:
            wanted = question.principle.behaviours
        return sum(self.shows(behaviour, text, answer) for behaviour in wanted)


@dataclass(frozen=True)
class FirstThatDecides:
    """Judges who are asked in turn, the next one only where all before it said one half or nothing."""

    judges: Sequence[Judge]

    def judge(self, questions: Sequence[Question]) -> Iterator[tuple[int, Judgement | None]]:
        """See `Judge`."""
        open_: list[int] = list(range(len(questions)))
        last: dict[int, Judgement | None] = {}
        for judge in self.judges:
            for place, judgement in judge.judge([questions[i] for i in open_]):
                number = open_[place]
                if judgement is None or judgement.probability == 0.5:
                    last[number] = last.get(number) or judgement
                else:
                    last.pop(number, None)
                    yield number, judgement
            open_ = sorted(last)
        yield from ((i, last[i]) for i in open_)


def all_of(found: Iterable[tuple[int, Judgement | None]], count: int) -> list[Judgement | None]:
    """Judgements in the order of their questions."""
    by_number = dict(found)
    return [by_number[i] for i in range(count)]
