"""Functions that the training loops share: batches, learning-rate schedule, optimiser step, checkpoints.

There is no trainer base class: each algorithm writes its own loop in its own file and calls these.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from steersman.errors import DataError, ModelError, TrainingFailed, closest
from steersman.lm.sampling import random_stream
from steersman.terminal import console
from steersman.train import distributed
from steersman.types import Record

CHECKPOINT = "checkpoint"


class OptimiserConfig(Record):
    """AdamW with linear warm-up, a decay, and clipping of the global gradient norm."""

    learning_rate: float = Field(default=2e-4, gt=0, description="Peak learning rate, reached after warm-up.")
    warmup_ratio: float = Field(default=0.05, ge=0, le=1, description="Share of the steps of the linear warm-up.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="Learning rate after warm-up: it falls to 0 or stays constant."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Weight decay of AdamW.")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="Decay rates of AdamW's two moments.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Global gradient norm above which it is clipped.")


def learning_rate_at(step: int, total: int, config: OptimiserConfig) -> float:
    """Learning rate of optimiser step ``step`` (0-based) of ``total``: warm-up to the peak, decay towards 0."""
    warmup = math.ceil(config.warmup_ratio * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(1, total - warmup)
    shape = 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * shape


# ── rows over the limit of length ────────────────────────────────────────────────────────────────────────────────────
Truncation = Literal["truncate", "drop"]
TRUNCATION = (
    "What becomes of a row longer than max_length: `truncate` takes out the oldest turns, then the answer's end, then "
    "the question's beginning; `drop` leaves the row out."
)


class TooLong(NamedTuple):
    """Rows that are longer than ``max_length``, by what becomes of them."""

    truncated: int = 0
    dropped: int = 0

    def __str__(self) -> str:
        fates = [(self.truncated, "cut (truncation: truncate)"), (self.dropped, "left out (truncation: drop)")]
        return "; ".join(f"{n} row{'s' * (n > 1)} longer than max_length: {fate}" for n, fate in fates if n)


def too_long(stage: str, count: int, left: int, truncation: Truncation) -> TooLong:
    """What becomes of ``count`` rows that are too long.

    Args:
        left: how many rows there are to train on.

    Raises:
        DataError: none is left.
    """
    if not left:
        raise DataError(
            f"all {count} rows of {stage} are longer than max_length, and truncation: drop leaves them out",
            expected="one row or more to train on",
            do="raise max_length, or set truncation: truncate",
        )
    return TooLong(dropped=count) if truncation == "drop" else TooLong(truncated=count)


def say_too_long(stage: str, count: int, left: int, truncation: Truncation) -> dict[str, int]:
    """`too_long` for the stage's events, said on the console."""
    found = too_long(stage, count, left, truncation)
    if count and distributed.rank() == 0:
        console.print(f"{stage}: {found}", markup=False, soft_wrap=True)
    return found._asdict()


# ── batches ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def plan_batches(
    lengths: Sequence[int], batch_size: int, epochs: float, seed: int, max_steps: int | None = None
) -> list[list[int]]:
    """Row indices of every optimiser step, fixed before training: resuming at step k means taking plan[k:].

    Grouped by length: each epoch is shuffled, cut into pools of 16 batches, sorted by length within a pool, cut into
    batches, and these are shuffled; rows of similar length share a batch, so little padding is computed.

    Raises:
        DataError: so few epochs of so few rows that no step would be made.
    """
    generator = torch.Generator().manual_seed(seed)
    per_epoch = math.ceil(len(lengths) / batch_size)
    if round(epochs * per_epoch) == 0:
        raise DataError(
            f"no optimiser step: {epochs:g} epochs of {len(lengths)} rows in batches of {batch_size}",
            expected="one step or more",
            do="raise epochs, lower batch_size, or add rows",
        )
    plan: list[list[int]] = []
    while len(plan) < round(epochs * per_epoch):
        order = torch.randperm(len(lengths), generator=generator).tolist()
        pools = [order[i : i + 16 * batch_size] for i in range(0, len(order), 16 * batch_size)]
        batches = []
        for pool in pools:
            pool.sort(key=lambda i: lengths[i])
            batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
        plan += [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
    return plan[: round(epochs * per_epoch)][:max_steps]


def turns(rows: int, epochs: float, steps: int, seed: int, kinds: Sequence[Hashable] | None = None) -> list[list[int]]:
    """Row indices for each of ``steps``: every row once an epoch, shuffled, spread evenly over the steps.

    Args:
        kinds: one per row; rows of each kind are then spread evenly as well.
    """
    total = round(epochs * rows)
    order: list[int] = []
    for epoch in range(math.ceil(epochs)):
        generator = random_stream(seed, epoch)
        shuffled = torch.randperm(rows, generator=generator).tolist()
        order += shuffled if kinds is None else _mixed(shuffled, kinds, generator)
    return [order[s * total // steps : (s + 1) * total // steps] for s in range(steps)]


def _mixed(order: Sequence[int], kinds: Sequence[Hashable], generator: torch.Generator) -> list[int]:
    members: dict[Hashable, list[int]] = {}
    for row in order:
        members.setdefault(kinds[row], []).append(row)
    placed: list[tuple[float, int]] = []
    for own in members.values():
        offset = float(torch.rand(1, generator=generator))
        placed += [((place + offset) / len(own), row) for place, row in enumerate(own)]
    return [row for _, row in sorted(placed)]


def repeats(names: Sequence[set[str]], upsample: Mapping[str, int], *, default: int, key: str, what: str) -> list[int]:
    """How often an epoch reads each row: the largest value of ``upsample`` for one of the row's names, or the default.

    Args:
        key: of the recipe, for the error message; what: its words for a row without the name.

    Raises:
        DataError: ``upsample`` holds a name that no row has.
    """
    known = set().union(*names)
    for name in upsample:
        if name not in known:
            raise DataError(
                f"{key} names {name!r}, but no {what} or principle", expected=closest(name, sorted(known - {""}))
            )
    return [max((count for name, count in upsample.items() if name in own), default=default) for own in names]


# ── one optimiser step ───────────────────────────────────────────────────────────────────────────────────────────────
def adamw(parameters: Mapping[str, Tensor], config: OptimiserConfig) -> torch.optim.AdamW:
    """Fused AdamW over the parameters."""
    return torch.optim.AdamW(
        list(parameters.values()),
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )


def optimiser_step(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, Tensor], loss: float, rate: float, max_norm: float
) -> float:
    """Clip gradients, check, step, clear. Returns the gradient norm before clipping.

    Raises:
        TrainingFailed: loss or gradient is not finite; the weights are left as they were.
    """
    norm = float(torch.nn.utils.clip_grad_norm_(list(parameters.values()), max_norm))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingFailed(
            f"the loss is {loss:.4g} and the gradient norm {norm:.4g}",
            expected="finite numbers",
            do="the last good checkpoint is kept; lower the learning rate, or look for damaged rows in the data",
        )
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return norm


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────────
def save_checkpoint(
    folder: Path,
    step: int,
    parameters: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
    state: Mapping[str, Any],
) -> None:
    """Save what an exact resume needs: weights, optimiser moments, the random state, and the loop's ``state``.

    Written beside the previous checkpoint and renamed over it, so that one complete checkpoint always exists.
    """
    tensors = {f"weight/{name}": p.detach().contiguous() for name, p in parameters.items()}
    for name, p in parameters.items():
        moments = optimiser.state.get(p, {})
        tensors |= {f"optimiser/{kind}/{name}": moments[kind].contiguous() for kind in moments}
    tensors["rng/torch"] = torch.get_rng_state()
    partial, target, retired = (folder / f"{CHECKPOINT}{suffix}" for suffix in (".partial", "", ".retired"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(tensors, partial / "state.safetensors")
    (partial / "state.json").write_text(json.dumps({"step": step, **state}) + "\n", encoding="utf-8")
    for file in partial.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    if target.exists():  # else a kill between the renames left only the retired one
        shutil.rmtree(retired, ignore_errors=True)
        target.rename(retired)
    partial.rename(target)
    shutil.rmtree(retired, ignore_errors=True)


def load_checkpoint(
    folder: Path, parameters: Mapping[str, Tensor], optimiser: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Restore what `save_checkpoint` wrote and return its ``state`` with ``step``; None when there is no checkpoint.

    Raises:
        ModelError: the checkpoint holds other parameters than the model.
    """
    source = folder / CHECKPOINT
    if not source.exists():
        source = folder / f"{CHECKPOINT}.retired"  # killed between the two renames
    if not source.exists():
        return None
    tensors = load_file(source / "state.safetensors")
    stored = {name.removeprefix("weight/"): t.shape for name, t in tensors.items() if name.startswith("weight/")}
    if stored != {name: p.shape for name, p in parameters.items()}:
        raise ModelError(
            "the checkpoint's parameters are not those of this model",
            where=str(source),
            expected=f"{len(parameters)} tensors of the same shapes, found {len(stored)}",
            do="delete the folder to train from the start, or use the model and LoRA settings that wrote it",
        )
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(tensors[f"weight/{name}"])
            kinds = {key.split("/")[1] for key in tensors if key.startswith("optimiser/") and key.endswith(f"/{name}")}
            moments = {kind: tensors[f"optimiser/{kind}/{name}"] for kind in kinds}
            optimiser.state[p] = {kind: moment.to(p.device, copy=True) for kind, moment in moments.items()}
    torch.set_rng_state(tensors["rng/torch"])
    state: dict[str, Any] = json.loads((source / "state.json").read_text(encoding="utf-8"))
    return state


def drop_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a finished stage."""
    for suffix in ("", ".partial", ".retired"):
        shutil.rmtree(folder / f"{CHECKPOINT}{suffix}", ignore_errors=True)
