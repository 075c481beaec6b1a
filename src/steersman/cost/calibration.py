"""Ten seconds of measuring on this machine: what a unit of each kind of work costs, in seconds and in memory.

Models of the same shape, but with one and two layers of random weights, do each kind of work. Their difference is the
price of a layer, and prices are taken to grow in proportion to layers and to tokens; the head, which is most of a small
model with a large vocabulary, is timed on its own. No weights are read. Not seen are layers unlike the second one, and
attention's growth with the square of the length.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steersman.cost.work import Counts, PeakSizes, Workload, scored
from steersman.evals.answers import AnswersConfig
from steersman.lm.adapters import add_lora, trainable
from steersman.lm.compact_vocabulary import CompactConfig, CompactVocabulary
from steersman.lm.head import TILE_MB, Head, completion_nll, head_of, token_logprobs, trunk
from steersman.lm.sampling import SamplingConfig, draw
from steersman.store import peak_memory_mb
from steersman.train import loop
from steersman.types import Record

BYTES_PER_SECOND = 4e8  # loading weights, writing checkpoints; assumed
HELD = 1.5  # memory that the allocator holds for each byte of activations; measured on gemma-3-270m, 8 rows a batch
REPEAT_SECONDS = 0.7  # for each kind of work
USUAL_LENGTH = 96  # tokens of a row, where no demonstration says it
HEAD_POSITIONS = 128  # scored over the whole vocabulary at once
SHORT_CONTEXT, LONG_CONTEXT = 16, 272  # cached tokens

Draws = Callable[[int], Callable[[], None]]  # rows -> a function that samples a token for each


class Calibration(Record):
    """What was measured, extrapolated to the whole model."""

    spent_seconds: float
    processor_share: float  # of the time of all threads; the rest went to other processes, or to waiting
    prices: Counts
    process_mb: int  # the libraries and the tokenizer
    weight_bytes: int
    trainable_bytes: int
    activation_bytes_per_token: int  # kept by all trained layers for the backward pass
    layer_bytes_per_token: int  # of that, one layer
    cache_bytes_per_token: int
    layers: int
    vocabulary: int

    def seconds(self, counts: Counts) -> float:
        """How long this much work takes."""
        return sum(amount * price for amount, price in zip(counts, self.prices, strict=True))

    def peak_mb(self, peak: PeakSizes) -> int:
        """The weights, and the larger of what training and what reading and writing hold besides."""

        def logits(positions: int) -> int:  # a tile, and what is computed from it
            return 2 * min(TILE_MB * 2**20, 4 * positions * self.vocabulary)

        training = 4 * self.trainable_bytes if peak.train_tokens else 0  # weights, gradients, two moments
        forward_backward = round(HELD * peak.train_tokens * self.activation_bytes_per_token)
        forward_backward += logits(peak.train_scored)
        reading = peak.read_tokens * self.layer_bytes_per_token + logits(peak.scored)
        cache = peak.cached_tokens * self.cache_bytes_per_token
        return (
            self.process_mb
            + peak.lower_mb
            + (self.weight_bytes + training + max(forward_backward, reading + cache)) // 2**20
        )


class _Prices(NamedTuple):
    """Of reading: per step, per row, per cached token, and the bytes of such a token in one layer."""

    step: float
    row: float
    cached: float
    cache_bytes: int


def calibrate(workload: Workload) -> Calibration:
    """Time each kind of work on models of one and two layers, and extrapolate to all layers."""
    start, worked, process_mb = time.perf_counter(), time.process_time(), peak_memory_mb()
    layers: int = workload.config.get_text_config().num_hidden_layers
    upper = (workload.recipe.sft.lora.trainable_layers if workload.recipe.sft.method == "lora" else None) or layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models = _models(workload.config)
        head = head_of(models[0])
        weights = [4 * sum(p.numel() for p in model.parameters()) for model in models]
        lengths = [len(example.token_ids) for example in workload.train_examples] or [USUAL_LENGTH]
        width = max(2, sum(lengths) // len(lengths))
        ids = torch.randint(len(head.weight), (workload.recipe.sft.micro_batch_size, width))
        reading = _fastest([_reading(model, ids) for model in models])
        hidden, targets = torch.randn(HEAD_POSITIONS, head.weight.shape[1]), torch.zeros(HEAD_POSITIONS).long()
        (score,) = _fastest([lambda: token_logprobs(hidden, targets, head)])
        answering = (workload.recipe.answers or AnswersConfig()).sampling
        decode = _decode_prices(
            models, layers, _drawing(head, answering), min(answering.batch_size, len(workload.evaluation) or 1)
        )
        rollouts = _rollout_prices(workload, models, layers, head)
        learn = _learning_price(workload, head)
        policies = [_policy(model, workload) for model in models]
        steps = [_training(model, policy, ids, workload) for model, policy in zip(models, policies, strict=True)]
        kept = [_saved_bytes(model, step) for model, step in zip(models, steps, strict=True)]
        training = _fastest(steps)
    trained = [4 * sum(p.numel() for p in trainable(policy).values()) for policy in policies]
    weight_bytes, trainable_bytes = round(grown(weights, layers)), round(grown(trained, upper))
    below = (layers - upper) * max(0.0, reading[1] - reading[0])
    seconds = time.perf_counter() - start
    prices = Counts(
        loads=workload.tokenizer_seconds + weight_bytes / BYTES_PER_SECOND,
        train_tokens=grown(training, upper) / ids.numel(),
        lower_tokens=below / ids.numel(),
        train_scored=learn,
        checkpoints=3 * trainable_bytes / BYTES_PER_SECOND,
        read_tokens=grown(reading, layers) / ids.numel(),
        scored_tokens=score / HEAD_POSITIONS,
        decode_steps=decode.step,
        decode_rows=decode.row,
        decode_cached=decode.cached,
        rollout_steps=rollouts.step,
        rollout_rows=rollouts.row,
    )
    return Calibration(
        spent_seconds=seconds,
        processor_share=(time.process_time() - worked) / (seconds * torch.get_num_threads()),
        prices=prices,
        process_mb=process_mb,
        weight_bytes=weight_bytes,
        trainable_bytes=trainable_bytes,
        activation_bytes_per_token=round(grown(kept, upper) / ids.numel()),
        layer_bytes_per_token=max(0, kept[1] - kept[0]) // ids.numel(),
        cache_bytes_per_token=layers * decode.cache_bytes,
        layers=layers,
        vocabulary=len(head.weight),
    )


def grown(one_and_two: Sequence[float], layers: int) -> float:
    """From one and two layers in a straight line to more."""
    one, two = one_and_two
    return one + (layers - 1) * max(0.0, two - one)


def _fastest(works: Sequence[Callable[[], Any]]) -> list[float]:
    """Seconds of each at its fastest, of two rounds or more; taken in turn, so that other load falls on all of them."""
    best, start, rounds = [math.inf] * len(works), time.perf_counter(), 0
    while rounds < 2 or time.perf_counter() - start < REPEAT_SECONDS:
        for i, work in enumerate(works):
            before = time.perf_counter()
            work()
            best[i] = min(best[i], time.perf_counter() - before)
        rounds += 1
    return best


def _models(config: Any) -> list[Any]:
    """Random models of one and two layers that share their embeddings and head."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    models: list[Any] = []
    for layers in (1, 2):
        shape = deepcopy(config)
        text = shape.get_text_config()
        text.num_hidden_layers = layers
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:layers]
        with no_init_weights():
            model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
        if models:
            model.set_input_embeddings(models[0].get_input_embeddings())
            model.set_output_embeddings(models[0].get_output_embeddings())
        model.tie_weights()
        models.append(model.eval())
    with torch.no_grad():
        for parameter in {id(p): p for model in models for p in model.parameters()}.values():
            parameter.uniform_(-0.05, 0.05)
    return models


# ── reading and writing ──────────────────────────────────────────────────────────────────────────────────────────────
def _reading(model: Any, ids: Tensor) -> Callable[[], None]:
    def work() -> None:
        with torch.inference_mode():
            trunk(model)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True)

    return work


def _rollout_prices(workload: Workload, models: Sequence[Any], layers: int, head: Head) -> _Prices:
    """With fp32 weights: those of int8 are faster."""
    config = workload.recipe.rl
    if config is None:
        return _Prices(0.0, 0.0, 0.0, 0)
    if config.vocabulary == "compact":
        head = _compact(workload, head, config.compact).head
    rows = config.rollouts.prompts * config.rollouts.answers
    return _decode_prices(models, layers, _drawing(head, SamplingConfig(temperature=1.0)), rows)


def _decode_prices(
    models: Sequence[Any], layers: int, drawing: Callable[[int], Callable[[], None]], many: int
) -> _Prices:
    """Three points decide: many rows with much in the cache, many with little, and a few with little."""
    few = max(1, many // 4)
    points = [(many, LONG_CONTEXT), (many, SHORT_CONTEXT), (few, SHORT_CONTEXT)]
    decoders = [_decoding(model, rows, context) for rows, context in points for model in models]
    times = _fastest([step for step, _ in decoders])
    long, short, small = (grown(times[i : i + 2], layers) for i in (0, 2, 4))
    short_draw, small_draw = _fastest([drawing(many), drawing(few)])
    cached = max(0.0, long - short) / (many * (LONG_CONTEXT - SHORT_CONTEXT))
    row = max(0.0, short + short_draw - small - small_draw) / max(1, many - few)
    step = max(0.0, short + short_draw - many * row)
    return _Prices(step, max(0.0, row - SHORT_CONTEXT * cached), cached, decoders[0][1])


def _decoding(model: Any, rows: int, context: int) -> tuple[Callable[[], None], int]:
    """One step on a cache of random keys, below the head; and the bytes that a token takes in a layer of it."""
    from transformers import DynamicCache

    cache, token = DynamicCache(), torch.zeros(rows, 1, dtype=torch.long)
    with torch.inference_mode():
        trunk(model)(input_ids=token, past_key_values=cache, use_cache=True)
        for layer in cache.layers:
            layer.keys = torch.randn_like(layer.keys.expand(-1, -1, context, -1))
            layer.values = torch.randn_like(layer.values.expand(-1, -1, context, -1))
    size: int = cache.layers[0].keys.nbytes + cache.layers[0].values.nbytes

    def work() -> None:
        length = cache.get_seq_length()
        mask, position = torch.ones(rows, length + 1, dtype=torch.long), torch.full((rows, 1), length)
        with torch.inference_mode():
            trunk(model)(
                input_ids=token, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
            )

    return work, size // (rows * context)


def _drawing(head: Head, config: SamplingConfig) -> Draws:
    """Samples a token for each of some rows."""

    def for_rows(rows: int) -> Callable[[], None]:
        hidden = torch.randn(rows, head.weight.shape[1])
        uniform = torch.rand(rows, dtype=torch.float64)

        def work() -> None:
            with torch.inference_mode():
                draw(head.logits(hidden), config, uniform)

        return work

    return for_rows


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _learning_price(workload: Workload, head: Head) -> float:
    """Seconds per scored position of the head, forward and backward, in the recipe's vocabulary mode."""
    config = workload.recipe.sft
    head.weight.requires_grad_(config.method == "full")
    compact = config.compact if config.vocabulary == "compact" else None
    rows = workload.train_examples
    in_a_batch = max(1, config.micro_batch_size * scored(*rows) // len(rows)) if rows else HEAD_POSITIONS
    positions = min(in_a_batch, round(HEAD_POSITIONS / (compact.full_share if compact else 1)))
    hidden = torch.randn(positions, head.weight.shape[1], requires_grad=True)
    targets = torch.zeros(positions, dtype=torch.long)
    vocabulary = _compact(workload, head, compact) if compact else None

    def work() -> None:
        if vocabulary:
            loss = vocabulary.nll(hidden, targets, head, torch.Generator().manual_seed(0))
        else:
            loss = completion_nll(hidden, targets, head)
        loss.backward()  # type: ignore[no-untyped-call]

    (seconds,) = _fastest([work])
    return seconds / positions


def _compact(workload: Workload, head: Head, config: CompactConfig) -> CompactVocabulary:
    """As many rows as the data's own tokens and the extra ones will be; which ones does not matter."""
    used = {token for e in (*workload.train_examples, *workload.validation_examples) for token in e.token_ids}
    exact = torch.randperm(len(head.weight))[: len(used) + config.extra_rows]
    position = torch.zeros(len(head.weight), dtype=torch.long)
    return CompactVocabulary(exact, position, head.rows(exact), config.full_share)


def _policy(model: Any, workload: Workload) -> Any:
    config = workload.recipe.sft
    model.requires_grad_(config.method == "full")
    if config.method == "lora":
        model = add_lora(model, config.lora.model_copy(update={"trainable_layers": None}), workload.recipe.model)
    return model.train()


def _training(model: Any, policy: Any, ids: Tensor, workload: Workload) -> Callable[[], None]:
    """One optimiser step on a batch, below the head."""
    parameters = trainable(policy)
    optimiser = loop.adamw(parameters, workload.recipe.sft.optimiser)

    def work() -> None:
        output = trunk(model)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        output.last_hidden_state.mean().backward()
        loop.optimiser_step(optimiser, parameters, 0.0, 0.0, workload.recipe.sft.optimiser.max_grad_norm)

    return work


def _saved_bytes(model: Any, step: Callable[[], None]) -> int:
    """Bytes that a step keeps between its forward and its backward pass, the weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        step()
    return sum(size for pointer, size in storages.items() if pointer not in weights)
