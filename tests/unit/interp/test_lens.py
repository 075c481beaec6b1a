"""The logit lens against hidden states of Hugging Face, normed by hand."""

from __future__ import annotations

import pytest
import torch

from decoder_families import LAYERS, family
from steersman.errors import DataError, ModelError
from steersman.interp.lens import logit_lens
from steersman.lm.head import trunk

FINAL_NORMS = ("norm", "ln_f", "final_layernorm")
ROW = [5, 9, 11, 3, 8]


@pytest.mark.parametrize("name", ["GPT2", "Llama", "Gemma3", "Gemma2", "Phi"])
def test_each_layer_is_normed_by_its_own_scale_and_the_last_one_once(name: str) -> None:
    model = family(name)
    with torch.no_grad():
        out = model(input_ids=torch.tensor([ROW]), output_hidden_states=True, use_cache=False)
        final = next(
            module for path, module in trunk(model).named_children() if path in ("norm", "ln_f", "final_layernorm")
        )
        logits = model.get_output_embeddings()(torch.stack([final(state[0]) for state in out.hidden_states[:-1]]))
        if name == "Gemma2":
            logits = 30 * torch.tanh(logits / 30)
        expected = torch.cat([logits, out.logits]).log_softmax(-1)[:, [1, 4]]
    found = logit_lens(model, ROW, [1, -1], chosen=[6, 40], top=3)
    assert found.positions == (1, 4)
    assert found.top.shape == (LAYERS + 1, 2, 3)
    torch.testing.assert_close(found.logprob, expected[..., [6, 40]], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.top_logprobs, expected.topk(3).values, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.top[-1, -1], out.logits[0, -1].topk(3).indices)
    order = expected.argsort(-1, descending=True)
    assert torch.equal(found.rank[..., 0], 1 + (order == 6).int().argmax(-1))
    torch.testing.assert_close(found.entropy, -(expected.exp() * expected).sum(-1), rtol=1e-4, atol=1e-4)
    # The trap: the last of these states is normed already, and a lens on it would be another one.
    with torch.no_grad():
        twice = model.get_output_embeddings()(final(out.hidden_states[-1][0, -1])).log_softmax(-1)
    assert (found.logprob[-1, -1] - twice[[6, 40]]).abs().max() > 1e-2


def test_places_that_are_not_there_and_streams_that_are_another_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = family("Llama")
    with pytest.raises(DataError, match="text of 5 tokens"):
        logit_lens(model, ROW, [5])
    with pytest.raises(DataError, match="positions"):
        logit_lens(model, ROW, [])
    real = trunk(model).norm.forward
    monkeypatch.setattr(trunk(model).norm, "forward", lambda x: real(real(x)) if x.ndim == 2 else real(x))
    with pytest.raises(ModelError, match="not what the output layer reads"):
        logit_lens(model, ROW)
