"""What decides a run: the recipe, its checks, and how it is read from a file and from ``--set key=value``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from steersman.constitution.ai_feedback import FeedbackConfig
from steersman.constitution.critique_revise import RevisionsConfig
from steersman.constitution.judges import JudgeConfig
from steersman.data.sources import DataConfig
from steersman.errors import RecipeError, closest
from steersman.evals.answers import AnswersConfig
from steersman.evals.capability import CapabilityConfig
from steersman.lm.device import Hardware
from steersman.train.dpo import DpoConfig
from steersman.train.reward_model import CostConfig, RewardConfig
from steersman.train.rl.grpo import GrpoConfig
from steersman.train.rl.ppo import PpoConfig
from steersman.train.rl.rloo import RlooConfig
from steersman.train.sft import RevisedSftConfig, SftConfig
from steersman.types import Record, Slug
from steersman.yaml_lines import load_yaml, parse, validate

# In a source checkout the recipes lie beside src/; a wheel carries them inside the package.
_CHECKOUT = Path(__file__).parents[2] / "recipes"
RECIPES = _CHECKOUT if _CHECKOUT.is_dir() else Path(__file__).parent / "recipes"


RlRecipe = Annotated[RlooConfig | GrpoConfig | PpoConfig, Field(discriminator="algorithm")]


class ReportConfig(Record):
    """``featured`` are the questions shown first; those that are not evaluation prompts are passed over."""

    title: str = "Raw and aligned"
    featured: tuple[str, ...] = ()


class Recipe(Record):
    """Everything that decides what a run produces.

    ``model`` is a name, a Hub id, a folder or a GGUF file; ``constitution`` a shipped name or a YAML file; ``data`` a
    shipped name or a folder, and ``votes`` a file of comparisons that are added to its own, such as human raters made.
    Paths are relative to the recipe's file. ``hardware`` is what models are computed on. What is null is left out:
    without ``dpo`` the policy learns nothing from comparisons, without ``rl`` nothing from a ``reward_model``'s scores.

    Constitutional AI: ``cai_sft`` learns from ``revisions``, and ``dpo`` and ``preference_model`` also from the
    ``feedback`` of a ``judge``; ``rl`` then maximises the preference model's score. ``ablation`` also measures the
    policies before the last one.
    """

    name: Slug
    hardware: Hardware = Hardware()
    model: str
    constitution: str
    data: str
    votes: str | None = None
    examples: DataConfig = DataConfig()
    sft: SftConfig = SftConfig()
    dpo: DpoConfig | None = None
    reward_model: RewardConfig | None = None
    cost_model: CostConfig | None = None
    judge: JudgeConfig | None = None
    revisions: RevisionsConfig | None = None
    cai_sft: RevisedSftConfig | None = None
    feedback: FeedbackConfig | None = None
    preference_model: RewardConfig | None = None
    ablation: bool = False
    rl: RlRecipe | None = None
    answers: AnswersConfig = AnswersConfig()
    capability: CapabilityConfig = CapabilityConfig()
    report: ReportConfig = ReportConfig()

    @property
    def samples_with_vllm(self) -> bool:
        """Whether rollouts come from another program, which must be there and whose speed nobody foretells."""
        return self.rl is not None and self.rl.rollouts.engine == "vllm"

    @model_validator(mode="after")
    def _a_compact_vocabulary_needs_a_frozen_head(self) -> Recipe:
        if self.sft.method == "full" and self.dpo and self.dpo.vocabulary == "compact":
            raise ValueError("dpo.vocabulary: compact needs the frozen head of sft.method: lora; with full use full")
        return self

    @model_validator(mode="after")
    def _the_hardware_can_do_it(self) -> Recipe:
        if self.hardware.dtype != "float32" and self.sft.method == "full":
            raise ValueError("hardware.dtype: bfloat16 is for frozen weights (sft.method: lora); with full use float32")
        if self.rl and self.rl.rollouts.int8 and self.hardware != Hardware():
            raise ValueError("rl.rollouts.int8 rounds float32 weights on a CPU: elsewhere set it to false")
        return self

    @model_validator(mode="after")
    def _a_reward_model_is_measured(self) -> Recipe:
        if self.reward_model and not self.examples.held_out_comparisons:
            raise ValueError(
                "a reward_model is measured on held-out comparisons: set examples.held_out_comparisons: 0.15"
            )
        if self.reward_model and self.sft.method == "full":
            raise ValueError("reward_model starts from the adapter of sft.method: lora")
        return self

    @model_validator(mode="after")
    def _reinforcement_has_a_score_and_a_judge(self) -> Recipe:
        if self.rl and not self.reward_model:
            raise ValueError("rl maximises the score of a reward_model: add reward_model: {}")
        if self.rl and not self.examples.held_out_prompts:
            raise ValueError("rl is judged by held-out prompts: set examples.held_out_prompts: 0.2")
        return self

    @model_validator(mode="after")
    def _who_is_asked_for_costs_exists(self) -> Recipe:
        if self.rl and self.rl.constraint and self.rl.constraint.costs_below is not None and not self.cost_model:
            raise ValueError("rl.constraint.costs_below asks a cost_model: add cost_model: {principles: [...]}")
        return self

    @model_validator(mode="after")
    def _constitutional_stages_have_what_they_ask(self) -> Recipe:
        needs = (
            ("cai_sft", self.cai_sft, "revisions", self.revisions),
            ("feedback", self.feedback, "judge", self.judge),
            ("preference_model", self.preference_model, "feedback", self.feedback),
        )
        for name, section, other, needed in needs:
            if section and not needed:
                raise ValueError(f"{name} asks for {other}: add {other}: {{}}")
        if self.cai_sft and (self.cai_sft.method == "full" or self.sft.method == "full") and not self.cai_sft.from_base:
            raise ValueError(
                "cai_sft goes on from the adapter of sft.method: lora; with full set cai_sft.from_base: true"
            )
        if self.judge and "reward" in self.judge.kinds and not (self.reward_model and self.reward_model.by_principle):
            raise ValueError(
                "judge.kinds: reward asks a reward model that reads principles: reward_model.by_principle: true"
            )
        if self.judge and not self.judge.skip_validation and not self.examples.held_out_comparisons:
            raise ValueError("a judge is measured on held-out comparisons: set examples.held_out_comparisons: 0.2")
        return self


# ── recipes ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def recipes() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``key=value`` settings (``sft.epochs=3``; values are YAML).

    Raises:
        RecipeError: no such recipe, a wrong key or value (with its line), or a setting that is not key=value.
    """
    path = Path(name)
    if not path.exists() and str(name) in recipes():
        path = RECIPES / f"{name}.yaml"
    if not path.exists():
        raise RecipeError(
            f"no recipe {str(name)!r}", expected="a YAML file or a shipped name", do=closest(str(name), recipes())
        )
    data, line_of = load_yaml(path, RecipeError)
    recipe = validate(Recipe, data, path, line_of, RecipeError)
    values = recipe.model_dump(mode="json")
    for key in ("model", "constitution", "data", "votes"):
        if values[key] is not None and (path.parent / values[key]).exists():
            values[key] = str(path.parent / values[key])
    for setting in settings:
        _apply(values, setting)
        try:  # one by one, so that the error names the setting
            values = Recipe.model_validate(values).model_dump(mode="json")
        except ValidationError as error:
            detail = error.errors()[0]
            raise RecipeError(detail["msg"].lower(), where=f"--set {setting}") from error
    return Recipe.model_validate(values)


def _apply(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    *parents, last = key.split(".")
    node: Any = values
    for depth, part in enumerate([*parents, last]):
        if not equals or not isinstance(node, dict) or part not in node:
            if node is None and equals and depth == 1:
                raise RecipeError(
                    f"the recipe has no section {parents[0]!r}",
                    where=f"--set {setting}",
                    do=f"add it with its defaults: --set {parents[0]}={{}}",
                )
            known = [".".join([*parents[:depth], k]) for k in node] if isinstance(node, dict) else []
            raise RecipeError(
                f"no setting {key!r}" if equals else "not of the form key=value",
                where=f"--set {setting}",
                expected="a key of the recipe, such as sft.epochs=3",
                do=closest(key, known) if known else "",
            )
        if depth < len(parents):
            node = node[part]
    node[last] = parse(text)
