"""`sft` and `cai_sft`: supervised fine-tuning on demonstrations, and on revisions."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch

from steersman.cost.work import (
    ANSWER_SHARE,
    Counts,
    PeakSizes,
    Work,
    Workload,
    assumed_lengths,
    packed,
    padded,
    schedule,
    scored,
    total,
)
from steersman.data.sources import spread
from steersman.evals.conditions import FEW_SHOT
from steersman.evals.detectors.behaviours import detect
from steersman.lm.chat_format import Example
from steersman.lm.frozen_trunk import whole_texts
from steersman.lm.sampling import common_prefix
from steersman.recipe import Recipe
from steersman.report.blocks import Block, Cell, Curve, Details, LineChart, Number, Section, Table, paragraph
from steersman.report.evidence import Points, StageRecord, smoothed
from steersman.report.format import number
from steersman.stage import Inputs, Sources, Stage
from steersman.stages.inputs import BASE, MODEL_NAME, REVISIONS, TEACHERS_PERSONA, TRAIN, VALIDATION
from steersman.stages.inputs import SFT as TUNED
from steersman.store import StageFolder
from steersman.train import distillation, loop, sft
from steersman.train.distillation import Teacher
from steersman.train.replay import SENTENCE_STARTS, Replayed, by_weight
from steersman.train.sft import RevisedSftConfig, SftConfig

REPLAY_BATCH = 128  # rows that `train.replay` samples at once
KEPT_SHARE = 0.3  # of revisions, assumed


def run(config: SftConfig, given: Inputs, out: StageFolder) -> None:
    """Fine-tune the base model on demonstrations."""
    if not config.epochs:
        sft.leave_untrained(config, given[BASE], given[MODEL_NAME], out)
        return
    persona = given[TEACHERS_PERSONA]
    teacher = None if persona is None else Teacher(persona, functools.partial(detect, "refuses"))
    sft.run(config, given[BASE], given[MODEL_NAME], given[TRAIN], given[VALIDATION], out, teacher=teacher)


def run_on_revisions(config: RevisedSftConfig, given: Inputs, out: StageFolder) -> None:
    """Fine-tune the policy (or the base model) on revisions and demonstrations."""
    rows = config.rows(given[REVISIONS], given[TRAIN])
    start = None if config.from_base else given[TUNED]
    sft.run(config, given[BASE], given[MODEL_NAME], rows, given[VALIDATION], out, start=start)


def check(config: SftConfig, sources: Sources) -> None:
    """Refuse prefixes that no row has, and full fine-tuning in another precision than float32 or on 4-bit weights."""
    if not config.epochs:
        return
    if not sources.data.demonstrations:
        raise sources.recipe.conflict(
            f"{sources.recipe.data} has no demonstrations to train on",
            "sft",
            do="set sft: null",
        )
    sft.prefix_repeats(config.prefix, sources.data.demonstrations)
    if config.distillation.prompts:
        distillation.answerable(sources.data.demonstrations)
    _check_precision("sft", config, sources.recipe)


def _check_precision(name: str, config: SftConfig, recipe: Recipe) -> None:
    """Full fine-tuning needs weights that can learn."""
    for key, wanted in (("dtype", "float32"), ("weights", "full")):
        found = getattr(recipe.hardware, key)
        if config.method == "full" and found != wanted:
            raise recipe.conflict(
                f"hardware.{key}: {found} is for frozen weights ({name}.method: lora); full fine-tuning needs {wanted}",
                f"hardware.{key}",
                f"{name}.method",
                do=f"set {name}.method: lora, or hardware.{key}: {wanted}",
            )


def check_revisions(config: RevisedSftConfig, sources: Sources) -> None:
    """Refuse to continue an adapter that is not there, and what `check` refuses of full fine-tuning."""
    recipe = sources.recipe
    _check_precision("cai_sft", config, recipe)
    if "full" in (config.method, recipe.sft.method) and not config.from_base:
        raise recipe.conflict(
            "cai_sft continues the LoRA adapter of sft.method: lora",
            "cai_sft.method",
            "sft.method",
            do="set cai_sft.from_base: true",
        )


# ── estimates ────────────────────────────────────────────────────────────────────────────────────────────────────────
def estimate(config: SftConfig, workload: Workload) -> Work:
    """Whole rows, prefixes and replayed rows in their batches; validation; what the frozen layers read once."""
    if not config.epochs:
        return Work(Counts(loads=1), PeakSizes())
    whole, held_out = workload.train_examples, workload.validation_examples
    fates = loop.too_long("sft", workload.train_encoded.too_long, len(whole), config.truncation)
    replayed, sampled = _replay(config, workload)
    distilled, few_shot = _distillation(config, workload)
    prefixes = sft.prefixes(config.prefix, workload.train_encoded.rows, whole)
    lengths = [len(e.token_ids) for e in whole]
    plan = loop.plan_batches(lengths, config.batch_size, config.epochs, config.seed, config.max_steps)
    texts = [Replayed(e, torch.empty(0), config.replay.weight) for e in replayed]
    texts += [Replayed(e, torch.empty(0), config.distillation.weight) for e in distilled]
    turned = [loop.turns(len(extra), config.epochs, len(plan), config.seed) for extra in (prefixes, texts)]
    steps = [[whole[i] for i in step] for step in plan] + [[prefixes[i] for i in turn] for turn in turned[0]]
    steps = [sorted(step, key=lambda e: len(e.token_ids)) for step in steps]
    steps += [[row.example for row in kind] for turn in turned[1] for kind in by_weight([texts[i] for i in turn])]
    tokens = [n for step in steps for n in _read(config, step)]
    read = _read(config, held_out)
    validations = math.ceil(len(plan) / config.eval_every_steps) + 1 if held_out else 0
    compact = config.vocabulary == "compact"
    every = [*whole, *prefixes, *replayed, *distilled, *held_out]
    probe = every[:: max(1, len(every) // 32)] if compact else []  # the positions that choose the vocabulary
    kept = [*(whole[i] for i in {i for step in plan for i in step}), *prefixes, *replayed, *distilled, *held_out]
    lower_tokens, lower_mb = _frozen_layers(config, workload, kept, sum(tokens))
    sampled = total(sampled, few_shot.counts)
    counts = sampled._replace(
        loads=1,
        train_tokens=sum(tokens),
        lower_tokens=lower_tokens,
        train_scored=sum(scored(*step) for step in steps),
        checkpoints=(len(plan) - 1) // config.checkpoint_every_steps,
        read_tokens=sampled.read_tokens
        + validations * sum(read)
        + sum(len(e.token_ids) for e in (*probe, *replayed)),  # replayed: the base model's own hidden states
        # compact: the first and the last validation look outside the vocabulary as well
        scored_tokens=(validations + 2 * compact) * scored(*held_out) + scored(*probe),
    )
    most_scored = config.micro_batch_size * max(scored(e) for e in every)
    most_read = max(*read, few_shot.peak.read_tokens, 0)
    cached = few_shot.peak.cached_tokens
    return Work(counts, PeakSizes(max(tokens), most_scored, most_read, most_scored, cached, lower_mb), fates)


def _read(config: SftConfig, rows: Sequence[Example]) -> list[int]:
    """Tokens of each pass over the rows, padding included."""
    lengths = [len(row.token_ids) for row in rows]
    if config.packing:
        return packed(lengths, config.micro_batch_size, config.max_length)
    return padded(lengths, config.micro_batch_size)


def _frozen_layers(
    config: SftConfig, workload: Workload, every: Sequence[Example], train_tokens: int
) -> tuple[int, int]:
    """Tokens that the frozen lower layers read, and memory for what is kept of them; none without such layers."""
    shape = workload.config.get_text_config()
    upper = config.lora.trainable_layers or shape.num_hidden_layers
    if config.method == "full" or upper >= shape.num_hidden_layers:
        return 0, 0
    once = sum(map(len, whole_texts([example.token_ids for example in every])))
    needed, budget = 4 * shape.hidden_size * once, config.trunk_cache_mb * 2**20
    if needed <= budget:
        return once, needed // 2**20
    again = train_tokens * (needed - budget) // needed
    return again + once * budget // needed, config.trunk_cache_mb


def _replay(config: SftConfig, workload: Workload) -> tuple[list[Example], Counts]:
    """Rows of the length that the base model's own text will have, and the work of sampling it."""
    replay, tokenizer = config.replay, workload.chat.tokenizer
    bos = 0 if tokenizer.bos_token_id is None else 1
    starts = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in SENTENCE_STARTS]
    prompts = [bos + starts[i % len(starts)] for i in range(replay.rows)]
    counts, _ = schedule(sorted(prompts), [replay.tokens] * replay.rows, 0, REPLAY_BATCH)
    return [Example([0] * (length + replay.tokens), length) for length in prompts], counts


def _distillation(config: SftConfig, workload: Workload) -> tuple[list[Example], Work]:
    """Rows as long as the teacher's answers may be, none of them dropped; the work of writing and of reading these."""
    few_shot, chat = config.distillation, workload.chat
    if not few_shot.prompts:
        return [], Work(Counts(), PeakSizes())
    prompts = [row.prompt for row in spread(distillation.answerable(workload.train), few_shot.prompts)]
    preamble = distillation.teachers_prompt(workload.constitution.persona, workload.train, few_shot.examples)
    bare, behind = ([chat.prompt_ids(prompt, before) for prompt in prompts] for before in (None, preamble))
    before = len(common_prefix(behind))
    asked = sorted(range(len(prompts)), key=lambda i: len(behind[i]))
    lengths = assumed_lengths(ANSWER_SHARE[FEW_SHOT] * few_shot.tokens, few_shot.tokens, len(asked))
    own = [len(behind[i]) - before for i in asked]
    counts, cached = schedule(own, lengths, before, distillation.SAMPLED_AT_ONCE)
    length_of = dict(zip(asked, lengths, strict=True))
    examples, taught = (
        [Example(ids + [0] * length_of[i], len(ids)) for i, ids in enumerate(starts)] for starts in (bare, behind)
    )
    shared = len(distillation.shared_beginning(taught))
    read = padded(sorted(len(e.token_ids) - shared for e in taught), distillation.TEACHER_BATCH)
    counts = counts._replace(read_tokens=counts.read_tokens + shared + sum(read))
    return examples, Work(counts, PeakSizes(read_tokens=max(read), cached_tokens=cached))


def estimate_on_revisions(config: RevisedSftConfig, workload: Workload) -> Work:
    """Rows of the mean length of demonstrations."""
    examples, revisions = workload.train_examples, workload.recipe.revisions
    kept = KEPT_SHARE * len(spread(workload.prompts, revisions.prompts if revisions else None))
    rows = max(1.0, kept * (1 + config.demonstrations_per_revision)) * config.epochs
    mean = sum(len(e.token_ids) for e in examples) / len(examples)
    completion = scored(*examples) / len(examples)
    steps = math.ceil(rows / config.batch_size)
    validated = sum(len(e.token_ids) for e in workload.validation_examples)
    counts = Counts(
        loads=1,
        train_tokens=rows * mean,
        lower_tokens=rows * mean,
        train_scored=rows * completion,
        checkpoints=(steps - 1) // config.checkpoint_every_steps,
        read_tokens=(math.ceil(steps / config.eval_every_steps) + 1) * validated,
    )
    widest = config.micro_batch_size * max(len(e.token_ids) for e in examples)
    return Work(counts, PeakSizes(widest, round(config.micro_batch_size * completion), widest))


# ── report ───────────────────────────────────────────────────────────────────────────────────────────────────────────
LOSS, OUTSIDE = "loss_nats_per_token", "mass_outside_exact_rows"


def section(record: StageRecord) -> Section | None:
    """Training and validation loss by step; null where the recipe starts from the model itself."""
    if not record.recipe.get("sft", {}).get("epochs", 1):
        return None
    loss, validation, outside = (
        record.curve(*column) for column in (("train", LOSS), ("validation", LOSS), ("validation", OUTSIDE))
    )
    blocks: list[Block] = []
    if loss:
        blocks += [_losses(loss, validation), paragraph(_amount(record))]
    else:
        blocks.append(paragraph("This run recorded no steps of supervised fine-tuning."))
    if outside:
        caption = (
            f"Probability outside the vocabulary rows that are scored exactly: {100 * outside[0][1]:.2f} % before "
            f"training, {100 * outside[-1][1]:.2f} % after. Those rows are sampled in training; this must not grow."
        )
        curve = Curve(name="outside", style="marked", points=outside)
        blocks.append(LineChart(caption=caption, x="step", y="probability outside the exact rows", curves=(curve,)))
    if validation:
        columns = ("Step", "Loss, nats per token", *(["Probability outside"] if outside else []))
        rows: list[tuple[Cell, ...]] = []
        for step, value in validation:
            beside = [Number(value=dict(outside).get(step), digits=4)] if outside else []
            rows.append((int(step), Number(value=value, digits=4), *beside))
        table = Table(caption="Validation by step", columns=columns, rows=tuple(rows))
        blocks.append(Details(title="Validation loss as a table", blocks=(table,)))
    return Section(id=record.name, title="Supervised fine-tuning", blocks=tuple(blocks))


def _amount(record: StageRecord) -> str:
    tokens = record.curve("train", "tokens_seen")
    names = ("steps", "demonstrations", "truncated", "trainable_parameters")
    steps, rows, cut, parameters = (number(record.setup(name), 0) for name in names)
    left_out = record.setup("dropped")  # absent from runs of before
    return (
        f"{number(tokens[-1][1] if tokens else None, 0)} tokens in {steps} steps over {rows} demonstrations ({cut} of "
        f"them truncated at the length limit{f', {number(left_out, 0)} more left out' if left_out else ''}); "
        f"{parameters} trainable parameters."
    )


def _losses(loss: Points, validation: Points) -> LineChart:
    window = max(3, len(loss) // 15) | 1
    smooth = smoothed(loss, window)
    curves = [
        Curve(name="training, each step", style="light", points=loss),
        Curve(name=f"training, mean of {window} steps", style="smooth", points=smooth),
    ]
    verb = "fell" if smooth[-1][1] < smooth[0][1] else "went"
    caption = f"Training loss {verb} from {smooth[0][1]:.3f} to {smooth[-1][1]:.3f}"
    if validation:
        curves.append(Curve(name="validation, rows not trained on", style="marked", points=validation))
        caption += f", and validation loss from {validation[0][1]:.3f} to {validation[-1][1]:.3f}"
    caption += " (nats per token)."
    return LineChart(caption=caption, x="step", y="loss, nats per token", curves=tuple(curves))


SFT = Stage(
    "sft",
    (sft,),
    lambda r: r.sft,
    (BASE, MODEL_NAME, TEACHERS_PERSONA, TRAIN, VALIDATION),
    run,
    trains=True,
    check=check,
    estimate=estimate,
    section=section,
)
CAI_SFT = Stage(
    "cai_sft",
    (sft,),
    lambda r: r.cai_sft,
    (BASE, MODEL_NAME, TUNED, REVISIONS, TRAIN, VALIDATION),
    run_on_revisions,
    trains=True,
    check=check_revisions,
    estimate=estimate_on_revisions,
)
