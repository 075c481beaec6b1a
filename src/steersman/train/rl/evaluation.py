"""Evaluation on held-out prompts while a policy is optimised, the choice of the checkpoint, and early stopping.

A checkpoint is never chosen by the score that is optimised: that rises whatever happens to the answers (Gao et al.
2022, arXiv:2210.10760). At every evaluation the policy answers the same held-out prompts. With ``gold``, labels of
these answers by a function or by people, which training does not use, `train/rl/selection.py` selects the checkpoint
with the highest gold, and training ends when the current one is worse with a probability of ``stop_at``. Without gold,
the last policy is kept.

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
from steersman.train.rl.actor import POLICY, Actor, Scorer
from steersman.train.rl.selection import CheckpointEval, Selection, select
from steersman.types import Prompt, Record, plain_text

EVAL_ANSWERS = "eval_answers.jsonl"  # the answers of all evaluations
Answer = tuple[Prompt, str]


class EvaluationConfig(Record):
    """Evaluation on held-out prompts. Gold labels of some answers are extended to the others by regression."""

    every_steps: int = Field(default=5, ge=1, description="Steps between evaluations.")
    prompts: int = Field(default=32, ge=2, description="Held-out prompts answered at each evaluation.")
    labels: int | None = Field(default=None, ge=2, description="Answers that get a gold label; null: all.")
    gold: Literal["behaviours", "people"] = Field(
        default="behaviours",
        description="Labels: expected behaviours, or people (the run waits for labels.jsonl).",
    )
    stop_at: float = Field(default=0.95, gt=0.5, le=1, description="Stop if worse than the best with this probability.")


class LabelledAnswer(Record):
    """A row of ``labels.jsonl``."""

    prompt: str
    answer: str
    label: float | None = Field(default=None, ge=0, le=1)


class People:
    """Gold labels that people write into a file, from 0 (bad) to 1 (good).

    The run stops where labels are missing, with their answers in the file, and goes on when the same command is given
    again. An answer is labelled once, however often it comes back.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def labels(self, answers: Sequence[Answer]) -> list[float]:
        """The labels of these answers.

        Raises:
            DataError: a row of the file is broken. RunError: labels are missing.
        """
        rows = read(self.file, LabelledAnswer) if self.file.exists() else []
        known = {(row.prompt, row.answer): row.label for row in rows}
        keys = [(plain_text(prompt.prompt), answer) for prompt, answer in answers]
        new = [LabelledAnswer(prompt=key[0], answer=key[1]) for key in dict.fromkeys(keys) if key not in known]
        if new and distributed.rank() == 0:
            write_jsonl(self.file, [row.model_dump(mode="json") for row in (*rows, *new)])
        labels = {key: known.get(key) for key in keys}
        if missing := sum(label is None for label in labels.values()):
            raise RunError(
                f"{missing} answer(s) wait for a person's label",
                where=str(self.file),
                do='write a number from 0 (bad) to 1 (good) for each "label" of null, then give the same command again',
            )
        return [label for label in map(labels.get, keys) if label is not None]


class Evaluator:
    """Measures answers to held-out prompts, keeps the policy of every evaluation, and selects one in the end.

    Args:
        metrics: other scorers of an answer, such as whether it refuses; their means are reported.
    """

    def __init__(
        self,
        actor: Actor,
        config: EvaluationConfig,
        prompts: Sequence[Prompt],
        gold: Scorer | People | None,
        metrics: Mapping[str, Scorer],
        folder: Path,
    ) -> None:
        self.actor, self.config, self.gold, self.metrics, self.folder = actor, config, gold, metrics, folder
        self.prompts = spread(prompts, config.prompts)
        self.evaluations: list[CheckpointEval] = []
        self.selection: Selection | None = None  # among these evaluations

    def resume(self, evaluations: Sequence[Sequence[Any]], step: int) -> None:
        """Restore the `evaluations` before ``step`` from a checkpoint."""
        self.evaluations = [row for row in (CheckpointEval(*values) for values in evaluations) if row.step < step]
        self.selection = select(self.evaluations) if self.evaluations else None
        if distributed.rank() == 0 and (self.folder / EVAL_ANSWERS).exists():
            kept = [row for row in read_jsonl(self.folder / EVAL_ANSWERS) if row["step"] < step]
            write_jsonl(self.folder / EVAL_ANSWERS, kept)

    def evaluate(self, step: int) -> dict[str, Any]:
        """Answer the prompts, always with the same random streams, and measure; with gold, keep the policy."""
        actor, texts = self.actor, [prompt.prompt for prompt in self.prompts]
        completions = actor.sample(texts, 1, -1)
        groups = actor.groups(texts, [[completion] for completion in completions])
        below, tokens = actor.below_of(groups), sum(len(completion.token_ids) for completion in completions)
        kl, entropy = actor.divergence(groups, below)
        answers = [(prompt, completion.text) for prompt, completion in zip(self.prompts, completions, strict=True)]
        values: dict[str, list[float]] = {
            "score": actor.score(texts, [[text] for _, text in answers], groups, below).tolist(),
            "mean_answer_tokens": [float(len(completion.token_ids)) for completion in completions],
            "terminated": [float(completion.finish_reason == "stop") for completion in completions],
            "repeated_trigrams": [_repeated_trigrams(completion) for completion in completions],
            **{name: [scorer(*answer) for answer in answers] for name, scorer in self.metrics.items()},
        }
        for name, model in (("holdout_score", actor.holdout_reward_model), ("cost_score", actor.cost_model)):
            if model is not None:
                values[name] = model.scores(groups, below).flatten().tolist()
        styles = {name: [measure(answer) for _, answer in answers] for name, measure in answer_style.FEATURES.items()}
        gold = self._labels(answers)
        if distributed.rank() == 0:
            self._write(step, answers, values["score"], gold)
        measured: dict[str, Any] = {
            **{name: fmean(column) for name, column in values.items()},
            "style": {name: fmean(column) for name, column in styles.items()},
            "kl_nats_per_token": kl,
            "kl_nats_per_answer": kl * tokens / len(completions),
            "entropy_nats_per_token": entropy,
        }
        if self.gold is None:
            return measured
        features = [*map(list, zip(*values.values(), *styles.values(), strict=True))]
        self.evaluations.append(CheckpointEval(step, features, gold))
        if distributed.rank() == 0:
            save_file(snapshot(actor.policy, POLICY), self._snapshot(step))
        self.selection = selection = select(self.evaluations)
        labels = [label for label in gold if label is not None]
        return measured | {"gold": fmean(labels), "gold_best": selection.gold, "gold_worse": selection.p_worse}

    def _labels(self, answers: Sequence[Answer]) -> list[float | None]:
        """Gold labels; None for answers to the prompts that get none, the same ones at every evaluation."""
        if self.gold is None:
            return [None] * len(answers)
        indices = spread(range(len(answers)), self.config.labels)
        some = [answers[i] for i in indices]
        labels = self.gold.labels(some) if isinstance(self.gold, People) else [self.gold(*one) for one in some]
        by_index = dict(zip(indices, labels, strict=True))
        return [by_index.get(i) for i in range(len(answers))]

    def should_stop(self) -> bool:
        """Whether the policy is worse than the best one, with a probability above ``stop_at``."""
        return self.selection is not None and self.selection.p_worse > self.config.stop_at

    def restore_selected(self) -> dict[str, Any] | None:
        """Load the selected policy and describe it; None without gold: the policy stays as it is."""
        if self.selection is None:
            return None
        restore(self.actor.policy, load_file(self._snapshot(self.selection.step)), POLICY)
        return {"step": self.selection.step, "gold": self.selection.gold, "gold_worse": self.selection.p_worse}

    def remove_snapshots(self) -> None:
        """Delete the policies that were kept."""
        for evaluation in self.evaluations:
            self._snapshot(evaluation.step).unlink(missing_ok=True)

    def _snapshot(self, step: int) -> Path:
        return self.folder / f"policy-{step}.safetensors"

    def _write(self, step: int, answers: Sequence[Answer], scores: list[float], gold: list[float | None]) -> None:
        path = self.folder / EVAL_ANSWERS
        rows = read_jsonl(path) if path.exists() else []
        for i, (prompt, answer) in enumerate(answers):
            row = {"step": step, "index": i, "prompt": prompt.model_dump(mode="json")["prompt"], "answer": answer}
            rows.append(row | {"score": scores[i], "gold": gold[i]})
        write_jsonl(path, rows)


def _repeated_trigrams(completion: Completion) -> float:
    """The share of an answer's runs of three tokens that occurred earlier in it."""
    ids = completion.token_ids
    runs = [tuple(ids[i : i + 3]) for i in range(len(ids) - 2)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
