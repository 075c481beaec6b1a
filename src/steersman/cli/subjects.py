"""The models that a verb looks into: those of a run, or one by its name; and the requests that a direction is from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

if TYPE_CHECKING:
    from steersman.interp.directions import Direction
    from steersman.interp.reading_of_prompt import Axis
    from steersman.lm.language_model import LocalModel
    from steersman.runs import OpenRun
    from steersman.types import Text

INSIDE = "inside"  # folder of a run: pages, and the direction that was found for them
REFUSAL = "refusal"  # the name of a direction, and of its file
FEWEST = 8  # requests of a kind
# Of the search that `inspect` makes when there is no direction: directions that are tried, prompts of a kind.
CANDIDATES, FIT, VALIDATION = 4, 64, 16
DIFFERENCE = "difference"  # the name of what is shown where no direction passes the published filters
ABOUT = {
    REFUSAL: "The direction was found by the published selection: of several differences between harmful requests that"
    " the model refuses and harmless ones that it answers, one whose removal leaves few refusals and most harmless"
    " answers.",
    DIFFERENCE: "No single direction passes the published filters. What is shown is the difference between harmful and"
    " harmless requests that leaves least refusal when it is brought to where harmless requests have it.",
}
SCALE = 16  # requests of a kind that the ends of a direction's scale are taken from
DATA = "assistant"  # the data set whose requests serve where a run has none

Target = Annotated[
    str, typer.Argument(metavar="RUN|MODEL", help="Folder of a run, or a model: a folder, Hub id, GGUF file or name.")
]
Prompt = Annotated[str, typer.Argument(help="The prompt.")]


class Subjects(NamedTuple):
    """Named models, the one that the verb is about last; the run that they are from, if there is one."""

    models: list[tuple[str, LocalModel]]
    run: OpenRun | None
    base: Path

    @property
    def main(self) -> LocalModel:
        """The aligned model of a run, or the only one."""
        return self.models[-1][1]


def load_subjects(target: str, *, both: bool = False) -> Subjects:
    """Load the aligned model of a run (``both``: and the raw one before it), or a model by its name.

    Raises:
        ModelError: no such model, or the run has not got so far.
    """
    from steersman.interp.activations import self_test
    from steersman.lm import pretrained
    from steersman.lm.language_model import LocalModel
    from steersman.terminal import working

    with working("loading"):
        if (Path(target) / "run.json").exists():
            from steersman.runs import open_run

            run = open_run(target)
            models = [("raw", run.raw())] if both or not run.trains_a_policy else []
            if run.trains_a_policy:
                models.append(("aligned", run.aligned()))
            found = Subjects(models, run, run.base)
        else:
            folder = pretrained.resolve(target)
            found = Subjects([(Path(target).name, LocalModel.load(folder))], None, folder)
        for _, model in found.models:
            self_test(model.sampler.model)
    return found


def said(prompt: str) -> str:
    """A prompt that says something.

    Raises:
        UserError: it is empty.
    """
    from steersman.errors import UserError

    if not prompt.strip():
        raise UserError("the prompt is empty", do='give a question, e.g. "How do I boil an egg?"')
    return prompt


def first_token(model: LocalModel, text: str, where: str) -> int:
    """The token with which an answer begins.

    Raises:
        UserError: the text is empty.
    """
    from steersman.errors import UserError

    if not text.strip():
        raise UserError("the beginning of an answer is empty", where=where, expected="a word or more")
    return model.sampler.chat.completion_ids(text)[0]


# ── requests and the direction between them ──────────────────────────────────────────────────────────────────────────
def requests_of(
    run: OpenRun | None, harmful: Path | None = None, harmless: Path | None = None
) -> tuple[list[Text], list[Text]]:
    """Harmful and harmless requests: of files, else those that a run trained on, else of the shipped data set.

    Raises:
        DataError: a file that cannot be read, or with too few requests.
    """
    from steersman.data import sources
    from steersman.errors import DataError
    from steersman.stages.inputs import PROMPTS

    found: list[list[Text]] = []
    rows = sources.load(DATA).prompts
    if run is not None and PROMPTS in run:
        own = run[PROMPTS]
        if all(sum(kind in row.expect for row in own) >= FEWEST for kind in ("refuses", "complies")):
            rows = own
    for file, kind in ((harmful, "refuses"), (harmless, "complies")):
        if file is None:
            found.append([row.prompt for row in rows if kind in row.expect])
            continue
        try:
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"cannot be read ({error})", where=str(file), expected="requests in UTF-8, one a line"
            ) from error
        found.append([line for line in lines if line])
        if len(found[-1]) < FEWEST:
            raise DataError(f"{len(found[-1])} requests", where=str(file), expected=f"{FEWEST} or more, one a line")
    return found[0], found[1]


def read_direction(named: str) -> Direction:
    """The direction ``FILE``, or ``FILE#NAME`` of several.

    Raises:
        DataError: no such file or direction.
    """
    from steersman.errors import DataError
    from steersman.interp.saved_vectors import load, load_gguf, load_safetensors

    file, _, name = named.partition("#")
    path = Path(file)
    if name:
        return load(path, name)
    every = load_gguf(path) if path.suffix == ".gguf" else list(load_safetensors(path).values())
    if len(every) != 1:
        names = ", ".join(one.name for one in every)
        raise DataError(f"{len(every)} directions", where=file, expected=f"{file}#NAME, one of {names}")
    return every[0]


def refusal_axis(subjects: Subjects, file: str | None) -> Axis | str:
    """The refusal direction with its scale: of a file, of an earlier search, or found now; or why there is none.

    What is found in a run's model is kept in the run.
    """
    from steersman.interp.directions import weights_digest
    from steersman.interp.reading_of_prompt import axis_of
    from steersman.interp.saved_vectors import save_safetensors
    from steersman.terminal import working

    model, chat = subjects.main.sampler.model, subjects.main.sampler.chat
    sides = requests_of(subjects.run)
    kept = subjects.run.path / INSIDE / f"{REFUSAL}.safetensors" if subjects.run is not None else None
    if file is not None:
        direction, about = read_direction(file), f"The direction is that of {file}."
    elif kept is not None and kept.exists() and read_direction(str(kept)).model == weights_digest(model):
        direction = read_direction(str(kept))
        about = ABOUT.get(direction.name, f"The direction is that of {kept}.")
    else:
        with working("finding the refusal direction"):
            found = _search(subjects, sides)
        if isinstance(found, str):
            return found
        direction, about = found, ABOUT[found.name]
        if kept is not None:
            kept.parent.mkdir(exist_ok=True)
            save_safetensors(kept, [direction])
    return axis_of(model, chat, direction, sides[0][:SCALE], sides[1][:SCALE], about)


def _search(subjects: Subjects, sides: tuple[list[Text], list[Text]]) -> Direction | str:
    """The refusal direction, or the nearest to one; where the model does not refuse, why there is none."""
    from steersman.interp.refusal import RefusalConfig, nearest, refusal_direction

    model, chat = subjects.main.sampler.model, subjects.main.sampler.chat
    found = refusal_direction(model, chat, *sides, RefusalConfig(candidates=CANDIDATES, fit=FIT, validation=VALIDATION))
    if found.direction is not None or not found.candidates:
        return found.direction or found.reason
    return nearest(model, chat, found, *sides, DIFFERENCE)[0]
