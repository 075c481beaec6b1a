"""Principles held against each other, and a constitution against its next version."""

from __future__ import annotations

from tests.unit.constitution.conftest import ToldJudge, principle

from steersman.cli.constitution import difference_json
from steersman.constitution.document import Constitution
from steersman.constitution.judges import JudgeQuestion
from steersman.constitution.tensions import MIN_PAIRS, AnswerPair, changed, differences, tensions

PAIRS = [AnswerPair(f"q{i}", f"first {i}", f"second {i}") for i in range(4 * MIN_PAIRS)]


def number(question: JudgeQuestion) -> int:
    return int(str(question.prompt)[1:])


def id_of(question: JudgeQuestion) -> str:
    assert question.principle is not None
    return question.principle.id


def three(constitution: Constitution, *ids: str) -> Constitution:
    return constitution.model_copy(update={"principles": tuple(principle(id) for id in ids)})


def test_disagreement_redundancy_and_idleness_are_told_apart(constitution: Constitution) -> None:
    """Pears decide as apples do; plums turn every tenth pair round; figs never decide."""

    def says(question: JudgeQuestion) -> float:
        of, i = id_of(question), number(question)
        if of == "figs":
            return 0.52
        lead = 0.9 if i % 2 else 0.1
        return 1 - lead if of == "plums" and i % 10 == 0 else lead

    found = tensions(ToldJudge(says), PAIRS, three(constitution, "apples", "pears", "plums", "figs"))
    assert found["idle"] == ["figs"]
    assert found["decided"]["apples"]["value"] == 1
    by = {tuple(row["principles"]): row for row in found["between"]}
    assert by["apples", "pears"]["redundant"]
    assert not by["apples", "plums"]["redundant"]
    assert by["apples", "plums"]["pairs_in_opposite_order"] == list(range(0, 80, 10))
    assert by["apples", "plums"]["agree"]["value"] == 0.9
    assert not by["apples", "figs"]["redundant"]  # figs add nothing, but are not the same as apples
    assert found["between"][0]["pairs_in_opposite_order"]  # those that disagree most come first


def test_two_principles_that_decide_different_pairs_are_not_redundant(constitution: Constitution) -> None:
    says = {"apples": lambda i: i < 60, "pears": lambda i: i >= 20}
    judge = ToldJudge(lambda q: 0.9 if says[id_of(q)](number(q)) else 0.5)
    (row,) = tensions(judge, PAIRS, constitution)["between"]
    assert (row["agree"]["value"], row["agree"]["n"], row["one_decides_alone"]) == (1, 40, 40)
    assert not row["redundant"]


def test_a_changed_principle_lists_the_pairs_that_it_turns_round_and_nothing_else_is_judged_anew(
    constitution: Constitution,
) -> None:
    old = three(constitution, "apples", "pears", "plums")
    new = old.model_copy(update={"principles": (*old.principles[:2], principle("plums", "Keep more plums"))})

    def says(question: JudgeQuestion) -> float:
        assert question.principle is not None
        turned = "more" in question.principle.title and number(question) in (3, 4)
        return 0.1 if turned or (id_of(question) == "pears" and number(question) == 4) else 0.9

    judge = ToldJudge(says)
    found = changed(judge, PAIRS, old, new)
    assert found["differences"] == {"added": [], "removed": [], "changed": ["plums"]}
    assert len(judge.asked) == len(PAIRS) * (3 + 1)
    # AnswerPair 3 flips by plums alone (apples and pears still outvote it); pair 4 flips in the sum as well.
    assert [(flip.principle, flip.pair.prompt, flip.before, flip.after) for flip in found["flips"]] == [
        ("plums", "q3", 1, -1),
        ("plums", "q4", 1, -1),
        (None, "q4", 1, -1),
    ]
    q3, _, q4 = difference_json(found)["flips"]
    third = {"principle": "plums", "prompt": "q3", "first": PAIRS[3].first, "second": PAIRS[3].second}
    assert q3 == third | {"before": 1, "after": -1}
    assert (q4["principle"], q4["prompt"]) == (None, "q4")


def test_the_same_constitution_changes_nothing(constitution: Constitution) -> None:
    judge = ToldJudge(lambda _: 0.9)
    found = changed(judge, PAIRS, constitution, constitution)
    assert (found["differences"], found["flips"]) == ({"added": [], "removed": [], "changed": []}, [])
    assert len(judge.asked) == len(PAIRS) * 2


def test_what_a_judge_reads_beside_the_words_counts_as_a_change(constitution: Constitution) -> None:
    old = three(constitution, "apples", "pears")
    for other in ({"behaviours": ("complies", "refuses")}, {"examples": ()}):
        second = old.principles[1].model_copy(update=other)
        assert second != old.principles[1]
        new = old.model_copy(update={"principles": (old.principles[0], second)})
        assert differences(old, new)["changed"] == ["pears"]


def test_added_and_removed_principles_are_named_and_count_in_the_sum(constitution: Constitution) -> None:
    old, new = three(constitution, "apples", "pears"), three(constitution, "apples", "figs", "plums")
    judge = ToldJudge(lambda q: 0.9 if id_of(q) in ("apples", "pears") else 0.1)
    found = changed(judge, PAIRS[:3], old, new)
    assert found["differences"] == {"added": ["figs", "plums"], "removed": ["pears"], "changed": []}
    assert [(flip.principle, flip.before, flip.after) for flip in found["flips"]] == [(None, 2, -1)] * 3
