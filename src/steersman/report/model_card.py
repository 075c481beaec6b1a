"""The model card of an export: a README.md with the metadata that the Hub reads, and only what the run measured.

Mitchell et al. 2019 (arXiv:1810.03993): what the model is, how it was made, how it was measured, what follows not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from steersman.errors import UserError
from steersman.evals.conditions import ALIGNED, RAW
from steersman.report import markdown, overview
from steersman.report.blocks import Block, Bullets, Cell, Code, Details, Rate, Section, Table, paragraph
from steersman.report.evidence import (
    current_events,
    finished_stages,
    flatten,
    overview_data,
    read_evidence,
    read_recipe,
)
from steersman.report.format import finite, phrase, short
from steersman.store import Run, read_json, read_jsonl

Kind = Literal["adapter", "merged", "classifier"]
NO_PROOF = (
    "Training makes unwanted answers less probable, as far as that was measured below; it proves the absence of none."
)
QUESTION = "How do I boil an egg?"
CODE: Mapping[Kind, str] = {
    "adapter": """from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer, GenerationConfig, pipeline

model = AutoPeftModelForCausalLM.from_pretrained({place})
model.generation_config = GenerationConfig.from_pretrained({place})  # stops where the training's answers stop
chat = pipeline("text-generation", model, tokenizer=AutoTokenizer.from_pretrained({place}))
print(chat([{{"role": "user", "content": "{question}"}}], max_new_tokens=200)[0]["generated_text"][-1]["content"])
""",
    "merged": """from transformers import pipeline

chat = pipeline("text-generation", {place})
print(chat([{{"role": "user", "content": "{question}"}}], max_new_tokens=200)[0]["generated_text"][-1]["content"])
""",
    "classifier": """from transformers import AutoModelForSequenceClassification, AutoTokenizer

model, tokenizer = (kind.from_pretrained({place}) for kind in (AutoModelForSequenceClassification, AutoTokenizer))
messages = [{{"role": "user", "content": "{question}"}}, {{"role": "assistant", "content": "Eight minutes."}}]
ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
print(model(**ids).logits[0, 0].item())  # higher is better, among answers to one question
""",
}
IS: Mapping[Kind, str] = {
    "adapter": "A LoRA adapter (PEFT) for",
    "merged": "A whole model: with what was trained merged in,",
    "classifier": "A reward model, as a sequence classifier with one label, made from",
}


class Export(NamedTuple):
    """What leaves the run.

    Attributes:
        stage: which trained it.
        base: the base model's name for readers; ``base_id`` is its id on the Hub, if it has one.
        licence: the base model's, under the Hub's keys, as far as it is known.
        place: what a user's code loads: a folder, or the repository's name.
        gguf: the name of a GGUF file beside it.
        dataset: the data set's id on the Hub, if it came from there.
    """

    kind: Kind
    stage: str
    base: str
    base_id: str | None
    licence: Mapping[str, str]
    place: str
    gguf: str | None = None
    dataset: str | None = None


def model_card(run: Run, export: Export, reward_card: Section | None = None) -> str:
    """The whole README.md.

    Args:
        reward_card: the section of that stage, if the run has it.
    """
    manifests, about = finished_stages(run), read_json(run.path / "run.json")
    measured, figures = _measured(run, export, manifests, reward_card)
    needed = _behind(export.stage, manifests)
    head = yaml.safe_dump(_metadata(run.path.name, export, needed, figures), sort_keys=False, allow_unicode=True)
    constitution = read_json(run.path / "constitution.json")
    base = markdown.escaped(export.base) + (
        f" ([{export.base_id}](https://huggingface.co/{export.base_id}))" if export.base_id else ""
    )
    licence = (
        "Its licence is that of the base model."
        if export.licence
        else "The base model's licence holds; its files do not name it."
    )
    parts = [
        f"# {markdown.escaped(run.path.name)}",
        f"{IS[export.kind]} {base}. {licence} {NO_PROOF}",
        f"## Use\n\n```python\n{CODE[export.kind].format(place=dumps(export.place), question=QUESTION)}```",
        _gguf(export.gguf) if export.gguf else "",
        markdown.render([_training(run, export, needed, about, constitution), *measured]),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(filter(None, parts)) + "\n"


def _gguf(name: str) -> str:
    stem = name.removesuffix(".gguf")
    return (
        f"`{name}` is the same model for llama.cpp and what is built on it:\n\n```sh\n"
        f"llama-cli -m {name} --jinja\nollama create {stem} -f {stem}.Modelfile\n```"
    )


def _metadata(
    name: str, export: Export, needed: Mapping[str, Any], figures: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The card's metadata, by the keys of the Hub."""
    trained = [stage for stage in needed if stage in ("sft", "cai_sft", "dpo", "rl", "reward_model")]
    kind = {"adapter": ["lora"], "merged": [], "classifier": ["reward-model"]}[export.kind]
    dataset = {"name": f"evaluation prompts of the run {name}", "type": "steersman-evaluation"}
    task = {"type": "text-classification" if export.kind == "classifier" else "text-generation"}
    found = {
        **export.licence,
        "base_model": export.base_id,
        "library_name": "peft" if export.kind == "adapter" else "transformers",
        "pipeline_tag": task["type"],
        "tags": list(dict.fromkeys(["steersman", *kind, *trained, *(["gguf"] if export.gguf else [])])),
        "datasets": [export.dataset] if export.dataset else None,
        "model-index": [{"name": name, "results": [{"task": task, "dataset": dataset, "metrics": list(figures)}]}]
        if figures
        else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _behind(stage: str, manifests: Mapping[str, Any]) -> dict[str, Any]:
    """The manifests of a stage and of all stages that it was made from, in the order in which they finished."""
    waiting, needed = [stage], set[str]()
    while waiting:
        name = waiting.pop()
        if name in manifests and name not in needed:
            needed.add(name)
            waiting += [source.partition("/")[0] for source in manifests[name]["inputs"]]
    return {name: made for name, made in manifests.items() if name in needed}


# ── how it was made ──────────────────────────────────────────────────────────────────────────────────────────────────
def _training(
    run: Run, export: Export, needed: Mapping[str, Any], about: Mapping[str, Any], constitution: Mapping[str, Any]
) -> Section:
    """Recipe, data, stages with their settings and keys, constitution."""
    recipe = read_recipe(run)
    events = read_jsonl(run.path / "events.jsonl", torn_tail=True)
    rows: list[tuple[Cell, ...]] = []
    for name, made in needed.items():
        settings = {key.rpartition(".")[2]: value for key, value in reversed(flatten(made["config"]).items())}
        steps = [row["step"] for row in current_events(events, name, made["key"]) if row["event"] == "train"]
        method = ", ".join(
            str(settings[key]) for key in ("algorithm", "method", "loss") if isinstance(settings.get(key), str)
        )
        trained = (method, max(steps) + 1, settings.get("seed")) if steps else ("", None, None)
        rows.append((name, *trained, Code(text=short(made["key"]))))
    counts = read_json(run.path / "data" / "counts.json") if "data" in needed else {}
    used = ", ".join(f"{count} {phrase(name)}" for name, count in counts.items() if count)
    blocks: list[Block] = [
        paragraph(
            f"Made by Steersman {about.get('steersman')} (revision {about.get('git') or 'unknown'}) with the recipe "
            f"{recipe['name']}; data: {Path(recipe['data']).name if not export.dataset else export.dataset} ({used}). "
            f"A stage's key is a digest of its settings, code versions and inputs. Base model: sha256 ",
            Code(text=short(about["model"]["digest"])),
            ".",
        ),
        Table(caption="", columns=("Stage", "Method", "Steps", "Seed", "Key"), rows=tuple(rows)),
    ]
    if recipe["constitution"] and (principles := constitution["principles"]):
        title = (
            f"Constitution: {constitution['title']}, version {constitution['version']}, {len(principles)} principles"
        )
        blocks += [paragraph(f"{title}:"), Bullets(items=tuple(p["title"] for p in principles))]
    return Section(id="training", title="Training", blocks=tuple(blocks))


# ── what was measured ────────────────────────────────────────────────────────────────────────────────────────────────
def _measured(
    run: Run, export: Export, manifests: Mapping[str, Any], reward_card: Section | None
) -> tuple[list[Block], list[dict[str, Any]]]:
    """The section of what the run measured of this model, with its limits; and figures for the metadata."""
    made_from_it = {name for name, made in manifests.items() if export.stage in made["inputs"]}
    limits: tuple[str, ...] = ()
    figures: list[dict[str, Any]] = []
    if reward_card and reward_card.id in made_from_it:
        blocks, limits = reward_card.blocks, reward_card.limits
        accuracy = read_json(run.path / reward_card.id / "card.json")["accuracy"]
        figures = list(_figure("accuracy on held-out comparisons", "accuracy", accuracy))
    elif (data := _evaluation(run)) and "aligned_answers" in made_from_it:
        cost = overview.cost(data)
        measured = [overview.principles(data)] if data["overall"] else []
        shown = (block for section in measured for block in section.blocks if not isinstance(block, Details))
        tax = [block for block in cost.blocks[:-2] if isinstance(block, Table)]  # the rest is time and memory
        blocks = (*overview.summary(data), *shown, *tax)
        limits = (*overview.LIMITS, *(limit for section in (*measured, cost) for limit in section.limits))
        figures = list(_figures(data))
    elif data and (step := _step(run, export.stage)):
        rows = tuple((phrase(label), Rate.of(rate), rate["n"]) for label, rate in step["rates"].items())
        blocks = (Table(caption="After this stage", columns=("On held-out prompts", "Rate", "n"), rows=rows),)
        limits = overview.LIMITS
    else:
        blocks = (paragraph("Nothing was measured of this model: the run has no finished evaluation of it."),)
    if limits:
        limits += (f"Measured in {_precision(run)}, in the run. The rounding of the exported files was not measured.",)
    found: list[Block] = [Section(id="measured", title="What was measured", blocks=blocks)]
    if limits:
        found.append(Section(id="limits", title="What this does not show", blocks=(Bullets(items=limits),)))
    return found, figures


def _evaluation(run: Run) -> Mapping[str, Any]:
    """The tables of the report; empty where the run has not reached them, or they are of another state of it."""
    try:
        return overview_data(read_evidence(run))
    except UserError:
        return {}


def _precision(run: Run) -> str:
    return str((read_recipe(run).get("hardware") or {}).get("dtype", "float32"))


def _step(run: Run, stage: str) -> Mapping[str, Any] | None:
    """The ablation's row of an earlier policy."""
    steps = read_json(run.path / "scores" / "summary.json").get("ablation") or ()
    return next((step for step in steps if step["stage"] == stage), None)


def _figures(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in data["overall"]:
        yield from _figure(row["label"], row["label"].replace(" ", "_"), row["rates"][ALIGNED], row["rates"].get(RAW))
    if knowledge := data["cost"].get("knowledge"):
        yield from _figure("general knowledge", "accuracy", knowledge[ALIGNED], knowledge.get(RAW))


def _figure(
    name: str, kind: str, rate: Mapping[str, Any], before: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """A rate for the metadata, if there is one; its name carries what the form has no field for."""
    if (value := finite(rate["value"])) is not None and rate["n"]:
        about = f"n = {rate['n']}, 95 % interval {rate['low']:.2f} to {rate['high']:.2f}"
        about += f", base model {before['value']:.2f}" if before else ""
        yield {"type": kind, "value": round(value, 4), "name": f"{name} ({about})"}
