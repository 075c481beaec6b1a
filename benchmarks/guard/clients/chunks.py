"""`chunk-invariance` on `StreamGuard`: does the same answer give the same text however it is cut?

    python benchmarks/guard/clients/chunks.py --packages ENVIRONMENT/lib/python3.11/site-packages [--guard FOLDER]

Steersman's own environment, with the folder of an environment that has `chunk-invariance` added. Texts around the
guard's word and personal data, all splits of the short ones, all two-part splits of the long ones, in characters and
in bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from steersman.constitution.document import load
from steersman.guard.guard import Guard
from steersman.guard.streaming import StreamGuard
from steersman.guard.verdict import Part

HERE = Path(__file__).resolve().parent
PARTS = (Part("messages[0].content", "user", "What is new?"),)
SHORT = ["project bluebird", "Project Bluebird", "a@b.org is it", "Prøject Bluebird"]
LONG = [
    "Nothing is new here. " * 8,
    "One thing only: Project Bluebird comes in May, and all else stays as it is.",
    "Write to ann.miller@mail-of-ann.org or to the card 4111 1111 1111 1111 if you must, and to nobody else at all.",
    "In base64 it is UHJvamVjdCBCbHVlYmlyZCBjb21lcyBpbiBNYXk= and that is all I say.",
    "P r o j e c t   B l u e b i r d in spaced letters, Рrоjесt Вluеbіrd in Cyrillic.",
    "p\u200br\u200boject blue\u200bbird with characters that nobody sees.",
    "Ein Satz mit Umlauten: äöü, 日本語, 🙂 und mehr, damit Bytes in Zeichen geteilt werden.",
    "Start. " + "The weather is fine and the garden is green. " * 6 + "At last project bluebird.",
]


def filters(guard: Guard, end: Any) -> tuple[Callable[[Iterable[Any]], Iterator[Any]], Callable[[Any], Any]]:
    """The guard as a filter of pieces and of a whole text; the end carries whether it was stopped."""

    def streaming(pieces: Iterable[Any]) -> Iterator[Any]:
        stream = StreamGuard(guard, PARTS)
        for piece in pieces:
            yield end(stream.feed(piece))
        yield end(stream.finish())
        yield end("\nSTOPPED" if stream.stopped else "\nPASSED")

    def whole(text: Any) -> Any:
        return end("").join(streaming([text]))

    return streaming, whole


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--guard", help="folder of a trained guard; else the rules of this folder")
    parser.add_argument("--parts", type=int, default=2, help="most parts of a split of the long texts")
    given = parser.parse_args()
    sys.path.append(str(given.packages))
    from chunk_invariance import ChunkInvarianceError, assert_chunk_invariant

    guard = Guard.load(Path(given.guard)) if given.guard else Guard.from_constitution(load(str(HERE / "rules.yaml")))
    tried = wrong = 0
    for text, splits in [*((t, 4) for t in SHORT), *((t, given.parts) for t in LONG)]:
        for shape, end in ((text, str), (text.encode(), lambda out: out.encode())):
            stream, whole = filters(guard, end)
            try:
                count = assert_chunk_invariant(stream, whole, shape, splits=splits)
                tried += count
                seen = whole(shape)
                print(f"{count:6} splits of {type(shape).__name__:5} {text[:40]!r}: the same, {seen[-60:]!r}")
            except ChunkInvarianceError as error:
                wrong += 1
                print(error)
    print(f"chunk-invariance {version('chunk-invariance')}: {tried} splits, {wrong} texts with a difference")
    guard.close()
    sys.exit(wrong)


if __name__ == "__main__":
    main()
