"""The progress of long calls: a bar on a terminal or in a notebook, and few lines in a log."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

_OPEN: list[Progress] = []  # what a call within another call adds its line to
_PATIENCE = 2.0  # seconds until a notebook shows a bar: quick calls leave no output
_REFRESH = 0.2  # seconds between two states in a notebook
_LOG = 30.0  # seconds between two lines in a log, and at most ten lines for a call


@contextmanager
def progress_bar(
    description: str, total: int, progress: bool | None = None
) -> Iterator[Callable[[int], None]]:
    """Show a bar, which vanishes at the end, and give the function that advances it by a number of steps.

    Where standard error is neither a terminal nor a notebook, lines at least half a minute apart are written
    instead, ten at most.

    Parameters
    ----------
    description, total
        What is done, and the number of its steps.
    progress
        Whether to show it; by default on a terminal and in a notebook.
    """
    # rich takes a file for a terminal where FORCE_COLOR is set, as in many logs of tests
    terminal, notebook = getattr(sys.stderr, "isatty", bool)(), _in_notebook()
    if not (terminal or notebook if progress is None else progress):
        yield lambda steps: None
    elif notebook:
        with _Notebook.line(description, total) as advance:
            yield advance
    elif not terminal:
        yield _logged(description, total)
    else:
        with _rich_bar(description, total) as advance:
            yield advance


def announce(text: str) -> None:
    """Tell whoever waits, or reads a log, what takes long now."""
    if _in_notebook():
        _display({"text/plain": text})
    else:
        print(text, file=sys.stderr, flush=True)


def _display(content: Mapping[str, str]) -> Any:
    """Show something in a notebook, and return what changes it; an output is no error text."""
    from IPython.display import display

    show: Callable[..., Any] = display  # which has no types
    return show(content, raw=True, display_id=True)


@contextmanager
def _rich_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with ExitStack() as stack:
        if not _OPEN:
            console = Console(stderr=True)  # standard output is the caller's
            _OPEN.append(stack.enter_context(Progress(console=console, transient=True)))
            stack.callback(_OPEN.clear)
        bar = _OPEN[0]
        task = bar.add_task(description, total=total)
        stack.callback(bar.remove_task, task)
        yield lambda steps: bar.advance(task, steps)


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


@dataclass(eq=False)
class _Line:
    """How far a call is."""

    description: str
    total: int
    done: int = 0

    def __str__(self) -> str:
        return f"{self.description}: {self.done:,} of {self.total:,}"


class _Notebook:
    """The bars of a notebook's cell, in an output that is written anew."""

    lines: list[_Line] = []  # noqa: RUF012  # a call within another call adds its own
    output: Any = None
    due = 0.0

    @classmethod
    @contextmanager
    def line(cls, description: str, total: int) -> Iterator[Callable[[int], None]]:
        line = _Line(description, total)
        if not cls.lines:
            cls.due = time.monotonic() + _PATIENCE
        cls.lines.append(line)

        def advance(steps: int) -> None:
            line.done += steps
            if time.monotonic() >= cls.due:
                cls.show()

        try:
            yield advance
        finally:
            cls.lines.remove(line)
            if not cls.lines and cls.output is not None:
                cls.show()
                cls.output = None

    @classmethod
    def show(cls) -> None:
        bars = (
            f"<progress value={x.done} max={x.total}></progress> {html.escape(str(x))}" for x in cls.lines
        )
        content = {"text/plain": "\n".join(map(str, cls.lines)), "text/html": "<br>".join(bars)}
        if cls.output is None:
            cls.output = _display(content)
        else:
            cls.output.update(content, raw=True)
        cls.due = time.monotonic() + _REFRESH


def _logged(description: str, total: int) -> Callable[[int], None]:
    """Advance by lines on standard error."""
    line, start = _Line(description, total), time.monotonic()
    before, tenths = start, 0

    def advance(steps: int) -> None:
        nonlocal before, tenths
        line.done += steps
        now = time.monotonic()
        if 10 * line.done // total > tenths and now - before >= _LOG:
            print(f"{line} after {now - start:.0f} s", file=sys.stderr, flush=True)
            before, tenths = now, 10 * line.done // total

    return advance


def tracked(items: Sequence[T], description: str, progress: bool | None = None) -> Iterator[T]:
    """The items, with a `progress_bar` of those that are done."""
    with progress_bar(description, len(items), progress) as advance:
        for item in items:
            yield item
            advance(1)
