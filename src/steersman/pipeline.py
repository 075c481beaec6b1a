"""The order of the stages, and running them. To add one: a file in `stages/`, and its name in `STAGES`.

A stage's key holds its configuration, the versions of its code and the digests of its inputs: what it declares, and
since it can read nothing else, what it reads. A change re-runs what depends on it and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from steersman import provenance
from steersman.errors import RecipeError, TrainingFailed, closest
from steersman.lm.chat_settings import chatting
from steersman.lm.device import placed
from steersman.recipe import Recipe
from steersman.report import page
from steersman.report.blocks import Section
from steersman.report.evidence import ReportSettings, read_evidence, read_stage
from steersman.stage import Input, Inputs, Sources, Stage
from steersman.stages import answers, data, dpo, forms, judge, public_prompts, reward_model, rl, scores, sft, sources
from steersman.stages import audit as audit_stage
from steersman.stages import capability as capability_stages
from steersman.stages import guard as guard_stage
from steersman.stages import guarded as guarded_stage
from steersman.stages import redteam as redteam_stage
from steersman.stages import sense as sense_stage
from steersman.stages import suites as suites_stage
from steersman.stages.inputs import POLICY
from steersman.stages.sources import Source
from steersman.store import Artifact, Identity, Run, StageFolder, canonical, sha256_text, write_json, write_text
from steersman.terminal import console, working
from steersman.train import distributed

STAGES: tuple[Stage[Any], ...] = (
    data.DATA,
    sft.SFT,
    reward_model.REWARD,
    reward_model.REWARD_CARD,
    reward_model.HOLDOUT,
    reward_model.COST,
    judge.JUDGE,
    judge.REVISIONS,
    sft.CAI_SFT,
    judge.FEEDBACK,
    reward_model.PREFERENCE,
    dpo.DPO,
    rl.RL,
    forms.FORMS,
    public_prompts.PUBLIC,
    answers.RAW_ANSWERS,
    capability_stages.RAW_CAPABILITY,
    answers.ABLATION,
    answers.ALIGNED_ANSWERS,
    capability_stages.ALIGNED_CAPABILITY,
    sense_stage.SENSE,
    guard_stage.GUARD,
    guarded_stage.GUARDED,
    redteam_stage.REDTEAM,
    suites_stage.SUITES_STAGE,
    audit_stage.AUDIT_STAGE,
    scores.SCORES,
)


class Step(NamedTuple):
    """A stage with its configuration in a recipe, and with its inputs: by handle, the name in the run (or none)."""

    stage: Stage[Any]
    config: Any
    names: Mapping[Input[Any], str | None]


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def align(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    until: str | None = None,
    echo: Callable[[str], None] | None = None,
) -> Run:
    """Run the stages of a recipe and write the report. What is already there and unchanged is reused.

    Args:
        recipe: from `load_recipe`, or built in Python.
        out: the run's folder; ``runs/NAME`` unless given.
        until: the last stage to run.
        echo: gets a line per stage; the console unless given.

    Returns:
        The run, to be read with `steersman.open_run`.

    Raises:
        UserError: something in the input is wrong. RunError: the run could not finish; run it again to go on.
    """
    say = echo or console.print
    steps, given = prepare(recipe, until)
    run = Run(Path(out) if out else Path("runs") / recipe.name)
    with run.locked(), placed(recipe.hardware), chatting(recipe.chat):
        start = time.time()
        base = sources.base_model(recipe, given.data, run)
        sources.check_positions(recipe, base)
        sources.check_conversations(given, base)
        write_text(run.path / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
        write_json(run.path / "constitution.json", given.constitution.model_dump(mode="json"))
        write_json(run.path / "run.json", {**_about(recipe, base), "started": start})
        known, done = sources.digested(given, base), dict[str, Artifact]()
        for number, step in enumerate(steps, start=1):
            name = step.stage.name
            identity, inputs = identify(step, known, done)
            artifact = run.finished(identity)
            if artifact is None:
                say(f"[{number}/{len(steps)}] {name}: {run.why(identity)}")
                with working(name):
                    artifact = run.perform(identity, functools.partial(_perform, step, inputs))
                say(f"[{number}/{len(steps)}] {name}: done in {_minutes(run.manifest(name))}")
            else:
                say(f"[{number}/{len(steps)}] {name}: reused")
            done[name] = artifact
        if steps[-1].stage is STAGES[-1]:
            write_report(run, recipe.report)
    return run


def prepare(recipe: Recipe, until: str | None = None) -> tuple[list[Step], Sources]:
    """The stages to run, and what the recipe names; everything that can be refused before the first stage, is.

    Raises:
        UserError: the recipe, the constitution, the data or the machine does not do.
    """
    steps = stages_of(recipe)
    last = _place(steps, until) if until else len(steps) - 1
    given = sources.load(recipe)
    for step in steps:
        if step.stage.check:
            step.stage.check(step.config, given)
    recipe.hardware.check()
    return steps[: last + 1], given


def _perform(step: Step, inputs: Inputs, out: StageFolder) -> None:
    """Run a stage; one that trains, in all processes."""
    if step.stage.trains:
        distributed.call(step.stage.name, out.path, step.config, [inputs.values[wanted] for wanted in step.names])
    step.stage.run(step.config, inputs, out)


def follow(recipe: Recipe) -> None:
    """What every process but the first does under torchrun: take part in the stages that train, and write nothing."""
    console.quiet = True
    steps = {step.stage.name: step for step in stages_of(recipe)}
    with placed(recipe.hardware), chatting(recipe.chat):
        while True:
            name, received = distributed.called()
            if name is None:
                return
            path, config, values = received
            labels = {wanted: label or "" for wanted, label in steps[name].names.items()}
            inputs = Inputs(dict(zip(labels, values, strict=True)), labels)
            with contextlib.suppress(TrainingFailed):  # all processes meet it at the same step, and the leader says so
                steps[name].stage.run(config, inputs, StageFolder(path, name))


# ── what runs ────────────────────────────────────────────────────────────────────────────────────────────────────────
def stages_of(recipe: Recipe) -> list[Step]:
    """The stages of a recipe, with the stages that their inputs come from.

    Raises:
        RecipeError: a stage needs what no stage of this recipe writes.
    """
    chosen = [(stage, config) for stage in STAGES if (config := stage.config(recipe)) is not None]
    present = {*sources.NAMES, *(stage.name for stage, _ in chosen)}
    steps = []
    for stage, config in chosen:
        names = {wanted: _resolve(wanted, recipe, present) for wanted in stage.inputs}
        for wanted, name in names.items():
            if name is None and wanted.required:
                missing = wanted.names[0].partition("/")[0]
                section = next(other.recipe_key or other.name for other in STAGES if other.name == missing)
                own = stage.recipe_key or stage.name
                raise recipe.conflict(f"{own} needs {section}", own, do=f"add {section}: {{}}")
        steps.append(Step(stage, config, names))
    return steps


def _resolve(wanted: Input[Any], recipe: Recipe, present: set[str]) -> str | None:
    """The name of an input in a run of the recipe: the last alternative whose stage is present."""
    if wanted.when and not wanted.when(recipe):
        return None
    return next((name for name in reversed(wanted.names) if name.partition("/")[0] in present), None)


def _place(steps: Sequence[Step], until: str) -> int:
    names = [step.stage.name for step in steps]
    if until not in names:
        raise RecipeError(f"no stage {until!r}", where="--until", expected=", ".join(names), do=closest(until, names))
    return names.index(until)


def identify(step: Step, known: Mapping[str, Source], done: Mapping[str, Artifact]) -> tuple[Identity, Inputs]:
    """The identity of a stage, and what it is given."""
    digests: dict[str, str] = {}
    values: dict[Input[Any], Any] = {}
    for wanted, name in step.names.items():
        values[wanted] = None
        if name is None:
            continue
        if name in known:
            source = known[name]
            values[wanted] = source.value
            if wanted.part:
                part = wanted.part(source.value)
                digests[wanted.label] = sha256_text(part if isinstance(part, str) else canonical(part))
            elif source.digest:
                digests[name] = source.digest
        else:
            folder, _, file = name.partition("/")
            artifact = done[folder]
            values[wanted] = artifact.file(file) if file else artifact.path
            digests[name] = artifact.outputs[file] if file else artifact.digest
    identity = Identity(step.stage.name, step.stage.versions, step.config.identity(), digests)
    return identity, Inputs(values, {wanted: name or "" for wanted, name in step.names.items()})


# ── the report ───────────────────────────────────────────────────────────────────────────────────────────────────────
def sections_of(run: Run) -> list[Section]:
    """The sections of the stages that a run has finished, in their order."""
    evidence = read_evidence(run)
    records = [(stage, evidence.record(stage.name)) for stage in STAGES]
    sections = [stage.section(record) for stage, record in records if stage.section is not None and record is not None]
    return [section for section in sections if section is not None]


def section_of(run: Run, name: str) -> Section | None:
    """The section of one finished stage; the run may not have reached its scores."""
    stage, record = next(stage for stage in STAGES if stage.name == name), read_stage(run, name)
    return stage.section(record) if stage.section is not None and record is not None else None


def write_report(run: Run, config: ReportSettings | None = None) -> Path:
    """Write the report of a run that has reached its scores; returns the path of its page. See `report.page.write`."""
    return page.write(run, sections_of(run), config)


def _about(recipe: Recipe, base: Path) -> dict[str, Any]:
    """What a reader needs to repeat the run."""
    names = [step.stage.name for step in stages_of(recipe)]
    return {
        "stages": names,
        "policy": _resolve(POLICY, recipe, set(names)),
        "model": {
            "name": recipe.model,
            "path": str(base.absolute()),
            "digest": sources.base_digest(base, recipe),
        },
        **provenance.software_and_machine(recipe.hardware.device),
    }


def _minutes(manifest: Mapping[str, Any] | None) -> str:
    seconds = manifest["seconds"] if manifest else 0
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
