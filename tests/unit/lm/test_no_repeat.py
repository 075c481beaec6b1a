"""No n-gram twice: against the best of what is left, by a fresh forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from steersman.lm.chat_format import ChatFormat
from steersman.lm.compact_vocabulary import CompactConfig, compact_vocabulary
from steersman.lm.head import head_of, trunk
from steersman.lm.sampling import Completion, Sampler, SamplingConfig

Family = Callable[[str], Any]
QUESTIONS = ["Hi?", "How do I cook an egg?", "How do I understand the tax form?", "rice?", "Why?"]


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.4, "seed": 5}])
def test_no_ngram_comes_twice_and_the_logprobs_stay_the_models_own(
    options: dict[str, Any], compact: bool, family: Family, tokenizer: Any
) -> None:
    """Greedy without it: the tiny model goes round in circles. With it, each draw is the best of what is allowed."""

    def repeated(ids: Sequence[int]) -> bool:
        grams = [tuple(ids[i : i + 3]) for i in range(len(ids) - 2)]
        return len(set(grams)) < len(grams)

    model, some = family("Gemma3"), torch.arange(3, 200)
    with torch.no_grad():
        hidden = trunk(model)(input_ids=some[None]).last_hidden_state[0]
    vocabulary = compact_vocabulary(some, hidden, head_of(model), CompactConfig(extra_rows=4)) if compact else None
    exact = torch.arange(model.config.vocab_size) if vocabulary is None else vocabulary.exact
    endless = ChatFormat(tokenizer, frozenset(), template=None)
    starts = [endless.prompt_ids(question) for question in QUESTIONS]

    def found(**setting: int) -> list[Completion]:
        config = SamplingConfig(max_new_tokens=60, batch_size=4, **options, **setting)
        return list(Sampler(model, endless, vocabulary).continue_ids(starts, config))

    assert any(repeated(answer.token_ids) for answer in found())
    for answer in found(no_repeat_ngram=3):
        assert not repeated(answer.token_ids)
        prompt, ids = starts[answer.index], answer.token_ids
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1][:, exact]
        own = torch.log_softmax(logits, -1)
        columns = torch.searchsorted(exact, torch.tensor(ids))
        assert answer.logprobs == pytest.approx(own.gather(1, columns[:, None])[:, 0].tolist(), abs=1e-4)
        for step in range(0 if not options else len(ids), len(ids)):
            better = exact[own[step] > own[step, columns[step]] + 1e-5].tolist()
            assert all(repeated([*ids[:step], token]) for token in better)
