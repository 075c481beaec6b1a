"""What is saved loads in plain `peft` and `transformers`, and only on the base model that it belongs to."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, AutoTokenizer

from steersman.errors import ModelError
from steersman.lm import adapters as policies
from steersman.lm import pretrained, tiny
from steersman.lm.adapters import (
    LoraConfig,
    add_lora,
    load_adapter,
    load_policy,
    restore,
    save_policy,
    snapshot,
    trainable,
    using,
)
from steersman.lm.chat_format import chat_format
from steersman.lm.export import export
from steersman.lm.sampling import Request, Sampler, SamplingConfig

PROMPT = "How do I cook an egg?"


def learn(policy: Any, steps: int = 3) -> Any:
    """A few large optimiser steps, so that the policy is clearly another model."""
    torch.manual_seed(0)
    optimiser = torch.optim.SGD(trainable(policy).values(), lr=0.5)
    ids = torch.tensor([[2, 30, 40, 50, 60, 70, 1]])
    for _ in range(steps):
        policy(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return policy.eval()


def new_policy(base: Path) -> Any:
    torch.manual_seed(0)
    return add_lora(pretrained.load_model(base), LoraConfig(rank=4, alpha=8.0), "some/base")


@pytest.fixture(scope="module")
def lora(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    save_policy(
        learn(new_policy(tiny_base)), folder, pretrained.load_tokenizer(tiny_base), pretrained.digest(tiny_base)
    )
    return folder


@pytest.fixture(scope="module")
def full(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    policy = learn(pretrained.load_model(tiny_base).requires_grad_(True))
    save_policy(policy, folder, pretrained.load_tokenizer(tiny_base), pretrained.digest(tiny_base))
    return folder


def ours(model: Any, base: Path) -> str:
    chat = chat_format(pretrained.load_tokenizer(base))
    return next(Sampler(model, chat).generate(Request([PROMPT], SamplingConfig(max_new_tokens=12)))).text


def plain(model: Any, tokenizer: Any) -> str:
    """Greedy text without a line of Steersman."""
    ids = tokenizer(f"<bos>User: {PROMPT}\nAssistant:", add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, eos_token_id=1
        )
    text: str = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    return text.strip()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(3, 60)[None]).logits
    return found


def test_only_the_adapters_learn(tiny_base: Path) -> None:
    policy = new_policy(tiny_base)
    assert trainable(policy)
    assert all("lora_" in name for name in trainable(policy))
    ours, theirs = logits(policy.eval()), logits(pretrained.load_model(tiny_base))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)  # B = 0 at the start


def test_an_adapter_loads_in_plain_peft(lora: Path, tiny_base: Path) -> None:
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), lora / "adapter").eval()
    mine = load_policy(tiny_base, lora)
    torch.testing.assert_close(logits(mine), logits(theirs), atol=1e-5, rtol=1e-5)
    assert (logits(mine) - logits(load_policy(tiny_base, None))).abs().max() > 0.1
    assert ours(mine, tiny_base) == plain(theirs, AutoTokenizer.from_pretrained(tiny_base))


def test_an_exported_adapter_loads_in_plain_peft(lora: Path, tiny_base: Path, tmp_path: Path) -> None:
    target = export(tiny_base, lora, tmp_path / "out", merged=False)
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), target).eval()
    torch.testing.assert_close(logits(load_policy(tiny_base, lora)), logits(theirs), atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(target).get_vocab() == AutoTokenizer.from_pretrained(tiny_base).get_vocab()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_merged_export_loads_in_plain_transformers(
    method: str, tiny_base: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    trained: Path = request.getfixturevalue(method)
    target = export(tiny_base, trained, tmp_path / "a" / "b", merged=True)
    theirs = AutoModelForCausalLM.from_pretrained(target).eval()
    mine = load_policy(tiny_base, trained)
    torch.testing.assert_close(logits(mine), logits(theirs), atol=1e-5, rtol=1e-5)
    assert ours(mine, tiny_base) == plain(theirs, AutoTokenizer.from_pretrained(target))


def test_all_weights_come_back(full: Path, tiny_base: Path) -> None:
    torch.testing.assert_close(
        logits(load_policy(tiny_base, full)), logits(learn(pretrained.load_model(tiny_base).requires_grad_(True)))
    )


def test_equal_training_writes_equal_bytes(lora: Path, tiny_base: Path, tmp_path: Path) -> None:
    save_policy(
        learn(new_policy(tiny_base)), tmp_path, pretrained.load_tokenizer(tiny_base), pretrained.digest(tiny_base)
    )
    files = sorted(file.name for file in (lora / "adapter").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors", "steersman.json"]
    for name in files:
        assert (lora / "adapter" / name).read_bytes() == (tmp_path / "adapter" / name).read_bytes()


def test_the_adapters_configuration_names_its_base_and_is_sorted(lora: Path) -> None:
    config = json.loads((lora / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "some/base"
    assert config["target_modules"] == sorted(config["target_modules"])
    assert len(config["target_modules"]) == 14  # seven in each of two layers; not the head


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("merged", [False, True])
def test_a_checkpoint_of_another_base_is_refused(
    method: str, merged: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    other, target = tmp_path / "other", tmp_path / "out"
    tiny.build(["some other text"], other, seed=1)
    trained: Path = request.getfixturevalue(method)
    with pytest.raises(ModelError, match="belongs to another base model"):
        load_policy(other, trained)
    with pytest.raises(ModelError, match=r"belongs to another base model|there is no adapter"):
        export(other, trained, target, merged=merged)
    assert not target.exists()


def test_a_folder_without_a_policy_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no trained policy"):
        load_policy(tiny_base, tmp_path)


def test_an_adapter_of_a_fully_trained_model_cannot_be_exported(full: Path, tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--merged"):
        export(tiny_base, full, tmp_path / "out", merged=False)


@pytest.mark.parametrize("merged", [False, True])
def test_nothing_is_overwritten(merged: bool, lora: Path, tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ModelError, match="not empty"):
        export(tiny_base, lora, tmp_path, merged=merged)
    with pytest.raises(ModelError, match="not a folder"):
        export(tiny_base, lora, tmp_path / "thesis.tex", merged=merged)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_adapters_on_the_embedding_or_the_head_are_refused(module: str, tiny_base: Path) -> None:
    with pytest.raises(ModelError, match="embedding or the output layer"):
        add_lora(pretrained.load_model(tiny_base), LoraConfig(target_modules=("q_proj", module)), "x")


def test_target_modules_that_do_not_exist_are_named(tiny_base: Path) -> None:
    with pytest.raises(ModelError, match="no_such_module"):
        add_lora(pretrained.load_model(tiny_base), LoraConfig(target_modules=("no_such_module",)), "x")


@pytest.mark.parametrize("name", ["Gemma3", "GPT2"])
def test_upper_layers_alone_can_learn(name: str, family: Callable[[str], Any]) -> None:
    everywhere = trainable(add_lora(deepcopy(family(name)), LoraConfig(rank=2), "x"))
    policy = add_lora(deepcopy(family(name)), LoraConfig(rank=2, trainable_layers=1), "x")
    assert set(trainable(policy)) == {n for n in everywhere if re.search(r"\.(layers|h)\.1\.", n)}
    assert 0 < len(trainable(policy)) == len(everywhere) / 2

    reached: list[bool] = []
    inner = policy.base_model.model
    for layer in inner.transformer.h if name == "GPT2" else inner.model.layers:
        layer.register_forward_hook(
            lambda _module, _inputs, out: reached.append((out if torch.is_tensor(out) else out[0]).requires_grad)
        )
    learn(policy, steps=2)
    assert reached == [False, True] * 2  # the backward pass ends where the adapters begin
    assert all(p.abs().max() > 0 for n, p in trainable(policy).items() if "lora_B" in n)


def test_all_layers_are_the_default(tiny_base: Path) -> None:
    def start(layers: int | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return dict(trainable(add_lora(pretrained.load_model(tiny_base), LoraConfig(trainable_layers=layers), "x")))

    default, both = start(None), start(2)
    assert list(default) == list(both)
    assert all(torch.equal(default[name], both[name]) for name in default)


def test_an_adapter_of_upper_layers_loads_in_plain_peft(tiny_base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LoraConfig(rank=4, alpha=8.0, trainable_layers=1)
    policy = learn(add_lora(pretrained.load_model(tiny_base), config, "some/base"))
    save_policy(policy, tmp_path, pretrained.load_tokenizer(tiny_base), pretrained.digest(tiny_base))
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), tmp_path / "adapter")
    assert (logits(policy) - logits(load_policy(tiny_base, None))).abs().max() > 0.1
    for loaded in (theirs.eval(), load_policy(tiny_base, tmp_path)):
        torch.testing.assert_close(logits(policy), logits(loaded), atol=1e-5, rtol=1e-5)


def test_more_layers_than_there_are_is_refused(tiny_base: Path) -> None:
    with pytest.raises(ModelError, match="the model has 2 layers"):
        add_lora(pretrained.load_model(tiny_base), LoraConfig(trainable_layers=3), "x")


def test_a_damaged_adapter_is_a_message(lora: Path, tiny_base: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(lora, tmp_path / "broken"))
    weights = broken / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="transformers cannot read it"):
        load_policy(tiny_base, broken)


def test_the_digest_of_the_base_is_written(lora: Path, tiny_base: Path) -> None:
    note = json.loads((lora / policies.ADAPTER / "steersman.json").read_text())
    assert note == {"base_digest": pretrained.digest(tiny_base)}


# ── several adapters on one base ─────────────────────────────────────────────────────────────────────────────────────
IDS = torch.tensor([[2, 30, 40, 50, 60, 70, 1]])


@pytest.fixture
def branches(tiny_base: Path) -> Any:
    """A policy, and a value model on the upper layer alone."""
    torch.manual_seed(0)
    policy = add_lora(pretrained.load_model(tiny_base), LoraConfig(rank=4), "some/base", "policy")
    add_lora(policy, LoraConfig(rank=2, trainable_layers=1), "some/base", "value")
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    return policy.eval()


def branch_logits(policy: Any, name: str | None) -> torch.Tensor:
    with using(policy, name), torch.no_grad():
        return policy(input_ids=IDS).logits


def test_adapters_of_one_base_are_used_by_name(branches: Any, tiny_base: Path) -> None:
    base = pretrained.load_model(tiny_base)(input_ids=IDS).logits
    torch.testing.assert_close(branch_logits(branches, None), base)
    assert (branch_logits(branches, "policy") - base).abs().max() > 0.01
    assert (branch_logits(branches, "policy") - branch_logits(branches, "value")).abs().max() > 0.01
    with using(branches, "value"), using(branches, None):
        torch.testing.assert_close(branches(input_ids=IDS).logits, base)
    assert branches.active_adapter == "policy"
    bases = [p for name, p in branches.named_parameters() if "lora_" not in name]
    assert sum(p.numel() for p in bases) == sum(p.numel() for p in pretrained.load_model(tiny_base).parameters())


def state(policy: Any) -> dict[str, Any]:
    """Everything that peft's switching changes."""
    layers = [m for m in policy.modules() if isinstance(m, BaseTunerLayer)]
    return {
        "active": [policy.active_adapter, policy.base_model.active_adapter, *(m.active_adapters for m in layers)],
        "disabled": [policy._adapters_disabled, *(m.disable_adapters for m in layers)],
        "gradients": [n for n, p in policy.named_parameters() if p.requires_grad],
    }


@contextmanager
def using_of_peft(policy: Any, name: str | None) -> Iterator[None]:
    """`using` by peft's public functions."""
    if name is None:
        with policy.disable_adapter():
            yield
        return
    before = policy.active_adapter
    try:
        policy.set_adapter(name)
        yield
    finally:
        policy.set_adapter(before)


@pytest.mark.parametrize(
    "names", [["value"], [None], ["value", None], [None, None], [None, "value"], ["value", "policy"]]
)
def test_switching_has_the_effects_of_peft(names: list[str | None], branches: Any) -> None:
    def visited(switch: Any) -> list[Any]:
        seen = [state(branches)]
        with ExitStack() as stack:
            for name in names:
                stack.enter_context(switch(branches, name))
                seen.append(state(branches))
            with torch.no_grad():
                seen.append(branches(input_ids=IDS).logits)
        return [*seen, state(branches)]

    branches.set_adapter("policy")  # peft leaves an adapter that was just added trainable, too
    ours, theirs = visited(using), visited(using_of_peft)
    assert torch.equal(ours.pop(len(names) + 1), theirs.pop(len(names) + 1))
    assert ours == theirs
    assert ours[0] == ours[-1]


def test_switching_walks_over_no_modules(branches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with using(branches, "value"):  # the layers are found once
        pass
    walks: list[Any] = []
    inner = torch.nn.Module.named_modules

    def counted(module: Any, *arguments: Any, **named: Any) -> Any:
        walks.append(module)
        return inner(module, *arguments, **named)

    monkeypatch.setattr(torch.nn.Module, "named_modules", counted)
    for name in ("value", None, "policy"):
        with using(branches, name):
            pass
    assert not walks
    with using_of_peft(branches, "value"):
        assert walks
    add_lora(branches, LoraConfig(rank=2), "some/base", "third")
    with using(branches, "third"):
        assert {name.split(".")[-2] for name in trainable(branches)} == {"third"}


@pytest.mark.parametrize("name", ["value", None])
def test_an_error_within_leaves_the_adapters_as_they_were(name: str | None, branches: Any) -> None:
    branches.set_adapter("policy")
    before = state(branches)
    with pytest.raises(KeyboardInterrupt), using(branches, name):
        raise KeyboardInterrupt
    assert state(branches) == before
    with pytest.raises(ValueError, match="nobody not found"), using(branches, "nobody"):
        pass
    assert state(branches) == before


def test_each_adapter_collects_its_own_gradients(branches: Any) -> None:
    def gradients(name: str) -> dict[str, torch.Tensor | None]:
        return {n: p.grad for n, p in branches.named_parameters() if f".{name}." in n}

    for name in ("policy", "value"):
        with using(branches, name):
            branches(input_ids=IDS).logits.logsumexp(-1).sum().backward()
            assert all(f".{name}." in parameter for parameter in trainable(branches))
        if name == "policy":
            assert not any(g is not None for g in gradients("value").values())
    assert len(gradients("policy")) == 28  # A and B of seven layers in each of two blocks
    assert len(gradients("value")) == 14
    assert all(g is not None and g.any() for name in ("policy", "value") for g in gradients(name).values())


def test_a_snapshot_comes_back_and_fits_only_its_like(branches: Any) -> None:
    before, kept = branch_logits(branches, "policy"), snapshot(branches, "policy")
    with torch.no_grad():
        for parameter in trainable(branches).values():
            parameter.zero_()
    assert (branch_logits(branches, "policy") - before).abs().max() > 0.01
    restore(branches, kept, "policy")
    assert torch.equal(branch_logits(branches, "policy"), before)
    with pytest.raises(ModelError, match="do not fit the adapter 'value'"):
        restore(branches, kept, "value")


@pytest.mark.parametrize("name", ["policy", "value"])
def test_each_adapter_is_saved_as_a_plain_peft_folder(
    name: str, branches: Any, tiny_base: Path, tmp_path: Path
) -> None:
    save_policy(branches, tmp_path, pretrained.load_tokenizer(tiny_base), pretrained.digest(tiny_base), name)
    files = {file.name for file in (tmp_path / "adapter").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "steersman.json"}
    alone = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), tmp_path / "adapter")
    torch.testing.assert_close(alone(input_ids=IDS).logits, branch_logits(branches, name), atol=1e-5, rtol=1e-5)


def test_a_saved_adapter_becomes_policy_and_reference(lora: Path, tiny_base: Path) -> None:
    wanted = load_policy(tiny_base, lora)(input_ids=IDS).logits
    policy = load_adapter(pretrained.load_model(tiny_base), tiny_base, lora / "adapter", "policy")
    load_adapter(policy, tiny_base, lora / "adapter", "reference")
    learn(policy)
    assert (branch_logits(policy, "policy") - wanted).abs().max() > 0.01
    torch.testing.assert_close(branch_logits(policy, "reference"), wanted, atol=1e-5, rtol=1e-5)


def test_modules_that_are_no_plain_products_are_refused(tiny_base: Path) -> None:
    model = pretrained.load_model(tiny_base)
    attention = model.model.layers[0].self_attn
    own, width = type(attention).forward, attention.q_proj.weight.shape[1]

    def forward(self: Any, hidden: Any, *args: Any, **kwargs: Any) -> Any:
        if hasattr(self.q_proj, "lora_A"):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return own(self, hidden, *args, **kwargs)

    attention.forward = forward.__get__(attention)
    assert width
    with pytest.raises(ModelError, match="does not run with adapters on these modules"):
        add_lora(model, LoraConfig(), "x")


def test_an_adapter_that_merging_changes_is_refused(
    lora: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = peft.tuners.lora.LoraModel.merge_and_unload

    def wrong(self: Any) -> Any:
        model = whole(self)
        model.model.layers[0].mlp.down_proj.weight.data.mul_(2)
        return model

    monkeypatch.setattr(peft.tuners.lora.LoraModel, "merge_and_unload", wrong)
    with pytest.raises(ModelError, match="computes something else than beside them"):
        load_policy(tiny_base, lora)
