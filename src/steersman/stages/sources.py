"""What a recipe names: constitution, data set, base model, and the digests that make stages run again with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from steersman.constitution import document
from steersman.constitution.document import Constitution
from steersman.constitution.lint import lint
from steersman.data import public_files, sources
from steersman.data.check import answers_of
from steersman.data.formats import dump
from steersman.data.sources import DataSet
from steersman.errors import ConstitutionError, DataError, ModelError
from steersman.evals import capability, facts, public_prompts
from steersman.evals.suites.runner import Gathered, gather
from steersman.lm import chat_settings, limits, pretrained, tiny
from steersman.lm.chat_format import chat_format
from steersman.recipe import Recipe
from steersman.stage import Sources
from steersman.store import Identity, Run, canonical, sha256_file, sha256_text
from steersman.terminal import console, working
from steersman.types import Comparison, Demonstration, Prompt, calls_of, messages_of, uses_tools

NAMES = (
    "base",
    "model_name",
    "judge_model",
    "dataset",
    "constitution",
    "public_sets",
    "suite_questions",
    "capability_items",
    "facts",
    "reward_function",
)


class Source(NamedTuple):
    """Something that the recipe names, and its digest; without a value, it is not there yet."""

    value: Any
    digest: str


@working("reading the data")
def load(recipe: Recipe) -> Sources:
    """Read the constitution and the data set of a recipe.

    Raises:
        UserError: one cannot be read, or the data name principles that the constitution does not have.
    """
    constitution = document.load(recipe.constitution) if recipe.constitution else document.NONE
    data = sources.load(recipe.data, recipe.votes, recipe.columns)
    if recipe.answers and not data.evaluation:
        data = sources.with_evaluation(data)
        console.print(
            f"{recipe.data} has no evaluation prompts: {len(data.evaluation)} prompt(s) are held out of its rows. They "
            "say nothing of what a good answer shows, so no pass rate is reported.",
            soft_wrap=True,
        )
    check_agreement(constitution, data)
    return Sources(recipe, constitution, data)


def digested(given: Sources, base: Path | None) -> dict[str, Source]:
    """Everything that the recipe names, with digests; of a base model that is not there yet, without."""
    recipe = given.recipe
    public = public_prompts.load(recipe.public_prompts) if recipe.public_prompts else []
    suites = _suites(recipe)
    own = recipe.judge.model if recipe.judge else None
    function = recipe.rl.reward if recipe.rl else None
    judge_model = own if own and Path(own).exists() else None
    return {
        "base": Source(base, base_digest(base, recipe) if base else ""),
        "model_name": Source(recipe.model, ""),  # the base model's digest decides
        "judge_model": Source(judge_model, pretrained.digest(Path(judge_model)) if judge_model else ""),
        "dataset": Source(given.data, sha256_text(canonical([dump(rows) for rows in given.data.rows]))),
        "constitution": Source(given.constitution, given.constitution.digest),
        "public_sets": Source(public, sha256_text(canonical(dump(public)))),
        "suite_questions": Source(suites, suites.digest),
        "capability_items": Source(None, capability.items_digest()),
        "facts": Source(facts.load(), sha256_file(facts.FILE)),
        "reward_function": Source(None, sha256_file(Path(function.rpartition(":")[0])) if function else ""),
    }


def _suites(recipe: Recipe) -> Gathered:
    """The questions of the recipe's suites; none where the recipe has no such section."""
    if recipe.suites is None:
        return Gathered({}, ())
    folder = public_files.locate(recipe.suites.folder, "suites.folder")
    return gather(recipe.suites.names, folder, recipe.suites.limit)


def base_digest(base: Path, recipe: Recipe) -> str:
    """Of the model as it is computed and spoken to: its precision makes it another one, and so do the arguments and the
    day of its chat template; its device rounds, as any machine does."""
    digest, hardware = pretrained.digest(base) + chat_settings.identity(base, recipe.chat), recipe.hardware
    digest = digest if hardware.dtype == "float32" else f"{digest} in {hardware.dtype}"
    return digest if hardware.weights == "full" else f"{digest} with {hardware.weights} weights"


def base_model(recipe: Recipe, data: DataSet, run: Run) -> Path:
    """The base model's folder. ``tiny-random`` is made on the spot, from the data's own text, inside the run."""
    if recipe.model != tiny.NAME:
        return pretrained.resolve(recipe.model, notify=lambda text: console.print(text))
    texts, identity = tiny_base(data)
    artifact = run.finished(identity) or run.perform(identity, lambda out: tiny.build(texts, out.file("model")))
    return artifact.file("model")  # below the manifest, whose times must not become part of the model's digest


def check_positions(recipe: Recipe, base: Path) -> None:
    """Refuse rows and rollouts that are longer than what the model can read.

    Raises:
        RecipeError: with the key to change. Longer prompts in answers are shortened, as the settings say.
    """
    limit = limits.positions(pretrained.configuration(base))
    for name, config in recipe:
        wanted = {f"{name}.max_length": getattr(config, "max_length", 0)}
        if rollouts := getattr(config, "rollouts", None):
            wanted[f"{name}.rollouts.max_prompt_tokens"] = rollouts.max_prompt_tokens + rollouts.max_new_tokens
        if sampling := getattr(config, "sampling", None):
            wanted[f"{name}.sampling.max_new_tokens"] = sampling.max_new_tokens + limits.MIN_PROMPT
        for key, tokens in wanted.items():
            if limit is not None and tokens > limit:
                raise recipe.conflict(
                    f"{key} asks for sequences of {tokens} tokens, and {recipe.model} reads at most {limit}",
                    key,
                    do=f"lower {key}",
                )


def check_conversations(given: Sources, base: Path) -> None:
    """Refuse settings of the chat template that it does not read, and conversations with tools that it cannot write.

    Raises:
        ModelError: an argument that changes nothing. DataError: with the file and the number of the first such row.
    """
    recipe, data = given.recipe, given.data
    files: dict[str, Sequence[Demonstration | Comparison | Prompt]] = {
        "demonstrations": data.demonstrations,
        "comparisons": data.comparisons,
        "prompts": data.prompts,
        "evaluation": data.evaluation,
        "forms": data.forms,
        "development": data.development,
    }
    found = [
        (name, number, row)
        for name, rows in files.items()
        for number, row in enumerate(rows, start=1)
        if uses_tools(messages_of(row.prompt)) or any(calls_of(answer)[1] for answer in answers_of(row))
    ]
    if not found and not recipe.chat.template_arguments:
        return
    tokenizer = pretrained.load_tokenizer(base)
    chat_settings.check(tokenizer, recipe.chat, recipe.model)
    chat = chat_format(tokenizer)
    for name, number, row in found:
        try:
            chat.prompt_ids(row.prompt)
            for answer in answers_of(row):
                chat.completion_ids(answer, row.prompt)
        except (DataError, ModelError) as error:
            raise DataError(
                error.found, where=f"{data.folder}, {name}, row {number}", expected=error.expected, do=error.do
            ) from error


def tiny_base(data: DataSet) -> tuple[list[str], Identity]:
    """The texts that the tiny model's tokenizer is trained on, and the identity of the model."""
    texts = tiny.corpus(data.demonstrations, data.comparisons)
    return texts, Identity("base", {"lm.tiny": tiny.VERSION}, {}, {"texts": sha256_text("\n".join(texts))})


def check_agreement(constitution: Constitution, data: DataSet) -> None:
    """Refuse data that name principles which the constitution does not have.

    Raises:
        ConstitutionError: the lint finds errors; warnings are left to `steersman constitution check`.
    """
    findings = lint(
        constitution,
        demonstrations=data.demonstrations,
        comparisons=data.comparisons,
        prompts=data.prompts,
        evaluation=data.measured_on,
    )
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise ConstitutionError(
            "\n".join(f"{finding.principle or 'document'}: {finding.message}" for finding in errors),
            where=f"constitution {constitution.name} with {data.folder}",
            do=errors[0].do,
        )
