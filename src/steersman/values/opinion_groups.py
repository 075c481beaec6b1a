"""Opinion groups from votes on statements, and what each group, and all of them, agree on: the arithmetic of Polis.

People agree with a statement, disagree, or pass; nobody sees all of them. Small, Bjorkegren, Erkkila, Shaw, Megill
(2021), "Polis: Scaling deliberation by mapping high dimensional opinion spaces", and the published code (AGPL;
compdemocracy/polis, math/, read and not copied):

1. Who counts: with at least 7 votes (or all statements); the most active fill up to 15 people (`who_counts`).
2. Two principal components, with a statement's mean in place of a missing vote. A person's place is the projection of
   the votes that were cast, times sqrt(statements / votes cast) (`places`).
3. k-means with k of 2 to 5 over at most 100 buckets of neighbours; the k with the largest mean silhouette.
4. ``P_g(v) = (1 + votes v) / (2 + votes seen)`` by group g and statement. Representative of a group is what it says
   more often than the others, ``R = P_in / P_out``, by a one- and a two-proportion z test at 90 %.
5. Group-aware consensus: the product of ``P_g(agree)``. Its geometric mean compares conversations with different
   numbers of groups.
6. Routing: a statement is shown with a chance in proportion to
   ``(p_agree (1 - p_pass) (1 + extremity) (1 + 8 * 2^(-votes / 5)))^2``.

What differs: Polis runs for months, begins at the last clustering and changes k only after four rounds; here each
result follows from the votes alone, with the best of several seeded k-means++ starts in place of the first k people. A
statement that a moderator rejected is left out, where Polis keeps it as a column of zeros, which counts as a vote of
everybody. k-means finds groups in any crowd: `leading_shares` says whether people are more alike than by chance.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steersman.errors import DataError

MIN_VOTES = 7  # that a person counts
FEWEST_PEOPLE = 15  # below, the most active count too
MOST_GROUPS = 5
MOST_BUCKETS = 100  # of neighbouring people, which k-means divides into groups
PEOPLE_A_GROUP = 12  # with n buckets, k is at most 2 + n / 12
STARTS = 10  # of k-means
Z_90 = 1.2816  # one-sided
NEW_BONUS, NEW_HALF_LIFE = 8.0, 5.0  # how far, and for how many votes, a new statement comes first

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Tallies(NamedTuple):
    """Votes by group and statement, each [groups, statements]; ``seen`` counts passes too."""

    agrees: Ints
    disagrees: Ints
    seen: Ints

    @property
    def p_agree(self) -> Floats:
        """Smoothed share that agrees, (1 + n) / (2 + seen)."""
        return (1 + self.agrees) / (2 + self.seen)

    @property
    def p_disagree(self) -> Floats:
        """Smoothed share that disagrees."""
        return (1 + self.disagrees) / (2 + self.seen)

    @property
    def consensus(self) -> Floats:
        """Group-aware consensus by statement: the product of the groups' smoothed agreement."""
        return np.asarray(self.p_agree.prod(axis=0))

    @property
    def mean_consensus(self) -> Floats:
        """The geometric mean of the groups' smoothed agreement, which does not fall with the number of groups."""
        return np.asarray(self.consensus ** (1 / len(self.seen)))

    @property
    def divides(self) -> Floats:
        """By statement, the largest difference between two groups' smoothed agreement."""
        return np.asarray(self.p_agree.max(axis=0) - self.p_agree.min(axis=0))


class OpinionMap(NamedTuple):
    """What votes say of their people and statements.

    ``labels`` [people]: the group from 0, the largest first; -1 for who does not count. ``points`` [people, 2].
    ``silhouettes``: the mean silhouette by number of groups tried; empty if there are too few people for groups, and
    then all who count are one. ``priorities`` [statements]: how soon each should be shown.
    """

    labels: Ints
    points: Floats
    silhouettes: dict[int, float]
    tallies: Tallies
    priorities: Floats

    @property
    def sizes(self) -> list[int]:
        """People by group."""
        return [int((self.labels == group).sum()) for group in range(len(self.tallies.seen))]


class Representative(NamedTuple):
    """A statement on which a group stands out. ``share`` is the smoothed share of the group with this opinion,
    ``ratio`` that share by the others', the z values of the one- and the two-proportion test. ``significant``: both
    pass at 90 %; where no statement does, the nearest one is named without."""

    statement: int
    agrees: bool
    share: float
    ratio: float
    z_share: float
    z_ratio: float
    significant: bool


def checked_votes(votes: NDArray[np.floating]) -> Floats:
    """Votes [people, statements] as float64: 1 agree, -1 disagree, 0 pass, NaN not seen.

    Raises:
        DataError: another shape or value, or nobody voted.
    """
    matrix = np.asarray(votes, dtype=np.float64)
    if matrix.ndim != 2:
        raise DataError(f"votes have {matrix.ndim} dimension(s)", expected="[people, statements]")
    wrong = ~(np.isnan(matrix) | np.isin(matrix, (-1.0, 0.0, 1.0)))
    if wrong.any():
        person, statement = np.argwhere(wrong)[0]
        raise DataError(
            f"{int(wrong.sum())} vote(s) are no votes, the first is {matrix[person, statement]:g}",
            where=f"person {person}, statement {statement}",
            expected="1 (agree), -1 (disagree), 0 (pass) or NaN (not seen)",
        )
    if np.isnan(matrix).all():
        raise DataError("nobody has voted on any statement", expected="votes [people, statements]")
    return matrix


# ── people in two dimensions ─────────────────────────────────────────────────────────────────────────────────────────
def who_counts(votes: Floats, min_votes: int = MIN_VOTES) -> NDArray[np.bool_]:
    """The people [people] whose votes say enough; of fewer than `FEWEST_PEOPLE` also the most active others."""
    cast = (~np.isnan(votes)).sum(axis=1)
    counts = cast >= min(min_votes, votes.shape[1])
    lacking = FEWEST_PEOPLE - int(counts.sum())
    if lacking > 0:
        others = [person for person in np.argsort(-cast, kind="stable") if not counts[person] and cast[person]]
        counts[others[:lacking]] = True
    return np.asarray(counts)


def principal_components(votes: Floats, count: int = 2) -> tuple[Floats, Floats]:
    """Means [statements] and principal components [count, statements] of votes with means in place of missing ones.

    Components have length 1 and the sign that makes their largest entry positive; those beyond the rank are 0.
    """
    seen = ~np.isnan(votes)
    centre = np.where(seen, votes, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    centred = np.where(seen, votes - centre, 0.0)
    wide = centred.shape[0] < centred.shape[1]  # the smaller of the two Gram matrices has the same spectrum
    values, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    components = np.zeros((count, votes.shape[1]))
    for place in range(min(count, len(values))):
        if values[-1 - place] > 1e-9 * max(values[-1], 1.0):
            vector = centred.T @ vectors[:, -1 - place] if wide else vectors[:, -1 - place]
            vector = vector / np.linalg.norm(vector)
            components[place] = vector * np.sign(vector[np.abs(vector).argmax()])
    return centre, components


def places(votes: Floats, centre: Floats, components: Floats) -> Floats:
    """People in the plane [people, count]: few votes are drawn out from the centre, for they tell as much in small."""
    seen = ~np.isnan(votes)
    scale = np.sqrt(votes.shape[1] / np.maximum(seen.sum(axis=1), 1))
    return np.asarray(scale[:, None] * (np.where(seen, votes - centre, 0.0) @ components.T))


def extremity(centre: Floats, components: Floats) -> Floats:
    """How far from the centre [statements] somebody stands who agrees with this statement and saw no other."""
    return np.asarray(math.sqrt(len(centre)) * np.abs(1 - centre) * np.linalg.norm(components, axis=0))


# ── groups ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def k_means(points: Floats, k: int, weights: Floats, *, seed: int = 0, starts: int = STARTS) -> Ints:
    """Lloyd's algorithm from the best of several k-means++ starts.

    Args:
        points: [n, d].
        k: clusters; fewer where fewer points are distinct.
        weights: [n], of the points.

    Returns:
        labels [n], from 0 without gaps.
    """
    generator = np.random.default_rng(seed)
    best, least = np.zeros(len(points), dtype=np.int64), math.inf
    for _ in range(starts):
        centres = _spread_out(points, k, weights, generator)
        labels = np.full(len(points), -1)
        for _ in range(100):
            nearest = _squared_distances(points, centres).argmin(axis=1)
            if (nearest == labels).all():
                break
            labels = nearest
            size = np.bincount(labels, weights=weights, minlength=len(centres))
            held = size > 0
            for axis, column in enumerate(points.T):
                total = np.bincount(labels, weights=weights * column, minlength=len(centres))
                centres[held, axis] = total[held] / size[held]
        cost = float((weights * _squared_distances(points, centres).min(axis=1)).sum())
        if cost < least - 1e-12:
            best, least = labels, cost
    return np.asarray(np.unique(best, return_inverse=True)[1], dtype=np.int64)


def _spread_out(points: Floats, k: int, weights: Floats, generator: np.random.Generator) -> Floats:
    """k-means++ (Arthur and Vassilvitskii 2007): each centre is drawn by its squared distance to those before it."""
    centres = points[[generator.choice(len(points), p=weights / weights.sum())]]
    nearest = np.full(len(points), math.inf)
    while len(centres) < k:
        nearest = np.minimum(nearest, _squared_distances(points, centres[-1:])[:, 0])
        chance = weights * nearest
        if chance.sum() <= 1e-18:
            break
        centres = np.vstack([centres, points[[generator.choice(len(points), p=chance / chance.sum())]]])
    return centres


def _squared_distances(points: Floats, centres: Floats) -> Floats:
    """[points, centres], by axis, for the plane has two and the points may be many."""
    return np.asarray(sum((p[:, None] - c[None, :]) ** 2 for p, c in zip(points.T, centres.T, strict=True)))


def silhouette(points: Floats, labels: Ints) -> float:
    """The mean silhouette (Rousseeuw 1987) of points [n, d]; 0 for a point alone in its cluster. O(n^2)."""
    clusters = np.unique(labels)
    if len(clusters) < 2:
        return 0.0
    distances = np.sqrt(_squared_distances(points, points))
    members = labels[:, None] == clusters[None, :]
    sums, counts = distances @ members, members.sum(axis=0)
    own = members.argmax(axis=1)
    rows = np.arange(len(points))
    inside = sums[rows, own] / np.maximum(counts[own] - 1, 1)
    outside = np.where(members, math.inf, sums / counts).min(axis=1)
    larger = np.maximum(inside, outside)
    values = np.where((counts[own] > 1) & (larger > 0), (outside - inside) / np.where(larger > 0, larger, 1), 0.0)
    return float(values.mean())


def divide(points: Floats, *, most: int = MOST_GROUPS, seed: int = 0) -> tuple[Ints, dict[int, float]]:
    """Groups of people in the plane: labels [people], the largest group first, and the silhouette by number of groups.

    Fewer than four people, or people in one place, are one group, and no silhouette is given.
    """
    distinct = np.unique(points.round(9), axis=0)
    if len(points) < 4 or len(distinct) < 2:
        return np.zeros(len(points), dtype=np.int64), {}
    ones = np.ones(len(points))
    if len(distinct) > MOST_BUCKETS:
        bucket_of = k_means(points, MOST_BUCKETS, ones, seed=seed, starts=1)
    else:
        bucket_of = np.asarray(np.unique(points.round(9), axis=0, return_inverse=True)[1]).reshape(-1)
    weights = np.bincount(bucket_of).astype(np.float64)
    buckets = np.stack([np.bincount(bucket_of, weights=column) / weights for column in points.T], axis=1)
    tried = {
        k: k_means(buckets, k, weights, seed=seed)
        for k in range(2, min(most, 2 + len(buckets) // PEOPLE_A_GROUP, len(buckets)) + 1)
    }
    silhouettes = {k: silhouette(buckets, labels) for k, labels in tried.items()}
    labels = tried[max(silhouettes, key=lambda k: silhouettes[k])][bucket_of]
    order = np.argsort(-np.bincount(labels), kind="stable")
    return np.argsort(order)[labels].astype(np.int64), silhouettes


def tally(votes: Floats, labels: Ints) -> Tallies:
    """The votes of each group (labels from 0; below 0 is left out) on each statement."""
    groups = range(int(labels.max(initial=-1)) + 1)
    own = [votes[labels == group] for group in groups]

    def counted(of: list[NDArray[np.bool_]]) -> Ints:
        return np.array([one.sum(axis=0) for one in of], dtype=np.int64).reshape(len(own), votes.shape[1])

    return Tallies(
        counted([one == 1 for one in own]),
        counted([one == -1 for one in own]),
        counted([~np.isnan(one) for one in own]),
    )


def opinion_map(
    votes: NDArray[np.floating], *, min_votes: int = MIN_VOTES, most: int = MOST_GROUPS, seed: int = 0
) -> OpinionMap:
    """All of it: who counts, the groups, their votes, the consensus and the routing.

    Args:
        votes: [people, statements] of 1 agree, -1 disagree, 0 pass, NaN not seen.
        min_votes: that a person counts.
        most: groups.

    Raises:
        DataError: see `checked_votes`.
    """
    matrix = checked_votes(votes)
    counts = who_counts(matrix, min_votes)
    centre, components = principal_components(matrix)
    points = places(matrix, centre, components)
    labels = np.full(len(matrix), -1, dtype=np.int64)
    labels[counts], silhouettes = divide(points[counts], most=most, seed=seed)
    tallies = tally(matrix, labels)
    return OpinionMap(labels, points, silhouettes, tallies, priorities(tallies, extremity(centre, components)))


def leading_shares(votes: NDArray[np.floating], *, shuffles: int = 19, seed: int = 0) -> tuple[float, list[float]]:
    """The first component's share of the variance, and the same where nobody thinks like anybody.

    For that, each statement's votes are dealt anew to those who saw it (parallel analysis, Horn 1965). If the share is
    above all of 19, people as alike come by chance with p = 0.05. Silhouettes do not tell this: in the plane, k-means
    finds groups as clear in any crowd.
    """

    def share(matrix: Floats) -> float:
        centre, (first, *_) = principal_components(matrix)
        centred = np.where(np.isnan(matrix), 0.0, matrix - centre)
        total = float((centred**2).sum())
        return float(((centred @ first) ** 2).sum()) / total if total else 0.0

    generator, matrix = np.random.default_rng(seed), checked_votes(votes)
    dealt = []
    for _ in range(shuffles):
        copy = matrix.copy()
        for column in copy.T:
            seen = ~np.isnan(column)
            column[seen] = generator.permutation(column[seen])
        dealt.append(share(copy))
    return share(matrix), dealt


# ── statements ───────────────────────────────────────────────────────────────────────────────────────────────────────
def share_test(successes: Ints | Floats, n: Ints | Floats) -> Floats:
    """z of one proportion against one half, with one success and one trial added."""
    return np.asarray(2 * np.sqrt(n + 1) * ((successes + 1) / (n + 1) - 0.5))


def ratio_test(inside: Ints, outside: Ints, n_inside: Ints, n_outside: Ints) -> Floats:
    """z of two proportions, inside minus outside, with one success and one trial added to each; 0 if all succeed."""
    one, two, n_one, n_two = inside + 1, outside + 1, n_inside + 1, n_outside + 1
    pooled = (one + two) / (n_one + n_two)
    spread = np.sqrt(pooled * (1 - pooled) * (1 / n_one + 1 / n_two))
    return np.asarray(np.where(spread > 0, (one / n_one - two / n_two) / np.where(spread > 0, spread, 1), 0.0))


def representative(tallies: Tallies, group: int, limit: int = 5) -> list[Representative]:
    """The statements on which a group stands out from the others, the strongest first.

    The order is Polis' ``R * z(R) * P * z(P)``, of agreement or of disagreement, whichever tells the group better
    apart. If none passes both tests, the one with the largest ``z(R)`` is given, marked as not significant. A group
    alone has no others, and no representative statements.
    """
    if len(tallies.seen) < 2:
        return []
    found: list[Representative] = []
    others = [other for other in range(len(tallies.seen)) if other != group]
    n, n_others = tallies.seen[group], tallies.seen[others].sum(axis=0)
    for agrees, votes in ((True, tallies.agrees), (False, tallies.disagrees)):
        inside, outside = votes[group], votes[others].sum(axis=0)
        share, rest = (1 + inside) / (2 + n), (1 + outside) / (2 + n_others)
        z_share, z_ratio = share_test(inside, n), ratio_test(inside, outside, n, n_others)
        for statement in np.flatnonzero(n > 0):
            z = float(z_share[statement]), float(z_ratio[statement])
            of = float(share[statement]), float(share[statement] / rest[statement])
            found.append(Representative(int(statement), agrees, *of, *z, significant=min(z) > Z_90))
    if sure := [one for one in found if one.significant]:
        return sorted(sure, key=lambda one: -one.ratio * one.z_ratio * one.share * one.z_share)[:limit]
    return sorted(found, key=lambda one: -one.z_ratio)[:1]


def priorities(tallies: Tallies, extremities: Floats) -> Floats:
    """The routing weight [statements] of each statement: agreed with, rarely passed, telling people apart, or new."""
    agrees, seen = tallies.agrees.sum(axis=0), tallies.seen.sum(axis=0)
    passes = seen - agrees - tallies.disagrees.sum(axis=0)
    p_agree, p_pass = (agrees + 1) / (seen + 2), (passes + 1) / (seen + 2)
    new = 1 + NEW_BONUS * 2 ** (-seen / NEW_HALF_LIFE)
    return np.asarray((p_agree * (1 - p_pass) * (1 + extremities) * new) ** 2)
