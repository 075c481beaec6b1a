"""A policy on a base model: LoRA adapters (or all weights), saved so that plain `peft` and `transformers` load them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from steersman.errors import ModelError
from steersman.lm import device, fused_layers, pretrained
from steersman.lm.head import probe_ids, same_states
from steersman.types import Record

ADAPTER, FULL = "adapter", "model"


class LoraConfig(Record):
    """Low-rank adapters, Hu et al. 2021 (arXiv:2106.09685): W + alpha / rank * B A, with B = 0 at the start.

    ``rslora`` divides by the root of the rank (Kalajdzievski 2023, arXiv:2312.03732); ``dora`` learns the magnitude of
    W's columns apart (Liu et al. 2024, arXiv:2402.09353), through peft's own code, which is slower here.
    """

    rank: int = Field(default=16, ge=1, description="Rank of the adapters' matrices A and B.")
    alpha: float = Field(default=32.0, gt=0, description="Adapters are scaled by alpha / rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the adapters' inputs in training.")
    rslora: bool = Field(default=False, description="Scale by alpha / sqrt(rank).")
    dora: bool = Field(default=False, description="DoRA: weight-decomposed adapters.")
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        default="all-linear", description="Names of the linear modules to adapt; all-linear: all but the output layer."
    )
    trainable_layers: int | None = Field(
        default=None, ge=1, description="How many upper layers to adapt; the backward pass ends there; null: all."
    )


def add_lora(model: Any, config: LoraConfig, base_name: str, name: str = "default") -> Any:
    """Wrap a model for LoRA training, or give a wrapped one a further adapter; only adapters require gradients.

    Policy, reference, reward and value model are adapters of different names on one base in memory: see `using`.

    Args:
        model: a base model, or what this function returned.
        base_name: written into the adapter's configuration as the model it belongs to.

    Raises:
        ModelError: none of the target modules exists, or the model has fewer layers than are to be trained.
    """
    import peft

    layers = _upper_layers(model, config.trainable_layers)
    targets = config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules)
    if not isinstance(targets, str):
        _refuse_ends(model, targets)
    if isinstance(targets, str) and layers is not None:
        targets = _linear_names(model)  # peft takes layers only together with names
    wanted = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_rslora=config.rslora,
        use_dora=config.dora,
        target_modules=targets,
        layers_to_transform=layers,
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()),  # GPT-2: [in, out]
        task_type="CAUSAL_LM",
    )
    try:
        if isinstance(model, peft.PeftModel):
            policy = model
            policy.add_adapter(name, wanted)
        else:
            policy = peft.get_peft_model(model, wanted, adapter_name=name)
    except ValueError as error:
        raise ModelError(str(error), where="sft.lora.target_modules", do="name modules that the model has") from error
    policy.peft_config[name].base_model_name_or_path = base_name
    fused_layers.use_fused(policy)
    _try(policy)
    return policy


def _try(policy: Any) -> None:
    """One pass over two tokens: some architectures use a linear module's weight in another way than its product."""
    try:
        with torch.no_grad():
            policy(input_ids=torch.zeros(1, 2, dtype=torch.long, device=policy.device), use_cache=False)
    except Exception as error:  # whatever a foreign architecture raises
        raise ModelError(
            f"the model does not run with adapters on these modules ({type(error).__name__}: {str(error)[:200]})",
            where="sft.lora.target_modules",
            do="name modules that are plain products, such as q_proj and v_proj",
        ) from error


def _refuse_ends(model: Any, targets: Sequence[str]) -> None:
    """Losses and samplers read the output layer's own weight, and a tied embedding would be merged into both ends."""
    ends = {id(module) for module in (model.get_input_embeddings(), model.get_output_embeddings())}
    names = [name for name, module in model.named_modules() if id(module) in ends]
    if found := [name for name in names if any(f".{name}".endswith(f".{target}") for target in targets)]:
        raise ModelError(
            f"adapters on the embedding or the output layer are not supported ({', '.join(found)})",
            where="sft.lora.target_modules",
            expected="modules between them, such as q_proj, or all-linear",
            do="take it out, or train all weights (sft.method: full)",
        )


def _upper_layers(model: Any, count: int | None) -> list[int] | None:
    """Indices of the upper layers, None for all."""
    layers = model.config.get_text_config().num_hidden_layers
    if count is None or count == layers:
        return None
    if count > layers:
        raise ModelError(f"the model has {layers} layers", where="sft.lora.trainable_layers", expected=f"1 to {layers}")
    return list(range(layers - count, layers))


def frozen_layers(policy: Any, name: str = "default") -> int:
    """How many lower layers an adapter leaves as they are in the base model."""
    adapted: list[int] | None = policy.peft_config[name].layers_to_transform
    return min(adapted) if adapted else 0


def _linear_names(model: Any) -> list[str]:
    """Names of the linear modules below the output layer, such as q_proj."""
    from transformers.pytorch_utils import Conv1D

    head, kinds = model.get_output_embeddings(), (torch.nn.Linear, Conv1D)
    names = {n for n, m in model.named_modules() if isinstance(m, kinds) and m is not head and "lora_" not in n}
    return sorted({n.removesuffix(".base_layer").split(".")[-1] for n in names})


@contextmanager
def using(policy: Any, name: str | None) -> Iterator[None]:
    """Within it, forward passes go through the adapter of this name, or with None through the base model alone.

    The active adapter is the one that requires gradients; gradients that another one has accumulated stay. No weight is
    copied or merged: flags are set in the LoRA layers, with the effects of peft's ``set_adapter`` and
    ``disable_adapter``, which walk over all modules of the model several times instead.

    Raises:
        ValueError: there is no adapter of this name.
    """
    if name is not None and name not in policy.peft_config:
        raise ValueError(f"Adapter {name} not found.")
    layers, active, disabled = _lora_layers(policy), policy.active_adapter, policy._adapters_disabled
    try:
        _set_adapters(policy, layers, name or active, disabled or name is None, learns=name)
        yield
    finally:
        if name is not None or not disabled:
            _set_adapters(policy, layers, active, disabled, learns=active)


def _lora_layers(policy: Any) -> list[Any]:
    """The LoRA layers of a policy, found once for its set of adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    names, (known, layers) = list(policy.peft_config), policy.__dict__.get("_lora_layers", ([], []))
    if names != known:
        layers = [module for module in policy.modules() if isinstance(module, BaseTunerLayer)]
        policy.__dict__["_lora_layers"] = names, layers
    return list(layers)


def _set_adapters(policy: Any, layers: Sequence[Any], active: str, disabled: bool, learns: str | None) -> None:
    """Set the flags that peft's switching sets; ``learns`` is the adapter whose parameters require gradients."""
    policy.active_adapter = policy.base_model.active_adapter = active
    policy._adapters_disabled = disabled
    for layer in layers:
        layer._active_adapter, layer._disable_adapters = [active], disabled
        for container in layer.adapter_layer_names:
            for name, module in getattr(layer, container).items():
                for parameter in [module] if isinstance(module, Tensor) else module.parameters(recurse=False):
                    parameter.requires_grad_(name == learns)


def snapshot(policy: Any, name: str = "default") -> dict[str, Tensor]:
    """A copy of an adapter's weights, under the names of its PEFT file."""
    return {key: value.detach().clone() for key, value in _weights(policy, name).items()}


def restore(policy: Any, weights: Mapping[str, Tensor], name: str = "default") -> None:
    """Put a `snapshot` into an adapter: into the one that it came from, or another one of the same shape."""
    found = _weights(policy, name)
    if {key: value.shape for key, value in found.items()} != {key: value.shape for key, value in weights.items()}:
        raise ModelError(f"these weights do not fit the adapter {name!r}", expected="the same layers and rank")
    with torch.no_grad():
        for key, value in found.items():
            value.copy_(weights[key])


def _weights(policy: Any, name: str) -> dict[str, Tensor]:
    """An adapter's own tensors; they share memory with the layers."""
    import peft

    found: dict[str, Tensor] = peft.get_peft_model_state_dict(
        policy,
        adapter_name=name,
        save_embedding_layers=False,  # "auto" would look the base up online
    )
    return found


def save_policy(policy: Any, folder: Path, tokenizer: Any, base_digest: str, name: str = "default") -> None:
    """Write FOLDER/adapter (LoRA) or FOLDER/model (all weights), with the digest of the base it belongs to.

    Args:
        name: which adapter.
    """
    if hasattr(policy, "peft_config"):
        target = folder / ADAPTER
        settings = policy.peft_config[name]
        base, settings.base_model_name_or_path = settings.base_model_name_or_path, None  # peft would look it up online
        policy.save_pretrained(target, selected_adapters=[name])
        settings.base_model_name_or_path = base
        if (target / name).is_dir():  # peft puts every adapter but "default" into a folder of its own
            for file in (target / name).iterdir():
                file.replace(target / file.name)
            (target / name).rmdir()
        (target / "README.md").unlink(missing_ok=True)  # peft's unfilled model card
        config = json.loads((target / "adapter_config.json").read_text(encoding="utf-8"))
        lists = {k: sorted(v) for k, v in config.items() if isinstance(v, list) and all(isinstance(x, str) for x in v)}
        # peft keeps module names in a set; sorted, equal training writes equal files
        text = json.dumps(config | lists | {"base_model_name_or_path": base}, indent=2, sort_keys=True)
        (target / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
    else:
        target = folder / FULL
        policy.save_pretrained(target)
        tokenizer.save_pretrained(target)
    (target / "steersman.json").write_text(json.dumps({"base_digest": base_digest}) + "\n", encoding="utf-8")


def load_policy(base: Path, trained: Path | None) -> Any:
    """The base model in evaluation mode, with what was trained on it (a folder written by `save_policy`) merged in.

    Merging costs a second and makes every forward pass as cheap as the base model's. In bfloat16 the adapter stays
    beside the weights: what it adds is smaller than their rounding, of which merging would make a new one.

    Raises:
        ModelError: the checkpoint was trained on another base model, or holds neither adapter nor model.
    """
    if trained is None:
        return pretrained.load_model(base).eval()
    if (trained / FULL).exists():
        check_base(trained / FULL, base)
        return pretrained.load_model(trained / FULL).eval()
    if not (trained / ADAPTER / "adapter_config.json").exists():
        raise ModelError("no trained policy here", where=str(trained), expected="a folder adapter/ or model/")
    if device.current().dtype != "float32":
        model, _ = load_trainable(base, trained)
        return model.requires_grad_(False).eval()
    # Nothing is fused: what is measured and exported computes as plain `transformers` does, to the last bit.
    return _merged(_with_adapter(pretrained.load_model(base), base, trained / ADAPTER, "default").eval())


def _merged(policy: Any) -> Any:
    """The model with its adapter merged into the weights, if it computes the same afterwards."""
    ids = torch.tensor([probe_ids(policy.get_base_model(), 8)], device=policy.device)
    with torch.no_grad():
        beside = policy(input_ids=ids, use_cache=False).logits
        model = policy.merge_and_unload().eval()
        merged = model(input_ids=ids, use_cache=False).logits
    if not same_states(merged, beside):
        raise ModelError(
            "merged into the weights, the adapter computes something else than beside them",
            expected="the same logits",
            do="use lora.target_modules without tied or shared modules",
        )
    return model


def load_trainable(base: Path, trained: Path) -> tuple[Any, Any]:
    """The model in ``base`` and the policy on it that `save_policy` wrote, to be trained on.

    Raises:
        ModelError: as in `load_policy`.
    """
    if (trained / FULL).exists():
        check_base(trained / FULL, base)
        model = pretrained.load_model(trained / FULL)
        return model, model
    model = pretrained.load_model(base)
    model.requires_grad_(False)
    return model, load_adapter(model, base, trained / ADAPTER)


def load_adapter(model: Any, base: Path, adapter: Path, name: str = "default") -> Any:
    """Put a saved adapter beside those that a model has, or as its first one; it can be trained on.

    Args:
        model: the base model in ``base``, or what `add_lora` returned for it.

    Raises:
        ModelError: the adapter was trained on another base model, or is damaged.
    """
    policy = _with_adapter(model, base, adapter, name)
    fused_layers.use_fused(policy)
    return policy


def _with_adapter(model: Any, base: Path, adapter: Path, name: str) -> Any:
    check_base(adapter, base)
    import peft

    with pretrained.foreign(str(adapter)):
        if isinstance(model, peft.PeftModel):
            model.load_adapter(str(adapter), adapter_name=name, is_trainable=True)
            return model
        return peft.PeftModel.from_pretrained(model, str(adapter), adapter_name=name, is_trainable=True)


def check_base(checkpoint: Path, base: Path) -> None:
    """Refuse a checkpoint that was trained on another base model."""
    note = checkpoint / "steersman.json"
    expected = json.loads(note.read_text(encoding="utf-8"))["base_digest"] if note.exists() else None
    found = pretrained.digest(base)
    if expected is not None and expected != found:
        raise ModelError(
            f"this checkpoint belongs to another base model (digest {expected[:12]}, the model has {found[:12]})",
            where=str(checkpoint),
            expected=f"a checkpoint trained on {base}",
            do="give the model that it was trained on, or train again",
        )


def trainable(policy: Any) -> dict[str, torch.nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: p for name, p in policy.named_parameters() if p.requires_grad}
