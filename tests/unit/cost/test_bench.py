"""`steersman bench`: what it counts, and that it runs on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from steersman.cli import app
from steersman.cost.bench import Bench, Machine, Phase


def test_the_share_of_the_ceiling_is_speed_over_speed() -> None:
    machine = Machine(threads=2, gemm_gflops_per_second=100.0, copy_gb_per_second=10.0)
    phase = Phase(name="x", tokens=50, gflop=120.0, seconds=2.0)
    assert phase.of_the_ceiling(machine) == pytest.approx(0.6)
    assert phase.tokens_per_second == 25.0


@pytest.mark.slow
def test_bench_measures_every_phase(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = CliRunner().invoke(app, ["bench", "--model", str(tiny_base), "--json"])
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    phases = {phase["name"]: phase for phase in found["phases"]}
    assert [phase["tokens"] for phase in phases.values()] == [2048, 2048, 1600, 1600, 2400]
    assert all(phase["gflop"] > 0 and phase["seconds"] > 0 for phase in phases.values())
    assert found["machine"]["gemm_gflops_per_second"] > 0.1
    monkeypatch.setattr("steersman.cost.bench.bench", lambda _: Bench.model_validate_json(answer.stdout))
    shown = CliRunner().invoke(app, ["bench"])
    assert "of the ceiling" in shown.stdout
    assert "rollouts" in shown.stdout
