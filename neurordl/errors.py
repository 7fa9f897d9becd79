"""The one error of the package."""

from __future__ import annotations


class NeurordlError(ValueError):
    """Input or state that the package cannot work with.

    The message says what was expected, what was given, and what to do. An error that caused it is kept as
    ``__cause__``.
    """
