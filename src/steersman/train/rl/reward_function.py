"""``rl.reward: rewards.py:brief``: a Python function of the user as the reward, alone or beside a reward model.

    def brief(prompts, completions, **rest):      # both lists of equal length; a prompt is text or a list of messages
        return [-len(text.split()) for text in completions]

The same shape as TRL's reward functions, so that these work unchanged if they take ``**kwargs``. The file is run: it is
the user's own, named in the user's recipe. Its digest is part of the stage's key.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersman.errors import RecipeError, TrainingFailed
from steersman.types import Text


@dataclass(frozen=True)
class RewardFunction:
    """A function, the name that the recipe gives it, and its file."""

    name: str
    file: Path
    function: Callable[..., Any]

    def __call__(self, prompts: Sequence[Text], answers: Sequence[str]) -> list[float]:
        """A number for each answer.

        Raises:
            TrainingFailed: the function raised, or returned something else than a finite number for each answer.
        """
        texts = [p if isinstance(p, str) else [m.model_dump() for m in p] for p in prompts]
        try:
            found = self.function(prompts=texts, completions=list(answers))
        except Exception as error:  # whatever the user's code raises
            here = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(self.file)]
            line = f":{here[-1].lineno}" if here else ""
            raise TrainingFailed(
                f"the reward function raised {type(error).__name__}: {error}", where=f"{self.file}{line}"
            ) from error
        try:
            numbers = [float(value) for value in found]
        except (TypeError, ValueError) as error:
            raise self._refusal(f"returned {type(found).__name__} {str(found)[:60]!r}") from error
        if len(numbers) != len(answers):
            raise self._refusal(f"returned {len(numbers)} numbers for {len(answers)} answers")
        if odd := [value for value in numbers if not math.isfinite(value)]:
            raise self._refusal(f"returned {odd[0]}")
        return numbers

    def _refusal(self, what: str) -> TrainingFailed:
        return TrainingFailed(
            f"the reward function {what}", where=self.name, expected="a list with one finite number for each completion"
        )


def reward_function(name: str) -> RewardFunction:
    """The function ``file.py:name``.

    Raises:
        RecipeError: no such file or function, or the file cannot be run.
    """
    path, _, attribute = name.rpartition(":")
    file = Path(path)
    if not path.endswith(".py") or not attribute.isidentifier():
        raise RecipeError(f"{name!r} is not file.py:function", where="rl.reward", expected="rewards.py:brief")
    if not file.is_file():
        raise RecipeError(
            "there is no such file", where=str(file), do="check rl.reward; the path is that of the recipe"
        )
    spec = importlib.util.spec_from_file_location(f"steersman_reward_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickled names look it up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        raise RecipeError(f"the file cannot be run ({type(error).__name__}: {error})", where=str(file)) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        known = ", ".join(n for n, value in vars(module).items() if callable(value) and not n.startswith("_"))
        raise RecipeError(f"it has no function {attribute!r}", where=str(file), expected=f"one of: {known or 'none'}")
    return RewardFunction(name, file, function)
