"""The card of a preference judge: accuracy, calibration and position bias on comparisons decided by people or authors.

The judge was not trained on them. The card holds accuracy by principle and by source, expected calibration error,
position bias, and the number of questions left open, by reason. `admit` refuses a judge whose interval of accuracy does
not reach a threshold: raw models that are prompted in the paper's way are often near the 50 % of chance.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from steersman.constitution.document import Constitution
from steersman.constitution.judges import (
    NO_PRINCIPLE,
    Judge,
    JudgeConfig,
    Judgement,
    JudgeQuestion,
    in_order,
    unanswered_by_reason,
)
from steersman.errors import JudgeRefused
from steersman.lm.endpoint.replies import reasons_text
from steersman.stats import Estimate, calibration, clustered_mean, mean_estimate
from steersman.store import StageFolder, write_json
from steersman.types import Comparison, Text

VERSION = 5
CARD = "judge_card.json"


def questions_of(
    comparisons: Sequence[Comparison], constitution: Constitution, limit: int | None = None, seed: int = 0
) -> list[tuple[Comparison, JudgeQuestion, bool]]:
    """Every strictly ordered pair as a question under its row's principle, and whether its first answer is the better.

    The order is drawn by a fair coin, so that a judge that always says (A) is right half the time. A row about none of
    the constitution's principles gives a question without a principle.
    """
    stream, known = random.Random(seed), {principle.id: principle for principle in constitution.principles}
    questions = []
    for row in comparisons:
        principle = next((known[id] for id in row.principles if id in known), None)
        for pair in row.pairs():
            question = JudgeQuestion(row.prompt, pair.better, pair.worse, principle, row.expect)
            first = stream.random() < 0.5
            questions.append((row, question if first else question.swapped(), first))
    return questions if limit is None or limit >= len(questions) else stream.sample(questions, limit)


def card(judge: Judge, questions: Sequence[tuple[Comparison, JudgeQuestion, bool]]) -> dict[str, Any]:
    """All figures as JSON values. See `questions_of`.

    Accuracy is over all questions: one that was left undecided, or not answered, counts as one half. The interval
    treats the pairs of one prompt as a cluster.
    """
    judgements = in_order(judge.judge([question for _, question, _ in questions]), len(questions))
    of_better: list[Judgement] = []
    outcomes: list[_Outcome] = []
    by: dict[str, dict[str, list[_Outcome]]] = {"principle": {}, "source": {}}
    for (row, question, first), judgement in zip(questions, judgements, strict=True):
        right = 0.5
        if judgement:
            p = judgement.probability if first else 1 - judgement.probability
            of_better.append(judgement._replace(probability=p))
            right = 0.5 if p == 0.5 else float(p > 0.5)  # one half is a coin flip
        outcomes.append(_Outcome(row.prompt, right))
        principle = question.principle.id if question.principle else NO_PRINCIPLE
        for kind, key in (("principle", principle), ("source", row.source or "unnamed")):
            by[kind].setdefault(key, []).append(outcomes[-1])
    margins = [_log_odds(judgement.probability) for judgement in of_better]
    return {
        "accuracy": _accuracy(outcomes).json(),
        "by": {
            kind: {key: _accuracy(group).json() for key, group in sorted(groups.items())} for kind, groups in by.items()
        },
        "calibration": calibration([margin for margin in margins if margin]),
        "place_bias": mean_estimate([judgement.position_bias for judgement in of_better]).json(),
        "undecided": sum(judgement.probability == 0.5 for judgement in of_better),
        "unanswered": len(questions) - len(of_better),
        "unanswered_by_reason": unanswered_by_reason(judgements),
    }


class _Outcome(NamedTuple):
    """1 if the better answer of a pair was preferred, 0 if not, 0.5 if the judge did not decide."""

    prompt: Text
    right: float


def _accuracy(outcomes: Sequence[_Outcome]) -> Estimate:
    return clustered_mean([o.right for o in outcomes], [o.prompt for o in outcomes], rate=True).estimate


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
        comparisons: held out of its training.
    """
    figures = card(judge, questions_of(comparisons, constitution, config.questions, config.seed))
    settings = config.model_dump(mode="json", exclude={"min_accuracy", "skip_validation"})
    write_json(out.file(CARD), {"judge": settings, **figures})
    out.emit(event="accuracy", **figures["accuracy"])
    return figures


def admit(config: JudgeConfig, measured: Mapping[str, Any]) -> None:
    """Accept a judge by its card, or refuse it.

    Raises:
        JudgeRefused: the judge was not measured, or its interval does not reach ``min_accuracy``.
    """
    if config.skip_validation:
        return
    if not measured["accuracy"]["n"]:
        raise JudgeRefused(
            "this judge was not measured: there are no held-out comparisons",
            do="set examples.held_out_comparisons: 0.2, or judge.skip_validation: true to use it all the same",
        )
    accuracy = Estimate(**measured["accuracy"])
    if accuracy.low < config.min_accuracy:
        why = reasons_text(measured["unanswered_by_reason"])
        unanswered = f"; {measured['unanswered']} got no answer: {why}" if measured["unanswered"] else ""
        raise JudgeRefused(
            f"the judge agrees with people in {accuracy.percent()} of held-out comparisons{unanswered}",
            where=CARD,
            expected=f"an interval above {100 * config.min_accuracy:.0f} % (judge.min_accuracy)",
            do="use another judge (judge.kinds), give it more comparisons to learn from or to be measured on, or set "
            "judge.skip_validation: true; training on the labels of a coin flip learns noise",
        )
