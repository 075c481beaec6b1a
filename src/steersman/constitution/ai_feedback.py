"""AI feedback: preference labels by a judge that reads the principles, the second half of constitutional AI (Bai et al.
2022, arXiv:2212.08073).

    K answers ~ policy(prompt);   pairs of them;   label = P(first is better | principle), the mean over principles

A judge that may depend on the order reads both orders (`PromptedJudge`), and the mean is a soft label. The output are
comparisons like human ones, with ``source: ai``: a reward model and DPO learn from both, mixed by the recipe.

What differs from the paper: the principle is one that the prompt is about (``principles: any`` draws from all); several
answers are compared and the most confident pairs kept, where the paper takes two answers; and a judge whose card does
not pass is not used (`constitution/judge_card.py`).
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pydantic import Field

from steersman.constitution.document import Constitution, Principle
from steersman.constitution.judges import (
    NO_PRINCIPLE,
    Judge,
    Judgement,
    JudgeQuestion,
    Unanswered,
    in_order,
    unanswered_by_reason,
)
from steersman.data.sources import spread
from steersman.errors import DataError, closest
from steersman.lm.endpoint.replies import reasons_text
from steersman.lm.language_model import LanguageModel
from steersman.lm.sampling import SamplingConfig
from steersman.lm.transcript import Transcript
from steersman.stats import mean_estimate, wilson
from steersman.store import StageFolder, write_json, write_jsonl
from steersman.terminal import Progress
from steersman.types import Comparison, Prompt, Record, Seed, Slug, Text

VERSION = 5
COMPARISONS, SUMMARY, ANSWERS = "comparisons.jsonl", "feedback.json", "answers.partial.jsonl"


class FeedbackConfig(Record):
    """AI feedback: the policy answers prompts several times, and the judge compares its answers."""

    about: tuple[Slug, ...] | None = Field(
        default=None, description="Principles whose prompts are answered; null for all prompts."
    )
    people: Literal["all", "other", "none"] = Field(
        default="all",
        description="Human comparisons to learn from beside the judge's: `all`, those about `other` principles (in the "
        "paper, helpfulness from people and harmlessness from AI), or `none`.",
    )
    prompts: int | None = Field(
        default=None, ge=1, description="Prompts to answer, spread evenly over the file; null for all."
    )
    answers: int = Field(default=4, ge=2, description="Answers sampled for each prompt.")
    ended_only: bool = Field(
        default=True,
        description="Compare only answers that end with the end token; a policy that learns from truncated ones learns "
        "to stop early.",
    )
    pairs: int = Field(
        default=6, ge=1, description="Pairs of answers that are judged for each prompt, drawn at random."
    )
    keep: int = Field(default=1, ge=1, description="Pairs that are kept for each prompt, the most confident ones.")
    margin: float = Field(default=0.0, ge=0, lt=0.5, description="A label must differ from one half by more than this.")
    principles: Literal["own", "any"] = Field(
        default="own", description="Draw the principle of a pair from the prompt's `own` principles or from `any`."
    )
    ensemble: int = Field(
        default=1, ge=1, description="Principles drawn for each prompt; the label is the mean over them."
    )
    sampling: SamplingConfig = Field(
        default=SamplingConfig(temperature=0.9, max_new_tokens=72), description="Sampling of the answers."
    )
    seed: Seed = Field(default=0, description="Random seed of the drawn principles and pairs.")


def select_prompts(config: FeedbackConfig, constitution: Constitution, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts to answer.

    Raises:
        DataError: there are none, or ``about`` names an unknown principle.
    """
    known = list(constitution.texts)
    if unknown := [id for id in config.about or () if id not in known]:
        raise DataError(
            f"the constitution has no principle {unknown[0]!r}", where="feedback.about", do=closest(unknown[0], known)
        )
    chosen = [row for row in prompts if config.about is None or set(config.about) & set(row.principles)]
    if not chosen:
        raise DataError("no prompts to answer", do="add rows to prompts.jsonl, or widen feedback.about")
    return spread(chosen, config.prompts)


def mix(config: FeedbackConfig, people: Sequence[Comparison], ai: Sequence[Comparison]) -> list[Comparison]:
    """Training data of a policy or a reward model: human comparisons and the judge's, as ``people`` says."""
    judged = set(config.about) if config.about is not None else {id for row in ai for id in row.principles}
    kept = {
        "all": list(people),
        "other": [row for row in people if not judged & set(row.principles)],
        "none": [],
    }
    return [*kept[config.people], *ai]


def draw_principles(
    config: FeedbackConfig, constitution: Constitution, row: Prompt, number: int
) -> list[Principle | None]:
    """The principles under which a prompt's pairs are compared; [None], overall quality, if it is about none."""
    pool = constitution.pool(config.principles, row.principles)
    stream = random.Random(f"{config.seed} {number}")
    return [*stream.sample(pool, min(config.ensemble, len(pool)))] or [None]


class JudgedPair:
    """A pair of answers to a prompt, with a question for each drawn principle."""

    def __init__(self, row: Prompt, first: str, second: str, principles: Sequence[Principle | None]) -> None:
        self.row, self.options = row, (first, second)
        self.questions = [JudgeQuestion(row.prompt, first, second, principle, row.expect) for principle in principles]


def pairs_of(
    config: FeedbackConfig, constitution: Constitution, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]
) -> list[list[JudgedPair]]:
    """By prompt, the pairs to judge, drawn from those of its distinct answers."""
    pairs = []
    for number, (row, texts) in enumerate(zip(prompts, answers, strict=True)):
        distinct = [text for text in dict.fromkeys(texts) if text.strip()]
        stream = random.Random(f"{config.seed} {number} pairs")
        every = [tuple(stream.sample(pair, 2)) for pair in itertools.combinations(distinct, 2)]
        some = stream.sample(every, min(config.pairs, len(every)))
        principles = draw_principles(config, constitution, row, number)
        pairs.append([JudgedPair(row, first, second, principles) for first, second in some])
    return pairs


class PairJudgements(NamedTuple):
    """A pair with its judgements by principle, without those that the judge did not give."""

    pair: JudgedPair
    judgements: list[tuple[Principle | None, Judgement]]


def attach(
    by_prompt: Sequence[Sequence[JudgedPair]], judgements: Sequence[Judgement | Unanswered]
) -> list[list[PairJudgements]]:
    """By prompt, every pair with its judgements; ``judgements`` are those of all questions in order."""
    following = iter(judgements)
    return [
        [PairJudgements(pair, [(q.principle, j) for q in pair.questions if (j := next(following))]) for pair in pairs]
        for pairs in by_prompt
    ]


def label_pairs(
    config: FeedbackConfig, name: str, by_prompt: Sequence[Sequence[PairJudgements]]
) -> tuple[list[Comparison], Counter[str]]:
    """The comparisons that are kept, and the reasons why other pairs are not, counted.

    Args:
        name: of the judge, the comparisons' ``rater``.
    """
    comparisons: list[Comparison] = []
    left_out: Counter[str] = Counter()
    for pairs in by_prompt:
        decided: list[tuple[float, Comparison]] = []
        for pair, judgements in pairs:
            if not judgements:
                left_out["unanswered"] += 1
                continue
            label = sum(judgement.probability for _, judgement in judgements) / len(judgements)
            if abs(label - 0.5) <= config.margin:
                left_out["undecided"] += 1
                continue
            decided.append((abs(label - 0.5), _comparison(name, pair, label, judgements)))
        decided.sort(key=lambda pair: -pair[0])
        comparisons += [row for _, row in decided[: config.keep]]
        left_out["less sure"] += len(decided[config.keep :])
    return comparisons, +left_out


def _comparison(
    name: str, pair: JudgedPair, label: float, judgements: Sequence[tuple[Principle | None, Judgement]]
) -> Comparison:
    rankings: dict[str, tuple[int, ...]] = {}
    for principle, judgement in judgements:
        if principle:
            p = judgement.probability
            rankings[principle.id] = (1, 1) if p == 0.5 else (1, 2) if p > 0.5 else (2, 1)
    return Comparison(
        prompt=pair.row.prompt,
        options=pair.options,
        soft_label=label,
        per_principle=rankings if len(rankings) > 1 else {},
        principles=tuple(rankings) or pair.row.principles,
        topic=pair.row.topic,
        expect=pair.row.expect,
        tags=pair.row.tags,
        rater=name,
        group="ai",
        source="ai",
    )


def summary(by_prompt: Sequence[Sequence[PairJudgements]]) -> dict[str, Any]:
    """Statistics of the judgements, as JSON values: how often each principle decides, agreement of principles, position
    bias. A principle decides a pair if the judge has a preference under it (`Judgement.preference`).
    """
    decided: dict[str, list[bool]] = {}
    agreed: list[bool] = []
    every: list[Judgement] = []
    questions = 0
    for pair, judgements in itertools.chain.from_iterable(by_prompt):
        questions += len(pair.questions)
        for principle, judgement in judgements:
            decided.setdefault(principle.id if principle else NO_PRINCIPLE, []).append(judgement.preference != 0)
            every.append(judgement)
        signs = [judgement.preference for _, judgement in judgements if judgement.preference]
        agreed += [a == b for a, b in itertools.combinations(signs, 2)]
    return {
        "decided": {key: wilson(sum(values), len(values)).json() for key, values in sorted(decided.items())},
        "principles_agree": wilson(sum(agreed), len(agreed)).json(),
        "place_bias": mean_estimate([judgement.position_bias for judgement in every]).json(),
        "unanswered": questions - len(every),
    }


def sample(
    config: FeedbackConfig, policy: LanguageModel, prompts: Sequence[Prompt], out: StageFolder
) -> list[list[str]]:
    """The policy's answers by prompt, "" for one that is not compared. A killed run resumes where it stopped."""
    transcript = Transcript(out.file(ANSWERS))
    requests: dict[int, Text] = {
        number * config.answers + place: row.prompt
        for number, row in enumerate(prompts)
        for place in range(config.answers)
    }
    with Progress(out.stage, len(requests), len(transcript.rows)) as progress:
        answers = transcript.answers("answer", policy, requests, config.sampling, advance=progress.advance)
    texts = [
        "" if config.ended_only and answers[index]["finish_reason"] == "length" else answers[index]["answer"]
        for index in requests
    ]
    return [texts[i : i + config.answers] for i in range(0, len(texts), config.answers)]


def compare(
    config: FeedbackConfig,
    answers: Sequence[Sequence[str]],
    judge: Judge,
    name: str,
    prompts: Sequence[Prompt],
    constitution: Constitution,
    out: StageFolder,
) -> None:
    """Judge pairs of the answers of `sample`; write ``comparisons.jsonl`` and ``feedback.json``.

    Args:
        name: of the judge, the comparisons' ``rater``.

    Raises:
        DataError: the judge has no preference on any pair.
    """
    pairs = pairs_of(config, constitution, prompts, answers)
    questions = [question for some in pairs for pair in some for question in pair.questions]
    judgements = in_order(judge.judge(questions), len(questions))
    by_prompt, why = attach(pairs, judgements), unanswered_by_reason(judgements)
    comparisons, left_out = label_pairs(config, name, by_prompt)
    if not comparisons:
        raise DataError(
            f"the judge has no preference on any of {sum(map(len, pairs))} pairs"
            + (f"; unanswered: {reasons_text(why)}" if why else ""),
            do="sample more or more varied answers (feedback.answers, feedback.sampling.temperature), or another judge",
        )
    write_jsonl(out.file(COMPARISONS), [row.model_dump(mode="json", exclude_defaults=True) for row in comparisons])
    texts = [text for some in answers for text in some]
    unusable = sum(not text.strip() for text in texts)
    counts = {
        "prompts": len(prompts),
        "answers": len(texts),
        "empty_or_cut_off": unusable,
        "kept": len(comparisons),
        "left_out": dict(left_out),
    }
    write_json(out.file(SUMMARY), {**counts, **summary(by_prompt), "unanswered_by_reason": why})
    out.file(ANSWERS).unlink(missing_ok=True)
    out.emit(event="feedback", **counts)
