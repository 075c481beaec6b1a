"""Batched sampling against `transformers.generate`, fresh forward passes, and the exact distributions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from scipy import stats

from steersman.lm.chat_format import ChatFormat, common_length
from steersman.lm.compact_vocabulary import CompactConfig, compact_vocabulary
from steersman.lm.head import head_of, trunk
from steersman.lm.sampling import Completion, Request, Sampler, SamplingConfig, draw, random_stream, to_rows, uniforms
from steersman.types import Message, Text

Family = Callable[[str], Any]
QUESTIONS = [
    "Hi?",
    "How do I cook an egg?",
    "How do I repair a bicycle, and then write a letter about it to the people who sold me the bicycle?",
    "rice?",
    "How do I understand the tax form?",
    "x" * 40,
    "How do I buy bread, tea, rice and an egg? And how do I pay for the bread?",
    "Why?",
    "How do I pay for the roof?",
]
FEW_SHOT = (
    Message(role="system", content="Answer plainly."),
    Message(role="user", content="How do I cook rice?"),
    Message(role="assistant", content="First ask what you need rice for."),
)
# Thirty ids of the tiny vocabulary end an answer, so that rows leave the batch at different times.
STOPS = frozenset({1, *range(7, 300, 10)})


@pytest.fixture(scope="module")
def chat(tokenizer: Any) -> ChatFormat:
    return ChatFormat(tokenizer, STOPS, template=None)


def answers(model: Any, chat: ChatFormat, prompts: Sequence[Text], **options: Any) -> list[Completion]:
    extra = {name: options.pop(name) for name in ("preamble", "indices", "on_text") if name in options}
    config = SamplingConfig(**{"max_new_tokens": 24, **options})
    found = list(Sampler(model, chat).generate(Request(prompts, config, **extra)))
    return sorted(found, key=lambda answer: answer.index)


def reference(model: Any, chat: ChatFormat, prompt: Text, preamble: Text | None = None) -> list[int]:
    """Greedy ids by `transformers`, one prompt at a time."""
    ids = torch.tensor([chat.prompt_ids(prompt, preamble)])
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=24,
            eos_token_id=sorted(chat.stop_ids),
            pad_token_id=0,
        )
    found: list[int] = out[0, ids.shape[1] :].tolist()
    return found


# ── greedy ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", ["Gemma3", "Llama", "GPT2", "Qwen2", "GPTNeoX"])
def test_greedy_is_that_of_transformers_for_every_batch_size(name: str, family: Family, chat: ChatFormat) -> None:
    """More prompts than places, other lengths, prompts longer than Gemma's sliding window of 8."""
    model = family(name)
    expected = [reference(model, chat, question) for question in QUESTIONS]
    assert len({len(ids) for ids in expected}) > 2, "the rows should end at different times"
    for size in (1, 2, 3, 4, 64):
        assert [answer.token_ids for answer in answers(model, chat, QUESTIONS, batch_size=size)] == expected


@pytest.mark.parametrize("name", ["Gemma3", "Mistral", "Llama", "GPT2"])
@pytest.mark.slow
def test_a_shared_preamble_changes_nothing(name: str, family: Family, chat: ChatFormat) -> None:
    model = family(name)
    expected = [reference(model, chat, question, FEW_SHOT) for question in QUESTIONS]
    for size in (1, 4, 64):
        found = answers(model, chat, QUESTIONS, batch_size=size, preamble=FEW_SHOT)
        assert [answer.token_ids for answer in found] == expected


def test_one_prompt_behind_a_preamble(family: Family, chat: ChatFormat) -> None:
    (found,) = answers(family("Gemma3"), chat, QUESTIONS[:1], preamble=FEW_SHOT)
    assert found.token_ids == reference(family("Gemma3"), chat, QUESTIONS[0], FEW_SHOT)


def test_equal_prompts_get_equal_greedy_answers(family: Family, chat: ChatFormat) -> None:
    found = answers(family("Llama"), chat, ["How?"] * 5, batch_size=2, preamble=FEW_SHOT)
    assert len({tuple(answer.token_ids) for answer in found}) == 1


@pytest.mark.parametrize("options", [{}, {"temperature": 1.5, "seed": 11}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("preamble", [None, FEW_SHOT], ids=["alone", "behind a preamble"])
def test_ids_are_continued_as_the_prompts_that_they_spell(
    preamble: Text | None, options: dict[str, Any], family: Family, chat: ChatFormat
) -> None:
    model, indices = family("Gemma3"), [7, 3, 5, 4]
    expected = answers(model, chat, QUESTIONS[:4], preamble=preamble, indices=indices, batch_size=3, **options)
    starts = [chat.prompt_ids(question, preamble) for question in QUESTIONS[:4]]
    same = next(i for i, ids in enumerate(zip(*starts, strict=False)) if len(set(ids)) > 1) if preamble else 0
    config = SamplingConfig(max_new_tokens=24, batch_size=3, **options)
    found = Sampler(model, chat).continue_ids(starts, config, shared=starts[0][:same], indices=indices)
    assert sorted(found, key=lambda answer: answer.index) == expected
    whole = sorted(Sampler(model, chat).continue_ids(starts, config, indices=indices), key=lambda answer: answer.index)
    assert [answer.token_ids for answer in whole] == [answer.token_ids for answer in expected]


def test_no_prompts_give_no_answers(family: Family, chat: ChatFormat) -> None:
    assert answers(family("Llama"), chat, []) == []


# ── sampled ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("options", [{}, {"top_p": 0.8}, {"top_k": 5}, {"top_k": 20, "top_p": 0.9}], ids=str)
def test_a_rows_draws_do_not_depend_on_its_batch(options: dict[str, Any], family: Family, chat: ChatFormat) -> None:
    model, sampled = family("Gemma3"), {"temperature": 1.5, "seed": 11, **options}
    together = answers(model, chat, QUESTIONS, batch_size=4, **sampled)
    for i, question in enumerate(QUESTIONS):
        (alone,) = answers(model, chat, [question], indices=[i], **sampled)
        assert (alone.index, alone.token_ids, alone.text) == (i, together[i].token_ids, together[i].text)


def test_seed_and_index_choose_the_draws(family: Family, chat: ChatFormat) -> None:
    def sampled(seed: int, indices: list[int]) -> list[list[int]]:
        same = answers(
            family("Llama"),
            chat,
            ["How?"] * len(indices),
            indices=indices,
            temperature=2.0,
            seed=seed,
            max_new_tokens=8,
        )
        return [answer.token_ids for answer in same]

    first, second = sampled(0, [0, 1])
    assert first != second
    assert sampled(0, [1, 0]) == [first, second]
    assert sampled(1, [0, 1]) not in ([first, second], [second, first])


def test_logprobs_are_those_of_a_fresh_forward_pass(family: Family, chat: ChatFormat) -> None:
    """Also after refilling, behind a preamble, past the sliding window; at temperature 1, whatever the draws used."""
    model = family("Gemma3")
    options: dict[str, Any] = {"temperature": 1.7, "top_k": 30, "batch_size": 3, "preamble": FEW_SHOT}
    for answer in answers(model, chat, QUESTIONS, **options):
        prompt = chat.prompt_ids(QUESTIONS[answer.index], FEW_SHOT)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + answer.token_ids])).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(answer.token_ids)[:, None])[:, 0]
        assert answer.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_equal_prompts_are_read_once_and_answered_apart(
    family: Family, chat: ChatFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, read = family("Gemma3"), []
    prompts = [QUESTIONS[2]] * 5 + [QUESTIONS[1]] * 3
    sampled = {"temperature": 1.5, "seed": 3}
    alone = [answers(model, chat, [p], indices=[i], **sampled)[0] for i, p in enumerate(prompts)]

    def counted(owner: Any) -> Callable[..., Any]:
        def forward(**inputs: Any) -> Any:
            read.append(tuple(inputs["input_ids"].shape))
            return trunk(owner)(**inputs)

        return forward

    monkeypatch.setattr("steersman.lm.sampling.trunk", counted)
    together = answers(model, chat, prompts, **sampled)
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
    assert len({tuple(answer.token_ids) for answer in together}) == 8
    assert [shape[0] for shape in read if shape[1] > 1] == [2]


def test_a_compact_vocabulary_confines_the_draws(family: Family, chat: ChatFormat) -> None:
    model, some = family("Gemma3"), torch.arange(5, 300, 3)
    with torch.no_grad():
        hidden = trunk(model)(input_ids=some[None]).last_hidden_state[0]
    vocabulary = compact_vocabulary(some, hidden, head_of(model), CompactConfig(extra_rows=4))
    starts = [chat.prompt_ids(question) for question in QUESTIONS]
    config = SamplingConfig(temperature=1.3, max_new_tokens=24, batch_size=4, seed=2)
    found = list(Sampler(model, chat, vocabulary).continue_ids(starts, config))
    assert sorted(answer.index for answer in found) == list(range(len(starts)))
    for answer in found:
        ids = torch.tensor(answer.token_ids)
        assert bool((vocabulary.position[ids] >= 0).all())
        prompt = starts[answer.index]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + answer.token_ids])).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits[:, vocabulary.exact], -1)
        expected = expected.gather(1, vocabulary.position[ids][:, None])[:, 0]
        assert answer.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_cache_without_room_grows(family: Family, chat: ChatFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = answers(family("Gemma3"), chat, QUESTIONS, batch_size=4, max_new_tokens=40)
    monkeypatch.setattr("steersman.lm.kv_cache.GROWTH", 3)
    assert answers(family("Gemma3"), chat, QUESTIONS, batch_size=4, max_new_tokens=40) == expected


# ── the draw itself ──────────────────────────────────────────────────────────────────────────────────────────────────
LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.0, -1.0, -2.0, 0.5, 1.2, -torch.inf, -0.5])
DRAWS = 6000


def drawn(logits: torch.Tensor, **options: Any) -> tuple[Counter[int], torch.Tensor]:
    uniform = torch.rand(DRAWS, generator=torch.Generator().manual_seed(123), dtype=torch.float64)
    tokens, logprobs = draw(logits.repeat(DRAWS, 1), SamplingConfig(**options), uniform)
    assert torch.allclose(logprobs, torch.log_softmax(logits, -1)[tokens], atol=1e-6)  # not those of the cut softmax
    return Counter(tokens.tolist()), tokens


def exact(temperature: float, kept: list[int]) -> dict[int, float]:
    weights = {i: float((LOGITS[i] / temperature).exp()) for i in kept}
    return {i: weight / sum(weights.values()) for i, weight in weights.items() if weight > 0}


BEST = LOGITS.argsort(descending=True).tolist()  # probabilities at 1: .31 .19 .14 .11 .07 .04 ...


@pytest.mark.parametrize(
    ("options", "temperature", "kept"),
    [
        ({"temperature": 1.0}, 1.0, BEST),
        ({"temperature": 0.5}, 0.5, BEST),
        ({"temperature": 3.0}, 3.0, BEST),
        ({"temperature": 1.0, "top_k": 3}, 1.0, BEST[:3]),
        ({"temperature": 2.0, "top_k": 1000}, 2.0, BEST),
        ({"temperature": 1.0, "top_p": 0.6}, 1.0, BEST[:3]),  # .31 + .19 < .6 <= .31 + .19 + .14
        ({"temperature": 1.0, "top_p": 0.999999}, 1.0, BEST),
        ({"temperature": 1.0, "top_p": 0.01}, 1.0, BEST[:1]),  # never empty
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.7}, 1.0, BEST[:2]),  # of three: .48 .29 .22
    ],
    ids=str,
)
@pytest.mark.slow
def test_draws_follow_the_exact_distribution(options: dict[str, Any], temperature: float, kept: list[int]) -> None:
    counts, _ = drawn(LOGITS, **options)
    expected = exact(temperature, kept)
    assert set(counts) <= set(expected), "a token outside the nucleus, or of probability zero"
    if len(expected) > 1:
        observed = [counts[i] for i in expected]
        assert stats.chisquare(observed, [DRAWS * p for p in expected.values()]).pvalue > 1e-3


@pytest.mark.slow
def test_a_nucleus_wider_than_the_512_best_tokens_is_sorted_whole() -> None:
    logits = torch.zeros(3000)
    logits[::3] = -0.5  # 2,000 good tokens with 77 % of the mass
    counts, _ = drawn(logits, temperature=1.0, top_p=0.7)
    assert len(counts) > 1000
    assert not any(token % 3 == 0 for token in counts)


def test_greedy_takes_the_best_and_no_random_number() -> None:
    greedy, rows = SamplingConfig(temperature=0), to_rows([[2, 3]], [], [0], 9, 0)
    before = rows[0].generator.get_state()
    tokens, logprobs = draw(LOGITS[None].clone(), greedy, uniforms(rows, greedy))
    assert tokens.tolist() == [0]
    assert float(logprobs) == pytest.approx(float(torch.log_softmax(LOGITS, -1)[0]), abs=1e-6)
    assert torch.equal(rows[0].generator.get_state(), before)


@pytest.mark.parametrize("vocabulary", [511, 512, 513, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 600}])
@pytest.mark.slow
def test_draws_over_many_blocks_are_those_of_the_whole_cumulative_sum(vocabulary: int, options: dict[str, Any]) -> None:
    torch.manual_seed(vocabulary)
    logits = 2 * torch.randn(1, vocabulary).repeat(DRAWS, 1)
    config = SamplingConfig(**{"temperature": 1.0, **options})
    weights = (logits[0].double() / config.temperature).softmax(-1)
    order = weights.argsort(descending=True) if "temperature" not in options and options else torch.arange(vocabulary)
    ordered = weights[order]
    kept = (ordered.cumsum(-1) - ordered < config.top_p) & (torch.arange(vocabulary) < (config.top_k or vocabulary))
    cumulative = (ordered * kept).cumsum(-1)
    generator = torch.Generator().manual_seed(5)
    uniform = torch.rand(DRAWS, generator=generator, dtype=torch.float64)
    expected = order[torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)]

    tokens, logprobs = draw(logits.clone(), config, uniform)
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), cumulative])
    after = torch.searchsorted(edges, uniform * cumulative[-1], right=True).clamp_max(vocabulary)
    gaps = [(uniform * cumulative[-1] - edges[after - behind]).abs() for behind in (0, 1)]
    near = torch.minimum(*gaps) < 1e-6  # fp32 may decide otherwise
    assert torch.equal(tokens[~near], expected[~near])
    assert int(near.sum()) < DRAWS / 50
    assert tokens.unique().numel() > 100
    torch.testing.assert_close(logprobs, torch.log_softmax(logits, -1).gather(1, tokens[:, None])[:, 0])


# ── how an answer ends ───────────────────────────────────────────────────────────────────────────────────────────────
def script(model: Any, tokenizer: Any, text: str) -> Any:
    """Make a model say a text, whatever it is asked: the logits of its n-th step are those of the n-th token."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    state = {"step": 0}
    weight = model.get_output_embeddings().weight

    def hook(_module: Any, _inputs: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if kwargs.get("past_key_values") is None:
            return output  # the probe of head_of
        output.last_hidden_state = (
            weight[ids[min(state["step"], len(ids) - 1)]].expand_as(output.last_hidden_state) * 50
        )
        state["step"] += 1
        return output

    return model.model.register_forward_hook(hook, with_kwargs=True)


@pytest.mark.parametrize(
    ("said", "text", "reason"),
    [
        ("Boil it.<eos>", "Boil it.", "stop"),
        ("Boil it.\nUser: And then?", "Boil it.", "stop_string"),
        ("Boil it.\nSystem: x", "Boil it.", "stop_string"),
        ("Boil it.\n\nAssistant: Again", "Boil it.", "stop_string"),
        ("Users boil it.\nUse water and wait and wait and wait", None, "length"),
    ],
)
def test_how_an_answer_ends(said: str, text: str | None, reason: str, family: Family, tokenizer: Any) -> None:
    model = family("Llama")
    handle = script(model, tokenizer, said)
    try:
        (answer,) = answers(model, ChatFormat(tokenizer, frozenset({1}), template=None), ["How?"], max_new_tokens=40)
    finally:
        handle.remove()
    assert answer.finish_reason == reason
    assert answer.text == (text if text is not None else tokenizer.decode(answer.token_ids).strip())
    assert len(answer.token_ids) == len(answer.logprobs) <= 40
    if reason == "stop":
        assert answer.token_ids[-1] == 1
    if reason == "stop_string":  # it stops there, and does not go on to the limit
        assert tokenizer.decode(answer.token_ids).endswith((":", ": "))


def test_any_of_several_stop_ids_ends_an_answer(family: Family, chat: ChatFormat) -> None:
    found = answers(family("Llama"), chat, QUESTIONS)
    ended = [answer for answer in found if answer.finish_reason == "stop"]
    assert len({answer.token_ids[-1] for answer in ended}) > 1
    for answer in found:
        assert not STOPS & set(answer.token_ids[:-1])
        assert (answer.finish_reason == "stop") == (answer.token_ids[-1] in STOPS)
        assert answer.finish_reason == "stop" or len(answer.token_ids) == 24


def test_a_question_that_is_too_long_loses_its_beginning_and_says_so(family: Family, chat: ChatFormat) -> None:
    question = "How do I cook rice? " * 60 + "And an egg?"
    full = chat.prompt_ids(question)
    long, short = answers(family("Llama"), chat, [question, "Why?"], max_prompt_tokens=50)
    assert long.truncated_prompt_tokens == len(full) - 50 > 0
    assert (long.prompt_tokens, short.truncated_prompt_tokens) == (50, 0)
    start = common_length([full, chat.prompt_ids("?")])  # <bos>User:
    kept = torch.tensor([[*full[:start], *full[start - 50 :]]])
    with torch.inference_mode():
        expected = family("Llama").generate(
            kept, attention_mask=torch.ones_like(kept), do_sample=False, max_new_tokens=24, eos_token_id=sorted(STOPS)
        )
    assert long.token_ids == expected[0, 50:].tolist()


def test_behind_a_preamble_a_long_prompt_loses_its_beginning_and_nothing_else(family: Family, chat: ChatFormat) -> None:
    questions = ["How do I cook rice? " * 20 + "And an egg?", "Why?"]
    long, short = answers(family("Llama"), chat, questions, preamble=FEW_SHOT, max_prompt_tokens=50)
    full, other = (chat.prompt_ids(question, FEW_SHOT) for question in questions)
    shared = next(i for i, (a, b) in enumerate(zip(full, other, strict=False)) if a != b)
    assert long.truncated_prompt_tokens == len(full) - shared - 50 > 0
    kept = torch.tensor([full[:shared] + full[-50:]])
    with torch.inference_mode():
        expected = family("Llama").generate(
            kept, attention_mask=torch.ones_like(kept), do_sample=False, max_new_tokens=24, eos_token_id=sorted(STOPS)
        )
    assert long.token_ids == expected[0, kept.shape[1] :].tolist()
    assert short.truncated_prompt_tokens == 0


def test_the_answer_so_far_is_streamed_after_every_token(family: Family, chat: ChatFormat) -> None:
    heard: dict[int, list[str]] = {}
    found = answers(
        family("Llama"),
        chat,
        QUESTIONS[:5],
        batch_size=2,
        indices=[9, 8, 7, 6, 5],
        on_text=lambda index, text: heard.setdefault(index, []).append(text),
    )
    for answer in found:
        expected = [""]
        for length in range(1, len(answer.token_ids) + 1):
            text = chat.tokenizer.decode(answer.token_ids[:length], skip_special_tokens=True)
            expected.append(expected[-1] if text.endswith("\ufffd") else text.strip())  # no half of a character
        assert heard[answer.index] == [*expected[1:-1], answer.text]
    assert sorted(heard) == [5, 6, 7, 8, 9]


def byte_fallback_tokenizer() -> Any:
    """As Llama 2's: pieces that begin with U+2581 for a space, and a token for each byte of all other characters."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)], "\u2581", *"abcdefghijklmnopqrstuvwxyz.,"]
    bpe = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    bpe.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", unk_token="<unk>")


TEXTS = {
    "emoji": "\U0001f44d\U0001f3fd, a family \U0001f469\u200d\U0001f469\u200d\U0001f467, a flag \U0001f1e8\U0001f1ed.",
    "combining": "cafe\u0301 nai\u0308ve a\u0328\u0301 \u0bb8\u0bcd\u0bb0\u0bc0",
    "Chinese": "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u9f98 ok \U00020bb7.",
    "spaces": "a  b   c \n\n d",
    "a character of its own": "a\ufffdb \ufffd c and so on and on",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("kind", ["byte-level", "byte fallback"])
def test_the_streamed_text_is_the_final_text_and_never_half_a_character(
    kind: str, text: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tokenizer if kind == "byte-level" else byte_fallback_tokenizer()
    ids = own(text, add_special_tokens=False)["input_ids"]
    assert own.decode(ids) == text
    decoded: list[int] = []
    inner = type(own).decode

    def counted(self: Any, some: list[int], **options: Any) -> str:
        decoded.append(len(some))
        return str(inner(self, some, **options))

    monkeypatch.setattr(type(own), "decode", counted)
    (row,) = to_rows([[2]], [], [0], 9, 0)
    so_far = [""]
    for token in ids:
        row.tokens.append(token)
        so_far.append(row.text_so_far(own))
        assert so_far[-1].startswith(so_far[-2])
        assert text.startswith(so_far[-1])
    assert so_far[-1] == text
    assert max(decoded) < len(ids) / 2, "the whole answer is decoded again"


def test_a_last_half_of_a_character_is_streamed_as_it_is_returned(family: Family, tokenizer: Any) -> None:
    model, heard = family("Llama"), list[str]()
    handle = script(model, tokenizer, "Boil \U0001f44d")
    length = len(tokenizer("Boil \U0001f44d", add_special_tokens=False)["input_ids"])
    try:
        (answer,) = answers(
            model,
            ChatFormat(tokenizer, frozenset({1}), template=None),
            ["How?"],
            max_new_tokens=length - 1,
            on_text=lambda _, text: heard.append(text),
        )
    finally:
        handle.remove()
    assert answer.text.endswith("\ufffd")
    assert heard[-2:] == ["Boil", answer.text]


def test_a_block_of_random_numbers_is_the_sequence_of_single_ones() -> None:
    (row,) = to_rows([[2]], [], [7], 9, 3)
    stream = random_stream(3, 7)
    single = [float(torch.rand((), generator=stream, dtype=torch.float64)) for _ in range(200)]
    assert [row.uniform() for _ in range(200)] == single
