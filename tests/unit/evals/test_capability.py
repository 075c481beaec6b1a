"""Knowledge and perplexity by log-probability, against plain `transformers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steersman.evals import capability
from steersman.evals.capability import CapabilityConfig, jobs, knowledge_answers, passages
from steersman.lm.pretrained import load_tokenizer
from steersman.store import StageFolder

ITEMS: list[dict[str, Any]] = [
    {
        "question": "What is rice?",
        "options": ["a grain", "a bicycle", "a very long letter about the tax form"],
        "answer": 0,
    },
    {"question": "What flies?", "options": ["bread", "a bird"], "answer": 1},
]
PASSAGES = [
    {"text": "Bread is made of flour."},
    {"text": "Tea. "},
    {"text": "The roof is above the room, and rain falls on it."},
]


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "library"
    folder.mkdir()
    for name, rows in (("knowledge", ITEMS), ("neutral", PASSAGES)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(capability, "LIBRARY", folder)
    return folder


def run(base: Path, folder: Path, batch_size: int = 3) -> list[dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    capability.run(CapabilityConfig(batch_size=batch_size), base, None, StageFolder(folder, "raw_capability"))
    assert [file.name for file in folder.iterdir()] == ["capability.jsonl"]
    return [json.loads(line) for line in (folder / "capability.jsonl").read_text().splitlines()]


def reference(base: Path, prompt: str, completion: str) -> tuple[float, int]:
    """The summed log-probability of a completion, by plain `transformers`, one sequence at a time."""
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base).eval()
    head = [2, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    tail = tokenizer(completion, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
    found = torch.log_softmax(logits.double(), -1).gather(1, torch.tensor(tail)[:, None])
    return float(found.sum()), len(tail)


def test_scores_are_those_of_plain_transformers(tiny_base: Path, tmp_path: Path) -> None:
    rows = run(tiny_base, tmp_path / "out")
    assert [(r["kind"], r["item"], r["option"]) for r in rows] == [
        *[("knowledge", 0, j) for j in range(3)],
        *[("knowledge", 1, j) for j in range(2)],
        *[("neutral", i, 0) for i in range(3)],
    ]
    for row in rows:
        if row["kind"] == "knowledge":
            item = ITEMS[row["item"]]
            expected = reference(
                tiny_base,
                f"Question: {item['question']}\nAnswer:",
                " " + item["options"][row["option"]],
            )
        else:
            expected = reference(tiny_base, "", PASSAGES[row["item"]]["text"])
        assert row["logprob_nats"] == pytest.approx(expected[0], abs=1e-4)
        assert row["tokens"] == expected[1]


def test_batches_change_nothing(tiny_base: Path, tmp_path: Path) -> None:
    one, many = run(tiny_base, tmp_path / "one", 1), run(tiny_base, tmp_path / "many", 64)
    for a, b in zip(one, many, strict=True):
        assert a["logprob_nats"] == pytest.approx(b["logprob_nats"], abs=1e-4)


@pytest.mark.parametrize(("lines", "torn"), [(0, b""), (3, b""), (4, b'{"ki'), (5, b""), (6, b""), (8, b"")])
def test_a_killed_run_goes_on_to_the_same_file(
    lines: int, torn: bytes, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a write of which only some lines reached the disk: batches are cut as in an undisturbed run."""
    run(tiny_base, tmp_path / "whole")
    expected = (tmp_path / "whole" / "capability.jsonl").read_bytes()
    scored = {(r["kind"], r["item"], r["option"]): r for r in map(json.loads, expected.splitlines())}
    order = [(job.kind, job.item, job.option) for job in jobs(load_tokenizer(tiny_base), CapabilityConfig())]
    (tmp_path / "out").mkdir()
    partial = "".join(json.dumps(scored[key]) + "\n" for key in order[:lines]).encode() + torn
    (tmp_path / "out" / "scored.partial.jsonl").write_bytes(partial)
    sizes: list[int] = []
    honest = capability.sequence_logprobs

    def counted(model: Any, head: Any, examples: Any, pad_id: int) -> list[float]:
        sizes.append(len(examples))
        return honest(model, head, examples, pad_id)

    monkeypatch.setattr(capability, "sequence_logprobs", counted)
    run(tiny_base, tmp_path / "out")
    assert sizes == [3, 3, 2][lines // 3 :]
    assert (tmp_path / "out" / "capability.jsonl").read_bytes() == expected


def test_what_was_scored_is_not_scored_again(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    honest = capability.sequence_logprobs

    def failing(model: Any, head: Any, examples: Any, pad_id: int) -> list[float]:
        if len(sizes) == 2:
            sizes.append(0)
            raise KeyboardInterrupt
        sizes.append(len(examples))
        return honest(model, head, examples, pad_id)

    monkeypatch.setattr(capability, "sequence_logprobs", failing)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_base, tmp_path / "out")
    run(tiny_base, tmp_path / "out")
    assert sizes == [3, 3, 0, 2]


def test_limits_choose_the_first_items(tiny_base: Path) -> None:
    found = jobs(load_tokenizer(tiny_base), CapabilityConfig(knowledge_items=1, neutral_passages=2))
    assert sorted((j.kind, j.item, j.option) for j in found) == [
        *[("knowledge", 0, j) for j in range(3)],
        *[("neutral", i, 0) for i in range(2)],
    ]


def knowledge(item: int, option: int, logprob: float) -> dict[str, Any]:
    return {"kind": "knowledge", "item": item, "option": option, "logprob_nats": logprob, "tokens": 1}


def test_the_most_likely_option_is_the_answer() -> None:
    neutral = {"kind": "neutral", "item": 0, "option": 0, "logprob_nats": -9.0, "tokens": 4}
    first = [knowledge(0, 0, -5.0), knowledge(0, 1, -4.0), knowledge(0, 2, -30.0)]  # wrong: 1 instead of 0
    second = [knowledge(1, 1, -0.5), knowledge(1, 0, -2.0)]  # right, and in any order
    assert knowledge_answers([*second, neutral, *first]) == [False, True]
    assert knowledge_answers([neutral]) == []
    assert passages([*first, neutral]) == ([9.0], [4])


def test_the_digest_knows_the_items(library: Path) -> None:
    before = capability.items_digest()
    (library / "neutral.jsonl").write_text('{"text": "Other words."}\n')
    assert capability.items_digest() != before


def test_the_shipped_items_are_well_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    items = [json.loads(line) for line in (capability.LIBRARY / "knowledge.jsonl").read_text("utf-8").splitlines()]
    texts = [
        json.loads(line)["text"] for line in (capability.LIBRARY / "neutral.jsonl").read_text("utf-8").splitlines()
    ]
    assert len(items) >= 100
    assert len(texts) >= 20
    assert len({item["question"] for item in items}) == len(items)
    for item in items:
        assert 0 <= item["answer"] < len(item["options"]) == len(set(item["options"]))
    places = [item["answer"] / (len(item["options"]) - 1) for item in items]
    assert 0.35 < sum(places) / len(places) < 0.65  # the right answer does not sit in one place
