"""A trained policy leaves its run, with everything that makes other programs ask and stop as its training did.

Beside the weights a folder gets the tokenizer with a chat template that writes the training's ids (a base model's
spelled-out roles, too: without a template a server would make one up), a generation config with all stop ids, and the
papers that the base model's licence asks to travel with it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from steersman.errors import ModelError
from steersman.lm import limits, pretrained
from steersman.lm.adapters import ADAPTER, check_base, load_policy
from steersman.lm.chat_format import SPELLED_OUT, chat_format

PAPERS = ("LICENSE*", "LICENCE*", "NOTICE*", "*TERMS*", "USE_POLICY*")


def export(base: Path, trained: Path, target: Path, *, merged: bool) -> Path:
    """Copy a trained policy out of a run: a PEFT adapter folder, or a merged model that `transformers` loads alone.

    Raises:
        ModelError: the target exists, an adapter is asked of a fully fine-tuned model, or the base is another one.
    """
    if target.exists() and not target.is_dir():
        raise ModelError("the target is not a folder", where=str(target), do="choose another one with --to")
    if target.exists() and any(target.iterdir()):
        raise ModelError("the target folder is not empty", where=str(target), do="choose another folder with --to")
    if not merged and not (trained / ADAPTER).exists():
        raise ModelError("all weights were trained, so there is no adapter", do="export with --merged")
    if merged:
        policy = load_policy(base, trained)
        for part, name, value in limits.noise(pretrained.configuration(base)):  # training switched it off
            own = policy.config if part.model_type == policy.config.model_type else policy.config.get_text_config()
            setattr(own, name, value)
        with pretrained.no_progress_bars():
            policy.save_pretrained(target)
    else:
        check_base(trained / ADAPTER, base)
        shutil.copytree(trained / ADAPTER, target, dirs_exist_ok=True)
    tokenizer, generation = pretrained.load_tokenizer(base), pretrained.generation_config(base)
    chat = chat_format(tokenizer, generation)
    stops = sorted(chat.stop_ids)
    generation.eos_token_id = stops if len(stops) > 1 else stops[0]
    generation.save_pretrained(target)
    if not tokenizer.chat_template:
        tokenizer.chat_template = SPELLED_OUT
    tokenizer.save_pretrained(target)
    for paper in {paper for pattern in PAPERS for paper in base.glob(pattern)}:
        shutil.copy(paper, target / paper.name)
    return target
