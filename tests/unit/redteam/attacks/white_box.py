"""What white-box attacks are given in tests: a tiny random model and how it reads conversations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steersman.lm.chat_format import ChatFormat, chat_format


@dataclass(frozen=True)
class Weights:
    model: Any
    chat: ChatFormat


def weights_of(model: Any, tokenizer: Any) -> Weights:
    return Weights(model, chat_format(tokenizer, model.generation_config))
