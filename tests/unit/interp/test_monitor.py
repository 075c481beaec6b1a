"""A monitor in a checkpoint: what it reads, which answers it ends, and every way in which it must fail closed."""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from decoder_families import family
from steersman.errors import DataError, ModelError
from steersman.interp import alignment_monitor, monitor
from steersman.interp.activations import read
from steersman.interp.alignment_monitor import AlignmentMonitor, MonitorError
from steersman.interp.anatomy import anatomy_of
from steersman.interp.probes import Example, Probe, of_reply
from steersman.lm.language_model import LocalModel
from steersman.lm.sampling import Request, Sampler, SamplingConfig
from steersman.serving import probing

LAYER = 1
PROMPTS = ["How do I boil an egg?", "Who are you?", "Should I sell my house?", "Tell me a story about a fox."]


@pytest.fixture(scope="module")
def sampler(tiny_base: Path) -> Sampler:
    return LocalModel.load(tiny_base).sampler


def probe(model: Any, seed: int = 0, site: str = f"blocks.{LAYER}.hook_resid_post") -> Probe:
    weight = torch.randn(anatomy_of(model).width, generator=torch.Generator().manual_seed(seed))
    return Probe(f"probe-{seed}", "logistic", site, "last", weight, 0.5, 0.0, 1.0, torch.ones_like(weight))


def conversations(sampler: Sampler, count: int = 100) -> list[Example]:
    return [of_reply(sampler.chat, f"Question {i}?", f"The answer is {i * i}.", False, i) for i in range(count)]


@pytest.fixture(scope="module")
def made(sampler: Sampler) -> AlignmentMonitor:
    probes = [probe(sampler.model, seed) for seed in (0, 1)]
    return monitor.make(sampler.model, sampler.chat, probes, conversations(sampler))


@pytest.fixture
def folder(sampler: Sampler, made: AlignmentMonitor, tiny_base: Path, tmp_path: Path) -> Path:
    target = tmp_path / "model"
    shutil.copytree(tiny_base, target)
    monitor.save(made, target)
    return target


def test_thresholds_let_one_conversation_in_a_hundred_through(sampler: Sampler, made: AlignmentMonitor) -> None:
    rows = conversations(sampler)
    scores = monitor.token_scores(sampler.model, made, rows)
    assert [len(one) for one in scores] == [len(row.ids) - row.response + 1 for row in rows]
    over = torch.stack([one.amax(0) > made.threshold for one in scores]).sum(0)
    assert over.tolist() == [1, 1]


def test_every_token_has_a_score_and_reporting_changes_nothing(sampler: Sampler, made: AlignmentMonitor) -> None:
    model, ids = sampler.model, torch.tensor([sampler.chat.prompt_ids(PROMPTS[0])])
    with torch.no_grad():
        plain = model(ids).logits
        with monitor.watching(model, made):
            output = model(ids)
    assert torch.equal(output.logits, plain)
    hidden = read(model, ids.tolist(), [f"blocks.{LAYER}.hook_resid_post"]).sites[f"blocks.{LAYER}.hook_resid_post"]
    expected = torch.stack([probe(model, seed).score(hidden) for seed in (0, 1)], -1)
    torch.testing.assert_close(output.monitor_scores, expected, rtol=1e-4, atol=1e-4)
    assert not hasattr(model, "alignment_monitor")
    with torch.no_grad():
        assert "monitor_scores" not in model(ids)


def test_the_gate_ends_an_answer_at_its_first_flagged_token_and_no_other(
    sampler: Sampler, made: AlignmentMonitor
) -> None:
    """Under our sampler, in one batch: each answer is the plain one, up to the token that is flagged."""
    config = SamplingConfig(max_new_tokens=12)
    plain = {one.index: one.token_ids for one in sampler.generate(Request(PROMPTS, config))}
    starts = [sampler.chat.prompt_ids(prompt) for prompt in PROMPTS]
    rows = [Example((*start, *plain[i]), len(start), False, i, "") for i, start in enumerate(starts)]
    scores = [one[:, :1] for one in monitor.token_scores(sampler.model, made, rows)]
    strict = AlignmentMonitor(
        {
            "weight": made.weight[:1],
            "bias": made.bias[:1],
            # Between the second and the third of the four highest scores: two are stopped.
            "threshold": torch.cat([one[:-1].amax(0) for one in scores]).sort().values[1:3].mean()[None],
            "stop": made.stop,
        },
        {**made.entry, "names": ["one"]},
    )
    with monitor.watching(sampler.model, strict, gate="stop"):
        gated = {one.index: one for one in sampler.generate(Request(PROMPTS, config))}
    stopped = 0
    for i, found in enumerate(scores):
        flagged = (found[:-1, 0] > strict.threshold).nonzero()[:, 0].tolist()
        if flagged:
            stopped += 1
            assert gated[i].token_ids == [*plain[i][: flagged[0]], made.entry["stop_id"]]
            assert gated[i].finish_reason == "stop"
        else:
            assert gated[i].token_ids == plain[i]
    assert stopped == 2


@pytest.mark.parametrize("name", ["Gemma2", "GPT2", "Phi"])
def test_the_end_of_a_turn_can_be_forced_in_other_families(name: str) -> None:
    model = family(name)
    stop = monitor._stop_vector(model, 2)
    alignment_monitor.check_stop(model, stop, 2)
    with pytest.raises(MonitorError, match="does not end"):
        alignment_monitor.check_stop(model, -stop, 2)


def test_a_score_that_is_no_number_is_flagged(made: AlignmentMonitor) -> None:
    hidden = torch.zeros(1, 2, made.weight.shape[1])
    hidden[0, 1, 0] = float("nan")
    assert made.above(made(hidden)).tolist()[0][1]
    reading = monitor.Watched(made).follow()
    assert reading.add(-1.0) == -1.0
    assert reading.add(float("nan")) != reading.add(3.0)


def test_a_servers_engine_can_read_along(made: AlignmentMonitor) -> None:
    along: probing.Probe = monitor.Watched(made)
    hidden = torch.randn(5, made.weight.shape[1], generator=torch.Generator().manual_seed(0))
    flagged = made.above(made(hidden))
    assert torch.equal(along.tokens(hidden) > 0, flagged)
    reading = along.follow()
    assert [reading.add(x) for x in (0.1, -2.0, 0.7)] == [0.1, 0.1, 0.7]


def test_a_saved_monitor_is_the_same_in_plain_transformers(folder: Path, made: AlignmentMonitor) -> None:
    model = LocalModel.load(folder).sampler.model
    found = monitor.load(folder, model)
    for name in ("weight", "bias", "threshold", "stop"):
        assert torch.equal(getattr(found, name), getattr(made, name))
    ids = torch.tensor([[2, 5, 7, 11]])
    plain = alignment_monitor.load(folder)
    with torch.no_grad(), monitor.watching(model, found):
        torch.testing.assert_close(plain(ids).monitor_scores, model(ids).monitor_scores)
    eager = alignment_monitor.load(folder, gate="stop")
    eager.alignment_monitor.threshold.fill_(-1e9)  # everything is flagged
    ended = eager.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=made.entry["stop_id"], pad_token_id=0)
    assert ended[0, 4:].tolist() == [made.entry["stop_id"]]
    with pytest.raises(MonitorError, match="no gate"):
        alignment_monitor.attach(plain, found, "sometimes")  # type: ignore[arg-type]


def test_the_shipped_code_is_ours_and_needs_nothing_of_ours(folder: Path) -> None:
    source = (folder / "alignment_monitor.py").read_text(encoding="utf-8")
    assert source == Path(alignment_monitor.__file__).read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, "torch", "transformers", "safetensors"}


def test_code_in_the_folder_is_not_run(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    (folder / "alignment_monitor.py").write_text(f"open({str(trace)!r}, 'w').close()", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "alignment_monitor.Anything"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    monitor.load(folder, LocalModel.load(folder).sampler.model)
    assert not trace.exists()


def _rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors, and let config.json name the changed file."""
    path, config = folder / alignment_monitor.FILE, json.loads((folder / "config.json").read_text())
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    config[alignment_monitor.ENTRY]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _cut(folder: Path) -> None:
    path = folder / alignment_monitor.FILE
    path.write_bytes(path.read_bytes()[:-8])


def _cut_and_named(folder: Path) -> None:
    _cut(folder)
    config = json.loads((folder / "config.json").read_text())
    config["alignment"]["sha256"] = hashlib.sha256((folder / alignment_monitor.FILE).read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _without_entry(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["alignment"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


FAULTS: dict[str, Callable[[Path], object]] = {
    "alignment.safetensors is missing": lambda folder: (folder / alignment_monitor.FILE).unlink(),
    "the entry 'alignment' of config.json is missing": _without_entry,
    "it was cut or changed": _cut,
    "not a whole safetensors file": _cut_and_named,
    "this model needs": lambda folder: _rewrite(folder, lambda t: t.update(weight=t["weight"][:, :-1].contiguous())),
    "tensors of shapes": lambda folder: _rewrite(folder, lambda t: t.pop("threshold")),
    "threshold hold NaN": lambda folder: _rewrite(folder, lambda t: t["threshold"].fill_(float("nan"))),
    "weight hold NaN or infinity": lambda folder: _rewrite(folder, lambda t: t["weight"].fill_(float("inf"))),
}


@pytest.mark.parametrize("words", FAULTS)
def test_what_is_wrong_with_a_monitor_closes_the_model(folder: Path, sampler: Sampler, words: str) -> None:
    FAULTS[words](folder)
    with pytest.raises(ModelError, match=words):
        monitor.load(folder, sampler.model)
    with pytest.raises(MonitorError, match=words):
        alignment_monitor.load(folder)


def test_other_weights_have_no_monitor(folder: Path, tiny_base: Path) -> None:
    model = LocalModel.load(tiny_base).sampler.model
    with torch.no_grad():
        anatomy_of(model).blocks[0].mlp_output.weight[0, 0] += 1e-3  # type: ignore[index, operator]
    with pytest.raises(ModelError, match="for other weights"):
        monitor.load(folder, model)


def test_a_pass_that_goes_round_the_watched_layer_is_an_error(sampler: Sampler, made: AlignmentMonitor) -> None:
    with monitor.watching(sampler.model, made, gate="stop"), pytest.raises(MonitorError, match="went round"):
        anatomy_of(sampler.model).final_norm(torch.zeros(1, 3, made.weight.shape[1]))


def test_what_cannot_be_a_monitor_is_refused(sampler: Sampler) -> None:
    model, chat = sampler.model, sampler.chat
    for probes in (
        [],
        [probe(model), probe(model, site="blocks.0.hook_resid_post")],
        [probe(model, site="hook_embed")],
    ):
        with pytest.raises(DataError, match="a monitor of"):
            monitor.make(model, chat, probes, conversations(sampler, 3))
