"""Four-bit base weights under adapters: QLoRA (Dettmers et al. 2023, arXiv:2305.14314), by bitsandbytes.

The weights of the linear layers between embedding and output layer lie in memory as NormalFloat4, 64 of them with one
scale, the scales in eight bits ("double quantisation"); each product first restores its weight in the precision of the
activations. Embedding, output layer, norms and adapters stay as they are.

The quantised model is another model than the one on disk, and the policy is trained, measured and sampled on it. A
merged export therefore holds the restored weights with the adapter in them, not the original ones.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from steersman.errors import ModelError
from steersman.lm.device import Hardware

PACKAGE = "bitsandbytes"


def check() -> None:
    """Refuse nf4 without bitsandbytes.

    Raises:
        ModelError: it is not installed.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise ModelError(
            "4-bit weights need bitsandbytes, which is not installed",
            where="hardware.weights",
            do="run: pip install 'steersman[qlora]'; or set hardware.weights: full",
        )


def loading(place: Hardware, config: Any, where: str) -> dict[str, Any]:
    """What `from_pretrained` has to be told to read a model with this configuration.

    Raises:
        ModelError: its weights are quantised already, or bitsandbytes is not installed.
    """
    if (getattr(config, "quantization_config", None) or {}).get("quant_method") == PACKAGE:
        raise ModelError(
            "these weights are quantised already, and adapters could not be merged into them",
            where=where,
            expected="the original weights",
            do="name the model that they were made from, with hardware.weights: nf4",
        )
    if place.weights == "full":
        return {}
    from transformers import BitsAndBytesConfig

    check()
    wanted = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, place.dtype),
    )
    return {"quantization_config": wanted, "device_map": {"": place.device}}


def layers_of(model: Any) -> dict[str, Any]:
    """The quantised linear layers of a model, by name."""
    return {name: module for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}


def keep_exact(model: Any) -> None:
    """Keep bitsandbytes from packing the weights at the first pass without gradients, on CPUs with AVX512-BF16.

    Packed weights compute in bfloat16 whatever was asked for, and pass no gradient on: what is trained after a look at
    a validation set would silently learn nothing below them (seen with bitsandbytes 0.50).
    """
    for module in layers_of(model).values():
        module.support_avx512bf16_for_cpu = False


def restore_into(model: Any, quantised: Any) -> Any:
    """Put the restored weights of a quantised model into the same model unquantised, which is returned."""
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    with torch.no_grad():
        for name, layer in layers_of(quantised).items():
            target, weight = model.get_submodule(name), dequantize_bnb_weight(layer.weight)
            # Conv1D (GPT-2) keeps its weight as [in, out]; quantised it is a linear layer.
            target.weight.copy_(weight.T if type(target).__name__ == "Conv1D" else weight)
    return model
