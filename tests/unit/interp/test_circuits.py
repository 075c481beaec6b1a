"""Circuits: scores are slopes, all edges are the model and none the corrupted one, what dangles does nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from decoder_families import FAMILIES, family, oriented
from steersman.errors import DataError
from steersman.interp.activations import hooks, read
from steersman.interp.circuits import (
    _areas,
    ablated,
    circuit,
    curve,
    edge_scores,
    evaluate,
    pruned,
    random_circuit,
)
from steersman.interp.edges import exchanged, raw_writes
from steersman.interp.pairs import FINAL, Pair, Pairs
from steersman.interp.patching import path_patching
from steersman.interp.writes import graph_of

PAIRS = [Pair([5, 9, 11, 3, 8], [5, 9, 21, 3, 8], [4], [6]), Pair([7, 2, 30], [7, 2, 31], [9], [10])]


@pytest.fixture(scope="module", params=[*FAMILIES, "granite"])
def named(request: pytest.FixtureRequest) -> tuple[str, Any, Pairs]:
    model = family(request.param)
    return request.param, model, oriented(model, PAIRS)


def test_all_edges_are_the_model_and_none_the_corrupted_one(named: tuple[str, Any, Pairs]) -> None:
    _, model, pairs = named
    graph = graph_of(model)
    whole, nothing = evaluate(model, pairs, [graph.edges, torch.zeros_like(graph.edges)])
    torch.testing.assert_close(whole, pairs.at_clean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(nothing, pairs.at_corrupt, rtol=1e-4, atol=1e-4)
    assert pairs.faithfulness(whole) == pytest.approx(1, abs=1e-3)


def test_all_edges_out_of_one_writer_are_patching_of_its_activation(named: tuple[str, Any, Pairs]) -> None:
    """Of a head behind a post-norm, too: mixed with the other heads in front of the norm."""
    _, model, pairs = named
    graph, raw = graph_of(model), raw_writes(model, pairs, "corrupt")
    for writer, site in (("a1.h2", "blocks.1.attn.hook_z"), ("m1", "blocks.1.hook_mlp_out")):
        edges = torch.zeros_like(graph.edges)
        edges[graph.writer(writer)] = True
        other = read(model, pairs.rows("corrupt"), [site]).sites[site]

        def put(x: torch.Tensor, other: torch.Tensor = other) -> torch.Tensor:
            return torch.cat([x[:, :, :2], other[:, :, 2:3], x[:, :, 3:]], 2) if x.ndim == 4 else other

        with hooks(model, {site: put}):
            expected = pairs.measured(read(model, pairs.rows("clean"), [FINAL]).sites[FINAL]).double()
        torch.testing.assert_close(exchanged(model, pairs, edges, raw), expected, rtol=1e-4, atol=1e-4)


def test_pruning_changes_no_metric(named: tuple[str, Any, Pairs]) -> None:
    """But in OLMo 2, by a little: its norm of the queries spans all heads, those that dangle, too."""
    name, model, pairs = named
    graph = graph_of(model)
    for seed in range(3):
        draw = torch.rand(graph.edges.shape, generator=torch.Generator().manual_seed(seed))
        edges = graph.edges & (draw < 0.15)
        less = pruned(graph, edges)
        assert int(less.sum()) < int(edges.sum())
        before, after = evaluate(model, pairs, [edges, less])
        torch.testing.assert_close(before, after, rtol=1e-3, atol=3e-2 if name == "Olmo2" else 1e-3)


def test_scores_are_slopes_of_single_edges(named: tuple[str, Any, Pairs]) -> None:
    """With one step the gradient is the corrupted text's: an edge that carries a little of the clean write.

    Writes by heads behind a post-norm are left out: their scores hold its scale fixed, which the run does not.
    """
    name, model, pairs = named
    graph, scores = graph_of(model), edge_scores(model, pairs, steps=1)
    clean, corrupt = raw_writes(model, pairs, "clean"), raw_writes(model, pairs, "corrupt")
    assert not scores[~graph.edges].any()
    edges = ["input->a0.h1<q>", "m0->a2.h3<q>", "input->m1", "m2->logits"]
    last = max(reader.head for reader in graph.readers if reader.kind == "k")
    edges += [f"m0->a1.kv{last}<k>", "m0->a1.kv0<v>"]
    if name not in ("Gemma2", "Gemma3", "Olmo2"):
        edges += ["a0.h1->a2.h3<q>", "a1.h2->m2"]

    for edge in edges:
        along = torch.zeros_like(graph.edges)
        along[graph.edge(edge)] = True

        def measured(step: float, along: torch.Tensor = along) -> float:
            lie = corrupt + step * (clean - corrupt)
            return float(exchanged(model, pairs, along, lie, base="corrupt").mean())

        slope = (measured(2e-2) - measured(-2e-2)) / 4e-2
        assert float(-scores[graph.edge(edge)]) == pytest.approx(slope, rel=5e-2, abs=5e-4), edge


def test_the_gradient_is_averaged_on_the_way_from_corrupted_to_clean() -> None:
    """Edges of the embedding into all readers of layer 0 sum up to integrated gradients of the embedding's path."""
    model = family("GPT2")
    pairs = oriented(model, PAIRS[:1])
    scores, graph = edge_scores(model, pairs, steps=4), graph_of(model)
    rows = pairs.rows("clean"), pairs.rows("corrupt")
    clean, corrupt = (read(model, some, ["hook_embed"]).sites["hook_embed"] for some in rows)
    total = 0.0
    for step in range(4):
        middle = corrupt + step / 4 * (clean - corrupt)
        with hooks(model, {"hook_embed": lambda _, x=middle: x}):
            kept = read(model, pairs.rows("clean"), ["blocks.2.hook_resid_post", FINAL], gradients=True).sites
        (gradient,) = torch.autograd.grad(pairs.measured(kept[FINAL]).sum(), kept["blocks.2.hook_resid_post"])
        total += float((gradient * (corrupt - clean)).sum()) / 4
    assert float(scores[graph.edge("input->logits")]) == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize("name", ["GPT2", "Llama", "Gemma3"])
def test_scores_foretell_exact_ablations(name: str) -> None:
    model = family(name)
    pairs = oriented(model, PAIRS)
    graph, scores = graph_of(model), edge_scores(model, pairs)
    edges = [(int(u), int(v)) for u, v in graph.edges.nonzero()[::9]]
    exact = ablated(model, pairs, edges)
    single = path_patching(model, pairs, [graph.name(*edge) for edge in edges[:4]], "noising")
    torch.testing.assert_close(exact[:4], (single.values - pairs.at_clean).mean(1), rtol=1e-3, atol=1e-5)
    estimate = torch.stack([scores[edge] for edge in edges])
    assert float(torch.corrcoef(torch.stack([estimate, exact]))[0, 1]) > 0.8


def test_circuits_grow_from_the_logits_by_the_largest_score() -> None:
    graph = graph_of(family("Gemma3"))
    scores = torch.randn(graph.edges.shape, generator=torch.Generator().manual_seed(0)).double()
    scores[~graph.edges] = 0
    for size in (1, 7, 40):
        chosen, inside = torch.zeros_like(graph.edges), {len(graph.readers) - 1}
        for _ in range(size):  # the same, by looking through all edges each time
            edges = [(abs(float(scores[u, v])), u, v) for u, v in graph.edges.nonzero().tolist() if v in inside]
            _, u, v = max(edge for edge in edges if not chosen[edge[1], edge[2]])
            chosen[u, v] = True
            inside |= set(graph.owners[u].nonzero().flatten().tolist())
        assert torch.equal(circuit(graph, scores, size), pruned(graph, chosen))
        top = circuit(graph, scores, size, "top")
        least = scores.abs()[graph.edges].sort(descending=True).values[size - 1]
        assert torch.equal(top, pruned(graph, scores.abs() >= least))
    everything = int(graph.edges.sum())
    assert torch.equal(circuit(graph, scores, everything), graph.edges)
    assert not circuit(graph, scores, 0).any()
    with pytest.raises(DataError, match=f"0 to {everything}"):
        circuit(graph, scores, everything + 1)
    assert not torch.equal(random_circuit(graph, 60, 1), random_circuit(graph, 60, 2))


def test_pruning_keeps_ways_from_the_input_to_the_logits() -> None:
    graph = graph_of(family("Gemma3"))

    def of(*edges: str) -> torch.Tensor:
        found = torch.zeros_like(graph.edges)
        for edge in edges:
            found[graph.edge(edge)] = True
        return found

    way = of("input->m0", "m0->a1.kv0<v>", "a1.h1->logits")  # heads 0 and 1 share the group's value
    dangling = of("a1.h0->m2", "m1->logits", "m0->a2.h0<q>", "input->a0.kv1<k>")
    assert torch.equal(pruned(graph, way | dangling), way)
    assert not pruned(graph, of("input->m0", "m0->a1.kv1<v>", "a1.h1->logits")).any()


def test_curves_and_their_areas() -> None:
    assert _areas([0.5], [1.0]) == pytest.approx((0.75, 0.25))
    assert _areas([0.2, 0.5], [0.5, 1.5]) == pytest.approx((0.05 + 0.3 + 0.625, 0.15 + 0.15 + 0.125))
    model = family("Llama")
    pairs = oriented(model, PAIRS)
    found = curve(model, pairs, edge_scores(model, pairs), shares=(0.1, 0.5), randoms=2)
    assert found.total == int(graph_of(model).edges.sum()) == 190
    assert found.sizes == (19, 95)
    assert all(edges <= size for edges, size in zip(found.edges, found.sizes, strict=True))
    assert [len(one) for one in found.random] == [2, 2]
    best = circuit(graph_of(model), edge_scores(model, pairs), 19)
    kept, rest = evaluate(model, pairs, [best, graph_of(model).edges & ~best])
    assert found.faithfulness[0] == pytest.approx(pairs.faithfulness(kept))
    assert found.completeness[0] == pytest.approx(1 - pairs.faithfulness(rest))
    assert found.cpr == pytest.approx(_areas([0.1, 0.5], found.faithfulness)[0])


def test_random_circuits_are_as_large_as_ours() -> None:
    graph = graph_of(family("Gemma3", num_hidden_layers=8))
    for size in (20, 60, 200):
        edges = [int(random_circuit(graph, size, seed).sum()) for seed in range(6)]
        assert min(edges) >= size
        assert sorted(edges)[3] <= 1.3 * size
