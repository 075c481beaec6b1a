"""What a judge is worth: its card, which training asks for before it believes a word.

A judge is asked about comparisons that people (or authors) have decided and that it was not trained on. The card says
how often it agrees, by principle and by source, whether its probabilities mean what they say, how far the place at
which an answer was shown moves them, and how many questions it left open. `admit` refuses a judge whose interval does
not clear a threshold: raw models asked in the paper's way are often near a coin's 50 %.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from steersman.constitution.document import Constitution
from steersman.constitution.judges import Judge, JudgeConfig, Judgement, Question, all_of
from steersman.errors import JudgeRefused
from steersman.stats import Estimate, calibration, clustered_mean, mean_estimate
from steersman.store import StageFolder, write_json
from steersman.types import Comparison, Text

VERSION = 3
CARD = "judge_card.json"


def questions_of(
    comparisons: Sequence[Comparison], constitution: Constitution, limit: int | None = None, seed: int = 0
) -> list[tuple[Comparison, Question, bool]]:
    """Every strictly ordered pair as a question under the principle that the row is about, and whether its first answer
    is the better one: a fair coin decides, so that a judge who always says (A) is right half the time.

    A row about none of the constitution's principles is asked about all in all.
    """
    stream, known = random.Random(seed), {principle.id: principle for principle in constitution.principles}
    found = []
    for row in comparisons:
        principle = next((known[id] for id in row.principles if id in known), None)
        for pair in row.pairs():
            question = Question(row.prompt, pair.better, pair.worse, principle, row.expect)
            first = stream.random() < 0.5
            found.append((row, question if first else question.turned(), first))
    return found if limit is None or limit >= len(found) else stream.sample(found, limit)


def card(judge: Judge, asked: Sequence[tuple[Comparison, Question, bool]]) -> dict[str, Any]:
    """All figures as JSON values. See `questions_of`.

    Accuracy is over all that was asked: a question that was left open, or not answered, is right by a coin's chance.
    Pairs of one prompt hang together, and the interval respects it.
    """
    judgements = all_of(judge.judge([question for _, question, _ in asked]), len(asked))
    of_better: list[Judgement] = []
    everything: list[_Right] = []
    by: dict[str, dict[str, list[_Right]]] = {"principle": {}, "source": {}}
    for (row, question, first), judgement in zip(asked, judgements, strict=True):
        right = 0.5
        if judgement is not None:
            p = judgement.probability if first else 1 - judgement.probability
            of_better.append(judgement._replace(probability=p))
            right = 0.5 if p == 0.5 else float(p > 0.5)  # one half is a coin flip
        everything.append(_Right(row.prompt, right))
        principle = question.principle.id if question.principle else "all in all"
        for kind, key in (("principle", principle), ("source", row.source or "unnamed")):
            by[kind].setdefault(key, []).append(everything[-1])
    margins = [_log_odds(judgement.probability) for judgement in of_better]
    return {
        "accuracy": _accuracy(everything).json(),
        "by": {
            kind: {key: _accuracy(some).json() for key, some in sorted(groups.items())} for kind, groups in by.items()
        },
        "calibration": calibration([margin for margin in margins if margin]),
        "place_bias": mean_estimate([judgement.place_bias for judgement in of_better]).json(),
        "undecided": sum(judgement.probability == 0.5 for judgement in of_better),
        "unanswered": len(asked) - len(of_better),
    }


class _Right(NamedTuple):
    """Whether the better answer of a pair was found: 1, 0, or a coin's 0.5."""

    prompt: Text
    right: float


def _accuracy(some: Sequence[_Right]) -> Estimate:
    return clustered_mean([one.right for one in some], [one.prompt for one in some], rate=True).estimate


def _log_odds(probability: float) -> float:
    p = min(max(probability, 1e-12), 1 - 1e-12)
    return math.log(p / (1 - p))


def run(
    config: JudgeConfig,
    judge: Judge,
    comparisons: Sequence[Comparison],
    constitution: Constitution,
    out: StageFolder,
) -> dict[str, Any]:
    """Measure a judge, write its card and return it.

    Args:
        comparisons: that it was not trained on.
    """
    found = card(judge, questions_of(comparisons, constitution, config.questions, config.seed))
    asked = config.model_dump(mode="json", exclude={"at_least", "believe_anyway"})
    write_json(out.file(CARD), {"judge": asked, **found})
    out.emit(event="accuracy", **found["accuracy"])
    return found


def admit(config: JudgeConfig, measured: Mapping[str, Any]) -> None:
    """Let a judge's card pass, or refuse.

    Raises:
        JudgeRefused: the judge was not measured, or its interval does not clear ``at_least``.
    """
    if config.believe_anyway:
        return
    if not measured["accuracy"]["n"]:
        raise JudgeRefused(
            "nobody has measured this judge: there were no held-out comparisons to ask it about",
            do="set examples.held_out_comparisons: 0.2 or say judge.believe_anyway: true",
        )
    accuracy = Estimate(**measured["accuracy"])
    if accuracy.low < config.at_least:
        silent = f", where {measured['unanswered']} got no answer" if measured["unanswered"] else ""
        raise JudgeRefused(
            f"the judge agrees with people in {accuracy.percent()} of held-out comparisons{silent}",
            where=CARD,
            expected=f"an interval above {100 * config.at_least:.0f} % (judge.at_least)",
            do="take another judge (judge.kinds), give it more comparisons to learn from or to be measured on, or say "
            "judge.believe_anyway: true; what is trained on a coin flip learns noise",
        )
