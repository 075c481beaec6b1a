"""What is watched while a policy is optimised, and the audit that says which checkpoint to take and when to stop.

The score that is optimised is never what a checkpoint is chosen by: it rises whatever happens to the answers (Gao et
al. 2022, arXiv:2210.10760). At every look the policy answers the same held-out prompts. If ``gold`` is given, a judge
or people whom training does not see, their labels of these answers are what is believed (`train/rl/selection.py`):
the look with the highest gold is taken, and training ends when the present one is worse than it with a probability of
``stop_at``. Without gold, the last policy is taken: never the one with the highest score.

Gao et al.'s own curve, d (a - b log d) with d the root of the KL, is not what we fit: see docs/decisions/0009.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import Field
from safetensors.torch import load_file, save_file

from steersman.data import answer_style
from steersman.data.formats import read
from steersman.data.sources import spread
from steersman.errors import RunError
from steersman.lm.adapters import restore, snapshot
from steersman.lm.sampling import Completion
from steersman.store import read_jsonl, write_jsonl
from steersman.train import distributed
from steersman.train.rl.actor import POLICY, Actor, Judge
from steersman.train.rl.selection import Look, Verdict, audit
from steersman.types import Prompt, Record, plain_text

LOOKS = "looks.jsonl"  # the answers of all looks, for a reader
Answered = tuple[Prompt, str]


class WatchConfig(Record):
    """Every so many steps, ``prompts`` held-out prompts are answered, and ``labels`` of the answers get a gold label;
    None for all. The others are told by what is counted of them, and by the labels.

    ``gold``: who labels, the ``behaviours`` that a prompt expects, or ``people`` (`People`). A ``stop_at`` of 1 never
    ends training.
    """

    every_steps: int = Field(default=5, ge=1)
    prompts: int = Field(default=32, ge=2)
    labels: int | None = Field(default=None, ge=2)
    gold: Literal["behaviours", "people"] = "behaviours"
    stop_at: float = Field(default=0.95, gt=0.5, le=1)


class Labelled(Record):
    """A row of the file: an answer, and what a person says of it."""

    prompt: str
    answer: str
    label: float | None = Field(default=None, ge=0, le=1)


class People:
    """Labels that people write into a file, in place of a judge that is asked.

    The run stops where a label is missing, with the answers in the file; whoever writes a number from 0 (bad) to 1
    (good) for each and gives the same command again lets it go on. The same answer is asked about once.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def labels(self, said: Sequence[Answered]) -> list[float]:
        """The labels of these answers.

        Raises:
            DataError: a row of the file is broken. RunError: labels are missing.
        """
        rows = read(self.file, Labelled) if self.file.exists() else []
        known = {(row.prompt, row.answer): row.label for row in rows}
        asked = [(plain_text(prompt.prompt), answer) for prompt, answer in said]
        new = [Labelled(prompt=one[0], answer=one[1]) for one in dict.fromkeys(asked) if one not in known]
        if new and distributed.rank() == 0:
            write_jsonl(self.file, [row.model_dump(mode="json") for row in (*rows, *new)])
        found = [known.get(one) for one in asked]
        labels = [label for label in found if label is not None]
        if len(labels) < len(asked):
            missing = {one for one, label in zip(asked, found, strict=True) if label is None}
            raise RunError(
                f"{len(missing)} answer(s) wait for a person's label",
                where=str(self.file),
                do='write a number from 0 (bad) to 1 (good) for each "label" of null, then give the same command again',
            )
        return labels


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
        gold: Judge | People | None,
        seen_by: Mapping[str, Judge],
        folder: Path,
    ) -> None:
        self.actor, self.config, self.gold, self.seen_by, self.folder = actor, config, gold, seen_by, folder
        self.prompts = spread(prompts, config.prompts)
        self.looks: list[Look] = []
        self.verdict: Verdict | None = None  # on these looks

    def state(self) -> list[list[Any]]:
        """What a resumed training needs."""
        return [list(look) for look in self.looks]

    def resume(self, state: Sequence[Sequence[Any]], step: int) -> None:
        """Put `state` back, of the looks before ``step``."""
        self.looks = [look for look in (Look(*values) for values in state) if look.step < step]
        self.verdict = audit(self.looks) if self.looks else None
        if distributed.rank() == 0 and (self.folder / LOOKS).exists():
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
        counted: dict[str, list[float]] = {
            "score": actor.reward.scores(groups, below).tolist(),
            "mean_answer_tokens": [float(len(completion.token_ids)) for completion in found],
            "ended": [float(completion.finish_reason == "stop") for completion in found],
            "repeated_trigrams": [_repeated(completion) for completion in found],
            **{name: [judge(*answer) for answer in said] for name, judge in self.seen_by.items()},
        }
        for name, judge in (("second_score", actor.second), ("cost_score", actor.cost)):
            if judge is not None:
                counted[name] = judge.scores(groups, below).flatten().tolist()
        styles = {name: [measure(answer) for _, answer in said] for name, measure in answer_style.FEATURES.items()}
        gold = self._labels(said)
        self._write(step, said, counted["score"], gold)
        measured: dict[str, Any] = {
            **{name: fmean(values) for name, values in counted.items()},
            "style": {name: fmean(values) for name, values in styles.items()},
            "kl_nats_per_token": kl,
            "kl_nats_per_answer": kl * tokens / len(found),
            "entropy_nats_per_token": entropy,
        }
        if self.gold is None:
            return measured
        self.looks.append(Look(step, [*map(list, zip(*counted.values(), *styles.values(), strict=True))], gold))
        if distributed.rank() == 0:
            save_file(snapshot(actor.policy, POLICY), self._kept(step))
        self.verdict = verdict = audit(self.looks)
        labels = [label for label in gold if label is not None]
        return measured | {"gold": fmean(labels), "gold_best": verdict.gold, "gold_worse": verdict.worse}

    def _labels(self, said: Sequence[Answered]) -> list[float | None]:
        """Of each answer; None of those that nobody is asked about, which are the same ones at every look."""
        if self.gold is None:
            return [None] * len(said)
        asked = spread(range(len(said)), self.config.labels)
        some = [said[i] for i in asked]
        found = self.gold.labels(some) if isinstance(self.gold, People) else [self.gold(*one) for one in some]
        told = dict(zip(asked, found, strict=True))
        return [told.get(i) for i in range(len(said))]

    def stops(self) -> bool:
        """Whether the answers have become worse than at the best look, as far as one can tell."""
        return self.verdict is not None and self.verdict.worse > self.config.stop_at

    def take(self) -> dict[str, Any] | None:
        """Put the policy of the best look back and say which; None, and the policy as it is, without gold."""
        if self.verdict is None:
            return None
        restore(self.actor.policy, load_file(self._kept(self.verdict.step)), POLICY)
        return {"step": self.verdict.step, "gold": self.verdict.gold, "gold_worse": self.verdict.worse}

    def clear(self) -> None:
        """Remove the policies that were kept."""
        for look in self.looks:
            self._kept(look.step).unlink(missing_ok=True)

    def _kept(self, step: int) -> Path:
        return self.folder / f"look-{step}.safetensors"

    def _write(
        self, step: int, said: Sequence[Answered], scores: Sequence[float], gold: Sequence[float | None]
    ) -> None:
        if distributed.rank() > 0:
            return
        path = self.folder / LOOKS
        rows = [
            {
                "step": step,
                "index": i,
                "prompt": prompt.model_dump(mode="json")["prompt"],
                "answer": answer,
                "score": scores[i],
                "gold": gold[i],
            }
            for i, (prompt, answer) in enumerate(said)
        ]
        write_jsonl(path, [*(read_jsonl(path) if path.exists() else []), *rows])


def _repeated(completion: Completion) -> float:
    """The share of an answer's runs of three tokens that stood in it before."""
    ids = completion.token_ids
    runs = [tuple(ids[i : i + 3]) for i in range(len(ids) - 2)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
