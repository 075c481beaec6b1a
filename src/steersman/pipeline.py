"""The order of the stages: the only file that knows it. What each does is in `stages.py`.

A stage is a function of its configuration and its inputs, which are files of earlier stages or one of the three
sources (base model, constitution, data set). Its identity holds the digests of exactly those inputs, so that a change
re-runs what depends on it and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from steersman import provenance
from steersman.constitution import ai_feedback, critique_revise, document, judge_card
from steersman.constitution.document import Constitution
from steersman.constitution.lint import lint
from steersman.data import sources
from steersman.data.formats import dump
from steersman.data.sources import DataSet
from steersman.errors import ConstitutionError, RecipeError, TrainingFailed, closest
from steersman.evals import answers, capability, reward_card, scores
from steersman.lm import pretrained, tiny, vllm_engine
from steersman.lm.device import Hardware, placed
from steersman.recipe import Recipe
from steersman.report import page
from steersman.stages import (
    ENDPOINT,
    TRAINING,
    Context,
    ablate,
    alone,
    answer_aligned,
    answer_raw,
    asked_cost_model,
    check,
    earlier_policies,
    give_feedback,
    judges_by_principle,
    measure_judge,
    offline_stage,
    policy_stage,
    preference_stage,
    revise,
    score,
    train_dpo,
    train_on_revisions,
    train_preference_model,
    train_ranking,
    train_rl,
    train_sft,
    tuned_stage,
    write_data,
    write_reward_card,
)
from steersman.store import (
    Identity,
    Run,
    StageFolder,
    canonical,
    sha256_text,
    write_json,
    write_text,
)
from steersman.terminal import console
from steersman.train import distributed, dpo, reward_model, sft
from steersman.train.reward_model import RewardConfig
from steersman.train.rl import loop as rl


# ── stages ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Stage:
    """``inputs`` name sources (see `SOURCE_DIGESTS`), stages, or files of stages, such as ``data/train.jsonl``.

    `POLICY` among them is the last stage of a recipe that trains, `OFFLINE` the one before reinforcement learning,
    `TUNED` the last one that learns from demonstrations, and `PREFERENCES` the model whose score is maximised. An
    ``optional`` stage without a configuration is left out, also where it is an input.
    """

    name: str
    version: int
    config: Callable[[Recipe], Any]
    inputs: tuple[str, ...]
    work: Callable[[Context, StageFolder], None]
    optional: bool = False


POLICY, OFFLINE, TUNED, PREFERENCES = "policy", "offline", "tuned", "preferences"


def ranking(name: str, choose: Callable[[Recipe], RewardConfig | None], file: str) -> Stage:
    """A stage that trains a reward model on a file of comparisons."""

    def work(c: Context, out: StageFolder) -> None:
        train_ranking(c, out, choose, file)

    inputs = ("base", "judged_texts", "sft", f"data/{file}", "data/train.jsonl")
    return Stage(name, reward_model.VERSION, choose, inputs, work, optional=True)


STAGES = (
    Stage("data", sources.VERSION, lambda r: r.examples, ("data_source",), write_data),
    Stage(
        "raw_answers",
        answers.VERSION,
        lambda r: r.answers,
        ("base", "persona", "data/train.jsonl", "data/evaluation.jsonl"),
        answer_raw,
    ),
    Stage(
        "raw_capability",
        capability.VERSION,
        lambda r: r.capability,
        ("base", "capability_items"),
        lambda c, out: capability.run(c.recipe.capability, c.base, None, out),
    ),
    Stage("sft", sft.VERSION, lambda r: r.sft, ("base", "data/train.jsonl", "data/validation.jsonl"), train_sft),
    ranking("reward_model", lambda r: r.reward_model, "comparisons.jsonl"),
    Stage(
        "reward_card",
        reward_card.VERSION,
        lambda r: r.reward_model,
        ("base", "reward_model", "data/held_out_comparisons.jsonl", "data/train.jsonl"),
        write_reward_card,
        optional=True,
    ),
    ranking("second_judge", alone, "held_out_comparisons.jsonl"),
    ranking("cost_model", asked_cost_model, "comparisons.jsonl"),
    Stage(
        "judge_card",
        judge_card.VERSION,
        lambda r: r.judge,
        ("base", "judge_reads", "reward_model", "data/held_out_comparisons.jsonl"),
        measure_judge,
        optional=True,
    ),
    Stage(
        "revisions",
        critique_revise.VERSION,
        lambda r: r.revisions,
        ("base", "reviser_reads", "sft", "judge_card", "data/prompts.jsonl", "data/train.jsonl"),
        revise,
        optional=True,
    ),
    Stage(
        "cai_sft",
        sft.VERSION,
        lambda r: r.cai_sft,
        ("base", "sft", f"revisions/{critique_revise.DEMONSTRATIONS}", "data/train.jsonl", "data/validation.jsonl"),
        train_on_revisions,
        optional=True,
    ),
    Stage(
        "feedback",
        ai_feedback.VERSION,
        lambda r: r.feedback,
        ("base", TUNED, "judge_reads", "judge_card", "reward_model", "data/prompts.jsonl", "data/train.jsonl"),
        give_feedback,
        optional=True,
    ),
    Stage(
        "preference_model",
        reward_model.VERSION,
        lambda r: r.preference_model,
        (
            "base",
            "judged_texts",
            "sft",
            "data/comparisons.jsonl",
            f"feedback/{ai_feedback.COMPARISONS}",
            "data/train.jsonl",
        ),
        train_preference_model,
        optional=True,
    ),
    Stage(
        "dpo",
        dpo.VERSION,
        lambda r: r.dpo,
        ("base", TUNED, "data/comparisons.jsonl", f"feedback/{ai_feedback.COMPARISONS}"),
        train_dpo,
        optional=True,
    ),
    Stage(
        "rl",
        rl.VERSION,
        lambda r: r.rl,
        (
            "base",
            OFFLINE,
            PREFERENCES,
            "second_judge",
            "cost_model",
            "data/prompts.jsonl",
            "data/held_out_prompts.jsonl",
            "data/train.jsonl",
        ),
        train_rl,
        optional=True,
    ),
    Stage(
        "ablation",
        answers.VERSION,
        lambda r: r.answers if r.ablation and earlier_policies(r) else None,
        ("base", "sft", TUNED, OFFLINE, "data/evaluation.jsonl"),
        ablate,
        optional=True,
    ),
    Stage(
        "aligned_answers",
        answers.VERSION,
        lambda r: r.answers,
        ("base", POLICY, "data/evaluation.jsonl"),
        answer_aligned,
    ),
    Stage(
        "aligned_capability",
        capability.VERSION,
        lambda r: r.capability,
        ("base", POLICY, "capability_items"),
        lambda c, out: capability.run(c.recipe.capability, c.base, c.policy, out),
    ),
    Stage(
        "scores",
        scores.VERSION,
        lambda r: None,
        ("data/evaluation.jsonl", "raw_answers", "aligned_answers", "ablation", "raw_capability", "aligned_capability"),
        score,
    ),
)


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
        The run, to be read with `steersman show`, `chat`, `export`.

    Raises:
        UserError: something in the input is wrong. RunError: the run could not finish; run it again to go on.
    """
    say = echo or console.print
    stages = stages_of(recipe, until)
    constitution, data = document.load(recipe.constitution), sources.load(recipe.data, recipe.votes)
    check_agreement(constitution, data)
    check(recipe, constitution, data)
    recipe.hardware.check()
    if recipe.samples_with_vllm:
        vllm_engine.check()
    run = Run(Path(out) if out else Path("runs") / recipe.name)
    with run.locked(), placed(recipe.hardware):
        start = time.time()
        base, cache = base_model(recipe, data, run), run.path / ENDPOINT
        context = Context(recipe, constitution, data, base, {}, cache)
        write_text(run.path / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
        write_json(run.path / "constitution.json", constitution.model_dump(mode="json"))
        write_json(run.path / "run.json", {**_about(recipe, context.base), "started": start})
        for number, stage in enumerate(stages, start=1):
            identity = identify(stage, context)
            artifact = run.finished(identity)
            if artifact is None:
                say(f"[{number}/{len(stages)}] {stage.name}: {run.why(identity)}")
                artifact = run.perform(identity, functools.partial(stage.work, context))
                say(f"[{number}/{len(stages)}] {stage.name}: done in {_minutes(run.manifest(stage.name))}")
            else:
                say(f"[{number}/{len(stages)}] {stage.name}: reused")
            context.done[stage.name] = artifact
        if stages[-1].name == STAGES[-1].name:
            page.write(run, recipe.report)
    return run


def follow(hardware: Hardware) -> None:
    """What every process but the first does under torchrun: take part in the stages that train, and write nothing."""
    console.quiet = True
    with placed(hardware):
        while True:
            stage, received = distributed.called()
            if stage is None:
                return
            path, *arguments = received
            with contextlib.suppress(TrainingFailed):  # all processes meet it at the same step, and the leader says so
                TRAINING[stage](*arguments, StageFolder(path, stage))


def check_agreement(constitution: Constitution, data: DataSet) -> None:
    """Refuse data that name principles which the constitution does not have.

    Raises:
        ConstitutionError: the lint finds errors; warnings are left to `steersman constitution check`.
    """
    findings = lint(
        constitution,
        demonstrations=data.demonstrations,
        comparisons=data.comparisons,
        prompts=data.prompts,
        evaluation=data.evaluation,
    )
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise ConstitutionError(
            "\n".join(f"{finding.principle or 'document'}: {finding.message}" for finding in errors),
            where=f"constitution {constitution.name} with {data.folder}",
            do=errors[0].do,
        )


def stages_of(recipe: Recipe, until: str | None = None) -> tuple[Stage, ...]:
    """The stages of a recipe up to and with ``until``, all of them when it is None.

    Raises:
        RecipeError: the recipe has no such stage.
    """
    named = {
        POLICY: policy_stage(recipe),
        OFFLINE: offline_stage(recipe),
        TUNED: tuned_stage(recipe),
        PREFERENCES: preference_stage(recipe),
    }
    absent = {stage.name for stage in STAGES if stage.optional and stage.config(recipe) is None}

    def present(inputs: Sequence[str]) -> tuple[str, ...]:
        kept = (named.get(name, name) for name in inputs if name.partition("/")[0] not in absent)
        return tuple(dict.fromkeys(kept))

    stages = tuple(replace(stage, inputs=present(stage.inputs)) for stage in STAGES if stage.name not in absent)
    names = [stage.name for stage in stages]
    if until is not None and until not in names:
        raise RecipeError(f"no stage {until!r}", where="--until", expected=", ".join(names), do=closest(until, names))
    return stages[: names.index(until) + 1] if until else stages


def base_model(recipe: Recipe, data: DataSet, run: Run) -> Path:
    """The base model's folder. ``tiny-random`` is made on the spot, from the data's own text, inside the run."""
    if recipe.model != tiny.NAME:
        return pretrained.resolve(recipe.model, notify=lambda text: console.print(text))
    texts = tiny.corpus(data.demonstrations)
    identity = Identity("base", tiny.VERSION, {}, {"texts": sha256_text("\n".join(texts))})
    artifact = run.finished(identity) or run.perform(identity, lambda out: tiny.build(texts, out.file("model")))
    return artifact.file("model")  # below the manifest, whose times must not become part of the model's digest


def identify(stage: Stage, context: Context) -> Identity:
    """The identity of a stage, from its configuration and the digests of its inputs."""
    config = stage.config(context.recipe)
    inputs = {name: _digest(name, context) for name in stage.inputs}
    return Identity(stage.name, stage.version, config.identity() if config is not None else {}, inputs)


def _digest(name: str, context: Context) -> str:
    if name in SOURCE_DIGESTS:
        return SOURCE_DIGESTS[name](context)
    stage, _, file = name.partition("/")
    artifact = context.done[stage]
    return artifact.outputs[file] if file else artifact.digest


def _base_digest(base: Path, hardware: Hardware) -> str:
    """Of the model as it is computed. Its precision makes it another one; its device rounds, as any machine does."""
    found = pretrained.digest(base)
    return found if hardware.dtype == "float32" else f"{found} in {hardware.dtype}"


def _shown(c: Context) -> list[Any]:
    """What a judge or a reviser goes by beside the words of a principle: its examples, and what rules look for."""
    rows = [p.model_dump(mode="json", include={"examples", "behaviours"}) for p in c.constitution.principles]
    judge = c.recipe.judge
    asked = judge.model if judge and judge.model and Path(judge.model).exists() else None
    return [*rows, pretrained.digest(Path(asked)) if asked else ""]


SOURCE_DIGESTS: Mapping[str, Callable[[Context], str]] = {
    "base": lambda c: _base_digest(c.base, c.recipe.hardware),
    "persona": lambda c: sha256_text(c.constitution.persona),
    "data_source": lambda c: sha256_text(canonical([dump(rows) for rows in c.data[1:5]])),
    "judge_reads": lambda c: sha256_text(canonical([*c.constitution.texts.items(), *_shown(c)])),
    "reviser_reads": lambda c: sha256_text(
        canonical([[p.id, p.text, p.critique_request, p.revision_request] for p in c.constitution.principles])
        + canonical(_shown(c))
    ),
    "judged_texts": lambda c: sha256_text(canonical(c.constitution.texts) if judges_by_principle(c.recipe) else ""),
    "capability_items": lambda c: capability.items_digest(),
}


def _about(recipe: Recipe, base: Path) -> dict[str, Any]:
    """What a reader needs to repeat the run."""
    digest = _base_digest(base, recipe.hardware)
    return {
        "stages": [stage.name for stage in stages_of(recipe)],
        "policy": policy_stage(recipe),
        "model": {"name": recipe.model, "path": str(base.absolute()), "digest": digest},
        **provenance.software_and_machine(recipe.hardware.device),
    }


def _minutes(manifest: Mapping[str, Any] | None) -> str:
    seconds = manifest["seconds"] if manifest else 0
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
