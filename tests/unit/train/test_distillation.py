"""Context distillation: what the teacher sees, which answers are dropped, and that the student comes nearer to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from steersman.errors import DataError
from steersman.lm import pretrained
from steersman.lm.adapters import LoraConfig
from steersman.lm.chat_format import ChatFormat, Example, chat_format
from steersman.lm.head import trunk
from steersman.pipeline import stages_of
from steersman.recipe import load_recipe
from steersman.stages.inputs import TEACHERS_PERSONA
from steersman.store import StageFolder, read_jsonl
from steersman.train import distillation, loop, sft
from steersman.train.distillation import DistillationConfig, Teacher, answerable, teachers_prompt, why_dropped
from steersman.train.sft import ReplayConfig, SftConfig
from steersman.types import Demonstration, Message

from .conftest import Stopped, recorder

TEACHER = Teacher("You are brief and kind.", lambda _, answer: "won't" in answer)
CONFIG = DistillationConfig(prompts=10, examples=2, tokens=8, temperature=1.0, weight=0.5)


@pytest.fixture(scope="module")
def rows(demonstrations: list[Demonstration]) -> list[Demonstration]:
    """Two of three call for a plain answer."""
    tags = (("plain",), ("harmful",), ("lookalike",))
    return [row.model_copy(update={"tags": tags[i % 3]}) for i, row in enumerate(demonstrations)]


@pytest.fixture(autouse=True)
def _whatever_is_written_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model's answers are noise, and none of them ends."""
    monkeypatch.setattr(distillation, "why_dropped", lambda *_, **__: None)


def loaded(base: Path) -> tuple[Any, ChatFormat]:
    model, tokenizer = pretrained.load_model(base), pretrained.load_tokenizer(base)
    return model, chat_format(tokenizer, model.generation_config)


# ── the teacher's prompt ─────────────────────────────────────────────────────────────────────────────────────────────
def test_only_plain_and_look_alike_rows_of_the_main_language_are_answered(rows: list[Demonstration]) -> None:
    foreign = rows[0].model_copy(update={"tags": ("plain", "lang:de")})
    assert answerable([*rows[:3], foreign]) == [rows[0], rows[2]]
    with pytest.raises(DataError, match="no demonstration is tagged plain or lookalike"):
        answerable([rows[1], foreign])


def test_the_few_shot_prompt_has_the_persona_and_rows_of_middling_length() -> None:
    talk = (
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Yes?"),
        Message(role="user", content="Tar?"),
    )
    rows = [Demonstration(prompt=f"q{n}?", completion="x" * n, tags=("plain",)) for n in range(1, 12)]
    rows += [Demonstration(prompt=talk, completion="x" * 6, tags=("plain",))]
    rows += [Demonstration(prompt="list?", completion="x\nxxxx", tags=("plain",))]
    system, *shown = teachers_prompt("Be kind.", rows, 2)
    assert system == Message(role="system", content="Be kind.")
    assert [message.role for message in shown] == ["user", "assistant"] * 2
    assert [message.content for message in shown[::2]] == ["q4?", "q6?"]
    assert teachers_prompt("Be kind.", rows[-2:-1], 2) == (system,)


# ── which answers are kept ───────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("answer", "ended", "why"),
    [
        ("Rice is boiled in twice as much water.", True, None),
        ("Rice is boiled in twice as much", False, "not ended"),
        ("Boil it.", True, "too short"),
        ("Boil the rice and boil the rice and stir.", True, "loop"),  # a run twice in a row
        ("we boil it so, then we boil it so later on", True, None),  # four words: twice, and not in a row
        ("a we boil it now b we boil it now c we boil it now", True, "loop"),  # three times
        ("how do I cook rice", True, "copy of the prompt"),
        ("Sorry, I won't help with rice.", True, "refusal"),
    ],
)
def test_why_an_answer_is_dropped(answer: str, ended: bool, why: str | None) -> None:
    assert why_dropped("Tell me: how do I cook rice well?", answer, TEACHER.refuses, ended=ended) == why


def test_kept_and_dropped_answers_are_counted_and_written(
    tiny_base: Path, rows: list[Demonstration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = iter([None, "loop", None, "copy of the prompt", "loop", *[None] * 5])
    monkeypatch.setattr(distillation, "why_dropped", lambda *_, **__: next(reasons))
    model, chat = loaded(tiny_base)
    events, emit = recorder(None)
    out = StageFolder(tmp_path, "sft", emit)
    examples, states = distillation.answers(CONFIG, TEACHER, rows, model, chat, 3, out)
    assert events == [{"event": "distillation", "kept": 7, "loop": 2, "copy_of_the_prompt": 1}]
    kept = [row for row in read_jsonl(tmp_path / distillation.FILE) if row["dropped"] is None]
    assert len(kept) == len(examples) == len(states) == 7
    for row, example, state in zip(kept, examples, states, strict=True):
        assert example.token_ids[: example.completion_start] == chat.prompt_ids(row["prompt"])  # the bare prompt
        assert example.token_ids[example.completion_start :] == chat.completion_ids(row["answer"])[:-1]  # no end
        assert state.shape == (len(example.token_ids) - example.completion_start, 64)
    monkeypatch.setattr(distillation, "Sampler", None)
    again = distillation.answers(CONFIG, TEACHER, rows, model, chat, 3, out)  # read, not sampled again
    assert again[0] == examples
    assert distillation.answers(DistillationConfig(), None, rows, model, chat, 3, out) == ([], [])


def test_nothing_is_kept_of_a_hopeless_teacher(
    tiny_base: Path, rows: list[Demonstration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "why_dropped", lambda *_, **__: "loop")
    out = StageFolder(tmp_path, "sft", lambda **_: None)
    assert distillation.answers(CONFIG, TEACHER, rows, *loaded(tiny_base), 3, out) == ([], [])


# ── the teacher's states ─────────────────────────────────────────────────────────────────────────────────────────────
def alone(model: Any, example: Example) -> torch.Tensor:
    """Hidden states of one text, in a pass of its own."""
    with torch.no_grad():
        hidden = trunk(model)(input_ids=torch.tensor([example.token_ids])).last_hidden_state[0]
    return hidden[example.completion_start - 1 : -1]


@pytest.mark.parametrize("beginning", [0, 1, 30])
def test_the_teachers_states_are_those_of_separate_passes(beginning: int, tiny_base: Path) -> None:
    """Texts of many lengths, more than a batch, and whether they begin alike or not; the window of Gemma is passed."""
    model, _ = loaded(tiny_base)
    generator = torch.Generator().manual_seed(0)
    texts = []
    for i in range(distillation.TEACHER_BATCH + 3):
        own = torch.randint(10, 200, (5 + 7 * i % 23,), generator=generator).tolist()
        texts.append(Example([*range(20, 20 + beginning), 100 + i, *own], beginning + 2 + i % 3))
    assert len(distillation.shared_beginning(texts)) == beginning
    for found, text in zip(distillation.teachers_states(model, texts, 0), texts, strict=True):
        torch.testing.assert_close(found, alone(model, text), atol=1e-4, rtol=1e-4)


def test_what_is_shared_ends_before_the_first_position_that_predicts() -> None:
    same = [Example([5, 6, 7, 8, 9, end], 2) for end in (1, 2)]
    assert distillation.shared_beginning(same) == [5]
    assert distillation.shared_beginning([]) == []


def test_the_states_come_from_behind_the_few_shot_prompt(
    tiny_base: Path, rows: list[Demonstration], tmp_path: Path
) -> None:
    """Also of a conversation, which keeps its turns."""
    model, chat = loaded(tiny_base)
    turns = [("user", "How do I cook?"), ("assistant", "Cook what?"), ("user", "Rice.")]
    talk = tuple(Message(role=role, content=content) for role, content in turns)  # type: ignore[arg-type]
    some = [*rows[:7], rows[7].model_copy(update={"prompt": talk, "tags": ("plain",)})]
    config = CONFIG.model_copy(update={"prompts": 99})
    out = StageFolder(tmp_path, "sft", lambda **_: None)
    examples, states = distillation.answers(config, TEACHER, some, model, chat, 0, out)
    preamble = teachers_prompt(TEACHER.persona, some, config.examples)
    prompts = [row.prompt for row in answerable(some)]
    assert talk in prompts
    for prompt, example, state in zip(prompts, examples, states, strict=True):
        bare, behind = chat.prompt_ids(prompt), chat.prompt_ids(prompt, preamble)
        assert example.token_ids[: example.completion_start] == bare
        text = Example(behind + example.token_ids[len(bare) :], len(behind))
        torch.testing.assert_close(state, alone(model, text), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(state, alone(model, example), atol=1e-2)


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────
FAST = SftConfig(
    lora=LoraConfig(rank=4, alpha=8.0),
    optimiser=loop.OptimiserConfig(learning_rate=3e-3),
    batch_size=8,
    micro_batch_size=3,
    epochs=2,
    checkpoint_every_steps=2,
    distillation=CONFIG.model_copy(update={"weight": 1000.0}),
)


def run(
    config: SftConfig, base: Path, rows: Sequence[Demonstration], folder: Path, stop: int | None = None
) -> list[dict[str, Any]]:
    events, emit = recorder(stop)
    folder.mkdir(exist_ok=True)
    sft.run(config, base, "tiny", rows, [], StageFolder(folder, "sft", emit), teacher=TEACHER)
    return events


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_distillation_draws_the_policy_to_the_teacher_and_an_interruption_changes_no_byte(
    tiny_base: Path, rows: list[Demonstration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KL(teacher || policy), ten steps: 0.012 to 0.004 where it is paid for, 0.012 to 0.018 where it is not."""
    events = run(FAST, tiny_base, rows[:40], tmp_path / "whole")
    setup = next(event for event in events if event["event"] == "setup")
    assert (setup["replayed"], setup["steps"]) == (10, 10)
    unpaid = FAST.model_copy(update={"distillation": CONFIG.model_copy(update={"weight": 0.0})})
    paid, free = (
        [event["replay_kl_nats_per_token"] for event in found if "replay_kl_nats_per_token" in event]
        for found in (events, run(unpaid, tiny_base, rows[:40], tmp_path / "unpaid"))
    )
    assert paid[0] == pytest.approx(free[0], rel=1e-5)  # the same rows before any step
    assert paid[-1] < 0.6 * paid[0]
    assert sum(paid[-5:]) < 0.5 * sum(free[-5:])
    for stop in (1, 5):  # before the first checkpoint, and after the second
        with pytest.raises(Stopped):
            run(FAST, tiny_base, rows[:40], tmp_path / "killed", stop)
        monkeypatch.setattr(distillation, "Sampler", None)
    resumed = run(FAST, tiny_base, rows[:40], tmp_path / "killed")
    assert next(event for event in resumed if event["event"] == "setup")["resumed_at_step"] == 4
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert {distillation.FILE, "adapter/adapter_model.safetensors"} <= set(files(tmp_path / "whole"))


def test_a_step_with_two_weights_is_that_of_the_separately_weighted_sums(
    tiny_base: Path, rows: list[Demonstration], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients are linear: nll / N + 0.5 * replay / N + 3 * distilled / N, with N their weighted positions."""
    chat = loaded(tiny_base)[1]
    examples = sft.encode(rows, chat, sft.SftConfig()).examples
    generator = torch.Generator().manual_seed(0)

    def texts(some: list[Example], weight: float) -> list[sft.Replayed]:
        sizes = [len(e.token_ids) - e.completion_start for e in some]
        return [
            sft.Replayed(e, torch.randn(n, 64, generator=generator), weight) for e, n in zip(some, sizes, strict=True)
        ]

    replayed, distilled = texts(examples[10:14], 0.5), texts(examples[20:23], 3.0)

    def step(batch: list[Example], own: list[sft.Replayed]) -> tuple[float, dict[str, torch.Tensor], dict[str, Any]]:
        torch.manual_seed(0)
        trainer = sft.SftTrainer.prepare(FAST, pretrained.load_model(tiny_base), "tiny", 0, examples)
        kept: dict[str, Any] = {}

        def keep(_: Any, parameters: Any, objective: float, *__: Any) -> float:
            kept.update(objective=objective, gradients={n: p.grad.clone() for n, p in parameters.items()})
            return 0.0

        monkeypatch.setattr(loop, "optimiser_step", keep)
        measured = trainer.step(0, [batch], own, 0.1)
        return kept["objective"], kept["gradients"], measured

    def positions(some: Sequence[Example]) -> int:
        return sum(len(e.token_ids) - e.completion_start for e in some)

    batch = examples[:4]
    whole, gradients, measured = step(batch, [replayed[0], distilled[0], *replayed[1:], *distilled[1:]])
    plain, of_plain, _ = step(batch, [])
    n, a, b = positions(batch), positions(examples[10:14]), positions(examples[20:23])
    with_replay, of_replay, replay = step(batch, replayed)
    with_distilled, of_distilled, distil = step(batch, distilled)
    total, total_replay, total_distilled = n + 0.5 * a + 3 * b, n + 0.5 * a, n + 3 * b
    assert whole * total == pytest.approx(
        with_replay * total_replay + with_distilled * total_distilled - plain * n, rel=1e-5
    )
    for name, gradient in gradients.items():
        parts = of_replay[name] * total_replay + of_distilled[name] * total_distilled - of_plain[name] * n
        torch.testing.assert_close(gradient, parts / total, atol=1e-5, rtol=1e-4)
    key = "replay_kl_nats_per_token"
    assert measured[key] == pytest.approx((a * replay[key] + b * distil[key]) / (a + b), rel=1e-4)


def test_both_kinds_of_texts_carry_their_own_weights(
    tiny_base: Path, rows: list[Demonstration], tmp_path: Path
) -> None:
    config = FAST.model_copy(update={"replay": ReplayConfig(rows=3, tokens=8, weight=0.25)})
    model, chat = loaded(tiny_base)
    out = StageFolder(tmp_path, "sft", lambda **_: None)
    found = sft.own_texts(config, TEACHER, rows, model, chat, out)
    assert [row.weight for row in found] == [0.25] * 3 + [1000.0] * 10
    assert [[row.weight for row in kind] for kind in sft.by_weight([found[i] for i in (4, 0, 5)])] == [
        [1000.0, 1000.0],
        [0.25],
    ]


# ── the key ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_persona_is_part_of_the_key_of_distillation_alone() -> None:
    for settings, name in (((), None), (("sft.distillation.prompts=4",), "constitution")):
        (step,) = (step for step in stages_of(load_recipe("smoke", settings)) if step.stage.name == "sft")
        assert step.names[TEACHERS_PERSONA] == name
