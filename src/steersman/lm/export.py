"""A trained policy leaves its run, with everything that makes other programs ask and stop as its training did.

Beside the weights a folder gets the tokenizer with a chat template that writes the training's ids (a base model's
spelled-out roles, too: without a template a server would make one up), a generation config with all stop ids, and the
papers that the base model's licence asks to travel with it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from steersman.errors import ModelError
from steersman.lm import device, hub, limits, pretrained
from steersman.lm.adapters import ADAPTER, check_base, load_merged, load_policy, load_restored, merge, weights_of
from steersman.lm.chat_format import SPELLED_OUT, chat_format
from steersman.lm.device import Hardware
from steersman.lm.head import trunk
from steersman.lm.reward_model import RewardModel
from steersman.terminal import console


def export(base: Path, trained: Path, target: Path, *, merged: bool, base_name: str | None = None) -> Path:
    """Copy a trained policy out of a run: a PEFT adapter folder, or a merged model that `transformers` loads alone.

    A merged model has the precision of the base model's files; it is merged in float32, and rounded once.

    Args:
        base_name: what the adapter names as its base, so that peft finds it: a Hub id; the base's folder unless given.

    Raises:
        ModelError: the target exists, an adapter is asked of a fully fine-tuned model, or the base is another one.
    """
    refuse_existing(target)
    is_adapter = (trained / ADAPTER).exists()
    if not merged and not is_adapter:
        raise ModelError("all weights were trained, so there is no adapter", do="export with --merged")
    with device.placed(Hardware(weights=weights_of(trained / ADAPTER))):
        if merged:
            policy = load_merged(base, trained) if is_adapter else load_policy(base, trained)
            _with_noise(policy.config, base)
            with pretrained.no_progress_bars():
                policy.to(pretrained.configuration(base).dtype or torch.float32).save_pretrained(target)
        else:
            check_base(trained / ADAPTER, base)
            shutil.copytree(trained / ADAPTER, target, dirs_exist_ok=True)
            settings = target / "adapter_config.json"
            named = json.loads(settings.read_text(encoding="utf-8")) | {
                "base_model_name_or_path": base_name or str(base.absolute())
            }
            settings.write_text(json.dumps(named, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            if device.current().weights != "full":
                console.print(
                    f"note: this adapter was trained on {device.current().weights} weights, and computes what was "
                    "measured only on a base loaded so; --merged needs no such base",
                    soft_wrap=True,
                )
    write_conversation(base, target)
    return target


def export_reward_model(base: Path, trained: Path, target: Path) -> Path:
    """Write a reward model as an `AutoModelForSequenceClassification` with one label.

    Its logit at the last token of a conversation is the score, less a constant: the class has no bias. An ensemble
    that combines scores has no such form; one that averages weights has.

    Raises:
        ModelError: the target exists, several members, or an architecture without such a class.
    """
    from transformers import AutoModelForSequenceClassification

    refuse_existing(target)
    with device.placed(Hardware(weights=weights_of(trained / "member-0" / ADAPTER))):
        reward = RewardModel.load(base, trained, onto=(load_restored(base), None))
    if len(reward.heads) > 1:
        raise ModelError(
            f"the reward model is {len(reward.heads)} members whose scores are combined",
            where=str(trained),
            expected="one member, or combine: weights",
            do="train it with reward_model.members: 1",
        )
    merged = merge(reward.policy)
    config = merged.config
    config.num_labels, config.pad_token_id = 1, reward.chat.tokenizer.pad_token_id or 0
    try:
        model = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        kind = type(merged).__name__
        raise ModelError(f"transformers has no sequence classifier for {kind}", where=str(base)) from error
    trunk(model).load_state_dict(trunk(merged).state_dict())
    (head,) = reward.heads.values()
    with torch.no_grad():
        model.score.weight.copy_(head.weight)
    _with_noise(config, base)
    with pretrained.no_progress_bars():
        model.save_pretrained(target)
    write_conversation(base, target)
    return target


def refuse_existing(target: Path) -> None:
    """Refuse a target that holds something.

    Raises:
        ModelError: it is a file, or a folder that is not empty.
    """
    if target.exists() and not target.is_dir():
        raise ModelError("the target is not a folder", where=str(target), do="choose another one with --to")
    if target.exists() and any(target.iterdir()):
        raise ModelError("the target folder is not empty", where=str(target), do="choose another folder with --to")


def _with_noise(config: Any, base: Path) -> None:
    """The base model's dropouts, which training switched off."""
    for part, name, value in limits.noise(pretrained.configuration(base)):
        own = config if part.model_type == config.model_type else config.get_text_config()
        setattr(own, name, value)


def write_conversation(base: Path, target: Path) -> None:
    """Tokenizer with a chat template, stop ids, and the licence's papers."""
    tokenizer, generation = pretrained.load_tokenizer(base), pretrained.generation_config(base)
    chat = chat_format(tokenizer, generation)
    stops = sorted(chat.stop_ids)
    generation.eos_token_id = stops if len(stops) > 1 else stops[0]
    generation.save_pretrained(target)
    if not tokenizer.chat_template:
        tokenizer.chat_template = SPELLED_OUT
    tokenizer.save_pretrained(target)
    for paper in {paper for pattern in hub.PAPERS for paper in base.glob(pattern)}:
        shutil.copy(paper, target / paper.name)
