"""What the tests of suites share: figures of replies that were worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steersman.evals.suites.suite import Question, Reply, Suite


def figures(suite: Suite, questions: Sequence[Question], replies: Iterable[str]) -> dict[str, float]:
    """Every metric of a suite."""
    rows = [suite.columns(question, Reply(text)) for question, text in zip(questions, replies, strict=True)]
    names = set().union(*rows)
    columns = {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}
    return {slug: metric.formula(columns) for slug, metric in suite.metrics.items()}


def nulls(suite: Suite, questions: Sequence[Question]) -> dict[str, dict[str, float]]:
    """Every metric of every null."""
    return {
        name: figures(suite, questions, [null(question, i).text for i, question in enumerate(questions)])
        for name, null in suite.nulls.items()
    }


def written(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Rows in a file of JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [path]
