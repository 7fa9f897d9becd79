"""The one error of the package, and how the errors of others become it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class NeurordlError(ValueError):
    """Input or state that the package cannot work with.

    The message says what was expected, what was given, and what to do. An error that caused it is kept as
    ``__cause__``.
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
