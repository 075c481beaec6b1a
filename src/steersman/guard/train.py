"""Train a guard from a constitution and a data set: linear models over n-grams, then a head on a model's activations.

Each head is a logistic regression: of requests, whether a principle is asked to be broken; of exchanges, whether the
answer breaks one, or declines. The model of exchanges reads the scores of the request beside the words; on its
training rows those come from models that were fitted on the other topics, since a model is too sure of its own rows.

Several seeds are trained, each on a bootstrap of the topics. The guard is their mean, which for linear models is one
model; the card says how far the seeds differ.

    guard.json           format, constitution, layout, thresholds and calibration by side and principle
    ngrams.safetensors   the linear models (`guard/scorer.py`)
    probe.safetensors    the head on activations, if there is one (`guard/rails/probe.py`)
    card.json            what it catches (`guard/card.py`)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from steersman.constitution.document import Constitution
from steersman.errors import DataError
from steersman.guard.activations import ActivationReader
from steersman.guard.calibration import Platt, Threshold
from steersman.guard.exchanges import GuardRow, GuardRows, Part, principles_of
from steersman.guard.ngrams import NGrams, inverse_document_frequency, matrix
from steersman.guard.rails.probe import Probe
from steersman.guard.scorer import (
    ABOUT,
    DECLINES,
    HARM,
    LOUD,
    Layout,
    Models,
    Scorer,
    answer_features,
    exchange_ids,
    probe_heads,
)
from steersman.guard.trained import FORMAT, Cascade, SideRule
from steersman.guard.verdict import Side
from steersman.store import write_json
from steersman.types import Behaviour, Prompt, Record, Seed

if TYPE_CHECKING:
    from steersman.guard.rails.classifier import ClassifierRail

VERSION = 1
SIDES: tuple[Side, ...] = ("input", "output")
TOKEN_CHANCES = 4  # moments of a text at which its moving average may be at its highest
MIN_APART = 100  # rows of each label, in training and in calibration, for a probe on a policy
OFF_SUBJECT = 0.05  # share of the exchanges on a principle's subject that may be taken for others
FOLDS = 4  # of topics, for the requests' scores on training rows
Ids = NDArray[np.int32]
Floats = NDArray[np.float32]


class GuardConfig(Record):
    """Training of the guard's classifier."""

    seed: Seed = Field(default=0, description="Of the split of topics, the dressings and the bootstraps.")
    seeds: int = Field(default=5, ge=1, le=20, description="Models trained on bootstraps of the topics and averaged.")
    probe: bool = Field(
        default=True, description="Whether to train a head on the model's activations too; it needs a base model."
    )
    limit: int | None = Field(default=None, ge=1, description="Most rows of each principle and kind; null: all.")
    strength: float = Field(default=3.0, gt=0, description="Inverse of the regularisation of the n-gram models.")
    grams: NGrams = Field(default=NGrams(), description="Which n-grams of words and characters are read.")


class Fitted(NamedTuple):
    """A trained guard.

    Attributes:
        rules: by side; with a probe also those of ``input+probe``, for the combined scores of requests, and of
            ``output+probe``, for which the probe says what a request is about.
        probe: the second step, None for none. cascade: how it is combined with the first.
        states: pooled activations of every request that was read, by its text.
        measured: the requests whose harm the probe may be measured on.
        layers: of the model that were read; `TokenProbe` reads the middle one. token_threshold: of its score.
    """

    scorer: Scorer
    rules: dict[str, list[SideRule]]
    reader: Reader
    members: Sequence[Scorer]
    probe: Probe | None = None
    cascade: Cascade | None = None
    states: Mapping[str, Floats] = {}
    measured: frozenset[str] = frozenset()
    layers: tuple[int, ...] = ()
    token_threshold: float = 0.0

    def with_rules(self, constitution: Constitution, rows: GuardRows) -> Fitted:
        """With the thresholds of the combined scores."""
        own = rows.part("calibration")
        rules = {f"{side}+probe": _rules(side, constitution, *self.scores(side, own, True)) for side in SIDES}
        return self._replace(rules=self.rules | rules)

    def scores(self, side: Side, rows: GuardRows, probed: bool) -> tuple[Sequence[GuardRow], dict[str, Any]]:
        """The rows of one side with an array of log-odds for each head.

        Args:
            probed: of requests, with the scores of both steps; then of those that the probe may be measured on.
        """
        own = rows.requests if side == "input" else rows.exchanges
        if not probed:
            read = self.reader.requests if side == "input" else self.reader.exchanges
            return own, read(self.scorer, own)
        if side == "output":
            return own, self._on_subject(own)
        assert self.cascade
        own = [row for row in own if row.prompt in self.measured]
        requests, said = self.reader.requests(self.scorer, own), self._said(own)
        combined = self.cascade.of_request(requests[HARM], said[HARM]) if own else np.zeros(0)
        return own, {name: scores + said[name] for name, scores in requests.items()} | {HARM: combined}

    def _said(self, rows: Sequence[GuardRow]) -> dict[str, Any]:
        """What the probe says of the rows' requests, an array for each head."""
        assert self.probe
        states = np.array([self.states[row.prompt] for row in rows], np.float32).reshape(len(rows), -1)
        scores = self.probe.scores(states) if rows else np.zeros((0, len(self.probe.heads)))
        return dict(zip(self.probe.heads, scores.T, strict=True))

    def _on_subject(self, rows: Sequence[GuardRow]) -> dict[str, Any]:
        """Scores of exchanges; of those that the probe has read, what the request is about in its words."""
        heads = self.reader.exchanges(self.scorer, rows)
        read = np.array([row.prompt in self.states for row in rows], bool)
        said = self._said([row for row in rows if row.prompt in self.states])
        for name in heads:
            if name.startswith(ABOUT):
                heads[name] = heads[name].copy()
                heads[name][read] = said[name]
        return heads


def train(
    config: GuardConfig,
    constitution: Constitution,
    rows: GuardRows,
    out_folder: Path,
    *,
    base: Path | None = None,
    policy: Path | None = None,
    public: Sequence[Prompt] = (),
) -> ClassifierRail:
    """Train a guard into a folder; the same inputs on the same machine give the same bytes.

    Args:
        base: the model whose activations the probe reads; None for no probe.
        policy: what was trained on it. It tells harm better than the base model, and is surer of the rows that it has
            learnt from than of others. So the probe reads the policy where the data set has rows for the guard alone,
            and learns and is calibrated on these; elsewhere it reads the base model, and all rows.
        public: prompts of public sets, which the card has figures of (`evals/public_prompts.py`).

    Returns:
        The guard as a rail, which `card.latency` measures. The card is in ``card.json``.

    Raises:
        DataError: the rows have no harmless request, or a principle that is blocked has nothing to learn from.
    """
    from safetensors.numpy import save_file

    from steersman.guard import card
    from steersman.guard.rails.classifier import ClassifierRail

    if not any(row.label == "fine" for row in rows.part("train").requests):
        raise DataError("the guard's rows have no harmless request of a topic of training")
    reader = Reader(config.grams)
    others = scores_by_other_topics(config, constitution, rows.part("train"), reader)
    members = [fit(config, constitution, rows, member, reader, others) for member in range(config.seeds)]
    scorer = mean_of(members)
    fitted = Fitted(scorer, calibrated(scorer, constitution, rows, reader), reader, members)
    activations = None
    if base is not None and config.probe and any(rule.head == HARM for rule in fitted.rules["input"]):
        policy = policy if _enough_apart(rows) else None
        activations = ActivationReader(base, policy)
        read = [r for r in rows.requests if not r.dressing and (policy is None or r.apart)]
        fitted = with_probe(config, constitution, rows, read, fitted, activations)
    models = {"base": base, "policy": policy} if activations else {}
    out_folder.mkdir(parents=True, exist_ok=True)
    save_file(scorer.arrays(), out_folder / "ngrams.safetensors")
    if fitted.probe:
        save_file(dict(fitted.probe.arrays), out_folder / "probe.safetensors")
    write_json(out_folder / "guard.json", description(config, constitution, fitted, models))
    rail = ClassifierRail(constitution, scorer, fitted.rules, fitted.probe, fitted.cascade, activations)
    write_json(out_folder / "card.json", card.compute(constitution, rows, fitted, rail, public))
    return rail


def _enough_apart(rows: GuardRows) -> bool:
    """Whether the guard's own rows can train a probe and set its threshold."""
    found = [(row.part, row.label) for row in rows.requests if row.apart and not row.dressing]
    parts: tuple[Part, ...] = ("train", "calibration")
    return all(found.count((part, label)) >= MIN_APART for part in parts for label in ("breaks", "fine"))


def with_probe(
    config: GuardConfig,
    constitution: Constitution,
    rows: GuardRows,
    read: Sequence[GuardRow],
    fitted: Fitted,
    activations: ActivationReader,
) -> Fitted:
    """The second step, which reads some of the requests, and the rules of both together."""
    from steersman.guard import probe_training

    scorer, measured = fitted.scorer, frozenset(row.prompt for row in read)
    texts = list(dict.fromkeys([*(row.prompt for row in read), *_subject_requests(fitted, rows)]))
    states = dict(zip(texts, activations.read_all(texts), strict=True))
    train_rows = rows.part("train")
    own = list({r.prompt: r for r in (*train_rows.exchanges, *train_rows.requests) if r.prompt in states}.values())
    heads: dict[str, list[bool | None]] = {
        name: [row.about == name.removeprefix(ABOUT) for row in own]
        if name.startswith(ABOUT)
        else [_asks(row, name) if row.prompt in measured else None for row in own]
        for name in probe_heads(scorer.request.heads, scorer.exchange.heads)
    }
    topics = sorted({row.topic for row in own})
    bootstraps = [_bootstrap(topics, config.seed, member) for member in range(config.seeds)]
    weights = [[weight_of[row.topic] for row in own] for weight_of in bootstraps]
    middle = slice(len(activations.layers) * activations.width, activations.size)
    probe = probe_training.fit(np.stack([states[row.prompt] for row in own]), heads, weights, middle)
    known = [row.prompt for row in rows.part("calibration").requests if row.prompt in measured and row.label == "fine"]
    rate = min(rule.threshold.declared_rate for rule in fitted.rules["input"])
    along = Threshold.choose(probe.of_means(np.stack([states[text] for text in known])[:, middle]), rate)
    fitted = fitted._replace(
        probe=probe,
        states=states,
        measured=measured,
        layers=activations.layers,
        token_threshold=along.score + along.tail * math.log(TOKEN_CHANCES),
    )
    return fitted._replace(cascade=_cascade(fitted, rows)).with_rules(constitution, rows)


def _subject_requests(fitted: Fitted, rows: GuardRows) -> list[str]:
    """The requests on a subject that answers are judged on, and of those for the card the ones that need the probe."""
    subjects = {name.removeprefix(ABOUT) for name in fitted.scorer.exchange.heads if name.startswith(ABOUT)}
    found = [
        r.prompt for r in (*rows.part("train").exchanges, *rows.part("calibration").exchanges) if r.about in subjects
    ]
    for part in ("held_out", "unseen"):
        own = rows.part(part).exchanges
        scores = fitted.reader.exchanges(fitted.scorer, own)
        over = np.zeros(len(own), bool)
        for rule in fitted.rules["output"]:
            if rule.about is not None:
                over |= scores[rule.head] > rule.threshold.score
        found += [row.prompt for row, needed in zip(own, over, strict=True) if needed]
    return found


def _asks(row: GuardRow, head: str) -> bool:
    return row.label == "breaks" if head == HARM else row.principle == head


def _cascade(fitted: Fitted, rows: GuardRows) -> Cascade:
    """The weights of both steps, from the calibration's topics."""
    assert fitted.probe
    own = rows.part("calibration")
    requests = [row for row in own.requests if row.prompt in fitted.measured]
    words = fitted.reader.requests(fitted.scorer, requests)[HARM]
    said = fitted._said(requests)[HARM]
    return Cascade.fit(words, said, np.array([row.label == "breaks" for row in requests]))


def description(
    config: GuardConfig, constitution: Constitution, fitted: Fitted, models: Mapping[str, Path | None]
) -> dict[str, Any]:
    """What ``guard.json`` holds. ``models``: whose activations the probe reads."""
    scorer = fitted.scorer
    layout = Layout(
        grams=scorer.grams,
        behaviours=scorer.behaviours,
        request_heads=scorer.request.heads,
        exchange_heads=scorer.exchange.heads,
    )
    return {
        "format": FORMAT,
        "version": VERSION,
        "constitution_digest": constitution.digest,
        "constitution": constitution.model_dump(mode="json"),
        "config": config.model_dump(mode="json"),
        "layout": layout.model_dump(mode="json"),
        "rules": {side: [rule.model_dump(mode="json") for rule in rules] for side, rules in fitted.rules.items()},
        "cascade": fitted.cascade.model_dump(mode="json") if fitted.cascade else None,
        "layers": list(fitted.layers),
        "token_threshold": fitted.token_threshold,
        **{name: str(folder) if (folder := models.get(name)) else None for name in ("base", "policy")},
    }


# fitting ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


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


def scores_by_other_topics(config: GuardConfig, constitution: Constitution, own: GuardRows, reader: Reader) -> Floats:
    """Scores of the requests of the training exchanges, [N, heads], by models that were fitted on other topics."""
    asked = _asked(constitution, own)
    topics = sorted({row.topic for row in (*own.requests, *own.exchanges)})
    folds = {topic: place % FOLDS for place, topic in enumerate(topics)}
    parts = [[row for row in own.requests if folds[row.topic] != fold] for fold in range(FOLDS)]
    apart = [_request_side(config, part, asked, dict.fromkeys(topics, 1.0), reader) for part in parts]
    return _scores_of_requests(reader, own.exchanges, lambda row: apart[folds[row.topic]])


def _asked(constitution: Constitution, own: GuardRows) -> list[str]:
    """The principles that block requests and have one to learn from."""
    return [p.id for p in principles_of(constitution)[0] if any(row.principle == p.id for row in own.requests)]


def fit(
    config: GuardConfig, constitution: Constitution, rows: GuardRows, member: int, reader: Reader, asked_scores: Floats
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
    weight_of = _bootstrap(topics, config.seed, member)
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


def _bootstrap(topics: Sequence[str], seed: int, member: int) -> dict[str, float]:
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
        model = LogisticRegression(C=config.strength, solver="liblinear", dual=True, max_iter=1000, random_state=0)
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


# calibration ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def calibrated(
    scorer: Scorer, constitution: Constitution, rows: GuardRows, reader: Reader
) -> dict[str, list[SideRule]]:
    """Calibration and threshold of each principle on each side, from the calibration's topics."""
    own = rows.part("calibration")
    return {
        "input": _rules("input", constitution, own.requests, reader.requests(scorer, own.requests)),
        "output": _rules("output", constitution, own.exchanges, reader.exchanges(scorer, own.exchanges)),
    }


def _rules(
    side: Side, constitution: Constitution, rows: Sequence[GuardRow], scores: Mapping[str, Floats]
) -> list[SideRule]:
    """A rule for each principle that is enforced on this side and has a head."""
    requests_of, answers_of = principles_of(constitution)
    blocked = {p.id for p in requests_of}
    found = []
    for principle in requests_of if side == "input" else answers_of:
        if principle.id in scores:
            head = HARM if principle.id in blocked else principle.id
            rate = principle.enforced.false_positive_rate
            rule = _rule(principle.id, head, rows, scores[head], rate, blocked if head == HARM else {principle.id})
            subject = np.array([row.about == principle.id for row in rows], bool)
            if ABOUT + principle.id in scores and subject.any():
                edge = float(np.quantile(scores[ABOUT + principle.id][subject], OFF_SUBJECT))
                rule = rule.model_copy(update={"about": edge})
            found.append(rule)
    return found


def _rule(
    id: str, head: str, rows: Sequence[GuardRow], scores: Floats, rate: float, group: Collection[str]
) -> SideRule:
    """Negatives are the harmless rows, refusals among them; rows that break another principle are neither."""
    breaks = np.array([row.label == "breaks" for row in rows], bool)
    positive = breaks & np.array([row.principle in group for row in rows], bool)
    used = positive | ~breaks
    return SideRule(
        principle=id,
        head=head,
        calibration=Platt.fit(scores[used], positive[used]),
        threshold=Threshold.choose(scores[~breaks], rate),
    )
