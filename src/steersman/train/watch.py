"""What is watched while a policy is optimised, and the audit that says which checkpoint to take and when to stop.

The score that is optimised is never what a checkpoint is chosen by: it rises whatever happens to the answers (Gao et
al. 2022, arXiv:2210.10760). At every look the policy answers the same held-out prompts. If ``gold`` is given, a judge
that training does not see, its labels of these answers are what is believed. They are few and noisy, so every look is
averaged with its neighbours, and the highest one is taken. Training ends when the present look is worse than that one
with a probability of ``stop_at``, by the paired labels of the two. Without gold, the last policy is taken: never the
one with the highest score.

Gao et al.'s own curve, d (a - b log d) with d the root of the KL, is not what we fit: see docs/decisions/0009.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist, fmean, variance
from typing import Any, NamedTuple

from pydantic import Field
from safetensors.torch import load_file, save_file

from steersman.data import style
from steersman.data.sources import spread
from steersman.lm.model import restore, snapshot
from steersman.lm.sampling import Completion
from steersman.store import read_jsonl, write_jsonl
from steersman.train import processes
from steersman.train.actor import POLICY, Actor, Judge
from steersman.types import Prompt, Record

LOOKS = "looks.jsonl"  # the answers of all looks, for a reader or a rater


class WatchConfig(Record):
    """Every so many steps, ``prompts`` held-out prompts are answered: so many gold labels does a look cost.

    A ``stop_at`` of 1 never ends training.
    """

    every_steps: int = Field(default=5, ge=1)
    prompts: int = Field(default=32, ge=2)
    stop_at: float = Field(default=0.95, gt=0.5, le=1)


class Look(NamedTuple):
    """What the audit knows of a step: the gold of each answer, in the order of the prompts."""

    step: int
    gold: list[float]


class Verdict(NamedTuple):
    """The step to take, the smoothed mean of its gold, and how probable it is that the present look is worse."""

    step: int
    gold: float
    worse: float


def audit(looks: Sequence[Look]) -> Verdict:
    """Take the highest look, each averaged with its neighbours by 1/4, 1/2, 1/4, and compare the last one with it."""
    means = [fmean(look.gold) for look in looks]
    padded = [means[0], *means, means[-1]]
    smoothed = [(before + 2 * own + after) / 4 for before, own, after in zip(padded, means, padded[2:], strict=False)]
    best = max(range(len(looks)), key=smoothed.__getitem__)
    differences = [now - then for now, then in zip(looks[-1].gold, looks[best].gold, strict=True)]
    change, error = fmean(differences), math.sqrt(variance(differences) / len(differences))
    worse = NormalDist().cdf(-change / error) if error else 0.5 if change == 0 else float(change < 0)
    return Verdict(looks[best].step, smoothed[best], worse)


class Watch:
    """Looks at answers to held-out prompts, keeps the policy of every look, and takes one in the end.

    Args:
        seen_by: what else is said of every answer, such as whether it refuses; its means are reported.
    """

    def __init__(
        self,
        actor: Actor,
        config: WatchConfig,
        prompts: Sequence[Prompt],
        gold: Judge | None,
        seen_by: Mapping[str, Judge],
        folder: Path,
    ) -> None:
        self.actor, self.config, self.gold, self.seen_by, self.folder = actor, config, gold, seen_by, folder
        self.prompts = spread(prompts, config.prompts)
        self.looks: list[Look] = []

    def state(self) -> list[list[Any]]:
        """What a resumed training needs."""
        return [list(look) for look in self.looks]

    def resume(self, state: Sequence[Sequence[Any]], step: int) -> None:
        """Put `state` back, of the looks before ``step``."""
        self.looks = [look for look in (Look(*values) for values in state) if look.step < step]
        if processes.rank() == 0 and (self.folder / LOOKS).exists():
            kept = [row for row in read_jsonl(self.folder / LOOKS) if row["step"] < step]
            write_jsonl(self.folder / LOOKS, kept)

    def look(self, step: int) -> dict[str, Any]:
        """Answer the prompts, always with the same random streams, and measure; with gold, keep the policy."""
        actor, texts = self.actor, [prompt.prompt for prompt in self.prompts]
        found = actor.answers(texts, 1, -1)
        groups = actor.groups(texts, [[completion] for completion in found])
        below, tokens = actor.below_of(groups), sum(len(completion.token_ids) for completion in found)
        kl, entropy = actor.divergence(groups, below)
        said = [(prompt, completion.text) for prompt, completion in zip(self.prompts, found, strict=True)]
        scores = actor.reward.scores(groups, below).tolist()
        measured: dict[str, Any] = {
            "score": fmean(scores),
            "kl_nats_per_token": kl,
            "kl_nats_per_answer": kl * tokens / len(found),
            "entropy_nats_per_token": entropy,
            "mean_answer_tokens": tokens / len(found),
            "ended": fmean(completion.finish_reason == "stop" for completion in found),
            "repeated_trigrams": fmean(map(_repeated, found)),
            "style": {name: fmean(measure(c.text) for c in found) for name, measure in style.FEATURES.items()},
            **{name: fmean(judge(*answer) for answer in said) for name, judge in self.seen_by.items()},
        }
        if actor.second is not None:
            measured["second_score"] = float(actor.second.scores(groups, below).mean())
        if actor.cost is not None:
            measured["cost_score"] = float(actor.cost.scores(groups, below).mean())
        gold = None if self.gold is None else [self.gold(*answer) for answer in said]
        self._write(step, said, scores, gold)
        if gold is None:
            return measured
        self.looks.append(Look(step, gold))
        if processes.rank() == 0:
            save_file(snapshot(actor.policy, POLICY), self._kept(step))
        verdict = audit(self.looks)
        return measured | {"gold": fmean(gold), "gold_best": verdict.gold, "gold_worse": verdict.worse}

    def stops(self) -> bool:
        """Whether the answers have become worse than at the best look, as far as one can tell."""
        return bool(self.looks) and audit(self.looks).worse > self.config.stop_at

    def take(self) -> dict[str, Any] | None:
        """Put the policy of the best look back and say which; None, and the policy as it is, without gold."""
        if not self.looks:
            return None
        verdict = audit(self.looks)
        restore(self.actor.policy, load_file(self._kept(verdict.step)), POLICY)
        return {"step": verdict.step, "gold": verdict.gold, "gold_worse": verdict.worse}

    def clear(self) -> None:
        """Remove the policies that were kept."""
        for look in self.looks:
            self._kept(look.step).unlink(missing_ok=True)

    def _kept(self, step: int) -> Path:
        return self.folder / f"look-{step}.safetensors"

    def _write(
        self, step: int, said: Sequence[tuple[Prompt, str]], scores: Sequence[float], gold: Sequence[float] | None
    ) -> None:
        if processes.rank() > 0:
            return
        path = self.folder / LOOKS
        rows = [
            {
                "step": step,
                "index": i,
                "prompt": prompt.model_dump(mode="json")["prompt"],
                "answer": answer,
                "score": scores[i],
                "gold": None if gold is None else gold[i],
            }
            for i, (prompt, answer) in enumerate(said)
        ]
        write_jsonl(path, [*(read_jsonl(path) if path.exists() else []), *rows])


def _repeated(completion: Completion) -> float:
    """The share of an answer's runs of three tokens that stood in it before."""
    ids = completion.token_ids
    runs = [tuple(ids[i : i + 3]) for i in range(len(ids) - 2)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
