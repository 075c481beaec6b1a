"""A small constitution and a judge that says what it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from steersman.constitution.document import Constitution, CritiqueExample, Principle
from steersman.constitution.judges import Judgement, JudgeQuestion, Unanswered


def example(name: str, faulty: bool = True) -> CritiqueExample:
    good = f"Good {name}."
    return CritiqueExample(
        prompt=f"Ask {name}?",
        answer=f"Bad {name}." if faulty else good,
        critique=f"It is {'bad' if faulty else 'good'}.",
        revision=good,
    )


def principle(id: str, title: str | None = None) -> Principle:
    return Principle(
        id=id,
        title=title or f"Keep {id}",
        statement=f"Names {id} plainly",
        rationale="Because.",
        severity="low",
        critique_request=f"Where does it break {id}?",
        revision_request=f"Write it again and keep {id}.",
        behaviours=("refuses",),
        examples=(example(f"{id} 1"), example(f"{id} 2"), example(f"{id} 3", faulty=False)),
    )


@pytest.fixture
def constitution() -> Constitution:
    return Constitution(
        name="small",
        title="Small",
        publisher="Us",
        version="1",
        persona="Plain.",
        principles=(principle("apples"), principle("pears")),
    )


@dataclass
class ToldJudge:
    """Says what a function makes of each question, in reverse order; keeps the questions."""

    says: Callable[[JudgeQuestion], float | None]
    place_bias: float = 0.0
    asked: list[JudgeQuestion] = field(default_factory=list)

    def judge(self, questions: Sequence[JudgeQuestion]) -> Iterator[tuple[int, Judgement | Unanswered]]:
        self.asked += questions
        for number, question in reversed(list(enumerate(questions))):
            said = self.says(question)
            yield number, Unanswered("said nothing") if said is None else Judgement(said, self.place_bias)
