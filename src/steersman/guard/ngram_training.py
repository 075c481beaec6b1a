"""Train the n-gram models of `scorer.py`: logistic regressions on requests, and on exchanges.

The model of exchanges reads the scores of the request beside the words. On its training rows those come from models
that were fitted on the other topics, since a model is too sure of its own rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steersman.constitution.document import Constitution
from steersman.guard.config import GuardConfig
from steersman.guard.exchanges import GuardRow, GuardRows, principles_of
from steersman.guard.ngrams import NGrams, inverse_document_frequency, matrix
from steersman.guard.scorer import ABOUT, DECLINES, HARM, LOUD, Models, Scorer, answer_features, exchange_ids
from steersman.types import Behaviour

FOLDS = 4  # of topics, for the requests' scores on training rows
TOLERANCE = 0.01  # of the fits; at 0.0001 no log-odds change by more than 0.003
Floats = NDArray[np.float32]


class Reader:
    """Reads texts; what it has read it keeps, since every member learns from the same rows."""

    def __init__(self, grams: NGrams) -> None:
        self.ids = functools.cache(grams.ids)
        self.exchange_ids = functools.cache(functools.partial(exchange_ids, grams))
        self.answer_features = functools.cache(answer_features)

    def requests(self, scorer: Scorer, rows: Sequence[GuardRow]) -> dict[str, Floats]:
        """`Scorer.of_request` of all rows: an array for each head."""
        scores = _scores_of_requests(self, rows, lambda row: scorer.request)
        return dict(zip(scorer.request.heads, scores.T, strict=True))

    def exchanges(self, scorer: Scorer, rows: Sequence[GuardRow]) -> dict[str, Floats]:
        """`Scorer.of_exchange` of all rows: an array for each head."""
        asked = np.clip(_scores_of_requests(self, rows, lambda row: scorer.request), -LOUD, LOUD) / LOUD
        scores = [
            scorer.exchange.scores(
                self.exchange_ids(row.prompt, row.answer or ""),
                np.array([*own, *self.answer_features(row.prompt, row.answer or "", scorer.behaviours)], np.float32),
            )
            for row, own in zip(rows, asked.tolist(), strict=True)
        ]
        return dict(zip(scorer.exchange.heads, np.array(scores, np.float32).reshape(len(rows), -1).T, strict=True))


def scores_by_other_topics(
    config: GuardConfig, constitution: Constitution, own: GuardRows, reader: Reader
) -> tuple[dict[str, Floats], Floats]:
    """Scores of training requests by models that were fitted on other topics.

    Returns:
        Of the requests, an array for each head; of the requests of the exchanges, [N, heads].
    """
    asked, fold_of = _asked(constitution, own), folds(own)
    parts = [[row for row in own.requests if fold_of[row.topic] != fold] for fold in range(FOLDS)]
    apart = [_request_side(config, part, asked, dict.fromkeys(fold_of, 1.0), reader) for part in parts]
    requests, exchanges = (
        _scores_of_requests(reader, rows, lambda row: apart[fold_of[row.topic]])
        for rows in (own.requests, own.exchanges)
    )
    return dict(zip(apart[0].heads, requests.T, strict=True)), exchanges


def folds(own: GuardRows) -> dict[str, int]:
    """The fold of each topic."""
    topics = sorted({row.topic for row in (*own.requests, *own.exchanges)})
    return {topic: place % FOLDS for place, topic in enumerate(topics)}


def _asked(constitution: Constitution, own: GuardRows) -> list[str]:
    """The principles that block requests and have one to learn from."""
    return [p.id for p in principles_of(constitution)[0] if any(row.principle == p.id for row in own.requests)]


def fit(
    config: GuardConfig, constitution: Constitution, rows: GuardRows, reader: Reader, asked_scores: Floats, member: int
) -> Scorer:
    """One member: both sides, on a bootstrap of the training topics (the first on all of them).

    Args:
        asked_scores: `scores_by_other_topics`.
    """
    own = rows.part("train")
    asked, answers_of = _asked(constitution, own), principles_of(constitution)[1]
    answered = [p.id for p in answers_of if any(row.principle == p.id for row in own.exchanges)]
    behaviours = _behaviours(constitution, answered)
    topics = sorted({row.topic for row in (*own.requests, *own.exchanges)})
    weight_of = bootstrap(topics, config.seed, member)
    side = _request_side(config, own.requests, asked, weight_of, reader)
    heads = {HARM: [row.label == "breaks" and row.principle in asked for row in own.exchanges]}
    heads[DECLINES] = [row.label == "refusal" for row in own.exchanges]
    heads |= {id: [row.label == "breaks" and row.principle == id for row in own.exchanges] for id in answered}
    subjects = [id for id in answered if id not in asked]
    heads |= {ABOUT + id: [row.about == id for row in own.exchanges] for id in subjects}
    exchange = _exchange_side(config, own.exchanges, heads, behaviours, asked_scores, weight_of, reader)
    return Scorer(config.grams, behaviours, side, exchange)


def mean_of(members: Sequence[Scorer]) -> Scorer:
    """The mean of linear models that read the same: the mean of their log-odds."""

    def mean(sides: Sequence[Models]) -> Models:
        def part(name: str) -> Floats:
            return np.asarray(np.mean([getattr(side, name) for side in sides], 0, dtype=np.float64), np.float32)

        return Models(sides[0].heads, part("weight"), part("bias"), sides[0].idf)

    return members[0]._replace(
        request=mean([member.request for member in members]), exchange=mean([member.exchange for member in members])
    )


def _behaviours(constitution: Constitution, answered: Sequence[str]) -> tuple[Behaviour, ...]:
    """What is looked for in answers, for the principles that are kept by saying something rather than by refusing."""
    found = {
        behaviour
        for principle in constitution.principles
        if principle.id in answered
        for behaviour in principle.behaviours
        if behaviour not in ("refuses", "complies")
    }
    return tuple(sorted(found))


def bootstrap(topics: Sequence[str], seed: int, member: int) -> dict[str, float]:
    """How often each topic counts."""
    if member == 0:
        return dict.fromkeys(topics, 1.0)
    drawn = np.random.default_rng([seed, member]).multinomial(len(topics), np.full(len(topics), 1 / len(topics)))
    return dict(zip(topics, drawn.astype(float).tolist(), strict=True))


def _request_side(
    config: GuardConfig, rows: Sequence[GuardRow], asked: Sequence[str], weight_of: dict[str, float], reader: Reader
) -> Models:
    documents = [reader.ids(row.prompt) for row in rows]
    idf = inverse_document_frequency(documents, config.grams.size)
    heads = {HARM: [row.label == "breaks" for row in rows]}
    heads |= {id: [row.principle == id for row in rows] for id in asked}
    return _heads(matrix(documents, idf), idf, heads, [weight_of[row.topic] for row in rows], config)


def _exchange_side(
    config: GuardConfig,
    rows: Sequence[GuardRow],
    heads: dict[str, list[bool]],
    behaviours: tuple[Behaviour, ...],
    asked_scores: Floats,
    weight_of: dict[str, float],
    reader: Reader,
) -> Models:
    from scipy.sparse import csr_matrix, hstack

    documents = [reader.exchange_ids(row.prompt, row.answer or "") for row in rows]
    idf = inverse_document_frequency(documents, 2 * config.grams.size)
    dense = np.array([reader.answer_features(row.prompt, row.answer or "", behaviours) for row in rows], np.float32)
    features = np.concatenate([np.clip(asked_scores, -LOUD, LOUD) / LOUD, dense], 1)
    joined = csr_matrix(hstack([matrix(documents, idf), csr_matrix(features)]))
    return _heads(joined, idf, heads, [weight_of[row.topic] for row in rows], config)


def _heads(
    features: Any, idf: Floats, heads: dict[str, list[bool]], counted: Sequence[float], config: GuardConfig
) -> Models:
    """A logistic regression for each head; one without positives or without negatives says no, always."""
    from sklearn.linear_model import LogisticRegression

    columns, biases, kept = [], [], np.array(counted) > 0
    features, weights = features[kept], np.array(counted)[kept]
    for found in heads.values():
        positive = np.array(found, bool)[kept]
        if positive.all() or not positive.any():
            columns.append(np.zeros(features.shape[1]))
            biases.append(-LOUD)
            continue
        share = (weights * positive).sum() / weights.sum()
        balanced = weights * np.where(positive, 0.5 / share, 0.5 / (1 - share))
        model = LogisticRegression(
            C=config.strength, solver="liblinear", dual=True, tol=TOLERANCE, max_iter=1000, random_state=0
        )
        model.fit(features, positive, sample_weight=balanced)
        columns.append(model.coef_[0])
        biases.append(float(model.intercept_[0]))
    return Models(tuple(heads), np.stack(columns, 1).astype(np.float32), np.array(biases, np.float32), idf)


def _scores_of_requests(reader: Reader, rows: Sequence[GuardRow], side_of: Callable[[GuardRow], Models]) -> Floats:
    """Scores of the rows' requests, [N, heads]; each request is read once."""
    kept: dict[str, Floats] = {}
    nothing = np.zeros(0, np.float32)
    for row in rows:
        if row.prompt not in kept:
            kept[row.prompt] = side_of(row).scores(reader.ids(row.prompt), nothing)
    return np.stack([kept[row.prompt] for row in rows]) if rows else np.zeros((0, 0), np.float32)
