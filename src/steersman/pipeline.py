"""The stages and their order: the only file that knows them.

A stage is a function of its configuration and its inputs, which are files of earlier stages or one of the three
sources (base model, constitution, data set). Its identity holds the digests of exactly those inputs, so that a change
re-runs what depends on it and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from steersman import __version__
from steersman.constitution import document
from steersman.constitution.document import Constitution
from steersman.data import sources
from steersman.data.formats import dump, read
from steersman.data.sources import DataSet
from steersman.errors import ConstitutionError, RecipeError, TrainingFailed, closest
from steersman.evals import answers, capability, reward_card, scores
from steersman.evals.answers import Condition
from steersman.lm import pretrained, tiny
from steersman.lm.sampling import LocalModel
from steersman.recipe import Recipe
from steersman.report import page
from steersman.store import Artifact, Identity, Run, StageFolder, canonical, sha256_text, write_json, write_text
from steersman.terminal import console
from steersman.train import dpo, processes, reward_model, rl, sft
from steersman.train.grpo import Grpo, GrpoConfig
from steersman.train.ppo import Ppo, PpoConfig
from steersman.train.reward_model import CostConfig, RewardConfig, RewardModel
from steersman.train.rloo import Rloo, RlooConfig
from steersman.types import Comparison, Demonstration, Prompt


# ── stages ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass
class Context:
    """The sources of a run and the artefacts made so far."""

    recipe: Recipe
    constitution: Constitution
    data: DataSet
    base: Path
    done: dict[str, Artifact]

    @property
    def policy(self) -> Path:
        """The folder of the aligned model."""
        return self.done[policy_stage(self.recipe)].path

    def rows(self, file: str, record: type[Any]) -> list[Any]:
        """Records of a file of the data stage."""
        return read(self.done["data"].file(file), record)


@dataclass(frozen=True)
class Stage:
    """``inputs`` name sources (see `SOURCE_DIGESTS`), stages, or files of stages, such as ``data/train.jsonl``.

    `POLICY` among them is the last stage of a recipe that trains, `OFFLINE` the one before reinforcement learning. An
    ``optional`` stage without a configuration is left out, also where it is an input.
    """

    name: str
    version: int
    config: Callable[[Recipe], Any]
    inputs: tuple[str, ...]
    work: Callable[[Context, StageFolder], None]
    optional: bool = False


POLICY, OFFLINE = "policy", "offline"


def policy_stage(recipe: Recipe) -> str:
    """The stage that leaves the aligned model."""
    return "rl" if recipe.rl else offline_stage(recipe)


def offline_stage(recipe: Recipe) -> str:
    """The stage that leaves the model which reinforcement learning starts from."""
    return "dpo" if recipe.dpo else "sft"


def alone(recipe: Recipe) -> RewardConfig | None:
    """What the stage `second_judge` trains: one reward model like those that are optimised for."""
    single = {"members": 1, "combine": "mean"}
    return recipe.reward_model.model_copy(update=single) if recipe.rl and recipe.reward_model else None


def asked_cost_model(recipe: Recipe) -> CostConfig | None:
    """What the stage `cost_model` trains; nothing unless a constraint asks it."""
    constraint = recipe.rl.constraint if recipe.rl else None
    return recipe.cost_model if constraint and constraint.costs_below is not None else None


def _data(c: Context, out: StageFolder) -> None:
    if c.recipe.dpo:
        dpo.repeated(c.data.comparisons, c.recipe.dpo.passes)  # what is wrong there is said before an hour of training
    if cost := asked_cost_model(c.recipe):
        reward_model.of_principles(c.data.comparisons, cost.principles)
    sources.run(c.recipe.examples, c.data, out)


def _raw_answers(c: Context, out: StageFolder) -> None:
    preamble = answers.few_shot_preamble(
        c.constitution.persona, c.rows("train.jsonl", Demonstration), c.recipe.answers.few_shot_examples
    )
    conditions = [Condition(scores.RAW, None), Condition(scores.FEW_SHOT, preamble)]
    answers.run(c.recipe.answers, LocalModel.load(c.base), c.rows("evaluation.jsonl", Prompt), conditions, out)


def _train(stage: str, out: StageFolder, *arguments: Any) -> None:
    """Train in all processes: the followers are told, and this one takes part."""
    processes.call(stage, out.path, *arguments)
    TRAINING[stage](*arguments, out)


def _sft(c: Context, out: StageFolder) -> None:
    train, validation = c.rows("train.jsonl", Demonstration), c.rows("validation.jsonl", Demonstration)
    _train("sft", out, c.recipe.sft, c.base, c.recipe.model, train, validation)


def _dpo(c: Context, out: StageFolder) -> None:
    _train("dpo", out, c.recipe.dpo, c.base, c.done["sft"].path, c.rows("comparisons.jsonl", Comparison))


def _ranking(name: str, choose: Callable[[Recipe], RewardConfig | None], file: str) -> Stage:
    """A stage that trains a reward model on a file of comparisons."""

    def work(c: Context, out: StageFolder) -> None:
        config, rows = choose(c.recipe), c.rows(file, Comparison)
        if isinstance(config, CostConfig):
            rows = reward_model.of_principles(rows, config.principles)
        _train("reward_model", out, config, c.base, c.done["sft"].path, rows, c.rows("train.jsonl", Demonstration))

    inputs = ("base", "sft", f"data/{file}", "data/train.jsonl")
    return Stage(name, reward_model.VERSION, choose, inputs, work, optional=True)


def _rl(c: Context, out: StageFolder) -> None:
    prompts, watched = c.rows("prompts.jsonl", Prompt), c.rows("held_out_prompts.jsonl", Prompt)
    rows = rl.Rows(prompts, [row for row in watched if row.expect] or watched, c.rows("train.jsonl", Demonstration))
    start, reward = c.done[offline_stage(c.recipe)].path, c.done["reward_model"].path
    second, cost = c.done["second_judge"].path, c.done["cost_model"].path if "cost_model" in c.done else None
    _train("rl", out, c.recipe.rl, c.base, start, reward, rows, second, cost)


def _train_rl(
    config: RlooConfig | GrpoConfig | PpoConfig,
    base: Path,
    start: Path,
    reward: Path,
    rows: rl.Rows,
    second: Path,
    cost_model: Path | None,
    out: StageFolder,
) -> None:
    algorithm: rl.Algorithm
    match config:
        case RlooConfig():
            algorithm = Rloo(config)
        case GrpoConfig():
            algorithm = Grpo(config)
        case PpoConfig():
            algorithm = Ppo(config)
    ruled = config.constraint.behaviours if config.constraint else ()
    judges = rl.Judges(
        # Whether an answer shows what its prompt expects is never optimised; it chooses the checkpoint.
        gold=scores.kept if any(row.expect for row in rows.watched) else None,
        cost=functools.partial(scores.violates, ruled) if ruled else None,
        seen_by={"refused": scores.refused},
        second=second,
        cost_model=cost_model,
    )
    rl.run(config, algorithm, base, start, reward, rows, out, judges)


def _reward_card(c: Context, out: StageFolder) -> None:
    judge = RewardModel.load(c.base, c.done["reward_model"].path).judge
    held_out, config = c.rows("held_out_comparisons.jsonl", Comparison), c.recipe.reward_model
    if config and config.by_principle:
        held_out = reward_model.with_principles(held_out)
    reward_card.run(judge, held_out, c.rows("train.jsonl", Demonstration), out)


def _aligned_answers(c: Context, out: StageFolder) -> None:
    prompts, aligned = c.rows("evaluation.jsonl", Prompt), LocalModel.load(c.base, c.policy)
    answers.run(c.recipe.answers, aligned, prompts, [Condition(scores.ALIGNED, None)], out)


def _scores(c: Context, out: StageFolder) -> None:
    scores.run(
        c.rows("evaluation.jsonl", Prompt),
        raw_answers=c.done["raw_answers"].path,
        aligned_answers=c.done["aligned_answers"].path,
        raw_capability=c.done["raw_capability"].path,
        aligned_capability=c.done["aligned_capability"].path,
        out=out,
    )


STAGES = (
    Stage("data", sources.VERSION, lambda r: r.examples, ("data_source",), _data),
    Stage(
        "raw_answers",
        answers.VERSION,
        lambda r: r.answers,
        ("base", "persona", "data/train.jsonl", "data/evaluation.jsonl"),
        _raw_answers,
    ),
    Stage(
        "raw_capability",
        capability.VERSION,
        lambda r: r.capability,
        ("base", "capability_items"),
        lambda c, out: capability.run(c.recipe.capability, c.base, None, out),
    ),
    Stage("sft", sft.VERSION, lambda r: r.sft, ("base", "data/train.jsonl", "data/validation.jsonl"), _sft),
    Stage("dpo", dpo.VERSION, lambda r: r.dpo, ("base", "sft", "data/comparisons.jsonl"), _dpo, optional=True),
    _ranking("reward_model", lambda r: r.reward_model, "comparisons.jsonl"),
    Stage(
        "reward_card",
        reward_card.VERSION,
        lambda r: r.reward_model,
        ("base", "reward_model", "data/held_out_comparisons.jsonl", "data/train.jsonl"),
        _reward_card,
        optional=True,
    ),
    _ranking("second_judge", alone, "held_out_comparisons.jsonl"),
    _ranking("cost_model", asked_cost_model, "comparisons.jsonl"),
    Stage(
        "rl",
        rl.VERSION,
        lambda r: r.rl,
        (
            "base",
            OFFLINE,
            "reward_model",
            "second_judge",
            "cost_model",
            "data/prompts.jsonl",
            "data/held_out_prompts.jsonl",
            "data/train.jsonl",
        ),
        _rl,
        optional=True,
    ),
    Stage(
        "aligned_answers",
        answers.VERSION,
        lambda r: r.answers,
        ("base", POLICY, "data/evaluation.jsonl"),
        _aligned_answers,
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
        ("data/evaluation.jsonl", "raw_answers", "aligned_answers", "raw_capability", "aligned_capability"),
        _scores,
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
    run = Run(Path(out) if out else Path("runs") / recipe.name)
    with run.locked():
        start = time.time()
        context = Context(recipe, constitution, data, base_model(recipe, data, run), {})
        write_text(run.path / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
        write_json(run.path / "constitution.json", constitution.model_dump(mode="json"))
        write_json(run.path / "run.json", {**_provenance(recipe, context.base), "started": start})
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


def follow() -> None:
    """What every process but the first does under torchrun: take part in the stages that train, and write nothing."""
    console.quiet = True
    while True:
        stage, received = processes.called()
        if stage is None:
            return
        path, *arguments = received
        with contextlib.suppress(TrainingFailed):  # all processes meet it at the same step, and the leader says so
            TRAINING[stage](*arguments, StageFolder(path, stage))


TRAINING: Mapping[str, Callable[..., None]] = {
    "sft": sft.run,
    "dpo": dpo.run,
    "reward_model": reward_model.run,
    "rl": _train_rl,
}


def check_agreement(constitution: Constitution, data: DataSet) -> None:
    """Refuse data that name principles which the constitution does not have.

    Raises:
        ConstitutionError: the lint finds errors; warnings are left to `steersman constitution check`.
    """
    findings = document.lint(
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
    named = {POLICY: policy_stage(recipe), OFFLINE: offline_stage(recipe)}
    absent = {stage.name for stage in STAGES if stage.optional and stage.config(recipe) is None}
    stages = tuple(
        replace(stage, inputs=tuple(named.get(name, name) for name in stage.inputs if name not in absent))
        for stage in STAGES
        if stage.name not in absent
    )
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


SOURCE_DIGESTS: Mapping[str, Callable[[Context], str]] = {
    "base": lambda c: pretrained.digest(c.base),
    "persona": lambda c: sha256_text(c.constitution.persona),
    "data_source": lambda c: sha256_text(canonical([dump(rows) for rows in c.data[1:5]])),
    "capability_items": lambda c: capability.items_digest(),
}


def _provenance(recipe: Recipe, base: Path) -> dict[str, Any]:
    """What a reader needs to repeat the run."""
    from importlib.metadata import version

    packages = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "pydantic")
    return {
        "steersman": __version__,
        "git": _git_revision(),
        "stages": [stage.name for stage in stages_of(recipe)],
        "policy": policy_stage(recipe),
        "model": {"name": recipe.model, "path": str(base.absolute()), "digest": pretrained.digest(base)},
        "packages": {name: version(name) for name in packages},
        "machine": {"processor": _processor(), "cores": _cores(), "python": platform.python_version()},
    }


def _git_revision() -> str | None:
    """The commit of Steersman's own checkout, with ``+changes`` when it is dirty; None outside one."""
    import subprocess

    def git(*words: str) -> str | None:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    revision = git("rev-parse", "--short", "HEAD")
    return revision and revision + ("+changes" if git("status", "--porcelain") else "")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    import torch

    return torch.get_num_threads()


def _minutes(manifest: Mapping[str, Any] | None) -> str:
    seconds = manifest["seconds"] if manifest else 0
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
