"""Learning from comparisons: the losses by hand, gradients against plain autograd, invariance, resuming to the bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from steersman.errors import DataError, ModelError
from steersman.lm import pretrained, shared_prefix
from steersman.lm.adapters import LoraConfig, load_policy, load_trainable
from steersman.lm.chat_format import chat_format
from steersman.lm.compact_vocabulary import CompactConfig
from steersman.lm.shared_prefix import Group
from steersman.store import StageFolder
from steersman.train import dpo, sft
from steersman.train.dpo import (
    DpoConfig,
    DpoTrainer,
    LogRatios,
    PreferencePair,
    dpo_losses,
    encode,
    expected_losses,
    ipo_losses,
    kto_losses,
    upsampled,
)
from steersman.train.loop import OptimiserConfig
from steersman.train.sft import SftConfig
from steersman.types import Comparison, Demonstration

from .conftest import Stopped, recorder

FAST = DpoConfig(
    optimiser=OptimiserConfig(learning_rate=3e-3), batch_size=8, micro_batch_size=3, epochs=2, checkpoint_every_steps=2
)
COMPACT: dict[str, Any] = {"vocabulary": "compact", "compact": CompactConfig(extra_rows=20, full_share=0.3)}


@pytest.fixture(scope="module")
def comparisons(demonstrations: list[Demonstration]) -> list[Comparison]:
    """The demonstrations' answers against an answer that is always the same."""
    return [
        Comparison(
            prompt=d.prompt,
            options=(d.completion, "I cannot help."),
            ranking=(1, 2),
            failure=f,
            principles=d.principles,
        )
        for d, f in zip(demonstrations[:24], ["vague", "needless-refusal", "padding"] * 8, strict=True)
    ]


@pytest.fixture(scope="module")
def starts(tiny_base: Path, demonstrations: list[Demonstration], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LoRA policy, ``lora/``, one on the upper layer, ``upper/``, and one of all weights, ``full/``."""
    folder = tmp_path_factory.mktemp("starts")
    optimiser = OptimiserConfig(learning_rate=3e-3)
    for name, config in {
        "lora": SftConfig(lora=LoraConfig(rank=4), optimiser=optimiser, epochs=0.5),
        "upper": SftConfig(lora=LoraConfig(rank=4, trainable_layers=1), optimiser=optimiser, epochs=0.5),
        "full": SftConfig(method="full", epochs=0.2),
    }.items():
        (folder / name).mkdir()
        sft.run(config, tiny_base, "tiny", demonstrations, [], StageFolder(folder / name, "sft"))
    return folder


def prepared(config: DpoConfig, base: Path, start: Path, rows: Sequence[Comparison]) -> tuple[DpoTrainer, list[Group]]:
    tokenizer, (model, policy) = pretrained.load_tokenizer(base), load_trainable(base, start)
    groups = [pair.group for pair in encode(rows, chat_format(tokenizer), config)[0]]
    return DpoTrainer.prepare(config, model, policy, 0, groups), groups


def sure(groups: Sequence[Group]) -> list[PreferencePair]:
    """Pairs whose order is certain."""
    return [PreferencePair(group) for group in groups]


def gradients(
    trainer: DpoTrainer,
    groups: Sequence[Group],
    monkeypatch: pytest.MonkeyPatch,
    pairs_of: Sequence[PreferencePair] | None = None,
    scale: float = 0.0,
) -> dict[str, Any]:
    """What a step measures, and the gradients that it would follow: the second one, with the policy off its start.

    Args:
        scale: of the adapter, in place of noise on it; above 1, answers like those that it learnt become likelier.
    """
    found: dict[str, Any] = {}

    def keep(_: Any, parameters: dict[str, torch.Tensor], *__: Any) -> float:
        found.update({name: p.grad.clone() for name, p in parameters.items() if p.grad is not None})
        return 0.0

    references = trainer.references([pairs_of or sure(groups)] * 2)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in trainer.parameters.values():
            noise = torch.randn_like(parameter)
            parameter.copy_(parameter * scale if scale else parameter + 0.02 * noise)
    with monkeypatch.context() as patch:
        patch.setattr(dpo.loop, "optimiser_step", keep)
        measured = trainer.step(1, sure(groups) if pairs_of is None else pairs_of, references[1], 0.0)
    return found | {"loss": torch.tensor(measured["loss"]), "accuracy": torch.tensor(measured.get("accuracy", 0.0))}


# ── losses ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_losses_by_hand() -> None:
    answers = LogRatios(*map(torch.tensor, ([2.0, 0.0], [-1.0, 4.0], [4.0, 2.0], [2.0, 8.0])))
    margins = [3.0, -4.0]
    expected = torch.tensor([math.log(1 + math.exp(-0.5 * m)) for m in margins])
    torch.testing.assert_close(dpo_losses(answers, 0.5), expected)
    torch.testing.assert_close(ipo_losses(answers, 0.5), torch.tensor([(0.5 + 0.5 - 1) ** 2, (0 - 0.5 - 1) ** 2]))

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    wanted = [
        (1 - sigmoid(0.5 * (2 - 1)) + 1 - sigmoid(0.5 * (1 + 1))) / 2,
        (1 - sigmoid(0.5 * (0 - 1)) + 1 - sigmoid(0.5 * (1 - 4))) / 2,
    ]
    torch.testing.assert_close(kto_losses(answers, 0.5, 1.0), torch.tensor(wanted))


@pytest.mark.parametrize("loss", ["dpo", "ipo", "kto"])
def test_a_soft_label_is_the_mean_over_both_orders(loss: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    ratios = torch.randn(2, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([[3.0, 5, 2, 4, 4, 9], [4.0, 4, 7, 1, 2, 3]], dtype=torch.float64)
    certainty = torch.tensor([1.0, 0.5, 0.7, 0.99, 0.51, 0.8], dtype=torch.float64)
    answers, config = LogRatios(*ratios, *lengths), DpoConfig(loss=loss, beta=0.4)
    losses = expected_losses(config, answers, certainty, 0.3)
    (gradient,) = torch.autograd.grad(losses.sum(), ratios)
    assert losses[0] == dpo.LOSSES[loss](answers, 0.4, 0.3)[0]  # a sure one is as it was
    if loss == "dpo":  # Mitchell's conservative DPO, as TRL writes it
        margin = 0.4 * (ratios[0] - ratios[1])
        smoothing = 1 - certainty
        by_hand = -torch.nn.functional.logsigmoid(margin) * (1 - smoothing)
        torch.testing.assert_close(losses, by_hand - torch.nn.functional.logsigmoid(-margin) * smoothing)
    if loss == "ipo":  # the square's target moves from 1 / (2 beta) to (2 p - 1) / (2 beta)
        margin = ratios[0] / lengths[0] - ratios[1] / lengths[1]
        (moved,) = torch.autograd.grad(((margin - (2 * certainty - 1) / 0.8) ** 2).sum(), ratios)
        torch.testing.assert_close(gradient, moved)


def test_a_step_counts_labels_and_weights(
    tiny_base: Path, starts: Path, comparisons: list[Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FAST.model_copy(update={"micro_batch_size": 2})
    trainer, groups = prepared(config, tiny_base, starts / "lora", comparisons[:4])
    weighed = [PreferencePair(group, 0.7, weight) for group, weight in zip(groups, (2.0, 1.0, 1.0, 1.0), strict=True)]
    ours = gradients(trainer, groups, monkeypatch, weighed)
    turned = [Group(g.prompt, g.completions[::-1]) for g in groups]
    parts = {
        (side, i): gradients(prepared(config, tiny_base, starts / "lora", comparisons[:4])[0], [g], monkeypatch)
        for side, some in (("as said", groups), ("turned", turned))
        for i, g in enumerate(some)
    }
    shares = {("as said", 0): 1.4, ("turned", 0): 0.6} | {
        (side, i): p for side, p in (("as said", 0.7), ("turned", 0.3)) for i in (1, 2, 3)
    }
    for name in ours.keys() - {"accuracy"}:
        wanted = sum(share * parts[key][name] for key, share in shares.items()) / 5
        torch.testing.assert_close(ours[name], wanted, rtol=1e-4, atol=1e-6)


def plain_log_ratios(base: Path, trainer: DpoTrainer, start: Path, row: Group) -> torch.Tensor:
    """r of both answers, each in a row of its own, through `transformers`' own logits."""
    reference = load_policy(base, start)
    found = []
    for completion in row.completions:
        ids = torch.tensor([row.prompt + completion])

        def logprob(model: Any, ids: torch.Tensor = ids, count: int = len(completion)) -> torch.Tensor:
            logits = torch.log_softmax(model(input_ids=ids).logits[0, -count - 1 : -1], -1)
            return logits.gather(1, ids[0, -count:, None]).sum()

        with torch.no_grad():
            before = logprob(reference)
        found.append(logprob(trainer.model) - before)
    return torch.stack(found)


@pytest.mark.parametrize("start", ["lora", "upper", "full"])
def test_loss_and_gradients_are_those_of_separate_rows(
    start: str, tiny_base: Path, starts: Path, comparisons: list[Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FAST.model_copy(update={"nll_weight": 0.3})
    trainer, groups = prepared(config, tiny_base, starts / start, comparisons[:5])
    ours = gradients(trainer, groups, monkeypatch)
    trainer.optimiser.zero_grad()
    trainer.model.eval()
    tokens = sum(len(g.completions[0]) for g in groups)
    ratios = torch.stack([plain_log_ratios(tiny_base, trainer, starts / start, g) for g in groups])
    preference = -torch.nn.functional.logsigmoid(config.beta * (ratios[:, 0] - ratios[:, 1])).mean()
    nll = torch.zeros(())
    for g in groups:
        ids = torch.tensor([g.prompt + g.completions[0]])
        labels = ids.clone()
        labels[0, : len(g.prompt)] = -100
        nll = nll + trainer.model(input_ids=ids, labels=labels).loss * len(g.completions[0]) / tokens
    loss = preference + 0.3 * nll
    loss.backward()
    assert float(ours["loss"]) == pytest.approx(loss.item(), rel=1e-5)
    learnt = {name: p.grad for name, p in trainer.parameters.items() if p.grad is not None}
    assert learnt
    for name, gradient in learnt.items():
        torch.testing.assert_close(ours[name], gradient, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("loss", ["dpo", pytest.param("ipo", marks=pytest.mark.slow), "kto"])
@pytest.mark.parametrize("vocabulary", [pytest.param("full", marks=pytest.mark.slow), "compact"])
def test_micro_batches_change_nothing(
    loss: str,
    vocabulary: str,
    tiny_base: Path,
    starts: Path,
    comparisons: list[Comparison],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for size in (8, 3, 1):
        update = {
            "loss": loss,
            "micro_batch_size": size,
            "nll_weight": 0.2,
            **(COMPACT if vocabulary == "compact" else {}),
        }
        config = FAST.model_copy(update=update)
        trainer, groups = prepared(config, tiny_base, starts / "lora", comparisons[:8])
        found.append(gradients(trainer, groups, monkeypatch))
    for other in found[1:]:
        for name, value in found[0].items():
            torch.testing.assert_close(other[name], value, atol=2e-6, rtol=1e-4)


def test_at_the_start_policy_and_reference_agree(tiny_base: Path, starts: Path, comparisons: list[Comparison]) -> None:
    """To the bit, also where both are estimated: chance falls on them alike."""
    trainer, groups = prepared(FAST.model_copy(update=COMPACT), tiny_base, starts / "lora", comparisons)
    references = trainer.references([sure(groups[:8]), sure(groups[8:16])])
    measured = trainer.step(1, sure(groups[8:16]), references[1], 0.0)
    assert measured["preference_loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert measured["chosen_log_ratio_nats"] == measured["rejected_log_ratio_nats"] == 0.0


def test_ktos_baseline_is_the_mean_ratio_of_foreign_answers(
    tiny_base: Path, starts: Path, comparisons: list[Comparison]
) -> None:
    config = FAST.model_copy(update={"loss": "kto"})
    trainer, groups = prepared(config, tiny_base, starts / "lora", comparisons[:5])
    (reference,) = trainer.references([sure(groups)])
    with torch.no_grad():
        for parameter in trainer.parameters.values():
            parameter.mul_(0.5)
        foreign = [
            Group(own.prompt, other.completions) for own, other in zip(groups, groups[-1:] + groups, strict=False)
        ]
        trainer.model.eval()
        ratios = [plain_log_ratios(tiny_base, trainer, starts / "lora", g).mean() for g in foreign]
        trainer.model.train()
    expected = max(0.0, float(torch.stack(ratios).mean()))
    measured = trainer.step(0, sure(groups), reference, 0.0)
    assert measured["baseline_nats"] == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("loss", "passes"), [("dpo", 2), ("simpo", 1), ("orpo", 1), ("kto", 4)])
def test_a_loss_without_a_reference_reads_a_batch_once(
    loss: str,
    passes: int,
    tiny_base: Path,
    starts: Path,
    comparisons: list[Comparison],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = FAST.model_copy(update={"loss": loss, "nll_weight": 1.0})
    trainer, groups = prepared(config, tiny_base, starts / "lora", comparisons[:4])
    calls, read = [], shared_prefix.shared_prefix_hidden

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        return read(*arguments)

    monkeypatch.setattr(shared_prefix, "shared_prefix_hidden", counted)
    (reference,) = trainer.references([sure(groups)])
    measured = trainer.step(0, sure(groups), reference, 0.0)
    assert len(calls) == 2 * passes  # of 4 rows in micro-batches of 3
    assert math.isfinite(measured["loss"])
    if loss == "simpo":  # its r is the policy's own log-probability
        logprobs = trainer.answer_logprobs(sure(groups)).view(-1, 2)
        assert measured["chosen_log_ratio_nats"] == pytest.approx(float(logprobs[:, 0].mean()), rel=1e-5)


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_upsample_repeats_what_it_names(comparisons: list[Comparison]) -> None:
    rows = upsampled(comparisons[:6], {"needless-refusal": 3, "ask-first": 2})
    times = [rows.count(row) for row in comparisons[:6]]
    expected = [
        3 if r.failure == "needless-refusal" else 2 if "ask-first" in r.principles else 1 for r in comparisons[:6]
    ]
    assert times == expected
    assert set(times) == {1, 2, 3}


def test_a_name_that_no_comparison_has_is_an_error(comparisons: list[Comparison]) -> None:
    with pytest.raises(DataError, match=r"dpo\.upsample names 'needles-refusal'.*\n.*did you mean needless-refusal"):
        upsampled(comparisons, {"needles-refusal": 3})
    with pytest.raises(DataError, match="no comparisons to train on"):
        upsampled([], {})


def test_rankings_become_pairs_and_rows_without_an_order_are_left_out(tiny_base: Path) -> None:
    chat = chat_format(pretrained.load_tokenizer(tiny_base))
    ranked = Comparison(prompt="Why?", options=("a", "b", "c"), ranking=(2, 1, 2))
    tie = Comparison(prompt="Why?", options=("a", "b"), ranking=(1, 1))
    found, _ = encode(upsampled([tie, ranked], {}), chat, DpoConfig())
    a, b, c = (chat.completion_ids(text) for text in ranked.options)
    assert found == [PreferencePair(Group(chat.prompt_ids("Why?"), [b, worse])) for worse in (a, c)]
    unsure = Comparison(prompt="Why?", options=("a", "b"), soft_label=0.2, weight=3.0)
    assert encode([unsure], chat, DpoConfig())[0] == [PreferencePair(Group(chat.prompt_ids("Why?"), [b, a]), 0.8, 3.0)]
    with pytest.raises(DataError, match="none of 2 comparisons says which answer is better"):
        upsampled([tie, tie], {})


def test_long_rows_lose_the_same_beginning_on_both_sides(tiny_base: Path) -> None:
    chat = chat_format(pretrained.load_tokenizer(tiny_base))
    answers = ("Yes.", "No, and no, and no again, " * 12)
    row = Comparison(prompt="one two three " * 30, options=answers, ranking=(1, 2))
    (((prompt, (chosen, rejected)), _, _),), truncated = encode([row], chat, DpoConfig(max_length=96))
    whole = chat.prompt_ids(row.prompt)
    assert truncated == 1
    assert encode([row], chat, DpoConfig(max_length=96, truncation="drop")) == ([], 1)
    assert prompt == [*whole[:6], *whole[6 - len(prompt) :]]  # <bos>User: stays, and a space
    assert len(prompt) + len(rejected) == 96
    assert chosen == chat.completion_ids("Yes.")
    assert len(prompt) + max(len(chosen), len(rejected)) <= 96
    (((_, cut), _, _),), _ = encode([row], chat, DpoConfig(first_n_tokens=3))
    assert [len(ids) for ids in cut] == [min(3, len(chosen)), 3]


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def run(
    config: DpoConfig, base: Path, start: Path, rows: Sequence[Comparison], folder: Path, stop_before: int | None = None
) -> list[dict[str, Any]]:
    events, emit = recorder(stop_before)
    folder.mkdir(exist_ok=True)
    dpo.run(config, base, start, rows, StageFolder(folder, "dpo", emit))
    return events


@pytest.mark.parametrize(
    ("loss", "start"),
    [
        ("dpo", "lora"),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in [("ipo", "upper"), ("kto", "lora"), ("dpo", "full")]),
    ],
)
@pytest.mark.slow
def test_training_tells_the_answers_apart(
    loss: str, start: str, tiny_base: Path, starts: Path, comparisons: list[Comparison], tmp_path: Path
) -> None:
    rate = 3e-3 if start != "full" else 3e-4
    update = {"loss": loss, "epochs": 8, "optimiser": OptimiserConfig(learning_rate=rate)}
    tie = Comparison(prompt="Why?", options=("a", "b"), ranking=(1, 1))
    events = run(FAST.model_copy(update=update), tiny_base, starts / start, [*comparisons, tie], tmp_path / "out")
    first, last = events[1], events[-1]
    assert (events[0]["comparisons"], events[0]["without_order"], events[0]["pairs_per_epoch"]) == (25, 1, 24)
    assert last["preference_loss"] < 0.9 * first["preference_loss"]
    assert last["accuracy"] == 1.0
    assert last["chosen_log_ratio_nats"] - last["rejected_log_ratio_nats"] > 1
    # What was written is what was trained: it prefers the better answers against its start.
    trainer, groups = prepared(FAST, tiny_base, tmp_path / "out", comparisons)
    ratios = torch.stack([plain_log_ratios(tiny_base, trainer, starts / start, g) for g in groups[:4]])
    assert (ratios[:, 0] > ratios[:, 1]).all()


@pytest.mark.slow
def test_the_likelihood_term_holds_the_chosen_answers(
    tiny_base: Path, starts: Path, comparisons: list[Comparison], tmp_path: Path
) -> None:
    ended = []
    for weight in (0.0, 1.0):
        config = FAST.model_copy(update={"nll_weight": weight, "epochs": 4})
        events = run(config, tiny_base, starts / "lora", comparisons, tmp_path / str(weight))
        ended.append(events[-1]["chosen_log_ratio_nats"])
    assert ended[1] > ended[0] + 1


@pytest.mark.parametrize("loss", ["dpo", "kto"])
@pytest.mark.slow
def test_resuming_is_exact(
    loss: str, tiny_base: Path, starts: Path, comparisons: list[Comparison], tmp_path: Path
) -> None:
    config = FAST.model_copy(update={"loss": loss, **COMPACT})
    whole = run(config, tiny_base, starts / "upper", comparisons, tmp_path / "whole")
    with pytest.raises(Stopped):
        run(config, tiny_base, starts / "upper", comparisons, tmp_path / "killed", stop_before=5)
    again = run(config, tiny_base, starts / "upper", comparisons, tmp_path / "killed")
    assert again[0]["resumed_at_step"] == 4
    strip = {"tokens_per_second"}
    assert [{k: v for k, v in e.items() if k not in strip} for e in again[1:]] == [
        {k: v for k, v in e.items() if k not in strip} for e in whole[5:]
    ]
    files = [{p.name: p.read_bytes() for p in (tmp_path / n / "adapter").iterdir()} for n in ("whole", "killed")]
    assert files[0] == files[1]
    assert not (tmp_path / "killed" / "checkpoint").exists()


def test_a_policy_of_another_base_is_refused(
    tiny_base: Path, starts: Path, comparisons: list[Comparison], tmp_path: Path
) -> None:
    from steersman.lm import tiny

    tiny.build(["Another text altogether, for another tokenizer."] * 5, tmp_path / "other")
    with pytest.raises(ModelError, match="another base model"):
        run(FAST, tmp_path / "other", starts / "lora", comparisons, tmp_path / "out")
