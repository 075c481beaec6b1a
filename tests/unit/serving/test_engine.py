"""The engine: an answer is what the sampler gives one prompt alone, whoever else is served."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steersman.lm.adapters import LoraConfig, add_lora, save_policy
from steersman.lm.language_model import LocalModel
from steersman.lm.pretrained import digest, load_model, load_tokenizer
from steersman.lm.sampling import Request, SamplingConfig
from steersman.serving import models
from steersman.serving.engine import Closed, Engine, QueueFull
from steersman.serving.sequences import Delta, Failure, Ticket

from .conftest import WAIT_S, job, run, text_of

QUESTIONS = [f"How do I cook {'an egg and ' * count}rice?" for count in (0, 1, 2, 3, 5, 9, 14, 20)]
EngineOf = Callable[..., Engine]


def alone(model: LocalModel, question: str, **settings: Any) -> str:
    (text,) = model.generate([question], **{"max_new_tokens": 24, **settings})
    return text


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 5}, {"temperature": 0.8, "top_p": 0.9}], ids=str)
def test_an_answer_is_that_of_the_sampler_alone(
    settings: dict[str, Any], engine_of: EngineOf, local: LocalModel
) -> None:
    """More answers than rows, prompts longer than what is read between two steps, one prefix for all."""
    told = run(engine_of(rows=3, prefill_tokens=32), [job(local, question, **settings) for question in QUESTIONS * 2])
    assert [text_of(one) for one in told] == [alone(local, question, **settings) for question in QUESTIONS] * 2


def test_settings_of_its_own_for_every_row(engine_of: EngineOf, local: LocalModel) -> None:
    """Rows of different settings are decoded together, and each is as if it were alone."""
    settings: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0, "seed": 1},
        {"temperature": 1.0, "seed": 2},
        {"temperature": 0.7, "top_p": 0.8, "seed": 1},
        {"temperature": 1.3, "top_k": 5, "seed": 9},
        {"no_repeat_ngram": 2},
    ]
    told = run(engine_of(rows=8), [job(local, QUESTIONS[2], **one) for one in settings])
    expected = [alone(local, QUESTIONS[2], **one) for one in settings]
    assert [text_of(one) for one in told] == expected
    assert len(set(expected)) == len(expected), "the settings should make a difference"


def test_choices_of_one_request_differ_and_are_those_of_the_sampler(engine_of: EngineOf, local: LocalModel) -> None:
    config = SamplingConfig(max_new_tokens=24, temperature=1.0, seed=4)
    answers = sorted(local.answers(Request([QUESTIONS[1]] * 3, config)), key=lambda answer: answer.index)
    told = run(engine_of(), [job(local, QUESTIONS[1], index=i, temperature=1.0, seed=4) for i in range(3)])
    assert [text_of(one) for one in told] == [answer.text for answer in answers]
    assert len({answer.text for answer in answers}) == 3
    tokens = [[token.id for one in each for token in one.tokens] for each in told]  # type: ignore[union-attr]
    kept = [[i for i in answer.token_ids if i not in local.sampler.chat.stop_ids] for answer in answers]
    assert tokens == kept


def test_log_probabilities_are_those_of_the_sampler(engine_of: EngineOf, local: LocalModel) -> None:
    (answer,) = local.answers(Request([QUESTIONS[0]], SamplingConfig(max_new_tokens=8)))
    (told,) = run(engine_of(), [job(local, QUESTIONS[0], max_new_tokens=8, top_logprobs=3)])
    tokens = [token for one in told for token in one.tokens]  # type: ignore[union-attr]
    assert [token.logprob for token in tokens] == pytest.approx(answer.logprobs, abs=1e-4)
    for token in tokens:  # greedy: the sampled token is the likeliest
        assert token.top[0] == (token.id, pytest.approx(token.logprob, abs=1e-4))
        assert [p for _, p in token.top] == sorted((p for _, p in token.top), reverse=True)


# ── scheduling ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_long_prompt_does_not_hold_up_who_is_answered(engine_of: EngineOf, local: LocalModel) -> None:
    """Between two tokens of a running answer, at most one piece of a long prompt is read."""
    engine, order = engine_of(prefill_tokens=16, prefix_tokens=0), list[str]()
    done = threading.Semaphore(0)

    def listen(name: str) -> Callable[[Delta | Failure], None]:
        def deliver(told: Delta | Failure) -> None:
            order.append(name)
            if isinstance(told, Failure) or told.finish:
                done.release()
            elif name == "short" and order.count("short") == 1:
                engine.submit([Ticket(job(local, "egg " * 300, max_new_tokens=1), listen("long"))])

        return deliver

    engine.submit([Ticket(job(local, "Hi?", max_new_tokens=30), listen("short"))])
    assert done.acquire(timeout=WAIT_S)
    assert done.acquire(timeout=WAIT_S)
    assert order[-1] == "long", "all of the short answer comes before the first token of the long prompt"


def test_a_common_beginning_is_read_once(engine_of: EngineOf, local: LocalModel) -> None:
    engine, system = engine_of(), "You are careful. " * 12
    run(engine, [job(local, f"{system} Why?")])
    before = engine.counters.reused_tokens
    (told,) = run(engine, [job(local, f"{system} How?")])
    assert engine.counters.reused_tokens - before > 40
    assert text_of(told) == alone(local, f"{system} How?")


def test_memory_bounds_who_is_decoded_together(engine_of: EngineOf, local: LocalModel) -> None:
    """With room for one sequence, the others wait, and all are answered."""
    engine = engine_of(cache_gb=1e-6)
    told = run(engine, [job(local, question) for question in QUESTIONS[:4]])
    assert [text_of(one) for one in told] == [alone(local, question) for question in QUESTIONS[:4]]
    assert engine.counters.steps >= 4 * 24


def test_a_full_queue_refuses_and_a_cancelled_one_leaves(engine_of: EngineOf, local: LocalModel) -> None:
    engine = engine_of(rows=1, queue=2)
    started, told = threading.Event(), list[Delta | Failure]()
    first = Ticket(job(local, "Hi?", max_new_tokens=2000), lambda one: (told.append(one), started.set())[0])
    engine.submit([first])
    assert started.wait(WAIT_S)
    waiting = [Ticket(job(local, "Hi?", max_new_tokens=2), told.append) for _ in range(2)]
    engine.submit(waiting)
    with pytest.raises(QueueFull):
        engine.submit([Ticket(job(local, "Hi?"), told.append)])
    for ticket in (first, waiting[0]):
        ticket.cancelled.set()
    deadline = time.monotonic() + WAIT_S
    while (engine.queued or engine.running) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (engine.queued, engine.running, engine.counters.cancelled) == (0, 0, 2)
    assert sum(isinstance(one, Delta) and one.finish is not None for one in told) == 1


def test_a_fault_ends_its_batch_with_a_sentence_and_not_the_engine(
    engine_of: EngineOf, local: LocalModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from steersman.serving import engine as module

    engine = engine_of()

    def broken(*_: Any) -> Any:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(module, "draw_each", broken)
        (told,) = run(engine, [job(local, "Hi?")])
    assert isinstance(told[-1], Failure)
    assert "MemoryError" in told[-1].message
    (again,) = run(engine, [job(local, "Hi?")])
    assert text_of(again) == alone(local, "Hi?")
    engine.close()
    with pytest.raises(Closed):
        engine.submit([])


# ── models by name ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_adapters_on_one_base_answer_side_by_side(base: Path, tmp_path: Path, engine_of: EngineOf) -> None:
    folders = [tmp_path / name for name in ("sft", "dpo")]
    for number, folder in enumerate(folders):
        policy = add_lora(load_model(base), LoraConfig(rank=4), "tiny")
        torch.manual_seed(number)
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        save_policy(policy, folder, load_tokenizer(base), digest(base))
    names = {"raw": None, "sft": folders[0], "dpo": folders[1], "aligned": folders[1]}
    some = models.load(base, names)
    assert len({id(model.sampler.model) for model in some.values()}) == 1
    engine = engine_of(some)
    local = {name: LocalModel.load(base, folder) for name, folder in names.items()}
    jobs = [replace(job(local["raw"], question), model=name) for question in QUESTIONS[:3] for name in names]
    told = [text_of(one) for one in run(engine, jobs)]
    assert told == [alone(local[name], question) for question in QUESTIONS[:3] for name in names]
    assert len(set(told[:3])) == 3
    assert told[2] == told[3]


# ── the guard's probe ────────────────────────────────────────────────────────────────────────────────────────────────
class Summing:
    """Adds up a number of each token's state, so that the score tells exactly which tokens were read."""

    layer = 1

    def tokens(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden[:, 0].double()

    def follow(self) -> Sum:
        return Sum()


class Sum:
    total = 0.0

    def add(self, score: float) -> float:
        self.total += score
        return self.total


def test_a_probe_reads_every_token_before_its_text_is_told(engine_of: EngineOf, local: LocalModel) -> None:
    """Prompts read in pieces, behind a kept prefix, in a mixed batch: always the score of one plain pass."""
    engine, seen = engine_of(probe=Summing(), prefill_tokens=32, rows=3), list[torch.Tensor]()
    model = local.sampler.model
    questions = [*QUESTIONS, *QUESTIONS[:3]]
    told = run(engine, [job(local, question, max_new_tokens=6) for question in questions])
    handle = model.model.layers[1].register_forward_hook(lambda *given: seen.append(given[2]))
    for question, one in zip(questions, told, strict=True):
        deltas = [delta for delta in one if isinstance(delta, Delta)]
        tokens = [token.id for delta in deltas for token in delta.tokens]
        ids = local.sampler.chat.prompt_ids(question)
        with torch.inference_mode():
            model.model(input_ids=torch.tensor([ids + tokens]), use_cache=False)
        state = seen.pop()
        state = state[0] if isinstance(state, tuple) else state
        sums = state[0, len(ids) :, 0].double().cumsum(0).tolist()
        read = [delta.sampled - (delta.finish == "stop") for delta in deltas]
        assert [d.score for d in deltas] == pytest.approx([sums[n - 1] if n else None for n in read], abs=1e-3)
        assert read[-1] == len(tokens) or deltas[-1].finish == "stop"
    handle.remove()
    assert not any(lane.running for lane in engine._lanes)


def test_a_probe_changes_no_answer(engine_of: EngineOf, local: LocalModel) -> None:
    jobs = [job(local, question, max_new_tokens=9) for question in QUESTIONS]
    plain, probed = run(engine_of(), jobs), run(engine_of(probe=Summing()), jobs)
    assert [text_of(one) for one in plain] == [text_of(one) for one in probed]


def test_a_probe_reads_its_own_model_alone(engine_of: EngineOf, base: Path, local: LocalModel) -> None:
    some = {**models.load(base, {"other": None}), **models.load(base, {"raw": None})}
    told = run(engine_of(some, probe=Summing()), [replace(job(local, QUESTIONS[1]), model=name) for name in some])
    scores = [[delta.score for delta in one if isinstance(delta, Delta)] for one in told]
    assert set(scores[0]) == {None}
    assert None not in scores[1]
