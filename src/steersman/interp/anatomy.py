"""The parts of a decoder: which module adds what to the residual stream, found by running the model on a few tokens.

Names of modules mislead: Llama's ``post_attention_layernorm`` stands before the MLP, Gemma's of the same name behind
the attention. What is found by name (projections and heads) is checked, and the rest is found by arithmetic: of all
modules of a block, those two whose outputs sum up to what the block adds are its writers. Where one of them is a norm
behind a sublayer, the model has *post-norms* (Gemma 2 and 3, OLMo 2), and

    x += norm(sublayer(...))        and not        x += sublayer(...),

so that a head's write is not W_O z, and an edit of W_O that leaves the norm out does not do what it says.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from steersman.errors import ModelError
from steersman.lm.frozen_trunk import blocks_of
from steersman.lm.head import evaluating, probe_ids, trunk

PROBE_TOKENS = 8
STREAM_ERROR = 1e-4  # of what a block adds, relative: more, and the parts that were found are not all of it
_ATTENTION = ("self_attn", "attn.attention", "attn", "attention", "self_attention")
_MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
_ATTENTION_OUTPUT = ("o_proj", "c_proj", "dense", "out_proj")
_MLP_OUTPUT = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "w2", "fc_out")
_MLP_INPUT = ("gate_proj", "c_fc", "dense_h_to_4h", "fc1", "w1", "gate_up_proj", "up_proj", "fc_in")
_INTERLEAVED, _IN_TURN = ("query_key_value",), ("c_attn", "qkv_proj")  # packed queries, keys and values
_KEPT = "_steersman_anatomy"


class Part(NamedTuple):
    """Some columns of a module's output: the queries, keys or values, for all heads.

    Attributes:
        columns: [heads, head_dim], indices into the module's output.
    """

    module: nn.Module
    columns: Tensor


class Norm(NamedTuple):
    """What a norm computes: ``gain * (x - mean(x) if centred else x) / scale(x) + bias``.

    ``scale(x)`` is the root of the mean square of the (centred) x, and a little. ``gain``, ``bias``: [H], float32.
    """

    gain: Tensor
    bias: Tensor
    centred: bool
    eps: float

    def scale(self, x: Tensor) -> Tensor:
        """The divisor, [..., 1], of x, [..., H]."""
        x = self.centre(x.float())
        return (x.square().mean(-1, keepdim=True) + self.eps).sqrt()

    def centre(self, x: Tensor) -> Tensor:
        """X as it is divided, [..., H]."""
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def linear(self, x: Tensor, scale: Tensor) -> Tensor:
        """The norm without its bias and with a divisor held fixed, [..., 1]: linear in x, so parts of x add up."""
        return self.gain * self.centre(x) / scale


@dataclass(frozen=True)
class Block:
    """The parts of one layer.

    Attributes:
        attention_writer, mlp_writer: the modules whose outputs are added to the residual stream: the sublayers, or the
            norms behind them.
        attention_norm, mlp_norm: those before the sublayers; None in a model that has none there.
        attention_post_norm, mlp_post_norm: those behind them; None in most models.
        attention_output: the last linear module of the attention.
        first, last: those of the MLP, of a gated one the gate; None in a mixture of experts, which has many.
        scale: what both writers' outputs are multiplied by before they are added: 1, but in Granite.
    """

    module: nn.Module
    attention: nn.Module
    mlp: nn.Module
    attention_writer: nn.Module
    mlp_writer: nn.Module
    attention_norm: nn.Module | None
    mlp_norm: nn.Module | None
    attention_post_norm: nn.Module | None
    mlp_post_norm: nn.Module | None
    query: Part
    key: Part
    value: Part
    attention_output: nn.Module
    first: nn.Module | None
    last: nn.Module | None
    scale: float

    @property
    def attention_bias(self) -> Tensor | None:
        """The bias of `attention_output`, [H], as it is added."""
        bias = getattr(self.attention_output, "bias", None)
        return None if bias is None else self.scale * bias

    @property
    def mlp_input(self) -> nn.Module:
        """The MLP's first linear module, or an error."""
        return self._dense(self.first)

    @property
    def mlp_output(self) -> nn.Module:
        """The MLP's last linear module, or an error."""
        return self._dense(self.last)

    def _dense(self, projection: nn.Module | None) -> nn.Module:
        if projection is None:
            raise ModelError(
                f"{type(self.mlp).__name__} is a mixture of experts, and its projections are many",
                expected="an MLP with one first and one last projection",
                do="work with what the whole MLP writes (hook_mlp_out), or choose another model",
            )
        return projection


@dataclass(frozen=True)
class Anatomy:
    """A decoder's parts and sizes.

    Attributes:
        parallel: attention and MLP of a block read the same stream (GPT-NeoX, Phi); then there is none between them.
        final_norm: between the stream and the output layer.
    """

    blocks: tuple[Block, ...]
    embedding: nn.Module
    final_norm: nn.Module
    width: int
    heads: int
    key_value_heads: int
    head_dim: int
    parallel: bool

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def post_norm(self) -> bool:
        """Whether norms stand behind the sublayers."""
        return any(block.attention_post_norm or block.mlp_post_norm for block in self.blocks)


def anatomy_of(model: Any) -> Anatomy:
    """The parts of a decoder-only Hugging Face model, found once a model.

    Raises:
        ModelError: a part was not found, or what was found does not sum up to the residual stream.
    """
    modules = tuple(map(id, model.modules()))  # adapters that were put on later stand in others' places
    kept: tuple[tuple[int, ...], Anatomy] | None = model.__dict__.get(_KEPT)
    if kept is None or kept[0] != modules:
        with torch.no_grad(), evaluating(model):
            kept = model.__dict__[_KEPT] = (modules, _find(model))
    return kept[1]


def weight_of(module: Any) -> Tensor:
    """The weight of a linear module as [out, in], sharing its memory.

    Raises:
        ModelError: the module has adapters, or packed weights.
    """
    weight = getattr(module, "weight", None)
    if hasattr(module, "base_layer") or weight is None or weight.ndim != 2 or not weight.is_floating_point():
        raise ModelError(
            f"the weight of a {type(module).__name__} cannot be read as one matrix",
            do="merge the adapters into the model first, and load it with hardware.weights: full",
        )
    return weight.T if _is_conv1d(module) else weight  # type: ignore[no-any-return]


def norm_form(module: nn.Module, width: int) -> Norm:
    """What a norm computes, read off its outputs, and checked on inputs of another size.

    Raises:
        ModelError: it is neither an RMS norm nor a layer norm.
    """
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    like = next(iter(module.parameters()), torch.zeros(0))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, width, generator=generator).to(like.device, torch.float32) + 0.5
    x[0] = torch.where(x[0] < 0.5, -1.0, 1.0)  # exact in half precision, and never near the mean
    with torch.no_grad():
        zero = module(torch.zeros(1, width, device=x.device, dtype=like.dtype)).float()[0]
        for centred in (False, True):
            plain = Norm(torch.ones_like(zero), zero, centred, float(eps or 0.0))
            unit = plain.centre(x[0]) / plain.scale(x[0])
            norm = plain._replace(gain=(module(x[:1].to(like.dtype)).float()[0] - zero) / unit)
            if eps is None:  # OLMo keeps it in its code: what it does to a small input says how large it is
                small = plain.centre(1e-3 * x[0])
                scale = (norm.gain * small / (module(1e-3 * x[:1].to(like.dtype)).float()[0] - zero)).abs().median()
                norm = norm._replace(eps=float((scale.square() - small.square().mean()).clamp_min(0)))
            ours = norm.linear(3 * x[1], norm.scale(3 * x[1])) + zero
            theirs = module((3 * x[1:]).to(like.dtype)).float()[0]
            if (ours - theirs).norm() <= (1e-3 if like.dtype == torch.float32 else 5e-2) * theirs.norm():
                return norm
    raise ModelError(f"{type(module).__name__} is no norm that is known here", expected="an RMS norm or a layer norm")


# ── finding the parts ────────────────────────────────────────────────────────────────────────────────────────────────
class _Seen(NamedTuple):
    """First input and output of a module in the run, each [1, T, H] or another shape."""

    given: Tensor | None
    made: Any


def _find(model: Any) -> Anatomy:
    blocks, seen = blocks_of(model), _watch(model)
    config, width = model.config.get_text_config(), seen[model.get_input_embeddings()].made.shape[-1]
    heads = int(config.num_attention_heads)
    output = _named(_named(blocks[0], _ATTENTION, "attention"), _ATTENTION_OUTPUT, "output projection")
    head_dim = seen[output].given.shape[-1] // heads  # type: ignore[union-attr]
    key_value_heads = _key_value_heads(_named(blocks[0], _ATTENTION, "attention"), seen, heads, head_dim)
    sizes = heads, key_value_heads, head_dim
    found = tuple(_block(block, seen, sizes) for block in blocks)
    last = seen[blocks[-1]].made
    norms = [module for module, one in seen.items() if isinstance(one.made, Tensor) and _same(one.given, last)]
    if len(norms) != 1:
        raise ModelError(
            f"{type(model).__name__} has {len(norms)} modules between its last layer and its output layer",
            expected="one norm",
        )
    first = found[0]
    parallel = _same(_input_of(first.mlp, first.mlp_norm, seen), _input_of(first.attention, first.attention_norm, seen))
    return Anatomy(found, model.get_input_embeddings(), norms[0], width, heads, key_value_heads, head_dim, parallel)


def _watch(model: Any) -> dict[nn.Module, _Seen]:
    """What every module near the stream is given and makes of a few tokens."""
    seen: dict[nn.Module, _Seen] = {}

    def hook(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], made: Any) -> None:
        given = arguments[0] if arguments else named.get("hidden_states")
        seen[module] = _Seen(given, made[0] if isinstance(made, tuple) else made)

    ids = torch.tensor([probe_ids(model, PROBE_TOKENS)], device=model.device)
    with ExitStack() as stack:
        for module in trunk(model).modules():
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        trunk(model)(input_ids=ids, use_cache=False)
    return seen


def _block(block: nn.Module, seen: dict[nn.Module, _Seen], sizes: tuple[int, int, int]) -> Block:
    """One layer's parts; the writers are found by what they sum up to."""
    attention, mlp = _named(block, _ATTENTION, "attention"), _named(block, _MLP, "MLP")
    output = _named(attention, _ATTENTION_OUTPUT, "output projection")
    attention_writer, mlp_writer, scale = _writers(block, attention, mlp, seen)
    experts = isinstance(getattr(mlp, "experts", None), nn.Module)
    norms = [child for child in block.children() if child in seen and child not in (attention, mlp)]

    def before(sublayer: nn.Module) -> nn.Module | None:
        return next((norm for norm in norms if seen[norm].made is seen[sublayer].given), None)

    def behind(writer: nn.Module, sublayer: nn.Module) -> nn.Module | None:
        return writer if writer is not sublayer and not isinstance(writer, nn.Dropout) else None

    return Block(
        module=block,
        attention=attention,
        mlp=mlp,
        attention_writer=attention_writer,
        mlp_writer=mlp_writer,
        attention_norm=before(attention),
        mlp_norm=before(mlp),
        attention_post_norm=behind(attention_writer, attention),
        mlp_post_norm=behind(mlp_writer, mlp),
        **_projections(attention, seen, sizes),
        attention_output=output,
        first=None if experts else _named(mlp, _MLP_INPUT, "first projection of the MLP"),
        last=None if experts else _named(mlp, _MLP_OUTPUT, "last projection of the MLP"),
        scale=scale,
    )


def _writers(
    block: nn.Module, attention: nn.Module, mlp: nn.Module, seen: dict[nn.Module, _Seen]
) -> tuple[nn.Module, nn.Module, float]:
    """The modules whose outputs sum up to what a block adds, the sublayers themselves if they do; and times what."""
    given, made = seen[block].given, seen[block].made
    added = (made - given).float()
    others = [child for child in block.children() if child in seen and child not in (attention, mlp)]
    others = [
        child for child in others if isinstance(seen[child].made, Tensor) and seen[child].made.shape == made.shape
    ]
    tolerance = STREAM_ERROR if made.dtype == torch.float32 else 2e-2
    errors = []
    for one, other in itertools.product([attention, *others], [mlp, *others]):
        both = seen[one].made.float() + seen[other].made.float()
        scale = float((both * added).sum() / both.square().sum())
        scale = 1.0 if abs(scale - 1) < 10 * tolerance else scale
        error = float((scale * both - added).norm() / added.norm())
        errors.append(error)
        if one is not other and error <= tolerance and _behind(one, attention, seen) and _behind(other, mlp, seen):
            return one, other, scale
    raise ModelError(
        f"what a {type(block).__name__} adds to the residual stream is not the sum of two of its modules' outputs"
        f" (off by {min(errors):.2g})",
        expected="stream + attention + MLP, each with or without a norm behind it",
        do="choose another model, or teach interp/anatomy.py what the block adds",
    )


def _behind(writer: nn.Module, sublayer: nn.Module, seen: dict[nn.Module, _Seen]) -> bool:
    """Whether a module is a sublayer, or reads its output."""
    return writer is sublayer or _same(seen[writer].given, seen[sublayer].made)


def _projections(attention: nn.Module, seen: dict[nn.Module, _Seen], sizes: tuple[int, int, int]) -> dict[str, Part]:
    """Where queries, keys and values are in the outputs of modules."""
    heads, key_value_heads, head_dim = sizes
    counts = (heads, key_value_heads, key_value_heads)
    fused = _packed(attention, (*_INTERLEAVED, *_IN_TURN))
    if fused is None:
        parts = [
            Part(_named(attention, (f"{letter}_proj",), f"{letter}_proj"), _columns(0, count, head_dim, head_dim))
            for letter, count in zip("qkv", counts, strict=True)
        ]
    elif fused is _packed(attention, _INTERLEAVED):  # GPT-NeoX: each head's query, key and value side by side
        parts = [Part(fused, _columns(i * head_dim, heads, head_dim, 3 * head_dim)) for i in range(3)]
    else:  # GPT-2, Phi-3: all queries, all keys, all values
        starts = (0, heads * head_dim, (heads + key_value_heads) * head_dim)
        parts = [
            Part(fused, _columns(start, count, head_dim, head_dim)) for start, count in zip(starts, counts, strict=True)
        ]
    needed = max(int(part.columns.max()) for part in parts) + 1
    if fused is not None and seen[fused].made.shape[-1] != needed:
        raise ModelError(
            f"{type(attention).__name__} packs queries, keys and values into {seen[fused].made.shape[-1]} columns",
            expected=f"{needed}, from the configuration's number of heads",
        )
    return dict(zip(("query", "key", "value"), parts, strict=True))


def _key_value_heads(attention: nn.Module, seen: dict[nn.Module, _Seen], heads: int, head_dim: int) -> int:
    """Counted in the outputs: not every configuration says how many."""
    if (packed := _packed(attention, _IN_TURN)) is not None:
        return int((seen[packed].made.shape[-1] // head_dim - heads) // 2)
    if _packed(attention, _INTERLEAVED) is not None:
        return heads
    return int(seen[_named(attention, ("k_proj",), "k_proj")].made.shape[-1] // head_dim)


def _packed(attention: nn.Module, names: Sequence[str]) -> nn.Module | None:
    """The module that gives queries, keys and values together, if the attention has one of these names."""
    return next((getattr(attention, name) for name in names if hasattr(attention, name)), None)


def _columns(start: int, count: int, size: int, step: int) -> Tensor:
    return start + step * torch.arange(count)[:, None] + torch.arange(size)


def _named(module: nn.Module, names: Sequence[str], what: str) -> nn.Module:
    """The first child that has one of the names."""
    for name in names:
        child: Any = module
        for step in name.split("."):
            child = getattr(child, step, None)
        if isinstance(child, nn.Module):
            return child
    raise ModelError(
        f"{type(module).__name__} has no {what} that is known here",
        expected=f"one of {', '.join(names)}",
        do="choose another model, or add the name to interp/anatomy.py",
    )


def _input_of(sublayer: nn.Module, norm: nn.Module | None, seen: dict[nn.Module, _Seen]) -> Tensor | None:
    """The stream that a sublayer reads."""
    return seen[norm or sublayer].given


def _same(one: Any, other: Any) -> bool:
    """Whether two tensors are the same numbers."""
    return one is other or (
        isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)
    )


def _is_conv1d(module: Any) -> bool:
    return type(module).__name__ == "Conv1D"
