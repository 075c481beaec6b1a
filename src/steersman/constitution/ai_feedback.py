"""Feedback by a judge that reads the principles: the labels of constitutional AI's second half (Bai et al. 2022,
arXiv:2212.08073).

    K answers ~ policy(prompt);   pairs of them;   label = P(first is better | principle), the mean over principles

The judge is asked in both orders where the order could matter (`AskedJudge`), and the mean is a soft label. What comes
out are comparisons as people's are, with ``source: ai``: a reward model and DPO take both, mixed as a recipe says.

What differs from the paper: the principle is one that the prompt is about (``principles: any`` draws from all); each of
several answers is compared and the pairs of which the judge is surest are kept, where the paper takes two; and no judge
is heard whose card does not pass (`constitution/judge_card.py`).
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pydantic import Field

from steersman.constitution.document import Constitution, Principle
from steersman.constitution.judges import Judge, Judgement, Question, all_of
from steersman.data.sources import spread
from steersman.errors import DataError, closest
from steersman.lm.language_model import LanguageModel
from steersman.lm.sampling import SamplingConfig
from steersman.lm.transcript import Transcript
from steersman.stats import mean_estimate, wilson
from steersman.store import StageFolder, write_json, write_jsonl
from steersman.terminal import Progress
from steersman.types import Comparison, Prompt, Record, Seed, Slug, Text

VERSION = 3
COMPARISONS, SUMMARY, ANSWERS = "comparisons.jsonl", "feedback.json", "answers.partial.jsonl"


class FeedbackConfig(Record):
    """``answers`` to each of so many ``prompts`` (None for all, else spread evenly); of their pairs, ``pairs`` are
    judged, and the ``keep`` surest of those kept. A pair whose label is nearer to one half than ``margin`` is left out.

    ``principles``: by which a pair is compared: a drawn one of the prompt's ``own``, or of ``any``; ``ensemble`` draws
    so many and takes the mean of what is said by them.

    ``ended_only``: an answer that did not end by itself is not compared, because a policy that learnt from it would
    learn to stop in the middle.

    ``about``: only prompts of these principles are answered; None for all. ``people``: which of people's comparisons
    are learnt from beside these: ``all``, those about ``other`` principles (the paper: helpfulness from people,
    harmlessness from AI), or ``none``.
    """

    about: tuple[Slug, ...] | None = None
    people: Literal["all", "other", "none"] = "all"
    prompts: int | None = Field(default=None, ge=1)
    answers: int = Field(default=4, ge=2)
    ended_only: bool = True
    pairs: int = Field(default=6, ge=1)
    keep: int = Field(default=1, ge=1)
    margin: float = Field(default=0.0, ge=0, lt=0.5)
    principles: Literal["own", "any"] = "own"
    ensemble: int = Field(default=1, ge=1)
    sampling: SamplingConfig = SamplingConfig(temperature=0.9, max_new_tokens=72)
    seed: Seed = 0


def asked_about(config: FeedbackConfig, constitution: Constitution, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts that are answered.

    Raises:
        DataError: there are none, or ``about`` names what is no principle.
    """
    known = list(constitution.texts)
    if unknown := [id for id in config.about or () if id not in known]:
        raise DataError(
            f"the constitution has no principle {unknown[0]!r}", where="feedback.about", do=closest(unknown[0], known)
        )
    found = [row for row in prompts if config.about is None or set(config.about) & set(row.principles)]
    if not found:
        raise DataError("no prompts to answer", do="add rows to prompts.jsonl, or widen feedback.about")
    return spread(found, config.prompts)


def mixed(config: FeedbackConfig, people: Sequence[Comparison], ai: Sequence[Comparison]) -> list[Comparison]:
    """What a policy or a reward model learns from: people's comparisons and the judge's."""
    judged = set(config.about) if config.about is not None else {id for row in ai for id in row.principles}
    kept = {
        "all": list(people),
        "other": [row for row in people if not judged & set(row.principles)],
        "none": [],
    }
    return [*kept[config.people], *ai]


def drawn(config: FeedbackConfig, constitution: Constitution, row: Prompt, number: int) -> list[Principle | None]:
    """The principles by which the pairs of a prompt are compared; None is all in all, if it is about none of them."""
    pool = constitution.pool(config.principles, row.principles)
    stream = random.Random(f"{config.seed} {number}")
    return [*stream.sample(pool, min(config.ensemble, len(pool)))] or [None]


class Asked:
    """A pair of a prompt's answers, with a question for each of its principles."""

    def __init__(self, row: Prompt, first: str, second: str, principles: Sequence[Principle | None]) -> None:
        self.row, self.options = row, (first, second)
        self.questions = [Question(row.prompt, first, second, principle, row.expect) for principle in principles]


def pairs_of(
    config: FeedbackConfig, constitution: Constitution, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]
) -> list[list[Asked]]:
    """By prompt, the pairs that are judged: drawn from those of its different answers."""
    found = []
    for number, (row, texts) in enumerate(zip(prompts, answers, strict=True)):
        different = [text for text in dict.fromkeys(texts) if text.strip()]
        stream = random.Random(f"{config.seed} {number} pairs")
        every = [tuple(stream.sample(pair, 2)) for pair in itertools.combinations(different, 2)]
        some = stream.sample(every, min(config.pairs, len(every)))
        principles = drawn(config, constitution, row, number)
        found.append([Asked(row, first, second, principles) for first, second in some])
    return found


class Heard(NamedTuple):
    """A pair, and what the judge said of it by each principle; where it said nothing, there is nothing."""

    pair: Asked
    said: list[tuple[Principle | None, Judgement]]


def heard(asked: Sequence[Sequence[Asked]], judgements: Sequence[Judgement | None]) -> list[list[Heard]]:
    """By prompt, every pair with its own of the judgements, which are of all questions in order."""
    following = iter(judgements)
    return [
        [Heard(pair, [(q.principle, said) for q in pair.questions if (said := next(following))]) for pair in pairs]
        for pairs in asked
    ]


def labelled(
    config: FeedbackConfig, name: str, by_prompt: Sequence[Sequence[Heard]]
) -> tuple[list[Comparison], Counter[str]]:
    """The comparisons that are kept, and why the other pairs were not.

    Args:
        name: of the judge, who is the rater.
    """
    comparisons: list[Comparison] = []
    left: Counter[str] = Counter()
    for pairs in by_prompt:
        found: list[tuple[float, Comparison]] = []
        for pair, said in pairs:
            if not said:
                left["unanswered"] += 1
                continue
            label = sum(judgement.probability for _, judgement in said) / len(said)
            if abs(label - 0.5) <= config.margin:
                left["undecided"] += 1
                continue
            found.append((abs(label - 0.5), _comparison(name, pair, label, said)))
        found.sort(key=lambda pair: -pair[0])
        comparisons += [row for _, row in found[: config.keep]]
        left["less sure"] += len(found[config.keep :])
    return comparisons, +left


def _comparison(name: str, pair: Asked, label: float, said: Sequence[tuple[Principle | None, Judgement]]) -> Comparison:
    by: dict[str, tuple[int, ...]] = {}
    for principle, judgement in said:
        if principle:
            p = judgement.probability
            by[principle.id] = (1, 1) if p == 0.5 else (1, 2) if p > 0.5 else (2, 1)
    return Comparison(
        prompt=pair.row.prompt,
        options=pair.options,
        soft_label=label,
        per_principle=by if len(by) > 1 else {},
        principles=tuple(by) or pair.row.principles,
        topic=pair.row.topic,
        expect=pair.row.expect,
        tags=pair.row.tags,
        rater=name,
        group="ai",
        source="ai",
    )


def summary(by_prompt: Sequence[Sequence[Heard]]) -> dict[str, Any]:
    """What the judge said, as JSON values: how often each principle decided, how far two agree on a pair, the places.

    A principle decided a pair if the judge, asked by it, leant to one side (`Judgement.lean`).
    """
    decided: dict[str, list[bool]] = {}
    agreed: list[bool] = []
    given: list[Judgement] = []
    questions = 0
    for pair, said in itertools.chain.from_iterable(by_prompt):
        questions += len(pair.questions)
        for principle, judgement in said:
            decided.setdefault(principle.id if principle else "all in all", []).append(judgement.lean != 0)
            given.append(judgement)
        leans = [judgement.lean for _, judgement in said if judgement.lean]
        agreed += [a == b for a, b in itertools.combinations(leans, 2)]
    return {
        "decided": {key: wilson(sum(values), len(values)).json() for key, values in sorted(decided.items())},
        "principles_agree": wilson(sum(agreed), len(agreed)).json(),
        "place_bias": mean_estimate([judgement.place_bias for judgement in given]).json(),
        "unanswered": questions - len(given),
    }


def sample(
    config: FeedbackConfig, policy: LanguageModel, prompts: Sequence[Prompt], out: StageFolder
) -> list[list[str]]:
    """The policy's answers by prompt, empty where one is not compared; a killed run goes on where it was."""
    transcript = Transcript(out.file(ANSWERS))
    asked: dict[int, Text] = {
        number * config.answers + place: row.prompt
        for number, row in enumerate(prompts)
        for place in range(config.answers)
    }
    with Progress(out.stage, len(asked), len(transcript.rows)) as progress:
        found = transcript.answers("answer", policy, asked, config.sampling, advance=progress.advance)
    texts = [
        "" if config.ended_only and found[index]["finish_reason"] == "length" else found[index]["answer"]
        for index in asked
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
    """Judge what `sample` left, and write ``comparisons.jsonl`` and ``feedback.json``.

    Args:
        name: of the judge, for the comparisons' ``rater``.

    Raises:
        DataError: not one pair was told apart.
    """
    pairs = pairs_of(config, constitution, prompts, answers)
    questions = [question for some in pairs for pair in some for question in pair.questions]
    by_prompt = heard(pairs, all_of(judge.judge(questions), len(questions)))
    comparisons, left = labelled(config, name, by_prompt)
    if not comparisons:
        raise DataError(
            f"the judge told none of {sum(map(len, pairs))} pairs apart",
            do="sample more or hotter answers (feedback.answers, feedback.sampling.temperature), or take another judge",
        )
    write_jsonl(out.file(COMPARISONS), [row.model_dump(mode="json", exclude_defaults=True) for row in comparisons])
    texts = [text for some in answers for text in some]
    unusable = sum(not text.strip() for text in texts)
    counts = {
        "prompts": len(prompts),
        "answers": len(texts),
        "empty_or_cut_off": unusable,
        "kept": len(comparisons),
        "left_out": dict(left),
    }
    write_json(out.file(SUMMARY), {**counts, **summary(by_prompt)})
    out.file(ANSWERS).unlink(missing_ok=True)
    out.emit(event="feedback", **counts)
