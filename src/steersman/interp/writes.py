"""Who writes into the residual stream and who reads it: the nodes of attributions, path patching and circuits.

Writers, in the order in which they write, by the names of EAP-IG (Hanna et al. 2024):

    input          what layer 0 receives: the embeddings, of positions too where they are added (GPT-2)
    a3.h1          query head 1 of layer 3
    m3             the MLP of layer 3, with its bias

Readers, each of which has an input of its own in a circuit:

    a3.h1<q>       the query of a head
    a3.kv0<k>, <v> the key and the value of a *group*: query heads that share them share this reader
    m3             the MLP of layer 3
    logits         the final norm and the output layer

A head writes y_h = W_O^h z_h. Where a norm stands behind the attention (Gemma 2 and 3, OLMo 2), what reaches the stream
is the norm of the sum, g * y / rms(y), y = sum of y_h + bias, and no head has a write of its own until rms(y) is held
fixed: then head h writes c_h = g * y_h / rms(y), and these add up exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steersman.errors import DataError, closest
from steersman.interp.activations import read
from steersman.interp.anatomy import Anatomy, Block, anatomy_of, norm_form, weight_of


class Reader(NamedTuple):
    """One reader: its layer (None for the logits), what it is, and which query or key-value head."""

    name: str
    layer: int | None
    kind: str
    head: int


@dataclass(frozen=True)
class Graph:
    """Writers, readers, and which writer comes before which reader.

    Attributes:
        edges: [W, R], True where there is an edge.
        owners: [W, R], True where a reader is part of a writer: a head's query, the key and value of its group.
    """

    writers: tuple[str, ...]
    readers: tuple[Reader, ...]
    edges: Tensor
    owners: Tensor

    def writer(self, name: str) -> int:
        """Index of a writer."""
        return _index(name, list(self.writers), "writer")

    def reader(self, name: str) -> int:
        """Index of a reader."""
        return _index(name, [reader.name for reader in self.readers], "reader")

    def edge(self, name: str) -> tuple[int, int]:
        """Indices of ``a0.h1->m3``.

        Raises:
            DataError: no such writer, reader or edge.
        """
        writer, _, reader = name.partition("->")
        found = self.writer(writer), self.reader(reader)
        if not self.edges[found]:
            raise DataError(f"there is no edge {name}: the reader comes before the writer")
        return found

    def name(self, writer: int, reader: int) -> str:
        """The name of an edge."""
        return f"{self.writers[writer]}->{self.readers[reader].name}"


def graph_of(model: Any) -> Graph:
    """The whole graph of a model."""
    anatomy = anatomy_of(model)
    heads, groups = anatomy.heads, anatomy.key_value_heads
    writers, readers = ["input"], list[Reader]()
    before: list[int] = []  # of each reader, how many writers come before it
    owned: list[tuple[int, int]] = []
    for layer in range(anatomy.layers):
        first = len(writers)
        kinds = [("q", head) for head in range(heads)] + [(kind, group) for kind in "kv" for group in range(groups)]
        for kind, head in kinds:
            share = 1 if kind == "q" else heads // groups
            owned += [(first + one, len(readers)) for one in range(head * share, (head + 1) * share)]
            label = f"a{layer}.h{head}<q>" if kind == "q" else f"a{layer}.kv{head}<{kind}>"
            readers.append(Reader(label, layer, kind, head))
            before.append(first)
        writers += [f"a{layer}.h{head}" for head in range(heads)]
        owned.append((len(writers), len(readers)))
        readers.append(Reader(f"m{layer}", layer, "m", 0))
        before.append(first if anatomy.parallel else len(writers))
        writers.append(f"m{layer}")
    readers.append(Reader("logits", None, "logits", 0))
    before.append(len(writers))
    edges = torch.arange(len(writers))[:, None] < torch.tensor(before)[None]
    owners = torch.zeros_like(edges)
    owners[tuple(torch.tensor(owned).T)] = True
    return Graph(tuple(writers), tuple(readers), edges, owners)


class Written(NamedTuple):
    """What was written on some texts.

    Attributes:
        raw: [W, B, T, H]; of heads y_h, in front of a norm behind the attention; of the others what reaches the stream.
        writes: [W, B, T, H] what reaches the stream, of heads with rms(y) held fixed.
        biases: [L, B, T, H] what the attention's biases add: of the output projection, and of the norm behind it.
        stream: [B, T, H] behind the last layer: the sum of all writes and biases.
    """

    raw: Tensor
    writes: Tensor
    biases: Tensor
    stream: Tensor


def sites_of(anatomy: Anatomy) -> list[str]:
    """What must be read to know all writes."""
    inner = [f"blocks.{layer}.{site}" for layer in range(anatomy.layers) for site in ("attn.hook_z", "hook_mlp_out")]
    return ["blocks.0.hook_resid_pre", *inner, f"blocks.{anatomy.layers - 1}.hook_resid_post"]


def written(model: Any, rows: Sequence[Sequence[int]], positions: Tensor | None = None) -> Written:
    """Everything that is written on some texts, in one forward pass.

    Args:
        positions: [B], to keep one position of each text only, as T = 1.
    """
    anatomy = anatomy_of(model)
    sites = read(model, rows, sites_of(anatomy)).sites
    if positions is not None:
        index = torch.arange(len(rows), device=positions.device)
        sites = {name: value[index, positions][:, None] for name, value in sites.items()}
    raw, writes, biases = [sites["blocks.0.hook_resid_pre"]], [sites["blocks.0.hook_resid_pre"]], []
    with torch.no_grad():
        for layer, block in enumerate(anatomy.blocks):
            y, mlp = raw_heads(block, sites[f"blocks.{layer}.attn.hook_z"]), sites[f"blocks.{layer}.hook_mlp_out"]
            c, bias = through_post_norm(block, y, y, anatomy.width)
            raw += [*y, mlp]
            writes += [*c, mlp]
            biases.append(bias)
    last = sites[f"blocks.{anatomy.layers - 1}.hook_resid_post"]
    return Written(torch.stack(raw), torch.stack(writes), torch.stack(biases), last)


def raw_heads(block: Block, z: Tensor) -> Tensor:
    """[B, T, heads, head_dim] -> [heads, B, T, H], W_O^h z_h of each head as the block scales it, without the bias."""
    heads, size = z.shape[-2:]
    weight = weight_of(block.attention_output)
    return block.scale * torch.einsum("bthd,ohd->hbto", z, weight.view(weight.shape[0], heads, size))


def through_post_norm(block: Block, heads: Tensor, fixed: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Heads' writes with the norm behind the attention, if there is one, held at some scale.

    Args:
        heads: [heads, B, T, H], W_O^h z_h.
        fixed: the same of the run whose rms(y) is kept.

    Returns:
        [heads, B, T, H] what reaches the stream of each, and [B, T, H] what the biases add.
    """
    bias = block.attention_bias
    bias = torch.zeros_like(heads[0]) if bias is None else bias.expand_as(heads[0])
    if block.attention_post_norm is None:
        return heads, bias
    norm = norm_form(block.attention_post_norm, width)
    scale = norm.scale(fixed.sum(0) + bias)
    return norm.linear(heads, scale), norm.linear(bias, scale) + norm.bias


def _index(name: str, known: list[str], what: str) -> int:
    if name not in known:
        raise DataError(f"no {what} {name!r}", expected=closest(name, known))
    return known.index(name)
