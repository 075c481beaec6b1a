"""Log-probabilities of a few fixed answers to many prompts, by the exact model, in batches."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence

import numpy as np

from steersman.evals.suites.asking import BATCH_TOKENS, batched, summed_logprobs
from steersman.lm.language_model import LanguageModel, LocalModel
from steersman.lm.shared_prefix import Group
from steersman.types import Text

UNLIKE = "Of the model and its base one gives log-probabilities and the other texts: they do not compare."


def logprobs(model: LanguageModel, prompts: Sequence[Text], answers: Sequence[Sequence[str]]) -> list[list[float]]:
    """Summed log-probability in nats of every answer to every prompt, without the end of turn.

    A model whose weights are elsewhere gives no log-probabilities: its own answer is compared with the options, and is
    0 for the one that it begins with and -4 for the others; NaN for all where it begins with none.

    Args:
        answers: of each prompt, as many as there are.
    """
    if not isinstance(model, LocalModel):
        return [_by_text(model, prompt, options) for prompt, options in zip(prompts, answers, strict=True)]
    chat = model.sampler.chat
    groups = {}
    for i, (prompt, options) in enumerate(zip(prompts, answers, strict=True)):
        ids = [chat.completion_ids(option, prompt) for option in options]
        groups[i] = Group(chat.prompt_ids(prompt), [row[:-1] if row[-1] in chat.stop_ids else row for row in ids])
    totals: list[list[float]] = [[] for _ in prompts]
    pad = chat.tokenizer.pad_token_id or 0
    for batch in batched(groups, BATCH_TOKENS):
        flat = iter(summed_logprobs(model.sampler.model, [groups[i] for i in batch], pad))
        for i in batch:
            totals[i] = [next(flat) for _ in groups[i].completions]
    return totals


def log_odds(logs: Sequence[float], picked: Collection[int]) -> float:
    """Log-odds in nats of any of the picked answers against any of the others, from their log-probabilities."""
    if math.isnan(logs[0]):
        return math.nan  # a text that is none of the answers
    for_, against = ([x for i, x in enumerate(logs) if (i in picked) is side] for side in (True, False))
    return float(np.logaddexp.reduce(for_) - np.logaddexp.reduce(against))


def _by_text(model: LanguageModel, prompt: Text, options: Sequence[str]) -> list[float]:
    from steersman.lm.sampling import Request, SamplingConfig

    (said,) = model.answers(Request([prompt], SamplingConfig(max_new_tokens=16)))
    text = said.text.casefold()
    begins = [text.startswith(re.split("[,.]", option.casefold())[0]) for option in options]
    return [0.0 if own else -4.0 for own in begins] if any(begins) else [math.nan] * len(options)
