"""The arithmetic of Polis: worked by hand, against scikit-learn, on two camps, and against a published conversation."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, silhouette_score

from steersman.data.tables import rows_of
from steersman.errors import DataError
from steersman.values import opinion_groups as og

PUBLIC = Path(os.environ.get("STEERSMAN_PUBLIC_DATA", "no folder")) / "rater_disagreement"
NAN = math.nan


def camps(people: int, statements: int, seed: int = 0, seen: float = 0.8) -> tuple[NDArray[np.float64], list[int]]:
    """Two camps, the first twice as large: they agree on the first third of the statements and split on the rest."""
    generator = np.random.default_rng(seed)
    camp = [int(person % 3 == 2) for person in range(people)]
    shared = statements // 3
    chance = np.array([[0.9] * shared + [0.1 if own else 0.9] * (statements - shared) for own in camp])
    votes = np.where(generator.random(chance.shape) < chance, 1.0, -1.0)
    votes[generator.random(votes.shape) < 0.05] = 0.0
    votes[generator.random(votes.shape) > seen] = NAN
    return votes, camp


def test_two_camps_are_found_and_what_they_share_leads() -> None:
    for seed in range(5):
        votes, camp = camps(60, 30, seed)
        found = og.opinion_map(votes)
        assert found.sizes == [40, 20]
        assert adjusted_rand_score(camp, found.labels) > 0.95
        assert set(np.argsort(-found.tallies.consensus)[:10]) == set(range(10))
        assert set(np.argsort(-found.tallies.divides)[:20]) == set(range(10, 30))
        share, chance = og.leading_shares(votes)
        assert share > 2 * max(chance)


def test_a_crowd_without_camps_is_no_more_alike_than_chance() -> None:
    """At p = 0.05 of each, 3 or more of 12 crowds are above chance less often than once in fifty such tests."""
    above = 0
    for seed in range(12):
        votes = np.sign(np.random.default_rng(seed).random((50, 20)) - 0.3)
        share, chance = og.leading_shares(votes, seed=seed)
        above += share > max(chance)
        assert og.opinion_map(votes).silhouettes  # k-means finds groups all the same
    assert above < 3


def test_tallies_by_hand() -> None:
    """Group 0: 3 of 4 agree, 1 disagrees. Group 1: 1 agrees, 1 passes. The fifth counts in none."""
    votes = np.array([[1], [1], [1], [-1], [1], [0], [1.0]])
    tallies = og.tally(votes, np.array([0, 0, 0, 0, 1, 1, -1]))
    assert tallies.agrees.tolist() == [[3], [1]]
    assert tallies.disagrees.tolist() == [[1], [0]]
    assert tallies.seen.tolist() == [[4], [2]]
    assert tallies.p_agree[:, 0] == pytest.approx([4 / 6, 2 / 4])
    assert tallies.consensus == pytest.approx([4 / 6 * 2 / 4])
    assert tallies.mean_consensus == pytest.approx([math.sqrt(4 / 6 * 2 / 4)])
    assert tallies.divides == pytest.approx([4 / 6 - 2 / 4])
    one_more = og.tally(np.vstack([votes, [[1.0]], [[1.0]]]), np.array([0, 0, 0, 0, 1, 1, -1, 2, 2]))
    assert one_more.consensus < tallies.consensus  # the product falls with every group, though this one agrees
    assert one_more.mean_consensus > tallies.mean_consensus


def test_the_tests_of_shares_by_hand() -> None:
    assert og.share_test(np.array([5]), np.array([5])) == pytest.approx([2 * math.sqrt(6) * 0.5])
    assert og.share_test(np.array([2]), np.array([5])) == pytest.approx([0.0])
    pooled = (9 + 3) / (11 + 11)
    by_hand = (9 / 11 - 3 / 11) / math.sqrt(pooled * (1 - pooled) * (2 / 11))
    found = og.ratio_test(np.array([8]), np.array([2]), np.array([10]), np.array([10]))
    assert found == pytest.approx([by_hand])
    assert og.ratio_test(np.array([3]), np.array([4]), np.array([3]), np.array([4])) == pytest.approx([0.0])


def test_routing_prefers_what_is_new_agreed_and_telling() -> None:
    """The two values are those that the formula of Polis gives for 1 of 1 and 20 of 23 (3 passes) votes."""

    def one(agrees: int, disagrees: int, passes: int, extremity: float) -> float:
        tallies = og.Tallies(np.array([[agrees]]), np.array([[disagrees]]), np.array([[agrees + disagrees + passes]]))
        return float(og.priorities(tallies, np.array([extremity]))[0])

    assert one(1, 0, 0, 0) == pytest.approx((2 / 3 * (1 - 1 / 3) * (1 + 8 * 2 ** (-1 / 5))) ** 2)
    assert one(20, 0, 3, 1) == pytest.approx((21 / 25 * (1 - 4 / 25) * 2 * (1 + 8 * 2 ** (-23 / 5))) ** 2)
    assert one(0, 0, 0, 0) > one(5, 5, 0, 0) > one(0, 10, 0, 0)
    assert one(5, 0, 0, 0) > one(5, 0, 5, 0)
    assert one(5, 5, 0, 2) > one(5, 5, 0, 0)


def test_components_are_those_of_votes_with_means_in_the_gaps() -> None:
    votes, _ = camps(25, 12, seed=3)
    for matrix in (votes, votes.T.copy()):  # the Gram matrix of either side
        centre, components = og.principal_components(matrix)
        filled = np.where(np.isnan(matrix), np.nanmean(matrix, axis=0), matrix)
        _, _, right = np.linalg.svd(filled - filled.mean(axis=0))
        assert centre == pytest.approx(filled.mean(axis=0))
        for own, theirs in zip(components, right, strict=False):
            assert abs(own @ theirs) == pytest.approx(1.0)
            assert own[np.abs(own).argmax()] > 0


def test_few_votes_are_drawn_out_from_the_centre() -> None:
    """One vote of four: its projection times sqrt(4 / 1)."""
    centre, components = np.array([0.5, 0, 0, 0]), np.array([[0.8, 0.6, 0, 0], [0, 0, 1.0, 0]])
    found = og.places(np.array([[1, NAN, NAN, NAN], [1, -1, 1, 0], [NAN] * 4]), centre, components)
    assert found[0] == pytest.approx([2 * 0.5 * 0.8, 0])
    assert found[1] == pytest.approx([0.5 * 0.8 - 0.6, 1.0])
    assert found[2] == pytest.approx([0, 0])
    assert og.extremity(centre, components) == pytest.approx([2 * 0.5 * 0.8, 2 * 0.6, 2 * 1.0, 0])


def test_who_counts() -> None:
    votes = np.full((20, 10), NAN)
    for person in range(20):
        votes[person, : min(10, person)] = 1  # nobody to ten votes
    assert og.who_counts(votes).tolist() == [person >= 5 for person in range(20)]  # 13 with 7, filled up to 15
    assert og.who_counts(votes[:, :3]).sum() == 17  # all statements are enough where there are fewer than 7
    assert not og.who_counts(votes, 1)[0]  # nobody is filled up who never voted


def test_silhouettes_and_clusters_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    points = np.concatenate([generator.normal(centre, 0.4, (15, 2)) for centre in ((0, 0), (3, 0), (0, 3))])
    labels = og.k_means(points, 3, np.ones(45))
    assert adjusted_rand_score(np.repeat([0, 1, 2], 15), labels) == 1
    assert og.silhouette(points, labels) == pytest.approx(silhouette_score(points, labels))
    lone = np.array([0] * 44 + [1])
    assert og.silhouette(points, lone) == pytest.approx(silhouette_score(points, lone))
    heavy = og.k_means(np.array([[0.0], [1.0], [10.0]]), 2, np.array([1.0, 1.0, 100.0]))
    assert heavy[0] == heavy[1] != heavy[2]
    found, silhouettes = og.divide(points)
    assert max(silhouettes, key=lambda k: silhouettes[k]) == 3
    assert adjusted_rand_score(labels, found) == 1


def test_groups_do_not_depend_on_the_order_of_people() -> None:
    votes, _ = camps(150, 20, seed=5)  # more people than buckets
    order = np.random.default_rng(2).permutation(150)
    one, other = og.opinion_map(votes), og.opinion_map(votes[order])
    assert adjusted_rand_score(one.labels[order], other.labels) > 0.95


def test_people_of_one_mind_are_one_group() -> None:
    found = og.opinion_map(np.ones((20, 8)))
    assert (found.sizes, found.silhouettes) == ([20], {})
    assert found.tallies.mean_consensus == pytest.approx([21 / 22] * 8)
    assert og.representative(found.tallies, 0) == []
    assert og.opinion_map(np.array([[1.0, -1.0]])).sizes == [1]


def test_a_group_is_told_by_what_the_others_do_not_say() -> None:
    votes, _ = camps(60, 30)
    tallies = og.opinion_map(votes).tallies
    for group, agrees in ((0, True), (1, False)):
        first, *rest = og.representative(tallies, group, limit=5)
        assert len(rest) == 4
        assert first.statement >= 10
        assert first.agrees == agrees
        assert first.significant
        assert first.ratio > 1.5
    alike = og.Tallies(np.array([[3], [3]]), np.array([[1], [1]]), np.array([[4], [4]]))
    (nearest,) = og.representative(alike, 0)
    assert not nearest.significant


@pytest.mark.parametrize(
    ("votes", "says"),
    [
        (np.array([1.0]), "1 dimension"),
        (np.array([[0.5, 1.0]]), "0.5"),
        (np.array([[NAN, NAN]]), "nobody has voted"),
    ],
)
def test_what_is_no_vote_is_refused(votes: NDArray[np.float64], says: str) -> None:
    with pytest.raises(DataError, match=says):
        og.opinion_map(votes)


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="STEERSMAN_PUBLIC_DATA names no folder with public data sets")
def test_the_published_consensus_of_collective_constitutional_ai() -> None:
    """The file has 756 of the conversation's people, so the shares of its groups differ from the published ones."""
    comments, people = (
        [json.loads(row) for row in rows_of(PUBLIC / f"ccai_{name}.jsonl.gz")] for name in ("comments", "votes")
    )
    ids = [comment["comment-id"] for comment in comments]
    votes = np.array([[float(person[id] or "nan") for id in ids] for person in people])
    groups = np.array([int(person["group-id"]) for person in people])
    published = np.array([[float(comment[f"group_{g}_consensus"]) for comment in comments] for g in (0, 1)]).prod(
        axis=0
    )
    tallies = og.tally(votes, groups)
    order = [np.argsort(np.argsort(values)) for values in (tallies.consensus, published)]
    assert np.corrcoef(order)[0, 1] > 0.96
    assert np.abs(tallies.consensus - published).mean() < 0.04
    share, chance = og.leading_shares(votes, shuffles=5)
    assert share > 1.4 * max(chance)
