"""One forward pass in which every reader has an input of its own: what proves an edge, a path or a circuit.

The model runs on one text of each pair (the base), and along some edges it is lied to: reader v receives

    x_v = sum over writers u of  (what u writes in this very run)  or  (what u wrote on the other text)

the second along the *exchanged* edges. Writers are recomputed from the inputs that they get in this run, so that a lie
spreads on through all other edges, as in EAP-IG's evaluation (Hanna et al. 2024). Along all edges, the result is the
other text's run; along none, the base's. Behind post-norms the heads of a layer are mixed first and the norm is taken
of the mixed sum, separately for each reader: nothing is held fixed here, unlike in scores.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from steersman.interp.activations import Edit, hooks, read
from steersman.interp.anatomy import Anatomy, Part, anatomy_of, weight_of
from steersman.interp.pairs import FINAL, Pairs, Side
from steersman.interp.writes import Graph, graph_of, raw_heads, sites_of
from steersman.lm.head import evaluating, trunk


def exchanged(model: Any, pairs: Pairs, edges: Tensor, raw: Tensor, *, base: Side = "clean") -> Tensor:
    """The metric of each pair, [B], when the base text runs with some edges carrying what the other text writes.

    Args:
        edges: [W, R], True along edges that are exchanged.
        raw: [W, B, T, H], the other text's writes, as `raw_writes` gives them.
        base: ``clean`` (noising: the lie is the corrupted text's) or ``corrupt`` (denoising).
    """
    run = _Run(model, edges & graph_of(model).edges.to(edges.device), raw)
    with torch.no_grad(), evaluating(model), ExitStack() as stack:
        stack.enter_context(hooks(model, run.edits()))
        for layer, block in enumerate(run.anatomy.blocks):
            stack.callback(block.mlp.register_forward_pre_hook(run.mlp_input(layer)).remove)
        ids = pairs.clean if base == "clean" else pairs.corrupt
        states = trunk(model)(input_ids=ids, attention_mask=pairs.mask.long(), use_cache=False).last_hidden_state
        return pairs.measured(states).double()


def raw_writes(model: Any, pairs: Pairs, side: Side) -> Tensor:
    """What every writer writes on the clean or the corrupted texts, [W, B, T, H]; heads in front of a post-norm."""
    anatomy = anatomy_of(model)
    sites = read(model, pairs.rows(side), sites_of(anatomy)).sites
    found = [sites["blocks.0.hook_resid_pre"]]
    with torch.no_grad():
        for layer, block in enumerate(anatomy.blocks):
            found += [*raw_heads(block, sites[f"blocks.{layer}.attn.hook_z"]), sites[f"blocks.{layer}.hook_mlp_out"]]
    return torch.stack(found)


class _Run:
    """What a run knows so far: of each writer, the other text's write minus its own; and the streams."""

    def __init__(self, model: Any, edges: Tensor, raw: Tensor) -> None:
        self.anatomy: Anatomy = anatomy_of(model)
        self.graph: Graph = graph_of(model)
        self.edges, self.other = edges, raw
        self.lies = torch.zeros_like(raw)
        self.summed: list[Tensor] = []  # of each layer, W_O z with its bias, where a norm stands behind it
        self.stream = self.middle = raw[0]
        self.inputs: dict[str, Tensor] = {}  # of heads' readers in this layer, behind the norm in front of them
        wide = self.anatomy.heads + 2 * self.anatomy.key_value_heads + 1
        self.first_reader = [wide * layer for layer in range(self.anatomy.layers)]

    def edits(self) -> list[tuple[str, Edit]]:
        """Hooks at all sites that are read or changed."""
        found: list[tuple[str, Edit]] = []
        for layer in range(self.anatomy.layers):
            found += [
                (f"blocks.{layer}.hook_resid_pre", self._enter(layer)),
                (f"blocks.{layer}.attn.hook_z", self._heads(layer)),
                (f"blocks.{layer}.hook_attn_out", self._attended),
                (f"blocks.{layer}.hook_mlp_out", self._mlp(layer)),
            ]
            for kind in "qkv":
                if self._readers(layer, kind).any():
                    found.append((f"blocks.{layer}.attn.hook_{kind}", self._projection(layer, kind)))
        last = f"blocks.{self.anatomy.layers - 1}.hook_resid_post"
        return [*found, (last, self._leave), (FINAL, self._logits)]

    def changed(self, readers: Tensor) -> Tensor:
        """What must be added to the stream to make these readers' inputs, [r, B, T, H]; readers: [r] indices."""
        edges = self.edges[:, readers].to(self.lies)
        plain, heads = edges.clone(), self.anatomy.heads
        behind = [layer for layer, block in enumerate(self.anatomy.blocks) if block.attention_post_norm is not None]
        rows = {layer: slice(1 + layer * (heads + 1), 1 + layer * (heads + 1) + heads) for layer in behind}
        for layer in behind:
            plain[rows[layer]] = 0
        count = int(plain.any(1).nonzero().max()) + 1 if plain.any() else 0
        added = (plain[:count].T @ self.lies[:count].flatten(1)).view(len(readers), *self.lies.shape[1:])
        for layer in behind:
            asked = edges[rows[layer]]
            if asked.any():
                norm, own = self.anatomy.blocks[layer].attention_post_norm, self.summed[layer]
                mixed = own + torch.einsum("hr,hbtd->rbtd", asked, self.lies[rows[layer]])
                added += _plainly(norm, mixed) - _plainly(norm, own)
        return added

    def _readers(self, layer: int, kind: str) -> Tensor:
        """Indices of a layer's readers of one kind that are lied to."""
        heads, groups = self.anatomy.heads, self.anatomy.key_value_heads
        start, size = {
            "q": (0, heads),
            "k": (heads, groups),
            "v": (heads + groups, groups),
            "m": (heads + 2 * groups, 1),
        }[kind]
        readers = self.first_reader[layer] + start + torch.arange(size)
        return readers[self.edges[:, readers].any(0)]

    def _enter(self, layer: int) -> Edit:
        def run(stream: Tensor) -> None:
            self.stream = stream
            if layer == 0:
                self.lies[0] = self.other[0] - stream
            self.inputs.clear()
            norm = self.anatomy.blocks[layer].attention_norm
            for kind in "qkv":
                if len(readers := self._readers(layer, kind)):
                    self.inputs[kind] = _plainly(norm, stream + self.changed(readers))

        return run

    def _projection(self, layer: int, kind: str) -> Edit:
        block = self.anatomy.blocks[layer]
        part = {"q": block.query, "k": block.key, "v": block.value}[kind]
        heads = [self.graph.readers[int(reader)].head for reader in self._readers(layer, kind)]
        weight, bias = _columns(part, heads)

        def run(own: Tensor) -> Tensor:
            new = own.clone()
            new[:, :, heads] = torch.einsum("rbth,rdh->btrd", self.inputs[kind], weight) + bias
            return new

        return run

    def _heads(self, layer: int) -> Edit:
        block, first = self.anatomy.blocks[layer], 1 + layer * (self.anatomy.heads + 1)

        def run(z: Tensor) -> None:
            own = raw_heads(block, z)
            self.lies[first : first + len(own)] = self.other[first : first + len(own)] - own
            bias = block.attention_bias
            self.summed.append(own.sum(0) if bias is None else own.sum(0) + bias)

        return run

    def _attended(self, write: Tensor) -> None:
        self.middle = self.stream if self.anatomy.parallel else self.stream + write

    def mlp_input(self, layer: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]:
        """A pre-hook for the MLP, which has no site of its own in front of it."""
        norm = self.anatomy.blocks[layer].mlp_norm

        def run(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if not len(readers := self._readers(layer, "m")):
                return None
            # In a parallel block the MLP may come before the attention: both read the stream that entered.
            stream = self.stream if self.anatomy.parallel else self.middle
            return (_plainly(norm, stream + self.changed(readers)[0]), *given[1:])

        return run

    def _mlp(self, layer: int) -> Edit:
        writer = (layer + 1) * (self.anatomy.heads + 1)

        def run(write: Tensor) -> None:
            self.lies[writer] = self.other[writer] - write

        return run

    def _leave(self, stream: Tensor) -> None:
        self.stream = stream

    def _logits(self, own: Tensor) -> Tensor | None:
        reader = torch.tensor([len(self.graph.readers) - 1])
        if not self.edges[:, reader].any():
            return None
        return _plainly(self.anatomy.final_norm, self.stream + self.changed(reader)[0])


def _columns(part: Part, heads: list[int]) -> tuple[Tensor, Tensor]:
    """Weight, [r, head_dim, H], and bias, [r, head_dim], of some heads' projections."""
    weight, columns = weight_of(part.module), part.columns.to(weight_of(part.module).device)[heads]
    bias = getattr(part.module, "bias", None)
    return weight[columns], torch.zeros(columns.shape).to(weight) if bias is None else bias[columns]


def _plainly(norm: nn.Module | None, x: Tensor) -> Tensor:
    """What a norm makes of x, without the hooks that are on it; x itself without a norm."""
    return x if norm is None else norm.forward(x)
