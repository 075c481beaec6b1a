"""Hooks on ten families: names, sums, edits, gradients, generation; and what must be refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from decoder_families import EXPERTS, FAMILIES, HEADS, LAYERS, MORE, PARALLEL, POST_NORM, by_type, family
from steersman.errors import ModelError
from steersman.interp.activations import captured, hooks, read, run_with_cache, self_test, site_names
from steersman.interp.anatomy import anatomy_of, norm_form, weight_of
from steersman.interp.attribution import logit_attribution
from steersman.lm.head import trunk

ROWS = [[5, 9, 11, 3, 8], [7, 2, 30]]


@pytest.fixture(scope="module", params=FAMILIES)
def named(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, family(request.param)


def test_self_test_recognises_how_the_blocks_are_built(named: tuple[str, Any]) -> None:
    name, model = named
    found = self_test(model)
    assert found.stream < 1e-5
    assert (found.post_norm, found.parallel) == (name in POST_NORM, name in PARALLEL)
    assert found.sites == 2 + LAYERS * (10 if name in PARALLEL else 11)


def test_sites_apply_in_the_order_of_the_stream() -> None:
    """However they are given: what is between two sublayers is read after what was changed before them."""
    model, pushed = family("Llama"), "blocks.1.hook_resid_pre"
    seen: list[torch.Tensor] = []
    for order in (1, -1):
        pairs = [("blocks.1.hook_resid_mid", lambda x: seen.append(x.clone())), (pushed, lambda x: x + 5)][::order]
        with torch.no_grad(), hooks(model, pairs):
            trunk(model)(input_ids=torch.tensor([ROWS[0]]), use_cache=False)
    assert torch.equal(*seen)
    with pytest.raises(ModelError, match="and no tensor"):
        read(model, ROWS, ["model"])


def test_adapters_that_are_put_on_later_are_read() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    model = family("Llama")
    self_test(model)
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    inject_adapter_in_model(config, model)
    site, seen = "blocks.1.attn.hook_q", []
    attention = anatomy_of(model).blocks[1].attention
    attention.q_proj.register_forward_hook(lambda _, __, output: seen.append(output))
    found = read(model, ROWS[:1], [site]).sites[site]
    assert torch.equal(found.flatten(2), seen[0])


@pytest.mark.parametrize("name", [*MORE, *EXPERTS])
def test_many_more_families_are_taken_apart_by_arithmetic(name: str) -> None:
    model = by_type(name)
    assert self_test(model).stream < 1e-5
    found = logit_attribution(model, ROWS, [[3], [4]], [[6], [7]])  # an error unless it sums to the logit difference
    assert found.difference.abs().min() > 0
    if name in EXPERTS:
        assert "blocks.0.mlp.hook_post" not in site_names(model)
        with (
            pytest.raises(ModelError, match="mixture of experts"),
            hooks(model, {"blocks.0.mlp.hook_post": torch.clone}),
        ):
            pass


@pytest.mark.parametrize("name", ["codegen", "diffllama"])
def test_heads_that_are_not_where_they_are_looked_for_are_refused(name: str) -> None:
    """CodeGen packs queries, values and keys by parts for TPUs; in DiffLlama two heads make one."""
    with pytest.raises(ModelError, match="is not where it is looked for"):
        self_test(by_type(name))


def test_sites_hold_what_their_names_say(named: tuple[str, Any]) -> None:
    name, model = named
    with torch.no_grad():
        states = model(
            input_ids=torch.tensor([ROWS[0]]), output_hidden_states=True, use_cache=False, logits_to_keep=1
        ).hidden_states
    final, found = run_with_cache(model, [ROWS[0]])
    for layer in range(LAYERS):
        assert torch.allclose(found.sites[f"blocks.{layer}.hook_resid_pre"], states[layer], atol=1e-5)
    torch.testing.assert_close(final, states[-1])
    anatomy = anatomy_of(model)
    if name not in PARALLEL:
        middle = found.sites["blocks.1.hook_resid_pre"] + found.sites["blocks.1.hook_attn_out"]
        torch.testing.assert_close(found.sites["blocks.1.hook_resid_mid"], middle)
    # Heads: W_O z, through the post-norm where there is one, is what attention adds.
    block, z = anatomy.blocks[1], found.sites["blocks.1.attn.hook_z"]
    assert z.shape == (1, 5, HEADS, anatomy.head_dim)
    with torch.no_grad():
        write = block.attention_output(z.flatten(-2))
        write = block.attention_post_norm(write) if block.attention_post_norm else write
    torch.testing.assert_close(write, found.sites["blocks.1.hook_attn_out"])


def test_queries_keys_and_values_are_taken_from_the_right_columns(named: tuple[str, Any]) -> None:
    """With one token a head's weighted value is its value: of each query head that of its group."""
    _, model = named
    found = read(model, [[7]], ["blocks.0.attn.hook_v", "blocks.0.attn.hook_z"])
    v, z = found.sites["blocks.0.attn.hook_v"], found.sites["blocks.0.attn.hook_z"]
    torch.testing.assert_close(v.repeat_interleave(HEADS // v.shape[2], 2), z)
    # Doubling queries and halving keys leaves scores as they are.
    pair = {"blocks.0.attn.hook_q": lambda x: 2 * x, "blocks.0.attn.hook_k": lambda x: x / 2}
    plain = read(model, ROWS, ["blocks.1.hook_resid_pre"]).at("blocks.1.hook_resid_pre")
    with hooks(model, pair):
        same = read(model, ROWS, ["blocks.1.hook_resid_pre"]).at("blocks.1.hook_resid_pre")
    with hooks(model, {"blocks.0.attn.hook_q": torch.zeros_like}):
        other = read(model, ROWS, ["blocks.1.hook_resid_pre"]).at("blocks.1.hook_resid_pre")
    if not hasattr(anatomy_of(model).blocks[0].attention, "q_norm"):  # they divide by a little more than the size
        torch.testing.assert_close(plain, same, rtol=1e-4, atol=1e-4)
    assert (plain - other).abs().max() > 1e-3


@pytest.mark.parametrize("site", ["hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "attn.hook_z"])
def test_an_edit_acts_where_its_name_says(named: tuple[str, Any], site: str) -> None:
    name, model = named
    if name in PARALLEL and site == "hook_resid_mid":
        with pytest.raises(ModelError, match="same stream"), hooks(model, {"blocks.1.hook_resid_mid": torch.clone}):
            pass
        return
    after = "blocks.1.hook_resid_post"
    plain = read(model, ROWS, [after, "blocks.1.hook_resid_pre", "blocks.1.hook_attn_out", "blocks.1.hook_mlp_out"])
    with hooks(model, {f"blocks.1.{site}": torch.zeros_like}):
        edited = read(model, ROWS, [after, "blocks.1.hook_mlp_out"])
    expected = {
        "hook_attn_out": plain.sites["blocks.1.hook_resid_pre"] + edited.sites["blocks.1.hook_mlp_out"],
        "hook_mlp_out": plain.sites[after] - plain.sites["blocks.1.hook_mlp_out"],
        "hook_resid_mid": edited.sites["blocks.1.hook_mlp_out"],
    }.get(site)
    if expected is None:
        assert (edited.sites[after] - plain.sites[after]).abs().max() > 1e-2
    else:
        torch.testing.assert_close(edited.sites[after], expected, rtol=1e-4, atol=1e-4)


def test_padding_and_early_end_change_nothing(named: tuple[str, Any]) -> None:
    _, model = named
    together = read(model, ROWS, ["blocks.1.hook_resid_post"])
    alone = read(model, ROWS[1:], ["blocks.1.hook_resid_post", "ln_final.hook_normalized"])
    torch.testing.assert_close(
        together.at("blocks.1.hook_resid_post")[1:], alone.at("blocks.1.hook_resid_post"), rtol=1e-4, atol=1e-4
    )
    assert torch.equal(together.at("blocks.1.hook_resid_post", -3)[1], together.sites["blocks.1.hook_resid_post"][1, 0])


@pytest.mark.parametrize("site", ["hook_mlp_out", "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z"])
def test_gradients_are_those_of_finite_differences(named: tuple[str, Any], site: str) -> None:
    _, model = named
    model.requires_grad_(False)  # then the graph begins at the embeddings
    site = f"blocks.1.{site}"

    def metric(step: float, direction: torch.Tensor) -> torch.Tensor:
        with hooks(model, {site: lambda x: x + step * direction}):
            return read(model, ROWS[:1], ["ln_final.hook_normalized"]).at("ln_final.hook_normalized")[0, 3].double()

    found = read(model, ROWS[:1], [site, "ln_final.hook_normalized"], gradients=True)
    (gradient,) = torch.autograd.grad(found.at("ln_final.hook_normalized")[0, 3], found.sites[site])
    direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(1))
    slope = (metric(1e-2, direction) - metric(-1e-2, direction)) / 2e-2
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=3e-2, abs=3e-4)


@pytest.mark.parametrize("name", ["Gemma3", "Llama", "GPT2"])
def test_edits_act_at_every_token_that_is_generated(name: str) -> None:
    model = family(name)
    ids = torch.tensor([ROWS[0]])
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    plain = model.generate(ids, **options)
    with hooks(model, {"blocks.1.hook_resid_post": torch.clone}) as fired:
        assert torch.equal(model.generate(ids, **options), plain)
    assert fired["blocks.1.hook_resid_post"] == 6
    push = 30 * torch.randn(anatomy_of(model).width, generator=torch.Generator().manual_seed(0))
    with hooks(model, {"blocks.1.hook_resid_post": lambda x: x + push}):
        steered = model.generate(ids, **options)
        # Token by token with a cache is what one pass over the whole text computes.
        whole = model(input_ids=steered[:, :-1], use_cache=False).logits[0, 4:].argmax(-1)
    assert torch.equal(steered[0, 5:], whole)
    assert not torch.equal(steered, plain)


def test_patterns_are_read_with_eager_attention_and_never_changed() -> None:
    model = family("Gemma3")
    with pytest.raises(ModelError, match=r"(?s)never fired.*eager"):
        read(model, ROWS, ["blocks.0.attn.hook_pattern"])
    model.set_attn_implementation("eager")
    pattern = read(model, ROWS[:1], ["blocks.0.attn.hook_pattern"]).sites["blocks.0.attn.hook_pattern"]
    assert pattern.shape == (1, HEADS, 5, 5)
    torch.testing.assert_close(pattern.sum(-1), torch.ones(1, HEADS, 5))
    with pytest.raises(ModelError, match="not changed"), hooks(model, {"blocks.0.attn.hook_pattern": torch.clone}):
        trunk(model)(input_ids=torch.tensor(ROWS[:1]))


def test_hooks_leave_with_their_block_even_after_an_error() -> None:
    model = family("Llama")
    plain = read(model, ROWS, ["ln_final.hook_normalized"]).sites["ln_final.hook_normalized"]
    with pytest.raises(RuntimeError, match="inside"), hooks(model, {"blocks.0.hook_resid_pre": torch.zeros_like}):
        raise RuntimeError("inside")
    assert torch.equal(read(model, ROWS, ["ln_final.hook_normalized"]).sites["ln_final.hook_normalized"], plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_names_that_are_wrong_and_hooks_that_do_not_fire_are_errors() -> None:
    model, other = family("Llama"), family("Llama")
    for name in ("blocks.3.hook_resid_pre", "blocks.0.hook_resid", "layers.0", "blocks.0.attn.hook_result"):
        with pytest.raises(ModelError, match="no site"), captured(model, [name]):
            pass
    with pytest.raises(ModelError, match="never fired: hook_embed"), captured(model, ["hook_embed"]):
        trunk(other)(input_ids=torch.tensor(ROWS[:1]))
    path = read(model, ROWS, ["model.layers.1.mlp"]).sites["model.layers.1.mlp"]
    assert torch.equal(path, read(model, ROWS, ["blocks.1.hook_mlp_out"]).sites["blocks.1.hook_mlp_out"])
    assert "blocks.2.attn.hook_pattern" in site_names(model)


def test_norms_are_read_as_what_they_compute(named: tuple[str, Any]) -> None:
    _, model = named
    anatomy = anatomy_of(model)
    x = torch.randn(4, anatomy.width, generator=torch.Generator().manual_seed(2))
    norm = norm_form(anatomy.final_norm, anatomy.width)
    with torch.no_grad():
        torch.testing.assert_close(norm.linear(x, norm.scale(x)) + norm.bias, anatomy.final_norm(x))


def test_weights_with_adapters_are_refused() -> None:
    from steersman.lm.adapters import LoraConfig, add_lora

    model = family("GPT2")
    block = anatomy_of(model).blocks[0]
    x = torch.randn(2, block.attention_output.weight.shape[0])
    with torch.no_grad():
        product = x @ weight_of(block.attention_output).T + block.attention_output.bias
        torch.testing.assert_close(product, block.attention_output(x))
    policy = add_lora(family("Llama"), LoraConfig(rank=2), "x")
    with pytest.raises(ModelError, match="merge"):
        weight_of(anatomy_of(policy.get_base_model()).blocks[0].attention_output)
