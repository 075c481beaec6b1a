"""`steersman align --plan`: the stages, what is reused and why not, minutes and memory; nothing is run.

Which stages run follows from the identities that the pipeline itself compares; how long they take, from the stages' own
estimates and from what such work costs on this machine (`cost/calibration.py`). A stage whose inputs another stage has
yet to write counts as running, and one that continues counts from its beginning: the plan is an upper bound.

Nothing stays written but the remembered digest of a model's files in the cache; a temporary folder comes and goes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from steersman.cost.calibration import Calibration, calibrate
from steersman.cost.work import WordCount, Work, Workload
from steersman.data import formats
from steersman.data.sources import DataSet
from steersman.lm import pretrained, tiny
from steersman.lm.chat_format import chat_format
from steersman.lm.chat_settings import chatting
from steersman.lm.device import Hardware
from steersman.pipeline import Step, identify, prepare
from steersman.recipe import Recipe
from steersman.report.blocks import Block, Cell, Table, paragraph
from steersman.stage import Inputs, R, Sources
from steersman.stages import sources
from steersman.stages.data import DATA
from steersman.store import Artifact, Run, StageFolder, peak_memory_mb, sha256_file
from steersman.train.loop import TooLong
from steersman.types import Comparison, Demonstration, Prompt, Record

State = Literal["reused", "will run"]

BUSY = 0.5  # below this share of the processors, calibration says more about other processes
SMALL_STAGE_SECONDS = 0.5  # data and scores use no model

# The packaged model before its weights are prepared: how long that takes once, its tokenizer's time to load, its shape.
PREPARE_SECONDS = 60.0
TOKENIZER_SECONDS = 3.0
PACKAGED_SHAPE = {
    "vocab_size": 262144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
}


class StagePlan(Record):
    """One stage. ``tokens`` pass through the model; None stands for what cannot be known yet.

    ``truncated`` and ``dropped`` are the training rows longer than ``max_length``, by what becomes of them.
    """

    name: str
    state: State
    why: str
    tokens: int | None = 0
    seconds: float | None = 0.0
    peak_mb: int | None = 0
    truncated: int = 0
    dropped: int = 0


class Plan(Record):
    """``prepare`` says what happens to the weights first; ``calibration`` is None when nothing was measured.

    Only a CPU in float32 is measured.
    """

    run: str
    hardware: Hardware = Hardware()
    stages: tuple[StagePlan, ...]
    prepare: str
    prepare_seconds: float | None
    calibration: Calibration | None

    @property
    def seconds(self) -> float | None:
        """Of everything that will run, preparation included; None when a part is unknown."""
        parts = [self.prepare_seconds, *(stage.seconds for stage in self.stages)]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    @property
    def peak_mb(self) -> int | None:
        """Of the stage that needs most; None when one is unknown."""
        known = [stage.peak_mb for stage in self.stages if stage.peak_mb is not None]
        return max(known) if len(known) == len(self.stages) else None


def plan(recipe: Recipe, out: str | Path | None = None, *, until: str | None = None) -> Plan:
    """What `pipeline.align` would do with the same arguments.

    Raises:
        UserError: whatever `pipeline.align` would refuse before its first stage.
    """
    steps, given = prepare(recipe, until)
    run = Run(Path(out) if out else Path("runs") / recipe.name)
    with tempfile.TemporaryDirectory(prefix="steersman-plan-") as folder, chatting(recipe.chat):
        scratch = Path(folder)
        base = _prepared(recipe, given.data, run)
        if base is not None:
            sources.check_conversations(given, base)
        decided, rows = _decide(steps, given, run, base, scratch)
        todo = [s for s in steps if decided[s.stage.name][0] == "will run" and s.stage.estimate]
        workload = _workload(given, rows, run, base, scratch) if todo else None
        work = {s.stage.name: s.stage.estimate(s.config, workload) for s in todo if s.stage.estimate and workload}
    calibration = calibrate(workload) if workload and recipe.hardware == Hardware() else None
    prepare_weights, seconds = _preparation(recipe.model, base) if todo else ("", 0.0)
    return Plan(
        run=str(run.path),
        hardware=recipe.hardware,
        stages=tuple(_stage_plan(s, *decided[s.stage.name], work.get(s.stage.name), calibration) for s in steps),
        prepare=prepare_weights,
        prepare_seconds=seconds,
        calibration=calibration,
    )


def _stage_plan(step: Step, state: State, why: str, work: Work | None, calibration: Calibration | None) -> StagePlan:
    name = step.stage.name
    if state == "reused":
        return StagePlan(name=name, state=state, why=why)
    if step.stage.estimate is None:
        process_mb = calibration.process_mb if calibration else peak_memory_mb()
        return StagePlan(name=name, state=state, why=why, seconds=SMALL_STAGE_SECONDS, peak_mb=process_mb)
    if work is None:
        return StagePlan(name=name, state=state, why=why, tokens=None, seconds=None, peak_mb=None)
    counts = work.counts
    tokens = round(counts.train_tokens + counts.read_tokens + counts.decode_rows + counts.rollout_rows)
    seconds = peak_mb = None
    if calibration is not None:
        seconds, peak_mb = calibration.seconds(counts), calibration.peak_mb(work.peak)
    return StagePlan(
        name=name,
        state=state,
        why=why,
        tokens=tokens,
        seconds=seconds,
        peak_mb=peak_mb,
        **work.too_long._asdict(),
    )


# ── what runs ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _decide(
    steps: Sequence[Step], given: Sources, run: Run, base: Path | None, scratch: Path
) -> tuple[dict[str, tuple[State, str]], Path]:
    """State and reason of each stage, and the folder of the data stage.

    That stage takes a moment, so it is run in the scratch folder: what follows it then knows its real inputs.
    """
    decided: dict[str, tuple[State, str]] = {}
    done: dict[str, Artifact] = {}
    known: Mapping[str, sources.Source] = sources.digested(given, base)
    for step in steps:
        stage = step.stage
        needs = [name.partition("/")[0] for name in step.names.values() if name]
        missing = [name for name in needs if name in decided and name not in done]
        if "base" in needs and base is None:
            missing.append("the base model")
        if missing:
            new = missing == ["the base model"] and run.manifest(stage.name) is None
            decided[stage.name] = "will run", "new" if new else f"waits for {missing[0]}"
            continue
        identity, inputs = identify(step, known, done)
        artifact = run.finished(identity)
        decided[stage.name] = ("reused", "unchanged") if artifact else ("will run", run.why(identity))
        if artifact is None and stage.name == DATA.name:
            artifact = _in_scratch(step, inputs, scratch)
        if artifact is not None:
            done[stage.name] = artifact
    return decided, done[DATA.name].path


def _in_scratch(step: Step, inputs: Inputs, scratch: Path) -> Artifact:
    folder = scratch / step.stage.name
    folder.mkdir()
    step.stage.run(step.config, inputs, StageFolder(folder, step.stage.name))
    return Artifact(folder, {file.name: sha256_file(file) for file in folder.iterdir()})


# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _prepared(recipe: Recipe, data: DataSet, run: Run) -> Path | None:
    """The base model's folder if it is there already; None if `pipeline.align` would make, fetch or convert it."""
    if recipe.model == tiny.NAME:
        artifact = run.finished(sources.tiny_base(data)[1])
        return artifact.file("model") if artifact else None
    return pretrained.prepared(recipe.model)


def _preparation(model: str, base: Path | None) -> tuple[str, float | None]:
    """What happens to the weights before the first stage, and how long it takes (None: unknown)."""
    if base is not None or model == tiny.NAME:
        return "", 0.0
    if model == pretrained.PACKAGED:
        return "they are converted once, about a minute; until then tokens are guessed from words", PREPARE_SECONDS
    do = "converted" if model == pretrained.INSTRUCT or model.lower().endswith(".gguf") else "downloaded"
    return f"{model} is {do} first; until then its minutes and memory are unknown", None


def _workload(given: Sources, rows: Path, run: Run, base: Path | None, scratch: Path) -> Workload | None:
    """What there is to count; None when the model is unknown until it has been fetched or converted."""
    from transformers import Gemma3TextConfig

    recipe, seconds = given.recipe, TOKENIZER_SECONDS
    if base is None and recipe.model == tiny.NAME:
        base = scratch / "base"
        tiny.build(tiny.corpus(given.data.demonstrations, given.data.comparisons), base)
    if base is not None:
        start = time.perf_counter()
        tokenizer: Any = pretrained.load_tokenizer(base)
        seconds = time.perf_counter() - start
        config: Any = pretrained.configuration(base)
    elif recipe.model == pretrained.PACKAGED:
        tokenizer, config = WordCount(PACKAGED_SHAPE["vocab_size"]), Gemma3TextConfig(**PACKAGED_SHAPE)
    else:
        return None

    def read(name: str, record: type[R]) -> list[R]:
        return formats.read(rows / f"{name}.jsonl", record)

    return Workload(
        recipe=recipe,
        constitution=given.constitution,
        earlier=run,
        config=config,
        chat=chat_format(tokenizer),
        tokenizer_seconds=seconds,
        train=read("train", Demonstration),
        validation=read("validation", Demonstration),
        comparisons=read("comparisons", Comparison),
        held_out=read("held_out_comparisons", Comparison),
        prompts=read("prompts", Prompt),
        held_out_prompts=read("held_out_prompts", Prompt),
        evaluation=read("evaluation", Prompt),
        forms=read("forms", Prompt),
        development=read("development", Prompt),
    )


# ── what people read ─────────────────────────────────────────────────────────────────────────────────────────────────
def shown(planned: Plan) -> tuple[Block, ...]:
    """The plan as blocks; in a terminal it fits 80 columns."""
    rows: list[tuple[Cell, ...]] = []
    for stage in planned.stages:
        if stage.state == "reused":
            rows.append((stage.name, "reused", "", "", ""))
            continue
        why = "runs: " + stage.why.replace("changed: ", "changed\n").replace("; ", "\n")
        tokens = "" if stage.tokens == 0 else _known(stage.tokens, "{:,}".format)
        rows.append((stage.name, why, tokens, _known(stage.seconds, _duration), _known(stage.peak_mb, _megabytes)))
    columns = ("stage", "what happens", "tokens", "time", "memory")
    return (Table(caption="", columns=columns, rows=tuple(rows)), paragraph("\n".join(_notes(planned))))


def _notes(planned: Plan) -> Iterator[str]:
    to_run = sum(stage.state == "will run" for stage in planned.stages)
    if not to_run:
        yield f"Nothing to do in {planned.run}: every stage is there and unchanged."
        return
    if planned.prepare:
        yield f"Weights: {planned.prepare}."
    for stage in planned.stages:
        if too_long := str(TooLong(stage.truncated, stage.dropped)):
            yield f"{stage.name}: {too_long}."
    total, memory = _known(planned.seconds, _duration), _known(planned.peak_mb, _megabytes)
    yield f"{to_run} of {len(planned.stages)} stages will run in {planned.run}: {total}, {memory} of memory."
    if planned.hardware != Hardware():
        yield f"Minutes and memory are estimated for a CPU in float32, not for {planned.hardware}."
    if planned.calibration is not None:
        unknown = [stage.name for stage in planned.stages if stage.state == "will run" and stage.seconds is None]
        if unknown:
            yield f"Not estimated: the time that another program takes ({', '.join(unknown)})."
        share = planned.calibration.processor_share
        busy = f" The machine is busy (we got {share:.0%} of it): idle, it is faster." if share < BUSY else ""
        yield (
            f"Measured in {planned.calibration.spent_seconds:.0f} s; the lengths of answers are assumed, and a stage "
            f"that waits or continues may take less.{busy}"
        )


def _known(value: Any, show: Callable[[Any], str]) -> str:
    return "?" if value is None else show(value)


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "< 1 s"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _megabytes(mb: int) -> str:
    return f"{mb} MB" if mb < 1024 else f"{mb / 1024:.1f} GB"
