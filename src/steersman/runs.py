"""A run on disk, read by the handles that its stages were given: ``run[POLICY]``, ``run[EVALUATION]``.

    run = steersman.open_run("runs/laptop")
    run.aligned().generate(["How should I invest 10,000 euros?"])
    run.reward_model().score("How should I invest?", ["Buy gold.", "What is the money for?"])
    run.tables()["principles"]

Verbs read runs through this too: none spells a stage's folder.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from steersman.constitution.document import Constitution
from steersman.constitution.judges import Judge, JudgeConfig
from steersman.errors import ModelError, UserError
from steersman.lm import pretrained
from steersman.lm.chat_settings import ChatConfig, chatting
from steersman.lm.device import Hardware, placed
from steersman.lm.export import export, export_reward_model
from steersman.lm.language_model import LocalModel
from steersman.lm.reward_model import ABOUT, RewardModel
from steersman.pipeline import sections_of
from steersman.report.evidence import read_recipe
from steersman.report.page import report_data
from steersman.stage import Input
from steersman.stages.inputs import POLICY, REWARD_MODEL
from steersman.stages.judge import ENDPOINT, judge_of
from steersman.store import MANIFEST, Run, find_run, read_json

T = TypeVar("T")


def open_run(path: str | Path) -> OpenRun:
    """Open a run's folder for reading.

    Raises:
        UserError: the folder does not exist or holds no run.
    """
    return OpenRun(find_run(path))


class OpenRun:
    """A run's models, records and tables. What its recipe has not reached yet is a `UserError`."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.path = run.path
        self.about: dict[str, Any] = read_json(self.path / "run.json")
        self.recipe: dict[str, Any] = read_recipe(run)
        stages = (*self.about.get("stages", ()), "base")
        self.present = {name for name in stages if (self.path / name / MANIFEST).exists()}

    def __contains__(self, wanted: Input[Any]) -> bool:
        """Whether the run holds it."""
        return self._name(wanted) is not None

    def __getitem__(self, wanted: Input[T]) -> T:
        """Read what a stage wrote, by the handle of those that read it: the last of its alternatives.

        Raises:
            UserError: the run has not got so far.
        """
        if wanted.names == ("constitution",):
            return wanted.read(self.constitution)
        if wanted.names == ("base",):
            return wanted.read(self.base)
        name = self._name(wanted)
        if name is not None:
            return wanted.read(self.path / name)
        if not wanted.required:
            nothing: Any = None
            return nothing  # type: ignore[no-any-return]
        raise UserError(
            f"this run has no {' or '.join(wanted.names)} yet", where=str(self.path), do="finish it: `steersman align`"
        )

    def _name(self, wanted: Input[Any]) -> str | None:
        return next((name for name in reversed(wanted.names) if name.partition("/")[0] in self.present), None)

    @property
    def constitution(self) -> Constitution:
        """The constitution as the run read it."""
        return Constitution.model_validate(read_json(self.path / "constitution.json"))

    @property
    def base(self) -> Path:
        """The base model's folder, resolved again if it has moved."""
        note = self.about["model"]
        for folder in (Path(note["path"]), self.path / "base" / "model"):  # the second of a run that has moved
            if folder.exists():
                return folder
        return pretrained.resolve(note["name"])

    @property
    def policy(self) -> Path:
        """The folder of the aligned model.

        Raises:
            ModelError: the run has not reached the last stage that trains it.
        """
        stage: str = self.about.get("policy", "sft")
        if self._name(POLICY) != stage:
            do = "finish it with `steersman align`"
            raise ModelError("this run has no aligned model yet", where=str(self.path), do=do)
        return self.path / stage

    # ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────
    @contextmanager
    def on_its_hardware(self) -> Iterator[None]:
        """Within it, models are loaded for the run's hardware and with its chat settings.

        Without such a GPU they are loaded for the CPU, with a note.
        """
        wanted = Hardware.model_validate(self.recipe.get("hardware", {}))
        try:
            wanted.check()
        except ModelError:
            print(
                f"note: this run was made on {wanted.device}, which this machine lacks: using the CPU", file=sys.stderr
            )
            wanted = Hardware()
        with placed(wanted), self.in_its_words():
            yield

    def in_its_words(self) -> AbstractContextManager[None]:
        """Within it, tokenizers are loaded with the run's chat settings."""
        return chatting(ChatConfig.model_validate(self.recipe.get("chat", {})))

    def raw(self) -> LocalModel:
        """The base model, loaded."""
        with self.on_its_hardware():
            return LocalModel.load(self.base)

    def aligned(self) -> LocalModel:
        """The aligned model, loaded."""
        with self.on_its_hardware():
            return LocalModel.load(self.base, self.policy)

    def reward_model(self) -> RewardModel:
        """The reward model, loaded: ``score(prompt, answers)`` in nats."""
        folder = self[REWARD_MODEL]
        with self.on_its_hardware():
            return RewardModel.load(self.base, folder)

    def export(self, target: Path, *, merged: bool = False, stage: str | None = None) -> Path:
        """Copy the aligned model, or another stage's, as a PEFT adapter or a merged model; returns the folder.

        A reward model becomes a sequence classifier of `transformers`.

        Args:
            stage: such as ``sft``, or ``reward_model``; the aligned model unless given.

        Raises:
            ModelError: the run has no such stage, or it left no model.
        """
        if stage is not None and stage not in self.present:
            raise ModelError(f"this run has no stage {stage!r}", where=str(self.path), expected=", ".join(self.present))
        folder = self.path / stage if stage else self.policy
        with self.in_its_words():
            if (folder / ABOUT).exists():
                return export_reward_model(self.base, folder, target)
            return export(self.base, folder, target, merged=merged)

    def judge(self, config: JudgeConfig | None = None) -> Judge:
        """The recipe's preference judge, or another one, with the run's base model and reward model.

        Raises:
            UserError: it uses the reward model, and the run has none that reads principles.
        """
        config = config or JudgeConfig.model_validate(self.recipe.get("judge") or {})
        settings = (self.run.manifest("reward_model") or {}).get("config", {})
        if "reward" in config.kinds and not settings.get("by_principle"):
            raise UserError(
                "this run has no reward model that reads principles",
                where=str(self.path / "reward_model"),
                do="train one (reward_model.by_principle: true), or use another judge: --kind rules, --kind model",
            )
        reward = self[REWARD_MODEL] if "reward" in config.kinds else None
        with self.on_its_hardware():
            return judge_of(config, self.base, reward, self.path / ENDPOINT)

    # ── evidence ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def tables(self) -> dict[str, Any]:
        """Everything that the report shows, as plain values: rates, differences, intervals, examples, provenance.

        Raises:
            UserError: the run has not reached its scores.
        """
        return report_data(self.run, sections_of(self.run))
