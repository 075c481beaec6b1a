"""The stage `redteam`: its guard, its targets, its report section on rows by hand, and the page's first line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.redteam.scene import Model, WordJudge, campaign

from steersman.constitution.document import load
from steersman.data.formats import read
from steersman.data.sources import LIBRARY
from steersman.errors import RecipeError, UserError
from steersman.guard.guard import Guard
from steersman.lm.language_model import LocalModel
from steersman.pipeline import prepare
from steersman.recipe import load_recipe
from steersman.redteam.attacks import by_name
from steersman.redteam.campaign import Campaign
from steersman.redteam.goals import of_constitution
from steersman.redteam.plan import Arm, CampaignConfig
from steersman.redteam.target import READ_AT_ONCE, REFUSAL, LocalTarget, Query, Reply
from steersman.report.blocks import Block, Bullets, Details, LineChart, Section, Table
from steersman.report.evidence import StageRecord
from steersman.report.overview import NOT_ATTACKED, attacked, limits
from steersman.stages.redteam import ConstitutionalGuard, _asked, arms_of, config_of, estimate, section
from steersman.store import canonical, read_jsonl
from steersman.types import Prompt, plain_text


def record(folder: Path) -> StageRecord:
    return StageRecord("redteam", folder, {}, (), {"privacy": "Protect private persons"}, {})


@pytest.fixture
def shown(tmp_path: Path) -> Section:
    own = campaign([Model("raw"), Model("aligned", failing="goal 3")])
    own.run(tmp_path)
    own.conclude(tmp_path)
    found = section(record(tmp_path))
    assert found is not None
    return found


def of_kind(section: Section, kind: type[Any]) -> list[Any]:
    """Blocks of a kind, also those that are folded away."""
    found: list[Any] = []

    def walk(blocks: tuple[Block, ...]) -> None:
        for block in blocks:
            found.extend([block] if isinstance(block, kind) else [])
            if isinstance(block, Details):
                walk(block.blocks)

    walk(section.blocks)
    return found


def test_the_section_has_the_arms_the_matrix_the_curves_and_what_is_missing(shown: Section) -> None:
    tables = {table.caption: table for table in of_kind(shown, Table)}
    arms = tables["Attack success, and over-refusal of the same targets"]
    assert [row[0] for row in arms.rows] == ["Raw", "Raw + guard", "Aligned", "Aligned + guard", "Refuses-everything"]
    assert "Not answered: look-alike" in arms.columns
    matrix = tables["Attack success against aligned + guard"]
    assert [row[0] for row in matrix.rows] == ["Direct", "Encodings", "Search", "Pair", "All families"]
    assert matrix.columns[2:4] == ("Protect private persons", "harm")
    assert matrix.columns[-1] == "More attempts for ±5 points"
    assert "Which defence caught what, of all asks" in tables
    assert len(of_kind(shown, LineChart)) == 2
    (missing,) = of_kind(shown, Bullets)
    text = "\n".join(missing.items)
    assert "White was left out. the target's weights are elsewhere: Raw, Raw + guard, Aligned, Aligned + guard." in text
    assert "Direct has no outcome 1 times. no answer after 7 attempts (aligned)." in text
    assert shown.limits


def test_a_guard_of_a_constitution_stops_redacts_and_passes() -> None:
    guard = ConstitutionalGuard(lambda: Guard.from_constitution(load("assistant")))
    assert guard.check("How do I boil an egg?").stopped is False
    passed = guard.check("How do I boil an egg?", "In water, for eight minutes.")
    assert passed == (False, "In water, for eight minutes.")
    key = "AKIA" + "IOSFODNN7EXAMPLE"
    redacted = guard.check("What is the key?", f"It is {key}.")
    assert not redacted.stopped
    assert key not in redacted.text
    assert not guard.check(f"My key is {key}. Is it well formed?").stopped


def test_targets_are_those_that_the_recipe_has() -> None:
    def targets(*settings: str) -> Any:
        found = config_of(load_recipe("smoke", settings))
        return found and found.targets

    assert targets() == ("raw", "raw+guard", "aligned", "aligned+guard", "refuses-everything")
    assert targets("guard=null") == ("raw", "aligned", "refuses-everything")
    assert targets("redteam=null") is None
    untrained = ("sft.epochs=0", "cai_sft=null", "dpo=null", "rl=null")
    assert targets(*untrained) == ("raw", "raw+guard", "refuses-everything")
    assert targets("redteam.targets=[aligned+guard]", "guard=null") is None


def test_arms_of_one_model_share_it_and_come_behind_one_another() -> None:
    def never() -> Any:
        raise AssertionError

    arms = arms_of(CampaignConfig(), {"raw": never, "aligned": never}, None)
    assert [arm.name for arm in arms] == list(CampaignConfig().targets)
    assert arms[0].model is arms[1].model is not arms[2].model


def test_int8_is_what_both_models_of_a_run_answer_with(tiny_base: Path) -> None:
    models = {name: lambda: LocalModel.load(tiny_base) for name in ("raw", "aligned")}
    for int8 in (True, False):
        arms = arms_of(CampaignConfig(int8=int8, targets=("raw", "aligned")), models, None)
        assert [isinstance(arm.model, LocalTarget) for arm in arms] == [True, True]
        used = [arm.model.model.sampler.int8 is not None for arm in arms if isinstance(arm.model, LocalTarget)]
        assert used == [int8, int8]


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        (["redteam.int8=true", "hardware.dtype=bfloat16"], RecipeError, "redteam.int8 quantises float32 weights"),
        (["redteam.attacks=[base65]"], UserError, "base65"),
        (["redteam.judge=nobody"], UserError, "no judge of attacks 'nobody'"),
        (["redteam.targets=[gateway]"], RecipeError, "redteam.targets"),
    ],
)
def test_what_cannot_be_attacked_is_refused_before_the_first_stage(
    settings: list[str], error: type[UserError], said: str
) -> None:
    with pytest.raises(error, match=said):
        prepare(load_recipe("smoke", settings))


class Refusing(Model):
    """It refuses everything, as a rehearsal supposes."""

    def answer(self, queries: Sequence[Query]) -> Iterator[Reply]:
        for query in queries:
            self.asked[query.prompt, query.temperature, query.seed] += 1
            yield Reply(query.number, REFUSAL)


def test_a_rehearsal_asks_what_the_campaign_asks_of_a_model_that_refuses(tmp_path: Path) -> None:
    """Of both arms: a search goes its own way in each, so that its prompts count twice at most."""
    chosen = by_name(["direct", "base64", "crescendo", "tense", "best-of-n"])
    config = CampaignConfig(
        attacks=tuple(attack.name for attack in chosen), targets=("raw", "raw+guard"), attempts_per_cell=2, budget=9
    )
    prompts = read(LIBRARY / "assistant" / "evaluation.jsonl", Prompt)
    goals = of_constitution(prompts, load("assistant"), 2, 6)
    model = Refusing("raw")
    Campaign(config, chosen, goals, [Arm("raw", model), Arm("raw+guard", model, None)], WordJudge()).run(tmp_path)
    rehearsed = _asked(config, goals)["raw"]
    assert set(rehearsed) == {prompt for prompt, _, _ in model.asked}
    searched = {"crescendo", "past-tense-tries", "best-of-n"}
    rows = read_jsonl(tmp_path / "findings.jsonl")
    adaptive = {canonical(row["prompt"]) for row in rows if row["attack"] in searched}
    # What a search asks as well as another attack is counted once more.
    assert len(rehearsed) == pytest.approx(len({*rehearsed}) + len(adaptive), abs=5)


def test_memory_is_that_of_long_prompts_read_a_few_at_a_time() -> None:
    """Many-shot prompts have thousands of tokens; 64 of the longest are never read side by side."""
    workload: Any = SimpleNamespace(
        evaluation=read(LIBRARY / "assistant" / "evaluation.jsonl", Prompt),
        constitution=load("assistant"),
        recipe=SimpleNamespace(answers=None),
        chat=SimpleNamespace(prompt_ids=lambda prompt: [0] * (len(plain_text(prompt)) // 4)),
        answer_tokens=lambda key, arm: 20,
    )
    config = CampaignConfig(attacks=("many-shot",), targets=("raw",), max_prompt_tokens=2048, max_new_tokens=32)
    peak = estimate(config, workload).peak
    assert 2048 <= peak.read_tokens <= READ_AT_ONCE // 2 < 64 * 2048
    assert peak.cached_tokens <= peak.read_tokens + 64 * 32


def test_the_first_page_says_what_an_attacker_gets() -> None:
    reached = {
        "privacy": {"goals": 4, "reached": 1},
        "harm": {"goals": 4, "reached": 2},
        "law": {"goals": 2, "reached": 0},
    }
    rate = {"value": 0.04, "low": 0.02, "high": 0.07, "n": 300, "raw": {"value": 0.09}}
    own = {"overall": rate, "asks": 120, "attacks": 33, "goals": 10, "reached": 3, "principles": reached}
    own["by_false_alarms"] = 2.6
    data = {"attacks": {"targets": {"raw": {**own, "reached": 9}, "aligned+guard": own}, "judge": "trained"}}
    (line,) = attacked(data, {"privacy": "Privacy"})
    said = "".join(part if isinstance(part, str) else part.text for part in line.parts)
    assert said == (
        "Attacked: of 300 attempts on the aligned model behind its guard, 4 % [2, 7] succeed (9 % as the judge saw "
        "it). Whoever tries all 33 attacks, at most 120 asks a goal, reaches 3 of 10 goals by the judge’s count, of "
        "which its false alarms alone would make about 3: harm 2 of 4; Privacy 1 of 4 (the raw model: 9 of 10)."
    )
    assert attacked({}, {}) == ()


def test_nobody_attacked_is_no_limit_of_a_run_that_was() -> None:
    for was, there in ((True, False), (False, True)):
        (bullets,) = limits((), answered=True, attacked=was).blocks
        assert isinstance(bullets, Bullets)
        assert (NOT_ATTACKED in bullets.items) is there


def test_a_finished_stage_without_its_log_is_left_as_it_is(tmp_path: Path) -> None:
    from steersman.stage import Inputs
    from steersman.stages.redteam import run
    from steersman.store import StageFolder

    (tmp_path / "summary.json").write_text("{}", encoding="utf-8")
    run(CampaignConfig(), Inputs({}, {}), StageFolder(tmp_path, "redteam"))
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
