"""Direct logit attribution adds up and equals formulas by hand; attribution patching is a derivative."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from decoder_families import FAMILIES, HEADS, LAYERS, family, oriented
from steersman.errors import DataError, ModelError
from steersman.interp import attribution
from steersman.interp.activations import hooks, read
from steersman.interp.attribution import attribution_patching, logit_attribution
from steersman.interp.pairs import FINAL, Pair
from steersman.interp.writes import graph_of

ROWS = [[5, 9, 11, 3, 8], [7, 2, 30]]
RIGHT, WRONG = [[4, 7], [9]], [[6], [10, 11]]


@pytest.mark.parametrize("name", FAMILIES)
def test_all_that_is_written_sums_up_to_the_logit_difference(name: str) -> None:
    model = family(name)
    found = logit_attribution(model, ROWS, RIGHT, WRONG)
    assert found.error < 1e-5
    with torch.no_grad():
        hidden = read(model, ROWS, [FINAL]).at(FINAL)
        logits = model.get_output_embeddings()(hidden)  # in front of Gemma 2's cap
    expected = torch.stack([logits[0, [4, 7]].mean() - logits[0, 6], logits[1, 9] - logits[1, [10, 11]].mean()])
    torch.testing.assert_close(found.difference.float(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.values.sum(1).float(), expected, rtol=1e-4, atol=1e-5)
    assert len(found.names) == 1 + LAYERS * (HEADS + 1) + LAYERS + 2 == found.values.shape[1]
    names, sums = found.by_layer()
    assert names[:4] == ("input", "a0", "m0", "a1")
    torch.testing.assert_close(sums.sum(1), found.values.sum(1))
    earlier = logit_attribution(model, ROWS, RIGHT, WRONG, positions=[2, 1])
    alone = logit_attribution(model, [ROWS[0][:3], ROWS[1][:2]], RIGHT, WRONG)
    torch.testing.assert_close(earlier.values, alone.values, rtol=1e-4, atol=1e-5)


def test_heads_and_mlps_are_what_the_formulas_say() -> None:
    """Gemma 3: c_h = g W_O^h z_h / rms(W_O z), then (1 + w) c_h / rms(x) . (W_U[y] - W_U[y'])."""
    model = family("Gemma3")
    found = logit_attribution(model, ROWS[:1], [[4]], [[6]])
    sites = read(model, ROWS[:1], ["blocks.1.attn.hook_z", "blocks.2.hook_resid_post", "blocks.1.hook_mlp_out"]).sites
    layer, norm = model.model.layers[1], model.model.norm
    with torch.no_grad():
        z, x = sites["blocks.1.attn.hook_z"][0, -1], sites["blocks.2.hook_resid_post"][0, -1]
        direction = (model.lm_head.weight[4] - model.lm_head.weight[6]) * (1 + norm.weight)
        direction = direction / (x.square().mean() + norm.eps).sqrt()
        y = layer.self_attn.o_proj(z.flatten())
        gain = 1 + layer.post_attention_layernorm.weight
        head = layer.self_attn.o_proj.weight[:, 16:24] @ z[2] * gain / (y.square().mean() + norm.eps).sqrt()
        mlp = sites["blocks.1.hook_mlp_out"][0, -1]
    values = dict(zip(found.names, found.values[0].tolist(), strict=True))
    assert values["a1.h2"] == pytest.approx(float(head @ direction), rel=1e-4, abs=1e-6)
    assert values["m1"] == pytest.approx(float(mlp @ direction), rel=1e-4, abs=1e-6)
    assert values["a1.bias"] == values["final norm"] == 0


def test_biases_have_terms_of_their_own() -> None:
    """GPT-2: the output projection's bias is centred by the final norm as any write is; the norm has its own."""
    model = family("GPT2")
    found = logit_attribution(model, ROWS[:1], [[4]], [[6]])
    x = read(model, ROWS[:1], ["blocks.2.hook_resid_post"]).sites["blocks.2.hook_resid_post"][0, -1]
    with torch.no_grad():
        direction, bias = model.lm_head.weight[4] - model.lm_head.weight[6], model.transformer.h[1].attn.c_proj.bias
        norm = model.transformer.ln_f
        own = float(norm.bias @ direction)
        written = (bias - bias.mean()) / (x.var(correction=0) + norm.eps).sqrt() * norm.weight
    values = dict(zip(found.names, found.values[0].tolist(), strict=True))
    assert values["a1.bias"] == pytest.approx(float(written @ direction), rel=1e-4, abs=1e-6)
    assert values["final norm"] == pytest.approx(own, rel=1e-4, abs=1e-6)


def test_parts_that_do_not_sum_up_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = attribution.written

    def without_the_norm(*given: Any) -> Any:
        found = real(*given)
        return found._replace(writes=found.raw)

    monkeypatch.setattr(attribution, "written", without_the_norm)
    with pytest.raises(ModelError, match="does not sum up"):
        logit_attribution(family("Gemma3"), ROWS, RIGHT, WRONG)
    assert logit_attribution(family("Llama"), ROWS, RIGHT, WRONG).error < 1e-5  # no norm, no difference


def test_positions_count_from_the_end_too_and_padding_is_refused() -> None:
    model = family("Llama")
    rows = [[5, 9, 11, 3, 8], [7, 2, 30]]
    from_start = logit_attribution(model, rows, [[3], [4]], [[6], [7]], positions=[3, 2])
    from_end = logit_attribution(model, rows, [[3], [4]], [[6], [7]], positions=[-2, -1])
    assert torch.equal(from_start.values, from_end.values)
    for wrong in (3, -4):
        with pytest.raises(DataError, match=f"position {wrong} is outside"):
            logit_attribution(model, rows, [[3], [4]], [[6], [7]], positions=[0, wrong])


@pytest.mark.parametrize("name", ["GPT2", "Llama", "Gemma3", "granite"])
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_attribution_patching_is_the_slope_of_patching(name: str, direction: Literal["noising", "denoising"]) -> None:
    model = family(name)
    pairs = oriented(model, [Pair(ROWS[0], [5, 9, 21, 3, 8], [4], [6]), Pair(ROWS[1], [7, 2, 31], [9], [10])])
    sites = ["blocks.1.attn.hook_z", "blocks.0.hook_mlp_out", "blocks.1.hook_resid_mid", "hook_embed"]
    found = attribution_patching(model, pairs, sites, direction)
    base, other = ("clean", "corrupt") if direction == "noising" else ("corrupt", "clean")
    given = read(model, pairs.rows(other), sites).sites  # type: ignore[arg-type]
    for site in sites:

        def measured(step: float, site: str = site) -> torch.Tensor:
            with hooks(model, {site: lambda x: x + step * (given[site] - x)}):
                return pairs.measured(read(model, pairs.rows(base), [FINAL]).sites[FINAL]).double()  # type: ignore[arg-type]

        slope = (measured(5e-3) - measured(-5e-3)) / 1e-2
        torch.testing.assert_close(found[site].double().sum((1, 2) if "z" in site else 1), slope, rtol=2e-2, atol=2e-3)

    # Of one head alone, at one position.
    def one(step: float) -> torch.Tensor:
        def edit(z: torch.Tensor) -> torch.Tensor:
            z = z.clone()
            z[:, 2, 3] += step * (given[sites[0]] - z)[:, 2, 3]
            return z

        with hooks(model, {sites[0]: edit}):
            return pairs.measured(read(model, pairs.rows(base), [FINAL]).sites[FINAL]).double()  # type: ignore[arg-type]

    torch.testing.assert_close(found[sites[0]][:, 2, 3].double(), (one(1e-2) - one(-1e-2)) / 2e-2, rtol=3e-2, atol=1e-3)
    assert found[sites[0]].shape == (2, 5, HEADS)
    assert not found[sites[0]][1, 3:].any()  # padding


def test_nodes_of_the_graph_have_the_papers_names() -> None:
    graph = graph_of(family("Gemma3"))
    assert graph.writers[:6] == ("input", "a0.h0", "a0.h1", "a0.h2", "a0.h3", "m0")
    assert [reader.name for reader in graph.readers[:9]] == [
        *(f"a0.h{head}<q>" for head in range(4)), "a0.kv0<k>", "a0.kv1<k>", "a0.kv0<v>", "a0.kv1<v>", "m0",
    ]  # fmt: skip
