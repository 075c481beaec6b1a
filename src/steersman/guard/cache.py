"""A bounded memory of what was computed for a text, so that a conversation's history is read once and not each turn.

The key is the text itself: no two texts share an entry, as they could with a hash of it.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class TextCache(Generic[Value]):
    """The values of the texts that were asked for last. Threads may share it.

    Args:
        characters: most characters of all texts together; the oldest go first.
        entries: most texts.
    """

    def __init__(self, characters: int, entries: int = 4096) -> None:
        self.characters, self.entries = characters, entries
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, text: str) -> Value | None:
        """The value kept for a text; None if there is none."""
        with self._lock:
            if text not in self._values:
                return None
            self._values.move_to_end(text)
            return self._values[text]

    def put(self, text: str, value: Value) -> None:
        """Keep a value. A text longer than the whole memory is not kept."""
        if len(text) > self.characters:
            return
        with self._lock:
            if text not in self._values:
                self._size += len(text)
            self._values[text] = value
            self._values.move_to_end(text)
            while self._size > self.characters or len(self._values) > self.entries:
                oldest, _ = self._values.popitem(last=False)
                self._size -= len(oldest)
