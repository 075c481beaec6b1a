"""Directions in files: llama.cpp's control vectors, and safetensors with all that is known of where they are from.

A control vector (``llama-cli --control-vector FILE``; repeng's ``export_gguf``) is a GGUF file of the architecture
``controlvector`` whose tensor ``direction.N``, H numbers in float32, is added to what block N puts out. That is what
block N + 1 reads: a direction of layer l is ``direction.{l - 1}`` in the file. llama.cpp has none for block 0, so those
of layers 0 and 1 cannot be written (``common_control_vector_load_one`` in its common/common.cpp; repeng counts alike).
The numbers are the difference of means times a coefficient, so that a scale of 1 there is `adding` with this
coefficient here. Keys of our own hold the names, positions and digests; both programs skip them.

The safetensors file holds the unit vectors bit by bit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from steersman.errors import DataError, closest
from steersman.interp.directions import Direction
from steersman.store import canonical

ARCHITECTURE = "controlvector"
OURS = "steersman.directions"  # of JSON: what the vectors themselves do not say
FORMAT = "1"


def save_gguf(path: Path, directions: Sequence[Direction], model_type: str, coefficient: float = 1.0) -> None:
    """Write directions as a control vector for llama.cpp and repeng.

    Args:
        model_type: as in the model's config.json, such as ``gemma3_text``; repeng keeps it.
        coefficient: of the differences of means.

    Raises:
        DataError: no direction, two of one layer, or one of layer 0 or 1.
    """
    from gguf import GGUFWriter

    layers = [one.layer for one in directions]
    if not directions or len(set(layers)) < len(layers) or min(layers) < 2:
        raise DataError(
            f"directions of layers {', '.join(map(str, layers)) or 'none'} are no control vector",
            expected="one or more, each of another layer, none of layer 0 or 1: llama.cpp adds behind block 1 at first",
            do="leave some out, or save them as safetensors",
        )
    writer = GGUFWriter(path, ARCHITECTURE)
    writer.add_string(f"{ARCHITECTURE}.model_hint", model_type)
    writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(directions))
    writer.add_string(OURS, canonical([_record(one) for one in directions]))
    for one in directions:
        writer.add_tensor(f"direction.{one.layer - 1}", (coefficient * one.difference).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load_gguf(path: Path) -> list[Direction]:
    """The directions of a control vector by anyone, in the order of their layers.

    What repeng or llama.cpp wrote has neither names nor positions: then a direction is named after its tensor, and its
    norm is that of the tensor.

    Raises:
        DataError: not a control vector.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise DataError(f"no GGUF file ({error})", where=str(path)) from error
    kind = reader.fields.get("general.architecture")
    if kind is None or kind.contents() != ARCHITECTURE:
        raise DataError(
            f"a GGUF file of {kind.contents() if kind else 'no architecture'}", where=str(path), expected=ARCHITECTURE
        )
    known = {record["layer"]: record for record in json.loads(_text(reader.fields.get(OURS)) or "[]")}
    found = []
    for tensor in reader.tensors:
        stem, _, number = tensor.name.partition(".")
        if stem != "direction" or not number.isdecimal() or tensor.data.ndim != 1:
            raise DataError(f"a tensor {tensor.name!r}", where=str(path), expected="direction.1, direction.2, …")
        vector = torch.from_numpy(tensor.data.astype("float32"))
        layer = int(number) + 1
        record = known.get(layer, {"name": tensor.name, "position": None, "model": "", "data": ""})
        found.append(Direction(**{**record, "vector": vector, "layer": layer, "norm": float(vector.double().norm())}))
    return sorted(found, key=lambda one: one.layer)


def save_safetensors(path: Path, directions: Sequence[Direction]) -> None:
    """Write directions, whatever their layers, with names, norms, positions and digests.

    Raises:
        DataError: no direction, two of one name, or of different widths.
    """
    from safetensors.torch import save_file

    names = [one.name for one in directions]
    if not names or len(set(names)) < len(names) or len({len(one.vector) for one in directions}) > 1:
        raise DataError(
            f"directions {', '.join(names) or 'none'}", expected="one or more of different names and one width"
        )
    metadata = {"format": FORMAT, OURS: canonical([_record(one) for one in directions])}
    save_file({one.name: one.vector.contiguous() for one in directions}, path, metadata=metadata)


def load_safetensors(path: Path) -> dict[str, Direction]:
    """The directions that `save_safetensors` wrote, by name.

    Raises:
        DataError: not such a file.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        vectors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"no safetensors file ({error})", where=str(path)) from error
    if metadata.get("format") != FORMAT or OURS not in metadata:
        raise DataError(
            "a safetensors file without directions in its metadata", where=str(path), expected=f"the key {OURS}"
        )
    return {record["name"]: _stored(vectors[record["name"]], record) for record in json.loads(metadata[OURS])}


def load(path: Path, name: str) -> Direction:
    """One direction of a file of either kind.

    Raises:
        DataError: no such file, or no direction of this name in it.
    """
    by_name = {one.name: one for one in load_gguf(path)} if path.suffix == ".gguf" else load_safetensors(path)
    if name not in by_name:
        raise DataError(f"no direction {name!r}", where=str(path), do=closest(name, list(by_name)))
    return by_name[name]


def _record(one: Direction) -> dict[str, Any]:
    """What a vector's numbers do not say."""
    return {
        "name": one.name,
        "layer": one.layer,
        "position": one.position,
        "norm": one.norm,
        "model": one.model,
        "data": one.data,
    }


def _stored(vector: torch.Tensor, record: dict[str, Any]) -> Direction:
    """A direction with its vector as it was stored: scaled once more to length 1, its last bits could move."""
    found = Direction(vector=vector, **record)
    object.__setattr__(found, "vector", vector)
    return found


def _text(field: Any) -> str:
    return str(field.contents()) if field is not None else ""
