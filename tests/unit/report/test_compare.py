"""Tables for the terminal: within 80 columns, and paired only where the questions are the same."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable

import pytest
from rich.console import Console, RenderableType

from steersman.errors import UserError
from steersman.report.compare import diff_table, differences, terminal_summary
from steersman.stats import paired_difference
from steersman.store import Run

from .conftest import ANSWERS, DATA, repeated


def printed(table: RenderableType, width: int = 80) -> str:
    file = io.StringIO()
    Console(file=file, width=width, highlight=False).print(table)
    return file.getvalue()


def test_summary_fits_80_columns_and_has_the_numbers(make: Callable[..., Run]) -> None:
    data, answers = repeated(3)
    lines = printed(terminal_summary(make(data=data, answers=answers))).splitlines()
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if line.startswith("refuse-harm"))
    assert row.split() == ["refuse-harm", "6", "0", "%", "0", "%", "100", "%", "[61,", "100]", "+100", "[45,", "100]"]
    pooled = next(i for i, line in enumerate(lines) if line.startswith("1 principle with fewer"))
    assert lines[pooled].split()[-10:] == ["3", "0", "of", "3", "3", "of", "3", "3", "of", "3"]
    assert not [line for line in lines if line.startswith("no-needless-refusal")]  # three prompts
    over_refusal = next(i for i, line in enumerate(lines) if line.startswith("over-refusal (lower is"))
    assert lines[over_refusal + 1].strip() == "better)"
    assert any(line.startswith("perplexity") and "x 1.037 [1.020, 1.050]" in line for line in lines)


def test_summary_leaves_out_rates_that_no_prompt_measures(make: Callable[..., Run]) -> None:
    run = make(data=[("Say anything.", "open", (), ())], answers={name: ["Yes."] for name in ANSWERS})
    lines = printed(terminal_summary(run)).splitlines()
    assert not [line for line in lines if line.startswith(("harmful requests", "pass rate"))]
    assert [line for line in lines if line.startswith("answer ends by itself")]


def test_long_names_and_markup_in_them_survive(make: Callable[..., Run]) -> None:
    name = "a-principle-whose-name-goes-on-and-on-and-does-not-end"
    data = [(q, name, e, t) for q, _, e, t in DATA]  # five of them judged
    text = printed(terminal_summary(make(data=data)))
    assert max(map(len, text.splitlines())) <= 80
    assert name[:20] in text


def test_differences_are_paired_by_prompt_in_any_order(make: Callable[..., Run]) -> None:
    a = make("a")
    order = [4, 2, 0, 1, 3, 5]
    changed = {name: [said[i] for i in order] for name, said in ANSWERS.items()}
    changed["aligned"][0] = "I cannot help with that."  # the look-alike, refused now
    b = make("b", data=[DATA[i] for i in order], answers=changed, epochs=3, steps=15)
    found = differences(a, b)
    assert found["settings"] == [{"name": "sft.epochs", "a": 2, "b": 3}]
    assert {change["name"] for change in found["inputs"]} >= {"data <- data_source", "aligned_answers <- sft"}
    assert found["versions"] == []
    overall, *rest = found["results"]
    assert all(row["paired"] for row in found["results"])
    expected = paired_difference([True, False, True, True, True], [True, False, True, True, False])
    assert overall["difference"] == pytest.approx(
        {"value": expected.value, "low": expected.low, "high": expected.high, "n": 5}
    )
    assert {row["label"]: row["difference"]["value"] for row in rest}["no-needless-refusal"] == -1.0
    assert "sft.epochs" in printed(diff_table(found))
    json.dumps(found, allow_nan=False)


def test_other_prompts_are_compared_unpaired(make: Callable[..., Run]) -> None:
    other = [("What about my pension?", *DATA[0][1:]), *DATA[1:]]
    found = differences(make("a"), make("b", data=other))
    rows = {row["label"]: row for row in found["results"]}
    assert not rows["pass rate"]["paired"]
    assert rows["pass rate"]["p_exact"] is None
    assert not rows["personal-finance"]["paired"]
    assert rows["refuse-harm"]["paired"]
    # Two Wilson intervals of 1 of 2, [0.0945, 0.9055] each: 0 +- sqrt(2) * 0.4055.
    interval = rows["personal-finance"]["difference"]
    assert interval["value"] == 0
    assert interval["high"] == pytest.approx(0.573420, abs=1e-6)
    assert interval["low"] == -interval["high"]
    text = printed(diff_table(found))
    assert "unpaired" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_run_against_itself_differs_in_nothing(run: Run) -> None:
    found = differences(run, run)
    assert found["settings"] == found["inputs"] == found["versions"] == []
    assert all(row["difference"]["value"] == 0 and row["p_exact"] == 1 for row in found["results"])
    text = printed(diff_table(found))
    assert "settings: no difference" in text
    assert "B against A, aligned models, all prompts: too few to tell." in text


def test_a_better_run_is_called_better(make: Callable[..., Run]) -> None:
    data, answers = repeated(8)
    worse = {**answers, "aligned": answers["raw"]}
    found = differences(make("a", data=data, answers=worse), make("b", data=data, answers=answers))
    assert {row["label"]: row["outcome"] for row in found["results"]} == {
        "pass rate": "better",
        "personal-finance": "better",
        "refuse-harm": "better",
        "no-needless-refusal": "better",
    }
    text = " ".join(printed(diff_table(found)).split())
    assert "all prompts: better. Of 3 principles: better in 3, worse in 0" in text
    back = differences(make("b", data=data, answers=answers), make("a", data=data, answers=worse))
    assert back["results"][0]["outcome"] == "worse"


def test_an_unfinished_run_cannot_be_compared(make: Callable[..., Run]) -> None:
    a, b = make("a"), make("b")
    shutil.rmtree(b.path / "scores")
    with pytest.raises(UserError, match="scores/manifest"):
        differences(a, b)


@pytest.mark.parametrize("given", [("raw", "aligned"), ("raw_few_shot", "aligned"), ("aligned",), ("raw",), ()])
def test_a_summary_has_columns_for_what_was_measured_alone(make: Callable[..., Run], given: tuple[str, ...]) -> None:
    run = make(answers={name: ANSWERS[name] for name in given}, knowledge=False)
    lines = printed(terminal_summary(run)).splitlines()
    assert max(map(len, lines)) <= 80
    shown = {"raw": "raw", "raw_few_shot": "few-shot", "aligned": "aligned"}
    if given:
        versus = [f"{shown[given[-1]]} - {shown[given[0]]}"] if len(given) > 1 else []
        heads = " ".join(["rate, per cent n", *(shown[name] for name in given), *versus])
        assert heads in [" ".join(line.split()) for line in lines]
    assert "answers: null" in " ".join(lines) or given
    found = differences(run, make("other"))
    assert found["cost"][0]["a"] == {"raw": None, "aligned": None}
    assert printed(diff_table(found))
