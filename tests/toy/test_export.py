"""An export with its model card: the metadata are the Hub's, the code in it runs, and it claims what was measured."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants

from pretend_hub import PretendHub, serving
from steersman.errors import ModelError
from steersman.report.format import FEW, rate
from steersman.runs import open_run
from steersman.store import Run, read_json

TOKEN = "hf_" + "secret" * 5


def card_of(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def executed(card: ModelCard) -> str:
    """What the card's Python code prints."""
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.S)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code.replace("max_new_tokens=200", "max_new_tokens=3"), "README.md", "exec"), {})
    return said.getvalue()


@pytest.mark.parametrize("kind", ["adapter", "merged", "reward_model"])
def test_the_code_of_the_card_runs(kind: str, finished: Path, tmp_path: Path) -> None:
    stage = kind if kind == "reward_model" else None
    card = card_of(open_run(finished).export(tmp_path / "out", merged=kind == "merged", stage=stage))
    assert executed(card).strip()
    assert card.data.library_name == ("peft" if kind == "adapter" else "transformers")
    assert card.data.pipeline_tag == ("text-classification" if stage else "text-generation")
    assert "proves the absence of none" in card.text


def test_the_card_holds_what_the_run_measured(finished: Path, tmp_path: Path) -> None:
    card, run = card_of(open_run(finished).export(tmp_path / "out")), open_run(finished)
    tables = run.tables()
    assert all(sentence.partition(":")[2] in card.text for sentence in tables["verdict"]["sentences"])
    rows = [*tables["overall"], *tables["principles"], *filter(None, [tables["pooled"]])]
    rows = [row for row in rows if row["n"] >= FEW]  # of fewer prompts, counts
    assert rows
    for row in rows:
        shown = [rate(row["rates"][name]) for name in ("raw", "raw_few_shot", "aligned")]
        assert f"| {' | '.join(shown)} |" in card.text
    assert card.data.eval_results
    passed = next(result for result in card.data.eval_results if result.metric_type == "pass_rate")
    assert passed.metric_value == round(tables["overall"][0]["rates"]["aligned"]["value"], 4)
    for stage in ("sft", "dpo", "rl"):
        key = read_json(finished / stage / "manifest.json")["key"][:12]
        assert re.search(rf"\| {stage} \|.*\| {key} \|", card.text)
    assert str(finished) not in card.text


def test_a_stage_that_was_not_measured_claims_nothing(finished: Path, tmp_path: Path) -> None:
    card = card_of(open_run(finished).export(tmp_path / "out", stage="sft"))
    assert "Nothing was measured of this model" in card.text
    assert "%" not in card.text
    assert card.data.eval_results is None
    assert "| rl |" not in card.text


def test_a_run_without_scores_claims_nothing(copy: Run, tmp_path: Path) -> None:
    shutil.rmtree(copy.path / "scores")
    assert "Nothing was measured of this model" in card_of(open_run(copy.path).export(tmp_path / "out")).text
    reward = card_of(open_run(copy.path).export(tmp_path / "reward", stage="reward_model"))
    assert "Held-out accuracy of the reward model" in reward.text  # it has a card of its own


def test_what_a_user_wrote_cannot_break_the_card(copy: Run, tmp_path: Path) -> None:
    text = json.loads((copy.path / "constitution.json").read_text())
    text["principles"][0]["title"] = "a | b <script>\n\n# Heading [x](http://evil)"
    (copy.path / "constitution.json").write_text(json.dumps(text))
    card = card_of(open_run(copy.path).export(tmp_path / "out")).text
    assert r"a \| b \<script> # Heading [x]\(http://evil)" in card


def test_the_card_of_a_gguf_file_says_how_llama_cpp_and_ollama_load_it(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steersman.runs.export_gguf", lambda merged, target, converter: target)
    card = card_of(open_run(finished).export(tmp_path / "out", gguf=tmp_path))
    assert f"llama-cli -m {finished.name}.gguf --jinja\n" in card.text
    assert f"-f {finished.name}.Modelfile\n" in card.text
    assert {"gguf", "steersman"} <= set(card.data.tags)
    assert card.data.library_name == "transformers"
    with pytest.raises(ModelError, match="a reward model has no form as a GGUF file"):
        open_run(finished).export(tmp_path / "reward", stage="reward_model", gguf=tmp_path)


# ── the Hub ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_an_export_is_uploaded_as_it_is(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(PretendHub(TOKEN)) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        out = open_run(finished).export(tmp_path / "out", merged=True, push="me/mine")
    assert hub.files == {str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*") if f.is_file()}
    assert 'pipeline("text-generation", "me/mine")' in hub.files["README.md"].decode()
    said = "".join(capsys.readouterr())
    assert "/me/mine" in said
    assert TOKEN not in said


def test_an_adapter_whose_base_nobody_else_has_is_not_uploaded(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="folder of this machine"):
        open_run(finished).export(tmp_path / "out", push="me/mine")
    assert not (tmp_path / "out").exists()
