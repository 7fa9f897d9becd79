"""The one error of the package."""

from __future__ import annotations


class NeurordlError(ValueError):
    """Input or state that the package cannot work with.

    The message names the thing, says what was expected and what came, and ends with the remedy. What raised
    it from below, where something did, is kept as ``__cause__``.
    """
