"""Circuits: the edges between heads and MLPs that carry a behaviour, found by EAP with integrated gradients.

Edge attribution patching (Syed et al. 2023) with integrated gradients at the inputs (Hanna et al. 2024, "Have Faith in
Faithfulness"): the effect on the metric m of exchanging what writer u tells reader v, to first order, the gradient
averaged over m inputs between the corrupted and the clean embeddings:

    score(u -> v) = sum over positions of (u_corrupt - u_clean) . mean over k < steps of grad_v m(z' + k/steps (z - z'))

with the published convention: negative where the clean write raises the metric. What differs from the code of EAP-IG:

- Behind post-norms (Gemma 2 and 3, OLMo 2) a head's write is what reaches the stream, each run's own scale held fixed:
  u = g * W_O^h z_h / rms(W_O z). These add up to what the attention wrote, in both runs. The published code takes
  W_O^h z_h, of which the stream sees nothing.
- Query heads that share a key and a value share one reader of each, instead of pretending to copies.
- Embeddings of positions belong to the input node. Biases are no nodes.

A circuit is a set of edges, [W, R]. It is judged by running the model with all *other* edges exchanged (`edges.py`,
where post-norms are computed anew from the mixed sum):

    faithfulness f(C) = (m(C) - m_corrupt) / (m_clean - m_corrupt)    of means over pairs; all edges: 1, none: 0
    completeness = 1 - f(everything but C)                            what is lost without C (Wang et al. 2022)
    CPR = integral of f, CMD = integral of |1 - f| over the share of edges from 0 to 1 (Mueller et al. 2025, MIB)

and beside it random circuits of the same number of edges, grown from the logits in the same way.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from steersman.errors import DataError
from steersman.interp.activations import Edit, captured, hooks, read
from steersman.interp.anatomy import Anatomy, anatomy_of, weight_of
from steersman.interp.edges import exchanged, raw_writes
from steersman.interp.pairs import FINAL, Pairs
from steersman.interp.writes import Graph, graph_of, written
from steersman.lm.head import evaluating, trunk

STEPS = 5
TOKENS = 512  # of texts that are worked on at once
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # of edges, as in MIB
Choice = Literal["greedy", "top"]


# ── scores ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def edge_scores(model: Any, pairs: Pairs, steps: int = STEPS) -> Tensor:
    """EAP-IG of every edge, [W, R] in units of the metric, the mean over pairs; 0 where there is no edge.

    Args:
        steps: gradients on the way from corrupted to clean embeddings; 1 for the corrupted input's alone.
    """
    graph = graph_of(model)
    scores = torch.zeros(graph.edges.shape, dtype=torch.float64, device=pairs.clean.device)
    for part in pairs.parts(TOKENS):
        rows, other = part.rows("clean"), part.rows("corrupt")
        clean, corrupt = (read(model, some, ["hook_embed"]).sites["hook_embed"] for some in (rows, other))
        difference = written(model, other).writes - written(model, rows).writes
        for step in range(steps):
            _add_scores(model, part, corrupt + step / steps * (clean - corrupt), difference, scores)
    return torch.where(graph.edges.to(scores.device), scores / (steps * len(pairs)), 0)


def _add_scores(model: Any, pairs: Pairs, embedded: Tensor, difference: Tensor, scores: Tensor) -> None:
    """Add one step's products of differences, [W, B, T, H], and readers' gradients to the scores."""
    anatomy, width = anatomy_of(model), scores.shape[1] // anatomy_of(model).layers
    heads, start = anatomy.heads, int((pairs.clean != pairs.corrupt).any(0).nonzero().min())
    states, gradients = _backward(model, pairs, embedded)
    flat = difference[:, :, start:].flatten(1)  # before the first token that differs nothing does

    def add(reader: int, writers: int, gradient: Tensor) -> None:  # [r, B, T, H]
        found = flat[:writers] @ gradient.flatten(1).T
        scores[:writers, reader : reader + len(gradient)] += found.double()

    for layer in range(anatomy.layers):
        block, at = anatomy.blocks[layer], f"blocks.{layer}"
        parts = [("q", block.query), ("k", block.key), ("v", block.value)]
        asked = torch.cat([_by_head(part, gradients[f"{at}.attn.hook_{kind}"][:, start:]) for kind, part in parts])
        stream = states[f"{at}.hook_resid_pre"][:, start:]
        middle = stream if anatomy.parallel else states[f"{at}.hook_resid_mid"][:, start:]
        asked = _through(block.attention_norm, stream, asked)
        own = _through(block.mlp_norm, middle, gradients[f"{at}.mlp"][None, :, start:])
        add(width * layer, 1 + layer * (heads + 1) + heads, torch.cat([asked, own]))
    add(scores.shape[1] - 1, len(scores), gradients[_last(anatomy)][None, :, start:])


def _backward(model: Any, pairs: Pairs, embedded: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """States that readers read, and the metric's gradients behind the norms in front of them, by name."""
    anatomy, inputs = anatomy_of(model), {}
    names = [f"blocks.{layer}.attn.hook_{kind}" for layer in range(anatomy.layers) for kind in "qkv"]
    names += [_last(anatomy), FINAL]
    streams = ["hook_resid_pre"] if anatomy.parallel else ["hook_resid_pre", "hook_resid_mid"]
    states: dict[str, Tensor] = {}

    def keep(name: str) -> Edit:
        def run(stream: Tensor) -> None:
            states[name] = stream.detach()

        return run

    def of_its_own(name: str) -> Any:
        """The MLP's input as a tensor that nothing else reads: what its gradient is, comes through the MLP."""

        def run(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            inputs[name] = given[0].clone()
            return (inputs[name], *given[1:])

        return run

    edits: list[tuple[str, Edit]] = [("hook_embed", lambda _: embedded.detach().requires_grad_())]
    edits += [(at, keep(at)) for at in (f"blocks.{i}.{s}" for i in range(anatomy.layers) for s in streams)]
    with evaluating(model), torch.enable_grad(), ExitStack() as stack:
        stack.enter_context(hooks(model, edits))
        kept = stack.enter_context(captured(model, names, gradients=True))
        for layer, block in enumerate(anatomy.blocks):
            stack.callback(block.mlp.register_forward_pre_hook(of_its_own(f"blocks.{layer}.mlp")).remove)
        trunk(model)(input_ids=pairs.clean, attention_mask=pairs.mask.long(), use_cache=False)
    wanted = inputs | {name: kept[name] for name in names if name != FINAL}
    found = torch.autograd.grad(pairs.measured(kept[FINAL]).sum(), list(wanted.values()))
    return states, dict(zip(wanted, found, strict=True))


def _by_head(part: Any, gradient: Tensor) -> Tensor:
    """Gradient at each head's projection, [B, T, h, head_dim], as one at its input, [h, B, T, H]."""
    weight = weight_of(part.module).detach()
    return torch.einsum("bthd,hdi->hbti", gradient, weight[part.columns.to(weight.device)])


def _through(norm: nn.Module | None, stream: Tensor, behind: Tensor) -> Tensor:
    """Gradient at the stream that each of r readers reads, of theirs behind the norm, [r, B, T, H]."""
    if norm is None:
        return behind
    with torch.enable_grad():
        copies = stream.expand_as(behind).clone().requires_grad_()
        return torch.autograd.grad(norm(copies), copies, behind)[0]


def _last(anatomy: Anatomy) -> str:
    return f"blocks.{anatomy.layers - 1}.hook_resid_post"


# ── circuits ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def circuit(graph: Graph, scores: Tensor, size: int, choice: Choice = "greedy") -> Tensor:
    """The edges of a circuit, [W, R], pruned: so that there can be fewer than were asked for.

    Args:
        size: how many edges are chosen.
        choice: ``top`` takes the largest |scores|; ``greedy`` grows from the logits, each time by the largest |score|
            of an edge into a part that is in already, as Dijkstra's algorithm does.
    """
    if not 0 <= size <= int(graph.edges.sum()):
        raise DataError(f"a circuit of {size} edges", expected=f"0 to {int(graph.edges.sum())}")
    strength = torch.where(graph.edges, scores.abs().cpu().double(), -1.0)
    if choice == "top":
        chosen = torch.zeros_like(graph.edges)
        chosen.view(-1)[strength.flatten().argsort(descending=True, stable=True)[:size]] = True
    else:
        chosen = _grown(graph, strength, size)
    return pruned(graph, chosen)


def _grown(graph: Graph, strength: Tensor, size: int) -> Tensor:
    chosen, seen = torch.zeros_like(graph.edges), set[int]()
    heap: list[tuple[float, int, int]] = []
    values, edges, owners = strength.tolist(), graph.edges.T.tolist(), graph.owners.tolist()

    def enter(reader: int) -> None:
        if reader not in seen:
            seen.add(reader)
            for writer, there in enumerate(edges[reader]):
                if there:
                    heapq.heappush(heap, (-values[writer][reader], writer, reader))

    enter(len(graph.readers) - 1)
    for _ in range(size):
        if not heap:
            break
        _, writer, reader = heapq.heappop(heap)
        chosen[writer, reader] = True
        for part, owned in enumerate(owners[writer]):
            if owned:
                enter(part)
    return chosen


def pruned(graph: Graph, edges: Tensor) -> Tensor:
    """The edges that lie on a way from the input to the logits.

    What dangles has no effect on any metric. Only in OLMo 2 it has a little: its norms of queries and keys span all
    heads of a layer.
    """
    edges, owners = edges & graph.edges, graph.owners
    while True:
        heard = (owners & edges.any(0)).any(1)  # writers of which some input is in the circuit
        heard[0] = True
        alive = heard & edges.any(1)
        read_by = (owners & alive[:, None]).any(0)
        read_by[-1] = True
        kept = edges & alive[:, None] & read_by
        if torch.equal(kept, edges):
            return kept
        edges = kept


def random_circuit(graph: Graph, size: int, seed: int) -> Tensor:
    """A circuit grown from the logits by random scores: chance, with the same shape of search.

    It has at least ``size`` edges after pruning, and few more: of edges that grow at random many dangle, so that more
    are grown until enough are left.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(graph.edges.shape, generator=generator, dtype=torch.float64)
    low, high = size, int(graph.edges.sum())
    while low < high:  # a longer growth contains a shorter one
        middle = (low + high) // 2
        if int(circuit(graph, scores, middle).sum()) >= size:
            high = middle
        else:
            low = middle + 1
    return circuit(graph, scores, low)


# ── what circuits are worth ──────────────────────────────────────────────────────────────────────────────────────────
def evaluate(model: Any, pairs: Pairs, circuits: Sequence[Tensor]) -> list[Tensor]:
    """The metric of each pair, [B], with each circuit's edges clean and all others corrupted."""
    graph = graph_of(model)
    found: list[list[Tensor]] = [[] for _ in circuits]
    for part in pairs.parts(TOKENS):
        raw = raw_writes(model, part, "corrupt")
        for values, kept in zip(found, circuits, strict=True):
            values.append(exchanged(model, part, graph.edges & ~kept, raw))
    return [torch.cat(values) for values in found]


def ablated(model: Any, pairs: Pairs, edges: Sequence[tuple[int, int]]) -> Tensor:
    """Exactly what `edge_scores` estimates: the change of the mean metric when one edge alone is corrupted, [n]."""
    graph, whole = graph_of(model), float(pairs.at_clean.mean())
    circuits = []
    for edge in edges:
        kept = graph.edges.clone()
        kept[edge] = False
        circuits.append(kept)
    return torch.stack([values.mean() for values in evaluate(model, pairs, circuits)]) - whole


class Curve(NamedTuple):
    """Circuits of growing size.

    Attributes:
        sizes: edges asked for; edges: those left by pruning.
        faithfulness, completeness: of each.
        random: faithfulness of random circuits, a list for each size; random_completeness: theirs.
        cpr, cmd: integrals over the share of edges; random_cpr, random_cmd: of each random series.
        total: edges of the whole graph.
    """

    sizes: tuple[int, ...]
    edges: tuple[int, ...]
    faithfulness: tuple[float, ...]
    completeness: tuple[float, ...]
    random: tuple[tuple[float, ...], ...]
    cpr: float
    cmd: float
    random_cpr: tuple[float, ...]
    random_cmd: tuple[float, ...]
    total: int


def curve(
    model: Any,
    pairs: Pairs,
    scores: Tensor,
    shares: Sequence[float] = SHARES,
    randoms: int = 10,
    choice: Choice = "greedy",
    seed: int = 0,
) -> Curve:
    """Faithfulness and completeness of circuits of growing size, beside random circuits of the same sizes.

    Args:
        shares: of all edges, between 0 and 1; the ends are known.
        randoms: random circuits of each size.
    """
    graph = graph_of(model)
    total = int(graph.edges.sum())
    sizes = sorted({max(1, round(share * total)) for share in shares})
    ours = [circuit(graph, scores, size, choice) for size in sizes]
    chance = [random_circuit(graph, int(one.sum()), seed + i) for one in ours for i in range(randoms)]
    rest = [graph.edges & ~one for one in ours]
    values = [pairs.faithfulness(value) for value in evaluate(model, pairs, [*ours, *rest, *chance])]
    count = len(sizes)
    faithful, random = values[:count], values[2 * count :]
    by_size = tuple(tuple(random[i * randoms : (i + 1) * randoms]) for i in range(count))
    series = [faithful, *([one[i] for one in by_size] for i in range(randoms))]
    areas = [_areas([size / total for size in sizes], one) for one in series]
    return Curve(
        tuple(sizes),
        tuple(int(one.sum()) for one in ours),
        tuple(faithful),
        tuple(1 - value for value in values[count : 2 * count]),
        by_size,
        *areas[0],
        tuple(cpr for cpr, _ in areas[1:]),
        tuple(cmd for _, cmd in areas[1:]),
        total,
    )


def _areas(shares: Sequence[float], faithfulness: Sequence[float]) -> tuple[float, float]:
    """CPR and CMD by trapezia, from no edge (0) to all of them (1)."""
    x = torch.tensor([0.0, *shares, 1.0], dtype=torch.float64)
    f = torch.tensor([0.0, *faithfulness, 1.0], dtype=torch.float64)
    return float(torch.trapezoid(f, x)), float(torch.trapezoid((1 - f).abs(), x))
