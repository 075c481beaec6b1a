"""A run's events reach trackers as named numbers by step; nothing is sent that nobody asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steersman.errors import UserError
from steersman.report import trackers
from steersman.report.trackers import Point, points, track
from steersman.store import Run

ROWS: list[dict[str, Any]] = [
    {"stage": "sft", "event": "start", "key": "k"},
    {"stage": "sft", "event": "setup", "steps": 2, "resumed_at_step": 0},
    {"stage": "sft", "event": "train", "step": 0, "loss": 2.0, "note": "x", "odd": None, "flag": True},
    {"stage": "sft", "event": "validation", "step": 1, "loss": 1.5},
    {"stage": "sft", "event": "finish"},
]
WANTED = [
    Point("sft", 0, {"sft/setup/steps": 2, "sft/setup/resumed_at_step": 0}),
    Point("sft", 0, {"sft/loss": 2.0}),
    Point("sft", 1, {"sft/validation/loss": 1.5}),
]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "run.json").write_text(json.dumps({"stages": ["sft"]}))
    (tmp_path / "recipe.yaml").write_text("name: x\nmodel: tiny-random\n")
    (tmp_path / "events.jsonl").write_text("".join(json.dumps({"time": 1.0, **row}) + "\n" for row in ROWS))
    return Run(tmp_path)


class Fake:
    """Any tracker's package: it writes down what it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        def called(*values: Any, **options: Any) -> Fake:
            self.calls.append((name, values, options))
            return self

        return called


def test_events_become_points(run: Run) -> None:
    assert list(points(run, follow=False)) == WANTED


def test_following_waits_for_the_last_stage_and_repeats_nothing(run: Run) -> None:
    file = run.path / "events.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]))
    waited: list[float] = []

    def more(seconds: float) -> None:
        waited.append(seconds)
        file.write_text("".join(lines))

    assert list(points(run, follow=True, sleep=more)) == WANTED
    assert len(waited) == 1


@pytest.mark.parametrize(
    ("kind", "names", "first"),
    [
        ("tensorboard", ["SummaryWriter", *["add_scalar"] * 4, "close"], ("sft/setup/steps", 2, 0)),
        ("wandb", ["init", *["log"] * 3, "finish"], ({**WANTED[0].values, "sft/step": 0},)),
        ("trackio", ["init", *["log"] * 3, "finish"], ({**WANTED[0].values, "sft/step": 0},)),
        ("mlflow", ["set_experiment", "start_run", "log_dict", *["log_metrics"] * 3, "end_run"], (WANTED[0].values,)),
    ],
)
def test_each_tracker_gets_them(
    kind: str, names: list[str], first: tuple[Any, ...], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake()
    monkeypatch.setattr(trackers, "_imported", lambda _: fake)
    assert track(run, kind) == 3
    assert [name for name, *_ in fake.calls] == names
    assert next(values for name, values, _ in fake.calls if name in ("add_scalar", "log", "log_metrics")) == first


def test_a_missing_package_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(UserError, match="the package mlflow is not installed"):
        track(run, "mlflow")
