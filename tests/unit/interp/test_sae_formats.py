"""Folders of the three forms, written by hand; features and reconstructions by each project's own formula."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from steersman.errors import ModelError, UserError
from steersman.interp.sae import SparseAutoencoder
from steersman.interp.sae_formats import load_sae, save_sae

D, F = 6, 10
X = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(9))


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + len(shape)))


def folder(path: Path, file: str, tensors: dict[str, Tensor], settings: dict[str, Any] | None = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path / file)
    if settings is not None:
        (path / ("config.json" if file == "params.safetensors" else "cfg.json")).write_text(json.dumps(settings))
    return path


def same(sae: SparseAutoencoder, features: Tensor, made: Tensor, tmp_path: Path) -> None:
    """What was read computes this; and so does what is read from what it writes."""
    save_sae(sae, tmp_path / "again")
    again = load_sae(tmp_path / "again")
    for one in (sae, again):
        torch.testing.assert_close(one.encode(X), features)
        torch.testing.assert_close(one.decode(one.encode(X), X), made)
    assert (again.site, again.output_site, again.activation) == (sae.site, sae.output_site, sae.activation)
    assert bool((features > 0).any())
    assert bool((features == 0).any())


# ── Gemma Scope 2 ────────────────────────────────────────────────────────────────────────────────────────────────────
SCOPE = {"w_enc": draw(D, F), "w_dec": draw(F, D), "b_enc": draw(F), "b_dec": draw(D), "threshold": draw(F).abs()}


def scope_features() -> Tensor:
    before = X @ SCOPE["w_enc"] + SCOPE["b_enc"]
    return torch.where(before > SCOPE["threshold"], before.relu(), 0)


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("model.layers.5.output", "blocks.5.hook_resid_post"),
        ("model.layers.5.self_attn.o_proj.input", "blocks.5.attn.hook_z"),
        ("model.layers.5.post_feedforward_layernorm.output", "blocks.5.hook_mlp_out"),
    ],
)
def test_gemma_scope(tmp_path: Path, hook: str, site: str) -> None:
    settings = {"architecture": "jump_relu", "hf_hook_point_in": hook, "model_name": "google/gemma-3-270m"}
    sae = load_sae(folder(tmp_path / "x", "params.safetensors", SCOPE, settings))
    assert (sae.site, sae.about["model_name"]) == (site, "google/gemma-3-270m")
    same(sae, scope_features(), scope_features() @ SCOPE["w_dec"] + SCOPE["b_dec"], tmp_path)


def test_gemma_scope_by_the_names_of_its_folders(tmp_path: Path) -> None:
    for kind, site in (("resid_post", "hook_resid_post"), ("attn_out_all", "attn.hook_z"), ("mlp_out", "hook_mlp_out")):
        path = folder(tmp_path / kind / "layer_12_width_16k_l0_medium", "params.safetensors", SCOPE)
        assert load_sae(path).site == f"blocks.12.{site}"
    skip = draw(D, D)
    path = folder(
        tmp_path / "transcoder" / "layer_3_l0_big_affine",
        "params.safetensors",
        {**SCOPE, "affine_skip_connection": skip},
    )
    sae = load_sae(path)
    assert (sae.site, sae.output_site) == ("model.layers.3.pre_feedforward_layernorm", "blocks.3.hook_mlp_out")
    same(sae, scope_features(), scope_features() @ SCOPE["w_dec"] + SCOPE["b_dec"] + X @ skip, tmp_path)
    nameless = folder(tmp_path / "other", "params.safetensors", SCOPE)
    with pytest.raises(ModelError, match="name the site"):
        load_sae(nameless)
    assert load_sae(nameless, "blocks.0.hook_resid_post").site == "blocks.0.hook_resid_post"


# ── SAELens ──────────────────────────────────────────────────────────────────────────────────────────────────────────
WEIGHTS = {"W_enc": draw(D, F), "W_dec": draw(F, D), "b_enc": draw(F), "b_dec": draw(D)}
SITE = "blocks.2.hook_resid_post"


def lens(architecture: str, **changes: Any) -> dict[str, Any]:
    metadata = {"sae_lens_version": "6.54.12", "hook_name": SITE, "model_name": "m", "hook_head_index": None}
    settings = {"architecture": architecture, "d_in": D, "d_sae": F, "apply_b_dec_to_input": True}
    return settings | {"normalize_activations": "none", "metadata": metadata} | changes


def relu(x: Tensor) -> Tensor:
    return (x @ WEIGHTS["W_enc"] + WEIGHTS["b_enc"]).relu()


def loop_topk(before: Tensor, k: int) -> Tensor:
    kept = before >= before.sort(-1, descending=True).values[..., k - 1 : k]
    return torch.where(kept, before.relu(), 0)


def test_saelens_standard_and_its_normalisations(tmp_path: Path) -> None:
    features = relu(X - WEIGHTS["b_dec"])
    sae = load_sae(folder(tmp_path / "a", "sae_weights.safetensors", WEIGHTS, lens("standard")))
    assert (sae.site, sae.about["model_name"]) == (SITE, "m")
    same(sae, features, features @ WEIGHTS["W_dec"] + WEIGHTS["b_dec"], tmp_path)
    settings = lens("standard", apply_b_dec_to_input=False)
    sae = load_sae(folder(tmp_path / "b", "sae_weights.safetensors", WEIGHTS, settings))
    same(sae, relu(X), relu(X) @ WEIGHTS["W_dec"] + WEIGHTS["b_dec"], tmp_path)
    sae = load_sae(
        folder(tmp_path / "c", "sae_weights.safetensors", WEIGHTS, settings | {"normalize_activations": "layer_norm"})
    )
    mean, deviation = X.mean(-1, keepdim=True), X.std(-1, keepdim=True)
    features = relu((X - mean) / (deviation + 1e-5))
    same(sae, features, (features @ WEIGHTS["W_dec"] + WEIGHTS["b_dec"]) * deviation + mean, tmp_path)
    settings |= {"normalize_activations": "constant_norm_rescale"}
    sae = load_sae(folder(tmp_path / "d", "sae_weights.safetensors", WEIGHTS, settings))
    length = D**0.5 / X.norm(dim=-1, keepdim=True)
    features = relu(X * length)
    same(sae, features, (features @ WEIGHTS["W_dec"] + WEIGHTS["b_dec"]) / length, tmp_path)


def test_saelens_topk_jumprelu_and_gated(tmp_path: Path) -> None:
    before = (X - WEIGHTS["b_dec"]) @ WEIGHTS["W_enc"] + WEIGHTS["b_enc"]
    features = loop_topk(before, 3)
    sae = load_sae(folder(tmp_path / "a", "sae_weights.safetensors", WEIGHTS, lens("topk", k=3)))
    same(sae, features, features @ WEIGHTS["W_dec"] + WEIGHTS["b_dec"], tmp_path)
    length = WEIGHTS["W_dec"].norm(dim=-1)
    rescaled = loop_topk(before * length, 3)
    settings = lens("topk", k=3, rescale_acts_by_decoder_norm=True)
    sae = load_sae(folder(tmp_path / "b", "sae_weights.safetensors", WEIGHTS, settings))
    same(sae, rescaled, rescaled / length @ WEIGHTS["W_dec"] + WEIGHTS["b_dec"], tmp_path)
    threshold = draw(F).abs()
    jumping = torch.where(before > threshold, before.relu(), 0)
    sae = load_sae(
        folder(tmp_path / "c", "sae_weights.safetensors", {**WEIGHTS, "threshold": threshold}, lens("jumprelu"))
    )
    same(sae, jumping, jumping @ WEIGHTS["W_dec"] + WEIGHTS["b_dec"], tmp_path)
    gated = {name: value for name, value in WEIGHTS.items() if name != "b_enc"}
    gated |= {"b_gate": draw(F), "b_mag": -draw(F), "r_mag": 0.3 * draw(F)}
    shifted = X - WEIGHTS["b_dec"]
    size = (shifted @ (WEIGHTS["W_enc"] * gated["r_mag"].exp()) + gated["b_mag"]).relu()
    features = torch.where(shifted @ WEIGHTS["W_enc"] + gated["b_gate"] > 0, size, 0)
    sae = load_sae(folder(tmp_path / "d", "sae_weights.safetensors", gated, lens("gated")))
    same(sae, features, features @ WEIGHTS["W_dec"] + WEIGHTS["b_dec"], tmp_path)


def test_saelens_before_version_6(tmp_path: Path) -> None:
    old = {"d_in": D, "d_sae": F, "hook_point": SITE, "model_name": "gpt2", "normalize_activations": False}
    path = folder(tmp_path / "a", "sae_weights.safetensors", {**WEIGHTS, "scaling_factor": torch.ones(F)}, old)
    sae = load_sae(path)
    assert (sae.site, sae.about) == (SITE, {"model_name": "gpt2"})
    torch.testing.assert_close(sae.encode(X), relu(X - WEIGHTS["b_dec"]))
    old |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2}, "sae_lens_version": "3.20.0"}
    sae = load_sae(folder(tmp_path / "b", "sae_weights.safetensors", WEIGHTS, old))
    assert (sae.activation, sae.k) == ("topk", 2)


# ── sparsify ─────────────────────────────────────────────────────────────────────────────────────────────────────────
SPARSE = {"encoder.weight": draw(F, D), "encoder.bias": draw(F), "W_dec": draw(F, D), "b_dec": draw(D)}
SETTINGS = {
    "activation": "topk",
    "k": 3,
    "d_in": D,
    "num_latents": 0,
    "expansion_factor": 32,
    "normalize_decoder": True,
}


def test_sparsify(tmp_path: Path) -> None:
    before = (X - SPARSE["b_dec"]) @ SPARSE["encoder.weight"].T + SPARSE["encoder.bias"]
    features = loop_topk(before.relu(), 3)
    sae = load_sae(folder(tmp_path / "layers.4", "sae.safetensors", SPARSE, SETTINGS))
    assert sae.site == "blocks.4.hook_resid_post"
    same(sae, features, features @ SPARSE["W_dec"] + SPARSE["b_dec"], tmp_path)
    halves = {name: value.to(torch.bfloat16) for name, value in SPARSE.items()}
    assert load_sae(folder(tmp_path / "h.1.mlp", "sae.safetensors", halves, SETTINGS)).site == "h.1.mlp"
    assert load_sae(folder(tmp_path / "embed_tokens", "sae.safetensors", SPARSE, SETTINGS)).site == "hook_embed"


# ── refused ──────────────────────────────────────────────────────────────────────────────────────────────────────────
Write = Callable[[Path], Path]


def saelens(settings: dict[str, Any], **tensors: Tensor) -> Write:
    return lambda path: folder(path, "sae_weights.safetensors", {**WEIGHTS, **tensors}, settings)


REFUSED: dict[str, Write] = {
    "scale is not in the folder": saelens(lens("standard", normalize_activations="expected_average_only_in")),
    "architecture 'batchtopk'": saelens(lens("batchtopk")),
    "no tensor threshold": saelens(lens("jumprelu")),
    "not understood: extra": saelens(lens("standard"), extra=draw(2)),
    "k is 0": saelens(lens("topk")),
    "k is 11": saelens(lens("topk", k=11)),
    "d_sae is 7": saelens(lens("standard") | {"d_sae": 7}),
    r"decoder is \[10, 5\]": saelens(lens("standard"), W_dec=draw(F, D - 1)),
    "not finite": saelens(lens("standard"), b_enc=draw(F) / 0),
    "one head alone": saelens(lens("standard", metadata={"sae_lens_version": "6.0.0", "hook_head_index": 3})),
    "a signed TopK": saelens({"activation_fn": "topk", "activation_fn_kwargs": {"k": 2, "signed": True}}),
    "activation function 'tanh-relu'": saelens({"activation_fn_str": "tanh-relu"}),
    "scaling_factor": saelens({"d_in": D}, scaling_factor=draw(F)),
    "groupmax": lambda path: folder(path, "sae.safetensors", SPARSE, SETTINGS | {"activation": "groupmax"}),
    "transcode: True": lambda path: folder(path, "sae.safetensors", SPARSE, SETTINGS | {"transcode": True}),
    "no cfg.json": lambda path: folder(path, "sae.safetensors", SPARSE),
    "in what is no transcoder": lambda path: folder(
        path / "mlp_out" / "layer_1", "params.safetensors", {**SCOPE, "affine_skip_connection": draw(D, D)}
    ),
    "architecture 'topk'": lambda path: folder(path, "params.safetensors", SCOPE, {"architecture": "topk"}),
    "no sparse autoencoder that is known": lambda path: folder(path, "model.safetensors", SCOPE),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_understood_is_refused_in_one_sentence(message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        load_sae(REFUSED[message](tmp_path / "layers.4"))


def test_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_sae(tmp_path / "none")
    path = folder(tmp_path / "a", "sae_weights.safetensors", WEIGHTS, lens("standard"))
    (path / "cfg.json").write_text("{")
    with pytest.raises(ModelError, match="not readable as JSON"):
        load_sae(path)
    (path / "sae_weights.safetensors").write_bytes(b"\x08")
    with pytest.raises(ModelError, match="not readable as safetensors"):
        load_sae(path)
    (path / "sae.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"sae_weights.safetensors and sae.safetensors in one folder"):
        load_sae(path)
