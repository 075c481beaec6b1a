"""Errors for people: what was found, where, what was expected, what to do.

    SteersmanError
    ├── UserError      exit code 2: the input is wrong, and the user can mend it
    │   ├── RecipeError         a recipe key, value or file
    │   ├── ConstitutionError   the constitution document
    │   ├── DataError           a row of demonstrations, comparisons or prompts
    │   └── ModelError          an unknown model, a broken or foreign checkpoint
    └── RunError       exit code 3: the input is right, but the run could not finish
        ├── RunBusy             another process holds the run directory
        ├── DiskFull            no space left; what was finished is kept
        └── TrainingFailed      NaN loss, infinite gradient: stopped at the last good checkpoint

The command line prints `str(error)` and exits with `error.exit_code`; it never shows a traceback for these.
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
    """The input is wrong, and the user can mend it."""

    exit_code = 2


class RecipeError(UserError):
    """A recipe key, value or file."""


class ConstitutionError(UserError):
    """The constitution document."""


class DataError(UserError):
    """A row of demonstrations, comparisons or prompts."""


class ModelError(UserError):
    """An unknown model, a broken or foreign checkpoint."""


class JudgeRefused(UserError):
    """A judge that was not measured, or is too weak to learn from."""


class RunError(SteersmanError):
    """The input is right, but the run could not finish."""

    exit_code = 3


class RunBusy(RunError):
    """Another process holds the run directory."""


class DiskFull(RunError):
    """No space left; what was finished is kept."""


class TrainingFailed(RunError):
    """A loss or gradient that is not finite; the last good checkpoint is kept."""


def closest(name: str, known: list[str], limit: int = 3) -> str:
    """A clause naming the known words nearest to a misspelt one, or the list of all when none is near."""
    import difflib

    near = difflib.get_close_matches(name, known, n=limit, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(known))}"
