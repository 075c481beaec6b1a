"""4-bit base weights: gradients are those of plain peft, nothing else is quantised, and what would be wrong is refused.

The tests of the arithmetic need bitsandbytes (extra ``qlora``), whose CPU backend they run on; not run on a GPU.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from steersman.errors import ModelError, RecipeError
from steersman.lm import nf4, pretrained
from steersman.lm.adapters import LoraConfig, add_lora, load_merged, load_policy, save_policy, trainable
from steersman.lm.device import Hardware, placed
from steersman.lm.export import export
from steersman.lm.fast_paths import fast_paths
from steersman.lm.head import head_of
from steersman.pipeline import prepare
from steersman.recipe import load_recipe
from steersman.stages.sources import base_digest

IDS = torch.tensor([[2, 30, 40, 50, 60, 70, 1], [2, 9, 8, 7, 6, 5, 4]])
NF4 = Hardware(weights="nf4")
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (extra qlora)"
)


@pytest.fixture
def quantised() -> Iterator[None]:
    with placed(NF4):
        yield


def plain(base: Path) -> Any:
    """The quantised model by transformers alone, computing in float32."""
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, quantization_config=config)
    nf4.keep_exact(model)
    return model.eval()


def noisy(policy: Any) -> Any:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainable(policy).values():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return policy.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def gradients(policy: Any) -> dict[str, torch.Tensor]:
    policy(input_ids=IDS, labels=IDS).loss.backward()
    return {name: p.grad for name, p in trainable(policy).items() if p.grad is not None}


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*")
@pytest.mark.parametrize("name", ["Llama", "GPT2", "Qwen2", "Gemma3"])
def test_adapters_learn_as_in_plain_peft(name: str, base_of: Callable[[str], Path], quantised: None) -> None:
    base = base_of(name)
    model = pretrained.load_model(base)
    assert len(nf4.layers_of(model)) == (8 if name == "GPT2" else 14)
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    assert all(end.weight.dtype == torch.float32 for end in ends)
    assert head_of(model).weight.shape == ends[0].weight.shape
    assert all(fast_paths(model))
    policy = noisy(add_lora(model, LoraConfig(rank=4, alpha=12.0), "x"))
    logits(policy)  # a look without gradients, after which they must still flow
    config = peft.LoraConfig(r=4, lora_alpha=12.0, target_modules="all-linear", task_type="CAUSAL_LM")
    theirs = noisy(peft.get_peft_model(plain(base), config))
    torch.testing.assert_close(logits(policy), logits(theirs), atol=1e-5, rtol=1e-5)
    ours, wanted = gradients(policy), gradients(theirs)
    assert len(ours) == len(wanted) == len(trainable(policy))
    for key, gradient in ours.items():
        torch.testing.assert_close(gradient, wanted[key], atol=1e-6, rtol=1e-4)


@needs_bitsandbytes
@pytest.mark.parametrize("name", ["Llama", "GPT2", "Gemma3"])
def test_a_merged_export_is_the_trained_model(
    name: str, base_of: Callable[[str], Path], tmp_path: Path, quantised: None
) -> None:
    base = base_of(name)
    original = logits(AutoModelForCausalLM.from_pretrained(base))
    policy = noisy(add_lora(pretrained.load_model(base), LoraConfig(rank=4), "some/base"))
    save_policy(policy, tmp_path, pretrained.load_tokenizer(base), pretrained.digest(base))
    wanted = logits(policy)
    torch.testing.assert_close(logits(load_policy(base, tmp_path)), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(load_merged(base, tmp_path)), wanted, atol=1e-4, rtol=1e-4)
    with placed(Hardware()):  # as the command, which does not know the run's hardware
        merged = AutoModelForCausalLM.from_pretrained(export(base, tmp_path, tmp_path / "merged", merged=True))
        adapter = export(base, tmp_path, tmp_path / "alone", merged=False)
        with pytest.raises(ModelError, match="trained on nf4 weights, and the model is loaded with full ones"):
            load_policy(base, tmp_path)
    assert not nf4.layers_of(merged)
    torch.testing.assert_close(logits(merged), wanted, atol=1e-4, rtol=1e-4)
    assert (logits(pretrained.load_model(base)) - original).abs().max() > 1e-3  # another model than the one on disk
    assert json.loads((adapter / "steersman.json").read_text())["weights"] == "nf4"


@needs_bitsandbytes
def test_modules_with_4_bit_weights_do_not_learn_whole(tiny_base: Path, quantised: None) -> None:
    with pytest.raises(ModelError, match="4-bit weights, which cannot learn"):
        add_lora(pretrained.load_model(tiny_base), LoraConfig(modules_to_save=("q_proj",)), "x")


def test_the_weights_are_part_of_the_base_models_identity(tiny_base: Path) -> None:
    recipe = load_recipe("smoke")
    plain = base_digest(tiny_base, recipe)
    assert plain.startswith(pretrained.digest(tiny_base))
    assert base_digest(tiny_base, recipe.model_copy(update={"hardware": NF4})) == f"{plain} with nf4 weights"


def test_weights_that_are_quantised_already_are_refused(
    family: Callable[[str], Any], tokenizer: Any, tmp_path: Path
) -> None:
    family("Llama").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}})
    )
    with pytest.raises(ModelError, match="quantised already"):
        pretrained.load_model(tmp_path)


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch, tiny_base: Path, quantised: None) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for refused in (NF4.check, lambda: pretrained.load_model(tiny_base)):
        with pytest.raises(ModelError, match=r"need bitsandbytes, which is not installed") as error:
            refused()
        assert "steersman[qlora]" in str(error.value)


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("smoke", ["sft.method=full", "sft.vocabulary=full"], "hardware.weights: nf4 is for frozen weights"),
        ("reinforced", ["rl.rollouts.int8=true"], "int8 quantises float32 weights"),
        (
            "reinforced",
            ["rl.rollouts.int8=false", "rl.vocabulary=full", "rl.rollouts.engine=vllm"],
            "vLLM would sample",
        ),
    ],
)
def test_what_4_bit_weights_cannot_do_is_refused(recipe: str, settings: list[str], message: str) -> None:
    settings = ["model=tiny-random", "hardware.weights=nf4", *settings]
    with pytest.raises(RecipeError, match=message):
        prepare(load_recipe(recipe, settings))
