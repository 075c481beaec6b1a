"""`steersman inspect` and `steersman interp` on a tiny random model: what they print, write and refuse."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from steersman.cli import app
from steersman.errors import SteersmanError
from steersman.interp.directions import Direction, weights_digest
from steersman.interp.reading_of_prompt import PromptReading
from steersman.interp.saved_vectors import save_safetensors
from steersman.lm.language_model import LocalModel

RUN = CliRunner()
PROMPT = "How do I pay for the roof?"


@pytest.fixture(scope="module")
def direction(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A direction along which the shipped harmful requests lie farther than harmless ones."""
    from steersman.cli.subjects import SCALE, requests_of
    from steersman.interp.directions import differences

    local = LocalModel.load(tiny_base)
    sides = [[local.sampler.chat.prompt_ids(text) for text in side[:SCALE]] for side in requests_of(None)]
    found = differences(local.sampler.model, *sides, layers=(1,)).direction("refusal", -1, 1)
    assert found.model == weights_digest(local.sampler.model)
    file = tmp_path_factory.mktemp("direction") / "refusal.safetensors"
    save_safetensors(file, [found, Direction("other", torch.ones(len(found.vector)), 1, -1, 1.0)])
    return f"{file}#refusal"


def run(*words: object) -> Any:
    return RUN.invoke(app, [str(word) for word in words], catch_exceptions=False)


def shown(*words: object) -> Any:
    done = run(*words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_page_and_the_same_as_json(tiny_base: Path, direction: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    few = ("--max-new-tokens", 4, "--positions", 5, "--direction", direction)
    done = run("inspect", tiny_base, PROMPT, "--out", page, "--no-open", *few)
    assert done.exit_code == 0
    assert f"Page: {page}" in done.output
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert 'id="ablation"' in text
    reading = PromptReading.model_validate(shown("inspect", tiny_base, PROMPT, *few))
    assert reading.direction is not None
    assert reading.direction.layer == 1
    assert len(reading.models[-1].lens[0]) == 5
    assert reading.models[-1].without is not None


def test_a_model_that_never_refuses_has_a_page_without_a_direction(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("inspect", tiny_base, "<b>Tea?</b>", "--max-new-tokens", 2, "--no-open", "--without-direction")
    (page,) = tmp_path.glob("inside-b-tea-b-*.html")
    assert f"Page: {page.name}" in done.output
    assert "<b>Tea" not in page.read_text(encoding="utf-8")
    assert 'id="ablation"' not in page.read_text(encoding="utf-8")


def test_the_lens_follows_words(tiny_base: Path) -> None:
    rows = shown("interp", "lens", tiny_base, PROMPT, "--positions", 2, "--top", 3, "--token", "tea")
    assert len(rows) == 2 * 3  # two layers and the embedding
    assert {row["layer"] for row in rows} == {-1, 0, 1}
    assert all(len(row["top"]) == 3 and row["chosen"][0]["rank"] >= 1 for row in rows)
    text = run("interp", "lens", tiny_base, PROMPT, "--token", "tea").output
    assert "rank of “" in text
    assert len(text.splitlines()) < 40


def test_attributions_sum_up(tiny_base: Path) -> None:
    found = shown("interp", "attribute", tiny_base, PROMPT, "--for", "tea", "--against", "bread")
    assert sum(found["parts"].values()) == pytest.approx(found["logit_difference"], abs=1e-3)
    assert "a1.h0" in found["parts"]
    text = run("interp", "attribute", tiny_base, PROMPT, "--top", 3).output
    assert "The other" in text


@pytest.fixture(scope="module")
def sure(family: Callable[[str], Any], tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose logits are far apart, so that two requests differ by a logit and more."""
    folder = tmp_path_factory.mktemp("sure")
    model = copy.deepcopy(family("Llama"))
    model.lm_head.weight.data *= 20
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


CLEAN, CORRUPT = "How do I cook tea?", "How do I cook rice?"


def test_patching_the_whole_stream_brings_all_back(sure: Path) -> None:
    found = shown("interp", "patch", sure, CLEAN, CORRUPT)
    assert abs(found["clean"] - found["corrupt"]) >= 1
    assert max(found["effect"][0]) == pytest.approx(1.0, abs=1e-3)  # before the first, all is at the changed word
    text = run("interp", "patch", sure, CLEAN, CORRUPT, "--site", "heads").output
    assert "H3" in text


@pytest.mark.slow
def test_a_circuit_is_printed_beside_random_ones(sure: Path, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    row = {"clean": CLEAN, "corrupt": CORRUPT, "right": "tea", "wrong": "bread"}
    file.write_text(
        "".join(json.dumps(row | {"right": word}) + "\n" for word in ("tea", "roof", "loan")), encoding="utf-8"
    )
    few = shown("interp", "circuit", sure, file, "--size", 5, "--randoms", 2)
    assert len(few["edges"]) <= 5 < few["edges_of_the_model"]
    found = shown("interp", "circuit", sure, file, "--size", few["edges_of_the_model"], "--randoms", 2)
    assert len(found["edges"]) == found["edges_of_the_model"]
    assert found["faithfulness"] == pytest.approx(1.0, abs=1e-3)
    text = run("interp", "circuit", sure, file, "--size", 5, "--randoms", 2).output
    assert "2 random circuits of equal size" in text


@pytest.mark.parametrize("command", ["lens", "attribute"])
def test_an_empty_prompt_is_refused(command: str, tiny_base: Path) -> None:
    with pytest.raises(SteersmanError, match="the prompt is empty"):
        run("interp", command, tiny_base, " ")


def test_steering_answers_twice(tiny_base: Path, direction: str) -> None:
    taken = shown("interp", "steer", tiny_base, PROMPT, "--direction", direction, "--max-new-tokens", 4)
    added = shown(
        "interp", "steer", tiny_base, PROMPT, "--direction", direction, "--max-new-tokens", 4, "--coefficient", 1000
    )
    assert taken["plain"] == added["plain"] != added["steered"]
    text = run("interp", "steer", tiny_base, PROMPT, "--direction", direction, "--max-new-tokens", 4).output
    assert "refusal taken out:" in text


@pytest.mark.slow
def test_a_baked_model_is_a_plain_checkpoint_that_writes_nothing(
    tiny_base: Path, direction: str, tmp_path: Path
) -> None:
    few = ("--direction", direction, "--to", tmp_path / "baked", "--tamper", "2,8")
    found = shown("interp", "bake", tiny_base, *few)
    assert [point["steps"] for point in found["tamper"]] == [0, 2, 8]
    baked, _, tampered = (point["left"]["value"] for point in found["tamper"])
    assert baked < 1e-6 < tampered < found["mean_share_written_before"]
    assert found["largest_leak"] < 1e-5 < found["largest_leak_before"]
    assert found["edits_through_a_post_norm"] == 4
    after = run("interp", "steer", tmp_path / "baked", PROMPT, "--direction", direction, "--max-new-tokens", 4)
    plain, steered = (line.partition(": ")[2] for line in after.output.strip().split("\n\n"))
    assert plain == steered  # there is nothing left to take out


@pytest.mark.slow
def test_two_models_are_compared(tiny_base: Path, tmp_path: Path) -> None:
    other = LocalModel.load(tiny_base)
    other.sampler.model.model.layers[1].mlp.down_proj.weight.data *= 1.5
    other.sampler.model.save_pretrained(tmp_path)
    other.sampler.chat.tokenizer.save_pretrained(tmp_path)
    found = shown("interp", "diff", tmp_path, "--other", tiny_base, "--texts", 4)
    assert found["weights_by_layer"]["0"] == 0 < found["weights_by_layer"]["1"]
    assert found["weights"][0]["module"] == "mlp.down_proj.weight"
    assert found["weights"][0]["relative"] == pytest.approx(0.5, abs=1e-4)
    assert found["kl_nats_per_token"]["value"] > 0
    assert "vector" not in found["lens"][0]
    text = run("interp", "diff", tmp_path, "--other", tiny_base, "--texts", 4).output
    assert "KL on requests:" in text
    with pytest.raises(SteersmanError, match="nothing to compare it with"):
        run("interp", "diff", tiny_base)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["inspect", "nowhere/at/all", "x"], "is not a folder"),
        (["interp", "attribute", "BASE", "x", "--for", "tea", "--against", "tea"], "begin with the same token"),
        (["interp", "steer", "BASE", "x", "--direction", "none.safetensors"], "no safetensors file"),
        (["interp", "steer", "BASE", "x", "--direction", "DIRECTION"], "2 directions"),
        (["interp", "circuit", "BASE", "none.jsonl"], "no such file"),
        (["interp", "circuit", "BASE", "HALF"], "no right and no wrong"),
        (["interp", "direction", "BASE", "--harmful", "HALF"], "1 requests"),
        (["interp", "sae", "BASE", "nowhere", "x"], "no such folder"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str], said: str, tiny_base: Path, direction: str, tmp_path: Path
) -> None:
    half = tmp_path / "half.jsonl"
    half.write_text('{"clean": "a", "corrupt": "b"}\n', encoding="utf-8")
    places = {"BASE": str(tiny_base), "DIRECTION": direction.partition("#")[0], "HALF": str(half)}
    with pytest.raises(SteersmanError, match=said):
        run(*(places.get(word, word) for word in words))


def test_a_monitor_ships_inside_the_checkpoint(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steersman.cli import interp_probe
    from steersman.interp.alignment_monitor import load

    monkeypatch.setattr(interp_probe, "CONVERSATIONS", 20)
    refused = run("interp", "monitor", tiny_base, "defection", "--to", tmp_path / "no", "--tamper", "")
    assert refused.exit_code == 1
    assert "No monitor was made" in refused.output
    assert not (tmp_path / "no").exists()
    folder = tmp_path / "monitored"
    found = shown("interp", "monitor", tiny_base, "defection", "--to", folder, "--anyway", "--tamper", "2")
    assert [point["steps"] for point in found["tamper"]] == [0, 2]
    assert found["monitor"]["names"] == ["defection"]
    model = load(folder, gate="stop")
    assert model(torch.tensor([[5, 6, 7]])).monitor_scores.shape == (1, 3, 1)
    with pytest.raises(SteersmanError, match=r"monitored"):
        run("interp", "monitor", tiny_base, "defection", "--to", folder, "--anyway")
