"""Terminal output: progress on stderr, with ETA and loss; results on stdout, so that they can be piped.

Nothing is silent for longer than `SILENCE_S`: a bar moves, or a line names what is being done and for how long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

SILENCE_S = 10.0


class _Console(Console):
    """A console that knows when it last showed something; a moving bar counts."""

    last = time.monotonic()

    def print(self, *objects: Any, **options: Any) -> None:
        self.last = time.monotonic()
        super().print(*objects, **options)


console = _Console(stderr=True, highlight=False)
_spoken_for: list[Callable[[], str]] = []  # what is being done, the innermost last


def results() -> Console:
    """The console for the results of a command. Created when needed: stdout may have been redirected since."""
    return Console(highlight=False)


@contextmanager
def working(title: str) -> Iterator[None]:
    """Within it, what is being done is said whenever nothing else was shown for `SILENCE_S`. Also a decorator."""
    start = time.monotonic()
    with _never_silent(lambda: f"{title}: {time.monotonic() - start:.0f} s"):
        yield


@contextmanager
def _never_silent(line: Callable[[], str]) -> Iterator[None]:
    done, stream = threading.Event(), console.file  # bound here: what a library prints may be swallowed within

    def watch() -> None:
        while not done.wait(SILENCE_S / 20):
            if _spoken_for[-1:] == [line] and time.monotonic() - console.last >= SILENCE_S and not console.quiet:
                console.last = time.monotonic()
                print(f"  {line()}", file=stream, flush=True)

    _spoken_for.append(line)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        _spoken_for.remove(line)
        done.set()
        thread.join()


class Progress:
    """A progress bar on a terminal and in a notebook that has `ipywidgets`.

    Elsewhere (CI, a log file) a plain line for about every tenth, and whenever it would be silent.
    """

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done, self._note = title, total, done, ""
        self._drawn = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
        self._bar = RichProgress(
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not self._drawn,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, note="")
        self._open = ExitStack()

    def __enter__(self) -> Progress:
        self._open.enter_context(_never_silent(self._line))
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        self._open.close()

    def advance(self, amount: int = 1, loss: float | None = None) -> None:
        """Advance by ``amount``; ``loss`` is shown beside the bar."""
        self._note = "" if loss is None else f"loss {loss:.3f}"
        before, self.done = self.done, self.done + amount
        self._bar.update(self._task, advance=amount, note=self._note)
        tenth = max(1, self.total // 10)
        if not self._drawn and (self.done // tenth > before // tenth or self.done == self.total):
            console.print(f"  {self._line()}")

    def _line(self) -> str:
        return f"{self.title} {self.done}/{self.total} {self._note}".rstrip()
