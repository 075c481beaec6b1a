"""Reading and changing what passes through a decoder, with plain PyTorch hooks on the Hugging Face model.

Sites have TransformerLens' names (Nanda & Bloom 2022), so that what is published with them can be followed:

    hook_embed                          token embeddings, [B, T, H]
    blocks.5.hook_resid_pre             residual stream before layer 5, [B, T, H]
    blocks.5.hook_attn_out              what attention adds to it, [B, T, H]: *behind* the post-norm, where there is one
    blocks.5.hook_resid_mid             the stream between attention and MLP, [B, T, H]; not in parallel blocks
    blocks.5.hook_mlp_out               what the MLP adds, [B, T, H]: behind the post-norm
    blocks.5.hook_resid_post            the stream after layer 5, [B, T, H]
    blocks.5.attn.hook_q, hook_k, hook_v    projections, [B, T, heads, head_dim], before norms of heads and rotation
    blocks.5.attn.hook_z                weighted values, [B, T, heads, head_dim]: input of the output projection
    blocks.5.attn.hook_pattern          attention, [B, heads, T, T]; to read only, with attn_implementation="eager"
    blocks.5.mlp.hook_pre, hook_post    of the MLP's first projection (a gated one's gate), and input of its last
    ln_final.hook_normalized            behind the final norm, [B, T, H]: what the output layer reads

and the path of any module (``model.layers.5.mlp``) names its output. With a KV cache T is the tokens of one step.

A hook that never fired is an error: a name that is right and does nothing is how interventions fail silently. Hooks
work in evaluation and in training, with gradients, under ``generate`` and under Steersman's sampler. With dropout in
training, ``hook_attn_out`` and ``hook_mlp_out`` of GPT-2 and Phi are before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from steersman.errors import ModelError
from steersman.interp.anatomy import STREAM_ERROR, Anatomy, Block, Part, anatomy_of
from steersman.lm.head import evaluating, probe_ids, trunk

Edit = Callable[[Tensor], Tensor | None]
"""Given a site's activation, what stands there instead; None leaves it."""

OF_BLOCK = (
    "hook_resid_pre",
    "hook_attn_out",
    "hook_resid_mid",
    "hook_mlp_out",
    "hook_resid_post",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_z",
    "attn.hook_pattern",
    "mlp.hook_pre",
    "mlp.hook_post",
)
_IN_STREAM = (
    "hook_resid_pre",
    *(f"attn.hook_{part}" for part in ("q", "k", "v", "pattern", "z")),
    "hook_attn_out",
    "hook_resid_mid",
    *(f"mlp.hook_{part}" for part in ("pre", "post")),
    "hook_mlp_out",
    "hook_resid_post",
)
_IN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_CHECKED = "_steersman_sites"
PROBE_TOKENS = 6


class Activations(NamedTuple):
    """What was read of some texts, padded on the right.

    Attributes:
        sites: [B, T, ...] by name.
        mask: [B, T], True at tokens that are no padding.
    """

    sites: dict[str, Tensor]
    mask: Tensor

    @property
    def last(self) -> Tensor:
        """Index of each text's last token, [B]."""
        return self.mask.sum(1) - 1

    def at(self, name: str, offset: int = -1) -> Tensor:
        """A site at the last token of each text (-1), the one before it (-2) and so on, [B, ...]."""
        rows = torch.arange(len(self.mask), device=self.mask.device)
        return self.sites[name][rows, self.last + offset + 1]


def site_names(model: Any) -> list[str]:
    """All names of a model's sites, from the embedding up; paths of modules are names too."""
    anatomy = anatomy_of(model)
    found = ["hook_embed"]
    for layer, block in enumerate(anatomy.blocks):
        lacks = ["hook_resid_mid"] if anatomy.parallel else []
        lacks += ["mlp.hook_pre", "mlp.hook_post"] if block.first is None else []
        found += [f"blocks.{layer}.{name}" for name in OF_BLOCK if name not in lacks]
    return [*found, "ln_final.hook_normalized"]


@contextmanager
def hooks(model: Any, edits: Mapping[str, Edit] | Iterable[tuple[str, Edit]]) -> Iterator[dict[str, int]]:
    """The model with edits at some sites; yields how often each fired.

    Args:
        edits: of one site several may be given as pairs; they apply in order. Sites apply in the order of the stream.

    Raises:
        ModelError: no such site; or, at the end, an edit that never fired.
    """
    pairs = sorted(edits.items() if isinstance(edits, Mapping) else edits, key=lambda pair: _place(pair[0]))
    fired = dict.fromkeys((name for name, _ in pairs), 0)

    def counting(name: str, edit: Edit) -> Edit:
        def run(value: Tensor) -> Tensor | None:
            fired[name] += 1
            return edit(value)

        return run

    with ExitStack() as stack:
        if pairs:  # a model whose parts are not known can be run without hooks
            anatomy = anatomy_of(model)
            for name, edit in pairs:
                _attach(stack, model, anatomy, name, counting(name, edit))
        yield fired
    if silent := sorted(name for name, count in fired.items() if not count):
        raise ModelError(
            f"hooks that never fired: {', '.join(silent)}",
            expected="a forward pass through each of them",
            do="run this model inside the hooks, and not a copy of it; read patterns with attn_implementation='eager'",
        )


@contextmanager
def captured(model: Any, names: Sequence[str], *, gradients: bool = False) -> Iterator[dict[str, Tensor]]:
    """Within it, every forward pass leaves its activations in the yielded dictionary.

    Args:
        gradients: keep them as parts of the graph, for ``torch.autograd.grad``.
    """
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Edit:
        def run(value: Tensor) -> Tensor | None:
            kept[name] = value if gradients else value.detach()
            # Columns and heads are cut out of a module's output: put back, they lie on the way to the result.
            return value if gradients and not name.endswith("hook_pattern") else None

        return run

    with hooks(model, [(name, keep(name)) for name in names]):
        yield kept


def read(model: Any, rows: Sequence[Sequence[int]], names: Sequence[str], *, gradients: bool = False) -> Activations:
    """One forward pass over some token ids, up to the last layer that is needed, without the output layer.

    Args:
        rows: token ids of each text.
        gradients: build the graph from the embeddings on, for ``torch.autograd.grad``.
    """
    ids, mask = padded(model, rows)
    layers = [int(found[1]) for name in names if (found := _IN_BLOCK.fullmatch(name))]
    anatomy = anatomy_of(model)
    blocks = anatomy.blocks
    above = max(layers, default=0) + 1 if len(layers) == len(names) else len(blocks)
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(gradients))
        stack.enter_context(evaluating(model))
        if gradients:  # of a model that does not learn, too
            _attach(
                stack,
                model,
                anatomy_of(model),
                "hook_embed",
                lambda x: x if x.requires_grad else x.detach().requires_grad_(),
            )
        kept = stack.enter_context(captured(model, names, gradients=gradients))
        if above < len(blocks):
            stack.callback(blocks[above].module.register_forward_pre_hook(_stop).remove)
        with suppress(_Read):
            trunk(model)(input_ids=ids, attention_mask=mask.long(), use_cache=False)
    return Activations(kept, mask)


def run_with_cache(
    model: Any, rows: Sequence[Sequence[int]], names_filter: Callable[[str], bool] | Sequence[str] | None = None
) -> tuple[Tensor, Activations]:
    """TransformerLens' verb: final hidden states, [B, T, H], and the activations whose names pass the filter.

    The output layer is not run, because of a long text its logits fill the memory: see `lm.head.head_of`.
    """
    if names_filter is None:
        names = [name for name in site_names(model) if not name.endswith("hook_pattern")]
    elif callable(names_filter):
        names = [name for name in site_names(model) if names_filter(name)]
    else:
        names = list(names_filter)
    final = "ln_final.hook_normalized"
    found = read(model, rows, [*dict.fromkeys([*names, final])])
    return found.sites[final], Activations({name: found.sites[name] for name in names}, found.mask)


def padded(model: Any, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and mask, [B, T] each, padded on the right."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long, device=model.device)
    mask = torch.zeros(len(rows), width, dtype=torch.bool, device=model.device)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = True
    return ids, mask


class _Read(Exception):
    """Ends a forward pass above the last layer that is read."""


def _stop(*_: Any) -> None:
    raise _Read


# ── self-test ────────────────────────────────────────────────────────────────────────────────────────────────────────
class SelfTest(NamedTuple):
    """What `self_test` found; the two differences are relative.

    Attributes:
        stream: between the last layer's output and the sum of the embedding and all that the layers add.
        post_norm, parallel: how the blocks are built (see `Anatomy`).
    """

    sites: int
    stream: float
    post_norm: bool
    parallel: bool


def self_test(model: Any) -> SelfTest:
    """Hooks at every site, on a few tokens: each fires, putting back what was read changes nothing, the stream sums up.

    Raises:
        ModelError: one of these does not hold; then no figure about this model's inside can be trusted.
    """
    anatomy = anatomy_of(model)
    known: tuple[Anatomy, SelfTest] | None = model.__dict__.get(_CHECKED)
    if known is not None and known[0] is anatomy:
        return known[1]
    names = [name for name in site_names(model) if not name.endswith("hook_pattern")]
    ids = torch.tensor([probe_ids(model, PROBE_TOKENS)], device=model.device)
    with torch.no_grad(), evaluating(model):
        plain = trunk(model)(input_ids=ids, use_cache=False).last_hidden_state
        with hooks(model, dict.fromkeys(names, torch.clone)):
            same = trunk(model)(input_ids=ids, use_cache=False).last_hidden_state
        kept = read(model, ids.tolist(), names).sites
    if not torch.equal(plain, same):
        raise ModelError(
            f"hooks that put back what they read change {type(model).__name__}'s output"
            f" (by up to {float((plain - same).abs().max()):.2g})",
            do="choose another model, or mend interp/activations.py",
        )
    total = kept["blocks.0.hook_resid_pre"].float()
    for layer in range(anatomy.layers):
        total = total + kept[f"blocks.{layer}.hook_attn_out"].float() + kept[f"blocks.{layer}.hook_mlp_out"].float()
    end = kept[f"blocks.{anatomy.layers - 1}.hook_resid_post"].float()
    error = float((total - end).norm() / end.norm())
    if not error <= (STREAM_ERROR if plain.dtype == torch.float32 else 5e-2):
        raise ModelError(
            f"{type(model).__name__}'s layers do not sum up to its residual stream (off by {error:.2g})",
            do="choose another model, or mend interp/anatomy.py",
        )
    for layer in sorted({0, anatomy.layers - 1}):
        _check_heads(model, layer, ids)
    found = SelfTest(len(names), error, anatomy.post_norm, anatomy.parallel)
    model.__dict__[_CHECKED] = (anatomy, found)
    return found


def _check_heads(model: Any, layer: int, ids: Tensor) -> None:
    """Queries, keys and values of each head are where they are taken from: what an edit of one changes, and what not.

    With the sign of a head's value turned at one token, its query heads give something else from there on; with that of
    its key, too; with that of a query, at this token alone. A sign, because a norm over all heads does not see it.

    Raises:
        ModelError: they are not.
    """
    anatomy, z, middle = anatomy_of(model), f"blocks.{layer}.attn.hook_z", PROBE_TOKENS // 2
    plain = read(model, ids.tolist(), [z]).sites[z][0]  # [T, heads, head_dim]
    group = anatomy.heads // anatomy.key_value_heads

    def at(head: int) -> Edit:
        def edit(x: Tensor) -> Tensor:
            new = x.clone()
            new[:, middle, head] *= -1
            return new

        return edit

    heads = {"q": anatomy.heads, "k": anatomy.key_value_heads, "v": anatomy.key_value_heads}
    for letter, count in heads.items():
        for head in range(count):
            with torch.no_grad(), evaluating(model), hooks(model, {f"blocks.{layer}.attn.hook_{letter}": at(head)}):
                moved = (read(model, ids.tolist(), [z]).sites[z][0] - plain).abs().amax(-1) > 1e-6 * plain.abs().max()
            own = [head] if letter == "q" else list(range(head * group, (head + 1) * group))
            others = [other for other in range(anatomy.heads) if other not in own]
            spread = moved[middle + 1 :, own].any() == (letter != "q")
            if moved[:, others].any() or moved[:middle].any() or not moved[middle:, own].any(0).all() or not spread:
                raise ModelError(
                    f"the {letter} of head {head} in layer {layer} of {type(model).__name__} is not where it is looked"
                    " for: an edit of it changes other heads or tokens",
                    do="choose another model, or teach interp/anatomy.py how its attention packs them",
                )


# ── sites ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def _place(name: str) -> tuple[int, int]:
    """Where a site is in the stream: what is read between two sublayers must be read after what was changed before."""
    found = _IN_BLOCK.fullmatch(name)
    if found is None or found[2] not in OF_BLOCK:
        return (-1, 0) if name == "hook_embed" else (10**6, 0)
    return int(found[1]), _IN_STREAM.index(found[2])


def _attach(stack: ExitStack, model: Any, anatomy: Anatomy, name: str, edit: Edit) -> None:
    """Put an edit at a site, until the stack is closed."""
    if name == "hook_embed":
        return _at_output(stack, anatomy.embedding, edit)
    if name == "ln_final.hook_normalized":
        return _at_output(stack, anatomy.final_norm, edit)
    if (found := _IN_BLOCK.fullmatch(name)) is None:
        return _at_output(stack, _module(model, name), edit)
    layer, site = int(found[1]), found[2]
    if layer >= anatomy.layers or site not in OF_BLOCK or (anatomy.parallel and site == "hook_resid_mid"):
        raise _unknown(model, name)
    block = anatomy.blocks[layer]
    if site == "hook_resid_mid":
        return _at_middle(stack, block, edit)
    if site == "attn.hook_pattern":
        return _at_pattern(stack, block.attention, edit)
    if site in ("attn.hook_q", "attn.hook_k", "attn.hook_v"):
        part = {"q": block.query, "k": block.key, "v": block.value}[site[-1]]
        return _at_output(stack, part.module, _on_columns(part, edit))
    if site == "attn.hook_z":
        return _at_input(stack, block.attention_output, _by_head(anatomy, edit))
    if site == "mlp.hook_post":
        return _at_input(stack, block.mlp_output, edit)
    if site == "hook_resid_pre":
        return _at_input(stack, block.module, edit)
    outputs = {
        "hook_attn_out": block.attention_writer,
        "hook_mlp_out": block.mlp_writer,
        "hook_resid_post": block.module,
    }
    if site in ("hook_attn_out", "hook_mlp_out"):
        edit = _scaled(block, edit)
    return _at_output(stack, block.mlp_input if site == "mlp.hook_pre" else outputs[site], edit)


def _at_output(stack: ExitStack, module: nn.Module, edit: Edit) -> None:
    def hook(module: nn.Module, _: Any, output: Any) -> Any:
        packed = isinstance(output, tuple)
        value = output[0] if packed else output
        if not isinstance(value, Tensor):
            raise ModelError(
                f"a {type(module).__name__} gives a {type(value).__name__} and no tensor",
                expected="a site with one tensor, such as blocks.0.hook_resid_post",
            )
        new = edit(value)
        if new is None:
            return None
        return (new, *output[1:]) if packed else new

    stack.callback(module.register_forward_hook(hook).remove)


def _at_input(stack: ExitStack, module: nn.Module, edit: Edit) -> None:
    def hook(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        new = edit(arguments[0] if arguments else named["hidden_states"])
        if new is None:
            return None
        return ((new, *arguments[1:]), named) if arguments else (arguments, {**named, "hidden_states": new})

    stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)


def _at_middle(stack: ExitStack, block: Block, edit: Edit) -> None:
    """The stream between attention and MLP is in no module's output: what attention adds is changed by the edit."""
    before: list[Tensor] = []

    def entered(stream: Tensor) -> None:
        before[:] = [stream]

    def added(write: Tensor) -> Tensor | None:
        new = edit(before[0] + write)
        # What is subtracted is a tensor of its own: of one that the edit returned, no gradient would be left.
        return None if new is None else write + (new - (before[0] + write))

    _at_input(stack, block.module, entered)
    _at_output(stack, block.attention_writer, _scaled(block, added))


def _at_pattern(stack: ExitStack, attention: nn.Module, edit: Edit) -> None:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        pattern = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if pattern is not None and edit(pattern) is not None:
            raise ModelError(
                "attention patterns can be read and not changed: they come out of the layer beside what it computed",
                do="change attn.hook_z or attn.hook_v instead",
            )

    stack.callback(attention.register_forward_hook(hook).remove)


def _scaled(block: Block, edit: Edit) -> Edit:
    """An edit of what is added to the stream as one of the module's output, which the block multiplies."""
    if block.scale == 1:
        return edit

    def run(value: Tensor) -> Tensor | None:
        new = edit(block.scale * value)
        # Bit for bit where nothing changed; a tensor of its own is subtracted, or no gradient would be left.
        return None if new is None else value + (new - block.scale * value) / block.scale

    return run


def _by_head(anatomy: Anatomy, edit: Edit) -> Edit:
    """An edit of [B, T, heads, head_dim] as one of [B, T, heads * head_dim]."""

    def run(value: Tensor) -> Tensor | None:
        new = edit(value.view(*value.shape[:-1], anatomy.heads, anatomy.head_dim))
        return None if new is None else new.flatten(-2)

    return run


def _on_columns(part: Part, edit: Edit) -> Edit:
    """An edit of [B, T, heads, head_dim] as one of a module's output, of which it changes some columns."""

    def run(value: Tensor) -> Tensor | None:
        columns = part.columns.to(value.device)
        new = edit(value[..., columns])
        return None if new is None else value.index_copy(-1, columns.flatten(), new.flatten(-2))

    return run


def _module(model: Any, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)  # type: ignore[no-any-return]
    except AttributeError:
        raise _unknown(model, path) from None


def _unknown(model: Any, name: str) -> ModelError:
    anatomy = anatomy_of(model)
    middle = "; blocks of this model have no hook_resid_mid: attention and MLP read the same stream"
    return ModelError(
        f"{type(model).__name__} has no site {name!r}",
        expected=f"hook_embed, blocks.0 to {anatomy.layers - 1} with one of {', '.join(OF_BLOCK)},"
        f" ln_final.hook_normalized, or the path of a module{middle if anatomy.parallel else ''}",
    )
