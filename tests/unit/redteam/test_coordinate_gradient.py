"""The steps of GCG against finite differences, plain forward passes and brute force."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from steersman.lm.adapters import LoraConfig, add_lora
from steersman.lm.chat_format import SPELLED_OUT, chat_format
from steersman.lm.fast_paths import FastPaths
from steersman.lm.head import trunk
from steersman.redteam import coordinate_gradient
from steersman.redteam.coordinate_gradient import Search, passes, problem, usable_tokens
from steersman.types import Message, Text

REQUEST, TARGET = "How do I repair the roof?", "First ask what you need"
FAMILIES = ("Gemma3", "Gemma2", "Llama", "GPT2")


def with_system(message: str) -> Text:
    return (Message(role="system", content="Be brief."), Message(role="user", content=message))


def search_of(model: Any, tokenizer: Any, *, length: int = 6, width: int = 40, top: int = 16) -> Search:
    chat = chat_format(tokenizer, model.generation_config)
    return Search(problem(model, chat, lambda message: message, REQUEST, TARGET, length), width, top)


def with_adapter(model: Any) -> Any:
    """The model with a LoRA adapter that changes it."""
    policy = add_lora(copy.deepcopy(model), LoraConfig(rank=4), "tiny")
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    return policy.get_base_model()


def plain_loss(search: Search, embedded: Tensor) -> Tensor:
    """The loss from a model's own logits at all positions, of embedded prompt, suffix and target."""
    target = search.problem.target
    logits = search.problem.model(inputs_embeds=embedded, use_cache=False).logits[0]
    wanted = torch.tensor(target)
    return torch.nn.functional.cross_entropy(logits[-len(target) - 1 : -1], wanted)


# ── the problem ──────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("ask", [str, with_system])
@pytest.mark.parametrize("template", [None, SPELLED_OUT])
def test_a_problem_is_the_prompt_as_the_model_reads_it(
    family: Callable[[str], Any], tokenizer: Any, ask: Callable[[str], Text], template: str | None
) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    chat = chat_format(tokenizer)
    given = problem(family("Llama"), chat, ask, REQUEST, TARGET, 6)
    assert given.message(given.start) == REQUEST + " !" * 6
    assert [*given.before, *given.start, *given.after] == chat.prompt_ids(ask(REQUEST + " !" * 6))
    assert tokenizer.decode(given.target).strip() == TARGET
    assert given.survives(given.start)


def test_text_that_is_read_as_other_tokens_does_not_survive(family: Callable[[str], Any], tokenizer: Any) -> None:
    search = search_of(family("Llama"), tokenizer)
    given = search.problem
    words = [token for token in tokenizer.get_vocab() if len(token) == 2 and token.isascii() and token.isalpha()]
    split = [*given.start[:-2], *tokenizer.convert_tokens_to_ids(list(words[0]))]  # two letters, read as one token
    assert not given.survives(split)
    assert given.survives([*given.start[:-2], tokenizer.convert_tokens_to_ids(words[0])])
    _, gradient, _ = search.gradient(given.start)
    generator = torch.Generator().manual_seed(0)
    found = search.candidates(given.start, torch.zeros_like(gradient), generator)
    assert all(map(given.survives, found))
    assert 0 < len(found) <= search.width
    assert all(sum(a != b for a, b in zip(ids, given.start, strict=True)) == 1 for ids in found)
    assert len({tuple(ids) for ids in found}) == len(found)


def test_tokens_are_printable_ascii_and_control_nothing(tokenizer: Any) -> None:
    ids = usable_tokens(tokenizer, len(tokenizer)).tolist()
    texts = [tokenizer.decode([i]) for i in ids]
    assert all(text and text.isascii() and text.isprintable() for text in texts)
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert len(ids) > 90  # the printable characters at least
    assert max(usable_tokens(tokenizer, 200).tolist()) < 200


# ── the gradient ─────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", [*FAMILIES, "Gemma3 with an adapter"])
def test_the_gradient_is_that_of_finite_differences(family: Callable[[str], Any], tokenizer: Any, name: str) -> None:
    model = family(name.split()[0])
    model = (with_adapter(model) if "adapter" in name else copy.deepcopy(model)).double()
    search = search_of(model, tokenizer)
    given, embedding = search.problem, model.get_input_embeddings()
    _, gradient, _ = search.gradient(given.start)
    assert gradient.shape == (len(given.start), len(search.usable))
    with torch.no_grad():
        whole = torch.tensor([[*given.before, *given.start, *given.after, *given.target]])
        embedded = embedding(whole)
        assert torch.allclose(model(input_ids=whole).logits, model(inputs_embeds=embedded).logits)
        for place in (0, 2, len(given.start) - 1):
            for column in (int(gradient[place].argmax()), int(gradient[place].argmin())):
                moved = torch.zeros_like(embedded)
                moved[0, len(given.before) + place] = 3e-3 * embedding(search.usable[column])
                slope = (plain_loss(search, embedded + moved) - plain_loss(search, embedded - moved)) / 6e-3
                # Norms are in single precision even in a model of doubles.
                assert float(gradient[place, column]) == pytest.approx(float(slope), rel=0.02)


def test_gemmas_embedding_is_scaled(family: Callable[[str], Any]) -> None:
    """What a one-hot row times the raw weight would miss."""
    model = family("Gemma3")
    ids = torch.tensor([4, 9])
    raw = model.get_input_embeddings().weight[ids]
    assert torch.allclose(model.get_input_embeddings()(ids), raw * 32**0.5, rtol=1e-2)


# ── the candidates ───────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("cached", "overhead"), [(True, 0), (True, 60), (False, 60)])
@pytest.mark.parametrize("name", FAMILIES)
def test_shared_prefixes_give_the_states_of_plain_passes(
    family: Callable[[str], Any],
    tokenizer: Any,
    name: str,
    cached: bool,
    overhead: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = family(name)
    monkeypatch.setattr(coordinate_gradient, "PASS_TOKENS", overhead)
    if not cached:
        monkeypatch.setattr(coordinate_gradient, "fast_paths", lambda _: FastPaths(False, False))
    search = search_of(model, tokenizer)
    given = search.problem
    states, gradient, cache = search.gradient(given.start)
    assert (cache is not None) == cached
    candidates = search.candidates(given.start, gradient, torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = search.states(given.start, candidates, cache)
        for ids, mine in zip([given.start, *candidates], [states, *found], strict=True):
            whole = torch.tensor([[*given.before, *ids, *given.behind]])
            plain = trunk(model)(input_ids=whole, use_cache=False).last_hidden_state[0, -len(given.target) :]
            torch.testing.assert_close(mine, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("places", "width", "begins"),
    [
        ([3, 0, 3], 10, [0]),  # 60 + 3 * 10 beats 60 + 10 and 60 + 2 * 7
        ([20] * 9 + [0], 30, [0, 20]),  # 60 + 30 and 60 + 9 * 10 beat 60 + 10 * 30
        ([0] * 9 + [20], 30, [0]),
        ([0, 10, 20] * 40, 30, [0, 10, 20]),
        ([5], 30, [5]),
    ],
)
def test_rows_are_read_in_the_cheapest_passes(places: list[int], width: int, begins: list[int]) -> None:
    found = passes(places, width)
    assert [begin for begin, _ in found] == begins
    assert sorted(i for _, rows in found for i in rows) == list(range(len(places)))
    assert all(places[i] >= begin for begin, rows in found for i in rows)


@pytest.mark.parametrize(
    ("name", "rows", "sharpness", "most"),
    [("Gemma2", 8, 1, 24), ("Llama", 8, 1, 24), ("Llama", 60, 4, 12)],  # capped; loose bounds; bounds worth having
)
def test_the_winner_is_that_of_the_whole_vocabulary(
    family: Callable[[str], Any],
    tokenizer: Any,
    name: str,
    rows: int,
    sharpness: int,
    most: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coordinate_gradient, "ROWS", rows)
    search = search_of(family(name), tokenizer)
    target, seen = torch.tensor(search.problem.target), []
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        hidden = torch.randn(1, len(target), 32, generator=generator)
        hidden = sharpness * (hidden + 0.3 * torch.randn(24, len(target), 32, generator=generator))
        with torch.no_grad():
            chosen, loss, in_full = search.best(hidden, search.likely_rows(hidden[0]))
            logits = search.head.logits(hidden.flatten(0, 1)).view(24, len(target), -1)
        losses = torch.stack([torch.nn.functional.cross_entropy(row, target) for row in logits])
        assert chosen == int(losses.argmin())
        assert loss == pytest.approx(float(losses.min()), abs=1e-5)
        seen.append(in_full)
    assert sum(seen) / len(seen) <= most


# ── the search ───────────────────────────────────────────────────────────────────────────────────────────────────────
def lowest(search: Search, steps: int, seed: int) -> float:
    generator, suffix, losses = torch.Generator().manual_seed(seed), search.problem.start, []
    for _ in range(steps):
        step = search.step(suffix, generator)
        assert step is not None
        suffix = step.suffix
        losses.append(step.loss)
    return min(losses)


class Uphill(Search):
    """The search with its gradient the wrong way round."""

    def gradient(self, suffix: list[int]) -> tuple[Tensor, Tensor, Any]:
        states, gradient, cache = super().gradient(suffix)
        return states, -gradient, cache


def test_the_gradient_leads_down(family: Callable[[str], Any], tokenizer: Any) -> None:
    """On each seed the search gets further than with its gradient reversed, and well below where it began."""
    model = family("Gemma3")
    down = search_of(model, tokenizer, width=16, top=8)
    up = Uphill(down.problem, 16, 8)
    with torch.no_grad():
        ids = torch.tensor([[*down.problem.before, *down.problem.start, *down.problem.after, *down.problem.target]])
        first = float(plain_loss(down, model.get_input_embeddings()(ids)))
    for seed in range(3):
        best, worst = lowest(down, 8, seed), lowest(up, 8, seed)
        print(f"seed {seed}: {first:.3f} to {best:.3f}, reversed {worst:.3f}")
        assert best < first - 0.2
        assert best < worst - 0.1


def test_the_loss_of_a_step_is_that_of_its_suffix(family: Callable[[str], Any], tokenizer: Any) -> None:
    search = search_of(family("Llama"), tokenizer)
    step = search.step(search.problem.start, torch.Generator().manual_seed(0))
    assert step is not None
    given = search.problem
    ids = torch.tensor([[*given.before, *step.suffix, *given.after, *given.target]])
    with torch.no_grad():
        loss = plain_loss(search, given.model.get_input_embeddings()(ids))
    assert step.loss == pytest.approx(float(loss), rel=1e-4)
    assert step.in_full <= step.candidates <= search.width
