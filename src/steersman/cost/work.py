"""How much work a stage gives a model: tokens to train on, to read, to score and to write, counted from the data.

Nothing is computed but lengths. The batches are those that training, scoring and sampling would really form, so that
padding counts; only the lengths of answers not yet written are assumed.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from steersman.constitution.document import Constitution
from steersman.data import sources
from steersman.evals import answers, capability, reward_card
from steersman.evals.conditions import ALIGNED, FEW_SHOT, RAW
from steersman.lm.chat_format import ChatFormat, Example, shorten
from steersman.lm.frozen_trunk import whole_texts
from steersman.lm.shared_prefix import Group
from steersman.lm.transcript import RESUMABLE
from steersman.recipe import Recipe
from steersman.stages import alone, asked_cost_model
from steersman.store import Run, read_jsonl
from steersman.train import dpo, loop, reward_model, sft
from steersman.train.reward_model import RewardConfig
from steersman.train.rl import loop as rl
from steersman.train.rl.actor import KL_POSITIONS
from steersman.types import Comparison, Demonstration, Message, Prompt, plain_text

# Mean answer lengths, until an earlier run in the same folder shows better: a share of max_new_tokens, and of the mean
# demonstration for the aligned model (gemma-3-270m, greedy: 35 to 39 tokens after demonstrations of 48).
ANSWER_SHARE = {RAW: 1 / 3, FEW_SHOT: 1 / 2}
DEMONSTRATION_SHARE = 0.8
REPLAY_BATCH = 128  # rows that `train.sft.replay` samples at once
TOKENS_PER_WORD = 1.35  # of our data in gemma-3-270m's tokenizer, for when that is not there yet


class Amounts(NamedTuple):
    """Units of work of a stage or, as prices, the seconds that one unit takes."""

    loads: float = 0  # of tokenizer and model
    train_tokens: float = 0  # forward and backward through the layers that learn, padding included
    lower_tokens: float = 0  # forward through the frozen layers below them
    train_scored: float = 0  # positions through the head, with gradients
    checkpoints: float = 0
    read_tokens: float = 0  # forward through all layers, padding included
    scored_tokens: float = 0  # positions through the head, without gradients
    decode_steps: float = 0  # one token for each row of a batch
    decode_rows: float = 0  # tokens written
    decode_cached: float = 0  # cached tokens attended to, summed over rows and steps
    rollout_steps: float = 0  # as decode_steps, drawn at temperature 1 from the vocabulary of reinforcement learning
    rollout_rows: float = 0


class Largest(NamedTuple):
    """The sizes that decide how much memory a stage needs, in tokens (or positions) held at once."""

    train_tokens: int = 0
    train_scored: int = 0
    read_tokens: int = 0
    scored: int = 0
    cached_tokens: int = 0
    lower_mb: int = 0  # activations below the layers that learn


class Work(NamedTuple):
    """What a stage does to a model."""

    amounts: Amounts
    largest: Largest


class WordCount:
    """Stands in for a tokenizer that is not there yet: as many ids as the words suggest, equal words the same."""

    bos_token_id, eos_token_id, pad_token_id, chat_template = 2, 1, 0, None

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        """The ids of a text, as a tokenizer gives them."""
        ids = [zlib.crc32(word.encode()) % self.vocabulary for word in text.split()]
        return {"input_ids": (ids * 2)[: round(len(ids) * TOKENS_PER_WORD)]}


@dataclass(frozen=True)
class Subject:
    """A model's shape and tokenizer, and the rows that it will meet."""

    recipe: Recipe
    constitution: Constitution
    earlier: Run  # a former run in the same folder knows how long answers are
    config: Any  # the model's, of `transformers`
    chat: ChatFormat
    tokenizer_seconds: float
    train: Sequence[Demonstration]
    validation: Sequence[Demonstration]
    comparisons: Sequence[Comparison]
    held_out: Sequence[Comparison]
    prompts: Sequence[Prompt]
    held_out_prompts: Sequence[Prompt]
    evaluation: Sequence[Prompt]

    @functools.cached_property
    def train_examples(self) -> list[Example]:
        """Training rows, tokenised."""
        return sft.encode(self.train, self.chat, self.recipe.sft.max_length)[0]

    @functools.cached_property
    def validation_examples(self) -> list[Example]:
        """Validation rows, tokenised."""
        return sft.encode(self.validation, self.chat, self.recipe.sft.max_length)[0] if self.validation else []

    def answer_tokens(self, stage: str, condition: str) -> float:
        """Expected mean length of an answer."""
        limit = self.recipe.answers.sampling.max_new_tokens
        manifest = self.earlier.manifest(stage)
        rows = read_jsonl(self.earlier.path / stage / answers.ANSWERS) if manifest else []
        seen = [row["tokens"] for row in rows if row["condition"] == condition]
        if manifest and seen:
            return float(limit * sum(seen) / len(seen) / manifest["config"]["sampling"]["max_new_tokens"])
        if condition in ANSWER_SHARE:
            return limit * ANSWER_SHARE[condition]
        return self.like_demonstrations(limit)

    def like_demonstrations(self, limit: int) -> float:
        """Expected mean length of a fine-tuned model's answers of at most ``limit`` tokens."""
        lengths = [min(limit, scored(e)) for e in self.train_examples]
        return DEMONSTRATION_SHARE * sum(lengths) / len(lengths)


def scored(*examples: Example) -> int:
    """Positions that carry loss."""
    return sum(len(e.token_ids) - e.completion_start for e in examples)


def _padded(lengths: Sequence[int], size: int) -> list[int]:
    """Tokens of each batch of ``size`` rows, padding included."""
    batches = [lengths[i : i + size] for i in range(0, len(lengths), size)]
    return [len(batch) * max(batch) for batch in batches]


def added(*amounts: Amounts) -> Amounts:
    """The sum of several."""
    return Amounts(*map(sum, zip(*amounts, strict=True)))


# ── stages ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def _sft(s: Subject) -> Work:
    config, held_out = s.recipe.sft, s.validation_examples
    replayed, sampled = _replay(s)
    opened = sft.openings(config.opening, s.train, s.train_examples)
    whole = s.train_examples
    lengths = [len(e.token_ids) for e in whole]
    plan = loop.plan_batches(lengths, config.batch_size, config.epochs, config.seed)
    steps = [[whole[i] for i in step] for step in plan]
    for extra in (opened, replayed):
        turns = loop.turns(len(extra), config.epochs, len(plan), config.seed)
        steps += [[extra[i] for i in turn] for turn in turns if turn]
    tokens = [n for step in steps for n in _padded(sorted(len(e.token_ids) for e in step), config.micro_batch_size)]
    read = _padded([len(e.token_ids) for e in held_out], config.micro_batch_size)
    validations = math.ceil(len(plan) / config.eval_every_steps) + 1 if held_out else 0
    compact = config.vocabulary == "compact"
    every = [*whole, *opened, *replayed, *held_out]
    probe = every[:: max(1, len(every) // 32)] if compact else []  # the positions that choose the vocabulary
    lower_tokens, lower_mb = _lower(s, every, sum(tokens))
    amounts = sampled._replace(
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
    return Work(amounts, Largest(max(tokens), most_scored, max(read, default=0), most_scored, lower_mb=lower_mb))


def _dpo(s: Subject) -> Work:
    config = s.recipe.dpo
    assert config is not None  # or `stages_of` leaves the stage out
    compared, _ = dpo.pairs(dpo.repeated(s.comparisons, config.passes), s.chat, config)
    groups = [pair.group for pair in compared]
    lengths = [g.tokens for g in groups]
    plan = loop.plan_batches(lengths, config.batch_size, config.epochs, config.seed)
    tokens = [n for step in plan for n in _padded([lengths[i] for i in step], config.micro_batch_size)]
    positions = sum(len(ids) for step in plan for i in step for ids in groups[i].completions)
    frozen = _has_frozen_layers(s)
    foreign = 2 if config.loss == "kto" else 0  # answers to other prompts, for the reference and for the policy
    amounts = Amounts(
        loads=1,
        train_tokens=sum(tokens),
        lower_tokens=sum(tokens) if frozen else 0,
        # The reference's log-probs take one of the three products of a learning step.
        train_scored=positions * (4 + foreign) / 3,
        checkpoints=(len(plan) - 1) // config.checkpoint_every_steps,
        read_tokens=sum(tokens) * (1 + foreign),
    )
    most_scored = config.micro_batch_size * max(sum(map(len, g.completions)) for g in groups)
    return Work(amounts, Largest(max(tokens), most_scored, max(tokens), most_scored))


def _has_frozen_layers(s: Subject) -> bool:
    return _upper_share(s) < 1


def _upper_share(s: Subject) -> float:
    """Of the layers, those that adapters are in or above."""
    layers: int = s.config.get_text_config().num_hidden_layers
    upper = s.recipe.sft.lora.trainable_layers if s.recipe.sft.method == "lora" else None
    return (upper or layers) / layers


def trees(groups: Sequence[Group], size: int) -> list[int]:
    """Tokens of each batch of ``size`` rows that hold a prompt with all its answers, padding included."""
    return _padded([g.tokens for g in groups], size)


def _reward_model(s: Subject) -> Work:
    assert s.recipe.reward_model is not None
    return ranking(s, s.recipe.reward_model, s.comparisons)


def _second_judge(s: Subject) -> Work:
    config = alone(s.recipe)
    assert config is not None
    return ranking(s, config, s.held_out)


def _cost_model(s: Subject) -> Work:
    config = asked_cost_model(s.recipe)
    assert config is not None
    return ranking(s, config, s.comparisons)


def ranking(s: Subject, config: RewardConfig, comparisons: Sequence[Comparison]) -> Work:
    """A reward model on comparisons."""
    rows = config.rows(comparisons, s.constitution.texts)
    groups = [row.group for row in reward_model.ranked(rows, s.chat, config.max_length)]
    steps = loop.plan_batches([g.tokens for g in groups], config.batch_size, 1, config.seed)
    tokens = [n for step in steps for n in trees([groups[i] for i in step], config.micro_batch_size)]
    passes = config.members * config.epochs
    frozen, states = _has_frozen_layers(s), 4 * s.config.get_text_config().hidden_size * sum(tokens)
    kept_mb = min(states // 2**20, config.trunk_cache_mb) if frozen else 0
    shown = reward_model.level_rows(s.train, s.chat, config.max_length)
    amounts = Amounts(
        loads=1,
        train_tokens=passes * sum(tokens),
        lower_tokens=sum(tokens) if frozen else 0,
        checkpoints=config.members * ((len(steps) * config.epochs - 1) // config.checkpoint_every_steps),
        read_tokens=config.members * sum(trees(shown, reward_model.BATCH)),
    )
    return Work(amounts, Largest(max(tokens), read_tokens=max(tokens), lower_mb=kept_mb))


def _reward_card(s: Subject) -> Work:
    config = s.recipe.reward_model
    assert config is not None
    asked = [(row.prompt, row.options) for row in s.held_out if row.pairs()]
    asked += [(row.prompt, (row.completion, *changed.values())) for row, changed in reward_card.restyled(s.train)]
    groups = [reward_model.tokenised(prompt, answers, s.chat, config.max_length) for prompt, answers in asked]
    tokens = trees(groups, 1)  # a judge is asked about one prompt at a time
    return Work(Amounts(loads=1, read_tokens=config.members * sum(tokens)), Largest(read_tokens=max(tokens)))


def _lower(s: Subject, every: Sequence[Example], train_tokens: int) -> tuple[int, int]:
    """Tokens that the frozen lower layers read, and memory for what is kept of them; none without such layers."""
    config, shape = s.recipe.sft, s.config.get_text_config()
    upper = config.lora.trainable_layers or shape.num_hidden_layers
    if config.method == "full" or upper >= shape.num_hidden_layers:
        return 0, 0
    once = sum(map(len, whole_texts([example.token_ids for example in every])))
    needed, budget = 4 * shape.hidden_size * once, config.trunk_cache_mb * 2**20
    if needed <= budget:
        return once, needed // 2**20
    again = train_tokens * (needed - budget) // needed
    return again + once * budget // needed, config.trunk_cache_mb


def _replay(s: Subject) -> tuple[list[Example], Amounts]:
    """Rows of the length that the base model's own text will have, and the work of sampling it."""
    config, tokenizer = s.recipe.sft.replay, s.chat.tokenizer
    bos = 0 if tokenizer.bos_token_id is None else 1
    openings = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in sft.OPENINGS]
    prompts = [bos + openings[i % len(openings)] for i in range(config.rows)]
    amounts, _ = schedule(sorted(prompts), [config.tokens] * config.rows, 0, REPLAY_BATCH)
    return [Example([0] * (length + config.tokens), length) for length in prompts], amounts


def _capability(s: Subject) -> Work:
    examples = [job.example for job in capability.jobs(s.chat.tokenizer, s.recipe.capability)]
    size = s.recipe.capability.batch_size
    tokens = _padded([len(e.token_ids) for e in examples], size)
    positions = [scored(*examples[i : i + size]) for i in range(0, len(examples), size)]
    amounts = Amounts(loads=1, read_tokens=sum(tokens), scored_tokens=sum(positions))
    return Work(amounts, Largest(read_tokens=max(tokens), scored=max(positions)))


def answered(s: Subject, stage: str, conditions: Mapping[str, tuple[Message, ...] | None]) -> Work:
    """A model's answers to the evaluation prompts."""
    config = s.recipe.answers.sampling
    rows = sorted(s.evaluation, key=lambda row: len(plain_text(row.prompt)))
    prompts = [min(len(s.chat.prompt_ids(row.prompt)), config.max_prompt_tokens) for row in rows]
    total, cached = Amounts(loads=1), 0
    for name, preamble in conditions.items():
        first = rows[0].prompt
        prefix = len(s.chat.prompt_ids(first, preamble)) - len(s.chat.prompt_ids(first)) if preamble else 0
        lengths = spread(s.answer_tokens(stage, name), config.max_new_tokens, len(rows))
        for i in range(0, len(rows), RESUMABLE):
            part = slice(i, i + RESUMABLE)
            amounts, most = schedule(prompts[part], lengths[part], prefix, config.batch_size)
            total, cached = added(total, amounts), max(cached, most)
    width = min(config.batch_size, len(rows))
    return Work(total, Largest(read_tokens=width * max(prompts), scored=width, cached_tokens=cached))


def _raw_answers(s: Subject) -> Work:
    preamble = answers.few_shot_preamble(s.constitution.persona, s.train, s.recipe.answers.few_shot_examples)
    return answered(s, "raw_answers", {RAW: None, FEW_SHOT: preamble})


def _rl(s: Subject) -> Work:
    config, rewarded = s.recipe.rl, s.recipe.reward_model
    assert config is not None
    assert rewarded is not None
    limits, share, mean = config.rollouts, _upper_share(s), s.like_demonstrations(config.rollouts.max_new_tokens)
    turns = rl.turns_of(config, s.prompts)
    steps = [_rollout(s, [s.prompts[i] for i in turn], limits.answers, mean) for turn in turns]
    shown = sources.spread(s.held_out_prompts, config.watch.prompts)
    looks = [_rollout(s, shown, 1, mean)] * (math.ceil(config.steps / config.watch.every_steps) + 1)
    imitated = sum(len(e.token_ids) for e in s.train_examples) / len(s.train_examples) * limits.prompts
    learnt = config.updates * (2 if config.algorithm == "ppo" else 1)  # PPO's critic learns as well
    prepared = 2 if config.algorithm == "ppo" else 0  # and reads before, as the policy does
    learnt_from = [groups[: config.most_varied] for groups, _ in steps]  # which ones nobody knows yet
    laid = [n for groups in learnt_from for n in trees(groups, config.micro_batch_size)]
    laid_out = [n for groups, _ in (*steps, *looks) for n in trees(groups, config.micro_batch_size)]
    watched = [n for groups, _ in looks for n in trees(groups, config.micro_batch_size)]
    cost = asked_cost_model(s.recipe)
    judges = rewarded.members + (cost.members if cost else 0)
    judged = [judges * n for groups, _ in steps for n in trees(groups, reward_model.BATCH)]
    judged += [(judges + 1) * n for groups, _ in looks for n in trees(groups, reward_model.BATCH)]
    positions = sum(len(ids) for groups in learnt_from for g in groups for ids in g.completions)
    seen = sum(min(KL_POSITIONS, sum(len(ids) for g in groups for ids in g.completions)) for groups, _ in looks)
    beside = config.steps * config.updates * imitated if config.demonstration_weight else 0
    sampled = added(*(amounts for _, amounts in (*steps, *looks)))
    amounts = sampled._replace(
        loads=1,
        train_tokens=learnt * sum(laid) + beside,
        lower_tokens=sum(laid_out) + beside if share < 1 else 0,
        # The reference, and PPO before it learns, take one of the three products of a learning step.
        train_scored=positions * (config.updates + (1 + prepared / 2) / 3),
        checkpoints=config.steps // config.checkpoint_every_steps,
        read_tokens=sampled.read_tokens + share * (sum(judged) + (1 + prepared) * sum(laid) + 2 * sum(watched)),
        scored_tokens=3 * seen,  # over the whole vocabulary: the KL of two models, and an entropy
    )
    rows, widest = limits.prompts * limits.answers, max(laid)
    most = config.micro_batch_size * max(sum(map(len, g.completions)) for groups, _ in steps for g in groups)
    cached = rows * (limits.max_new_tokens + max(len(g.prompt) for groups, _ in steps for g in groups))
    return Work(amounts, Largest(widest, most, widest, most, cached))


def _rollout(s: Subject, prompts: Sequence[Prompt], each: int, mean: float) -> tuple[list[Group], Amounts]:
    """Prompts with answers of about the mean length, and the work of sampling them; a prompt is read once."""
    assert s.recipe.rl is not None
    limits = s.recipe.rl.rollouts
    starts = [shorten(s.chat.prompt_ids(row.prompt), limits.max_prompt_tokens) for row in prompts]
    lengths = spread(mean, limits.max_new_tokens, len(prompts) * each)
    amounts, _ = schedule([max(map(len, starts))] * len(lengths), lengths, 0, len(lengths))
    groups = [Group(start, [[0] * n for n in lengths[i * each : (i + 1) * each]]) for i, start in enumerate(starts)]
    amounts = amounts._replace(
        read_tokens=amounts.read_tokens / each,
        decode_steps=0,
        decode_rows=0,
        rollout_steps=amounts.decode_steps,
        rollout_rows=amounts.decode_rows,
    )
    return groups, amounts


# The stages that use a model, see also `cost/constitutional.py`; the others take a moment.
WORK: Mapping[str, Callable[[Subject], Work]] = {
    "raw_answers": _raw_answers,
    "raw_capability": _capability,
    "sft": _sft,
    "dpo": _dpo,
    "reward_model": _reward_model,
    "reward_card": _reward_card,
    "second_judge": _second_judge,
    "cost_model": _cost_model,
    "rl": _rl,
    "aligned_answers": lambda s: answered(s, "aligned_answers", {ALIGNED: None}),
    "aligned_capability": _capability,
}


# ── sampling ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def spread(mean: float, limit: int, count: int) -> list[int]:
    """``count`` lengths between 1 and ``limit`` with about this mean, in an order that has nothing to do with size."""
    share = min(1.0, max(0.01, mean / limit))
    quantiles = [((i + 1) * 0.6180339887) % 1 for i in range(count)]  # steps of the golden ratio fill [0, 1) evenly
    return [max(1, round(limit * q ** ((1 - share) / share))) for q in quantiles]


def schedule(prompts: Sequence[int], lengths: Sequence[int], prefix: int, batch_size: int) -> tuple[Amounts, int]:
    """What `lm.sampling` does with rows of these lengths after a common prefix, and the most tokens in its cache."""
    waiting = list(zip(prompts, lengths, strict=True))
    active: list[tuple[int, int]] = []  # cached tokens, answer tokens still to come
    steps = written = attended = most = 0
    read = prefix
    while waiting or active:
        free = batch_size - len(active)
        if waiting and (not active or free >= max(1, batch_size // 4)):
            entering, waiting = waiting[:free], waiting[free:]
            width = max(prompt for prompt, _ in entering)
            read += len(entering) * width
            active += [(prefix + width, length) for _, length in entering]
        steps, written = steps + 1, written + len(active)
        cached = len(active) * max(width for width, _ in active)
        attended, most = attended + cached, max(most, cached)
        active = [(width + 1, left - 1) for width, left in active if left > 1]
    amounts = Amounts(read_tokens=read, decode_steps=steps, decode_rows=written, decode_cached=attended)
    return amounts, most
