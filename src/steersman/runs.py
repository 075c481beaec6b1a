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
from steersman.data import sources
from steersman.errors import ModelError, UserError
from steersman.evals.conditions import ALIGNED, RAW
from steersman.lm import hub, pretrained
from steersman.lm.chat_settings import ChatConfig, chatting
from steersman.lm.device import Hardware, placed
from steersman.lm.export import export, export_reward_model
from steersman.lm.gguf_export import export_gguf
from steersman.lm.language_model import LocalModel
from steersman.lm.reward_model import ABOUT, RewardModel
from steersman.pipeline import section_of, sections_of
from steersman.report import html, overview
from steersman.report.blocks import paragraph
from steersman.report.evidence import overview_data, read_evidence, read_recipe
from steersman.report.format import rate
from steersman.report.model_card import Export, Kind, model_card
from steersman.report.page import report_data
from steersman.stage import Input
from steersman.stages.inputs import POLICY, REWARD_MODEL
from steersman.stages.judge import ENDPOINT, judge_of
from steersman.store import MANIFEST, Run, find_run, read_json, write_text
from steersman.terminal import console, working

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
    def trains_a_policy(self) -> bool:
        """Whether the aligned model is another than the base: not in a run of a reward model or an evaluation alone."""
        trained = any(self.recipe.get(stage) for stage in POLICY.names[1:])
        return trained or bool((self.recipe.get("sft") or {}).get("epochs", 1))

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
            if wanted.device == "cpu":
                raise
            print(
                f"note: this run was made on {wanted.device}, which this machine lacks: using the CPU", file=sys.stderr
            )
            wanted = Hardware(weights=wanted.weights)
            wanted.check()
        with placed(wanted), self._in_its_words():
            yield

    def _in_its_words(self) -> AbstractContextManager[None]:
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

    @working("exporting")
    def export(
        self,
        target: Path,
        *,
        merged: bool = False,
        stage: str | None = None,
        gguf: Path | None = None,
        push: str | None = None,
        public: bool = False,
    ) -> Path:
        """Copy the aligned model, or another stage's, as a PEFT adapter or a merged model; returns the folder.

        A reward model becomes a sequence classifier of `transformers`. The folder gets a model card, README.md.

        Args:
            stage: such as ``sft``, or ``reward_model``; the aligned model unless given.
            gguf: llama.cpp's folder: a merged model, and a GGUF file beside it.
            push: OWNER/NAME, to which the folder is uploaded on the Hub, by the token that its client finds.
            public: a repository that is created can be seen by everybody.

        Raises:
            ModelError: the run has no such stage, it left no model, the run trains no policy, or the Hub refuses.
        """
        if stage is not None and stage not in self.present:
            raise ModelError(f"this run has no stage {stage!r}", where=str(self.path), expected=", ".join(self.present))
        if stage is None and not self.trains_a_policy:
            found, do = "this run trains no policy, so there is no aligned model to export", "name a stage with --stage"
            models = [name for name in self.present if (self.path / name / ABOUT).exists()]
            raise ModelError(found, where=str(self.path), expected=", ".join(models), do=do if models else "")
        folder, name = self.path / stage if stage else self.policy, self.about["model"]["name"]
        kind: Kind = "classifier" if (folder / ABOUT).exists() else "merged" if merged or gguf else "adapter"
        hub_id = pretrained.hub_id(name)
        if push is not None:
            if kind == "adapter" and hub_id is None:
                found = f"the adapter's base is a folder of this machine ({name}), which nobody finds who downloads it"
                raise ModelError(found, where=push[:100], do="push a whole model: add --merged")
            hub.check_push(push)
        if kind == "classifier" and gguf is not None:
            raise ModelError("a reward model has no form as a GGUF file", where=str(folder), do="leave out --gguf")
        with self._in_its_words():
            if kind == "classifier":
                export_reward_model(self.base, folder, target)
            else:
                export(self.base, folder, target, merged=kind == "merged", base_name=hub_id)
            file = export_gguf(target, target / f"{self.path.name}.gguf", gguf) if gguf else None
        leaving = self._leaving(kind, folder.name, push or str(target), file.name if file else None)
        write_text(target / hub.CARD, model_card(self.run, leaving, section_of(self.run, "reward_card")))
        if push is not None:
            console.print(f"uploaded to {hub.push(target, push, public=public)}", soft_wrap=True, markup=False)
        return target

    def _leaving(self, kind: Kind, stage: str, place: str, gguf: str | None) -> Export:
        """What the model card says of an export; no path of this machine but the folder that was asked for."""
        name, data = self.about["model"]["name"], str(self.recipe["data"])
        published, _ = pretrained.PUBLISHED.get(name, (None, None))
        hub_id = pretrained.hub_id(name)
        return Export(
            kind,
            stage,
            base=name if hub_id or published else Path(name).name,
            base_id=hub_id or published,
            licence=pretrained.licence(name, self.base),
            place=place,
            gguf=gguf,
            dataset=data.partition(":")[0].partition("@")[0] if sources.is_on_hub(data) else None,
        )

    def __repr__(self) -> str:
        """The model, the stages that are finished, and the pass rate if there is one."""
        stages = ", ".join(name for name in self.about.get("stages", ()) if name in self.present)
        return f"OpenRun({str(self.path)!r}: {self.about['model']['name']}; {stages}{self._rates()})"

    def _repr_html_(self) -> str:
        """For notebooks: facts, summary and the table of rates of the report; before the scores, what `repr` says."""
        try:
            return html.fragment(overview.glance(overview_data(read_evidence(self.run))))
        except UserError:
            return html.fragment([paragraph(repr(self))])

    def _rates(self) -> str:
        try:
            passed = read_evidence(self.run).summary["overall"][0]
        except UserError:
            return ""
        rates = [f"{rate(passed['rates'][name])} {name}" for name in (RAW, ALIGNED) if name in passed["rates"]]
        return f"; pass rate {', '.join(rates)}, n = {passed['n']}" if passed["n"] else ""

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
