"""What is watched while a policy is optimised, and the audit that says which checkpoint to take and when to stop.

The score that is optimised is never what a checkpoint is chosen by: it rises whatever happens to the answers (Gao et
al. 2022, arXiv:2210.10760). At every look the policy answers the same held-out prompts. If ``gold`` is given, a judge
that training does not see, its labels of these answers are what is believed. They are few and noisy, so the curve is
fitted that Gao et al. found for reinforcement learning,

    gold(d) = gold(0) + d (a - b log d)        d = sqrt(KL(policy || reference) of an answer)

and its highest point among the looks is taken. Training ends when the curve falls at the present d with a probability
of ``stop_at``. Without gold, the last policy is taken: never the one with the highest score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist, fmean, variance
from typing import Any, NamedTuple

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file

from steersman.data import style
from steersman.data.sources import spread
from steersman.lm.model import restore, snapshot
from steersman.lm.sampling import Completion
from steersman.lm.shared_prompt import Group
from steersman.store import read_jsonl, write_jsonl
from steersman.train import processes
from steersman.train.actor import POLICY, Actor, Judge
from steersman.types import Prompt, Record

LOOKS = "looks.jsonl"  # the answers of all looks, for a reader or a rater
FITTED = 4  # looks; below, the curve would go through all of them


class WatchConfig(Record):
    """Every so many steps, ``prompts`` held-out prompts are answered: so many gold labels does a look cost.

    A ``stop_at`` of 1 never ends training.
    """

    every_steps: int = Field(default=5, ge=1)
    prompts: int = Field(default=32, ge=2)
    stop_at: float = Field(default=0.9, gt=0.5, le=1)


class Look(NamedTuple):
    """What the audit knows of a step: the KL of an answer in nats, and the gold of each answer."""

    step: int
    kl: float
    gold: list[float]


class Verdict(NamedTuple):
    """The step to take, its gold by the curve, and how probable it is that gold is falling now."""

    step: int
    gold: float
    falling: float


def audit(looks: Sequence[Look]) -> Verdict:
    """Fit Gao's curve to the gold of some looks, the first of them at a KL of 0.

    The labels of all looks share one variance. With fewer than `FITTED` looks the means themselves are compared, and
    nothing is said of falling.
    """
    means = torch.tensor([fmean(look.gold) for look in looks], dtype=torch.float64)
    if len(looks) < FITTED:
        best = int(means.argmax())
        return Verdict(looks[best].step, float(means[best]), 0.5)
    d = torch.tensor([max(look.kl, 1e-6) for look in looks], dtype=torch.float64).sqrt()
    terms = torch.stack([torch.ones_like(d), d, -d * d.log()], 1)
    labels = torch.tensor([len(look.gold) for look in looks], dtype=torch.float64)
    spread = fmean(variance(look.gold) for look in looks)
    # Labels that all agree leave no noise to estimate; Laplace's half a disagreement stands in for it.
    spread = max(spread, 0.5 / float(labels.sum()))
    weights = labels / spread
    covariance = torch.linalg.pinv(terms.T @ (weights[:, None] * terms), hermitian=True)
    found = covariance @ terms.T @ (weights * means)
    fitted = terms @ found
    best = int(fitted.argmax())
    slope = torch.tensor([0.0, 1.0, -float(d[-1].log()) - 1], dtype=torch.float64)
    error = math.sqrt(max(float(slope @ covariance @ slope), 1e-12))
    return Verdict(looks[best].step, float(fitted[best]), NormalDist().cdf(-float(slope @ found) / error))


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
        groups = [
            Group(actor.prompt_ids(text), [completion.token_ids]) for text, completion in zip(texts, found, strict=True)
        ]
        tokens, (kl, entropy) = sum(len(completion.token_ids) for completion in found), actor.divergence(groups)
        said = [(prompt, completion.text) for prompt, completion in zip(self.prompts, found, strict=True)]
        scores = actor.reward.scores(groups).tolist()
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
            measured["second_score"] = float(actor.second.scores(groups).mean())
        gold = None if self.gold is None else [self.gold(*answer) for answer in said]
        self._write(step, said, scores, gold)
        if gold is None:
            return measured
        self.looks.append(Look(step, measured["kl_nats_per_answer"], gold))
        if processes.rank() == 0:
            save_file(snapshot(actor.policy, POLICY), self._kept(step))
        verdict = audit(self.looks)
        return measured | {"gold": fmean(gold), "gold_fitted_best": verdict.gold, "gold_falling": verdict.falling}

    def stops(self) -> bool:
        """Whether gold is falling, as far as one can tell."""
        return bool(self.looks) and audit(self.looks).falling > self.config.stop_at

    def take(self) -> dict[str, Any] | None:
        """Put the policy of the best look back and say which; None, and the policy as it is, without gold."""
        if not self.looks:
            return None
        verdict = audit(self.looks)
        restore(self.actor.policy, load_file(self._kept(verdict.step)), POLICY)
        return {"step": verdict.step, "gold": verdict.gold, "gold_falling": verdict.falling}

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
