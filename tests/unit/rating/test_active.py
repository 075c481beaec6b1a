"""What is asked next: by what the answer would tell, not by closeness to one half; and the gain is measured."""

from __future__ import annotations

import math
import statistics
from typing import Any, NamedTuple

import pytest

from steersman.data import toy_world as world
from steersman.data.toy_world import ToyRater as Rater
from steersman.errors import DataError
from steersman.rating import active
from steersman.rating.active import ActiveSampler, gain, information
from steersman.rating.raters import Fit
from steersman.rating.raters import fit as fit_votes
from steersman.types import Comparison


class Task(NamedTuple):
    prompt: str
    options: tuple[str, ...]


def vote(better: str, worse: str, rater: str = "", prompt: str = "q", **rest: Any) -> Comparison:
    return Comparison(prompt=prompt, options=(better, worse), rater=rater, **{"ranking": (1, 2), **rest})


def test_a_known_tie_is_the_last_thing_to_ask() -> None:
    """Twenty times x and y were called equal, x beats z always, u and v were never seen: u and v tell most."""
    votes = [vote("x", "y", f"r{i}", ranking=(1, 1)) for i in range(20)] + [vote("x", "z", f"r{i}") for i in range(20)]
    tasks = [Task("q", ("x", "y")), Task("q", ("y", "z")), Task("q", ("u", "v"))]
    tie, clear, unknown = ActiveSampler()(tasks, votes)
    fit = fit_votes(votes)
    assert abs(fit.probability("q", "x", "y") - 0.5) < abs(fit.probability("q", "y", "z") - 0.5)
    assert unknown > 0.3 > tie
    assert unknown > clear
    assert unknown <= math.log(2)


def test_a_ranking_of_more_answers_tells_more() -> None:
    pair, triple = information(Fit({}, {}), [Task("q", ("x", "y")), Task("q", ("x", "y", "z"))])
    assert triple == pytest.approx(2 * pair)
    assert information(Fit({}, {}), []) == []


def test_new_votes_are_heard_and_old_ones_taken_back() -> None:
    """Between two fits of the raters only the prompt of the new vote moves; a vote taken back is forgotten."""
    pool = world.pool(4, prompts=world.PROMPTS[::8])
    votes = [v.comparison() for v in world.votes(world.population(5, Rater(name="r")), pool, 10)]
    scorer = ActiveSampler()
    before = scorer(pool, votes[:-1])
    raters = scorer.fit.raters
    after = scorer(pool, votes)
    assert scorer.fit.raters is raters
    changed = {question.prompt for question, a, b in zip(pool, before, after, strict=True) if a != b}
    assert changed == {votes[-1].prompt}
    assert scorer(pool, votes) == after
    assert scorer(pool, votes[:-1]) == pytest.approx(before)
    fresh = ActiveSampler()
    assert fresh(pool, votes) == pytest.approx(after, abs=0.02)
    assert scorer(pool, votes + votes[:10]) != after  # grown by a tenth: believed anew
    assert scorer.fit.raters is not raters


@pytest.mark.slow
def test_informed_questions_save_votes_in_the_toy_world() -> None:
    """Four pools of 168 questions, 60 votes: the accuracy over all pairs is higher than with random questions.

    Votes are those that honest raters give to the six questions of most information at a time.
    """
    import random

    differences = []
    for seed in range(4):
        pool, generator = world.pool(8, seed, world.PROMPTS[::6]), random.Random(seed)
        rater = Rater(name="r", temperature=0.1)
        found = {}
        for arm in ("informed", "random"):
            scorer, votes = ActiveSampler(), list[Comparison]()
            while len(votes) < 60:
                scores = scorer(pool, votes)
                order = sorted(range(len(pool)), key=scores.__getitem__, reverse=True)
                chosen = order[:6] if arm == "informed" else generator.sample(order, 6)
                votes += [world.vote(rater, pool[i], generator).comparison() for i in chosen]
            fit = fit_votes(votes)
            right = [
                (fit.margin(q.prompt, *q.options)[0] > 0)
                == (world.true_reward(q.prompt, q.options[0]) > world.true_reward(q.prompt, q.options[1]))
                for q in pool
            ]
            found[arm] = statistics.mean(right)
        differences.append(found["informed"] - found["random"])
    assert statistics.mean(differences) > 0.0


def test_the_gain_is_nothing_between_two_random_arms() -> None:
    """Arms by name only, of the same votes: the interval holds 0, and neither is at chance."""
    pool = world.pool(6, prompts=world.PROMPTS[::3])
    votes = [v.comparison() for v in world.votes(world.population(10, Rater(name="r")), pool, 60)]
    arms = ["informed" if i % 2 else "random" for i in range(len(votes))]
    found = gain(votes, arms)
    assert found.difference.low < 0 < found.difference.high
    assert found.informed.low > 0.6
    assert found.random.low > 0.6
    assert found.votes_each + found.held_out <= len(votes)
    assert 100 < found.held_out < 200


def test_an_arm_that_learns_nothing_loses() -> None:
    """The informed arm asks the same question again and again: it is at chance where the random one is not."""
    pool = world.pool(6, prompts=world.PROMPTS[::3])
    people = world.population(10, Rater(name="r"))
    useful = [v.comparison() for v in world.votes(people, pool, 60)]
    useless = [v.comparison() for v in world.votes([Rater(name=f"s{i}") for i in range(300)], pool[:1], 1)]
    found = gain([*useful, *useless], ["random"] * len(useful) + ["informed"] * len(useless))
    assert found.difference.high < 0
    assert 0.3 < found.informed.value < 0.7


def test_arms_that_never_met_have_no_gain_yet() -> None:
    """As in a round that puts each question to one rater: what is held out was in no other vote."""
    votes = [vote("x", "y", "a", f"q{i}", seconds=5) for i in range(200)]
    found = gain(votes, ["informed" if i % 2 else "random" for i in range(len(votes))])
    assert (found.known, found.held_out) == (False, 0)
    assert "not known yet" in found.text()
    assert found.votes_each > 20


def test_what_one_arm_alone_knows_is_asked_about() -> None:
    """The informed arm learnt the held-out pairs, the random one other prompts: its coins win half of the time."""
    votes = [vote("x", "y", "a", f"q{i}") for i in range(200)] * 2
    found = gain(votes, ["random"] * 200 + ["informed"] * 200)
    assert found.held_out > 40
    assert found.informed.value == 1
    assert 0.2 < found.random.value < 0.8
    assert found.difference.low > 0


def test_arms_belong_to_votes() -> None:
    with pytest.raises(DataError, match="1 arms for 0 votes"):
        gain([], ["random"])
    nothing = gain([], [])
    assert (nothing.votes_each, nothing.held_out, nothing.difference.n) == (0, 0, 0)
    assert active.GROWTH > 1
