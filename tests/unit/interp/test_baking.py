"""Directions in the weights: nothing writes them, in ten families; hook and baked; plain checkpoints; refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from decoder_families import FAMILIES, LAYERS, POST_NORM, family
from steersman.errors import ModelError
from steersman.interp.activations import hooks, read
from steersman.interp.anatomy import anatomy_of
from steersman.interp.baking import bake_ablation, bake_addition, bake_naively, compare, leaks, save
from steersman.interp.directions import adding, unit, weights_digest, without
from steersman.lm.chat_format import chat_format
from steersman.lm.pretrained import load_model

ROWS = [[1, 5, 9, 11, 3, 8], [1, 7, 2, 30]]
NAMES = {f"blocks.{n}.{site}" for n in range(LAYERS) for site in ("hook_attn_out", "hook_mlp_out")}


@pytest.fixture(scope="module", params=[*FAMILIES, "granite", "gemma"])
def named(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, family(request.param)


def drawn(model: Any, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(anatomy_of(model).width, generator=torch.Generator().manual_seed(seed))


def tied(model: Any) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_nothing_writes_a_baked_direction(named: tuple[str, Any]) -> None:
    """The invariant, on random ids; the naive edit keeps it in models without post-norms alone."""
    name, model = named
    vector, naive, baked = drawn(model), copy.deepcopy(model), copy.deepcopy(model)
    report = bake_ablation(baked, vector)
    assert set(report.leaks) == {"hook_embed", *NAMES}
    assert max(leak.largest for leak in report.leaks.values()) <= 1e-5
    assert min(report.before[site].largest for site in NAMES) > 1e-2
    assert (report.gain_aware == 2 * LAYERS) == (name in POST_NORM)
    bake_naively(naive, vector)
    left = max(leak.largest for site, leak in leaks(naive, vector).items() if site != "hook_embed")
    assert (left > 0.05) == (name in POST_NORM)
    assert name in POST_NORM or left <= 1e-5


def test_baked_is_the_hook_where_norms_come_first(named: tuple[str, Any]) -> None:
    name, model = named
    baked, vector = copy.deepcopy(model), drawn(model)
    bake_ablation(baked, vector)
    found = compare(model, baked, vector, ROWS)
    if name in POST_NORM:
        assert found.kl > 1e-5  # another function: the norm behind divides by another number
    else:
        assert found.logprob <= 1e-3
        assert found.kl <= 1e-6
    plain = compare(model, model, vector, ROWS)
    assert plain.logprob > 0.1
    assert plain.kl > 2 * found.kl


@pytest.mark.parametrize("name", sorted(POST_NORM))
def test_behind_a_post_norm_a_write_is_parallel_to_what_the_hook_leaves(name: str) -> None:
    """With blend 0, in the first sublayer, whose input is the same; and no blend writes the direction."""
    model, site = family(name), "blocks.0.hook_attn_out"
    r, cosines = unit(drawn(model)), {}
    with hooks(model, {"blocks.0.hook_resid_pre": without(r), site: without(r)}):
        hooked = read(model, ROWS, [site])
    for blend in (0.0, 0.3, 1.0):
        baked = copy.deepcopy(model)
        assert bake_ablation(baked, drawn(model), blend=blend).largest <= 1e-5
        found = read(baked, ROWS, [site]).sites[site]
        cosines[blend] = float(torch.cosine_similarity(found, hooked.sites[site], dim=-1)[hooked.mask].min())
    assert cosines[0.0] > 1 - 1e-5
    assert cosines[0.0] > cosines[0.3] > cosines[1.0]


def test_a_saved_model_is_loaded_by_transformers_bit_for_bit(named: tuple[str, Any], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    _, model = named
    baked = copy.deepcopy(model)
    was_tied = tied(baked)
    report = bake_ablation(baked, drawn(model))
    assert report.untied == was_tied
    save(baked, None, tmp_path / "model", {"direction": "refusal"})
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        for row in ROWS:
            ids = torch.tensor([row])
            assert torch.equal(again(input_ids=ids).logits, baked(input_ids=ids).logits)
    assert (tmp_path / "model" / "steersman.json").read_text(encoding="utf-8").startswith("{")
    with pytest.raises(ModelError, match="not empty"):
        save(baked, None, tmp_path / "model", {})


def test_a_saved_model_asks_and_stops_as_the_one_that_it_came_from(tiny_base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model = load_model(tiny_base)
    bake_ablation(model, drawn(model))
    save(model, tiny_base, tmp_path / "baked", {})
    chat = chat_format(AutoTokenizer.from_pretrained(tmp_path / "baked"))
    assert chat.template is not None
    assert chat.prompt_ids("Why?") == chat_format(AutoTokenizer.from_pretrained(tiny_base)).prompt_ids("Why?")


def test_tied_embeddings_may_stay_and_then_bring_the_direction_in() -> None:
    model = family("Llama", tie_word_embeddings=True)
    assert tied(model)
    output, left, untied = model.lm_head.weight.clone(), copy.deepcopy(model), copy.deepcopy(model)
    report = bake_ablation(left, drawn(model), embeddings="leave")
    assert tied(left)
    assert not report.untied
    assert torch.equal(left.lm_head.weight, output)
    assert report.largest <= 1e-5
    assert report.leaks["hook_embed"].largest > 0.05
    bake_ablation(untied, drawn(model))
    assert torch.equal(untied.lm_head.weight, output)
    assert not tied(untied)
    assert compare(model, untied, drawn(model), ROWS).logprob <= 1e-3
    assert compare(model, left, drawn(model), ROWS).logprob > 1e-2


def test_addition_is_a_bias_where_norms_come_first(named: tuple[str, Any], tmp_path: Path) -> None:
    name, model = named
    final = "ln_final.hook_normalized"
    for layer in (0, 2):
        baked, vector = copy.deepcopy(model), drawn(model, layer)
        if name in POST_NORM or (name in ("Qwen2", "Qwen3", "Mistral", "gemma") and layer):
            with pytest.raises(ModelError, match="cannot be baked"):
                bake_addition(baked, layer, vector, 0.7)
            continue
        bake_addition(baked, layer, vector, 0.7)
        with adding(model, layer, vector, 0.7):
            hooked = read(model, ROWS, [final])
        found = read(baked, ROWS, [final])
        torch.testing.assert_close(
            found.sites[final][found.mask], hooked.sites[final][found.mask], rtol=1e-3, atol=1e-4
        )
        save(baked, None, tmp_path / str(layer), {})


def test_what_cannot_be_baked_is_refused() -> None:
    policy = family("Llama")
    policy.model.layers[2].mlp.down_proj.base_layer = torch.nn.Identity()  # as peft's layers have it
    before = weights_digest(policy)
    with pytest.raises(ModelError, match="merge"):
        bake_ablation(policy, drawn(policy))
    assert weights_digest(policy) == before
    with pytest.raises(ModelError, match="a direction of 7 numbers"):
        bake_ablation(family("Llama"), torch.ones(7))
    seeing = family("Llama")
    seeing.config.vision_config = {}
    with pytest.raises(ModelError, match="images or sounds"):
        bake_ablation(seeing, drawn(seeing))
    with pytest.raises(ModelError, match="no layer 3"):
        bake_addition(family("Phi"), 3, torch.ones(32))


def test_a_part_that_still_writes_is_an_error() -> None:
    """Such as a sublayer that writes behind the projection that was found."""
    model = family("Llama")
    model.model.layers[1].mlp.register_forward_hook(lambda _, __, output: output + 1)
    with pytest.raises(ModelError, match=r"blocks\.1\.hook_mlp_out"):
        bake_ablation(model, torch.ones(24))
