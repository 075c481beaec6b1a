"""The plan: what it decides, that it writes nothing, and that the work it counts is the work that is then done."""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.toy.conftest import PLAIN, SMALL

from steersman import pipeline
from steersman import plan as stages_module
from steersman.constitution import document
from steersman.cost import calibration as calibration_module
from steersman.cost.calibration import Calibration, calibrate
from steersman.cost.constitutional import CONSTITUTIONAL
from steersman.cost.work import WORK, Amounts, Largest, Subject, schedule, spread
from steersman.errors import ModelError, RecipeError
from steersman.evals import capability, reward_card
from steersman.lm import compact_vocabulary as compact_module
from steersman.lm import head as head_module
from steersman.lm import pretrained, sampling, shared_prefix
from steersman.lm.chat_format import chat_format
from steersman.lm.frozen_trunk import FrozenTrunk
from steersman.lm.sampling import SamplingConfig
from steersman.pipeline import STAGES
from steersman.plan import Plan, plan, table
from steersman.recipe import Recipe, load_recipe
from steersman.store import Run, StageFolder
from steersman.train import dpo, reward_model, sft
from steersman.train.rl import actor, ppo
from steersman.train.rl import loop as rl
from steersman.train.rl.loop import Judges, Rows
from steersman.train.rl.ppo import Ppo, PpoConfig
from steersman.train.rl.rloo import Rloo
from steersman.types import Comparison, Demonstration, Prompt

TINY = (
    *PLAIN,
    "examples.limit_demonstrations=24",
    "examples.limit_evaluation=6",
    "examples.validation_share=0.3",
    "sft.epochs=1",
    "sft.max_length=48",
    "answers.sampling.max_new_tokens=3",
    "answers.few_shot_examples=1",
    "capability.knowledge_items=2",
    "capability.neutral_passages=1",
)

TRAINED = ("sft", "dpo", "reward_model", "second_judge", "cost_model", "rl")


def tiny(*settings: str) -> Recipe:
    return load_recipe("smoke", [*TINY, *settings])


NAMES = [stage.name for stage in pipeline.stages_of(tiny())]


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


def states(planned: Plan) -> dict[str, str]:
    return {stage.name: stage.state for stage in planned.stages}


def reasons(planned: Plan) -> dict[str, str]:
    return {stage.name: stage.why for stage in planned.stages}


def shown(planned: Plan, width: int = 200) -> str:
    written = io.StringIO()
    Console(width=width, file=written).print(table(planned))
    return written.getvalue()


@pytest.fixture(autouse=True)
def _short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_module, "REPEAT_SECONDS", 0.0)
    monkeypatch.setattr(calibration_module, "LONG_CONTEXT", 32)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny recipe, all stages done. Read only."""
    folder = tmp_path_factory.mktemp("plan") / "run"
    pipeline.align(tiny(), folder, echo=lambda _: None)
    return folder


@pytest.fixture
def subject(tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path) -> Subject:
    from transformers import AutoConfig

    return Subject(
        recipe=tiny("sft.max_length=128"),
        constitution=document.load("assistant"),
        earlier=Run(tmp_path / "none"),
        config=AutoConfig.from_pretrained(tiny_base, local_files_only=True),
        chat=chat_format(pretrained.load_tokenizer(tiny_base)),
        tokenizer_seconds=0.1,
        train=demonstrations[:44],
        validation=demonstrations[44:55],
        comparisons=[answered(row) for row in demonstrations[:20]],
        held_out=[answered(row) for row in demonstrations[20:27]],
        prompts=[Prompt(prompt=row.prompt) for row in demonstrations[:30]],
        held_out_prompts=[Prompt(prompt=row.prompt) for row in demonstrations[30:40]],
        evaluation=[Prompt(prompt=row.prompt) for row in demonstrations[55:]],
    )


def answered(row: Demonstration) -> Comparison:
    return Comparison(prompt=row.prompt, options=(row.completion, "No."), ranking=(1, 2))


def changed(subject: Subject, *settings: str) -> Subject:
    """The subject under another recipe."""
    return replace(subject, recipe=tiny("sft.max_length=128", *settings))


# ── what runs ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_new_run_is_all_new_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEERSMAN_CACHE", str(tmp_path / "cache"))
    planned = plan(tiny())
    assert list(tmp_path.iterdir()) == []
    assert set(states(planned).values()) == {"will run"}
    assert reasons(planned)["data"] == reasons(planned)["sft"] == "new"
    assert reasons(planned)["aligned_answers"] == "waits for rl"
    assert planned.run == "runs/smoke"
    assert planned.seconds is not None
    assert planned.seconds > 0


def test_the_time_of_vllm_is_not_foretold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    planned = plan(tiny("rl.rollouts.engine=vllm"))
    assert {stage.name for stage in planned.stages if stage.seconds is None} == {"rl"}
    assert planned.seconds is None
    assert "Not foretold: the time that another program takes (rl)." in shown(planned)


def test_finished_run_is_reused_without_calibration(finished: Path) -> None:
    before = tree(finished)
    planned = plan(tiny(), finished)
    assert states(planned) == dict.fromkeys(NAMES, "reused")
    assert planned.calibration is None
    assert planned.seconds == 0
    assert "Nothing to do" in shown(planned)
    assert tree(finished) == before


def test_changed_field_is_named_and_what_follows_waits(finished: Path) -> None:
    before = tree(finished)
    planned = plan(tiny("sft.epochs=3"), finished)
    assert tree(finished) == before
    assert states(planned) == {
        **dict.fromkeys(("data", "raw_answers", "raw_capability"), "reused"),
        **dict.fromkeys(
            (
                *("sft", "dpo", "reward_model", "reward_card", "second_judge", "cost_model", "rl"),
                *("aligned_answers", "aligned_capability", "scores"),
            ),
            "will run",
        ),
    }
    assert reasons(planned)["sft"] == "changed: config.epochs: 1.0 -> 3.0"
    assert reasons(planned)["aligned_capability"] == "waits for rl"
    assert "config.epochs: 1.0 -> 3.0" in shown(planned)
    assert [stage.seconds for stage in planned.stages[:3]] == [0, 0, 0]


def test_data_that_trains_alike_does_not_train_again(finished: Path) -> None:
    """Only the evaluation prompts change: the data stage runs, and its files for training come out the same."""
    planned = plan(tiny("examples.limit_evaluation=5"), finished)
    assert reasons(planned)["data"] == "changed: config.limit_evaluation: 6 -> 5"
    assert "inputs.data/evaluation.jsonl" in reasons(planned)["raw_answers"]
    assert states(planned)["sft"] == "reused"


def test_interrupted_stage_continues(finished: Path, tmp_path: Path) -> None:
    import json
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    manifest = json.loads((folder / "sft" / "manifest.json").read_text(encoding="utf-8"))
    (folder / "sft").rename(folder / "sft.partial")
    (folder / "sft.partial" / "pending.json").write_text(json.dumps({"key": manifest["key"]}), encoding="utf-8")
    assert reasons(plan(tiny(), folder))["sft"] == "continues where it stopped"


@pytest.mark.parametrize("until", ["data", "sft"])
def test_until_limits_the_stages(finished: Path, until: str) -> None:
    assert list(states(plan(tiny(), finished, until=until))) == NAMES[: NAMES.index(until) + 1]


def test_unknown_names_are_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no stage 'train'"):
        plan(tiny(), tmp_path / "run", until="train")
    with pytest.raises(ModelError, match="no model is called 'gemma'"):
        plan(tiny("model=gemma"), tmp_path / "run")
    with pytest.raises(ModelError, match="no such GGUF file"):
        plan(tiny("model=models/absent.gguf"), tmp_path / "run")


# ── models that are not there yet ────────────────────────────────────────────────────────────────────────────────────
def test_packaged_weights_that_are_not_prepared_stay_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Subject] = []

    def calibrate_nothing(subject: Subject) -> Calibration:
        seen.append(subject)
        return prices(train_tokens=1.0)

    monkeypatch.setitem(sys.modules, pretrained._PACKAGE, SimpleNamespace(EXPECTED_SHA256="0" * 64))
    monkeypatch.setenv("STEERSMAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stages_module, "calibrate", calibrate_nothing)
    planned = plan(tiny("model=gemma-3-270m"), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    assert seen[0].config.num_hidden_layers == 18
    assert planned.prepare_seconds == 60
    assert planned.seconds == pytest.approx(61 + sum(WORK[stage](seen[0]).amounts.train_tokens for stage in TRAINED))
    assert "converted once" in " ".join(shown(planned).split())


def test_model_of_the_hub_that_is_not_downloaded_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    planned = plan(tiny("model=nobody/nothing"), tmp_path / "run")
    assert planned.seconds is None
    assert planned.peak_mb is None
    assert "nobody/nothing is downloaded first" in shown(planned)
    assert ": ?, ? of memory" in shown(planned)
    assert not (tmp_path / "run").exists()


# ── work ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
class Counting:
    """Counts, while a stage runs, the tokens that pass through the trunk and positions that pass through the head."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
        self.patch, self.counts = monkeypatch, Counter[str]()
        self.trunk(module)
        self.trunk(sampling)
        self.rows(module, "token_logprobs", "scored_tokens")
        self.rows(sampling, "draw", "decode_rows", "decode_steps")

    def trunk(self, module: Any) -> None:
        """Count tokens trained on and read; single ones are the sampler's steps, counted where they are drawn."""

        def counted(model: Any) -> Callable[..., Any]:
            def forward(**inputs: Any) -> Any:
                if module is not sampling or inputs["input_ids"].shape[1] > 1:
                    kind = "train_tokens" if torch.is_grad_enabled() else "read_tokens"
                    self.counts[kind] += inputs["input_ids"].numel()
                return head_module.trunk(model)(**inputs)

            return forward

        self.patch.setattr(module, "trunk", counted)

    def rows(self, owner: Any, name: str, kind: str, calls: str = "", argument: int = 0) -> None:
        """Count the rows of an argument of a function and, if they have a name, its calls."""
        function = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            self.counts[kind] += len(arguments[argument])
            if calls:
                self.counts[calls] += 1
            return function(*arguments, **named)

        self.patch.setattr(owner, name, counted)

    def expect(self, amounts: Amounts) -> None:
        """Fail unless the amounts are what was counted."""
        names = ("train_tokens", "train_scored", "read_tokens", "scored_tokens", "decode_rows", "decode_steps")
        assert {name: getattr(amounts, name) for name in names} == {name: self.counts[name] for name in names}


@pytest.mark.parametrize("vocabulary", ["full", "compact"])
@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["sft.micro_batch_size=3"],
        ["sft.replay.rows=9", "sft.replay.tokens=8"],
        ["sft.opening.passes={ask-first: 2}"],
    ],
)
def test_work_of_sft_is_what_sft_does(
    subject: Subject,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vocabulary: str,
    settings: list[str],
) -> None:
    always = ("sft.epochs=1.5", "sft.eval_every_steps=3", "sft.compact.extra_rows=9", f"sft.vocabulary={vocabulary}")
    s = changed(subject, *always, *settings)
    counting = Counting(monkeypatch, sft)
    counting.rows(compact_module.CompactVocabulary, "outside_mass", "scored_tokens", argument=1)
    counting.rows(compact_module.CompactVocabulary, "nll", "train_scored", argument=1)
    counting.rows(sft, "completion_nll", "train_scored")
    counting.rows(compact_module.CompactVocabulary, "divergence", "train_scored", argument=1)
    counting.rows(sft, "divergence", "train_scored")
    counting.rows(compact_module, "compact_vocabulary", "scored_tokens", argument=1)
    probe = compact_module._scored_states

    def counted_probe(model: Any, example: Any) -> Any:
        counting.counts["read_tokens"] += len(example.token_ids)
        return probe(model, example)

    monkeypatch.setattr(compact_module, "_scored_states", counted_probe)
    (tmp_path / "out").mkdir()
    sft.run(s.recipe.sft, tiny_base, "tiny", s.train, s.validation, StageFolder(tmp_path / "out", "sft"))
    counting.expect(WORK["sft"](s).amounts)


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_work_of_dpo_is_what_dpo_does(
    subject: Subject, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    s = changed(subject, f"dpo.loss={loss}", "dpo.epochs=1.5", "dpo.batch_size=8", "dpo.micro_batch_size=3")
    for name in ("sft", "dpo"):
        (tmp_path / name).mkdir()
    sft.run(s.recipe.sft, tiny_base, "tiny", s.train, [], StageFolder(tmp_path / "sft", "sft"))
    counts, read, config = Counter[str](), shared_prefix.shared_prefix_hidden, s.recipe.dpo
    assert config is not None

    def counted(model: Any, batch: Any, at: Any, lower: Any) -> Any:
        kind = "train_tokens" if torch.is_grad_enabled() else "read_tokens"
        counts[kind] += batch.token_ids.numel()
        counts[kind.replace("tokens", "scored")] += len(at)
        return read(model, batch, at, lower)

    monkeypatch.setattr(shared_prefix, "shared_prefix_hidden", counted)
    dpo.run(config, tiny_base, tmp_path / "sft", s.comparisons, StageFolder(tmp_path / "dpo", "dpo"))
    found = WORK["dpo"](s).amounts
    assert found.train_tokens == counts["train_tokens"]
    assert found.train_scored == pytest.approx(counts["train_scored"] + counts["read_scored"] / 3)
    # A foreign answer may be longer than a prompt's own.
    assert found.read_tokens == pytest.approx(counts["read_tokens"], rel=0.15 if loss == "kto" else 1e-9)


@pytest.mark.parametrize("layers", [1, 2])
def test_work_of_the_reward_model_is_what_it_does(
    subject: Subject, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: int
) -> None:
    settings = (f"sft.lora.trainable_layers={layers}", "reward_model.epochs=2", "reward_model.micro_batch_size=3")
    s = changed(subject, *settings)
    assert s.recipe.reward_model is not None
    for name in ("sft", "reward_model", "reward_card"):
        (tmp_path / name).mkdir()
    sft.run(s.recipe.sft, tiny_base, "tiny", s.train, [], StageFolder(tmp_path / "sft", "sft"))
    counts, read, lower = Counter[str](), reward_model.shared_prefix_hidden, reward_model.compute_frozen_states

    def counted(model: Any, batch: Any, at: Any, below: Any = None) -> Any:
        counts["train_tokens" if torch.is_grad_enabled() else "read_tokens"] += batch.token_ids.numel()
        return read(model, batch, at, below)

    def counted_lower(model: Any, batch: Any, below: Any) -> Any:
        if below is not None:
            counts["lower_tokens"] += batch.token_ids.numel()
        return lower(model, batch, below)

    monkeypatch.setattr(reward_model, "shared_prefix_hidden", counted)
    monkeypatch.setattr(reward_model, "compute_frozen_states", counted_lower)
    out = StageFolder(tmp_path / "reward_model", "reward_model")
    reward_model.run(s.recipe.reward_model, tiny_base, tmp_path / "sft", s.comparisons, s.train, out)
    found = WORK["reward_model"](s).amounts
    assert {name: getattr(found, name) for name in counts} == counts
    assert ("lower_tokens" in counts) == (layers == 1)
    counts.clear()
    judge = reward_model.RewardModel.load(tiny_base, out.path).judge
    reward_card.run(judge, s.held_out, s.train, StageFolder(tmp_path / "reward_card", "reward_card"))
    assert WORK["reward_card"](s).amounts.read_tokens == counts["read_tokens"]


def counted_reinforcement(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Filled, while reinforcement learning runs, with the tokens of each kind of work."""
    counts = Counter[str]()

    def counting(module: Any, name: str, place: int, kind: str, learning: str = "") -> None:
        function = getattr(module, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            counted_one = arguments[place]
            tokens = counted_one.token_ids.numel() if hasattr(counted_one, "token_ids") else len(counted_one)
            counts[learning if learning and torch.is_grad_enabled() else kind] += tokens
            counts[kind + " calls"] += 1
            return function(*arguments, **named)

        monkeypatch.setattr(module, name, counted)

    counting(actor, "shared_prefix_logprobs", 1, "read", "train_tokens")
    counting(ppo, "shared_prefix_hidden", 1, "read", "train_tokens")
    counting(reward_model, "shared_prefix_hidden", 1, "judged")
    counting(sampling, "draw", 0, "rollout_rows")
    counting(actor, "entropies", 0, "looked_at")
    counting(actor, "shared_prefix_hidden", 1, "watched")

    below = FrozenTrunk.read

    def counted_below(self: FrozenTrunk, **inputs: Any) -> Any:
        counts["laid_out"] += inputs["input_ids"].numel()
        return below(self, **inputs)

    monkeypatch.setattr(FrozenTrunk, "read", counted_below)

    def reading(model: Any) -> Callable[..., Any]:
        def forward(**inputs: Any) -> Any:
            ids = inputs["input_ids"]
            counts["sampled"] += ids.numel() if ids.shape[1] > 1 else 0
            return head_module.trunk(model)(**inputs)

        return forward

    monkeypatch.setattr(sampling, "trunk", reading)
    return counts


@pytest.mark.parametrize("algorithm", ["rloo", "ppo"])
@pytest.mark.parametrize("layers", [1, 2])
def test_work_of_reinforcement_is_what_it_does(
    subject: Subject, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: int, algorithm: str
) -> None:
    """But for the price of the upper layers alone, which a reading after the frozen ones has."""
    shape = f"{{algorithm: {algorithm}, steps: 3, updates: 2, micro_batch_size: 3, checkpoint_every_steps: 2, "
    shape += "rollouts: {prompts: 4, answers: 3, max_new_tokens: 8}, watch: {every_steps: 2, prompts: 5}}"
    s = changed(subject, f"sft.lora.trainable_layers={layers}", f"rl={shape}")
    config = s.recipe.rl
    assert config is not None
    assert s.recipe.reward_model is not None
    for name in ("sft", "reward", "rl"):
        (tmp_path / name).mkdir()
    sft.run(s.recipe.sft, tiny_base, "tiny", s.train, [], StageFolder(tmp_path / "sft", "sft"))
    out = StageFolder(tmp_path / "reward", "reward_model")
    one = s.recipe.reward_model.model_copy(update={"members": 1})
    reward_model.run(one, tiny_base, tmp_path / "sft", s.comparisons, s.train, out)
    s = replace(s, recipe=s.recipe.model_copy(update={"reward_model": one}))
    counts = counted_reinforcement(monkeypatch)
    # Answers have the length that is expected: none ends by itself.
    monkeypatch.setattr(type(s), "like_demonstrations", lambda self, limit: limit)
    make = reward_model.chat_format
    monkeypatch.setattr(reward_model, "chat_format", lambda *given: replace(make(*given), stop_ids=frozenset()))
    rows = Rows(s.prompts, s.held_out_prompts, s.train)
    start, stage = tmp_path / "sft", StageFolder(tmp_path / "rl", "rl")
    judges = Judges(second=tmp_path / "reward")
    kind = Ppo(config) if isinstance(config, PpoConfig) else Rloo(config)  # type: ignore[arg-type]
    rl.run(config, kind, tiny_base, start, tmp_path / "reward", rows, stage, judges)
    found = WORK["rl"](s).amounts
    assert found.train_tokens == counts["train_tokens"]
    assert found.lower_tokens == counts["laid_out"]
    assert (counts["laid_out"] > 0) == (layers == 1)
    assert (found.rollout_rows, found.rollout_steps) == (counts["rollout_rows"], counts["rollout_rows calls"])
    assert found.scored_tokens == 3 * counts["looked_at"]
    assert found.checkpoints == 1
    upper = layers / 2 * (counts["judged"] + counts["read"] + counts["watched"])
    assert found.read_tokens == pytest.approx(counts["sampled"] + upper)


def test_frozen_layers_read_every_text_once_or_in_every_step(subject: Subject) -> None:
    always = ("sft.lora.trainable_layers=1", "sft.opening.passes={ask-first: 2}")
    kept = WORK["sft"](changed(subject, *always)).amounts
    rows = {tuple(e.token_ids) for e in (*subject.train_examples, *subject.validation_examples)}
    assert kept.lower_tokens == sum(map(len, rows))  # openings begin these texts
    anew = WORK["sft"](changed(subject, *always, "sft.trunk_cache_mb=0")).amounts
    assert anew == kept._replace(lower_tokens=anew.train_tokens)
    assert WORK["sft"](subject).amounts.lower_tokens == 0


def test_work_of_capability_is_what_capability_does(
    subject: Subject, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = changed(subject, "capability.batch_size=3")
    counting = Counting(monkeypatch, capability)
    (tmp_path / "out").mkdir()
    capability.run(s.recipe.capability, tiny_base, None, StageFolder(tmp_path / "out", "raw_capability"))
    counting.expect(WORK["raw_capability"](s).amounts)


@pytest.mark.parametrize("preamble", [None, "Be plain and short."])
def test_schedule_is_the_samplers(
    subject: Subject, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, preamble: str | None
) -> None:
    counting = Counting(monkeypatch, capability)
    prompts = [row.prompt for row in subject.train[:21]]
    config = SamplingConfig(max_new_tokens=60, temperature=3.0, batch_size=8)
    chat = replace(subject.chat, stop_ids=frozenset(range(40)))  # so that answers end after every number of tokens
    sampler = sampling.Sampler(pretrained.load_model(tiny_base), chat)
    said = list(sampler.generate(sampling.Request(prompts, config, preamble=preamble)))
    said.sort(key=lambda answer: (answer.prompt_tokens, answer.index))
    assert len({len(answer.token_ids) for answer in said}) > 5
    first = said[0]
    prefix = len(chat.prompt_ids(prompts[first.index], preamble)) - first.prompt_tokens
    lengths = [len(answer.token_ids) for answer in said]
    amounts, most = schedule([answer.prompt_tokens for answer in said], lengths, prefix, config.batch_size)
    counting.expect(amounts)
    assert most >= 8 * (prefix + first.prompt_tokens)


@pytest.mark.parametrize("mean", [5, 32, 48, 96])
def test_spread_has_the_mean_that_was_asked_for(mean: int) -> None:
    lengths = spread(mean, 96, 240)
    assert abs(sum(lengths) / 240 - mean) < 1
    assert min(lengths) >= 1
    assert max(lengths) <= 96


def test_earlier_answers_tell_how_long_answers_are(finished: Path, subject: Subject) -> None:
    later = replace(subject, earlier=Run(finished), recipe=tiny("answers.sampling.max_new_tokens=30"))
    assert later.answer_tokens("aligned_answers", "aligned") == 30  # the tiny model never ends by itself
    assert later.answer_tokens("raw_answers", "raw") == 30
    assert changed(subject, "answers.sampling.max_new_tokens=30").answer_tokens("raw_answers", "raw") == 10


def test_every_stage_that_uses_the_model_has_its_work() -> None:
    assert {stage.name for stage in STAGES if "base" in stage.inputs} == set(stages_module.WORK)


def test_estimate_scales_with_epochs(subject: Subject) -> None:
    one, three = (WORK["sft"](changed(subject, f"sft.epochs={n}", "sft.eval_every_steps=99")) for n in (1, 3))
    calibration = prices(train_tokens=0.01, train_scored=0.02)
    assert calibration.seconds(three.amounts) == pytest.approx(3 * calibration.seconds(one.amounts), rel=0.02)
    assert three.amounts.train_scored == 3 * one.amounts.train_scored
    assert three.largest.train_scored == one.largest.train_scored


# ── prices ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def prices(**each: float) -> Calibration:
    return Calibration(
        spent_seconds=1.0,
        processor_share=0.9,
        prices=Amounts(**each),
        process_mb=100,
        weight_bytes=50 * 2**20,
        trainable_bytes=2**20,
        activation_bytes_per_token=2**10,
        layer_bytes_per_token=2**9,
        cache_bytes_per_token=2**8,
        layers=2,
        vocabulary=1000,
    )


def test_seconds_and_memory_by_hand() -> None:
    calibration = prices(loads=3.0, decode_rows=0.5)
    assert calibration.seconds(Amounts(loads=2, decode_rows=10, read_tokens=99)) == 11.0
    # training: 4 copies of what learns, 30 MiB of activations and half as much that the allocator keeps, no logits
    assert calibration.peak_mb(Largest(train_tokens=30 * 2**10)) == 100 + 50 + 4 + 45
    # reading: one of two layers' activations, and the cache; two tiles of logits of at most 256 MiB
    assert calibration.peak_mb(Largest(read_tokens=2**11, cached_tokens=2**12)) == 100 + 50 + 1 + 1
    assert calibration.peak_mb(Largest(scored=10**6)) == 100 + 50 + 512


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # peft says so of GPT-2
@pytest.mark.parametrize("name", ["Gemma3", "Gemma2", "Llama", "Qwen3", "GPT2", "GPTNeoX", "Phi", "Cohere"])
def test_calibration_knows_the_size_of_any_model(
    subject: Subject, family: Callable[[str], Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One and two layers give the exact size of five; every price is a finite number and reading costs something."""
    from copy import deepcopy

    from transformers import AutoModelForCausalLM

    config = deepcopy(family(name).config)
    config.num_hidden_layers = 5
    if getattr(config, "layer_types", None):
        config.layer_types = (config.layer_types * 3)[:5]
    state = torch.get_rng_state()
    found = calibrate(replace(subject, config=config))
    assert torch.equal(torch.get_rng_state(), state)
    assert found.weight_bytes == 4 * sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    assert found.layers == 5
    upper = calibrate(replace(subject, config=config, recipe=tiny("sft.lora.trainable_layers=2")))
    assert 2 * found.trainable_bytes == 5 * upper.trainable_bytes
    assert upper.activation_bytes_per_token < found.activation_bytes_per_token
    assert found.activation_bytes_per_token > 5 * config.hidden_size * 4
    assert all(0 <= price < 60 for price in found.prices)
    assert min(found.prices.train_tokens, found.prices.read_tokens, found.prices.scored_tokens) > 0


def test_weights_are_not_counted_as_activations() -> None:
    layer = torch.nn.Linear(64, 64, bias=False).requires_grad_(False)
    row = torch.ones(2, 64, requires_grad=True)
    kept = calibration_module._saved_bytes(layer, lambda: torch.relu(layer(row)).sum().backward())  # type: ignore[no-untyped-call]
    assert kept == 2 * 64 * 4  # of relu; the layer keeps its weight alone


def test_calibration_follows_the_recipe(subject: Subject) -> None:
    from transformers import AutoModelForCausalLM

    whole = calibrate(changed(subject, "rl=null", "reward_model=null", "sft.method=full"))
    assert whole.trainable_bytes == whole.weight_bytes
    adapters = calibrate(changed(subject, "sft.vocabulary=compact", "sft.compact.extra_rows=5"))
    rank, hidden = 4, subject.config.hidden_size
    model = AutoModelForCausalLM.from_config(subject.config)
    linear = [m for m in model.model.modules() if isinstance(m, torch.nn.Linear)]
    assert hidden == 64
    assert adapters.trainable_bytes == 4 * rank * sum(m.in_features + m.out_features for m in linear)


# ── what people read ─────────────────────────────────────────────────────────────────────────────────────────────────
def test_table_fits_a_terminal_of_80_columns(finished: Path) -> None:
    planned = plan(tiny("sft.epochs=3", "sft.optimiser.learning_rate=0.01", "sft.lora.rank=2"), finished)
    text = shown(planned, width=80)
    assert max(len(line) for line in text.splitlines()) <= 80
    starts = [line.split()[0] for line in text.splitlines() if line.startswith(tuple(NAMES))]
    assert starts == NAMES
    for change in (
        "config.epochs: 1.0 -> 3.0",
        "config.lora.rank: 4 -> 2",
        "config.optimiser.learning_rate: 0.003",
    ):
        assert change in text
    assert "10 of 13 stages will run" in text


# ── constitutional AI ────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_work_of_constitutional_stages_grows_with_what_they_write_and_judge(tmp_path: Path) -> None:
    """Who keeps which revision nobody knows before; how much is written and read is known."""

    def tokens(*settings: str) -> dict[str, int]:
        chosen = load_recipe("smoke", [*SMALL, "rl=null", "cost_model=null", *settings])
        return {stage.name: stage.tokens or 0 for stage in plan(chosen, tmp_path / "none").stages}

    once = tokens()
    assert all(once[name] > 0 for name in CONSTITUTIONAL)
    more = tokens("revisions.prompts=24", "feedback.answers=6", "judge.questions=4")
    assert more["revisions"] > 1.5 * once["revisions"]
    assert more["cai_sft"] > once["cai_sft"]
    assert more["feedback"] > once["feedback"]
    assert more["judge_card"] < once["judge_card"]
    assert more["ablation"] == once["ablation"]
    assert tokens("revisions.rounds=1")["revisions"] < once["revisions"]
