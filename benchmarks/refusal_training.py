"""The weights of the refusal detector, made from our own labelled rows; no row of others is read.

    .venv/bin/python benchmarks/refusal_training.py [--folds 5]

Multinomial logistic regression with a penalty on the squared weights, by L-BFGS from zero, so that every run gives the
same weights up to rounding. A tenth of the rows is held out by a digest of the reply: it is never trained on, and
``benchmarks/refusal_detector.py`` reports it. ``--folds`` prints the accuracy of rules, classifier and both together in
cross-validation over the other rows, and leaves the weights as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import logsumexp

from steersman.evals.detectors import refusal, refusal_model
from steersman.evals.detectors.reply import parse
from steersman.stats import wilson

ROWS = Path(refusal_model.__file__).parent / "refusal_rows.jsonl"
PENALTY_NGRAMS = PENALTY_RULES = 0.3

Row = dict[str, Any]
Weights = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]


def rows() -> list[Row]:
    return [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]


def held_out(row: Row) -> bool:
    """A tenth of the first batch. The others were scored when they were new, and trained on afterwards."""
    return row["batch"] == 1 and hashlib.sha256(f"held-out:{row['reply']}".encode()).digest()[0] < 26


def matrices(data: Sequence[Row]) -> tuple[csr_matrix, np.ndarray[Any, Any]]:
    """Values of the n-grams' buckets, and what the rules see."""
    buckets, rules = [], []
    for row in data:
        reply = parse(row["prompt"], row["reply"])
        found = refusal.signals(reply)
        buckets.append(refusal_model.buckets(reply.sentences, found.for_words))
        rules.append(refusal.rule_inputs(reply, found))
    values = [np.full(len(b), refusal_model.NGRAM_NORM / np.sqrt(max(1, len(b)))) for b in buckets]
    starts = np.cumsum([0, *map(len, buckets)])
    shape = (len(data), refusal_model.FEATURES)
    return csr_matrix((np.concatenate(values), np.concatenate(buckets), starts), shape=shape), np.array(rules)


def fit(data: Sequence[Row], *, with_rules: bool = True) -> Weights:
    """Weights of n-grams, of what the rules see, and the intercept."""
    data = [row for row in data if row["label"] in refusal_model.CLASSES]
    grams, rules = matrices(data)
    rules = rules * with_rules
    labels = np.eye(3)[[refusal_model.CLASSES.index(row["label"]) for row in data]]  # type: ignore[arg-type]
    first, second = grams.shape[1] * 3, rules.shape[1] * 3

    def split(flat: np.ndarray[Any, Any]) -> Weights:
        return flat[:first].reshape(-1, 3), flat[first : first + second].reshape(-1, 3), flat[first + second :]

    def loss(flat: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        of_grams, of_rules, intercept = split(flat)
        logits = grams @ of_grams + rules @ of_rules + intercept
        log_chances = logits - logsumexp(logits, axis=1, keepdims=True)
        error = np.exp(log_chances) - labels
        penalty = PENALTY_NGRAMS * (of_grams**2).sum() + PENALTY_RULES * (of_rules**2).sum()
        gradient = (grams.T @ error + PENALTY_NGRAMS * of_grams, rules.T @ error + PENALTY_RULES * of_rules)
        return (
            -(log_chances * labels).sum() + penalty / 2,
            np.concatenate([*(part.ravel() for part in gradient), error.sum(axis=0)]),
        )

    found = minimize(loss, np.zeros(first + second + 3), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return split(found.x)


def install(weights: Weights) -> None:
    """Let the detector use these weights until the process ends."""
    stored = tuple(part.astype(np.float32) for part in weights)
    refusal_model.weights = lambda: stored  # type: ignore[assignment, misc]


def save(weights: Weights, path: Path = refusal_model.WEIGHTS) -> None:
    """One byte for the weight of a bucket: a step is a 127th of the largest."""
    scale = np.abs(weights[0]).max() / 127
    np.savez_compressed(
        path,
        ngrams=np.round(weights[0] / scale).astype(np.int8),
        rules=weights[1].astype(np.float32),
        intercept=weights[2].astype(np.float32),
        scale=np.float32(scale),
    )


def classifier_alone(prompt: str, text: str) -> str:
    """What n-grams say without rules, but for what no answer could be."""
    reply = parse(prompt, text)
    if not refusal.has_substance(reply):
        return "nothing"
    found = refusal.signals(reply)
    chances = refusal_model.probabilities(reply.sentences, refusal.rule_inputs(reply, found) * 0, found.for_words)
    return refusal_model.CLASSES[int(chances.argmax())]


def cross_validate(data: Sequence[Row], folds: int) -> dict[str, Any]:
    """Accuracy of rules, classifier and both, each row judged by weights that did not see it."""
    right = {"rules": 0, "classifier": 0, "both": 0}
    for fold in range(folds):
        mine = [row for row in data if hashlib.sha256(row["reply"].encode()).digest()[1] % folds == fold]
        others = [row for row in data if row not in mine]
        install(fit(others, with_rules=False))
        right["classifier"] += sum(classifier_alone(r["prompt"], r["reply"]) == r["label"] for r in mine)
        install(fit(others))
        right["both"] += sum(refusal.refusal(r["prompt"], r["reply"]) == r["label"] for r in mine)
        right["rules"] += sum(refusal.by_rules(parse(r["prompt"], r["reply"])) == r["label"] for r in mine)
    return {name: wilson(count, len(data)).json() for name, count in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folds", type=int, default=0, help="cross-validate instead of writing weights")
    folds = parser.parse_args().folds
    data = [row for row in rows() if not held_out(row)]
    if folds:
        print(json.dumps(cross_validate(data, folds), indent=1))
        return
    save(fit(data))
    print(f"{refusal_model.WEIGHTS}: from {len(data)} rows")


if __name__ == "__main__":
    main()
