"""Families for which packed rows or a padded KV cache are wrong: tried, found out, and read the plain way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from steersman.lm.chat_format import ChatFormat
from steersman.lm.fast_paths import FastPaths, fast_paths
from steersman.lm.head import head_of, token_logprobs, trunk
from steersman.lm.sampling import Request, Sampler, SamplingConfig
from steersman.lm.shared_prefix import Group, shared_prefix_batch, shared_prefix_hidden

BOTH, DECODES, NEITHER = FastPaths(True, True), FastPaths(False, True), FastPaths(False, False)
# ALiBi and local windows count columns; a recurrent state and a convolution's have no keys to be padded.
UNUSUAL: dict[str, tuple[FastPaths, dict[str, Any]]] = {
    "bloom": (DECODES, {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mpt": (DECODES, {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128, "expansion_ratio": 2}),
    "falcon": (DECODES, {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True}),
    "gpt_neo": (
        DECODES,
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 24,  # longer than the tokens that are tried, were it not looked up
            "max_position_embeddings": 128,
        },
    ),
    "openai-gpt": (NEITHER, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "mamba": (NEITHER, {"hidden_size": 32, "num_hidden_layers": 2}),
    "rwkv": (NEITHER, {"hidden_size": 32, "num_hidden_layers": 2}),
    "lfm2": (
        NEITHER,
        {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "layer_types": ["conv", "full_attention"],
        },
    ),
}
QUESTIONS = ["How long do I boil an egg for breakfast today, and why?", "Hi", "What is tar?"]


@pytest.fixture(params=UNUSUAL)
def unusual(request: pytest.FixtureRequest, tokenizer: Any) -> tuple[Any, FastPaths]:
    """A random model of the family, and what it allows."""
    import transformers

    expected, options = UNUSUAL[request.param]
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(request.param, **options, **ids)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(5)  # far from uniform, so that greedy choices are clear
    return model, expected


def test_what_an_architecture_allows_is_found_by_trying_it(unusual: tuple[Any, FastPaths]) -> None:
    model, expected = unusual
    assert fast_paths(model) == expected


@pytest.mark.parametrize("name", ["Gemma3", "Llama", "Mistral", "GPT2", "Phi"])
def test_usual_families_keep_both(name: str, family: Callable[[str], Any]) -> None:
    assert fast_paths(family(name)) == BOTH


def test_shared_prefixes_give_the_plain_log_probs_and_gradients(unusual: tuple[Any, FastPaths]) -> None:
    model, _ = unusual
    groups = [
        Group(list(range(3, 30)), [list(range(40, 52)), [60, 61, 1], [1]]),
        Group([2, 9], [list(range(50, 63)), [7, 8]]),
    ]
    batch, head = shared_prefix_batch(groups, 0), head_of(model)
    found = token_logprobs(shared_prefix_hidden(model, batch, batch.source), batch.targets, head)
    rows = [[*prompt, *ids] for prompt, completions in groups for ids in completions]
    starts = [len(prompt) for prompt, completions in groups for _ in completions]
    states = [trunk(model)(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0] for row in rows]
    wanted = torch.cat([s[start - 1 : -1] for s, start in zip(states, starts, strict=True)])
    plain = token_logprobs(wanted, batch.targets, head)
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
    embedding = model.get_input_embeddings().weight
    ours, theirs = (torch.autograd.grad(logprobs.sum(), embedding)[0] for logprobs in (found, plain))
    assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


def test_sampling_is_that_of_one_prompt_after_the_other(unusual: tuple[Any, FastPaths], tokenizer: Any) -> None:
    model, _ = unusual
    chat, config = ChatFormat(tokenizer, frozenset({1}), None), SamplingConfig(max_new_tokens=12, batch_size=2)
    preamble = "Be brief."
    for before in (None, preamble):
        found = {a.index: a for a in Sampler(model, chat).generate(Request(QUESTIONS, config, preamble=before))}
        for index, question in enumerate(QUESTIONS):
            ids = chat.prompt_ids(question, before)
            for token in found[index].token_ids:
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
                assert logits[token] >= logits.max() - 1e-4
                ids.append(token)


def test_trying_leaves_modes_as_they_were(unusual: tuple[Any, FastPaths]) -> None:
    model, _ = unusual
    model.train()
    fast_paths(model)
    assert all(module.training for module in model.modules())
