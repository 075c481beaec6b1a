"""The measures of sense, against plain `transformers` and on rows made by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steersman.evals import capability, sense
from steersman.evals.conditions import ALIGNED, FEW_SHOT, RAW
from steersman.evals.facts import Fact
from steersman.evals.sense import Scored, SenseConfig, SenseData, Written, corrected, exchanged, verdict
from steersman.lm import pretrained
from steersman.lm.adapters import LoraConfig, add_lora, save_policy
from steersman.lm.chat_format import chat_format
from steersman.lm.chat_template import ChatTemplate
from steersman.lm.sampling import SamplingConfig
from steersman.stats import paired_difference
from steersman.store import StageFolder, read_json, read_jsonl
from steersman.types import Comparison, Demonstration, Message, Prompt

CONFIG = SenseConfig(prompts=4, exchanged=2, batch_size=5, sampling=SamplingConfig(max_new_tokens=3))
FACTS = [Fact(question="What is rice?", accept=("grain",), form="question")]
FILES = ["answers.jsonl", "human_written.jsonl", "sense.jsonl", "summary.json"]


def row(condition: str, index: int, answer: str, finish_reason: str = "stop") -> dict[str, Any]:
    return {"condition": condition, "index": index, "answer": answer, "finish_reason": finish_reason}


@pytest.fixture(scope="module")
def data(demonstrations: list[Demonstration]) -> SenseData:
    evaluation = [Prompt(prompt=d.prompt, topic=f"t{i // 2}") for i, d in enumerate(demonstrations[:6])]
    answers = {
        FEW_SHOT: {i: row(FEW_SHOT, i, d.completion) for i, d in enumerate(demonstrations[:6])},
        ALIGNED: {i: row(ALIGNED, i, "" if i == 0 else "Ask a person.") for i in range(6)},
    }
    written = [Written.of(d, d.completion) for d in demonstrations[10:15]]
    return SenseData(evaluation, answers, written, FACTS, (Message(role="system", content="Be plain."),))


@pytest.fixture(scope="module")
def policy(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    model, tokenizer = pretrained.load_model(tiny_base), pretrained.load_tokenizer(tiny_base)
    model.requires_grad_(False)
    save_policy(add_lora(model, LoraConfig(rank=2), "tiny"), folder, tokenizer, pretrained.digest(tiny_base))
    return folder


def run(base: Path, policy: Path, data: SenseData, folder: Path) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    sense.run(CONFIG, base, policy, data, StageFolder(folder, "sense"))
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# ── exchanged prompts ────────────────────────────────────────────────────────────────────────────────────────────────
def about(topic: str, language: str = "") -> Written:
    return Written(f"A question about {topic}?", "", topic, language)


def test_prompts_are_exchanged_with_those_of_other_topics_only() -> None:
    rows = [about(topic) for topic in "aaabbbccc"]
    drawn = exchanged(rows, range(9), 6, seed=0)
    for index, others in drawn.items():
        assert sorted(others) == [i for i in range(9) if rows[i].topic != rows[index].topic]
    assert {index: len(others) for index, others in exchanged(rows, [0, 5], 9, 0).items()} == {0: 6, 5: 6}


def test_the_seed_and_the_row_decide_the_draw_and_not_which_rows_are_wanted() -> None:
    rows = [about(str(i)) for i in range(30)]
    every = exchanged(rows, range(30), 3, seed=0)
    assert exchanged(rows, [7], 3, seed=0) == {7: every[7]}
    assert exchanged(rows, range(30), 3, seed=1) != every
    assert len({tuple(others) for others in every.values()}) > 25


def test_another_language_would_give_itself_away() -> None:
    rows = [about(str(i), "lang:de" if i < 4 else "") for i in range(12)]
    assert set(exchanged(rows, [0], 3, 0)[0]) == {1, 2, 3}
    assert len(exchanged(rows, [0], 4, 0)[0]) == 4, "too few of the language: any other topic"


def test_rows_without_a_topic_are_told_apart_by_their_prompt() -> None:
    prompts = [Prompt(prompt=text) for text in ("Why?", "Why?", "How?")]
    assert exchanged([Written.of(prompt) for prompt in prompts], [0], 2, 0) == {0: [2]}


def test_a_prompt_with_too_few_others_is_left_out() -> None:
    prompts = [Prompt(prompt=f"Why {i}?", topic="a" if i < 3 else "b") for i in range(4)]
    assert sense.prompts_of(SenseConfig(exchanged=2), prompts).keys() == {3}


def test_what_people_wrote_is_demonstrations_and_better_answers() -> None:
    shown = Demonstration(prompt="How?", completion="So.", topic="x")
    pair = {"prompt": "Why?", "options": ("Because.", "No.")}
    held_out = [
        Comparison(**pair, ranking=(2, 1)),
        Comparison(**pair, ranking=(1, 1)),
        Comparison(**pair, ranking=(1, 2), both_bad=True),
        Comparison(**pair, soft_label=0.9),
    ]
    found = sense.human_written([shown], held_out, None)
    assert [(w.prompt, w.answer, w.topic) for w in found] == [
        ("How?", "So.", "x"),
        ("Why?", "No.", "Why?"),
        ("Why?", "Because.", "Why?"),
    ]
    assert len(sense.human_written([shown], held_out, 2)) == 2


# ── scores ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def reference(base: Path, prompt: str, answer: str) -> tuple[float, int]:
    """The summed log-probability of an answer, by plain `transformers`; its terminator is not scored."""
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base).eval()
    head = [2, *tokenizer(f"User: {prompt}\nAssistant:", add_special_tokens=False)["input_ids"]]
    tail = tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
    return float(torch.log_softmax(logits.double(), -1).gather(1, torch.tensor(tail)[:, None]).sum()), len(tail)


@pytest.mark.slow
def test_margins_are_those_of_plain_transformers(
    tiny_base: Path, policy: Path, data: SenseData, tmp_path: Path
) -> None:
    assert sorted(run(tiny_base, policy, data, tmp_path / "out")) == FILES
    found = {(r["condition"], r["index"]): r for r in read_jsonl(tmp_path / "out" / "sense.jsonl")}
    chosen = sense.prompts_of(CONFIG, data.evaluation)
    assert list(found) == [(name, i) for name in (FEW_SHOT, ALIGNED) for i in chosen]
    for (name, i), judged in found.items():
        answer = data.answers[name][i]["answer"]
        if not answer:
            assert (judged["margin_nats"], judged["on_question"], judged["garbled"]) == (None, False, True)
            continue
        own, *others = (reference(tiny_base, data.evaluation[j].prompt, answer) for j in (i, *chosen[i]))  # type: ignore[arg-type]
        assert judged["margin_nats"] == pytest.approx(own[0] - max(total for total, _ in others), abs=1e-3)
        assert judged["nats_per_token"] == pytest.approx(own[0] / own[1], abs=1e-4)
    posed = exchanged(data.written, range(5), 3, CONFIG.seed)
    for i, written in enumerate(read_jsonl(tmp_path / "out" / "human_written.jsonl")):
        answer = data.written[i].answer
        first, second, third = (reference(tiny_base, data.written[j].prompt, answer)[0] for j in posed[i])  # type: ignore[arg-type]
        assert written["exchanged_margin_nats"] == pytest.approx(third - max(first, second), abs=1e-3)


def test_roles_are_spelled_out_also_for_a_model_with_a_template(tokenizer: Any) -> None:
    plain = chat_format(tokenizer)
    templated = replace(plain, template=ChatTemplate(tokenizer))
    evaluation = [Prompt(prompt=f"How {word}?") for word in ("far", "long", "old")]
    answers = {FEW_SHOT: {i: [5, 6] for i in range(3)}}
    found = [sense.candidates(CONFIG, chat, evaluation, [], answers) for chat in (plain, templated)]
    assert found[0] == found[1]
    assert sense.answer_ids(templated, "So.") == sense.answer_ids(plain, "So.")


@pytest.mark.parametrize(("batches", "asked"), [(0, 0), (1, 0), (9, 0), (9, 1), (9, 2)])
@pytest.mark.slow
def test_a_killed_stage_goes_on_to_the_same_bytes(
    batches: int,
    asked: int,
    tiny_base: Path,
    policy: Path,
    data: SenseData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = run(tiny_base, policy, data, tmp_path / "whole")
    honest, sizes, answered = capability.sequence_logprobs, list[int](), [0]
    total = len(sense.jobs(_candidates(tiny_base, data)))

    def counted(model: Any, head: Any, examples: Any, pad_id: int) -> list[float]:
        if len(sizes) == batches:
            raise KeyboardInterrupt
        sizes.append(len(examples))
        return honest(model, head, examples, pad_id)

    def emit(**event: Any) -> None:
        answered[0] += event["event"] in ("facts", "rate")
        if answered[0] > asked:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(capability, "sequence_logprobs", counted)
    with pytest.raises(KeyboardInterrupt):
        sense.run(CONFIG, tiny_base, policy, data, StageFolder(out, "sense", emit))
    if 0 < batches < 9:
        with (out / "scored.partial.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"group": "human", "ro')
    batches = 10**6  # nothing interrupts it any more
    assert run(tiny_base, policy, data, out) == whole
    assert sum(sizes) == total, "nothing is scored twice"


def _candidates(base: Path, data: SenseData) -> list[sense.Candidate]:
    chat = chat_format(pretrained.load_tokenizer(base))
    chosen = sense.prompts_of(CONFIG, data.evaluation)
    texts = {n: {i: sense.answer_ids(chat, own[i]["answer"]) for i in chosen} for n, own in data.answers.items()}
    return sense.candidates(CONFIG, chat, data.evaluation, data.written, texts)


# ── verdicts ─────────────────────────────────────────────────────────────────────────────────────────────────────────
PROMPT = Prompt(prompt="Where is it?", expect=("admits_uncertainty",))
GOOD = Scored(own=-10.0, others=(-12.0, -11.0, -30.0), tokens=10)


@pytest.mark.parametrize(
    ("fault", "answer", "scored"),
    [
        ("", row(ALIGNED, 0, "I do not know where it is."), GOOD),
        ("", row(ALIGNED, 0, "I do not know where it is.", "stop_string"), GOOD),
        ("on_question", row(ALIGNED, 0, "I do not know where it is."), GOOD._replace(own=-11.0)),
        ("loop", row(ALIGNED, 0, "I do not know. I do not know."), GOOD),
        ("garbled", row(ALIGNED, 0, "I do not know where it is."), GOOD._replace(tokens=4)),
        ("ended", row(ALIGNED, 0, "I do not know where it is.", "length"), GOOD),
    ],
)
def test_an_answer_makes_sense_if_nothing_is_wrong(fault: str, answer: dict[str, Any], scored: Scored) -> None:
    found = verdict(PROMPT, answer, scored, 2, threshold=-2.0)
    expected = {"on_question": True, "loop": False, "garbled": False, "ended": True}
    if fault:
        expected[fault] = not expected[fault]
    assert {key: found[key] for key in expected} == expected
    assert found["makes_sense"] == (not fault)
    assert found["kept"] is True, "the manner is there, with or without sense"


def test_an_empty_answer_is_neither_on_the_question_nor_fluent() -> None:
    found = verdict(Prompt(prompt="Where?"), row(ALIGNED, 0, ""), Scored(None, (), 0), 2, threshold=None)
    assert (found["on_question"], found["garbled"], found["makes_sense"], found["kept"]) == (False, True, False, None)


def test_an_exchanged_prompt_poses_as_the_answers_own_against_others_alone() -> None:
    scored = Scored(own=-1.0, others=(-5.0, -4.0, -3.5), tokens=2)
    assert scored.margin(2) == 3.0
    assert scored.posed_margin(2) == 0.5
    assert scored.posed_margin(3) is None
    assert scored.margin(4) is None


def test_garbled_is_what_lies_below_one_in_twenty_of_what_people_wrote() -> None:
    human = [Scored(own=-float(i), others=(), tokens=1) for i in range(101)]
    assert sense.garbled_below([*human, Scored(None, (), 0)]) == pytest.approx(-95.0)
    assert sense.garbled_below([]) is None


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def judged(
    condition: str, index: int, makes: bool, kept: bool | None = True, nats: float | None = -2.0
) -> dict[str, Any]:
    facts = {"on_question": makes, "loop": False, "garbled": False, "ended": True, "makes_sense": makes}
    return {"condition": condition, "index": index, "nats_per_token": nats, "kept": kept, **facts}


def written(on: bool | None, posed: bool | None) -> dict[str, Any]:
    return {"on_question": on, "exchanged_on_question": posed, "loop": False}


def by_label(measures: list[dict[str, Any]]) -> Mapping[str, dict[str, Any]]:
    return {each["label"]: each for each in measures}


def test_the_tables_compare_both_conditions_on_the_same_prompts() -> None:
    before, after = [True, True, False, False], [True, False, False, True]
    rows = [judged(FEW_SHOT, i, fact, nats=-2.0) for i, fact in enumerate(before)]
    rows += [judged(ALIGNED, i, fact, kept=i > 0, nats=-1.5) for i, fact in enumerate(after)]
    answered = [(FEW_SHOT, "question"), (FEW_SHOT, "command"), (ALIGNED, "question"), (ALIGNED, "command")]
    asked = [
        {"condition": c, "form": f, "right": (c, f) != (ALIGNED, "command"), "declined": c == ALIGNED}
        for c, f in answered
    ]
    human = [written(True, False)] * 29 + [written(False, True), written(None, None)]
    found = sense.summarise(CONFIG, rows, human, asked, threshold=-3.0)
    measures, facts = by_label(found["measures"]), by_label(found["facts"])
    makes = measures["makes sense"]
    assert [makes["rates"][name]["value"] for name in (FEW_SHOT, ALIGNED)] == [0.5, 0.5]
    assert makes[f"versus_{FEW_SHOT}"].items() >= paired_difference(before, after).json().items()
    assert measures["keeps its principle"]["rates"][ALIGNED]["value"] == 0.75
    assert measures["keeps its principle and makes sense"]["rates"][ALIGNED]["value"] == 0.25
    assert facts["all"][f"versus_{FEW_SHOT}"]["value"] == -0.5
    assert facts["command"]["rates"][ALIGNED]["value"] == 0.0
    assert facts["question"]["n"] == 1
    assert facts["declined"]["rates"][ALIGNED]["value"] == 1.0
    assert found["fluency"]["difference"]["value"] == pytest.approx(0.5)
    classifier = found["classifier"]
    assert (classifier["sensitivity"]["value"], classifier["false_positive"]["value"]) == (29 / 30, 1 / 30)
    assert classifier["enough"]
    assert not sense.summarise(CONFIG, rows, human[1:], asked, None)["classifier"]["enough"]


def test_answers_to_prompts_that_expect_nothing_keep_no_principle() -> None:
    rows = [judged(name, i, True, kept=None if i else False) for name in (FEW_SHOT, ALIGNED) for i in range(3)]
    measures = by_label(sense.summarise(CONFIG, rows, [], [], None)["measures"])
    assert measures["keeps its principle"]["n"] == 1
    assert measures["makes sense"]["n"] == 3


def test_a_run_that_can_judge_nothing_has_tables_without_numbers() -> None:
    found = sense.summarise(CONFIG, [], [], [], None)
    assert found["measures"][0]["rates"][ALIGNED]["value"] is None
    assert found["classifier"]["sensitivity"]["value"] is None
    assert found["fluency"]["difference"]["value"] is None


def test_without_the_few_shot_baseline_the_subject_stands_alone() -> None:
    """Two columns became one; a run that trains nothing is about the raw model."""
    for name in (ALIGNED, RAW):
        rows = [judged(name, i, i > 0, nats=-1.0) for i in range(4)]
        asked = [{"condition": name, "form": "question", "right": True, "declined": False}]
        found = sense.summarise(CONFIG, rows, [], asked, threshold=-3.0)
        makes = by_label(found["measures"])["makes sense"]
        assert {key: rate["value"] for key, rate in makes["rates"].items()} == {name: 0.75}
        assert not [key for key in makes if key.startswith("versus")]
        assert found["prompts"] == 4
        assert list(found["fluency"]["nats_per_token"]) == list(found["classifier"]["corrected"]) == [name]


def test_the_corrected_rate_has_neither_misses_nor_false_alarms() -> None:
    """Of 1,000 answers 60 % are on the question; 90 % of these and 25 % of the others pass."""
    found = [True] * 640 + [False] * 360
    true, posed = [True] * 900 + [False] * 100, [True] * 250 + [False] * 750
    estimate = corrected(found, true, posed)
    assert estimate.value == pytest.approx(0.6)
    assert 0.5 < estimate.low < 0.6 < estimate.high < 0.7
    assert corrected(found, true[880:920], posed[240:260]).high - estimate.value > estimate.high - estimate.value
    assert corrected([True] * 100, true, posed).value == 1.0
    assert math.isnan(corrected(found, posed, posed).value)
    assert math.isnan(corrected(found, [], posed).value)


def test_prompts_that_were_left_out_are_counted(tiny_base: Path, policy: Path, data: SenseData, tmp_path: Path) -> None:
    alike = [row.model_copy(update={"topic": "a"}) for row in data.evaluation[:5]]
    run(tiny_base, policy, data._replace(evaluation=[*alike, data.evaluation[5]]), tmp_path / "out")
    summary = read_json(tmp_path / "out" / "summary.json")
    assert (summary["left_out"], summary["prompts"]) == (4, 0)
