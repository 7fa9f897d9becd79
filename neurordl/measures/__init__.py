"""Measures: how dissimilar two patterns are, and how similar two RDMs are."""

from __future__ import annotations

from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import COMPARISONS, Comparison
from neurordl.measures.dissimilarities import DISSIMILARITIES, Dissimilarity

__all__ = ["Comparison", "Dissimilarity", "register"]

_PROVIDED = frozenset([*DISSIMILARITIES, *COMPARISONS])


def register(measure: Dissimilarity | Comparison) -> None:
    """Register a measure, so that its name (and the aliases of a dissimilarity in files) can be used.

    A measure that is registered again under the same name replaces the earlier one.

    Parameters
    ----------
    measure
        The dissimilarity or the comparison.

    Raises
    ------
    NeurordlError
        The object is not a measure, or its name or one of its aliases belongs to another measure.

    Examples
    --------
    >>> import torch
    >>> from rsatoolbox.data import Dataset
    >>> import neurordl as nrl
    >>> def maximum(patterns):
    ...     row, column = torch.triu_indices(patterns.shape[-2], patterns.shape[-2], offset=1)
    ...     return (patterns[..., row, :] - patterns[..., column, :]).abs().amax(-1)
    >>> nrl.register(nrl.Dissimilarity("maximum", maximum))
    >>> patterns = Dataset(torch.eye(3).numpy(), obs_descriptors={"stimulus": ["face", "house", "cat"]})
    >>> nrl.compute_rdms(patterns, "maximum").dissimilarities
    array([[1., 1., 1.]])
    """
    if isinstance(measure, Comparison):
        if measure.name in COMPARISONS and measure.name in _PROVIDED:
            raise NeurordlError(f"{measure.name!r} cannot be registered: it exists; choose another name")
        COMPARISONS[measure.name] = measure
        return
    if not isinstance(measure, Dissimilarity):
        raise NeurordlError(f"register takes a Dissimilarity or a Comparison, not {type(measure).__name__}")
    measure.check_name(replaced="" if measure.name in _PROVIDED else measure.name)
    DISSIMILARITIES[measure.name] = measure
