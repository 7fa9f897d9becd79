"""The one error of the package, how the errors of others become it, and notices at the user's line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Notices of the innermost call that collects them, for each thread.
_COLLECTED: ContextVar[list[str] | None] = ContextVar("notices", default=None)
_SHOWN: ContextVar[bool] = ContextVar("shown", default=True)
_ONCE: ContextVar[set[str] | None] = ContextVar("once", default=None)  # notices that were given already

# Code on the way from the user's line to a notice; a call that goes through none of these is the user's.
_BETWEEN = {"neurordl", "torch", "lightning_fabric", *sys.stdlib_module_names} - {"__main__"}


class NeurordlError(ValueError):
    """Input or state that the package cannot work with.

    The message says what was expected, what was given, and what to do. An error that caused it is kept as
    ``__cause__``.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> rdms = nrl.simulate.simulate_subjects(np.eye(4), list("abcd"), n_subjects=2)
    >>> try:
    ...     nrl.select_rdms(rdms, subjects="s09")
    ... except nrl.NeurordlError as error:
    ...     print("s09" in str(error))
    True
    """


@contextmanager
def explain(
    problem: str, errors: type[Exception] | tuple[type[Exception], ...] = Exception, remedy: str = ""
) -> Iterator[None]:
    """Turn an error of another library, or of a user's code, into a `NeurordlError` that says what failed.

    Parameters
    ----------
    problem
        What cannot be done; the text of the error follows.
    errors
        Types of the errors to explain.
    remedy
        What helps.

    Examples
    --------
    >>> with explain("snr= is no number", ValueError, "give one"):
    ...     float("high")
    Traceback (most recent call last):
    ...
    neurordl.errors.NeurordlError: snr= is no number: could not convert string to float: 'high'; give one
    """
    try:
        yield
    except errors as error:
        reason = str(error) or repr(error)
        raise NeurordlError(f"{problem}: {reason}{'; ' if remedy else ''}{remedy}") from error


@contextmanager
def collect_notices(*, show: bool = True) -> Iterator[None]:
    """Collect notices while a function runs, for its record; they are given all the same, unless told not to.

    Without ``show``, the caller gives them later, such as once for many people.
    """
    outer, texts = _COLLECTED.get(), list[str]()
    token, shown = _COLLECTED.set(texts), _SHOWN.set(show and _SHOWN.get())
    try:
        yield
    finally:
        _COLLECTED.reset(token)
        _SHOWN.reset(shown)
        if outer is not None and show:
            outer.extend(texts)


@contextmanager
def each_notice_once() -> Iterator[None]:
    """Show each notice once while many runs have the same; all of them are collected for the records."""
    token = _ONCE.set(set())
    try:
        yield
    finally:
        _ONCE.reset(token)


def notices() -> list[str]:
    """The notices that the function which collects them has given so far, each once."""
    return list(dict.fromkeys(_COLLECTED.get() or ()))


def notify(text: str) -> None:
    """Give a notice, a UserWarning, at the line of the user's code that led to it."""
    if (texts := _COLLECTED.get()) is not None:
        texts.append(text)
    once = _ONCE.get()
    if not _SHOWN.get() or text in (once or ()):
        return
    if once is not None:
        once.add(text)
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, UserWarning, stacklevel=level)
