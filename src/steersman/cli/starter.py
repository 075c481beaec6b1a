"""`steersman init`: a small project of one's own, ready to align. Its files lie in `starter_project/`."""

from __future__ import annotations

from pathlib import Path

from steersman.errors import UserError
from steersman.store import disk_full_is_explained, write_text

PROJECT = Path(__file__).parent / "starter_project"
FILES = (
    "README.md",
    "constitution.yaml",
    "recipe.yaml",
    "data/demonstrations.jsonl",
    "data/comparisons.jsonl",
    "data/prompts.jsonl",
    "data/evaluation.jsonl",
)


def init(folder: Path) -> list[Path]:
    """Write the starter project into a new or empty folder; returns the files written.

    Raises:
        UserError: the folder is not empty or cannot be made; nothing was written.
    """
    with disk_full_is_explained(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            first = next(folder.iterdir(), None)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise _refusal(f"no folder can be made here ({(error.strerror or '').lower()})", folder) from error
        if first is not None:
            raise _refusal(f"the folder is not empty (it holds {first.name})", folder)
        (folder / "data").mkdir()
        for name in FILES:
            write_text(folder / name, (PROJECT / name).read_text(encoding="utf-8"))
    return [folder / name for name in FILES]


def _refusal(found: str, folder: Path) -> UserError:
    return UserError(found, where=str(folder), expected="a new or empty folder", do="name another folder")
