"""The text and the bytes of single tokens, as log-probabilities are reported with them.

A token may hold a part of a character. Its text then has a replacement character, and its bytes are exact: those of
all tokens, one after the other, are those of the text.
"""

from __future__ import annotations

import re
from typing import Any

_BYTE = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")


class TokenText:
    """Reads single tokens of a tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._special = tokenizer, frozenset(tokenizer.all_special_ids)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        decoder = "" if backend is None else str(backend.decoder)
        self._by_bytes = _byte_alphabet() if "ByteLevel" in decoder else None
        self._space = "▁" in decoder or "Metaspace" in decoder

    def bytes_of(self, token: int) -> bytes:
        """The bytes that a token adds to a text."""
        piece: str = self._tokenizer.convert_ids_to_tokens(token) or ""
        if token in self._special:
            return piece.encode()
        if self._by_bytes is not None and all(character in self._by_bytes for character in piece):
            return bytes(self._by_bytes[character] for character in piece)
        if byte := _BYTE.match(piece):
            return bytes([int(byte[1], 16)])
        if self._space:
            return piece.replace("▁", " ").encode()
        return str(self._tokenizer.decode([token])).encode()

    def __call__(self, token: int) -> str:
        """Its text."""
        return self.bytes_of(token).decode("utf-8", errors="replace")


def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level tokenizers write bytes (Radford et al. 2019): printable ones stand for
    themselves, the others for what follows 255."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
