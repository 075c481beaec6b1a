"""The first optimiser steps of each method, in loss and gradient norm, are TRL's on the same weights and ids.

TRL's numbers were recorded by benchmarks/engine/parity.py; compare.py beside it checks the same on gemma-3-270m.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RECORDED = json.loads((Path(__file__).parent / "trl.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any, Path, Path, Path]]:
    """The modules of the benchmark, and its tiny model and adapter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks" / "engine"))
        import ours

        import parity

        folder = tmp_path_factory.mktemp("parity")
        base, adapter = parity.prepare(folder)
        yield ours, parity, folder, base, Path(adapter)
        for name in ("ours", "parity", "workload", "compare"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "method",
    [
        "sft",
        "dpo",
        "reward",
        "grpo",
        "dpo-stage",
        "ipo-stage",
        "kto-stage",
        "kto-unpaired-stage",
        "reward-stage",
        "rloo-update",
        "ppo-update",
    ],
)
def test_loss_and_gradient_norm_are_those_of_trl(method: str, prepared: tuple[Any, Any, Path, Path, Path]) -> None:
    ours, parity, folder, base, adapter = prepared
    work = parity.work_of(method, base, folder)
    step = ours.METHODS[work["method"]](work, adapter, "full", None, False)
    assert len(RECORDED[method]) == parity.steps_of(method, work)
    for number, recorded in enumerate(RECORDED[method]):
        found = step(number)
        assert found["loss"] == pytest.approx(recorded["loss"], rel=1e-5, abs=1e-6)
        assert found["gradient_norm"] == pytest.approx(recorded["gradient_norm"], rel=1e-4)
