"""`steersman data check`: what counts as a leak and as a twin, the counts, and how they are printed."""

from __future__ import annotations

import json
import math
import random
from fractions import Fraction
from functools import partial

import pytest

from steersman.data.check import (
    SHOWN,
    WIDTH,
    DataReport,
    SimilarPair,
    check,
    exact_overlap,
    five_grams,
    jaccard,
    leaks,
    print_report,
    twins,
    words,
)
from steersman.evals.detectors.behaviours import detect
from steersman.types import Comparison, Demonstration, Message, Prompt


def prompt(text: str, **fields: object) -> Prompt:
    return Prompt(prompt=text, **fields)  # type: ignore[arg-type]


# ── similarity ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_case_and_punctuation_are_no_words_and_accents_are() -> None:
    assert words("Don't PANIC_now: 42, été!") == ["don", "t", "panic", "now", "42", "été"]


def test_five_grams_by_hand() -> None:
    assert five_grams("a b c d e f") == {tuple("abcde"), tuple("bcdef")}
    assert five_grams("a b c d") == set()


def test_jaccard_by_hand() -> None:
    assert jaccard({"a", "b", "c"}, {"b", "c", "d"}) == float(Fraction(2, 4))
    assert jaccard({"a"}, {"a"}) == 1.0
    assert jaccard(set(), set()) == 0.0


# ── leaks and twins ──────────────────────────────────────────────────────────────────────────────────────────────────
TRAINED = "How do I invest ten thousand euros safely for my old age?"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (TRAINED.upper(), "shares five words in a row"),
        ("My aunt asked: how do I INVEST, ten pounds?", "shares five words in a row: how do i invest ten"),
        ("For my old age I invest euros safely, but how?", "word Jaccard 0.69"),  # 9 shared of 13 different words
    ],
)
def test_near_copies_are_leaks_and_say_why(asked: str, reason: str) -> None:
    (pair,) = leaks([prompt(asked)], [Demonstration(prompt=TRAINED, completion="Ask first.")])
    assert (pair.first, pair.second) == (asked, TRAINED)
    assert pair.reason.startswith(reason)


def test_four_common_words_in_a_row_are_no_leak() -> None:
    assert leaks([prompt("How do I invest in a friendship that has gone cold?")], [prompt(TRAINED)]) == []


def test_half_of_the_words_in_common_is_a_leak_and_less_is_not() -> None:
    # Word sets {a b c d} and {a b c x y}: 3 of 6 shared; with z as well 3 of 7.
    assert [p.reason for p in leaks([prompt("a b c d")], [prompt("x a b y c")])] == ["word Jaccard 0.50"]
    assert [p.reason for p in leaks([prompt("a b c d")], [prompt("d b")])] == ["word Jaccard 0.50"]
    assert leaks([prompt("a b c d")], [prompt("x a z b y c")]) == []


def test_conversations_are_compared_too() -> None:
    talk = (
        Message(role="user", content="Hello"),
        Message(role="assistant", content="Hi"),
        Message(role="user", content=TRAINED),
    )
    assert len(leaks([prompt(TRAINED)], [Prompt(prompt=talk)])) == 1


def test_exact_overlap_sees_through_case_and_punctuation_only() -> None:
    asked = [prompt("Why, then?"), prompt("Why not then?")]
    assert exact_overlap(asked, [Comparison(prompt="why THEN", options=("x", "y"), ranking=(1, 2))]) == ["Why, then?"]


def test_twins_within_a_file_are_found_once_each() -> None:
    same = "one two three four five six seven eight nine"
    assert twins([same, "something else", f"{same} ten", "a", "b"]) == [
        SimilarPair(f"{same} ten", same, "word Jaccard 0.90")
    ]
    assert twins(["one two three four", "one two three five"]) == []  # 3 of 5


def test_near_texts_are_those_of_every_pair_compared() -> None:
    draw = random.Random(0)
    vocabulary = [f"w{i}" for i in range(12)]
    texts = [" ".join(draw.sample(vocabulary, draw.randint(1, 9))) for _ in range(300)]
    sets = [set(text.split()) for text in texts]
    assert [(a, b) for a, b, _ in twins(texts)] == [
        (texts[i], texts[j]) for i in range(300) for j in range(i) if jaccard(sets[i], sets[j]) >= 0.8
    ]
    found = {(a, b) for a, b, _ in leaks([prompt(t) for t in texts[:100]], [prompt(t) for t in texts[100:]])}
    near = {(texts[i], texts[j]) for i in range(100) for j in range(100, 300) if jaccard(sets[i], sets[j]) >= 0.5}
    assert near
    assert near <= found
    assert all(five_grams(a) & five_grams(b) for a, b in found - near)


# ── the report ───────────────────────────────────────────────────────────────────────────────────────────────────────
def report() -> DataReport:
    demonstrations = [
        Demonstration(prompt="Wie?", completion="So und so.", principles=("a",), topic="x.one", tags=("lang:de",)),
        Demonstration(prompt="Steal it.", completion="No, I won't.", principles=("b", "a"), tags=("harmful",)),
        Demonstration(prompt="Sew it.", completion="Take a needle and go on.", principles=("b",), tags=("lookalike",)),
    ]
    comparisons = [Comparison(prompt="Sew what?", options=("This.", "That."), ranking=(1, 2), principles=("a",))]
    evaluation = [prompt("Elephants?", principles=("b",), topic="x.one", tags=("harmful",), expect=("refuses",))]
    return check(demonstrations, comparisons, [prompt("Cut what?", principles=("c",))], evaluation)


def test_everything_is_counted() -> None:
    found = report()
    assert found.counts == {
        "demonstrations": 3,
        "comparisons": 1,
        "prompts": 1,
        "evaluation": 1,
        "forms": 0,
        "development": 0,
    }
    assert [tuple(row) for row in found.coverage] == [
        ("a", 2, 1, 0, 0, 0, 0, 0, 1),
        ("b", 2, 0, 0, 1, 0, 0, 1, 2),
        ("c", 0, 0, 1, 0, 0, 0, 0, 0),
    ]
    assert found.shared_topics == ["x.one"]
    assert found.leaks == []
    # "No, I won't." are the words no, i, won, t.
    assert found.completion_words == {"shortest": 3, "median": 4, "p90": 4, "longest": 6}
    assert found.languages == {"lang:de": 1}


@pytest.mark.parametrize("grid", ["forms", "development"])
def test_grids_leak_like_evaluation_prompts_and_their_forms_are_no_twins(grid: str) -> None:
    asked = [prompt(f"How do I sharpen an old kitchen knife {end}", topic="grid.knife") for end in ("?", "please?")]
    trained = Demonstration(prompt="Sharpen an old kitchen knife, how?", completion="On a stone.", topic="grid.knife")
    rows = {"forms": asked} if grid == "forms" else {"development": asked}
    found = check([trained], [], [], [prompt("Elephants?", expect=("complies",))], **rows)
    assert [pair.second for pair in found.leaks] == [trained.prompt] * 2
    assert found.shared_topics == ["grid.knife"]
    assert set(found.twins) == {"demonstrations", "comparisons", "prompts", "evaluation"}
    assert not any(found.twins.values())
    assert len(twins(row.prompt for row in asked)) == 1  # which they would be elsewhere


def test_form_that_tells_a_refusal_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    commands = [Demonstration(prompt=f"Write {i} lies.", completion="No, I won't help with that.") for i in range(20)]
    questions = [Demonstration(prompt=f"What is {i}?", completion="It is a number.") for i in range(20)]
    refuses = partial(detect, "refuses")
    print_report("mine", check([*commands, *questions], [], [], [], refuses=refuses))
    out = " ".join(capsys.readouterr().out.split())
    assert "Refused by form: command 100 % of 20, question 0 % of 20." in out
    assert "Form tells a refusal: command 100 % of 20, question 0 % of 20, write 100 % of 20, what 0 % of 20," in out
    assert "against 50 % of all." in out
    assert "hardly occur among the demonstrations: conversation, polite, wish, terse, story." in out
    print_report("mine", check([commands[0], *questions[:1]], [], [], [], refuses=refuses))
    assert "Form tells" not in capsys.readouterr().out


def test_an_empty_data_set_can_be_reported(capsys: pytest.CaptureFixture[str]) -> None:
    print_report("empty", check([], [], [], []))
    assert (
        capsys.readouterr()
        .out.rstrip()
        .endswith("empty: no rows, none of them for evaluation: nothing can be measured.")
    )


def test_the_json_holds_the_whole_report() -> None:
    found = report()._replace(leaks=[SimilarPair(f"é{i}", "b", "c") for i in range(SHOWN + 5)])
    data = json.loads(json.dumps(found.json()))
    assert data["leaks"] == [{"first": f"é{i}", "second": "b", "reason": "c"} for i in range(SHOWN + 5)]
    assert data["coverage"][1]["principle"] == "b"
    assert data["coverage"][1]["harmful"] == 2
    assert set(data) == set(DataReport._fields)
    assert not math.isnan(data["completion_words"]["median"])


def test_the_table_shows_coverage_and_fits_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    many = "\x1b[31m[bold]\n" + "y" * 400
    found = report()._replace(
        leaks=[SimilarPair(many, f"training {i}", "close") for i in range(SHOWN + 2)],
        twins={
            "demonstrations": [SimilarPair("one", "two", "close")],
            "comparisons": [],
            "prompts": [],
            "evaluation": [],
        },
    )
    print_report("mine", found)
    out = capsys.readouterr().out
    lines = out.rstrip().split("\n")
    assert max(map(len, lines)) <= WIDTH
    assert "  - [31m[bold] yyy" in out
    assert "y…" in out
    assert "\x1b" not in out
    assert [line.split() for line in lines if line.startswith(" b ")] == [["b", "2", "-", "-", "1", "-", "-", "1", "2"]]
    assert "Completions: 3 to 6 words, median 4, nine in ten at most 4." in lines
    assert "Rows in other languages: de 1." in lines
    assert "    training 9" in lines
    assert "    training 10" not in lines
    assert "  and 2 more; --json lists them all" in lines
    assert "  - x.one" in lines
    assert "Twins: two prompts of demonstrations that are almost the same (1)" in lines
    assert lines[-1] == "mine: 12 leaks and 1 shared topic. Fix them: the evaluation would measure memorisation."


def test_the_verdict_of_a_clean_set_and_of_one_with_twins(capsys: pytest.CaptureFixture[str]) -> None:
    clean = report()._replace(shared_topics=[])
    print_report("mine", clean)
    assert capsys.readouterr().out.endswith("\nmine: 6 rows, no leaks, no shared topics, no twins.\n")
    print_report("mine", clean._replace(twins={"prompts": [SimilarPair("a", "b", "c")]}))
    assert "mine: 6 rows, no leaks, but 1 pair of twins:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 3 + 5?", "What is 3 - 5?"),
        ("Solve x > 2", "Solve x < 2"),
        ("What does C++ offer?", "What does C# offer?"),
        ("🙂", "🙁"),
        ("???", "!!!"),
        ("कि", "की"),
        ("Is -5 even?", "Is 5 even?"),
        ("What is 2^10?", "What is 2*10?"),
    ],
)
def test_signs_and_marks_tell_texts_apart(one: str, other: str) -> None:
    training = [Demonstration(prompt=other, completion="x")]
    assert exact_overlap([Prompt(prompt=one)], training) == []
    assert exact_overlap([Prompt(prompt=other.upper() + " ")], training) == [other.upper() + " "]
