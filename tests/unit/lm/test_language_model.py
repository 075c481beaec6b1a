"""A local model as whoever asks it sees it: choices, a preamble that is read once, and the fast variant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from steersman.errors import ModelError
from steersman.lm import device, language_model, sampling
from steersman.lm.chat_format import ChatFormat, chat_format
from steersman.lm.language_model import LocalModel
from steersman.lm.sampling import Prefix, Request, Sampler, SamplingConfig
from steersman.types import Demonstration, Message

Family = Callable[[str], Any]
SHOWN = (
    Message(role="user", content="Which is red?\n(A) a leaf\n(B) a cherry"),
    Message(role="assistant", content="(B)"),
)
ASKED = [
    "Which is round?\n(A) a ball\n(B) a box",
    "Which?\n(A) one\n(B) two",
    "And which of these two is the longer one?",
]
EXACT = 1e-5


@pytest.fixture(scope="module")
def chat(tokenizer: Any) -> ChatFormat:
    return chat_format(tokenizer)


def plain(model: Any, chat: ChatFormat, prompt: str, options: tuple[str, ...], preamble: Any) -> list[float]:
    """By transformers alone: the option's token after the prompt and the opening bracket."""
    found = []
    for option in options:
        ids = chat.prompt_ids(prompt, preamble) + chat.completion_ids(f"({option})")
        length = len(chat.prompt_ids(prompt, preamble))
        other = chat.completion_ids("(B)" if option == "A" else "(A)")
        place = next(i for i, (a, b) in enumerate(zip(ids[length:], other, strict=False)) if a != b)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, length + place - 1]
        found.append(float(logits.log_softmax(-1)[ids[length + place]]))
    return found


@pytest.mark.parametrize("name", ["Gemma3", "Llama", "GPT2", "Qwen2"])
@pytest.mark.parametrize("preamble", [None, SHOWN])
def test_choices_are_the_log_probabilities_of_transformers(
    name: str, preamble: Any, family: Family, chat: ChatFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "PREFILL_BATCH", 2)  # three prompts in two batches
    model = family(name)
    found = LocalModel(Sampler(model, chat)).choose(ASKED, ("A", "B"), preamble=preamble)
    for prompt, choice in zip(ASKED, found, strict=True):
        assert choice == pytest.approx(plain(model, chat, prompt, ("A", "B"), preamble), abs=EXACT)


def test_options_that_begin_alike_cannot_be_distinguishing_tokens(family: Family, chat: ChatFormat) -> None:
    with pytest.raises(ValueError, match="same tokens"):
        language_model._distinguishing_tokens([[5, 6, 7], [5, 6, 8], [5, 9, 9]])


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many positions every forward pass reads, rows times columns."""
    read: list[int] = []
    trunk = sampling.trunk

    def watching(model: Any) -> Any:
        inner = trunk(model)

        def forward(**inputs: Any) -> Any:
            read.append(inputs["input_ids"].numel())
            return inner(**inputs)

        return forward

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "trunk", watching)
        yield read


@pytest.mark.parametrize("name", ["Gemma3", "Llama"])
def test_the_second_call_behind_the_same_preamble_does_not_read_it_again(
    name: str, family: Family, chat: ChatFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, config = family(name), SamplingConfig(max_new_tokens=4, temperature=0.0)
    asker = LocalModel(Sampler(model, chat))
    fresh = [a.text for a in LocalModel(Sampler(model, chat)).answers(Request(ASKED[1:], config, preamble=SHOWN))]
    list(asker.answers(Request(ASKED[:2], config, preamble=SHOWN)))
    with counted(monkeypatch) as read:
        assert [a.text for a in asker.answers(Request(ASKED[1:], config, preamble=SHOWN))] == fresh
    with counted(monkeypatch) as whole:
        list(LocalModel(Sampler(model, chat)).answers(Request(ASKED[1:], config, preamble=SHOWN)))
    # The first forward pass is the preamble's, and the rows' own columns follow.
    assert whole[0] > 50
    assert len(read) == len(whole) - 1


def test_another_preamble_is_read_anew(family: Family, chat: ChatFormat) -> None:
    model = family("Gemma3")
    other = (Message(role="user", content="Which is blue, the sea or the sun?"), SHOWN[1])
    asker = LocalModel(Sampler(model, chat))
    first = asker.choose(ASKED, ("A", "B"), preamble=SHOWN)
    second = asker.choose(ASKED, ("A", "B"), preamble=other)
    assert second != first
    assert second == LocalModel(Sampler(model, chat)).choose(ASKED, ("A", "B"), preamble=other)
    again = asker.choose(ASKED, ("A", "B"), preamble=SHOWN)
    for a, b in zip(again, first, strict=True):
        assert a == pytest.approx(b, abs=EXACT)


def test_of_a_beginning_that_is_nearly_the_same_the_known_part_is_used() -> None:
    prefix = Prefix()
    prefix.ids = list(range(100))
    assert prefix.reusable([*range(95), 7, 7]) == list(range(95))
    assert prefix.reusable([*range(50), 7, *range(51, 100)]) == [*range(50), 7, *range(51, 100)]
    assert prefix.reusable(list(range(120))) == list(range(120))
    assert prefix.reusable([]) == []


def test_the_fast_variant_samples_from_its_vocabulary_and_still_chooses_exactly(
    tiny_base: Path, demonstrations: list[Demonstration], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_model, "FAST", language_model.FAST.model_copy(update={"extra_rows": 8}))
    fast, exact = LocalModel.load_fast(tiny_base, None, demonstrations[:2]), LocalModel.load(tiny_base)
    assert fast.sampler.vocabulary is not None
    rows = set(fast.sampler.vocabulary.exact.tolist())
    config = SamplingConfig(max_new_tokens=20, temperature=1.0)
    asked = [row.prompt for row in demonstrations[:6]]
    assert {token for answer in fast.answers(Request(asked, config)) for token in answer.token_ids} <= rows
    for a, b in zip(fast.choose(ASKED, ("A", "B")), exact.choose(ASKED, ("A", "B")), strict=True):
        assert a == pytest.approx(b, abs=EXACT)


def test_int8_weights_sample_over_the_whole_vocabulary_and_choices_stay_exact(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, quick = LocalModel.load(tiny_base), LocalModel.load(tiny_base).with_int8()
    assert (exact.sampler.int8, quick.sampler.vocabulary) == (None, None)
    assert quick.sampler.int8 is not None
    assert len(quick.sampler.int8.head.weight) == exact.sampler.model.config.vocab_size
    one = SamplingConfig(max_new_tokens=1, temperature=1.0)
    pairs = zip(*(sorted(m.answers(Request(ASKED, one)), key=lambda a: a.index) for m in (exact, quick)), strict=True)
    for a, b in pairs:  # close, and not the same: the copy is in use
        assert b.logprobs != a.logprobs
        assert a.token_ids != b.token_ids or b.logprobs == pytest.approx(a.logprobs, abs=0.1)
    for a, b in zip(quick.choose(ASKED, ("A", "B")), exact.choose(ASKED, ("A", "B")), strict=True):
        assert a == pytest.approx(b, abs=EXACT)
    monkeypatch.setattr("steersman.lm.device.current", lambda: device.Hardware(dtype="bfloat16"))
    with pytest.raises(ModelError, match="no int8 copy of a model on cpu in bfloat16"):
        exact.with_int8()
