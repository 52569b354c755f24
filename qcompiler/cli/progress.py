"""Progress on a terminal: one line for each finished phase, a bar for the present one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichBars
from rich.text import Text

from qcompiler.pipeline import Progress


class TerminalProgress(Progress):
    """The phase at work with a spinner, counted work with a bar and the time that remains."""

    def __init__(self, bars: RichBars) -> None:
        self._bars = bars
        self._task: TaskID | None = None
        self._title = ""
        self._started = 0.0

    def step(self, title: str) -> None:
        self.finish()
        self._title, self._started = title, time.perf_counter()
        self._task = self._bars.add_task(title, total=None)

    def track(self, items: Iterable[Any], title: str, total: int | None = None) -> Iterator[Any]:
        task = self._bars.add_task(title, total=total)
        try:
            for item in items:
                yield item
                self._bars.advance(task)
        finally:
            self._bars.remove_task(task)

    def finish(self) -> None:
        """Ends the present phase; its line with the time it took stays."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            seconds = time.perf_counter() - self._started
            self._bars.console.print(f"  {self._title:24}{seconds:8.2f} s", highlight=False, markup=False)
            self._task = None


class _WhenCounted(ProgressColumn):
    """A column that stays empty where the amount of work is unknown."""

    def __init__(self, column: ProgressColumn) -> None:
        super().__init__()
        self._column = column

    def render(self, task: Task) -> RenderableType:
        return Text() if task.total is None else self._column.render(task)


@contextmanager
def progress(quiet: bool = False) -> Iterator[Progress]:
    """Progress on stderr; silent if it is not a terminal, or on demand."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield Progress()
        return
    counted = (BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn())
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), *map(_WhenCounted, counted))
    with RichBars(*columns, console=console, transient=True) as bars:
        terminal = TerminalProgress(bars)
        yield terminal
        terminal.finish()
