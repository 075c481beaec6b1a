"""The raters' statistics on labels of real people; skipped, and counted, where no folder with them is named.

STEERSMAN_PUBLIC_DATA names a folder with rater_disagreement/ and preferences/, see docs/algorithms/raters.md. Nobody
knows the truth of these labels: what is asserted are facts about the data and bounds that hold for any truth.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from steersman.rating.agreement import alpha, consistency, dawid_skene, preferences
from steersman.rating.blind_test import blind_test
from steersman.rating.raters import fit as fit_votes

DATA = Path(os.environ.get("STEERSMAN_PUBLIC_DATA", "no folder"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="STEERSMAN_PUBLIC_DATA names no folder with public data sets")


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """benchmarks/raters.py, whose readers of these files are used here too."""
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "raters.py"
    spec = importlib.util.spec_from_file_location("bench_raters", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_people_agree_more_than_chance_and_less_than_machines(bench: ModuleType) -> None:
    items = bench.lewidi(DATA / "rater_disagreement" / "lewidi_HS-Brexit_dev.jsonl.gz")
    found = alpha(items)
    assert (found.alpha.n, found.raters, found.labels) == (168, 6, 168 * 6)
    assert 0.1 < found.alpha.low < found.alpha.high < 0.8
    truth = dawid_skene(items)
    assert all(
        later > earlier - 1e-6
        for earlier, later in zip(truth.log_likelihood[1:], truth.log_likelihood[2:], strict=False)
    )
    assert all(truth.accuracy(rater) > 0.5 for rater in truth.confusion)


def test_three_people_on_pairs_of_answers(bench: ModuleType) -> None:
    """PandaLM: all three are believed and agree, and no bias is found where no side is known."""
    votes, origins, unusable = bench.pandalm(DATA / "preferences" / "pandalm_human_3raters.jsonl.gz")
    assert len(votes) == 3 * (999 - unusable)
    fit, alike = fit_votes(votes), consistency(votes)
    assert len(fit.raters) == 3
    for name, rater in fit.raters.items():
        assert rater.reliability > 5 * rater.reliability_error
        assert rater.side_bias == pytest.approx(0, abs=1e-6)
        assert alike[name].with_others.low > 0.5
    assert alpha(preferences(votes)).alpha.low > 0.3
    models = tuple(sorted(origins[0]))
    chosen = [i for i, origin in enumerate(origins) if tuple(sorted(origin)) == models]
    found = blind_test([votes[i] for i in chosen], [origins[i] for i in chosen], models)
    assert found["raters"] == 3
    assert found["design_effect"] > 1.5  # three votes about a prompt are not three observations
