"""Measures: how dissimilar two patterns are, and how similar two RDMs are."""

from __future__ import annotations

from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import COMPARISONS, Comparison
from neurordl.measures.dissimilarities import DISSIMILARITIES, Dissimilarity

__all__ = ["Comparison", "Dissimilarity", "register"]

_PROVIDED = frozenset([*DISSIMILARITIES, *COMPARISONS])


def register(measure: Dissimilarity | Comparison) -> None:
    """Make a measure known by its name, and a dissimilarity by its aliases in files too.

    Registering a measure of the same name again replaces the former one.

    Parameters
    ----------
    measure
        The dissimilarity or the comparison.

    Raises
    ------
    NeurordlError
        It is not a measure, or its name or one of its aliases is that of another measure.

    Examples
    --------
    >>> register(Dissimilarity("maximum", maximum))  # doctest: +SKIP
    >>> compute_rdms(patterns, "maximum")  # doctest: +SKIP
    """
    if isinstance(measure, Comparison):
        if measure.name in COMPARISONS and measure.name in _PROVIDED:
            raise NeurordlError(
                f"{measure.name!r} cannot be registered: it is a comparison already; choose another name"
            )
        COMPARISONS[measure.name] = measure
        return
    if not isinstance(measure, Dissimilarity):
        raise NeurordlError(
            f"register takes a Dissimilarity or a Comparison, and got {type(measure).__name__}"
        )
    measure.check_name(replaced="" if measure.name in _PROVIDED else measure.name)
    DISSIMILARITIES[measure.name] = measure
