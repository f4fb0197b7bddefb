"""Screen: what a person sees, or with --json what a program reads. Progress and notes go to stderr, results to stdout."""

from __future__ import annotations

import json
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from staytrue.errors import StaytrueError

__all__ = ["COLOURS", "Bars", "Screen"]

COLOURS = {
    "promoted": "green",
    "deployed": "green",
    "reverted": "green",
    "undone": "yellow",
    "repaired": "green",
    "blamed": "magenta",
    "rejected": "yellow",
    "tried": "yellow",
    "rolled_back": "red",
    "alarm": "red",
    "quarantined": "red",
    "fetch_failed": "red",
    "train_failed": "red",
    "retrain": "cyan",
}
"""kind of event -> colour; the word is always there too."""


class Bars:
    """One bar for each thing under way."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def moved(self, name: str, done: int, total: int) -> None:
        """`name` has done so much of so much."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total)
        self._progress.update(self._tasks[name], completed=done, total=total)


class Screen:
    """Where a verb puts what it has to say."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        # Without a terminal a line must not be cut at 80 columns: the reader is a file or a pipe.
        wide = None if sys.stdout.isatty() else 160
        self.out = Console(highlight=False, emoji=False, width=wide)
        self.err = Console(stderr=True, highlight=False, emoji=False, width=wide)

    def say(self, text: str = "", *, style: str | None = None) -> None:
        """A line of the result, for a person."""
        if not self.as_json:
            self.out.print(text, style=style, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """A line that is no result: what goes on, what to do next."""
        self.err.print(text, style="dim", markup=False)

    def document(self, document: Any) -> None:
        """The result, for a program."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
            # `up` goes on for days after it; in a pipe or a file the document would wait for its end.
            sys.stdout.flush()

    def line(self, document: Any) -> None:
        """One of many results, for a program: a document on a line of its own."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")

    def flush(self) -> None:
        """Let go of what was said: in a pipe or a file it would wait for more."""
        sys.stdout.flush()

    def has_reader(self) -> bool:
        """Whether anybody can still read the results; True where that can't be known."""
        if not hasattr(select, "poll"):  # Windows
            return True
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return not poll.poll(0)  # asked for nothing, it tells of errors only: a pipe whose other end is closed

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
        """A table, for a person; the columns named in `right` are numbers."""
        if self.as_json:
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, justify="right" if column in right else "left", no_wrap=column in right)
        for row in rows:
            table.add_row(*(str(cell) for cell in row))
        self.out.print(table)

    def event(self, at: str, kind: str, sentence: str, *, who: str = "") -> None:
        """A line of a story."""
        if self.as_json:
            return
        named = kind.replace("_", " ")
        if not self.out.is_terminal:
            # One event, one line: so that a pipe can be searched.
            self.out.print(f"{at} {named:<11} {f'{who:<9} ' if who else ''}{sentence}", markup=False, soft_wrap=True)
            return
        table = Table.grid(padding=(0, 1))
        table.add_column(width=max(10, len(at)))
        table.add_column(width=11, style=COLOURS.get(kind, "default"))
        if who:
            table.add_column(width=9, style="dim")
        table.add_column(overflow="fold")
        cells = [at, named, *([who] if who else []), sentence]
        table.add_row(*cells)
        self.out.print(table)

    def error(self, exc: StaytrueError) -> None:
        """What went wrong, with its code."""
        self.document(exc.document())
        self.err.print(f"{exc.code} ", style="bold red", end="", markup=False)
        self.err.print(exc.message, markup=False)

    @contextmanager
    def busy(self, doing: str) -> Iterator[None]:
        """A sign of life while something of unknown length goes on."""
        if not self.err.is_terminal:
            yield
            return
        with self.err.status(doing):
            yield

    @contextmanager
    def bars(self) -> Iterator[Bars]:
        """Progress with an estimate of what is left, on stderr; silent when nobody looks."""
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=40),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.err, transient=True, disable=not self.err.is_terminal) as progress:
            yield Bars(progress)
