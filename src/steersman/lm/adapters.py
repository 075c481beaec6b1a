"""A policy on a base model: LoRA adapters (or all weights), saved so that plain `peft` and `transformers` load them."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from steersman.errors import ModelError
from steersman.lm import device, fused_layers, nf4, pretrained
from steersman.lm.head import probe_ids, same_states
from steersman.types import Record

ADAPTER, FULL, NOTE = "adapter", "model", "steersman.json"
_ADDED = re.compile(r"lora_|\.(modules_to_save|original_module)\b")  # in the names of what peft put into a model


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
    target_modules: str | tuple[str, ...] = Field(
        default="all-linear",
        description="Linear modules to adapt: their names, a regular expression, or all-linear (but the output layer).",
    )
    modules_to_save: tuple[str, ...] = Field(
        default=(), description="Modules trained whole and saved with the adapter, e.g. embed_tokens, lm_head."
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

    plain = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    layers = _upper_layers(plain, config.trainable_layers)
    targets = _targets(plain, config.target_modules, layers)
    if targets == "all-linear" and plain is not model:
        targets = _linear_names(plain)  # peft would also take the copies of modules that learn whole
    _check_whole(plain, config.modules_to_save)
    wanted = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_rslora=config.rslora,
        use_dora=config.dora,
        target_modules=targets,
        modules_to_save=list(config.modules_to_save) or None,
        layers_to_transform=layers,
        fan_in_fan_out=any(_original_kind(module) == "Conv1D" for module in model.modules()),  # GPT-2: [in, out]
        task_type="CAUSAL_LM",
    )
    try:
        with _ends_apart():
            if isinstance(model, peft.PeftModel):
                policy = model
                policy.add_adapter(name, wanted)
            else:
                policy = peft.get_peft_model(model, wanted, adapter_name=name)
    except (ValueError, NotImplementedError) as error:
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


def _original_kind(module: Any) -> str:
    """The class of a module, and of a quantised one before."""
    return str(getattr(module, "source_cls", type(module)).__name__)


@contextmanager
def _ends_apart() -> Iterator[None]:
    """Without peft's warning that tied ends are trained apart: that is right, the merged model has two.

    peft's own way to keep them tied (``ensure_weight_tying``, 0.21) gives wrong logits with a second adapter, which a
    reference or a reward model is, and lets GPT-2's base model move.
    """
    with warnings.catch_warnings():
        for text in ("Model has `tie_word_embeddings=True`", "Input and output embeddings are no longer tied"):
            warnings.filterwarnings("ignore", message=text)
        yield


def _targets(model: Any, wanted: str | Sequence[str], layers: Sequence[int] | None) -> str | list[str]:
    """The target modules as peft takes them; it takes layers only together with names."""
    if wanted == "all-linear":
        return "all-linear" if layers is None else _linear_names(model)
    if not isinstance(wanted, str):
        _refuse_ends(model, [name for name, _ in model.named_modules() if _named(name, wanted)])
        return list(wanted)
    try:
        pattern = re.compile(wanted)
    except re.error as error:
        do = "give a list of names, such as [q_proj, v_proj], or all-linear"
        raise ModelError(f"no regular expression ({error})", where="sft.lora.target_modules", do=do) from error
    found = [name.replace(".base_layer", "") for name, _ in model.named_modules() if pattern.fullmatch(name)]
    if not found:
        raise ModelError(
            f"the regular expression {wanted!r} matches none of the model's modules",
            where="sft.lora.target_modules",
            expected=r"one for whole names, e.g. .*\.(q|v)_proj",
            do="change it, or give a list of names",
        )
    _refuse_ends(model, found)
    return wanted if layers is None else found


def _named(name: str, endings: Sequence[str]) -> bool:
    return any(f".{name}".endswith(f".{ending}") for ending in endings)


def _check_whole(model: Any, wanted: Sequence[str]) -> None:
    """Refuse modules to train whole that are not there, or cannot learn."""
    modules, where = dict(model.named_modules()), "sft.lora.modules_to_save"
    for ending in wanted:
        found = [name for name in modules if _named(name, [ending])]
        if not found:
            raise ModelError(f"the model has no module {ending!r}", where=where, do="name modules that it has")
        for name in found:
            if isinstance(modules[name], torch.nn.ModuleList):
                raise ModelError(f"{name} is a list of modules", where=where, do="name modules in it")
            if not all(p.is_floating_point() for p in modules[name].parameters()):
                raise ModelError(
                    f"{name} has 4-bit weights, which cannot learn", where=where, do="set hardware.weights: full"
                )


def _refuse_ends(model: Any, targets: Sequence[str]) -> None:
    """Losses and samplers read the output layer's own weight, and a tied embedding would be merged into both ends.

    Args:
        targets: names of modules.
    """
    ends = {id(module) for module in (model.get_input_embeddings(), model.get_output_embeddings())}
    names = {name for name, module in model.named_modules() if id(module) in ends}
    if found := [name for name in targets if name in names]:
        raise ModelError(
            f"adapters on the embedding or the output layer are not supported ({', '.join(found)})",
            where="sft.lora.target_modules",
            expected="modules between them, such as q_proj, or all-linear",
            do="take it out; lora.modules_to_save trains it whole",
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
    """How many lower layers an adapter leaves as they are in the base model; none above a module that learns whole."""
    config = policy.peft_config[name]
    adapted: list[int] | None = config.layers_to_transform
    return min(adapted) if adapted and not config.modules_to_save else 0


def _linear_names(model: Any) -> list[str]:
    """Names of the linear modules below the output layer, such as q_proj."""
    from transformers.pytorch_utils import Conv1D

    head, kinds = model.get_output_embeddings(), (torch.nn.Linear, Conv1D)
    names = {n for n, m in model.named_modules() if isinstance(m, kinds) and m is not head and not _ADDED.search(n)}
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


def activate(policy: Any, name: str) -> None:
    """Make an adapter the one in use, and the only one that learns.

    peft's ``set_adapter`` leaves copies that learn whole in other adapters trainable: a reference would move.
    """
    _set_adapters(policy, _lora_layers(policy), name, disabled=False, learns=name)


def _lora_layers(policy: Any) -> list[Any]:
    """The LoRA layers of a policy and the modules that learn whole, found once for its set of adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    names, (known, layers) = list(policy.peft_config), policy.__dict__.get("_lora_layers", ([], []))
    if names != known:
        layers = [module for module in policy.modules() if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper)]
        policy.__dict__["_lora_layers"] = names, layers
    return list(layers)


def _set_adapters(policy: Any, layers: Sequence[Any], active: str, disabled: bool, learns: str | None) -> None:
    """Set the flags that peft's switching sets; ``learns`` is the adapter whose parameters require gradients."""
    policy.active_adapter = policy.base_model.active_adapter = active
    policy._adapters_disabled = disabled
    for layer in layers:
        # An adapter without a copy of a module that learns whole in another one uses the base model's.
        whole = getattr(layer, "modules_to_save", None)
        layer._active_adapter, layer._disable_adapters = [active] if whole is None or active in whole else [], disabled
        for container in layer.adapter_layer_names:
            for name, module in getattr(layer, container).items():
                for parameter in [module] if isinstance(module, Tensor) else module.parameters(whole is not None):
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
    weights = device.current().weights
    note = {"base_digest": base_digest, **({} if weights == "full" else {"weights": weights})}
    (target / NOTE).write_text(json.dumps(note) + "\n", encoding="utf-8")


def load_policy(base: Path, trained: Path | None) -> Any:
    """The base model in evaluation mode, with what was trained on it (a folder written by `save_policy`) merged in.

    Merging costs a second and makes every forward pass as cheap as the base model's. In bfloat16 and in
    four bits the adapter stays beside the weights: what it adds is smaller than their rounding, of which merging would
    make a new one.

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
    if device.current().dtype != "float32" or device.current().weights != "full":
        model, _ = load_trainable(base, trained)
        return model.requires_grad_(False).eval()
    return load_merged(base, trained)


def load_merged(base: Path, trained: Path) -> Any:
    """The model with a LoRA policy merged into the weights that it was trained on; those of four bits are restored.

    Raises:
        ModelError: as in `load_policy`, or merging changed what the model computes.
    """
    # Nothing is fused: what is measured and exported computes as plain `transformers` does, to the last bit.
    return merge(_with_adapter(load_restored(base), base, trained / ADAPTER, "default").eval())


def load_restored(folder: Path) -> Any:
    """The model that `pretrained.load_model` computes with, as a plain one into which adapters can be merged.

    With 4-bit weights they are restored in the precision of the activations; others are what they are.
    """
    place = device.current()
    if place.weights == "full":
        return pretrained.load_model(folder)
    quantised = pretrained.load_model(folder)
    with device.placed(place.model_copy(update={"weights": "full"})):
        return nf4.restore_into(pretrained.load_model(folder), quantised)


def merge(policy: Any) -> Any:
    """The model with its adapter merged into the weights.

    Raises:
        ModelError: it computes something else afterwards.
    """
    ids = torch.tensor([probe_ids(policy.get_base_model(), 8)], device=policy.device)
    with torch.no_grad():
        beside = policy(input_ids=ids, use_cache=False).logits
        with _ends_apart():
            model = policy.merge_and_unload().eval()
        fused_layers.leave_fused(model)
        merged = model(input_ids=ids, use_cache=False).logits
    if not same_states(merged, beside):
        raise ModelError(
            "merged into the weights, the adapter computes something else than beside them",
            expected="the same logits",
            do="use lora.target_modules without tied or shared modules",
        )
    return model


def take_off(policy: Any) -> Any:
    """The model without its adapters, as it was before `add_lora`; what they have learnt is lost."""
    model = policy.unload()
    fused_layers.leave_fused(model)
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

    with pretrained.foreign(str(adapter)), _ends_apart():
        if isinstance(model, peft.PeftModel):
            model.load_adapter(str(adapter), adapter_name=name, is_trainable=True)
            return model
        return peft.PeftModel.from_pretrained(model, str(adapter), adapter_name=name, is_trainable=True)


def weights_of(checkpoint: Path) -> Any:
    """What an adapter or a model was trained on: `Hardware.weights`."""
    return _note(checkpoint).get("weights", "full")


def _note(checkpoint: Path) -> dict[str, str]:
    note = checkpoint / NOTE
    found: dict[str, str] = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    return found


def check_base(checkpoint: Path, base: Path) -> None:
    """Refuse a checkpoint that was trained on another base model, or on weights of another precision."""
    note = _note(checkpoint)
    expected, found = note.get("base_digest"), pretrained.digest(base)
    own, loaded = weights_of(checkpoint), device.current().weights
    if note and own != loaded:
        raise ModelError(
            f"this checkpoint was trained on {own} weights, and the model is loaded with {loaded} ones",
            where=str(checkpoint),
            expected="the weights that it was trained on",
            do=f"set hardware.weights: {own}, or train again",
        )
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
