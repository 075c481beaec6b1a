"""Errors for people: what was found, where, what was expected, and what to do.

A `UserError` (exit code 2) means that the input is wrong and the user can fix it; a `RunError` (exit code 3), that the
input is right but the run could not finish.

The command line prints `str(error)` and exits with `error.exit_code`; it shows no traceback for these.
"""

from __future__ import annotations


class SteersmanError(Exception):
    """Base of every error that Steersman raises on purpose.

    Args:
        found: what was found, as one sentence.
        where: file, line or key, for example ``recipe.yaml:12 (sft.epochs)``.
        expected: what would have been right.
        do: the next step for the user.
    """

    exit_code = 3

    def __init__(self, found: str, *, where: str = "", expected: str = "", do: str = "") -> None:
        self.found, self.where, self.expected, self.do = found, where, expected, do
        super().__init__(found)

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.found}" if self.where else self.found]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.do:
            lines.append(f"  to do:    {self.do}")
        return "\n".join(lines)


class UserError(SteersmanError):
    """The input is wrong, and the user can fix it."""

    exit_code = 2


class RecipeError(UserError):
    """A wrong recipe key, value or file."""


class ConstitutionError(UserError):
    """A wrong constitution."""


class DataError(UserError):
    """A wrong row of demonstrations, comparisons or prompts."""


class ModelError(UserError):
    """An unknown model, a broken or foreign checkpoint."""


class JudgeRefused(UserError):
    """A judge that was not measured, or whose accuracy is too low to learn from."""


class RunError(SteersmanError):
    """The input is right, but the run could not finish."""

    exit_code = 3


class RunBusy(RunError):
    """Another process holds the run directory."""


class DiskFull(RunError):
    """No space left on the disk; finished stages are kept."""


class TrainingFailed(RunError):
    """A loss or gradient that is not finite; the last good checkpoint is kept."""


def closest(name: str, known: list[str], limit: int = 3) -> str:
    """A clause that names the known words closest to a misspelt one, or all of them when none is close."""
    import difflib

    near = difflib.get_close_matches(name, known, n=limit, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(known))}"
