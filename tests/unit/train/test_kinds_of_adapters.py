"""Kinds of adapters (rsLoRA, DoRA, whole modules, targets by list and pattern) on several families, tied and not."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from steersman.errors import ModelError, RecipeError
from steersman.lm import pretrained
from steersman.lm.adapters import (
    LoraConfig,
    activate,
    add_lora,
    frozen_layers,
    load_adapter,
    load_policy,
    load_trainable,
    restore,
    save_policy,
    snapshot,
    trainable,
    using,
)
from steersman.lm.chat_format import chat_format, pad
from steersman.lm.export import export
from steersman.lm.head import head_in_use, head_of
from steersman.lm.int8 import Int8Copy
from steersman.lm.sampling import random_stream
from steersman.pipeline import prepare
from steersman.recipe import load_recipe
from steersman.store import StageFolder
from steersman.train import reward_model, sft
from steersman.train.dpo import DpoConfig, DpoTrainer, PreferencePair, encode
from steersman.train.loop import OptimiserConfig
from steersman.train.reward_model import RewardConfig
from steersman.train.rl import rloo
from steersman.train.rl.actor import POLICY, REFERENCE, Actor, RolloutConfig
from steersman.train.rl.loop import RlTrainer
from steersman.train.rl.rloo import RlooConfig
from steersman.train.sft import SftConfig, SftTrainer
from steersman.types import Comparison, Demonstration, Prompt

from .conftest import Stopped, recorder

IDS = torch.tensor([[2, 30, 40, 50, 60, 70, 1]])
FAMILIES = ("Llama", "GPT2", "Qwen2", "Gemma3")
OPTIMISER = OptimiserConfig(learning_rate=3e-3)
EMBEDDING = {"GPT2": "wte"}
PATTERNS = {"GPT2": r".*\.(c_attn|mlp\.c_fc)"}
KINDS = (
    "plain",
    "rslora",
    "dora",
    "list",
    "pattern",
    "upper pattern",
    "whole embedding",
    "whole ends",
    "a norm",
)


def kind(name: str, architecture: str) -> LoraConfig:
    embedding = EMBEDDING.get(architecture, "embed_tokens")
    pattern = PATTERNS.get(architecture, r".*\.(q_proj|mlp\.up_proj)")
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "rslora": {"rslora": True},
        "dora": {"dora": True},
        "list": {"target_modules": ("c_attn",) if architecture == "GPT2" else ("q_proj", "down_proj")},
        "pattern": {"target_modules": pattern},
        "upper pattern": {"target_modules": pattern, "trainable_layers": 1},
        "whole embedding": {"modules_to_save": (embedding,), "trainable_layers": 1},
        "whole ends": {"modules_to_save": (embedding, "lm_head")},
        "a norm": {"modules_to_save": ("ln_f" if architecture == "GPT2" else "model.norm",)},
    }
    return LoraConfig(rank=4, alpha=8.0, **options[name])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def moved(policy: Any) -> Any:
    """A policy away from its start, everything that learns with its own noise."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainable(policy).values():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return policy.eval()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("architecture", FAMILIES)
def test_merged_is_unmerged_here_and_in_plain_peft(
    architecture: str, name: str, base_of: Callable[[str], Path], tmp_path: Path
) -> None:
    base, config = base_of(architecture), kind(name, architecture)
    before = logits(pretrained.load_model(base))
    torch.manual_seed(0)
    policy = add_lora(pretrained.load_model(base), config, "some/base")
    torch.testing.assert_close(logits(policy.eval()), before, atol=1e-5, rtol=1e-5)  # nothing is learnt yet
    wanted = logits(moved(policy))
    assert (wanted - before).abs().max() > 0.01
    save_policy(policy, tmp_path, pretrained.load_tokenizer(base), pretrained.digest(base))
    torch.testing.assert_close(logits(load_policy(base, tmp_path)), wanted, atol=1e-5, rtol=1e-5)
    out = export(base, tmp_path, tmp_path / "merged", merged=True)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(out)), wanted, atol=1e-5, rtol=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # peft's, of tied ends
        plain = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    torch.testing.assert_close(logits(plain.eval()), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_module_that_learns_whole_belongs_to_its_adapter(
    architecture: str, base_of: Callable[[str], Path], tmp_path: Path
) -> None:
    base = base_of(architecture)
    before = logits(pretrained.load_model(base))
    model = pretrained.load_model(base)
    policy = moved(add_lora(model, kind("whole ends", architecture), "x"))
    wanted = logits(policy)
    save_policy(policy, tmp_path, pretrained.load_tokenizer(base), pretrained.digest(base))
    load_adapter(policy, base, tmp_path / "adapter", "second")
    add_lora(policy, LoraConfig(rank=2), "x", "without")
    activate(policy, "default")
    kept = snapshot(policy)
    moved(policy)
    for name, expected in (("second", wanted), (None, before), ("without", before)):
        with using(policy, name):
            torch.testing.assert_close(logits(policy), expected, atol=1e-5, rtol=1e-5)
            hidden = torch.randn(3, head_of(model).weight.shape[1])
            assert torch.equal(head_in_use(head_of(model), model).weight, model.get_output_embeddings().weight)
            assert torch.isfinite(head_of(model).logits(hidden)).all()
    assert (logits(policy) - wanted).abs().max() > 0.01
    for name in ("second", "default"):
        with using(policy, name):
            assert {part for key in trainable(policy) for part in key.split(".")} & {"second", "default"} == {name}
            assert sum("modules_to_save" in key for key in trainable(policy)) == 2
    restore(policy, kept)
    torch.testing.assert_close(logits(policy), wanted, atol=1e-5, rtol=1e-5)


def test_layers_below_a_module_that_learns_whole_are_not_frozen(tiny_base: Path) -> None:
    upper = LoraConfig(rank=2, trainable_layers=1)
    assert frozen_layers(add_lora(pretrained.load_model(tiny_base), upper, "x")) == 1
    whole = upper.model_copy(update={"modules_to_save": ("embed_tokens",)})
    assert frozen_layers(add_lora(pretrained.load_model(tiny_base), whole, "x")) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules_to_save": ("score",)}, "no module 'score'"),
        ({"modules_to_save": ("layers",)}, "list of modules"),
        ({"target_modules": "("}, "no regular expression"),
        ({"target_modules": "q_proj"}, "matches none of the model's modules"),
        ({"target_modules": r".*(q_proj|lm_head)"}, "embedding or the output layer"),
    ],
)
def test_what_is_not_there_is_refused(options: dict[str, Any], message: str, tiny_base: Path) -> None:
    with pytest.raises(ModelError, match=message):
        add_lora(pretrained.load_model(tiny_base), LoraConfig(**options), "x")


def test_no_int8_copy_of_what_learns(tiny_base: Path) -> None:
    model = pretrained.load_model(tiny_base)
    head = head_of(model.requires_grad_(False))
    add_lora(model, LoraConfig(rank=2, modules_to_save=("embed_tokens",)), "x")
    with pytest.raises(ModelError, match="learn whole"):
        Int8Copy(model, head)


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────
TRAINED = ("dropout", "rslora", "dora", "whole ends")


def settings(name: str, architecture: str) -> LoraConfig:
    return LoraConfig(rank=4, dropout=0.2) if name == "dropout" else kind(name, architecture)


@pytest.fixture(scope="module")
def comparisons(demonstrations: list[Demonstration]) -> list[Comparison]:
    rows = demonstrations[:8]
    return [Comparison(prompt=d.prompt, options=(d.completion, "I cannot help."), ranking=(1, 2)) for d in rows]


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("architecture", ["Llama", "GPT2", "Gemma3"])
def test_training_resumes_to_the_bit_and_dpo_starts_at_log_2(
    architecture: str,
    name: str,
    base_of: Callable[[str], Path],
    demonstrations: list[Demonstration],
    comparisons: list[Comparison],
    tmp_path: Path,
) -> None:
    base = base_of(architecture)
    config = SftConfig(
        lora=settings(name, architecture), optimiser=OPTIMISER, epochs=1, max_steps=3, checkpoint_every_steps=1,
    )  # fmt: skip
    folders = {key: tmp_path / key for key in ("whole", "resumed")}
    for key, folder in folders.items():
        folder.mkdir()
        if key == "resumed":
            with pytest.raises(Stopped):
                sft.run(config, base, "x", demonstrations[:24], [], StageFolder(folder, "sft", recorder(2)[1]))
        sft.run(config, base, "x", demonstrations[:24], [], StageFolder(folder, "sft"))
    files = [folder / "adapter" / "adapter_model.safetensors" for folder in folders.values()]
    assert files[0].read_bytes() == files[1].read_bytes()

    model, policy = load_trainable(base, folders["whole"])
    groups = [p.group for p in encode(comparisons, chat_format(pretrained.load_tokenizer(base)), DpoConfig())[0]]
    trainer = DpoTrainer.prepare(DpoConfig(), model, policy, 0, groups)
    pairs = [PreferencePair(group) for group in groups]
    references = trainer.references([pairs, pairs])
    if name == "dropout":  # its noise is the policy's own: the reference has none
        model.eval()
    first = trainer.step(0, pairs, references[0], 1e-3)
    assert first["preference_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert trainer.step(1, pairs, references[1], 1e-3)["preference_loss"] < math.log(2)


@pytest.mark.parametrize("architecture", ["Llama", "GPT2", "Gemma3"])
def test_training_follows_the_gradient_of_whole_ends(
    architecture: str, base_of: Callable[[str], Path], demonstrations: list[Demonstration]
) -> None:
    base = base_of(architecture)
    chat = chat_format(pretrained.load_tokenizer(base))
    examples = sft.encode(demonstrations[:4], chat, SftConfig(max_length=64)).examples
    config = SftConfig(lora=kind("whole ends", architecture))
    trainer = SftTrainer.prepare(config, pretrained.load_model(base), "x", 0, examples)
    assert trainer.cache is None
    moved(trainer.policy)
    batch = pad(examples, 0, "cpu")
    weight = float(batch.completion_mask.sum())
    sft.sft_loss(trainer.model, trainer.token_loss, batch, weight, random_stream(0)).backward()
    ours = {name: p.grad.clone() for name, p in trainer.parameters.items() if p.grad is not None}
    assert ours.keys() == trainer.parameters.keys()
    trainer.policy.zero_grad()
    labels = batch.token_ids.masked_fill(~batch.completion_mask.bool(), -100)
    trainer.policy(input_ids=batch.token_ids, attention_mask=batch.attention_mask, labels=labels).loss.backward()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, trainer.parameters[name].grad, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("architecture", ["Llama", "Gemma3"])
def test_reinforcement_starts_at_no_divergence_from_whole_ends(
    architecture: str,
    base_of: Callable[[str], Path],
    demonstrations: list[Demonstration],
    comparisons: list[Comparison],
    tmp_path: Path,
) -> None:
    base = base_of(architecture)
    for name in ("sft", "reward"):
        (tmp_path / name).mkdir()
    lora = kind("whole ends", architecture)
    out = StageFolder(tmp_path / "sft", "sft")
    sft.run(SftConfig(lora=lora, optimiser=OPTIMISER, max_steps=2), base, "x", demonstrations[:24], [], out)
    out = StageFolder(tmp_path / "reward", "reward_model")
    reward_model.run(RewardConfig(batch_size=4), base, tmp_path / "sft", comparisons, demonstrations[:4], out)
    rollouts = RolloutConfig(prompts=2, answers=3, max_new_tokens=6)
    config = RlooConfig(rollouts=rollouts, optimiser=OptimiserConfig(learning_rate=3e-2, schedule="constant"))
    actor = Actor.load(config, base, tmp_path / "sft", tmp_path / "reward", demonstrations)
    assert actor.below is None
    prompts = [Prompt(prompt=row.prompt) for row in demonstrations[:2]]
    trainer = RlTrainer(config, rloo.algorithm(config), actor, tmp_path / "reward")
    assert all(f".{POLICY}." in key for key in trainer.parameters)
    seen = actor.sample_rollouts([row.prompt for row in prompts], 0)
    assert actor.divergence(seen.groups)[0] == pytest.approx(0, abs=1e-6)
    trainer.step(0, prompts, [])
    assert actor.divergence(seen.groups)[0] > 1e-5
    # The head's own part of it: by plain logits of both adapters.
    with torch.no_grad():
        plain = {}
        ids = torch.tensor([seen.groups[0].prompt + seen.groups[0].completions[0]])
        for name in (POLICY, REFERENCE):
            with using(actor.policy, name):
                plain[name] = actor.policy(input_ids=ids).logits[0].log_softmax(-1)
        group = seen.groups[0]._replace(completions=seen.groups[0].completions[:1])
        at = slice(len(group.prompt) - 1, -1)
        policy, reference = plain[POLICY][at], plain[REFERENCE][at]
        wanted = (policy.exp() * (policy - reference)).sum(-1).mean()
    actor.policy.eval()
    assert actor.divergence([group])[0] == pytest.approx(float(wanted), rel=1e-3)


@pytest.mark.parametrize(
    "setting",
    ["sft.vocabulary=compact", "dpo.vocabulary=compact", "rl.vocabulary=compact", "rl.rollouts.int8=true"],
)
def test_a_recipe_does_not_copy_what_learns(setting: str) -> None:
    name = "reinforced" if setting.startswith("rl") else "smoke"
    settings = ["model=tiny-random", "sft.lora.modules_to_save=[embed_tokens]", "sft.vocabulary=full"]
    others = ["rl.vocabulary=full", "rl.rollouts.int8=false"] if name == "reinforced" else []
    with pytest.raises(RecipeError, match=r"lora\.modules_to_save"):
        prepare(load_recipe(name, [*settings, *others, setting]))
