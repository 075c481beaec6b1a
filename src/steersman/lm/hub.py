"""The Hugging Face Hub, asked for models and given exported ones.

Its client reads the user's own token (``HF_TOKEN``, or what ``hf auth login`` kept); Steersman never sees it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from steersman.errors import ModelError

T = TypeVar("T")

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# What a model's folder may give us: the only files that are downloaded, and those that make up its digest.
FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
PAPERS = ("LICENSE*", "LICENCE*", "NOTICE*", "*TERMS*", "USE_POLICY*")  # of the licence: they travel with the weights
CARD = "README.md"


def download(name: str) -> Path:
    """The folder of a model in the Hub's cache, downloaded if need be.

    Raises:
        ModelError: there is no such model, it asks for a licence to be accepted, or the Hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        # Subfolders and consolidated*.safetensors hold the same weights again, in the formats of other programs.
        wanted = [*FILES, *PAPERS, CARD]
        return Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=["*/*", "consolidated*"]))
    except GatedRepoError as error:
        do = f"accept the licence on https://huggingface.co/{name}, then run `hf auth login`"
        raise ModelError("the Hub asks for a licence to be accepted first", where=name, do=do) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        do = "check the spelling, and `hf auth login` if it is private"
        raise ModelError("the Hub has no model of this name, and there is no such folder", where=name, do=do) from error
    except (LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise ModelError(
            "the Hub cannot be reached, and neither its cache nor this folder holds such a model",
            where=name,
            do="connect once to download it, give the path of a folder, or use gemma-3-270m, which needs no network",
        ) from error


def front_matter(folder: Path) -> dict[str, Any]:
    """The metadata at the head of a model's card; nothing if there is no card, or none that can be read."""
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
        _, head, _ = re.split(r"^---[ \t]*$", text, maxsplit=2, flags=re.MULTILINE)
        found = yaml.safe_load(head)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def check_push(name: str) -> None:
    """Refuse before the work of an export what `push` would refuse after it.

    Raises:
        ModelError: not OWNER/NAME, no token, one that the Hub does not know, or no network.
    """
    from huggingface_hub import HfApi, get_token

    if not HUB_ID.fullmatch(name):
        raise ModelError("not the name of a repository on the Hub", where=name[:100], expected="OWNER/NAME")
    if get_token() is None:
        raise ModelError("there is no token for the Hub", where=name, do="run `hf auth login`, or set HF_TOKEN")
    _answered(name, lambda: HfApi().whoami())


def push(folder: Path, name: str, *, public: bool = False) -> str:
    """Upload all files of a folder into the model repository ``name`` in one commit; returns its address.

    Args:
        name: OWNER/NAME; created if it is not there, private unless ``public``. One that is there stays as visible as
            it is, and keeps files that the folder does not have.

    Raises:
        ModelError: the Hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi()

    def upload() -> str:
        address = api.create_repo(name, private=not public, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload by steersman export")
        return str(address)

    return _answered(name, upload)


def _answered(name: str, ask: Callable[[], T]) -> T:
    """What the Hub answers; its refusals in one sentence."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return ask()
    except HFValidationError as error:
        raise ModelError("not the name of a repository on the Hub", where=name, expected="OWNER/NAME") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = {
            401: ("the Hub does not know this token", "run `hf auth login`, or set HF_TOKEN to a valid one"),
            403: ("this token may not write there", f"use a token with the right to write to {name.partition('/')[0]}"),
            404: ("the Hub has no such owner, or this token may not see it", "check the spelling of OWNER/NAME"),
        }
        found, do = said.get(status, (f"the Hub answered {status}: {error.server_message}", "try again later"))
        raise ModelError(found, where=name, do=do) from error
    except (HfHubHTTPError.__mro__[1], ConnectionError, TimeoutError) as error:  # type: ignore[misc]  # of HTTP
        raise ModelError("the Hub cannot be reached", where=name, do="check the network, then push again") from error
