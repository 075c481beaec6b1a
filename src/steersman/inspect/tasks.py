"""Our suites as tasks of Inspect: ``inspect eval steersman/xstest --model ... -T data=FOLDER -T limit=100``.

Only suites with free answers: what is chosen by log-probability needs more of a model than Inspect asks of it, and
`steersman eval` does that. A sample is a question, its score the columns that it says something about, and the task's
metrics are the suite's own, each with the limits of its 95 % interval: the same figures as `steersman eval`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
)
from inspect_ai.scorer import SampleScore, Score, Scorer, Target, metric, scorer
from inspect_ai.solver import TaskState, generate

from steersman.data import public_files
from steersman.evals.suites import FREE, measure, runner
from steersman.evals.suites.suite import OfMeans, Question, Reply, Suite
from steersman.types import Text

CLUSTER, FACTS = "cluster", "facts"
ROLES: dict[str, Callable[..., ChatMessage]] = {
    "system": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
}


# ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def register(suite: Suite) -> tuple[Callable[..., Task], Callable[..., Scorer]]:
    """The task of a suite, and its scorer, under the names that the command line and `inspect score` know."""

    @metric(name=f"{suite.name}_figures")
    def figures() -> Callable[[list[SampleScore]], dict[str, float]]:
        def figures_of(scores: list[SampleScore]) -> dict[str, float]:
            return computed(suite, [(_value(score), _cluster(score)) for score in scores])

        return figures_of

    @scorer(name=f"{suite.name}_columns", metrics=[figures()])
    def columns() -> Scorer:
        return _score_by(suite)

    @task(name=suite.name)
    def made(data: str | None = None, limit: int | None = None) -> Task:
        return Task(
            dataset=MemoryDataset(samples_of(suite, data, limit), suite.name),
            solver=generate(),
            scorer=columns(),
            config=GenerateConfig(max_tokens=suite.max_new_tokens),
            metadata={"paper": suite.paper, "about": suite.about, "principles": list(suite.principles)},
        )

    return made, columns


def samples_of(suite: Suite, data: str | None, limit: int | None) -> list[Sample]:
    """A suite's questions as samples; facts are metadata.

    Args:
        data: the folder with the published sets; None for the one that STEERSMAN_PUBLIC_DATA names.
        limit: most questions, chosen by a digest as `steersman eval` does; Inspect's own ``--limit`` takes the first.

    Raises:
        DataError: the suite's files are not there, or cannot be read.
    """
    folder = public_files.locate(data, "-T data")
    questions = runner.gather((suite.name,), folder, limit, strict=True).questions[suite.name]
    return [
        Sample(
            input=_input(question.prompt),
            id=index,
            metadata={FACTS: dict(question.facts), CLUSTER: question.cluster},
        )
        for index, question in enumerate(questions, start=1)
    ]


def _input(prompt: Text) -> str | list[ChatMessage]:
    return prompt if isinstance(prompt, str) else [ROLES[message.role](content=message.content) for message in prompt]


# ── scores ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def _score_by(suite: Suite) -> Scorer:
    async def score(state: TaskState, target: Target) -> Score:
        metadata: Mapping[str, Any] = state.metadata
        question = Question(state.input_text, facts=metadata[FACTS], cluster=metadata[CLUSTER])
        found = suite.columns(question, Reply(state.output.completion))
        more = {
            "guard": (state.output.metadata or {}).get("guard"),
            "stop_reason": state.output.stop_reason if state.output.choices else None,
        }
        return Score(
            value={name: float(number) for name, number in found.items() if not math.isnan(number)},
            answer=state.output.completion,
            metadata={CLUSTER: question.cluster, **more},
        )

    return score


def _value(score: SampleScore) -> Mapping[str, float]:
    value = score.score.value
    assert isinstance(value, Mapping), "a score of this scorer has columns"
    return {name: float(number) for name, number in value.items()}


def _cluster(score: SampleScore) -> str:
    """Its cluster; a question without a name for one is its own."""
    return str((score.score.metadata or {}).get(CLUSTER) or f"sample {score.sample_id}")


def computed(suite: Suite, rows: Sequence[tuple[Mapping[str, float], str]]) -> dict[str, float]:
    """A suite's metrics from columns and clusters of the samples: each with ``_low`` and ``_high``, NaN if unknown."""
    formulas = {slug: found.formula for slug, found in suite.metrics.items()}
    needed = {name for formula in formulas.values() if isinstance(formula, OfMeans) for name in formula.names}
    names = sorted(needed.union(*(row for row, _ in rows)))
    columns = {name: np.array([row.get(name, math.nan) for row, _ in rows], dtype=np.float64) for name in names}
    clusters = measure.clusters_of([Question("", cluster=cluster) for _, cluster in rows])
    observed = measure.Observed(columns, clusters)
    drawn = measure.draws(formulas, observed)
    figures = {}
    for slug, found in suite.metrics.items():
        numbers = measure.estimate(found, observed, drawn[slug])
        for end, key in (("", "value"), ("_low", "low"), ("_high", "high")):
            figures[f"{slug}{end}"] = math.nan if numbers[key] is None else float(numbers[key])
    return figures


REGISTERED = {suite.name: register(suite) for suite in FREE}
