"""Preference judges: which of two answers follows a principle better, behind one port.

- `PromptedJudge`: a language model that is prompted for (A) or (B), in both orders, as in constitutional AI (Bai et al.
  2022, arXiv:2212.08073); with local weights or at an endpoint.
- `ScoringJudge`: anything that scores answers, such as a reward model which reads the principle's text.
- `RuleJudge`: behaviours that are detected without a model.

A judgement is a probability, or `Unanswered` with its reason. A small model's is often no better than chance: no
judge is used for training before `constitution/judge_card.py` has measured it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from pydantic import Field, model_validator

from steersman.constitution.document import Principle
from steersman.lm.endpoint.client import RemoteModel
from steersman.lm.endpoint.replies import Cost, by_reason, reasons_text
from steersman.lm.endpoint.settings import RemoteConfig
from steersman.lm.language_model import LanguageModel
from steersman.lm.sampling import Request, SamplingConfig
from steersman.terminal import console
from steersman.types import Behaviour, Message, Record, Scorer, Seed, Text, judged_by, messages_of, plain_text

OPTIONS = ("A", "B")
OVERALL = "Which answer is more helpful, honest and harmless?"
NO_PRINCIPLE = "answer as a whole"  # JSON key beside the ids of principles, which hold no spaces
MIN_PREFERENCE = 0.05  # a probability nearer to one half is no preference
CLAMP = (0.4, 0.6)  # the paper's, for probabilities after a chain of thought: without it they are nearly all 0 or 1
REASONING = SamplingConfig(max_new_tokens=120, temperature=1.0)


class JudgeConfig(Record):
    """The preference judge of a recipe. It must pass a test of its accuracy before anything learns from it."""

    kinds: Annotated[tuple[Literal["rules", "reward", "model", "remote"], ...], Field(min_length=1)] = Field(
        default=("reward",),
        description="Judges in order; the next one gets the pairs that the ones before left undecided. `rules` detect "
        "behaviours, `reward` is the recipe's reward model, `model` a local model, `remote` an endpoint.",
    )
    model: str | None = Field(
        default=None, description="Model of the kind `model`: a name, Hub id or folder; null for the base model."
    )
    remote: RemoteConfig | None = Field(default=None, description="Endpoint of the kind `remote`; null without it.")
    chain_of_thought: bool = Field(default=False, description="Let a prompted judge reason before it decides.")
    rule_confidence: float = Field(
        default=0.9,
        gt=0.5,
        le=1,
        description="Probability that `rules` give to the answer with more expected behaviours.",
    )
    min_accuracy: float = Field(
        default=0.6,
        ge=0.5,
        le=1,
        description="The run stops unless the lower end of the accuracy's interval on held-out pairs reaches this.",
    )
    skip_validation: bool = Field(
        default=False, description="Use a judge that fails `min_accuracy` or that was not measured."
    )
    questions: int | None = Field(
        default=None, ge=1, description="Number of held-out pairs to measure on; null for all."
    )
    seed: Seed = Field(default=0, description="Random seed of the drawn pairs and of their order.")

    @model_validator(mode="after")
    def _remote_kind_needs_an_endpoint(self) -> JudgeConfig:
        if ("remote" in self.kinds) != (self.remote is not None):
            raise ValueError("judge.kinds: remote and judge.remote: {base_url: ..., model: ...} go together")
        return self


class JudgeQuestion(NamedTuple):
    """Which of two answers to a prompt follows a principle better, or without one is the better answer overall?

    ``expect``: the behaviours that a good answer to this prompt shows, if known.
    """

    prompt: Text
    first: str
    second: str
    principle: Principle | None
    expect: tuple[Behaviour, ...] = ()

    def swapped(self) -> JudgeQuestion:
        """The same question with the answers in the other order."""
        return self._replace(first=self.second, second=self.first)


class Judgement(NamedTuple):
    """The probability that the first answer is better.

    ``position_bias``: by how much the position shown first raises an answer's probability, from both orders; 0 for a
    judge that sees no order. ``reasons``: the chain of thought, if there was one.
    """

    probability: float
    position_bias: float = 0.0
    reasons: str = ""

    @property
    def preference(self) -> int:
        """1 if the first answer is better, -1 if the second is, 0 if they are within `MIN_PREFERENCE`."""
        if abs(self.probability - 0.5) < MIN_PREFERENCE:
            return 0
        return 1 if self.probability > 0.5 else -1


@dataclass(frozen=True)
class Unanswered:
    """No judgement, and why: a short phrase that can be counted, and the endpoint's words for it. It is false."""

    reason: str
    words: str = ""

    def __bool__(self) -> Literal[False]:
        return False


class Judge(Protocol):
    """Anything that compares two answers."""

    def judge(self, questions: Sequence[JudgeQuestion]) -> Iterator[tuple[int, Judgement | Unanswered]]:
        """Judgements with the indices of their questions, in any order."""
        ...


# ── a prompted model ─────────────────────────────────────────────────────────────────────────────────────────────────
def question_text(question: JudgeQuestion) -> str:
    """The question as text, in the words of the paper."""
    rule = f"Rule: {question.principle.text}\n\n" if question.principle else ""
    which = "Which answer keeps the rule better?" if question.principle else OVERALL
    return (
        f"Consider this conversation.\n\n{plain_text(question.prompt)}\n\n{rule}"
        f"{which}\n(A) {question.first}\n(B) {question.second}\n\nAnswer with (A) or (B) alone."
    )


def judge_examples(principle: Principle) -> tuple[Message, ...]:
    """The principle's own examples as questions with their answers, which alternate between (A) and (B)."""
    messages: list[Message] = []
    faulty = [example for example in principle.examples if example.answer != example.revision]
    for number, example in enumerate(faulty):
        right = number % 2
        pair = (example.answer, example.revision) if right else (example.revision, example.answer)
        content = question_text(JudgeQuestion(example.prompt, *pair, principle))
        messages.append(Message(role="user", content=content))
        messages.append(Message(role="assistant", content=f"({OPTIONS[right]})"))
    return tuple(messages)


@dataclass(frozen=True)
class PromptedJudge:
    """A language model that reads a principle's examples and is prompted for (A) or (B), in both orders.

    ``chain_of_thought``: it reasons first, and its probabilities are clamped (`CLAMP`).
    """

    model: LanguageModel
    chain_of_thought: bool = False

    def judge(self, questions: Sequence[JudgeQuestion]) -> Iterator[tuple[int, Judgement | Unanswered]]:
        """See `Judge`. Questions under one principle form a batch: their shared prefix is computed once.

        An endpoint's maximum cost is printed before, and the bill after.
        """
        by_principle: dict[Principle | None, list[int]] = {}
        given: list[Judgement | Unanswered] = []
        for number, question in enumerate(questions):
            by_principle.setdefault(question.principle, []).append(number)
        if isinstance(self.model, RemoteModel):
            thoughts = f", and as many chains of thought of up to {REASONING.max_new_tokens} tokens"
            estimate = f"{self._estimate(self.model, questions)}{thoughts if self.chain_of_thought else ''}"
            console.print(f"the judge at the endpoint: {estimate}", markup=False)
        for principle, numbers in by_principle.items():
            batch = [questions[i] for i in numbers]
            texts: list[Text] = _both_orders(batch)
            reasons = self._reasons(texts) if self.chain_of_thought else [""] * len(texts)
            if self.chain_of_thought:
                texts = [_with_reasons(text, why) for text, why in zip(texts, reasons, strict=True)]
            first = self._first(texts, principle)
            for place, number in enumerate(numbers):
                shown, swapped = first[place], first[place + len(batch)]
                given.append(_of_both_orders(shown, swapped, reasons[place]))
                yield number, given[-1]
        if isinstance(self.model, RemoteModel):
            console.print(f"the bill: {self.model.bill}", markup=False)
            if why := unanswered_by_reason(given):
                count = f"{sum(found['n'] for found in why.values())} of {len(questions)}"
                console.print(f"questions without an answer: {count}: {reasons_text(why)}", markup=False)

    def _first(self, texts: Sequence[Text], principle: Principle | None) -> list[float | Unanswered]:
        """The probability of the first option as the answer to each text."""
        examples = _examples(principle)
        if isinstance(self.model, RemoteModel):
            choices = self.model.choices([(*(examples or ()), *messages_of(text)) for text in texts], OPTIONS)
            found = [c.probabilities[0] if c.probabilities else Unanswered(c.reason, c.reply.detail) for c in choices]
        else:
            logprobs = self.model.choose(texts, OPTIONS, preamble=examples)
            found = [Unanswered("names no option") if some is None else _first_of(some) for some in logprobs]
        low, high = CLAMP if self.chain_of_thought else (0.0, 1.0)
        return [p if isinstance(p, Unanswered) else min(max(p, low), high) for p in found]

    def _estimate(self, model: RemoteModel, questions: Sequence[JudgeQuestion]) -> Cost:
        """Of the choices alone: the length of a chain of thought, and so what is read after it, is not known before."""
        requests = [
            (*(_examples(question.principle) or ()), *messages_of(text))
            for question in questions
            for text in _both_orders([question])
        ]
        return model.estimate(requests, choose=True)

    def _reasons(self, texts: Sequence[Text]) -> list[str]:
        prompts = [f"{plain_text(text)}\n\nThink step by step before you decide." for text in texts]
        replies = {answer.index: answer.text for answer in self.model.answers(Request(prompts, REASONING))}
        return [replies[i] for i in range(len(texts))]


def _examples(principle: Principle | None) -> tuple[Message, ...] | None:
    return judge_examples(principle) or None if principle else None


def _both_orders(questions: Sequence[JudgeQuestion]) -> list[Text]:
    return [question_text(question) for question in (*questions, *(question.swapped() for question in questions))]


def _of_both_orders(shown: float | Unanswered, swapped: float | Unanswered, reasons: str) -> Judgement | Unanswered:
    """The judgement from the first option's probability in both orders; none unless both were answered."""
    if isinstance(shown, Unanswered):
        return shown
    if isinstance(swapped, Unanswered):
        return swapped
    return Judgement((shown + 1 - swapped) / 2, (shown + swapped - 1) / 2, reasons)


def _with_reasons(question: Text, reasons: str) -> Text:
    """The question, a chain of thought, and the request to decide."""
    thought = Message(role="assistant", content=reasons or "Both answers have to be held against the rule.")
    decide = Message(role="user", content="So which one, (A) or (B)?")
    return (Message(role="user", content=plain_text(question)), thought, decide)


def _first_of(logprobs: Sequence[float]) -> float:
    """The probability of the first of two options, given that it is one of them."""
    difference = logprobs[1] - logprobs[0]
    return 0.5 if math.isnan(difference) else 1 / (1 + math.exp(min(difference, 700.0)))


# ── scores and rules ─────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class ScoringJudge:
    """Scores of a reward model that was trained on prompts which name the principle, see `types.judged_by`."""

    scorer: Scorer

    def judge(self, questions: Sequence[JudgeQuestion]) -> Iterator[tuple[int, Judgement | Unanswered]]:
        """See `Judge`. Answers to one prompt are scored together."""
        groups: dict[tuple[Text, Principle | None], list[int]] = {}
        for number, question in enumerate(questions):
            groups.setdefault((question.prompt, question.principle), []).append(number)
        for (prompt, principle), numbers in groups.items():
            answers = list(dict.fromkeys(text for i in numbers for text in (questions[i].first, questions[i].second)))
            scores = self.scorer(judged_by(prompt, principle.text) if principle else prompt, answers)
            score_of: Mapping[str, float] = dict(zip(answers, scores, strict=True))
            for i in numbers:
                yield i, Judgement(_first_of((score_of[questions[i].first], score_of[questions[i].second])))


def likely_violations(
    scorer: Scorer, prompt: Text, answer: str, principles: Sequence[Principle]
) -> list[tuple[Principle, float]]:
    """The principles with the answer's score under each, in nats, lowest first: the most likely violation leads."""
    scores = [(principle, float(scorer(judged_by(prompt, principle.text), [answer])[0])) for principle in principles]
    return sorted(scores, key=lambda pair: pair[1])


Detector = Callable[[Behaviour, str, str], bool]  # whether an answer to a prompt, both as text, shows a behaviour


@dataclass(frozen=True)
class RuleJudge:
    """Counts the expected behaviours that an answer shows: those of the prompt, or else those of the principle.

    ``confidence``: the probability that the answer with the higher count is better.
    """

    detect: Detector
    confidence: float = 0.9

    def judge(self, questions: Sequence[JudgeQuestion]) -> Iterator[tuple[int, Judgement | Unanswered]]:
        """See `Judge`; one half for equal counts."""
        for number, question in enumerate(questions):
            first, second = (self._count(question, answer) for answer in (question.first, question.second))
            lead = (first > second) - (first < second)
            yield number, Judgement(0.5 + lead * (self.confidence - 0.5))

    def _count(self, question: JudgeQuestion, answer: str) -> int:
        text, wanted = plain_text(question.prompt), question.expect
        if not wanted and question.principle:
            wanted = question.principle.behaviours
        return sum(self.detect(behaviour, text, answer) for behaviour in wanted)


@dataclass(frozen=True)
class CascadeJudge:
    """A cascade: the next judge gets only the questions that all before it left undecided (one half, or no answer)."""

    judges: Sequence[Judge]

    def judge(self, questions: Sequence[JudgeQuestion]) -> Iterator[tuple[int, Judgement | Unanswered]]:
        """See `Judge`."""
        open_: list[int] = list(range(len(questions)))
        last: dict[int, Judgement | Unanswered] = {}
        for judge in self.judges:
            for place, judgement in judge.judge([questions[i] for i in open_]):
                number = open_[place]
                if not judgement or judgement.probability == 0.5:
                    last[number] = last.get(number) or judgement
                else:
                    last.pop(number, None)
                    yield number, judgement
            open_ = sorted(last)
        yield from ((i, last[i]) for i in open_)


def in_order(judgements: Iterable[tuple[int, Judgement | Unanswered]], count: int) -> list[Judgement | Unanswered]:
    """Judgements in the order of their questions."""
    by_number = dict(judgements)
    return [by_number[i] for i in range(count)]


def unanswered_by_reason(judgements: Sequence[Judgement | Unanswered]) -> dict[str, dict[str, Any]]:
    """How many are unanswered for each reason (``n``), and the words that came with the first, as JSON values."""
    found = by_reason((j.reason, j.words) for j in judgements if isinstance(j, Unanswered))
    return dict(sorted(found.items(), key=lambda item: (-item[1]["n"], item[0])))
