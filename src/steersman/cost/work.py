"""What the stages' estimates are made of: counts of tokens and positions, and the workload that they are counted from.

Only lengths are computed. The batches are those that training, scoring and sampling form, so that padding counts; the
lengths of answers that are not yet generated are assumed.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from steersman.constitution.document import Constitution
from steersman.evals import answers
from steersman.evals.conditions import FEW_SHOT, RAW
from steersman.lm.chat_format import ChatFormat, Example
from steersman.lm.packing import arrange
from steersman.lm.shared_prefix import Group
from steersman.recipe import Recipe
from steersman.store import Run, read_jsonl
from steersman.train import sft
from steersman.train.loop import TooLong
from steersman.types import Comparison, Demonstration, Prompt, Text

# Mean answer lengths, until an earlier run in the same folder shows better: a share of max_new_tokens, and of the mean
# demonstration for the aligned model (gemma-3-270m, greedy: 35 to 39 tokens after demonstrations of 48).
ANSWER_SHARE = {RAW: 1 / 3, FEW_SHOT: 1 / 2}
DEMONSTRATION_SHARE = 0.8
TOKENS_PER_WORD = 1.35  # of our data in gemma-3-270m's tokenizer, for when that is not there yet


class Counts(NamedTuple):
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


class PeakSizes(NamedTuple):
    """The sizes that decide how much memory a stage needs, in tokens (or positions) held at once."""

    train_tokens: int = 0
    train_scored: int = 0
    read_tokens: int = 0
    scored: int = 0
    cached_tokens: int = 0
    lower_mb: int = 0  # activations below the layers that learn


class Work(NamedTuple):
    """What a stage does to a model, and how many of the rows that it learns are too long."""

    counts: Counts
    peak: PeakSizes
    too_long: TooLong = TooLong()


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
class Workload:
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
    forms: Sequence[Prompt]
    development: Sequence[Prompt]

    @functools.cached_property
    def train_encoded(self) -> sft.Encoded:
        """Training rows, tokenised, and how many of them are too long."""
        rows = sft.learnt_rows(self.recipe.sft, self.train)
        return sft.encode(rows, self.chat, self.recipe.sft) if rows else sft.Encoded([], 0, [])

    @property
    def train_examples(self) -> list[Example]:
        """Training rows, tokenised, without those that `truncation` leaves out."""
        return self.train_encoded.examples

    @functools.cached_property
    def validation_examples(self) -> list[Example]:
        """Validation rows, tokenised."""
        return sft.encode(self.validation, self.chat, self.recipe.sft).examples if self.validation else []

    def answer_tokens(self, stage: str, condition: str) -> float:
        """Expected mean length of an answer."""
        limit = (self.recipe.answers or answers.AnswersConfig()).sampling.max_new_tokens
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
        return DEMONSTRATION_SHARE * sum(lengths) / len(lengths) if lengths else limit * ANSWER_SHARE[FEW_SHOT]


def scored(*examples: Example) -> int:
    """Positions that carry loss."""
    return sum(len(e.token_ids) - e.completion_start for e in examples)


def padded(lengths: Sequence[int], size: int) -> list[int]:
    """Tokens of each batch of ``size`` rows, padding included."""
    batches = [lengths[i : i + size] for i in range(0, len(lengths), size)]
    return [len(batch) * max(batch) for batch in batches]


def packed(lengths: Sequence[int], size: int, limit: int) -> list[int]:
    """Tokens of each batch of ``size`` rows that share sequences of at most ``limit`` tokens, padding included."""
    found = []
    for i in range(0, len(lengths), size):
        own = lengths[i : i + size]
        sequences = arrange(own, limit)
        found.append(len(sequences) * max(sum(own[i] for i in rows) for rows in sequences))
    return found


def total(*counts: Counts) -> Counts:
    """The sum of several."""
    return Counts(*map(sum, zip(*counts, strict=True)))


def group_tokens(groups: Sequence[Group], size: int) -> list[int]:
    """Tokens of each batch of ``size`` prompts with all their answers, padding included."""
    return padded([group.tokens for group in groups], size)


def trainable_share(workload: Workload) -> float:
    """The share of the layers that adapters are in or above."""
    layers: int = workload.config.get_text_config().num_hidden_layers
    config = workload.recipe.sft
    upper = config.lora.trainable_layers if config.method == "lora" else None
    return (upper or layers) / layers


# ── sampling ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def assumed_lengths(mean: float, limit: int, count: int) -> list[int]:
    """``count`` lengths between 1 and ``limit`` with about this mean, in an order that has nothing to do with size."""
    share = min(1.0, max(0.01, mean / limit))
    quantiles = [((i + 1) * 0.6180339887) % 1 for i in range(count)]  # steps of the golden ratio fill [0, 1) evenly
    return [max(1, round(limit * q ** ((1 - share) / share))) for q in quantiles]


def schedule(prompts: Sequence[int], lengths: Sequence[int], prefix: int, batch_size: int) -> tuple[Counts, int]:
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
    counts = Counts(read_tokens=read, decode_steps=steps, decode_rows=written, decode_cached=attended)
    return counts, most


def as_rollouts(counts: Counts, answers_each: int = 1) -> Counts:
    """Counts of `schedule`, priced as quick sampling in the vocabulary of reinforcement learning; a prompt with several
    answers is read once."""
    return counts._replace(
        read_tokens=counts.read_tokens / answers_each,
        decode_steps=0,
        decode_rows=0,
        rollout_steps=counts.decode_steps,
        rollout_rows=counts.decode_rows,
    )


def quick_sampling(workload: Workload, prompts: Sequence[Text], answers_each: int, mean: float, limit: int) -> Counts:
    """The work of sampling answers of about the mean length from int8 weights over a compact vocabulary."""
    lengths = assumed_lengths(mean, limit, len(prompts) * answers_each)
    starts = sorted(len(workload.chat.prompt_ids(prompt)) for prompt in prompts for _ in range(answers_each))
    counts, _ = schedule(starts, lengths, 0, 64)
    return as_rollouts(counts, answers_each)
