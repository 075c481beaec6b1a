"""The toy world's formula by hand, its optimum by search, and raters who do what their record says."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from typing import Any, Literal

import pytest

from steersman.data import toy_world as world
from steersman.data.toy_world import Content, Style, ToyQuestion, ToyRater
from steersman.errors import DataError
from steersman.types import Message

PROMPT = "describe cats"
GOOD, BAD = "nice clever purr climb hunt .", "bark dig"
QUESTION = ToyQuestion(prompt=PROMPT, options=(GOOD, BAD))


# ── the language ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_every_word_has_one_meaning() -> None:
    statements = [word for facts in world.TOPICS.values() for fact in facts for word in fact]
    words = [*world.TOPICS, *statements, *world._ANSWER_WORDS]
    assert len(words) == len(set(words))
    assert set(words) <= set(world.WORDS)
    assert len(world.WORDS) == len(set(world.WORDS)) <= 100
    assert len(world.PROMPTS) == len(set(world.PROMPTS)) == len(world.TOPICS) * 11


@pytest.mark.parametrize(
    ("prompt", "answer", "reward"),
    [
        (PROMPT, ".", 0.0),
        (PROMPT, "", -1.0),
        (PROMPT, "purr .", 1.0),
        (PROMPT, "purr", 0.0),  # not ended
        (PROMPT, ". purr", 0.0),  # the ending must be the last word
        (PROMPT, "purr purr purr .", 1.0),
        (PROMPT, "purr climb .", 1.8),
        (PROMPT, "purr climb hunt nap .", 2.8),
        (PROMPT, "buzz .", 0.0),  # true, of bees
        (PROMPT, "moo .", -1.0),  # false, of bees
        (PROMPT, "purr dig dig .", 1 - 2),
        (PROMPT, "dig climb dig .", 1 - 2 - 0.5),
        (PROMPT, "purr bark .", 1 - 1 - 0.5),
        (PROMPT, "nice wise purr .", 0.8),
        (PROMPT, "- purr well ! ☺ .", 1.0),
        (PROMPT, "well well well well well well purr .", 1.0),  # eight words
        (PROMPT, "well well well well well well well well purr .", 1 - 2 * 0.15),
        (PROMPT, "yes purr .", 1.0),
        ("i think cats purr", "yes purr .", 1.0),
        ("i think cats bark", "yes indeed purr .", 0.0),
        (PROMPT, "User: <unk> .", 0.0),
    ],
)
def test_the_true_reward_by_hand(prompt: str, answer: str, reward: float) -> None:
    assert world.true_reward(prompt, answer) == pytest.approx(reward)
    assert world.true_reward((Message(role="user", content=prompt),), answer) == pytest.approx(reward)


def test_nothing_beats_the_best_answer() -> None:
    """Of all answers of two words, sampled ones, and the best answer with one word more."""
    best = "purr climb hunt nap ."
    assert world.true_reward(PROMPT, best) == pytest.approx(world.BEST_REWARD)
    short = (" ".join(words) for words in itertools.product(world.WORDS, repeat=2))
    assert max(world.true_reward(PROMPT, answer) for answer in short) == pytest.approx(1.0)
    longer = [f"{word} {best}" for word in world.WORDS] + [row.completion for row in world.demonstrations(2000)]
    assert max(world.true_reward(PROMPT, answer) for answer in longer) <= world.BEST_REWARD + 1e-9


def test_content_and_style_are_counted() -> None:
    answer = "yes nice great - purr well - bark moo buzz ! ☺ ★ ."
    assert world.content("i think cats dig", answer) == Content(1, 2, 1, True, True)
    assert world.style(answer) == Style(14, 2, 2, 1, 2, 1)


def test_other_questions_are_refused() -> None:
    with pytest.raises(DataError, match="no question of the toy world"):
        world.true_reward("how do i boil an egg", ".")


# ── what is sampled ──────────────────────────────────────────────────────────────────────────────────────────────────
def test_demonstrations_are_varied_and_reproducible() -> None:
    rows = world.demonstrations(2000)
    assert world.demonstrations(2000) == rows
    assert world.demonstrations(20, seed=1) != rows[:20]
    rewards = [world.true_reward(row.prompt, row.completion) for row in rows]
    lengths = [world.style(row.completion).length for row in rows]
    assert -0.3 < statistics.mean(rewards) < 0.8
    assert statistics.stdev(rewards) > 1
    assert statistics.quantiles(lengths, n=20)[-1] > world.LONGEST + 3, "a policy must have seen long answers"
    assert {row.prompt for row in rows} == set(world.PROMPTS)
    assert {word for row in rows for word in row.completion.split()} <= set(world.WORDS)


def test_style_says_little_about_quality() -> None:
    rows = world.demonstrations(4000)
    talk = [world.style(row.completion).flattery for row in rows]
    facts = [float(world.content(row.prompt, row.completion).facts) for row in rows]
    assert abs(statistics.correlation(talk, facts)) < 0.05


# ── raters ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 2.6),  # (2.4 - 0.2) - (-2 - 1) over a temperature of 2
        ({"kind": "liar"}, -2.6),
        ({"kind": "coin"}, 0.0),
        ({"side_bias": 0.7}, 3.3),
        ({"kind": "coin", "side_bias": 0.7}, 0.7),
        ({"kind": "liar", "side_bias": 0.7}, -1.9),
        ({"length_bias": 0.5}, 2.6 + 0.5 * 4 / 2),
        ({"flattery_bias": 0.5}, 2.6 + 0.5 * 2 / 2),
        ({"kind": "liar", "flattery_bias": 0.5}, -3.1),
    ],
)
def test_votes_follow_the_record(settings: dict[str, Any], expected: float) -> None:
    rater = ToyRater(name="a", temperature=2, **settings)
    assert logit(world.chooses_first(rater, QUESTION, 0)) == pytest.approx(expected)
    assert logit(world.chooses_first(rater, QUESTION, 1)) == pytest.approx(expected - 2 * rater.side_bias)


def test_sure_raters_do_not_overflow() -> None:
    rater = ToyRater(name="a", temperature=1e-6)
    swapped = ToyQuestion(prompt=PROMPT, options=(BAD, GOOD))
    assert world.chooses_first(rater, QUESTION, 0) == 1.0
    assert world.chooses_first(rater, swapped, 0) == 0.0


def test_a_vote_says_what_was_shown_and_chosen() -> None:
    found = world.votes([ToyRater(name="ann"), ToyRater(name="bob", kind="liar")], [QUESTION] * 400, each=400)
    assert {vote.left for vote in found} == {0, 1}
    assert sum(vote.choice == 0 for vote in found if vote.rater == "ann") == 400
    assert sum(vote.choice == 1 for vote in found if vote.rater == "bob") == 400
    row = found[-1].comparison()
    pair = row.pairs()[0]
    assert (row.prompt, pair.better, pair.worse, row.rater) == (PROMPT, BAD, GOOD, "bob")
    left = sum(vote.left == 0 for vote in found)
    assert 340 < left < 460


def test_how_often_they_choose_is_what_the_formula_says() -> None:
    rater = ToyRater(name="a", temperature=5, side_bias=0.5)
    found = [world.vote(rater, QUESTION, random.Random(i)) for i in range(4000)]
    sides: tuple[Literal[0, 1], ...] = (0, 1)
    for left in sides:
        shown = [vote.choice == 0 for vote in found if vote.left == left]
        assert statistics.mean(shown) == pytest.approx(world.chooses_first(rater, QUESTION, left), abs=0.03)


def test_what_one_rater_says_does_not_depend_on_the_others() -> None:
    asked = world.questions(30)
    alone = world.votes([ToyRater(name="ann")], asked, each=10, seed=3)
    among = world.votes([ToyRater(name="bob"), ToyRater(name="ann")], asked, each=10, seed=3)
    assert [vote for vote in among if vote.rater == "ann"] == alone
    assert [vote.question for vote in among if vote.rater == "bob"] != [vote.question for vote in alone]
    assert len({vote.question for vote in alone}) == 10
    assert world.votes([ToyRater(name="ann")], asked, each=10, seed=4) != alone
    with pytest.raises(DataError, match="31 different questions"):
        world.votes([ToyRater(name="ann")], asked, each=31)


def test_a_population_keeps_its_shares() -> None:
    like = ToyRater(name="rater", temperature=1.5, length_bias=0.2)
    found = world.population(20, like, liars=0.3, coins=0.2)
    assert [sum(rater.kind == kind for rater in found) for kind in ("liar", "coin", "honest")] == [6, 4, 10]
    assert len({rater.name for rater in found}) == 20
    assert {(rater.temperature, rater.length_bias) for rater in found} == {(1.5, 0.2)}
    with pytest.raises(DataError, match="shares of a whole"):
        world.population(20, like, liars=0.7, coins=0.5)


def test_gold_questions_have_a_clear_right_answer() -> None:
    found = world.gold_questions(50)
    for question in found:
        assert question.right is not None
        right, wrong = (question.options[i] for i in (question.right, 1 - question.right))
        assert world.true_reward(question.prompt, right) >= world.true_reward(question.prompt, wrong) + 1.5
    assert {question.right for question in found} == {0, 1}
    answered = world.votes([ToyRater(name="ann"), ToyRater(name="bob", kind="liar")], found, each=50)
    right_answers = {
        name: sum(vote.choice == vote.question.right for vote in answered if vote.rater == name)
        for name in ("ann", "bob")
    }
    assert right_answers["ann"] >= 49
    assert right_answers["bob"] <= 1


def test_questions_offer_two_different_answers() -> None:
    assert all(
        question.options[0] != question.options[1] and question.right is None for question in world.questions(500)
    )


def test_a_pool_holds_every_pair_of_each_prompts_answers() -> None:
    found = world.pool(4, seed=1, prompts=world.PROMPTS[:3])
    assert len(found) == 3 * 6
    for prompt in world.PROMPTS[:3]:
        pairs = [question.options for question in found if question.prompt == prompt]
        assert len({text for pair in pairs for text in pair}) == 4
        assert len(set(map(frozenset, pairs))) == 6
    assert found == world.pool(4, seed=1, prompts=world.PROMPTS[:3])
    assert found != world.pool(4, seed=2, prompts=world.PROMPTS[:3])


def test_the_key_of_a_gold_question_is_right() -> None:
    for question in world.gold_questions(20):
        key = question.key()
        ((better, worse, _, _),) = key.pairs()
        assert world.true_reward(key.prompt, better) > world.true_reward(key.prompt, worse)
        assert key.gold
    with pytest.raises(DataError, match="without a known answer"):
        world.questions(1)[0].key()
