"""The examples of the shipped constitutions: enough of them, in one voice, unseen in the evaluation, and right.

What is right is judged by the detectors that judge a model: a revision shows the behaviours of its principle.
"""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher

import pytest

from steersman.constitution.document import CritiqueExample, Principle, library, load
from steersman.data import sources
from steersman.data.check import Row, exact_overlap, jaccard, leaks, twins, words
from steersman.evals.detectors.behaviours import detect
from steersman.types import Behaviour, Prompt

PRINCIPLES = [(name, principle) for name in library() for principle in load(name).principles]
EXAMPLES = [(principle, example) for _, principle in PRINCIPLES for example in principle.examples]
NOTHING_WRONG = "Nothing in it breaks the rule: "


def kept(example: CritiqueExample) -> bool:
    """Whether the example is one of a good answer."""
    return example.critique.startswith(NOTHING_WRONG)


FAULTY = [(principle, example) for principle, example in EXAMPLES if not kept(example)]


def missing(principle: Principle, example: CritiqueExample, reply: str) -> set[Behaviour]:
    """Behaviours of the principle that a reply lacks; of `refuses` and `complies` a request calls for one."""
    lacking = {behaviour for behaviour in principle.behaviours if not detect(behaviour, example.prompt, reply)}
    sides: set[Behaviour] = {"refuses", "complies"}
    return lacking - sides if sides <= set(principle.behaviours) and not sides <= lacking else lacking


def opening(text: str) -> str:
    return " ".join(text.lower().split()[:3])


@pytest.mark.parametrize(("name", "principle"), PRINCIPLES, ids=[f"{name}-{p.id}" for name, p in PRINCIPLES])
def test_every_principle_has_three_examples_that_begin_differently(name: str, principle: Principle) -> None:
    assert len(principle.examples) == 3
    for texts in ([e.revision for e in principle.examples], [e.prompt for e in principle.examples]):
        assert len({opening(text) for text in texts}) == 3
    assert not kept(principle.examples[-1])  # a raw model repeats what it saw last


def test_no_opening_dominates() -> None:
    count = Counter(opening(example.revision) for _, example in EXAMPLES)
    assert max(count.values()) <= 3, count.most_common(3)


def test_no_example_is_near_an_evaluation_prompt_or_copied_from_the_data() -> None:
    shown = [Prompt(prompt=example.prompt) for _, example in EXAMPLES]
    for name in (*sources.library(), *library()):
        data = sources.load(name)
        assert leaks(data.measured_on, shown) == []
        training: list[Row] = [*data.demonstrations, *data.comparisons, *data.prompts]
        assert exact_overlap(shown, training) == []
        assert leaks(shown, training) == []
    assert twins(example.prompt for _, example in EXAMPLES) == []


def test_a_quarter_of_the_answers_is_good_and_stays_as_it_is() -> None:
    good = [(principle, example) for principle, example in EXAMPLES if kept(example)]
    assert 0.2 <= len(good) / len(EXAMPLES) <= 0.3
    for principle, example in good:
        assert SequenceMatcher(None, example.answer, example.revision).ratio() >= 0.9, principle.id
        assert missing(principle, example, example.answer) == set(), principle.id


def test_a_faulty_answer_is_rewritten_and_not_touched_up() -> None:
    alike = {
        example.prompt: similarity
        for _, example in FAULTY
        if (similarity := jaccard(set(words(example.answer)), set(words(example.revision)))) > 0.4
    }
    assert alike == {}


def test_revisions_show_the_behaviours_of_their_principles() -> None:
    lacking = {
        example.prompt: lack for principle, example in FAULTY if (lack := missing(principle, example, example.revision))
    }
    assert lacking == {}


@pytest.mark.parametrize(("behaviour", "other"), [("refuses", "complies"), ("complies", "refuses")])
def test_principles_with_two_sides_show_both(behaviour: Behaviour, other: Behaviour) -> None:
    for _, principle in PRINCIPLES:
        if {behaviour, other} <= set(principle.behaviours):
            assert any(detect(behaviour, e.prompt, e.revision) for e in principle.examples), principle.id


def test_most_faulty_answers_fail_by_the_detectors_or_take_the_wrong_side() -> None:
    """A detector sees manners, not whether a sermon or a rambling answer is one; these are the few that pass."""

    def told_apart(principle: Principle, example: CritiqueExample) -> bool:
        shown = [
            [detect(behaviour, example.prompt, text) for behaviour in principle.behaviours]
            for text in (example.answer, example.revision)
        ]
        return shown[0] != shown[1]

    passing = [(principle.id, e.prompt) for principle, e in FAULTY if not told_apart(principle, e)]
    assert len(passing) <= len(FAULTY) / 5, passing


def test_critiques_point_at_the_answer() -> None:
    """What stands in quotation marks was said: in the answer, the prompt or the statement."""
    for principle, example in FAULTY:
        quoted = [part.strip(" .,!?") for part in example.critique.split('"')[1::2]]
        assert all(words(part) for part in quoted)
        spoken = " ".join(words(example.answer + " " + example.prompt + " " + principle.statement))
        strange = [part for part in quoted if " ".join(words(part)) not in spoken]
        assert strange == [], (principle.id, example.prompt)
    assert sum('"' in example.critique for _, example in FAULTY) >= 0.7 * len(FAULTY)


def test_examples_are_short_and_in_ascii_punctuation() -> None:
    for principle, example in EXAMPLES:
        texts = list(example.model_dump().values())
        assert {c for text in texts for c in text if not (c.isascii() or c.isalpha())} == set(), principle.id
        assert max(len(words(text)) for text in texts) <= 90, (principle.id, example.prompt)
        assert len(words(example.prompt)) <= 30
