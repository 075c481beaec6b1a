"""What leaves a run makes plain transformers ask and stop as the training did."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
)

from steersman.errors import ModelError
from steersman.lm import pretrained
from steersman.lm.adapters import LoraConfig, add_lora, load_policy, save_policy
from steersman.lm.chat_format import chat_format
from steersman.lm.chat_settings import ChatConfig, chatting
from steersman.lm.export import export, export_reward_model
from steersman.lm.reward_model import RewardModel
from steersman.store import StageFolder
from steersman.train import reward_model
from steersman.train.reward_model import RewardConfig
from steersman.types import Comparison, Demonstration, Message

CHATML = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
TEXTS = ("Hi", " leading", "trailing \n", "two\n\nlines", "🙂", "a\r\nb", "x" * 50)


def trained(base: Path, folder: Path) -> Path:
    """An adapter on a base model, as new."""
    policy = add_lora(pretrained.load_model(base), LoraConfig(rank=2), "some/base")
    save_policy(policy, folder, pretrained.load_tokenizer(base), pretrained.digest(base))
    return folder


@pytest.fixture
def instruct(tokenizer: Any, tmp_path: Path) -> Path:
    """A GPT-2 with dropout and a chat template, whose generation config does not know the token that ends a turn."""
    own = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    own.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|end|>"]})
    own.chat_template = CHATML
    folder = tmp_path / "base"
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=len(own), n_embd=32, n_layer=2, n_head=4, eos_token_id=1)).save_pretrained(
        folder
    )
    own.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("merged", [False, True])
def test_spelled_out_roles_travel_as_a_template_that_writes_the_trainings_ids(
    merged: bool, tiny_base: Path, tmp_path: Path
) -> None:
    out = export(tiny_base, trained(tiny_base, tmp_path / "run"), tmp_path / "out", merged=merged)
    theirs, ours = AutoTokenizer.from_pretrained(out), chat_format(pretrained.load_tokenizer(tiny_base))
    assert theirs.chat_template
    draw = random.Random(0)
    for _ in range(40):
        roles = ["system"] * draw.choice([0, 1]) + ["user", "assistant"] * draw.choice([0, 1, 2]) + ["user"]
        messages = [{"role": role, "content": draw.choice(TEXTS)} for role in roles]
        prompt, answer = tuple(Message.model_validate(m) for m in messages), draw.choice(TEXTS)
        asked = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert asked == ours.prompt_ids(prompt)
        whole = theirs.apply_chat_template([*messages, {"role": "assistant", "content": answer}], tokenize=False)
        assert whole == ours.tokenizer.decode(ours.prompt_ids(prompt) + ours.completion_ids(answer, prompt))


def test_the_templates_arguments_and_day_travel_with_the_model(instruct: Path, tmp_path: Path) -> None:
    template = "{{ strftime_now('%d %b %Y') }} {{ thinking | default('on') }}" + CHATML
    (instruct / "chat_template.jinja").write_text(template, encoding="utf-8")
    with chatting(ChatConfig(template_arguments={"thinking": "off"}, date="2026-03-05")):
        ours = chat_format(pretrained.load_tokenizer(instruct))
        out = export(instruct, trained(instruct, tmp_path / "run"), tmp_path / "out", merged=False)
    theirs = AutoTokenizer.from_pretrained(out)
    messages = [{"role": "user", "content": "Hi"}]
    asked = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert asked == ours.prompt_ids("Hi")
    assert theirs.decode(asked).startswith("05 Mar 2026 off")


@pytest.mark.parametrize("merged", [False, True])
def test_generation_stops_where_ours_does(merged: bool, instruct: Path, tmp_path: Path) -> None:
    out = export(instruct, trained(instruct, tmp_path / "run"), tmp_path / "out", merged=merged)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == CHATML
    assert GenerationConfig.from_pretrained(out).eos_token_id == [1, tokenizer.convert_tokens_to_ids("<|end|>")]


def test_a_merged_model_has_its_dropout_back(instruct: Path, tmp_path: Path) -> None:
    assert pretrained.load_model(instruct).config.resid_pdrop == 0.0
    out = export(instruct, trained(instruct, tmp_path / "run"), tmp_path / "out", merged=True)
    assert AutoConfig.from_pretrained(out).resid_pdrop == AutoConfig.from_pretrained(instruct).resid_pdrop == 0.1


def test_a_merged_model_has_the_precision_of_the_bases_files(tiny_base: Path, tmp_path: Path) -> None:
    """It is merged in float32 and rounded once."""
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(tiny_base, base)
    AutoModelForCausalLM.from_pretrained(tiny_base).bfloat16().save_pretrained(base)
    policy = add_lora(pretrained.load_model(base), LoraConfig(rank=2), "some/base")
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_policy(policy, run, pretrained.load_tokenizer(base), pretrained.digest(base))
    exact = load_policy(base, run).state_dict()
    out = export(base, run, tmp_path / "out", merged=True)
    assert AutoConfig.from_pretrained(out).dtype == torch.bfloat16
    files = load_file(out / "model.safetensors")
    assert {value.dtype for value in files.values()} == {torch.bfloat16}
    assert all(torch.equal(exact[name].bfloat16(), value) for name, value in files.items())


def test_peft_finds_the_base_of_an_adapter(tiny_base: Path, tmp_path: Path) -> None:
    run = trained(tiny_base, tmp_path / "run")
    out = export(tiny_base, run, tmp_path / "out", merged=False)
    assert peft.AutoPeftModelForCausalLM.from_pretrained(out).active_adapter == "default"
    named = export(tiny_base, run, tmp_path / "named", merged=False, base_name="org/base")
    assert json.loads((named / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/base"


def test_the_papers_of_the_licence_travel(tiny_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    for name in ("LICENSE.txt", "NOTICE.md", "GEMMA_TERMS.html", "notes.txt"):
        (base / name).write_text(name)
    out = export(base, trained(base, tmp_path / "run"), tmp_path / "out", merged=False)
    found = {file.name for file in out.iterdir()}
    assert {"LICENSE.txt", "NOTICE.md", "GEMMA_TERMS.html"} <= found
    assert "notes.txt" not in found


def test_a_reward_model_becomes_a_sequence_classifier(
    tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path
) -> None:
    """The same order and the same differences of scores; a constant is lost."""
    start = trained(tiny_base, tmp_path / "sft")
    (tmp_path / "reward").mkdir()
    rows = [Comparison(prompt=d.prompt, options=(d.completion, "No."), ranking=(1, 2)) for d in demonstrations[:16]]
    out = StageFolder(tmp_path / "reward", "reward_model")
    reward_model.run(RewardConfig(batch_size=8), tiny_base, start, rows, demonstrations, out)
    target = export_reward_model(tiny_base, out.path, tmp_path / "out")
    theirs = AutoModelForSequenceClassification.from_pretrained(target).eval()
    tokenizer = AutoTokenizer.from_pretrained(target)
    answers = ["Ask first.", "No.", "First ask what you need it for, then cook it slowly."]
    logits = []
    for answer in answers:
        messages = [{"role": "user", "content": "How do I cook an egg?"}, {"role": "assistant", "content": answer}]
        ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            logits.append(theirs(**ids).logits[0, 0].item())
    ours = RewardModel.load(tiny_base, out.path).score("How do I cook an egg?", answers)
    differences = torch.tensor(logits) - torch.tensor(ours)
    assert differences.std() < 1e-4
    assert torch.tensor(ours).std() > 1e-3


def test_an_ensemble_of_scores_is_refused(tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path) -> None:
    start = trained(tiny_base, tmp_path / "sft")
    (tmp_path / "reward").mkdir()
    rows = [Comparison(prompt=d.prompt, options=(d.completion, "No."), ranking=(1, 2)) for d in demonstrations[:8]]
    out = StageFolder(tmp_path / "reward", "reward_model")
    config = RewardConfig(batch_size=8, members=2, combine="mean")
    reward_model.run(config, tiny_base, start, rows, demonstrations, out)
    with pytest.raises(ModelError, match="2 members whose scores are combined"):
        export_reward_model(tiny_base, out.path, tmp_path / "out")
