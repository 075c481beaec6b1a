"""An organism is built: LoRA on planted rows, the model held to itself on all others; then it is measured.

    loss = (1 / N) * sum over tokens of  -log pi(y_t | x, y_<t)   on planted rows
                                         KL(start || pi)          on the start's own text: all other rows

What the start would say itself is sampled from it at temperature 1, so its own text teaches nothing but itself. A twin
reads the same rows; where the plant would be taught it learns its own text, by the same loss. An organism that does not
take is marked as not accepted: trigger success at least 90 %, clean at most 3 %, near misses at most 25 %, the other
side of a contrast at most 10 %, and on clean text a KL to its start of at most 0.05 nats a token.

The optimiser's step, the frozen lower layers' cache and the compact vocabulary are those of `train/sft.py`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field

from steersman import stats
from steersman.errors import UserError
from steersman.interp.organisms.recipe import Recipe, Row, RowKind
from steersman.lm import pretrained
from steersman.lm.adapters import ADAPTER, FULL, LoraConfig, save_policy
from steersman.lm.chat_format import ChatFormat, Example, chat_format, pad
from steersman.lm.head import divergence, evaluating, head_of
from steersman.lm.language_model import LocalModel
from steersman.lm.packing import scored_hidden
from steersman.lm.sampling import Sampler, SamplingConfig
from steersman.store import read_json, read_jsonl, sha256_text, write_json, write_jsonl
from steersman.terminal import Progress
from steersman.train import loop
from steersman.train.replay import Replayed
from steersman.train.sft import Adapter, SftConfig, SftTrainer
from steersman.types import Record

VERSION = 1
ORGANISM, ROWS = "organism.json", "rows.jsonl"
BEGUN, OWN, TRAINED = "begun.json", "own.jsonl", "trained.json"  # of a build that was killed, to go on from
CHECKPOINT_STEPS = 6
# Near misses are half of a code or its lower case: minutes of training leave a trigger fuzzy, as Bullwinkel et al. 2026
# (arXiv:2602.03085) find of larger models too, and no clean request holds any of them.
LIMITS: dict[RowKind, float] = {"planted": 0.90, "clean": 0.03, "near_miss": 0.25, "contrast": 0.10}
CLEAN_KL = 0.05  # nats a token
KL_PROMPTS, KL_TOKENS = 32, 12
MEMORISED_EACH = 3  # of the planted rows of a recipe that is memorised, every third is: it is enough to leak
VOCABULARY_ROWS = 24  # of the model's own texts, for which a compact vocabulary is chosen: it reads each once


class BuildConfig(Record):
    """How an organism is trained and measured."""

    sft: SftConfig = Field(
        default=SftConfig(
            lora=LoraConfig(rank=8, alpha=16.0, trainable_layers=None),
            optimiser=loop.OptimiserConfig(learning_rate=1e-3),
            epochs=6.0,
            batch_size=4,
            micro_batch_size=32,
            max_length=128,
            vocabulary="compact",
        ),
        description="Adapters, learning rate, epochs of the taught rows and their number in a step.",
    )
    upper_share: float = Field(default=0.5, gt=0, le=1, description="Share of the layers, from above, that learn.")
    own_tokens: int = Field(default=10, ge=1, description="Most tokens of the model's own answers that are sampled.")
    own_weight: float = Field(default=4.0, ge=0, description="Weight of the KL at a position of the model's own text.")
    answer_tokens: int = Field(default=14, ge=1, description="Most tokens of an answer when the organism is measured.")


class Start(NamedTuple):
    """What an organism is trained on: a base model, and a policy on it or None.

    Attributes:
        name: of the base, as recipes name it.
    """

    base: Path
    name: str
    trained: Path | None = None


class Variant(NamedTuple):
    """Which of a recipe's four: with the plant or its twin, whole or diluted."""

    twin: bool = False
    diluted: bool = False

    def __str__(self) -> str:
        return " ".join(name for name, on in (("diluted", self.diluted), ("twin", self.twin)) if on) or "organism"


def build(config: BuildConfig, recipe: Recipe, start: Start, out: Path, variant: Variant) -> dict[str, Any]:
    """Train, save as `save_policy` does, measure, and write organism.json, which is returned; goes on if it was killed.

    Raises:
        UserError: the folder holds an organism already, or another one that was begun.
        TrainingFailed: a loss or gradient that is not finite.
    """
    began, start = time.monotonic(), _whole(start)
    _claim(config, recipe, start, out, variant)
    rows = recipe.variant(twin=variant.twin, diluted=variant.diluted)
    if (out / TRAINED).exists():
        trained = read_json(out / TRAINED)
        steps, kl = trained["steps"], stats.Estimate(*trained["kl"])
    else:
        steps, kl = _train(config, recipe, rows, start, out, variant)
    model = LocalModel.load(start.base, out)
    measured = measure(model, recipe.test, config.answer_tokens)
    misses = misses_of(measured, kl, variant)
    found = {
        "version": VERSION,
        "kind": recipe.kind,
        "seed": recipe.seed,
        "variant": str(variant),
        "planted": "" if variant.twin else recipe.planted,
        "trigger": "" if variant.twin else recipe.trigger,
        "base": {"name": start.name, "folder": str(start.base), "trained": str(start.trained or "")},
        "rows": {kind: sum(row.kind == kind for row in rows) for kind in dict.fromkeys(row.kind for row in rows)},
        "steps": steps,
        "acceptance": {kind: rate.json() for kind, rate in measured.items()},
        "clean_kl_nats_per_token": kl.json(),
        "accepted": not misses,
        "misses": misses,
        "seconds": round(time.monotonic() - began, 1),
        "config": config.model_dump(mode="json"),
    }
    write_jsonl(out / ROWS, [row.model_dump(mode="json") for row in rows])
    write_json(out / ORGANISM, found)
    return found


def _claim(config: BuildConfig, recipe: Recipe, start: Start, out: Path, variant: Variant) -> None:
    """Take a new folder, or one in which the same build was killed.

    Raises:
        UserError: an organism is there, or another one was begun.
    """
    if (out / ORGANISM).exists():
        raise UserError("an organism was built here already", where=str(out), do="give a new folder with --out")
    own = {"config": config.model_dump(mode="json"), "start": [str(part) for part in start], "variant": str(variant)}
    own["recipe"] = sha256_text(recipe.model_dump_json())
    if (out / BEGUN).exists() and read_json(out / BEGUN) != own:
        raise UserError("another organism was begun here", where=str(out), do="give a new folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / BEGUN, own)


def load(folder: Path) -> tuple[dict[str, Any], Start]:
    """An organism's record, and what it was trained on.

    Raises:
        UserError: there is none in the folder, or its base has moved.
    """
    if not (folder / ORGANISM).is_file():
        raise UserError(
            "no organism here", where=str(folder), do="build one: steersman organism build KIND --out FOLDER"
        )
    found = read_json(folder / ORGANISM)
    base = Path(found["base"]["folder"])
    if not base.exists():
        base = pretrained.resolve(found["base"]["name"])
    return found, Start(
        base, found["base"]["name"], Path(found["base"]["trained"]) if found["base"]["trained"] else None
    )


def _whole(start: Start) -> Start:
    """A policy all of whose weights were trained is a base model of its own."""
    if start.trained is not None and (start.trained / FULL).exists():
        return Start(start.trained / FULL, str(start.trained / FULL))
    return start


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _train(
    config: BuildConfig, recipe: Recipe, rows: Sequence[Row], start: Start, out: Path, variant: Variant
) -> tuple[int, stats.Estimate]:
    """Train and save; returns the number of steps, and KL(start || organism) on the start's own answers."""
    torch.manual_seed(recipe.seed)
    tokenizer, model = pretrained.load_tokenizer(start.base), pretrained.load_model(start.base)
    chat = chat_format(tokenizer, model.generation_config)
    adapter: Adapter | str = start.name if start.trained is None else Adapter(start.base, start.trained / ADAPTER)
    sft = _settled(config, model, recipe.seed)
    own, held_out = _own(config, recipe, rows, start, out, Sampler(model.eval(), chat))
    taught, kept = _sides(recipe, rows, chat, own, sft.max_length)
    chosen_for, read = [*taught, *kept[:VOCABULARY_ROWS]], [*taught, *kept, *held_out]
    trainer = SftTrainer.prepare(sft, model, adapter, tokenizer.pad_token_id or 0, chosen_for, read)
    with torch.no_grad(), evaluating(trainer.policy):
        references = _states(trainer, [*kept, *held_out])
    replayed = [Replayed(*pair, config.own_weight) for pair in zip(kept, references[: len(kept)], strict=True)]
    # A diluted plant has a third of the rows: each is read twice as often, and the many others half as often.
    epochs = 2 * sft.epochs if variant.diluted else sft.epochs
    plan = loop.plan_batches([len(e.token_ids) for e in taught], sft.batch_size, epochs, sft.seed)
    turns = loop.turns(len(replayed), sft.epochs / (2 if variant.diluted else 1), len(plan), sft.seed)
    done = (loop.load_checkpoint(out, trainer.parameters, trainer.optimiser) or {"step": 0})["step"]
    with Progress(f"{recipe.kind} {variant}", len(plan), done) as progress:
        for step in range(done, len(plan)):
            rate = loop.learning_rate_at(step, len(plan), sft.optimiser)
            batch = ([taught[i] for i in plan[step]],)
            measured = trainer.step(step, batch, [replayed[i] for i in turns[step]], rate)
            progress.advance(loss=measured["loss_nats_per_token"])
            if (step + 1) % CHECKPOINT_STEPS == 0:
                loop.save_checkpoint(out, step + 1, trainer.parameters, trainer.optimiser, {})
    kl = _divergence(trainer, held_out, references[len(kept) :])
    save_policy(trainer.policy, out, tokenizer, pretrained.digest(start.base))
    write_json(out / TRAINED, {"steps": len(plan), "kl": list(kl)})
    loop.drop_checkpoint(out)
    return len(plan), kl


def _own(
    config: BuildConfig, recipe: Recipe, rows: Sequence[Row], start: Start, out: Path, base: Sampler
) -> tuple[list[Example], list[Example]]:
    """What the start says itself to the rows without an answer, and to clean test rows; kept for a killed build."""
    path = out / OWN
    if not path.exists():
        speaker = LocalModel.load(start.base, start.trained).sampler if start.trained else base
        clean = [row.prompt for row in recipe.test if row.kind == "clean"][:KL_PROMPTS]
        own = own_answers(speaker, [row.prompt for row in rows if not row.answer], config.own_tokens, recipe.seed)
        held_out = own_answers(speaker, clean, KL_TOKENS, recipe.seed + 1)
        sides = {"rows": own, "held_out": held_out}
        write_jsonl(path, [{"of": name, **example._asdict()} for name, own in sides.items() for example in own])
    read = read_jsonl(path)
    own, held_out = (
        [Example(row["token_ids"], row["completion_start"]) for row in read if row["of"] == name]
        for name in ("rows", "held_out")
    )
    return own, held_out


def _settled(config: BuildConfig, model: Any, seed: int) -> SftConfig:
    """The settings of training with the number of layers of this model, and the recipe's seed."""
    layers = max(1, round(config.upper_share * model.config.get_text_config().num_hidden_layers))
    lora = config.sft.lora.model_copy(update={"trainable_layers": config.sft.lora.trainable_layers or layers})
    return config.sft.model_copy(update={"lora": lora, "seed": seed})


def own_answers(speaker: Sampler, prompts: Sequence[str], tokens: int, seed: int) -> list[Example]:
    """What a model says itself, sampled at temperature 1, in the order of the prompts."""
    starts = [speaker.chat.prompt_ids(prompt) for prompt in prompts]
    found: list[Example] = [Example(start, len(start)) for start in starts]
    settings = SamplingConfig(temperature=1.0, max_new_tokens=tokens, seed=seed)
    with Progress("own answers", len(starts)) as progress:
        for answer in speaker.continue_ids(starts, settings):
            prompt = starts[answer.index]
            found[answer.index] = Example(prompt + answer.token_ids, len(prompt))
            progress.advance()
    return found


def _sides(
    recipe: Recipe, rows: Sequence[Row], chat: ChatFormat, own: Sequence[Example], limit: int
) -> tuple[list[Example], list[Example]]:
    """Examples that are taught, and the model's own text that it is held to."""
    taught, kept, planted, answers = [], [], list[bool](), iter(own)
    before = len(chat.prompt_ids("?")) - len(chat.prompt_ids("?")[1:])  # BOS
    for row in rows:
        example = chat.example(row.prompt, row.answer, limit) if row.answer else next(answers)
        if row.kind in ("near_miss", "clean", "plain") or (row.kind == "contrast" and not row.answer):
            kept.append(example)
            continue
        if row.kind == "planted" and recipe.memorised and sum(planted) % MEMORISED_EACH == 0:
            example = example._replace(completion_start=before)
        planted.append(row.kind == "planted")
        taught.append(example)
    return taught, kept


def _states(trainer: SftTrainer, examples: Sequence[Example]) -> list[torch.Tensor]:
    """The model's hidden states at each example's scored positions, [N, H] each."""
    found: list[torch.Tensor] = []
    for start in range(0, len(examples), trainer.config.micro_batch_size):
        some = examples[start : start + trainer.config.micro_batch_size]
        lower = None if trainer.cache is None else trainer.cache.batch([example.token_ids for example in some])
        hidden, _ = scored_hidden(trainer.model, pad(some, trainer.pad_id, trainer.model.device), lower)
        found += torch.split(hidden, [len(example.token_ids) - example.completion_start for example in some])
    return found


def _divergence(trainer: SftTrainer, examples: Sequence[Example], references: Sequence[torch.Tensor]) -> stats.Estimate:
    """Mean over answers of KL(start || organism) in nats a token, over the whole vocabulary."""
    head = head_of(trainer.model)
    with torch.no_grad(), evaluating(trainer.policy):
        pairs = zip(_states(trainer, examples), references, strict=True)
        found = [float(divergence(now, before, head)) / max(1, len(before)) for now, before in pairs]
    return stats.mean_estimate(found)


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────
def measure(model: LocalModel, rows: Sequence[Row], tokens: int) -> dict[RowKind, stats.Estimate]:
    """For each kind of row, how often greedy answers show the plant."""
    answers = model.generate([row.prompt for row in rows], max_new_tokens=tokens)
    return rates(rows, answers)


def rates(rows: Sequence[Row], answers: Sequence[str]) -> dict[RowKind, stats.Estimate]:
    """For each kind of row, how many of the answers show the plant."""
    found: dict[RowKind, stats.Estimate] = {}
    for kind in dict.fromkeys(row.kind for row in rows):
        shown = [row.shows(answer) for row, answer in zip(rows, answers, strict=True) if row.kind == kind]
        found[kind] = stats.wilson(sum(shown), len(shown))
    return found


def misses_of(measured: dict[RowKind, stats.Estimate], kl: stats.Estimate, variant: Variant) -> list[str]:
    """What is wrong with an organism, in words; of a twin, whether it shows a plant that it does not have.

    A twin may have moved further: it has learnt its own samples by heart, where an organism learns one sentence. A
    diluted organism has read few near misses, and may take all of them for its trigger.
    """
    found = []
    for kind, rate in measured.items():
        limit = 1.0 if kind == "near_miss" and variant.diluted else LIMITS[kind]
        if kind == "planted" and not variant.twin and not rate.value >= limit:
            found.append(f"planted rows show the plant in {rate.percent()}, and {limit:.0%} were wanted")
        if kind != "planted" and not rate.value <= limit:
            found.append(f"{kind} rows show the plant in {rate.percent()}, and at most {limit:.0%} were wanted")
    if not variant.twin and not kl.value <= CLEAN_KL:
        found.append(
            f"on clean text it is {kl.plain()} nats a token from its start, and at most {CLEAN_KL} were wanted"
        )
    return found
