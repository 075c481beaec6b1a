"""Train a guard from a constitution and a data set: linear models over n-grams, then a head on a model's activations.

Each head is a logistic regression: of requests, whether a principle is asked to be broken; of exchanges, whether the
answer breaks one, or declines (`ngram_training.py`, `probe_training.py`).

Several seeds are trained, each on a bootstrap of the topics. The guard is their mean, which for linear models is one
model; the card says how far the seeds differ.

    guard.json           format, constitution, layout, thresholds and calibration by side and principle
    ngrams.safetensors   the linear models (`guard/scorer.py`)
    probe.safetensors    the head on activations, if there is one (`guard/rails/probe.py`)
    card.json            what it catches (`guard/card.py`)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steersman.constitution.document import Constitution
from steersman.errors import DataError
from steersman.evals.forms import LOOKALIKE
from steersman.guard.activations import ActivationReader
from steersman.guard.calibration import Platt, Threshold, request_threshold
from steersman.guard.config import GuardConfig
from steersman.guard.exchanges import GuardRow, GuardRows, Part, principles_of
from steersman.guard.ngram_training import Reader, bootstrap, fit, folds, mean_of, scores_by_other_topics
from steersman.guard.rails.probe import Probe
from steersman.guard.scorer import ABOUT, HARM, OFF, Layout, Scorer, probe_heads
from steersman.guard.trained import FORMAT, Cascade, SideRule
from steersman.guard.verdict import Side
from steersman.store import write_json
from steersman.types import Prompt

if TYPE_CHECKING:
    from steersman.guard.rails.classifier import ClassifierRail

VERSION = 2
SIDES: tuple[Side, ...] = ("input", "output")
TOKEN_CHANCES = 4  # moments of a text at which its moving average may be at its highest
MIN_APART = 100  # rows of each label, in training and in calibration, for a probe on a policy
ENOUGH = 300  # harmless requests of training, from which on thresholds are chosen on them too
OFF_SUBJECT = 0.05  # share of the exchanges on a principle's subject that may be taken for others
Floats = NDArray[np.float32]


class Others(NamedTuple):
    """Training requests, with scores of models that were fitted on other topics: no model is too sure of them.

    Attributes:
        words: scores of the n-grams, an array for each head. said: the probe's; NaN where it may not be measured.
    """

    rows: Sequence[GuardRow]
    words: Mapping[str, Any]
    said: Mapping[str, Any] = {}

    def of(self, prompts: Collection[str]) -> Others:
        """Those of some requests alone."""
        kept = np.array([row.prompt in prompts for row in self.rows], bool)
        words, said = ({name: found[kept] for name, found in own.items()} for own in (self.words, self.said))
        return Others([row for row in self.rows if row.prompt in prompts], words, said)


class Fitted(NamedTuple):
    """A trained guard.

    Attributes:
        rules: by side; with a probe also those of ``input+probe``, for the combined scores of requests, and of
            ``output+probe``, for which the probe says what a request is about.
        others: training requests that thresholds are chosen on beside those of the calibration's topics.
        probe: the second step, None for none. cascade: how it is combined with the first.
        states: pooled activations of every request that was read, by its text.
        measured: the requests whose harm the probe may be measured on.
        layers: of the model that were read; `TokenProbe` reads the middle one. token_threshold: of its score.
    """

    scorer: Scorer
    rules: dict[str, list[SideRule]]
    reader: Reader
    members: Sequence[Scorer]
    others: Others
    probe: Probe | None = None
    cascade: Cascade | None = None
    states: Mapping[str, Floats] = {}
    measured: frozenset[str] = frozenset()
    layers: tuple[int, ...] = ()
    token_threshold: float = 0.0

    def with_rules(self, constitution: Constitution, rows: GuardRows) -> Fitted:
        """With the thresholds of the words' scores or, where there is a probe, of the combined ones."""
        probed = self.probe is not None
        answers = self.scores("output", rows.part("calibration"), probed)
        found = {
            "input": _rules("input", constitution, *self.calibration_requests(rows, probed)),
            "output": _rules("output", constitution, *answers),
        }
        return self._replace(
            rules=self.rules | {f"{side}+probe" if probed else side: own for side, own in found.items()}
        )

    def calibration_requests(self, rows: GuardRows, probed: bool) -> tuple[Sequence[GuardRow], dict[str, Any]]:
        """The requests that thresholds are chosen on, with their scores: the calibration's, and `others`.

        Of a small data set the calibration's alone: three quarters of it teach a model too little.
        """
        own, scores = self.scores("input", rows.part("calibration"), probed)
        if sum(row.label == "fine" for row in self.others.rows) < ENOUGH:
            return own, scores
        others = self.others.of(self.measured) if probed else self.others
        further = self._combined(others.words, others.said) if probed else others.words
        return [*own, *others.rows], {name: np.concatenate([scores[name], further[name]]) for name in scores}

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
        own = [row for row in own if row.prompt in self.measured]
        return own, self._combined(self.reader.requests(self.scorer, own), self.said(own))

    def _combined(self, words: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
        assert self.cascade
        combined = self.cascade.of_request(words[HARM], said[HARM]) if words else np.zeros(0)
        return {name: scores + said[name] for name, scores in words.items()} | {HARM: combined}

    def said(self, rows: Sequence[GuardRow]) -> dict[str, Any]:
        """What the probe says of the rows' requests, an array for each head."""
        assert self.probe
        states = np.array([self.states[row.prompt] for row in rows], np.float32).reshape(len(rows), -1)
        scores = self.probe.scores(states) if rows else np.zeros((0, len(self.probe.heads)))
        return dict(zip(self.probe.heads, scores.T, strict=True))

    def _on_subject(self, rows: Sequence[GuardRow]) -> dict[str, Any]:
        """Scores of exchanges, with the probe's word on the request's subject of those that it has read."""
        heads = self.reader.exchanges(self.scorer, rows)
        read = np.array([row.prompt in self.states for row in rows], bool)
        said = self.said([row for row in rows if row.prompt in self.states])
        for name in heads:
            if name.startswith(ABOUT):
                heads[name] = np.full(len(rows), OFF)
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
    run: Path | None = None,
    public: Sequence[Prompt] = (),
) -> ClassifierRail:
    """Train a guard into a folder; the same inputs on the same machine give the same bytes.

    Args:
        base: the model whose activations the probe reads; None for no probe.
        policy: what was trained on it. It tells harm better than the base model, and is surer of the rows that it has
            learnt from than of others. So the probe reads the policy where the data set has rows for the guard alone,
            and learns and is calibrated on these; elsewhere it reads the base model, and all rows.
        run: the folder that the guard's folder will stand in, if that holds models too.
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
    words, asked_scores = scores_by_other_topics(config, constitution, rows.part("train"), reader)
    # Not side by side: liblinear has one generator of random numbers for all threads.
    members = [fit(config, constitution, rows, reader, asked_scores, member) for member in range(config.seeds)]
    others = Others(rows.part("train").requests, words)
    fitted = Fitted(mean_of(members), {}, reader, members, others).with_rules(constitution, rows)
    activations = None
    if base is not None and config.probe and any(rule.head == HARM for rule in fitted.rules["input"]):
        policy = policy if _enough_apart(rows) else None
        activations = ActivationReader(base, policy)
        read = [r for r in rows.requests if not r.dressing and (policy is None or r.apart)]
        fitted = with_probe(config, constitution, rows, read, fitted, activations)
    models = {name: _told(path, run) for name, path in (("base", base), ("policy", policy)) if activations}
    out_folder.mkdir(parents=True, exist_ok=True)
    save_file(fitted.scorer.arrays(), out_folder / "ngrams.safetensors")
    if fitted.probe:
        save_file(dict(fitted.probe.arrays), out_folder / "probe.safetensors")
    write_json(out_folder / "guard.json", description(config, constitution, fitted, models))
    rail = ClassifierRail(constitution, fitted.scorer, fitted.rules, fitted.probe, fitted.cascade, activations)
    write_json(out_folder / "card.json", card.compute(constitution, rows, fitted, rail, public))
    return rail


def _told(model: Path | None, run: Path | None) -> str | None:
    """A model's path; of one in the guard's run from the guard's folder, so that the run may be moved."""
    if model is None:
        return None
    if run is None or not model.absolute().is_relative_to(run.absolute()):
        return str(model.absolute())
    return f"../{model.absolute().relative_to(run.absolute())}"


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
    bootstraps = [bootstrap(topics, config.seed, member) for member in range(config.seeds)]
    weights = [[weight_of[row.topic] for row in own] for weight_of in bootstraps]
    middle = slice(len(activations.layers) * activations.width, activations.size)
    inputs = np.stack([states[row.prompt] for row in own])
    probe = probe_training.fit(inputs, heads, weights, middle)
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
    asked = {name: labels for name, labels in heads.items() if not name.startswith(ABOUT)}
    fold_of = folds(train_rows)
    own_folds = np.array([fold_of[row.topic] for row in own])
    apart = probe_training.by_other_folds(inputs, asked, own_folds, middle)
    place = {row.prompt: at for at, row in enumerate(own)}
    nothing = np.full(len(asked), np.nan, np.float32)
    said = np.stack([apart[place[r.prompt]] if r.prompt in measured else nothing for r in fitted.others.rows])
    fitted = fitted._replace(others=fitted.others._replace(said=dict(zip(asked, said.T, strict=True))))
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
                over |= rule.over(scores)
        found += [row.prompt for row, needed in zip(own, over, strict=True) if needed]
    return found


def _asks(row: GuardRow, head: str) -> bool:
    return row.label == "breaks" if head == HARM else row.principle == head


def _cascade(fitted: Fitted, rows: GuardRows) -> Cascade:
    """The weights of both steps, from the requests that thresholds are chosen on."""
    own, others = rows.part("calibration"), fitted.others.of(fitted.measured)
    requests = [row for row in own.requests if row.prompt in fitted.measured]
    words = np.concatenate([fitted.reader.requests(fitted.scorer, requests)[HARM], others.words[HARM]])
    said = np.concatenate([fitted.said(requests)[HARM], others.said[HARM]])
    harmful = [row.label == "breaks" for row in (*requests, *others.rows)]
    return Cascade.fit(words, said, np.array(harmful))


def description(
    config: GuardConfig, constitution: Constitution, fitted: Fitted, models: Mapping[str, str | None]
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
        **{name: models.get(name) for name in ("base", "policy")},
    }


# calibration ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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
            group = blocked if head == HARM else {principle.id}
            rule = _rule(side, principle.id, head, rows, scores[head], rate, group)
            subject = np.array([row.about == principle.id for row in rows], bool)
            if ABOUT + principle.id in scores and subject.any():
                edge = float(np.quantile(scores[ABOUT + principle.id][subject], OFF_SUBJECT))
                rule = rule.model_copy(update={"about": edge})
            found.append(rule)
    return found


def _rule(
    side: Side, id: str, head: str, rows: Sequence[GuardRow], scores: Floats, rate: float, group: Collection[str]
) -> SideRule:
    """Negatives are the harmless rows, refusals among them; rows that break another principle are neither."""
    breaks = np.array([row.label == "breaks" for row in rows], bool)
    positive = breaks & np.array([row.principle in group for row in rows], bool)
    used = positive | ~breaks
    return SideRule(
        principle=id,
        head=head,
        calibration=Platt.fit(scores[used], positive[used]),
        threshold=threshold_of(side, rows, scores, rate),
    )


def threshold_of(side: Side, rows: Sequence[GuardRow], scores: Floats, rate: float) -> Threshold:
    """The threshold of some rows' scores, from those that are harmless."""
    fine = np.array([row.label != "breaks" for row in rows], bool)
    if side == "output":
        return Threshold.choose(scores[fine], rate)
    lookalike = np.array([row.kind == LOOKALIKE for row in rows], bool)
    return request_threshold(scores[fine], lookalike[fine], rate)
