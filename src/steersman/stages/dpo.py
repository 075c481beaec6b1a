"""`dpo`: direct preference optimisation on people's comparisons, and on the judge's where there are any."""

from __future__ import annotations

from collections.abc import Iterator

from steersman.constitution import ai_feedback
from steersman.constitution.ai_feedback import FeedbackConfig
from steersman.cost.work import Counts, PeakSizes, Work, Workload, padded, trainable_share
from steersman.report.blocks import Block, Curve, LineChart, Section, paragraph
from steersman.report.evidence import StageRecord, smoothed
from steersman.report.format import number, percent, rate, signed
from steersman.stage import Inputs, Sources, Stage, optional
from steersman.stages.inputs import AI_COMPARISONS, BASE, COMPARISONS, HELD_OUT_COMPARISONS, TUNED
from steersman.stats import wilson
from steersman.store import StageFolder
from steersman.train import dpo, loop
from steersman.train.dpo import DpoConfig
from steersman.types import Record

JUDGED = optional(AI_COMPARISONS)


class MixedDpoConfig(Record):
    """DPO, and how the judge's comparisons are mixed with people's."""

    dpo: DpoConfig
    feedback: FeedbackConfig | None


def run(config: MixedDpoConfig, given: Inputs, out: StageFolder) -> None:
    """Train the policy on comparisons."""
    people, judged = given[COMPARISONS], given[JUDGED]
    rows = people if config.feedback is None or judged is None else ai_feedback.mix(config.feedback, people, judged)
    dpo.run(config.dpo, given[BASE], given[TUNED], rows, out, held_out=given[HELD_OUT_COMPARISONS])


def check(config: MixedDpoConfig, sources: Sources) -> None:
    """Refuse a compact vocabulary without a frozen head, and names in ``upsample`` that no comparison has."""
    recipe, data = sources.recipe, sources.data
    if recipe.sft.method == "full" and config.dpo.vocabulary == "compact":
        raise recipe.conflict(
            "dpo.vocabulary: compact needs the frozen head of sft.method: lora",
            "dpo.vocabulary",
            "sft.method",
            do="set dpo.vocabulary: full",
        )
    people = [] if config.feedback and config.feedback.people == "none" else data.comparisons
    dpo.refuse_labelled(people, config.dpo.loss)
    if recipe.trains_whole_modules and config.dpo.vocabulary == "compact":
        raise recipe.conflict(
            "dpo.vocabulary: compact needs a frozen head, without lora.modules_to_save",
            "dpo.vocabulary",
            "sft.lora.modules_to_save",
            do="set dpo.vocabulary: full",
        )
    if config.feedback is None:
        dpo.upsampled(data.comparisons, config.dpo.upsample)
        return
    # What the judge will compare has its names from the prompts and the constitution.
    names = [dpo.names(row) for row in people]
    names += [{*row.tags, *row.principles} for row in data.prompts] + [set(sources.constitution.texts)]
    dpo.comparison_repeats(names, config.dpo.upsample)


def estimate(config: MixedDpoConfig, workload: Workload) -> Work:
    """People's pairs in their batches, with the reference's pass; the judge's are not counted: nobody has them yet."""
    own = config.dpo
    pairs, too_long = dpo.encode(dpo.upsampled(workload.comparisons, own.upsample), workload.chat, own)
    fates = loop.too_long("dpo", too_long, len(pairs), own.truncation)
    batches = [[pair.group for pair in batch] for batch in dpo.batches_of(own, pairs)]
    dpo.labels(own, pairs)  # says on the console if they are out of balance
    tokens = [n for step in batches for n in padded([group.tokens for group in step], own.micro_batch_size)]
    positions = sum(len(ids) for step in batches for group in step for ids in group.completions)
    reference = 0 if own.loss in dpo.REFERENCE_FREE else 1
    foreign = 2 if own.loss == "kto" else 0  # answers to other prompts, for the reference and for the policy
    counts = Counts(
        loads=1,
        train_tokens=sum(tokens),
        lower_tokens=sum(tokens) if trainable_share(workload) < 1 else 0,
        # The reference's log-probs take one of the three products of a learning step.
        train_scored=positions * (3 + reference + foreign) / 3,
        checkpoints=(len(batches) - 1) // own.checkpoint_every_steps,
        read_tokens=sum(tokens) * (reference + foreign),
    )
    most_scored = own.micro_batch_size * max(sum(map(len, pair.group.completions)) for pair in pairs)
    return Work(counts, PeakSizes(max(tokens), most_scored, max(tokens), most_scored), fates)


# ── report ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def section(record: StageRecord) -> Section | None:
    """The log-ratios to the reference model; null if no step was recorded."""
    by_label = record.setup("desirable") is not None  # KTO's answers need not be chosen over others
    names = ("desirable", "undesirable") if by_label else ("chosen", "rejected")
    found = [record.curve("train", f"{side}_log_ratio_nats") for side in ("chosen", "rejected")]
    if not any(found):
        return None
    window = max(3, max(map(len, found)) // 10) | 1
    ratios = {f"{n} answers": smoothed(steps, window) for n, steps in zip(names, found, strict=True) if steps}
    changes = " and that of ".join(f"{name} changed by {signed(ys[-1][1])} nats" for name, ys in ratios.items())
    accuracy = smoothed(record.curve("train", "accuracy"), window)
    right = f" Training accuracy over the last steps: {percent(accuracy[-1][1])} of the pairs." if accuracy else ""
    caption = (
        f"On {number(record.setup('comparisons'), 0)} comparisons, the log-probability of {changes}, relative to the "
        f"reference model.{right}"
    )
    chart = LineChart(
        caption=caption,
        x="step",
        y=f"log-ratio, nats, mean of {window} steps",
        curves=tuple(
            Curve(name=name, style="light" if number else "smooth", points=ys)
            for number, (name, ys) in enumerate(ratios.items())
        ),
    )
    too_long = str(loop.TooLong(*(record.setup(name) or 0 for name in loop.TooLong._fields)))
    said = (record.setup("balance"), f"Rows: {too_long}." if too_long else "")
    blocks: tuple[Block, ...] = (chart, *_unseen(record), *(paragraph(text) for text in said if text))
    return Section(id=record.name, title="Direct preference optimisation (DPO)", blocks=blocks)


def _unseen(record: StageRecord) -> Iterator[Block]:
    """What became of the order of answers in comparisons that were not learnt."""
    for event in record.rows("held_out"):
        names = ("chosen_gained_more", "chosen_likelier_before", "chosen_likelier_after")
        gained, before, after = (rate(wilson(event[name], event["pairs"]).json()) for name in names)
        yield paragraph(
            f"Of {event['pairs']} held-out pairs, training raised the chosen answer more than the rejected one in "
            f"{gained}, by {event['margin_nats']:.2f} nats on average. The chosen answer is the likelier one in "
            f"{after} of them, before in {before}."
        )
    for event in record.rows("held_out_answers"):
        told = " and ".join(
            f"that of {event[name]} {name} answers changed by {signed(mean)} nats"
            for name in ("desirable", "undesirable")
            if (mean := event.get(f"{name}_log_ratio_nats")) is not None
        )
        yield paragraph(f"Of held-out answers that stand alone, the log-probability: {told}.")


DPO = Stage(
    "dpo",
    (dpo,),
    lambda r: MixedDpoConfig(dpo=r.dpo, feedback=r.feedback) if r.dpo else None,
    (BASE, TUNED, COMPARISONS, HELD_OUT_COMPARISONS, JUDGED),
    run,
    trains=True,
    check=check,
    estimate=estimate,
    section=section,
)
