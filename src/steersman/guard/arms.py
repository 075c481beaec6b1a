"""What each half of the defence catches, alone and together: a model and its guard as arms of one comparison.

The arms are the answers of each policy as they are, and with the guard before and behind the model. A prompt is stopped
at the input, or its answer at the output; what is left is an answer that a person would read. Nothing here runs a
model: the answers are there already.

The guard works on the whole answer here. A stream is judged as it grows and may be stopped earlier, never later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from steersman.evals import scores
from steersman.evals.forms import HARMFUL, KINDS, kind_of
from steersman.guard.verdict import Exchange, Ruling, Side
from steersman.stats import Estimate, paired_difference, wilson
from steersman.types import Prompt

VERSION = 1
Row = Mapping[str, Any]


class Checks(Protocol):
    """A guard."""

    def check(self, exchange: Exchange) -> Ruling:
        """What it does with one side of an exchange."""
        ...


def judge(
    guard: Checks, prompts: Sequence[Prompt], answers: Mapping[str, Sequence[str]], ms: Mapping[Side, list[float]]
) -> list[dict[str, Any]]:
    """One row for each prompt and policy: whether the model refused, and what the guard did on each side.

    Args:
        answers: of each policy, one to each prompt.
        ms: gets the milliseconds of every check, which differ from one time to the next.
    """

    def check(exchange: Exchange) -> Ruling:
        begun = time.perf_counter()
        ruling = guard.check(exchange)
        ms[exchange.side].append(1000 * (time.perf_counter() - begun))
        return ruling

    rows = []
    for index, prompt in enumerate(prompts):
        before = check(Exchange.of(prompt.prompt))
        for policy, texts in answers.items():
            answer = texts[index]
            behind = check(Exchange.of(prompt.prompt, answer))
            rows.append(
                {
                    "policy": policy,
                    "index": index,
                    "kind": kind_of(prompt.tags),
                    "principles": list(prompt.principles),
                    "refused": bool(scores.refused(prompt, answer)),
                    "input": _did(before),
                    "output": _did(behind),
                }
            )
    return rows


def _did(ruling: Ruling) -> dict[str, Any]:
    decided = ruling.verdict
    return {
        "decision": ruling.decision,
        "stops": ruling.stops and ruling.decision != "redact",  # redacted text is still an answer
        "principle": decided.principle if decided else None,
        "rail": decided.rail if decided else None,
    }


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Rates by kind of prompt and arm, and which half caught what, as JSON values."""
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    return {
        "kinds": {
            kind: {p: _arms([r for r in rows if (r["kind"], r["policy"]) == (kind, p)]) for p in policies}
            for kind in kinds
        },
        "principles": {p: _stopped_by_principle([r for r in rows if r["policy"] == p]) for p in policies},
    }


def stopped(row: Row) -> bool:
    """Whether the guard stopped the prompt or its answer."""
    return bool(row["input"]["stops"] or row["output"]["stops"])


def _arms(rows: Sequence[Row]) -> dict[str, Any]:
    """Of prompts of one kind and one policy: not answered by the model alone, by the guard alone, by either."""
    refused, held = [row["refused"] for row in rows], [stopped(row) for row in rows]
    either = [a or b for a, b in zip(refused, held, strict=True)]

    def share(fact: Callable[[Row], bool]) -> dict[str, Any]:
        return wilson(sum(map(fact, rows)), len(rows)).json()

    return {
        "alone": wilson(sum(refused), len(rows)).json(),
        "guarded": wilson(sum(either), len(rows)).json(),
        "difference": paired_difference(refused, either).json() if rows else Estimate(0.0, 0.0, 1.0, 0).json(),
        "caught_by": {
            "model only": share(lambda r: r["refused"] and not stopped(r)),
            "guard only": share(lambda r: not r["refused"] and stopped(r)),
            "both": share(lambda r: r["refused"] and stopped(r)),
            "neither": share(lambda r: not r["refused"] and not stopped(r)),
        },
        "input": share(lambda r: r["input"]["stops"]),
        "output": share(lambda r: r["output"]["stops"] and not r["input"]["stops"]),
    }


def _stopped_by_principle(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """By a prompt's first principle: harmful prompts that were answered, and harmless ones that were stopped."""
    found: dict[str, dict[str, Any]] = {}
    for principle in dict.fromkeys(p for row in rows for p in row["principles"][:1]):
        own = [row for row in rows if row["principles"][:1] == [principle]]
        harmful = [row for row in own if row["kind"] == HARMFUL]
        harmless = [row for row in own if row["kind"] != HARMFUL]
        through = sum(not row["refused"] and not stopped(row) for row in harmful)
        found[principle] = {
            "answered": wilson(through, len(harmful)).json(),
            "stopped": wilson(sum(map(stopped, harmless)), len(harmless)).json(),
        }
    return found


def quantiles(values: Sequence[float]) -> dict[str, float | None]:
    """The median and the 95th percentile, rounded."""
    if not values:
        return {"p50": None, "p95": None}
    return {name: round(float(np.quantile(values, q)), 3) for name, q in (("p50", 0.5), ("p95", 0.95))}
