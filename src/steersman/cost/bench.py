"""What this machine can do, and how near the engine comes to it: the roofline, then each phase of the work.

The ceiling is the fastest matrix product measured here. A phase's floating-point operations are counted: two for each
weight of a linear layer and token forward, two more backward (the weights are frozen, only activations have gradients),
and the output layer where it is used. Attention, norms and the adapters' own few percent are not counted, so that
"of the ceiling" is a lower bound. The comparison with other tools is benchmarks/engine/compare.py.
"""

from __future__ import annotations

import gc
import timeit
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from steersman.functional import preference_nll
from steersman.lm import pretrained
from steersman.lm.chat_format import ChatFormat, Example
from steersman.lm.frozen_trunk import blocks_of
from steersman.lm.head import head_of, token_logprobs
from steersman.lm.int8 import Int8Copy
from steersman.lm.sampling import Sampler, SamplingConfig
from steersman.lm.shared_prefix import Group, shared_prefix_batch, shared_prefix_hidden
from steersman.report.blocks import Block, Number, Rate, Table, paragraph
from steersman.store import peak_memory_mb
from steersman.train.sft import SftConfig, SftTrainer
from steersman.types import Record

REPEATS = 3  # of each phase; the fastest counts


class Machine(Record):
    """Ceilings, measured."""

    threads: int
    gemm_gflops_per_second: float
    copy_gb_per_second: float


class Phase(Record):
    """One kind of work: how many tokens it is about, what it computes, how long it took."""

    name: str
    tokens: int
    gflop: float
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Throughput."""
        return self.tokens / self.seconds

    def of_the_ceiling(self, machine: Machine) -> float:
        """Share of the fastest matrix product's speed."""
        return self.gflop / self.seconds / machine.gemm_gflops_per_second


class Bench(Record):
    """Everything that `steersman bench` prints."""

    model: str
    machine: Machine
    phases: tuple[Phase, ...]
    peak_mb: int


class _Cost(NamedTuple):
    """Floating-point operations of one token forward: below the head, and in the head."""

    trunk: float
    head: float


def bench(model_name: str) -> Bench:
    """Measure the machine, then sampling, SFT and DPO on a model; about four minutes with gemma-3-270m on two cores.

    Raises:
        ModelError: the model is not known, or not installed.
    """
    base = pretrained.resolve(model_name)
    machine = Machine(
        threads=torch.get_num_threads(), gemm_gflops_per_second=_gemm(), copy_gb_per_second=_copied_gb_per_second()
    )
    rollouts = [_sampling(base, int8=int8) for int8 in (False, True)]
    phases = [*rollouts, *(_sft(base, vocabulary) for vocabulary in ("full", "compact")), _dpo(base)]
    return Bench(model=model_name, machine=machine, phases=tuple(phases), peak_mb=peak_memory_mb())


def shown(measured: Bench) -> tuple[Block, ...]:
    """The measurements as blocks."""
    m = measured.machine
    machine = (
        f"{measured.model}, fp32, {m.threads} threads: {m.gemm_gflops_per_second:.0f} GFLOP/s in matrix products, "
        f"{m.copy_gb_per_second:.1f} GB/s in copying. Peak memory {measured.peak_mb:,} MB."
    )
    rows = tuple(
        (
            phase.name,
            Number(value=phase.tokens_per_second, digits=0),
            Number(value=phase.gflop, digits=0),
            Number(value=phase.seconds, digits=2),
            Rate(value=phase.of_the_ceiling(m)),
        )
        for phase in measured.phases
    )
    table = Table(caption="", columns=("phase", "tokens/s", "GFLOP", "seconds", "of the ceiling"), rows=rows)
    note = "Of the ceiling: counted operations, against the fastest matrix product."
    return (paragraph(machine), table, paragraph(note, style="note"))


# ── the machine ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _gemm() -> float:
    """Billions of operations per second of the best of some matrix products."""
    best = 0.0
    for rows, width, columns in ((1024, 1024, 1024), (2048, 640, 2048), (1600, 2048, 640)):
        a, b = torch.randn(rows, width), torch.randn(columns, width)
        best = max(best, 2e-9 * rows * width * columns / _fastest(lambda a=a, b=b: a @ b.T, 10))  # type: ignore[misc]
    return best


def _copied_gb_per_second() -> float:
    source = torch.ones(64 * 2**20)
    target = torch.empty_like(source)
    return 2e-9 * source.nbytes / _fastest(lambda: target.copy_(source), 5)


def _fastest(work: Callable[[], Any], repeats: int = REPEATS) -> float:
    work()
    return min(timeit.repeat(work, gc.enable, number=1, repeat=repeats))  # timeit turns the garbage collector off


# ── phases ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def _cost(model: Any) -> _Cost:
    linear = sum(p.numel() for block in blocks_of(model) for p in block.parameters() if p.dim() == 2)
    return _Cost(2.0 * linear, 2.0 * model.get_output_embeddings().weight.numel())


def _ids(model: Any, count: int, seed: int) -> list[int]:
    """Random ids among the first 16,384, where the common tokens are."""
    vocabulary = min(16384, len(model.get_output_embeddings().weight))
    found: list[int] = torch.randint(vocabulary, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return found


class Endless(ChatFormat):
    """Nothing ends an answer but its length, and no text is decoded to look for a stop string."""

    stop_strings = ()


def _sampling(base: Any, *, int8: bool) -> Phase:
    """4 prompts of 30 tokens, 8 answers each of 64 tokens, temperature 1, whole vocabulary."""
    model = pretrained.load_model(base).eval()
    chat = Endless(pretrained.load_tokenizer(base), frozenset(), None)
    starts = [_ids(model, 30, seed) for seed in range(4) for _ in range(8)]
    config = SamplingConfig(temperature=1.0, max_new_tokens=64, batch_size=32)
    copy = Int8Copy(model.requires_grad_(False), head_of(model)) if int8 else None
    seconds = _fastest(lambda: list(Sampler(model, chat, int8=copy).continue_ids(starts, config)))
    cost = _cost(model)
    flop = (4 * 30 + 32 * 63) * cost.trunk + 32 * 64 * cost.head
    name = "rollouts 4 x 8, P30 C64" + (", int8 weights" if int8 else "")
    return Phase(name=name, tokens=32 * 64, gflop=flop / 1e9, seconds=seconds)


def _sft(base: Any, vocabulary: Any) -> Phase:
    """The optimiser step of SFT on 8 rows of 100 + 100 tokens, LoRA on all layers."""
    config = SftConfig(vocabulary=vocabulary)
    model = pretrained.load_model(base)
    rows = [Example(_ids(model, 200, seed), 100) for seed in range(8)]
    cost = _cost(model)
    trainer = SftTrainer.prepare(config, model, "base", 0, rows)
    seconds = _fastest(lambda: trainer.step(0, [rows], [], 1e-4))
    head = 2 * cost.head
    if trainer.token_loss.vocabulary is not None:
        kept = len(trainer.token_loss.vocabulary.exact) / len(trainer.token_loss.head.weight)
        head *= kept + config.compact.full_share
    flop = 1600 * 2 * cost.trunk + 800 * head
    return Phase(name=f"SFT P100 C100, {vocabulary} vocabulary", tokens=1600, gflop=flop / 1e9, seconds=seconds)


def _dpo(base: Any) -> Phase:
    """Forward and backward of 4 pairs of 200 + 100 tokens, each pair's prompt read once; without the reference."""
    model = pretrained.load_model(base)
    cost = _cost(model)  # before the adapters, which are not counted
    trainer = SftTrainer.prepare(SftConfig(), model, "base", 0, [])
    groups = [Group(_ids(model, 200, i), [_ids(model, 100, 10 + i), _ids(model, 100, 20 + i)]) for i in range(4)]
    batch = shared_prefix_batch(groups, 0)

    def work() -> None:
        logprobs = token_logprobs(
            shared_prefix_hidden(model, batch, batch.source), batch.targets, trainer.token_loss.head
        )
        sums = batch.sum_per_sequence(logprobs)
        preference_nll(0.1 * (sums[0::2] - sums[1::2])).mean().backward()  # type: ignore[no-untyped-call]
        trainer.optimiser.zero_grad()

    flop = 1600 * 2 * cost.trunk + 800 * 2 * cost.head
    return Phase(name="DPO P200 C100, prompts shared", tokens=2400, gflop=flop / 1e9, seconds=_fastest(work))
