"""Terminal output: progress on stderr, with ETA and loss; results on stdout, so that they can be piped."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

console = Console(stderr=True, highlight=False)


def results() -> Console:
    """The console for the results of a command. Created when needed: stdout may have been redirected since."""
    return Console(highlight=False)


class Progress:
    """A progress bar on a terminal; elsewhere (CI, a log file) a plain line for about every tenth."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done = title, total, done
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
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, note="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, amount: int = 1, loss: float | None = None) -> None:
        """Advance by ``amount``; ``loss`` is shown beside the bar."""
        note = "" if loss is None else f"loss {loss:.3f}"
        before, self.done = self.done, self.done + amount
        self._bar.update(self._task, advance=amount, note=note)
        tenth = max(1, self.total // 10)
        if not console.is_terminal and (self.done // tenth > before // tenth or self.done == self.total):
            console.print(f"  {self.title} {self.done}/{self.total} {note}".rstrip())
