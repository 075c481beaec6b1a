"""Directions of the residual stream: the difference of two means, taken out or added while the model runs.

What two kinds of text differ in is often, to a good approximation, one direction (Marks & Tegmark 2023,
arXiv:2310.06824; Arditi et al. 2024, arXiv:2406.11717): the mean of the stream over the one kind minus the mean over
the other, at one layer and one token. Means are taken in float64, because they are large and their difference is small.

    ablating   x - r (r . x) at every block's input and at what attention and MLP write: nothing holds r any more
    levelling  x + r clamp(m - r . x, -2 g, 2 g) at every block's input: r is where it is on one kind of text
    adding     x + c v at one layer's input, at every token

The second is affine concept editing (Marshall et al. 2024, arXiv:2411.09003), m the mean projection of that kind of
text and g the gap to the other one, at each layer. A model with massive activations (Gemma 3) has a part of nearly
every direction in them, and does not survive the first; levelled, no token moves by more than two gaps.

Both are hooks (`activations.hooks`): they act under ``generate``, under Steersman's sampler and in training, and fail
if they never fire. A `Sampler` keeps the KV cache of a common prefix: make a new one within the hooks, as `answers`
does. Layers are counted by what a direction was read from and is added to: ``blocks.{layer}.hook_resid_pre``.

What shows that a direction matters is a comparison with `random_directions` of the same norm, and with the difference
between two halves of one kind (`split_directions`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from steersman.errors import DataError, ModelError
from steersman.interp.activations import Edit, hooks, read
from steersman.interp.anatomy import anatomy_of
from steersman.lm.chat_format import ChatFormat, common_length
from steersman.lm.language_model import LocalModel
from steersman.lm.sampling import Sampler
from steersman.store import canonical, sha256_text
from steersman.types import Text

BATCH = 16  # texts in one forward pass
GAPS = 2.0  # between two kinds of text, by which `levelling` moves a token at most
ENDS = ("Why?", "Do it.", "word", "(so)", "3", '"so"')  # with which a template's tokens might merge
Rows = Sequence[Sequence[int]]
Form = Literal["zero", "level"]
"""How a direction is taken away: by `ablating` or by `levelling`."""


@dataclass(frozen=True)
class Direction:
    """A direction of the residual stream, and where it is from.

    Attributes:
        vector: unit vector, [H], float32.
        layer: it is one of this layer's input.
        position: the token that it was read at, counted from the prompt's end: -1 is the last one; None: averaged over
            an answer's tokens.
        norm: of the difference of the means, in units of the stream.
        model: digest of the weights (`weights_digest`); data: digest of the token ids of both kinds.
    """

    name: str
    vector: Tensor
    layer: int
    position: int | None
    norm: float
    model: str = ""
    data: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "vector", unit(self.vector))

    @property
    def difference(self) -> Tensor:
        """The difference of the means itself, [H]: what `adding` adds with a coefficient of 1."""
        return self.norm * self.vector


class Differences(NamedTuple):
    """Differences of means at several tokens and layers.

    Attributes:
        vectors: [P, L, H] float64, at ``positions`` and ``layers``.
        model, data: as of `Direction`.
    """

    vectors: Tensor
    positions: tuple[int | None, ...]
    layers: tuple[int, ...]
    model: str
    data: str

    def direction(self, name: str, position: int | None, layer: int) -> Direction:
        """That of one token and layer."""
        vector = self.vectors[self.positions.index(position), self.layers.index(layer)]
        return Direction(name, vector, layer, position, float(vector.norm()), self.model, self.data)


# ── finding ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def differences(
    model: Any, positive: Rows, negative: Rows, *, positions: Sequence[int] = (-1,), layers: Sequence[int] | None = None
) -> Differences:
    """Mean of the stream over some texts minus its mean over others.

    Args:
        positive, negative: token ids of the texts.
        positions: tokens counted from the end of each text, -1 the last.
        layers: whose inputs are read; all of them unless given.

    Raises:
        DataError: one side is empty, or a text has fewer tokens than ``positions`` reach back.
    """
    layers = tuple(layers if layers is not None else range(anatomy_of(model).layers))
    found = means(model, positive, positions, layers) - means(model, negative, positions, layers)
    return Differences(found, tuple(positions), layers, weights_digest(model), rows_digest(positive, negative))


def means(model: Any, rows: Rows, positions: Sequence[int], layers: Sequence[int]) -> Tensor:
    """Mean over texts of the stream before some layers, at some tokens counted from the end, [P, L, H] in float64."""
    reach = -min(positions)
    if not rows or min(map(len, rows)) < reach:
        raise DataError(
            f"{len(rows)} texts, the shortest of {min(map(len, rows), default=0)} tokens",
            expected=f"one or more, of at least {reach} tokens each",
        )
    names = [f"blocks.{layer}.hook_resid_pre" for layer in layers]
    total = torch.zeros(len(positions), len(layers), anatomy_of(model).width, dtype=torch.float64)
    for batch in batches(rows):
        seen = read(model, batch, names)
        for p, position in enumerate(positions):
            total[p] += torch.stack([seen.at(name, position).double().sum(0).cpu() for name in names])
    return total / len(rows)


def batches(rows: Rows, size: int = BATCH) -> Iterator[Rows]:
    """The texts by their length, some at a time."""
    ordered = sorted(rows, key=len)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def post_instruction(chat: ChatFormat) -> tuple[int, ...]:
    """The tokens that a chat format writes behind every question, as positions from the end, the last one last."""
    ends = [chat.prompt_ids(text)[::-1] for text in ENDS]
    return tuple(range(-common_length(ends), 0))


def weights_digest(model: Any) -> str:
    """Sha256 over the names, shapes and numbers of a model's weights as they are now, hex."""
    total = hashlib.sha256()
    for name, weight in model.state_dict().items():
        total.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        total.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def rows_digest(positive: Rows, negative: Rows) -> str:
    """Sha256 over the token ids of both kinds of text, whatever their order, hex."""
    return sha256_text(canonical([sorted(map(list, positive)), sorted(map(list, negative))]))


def unit(vector: Tensor) -> Tensor:
    """A vector [H] scaled to length 1, in float32.

    Raises:
        DataError: it is no vector, or has no direction.
    """
    long: Tensor = vector.detach().double().cpu()
    norm = long.norm()
    if long.ndim != 1 or not torch.isfinite(norm) or norm == 0:
        raise DataError(
            f"a tensor of shape {tuple(vector.shape)} and norm {float(norm):g} is no direction",
            expected="one vector of finite numbers, not all zero",
        )
    scaled: Tensor = long / norm
    return scaled.float()


# ── using ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@contextmanager
def ablating(model: Any, vector: Tensor) -> Iterator[dict[str, int]]:
    """The model without a direction, [H] of any length: x - r (r . x) at every block's input and at both its writes.

    Behind a post-norm, where there is one: what is added to the stream holds nothing of r, so the stream never does.
    """
    r = of_width(model, vector)
    inner = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")
    sites = [f"blocks.{layer}.{site}" for layer in range(anatomy_of(model).layers) for site in inner]
    with hooks(model, dict.fromkeys(sites, without(r))) as fired:
        yield fired


def without(r: Tensor) -> Edit:
    """The edit that takes a unit vector, [H], out of an activation, [..., H]."""

    def edit(x: Tensor) -> Tensor:
        own = r.to(x)
        return x - (x @ own)[..., None] * own

    return edit


@contextmanager
def levelling(model: Any, vector: Tensor, levels: Tensor, gaps: Tensor) -> Iterator[dict[str, int]]:
    """The model with a direction, [H], brought to a level before every layer, as far as `GAPS` gaps.

    Args:
        levels: [L] projections on the unit vector that are wanted, such as the mean of harmless prompts at each layer.
        gaps: [L] how far the other kind of text is from there.
    """
    with hooks(model, level_edits(of_width(model, vector), levels, gaps)) as fired:
        yield fired


def level_edits(r: Tensor, levels: Tensor, gaps: Tensor) -> list[tuple[str, Edit]]:
    """The hooks of `levelling` along a unit vector, [H]."""
    return [
        (f"blocks.{layer}.hook_resid_pre", to_level(r, float(level), float(gap)))
        for layer, (level, gap) in enumerate(zip(levels, gaps, strict=True))
    ]


def to_level(r: Tensor, level: float, gap: float) -> Edit:
    """The edit that brings an activation, [..., H], to a level along a unit vector, by `GAPS` gaps at most."""
    most = GAPS * abs(gap)

    def edit(x: Tensor) -> Tensor:
        own = r.to(x)
        return x + (level - x @ own).clamp(-most, most)[..., None] * own

    return edit


@contextmanager
def adding(model: Any, layer: int, vector: Tensor, coefficient: float = 1.0) -> Iterator[dict[str, int]]:
    """The model with ``coefficient * vector``, [H], added to a layer's input at every token."""
    of_width(model, vector)
    push = coefficient * vector.detach().float()
    with hooks(model, {f"blocks.{layer}.hook_resid_pre": lambda x: x + push.to(x)}) as fired:
        yield fired


def answers(model: Any, chat: ChatFormat, prompts: Sequence[Text], **settings: Any) -> list[str]:
    """What the model says as it is now, hooks included, in the order of the prompts; settings of `SamplingConfig`."""
    return LocalModel(Sampler(model, chat)).generate(prompts, **settings)


def of_width(model: Any, vector: Tensor) -> Tensor:
    """The vector, [H], at length 1 in float32; an error if the model's stream is of another width."""
    width = anatomy_of(model).width
    if vector.ndim == 1 and len(vector) != width:
        raise ModelError(
            f"a direction of {len(vector)} numbers, and {type(model).__name__}'s residual stream has {width}",
            do="use a direction that was found in this model",
        )
    return unit(vector).to(model.device)


# ── what a direction is compared with ────────────────────────────────────────────────────────────────────────────────
def random_directions(like: Direction, count: int = 20, seed: int = 0) -> list[Direction]:
    """Directions drawn evenly from the sphere, with the layer and the norm of another one."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, len(like.vector), generator=generator, dtype=torch.float64)
    return [
        Direction(f"random-{number}", vector, like.layer, like.position, like.norm, like.model)
        for number, vector in enumerate(drawn)
    ]


def split_directions(model: Any, rows: Rows, like: Direction, count: int = 4, seed: int = 0) -> list[Direction]:
    """Differences between random halves of one kind of texts, where another direction was read, each of its own norm.

    Raises:
        DataError: fewer than four texts, or ``like`` was read over answers.
    """
    if len(rows) < 4 or like.position is None:
        raise DataError(
            f"{len(rows)} texts, and a direction read at {like.position}",
            expected="four texts or more, and a direction of a prompt's token",
        )
    generator, found = torch.Generator().manual_seed(seed), []
    for number in range(count):
        order = torch.randperm(len(rows), generator=generator).tolist()
        halves = [[rows[i] for i in order[start::2]] for start in (0, 1)]
        both = differences(model, *halves, positions=(like.position,), layers=(like.layer,))
        found.append(both.direction(f"split-{number}", like.position, like.layer))
    return found


def cosines(directions: Mapping[str, Direction] | Sequence[Direction]) -> Tensor:
    """Cosine of each direction with each, [N, N]."""
    listed = list(directions.values()) if isinstance(directions, Mapping) else list(directions)
    matrix = torch.stack([one.vector for one in listed])
    return matrix @ matrix.T
