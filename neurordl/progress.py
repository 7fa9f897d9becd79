"""The progress bar of long calls, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

_OPEN: list[Progress] = []  # what a call within another call adds its line to


@contextmanager
def progress_bar(
    description: str, total: int, progress: bool | None = None
) -> Iterator[Callable[[int], None]]:
    """Show a bar, which vanishes at the end, and give the function that advances it by a number of steps.

    Parameters
    ----------
    description, total
        What is done, and the number of its steps.
    progress
        Whether to show the bar; by default if standard error is a terminal.
    """
    # rich takes a file for a terminal where FORCE_COLOR is set, as in many logs of tests
    if not (getattr(sys.stderr, "isatty", bool)() if progress is None else progress):
        yield lambda steps: None
        return
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


def tracked(items: Sequence[T], description: str, progress: bool | None = None) -> Iterator[T]:
    """The items, with a `progress_bar` of those that are done."""
    with progress_bar(description, len(items), progress) as advance:
        for item in items:
            yield item
            advance(1)
