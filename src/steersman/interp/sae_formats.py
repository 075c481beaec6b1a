"""Folders of published sparse autoencoders, told apart by what is in them; and writing SAELens' form.

    Gemma Scope 2   params.safetensors (w_enc, w_dec, b_enc, b_dec, threshold, affine_skip_connection), config.json
    SAELens         sae_weights.safetensors, cfg.json: standard, topk, jumprelu, gated, and transcoders of the first and
                    third; both of version 6 and of before
    sparsify        sae.safetensors (encoder.weight, encoder.bias, W_dec, b_dec), cfg.json, in a folder that has the
                    name of a module

What the numbers mean was read in sae-lens 6.54.12 and eai-sparsify 1.3.3. Two things differ from SAELens' own readers
of the others' forms: sparsify's decoder is [d_sae, d_in] on disk and is not turned round, and its bias is always taken
off the input, as sparsify itself does. What would be computed otherwise than its authors computed it is refused: a
scale that was not folded into the weights, a signed or grouped TopK, tensors that nothing here reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor

from steersman.errors import ModelError, UserError
from steersman.interp.sae import Activation, Normalise, SparseAutoencoder
from steersman.store import write_json

GEMMA_SCOPE, SAELENS, SPARSIFY = "params.safetensors", "sae_weights.safetensors", "sae.safetensors"
SETTINGS = "cfg.json"
FORMAT = "6.54.12"  # of SAELens, that `save_sae` follows
_TRANSCODERS = {  # SAELens' names: activation, whether there is a linear map beside the features
    "transcoder": ("relu", False),
    "skip_transcoder": ("relu", True),
    "jumprelu_transcoder": ("jumprelu", False),
    "jumprelu_skip_transcoder": ("jumprelu", True),
}
_PLAIN = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}


def load_sae(folder: Path, site: str = "") -> SparseAutoencoder:
    """Read a folder of any of the three forms; weights become float32.

    Args:
        site: what it reads, where the folder does not say; see `activations`.

    Raises:
        UserError: there is no such folder.
        ModelError: it holds none of the forms, or something that is not understood.
    """
    if not folder.is_dir():
        raise UserError("no such folder", where=str(folder), expected="the folder of a sparse autoencoder")
    readers: dict[str, Callable[[Path, str], SparseAutoencoder]] = {
        GEMMA_SCOPE: _gemma_scope,
        SAELENS: _saelens,
        SPARSIFY: _sparsify,
    }
    present = [name for name in readers if (folder / name).exists()]
    if len(present) != 1:
        raise ModelError(
            "no sparse autoencoder that is known here" if not present else f"{' and '.join(present)} in one folder",
            where=str(folder),
            expected="params.safetensors of Gemma Scope 2, or cfg.json with SAELens' sae_weights.safetensors or"
            " sparsify's sae.safetensors",
            do="give the folder of one layer and width, in which these files lie",
        )
    sae = readers[present[0]](folder, site)
    if not sae.site:
        raise _refused(folder, "the folder does not say which site it is for", do="name the site")
    return sae


def save_sae(sae: SparseAutoencoder, folder: Path) -> None:
    """Write a folder in SAELens' form, which `load_sae` reads back to the same numbers.

    Raises:
        ModelError: SAELens has no name for the combination.
    """
    from safetensors.torch import save_file

    kinds = {(act, skips): name for name, (act, skips) in _TRANSCODERS.items()}
    plain = {act: name for name, act in _PLAIN.items()}
    architecture = kinds.get((sae.activation, sae.skip is not None)) if sae.output_site else plain[sae.activation]
    if architecture is None or (sae.skip is not None and not sae.output_site):
        raise ModelError(f"SAELens has no form for a {sae.activation} transcoder", do="keep it in its own form")
    tensors = {"W_enc": sae.encoder, "W_dec": sae.decoder, "b_dec": sae.decoder_bias}
    if sae.magnitude is None:
        tensors["b_enc"] = sae.encoder_bias
    else:
        tensors |= {"b_gate": sae.encoder_bias, "r_mag": sae.magnitude[0], "b_mag": sae.magnitude[1]}
    if sae.threshold is not None:
        tensors["threshold"] = sae.threshold
    if sae.skip is not None:
        tensors["W_skip"] = sae.skip.T
    settings = {
        "architecture": architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.subtract_bias,
        "normalize_activations": sae.normalise,
        "reshape_activations": "hook_z" if sae.site.endswith("hook_z") else "none",
        **({"k": sae.k} if sae.activation == "topk" else {}),
        **({"d_out": sae.decoder.shape[1]} if sae.output_site else {}),
        "metadata": {
            **sae.about,
            "sae_lens_version": FORMAT,
            "hook_name": sae.site,
            **({"hook_name_out": sae.output_site} if sae.output_site else {}),
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value.detach().to("cpu", torch.float32).contiguous().clone() for name, value in tensors.items()}
    save_file(kept, folder / SAELENS)
    write_json(folder / SETTINGS, settings)


# ── Gemma Scope 2 ────────────────────────────────────────────────────────────────────────────────────────────────────
def _gemma_scope(folder: Path, site: str) -> SparseAutoencoder:
    """JumpReLU without the decoder's bias in its input. Its `attn_out` is the *input* of the output projection."""
    tensors = _tensors(folder / GEMMA_SCOPE)
    settings = _json(folder / "config.json") if (folder / "config.json").exists() else {}
    if (kind := settings.get("architecture", "jump_relu")) != "jump_relu":
        raise _refused(folder / "config.json", f"architecture {kind!r}", expected="jump_relu")
    encoder, decoder = _take(tensors, folder, "w_enc", "w_dec")
    encoder_bias, decoder_bias, threshold = _take(tensors, folder, "b_enc", "b_dec", "threshold")
    skip = tensors.pop("affine_skip_connection", None)
    given, made = _gemma_scope_sites(folder, settings)
    if skip is not None and not made:
        raise _refused(folder, "affine_skip_connection in what is no transcoder")
    sae = SparseAutoencoder(
        site or given,
        encoder,
        encoder_bias,
        decoder,
        decoder_bias,
        "jumprelu",
        threshold=threshold,
        subtract_bias=False,
        skip=skip,
        output_site=made,
        about={"model_name": settings["model_name"]} if "model_name" in settings else {},
    )
    return _checked(sae, tensors, folder)


def _gemma_scope_sites(folder: Path, settings: Mapping[str, Any]) -> tuple[str, str]:
    """What one reads, and what a transcoder writes, by config.json or else by the names of the folders above."""
    modules = {
        "output": "blocks.{}.hook_resid_post",
        "self_attn.o_proj.input": "blocks.{}.attn.hook_z",
        "post_feedforward_layernorm.output": "blocks.{}.hook_mlp_out",
        "pre_feedforward_layernorm.output": "model.layers.{}.pre_feedforward_layernorm",
    }

    def named(key: str) -> str:
        if key not in settings:
            return ""
        found = re.fullmatch(r"model\.(?:language_model\.)?layers\.(\d+)\.(.+)", str(settings[key]))
        if found is None or found[2] not in modules:
            raise _refused(folder / "config.json", f"{key} is {settings[key]!r}", expected=", ".join(modules))
        return modules[found[2]].format(found[1])

    if "hf_hook_point_in" in settings:
        return named("hf_hook_point_in"), named("hf_hook_point_out")
    layer, path = re.search(r"layer_(\d+)", folder.resolve().name), "/".join(folder.resolve().parts[-2:])
    kinds = {"resid_post": "output", "attn_out": "self_attn.o_proj.input"}
    kinds |= {"mlp_out": "post_feedforward_layernorm.output", "transcoder": "pre_feedforward_layernorm.output"}
    kind = next((name for name in kinds if name in path), None)
    if layer is None or kind is None:
        return "", ""
    made = modules["post_feedforward_layernorm.output"].format(layer[1]) if kind == "transcoder" else ""
    return modules[kinds[kind]].format(layer[1]), made


# ── SAELens ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def _saelens(folder: Path, site: str) -> SparseAutoencoder:
    tensors, settings = _tensors(folder / SAELENS), _saelens_settings(folder)
    about, architecture = dict(settings.get("metadata") or {}), str(settings.get("architecture"))
    skips = False
    if architecture in _TRANSCODERS:
        activation, skips = _TRANSCODERS[architecture]
    elif (activation := _PLAIN.get(architecture, "")) == "":
        raise _refused(
            folder / SETTINGS, f"architecture {architecture!r}", expected=", ".join([*_PLAIN, *_TRANSCODERS])
        )
    encoder, decoder, decoder_bias = _take(tensors, folder, "W_enc", "W_dec", "b_dec")
    magnitude = None
    if activation == "gated":
        bias, scale, shift = _take(tensors, folder, "b_gate", "r_mag", "b_mag")
        magnitude = torch.stack([scale, shift])
    else:
        (bias,) = _take(tensors, folder, "b_enc")
    threshold = _take(tensors, folder, "threshold")[0] if activation == "jumprelu" else None
    if settings.get("rescale_acts_by_decoder_norm"):  # TopK chooses by f |W_dec|: the same with the length moved over
        length = decoder.norm(dim=1)
        encoder, bias, decoder = encoder * length, bias * length, decoder / length[:, None]
    name, made = about.pop("hook_name", None) or "", about.pop("hook_name_out", None) or ""
    if name.endswith("hook_mlp_in"):  # SAELens: behind the norm before the MLP; TransformerLens: before that norm
        name = str(about.get("hf_hook_name") or "").removesuffix(".output")
    transcodes = architecture in _TRANSCODERS
    if transcodes and not made:
        raise _refused(folder / SETTINGS, "a transcoder without metadata.hook_name_out")
    sae = SparseAutoencoder(
        site or name,
        encoder,
        bias,
        decoder,
        decoder_bias,
        cast(Activation, activation),
        int(settings.get("k", 0)),
        threshold,
        magnitude,
        subtract_bias=bool(settings.get("apply_b_dec_to_input", True)) and not transcodes,
        normalise=cast(Normalise, settings.get("normalize_activations", "none")),
        skip=_take(tensors, folder, "W_skip")[0].T.contiguous() if skips else None,
        output_site=made if transcodes else "",
        about=about,
    )
    return _checked(sae, tensors, folder)


def _saelens_settings(folder: Path) -> dict[str, Any]:
    """cfg.json as version 6 would have written it.

    Raises:
        ModelError: it asks for something that is not in the weights, or is not known here.
    """
    settings = _json(folder / SETTINGS)
    version = str((settings.get("metadata") or settings).get("sae_lens_version") or settings.get("sae_lens_version"))
    if not re.match(r"([6-9]|\d\d)\.", version):  # before version 6 everything lay side by side
        if (kind := settings.get("activation_fn_str", settings.get("activation_fn", "relu"))) == "topk":
            wanted = settings.get("activation_fn_kwargs") or {}
            if wanted.get("signed"):
                raise _refused(folder / SETTINGS, "a signed TopK", expected="features that are not negative")
            settings |= {"architecture": "topk", "k": wanted.get("k", 0)}
        elif kind != "relu":
            raise _refused(folder / SETTINGS, f"activation function {kind!r}", expected="relu or topk")
        settings.setdefault("architecture", "standard")
        settings.setdefault("hook_name", settings.get("hook_point"))
        settings.setdefault("hook_head_index", settings.get("hook_point_head_index"))
        kept = ("hook_name", "hook_head_index", "model_name", "prepend_bos", "context_size")
        settings.setdefault("metadata", {name: settings[name] for name in kept if name in settings})
        scaled = settings.get("normalize_activations")
        settings["normalize_activations"] = "expected_average_only_in" if scaled is True else scaled or "none"
    if settings.get("finetuning_scaling_factor"):
        raise _refused(folder / SETTINGS, "finetuning_scaling_factor, which no current SAELens reads")
    heads = {**settings, **(settings.get("metadata") or {})}.get(
        "hook_head_index", settings.get("hook_point_head_index")
    )
    if heads is not None:
        raise _refused(folder / SETTINGS, f"an autoencoder of one head alone ({heads})", expected="all heads of a site")
    scaled = settings.get("normalize_activations", "none")
    if scaled not in get_args(Normalise):
        raise _refused(
            folder / SETTINGS,
            f"normalize_activations is {scaled!r}, and the scale is not in the folder",
            expected=f"it folded into the weights, or {', '.join(get_args(Normalise))}",
            do="save it with SAELens' save_inference_model",
        )
    return settings


# ── sparsify ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _sparsify(folder: Path, site: str) -> SparseAutoencoder:
    tensors, settings = _tensors(folder / SPARSIFY), _json(folder / SETTINGS)
    foreign = {name: settings[name] for name in ("signed", "transcode", "skip_connection") if settings.get(name)}
    if settings.get("activation", "topk") != "topk":
        foreign["activation"] = settings["activation"]
    if foreign:
        raise _refused(
            folder / SETTINGS,
            f"{', '.join(f'{k}: {v}' for k, v in foreign.items())}",
            expected="a plain TopK of a site",
        )
    encoder, bias, decoder, decoder_bias = _take(tensors, folder, "encoder.weight", "encoder.bias", "W_dec", "b_dec")
    if not isinstance(k := settings.get("k"), int):
        raise _refused(folder / SETTINGS, f"k is {k!r}", expected="a number")
    name = folder.resolve().name
    layer = re.fullmatch(r"(?:.+\.)?(?:layers|h)\.(\d+)", name)
    known = f"blocks.{layer[1]}.hook_resid_post" if layer else "hook_embed" if name == "embed_tokens" else ""
    if not known and re.search(r"(?:layers|h)\.\d+\.", name):
        known = name  # the output of a module below the trunk: `sae.fitted` completes the path
    sae = SparseAutoencoder(
        site or known, encoder.T.contiguous(), bias, decoder, decoder_bias, "topk", k, subtract_bias=True
    )
    return _checked(sae, tensors, folder)


# ── what all share ───────────────────────────────────────────────────────────────────────────────────────────────────
def _checked(sae: SparseAutoencoder, left: Mapping[str, Tensor], folder: Path) -> SparseAutoencoder:
    """The autoencoder if its shapes fit each other, its numbers are finite, and nothing of the file is left."""
    d_in, d_sae = sae.encoder.shape if sae.encoder.ndim == 2 else (0, 0)
    d_out = sae.decoder.shape[-1] if sae.output_site else d_in
    wanted: dict[str, tuple[int, ...]] = {"encoder_bias": (d_sae,), "decoder": (d_sae, d_out)}
    wanted |= {"decoder_bias": (d_out,), "threshold": (d_sae,), "magnitude": (2, d_sae), "skip": (d_in, d_out)}
    for name, shape in wanted.items():
        if (value := getattr(sae, name)) is not None and tuple(value.shape) != shape:
            raise _refused(folder, f"{name} is {list(value.shape)}", expected=f"{list(shape)}, from the encoder")
    for name, value in vars(sae).items():
        if isinstance(value, Tensor) and not bool(value.isfinite().all()):
            raise _refused(folder, f"{name} holds numbers that are not finite")
    if sae.activation == "topk" and not 1 <= sae.k <= d_sae:
        raise _refused(folder / SETTINGS, f"k is {sae.k}", expected=f"1 to {d_sae}, the number of features")
    settings = _json(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
    for key, value in (("d_in", d_in), ("d_sae", d_sae), ("num_latents", d_sae or None)):
        if settings.get(key) and settings[key] != value:
            raise _refused(folder / SETTINGS, f"{key} is {settings[key]}", expected=f"{value}, as the weights have it")
    scale = left.get("scaling_factor")  # SAELens wrote ones for a time
    ignored = {"scaling_factor"} if scale is not None and bool((scale == 1).all()) else set()
    if unread := sorted(set(left) - ignored):
        raise _refused(folder, f"tensors that are not understood: {', '.join(unread)}")
    return replace(sae, about={name: value for name, value in sae.about.items() if value is not None})


def _take(tensors: dict[str, Tensor], folder: Path, *names: str) -> list[Tensor]:
    """Tensors by name, out of what is left to read."""
    if missing := [name for name in names if name not in tensors]:
        raise _refused(folder, f"no tensor {' or '.join(missing)}", expected=f"{', '.join(names)} and others")
    return [tensors.pop(name) for name in names]


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise _refused(path, f"not readable as safetensors ({str(error)[:200]})", do="download it again") from error
    whole = [name for name, value in found.items() if not value.is_floating_point()]
    if whole:
        raise _refused(path, f"tensors that are not floating-point numbers: {', '.join(sorted(whole))}")
    return {name: value.float() for name, value in found.items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _refused(path.parent, f"no {path.name} beside the weights") from None
    except (OSError, ValueError) as error:
        raise _refused(path, f"not readable as JSON ({error})") from error
    if not isinstance(found, dict):
        raise _refused(path, "not a JSON object")
    return found


def _refused(where: Path, found: str, *, expected: str = "", do: str = "") -> ModelError:
    return ModelError(found, where=str(where), expected=expected, do=do or "use another autoencoder")
