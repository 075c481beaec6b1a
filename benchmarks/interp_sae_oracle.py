"""Do our readers and our writer compute what SAELens' and sparsify's own code computes? Random weights, every form.

    pip download --no-deps sae-lens==6.54.12 eai-sparsify==1.3.3 && unzip -q '*.whl' -d OTHERS
    .venv/bin/python benchmarks/interp_sae_oracle.py OTHERS

Neither can be installed beside Steersman (SAELens wants TransformerLens below 4), so the classes of their autoencoders
are run from the unpacked wheels, and what they import and do not need for that is stood in for: hook points that pass
on what they get, configurations that are plain dataclasses. `einops` must be importable. Of each architecture and
normalisation: their features and reconstruction, ours of the folder that they wrote, and theirs of the folder that we
wrote. The largest differences go to benchmarks/results/interp_sae_oracle.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import logging
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steersman.interp.sae_formats import load_sae, save_sae
from steersman.store import write_json

RESULTS = Path(__file__).resolve().parent / "results" / "interp_sae_oracle.json"
D, F = 6, 11
NAMES = {"standard": "Standard", "topk": "TopK", "jumprelu": "JumpReLU", "gated": "Gated"}
TRANSCODERS = {"transcoder": "", "skip_transcoder": "Skip", "jumprelu_transcoder": "JumpReLU"}
TRANSCODERS |= {"jumprelu_skip_transcoder": "JumpReLUSkip"}


class Passing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x

    def setup(self) -> None:
        """A hooked module's, which has no hooks here."""


class Serializable:
    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload,no-any-return]

    @classmethod
    def from_dict(cls, settings: dict[str, Any], drop_extra_fields: bool = False) -> Any:
        names = {one.name for one in dataclasses.fields(cls)}  # type: ignore[arg-type]
        return cls(**{name: value for name, value in settings.items() if name in names})


def stand_in(name: str, folder: Path | None = None, **names: Any) -> None:
    module = types.ModuleType(name)
    module.__path__ = [str(folder)] if folder else []
    vars(module).update(names)
    sys.modules[name] = module


def decoded(places: Tensor, values: Tensor, decoder: Tensor) -> Tensor:
    return torch.zeros(len(values), decoder.shape[1]).scatter(1, places, values) @ decoder.T


def prepare(others: Path) -> dict[str, tuple[Any, Any]]:
    """SAELens' classes and configurations by architecture."""
    stand_in("transformer_lens")
    stand_in("transformer_lens.hook_points", HookPoint=Passing, HookedRootModule=Passing)
    stand_in("transformer_lens.HookedTransformer", HookedRootModule=Passing)
    stand_in("sae_lens", others / "sae_lens", __version__="6.54.12", logger=logging.getLogger("sae_lens"))
    stand_in("sae_lens.loading", others / "sae_lens" / "loading")
    online = ("get_config_overrides", "get_norm_scaling_factor", "get_pretrained_saes_directory")
    online += ("get_releases_for_repo_id", "get_repo_id_and_folder_name")
    stand_in("sae_lens.loading.pretrained_saes_directory", **dict.fromkeys(online))
    stand_in("sae_lens.saes", others / "sae_lens" / "saes")
    stand_in("simple_parsing", Serializable=Serializable, list_field=lambda *_: dataclasses.field(default_factory=list))
    stand_in("natsort", natsorted=sorted)
    stand_in("sparsify", others / "sparsify")
    stand_in("sparsify.utils", decoder_impl=lambda places, values, decoder: decoded(places, values, decoder))
    found, registry = {}, importlib.import_module("sae_lens.registry")
    for architecture, stem in {**NAMES, **TRANSCODERS}.items():
        ending = "Transcoder" if architecture in TRANSCODERS else "SAE"
        file = "transcoder" if architecture in TRANSCODERS else f"{architecture}_sae"
        module = importlib.import_module(f"sae_lens.saes.{file}")
        found[architecture] = getattr(module, f"{stem}{ending}"), getattr(module, f"{stem}{ending}Config")
        registry.register_sae_class(architecture, *found[architecture])
    return found


def compared(kind: Any, config: Any, x: Tensor, folder: Path) -> dict[str, float]:
    """Largest differences: our features and reconstruction of theirs, and their reconstruction of ours."""
    sae = kind(config)
    with torch.no_grad():
        for weight in sae.parameters():
            weight.copy_(0.7 * torch.randn_like(weight))
        if hasattr(sae, "threshold"):
            sae.threshold.abs_()
        values, made = sae.encode(x), sae(x)
        sae.save_model(folder / "theirs")
        ours = load_sae(folder / "theirs")
        save_sae(ours, folder / "ours")
        again = kind.load_from_disk(folder / "ours")(x)
    pairs = {"features": (values, ours.encode(x)), "reconstruction": (made, ours.decode(ours.encode(x), x))}
    pairs["read by them again"] = (made, again)
    return {name: float((one - other).abs().max()) for name, (one, other) in pairs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("others", type=Path)
    kinds = prepare(parser.parse_args().others.resolve())
    metadata = importlib.import_module("sae_lens.saes.sae").SAEMetadata
    torch.manual_seed(0)
    x, found = torch.randn(12, D), {}
    for architecture, (kind, config) in kinds.items():
        transcodes = architecture in TRANSCODERS
        about = {"hook_name": "blocks.1.hook_resid_post"} | (
            {"hook_name_out": "blocks.1.hook_mlp_out"} if transcodes else {}
        )
        for scaled in ("none",) if transcodes else ("none", "layer_norm", "constant_norm_rescale"):
            for rescale in (False, True) if architecture == "topk" else (None,):
                settings: dict[str, Any] = {"d_in": D, "d_sae": F, "normalize_activations": scaled}
                settings |= {} if rescale is None else {"k": 3, "rescale_acts_by_decoder_norm": rescale}
                settings |= {"d_out": D, "apply_b_dec_to_input": False} if transcodes else {}
                made = config(**settings)
                made.metadata = metadata(**about)
                with tempfile.TemporaryDirectory() as folder:
                    name = f"{architecture}, {scaled}{', rescaled' if rescale else ''}"
                    found[name] = compared(kind, made, x, Path(folder))
    sparse, settings_of = (importlib.import_module(f"sparsify.{name}") for name in ("sparse_coder", "config"))
    coder = sparse.SparseCoder(D, settings_of.SparseCoderConfig(num_latents=F, k=3))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for weight in coder.parameters():
            weight.copy_(0.7 * torch.randn_like(weight))
        coder.save_to_disk(Path(folder) / "layers.2")
        ours = load_sae(Path(folder) / "layers.2")
        found["sparsify"] = {"reconstruction": float((ours.decode(ours.encode(x), x) - coder(x).sae_out).abs().max())}
    largest = max(max(one.values()) for one in found.values())
    write_json(RESULTS, {"largest": largest, "forms": found})
    print(f"{len(found)} forms, largest difference {largest:.1e}")


if __name__ == "__main__":
    main()
